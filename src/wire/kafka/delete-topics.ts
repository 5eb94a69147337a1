/** DeleteTopics (20): from version 6 by topic id too. */

import { api, array, int16, int32, string, uuid } from './schema.ts'

export const deleteTopicsApi = api({
  key: 20,
  name: 'DeleteTopics',
  versions: '0-6',
  flexible: '4+',
  request: {
    topics: array(
      '6+',
      { name: string('6+', { nullable: '6+', default: null }), topicId: uuid('6+') },
      { default: [] },
    ),
    topicNames: array('0-5', 'string', { default: [] }),
    timeoutMs: int32('0+'),
  },
  response: {
    throttleTimeMs: int32('1+', { default: 0 }),
    responses: array('0+', {
      name: string('0+', { nullable: '6+' }),
      topicId: uuid('6+'),
      errorCode: int16('0+'),
      errorMessage: string('5+', { nullable: '5+', default: null }),
    }),
  },
})
