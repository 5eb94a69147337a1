/** librdkafka, the C client that many languages wrap, through its Python package. The producer is idempotent. */

import type { Check } from '../check.ts'
import { installPython, pythonDriver } from '../python.ts'
import { scenario } from '../scenario.ts'

const here = import.meta.dirname

export const check: Check = {
  name: 'librdkafka',
  client: 'librdkafka (confluent-kafka for Python)',
  install: dir => installPython(here, dir, 'confluent-kafka'),
  async run(address, dir, report) {
    const driver = pythonDriver(here, dir, address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /TOPIC_ALREADY_EXISTS/,
      tooLarge: /MSG_SIZE_TOO_LARGE/,
      unknownTopic: /UNKNOWN_TOPIC/,
    }
    try {
      await scenario(address, driver, { codecs, errors, isIdempotent: true, consumerProtocol: true }, report)
    } finally {
      await driver.close()
    }
  },
}
