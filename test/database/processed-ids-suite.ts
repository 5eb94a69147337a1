/** What every store of processed ids must do. */

import { afterAll, beforeAll, describe, expect, it } from 'vitest'
import type { Claim, ProcessedIds, ProcessedIdsOptions } from '../../src/database/processed-ids.ts'
import { systemClock } from '../../src/lib/clock.ts'

export interface TestStore {
  /** A store over the same ids as all others of this. */
  open(options: ProcessedIdsOptions): ProcessedIds
  /** Whether it goes by the clock that it is given. */
  readonly hasOwnClock: boolean
  close(): Promise<void>
}

export function processedIdsSuite(name: string, make: () => Promise<TestStore>): void {
  describe(`processed ids: ${name}`, () => {
    let given: TestStore
    let count = 0
    beforeAll(async () => {
      given = await make()
    }, 120_000)
    afterAll(() => given.close())

    const fresh = (): string => `id-${count++}`
    const claimed = async (store: ProcessedIds, id: string): Promise<Claim> => {
      const claim = await store.claim(id)
      if (typeof claim === 'string') throw new Error(`${id} is ${claim}`)
      return claim
    }

    it('gives an id to one of many that claim it at the same time', async () => {
      const stores = Array.from({ length: 8 }, () => given.open({}))
      const id = fresh()
      const claims = await Promise.all(stores.map(store => store.claim(id)))
      // a store in memory is one process' own
      const shared = given.hasOwnClock && name === 'memory' ? 8 : 1
      expect(claims.filter(claim => typeof claim === 'object')).toHaveLength(shared)
    })

    it('remembers what is done, and gives back what was released', async () => {
      const store = given.open({})
      const id = fresh()
      await (await claimed(store, id)).release()
      const claim = await claimed(store, id)
      expect(await store.claim(id)).toBe('claimed')
      await claim.done()
      expect(await store.claim(id)).toBe('done')
      expect(await store.claim(fresh())).toBeTypeOf('object')
    })

    it('keeps scopes and ids apart, whatever is in them', async () => {
      const one = given.open({ scope: 'one' })
      const other = given.open({ scope: 'other' })
      for (const id of ['a', 'A', "it's:*", 'ü', ' a']) {
        await (await claimed(one, id)).done()
        expect(await one.claim(id)).toBe('done')
        await (await claimed(other, id)).release()
      }
    })

    it('gives an id to another when the lease is over, and the first one hears of it', async () => {
      const clock = { ...systemClock, time: 0, now: () => systemClock.now() + clock.time }
      const leaseMs = given.hasOwnClock ? 1_000 : 30
      const store = given.open({ leaseMs, clock })
      const id = fresh()
      const first = await claimed(store, id)
      clock.time = leaseMs + 1
      await expect.poll(() => store.claim(id)).toBeTypeOf('object')
      await expect(first.done()).rejects.toMatchObject({ code: 'LEASE_EXPIRED' })
      await first.release()
      expect(await store.claim(id)).not.toBe('done')
    })

    it('forgets what is done when its time is over', async () => {
      const clock = { ...systemClock, time: 0, now: () => systemClock.now() + clock.time }
      const keepMs = given.hasOwnClock ? 1_000 : 30
      const store = given.open({ keepMs, clock })
      const id = fresh()
      await (await claimed(store, id)).done()
      clock.time = keepMs + 1
      await expect.poll(() => store.claim(id)).toBeTypeOf('object')
    })

    it('refuses options that make no sense', () => {
      for (const options of [{ keepMs: 0 }, { leaseMs: -1 }, { leaseMs: Number.NaN }]) {
        expect(() => given.open(options)).toThrow(expect.objectContaining({ code: 'INVALID_ARGUMENT' }))
      }
    })
  })
}
