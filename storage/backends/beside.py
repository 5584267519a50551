"""`FileBeside`: written under a hidden name beside its target, it takes the target's name when all of it is on disk.

Rules:
1. The target is the old file, or none, until `publish` renames; then it is the new one, which is on disk by then.
2. Permissions of a file that is replaced stay. A killed process leaves the hidden file behind, which nobody reads.
3. Errors are those of the operating system (`OSError`), unchanged.

    file = FileBeside(Path("x/agents.snapshots"), "0a1b")  # x/.archive.0a1b.part
    file.write(b"one", 0)
    file.publish(3)
    file.sync_name()
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from storage.backends.disk import OpenDescriptor, RealDisk
from storage.digest import Buffer, octets

PREFIX, SUFFIX = ".archive.", ".part"


class FileBeside:
    """A new file, open for writing and reading at any place. Writing is for one thread, reading for several.

    Args:
        target: Whose name it will take; no link.
        unique: What tells its hidden name from others.
    """

    def __init__(self, target: Path, unique: str) -> None:
        self._target = target
        self._path = target.with_name(f"{PREFIX}{unique}{SUFFIX}")
        self._file = self._path.open("x+b", buffering=0)
        try:
            with suppress(FileNotFoundError):
                os.fchmod(self._file.fileno(), stat.S_IMODE(target.stat().st_mode))
        except BaseException:
            self.discard()
            raise

    def size_bytes(self) -> int:
        """Return its length."""
        return OpenDescriptor(self._file.fileno()).size_bytes()

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer only at the file's end."""
        return OpenDescriptor(self._file.fileno()).read(start, length)

    def write(self, data: Buffer, start: int) -> int:
        """Write bytes from `start` on; return the first place behind them."""
        rest = octets(data)
        while rest:
            count = os.pwrite(self._file.fileno(), rest, start)
            start, rest = start + count, rest[count:]
        return start

    def publish(self, size_bytes: int) -> None:
        """Cut the file there, sync it, close it, and give it the target's name; the directory is not yet synced."""
        os.ftruncate(self._file.fileno(), size_bytes)
        os.fsync(self._file.fileno())
        self._file.close()
        RealDisk().rename(self._path, self._target)

    def sync_name(self) -> None:
        """Make the new name survive a power cut."""
        RealDisk().sync_directory(self._target.parent)

    def discard(self) -> None:
        """Remove the file, unless it has the target's name already."""
        with suppress(OSError):  # of a file that nobody needs; what went wrong before matters more
            self._file.close()
        with suppress(OSError):
            RealDisk().unlink(self._path)
