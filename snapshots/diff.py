"""What differs between two loaded revisions: of one session, of a parent and its fork, or of any two.

Rules:
1. No request is made: everything follows from what was loaded.
2. Parts of equal refs are equal and not looked at; so are the nodes of a graph with which the other one begins.
3. Content is compared, not bookkeeping: a rewind is identical to the revision it went back to.
4. Values of tools, plugins, policy and turn are compared in their stored form: a setting at its default is missing.

    found = diff(load(environment, "s1", revision=3, …), load(environment, "s1", revision=5, …))
    found.identical, found.nodes.added, [change.name for change in found.tools.changes]
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snapshots import codec
from snapshots.base import Base
from snapshots.changes import Change, changes
from snapshots.restore import Loaded
from snapshots.state import (
    PluginSessionSnapshot,
    PluginSnapshot,
    SessionNodeRecord,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
    nodes_to_plain,
)
from storage.digest import BlobRef, blob_ref
from storage.extents import Extent


@dataclass(frozen=True, slots=True)
class RevisionId:
    """Which revision was compared."""

    session_id: str
    revision: int
    checkpoint_ref: BlobRef


@dataclass(frozen=True, slots=True)
class NodesDiff:
    """What differs between the graphs. Ids are in the order of the graph they are taken from.

    Attributes:
        added: Ids of nodes that only b has.
        removed: Ids of nodes that only a has.
        changed: Ids that both have, with other content.
        reordered: Whether the nodes that both have stand in another order.
        leaf_before: The leaf of a.
        leaf_after: The leaf of b.
        messages_added: Number of added nodes that are messages, hidden ones included, by role.
        tombstones_added: Ids that only b holds a tombstone for.
        tombstones_removed: Ids that only a does.
    """

    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    reordered: bool
    leaf_before: str | None
    leaf_after: str | None
    messages_added: Mapping[str, int]
    tombstones_added: tuple[str, ...]
    tombstones_removed: tuple[str, ...]

    @property
    def identical(self) -> bool:
        """Whether the graphs are equal, leaf and tombstones included."""
        moved = self.leaf_before != self.leaf_after or self.reordered
        found = (self.added, self.removed, self.changed, self.tombstones_added, self.tombstones_removed)
        return not moved and not any(found)


@dataclass(frozen=True, slots=True)
class ToolsDiff:
    """What differs between the tool states. Names are sorted.

    Attributes:
        before: Blob of a's tool state, None without one.
        after: Blob of b's.
        added: Names of tools that only b has.
        removed: Names that only a has.
        changed: Names that both have, with other settings.
        changes: Every change, by path within the tool state (`tools.search.manifest.description`).
        generation_before: The caller's counter in a.
        generation_after: In b.
    """

    before: BlobRef | None
    after: BlobRef | None
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    changes: tuple[Change, ...]
    generation_before: int | None
    generation_after: int | None

    @property
    def identical(self) -> bool:
        """Whether both tool states say the same, or neither exists."""
        same = _both_or_neither(self.before, self.after) and self.generation_before == self.generation_after
        return same and not self.changes


@dataclass(frozen=True, slots=True)
class ArtifactChange:
    """Artifacts of one name that changed; a plugin may have several of a name, in order of writing.

    Attributes:
        plugin_id: Whose they are.
        name: Their name.
        before: Digest and size of each in a; empty for none.
        after: In b.
    """

    plugin_id: str
    name: str
    before: tuple[BlobRef, ...]
    after: tuple[BlobRef, ...]


@dataclass(frozen=True, slots=True)
class PluginsDiff:
    """What differs between the plugin snapshots. Ids are sorted.

    Attributes:
        before: Blob of a's plugin snapshot, None without one.
        after: Blob of b's.
        added: Ids of plugins that only b has.
        removed: Ids that only a has.
        changed: Ids that both have, with another meta, state or artifact.
        changes: Every change, by path within the snapshot (`plugins.memory.meta.state.count`); of artifacts only the
            list of their names.
        artifacts: Artifacts whose bytes changed.
        revision_before: The caller's counter in a.
        revision_after: In b.
    """

    before: BlobRef | None
    after: BlobRef | None
    added: tuple[str, ...]
    removed: tuple[str, ...]
    changed: tuple[str, ...]
    changes: tuple[Change, ...]
    artifacts: tuple[ArtifactChange, ...]
    revision_before: int | None
    revision_after: int | None

    @property
    def identical(self) -> bool:
        """Whether both plugin snapshots say the same, or neither exists."""
        same = _both_or_neither(self.before, self.after) and self.revision_before == self.revision_after
        return same and not self.changes and not self.artifacts


@dataclass(frozen=True, slots=True)
class ExecutionDiff:
    """What differs between the execution states, which are opaque.

    *Shared* are the bytes of b that are stored once for both: its extents that are extents of a's execution state as
    well (same pack, frame, skip and length). Equal execution states share everything, wherever they lie. Different
    ones share nothing across families or stores, since their packs are different ones; nor do equal bytes count that
    were stored twice.

    Attributes:
        before: Blob of a's execution state, None without one.
        after: Blob of b's.
        shared_bytes: Bytes of b that are shared with a.
        new_bytes: The other bytes of b.
    """

    before: BlobRef | None
    after: BlobRef | None
    shared_bytes: int
    new_bytes: int

    @property
    def identical(self) -> bool:
        """Whether they are the same bytes, or neither exists."""
        return self.before == self.after


@dataclass(frozen=True, slots=True)
class UsageDiff:
    """What differs in the counts of tokens.

    Attributes:
        ledger: What b's ledger has more than a's, per source and model, sorted by both; negative where a has more.
        token_usage_before: Occupation of the context window in a.
        token_usage_after: In b.
    """

    ledger: tuple[TokenLedgerEntry, ...]
    token_usage_before: TokenUsage
    token_usage_after: TokenUsage

    @property
    def identical(self) -> bool:
        """Whether all counts are equal."""
        return not self.ledger and self.token_usage_before == self.token_usage_after


@dataclass(frozen=True, slots=True)
class SessionDiff:
    """What has to happen to revision `a` to make it `b`.

    Attributes:
        a: The one revision.
        b: The other.
        nodes: The graph.
        tools: The tool state.
        plugins: The plugin snapshot.
        execution: The execution state.
        usage: Ledger and context window.
        policy: Fields of the policy that changed.
        turn: Fields of the turn state that changed, but for the context window, which stands in `usage`.
    """

    a: RevisionId
    b: RevisionId
    nodes: NodesDiff
    tools: ToolsDiff
    plugins: PluginsDiff
    execution: ExecutionDiff
    usage: UsageDiff
    policy: tuple[Change, ...]
    turn: tuple[Change, ...]

    @property
    def identical(self) -> bool:
        """Whether both revisions have the same content (rule 3)."""
        parts = (self.nodes, self.tools, self.plugins, self.execution, self.usage)
        return all(part.identical for part in parts) and not self.policy and not self.turn


def diff(a: Loaded, b: Loaded) -> SessionDiff:
    """Return what differs between two revisions, as they were loaded; their execution states are not needed."""
    old, new = a.base.checkpoint.small, b.base.checkpoint.small
    return SessionDiff(
        a=_id(a.base),
        b=_id(b.base),
        nodes=_nodes(a, b),
        tools=_tools(a, b),
        plugins=_plugins(a, b),
        execution=_execution(a.base, b.base),
        usage=UsageDiff(_ledger(a.base.ledger, b.base.ledger), old.turn.token_usage, new.turn.token_usage),
        policy=changes(old.policy.model_dump(), new.policy.model_dump()),
        turn=changes(old.turn.model_dump(exclude={"token_usage"}), new.turn.model_dump(exclude={"token_usage"})),
    )


def _id(base: Base) -> RevisionId:
    assert base.checkpoint_ref is not None, "what was loaded was committed"
    return RevisionId(base.head.session_id, base.revision, base.checkpoint_ref)


def _both_or_neither(before: BlobRef | None, after: BlobRef | None) -> bool:
    return (before is None) == (after is None)


# The graph.


def _nodes(a: Loaded, b: Loaded) -> NodesDiff:
    skipped = _nodes_in_common(a.base, b.base)
    old, new = a.state.session_graph.nodes[skipped:], b.state.session_graph.nodes[skipped:]
    old_ids = dict.fromkeys(node.node_id for node in old)
    new_ids = dict.fromkeys(node.node_id for node in new)
    added = tuple(node for node in new if node.node_id not in old_ids)
    appeared, vanished = _tombstones(a, b)
    return NodesDiff(
        added=tuple(node.node_id for node in added),
        removed=tuple(node_id for node_id in old_ids if node_id not in new_ids),
        changed=_changed_ids(
            [node for node in old if node.node_id in new_ids], [node for node in new if node.node_id in old_ids]
        ),
        reordered=[one for one in old_ids if one in new_ids] != [one for one in new_ids if one in old_ids],
        leaf_before=a.base.checkpoint.small.leaf_node_id,
        leaf_after=b.base.checkpoint.small.leaf_node_id,
        messages_added=_by_role(added),
        tombstones_added=appeared,
        tombstones_removed=vanished,
    )


def _nodes_in_common(a: Base, b: Base) -> int:
    """Return how many nodes both graphs begin with if one of them is the beginning of the other, 0 if not (rule 2)."""
    assert a.graph is not None, "what was loaded has its graph"
    assert b.graph is not None, "what was loaded has its graph"
    shorter, longer = sorted((a.graph, b.graph), key=lambda log: log.at.ref.size_bytes)
    size = shorter.at.ref.size_bytes
    return shorter.at.count if longer.between(0, size) == shorter.between(0, size) else 0


def _changed_ids(old: Sequence[SessionNodeRecord], new: Sequence[SessionNodeRecord]) -> tuple[str, ...]:
    """Return the ids whose nodes would be stored as other bytes: `==` would take 1 for true."""
    stored = {plain["node_id"]: codec.encode(plain) for plain in nodes_to_plain(old)}
    return tuple(plain["node_id"] for plain in nodes_to_plain(new) if codec.encode(plain) != stored[plain["node_id"]])


def _by_role(nodes: Iterable[SessionNodeRecord]) -> Mapping[str, int]:
    counts = Counter[str](node.message.role for node in nodes if node.message is not None)
    return dict(sorted(counts.items()))


def _tombstones(a: Loaded, b: Loaded) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if a.base.checkpoint.tombstones == b.base.checkpoint.tombstones:
        return (), ()
    old, new = a.state.session_graph.tombstoned_node_ids, b.state.session_graph.tombstoned_node_ids
    return _names_without(new, old), _names_without(old, new)


# Tools and plugins.


def _tools(a: Loaded, b: Loaded) -> ToolsDiff:
    before, after = a.base.checkpoint.tool_state, b.base.checkpoint.tool_state
    equal = before == after
    old = _tools_plain(None if equal else a.state.tool_state_snapshot)
    new = _tools_plain(None if equal else b.state.tool_state_snapshot)
    found = changes(old, new)
    return ToolsDiff(
        before=before,
        after=after,
        added=_names_without(new["tools"], old["tools"]),
        removed=_names_without(old["tools"], new["tools"]),
        changed=_names_changed(found, old["tools"].keys() & new["tools"].keys()),
        changes=found,
        generation_before=a.base.checkpoint.small.tool_state_generation,
        generation_after=b.base.checkpoint.small.tool_state_generation,
    )


def _tools_plain(tools: ToolState | None) -> dict[str, Any]:
    return {"tools": {}} if tools is None else tools.model_dump()


def _plugins(a: Loaded, b: Loaded) -> PluginsDiff:
    before, after = a.base.checkpoint.plugin_snapshot, b.base.checkpoint.plugin_snapshot
    equal = before == after
    old = _plugins_of(None if equal else a.state.plugin_snapshot)
    new = _plugins_of(None if equal else b.state.plugin_snapshot)
    found = changes(_plugins_plain(old), _plugins_plain(new))
    artifacts = _artifact_changes(old, new)
    both = old.keys() & new.keys()
    with_artifacts = {change.plugin_id for change in artifacts} & both
    return PluginsDiff(
        before=before,
        after=after,
        added=_names_without(new, old),
        removed=_names_without(old, new),
        changed=tuple(sorted({*_names_changed(found, both), *with_artifacts})),
        changes=found,
        artifacts=artifacts,
        revision_before=a.base.checkpoint.small.plugin_snapshot_revision,
        revision_after=b.base.checkpoint.small.plugin_snapshot_revision,
    )


def _plugins_of(snapshot: PluginSessionSnapshot | None) -> Mapping[str, PluginSnapshot]:
    return {} if snapshot is None else snapshot.plugins


def _plugins_plain(plugins: Mapping[str, PluginSnapshot]) -> dict[str, Any]:
    plain = {}
    for plugin_id, entry in plugins.items():
        names = [artifact.name for artifact in entry.artifacts]
        plain[plugin_id] = {"meta": entry.meta.model_dump(), "artifacts": names}
    return {"plugins": plain}


def _artifact_changes(
    old: Mapping[str, PluginSnapshot], new: Mapping[str, PluginSnapshot]
) -> tuple[ArtifactChange, ...]:
    before, after = _artifacts(old), _artifacts(new)
    return tuple(
        ArtifactChange(plugin_id, name, before.get((plugin_id, name), ()), after.get((plugin_id, name), ()))
        for plugin_id, name in sorted(before.keys() | after.keys())
        if before.get((plugin_id, name)) != after.get((plugin_id, name))
    )


def _artifacts(plugins: Mapping[str, PluginSnapshot]) -> dict[tuple[str, str], tuple[BlobRef, ...]]:
    found: dict[tuple[str, str], tuple[BlobRef, ...]] = {}
    for plugin_id, entry in plugins.items():
        for artifact in entry.artifacts:
            key = (plugin_id, artifact.name)
            found[key] = (*found.get(key, ()), blob_ref(artifact.data))
    return found


def _names_without(names: Iterable[str], others: Iterable[str]) -> tuple[str, ...]:
    left_out = frozenset(others)
    return tuple(name for name in names if name not in left_out)


def _names_changed(found: Iterable[Change], names: Iterable[str]) -> tuple[str, ...]:
    """Return which of the entries `names`, one level below the root's only map, have changes."""
    changed = {change.path[1] for change in found if len(change.path) > 1}
    return tuple(sorted(name for name in names if name in changed))


