/** Fetch of what is committed while records are deleted: what was aborted is left out, or nothing is served. */

import { expect, test, vi } from 'vitest'
import { batchOf, fetchOf, RawServer } from './raw-client.ts'

const OFFSET_OUT_OF_RANGE = 1
const READ_COMMITTED = 1

test('records that are deleted while a fetch is under way are not served without the list of what was aborted of them', async () => {
  await using server = await RawServer.start()
  const client = await server.client()
  await server.topic('t', 2, { 'segment.bytes': '1024' })
  const [first, second] = [server.broker.partition('t', 0), server.broker.partition('t', 1)]
  const options = { producerId: 7, producerEpoch: 0, baseSequence: 0, transactional: true }
  first.append(batchOf(['aborted'], options), undefined, true)
  await first.endTransaction(7, 0, false)
  for (let count = 0; count < 20; count++) first.append(batchOf(['x'.repeat(100)]), undefined, true)
  expect(first.log.segmentCount).toBeGreaterThan(2)

  // Of the second partition the disk takes its time.
  const { promise, resolve } = Promise.withResolvers<Buffer>()
  second.append(batchOf(['slow']), undefined, true)
  const read = vi.spyOn(second, 'read').mockReturnValue(promise)
  const partitions = [0, 1].map(partition => ({ partition, fetchOffset: 0 }))
  const request = fetchOf('t', partitions, { isolationLevel: READ_COMMITTED })
  const id = client.send('Fetch', 11, request)
  await vi.waitFor(() => expect(read).toHaveBeenCalled())
  await first.deleteUntil(10)
  resolve(Buffer.alloc(0))

  const { responses } = await client.answer('Fetch', 11, id)
  const [answer] = responses[0].partitions
  expect(answer.errorCode).toBe(OFFSET_OUT_OF_RANGE)
  expect(answer.records).toHaveLength(0)
  // Who goes on from the new start is served.
  const next = await client.request(
    'Fetch',
    11,
    fetchOf('t', [{ partition: 0, fetchOffset: 10 }], { isolationLevel: READ_COMMITTED }),
  )
  expect(next.responses[0].partitions[0]).toMatchObject({ errorCode: 0, abortedTransactions: [] })
})
