/** kafka-python. */

import type { Check } from '../check.ts'
import { installPython, pythonDriver } from '../python.ts'
import { scenario } from '../scenario.ts'

const here = import.meta.dirname

export const check: Check = {
  name: 'kafka-python',
  client: 'kafka-python',
  install: dir => installPython(here, dir, 'kafka-python'),
  async run(address, dir, report) {
    const driver = pythonDriver(here, dir, address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /TopicAlreadyExists/,
      tooLarge: /MessageSizeTooLarge/,
      // It says no more than that it waited in vain.
      unknownTopic: /KafkaTimeoutError.*metadata/,
    }
    try {
      await scenario(address, driver, { codecs, errors, isIdempotent: true }, report)
    } finally {
      await driver.close()
    }
  },
}
