"""Generated values of the state: JSON, tool values, messages, nodes."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from snapshots.state import (
    AttachmentRef,
    Deleted,
    DeletedContent,
    EventPayload,
    Message,
    MessageOrigin,
    ModeEvent,
    Part,
    PartAttachment,
    PluginPayload,
    SessionNodeRecord,
    Summarized,
    SummarizedContent,
    ToolCallOutput,
    ToolCallRecord,
    ToolCancellation,
    ToolFailure,
    ToolInvocation,
    ToolValue,
)
from snapshots.state.tool_values import TAG_KEY

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
names = st.text("abcdef-.:0123456789", min_size=1, max_size=8)
numbers = st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | numbers | texts
keys = texts | st.sampled_from([TAG_KEY, "ref", "entries"])
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=8
)

attachments = st.builds(
    AttachmentRef,
    id=names,
    media_type=st.sampled_from(["image/png", "text/plain"]),
    byte_len=st.integers(0, 2**40),
    width=st.none() | st.integers(0, 9000),
    label=st.none() | texts,
)
tool_trees: st.SearchStrategy[Any] = st.recursive(
    scalars | attachments,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3),
    max_leaves=8,
)
tool_values = tool_trees.map(ToolValue.of)
failures = st.tuples(names, texts, st.none() | tool_values).map(
    lambda drawn: ToolFailure(failure_class="timeout", code=drawn[0], message=drawn[1], raw=drawn[2])
)
outputs = st.one_of(
    tool_values.map(ToolCallOutput.success),
    failures.map(ToolCallOutput.failure),
    st.builds(ToolCancellation, message=texts, raw=st.none() | tool_values).map(ToolCallOutput.cancelled),
)
tool_calls = st.builds(
    ToolCallRecord,
    call_id=st.none() | st.just("") | names,
    tool=names,
    args=json_values,
    output=outputs,
    duration_ms=st.integers(0, 2**64 - 1),
)
prune_states = st.one_of(
    st.sampled_from(["Intact", "Cleared"]),
    st.builds(DeletedContent, breadcrumb=texts, archive_hash=names).map(lambda content: Deleted(content=content)),
    st.builds(SummarizedContent, summary=texts, archive_hash=names).map(lambda content: Summarized(content=content)),
)
parts = st.builds(
    Part,
    id=names,
    kind=st.sampled_from(["Text", "Image", "Code", "Output", "Error", "Prose", "ToolCall", "ToolResult", "Reasoning"]),
    content=texts,
    attachment=st.none() | st.builds(PartAttachment, reference=attachments),
    tool_call_id=st.none() | names,
    tool_name=st.none() | names,
    tool_replay=json_values,
    prune_state=prune_states,
    reasoning_meta=json_values,
    response_meta=json_values,
)
origins = st.builds(MessageOrigin, plugin_id=names, transient=st.booleans())
messages = st.builds(
    Message,
    id=names,
    role=st.sampled_from(["User", "Assistant", "System"]),
    parts=st.lists(parts, max_size=3).map(tuple),
    origin=st.none() | origins,
)
mode_events = st.builds(ModeEvent, mode_id=names, payload=json_values)
events = messages | mode_events | tool_calls.map(lambda call: ToolInvocation(stable_key=call.stable_key(), record=call))
payloads = events.map(lambda event: EventPayload(event=event)) | st.builds(
    PluginPayload, plugin_type=names, body=json_values
)
timestamps = st.datetimes().map(lambda instant: instant.strftime("%Y").zfill(4) + instant.strftime("-%m-%dT%H:%M:%SZ"))
nodes = st.builds(
    SessionNodeRecord,
    node_id=names,
    parent_node_id=st.none() | names,
    timestamp=timestamps,
    payload=payloads,
)
