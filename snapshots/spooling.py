"""An execution state on its way into a commit: bytes that are held, or, of too many, a spool of what is new.

Rules:
1. A stream is read once, window by window, and what its reading raises is raised as it is. Nothing was stored then.
   One that gives nothing is an empty state if it stands at its start; else it is refused: most likely it was read
   before, by a commit that is repeated.
2. Of a state that is too large to be held, the cuts that the parent revision has are copied from there; everything
   else goes into the spool at once. In memory are a few windows and the tables of both, and of a stream its beginning,
   until it is known not to be held. Bytes that are the parent's again are copied as a whole.
3. The table of the parent is at hand after a commit or a read of it; a process that has neither reads the parent once.
4. What lies in packs that are given up (`snapshots.compaction`) counts as new.

    with Spool(environment.executor) as spool:
        part = taken(environment, base, stream, spool)
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from typing import BinaryIO

from snapshots import parts
from snapshots.base import Base
from snapshots.checkpoint import EXECUTION_STATE_BYTES_MAX
from snapshots.compaction import given_up
from snapshots.environment import Environment
from snapshots.errors import InvalidStateError, LimitExceededError
from snapshots.execution import with_execution_state
from snapshots.parts import EXECUTION_STATE, WINDOW_BYTES, SpooledPart, cuts_of, is_large
from storage.cuts import CutTable, KnownCuts
from storage.digest import BlobRef, Buffer, Hasher, blob_ref, octets
from storage.extents import Extent
from storage.matching import Copy, Cutter, Insert, Operation
from storage.spools import Spool

COMPARED_BYTES_MIN = 16 << 20  # from here on a state is worth reading a large parent for


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
    held_bytes = _held_bytes(base)
    if isinstance(given, bytes | bytearray | memoryview):
        view = octets(given)
        if view.nbytes <= held_bytes:
            return bytes(given), base
        ref = blob_ref(view)
        if base is not None and ref == base.checkpoint.execution_state:  # Rule 2: the parent need not be read
            return SpooledPart(ref, ref, (Copy(0, ref.size_bytes),), CutTable(), spool), base
        windows = _slices(view)
    else:
        beginning = _beginning(given, held_bytes)
        if isinstance(beginning, bytes):
            return beginning, base
        windows = _rest(beginning, given)
    if base is not None:
        base = with_execution_state(environment, base)
    intake = _Intake(environment, base, spool)
    for window in windows:
        intake.take(window)
    return intake.finish(), base


def _held_bytes(base: Base | None) -> int:
    """Return up to which size a state is held; one that follows a large one is cut as well."""
    parent = None if base is None else base.checkpoint.execution_state
    if base is None or parent is None or not is_large(parent.size_bytes):
        return parts.HELD_BYTES_MAX
    return COMPARED_BYTES_MIN if base.parts.of(EXECUTION_STATE, parent) is None else 0


def _beginning(stream: BinaryIO, held_bytes: int) -> bytes | io.BytesIO:
    """Return all of a stream that is held; else its beginning, to be yielded by `_rest`."""
    if not hasattr(stream, "read"):
        raise InvalidStateError(f"execution_state is {type(stream).__name__}; give bytes or a binary stream")
    beginning = io.BytesIO()
    while piece := _read(stream):
        beginning.write(piece)
        if beginning.tell() > held_bytes:
            return beginning
    if not beginning.tell() and not (can_seek(stream) and stream.tell() == 0):
        raise InvalidStateError('execution_state is a stream at its end; open it again, or give b"" for an empty state')
    return beginning.getvalue()  # which copies nothing


def can_seek(given: BinaryIO) -> bool:
    """Say whether a stream can be brought back to where it was; what is no stream cannot."""
    seekable = getattr(given, "seekable", None)
    return seekable is not None and bool(seekable())


def _rest(beginning: io.BytesIO, stream: BinaryIO) -> Iterator[bytes]:
    """Yield the beginning of a stream, which is let go then, and what follows."""
    beginning.seek(0)
    while window := beginning.read(WINDOW_BYTES):
        yield window
    beginning.close()
    while window := _read(stream):
        yield window


def _read(stream: BinaryIO) -> bytes:
    data = stream.read(WINDOW_BYTES)
    if not isinstance(data, bytes):
        raise InvalidStateError(f"execution_state gives {type(data).__name__}; give bytes or a binary stream")
    return data


def _slices(view: memoryview) -> Iterator[Buffer]:
    return (view[start : start + WINDOW_BYTES] for start in range(0, view.nbytes, WINDOW_BYTES))


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
        self._known = KnownCuts(CutTable())
        if base is not None:
            self._compare_with(environment, base)
        self._hasher, self._cutter, self._table = Hasher(), Cutter(), CutTable()
        self._operations: list[Operation] = []
        self._new_bytes = 0

    def _compare_with(self, environment: Environment, base: Base) -> None:
        held = base.parts.of(EXECUTION_STATE, base.checkpoint.execution_state)
        if held is None:
            return
        extents = base.placement.extents[held.ref.digest]
        lost = _stretches(extents, given_up(extents, environment.limits))
        self._parent = held.ref
        self._known = KnownCuts(cuts_of(held.data) if isinstance(held.data, bytes) else held.data, lost)

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
