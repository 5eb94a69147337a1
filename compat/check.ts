/**
 * What a check of a Kafka client is: a descriptor that `run.ts` finds in `compat/NAME/check.ts`, and the report that it fills,
 * one line per case. Owns nothing of any client.
 *
 * A case is `ok`, `failed`, or `not run` with a reason: what could not be tried never counts as passed.
 */

/** Exported as `check` by `compat/NAME/check.ts`. */
export interface Check {
  /** The folder's name: what `npm run compat -- NAME` is told. */
  readonly name: string
  /** What is checked, as users call it: `librdkafka (confluent-kafka for Python)`. */
  readonly client: string
  /** Flags for `sluice serve` beside the data directory and the ports. Default: topics are not made automatically. */
  readonly serverFlags?: readonly string[]
  /** True: no toolchain but npm is needed, so the check also runs within `npm test`. */
  readonly npmOnly?: boolean
  /**
   * Gets the client from its package registry into `dir`, an existing folder of this check's own in the cache, which may hold
   * what an earlier run left there. Resolves with the version of the client that will run. Throws `NotRunnable` if a
   * toolchain is missing.
   */
  install(dir: string): Promise<string>
  /** Runs the cases against the server at `address` (`127.0.0.1:19092`). What it throws is a failure of its own. */
  run(address: string, dir: string, report: Report): Promise<void>
}

/** Something on this machine is missing: `no go on the PATH`. */
export class NotRunnable extends Error {}

export type Outcome = 'ok' | 'failed' | 'not run'

export interface CaseResult {
  readonly outcome: Outcome
  /** One line: why it failed or was not run. */
  readonly why?: string
}

const CASE_MS_MAX = 120_000

/** The cases of one check, in their order. */
export class Report {
  readonly cases = new Map<string, CaseResult>()
  readonly #print: (line: string) => void
  readonly #name: string

  constructor(name: string, print: (line: string) => void = () => {}) {
    this.#name = name
    this.#print = print
  }

  /** Runs a case; what it throws is its failure. Never rejects. Resolves with whether it was ok. */
  async case(name: string, body: () => Promise<unknown>, msMax = CASE_MS_MAX): Promise<boolean> {
    const started = performance.now()
    try {
      await withDeadline(body(), msMax)
    } catch (error) {
      if (error instanceof NotRunnable) this.notRun(name, error.message)
      else this.failed(name, oneLine(error))
      return false
    }
    this.#add(name, { outcome: 'ok' }, ` (${Math.round(performance.now() - started)} ms)`)
    return true
  }

  failed(name: string, why: string): void {
    this.#add(name, { outcome: 'failed', why })
  }

  /** For what this server or this client does not have. */
  notRun(name: string, why: string): void {
    this.#add(name, { outcome: 'not run', why })
  }

  count(outcome: Outcome): number {
    return [...this.cases.values()].filter(result => result.outcome === outcome).length
  }

  #add(name: string, result: CaseResult, suffix = ''): void {
    if (this.cases.has(name)) throw new Error(`two cases are called ${name}`)
    this.cases.set(name, result)
    const word = result.outcome === 'failed' ? 'FAILED' : result.outcome
    const why = result.why === undefined ? '' : `: ${result.why}`
    this.#print(`${this.#name}  ${name}  ${word}${why}${suffix}`)
  }
}

async function withDeadline(running: Promise<unknown>, ms: number): Promise<void> {
  let timer: NodeJS.Timeout | undefined
  const late = new Promise<never>((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not finished after ${ms / 1000} s`)), ms)
  })
  try {
    await Promise.race([running, late])
  } finally {
    clearTimeout(timer)
  }
}

export function oneLine(error: unknown): string {
  const text = error instanceof Error ? error.message : String(error)
  return text.replace(/\s+/g, ' ').trim().slice(0, 500)
}
