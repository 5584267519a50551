"""`LocalStore`: objects as files below a directory, shared by the threads and processes of one host.

Rules:
1. A put writes a temporary file, syncs it, takes the key's lock, checks the condition, renames, syncs the directory.
   Readers take no lock: a name always leads to a whole object.
2. A file is the object's bytes and, behind them, a trailer with their 16-byte version. So a range costs no hashing of
   the rest, and a file that was cut or changed is noticed by the next full read. The trailer is a skippable frame of
   zstd: a compressed object stays readable by any zstd reader.
3. A version follows from content alone. Never from inode or time of change: an inode is used again at once and times
   are coarse, so that another content could be taken for the one that a writer read.
4. A directory is trusted only when this store has synced its parent; directories are never removed, so no put loses
   the ground under it. What begins with a dot (`.tmp`, `.locks`) is no object.
   A temporary file that a killed process left is an unfinished write (`storage.unfinished`); its key is not known.
5. Not for network file systems: locks and renames there promise less.

    store = LocalStore(Path("agents.snapshots"))
    store.put("a/b", b"one", Create())
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from storage.backends.disk import DENIED, Disk, OpenFile, RealDisk
from storage.backends.limits import VERSION_BYTES, check_condition, check_put, content_version, is_key, pieces
from storage.clock import Clock, SystemClock
from storage.digest import Hasher
from storage.errors import (
    Applied,
    CorruptObjectError,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    StorageError,
    UnavailableError,
)
from storage.keys import check_key, check_prefix, fan_out
from storage.store import (
    ByteRange,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    Overwrite,
    PutMode,
    StoredObject,
    Version,
)
from storage.unfinished import UnfinishedWrite

# Magic and length of a skippable frame. Source: RFC 8878 section 3.1.2.
_TRAILER_HEAD = (0x184D2A50).to_bytes(4, "little") + VERSION_BYTES.to_bytes(4, "little")
TRAILER_BYTES = len(_TRAILER_HEAD) + VERSION_BYTES
DIRECTORIES_TRUSTED_MAX = 65_536  # bounds memory; a forgotten directory costs one sync of its parent
OWNED = "check owner and mode of the directory and of what lies in it"
_TEMPORARY_NAME = re.compile(r"[0-9a-f]{32}")


class LocalStore:
    """An `ObjectStore` in a directory, which the first put creates.

    Args:
        root: The directory. Until it exists the store is empty.
        disk: The file calls; a test may give its own.
        clock: Names temporary files.
    """

    def __init__(self, root: Path, *, disk: Disk | None = None, clock: Clock | None = None) -> None:
        self.root = Path(os.path.abspath(root))
        self._disk = disk or RealDisk()
        self._clock = clock or SystemClock()
        self._trusted: set[Path] = set()

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        with self._opened(key) as file:
            size, version = _size_and_version(key, file)
            if byte_range is not None:
                return StoredObject(_read_range(key, file, byte_range, size), version)
            data = file.read(0, size)
        if content_version(data) != version:
            raise CorruptObjectError(key, "the file's bytes are not those that were written")
        return StoredObject(data, version)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        check_put(key, data, mode)
        # Only the check under the lock counts; this one spares a loser the write and its sync.
        self._check_condition(key, mode)
        with self._typed_errors(key), self._temporary() as temporary:
            version = self._write(temporary, data)
            with self._locked(key):
                self._check_condition(key, mode)
                self._publish(key, temporary)
        return version

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        with self._opened(key) as file:
            return ObjectMeta(key, *_size_and_version(key, file))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        check_prefix(prefix)
        directory, slash, _ = prefix.rpartition("/")
        return self._walk(directory + slash, prefix, start_after)

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        path = self._path(key)
        with self._typed_errors(key):
            if not self._disk.exists(path):
                return
            with self._locked(key), suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
                self._disk.unlink(path)
                with self._typed_errors(key, applied="unknown"):
                    self._disk.sync_directory(path.parent)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed."""
        failures = []
        for key in keys:
            try:
                self.delete(key)
            except StorageError as error:
                failures.append(DeleteFailure(key, error))
        return tuple(failures)

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the temporary files of all keys: their names do not tell which. See `KeepsUnfinished.unfinished`.

        `begun_at` is when the file last grew.
        """
        check_prefix(prefix)
        with self._typed_errors(prefix):
            try:
                entries = self._disk.entries(self._temporaries)
            except (FileNotFoundError, NotADirectoryError):
                return
        for name in sorted(entry.name for entry in entries if not entry.is_directory):
            if _TEMPORARY_NAME.fullmatch(name) and (write := self._unfinished_write(name)):
                yield write

    def _unfinished_write(self, name: str) -> UnfinishedWrite | None:
        with self._typed_errors(name):
            try:
                facts = self._disk.facts(self._temporaries / name)
            except FileNotFoundError:
                return None  # finished since the directory was read
        return UnfinishedWrite("", name, facts.modified_at, facts.size_bytes)

    def discard(self, write: UnfinishedWrite) -> None:
        """Remove a temporary file; its writer's rename then fails. See `KeepsUnfinished.discard`."""
        if not _TEMPORARY_NAME.fullmatch(write.id):
            raise InvalidKeyError(write.id, "not the name of a temporary file")
        with self._typed_errors(write.id), suppress(FileNotFoundError):
            self._disk.unlink(self._temporaries / write.id)

    @property
    def _temporaries(self) -> Path:
        return self.root / ".tmp"

    def _path(self, key: str) -> Path:
        return self.root.joinpath(check_key(key))

    @contextmanager
    def _opened(self, key: str) -> Iterator[OpenFile]:
        path = self._path(key)
        try:
            with self._disk.open(path) as file:
                yield file
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(key) from error
        except OSError as error:
            raise _storage_error(error, key, "no") from error

    @contextmanager
    def _typed_errors(self, key: str, *, applied: Applied = "no") -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if isinstance(error, FileNotFoundError):
                self._trusted.clear()  # somebody removed a directory: look at all of them anew
            raise _storage_error(error, key, applied) from error

    def _check_condition(self, key: str, mode: PutMode) -> None:
        if isinstance(mode, Overwrite):
            return
        try:
            present = self.stat(key).version
        except NotFoundError:
            check_condition(key, mode, None)
        else:
            check_condition(key, mode, present)

    @contextmanager
    def _temporary(self) -> Iterator[Path]:
        self._trust(self._temporaries)
        path = self._temporaries / self._clock.new_id()
        try:
            yield path
        except BaseException:
            with suppress(OSError):
                self._disk.unlink(path)
            raise

    def _write(self, temporary: Path, data: bytes | BinaryIO) -> Version:
        hasher = Hasher()

        def content() -> Iterator[bytes]:
            for piece in pieces(data):
                hasher.update(piece)
                yield piece
            yield _TRAILER_HEAD + bytes.fromhex(_hashed(hasher))

        self._disk.write_new_synced(temporary, content())
        return _hashed(hasher)

    @contextmanager
    def _locked(self, key: str) -> Iterator[None]:
        directory = self.root / ".locks"
        self._trust(directory)
        # 256 locks for all keys: enough to keep writers apart, few enough to keep for ever.
        with self._disk.lock(directory / fan_out(key)):
            yield

    def _publish(self, key: str, temporary: Path) -> None:
        path = self._path(key)
        self._trust(path.parent)
        try:
            self._disk.rename(temporary, path)
        except OSError as error:
            if error.errno != errno.EIO:
                raise  # refused: nothing was renamed
            raise _storage_error(error, key, "unknown") from error
        with self._typed_errors(key, applied="unknown"):
            self._disk.sync_directory(path.parent)

    def _trust(self, directory: Path) -> None:
        """Make a directory that survives a power cut; rule 4."""
        if directory in self._trusted:
            return
        if directory == self.root:
            self._make_root()
        else:
            self._trust(directory.parent)
            self._disk.make_directory(directory)
            self._disk.sync_directory(directory.parent)
        if len(self._trusted) >= DIRECTORIES_TRUSTED_MAX:
            self._trusted.clear()
        self._trusted.add(directory)

    def _make_root(self) -> None:
        missing = [self.root]
        while not self._disk.exists(missing[-1].parent):
            missing.append(missing[-1].parent)
        for directory in reversed(missing):
            existed = self._disk.exists(directory)
            self._disk.make_directory(directory)
            try:
                self._disk.sync_directory(directory.parent)
            except PermissionError:
                # A root made by somebody else may lie in a directory that we cannot read.
                if not existed:
                    raise

    def _walk(self, base: str, prefix: str, start_after: str) -> Iterator[ListedObject]:
        """Yield the objects whose keys begin with `base` (a directory, "" or ending in "/"), in key order."""
        for key in self._names(base):
            if key.endswith("/"):
                if _may_hold(key, prefix, start_after):
                    yield from self._walk(key, prefix, start_after)
            elif key.startswith(prefix) and key > start_after and (row := self._row(key)):
                yield row

    def _names(self, base: str) -> Iterable[str]:
        """Return the keys in one directory, sorted as whole keys: a directory counts with its slash."""
        with self._typed_errors(base):
            try:
                entries = self._disk.entries(self.root / base)
            except (FileNotFoundError, NotADirectoryError):
                return []  # it went, or never was
        names = [f"{base}{entry.name}/" if entry.is_directory else base + entry.name for entry in entries]
        return sorted(name for name in names if is_key(name.removesuffix("/")))

    def _row(self, key: str) -> ListedObject | None:
        with self._typed_errors(key):
            try:
                facts = self._disk.facts(self.root / key)
            except (FileNotFoundError, NotADirectoryError):
                return None  # deleted since the directory was read
        return ListedObject(key, max(facts.size_bytes - TRAILER_BYTES, 0), facts.modified_at)


