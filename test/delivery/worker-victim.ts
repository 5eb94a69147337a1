/**
 * A process that publishes messages and handles them until it is killed; some fail some times, some always. Arguments: the directory, the number
 * of the first message, the order. A message says how often it fails. Writes what happened, a line each:
 *
 *     accepted 17      ← it is stored
 *     failed 17        ← its handler has thrown
 *     handled 17       ← its handler is about to return
 *     dead 17          ← it is a dead letter
 */

import { writeSync } from 'node:fs'
import type { Sluice } from '../../src/delivery/sluice.ts'
import type { Worker } from '../../src/delivery/worker.ts'
import type { WorkerOptions } from '../../src/delivery/worker-options.ts'
import { open } from '../../src/open.ts'

export const ATTEMPTS = 4
const UNSETTLED_MAX = 300

/** How often the handler of each message throws. */
const failures = [0, 1, 0, 2, 0, 99, 0, 0]
export const failuresOf = (number: number): number => failures[number % failures.length]

/** The worker that all of them run, and whoever finishes their work. */
export function work(mq: Sluice, order: WorkerOptions['order'], tell: (line: string) => void): Worker {
  const retry = { delays: [20, 40, 200], attempts: ATTEMPTS }
  const worker = mq.worker('t', { group: 'g', order, retry, concurrency: 50 }, async (message, job) => {
    const number = Number(message.text())
    if (number % 3 === 0) await new Promise(resolve => setTimeout(resolve, 5))
    if (job.attempt <= failuresOf(number)) throw new Error(`attempt ${job.attempt} of ${number}`)
    tell(`handled ${number}`)
  })
  worker.on('failed', message => tell(`failed ${message.text()}`))
  worker.on('deadLettered', message => tell(`dead ${message.text()}`))
  return worker as unknown as Worker
}

async function live(directory: string, first: number, order: WorkerOptions['order']): Promise<void> {
  const mq = await open(directory)
  const unsettled = new Set<number>()
  const tell = (line: string): void => {
    writeSync(1, `${line}\n`)
    const [what, number] = line.split(' ')
    if (what === 'handled' || what === 'dead') unsettled.delete(Number(number))
  }
  work(mq, order, tell)
  for (let number = first; ; number++) {
    unsettled.add(number)
    mq.publish('t', { key: String(number % 37), value: String(number) }).then(
      () => tell(`accepted ${number}`),
      error => writeSync(2, `${error}\n`),
    )
    const isFull = () => unsettled.size >= UNSETTLED_MAX
    do if (isFull() || number % 4 === 0) await new Promise(resolve => setTimeout(resolve, 1))
    while (isFull())
  }
}

const [, script, directory, first, order] = process.argv
if (script === import.meta.filename) await live(directory, Number(first), order as WorkerOptions['order'])
