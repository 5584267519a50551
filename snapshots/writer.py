"""`Writer`: the one owner of a session, wherever it runs. Taking over makes every earlier owner harmless.

Rules:
1. A take-over moves the register of the turn in flight to the new fence first, then the head: an older owner can save
   no outcome from then on, and what it saved is found by the new one.
2. While a head names a holder only its Writer commits. An older Writer gets `FencedError`, also in mid-commit.
3. A release clears the holder and never lowers the fence.
4. A turn in flight counts as finished once a revision after the one that it was begun on carries its stamp. After a
   rewind a turn may be begun anew; it then knows nothing of its first outcomes.

    writer = acquire(environment, "s1", "host-a")
    turn = writer.begin_turn("turn-7")
    turn.perform("send-mail", digest_of_the_call, send_mail)
    writer.commit(writer.state, stamp=TurnStamp("turn-7"))
    writer.release()
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import BinaryIO

from snapshots.base import Base, Tracking, track, tracking_of
from snapshots.commit import commit, has_changes
from snapshots.environment import Environment
from snapshots.errors import FencedError, IllegalTransitionError, InvalidStateError
from snapshots.head import Head, Holder
from snapshots.history import RESTORE, REWIND, HistoryRow, lineage
from snapshots.operations import operation
from snapshots.publish import Ownership
from snapshots.reading import read_history, read_live_head, retried_while_moving
from snapshots.restore import load
from snapshots.rewind import go_back
from snapshots.rewrite import rewrite_head
from snapshots.stamps import TurnStamp, mark
from snapshots.state import CommitResult, PersistedSessionState, PluginSession, ResumeReport
from snapshots.turns import TurnJournal, take_over, turn_record
from storage.clock import backoff_seconds
from storage.digest import BlobRef
from storage.errors import UnavailableError
from storage.keys import check_id

ATTEMPTS_MAX = 8  # of a take-over, against others who take over at the same time


@dataclass(frozen=True, slots=True)
class ParkedSession:
    """What a parked session can be found again by.

    Attributes:
        session_id: Which session.
        head_revision: The revision it was parked at.
        checkpoint_ref: The checkpoint of that revision.
    """

    session_id: str
    head_revision: int
    checkpoint_ref: BlobRef


def acquire(environment: Environment, session_id: str, owner: str, *, plugins: PluginSession | None = None) -> Writer:
    """Take a session over; see `SnapshotRepository.acquire`."""
    check_id(owner, what="owner")
    journal = _take_over(environment, session_id, owner)
    return Writer(environment, session_id, owner, journal, plugins)


class _OvertakenError(Exception):
    """Another take-over has a higher fence than ours; caught in `_take_over`, never seen outside."""


def _take_over(environment: Environment, session_id: str, owner: str) -> TurnJournal:
    """Return the register of the turn in flight, under the fence that the head has now (rule 1)."""
    for attempt in range(1, ATTEMPTS_MAX + 1):
        read = read_live_head(environment, session_id)
        nonce = environment.clock.new_id()
        journal = take_over(environment, session_id, above=read.head.fence, nonce=nonce)
        try:
            rewrite_head(environment, read, _Holding(owner, nonce, journal.fence))
            return journal
        except _OvertakenError:
            environment.clock.sleep(backoff_seconds(attempt, environment.clock))
    key = environment.layout.head(session_id)
    raise UnavailableError(key, "others kept taking the session over; acquire it again", applied="no")


@dataclass(frozen=True, slots=True)
class _Holding:
    """The change that names a holder in a head."""

    owner: str
    nonce: str
    fence: int

    def __call__(self, head: Head) -> Head | None:
        if head.holder is not None and head.holder.nonce == self.nonce:
            return None
        if head.fence >= self.fence:
            raise _OvertakenError
        return replace(head, fence=self.fence, holder=Holder(self.owner, self.nonce))


@operation("turn_in_flight", "environment", "session_id")
def turn_in_flight(environment: Environment, session_id: str) -> str:
    """Return the id of the turn that whoever took over last has not finished, "" for none (rule 4); takes nothing over.

    Raises:
        SessionNotFoundError, SessionDeletedError, SessionMovedError: There is no such session here.
        CorruptSnapshotError, UnsupportedSchemaError: Register or history cannot be read.
        UnavailableError: The store did not answer.
    """
    record = turn_record(environment, session_id)
    if not record.turn_id:
        return ""
    rows = retried_while_moving(environment, session_id, lambda read: read_history(environment, read.head))
    return (
        "" if any(row.revision > record.begun_on and stamped(row, record.turn_id) for row in rows) else record.turn_id
    )


def release(environment: Environment, session_id: str, owner: str) -> None:
    """Clear the holder by its owner's name; see `SnapshotRepository.release`."""
    check_id(owner, what="owner")

    read = read_live_head(environment, session_id)
    found = read.head.holder
    if found is not None and found.owner != owner:
        remedy = f"release it with the owner {found.owner!r}, not {owner!r}"
        raise FencedError(session_id, fence=read.head.fence, holder=found.owner, remedy=remedy)
    # Only the take-over that was there at first: the owner may come back meanwhile, under the same name.
    rewrite_head(environment, read, lambda head: replace(head, holder=None) if found and head.holder == found else None)


