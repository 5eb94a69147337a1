/**
 * Three members of one consumer group share the partitions of a topic until they have read all that is there. Each writes
 * what it handles to a file of its own, and commits once that is on the disk. So whenever this process is killed, the next
 * one goes on behind the last commit, and repeats at most the COMMIT_EVERY messages of a partition that were written and not
 * committed yet.
 *
 *     node consume.ts DATA OUTPUT [TOPIC [GROUP]]
 *
 * OUTPUT/member-0.jsonl…   a line per message: {"partition":3,"offset":17,"record":…}
 * standard output          a line per commit, once it is on the disk: committed 3 18
 */

import { type FileHandle, mkdir, open as openFile } from 'node:fs/promises'
import { join } from 'node:path'
import { type Message, open } from 'sluice'

const MEMBERS = 3
const COMMIT_EVERY = 25

const [data, output, topic = 'packages', group = 'readers'] = process.argv.slice(2)
if (data === undefined || output === undefined)
  throw new Error('usage: consume.ts DATA OUTPUT [TOPIC [GROUP]]')

/** Aborted when everything has been read, or on Ctrl-C. */
const done = new AbortController()
process.once('SIGINT', () => done.abort())

await mkdir(output, { recursive: true })
const mq = await open({ url: data, autoCreateTopics: false })

/** Where the partitions end now; those that the group has read so far are taken out. */
const unread = new Map<number, number>()
for (const { partition, startOffset, endOffset } of (await mq.describeTopic(topic)).partitions) {
  if (startOffset < endOffset) unread.set(partition, endOffset)
}
for (const { partition, offset } of await mq.engine.committed(group)) hasRead(partition, offset)
if (unread.size === 0) done.abort()

await Promise.all(Array.from({ length: MEMBERS }, (_, number) => runMember(number)))
await mq.close()

async function runMember(number: number): Promise<void> {
  const file = await openLines(join(output, `member-${number}.jsonl`))
  const consumer = mq.consumer({ topics: [topic], group, autoCommit: false, signal: done.signal })
  await consumer.runBatch(async batch => {
    const messages = batch.messages()
    for (let at = 0; at < messages.length && !done.signal.aborted; at += COMMIT_EVERY) {
      const some = messages.slice(at, at + COMMIT_EVERY)
      await file.appendFile(some.map(lineOf).join(''))
      await file.datasync()
      const last = some[some.length - 1]
      await consumer.commit(last)
      console.log(`committed ${last.partition} ${last.offset + 1}`)
      hasRead(last.partition, last.offset + 1)
    }
  })
  await file.close()
}

function hasRead(partition: number, offset: number): void {
  if (offset >= (unread.get(partition) ?? 0)) unread.delete(partition)
  if (unread.size === 0) done.abort()
}

function lineOf(message: Message): string {
  return `{"partition":${message.partition},"offset":${message.offset},"record":${message.text()}}\n`
}

/** For appending lines; half a line at the end, which a kill can leave behind, is cut off. */
async function openLines(path: string): Promise<FileHandle> {
  const file = await openFile(path, 'a+')
  await file.truncate((await file.readFile()).lastIndexOf('\n') + 1)
  return file
}
