/**
 * Consume, transform, produce in transactions, for compat/transactions. `loop.ts ADDRESS INPUT OUTPUT GROUP MEMBER`
 *
 * This client commits offsets in a transaction with member and generation (`Transaction.addOffset`), but its OffsetFetch never asks for stable
 * offsets. So one producer per member would not be exactly once: after a rebalance the partition's next member could read offsets
 * that a transaction of the one before is about to commit. What is left is how it was done before KIP-447: a transactional id per partition
 * of the input. Who takes a partition over begins with its id, which ends or fences whatever was under way, and only then asks for the
 * committed offset. The lines it prints are those of compat/transactions/loop.ts.
 *
 * `producerId` and `producerEpoch`: without them it asks to go on as producer 0, which nobody but that one is allowed.
 */

import { setImmediate as turn } from 'node:timers/promises'
import { Consumer, type Message, Producer } from '@platformatic/kafka'

const RECORDS_MAX = 25
const ABORT_EVERY = 7

const [address, input, output, groupId, member] = process.argv.slice(2)
const base = {
  clientId: member,
  bootstrapBrokers: [address],
  retries: 100,
  retryDelay: 100,
  timeout: 20_000,
}

type Raw = Message<Buffer, Buffer, Buffer, Buffer>
type Transaction = Awaited<ReturnType<Producer['beginTransaction']>>

interface Owned {
  readonly producer: Producer
  /** What is before it is done. */
  next: bigint
}

let isStopping = false
let transactions = 0

/** A consumer and the producers of what it is given, until something goes wrong or it is to stop. */
class Session {
  readonly #owned = new Map<number, Owned>()
  readonly #consumer = new Consumer({
    ...base,
    groupId,
    sessionTimeout: 6000,
    rebalanceTimeout: 6000,
    heartbeatInterval: 500,
  })

  async run(): Promise<void> {
    const stream = await this.#consumer.consume({
      topics: [input],
      mode: 'committed',
      fallbackMode: 'earliest',
      autocommit: false,
      maxWaitTime: 100,
      isolationLevel: 1,
    })
    const failed = new Promise<never>((_, reject) => {
      stream.on('error', reject)
      this.#consumer.on('error', reject)
    })
    failed.catch(() => {})
    stream.on('readable', () => {}) // it fetches nothing before somebody wants to read
    while (!isStopping) {
      const messages: Raw[] = []
      while (messages.length < RECORDS_MAX) {
        const message = stream.read() as Raw | null
        if (message === null) break
        messages.push(message)
      }
      if (messages.length === 0) {
        await Promise.race([failed, new Promise(resolve => setTimeout(resolve, 10))])
        continue
      }
      const partitions = Map.groupBy(messages, message => message.partition)
      for (const [partition, its] of partitions) await this.#process(partition, its)
      await turn()
    }
  }

  /** Leaves the group, if it can. */
  async close(): Promise<void> {
    const producers = [...this.#owned.values()].map(({ producer }) => producer)
    await Promise.allSettled([...producers, this.#consumer].map(each => each.close(true as never)))
  }

  async #process(partition: number, messages: readonly Raw[]): Promise<void> {
    for (let isFirst = !this.#owned.has(partition); ; isFirst = false) {
      const producer = this.#owned.get(partition)?.producer ?? this.#newProducer(partition)
      // The first one takes the partition over; so what is committed is asked for after it.
      const transaction = await producer.beginTransaction()
      const owned = isFirst ? await this.#take(partition, producer) : this.#owned.get(partition)!
      const left = messages.filter(message => message.offset >= owned.next)
      if (left.length === 0) {
        await transaction.cancel() // nothing was sent for it
        return
      }
      if (!(await this.#transact(transaction, left))) continue
      owned.next = left.at(-1)!.offset + 1n
      return
    }
  }

  #newProducer(partition: number): Producer {
    const transactionalId = `${groupId}-${partition}`
    return new Producer({ ...base, transactionalId, idempotent: true, producerId: -1n, producerEpoch: -1 })
  }

  async #take(partition: number, producer: Producer): Promise<Owned> {
    const topics = [{ topic: input, partitions: [partition] }]
    const committed = (await this.#consumer.listCommittedOffsets({ topics })).get(input)?.[partition] ?? -1n
    const owned = { producer, next: committed < 0n ? 0n : committed }
    this.#owned.set(partition, owned)
    return owned
  }

  /** Once. Resolves with whether it was committed. */
  async #transact(transaction: Transaction, left: readonly Raw[]): Promise<boolean> {
    const number = ++transactions
    const messages = left.map(({ partition, key, value }) => ({
      topic: output,
      partition,
      key,
      value: Buffer.from(`${value}|${member}.${number}`),
    }))
    await transaction.addConsumer(this.#consumer as never)
    await transaction.send({ messages: messages as never })
    await transaction.addOffset(left.at(-1)! as never)
    console.log(`sent ${messages.length}`)
    if (number % ABORT_EVERY === 0) {
      await transaction.abort()
      console.log(`aborted ${messages.length}`)
      return false
    }
    console.log('ending')
    await transaction.commit()
    console.log(`committed ${messages.length}`)
    return true
  }
}

process.stdin.resume().on('end', () => {
  isStopping = true
})
while (!isStopping) {
  const session = new Session()
  try {
    await session.run()
  } catch (error) {
    console.log(`again ${innermost(error).replace(/\s+/g, ' ')}`)
  }
  await session.close()
}
process.exit(0)

function innermost(error: unknown): string {
  const { errors, cause } = error as { errors?: unknown[]; cause?: unknown }
  if (Array.isArray(errors) && errors.length > 0) return innermost(errors.at(-1))
  return cause === undefined ? String(error) : innermost(cause)
}
