"""Carrying out a repair: stage what is stored again, publish it with the head, keep what is left behind.

Rules:
1. A plan rests on the state id of each head; if that has changed, the session is refused: plan again.
2. What is repaired is uploaded, in packs of their own, staged under the epoch of the head just read; a repair never
   names what the head did not name before. One compare-and-swap of the head publishes all of it.
3. Every pack that the session names no longer is copied first, under `quarantine/`, so that no collection destroys
   evidence; one that the store cannot read is named, to be copied by hand. Nothing is deleted.
4. Checkpoints, commit ids and turns stay as they are. A fall-back is a revision of the kind "restore".
5. Interrupted anywhere it leaves a correct store, and another run finishes. What is done already is not done again.
6. In memory are, of one session at a time, what is stored again, and of a pack without an index all of it; beside
   them the manifests of the family, and each pack while it is copied.

    plan = plan_repair(repo, "s1")
    print(plan)
    report = execute(plan)
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    FencedError,
    InvalidStateError,
    LimitExceededError,
    RevisionConflictError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
    SnapshotError,
    UnsupportedSchemaError,
)
from snapshots.head import HEAD_COMMIT_BYTES_MAX, Head
from snapshots.layout import pack_name
from snapshots.maintenance.findings import DAMAGE
from snapshots.maintenance.progress import Progress, quiet
from snapshots.maintenance.repair.plan import (
    Proposal,
    RepairPlan,
    SessionPlan,
    repair_again,
)
from snapshots.maintenance.repair.remains import Remains
from snapshots.maintenance.repair.restage import Restaged, Restaging
from snapshots.maintenance.repair.survey import Survey
from snapshots.maintenance.repair.together import LostError
from snapshots.operations import operation
from snapshots.reading import read_live_head
from snapshots.rewrite import rewrite_head
from snapshots.roots import named_packs
from snapshots.staging import Identity
from storage.digest import short_hash
from storage.errors import CorruptObjectError, NotFoundError
from storage.packs import write_pack
from storage.store import ByteRange, ObjectStore
from storage.wrappers.metered import MeteredStore

READ_BYTES = 8 << 20  # of a pack that is copied, per request
CONTENT_HASH_BYTES = 8  # tells apart what different damage left of one pack
_REFUSALS = (
    RevisionConflictError,
    InvalidStateError,
    FencedError,
    SessionNotFoundError,
    SessionDeletedError,
    SessionMovedError,
    CorruptSnapshotError,
    CorruptObjectError,
    UnsupportedSchemaError,
    LimitExceededError,
)
"""What keeps one session from being repaired, and no other."""


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A pack that a session names no longer, and its copy.

    Attributes:
        key: Of the pack, which stays until a collection proves it unreachable.
        copy_key: Of the copy, which no collection touches; "" if the store cannot read the pack, and so nobody can copy
            it but by hand.
    """

    key: str
    copy_key: str


@dataclass(frozen=True, slots=True)
class Repaired:
    """A session that was repaired.

    Attributes:
        session_id: Which.
        revision: Its present revision afterwards.
        content_of: Earlier revision that this one has the content of, None if the present one was kept.
        state_id: The state of its head afterwards.
        written: Revisions whose manifest was written again, rising.
        dropped: Revisions that are retained no longer, rising.
        quarantined: What was copied aside; a pack that is missing leaves nothing to copy.
    """

    session_id: str
    revision: int
    content_of: int | None
    state_id: str
    written: tuple[int, ...]
    dropped: tuple[int, ...]
    quarantined: tuple[Quarantined, ...]


