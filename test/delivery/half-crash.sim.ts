/**
 * The process is killed again and again between preparing messages, its own local transactions, and the decisions. Each half message ends as its
 * local transaction says, by the process's own word or the checker's. SLUICE_CRASH_ROUNDS: how often; default 3.
 */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, onTestFinished, test } from 'vitest'
import { rawTopic } from '../../src/delivery/raw-topic.ts'
import type { Sluice } from '../../src/delivery/sluice.ts'
import { scanPartition } from '../../src/delivery/topic-scan.ts'
import { open } from '../../src/open.ts'
import { CHECKER, readRecords } from './half-victim.ts'
import { runAndKill } from './victim.ts'

const ROUNDS = Number(process.env.SLUICE_CRASH_ROUNDS ?? 3)
/** What is counted before the process is killed. */
const milestones = ['recorded', 'decided', 'asked', 'prepared'] as const
const SAMPLE = 30

/** What the processes have said so far. */
class Account {
  readonly ids = new Map<number, string>()
  readonly counts = { prepared: 0, recorded: 0, decided: 0, asked: 0 }

  note(line: string): void {
    const [what, number, id] = line.split(' ')
    this.counts[what as keyof typeof this.counts]++
    if (what === 'prepared') this.ids.set(Number(number), id)
  }
}

/** Runs until so many of one thing have been told, then kills. */
async function runUntilKilled(
  directory: string,
  file: string,
  round: number,
  account: Account,
): Promise<void> {
  const milestone = milestones[round % milestones.length]
  const goal = account.counts[milestone] + 5 + ((round * 337) % 400)
  await runAndKill('half-victim.ts', [directory, String(round * 1_000_000), file], line => {
    account.note(line)
    return account.counts[milestone] >= goal
  })
}

async function published(mq: Sluice): Promise<number[]> {
  const numbers: number[] = []
  for await (const batch of scanPartition(mq.engine, rawTopic('t'), { partition: 0 })) {
    for (const message of batch) numbers.push(Number(message.text()))
  }
  return numbers.toSorted((one, other) => one - other)
}

test(
  'each half message ends as its local transaction says, whenever the process is killed',
  async () => {
    const directory = mkdtempSync(join(tmpdir(), 'sluice-half-crash-'))
    onTestFinished(() => rmSync(directory, { recursive: true, force: true }))
    const queue = join(directory, 'queue')
    const file = join(directory, 'records')
    const account = new Account()
    const first = await open(queue)
    await first.createTopic('t')
    await first.relay() // makes its topics, which may take longer than a process lives here
    await first.close()
    for (let round = 0; round < ROUNDS; round++) await runUntilKilled(queue, file, round, account)
    expect(account.ids.size).toBeGreaterThan(5 * ROUNDS)

    const records = readRecords(file)
    const mq = await open(queue)
    onTestFinished(() => mq.close())
    const checker = mq.half.checker(CHECKER, ({ value }) => records.get(Number(value)) ?? 'rollback')
    const undecided = async () => (await mq.half.list({ limit: 100_000 })).length
    await expect.poll(undecided, { timeout: 120_000, interval: 50 }).toBe(0)
    const committed = [...records.keys()].filter(number => records.get(number) === 'commit')
    await expect
      .poll(async () => new Set(await published(mq)).size, { timeout: 120_000, interval: 50 })
      .toBeGreaterThanOrEqual(committed.length)
    await checker.stop()
    const ids = [...account.ids].filter((_, at) => at % Math.ceil(account.ids.size / SAMPLE) === 0)
    for (const [number, id] of ids) {
      await expect.poll(async () => (await mq.half.get(id)).state).toBe('done')
      expect((await mq.half.get(id)).decision).toBe(records.get(number) ?? 'rollback')
    }
    expect((await mq.delayed.list({ topic: 't' })).messages).toEqual([])
    expect(await mq.deadLetters('t', '_sluice.half').count()).toBe(0)
    expect(await published(mq)).toEqual(committed.toSorted((one, other) => one - other))
  },
  180_000 + ROUNDS * 40_000,
)
