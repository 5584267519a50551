"""The turn in flight: what an owner has done of a turn before it is committed, kept in one register of the session.

Rules:
1. A take-over moves the register to a higher fence and its own nonce, and keeps the turn. From then on nobody saves
   under an older fence: `FencedError`.
2. Every save is one compare-and-swap against the version last seen. After any other answer the register is read: our
   write id means done; another fence or nonce means fenced; still ours, the change is made anew to what was found.
3. An effect is recorded once: the same key with another content hash or result is `EffectConflictError`.
4. An effect runs before its outcome is recorded. It runs twice only if its process ends in between.
5. Finishing or abandoning a turn clears it with its checkpoint and effects; the fence stays.

    journal = take_over(environment, "s1", above=head.fence, nonce=nonce)
    journal.begin("turn-7")
    receipt = journal.perform("send-mail", hash_of_the_call, send_mail)
    journal.save_checkpoint(data)
    journal.finish()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    EffectConflictError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LimitExceededError,
    SessionDeletedError,
)
from snapshots.fields import SCHEMA_VERSION, Fields, columns, id_bytes, id_or_empty
from snapshots.head import TOMBSTONE, Head
from snapshots.operations import operation
from snapshots.stamps import TurnStamp
from storage.clock import Clock, backoff_seconds
from storage.digest import digest
from storage.errors import Applied, CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.keys import check_id
from storage.registers import REGISTER_BYTES_MAX, Register
from storage.store import Version

ATTEMPTS_MAX = 8  # of one save, against lost answers and other threads of the same owner
TURN_BYTES_MAX = REGISTER_BYTES_MAX - 64  # what is above is for a take-over, which must fit: its fence may be longer


@dataclass(frozen=True, slots=True)
class Effect:
    """The recorded outcome of an effect.

    Attributes:
        content_hash: Of the call: any text that is equal for equal calls.
        result: What the call returned.
    """

    content_hash: str
    result: bytes


@dataclass(frozen=True, slots=True)
class NotRecorded:
    """The turn in flight has recorded no such effect."""

    key: str


@dataclass(frozen=True, slots=True)
class TurnRecord:
    """What the register holds.

    Attributes:
        session_id: Full id; compared with the key on every read.
        tenant: Full tenant; compared likewise.
        write_id: New with every write, "" before the first.
        fence: Number of the last take-over.
        nonce: Of the owner who took over last, "" before the first.
        turn_id: The turn in flight, "" for none.
        checkpoint: Opaque bytes, b"" for none.
        effects: Outcomes by effect key, oldest first.
        begun_on: Revision of the head when the turn was begun; a later one with its stamp finishes it. 0 for none.
    """

    session_id: str
    tenant: str
    write_id: str = ""
    fence: int = 0
    nonce: str = ""
    turn_id: str = ""
    checkpoint: bytes = b""
    effects: Mapping[str, Effect] = field(default_factory=dict)
    begun_on: int = 0

    def encode(self, *, limit_bytes: int = REGISTER_BYTES_MAX) -> bytes:
        """Return the record's bytes. Raises LimitExceededError above `limit_bytes`, InvalidStateError for no text."""
        record = codec.encode(
            {
                "schema_version": SCHEMA_VERSION,
                "session_id": self.session_id,
                "tenant": self.tenant,
                "write_id": id_bytes(self.write_id),
                "fence": self.fence,
                "nonce": id_bytes(self.nonce),
                "turn_id": self.turn_id,
                "checkpoint": self.checkpoint,
                "checkpoint_hash": _hash(self.checkpoint),
                "begun_on": self.begun_on,
                "effects": [[key, effect.content_hash, effect.result] for key, effect in self.effects.items()],
            }
        )
        data = codec.guarded(record)
        if len(data) > limit_bytes:
            raise LimitExceededError(f"turn in flight of {limit_bytes} bytes", len(data))
        return data

    @classmethod
    def decode(cls, data: bytes, *, key: str) -> TurnRecord:
        """Return the record that `encode` wrote. Raises CorruptSnapshotError, UnsupportedSchemaError."""
        fields = Fields(codec.decode(codec.unguarded(data, key=key), key=key), key=key, record="turn in flight")
        fields.schema()
        if len(data) > REGISTER_BYTES_MAX:
            raise fields.wrong(f"has {len(data)} bytes, over {REGISTER_BYTES_MAX}")
        effects = fields.rows("effects", _effect_from_plain)
        record = cls(
            session_id=fields.parsed("session_id", check_id, fields.value("session_id")),
            tenant=fields.parsed("tenant", check_id, fields.value("tenant")),
            write_id=fields.raw("write_id", 16).hex(),
            fence=fields.integer("fence", 1),
            nonce=fields.raw("nonce", 16).hex(),
            turn_id=fields.parsed("turn_id", id_or_empty, fields.value("turn_id")),
            checkpoint=fields.raw("checkpoint"),
            effects=dict(effects),
            begun_on=fields.integer("begun_on"),
        )
        if _hash(record.checkpoint) != fields.raw("checkpoint_hash", 32):
            raise fields.wrong("has a checkpoint that is not what its hash says")
        fields.nothing_else()
        if len(record.effects) != len(effects):
            raise fields.wrong("has two effects of one key")
        if not record.turn_id and (record.checkpoint or record.effects):
            raise fields.wrong("has a checkpoint or effects of no turn")
        return record

    def without_turn(self) -> TurnRecord:
        """Return the record with nothing in flight."""
        return replace(self, turn_id="", checkpoint=b"", effects={}, begun_on=0)

    def recorded(self, key: str, effect: Effect) -> TurnRecord:
        """Return the record with one effect more; itself if it has it. Raises EffectConflictError."""
        found = self.effects.get(key, effect)
        if found != effect:
            raise EffectConflictError(self.session_id, self.turn_id, key)
        return self if key in self.effects else replace(self, effects={**self.effects, key: effect})


