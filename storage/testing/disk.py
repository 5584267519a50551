"""`SimulatedDisk`: a disk in memory that forgets in a power cut whatever was not synced.

Rules:
1. A file's content survives once it was written and synced; a name survives once its directory was synced, and every
   directory above it.
2. In a power cut each name that was changed and not synced may be as before or as after, each for itself.
3. While it is `full`, a file can be created and not be filled.
4. With `crash_at` the n-th call that changes or syncs something raises `Crash` instead, and so does every call after
   it, until the power cut.

    disk = SimulatedDisk()
    store = LocalStore(Path("/store"), disk=disk)
    disk.power_cut(Draws(7))
"""

from __future__ import annotations

import errno
import threading
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from storage.backends.disk import Entry, FileFacts, OpenFile
from storage.clock import Clock, SystemClock
from storage.testing.draws import Draws
from storage.testing.plan import Crash

_Names = dict[str, bytes | None]
"""The names in one directory: a file's content, or None for a directory."""


class SimulatedDisk:
    """A `Disk` in memory.

    Args:
        clock: Gives the times that files show.

    Attributes:
        calls: How many calls so far changed or synced something.
        crash_at: Which of them is the last straw; None for none.
        full: Whether there is no room for another byte.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self.calls = 0
        self.crash_at: int | None = None
        self.full = False
        self._live: dict[Path, _Names] = {Path("/"): {}}
        self._durable: dict[Path, _Names] = {Path("/"): {}}
        self._guard = threading.RLock()
        self._locks: defaultdict[Path, threading.Lock] = defaultdict(threading.Lock)

    def power_cut(self, draws: Draws | None = None) -> None:
        """Forget what was not synced: all of it, or what `draws` decides; then run again."""
        with self._guard:
            kept: dict[Path, _Names] = {}
            self._recover(Path("/"), kept, draws)
            self._live = kept
            self._durable = {path: dict(names) for path, names in kept.items()}
            self.crash_at = None

    def _recover(self, directory: Path, kept: dict[Path, _Names], draws: Draws | None) -> None:
        before, after = self._durable.get(directory, {}), self._live.get(directory, {})
        kept[directory] = names = {}
        for name in sorted(before.keys() | after.keys()):
            source = after if draws and draws.below(2) else before
            if name in source:
                names[name] = source[name]
                if source[name] is None:
                    self._recover(directory / name, kept, draws)

    @contextmanager
    def open(self, path: Path) -> Iterator[OpenFile]:
        """Open a file for reading."""
        with self._guard:
            content = self._names(path.parent).get(path.name, b"")
            if path.name not in self._names(path.parent):
                raise FileNotFoundError(2, "no such file", str(path))
        if content is None:
            raise IsADirectoryError(21, "is a directory", str(path))
        yield _Opened(content)

    def write_new_synced(self, path: Path, pieces: Iterable[bytes]) -> None:
        """Create a file that must not exist, write the pieces, sync its content."""
        self._step()
        with self._guard:
            if path.name in self._names(path.parent):
                raise FileExistsError(17, "exists", str(path))
            self._names(path.parent)[path.name] = b""
        content = b"".join(pieces)
        self._step()
        if self.full:
            raise OSError(errno.ENOSPC, "no space left on device", str(path))
        with self._guard:
            self._names(path.parent)[path.name] = content

    def rename(self, source: Path, target: Path) -> None:
        """Give a file another name, in place of what had it, in one step."""
        self._step()
        with self._guard:
            if self._names(target.parent).get(target.name, b"") is None:
                raise IsADirectoryError(21, "is a directory", str(target))
            self._names(target.parent)[target.name] = self._take(source)

    def unlink(self, path: Path) -> None:
        """Remove a file."""
        self._step()
        with self._guard:
            self._take(path)

    def make_directory(self, path: Path) -> None:
        """Create a directory whose parent exists; silent if it exists itself."""
        self._step()
        with self._guard:
            names = self._names(path.parent)
            if names.setdefault(path.name, None) is not None:
                raise FileExistsError(17, "exists", str(path))
            self._live.setdefault(path, {})

    def sync_directory(self, path: Path) -> None:
        """Make the names in a directory survive a power cut."""
        self._step()
        with self._guard:
            self._durable[path] = dict(self._names(path))

    def entries(self, path: Path) -> Sequence[Entry]:
        """Return the names in a directory, in no order."""
        with self._guard:
            return [Entry(name, content is None) for name, content in self._names(path).items()]

    def facts(self, path: Path) -> FileFacts:
        """Return size of a file, and the present as its time: times are not kept."""
        with self.open(path) as file:
            return FileFacts(file.size_bytes(), self._clock.now())

    def exists(self, path: Path) -> bool:
        """Say whether a file or directory of this name exists."""
        with self._guard:
            return path in self._live or path.name in self._live.get(path.parent, {})

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        """Hold the lock of this name against every other thread."""
        self._step()
        with self._guard:
            self._names(path.parent)
            lock = self._locks[path]
        with lock:
            yield

    def _step(self) -> None:
        with self._guard:
            self.calls += 1
            if self.crash_at is not None and self.calls >= self.crash_at:
                raise Crash(f"call {self.calls} of the disk")

    def _names(self, directory: Path) -> _Names:
        if directory in self._live:
            return self._live[directory]
        above = next(parent for parent in directory.parents if parent in self._live)
        first = directory.relative_to(above).parts[0]
        if first in self._live[above]:
            raise NotADirectoryError(20, "not a directory", str(directory))
        raise FileNotFoundError(2, "no such directory", str(directory))

    def _take(self, path: Path) -> bytes:
        names = self._names(path.parent)
        if path.name not in names:
            raise FileNotFoundError(2, "no such file", str(path))
        content = names[path.name]
        if content is None:
            raise IsADirectoryError(21, "is a directory", str(path))
        del names[path.name]
        return content


class _Opened:
    def __init__(self, content: bytes) -> None:
        self._content = content

    def size_bytes(self) -> int:
        return len(self._content)

    def read(self, start: int, length: int) -> bytes:
        return self._content[start : start + length]
