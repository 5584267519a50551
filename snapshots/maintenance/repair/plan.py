"""What a repair would do: one proposal for each finding of a verification, worked out and tried before it is said.

Rules:
1. A plan writes nothing. What it would write is built in memory and verified there: a finding counts as repaired only
   if that verification does not have it any more. What it brings to light is planned for as well.
2. Only what can be proved is proposed: records and blobs that hash to what the head names, directly or through the log
   of places. Everything else is named, with what a person can do.
3. If the present revision is not whole, the newest retained one that is becomes a new revision.
4. Reservations, tombstones, registers and heads are left alone, and so is a session with a record of a later schema.
5. What lies beside a session is left alone, whatever it has, and keeps nothing of the session from being repaired.

    plan = plan_repair(repo, "s1")
    print(plan)
"""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum

from snapshots.environment import Environment
from snapshots.errors import LimitExceededError
from snapshots.head import HEAD_COMMIT_BYTES_MAX, LIVE, Head
from snapshots.layout import pack_name
from snapshots.maintenance.findings import DAMAGE, Finding, Verified, VerifiedSatellite, What
from snapshots.maintenance.progress import Progress, quiet
from snapshots.maintenance.repair.family import Family
from snapshots.maintenance.repair.remains import Remains
from snapshots.maintenance.repair.restage import Restaged, Restaging
from snapshots.maintenance.repair.survey import Survey
from snapshots.maintenance.repair.together import LostError
from snapshots.maintenance.repair.trial import TrialStore
from snapshots.maintenance.verify import session_findings, verify
from snapshots.operations import operation
from snapshots.reading import LOAD_ATTEMPTS_MAX, HeadRead, head_at
from snapshots.repository import SnapshotRepository
from snapshots.staging import Identity
from storage.errors import CorruptObjectError, NotFoundError

FAMILIES_MAX = 4  # whose manifests are held in memory at a time
ROUNDS_MAX = 4  # in which a trial may bring further damage to light
TARGETS_MAX = 8  # whole revisions that are tried for a fall-back; each costs a verification
DAMAGED = frozenset({What.MISSING, What.ALTERED, What.MANIFEST, What.PACK, What.PACKS})  # the pack is left behind
BROKEN = frozenset({What.GRAPH, What.PART})  # every byte is there, and they cannot be loaded


class Action(StrEnum):
    """What is proposed for a finding."""

    REBUILD = "rebuild"  # what was there is had elsewhere, and stored again
    FALL_BACK = "fall back"  # an earlier revision becomes the present one again
    NONE = "none"  # nothing can be proved


@dataclass(frozen=True, slots=True)
class Proposal:
    """What is to be done about a finding.

    Attributes:
        finding: The finding.
        action: What.
        reason: How, or why nothing can be done.
        remedy: What a person can do instead, "" for what is rebuilt.
    """

    finding: Finding
    action: Action
    reason: str
    remedy: str = ""


@dataclass(frozen=True, slots=True)
class SessionPlan:
    """What a repair would do to one session.

    Attributes:
        key: Key of its head, or of what lies beside a session that nothing tells.
        session_id: Its id, "" if nothing tells. There need not be such a session, only what lies beside one.
        proposals: One for each finding, and for each that a repair would bring to light.
        revision: The present revision that the plan rests on, 0 if there is no head that can be read and mended.
        held_by: Who holds the session, "" if nobody does.
        state_id: The state that it rests on, "" if there is nothing to be done.
        repair_id: State id of the head afterwards, and commit id of a fall-back.
        target: Revision to fall back to, None to keep the present one.
        written: Revisions whose manifest is written again, rising.
        dropped: Revisions that are retained no longer, rising.
        left: Keys of packs that the session names no longer; each is copied first.
        unreadable: Those of them that the store cannot read, so that they can only be copied by hand.
        damaged: Names of the packs from which everything is moved.
        broken: Revisions whose sound bytes cannot be loaded, and why.
    """

    key: str
    session_id: str
    proposals: tuple[Proposal, ...]
    revision: int = 0
    held_by: str = ""
    state_id: str = ""
    repair_id: str = ""
    target: int | None = None
    written: tuple[int, ...] = ()
    dropped: tuple[int, ...] = ()
    left: tuple[str, ...] = ()
    unreadable: tuple[str, ...] = ()
    damaged: frozenset[str] = frozenset()
    broken: tuple[tuple[int, str], ...] = ()

    @property
    def writes(self) -> bool:
        """Say whether there is anything to be done."""
        return self.state_id != ""

    def lines(self) -> Iterator[str]:
        """Yield what would be done, for people."""
        yield f"session {self.session_id!r}" if self.session_id else self.key
        if self.target is not None:
            yield f"  revision {self.revision + 1}: the content of {self.target} again"
        for dropped in self.dropped:
            yield f"  revision {dropped}: retained no longer"
        for key in self.left:
            by_hand = ", which the store cannot read: copy it by hand first" if key in self.unreadable else ""
            yield f"  leave behind {key}{by_hand}"
        for one in self.proposals:
            where = "" if one.finding.revision is None else f"@{one.finding.revision}"
            remedy = f"; {one.remedy}" if one.remedy else ""
            yield f"  {one.action}: {one.finding.what}{where} {one.finding.key} ({one.reason}{remedy})"


