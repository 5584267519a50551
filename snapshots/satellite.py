"""`SatelliteRegister`: what a session has beside its head in one register of its own – record, metadata, index, state.

Rules:
1. Full session id and tenant stand in the register and are compared on every read: what was moved here is corruption.
2. Every change is one compare-and-swap, decided anew from what was read, again and again until it is in.
3. A change is applied once: the register remembers the last RING_MAX write ids, so that a lost answer under others'
   later writes is recognised. Where that does not reach back far enough, nobody says "not applied".
4. A register is made only for an id that is not spent: before it is created the head is asked.
5. A value that was read earlier saves a read where a change is sent; whether to change at all is decided by what is
   stored.
6. A session that is moved to another store leaves its registers behind as they were, and where it went: nobody changes
   them any more, whoever asks is told where to go, and only a copy reads what they held.

    register = SatelliteRegister(environment, "s1", environment.layout.record("s1"), RECORDS)
    written = register.update(lambda record: replace(record, round_count=record.round_count + 1))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidStateError,
    LimitExceededError,
    SessionDeletedError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    SnapshotError,
    UnsupportedSchemaError,
)
from snapshots.fields import SCHEMA_VERSION, Fields, id_bytes, id_text
from snapshots.head import MOVED, TOMBSTONE
from snapshots.reading import read_head
from storage.clock import backoff_seconds
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, StorageError, UnavailableError
from storage.keys import check_id
from storage.registers import REGISTER_BYTES_MAX, Register
from storage.store import Version

T = TypeVar("T")
ATTEMPTS_MAX = 32  # of one change: enough for eight writers on one register, each losing to each other a few times
RING_MAX = 32  # write ids that a register remembers, 512 bytes
MOVED_KIND = "moved"
MOVED_VERSION = 2  # of the schema: software that knows only the first must not take it for damage, or for nothing
DESTINATION_BYTES_MAX = 1024  # a URL


@dataclass(frozen=True, slots=True)
class Kind(Generic[T]):
    """What a register holds.

    Attributes:
        name: For people, in errors: "session record".
        to_plain: A value as plain data (`snapshots.codec`).
        from_plain: And back; what it trips over (ValueError, TypeError, KeyError) is corruption.
        bytes_max: How large the register may be.
    """

    name: str
    to_plain: Callable[[T], Any]
    from_plain: Callable[[Any], T]
    bytes_max: int = REGISTER_BYTES_MAX


@dataclass(frozen=True, slots=True)
class Found(Generic[T]):
    """A value as it is stored.

    Attributes:
        value: It.
        version: Of the register.
        ring: The last write ids, newest last.
        destination: Where its session was moved, "" if it is here. Then the others are those that it had before.
    """

    value: T
    version: Version
    ring: tuple[str, ...]
    destination: str = ""


class SatelliteRegister(Generic[T]):
    """One register of one session. Safe for threads; holds nothing.

    Args:
        environment: Where.
        session_id: Of which session.
        key: Of the register.
        kind: What it holds.
    """

    def __init__(self, environment: Environment, session_id: str, key: str, kind: Kind[T]) -> None:
        self.session_id = check_id(session_id, what="session id")
        self.key = key
        self._environment = environment
        self.kind = kind
        self._register = Register(environment.store, key, environment.clock)

    def read(self) -> Found[T]:
        """Return what is stored.

        Raises:
            SessionNotFoundError: Nothing is. Whether the session was deleted is not asked.
            SessionMovedError: Its session was moved (rule 6).
            CorruptSnapshotError: It cannot be read, or belongs to another session or tenant.
            UnsupportedSchemaError: It is of a later format.
            UnavailableError: The store did not answer.
        """
        found = self.find()
        if found is None:
            raise SessionNotFoundError(self.session_id, what=self.kind.name)
        return found

    def find(self) -> Found[T] | None:
        """Return what is stored, None for nothing. Raises as `read`."""
        found = self.look()
        if found is not None:
            self.check_not_moved(found)
        return found

    def check_not_moved(self, found: Found[T]) -> None:
        """Raise SessionMovedError for what was left behind (rule 6)."""
        if found.destination:
            raise SessionMovedError(self.session_id, found.destination)

    def look(self) -> Found[T] | None:
        """Return what is stored, what was left behind as well (rule 6); None for nothing. Else raises as `read`."""
        try:
            stored = self._register.read()
        except NotFoundError:
            return None
        except CorruptObjectError as error:
            raise CorruptSnapshotError(self.key, error.reason) from error
        found = decode(stored.data, stored.version, self.kind, key=self.key)
        whose = (found.session_id, found.tenant)
        if whose != (self.session_id, self._environment.layout.tenant):
            raise misplaced(self.key, self.kind.name, *whose)
        return found.found

    def create(self, value: T) -> Found[T]:
        """Store the first value.

        Raises:
            SessionExistsError: There is one already; nothing was written. The session itself need not exist.
            SessionDeletedError, SessionMovedError: The id is spent, or the session lives elsewhere.
            And as `update`.
        """

        def first(present: T | None) -> T:
            if present is not None:
                raise SessionExistsError(self.session_id, what=self.kind.name)
            return value

        return self.put(first)

    def update(self, change: Callable[[T], T], *, known: Found[T] | None = None) -> Found[T]:
        """Change what is stored, and return it as it is now stored.

        Args:
            change: Returns the new value, or the very one it was given if there is nothing to do. It may be called
                several times and must decide by what it is given alone; it may raise to refuse.
            known: What was read or written last, if it is known: saves a read.

        Raises:
            SessionNotFoundError, SessionDeletedError, SessionMovedError: Nothing is stored.
            LimitExceededError: It would be too large; nothing was written.
            UnavailableError: Nothing was confirmed; `applied` says whether it may stand.
            And as `read`, and whatever `change` raises: then nothing was written.
        """

        def changed(present: T | None) -> T:
            if present is None:
                raise self._missing()
            return change(present)

        return self.put(changed, known=known)

    def put(self, change: Callable[[T | None], T], *, known: Found[T] | None = None) -> Found[T]:
        """As `update`, for a change that is given None where nothing is stored, and makes the first value then."""
        write_ids = (self.new_write_id(),)
        return _Change(self, lambda found: change(None if found is None else found.value), known, write_ids).run()

    def copy_in(self, change: Callable[[Found[T] | None], T], write_ids: Sequence[str]) -> Found[T]:
        """As `put`, for a value that comes from another register.

        Args:
            change: As for `put`, but given what is stored with the ids of the writes behind it. Not asked where the
                last of `write_ids` stands among these: it was copied.
            write_ids: Which the register remembers from then on, in the place of a fresh one; oldest first.
        """
        return _Change(self, change, None, tuple(write_ids)).run()

    def retire(self, destination: str, check: Callable[[T], None]) -> Found[T] | None:
        """Leave the register behind (rule 6), None if there is none; again, to the same destination, does nothing.

        Args:
            destination: Where the session goes, 1 to DESTINATION_BYTES_MAX bytes.
            check: Given what is stored; raises to refuse. It may be called several times.

        Raises:
            SessionMovedError: It was moved to another destination.
            InvalidStateError, LimitExceededError: That is no destination, or there is no room for it.
            UnavailableError: Not confirmed; repeat it.
            And as `read`, and whatever `check` raises: then nothing was written.
        """
        if not 0 < len(destination.encode()) <= DESTINATION_BYTES_MAX:
            raise InvalidStateError(f"a destination has 1 to {DESTINATION_BYTES_MAX} bytes: {destination!r:.80}")
        for attempt in range(1, ATTEMPTS_MAX + 1):
            found = self.look()
            if found is None:
                return None
            if found.destination:
                if found.destination != destination:
                    raise SessionMovedError(self.session_id, found.destination)
                return found
            check(found.value)
            left = replace(found, destination=destination)
            data = encode_moved(self._environment.layout.tenant, self.session_id, self.kind, left, self.new_write_id())
            try:
                return replace(left, version=self._register.compare_and_swap(found.version, data))
            except PreconditionFailedError:
                self.wait(attempt)
        raise UnavailableError(self.key, "others kept writing it", applied="no")

    def take_back(self, mark: Callable[[tuple[str, ...]], str]) -> None:
        """Let a register that was left behind be written here again, with what it had then; nothing where it was not.

        Args:
            mark: Gives the write id of this write, from those that the register had.

        Raises:
            UnavailableError: Not confirmed; repeat it.
            And as `read`.
        """
        for attempt in range(1, ATTEMPTS_MAX + 1):
            found = self.look()
            if found is None or not found.destination:
                return
            ring = (*found.ring, mark(found.ring))[-RING_MAX:]
            data = encode(self._environment.layout.tenant, self.session_id, self.kind, found.value, ring)
            try:
                self._register.compare_and_swap(found.version, data)
                return
            except PreconditionFailedError:
                self.wait(attempt)
        raise UnavailableError(self.key, "others kept writing it", applied="no")

    def _missing(self) -> SessionNotFoundError:
        self.check_not_over()
        return SessionNotFoundError(self.session_id, what=self.kind.name)

    def check_not_over(self) -> None:
        """Raise SessionDeletedError or SessionMovedError if the session is no longer here: one read of its head."""
        head = read_head(self._environment, self.session_id)
        if head is not None and head.head.status == MOVED:
            raise SessionMovedError(self.session_id, head.head.destination)
        if head is not None and head.head.status == TOMBSTONE:
            raise SessionDeletedError(self.session_id)

    def gone(self) -> SessionDeletedError | CorruptSnapshotError:
        """Return why there is no register any more: only the collection of a deleted session takes it away."""
        if self.is_spent():
            return SessionDeletedError(self.session_id)
        return CorruptSnapshotError(self.key, f"the {self.kind.name} is gone while the session is not deleted")

    def is_spent(self) -> bool:
        """Say whether the session was deleted: one read of its head."""
        head = read_head(self._environment, self.session_id)
        return head is not None and head.head.status == TOMBSTONE

    # One write, for `_Change`.

    def new_write_id(self) -> str:
        """Return an id that marks the writes of one change."""
        return self._environment.clock.new_id()

    def wait(self, attempt: int) -> None:
        """Wait a little before another attempt."""
        clock = self._environment.clock
        clock.sleep(backoff_seconds(attempt, clock))

    def swap(self, before: Found[T] | None, value: T, write_ids: tuple[str, ...]) -> Found[T]:
        """Send one conditional PUT. Raises as `Register.swap_once`, and LimitExceededError."""
        ring = (*(() if before is None else before.ring), *write_ids)[-RING_MAX:]
        data = encode(self._environment.layout.tenant, self.session_id, self.kind, value, ring)
        return Found(value, self._register.swap_once(None if before is None else before.version, data), ring)


class _Change(Generic[T]):
    """One change on its way. All its attempts carry the same write ids: at most one of them can be applied."""

    def __init__(
        self,
        register: SatelliteRegister[T],
        change: Callable[[Found[T] | None], T],
        known: Found[T] | None,
        write_ids: tuple[str, ...],
    ) -> None:
        self._register = register
        self._change = change
        self._write_ids = write_ids
        self._known = known
        self._seen = known is not None  # whether there was a register
        self._doubts: list[Found[T] | None] = []  # what attempts of unknown outcome were based on
        self._reason = "others kept writing it"

    def run(self) -> Found[T]:
        with failures_in_doubt(self._register.key, lambda: bool(self._doubts)):
            for attempt in range(1, ATTEMPTS_MAX + 1):
                done = self._tried() or self._settled()
                if done is not None:
                    return done
                self._register.wait(attempt)
            raise UnavailableError(self._register.key, self._reason, applied="no")

    def _tried(self) -> Found[T] | None:
        """Send the change unless it has landed; return what is stored then, None if that has to be found out."""
        try:
            present = self._present() if self._known is None or self._is_no_ground(self._known) else self._known
        except UnavailableError as error:
            self._reason = error.reason
            return None
        self._known = None
        return present if self._has_landed(present) else self._sent(present)

    def _is_no_ground(self, known: Found[T]) -> bool:
        """Say whether what was known would end the change: that is for what is stored to decide (rule 5)."""
        try:
            return self._change(known) is known.value
        except Exception:  # noqa: BLE001  whatever it refuses with, it is asked again with what is stored
            return True

    def _settled(self) -> Found[T] | None:
        """Look at once what came of a write: while we wait, others may write more often than the ring is long."""
        if not self._doubts:
            return None
        try:
            present = self._present()
        except UnavailableError as error:
            self._reason = error.reason
            return None
        return present if self._has_landed(present) else None

    def _present(self) -> Found[T] | None:
        """Read what is stored."""
        present = self._register.look()
        if present is None and self._seen:
            self._doubts.clear()  # whatever was written is gone
            raise self._register.gone()
        self._seen = present is not None
        return present

    def _has_landed(self, present: Found[T] | None) -> bool:
        """Say whether this change is in what is stored (rule 3); forget attempts that can no longer be applied."""
        if present is None:
            self._doubts = [base for base in self._doubts if base is None]
            return False
        if self._write_ids[-1] in present.ring:
            return True
        if not all(_reaches_back(present, base) for base in self._doubts):
            reason = "too many others wrote meanwhile; read it before deciding"
            raise UnavailableError(self._register.key, reason, applied="unknown")
        self._doubts = [base for base in self._doubts if base is not None and base.version == present.version]
        return False

    def _sent(self, present: Found[T] | None) -> Found[T] | None:
        """Send the change; return what is stored then, None if that has to be found out."""
        if present is not None:
            self._register.check_not_moved(present)  # after it was looked for: what landed before moves along
        value = self._change(present)
        if present is not None and value is present.value:
            return present
        if present is None:
            self._register.check_not_over()  # Rule 4.
        try:
            return self._register.swap(present, value, self._write_ids)
        except PreconditionFailedError:
            self._doubts.append(present)  # it may be a second delivery of our own write that was refused
        except UnavailableError as error:
            self._reason = error.reason
            if error.applied == "unknown":
                self._doubts.append(present)
        return None


def _reaches_back(present: Found[T], base: Found[T] | None) -> bool:
    """Say whether the write ids of `present` include all that were written after `base`."""
    return len(present.ring) < RING_MAX if base is None else base.ring[-1] in present.ring


@contextmanager
def failures_in_doubt(key: str, is_in_doubt: Callable[[], bool]) -> Iterator[None]:
    """Let no failure within the block say that nothing was written, while an earlier write may stand or come yet.

    Raises:
        UnavailableError: Anything failed while `is_in_doubt()`; `applied` is "unknown". That a session was deleted
            passes: then nothing of it stands.
    """
    try:
        yield
    except SessionDeletedError:
        raise
    except (SnapshotError, StorageError) as error:
        if not is_in_doubt():
            raise
        reason = error.reason if isinstance(error, UnavailableError) else str(error)
        raise UnavailableError(key, reason, applied="unknown") from error


@dataclass(frozen=True, slots=True)
class Stored(Generic[T]):
    """A decoded register, and whose it says it is."""

    tenant: str
    session_id: str
    found: Found[T]


def encode(tenant: str, session_id: str, kind: Kind[T], value: T, ring: tuple[str, ...]) -> bytes:
    """Return a register's bytes. Raises LimitExceededError, InvalidStateError for what is not plain."""
    return _sealed(
        {
            "schema_version": SCHEMA_VERSION,
            "kind": kind.name,
            "tenant": tenant,
            "session_id": session_id,
            "write_ids": list(map(id_bytes, ring)),
            "value": kind.to_plain(value),
        },
        kind.name,
        kind.bytes_max,
    )


