"""`UsageLog`: the append-only usage log of one session.

Rules:
1. A line that was acknowledged is durable: in a segment that the index names.
2. Callers of one process share their requests: one of them writes for all that wait, and each is told its own outcome.
   There is no thread besides the callers' own.
3. Lines of one `append_many` are applied together or not at all. What one log object appends is read in its order.
4. Where nobody can tell whether lines were applied (`UnavailableError.applied` is "unknown"), appending them again
   with the same `row_id` is safe: an id is read once.
5. Appending keeps the number of segments small: whoever completes a run of small ones merges them. If that fails the
   line is there all the same: `upkeep_failure` says why, and the next run is tried again.

    log = UsageLog(repo, "s1")
    log.append('{"ts": "2026-01-01T00:00:00Z", "model": "m", "input_tokens": 10}')
    sum(row.record.input_tokens for row in log.read())
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial

from snapshots.environment import HasEnvironment
from snapshots.errors import CorruptSnapshotError, SnapshotError
from snapshots.usage.compaction import merge
from snapshots.usage.index import present_index
from snapshots.usage.reading import read_rows
from snapshots.usage.rows import Line, UsageRow, line_of
from snapshots.usage.runs import due_run, is_crossed
from snapshots.usage.segments import SEGMENT_BYTES_MAX, SEGMENT_ROWS_MAX, LiveSegment
from snapshots.usage.writing import STAGES_MAX, LogWriter, StaleNumberError, appended
from storage.errors import StorageError, UnavailableError

ID_BYTES_MAX = 96  # what an id of ours and a line's end add
MERGES_MAX = 16  # that one append makes: one per level, and what others left

logger = logging.getLogger("snapshots")


class _Waiting:
    """Lines of one caller, and what became of them."""

    def __init__(self, lines: Sequence[Line]) -> None:
        self.lines = lines
        self.outcome: Future[tuple[str, ...]] = Future()
        self.raw_bytes = sum(map(_size, lines))


def _size(line: Line) -> int:
    return len(line.text) + ID_BYTES_MAX


class UsageLog:
    """The usage log of one session; the session itself need not exist. Safe for threads.

    Attributes:
        upkeep_failure: Why segments were not merged, None if they were (rule 5).

    Args:
        repo: Where.
        session_id: Of which session.

    Raises:
        InvalidKeyError: Not an id.
    """

    def __init__(self, repo: HasEnvironment, session_id: str) -> None:
        self.upkeep_failure: Exception | None = None
        self._environment = repo.environment
        self._writer = LogWriter(repo.environment, session_id)
        self._turn = threading.Condition()
        self._waiting: deque[_Waiting] = deque()
        self._is_writing = False
        self._barred: set[str] = set()  # names of segments that could not be read when they were to be merged

    def append(self, json_line: str) -> str:
        """Append one line; it is durable when this returns.

        Args:
            json_line: One JSON object. Its own `row_id`, if it has one, makes repeating it safe.

        Returns:
            The id of its row.

        Raises:
            InvalidInputError: Not such a line; nothing was written.
            LimitExceededError: It is too large, or the log is full; nothing was written.
            SessionDeletedError: The session was deleted.
            CorruptSnapshotError: The index cannot be read; nothing was written.
            UnavailableError: Not confirmed; `applied` says whether it may be there (rule 4).
        """
        return self.append_many([json_line])[0]

    def append_many(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Append lines, all of them or none; return the ids of their rows, in order. Raises as `append`."""
        source = f"usage of session {self._writer.session_id!r}"
        numbered = enumerate(lines, start=1)
        mine = _Waiting([line_of(line, source=source, position=f"line {number}") for number, line in numbered])
        if not mine.lines:
            return ()
        with self._turn:
            self._waiting.append(mine)
        try:
            while not mine.outcome.done():
                if group := self._next_group(mine):
                    self._write(group)
        finally:  # interrupted: what nobody has begun is not written
            with self._turn, suppress(ValueError):
                self._waiting.remove(mine)
        return mine.outcome.result()

    def read(self) -> Iterator[UsageRow]:
        """Yield the rows, each id once, those of each writer in its order; see `read_rows`."""
        return read_rows(self._environment, self._writer.session_id)

    def segments(self) -> tuple[LiveSegment, ...]:
        """Return the live segments, in the order in which they are read. Raises as `read`."""
        return present_index(self._writer.register).value.segments

    def _next_group(self, mine: _Waiting) -> list[_Waiting]:
        """Wait until lines can be written; return those that go together, empty if `mine` are settled."""
        with self._turn:
            self._turn.wait_for(lambda: mine.outcome.done() or not self._is_writing)
            if mine.outcome.done():
                return []
            self._is_writing = True
            group = [self._waiting.popleft()]
            room = SEGMENT_BYTES_MAX - group[0].raw_bytes
            while self._waiting and self._waiting[0].raw_bytes <= room:
                group.append(self._waiting.popleft())
                room -= group[-1].raw_bytes
            return group

    def _write(self, group: Sequence[_Waiting]) -> None:
        crossed = False
        try:
            ids, crossed = self._append([line for one in group for line in one.lines])
            for one in group:
                one.outcome.set_result(tuple(ids[: len(one.lines)]))
                ids = ids[len(one.lines) :]
        except Exception as error:  # noqa: BLE001  each caller is told, in its own thread
            _fail(group, error)
        except BaseException:
            _fail(group, UnavailableError(self._writer.register.key, "the thread that wrote for all was interrupted"))
            raise
        finally:
            with self._turn:
                self._is_writing = False
                self._turn.notify_all()
        if crossed:
            self._merge_due()

    def _append(self, lines: Sequence[Line]) -> tuple[list[str], bool]:
        """Upload and publish lines; return their row ids, and whether segments should be merged now."""
        writer = self._writer
        writer.opened()
        pieces = _pieces(lines)
        numbers = [writer.new_sequence() for _ in pieces]
        prefixes = [f"{writer.writer}-{number}-" for number in numbers]
        ids = [
            [line.row_id or f"{prefix}{place}" for place, line in enumerate(piece)]
            for prefix, piece in zip(prefixes, pieces, strict=True)
        ]
        rows = [[*map(Line.stored, piece, names)] for piece, names in zip(pieces, ids, strict=True)]
        for _ in range(STAGES_MAX):
            known = writer.opened()
            segments = [*self._environment.executor.map(writer.upload, rows, numbers)]
            try:
                found = writer.swap(partial(appended, segments=segments, number=known.value.number), known)
            except StaleNumberError:
                writer.forget()
                numbers = [writer.new_sequence() for _ in pieces]
            else:
                crossed = is_crossed(found.value.segments, len(segments))
                return [name for names in ids for name in names], crossed
        raise UnavailableError(writer.register.key, "collections kept rewriting the index; append again")

    def _merge_due(self) -> None:
        """Merge what is due (rule 5)."""
        self.upkeep_failure = None
        try:
            for _ in range(MERGES_MAX):
                if not merge(self._writer, lambda segments: due_run(segments, self._barred)):
                    break
        except (SnapshotError, StorageError) as error:
            if isinstance(error, CorruptSnapshotError):
                self._barred.add(error.key.rpartition("/")[2])
            self.upkeep_failure = error
            logger.warning("segments of a usage log were not merged: %s", error)


def _pieces(lines: Sequence[Line]) -> list[list[Line]]:
    """Cut lines into what one segment may hold each."""
    pieces: list[list[Line]] = []
    room = 0
    for line in lines:
        size = _size(line)
        if not pieces or size > room or len(pieces[-1]) == SEGMENT_ROWS_MAX:
            pieces.append([])
            room = SEGMENT_BYTES_MAX
        pieces[-1].append(line)
        room -= size
    return pieces


def _fail(group: Sequence[_Waiting], error: Exception) -> None:
    for one in group:
        one.outcome.set_exception(error)
