"""What a commit has to store: which of ref and snapshot counts, how much is encoded, and the hash of a turn."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from snapshots import codec, content
from snapshots.checkpoint import UNBORN
from snapshots.content import Content, content_of
from snapshots.errors import InvalidStateError, LimitExceededError
from snapshots.logs import LogRef
from snapshots.state import (
    EventPayload,
    ModeEvent,
    PersistedSessionState,
    PluginPayload,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    SessionGraph,
    SessionNodeRecord,
    SessionPolicy,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
    nodes_to_plain,
)
from storage.digest import blob_ref
from tests.snapshots.records import StagedSession, ref
from tests.snapshots.state.builders import call, message, node, part

TOOLS, OTHER_TOOLS = ToolState(generation=1), ToolState(generation=2)


def plugins(revision: int) -> PluginSessionSnapshot:
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=revision)
    return PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)})


def committed() -> StagedSession:
    """Return a session at revision 1 with all three parts."""
    session = StagedSession.new()
    session.state.append_active_read_delta([message("m1")], [])
    session.state.tool_state_snapshot = TOOLS
    session.state.plugin_snapshot = plugins(1)
    session.commit(b"execution")
    return session


# Of ref and snapshot.

PARTS = ("tool_state", "plugin_snapshot", "execution_state")


def test_refs_carry_over_without_bytes() -> None:
    session = committed()
    found = session.content()
    for name in PARTS:
        part_of = getattr(found, name)
        assert part_of.data is None
        assert part_of.ref == getattr(session.base.checkpoint, name)


def test_a_new_snapshot_wins_over_the_ref() -> None:
    session = committed()
    held = session.base.checkpoint
    session.state.tool_state_snapshot = OTHER_TOOLS
    session.state.plugin_snapshot = plugins(2)
    session.state.execution_state_snapshot = b"newer"
    found = session.content()
    for name in PARTS:
        part_of = getattr(found, name)
        assert part_of.data is not None
        assert part_of.ref == blob_ref(part_of.data) != getattr(held, name)
    assert found.tool_state is not None
    assert found.tool_state.data == codec.encode(OTHER_TOOLS.model_dump())


def test_an_unchanged_snapshot_is_no_new_blob() -> None:
    session = committed()
    session.state.tool_state_snapshot = TOOLS
    session.state.plugin_snapshot = plugins(1)
    found = session.content(b"execution")
    for name in PARTS:
        assert getattr(found, name).data is None
        assert getattr(found, name).ref == getattr(session.base.checkpoint, name)


def test_given_bytes_win_over_the_state_s_own() -> None:
    session = committed()
    session.state.execution_state_snapshot = b"own"
    found = session.content(b"given").execution_state
    assert found is not None
    assert found.data == b"given"
    empty = session.content(b"").execution_state
    assert empty is not None
    assert empty.data == b""


@pytest.mark.parametrize("name", PARTS)
def test_a_part_that_is_dropped_is_gone(name: str) -> None:
    session = committed()
    setattr(session.state, f"{name}_ref", None)
    found = session.content()
    assert getattr(found, name) is None
    assert sum(getattr(found, other) is None for other in PARTS) == 1


@pytest.mark.parametrize("name", PARTS)
def test_a_foreign_ref_is_refused(name: str) -> None:
    session = committed()
    setattr(session.state, f"{name}_ref", ref("somebody else's"))
    with pytest.raises(InvalidStateError, match=f"{name}_ref"):
        session.content()


@pytest.mark.parametrize("name", PARTS)
def test_a_ref_of_another_part_is_foreign_too(name: str) -> None:
    session = committed()
    other = PARTS[PARTS.index(name) - 1]
    setattr(session.state, f"{name}_ref", getattr(session.base.checkpoint, other))
    with pytest.raises(InvalidStateError, match=f"{name}_ref"):
        session.content()


@pytest.mark.parametrize("name", PARTS)
def test_a_ref_without_a_past_is_foreign(name: str) -> None:
    state = PersistedSessionState(session_id="s1", **{f"{name}_ref": ref("x")})
    with pytest.raises(InvalidStateError, match=f"{name}_ref"):
        content_of(state, UNBORN, (), execution_state=None)


def test_counters_follow_what_is_stored() -> None:
    session = committed()
    assert session.content().small.tool_state_generation == 1
    session.state.tool_state_snapshot = OTHER_TOOLS
    assert session.content().small.tool_state_generation == 2
    session.state.tool_state_snapshot = None
    session.state.tool_state_ref = None
    session.state.plugin_snapshot_ref = None
    small = session.content().small
    assert small.tool_state_generation is None
    assert small.plugin_snapshot_revision is None


# The ledger.


def test_only_what_was_added_is_stored() -> None:
    session = committed()
    add_usage(session.state, "b", 5)
    add_usage(session.state, "a", 3)
    session.commit()
    add_usage(session.state, "a", 4)
    found = session.content()
    assert [(one.source, one.usage.input_tokens) for one in found.usage] == [("a", 4)]
    assert [(one.source, one.usage.input_tokens) for one in found.ledger] == [("b", 5), ("a", 7)]


def test_added_rows_keep_the_order_of_the_ledger() -> None:
    session = committed()
    for source in ("z", "a", "m"):
        add_usage(session.state, source, 1)
    assert [one.source for one in session.content().usage] == ["z", "a", "m"]


def test_a_ledger_that_decreased_is_refused() -> None:
    session = committed()
    add_usage(session.state, "a", 5)
    session.commit()
    session.state.token_ledger = []
    with pytest.raises(InvalidStateError, match="decreased"):
        session.content()
    assert session.content(replaces=True).usage == ()


def add_usage(state: PersistedSessionState, source: str, tokens: int) -> None:
    entry = TokenLedgerEntry(source=source, model="m", usage=TokenUsage(input_tokens=tokens))
    ledger = [one for one in state.token_ledger if one.source != source]
    known = next((one for one in state.token_ledger if one.source == source), None)
    if known is None:
        state.token_ledger = [*state.token_ledger, entry]
    else:
        merged = known.model_copy(update={"usage": known.usage.add(entry.usage)})
        state.token_ledger = [merged if one is known else one for one in state.token_ledger]
        assert len(ledger) == len(state.token_ledger) - 1


# Work.


def test_only_new_nodes_are_encoded(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []

    def counting(nodes: Any) -> Any:
        converted.append(len(nodes))
        return nodes_to_plain(nodes)

    monkeypatch.setattr(content, "nodes_to_plain", counting)
    session = StagedSession.new()
    commits = 200
    for number in range(commits):
        session.state.append_active_read_delta([message(f"m{number}")], [])
        converted.clear()
        session.content().digest()
        assert converted == [1]
        session.content().turn_hash()
        assert converted == [1, 1, 1], "the hash is of nodes without ids"
        converted.clear()
        session.commit()
        assert converted == [1]
    assert len(session.state.session_graph) == commits


def test_every_node_is_written_once_however_long_the_session(monkeypatch: pytest.MonkeyPatch) -> None:
    converted: list[int] = []

    def counting(nodes: Any) -> Any:
        converted.append(len(nodes))
        return nodes_to_plain(nodes)

    monkeypatch.setattr(content, "nodes_to_plain", counting)
    session = StagedSession.new()
    for number in range(512):
        session.state.append_active_read_delta([message(f"m{number}")], [])
        session.commit()
    assert sum(converted) == 512


def test_a_commit_without_news_encodes_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    session = committed()

    def none(nodes: Any) -> Any:
        assert not nodes, f"{len(nodes)} nodes encoded"
        return []

    monkeypatch.setattr(content, "nodes_to_plain", none)
    graph = session.base.checkpoint.graph
    session.commit()
    assert session.base.checkpoint.graph == graph


@pytest.mark.parametrize("replace", ["required", "removed", "other", "past"])
def test_the_graph_starts_afresh_when_it_must(replace: str) -> None:
    session = committed()
    session.state.append_active_read_delta([message("m2")], [])
    session.commit()
    state = session.state
    if replace == "required":
        state.graph_replace_required = True
    elif replace == "removed":
        state.session_graph.remove_nodes([state.session_graph.nodes[-1].node_id])
        state.session_graph.heal_orphaned_leaf()
    elif replace == "other":
        graph = SessionGraph()
        graph.append_message(message("elsewhere"))
        state.session_graph = graph
    found = session.content(replaces=replace == "past")
    assert found.fresh_graph
    assert list(found.new_nodes) == list(state.session_graph.nodes)
    assert found.new_bytes == codec.encode_entries(nodes_to_plain(state.session_graph.nodes))
    staged = session.commit(replaces=replace == "past")
    assert staged.checkpoint.graph == LogRef(blob_ref(found.new_bytes), len(state.session_graph))
    assert staged.checkpoint.node_count == len(state.session_graph)


def test_a_graph_that_no_reader_would_take_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    session = committed()
    session.state.append_active_read_delta([message("m2")], [])
    size = session.base.checkpoint.graph.ref.size_bytes + len(session.content().new_bytes)
    monkeypatch.setattr(content, "RECORD_BLOB_BYTES_MAX", size)
    assert session.content().new_bytes
    monkeypatch.setattr(content, "RECORD_BLOB_BYTES_MAX", size - 1)
    with pytest.raises(LimitExceededError) as caught:
        session.content()
    assert caught.value.value == size
    session.state.session_graph.remove_nodes([session.state.session_graph.nodes[-1].node_id])
    session.state.session_graph.heal_orphaned_leaf()
    assert session.content().fresh_graph, "less of it can still be stored"


def test_a_broken_graph_is_refused() -> None:
    session = committed()
    session.state.session_graph.set_leaf_node_id("nowhere")
    with pytest.raises(InvalidStateError):
        session.content()


# Digests.


def turn(*nodes: SessionNodeRecord, leaf: str | None = None, **fields: Any) -> Content:
    """Return the content of a turn that adds `nodes` to a session at revision 1."""
    session = committed()
    graph = session.state.session_graph
    for one in nodes:
        graph.push_node_record(one)
    graph.set_leaf_node_id(leaf or graph.nodes[-1].node_id)
    for name, value in fields.items():
        setattr(session.state, name, value)
    return session.content()


def first_id() -> str:
    return committed().state.session_graph.nodes[0].node_id


def message_node(node_id: str = "n", at: str = "2026-01-01T00:00:00Z", **changes: Any) -> SessionNodeRecord:
    fields = {"id": "m2", "part_id": "m2.p0", "text": "hello", "role": "User", **changes}
    one = message(fields["id"], role=fields["role"])
    extra = fields.get("part", {})
    parts = (part(fields["part_id"], fields["text"], **extra),)
    return node(node_id, at=at, payload=one.model_copy(update={"parts": parts}))


def test_the_hash_of_a_turn_ignores_ids_and_times() -> None:
    expected = turn(message_node()).turn_hash()
    assert turn(message_node("other")).turn_hash() == expected
    assert turn(message_node(at="2030-12-31T23:59:59Z")).turn_hash() == expected
    assert turn(message_node(id="other")).turn_hash() == expected
    assert turn(message_node(part_id="other")).turn_hash() == expected
    record = call("c1", "ok")
    one, other = node("a", payload=record), node("b", at="2031-01-01T00:00:00Z", payload=record)
    assert turn(one).turn_hash() == turn(other).turn_hash()
    plugin = PluginPayload(plugin_type="t", body={"node_id": 1})
    assert turn(node("a", payload=plugin)).turn_hash() == turn(node("b", payload=plugin)).turn_hash()


DIFFERENT: dict[str, Callable[[], Content]] = {
    "same": lambda: turn(message_node()),
    "text": lambda: turn(message_node(text="other")),
    "role": lambda: turn(message_node(role="Assistant")),
    "part kind": lambda: turn(message_node(part={"kind": "Code"})),
    "part call": lambda: turn(message_node(part={"tool_call_id": "c"})),
    "part meta": lambda: turn(message_node(part={"response_meta": {"id": 1}})),
    "part meta id": lambda: turn(message_node(part={"response_meta": {"id": 2}})),
    "twice": lambda: turn(message_node(), message_node("n2")),
    "nothing": turn,
    "call": lambda: turn(node("a", payload=call("c1", "ok"))),
    "call id": lambda: turn(node("a", payload=call("c2", "ok"))),
    "call output": lambda: turn(node("a", payload=call("c1", "no"))),
    "call arguments": lambda: turn(node("a", payload=call("c1", "ok", args={"timestamp": 1}))),
    "call arguments too": lambda: turn(node("a", payload=call("c1", "ok", args={"timestamp": 2}))),
    "mode": lambda: turn(node("a", payload=ModeEvent(mode_id="m", payload=1))),
    "mode payload": lambda: turn(node("a", payload=ModeEvent(mode_id="m", payload=True))),
    "plugin": lambda: turn(node("a", payload=PluginPayload(plugin_type="t", body={"node_id": 1}))),
    "plugin body": lambda: turn(node("a", payload=PluginPayload(plugin_type="t", body={"node_id": 2}))),
    "plugin type": lambda: turn(node("a", payload=PluginPayload(plugin_type="u", body={"node_id": 1}))),
    "tools": lambda: turn(message_node(), tool_state_snapshot=OTHER_TOOLS),
    "no tools": lambda: turn(message_node(), tool_state_ref=None),
    "plugins": lambda: turn(message_node(), plugin_snapshot=plugins(2)),
    "execution": lambda: turn(message_node(), execution_state_snapshot=b"newer"),
    "policy": lambda: turn(message_node(), policy=SessionPolicy(model="other")),
    "turn": lambda: turn(message_node(), turn_index=1),
    "usage": lambda: turn(message_node(), token_usage=TokenUsage(input_tokens=1)),
    "ledger": lambda: turn(
        message_node(), token_ledger=[TokenLedgerEntry(source="a", model="m", usage=TokenUsage(input_tokens=1))]
    ),
    "afresh": lambda: turn(message_node(), graph_replace_required=True),
}


def test_the_hash_of_a_turn_changes_with_any_content() -> None:
    hashes = {name: make().turn_hash() for name, make in DIFFERENT.items()}
    assert len(set(hashes.values())) == len(hashes)


def test_the_digest_of_a_commit_changes_with_any_content_and_with_ids() -> None:
    digests = {name: make().digest() for name, make in DIFFERENT.items()}
    digests["node id"] = turn(message_node("other")).digest()
    digests["message id"] = turn(message_node(id="other")).digest()
    digests["time"] = turn(message_node(at="2030-12-31T23:59:59Z")).digest()
    digests["leaf"] = turn(message_node(), leaf=first_id()).digest()
    assert len(set(digests.values())) == len(digests)


def test_equal_contents_have_equal_digests() -> None:
    session = committed()
    session.state.session_graph.push_node_record(message_node())
    assert session.content().digest() == session.content().digest()
    assert session.content().turn_hash() == session.content().turn_hash()
    assert isinstance(message_node().payload, EventPayload)
