import { readdirSync, readFileSync, truncateSync, writeFileSync } from 'node:fs'
import { join } from 'node:path'
import { PassThrough, Readable } from 'node:stream'
import { describe, expect, test } from 'vitest'
import { DataDirectory, run } from './running-cli.ts'

const lines = (text: string) => text.split('\n').filter(line => line !== '')

describe('produce', () => {
  test('lines of standard input are messages, byte for byte', async () => {
    using data = new DataDirectory()
    const produced = await data.run(['produce', 't'], {
      stdin: Readable.from([Buffer.from('a\n\n\xff\r\nlast', 'latin1')]),
    })
    expect(produced).toMatchObject({ code: 0, stdout: '' })
    expect(produced.stderr).toMatch(/^published 4 messages to t \([\d,]+\/s, .*\/s\)\n$/)
    const { stdout } = await data.run(['consume', 't', '--json'])
    expect(lines(stdout).map(line => JSON.parse(line).value)).toEqual(['a', '', { base64: '/w0=' }, 'last'])
  })

  test('files one after the other, JSON with a key from a field', async () => {
    using data = new DataDirectory()
    const first = join(data.path, 'first.jsonl')
    const second = join(data.path, 'second.jsonl')
    writeFileSync(first, '{"customer":{"id":7},"total":1.50}\n')
    writeFileSync(second, '{"customer":{"id":"ann"},"total":2}\n')
    await data.run(['produce', 't', first, second, '--json', '--key-field', 'customer.id', '-H', 'from=test'])
    const { stdout } = await data.run(['consume', 't', '--json'])
    expect(lines(stdout).map(line => JSON.parse(line))).toMatchObject([
      { key: '7', value: { customer: { id: 7 } }, headers: { from: 'test' } },
      { key: 'ann', value: { total: 2 } },
    ])
    // the digits are those of the file
    expect(stdout).toContain('"value":{"customer":{"id":7},"total":1.50}')
  })

  test('what consume --json prints can be published again', async () => {
    using data = new DataDirectory()
    await data.run(['produce', 'a', '--key-separator', ':'], { stdin: 'k:1\nl:{"x":[1]}\n' })
    const { stdout } = await data.run(['consume', 'a', '--json'])
    await data.run(['produce', 'b', '--json', '--key-field', 'key', '--value-field', 'value'], {
      stdin: stdout,
    })
    expect((await data.run(['consume', 'b', '--format', '{key}={value}'])).stdout).toBe('k=1\nl={"x":[1]}\n')
  })

  test('a refused line is named, the others are published, and the exit code says so', async () => {
    using data = new DataDirectory()
    await data.run(['topic', 'create', 't', '--set', 'max.message.bytes=500'])
    const { code, stderr } = await data.run(['produce', 't', '--json', '--key-field', 'id'], {
      stdin: `{"id":1}\n{"id":\n{"no":2}\n${JSON.stringify({ id: 3, text: 'x'.repeat(500) })}\n{"id":4}\n`,
    })
    expect(code).toBe(1)
    expect(lines(stderr)).toEqual([
      expect.stringMatching(/^sluice: INVALID_RECORD: stdin:2: not JSON: /),
      'sluice: INVALID_RECORD: stdin:3: the field id is missing',
      expect.stringMatching(/^sluice: MESSAGE_TOO_LARGE: stdin:4: /),
      expect.stringMatching(/^published 2 messages to t .*, 3 refused$/),
    ])
    expect((await data.run(['consume', 't'])).stdout).toBe('{"id":1}\n{"id":4}\n')
  })

  test('of many refusals the first are shown', async () => {
    using data = new DataDirectory()
    const { stderr } = await data.run(['produce', 't', '--json'], { stdin: '{\n'.repeat(25) })
    expect(lines(stderr)).toHaveLength(12)
    expect(stderr).toContain('sluice: and 15 more lines were refused\n')
  })

  test('a refusal that every line would meet ends it', async () => {
    using data = new DataDirectory()
    const environment = { SLUICE_AUTO_CREATE_TOPICS: 'false' }
    const { code, stderr } = await data.run(['produce', 't'], { stdin: 'a\n'.repeat(50_000), environment })
    expect(code).toBe(1)
    expect(lines(stderr)).toEqual([
      expect.stringMatching(/^published 0 messages to t/),
      expect.stringMatching(/^sluice: UNKNOWN_TOPIC: /),
    ])
  })

  test('a file that cannot be read is refused before anything is published', async () => {
    using data = new DataDirectory()
    const file = join(data.path, 'good')
    writeFileSync(file, 'a\n')
    const { code, stderr } = await data.run(['produce', 't', file, join(data.path, 'none')])
    expect(code).toBe(2)
    expect(stderr).toMatch(/^sluice: INVALID_ARGUMENT: cannot read .*none/)
    expect(readdirSync(data.path)).toEqual(['good'])
  })

  test('the acknowledgement log lists line, partition and offset of each message that is stored', async () => {
    using data = new DataDirectory()
    await data.run(['topic', 'create', 't', '-p', '2'])
    const log = join(data.path, 'acks')
    const stdin = Array.from({ length: 5000 }, (_, number) => `{"id":${number}}\n`).join('')
    await data.run(['produce', 't', '--json', '--key-field', 'id', '--ack-log', log], {
      stdin: `${stdin}{\n`,
    })
    const stored = new Map(
      lines((await data.run(['consume', 't', '--format', '{partition} {offset}|{key}'])).stdout).map(
        line => line.split('|') as [string, string],
      ),
    )
    const acknowledged = lines(readFileSync(log, 'utf8')).map(line => line.split(' '))
    expect(acknowledged).toHaveLength(5000)
    for (const [line, partition, offset] of acknowledged) {
      expect(stored.get(`${partition} ${offset}`)).toBe(String(Number(line) - 1))
    }
  })

  test('on SIGINT what was read is published', async () => {
    using data = new DataDirectory()
    const stdin = new PassThrough()
    stdin.write('a\nb\nunfini')
    const outcome = await data.run(['produce', 't', '--ack-log', '-'], {
      stdin,
      onOutput: (text, signal) => {
        if (text.includes('2 0 1\n')) signal('SIGINT')
      },
    })
    expect(outcome.code).toBe(130)
    expect(outcome.stderr).toMatch(/^published 2 messages to t/)
    expect((await data.run(['consume', 't'])).stdout).toBe('a\nb\n')
  })
})

