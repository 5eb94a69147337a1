/**
 * Record batches as kafka-python 3.0.12 writes them (`DefaultRecordBatchBuilder`, magic 2), so that an error in our writer and
 * the same one in our reader cannot cancel out. All hold `goldenRecords`; `idempotent` has a producer id as well.
 */

import type { Header } from '../../src/record/builder.ts'

export interface GoldenRecord {
  readonly timestamp: number
  readonly key: Buffer | null
  readonly value: Buffer | null
  readonly headers: readonly Header[]
}

const TIME = 1_700_000_000_000

export const goldenRecords: readonly GoldenRecord[] = [
  { timestamp: TIME, key: Buffer.from('key'), value: Buffer.from('value'), headers: [] },
  {
    timestamp: TIME - 1_000,
    key: null,
    value: Buffer.from('héllo ☃'),
    headers: [
      ['h1', Buffer.from('x')],
      ['h1', null],
      ['ü', Buffer.alloc(0)],
    ],
  },
  { timestamp: TIME + 2 ** 32 + 5, key: Buffer.alloc(0), value: null, headers: [] },
  {
    timestamp: TIME + 1,
    key: Buffer.alloc(70, 'k'),
    value: Buffer.alloc(300, 'v'),
    headers: [['trace', Buffer.from('00ff'.repeat(40), 'hex')]],
  },
]

const RECORDS =
  '1c000000066b65790a76616c7565003c00cf0f02011468c3a96c6c6f20e298830604683102780468310104c3bc00' +
  `14008a8080802004000100a4070002068c01${'6b'.repeat(70)}d804${'76'.repeat(300)}020a7472616365a001${'00ff'.repeat(40)}`
const TIMES = '0000018bcfe568000000018ccfe56805'
const NO_PRODUCER = `${'ff'.repeat(14)}00000004`

export const golden = {
  none: `00000000000000000000023e000000000201eb500b000000000003${TIMES}${NO_PRODUCER}${RECORDS}`,
  idempotent:
    `00000000000000000000023e00000000020fa22a75000000000003${TIMES}` +
    `0000001cbe991a1400077ffffff800000004${RECORDS}`,
  gzip:
    `00000000000000000000009b0000000002814930a0000100000003${TIMES}${NO_PRODUCER}` +
    '1f8b0800696d016b02ff9361606060cb4eade42a4bcc294d65b06138cfcfc428927178654e4ebec2a319cd6c2c19864c' +
    '15408291e5f01e061186ae868606051606468625ec0c4c6c3d8cd954013758ca4601d18089aba4283139750123c37fea42' +
    '00f609d2e70d020000',
  snappy:
    `0000000000000000000000b70000000002bcfa180a000200000003${TIMES}${NO_PRODUCER}` +
    '82534e41505059000000000100000001000000728d04f0431c000000066b65790a76616c7565003c00cf0f02011468c3a9' +
    '6c6c6f20e298830604683102780468310104c3bc0014008a8080802004000100a4070002068c016b6b6b6bee0300090308' +
    'd80476fe0100fe0100fe0100fe0100aa010028020a7472616365a00100fffe0200360200',
  lz4:
    `0000000000000000000000ab0000000002a7b1386e000300000003${TIMES}${NO_PRODUCER}` +
    '04224d1868400d02000000000000bf63000000ff321c000000066b65790a76616c7565003c00cf0f02011468c3a96c6c6f' +
    '20e298830604683102780468310104c3bc0014008a8080802004000100a4070002068c016b0100323fd804760100ff19bf' +
    '020a7472616365a00100ff02003650ff00ff00ff00000000',
  zstd:
    `0000000000000000000000980000000002e8f907aa000400000003${TIMES}${NO_PRODUCER}` +
    '28b52ffd600d01ed0200f4041c000000066b65790a76616c7565003c00cf0f02011468c3a96c6c6f20e298830604683102' +
    '780468310104c3bc0014008a8080802004000100a4070002068c016bd80476020a7472616365a00100ff03009b433d0a50' +
    '2710149801',
} as const
