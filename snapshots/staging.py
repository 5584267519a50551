"""Staging: from content and base to one pack and the two records of the new revision. Pure.

Rules:
1. Everything new goes into one pack, in this order: logs and small parts, large parts, manifest, index. A small one
   lies in the head, as long as its tail has room; one that does not carries the whole tail.
2. What did not change keeps its extents; nothing is read, nothing is uploaded twice.
3. The result names only packs that the base names, and the pack itself.
4. The manifest is compressed against the last one that stands in full, while that pays and needs no pack of its own;
   whenever packs are merged it stands in full again.

    staged = stage(content, base, identity, name)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Never

from snapshots.base import Base, FullManifest
from snapshots.checkpoint import SessionCheckpoint
from snapshots.compaction import LIMITS, Limits
from snapshots.content import Content
from snapshots.head import (
    HEAD_TAIL_BYTES_MAX,
    INLINE_MANIFEST_BYTES_MAX,
    READS_MAX,
    RING_MAX,
    Head,
    StampRow,
    TailPack,
    stamps_appended,
)
from snapshots.history import COMMIT, REPLACE, HistoryRow, lineage
from snapshots.laying import Laid, at_hand
from snapshots.logs import HeldLog
from snapshots.parts import EXECUTION_STATE, PLUGIN_SNAPSHOT, TOMBSTONES, TOOL_STATE, Parts
from snapshots.placement import ManifestPlace, Placement, PlaceRow, manifest_bytes, seal_manifest
from snapshots.stamps import StampMark
from snapshots.state import TokenLedgerEntry
from snapshots.stretches import Stretch
from storage.digest import BlobRef, blob_ref
from storage.extents import Extent, Frame, Read, plan_reads
from storage.packs import PackBody, PackBuilder, PackData, finished

INLINE_RAW_BYTES_MAX = 8 * INLINE_MANIFEST_BYTES_MAX  # no manifest gets so much smaller: do not try
LAZY_BYTES_MIN = 8 << 20  # raw, of an execution state: it is read when it is asked for
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
        data: The pack; None if it lies in the head.
        tail: The packs that lie in the head.
        epoch: Epoch of the head that was read before.
        checkpoint: The new revision.
        checkpoint_ref: Its ref.
        placement: Where its blobs lie.
        manifest: Where its manifest lies.
        inline_manifest: The manifest's stored form for the head, b"" if it is too large for that.
        reads: What a load reads at once, for the head; empty where the manifest stands in it.
        stretches: Where the log of places lies, for the head.
        full: The manifest that the next one may be compressed against.
        graph: The graph's log, None if the base's is not known.
        history: The history with the new row.
        places: The log of places with the new row.
        parts: The bytes of its parts, as far as they are known.
        at_hand: Packs that the next one may carry.
        ledger: The revision's token ledger.
        stamps: The newest turns of the present lineage.
    """

    name: str
    data: PackData | None
    tail: tuple[TailPack, ...]
    epoch: int
    checkpoint: SessionCheckpoint
    checkpoint_ref: BlobRef
    placement: Placement
    manifest: ManifestPlace
    inline_manifest: bytes
    reads: tuple[Read, ...]
    stretches: tuple[Stretch, ...]
    full: FullManifest
    graph: HeldLog[Never] | None
    history: HeldLog[HistoryRow]
    places: HeldLog[PlaceRow]
    parts: Parts
    at_hand: Mapping[str, PackBody]
    ledger: tuple[TokenLedgerEntry, ...]
    stamps: tuple[StampRow, ...]


