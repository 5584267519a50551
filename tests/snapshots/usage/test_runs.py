"""Runs: which segments are merged next, so that few stay and every row is rewritten seldom."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from snapshots.usage.runs import FAN_OUT, any_run, due_run, is_crossed, is_full
from snapshots.usage.segments import SEGMENT_BYTES_MAX, SEGMENT_ROWS_MAX, LiveSegment

WRITER = "a" * 32


def segments(*levels: int, raw_bytes: int = 100, rows: int = 1) -> list[LiveSegment]:
    return [LiveSegment(WRITER, n, rows, 50, raw_bytes, level) for n, level in enumerate(levels, start=1)]


def replaced(before: Sequence[LiveSegment], run: Sequence[LiveSegment], number: int) -> list[LiveSegment]:
    start = before.index(run[0])
    assert list(before[start : start + len(run)]) == list(run)
    rows, raw_bytes = sum(one.rows for one in run), sum(one.raw_bytes for one in run)
    merged = LiveSegment(WRITER, number, rows, 50, raw_bytes, 1 + max(one.level for one in run))
    return [*before[:start], merged, *before[start + len(run) :]]


def test_a_run_is_merged_when_it_is_full_of_one_level() -> None:
    assert not due_run(segments(*[0] * (FAN_OUT - 1)))
    every = segments(*[0] * FAN_OUT)
    assert due_run(every) == every
    mixed = segments(2, 1, *[0] * FAN_OUT)
    assert due_run(mixed) == mixed[2:]
    assert not due_run(segments(3, 2, 2, *[1] * (FAN_OUT - 1), *[0] * (FAN_OUT - 1)))


def test_smaller_ones_between_are_merged_along() -> None:
    every = segments(3, *[1] * 4, 0, *[1] * 4, 0, 0)
    assert due_run(every) == every[1:]


def test_no_run_goes_across_a_full_segment_or_a_barred_one() -> None:
    small = segments(*[0] * 6)
    full = LiveSegment("b" * 32, 1, 1, 50, SEGMENT_BYTES_MAX // 2, 0)
    assert is_full(full)
    assert not due_run([*small, full, *segments(*[0] * 6)])
    many = segments(*[0] * 20)
    assert due_run(many, {many[3].name}) == many[4:]
    assert any_run([full, *small]) == small
    assert not any_run([full, small[0], full])


def test_a_run_is_cut_to_what_a_segment_holds() -> None:
    large = segments(*[0] * 10, raw_bytes=SEGMENT_BYTES_MAX // 3)
    assert due_run(large) == large[:3]
    tall = segments(*[0] * 10, rows=SEGMENT_ROWS_MAX // 4)
    assert any_run(tall) == tall[:4]


def test_who_completes_a_run_merges_it() -> None:
    found = [is_crossed(segments(*[0] * count), 1) for count in range(1, 2 * FAN_OUT + 2)]
    assert [number for number, crossed in enumerate(found, start=1) if crossed] == [FAN_OUT, 2 * FAN_OUT]
    assert is_crossed(segments(*[0] * (FAN_OUT + 2)), 3)
    assert not is_crossed(segments(*[0] * (FAN_OUT + 3)), 3)
    assert not is_crossed(segments(1, 1), 1)
    assert not is_crossed([], 1)


@given(st.lists(st.integers(1, 2000), min_size=1, max_size=400))
def test_few_segments_stay_and_every_row_is_rewritten_seldom(sizes: list[int]) -> None:
    live: list[LiveSegment] = []
    written = 0
    for number, size in enumerate(sizes):
        live.append(LiveSegment(WRITER, number, 1, 50, size))
        while run := due_run(live):
            written += sum(one.rows for one in run)
            live = replaced(live, run, 1000 + written)
    assert sum(one.rows for one in live) == len(sizes)
    levels, power = 0, 1
    while power < len(sizes):
        levels, power = levels + 1, power * FAN_OUT
    assert len(live) <= (FAN_OUT - 1) * (levels + 1)
    assert written <= levels * len(sizes)
