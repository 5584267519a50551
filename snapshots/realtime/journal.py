"""`RealtimeJournal`: the log of a realtime session in its store. One create-only object per record, and a checkpoint.

Rules:
1. The register is created before record 1, and only for an id that is not spent.
2. Whoever creates record n is the n-th. It is created by If-None-Match; after any other answer it is read: our bytes
   mean done, others mean that somebody took the session over (`FencedError`), nothing means that it is sent again.
3. A record whose fate is unknown is settled before anything else is done: the slot holds it, or somebody else's.
4. A record is at most RECORDS_BEHIND_MAX ahead of the checkpoint: before that the checkpoint is written, which asks as
   well whether the session was deleted.
5. A checkpoint only moves forward. It is what the records up to it come to: it does not matter who wrote it.
6. Who takes over announces the restart in the checkpoint first. Whoever is behind it writes no checkpoint any more, and
   so not many requests (rule 4), however fast: who takes over catches up. What was done is recorded all the same.
7. Records are listed from the checkpoint on, and read side by side. One that is missing before others is corruption.
8. The adapter is called right after our own record was created, or after a look that nobody wrote behind us.

    journal = RealtimeJournal.start(environment, first)
    journal.append(RealtimeRecordKind.CONNECT_REQUESTED)
    journal = take_over(environment, "s1")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from itertools import islice, takewhile
from typing import Any

from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
    SnapshotError,
)
from snapshots.realtime.progress import Checkpoint, RealtimeProgress, checkpoint_from_plain, checkpoint_to_plain
from snapshots.realtime.stored import StoredRecord, decode, encode
from snapshots.realtime.transitions import restarting, steps_to_restart
from snapshots.realtime.values import (
    RealtimeCloseReason,
    RealtimeConnectionId,
    RealtimeRecordKind,
    RealtimeSessionRecord,
    RealtimeSessionState,
    RealtimeSessionStatus,
)
from snapshots.satellite import Found, Kind, SatelliteRegister
from storage.clock import backoff_seconds
from storage.errors import Applied, CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.store import Create

WHAT = "realtime session"
RECORDS_BEHIND_MAX = 64  # records behind a checkpoint before a request: a listing, and four rounds of requests to read
RECORDS_READ_AT_ONCE = 16
ATTEMPTS_MAX = 8  # to write one record
TAKE_OVER_ATTEMPTS_MAX = RECORDS_BEHIND_MAX + 16  # a former host is stopped after RECORDS_BEHIND_MAX records
RESUME_REMEDY = "leave its connection, which is not the session's any more, or resume it here"
ANNOUNCED = "another host announced a restart, whether or not it came to it: resume it here, or leave its connection"
_K = RealtimeRecordKind
_REQUESTS = frozenset(
    {
        _K.CONNECT_REQUESTED,
        _K.INPUT_SEND_REQUESTED,
        _K.OUTPUT_RECEIVE_REQUESTED,
        _K.INTERRUPT_REQUESTED,
        _K.CLOSE_REQUESTED,
        _K.BACKPRESSURE_APPLIED,
    }
)  # these a host writes of its own accord; all others say what came of them, or lead to another connection

CHECKPOINTS: Kind[Checkpoint] = Kind(WHAT, checkpoint_to_plain, checkpoint_from_plain)


class RealtimeJournal:
    """The log of one session as its host writes it. For one thread at a time.

    Attributes:
        progress: What all records that are known to be stored come to.
        pending: A record whose fate is unknown, None without one.
        may_stand: Whether something of the present step may stand: a record, or what the adapter did.
    """

    def __init__(self, environment: Environment, progress: RealtimeProgress, covered: Found[Checkpoint]) -> None:
        self.progress = progress
        self.pending: RealtimeSessionRecord | None = None
        self.may_stand = False
        self._is_last = False  # whether our last record was confirmed as it was created, within this step
        self._environment = environment
        self._session_id = progress.session_id
        self._register = register_of(environment, progress.session_id)
        self._covered = covered
        self._data = b""
        self._fenced: FencedError | None = None
        self._claim = 0

    @classmethod
    def start(cls, environment: Environment, first: RealtimeProgress) -> RealtimeJournal:
        """Begin the log of a session that has none (rule 1).

        Raises:
            SessionExistsError: It has one; resume it.
            SessionDeletedError, SessionMovedError: The id is spent, or the session lives elsewhere.
            UnavailableError: Nothing was confirmed; start again.
        """
        session_id = first.session_id
        register = register_of(environment, session_id)
        mine = Checkpoint.of(first)
        found = register.put(lambda present: mine if present is None else present)
        if found.value is not mine:
            register.check_not_over()  # only who makes a register is told by it that the id is spent
        if found.value.sequence or stored_record(environment, session_id, 1) is not None:
            raise SessionExistsError(session_id, what=WHAT)
        return cls(environment, first, found)

    @classmethod
    def load(cls, environment: Environment, session_id: str) -> RealtimeJournal:
        """Return the log with all that was stored when this began; others may write on. Raises as `load_progress`."""
        register = register_of(environment, session_id)
        found = register.find()
        if found is None:
            raise (
                SessionDeletedError(session_id) if register.is_spent() else SessionNotFoundError(session_id, what=WHAT)
            )
        checkpoint = found.value
        if checkpoint.progress.session_id != session_id:
            raise CorruptSnapshotError(register.key, "the realtime state is of another session")
        journal = cls(environment, _filled(environment, session_id, register.key, checkpoint), found)
        journal.catch_up()
        return journal

    def catch_up(self) -> None:
        """Take in what others wrote behind what is known; forget a record of our own that they forestalled."""
        self.pending = self._fenced = None
        for record in read_records(self._environment, self._session_id, after=self.progress.sequence):
            self.progress = _followed(self._environment, self.progress, record)

    def claim_restart(self) -> int:
        """Announce the next restart (rule 6), and return which it is.

        Raises:
            LimitExceededError: No further restart can be counted.
            And as `SatelliteRegister.update`.
        """
        claim = self._claim = restarting(self.progress.state, self.progress.state.connection_id).restart_count
        self._covered = self._register.update(
            lambda present: present if present.claim >= claim else replace(present, claim=claim), known=self._covered
        )
        self.may_stand = True
        return claim

    def append(
        self,
        kind: RealtimeRecordKind,
        *,
        state: RealtimeSessionState | None = None,
        reason: RealtimeCloseReason | None = None,
        **facts: Any,
    ) -> RealtimeSessionRecord:
        """Write the next record; see `RealtimeProgress.next` for its arguments. Nothing may be pending.

        Raises:
            IllegalTransitionError, InvalidStateError, LimitExceededError: It may not come now; nothing was written.
            And as `settle`; then it is pending.
        """
        assert self.pending is None, "settle first (rule 3)"
        if self._fenced is not None:
            raise self._fenced
        clock = self._environment.clock
        record = self.progress.next(kind, clock.now(), state=state, reason=reason, **facts)
        self._data = encode(self._environment.layout.tenant, self._session_id, clock.new_id(), record)
        self.pending = record
        self._write(record)
        return record

    def settle(self) -> RealtimeSessionRecord | None:
        """Begin a step: write the record that is pending, and return it; None without one.

        Raises:
            FencedError: Somebody took the session over; so every further call says.
            SessionDeletedError: It was deleted.
            UnavailableError: Nothing was confirmed; the record stays pending.
            CorruptSnapshotError, UnsupportedSchemaError: What lies in its place cannot be read.
        """
        if self._fenced is not None:
            raise self._fenced
        record, self._is_last = self.pending, False
        if record is None:
            self.may_stand = False
        else:
            self._write(record)
        return record

    def _write(self, record: RealtimeSessionRecord) -> None:
        if record.sequence - self._covered.value.sequence > RECORDS_BEHIND_MAX:
            self._write_checkpoint(record.kind)
        self._create(record)
        self.progress = self.progress.after(record)
        self.pending, self.may_stand = None, True

    def check_still_ours(self) -> None:
        """Before the adapter is called: look whether somebody has written behind us (rule 8). Raises as `settle`."""
        assert self.pending is None, "settle first (rule 3)"
        if not self._is_last:
            occupant = stored_record(self._environment, self._session_id, self.progress.sequence + 1)
            if occupant is not None:
                raise self._fenced_by(occupant)
        self.may_stand = True

    def _create(self, record: RealtimeSessionRecord) -> None:
        """Create the record in its slot, and find out what became of it (rule 2)."""
        store, clock = self._environment.store, self._environment.clock
        key = self._environment.layout.realtime_record(self._session_id, record.sequence)
        applied: Applied = "no"
        reason = ""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                store.put(key, self._data, Create())
            except (PreconditionFailedError, UnavailableError) as error:
                reason = error.reason
                if not isinstance(error, UnavailableError) or error.applied == "unknown":
                    applied = "unknown"
            else:
                self._is_last = True
                return
            try:
                found = bytes_at(self._environment, key)
            except UnavailableError as error:
                reason = error.reason
            else:
                if found == self._data:
                    self._is_last = False
                    return
                if found is not None:
                    raise self._fenced_by(decode(found, key=key))
            if attempt < ATTEMPTS_MAX:
                clock.sleep(backoff_seconds(attempt, clock))
        self.may_stand |= applied == "unknown"
        raise UnavailableError(key, f"no write was confirmed ({reason})", applied=applied)

    def _fenced_by(self, occupant: StoredRecord) -> FencedError:
        tenant = self._environment.layout.tenant
        record = occupant.checked(tenant, self._session_id, self.progress.sequence + 1)
        restarts = record.state.restart_count
        if restarts < self.progress.state.restart_count:
            raise CorruptSnapshotError(occupant.key, "a connection that was fenced before wrote this record")
        return self._fenced_at(restarts, RESUME_REMEDY)

    def _fenced_at(self, fence: int, remedy: str) -> FencedError:
        self._fenced = FencedError(self._session_id, fence=fence, holder="", what=WHAT, remedy=remedy)
        return self._fenced

    def _write_checkpoint(self, kind: RealtimeRecordKind) -> None:
        """Write what is known to be stored, before a record of this kind; leave it out behind a claim (rule 6)."""
        if self._register.is_spent():
            raise SessionDeletedError(self._session_id)
        mine = Checkpoint.of(self.progress)
        restarts = max(self._claim, self.progress.state.restart_count)

        def moved_on(present: Checkpoint) -> Checkpoint:
            if present.claim > restarts and kind in _REQUESTS:
                raise self._fenced_at(present.claim, ANNOUNCED)
            is_behind = present.claim > restarts or present.sequence >= mine.sequence
            return present if is_behind else replace(mine, claim=present.claim)

        self._covered = self._register.update(moved_on, known=self._covered)


@contextmanager
def told_in_doubt(may_stand: Callable[[], bool]) -> Iterator[None]:
    """Let no UnavailableError within the block say that nothing was done, while something of it may stand."""
    try:
        yield
    except UnavailableError as error:
        if error.applied == "unknown" or not may_stand():
            raise
        raise UnavailableError(error.key, error.reason, applied="unknown") from error


def take_over(environment: Environment, session_id: str) -> RealtimeJournal:
    """Take a session over from whoever had it: request and start a restart, under a connection id of its own.

    Raises:
        FencedError: Another host was quicker with the same; resume again to take it over from that one.
        IllegalTransitionError: It is closed, or was never connected; nothing was written.
        LimitExceededError: No further restart can be counted.
        UnavailableError: Nothing was confirmed; resume again. Unless `applied` is "no", the former host may be fenced.
        And as `load_progress`.
    """
    journal = RealtimeJournal.load(environment, session_id)
    with told_in_doubt(lambda: journal.may_stand):
        return _taken_over(environment, journal)


def _taken_over(environment: Environment, journal: RealtimeJournal) -> RealtimeJournal:
    session_id = journal.progress.session_id
    if journal.progress.sequence == 0:
        what, to = f"{WHAT} {session_id!r}", RealtimeSessionStatus.RESTART_REQUESTED.value
        raise IllegalTransitionError(what, from_status="not connected", to_status=to, remedy="connect it")
    steps_to_restart(session_id, journal.progress.status)  # what is closed is refused before anything is written
    register_of(environment, session_id).check_not_over()
    connection_id = RealtimeConnectionId(environment.clock.new_id())
    claim = journal.claim_restart()
    for _ in range(TAKE_OVER_ATTEMPTS_MAX):
        journal.catch_up()
        restarts = journal.progress.state.restart_count
        if restarts >= claim:
            remedy = "resume again to take it over"
            raise FencedError(session_id, fence=restarts, holder="", what=WHAT, remedy=remedy)
        with suppress(FencedError):  # somebody wrote this record: behind it we try again
            while steps := steps_to_restart(session_id, journal.progress.status):
                _give_up(journal, steps[0])
            state = restarting(journal.progress.state, connection_id)
            journal.append(RealtimeRecordKind.RESTART_REQUESTED, state=state)
            journal.append(RealtimeRecordKind.RESTART_STARTED)
            return journal
    key = environment.layout.realtime_state(session_id)
    raise UnavailableError(key, "others kept writing it", applied="no")


def _give_up(journal: RealtimeJournal, status: RealtimeSessionStatus) -> None:
    """Record that what another host had under way came to nothing."""
    if status is RealtimeSessionStatus.FAILED:
        journal.append(RealtimeRecordKind.CLOSED, reason=RealtimeCloseReason.PROVIDER_FAILURE)
    else:
        journal.append(RealtimeRecordKind.RESTART_FAILED)


def load_progress(environment: Environment, session_id: str) -> RealtimeProgress:
    """Return what the log of a session has come to.

    Raises:
        SessionNotFoundError, SessionDeletedError, SessionMovedError: There is none here.
        CorruptSnapshotError: Something of it cannot be read, is missing, or belongs to another session or tenant.
        UnsupportedSchemaError: It is of a later format.
        UnavailableError: The store did not answer.
    """
    return RealtimeJournal.load(environment, session_id).progress


def register_of(environment: Environment, session_id: str) -> SatelliteRegister[Checkpoint]:
    """Return the register of a session's checkpoint."""
    return SatelliteRegister(environment, session_id, environment.layout.realtime_state(session_id), CHECKPOINTS)


