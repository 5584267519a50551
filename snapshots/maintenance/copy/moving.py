"""Moving sessions to another store: copied, compared, and only then left behind.

Rules:
1. Nobody writes a session while it is cut over: it is taken over first, and what was written meanwhile is copied.
2. It is left behind only when its copy was compared with it, every byte of the copy read: the head then names nothing
   any more, and says where the session is. Its packs go with the next collection.
3. A turn in flight does not move: its owner finishes it first. Neither does a session that somebody has leased, or that
   has an open realtime session. Whoever holds it then goes on holding it: that is asked before it is taken over.
4. What lies beside it is left behind too, when all was compared: each register then says where it is. That is done
   before the head says so, as it may be refused, and again after it, when nothing new can be made here any more.
5. A failure before the end gives the session back, with what lies beside it. After a crash its head is still held: the
   move is run again, or it is released by its owner's name.

    plan = plan_copy(source, destination, may_return=True)
    report = move(source, destination, plan, url="s3://bucket/agents")
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime

from snapshots.delete import tombstone
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    FencedError,
    InvalidStateError,
    LeaseHeldError,
    SessionMovedError,
    SnapshotError,
)
from snapshots.head import LIVE, MOVED, RESERVED, Head
from snapshots.maintenance.copy.compare import Difference, verify_copy
from snapshots.maintenance.copy.fleet import CopyPlan, CopyReport, SessionOutcome, Told, execute, failed, nobody
from snapshots.maintenance.copy.satellites import (
    check_retirable,
    compare_satellites,
    copy_satellites,
    retire_satellites,
    take_back_satellites,
)
from snapshots.maintenance.copy.session import SessionJob, copy_session
from snapshots.maintenance.progress import Progress, quiet
from snapshots.operations import operation
from snapshots.reading import read_head, read_live_head
from snapshots.repository import SnapshotRepository
from snapshots.rewrite import rewrite_head
from snapshots.writer import Writer, turn_in_flight
from storage.errors import StorageError, UnavailableError
from storage.keys import ID_BYTES_MAX
from storage.leases import Lease

MOVED_BYTES_MAX = 8 << 10  # of a head that is left behind: it stays for ever
DIFFERENCES_SHOWN = 3


@operation("move", "destination.environment")
def move(
    source: SnapshotRepository,
    destination: SnapshotRepository,
    plan: CopyPlan,
    *,
    url: str,
    progress: Progress = quiet,
    told: Told = nobody,
) -> CopyReport:
    """Copy what the plan says, and leave behind what was copied whole.

    Args:
        source: Where from.
        destination: Where to.
        plan: What to move; of whole sessions, under their own ids.
        url: What the heads that are left behind say: where the sessions are now.
        progress: Told of bytes and of sessions.
        told: Told of every session when it was moved, or was not.

    Raises:
        InvalidStateError: The plan copies less than whole sessions, or under other ids.
        UnavailableError: A store answers nobody any more; run it again.
    """
    wrong = [one for one in plan.sessions if one.job.history != "retained" or one.job.target_id != one.job.session_id]
    if wrong:
        raise InvalidStateError(f"session {wrong[0].job.session_id!r} would not be moved whole, under its own id")
    report = execute(plan, progress=progress)
    moving = _Moving(source, destination, url)
    outcomes: list[SessionOutcome] = []
    for copied in report.sessions:
        outcome = moving.moved(copied)
        outcomes.append(outcome)
        told(outcome)
        progress("sessions moved", len(outcomes), len(report.sessions))
    return replace(report, sessions=tuple(outcomes))


class _Moving:
    """One call of `move`."""

    def __init__(self, source: SnapshotRepository, destination: SnapshotRepository, url: str) -> None:
        self._source = source
        self._destination = destination
        self._url = url

    def moved(self, copied: SessionOutcome) -> SessionOutcome:
        """Leave a session behind that was copied (rules 1 and 2)."""
        if copied.error is not None:
            return copied
        try:
            read = read_head(self._source.environment, copied.session_id)
            if read is not None and read.head.status == LIVE:
                return self._cut_over(copied)
            if read is None or read.head.status == RESERVED or self._is_left(read.head):
                return self._with_beside(copied)
        except (SnapshotError, StorageError) as error:
            return failed(copied, error)
        return copied

    def _is_left(self, head: Head) -> bool:
        """Say whether an earlier run left it behind, and perhaps not yet what lies beside it."""
        return head.status == MOVED and head.destination == self._url

    def _cut_over(self, copied: SessionOutcome) -> SessionOutcome:
        source, name = self._source, copied.session_id
        _check_not_leased(source, name)
        _check_no_turn(name, turn_in_flight(source.environment, name))
        check_retirable(source.environment, name)
        with _held(source, name, self._url) as writer:
            held = read_live_head(source.environment, name).head
            job = SessionJob(name)  # it came back when it was copied first: what is moved there now was moved on since
            last = copy_session(source.environment, self._destination.environment, job)
            beside = copy_satellites(source.environment, self._destination.environment, name, name).bytes
            _check_equal(source, self._destination, name)
            beside += self._beside_left(name)
            _check_beside(source, self._destination, name)
            leave(source.environment, held, self._url, fence=writer.fence)
        uploaded = copied.uploaded_bytes + last.uploaded_bytes + beside + self._beside_left(name)
        return replace(copied, outcome="moved", revision=last.revision, uploaded_bytes=uploaded)

    def _with_beside(self, copied: SessionOutcome) -> SessionOutcome:
        """Leave behind what lies beside a session that is not there, or not any more."""
        before = copied.uploaded_bytes + self._beside_left(copied.session_id)
        _check_beside(self._source, self._destination, copied.session_id)
        return replace(copied, outcome="same" if copied.outcome == "skipped" else "moved", uploaded_bytes=before)

    def _beside_left(self, session_id: str) -> int:
        """Leave what lies beside a session, and copy it as it was left; return its size (rule 4)."""
        source, here = self._source.environment, self._destination.environment
        retire_satellites(source, session_id, self._url)
        return copy_satellites(source, here, session_id, session_id).bytes


def _check_not_leased(source: SnapshotRepository, session_id: str) -> None:
    lease = source.read_lease(session_id)
    if isinstance(lease, Lease):
        raise LeaseHeldError(session_id, holder=lease.owner, expires_at=lease.expires_at)


def _check_no_turn(session_id: str, turn_id: str) -> None:
    if turn_id:
        reason = f"turn {turn_id!r} is in flight; its owner finishes or abandons it, then move it"
        raise InvalidStateError(f"session {session_id!r} was not moved: {reason}")


@contextmanager
def _held(source: SnapshotRepository, session_id: str, url: str) -> Iterator[Writer]:
    """Take a session over, and give it back if it is not left behind."""
    writer = source.acquire(session_id, _owner(url))
    try:
        _check_no_turn(session_id, writer.turn.turn_id)
        yield writer
    except BaseException as error:
        try:
            _give_back(source.environment, writer)
        except (SnapshotError, StorageError) as kept:
            error.add_note(f"the session could not be given back: {kept}")
        raise


def _give_back(environment: Environment, writer: Writer) -> None:
    """Release a session that is not left behind, and then what lies beside it, unless another move left it since."""
    name = writer.session_id
    writer.release()
    take_back_satellites(environment, name)
    read = read_head(environment, name)
    if read is not None and read.head.status == MOVED:
        retire_satellites(environment, name, read.head.destination)


def _owner(url: str) -> str:
    """Return the owner's name of a session on its way: it says what is being done, as far as there is room."""
    return f"move to {url}".encode()[:ID_BYTES_MAX].decode(errors="ignore")