def _hash(checkpoint: bytes) -> bytes:
    return bytes.fromhex(digest(checkpoint).removeprefix("b3:"))


def _effect_from_plain(plain: Any) -> tuple[str, Effect]:
    key, content_hash, result = columns(plain, 3)
    if not isinstance(content_hash, str) or not isinstance(result, bytes):
        raise TypeError("not an effect")
    return check_id(key), Effect(content_hash, result)


@dataclass(frozen=True, slots=True)
class _Seen:
    """The record as last read or written; without a version it is not stored."""

    record: TurnRecord
    version: Version | None


class _TurnRegister:
    """The register of one session's turn in flight, and what was last seen in it.

    Attributes:
        environment: Where.
        session_id: Which session.
        key: Of the register.
        seen: The latest known to be stored, whoever wrote it.
    """

    def __init__(self, environment: Environment, session_id: str) -> None:
        self.environment = environment
        self.session_id = session_id
        self.key = environment.layout.turns(session_id)
        self._clock: Clock = environment.clock
        self._register = Register(environment.store, self.key, environment.clock)
        self.seen = self._read()

    @operation("save_turn", "self.environment", "self.session_id")
    def write(self, change: Callable[[_Seen], TurnRecord], *, limit_bytes: int = REGISTER_BYTES_MAX) -> None:
        """Write the changed record; made anew to what is found whenever a write was not confirmed (rule 2).

        Raises:
            UnavailableError: Nothing was confirmed; `applied` says whether it may stand, or may yet.
            Whatever `change` raises about what it was given, and LimitExceededError: nothing more was written.
        """
        written: set[str] = set()
        applied: Applied = "no"
        for attempt in range(1, ATTEMPTS_MAX + 1):
            wanted = replace(change(self.seen), write_id=self._clock.new_id())
            data = wanted.encode(limit_bytes=limit_bytes)
            try:
                version = self._register.swap_once(self.seen.version, data)
            except (PreconditionFailedError, UnavailableError) as error:
                if not isinstance(error, UnavailableError) or error.applied == "unknown":
                    applied = "unknown"
                written.add(wanted.write_id)
                if self._shows_one_of(written):
                    return
                if attempt == ATTEMPTS_MAX:
                    change(self.seen)  # a refusal that is certain by now is no doubt
                    raise UnavailableError(
                        self.key, f"no write was confirmed ({error.reason})", applied=applied
                    ) from error
            else:
                self.seen = _Seen(wanted, version)
                return
            self._clock.sleep(backoff_seconds(attempt, self._clock))
        raise AssertionError("the last attempt returns or raises")

    def _shows_one_of(self, write_ids: set[str]) -> bool:
        """Read the register; without an answer what was seen before stays, and the next write is sent against it."""
        try:
            self.seen = self._read()
        except UnavailableError:
            return False
        return self.seen.record.write_id in write_ids

    def _read(self) -> _Seen:
        tenant = self.environment.layout.tenant
        try:
            stored = self._register.read()
        except NotFoundError:
            return _Seen(TurnRecord(self.session_id, tenant), None)
        except CorruptObjectError as error:
            raise CorruptSnapshotError(self.key, error.reason) from error
        record = TurnRecord.decode(stored.data, key=self.key)
        if (record.session_id, record.tenant) != (self.session_id, tenant):
            whose = f"session {record.session_id!r} of tenant {record.tenant!r}"
            raise CorruptSnapshotError(self.key, f"this is the turn in flight of {whose}, moved here from its own key")
        return _Seen(record, stored.version)


