"""Differences of real revisions: every pair of a session against what was done to it, forks, rewinds, strangers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from snapshots import (
    Message,
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionGraph,
    SessionPolicy,
    SnapshotRepository,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
)
from snapshots.base import Base, tracking_of
from snapshots.changes import MISSING, Change
from snapshots.diff import ArtifactChange, ExecutionDiff, RevisionId, SessionDiff, diff
from snapshots.restore import Loaded
from snapshots.state import (
    ModeTurnOptions,
    PluginArtifact,
    PluginPayload,
    PluginSnapshot,
    PluginSnapshotMeta,
    PromptUsage,
    ToolDiscovery,
    ToolEntry,
    ToolManifest,
)
from storage.digest import blob_ref
from storage.extents import Extent
from tests.integration.builders import SESSION, add_usage, message, new_session, take_turn
from tests.integration.turns import take
from tests.snapshots.state import builders

TURNS = 20


@pytest.fixture
def repo() -> Iterator[SnapshotRepository]:
    with SnapshotRepository.open("memory:") as opened:
        yield opened


def at(repo: SnapshotRepository, revision: int | None = None, session_id: str = SESSION) -> Loaded:
    state = repo.load(session_id, revision)
    base = tracking_of(state).base
    assert base is not None
    return Loaded(state, base)


def turns(repo: SnapshotRepository, count: int = TURNS, session_id: str = SESSION) -> PersistedSessionState:
    """Commit `count` turns, one message each, as `tests.integration.turns` takes them."""
    state = PersistedSessionState(session_id=session_id)
    for turn in range(1, count + 1):
        repo.commit(state, execution_state=take(state, turn))
    return state


def between(repo: SnapshotRepository, state: PersistedSessionState) -> SessionDiff:
    """Commit `state`; return what that changed, whichever way it is looked at."""
    revision = repo.commit(state).head_revision
    there = diff(at(repo, revision - 1), at(repo, revision))
    back = diff(at(repo, revision), at(repo, revision - 1))
    assert_opposite(there, back)
    return there


def assert_opposite(there: SessionDiff, back: SessionDiff) -> None:
    assert (there.a, there.b) == (back.b, back.a)
    assert there.identical == back.identical
    for mine, theirs in ((there.nodes, back.nodes), (there.tools, back.tools), (there.plugins, back.plugins)):
        assert (mine.added, mine.removed) == (theirs.removed, theirs.added)
        assert set(mine.changed) == set(theirs.changed)
    for mine_changes, their_changes in (
        (there.tools.changes, back.tools.changes),
        (there.plugins.changes, back.plugins.changes),
        (there.policy, back.policy),
        (there.turn, back.turn),
    ):
        assert mine_changes == tuple(Change(one.path, one.after, one.before) for one in their_changes)
    negative = [
        TokenLedgerEntry(source=row.source, model=row.model, usage=TokenUsage().subtract(row.usage))
        for row in back.usage.ledger
    ]
    assert list(there.usage.ledger) == negative


def described(found: Sequence[Change]) -> dict[str, tuple[Any, Any]]:
    return {change.name: (change.before, change.after) for change in found}


# Equal content.


def test_a_revision_is_identical_to_itself(repo: SnapshotRepository) -> None:
    turns(repo, 5)
    found = diff(at(repo, 3), at(repo, 3))
    assert found.identical
    assert found.a == found.b == RevisionId(SESSION, 3, at(repo, 3).base.checkpoint_ref or blob_ref(b""))
    assert found.execution.new_bytes == 0
    assert found.execution.shared_bytes > 0


def test_a_rewind_is_identical_to_the_revision_it_went_back_to(repo: SnapshotRepository) -> None:
    turns(repo, 5)
    repo.rewind(SESSION, 2)
    found = diff(at(repo, 2), at(repo))
    assert found.identical
    assert found.a.checkpoint_ref != found.b.checkpoint_ref
    taken_back = diff(at(repo, 5), at(repo))
    assert taken_back.nodes.removed == ("m3", "m4", "m5")
    assert [(row.model, row.usage.input_tokens) for row in taken_back.usage.ledger] == [("cache", 0), ("large", -12)]
    assert taken_back.usage.ledger[0].usage.cached_input_tokens == -5


def test_the_facade_compares_what_it_loads(repo: SnapshotRepository) -> None:
    turns(repo, 3)
    assert repo.diff((SESSION, 1), SESSION) == diff(at(repo, 1), at(repo, 3))


# The graph.


def test_every_pair_of_revisions_differs_by_its_turns(repo: SnapshotRepository) -> None:
    turns(repo)
    loaded = {revision: at(repo, revision) for revision in range(1, TURNS + 1)}
    for a, old in loaded.items():
        for b, new in loaded.items():
            found = diff(old, new)
            assert found.nodes.added == tuple(f"m{turn}" for turn in range(a + 1, b + 1))
            assert found.nodes.removed == tuple(f"m{turn}" for turn in range(b + 1, a + 1))
            assert found.nodes.changed == ()
            assert found.nodes.messages_added == ({"User": b - a} if b > a else {})
            assert (found.nodes.leaf_before, found.nodes.leaf_after) == (f"m{a}", f"m{b}")
            assert sum(row.usage.output_tokens for row in found.usage.ledger) == b - a
            assert described(found.turn) == ({} if a == b else {"turn_index": (a, b)})
            assert found.identical == (a == b)


def test_messages_are_counted_by_role(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "m1")
    repo.commit(state)
    for message_id, role in (("a1", "Assistant"), ("a2", "Assistant"), ("u1", "User")):
        added = Message(id=message_id, role=role)
        state.append_session_nodes([added])
    state.session_graph.append_tool_call(builders.call("c1"))
    found = between(repo, state).nodes
    assert len(found.added) == 4
    assert found.messages_added == {"Assistant": 2, "User": 1}


def test_a_leaf_that_moves_back_removes_nothing(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "m1", "m2")
    repo.commit(state)
    state.session_graph.branch_to(None)
    found = between(repo, state)
    assert (found.nodes.leaf_before, found.nodes.leaf_after) == ("m2", None)
    assert found.nodes.added == found.nodes.removed == found.nodes.changed == ()
    assert not found.identical


@pytest.mark.parametrize(("before", "after"), [(1, True), (1, 1.0), (None, 0), ({"a": None}, {}), ([1], [1, 2])])
def test_a_node_of_the_same_id_and_other_content_is_changed(repo: SnapshotRepository, before: Any, after: Any) -> None:
    def graph(body: Any) -> SessionGraph:
        nodes = [
            builders.node("m1"),
            builders.node("p1", "m1", payload=PluginPayload(plugin_type="t", body=body)),
            builders.node("m2", "p1"),
        ]
        return SessionGraph.from_nodes(nodes, "m2")

    state = PersistedSessionState(session_id=SESSION, session_graph=graph(before))
    repo.commit(state)
    state.session_graph = graph(after)
    state.graph_replace_required = True
    found = between(repo, state).nodes
    assert found.changed == ("p1",)
    assert found.added == found.removed == ()
    assert not found.reordered
    assert not found.identical


def test_nodes_in_another_order_are_not_identical(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    state.session_graph = SessionGraph.from_nodes([builders.node("m1"), builders.node("m2")], "m1")
    repo.commit(state)
    state.session_graph = SessionGraph.from_nodes([builders.node("m2"), builders.node("m1")], "m1")
    state.graph_replace_required = True
    found = between(repo, state)
    assert found.nodes.reordered
    assert found.nodes.added == found.nodes.removed == found.nodes.changed == ()
    assert not found.identical


def test_hidden_nodes_are_told_from_removed_ones(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "m1", "m2", "m3")
    repo.commit(state)
    state.session_graph.branch_to("m1")
    repo.commit(state)
    state.session_graph.tombstone_nodes(["m2", "m3"])
    hidden = between(repo, state)
    assert (hidden.nodes.tombstones_added, hidden.nodes.tombstones_removed) == (("m2", "m3"), ())
    assert hidden.nodes.added == hidden.nodes.removed == hidden.nodes.changed == ()
    assert not hidden.identical
    state.session_graph.vacuum()
    gone = between(repo, state).nodes
    assert (gone.tombstones_added, gone.tombstones_removed) == ((), ("m2", "m3"))
    assert gone.removed == ("m2", "m3")


def test_nodes_of_a_graph_with_which_the_other_begins_are_not_looked_at(repo: SnapshotRepository) -> None:
    turns(repo, 3)
    a, b = at(repo, 2), at(repo, 3)
    a.state.session_graph = SessionGraph.from_nodes([builders.node("x1"), builders.node("x2")], None)
    found = diff(a, b).nodes
    assert (found.added, found.removed, found.changed) == (("m3",), (), ())


# Tools and plugins.


def tool(name: str, description: str = "", **fields: Any) -> ToolEntry:
    return ToolEntry(
        manifest=ToolManifest(id=f"id of {name}", name=name, description=description, **fields), source_id="core"
    )


def tools(generation: int, *entries: ToolEntry) -> ToolState:
    return ToolState(generation=generation, tools={entry.manifest.name: entry for entry in entries})


def test_tools_are_compared_key_by_key(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    state.stamp_runtime_state(tools(1, tool("gone"), tool("same"), tool("search", "old")), None)
    repo.commit(state)
    search = tool("search", "new", discovery=ToolDiscovery(aliases=("find",)), compact_contract={"calls": None})
    state.stamp_runtime_state(tools(2, tool("added"), tool("same"), search), None)
    found = between(repo, state).tools
    assert (found.added, found.removed, found.changed) == (("added",), ("gone",), ("search",))
    assert (found.generation_before, found.generation_after) == (1, 2)
    assert described(found.changes) == {
        "generation": (1, 2),
        "tools.added": (MISSING, tool("added").model_dump()),
        "tools.gone": (tool("gone").model_dump(), MISSING),
        "tools.search.manifest.compact_contract": (MISSING, {"calls": None}),
        "tools.search.manifest.description": ("old", "new"),
        "tools.search.manifest.discovery": (MISSING, {"aliases": ["find"]}),
    }


def test_a_first_tool_state_adds_its_tools(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "m1")
    repo.commit(state)
    state.stamp_runtime_state(tools(0, tool("a"), tool("b")), None)
    found = between(repo, state).tools
    assert found.added == ("a", "b")
    assert found.before is None
    assert found.after == state.tool_state_ref
    assert [change.name for change in found.changes] == ["generation", "tools.a", "tools.b"]


def test_an_empty_part_is_not_a_missing_one(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "m1")
    repo.commit(state)
    state.stamp_runtime_state(None, PluginSessionSnapshot())
    found = between(repo, state)
    assert not found.plugins.identical
    assert not found.identical
    assert found.plugins.changes == ()
    assert (found.plugins.before, found.plugins.after) == (None, state.plugin_snapshot_ref)


def plugin(plugin_id: str, state: Any = None, *artifacts: tuple[str, bytes], revision: int = 0) -> PluginSnapshot:
    meta = PluginSnapshotMeta(plugin_id=plugin_id, plugin_version="1", revision=revision, state=state)
    return PluginSnapshot(meta=meta, artifacts=tuple(PluginArtifact(name=name, data=data) for name, data in artifacts))


def plugins(*entries: PluginSnapshot) -> PluginSessionSnapshot:
    return PluginSessionSnapshot(plugins={entry.meta.plugin_id: entry for entry in entries})


def test_plugins_are_compared_key_by_key(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    before = plugins(plugin("gone"), plugin("memory", {"count": 1, "kept": [1]}), plugin("same", [None]))
    state.stamp_runtime_state(None, before)
    repo.commit(state)
    after = plugins(plugin("added"), plugin("memory", {"count": 2, "kept": [1]}, revision=7), plugin("same", [None]))
    state.stamp_runtime_state(None, after)
    found = between(repo, state).plugins
    assert (found.added, found.removed, found.changed) == (("added",), ("gone",), ("memory",))
    assert found.artifacts == ()
    assert described(found.changes) == {
        "plugins.added": (MISSING, {"meta": after.plugins["added"].meta.model_dump(), "artifacts": []}),
        "plugins.gone": ({"meta": before.plugins["gone"].meta.model_dump(), "artifacts": []}, MISSING),
        "plugins.memory.meta.revision": (0, 7),
        "plugins.memory.meta.state.count": (1, 2),
    }


def test_artifacts_are_told_by_digest_and_size_alone(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    before = plugin("p", None, ("index", b"secret 1"), ("table", b"secret 2"), ("same", b"secret 3"))
    state.stamp_runtime_state(None, plugins(before))
    repo.commit(state)
    after = plugin("p", None, ("index", b"secret 4!"), ("table", b"secret 2"), ("same", b"secret 3"), ("table", b""))
    state.stamp_runtime_state(None, plugins(after))
    found = between(repo, state)
    assert found.plugins.changed == ("p",)
    assert found.plugins.artifacts == (
        ArtifactChange("p", "index", (blob_ref(b"secret 1"),), (blob_ref(b"secret 4!"),)),
        ArtifactChange("p", "table", (blob_ref(b"secret 2"),), (blob_ref(b"secret 2"), blob_ref(b""))),
    )
    assert described(found.plugins.changes) == {"plugins.p.artifacts[3]": (MISSING, "table")}
    assert "secret" not in repr(found)


def test_a_plugin_with_other_bytes_is_changed_a_new_one_is_added(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    state.stamp_runtime_state(None, plugins(plugin("gone", None, ("a", b"1")), plugin("p", None, ("a", b"1"))))
    repo.commit(state)
    state.stamp_runtime_state(None, plugins(plugin("new", None, ("a", b"1")), plugin("p", None, ("a", b"2"))))
    found = between(repo, state).plugins
    assert (found.added, found.removed, found.changed) == (("new",), ("gone",), ("p",))
    assert [change.plugin_id for change in found.artifacts] == ["gone", "new", "p"]


def test_artifacts_in_another_order_are_not_identical(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    state.stamp_runtime_state(None, plugins(plugin("p", None, ("a", b"1"), ("b", b"2"))))
    repo.commit(state)
    state.stamp_runtime_state(None, plugins(plugin("p", None, ("b", b"2"), ("a", b"1"))))
    found = between(repo, state).plugins
    assert found.artifacts == ()
    assert described(found.changes) == {"plugins.p.artifacts[0]": ("a", "b"), "plugins.p.artifacts[1]": ("b", "a")}
    assert found.changed == ("p",)


# The execution state.


def test_an_execution_state_comes_changes_and_goes(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "m1")
    repo.commit(state)
    one, two = blob_ref(b"1" * 1000), blob_ref(b"2" * 1200)
    repo.commit(state, execution_state=b"1" * 1000)
    repo.commit(take_turn(state, "m2"))
    repo.commit(state, execution_state=b"2" * 1200)
    state.set_execution_state_snapshot(None)
    repo.commit(state)
    steps = [diff(at(repo, revision), at(repo, revision + 1)).execution for revision in range(1, 5)]
    assert steps == [
        ExecutionDiff(None, one, shared_bytes=0, new_bytes=1000),
        ExecutionDiff(one, one, shared_bytes=1000, new_bytes=0),
        ExecutionDiff(one, two, shared_bytes=0, new_bytes=1200),
        ExecutionDiff(two, None, shared_bytes=0, new_bytes=0),
    ]
    assert [step.identical for step in steps] == [False, True, False, False]


PACK = "0" * 32 + "." + "0" * 16
OTHER_PACK = "1" * 32 + "." + "1" * 16


def placed(loaded: Loaded, data: bytes, *extents: Extent) -> Loaded:
    """Return `loaded` with an execution state that lies in these extents."""
    base = loaded.base
    assert sum(extent.length for extent in extents) == len(data)
    places = {**base.placement.extents, blob_ref(data).digest: extents}
    return Loaded(
        loaded.state,
        replace(
            base,
            checkpoint=replace(base.checkpoint, execution_state=blob_ref(data)),
            placement=replace(base.placement, extents=places),
        ),
    )


@pytest.mark.parametrize(
    ("extents", "shared_bytes"),
    [
        ([Extent(PACK, 0, 90, 0, 100), Extent(PACK, 90, 80, 0, 50)], 150),
        ([Extent(PACK, 90, 80, 0, 50), Extent(PACK, 90, 80, 0, 50), Extent(PACK, 200, 80, 0, 50)], 100),
        ([Extent(PACK, 0, 90, 0, 100), Extent(OTHER_PACK, 90, 80, 0, 50)], 100),
        ([Extent(PACK, 1, 90, 0, 100), Extent(PACK, 90, 80, 0, 50)], 50),
        ([Extent(PACK, 0, 90, 1, 100), Extent(PACK, 90, 80, 0, 50)], 149),
        ([Extent(PACK, 0, 90, 0, 99), Extent(PACK, 90, 80, 0, 51)], 149),
        ([Extent(PACK, 0, 90, 40, 20), Extent(PACK, 0, 90, 10, 60), Extent(PACK, 90, 80, 0, 70)], 130),
        ([Extent(PACK, 0, 90, 100, 100), Extent(PACK, 90, 80, 50, 50)], 0),
    ],
)
def test_shared_are_the_bytes_that_lie_in_the_very_same_place(
    repo: SnapshotRepository, extents: list[Extent], shared_bytes: int
) -> None:
    repo.commit(new_session(SESSION, "m1"))
    a = placed(at(repo), b"a" * 150, Extent(PACK, 0, 90, 0, 100), Extent(PACK, 90, 80, 0, 50))
    b = placed(at(repo), b"b" * 150, *extents)
    found = diff(a, b).execution
    assert (found.shared_bytes, found.new_bytes) == (shared_bytes, 150 - shared_bytes)


def test_what_several_extents_cover_together_is_shared_once(repo: SnapshotRepository) -> None:
    repo.commit(new_session(SESSION, "m1"))
    pieces = [Extent(PACK, 0, 90, 60, 40), Extent(PACK, 0, 90, 0, 50), Extent(PACK, 0, 90, 20, 30)]
    a = placed(at(repo), b"a" * 120, *pieces)
    b = placed(at(repo), b"b" * 110, Extent(PACK, 0, 90, 0, 110))
    found = diff(a, b).execution
    assert (found.shared_bytes, found.new_bytes) == (90, 20)


def in_family(base: Base, family: str) -> Base:
    return replace(base, head=replace(base.head, family=family))


def test_packs_of_another_family_or_store_are_other_packs(repo: SnapshotRepository) -> None:
    repo.commit(new_session(SESSION, "m1"))
    extent = Extent(PACK, 0, 90, 0, 100)
    a, b = placed(at(repo), b"a" * 100, extent), placed(at(repo), b"b" * 100, extent)
    assert diff(a, b).execution.shared_bytes == 100
    assert diff(a, Loaded(b.state, in_family(b.base, "other"))).execution.shared_bytes == 0
    assert diff(a, Loaded(b.state, replace(b.base, home="elsewhere"))).execution.shared_bytes == 0


# Tokens, policy, turn.


def test_usage_is_the_ledgers_difference_per_source_and_model(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    add_usage(state, "b", TokenUsage(input_tokens=5))
    add_usage(state, "same", TokenUsage(input_tokens=5))
    repo.commit(state)
    add_usage(state, "b", TokenUsage(output_tokens=2))
    add_usage(state, "a", TokenUsage(cached_input_tokens=3))
    state.token_usage = TokenUsage(input_tokens=9)
    found = between(repo, state)
    assert found.usage.ledger == (
        TokenLedgerEntry(source="turn", model="a", usage=TokenUsage(cached_input_tokens=3)),
        TokenLedgerEntry(source="turn", model="b", usage=TokenUsage(output_tokens=2)),
    )
    assert (found.usage.token_usage_before, found.usage.token_usage_after) == (
        TokenUsage(),
        TokenUsage(input_tokens=9),
    )
    assert found.turn == (), "the context window stands in the usage"


def test_usage_of_the_context_window_alone_is_a_difference(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "m1")
    repo.commit(state)
    state.token_usage = TokenUsage(cached_input_tokens=1)
    found = between(repo, state)
    assert not found.usage.identical
    assert not found.identical


def test_policy_and_turn_are_compared_key_by_key(repo: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION, policy=SessionPolicy(model="m", max_turns=3))
    repo.commit(state)
    state.policy = SessionPolicy(model="n", max_context_tokens=10)
    state.turn_index = 4
    state.last_prompt_usage = PromptUsage(prompt_context_tokens=3, input_tokens=2, cached_input_tokens=1)
    state.mode_turn_options = ModeTurnOptions(mode_id="repl", payload={"depth": None})
    found = between(repo, state)
    assert described(found.policy) == {
        "max_context_tokens": (MISSING, 10),
        "max_turns": (3, MISSING),
        "model": ("m", "n"),
    }
    assert described(found.turn) == {
        "last_prompt_usage": (MISSING, state.last_prompt_usage.model_dump()),
        "mode_turn_options.mode_id": ("standard", "repl"),
        "mode_turn_options.payload.depth": (MISSING, None),
        "turn_index": (0, 4),
    }


# Two sessions.


def test_a_fork_differs_by_its_policy_and_an_empty_ledger(repo: SnapshotRepository) -> None:
    turns(repo, 5)
    repo.fork(SESSION, "c1", 3)
    found = diff(at(repo, 3), at(repo, 1, "c1"))
    assert found.nodes.identical
    assert found.tools.identical
    assert found.plugins.identical
    assert found.execution == ExecutionDiff(
        found.execution.before, found.execution.before, shared_bytes=6400, new_bytes=0
    )
    assert described(found.policy) == {"session_id": (MISSING, "c1")}
    assert [(row.model, row.usage.input_tokens) for row in found.usage.ledger] == [("large", -6)]
    assert (found.a.session_id, found.b.session_id) == (SESSION, "c1")


def test_parent_and_child_part_where_they_forked(repo: SnapshotRepository) -> None:
    turns(repo, 3)
    repo.fork(SESSION, "c1", 2)
    child = repo.load("c1")
    child.append_active_conversation_messages([message("m3", "another m3"), message("m4")])
    repo.commit(child)
    found = diff(at(repo), at(repo, None, "c1")).nodes
    assert found.changed == ("m3",)
    assert (found.added, found.removed) == (("m4",), ())


def test_unrelated_sessions_share_what_is_equal(repo: SnapshotRepository) -> None:
    turns(repo, 2)
    other = new_session("s2", "x1", "x2")
    other.stamp_runtime_state(repo.load(SESSION).tool_state_snapshot, None)
    repo.commit(other, execution_state=repo.read_execution_state(repo.load(SESSION)))
    found = diff(at(repo), at(repo, None, "s2"))
    assert (found.nodes.added, found.nodes.removed) == (("x1", "x2"), ("m1", "m2"))
    assert found.tools.identical
    assert found.plugins.removed == ("p",)
    assert found.plugins.after is None
    assert found.execution.identical
    assert found.execution.new_bytes == 0
    assert [(row.model, row.usage.input_tokens) for row in found.usage.ledger] == [("large", -3), ("x", 2)]


def test_equal_sessions_of_two_stores_are_identical() -> None:
    sides = []
    for seed in (1, 2):
        with SnapshotRepository.open("memory:") as repo:
            state = PersistedSessionState(session_id=f"s{seed}")
            state.session_graph = SessionGraph.from_nodes([builders.node("m1")], "m1")
            repo.commit(state, execution_state=b"equal")
            sides.append(at(repo, None, f"s{seed}"))
    assert diff(*sides).identical
