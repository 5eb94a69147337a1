/**
 * Bad input through the public surface, the API and the command line: each kind has its own documented error, and loses
 * nothing of what was there before.
 */

import { type ChildProcess, execFileSync } from 'node:child_process'
import {
  cpSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest'
import { Sluice } from '../../src/delivery/sluice.ts'
import { openLocalEngine } from '../../src/engine/local.ts'
import { errorTable } from '../../src/errors.ts'
import { isSluiceError, type OpenOptions, open, PublishError, SluiceError } from '../../src/index.ts'
import { type Disk, DiskError } from '../../src/lib/disk.ts'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { finished, output, run, start } from '../cli/running-cli.ts'
import { fillDisk } from './full-disk.ts'

const scratch = mkdtempSync(join(tmpdir(), 'sluice-bad-'))
const children: ChildProcess[] = []
afterAll(() => {
  for (const child of children) child.kill('SIGKILL') // left by a test that has failed
  rmSync(scratch, { recursive: true })
})

let count = 0
const newPath = () => join(scratch, String(count++))

function startCommand(args: readonly string[]): ChildProcess {
  const child = start(args)
  children.push(child)
  return child
}

/** The error that a promise rejects with; it is one of ours, in one line, and stands in the table. */
async function refusal(promise: Promise<unknown>): Promise<SluiceError> {
  const error = await promise.then(
    () => expect.unreachable('it was not refused'),
    (reason: unknown) => reason,
  )
  expect(error).toBeInstanceOf(SluiceError)
  const { code, message } = error as SluiceError
  expect(Object.keys(errorTable)).toContain(code)
  expect(message).toMatch(/^\S.{10,}$/)
  return error as SluiceError
}

/** Every message of partition 0 that can be read, and what was met in between. */
async function readAll(mq: Sluice, topic: string): Promise<{ offsets: number[]; refusals: SluiceError[] }> {
  const { startOffset, endOffset } = (await mq.describeTopic(topic)).partitions[0]
  const offsets: number[] = []
  const refusals: SluiceError[] = []
  for (let from = startOffset; from < endOffset; ) {
    try {
      for await (const message of mq.consumer({ topics: [topic], partitions: [0], from })) {
        offsets.push(message.offset)
        from = message.offset + 1
        if (from === endOffset) break
      }
    } catch (error) {
      if (!isSluiceError(error)) throw error
      refusals.push(error)
      from = error.detail.resumeOffset as number
      expect(from).toBeGreaterThan(offsets.at(-1) ?? -1)
    }
  }
  return { offsets, refusals }
}

const range = (from: number, end: number) => Array.from({ length: end - from }, (_, index) => from + index)

describe('files that were damaged while nobody had the directory open', () => {
  const COUNT = 100
  const intact = join(scratch, 'intact')
  let path: string
  const partition = () => join(path, 'topics/t-0')
  /** Base offsets of the segments. */
  let bases: number[]

  beforeAll(async () => {
    const mq = await open({ url: intact, flush: 'os' })
    await mq.createTopic('t', { config: { 'segment.bytes': 4096 } })
    // one by one: a batch each
    for (let offset = 0; offset < COUNT; offset++) {
      await mq.publish('t', { key: `key ${offset % 7}`, value: `message ${offset} ${'.'.repeat(50)}` })
    }
    await mq.commitOffsets('g', [{ topic: 't', partition: 0, offset: 42 }])
    await mq.close()
    bases = readdirSync(join(intact, 'topics/t-0'))
      .filter(name => name.endsWith('.log'))
      .map(name => Number(name.slice(0, 20)))
    expect(bases.length).toBeGreaterThan(3)
  })

  beforeEach(() => {
    path = newPath()
    cpSync(intact, path, { recursive: true })
  })

  const segment = (index: number) => {
    const base = bases.at(index)!
    return join(partition(), `${String(base).padStart(20, '0')}.log`)
  }
  const flip = (file: string, position: number) => {
    const bytes = readFileSync(file)
    bytes[position] ^= 0x40
    writeFileSync(file, bytes)
  }
  const filesOf = (pattern: RegExp) =>
    readdirSync(partition())
      .filter(name => pattern.test(name))
      .map(name => join(partition(), name))

  interface Damage {
    readonly name: string
    readonly make: () => void
    /** Messages that are gone: from, to (exclusive). */
    readonly lost: () => readonly [from: number, end: number]
    /** What `onReport` is told, if anything, when the directory is opened. */
    readonly reported?: string
    /** The file that the error and `sluice verify` name. */
    readonly file: () => string
  }

  const indexOf = (position: number) => Math.floor(position / 131) // all batches are 130 or 131 bytes long
  const damages: Damage[] = [
    {
      name: 'a flipped bit in an old segment',
      make: () => flip(segment(0), 1_000),
      lost: () => [indexOf(1_000), indexOf(1_000) + 1],
      file: () => segment(0),
    },
    {
      name: 'a flipped bit in the newest segment',
      make: () => flip(segment(-1), 300),
      lost: () => [bases.at(-1)! + 2, bases.at(-1)! + 3],
      file: () => segment(-1),
    },
    {
      name: 'a flipped bit in the offset of a batch',
      make: () => flip(segment(1), 3),
      lost: () => [bases[1], bases[1] + 1],
      file: () => segment(1),
    },
    {
      name: 'an old segment that was truncated',
      make: () => truncateSync(segment(0), 1_000),
      lost: () => [indexOf(1_000), bases[1]],
      file: () => segment(0),
    },
    {
      name: 'the newest segment truncated',
      make: () => truncateSync(segment(-1), 300),
      lost: () => [bases.at(-1)! + 2, COUNT],
      reported: 'short-file',
      file: () => segment(-1),
    },
    {
      name: 'the first segment gone',
      make: () => rmSync(segment(0)),
      lost: () => [0, bases[1]],
      file: () => segment(1),
    },
    {
      name: 'the newest segment gone',
      make: () => rmSync(segment(-1)),
      lost: () => [bases.at(-1)!, COUNT],
      reported: 'short-file',
      file: () => segment(-2),
    },
    {
      name: 'a foreign file in the place of a segment',
      make: () => writeFileSync(segment(1), 'Dear diary, this is not a log.\n'.repeat(200)),
      lost: () => [bases[1], bases[2]],
      file: () => segment(1),
    },
  ]

  test.each(damages)(
    '$name: all else is read, the loss is named, and offsets go on behind it',
    async damage => {
      const [from, end] = damage.lost()
      damage.make()
      const verified = await run(['verify', path])
      expect(verified).toMatchObject({ code: 1, stderr: expect.stringContaining('DAMAGED') })
      expect(verified.stdout).toContain(partition())

      const reports: string[] = []
      const mq = await open({ url: path, onReport: report => reports.push(report.case) })
      expect(reports).toEqual(damage.reported === undefined ? [] : [damage.reported])
      const before = await readAll(mq, 't')
      expect(before.offsets).toEqual([...range(0, from), ...range(end, COUNT)])
      expect(before.refusals).toMatchObject([
        { code: 'CORRUPT_LOG', detail: { file: damage.file(), offset: from, resumeOffset: end } },
      ])
      expect(await mq.publish('t', { value: 'new' })).toMatchObject({ offset: COUNT })
      expect(await mq.engine.committed('g')).toMatchObject([{ offset: 42 }])
      await mq.close()

      // and so it stays
      const again = await open(path)
      const after = await readAll(again, 't')
      expect(after.offsets).toEqual([...before.offsets, COUNT])
      expect(after.refusals).toMatchObject([
        { code: 'CORRUPT_LOG', detail: { offset: from, resumeOffset: end } },
      ])
      await again.close()
    },
  )

  test.each([
    [
      'garbage in the indexes',
      () => {
        for (const file of filesOf(/index$/)) writeFileSync(file, Buffer.alloc(96, 7))
      },
    ],
    [
      'no indexes',
      () => {
        for (const file of filesOf(/index$/)) rmSync(file)
      },
    ],
    ['a damaged checkpoint', () => writeFileSync(join(partition(), 'checkpoint'), 'nonsense')],
    ['no checkpoint', () => rmSync(join(partition(), 'checkpoint'))],
    [
      'foreign files and folders beside the segments',
      () => {
        writeFileSync(join(partition(), 'notes.txt'), 'remember the milk')
        mkdirSync(join(partition(), 'folder'))
        writeFileSync(join(path, 'topics/.DS_Store'), 'x')
      },
    ],
  ])('%s: every message is read', async (_, make) => {
    make()
    const foreign = filesOf(/notes|folder/)
    const mq = await open(path)
    expect(await readAll(mq, 't')).toEqual({ offsets: range(0, COUNT), refusals: [] })
    const time = (await mq.offsetFor('t', 0, { time: 0 })) as number
    expect(time).toBe(0)
    expect(await mq.publish('t', { value: 'new' })).toMatchObject({ offset: COUNT })
    await mq.close()
    expect(filesOf(/notes|folder/)).toEqual(foreign)
  })

  test('a group meets damage: what is before it was handled and committed, and it can be sought past', async () => {
    flip(segment(0), 1_000)
    const lost = indexOf(1_000)
    await using mq = await open(path)
    const handled: number[] = []
    const consumer = mq.consumer({ topics: ['t'], group: 'h' })
    const failure = await refusal(consumer.run(message => handled.push(message.offset)))
    expect(failure.code).toBe('CORRUPT_LOG')
    expect(handled).toEqual(range(0, lost))
    expect(await mq.engine.committed('h')).toMatchObject([{ offset: lost }])

    await consumer.seek({ topic: 't', partition: 0, offset: failure.detail.resumeOffset as number })
    const all = Promise.withResolvers<void>()
    const running = consumer.run(message => {
      if (handled.push(message.offset) === COUNT - 1) all.resolve()
    })
    await all.promise
    await consumer.stop()
    await running
    expect(handled).toEqual([...range(0, lost), ...range(lost + 1, COUNT)])
  })

  test.each([
    ['the catalog is damaged', () => flip(join(path, 'topics/__catalog-0/00000000000000000000.log'), 100)],
    ['the catalog is gone', () => rmSync(join(path, 'topics/__catalog-0'), { recursive: true })],
    [
      'the commits are damaged',
      () => flip(join(path, 'topics/__consumer_offsets-0/00000000000000000000.log'), 80),
    ],
  ])('%s: the directory is refused, and left as it is', async (_, make) => {
    make()
    expect(await refusal(open(path))).toMatchObject({ code: 'CORRUPT_LOG' })
    // put back what was damaged: nothing else has suffered
    for (const name of ['__catalog-0', '__consumer_offsets-0']) {
      cpSync(join(intact, 'topics', name), join(path, 'topics', name), { recursive: true })
    }
    const mq = await open(path)
    expect((await readAll(mq, 't')).offsets).toEqual(range(0, COUNT))
    expect(await mq.engine.committed('g')).toMatchObject([{ offset: 42 }])
    await mq.close()
  })

  test('the folder of a partition is gone: people hear of it', async () => {
    rmSync(partition(), { recursive: true })
    const { stderr, code } = await run(['topic', 'list', '--url', path])
    expect({ code, stderr }).toEqual({ code: 0, stderr: expect.stringMatching(/recovery: .*t-0 is gone/) })
  })

  test.each([
    ['is not JSON', '{ "format": 1'],
    ['is of a newer format', '{ "format": 2, "id": "x" }'],
    ['has no id', '{ "format": 1 }'],
  ])('a marker that %s: NOT_A_DATA_DIRECTORY', async (_, text) => {
    writeFileSync(join(path, 'sluice.json'), text)
    expect(await refusal(open(path))).toMatchObject({ code: 'NOT_A_DATA_DIRECTORY' })
    expect(readFileSync(join(path, 'sluice.json'), 'utf8')).toBe(text)
  })
})

describe('directories and files that are not ours', () => {
  test('a directory with other things in it is refused and left alone', async () => {
    const path = newPath()
    mkdirSync(path)
    writeFileSync(join(path, 'thesis.tex'), 'Introduction')
    expect(await refusal(open(path))).toMatchObject({
      code: 'NOT_A_DATA_DIRECTORY',
      detail: { directory: path, files: ['thesis.tex'] },
    })
    const { code, stderr } = await run(['produce', 't', '--url', path], { stdin: 'x\n' })
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^sluice: NOT_A_DATA_DIRECTORY: .*\n$/),
    })
    expect(readdirSync(path)).toEqual(['thesis.tex'])
  })

  test('a file in the place of the directory, or of a part of it, is refused', async () => {
    const path = newPath()
    writeFileSync(path, 'hello')
    expect(await refusal(open(path))).toMatchObject({ code: 'NOT_A_DATA_DIRECTORY' })
    const other = newPath()
    await (await open(other)).close()
    rmSync(join(other, 'topics'), { recursive: true })
    writeFileSync(join(other, 'topics'), 'hello')
    expect(await refusal(open(other))).toMatchObject({ code: 'STORAGE_FAILED' })
    expect(readFileSync(path, 'utf8')).toBe('hello')
  })

  test.each([
    ['00000000000000000000.log', 'hello, this is a text\n'.repeat(20)],
    ['orders.txt', 'hello'],
  ])('sluice dump %s: FOREIGN_FILE', async (name, text) => {
    const path = newPath()
    mkdirSync(path)
    writeFileSync(join(path, name), text)
    const { code, stderr } = await run(['dump', join(path, name)])
    expect({ code, stderr }).toEqual({
      code: 1,
      stderr: expect.stringMatching(/^sluice: FOREIGN_FILE: .*\n$/),
    })
  })

  test.each([
    ['', 'INVALID_URL'],
    ['http://localhost:8080', 'INVALID_URL'],
    ['kafka://localhost:9092?tls=1', 'INVALID_URL'],
  ])('the address %j: %s', async (url, code) => {
    expect(await refusal(open(url))).toMatchObject({ code })
  })
})

