"""Copying all sessions of a store, or some: what there is to do, and doing it.

Rules:
1. A plan reads heads, and of what is to be copied the books; it is a hint: what is done is decided session by session.
   Of a session that was there already nothing is done: what came since the plan is for the next run.
2. A session comes after the one that it was forked from, so that it finds the packs there which both share.
3. What is wrong with one session keeps no other one: it is named in the report. A store that answers for none of many
   in a row, or for none at all, ends the run.
4. A run that was interrupted is repeated: what is there already costs two reads of its head in the source, the second
   of which cannot be behind the copy, one here, and what it takes to see that what lies beside it is there too.
5. Nothing is ever deleted, here or there.

    plan = plan_copy(source, destination)
    report = execute(plan)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby, islice
from threading import Lock
from typing import Literal

from snapshots.environment import Environment
from snapshots.errors import (
    CopyConflictError,
    CorruptSnapshotError,
    InvalidStateError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
    SnapshotError,
    UnsupportedSchemaError,
)
from snapshots.head import LIVE, RESERVED, TOMBSTONE, Head
from snapshots.maintenance.copy.presence import presence_in
from snapshots.maintenance.copy.satellites import (
    KINDS,
    SatelliteKind,
    SatellitesCopied,
    check_returns,
    copy_satellites,
    take_back_satellites,
)
from snapshots.maintenance.copy.session import SessionJob, conflict_of, copy_session, is_copied
from snapshots.maintenance.copy.survey import WHOLE, History, places_in, survey
from snapshots.maintenance.marks import pack_mark
from snapshots.maintenance.progress import Progress, quiet
from snapshots.operations import operation
from snapshots.reading import HeadRead, head_at, read_head, read_live_head, retried_while_moving
from snapshots.repository import SnapshotRepository
from snapshots.sessions import for_each_head
from storage.errors import CorruptObjectError, NotFoundError, StorageError, UnavailableError
from storage.keys import check_id

SIDE_BY_SIDE = 32  # sessions taken on at once; bounds what waits, not the result

NOWHERE = 1 << 30  # the depth of what has no head: it comes last

Action = Literal["new", "further", "same", "conflict", "skipped", "beside"]
"""What a plan means to do: copy all of it, what is new, nothing, nothing as it cannot, nothing as there is no such
session any more, and what lies beside a session that is not there."""

Outcome = Literal["copied", "moved", "same", "conflict", "damaged", "skipped", "failed", "unavailable"]
"""What became of a session."""


@dataclass(frozen=True, slots=True)
class PlannedSession:
    """What a plan says of a session.

    Attributes:
        job: Which, and how.
        action: What to do.
        revision: Its revision in the source.
        known: Its revision in the destination, 0 for none.
        packs: Packs to upload.
        bytes: Their size.
        reason: Why it is skipped, or in conflict.
        depth: How many of those before it in the plan it descends from.
        beside: What lies beside it and is to be copied too, as far as it is there.
        damage: Why it cannot be copied, None if it can as far as is known: its head cannot be read, or the register
            that alone has its id. The job has the name then that its keys end with.
    """

    job: SessionJob
    action: Action
    revision: int
    known: int
    packs: int = 0
    bytes: int = 0
    reason: str = ""
    depth: int = 0
    beside: tuple[SatelliteKind, ...] = ()
    damage: Exception | None = None


@dataclass(frozen=True, slots=True)
class CopyPlan:
    """What there is to copy. A hint (rule 1).

    Attributes:
        source: Where from; only read.
        destination: Where to.
        sessions: All that were looked at, those first from which others descend.
    """

    source: Environment = field(repr=False, compare=False)
    destination: Environment = field(repr=False, compare=False)
    sessions: tuple[PlannedSession, ...]

    @property
    def to_copy(self) -> tuple[PlannedSession, ...]:
        """Return the sessions with anything to copy; what lies beside the others is looked at when it is copied."""
        return tuple(one for one in self.sessions if one.action in ("new", "further", "beside"))

    @property
    def bytes(self) -> int:
        """Return about how much is to be uploaded."""
        return sum(one.bytes for one in self.sessions)

    def __str__(self) -> str:
        counts: dict[str, int] = defaultdict(int)
        for one in self.sessions:
            counts[one.action] += 1
        said = ", ".join(f"{count} {action}" for action, count in sorted(counts.items()))
        return f"{len(self.sessions)} sessions ({said}), {self.bytes} bytes to copy"


@dataclass(frozen=True, slots=True)
class SessionOutcome:
    """What became of a session.

    Attributes:
        session_id: Its id in the source.
        target: Its id in the destination.
        outcome: What was done.
        before: Its revision in the destination before.
        revision: Its revision there now.
        packs: Packs uploaded.
        uploaded_bytes: Size of all that was uploaded, of what lies beside it too.
        error: Why it was not copied, None if it was.
    """

    session_id: str
    target: str
    outcome: Outcome
    before: int = 0
    revision: int = 0
    packs: int = 0
    uploaded_bytes: int = 0
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy did.

    Attributes:
        sessions: What became of each, in the order of the plan.
        seconds: How long it took.
    """

    sessions: tuple[SessionOutcome, ...]
    seconds: float = 0.0

    @property
    def copied(self) -> tuple[SessionOutcome, ...]:
        """Return those of which something was copied."""
        return tuple(one for one in self.sessions if one.outcome == "copied")

    @property
    def not_copied(self) -> tuple[SessionOutcome, ...]:
        """Return those that should have been copied and were not."""
        return tuple(one for one in self.sessions if one.error is not None)

    @property
    def uploaded_bytes(self) -> int:
        """Return the size of all that was uploaded."""
        return sum(one.uploaded_bytes for one in self.sessions)


