"""`UsageLog`: the append-only usage log of one session.

Rules:
1. A line that was acknowledged is durable: in a segment that the index names.
2. Callers of one process share their requests: one of them writes for all that wait, and each is told its own outcome
   (`snapshots.usage.callers`). There is no thread besides the callers' own.
3. Lines of one `append_many` are applied together or not at all. What one log object appends is read in its order.
4. Where nobody can tell whether lines were applied (`UnavailableError.applied` is "unknown"), appending them again
   with the same `row_id` is safe: an id is read once.
5. Appending keeps the number of segments small: whoever completes a run of small ones merges them. If that fails the
   line is there all the same: `upkeep_failure` says why, and the next run is tried again, around what cannot be read.
6. A process that was forked is a writer of its own: no two processes write under one name.
7. A log goes with its session. A log object that was open when the session was deleted is not told before the log is
   collected: what it appends until then is acknowledged, and goes as well.

    log = UsageLog(repo, "s1")
    log.append('{"ts": "2026-01-01T00:00:00Z", "model": "m", "input_tokens": 10}')
    sum(row.record.input_tokens for row in log.read())
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial

from snapshots.environment import Environment, HasEnvironment
from snapshots.errors import CorruptSnapshotError, SnapshotError, UnsupportedSchemaError
from snapshots.operations import operation
from snapshots.usage.callers import Callers, stored_size
from snapshots.usage.compaction import merge, unreadable
from snapshots.usage.index import present_index
from snapshots.usage.reading import read_rows
from snapshots.usage.rows import Line, UsageRow, distinct_lines, line_of
from snapshots.usage.runs import due_run, is_crossed
from snapshots.usage.segments import SEGMENT_BYTES_MAX, SEGMENT_ROWS_MAX, LiveSegment
from snapshots.usage.writing import STAGES_MAX, LogWriter, StaleNumberError, appended
from storage.errors import StorageError, UnavailableError
from storage.executor import InlineExecutor

MERGES_MAX = 16  # that one append makes: one per level, and what others left

logger = logging.getLogger("snapshots")


class UsageLog:
    """The usage log of one session; the session itself need not exist. Safe for threads.

    A child process that was forked may use it, as far as the store behind it may be used there (rule 6): over a network
    open the repository anew in the child, since both would talk over one connection.

    Args:
        repo: Where.
        session_id: Of which session.

    Raises:
        InvalidKeyError: Not an id.
    """

    def __init__(self, repo: HasEnvironment, session_id: str) -> None:
        self._appender = _Appender(repo.environment, session_id)

    @property
    def upkeep_failure(self) -> Exception | None:
        """Return why segments were not merged, None if they were (rule 5)."""
        return self._here().upkeep_failure

    def append(self, json_line: str) -> str:
        """Append one line; it is durable when this returns.

        Args:
            json_line: One JSON object. Its own `row_id`, if it has one, makes repeating it safe. Of rows with one id
                the first is read, whatever a later one says: where both are to count, give them ids of their own.

        Returns:
            The id of its row.

        Raises:
            InvalidInputError: Not such a line; nothing was written.
            LimitExceededError: It is too large, or the log is full; nothing was written.
            SessionMovedError: It was moved to another store; nothing was written.
            SessionDeletedError: The session was deleted. That this is not raised does not say that it was not (rule 7).
            CorruptSnapshotError: The index cannot be read; nothing was written.
            UnavailableError: Not confirmed; `applied` says whether it may be there (rule 4).
        """
        return self.append_many([json_line])[0]

    def append_many(self, lines: Iterable[str]) -> tuple[str, ...]:
        """Append lines, all of them or none; return the ids of their rows, in order.

        A line that stands there twice, with one `row_id`, is stored once.

        Raises:
            InvalidInputError: Two lines have one `row_id` and different text; nothing was written.
            And as `append`.
        """
        source = f"usage of session {self._appender.writer.session_id!r}"
        numbered = enumerate(lines, start=1)
        checked = (line_of(line, source=source, position=f"line {number}") for number, line in numbered)
        kept, places = distinct_lines(checked, source=source)
        if not kept:
            return ()
        ids = self._here().append(kept)
        return tuple(ids[place] for place in places)

    def append_rows(self, rows: Sequence[UsageRow]) -> None:
        """Append rows of another log as they are stored there, all of them or none. Raises as `append`."""
        if rows:
            self._here().append([Line(row.text.encode(), row.row_id, "") for row in rows])

    def read(self) -> Iterator[UsageRow]:
        """Yield the rows, each id once, those of each writer in its order; see `read_rows`."""
        here = self._here()
        return read_rows(here.environment, here.writer.session_id)

    @operation("usage.segments", "self._appender.environment", "self._appender.writer.session_id")
    def segments(self) -> tuple[LiveSegment, ...]:
        """Return the live segments, in the order in which they are read. Raises as `read`."""
        return present_index(self._here().writer.register).value.segments

    def _here(self) -> _Appender:
        """Return what appends in this process (rule 6): nobody waits in a child, no thread of ours runs there."""
        here = self._appender
        if here.process_id != os.getpid():
            environment = replace(here.environment, executor=InlineExecutor())
            here = self._appender = _Appender(environment, here.writer.session_id)
        return here


class _Appender:
    """What appends to one log in one process."""

    def __init__(self, environment: Environment, session_id: str) -> None:
        self.process_id = os.getpid()
        self.environment = environment
        self.writer = LogWriter(environment, session_id)
        self.callers = Callers(self.writer.register.key, self._write)
        self.upkeep_failure: Exception | None = None
        self._is_due = False  # whether a run of segments was completed
        self._barred: set[str] = set()  # names of segments that could not be read when they were to be merged

    @operation("usage.append", "self.environment", "self.writer.session_id")
    def append(self, lines: Sequence[Line]) -> tuple[str, ...]:
        ids = self.callers.served(lines)
        if self._is_due:
            self._is_due = False
            self._merge_due()
        return ids

    def _write(self, lines: Sequence[Line]) -> Sequence[str]:
        """Upload and publish lines; return their row ids."""
        writer = self.writer
        pieces = _pieces(lines)
        numbers = [writer.new_sequence() for _ in pieces]
        prefixes = [f"{writer.writer}-{number}-" for number in numbers]
        ids = [
            [line.row_id or f"{prefix}{place}" for place, line in enumerate(piece)]
            for prefix, piece in zip(prefixes, pieces, strict=True)
        ]
        rows = [[*map(Line.stored, piece, names)] for piece, names in zip(pieces, ids, strict=True)]
        for _ in range(STAGES_MAX):
            known = writer.room_for(len(pieces))
            segments = [*self.environment.executor.map(writer.upload, rows, numbers)]
            try:
                found = writer.swap(partial(appended, segments=segments, number=known.value.number), known)
            except StaleNumberError:
                writer.forget()
                numbers = [writer.new_sequence() for _ in pieces]
            else:
                self._is_due = self._is_due or is_crossed(found.value.segments, len(segments))
                return [name for names in ids for name in names]
        raise UnavailableError(writer.register.key, "collections kept rewriting the index; append again")

    def _merge_due(self) -> None:
        """Merge what is due (rule 5)."""
        self.upkeep_failure = None
        try:
            for _ in range(MERGES_MAX):
                if not self._merge():
                    break
        except (SnapshotError, StorageError) as error:
            self.upkeep_failure = error
            logger.warning("segments of a usage log were not merged: %s", error)

    def _merge(self) -> Sequence[LiveSegment]:
        try:
            return merge(self.writer, self._due)
        except (CorruptSnapshotError, UnsupportedSchemaError):
            self._barred |= unreadable(self.writer, self._due)
            raise

    def _due(self, segments: Sequence[LiveSegment]) -> Sequence[LiveSegment]:
        return due_run(segments, self._barred)


def _pieces(lines: Sequence[Line]) -> list[list[Line]]:
    """Cut lines into what one segment may hold each."""
    pieces: list[list[Line]] = []
    room = 0
    for line in lines:
        size = stored_size(line)
        if not pieces or size > room or len(pieces[-1]) == SEGMENT_ROWS_MAX:
            pieces.append([])
            room = SEGMENT_BYTES_MAX
        pieces[-1].append(line)
        room -= size
    return pieces