def stage(content: Content, base: Base, identity: Identity, name: str, limits: Limits = LIMITS) -> Staged:
    """Return the pack and the records of the revision after `base`.

    Args:
        content: What to store.
        base: What it stands on.
        identity: Which commit it is.
        name: Name of the pack, never used before.
        limits: What may lie apart.
    """
    laid = Laid(base, limits)
    graph = laid.graph(content)
    row = _history_row(content, base.revision + 1, identity)
    history = laid.history([*base.unstored, row])
    checkpoint = SessionCheckpoint(
        revision=row.revision,
        small=content.small,
        graph=base.checkpoint.graph if graph is None else graph.at,
        history=history.at,
        tool_state=laid.part(TOOL_STATE, content.tool_state, base.checkpoint.tool_state),
        plugin_snapshot=laid.part(PLUGIN_SNAPSHOT, content.plugin_snapshot, base.checkpoint.plugin_snapshot),
        execution_state=laid.part(EXECUTION_STATE, content.execution_state, base.checkpoint.execution_state),
        tombstones=laid.part(TOMBSTONES, content.tombstones, base.checkpoint.tombstones),
    )
    small = _in_head(laid, base, checkpoint, name, limits)
    packed = small or _in_store(laid, base, checkpoint, identity, name)
    return Staged(
        name=name,
        data=packed.data,
        tail=packed.tail,
        epoch=base.head.epoch,
        checkpoint=checkpoint,
        checkpoint_ref=packed.checkpoint_ref,
        placement=packed.placement,
        manifest=packed.manifest.place,
        inline_manifest=packed.manifest.inline,
        reads=packed.reads,
        stretches=packed.stretches,
        full=packed.manifest.full,
        graph=graph,
        history=history,
        places=packed.places,
        parts=laid.parts,
        at_hand=at_hand(base.at_hand, packed.body, packed.placement),
        ledger=content.ledger,
        stamps=_stamps(content, base, row),
    )


@dataclass(frozen=True, slots=True)
class _Packed:
    """The blobs and the manifest of a revision in a pack: in one of the store, with its data, or in the head's tail."""

    body: PackBody
    data: PackData | None
    tail: tuple[TailPack, ...]
    checkpoint_ref: BlobRef
    placement: Placement
    places: HeldLog[PlaceRow]
    stretches: tuple[Stretch, ...]
    manifest: _Manifest
    reads: tuple[Read, ...]


def _in_head(laid: Laid, base: Base, checkpoint: SessionCheckpoint, name: str, limits: Limits) -> _Packed | None:
    """Return the pack for the tail of the head, None if it is not small or there is no room."""
    held = sum(len(pack.data) for pack in base.head.tail)
    room = min(limits.tail_pack_bytes, limits.tail_bytes - held)
    if laid.estimated_bytes() > room:
        return None
    packed = _filled(laid.copy(), base, checkpoint, PackBuilder(name))
    if not isinstance(packed.body.data, bytes) or packed.body.size_bytes > room:
        return None
    tail = (*base.head.tail, TailPack(name, packed.body.data))
    packed = replace(packed, tail=tail, reads=_reads(checkpoint, packed, tail))
    return packed if _head_bytes(base.head, packed) <= HEAD_TAIL_BYTES_MAX else None


def _head_bytes(head: Head, packed: _Packed) -> int:
    return len(replace(head, staged=None, tail=packed.tail, reads=packed.reads, stretches=packed.stretches).encode())


def _in_store(laid: Laid, base: Base, checkpoint: SessionCheckpoint, identity: Identity, name: str) -> _Packed:
    """Return the pack for the store; it carries the tail of the head."""
    builder = PackBuilder(name)
    laid.merge_into(builder)
    packed = _filled(laid, base, checkpoint, builder)
    data = finished(packed.body, _facts(base.head, identity))
    return replace(packed, data=data, reads=_reads(checkpoint, packed, ()))


def _filled(laid: Laid, base: Base, checkpoint: SessionCheckpoint, builder: PackBuilder) -> _Packed:
    """Put blobs and manifest into a pack."""
    places = _places(base, laid)
    placement = laid.put_into(builder, checkpoint.revision, places.at)
    record = checkpoint.encode()
    manifest = _manifest(builder, record, placement, None if laid.merged else base.full)
    stretches = laid.stretches(placement)
    return _Packed(builder.body(), None, (), blob_ref(record), placement, places, stretches, manifest, ())


def _reads(checkpoint: SessionCheckpoint, packed: _Packed, tail: tuple[TailPack, ...]) -> tuple[Read, ...]:
    return () if packed.manifest.inline else reads_of(checkpoint, packed.placement, packed.manifest.place, tail)


