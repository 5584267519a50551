"""Messages of a runtime in the graph of a session: read back exactly, ours as messages, others' as they are."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import Message, Part, SessionGraph
from snapshots.errors import CorruptSnapshotError, InvalidStateError
from snapshots.runtime.messages import RUNTIME_MESSAGE, messages_along, to_node, with_ids
from snapshots.runtime.session import JsonMessage
from snapshots.state import MessageOrigin, PluginPayload, nodes_from_plain, nodes_to_plain
from snapshots.state.values import json_text
from tests.integration.builders import message
from tests.snapshots.state.builders import call

OURS: JsonMessage = message("m1").model_dump(mode="json")
PART: JsonMessage = OURS["parts"][0]
FOREIGN: list[JsonMessage] = [
    {"id": "m1", "role": "user", "content": "hi"},
    {"id": "m1", "role": "User"},  # what `Message` would complete
    {**OURS, "created_at": "2026-01-01T00:00:00Z"},
    {**OURS, "origin": None},
    {**OURS, "origin": {"kind": "plugin", "plugin_id": "p", "transient": False}},
    {**OURS, "origin": {"kind": "plugin", "plugin_id": "p", "transient": 0}},
    {**OURS, "parts": [{**PART, "tool_replay": None}]},
    {**OURS, "parts": [{key: value for key, value in PART.items() if key != "prune_state"}]},
    {**OURS, "parts": [{**PART, "prune_state": {"content": {"summary": "s", "archive_hash": "h"}}}]},
]
TRANSIENT: JsonMessage = {**OURS, "origin": {"kind": "plugin", "plugin_id": "p", "transient": True}}
TEXT = st.text(st.characters(codec="utf-8"))
NUMBERS = st.integers(-(1 << 63), (1 << 64) - 1) | st.floats(allow_nan=False, allow_infinity=False)
JSON: Any = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


def graph_of(messages: list[JsonMessage]) -> SessionGraph:
    """Return the graph of these messages as it is loaded."""
    graph = SessionGraph()
    graph.append_session_nodes(map(to_node, messages))
    stored = nodes_from_plain(nodes_to_plain(list(graph.nodes)))
    return SessionGraph.from_nodes(stored, graph.leaf_node_id, committed=True)


def read_back(messages: list[JsonMessage]) -> list[JsonMessage]:
    return messages_along(graph_of(messages).active_path_nodes(), key="k")


@pytest.mark.parametrize("given", [OURS, *FOREIGN, TRANSIENT], ids=json_text)
def test_a_message_is_read_back_exactly(given: JsonMessage) -> None:
    assert [json_text(one) for one in read_back([given])] == [json_text(given)]


@given(st.dictionaries(TEXT, JSON, max_size=4))
def test_any_object_is_read_back_exactly(fields: JsonMessage) -> None:
    (given,) = with_ids([{**fields, "id": "m1"}])
    assert [json_text(one) for one in read_back([given])] == [json_text(given)]


def test_a_message_of_ours_is_a_message_of_the_session() -> None:
    assert isinstance(to_node(OURS), Message)
    assert graph_of([OURS]).messages() == (message("m1"),)


@pytest.mark.parametrize("given", [*FOREIGN, TRANSIENT], ids=json_text)
def test_any_other_one_is_kept_as_it_is(given: JsonMessage) -> None:
    assert to_node(given) == PluginPayload(plugin_type=RUNTIME_MESSAGE, body=given)


def test_both_keep_one_order() -> None:
    given: list[JsonMessage] = [{**(OURS if at % 2 else FOREIGN[0]), "id": f"m{at}"} for at in range(6)]
    assert read_back(given) == given


def test_what_is_no_message_of_the_conversation_is_passed_over() -> None:
    graph = graph_of([OURS])
    graph.append_tool_call(call("c1", {}))
    graph.append_plugin("session.event", {"id": "e1"})
    graph.append_message(Message(id="t", role="System", origin=MessageOrigin(plugin_id="p", transient=True)))
    graph.append_session_nodes([to_node(FOREIGN[0] | {"id": "m2"})])
    assert [one["id"] for one in messages_along(graph.active_path_nodes(), key="k")] == ["m1", "m2"]


def test_the_first_of_each_id_counts() -> None:
    graph = graph_of([OURS])
    graph.append_active_conversation_messages([message("m1", "again")])
    assert messages_along(graph.active_path_nodes(), key="k") == [OURS]


def test_a_message_without_an_id_goes_by_its_node() -> None:
    (node,) = graph_of([OURS]).nodes
    plain = {**nodes_to_plain([node])[0], "node_id": "n7"}
    plain["event"] = {"Conversation": {**OURS, "id": ""}}
    assert messages_along(nodes_from_plain([plain]), key="k") == [{**OURS, "id": "n7"}]


@pytest.mark.parametrize("body", [None, [], "m1", {}, {"id": ""}, {"id": 5}])
def test_a_node_that_holds_no_message_is_corruption(body: Any) -> None:
    graph = SessionGraph()
    graph.append_plugin(RUNTIME_MESSAGE, body)
    with pytest.raises(CorruptSnapshotError, match="holds no message with an id"):
        messages_along(graph.active_path_nodes(), key="k")


# Ids.


def test_an_id_follows_from_content_and_position() -> None:
    given: list[JsonMessage] = [{"role": "user"}, {"role": "user", "id": None}, {"role": "user", "id": ""}]
    one, two, three = (found["id"] for found in with_ids(given))
    assert len({one, two, three}) == 3
    assert [found["id"] for found in with_ids(given)] == [one, two, three]
    assert with_ids([{"role": "assistant"}, *given[1:]])[0]["id"] != one
    assert with_ids([{"role": "user", "id": ""}])[0]["id"] == one


def test_an_id_that_is_there_stays() -> None:
    assert with_ids([OURS]) == [OURS]
    assert list(given_parts(with_ids([{"role": "user", "x": 1}])[0])) == ["role", "x"]


def given_parts(found: JsonMessage) -> JsonMessage:
    return {name: value for name, value in found.items() if name != "id"}


def test_text_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(InvalidStateError, match="lone surrogate"):
        with_ids([{"content": "\ud800"}])


def test_parts_of_ours_are_whole() -> None:
    part = Part(id="p", kind="ToolCall", content="", tool_replay={"a": 1.0})
    given = Message(id="m", role="Assistant", parts=[part]).model_dump(mode="json")
    assert read_back([given]) == [given]
