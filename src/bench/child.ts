/** The process in which one figure is taken. It gets its job as an argument, and sends the result to the process that started it. */

import { mkdirSync } from 'node:fs'
import { join } from 'node:path'
import { type Measured, measure, type Setting } from './measure.ts'
import { build, measureOpening, type OpenSetting } from './opening.ts'
import { scenarioNamed } from './scenarios.ts'

export type Job =
  | {
      readonly kind: 'measure'
      readonly scenario: string
      readonly rounds: number
      readonly setting: Setting
    }
  | { readonly kind: 'build' | 'open'; readonly setting: OpenSetting }

export type Answer = { readonly result: unknown } | { readonly failure: string }

async function perform(job: Job): Promise<unknown> {
  switch (job.kind) {
    case 'build':
      return build(job.setting)
    case 'open':
      return measureOpening(job.setting)
    case 'measure':
      return measureScenario(job)
  }
}

async function measureScenario(job: Job & { readonly kind: 'measure' }): Promise<Measured> {
  const scenario = scenarioNamed(job.scenario)
  const limit = scenario.limit === null ? null : scenarioNamed(scenario.limit)
  const subject = await scenario.make(settingIn(job.setting, 'subject', 1))
  // the limit has its own share of messages: what is slow takes few
  const subjectOfLimit =
    limit === null ? null : await limit.make(settingIn(job.setting, 'limit', limit.share / scenario.share))
  try {
    return await measure(subject, subjectOfLimit, job.rounds)
  } finally {
    await subject.close()
    await subjectOfLimit?.close()
  }
}

function settingIn(setting: Setting, folder: string, share: number): Setting {
  const directory = join(setting.directory, folder)
  mkdirSync(directory, { recursive: true })
  return { ...setting, directory, messages: Math.max(1, Math.round(setting.messages * share)) }
}

async function answer(): Promise<void> {
  let reply: Answer
  try {
    reply = { result: await perform(JSON.parse(process.argv[2]) as Job) }
  } catch (error) {
    reply = { failure: error instanceof Error ? (error.stack ?? error.message) : String(error) }
  }
  process.send?.(reply, undefined, undefined, () => process.disconnect())
}

await answer()