def encode_moved(tenant: str, session_id: str, kind: Kind[T], left: Found[T], write_id: str) -> bytes:
    """Return the bytes of a register that was left behind (rule 6). Raises LimitExceededError."""
    former = {
        "destination": left.destination,
        "kind": kind.name,
        "write_ids": list(map(id_bytes, left.ring)),
        "value": kind.to_plain(left.value),
    }
    return _sealed(
        {
            "schema_version": MOVED_VERSION,
            "kind": MOVED_KIND,
            "tenant": tenant,
            "session_id": session_id,
            "write_ids": [id_bytes(write_id)],
            "value": former,
        },
        f"{kind.name} that says where its session moved,",
        REGISTER_BYTES_MAX,
    )


def _sealed(plain: dict[str, Any], name: str, bytes_max: int) -> bytes:
    data = codec.guarded(codec.encode(plain))
    if len(data) > bytes_max:
        raise LimitExceededError(f"{name} of {bytes_max} bytes", len(data))
    return data


def decode(data: bytes, version: Version, kind: Kind[T], *, key: str) -> Stored[T]:
    """Return what `encode` or `encode_moved` wrote. Raises CorruptSnapshotError, UnsupportedSchemaError."""
    fields = Fields(codec.decode(codec.unguarded(data, key=key), key=key), key=key, record=kind.name)
    former, destination = fields, ""
    if fields.schema((SCHEMA_VERSION, MOVED_VERSION)) == MOVED_VERSION:
        if fields.text("kind") != MOVED_KIND:
            what = f"{kind.name} at {key}"
            raise UnsupportedSchemaError(what, found=MOVED_VERSION, supported=[SCHEMA_VERSION])
        fields.rows("write_ids", id_text, 1)
        former = Fields(fields.value("value"), key=key, record=f"{kind.name} that was left behind")
        destination = former.text("destination")
        if not destination:
            raise former.wrong("does not say where its session moved")
    if former.text("kind") != kind.name:
        raise fields.wrong(f"is a {former.text('kind')!r:.80}, moved here from its own key")
    ring = former.rows("write_ids", id_text, RING_MAX)
    if not ring:
        raise fields.wrong("has no write id")
    value = former.parsed("value", kind.from_plain, former.value("value"))
    stored = Stored(
        tenant=fields.parsed("tenant", check_id, fields.value("tenant")),
        session_id=fields.parsed("session_id", check_id, fields.value("session_id")),
        found=Found(value, version, ring, destination),
    )
    for one in (former, fields):
        one.nothing_else()
    return stored


def misplaced(key: str, name: str, session_id: str, tenant: str) -> CorruptSnapshotError:
    """Return the error for a record that lies under another session's or tenant's key."""
    whose = f"session {session_id!r} of tenant {tenant!r}"
    return CorruptSnapshotError(key, f"this is the {name} of {whose}, moved here from its own key")
