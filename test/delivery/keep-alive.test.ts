/**
 * That a program does not end while it waits for us, nor is kept from ending by us. Only a process of its own
 * can tell.
 */

import { execFile } from 'node:child_process'
import { promisify } from 'node:util'
import { expect, it, vi } from 'vitest'

/** A program that does not end by itself is what is looked for; one that starts slowly, on a busy machine, is not. */
const LIMIT_MS = 100_000
vi.setConfig({ testTimeout: 2 * LIMIT_MS })

const index = new URL('../../src/index.ts', import.meta.url).href

/** What a program prints, until it ends by itself. */
async function run(program: string): Promise<string> {
  const source = `import { open } from ${JSON.stringify(index)}\nconst mq = await open('memory:')\n${program}`
  const options = { timeout: LIMIT_MS, env: { ...process.env, NODE_OPTIONS: '', NODE_NO_WARNINGS: '1' } }
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

it('a relay that runs beside a program does not keep it', async () => {
  const outputs = await Promise.all([
    run(`await mq.publish('t', { value: 'x', delay: '1h' }); console.log('delayed')`),
    run(`await mq.half.prepare('t', { value: 'x' }, { checker: 'c' }); console.log('prepared')`),
    run(
      `await mq.deduplicate('t', { window: '1h' }).publish({ id: 'a', value: 'x' }); console.log('published')`,
    ),
    // it was at work by then, and is stopped properly
    run(`
      await mq.publish('t', { value: 'x', delay: 1 })
      for await (const message of mq.consumer({ topics: ['t'] })) { console.log(message.text()); break }
      await mq.close()
      console.log('closed')
    `),
  ])
  expect(outputs).toEqual(['delayed', 'prepared', 'published', 'x\nclosed'])
})

it('a program that runs a relay on purpose lives until it stops it', async () => {
  const program = `
    const relay = await mq.relay()
    setTimeout(() => { console.log('still there'); void relay.stop() }, 100).unref()
  `
  expect(await run(program)).toBe('still there')
})
