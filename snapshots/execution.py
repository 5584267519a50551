"""Execution states on demand: as bytes, or as a stream that reads what is asked for.

Rules:
1. A whole read is checked by the blob's digest; a piece is checked by the checksums of its frames.
2. Nothing is read before it is asked for. A stream reads READ_AHEAD_BYTES at first, and twice as much whenever it is
   read on and on, up to WINDOW_BYTES_MAX; that much is held.
3. A pack that is missing: the head is read again, and where the blob lies now. It is corruption only if that head still
   names what is missing.
4. What was read whole is kept, so that the next commit stores only what differs: its bytes, or, if they are too many,
   the table of its cuts.

    with open_execution_state(environment, state) as stream:
        stream.seek(1 << 20)
        stream.read(4096)
"""

from __future__ import annotations

import io
import logging
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from typing import TYPE_CHECKING, BinaryIO, TypeVar

from snapshots.base import Base, base_for, track, tracking_of
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, InvalidStateError, RevisionNotFoundError
from snapshots.operations import operation
from snapshots.parts import EXECUTION_STATE, HeldPart, held_part, is_large
from snapshots.reading import HeadRead, manifest_of, pack_reader, retried_while_moving
from snapshots.state import PersistedSessionState
from storage.cuts import table_of
from storage.digest import BlobRef, Digest
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent
from storage.pack_reader import PackReader

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

logger = logging.getLogger("snapshots")
T = TypeVar("T")
READ_AHEAD_BYTES = 1 << 20
WINDOW_BYTES_MAX = 32 << 20  # in a state of 4 GiB that is some five requests for every 32 MiB
TABLE_WINDOW_BYTES = 16 << 20  # of a parent that is read for its cuts alone; the beginning of the next one is held too


def read_execution_state(environment: Environment, state: PersistedSessionState) -> bytes:
    """Return the whole execution state of a loaded or committed state; see `SnapshotRepository`.

    The state keeps it, so that its next commit stores only what differs.
    """
    if state.execution_state_snapshot is not None:
        return state.execution_state_snapshot
    base, ref = _held(environment, state)
    held = base.parts.of(EXECUTION_STATE, ref)
    if held is not None and isinstance(held.data, bytes):
        return held.data
    data = _on_present(environment, base, ref, lambda reader, extents: reader.blobs({ref: extents})[ref])
    if held is None:
        parts = base.parts.holding(EXECUTION_STATE, held_part(ref, data))
        track(state, replace(tracking_of(state), base=replace(base, parts=parts)))
    return data


def open_execution_state(environment: Environment, state: PersistedSessionState) -> BinaryIO:
    """Return the execution state as a seekable stream that reads on demand; see `SnapshotRepository`."""
    if state.execution_state_snapshot is not None:
        return io.BytesIO(state.execution_state_snapshot)
    base, ref = _held(environment, state)
    return io.BufferedReader(_BlobStream(environment, base, ref), READ_AHEAD_BYTES)


def with_execution_state(environment: Environment, base: Base) -> Base:
    """Return the base with what the next execution state is compared with, read if it is not at hand (rule 4).

    Without it if it cannot be read any more: the next one then is stored whole, and a verification says what is wrong.

    Raises:
        UnavailableError: The store did not answer.
    """
    ref = base.checkpoint.execution_state
    if ref is None or base.parts.of(EXECUTION_STATE, ref) is not None:
        return base
    try:
        part = _on_present(environment, base, ref, partial(_part, ref))
    except (CorruptSnapshotError, RevisionNotFoundError) as error:
        logger.warning("the execution state before this one cannot be compared with it: %s", error)
        return base
    return replace(base, parts=base.parts.holding(EXECUTION_STATE, part))


def _part(ref: BlobRef, reader: PackReader, extents: Sequence[Extent]) -> HeldPart:
    if is_large(ref.size_bytes):
        return HeldPart(ref, table_of(reader.windows(ref, extents, TABLE_WINDOW_BYTES)))
    return HeldPart(ref, reader.blobs({ref: extents})[ref])


def _held(environment: Environment, state: PersistedSessionState) -> tuple[Base, BlobRef]:
    ref = state.execution_state_ref
    if ref is None:
        raise InvalidStateError("this revision has no execution state")
    base = base_for(state, environment.home)
    if base is None or base.checkpoint.execution_state != ref:
        raise InvalidStateError("this state was not loaded from here; load it to read its execution state")
    return base, ref


def _on_present(
    environment: Environment, base: Base, ref: BlobRef, read: Callable[[PackReader, Sequence[Extent]], T]
) -> T:
    """Return what `read` returns, from where the blob is known to lie, or lies now (rule 3)."""
    return _read_where_it_lies(environment, base, ref, read, base.placement.extents[ref.digest])


def _read_where_it_lies(
    environment: Environment,
    base: Base,
    ref: BlobRef,
    read: Callable[[PackReader, Sequence[Extent]], T],
    known: Sequence[Extent],
) -> T:
    try:
        return read(pack_reader(environment, base.head), known)
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
    """A blob, read window by window (rule 2)."""

    def __init__(self, environment: Environment, base: Base, ref: BlobRef) -> None:
        self._environment = environment
        self._base = base
        self._ref = ref
        self._extents: Sequence[Extent] = base.placement.extents[ref.digest]
        self._starts = _starts_of(self._extents)
        self._position = 0
        self._window, self._window_start = b"", 0
        self._ahead_bytes = READ_AHEAD_BYTES

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
        if self._position >= self._ref.size_bytes or not view.nbytes:
            return 0
        if not 0 <= self._position - self._window_start < len(self._window):
            self._read_window()
        start = self._position - self._window_start
        count = min(view.nbytes, len(self._window) - start)
        view[:count] = memoryview(self._window)[start : start + count]
        self._position += count
        return count

    @operation("read_execution_state", "self._environment", "self._base.head.session_id")
    def _read_window(self) -> None:
        """Read the extents from the present position on, as far ahead as the last reads suggest."""
        went_on = self._position == self._window_start + len(self._window) > 0
        self._ahead_bytes = min(2 * self._ahead_bytes, WINDOW_BYTES_MAX) if went_on else READ_AHEAD_BYTES
        self._window = b""  # gone before the next one is there
        self._window_start, self._window = _read_where_it_lies(
            self._environment, self._base, self._ref, self._read, self._extents
        )

    def _read(self, reader: PackReader, extents: Sequence[Extent]) -> tuple[int, bytes]:
        """Return the window at the present position, and where it begins; it may lie elsewhere now, in other pieces."""
        if extents is not self._extents:
            self._extents, self._starts = extents, _starts_of(extents)
        first = bisect_right(self._starts, self._position) - 1
        last = max(bisect_right(self._starts, self._position + self._ahead_bytes) - 1, first + 1)
        return self._starts[first], reader.pieces(extents[first:last])


def _starts_of(extents: Sequence[Extent]) -> list[int]:
    return [0, *accumulate(extent.length for extent in extents)]
