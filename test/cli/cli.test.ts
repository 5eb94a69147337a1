import { describe, expect, test } from 'vitest'
import { commands } from '../../src/cli/commands.ts'
import { DataDirectory, run } from './running-cli.ts'

describe('help and usage', () => {
  test.each(commands.map(({ path }) => path))('%s has help with an example', async path => {
    const { code, stdout, stderr } = await run([...path.split(' '), '--help'])
    expect(code).toBe(0)
    expect(stdout).toContain(`Usage: sluice ${path} [options]`)
    expect(stdout).toMatch(new RegExp(`Examples:\\n(.*\\n)*  .*sluice ${path} ?`))
    expect(stderr).toBe('')
  })

  test('the exit codes are in the help', async () => {
    expect((await run(['--help'])).stdout).toContain('Exit codes: 0 done; 1 it failed')
  })

  test('the version is that of the package', async () => {
    expect(await run(['--version'])).toEqual({
      code: 0,
      stdout: expect.stringMatching(/^\d+\.\d+\.\d+\n$/),
      stderr: '',
    })
  })

  test.each([
    [['produc', 'x'], /unknown command 'produc' \(Did you mean produce\?\); see sluice --help/],
    [['produce'], /missing required argument 'topic'; see sluice produce --help/],
    [['consume', 't', '--max', 'few'], /'few' is invalid.*see sluice consume --help/],
    [['consume', 't', '--fllow'], /unknown option '--fllow'/],
    [['topic', 'create', 't', '--config', '/none.yaml'], /INVALID_CONFIG: cannot read/],
    [['topic', 'create', 't', '--set', 'nonsense'], /--set takes KEY=VALUE/],
    [['topic', 'create', 'a b', '--url', 'memory:'], /INVALID_TOPIC/],
    [['consume', 't', '--group', 'g', '--partition', '0'], /--partition does not go with --group/],
    [['consume', 't', '--from', 'yesterday'], /"yesterday" is neither/],
    [['consume', 't', '--json', '--format', '{key}'], /only one of --json and --format/],
    [['consume', 't', '--format', '{kee}'], /\{kee\} is not known/],
    [['group', 'reset', 'g'], /--to is missing/],
    [['serve', '--kafka-port', '70000'], /INVALID_CONFIG: --kafka-port: "70000" is not a port/],
    [['serve', '--data', 'memory:', '--host', '0.0.0.0'], /INSECURE: 0\.0\.0\.0 can be reached/],
  ])('%j is wrong usage: one line, exit code 2', async (args, message) => {
    const { code, stderr, stdout } = await run(args)
    expect(stderr).toMatch(/^sluice: [A-Z_]+: .*\n$/)
    expect(stderr).toMatch(message)
    expect(stdout).toBe('')
    expect(code).toBe(2)
  })

  test('listeners that do not exist yet are refused, not ignored', async () => {
    const { code, stderr } = await run(['serve', '--data', 'memory:', '--amqp-port', '5672'])
    expect(code).toBe(1)
    expect(stderr).toMatch(/^sluice: UNSUPPORTED: amqp-port: AMQP 0-9-1 is not served/)
  })

  test('--debug shows the stack', async () => {
    const { stderr } = await run(['topic', 'create', 'a b', '--url', 'memory:', '--debug'])
    expect(stderr).toMatch(/^sluice: INVALID_TOPIC: .*\nSluiceError: .*\n {4}at /)
  })
})

describe('topic', () => {
  test('create, list, describe, alter, delete', async () => {
    using data = new DataDirectory()
    expect(
      await data.run(['topic', 'create', 'orders', '--partitions', '3', '--set', 'retention.ms=60000']),
    ).toEqual({
      code: 0,
      stdout: '',
      stderr: 'created topic orders with 3 partitions\n',
    })
    expect((await data.run(['topic', 'list'])).stdout).toBe(
      'TOPIC   PARTITIONS  OFFSETS  SIZE\norders           3        0  0 B\n',
    )
    await data.run(['topic', 'alter', 'orders', '--unset', 'retention.ms', '--partitions', '4'])
    const { stdout } = await data.run(['topic', 'describe', 'orders', '--json'])
    const described = JSON.parse(stdout)
    expect(described.partitions).toHaveLength(4)
    expect(described.config).toContainEqual(
      expect.objectContaining({ name: 'retention.ms', source: 'default' }),
    )
    expect((await data.run(['topic', 'describe', 'orders'])).stdout).toMatch(
      /^retention\.ms +604800000 +default$/m,
    )
    expect((await data.run(['topic', 'delete', 'orders'])).code).toBe(0)
    expect(await data.run(['topic', 'list'])).toMatchObject({
      stdout: '',
      stderr: expect.stringMatching(/^no topics/),
    })
  })

  test('a topic that exists is an error, unless that is expected', async () => {
    using data = new DataDirectory()
    await data.run(['topic', 'create', 't'])
    expect(await data.run(['topic', 'create', 't'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^sluice: TOPIC_EXISTS: .*\n$/),
    })
    expect(await data.run(['topic', 'create', 't', '--if-not-exists'])).toMatchObject({ code: 0 })
  })

  test('a directory that is not there is not made by looking', async () => {
    using data = new DataDirectory()
    for (const args of [
      ['topic', 'list'],
      ['consume', 't'],
      ['group', 'list'],
      ['topic', 'delete', 't'],
      ['verify', data.url],
    ]) {
      const { code, stderr } = await data.run(args)
      expect(stderr).toMatch(/^sluice: NOT_A_DATA_DIRECTORY: there is no data directory at /)
      expect(code).toBe(1)
    }
  })
})