@dataclass(frozen=True, slots=True)
class _Manifest:
    place: ManifestPlace
    inline: bytes
    full: FullManifest


def _manifest(builder: PackBuilder, record: bytes, placement: Placement, before: FullManifest | None) -> _Manifest:
    """Put the manifest into the pack (rule 4)."""
    if before is not None and any(use.pack == before.place.pack for use in placement.packs):
        raw = manifest_bytes(record, placement.encode(placement.numbered(before.numbers)))
        run = seal_manifest(raw, before.raw)
        if len(run) * FULL_SHARE <= before.place.stored_bytes:
            return _Manifest(_appended(builder, run, before.place), inline_manifest(raw), before)
    numbers = placement.numbered()
    raw = manifest_bytes(record, placement.encode(numbers))
    run = seal_manifest(raw)
    place = _appended(builder, run, None)
    return _Manifest(place, _if_small(run), FullManifest(place, raw, numbers))


def reads_of(
    checkpoint: SessionCheckpoint, placement: Placement, manifest: ManifestPlace, tail: tuple[TailPack, ...] = ()
) -> tuple[Read, ...]:
    """Return what a load reads of a revision, the execution state too if that is not much; empty if it is too much."""
    runs = [(run.pack, run.offset, run.stored_bytes) for run in manifest.runs()]
    large = {ref.digest for ref in (checkpoint.execution_state,) if ref is not None and ref.size_bytes > LAZY_BYTES_MIN}
    frames = [extent for digest, many in placement.extents.items() if digest not in large for extent in many]
    in_head = {pack.name for pack in tail}
    every: list[Extent | Frame] = [*runs, *frames]
    if in_head:
        every = [frame for frame in every if frame[0] not in in_head]
    reads = plan_reads(every)
    return tuple(reads) if len(reads) <= READS_MAX else ()


def inline_manifest(raw: bytes) -> bytes:
    """Return the stored form of a manifest for a head, b"" if it is too large for that."""
    return _if_small(seal_manifest(raw)) if len(raw) <= INLINE_RAW_BYTES_MAX else b""


def _if_small(run: bytes) -> bytes:
    return run if len(run) <= INLINE_MANIFEST_BYTES_MAX else b""


def _appended(builder: PackBuilder, run: bytes, against: ManifestPlace | None) -> ManifestPlace:
    place = builder.append_run(run)
    return ManifestPlace(builder.name, place.start, place.length, against)


def _stamps(content: Content, base: Base, row: HistoryRow) -> tuple[StampRow, ...]:
    """Return the ring of stamps: one more turn, or the newest of the lineage that a rewind goes back to."""
    if content.kind in (COMMIT, REPLACE):
        return stamps_appended(base.head.stamps, row.revision, row.stamp)
    marks = [StampRow(one.revision, one.stamp) for one in lineage(base.rows, row.parent) if one.stamp is not None]
    return tuple(reversed(marks[:RING_MAX]))


def _facts(head: Head, identity: Identity) -> Mapping[str, str]:
    family = head.family or head.session_id
    return {"tenant": head.tenant, "family": family, "session": head.session_id, "commit": identity.commit_id}


def _history_row(content: Content, revision: int, identity: Identity) -> HistoryRow:
    return HistoryRow(
        revision=revision,
        parent=content.parent,
        kind=content.kind,
        commit_id=identity.commit_id,
        created_at=identity.created_at,
        stamp=identity.stamp,
        node_count=content.nodes,
        usage=content.usage,
    )


def _places(base: Base, laid: Laid) -> HeldLog[PlaceRow]:
    if base.checkpoint_ref is None or base.head.manifest is None:
        return base.places
    going_on = {*laid.packs(), *(move.pack for move in laid.moves)}
    ended = tuple(replace(use, last_revision=base.revision) for use in base.placement.packs if use.pack not in going_on)
    row = PlaceRow(base.revision, base.checkpoint_ref, base.head.manifest, base.head.overrides, ended, laid.moves)
    return laid.places(row)