def _check_equal(source: SnapshotRepository, destination: SnapshotRepository, session_id: str) -> None:
    """Compare a session with its copy. Raises CorruptSnapshotError: they differ."""
    differences = [
        one for one in verify_copy(source, destination, sessions=[session_id]) if isinstance(one, Difference)
    ]
    if differences:
        said = "; ".join(map(str, differences[:DIFFERENCES_SHOWN]))
        key = destination.environment.layout.head(session_id)
        raise CorruptSnapshotError(key, f"the copy differs in {len(differences)} points: {said}")


def _check_beside(source: SnapshotRepository, destination: SnapshotRepository, session_id: str) -> None:
    """Compare what lies beside a session with its copy. Raises CorruptSnapshotError: they differ."""
    found = compare_satellites(source.environment, destination.environment, session_id, session_id)
    differences = [one for one in found if one.kind != "more"]
    if differences:
        one = differences[0]
        raise CorruptSnapshotError(one.position, f"the copy of the {one.what} differs: {one.reason}")


def leave(environment: Environment, compared: Head, url: str, *, fence: int) -> None:
    """Say in a head that its session is elsewhere now.

    Args:
        environment: Of the source.
        compared: The head as it was when its session was copied and compared.
        url: Where it is.
        fence: Of whoever holds the session to leave it.

    Raises:
        FencedError: Somebody else has taken the session over; it was not left.
        UnavailableError: It was not left, or nobody can tell: move it again.
    """
    at, state_id = environment.clock.now(), environment.clock.new_id()
    name, key = compared.session_id, environment.layout.head(compared.session_id)

    def left(head: Head) -> Head:
        if head.fence != fence or head.holder is None:
            raise FencedError(name, fence=head.fence, holder=head.held_by)
        if (head.state_id, head.pins) != (compared.state_id, compared.pins):
            raise UnavailableError(key, "the session was changed while it was compared; move it again", applied="no")
        return left_behind(head, url, state_id=state_id, at=at)

    try:
        rewrite_head(environment, read_live_head(environment, name), left, limit_bytes=MOVED_BYTES_MAX)
    except SessionMovedError as error:
        if error.destination != url:
            raise


def left_behind(head: Head, url: str, *, state_id: str, at: datetime) -> Head:
    """Return the last state of a head whose session was moved: it names nothing, and keeps epoch, fence and rings."""
    ended = tombstone(head, state_id=state_id, at=at)
    return replace(ended, status=MOVED, checkpoint_ref=head.checkpoint_ref, destination=url)
