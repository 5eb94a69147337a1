/**
 * SIGKILL of the application, a relay, a consumer, the database server (SQLite: of all that use it) and the broker, one after another at moments chosen by what has been done, under
 * load: every committed order has its message once, no message is without its order, the order of keys is kept, and every message has its
 * effect once. SLUICE_CRASH_ROUNDS (default 5): kills.
 */

import { type ChildProcess, spawn } from 'node:child_process'
import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { expect, test } from 'vitest'
import { SluiceServer } from '../../compat/server.ts'
import { OutboxAdmin } from '../../src/database/outbox.ts'
import { migrate } from '../../src/database/schema.ts'
import { numberOf } from '../../src/database/session.ts'
import { open } from '../../src/open.ts'
import { type CrashTask, openDatabase } from './crash/database-of.ts'
import { type Connection, startMariadb, startPostgres } from './services.ts'

const ROUNDS = Number(process.env.SLUICE_CRASH_ROUNDS ?? 5)
const SETTLE_MS_MAX = 180_000
const root = join(import.meta.dirname, 'crash')

/** Processes of one kind, one of which can be killed and started again. */
class Worker {
  readonly #file: string
  readonly #task: CrashTask
  readonly #told: (what: string) => void
  #child: ChildProcess | null = null

  constructor(file: string, task: CrashTask, told: (what: string) => void) {
    this.#file = file
    this.#task = task
    this.#told = told
    this.start()
  }

  start(): void {
    const child = spawn(process.execPath, [join(root, this.#file), JSON.stringify(this.#task)], {
      stdio: ['ignore', 'pipe', 'ignore'],
    })
    this.#child = child
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      for (const what of text.split('\n')) if (what !== '') this.#told(what)
    })
    // a broker that is away when it starts: it is started again, as a supervisor would
    child.once('exit', code => {
      if (this.#child === child && code !== null) setTimeout(() => this.#child === child && this.start(), 200)
    })
  }

  async kill(): Promise<void> {
    const child = this.#child
    this.#child = null
    if (child === null || child.exitCode !== null || child.signalCode !== null) return
    const gone = new Promise(resolve => child.once('exit', resolve))
    child.kill('SIGKILL')
    await gone
  }
}

/** SQLite is in the processes that use it: killing it is killing them. */
function sqliteFile(): Database {
  const folder = mkdtempSync(join(tmpdir(), 'sluice-crash-'))
  return {
    connection: join(folder, 'shop.db'),
    kill: workers => Promise.all(workers.map(worker => worker.kill())),
    start: workers => workers.map(worker => worker.start()),
    [Symbol.asyncDispose]: async () => rmSync(folder, { recursive: true, force: true }),
  }
}

interface Database extends AsyncDisposable {
  readonly connection: Connection | string
  kill(workers: readonly Worker[]): Promise<unknown>
  start(workers: readonly Worker[]): unknown
}

const autoId = {
  postgres: 'bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY',
  mariadb: 'bigint AUTO_INCREMENT PRIMARY KEY',
  sqlite: 'integer PRIMARY KEY AUTOINCREMENT',
} as const

