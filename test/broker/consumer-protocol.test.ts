/** The expected bytes were written by the Java client (kafka-clients 4.0.0: ConsumerProtocol and its assignors). */

import fc from 'fast-check'
import { describe, expect, test } from 'vitest'
import type { TopicPartition } from '../../src/broker/assignor.ts'
import {
  decodeAssignment,
  decodeMember,
  decodeSubscription,
  EMPTY_ASSIGNMENT,
  encodeAssignment,
  encodeMember,
  encodeSubscription,
  hasWithheld,
} from '../../src/broker/consumer-protocol.ts'
import { isSluiceError } from '../../src/errors.ts'

const bytes = (hex: string) => Buffer.from(hex.replaceAll(' ', ''), 'hex')

const subscription = {
  topics: ['orders', 'bills'],
  userData: Uint8Array.of(1, 2, 3),
  owned: [
    { topic: 'orders', partition: 2 },
    { topic: 'bills', partition: 0 },
    { topic: 'orders', partition: 0 },
  ],
  generation: 7,
  rack: 'rack-é',
}
const partitions: TopicPartition[] = [
  { topic: 'bills', partition: 0 },
  { topic: 'orders', partition: 0 },
  { topic: 'orders', partition: 2 },
]

const topicsAndData = '00000002 0005 62696c6c73 0006 6f7264657273 00000003 010203'
const grouped = '00000002 0005 62696c6c73 00000001 00000000 0006 6f7264657273 00000002 00000000 00000002'
const javaSubscriptions = [
  `0000 ${topicsAndData}`,
  `0001 ${topicsAndData} ${grouped}`,
  `0002 ${topicsAndData} ${grouped} 00000007`,
  `0003 ${topicsAndData} ${grouped} 00000007 0007 7261636b2dc3a9`,
].map(bytes)

describe('subscription', () => {
  test.each([0, 1, 2, 3])('version %i has the bytes that the Java client writes', version => {
    expect(encodeSubscription(subscription, version)).toEqual(javaSubscriptions[version])
  })

  test.each([0, 1, 2, 3])('version %i is read, with what it cannot say left at its default', version => {
    expect(decodeSubscription(javaSubscriptions[version])).toEqual({
      version,
      topics: ['bills', 'orders'],
      userData: Buffer.of(1, 2, 3),
      owned: version >= 1 ? partitions : [],
      generation: version >= 2 ? 7 : -1,
      rack: version >= 3 ? 'rack-é' : null,
    })
  })

  test('nulls: no user data, no rack', () => {
    const least = { topics: ['orders'], userData: null, owned: [], generation: -1, rack: null }
    const expected = bytes('0003 00000001 0006 6f7264657273 ffffffff 00000000 ffffffff ffff')
    expect(encodeSubscription(least)).toEqual(expected)
    expect(decodeSubscription(expected)).toEqual({ version: 3, ...least })
  })

  test('a version of the future is read as the newest known, fields that it adds are passed over', () => {
    const future = Buffer.concat([javaSubscriptions[3], Buffer.of(0xca, 0xfe)])
    future.writeInt16BE(9)
    expect(decodeSubscription(future)).toEqual(decodeSubscription(javaSubscriptions[3]))
  })

  test('cut off anywhere it is refused by name, and never read past its end', () => {
    for (const whole of javaSubscriptions) {
      for (let length = 0; length < whole.length; length++) {
        const error = catching(() => decodeSubscription(whole.subarray(0, length)))
        expect(isSluiceError(error, 'INVALID_ARGUMENT'), `${length} bytes`).toBe(true)
      }
    }
  })

  test('arbitrary bytes are read or refused by name; a count that is too large is not believed', () => {
    fc.assert(
      fc.property(fc.uint8Array({ maxLength: 64 }), noise => {
        const error = catching(() => decodeSubscription(noise))
        if (error !== undefined) expect(isSluiceError(error, 'INVALID_ARGUMENT')).toBe(true)
      }),
    )
    expect(() => decodeSubscription(bytes('0000 7fffffff'))).toThrow('room for fewer than 2147483647')
    expect(() => decodeSubscription(bytes('0000 ffffffff'))).toThrow('null array')
    expect(() => decodeSubscription(bytes('0000 00000001 ffff ffffffff'))).toThrow('null string')
    expect(() => decodeSubscription(bytes('ffff 00000000'))).toThrow('version -1')
  })
})

