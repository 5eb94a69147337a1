/** aiokafka. */

import type { Check } from '../check.ts'
import { installPython, pythonDriver } from '../python.ts'
import { scenario } from '../scenario.ts'

const here = import.meta.dirname

export const check: Check = {
  name: 'aiokafka',
  client: 'aiokafka',
  install: dir => installPython(here, dir, 'aiokafka'),
  async run(address, dir, report) {
    const driver = pythonDriver(here, dir, address)
    const codecs = ['none', 'gzip', 'snappy', 'lz4', 'zstd'] as const
    const errors = {
      topicExists: /TopicAlreadyExists/,
      tooLarge: /MessageSizeTooLarge/,
      unknownTopic: /UnknownTopicOrPartition/,
    }
    try {
      await scenario(address, driver, { codecs, errors, isIdempotent: true }, report)
    } finally {
      await driver.close()
    }
  },
}
