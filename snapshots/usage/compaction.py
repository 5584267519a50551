"""Compaction: many small segments of a usage log become one. It may run at any time, several at once.

Rules:
1. The segments of a run are read, their rows uploaded as one, and the index swapped in one step; it may be swapped only
   where the run still stands in the index as it was read. Appenders go on meanwhile.
2. Rows keep their ids and their order; of rows with one id in a run the first stays.
3. What was replaced is deleted by the next collection, not here.

    compact(repo, "s1")
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from snapshots.environment import HasEnvironment
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.operations import operation
from snapshots.usage.reading import Distinct, SegmentMissingError, check_superseded, read_segments
from snapshots.usage.runs import Choice, any_run
from snapshots.usage.segments import LEVEL_MAX, Index, LiveSegment
from snapshots.usage.writing import STAGES_MAX, LogWriter, StaleNumberError


@dataclass(frozen=True, slots=True)
class CompactReport:
    """What a compaction did.

    Attributes:
        merged: Segments that it replaced.
        segments: Live segments now.
        rows: How many they hold.
        size_bytes: Their size in the store.
    """

    merged: int
    segments: int
    rows: int
    size_bytes: int


class _RunGoneError(Exception):
    """Somebody else merged the run; caught in `merge`. Remedy: choose again."""


@operation("usage.compact", "repo.environment", "session_id")
def compact(repo: HasEnvironment, session_id: str) -> CompactReport:
    """Merge the segments of a usage log into as few as may hold its rows.

    Raises:
        SessionNotFoundError, SessionDeletedError: There is no usage log.
        CorruptSnapshotError: A segment cannot be read; runs before it are merged.
        UnavailableError: The store did not answer; run it again.
    """
    writer = LogWriter(repo.environment, session_id)
    merged = 0
    while run := merge(writer, any_run):
        merged += len(run)
    index = writer.present().value
    return CompactReport(
        merged,
        len(index.segments),
        sum(one.rows for one in index.segments),
        sum(one.size_bytes for one in index.segments),
    )


def merge(writer: LogWriter, choice: Choice) -> Sequence[LiveSegment]:
    """Merge one run; return it, empty if there was none or others were faster all the time.

    Raises:
        As `compact`.
    """
    for _ in range(STAGES_MAX):
        found = writer.present()
        run = choice(found.value.segments)
        if not run:
            break
        try:
            segment = _uploaded(writer, run)
            writer.swap(partial(_merged, run=run, segment=segment, number=found.value.number), found)
            return run
        except SegmentMissingError as missing:
            writer.forget()
            check_superseded(writer.environment, writer.session_id, missing.segment, writer.present().value)
        except (StaleNumberError, _RunGoneError):
            writer.forget()
    return ()


def unreadable(writer: LogWriter, choice: Choice) -> set[str]:
    """Return the names of those segments of a run that cannot be read. Raises UnavailableError."""
    found = set()
    for one in choice(writer.present().value.segments):
        try:
            for _, rows in read_segments(writer.environment, writer.session_id, [one]):
                deque(rows, maxlen=0)
        except (CorruptSnapshotError, UnsupportedSchemaError, SegmentMissingError):
            found.add(one.name)
    return found


def _uploaded(writer: LogWriter, run: Sequence[LiveSegment]) -> LiveSegment:
    first = Distinct()
    rows = [
        row.text.encode()
        for _, some in read_segments(writer.environment, writer.session_id, run)
        for row in first.of(some)
    ]
    if not rows:
        raise CorruptSnapshotError(writer.register.key, "a run of segments holds no rows")
    level = min(1 + max(one.level for one in run), LEVEL_MAX)
    return writer.upload(rows, writer.new_sequence(), level=level)


def _merged(index: Index, run: Sequence[LiveSegment], segment: LiveSegment, number: int) -> Index:
    """Return the index with one segment in place of a run (rule 1)."""
    if segment.name in index.names:
        return index
    if index.number != number:
        raise StaleNumberError
    names = [one.name for one in index.segments]
    wanted = [one.name for one in run]
    start = names.index(wanted[0]) if wanted[0] in names else len(names)
    if names[start : start + len(run)] != wanted:
        raise _RunGoneError
    return replace(index, segments=(*index.segments[:start], segment, *index.segments[start + len(run) :]))
