/**
 * The same steps against a real Apache Kafka and against sluice. What comes of each is the same, or docs/guides/kafka-differences.md says why not.
 */

import { readFileSync } from 'node:fs'
import { join } from 'node:path'
import type { Check } from '../check.ts'
import { startKafka } from '../kafka-cluster.ts'
import { KAFKA_VERSION, kafkaJars } from '../kafka-jars.ts'
import { differencesMarkdown, explanationOf, idleSteps } from './differences.ts'
import { type Compared, compare, runSteps } from './run.ts'

const KAFKA_PORT = 19792
const page = join(import.meta.dirname, '../../docs/guides/kafka-differences.md')

export const check: Check = {
  name: 'differential',
  client: 'the same steps against Apache Kafka',
  async install() {
    await kafkaJars()
    return KAFKA_VERSION
  },
  async run(address, _dir, report) {
    const kafka = await startKafka({ port: KAFKA_PORT, config: { 'auto.create.topics.enable': 'false' } })
    let theirs: string[]
    try {
      theirs = await runSteps(KAFKA_PORT)
    } finally {
      await kafka.stop()
    }
    const compared = compare(theirs, await runSteps(Number(address.split(':')[1])))
    for (const area of new Set(compared.map(each => each.area))) {
      const own = compared.filter(each => each.area === area)
      await report.case(`${area}, ${own.length} steps`, async () => explain(own))
    }
    await report.case('every row of the page is true', async () => {
      const idle = idleSteps(compared)
      if (idle.length > 0) throw new Error(`does not differ any more: ${idle.join('; ')}`)
    })
    await report.case('the page is in step', async () => {
      if (readFileSync(page, 'utf8') !== differencesMarkdown()) throw new Error('run npm run docs')
    })
  },
}

/** Prints the steps that differ, side by side. Throws if a difference is not explained. */
function explain(compared: readonly Compared[]): void {
  const unexplained: string[] = []
  for (const { name, kafka, sluice } of compared.filter(({ isSame }) => !isSame)) {
    const explanation = explanationOf(name)
    if (explanation === undefined) unexplained.push(name)
    const why = explanation?.why ?? 'docs/guides/kafka-differences.md does not say'
    console.log(`${name}\n  Kafka   ${kafka}\n  sluice  ${sluice}\n  why     ${why}`)
  }
  if (unexplained.length > 0) throw new Error(`unexplained differences: ${unexplained.join('; ')}`)
}
