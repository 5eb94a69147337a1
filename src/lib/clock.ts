/**
 * The clock seam: everything in the house that waits or tells time does it through a `Clock`, so that a test or a
 * simulation can own time. `systemClock` is the real one; test/ has a virtual one.
 */

export interface Timer {
  cancel(): void
}

export interface Clock {
  /** Milliseconds since the Unix epoch, integral. May jump; for timestamps that people see. */
  now(): number
  /** Milliseconds since some start, never going back, with fractions; for measuring durations and deadlines. */
  monotonic(): number
  /** Calls `run` once, after at least `delayMs`. A pending timer does not keep the process alive. */
  after(delayMs: number, run: () => void): Timer
  /** Calls `run` once, after the promise jobs that are ready now have run, and before any timer. */
  defer(run: () => void): void
}

/** Longest delay that setTimeout takes; longer ones would fire at once. */
const DELAY_MS_MAX = 2 ** 31 - 1

export const systemClock: Clock = {
  now: () => Date.now(),
  monotonic: () => performance.now(),
  after(delayMs, run) {
    if (delayMs > DELAY_MS_MAX) {
      let timer = systemClock.after(DELAY_MS_MAX, () => {
        timer = systemClock.after(delayMs - DELAY_MS_MAX, run)
      })
      return { cancel: () => timer.cancel() }
    }
    const handle = setTimeout(run, delayMs)
    handle.unref()
    return { cancel: () => clearTimeout(handle) }
  },
  defer(run) {
    setImmediate(run)
  },
}
