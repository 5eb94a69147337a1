/**
 * Regular expressions that pick topics by name, in the syntax of RE2, which Kafka's brokers use for subscriptions. An
 * expression comes from a client and is run by the broker, so it must not be able to hold the broker up: it is translated
 * into a list of instructions that is followed at all its places at once, a character at a time (Thompson's way). The time
 * that takes is at most length of the name × number of instructions; nothing is ever tried twice, unlike in `RegExp`.
 *
 *     a(b|c)*    0 char a │ 1 split 2, 7 │ 2 split 3, 5 │ 3 char b │ 4 goto 6 │ 5 char c │ 6 goto 1 │ 7 match
 *
 * A name matches if the whole of it does. Names of topics are ASCII, so a set of characters is a table of 128 bytes; what
 * lies outside is understood and never matches. What RE2 has not (look-around, references to groups) is refused, too.
 */

import { SluiceError } from '../errors.ts'

/** Characters of an expression. */
const LENGTH_MAX = 1_000
/** Instructions of its program. Counted repetitions (`x{100}`) are written out. */
const INSTRUCTIONS_MAX = 1_000
/** Steps that writing the program may take, for expressions that are large and come to nothing. */
const STEPS_MAX = 10_000
/** Of a counted repetition, as in RE2. */
const REPEAT_MAX = 1_000
const NESTING_MAX = 200
const ASCII = 128

/** 1 for each character that is in it. */
type CharSet = Uint8Array
type Assertion = 'start' | 'end' | 'word' | 'no-word'

type Node =
  | { readonly kind: 'set'; readonly set: CharSet }
  | { readonly kind: 'assert'; readonly what: Assertion }
  | { readonly kind: 'sequence'; readonly items: readonly Node[] }
  | { readonly kind: 'choice'; readonly items: readonly Node[] }
  | { readonly kind: 'repeat'; readonly item: Node; readonly min: number; readonly max: number }

type Instruction =
  | { readonly op: 'char'; readonly set: CharSet }
  | { readonly op: 'assert'; readonly what: Assertion }
  // go on at both places
  | { readonly op: 'split'; readonly a: number; readonly b: number }
  | { readonly op: 'match' }

export class TopicPattern {
  readonly source: string
  readonly #program: readonly Instruction[]

  /** Throws `INVALID_REGULAR_EXPRESSION`. */
  constructor(source: string) {
    this.source = source
    if (source.length > LENGTH_MAX) throw invalid(source, `it is longer than ${LENGTH_MAX} characters`)
    this.#program = new Program(source).translate(new Parser(source).parse())
  }

  /** Whether the whole of the name matches. */
  matches(name: string): boolean {
    const size = this.#program.length
    // At which step each instruction was last put on the list: nothing is on it twice.
    const marks = new Int32Array(size).fill(-1)
    let places: number[] = []
    let next: number[] = []
    this.#follow(0, name, 0, marks, places)
    for (let at = 0; at < name.length; at++) {
      const code = name.charCodeAt(at)
      for (const place of places) {
        const instruction = this.#program[place]
        if (instruction.op === 'char' && instruction.set[code] === 1)
          this.#follow(place + 1, name, at + 1, marks, next)
      }
      if (next.length === 0) return false
      places = next
      next = []
    }
    return places.some(place => this.#program[place].op === 'match')
  }

  /** Puts the places that are reached without a character on the list. */
  #follow(from: number, name: string, at: number, marks: Int32Array, places: number[]): void {
    const stack = [from]
    for (let place = stack.pop(); place !== undefined; place = stack.pop()) {
      if (marks[place] === at) continue
      marks[place] = at
      const instruction = this.#program[place]
      if (instruction.op === 'split') stack.push(instruction.b, instruction.a)
      else if (instruction.op !== 'assert') places.push(place)
      else if (holds(instruction.what, name, at)) stack.push(place + 1)
    }
  }
}

function holds(what: Assertion, name: string, at: number): boolean {
  if (what === 'start') return at === 0
  if (what === 'end') return at === name.length
  const isBoundary = isWord(name.charCodeAt(at - 1)) !== isWord(name.charCodeAt(at))
  return isBoundary === (what === 'word')
}

const isWord = (code: number): boolean => wordSet[code] === 1

const invalid = (source: string, why: string): SluiceError =>
  new SluiceError(
    'INVALID_REGULAR_EXPRESSION',
    `SubscribedTopicRegex \`${source}\` is not a valid regular expression: ${why}.`,
    { pattern: source },
  )

