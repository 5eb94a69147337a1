/**
 * A process that prepares messages, does something of its own and decides about them until it is killed. Arguments: the directory of the queue, the
 * number of the first message, the file of its own records: `17 commit` or `17 rollback`, a line each, is what became of the local transaction.
 * Writes what happened, a line each:
 *
 *     prepared 17 2-5-0123456789abcdef      ← it is stored, under this id
 *     recorded 17                           ← its local transaction has ended
 *     decided 17                            ← its commit or rollback was accepted
 *     asked 17                              ← the checker was asked about it
 */

import { appendFileSync, existsSync, readFileSync, writeSync } from 'node:fs'
import type { HalfAnswer } from '../../src/delivery/half-checker.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { open } from '../../src/open.ts'

export const CHECKER = 'c'
/** So often that none expires. */
const policy = { checker: CHECKER, firstCheckMs: 100, checkEveryMs: 250, checksMax: 1_000_000 }
const UNENDED_MAX = 200

/**
 * What each process means to do with a message: `silent`: it leaves the decision to the checker; `nothing`: its local transaction does not come
 * about, and it says nothing.
 */
const plans = ['commit', 'rollback', 'silent commit', 'commit', 'silent rollback', 'nothing'] as const

/** What the local transactions say. A last line that is not whole was not written. */
export function readRecords(file: string): Map<number, 'commit' | 'rollback'> {
  const records = new Map<number, 'commit' | 'rollback'>()
  if (!existsSync(file)) return records
  for (const line of readFileSync(file, 'latin1').split('\n').slice(0, -1)) {
    const [number, outcome] = line.split(' ')
    records.set(Number(number), outcome as 'commit' | 'rollback')
  }
  return records
}

class Participant {
  readonly #mq: Sluice
  readonly #file: string
  readonly #records: Map<number, 'commit' | 'rollback'>
  /** Local transactions that may still come about. */
  readonly #open = new Set<number>()

  constructor(mq: Sluice, file: string) {
    this.#mq = mq
    this.#file = file
    this.#records = readRecords(file)
    mq.half.checker(CHECKER, message => this.#answer(Number(message.value)))
  }

  get unended(): number {
    return this.#open.size
  }

  async run(number: number): Promise<void> {
    this.#open.add(number)
    const plan = plans[number % plans.length]
    const delay = number % 7 === 0 ? 50 : undefined
    const half = await this.#mq.half.prepare('t', { value: String(number), delay }, policy)
    tell(`prepared ${number} ${half.id}`)
    // some are asked about before they have ended
    if (number % 10 === 0) await new Promise(resolve => setTimeout(resolve, 150))
    const outcome = plan.split(' ').at(-1)
    if (outcome === 'commit' || outcome === 'rollback') {
      appendFileSync(this.#file, `${number} ${outcome}\n`)
      this.#records.set(number, outcome)
      tell(`recorded ${number}`)
    }
    this.#open.delete(number)
    if (plan === 'commit') await half.commit()
    else if (plan === 'rollback') await half.rollback()
    else return
    tell(`decided ${number}`)
  }

  /** Whose process is gone without a record will never have one. */
  #answer(number: number): HalfAnswer {
    tell(`asked ${number}`)
    return this.#records.get(number) ?? (this.#open.has(number) ? 'unknown' : 'rollback')
  }
}

const tell = (line: string): void => void writeSync(1, `${line}\n`)

async function live(directory: string, first: number, file: string): Promise<void> {
  const participant = new Participant(await open(directory), file)
  for (let number = first; ; number++) {
    participant.run(number).catch(error => writeSync(2, `${number}: ${error}\n`))
    const isFull = () => participant.unended >= UNENDED_MAX
    do if (isFull() || number % 2 === 0) await new Promise(resolve => setTimeout(resolve, 1))
    while (isFull())
  }
}

const [, script, directory, first, file] = process.argv
if (script === import.meta.filename) await live(directory, Number(first), file)
