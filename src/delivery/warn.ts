/** Telling of errors that nobody waits for. */

import type { SluiceError } from '../errors.ts'

interface ErrorEmitter {
  listenerCount(event: 'error'): number
  emit(event: 'error', error: SluiceError): boolean
}

/** To those who listen for `error`; if there are none it is a process warning, since an event without a listener would end the process. */
export function emitError(emitter: ErrorEmitter, error: SluiceError): void {
  if (emitter.listenerCount('error') > 0) emitter.emit('error', error)
  else process.emitWarning(error.message, { type: 'SluiceWarning', code: error.code })
}
