/**
 * Giving memory back before the garbage collector comes for it.
 *
 * The bytes of a Buffer lie outside the heap of the engine, which collects all of the heap whenever some tens of megabytes of them
 * have come together: at hundreds of megabytes a second that is a third of what a broker does. Who knows that nobody looks at some bytes any more
 * gives them back at once; the next buffer of that size then also lies in memory that is in the processor's cache.
 *
 * All views of memory that was given back have length 0 from then on: so it is for the only owner to do, and never while the system may
 * still read from it or write to it.
 */

/** Memory of `allocateOwned` that was not given back. */
const owned = new WeakSet<ArrayBufferLike>()

/** Frees the memory of `bytes`, if they are the whole of it; otherwise does nothing. */
export function release(bytes: Uint8Array): void {
  const { buffer } = bytes
  if (buffer instanceof ArrayBuffer && buffer.byteLength === bytes.byteLength && buffer.byteLength > 0) {
    buffer.transfer(0)
  }
}

/** Memory, not zeroed, that goes to one reader alone: whoever is last to use it, or a part of it, may call `releaseOwned`, or leave it. */
export function allocateOwned(bytes: number): Buffer {
  const memory = Buffer.allocUnsafeSlow(bytes)
  owned.add(memory.buffer)
  return memory
}

/** Frees all of the memory that `view` is a part of, if `allocateOwned` made it; otherwise does nothing. */
export function releaseOwned(view: Uint8Array): void {
  const { buffer } = view
  if (buffer instanceof ArrayBuffer && owned.delete(buffer)) buffer.transfer(0)
}