describe('a second process on the same directory', () => {
  test('is refused, naming the holder, who notices nothing', async () => {
    const path = newPath()
    const mq = await open(path)
    await mq.publish('t', { value: 'before' })
    const refused = { code: 1, stdout: '', stderr: expect.stringMatching(/^sluice: DIRECTORY_IN_USE: .*\n$/) }
    for (const args of [
      ['topic', 'list'],
      ['produce', 't'],
      ['serve', '--http-port', '0', '--kafka-port', '0'],
    ]) {
      const flag = args[0] === 'serve' ? '--data' : '--url'
      const child = startCommand([...args, flag, path])
      child.stdin!.end('intruder\n')
      const outcome = await finished(child)
      expect(outcome).toEqual(refused)
      expect(outcome.stderr).toContain(`process ${process.pid} `)
    }
    expect(await refusal(open(path))).toMatchObject({
      code: 'DIRECTORY_IN_USE',
      detail: { pid: process.pid },
    })
    await mq.publish('t', { value: 'after' })
    await mq.close()

    const again = await open(path)
    const values: string[] = []
    for await (const message of again.consumer({ topics: ['t'] })) {
      if (values.push(message.text()) === 2) break
    }
    expect(values).toEqual(['before', 'after'])
    await again.close()
  })

  test('gets the directory at once when the holder is killed', async () => {
    const path = newPath()
    const holder = startCommand(['serve', '--data', path, '--http-port', '0', '--kafka-port', '0'])
    const [, url] = await output(holder, /(http:\/\/127\.0\.0\.1:\d+)\n/)
    const headers = { 'content-type': 'application/json' }
    await fetch(`${url}/publish?topic=t`, { method: 'POST', headers, body: '{ "value": "kept" }' })
    expect(await refusal(open(path))).toMatchObject({ detail: { pid: holder.pid } })
    const ended = finished(holder)
    holder.kill('SIGKILL')
    await ended
    await using mq = await open(path)
    expect((await readAll(mq, 't')).offsets).toEqual([0])
  })
})

