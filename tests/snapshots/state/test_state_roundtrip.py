"""Every value type goes to plain data and to JSON and comes back equal."""

from __future__ import annotations

import copy
import json
import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

import snapshots.state as state_package
from snapshots.errors import InvalidStateError
from snapshots.state import (
    AttachmentRef,
    Cancelled,
    ChildRelation,
    CommitManifest,
    CommitResult,
    Deleted,
    DeletedContent,
    ExhaustedRetry,
    Fail,
    Failure,
    Finish,
    HandoffRelation,
    LeafHealing,
    MaterializeProjectedValues,
    Message,
    MessageOrigin,
    ModeEvent,
    ModeTurnOptions,
    NeverRetry,
    ObservationalMemory,
    PartAttachment,
    PersistedSessionConfig,
    PersistedSessionState,
    PersistedTurnState,
    PluginArtifact,
    PluginFailure,
    PluginPayload,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    PreserveProjectedRefs,
    PromptLayer,
    PromptUsage,
    ResumeFinding,
    ResumeReport,
    RollingHistory,
    RootRelation,
    SafeRetry,
    SessionGraph,
    SessionMeta,
    SessionNodeRecord,
    SessionPickerInfo,
    SessionPolicy,
    SessionStateEnvelope,
    SessionUsageReport,
    Success,
    Summarized,
    SummarizedContent,
    SwitchAgentFrame,
    TokenLedgerEntry,
    TokenUsage,
    ToolAvailabilityConfig,
    ToolCallOutput,
    ToolCallRecord,
    ToolCancellation,
    ToolDiscovery,
    ToolEntry,
    ToolFailure,
    ToolInvocation,
    ToolManifest,
    ToolRetryPolicy,
    ToolState,
    ToolValue,
    UsageReportRow,
    UsageTotals,
    nodes_from_plain,
    nodes_to_plain,
)
from tests.snapshots.state import strategies
from tests.snapshots.state.builders import AT, call, message, node, part, plugin_node, ref

USAGE = TokenUsage(input_tokens=5, output_tokens=-1, cached_input_tokens=3, reasoning_tokens=2)
PICTURE = AttachmentRef(id="a1", media_type="image/png", byte_len=3, width=1, height=2, label="x")
FAILURE = ToolFailure(
    failure_class="timeout",
    code="t",
    message="m",
    source="tool",
    retry=SafeRetry(after_ms=5),
    raw=ToolValue.of(PICTURE),
)
MANIFEST = ToolManifest(
    id="t1",
    name="read",
    description="reads",
    compact_contract={"name": "read"},
    availability=ToolAvailabilityConfig(standard="off", modes={"repl": "callable"}),
    activation="internal",
    availability_override="searchable",
    discovery=ToolDiscovery(namespace="fs", aliases=("cat",)),
    argument_projection=PreserveProjectedRefs(field="path"),
    execution_mode="serial",
    retry_policy=ToolRetryPolicy(max_attempts=3, base_delay_ms=10, max_delay_ms=100),
)
TOOLS = ToolState(generation=4, tools={"read": ToolEntry(manifest=MANIFEST, source_id="core")})
PLUGIN = PluginSnapshot(
    meta=PluginSnapshotMeta(plugin_id="memory", plugin_version="1", revision=3, state={"a": [1]}),
    artifacts=(PluginArtifact(name="index", data=b"\x00\xff"), PluginArtifact(name="index", data=b"")),
)
PLUGINS = PluginSessionSnapshot(plugins={"memory": PLUGIN})
POLICY = SessionPolicy(
    model="m",
    provider="openai",
    max_context_tokens=10,
    model_variant="v",
    session_id="s",
    autonomous=True,
    max_turns=3,
    standard_context_approach=ObservationalMemory(previous_observer_tokens=1),
    prompt=PromptLayer(template={"sections": []}, slots={"intro": ["hi"]}),
)
PROMPT = PromptUsage(prompt_context_tokens=9, input_tokens=5, cached_input_tokens=4, context_budget_tokens=11)
OPTIONS = ModeTurnOptions(mode_id="repl", payload={"depth": 2})
TURN = PersistedTurnState(turn_index=2, token_usage=USAGE, last_prompt_usage=PROMPT, mode_turn_options=OPTIONS)
LEDGER = TokenLedgerEntry(source="turn", model="m", usage=USAGE)
CHILD = ChildRelation(parent_session_id="p", originating_tool_call_id="c")
GRAPH = SessionGraph.from_nodes(
    [
        node("m1"),
        node("t1", "m1", payload=call("c1", {"pictures": [PICTURE]})),
        node("x", "t1", payload=ModeEvent(mode_id="repl", payload=[1])),
        plugin_node("p1", "x"),
    ],
    "p1",
)
RESULT = CommitResult(
    head_revision=3,
    checkpoint_ref=ref("checkpoint"),
    manifest=CommitManifest(
        turn_state=TURN,
        tool_state_ref=ref("tools"),
        plugin_snapshot_ref=ref("plugins"),
        plugin_snapshot_revision=2**64 - 1,
        execution_state_ref=ref("execution"),
    ),
    commit_id="c" * 32,
    uploaded_bytes=10,
    requests=2,
)

