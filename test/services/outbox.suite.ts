import { outboxSuite } from '../database/outbox-suite.ts'
import { servedDatabases } from './databases.ts'

for (const make of servedDatabases) outboxSuite(make.name, make)
