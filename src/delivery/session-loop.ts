/** One session after the other, until it is stopped: one that fails is told, and followed by a new one after a pause. */

import { asSluiceError, type SluiceError } from '../errors.ts'
import type { Clock } from '../lib/clock.ts'

export interface LoopedSession {
  /** Until it is stopped; rejects when it cannot go on. */
  run(): Promise<void>
  stop(): Promise<void>
}

export interface SessionLoopSetting {
  readonly clock: Clock
  /** What runs, for messages: `the relay of delayed messages`. */
  readonly name: string
  /** A session that begins from what is committed. */
  make(): LoopedSession
  warn(error: SluiceError): void
}

const RESTART_MS = 1_000

export class SessionLoop {
  readonly #setting: SessionLoopSetting
  #session: LoopedSession | null = null
  #running: Promise<void> | null = null
  #isStopping = false
  #wake: (() => void) | null = null

  constructor(setting: SessionLoopSetting) {
    this.#setting = setting
  }

  /** Doing it again does nothing, nor once it was stopped. */
  start(): void {
    if (this.#running === null && !this.#isStopping) this.#running = this.#run()
  }

  async stop(): Promise<void> {
    this.#isStopping = true
    this.#wake?.()
    await this.#session?.stop()
    await this.#running
  }

  async #run(): Promise<void> {
    const { name, make, warn } = this.#setting
    while (!this.#isStopping) {
      this.#session = make()
      try {
        await this.#session.run()
      } catch (error) {
        if (!this.#isStopping) warn(asSluiceError(error, name))
      }
      this.#session = null
      if (!this.#isStopping) await this.#pause()
    }
  }

  async #pause(): Promise<void> {
    await new Promise<void>(resolve => {
      const timer = this.#setting.clock.after(RESTART_MS, resolve)
      this.#wake = () => {
        timer.cancel()
        resolve()
      }
    })
    this.#wake = null
  }
}
