/** franz-go. The producer is idempotent, which is its default. */

import type { Check } from '../check.ts'
import { goDriver, installGo } from '../go.ts'
import { scenario } from '../scenario.ts'

export const check: Check = {
  name: 'franz-go',
  client: 'franz-go',
  install: dir => installGo('franz-go', dir, 'github.com/twmb/franz-go'),
  async run(address, dir, report) {
    const driver = goDriver(dir, address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /TOPIC_ALREADY_EXISTS/,
      tooLarge: /MESSAGE_TOO_LARGE/,
      unknownTopic: /UNKNOWN_TOPIC_OR_PARTITION/,
    }
    try {
      await scenario(address, driver, { codecs, errors, isIdempotent: true, consumerProtocol: true }, report)
    } finally {
      await driver.close()
    }
  },
}
