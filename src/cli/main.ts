/**
 * The command line: builds a parser from the table of commands, runs one, and turns whatever comes of it into an exit
 * code and at most one line on standard error (`sluice: CODE: message`; with --debug the stack as well).
 */

import { Command, CommanderError, InvalidArgumentError, Option } from 'commander'
import { type ErrorCode, isSluiceError } from '../errors.ts'
import { DiskError } from '../lib/disk.ts'
import { version } from '../server/version.ts'
import { type CommandRow, commands, commonOptions, nouns, type OptionSpec } from './commands.ts'
import { Context, exitCodes, Invocation, type Io, OutputClosed } from './context.ts'

const HELP_COLUMNS = 110

const EPILOGUE = `
Exit codes: 0 done; 1 it failed, or part of it was refused; 2 the command line, the environment or the configuration
is wrong; 130 and 143 ended by SIGINT and SIGTERM, after finishing what was begun. Errors are one line on standard
error: "sluice: CODE: message"; the codes are in docs/ERRORS.md.

  sluice COMMAND --help        what a command takes, with examples
`

/** Refusals that say: what you wrote is wrong, rather than: it did not work. */
const usageErrors: ReadonlySet<ErrorCode> = new Set([
  'INVALID_ARGUMENT',
  'INVALID_CONFIG',
  'INVALID_URL',
  'INVALID_TOPIC',
  'INVALID_PARTITIONS',
  'INVALID_GROUP',
  'INSECURE',
])

/** Runs one command line (without `node` and the script) and resolves with its exit code. Never rejects for a refusal. */
export async function main(args: readonly string[], io: Io = processIo()): Promise<number> {
  let exitCode: number = exitCodes.ok
  const program = buildProgram(io, async (row, invocation) => {
    exitCode = await runCommand(row, invocation, io)
  })
  try {
    await program.parseAsync(args, { from: 'user' })
    return exitCode
  } catch (error) {
    // Commander has written the help or the error by now.
    if (error instanceof CommanderError) return error.exitCode === 0 ? exitCodes.ok : exitCodes.usage
    throw error
  }
}

type Handler = (row: CommandRow, invocation: Invocation) => Promise<void>

async function runCommand(row: CommandRow, invocation: Invocation, io: Io): Promise<number> {
  const context = new Context(io, invocation)
  try {
    const run = await row.load()
    const code = await run(context, invocation)
    await context.close()
    return code
  } catch (error) {
    if (error instanceof OutputClosed) return exitCodes.ok
    reportError(error, invocation.has('debug'), io)
    return isSluiceError(error) && usageErrors.has(error.code) ? exitCodes.usage : exitCodes.failure
  } finally {
    await context.close().catch(() => {}) // was told, or is the lesser of two failures
  }
}

function reportError(error: unknown, isDebug: boolean, io: Io): void {
  if (isSluiceError(error)) io.stderr.write(`sluice: ${error.code}: ${oneLine(error.message)}\n`)
  else if (error instanceof DiskError) {
    const code: ErrorCode = error.isFull ? 'DISK_FULL' : 'STORAGE_FAILED'
    io.stderr.write(`sluice: ${code}: ${oneLine(error.message)}\n`)
  } else {
    const hint = isDebug ? '' : ' (a defect in sluice: run it again with --debug and report what it prints)'
    io.stderr.write(`sluice: INTERNAL: ${oneLine(String(error))}${hint}\n`)
  }
  if (isDebug && error instanceof Error) {
    io.stderr.write(`${error.stack}\n`)
    if (error.cause instanceof Error) io.stderr.write(`caused by ${error.cause.stack}\n`)
  }
}

const oneLine = (text: string) => text.replace(/\s*\n\s*/g, ' ')

function buildProgram(io: Io, handle: Handler): Command {
  const program = configure(new Command('sluice'), io)
    .description('A message queue: one durable log, in your process or as a server.')
    .version(version, '-V, --version', 'print the version')
    .helpCommand('help [command]', 'show help')
    .addHelpText('after', EPILOGUE)
  for (const row of commands) addCommand(program, row, io, handle)
  return program
}

function configure(command: Command, io: Io): Command {
  return command
    .exitOverride()
    .helpOption('-h, --help', 'show help')
    .showSuggestionAfterError()
    .configureOutput({
      writeOut: text => io.stdout.write(text),
      writeErr: text => io.stderr.write(text),
      getOutHelpWidth: () => HELP_COLUMNS,
      getErrHelpWidth: () => HELP_COLUMNS,
      outputError: (text, write) => {
        const message = oneLine(text.trim()).replace(/^error: /, '')
        write(`sluice: INVALID_ARGUMENT: ${message}; see ${commandName(command)} --help\n`)
      },
    })
}

function commandName(command: Command): string {
  return command.parent ? `${commandName(command.parent)} ${command.name()}` : command.name()
}

function addCommand(program: Command, row: CommandRow, io: Io, handle: Handler): void {
  const words = row.path.split(' ')
  const parent = words.length === 1 ? program : nounCommand(program, words[0], io)
  const command = configure(parent.command(words.at(-1)!), io).summary(row.summary)
  command.description(`${sentence(row.summary)}${row.notes ? `\n\n${row.notes}` : ''}`)
  for (const [syntax, meaning] of row.operands ?? []) command.argument(syntax, meaning)
  for (const spec of [...(row.options ?? []), ...commonOptions]) command.addOption(optionOf(spec))
  command.addHelpText('after', `\nExamples:\n${row.examples.map(example => `  ${example}\n`).join('')}`)
  command.action(async () => {
    const operands = command.processedArgs.flat().filter(operand => operand !== undefined)
    await handle(row, new Invocation(operands, command.opts()))
  })
}

function nounCommand(program: Command, noun: string, io: Io): Command {
  const existing = program.commands.find(command => command.name() === noun)
  if (existing) return existing
  return configure(program.command(noun), io).summary(nouns[noun]).description(sentence(nouns[noun]))
}

const sentence = (text: string) => `${text[0].toUpperCase()}${text.slice(1)}.`

function optionOf({ flags, meaning, kind }: OptionSpec): Option {
  const option = new Option(flags, meaning)
  if (kind === 'count') return option.argParser(parseCount)
  if (kind === 'list') return option.argParser((text: string, before?: string[]) => [...(before ?? []), text])
  if (kind !== undefined) option.choices([...kind.choices])
  return option
}

function parseCount(text: string): number {
  if (/^\d{1,15}$/.test(text)) return Number(text)
  throw new InvalidArgumentError('It is not a whole number.')
}

function processIo(): Io {
  // A closed pipe is seen by whoever writes (see Context.write); without a listener it would end the process.
  process.stdout.on('error', () => {})
  return {
    stdin: process.stdin,
    stdout: process.stdout,
    stderr: process.stderr,
    stderrIsTerminal: process.stderr.isTTY === true,
    environment: process.env,
    onSignal(listener) {
      process.on('SIGINT', listener)
      process.on('SIGTERM', listener)
      return () => {
        process.off('SIGINT', listener)
        process.off('SIGTERM', listener)
      }
    },
    exit: code => process.exit(code),
  }
}
