"""Tool values: the escape, its refusals, and what a call's record is known by."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from snapshots.state import (
    AttachmentRef,
    ToolCallOutput,
    ToolCallRecord,
    ToolCancellation,
    ToolFailure,
    ToolValue,
)
from snapshots.state.tool_values import TAG_KEY
from tests.snapshots.state.builders import call

PICTURE = AttachmentRef(id="a1", media_type="image/png", byte_len=3)
WIRE_PICTURE = {TAG_KEY: "attachment", "ref": {"id": "a1", "media_type": "image/png", "byte_len": 3}}


def test_an_attachment_is_a_tagged_leaf() -> None:
    value = ToolValue.of({"pictures": [PICTURE, "text"]})
    assert value.model_dump() == {"pictures": [WIRE_PICTURE, "text"]}
    assert value.attachments() == [PICTURE]


def test_an_object_with_the_reserved_key_is_escaped() -> None:
    value = ToolValue.of({TAG_KEY: "attachment", "ref": {"id": "forged", "media_type": "x", "byte_len": 0}})
    wire = {TAG_KEY: "object", "entries": {TAG_KEY: "attachment", "ref": value.root["ref"]}}
    assert value.model_dump() == wire
    assert value.attachments() == []
    assert ToolValue.model_validate(wire).root == value.root


def test_escapes_nest() -> None:
    value = ToolValue.of({TAG_KEY: {TAG_KEY: [PICTURE]}})
    assert value.model_dump() == {
        TAG_KEY: "object",
        "entries": {TAG_KEY: {TAG_KEY: "object", "entries": {TAG_KEY: [WIRE_PICTURE]}}},
    }
    assert ToolValue.model_validate(value.model_dump()) == value


@pytest.mark.parametrize(
    "wire",
    [
        {TAG_KEY: "attachment"},
        {TAG_KEY: "attachment", "extra": True},
        {**WIRE_PICTURE, "extra": True},
        {TAG_KEY: "attachment", "ref": {"id": "a1"}},
        {TAG_KEY: "object"},
        {TAG_KEY: "object", "entries": []},
        {TAG_KEY: "object", "entries": {}, "extra": 1},
        {TAG_KEY: "other"},
        {TAG_KEY: 1},
        {TAG_KEY: None},
        {TAG_KEY: ["attachment"]},
    ],
)
def test_malformed_escapes_are_refused(wire: Any) -> None:
    with pytest.raises(ValidationError):
        ToolValue.model_validate(wire)
    with pytest.raises(ValidationError):
        ToolValue.model_validate([{"deep": wire}])


@pytest.mark.parametrize("value", [float("nan"), [float("inf")], {"a": {1: 2}}, {"a": (1,)}, b"x"])
def test_of_refuses_what_is_no_tool_value(value: Any) -> None:
    with pytest.raises(ValidationError):
        ToolValue.of(value)


def test_a_call_id_is_the_stable_key() -> None:
    assert call("c1").stable_key() == "c1"


@pytest.mark.parametrize("call_id", [None, ""])
def test_an_anonymous_call_is_known_by_its_content(call_id: str | None) -> None:
    key = call(call_id, {"b": 1, "a": 2}).stable_key()
    assert key == call(call_id, {"a": 2, "b": 1}).stable_key()
    assert key.startswith("anon-")
    assert len(key) == len("anon-") + 12
    assert key != call(call_id, {"a": 2, "b": True}).stable_key()
    assert key != call(call_id, {"b": 1, "a": 2}, args={"x": 1}).stable_key()
    assert key != call(call_id, {"b": 1, "a": 2}, tool="write").stable_key()


@pytest.mark.parametrize(("one", "other"), [(1, True), (1, 1.0), (0, False)])
def test_records_that_differ_only_in_json_type_are_not_the_same(one: Any, other: Any) -> None:
    assert call("c", one) == call("c", other)
    assert not call("c", one).same_as(call("c", other))
    assert call("c", one).same_as(call("c", one))


def test_the_outcome_is_tagged_by_status() -> None:
    failure = ToolFailure(failure_class="timeout", code="t", message="m", raw=ToolValue.of([PICTURE]))
    outputs = [
        ToolCallOutput.success({"a": PICTURE}),
        ToolCallOutput.failure(failure),
        ToolCallOutput.cancelled(ToolCancellation(message="stop")),
    ]
    assert [output.status for output in outputs] == ["success", "failure", "cancelled"]
    assert [output.model_dump()["outcome"]["status"] for output in outputs] == ["success", "failure", "cancelled"]
    assert [len(output.attachments()) for output in outputs] == [1, 1, 0]
    assert outputs[1].model_dump()["outcome"]["payload"]["class"] == "timeout"


def test_an_outcome_with_the_payload_of_another_is_refused() -> None:
    with pytest.raises(ValidationError):
        ToolCallRecord.model_validate(
            {
                "tool": "t",
                "args": {},
                "duration_ms": 1,
                "output": {"outcome": {"status": "failure", "payload": {"message": "m"}}},
            }
        )