def read_records(
    environment: Environment, session_id: str, *, after: int = 0, known_to: int = 0
) -> Iterator[RealtimeSessionRecord]:
    """Yield the records behind number `after`, oldest first: all that are stored now.

    Args:
        environment: Where.
        session_id: Whose.
        after: 0 for all.
        known_to: Records up to this number are known to be stored.

    Raises:
        SessionDeletedError: They are gone, with the session.
        CorruptSnapshotError: One cannot be read, is missing before others, or belongs elsewhere.
        UnsupportedSchemaError, UnavailableError: As for any read.
    """

    def read(number: int) -> RealtimeSessionRecord:
        return existing_record(environment, session_id, number)

    numbers = stored_numbers(environment, session_id, after, known_to)
    while wanted := list(islice(numbers, RECORDS_READ_AT_ONCE)):
        yield from environment.executor.map(read, wanted)


def stored_numbers(environment: Environment, session_id: str, after: int, known_to: int = 0) -> Iterator[int]:
    """Yield the numbers of the records behind `after`, those too that a listing overlooked, if others follow."""
    layout, number = environment.layout, after + 1
    end = layout.realtime_state(session_id)  # sorts behind every record
    listed = environment.store.list(layout.realtime(session_id), start_after=layout.realtime_record(session_id, after))
    for row in takewhile(lambda row: row.key < end, listed):
        while layout.realtime_record(session_id, number) < row.key:
            yield number  # it came while we were listing, or it is missing
            number += 1
        if layout.realtime_record(session_id, number) != row.key:
            raise CorruptSnapshotError(row.key, f"this is no record of {WHAT} {session_id!r}")
        yield number
        number += 1
    yield from range(number, known_to + 1)


