/**
 * Kafka's own command line tools, as users call them: one case per tool, with what must be in its output. Two cases are for tools
 * that ask for what sluice does not have: they must be told so, and end.
 */

import assert from 'node:assert/strict'
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import type { Check, Report } from '../check.ts'
import { KAFKA_VERSION, kafkaJars, runTool, type ToolOptions } from '../kafka-jars.ts'
import { advertised } from '../server.ts'

const RECORDS = 20_000

export const check: Check = {
  name: 'kafka-tools',
  client: "Kafka's command line tools",
  async install() {
    await kafkaJars()
    return KAFKA_VERSION
  },
  async run(address, _dir, report) {
    const tools = new Tools(address)
    await topicTools(tools, report)
    await consoleTools(tools, report)
    await groupTools(tools, report)
    await offsetTools(tools, report)
    await configTools(tools, report)
    await performanceTools(tools, report)
    await clusterTools(tools, report)
    await whatIsNotServed(tools, report)
    await report.case('topics: delete', async () => {
      await tools.topics(['--delete', '--topic', 'tools'])
      const { stdout } = await tools.topics(['--list'])
      assert.doesNotMatch(stdout, /^tools$/m)
    })
  },
}

interface Run {
  readonly stdout: string
  readonly stderr: string
}

/** The tools by the names of their scripts. Each rejects if the tool ends with another exit code than 0, or than expected. */
class Tools {
  readonly address: string

  constructor(address: string) {
    this.address = address
  }

  async run(className: string, args: readonly string[], options: ToolOptions & { code?: number } = {}) {
    const all = ['--bootstrap-server', this.address, ...args]
    const { code, stdout, stderr } = await runTool(className, all, options)
    assert.equal(code, options.code ?? 0, `exit code ${code}: ${stdout}${stderr}`)
    return { stdout, stderr }
  }

  topics(args: readonly string[], options: { code?: number } = {}): Promise<Run> {
    return this.run('org.apache.kafka.tools.TopicCommand', args, options)
  }
  groups(args: readonly string[], options: { code?: number } = {}): Promise<Run> {
    return this.run('org.apache.kafka.tools.consumer.group.ConsumerGroupCommand', args, options)
  }
  configs(args: readonly string[], options: { code?: number } = {}): Promise<Run> {
    return this.run('kafka.admin.ConfigCommand', args, options)
  }
  produce(args: readonly string[], input: string): Promise<Run> {
    return this.run('org.apache.kafka.tools.ConsoleProducer', args, { input })
  }
  consume(args: readonly string[]): Promise<Run> {
    const limit = ['--timeout-ms', '20000']
    return this.run('org.apache.kafka.tools.consumer.ConsoleConsumer', [...args, ...limit])
  }
  offsets(args: readonly string[]): Promise<Run> {
    return this.run('org.apache.kafka.tools.GetOffsetShell', args)
  }
}

async function topicTools(tools: Tools, report: Report): Promise<void> {
  await report.case('topics: create, describe, alter, list', async () => {
    await tools.topics(['--create', '--topic', 'tools', '--partitions', '2', '--config', 'segment.ms=600000'])
    const { stdout } = await tools.topics(['--describe', '--topic', 'tools'])
    assert.match(stdout, /PartitionCount: 2\tReplicationFactor: 1\tConfigs: .*segment\.ms=600000/)
    assert.match(stdout, /Partition: 1\tLeader: 1\tReplicas: 1\tIsr: 1/)
    await tools.topics(['--alter', '--topic', 'tools', '--partitions', '3'])
    assert.match((await tools.topics(['--list'])).stdout, /^tools$/m)
  })
  await report.case('topics: refusals', async () => {
    const again = await tools.topics(['--create', '--topic', 'tools', '--partitions', '1'], { code: 1 })
    assert.match(again.stderr, /TopicExistsException/)
    const fewer = await tools.topics(['--alter', '--topic', 'tools', '--partitions', '1'], { code: 1 })
    assert.match(fewer.stderr, /InvalidPartitionsException/)
    const args = ['--create', '--topic', 'r', '--partitions', '1', '--replication-factor', '3']
    assert.match((await tools.topics(args, { code: 1 })).stderr, /InvalidReplicationFactorException/)
  })
}

