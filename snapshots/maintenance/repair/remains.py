"""What is left of a family: blobs and manifests, wherever in its packs they lie.

Rules:
1. Everything is believed for its digest alone: where a pack says that something lies, it is read and hashed.
2. The family's packs are looked through only when something is not where it should be, and then once.
3. A pack without an index is walked from its beginning, frame by frame, as far as its frames are whole.

    remains = Remains(environment, head.family)
    data = remains.read(ref, extents)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.maintenance.findings import DAMAGE
from snapshots.placement import ManifestPlace, Placement, open_manifest
from snapshots.restore import head_at
from snapshots.roots import named_packs
from snapshots.sessions import for_each_head
from storage.digest import BlobRef, Digest, blob_ref
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent
from storage.frame import FRAME_BYTES_MAX, open_frame, split_run
from storage.packs import PackedBlob, read_blobs, read_index
from storage.store import ByteRange, ListedObject


class LostError(Exception):
    """Something cannot be had from what is left; says why. Never leaves this package."""


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """A manifest as it was found.

    Attributes:
        session_id: Whose, as its pack says, "" if it does not.
        place: Where it lies, None if that is a head.
        record: The checkpoint's bytes.
        checkpoint: What they say.
        placement: Where its blobs lay when it was written.
    """

    session_id: str
    place: ManifestPlace | None
    record: bytes
    checkpoint: SessionCheckpoint
    placement: Placement


@dataclass(frozen=True, slots=True)
class _Pack:
    """What one pack holds."""

    blobs: tuple[PackedBlob, ...]
    manifests: tuple[FoundManifest, ...]


class Remains:
    """The packs of one family."""

    def __init__(self, environment: Environment, family: str) -> None:
        self._environment = environment
        self._family = family

    def key_of(self, pack: str) -> str:
        """Return the key of a pack of the family."""
        return self._environment.layout.pack(self._family, pack)

    def read(self, ref: BlobRef, *known: Sequence[Extent]) -> bytes:
        """Return the bytes of a blob, from one of the places known or from wherever a pack says that it has them.

        Raises:
            LostError: It lies nowhere.
            UnavailableError: The store did not answer.
        """
        for extents in self._candidates(ref, known):
            try:
                return read_blobs(self._environment.store, {ref: extents}, self.key_of, self._environment.executor)[ref]
            except (NotFoundError, CorruptObjectError):
                continue  # the next place; when there is none, that is said
        raise LostError(f"blob {ref.digest} lies whole in no pack of the family")

    def lies(self, ref: BlobRef, extents: Sequence[Extent]) -> bool:
        """Say whether a blob can be read from that place. Raises UnavailableError."""
        try:
            read_blobs(self._environment.store, {ref: extents}, self.key_of, self._environment.executor)
        except (NotFoundError, CorruptObjectError):
            return False
        return True

    def named_by_no_other(self, session_id: str) -> frozenset[str]:
        """Return the packs that lie there and that no head but this session's is known to name."""
        key = self._environment.layout.head(session_id)
        others = (names for whose, names in self._named if whose != key)
        return frozenset(row.key.rpartition("/")[2] for row in self._listing).difference(*others)

    def _candidates(self, ref: BlobRef, known: Iterable[Sequence[Extent]]) -> Iterator[Sequence[Extent]]:
        yield from known
        yield from self._places.get(ref.digest, ())  # Rule 2.

    def record(self, ref: BlobRef) -> FoundManifest:
        """Return the manifest whose checkpoint is `ref`, in a pack or in the head of a fork. Raises LostError."""
        for found in self.manifests:
            if blob_ref(found.record) == ref:
                return found
        for found in self._in_heads:
            if blob_ref(found.record) == ref:
                return found
        raise LostError(f"checkpoint {ref.digest} lies in no pack and no head of the family")

    @cached_property
    def manifests(self) -> tuple[FoundManifest, ...]:
        """Every manifest that lies whole in a pack."""
        return tuple(found for pack in self._packs for found in pack.manifests)

    @cached_property
    def _places(self) -> dict[Digest, list[tuple[Extent, ...]]]:
        places: dict[Digest, list[tuple[Extent, ...]]] = {}
        for pack in self._packs:
            for blob in pack.blobs:
                places.setdefault(blob.ref.digest, []).append(blob.extents)
        return places

    @cached_property
    def _packs(self) -> tuple[_Pack, ...]:
        return tuple(self._environment.executor.map(self._look, self._listing))

    @cached_property
    def _listing(self) -> tuple[ListedObject, ...]:
        return tuple(self._environment.store.list(self._environment.layout.family(self._family)))

    @cached_property
    def _named(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What each head of the family names, by its key; nothing where that cannot be read."""
        return tuple(for_each_head(self._environment, self._named_by))

    def _named_by(self, row: ListedObject) -> tuple[str, frozenset[str]]:
        try:
            head = head_at(self._environment, row.key).head
            return row.key, named_packs(self._environment, head) if head.family == self._family else frozenset()
        except DAMAGE:
            return row.key, frozenset()

    def _look(self, row: ListedObject) -> _Pack:
        name = row.key.rpartition("/")[2]
        try:
            index = read_index(self._environment.store, row.key, name)
            blobs, session_id = index.blobs, index.facts.get("session", "")
        except CorruptObjectError:
            blobs, session_id = (), ""  # Rule 3.
        except NotFoundError:
            return _Pack((), ())
        found = (self._between(name, session_id, gap) for gap in _gaps(blobs, row.size_bytes))
        return _Pack(blobs, tuple(one for many in found for one in many))

    def _between(self, name: str, session_id: str, gap: ByteRange) -> list[FoundManifest]:
        """Return the manifests in a stretch of a pack that no blob takes."""
        key = self.key_of(name)
        try:
            data = self._environment.store.get(key, gap).data
        except (NotFoundError, CorruptObjectError):
            return []
        found: list[FoundManifest] = []
        for start, end in _runs(data, key):
            place = ManifestPlace(name, gap.start + start, end - start)
            found += _manifests(data[start:end], key, session_id, place)
        return found

    @cached_property
    def _in_heads(self) -> tuple[FoundManifest, ...]:
        """Manifests in the heads of the family: a fork has that of the revision which it came from."""
        return tuple(one for many in for_each_head(self._environment, self._in_head) for one in many)

    def _in_head(self, row: ListedObject) -> list[FoundManifest]:
        try:
            head = head_at(self._environment, row.key).head
        except DAMAGE:
            return []
        if head.family != self._family or not head.inline_manifest:
            return []
        return _manifests(head.inline_manifest, row.key, head.session_id, None)


def _manifests(stored: bytes, key: str, session_id: str, place: ManifestPlace | None) -> list[FoundManifest]:
    """Return the manifest that a run of frames is, if it is one."""
    try:
        record, placed = open_manifest(stored, key=key)
        checkpoint, placement = SessionCheckpoint.decode(record, key=key), Placement.decode(placed, key=key)
    except DAMAGE:
        return []
    return [FoundManifest(session_id, place, record, checkpoint, placement)]


def _gaps(blobs: Iterable[PackedBlob], size_bytes: int) -> Iterator[ByteRange]:
    """Yield the stretches of a pack that no blob takes: there lie manifests, and the index."""
    end = 0
    for start, length in sorted({(one.offset, one.stored_bytes) for blob in blobs for one in blob.extents}):
        if start > end:
            yield ByteRange(end, start - end)
        end = max(end, start + length)
    if size_bytes > end:
        yield ByteRange(end, size_bytes - end)


def _runs(data: bytes, key: str) -> Iterator[tuple[int, int]]:
    """Yield where runs of whole frames begin and end: all of a run but its last frame are full."""
    begin = end = 0
    try:
        for frame in split_run(data, key=key):
            end += frame.nbytes
            try:
                full = len(open_frame(frame, key=key)) == FRAME_BYTES_MAX
            except CorruptObjectError:
                begin = end
                continue
            if not full:
                yield begin, end
                begin = end
    except CorruptObjectError:
        return  # the footer, or where the pack was cut: no frame begins behind it
