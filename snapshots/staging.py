"""Staging: from content and base to one pack and the two records of the new revision. Pure.

Rules:
1. Everything new goes into one pack, in this order: logs and small parts, large parts, manifest, index.
2. What did not change keeps its extents; nothing is read, nothing is uploaded twice.
3. The result names only packs that the base names, and the pack itself.
4. The manifest is compressed against the last one that stands in full, while that pays and needs no pack of its own.

    staged = stage(content, base, identity, name)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any, Never, Protocol, TypeVar

from snapshots import codec
from snapshots.base import Base, FullManifest
from snapshots.checkpoint import SessionCheckpoint
from snapshots.content import Content, Part
from snapshots.head import INLINE_MANIFEST_BYTES_MAX, RING_MAX, Head, StampRow, stamps_appended
from snapshots.history import COMMIT, REPLACE, HistoryRow, lineage
from snapshots.logs import HeldLog, LogRef
from snapshots.parts import EXECUTION_STATE, PLUGIN_SNAPSHOT, TOMBSTONES, TOOL_STATE, Parts, Piece, spliced
from snapshots.placement import ManifestPlace, PackUse, Placement, PlaceRow, manifest_bytes, seal_manifest
from snapshots.stamps import StampMark
from snapshots.state import TokenLedgerEntry
from storage.digest import BlobRef, blob_ref
from storage.extents import Extent
from storage.packs import PREFIX_BYTES_MAX, PackBuilder


class _Row(Protocol):
    def to_plain(self) -> list[Any]: ...


T = TypeVar("T", bound=_Row)
INLINE_RAW_BYTES_MAX = 8 * INLINE_MANIFEST_BYTES_MAX  # no manifest gets so much smaller: do not try
FULL_SHARE = 3  # a manifest stands in full again once what changed takes a third of that


@dataclass(frozen=True, slots=True)
class Identity:
    """Which commit this is.

    Attributes:
        commit_id: 32 hex digits.
        created_at: When it began.
        stamp: Its turn, None without one.
    """

    commit_id: str
    created_at: datetime
    stamp: StampMark | None


@dataclass(frozen=True, slots=True)
class Staged:
    """A pack ready to be put, and what the head must name for it.

    Attributes:
        name: Name of the pack.
        data: The pack.
        epoch: Epoch of the head that was read before.
        checkpoint: The new revision.
        checkpoint_ref: Its ref.
        placement: Where its blobs lie.
        manifest: Where its manifest lies.
        inline_manifest: The manifest's stored form for the head, b"" if it is too large for that.
        full: The manifest that the next one may be compressed against.
        graph: The graph's log, None if the base's is not known.
        history: The history with the new row.
        places: The log of places with the new row.
        parts: The bytes of its parts, as far as they are known.
        ledger: The revision's token ledger.
        stamps: The newest turns of the present lineage.
    """

    name: str
    data: bytes
    epoch: int
    checkpoint: SessionCheckpoint
    checkpoint_ref: BlobRef
    placement: Placement
    manifest: ManifestPlace
    inline_manifest: bytes
    full: FullManifest
    graph: HeldLog[Never] | None
    history: HeldLog[HistoryRow]
    places: HeldLog[PlaceRow]
    parts: Parts
    ledger: tuple[TokenLedgerEntry, ...]
    stamps: tuple[StampRow, ...]


def stage(content: Content, base: Base, identity: Identity, name: str) -> Staged:
    """Return the pack and the records of the revision after `base`.

    Args:
        content: What to store.
        base: What it stands on.
        identity: Which commit it is.
        name: Name of the pack, never used before.
    """
    laid = _Laid(base)
    revision = base.revision + 1
    graph = _graph(content, base, laid)
    node_count = content.nodes
    row = _history_row(content, revision, node_count, identity)
    history = laid.continued("history", base.history, [*base.unstored, row])
    checkpoint = SessionCheckpoint(
        revision=revision,
        small=content.small,
        graph=base.checkpoint.graph if graph is None else graph.at,
        history=history.at,
        tool_state=laid.part(TOOL_STATE, content.tool_state, base.checkpoint.tool_state),
        plugin_snapshot=laid.part(PLUGIN_SNAPSHOT, content.plugin_snapshot, base.checkpoint.plugin_snapshot),
        execution_state=laid.part(EXECUTION_STATE, content.execution_state, base.checkpoint.execution_state),
        tombstones=laid.part(TOMBSTONES, content.tombstones, base.checkpoint.tombstones),
    )
    places = _places(base, laid)
    builder = PackBuilder(name)
    placement = laid.into(builder, checkpoint.revision, places.at)
    record = checkpoint.encode()
    manifest = _manifest(builder, manifest_bytes(record, placement.encode()), placement, base.full)
    return Staged(
        name=name,
        data=builder.finish(_facts(base.head, identity)),
        epoch=base.head.epoch,
        checkpoint=checkpoint,
        checkpoint_ref=blob_ref(record),
        placement=placement,
        manifest=manifest.place,
        inline_manifest=manifest.inline,
        full=manifest.full,
        graph=graph,
        history=history,
        places=places,
        parts=laid.parts,
        ledger=content.ledger,
        stamps=_stamps(content, base, row),
    )


@dataclass(frozen=True, slots=True)
class _Manifest:
    place: ManifestPlace
    inline: bytes
    full: FullManifest


def _manifest(builder: PackBuilder, raw: bytes, placement: Placement, before: FullManifest | None) -> _Manifest:
    """Put the manifest into the pack (rule 4)."""
    if before is not None and any(use.pack == before.place.pack for use in placement.packs):
        run = seal_manifest(raw, before.raw)
        if len(run) * FULL_SHARE <= before.place.stored_bytes:
            return _Manifest(_appended(builder, run, before.place), inline_manifest(raw), before)
    run = seal_manifest(raw)
    place = _appended(builder, run, None)
    return _Manifest(place, _if_small(run), FullManifest(place, raw))


def inline_manifest(raw: bytes) -> bytes:
    """Return the stored form of a manifest for a head, b"" if it is too large for that."""
    return _if_small(seal_manifest(raw)) if len(raw) <= INLINE_RAW_BYTES_MAX else b""


def _if_small(run: bytes) -> bytes:
    return run if len(run) <= INLINE_MANIFEST_BYTES_MAX else b""


def _appended(builder: PackBuilder, run: bytes, against: ManifestPlace | None) -> ManifestPlace:
    place = builder.append_run(run)
    return ManifestPlace(builder.name, place.start, place.length, against)


@dataclass(frozen=True, slots=True)
class _Blob:
    """A blob of the new revision: its bytes in order, and how to find those before a position if it is a log."""

    kind: str
    ref: BlobRef
    pieces: Sequence[Piece]
    before: Callable[[int], bytes] | None = None

    def put(self, builder: PackBuilder) -> None:
        if self.before is None:
            builder.add_spliced(self.kind, self.ref, self.pieces)
        else:
            builder.add_log(self.kind, self.ref, self.pieces, self.before)


class _Laid:
    """The blobs of the new revision, as pieces of what lies somewhere already and of what is new (rule 2).

    Attributes:
        parts: What is known of the bytes of its parts.
    """

    def __init__(self, base: Base) -> None:
        self._base = base
        self._blobs: list[_Blob] = []
        self.parts = Parts()

    def carried(self, kind: str, ref: BlobRef) -> None:
        """Take over a blob of the base."""
        self._blobs.append(_Blob(kind, ref, self._held(ref)))

    def continued(self, kind: str, log: HeldLog[T], rows: Sequence[T]) -> HeldLog[T]:
        """Return a log of rows continued."""
        data = codec.encode_entries([row.to_plain() for row in rows])
        longer = log.appended(data, rows)
        self._blobs.append(_Blob(kind, longer.at.ref, [*self._held(log.at.ref), memoryview(data)]))
        return longer

    def graph(self, log: HeldLog[Never], data: bytes, count: int) -> HeldLog[Never]:
        """Return the graph's log continued: its text is like the text before it."""
        longer = log.appended(data, (), count)
        before = partial(longer.before, length=PREFIX_BYTES_MAX)
        self._blobs.append(_Blob("graph", longer.at.ref, [*self._held(log.at.ref), memoryview(data)], before))
        return longer

    def part(self, kind: str, part: Part | None, parent: BlobRef | None) -> BlobRef | None:
        """Return the ref of a part, stored as what it adds to the base's."""
        if part is None:
            return None
        held = self._base.parts.of(kind, parent)
        if part.data is None:
            self.carried(kind, part.ref)
        else:
            pieces, held = spliced(part.ref, part.data, held, self._base.placement.extents)
            self._blobs.append(_Blob(kind, part.ref, pieces))
        if held is not None:
            self.parts = self.parts.holding(kind, held)
        return part.ref

    def packs(self) -> set[str]:
        """Return the packs of the base that the blobs so far need."""
        return {piece.pack for blob in self._blobs for piece in blob.pieces if isinstance(piece, Extent)}

    def into(self, builder: PackBuilder, revision: int, places: LogRef) -> Placement:
        """Put what is new into the pack; return where everything lies then."""
        for blob in self._blobs:
            blob.put(builder)
        builder.flush()
        packs = dict.fromkeys(extent.pack for blob in self._blobs for extent in builder.extents[blob.ref.digest])
        packs[builder.name] = None  # the manifest lies there, also when no blob does
        first = {use.pack: use.first_revision for use in self._base.placement.packs}
        uses = tuple(PackUse(pack, first.get(pack, revision)) for pack in packs)
        return Placement({blob.ref.digest: builder.extents[blob.ref.digest] for blob in self._blobs}, uses, places)

    def _held(self, ref: BlobRef) -> tuple[Extent, ...]:
        return self._base.placement.extents[ref.digest] if ref.size_bytes else ()


