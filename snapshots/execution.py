"""Execution states on demand: as bytes, or as a stream that reads what is asked for.

Rules:
1. A whole read is checked by the blob's digest; a piece is checked by the checksums of its frames.
2. Nothing is read before it is asked for; about READ_AHEAD_BYTES are read at a time.
3. A pack that is missing: the head is read again. It is corruption only if the revision is still retained.

    with open_execution_state(environment, state) as stream:
        stream.seek(1 << 20)
        stream.read(4096)
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO

from snapshots.base import Base, base_for
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, InvalidStateError, RevisionNotFoundError
from snapshots.restore import read_live_head
from snapshots.state import PersistedSessionState
from storage.digest import BlobRef
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent
from storage.pack_reader import read_blobs, read_pieces

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

READ_AHEAD_BYTES = 1 << 20


def read_execution_state(environment: Environment, state: PersistedSessionState) -> bytes:
    """Return the whole execution state of a loaded or committed state; see `SnapshotRepository`."""
    if state.execution_state_snapshot is not None:
        return state.execution_state_snapshot
    base, ref = _held(environment, state)
    extents = base.placement.extents[ref.digest]
    key_of = _key_of(environment, base)
    try:
        return read_blobs(environment.store, {ref: extents}, key_of, environment.executor)[ref]
    except CorruptObjectError as error:
        raise CorruptSnapshotError(error.key, error.reason, ref=ref.digest) from error
    except NotFoundError as error:
        raise _gone(environment, base, ref, error.key) from error


def open_execution_state(environment: Environment, state: PersistedSessionState) -> BinaryIO:
    """Return the execution state as a seekable stream that reads on demand; see `SnapshotRepository`."""
    if state.execution_state_snapshot is not None:
        return io.BytesIO(state.execution_state_snapshot)
    base, ref = _held(environment, state)
    return io.BufferedReader(_BlobStream(environment, base, ref), READ_AHEAD_BYTES)


def _held(environment: Environment, state: PersistedSessionState) -> tuple[Base, BlobRef]:
    ref = state.execution_state_ref
    if ref is None:
        raise InvalidStateError("this revision has no execution state")
    base = base_for(state, environment.home)
    if base is None or base.checkpoint.execution_state != ref:
        raise InvalidStateError("this state was not loaded from here; load it to read its execution state")
    return base, ref


def _key_of(environment: Environment, base: Base) -> Callable[[str], str]:
    return partial(environment.layout.pack, base.head.family)


def _gone(environment: Environment, base: Base, ref: BlobRef, key: str) -> CorruptSnapshotError | RevisionNotFoundError:
    """Return what it means that a pack is missing: the head, read again, decides (rule 3).

    Raises:
        SessionDeletedError, SessionMovedError: The session ended meanwhile.
    """
    head = read_live_head(environment, base.head.session_id).head
    if not head.retains(base.revision):
        return RevisionNotFoundError(head.session_id, base.revision)
    return CorruptSnapshotError(key, "this object is missing, though the head names it", ref=ref.digest)


class _BlobStream(io.RawIOBase):
    """A blob, read piece by piece."""

    def __init__(self, environment: Environment, base: Base, ref: BlobRef) -> None:
        self._environment = environment
        self._base = base
        self._key_of = _key_of(environment, base)
        self._ref = ref
        self._extents: Sequence[Extent] = base.placement.extents[ref.digest]
        self._starts = [0, *accumulate(extent.length for extent in self._extents)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        origin = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._ref.size_bytes}[whence]
        if origin + offset < 0:
            raise ValueError("a stream has no position before its start")
        self._position = origin + offset
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer).cast("B")
        end = min(self._position + view.nbytes, self._ref.size_bytes)
        if self._position >= end:
            return 0
        first = bisect_right(self._starts, self._position) - 1
        last = bisect_right(self._starts, end - 1)
        data = b"".join(self._read(self._extents[first:last]))
        start = self._position - self._starts[first]
        count = end - self._position
        view[:count] = data[start : start + count]
        self._position = end
        return count

    def _read(self, extents: Sequence[Extent]) -> list[bytes]:
        try:
            return read_pieces(self._environment.store, extents, self._key_of, self._environment.executor)
        except CorruptObjectError as error:
            raise CorruptSnapshotError(error.key, error.reason, ref=self._ref.digest) from error
        except NotFoundError as error:
            raise _gone(self._environment, self._base, self._ref, error.key) from error