describe('names, values and sizes', () => {
  const opened = (options: Partial<OpenOptions> = {}) => open({ url: 'memory:', ...options })

  test('an unknown topic, where topics are not made by themselves', async () => {
    await using mq = await opened({ autoCreateTopics: false })
    const unknown = { code: 'UNKNOWN_TOPIC', message: expect.stringContaining('nowhere') }
    expect(await refusal(mq.publish('nowhere', { value: 'x' }))).toMatchObject(unknown)
    expect(await refusal(mq.publish('nowhere', [{ value: 'x' }]))).toMatchObject(unknown)
    expect(await refusal(mq.consumer({ topics: ['nowhere'] }).run(() => {}))).toMatchObject(unknown)
    expect(await refusal(mq.consumer({ topics: ['nowhere'], group: 'g' }).run(() => {}))).toMatchObject(
      unknown,
    )
    expect(await refusal(mq.describeTopic('nowhere'))).toMatchObject(unknown)
    expect(await refusal(mq.deleteTopic('nowhere'))).toMatchObject(unknown)
    expect(await refusal(mq.alterTopic('nowhere', {}))).toMatchObject(unknown)
    expect(await refusal(mq.addPartitions('nowhere', 2))).toMatchObject(unknown)
    expect(await refusal(mq.deleteRecords('nowhere', 0, 'latest'))).toMatchObject(unknown)
    expect(await refusal(mq.offsetFor('nowhere', 0, 'latest'))).toMatchObject(unknown)
    const offsets = [{ topic: 'nowhere', partition: 0, offset: 0 }]
    expect(await refusal(mq.commitOffsets('g', offsets))).toMatchObject(unknown)
    const failed = Promise.withResolvers<SluiceError>()
    mq.producer({ onError: failed.resolve }).post('nowhere', { value: 'x' })
    expect(await failed.promise).toMatchObject(unknown)
    expect(await mq.topics()).toEqual([])
  })

  test('an unknown topic on the command line', async () => {
    const path = newPath()
    await (await open(path)).close()
    const environment = { SLUICE_URL: path, SLUICE_AUTO_CREATE_TOPICS: 'false' }
    for (const args of [
      ['produce', 't'],
      ['consume', 't'],
      ['topic', 'describe', 't'],
      ['topic', 'delete', 't'],
    ]) {
      const { code, stderr } = await run(args, { environment, stdin: 'x\n' })
      expect({ code, stderr }).toEqual({
        code: 1,
        stderr: expect.stringMatching(/^(published 0 .*\n)?sluice: UNKNOWN_TOPIC: .*\n$/),
      })
    }
  })

  test.each(['', '.', '..', 'a b', 'a/b', '../../etc', 'ümlaut', 'x'.repeat(250), '__catalog', 'a\0b'])(
    'the topic name %j: INVALID_TOPIC, however it is used first',
    async name => {
      await using mq = await opened()
      expect(await refusal(mq.createTopic(name))).toMatchObject({ code: 'INVALID_TOPIC' })
      expect(await refusal(mq.publish(name, { value: 'x' }))).toMatchObject({ code: 'INVALID_TOPIC' })
      expect(await refusal(mq.consumer({ topics: [name] }).run(() => {}))).toMatchObject({
        code: 'INVALID_TOPIC',
      })
      expect(await mq.topics()).toEqual([])
    },
  )

  test.each([
    ['an unknown key', { 'retention.hours': '1' }],
    ['a word for a number', { 'segment.bytes': 'large' }],
    ['a number that is too small', { 'segment.bytes': '10' }],
    ['a number that is too large', { 'segment.bytes': '4294967296' }],
    ['a fraction', { 'retention.ms': '1.5' }],
    ['an empty value', { 'retention.ms': '' }],
    ['a value that is none of the choices', { 'message.timestamp.type': 'Yesterday' }],
  ])('configuration with %s: INVALID_CONFIG, and nothing is changed', async (_, config) => {
    const [key, value] = Object.entries(config)[0]
    const invalid = {
      code: 'INVALID_CONFIG',
      message: expect.stringContaining(key),
      detail: { name: key, value },
    }
    await using mq = await opened()
    expect(await refusal(mq.createTopic('t', { config }))).toMatchObject(invalid)
    expect(await mq.topics()).toEqual([])
    await mq.createTopic('t', { config: { 'retention.ms': 1_000 } })
    const before = await mq.describeTopic('t')
    expect(await refusal(mq.alterTopic('t', { 'retention.ms': '2000', ...config }))).toMatchObject(invalid)
    expect(await mq.describeTopic('t')).toEqual(before)
    expect(await refusal(opened({ config }))).toMatchObject(invalid)
    const { code, stderr } = await run([
      'topic',
      'create',
      't',
      '--url',
      'memory:',
      '--set',
      `${key}=${value}`,
    ])
    expect({ code, stderr }).toEqual({
      code: 2,
      stderr: expect.stringMatching(/^sluice: INVALID_CONFIG: .*\n$/),
    })
  })

  test.each([0, -1, 1.5, 10_001, Number.NaN])('%d partitions: refused', async partitions => {
    await using mq = await opened()
    await mq.createTopic('t', { partitions: 2 })
    expect(['INVALID_PARTITIONS', 'INVALID_ARGUMENT']).toContain(
      (await refusal(mq.createTopic('u', { partitions }))).code,
    )
    expect(['INVALID_PARTITIONS', 'INVALID_ARGUMENT']).toContain(
      (await refusal(mq.addPartitions('t', partitions))).code,
    )
    expect((await mq.describeTopic('t')).partitions).toHaveLength(2)
    expect(await mq.topics()).toEqual(['t'])
  })

  test('a message over the limit is refused by itself, whoever it came with', async () => {
    await using mq = await opened()
    await mq.createTopic('t', { config: { 'max.message.bytes': 2_000 } })
    const tooLarge = { code: 'MESSAGE_TOO_LARGE', message: expect.stringContaining('2000') }
    expect(await refusal(mq.publish('t', { value: Buffer.alloc(2_000) }))).toMatchObject(tooLarge)
    expect(await refusal(mq.publish('t', { key: 'k'.repeat(2_000), value: 'x' }))).toMatchObject(tooLarge)
    const headers = { h: 'x'.repeat(2_000) }
    expect(await refusal(mq.publish('t', { value: 'x', headers }))).toMatchObject(tooLarge)
    const sizes = [100, 3_000, 1_900, 100]
    const error = await refusal(
      mq.publish(
        't',
        sizes.map(size => ({ value: Buffer.alloc(size) })),
      ),
    )
    expect(error).toBeInstanceOf(PublishError)
    expect(error).toMatchObject({ ...tooLarge, acceptedCount: 3 })
    const stored = (await mq.describeTopic('t')).partitions[0].endOffset
    expect(stored).toBe(3)
    const lengths: number[] = []
    for await (const message of mq.consumer({ topics: ['t'] })) {
      if (lengths.push(message.valueBytes!.length) === 3) break
    }
    expect(lengths).toEqual([100, 1_900, 100])
  })

  test('a line over the limit is reported with its number, the others are published', async () => {
    const path = newPath()
    const environment = { SLUICE_URL: path }
    await run(['topic', 'create', 't', '--set', 'max.message.bytes=1000'], { environment })
    const { code, stderr } = await run(['produce', 't'], {
      environment,
      stdin: `one\n${'x'.repeat(1_000)}\nthree\n`,
    })
    expect(code).toBe(1)
    expect(stderr).toMatch(/^sluice: MESSAGE_TOO_LARGE: stdin:2: .*\npublished 2 messages .*, 1 refused\n$/)
    expect((await run(['consume', 't'], { environment })).stdout).toBe('one\nthree\n')
  })

  test.each([
    ['nothing', Buffer.alloc(0)],
    ['noise', Buffer.alloc(200, 0x5a)],
    [
      'a header that says too much',
      Buffer.concat([Buffer.alloc(8), Buffer.from([0x7f, 0xff, 0xff, 0xff]), Buffer.alloc(100)]),
    ],
  ])('a batch of %s handed to the engine is refused, and nothing of it is stored', async (_, batch) => {
    await using mq = await opened()
    await mq.publish('t', { value: 'x' })
    expect(['CORRUPT_MESSAGE', 'INVALID_RECORD', 'MESSAGE_TOO_LARGE']).toContain(
      (await refusal(mq.engine.produce('t', 0, batch))).code,
    )
    expect(await mq.publish('t', { value: 'y' })).toMatchObject({ offset: 1 })
  })

  test('messages that are none', async () => {
    await using mq = await opened()
    const invalid = async (message: unknown, code = 'INVALID_ARGUMENT') =>
      expect(await refusal(mq.publish('t', message as { value: string }))).toMatchObject({ code })
    await invalid(null)
    await invalid('just a text')
    await invalid({ value: 'x', key: 5 })
    await invalid({ value: 'x', headers: 5 })
    await invalid({ value: 'x', partition: 7 }, 'INVALID_PARTITION')
    await invalid({ value: 'x', partition: -1 }, 'INVALID_PARTITION')
    await invalid({ value: 'x', timestamp: -5 }, 'INVALID_TIMESTAMP')
    await invalid({ value: 'x', timestamp: Number.NaN }, 'INVALID_TIMESTAMP')
    expect((await mq.describeTopic('t')).partitions[0].endOffset).toBe(0)
  })
})

