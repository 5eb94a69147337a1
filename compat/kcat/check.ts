/** kcat, the command, from the distribution's packages. It makes topics by asking for them. */

import { execFileSync } from 'node:child_process'
import { type Check, NotRunnable, oneLine } from '../check.ts'
import { scenario } from '../scenario.ts'
import { KcatDriver } from './driver.ts'

const APT_MS_MAX = 300_000

export const check: Check = {
  name: 'kcat',
  client: 'kcat',
  serverFlags: ['--auto-create-topics', 'true', '--partitions', '4'],
  async install() {
    const found = version()
    if (found !== undefined) return found
    if (process.getuid?.() !== 0) throw new NotRunnable('no kcat on the PATH, and no right to install it')
    try {
      for (const args of [
        ['update', '-qq'],
        ['install', '-y', '-qq', 'kcat'],
      ]) {
        execFileSync('apt-get', args, { stdio: 'pipe', timeout: APT_MS_MAX })
      }
    } catch (error) {
      throw new NotRunnable(`no kcat on the PATH, and it cannot be installed: ${oneLine(error)}`)
    }
    return version()!
  },
  async run(address, _dir, report) {
    const driver = new KcatDriver(address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const can = { nulls: false, timestamps: false, binary: false }
    const errors = { tooLarge: /Message size too large/ }
    try {
      await scenario(
        address,
        driver,
        { codecs, errors, can, without: ['groups', 'remove'], isIdempotent: true },
        report,
      )
    } finally {
      await driver.close()
    }
  },
}

function version(): string | undefined {
  try {
    const text = execFileSync('kcat', ['-V'], { encoding: 'utf8', stdio: 'pipe' })
    return /Version (\S+) .*librdkafka (\S+)/.exec(text)?.slice(1).join(', librdkafka ')
  } catch {
    return undefined
  }
}