def existing_record(environment: Environment, session_id: str, sequence: int) -> RealtimeSessionRecord:
    """Return a record that must be there. Raises as `read_records`."""
    stored = stored_record(environment, session_id, sequence)
    if stored is None:
        raise _missing(environment, session_id, sequence)
    return stored.checked(environment.layout.tenant, session_id, sequence)


def stored_record(environment: Environment, session_id: str, sequence: int) -> StoredRecord | None:
    """Return what lies under the key of a record, None for nothing."""
    key = environment.layout.realtime_record(session_id, sequence)
    data = bytes_at(environment, key)
    return None if data is None else decode(data, key=key)


def bytes_at(environment: Environment, key: str) -> bytes | None:
    """Return what lies under a key, None for nothing. Raises CorruptSnapshotError, UnavailableError."""
    try:
        return environment.store.get(key).data
    except NotFoundError:
        return None
    except CorruptObjectError as error:
        raise CorruptSnapshotError(key, error.reason) from error


def _missing(environment: Environment, session_id: str, sequence: int) -> SnapshotError:
    """Return why a record is not there: only the collection of a deleted session takes it away."""
    if register_of(environment, session_id).is_spent():
        return SessionDeletedError(session_id)
    key = environment.layout.realtime_record(session_id, sequence)
    return CorruptSnapshotError(key, "this record is missing, while others behind it are there")


def _filled(environment: Environment, session_id: str, key: str, checkpoint: Checkpoint) -> RealtimeProgress:
    """Return the progress of a checkpoint, its frames read from their records."""

    def read(number: int) -> RealtimeSessionRecord:
        return existing_record(environment, session_id, number)

    records = dict(zip(checkpoint.kept, environment.executor.map(read, checkpoint.kept), strict=True))
    try:
        return checkpoint.filled(records)
    except InvalidStateError as error:
        raise CorruptSnapshotError(key, error.reason) from error


def _followed(environment: Environment, progress: RealtimeProgress, record: RealtimeSessionRecord) -> RealtimeProgress:
    try:
        return progress.after(record)
    except (InvalidStateError, IllegalTransitionError) as error:
        key = environment.layout.realtime_record(progress.session_id, record.sequence)
        raise CorruptSnapshotError(key, f"this record may not come here ({error})") from error
