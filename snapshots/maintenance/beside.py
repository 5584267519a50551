"""Verifying what lies beside the sessions: records, metadata, usage logs, realtime sessions. Findings, as of sessions.

Rules:
1. Only what is there is read, whether the session exists or not; some satellites side by side, each piece by piece.
2. A damaged object hides no other. What is missing counts only if it is named, and still named by what was read or
   listed after it was missed.
3. What was found of a deleted session is no finding: a collection may be taking it away. The head is asked if
   anything was found, and only then.
4. "altered" are bytes that are not what was written; "satellite" are sound ones that belong elsewhere, cannot be read,
   or contradict each other.
5. What a session that was moved left behind is looked through like any other.
6. Realtime records are followed from the first on, and must come to what the checkpoint says. Behind one that cannot
   be followed they are followed from the checkpoint on.

    for found in verify_satellites(environment):
        print(found)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain, groupby, islice
from typing import TypeVar

from snapshots import codec, satellite
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    IllegalTransitionError,
    InvalidStateError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
    UnsupportedSchemaError,
)
from snapshots.fields import U64_MAX
from snapshots.head import TOMBSTONE, Head
from snapshots.layout import Layout
from snapshots.maintenance.findings import DAMAGE, Damage, Finding, VerifiedSatellite, What
from snapshots.reading import head_at
from snapshots.realtime import stored as realtime_stored
from snapshots.realtime.journal import CHECKPOINTS, load_progress
from snapshots.realtime.progress import Checkpoint, RealtimeProgress
from snapshots.realtime.values import RealtimeSessionRecord
from snapshots.records.stored import look_at
from snapshots.runtime.persistence import METADATA
from snapshots.satellite import Kind, Stored
from snapshots.usage.index import KIND, ListedLog, logs_in
from snapshots.usage.reading import RESTARTS_MAX, SegmentMissingError, check_superseded, not_in, read_segments
from snapshots.usage.rows import UsageRow, row_of
from snapshots.usage.segments import Index, LiveSegment, open_segment
from storage.errors import CorruptObjectError, NotFoundError, UnavailableError
from storage.store import ListedObject, StoredObject

REGISTERS_SIDE_BY_SIDE = 64
LOGS_SIDE_BY_SIDE = 4  # a segment of each is held at a time, 8 MiB of rows at most
SEGMENTS_SIDE_BY_SIDE = 4  # of one log, where it is looked at alone
REALTIME_SIDE_BY_SIDE = 8  # sessions
RECORDS_SIDE_BY_SIDE = 16  # of one realtime session
RECORDS_NAMED_MAX = 256  # that are missing in a row; a single key far off must not make us count to it
_NO_STATE = "the realtime session has records and no state"
_STATE = "state"
_SEQUENCE_DIGITS = len(str(U64_MAX))

T = TypeVar("T")
Reported = Finding | VerifiedSatellite


def verify_satellites(environment: Environment) -> Iterator[Reported]:
    """Yield what is wrong beside the sessions of a tenant, and each satellite when it was looked through.

    Yields:
        Kind by kind in the order of their keys: the findings of a satellite, then its `VerifiedSatellite`.

    Raises:
        UnavailableError: The store did not answer; begin again.
    """
    layout, look = environment.layout, _Look(environment)
    some, any_id = partial(_side_by_side, environment), layout.tenant
    metadata, realtime = (_prefix_of(layout, key) for key in (layout.metadata(any_id), layout.realtime(any_id)))
    yield from some(REGISTERS_SIDE_BY_SIDE, look.record, _keys_in(environment, layout.records))
    yield from some(REGISTERS_SIDE_BY_SIDE, look.metadata, _keys_in(environment, metadata))
    yield from some(LOGS_SIDE_BY_SIDE, look.usage, logs_in(environment, layout.usage_logs))
    yield from some(REALTIME_SIDE_BY_SIDE, look.realtime, _realtime_in(environment, realtime))


def satellites_of(environment: Environment, session_id: str) -> Iterator[Reported]:
    """Yield the same for what lies beside one session; nothing if nothing does. Raises UnavailableError."""
    layout, look = environment.layout, _Look(environment)
    yield from look.record(layout.record(session_id))
    yield from look.metadata(layout.metadata(session_id))
    for log in logs_in(environment, layout.usage(session_id)):
        yield from look.usage(log)
    for listed in _realtime_in(environment, layout.realtime(session_id)):
        yield from look.realtime(listed)


def _side_by_side(
    environment: Environment, count: int, look: Callable[[T], list[Reported]], every: Iterable[T]
) -> Iterator[Reported]:
    rest = iter(every)
    while some := list(islice(rest, count)):
        for reported in environment.executor.map(look, some):
            yield from reported


def _keys_in(environment: Environment, prefix: str) -> Iterator[str]:
    return (row.key for row in environment.store.list(prefix))


def _prefix_of(layout: Layout, key: str) -> str:
    """Return the prefix under which everything of the kind of `key` lies."""
    return next(prefix for prefix in layout.satellites if key.startswith(prefix))


@dataclass(frozen=True, slots=True)
class _ListedRealtime:
    """What lies under the prefix of one realtime session.

    Attributes:
        prefix: It.
        state_key: Key of its state, "" if there is none.
        runs: The numbers of its records, rising, those that follow on each other together.
        foreign: Keys among the records that are not those of a record; whoever reads the records stops there.
    """

    prefix: str
    state_key: str
    runs: tuple[range, ...]
    foreign: tuple[str, ...] = ()

    def missing(self, known_to: int) -> Iterator[range]:
        """Yield the numbers that are not there, and should be: before others, or up to the one that is known."""
        expected = 1
        for run in self.runs:
            if run.start > expected:
                yield range(expected, run.start)
            expected = max(expected, run.stop)
        if expected <= known_to:
            yield range(expected, known_to + 1)


def _realtime_in(environment: Environment, prefix: str) -> Iterator[_ListedRealtime]:
    """Yield the realtime sessions under a prefix."""
    layout = environment.layout
    for part, rows in groupby(environment.store.list(prefix), lambda row: layout.session_part(row.key)):
        whole = f"{_prefix_of(layout, prefix)}{part}/"
        listed = _listed(whole, (row.key for row in rows if row.key.startswith(whole)))
        if listed.state_key or listed.runs:
            yield listed


def _listed(prefix: str, keys: Iterable[str]) -> _ListedRealtime:
    state_key, runs, foreign = "", list[range](), list[str]()
    for key in keys:
        name = key.removeprefix(prefix)
        if name == _STATE:
            state_key = key
        elif name.isdecimal() and len(name) == _SEQUENCE_DIGITS:
            number = int(name)
            start = runs.pop().start if runs and runs[-1].stop == number else number
            runs.append(range(start, number + 1))
        elif name < _STATE:
            foreign.append(key)
    return _ListedRealtime(prefix, state_key, tuple(runs), tuple(foreign))


@dataclass(frozen=True, slots=True)
class _Look:
    """Looks at satellites. Each method returns nothing where there is none any more."""

    environment: Environment

    @property
    def _layout(self) -> Layout:
        return self.environment.layout

    def record(self, key: str) -> list[Reported]:
        """Return what is reported of a session record."""
        try:
            found = look_at(self.environment, key)
        except NotFoundError:
            return []
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:
            return self._reported(key, [self._unsound(key) or _found(key, error)])
        return self._reported(key, [], found.value.session_id)

    def _unsound(self, key: str) -> Finding | None:
        """Return the finding that the bytes of a register are, None if its checksum is right."""
        try:
            self._sound(key)
        except (NotFoundError, CorruptObjectError) as error:
            return _found(key, error)
        return None

    def metadata(self, key: str) -> list[Reported]:
        """Return what is reported of metadata."""
        try:
            stored = self._register(key, METADATA, self._layout.metadata)
        except NotFoundError:
            return []
        except DAMAGE as error:
            return self._reported(key, [_found(key, error)])
        return self._reported(key, [], stored.session_id)

    # Usage logs.

    def usage(self, log: ListedLog) -> list[Reported]:
        """Return what is reported of a usage log: its index, and every segment that it names."""
        key = self._layout.usage_index_in(log.prefix)
        try:
            stored = self._register(key, KIND, self._layout.usage_index)
        except NotFoundError as error:
            if not log.segments:
                return []
            nameless = _found(key, error, "the usage log has segments and no index")
            return self._reported(log.prefix, [nameless, *self._each(self._nameless, log.segments)])
        except DAMAGE as error:
            return self._reported(log.prefix, [_found(key, error), *self._each(self._nameless, log.segments)])
        found = list(self._named(key, stored.session_id, stored.found.value))
        return self._reported(log.prefix, found, stored.session_id)

    def _each(self, look: Callable[[T], list[Finding]], every: Sequence[T]) -> Iterator[Finding]:
        for start in range(0, len(every), SEGMENTS_SIDE_BY_SIDE):
            for found in self.environment.executor.map(look, every[start : start + SEGMENTS_SIDE_BY_SIDE]):
                yield from found

    def _named(self, key: str, session_id: str, index: Index) -> Iterator[Finding]:
        """Yield what is wrong with the segments that an index names, as it is while they are read (rule 2)."""
        done = set[str]()
        for _ in range(RESTARTS_MAX):
            missed: list[LiveSegment] = []
            segments = not_in(index, done)
            yield from self._each(partial(self._segment, session_id, missed), segments)
            done.update(one.name for one in segments)
            if not missed:
                return
            try:
                index = self._register(key, KIND, self._layout.usage_index).found.value
            except DAMAGE as error:
                yield _found(key, error, "the index of the usage log was there, and is missing")
                return
            for one in (one for one in segments if one in missed):
                try:
                    check_superseded(self.environment, session_id, one, index)
                except CorruptSnapshotError as error:
                    yield Finding("", None, error.key, "", What.MISSING, error.reason)
        raise UnavailableError(key, "the usage log kept moving while it was verified", applied="no")

    def _segment(self, session_id: str, missed: list[LiveSegment], one: LiveSegment) -> list[Finding]:
        """Return what is wrong with a segment; put it among the missed ones if it is not there."""
        key = self._layout.usage_segment(session_id, one.name)
        try:
            for _, rows in read_segments(self.environment, session_id, [one]):
                _check(rows)
        except SegmentMissingError:
            missed.append(one)
        except (CorruptSnapshotError, UnsupportedSchemaError) as error:
            return [_found(key, error)]
        return []

    def _nameless(self, row: ListedObject) -> list[Finding]:
        """Return what is wrong with a segment of which no index says whether it is live."""
        try:
            facts, rows = open_segment(self.environment.store.get(row.key).data, key=row.key)
            if facts.tenant != self._layout.tenant or self._segment_key(facts.session_id, facts.name) != row.key:
                raise satellite.misplaced(row.key, f"segment {facts.name}", facts.session_id, facts.tenant)
            _check(row_of(one, key=row.key) for one in rows)
        except NotFoundError:
            return []  # nobody says that it should be there
        except DAMAGE as error:
            return [_found(row.key, error)]
        return []

    def _segment_key(self, session_id: str, name: str) -> str:
        return self._layout.usage_segment(session_id, name)

    # Realtime sessions.

    def realtime(self, listed: _ListedRealtime) -> list[Reported]:
        """Return what is reported of a realtime session: its state, every record, and whether they follow."""
        session_id = self._session_of(listed.prefix)
        key = listed.state_key or (self._layout.realtime_state(session_id) if session_id else "")
        if not key:
            return self._reported(listed.prefix, [_found("", NotFoundError(listed.prefix), _NO_STATE)])
        found = [_contradiction(one, "this is no record of a realtime session") for one in listed.foreign]
        checkpoint = None
        try:
            stored = self._state(key)
        except NotFoundError as error:
            if not listed.runs:
                return []
            found.append(_found(key, error, _NO_STATE))
        except DAMAGE as error:
            found.append(_found(key, error))
        else:
            session_id, checkpoint = stored.session_id, stored.found.value
        if session_id:  # else nothing tells what its records should say, before the state is restored
            found += self._records(session_id, listed, checkpoint)
        return self._reported(listed.prefix, found, session_id)

    def _state(self, key: str) -> Stored[Checkpoint]:
        stored = self._register(key, CHECKPOINTS, self._layout.realtime_state)
        if stored.found.value.progress.session_id != stored.session_id:
            raise CorruptSnapshotError(key, "the realtime state is of another session")
        return stored

    def _records(self, session_id: str, listed: _ListedRealtime, checkpoint: Checkpoint | None) -> list[Finding]:
        known_to = 0 if checkpoint is None else checkpoint.sequence
        if next(listed.missing(known_to), None) is not None:  # Rule 2: a listing is not of one instant.
            again = list(_realtime_in(self.environment, listed.prefix))
            listed = again[0] if again else _ListedRealtime(listed.prefix, "", ())
        found = [one for numbers in listed.missing(known_to) for one in self._missing(session_id, numbers)]
        replay = _Replay(self._layout, session_id, checkpoint)
        numbers = chain.from_iterable(listed.runs)
        while some := list(islice(numbers, RECORDS_SIDE_BY_SIDE)):
            for one in self.environment.executor.map(partial(self._record_of, session_id), some):
                found += [one] if isinstance(one, Finding) else replay.findings(one)
        if replay.is_lost and checkpoint is not None and not listed.foreign:  # else nobody gets behind it
            found += self._from_checkpoint(session_id, found)
        return found

    def _missing(self, session_id: str, numbers: range) -> Iterator[Finding]:
        reason = f"of the records {numbers.start} to {numbers.stop - 1}, which should be there, this one is missing"
        for number in numbers[:RECORDS_NAMED_MAX]:
            key = self._layout.realtime_record(session_id, number)
            yield Finding("", None, key, "", What.MISSING, reason)

    def _record_of(self, session_id: str, number: int) -> RealtimeSessionRecord | Finding:
        key = self._layout.realtime_record(session_id, number)
        try:
            stored = realtime_stored.decode(self._sound(key).data, key=key)
            return stored.checked(self._layout.tenant, session_id, number)
        except DAMAGE as error:
            return _found(key, error)

    def _from_checkpoint(self, session_id: str, found: Sequence[Finding]) -> list[Finding]:
        """Return what is wrong behind the checkpoint, as a host finds it that resumes, if it is no news (rule 6)."""
        try:
            load_progress(self.environment, session_id)
        except (SessionDeletedError, SessionNotFoundError):
            return []  # gone since its state was read
        except SessionMovedError:
            return []  # nobody resumes it here
        except CorruptSnapshotError as error:
            known = {one.key for one in found}
            return [] if error.key in known else [_found(error.key, error)]
        except UnsupportedSchemaError as error:
            known = {one.reason for one in found}
            return [] if str(error) in known else [_found(self._layout.realtime_state(session_id), error)]
        return []

    # What they have in common.

    def _sound(self, key: str) -> StoredObject:
        """Return an object whose checksum is right. Raises NotFoundError, CorruptObjectError."""
        found = self.environment.store.get(key)
        try:
            codec.unguarded(found.data, key=key)
        except CorruptSnapshotError as error:
            raise CorruptObjectError(key, error.reason) from error
        return found

    def _register(self, key: str, kind: Kind[T], key_of: Callable[[str], str]) -> Stored[T]:
        """Return the register under a key. Raises what is in DAMAGE."""
        found = self._sound(key)
        stored = satellite.decode(found.data, found.version, kind, key=key)
        if stored.tenant != self._layout.tenant or key_of(stored.session_id) != key:
            raise satellite.misplaced(key, kind.name, stored.session_id, stored.tenant)
        return stored

    def _reported(self, key: str, found: Sequence[Finding], session_id: str = "") -> list[Reported]:
        """Return the report on the satellite under `key`; its findings say whose they are (rule 3)."""
        head = self._head_of(key) if found else None
        if head is not None and head.status == TOMBSTONE:
            return []
        session_id = session_id or self._session_of(key)
        return [*(replace(one, session_id=session_id) for one in found), VerifiedSatellite(key, session_id, len(found))]

    def _session_of(self, key: str) -> str:
        """Return the session to which the key of a satellite belongs, "" if neither that nor a head tells."""
        layout = self._layout
        part = layout.session_part(key)
        identifier = layout.family_id(part.rpartition("/")[2])  # a family is named as its first session is
        if layout.session_part(layout.head(identifier)) == part:
            return identifier
        head = self._head_of(key)  # there is a digest of the id in the key
        return "" if head is None else head.session_id

    def _head_of(self, key: str) -> Head | None:
        """Return the head of the session to which the key of a satellite belongs, None if none can be read."""
        layout = self._layout
        try:
            return head_at(self.environment, layout.heads + layout.session_part(key)).head
        except DAMAGE:
            return None


class _Replay:
    """What realtime records come to, one after the other, up to one that cannot be followed (rule 6).

    Attributes:
        is_lost: Whether there is a record that was not followed, because one before it is missing or damaged.
    """

    def __init__(self, layout: Layout, session_id: str, checkpoint: Checkpoint | None) -> None:
        self.is_lost = False
        self._layout = layout
        self._session_id = session_id
        self._checkpoint = checkpoint
        self._progress: RealtimeProgress | None = None

    def findings(self, record: RealtimeSessionRecord) -> list[Finding]:
        """Return what is wrong with the next record, sound by itself."""
        before = self._progress or RealtimeProgress(self._session_id, 0, record.state, record.recorded_at)
        if self.is_lost or record.sequence != before.sequence + 1:
            self.is_lost = True
            return []
        try:
            progress = self._progress = before.after(record)
        except (InvalidStateError, IllegalTransitionError) as error:
            self.is_lost = True
            key = self._layout.realtime_record(self._session_id, record.sequence)
            return [_contradiction(key, f"this record may not come here ({error})")]
        if self._checkpoint is None or progress.sequence != self._checkpoint.sequence:
            return []
        if replace(Checkpoint.of(progress), claim=self._checkpoint.claim) == self._checkpoint:
            return []
        reason = f"the state is not what the records up to {progress.sequence} come to"
        return [_contradiction(self._layout.realtime_state(self._session_id), reason)]


def _check(rows: Iterable[UsageRow]) -> None:
    """Read every row. Raises CorruptSnapshotError."""
    for row in rows:
        _ = row.record


def _contradiction(key: str, reason: str) -> Finding:
    return Finding("", None, key, "", What.SATELLITE, reason)


def _found(key: str, error: Damage, missing: str = "this object was listed, and is missing") -> Finding:
    """Return the finding that an error is, of a session still to be told; `key` where the error names none."""
    if isinstance(error, UnsupportedSchemaError):
        return Finding("", None, key, "", What.SCHEMA, str(error))
    if isinstance(error, NotFoundError):
        return Finding("", None, error.key, "", What.MISSING, missing)
    # A segment's bytes are checked where it is opened, and what is wrong with them is the cause.
    is_altered = isinstance(error, CorruptObjectError) or isinstance(error.__cause__, CorruptObjectError)
    return Finding("", None, error.key, "", What.ALTERED if is_altered else What.SATELLITE, error.reason)
