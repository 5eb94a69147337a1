/** sarama. The producer is idempotent. */

import type { Check } from '../check.ts'
import { goDriver, installGo } from '../go.ts'
import { scenario } from '../scenario.ts'

export const check: Check = {
  name: 'sarama',
  client: 'sarama',
  install: dir => installGo('sarama', dir, 'github.com/IBM/sarama'),
  async run(address, dir, report) {
    const driver = goDriver(dir, address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /already exists/,
      tooLarge: /Message was too large/,
      unknownTopic: /does not exist/,
    }
    try {
      await scenario(address, driver, { codecs, errors, isIdempotent: true }, report)
    } finally {
      await driver.close()
    }
  },
}