async function consoleTools(tools: Tools, report: Report): Promise<void> {
  await report.case('console producer and consumer', async () => {
    const reader = ['--reader-property', 'parse.key=true', '--reader-property', 'parse.headers=true']
    await tools.produce(
      ['--topic', 'tools', ...reader],
      'h:1\tann\thello\nh:2\tbob\tgrüezi\nh:3\tcid\tthree\n',
    )
    const shown = ['key', 'headers', 'partition', 'offset'].flatMap(each => [
      '--formatter-property',
      `print.${each}=true`,
    ])
    const args = ['--topic', 'tools', '--from-beginning', '--max-messages', '3', '--group', 'tools-group']
    const { stdout } = await tools.consume([...args, ...shown])
    const lines = stdout.split('\n').map(line => line.split('\t'))
    for (const expected of [
      ['h:1', 'ann', 'hello'],
      ['h:2', 'bob', 'grüezi'],
      ['h:3', 'cid', 'three'],
    ]) {
      assert.ok(
        lines.some(line => expected.every((part, index) => line[index + 2] === part)),
        `${expected} is not in ${stdout}`,
      )
    }
  })
  for (const codec of ['gzip', 'snappy', 'lz4', 'zstd']) {
    await report.case(`console producer with ${codec}`, async () => {
      const topic = `tools-${codec}`
      await tools.topics(['--create', '--topic', topic, '--partitions', '1'])
      const lines = Array.from({ length: 500 }, (_, index) => `${codec} line ${index}`)
      await tools.produce(['--topic', topic, '--compression-codec', codec], `${lines.join('\n')}\n`)
      const args = ['--topic', topic, '--from-beginning', '--max-messages', '500']
      const { stdout } = await tools.consume([...args, '--isolation-level', 'read_committed'])
      assert.deepEqual(
        stdout.split('\n').filter(line => line.startsWith(codec)),
        lines,
      )
    })
  }
}

async function groupTools(tools: Tools, report: Report): Promise<void> {
  const group = ['--group', 'tools-group']
  await report.case('consumer groups: list, describe', async () => {
    assert.match((await tools.groups(['--list'])).stdout, /^tools-group$/m)
    assert.match((await tools.groups(['--list', '--state'])).stdout, /^tools-group +Empty/m)
    const { stdout } = await tools.groups(['--describe', ...group])
    const rows = stdout.match(/^tools-group +tools +\d +(\d+) +\1 +0 /gm)
    assert.equal(rows?.length, 3, stdout)
    const state = await tools.groups(['--describe', ...group, '--state'])
    assert.match(state.stdout, /tools-group .*\(1\) .*Empty +0/)
    await tools.groups(['--describe', ...group, '--members', '--verbose'])
  })
  await report.case('consumer groups: reset and delete offsets, delete', async () => {
    const reset = ['--reset-offsets', ...group, '--topic', 'tools', '--to-earliest', '--execute']
    assert.equal((await tools.groups(reset)).stdout.match(/^tools-group +tools +\d +0/gm)?.length, 3)
    const deleted = await tools.groups(['--delete-offsets', ...group, '--topic', 'tools:0'])
    assert.match(deleted.stdout, /tools +0 +Successful/)
    assert.match((await tools.groups(['--delete', ...group])).stdout, /was successful/)
    assert.match((await tools.groups(['--delete', ...group])).stdout, /GroupIdNotFoundException/)
  })
  await report.case('groups: list', async () => {
    await tools.consume(['--topic', 'tools', '--from-beginning', '--max-messages', '1', '--group', 'other'])
    const { stdout } = await tools.run('org.apache.kafka.tools.GroupsCommand', ['--list'])
    assert.match(stdout, /other +Classic +consumer/)
  })
}

async function offsetTools(tools: Tools, report: Report): Promise<void> {
  await report.case('get-offsets: latest, earliest, by time, max timestamp', async () => {
    const sum = async (...args: string[]): Promise<number> => {
      const { stdout } = await tools.offsets(['--topic', 'tools', ...args])
      return stdout
        .split('\n')
        .filter(line => line.startsWith('tools:'))
        .reduce((total, line) => total + Number(line.split(':')[2]), 0)
    }
    assert.equal(await sum(), 3)
    assert.equal(await sum('--time', 'earliest'), 0)
    assert.equal(await sum('--time', '1'), 0)
    assert.ok((await sum('--time', 'max-timestamp')) < 3)
  })
  await report.case('delete-records', async () => {
    const folder = mkdtempSync(join(tmpdir(), 'sluice-tools-'))
    try {
      const file = join(folder, 'offsets.json')
      const partitions = [0, 1, 2].map(partition => ({ topic: 'tools', partition, offset: -1 }))
      writeFileSync(file, JSON.stringify({ partitions, version: 1 }))
      const { stdout } = await tools.run('org.apache.kafka.tools.DeleteRecordsCommand', [
        '--offset-json-file',
        file,
      ])
      const marks = [...stdout.matchAll(/partition: tools-\d\tlow_watermark: (\d+)/g)]
      assert.equal(
        marks.reduce((sum, [, mark]) => sum + Number(mark), 0),
        3,
      )
    } finally {
      rmSync(folder, { recursive: true, force: true })
    }
  })
  await report.case('log-dirs', async () => {
    const args = ['--describe', '--topic-list', 'tools']
    const { stdout } = await tools.run('org.apache.kafka.tools.LogDirsCommand', args)
    const { brokers } = JSON.parse(stdout.split('\n').find(line => line.startsWith('{'))!)
    assert.equal(brokers[0].logDirs[0].partitions.length, 3)
  })
}

