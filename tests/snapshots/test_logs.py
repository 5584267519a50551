"""Logs stay short, keep their order, and every entry stands in one segment."""

from __future__ import annotations

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.logs import (
    LEVEL_MAX,
    MERGED_BYTES_MAX,
    NODES_FAN_OUT,
    ROWS_FAN_OUT,
    Log,
    Segment,
    append,
    entries_of,
    level_of_first,
    plan_append,
    segment_from_plain,
    segments_of,
)
from storage.digest import BlobRef, blob_ref

FAN_OUTS = pytest.mark.parametrize("fan_out", [2, 3, ROWS_FAN_OUT, NODES_FAN_OUT, 16])


def stored(rows: tuple[int, ...]) -> BlobRef:
    return blob_ref(repr(rows).encode())


def levels_after(commits: int, fan_out: int) -> list[list[int]]:
    """Return the levels after each of so many appends."""
    levels: list[int] = []
    every = []
    for _ in range(commits):
        kept, level = plan_append(levels, fan_out)
        levels = [*levels[:kept], level]
        every.append(levels)
    return every


@FAN_OUTS
def test_a_log_stays_short(fan_out: int) -> None:
    for number, levels in enumerate(levels_after(5000, fan_out), 1):
        height = math.floor(math.log(number, fan_out) + 1e-9) + 1
        assert len(levels) <= (fan_out - 1) * height
        assert levels == sorted(levels, reverse=True)
        assert sum(fan_out**level for level in levels) == number


@FAN_OUTS
def test_an_entry_is_written_a_logarithm_of_times(fan_out: int) -> None:
    written = 0
    levels: list[int] = []
    for _ in range(5000):
        kept, level = plan_append(levels, fan_out)
        written += fan_out**level
        levels = [*levels[:kept], level]
    assert written <= 5000 * (math.log(5000, fan_out) + 1)


@given(st.lists(st.integers(0, LEVEL_MAX), max_size=60), st.integers(2, 16))
def test_any_log_can_be_appended_to(levels: list[int], fan_out: int) -> None:
    kept, level = plan_append(levels, fan_out)
    assert 0 <= kept <= len(levels)
    assert (len(levels) - kept) % (fan_out - 1) == 0
    assert level == (len(levels) - kept) // (fan_out - 1)
    assert all(one <= level for one in levels[kept:])
    assert plan_append(levels, fan_out) == (kept, level)


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, MERGED_BYTES_MAX)), max_size=40))
def test_no_merge_is_larger_than_its_bound(segments: list[tuple[int, int]]) -> None:
    levels, sizes = [level for level, _ in segments], [size for _, size in segments]
    kept, _ = plan_append(levels, NODES_FAN_OUT, sizes=sizes)
    assert kept == len(levels) or sum(sizes[kept:]) <= MERGED_BYTES_MAX


@given(st.lists(st.lists(st.integers(), max_size=4), max_size=80))
def test_every_entry_stands_once_and_in_order(commits: list[list[int]]) -> None:
    log: Log[int] = ()
    for entries in commits:
        before = log
        log = append(log, entries, stored)
        if not entries:
            assert log is before
    assert entries_of(log) == [entry for entries in commits for entry in entries]
    assert all(one.segment.count == len(one.entries) and one.segment.ref == stored(one.entries) for one in log)
    assert segments_of(log) == tuple(one.segment for one in log)


def test_equal_histories_give_equal_logs() -> None:
    logs = []
    for _ in range(2):
        log: Log[int] = ()
        for number in range(500):
            log = append(log, [number], stored)
        logs.append(segments_of(log))
    assert logs[0] == logs[1]


def test_segments_that_stay_are_the_same_and_stored_once() -> None:
    log: Log[int] = ()
    calls = 0

    def counted(rows: tuple[int, ...]) -> BlobRef:
        nonlocal calls
        calls += 1
        return stored(rows)

    for number in range(300):
        before = log
        log = append(log, [number], counted)
        assert calls == number + 1
        assert log[: len(log) - 1] == before[: len(log) - 1]


@pytest.mark.parametrize("count", [1, 7, 8, 63, 64, 512, 5000, 10**9])
def test_a_log_that_starts_large_is_not_merged_at_once(count: int) -> None:
    level = level_of_first(count)
    assert 0 <= level <= LEVEL_MAX
    assert NODES_FAN_OUT**level <= max(count, 1)
    levels = [level]
    for _ in range(NODES_FAN_OUT - 2):
        kept, new = plan_append(levels, NODES_FAN_OUT)
        assert kept == len(levels)
        levels.append(new)


SEGMENT = Segment(blob_ref(b"x"), 3, 2)


def test_a_segment_comes_back() -> None:
    assert segment_from_plain(SEGMENT.to_plain()) == SEGMENT


@pytest.mark.parametrize("position", range(4))
@pytest.mark.parametrize("value", [None, True, -1, 1.5, "x", b"x", [], {}, 1 << 64])
def test_what_is_no_segment_is_refused(position: int, value: Any) -> None:
    plain = SEGMENT.to_plain()
    plain[position] = value
    with pytest.raises((ValueError, TypeError)):
        segment_from_plain(plain)


@pytest.mark.parametrize("plain", [None, [], "abcd", b"abcd", {}, SEGMENT.to_plain()[:3], [*SEGMENT.to_plain(), 1]])
def test_what_is_no_list_of_four_is_refused(plain: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        segment_from_plain(plain)


@pytest.mark.parametrize(("count", "level"), [(0, 0), (1, LEVEL_MAX + 1)])
def test_an_empty_segment_or_an_impossible_level_is_refused(count: int, level: int) -> None:
    with pytest.raises(ValueError, match="not a segment"):
        segment_from_plain([*SEGMENT.to_plain()[:2], count, level])