def _hashed(hasher: Hasher) -> Version:
    return Version(hasher.ref().digest.removeprefix("b3:")[: VERSION_BYTES * 2])


def _size_and_version(key: str, file: OpenFile) -> tuple[int, Version]:
    size = file.size_bytes() - TRAILER_BYTES
    trailer = file.read(max(size, 0), TRAILER_BYTES)
    if len(trailer) != TRAILER_BYTES or not trailer.startswith(_TRAILER_HEAD):
        raise CorruptObjectError(key, "the file does not end with the trailer of one that was written")
    return size, Version(trailer.removeprefix(_TRAILER_HEAD).hex())


def _read_range(key: str, file: OpenFile, byte_range: ByteRange, size: int) -> bytes:
    if byte_range.start >= size:
        raise CorruptObjectError(key, f"has {size} bytes, the range begins at {byte_range.start}")
    wanted = min(byte_range.end, size) - byte_range.start
    data = file.read(byte_range.start, wanted)
    if len(data) != wanted:
        raise CorruptObjectError(key, f"gave {len(data)} of {wanted} bytes")
    return data


def _may_hold(directory: str, prefix: str, start_after: str) -> bool:
    """Say whether a directory ("a/b/") may hold keys with this prefix behind `start_after`."""
    on_the_way = directory.startswith(prefix) or prefix.startswith(directory)
    return on_the_way and (directory > start_after or start_after.startswith(directory))


def _storage_error(error: OSError, key: str, applied: Applied) -> StorageError:
    reason = error.strerror or str(error)
    if applied == "unknown":
        return UnavailableError(key, reason, applied=applied)
    if error.errno in DENIED:
        return PermissionDeniedError(key, reason, remedy=OWNED)
    if isinstance(error, IsADirectoryError | NotADirectoryError | FileExistsError) or error.errno == errno.ENAMETOOLONG:
        return InvalidKeyError(key, f"{reason}; a key cannot also be the directory of others, nor too long for a file")
    return UnavailableError(key, reason, applied=applied)
