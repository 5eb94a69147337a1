/** Makes a topic the way its descriptor says, before the engine would make it the way it makes any topic. */

import type { Engine } from '../engine/engine.ts'
import { isSluiceError } from '../errors.ts'
import type { AnyTopic } from './topic.ts'

/** Does nothing if the topic exists, or if the descriptor asks for nothing particular. */
export async function createAsDescribed(engine: Engine, topic: AnyTopic): Promise<void> {
  const { name, partitions, config } = topic
  if (partitions === undefined && config === undefined) return
  try {
    await engine.createTopic({ name, partitions, config })
  } catch (error) {
    if (!isSluiceError(error, 'TOPIC_EXISTS')) throw error
  }
}
