/** Every engine, through the same suite. */

import { mkdtempSync, rmSync } from 'node:fs'
import { tmpdir } from 'node:os'
import { join } from 'node:path'
import { afterAll } from 'vitest'
import { openLocalEngine } from '../../src/engine/local.ts'
import { FakeEngine } from '../delivery/fake-engine.ts'
import { engineSuite } from './engine-suite.ts'

const directories = mkdtempSync(join(tmpdir(), 'sluice-engines-'))
afterAll(() => rmSync(directories, { recursive: true }))
let count = 0

engineSuite('fake', async () => new FakeEngine())
engineSuite('local, memory', () => openLocalEngine({ url: 'memory:' }))
engineSuite('local, directory', () => openLocalEngine({ url: join(directories, String(count++)) }))
