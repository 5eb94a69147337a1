/**
 * Checks of options: each returns the value, or throws INVALID_ARGUMENT with the option's name, what it may
 * be and what it was.
 */

import { SluiceError } from '../errors.ts'
import { type Duration, durationMs } from '../lib/duration.ts'
import { describe } from './codec.ts'

export function atLeast(name: string, value: number, least: number): number {
  if (typeof value === 'number' && value >= least) return value
  throw invalidOption(`${name} is a number from ${least} on, not ${shown(value)}`)
}

/** A whole number. */
export function within(name: string, value: number, least: number, most = Number.MAX_SAFE_INTEGER): number {
  if (Number.isSafeInteger(value) && value >= least && value <= most) return value
  const range = most === Number.MAX_SAFE_INTEGER ? `from ${least} on` : `from ${least} to ${most}`
  throw invalidOption(`${name} is a whole number ${range}, not ${shown(value)}`)
}

/** A length of time in milliseconds. */
export function msOf(name: string, value: Duration): number {
  const ms = durationMs(value)
  if (ms !== null) return ms
  throw invalidOption(
    `${name} is a number of milliseconds, or text like '250ms', '30s', '45m', '1.5h', '7d', not ${shown(value)}`,
  )
}

export function oneOf<T extends string>(name: string, value: T, allowed: readonly T[]): T {
  if (allowed.includes(value)) return value
  throw invalidOption(`${name} is one of ${allowed.join(', ')}, not ${shown(value)}`)
}

export const invalidOption = (message: string): SluiceError => new SluiceError('INVALID_ARGUMENT', message)

const shown = (value: unknown): string =>
  typeof value === 'number' || typeof value === 'string' ? JSON.stringify(value) : describe(value)