SAMPLES: list[BaseModel] = [
    PICTURE,
    FAILURE,
    MANIFEST,
    TOOLS,
    TOOLS.tools["read"],
    MANIFEST.availability,
    MANIFEST.discovery,
    MANIFEST.retry_policy,
    PreserveProjectedRefs(field="f"),
    MaterializeProjectedValues(),
    PLUGIN,
    PLUGIN.meta,
    PLUGIN.artifacts[0],
    PLUGINS,
    PluginFailure(plugin_id="memory", reason="ValueError: no"),
    POLICY,
    POLICY.prompt,
    RollingHistory(),
    ObservationalMemory(),
    PersistedSessionConfig.from_policy(POLICY),
    PROMPT,
    USAGE,
    OPTIONS,
    ModeEvent(mode_id="repl", payload=None),
    TURN,
    LEDGER,
    UsageTotals.from_usage(USAGE),
    UsageReportRow(source="turn", model="m", usage=USAGE),
    SessionUsageReport.from_entries([LEDGER]),
    CHILD,
    RootRelation(),
    HandoffRelation(parent_session_id="p", reason="done", metadata={"k": [1]}),
    SessionMeta(session_id="s", session_name="n", created_at=AT, model="m", cwd="/x", relation=CHILD),
    SessionPickerInfo(session_id="s", cwd="/x", parent_session_id="p", first_user_message="hi", user_message_count=2),
    RESULT,
    RESULT.manifest,
    ResumeFinding(kind="leaf", name="x", reason="y"),
    ResumeReport(missing=(ResumeFinding(kind="plugin", name="x", reason="y"),)),
    LeafHealing(rule="ancestor", lost_leaf_node_id="a", leaf_node_id="b"),
    NeverRetry(),
    SafeRetry(),
    ExhaustedRetry(attempts=2),
    Success(payload=ToolValue.of([1])),
    Failure(payload=FAILURE),
    Cancelled(payload=ToolCancellation(message="stop")),
    ToolCancellation(message="stop", source="policy", raw=ToolValue.of(None)),
    ToolCallOutput(outcome=Success(payload=ToolValue.of("x")), control=Finish(value=ToolValue.of({"a": PICTURE}))),
    Fail(failure=FAILURE),
    Finish(value=ToolValue.of(1.5)),
    SwitchAgentFrame(frame_id="f", initial_nodes=({"a": 1},), task="t"),
    ToolValue.of({"$lash_tool_value": "attachment", "deep": [PICTURE]}),
    call("c1"),
    ToolInvocation(stable_key="c1", record=call("c1")),
    Deleted(content=DeletedContent(breadcrumb="b", archive_hash="h")),
    DeletedContent(breadcrumb="b", archive_hash="h"),
    Summarized(content=SummarizedContent(summary="s", archive_hash="h")),
    SummarizedContent(summary="s", archive_hash="h"),
    PartAttachment(reference=PICTURE),
    part("p", "text", attachment=PartAttachment(reference=PICTURE), tool_replay={"x": 1}),
    message("m1"),
    MessageOrigin(plugin_id="memory", transient=True),
    *GRAPH.nodes,
    GRAPH.nodes[0].payload,
    GRAPH.nodes[3].payload,
    GRAPH.message_tree(),
    GRAPH.message_tree().entries[0],
    SessionStateEnvelope(session_id="s", policy=POLICY, session_graph=GRAPH, turn_index=3, last_prompt_usage=PROMPT),
    PersistedSessionState(
        session_id="s",
        policy=POLICY,
        session_graph=GRAPH,
        turn_index=3,
        token_usage=USAGE,
        last_prompt_usage=PROMPT,
        mode_turn_options=OPTIONS,
        tool_state_ref=ref("t"),
        tool_state_generation=4,
        tool_state_snapshot=TOOLS,
        plugin_snapshot_ref=ref("p"),
        plugin_snapshot_revision=5,
        plugin_snapshot=PLUGINS,
        execution_state_ref=ref("e"),
        execution_state_snapshot=b"\x00\xff",
        token_ledger=[LEDGER],
        checkpoint_ref=ref("c"),
    ),
    PersistedSessionState(),
]
_KINDS = {type(sample).__name__ for sample in SAMPLES}


