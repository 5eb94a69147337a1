/**
 * Which partition a message goes to. With a key: murmur2 of its bytes, as the Java client, librdkafka
 * (`murmur2_random`), kafkajs and every other client do it, so that programs in different languages put a key
 * into the same place. Without a key the producer stays on one partition until its batch closes, then takes
 * the next ("sticky", KIP-480).
 */

/**
 * Chooses a partition from 0 to `partitions` - 1. Called once per message that does not name its partition,
 * with the encoded key (valid during the call only) and the value as it was published. Must be quick and must
 * not throw.
 */
export type Partitioner = (topic: string, key: Buffer | null, value: unknown, partitions: number) => number

/** The partition that every Kafka client gives to these key bytes. */
export function partitionOfKey(key: Uint8Array | string, partitions: number): number {
  const hash = typeof key === 'string' ? murmur2OfString(key) : murmur2(key, key.length)
  return (hash & 0x7fffffff) % partitions
}

/** Keys up to this many characters are encoded without an allocation. */
const SCRATCH_CHARACTERS = 1024
/** UTF-8 takes at most three bytes for a UTF-16 code unit. */
const scratch = Buffer.allocUnsafeSlow(SCRATCH_CHARACTERS * 3)

function murmur2OfString(key: string): number {
  const length = key.length
  if (length > SCRATCH_CHARACTERS) {
    const encoded = Buffer.from(key, 'utf8')
    return murmur2(encoded, encoded.length)
  }
  for (let index = 0; index < length; index++) {
    const code = key.charCodeAt(index)
    if (code >= 0x80) return murmur2(scratch, scratch.write(key, 0, 'utf8'))
    scratch[index] = code
  }
  return murmur2(scratch, length)
}

/**
 * MurmurHash2, 32 bits, with the seed that Kafka's `Utils.murmur2` has, over the first `length` bytes.
 * Signed, as in Java.
 */
export function murmur2(bytes: Uint8Array, length: number = bytes.length): number {
  const mix = 0x5bd1e995
  let hash = 0x9747b28c ^ length
  const whole = length & ~3
  for (let at = 0; at < whole; at += 4) {
    let word = bytes[at] | (bytes[at + 1] << 8) | (bytes[at + 2] << 16) | (bytes[at + 3] << 24)
    word = Math.imul(word, mix)
    word ^= word >>> 24
    hash = Math.imul(hash, mix) ^ Math.imul(word, mix)
  }
  const rest = length - whole
  if (rest === 3) hash ^= bytes[whole + 2] << 16
  if (rest >= 2) hash ^= bytes[whole + 1] << 8
  if (rest >= 1) hash = Math.imul(hash ^ bytes[whole], mix)
  hash ^= hash >>> 13
  hash = Math.imul(hash, mix)
  return hash ^ (hash >>> 15)
}
