"""The values of a realtime session: their wire forms, their order, and what they refuse."""

from __future__ import annotations

import hashlib
import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from snapshots.errors import LimitExceededError
from snapshots.realtime import (
    PolicyRef,
    PrivacyClass,
    RealtimeBackpressureState,
    RealtimeConnectionId,
    RealtimeFrame,
    RealtimeFrameId,
    RealtimeRecordKind,
    RealtimeResponseId,
    RealtimeSessionId,
    RealtimeSessionRecord,
    RealtimeSessionState,
    RealtimeSessionStatus,
    RetentionClass,
    StreamCursor,
    StreamCursorPrecision,
)
from snapshots.state.values import U64_MAX
from tests.snapshots.realtime.bench import incoming, out, sidecar

IDS = pytest.mark.parametrize(
    "kind",
    [RealtimeSessionId, RealtimeConnectionId, RealtimeResponseId, RealtimeFrameId],
    ids=lambda kind: kind.__name__,
)
CURSORS = st.builds(
    StreamCursor,
    chunk_sequence=st.integers(0, 3),
    byte_offset=st.integers(0, 3),
    precision=st.sampled_from(StreamCursorPrecision),
    label=st.none() | st.sampled_from(["", "a", "b"]),
)


def state(**fields: Any) -> RealtimeSessionState:
    values: dict[str, Any] = {
        "session_id": "realtime.session.run1",
        "connection_id": "c1",
        "provider_route_ref": "route",
        "send_cursor": StreamCursor.chunk(1),
        "receive_cursor": StreamCursor.chunk(1),
        "restart_count": 1,
        "backpressure_state": RealtimeBackpressureState.bounded(32, PolicyRef.new("p")).gate(),
        "lifecycle_status": "restart_completed",
    }
    return RealtimeSessionState.model_validate({**values, **fields})


@IDS
@pytest.mark.parametrize("text", ["a", "x" * 512, "ü" * 256, "urn:a/b c"])
def test_an_id_is_its_text_in_json_and_redacted_elsewhere(kind: Any, text: str) -> None:
    made = kind(text)
    assert json.loads(made.model_dump_json()) == text == made.value
    assert kind.model_validate_json(json.dumps(text)) == made
    assert {str(made), repr(made), f"{made}", f"{made!r}"} == {f"{kind.__name__}(redacted)"}
    assert [*made.__rich_repr__()] == ["redacted"]
    assert hash(made) == hash(kind(text))


@IDS
@pytest.mark.parametrize("text", ["", "x" * 513, "ü" * 257, "private\n", "private\x7f", "private\u0085", 7, None])
def test_what_is_no_id_is_refused_and_not_quoted(kind: Any, text: Any) -> None:
    with pytest.raises(ValidationError) as refused:
        kind(text)
    assert "private" not in str(refused.value)
    with pytest.raises(ValidationError) as refused:
        kind.model_validate_json(json.dumps(text))
    assert "private" not in str(refused.value)


def test_ids_of_two_kinds_are_never_equal() -> None:
    assert RealtimeSessionId("a") != RealtimeConnectionId("a")


def test_an_error_in_a_state_quotes_nothing_of_it() -> None:
    with pytest.raises(ValidationError) as refused:
        state(connection_id="private\n")
    assert "private" not in str(refused.value)


def test_ids_are_redacted_within_other_values() -> None:
    assert "c1" not in repr(state())
    assert "f1" not in repr(out("f1").frame_id)


def test_the_state_has_the_measured_json() -> None:
    cursor = '{"chunk_sequence":1,"byte_offset":0,"precision":"chunk_sequence_only"}'
    assert state().model_dump_json() == (
        '{"session_id":"realtime.session.run1","connection_id":"c1","provider_route_ref":"route",'
        f'"send_cursor":{cursor},"receive_cursor":{cursor},"restart_count":1,'
        '"backpressure_state":{"capacity":32,"queued_frames":0,"dropped_frames":0,"gated_frames":1,'
        '"last_action":"gate","policy_ref":{"kind":"host","id":"p"}},"lifecycle_status":"restart_completed"}'
    )
    assert RealtimeSessionState.model_validate_json(state().model_dump_json()) == state()


def test_policies_are_in_the_json_if_there_are_any() -> None:
    with_policy = state(policy_refs=[PolicyRef(kind="privacy", id="p", version="2")])
    assert with_policy.model_dump(mode="json")["policy_refs"] == [{"kind": "privacy", "id": "p", "version": "2"}]
    assert RealtimeSessionState.model_validate_json(with_policy.model_dump_json()) == with_policy


@pytest.mark.parametrize(
    "fields",
    [
        {"restart_count": 1 << 32},
        {"restart_count": -1},
        {"restart_count": True},
        {"lifecycle_status": "asleep"},
        {"unheard": 1},
        {"policy_refs": [PolicyRef.new(str(n)) for n in range(65)]},
        {"send_cursor": {"chunk_sequence": 1 << 64}},
    ],
    ids=str,
)
def test_a_state_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        state(**fields)


def test_cursors_are_made_by_what_they_are_precise_to() -> None:
    assert StreamCursor.chunk(3).model_dump(mode="json") == {
        "chunk_sequence": 3,
        "byte_offset": 0,
        "precision": "chunk_sequence_only",
    }
    assert StreamCursor.byte(3, 7).precision is StreamCursorPrecision.BYTE_OFFSET
    assert StreamCursor.marker(3, "m").label == "m"


