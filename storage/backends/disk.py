"""`Disk`: the few file calls that the local store makes, so that a test can be the disk.

Rules:
1. What was renamed or unlinked may come undone in a power cut until its directory was synced; file content until the
   file was. `LocalStore` relies on nothing else, and a simulated disk may lose everything that these calls allow.
2. An open file keeps showing the object that it was opened on, whatever is renamed over its name.
3. Errors are those of the operating system (`OSError`), unchanged.

    disk = RealDisk()
    disk.write_new_synced(Path("x/.tmp/1"), [b"one"])
    disk.rename(Path("x/.tmp/1"), Path("x/a"))
    disk.sync_directory(Path("x"))
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})  # what to do: look at the rights


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a directory."""

    name: str
    is_directory: bool


@dataclass(frozen=True, slots=True)
class FileFacts:
    """Size in bytes and time of the last change of one file."""

    size_bytes: int
    modified_at: datetime


class OpenFile(Protocol):
    """A file open for reading."""

    def size_bytes(self) -> int:
        """Return its length."""
        ...

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer only at the file's end."""
        ...


class Disk(Protocol):
    """File calls; safe for use by several threads and processes."""

    def open(self, path: Path) -> AbstractContextManager[OpenFile]:
        """Open a file for reading."""
        ...

    def write_new_synced(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Create a file that must not exist, write the pieces, sync its content."""
        ...

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of what had it, in one step."""
        ...

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        ...

    def make_directory(self, path: Path) -> None:
        """Create a directory whose parent exists; silent if it exists itself."""
        ...

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory survive a power cut."""
        ...

    def entries(self, path: Path) -> Sequence[Entry]:
        """Return the names in a directory, in no order."""
        ...

    def facts(self, path: Path) -> FileFacts:
        """Return size and time of a file."""
        ...

    def exists(self, path: Path) -> bool:
        """Say whether a file or directory of this name exists."""
        ...

    def lock(self, path: Path) -> AbstractContextManager[None]:
        """Hold the lock of this name (its directory exists) against every other thread and process of this host."""
        ...


class RealDisk:
    """The operating system's disk. POSIX only: `flock` and directory syncs have no like elsewhere."""

    def open(self, path: Path) -> AbstractContextManager[OpenFile]:
        """Open a file for reading."""
        return _opened(path)

    def write_new_synced(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Create a file that must not exist, write the pieces, sync its content."""
        with path.open("xb", buffering=0) as file:
            for piece in pieces:
                rest = memoryview(piece)
                while rest:
                    rest = rest[file.write(rest) :]
            os.fsync(file.fileno())

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of what had it, in one step."""
        os.replace(source, target)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        path.unlink()

    def make_directory(self, path: Path) -> None:
        """Create a directory whose parent exists; silent if it exists itself."""
        path.mkdir(exist_ok=True)

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory survive a power cut."""
        descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def entries(self, path: Path) -> Sequence[Entry]:
        """Return the names in a directory, in no order."""
        with os.scandir(path) as found:
            return [Entry(entry.name, entry.is_dir()) for entry in found]

    def facts(self, path: Path) -> FileFacts:
        """Return size and time of a file."""
        status = path.stat()
        return FileFacts(status.st_size, datetime.fromtimestamp(status.st_mtime, UTC))

    def exists(self, path: Path) -> bool:
        """Say whether a file or directory of this name exists."""
        return path.exists()

    def lock(self, path: Path) -> AbstractContextManager[None]:
        """Hold the lock of this name against every other thread and process of this host.

        The kernel drops it with the descriptor, so also when the process is killed.
        """
        return _locked(path)


@contextmanager
def _opened(path: Path) -> Iterator[OpenFile]:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield OpenDescriptor(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        # Closing alone would not unlock while a process forked meanwhile has inherited the descriptor.
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        os.close(descriptor)


class OpenDescriptor:
    """An `OpenFile` by its descriptor, which whoever opened it closes. Reads by several threads are independent.

    Args:
        descriptor: Of a file that may be read.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor

    def size_bytes(self) -> int:
        """Return its length."""
        return os.fstat(self._descriptor).st_size

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes from `start`, fewer only at the file's end."""
        got = bytearray()
        while len(got) < length and (piece := os.pread(self._descriptor, length - len(got), start + len(got))):
            got += piece
        return bytes(got)
