/**
 * The real input of the job tests: Debian's package lists as this machine has them. Where there are none (another system, or
 * `apt-get update` was never run) a list of the same shape is made up, always the same, and says that it is.
 */

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { Random } from '../sim/random.ts'

export interface PackageList {
  readonly text: string
  /** For titles: what it is. */
  readonly source: string
}

/** Fewer is what a machine without lists has: the packages that are installed on it. */
const REAL_RECORDS_MIN = 10_000
const GENERATED_RECORDS = 30_000
const TEXT_BYTES_MAX = 512 * 1024 * 1024

export async function packageList(): Promise<PackageList> {
  const text = await promisify(execFile)('apt-cache', ['dumpavail'], { maxBuffer: TEXT_BYTES_MAX }).then(
    ({ stdout }) => stdout,
    () => '', // no apt-cache here
  )
  const count = text.match(/^Package: /gm)?.length ?? 0
  if (count >= REAL_RECORDS_MIN) return { text, source: `${count} records of apt-cache dumpavail` }
  return {
    text: generatedList(GENERATED_RECORDS),
    source: `${GENERATED_RECORDS} generated records, for lack of package lists: apt-get update gets them`,
  }
}

/** In the format of Debian's control files, with fields of several lines, text beyond ASCII and names that repeat. */
export function generatedList(count: number): string {
  const random = new Random(1)
  const words = 'library tool daemon für data plugin 日本語 documentation common “modern” headers'.split(' ')
  const some = (least: number, most: number) => random.between(least, most)
  const text = (length: number) => Array.from({ length }, () => words[some(0, words.length - 1)]).join(' ')
  const records = Array.from({ length: count }, (_, number) => {
    const name = `package-${some(0, count - 1)}`
    const depends = Array.from(
      { length: some(0, 40) },
      () => `package-${some(0, count - 1)} (>= ${some(0, 9)})`,
    )
    const tags = Array.from({ length: some(1, 6) }, () => `role::${words[some(0, 2)]}`)
    return [
      `Package: ${name}`,
      `Version: ${number}-${some(1, 9)}`,
      `Maintainer: Jörg ${text(1)} <${number}@example.org>`,
      `Depends: ${depends.join(', ')}`,
      `Description: ${text(some(3, 8))}`,
      ...Array.from({ length: some(0, 5) }, () => ` ${text(some(5, 12))}`),
      `Tag: ${tags.join(',\n ')}`,
      `Filename: pool/main/${name}_${number}.deb`,
    ].join('\n')
  })
  return `${records.join('\n\n')}\n\n`
}