describe('consume', () => {
  async function filled(data: DataDirectory, count = 10): Promise<void> {
    await data.run(['topic', 'create', 't', '-p', '3'])
    const stdin = Array.from({ length: count }, (_, number) => `k${number % 7}:${number}\n`).join('')
    await data.run(['produce', 't', '--key-separator', ':'], { stdin })
  }

  test('without a group it prints everything to the end, each time', async () => {
    using data = new DataDirectory()
    await filled(data)
    for (const _ of [1, 2]) {
      const { code, stdout } = await data.run(['consume', 't'])
      expect(code).toBe(0)
      expect(
        lines(stdout)
          .map(Number)
          .toSorted((a, b) => a - b),
      ).toEqual(Array.from({ length: 10 }, (_, n) => n))
    }
    expect((await data.run(['consume', 't', '--from', 'latest'])).stdout).toBe('')
    expect(lines((await data.run(['consume', 't', '--max', '4'])).stdout)).toHaveLength(4)
    expect((await data.run(['consume', 't', '--max', '0'])).stdout).toBe('')
  })

  test('one partition, from an offset', async () => {
    using data = new DataDirectory()
    await data.run(['topic', 'create', 't', '-p', '2'])
    await data.run(['produce', 't', '-p', '1'], { stdin: 'a\nb\nc\n' })
    expect((await data.run(['consume', 't', '-p', '1', '--from', '1'])).stdout).toBe('b\nc\n')
    expect((await data.run(['consume', 't', '-p', '0'])).stdout).toBe('')
    expect((await data.run(['consume', 't', '--from', '1:2'])).stdout).toBe('c\n')
    expect(await data.run(['consume', 't', '-p', '1', '--from', '9'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^sluice: OFFSET_OUT_OF_RANGE: /),
    })
    expect(await data.run(['consume', 't', '-p', '2'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^sluice: INVALID_PARTITION: t has partitions 0 to 1, not 2/),
    })
  })

  test('a group goes on where it stopped, however many members it has', async () => {
    using data = new DataDirectory()
    await filled(data, 100)
    const first = await data.run(['consume', 't', '--group', 'g', '--max', '30', '--members', '3'])
    const second = await data.run(['consume', 't', '--group', 'g', '--members', '2'])
    const third = await data.run(['consume', 't', '--group', 'g'])
    expect(lines(first.stdout)).toHaveLength(30)
    expect(third).toEqual({ code: 0, stdout: '', stderr: '' })
    const all = [...lines(first.stdout), ...lines(second.stdout)].map(Number)
    expect(all.toSorted((a, b) => a - b)).toEqual(Array.from({ length: 100 }, (_, number) => number))
  })

  test('a new group can begin at the end', async () => {
    using data = new DataDirectory()
    await filled(data)
    expect((await data.run(['consume', 't', '--group', 'g', '--from', 'latest'])).stdout).toBe('')
  })

  test('nothing is committed that could not be written', async () => {
    using data = new DataDirectory()
    await filled(data)
    const broken = await data.run(['consume', 't', '--group', 'g'], { isOutputClosed: true })
    expect(broken.code).toBe(0)
    expect(lines((await data.run(['consume', 't', '--group', 'g'])).stdout)).toHaveLength(10)
  })

  test.each([[[]], [['--group', 'g']]])('--follow %j waits for more, until SIGINT', async extra => {
    using data = new DataDirectory()
    await filled(data, 3)
    const outcome = await data.run(['consume', 't', '--follow', ...extra], {
      onOutput: (text, signal) => {
        if (lines(text).length === 3) signal('SIGINT')
      },
    })
    expect(outcome.code).toBe(130)
    expect(outcome.stderr).toBe('')
    expect(lines(outcome.stdout)).toHaveLength(3)
    if (extra.length > 0) expect((await data.run(['consume', 't', '--group', 'g'])).stdout).toBe('')
  })

  test('a format of one’s own', async () => {
    using data = new DataDirectory()
    await data.run(['produce', 't', '--key', 'k'], { stdin: 'v\n' })
    const { stdout } = await data.run([
      'consume',
      't',
      '--format',
      '{topic}/{partition}@{offset}\\t{key}\\\\{value}',
    ])
    expect(stdout).toBe('t/0@0\tk\\v\n')
  })

  test('a topic that is not there is an error, and is not made', async () => {
    using data = new DataDirectory()
    await data.run(['topic', 'create', 't'])
    for (const extra of [[], ['--group', 'g']]) {
      expect(await data.run(['consume', 'none', ...extra])).toMatchObject({
        code: 1,
        stderr: expect.stringMatching(/^sluice: UNKNOWN_TOPIC: /),
      })
    }
    expect(lines((await data.run(['topic', 'list', '--json'])).stdout)).toHaveLength(1)
  })
})