@operation("copy.plan", "destination.environment")
def plan_copy(
    source: SnapshotRepository,
    destination: SnapshotRepository,
    *,
    sessions: Iterable[str] | None = None,
    history: History = WHOLE,
    target: str = "",
    may_return: bool = False,
    progress: Progress = quiet,
) -> CopyPlan:
    """Find out what there is to copy, without writing anything.

    Memory is in proportion to the number of sessions, some hundred bytes each.

    Args:
        source: Where from.
        destination: Where to; it may be another tenant of the same store.
        sessions: Which, None for all.
        history: Every revision that the source retains, or the present one alone.
        target: Another id for the one session that is copied, "" to keep its own.
        may_return: Whether sessions may take the place of what they left there when they were moved away.
        progress: Told of every session.

    Raises:
        SessionNotFoundError, SessionDeletedError, SessionMovedError: One of `sessions` is not there.
        InvalidStateError: `target` is given for several sessions, or source and destination are one and the same.
        UnavailableError: A store did not answer.
    """
    chosen = None if sessions is None else list(dict.fromkeys(sessions))
    _check(source.environment, destination.environment, chosen, target)
    job = SessionJob("", target, history, may_return=may_return)
    planning = _Planning(source.environment, destination.environment, job)
    return CopyPlan(source.environment, destination.environment, tuple(planning.planned(chosen, progress)))


def _check(source: Environment, here: Environment, chosen: Sequence[str] | None, target: str) -> None:
    if target and (chosen is None or len(chosen) != 1):
        raise InvalidStateError("another id can be given for one session only; name it")
    if source.home == here.home and (not target or chosen == [target]):
        raise InvalidStateError("source and destination are the same store and tenant; give the copy another id")
    for name in (*(chosen or ()), *((target,) if target else ())):
        check_id(name, what="session id")


@dataclass(frozen=True, slots=True)
class _Known:
    """What is remembered of a session of the source."""

    session_id: str
    status: str
    revision: int
    origin: str
    family: str
    damage: Exception | None = None


