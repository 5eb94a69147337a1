/** What the commands print: aligned tables, numbers and durations for people. */

export type Cell = string | number | null

/** Columns as wide as their widest cell; numbers to the right. No line is longer than it has to be. */
export function table(headings: readonly string[], rows: readonly (readonly Cell[])[]): string {
  const text = rows.map(row => row.map(cell => (cell === null ? '-' : String(cell))))
  const widths = headings.map((heading, column) =>
    text.reduce((width, row) => Math.max(width, row[column].length), heading.length),
  )
  const isNumeric = headings.map((_, column) => text.every(row => /^(-|[\d.,]+)$/.test(row[column])))
  const line = (cells: readonly string[]) =>
    cells
      .map((cell, column) =>
        isNumeric[column] ? cell.padStart(widths[column]) : cell.padEnd(widths[column]),
      )
      .join('  ')
      .trimEnd()
  return `${[headings, ...text].map(line).join('\n')}\n`
}

/** 1234567 as 1,234,567. */
export function count(value: number): string {
  return Math.round(value).toLocaleString('en-US')
}

/** 1536 as "1.5 KiB". */
export function byteSize(bytes: number): string {
  const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB']
  let value = bytes
  let unit = 0
  while (value >= 1024 && unit < units.length - 1) {
    value /= 1024
    unit++
  }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`
}
