/** A progress bar on standard error, and only if a person watches it. */

import type { Io } from './context.ts'
import { byteSize, count } from './output.ts'

export interface Progress {
  /** `bytes` more were read; `messages` are acknowledged in all. */
  advance(bytes: number, messages: number): void
  stop(): void
}

/** `bytesTotal` undefined: how much will come is not known, so the bar is a counter. */
export async function startProgress(io: Io, bytesTotal: number | undefined): Promise<Progress> {
  if (!io.stderrIsTerminal) return { advance() {}, stop() {} }
  const { default: cliProgress } = await import('cli-progress')
  const format =
    bytesTotal === undefined
      ? '{read}  {messages} messages'
      : '[{bar}] {percentage}%  {read}  {messages} messages  {eta_formatted} left'
  const bar = new cliProgress.SingleBar({
    format,
    stream: io.stderr as NodeJS.WritableStream,
    clearOnComplete: true,
    hideCursor: true,
  })
  let read = 0
  bar.start(bytesTotal ?? 0, 0, { read: byteSize(0), messages: '0' })
  return {
    advance(bytes, messages) {
      read += bytes
      bar.update(bytesTotal === undefined ? 0 : Math.min(read, bytesTotal), {
        read: byteSize(read),
        messages: count(messages),
      })
    },
    stop: () => bar.stop(),
  }
}