# The execution state and the counts.


def _execution(a: Base, b: Base) -> ExecutionDiff:
    before, after = a.checkpoint.execution_state, b.checkpoint.execution_state
    size = 0 if after is None else after.size_bytes
    shared = size if before == after else _shared_bytes(a, before, b, after)
    return ExecutionDiff(before, after, shared_bytes=shared, new_bytes=size - shared)


def _shared_bytes(a: Base, before: BlobRef | None, b: Base, after: BlobRef | None) -> int:
    if before is None or after is None or (a.home, a.head.family) != (b.home, b.head.family):
        return 0
    held = _covered(a.placement.extents[before.digest])
    return sum(_length_in(held, extent) for extent in b.placement.extents[after.digest])


_Stretches = dict[tuple[str, int], list[tuple[int, int]]]


def _covered(extents: Iterable[Extent]) -> _Stretches:
    """Return the stretches of each frame that the extents cover, in order, without overlaps."""
    found: _Stretches = {}
    for extent in sorted(extents):
        stretches = found.setdefault((extent.pack, extent.offset), [])
        start, end = extent.skip, extent.skip + extent.length
        if stretches and start <= stretches[-1][1]:
            stretches[-1] = (stretches[-1][0], max(end, stretches[-1][1]))
        else:
            stretches.append((start, end))
    return found


def _length_in(held: _Stretches, extent: Extent) -> int:
    """Return how many bytes of an extent lie in the stretches."""
    start, end = extent.skip, extent.skip + extent.length
    stretches = held.get((extent.pack, extent.offset), ())
    return sum(max(0, min(end, last) - max(start, first)) for first, last in stretches)


def _ledger(before: Sequence[TokenLedgerEntry], after: Sequence[TokenLedgerEntry]) -> tuple[TokenLedgerEntry, ...]:
    old, new = _sums(before), _sums(after)
    deltas = {
        key: new.get(key, TokenUsage()).subtract(old.get(key, TokenUsage())) for key in sorted(old.keys() | new.keys())
    }
    return tuple(
        TokenLedgerEntry(source=source, model=model, usage=delta)
        for (source, model), delta in deltas.items()
        if not delta.is_zero()
    )


def _sums(ledger: Iterable[TokenLedgerEntry]) -> dict[tuple[str, str], TokenUsage]:
    sums: dict[tuple[str, str], TokenUsage] = {}
    for entry in ledger:
        sums[entry.key] = sums.get(entry.key, TokenUsage()).add(entry.usage)
    return sums