for (const [kind, startDatabase] of [
  ['postgres', (): Promise<Database> => startPostgres()],
  ['mariadb', (): Promise<Database> => startMariadb()],
  ['sqlite', async () => sqliteFile()],
] as const) {
  test(`${kind}: exactly once across ${ROUNDS} kills`, {
    timeout: 120_000 + ROUNDS * 20_000 + SETTLE_MS_MAX,
  }, async () => {
    await using service = await startDatabase()
    await using broker = new SluiceServer(['--flush', 'always'])
    await broker.start()
    const { connection } = service
    const url = `kafka://${broker.address}`
    const { database, native, close } = openDatabase({ kind, connection })
    await migrate(database)
    await database.query(`CREATE TABLE orders (id ${autoId[kind]}, order_key varchar(50))`)
    await database.query('CREATE TABLE effects (order_id bigint)')
    const setup = await open({ url })
    await setup.createTopic('orders', { partitions: 4 })
    await setup.close()

    let wanted: { what: string; count: number; reached: () => void } | null = null
    const told = (what: string): void => {
      if (wanted?.what === what && --wanted.count <= 0) wanted.reached()
    }
    const begin = (file: string, name: string): Worker =>
      new Worker(file, { kind, connection, broker: url, name }, told)
    const applications = ['a', 'b'].map(name => begin('application.ts', name))
    const relays = ['r', 's'].map(name => begin('relay.ts', name))
    const consumers = ['c', 'd'].map(name => begin('consumer.ts', name))
    const all = [...applications, ...relays, ...consumers]
    try {
      for (let round = 0; round < ROUNDS; round++) {
        const what = ['committed', 'published', 'handled'][round % 3]
        await new Promise<void>((reached, failed) => {
          const timer = setTimeout(
            () => failed(new Error(`round ${round}: nothing was ${what} for a minute`)),
            60_000,
          )
          wanted = {
            what,
            count: 1 + Math.floor(Math.random() * 20),
            reached: () => {
              clearTimeout(timer)
              wanted = null
              reached()
            },
          }
        })
        const victim = round % 5
        if (victim === 3) {
          await service.kill(all)
          await service.start(all)
        } else if (victim === 4) {
          await broker.end('SIGKILL')
          await broker.start()
        } else {
          const [worker] = [applications, relays, consumers][victim].toSorted(() => Math.random() - 0.5)
          await worker.kill()
          worker.start()
        }
      }
      await Promise.all(applications.map(application => application.kill()))
      const count = async (sql: string): Promise<number> => numberOf((await database.query(sql)).rows[0].n)
      const orders = await count('SELECT COUNT(*) AS n FROM orders')
      const admin = new OutboxAdmin(native)
      await expect
        .poll(async () => (await admin.status())[0]?.pending, { timeout: SETTLE_MS_MAX, interval: 500 })
        .toBe(0)
      await expect
        .poll(() => count('SELECT COUNT(*) AS n FROM effects'), { timeout: SETTLE_MS_MAX, interval: 500 })
        .toBeGreaterThanOrEqual(orders)
      await Promise.all(all.map(worker => worker.kill()))
      await checkMessages(url, (await database.query('SELECT id, order_key FROM orders ORDER BY id')).rows)
      expect(
        await count(
          'SELECT COUNT(*) AS n FROM (SELECT order_id FROM effects GROUP BY order_id HAVING COUNT(*) > 1) AS twice',
        ),
      ).toBe(0)
      expect(await count('SELECT COUNT(*) AS n FROM effects')).toBe(orders)
      expect(
        await count(
          'SELECT COUNT(*) AS n FROM orders LEFT JOIN effects ON orders.id = effects.order_id WHERE order_id IS NULL',
        ),
      ).toBe(0)
      process.stdout.write(
        `${kind}: ${ROUNDS} kills, ${orders} orders, each with its message and effect once\n`,
      )
    } finally {
      await Promise.all(all.map(worker => worker.kill()))
      await close()
    }
  })
}

/** What a reader of committed messages sees, beside what was committed in the database. */
async function checkMessages(
  url: string,
  orders: readonly Readonly<Record<string, unknown>>[],
): Promise<void> {
  const mq = await open({ url })
  const seen = new Map<string, number[]>()
  let count = 0
  for (let partition = 0; partition < 4; partition++) {
    const end = await mq.offsetFor('orders', partition, 'latest')
    const consumer = mq.consumer({ topics: ['orders'], partitions: [partition] })
    const reading = consumer.run(message => {
      const key = String(message.key)
      seen.set(key, [...(seen.get(key) ?? []), Number(message.text())])
      count++
    })
    await expect.poll(() => consumer.position({ topic: 'orders', partition }), { timeout: 60_000 }).toBe(end)
    await consumer.stop()
    await reading
  }
  await mq.close()
  const expected = new Map<string, number[]>()
  for (const { id, order_key: key } of orders) {
    expected.set(String(key), [...(expected.get(String(key)) ?? []), Number(id)])
  }
  expect(count).toBe(orders.length)
  for (const [key, ids] of expected) expect(seen.get(key), `messages of ${key}`).toEqual(ids)
}
