"""Looking through the packs of a family, and its heads.

Rules:
1. They are looked through only when something is not where it should be, and then once: packs first, as heads are many.
2. A pack without an index is walked from its beginning, frame by frame, as far as its frames are whole.

    family = Family(environment, head.family)
    family.record(checkpoint_ref)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from snapshots.environment import Environment
from snapshots.maintenance.findings import DAMAGE
from snapshots.maintenance.repair.found import Found
from snapshots.maintenance.repair.runs import (
    FoundManifest,
    Frames,
    Sealed,
    frames_in,
    manifests_in,
    needing_others,
    opened_with,
    standing_alone,
)
from snapshots.maintenance.repair.together import LostError
from snapshots.placement import ManifestPlace
from snapshots.reading import head_at
from snapshots.roots import named_packs
from snapshots.sessions import for_each_head
from storage.digest import BlobRef, blob_ref
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import plan_reads
from storage.packs import PackedBlob, read_index
from storage.store import ByteRange, ListedObject


@dataclass(frozen=True, slots=True)
class _Pack:
    """What one pack holds."""

    blobs: tuple[PackedBlob, ...]
    manifests: tuple[FoundManifest, ...]
    sealed: tuple[Sealed, ...]


class Family:
    """What lies in the packs of a family, and in its heads. Looked through once, for all of its sessions.

    Args:
        environment: Where they lie.
        family: Whose.
    """

    def __init__(self, environment: Environment, family: str) -> None:
        self._environment = environment
        self._family = family

    def found(self) -> Iterator[Found]:
        """Yield what is found in packs, then all that is found in heads as well: these are many."""
        yield self.in_packs
        yield self._in_heads_too

    def record(self, ref: BlobRef) -> FoundManifest:
        """Return the manifest whose checkpoint is `ref`, in a pack or in the head of a fork. Raises LostError."""
        for found in self.found():
            for manifest in found.manifests:
                if blob_ref(manifest.record) == ref:
                    return manifest
        raise LostError(f"checkpoint {ref.digest} lies in no pack and no head of the family")

    @cached_property
    def in_packs(self) -> Found:
        """Everything in packs, the manifests that can be opened with what lies in packs."""
        return Found((*self._alone, *opened_with(self._alone, self._sealed)), self._blobs)

    @cached_property
    def _in_heads_too(self) -> Found:
        """The same, and manifests in the heads of the family, and in packs what can be opened with them."""
        looked = list(for_each_head(self._environment, self._in_head))
        alone = [*self._alone, *(one for found, _ in looked for one in found)]
        sealed = [*self._sealed, *(one for _, many in looked for one in many)]
        return Found((*alone, *opened_with(alone, sealed)), self._blobs)

    @cached_property
    def _alone(self) -> list[FoundManifest]:
        return [found for pack in self._packs for found in pack.manifests]

    @cached_property
    def _sealed(self) -> list[Sealed]:
        return [sealed for pack in self._packs for sealed in pack.sealed]

    @cached_property
    def _blobs(self) -> list[PackedBlob]:
        return [blob for pack in self._packs for blob in pack.blobs]

    def named_by_no_other(self, session_id: str) -> frozenset[str]:
        """Return the packs that lie there and that no head but this session's is known to name."""
        key = self._environment.layout.head(session_id)
        others = (names for whose, names in self._named if whose != key)
        return frozenset(row.key.rpartition("/")[2] for row in self._listing).difference(*others)

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

    # Looking through packs.

    def _look(self, row: ListedObject) -> _Pack:
        name = row.key.rpartition("/")[2]
        try:
            index = read_index(self._environment.store, row.key, name)
            blobs, session_id, runs = index.blobs, index.facts.get("session", ""), index.runs
        except CorruptObjectError:
            blobs, session_id, runs = (), "", (ByteRange(0, max(1, row.size_bytes)),)  # Rule 2.
        except NotFoundError:
            return _Pack((), (), ())
        reads = plan_reads((name, run.start, run.length) for run in runs)
        frames = [one for read in reads for one in self._frames(row.key, read.place)]
        frames = [one for one in frames if any(run.start <= one[0] < run.end for run in runs)]
        manifests = [
            found
            for start, stored in standing_alone(frames)
            for found in manifests_in(stored, session_id, ManifestPlace(name, start, len(stored)))
        ]
        sealed = (Sealed(session_id, name, many) for many in needing_others(frames))
        return _Pack(blobs, tuple(manifests), tuple(sealed))

    def _frames(self, key: str, stretch: ByteRange) -> Frames:
        """Return the frames of a stretch of a pack, up to where none begins."""
        try:
            return frames_in(self._environment.store.get(key, stretch).data, stretch.start)
        except (NotFoundError, CorruptObjectError):
            return []

    def _in_head(self, row: ListedObject) -> tuple[list[FoundManifest], list[Sealed]]:
        try:
            head = head_at(self._environment, row.key).head
        except DAMAGE:
            return [], []
        if head.family != self._family:
            return [], []
        frames = [one for pack in head.tail for one in frames_in(pack.data, 0)]
        found = manifests_in(head.inline_manifest, head.session_id, None) if head.inline_manifest else []
        found += [one for _, stored in standing_alone(frames) for one in manifests_in(stored, head.session_id, None)]
        return found, [Sealed(head.session_id, "", many) for many in needing_others(frames)]
