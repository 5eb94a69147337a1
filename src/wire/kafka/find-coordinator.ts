/** FindCoordinator (10): from version 4 for several keys in one request. */

import { api, array, int8, int16, int32, string } from './schema.ts'

export const findCoordinatorApi = api({
  key: 10,
  name: 'FindCoordinator',
  versions: '0-6',
  flexible: '3+',
  request: {
    key: string('0-3', { default: '' }),
    keyType: int8('1+', { default: 0 }),
    coordinatorKeys: array('4+', 'string', { default: [] }),
  },
  response: {
    throttleTimeMs: int32('1+', { default: 0 }),
    errorCode: int16('0-3', { default: 0 }),
    errorMessage: string('1-3', { nullable: '1-3', default: null }),
    nodeId: int32('0-3', { default: 0 }),
    host: string('0-3', { default: '' }),
    port: int32('0-3', { default: 0 }),
    coordinators: array(
      '4+',
      {
        key: string('4+'),
        nodeId: int32('4+'),
        host: string('4+'),
        port: int32('4+'),
        errorCode: int16('4+'),
        errorMessage: string('4+', { nullable: '4+', default: null }),
      },
      { default: [] },
    ),
  },
})