def turn_record(environment: Environment, session_id: str) -> TurnRecord:
    """Return what the register holds, empty where there is none; the head is not looked at.

    Raises:
        CorruptSnapshotError, UnsupportedSchemaError: The record cannot be read, or is another session's.
        UnavailableError: The store did not answer.
    """
    return _TurnRegister(environment, session_id).seen.record


def take_over(environment: Environment, session_id: str, *, above: int, nonce: str) -> TurnJournal:
    """Move the register of the turn in flight to a new fence, or create it; the turn stays as it was left.

    Args:
        environment: Where.
        session_id: Which session; its head is not looked at.
        above: The new fence is higher than this and than the one found.
        nonce: 32 hex digits, fresh for every take-over.

    Returns:
        The journal to work with. Of several take-overs at the same time each has its own fence.

    Raises:
        CorruptSnapshotError, UnsupportedSchemaError: The record cannot be read, or is another session's.
        UnavailableError: Nothing was confirmed. If it was applied, the earlier owner can save no more; take over again.
    """
    register = _TurnRegister(environment, session_id)

    def taken(seen: _Seen) -> TurnRecord:
        record = seen.record
        if record.nonce == nonce and record.fence > above:
            return record
        return replace(record, fence=max(above, record.fence) + 1, nonce=nonce)

    register.write(taken)
    return TurnJournal(register)


