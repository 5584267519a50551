"""Following a session: from a revision that is known in full to the present one, at the cost of what is new.

Read order (FORMAT.md): head → manifest (in the head, or in its pack) → everything else at once.

Rules:
1. What continues a log is decoded and hashed on top of what is known: together they must have the digest that the
   checkpoint names. Nothing else says that a log goes on.
2. A part is known by its digest; what is not known is read as in a load.
3. Where a log was not continued (the graph was written afresh, or a rewind went back), all of it is loaded.
4. What comes out is what a load gives: the state is built from stored bytes alone, never from what a caller holds.

    loaded = follow(environment, "s1", loaded)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

from snapshots import codec, history, placement
from snapshots.base import Base
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError
from snapshots.fields import Fields
from snapshots.history import ledger_after
from snapshots.logs import HeldLog, LogRef
from snapshots.parts import EXECUTION_STATE, PLUGIN_SNAPSHOT, TOMBSTONES, TOOL_STATE, HeldPart, Parts
from snapshots.reading import HeadRead, Manifest, pack_reader, read_manifest, retried_while_moving
from snapshots.restore import Loaded, graph_kept_whole, load_from, nodes_in, snapshot_in, state_of, tombstoned_in
from snapshots.state import PluginSessionSnapshot, SessionGraph, TokenLedgerEntry, ToolState
from storage.digest import BlobRef
from storage.errors import CorruptObjectError
from storage.extents import Extent
from storage.pack_reader import PackReader, reaching
from storage.packs import PREFIX_BYTES_MAX

T = TypeVar("T")
Snapshot = TypeVar("Snapshot", ToolState, PluginSessionSnapshot)


class _NotContinuedError(Exception):
    """What is known is not the beginning of what is stored; caught here, never seen outside."""


def follow(environment: Environment, session_id: str, known: Loaded) -> Loaded:
    """Return the present revision of a session; one read of the head while it stands where `known` does.

    Args:
        environment: Where to read.
        session_id: Which session.
        known: A revision of it, without its execution state. It is taken over, and must not be used afterwards.

    Raises:
        As `restore.load`.
    """

    def once(read: HeadRead) -> Loaded:
        try:
            return _followed(environment, known, read)
        except (_NotContinuedError, CorruptObjectError):  # the whole of it says which of the two it is
            return load_from(environment, read, read.head.revision, execution_state=False)

    return retried_while_moving(environment, session_id, once)


def advance(environment: Environment, known: Loaded, base: Base) -> Loaded | None:
    """Return the revision that was committed on top of a known one; None if it does not continue it.

    Args:
        environment: Where it was committed.
        known: The revision before, as `follow` returns it. It is taken over, and must not be used afterwards.
        base: What the committed state stands on.
    """
    try:
        return _advanced(known, base, key=environment.layout.head(base.head.session_id))
    except _NotContinuedError:
        return None


def stands_where(known: Base, read: Base) -> bool:
    """Say whether two bases of one session, the second one just read, stand on the same revision."""
    return (known.head.state_id, known.revision) == (read.head.state_id, read.revision)


def _followed(environment: Environment, known: Loaded, read: HeadRead) -> Loaded:
    head, base = read.head, known.base
    if (head.state_id, head.revision) == (base.head.state_id, base.revision):
        return replace(known, base=replace(base, head=head, version=read.version))
    if base.graph is None or head.revision < base.revision:
        raise _NotContinuedError
    reader = pack_reader(environment, head)
    for pack in base.at_hand.values():
        if isinstance(pack.data, bytes):
            reader.hold(pack.name, pack.data)
    known_packs = {use.pack for use in base.placement.packs} | {pack.name for pack in head.tail}
    if not head.inline_manifest:
        reader.fetch([one for one in head.reads if one.pack not in known_packs])
    manifest = read_manifest(environment, head, reader, base.full)
    key = environment.layout.head(head.session_id)
    return _advanced(known, _Reading(environment, known.base, manifest, reader, key).base(read), key=key)


class _Reading:
    """What is read of the present revision: everything that is not known."""

    def __init__(self, environment: Environment, known: Base, manifest: Manifest, reader: PackReader, key: str) -> None:
        self._home = environment.home
        self._known = known
        self._manifest = manifest
        self._reader = reader
        self._key = key

    def base(self, read: HeadRead) -> Base:
        """Return the base of the head that was read; everything that it takes is fetched at once."""
        known, checkpoint, placed = self._known, self._manifest.checkpoint, self._manifest.placement
        assert known.graph is not None, "a revision that is followed has its graph"
        logs: list[tuple[HeldLog[Any], LogRef]] = [
            (known.graph, checkpoint.graph),
            (known.history, checkpoint.history),
            (known.places, placed.places),
        ]
        self._reader.gather([*self._unknown_parts(), *(one for log, at in logs for one in self._unknown(log, at))])
        rows = self._log(known.history, checkpoint.history, history.row_from_plain)
        overrides = self._manifest.overrides
        return Base(
            home=self._home,
            head=read.head,
            version=read.version,
            checkpoint=checkpoint,
            checkpoint_ref=self._manifest.checkpoint_ref,
            placement=placed,
            graph=self._continued(known.graph, checkpoint.graph),
            history=rows,
            unstored=() if overrides is None else (overrides.row(checkpoint.node_count),),
            places=self._log(known.places, placed.places, placement.row_from_plain),
            parts=self._parts(),
            full=self._manifest.full or known.full,  # of use as long as its pack is named
            at_hand={use.pack: known.at_hand[use.pack] for use in placed.packs if use.pack in known.at_hand},
        )

    def _refs(self) -> dict[str, BlobRef]:
        """Return the parts of the revision that a load reads."""
        parts = self._manifest.checkpoint.parts()
        return {kind: ref for kind, ref in parts.items() if ref is not None and kind != EXECUTION_STATE}

    def _unknown_parts(self) -> list[Extent]:
        unknown = [ref for kind, ref in self._refs().items() if self._known.parts.of(kind, ref) is None]
        return [extent for ref in unknown for extent in self._extents(ref)]

    def _parts(self) -> Parts:
        parts = Parts()
        execution = self._known.parts.of(EXECUTION_STATE, self._manifest.checkpoint.execution_state)
        if execution is not None:
            parts = parts.holding(EXECUTION_STATE, execution)
        for kind, ref in self._refs().items():
            held = self._known.parts.of(kind, ref)
            parts = parts.holding(kind, held or HeldPart(ref, self._reader.blobs({ref: self._extents(ref)})[ref]))
        return parts

    def _extents(self, ref: BlobRef) -> Sequence[Extent]:
        return self._manifest.placement.extents[ref.digest]

    def _unknown(self, log: HeldLog[Any], at: LogRef) -> Sequence[Extent]:
        if at == log.at:
            return ()
        if at.count <= log.at.count or at.ref.size_bytes <= log.at.ref.size_bytes:
            raise _NotContinuedError
        return reaching(self._extents(at.ref), log.at.ref.size_bytes)[0]

    def _log(self, log: HeldLog[T], at: LogRef, parse: Callable[[Any], T]) -> HeldLog[T]:
        """Return a log of rows continued."""
        longer = self._continued(log, at)
        if longer is log:
            return log
        new = {"rows": codec.decode_entries(_added(log, longer), at.count - log.at.count, key=self._key)}
        rows = Fields(new, key=self._key, record="log").rows("rows", parse)
        return replace(longer, entries=(*log.entries, *rows))

    def _continued(self, log: HeldLog[T], at: LogRef) -> HeldLog[T]:
        """Return the bytes of a log continued (rule 1), without its new entries."""
        if at == log.at:
            return log
        known = log.at.ref.size_bytes
        data = self._reader.ending(self._extents(at.ref), known, lambda end: log.before(end, PREFIX_BYTES_MAX))
        longer = log.appended(data, (), at.count - log.at.count)
        if longer.at != at:
            raise _NotContinuedError
        return longer


def _added(known: HeldLog[Any], longer: HeldLog[Any]) -> bytes:
    size = known.at.ref.size_bytes
    return longer.between(size, longer.at.ref.size_bytes - size)


def _advanced(known: Loaded, base: Base, *, key: str) -> Loaded:
    """Return the state of `base`, of which all but the state is known."""
    data = _new_nodes(known.base, base)
    base = replace(base, ledger=_ledger(known.base, base, key=key))
    before = known.state.tool_state_snapshot, known.state.plugin_snapshot
    tool_state = _snapshot(ToolState, TOOL_STATE, known.base, base, before[0], key=key)
    plugin_snapshot = _snapshot(PluginSessionSnapshot, PLUGIN_SNAPSHOT, known.base, base, before[1], key=key)
    graph = _graph(known, base, data, key=key)
    return Loaded(state_of(base, graph, tool_state=tool_state, plugin_snapshot=plugin_snapshot), base)


def _new_nodes(known: Base, base: Base) -> bytes:
    """Return the nodes that the graph was continued with, as they are stored. Checks rule 1 for a commit of our own."""
    if known.graph is None or base.graph is None or base.graph.at.count < known.graph.at.count:
        raise _NotContinuedError
    data = _added(known.graph, base.graph)
    if known.graph.appended(data, (), base.graph.at.count - known.graph.at.count).at != base.graph.at:
        raise _NotContinuedError
    return data


def _graph(known: Loaded, base: Base, data: bytes, *, key: str) -> SessionGraph:
    """Return the graph continued: the known one itself, unless other nodes are hidden."""
    assert known.base.graph is not None, "it was continued"
    assert base.graph is not None, "it continues another"
    graph, leaf = known.state.session_graph, base.checkpoint.small.leaf_node_id
    with graph_kept_whole(key):
        new = nodes_in(data, base.graph.at.count - known.base.graph.at.count, key=key)
        if base.checkpoint.tombstones != known.base.checkpoint.tombstones:
            hidden = _bytes(base, TOMBSTONES) if base.checkpoint.tombstones is not None else b""
            nodes = [*graph.nodes, *new]
            return SessionGraph.from_nodes(nodes, leaf, committed=True, tombstoned=tombstoned_in(hidden, key=key))
        graph.extend_node_records(new)
        graph.set_leaf_node_id(leaf)
        graph.check_new()
        graph.mark_committed()
    return graph


def _ledger(known: Base, base: Base, *, key: str) -> tuple[TokenLedgerEntry, ...]:
    """Return the ledger of `base`; check that the new rows of its history follow on the known ones."""
    rows = base.rows
    start = len(known.rows)
    if [row.revision for row in rows[start:]] != list(range(start + 1, base.revision + 1)):
        raise CorruptSnapshotError(key, f"the history does not run from 1 to {base.revision}")
    return tuple(ledger_after(known.ledger, known.revision, rows, base.revision))


def _snapshot(
    kind: type[Snapshot], name: str, known: Base, base: Base, before: Snapshot | None, *, key: str
) -> Snapshot | None:
    ref = base.checkpoint.parts()[name]
    if ref is None or ref == known.checkpoint.parts()[name]:
        return None if ref is None else before
    return snapshot_in(kind, _bytes(base, name), ref, key=key)


def _bytes(base: Base, name: str) -> bytes:
    """Return the bytes of a part; of one that a commit did not keep nothing is known."""
    held = base.parts.of(name, base.checkpoint.parts()[name])
    if held is None or not isinstance(held.data, bytes):
        raise _NotContinuedError
    return held.data
