"""How a record is stored: one register of its session, and what is read back from it.

Rules:
1. The register holds all twelve fields and the status; tenant and session in them are compared with the key on every
   read, as those of the register are.
2. A field that this software does not know is of a later format: refused, never dropped.
3. A record is made only if the largest that can become of it fits its register: no step is refused for want of room.

    register = register_of(environment, "s1")
    register.update(lambda stored: stored.close(at))
"""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import Any

from snapshots import satellite
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, SessionMovedError, UnsupportedSchemaError
from snapshots.fields import SCHEMA_VERSION, U64_MAX, instant, micros
from snapshots.layout import Layout
from snapshots.records.record import SessionRecord, SessionStatus, StoredRecord
from snapshots.satellite import RING_MAX, Found, Kind, SatelliteRegister
from storage.errors import CorruptObjectError
from storage.registers import Register

NAME = "session record"
_INSTANTS = ("created_at", "activated_at", "closed_at")
_FIELDS = frozenset({*SessionRecord.model_fields, "status"})
_LAST_INSTANT = datetime.max.replace(tzinfo=UTC)
_RING_OF_ANY = ("0" * 32,) * RING_MAX  # as large as a ring can be


def register_of(environment: Environment, session_id: str) -> SatelliteRegister[StoredRecord]:
    """Return the register of a session's record. Raises InvalidKeyError for what is no id."""
    key = environment.layout.record(session_id)
    return SatelliteRegister(environment, session_id, key, _kind(environment.layout, key))


def first_record(layout: Layout, session_id: str, *, created_at: datetime, **fields: Any) -> StoredRecord:
    """Return the first record of a session, checked as far as no store is needed for it.

    Args:
        layout: Of its tenant.
        session_id: Whose.
        created_at: When.
        **fields: The others of `StoredRecord.create`.

    Raises:
        InvalidKeyError: What is no id.
        InvalidStateError: As `StoredRecord.create`.
        LimitExceededError: It would not fit its register, now or later (rule 3).
    """
    layout.record(session_id)  # what is no id is refused as such
    first = StoredRecord.create(session_id, layout.tenant, created_at=created_at, **fields)
    check_room(layout, first)
    return first


def check_room(layout: Layout, stored: StoredRecord) -> None:
    """Check that a record fits its register, now and later (rule 3). Raises LimitExceededError."""
    kind = _kind(layout, layout.record(stored.session_id))
    satellite.encode(layout.tenant, stored.session_id, kind, _largest(stored), _RING_OF_ANY)


def _largest(first: StoredRecord) -> StoredRecord:
    """Return what takes most room of all that steps can make of a record."""
    counts = {"round_count": U64_MAX, "delta_token_count": U64_MAX}
    record = first.record.model_copy(update={**dict.fromkeys(_INSTANTS, _LAST_INSTANT), **counts})
    return StoredRecord(record=record, status=SessionStatus.EXPIRED)  # none has a longer name


def read_at(environment: Environment, key: str) -> Found[StoredRecord]:
    """Return the record that lies under a key, whosever it is.

    Raises:
        SessionMovedError: It was left behind: its session was moved.
        And as `look_at`.
    """
    found = look_at(environment, key)
    if found.destination:
        raise SessionMovedError(found.value.session_id, found.destination)
    return found


def look_at(environment: Environment, key: str) -> Found[StoredRecord]:
    """Return the record that lies under a key, whosever it is, one that was left behind as well.

    Raises:
        NotFoundError: Nothing lies there any more.
        CorruptSnapshotError: It cannot be read, or was moved here from another key.
        UnsupportedSchemaError: It is of a later format.
        UnavailableError: The store did not answer.
    """
    layout = environment.layout
    try:
        object_ = Register(environment.store, key, environment.clock).read()
    except CorruptObjectError as error:
        raise CorruptSnapshotError(key, error.reason) from error
    stored = satellite.decode(object_.data, object_.version, _kind(layout, key), key=key)
    _check_place(layout, key, stored.session_id, stored.tenant)
    return stored.found


def _kind(layout: Layout, key: str) -> Kind[StoredRecord]:
    return Kind(NAME, record_to_plain, partial(_record_at, layout, key))


def _record_at(layout: Layout, key: str, plain: Any) -> StoredRecord:
    """Return the record whose plain form lies under `key` (rule 1)."""
    stored = record_from_plain(plain, key=key)
    _check_place(layout, key, stored.session_id, stored.record.tenant_id)
    return stored


def _check_place(layout: Layout, key: str, session_id: str, tenant: str) -> None:
    if tenant != layout.tenant or layout.record(session_id) != key:
        raise satellite.misplaced(key, NAME, session_id, tenant)


def record_to_plain(stored: StoredRecord) -> dict[str, Any]:
    """Return a record as plain data: instants in microseconds, the rest as it is."""
    record = stored.record
    times = {name: _micros(getattr(record, name)) for name in _INSTANTS}
    return {**record.model_dump(exclude=set(_INSTANTS)), **times, "status": stored.status.value}


def record_from_plain(plain: Any, *, key: str) -> StoredRecord:
    """Return what `record_to_plain` gave.

    Raises:
        UnsupportedSchemaError: It has a field of a later format (rule 2).
        ValueError, TypeError, OverflowError: It is no such thing.
    """
    if not isinstance(plain, dict):
        raise TypeError("not a map")
    unknown = sorted(map(str, plain.keys() - _FIELDS))
    if unknown:
        what = f"{NAME}.{unknown[0]} at {key}"
        raise UnsupportedSchemaError(what, found="an unknown field", supported=[SCHEMA_VERSION])
    missing = sorted(_FIELDS - plain.keys())
    if missing:
        raise ValueError(f"no {', '.join(missing)}")
    times = {name: None if plain[name] is None else instant(plain[name]) for name in _INSTANTS}
    fields = {**plain, **times}
    status = SessionStatus(fields.pop("status"))
    return StoredRecord(record=SessionRecord.model_validate(fields), status=status)


def _micros(at: datetime | None) -> int | None:
    return None if at is None else micros(at)
