/**
 * Splits a stream into lines, as bytes: nothing is decoded, so what is not UTF-8 passes unharmed. A line ends at `\n`;
 * the last one may end with the stream. Memory is bounded by the longest line allowed.
 */

import type { Readable } from 'node:stream'

export interface Line {
  /** Counted from 1 within its input. */
  readonly number: number
  /** Without the `\n`; null if the line is longer than allowed: it was passed over. */
  readonly bytes: Buffer | null
}

const NEWLINE = 0x0a

/** Yields the lines of each chunk together. `onBytes` is told how far reading has come. */
export async function* readLines(
  input: Readable,
  lineBytesMax: number,
  onBytes: (bytes: number) => void = () => {},
): AsyncGenerator<Line[]> {
  let number = 0
  let parts: Buffer[] = []
  let partsBytes = 0
  let isTooLong = false
  const endLine = (tail: Buffer): Line => {
    const whole = parts.length === 0 ? tail : Buffer.concat([...parts, tail])
    const line = { number: ++number, bytes: isTooLong || whole.length > lineBytesMax ? null : whole }
    parts = []
    partsBytes = 0
    isTooLong = false
    return line
  }
  for await (const chunk of input as AsyncIterable<Buffer | string>) {
    const bytes = typeof chunk === 'string' ? Buffer.from(chunk) : chunk
    onBytes(bytes.length)
    const lines: Line[] = []
    let start = 0
    for (let end: number; (end = bytes.indexOf(NEWLINE, start)) >= 0; start = end + 1) {
      lines.push(endLine(bytes.subarray(start, end)))
    }
    const rest = bytes.subarray(start)
    partsBytes += rest.length
    if (isTooLong || partsBytes > lineBytesMax) {
      isTooLong = true
      parts = []
    } else if (rest.length > 0) parts.push(rest)
    if (lines.length > 0) yield lines
  }
  if (partsBytes > 0) yield [endLine(Buffer.alloc(0))]
}
