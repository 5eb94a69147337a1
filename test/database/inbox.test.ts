import { embeddedDatabases } from '../services/databases.ts'
import { inboxSuite } from './inbox-suite.ts'

for (const make of embeddedDatabases) inboxSuite(make.name, make)
