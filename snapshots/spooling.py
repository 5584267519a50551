"""An execution state on its way into a commit: bytes that are held, or, of too many, a spool of what is new.

Rules:
1. A stream is read once, window by window, and what its reading raises is raised as it is. Nothing was stored then.
2. Of a state that is too large to be held, the cuts that the parent revision has are copied from there; everything
   else goes into the spool at once. In memory are a few windows and the tables of both.
3. The table of the parent is at hand after a commit or a read of it; a process that has neither reads the parent once.
4. What lies in packs that are given up (`snapshots.compaction`) counts as new.

    with Spool(environment.executor) as spool:
        part = taken(environment, base, stream, spool)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from snapshots.base import Base
from snapshots.checkpoint import EXECUTION_STATE_BYTES_MAX
from snapshots.compaction import given_up
from snapshots.environment import Environment
from snapshots.errors import InvalidStateError, LimitExceededError
from snapshots.execution import with_execution_state
from snapshots.parts import EXECUTION_STATE, WINDOW_BYTES, SpooledPart, cuts_of, is_large
from storage.cuts import CutTable, Known
from storage.digest import BlobRef, Buffer, Hasher, blob_ref, octets
from storage.extents import Extent
from storage.matching import Copy, Cutter, Insert, Operation
from storage.spools import Spool


def taken(
    environment: Environment, base: Base | None, given: bytes | BinaryIO, spool: Spool
) -> tuple[bytes | SpooledPart, Base | None]:
    """Return what a commit stores of an execution state, and the base with what was read of the parent's.

    Args:
        environment: Where the parent lies.
        base: The revision that the commit stands on, None for none.
        given: The new execution state, bytes or a stream at its start.
        spool: An empty one, for what is new of a large state; it must stay open until the commit has ended.

    Raises:
        InvalidStateError: Neither bytes nor a binary stream.
        LimitExceededError: It is too large.
        UnavailableError: The parent's table had to be read, and the store did not answer; or there is no room for the
            spool.
    """
    whole = _whole(given)
    if isinstance(whole, bytes) and not _has_table(base):
        return whole, base
    if isinstance(whole, memoryview) and base is not None and base.checkpoint.execution_state == blob_ref(whole):
        return bytes(whole), base  # nothing is new, and the parent need not be read to see that
    if base is not None:
        base = with_execution_state(environment, base)
    intake = _Intake(environment, base, spool)
    for window in _windows(whole, given):
        intake.take(window)
    return intake.finish(), base


def _has_table(base: Base | None) -> bool:
    """Say whether the parent is too large to be compared with bytes, and its table is at hand."""
    held = None if base is None else base.parts.of(EXECUTION_STATE, base.checkpoint.execution_state)
    return held is not None and isinstance(held.data, CutTable)


def _whole(given: bytes | BinaryIO) -> bytes | memoryview | io.BytesIO:
    """Return bytes that can be held, a view of bytes that are too many, or the beginning of a stream that has more."""
    if isinstance(given, bytes | bytearray | memoryview):
        view = octets(given)
        return view if is_large(view.nbytes) else bytes(given)
    if not hasattr(given, "read"):
        raise InvalidStateError(f"execution_state is {type(given).__name__}; give bytes or a binary stream")
    beginning = io.BytesIO()
    while piece := _read(given, WINDOW_BYTES):
        beginning.write(piece)
        if is_large(beginning.tell()):
            return beginning
    return beginning.getvalue()  # which copies nothing


def _read(stream: BinaryIO, size_bytes: int) -> bytes:
    data = stream.read(size_bytes)
    if not isinstance(data, bytes):
        raise InvalidStateError(f"execution_state gives {type(data).__name__}; give bytes or a binary stream")
    return data


def _windows(whole: bytes | memoryview | io.BytesIO, stream: bytes | BinaryIO) -> Iterator[Buffer]:
    """Yield everything there is."""
    beginning = whole.getbuffer() if isinstance(whole, io.BytesIO) else memoryview(whole)
    for start in range(0, beginning.nbytes, WINDOW_BYTES):
        yield beginning[start : start + WINDOW_BYTES]
    if isinstance(whole, io.BytesIO) and not isinstance(stream, bytes):
        beginning.release()
        whole.close()
        while window := _read(stream, WINDOW_BYTES):
            yield window


class _Intake:
    """Takes a large state in, window by window.

    Args:
        environment: For the limits.
        base: The revision that it is compared with, None for none.
        spool: Where what is new goes.
    """

    def __init__(self, environment: Environment, base: Base | None, spool: Spool) -> None:
        self._spool = spool
        self._parent: BlobRef | None = None
        self._known = Known(CutTable())
        if base is not None:
            self._compare_with(environment, base)
        self._hasher, self._cutter, self._table = Hasher(), Cutter(), CutTable()
        self._operations: list[Operation] = []
        self._new_bytes = 0

    def _compare_with(self, environment: Environment, base: Base) -> None:
        held = base.parts.of(EXECUTION_STATE, base.checkpoint.execution_state)
        if held is None:
            return
        extents = base.placement.extents[held.ref.digest] if held.ref.size_bytes else ()
        lost = _stretches(extents, given_up(extents, environment.limits))
        self._parent = held.ref
        self._known = Known(cuts_of(held.data) if isinstance(held.data, bytes) else held.data, lost)

    def take(self, window: Buffer) -> None:
        """Take the next bytes. Raises LimitExceededError, UnavailableError."""
        self._hasher.update(window)
        if self._hasher.size_bytes > EXECUTION_STATE_BYTES_MAX:
            raise LimitExceededError(f"execution_state of {EXECUTION_STATE_BYTES_MAX} bytes", self._hasher.size_bytes)
        self._place(self._cutter.cut(window))

    def finish(self) -> SpooledPart:
        """Return all of it."""
        self._place(self._cutter.end())
        self._spool.finish()
        ref = self._hasher.ref()
        assert sum(one.length for one in self._operations) == ref.size_bytes, "every byte is copied or new"
        return SpooledPart(ref, self._parent, tuple(self._operations), self._table, self._spool)

    def _place(self, cuts: Iterable[memoryview]) -> None:
        for cut in cuts:
            found = self._known.find(self._table.add(cut))
            if found is None or found.length != cut.nbytes:
                self._spool.add(cut)
                self._append(Insert(self._new_bytes, cut.nbytes))
                self._new_bytes += cut.nbytes
            else:
                self._append(found)

    def _append(self, one: Operation) -> None:
        """Append an operation, to the last one if it goes on in it."""
        last = self._operations[-1] if self._operations else None
        if last is not None and type(last) is type(one) and last.start + last.length == one.start:
            self._operations[-1] = last._replace(length=last.length + one.length)
        else:
            self._operations.append(one)


def _stretches(extents: Sequence[Extent], packs: frozenset[str]) -> list[Copy]:
    """Return what of a blob lies in these packs."""
    found: list[Copy] = []
    position = 0
    for extent in extents:
        if extent.pack in packs:
            found.append(Copy(position, extent.length))
        position += extent.length
    return found
