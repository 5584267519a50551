"""Pinning: giving a revision a name, and taking it away. One compare-and-swap of the head each.

Rules:
1. A pin that goes, and leaves its revision without retention, changes what the head names: a new state id, so that a
   rewind to that revision under way looks again.
2. Only the pin that was there at first is taken away: not one that somebody gave the same name meanwhile.

    pin(environment, "s1", 7, "before-refactoring", expires_at=None)
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from datetime import datetime

from snapshots.environment import Environment
from snapshots.errors import InvalidStateError, LimitExceededError, RevisionNotFoundError
from snapshots.head import Head
from snapshots.pins import PINS_MAX, Pin, check_pin_name, find_pin
from snapshots.reading import read_live_head, revision_of
from snapshots.rewrite import rewrite_head


def pin(
    environment: Environment, session_id: str, revision: int | str, name: str, *, expires_at: datetime | None
) -> Pin:
    """Name a revision; see `SnapshotRepository.pin`."""
    check_pin_name(name)
    now = environment.clock.now()
    if expires_at is not None:
        _check_expiry(expires_at, now)
    read = read_live_head(environment, session_id)
    wanted = Pin(name, revision_of(read.head, revision, now), expires_at)

    def pinned(head: Head) -> Head | None:
        held = find_pin(head.pins, name)
        if held == wanted:
            return None
        revision_of(head, wanted.revision, now)  # a prune may have been faster
        if held is not None and held.revision != wanted.revision and not held.expired(now):
            raise InvalidStateError(
                f"pin {name!r} of session {session_id!r} names revision {held.revision}; unpin it first, "
                "or choose another name"
            )
        others = [one for one in head.pins if one.name != name]
        if len(others) == PINS_MAX:
            raise LimitExceededError(f"{PINS_MAX} pins of session {session_id!r}; unpin one first", PINS_MAX + 1)
        return _with_pins(environment, head, (*others, wanted))

    rewrite_head(environment, read, pinned)
    return wanted


def _check_expiry(expires_at: datetime, now: datetime) -> None:
    if expires_at.tzinfo is None:
        raise InvalidStateError("expires_at has no time zone; give an aware instant, such as datetime.now(UTC)")
    if expires_at <= now:
        raise InvalidStateError(f"expires_at {expires_at.isoformat()} is past; give a later instant, or none")


def unpin(environment: Environment, session_id: str, name: str) -> None:
    """Take a name away; see `SnapshotRepository.unpin`."""
    check_pin_name(name)
    read = read_live_head(environment, session_id)
    found = find_pin(read.head.pins, name)
    if found is None:
        raise RevisionNotFoundError(session_id, name)

    def unpinned(head: Head) -> Head | None:
        left = [one for one in head.pins if one != found]  # Rule 2.
        return None if len(left) == len(head.pins) else _with_pins(environment, head, left)

    rewrite_head(environment, read, unpinned)


def _with_pins(environment: Environment, head: Head, pins: Iterable[Pin]) -> Head:
    """Return the head with these pins in order of name (rule 1)."""
    pinned = replace(head, pins=tuple(sorted(pins, key=lambda one: one.name)))
    dropped = [one.revision for one in head.pins if not pinned.retains(one.revision)]
    return replace(pinned, state_id=environment.clock.new_id()) if dropped else pinned
