/**
 * Kafka's own Java client: the scenario with its defaults (idempotent producer; range and cooperative-sticky are what a consumer
 * offers), groups with each of its two modern assignors alone, and refusals and admin calls that are more exact there than elsewhere.
 */

import { execFileSync, spawnSync } from 'node:child_process'
import { join } from 'node:path'
import { type Check, NotRunnable, type Report } from '../check.ts'
import { type Driver, ProcessDriver } from '../driver.ts'
import { javaArguments, KAFKA_VERSION, kafkaJars } from '../kafka-jars.ts'
import { everything } from '../records.ts'
import { groupOfTwo, scenario, type Traits } from '../scenario.ts'

const traits: Traits = {
  codecs: ['none', 'gzip', 'snappy', 'lz4', 'zstd'],
  errors: {
    topicExists: /TopicExistsException/,
    tooLarge: /RecordTooLargeException/,
    unknownTopic: /TimeoutException: Topic nowhere not present in metadata/,
  },
  isIdempotent: true,
  consumerProtocol: true,
}

const assignors = {
  range: 'RangeAssignor',
  'round-robin': 'RoundRobinAssignor',
  sticky: 'StickyAssignor',
  'cooperative-sticky': 'CooperativeStickyAssignor',
}

export const check: Check = {
  name: 'java',
  client: 'Java (kafka-clients)',
  async install(dir) {
    if (spawnSync('javac', ['-version']).error !== undefined) throw new NotRunnable('no javac on the PATH')
    const source = join(import.meta.dirname, 'Driver.java')
    execFileSync('javac', ['-nowarn', '-cp', await kafkaJars(), '-d', dir, source], { encoding: 'utf8' })
    return KAFKA_VERSION
  },
  async run(address, dir, report) {
    await withDriver(address, dir, [], driver => scenario(address, driver, traits, report))
    for (const [name, className] of Object.entries(assignors)) {
      await withAssignor(address, dir, name, className, report)
    }
  },
}

async function withAssignor(
  address: string,
  dir: string,
  name: string,
  className: string,
  report: Report,
): Promise<void> {
  const setting = `partition.assignment.strategy=org.apache.kafka.clients.consumer.${className}`
  await withDriver(address, dir, [setting], driver =>
    groupOfTwo(prefixed(driver, name), 'classic', `group of two with ${name}`, everything, report),
  )
}

async function withDriver(
  address: string,
  dir: string,
  settings: readonly string[],
  use: (driver: ProcessDriver) => Promise<void>,
): Promise<void> {
  const java = javaArguments(`${dir}:${await kafkaJars()}`, '256m')
  const driver = new ProcessDriver('java', [...java, 'Driver', address, ...settings])
  try {
    await use(driver)
  } finally {
    await driver.close()
  }
}

/** The same driver, its topics and groups under other names: so a case can run again on one server. */
function prefixed(driver: ProcessDriver, prefix: string): Driver {
  const of = (name: string): string => `${prefix}-${name}`
  return {
    create: (topic, partitions) => driver.create(of(topic), partitions),
    produce: (topic, codec, records) => driver.produce(of(topic), codec, records),
    read: (topic, partitions, count) => driver.read(of(topic), partitions, count),
    readAt: (topic, partition, timestamp) => driver.readAt(of(topic), partition, timestamp),
    topics: () => driver.topics(),
    groups: () => driver.groups(),
    remove: topic => driver.remove(of(topic)),
    join: (member, group, topic, protocol) => driver.join(member, of(group), of(topic), protocol),
    assigned: member => driver.assigned(member),
    received: member => driver.received(member),
    commit: member => driver.commit(member),
    leave: member => driver.leave(member),
    close: () => driver.close(),
  }
}
