/** `node publishing-victim.ts DIRECTORY FLUSH`: publishes numbers from 0 on, and writes down those that were accepted, until it is killed. */

import { open } from '../../src/index.ts'

const [directory, flush] = process.argv.slice(2)
const mq = await open({ url: directory, flush: JSON.parse(flush) })
for (let next = 0; ; next += 10) {
  const several = Array.from({ length: 10 }, (_, index) => ({ value: String(next + index) }))
  const published = await mq.publish('t', several)
  process.stdout.write([...published].map(({ offset }) => `${offset}\n`).join(''))
}
