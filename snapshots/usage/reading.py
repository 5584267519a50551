"""Reading a usage log: every row once, in the order of the index.

Rules:
1. The index is read first, then the segments that it names, some side by side.
2. A segment that is missing: the index is read again. It is corruption only if the index just read still names it,
   and the session was not deleted; otherwise it was merged, and reading goes on with what took its place.
3. A row id is read once. What is remembered of it is a digest that no two share: some hundred bytes for each row.
4. At most SEGMENTS_AT_ONCE segments are held at a time.

    for row in read_rows(environment, "s1"):
        row.record.input_tokens
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, SessionDeletedError
from snapshots.operations import yielding_operation
from snapshots.satellite import misplaced
from snapshots.usage.index import index_register, present_index
from snapshots.usage.rows import UsageRow, row_of
from snapshots.usage.segments import Index, LiveSegment, open_segment
from storage.digest import short_hash
from storage.errors import CorruptObjectError, NotFoundError, UnavailableError

SEGMENTS_AT_ONCE = 4  # 8 MiB of rows each at most, and as much again for what Python makes of them
RESTARTS_MAX = 16  # how often reading goes on with another index because the one it had was overtaken
ROW_DIGEST_BYTES = 16  # two ids never share one, by chance or by choice


class SegmentMissingError(Exception):
    """A segment that an index named is not there; caught where the index is read again (rule 2).

    Remedy: read the index again.
    """

    def __init__(self, segment: LiveSegment) -> None:
        self.segment = segment
        super().__init__(segment.name)


@yielding_operation("usage.read", "environment", "session_id")
def read_rows(environment: Environment, session_id: str) -> Iterator[UsageRow]:
    """Yield the rows of a session's usage log. What is appended meanwhile may or may not be among them.

    Raises:
        SessionNotFoundError: The session has no usage log.
        SessionDeletedError: It was deleted, and its log is gone or going.
        SessionMovedError: It was moved.
        CorruptSnapshotError: Index or segment cannot be read, or is missing.
        UnavailableError: The store did not answer, or the log never stood still.
    """
    register, first = index_register(environment, session_id), Distinct()
    for rows in stored_rows(environment, session_id, lambda: present_index(register).value):
        yield from first.of(rows)


def stored_rows(
    environment: Environment, session_id: str, present: Callable[[], Index]
) -> Iterator[Iterator[UsageRow]]:
    """Yield the rows of every live segment, some of them twice; `present` reads the index. Raises as `read_rows`."""
    index, done = present(), set[str]()
    for _ in range(RESTARTS_MAX):
        try:
            for segment, rows in read_segments(environment, session_id, not_in(index, done)):
                yield rows
                done.add(segment.name)
            return
        except SegmentMissingError as missing:
            index = present()
            check_superseded(environment, session_id, missing.segment, index)
    key = environment.layout.usage_index(session_id)
    raise UnavailableError(key, "the usage log kept moving while it was read", applied="no")


def not_in(index: Index, done: set[str]) -> Sequence[LiveSegment]:
    """Return the segments that were not read yet, in order."""
    return [one for one in index.segments if one.name not in done]


def check_superseded(environment: Environment, session_id: str, missing: LiveSegment, index: Index) -> None:
    """Check that a segment which is missing is not named any more.

    Raises:
        SessionDeletedError: It is named, and goes with its session.
        CorruptSnapshotError: It is named, and missing (rule 2).
    """
    if missing.name in index.names:
        if index_register(environment, session_id).is_spent():
            raise SessionDeletedError(session_id)
        key = environment.layout.usage_segment(session_id, missing.name)
        raise CorruptSnapshotError(key, "the index of the usage log names this segment, and it is missing")


class Distinct:
    """Passes each row id once (rule 3)."""

    def __init__(self) -> None:
        self._seen: set[bytes] = set()

    def of(self, rows: Iterable[UsageRow]) -> Iterator[UsageRow]:
        """Yield the rows whose ids did not come by yet."""
        for row in rows:
            digest = row_digest(row.row_id)
            if digest not in self._seen:
                self._seen.add(digest)
                yield row

    def note(self, rows: Iterable[UsageRow]) -> None:
        """Take rows for ones that came by."""
        self._seen.update(row_digest(row.row_id) for row in rows)


def row_digest(row_id: str) -> bytes:
    """Return the digest by which a row is known (rule 3)."""
    return short_hash(row_id.encode(), ROW_DIGEST_BYTES)


def read_segments(
    environment: Environment, session_id: str, segments: Sequence[LiveSegment]
) -> Iterator[tuple[LiveSegment, Iterator[UsageRow]]]:
    """Yield segments and their rows, SEGMENTS_AT_ONCE read side by side.

    Raises:
        SegmentMissingError: One is not there.
        CorruptSnapshotError, UnsupportedSchemaError: One cannot be read, or is not what the index says.
        UnavailableError: The store did not answer.
    """
    for start in range(0, len(segments), SEGMENTS_AT_ONCE):
        some = segments[start : start + SEGMENTS_AT_ONCE]
        read = environment.executor.map(lambda one: _rows(environment, session_id, one), some)
        for one, rows in zip(some, read, strict=True):
            key = environment.layout.usage_segment(session_id, one.name)
            yield one, map(partial(row_of, key=key), rows)


def _rows(environment: Environment, session_id: str, segment: LiveSegment) -> list[bytes]:
    layout = environment.layout
    key = layout.usage_segment(session_id, segment.name)
    try:
        data = environment.store.get(key).data
    except NotFoundError as error:
        raise SegmentMissingError(segment) from error
    except CorruptObjectError as error:
        raise CorruptSnapshotError(key, error.reason) from error
    facts, rows = open_segment(data, key=key)
    if (facts.tenant, facts.session_id) != (layout.tenant, session_id) or facts.name != segment.name:
        raise misplaced(key, f"segment {facts.name} of the usage log", facts.session_id, facts.tenant)
    if (facts.rows, len(data)) != (segment.rows, segment.size_bytes):
        raise CorruptSnapshotError(key, "the segment is not the one that the index names: rows or size differ")
    return rows