@dataclass(frozen=True, slots=True)
class RepairPlan:
    """What a repair would do. Printing it says so.

    Attributes:
        sessions: Those with findings, in order of key.
        environment: Where to do it.
    """

    sessions: tuple[SessionPlan, ...]
    environment: Environment = field(repr=False, compare=False)

    @property
    def writes(self) -> bool:
        """Say whether there is anything to be done."""
        return any(one.writes for one in self.sessions)

    @property
    def remaining(self) -> tuple[Proposal, ...]:
        """Return what stays as it is."""
        return tuple(one for each in self.sessions for one in each.proposals if one.action is Action.NONE)

    def __str__(self) -> str:
        return "\n".join(line for one in self.sessions for line in one.lines()) or "nothing to repair"


@operation("repair.plan", "repo.environment", "session_id")
def plan_repair(repo: SnapshotRepository, session_id: str | None = None, *, progress: Progress = quiet) -> RepairPlan:
    """Return what a repair would do now; nothing is written.

    It starts from a verification of the level "full": only that one reads what is to be repaired.

    Args:
        repo: The repository.
        session_id: One session, None for all.
        progress: Told of every session.

    Raises:
        SessionNotFoundError: There is no such session at all.
        UnavailableError: The store did not answer.
    """
    damaged = list(_damaged(repo, session_id, progress))
    families = _Families(repo.environment)
    plans: dict[str, SessionPlan] = {}
    for number, (seen, found) in enumerate(damaged, start=1):
        if isinstance(seen, VerifiedSatellite):
            one = _left_beside(repo.environment, plans, seen, found)
            plans[one.key] = one
        else:
            plans.update((one.key, one) for one in _planned(families, seen, found))
        progress("sessions planned", number, len(damaged))
    return RepairPlan(tuple(plans[key] for key in sorted(plans)), repo.environment)


def _left_beside(
    environment: Environment, plans: Mapping[str, SessionPlan], seen: VerifiedSatellite, found: Sequence[Finding]
) -> SessionPlan:
    """Return the plan for a session with what was found beside it: it is named, and left alone (rule 5)."""
    key = environment.layout.head(seen.session_id) if seen.session_id else seen.key
    plan = plans.get(key) or SessionPlan(key, seen.session_id, ())
    return replace(plan, proposals=(*plan.proposals, *map(left_alone, found)))


def _damaged(
    repo: SnapshotRepository, session_id: str | None, progress: Progress
) -> Iterator[tuple[Verified | VerifiedSatellite, list[Finding]]]:
    found: list[Finding] = []
    verified = 0
    for one in verify(repo, session_id=session_id):
        if isinstance(one, Finding):
            found.append(one)
            continue
        verified += isinstance(one, Verified)
        progress("sessions verified", verified, 0)
        if found:
            yield one, found
        found = []


class _Families:
    """What is left of the families last looked at: forks share what damaged them, and it is read once."""

    def __init__(self, environment: Environment) -> None:
        self.environment = environment
        self._kept: dict[str, Family] = {}

    def remains(self, head: Head) -> Remains:
        found = self._kept.pop(head.family, None) or Family(self.environment, head.family)
        self._kept[head.family] = found  # the last one now
        if len(self._kept) > FAMILIES_MAX:
            del self._kept[next(iter(self._kept))]
        return Remains(self.environment, head, found)

    def forget(self, family: str) -> None:
        self._kept.pop(family, None)


