"""`PersistedSessionState`, method by method: what each changes, and what it leaves alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from pydantic import ValidationError

from snapshots.errors import InvalidStateError
from snapshots.state import (
    AppendedNodes,
    CommitManifest,
    CommitResult,
    LeafHealing,
    ModeEvent,
    ModeTurnOptions,
    PersistedSessionState,
    PersistedTurnState,
    PluginFailure,
    PluginPayload,
    PluginSession,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    PluginSnapshotReader,
    PluginSnapshotWriter,
    PromptUsage,
    RuntimeCommitResult,
    SessionGraph,
    SessionPolicy,
    SessionStateEnvelope,
    SessionUsageReport,
    StaleBranch,
    TokenLedgerEntry,
    TokenUsage,
    ToolInvocation,
    ToolState,
    diff_token_ledger,
    merge_ledger_entry,
)
from tests.snapshots.state.builders import call, chain, ids, message, node, raw_graph, ref, transient

ENVELOPE_FIELDS = [
    "session_id",
    "policy",
    "session_graph",
    "turn_index",
    "token_usage",
    "last_prompt_usage",
    "mode_turn_options",
]
LEDGER = TokenLedgerEntry(source="turn", model="m", usage=TokenUsage(input_tokens=3))
PLUGINS = PluginSessionSnapshot(
    plugins={"a": PluginSnapshot(meta=PluginSnapshotMeta(plugin_id="a", plugin_version="1"))}
)
RESULT = CommitResult(
    head_revision=8,
    checkpoint_ref=ref("checkpoint 8"),
    manifest=CommitManifest(
        tool_state_ref=ref("tools 8"),
        plugin_snapshot_ref=ref("plugins 8"),
        plugin_snapshot_revision=88,
        execution_state_ref=ref("execution 8"),
    ),
    commit_id="c8",
)


def full_state() -> PersistedSessionState:
    """Return a state in which every field differs from its default."""
    state = PersistedSessionState(
        session_id="s1",
        policy=SessionPolicy(model="m"),
        session_graph=chain(3),
        turn_index=4,
        token_usage=TokenUsage(input_tokens=1),
        last_prompt_usage=PromptUsage(prompt_context_tokens=1, input_tokens=1, cached_input_tokens=0),
        mode_turn_options=ModeTurnOptions(mode_id="repl", payload={"a": 1}),
        tool_state_ref=ref("tools 7"),
        tool_state_generation=7,
        tool_state_snapshot=ToolState(generation=7),
        plugin_snapshot_ref=ref("plugins 7"),
        plugin_snapshot_revision=77,
        plugin_snapshot=PLUGINS,
        execution_state_ref=ref("execution 7"),
        execution_state_snapshot=b"inline",
        token_ledger=[LEDGER],
        checkpoint_ref=ref("checkpoint 7"),
        head_revision=7,
        graph_replace_required=True,
    )
    state._base = object()
    return state


def changed(before: PersistedSessionState, after: PersistedSessionState) -> set[str]:
    """Return the names of the fields that differ."""
    return {name for name in PersistedSessionState.model_fields if getattr(before, name) != getattr(after, name)}


def test_a_full_state_differs_from_the_default_in_all_19_fields() -> None:
    assert len(PersistedSessionState.model_fields) == 19
    assert changed(PersistedSessionState(), full_state()) == set(PersistedSessionState.model_fields)


def test_the_default_state_is_a_new_session_called_root() -> None:
    state = PersistedSessionState()
    assert state == PersistedSessionState.default()
    assert state.session_id == "root"
    assert state.head_revision is None
    assert state.session_graph == SessionGraph()
    assert state.token_ledger == []


def test_from_state_has_the_content_of_the_envelope_and_no_past() -> None:
    source = full_state()
    state = PersistedSessionState.from_state(source.export_state())
    assert changed(state, source) == set(PersistedSessionState.model_fields) - set(ENVELOPE_FIELDS)
    assert changed(state, PersistedSessionState()) == set(ENVELOPE_FIELDS)
    assert state.head_revision is None
    assert state._base is None
    assert (state.session_graph.committed_count, state.session_graph.only_appended) == (0, True)


def test_from_state_does_not_share_the_graph() -> None:
    envelope = full_state().export_state()
    PersistedSessionState.from_state(envelope).session_graph.append_message(message("x"))
    assert len(envelope.session_graph.nodes) == 3


def test_export_state_clones_the_seven_fields() -> None:
    state = full_state()
    envelope = state.export_state()
    assert list(SessionStateEnvelope.model_fields) == ENVELOPE_FIELDS
    assert all(getattr(envelope, name) == getattr(state, name) for name in ENVELOPE_FIELDS)
    envelope.append_active_read_delta([message("x")], [])
    assert len(state.session_graph.nodes) == 3


def test_apply_exported_state_overwrites_the_seven_fields_only() -> None:
    state, before = full_state(), full_state()
    state.apply_exported_state(SessionStateEnvelope())
    assert changed(state, before) == set(ENVELOPE_FIELDS)
    assert changed(state, PersistedSessionState()) == set(PersistedSessionState.model_fields) - set(ENVELOPE_FIELDS)


def test_apply_exported_state_does_not_share_the_graph() -> None:
    state, envelope = full_state(), full_state().export_state()
    state.apply_exported_state(envelope)
    envelope.append_active_conversation_messages([message("x")])
    assert len(state.session_graph.nodes) == 3


def test_an_envelope_given_back_after_a_turn_only_appends() -> None:
    state = full_state()
    envelope = state.export_state()
    envelope.append_active_read_delta([message("x")], [call("c")])
    state.apply_exported_state(envelope)
    assert (state.session_graph.committed_count, state.session_graph.only_appended) == (3, True)
    assert [one.node_id for one in state.session_graph.new_nodes()] == ["x", "tool:c"]


def test_an_envelope_from_before_a_commit_does_not_pass_for_an_append() -> None:
    state = full_state()
    old = state.export_state()
    state.append_active_read_delta([message("committed")], [])
    state.apply_persisted_commit_result(RESULT)
    old.append_active_read_delta([message("other")], [])
    state.apply_exported_state(old)
    assert not state.session_graph.only_appended


def test_a_graph_assigned_to_a_stored_state_is_compared_with_the_stored_one() -> None:
    state = full_state()
    state.session_graph = SessionGraph.from_active_read_state([message("new")], [])
    assert (state.session_graph.committed_count, state.session_graph.only_appended) == (0, False)
    fresh = PersistedSessionState()
    fresh.session_graph = chain(3)
    assert (fresh.session_graph.committed_count, fresh.session_graph.only_appended) == (
        0,
        True,
    )  # nothing of it is stored in this session


@pytest.mark.parametrize("tools", [None, ToolState(generation=9)])
@pytest.mark.parametrize("plugins", [None, PluginSessionSnapshot()])
def test_stamping_sets_both_snapshots_and_the_generation(
    tools: ToolState | None, plugins: PluginSessionSnapshot | None
) -> None:
    state, before = full_state(), full_state()
    state.stamp_runtime_state(tools, plugins)
    assert state.tool_state_snapshot == tools
    assert state.tool_state_generation == (None if tools is None else 9)
    assert state.plugin_snapshot == plugins
    assert changed(state, before) == {"tool_state_snapshot", "tool_state_generation", "plugin_snapshot"}


def test_the_usage_report_is_that_of_the_ledger() -> None:
    assert full_state().usage_report() == SessionUsageReport.from_entries([LEDGER])


@pytest.mark.parametrize("flag", [True, False])
def test_no_change_of_the_graph_clears_or_sets_the_replace_flag(flag: bool) -> None:
    state = full_state()
    state.graph_replace_required = flag
    before = state.copy()
    state.replace_active_read_state([message("n0"), message("x", calls=("c",))], [call("c")])
    assert ids(state.read_view().messages) == ["n0", "x"]
    state.replace_active_tool_calls([call("c", "other")])
    state.append_active_read_delta([message("y"), transient("t")], [call("d")])
    state.append_active_conversation_messages([message("y"), transient("t")])
    assert [record.stable_key() for record in state.read_view().tool_calls] == ["c", "d"]
    assert changed(state, before) == {"session_graph"}
    envelope = state.export_state()
    envelope.replace_active_read_state([message("z")], [])
    envelope.replace_active_tool_calls([call("e")])
    assert ids(envelope.read_view().messages) == ["z"]
    state.apply_exported_state(envelope)
    assert state.graph_replace_required is flag


def test_only_a_commit_clears_the_replace_flag() -> None:
    state = full_state()
    state.apply_persisted_commit_result(RESULT)
    assert state.graph_replace_required is False


def test_the_read_view_shows_the_active_path() -> None:
    state = full_state()
    event = ModeEvent(mode_id="repl", payload=1)
    state.append_session_nodes([transient("t"), event, PluginPayload(plugin_type="note", body=1)])
    state.append_active_conversation_messages([message("n0"), message("x")])
    state.append_active_read_delta([], [call("c")])
    view = state.read_view()
    for name in ENVELOPE_FIELDS:
        assert getattr(view, name) == getattr(state, name)
    assert ids(view.messages) == ["n0", "n1", "n2", "x"]
    assert view.tool_calls == (call("c"),)
    assert view.active_events == state.session_graph.active_events()
    assert view.message_tree == state.session_graph.message_tree()
    shown = [message("n0"), message("n1"), message("n2"), event, message("x")]
    assert [entry.event for entry in view.chronological_projection] == [
        *shown,
        ToolInvocation(stable_key="c", record=call("c")),
    ]
    assert view.to_owned_state() == state.export_state()


def test_a_read_view_never_changes() -> None:
    state = full_state()
    view = state.read_view()
    before = state.copy()
    state.append_active_read_delta([message("x")], [])
    view.session_graph.append_message(message("y"))
    view.to_owned_state().append_active_read_delta([message("z")], [])
    assert view == before.read_view()
    assert ids(view.messages) == ["n0", "n1", "n2"]
    assert len(view.message_tree.entries) == 3
    with pytest.raises(AttributeError):
        view.turn_index = 5  # type: ignore[misc]  # the refusal is what is tested


def test_a_damaged_path_is_refused_when_the_view_is_made() -> None:
    state = PersistedSessionState(session_graph=raw_graph(node("b", "gone"), leaf="b"))
    with pytest.raises(InvalidStateError, match="'gone'"):
        state.read_view()


def test_the_turn_state_is_what_a_turn_leaves_beside_the_graph() -> None:
    state = full_state()
    assert state.turn_state() == PersistedTurnState(
        turn_index=4,
        token_usage=state.token_usage,
        last_prompt_usage=state.last_prompt_usage,
        mode_turn_options=state.mode_turn_options,
    )


def test_a_commit_result_leaves_only_refs() -> None:
    state, before = full_state(), full_state()
    state.tool_state_generation = 1
    state.apply_persisted_commit_result(RESULT)
    assert state.head_revision == 8
    assert state.checkpoint_ref == RESULT.checkpoint_ref
    assert state.tool_state_ref == RESULT.manifest.tool_state_ref
    assert state.plugin_snapshot_ref == RESULT.manifest.plugin_snapshot_ref
    assert state.plugin_snapshot_revision == 88
    assert state.execution_state_ref == RESULT.manifest.execution_state_ref
    assert state.tool_state_generation == 7  # the inline snapshot's
    assert state.tool_state_snapshot is None
    assert state.plugin_snapshot is None
    assert state.execution_state_snapshot is None
    kept = {*ENVELOPE_FIELDS, "token_ledger", "tool_state_generation"}
    assert changed(state, before) == set(PersistedSessionState.model_fields) - kept


def test_a_commit_result_without_tool_ref_clears_the_generation() -> None:
    state = full_state()
    state.tool_state_snapshot = None
    state.apply_persisted_commit_result(RESULT.model_copy(update={"manifest": CommitManifest()}))
    assert state.tool_state_ref is None
    assert state.tool_state_generation is None
    assert state.plugin_snapshot_revision is None


def test_a_commit_result_with_a_carried_tool_ref_keeps_the_generation() -> None:
    state = full_state()
    state.tool_state_snapshot = None
    state.apply_persisted_commit_result(RESULT)
    assert state.tool_state_generation == 7


def test_a_commit_marks_the_graph_committed() -> None:
    state = full_state()
    state.append_active_read_delta([message("x")], [])
    state.session_graph.branch_to("n0")
    state.session_graph.remove_nodes(["x"])
    state.apply_persisted_commit_result(RESULT)
    assert (state.session_graph.committed_count, state.session_graph.only_appended) == (3, True)


def test_the_runtime_name_of_a_commit_result_is_an_alias() -> None:
    assert RuntimeCommitResult is CommitResult


def test_discarding_drops_the_inline_snapshots_only() -> None:
    state, before = full_state(), full_state()
    state.discard_runtime_snapshots()
    assert changed(state, before) == {"tool_state_snapshot", "plugin_snapshot", "execution_state_snapshot"}


def test_setting_an_execution_state_keeps_the_ref_until_the_commit() -> None:
    state, before = full_state(), full_state()
    state.set_execution_state_snapshot(b"new")
    assert state.execution_state_snapshot == b"new"
    assert changed(state, before) == {"execution_state_snapshot"}


def test_setting_no_execution_state_deletes_it() -> None:
    state, before = full_state(), full_state()
    state.set_execution_state_snapshot(None)
    assert changed(state, before) == {"execution_state_snapshot", "execution_state_ref"}


class Counter:
    """A plugin whose revision is its state."""

    plugin_id = "counter"
    plugin_version = "1"

    def __init__(self) -> None:
        self.revision = 1
        self.fails = False
        self.snapshots = 0

    def snapshot_revision(self) -> int:
        return self.revision

    def snapshot(self, writer: PluginSnapshotWriter) -> PluginSnapshotMeta:
        self.snapshots += 1
        if self.fails:
            raise TimeoutError("too slow")
        writer.write("count", str(self.revision).encode())
        return PluginSnapshotMeta(plugin_id="counter", plugin_version="1", revision=self.revision)

    def restore(self, meta: PluginSnapshotMeta, reader: PluginSnapshotReader) -> None:
        raise NotImplementedError  # not part of these tests


def inline(state: PersistedSessionState) -> tuple[bool, bool]:
    """Whether tool state and plugin snapshot are inline."""
    return state.tool_state_snapshot is not None, state.plugin_snapshot is not None


def commit(state: PersistedSessionState) -> None:
    """Apply what a store would answer: refs for what was inline, the old refs for the rest."""
    manifest = CommitManifest(
        tool_state_ref=state.tool_state_ref if state.tool_state_snapshot is None else ref("tools"),
        plugin_snapshot_ref=state.plugin_snapshot_ref if state.plugin_snapshot is None else ref("plugins"),
        plugin_snapshot_revision=state.plugin_snapshot_revision,
    )
    state.apply_persisted_commit_result(RESULT.model_copy(update={"manifest": manifest}))


def test_refreshing_puts_inline_what_has_no_ref_and_then_only_what_changed() -> None:
    plugin = Counter()
    session = PluginSession([plugin])
    state = PersistedSessionState()
    assert state.refresh_plugin_snapshots(session) == ()
    assert state.tool_state_snapshot == session.tools.export_state()
    assert state.plugin_snapshot == session.snapshot()
    assert state.plugin_snapshot_revision == session.snapshot_revision_fingerprint()
    commit(state)
    plugin.snapshots = 0
    assert state.refresh_plugin_snapshots(session) == ()
    assert inline(state) == (False, False)
    assert plugin.snapshots == 0
    plugin.revision = 2
    state.refresh_plugin_snapshots(session)
    assert inline(state) == (False, True)


def test_refreshing_exports_tools_of_another_generation() -> None:
    session = PluginSession()
    state = PersistedSessionState()
    state.refresh_plugin_snapshots(session)
    commit(state)
    session.tools.apply_state(session.tools.export_state())
    state.refresh_plugin_snapshots(session)
    assert state.tool_state_snapshot == ToolState(generation=1)
    assert state.tool_state_generation == 1


def test_a_failed_plugin_snapshot_is_returned_and_does_not_advance_the_revision() -> None:
    plugin = Counter()
    session = PluginSession([plugin])
    state = PersistedSessionState()
    state.refresh_plugin_snapshots(session)
    commit(state)
    before = state.copy()
    plugin.revision, plugin.fails = 2, True
    assert state.refresh_plugin_snapshots(session) == (
        PluginFailure(plugin_id="counter", reason="TimeoutError: too slow"),
    )
    assert changed(state, before) == set()
    plugin.fails = False
    assert state.refresh_plugin_snapshots(session) == ()
    assert state.plugin_snapshot == session.snapshot()
    assert state.plugin_snapshot_revision == session.snapshot_revision_fingerprint()


def test_discarding_a_refreshed_snapshot_makes_the_next_refresh_take_it_again() -> None:
    plugin = Counter()
    session = PluginSession([plugin])
    state = PersistedSessionState()
    state.refresh_plugin_snapshots(session)
    commit(state)
    stored = state.copy()
    plugin.revision = 2
    session.tools.apply_state(session.tools.export_state())
    state.refresh_plugin_snapshots(session)
    state.stamp_runtime_state(None, state.plugin_snapshot)
    clone = state.copy()
    for one in (state, clone):
        one.discard_runtime_snapshots()
        assert changed(one, stored) == set()
        one.refresh_plugin_snapshots(session)
        assert inline(one) == (True, True)


def test_normalising_heals_the_leaf_and_asks_for_the_whole_graph() -> None:
    state = full_state()
    state.graph_replace_required = False
    assert state.normalize() == LeafHealing(rule="sound", leaf_node_id="n2")
    assert state.graph_replace_required is False
    state.session_graph.set_leaf_node_id("lost")
    healing = state.normalize()
    assert healing == LeafHealing(rule="newest_message", lost_leaf_node_id="lost", leaf_node_id="n2")
    assert state.graph_replace_required is True


def test_session_nodes_are_appended_to_a_healed_leaf() -> None:
    state = PersistedSessionState(session_graph=raw_graph(node("a"), leaf="lost"))
    assert state.append_session_nodes([message("b")]) == AppendedNodes(("b",), "b")
    assert state.graph_replace_required
    assert ids(state.read_view().messages) == ["a", "b"]


def test_session_nodes_go_after_a_required_ancestor_on_the_active_path() -> None:
    state, before = full_state(), full_state()
    appended = state.append_session_nodes([message("x")], requires_ancestor_node_id="n1")
    assert appended == AppendedNodes(("x",), "x")
    assert changed(state, before) == {"session_graph"}
    assert ids(state.read_view().messages) == ["n0", "n1", "n2", "x"]


def test_a_stale_branch_changes_nothing_and_heals_nothing() -> None:
    state = PersistedSessionState(session_graph=raw_graph(node("a"), leaf="lost"))
    before = state.copy()
    assert state.append_session_nodes([message("b")], requires_ancestor_node_id="a") == StaleBranch("lost")
    assert changed(state, before) == set()
    assert state.session_graph.leaf_node_id == "lost"


def test_a_view_along_another_branch_does_not_move_the_leaf() -> None:
    state = full_state()
    state.session_graph.branch_to("n0")
    state.append_active_read_delta([message("x")], [])
    before = state.copy()
    view = state.read_view(leaf_node_id="n1")
    assert ids(view.messages) == ["n0", "n1"]
    assert {entry.node_id for entry in view.message_tree.entries if entry.active} == {"n0", "n1"}
    assert len(view.message_tree.entries) == 4
    assert view.to_owned_state().session_graph.leaf_node_id == "n1"
    assert changed(state, before) == set()
    assert ids(state.read_view().messages) == ["n0", "x"]
    assert state.read_view(leaf_node_id="x") == state.read_view()


def test_a_view_along_an_unknown_or_tombstoned_branch_is_refused() -> None:
    state = full_state()
    state.session_graph.branch_to("n1")
    state.session_graph.tombstone_nodes(["n2"])
    for node_id, reason in (("n2", "'n2' is tombstoned"), ("gone", "'gone' is not in the graph")):
        with pytest.raises(InvalidStateError, match=reason):
            state.read_view(leaf_node_id=node_id)
    assert state.session_graph.leaf_node_id == "n1"


def usage(source: str, model: str, **counts: int) -> TokenLedgerEntry:
    return TokenLedgerEntry(source=source, model=model, usage=TokenUsage(**counts))


def test_parent_keeps_cached_only_child_usage() -> None:
    state, before = full_state(), full_state()
    state.book_usage([usage("turn", "m", cached_input_tokens=7), usage("turn", "none")])
    assert state.token_ledger == [LEDGER, usage("child", "m", cached_input_tokens=7)]
    assert changed(state, before) == {"token_ledger"}


def test_usage_of_a_child_is_booked_under_its_label_with_its_models() -> None:
    state = full_state()
    child = [usage("turn", "m", input_tokens=1), usage("compaction", "m", output_tokens=2), usage("turn", "n")]
    state.book_usage(child, source="subagent")
    state.book_usage([usage("turn", "n", reasoning_tokens=4)], source="subagent")
    assert state.token_ledger == [
        LEDGER,
        usage("subagent", "m", input_tokens=1, output_tokens=2),
        usage("subagent", "n", reasoning_tokens=4),
    ]
    assert state.usage_report().by_source["subagent"].total_tokens == 7


def test_booking_the_difference_books_nothing_twice() -> None:
    parent, child = PersistedSessionState(), PersistedSessionState(session_id="c")
    booked: list[TokenLedgerEntry] = []
    for _ in range(3):
        merge_ledger_entry(child.token_ledger, usage("turn", "m", input_tokens=5))
        for _ in range(2):  # the second time there is nothing new
            parent.book_usage(diff_token_ledger(booked, child.token_ledger))
            booked = list(child.token_ledger)
    assert parent.token_ledger == [usage("child", "m", input_tokens=15)]


@pytest.mark.parametrize(
    ("entries", "source", "reason"),
    [
        ([LEDGER], "", "name one"),
        ([LEDGER, usage("turn", "bad", input_tokens=9, cached_input_tokens=-1)], "child", "'bad' has a negative count"),
        ([LEDGER, usage("turn", "m", input_tokens=2**63 - 1)], "child", "leaves 64 bits"),
    ],
)
def test_usage_that_cannot_be_booked_books_nothing(entries: list[TokenLedgerEntry], source: str, reason: str) -> None:
    state, before = full_state(), full_state()
    with pytest.raises(InvalidStateError, match=reason):
        state.book_usage(entries, source=source)
    assert changed(state, before) == set()


def test_revision_and_replace_flag_are_never_serialised() -> None:
    state = full_state()
    for plain in (state.model_dump(), json.loads(state.model_dump_json())):
        assert "head_revision" not in plain
        assert "graph_replace_required" not in plain
    for again in (
        PersistedSessionState.model_validate(state.model_dump()),
        PersistedSessionState.model_validate_json(state.model_dump_json()),
    ):
        assert again.head_revision is None
        assert again.graph_replace_required is False
        assert again._base is None
        assert changed(again, state) == {"head_revision", "graph_replace_required"}
        assert again.session_graph.committed_count == 0


@pytest.mark.parametrize("field", [{"head_revision": 3}, {"graph_replace_required": True}, {"head_revision": None}])
def test_a_document_cannot_bring_a_revision(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match="never comes from a document"):
        PersistedSessionState.model_validate_json(json.dumps({"session_id": "s", **field}))


def test_a_copy_is_independent_and_keeps_the_base() -> None:
    state = full_state()
    clone = state.copy()
    assert clone == state
    assert clone._base is state._base
    assert clone.head_revision == 7
    assert clone.session_graph.nodes[0] is state.session_graph.nodes[0]
    clone.append_active_read_delta([message("x")], [])
    clone.token_ledger.append(LEDGER)
    clone.turn_index = 9
    assert changed(clone, state) == {"session_graph", "token_ledger", "turn_index"}
    assert len(state.session_graph.nodes) == 3
    assert len(state.token_ledger) == 1


def test_pydantics_own_copy_is_independent_too() -> None:
    state = full_state()
    clone = state.model_copy(update={"turn_index": 9})
    clone.session_graph.append_message(message("x"))
    assert len(state.session_graph.nodes) == 3
    assert clone._base is state._base


@pytest.mark.parametrize("field", [{"unknown": 1}, {"_base": 1}])
def test_unknown_fields_are_refused(field: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        PersistedSessionState(**field)


def test_assignments_are_checked() -> None:
    state = PersistedSessionState()
    for name, value in (("turn_index", -1), ("tool_state_ref", "b3:0"), ("session_graph", None), ("unknown", 1)):
        with pytest.raises(ValueError, match=r"."):
            setattr(state, name, value)
    assert state == PersistedSessionState()
