"""Rows: what may be a line, what becomes of it, and what is read from it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.errors import CorruptSnapshotError, InvalidInputError, LimitExceededError
from snapshots.usage import ROW_BYTES_MAX, TokenUsageRecord, UsageRow
from snapshots.usage.rows import KNOWN, Line, distinct_lines, line_of, row_of

KEY = "usage/x"
RECORD = {
    "ts": "2026-01-01T00:00:00Z",
    "session_id": "s1",
    "model": "m",
    "provider": "p",
    "message_count": 1,
    "cache_creation_input_tokens": 2,
    "cache_read_input_tokens": 3,
    "input_tokens": 4,
    "output_tokens": 5,
    "thinking_tokens": 6,
    "system_tokens": 7,
    "summary_tokens": 8,
    "window_tokens": 9,
    "total_tokens": 10,
    "max_context_tokens": 11,
    "budget_limit": 12,
    "prompt_cached_tool_outputs": 13,
    "prompt_cached_tool_tokens_saved": 14,
    "truncation_occurred": True,
    "segments_removed": 15,
}


def checked(text: str) -> Line:
    return line_of(text, source="usage", position="line 7")


def refused(text: str) -> str:
    with pytest.raises(InvalidInputError) as caught:
        checked(text)
    assert caught.value.source == "usage"
    assert caught.value.position.startswith("line 7")
    return f"{caught.value.position}: {caught.value.reason}"


def test_the_id_stands_in_front_and_the_rest_is_the_callers_text() -> None:
    text = '{ "b" : 1.50,"a":  [1e3, "\\u00e9 ü"] }'
    assert checked(f"  {text}\n").stored("w-1-0") == b'{"row_id":"w-1-0",' + text[1:].encode()
    assert checked("{ }").stored("w-1-0") == b'{"row_id":"w-1-0" }'
    assert checked("{}").stored("w-1-0") == b'{"row_id":"w-1-0"}'


def test_an_id_of_the_line_itself_is_its_id() -> None:
    line = checked('{"a":1, "row_id":"mine"}')
    assert line.row_id == "mine"
    assert line.stored("w-1-0") == b'{"a":1, "row_id":"mine"}'
    assert row_of(line.stored("w-1-0"), key=KEY).row_id == "mine"


@pytest.mark.parametrize("front", ["\ufeff", "\ufeff\ufeff", " \ufeff", "\ufeff ", "\r\n\ufeff\t\ufeff\n"])
@pytest.mark.parametrize("text", ['{"a":1}', '{"a":1, "row_id":"mine"}'])
def test_blanks_and_byte_order_marks_in_front_go(front: str, text: str) -> None:
    line = checked(front + text + " \n")
    assert line.text == text.encode()
    assert row_of(line.stored("w-1-0"), key=KEY).value["a"] == 1
    refused(f"{text}\ufeff")
    refused(front)


def test_line_breaks_between_tokens_become_spaces() -> None:
    stored = checked('{\r\n "a": 1,\n "b": "x\\ny"\n}').stored("w-1-0")
    assert stored == b'{"row_id":"w-1-0",   "a": 1,  "b": "x\\ny" }'


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(1 << 63), (1 << 64) - 1) | st.text(st.characters(codec="utf-8")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.characters(codec="utf-8")), inner),
    max_leaves=10,
)


@given(
    st.dictionaries(st.text(st.characters(codec="utf-8")).filter(lambda name: name not in {*KNOWN, "row_id"}), JSON),
    st.sampled_from([None, 2]),
    st.booleans(),
)
def test_every_object_is_read_back_on_one_line(value: dict[str, Any], indent: int | None, ascii_only: bool) -> None:
    stored = checked(json.dumps(value, indent=indent, ensure_ascii=ascii_only)).stored("w-1-0")
    assert b"\n" not in stored
    assert b"\r" not in stored
    row = row_of(stored, key=KEY)
    assert row.row_id == "w-1-0"
    assert row.value == {"row_id": "w-1-0", **value}
    assert list(row.value) == ["row_id", *value]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "[1]",
        "1",
        "null",
        '{"a":',
        '{"a":1} {"b":2}',
        '{"a":NaN}',
        '{"a":Infinity}',
        '{"a":18446744073709551616}',
        '{"a":-9223372036854775809}',
        '{"a":1,"a":2}',
        '{"a":"\\ud800"}',
        '{"a":"\ud800"}',
        '{"a":"x\ny"}',
        '{"a":' + "[" * 100 + "]" * 100 + "}",
        '{"row_id":""}',
        '{"row_id":7}',
        '{"row_id":null}',
        '{"row_id":"a\\u0000b"}',
        json.dumps({"row_id": "x" * 513}),
        '{"row_id":"a","row_id":"b"}',
    ],
)
def test_what_could_not_be_given_back_is_refused(text: str) -> None:
    refused(text)


@pytest.mark.parametrize("name", sorted(KNOWN - {"ts", "session_id", "model", "provider", "truncation_occurred"}))
def test_a_count_is_a_whole_number_of_64_bits(name: str) -> None:
    for wrong in ("-1", "1.0", '"1"', "true", "[]"):
        assert f"line 7: {name}: want a whole number" in refused(f'{{"{name}":{wrong}}}')
    refused(f'{{"{name}":{1 << 64}}}')
    for right in ("0", str((1 << 64) - 1), "null"):
        checked(f'{{"{name}":{right}}}')


def test_texts_and_flags_are_what_they_are() -> None:
    for name in ("ts", "session_id", "model", "provider"):
        assert "want a text" in refused(f'{{"{name}":1}}')
    assert "want true or false" in refused('{"truncation_occurred":1}')


def test_a_line_has_at_most_a_mebibyte() -> None:
    frame = len('{"a":""}')
    checked('{"a":"' + "x" * (ROW_BYTES_MAX - frame) + '"}')
    for text in ("x" * (ROW_BYTES_MAX - frame + 1), "é" * (ROW_BYTES_MAX // 2)):
        with pytest.raises(LimitExceededError, match=r"\(usage, line 7\)"):
            checked(f'{{"a":"{text}"}}')


def test_a_line_that_is_there_already_is_kept_once_and_one_that_differs_is_refused() -> None:
    def numbered(*texts: str) -> list[Line]:
        return [line_of(text, source="usage", position=f"line {n}") for n, text in enumerate(texts, start=1)]

    one, other, none = '{"a":1,"row_id":"x"}', '{"a":2,"row_id":"x"}', '{"a":1}'
    kept, places = distinct_lines(numbered(none, one, none, f" {one}\n", none), source="usage")
    assert [line.position for line in kept] == ["line 1", "line 2", "line 3", "line 5"]
    assert places == [0, 1, 2, 1, 3]
    with pytest.raises(InvalidInputError, match=r"line 3: row_id: 'x' is that of line 1 as well"):
        distinct_lines(numbered(one, none, other), source="usage")


def test_a_record_has_the_twenty_fields_and_keeps_the_others() -> None:
    assert set(RECORD) == KNOWN
    assert len(KNOWN) == 20
    record = TokenUsageRecord.of({**RECORD, "row_id": "x", "other": [1]}, source="usage")
    assert {name: getattr(record, name) for name in KNOWN} == RECORD
    assert record.extra == {"row_id": "x", "other": [1]}
    assert TokenUsageRecord.of(json.loads(record.to_line()), source="usage") == record
    assert TokenUsageRecord.of({"model": None}, source="usage") == TokenUsageRecord()
    with pytest.raises(InvalidInputError, match="input_tokens"):
        TokenUsageRecord.of({"input_tokens": -1}, source="usage")


def test_a_stored_row_that_no_append_admits_is_corrupt() -> None:
    for stored in (b"", b"x", b"[]", b"{}", b'{"row_id":7}', b'{"row_id":"', b"\xff", b"[" * 100_000):
        with pytest.raises(CorruptSnapshotError) as caught:
            row_of(stored, key=KEY)
        assert caught.value.key == KEY
    for text in ("{", "[1]", '{"a":NaN}', "[" * 100_000):
        with pytest.raises(CorruptSnapshotError, match="row x"):
            _ = UsageRow("x", text, KEY).value
    with pytest.raises(CorruptSnapshotError, match="input_tokens"):
        _ = UsageRow("x", '{"row_id":"x","input_tokens":-1}', KEY).record


def test_an_id_with_escapes_is_read_as_what_it_says() -> None:
    assert row_of(b'{"row_id":"a\\u00e9\\"b"}', key=KEY).row_id == 'aé"b'
