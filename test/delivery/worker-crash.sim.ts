/**
 * The process is killed again and again while messages are handled, fail, are tried again and die. Whenever that is, each message is unhandled,
 * in a retry, in the dead letters or done: one of them. SLUICE_CRASH_ROUNDS: how often; default 3.
 */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { groupLedger } from '../../src/delivery/group-ledger.ts'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { deadLetterTopic, retryTopic } from '../../src/delivery/system-headers.ts'
import { scanPartition } from '../../src/delivery/topic-scan.ts'
import { systemClock } from '../../src/lib/clock.ts'
import { open } from '../../src/open.ts'
import { runAndKill } from './victim.ts'
import { ATTEMPTS, failuresOf, work } from './worker-victim.ts'

const ROUNDS = Number(process.env.SLUICE_CRASH_ROUNDS ?? 3)
const orders = ['key', 'none', 'partition'] as const
/** What is counted before the process is killed. */
const milestones = ['accepted', 'handled', 'failed'] as const

/** What the processes have said so far. */
class Account {
  readonly accepted = new Set<number>()
  readonly handled = new Set<number>()
  readonly counts = { accepted: 0, handled: 0, failed: 0, dead: 0 }

  note(line: string): void {
    const [what, number] = line.split(' ')
    this.counts[what as keyof typeof this.counts]++
    if (what === 'accepted') this.accepted.add(Number(number))
    else if (what === 'handled') this.handled.add(Number(number))
  }
}

/** Runs until so many of `milestone` have been told, then kills. */
async function runUntilKilled(directory: string, round: number, account: Account): Promise<void> {
  const order = orders[round % orders.length]
  const milestone = milestones[(round + Math.floor(round / 3)) % milestones.length]
  // partitions that wait for their failures are slow
  const some = ((round * 337) % 600) / (order === 'partition' ? 6 : 1)
  const goal = account.counts[milestone] + 20 + some
  await runAndKill('worker-victim.ts', [directory, String(round * 1_000_000), order], line => {
    account.note(line)
    return account.counts[milestone] >= goal
  })
}

/** How often each message is in each place. */
class Census {
  readonly unfinished = new Map<number, number>()
  readonly retries = new Map<number, number>()
  readonly dead = new Map<number, number>()

  static async of(mq: Sluice): Promise<Census> {
    const census = new Census()
    await census.#countUnfinished(mq, 't', census.unfinished)
    await census.#countUnfinished(mq, retryTopic('t', 'g'), census.retries)
    for (let cursor: string | null | undefined; cursor !== null; ) {
      const page = await mq.delayed.list({ topic: retryTopic('t', 'g'), cursor, limit: 10_000 })
      for (const { value } of page.messages) add(census.retries, Number(value))
      cursor = page.cursor
    }
    const letters = deadLetterTopic('t', 'g')
    if ((await mq.topics()).includes(letters)) {
      for await (const batch of scanPartition(mq.engine, rawTopic(letters), { partition: 0 })) {
        for (const message of batch) add(census.dead, Number(message.text()))
      }
    }
    return census
  }

  placesOf(number: number): number {
    const counts = [this.unfinished, this.retries, this.dead].map(place => place.get(number) ?? 0)
    return counts.reduce((sum, count) => sum + count, 0)
  }

  async #countUnfinished(mq: Sluice, topic: string, counts: Map<number, number>): Promise<void> {
    if (!(await mq.topics()).includes(topic)) return
    for (const { partition } of (await mq.describeTopic(topic)).partitions) {
      const ledger = await groupLedger(mq.engine, systemClock, 'g', { topic, partition })
      for await (const batch of scanPartition(mq.engine, rawTopic(topic), { partition })) {
        for (const message of batch) {
          const isFinished =
            ledger !== null && message.offset < ledger.next && !ledger.isUnfinished(message.offset)
          if (!isFinished) add(counts, Number(message.text()))
        }
      }
    }
  }
}

const add = (counts: Map<number, number>, number: number): void =>
  void counts.set(number, (counts.get(number) ?? 0) + 1)

/** What is in no place was handled; what is in one is in no other. */
function check(census: Census, { accepted, handled }: Account): void {
  const all = [...accepted]
  expect(all.filter(number => census.placesOf(number) > 1)).toEqual([])
  expect(all.filter(number => census.placesOf(number) === 0 && !handled.has(number))).toEqual([])
  expect([...census.dead.keys()].filter(number => failuresOf(number) < ATTEMPTS)).toEqual([])
}

test(
  'no message vanishes, and none is in two places, whenever the process is killed',
  async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sluice-worker-crash-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const account = new Account()
    const first = await open(directory)
    await first.createTopic('t', { partitions: 3 })
    await first.relay() // makes its topics, which may take longer than a process lives here
    await first.close()
    let seen = 0
    for (let round = 0; round < ROUNDS; round++) {
      await runUntilKilled(directory, round, account)
      const mq = await open({ url: directory, relay: false })
      try {
        // what was being decided is not, as for those who come next
        for (const transactionalId of ['_sluice.worker.g', '_sluice.relay']) {
          await mq.transaction(() => {}, { transactionalId })
        }
        const census = await Census.of(mq)
        check(census, account)
        seen += census.retries.size
      } finally {
        await mq.close()
      }
    }
    expect(account.accepted.size).toBeGreaterThan(20 * ROUNDS)
    expect(account.counts.failed).toBeGreaterThan(ROUNDS)
    if (ROUNDS >= 3) expect(seen).toBeGreaterThan(0)

    const mq = await open(directory)
    onTestFinished(() => mq.close())
    const worker = work(mq, 'key', line => account.note(line))
    const dying = [...account.accepted].filter(number => failuresOf(number) >= ATTEMPTS)
    const others = [...account.accepted].filter(number => failuresOf(number) < ATTEMPTS)
    const missing = () => others.filter(number => !account.handled.has(number))
    await expect.poll(missing, { timeout: 120_000, interval: 50 }).toEqual([])
    const unhandled = async () => {
      const { unfinished, retries } = await Census.of(mq)
      return unfinished.size + retries.size
    }
    await expect.poll(unhandled, { timeout: 120_000, interval: 200 }).toBe(0)
    await worker.stop()
    const census = await Census.of(mq)
    check(census, account)
    expect(dying.filter(number => census.dead.get(number) !== 1)).toEqual([])
    for (const letter of (await mq.deadLetters('t', 'g').list({ limit: 100_000 })).letters) {
      expect(letter).toMatchObject({ topic: 't', group: 'g', attempts: ATTEMPTS, reason: 'attempts' })
    }
  },
  180_000 + ROUNDS * 40_000,
)