describe('dump and verify', () => {
  async function segment(data: DataDirectory): Promise<string> {
    await data.run(['produce', 't', '--batch', '2', '--key', 'k'], { stdin: 'a\nb\nc\n' })
    return join(data.url, 'topics', 't-0', '00000000000000000000.log')
  }

  test('dump shows batches, and records if asked', async () => {
    using data = new DataDirectory()
    const file = await segment(data)
    const { code, stdout } = await run(['dump', file])
    expect(code).toBe(0)
    expect(lines(stdout)).toEqual([
      file,
      expect.stringMatching(/^ {2}@0, offsets 0\.\.1, 2 records, \d+ bytes, max time \d{4}-/),
      expect.stringMatching(/^ {2}@\d+, offsets 2\.\.2, 1 records, /),
    ])
    const json = lines((await run(['dump', join(data.url, 'topics', 't-0'), '--records', '--json'])).stdout)
    expect(json.map(line => JSON.parse(line))).toMatchObject([
      {
        file,
        kind: 'batch',
        baseOffset: 0,
        count: 2,
        records: [{ offset: 0, key: 'k', value: 'a' }, { value: 'b' }],
      },
      { file, kind: 'batch', baseOffset: 2, records: [{ value: 'c' }] },
    ])
  })

  test('verify finds nothing wrong with a sound directory', async () => {
    using data = new DataDirectory()
    await segment(data)
    expect(await run(['verify', data.url])).toEqual({
      code: 0,
      stdout: '',
      stderr: expect.stringMatching(/^no damage: \d+ partitions, \d+ segments, \d+ records, .* read\n$/),
    })
  })

  test('a damaged byte is found by both, with file and position', async () => {
    using data = new DataDirectory()
    const file = await segment(data)
    const bytes = readFileSync(file)
    bytes[70] ^= 1
    writeFileSync(file, bytes)
    const dumped = await run(['dump', file])
    expect(dumped.code).toBe(1)
    expect(dumped.stdout).toMatch(/ {2}@0 DAMAGED: .*; readable again at \d+\n {2}@\d+, offsets 2\.\.2/)
    const verified = await run(['verify', data.url])
    expect(verified.code).toBe(1)
    expect(verified.stdout).toContain(`error  ${file} @0: `)
    expect(verified.stderr).toMatch(/^DAMAGED in \d+ place/)
  })

  test('a truncated file is found', async () => {
    using data = new DataDirectory()
    const file = await segment(data)
    truncateSync(file, 20)
    expect(await run(['verify', join(data.url, 'topics', 't-0')])).toMatchObject({
      code: 1,
      stdout: expect.stringContaining(file),
    })
  })

  test('what is no segment is refused', async () => {
    using data = new DataDirectory()
    const file = join(data.path, 'notes.txt')
    writeFileSync(file, 'hello')
    expect(await run(['dump', file])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^sluice: FOREIGN_FILE: /),
    })
    expect(await run(['dump', data.path])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/FOREIGN_FILE: /),
    })
    expect(await run(['dump', join(data.path, 'none')])).toMatchObject({ code: 2 })
    expect(await run(['verify', data.path])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^sluice: NOT_A_DATA_DIRECTORY: /),
    })
  })
})