class _Planning:
    """One call of `plan_copy`."""

    def __init__(self, source: Environment, here: Environment, job: SessionJob) -> None:
        self._source = source
        self._here = here
        self._job = job

    def planned(self, chosen: Sequence[str] | None, progress: Progress) -> Iterator[PlannedSession]:
        known = {one.session_id: one for one in self._known(chosen, progress)}
        presence = presence_in(self._source) if chosen is None else None
        family = _Families(known.values())
        order = sorted(known.values(), key=lambda one: (family.depth(one), one.session_id))
        for start in range(0, len(order), SIDE_BY_SIDE):
            some = order[start : start + SIDE_BY_SIDE]
            jobs = [replace(self._job, session_id=one.session_id, relatives=family.relatives(one)) for one in some]
            for one, (planned, sizes) in zip(some, self._here.executor.map(self._looked_at, some, jobs), strict=True):
                fresh = family.not_counted(one, sizes)
                beside = KINDS if presence is None else presence.kinds(one.session_id)
                yield replace(
                    planned, packs=len(fresh), bytes=sum(fresh.values()), depth=family.depth(one), beside=beside
                )
            progress("sessions compared", min(start + SIDE_BY_SIDE, len(order)), len(order))
        for other in presence.others() if presence is not None else ():
            job = replace(self._job, session_id=other.session_id)
            reason = "" if other.damage is None else str(other.damage)
            yield PlannedSession(
                job, "beside", 0, 0, reason=reason, depth=NOWHERE, beside=other.kinds, damage=other.damage
            )

    def _known(self, chosen: Sequence[str] | None, progress: Progress) -> Iterator[_Known]:
        if chosen is not None:
            yield from self._source.executor.map(self._chosen, chosen)
            return
        for count, one in enumerate(for_each_head(self._source, lambda row: self._listed(row.key)), start=1):
            progress("heads read", count, 0)
            if one.status != RESERVED:
                yield one

    def _chosen(self, session_id: str) -> _Known:
        key = self._source.layout.head(session_id)
        try:
            found = self._listed(key)
        except NotFoundError as error:
            raise SessionNotFoundError(session_id) from error
        if found.damage is None and found.status != LIVE:
            read_live_head(self._source, session_id)  # raises what it is instead
        return replace(found, session_id=session_id)

    def _listed(self, key: str) -> _Known:
        try:
            head = head_at(self._source, key).head
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:
            return _Known(self._source.layout.family_id(key.rpartition("/")[2]), "", 0, "", "", error)
        origin = "" if head.origin is None else head.origin.session_id
        return _Known(head.session_id, head.status, head.revision, origin, head.family)

    def _looked_at(self, known: _Known, job: SessionJob) -> tuple[PlannedSession, Mapping[str, int]]:
        """Return what to do, and the packs to upload for it with their sizes, as far as that can be told."""
        planned = PlannedSession(job, "skipped", known.revision, 0)
        if known.damage is not None:
            return replace(planned, action="new", reason=str(known.damage), damage=known.damage), {}
        if known.status != LIVE:
            what = "it was deleted" if known.status == TOMBSTONE else "it was moved away"
            return replace(planned, reason=what), {}
        try:
            return self._compared(planned)
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:  # the copy of this session will say it again
            return replace(planned, action="new", reason=str(error)), {}
        except (SessionDeletedError, SessionMovedError, SessionNotFoundError) as error:
            return replace(planned, reason=str(error)), {}

    def _compared(self, planned: PlannedSession) -> tuple[PlannedSession, Mapping[str, int]]:
        here = read_head(self._here, planned.job.target_id)
        if here is None or here.head.status == RESERVED:
            return self._sized(planned, None)
        planned = replace(planned, known=here.head.revision)
        there = read_live_head(self._source, planned.job.session_id).head
        reason = conflict_of(there, here.head, planned.job)
        if reason:
            return replace(planned, action="conflict", reason=reason), {}
        if is_copied(there, here.head, self._job.history):
            return replace(planned, action="same", revision=there.revision), {}
        return self._sized(planned, here)

    def _sized(self, planned: PlannedSession, here: HeadRead | None) -> tuple[PlannedSession, Mapping[str, int]]:
        found = retried_while_moving(self._source, planned.job.session_id, lambda read: survey(self._source, read))
        known: Iterable[str] = ()
        if here is not None and here.head.status == LIVE:
            known = places_in(retried_while_moving(self._here, planned.job.target_id, lambda r: survey(self._here, r)))
        names = found.needed(self._job.history).difference(known)
        sizes = {use.pack: use.body_bytes for use in found.uses if use.pack in names}
        sizes |= {pack.name: len(pack.data) for pack in found.head.tail if pack.name in names}
        sizes |= {name: self._size(found.head, name) for name, size in sizes.items() if not size}
        action: Action = "new" if here is None else "further"
        return replace(planned, action=action, revision=found.head.revision), sizes

    def _size(self, head: Head, name: str) -> int:
        """Ask for the size of a pack of which the books do not tell it; 0 where it is gone: a plan is a hint."""
        try:
            return self._source.store.stat(self._source.layout.pack(head.family, name)).size_bytes
        except NotFoundError:
            return 0


