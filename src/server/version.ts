/** The version of the package, read from where it is kept once: package.json, two folders up from here and from dist/. */

import { readFileSync } from 'node:fs'

const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string
}

export const version: string = manifest.version