/**
 * Writes instructions:
 *
 *     x|y      split L1, L2;  L1: x; goto L3;  L2: y;  L3:        (goto: a split to one place)
 *     x*       L1: split L2, L3;  L2: x; goto L1;  L3:
 *     x{2,3}   x; x; split L1, L2;  L1: x;  L2:
 */
class Program {
  readonly #source: string
  readonly #code: Instruction[] = []
  #steps = 0

  constructor(source: string) {
    this.#source = source
  }

  translate(node: Node): readonly Instruction[] {
    this.#write(node)
    this.#put({ op: 'match' })
    return this.#code
  }

  #write(node: Node): void {
    if (++this.#steps > STEPS_MAX) throw invalid(this.#source, 'it is too large')
    if (node.kind === 'set') this.#put({ op: 'char', set: node.set })
    else if (node.kind === 'assert') this.#put({ op: 'assert', what: node.what })
    else if (node.kind === 'sequence') for (const item of node.items) this.#write(item)
    else if (node.kind === 'choice') this.#choice(node.items)
    else this.#repeat(node.item, node.min, node.max)
  }

  #choice(items: readonly Node[]): void {
    const ends: number[] = []
    for (const [index, item] of items.entries()) {
      const isLast = index === items.length - 1
      const fork = isLast ? -1 : this.#put(null)
      this.#write(item)
      if (isLast) break
      ends.push(this.#put(null))
      this.#code[fork] = { op: 'split', a: fork + 1, b: this.#code.length }
    }
    for (const end of ends) this.#code[end] = { op: 'split', a: this.#code.length, b: this.#code.length }
  }

  #repeat(item: Node, min: number, max: number): void {
    for (let i = 0; i < min; i++) this.#write(item)
    if (max === Number.POSITIVE_INFINITY) {
      const fork = this.#put(null)
      this.#write(item)
      this.#put({ op: 'split', a: fork, b: fork })
      this.#code[fork] = { op: 'split', a: fork + 1, b: this.#code.length }
      return
    }
    const forks: number[] = []
    for (let i = min; i < max; i++) {
      forks.push(this.#put(null))
      this.#write(item)
    }
    for (const fork of forks) this.#code[fork] = { op: 'split', a: fork + 1, b: this.#code.length }
  }

  /** Null: to be filled in when it is known where it leads. */
  #put(instruction: Instruction | null): number {
    if (this.#code.length >= INSTRUCTIONS_MAX) throw invalid(this.#source, 'it is too large')
    return this.#code.push(instruction ?? { op: 'match' }) - 1
  }
}

const setOf = (has: (code: number) => boolean): CharSet =>
  Uint8Array.from({ length: ASCII }, (_, code) => (has(code) ? 1 : 0))
/** By a class of `RegExp`, tried on one character at a time. */
const setOfClass = (source: string, flags = ''): CharSet => {
  const expression = new RegExp(`^${source}$`, flags)
  return setOf(code => expression.test(String.fromCharCode(code)))
}
const without = (set: CharSet): CharSet => set.map(bit => 1 - bit)
const union = (into: CharSet, set: CharSet): void => {
  for (let code = 0; code < ASCII; code++) into[code] |= set[code]
}

const wordSet = setOfClass('[0-9A-Za-z_]')
const perl: Readonly<Record<string, CharSet>> = {
  d: setOfClass('[0-9]'),
  w: wordSet,
  s: setOfClass('[\\t\\n\\f\\r ]'),
}
const posix: Readonly<Record<string, CharSet>> = {
  alnum: setOfClass('[0-9A-Za-z]'),
  alpha: setOfClass('[A-Za-z]'),
  ascii: setOf(() => true),
  blank: setOfClass('[\\t ]'),
  cntrl: setOfClass('[\\x00-\\x1f\\x7f]'),
  digit: perl.d,
  graph: setOfClass('[!-~]'),
  lower: setOfClass('[a-z]'),
  print: setOfClass('[ -~]'),
  punct: setOfClass('[!-/:-@[-`{-~]'),
  space: setOfClass('[\\t\\n\\v\\f\\r ]'),
  upper: setOfClass('[A-Z]'),
  word: wordSet,
  xdigit: setOfClass('[0-9A-Fa-f]'),
}
const controls: Readonly<Record<string, number>> = { a: 7, f: 12, t: 9, n: 10, r: 13, v: 11 }
const assertions: Readonly<Record<string, Assertion>> = {
  A: 'start',
  z: 'end',
  b: 'word',
  B: 'no-word',
}