async function configTools(tools: Tools, report: Report): Promise<void> {
  const topic = ['--topic', 'tools-gzip']
  await report.case('configs: topic', async () => {
    await tools.configs(['--alter', ...topic, '--add-config', 'retention.ms=1000,max.message.bytes=2000'])
    const { stdout } = await tools.configs(['--describe', ...topic])
    assert.match(stdout, /^ {2}max\.message\.bytes=2000 .*DYNAMIC_TOPIC_CONFIG/m)
    assert.match(stdout, /^ {2}retention\.ms=1000 /m)
    await tools.configs(['--alter', ...topic, '--delete-config', 'retention.ms'])
    const all = await tools.configs(['--describe', ...topic, '--all'])
    assert.match(all.stdout, /^ {2}retention\.ms=604800000 .*DEFAULT_CONFIG/m)
    const wrong = ['--alter', ...topic, '--add-config', 'no.such.key=1']
    assert.match((await tools.configs(wrong, { code: 1 })).stderr, /InvalidConfigurationException/)
  })
  await report.case('configs: broker', async () => {
    const { stdout } = await tools.configs(['--describe', '--broker', '1', '--all'])
    assert.match(stdout, /^ {2}log\.retention\.ms=/m)
    assert.match(stdout, /^ {2}message\.max\.bytes=/m)
  })
}

async function performanceTools(tools: Tools, report: Report): Promise<void> {
  await report.case('producer and consumer performance', async () => {
    await tools.topics(['--create', '--topic', 'fast', '--partitions', '2'])
    const amount = ['--topic', 'fast', '--num-records', `${RECORDS}`]
    const size = ['--record-size', '100', '--throughput', '-1']
    const produced = await tools.run('org.apache.kafka.tools.ProducerPerformance', [...amount, ...size])
    assert.match(produced.stdout, new RegExp(`^${RECORDS} records sent`, 'm'))
    const consumed = await tools.run('org.apache.kafka.tools.ConsumerPerformance', amount)
    assert.match(consumed.stdout, new RegExp(`, ${RECORDS}, `))
  })
  await report.case('verifiable producer and consumer', async () => {
    await tools.topics(['--create', '--topic', 'verified', '--partitions', '1'])
    const produced = await tools.run('org.apache.kafka.tools.VerifiableProducer', [
      ...['--topic', 'verified', '--max-messages', '1000', '--acks', '-1'],
    ])
    assert.equal(produced.stdout.match(/"producer_send_success"/g)?.length, 1000)
    const consumed = await tools.run('org.apache.kafka.tools.VerifiableConsumer', [
      ...['--topic', 'verified', '--group-id', 'verified', '--max-messages', '1000'],
      ...['--reset-policy', 'earliest'],
    ])
    assert.match(consumed.stdout, /"offsets_committed".*"offset":1000}\],"success":true/)
  })
  await report.case('end-to-end latency', async () => {
    const args = [
      '--topic',
      'verified',
      '--num-records',
      '50',
      '--producer-acks',
      'all',
      '--record-size',
      '100',
    ]
    const { stdout } = await tools.run('org.apache.kafka.tools.EndToEndLatency', args)
    assert.match(stdout, /Percentiles: 50th = \d+/)
  })
}

async function clusterTools(tools: Tools, report: Report): Promise<void> {
  await report.case('broker-api-versions', async () => {
    const { stdout } = await tools.run('org.apache.kafka.tools.BrokerApiVersionsCommand', [])
    const served = await advertised(tools.address)
    const usable = stdout.match(/^\t\w+\(\d+\): \d+(?: to \d+)? \[usable: \d+\]/gm)
    assert.equal(usable?.length, served.size, stdout)
  })
  await report.case('cluster, leader election, producers', async () => {
    const id = await runTool('org.apache.kafka.tools.ClusterTool', [
      ...['cluster-id', '--bootstrap-server', tools.address],
    ])
    assert.match(id.stdout, /Cluster ID: \S+/)
    const election = ['--election-type', 'preferred', '--topic', 'tools', '--partition', '0']
    const elected = await tools.run('org.apache.kafka.tools.LeaderElectionCommand', election)
    assert.match(elected.stdout, /Valid replica already elected for partitions tools-0/)
    const producers = ['describe-producers', '--topic', 'verified', '--partition', '0']
    const found = await tools.run('org.apache.kafka.tools.TransactionsCommand', producers)
    assert.match(found.stdout, /^\d+ +\t0 /m)
  })
}

/** The name in Kafka's list of APIs, and a tool that needs it. */
const absent = {
  DESCRIBE_QUORUM: ['org.apache.kafka.tools.MetadataQuorumCommand', 'describe', '--status'],
  LIST_PARTITION_REASSIGNMENTS: ['org.apache.kafka.tools.reassign.ReassignPartitionsCommand', '--list'],
} as const

async function whatIsNotServed(tools: Tools, report: Report): Promise<void> {
  for (const [api, [className, ...args]] of Object.entries(absent)) {
    await report.case(`told that there is no ${api}`, async () => {
      const { stdout, stderr } = await tools.run(className, args, { code: 1 })
      assert.match(
        stdout + stderr,
        new RegExp(`UnsupportedVersionException: The node does not support ${api}`),
      )
    })
  }
}
