/** `sluice delay …` and `sluice schedule …` on a data directory, in which nobody delivers. */

import { afterEach, beforeEach, expect, test } from 'vitest'
import { DataDirectory, type RunOptions } from './running-cli.ts'

let directory: DataDirectory
beforeEach(() => {
  directory = new DataDirectory()
})
afterEach(() => directory[Symbol.dispose]())

const sluice = (args: readonly string[], options?: RunOptions) => directory.run(args, options)

async function told(args: readonly string[], options?: RunOptions): Promise<string> {
  const { code, stdout, stderr } = await sluice(args, options)
  expect(code, stderr).toBe(0)
  return stdout
}

const jsonLines = (text: string) =>
  text
    .split('\n')
    .filter(Boolean)
    .map(line => JSON.parse(line))

const waiting = async (...flags: string[]) => jsonLines(await told(['delay', 'list', '--json', ...flags]))

test('send, list, show: a message for each value, or for each line', async () => {
  const before = Date.now()
  const ids = await told([
    'delay',
    'send',
    'mail',
    '--delay',
    '45m',
    '-k',
    'ann',
    '-v',
    'one',
    '-v',
    'two',
    '-H',
    'a=b',
  ])
  const [first] = jsonLines(
    await told(['delay', 'send', 'calls', '--at', '2100-01-31T12:00:00Z', '--name', 'call-7', '--json'], {
      stdin: 'three\nfour',
    }),
  )
  expect(first).toMatchObject({ topic: 'calls', deliverAt: Date.UTC(2100, 0, 31, 12) })

  const all = await waiting()
  expect(all.map(({ topic, value, name }) => [topic, value, name]).sort()).toEqual([
    ['calls', 'four', 'call-7'],
    ['calls', 'three', 'call-7'],
    ['mail', 'one', null],
    ['mail', 'two', null],
  ])
  const mails = await waiting('--topic', 'mail')
  expect(mails.map(({ id }) => id).sort()).toEqual(ids.trim().split('\n').sort())
  expect(mails[0]).toMatchObject({ key: 'ann', headers: { a: 'b' }, schedule: null })
  expect(mails[0].deliverAt).toBeGreaterThanOrEqual(before + 45 * 60_000)
  expect(await waiting('-n', '1')).toHaveLength(1)
  expect(await told(['delay', 'list'])).toMatch(/^\S+\.call-7 +2100-01-31T12:00:00.000Z +calls/m)

  expect(await told(['delay', 'show', first.id])).toMatch(/^\S+: for calls at 2100-01-31[\s\S]*\n\nthree\n$/)
  expect(jsonLines(await told(['delay', 'show', first.id, '--json']))[0]).toMatchObject({ value: 'three' })
})

test('cancel: by id and by name; what does not wait is named', async () => {
  const [id] = (await told(['delay', 'send', 'mail', '--level', '18', '-v', 'one'])).split('\n')
  await told(['delay', 'send', 'mail', '--delay', '1d', '-v', 'two', '-v', 'three', '--name', 'batch'])
  expect(await told(['delay', 'cancel', id, 'batch', '--dry-run'])).toBe(`${id}\nbatch\n`)
  expect(await waiting()).toHaveLength(3)
  expect(await sluice(['delay', 'cancel', 'batch', 'nothing'])).toMatchObject({
    code: 1,
    stdout: 'batch\n',
    stderr: expect.stringContaining('UNKNOWN_DELAYED_MESSAGE: no message "nothing"'),
  })
  expect((await waiting()).map(message => message.id)).toEqual([id])
  expect(await sluice(['delay', 'show', 'batch'])).toMatchObject({
    code: 1,
    stderr: expect.stringContaining('UNKNOWN_DELAYED_MESSAGE'),
  })
})

test('reschedule: another time, another id, the same message', async () => {
  await told(['delay', 'send', 'mail', '--delay', '1d', '-v', 'one', '--name', 'welcome'])
  const id = (await told(['delay', 'reschedule', 'welcome', '--at', '2099-01-01T00:00:00Z'])).trim()
  expect(await waiting()).toMatchObject([
    { id, name: 'welcome', value: 'one', deliverAt: Date.UTC(2099, 0, 1) },
  ])
  expect((await sluice(['delay', 'reschedule', 'nothing', '--delay', '1h'])).code).toBe(1)
})

test('no time, two times, and what is no time are refused', async () => {
  for (const flags of [
    [],
    ['--delay', '1h', '--level', '1'],
    ['--delay', 'soon'],
    ['--at', 'noon'],
    ['--level', '19'],
  ]) {
    const { code, stderr } = await sluice(['delay', 'send', 'mail', '-v', 'x', ...flags])
    expect({ code, stderr }, flags.join(' ')).toEqual({
      code: 2,
      stderr: expect.stringMatching(/INVALID_ARGUMENT/),
    })
  }
  await sluice(['topic', 'create', 'mail'])
  expect(await sluice(['delay', 'list'])).toMatchObject({ code: 0, stdout: '', stderr: 'nothing waits\n' })
})

test('schedules: set, list, remove', async () => {
  const cron = ['--cron', '0 9 * * 1-5', '--timezone', 'Europe/Berlin']
  const set = await sluice(['schedule', 'set', 'report', ...cron, '-t', 'reports', '-v', 'daily'])
  expect(set).toMatchObject({
    code: 0,
    stderr: expect.stringMatching(/^report: next \d{4}-.*T0[78]:00:00.000Z\n$/),
  })
  expect(await told(['schedule', 'list'])).toMatch(/^report +0 9 \* \* 1-5 +Europe\/Berlin +reports +\d{4}-/m)
  expect(jsonLines(await told(['schedule', 'list', '--json']))).toMatchObject([
    { name: 'report', topic: 'reports', key: null, value: 'daily' },
  ])
  expect(await waiting()).toMatchObject([{ schedule: 'report', topic: 'reports' }])

  expect(await sluice(['schedule', 'remove', 'report', 'none'])).toMatchObject({
    code: 1,
    stdout: 'report\n',
    stderr: expect.stringContaining('UNKNOWN_SCHEDULE'),
  })
  expect((await sluice(['schedule', 'list'])).stdout).toBe('')
  for (const flags of [
    ['--cron', 'often', '-t', 'reports', '-v', 'x'],
    ['-t', 'reports', '-v', 'x'],
  ]) {
    expect((await sluice(['schedule', 'set', 'report', ...flags])).code, flags.join(' ')).toBe(2)
  }
})
