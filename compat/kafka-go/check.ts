/** kafka-go. It has no idempotent producer. */

import type { Check } from '../check.ts'
import { goDriver, installGo } from '../go.ts'
import { scenario } from '../scenario.ts'

export const check: Check = {
  name: 'kafka-go',
  client: 'kafka-go',
  install: dir => installGo('kafka-go', dir, 'github.com/segmentio/kafka-go'),
  async run(address, dir, report) {
    const driver = goDriver(dir, address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /Topic Already Exists/,
      tooLarge: /Message Size Too Large/,
      unknownTopic: /Unknown Topic Or Partition/,
    }
    try {
      await scenario(address, driver, { codecs, errors, can: { tellsNulls: false } }, report)
    } finally {
      await driver.close()
    }
  },
}
