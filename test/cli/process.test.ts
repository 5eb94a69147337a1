/** The real command in processes of its own: few, for each takes a while to start. */

import { expect, test } from 'vitest'
import { DataDirectory, finished, output, start } from './running-cli.ts'

const LISTENING = /http {4}(http:\S+)\n[\s\S]*\/metrics'\n/

test('serve: the lines it prints work, SIGKILL loses nothing acknowledged, SIGTERM ends it cleanly', async () => {
  using data = new DataDirectory()
  const serve = () => start(['serve', '--data', data.url, '--http-port', '0', '--kafka-port', '0'])
  const first = serve()
  const [greeting] = await output(first, LISTENING)
  const curl = /curl -H '(.*?): (.*?)' -d '(.*?)' '(.*?)'\n {2}curl '(.*?)'\n {2}curl '(.*?)'/.exec(greeting)!
  const [, header, type, body, publish, , metrics] = curl
  const published = await fetch(publish, { method: 'POST', headers: { [header]: type }, body })
  expect(await published.json()).toEqual({ topic: 'greetings', partition: 0, offset: 0 })
  expect((await fetch(metrics)).status).toBe(200)
  const killed = finished(first)
  first.kill('SIGKILL')
  await killed

  const second = serve()
  const [, url] = await output(second, LISTENING)
  const consumed = await (await fetch(`${url}/consume?topic=greetings`)).json()
  expect(consumed).toMatchObject({ messages: [{ key: 'ann', value: 'hello' }] })
  const ended = finished(second)
  second.kill('SIGTERM')
  expect(await ended).toMatchObject({ code: 0, stderr: expect.stringMatching(/ info {2}stopped\n$/) })
})

test('a directory that a server has open is refused, naming it', async () => {
  using data = new DataDirectory()
  const server = start(['serve', '--data', data.url, '--http-port', '0', '--kafka-port', '0'])
  await output(server, LISTENING)
  const { code, stderr } = await finished(start(['topic', 'list', '--url', data.url]))
  expect(code).toBe(1)
  expect(stderr).toMatch(/^sluice: DIRECTORY_IN_USE: .*\n$/)
  expect(stderr).toContain(String(server.pid))
  server.kill('SIGKILL')
})

test('a pipe whose reader goes away ends consume without an error', async () => {
  using data = new DataDirectory()
  const lines = Array.from(
    { length: 200_000 },
    (_, number) => `a line of some length, number ${number}\n`,
  ).join('')
  expect((await data.run(['produce', 't'], { stdin: lines })).code).toBe(0)
  const child = start(['consume', 't', '--url', data.url])
  child.stdout!.once('data', () => child.stdout!.destroy())
  expect(await finished(child)).toMatchObject({ code: 0, stderr: '' })
})

test('a Node that is too old gets one line', async () => {
  const old =
    "Object.defineProperty(process, 'versions', { value: { ...process.versions, node: '20.20.2' } })"
  const { code, stderr, stdout } = await finished(
    start(['serve'], ['--import', `data:text/javascript,${encodeURIComponent(old)}`]),
  )
  expect(code).toBe(1)
  expect(stdout).toBe('')
  expect(stderr).toMatch(/^sluice needs Node\.js 22\.22 or newer; this is v20\.20\.2 \(.*\)\..*\n$/)
})
