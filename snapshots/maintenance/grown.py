"""A log as one revision after another has it: what is read, hashed and decoded of one is not again for the next.

Rules:
1. A log whose pieces begin with those of one that was read goes on from there; one that ends among them is part of it.
   One that lies elsewhere is read again; what it shares with another one is not decoded again.
2. Every log is checked by its own digest, and its entries by their number.
3. What cannot be read is told pack by pack, also behind a gap: whoever mends a gap has to know of all of them.

    history = GrownLog(blobs, lambda plain, key: rows_from(plain, key))
    log = history.read(checkpoint.history, extents)
    log.faults or log.entries()
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import takewhile
from operator import eq
from typing import Any, Generic, TypeVar

from snapshots import codec
from snapshots.errors import CorruptSnapshotError
from snapshots.logs import LogRef
from snapshots.maintenance.blobs import Blobs
from snapshots.maintenance.entries import entry_ends
from snapshots.maintenance.pieces import Fault, frame_of, windows
from storage.digest import BlobRef, Hasher, verify
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent, Frame
from storage.packs import PREFIX_BYTES_MAX

T = TypeVar("T")
CHAINS_MAX = 4  # of one log: after a rewind another one grows from the middle of the one before


@dataclass(frozen=True, slots=True)
class ReadLog(Generic[T]):
    """A log that was read.

    Attributes:
        faults: Why it cannot be had, one for each pack concerned; empty if it can.
        entries: Decodes it. Raises CorruptSnapshotError, ValueError, InvalidStateError.
    """

    faults: tuple[Fault, ...]
    entries: Callable[[], Sequence[T]]


class GrownLog(Generic[T]):
    """One log of a session.

    Args:
        blobs: Of the session's family.
        parse: Makes entries of their plain form; told what to name when they cannot be read.
    """

    def __init__(self, blobs: Blobs, parse: Callable[[list[Any], str], Sequence[T]]) -> None:
        self._blobs = blobs
        self._pieces = blobs.pieces
        self._parse = parse
        self._chains: list[_Chain[T]] = []  # the one used last comes last
        self._sound: set[Frame] = set()

    def unread(self, extents: Sequence[Extent]) -> Sequence[Extent]:
        """Return the pieces of a log that no other one has that was read."""
        return extents[max((chain.shared(extents) for chain in self._chains), default=0) :]

    def read(self, at: LogRef, extents: Sequence[Extent]) -> ReadLog[T]:
        """Read a log.

        Args:
            at: What a checkpoint names.
            extents: Where it lies.

        Raises:
            UnavailableError: The store did not answer.
        """
        chain = self._chain_for(extents)
        error = self._grown(chain, extents) or _difference(chain, at.ref, self._key_of(extents))
        faults = () if error is None else self._faults(extents) or (self._blobs.blamed(error, extents),)
        return ReadLog(faults, lambda: self._entries(chain, at, self._key_of(extents)))

    def _entries(self, chain: _Chain[T], at: LogRef, key: str) -> Sequence[T]:
        for other in self._chains:
            chain.adopt(other)
        return chain.entries(at, self._parse, key)

    def _key_of(self, extents: Sequence[Extent]) -> str:
        return self._pieces.key_of(extents[-1].pack) if extents else ""

    def _chain_for(self, extents: Sequence[Extent]) -> _Chain[T]:
        """Return what all read pieces of a log stand in (rule 1)."""
        best = max(self._chains, key=lambda chain: chain.shared(extents), default=None)
        shared = 0 if best is None else best.shared(extents)
        if best is None or shared < min(len(best.extents), len(extents)):
            best = _Chain() if best is None else best.cut(shared)
        else:
            self._chains.remove(best)
        self._chains = [*self._chains, best][-CHAINS_MAX:]
        return best

    def _grown(self, chain: _Chain[T], extents: Sequence[Extent]) -> Fault | None:
        """Read what the chain does not have yet; return what ended that early."""
        for window in windows(extents[len(chain.extents) :]):
            fetched = self._pieces.fetch(window)
            for extent in window:
                try:
                    chain.add(extent, fetched.piece(extent, bytes(chain.data[-PREFIX_BYTES_MAX:])))
                except (NotFoundError, CorruptObjectError) as error:
                    return error
        return None

    def _faults(self, extents: Sequence[Extent]) -> tuple[Fault, ...]:
        """Return what is wrong with single frames of a log (rule 3)."""
        faults: dict[str, Fault] = {}
        for window in windows(extent for extent in extents if frame_of(extent) not in self._sound):
            fetched = self._pieces.fetch(window)
            for extent in window:
                fault = fetched.fault(extent)
                if fault is None:
                    self._sound.add(frame_of(extent))
                else:
                    faults.setdefault(extent.pack, fault)
        return tuple(faults.values())


class _Chain(Generic[T]):
    """Pieces of a log that were read, in order, from its beginning.

    Attributes:
        extents: Where they lie.
        data: Their bytes.
    """

    def __init__(self) -> None:
        self.extents: list[Extent] = []
        self.data = bytearray()
        self._hasher = Hasher()
        self._refs: dict[int, BlobRef] = {0: self._hasher.ref()}  # of what ends with a piece, by its size
        self._entries: list[T] = []
        self._decoded = 0  # bytes
        self._counts: dict[int, int] = {0: 0}  # entries in what ends there, by its size
        self._counted = 0  # bytes of which `_counts` knows all ends

    def shared(self, extents: Sequence[Extent]) -> int:
        """Return how many pieces both begin with."""
        if self.extents[: len(extents)] == list(extents[: len(self.extents)]):
            return min(len(self.extents), len(extents))
        return sum(1 for _ in takewhile(bool, map(eq, self.extents, extents)))

    def cut(self, count: int) -> _Chain[T]:
        """Return another chain with the first `count` pieces."""
        other: _Chain[T] = _Chain()
        position = 0
        for extent in self.extents[:count]:
            other.add(extent, bytes(self.data[position : position + extent.length]))
            position += extent.length
        return other

    def add(self, extent: Extent, piece: bytes) -> None:
        self.extents.append(extent)
        self.data += piece
        self._hasher.update(piece)
        self._refs[len(self.data)] = self._hasher.ref()

    def ref(self, size_bytes: int) -> BlobRef | None:
        """Return what the first bytes are, None unless they end with a piece."""
        return self._refs.get(size_bytes)

    def adopt(self, other: _Chain[T]) -> None:
        """Take over what another chain decoded of the same bytes, before anything is decoded of this one."""
        if self._decoded or other is self:
            return
        common = (size for size, ref in self._refs.items() if size <= other._decoded and other._refs.get(size) == ref)
        size = max(common, default=0)
        if size not in other._counts:
            other._count()
        if size in other._counts:
            self._counts = {end: count for end, count in other._counts.items() if end <= size}
            self._counted = max(end for end in self._counts if end <= other._counted)
            self._entries, self._decoded = other._entries[: self._counts[size]], size

    def entries(self, at: LogRef, parse: Callable[[list[Any], str], Sequence[T]], key: str) -> Sequence[T]:
        """Return the entries of a log that was read (rule 2)."""
        size = at.ref.size_bytes
        if size > self._decoded:
            plain = self._plain(self._decoded, size, at.count - len(self._entries), key)
            self._entries += parse(plain, key)
            self._decoded, self._counts[size] = size, at.count
        elif size not in self._counts:
            self._count()
        if self._counts.get(size) != at.count:
            raise CorruptSnapshotError(key, f"a log of {size} bytes has not {at.count} entries")
        return self._entries[: at.count]

    def _plain(self, start: int, end: int, count: int, key: str) -> list[Any]:
        if count < 1:
            raise CorruptSnapshotError(key, f"a log has {end - start} bytes behind its last entry")
        return codec.decode_entries(bytes(self.data[start:end]), count, key=key)

    def _count(self) -> None:
        """Find out where the entries end that were decoded."""
        start, before = self._counted, self._counts[self._counted]
        ends = entry_ends(memoryview(self.data)[start : self._decoded])
        self._counts |= {start + end: before + number for number, end in enumerate(ends, 1)}
        self._counted = self._decoded


def _difference(chain: _Chain[Any], ref: BlobRef, key: str) -> CorruptObjectError | None:
    """Return why what was read is not what `ref` names."""
    if chain.ref(ref.size_bytes) == ref:
        return None
    try:
        verify(bytes(memoryview(chain.data)[: ref.size_bytes]), ref, key=key)  # another kind of digest, or not it
    except CorruptObjectError as error:
        return error
    return None
