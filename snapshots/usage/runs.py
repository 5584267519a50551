"""Which segments of a usage log are merged next. Pure.

A run is segments that stand side by side in the index: merged, they keep the order of all rows.

Rules:
1. A segment that has half of what one may hold is full: it is left as it is, and no run goes across it.
2. Appending merges a run when FAN_OUT segments of one level stand in it among smaller ones; the result is one level up.
   So a row is written at most about log(N) times, and at most FAN_OUT - 1 segments per level stay.
3. A run is cut to what one segment may hold.

    due_run(index.segments)
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from functools import partial
from itertools import groupby

from snapshots.usage.segments import SEGMENT_BYTES_MAX, SEGMENT_ROWS_MAX, LiveSegment

FAN_OUT = 8

Choice = Callable[[Sequence[LiveSegment]], Sequence[LiveSegment]]
"""Chooses the run to merge next, empty for none."""


def is_full(one: LiveSegment) -> bool:
    """Say whether a segment is left as it is (rule 1)."""
    return 2 * one.raw_bytes >= SEGMENT_BYTES_MAX or 2 * one.rows >= SEGMENT_ROWS_MAX


def due_run(segments: Sequence[LiveSegment], barred: Collection[str] = ()) -> Sequence[LiveSegment]:
    """Return the run that appending merges next, empty for none (rule 2).

    Args:
        segments: Of the index.
        barred: Names of segments that cannot be read: no run goes across them.
    """
    for level in sorted({one.level for one in segments}):
        for run in _runs(segments, partial(_is_up_to, level, barred)):
            if sum(one.level == level for one in run) >= FAN_OUT:
                return _fitting(run)
    return ()


def any_run(segments: Sequence[LiveSegment]) -> Sequence[LiveSegment]:
    """Return the first run that can be merged at all, empty for none."""
    runs = (run for run in _runs(segments, lambda _: True) if len(run) > 1)
    return next(map(_fitting, runs), ())


def is_crossed(segments: Sequence[LiveSegment], added: int) -> bool:
    """Say whether the last `added` segments brought another FAN_OUT of them: then whoever added them merges."""
    fresh = 0
    for one in reversed(segments):
        if one.level or is_full(one):
            break
        fresh += 1
    return fresh % FAN_OUT < min(added, fresh)


def _is_up_to(level: int, barred: Collection[str], one: LiveSegment) -> bool:
    return one.level <= level and one.name not in barred


def _runs(segments: Sequence[LiveSegment], admits: Callable[[LiveSegment], bool]) -> Iterator[Sequence[LiveSegment]]:
    for open_, run in groupby(segments, lambda one: not is_full(one) and admits(one)):
        if open_:
            yield list(run)


def _fitting(run: Sequence[LiveSegment]) -> Sequence[LiveSegment]:
    """Return as much of the front of a run as fits into one segment (rule 3): two at least, by rule 1."""
    raw_bytes = rows = 0
    for count, one in enumerate(run):
        raw_bytes += one.raw_bytes
        rows += one.rows
        if raw_bytes > SEGMENT_BYTES_MAX or rows > SEGMENT_ROWS_MAX:
            return run[:count]
    return run