def _stamps(content: Content, base: Base, row: HistoryRow) -> tuple[StampRow, ...]:
    """Return the ring of stamps: one more turn, or the newest of the lineage that a rewind goes back to."""
    if content.kind in (COMMIT, REPLACE):
        return stamps_appended(base.head.stamps, row.revision, row.stamp)
    marks = [StampRow(one.revision, one.stamp) for one in lineage(base.rows, row.parent) if one.stamp is not None]
    return tuple(reversed(marks[:RING_MAX]))


def _facts(head: Head, identity: Identity) -> Mapping[str, str]:
    family = head.family or head.session_id
    return {"tenant": head.tenant, "family": family, "session": head.session_id, "commit": identity.commit_id}


def _graph(content: Content, base: Base, laid: _Laid) -> HeldLog[Never] | None:
    old: HeldLog[Never] | None = HeldLog() if content.fresh_graph else base.graph
    if content.new_nodes:
        assert old is not None, "what is appended to was read"
        return laid.graph(old, content.new_bytes, len(content.new_nodes))
    if not content.fresh_graph and base.checkpoint.graph.count:
        laid.carried("graph", base.checkpoint.graph.ref)
    return old


def _history_row(content: Content, revision: int, node_count: int, identity: Identity) -> HistoryRow:
    return HistoryRow(
        revision=revision,
        parent=content.parent,
        kind=content.kind,
        commit_id=identity.commit_id,
        created_at=identity.created_at,
        stamp=identity.stamp,
        node_count=node_count,
        usage=content.usage,
    )


def _places(base: Base, laid: _Laid) -> HeldLog[PlaceRow]:
    if base.checkpoint_ref is None or base.head.manifest is None:
        return base.places
    still = laid.packs() | {extent.pack for extent in base.placement.extents.get(base.places.at.ref.digest, ())}
    ended = tuple(
        PackUse(use.pack, use.first_revision, base.revision) for use in base.placement.packs if use.pack not in still
    )
    row = PlaceRow(base.revision, base.checkpoint_ref, base.head.manifest, base.head.overrides, ended)
    return laid.continued("places", base.places, [row])
