"""The session itself: its state, rewinds, and fields of others."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from snapshots.errors import InvalidStateError
from snapshots.portable import Event, EventActions, Session, to_state
from snapshots.portable import session as module
from snapshots.portable.session import later, replayed
from snapshots.state.values import json_text
from storage.testing.clock import START, ManualClock
from tests.snapshots.portable.samples import event, objects, original, session_documents, sessions, talk

ISO_8601 = re.compile(r"\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}\.\d{6}Z")


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> ManualClock:
    found = ManualClock()
    monkeypatch.setattr(module, "_clock", found)
    return found


def test_timestamps_are_iso_8601(clock: ManualClock) -> None:
    session = Session.new("app", "user")
    assert session.created_at == session.updated_at == "2026-01-01T00:00:00.000000Z"
    clock.advance(1.5)
    session.append(Event.new("agent", "hi"))
    assert session.updated_at == "2026-01-01T00:00:01.500000Z"
    assert session.created_at == "2026-01-01T00:00:00.000000Z"
    assert session.events[0].timestamp == int(START.timestamp()) + 1
    assert ISO_8601.fullmatch(session.updated_at)


def test_every_session_and_event_has_an_id_of_its_own() -> None:
    assert len({Session.new("app", "user").id for _ in range(3)} | {Event.new("agent").id for _ in range(3)}) == 6


def test_an_append_applies_the_delta_and_moves_the_time(clock: ManualClock) -> None:
    session = Session.new("app", "user", {"a": 1, "b": 1})
    clock.advance(1)
    session.append(event(1, state_delta={"b": None, "c": {"d": []}}))
    assert session.state == {"a": 1, "b": None, "c": {"d": []}}
    assert session.updated_at > session.created_at
    assert session.initial_state == {"a": 1, "b": 1}


def test_state_events_and_initial_state_share_no_value() -> None:
    given = {"a": {"list": [1]}}
    session = Session.new("app", "user", given)
    session.append(event(1, state_delta={"b": {"list": [1]}}))
    given["a"]["list"].append(2)
    session.state["a"]["list"].append(3)
    session.state["b"]["list"].append(4)
    session.initial_state["a"]["list"].append(5)
    assert session.initial_state == {"a": {"list": [1]}}
    assert session.events[0].actions.state_delta == {"b": {"list": [1]}}


# Rewinding.


def test_rewind_restores_the_state() -> None:
    """The case that was measured: the original leaves n at 4."""
    session = talk("i1", "i2", "i1", "i3")
    assert session.state == {"n": 4}
    assert session.rewind_to_invocation("i1") == 1
    assert [one.invocation_id for one in session.events] == ["i1", "i2", "i1"]
    assert session.state == {"n": 3}


def test_rewind_moves_updated_at(clock: ManualClock) -> None:
    session = talk("i1", "i2")
    clock.advance(1)
    session.rewind_to_invocation("i1")
    assert session.updated_at == "2026-01-01T00:00:01.000000Z"
    assert session.created_at == "2026-01-01T00:00:00.000000Z"


@pytest.mark.parametrize("invocation_id", ["unknown", "", "i3"])
def test_an_unknown_invocation_and_the_last_one_change_nothing(invocation_id: str) -> None:
    session = talk("i1", "i2", "i3")
    session.state["by hand"] = True
    before = session.export()
    assert session.rewind_to_invocation(invocation_id) == 0
    assert session.export() == before


def test_the_empty_invocation_is_that_of_events_without_one() -> None:
    session = talk("i1", "", "i2", "i3")
    assert session.rewind_to_invocation("") == 2
    assert session.state == {"n": 2}


def test_a_rewind_goes_back_to_what_the_session_was_created_with() -> None:
    session = talk("i1", state={"n": 0, "tier": "gold"})
    session.append(event(2, "i2", state_delta={"tier": None, "new": 1}))
    session.state["by hand"] = True
    assert session.rewind_to_invocation("i1") == 1
    assert session.state == {"n": 1, "tier": "gold"}


def test_a_document_of_the_original_began_with_what_no_event_set() -> None:
    session = Session.model_validate(original())
    assert session.initial_state == {"tier": "gold"}
    assert session.rewind_to_invocation("i1") == 1
    assert session.state == {"tier": "gold", "n": 3}


@settings(deadline=None)
@given(sessions(), st.sampled_from(["", "i1", "i2", "i3", "i4"]))
def test_a_rewind_is_what_replaying_gives(session: Session, invocation_id: str) -> None:
    before = session.model_copy(deep=True)
    dropped = session.rewind_to_invocation(invocation_id)
    assert session.events == before.events[: len(before.events) - dropped]
    assert session.initial_state == before.initial_state
    if dropped == 0:
        assert session == before
    else:
        assert session.events[-1].invocation_id == invocation_id
        assert all(one.invocation_id != invocation_id for one in before.events[-dropped:])
        deltas = [one.actions.state_delta for one in session.events]
        assert json_text(session.state) == json_text(replayed(before.initial_state, deltas))


@settings(deadline=None)
@given(objects, st.lists(objects, max_size=4))
def test_the_state_of_appends_is_that_of_a_replay(initial: dict[str, Any], deltas: list[dict[str, Any]]) -> None:
    session = Session.new("app", "user", initial)
    for number, delta in enumerate(deltas):
        session.append(event(number, state_delta=delta))
    assert json_text(session.state) == json_text(replayed(initial, deltas))
    assert json_text(session.initial_state) == json_text(initial)


# Time.


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1795219026Z", "2026-01-01T00:00:00.000000Z"),
        ("", "2026-01-01T00:00:00.000000Z"),
        ("2026-01-01T00:00:00", "2026-01-01T00:00:00.000000Z"),
        ("2025-12-31T23:59:59Z", "2026-01-01T00:00:00.000000Z"),
        ("2026-01-01T00:00:01Z", "2026-01-01T00:00:01Z"),
        ("2026-01-01T02:30:00+02:00", "2026-01-01T02:30:00+02:00"),
        ("2026-01-01T01:30:00+02:00", "2026-01-01T00:00:00.000000Z"),
        ("0001-01-01T00:00:00+23:59", "2026-01-01T00:00:00.000000Z"),
        ("9999-12-31T23:59:59-23:59", "2026-01-01T00:00:00.000000Z"),
    ],
)
def test_updated_at_does_not_go_back(text: str, expected: str) -> None:
    assert later(text, datetime(2026, 1, 1, tzinfo=UTC)) == expected


def test_an_instant_that_is_given_is_taken() -> None:
    session = talk("i1", "i2")
    at = datetime(2030, 1, 1, tzinfo=UTC)
    session.append(event(3), at=at)
    assert session.updated_at == "2030-01-01T00:00:00.000000Z"
    session.rewind_to_invocation("i2", at=at + timedelta(seconds=1))
    assert session.updated_at == "2030-01-01T00:00:01.000000Z"


# Documents of others.


@settings(deadline=None)
@given(session_documents)
def test_unknown_fields_are_kept_at_every_level(document: dict[str, Any]) -> None:
    plain = Session.model_validate(document).to_plain()
    with_events = {"events": [], **document}
    assert plain.keys() == with_events.keys()
    for name in document.keys() - {"events"}:
        assert json_text(plain[name]) == json_text(document[name])
    for ours, theirs in zip(plain["events"], with_events["events"], strict=True):
        actions = {**EventActions().model_dump(), **theirs["actions"]}
        assert json_text(ours) == json_text({"content": None, **theirs, "actions": actions})


def test_a_document_of_the_original_is_taken_and_given_back() -> None:
    document = original()
    assert json_text(Session.model_validate(document).to_plain()) == json_text(document)


def test_what_is_absent_has_the_defaults_of_the_original() -> None:
    document = original()
    del document["events"]
    assert Session.model_validate(document).events == []
    plain = {"id": "e", "invocation_id": "", "author": "a", "actions": {}, "timestamp": 0}
    found = Event.model_validate(plain)
    assert found.content is None
    assert found.actions.model_dump() == {
        "escalate": False,
        "skip_summarization": False,
        "transfer_to_agent": None,
        "state_delta": {},
    }


@pytest.mark.parametrize("name", ["id", "app_name", "user_id", "state", "created_at", "updated_at"])
def test_a_field_that_is_missing_is_refused(name: str) -> None:
    document = original()
    del document[name]
    with pytest.raises(ValidationError, match=name):
        Session.model_validate(document)


@pytest.mark.parametrize("name", ["id", "invocation_id", "author", "actions", "timestamp"])
def test_a_field_of_an_event_that_is_missing_is_refused(name: str) -> None:
    document = original()
    del document["events"][1][name]
    with pytest.raises(ValidationError, match=rf"events\.1\.{name}"):
        Session.model_validate(document)


@pytest.mark.parametrize(
    "changed",
    [
        {"id": 1},
        {"state": []},
        {"state": {"x": float("nan")}},
        {"state": {"x": 2**64}},
        {"later": float("inf")},
        {"later": {1: 2}},
        {"events": {}},
        {"created_at": 1_795_219_026},
    ],
)
def test_a_wrong_type_is_refused(changed: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Session.model_validate({**original(), **changed})


@pytest.mark.parametrize(
    "changed",
    [
        {"timestamp": "1795219026"},
        {"timestamp": -1},
        {"timestamp": 2**64},
        {"timestamp": 1.0},
        {"timestamp": True},
        {"content": 5},
        {"actions": {"escalate": 1}},
        {"actions": {"state_delta": None}},
    ],
)
def test_a_wrong_type_in_an_event_is_refused(changed: dict[str, Any]) -> None:
    document = original()
    document["events"][0] |= changed
    with pytest.raises(ValidationError):
        Session.model_validate(document)


@pytest.mark.parametrize("name", ["format", "format_version", "initial_state", "digest"])
def test_names_of_the_export_document_are_no_unknown_fields(name: str) -> None:
    with pytest.raises(ValidationError, match=r"Session\.import_"):
        Session.model_validate({**original(), name: 1})


@pytest.mark.parametrize("value", [object(), (1,), {1: 2}, float("nan"), 2**64, "\ud800", {"\ud800": 1}, b""])
def test_what_is_no_json_does_not_leave_the_session(value: Any) -> None:
    session = talk("i1")
    session.state["x"] = value
    with pytest.raises(InvalidStateError, match=r"state\.x"):
        session.to_plain()
    with pytest.raises(InvalidStateError, match=r"state\.x"):
        session.export()


def test_what_is_no_event_does_not_leave_the_session() -> None:
    session = talk("i1")
    session.events.append("x")  # type: ignore[arg-type]  # what a caller may do
    with pytest.raises(InvalidStateError):
        session.export()


def test_an_event_whose_delta_was_spoilt_is_not_appended() -> None:
    session, spoilt = talk("i1"), event(2)
    spoilt.actions.state_delta["x"] = float("nan")
    before = session.export()
    with pytest.raises(InvalidStateError):
        session.append(spoilt)
    assert session.export() == before


def test_a_state_that_is_no_json_makes_no_session() -> None:
    with pytest.raises(InvalidStateError, match="state"):
        Session.new("app", "user", {"x": object()})


OWN = ["format", "format_version", "initial_state", "digest"]


@pytest.mark.parametrize("name", OWN)
def test_an_assignment_that_is_refused_does_not_stay(name: str) -> None:
    session, before = talk("i1"), talk("i1").to_plain().keys()
    with pytest.raises(InvalidStateError, match=name):
        setattr(session, name, "x")
    assert session.to_plain().keys() == before
    assert Session.import_(session.export()) == session


@pytest.mark.parametrize("name", [*OWN, "state"])
def test_a_name_that_is_taken_does_not_leave_the_session(name: str) -> None:
    session = talk("i1")
    assert session.model_extra is not None
    session.model_extra[name] = "x"
    for act in (session.to_plain, session.export, lambda: to_state(session)):
        with pytest.raises(InvalidStateError, match=name):
            act()


@pytest.mark.parametrize("wrong", [5, 0, [], [("a", 1)], "x", False])
def test_what_is_no_object_is_no_state_and_no_delta(wrong: Any) -> None:
    with pytest.raises(InvalidStateError):
        Session.new("app", "user", wrong)
    with pytest.raises(InvalidStateError):
        Event.new("agent", state_delta=wrong)


def test_a_naive_instant_changes_nothing() -> None:
    session, naive = talk("i1", "i2"), START.replace(tzinfo=None)
    before = session.to_plain()
    acts: list[Callable[[], object]] = [
        lambda: session.append(event(3), at=naive),
        lambda: session.rewind_to_invocation("i1", at=naive),
        lambda: Session.new("app", "user", at=naive),
    ]
    for act in acts:
        with pytest.raises(InvalidStateError, match="aware"):
            act()
    assert session.to_plain() == before
