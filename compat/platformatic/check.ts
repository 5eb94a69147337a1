/** @platformatic/kafka, which `kafka://` addresses of sluice use too. */

import { readFileSync } from 'node:fs'
import type { Check } from '../check.ts'
import { scenario } from '../scenario.ts'
import { PlatformaticDriver } from './driver.ts'

export const check: Check = {
  name: 'platformatic',
  client: '@platformatic/kafka',
  npmOnly: true,
  async install() {
    const description = new URL('../package.json', import.meta.resolve('@platformatic/kafka'))
    return JSON.parse(readFileSync(description, 'utf8')).version as string
  },
  async run(address, _dir, report) {
    const driver = new PlatformaticDriver(address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /TOPIC_ALREADY_EXISTS/,
      tooLarge: /MESSAGE_TOO_LARGE/,
      unknownTopic: /Unknown topic nowhere/,
    }
    try {
      await scenario(address, driver, { codecs, errors, isIdempotent: true, consumerProtocol: true }, report)
    } finally {
      await driver.close()
    }
  },
}