describe('after close', () => {
  test('every call is refused with CLOSED, and closing again is no error', async () => {
    const path = newPath()
    const mq = await open(path)
    const producer = mq.producer()
    const consumer = mq.consumer({ topics: ['t'], group: 'g' })
    await mq.publish('t', { value: 'kept' })
    const running = consumer.run(() => {})
    await mq.close()
    await running
    await mq.close()

    const at = [{ topic: 't', partition: 0, offset: 0 }]
    const calls: Record<string, () => Promise<unknown>> = {
      publish: () => mq.publish('t', { value: 'x' }),
      publishArray: () => mq.publish('t', [{ value: 'x' }]),
      producer: async () => mq.producer(),
      consumer: async () => mq.consumer({ topics: ['t'] }),
      createTopic: () => mq.createTopic('u'),
      deleteTopic: () => mq.deleteTopic('t'),
      topics: () => mq.topics(),
      describeTopic: () => mq.describeTopic('t'),
      alterTopic: () => mq.alterTopic('t', {}),
      addPartitions: () => mq.addPartitions('t', 2),
      deleteRecords: () => mq.deleteRecords('t', 0, 'latest'),
      offsetFor: () => mq.offsetFor('t', 0, 'latest'),
      groups: () => mq.groups(),
      describeGroup: () => mq.describeGroup('g'),
      commitOffsets: () => mq.commitOffsets('g', at),
      resetGroup: () => mq.resetGroup('g', { to: 'earliest' }),
      deleteGroup: () => mq.deleteGroup('g'),
      'engine.createTopic': () => mq.engine.createTopic({ name: 'u' }),
      'engine.deleteTopic': () => mq.engine.deleteTopic('t'),
      'engine.listTopics': () => mq.engine.listTopics(),
      'engine.describeTopic': () => mq.engine.describeTopic('t'),
      'engine.alterTopic': () => mq.engine.alterTopic('t', {}),
      'engine.addPartitions': () => mq.engine.addPartitions('t', 2),
      'engine.deleteRecords': () => mq.engine.deleteRecords('t', 0, 0),
      'engine.partitionsOf': () => mq.engine.partitionsOf('t'),
      'engine.produce': () => mq.engine.produce('t', 0, Buffer.alloc(100)),
      'engine.initProducer': () => mq.engine.initProducer(),
      'engine.fetch': () => mq.engine.fetch([{ topic: 't', partition: 0, offset: 0 }], { waitMs: 0 }),
      'engine.offsetFor': () => mq.engine.offsetFor('t', 0, 'latest'),
      'engine.commit': () => mq.engine.commit('g', at),
      'engine.committed': () => mq.engine.committed('g'),
      'engine.listGroups': () => mq.engine.listGroups(),
      'engine.describeGroup': () => mq.engine.describeGroup('g'),
      'engine.deleteGroup': () => mq.engine.deleteGroup('g'),
    }
    const codes: Record<string, string> = {}
    for (const [name, call] of Object.entries(calls)) {
      codes[name] = await call().then(
        () => 'not refused',
        error => error.code ?? String(error),
      )
    }
    expect(codes).toEqual(Object.fromEntries(Object.keys(calls).map(name => [name, 'CLOSED'])))

    expect(await refusal(producer.send('t', { value: 'x' }))).toMatchObject({ code: 'PRODUCER_CLOSED' })
    expect(await refusal(consumer.run(() => {}))).toMatchObject({ code: 'CONSUMER_CLOSED' })
    await using again = await open(path)
    expect((await readAll(again, 't')).offsets).toEqual([0])
  })

  test('what was under way is answered, well or with a named error', async () => {
    const mq = await open({ url: newPath() })
    const sends = Array.from({ length: 1_000 }, (_, number) => mq.publish('t', { value: `${number}` }))
    const reading = mq.engine.fetch([{ topic: 't', partition: 0, offset: 1e9 }], { waitMs: 60_000 })
    reading.catch(() => {})
    const closing = mq.close()
    const outcomes = await Promise.allSettled(sends)
    expect(outcomes.filter(({ status }) => status === 'fulfilled')).toHaveLength(1_000)
    await closing
    await reading.catch(error => expect(error).toBeInstanceOf(SluiceError))
  })
})

