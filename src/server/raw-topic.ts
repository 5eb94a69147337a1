/** A topic as HTTP and the command line see it: keys and values are bytes, or null. */

import { bytes } from '../delivery/codec.ts'
import { topic } from '../delivery/topic.ts'

export const rawTopic = (name: string) => topic(name, { value: bytes, key: bytes, tombstones: true })
