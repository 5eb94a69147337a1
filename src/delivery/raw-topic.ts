/** A topic whose keys and values are bytes, or null: for whoever passes messages on without looking into them. */

import { bytes } from './codec.ts'
import { topic } from './topic.ts'

export const rawTopic = (name: string) => topic(name, { value: bytes, key: bytes, tombstones: true })