def _planned(families: _Families, seen: Verified, found: Sequence[Finding]) -> list[SessionPlan]:
    """Return the plan for one session, from findings and a head that belong together; none if nothing is found now."""
    environment, key, session_id = families.environment, seen.key, seen.session_id
    for _ in range(LOAD_ATTEMPTS_MAX):
        try:
            read = head_at(environment, key)
        except DAMAGE:
            break
        session_id = read.head.session_id
        found = session_findings(environment, session_id)
        if not found:
            return []
        if read.head.status != LIVE:
            break
        plan = _Planning(environment, read, found, families.remains(read.head)).plan()
        if _state_id(environment, key) == read.head.state_id:
            return [plan]
        families.forget(read.head.family)
    else:
        reason, remedy = "the session kept moving while it was looked at", "plan again"
        return [SessionPlan(key, session_id, tuple(Proposal(one, Action.NONE, reason, remedy) for one in found))]
    return [SessionPlan(key, session_id, tuple(left_alone(one) for one in found))]


def _state_id(environment: Environment, key: str) -> str:
    """Return the state of a head now, "" if it cannot be read any more."""
    try:
        return head_at(environment, key).head.state_id
    except DAMAGE:
        return ""


class _Planning:
    """The plan of one live session."""

    def __init__(self, environment: Environment, read: HeadRead, found: Sequence[Finding], remains: Remains) -> None:
        self._environment = environment
        self._remains = remains
        self._head = read.head
        self._found = found
        self._key = environment.layout.head(read.head.session_id)
        self._damaged: frozenset[str] = frozenset()
        self._broken: dict[int, str] = {}
        self._planned_on = self._damaged, self._broken
        self._identity = Identity(environment.clock.new_id(), environment.clock.now(), None)
        self._why: dict[int, str] = {}
        self._forkable: set[int] = set()
        self._loadable: set[int] = set()

    def plan(self) -> SessionPlan:
        if any(one.what is What.SCHEMA for one in self._found):
            return self._nothing("a record is of a later schema")
        self._learn(self._found)
        for _ in range(ROUNDS_MAX):
            self._planned_on = self._damaged, dict(self._broken)
            plan = self._planned()
            if self._planned_on == (self._damaged, self._broken):
                break
        return plan

    def _learn(self, found: Sequence[Finding]) -> None:
        """Take in which packs are to be left behind, and which revisions cannot be loaded."""
        prefix = self._environment.layout.family(self._head.family)
        damaged = (one.key for one in found if one.what in DAMAGED and one.key.startswith(prefix))
        self._damaged |= {key.removeprefix(prefix) for key in damaged}
        for one in found:
            if one.what in BROKEN and one.revision is not None and one.revision <= self._head.revision:
                self._broken.setdefault(one.revision, one.reason)

    def _planned(self) -> SessionPlan:
        try:
            survey = Survey(self._environment, self._head, self._remains, *self._planned_on)
        except LostError as error:
            return self._nothing(f"what all revisions stand on is lost: {error}")
        self._why, self._forkable, self._loadable = survey.lost, survey.forkable, survey.loadable
        if self._head.revision in survey.whole:
            targets: list[int | None] = [None]
        else:
            targets = [None, *sorted(survey.whole, reverse=True)][1 : TARGETS_MAX + 1]
        reason = "" if targets else "no retained revision is whole"
        for target in targets:
            try:
                staged = Restaging(survey, target, self._identity, self._names()).staged()
                after = self._tried(staged)
            except (LostError, LimitExceededError) as error:
                reason = str(error)
                continue
            if target is not None and any(one.revision == staged.head.revision for one in after):
                reason = f"revision {target} cannot be made the present one again"
            elif target is not None or set(self._found) - set(after):
                return self._plan(target, staged, after)
        return self._nothing(reason)

    def _names(self) -> tuple[str, str]:
        clock, commit_id = self._environment.clock, self._identity.commit_id
        return pack_name(commit_id, clock.new_id()), pack_name(commit_id, clock.new_id())

    def _tried(self, staged: Restaged) -> list[Finding]:
        """Return what a verification finds once this is stored (rule 1)."""
        if staged.head == self._head:
            return list(self._found)
        layout, head = self._environment.layout, replace(staged.head, write_id=self._environment.clock.new_id())
        objects = {layout.pack(head.family, name): data for name, data in staged.packs}
        objects[self._key] = head.encode(limit_bytes=HEAD_COMMIT_BYTES_MAX)
        store = TrialStore(self._environment.store, objects)
        after = session_findings(replace(self._environment, store=store), head.session_id)
        self._learn(after)  # damage may have hidden damage
        return after

    def _plan(self, target: int | None, staged: Restaged, after: Sequence[Finding]) -> SessionPlan:
        layout, head = self._environment.layout, self._head
        left = set(after)
        keys = tuple(layout.pack(head.family, name) for name in staged.left)
        proposals = [self._left(one) if one in left else _repaired(one, target, staged, head) for one in self._found]
        proposals += [self._left(one) for one in after if one not in self._found]
        return SessionPlan(
            key=self._key,
            session_id=head.session_id,
            proposals=tuple(proposals),
            revision=head.revision,
            held_by=head.held_by,
            state_id=head.state_id,
            repair_id=self._identity.commit_id,
            target=target,
            written=staged.written,
            dropped=staged.dropped,
            left=keys,
            unreadable=tuple(key for key in keys if not self._readable(key)),
            damaged=self._planned_on[0],
            broken=tuple(self._planned_on[1].items()),
        )

    def _readable(self, key: str) -> bool:
        try:
            self._environment.store.stat(key)
        except CorruptObjectError:
            return False
        except NotFoundError:
            pass  # nothing to be copied
        return True

    def _nothing(self, reason: str) -> SessionPlan:
        proposals = tuple(self._left(one, reason) for one in self._found)
        head = self._head
        return SessionPlan(self._key, head.session_id, proposals, revision=head.revision, held_by=head.held_by)

    def _left(self, finding: Finding, reason: str = "") -> Proposal:
        lost = "" if finding.revision is None else self._why.get(finding.revision, "")
        proposal = left_alone(finding, lost or reason)
        if finding.revision in self._loadable:
            loads = f"revision {finding.revision} still loads without its execution state"
            return replace(proposal, remedy=f"{proposal.remedy}; {loads}")
        if finding.revision not in self._forkable:
            return proposal
        fork = f"only its history is lost: fork revision {finding.revision} to keep the content"
        return replace(proposal, remedy=f"{proposal.remedy}; {fork}")