class Writer:
    """Commits on behalf of one owner until it releases the session or another one takes it over.

    Attributes:
        session_id: Which session.
        owner: Whose Writer this is.
        report: What the take-over healed, missed, or could not restore.
    """

    def __init__(
        self,
        environment: Environment,
        session_id: str,
        owner: str,
        journal: TurnJournal,
        plugins: PluginSession | None,
    ) -> None:
        self.session_id = session_id
        self.owner = owner
        self._environment = environment
        self._journal = journal
        self._released = False
        self._state: PersistedSessionState | None = None
        self.report = _resumed(self.state, plugins)
        if journal.turn_id and self._finished():
            journal.finish()  # Rule 4.

    @property
    def state(self) -> PersistedSessionState:
        """Return the state as loaded; after a commit the one that was committed.

        After a rewind, or a commit whose turn was stored earlier, it is loaded anew when it is asked for.

        Raises:
            UnavailableError, CorruptSnapshotError: It could not be loaded; ask again, nothing else is affected.
        """
        if self._state is None:
            self._state = self._loaded()
        return self._state

    @operation("load", "self._environment", "self.session_id", revision="head_revision")
    def _loaded(self) -> PersistedSessionState:
        loaded = load(self._environment, self.session_id, revision=None, execution_state=False)
        track(loaded.state, Tracking(loaded.base))
        return loaded.state

    @property
    def fence(self) -> int:
        """Return the number of this take-over."""
        return self._journal.fence

    @property
    def turn(self) -> TurnJournal:
        """Return the turn in flight: what an earlier owner left, or `begin_turn` began. No turn id: there is none."""
        return self._journal

    def begin_turn(self, turn_id: str) -> TurnJournal:
        """Begin a turn, or go on with it if it is the one in flight; its outcomes survive this host.

        Raises:
            IllegalTransitionError: Another turn is in flight (finish or abandon it first), or this one was committed.
            FencedError: Another owner has taken the session over.
        """
        self._check_held()
        if any(stamped(row, turn_id) for row in lineage(self._base().rows, self._base().revision)):
            raise IllegalTransitionError(
                f"turn {turn_id!r}", from_status="committed", to_status="in flight", remedy="use a new turn id"
            )
        self._journal.begin(turn_id, on_revision=self._base().head.revision)
        return self._journal

    def commit(
        self,
        state: PersistedSessionState,
        stamp: TurnStamp | None = None,
        execution_state: bytes | BinaryIO | None = None,
    ) -> CommitResult:
        """Commit `state` as the next revision; as `SnapshotRepository.commit`, under this Writer's fence.

        A stamp with the id of the turn in flight finishes that turn.

        Raises:
            FencedError: Another owner has taken the session over; nothing was committed, and nothing will be.
            InvalidStateError: The state is of another session, or the session was released.
        """
        self._check_held()
        if state.session_id != self.session_id:
            raise InvalidStateError(f"this Writer owns session {self.session_id!r}, not {state.session_id!r}")
        result = commit(self._environment, state, stamp, execution_state=execution_state, ownership=self._ownership())
        base = tracking_of(state).base
        behind = base is not None and base.revision < base.head.revision  # the turn was stored before, and others since
        self._state = None if behind else state
        if stamp is not None and stamp.turn_id == self._journal.turn_id:
            self._journal.close()
        return result

    @operation("rewind", "self._environment", "self.session_id", revision="head_revision")
    def rewind(self, revision: int | str) -> CommitResult:
        """Go back to an ancestor, as `SnapshotRepository.rewind`; `state` is loaded anew when it is asked for."""
        return self._go_back(revision, REWIND)

    @operation("restore", "self._environment", "self.session_id", revision="head_revision")
    def restore(self, revision: int | str) -> CommitResult:
        """Restore any retained revision, as `SnapshotRepository.restore`; `state` is loaded anew when asked for."""
        return self._go_back(revision, RESTORE)

    def _go_back(self, revision: int | str, kind: str) -> CommitResult:
        self._check_held()
        result = go_back(self._environment, self.session_id, revision, kind=kind, ownership=self._ownership())
        self._state = None
        return result

    @operation("park", "self._environment", "self.session_id", revision="head_revision")
    def park(self) -> ParkedSession:
        """Commit what is not stored yet, and release the session; the turn in flight stays for the next owner.

        If another owner took over after this call committed, there is nothing left to release, and that is no failure.

        Raises:
            FencedError: Another owner has taken the session over; this call stored nothing.
            RevisionConflictError, CommitUnknownError …: As for `commit`; the session is still held.
            UnavailableError: It was not committed (`applied` is "no"), or all is stored and only the release is in
                doubt. Park again.
        """
        self._check_held()
        committed = has_changes(self._environment, self.state)
        if committed:
            self.commit(self.state)
        base = self._base()
        assert base.checkpoint_ref is not None, "what was loaded or committed has a checkpoint"
        stored = ParkedSession(self.session_id, base.revision, base.checkpoint_ref)
        try:
            head = self._release()
        except FencedError:
            if not committed:
                raise
            self._end()
            return stored
        except UnavailableError as error:
            reason = f"all is stored as revision {base.revision}, but the release is in doubt ({error.reason})"
            raise UnavailableError(error.key, reason, applied="unknown") from error
        assert head.checkpoint_ref is not None, "a live head names a checkpoint"
        return ParkedSession(self.session_id, head.revision, head.checkpoint_ref)

    @operation("release", "self._environment", "self.session_id")
    def release(self) -> None:
        """Clear the holder; the fence stays. Releasing again changes nothing.

        Raises:
            FencedError: Another owner has taken the session over; there is nothing of ours to release.
        """
        if not self._released:
            self._release()

    def _release(self) -> Head:
        environment = self._environment
        read = rewrite_head(environment, read_live_head(environment, self.session_id), self._released_head)
        self._end()
        return read.head

    def _end(self) -> None:
        self._released = True
        self._journal.end()

    def _released_head(self, head: Head) -> Head | None:
        if head.holder is not None and head.holder.nonce == self._journal.nonce:
            return replace(head, holder=None)
        if head.holder is None and head.fence == self.fence:
            return None
        holder = "" if head.holder is None else head.holder.owner
        raise FencedError(self.session_id, fence=head.fence, holder=holder)

    def _ownership(self) -> Ownership:
        return Ownership(self.fence, self._journal.nonce)

    def _check_held(self) -> None:
        if self._released:
            raise InvalidStateError(f"session {self.session_id!r} was released; acquire it again")

    def _base(self) -> Base:
        base = tracking_of(self.state).base
        assert base is not None, "what was loaded or committed stands on a revision"
        return base

    def _finished(self) -> bool:
        journal = self._journal
        later = (row for row in self._base().rows if row.revision > journal.begun_on)
        return any(stamped(row, journal.turn_id) for row in later)


def stamped(row: HistoryRow, turn_id: str) -> bool:
    """Say whether a revision carries the stamp of a turn."""
    return row.stamp is not None and row.stamp.turn == mark(turn_id, "").turn


def _resumed(state: PersistedSessionState, plugins: PluginSession | None) -> ResumeReport:
    """Heal the graph, then give tools and plugins back what they had; return what was found."""
    report = state.normalize().report()
    if plugins is None:
        return report
    if state.tool_state_snapshot is not None:
        report += plugins.restore_tools(state.tool_state_snapshot)
    if state.plugin_snapshot is not None:
        report += plugins.restore(state.plugin_snapshot)
    return report
