/** Pages that are written from tables in the source are in step with them. */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import { expect, it } from 'vitest'
import { pages } from '../../scripts/docs.ts'

it.each(Object.entries(pages))('%s is what npm run docs writes', (path, page) => {
  expect(readFileSync(join(import.meta.dirname, '../..', path), 'utf8')).toBe(page())
})
