/**
 * A queue: first in, first out. `Array.shift` moves everything behind the first element once an array is large, which makes emptying a long
 * queue quadratic; here the head is an index, and what lies before it is cut off when it is as long as what lies behind.
 */

export class Fifo<T> {
  #items: T[] = []
  /** Index of the first; what lies before it is gone. */
  #head = 0

  get length(): number {
    return this.#items.length - this.#head
  }

  /** The first, which stays; undefined if there is none. */
  get first(): T | undefined {
    return this.#items[this.#head]
  }

  push(item: T): void {
    this.#items.push(item)
  }

  /** Takes the first. */
  shift(): T | undefined {
    const item = this.#items[this.#head]
    if (item !== undefined && ++this.#head * 2 >= this.#items.length) this.#cut()
    return item
  }

  /** Takes an item out, wherever it is: quick for the first, a search otherwise. */
  remove(item: T): void {
    if (this.first === item) {
      this.shift()
      return
    }
    const index = this.#items.indexOf(item, this.#head)
    if (index >= 0) this.#items.splice(index, 1)
  }

  *[Symbol.iterator](): IterableIterator<T> {
    for (let index = this.#head; index < this.#items.length; index++) yield this.#items[index]
  }

  /** Takes all, in order. */
  takeAll(): T[] {
    this.#cut()
    const items = this.#items
    this.#items = []
    return items
  }

  #cut(): void {
    this.#items = this.#items.slice(this.#head)
    this.#head = 0
  }
}