describe('group', () => {
  async function groupOf(data: DataDirectory): Promise<void> {
    await data.run(['topic', 'create', 't', '-p', '2'])
    await data.run(['produce', 't', '-p', '0'], { stdin: 'a\nb\nc\n' })
    await data.run(['produce', 't', '-p', '1'], { stdin: 'd\n' })
    await data.run(['consume', 't', '--group', 'g'])
  }

  test('list and describe show offsets and lag', async () => {
    using data = new DataDirectory()
    await groupOf(data)
    await data.run(['produce', 't', '-p', '0'], { stdin: 'e\n' })
    expect((await data.run(['group', 'list'])).stdout).toBe('GROUP  STATE  MEMBERS\ng      empty        0\n')
    expect((await data.run(['group', 'describe', 'g'])).stdout).toContain(
      [
        'TOPIC  PARTITION  COMMITTED  END  LAG  MEMBER',
        't              0          3    4    1       -',
        't              1          1    1    0       -',
      ].join('\n'),
    )
    expect(await data.run(['group', 'describe', 'none'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^sluice: UNKNOWN_GROUP: /),
    })
  })

  test('reset moves the group, and a dry run does not', async () => {
    using data = new DataDirectory()
    await groupOf(data)
    const dry = await data.run(['group', 'reset', 'g', '--to', '0:1', '--dry-run'])
    expect(dry.stdout).toBe('TOPIC  PARTITION  COMMITTED  NEW\nt              0          3    1\n')
    expect((await data.run(['consume', 't', '--group', 'g'])).stdout).toBe('')
    await data.run(['group', 'reset', 'g', '--to', '0:1'])
    expect((await data.run(['consume', 't', '--group', 'g'])).stdout).toBe('b\nc\n')
    await data.run(['group', 'reset', 'g', '--to', 'earliest'])
    expect((await data.run(['consume', 't', '--group', 'g'])).stdout.split('\n').toSorted()).toEqual([
      '',
      'a',
      'b',
      'c',
      'd',
    ])
    await data.run(['group', 'reset', 'g', '--to', '2000-01-01'])
    expect((await data.run(['group', 'describe', 'g'])).stdout).toMatch(/^t +0 +0 +3 +3 /m)
  })

  test('an offset that the partition does not have is refused, and nothing moves', async () => {
    using data = new DataDirectory()
    await groupOf(data)
    expect(await data.run(['group', 'reset', 'g', '--to', '9'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/^sluice: OFFSET_OUT_OF_RANGE: t\/0 holds offsets 0 to 3; 9 /),
    })
    expect((await data.run(['consume', 't', '--group', 'g'])).stdout).toBe('')
  })

  test('a group that has committed nothing needs its topics named', async () => {
    using data = new DataDirectory()
    await groupOf(data)
    expect(await data.run(['group', 'reset', 'new', '--to', 'latest'])).toMatchObject({
      code: 1,
      stderr: expect.stringMatching(/UNKNOWN_GROUP: .*--topic/),
    })
    await data.run(['group', 'reset', 'new', '--to', 'latest', '--topic', 't'])
    expect((await data.run(['consume', 't', '--group', 'new'])).stdout).toBe('')
  })
})

describe('bench', () => {
  test('--list shows what can be measured', async () => {
    const { code, stdout } = await run(['bench', '--list'])
    expect(code).toBe(0)
    expect(stdout).toMatch(/^SCENARIO +HOW\n/)
    expect(stdout).toMatch(/^publish\/always\/\S+ +file, flush always/m)
  })

  test.each([
    [['--only', 'publish/nothing'], /nothing/],
    [['--bytes', 'many'], /--bytes: "many" is not a number of bytes/],
  ])('%j is wrong usage', async (args, message) => {
    expect(await run(['bench', ...args])).toEqual({
      code: 2,
      stdout: '',
      stderr: expect.stringMatching(message),
    })
  })
})
