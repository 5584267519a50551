"""A log is one blob that only grows: its bytes, ref and count depend on its entries alone, never on the batches."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import codec
from snapshots.errors import CorruptSnapshotError
from snapshots.fields import U64_MAX
from snapshots.logs import NO_LOG, HeldLog, LogRef, held_log, log_ref_from_plain
from storage.digest import blob_ref
from tests.snapshots.records import log_refs

rows = st.integers(-(1 << 63), U64_MAX) | st.text(max_size=5) | st.lists(st.binary(max_size=9), max_size=3)
batches = st.lists(st.lists(rows, max_size=30), max_size=12)


def log_of(parts: Sequence[Sequence[Any]]) -> HeldLog[Any]:
    log: HeldLog[Any] = HeldLog()
    for entries in parts:
        log = log.appended(codec.encode_entries(entries), entries)
    return log


def bytes_of(log: HeldLog[Any]) -> bytes:
    return b"".join(log.chunks)


# Growing.


@given(batches)
def test_batches_do_not_show(parts: list[list[Any]]) -> None:
    every = [entry for entries in parts for entry in entries]
    log, whole = log_of(parts), codec.encode_entries(every)
    assert bytes_of(log) == whole
    assert log.at == LogRef(blob_ref(whole), len(every)) == log_of([every]).at
    assert log.entries == tuple(every)
    assert codec.decode_entries(whole, log.at.count, key="k") == every


@given(batches, st.lists(rows, max_size=5))
def test_the_log_of_an_earlier_revision_stays_the_beginning_of_the_later(
    parts: list[list[Any]], more: list[Any]
) -> None:
    before = log_of(parts)
    at, data, entries = before.at, bytes_of(before), before.entries
    once, again = (before.appended(codec.encode_entries(more), more) for _ in range(2))
    assert once == again
    assert bytes_of(once).startswith(data)
    assert (before.at, bytes_of(before), before.entries) == (at, data, entries)


@given(batches, batches)
def test_a_log_that_was_read_goes_on_like_the_one_that_was_written(
    first: list[list[Any]], then: list[list[Any]]
) -> None:
    written = log_of(first)
    read = held_log(written.at, bytes_of(written), written.entries)
    for entries in then:
        read = read.appended(codec.encode_entries(entries), entries)
    whole = log_of([*first, *then])
    assert (read.at, read.entries, bytes_of(read)) == (whole.at, whole.entries, bytes_of(whole))


def test_entries_that_are_held_elsewhere_are_counted_all_the_same() -> None:
    log: HeldLog[Any] = HeldLog()
    for number in range(3):
        log = log.appended(codec.encode_entries([number, "x"]), (), 2)
    assert log.entries == ()
    assert log.at == log_of([[number, "x"] for number in range(3)]).at


def test_nothing_is_no_log() -> None:
    assert HeldLog().at == NO_LOG == LogRef(blob_ref(b""), 0)
    assert log_of([[], []]).at == NO_LOG
    assert held_log(NO_LOG, b"", ()) == HeldLog()


# Slices.


@given(st.lists(st.binary(max_size=20), max_size=8), st.data())
def test_a_slice_is_that_of_the_whole(chunks: list[bytes], data: st.DataObject) -> None:
    log: HeldLog[Any] = HeldLog()
    for chunk in chunks:
        log = log.appended(chunk, (), 1)
    whole = b"".join(chunks)
    start, length = data.draw(st.integers(0, len(whole))), data.draw(st.integers(0, len(whole) + 3))
    assert log.between(start, length) == whole[start : start + length]
    assert log.before(start, length) == whole[max(0, start - length) : start]


def test_what_stands_before_ends_where_it_is_asked_for() -> None:
    log = log_of([["abc"], ["def"], ["ghi"]])
    whole = bytes_of(log)
    assert log.before(0, 8) == b""
    assert log.before(6, 4) == whole[2:6]
    assert log.before(6, 100) == whole[:6]
    assert log.before(len(whole), 100) == whole


# Entries.

HEADS = [0, 1, 22, 23, 24, 25, 254, 255, 256, 257, 65535, 65536, 65537]


@pytest.mark.parametrize("count", HEADS)
def test_entries_come_back_however_a_list_of_so_many_begins(count: int) -> None:
    values = [number % 30 for number in range(count)]
    data = codec.encode_entries(values)
    assert data == b"".join(map(codec.encode, values))
    assert codec.decode_entries(data, count, key="k") == values


@pytest.mark.parametrize("count", HEADS)
def test_another_count_than_there_are_entries_is_corrupt(count: int) -> None:
    data = codec.encode_entries([0] * count)
    for wrong in {count - 1, count + 1, 0, 2 * count, 1 << 16, 1 << 32, U64_MAX} - {count, -1}:
        with pytest.raises(CorruptSnapshotError):
            codec.decode_entries(data, wrong, key="k")


@given(st.lists(rows, max_size=20), st.data())
def test_cut_entries_are_corrupt(values: list[Any], data: st.DataObject) -> None:
    encoded = codec.encode_entries(values)
    cut = data.draw(st.integers(0, max(0, len(encoded) - 1)))
    if values:
        with pytest.raises(CorruptSnapshotError):
            codec.decode_entries(encoded[:cut], len(values), key="k")
    with pytest.raises(CorruptSnapshotError):
        codec.decode_entries(encoded + b"\x00", len(values), key="k")


# What the checkpoint names.

LOG = LogRef(blob_ref(b"three"), 3)


@given(log_refs)
def test_a_log_ref_comes_back(log: LogRef) -> None:
    assert log_ref_from_plain(codec.decode(codec.encode(log.to_plain()), key="k")) == log


@pytest.mark.parametrize("position", range(3))
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "x", b"x", [], {}, 1 << 64])
def test_what_is_no_log_is_refused(position: int, value: Any) -> None:
    plain = LOG.to_plain()
    plain[position] = value
    with pytest.raises((ValueError, TypeError)):
        log_ref_from_plain(plain)


@pytest.mark.parametrize("plain", [None, [], "abc", b"abc", {}, LOG.to_plain()[:2], [*LOG.to_plain(), 1]])
def test_what_is_no_list_of_three_is_refused(plain: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        log_ref_from_plain(plain)


@pytest.mark.parametrize(
    "log",
    [
        LogRef(blob_ref(b"x"), 0),
        LogRef(blob_ref(b""), 1),
        LogRef(blob_ref(b"three"), 6),
        LogRef(blob_ref(b"three"), U64_MAX),
    ],
)
def test_a_log_of_no_entries_with_bytes_or_of_more_entries_than_bytes_is_refused(log: LogRef) -> None:
    with pytest.raises(ValueError, match="not a log"):
        log_ref_from_plain(log.to_plain())


def test_an_empty_log_has_one_name() -> None:
    with pytest.raises(ValueError, match="not a log"):
        log_ref_from_plain([*LOG.to_plain()[:1], 0, 0])
