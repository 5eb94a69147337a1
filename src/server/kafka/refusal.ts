/** Refusals that belong to one item of a request (a topic, a partition, a group): values in the response, not exceptions. */

import { isSluiceError } from '../../errors.ts'
import { kafkaCodeOf } from './handler.ts'

/** Error codes of Kafka that no refusal of the broker stands for. */
export const NONE = 0
export const COORDINATOR_NOT_AVAILABLE = 15
export const INCONSISTENT_GROUP_PROTOCOL = 23
export const INVALID_GROUP_ID = 24
export const INVALID_REPLICATION_FACTOR = 38
export const INVALID_REPLICA_ASSIGNMENT = 39
export const INVALID_CONFIG = 40
export const INVALID_REQUEST = 42
export const NON_EMPTY_GROUP = 68
export const GROUP_ID_NOT_FOUND = 69
export const ELECTION_NOT_NEEDED = 84
export const GROUP_SUBSCRIBED_TO_TOPIC = 86
export const MISMATCHED_ENDPOINT_TYPE = 114
export const UNSUPPORTED_ENDPOINT_TYPE = 115

/** What is in the response of an item that is refused; without an error, of one that is not. */
export interface Outcome {
  readonly errorCode: number
  readonly errorMessage: string | null
}

export const DONE: Outcome = { errorCode: NONE, errorMessage: null }

export const refused = (errorCode: number, errorMessage: string): Outcome => ({ errorCode, errorMessage })

/** The outcome of what was thrown, if it is a refusal. A bug is thrown on. */
export function refusalOf(error: unknown): Outcome {
  if (!isSluiceError(error)) throw error
  return refused(kafkaCodeOf(error), error.message)
}

/** Does it, and tells what came of it. */
export async function outcomeOf(action: () => unknown): Promise<Outcome> {
  try {
    await action()
    return DONE
  } catch (error) {
    return refusalOf(error)
  }
}

/** Those that are there more than once: Kafka refuses to guess which of them is meant. */
export function repeated<T>(items: readonly T[]): Set<T> {
  const seen = new Set<T>()
  return new Set(items.filter(item => seen.size === seen.add(item).size))
}
