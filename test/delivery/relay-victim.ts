/**
 * A process that publishes delayed messages and delivers them until it is killed. Arguments: the directory, the number of the first message. Writes
 * `id due` of each message that was accepted, a line each.
 */

import { writeSync } from 'node:fs'
import { open } from '../../src/open.ts'

const [directory, first] = process.argv.slice(2)
const mq = await open(directory)
let index = Number(first)
// delays on the wheel, on the ladder, and from one to the other
const delays = [0, 50, 400, 1_400, 1_600, 2_500, 5_200]
for (;;) {
  const delay = delays[index % delays.length]
  const value = String(index++)
  mq.publish('t', { key: value, value, delay }).then(
    ({ delayId }) => writeSync(1, `${value} ${Number.parseInt(String(delayId).slice(0, 9), 36)}\n`),
    error => writeSync(2, `${error}\n`),
  )
  await new Promise(resolve => setTimeout(resolve, 1))
}
