/** A server in this process for tests, over memory and a free port, and a client for its JSON. */

import { Writable } from 'node:stream'
import { expect } from 'vitest'
import { systemClock } from '../../src/lib/clock.ts'
import { createLogger, type Logger } from '../../src/server/logger.ts'
import { resolveOptions } from '../../src/server/options.ts'
import { type RunningServer, startServer } from '../../src/server/server.ts'

export const silent: Logger = createLogger({
  level: 'silent',
  format: 'text',
  output: new Writable(),
  clock: systemClock,
})

export class TestServer implements AsyncDisposable {
  readonly running: RunningServer

  private constructor(running: RunningServer) {
    this.running = running
  }

  static async start(flags: Record<string, unknown> = {}, log: Logger = silent): Promise<TestServer> {
    const options = await resolveOptions({
      flags: { data: 'memory:', httpPort: '0', kafkaPort: '0', ...flags },
    })
    return new TestServer(await startServer(options, log))
  }

  get url(): string {
    return this.running.addresses.http!.url
  }

  get port(): number {
    return this.running.addresses.http!.port
  }

  get(path: string): Promise<Answer> {
    return this.send('GET', path)
  }

  post(path: string, body?: unknown): Promise<Answer> {
    return this.send('POST', path, body)
  }

  /** A string is sent as it is, anything else as JSON. */
  async send(
    method: string,
    path: string,
    body?: unknown,
    headers: Readonly<Record<string, string>> = body === undefined
      ? {}
      : { 'content-type': 'application/json' },
  ): Promise<Answer> {
    const text = typeof body === 'string' ? body : JSON.stringify(body)
    const response = await fetch(this.url + path, {
      method,
      headers,
      ...(text === undefined ? {} : { body: text }),
    })
    return { status: response.status, json: await response.json() }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.running.stop()
  }
}

export interface Answer {
  readonly status: number
  readonly json: unknown
}

/** What an answer looks like that refuses. */
export const refusal = (status: number, code: string, message?: RegExp) => ({
  status,
  json: {
    error: {
      code,
      message: expect.stringMatching(message ?? /./),
      detail: expect.any(Object),
    },
  },
})
