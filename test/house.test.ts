/**
 * The rules of the house (docs/ARCHITECTURE.md) as a test: which room may import which, no cycles, no barrels, and
 * what every file must look like.
 */

import { readdirSync, readFileSync } from 'node:fs'
import { dirname, join, normalize, relative } from 'node:path'
import { describe, expect, it } from 'vitest'

const root = join(import.meta.dirname, '..')

function sources(folder: string): string[] {
  return readdirSync(join(root, folder), { recursive: true, withFileTypes: true })
    .filter(entry => entry.isFile() && entry.name.endsWith('.ts'))
    .map(entry => relative(root, join(entry.parentPath, entry.name)))
    .sort()
}

const files = sources('src')
const text = new Map(files.map(file => [file, readFileSync(join(root, file), 'utf8')]))

/** Relative imports of a file, as paths from the root; dynamic ones too. */
function importsOf(file: string): string[] {
  const found = text.get(file)!.matchAll(/(?:from|import)\s*\(?\s*'(\.{1,2}\/[^']+)'/g)
  return [...found].map(match => normalize(join(dirname(file), match[1])))
}

/** Those that remain at run time: types are erased. */
function runtimeImportsOf(file: string): string[] {
  const found = text.get(file)!.matchAll(/^(?:import|export) (?!type\b)[^;]*?from '(\.{1,2}\/[^']+)'/gm)
  return [...found].map(match => normalize(join(dirname(file), match[1])))
}

/** The room of a file; the parts of engine/ and server/ have rules of their own. */
function roomOf(file: string): string {
  const parts = file.split('/').slice(1)
  if (parts.length === 1) return parts[0] // index.ts, errors.ts
  if (parts[0] === 'engine') return parts[1] === 'engine.ts' ? 'engine/engine.ts' : 'engine'
  if (parts[0] === 'server' && parts.length > 2) return `server/${parts[1]}`
  return parts[0]
}

/** What each room may import beside itself and errors.ts. */
const mayImport: Record<string, readonly string[]> = {
  'errors.ts': [],
  lib: [],
  record: ['lib'],
  log: ['lib', 'record'],
  broker: ['lib', 'record', 'log'],
  queue: ['lib', 'record', 'log', 'broker'],
  wire: ['lib'],
  'engine/engine.ts': [],
  engine: ['lib', 'record', 'log', 'broker', 'queue', 'wire', 'engine/engine.ts'],
  delivery: ['lib', 'record', 'engine/engine.ts'],
  database: ['lib', 'record', 'engine/engine.ts', 'delivery'],
  'open.ts': ['lib', 'log', 'engine', 'engine/engine.ts', 'delivery'],
  'index.ts': [
    'open.ts',
    'lib',
    'record',
    'log',
    'broker',
    'queue',
    'engine',
    'engine/engine.ts',
    'delivery',
    'database',
  ],
  bench: ['lib', 'record', 'log', 'engine', 'engine/engine.ts', 'delivery', 'database', 'index.ts'],
  'server/http': [
    'lib',
    'record',
    'broker',
    'queue',
    'wire',
    'engine',
    'engine/engine.ts',
    'delivery',
    'database',
    'index.ts',
    'open.ts',
    'server',
  ],
  'server/kafka': [
    'lib',
    'record',
    'broker',
    'queue',
    'wire',
    'engine',
    'engine/engine.ts',
    'delivery',
    'database',
    'index.ts',
    'open.ts',
    'server',
  ],
  'server/amqp': [
    'lib',
    'record',
    'broker',
    'queue',
    'wire',
    'engine',
    'engine/engine.ts',
    'delivery',
    'database',
    'index.ts',
    'open.ts',
    'server',
  ],
  server: [
    'lib',
    'broker',
    'engine',
    'engine/engine.ts',
    'delivery',
    'open.ts',
    'index.ts',
    'server/http',
    'server/kafka',
    'server/amqp',
  ],
  cli: [
    'lib',
    'record',
    'log',
    'broker',
    'engine',
    'engine/engine.ts',
    'delivery',
    'database',
    'index.ts',
    'open.ts',
    'server',
    'server/http',
    'bench',
  ],
}

describe('rooms', () => {
  it('import only what they may', () => {
    const wrong: string[] = []
    for (const file of files) {
      const room = roomOf(file)
      for (const imported of importsOf(file)) {
        const other = roomOf(imported)
        if (other === room || other === 'errors.ts' || mayImport[room]?.includes(other)) continue
        wrong.push(`${file} imports ${imported}`)
      }
    }
    expect(wrong).toEqual([])
  })

  it('are all known here', () => {
    expect(files.map(roomOf).filter(room => !(room in mayImport))).toEqual([])
  })

  it('have no import cycles', () => {
    const finished = new Set<string>()
    const cycles: string[] = []
    const visit = (file: string, path: readonly string[]): void => {
      if (finished.has(file)) return
      if (path.includes(file)) {
        cycles.push([...path.slice(path.indexOf(file)), file].join(' -> '))
        return
      }
      for (const imported of runtimeImportsOf(file)) if (text.has(imported)) visit(imported, [...path, file])
      finished.add(file)
    }
    for (const file of files) visit(file, [])
    expect(cycles).toEqual([])
  })

  it('are entered without barrels', () => {
    const barrels = files.filter(
      file => file !== 'src/index.ts' && (/\/index\.ts$/.test(file) || /^export \*/m.test(text.get(file)!)),
    )
    expect(barrels).toEqual([])
    expect(text.get('src/index.ts')).not.toMatch(/export \*/)
  })
})

describe('files', () => {
  it('open by saying what they own', () => {
    expect(files.filter(file => !text.get(file)!.startsWith('/**'))).toEqual([])
  })

  it('hold one noun: 900 lines at most', () => {
    const long = files.filter(file => text.get(file)!.split('\n').length > 900)
    expect(long).toEqual([])
  })

  it('have no default exports, no enums, no leftovers', () => {
    const wrong = files.filter(file =>
      /^export default|^(export )?(const )?enum |TODO|FIXME|@ts-ignore/m.test(text.get(file)!),
    )
    expect(wrong).toEqual([])
  })

  it('are kebab-case nouns, not kinds', () => {
    const wrong = files.filter(
      file =>
        !/^[a-z0-9-]+(\.[a-z]+)?$/.test(file.split('/').at(-1)!.replace(/\.ts$/, '')) ||
        /\/(utils|types|helpers|interfaces|common)(\/|\.ts)/.test(file),
    )
    expect(wrong).toEqual([])
  })
})
