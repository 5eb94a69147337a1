import { inboxSuite } from '../database/inbox-suite.ts'
import { servedDatabases } from './databases.ts'

for (const make of servedDatabases) inboxSuite(make.name, make)
