"""The export document: whole, exact, and refused when anything of it is wrong."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.documents import DEPTH_MAX
from snapshots.errors import InvalidInputError, InvalidStateError, UnsupportedSchemaError
from snapshots.portable import Session
from snapshots.portable.document import FORMAT, FORMAT_VERSION, document_digest, read_document
from snapshots.state.values import json_text
from tests.snapshots.portable.samples import original, sessions, talk


def resealed(document: dict[str, Any]) -> dict[str, Any]:
    """Return a document with a digest that is right."""
    return {**document, "digest": document_digest(document)}


def refused(document: Any) -> InvalidInputError:
    with pytest.raises(InvalidInputError) as caught:
        Session.import_(document, source="s1.json")
    assert caught.value.source == "s1.json"
    assert "\n" not in str(caught.value)
    return caught.value


def read(text: str | bytes) -> Session:
    raw = text.encode() if isinstance(text, str) else text
    return Session.import_(read_document(raw, source="s1.json"), source="s1.json")


def test_an_export_holds_the_events() -> None:
    document = talk("i1", "i2", state={"tier": "gold"}).export()
    assert [one["content"] for one in document["events"]] == ["said 1", "said 2"]
    assert list(document) == [
        *("id", "app_name", "user_id", "state", "created_at", "updated_at", "events"),
        *("format", "format_version", "initial_state", "digest"),
    ]
    assert (document["format"], document["format_version"]) == (FORMAT, FORMAT_VERSION)
    assert document["initial_state"] == {"tier": "gold"}
    assert document["digest"].startswith("b3:")


@settings(deadline=None)
@given(sessions())
def test_an_export_comes_back_as_it_was(session: Session) -> None:
    document = session.export()
    text = json_text(document)
    found = read(text)
    assert found == session
    assert json_text(found.export()) == text
    assert json_text(found.initial_state) == json_text(session.initial_state)


def test_the_digest_covers_unknown_fields_of_every_level() -> None:
    for path in (["later"], ["events", 0, "later"], ["events", 0, "actions", "later"]):
        document = Session.model_validate(original()).export()
        holder: Any = document
        for step in path[:-1]:
            holder = holder[step]
        holder[path[-1]] = "altered"
        assert refused(document).position == "digest"


@pytest.mark.parametrize("name", ["id", "state", "initial_state", "events", "format_version", "later", "updated_at"])
def test_a_field_that_was_taken_away_or_altered_is_noticed(name: str) -> None:
    document = Session.model_validate(original()).export()
    altered = {**document, name: {"x": 1} if name != "format_version" else True}
    del document[name]
    for one in (document, altered):
        assert refused(one).position in ("digest", "format_version")


@pytest.mark.parametrize(("one", "other"), [(1, 1.0), (1, True), (0, False), (0.0, -0.0)])
def test_what_python_takes_for_equal_is_altered(one: Any, other: Any) -> None:
    session = talk(state={"x": one})
    document = session.export()
    document["state"]["x"] = other
    assert refused(document).position == "digest"


@settings(deadline=None)
@given(sessions(), st.data())
def test_a_truncated_text_is_refused(session: Session, data: st.DataObject) -> None:
    text = json_text(session.export()).encode()
    with pytest.raises(InvalidInputError):
        read(text[: data.draw(st.integers(0, len(text) - 1))])


def test_a_truncated_text_is_called_truncated() -> None:
    text = json_text(talk("i1").export())
    with pytest.raises(InvalidInputError, match="looks truncated"):
        read(text[:-20])


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ('"n":1', '"n":NaN', "not a finite number"),
        ('"n":1', '"n":1e999', "not a finite number"),
        ('"n":1', f'"n":{2**64}', "64 bits"),
        ('"n":1', f'"n":{-(2**63) - 1}', "64 bits"),
        ('"n":1', '"n":1,"n":2', "stands twice"),
        ('"n":1', '"n":"\\ud800"', "lone surrogate"),
        ('"n":1', f'"n":{"[" * 70}{"]" * 70}', "nested deeper"),
        ('"n":1', f'"n":{"[" * 100_000}{"]" * 100_000}', "nested deeper"),
    ],
)
def test_what_could_not_be_given_back_is_refused(before: str, after: str, reason: str) -> None:
    text = json_text(talk("i1").export())
    assert before in text
    with pytest.raises(InvalidInputError, match=reason):
        read(text.replace(before, after))


def test_a_newer_format_is_refused_whatever_else_it_says() -> None:
    document = {**talk("i1").export(), "format_version": FORMAT_VERSION + 1, "events": "elsewhere"}
    with pytest.raises(UnsupportedSchemaError) as caught:
        Session.import_(document)
    assert (caught.value.found, caught.value.supported) == (2, (1,))


@pytest.mark.parametrize("version", [0, -1, "1", 1.0, True, None, [1]])
def test_what_is_no_version_is_refused(version: Any) -> None:
    assert refused({**talk("i1").export(), "format_version": version}).position == "format_version"


def test_a_document_without_a_format_says_how_to_take_it_anyway() -> None:
    error = refused(original())
    assert error.position == "format"
    assert "Session.model_validate" in error.reason
    assert refused({**original(), "format": "other"}).position == "format"


@pytest.mark.parametrize("document", [None, [], "x", 5, [original()], {1: 2}, {"x": object()}, {"x": (1,)}])
def test_what_is_no_document_is_refused(document: Any) -> None:
    refused(document)


@pytest.mark.parametrize(
    ("changed", "position"),
    [
        ({"id": 5}, "id"),
        ({"app_name": None}, "app_name"),
        ({"state": []}, "state"),
        ({"initial_state": None}, "initial_state"),
        ({"initial_state": [["a", 1]]}, "initial_state"),
        ({"events": {}}, "events"),
        ({"events": ["x"]}, "events[0]"),
        ({"events": [{}]}, "events[0].id"),
    ],
)
def test_a_wrong_type_under_a_right_digest_is_refused_with_its_place(changed: dict[str, Any], position: str) -> None:
    assert refused(resealed({**talk("i1").export(), **changed})).position == position


@pytest.mark.parametrize("name", ["id", "app_name", "user_id", "state", "created_at", "updated_at", "initial_state"])
def test_a_missing_field_under_a_right_digest_is_refused(name: str) -> None:
    document = talk("i1").export()
    del document[name]
    assert refused(resealed(document)).position == name


def test_the_original_itself_can_read_an_export() -> None:
    """It takes the seven fields, and passes over what it does not know."""
    document = talk("i1").export()
    assert {"id", "app_name", "user_id", "state", "created_at", "updated_at", "events"} <= document.keys()


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_what_can_be_exported_can_be_imported_at_any_depth() -> None:
    session = talk("i1", state={"x": nested(DEPTH_MAX - 2)})  # below the document and its state
    assert read(json_text(session.export())) == session
    session.state["x"] = [session.state["x"]]
    with pytest.raises(InvalidStateError, match="nested deeper"):
        session.export()


def test_numbers_at_the_edge_come_back() -> None:
    values = [2**64 - 1, -(2**63), 1e308, 5e-324, -0.0, 1.0, True, None, "\x00\u2028\U0001f600"]
    document = read(json.dumps(talk(state={"x": values}).export())).export()
    assert json_text(document["state"]["x"]) == json_text(values)
