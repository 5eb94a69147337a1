import { afterEach, expect, test } from 'vitest'
import { type Application, HttpServer } from '../../../src/server/http/http-server.ts'
import { silent } from '../running-server.ts'

let http: HttpServer | undefined
afterEach(() => http?.drain(0))

const echo: Application = {
  handle: (request, response) => void response.end(request.url),
  close: async () => {},
}

async function listen(load: () => Promise<Application>): Promise<string> {
  http = new HttpServer(10, silent, load)
  const { port } = await http.listen('127.0.0.1', 0)
  return `http://127.0.0.1:${port}`
}

const text = async (url: string) => (await fetch(url)).text()

test('the application is loaded once, for the first requests, all of which are served', async () => {
  let loads = 0
  const url = await listen(async () => {
    loads++
    return echo
  })
  expect(loads).toBe(0)
  expect(await Promise.all([text(`${url}/a`), text(`${url}/b`), text(`${url}/c`)])).toEqual([
    '/a',
    '/b',
    '/c',
  ])
  expect(await text(`${url}/d`)).toBe('/d')
  expect(loads).toBe(1)
})

test('an application that cannot be loaded is an INTERNAL error, and the next request tries again', async () => {
  let loads = 0
  const url = await listen(async () => {
    if (loads++ === 0) throw new Error('no such module')
    return echo
  })
  const failed = await fetch(url)
  expect(failed.status).toBe(500)
  expect(await failed.json()).toMatchObject({ error: { code: 'INTERNAL' } })
  expect(await text(`${url}/again`)).toBe('/again')
})