class _Families:
    """Which sessions have packs in common.

    Args:
        known: All sessions of a plan.
    """

    def __init__(self, known: Iterable[_Known]) -> None:
        self._known = {one.session_id: one for one in known}
        self._oldest: dict[str, str] = {}
        self._members: Counter[str] = Counter()
        self._counted: defaultdict[str, set[bytes]] = defaultdict(set)
        self._depths: dict[str, int] = {}
        for one in self._known.values():
            if one.status == LIVE and one.family:
                self._members[one.family] += 1
                best = self._oldest.setdefault(one.family, one.session_id)
                self._oldest[one.family] = min(best, one.session_id, key=self._age)

    def _age(self, session_id: str) -> tuple[int, int, str]:
        """Return what sorts sessions of a family: that which others were forked from first."""
        one = self._known[session_id]
        return (one.session_id != one.family, self.depth(one), session_id)

    def depth(self, one: _Known) -> int:
        """Return how many sessions of the plan it descends from. No recursion: forks of forks may be many."""
        path: dict[str, None] = {}
        name = one.session_id
        while name in self._known and name not in self._depths and name not in path:
            path[name] = None
            name = self._known[name].origin
        depth = self._depths.get(name, -1)
        for above in reversed(path):
            depth += 1
            self._depths[above] = depth
        return self._depths[one.session_id]

    def relatives(self, one: _Known) -> tuple[str, ...]:
        """Return the sessions that may have packs of it in the destination, best first."""
        if not one.origin:
            return ()
        names = (one.origin, one.family, self._oldest.get(one.family, ""))
        return tuple(dict.fromkeys(name for name in names if name and name != one.session_id))

    def not_counted(self, one: _Known, sizes: Mapping[str, int]) -> dict[str, int]:
        """Return the packs that no session of the same family had before; remembers them."""
        if self._members[one.family] < 2:
            return dict(sizes)
        counted = self._counted[one.family]
        fresh = {name: size for name, size in sizes.items() if pack_mark(name) not in counted}
        counted.update(map(pack_mark, fresh))
        return fresh


Told = Callable[[SessionOutcome], None]
"""Told of every session."""


def nobody(_outcome: SessionOutcome) -> None:
    """Tell nobody."""


@operation("copy", "plan.destination")
def execute(plan: CopyPlan, *, progress: Progress = quiet, told: Told = nobody) -> CopyReport:
    """Copy what the plan says, as it is now.

    Args:
        plan: What to copy.
        progress: Told of bytes and of sessions.
        told: Told of every session when it is done, in the order of the plan.

    Raises:
        UnavailableError: A store answers nobody any more; run it again.
    """
    return _Execution(plan, progress, told).run()


