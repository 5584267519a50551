"""Reading blobs to verify them: each once, in bounded memory.

Rules:
1. What was verified is remembered by its place, also across revisions and forks; beyond a bound it is forgotten, and
   then read again. That something is missing is never remembered.
2. Small blobs are read together, READ_BYTES_MAX at a time; a large execution state goes by in windows of that size.
3. What stands in a damaged blob is reported for that blob alone: its neighbours are read again one by one.

    blobs = Blobs(environment, head.family, memory)
    faults = blobs.verify(placement, refs, streamed=checkpoint.execution_state)
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Generic, TypeVar

from snapshots.environment import Environment
from snapshots.placement import Placement
from storage.digest import BlobRef, Hasher, short_hash
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent
from storage.packs import read_blobs, read_pieces

V = TypeVar("V")
READ_BYTES_MAX = 4 << 20  # raw bytes held for one read of several blobs, or of a window of a large one
VERDICTS_MAX = 1 << 20  # blobs and packs remembered as verified: about 150 MiB
RECORD_BYTES_MAX = 32 << 20  # of records kept at hand, since the next revision, or a fork, decodes them again
NAMES_MAX = 1 << 20  # names of packs in remembered listings
LOCKS = 64  # more than threads

Fault = NotFoundError | CorruptObjectError
_Read = Callable[[Placement, Sequence[BlobRef]], Mapping[BlobRef, bytes]]


class Remembered(Generic[V]):
    """Values by key up to a total weight; what was used longest ago goes first. Safe for threads."""

    def __init__(self, weight_max: int) -> None:
        self._weight_max = weight_max
        self._weight = 0
        self._values: OrderedDict[bytes, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def find(self, key: bytes) -> V | None:
        """Return the value, None if it is not remembered."""
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def keep(self, key: bytes, value: V, weight: int = 1) -> None:
        """Remember a value, unless it is heavier than all together may be."""
        if weight > self._weight_max:
            return
        with self._lock:
            _, before = self._values.pop(key, (value, 0))
            self._values[key] = (value, weight)
            self._weight += weight - before
            while self._weight > self._weight_max:
                _, (_, oldest) = self._values.popitem(last=False)
                self._weight -= oldest


class Memory:
    """What one verification remembers.

    Attributes:
        verdicts: Key and reason of what is wrong with a blob or pack, both "" for nothing.
        records: Bytes of records.
        listings: Names of a family's packs.
        firsts: Whether the head of a family's first session is there.
    """

    def __init__(self) -> None:
        self.verdicts: Remembered[tuple[str, str]] = Remembered(VERDICTS_MAX)
        self.records: Remembered[bytes] = Remembered(RECORD_BYTES_MAX)
        self.listings: Remembered[frozenset[str]] = Remembered(NAMES_MAX)
        self.firsts: Remembered[bool] = Remembered(VERDICTS_MAX)
        self._locks = [threading.Lock() for _ in range(LOCKS)]

    def alone_in(self, family: str) -> threading.Lock:
        """Return what to hold while a family is verified: its sessions share blobs, which are then read once."""
        return self._locks[named(family)[0] % LOCKS]


def named(*words: str) -> bytes:
    """Return the key under which something is remembered."""
    return short_hash(repr(words).encode(errors="surrogatepass"))


class Blobs:
    """The blobs of one family."""

    def __init__(self, environment: Environment, family: str, memory: Memory) -> None:
        self._environment = environment
        self._family = family
        self._memory = memory

    def key_of(self, pack: str) -> str:
        """Return the key of a pack of the family."""
        return self._environment.layout.pack(self._family, pack)

    def verify(
        self, placement: Placement, refs: Iterable[BlobRef], streamed: BlobRef | None = None
    ) -> dict[BlobRef, Fault]:
        """Read what is not known to be sound; return what is wrong, by blob.

        Args:
            placement: Where the blobs lie.
            refs: All of them, `streamed` included.
            streamed: One that nobody decodes; it is not held in memory when it is large.

        Raises:
            UnavailableError: The store did not answer.
        """
        faults: dict[BlobRef, Fault] = {}
        unread: list[BlobRef] = []
        for ref in dict.fromkeys(refs):
            verdict = self._memory.verdicts.find(self._place_of(ref, placement))
            if verdict is None:
                unread.append(ref)
            elif verdict[1]:
                faults[ref] = CorruptObjectError(*verdict)
        large = [ref for ref in unread if ref == streamed and ref.size_bytes > READ_BYTES_MAX]
        for ref in large:
            faults |= self._judged(placement, [ref], self._stream)
        for batch in _batches(ref for ref in unread if ref not in large):
            faults |= self._judged(placement, batch, self._read)
        return faults

    def record(self, ref: BlobRef, placement: Placement) -> bytes:
        """Return the bytes of a blob that `verify` found sound. Raises as `read_blobs`."""
        found = self._memory.records.find(self._place_of(ref, placement))
        return self._read(placement, [ref])[ref] if found is None else found

    def _judged(self, placement: Placement, refs: Sequence[BlobRef], read: _Read) -> dict[BlobRef, Fault]:
        try:
            read(placement, refs)
        except (NotFoundError, CorruptObjectError) as error:
            if len(refs) > 1:  # Rule 3.
                faults: dict[BlobRef, Fault] = {}
                for ref in refs:
                    faults |= self._judged(placement, [ref], read)
                return faults
            if isinstance(error, CorruptObjectError):
                self._memory.verdicts.keep(self._place_of(refs[0], placement), (error.key, error.reason))
            return {refs[0]: error}
        for ref in refs:
            self._memory.verdicts.keep(self._place_of(ref, placement), ("", ""))
        return {}

    def _read(self, placement: Placement, refs: Sequence[BlobRef]) -> Mapping[BlobRef, bytes]:
        extents = {ref: placement.extents[ref.digest] for ref in refs}
        found = read_blobs(self._environment.store, extents, self.key_of, self._environment.executor)
        for ref, data in found.items():
            self._memory.records.keep(self._place_of(ref, placement), data, max(1, len(data)))
        return found

    def _stream(self, placement: Placement, refs: Sequence[BlobRef]) -> Mapping[BlobRef, bytes]:
        (ref,) = refs
        if not ref.digest.startswith("b3:"):
            return self._read(placement, refs)  # no writer makes these; only a whole one can be compared
        extents = placement.extents[ref.digest]
        hasher = Hasher()
        for window in _windows(extents):
            for piece in read_pieces(self._environment.store, window, self.key_of, self._environment.executor):
                hasher.update(piece)
        if hasher.ref() != ref:
            raise CorruptObjectError(self.key_of(extents[0].pack), f"content is {hasher.ref()}, expected {ref}")
        return {}

    def _place_of(self, ref: BlobRef, placement: Placement) -> bytes:
        return named(self._family, str(ref), repr(placement.extents[ref.digest]))


def _batches(refs: Iterable[BlobRef]) -> Iterator[list[BlobRef]]:
    batch: list[BlobRef] = []
    for ref in refs:
        if batch and sum(one.size_bytes for one in batch) + ref.size_bytes > READ_BYTES_MAX:
            yield batch
            batch = []
        batch.append(ref)
    if batch:
        yield batch


def _windows(extents: Sequence[Extent]) -> Iterator[list[Extent]]:
    window: list[Extent] = []
    held = 0
    for extent in extents:
        if window and held + extent.length > READ_BYTES_MAX:
            yield window
            window, held = [], 0
        window.append(extent)
        held += extent.length
    if window:
        yield window
