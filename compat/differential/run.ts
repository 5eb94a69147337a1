/** Runs the steps against two servers, one after the other, and compares what comes of each. */

import { groupSteps } from './group-steps.ts'
import { recordSteps } from './record-steps.ts'
import { Session, type Step } from './session.ts'
import { topicSteps } from './topic-steps.ts'

const areas = { topics: topicSteps, records: recordSteps, groups: groupSteps }
export type Area = keyof typeof areas

/** In the order in which they run. */
export const steps: readonly (Step & { readonly area: Area })[] = Object.entries(areas).flatMap(
  ([area, own]) => own.map(each => ({ ...each, area: area as Area })),
)

export interface Compared {
  readonly area: Area
  readonly name: string
  /** JSON. */
  readonly kafka: string
  readonly sluice: string
  readonly isSame: boolean
}

/** Results as JSON, in the order of the steps. A step that throws gives what it threw. */
export async function runSteps(port: number): Promise<string[]> {
  const session = new Session(port)
  const results: string[] = []
  try {
    for (const { run } of steps) {
      const result = await run(session).catch(error => `failed: ${(error as Error).message}`)
      results.push(JSON.stringify(result))
    }
  } finally {
    session.close()
  }
  return results
}

export function compare(kafka: readonly string[], sluice: readonly string[]): Compared[] {
  return steps.map(({ area, name }, index) => ({
    area,
    name,
    kafka: kafka[index],
    sluice: sluice[index],
    isSame: kafka[index] === sluice[index],
  }))
}
