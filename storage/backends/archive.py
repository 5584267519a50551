"""`ArchiveWriter` and `ArchiveStore`: all objects of a store in one file, written once and then read in any order.

Rules:
1. The file has its name only when all of it is on disk: it is written beside it under a hidden one. Until then, and for
   ever if anything fails, what had the name before has it still.
2. Bytes are only ever added. What replaces an object stands behind it, and the index names the last; so whoever reads
   meanwhile finds what it began to read, and memory holds one row per object.
3. What is read as a whole is checked against its checksum; a range is not: those who read ranges keep frames there,
   with checksums of their own.
4. An archive that is opened was finished: its magic, its footer, its size and all of its index are checked at once.
5. An archive is never changed, and never unpacked. The form of the file is that of `storage.archives`.

    with ArchiveWriter(Path("agents.snapshots")) as writer:
        writer.put("a/b", b"one", Create())
    with ArchiveStore(Path("agents.snapshots")) as store:
        store.get("a/b").data
"""

from __future__ import annotations

import errno
import os
import stat
import threading
import weakref
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Self

from storage.archives import ANOTHER_COPY, FOOTER_BYTES, GUARD_BYTES, MAGIC, Footer, Row, seal_pieces
from storage.backends.archive_index import ArchiveIndex, place_in
from storage.backends.beside import FileBeside
from storage.backends.disk import DENIED, OpenFile, RealDisk
from storage.backends.limits import PIECE_BYTES, check_condition, check_put, pieces
from storage.clock import Clock, SystemClock
from storage.digest import Hasher, short_hash
from storage.errors import (
    Applied,
    CorruptObjectError,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)
from storage.keys import check_key, check_prefix
from storage.store import (
    ByteRange,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    PutMode,
    StoredObject,
    Version,
)

if TYPE_CHECKING:
    from types import TracebackType

READ_ONLY = "an archive is read-only"
IMPORT_IT = "import it, or write a new one"