def assert_plain(value: Any) -> None:
    """Fail unless `value` is made of exact built-in types with string keys."""
    if type(value) is dict:
        assert all(type(key) is str for key in value)
        for item in value.values():
            assert_plain(item)
    elif type(value) is list:
        for item in value:
            assert_plain(item)
    else:
        assert value is None or type(value) in (str, int, float, bool, bytes), type(value)


def test_every_exported_model_has_a_sample() -> None:
    exported = {
        name
        for name in state_package.__all__
        if isinstance(kind := getattr(state_package, name), type) and issubclass(kind, BaseModel)
    }
    assert exported <= _KINDS | {"RuntimeCommitResult"}


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_plain_data_round_trips(sample: BaseModel) -> None:
    plain = sample.model_dump(mode="python")
    assert_plain(plain)
    assert type(sample).model_validate(plain) == sample


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_json_round_trips(sample: BaseModel) -> None:
    text = sample.model_dump_json()
    assert type(sample).model_validate_json(text) == sample
    assert json.loads(text) == sample.model_dump(mode="json")


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: type(sample).__name__)
def test_copies_and_pickles_are_equal(sample: BaseModel) -> None:
    assert copy.deepcopy(sample) == sample
    assert pickle.loads(pickle.dumps(sample)) == sample


@pytest.mark.parametrize(
    "sample", [s for s in SAMPLES if not isinstance(s, ToolValue)], ids=lambda sample: type(sample).__name__
)
def test_unknown_fields_are_refused(sample: BaseModel) -> None:
    plain = sample.model_dump(mode="python")
    with pytest.raises(ValidationError):
        type(sample).model_validate({**plain, "unknown_field": 1})


@pytest.mark.parametrize(
    "sample",
    [s for s in SAMPLES if not isinstance(s, PersistedSessionState)],
    ids=lambda sample: type(sample).__name__,
)
def test_values_are_frozen(sample: BaseModel) -> None:
    name = next(iter(type(sample).model_fields))
    with pytest.raises(ValidationError, match="frozen"):
        setattr(sample, name, getattr(sample, name))


def test_defaults_and_none_are_left_out() -> None:
    assert ToolManifest(id="t", name="n").model_dump() == {"id": "t", "name": "n"}
    assert message("m").model_dump() == {
        "id": "m",
        "role": "User",
        "parts": [{"id": "m.p0", "kind": "Text", "content": "hello", "prune_state": "Intact"}],
    }
    assert MessageOrigin(plugin_id="p").model_dump() == {"kind": "plugin", "plugin_id": "p"}
    assert "prompt" not in SessionPolicy().model_dump()
    assert PersistedSessionState().model_dump().keys() == {
        "session_id",
        "policy",
        "session_graph",
        "turn_index",
        "token_usage",
        "mode_turn_options",
    }


def test_the_node_wire_form_is_flattened_and_externally_tagged() -> None:
    record = {
        "call_id": "c1",
        "tool": "read",
        "args": {},
        "output": {"outcome": {"status": "success", "payload": "ok"}},
        "duration_ms": 1,
    }
    expected = [
        {"node_id": "m1", "timestamp": AT, "kind": "event", "event": {"Conversation": message("m1").model_dump()}},
        {
            "node_id": "t1",
            "parent_node_id": "m1",
            "timestamp": AT,
            "kind": "event",
            "event": {"Tool": {"Invocation": {"stable_key": "c1", "record": record}}},
        },
        {
            "node_id": "x",
            "parent_node_id": "t1",
            "timestamp": AT,
            "kind": "event",
            "event": {"Mode": {"mode_id": "repl", "payload": [1]}},
        },
        {
            "node_id": "p1",
            "parent_node_id": "x",
            "timestamp": AT,
            "kind": "plugin",
            "plugin_type": "note",
            "body": {"n": 1},
        },
    ]
    nodes = [
        node("m1"),
        node("t1", "m1", payload=call("c1")),
        node("x", "t1", payload=ModeEvent(mode_id="repl", payload=[1])),
        plugin_node("p1", "x"),
    ]
    assert nodes_to_plain(nodes) == expected
    assert nodes_from_plain(expected) == nodes


