"""Turn stamps: equal turns have equal marks, and only well-formed ones are taken."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.errors import LimitExceededError
from snapshots.stamps import MARK_BYTES, StampMark, TurnStamp, mark, mark_from_plain
from storage.errors import InvalidKeyError
from storage.keys import ID_BYTES_MAX
from tests.snapshots.records import marks, texts


@given(marks)
def test_a_mark_comes_back(one: StampMark) -> None:
    assert mark_from_plain(one.to_plain()) == one


@given(st.tuples(texts, texts), st.tuples(texts, texts))
def test_marks_are_equal_when_turn_and_content_are(one: tuple[str, str], other: tuple[str, str]) -> None:
    assert (mark(*one) == mark(*other)) == (one == other)
    assert (mark(*one).turn == mark(*other).turn) == (one[0] == other[0])
    assert len(mark(*one).turn) == len(mark(*one).content) == MARK_BYTES


def test_turn_and_content_are_not_taken_for_each_other() -> None:
    assert mark("a", "b") != mark("b", "a")


def test_any_text_may_stand_for_the_content() -> None:
    assert mark("t", "\ud800") != mark("t", "\ud801")
    assert TurnStamp("t", "\ud800").content_hash == "\ud800"


@pytest.mark.parametrize("turn_id", ["t", "x" * ID_BYTES_MAX, "日" * 170, " ", "a/b"])
def test_what_is_a_turn_id(turn_id: str) -> None:
    assert TurnStamp(turn_id).turn_id == turn_id


@pytest.mark.parametrize("turn_id", ["", "a\x00", "\n", "\ud800"])
def test_what_is_no_turn_id(turn_id: str) -> None:
    with pytest.raises(InvalidKeyError, match="turn id"):
        TurnStamp(turn_id)


@pytest.mark.parametrize(("turn_id", "size"), [("x" * 513, 513), ("ü" * 300, 600), ("日" * 171, 513)])
def test_a_turn_id_over_its_limit_says_its_size_in_bytes(turn_id: str, size: int) -> None:
    with pytest.raises(LimitExceededError) as caught:
        TurnStamp(turn_id)
    assert caught.value.value == size
    assert str(ID_BYTES_MAX) in caught.value.limit


GOOD = [b"t" * MARK_BYTES, b"c" * MARK_BYTES]


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        GOOD[:1],
        [*GOOD, 1],
        [b"t", b"c"],
        ["t" * 16, "c" * 16],
        [None, None],
        b"ab",
        "ab",
        {GOOD[0]: 1, GOOD[1]: 2},
    ],
)
def test_what_is_no_mark_is_refused(plain: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        mark_from_plain(plain)
