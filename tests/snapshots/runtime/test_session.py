"""The document of a runtime: what it keeps, what it refuses, and how it is taken apart and put together."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import Message, Part
from snapshots.errors import InvalidStateError
from snapshots.fields import U64_MAX
from snapshots.runtime import RuntimeMetadata, RuntimeSession
from snapshots.runtime.session import metadata_from_plain, moment

WHOLE: dict[str, Any] = {
    "session_id": "s1",
    "title": "Trip",
    "title_version": 2,
    "pinned": True,
    "metadata_version": 7,
    "metadata": {"gold_config": {"id": 1.0}, "x": None},
    "messages": [{"id": "m1", "role": "user", "content": "hi"}],
    "updated_at": "2026-01-01T00:00:00.123456789+02:00",
    "spawn_depth": 0,
    "model_ref": {"provider": "p"},
    "copy": "a field named like a method",
}


def test_fields_that_are_not_known_are_kept() -> None:
    assert RuntimeSession.model_validate(WHOLE).model_dump() == WHOLE
    assert json.loads(RuntimeSession.model_validate_json(json.dumps(WHOLE)).model_dump_json()) == WHOLE
    further = RuntimeSession.model_validate(WHOLE).further
    assert further == {name: WHOLE[name] for name in ("spawn_depth", "model_ref", "copy")}


def test_it_is_taken_apart_and_put_together() -> None:
    session = RuntimeSession.model_validate(WHOLE)
    metadata = session.authoritative()
    assert metadata.to_plain() == {k: v for k, v in WHOLE.items() if k not in ("session_id", "messages")}
    assert RuntimeSession.of("s1", metadata, WHOLE["messages"]) == session
    assert metadata_from_plain(metadata.to_plain()) == metadata
    other = RuntimeSession(session_id="s2", title="old", metadata={"y": 1})
    other.adopt(metadata, [{"id": "m2"}])
    assert other.model_dump() == {**WHOLE, "session_id": "s2", "messages": [{"id": "m2"}]}
    other.adopt(RuntimeMetadata(), [])
    assert other == RuntimeSession(session_id="s2")


DECLARED = frozenset(RuntimeSession.model_fields)
NAMES = st.one_of(
    st.sampled_from(sorted({*dir(RuntimeMetadata), *dir(RuntimeSession)} - DECLARED)), st.text(max_size=8)
)
FOREIGN = st.dictionaries(NAMES.filter(lambda name: name not in DECLARED), st.one_of(st.integers(0, 3), st.none()))


@given(FOREIGN, FOREIGN)
def test_a_field_of_others_may_have_any_name(one: dict[str, Any], other: dict[str, Any]) -> None:
    session = RuntimeSession.model_validate({"session_id": "s1", **one})
    metadata = session.authoritative()
    assert metadata.further == one
    assert RuntimeSession.of("s1", metadata, []).further == one
    assert session.checked().further == one
    assert RuntimeSession.model_validate_json(json.dumps(session.model_dump())).further == one
    session.adopt(metadata_from_plain(other), [{"id": "m1"}])
    assert type(session) is RuntimeSession
    assert (
        session.model_dump()
        == RuntimeSession.model_validate({"session_id": "s1", "messages": [{"id": "m1"}], **other}).model_dump()
    )
    assert metadata.changed(**other).further == {**one, **other}


def test_what_was_taken_apart_is_shared_with_nobody() -> None:
    session = RuntimeSession.model_validate(WHOLE)
    metadata, copied = session.authoritative(), session.checked()
    session.metadata["gold_config"]["id"] = 2
    session.messages[0]["content"] = "changed"
    session.messages.clear()
    assert metadata.metadata == WHOLE["metadata"]
    assert copied.model_dump() == WHOLE
    plain = metadata.to_plain()
    plain["metadata"]["gold_config"]["id"] = 3
    assert metadata.metadata == WHOLE["metadata"]


def test_a_message_of_ours_is_taken_as_it_is_on_the_wire() -> None:
    message = Message(id="m1", role="User", parts=[Part(id="m1.p0", kind="Text", content="hi")])
    session = RuntimeSession(session_id="s1", messages=[message])
    session.messages.append(message)
    assert session.checked().messages == [message.model_dump(mode="json")] * 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"session_id": None},
        {"title": None},
        {"title": b"bytes"},
        {"title_version": -1},
        {"title_version": True},
        {"title_version": "1"},
        {"metadata_version": U64_MAX + 1},
        {"metadata_version": 1.0},
        {"pinned": 1},
        {"pinned": "yes"},
        {"metadata": None},
        {"metadata": [["a", 1]]},
        {"metadata": {"a": float("nan")}},
        {"metadata": {"a": object()}},
        {"metadata": {1: "a"}},
        {"messages": None},
        {"messages": ["hi"]},
        {"messages": [{"id": 5}]},
        {"messages": [{"id": "m1", "x": 1 << 64}]},
        {"messages": {"id": "m1"}},
        {"updated_at": "yesterday"},
        {"updated_at": "2026-02-30T00:00:00Z"},
        {"updated_at": "0000-01-01T00:00:00Z"},
        {"further": {1, 2}},
    ],
    ids=str,
)
def test_what_is_no_session_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        RuntimeSession.model_validate({**WHOLE, **wrong})


@pytest.mark.parametrize("message", [{}, {"id": None}, {"id": ""}, {"role": "user"}])
def test_a_message_without_an_id_is_one(message: dict[str, Any]) -> None:
    assert RuntimeSession(session_id="s1", messages=[message]).messages == [message]


def test_what_became_no_session_is_noticed_before_it_is_saved() -> None:
    session = RuntimeSession.model_validate(WHOLE)
    session.metadata["x"] = object()
    with pytest.raises(InvalidStateError, match="object is not a JSON value"):
        session.checked()
    session = RuntimeSession.model_validate(WHOLE)
    session.messages.append({"id": 7})
    with pytest.raises(InvalidStateError, match="the id of a message is text"):
        session.checked()
    with pytest.raises(ValueError, match="valid string"):
        session.title = 5  # type: ignore[assignment]  # what is not typed may do


def test_a_refusal_says_where_and_not_what_stands_there() -> None:
    session = RuntimeSession.model_validate(WHOLE)
    session.messages.append({"id": "m2", "content": {"secret", "another"}})
    with pytest.raises(InvalidStateError) as caught:
        session.checked()
    wanted = "this is no session that can be saved: messages[1]: set is not a JSON value"
    assert caught.value.reason == wanted
    with pytest.raises(InvalidStateError) as caught:
        metadata_from_plain({"title": ["secret"]})
    assert caught.value.reason == "this is no metadata of a session: title: Input should be a valid string"


def test_metadata_is_changed_by_making_another() -> None:
    metadata = RuntimeSession.model_validate(WHOLE).authoritative()
    changed = metadata.changed(title="Rome", spawn_depth=1)
    assert (changed.title, changed.further["spawn_depth"], metadata.title) == ("Rome", 1, "Trip")
    assert set(metadata.without("copy").further) == {"spawn_depth", "model_ref"}
    with pytest.raises(InvalidStateError, match="no metadata of a session"):
        metadata.changed(pinned="no")
    with pytest.raises(ValueError, match="frozen"):
        metadata.title = "x"  # type: ignore[misc]  # frozen


@pytest.mark.parametrize("plain", [None, [], {"session_id": "s1"}, {"messages": []}, {"title": 1}])
def test_what_is_no_metadata_is_refused(plain: Any) -> None:
    with pytest.raises(InvalidStateError):
        metadata_from_plain(plain)


# Instants.


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        ("2026-01-01T00:00:00Z", "2026-01-01T00:00:01Z"),
        ("2026-01-01T00:00:00.49Z", "2026-01-01T00:00:00.5Z"),
        ("2026-01-01T00:00:00.123456789Z", "2026-01-01T00:00:00.12345679Z"),
        ("2026-01-01T01:00:00+02:00", "2026-01-01T00:00:00Z"),
        ("2026-01-01T00:00:00Z", "2025-12-31T23:59:00-00:02"),
        ("2025-12-31T23:59:59.9Z", "2025-12-31T23:59:60Z"),
        ("0001-01-01T00:00:00+23:59", "0001-01-01T00:00:00Z"),
        ("9999-12-31T23:59:59Z", "9999-12-31T23:59:59-23:59"),
    ],
)
def test_instants_compare_as_instants(earlier: str, later: str) -> None:
    assert moment(earlier) < moment(later)
    assert moment(earlier.lower()) == moment(earlier)


@given(st.datetimes(), st.datetimes())
def test_texts_of_one_form_compare_like_what_they_say(one: Any, other: Any) -> None:
    assert (moment(f"{one.isoformat()}Z") < moment(f"{other.isoformat()}Z")) == (one < other)


def test_a_fraction_of_nothing_is_none() -> None:
    assert moment("2026-01-01T00:00:00.000Z") == moment("2026-01-01T00:00:00Z")
