/** Why a listener could not be opened, in words. */

import { SluiceError } from '../errors.ts'

const listenFailures: Record<string, string> = {
  EADDRINUSE: 'something else listens there already',
  EADDRNOTAVAIL: 'this machine has no such address',
  EACCES: 'permission denied (ports below 1024 belong to root)',
  ENOTFOUND: 'the name is not known',
}

/** What to throw for an error of `listen`: ADDRESS_IN_USE if it is about the address, else the error itself. */
export function listenRefusal(error: unknown, host: string, port: number): unknown {
  const { code } = error as NodeJS.ErrnoException
  if (code === undefined || !/^(EADDR|EACCES|ENOTFOUND|EAI_)/.test(code)) return error
  const reason = listenFailures[code] ?? code
  return new SluiceError(
    'ADDRESS_IN_USE',
    `cannot listen on ${host}:${port}: ${reason}`,
    { host, port },
    error,
  )
}