@dataclass(frozen=True, slots=True)
class Refused:
    """A session that was not repaired: the plan no longer fits it, its head cannot be read, or has no room."""

    session_id: str
    error: SnapshotError | CorruptObjectError


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did.

    Attributes:
        repaired: Sessions that were repaired.
        refused: Sessions that were not, and why; plan again.
        remaining: Findings that stay, and what a person can do.
        requests: Made for it, the plan not included.
        seconds: How long it took.
    """

    repaired: tuple[Repaired, ...]
    refused: tuple[Refused, ...]
    remaining: tuple[Proposal, ...]
    requests: int = 0
    seconds: float = 0.0


@operation("repair", "plan.environment")
def execute(plan: RepairPlan, *, progress: Progress = quiet) -> RepairReport:
    """Do what a plan says, session by session; each all of it or nothing.

    Returns:
        What was done. Sessions that were refused do not keep the others from it.

    Raises:
        RevisionConflictError: Somebody committed since; nothing was written. Plan again.
        InvalidStateError: The session names something else now, or less is left of it; likewise.
        FencedError: Somebody holds a session whose present revision is not whole. Release it, then repair again.
        SessionNotFoundError, SessionDeletedError, SessionMovedError: Meanwhile.
        CorruptSnapshotError, CorruptObjectError, UnsupportedSchemaError: Its head cannot be read. Plan again.
        LimitExceededError: Its head has no room for it. Drop pins of the session, then plan again.
            Any of these only if the plan is of one session; else they stand in the report.
        UnavailableError: The store did not answer. Executing it again is safe.
    """
    metered = MeteredStore(plan.environment.store)
    environment = replace(plan.environment, store=metered)
    begun = environment.clock.monotonic()
    repaired: list[Repaired] = []
    refused: list[Refused] = []
    wanted = [one for one in plan.sessions if one.writes]
    for number, one in enumerate(wanted, start=1):
        try:
            repaired.append(_Repair(environment, one).run())
        except _REFUSALS as error:
            refused.append(Refused(one.session_id, error))
        progress("sessions repaired", number, len(wanted))
    if refused and len(plan.sessions) == 1:
        raise refused[0].error
    return RepairReport(
        repaired=tuple(repaired),
        refused=tuple(refused),
        remaining=plan.remaining,
        requests=metered.metrics.snapshot().total_requests,
        seconds=environment.clock.monotonic() - begun,
    )


class _Repair:
    """The repair of one session."""

    def __init__(self, environment: Environment, plan: SessionPlan) -> None:
        self._environment = environment
        self._plan = plan
        self._identity = Identity(plan.repair_id, environment.clock.now(), None)
        self._survey: Survey | None = None
        self._staged: Restaged | None = None
        self._epoch = -1  # of the head that was read before the packs were uploaded
        self._quarantined: tuple[Quarantined, ...] = ()

    def run(self) -> Repaired:
        read = read_live_head(self._environment, self._plan.session_id)
        read = rewrite_head(self._environment, read, self._changed, limit_bytes=HEAD_COMMIT_BYTES_MAX)
        head, plan = read.head, self._plan
        return Repaired(
            session_id=plan.session_id,
            revision=head.revision,
            content_of=plan.target,
            state_id=head.state_id,
            written=plan.written,
            dropped=plan.dropped,
            quarantined=self._quarantined,
        )

    def _changed(self, head: Head) -> Head | None:
        """Return the head that names what is stored again; None if it does already (rule 5)."""
        if self._is_done(head):
            self._quarantined = self._quarantined or tuple(self._copied(head.family))
            return None
        self._check(head)
        if self._staged is None or head.epoch != self._epoch:  # rule 2
            self._staged = self._uploaded(head)
            self._epoch = head.epoch
        return self._staged.on(head)

    def _is_done(self, head: Head) -> bool:
        plan = self._plan
        if (head.revision, head.state_id) == (plan.revision, plan.state_id):
            return False
        fell_back = plan.target is not None and head.commits.commit_id(plan.revision + 1) == plan.repair_id
        return fell_back or head.state_id == plan.repair_id or self._is_named(head)

    def _is_named(self, head: Head) -> bool:
        """Say whether a head that somebody else wrote names what was stored again: then it was published before."""
        try:
            names = named_packs(self._environment, head)
        except DAMAGE:
            return False  # nothing says so: it is refused, and planned again
        return any(name.startswith(f"{self._plan.repair_id}.") for name in names)

    def _check(self, head: Head) -> None:
        """Check that the head is what the plan rests on (rule 1)."""
        plan = self._plan
        if head.revision != plan.revision:
            raise RevisionConflictError(plan.session_id, expected=plan.revision, actual=head.revision)
        if head.state_id != plan.state_id:
            raise InvalidStateError(f"what session {plan.session_id!r} names changed since this plan; plan again")
        if plan.target is not None and self._survey is not None and head.pins != self._survey.head.pins:
            raise InvalidStateError(f"what session {plan.session_id!r} retains changed since this plan; plan again")
        if plan.target is not None and head.holder is not None:
            raise FencedError(plan.session_id, fence=head.fence, holder=head.held_by, remedy=repair_again(head))

    def _uploaded(self, head: Head) -> Restaged:
        """Copy aside what is left behind, and upload the packs under names that were never used."""
        environment, clock = self._environment, self._environment.clock
        names = (pack_name(self._plan.repair_id, clock.new_id()), pack_name(self._plan.repair_id, clock.new_id()))
        staged = self._restaged(head, names)
        if not self._quarantined:
            self._quarantined = tuple(self._copies(head.family, staged.left))
        for name, data in staged.packs:
            write_pack(environment.store, environment.layout.pack(head.family, name), data, clock)
        return staged

    def _restaged(self, head: Head, names: tuple[str, str]) -> Restaged:
        plan = self._plan
        changed = InvalidStateError(f"what is left of session {plan.session_id!r} changed since this plan; plan again")
        try:
            if self._survey is None:
                remains = Remains(self._environment, head)
                self._survey = Survey(self._environment, head, remains, plan.damaged, dict(plan.broken))
            staged = Restaging(self._survey, plan.target, self._identity, names).staged()
        except LostError as error:
            raise changed from error
        left = tuple(self._environment.layout.pack(head.family, name) for name in staged.left)
        if (staged.written, staged.dropped, left) != (plan.written, plan.dropped, plan.left):
            raise changed
        return staged

    def _copied(self, family: str) -> Iterator[Quarantined]:
        """Yield the copies that an earlier run made."""
        environment = self._environment
        for key in self._plan.left:
            if key in self._plan.unreadable:
                yield Quarantined(key, "")
            prefix = environment.layout.quarantined(family, key.rpartition("/")[2], b"")
            for row in environment.store.list(prefix):
                yield Quarantined(key, row.key)

    def _copies(self, family: str, names: Sequence[str]) -> list[Quarantined]:
        """Copy packs aside (rule 3); the name of a copy tells its content, so that a second run finds it."""
        environment = self._environment
        copies = []
        for name in names:
            key = environment.layout.pack(family, name)
            try:
                data = _read(environment.store, key)
            except NotFoundError:
                continue  # there is nothing to be copied: that it is missing is the finding
            except CorruptObjectError:
                copies.append(Quarantined(key, ""))
                continue
            copy_key = environment.layout.quarantined(family, name, short_hash(data, CONTENT_HASH_BYTES))
            write_pack(environment.store, copy_key, data, environment.clock)
            copies.append(Quarantined(key, copy_key))
        return copies


def _read(store: ObjectStore, key: str) -> bytes:
    """Return what is there, piece by piece: read whole, a store may refuse what is not what was written."""
    size = store.stat(key).size_bytes
    ranges = (ByteRange(start, min(READ_BYTES, size - start)) for start in range(0, size, READ_BYTES))
    return b"".join(store.get(key, one).data for one in ranges)
