"""Staging: from content and base to one pack and the two records of the new revision. Pure.

Rules:
1. Everything new goes into one pack, in this order: log segments and small parts, large parts, manifest, index.
2. What did not change keeps its extents; nothing is read, nothing is uploaded twice.
3. The result names only packs that the base names, and the pack itself.

    staged = stage(content, base, identity, name)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from snapshots import codec
from snapshots.base import Base
from snapshots.checkpoint import RECORD_BLOB_BYTES_MAX, SessionCheckpoint
from snapshots.content import Content, Part
from snapshots.errors import LimitExceededError
from snapshots.head import INLINE_MANIFEST_BYTES_MAX, RING_MAX, Head, StampRow, stamps_appended
from snapshots.history import COMMIT, REPLACE, HistoryRow, lineage
from snapshots.logs import NODES_FAN_OUT, ROWS_FAN_OUT, Log, Segment, append, level_of_first, plan_append, segments_of
from snapshots.placement import ManifestPlace, PackUse, Placement, PlaceRow, seal_manifest
from snapshots.stamps import StampMark
from snapshots.state import TokenLedgerEntry, nodes_to_plain
from storage.digest import BlobRef, blob_ref
from storage.packs import PackBuilder


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
        manifest_run: The manifest's stored form.
        history: The history log with the new row.
        places: The log of places with the new row.
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
    manifest_run: bytes
    history: Log[HistoryRow]
    places: Log[PlaceRow]
    ledger: tuple[TokenLedgerEntry, ...]
    stamps: tuple[StampRow, ...]

    @property
    def inline_manifest(self) -> bytes:
        """Return the manifest's stored form if it is small enough to stand in the head, b"" otherwise."""
        return self.manifest_run if len(self.manifest_run) <= INLINE_MANIFEST_BYTES_MAX else b""


def stage(content: Content, base: Base, identity: Identity, name: str) -> Staged:
    """Return the pack and the records of the revision after `base`.

    Args:
        content: What to store.
        base: What it stands on.
        identity: Which commit it is.
        name: Name of the pack, never used before.
    """
    builder = PackBuilder(name)
    revision = base.revision + 1
    graph = _graph(content, base, builder)
    row = _history_row(content, revision, sum(segment.count for segment in graph), identity)
    history = append(base.history, [*base.unstored, row], _RowsInto(builder, "history"))
    checkpoint = SessionCheckpoint(
        revision=revision,
        small=content.small,
        graph=graph,
        history=segments_of(history),
        tool_state=_part(content.tool_state, "tool-state", builder),
        plugin_snapshot=_part(content.plugin_snapshot, "plugin-snapshot", builder),
        execution_state=_part(content.execution_state, "execution-state", builder),
        tombstones=_part(content.tombstones, "tombstones", builder),
    )
    places = _places(checkpoint, base, builder)
    builder.flush()
    placement = _placement(checkpoint, places, base, builder)
    record = checkpoint.encode()
    run = seal_manifest(record, placement.encode())
    place = builder.append_run(run)
    return Staged(
        name=name,
        data=builder.finish(_facts(base.head, identity)),
        epoch=base.head.epoch,
        checkpoint=checkpoint,
        checkpoint_ref=blob_ref(record),
        placement=placement,
        manifest=ManifestPlace(name, place.start, place.length),
        manifest_run=run,
        history=history,
        places=places,
        ledger=content.ledger,
        stamps=_stamps(content, base, row),
    )


def _stamps(content: Content, base: Base, row: HistoryRow) -> tuple[StampRow, ...]:
    """Return the ring of stamps: one more turn, or the newest of the lineage that a rewind goes back to."""
    if content.kind in (COMMIT, REPLACE):
        return stamps_appended(base.head.stamps, row.revision, row.stamp)
    marks = [StampRow(one.revision, one.stamp) for one in lineage(base.rows, row.parent) if one.stamp is not None]
    return tuple(reversed(marks[:RING_MAX]))


def _facts(head: Head, identity: Identity) -> Mapping[str, str]:
    family = head.family or head.session_id
    return {"tenant": head.tenant, "family": family, "session": head.session_id, "commit": identity.commit_id}


def _graph(content: Content, base: Base, builder: PackBuilder) -> tuple[Segment, ...]:
    """Return the graph's segments. A merge takes the nodes from the state: no segment is read."""
    if content.fresh_graph:
        count = len(content.nodes)
        return (_node_segment(content, 0, level_of_first(count), builder),) if count else ()
    old = base.checkpoint.graph
    if content.first_new == len(content.nodes):
        return old
    sizes = [segment.ref.size_bytes for segment in old]
    kept, level = plan_append([segment.level for segment in old], NODES_FAN_OUT, sizes=sizes)
    start = sum(segment.count for segment in old[:kept])
    return (*old[:kept], _node_segment(content, start, level, builder))


def _node_segment(content: Content, start: int, level: int, builder: PackBuilder) -> Segment:
    plain = nodes_to_plain(content.nodes[start:])
    data = codec.encode(plain)
    if len(data) > RECORD_BLOB_BYTES_MAX:
        raise LimitExceededError(f"nodes of one commit of {RECORD_BLOB_BYTES_MAX} bytes", len(data))
    return Segment(builder.add("graph", data), len(plain), level)


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


class _RowsInto:
    """Stores the rows of a segment in a pack."""

    def __init__(self, builder: PackBuilder, kind: str) -> None:
        self._builder = builder
        self._kind = kind

    def __call__(self, rows: tuple[HistoryRow, ...] | tuple[PlaceRow, ...]) -> BlobRef:
        return self._builder.add(self._kind, codec.encode([row.to_plain() for row in rows]))


def _part(part: Part | None, kind: str, builder: PackBuilder) -> BlobRef | None:
    if part is not None and part.data is not None:
        builder.add(kind, part.data)
    return None if part is None else part.ref


def _places(checkpoint: SessionCheckpoint, base: Base, builder: PackBuilder) -> Log[PlaceRow]:
    if base.checkpoint_ref is None or base.head.manifest is None:
        return base.places
    kept, _ = plan_append([one.segment.level for one in base.places], ROWS_FAN_OUT)
    needed = [*checkpoint.refs(), *(one.segment.ref for one in base.places[:kept])]
    still = {extent.pack for ref in needed for extent in base.placement.extents.get(ref.digest, ())}
    ended = tuple(
        PackUse(use.pack, use.first_revision, base.revision) for use in base.placement.packs if use.pack not in still
    )
    row = PlaceRow(base.revision, base.checkpoint_ref, base.head.manifest, base.head.overrides, ended)
    return append(base.places, [row], _RowsInto(builder, "places"))


def _placement(checkpoint: SessionCheckpoint, places: Log[PlaceRow], base: Base, builder: PackBuilder) -> Placement:
    needed = [*checkpoint.refs(), *(one.segment.ref for one in places)]
    held = {**builder.extents, **base.placement.extents}  # what lies somewhere already stays there
    extents = {ref.digest: held[ref.digest] for ref in needed}
    packs = dict.fromkeys(extent.pack for many in extents.values() for extent in many)
    packs[builder.name] = None  # the manifest lies there, also when no blob does
    first = {use.pack: use.first_revision for use in base.placement.packs}
    uses = tuple(PackUse(pack, first.get(pack, checkpoint.revision)) for pack in packs)
    return Placement(extents, uses, segments_of(places))
