"""Copying a realtime session: its records one after the other, and the state that covers them.

Rules:
1. Records are never changed: one here that is another than the source's of that number is a conflict, and stays.
2. They are created in order, each after the one before it is known to be stored: wherever a copy ends, what is here is
   the beginning of the source's log, and nothing is missing in it.
3. The state exists before record 1, first one that covers nothing; it only moves forward, and is never more than
   RECORDS_BEHIND_MAX records behind, as a host keeps it. At the end it is the source's, its claim included.
4. A higher claim here is a host's that means to take the session over here: a conflict, if anything is new.
5. A mark of the source's state and of the last record, among the write ids of the state here, says that all records up
   to that one are here. While it stands there, two GETs and a listing find out that there is nothing to do.

    copied = copy_realtime(source, here, "s1", "s1")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NoReturn

from snapshots.environment import Environment
from snapshots.errors import (
    CopyConflictError,
    CorruptSnapshotError,
    IllegalTransitionError,
    InvalidStateError,
    SessionDeletedError,
)
from snapshots.maintenance.copy.satellites.marks import made_by, mark_of
from snapshots.maintenance.copy.satellites.outcome import KindCopied, not_from_there, writing_here
from snapshots.realtime.journal import (
    ATTEMPTS_MAX,
    RECORDS_BEHIND_MAX,
    RECORDS_READ_AT_ONCE,
    WHAT,
    bytes_at,
    existing_record,
    load_progress,
    register_of,
    stored_numbers,
)
from snapshots.realtime.progress import Checkpoint, RealtimeProgress
from snapshots.realtime.stored import decode, encode
from snapshots.realtime.values import RealtimeSessionId, RealtimeSessionRecord, RealtimeSessionState
from snapshots.satellite import Found
from storage.clock import backoff_seconds
from storage.errors import PreconditionFailedError, UnavailableError
from storage.store import Create

ENDS_READ_MAX = 4  # how often the source is read again because its state went on while its records were listed


@dataclass(frozen=True, slots=True)
class MappedRecord:
    """A record of the source as it is stored here.

    Attributes:
        key: Of the source's.
        record: As it is here.
        data: Its bytes here.
    """

    key: str
    record: RealtimeSessionRecord
    data: bytes


def state_for(state: RealtimeSessionState, session_id: str) -> RealtimeSessionState:
    """Return a state as that of another session."""
    return state.model_copy(update={"session_id": RealtimeSessionId(session_id)})


def checkpoint_for(checkpoint: Checkpoint, session_id: str) -> Checkpoint:
    """Return what is stored of a state as that of another session."""
    progress = checkpoint.progress
    mapped = replace(progress, session_id=session_id, state=state_for(progress.state, session_id))
    return replace(checkpoint, progress=mapped)


def mapped_record(
    source: Environment, here: Environment, session_id: str, target_id: str, sequence: int
) -> MappedRecord:
    """Return a record of the source as it is to be stored here: the very bytes, where id and tenant are the same.

    Raises:
        SessionDeletedError: It went with its session.
        CorruptSnapshotError, UnsupportedSchemaError: It cannot be read, or is missing.
        LimitExceededError: With the new ids it would be too large.
        UnavailableError: The store did not answer.
    """
    key = source.layout.realtime_record(session_id, sequence)
    data = bytes_at(source, key)
    if data is None:
        record = existing_record(source, session_id, sequence)  # says why it is missing
        raise UnavailableError(key, f"record {record.sequence} came while it was read; copy it again", applied="no")
    stored = decode(data, key=key)
    record = stored.checked(source.layout.tenant, session_id, sequence)
    if (source.layout.tenant, session_id) == (here.layout.tenant, target_id):
        return MappedRecord(key, record, data)
    mapped = record.model_copy(update={"state": state_for(record.state, target_id)})
    return MappedRecord(key, mapped, encode(here.layout.tenant, target_id, stored.write_id, mapped))


def mapped_records(
    source: Environment, here: Environment, session_id: str, target_id: str, numbers: range
) -> Iterator[MappedRecord]:
    """Yield records of the source as they are to be stored here, some read side by side. Raises as `mapped_record`."""
    rest = iter(numbers)
    while some := list(islice(rest, RECORDS_READ_AT_ONCE)):
        yield from source.executor.map(lambda number: mapped_record(source, here, session_id, target_id, number), some)


@dataclass(frozen=True, slots=True)
class SourceLog:
    """Where the log of the source stood when it was read.

    Attributes:
        found: Its state.
        last: Number of its last record.
    """

    found: Found[Checkpoint]
    last: int

    def mark(self, write_id: str) -> str:
        """Return the mark of a copy of all records (rule 5)."""
        return mark_of(write_id, self.last)


def read_source(source: Environment, session_id: str) -> SourceLog | None:
    """Return where a log stands, None if there is none. Raises as `read_records`."""
    register = register_of(source, session_id)
    found = register.look()
    if found is None:
        return None
    log = _listed(source, session_id, found)
    for _ in range(ENDS_READ_MAX):
        if log.last - log.found.value.sequence <= RECORDS_BEHIND_MAX:
            break
        again = register.look()
        if again is None or again.version == log.found.version:
            break
        log = _listed(source, session_id, again)
    return log


def _listed(source: Environment, session_id: str, found: Found[Checkpoint]) -> SourceLog:
    last = found.value.sequence
    for number in stored_numbers(source, session_id, last):
        last = number
    return SourceLog(found, last)


def copy_realtime(source: Environment, here: Environment, session_id: str, target_id: str) -> KindCopied:
    """Copy a realtime session, or what is new of it. Raises as `copy_satellites`."""
    log = read_source(source, session_id)
    if log is None:
        return KindCopied("realtime", "absent")
    if log.found.value.progress.session_id != session_id:
        key = source.layout.realtime_state(session_id)
        raise CorruptSnapshotError(key, "the realtime state is of another session")
    with writing_here(target_id, WHAT):
        present = register_of(here, target_id).find()
    mark = log.mark(made_by(log.found.ring))
    if present is not None and mark in present.ring:
        return KindCopied("realtime", "same" if present.ring[-1] == mark else "ahead")
    return _RealtimeCopy(source, here, session_id, target_id, log, mark).run(present)


def check_realtime_returns(source: Environment, here: Environment, session_id: str, target_id: str) -> None:
    """Check that the source has all records that were left behind here, if any were. Raises CopyConflictError."""
    left = read_source(here, target_id)
    if left is None or not left.found.destination:
        return
    log, numbers = read_source(source, session_id), range(1, left.last + 1)
    if log is not None and not log.found.destination and log.last >= left.last:
        mine = mapped_records(here, here, target_id, target_id, numbers)
        theirs = mapped_records(source, here, session_id, target_id, numbers)
        if all(one.data == other.data for one, other in zip(mine, theirs, strict=True)):
            return
    raise not_from_there(target_id, WHAT, left.found.destination)


class _RealtimeCopy:
    """One call of `copy_realtime` that has something to do."""

    def __init__(
        self, source: Environment, here: Environment, session_id: str, target_id: str, log: SourceLog, mark: str
    ) -> None:
        self._source = source
        self._here = here
        self._session_id = session_id
        self._target_id = target_id
        self._log = log
        self._mark = mark
        self._final = checkpoint_for(log.found.value, target_id)
        self._register = register_of(here, target_id)

    def run(self, present: Found[Checkpoint] | None) -> KindCopied:
        known = 0
        covered, progress = present, None
        if present is not None:
            with writing_here(self._target_id, WHAT):
                self._register.check_not_over()  # who finds a state asks whether the id is spent
                progress = load_progress(self._here, self._target_id)
            known = progress.sequence
            self._check_known(present, known)
            if (known, present.value.claim) > (self._log.last, self._final.claim):
                return KindCopied("realtime", "ahead")
            self._check_claim(present.value)
        count = size = 0
        for one in self._records(range(known + 1, self._log.last + 1)):
            if progress is None or progress.sequence == 0:
                progress = self._nothing_yet(one.record)
            if covered is None:
                covered = self._first_state(progress)
            if one.record.sequence - covered.value.sequence > RECORDS_BEHIND_MAX:
                covered = self._forward(progress, covered)
            self._create(one)
            progress = self._after(progress, one)
            count, size = count + 1, size + len(one.data)
        with writing_here(self._target_id, WHAT):
            self._check_not_deleted()
            self._register.copy_in(self._last_state, (self._mark,))
        return KindCopied("realtime", "copied", count, size)

    def _records(self, numbers: range) -> Iterator[MappedRecord]:
        return mapped_records(self._source, self._here, self._session_id, self._target_id, numbers)

    # What is here already.

    def _check_claim(self, present: Checkpoint) -> None:
        if present.claim > self._final.claim:
            self._conflict(f"its restart {present.claim} was announced here, which the source does not know")

    def _check_known(self, present: Found[Checkpoint], known: int) -> None:
        """Check that the records here are the source's (rule 1)."""
        former = (mark_of(write_id, known) for write_id in self._log.found.ring)
        if any(mark in present.ring for mark in former):  # Rule 5: they were copied, and no others came.
            return
        for one in self._records(range(1, min(known, self._log.last) + 1)):
            if bytes_at(self._here, self._key_of(one)) != one.data:
                self._conflict(f"its record {one.record.sequence} here is another one than in the source")

    def _conflict(self, reason: str) -> NoReturn:
        raise CopyConflictError(self._target_id, 0, reason, what=WHAT)

    def _key_of(self, one: MappedRecord) -> str:
        return self._here.layout.realtime_record(self._target_id, one.record.sequence)

    # The state.

    def _nothing_yet(self, first: RealtimeSessionRecord) -> RealtimeProgress:
        """Return what the log comes to before its first record."""
        return RealtimeProgress(self._target_id, 0, first.state, first.recorded_at)

    def _first_state(self, progress: RealtimeProgress) -> Found[Checkpoint]:
        """Make the state that covers nothing (rule 3)."""
        first = replace(Checkpoint.of(progress), claim=self._final.claim)
        with writing_here(self._target_id, WHAT):
            found = self._register.put(lambda present: first if present is None else present)
            if found.value is not first:
                self._register.check_not_over()
        return found

    def _forward(self, progress: RealtimeProgress, covered: Found[Checkpoint]) -> Found[Checkpoint]:
        """Move the state on to what is stored (rule 3); to the source's, once all that it covers is."""
        is_next = covered.value.sequence < self._final.sequence <= progress.sequence
        mine = self._final if is_next else replace(Checkpoint.of(progress), claim=self._final.claim)

        def moved_on(present: Checkpoint) -> Checkpoint:
            self._check_claim(present)
            return present if present.sequence >= mine.sequence else mine

        with writing_here(self._target_id, WHAT):
            self._check_not_deleted()
            return self._register.update(moved_on, known=covered)

    def _last_state(self, found: Found[Checkpoint] | None) -> Checkpoint:
        """Return the state that is to stand here at the end, written even if it is there (rule 5)."""
        if found is None:
            return self._final
        self._check_claim(found.value)
        if found.value.sequence > self._log.last:
            self._conflict(f"it went on here, up to record {found.value.sequence}")
        is_further = found.value.sequence > self._final.sequence
        return replace(found.value if is_further else self._final, claim=self._final.claim)

    def _check_not_deleted(self) -> None:
        if self._register.is_spent():
            raise SessionDeletedError(self._target_id)

    # Records.

    def _after(self, progress: RealtimeProgress, one: MappedRecord) -> RealtimeProgress:
        try:
            return progress.after(one.record)
        except (InvalidStateError, IllegalTransitionError) as error:
            raise CorruptSnapshotError(one.key, f"this record may not come here ({error})") from error

    def _create(self, one: MappedRecord) -> None:
        """Create a record, and find out what became of it. Raises CopyConflictError, UnavailableError."""
        key, clock, reason = self._key_of(one), self._here.clock, ""
        for attempt in range(1, ATTEMPTS_MAX + 1):
            try:
                self._here.store.put(key, one.data, Create())
                return
            except (PreconditionFailedError, UnavailableError) as error:
                reason = error.reason
            try:
                found = bytes_at(self._here, key)
            except UnavailableError as error:
                reason = error.reason
            else:
                if found == one.data:
                    return
                if found is not None:
                    self._conflict(f"its record {one.record.sequence} here is another one than in the source")
            clock.sleep(backoff_seconds(attempt, clock))
        raise UnavailableError(key, f"no write was confirmed ({reason}); copy it again", applied="unknown")