class ArchiveWriter:
    """An `ObjectStore` that becomes an archive when its `with` block ends; nothing becomes of it if that fails.

    All that was put so far can be read, replaced and deleted. Several threads may use it; a stream is copied to its end
    before the bytes of the next put are written. Outside of the block every method raises ValueError.

    Args:
        path: The file. One that is there is replaced when the block ends; its permissions stay.
        clock: Gives the times that listings show, and names the temporary file.

    Raises (by the block's begin and end, and by puts):
        NotFoundError: There is no such directory.
        InvalidKeyError: The path is not that of a file.
        PermissionDeniedError: We may not write there.
        UnavailableError: The disk is full, or fails.
    """

    def __init__(self, path: Path, *, clock: Clock | None = None) -> None:
        self.path = Path(os.path.realpath(path))
        self._clock = clock or SystemClock()
        self._appending = threading.Lock()  # held while bytes are written
        self._deciding = threading.Lock()  # held while a condition is checked and the index moves on
        self._rows: dict[str, Row] = {}
        self._end = 0
        self._file: FileBeside | None = None

    def __enter__(self) -> Self:
        if self._end:
            raise ValueError(f"{self.path} was written by this writer; make another one")
        with _typed_errors(str(self.path)):
            if self.path.exists():
                _check_is_file(self.path)
            self._file = FileBeside(self.path, self._clock.new_id())
        with self._discarded_on_error():
            self._end = self._write(MAGIC, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._discarded_on_error(), self._appending, self._deciding:
            if kind is None:
                self._finish()
            else:
                self._discard()

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        return _read(self._written, self.path, key, self._row(key), byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        check_put(key, data, mode)
        # Only the check behind the bytes counts; this one spares a loser writing them.
        self._check_condition(key, mode)
        with self._appending:
            row = self._append(data)
            with self._deciding:
                self._check_condition(key, mode)
                self._end = row.end  # first: bytes that a row names are never written over
                self._rows[key] = row
        return _version(row)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        row = self._row(key)
        return ObjectMeta(key, row.size_bytes, _version(row))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        check_prefix(prefix)
        with self._deciding:
            keys = sorted(key for key in self._known if key.startswith(prefix))
        return self._listed(keys[bisect_right(keys, start_after) :])

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there. Its bytes stay in the file, and nothing names them."""
        check_key(key)
        with self._deciding:
            self._known.pop(key, None)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed."""
        failures = []
        for key in keys:
            try:
                self.delete(key)
            except InvalidKeyError as error:
                failures.append(DeleteFailure(key, error))
        return tuple(failures)

    @property
    def _written(self) -> FileBeside:
        if self._file is None:
            raise ValueError(f"{self.path} is not being written: use its writer within a `with` block")
        return self._file

    @property
    def _known(self) -> dict[str, Row]:
        """Return the rows of what is there, while it can be read."""
        _ = self._written
        return self._rows

    def _row(self, key: str) -> Row:
        row = self._known.get(check_key(key))
        if row is None:
            raise NotFoundError(key)
        return row

    def _listed(self, keys: Iterable[str]) -> Iterator[ListedObject]:
        for key in keys:
            if (row := self._known.get(key)) is not None:
                yield ListedObject(key, row.size_bytes, row.modified_at)

    def _check_condition(self, key: str, mode: PutMode) -> None:
        row = self._known.get(key)
        check_condition(key, mode, None if row is None else _version(row))

    def _append(self, data: bytes | BinaryIO) -> Row:
        """Write bytes behind all others; until a row names them the next ones take their place."""
        hasher, end = Hasher(), self._end
        for piece in pieces(data):
            hasher.update(piece)
            end = self._write(piece, end)
        return Row(self._end, end - self._end, hasher.short(GUARD_BYTES), self._clock.now())

    def _write(self, data: bytes, start: int) -> int:
        with _typed_errors(str(self.path)):
            return self._written.write(data, start)

    def _finish(self) -> None:
        end = self._write_index()
        with _typed_errors(str(self.path)):
            self._written.publish(end)
        with _typed_errors(str(self.path), applied="unknown"):
            self._written.sync_name()
        self._file = None

    def _write_index(self) -> int:
        hasher, end = Hasher(), self._end
        for piece in seal_pieces(self._rows):
            hasher.update(piece)
            end = self._write(piece, end)
        footer = Footer(self._end, end - self._end, len(self._rows), end + FOOTER_BYTES)
        hasher.update(footer.numbers)
        return self._write(replace(footer, guard=hasher.short(GUARD_BYTES)).sealed(), end)

    @contextmanager
    def _discarded_on_error(self) -> Iterator[None]:
        try:
            yield
        except BaseException:
            self._discard()
            raise

    def _discard(self) -> None:
        self._written.discard()
        self._file = None


class ArchiveStore:
    """An archive as an `ObjectStore` that can only be read; by any number of threads, until it is closed.

    It has one open file, which goes with it where it is never closed.

    Args:
        path: The file.

    Raises:
        NotFoundError: There is no such file.
        CorruptObjectError: It is no archive, or a cut, extended or altered one; names the file and the place.
        InvalidKeyError: The path is not that of a file.
        PermissionDeniedError: We may not read it.
        UnavailableError: The disk fails.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(os.path.abspath(path))
        with _typed_errors(str(self.path)), ExitStack() as opening:
            _check_is_file(self.path)
            self._file = opening.enter_context(RealDisk().open(self.path))
            self._index = ArchiveIndex(self._file, self.path)
            self._closing = weakref.finalize(self, opening.pop_all().close)

    def close(self) -> None:
        """Close the file; not while others read. What is asked afterwards raises ValueError."""
        self._closing()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, checked; or those of `byte_range`, of which only the bounds are (rule 3).

        Raises:
            CorruptObjectError: The object's bytes are not those that were put: names the key and the place in the file.
                Or the range begins at or behind the object's end.
            And as `ObjectStore.get`.
        """
        return _read(self._file, self.path, key, self._row(key), byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:  # noqa: ARG002  the protocol's
        """Raise PermissionDeniedError."""
        raise PermissionDeniedError(key, READ_ONLY, remedy=IMPORT_IT)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        row = self._row(key)
        return ObjectMeta(key, row.size_bytes, _version(row))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        check_prefix(prefix)
        return (ListedObject(key, row.size_bytes, row.modified_at) for key, row in self._rows(prefix, start_after))

    def delete(self, key: str) -> None:
        """Raise PermissionDeniedError."""
        raise PermissionDeniedError(key, READ_ONLY, remedy=IMPORT_IT)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:  # noqa: ARG002  the protocol's
        """Raise PermissionDeniedError."""
        raise PermissionDeniedError(str(self.path), READ_ONLY, remedy=IMPORT_IT)

    def _row(self, key: str) -> Row:
        check_key(key)
        self._check_open()
        with _typed_errors(key):
            return self._index.row(key)

    def _rows(self, prefix: str = "", start_after: str = "") -> Iterator[tuple[str, Row]]:
        self._check_open()
        with _typed_errors(str(self.path)):
            yield from self._index.rows(prefix, start_after)

    def _check_open(self) -> None:
        if not self._closing.alive:
            raise ValueError(f"{self.path} was closed")


def damaged(store: ArchiveStore, on_read: Callable[[int], None] | None = None) -> Iterator[CorruptObjectError]:
    """Read every object again, a window at a time; yield the error of each whose bytes are not those that were put.

    What the index does not name (what was replaced or deleted while the archive was written) is not looked at.

    Args:
        store: What to look at, open.
        on_read: Called with the number of bytes of each window.

    Raises:
        UnavailableError: The disk fails.
    """
    for key, row in store._rows():
        hasher = Hasher()
        for start in range(row.offset, row.end, PIECE_BYTES):
            with _typed_errors(key):
                window = store._file.read(start, min(PIECE_BYTES, row.end - start))
            hasher.update(window)
            if on_read is not None:
                on_read(len(window))
        if hasher.short(GUARD_BYTES) != row.guard:
            yield _altered(store.path, key, row)


def _read(file: OpenFile, path: Path, key: str, row: Row, byte_range: ByteRange | None) -> StoredObject:
    start, end = row.offset, row.end
    if byte_range is not None:
        if byte_range.start >= row.size_bytes:
            raise CorruptObjectError(key, f"has {row.size_bytes} bytes, the range begins at {byte_range.start}")
        start, end = row.offset + byte_range.start, min(row.offset + byte_range.end, row.end)
    with _typed_errors(key):
        data = file.read(start, end - start)
    if len(data) != end - start:
        reason = f"the file {path} ended at byte {start + len(data)}, within its bytes"
        raise CorruptObjectError(key, reason, remedy=ANOTHER_COPY)
    if byte_range is None and short_hash(data, GUARD_BYTES) != row.guard:
        raise _altered(path, key, row)
    return StoredObject(data, _version(row))


def _altered(path: Path, key: str, row: Row) -> CorruptObjectError:
    reason = f"its {row.size_bytes} bytes ({place_in(path, row.offset)}) are not those that were put"
    return CorruptObjectError(key, reason, remedy=ANOTHER_COPY)


def _version(row: Row) -> Version:
    return Version(row.guard.hex())  # that of the bytes, as in the other stores


def _check_is_file(path: Path) -> None:
    if not stat.S_ISREG(path.stat().st_mode):
        raise InvalidKeyError(str(path), "is no file, as an archive is; a store in a directory is file:PATH")


@contextmanager
def _typed_errors(key: str, *, applied: Applied = "no") -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        if isinstance(error, FileNotFoundError) and applied == "no":
            raise NotFoundError(key, f"{key}: {reason}") from error
        if error.errno in DENIED and applied == "no":
            raise PermissionDeniedError(key, reason) from error
        if isinstance(error, IsADirectoryError | NotADirectoryError) or error.errno == errno.ENAMETOOLONG:
            raise InvalidKeyError(key, f"{reason}; want the path of a file") from error
        raise UnavailableError(key, reason, applied=applied) from error
