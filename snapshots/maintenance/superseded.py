"""Superseded segments of usage logs: what the indexes do not name. Planned and settled here, deleted by a collection.

Rules:
1. A plan lists the usage logs and reads their indexes; nothing is written. It is a hint.
2. Settling lists the segments of a log again, takes a fresh number, and rewrites the index with it. What was listed
   before, and is not named by the index as it was written, can be deleted: whoever uploaded it finds the newer number
   when publishing, and uploads it again under another name.
3. A log whose index has that number or a higher one from somebody else is left to the next run.
4. A log whose index is missing, cannot be read or cannot be written is spared, and hides no other one. Those of
   deleted sessions go as a whole, elsewhere; those that were left behind stay, for whoever copies them.
5. The number is taken above those of the indexes, so that a lost register of numbers costs nothing; but not above one
   that no collection can have reached: whoever forged it spoils that log alone.

    found = plan_logs(environment, is_dead)
    settled = settle_logs(environment, found.superseded)
    settled.garbage
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.errors import (
    CorruptSnapshotError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
    UnsupportedSchemaError,
)
from snapshots.maintenance.progress import Progress, quiet
from snapshots.usage.index import ListedLog, for_each_log, index_at, index_register, logs_in
from snapshots.usage.segments import NUMBER_MAX, Index
from storage.errors import UnavailableError
from storage.store import ListedObject

NUMBER_REACHED_MAX = 1 << 48  # one collection a millisecond for eight thousand years
LOGS_SETTLED_AT_ONCE = 64  # under one number; bounds the keys held


@dataclass(frozen=True, slots=True)
class SupersededLog:
    """Segments of one usage log that its index did not name when the plan was made.

    Attributes:
        session_id: Whose log it is.
        segments: How many nobody named.
        bytes: Their size together.
        listed: How many segments the log has in all.
        number: Of the collection for which its index was last rewritten.
    """

    session_id: str
    segments: int
    bytes: int
    listed: int
    number: int


@dataclass(frozen=True, slots=True)
class SparedLog:
    """A usage log that is left alone.

    Attributes:
        log: Its session, or where it lies if that cannot be told.
        reason: Why.
    """

    log: str
    reason: str


@dataclass(frozen=True, slots=True)
class LogsPlan:
    """What is known of the usage logs.

    Attributes:
        superseded: Those with segments that nobody names, in the order of their keys.
        spared: Those that cannot be collected.
        logs: How many were looked at.
    """

    superseded: tuple[SupersededLog, ...]
    spared: tuple[SparedLog, ...]
    logs: int


@dataclass(frozen=True, slots=True)
class SettledLogs:
    """What of some logs can be deleted now.

    Attributes:
        number: With which their indexes were rewritten.
        garbage: Segments that nobody names, and nobody will.
        spared: Logs that were left alone.
    """

    number: int
    garbage: tuple[ListedObject, ...]
    spared: tuple[SparedLog, ...]


def plan_logs(environment: Environment, is_dead: Callable[[str], bool], *, progress: Progress = quiet) -> LogsPlan:
    """Find out which usage logs have segments that nobody names, without writing anything.

    Args:
        environment: Whose.
        is_dead: Says whether the session of a key was deleted.
        progress: Told of every log.

    Raises:
        UnavailableError: The store did not answer.
    """
    superseded: list[SupersededLog] = []
    spared: list[SparedLog] = []
    count = 0
    for found in for_each_log(environment, partial(_looked_at, environment, is_dead)):
        count += 1
        progress("usage logs read", count, 0)
        if isinstance(found, SparedLog):
            spared.append(found)
        elif found is not None and found.segments:
            superseded.append(found)
    return LogsPlan(tuple(superseded), tuple(spared), count)


def _looked_at(
    environment: Environment, is_dead: Callable[[str], bool], log: ListedLog
) -> SupersededLog | SparedLog | None:
    if is_dead(log.prefix):
        return None
    try:
        session_id, found = index_at(environment, log)
    except (SessionDeletedError, SessionMovedError):
        return None
    except (CorruptSnapshotError, UnsupportedSchemaError, UnavailableError) as error:
        return SparedLog(log.prefix, _why(error))
    names = _keys(environment, session_id, found.value)
    sizes = [row.size_bytes for row in log.segments if row.key not in names]
    return SupersededLog(session_id, len(sizes), sum(sizes), len(log.segments), found.value.number)


def settle_logs(environment: Environment, logs: Sequence[SupersededLog]) -> SettledLogs:
    """Rewrite the indexes of some logs; return what nobody can name any more (rule 2).

    Interrupted at any request it leaves correct logs, and nothing is lost.

    Raises:
        UnavailableError: The store did not answer; nothing may be deleted.
        CorruptSnapshotError: The register of numbers cannot be read, or counts higher than it can have counted.
    """
    layout = environment.layout
    listed = [tuple(logs_in(environment, layout.usage(log.session_id))) for log in logs]
    reached = [log.number for log in logs if log.number <= NUMBER_REACHED_MAX]
    number = take_number(environment, above=max(reached, default=0))
    if number > NUMBER_MAX:
        raise CorruptSnapshotError(layout.epoch, f"the number {number} is one that no collection can have reached")
    rewritten = environment.executor.map(partial(_rewritten, environment, number), (log.session_id for log in logs))
    garbage: list[ListedObject] = []
    spared: list[SparedLog] = []
    for log, found, index in zip(logs, listed, rewritten, strict=True):
        if isinstance(index, SparedLog):
            spared.append(index)
        elif index is not None:
            names = _keys(environment, log.session_id, index)
            garbage += [row for one in found for row in one.segments if row.key not in names]
    return SettledLogs(number, tuple(garbage), tuple(spared))


def _rewritten(environment: Environment, number: int, session_id: str) -> Index | SparedLog | None:
    """Return the index with the number; why it has none; None where the session was deleted or moved meanwhile."""
    try:
        index = index_register(environment, session_id).update(lambda index: _numbered(index, number)).value
    except (SessionDeletedError, SessionMovedError):
        return None
    except (CorruptSnapshotError, UnsupportedSchemaError, SessionNotFoundError, UnavailableError) as error:
        return SparedLog(session_id, _why(error))
    if index.number != number:  # Rule 3.
        if index.number > NUMBER_REACHED_MAX:
            return SparedLog(
                session_id, f"its index has the number {index.number}, which no collection can have reached"
            )
        return SparedLog(session_id, f"another collection is at work on it (number {index.number}); collect again")
    return index


def _numbered(index: Index, number: int) -> Index:
    return index if index.number >= number else replace(index, number=number)


def _keys(environment: Environment, session_id: str, index: Index) -> frozenset[str]:
    return frozenset(environment.layout.usage_segment(session_id, name) for name in index.names)


def _why(error: Exception) -> str:
    return f"{error.key}: {error.reason}" if isinstance(error, CorruptSnapshotError) else str(error)
