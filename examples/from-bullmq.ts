/**
 * What a program with BullMQ does, with sluice: jobs with attempts and back-off, delay, priorities, a repeated
 * job, events, and a look at what has failed. docs/guides/migrating-from-bullmq.md has both side by side.
 *
 *     node from-bullmq.ts
 */

import { open } from 'sluice'

interface Email {
  readonly to: string
  readonly subject: string
}

const mq = await open('memory:') // BullMQ: a connection to Redis

const emails = mq.queue('emails', {
  priorities: 2,
  retry: { first: '50ms', factor: 2, attempts: 3 },
})

await emails.send({ to: 'ann', subject: 'news' })
await emails.send({ to: 'bob', subject: 'your code is 1234' }, { priority: 2 })
await emails.send({ to: 'cem', subject: 'how was it?' }, { delay: '300ms' })
await emails.send({ to: 'nobody', subject: 'news' })
await mq.schedules.set('digest', {
  cron: '0 7 * * *',
  timezone: 'Europe/Berlin',
  topic: 'emails',
  message: { value: { to: 'everybody', subject: 'digest' } },
})

const finished = Promise.withResolvers<void>()
let left = 4
const isOver = () => --left === 0 && finished.resolve()
emails.on('completed', message => {
  console.log(`sent to ${message.json<Email>().to}`)
  isOver()
})
emails.on('failed', (message, error, job) => {
  console.log(`${message.json<Email>().to}, attempt ${job.attempt}: ${(error as Error).message}`)
})
emails.on('deadLettered', message => {
  console.log(`gave up on ${message.json<Email>().to}`)
  isOver()
})

emails.process({ concurrency: 1, timeout: '10s' }, async message => {
  const { to } = message.json<Email>()
  if (to === 'nobody') throw new Error('no such mailbox')
})
await finished.promise

const [failed] = (await mq.deadLetters('emails', 'emails').list()).letters
console.log(`failed: ${failed.error.message} after ${failed.attempts} attempts`)
console.log(`next digest: ${(await mq.schedules.list())[0].nextAt === null ? 'never' : 'is planned'}`)
await mq.close()
