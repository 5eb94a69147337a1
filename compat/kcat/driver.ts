/** kcat: the steps of compat/driver.ts, each a process of its own. It has no admin calls; to ask for a topic's metadata makes it. */

import { type ChildProcess, spawn } from 'node:child_process'
import { createInterface } from 'node:readline'
import { setTimeout as sleep } from 'node:timers/promises'
import type { Codec, Driver } from '../driver.ts'
import type { Received, Sent } from '../records.ts'

const KEY_DELIMITER = '\t'
const COMMIT_MS = 100

/** What `kcat -J` prints for a record. */
interface Printed {
  readonly partition: number
  readonly offset: number
  readonly ts: number
  readonly headers?: readonly string[]
  readonly key: string | null
  readonly payload: string | null
}

interface Member {
  readonly process: ChildProcess
  readonly received: string[]
  assigned: number[]
}

export class KcatDriver implements Driver {
  readonly #address: string
  readonly #members = new Map<string, Member>()

  constructor(address: string) {
    this.#address = address
  }

  create(topic: string): Promise<unknown> {
    return this.#run(['-L', '-t', topic])
  }

  remove(): Promise<unknown> {
    throw new Error('kcat cannot delete topics')
  }

  async topics(): Promise<string[]> {
    const { topics } = JSON.parse(await this.#run(['-L', '-J'])) as { topics: { topic: string }[] }
    return topics.map(({ topic }) => topic)
  }

  groups(): Promise<string[]> {
    throw new Error('kcat cannot list groups')
  }

  async produce(topic: string, codec: Codec, records: readonly Sent[]): Promise<void> {
    for (const partition of new Set(records.map(record => record.partition))) {
      // Headers are flags, and so the same for all records of a run.
      let run: Sent[] = []
      const headersOf = (record: Sent) =>
        record.headers.flatMap(([name, value]) => ['-H', `${name}=${value}`])
      const flush = async () => {
        if (run.length === 0) return
        const flags = ['-P', '-t', topic, '-p', `${partition}`, '-z', codec, '-K', KEY_DELIMITER]
        const lines = run.map(({ key, value }) => `${key ?? ''}${KEY_DELIMITER}${value ?? ''}\n`)
        const limits = ['-X', 'message.max.bytes=5000000', '-X', 'acks=all', '-X', 'enable.idempotence=true']
        await this.#run([...flags, ...limits, ...headersOf(run[0])], lines.join(''))
        run = []
      }
      for (const record of records) {
        if (record.partition !== partition) continue
        if (run.length > 0 && `${headersOf(run[0])}` !== `${headersOf(record)}`) await flush()
        run.push(record)
      }
      await flush()
    }
  }

  async read(topic: string, partitions: number): Promise<Received[]> {
    const found: Received[] = []
    for (let partition = 0; partition < partitions; partition++) {
      const where = ['-t', topic, '-p', `${partition}`, '-o', 'beginning', '-e']
      found.push(...receivedOf(await this.#run(['-C', '-J', '-q', ...where])))
    }
    return found
  }

  async readAt(topic: string, partition: number, timestamp: number): Promise<Received> {
    const where = ['-t', topic, '-p', `${partition}`, '-o', `s@${timestamp}`, '-c', '1']
    return receivedOf(await this.#run(['-C', '-J', '-q', ...where]))[0]
  }

  async join(name: string, group: string, topic: string): Promise<void> {
    const settings = {
      'auto.offset.reset': 'earliest',
      'auto.commit.interval.ms': `${COMMIT_MS}`,
      'heartbeat.interval.ms': '300',
      'fetch.wait.max.ms': '100',
    }
    const flags = Object.entries(settings).flatMap(([key, value]) => ['-X', `${key}=${value}`])
    const child = spawn('kcat', ['-b', this.#address, ...flags, '-J', '-u', '-G', group, topic])
    const member: Member = { process: child, received: [], assigned: [] }
    this.#members.set(name, member)
    createInterface({ input: child.stdout }).on('line', line => {
      const { partition, offset } = JSON.parse(line) as Printed
      member.received.push(`${partition}:${offset}`)
    })
    createInterface({ input: child.stderr }).on('line', line => {
      const change = /rebalanced .*: (assigned|revoked): (.*)$/.exec(line)
      if (change === null) return
      const partitions = [...change[2].matchAll(/\[(\d+)\]/g)].map(match => Number(match[1]))
      member.assigned = change[1] === 'assigned' ? partitions : []
    })
  }

  async assigned(name: string): Promise<number[]> {
    return this.#members.get(name)!.assigned
  }

  async received(name: string): Promise<string[]> {
    return this.#members.get(name)!.received
  }

  /** It commits by itself, at short intervals. */
  async commit(): Promise<void> {
    await sleep(5 * COMMIT_MS)
  }

  async leave(name: string): Promise<void> {
    const { process: child } = this.#members.get(name)!
    this.#members.delete(name)
    const gone = new Promise(resolve => child.once('close', resolve))
    child.kill('SIGTERM')
    await gone
  }

  async close(): Promise<void> {
    for (const name of [...this.#members.keys()]) await this.leave(name)
  }

  /** Resolves with what it printed. Rejects with what it complained about. */
  #run(args: readonly string[], input = ''): Promise<string> {
    const child = spawn('kcat', ['-b', this.#address, ...args], { stdio: ['pipe', 'pipe', 'pipe'] })
    let output = ''
    let errors = ''
    child.stdout.setEncoding('utf8').on('data', text => {
      output += text
    })
    child.stderr.setEncoding('utf8').on('data', text => {
      errors += text
    })
    child.stdin.on('error', () => {})
    child.stdin.end(input)
    return new Promise((resolve, reject) => {
      child.once('error', reject)
      child.once('close', code => {
        if (code === 0) resolve(output)
        else reject(new Error(errors))
      })
    })
  }
}

function receivedOf(lines: string): Received[] {
  return lines
    .split('\n')
    .filter(line => line !== '')
    .map(line => {
      const { partition, offset, ts, key, payload, headers = [] } = JSON.parse(line) as Printed
      const pairs: [string, Buffer][] = []
      for (let at = 0; at < headers.length; at += 2) pairs.push([headers[at], Buffer.from(headers[at + 1])])
      const bytes = (text: string | null) => (text === null ? null : Buffer.from(text))
      return { partition, offset, key: bytes(key), value: bytes(payload), headers: pairs, timestamp: ts }
    })
}
