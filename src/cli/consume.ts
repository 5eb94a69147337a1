/**
 * `sluice consume`: messages to standard output.
 *
 * Without a group it reads partitions from given positions. With a group it is one or more members; offsets are committed once the
 * messages have been written to standard output, and only what was written. So after a crash a message may be printed
 * again, and none is missing; what was committed is not printed again.
 *
 * Without --follow it ends where the partitions ended when it began: what is published meanwhile is left for the next time.
 */

import { SluiceError } from '../errors.ts'
import type { Context, Invocation, Run } from './context.ts'
import { consumeAsGroup } from './consume-group.ts'
import { consumePartitions } from './consume-partitions.ts'
import type { StoredMessage } from '../server/http/message-json.ts'
import { type Printer, printerOf } from './message-text.ts'

export const consume: Run = async (context, invocation) => {
  const group = invocation.text('group')
  if (group === undefined && invocation.number('members') !== undefined) throw usage('--members needs --group')
  if (group !== undefined && invocation.list('partition').length > 0) {
    throw usage('--partition does not go with --group: the group decides who reads which partition')
  }
  const output = new Output(context, printerOf(invocation), invocation.number('max') ?? Number.POSITIVE_INFINITY)
  if (!output.isComplete) {
    if (group === undefined) await consumePartitions(context, invocation, output)
    else await consumeAsGroup(context, invocation, group, output)
  }
  return context.interruptedWith ?? 0
}

/** Standard output with the limit of --max. */
export class Output {
  readonly #context: Context
  readonly #print: Printer
  #remaining: number
  #pieces: Uint8Array[] = []

  constructor(context: Context, print: Printer, countMax: number) {
    this.#context = context
    this.#print = print
    this.#remaining = countMax
  }

  /** Nothing more may be added. */
  get isComplete(): boolean {
    return this.#remaining <= 0
  }

  /** To be called while not complete. Nothing is written before `flush`. */
  add(message: StoredMessage): void {
    this.#remaining--
    this.#print(message, this.#pieces)
  }

  /** Resolves once the system has taken everything added before. Throws `OutputClosed`. */
  async flush(): Promise<void> {
    const pieces = this.#pieces
    this.#pieces = []
    if (pieces.length > 0) await this.#context.write(Buffer.concat(pieces))
  }
}

const usage = (message: string) => new SluiceError('INVALID_ARGUMENT', message)
