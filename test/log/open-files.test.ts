/** The table of open files: bounded, and a file that is closed is opened again when it is needed. */

import { expect, test } from 'vitest'
import { memoryDisk } from '../../src/lib/disk-memory.ts'
import { OpenFiles } from '../../src/log/open-files.ts'
import { watchedDisk } from './scratch-log.ts'

test('keeps the files used last, at most as many as it may', () => {
  const files = new OpenFiles(memoryDisk(), 2)
  const a = files.create('/a')
  const b = files.create('/b')
  expect(files.get('/a')).toBe(a)
  files.create('/c')
  expect(files.count).toBe(2)
  expect(files.get('/a')).toBe(a)
  expect(files.get('/b')).not.toBe(b)
  expect(() => b.sync()).toThrow() // closed
  files.closeAll()
  expect(files.count).toBe(0)
})

test('a closed file is opened anew, also if it was the last one used', () => {
  const files = new OpenFiles(watchedDisk(memoryDisk()).disk)
  const before = files.create('/a')
  before.write(Buffer.from('x'), 0)
  files.close('/a')
  files.close('/a')
  expect(files.get('/a')).not.toBe(before)
  expect(files.get('/a').size()).toBe(1)
  files.create('/a')
  expect(files.get('/a').size()).toBe(0)
  expect(() => files.get('/b')).toThrow('does not exist')
})
