"""`reap`: expires the records whose time is up.

Rules:
1. Each is expired by its own compare-and-swap, judged by what is stored then: a record that was activated, closed,
   expired, deleted or moved meanwhile is left alone and counted as skipped.
2. Any number of reapers may be at work: a record is expired by one of them, and counted by that one.
3. A run looks at no more records than its limit, and says after which key to go on. One that was ended in between is
   repeated from anywhere: what is expired is not due.
4. A record that cannot be read, or whose register has no room for the step, stops nothing; it is named, and left
   alone.

    report = reap(repo, limit=1000)
    while report.next_after:
        report = reap(repo, limit=1000, start_after=report.next_after)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from snapshots.environment import Environment, HasEnvironment
from snapshots.errors import (
    CorruptSnapshotError,
    IllegalTransitionError,
    LimitExceededError,
    SessionDeletedError,
    SessionMovedError,
    UnsupportedSchemaError,
)
from snapshots.operations import operation
from snapshots.records.record import SessionStatus, check_instant
from snapshots.records.scan import DamagedRecord, Scan, ScannedRecord, reason_of
from snapshots.records.stored import register_of
from storage.errors import UnavailableError

_STOP_NOTHING = (CorruptSnapshotError, UnsupportedSchemaError, LimitExceededError)


@dataclass(frozen=True, slots=True)
class DueRecord:
    """A record whose time is up.

    Attributes:
        session_id: Whose.
        status: As it is stored: created or active.
        expires_at: Since when it is due.
    """

    session_id: str
    status: SessionStatus
    expires_at: datetime


@dataclass(frozen=True, slots=True)
class ReapPlan:
    """What a reap would expire now. It may be another thing by the time it does.

    Attributes:
        due: What is due, in the order of the keys.
        read: How many records were read.
        damaged: Those that cannot be read, the first DAMAGED_NAMED_MAX of them.
        damaged_count: How many cannot.
        next_after: Key after which to go on, "" once all were read.
    """

    due: tuple[DueRecord, ...]
    read: int
    damaged: tuple[DamagedRecord, ...]
    damaged_count: int
    next_after: str


@dataclass(frozen=True, slots=True)
class ReapReport:
    """What a reap did, so far or in all.

    Attributes:
        read: How many records were read.
        expired: How many this run expired.
        skipped: How many were due when they were read, and changed before they could be expired.
        damaged: Those that cannot be read or written (rule 4), the first DAMAGED_NAMED_MAX of them.
        damaged_count: How many cannot.
        next_after: Key after which to go on, "" once all were read.
    """

    read: int
    expired: int
    skipped: int
    damaged: tuple[DamagedRecord, ...]
    damaged_count: int
    next_after: str


@operation("records.reap.plan", "repo.environment")
def plan_reap(
    repo: HasEnvironment, *, now: datetime | None = None, limit: int | None = None, start_after: str = ""
) -> ReapPlan:
    """Return what `reap` would expire. Read-only; holds a line for each record that is due.

    Args:
        repo: Whose tenant's records.
        now: By which instant; the clock's without.
        limit: How many records to look at, at most.
        start_after: Key after which to begin.

    Raises:
        InvalidStateError: `start_after` is no key among this tenant's records, `limit` is not above 0, or `now` is
            naive.
        UnavailableError, PermissionDeniedError: The store did not answer, or refused us.
    """
    at = repo.environment.clock.now() if now is None else now
    check_instant(at)
    scan = Scan(repo.environment, start_after=start_after, count_max=limit)
    due = tuple(row for group in scan.groups() for row in map(_row, _due(group, at)))
    return ReapPlan(due, scan.read, tuple(scan.damaged), scan.damaged_count, scan.next_after)


@operation("records.reap", "repo.environment")
def reap(
    repo: HasEnvironment,
    *,
    limit: int | None = None,
    start_after: str = "",
    progress: Callable[[ReapReport], None] | None = None,
) -> ReapReport:
    """Expire the records whose time is up when it begins; that instant becomes their `closed_at`.

    Args:
        repo: Whose tenant's records.
        limit: How many records to look at, at most; all without.
        start_after: Key after which to begin.
        progress: Told after every few records what was done so far; what is told can be gone on from.

    Raises:
        InvalidStateError: `start_after` is no key among this tenant's records, or `limit` is not above 0.
        UnavailableError: The store did not answer. What was expired stays so: repeat it.
        PermissionDeniedError: The store refused us.
    """
    environment = repo.environment
    scan = Scan(environment, start_after=start_after, count_max=limit)
    at = environment.clock.now()
    expired = skipped = 0

    def report() -> ReapReport:
        return ReapReport(scan.read, expired, skipped, tuple(scan.damaged), scan.damaged_count, scan.next_after)

    for group in scan.groups():
        for outcome in environment.executor.map(partial(_expire, environment, at), _due(group, at)):
            if isinstance(outcome, DamagedRecord):
                scan.add_damaged(outcome)
            else:
                expired += outcome
                skipped += not outcome
        if progress is not None:
            progress(report())
    return report()


def _due(group: list[ScannedRecord], at: datetime) -> Iterator[ScannedRecord]:
    return (one for one in group if one.found.value.is_due(at))


def _row(one: ScannedRecord) -> DueRecord:
    stored = one.found.value
    assert stored.record.expires_at is not None, "only what has an end is due"
    return DueRecord(stored.session_id, stored.status, stored.record.expires_at)


def _expire(environment: Environment, at: datetime, one: ScannedRecord) -> bool | DamagedRecord:
    """Say whether this call expired the record; somebody else was there first if not (rule 1)."""
    register = register_of(environment, one.found.value.session_id)
    try:
        register.update(lambda stored: stored.expire(at), known=one.found)
    except (IllegalTransitionError, SessionDeletedError, SessionMovedError):
        return False
    except _STOP_NOTHING as error:
        return DamagedRecord(one.key, reason_of(error))
    except UnavailableError as error:  # in doubt, because the record cannot be read any more: rule 4 all the same
        if not isinstance(error.__cause__, _STOP_NOTHING):
            raise
        return DamagedRecord(one.key, reason_of(error.__cause__))
    return True