@given(st.lists(CURSORS, max_size=6))
def test_cursors_have_a_total_order_by_their_fields(cursors: list[StreamCursor]) -> None:
    ordered = sorted(cursors)
    for one, other in pairwise(ordered):
        assert one <= other
        assert (one < other) != (one == other)
        assert not other < one
    ranks = list(StreamCursorPrecision)
    keys = [(c.chunk_sequence, c.byte_offset, ranks.index(c.precision), c.label is not None, c.label) for c in ordered]
    assert all(one[:4] <= other[:4] for one, other in pairwise(keys))


def test_a_cursor_behind_the_last_is_refused() -> None:
    assert StreamCursor.chunk(U64_MAX - 1).advanced("send").chunk_sequence == U64_MAX
    with pytest.raises(LimitExceededError):
        StreamCursor.chunk(U64_MAX).advanced("send")


def test_a_counter_behind_the_last_is_refused() -> None:
    full = RealtimeBackpressureState(capacity=1, gated_frames=U64_MAX, policy_ref=PolicyRef.new("p"))
    with pytest.raises(LimitExceededError):
        full.gate()


def test_privacy_and_retention_are_ordered() -> None:
    classes = list(PrivacyClass)
    for index, one in enumerate(classes):
        assert [one.covers(other) for other in classes] == [place <= index for place in range(len(classes))]
    assert [one.rank for one in RetentionClass] == [0, 1, 2, 3, 4, 5]


def test_a_frame_has_no_place_for_bytes() -> None:
    for fields in ({"content": b"x"}, {"content_refs": [b"\x00"]}, {"redacted_summary": b"\xff"}):
        with pytest.raises(ValidationError):
            RealtimeFrame.model_validate({"frame_id": "f", "media_kind": "audio", **fields})


def test_a_frame_comes_back_as_it_was() -> None:
    for frame in (out("f", critical=True), incoming("g", response_id="r1")):
        assert RealtimeFrame.model_validate_json(frame.model_dump_json()) == frame


def record(kind: str, **fields: Any) -> RealtimeSessionRecord:
    values = {"sequence": 7, "kind": kind, "state": state(), "recorded_at": "2026-01-01T00:00:00.000000Z"}
    return RealtimeSessionRecord.model_validate({**values, **fields})


def test_a_record_id_is_made_of_kind_number_and_frame() -> None:
    sent = record("input_sent", frame_id="f1", privacy="public", answers=6)
    assert sent.record_id == "realtime.input_sent.7.f1"
    assert record("interrupted").record_id == "realtime.interrupted.7"
    assert RealtimeSessionRecord.model_validate_json(sent.model_dump_json()) == sent


def test_there_are_fifteen_kinds() -> None:
    assert len(RealtimeRecordKind) == 15
    assert len(RealtimeSessionStatus) == 13


@pytest.mark.parametrize(
    ("kind", "fields"),
    [
        ("input_send_requested", {}),
        ("input_send_requested", {"frame": out("f"), "frame_id": "g"}),
        ("input_send_requested", {"frame": incoming("f"), "frame_id": "f"}),
        ("output_received", {"frame": incoming("f"), "frame_id": "f"}),
        ("output_received", {"frame": out("f"), "frame_id": "f", "answers": 1}),
        ("input_sent", {"frame_id": "f", "privacy": "public"}),
        ("input_sent", {"frame_id": "f", "answers": 1}),
        ("interrupted", {"answers": 1}),
        ("interrupted", {"frame": out("f"), "frame_id": "f"}),
        ("interrupted", {"close_reason": "normal"}),
        ("closed", {}),
        ("interrupted", {"queued": True}),
        ("interrupted", {"takes": [1]}),
        ("interrupted", {"repeats": 1}),
        ("backpressure_applied", {"frame": out("f"), "frame_id": "f", "summary": out("s")}),
        ("interrupted", {"sequence": 0}),
    ],
    ids=str,
)
def test_a_record_that_does_not_go_with_its_kind_is_refused(kind: str, fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        record(kind, **fields)


def test_the_sidecar_for_a_voice() -> None:
    made = sidecar()
    assert (made.queue_capacity, made.overflow_policy, made.overflow.value) == (32, "gate_during_restart", "gate")
    assert [policy.id for policy in made.policy_refs] == [
        "media",
        "policy.voice.send",
        "policy.voice.receive",
        "policy.voice.restart",
        "policy.voice.backpressure",
        "policy.voice.interrupt",
        "policy.voice.close",
    ]
    text = json.dumps(made.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    assert made.content_hash() == "sha256:" + hashlib.sha256(text.encode()).hexdigest()
    assert made.content_hash() != sidecar("block").content_hash()


@pytest.mark.parametrize(
    "fields",
    [
        {"queue_capacity": 0},
        {"queue_capacity": 4097},
        {"overflow_policy": "hope"},
        {"sidecar_id": ""},
        {"provider_route_ref": ""},
        {"realtime_capability_ref": ""},
    ],
    ids=str,
)
def test_a_sidecar_that_cannot_work_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        type(sidecar()).model_validate({**sidecar().model_dump(), **fields})
