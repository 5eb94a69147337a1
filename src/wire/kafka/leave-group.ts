/** LeaveGroup (13): from version 3 for several members, named by their instance id too. */

import { api, array, int16, int32, string } from './schema.ts'

export const leaveGroupApi = api({
  key: 13,
  name: 'LeaveGroup',
  versions: '0-5',
  flexible: '4+',
  request: {
    groupId: string('0+'),
    memberId: string('0-2', { default: '' }),
    members: array(
      '3+',
      {
        memberId: string('3+'),
        groupInstanceId: string('3+', { nullable: '3+', default: null }),
        reason: string('5+', { nullable: '5+', default: null }),
      },
      { default: [] },
    ),
  },
  response: {
    throttleTimeMs: int32('1+', { default: 0 }),
    errorCode: int16('0+'),
    members: array(
      '3+',
      { memberId: string('3+'), groupInstanceId: string('3+', { nullable: '3+' }), errorCode: int16('3+') },
      { default: [] },
    ),
  },
})
