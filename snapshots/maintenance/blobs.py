"""Reading blobs to verify them: each once, in bounded memory.

Rules:
1. What was verified is remembered by its place, also across revisions and forks; beyond a bound it is forgotten, and
   then read again. That something is missing is never remembered.
2. Small blobs are read together, READ_BYTES_MAX at a time; a large execution state goes by in windows of that size.
3. What is damaged in a blob is told pack by pack. Where all its frames are sound and it is not what was written, a
   pack that is not what its name says is to blame, or else the one in which it ends.

    blobs = Blobs(with_tail(environment, head), head, memory)
    faults = blobs.verify(placement, refs, streamed=checkpoint.execution_state)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

from snapshots.environment import Environment
from snapshots.head import Head
from snapshots.maintenance.memory import Memory, Remembered, named
from snapshots.maintenance.pieces import READ_BYTES_MAX, Fault, Fetched, Pieces, windows
from snapshots.placement import Placement
from storage.digest import BlobRef, Hasher, verify
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent
from storage.packs import read_index

Faults = tuple[Fault, ...]


class Blobs:
    """The blobs of one family, as one head names them.

    Args:
        environment: Where they lie; `with_tail` of the head.
        head: The head.
        memory: What was verified.

    Attributes:
        pieces: What they are put together from.
    """

    def __init__(self, environment: Environment, head: Head, memory: Memory) -> None:
        self.pieces = Pieces(environment, head.family, memory.frames)
        self._passing = Pieces(environment, head.family, Remembered(0))  # of what is too large to be remembered
        self._environment = environment
        self._family = head.family
        self._in_head = frozenset(pack.name for pack in head.tail)
        self._memory = memory

    def key_of(self, pack: str) -> str:
        """Return the key of a pack of the family."""
        return self._environment.layout.pack(self._family, pack)

    def verify(
        self,
        placement: Placement,
        refs: Iterable[BlobRef],
        *,
        streamed: BlobRef | None = None,
        along: Iterable[Extent] = (),
    ) -> dict[BlobRef, Faults]:
        """Read what is not known to be sound; return what is wrong, by blob.

        Args:
            placement: Where the blobs lie.
            refs: All of them, `streamed` included; no logs.
            streamed: One that nobody decodes; it is not held in memory when it is large.
            along: Pieces of something else that is read next: they are fetched with the first blobs.

        Raises:
            UnavailableError: The store did not answer.
        """
        faults: dict[BlobRef, Faults] = {}
        unread: list[BlobRef] = []
        for ref in dict.fromkeys(refs):
            verdict = self._memory.verdicts.find(self._place_of(ref, placement))
            if verdict is None:
                unread.append(ref)
            elif verdict:
                faults[ref] = tuple(CorruptObjectError(*one) for one in verdict)
        large = [ref for ref in unread if ref == streamed and ref.size_bytes > READ_BYTES_MAX]
        small = list(_batches(ref for ref in unread if ref not in large))
        first = next(windows(along), [])
        for refs_together in small or [[]]:
            extents = {ref: placement.extents[ref.digest] for ref in refs_together}
            fetched = self.pieces.fetch((*first, *(one for many in extents.values() for one in many)))
            first = []
            for ref in refs_together:
                faults |= self._judged(ref, placement, self._faults(ref, extents[ref], fetched))
        for ref in large:
            faults |= self._judged(ref, placement, self._streamed(ref, placement.extents[ref.digest]))
        return faults

    def record(self, ref: BlobRef, placement: Placement) -> bytes:
        """Return the bytes of a blob that `verify` found sound. Raises as `Fetched.piece`."""
        extents = placement.extents[ref.digest]
        return _whole(extents, self.pieces.fetch(extents))

    def blamed(self, error: Fault, extents: Sequence[Extent]) -> Fault:
        """Return what to say of a blob of which every frame is sound: which pack is not what was written (rule 3)."""
        for pack in dict.fromkeys(extent.pack for extent in extents):
            verdict = self.index_verdict(pack)
            if isinstance(verdict, CorruptObjectError):
                return verdict
        return error

    def index_verdict(self, pack: str) -> Fault | None:
        """Return what is wrong with a pack's index, None if it is whole and that of this pack, or if it needs none.

        Raises:
            UnavailableError: The store did not answer.
        """
        if pack in self._in_head:
            return None
        key, name = self.key_of(pack), named("index", self._family, pack)
        verdict = self._memory.verdicts.find(name)
        if verdict is None:
            try:
                facts = read_index(self._environment.store, key, pack).facts
            except NotFoundError as error:
                return error
            except CorruptObjectError as error:
                verdict = ((error.key, error.reason),)
            else:
                verdict = self._is_it(pack, facts)
            self._memory.verdicts.keep(name, verdict)
        return CorruptObjectError(*verdict[0]) if verdict else None

    def _is_it(self, pack: str, facts: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
        """Return how the facts in a pack's index contradict its key."""
        tenant, family = facts.get("tenant"), facts.get("family")
        if (tenant, family) != (self._environment.layout.tenant, self._family):
            whose = f"tenant {tenant!r} and family {family!r}"
        elif facts.get("commit") != pack.partition(".")[0]:
            whose = f"commit {facts.get('commit')!r}"
        else:
            return ()
        return ((self.key_of(pack), f"this pack is of {whose}, moved here from its own key"),)

    def _judged(self, ref: BlobRef, placement: Placement, faults: Faults) -> dict[BlobRef, Faults]:
        if not any(isinstance(one, NotFoundError) for one in faults):
            verdict = tuple((one.key, one.reason) for one in faults if isinstance(one, CorruptObjectError))
            self._memory.verdicts.keep(self._place_of(ref, placement), verdict, max(1, len(verdict)))
        return {ref: faults} if faults else {}

    def _faults(self, ref: BlobRef, extents: Sequence[Extent], fetched: Fetched) -> Faults:
        try:
            verify(_whole(extents, fetched), ref, key=_key_of(extents, self.key_of))
        except (NotFoundError, CorruptObjectError) as error:
            return tuple(_by_key(extents, fetched).values()) or (self.blamed(error, extents),)
        return ()

    def _streamed(self, ref: BlobRef, extents: Sequence[Extent]) -> Faults:
        if not ref.digest.startswith("b3:"):  # no writer makes these; only a whole one can be compared
            return self._faults(ref, extents, self._passing.fetch(extents))
        hasher = Hasher()
        faults: dict[str, Fault] = {}
        for window in windows(extents):
            fetched = self._passing.fetch(window)
            try:
                for extent in window:
                    hasher.update(fetched.piece(extent))
            except (NotFoundError, CorruptObjectError) as error:
                faults = {**(_by_key(window, fetched) or {error.key: error}), **faults}
        if not faults and hasher.ref() != ref:
            reason = f"content is {hasher.ref()}, expected {ref}"
            return (self.blamed(CorruptObjectError(_key_of(extents, self.key_of), reason), extents),)
        return tuple(faults.values())

    def _place_of(self, ref: BlobRef, placement: Placement) -> bytes:
        return named(self._family, str(ref), placement.extents[ref.digest])


def _whole(extents: Sequence[Extent], fetched: Fetched) -> bytes:
    return b"".join(map(fetched.piece, extents))


def _by_key(extents: Iterable[Extent], fetched: Fetched) -> dict[str, Fault]:
    """Return what is wrong with single frames, the first of each pack, by its key."""
    found = (fetched.fault(extent) for extent in extents)
    return {fault.key: fault for fault in found if fault is not None}


def _key_of(extents: Sequence[Extent], key_of: Callable[[str], str]) -> str:
    return key_of(extents[-1].pack) if extents else ""


def _batches(refs: Iterable[BlobRef]) -> Iterator[list[BlobRef]]:
    batch: list[BlobRef] = []
    for ref in refs:
        if batch and sum(one.size_bytes for one in batch) + ref.size_bytes > READ_BYTES_MAX:
            yield batch
            batch = []
        batch.append(ref)
    if batch:
        yield batch
