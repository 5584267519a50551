"""Sessions and documents to test with: made by hand, and generated."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from snapshots.fields import U64_MAX
from snapshots.portable import Event, EventActions, Session
from snapshots.portable.document import OWN_NAMES
from tests.snapshots.state.strategies import json_values, texts

ODD_TIMES = ["1795219026Z", "", "2026-01-01T00:00:00Z", "0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59-23:59", "now"]
ODD_NAMES = ["_initial_state", "model_config", "append", "export", "__class__", "session_id", "", "a.b", "é"]


def event(number: int, invocation_id: str = "i1", **fields: Any) -> Event:
    """Return the event `e<number>`, which sets the key n of the state to its number."""
    actions = EventActions(state_delta=fields.pop("state_delta", {"n": number}))
    plain = {"id": f"e{number}", "invocation_id": invocation_id, "author": "agent", "content": f"said {number}"}
    return Event.model_validate({**plain, "actions": actions, "timestamp": 1_795_219_026 + number, **fields})


def talk(*invocation_ids: str, state: dict[str, Any] | None = None, session_id: str = "s1") -> Session:
    """Return a session of an event for each invocation, numbered from 1."""
    session = Session.new("app", "user", state, session_id=session_id)
    for number, invocation_id in enumerate(invocation_ids, 1):
        session.append(event(number, invocation_id))
    return session


def original() -> dict[str, Any]:
    """Return a document as the original system exports it, of seven fields, and one that we do not know."""
    actions = {"escalate": False, "skip_summarization": False, "transfer_to_agent": None}
    events = [
        {
            "id": f"e{number}",
            "invocation_id": invocation_id,
            "author": "agent",
            "content": None,
            "actions": {**actions, "state_delta": {"n": number}, "later": 1},
            "timestamp": 1_795_219_026,
            "later": [number],
        }
        for number, invocation_id in enumerate(("i1", "i2", "i1", "i3"), 1)
    ]
    return {
        "id": "s1",
        "app_name": "app",
        "user_id": "user",
        "state": {"n": 4, "tier": "gold"},
        "created_at": "1795219026Z",
        "updated_at": "1795219026Z",
        "events": events,
        "later": {"x": None},
    }


objects = st.dictionaries(texts, json_values, max_size=3)
times = st.sampled_from(ODD_TIMES) | texts | st.just("2026-03-01T10:00:00.000001Z")


def unknown(*known: str) -> st.SearchStrategy[dict[str, Any]]:
    """Generate fields that nobody knows."""
    taken = {*known, *OWN_NAMES}
    return st.dictionaries(
        (texts | st.sampled_from(ODD_NAMES)).filter(lambda name: name not in taken), json_values, max_size=2
    )


def _joined(drawn: tuple[dict[str, Any], dict[str, Any]]) -> dict[str, Any]:
    return {**drawn[0], **drawn[1]}


actions_documents = st.tuples(
    unknown(*EventActions.model_fields),
    st.fixed_dictionaries(
        {},
        optional={
            "escalate": st.booleans(),
            "skip_summarization": st.booleans(),
            "transfer_to_agent": st.none() | texts,
            "state_delta": objects,
        },
    ),
).map(_joined)
event_documents = st.tuples(
    unknown(*Event.model_fields),
    st.fixed_dictionaries(
        {
            "id": st.sampled_from(["e1", "e2", "e1:2", ""]) | texts,
            "invocation_id": st.sampled_from(["", "i1", "i2", "i3"]),
            "author": texts,
            "actions": actions_documents,
            "timestamp": st.integers(0, U64_MAX) | st.just(1_795_219_026),
        },
        optional={"content": st.none() | texts},
    ),
).map(_joined)
session_documents = st.tuples(
    unknown(*Session.model_fields),
    st.fixed_dictionaries(
        {
            "id": texts,
            "app_name": texts,
            "user_id": texts,
            "state": objects,
            "created_at": times,
            "updated_at": times,
        },
        optional={"events": st.lists(event_documents, max_size=5)},
    ),
).map(_joined)


@st.composite
def sessions(draw: st.DrawFn) -> Session:
    """Generate sessions: of any document, with any state that they were created with, and some appended to."""
    fields = draw(session_documents)
    session = Session.from_fields(fields, draw(objects)) if draw(st.booleans()) else Session.model_validate(fields)
    for document in draw(st.lists(event_documents, max_size=2)):
        session.append(Event.model_validate(document))
    return session