def _repaired(finding: Finding, target: int | None, staged: Restaged, head: Head) -> Proposal:
    gone = finding.revision is None or finding.revision in staged.dropped
    if target is None or not gone:
        return Proposal(finding, Action.REBUILD, "what is needed of it can be had, and is stored again")
    remedy = (
        f"if there is a copy of {finding.key}, restore that object instead and nothing of it is lost; "
        "a repair gives the later revisions up (pin one to keep it named)"
    )
    if head.holder is not None:
        remedy = f"held by {head.held_by!r}: {repair_again(head)}; {remedy}"
    return Proposal(finding, Action.FALL_BACK, f"revision {target} becomes revision {staged.head.revision}", remedy)


def repair_again(head: Head) -> str:
    """Return what to do about a held session whose present revision is not whole."""
    release = f"snapshots release {shlex.quote(head.session_id)} --owner {shlex.quote(head.held_by)}"
    return f"release it ({release}), then repair again"


def left_alone(finding: Finding, reason: str = "") -> Proposal:
    """Return what a person can do about a finding that no repair cures."""
    key = finding.key
    copy = f"restore {key} from a copy, then repair again"
    why, remedy = {
        What.HEAD: ("nothing else says what stood in a head", copy),
        What.SCHEMA: ("this version cannot read it", "use a newer version of this software"),
        What.REGISTER: ("nothing else says what stood in it", copy),
        What.SATELLITE: ("nothing else says what stood in it", copy),
        What.RING: ("head and history contradict each other", "fork the session, and go on with the fork"),
        What.LEDGER: ("the usage was stored so", "fork the session, and go on with the fork"),
        What.HISTORY: ("the history was stored so", "fork the session, and go on with the fork"),
        What.PLACES: ("the log of places was stored so", "fork the session, and go on with the fork"),
        What.GRAPH: ("the graph was stored so", "rewind to a revision before, or prune this one"),
        What.PART: ("the part was stored so", "rewind to a revision before, or prune this one"),
    }.get(finding.what, ("it lies whole nowhere else", copy))
    return Proposal(finding, Action.NONE, reason or why, remedy)