@pytest.mark.parametrize(
    "change",
    [
        {"event": {"Conversation": {}, "Mode": {}}},
        {"event": {"Other": {}}},
        {"event": {"Tool": {"Other": {}}}},
        {"event": {"Mode": {"mode_id": "x"}}},
        {"kind": "other"},
        {"extra": 1},
        {"timestamp": "yesterday"},
        {"timestamp": "2026-13-01T00:00:00Z"},
        {"node_id": ""},
        {"payload": {"kind": "plugin", "plugin_type": "t", "body": 1}},
    ],
)
def test_malformed_nodes_are_refused(change: dict[str, Any]) -> None:
    plain = nodes_to_plain([node("m1")])[0]
    with pytest.raises(InvalidStateError):
        nodes_from_plain([{**plain, **change}])


@pytest.mark.parametrize(
    "value", [float("nan"), float("inf"), -float("inf"), 2**64, -(2**63) - 1, {1: 2}, (1,), b"x", object()]
)
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"a": [value]}])
def test_what_json_cannot_say_is_refused(value: Any, wrap: Any) -> None:
    with pytest.raises(ValidationError):
        PluginPayload(plugin_type="t", body=wrap(value))
    with pytest.raises(ValidationError):
        ToolValue.model_validate(wrap(value))


def test_json_values_are_independent_of_what_they_were_built_from() -> None:
    body = {"list": [1]}
    payload = PluginPayload(plugin_type="t", body=body)
    body["list"].append(2)
    assert payload.body == {"list": [1]}


def test_deeply_nested_json_is_refused_rather_than_overflowing() -> None:
    value: Any = 1
    for _ in range(5000):
        value = [value]
    with pytest.raises(ValidationError, match="nested deeper"):
        PluginPayload(plugin_type="t", body=value)
    with pytest.raises(ValueError, match="nested deeper"):
        ToolValue.of(value)
    with pytest.raises(ValidationError, match="nested deeper"):
        ToolValue.model_validate(value)


@pytest.mark.parametrize(
    "value",
    [
        {"digest": "b3:" + "0" * 64},
        {"digest": "b3:" + "0" * 64, "size_bytes": 1, "key": "x"},
        {"digest": "md5:0", "size_bytes": 1},
        {"digest": "b3:" + "0" * 64, "size_bytes": -1},
        {"digest": "b3:" + "0" * 64, "size_bytes": "1"},
        "b3:" + "0" * 64,
    ],
)
def test_malformed_refs_are_refused(value: Any) -> None:
    with pytest.raises(ValidationError):
        CommitManifest.model_validate({"tool_state_ref": value})


def test_text_is_not_taken_for_bytes() -> None:
    with pytest.raises(ValidationError):
        PluginArtifact.model_validate({"name": "x", "data": "text"})
    with pytest.raises(ValidationError):
        PluginArtifact.model_validate_json('{"name": "x", "data": "not base64!"}')


@pytest.mark.parametrize("value", [2**64, -1, 1.0, "1", True])
def test_counters_are_unsigned_64_bit_integers(value: Any) -> None:
    with pytest.raises(ValidationError):
        PersistedTurnState(turn_index=value)


@given(st.lists(strategies.nodes, max_size=4))
@settings(max_examples=150, deadline=None)
def test_generated_nodes_round_trip(nodes: list[SessionNodeRecord]) -> None:
    plain = nodes_to_plain(nodes)
    assert_plain(plain)
    assert nodes_from_plain(plain) == nodes
    assert nodes_to_plain(nodes_from_plain(json.loads(json.dumps(plain)))) == plain


@given(strategies.messages)
@settings(max_examples=100, deadline=None)
def test_generated_messages_round_trip(generated: Message) -> None:
    assert Message.model_validate(generated.model_dump()) == generated
    assert Message.model_validate_json(generated.model_dump_json()) == generated


@given(strategies.tool_trees)
@settings(max_examples=200, deadline=None)
def test_generated_tool_values_round_trip(tree: Any) -> None:
    value = ToolValue.of(tree)
    assert value.root == tree
    plain = value.model_dump()
    assert_plain(plain)
    assert ToolValue.model_validate(plain) == value
    assert ToolValue.model_validate_json(json.dumps(plain)).model_dump() == plain


@given(strategies.tool_calls)
@settings(max_examples=100, deadline=None)
def test_generated_tool_calls_round_trip_with_their_stable_key(record: ToolCallRecord) -> None:
    again = ToolCallRecord.model_validate(record.model_dump())
    assert again.same_as(record)
    assert again.stable_key() == record.stable_key()


def test_a_raw_null_is_no_raw_value() -> None:
    assert ToolCancellation(message="stop", raw=ToolValue.of(None)) == ToolCancellation(message="stop")
