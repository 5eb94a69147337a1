/**
 * Consume, transform, produce in transactions, for compat/transactions. `loop.ts ADDRESS INPUT OUTPUT GROUP MEMBER`
 *
 * This client's TxnOffsetCommit (version 1) says neither member nor generation, and its OffsetFetch (version 4) cannot ask for
 * stable offsets. So one producer per member would not be exactly once: after a rebalance the partition's next member could read
 * offsets that a transaction of the one before is about to commit. What is left is how it was done before KIP-447: a transactional id per
 * partition of the input. Who takes a partition over begins with its id, which ends or fences whatever was under way, and only then asks for
 * the committed offset. The lines it prints are those of compat/transactions/loop.ts.
 */

import kafkajs, { type EachBatchPayload, type KafkaMessage, type Producer } from 'kafkajs'

const RECORDS_MAX = 25
const ABORT_EVERY = 7

const [address, input, output, groupId, member] = process.argv.slice(2)
const { Kafka, logLevel } = kafkajs
const kafka = new Kafka({
  brokers: [address],
  clientId: member,
  logLevel: logLevel.NOTHING,
  retry: { initialRetryTime: 50, maxRetryTime: 500, retries: 1000 },
})

interface Owned {
  readonly producer: Producer
  /** What is before it is done. */
  next: number
}

const admin = kafka.admin()
let isStopping = false
let transactions = 0

/** A consumer and the producers of what it was given, until it gives up: then another session is needed. */
class Session {
  readonly #consumer = kafka.consumer({
    groupId,
    sessionTimeout: 6000,
    rebalanceTimeout: 6000,
    heartbeatInterval: 500,
    maxWaitTimeInMs: 100,
    readUncommitted: false,
  })
  /** This session's own: what the one before still has under way is fenced, and must not find a producer that is not. */
  readonly #owned = new Map<number, Owned>()

  async run(): Promise<void> {
    const { connect, subscribe, run, on, events } = this.#consumer
    on(events.CRASH, ({ payload: { error, restart } }) => {
      if (restart || isStopping) return
      console.log(`again the consumer gave up: ${String(error).replace(/\s+/g, ' ')}`)
      this.close().catch(() => {})
      begin()
    })
    await connect()
    await subscribe({ topics: [input], fromBeginning: true })
    await run({
      autoCommit: false,
      eachBatchAutoResolve: false,
      eachBatch: payload => this.#eachBatch(payload),
    })
  }

  async close(): Promise<void> {
    const producers = [...this.#owned.values()].map(({ producer }) => producer)
    await Promise.allSettled([this.#consumer, ...producers].map(each => each.disconnect()))
  }

  async #eachBatch(payload: EachBatchPayload): Promise<void> {
    const { batch, resolveOffset, heartbeat, isRunning, isStale } = payload
    const { partition } = batch
    try {
      const taken = await this.#take(partition)
      const isLeft = ({ offset }: KafkaMessage) => Number(offset) >= taken.next
      for (let left = batch.messages.filter(isLeft); left.length > 0; left = left.filter(isLeft)) {
        if (!isRunning() || isStale()) return
        const messages = left.slice(0, RECORDS_MAX)
        if (!(await transact(taken, partition, messages))) continue
        taken.next = Number(messages.at(-1)!.offset) + 1
        resolveOffset(messages.at(-1)!.offset)
        await heartbeat()
      }
      resolveOffset(batch.lastOffset())
    } catch (error) {
      console.log(`again ${String(error).replace(/\s+/g, ' ')}`)
      // What it holds is read again, from the first offset that is not resolved; what was committed of it is passed over.
      const { producer } = this.#owned.get(partition) ?? {}
      this.#owned.delete(partition)
      producer?.disconnect().catch(() => {})
      throw error
    }
  }

  async #take(partition: number): Promise<Owned> {
    const found = this.#owned.get(partition)
    if (found !== undefined) return found
    const producer = kafka.producer({
      transactionalId: `${groupId}-${partition}`,
      transactionTimeout: 20_000,
      idempotent: true,
      maxInFlightRequests: 1,
      allowAutoTopicCreation: false,
    })
    await producer.connect()
    const [{ partitions }] = await admin.fetchOffsets({ groupId, topics: [input] })
    const committed = Number(partitions.find(each => each.partition === partition)?.offset ?? -1)
    const taken = { producer, next: Math.max(0, committed) }
    this.#owned.set(partition, taken)
    return taken
  }
}

/** Once. Resolves with whether it was committed. */
async function transact(
  { producer }: Owned,
  partition: number,
  messages: readonly KafkaMessage[],
): Promise<boolean> {
  const number = ++transactions
  const transaction = await producer.transaction()
  const records = messages.map(({ key, value }) => ({
    partition,
    key,
    value: `${value}|${member}.${number}`,
  }))
  const offset = `${BigInt(messages.at(-1)!.offset) + 1n}`
  try {
    await transaction.send({ topic: output, messages: records })
    await transaction.sendOffsets({
      consumerGroupId: groupId,
      topics: [{ topic: input, partitions: [{ partition, offset }] }],
    })
    console.log(`sent ${records.length}`)
    if (number % ABORT_EVERY === 0) {
      await transaction.abort()
      console.log(`aborted ${records.length}`)
      return false
    }
    console.log('ending')
    await transaction.commit()
  } catch (error) {
    if (transaction.isActive()) await transaction.abort().catch(() => {})
    throw error
  }
  console.log(`committed ${records.length}`)
  return true
}

let session: Session

function begin(): void {
  session = new Session()
  session.run().catch(error => {
    console.error(error)
    process.exit(1)
  })
}

process.stdin.resume().on('end', async () => {
  isStopping = true
  await session.close()
  process.exit(0)
})
await admin.connect()
begin()
