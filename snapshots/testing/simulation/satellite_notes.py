"""What hosts were told of the satellites of sessions, and whether what is stored in the end goes with it.

Rules (each a named check). A session that was deleted is asked for nothing.
1. "every line once": a line of a usage log that was acknowledged is read once, one that was refused never; those of one
   host that were acknowledged at once come in its order.
2. "no message lost": every message of a save that was acknowledged is in its session, and no title edit is undone.
3. "every count once": a count of a session record that was acknowledged is in it once, one that was refused is not; an
   expiry is counted by one reaper.
4. "recorded before it is sent": every frame that an adapter was given was requested under that connection, once; what
   was told of a frame is what its records say.

    notes.rows.append(RowsTold("s1", "host", ("u1.1",), first=True))
    notes.check(environment, is_deleted, expired)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

from snapshots.environment import Environment
from snapshots.errors import SessionNotFoundError, SnapshotError
from snapshots.realtime.journal import load_progress, read_records
from snapshots.realtime.values import RealtimeRecordKind as Kind
from snapshots.realtime.values import RealtimeSessionRecord
from snapshots.records.record import SessionRecord
from snapshots.records.stored import register_of
from snapshots.runtime import RuntimeSessionStore
from snapshots.testing.simulation.operations import Told
from snapshots.usage.reading import read_rows


@dataclass(slots=True)
class RowsTold:
    """Lines that were appended together.

    Attributes:
        session_id: To whose log.
        host: By whom.
        names: Of the lines, in order.
        told: The outcome.
        at_once: Whether it was told by the first attempt.
    """

    session_id: str
    host: str
    names: tuple[str, ...]
    told: Told = ""
    at_once: bool = True


@dataclass(slots=True)
class SaveTold:
    """A message that was saved, or a title that was given; `version` is that of the metadata after an edit."""

    session_id: str
    name: str
    told: Told = ""
    version: int = 0


@dataclass(slots=True)
class DeltaTold:
    """A count that was added to a session record: the power of two with this exponent, and one round."""

    session_id: str
    exponent: int
    told: Told = ""


@dataclass(slots=True)
class FrameTold:
    """A frame, and what `send` said of it: "" for an error."""

    session_id: str
    name: str
    outcome: str = ""


@dataclass(frozen=True, slots=True)
class FrameSent:
    """A frame that an adapter was given."""

    session_id: str
    connection_id: str
    name: str


@dataclass(slots=True)
class SatelliteNotes:
    """What a run notes of satellites.

    Attributes:
        rows: Lines appended.
        saves: Messages saved.
        titles: Titles given.
        deltas: Counts added.
        reaped: Expiries that reapers were told of.
        frames: Frames that hosts sent.
        sent: What adapters were given.
        received: Frames that were handed out: session and name.
        cuts: How often an adapter lost its connection.
    """

    rows: list[RowsTold] = field(default_factory=list)
    saves: list[SaveTold] = field(default_factory=list)
    titles: list[SaveTold] = field(default_factory=list)
    deltas: list[DeltaTold] = field(default_factory=list)
    reaped: int = 0
    frames: list[FrameTold] = field(default_factory=list)
    sent: list[FrameSent] = field(default_factory=list)
    received: list[tuple[str, str]] = field(default_factory=list)
    cuts: int = 0

    def counts(self) -> Counter[str]:
        """Return how often what was told, by kind and outcome."""
        told = [("rows", one.told) for one in self.rows] + [("deltas", one.told) for one in self.deltas]
        told += [("saves", one.told) for one in self.saves] + [("titles", one.told) for one in self.titles]
        counts = Counter(f"{kind} {outcome or 'unknown'}" for kind, outcome in told)
        counts += Counter(f"frames {one.outcome or 'failed'}" for one in self.frames)
        return counts + Counter(
            {"reaped": self.reaped, "sent": len(self.sent), "received": len(self.received), "cuts": self.cuts}
        )

    def exponent_for(self, session_id: str) -> int:
        """Return an exponent that no count of a record was made with."""
        return sum(one.session_id == session_id for one in self.deltas)

    def problems(self, environment: Environment, is_deleted: Callable[[str], bool], expired: int) -> list[str]:
        """Return what is wrong in the end, as sentences.

        Args:
            environment: To look with; without faults.
            is_deleted: Says whether a session was deleted.
            expired: How many records were expired.
        """
        found: list[str] = []
        for session_id in _alive((one.session_id for one in self.rows), is_deleted):
            found += _readable("every line once", self._usage(environment, session_id))
        for session_id in _alive((one.session_id for one in [*self.saves, *self.titles]), is_deleted):
            found += _readable("no message lost", self._runtime(environment, session_id))
        for session_id in _alive((one.session_id for one in self.deltas), is_deleted):
            found += _readable("every count once", self._record(environment, session_id))
        spoken = [one.session_id for one in self.frames] + [one.session_id for one in self.sent]
        spoken += [session_id for session_id, _ in self.received]
        for session_id in _alive(spoken, is_deleted):
            found += _readable("recorded before it is sent", self._realtime(environment, session_id))
        if self.reaped > expired:
            found.append(f"every count once: reapers were told of {self.reaped} expiries, there were {expired}")
        return found

    def _usage(self, environment: Environment, session_id: str) -> Iterator[str]:
        told = [one for one in self.rows if one.session_id == session_id]
        try:
            read = [str(row.value["name"]) for row in read_rows(environment, session_id)]
        except SessionNotFoundError:
            read = []
        counts = Counter(read)
        for one in told:
            wrong = [name for name in one.names if not _is_right(counts[name], one.told)]
            if wrong:
                yield f"every line once: {wrong} of {session_id}, told {one.told or 'unknown'}, read {read}"
        for host in {one.host for one in told}:
            order = [
                name for one in told if one.host == host and one.at_once and one.told == "done" for name in one.names
            ]
            if [name for name in read if name in order] != order:
                yield f"every line once: {session_id} has the lines of {host} in the order {read}, not {order}"

    def _runtime(self, environment: Environment, session_id: str) -> Iterator[str]:
        done = [one.name for one in self.saves if (one.session_id, one.told) == (session_id, "done")]
        edits = [one for one in self.titles if one.session_id == session_id]
        known = sorted((one for one in edits if one.told == "done"), key=lambda one: one.version)
        try:
            session = RuntimeSessionStore(_Looking(environment)).load_runtime_session(session_id)
        except SessionNotFoundError:
            if done or known:
                yield f"no message lost: {session_id} is gone, with {done}"
            return
        ids = Counter(message["id"] for message in session.messages)
        wrong = [name for name in done if ids[name] != 1]
        if wrong:
            yield f"no message lost: {wrong} of {session_id}, which has {sorted(ids)}"
        unknown = [one.name for one in edits if not one.told]
        if known and session.title != known[-1].name and session.title not in unknown:
            yield f"no message lost: the title of {session_id} is {session.title!r}, not {known[-1].name!r}"
        if len({one.version for one in known}) < len(known):
            yield f"no message lost: two edits of {session_id} have one version"

    def _record(self, environment: Environment, session_id: str) -> Iterator[str]:
        told = [one for one in self.deltas if one.session_id == session_id]
        found = register_of(environment, session_id).find()
        tokens, rounds = (0, 0) if found is None else _counts(found.value.record)
        for one in told:
            if not _is_right(tokens >> one.exponent & 1, one.told):
                outcome = one.told or "unknown"
                yield f"every count once: {session_id} has {tokens:b}, 2**{one.exponent} was told {outcome}"
        if rounds != tokens.bit_count() or tokens >> len(told):
            yield f"every count once: {session_id} has {tokens:b} in {rounds} rounds"

    def _realtime(self, environment: Environment, session_id: str) -> Iterator[str]:
        try:
            progress = load_progress(environment, session_id)
        except SessionNotFoundError:
            yield from self._without_log(session_id)
            return
        log = _Log(list(read_records(environment, session_id)))
        queued = {kept.frame.frame_id.value for kept in progress.queue}
        yield from self._sent_unrecorded(session_id, log)
        for frame in (one for one in self.frames if one.session_id == session_id):
            if frame.outcome == "sent" and not log.of(Kind.INPUT_SENT, frame.name):
                yield f"recorded before it is sent: {frame.name} of {session_id} was told as sent"
            if frame.outcome == "gated" and not log.has_kept(frame.name, queued):
                yield f"recorded before it is sent: {frame.name} of {session_id} was held back, and is lost"
        for session, name in self.received:
            if session == session_id and not log.of(Kind.OUTPUT_RECEIVED, name):
                yield f"recorded before it is sent: {name} of {session_id} was handed out"

    def _without_log(self, session_id: str) -> Iterator[str]:
        told = [one.name for one in self.frames if one.session_id == session_id and one.outcome]
        sent = [one.name for one in self.sent if one.session_id == session_id]
        received = [name for session, name in self.received if session == session_id]
        if told or sent or received:
            yield f"recorded before it is sent: the log of {session_id} is gone, with {[*told, *sent, *received]}"

    def _sent_unrecorded(self, session_id: str, log: _Log) -> Iterator[str]:
        given = Counter((one.connection_id, one.name) for one in self.sent if one.session_id == session_id)
        for (connection, name), count in given.items():
            asked = [one.state.connection_id.value for one in log.of(Kind.INPUT_SEND_REQUESTED, name)]
            if count > 1 or connection not in asked:
                yield f"recorded before it is sent: {name} of {session_id} went {count} times by {connection}: {asked}"


class _Log:
    """The records of a realtime session, by what they are about."""

    def __init__(self, records: Iterable[RealtimeSessionRecord]) -> None:
        self._records: dict[tuple[Kind, str], list[RealtimeSessionRecord]] = defaultdict(list)
        for record in records:
            if record.frame_id is not None:
                self._records[record.kind, record.frame_id.value].append(record)

    def of(self, kind: Kind, name: str) -> list[RealtimeSessionRecord]:
        """Return the records of a kind about a frame."""
        return self._records.get((kind, name), [])

    def has_kept(self, name: str, queued: AbstractSet[str]) -> bool:
        """Say whether a frame that was held back is still, or its sending was requested."""
        if not self.of(Kind.BACKPRESSURE_APPLIED, name):
            return False
        return name in queued or bool(self.of(Kind.INPUT_SEND_REQUESTED, name))


@dataclass(frozen=True, slots=True)
class _Looking:
    environment: Environment


def _readable(check: str, problems: Iterator[str]) -> Iterator[str]:
    """Yield the problems; what cannot be read is one."""
    try:
        yield from problems
    except SnapshotError as error:
        yield f"{check}: {error}"


def _alive(session_ids: Iterable[str], is_deleted: Callable[[str], bool]) -> list[str]:
    return [session_id for session_id in sorted(set(session_ids)) if not is_deleted(session_id)]


def _is_right(count: int, told: Told) -> bool:
    """Say whether something may stand so often that was told so."""
    return count == 1 if told == "done" else count == 0 if told == "refused" else count <= 1


def _counts(record: SessionRecord) -> tuple[int, int]:
    return record.delta_token_count, record.round_count
