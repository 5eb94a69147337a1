/**
 * Compressed bytes recorded from the libraries of other clients: kafka-python 3.0.12, python-lz4 4.4.5, python-snappy 0.7.3, cramjam 2.14.0,
 * python-zstandard 0.25.0. `plain` names the text they hold, see compression.test.ts.
 */

export interface RecordedFrame {
  readonly type: number
  readonly from: string
  readonly plain: 'tiny' | 'short' | 'middle' | 'long'
  readonly base64: string
}

export const recordedFrames: readonly RecordedFrame[] = [
  {
    type: 1,
    from: 'Python gzip',
    plain: 'short',
    base64: 'H4sIAAAAAAACAyvOKc1MTlUoRqEYGJnQRAa9BABOZFHRyAAAAA==',
  },
  {
    type: 1,
    from: 'kafka-python',
    plain: 'short',
    base64: 'H4sIABxlAWsC/yvOKc1MTlUoRqEYGJnQRAa9BABOZFHRyAAAAA==',
  },
  {
    type: 1,
    from: 'two members',
    plain: 'short',
    base64:
      'H4sIAAAAAAACAyvOKc1MTlUoRqEYGJnQRJAkALeGHtcyAAAAH4sIAAAAAAACAyvOKc1MTlUoRqEYGJnQROgsAQA35Ce6lgAAAA==',
  },
  {
    type: 2,
    from: 'kafka-python, xerial, two blocks',
    plain: 'middle',
    base64:
      'glNOQVBQWQAAAAABAAAAAQAABguAgAIYc2x1aWNlIP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4H' +
      'AP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAP4HAOIHAAAAAHO4ERhs' +
      'dWljZSBz/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA' +
      '/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcA/gcAwgcA',
  },
  {
    type: 2,
    from: 'python-snappy, raw',
    plain: 'short',
    base64: 'yAEYc2x1aWNlIDYHAAgAAQI6EgANIP4ZAP4ZAGYZAA==',
  },
  {
    type: 2,
    from: 'cramjam, raw, more than one fragment',
    plain: 'middle',
    base64:
      'uJECGHNsdWljZSD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+' +
      'BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwD+BwDC' +
      'BwA=',
  },
  {
    type: 2,
    from: 'kafka-python, xerial, two streams joined',
    plain: 'short',
    base64:
      'glNOQVBQWQAAAAABAAAAAQAAAB8yGHNsdWljZSA2BwAIAAECOhIAKHNsdWljZSAAAQIgglNOQVBQWQAAAAABAAAAAQAAAByWARhz' +
      'bHVpY2UgNgcACAABAjoSAA0g/hkAnhkA',
  },
  {
    type: 3,
    from: 'kafka-python',
    plain: 'short',
    base64: 'BCJNGGhAyAAAAAAAAADUHQAAAHpzbHVpY2UgBwA7AAECEgADIAAPGQCCUCAAAQIgAAAAAA==',
  },
  {
    type: 3,
    from: 'kafka-python, several blocks',
    plain: 'long',
    base64:
      'BCJNGGhA4CICAAAAAABWHwEAAP8FMCAxIDIgMyA0IDUgNiA3IDggOSAUAP//////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '///////////////////////////////////////////////////////////////////////////////////////////////////U' +
      'UCA2IDcgHwEAAP8FOCA5IDAgMSAyIDMgNCA1IDYgNyAUAP//////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '///////////////////////////////////////////////////////////////////////////////////////UUCA0IDUgQQAA' +
      'AP8FNiA3IDggOSAwIDEgMiAzIDQgNSAUAP/////////////////////////////////////////////WUCA4IDkgAAAAAA==',
  },
  {
    type: 3,
    from: 'python-lz4, independent blocks, all checksums, size',
    plain: 'long',
    base64:
      'BCJNGHxA4CICAAAAAAD/HwEAAP8FMCAxIDIgMyA0IDUgNiA3IDggOSAUAP//////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '///////////////////////////////////////////////////////////////////////////////////////////////////U' +
      'UCA2IDcgtAKlQR8BAAD/BTggOSAwIDEgMiAzIDQgNSA2IDcgFAD/////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////1FAgNCA1' +
      'ICzfiH5BAAAA/wU2IDcgOCA5IDAgMSAyIDMgNCA1IBQA/////////////////////////////////////////////9ZQIDggOSDW' +
      'XhLrAAAAAOUqdf4=',
  },
  {
    type: 3,
    from: 'python-lz4, linked blocks, all checksums, size',
    plain: 'long',
    base64:
      'BCJNGFxA4CICAAAAAABPHwEAAP8FMCAxIDIgMyA0IDUgNiA3IDggOSAUAP//////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '///////////////////////////////////////////////////////////////////////////////////////////////////U' +
      'UCA2IDcgtAKlQQoBAAAP8P//////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////6FAgNCA1IMP/T7UsAAAADxQA////////////' +
      '/////////////////////////////////+pQIDggOSBUxWK9AAAAAOUqdf4=',
  },
  {
    type: 3,
    from: 'python-lz4, linked blocks',
    plain: 'long',
    base64:
      'BCJNGEBAwB8BAAD/BTAgMSAyIDMgNCA1IDYgNyA4IDkgFAD/////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////1FAgNiA3IAoB' +
      'AAAP8P//////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////6FAgNCA1ICwAAAAPFAD/////////////////////////////////' +
      '////////////6lAgOCA5IAAAAAA=',
  },
  {
    type: 3,
    from: 'python-lz4, size, one block of 4 MiB',
    plain: 'long',
    base64:
      'BCJNGGhQ4CICAAAAAACqQwIAAP8FMCAxIDIgMyA0IDUgNiA3IDggOSAUAP//////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////////////////' +
      '////////////////////////////////////////////////////////////////////////////////////////2FAgOCA5IAAA' +
      'AAA=',
  },
  {
    type: 3,
    from: 'python-lz4, stored block',
    plain: 'tiny',
    base64: 'BCJNGGBAghAAAAB4c2x1aWNlIAcAUGUgAAECAAAAAA==',
  },
  {
    type: 3,
    from: 'cramjam',
    plain: 'short',
    base64: 'BCJNGFRArhgAAAB6c2x1aWNlIAcATwABAiAZAJdQIAABAiCm4opcAAAAAOPsZJo=',
  },
  {
    type: 4,
    from: 'kafka-python',
    plain: 'short',
    base64: 'KLUv/SDIxQAAUHNsdWljZSAAAQIEABeeFEAGanZDcjEC',
  },
  {
    type: 4,
    from: 'python-zstandard, level 19, checksum, no size',
    plain: 'long',
    base64: 'KLUv/QRA5AAAoDAgMSAyIDMgNCA1IDYgNyA4IDkgAQDS/y+fTEUAAAABAN3i+AkE5lzzww==',
  },
  {
    type: 4,
    from: 'python-zstandard, streamed',
    plain: 'long',
    base64: 'KLUv/QBY5AAAoDAgMSAyIDMgNCA1IDYgNyA4IDkgAQCyIi6fTE0AAAgwAQBsETkQAg==',
  },
  {
    type: 4,
    from: 'two frames',
    plain: 'short',
    base64: 'KLUv/SAyzQAAcHNsdWljZSAAAQIAAQIgAwAgAzW7IbkYASi1L/0glr0AAFBzbHVpY2UgAAECBACFZwLggprdkFyM',
  },
]
