/** Runs one contestant in this process: `node child.ts NAME TASK-AS-JSON`, prints its figures as JSON. */

import { contestants } from './contestants.ts'

const [name, task] = process.argv.slice(2)
const figures = await contestants[name](JSON.parse(task))
process.stdout.write(`${JSON.stringify(figures)}\n`, () => process.exit(0))
