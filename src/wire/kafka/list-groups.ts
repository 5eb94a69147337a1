/** ListGroups (16). */

import { api, array, int16, int32, string } from './schema.ts'

export const listGroupsApi = api({
  key: 16,
  name: 'ListGroups',
  versions: '0-5',
  flexible: '3+',
  request: {
    statesFilter: array('4+', 'string', { default: [] }),
    typesFilter: array('5+', 'string', { default: [] }),
  },
  response: {
    throttleTimeMs: int32('1+', { default: 0 }),
    errorCode: int16('0+'),
    groups: array('0+', {
      groupId: string('0+'),
      protocolType: string('0+'),
      groupState: string('4+', { default: '' }),
      groupType: string('5+', { default: '' }),
    }),
  },
})