class _Execution:
    """One call of `execute`."""

    def __init__(self, plan: CopyPlan, progress: Progress, told: Told) -> None:
        self._plan = plan
        self._progress = progress
        self._told = told
        self._lock = Lock()
        self._bytes = 0

    def run(self) -> CopyReport:
        clock = self._plan.destination.clock
        begun = clock.monotonic()
        done: list[SessionOutcome] = []
        silent = 0
        for _, level in groupby(self._plan.sessions, lambda one: one.depth):  # Rule 2.
            for some in _slices(level, SIDE_BY_SIDE):
                outcomes = list(self._plan.destination.executor.map(self._one, some))
                done += outcomes
                for one in outcomes:
                    self._told(one)
                self._progress("sessions", len(done), len(self._plan.sessions))
                silent = _unanswered(silent, outcomes)
                if silent >= SIDE_BY_SIDE:
                    raise _first_error(outcomes)
        tried = [one for one in done if one.outcome != "skipped"]
        if tried and silent == len(tried):
            raise _first_error(tried)
        return CopyReport(tuple(done), clock.monotonic() - begun)

    def _one(self, planned: PlannedSession) -> SessionOutcome:
        job = planned.job
        outcome = SessionOutcome(job.session_id, job.target_id, "same", planned.known, planned.revision)
        if planned.action == "skipped":
            return replace(outcome, outcome="skipped")
        if planned.damage is not None:
            return failed(outcome, planned.damage)
        try:
            if planned.action not in ("beside", "same"):
                outcome = self._copied(outcome, job)
            return self._with_beside(outcome, planned)
        except (SessionDeletedError, SessionMovedError, SessionNotFoundError):
            return replace(outcome, outcome="skipped")
        except (SnapshotError, StorageError) as error:
            return failed(outcome, error)

    def _copied(self, outcome: SessionOutcome, job: SessionJob) -> SessionOutcome:
        outcome = replace(outcome, revision=outcome.before)
        copied = copy_session(self._plan.source, self._plan.destination, job, self._count)
        return replace(
            outcome,
            outcome="copied" if copied.is_changed else "same",
            before=copied.before,
            revision=copied.revision,
            packs=copied.packs,
            uploaded_bytes=copied.uploaded_bytes,
        )

    def _with_beside(self, outcome: SessionOutcome, planned: PlannedSession) -> SessionOutcome:
        if not planned.beside:
            return outcome
        copied = self._beside(planned)
        self._count(copied.bytes)
        uploaded = outcome.uploaded_bytes + copied.bytes
        return replace(outcome, outcome="copied" if copied.is_changed else outcome.outcome, uploaded_bytes=uploaded)

    def _beside(self, planned: PlannedSession) -> SatellitesCopied:
        source, here, job = self._plan.source, self._plan.destination, planned.job
        copy = partial(copy_satellites, source, here, job.session_id, job.target_id, planned.beside)
        try:
            return copy()
        except CopyConflictError as error:
            if not job.may_return or not isinstance(error.__cause__, SessionMovedError):
                raise
        check_returns(source, here, job.session_id, job.target_id)
        take_back_satellites(here, job.target_id)  # the session came back before
        return copy()

    def _count(self, size_bytes: int) -> None:
        with self._lock:
            self._bytes += size_bytes
            self._progress("bytes", self._bytes, max(self._bytes, self._plan.bytes))


def failed(outcome: SessionOutcome, error: Exception) -> SessionOutcome:
    """Return what became of a session that could not be copied, or moved."""
    return replace(outcome, outcome=_outcome_of(error), error=error)


def _outcome_of(error: Exception) -> Outcome:
    if isinstance(error, CopyConflictError):
        return "conflict"
    if isinstance(error, CorruptSnapshotError | UnsupportedSchemaError | CorruptObjectError):
        return "damaged"
    return "unavailable" if isinstance(error, UnavailableError) else "failed"


def _unanswered(before: int, outcomes: Sequence[SessionOutcome]) -> int:
    """Return how many sessions in a row nobody has answered for, after these (rule 3)."""
    tried = [one.outcome for one in outcomes if one.outcome != "skipped"]
    return before + len(tried) if set(tried) <= {"unavailable"} else 0


def _first_error(outcomes: Sequence[SessionOutcome]) -> Exception:
    return next(one.error for one in outcomes if one.error is not None)


def _slices(every: Iterable[PlannedSession], count: int) -> Iterator[list[PlannedSession]]:
    rest = iter(every)
    while some := list(islice(rest, count)):
        yield some
