import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll, describe, expect, test } from 'vitest'
import { SluiceError } from '../../src/errors.ts'
import {
  checkExposure,
  environmentNameOf,
  optionNames,
  optionRow,
  optionsMarkdown,
  resolveOptions,
} from '../../src/server/options.ts'

const folder = mkdtempSync(join(tmpdir(), 'sluice-options-'))
afterAll(() => rmSync(folder, { recursive: true }))

function configFile(text: string, name = 'sluice.yaml'): string {
  const path = join(folder, name)
  writeFileSync(path, text)
  return path
}

const refusal = async (sources: Parameters<typeof resolveOptions>[0]): Promise<SluiceError> => {
  try {
    await resolveOptions(sources)
  } catch (error) {
    if (error instanceof SluiceError) return error
  }
  throw new Error('it was not refused')
}

describe('precedence', () => {
  test('without any source every option has its default', async () => {
    const options = await resolveOptions({})
    expect(options).toMatchObject({ data: './data', host: '127.0.0.1', httpPort: 8080, flush: 'always' })
    expect(Object.keys(options)).toHaveLength(optionNames.length)
  })

  test('flag beats environment beats file beats default', async () => {
    const configPath = configFile('http-port: 1\npartitions: 2\nflush: os\n')
    const environment = { SLUICE_HTTP_PORT: '3', SLUICE_PARTITIONS: '4' }
    const options = await resolveOptions({ flags: { httpPort: '5' }, environment, configPath })
    expect(options).toMatchObject({ httpPort: 5, partitions: 4, flush: 'os', drainMs: 10_000 })
  })

  test('an empty environment variable counts as absent', async () => {
    expect(await resolveOptions({ environment: { SLUICE_HTTP_PORT: '' } })).toMatchObject({ httpPort: 8080 })
  })

  test('SLUICE_CONFIG names the file', async () => {
    const environment = { SLUICE_CONFIG: configFile('{"http-port": "off"}', 'sluice.json') }
    expect(await resolveOptions({ environment })).toMatchObject({ httpPort: 'off' })
  })
})

describe('values', () => {
  test.each([
    [{ httpPort: '0' }, { httpPort: 0 }],
    [{ httpPort: 'off' }, { httpPort: 'off' }],
    [{ insecure: true }, { insecure: true }],
    [{ autoCreateTopics: 'false' }, { autoCreateTopics: false }],
    [{ logFormat: 'json' }, { logFormat: 'json' }],
  ])('%j is read', async (flags, expected) => {
    expect(await resolveOptions({ flags })).toMatchObject(expected)
  })

  test.each([
    [{ flags: { httpPort: '65536' } }, '--http-port: "65536" is not a port'],
    [{ flags: { httpPort: '80a' } }, '--http-port: "80a" is not a port'],
    [{ flags: { partitions: '0' } }, '--partitions: "0" is not a whole number from 1'],
    [{ flags: { data: '' } }, '--data: "" is not text'],
    [{ environment: { SLUICE_FLUSH: 'never' } }, 'SLUICE_FLUSH: "never" is not one of always, interval, os'],
    [{ environment: { SLUICE_INSECURE: 'yes' } }, 'SLUICE_INSECURE: "yes" is not true or false'],
    [{ environment: { SLUICE_DRAIN_MS: '1.5' } }, 'SLUICE_DRAIN_MS: "1.5" is not a whole number'],
  ])('%j is refused by name', async (sources, message) => {
    const error = await refusal(sources)
    expect(error.code).toBe('INVALID_CONFIG')
    expect(error.message).toContain(message)
  })
})

describe('configuration file', () => {
  test('an unknown key is refused with file, line and the likely spelling', async () => {
    const configPath = configFile('# ours\nhost: 127.0.0.1\nhttpPort: 80\n')
    const error = await refusal({ configPath })
    expect(error.message).toBe(
      `${configPath}:3: httpPort is not a configuration key; it is written http-port`,
    )
    expect(error.detail).toMatchObject({ file: configPath, line: 3, key: 'httpPort' })
  })

  test('a bad value is refused with file, line and range', async () => {
    const configPath = configFile('host: 127.0.0.1\n\nflush-ms: soon\n')
    const error = await refusal({ configPath })
    expect(error.message).toBe(`${configPath}:3: flush-ms: "soon" is not a whole number from 1 to 3600000`)
  })

  test('a list where one value belongs is refused', async () => {
    expect((await refusal({ configPath: configFile('host: [a, b]\n') })).message).toContain(
      ':1: host takes a single',
    )
  })

  test('what is not YAML is refused with its line', async () => {
    const configPath = configFile('host: a\nport: {\n')
    const error = await refusal({ configPath })
    expect(error.code).toBe('INVALID_CONFIG')
    expect(error.detail.line).toBeGreaterThan(1)
  })

  test('a file that holds no keys is refused, an empty one is not', async () => {
    expect((await refusal({ configPath: configFile('- a\n') })).code).toBe('INVALID_CONFIG')
    expect(await resolveOptions({ configPath: configFile('# nothing yet\n') })).toMatchObject({
      httpPort: 8080,
    })
  })

  test('a missing file is refused', async () => {
    const error = await refusal({ configPath: join(folder, 'none.yaml') })
    expect(error.code).toBe('INVALID_CONFIG')
    expect(error.message).toContain('none.yaml')
  })
})

describe('what is derived from the table', () => {
  test('every default passes its own check', async () => {
    for (const name of optionNames) {
      const environment = { [environmentNameOf(name)]: String(optionRow(name).default) }
      expect(await resolveOptions({ environment })).toEqual(await resolveOptions({}))
    }
  })

  test('the documentation has a row for every option', () => {
    const markdown = optionsMarkdown()
    for (const name of optionNames) {
      expect(markdown).toContain(`| \`--${name}\` | \`${environmentNameOf(name)}\` |`)
    }
  })
})

describe('exposure', () => {
  test.each(['127.0.0.1', '127.1.2.3', '::1', 'localhost'])('%s is loopback', host => {
    checkExposure({ host, insecure: false })
  })

  test.each(['0.0.0.0', '::', '192.168.1.5', 'example.com', 'localhost.example.com', '1127.0.0.1'])(
    '%s is refused unless insecure is said',
    host => {
      expect(() => checkExposure({ host, insecure: false })).toThrow(
        expect.objectContaining({ code: 'INSECURE' }),
      )
      checkExposure({ host, insecure: true })
    },
  )
})