class TurnJournal:
    """The turn in flight as its owner works with it. Safe for threads; an effect is for one thread at a time.

    Every save raises FencedError once another owner has taken over, SessionDeletedError if the session was deleted and
    collected, LimitExceededError over TURN_BYTES_MAX, and UnavailableError if nothing was confirmed: repeat it.

    Attributes:
        fence: Number of the take-over.
        nonce: Of the owner.
    """

    def __init__(self, register: _TurnRegister) -> None:
        self._register = register
        self._record = register.seen.record
        self._unrecorded: dict[tuple[str, str], Effect] = {}
        self._lock = threading.Lock()
        self._over = ""  # a turn that was committed, while the register still holds it
        self._ended = False
        self.fence = self._record.fence
        self.nonce = self._record.nonce

    @property
    def turn_id(self) -> str:
        """Return the turn in flight, "" for none."""
        return self._current.turn_id

    @property
    def begun_on(self) -> int:
        """Return the revision that the turn was begun on, 0 for none."""
        return self._current.begun_on

    @property
    def checkpoint(self) -> bytes:
        """Return the checkpoint saved last in this turn, b"" for none."""
        return self._current.checkpoint

    @property
    def effects(self) -> Mapping[str, Effect]:
        """Return the outcomes recorded in this turn, oldest first."""
        return MappingProxyType(dict(self._current.effects))

    @property
    def _current(self) -> TurnRecord:
        return self._in_flight(self._record)

    def _in_flight(self, record: TurnRecord) -> TurnRecord:
        return record.without_turn() if record.turn_id == self._over else record

    def begin(self, turn_id: str, *, on_revision: int = 0) -> None:
        """Begin a turn, or go on with it if it is the one in flight.

        Args:
            turn_id: 1–512 bytes of text, as of a `TurnStamp`.
            on_revision: Revision of the head; a later one that carries the turn's stamp finishes it.

        Raises:
            IllegalTransitionError: Another turn is unfinished; finish or abandon it first.
            InvalidKeyError, LimitExceededError: Not a turn id.
            FencedError, UnavailableError: As for every save.
        """
        TurnStamp(turn_id)

        def begun(stored: TurnRecord) -> TurnRecord:
            record = self._in_flight(stored)
            if record.turn_id == turn_id:
                return record
            if record.turn_id:
                raise IllegalTransitionError(
                    f"session {self._register.session_id!r}",
                    from_status=f"in turn {record.turn_id!r}",
                    to_status=f"in turn {turn_id!r}",
                    remedy="commit it with its stamp, or abandon it first",
                )
            return replace(record, turn_id=turn_id, begun_on=on_revision)

        self._save(begun)
        self._over = ""

    def save_checkpoint(self, data: bytes) -> None:
        """Keep `data` as the turn's checkpoint, instead of the one before.

        Raises:
            IllegalTransitionError: No turn is in flight.
            InvalidStateError: Not bytes.
            FencedError, LimitExceededError, UnavailableError: As for every save; the one before stays.
        """
        turn_id, checkpoint = self._begun("saved"), _bytes(data, "a checkpoint")
        self._save(lambda record: replace(self._still_in(turn_id, record), checkpoint=checkpoint))

    def record(self, key: str, content_hash: str, result: bytes) -> None:
        """Record the outcome of an effect. The same outcome again changes nothing.

        Args:
            key: 1–512 bytes of text, unique among the effects of the turn.
            content_hash: Of the call: any text that is equal for equal calls.
            result: What it returned.

        Raises:
            EffectConflictError: It is recorded with another content hash or result.
            IllegalTransitionError: No turn is in flight.
            InvalidKeyError, InvalidStateError: Not a key; not text or bytes.
            FencedError, LimitExceededError, UnavailableError: As for every save.
        """
        _check_effect(key, content_hash)
        turn_id, effect = self._begun("recorded"), Effect(content_hash, _bytes(result, "a result"))
        self._save(lambda record: self._still_in(turn_id, record).recorded(key, effect))

    def outcome(self, key: str, content_hash: str) -> Effect | NotRecorded:
        """Return what the turn recorded for an effect, or `NotRecorded`. Asks nobody.

        Raises:
            EffectConflictError: It was recorded for a call with another content hash.
        """
        found = self._current.effects.get(key)
        if found is None:
            return NotRecorded(key)
        self._check_same_call(key, content_hash, found)
        return found

    def perform(self, key: str, content_hash: str, function: Callable[[], bytes]) -> bytes:
        """Return the recorded result of an effect, or call `function`, record what it returns, and return that.

        What it returned is kept until it is recorded: after a save that failed, `perform` again does not call it again.

        Raises:
            EffectConflictError: It was recorded for a call with another content hash; the function was not called.
            IllegalTransitionError, InvalidKeyError: No turn is in flight, or not a key; the function was not called.
            InvalidStateError: No text as hash; or the function was called and did not return bytes.
            FencedError, LimitExceededError, UnavailableError: As for every save; the function was called.
            Whatever the function raises; then nothing is recorded.
        """
        _check_effect(key, content_hash)
        turn_id = self._begun("recorded")
        found = self.outcome(key, content_hash)
        if isinstance(found, Effect):
            return found.result
        effect = self._unrecorded.get((turn_id, key))
        if effect is None:
            effect = Effect(content_hash, _bytes(function(), "a result"))
            self._unrecorded[turn_id, key] = effect
        self._check_same_call(key, content_hash, effect)
        self._save(lambda record: self._still_in(turn_id, record).recorded(key, effect))
        self._unrecorded.pop((turn_id, key), None)
        return effect.result

    def finish(self) -> None:
        """Clear the turn with its checkpoint and effects, once it is committed. Without a turn nothing changes.

        Raises:
            FencedError, UnavailableError: As for every save.
        """
        self._clear()

    def abandon(self) -> None:
        """Give the turn up: clear it with its checkpoint and effects, though it was not committed.

        Raises:
            FencedError, UnavailableError: As for every save.
        """
        self._clear()

    def close(self) -> None:
        """Take the turn as over: it was committed. Nothing is sent; the next beginning clears the register."""
        self._over = self._record.turn_id
        self._unrecorded.clear()

    def end(self) -> None:
        """Save no more: the session was released."""
        self._ended = True

    def _clear(self) -> None:
        turn_id = self.turn_id

        def cleared(record: TurnRecord) -> TurnRecord:
            # Another turn means that ours is cleared already; without one, a beginning whose answer was lost is meant.
            return record.without_turn() if turn_id in ("", record.turn_id) else record

        self._save(cleared)
        self._unrecorded.clear()

    def _save(self, change: Callable[[TurnRecord], TurnRecord]) -> None:
        if self._ended:
            raise InvalidStateError(f"session {self._register.session_id!r} was released; acquire it again")
        with self._lock:
            self._register.write(lambda seen: change(self._ours(seen)), limit_bytes=TURN_BYTES_MAX)
            self._record = self._register.seen.record

    def _ours(self, seen: _Seen) -> TurnRecord:
        if seen.version is None:
            raise self._gone()
        record = seen.record
        if record.fence < self.fence:
            raise CorruptSnapshotError(self._register.key, f"the fence fell from {self.fence} to {record.fence}")
        if (record.fence, record.nonce) != (self.fence, self.nonce):
            raise FencedError(record.session_id, fence=record.fence, holder="")
        self._record = record
        return record

    def _gone(self) -> SessionDeletedError | CorruptSnapshotError:
        """Return why there is no register any more: only the collection of a deleted session takes it away."""
        register = self._register
        head_register = register.environment.register(register.session_id)
        try:
            head = Head.decode(head_register.read().data, key=head_register.key)
        except (NotFoundError, CorruptObjectError) as error:
            return CorruptSnapshotError(register.key, f"the turn in flight is gone, the head is unreadable ({error})")
        if head.status == TOMBSTONE:
            return SessionDeletedError(register.session_id)
        return CorruptSnapshotError(register.key, f"the turn in flight is gone while the session is {head.status}")

    def _begun(self, to_status: str) -> str:
        turn_id = self.turn_id
        if not turn_id:
            what = f"the turn of session {self._register.session_id!r}"
            raise IllegalTransitionError(what, from_status="not begun", to_status=to_status)
        return turn_id

    def _still_in(self, turn_id: str, record: TurnRecord) -> TurnRecord:
        if record.turn_id != turn_id:
            what = f"turn {turn_id!r} of session {record.session_id!r}"
            raise IllegalTransitionError(what, from_status="over", to_status="saved or recorded")
        return record

    def _check_same_call(self, key: str, content_hash: str, effect: Effect) -> None:
        if effect.content_hash != content_hash:
            raise EffectConflictError(self._register.session_id, self.turn_id, key)


def _check_effect(key: str, content_hash: str) -> None:
    check_id(key, what="effect key")
    if not isinstance(content_hash, str):
        raise InvalidStateError(f"a content hash is text, not {type(content_hash).__name__}")
    codec.encode(content_hash)  # refuses what is no UTF-8, before an effect runs whose outcome could not be recorded


def _bytes(value: object, what: str) -> bytes:
    if not isinstance(value, bytes):
        raise InvalidStateError(f"{what} is bytes, not {type(value).__name__}")
    return value
