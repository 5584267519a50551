"""Pruning: dropping the revisions that no rule of retention keeps. Their bytes go with the next collection.

Rules:
1. A plan rests on revision, state id and pins of one head; if any of them has changed, it is refused: plan again.
2. It is one compare-and-swap of the head, which raises the floor, writes down what stays below it, and removes the
   pins that have expired. What was dropped never comes back.
3. A plan that finds everything done already is done: so a lost answer is recognised, and executing it again is safe.
4. The history stays: commit ids and turn stamps of what was dropped still make commits idempotent.
5. A pin's revision stays while the pin does, and no longer because of it: it is not written down below the floor.

    plan = plan_prune(repo, "s1", Retention(last=10, daily=7))
    print(plan)
    execute(plan)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from snapshots.environment import Environment
from snapshots.errors import InvalidStateError, LimitExceededError, RevisionConflictError
from snapshots.head import KEPT_MAX, Head
from snapshots.history import HistoryRow
from snapshots.maintenance.retention import Retention, kept_by_rules, reasons
from snapshots.operations import operation
from snapshots.pins import Pin
from snapshots.reading import HeadRead, read_history, read_live_head, retried_while_moving
from snapshots.repository import SnapshotRepository
from snapshots.rewrite import rewrite_head

__all__ = ["KeptRevision", "PrunePlan", "PruneResult", "Retention", "execute", "plan_prune"]


@dataclass(frozen=True, slots=True)
class KeptRevision:
    """A revision that a prune keeps.

    Attributes:
        revision: Its number.
        reasons: Why: `present`, `last`, `within`, `daily`, `weekly`, `monthly`, or `pin NAME`.
    """

    revision: int
    reasons: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class PrunePlan:
    """What a prune would do. Printing it says so.

    Attributes:
        session_id: Of which session.
        revision: The present revision that it rests on.
        state_id: The state that it rests on.
        pins: The pins that it rests on, expired ones too.
        kept: Revisions that stay, and why, oldest first.
        dropped: Revisions that go, oldest first.
        pins_removed: Expired pins that go.
        floor: Every revision from here on stays.
        kept_below_floor: Those that stay below it, without those that only a pin keeps.
        environment: Where to do it.
    """

    session_id: str
    revision: int
    state_id: str
    pins: tuple[Pin, ...]
    kept: tuple[KeptRevision, ...]
    dropped: tuple[int, ...]
    pins_removed: tuple[Pin, ...]
    floor: int
    kept_below_floor: tuple[int, ...]
    environment: Environment = field(repr=False, compare=False)

    @property
    def writes(self) -> bool:
        """Say whether there is anything to do."""
        return bool(self.dropped or self.pins_removed)

    def __str__(self) -> str:
        lines = [f"session {self.session_id!r} at revision {self.revision}, state {self.state_id}"]
        lines += [f"  keep {one.revision} ({', '.join(one.reasons)})" for one in self.kept]
        lines += [f"  drop {revision}" for revision in self.dropped]
        lines += [f"  remove pin {pin.name} of {pin.revision} (expired)" for pin in self.pins_removed]
        return "\n".join(lines if self.writes else [*lines, "  nothing to do"])


@dataclass(frozen=True, slots=True)
class PruneResult:
    """What a prune did.

    Attributes:
        session_id: Of which session.
        state_id: The state of its head afterwards.
        dropped: Revisions that went, oldest first.
        pins_removed: Pins that went.
    """

    session_id: str
    state_id: str
    dropped: tuple[int, ...]
    pins_removed: tuple[Pin, ...]


@operation("prune.plan", "repo.environment", "session_id")
def plan_prune(repo: SnapshotRepository, session_id: str, retention: Retention) -> PrunePlan:
    """Return what a prune of a session would do now; nothing is written.

    Raises:
        LimitExceededError: More than KEPT_MAX revisions would stay below a gap; keep fewer, or `last` more.
        And as `SnapshotRepository.load`.
    """
    return plan_on(repo.environment, session_id, retention)


def plan_on(environment: Environment, session_id: str, retention: Retention) -> PrunePlan:
    """Return the plan for what a repository works with; see `plan_prune`."""
    head, rows = retried_while_moving(environment, session_id, lambda read: _with_history(environment, read))
    now = environment.clock.now()
    retained = _retained(head, rows)
    why = reasons(retained, retention, present=head.revision, now=now, pins=head.pins)
    ruled = set(kept_by_rules(why))
    floor = _floor(head, ruled)
    below = tuple(revision for revision in why if revision in ruled and revision < floor)
    if len(below) > KEPT_MAX:
        raise LimitExceededError(f"{KEPT_MAX} revisions kept below a gap; keep fewer, or a longer last", len(below))
    return PrunePlan(
        session_id=session_id,
        revision=head.revision,
        state_id=head.state_id,
        pins=head.pins,
        kept=tuple(KeptRevision(revision, each) for revision, each in why.items()),
        dropped=tuple(row.revision for row in retained if row.revision not in why),
        pins_removed=tuple(pin for pin in head.pins if pin.expired(now)),
        floor=floor,
        kept_below_floor=below,
        environment=environment,
    )


@operation("prune", "plan.environment", "plan.session_id")
def execute(plan: PrunePlan) -> PruneResult:
    """Do what a plan says, all of it or nothing. What is done already is not done again (rule 3).

    Returns:
        What went; for a plan that drops nothing, nothing was written.

    Raises:
        RevisionConflictError: Somebody committed since; nothing was or will be written. Plan again.
        InvalidStateError: Somebody changed what is retained, or the pins, since; likewise.
        SessionDeletedError, SessionMovedError: Meanwhile.
        UnavailableError: Nothing was confirmed; `applied` says whether it may have landed. Executing it again is safe.
    """
    environment = plan.environment
    state_id, now = environment.clock.new_id(), environment.clock.now()

    def pruned(head: Head) -> Head | None:
        if _is_done(plan, head):
            return None
        _check_unchanged(plan, head)
        return replace(
            head,
            floor=plan.floor,
            kept=plan.kept_below_floor,
            pins=tuple(pin for pin in head.pins if pin not in plan.pins_removed),
            state_id=state_id,
            updated_at=now,
        )

    read = rewrite_head(environment, read_live_head(environment, plan.session_id), pruned)
    return PruneResult(plan.session_id, read.head.state_id, plan.dropped, plan.pins_removed)


def _with_history(environment: Environment, read: HeadRead) -> tuple[Head, list[HistoryRow]]:
    return read.head, read_history(environment, read.head)


def _retained(head: Head, rows: Sequence[HistoryRow]) -> list[HistoryRow]:
    below = head.kept_below_floor
    return [row for row in rows if row.revision >= head.floor or row.revision in below]


def _floor(head: Head, ruled: set[int]) -> int:
    """Return the first of the revisions that all stay, up to the present one; never one below the floor of before."""
    floor = head.revision
    while floor - 1 >= head.floor and floor - 1 in ruled:
        floor -= 1
    return floor


def _is_done(plan: PrunePlan, head: Head) -> bool:
    """Say whether the head keeps none of what was to go. Once true it stays so, whatever others write."""
    pinned = any(pin in plan.pins_removed for pin in head.pins)
    return not pinned and not any(map(head.retains, plan.dropped))


def _check_unchanged(plan: PrunePlan, head: Head) -> None:
    """Check that the head is what the plan rests on (rule 1)."""
    if head.revision != plan.revision:
        raise RevisionConflictError(plan.session_id, expected=plan.revision, actual=head.revision)
    changed = "pins" if head.pins != plan.pins else "retained revisions" if head.state_id != plan.state_id else ""
    if changed:
        raise InvalidStateError(f"the {changed} of session {plan.session_id!r} changed since this plan; plan again")
