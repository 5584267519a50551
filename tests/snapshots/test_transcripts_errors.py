"""Every bad transcript is refused whole, with its position."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from snapshots.adapters.transcripts import read_transcripts
from snapshots.adapters.transcripts.reading import parse_transcripts
from snapshots.errors import InvalidInputError

ITEM = {"task_id": 1, "trial": 0, "traj": [{"role": "user", "content": "hi"}]}


def refused(text: str | bytes) -> InvalidInputError:
    raw = text.encode("utf-8", "surrogatepass") if isinstance(text, str) else text
    with pytest.raises(InvalidInputError) as caught:
        parse_transcripts(raw, source="x.json", stem="x")
    assert caught.value.source == "x.json"
    assert "\n" not in str(caught.value)
    return caught.value


def refused_value(value: Any) -> tuple[str, str]:
    error = refused(json.dumps(value))
    return error.position, error.reason


@pytest.mark.parametrize(
    ("text", "position", "reason"),
    [
        ("", "line 1 column 1", "the file is empty"),
        (" \n", "line 2 column 1", "the file is empty"),
        ("hello", "line 1 column 1", "not JSON (Expecting value)"),
        ('[\n{"a": 1},\n{"b": }\n]', "line 3 column 7", "not JSON (Expecting value)"),
        ("[] []", "line 1 column 4", "not JSON (Extra data)"),
        ('[{"task_id": 1', "line 1 column 15", "looks truncated"),
        ('[{"task_id": 1, "tri', "line 1 column 17", "looks truncated"),
        ('[{"task_id": tr', "line 1 column 14", "looks truncated"),
        (b'[{"task_id": "\xe2\x82', "byte 14", "looks truncated"),
        (b"\xff\xfe[]", "byte 0", "not UTF-8"),
        ("[" * 100_000, "", "nested deeper than 60 levels"),
    ],
)
def test_what_is_no_json_is_refused_with_its_place(text: str | bytes, position: str, reason: str) -> None:
    error = refused(text)
    assert error.position == position
    assert reason in error.reason


@pytest.mark.parametrize("document", [{}, [], None, 3, "x", [1], [{"role": "user"}], {"messages": []}])
def test_a_foreign_document_is_refused(document: Any) -> None:
    position, reason = refused_value(document)
    assert position == ""
    assert "not a transcript" in reason


@pytest.mark.parametrize(
    ("document", "position", "reason"),
    [
        ([ITEM, 5], "item 1", "want a run"),
        ([{"task_id": 1, "traj": []}], "item 0: trial", "missing"),
        ([ITEM, {"trial": 1, "traj": []}], "item 1: task_id", "missing"),
        ([ITEM, {"task_id": 1, "trial": 1}], "item 1: traj", "missing"),
        ([{**ITEM, "task_id": True}], "item 0: task_id", "want a number or a text"),
        ([{**ITEM, "trial": ""}], "item 0: trial", "want a number or a text"),
        ([{**ITEM, "traj": {}}], "item 0: traj", "want a list of messages"),
        ([{**ITEM, "traj": [{"role": "user"}, "hi"]}], "item 0: traj[1]", "want a message"),
        ([{**ITEM, "traj": [{"content": "x"}]}], "item 0: traj[0].role", "missing"),
        ([{**ITEM, "traj": [{"role": None}]}], "item 0: traj[0].role", "want the role"),
        ({"trajectory": []}, "history", "missing"),
        ({"history": []}, "trajectory", "missing"),
        ({"history": [], "trajectory": {}}, "trajectory", "want a list of steps"),
        ({"history": [], "trajectory": [1]}, "trajectory[0]", "want a step"),
        ({"history": [{"role": "user"}, {}], "trajectory": []}, "history[1].role", "missing"),
        ([ITEM, {**ITEM, "trial": 1}, ITEM], "item 2", "a second session 'x-1-0', after item 0"),
        ([ITEM, {**ITEM, "task_id": "a\nb"}], "item 1", "control characters"),
        ([{**ITEM, "task_id": "a" * 600}], "", "at most 512"),
    ],
)
def test_a_wrong_shape_is_refused_with_its_place(document: Any, position: str, reason: str) -> None:
    found_position, found_reason = refused_value(document)
    assert found_position == position
    assert reason in found_reason


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("18446744073709551616", "64 bits"),
        ("-9223372036854775809", "64 bits"),
        ("9" * 10_000, "64 bits"),
        ("NaN", "finite"),
        ("-Infinity", "finite"),
        ("1e999", "finite"),
        ('"\\ud800"', "lone surrogate U+D800"),
        ('{"a": 1, "a": 2}', "'a' stands twice"),
    ],
)
def test_a_value_that_could_not_be_given_back_is_refused(value: str, reason: str) -> None:
    good = json.dumps(ITEM)
    error = refused(f'[{good}, {{"task_id": 2, "trial": 0, "traj": [{{"role": "user", "content": {value}}}]}}]')
    assert error.position == "item 1: traj[0].content"
    assert reason in error.reason
    assert refused(f'{{"history": [], "trajectory": [], "info": [{value}]}}').position == "info[0]"


@pytest.mark.parametrize("value", ["18446744073709551615", "-9223372036854775808", '"\\ud83d\\ude00"', "1e308", "-0.0"])
def test_values_at_the_edge_are_accepted(value: str) -> None:
    text = f'{{"history": [{{"role": "user", "content": {value}}}], "trajectory": []}}'
    (session,) = parse_transcripts(text.encode(), source="x.traj", stem="x")
    assert session.document == json.loads(text)


def test_a_lone_surrogate_in_a_key_is_refused() -> None:
    assert "lone surrogate" in refused('{"history": [], "trajectory": [], "info": {"\\udfff": 1}}').reason


def test_nesting_is_bounded_and_the_deepest_allowed_can_be_stored() -> None:
    def nested(levels: int) -> str:
        return '{"history": [], "trajectory": [], "x": ' + "[" * (levels - 1) + "]" * (levels - 1) + "}"

    (session,) = parse_transcripts(nested(60).encode(), source="x", stem="x")
    assert session.document["x"]
    assert "deeper than 60" in refused(nested(61)).reason


def test_a_byte_order_mark_is_passed_over() -> None:
    assert parse_transcripts(b"\xef\xbb\xbf" + json.dumps([ITEM]).encode(), source="x", stem="x")


def test_a_file_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no.json", "No such file"), (tmp_path, "Is a directory"), (Path("a\0b"), "null")):
        with pytest.raises(InvalidInputError, match=reason):
            read_transcripts(path)


def test_a_file_whose_name_gives_no_id_is_refused(tmp_path: Path) -> None:
    document = json.dumps({"history": [], "trajectory": []})
    for name in ("a\tb.traj", "\udcff.traj"):
        path = tmp_path / name
        path.write_text(document)
        with pytest.raises(InvalidInputError, match="gives no session id") as caught:
            read_transcripts(path)
        assert str(caught.value).encode()


def test_the_format_is_told_by_content_not_by_suffix(tmp_path: Path) -> None:
    path = tmp_path / "odd.txt"
    path.write_text(json.dumps({"history": [], "trajectory": []}))
    assert read_transcripts(path)[0].session_id == "odd"
    path.write_text(json.dumps([ITEM]))
    assert read_transcripts(path)[0].session_id == "odd-1-0"
