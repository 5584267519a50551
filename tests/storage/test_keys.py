"""The grammar of keys: what is admitted, and that no two ids meet."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.backends.limits import is_key
from storage.errors import InvalidKeyError
from storage.keys import (
    ID_BYTES_MAX,
    KEY_BYTES_MAX,
    SEGMENT_CHARACTERS_MAX,
    check_id,
    check_key,
    check_keys,
    check_prefix,
    encode_id,
    fan_out,
)

IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=100).filter(
    lambda text: len(text.encode()) <= ID_BYTES_MAX
)


@pytest.mark.parametrize(
    ("identifier", "segment"),
    [
        ("plain-id_7", "plain-id_7"),
        ("Ünit.7", "%C3%9Cnit%2E7"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("a/b", "a%2Fb"),
        ("%2E", "%252%45"),
        ("~store", "%7Estore"),
        ("A", "%41"),
        ("x" * 150, "x" * 150),
    ],
)
def test_an_id_becomes_a_segment(identifier: str, segment: str) -> None:
    assert encode_id(identifier) == segment


@pytest.mark.parametrize("identifier", ["x" * 151, "X" * 51, "日" * 170])
def test_a_long_id_is_hashed(identifier: str) -> None:
    assert re.fullmatch("~[0-9a-f]{64}", encode_id(identifier))


@given(IDS)
def test_every_id_makes_a_key(identifier: str) -> None:
    segment = encode_id(identifier)
    assert check_key(f"t/heads/{fan_out(identifier)}/{segment}")
    assert len(segment) <= SEGMENT_CHARACTERS_MAX


@given(IDS, IDS)
def test_no_two_ids_share_a_segment_also_without_case(one: str, other: str) -> None:
    assert (encode_id(one).lower() == encode_id(other).lower()) == (one == other)


@pytest.mark.parametrize("one", ["K", "é", "ſ", "ß", "İ"])
def test_ids_that_fold_to_one_another_stay_apart(one: str) -> None:
    for other in {one.lower(), one.upper(), one.casefold()} - {one}:
        assert encode_id(one).lower() != encode_id(other).lower()


@pytest.mark.parametrize(
    ("identifier", "reason"),
    [
        ("", "empty"),
        ("a\x00", "control"),
        ("a\n", "control"),
        ("\x7f", "control"),
        ("\x85", "control"),
        ("\ud800", "Unicode"),
        ("x" * (ID_BYTES_MAX + 1), "513 bytes"),
        ("ü" * 257, "514 bytes"),
    ],
)
def test_what_is_no_id_is_refused_with_the_reason(identifier: str, reason: str) -> None:
    with pytest.raises(InvalidKeyError, match=f"tenant .*{reason}"):
        check_id(identifier, what="tenant")


@pytest.mark.parametrize("identifier", ["x" * ID_BYTES_MAX, "ü" * 256, " ", "a b", "🦀", "\u200b"])
def test_what_is_an_id_comes_back_unchanged(identifier: str) -> None:
    assert check_id(identifier) == identifier


@pytest.mark.parametrize("key", ["a", "a/b", "~store", "%41", "a.b", "-", "_", "a" * 200, "/".join(["a" * 99] * 9)])
def test_what_is_a_key_comes_back_unchanged(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key",
    ["", "/", "a/", "/a", "a//b", ".", "..", ".a", "a/.b", "a b", "a\n", "é", "G", "a\\b", "a:b", "a" * 201],
)
def test_what_is_no_key_is_refused(key: str) -> None:
    with pytest.raises(InvalidKeyError):
        check_key(key)


def test_a_key_has_a_greatest_length() -> None:
    longest = "/".join(["a" * 180] * 4 + ["b" * 176])
    assert len(check_key(longest)) == KEY_BYTES_MAX
    with pytest.raises(InvalidKeyError, match="900"):
        check_key(longest + "b")


@given(st.lists(st.text("aA/.%Z\n é", max_size=4) | st.sampled_from(["a" * 200, "a" * 201, "/".join(["a" * 180] * 5)])))
def test_many_keys_are_looked_at_as_each_of_them(parts: list[str]) -> None:
    lines = "\n".join(parts)
    wrong = [key for key in lines.split("\n") if not is_key(key)]
    if not wrong:
        assert check_keys(lines) == tuple(lines.split("\n"))
        return
    with pytest.raises(InvalidKeyError) as caught:
        check_keys(lines)
    assert caught.value.key in (wrong[0], ascii(wrong[0]))


@given(IDS, st.integers(0, 40))
def test_the_beginning_of_a_key_is_a_prefix(identifier: str, length: int) -> None:
    prefix = f"t/h/{encode_id(identifier)}"[:length]
    assert check_prefix(prefix) == prefix


@pytest.mark.parametrize("prefix", ["..", "a/../b", "a//b", "a b", "a//", "\x00"])
def test_what_begins_no_key_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidKeyError):
        check_prefix(prefix)


@given(IDS)
def test_a_fan_out_is_two_hex_digits(identifier: str) -> None:
    assert re.fullmatch("[0-9a-f]{2}", fan_out(identifier))


def test_fan_out_spreads() -> None:
    counts = [0] * 256
    for number in range(10_000):
        counts[int(fan_out(f"session-{number}"), 16)] += 1
    assert min(counts) > 10
    assert max(counts) < 80
