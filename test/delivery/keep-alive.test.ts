/**
 * That a program does not end while it waits for us, nor is kept from ending by us. Only a process of its own
 * can tell.
 */

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, it } from 'vitest'

const index = new URL('../../src/index.ts', import.meta.url).href

/** What a program prints, until it ends by itself. */
async function run(program: string): Promise<string> {
  const source = `import { open } from ${JSON.stringify(index)}\nconst mq = await open('memory:')\n${program}`
  const options = { timeout: 20_000, env: { ...process.env, NODE_OPTIONS: '', NODE_NO_WARNINGS: '1' } }
  const { stdout } = await promisify(execFile)(
    process.execPath,
    ['--input-type=module', '--eval', source],
    options,
  )
  return stdout.trim()
}

it('a program lives until what it awaits is there, and then ends', async () => {
  const outputs = await Promise.all([
    // a batch that lingers
    run(`await mq.producer({ lingerMs: 30 }).send('t', { value: 'x' }); console.log('sent')`),
    // a reader that waits for the message of another
    run(`
      const consumer = mq.consumer({ topics: ['t'] })
      setTimeout(() => mq.publish('t', { value: 'x' }), 50).unref()
      await consumer.run(message => { console.log(message.text()); void consumer.stop() })
      console.log('stopped')
    `),
    // nothing is awaited any more, although nothing was closed
    run(`await mq.publish('t', { value: 'x' }); mq.consumer({ topics: ['t'] }); console.log('idle')`),
  ])
  expect(outputs).toEqual(['sent', 'x\nstopped', 'idle'])
})