describe('assignment', () => {
  const javaAssignments = ['0000', '0001', '0002', '0003'].map(v => bytes(`${v} ${grouped} 00000001 09`))

  test.each([0, 1, 2, 3])('version %i has the bytes that the Java client writes, and is read', version => {
    const assignment = { partitions, userData: Uint8Array.of(9) }
    expect(encodeAssignment(assignment, version)).toEqual(javaAssignments[version])
    expect(decodeAssignment(javaAssignments[version])).toEqual({ partitions, userData: Buffer.of(9) })
  })

  test('an empty assignment is a valid one, and no bytes are read as one', () => {
    expect(Buffer.from(EMPTY_ASSIGNMENT)).toEqual(bytes('0000 00000000 ffffffff'))
    expect(encodeAssignment({ partitions: [], userData: null })).toEqual(bytes('0000 00000000 ffffffff'))
    expect(decodeAssignment(EMPTY_ASSIGNMENT)).toEqual({ partitions: [], userData: null })
    expect(decodeAssignment(new Uint8Array(0))).toEqual({ partitions: [], userData: null })
  })

  test('a view into a larger buffer is read from where it begins', () => {
    const larger = Buffer.concat([Buffer.alloc(3), javaAssignments[1], Buffer.alloc(3)])
    const view = new Uint8Array(larger.buffer, larger.byteOffset + 3, javaAssignments[1].length)
    expect(decodeAssignment(view).partitions).toEqual(partitions)
  })

  test('whatever is written is read again', () => {
    const topicPartition = fc.record({ topic: fc.string(), partition: fc.nat() })
    fc.assert(
      fc.property(fc.array(topicPartition), fc.option(fc.uint8Array()), (list, userData) => {
        const back = decodeAssignment(encodeAssignment({ partitions: list, userData }))
        const sorted = (some: readonly TopicPartition[]) =>
          some.map(({ topic, partition }) => JSON.stringify([topic, partition])).sort()
        expect(sorted(back.partitions)).toEqual(sorted(list))
        expect(back.userData === null ? null : [...back.userData]).toEqual(userData && [...userData])
      }),
    )
  })
})

describe('what a member tells the leader, per assignor', () => {
  const owned = [
    { topic: 'orders', partition: 0 },
    { topic: 'orders', partition: 2 },
  ]
  const stickyData = bytes('00000001 0006 6f7264657273 00000002 00000000 00000002 00000005')

  test('sticky says what it had in user data, as the Java client does', () => {
    const metadata = encodeMember('sticky', { topics: ['orders'], owned, generation: 5 })
    expect(decodeSubscription(metadata)).toMatchObject({ userData: stickyData, owned: [], generation: 5 })
    const first = encodeMember('sticky', { topics: ['orders'], owned: [], generation: -1 })
    expect(decodeSubscription(first)).toMatchObject({ userData: null, owned: [] })
  })

  test('cooperative-sticky says what it holds in the field for it, and its generation also in user data', () => {
    const metadata = encodeMember('cooperative-sticky', { topics: ['orders'], owned, generation: 5 })
    expect(decodeSubscription(metadata)).toMatchObject({ userData: bytes('00000005'), owned, generation: 5 })
  })

  test.each(['sticky', 'cooperative-sticky', 'range', 'roundrobin'] as const)('%s: comes back', assignor => {
    const metadata = encodeMember(assignor, { topics: ['orders'], owned, generation: 5, rack: 'a' })
    const member = { memberId: 'm', instanceId: 'i', topics: ['orders'], owned, generation: 5 }
    expect(decodeMember(assignor, 'm', 'i', metadata)).toEqual(member)
  })

  test('cooperative-sticky members of before version 2 tell their generation in user data: Java, librdkafka', () => {
    for (const userData of [bytes('00000005'), stickyData]) {
      const metadata = encodeSubscription(
        { topics: ['orders'], userData, owned, generation: -1, rack: null },
        1,
      )
      expect(decodeMember('cooperative-sticky', 'm', null, metadata)).toMatchObject({ owned, generation: 5 })
    }
  })

  test('sticky: user data without a generation, or that makes no sense, does not stop the group', () => {
    const of = (userData: Uint8Array) =>
      encodeSubscription({ topics: ['orders'], userData, owned: [], generation: 3, rack: null })
    const old = of(stickyData.subarray(0, stickyData.length - 4))
    expect(decodeMember('sticky', 'm', null, old)).toMatchObject({ owned, generation: -1 })
    expect(decodeMember('sticky', 'm', null, of(bytes('ffff')))).toMatchObject({ owned: [], generation: -1 })
  })
})

test('a handover is half done while something that was held is assigned to nobody', () => {
  const member = (owned: TopicPartition[], assigned: TopicPartition[]) => ({
    metadata: encodeMember('cooperative-sticky', { topics: ['orders'], owned, generation: 1 }),
    assignment: encodeAssignment({ partitions: assigned, userData: null }),
  })
  expect(hasWithheld([member(partitions, partitions)])).toBe(false)
  expect(hasWithheld([member([], partitions)])).toBe(false)
  expect(hasWithheld([member(partitions, partitions.slice(1)), member([], [])])).toBe(true)
  expect(hasWithheld([member(partitions, partitions.slice(1)), member([], partitions.slice(0, 1))])).toBe(
    false,
  )
  expect(hasWithheld([{ metadata: Buffer.of(1), assignment: Buffer.of(2) }])).toBe(false)
})

function catching(run: () => unknown): unknown {
  try {
    run()
  } catch (error) {
    return error
  }
}