describe('a disk that is full', () => {
  test('of the memory engine: DISK_FULL, nothing accepted is lost, and it goes on when there is room', async () => {
    const disk = memoryDisk({ bytesMax: 3 * 1024 * 1024 })
    const opened = async () => new Sluice(await openLocalEngine({ url: 'memory:', disk }))
    const ballast = disk.open('ballast', 'create')
    ballast.write(Buffer.alloc(1024 * 1024), 0)
    const makeRoom = () => {
      ballast.close()
      disk.remove('ballast')
    }
    expect(await fillDisk(opened, makeRoom)).toEqual(filled)
  })

  /** No room for `new-1`, as long as `full` says so. */
  function lackingRoom(full: { creating: boolean; removing: boolean }): Disk {
    const inner = memoryDisk()
    const check = (isFull: boolean, path: string): void => {
      if (isFull && path.includes('new-1')) throw new DiskError('ENOSPC', path, 'no room')
    }
    return {
      kind: inner.kind,
      open: (path, mode) => {
        check(full.creating, path)
        return inner.open(path, mode)
      },
      list: path => inner.list(path),
      makeDirectory: path => inner.makeDirectory(path),
      rename: (from, to) => inner.rename(from, to),
      remove: path => {
        check(full.removing, path)
        inner.remove(path)
      },
      syncDirectory: path => inner.syncDirectory(path),
      lock: path => inner.lock(path),
    }
  }

  test.each([
    ['is taken back', false],
    ['that cannot even be taken back is refused', true],
  ])('a topic of which only a part finds room %s, and can be made later', async (_, removing) => {
    const full = { creating: true, removing }
    const disk = lackingRoom(full)
    const opened = async () => new Sluice(await openLocalEngine({ url: 'memory:', disk }))
    let mq = await opened()
    expect(await refusal(mq.createTopic('new', { partitions: 3 }))).toMatchObject({ code: 'DISK_FULL' })
    expect(await mq.topics()).toEqual([])
    full.creating = full.removing = false
    if (!removing) {
      await mq.close()
      mq = await opened()
      expect(await mq.topics()).toEqual([])
    }
    await mq.createTopic('new', { partitions: 3 })
    for (const partition of [0, 1, 2]) {
      expect(await mq.publish('new', { partition, value: 'x' })).toMatchObject({ offset: 0 })
    }
    await mq.close()
  })

  if (canMount()) {
    test('a real one: the same', () => {
      const mount = 'mount -t tmpfs -o size=4m tmpfs "$1" && exec "$2" "$3" "$1"'
      const program = join(import.meta.dirname, 'full-disk.ts')
      const path = newPath()
      mkdirSync(path)
      const printed = execFileSync('unshare', [
        '-Urm',
        'sh',
        '-ec',
        mount,
        'sh',
        path,
        process.execPath,
        program,
      ])
      expect(JSON.parse(printed.toString())).toEqual(filled)
    })
  }

  const filled = {
    acceptedBeforeFull: expect.toSatisfy((accepted: number) => accepted > 10),
    refusedWith: ['DISK_FULL'],
    createTopicRefusedWith: 'DISK_FULL',
    readWhileFull: 'all that was accepted',
    acceptedAfterwards: 5,
    topicsAfterwards: ['later', 't'],
    readAfterReopening: 'all that was accepted',
  }
})

/** Whether this user may make a small file system of their own, gone with the process that has it. */
function canMount(): boolean {
  try {
    execFileSync('unshare', ['-Urm', 'mount', '-t', 'tmpfs', 'tmpfs', '/tmp'], { stdio: 'ignore' })
    return true
  } catch {
    return false
  }
}
