/** A disk for planting bugs: some of its calls, or of its files' calls, do something else. */

import type { Disk, DiskFile } from '../../src/lib/disk.ts'

export function lying(
  lies: (disk: Disk) => Partial<Disk>,
  fileLies: (file: DiskFile) => Partial<DiskFile> = () => ({}),
): (disk: Disk) => Disk {
  return disk => ({
    kind: disk.kind,
    open(path, mode) {
      const file = disk.open(path, mode)
      return {
        path,
        size: () => file.size(),
        write: (bytes, position) => file.write(bytes, position),
        read: (position, bytesMax) => file.read(position, bytesMax),
        readNow: (position, bytesMax) => file.readNow(position, bytesMax),
        sync: () => file.sync(),
        truncate: size => file.truncate(size),
        close: () => file.close(),
        ...fileLies(file),
      }
    },
    list: path => disk.list(path),
    makeDirectory: path => disk.makeDirectory(path),
    rename: (from, to) => disk.rename(from, to),
    remove: path => disk.remove(path),
    syncDirectory: path => disk.syncDirectory(path),
    lock: path => disk.lock(path),
    ...lies(disk),
  })
}
