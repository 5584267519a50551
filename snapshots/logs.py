"""Append-only logs: how entries are grouped into segments as a session grows. Pure.

A log is a list of segments, oldest first; a segment is one blob. A commit appends one segment and, now and then, merges
the newest ones into it, so that N commits leave at most `(fan-out - 1) · log(N)` segments and every entry is written
about `log(N)` times.

Rules:
1. A segment is never changed; a merge writes a new one, older revisions keep naming the old ones.
2. Which segments are merged depends on their levels alone, so equal histories give equal logs.

    kept, level = plan_append([0] * 7, 8)     # → (0, 1): all seven are merged with the new one
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from snapshots.fields import columns, is_whole, ref_from_plain, ref_to_plain
from storage.digest import BlobRef

T = TypeVar("T")
NODES_FAN_OUT = 8  # nodes are large: merge them seldom
MERGED_BYTES_MAX = 64 << 20  # of a merged segment: larger ones cost few requests per byte as they are
ROWS_FAN_OUT = 4  # rows are small: few segments matter more, each is named in every manifest
LEVEL_MAX = 63  # more than the logarithm of any count


@dataclass(frozen=True, slots=True)
class Segment:
    """A run of entries, stored as one blob.

    Attributes:
        ref: The blob.
        count: Number of entries.
        level: How often its entries were merged.
    """

    ref: BlobRef
    count: int
    level: int

    def to_plain(self) -> list[Any]:
        """Return `[digest, size, count, level]`."""
        return [*ref_to_plain(self.ref), self.count, self.level]


def segment_from_plain(plain: Sequence[Any]) -> Segment:
    """Return the segment that `to_plain` wrote. Raises ValueError, TypeError."""
    name, size, count, level = columns(plain, 4)
    if not is_whole(count, 1) or not is_whole(level, 0, LEVEL_MAX):
        raise ValueError("not a segment")
    return Segment(ref_from_plain((name, size)), count, level)


def plan_append(levels: Sequence[int], fan_out: int, *, sizes: Sequence[int] = ()) -> tuple[int, int]:
    """Return how many leading segments stay as they are, and the level of the one that replaces the rest.

    Args:
        levels: Level of each segment, oldest first.
        fan_out: How many segments of a level make one of the next, the new one included.
        sizes: Bytes of each segment; a merge of over MERGED_BYTES_MAX is not made. Empty: no such bound.
    """
    kept, level = len(levels), 0
    while kept >= fan_out - 1 and all(one <= level for one in levels[kept - fan_out + 1 : kept]):
        if sum(sizes[kept - fan_out + 1 :]) > MERGED_BYTES_MAX:
            break
        kept -= fan_out - 1
        level += 1
    return kept, level


def level_of_first(count: int) -> int:
    """Return the level of a segment that starts a log with `count` entries at once."""
    level = 0
    while count >= NODES_FAN_OUT:
        count //= NODES_FAN_OUT
        level += 1
    return max(0, level - 1)


@dataclass(frozen=True, slots=True)
class LoadedSegment(Generic[T]):
    """A segment with its entries."""

    segment: Segment
    entries: tuple[T, ...]


Log = tuple[LoadedSegment[T], ...]


def append(log: Log[T], entries: Sequence[T], store: Callable[[tuple[T, ...]], BlobRef]) -> Log[T]:
    """Return a log of rows with `entries` appended; `store` takes the new segment's entries and returns its ref."""
    if not entries:
        return log
    kept, level = plan_append([one.segment.level for one in log], ROWS_FAN_OUT)
    merged = tuple(entry for one in log[kept:] for entry in one.entries) + tuple(entries)
    return (*log[:kept], LoadedSegment(Segment(store(merged), len(merged), level), merged))


def entries_of(log: Log[T]) -> list[T]:
    """Return all entries, oldest first."""
    return [entry for one in log for entry in one.entries]


def segments_of(log: Log[T]) -> tuple[Segment, ...]:
    """Return the segments without their entries."""
    return tuple(one.segment for one in log)
