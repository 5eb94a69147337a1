/** A database in trouble for some calls, as its driver would tell of it. */

import type { HeldConnection, SqlDatabase } from '../../src/database/database.ts'

const driverError = (message: string, code: string): Error => Object.assign(new Error(message), { code })

export const troubles: readonly (readonly [what: string, error: Error])[] = [
  ['is down', driverError('connect ECONNREFUSED 127.0.0.1:5432', 'ECONNREFUSED')],
  ['is full', driverError('could not extend file: No space left on device', '53100')],
  ['takes transactions back', driverError('could not serialize access due to concurrent update', '40001')],
]

/** `meets` is called before each statement, and each time that a connection is asked for; what it throws, the database throws. */
export function troubled(database: SqlDatabase, meets: () => Promise<void> | void): SqlDatabase {
  const withTrouble =
    <A extends unknown[], R>(call: (...args: A) => Promise<R>) =>
    async (...args: A): Promise<R> => {
      await meets()
      return await call(...args)
    }
  return {
    ...database,
    query: withTrouble(database.query),
    hold: withTrouble(async (): Promise<HeldConnection> => {
      const held = await database.hold()
      return { ...held, query: withTrouble(held.query) }
    }),
  }
}
