/** Lengths of time as people write them: 250 (milliseconds), '250ms', '30s', '45m', '1.5h', '7d'. */

/** Milliseconds, or text. */
export type Duration = number | string

const unitMs: Readonly<Record<string, number>> = {
  ms: 1,
  s: 1_000,
  m: 60_000,
  h: 3_600_000,
  d: 86_400_000,
}

const DURATION = /^(\d+(?:\.\d+)?) ?(ms|s|m|h|d)$/

/** Whole milliseconds, rounded up; null if it is no length of time: negative, not finite, without a unit or with one that is not known. */
export function durationMs(value: Duration): number | null {
  let ms = Number.NaN
  if (typeof value === 'number') ms = value
  else if (typeof value === 'string') {
    const match = DURATION.exec(value.trim())
    // rounded to a millionth first: 1.1 times 1000 is a little more than 1100
    if (match !== null) ms = Number((Number(match[1]) * unitMs[match[2]]).toFixed(6))
  }
  const whole = Math.ceil(ms)
  return whole >= 0 && Number.isSafeInteger(whole) ? whole : null
}
