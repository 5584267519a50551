"""Copying one register whose value is all there is: a session record, or metadata.

Rules:
1. What stands here is replaced only if it is a value that the source had before; by compare-and-swap on what was read.
2. Which that is the write ids tell (`marks`); where the source does not remember so far back, the order of the values.
3. Equal values are never a conflict, however they came about.

    copied = copy_register(RECORD_COPY, source, here, "s1", "s1")
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Generic, TypeVar

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CopyConflictError
from snapshots.layout import Layout
from snapshots.maintenance.copy.satellites.marks import made_by, mark_of, mark_of_last, standing
from snapshots.maintenance.copy.satellites.outcome import KindCopied, SatelliteKind, not_from_there, writing_here
from snapshots.records.record import SessionStatus, StoredRecord
from snapshots.records.stored import check_room
from snapshots.records.stored import register_of as record_register
from snapshots.runtime.persistence import metadata_register
from snapshots.runtime.stored import StoredMetadata
from snapshots.satellite import Found, SatelliteRegister

T = TypeVar("T")
_ORDER = {SessionStatus.CREATED: 0, SessionStatus.ACTIVE: 1, SessionStatus.CLOSED: 2, SessionStatus.EXPIRED: 2}
_GROWING = ("round_count", "delta_token_count")
_SET_ONCE = ("activated_at", "closed_at")
_FIXED = ("provider_id", "model", "created_at", "ttl_secs", "initial_token_count", "metadata")


@dataclass(frozen=True, slots=True)
class RegisterCopy(Generic[T]):
    """How registers of one kind are copied.

    Attributes:
        kind: Which.
        register: Returns that of a session.
        mapped: Returns a value with the tenant and the session that it is for. Raises LimitExceededError.
        may_follow: Says whether the second of two values can have come from the first (rule 2).
    """

    kind: SatelliteKind
    register: Callable[[Environment, str], SatelliteRegister[T]]
    mapped: Callable[[T, Layout, str], T]
    may_follow: Callable[[T, T], bool]


def record_for(stored: StoredRecord, layout: Layout, session_id: str) -> StoredRecord:
    """Return a record as that of another session. Raises LimitExceededError: it would not fit its register."""
    record = stored.record.model_copy(update={"tenant_id": layout.tenant, "session_id": session_id})
    mapped = StoredRecord(record=record, status=stored.status)
    check_room(layout, mapped)
    return mapped


def _record_may_follow(before: StoredRecord, after: StoredRecord) -> bool:
    old, new = before.record, after.record
    return (
        all(getattr(old, name) == getattr(new, name) for name in _FIXED)
        and all(getattr(old, name) <= getattr(new, name) for name in _GROWING)
        and all(getattr(old, name) in (None, getattr(new, name)) for name in _SET_ONCE)
        and (before.status is after.status or _ORDER[before.status] < _ORDER[after.status])
    )


def _metadata_may_follow(before: StoredMetadata, after: StoredMetadata) -> bool:
    old, new = before.document, after.document
    grows = old.metadata_version <= new.metadata_version and old.title_version <= new.title_version
    return grows and before.keys <= after.keys and before.fields <= after.fields


RECORD_COPY = RegisterCopy("record", record_register, record_for, _record_may_follow)
METADATA_COPY = RegisterCopy(
    "metadata", metadata_register, lambda value, _layout, _session_id: value, _metadata_may_follow
)


def copy_register(
    how: RegisterCopy[T], source: Environment, here: Environment, session_id: str, target_id: str
) -> KindCopied:
    """Copy a register, or bring its copy up to date: two GETs where nothing is new. Raises as `copy_satellites`."""
    found = how.register(source, session_id).look()
    if found is None:
        return KindCopied(how.kind, "absent")
    return _RegisterCopy(how, found, here, target_id).run()


def check_register_returns(
    how: RegisterCopy[T], source: Environment, here: Environment, session_id: str, target_id: str
) -> None:
    """Check that the source goes on from what was left behind here, if anything was. Raises CopyConflictError."""
    register = how.register(here, target_id)
    left = register.look()
    if left is None or not left.destination:
        return
    found = how.register(source, session_id).look()
    if found is None or found.destination or not _RegisterCopy(how, found, here, target_id).goes_on_from(left):
        raise not_from_there(target_id, register.kind.name, left.destination)


class _RegisterCopy(Generic[T]):
    """One call of `copy_register`."""

    def __init__(self, how: RegisterCopy[T], found: Found[T], here: Environment, target_id: str) -> None:
        self._how = how
        self._found = found
        self._register = how.register(here, target_id)
        self._value = how.mapped(found.value, here.layout, target_id)
        self._is_sent = False

    def run(self) -> KindCopied:
        made = made_by(self._found.ring)
        with writing_here(self._register.session_id, self._register.kind.name):
            stored = self._register.copy_in(self._next, (made, mark_of(made)))
            self._register.check_not_moved(stored)
        if self._is_sent:
            return KindCopied(self._how.kind, "copied", 1, len(self._plain(self._value)))
        is_ahead = standing(self._found.ring, stored.ring) == "ahead"
        return KindCopied(self._how.kind, "ahead" if is_ahead else "same")

    def goes_on_from(self, left: Found[T]) -> bool:
        """Say whether what was left behind, taken back, could be replaced. Raises CopyConflictError as well."""
        back = replace(left, ring=(*left.ring, mark_of_last(left.ring)))
        is_ahead = standing(self._found.ring, back.ring) == "ahead"
        return self._is_behind(back) or not is_ahead or self._plain(back.value) == self._plain(self._value)

    def _next(self, present: Found[T] | None) -> T:
        """Return what is to stand here (rule 1). Raises CopyConflictError."""
        if present is not None and not self._is_behind(present):
            return present.value
        self._is_sent = True
        return self._value

    def _is_behind(self, present: Found[T]) -> bool:
        place = standing(self._found.ring, present.ring)
        if place in ("same", "ahead") or self._plain(present.value) == self._plain(self._value):
            return False
        if place == "behind" or (place == "perhaps behind" and self._how.may_follow(present.value, self._value)):
            return True
        reason = "what stands here is none of what the source had before"
        raise CopyConflictError(self._register.session_id, 0, reason, what=self._register.kind.name)

    def _plain(self, value: T) -> bytes:
        return codec.encode(self._register.kind.to_plain(value))
