"""`Retention`: which revisions of a session a prune keeps, and why. Pure.

Rules:
1. A revision is kept if any rule keeps it; the present one, and those with a pin that has not expired, always are.
2. A day, week or month is that of the history row's `created_at`, in UTC; weeks are those of ISO 8601. Of each the
   newest revision is kept, for as many of them as were asked for, counting only those that have a revision.
3. Only what is still retained is looked at: a revision that was dropped does not stand for its day.

    reasons(candidates, Retention(last=10, daily=7), present=42, now=now, pins=head.pins)
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from snapshots.errors import InvalidStateError
from snapshots.history import HistoryRow
from snapshots.pins import Pin

PRESENT = "present"


@dataclass(frozen=True, slots=True)
class Retention:
    """The rules of a prune; at least one must be given.

    Attributes:
        last: Keep this many of the newest revisions, None for no such rule.
        within: Keep what is at most this old, None for no such rule.
        daily: Keep the newest revision of each of this many days, 0 for no such rule.
        weekly: Likewise of weeks.
        monthly: Likewise of months.

    Raises:
        InvalidStateError: No rule, or one that can keep nothing.
    """

    last: int | None = None
    within: timedelta | None = None
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    def __post_init__(self) -> None:
        if self.last is not None and self.last < 1:
            raise InvalidStateError(f"last {self.last} keeps nothing; give at least 1, or leave it out")
        if self.within is not None and self.within <= timedelta():
            raise InvalidStateError(f"within {self.within} keeps nothing; give a positive age, or leave it out")
        for name, count in (("daily", self.daily), ("weekly", self.weekly), ("monthly", self.monthly)):
            if count < 0:
                raise InvalidStateError(f"{name} {count} is negative; give a positive number, or leave it out")
        if self.last is None and self.within is None and not (self.daily or self.weekly or self.monthly):
            raise InvalidStateError("no rule of retention; give at least one of last, within, daily, weekly, monthly")


def reasons(
    candidates: Sequence[HistoryRow], retention: Retention, *, present: int, now: datetime, pins: Iterable[Pin]
) -> dict[int, tuple[str, ...]]:
    """Return why each revision that is kept is kept, oldest first; what is not in it may go.

    Args:
        candidates: Rows of the revisions that are still retained, oldest first.
        retention: The rules.
        present: Number of the present revision.
        now: Decides about `within`, and whether a pin has expired.
        pins: The session's pins.

    Returns:
        By revision: `present`, `last`, `within`, `daily`, `weekly`, `monthly`, and `pin NAME`, in this order.
    """
    found: dict[int, list[str]] = {row.revision: [] for row in candidates}
    for reason, kept in _by_rule(candidates, retention, present, now):
        for revision in kept:
            found[revision].append(reason)
    for pin in pins:
        if not pin.expired(now):
            found[pin.revision].append(pin_reason(pin))
    return {revision: tuple(why) for revision, why in found.items() if why}


def pin_reason(pin: Pin) -> str:
    """Return the reason that a pin is. No rule's name has a space."""
    return f"pin {pin.name}"


def kept_by_rules(why: Mapping[int, Sequence[str]]) -> list[int]:
    """Return the revisions that something else than a pin keeps, in the order of `why`."""
    return [revision for revision, each in why.items() if any(not one.startswith("pin ") for one in each)]


def _by_rule(
    rows: Sequence[HistoryRow], retention: Retention, present: int, now: datetime
) -> Iterable[tuple[str, Iterable[int]]]:
    yield PRESENT, [present]
    if retention.last is not None:
        yield "last", [row.revision for row in rows[-retention.last :]]
    if retention.within is not None:
        yield "within", [row.revision for row in rows if now - row.created_at <= retention.within]
    yield "daily", _newest_of_each(rows, retention.daily, lambda at: at.date())
    yield "weekly", _newest_of_each(rows, retention.weekly, lambda at: at.isocalendar()[:2])
    yield "monthly", _newest_of_each(rows, retention.monthly, lambda at: (at.year, at.month))


def _newest_of_each(rows: Iterable[HistoryRow], count: int, period: Callable[[datetime], Hashable]) -> list[int]:
    """Return the newest revision of each of the `count` latest periods (rule 2)."""
    newest: dict[Any, int] = {}
    for row in rows:
        newest[period(row.created_at.astimezone(UTC))] = row.revision
    return [newest[each] for each in sorted(newest, reverse=True)[:count]]
