/**
 * The input of the loops: per partition the records `PARTITION:0`, `PARTITION:1`, …, written in transactions. Between them lie
 * aborted ones, whose records are `x` and must reach nobody.
 */

import { RawClient } from '../raw-client.ts'
import { type KeyAndValue, TransactionalWriter } from './writer.ts'

export const PARTITIONS = 4
const CHUNK_RECORDS = 40
const ABORT_EVERY = 3

export class Input {
  readonly topic: string
  /** Records that count, in each partition. */
  count = 0
  readonly #withAborts: boolean
  #chunks = 0

  /** `withAborts`: false leaves out the aborted transactions. */
  constructor(topic: string, withAborts: boolean) {
    this.topic = topic
    this.#withAborts = withAborts
  }

  /** Adds at least so many records to each partition. */
  async add(port: number, records: number): Promise<void> {
    const client = await RawClient.connect(port)
    try {
      const writer = await TransactionalWriter.open(client, `writer-of-${this.topic}`)
      for (const end = this.count + records; this.count < end; ) {
        if (this.#withAborts && ++this.#chunks % ABORT_EVERY === 0) {
          await this.#write(writer, () => 'x')
          await writer.end(false)
        }
        await this.#write(writer, (partition, index) => `${partition}:${this.count + index}`)
        await writer.end(true)
        this.count += CHUNK_RECORDS
      }
    } finally {
      client.close()
    }
  }

  async #write(
    writer: TransactionalWriter,
    textOf: (partition: number, index: number) => string,
  ): Promise<void> {
    for (let partition = 0; partition < PARTITIONS; partition++) {
      const records = Array.from({ length: CHUNK_RECORDS }, (_, index): KeyAndValue => {
        const text = textOf(partition, index)
        return [text, text]
      })
      await writer.write(this.topic, partition, records)
    }
  }
}
