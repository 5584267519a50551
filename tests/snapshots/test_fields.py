"""Reading a record field by field: every surprise is corruption, named by record and field."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import (
    U64_MAX,
    Fields,
    columns,
    digest_from_plain,
    id_bytes,
    id_text,
    instant,
    is_whole,
    micros,
    ref_from_plain,
    ref_to_plain,
)
from storage.digest import BlobRef, Digest
from storage.errors import InvalidKeyError
from tests.snapshots.records import instants, refs


def fields(**plain: Any) -> Fields:
    return Fields(plain, key="k", record="thing")


READERS: list[tuple[Callable[[Fields], object], Any, list[Any]]] = [
    (lambda f: f.text("x"), "a", [None, 1, b"a", ["a"], {"a": 1}, True]),
    (lambda f: f.integer("x"), 0, [None, -1, U64_MAX + 1, 1.0, "1", b"1", True, [1]]),
    (lambda f: f.integer("x", 3, 5), 5, [2, 6]),
    (lambda f: f.raw("x"), b"", [None, "", 1, [], bytearray(b"x")]),
    (lambda f: f.raw("x", 2), b"ab", [b"", b"a", b"abc", "ab"]),
    (lambda f: f.rows("x", int), [1], [None, 1, "12", b"12", {"1": 2}, ["x"], [None]]),
    (lambda f: f.rows("x", int, 2), [1, 2], [[1, 2, 3]]),
    (lambda f: f.optional("x", int), None, ["x", []]),
]


@pytest.mark.parametrize(("read", "good", "bad"), READERS)
def test_what_does_not_fit_is_corrupt(read: Callable[[Fields], object], good: Any, bad: list[Any]) -> None:
    assert read(fields(x=good)) in (good, tuple(good) if isinstance(good, list) else good)
    with pytest.raises(CorruptSnapshotError, match="thing has no field 'x'"):
        read(fields(y=good))
    for value in bad:
        with pytest.raises(CorruptSnapshotError, match=r"thing .*'x'") as caught:
            read(fields(x=value))
        assert caught.value.key == "k"


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        TypeError(),
        KeyError("x"),
        IndexError(),
        AttributeError(),
        OverflowError(),
        InvalidKeyError("k", "r"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_a_parser_trips_over_is_corrupt(error: Exception) -> None:
    def parse(_: Any) -> object:
        raise error

    readers: list[Callable[[Fields], object]] = [
        lambda f: f.optional("x", parse),
        lambda f: f.parsed("x", parse, 1),
        lambda f: f.rows("x", parse),
    ]
    for read in readers:
        with pytest.raises(CorruptSnapshotError) as caught:
            read(fields(x=[1]))
        assert caught.value.__cause__ is error


def test_our_own_mistakes_are_not_corruption() -> None:
    def parse(_: Any) -> None:
        raise AssertionError("ours")

    with pytest.raises(AssertionError, match="ours"):
        fields().parsed("x", parse, 1)


@pytest.mark.parametrize("value", [None, []])
def test_a_field_for_later_is_empty(value: Any) -> None:
    fields(x=value).nothing_yet("x")


@pytest.mark.parametrize("value", [0, False, "", b"", {}, [None], [[]], 1])
def test_a_field_for_later_in_use_is_unsupported(value: Any) -> None:
    with pytest.raises(UnsupportedSchemaError):
        fields(x=value).nothing_yet("x")


@given(instants)
def test_an_instant_comes_back(moment: datetime) -> None:
    assert instant(micros(moment)) == moment


def test_an_instant_is_utc_whatever_it_was() -> None:
    zone = timezone(timedelta(hours=5, minutes=30))
    assert instant(micros(datetime(2026, 1, 1, 5, 30, tzinfo=zone))) == datetime(2026, 1, 1, tzinfo=UTC)
    assert micros(datetime(1970, 1, 1, tzinfo=UTC)) == 0
    assert micros(datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC)) == -1


@pytest.mark.parametrize("value", [None, True, 1.0, "1", U64_MAX, -(1 << 63)])
def test_what_is_no_instant_is_refused(value: Any) -> None:
    with pytest.raises((TypeError, OverflowError)):
        instant(value)


@given(refs)
def test_a_ref_comes_back(ref: BlobRef) -> None:
    assert ref_from_plain(ref_to_plain(ref)) == ref


@pytest.mark.parametrize(
    "plain",
    [
        None,
        [],
        "ab",
        b"ab",
        {"digest": 1, "size": 2},
        {b"d" * 32: 1, 1: 2},
        [b"d" * 32],
        [b"d" * 32, 1, 2],
        [b"d" * 31, 1],
        [b"d" * 32, -1],
        [b"d" * 32, True],
        [b"d" * 32, 1.0],
        ["b3:xyz", 1],
        ["sha512:" + "0" * 64, 1],
        [7, 1],
        [None, 1],
    ],
)
def test_what_is_no_ref_is_refused(plain: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        ref_from_plain(plain)


def test_a_digest_of_another_algorithm_is_text() -> None:
    name = Digest("sha256:" + "0" * 64)
    assert ref_to_plain(BlobRef(name, 3)) == [name, 3]
    assert digest_from_plain(name) == name


@given(st.binary(min_size=16, max_size=16))
def test_an_id_comes_back(raw: bytes) -> None:
    assert id_bytes(id_text(raw)) == raw


@pytest.mark.parametrize("raw", [b"", b"x" * 15, b"x" * 17, "x" * 16, None, 16])
def test_what_is_no_id_is_refused(raw: Any) -> None:
    with pytest.raises(ValueError, match="16 bytes"):
        id_text(raw)


@pytest.mark.parametrize("value", [0, 1, U64_MAX])
def test_whole_numbers(value: int) -> None:
    assert is_whole(value)
    assert columns([value], 1) == [value]


@pytest.mark.parametrize("value", [True, False, -1, U64_MAX + 1, 1.0, None, "1"])
def test_what_is_no_whole_number(value: Any) -> None:
    assert not is_whole(value)
