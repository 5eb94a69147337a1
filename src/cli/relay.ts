/** `sluice relay`: delivers what waits in a cluster, until it is told to stop. */

import { exitCodes, type Run } from './context.ts'

export const relay: Run = async context => {
  const interrupted = context.interruption()
  const sluice = await context.open({ create: true })
  const running = await sluice.relay()
  running.on('error', error => context.note(`sluice relay: ${error.code}: ${error.message}`))
  await context.write(`relay for ${sluice.url}\n`)
  if (!interrupted.aborted) {
    await new Promise(resolve => interrupted.addEventListener('abort', resolve, { once: true }))
  }
  await running.stop()
  return exitCodes.ok
}
