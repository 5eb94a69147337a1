/** kafkajs. */

import { createRequire } from 'node:module'
import type { Check } from '../check.ts'
import { scenario } from '../scenario.ts'
import { KafkajsDriver } from './driver.ts'

export const check: Check = {
  name: 'kafkajs',
  client: 'kafkajs',
  npmOnly: true,
  async install() {
    return createRequire(import.meta.url)('kafkajs/package.json').version as string
  },
  async run(address, _dir, report) {
    const driver = new KafkajsDriver(address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /createTopics gave false/,
      tooLarge: /larger than the max message size/,
      unknownTopic: /does not host this topic-partition/,
    }
    try {
      await scenario(address, driver, { codecs, errors }, report)
    } finally {
      await driver.close()
    }
  },
}