interface Flags {
  readonly ignoreCase: boolean
  readonly dotAll: boolean
}

/** Recursive descent: choice → sequence → repetition → atom. */
class Parser {
  readonly #source: string
  #at = 0
  #depth = 0
  #flags: Flags = { ignoreCase: false, dotAll: false }

  constructor(source: string) {
    this.#source = source
  }

  parse(): Node {
    const node = this.#choice()
    if (this.#at < this.#source.length) throw this.#error('an unexpected )')
    return node
  }

  #choice(): Node {
    const items = [this.#sequence()]
    while (this.#take('|')) items.push(this.#sequence())
    return items.length === 1 ? items[0] : { kind: 'choice', items }
  }

  #sequence(): Node {
    const items: Node[] = []
    while (this.#at < this.#source.length && !this.#sees('|') && !this.#sees(')')) {
      if (this.#take('\\Q')) items.push(...this.#quoted())
      else items.push(this.#repetition())
    }
    return { kind: 'sequence', items }
  }

  #quoted(): Node[] {
    const end = this.#source.indexOf('\\E', this.#at)
    const text = this.#source.slice(this.#at, end < 0 ? undefined : end)
    this.#at = end < 0 ? this.#source.length : end + 2
    return Array.from(text, char => this.#literal(char.codePointAt(0)!))
  }

  #repetition(): Node {
    const item = this.#atom()
    const times = this.#times()
    if (times === null) return item
    // Whether it takes as much as it can or as little makes no difference to what matches as a whole.
    this.#take('?')
    const begin = this.#at
    if (this.#times() !== null)
      throw this.#error(`nothing to repeat before ${this.#source.slice(begin, this.#at)}`)
    return { kind: 'repeat', item, min: times[0], max: times[1] }
  }

  #times(): readonly [min: number, max: number] | null {
    if (this.#take('*')) return [0, Number.POSITIVE_INFINITY]
    if (this.#take('+')) return [1, Number.POSITIVE_INFINITY]
    if (this.#take('?')) return [0, 1]
    // What is not a count is a brace like any other character.
    const count = this.#takeMatch(/\{(\d+)(,(\d*))?\}/y)
    if (count === null) return null
    const min = Number(count[1])
    const max = count[2] === undefined ? min : count[3] === '' ? Number.POSITIVE_INFINITY : Number(count[3])
    const isValid = min <= REPEAT_MAX && max >= min && (max <= REPEAT_MAX || count[3] === '')
    if (!isValid) throw this.#error(`a wrong count ${count[0]}`)
    return [min, max]
  }

  #atom(): Node {
    const char = String.fromCodePoint(this.#source.codePointAt(this.#at)!)
    this.#at += char.length
    switch (char) {
      case '(':
        return this.#group()
      case '[':
        return this.#bracket()
      case '.':
        return { kind: 'set', set: setOf(code => code !== 10 || this.#flags.dotAll) }
      case '^':
        return { kind: 'assert', what: 'start' }
      case '$':
        return { kind: 'assert', what: 'end' }
      case '\\':
        return this.#escape()
      case '*':
      case '+':
      case '?':
        throw this.#error(`nothing to repeat before ${char}`)
      default:
        return this.#literal(char.codePointAt(0)!)
    }
  }

  /** Flags hold to the end of the group that they are set in. */
  #group(): Node {
    if (++this.#depth > NESTING_MAX) throw this.#error('too many groups in each other')
    const outer = this.#flags
    if (this.#sees('?') && this.#takeMatch(/\?P?<[0-9A-Za-z_]+>/y) === null) {
      const flags = this.#takeMatch(/\?([imsU]*)(?:-([imsU]+))?([:)])/y)
      if (flags === null) throw this.#error('an unknown kind of group')
      const [, on, off = '', end] = flags
      const has = (flag: string, before: boolean) => (on.includes(flag) || before) && !off.includes(flag)
      this.#flags = { ignoreCase: has('i', outer.ignoreCase), dotAll: has('s', outer.dotAll) }
      if (end === ')') {
        this.#depth--
        return { kind: 'sequence', items: [] }
      }
    }
    const node = this.#choice()
    if (!this.#take(')')) throw this.#error('a missing )')
    this.#flags = outer
    this.#depth--
    return node
  }

  #escape(): Node {
    const char = this.#source[this.#at]
    if (char !== undefined && Object.hasOwn(assertions, char)) {
      this.#at++
      return { kind: 'assert', what: assertions[char] }
    }
    const set = this.#classEscape()
    return set === null ? this.#literal(this.#charEscape()) : { kind: 'set', set }
  }

  /** After a backslash: \d, \pL and the like; null if it is something else. */
  #classEscape(): CharSet | null {
    const [, char] = this.#takeMatch(/([dDwWsS])/y) ?? []
    if (char !== undefined) {
      const set = perl[char.toLowerCase()]
      return char === char.toLowerCase() ? set : without(set)
    }
    const property = this.#takeMatch(/([pP])(?:([A-Z])|\{(\^?)(\w+)\})/y)
    if (property === null) return null
    const [, kind, letter, caret, name = letter] = property
    const isNegated = (kind === 'P') !== (caret === '^')
    const set = name === 'Any' ? setOf(() => true) : this.#property(name)
    return isNegated ? without(set) : set
  }

  #property(name: string): CharSet {
    for (const property of [name, `Script=${name}`]) {
      try {
        return setOfClass(`\\p{${property}}`, 'u')
      } catch (error) {
        if (!(error instanceof SyntaxError)) throw error
      }
    }
    throw this.#error(`an unknown class ${name}`)
  }

  /** After a backslash: the character that is meant. */
  #charEscape(): number {
    const hex = this.#takeMatch(/x(?:([0-9A-Fa-f]{2})|\{([0-9A-Fa-f]{1,6})\})/y)
    if (hex !== null) return Number.parseInt(hex[1] ?? hex[2], 16)
    // One digit alone would be what other dialects take for a reference to a group.
    const octal = this.#takeMatch(/(0[0-7]{0,2}|[1-7][0-7]{1,2})/y)
    if (octal !== null) return Number.parseInt(octal[1], 8)
    const char = this.#source[this.#at++]
    if (char === undefined) throw this.#error('a backslash at the end')
    if (Object.hasOwn(controls, char)) return controls[char]
    const code = char.charCodeAt(0)
    if (code >= ASCII || isWord(code)) throw this.#error(`an unknown escape \\${char}`)
    return code
  }

  #bracket(): Node {
    const set = new Uint8Array(ASCII)
    const isNegated = this.#take('^')
    const begin = this.#at
    while (this.#at === begin || !this.#sees(']')) {
      if (this.#at >= this.#source.length) throw this.#error('a missing ]')
      union(set, this.#bracketItem())
    }
    this.#at++
    const folded = this.#fold(set)
    return { kind: 'set', set: isNegated ? without(folded) : folded }
  }

  #bracketItem(): CharSet {
    const named = this.#takeMatch(/\[:(\^?)(\w+):\]/y)
    if (named !== null) {
      if (!Object.hasOwn(posix, named[2])) throw this.#error(`an unknown class ${named[0]}`)
      return named[1] === '^' ? without(posix[named[2]]) : posix[named[2]]
    }
    if (this.#sees('\\')) {
      this.#at++
      const set = this.#classEscape()
      if (set !== null) return set
      this.#at--
    }
    const low = this.#bracketChar()
    const isRange = this.#sees('-') && this.#source[this.#at + 1] !== ']'
    if (!isRange) return setOf(code => code === low)
    this.#at++
    const high = this.#bracketChar()
    if (high < low) throw this.#error('a range that ends before it begins')
    return setOf(code => code >= low && code <= high)
  }

  #bracketChar(): number {
    const code = this.#source.codePointAt(this.#at)
    if (code === undefined) throw this.#error('a missing ]')
    this.#at += code > 0xffff ? 2 : 1
    return code === 0x5c ? this.#charEscape() : code
  }

  #literal(char: number): Node {
    return { kind: 'set', set: this.#fold(setOf(code => code === char)) }
  }

  /** Without regard to case: both cases of each letter. */
  #fold(set: CharSet): CharSet {
    if (!this.#flags.ignoreCase) return set
    const isLetter = posix.alpha
    // the two cases of an ASCII letter differ in one bit
    return setOf(code => set[code] === 1 || (isLetter[code] === 1 && set[code ^ 0x20] === 1))
  }

  #sees(text: string): boolean {
    return this.#source.startsWith(text, this.#at)
  }

  #take(text: string): boolean {
    if (!this.#sees(text)) return false
    this.#at += text.length
    return true
  }

  /** `expression` is sticky. */
  #takeMatch(expression: RegExp): RegExpExecArray | null {
    expression.lastIndex = this.#at
    const match = expression.exec(this.#source)
    if (match !== null) this.#at += match[0].length
    return match
  }

  #error(why: string): SluiceError {
    return invalid(this.#source, `${why} (at ${this.#at})`)
  }
}
