"""Execution states on demand: as bytes, or as a stream that reads what is asked for.

Rules:
1. A whole read is checked by the blob's digest; a piece is checked by the checksums of its frames.
2. Nothing is read before it is asked for; about READ_AHEAD_BYTES are read at a time.
3. A pack that is missing: the head is read again, and where the blob lies now. It is corruption only if that head still
   names what is missing.

    with open_execution_state(environment, state) as stream:
        stream.seek(1 << 20)
        stream.read(4096)
"""

from __future__ import annotations

import io
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from snapshots.base import Base, base_for, track, tracking_of
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, InvalidStateError, RevisionNotFoundError
from snapshots.parts import EXECUTION_STATE, HeldPart
from snapshots.restore import HeadRead, manifest_of, pack_reader, retried_while_moving
from snapshots.state import PersistedSessionState
from storage.digest import BlobRef, Digest
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent
from storage.pack_reader import PackReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

T = TypeVar("T")
READ_AHEAD_BYTES = 1 << 20


def read_execution_state(environment: Environment, state: PersistedSessionState) -> bytes:
    """Return the whole execution state of a loaded or committed state; see `SnapshotRepository`.

    The state keeps it, so that its next commit stores only what differs.
    """
    if state.execution_state_snapshot is not None:
        return state.execution_state_snapshot
    base, ref = _held(environment, state)
    held = base.parts.of(EXECUTION_STATE, ref)
    if held is not None:
        return held.data
    data = _on_present(
        environment, base, ref, lambda reader, extents: reader.blobs({ref: extents})[ref], base.placement.extents
    )
    parts = base.parts.holding(EXECUTION_STATE, HeldPart(ref, data))
    track(state, replace(tracking_of(state), base=replace(base, parts=parts)))
    return data


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


def _on_present(
    environment: Environment,
    base: Base,
    ref: BlobRef,
    read: Callable[[PackReader, Sequence[Extent]], T],
    known: Mapping[Digest, Sequence[Extent]],
) -> T:
    """Return what `read` returns, from where the blob is known to lie, or lies now (rule 3)."""
    try:
        return read(pack_reader(environment, base.head), known[ref.digest])
    except CorruptObjectError as error:
        raise CorruptSnapshotError(error.key, error.reason, ref=ref.digest) from error
    except NotFoundError:
        placed = partial(_placed_now, environment, base.revision)
        return retried_while_moving(
            environment,
            base.head.session_id,
            lambda live: read(pack_reader(environment, live.head), placed(live)[ref.digest]),
        )


def _placed_now(environment: Environment, revision: int, live: HeadRead) -> Mapping[Digest, Sequence[Extent]]:
    """Return where the blobs of a revision lie now. Raises RevisionNotFoundError."""
    if not live.head.retains(revision):
        raise RevisionNotFoundError(live.head.session_id, revision)
    return manifest_of(environment, live.head, revision, pack_reader(environment, live.head)).placement.extents


class _BlobStream(io.RawIOBase):
    """A blob, read piece by piece."""

    def __init__(self, environment: Environment, base: Base, ref: BlobRef) -> None:
        self._environment = environment
        self._base = base
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
        data = self._read(slice(first, last))
        start = self._position - self._starts[first]
        count = end - self._position
        view[:count] = data[start : start + count]
        self._position = end
        return count

    def _read(self, wanted: slice) -> bytes:
        def read(reader: PackReader, extents: Sequence[Extent]) -> bytes:
            self._extents = extents  # where it lies now, if it was moved: cut in the same pieces
            return reader.stretch(extents[wanted])

        return _on_present(self._environment, self._base, self._ref, read, {self._ref.digest: self._extents})
