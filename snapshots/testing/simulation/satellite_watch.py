"""`SatelliteWatch`: looks at everything that is written or deleted beside heads and packs, and notes what is wrong.

Rules (each a named check):
1. "nothing dangles": every segment that an index of a usage log names is there.
2. "a record's life": each session record follows from the one before by one step; counts never fall, an end is final.
3. "one order": realtime records are created one behind the other, each one that may follow, and never written twice;
   checkpoints and metadata versions never fall.
4. "satellites stay": what belongs to a session that was not deleted is not deleted, but for superseded segments.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from snapshots import satellite
from snapshots.errors import SnapshotError
from snapshots.layout import Layout
from snapshots.realtime import stored as realtime
from snapshots.realtime.journal import CHECKPOINTS
from snapshots.realtime.progress import RealtimeProgress
from snapshots.realtime.values import RealtimeSessionRecord
from snapshots.records.record import STEPS, SessionStatus, StoredRecord
from snapshots.records.stored import NAME, record_from_plain, record_to_plain
from snapshots.runtime.persistence import METADATA
from snapshots.usage.index import KIND as USAGE
from storage.store import ObjectStore, Version

_NO_VERSION = Version("")


class SatelliteWatch:
    """What is known of the satellites of one tenant.

    Args:
        layout: The keys.
        wrong: Where what is wrong is noted.
        is_deleted: Says whether the session of a key was deleted.

    Attributes:
        expired: How many session records were expired.
        superseded: How many segments of usage logs were deleted that their index no longer named.
    """

    def __init__(self, layout: Layout, wrong: list[str], is_deleted: Callable[[str], bool]) -> None:
        self.expired = self.superseded = 0
        self._layout = layout
        self._wrong = wrong
        self._is_deleted = is_deleted
        self._bytes: dict[str, bytes] = {}
        self._named: dict[str, frozenset[str]] = {}  # what each usage index names
        self._progress: dict[str, RealtimeProgress] = {}  # what each realtime log has come to

    def begin_with(self, store: ObjectStore) -> None:
        """Take records and metadata that are there for right; look at usage logs and realtime logs."""
        self._bytes = self._found_in(store)
        for key, data in self._bytes.items():
            if self._kind_of(key) in ("usage", "realtime"):
                self._look(key, data, None)

    def _kind_of(self, key: str) -> str:
        return key.removeprefix(self._layout.everything).partition("/")[0]

    def _found_in(self, store: ObjectStore) -> dict[str, bytes]:
        return {row.key: store.get(row.key).data for prefix in self._layout.satellites for row in store.list(prefix)}

    def _is_index(self, key: str) -> bool:
        log = self._layout.usage_log_of(key)
        return bool(log) and key == self._layout.usage_index_in(log)

    def has(self, key: str) -> bool:
        """Say whether a key is a satellite's."""
        return key.startswith(self._layout.satellites)

    def moved_to(self, store: ObjectStore) -> None:
        """Go on with what a power cut left, and compare it with what was seen."""
        found = self._found_in(store)
        self._wrong += [f"satellites stay: {key} is gone" for key in self._bytes if self._is_missed(key, found)]
        before, self._bytes = self._bytes, found
        for key, data in found.items():
            if before.get(key) != data:
                self._look(key, data, before.get(key))
        for key, named in self._named.items():
            self._check_there(key, named)

    def _is_missed(self, key: str, found: dict[str, bytes]) -> bool:
        return key not in found and not self._is_deleted(key) and not self._is_superseded(key)

    def put(self, key: str, data: bytes) -> None:
        """Look at what was written."""
        before = self._bytes.get(key)
        self._bytes[key] = data
        self._look(key, data, before)

    def deleted(self, key: str) -> None:
        """Look at what was deleted."""
        self._bytes.pop(key, None)
        index = self._layout.usage_index_in(self._layout.usage_log_of(key)) if self._layout.usage_log_of(key) else ""
        if self._is_deleted(key):
            self._named.pop(key, None)
        elif key in self._named.get(index, ()):
            self._wrong.append(f"nothing dangles: {key} was deleted, and {index} names it")
        elif self._is_superseded(key):
            self.superseded += 1
        else:
            self._wrong.append(f"satellites stay: {key} was deleted, its session was not")

    def _is_superseded(self, key: str) -> bool:
        """Say whether it is a segment, which only its index protects."""
        log = self._layout.usage_log_of(key)
        return bool(log) and not self._is_index(key) and key not in self._names_of(log)

    def _names_of(self, log: str) -> frozenset[str]:
        return self._named.get(self._layout.usage_index_in(log), frozenset())

    def _look(self, key: str, data: bytes, before: bytes | None) -> None:
        layout, kind = self._layout, self._kind_of(key)
        log = layout.usage_log_of(key)
        problem = ""
        if kind == "records":
            problem = self._record_after(key, data, before)
        elif kind == "metadata":
            problem = _not_below(METADATA, "metadata_version", key, data, before)
        elif kind == "realtime":
            problem = self._realtime_after(key, data, before)
        elif self._is_index(key):
            names = satellite.decode(data, _NO_VERSION, USAGE, key=key).found.value.names
            self._named[key] = frozenset(f"{log}{name}" for name in names)
            self._check_there(key, self._named[key])
        elif log and before is not None:
            problem = f"one order: the segment {key} was written twice"
        if problem:
            self._wrong.append(problem)

    def _check_there(self, key: str, named: frozenset[str]) -> None:
        lost = sorted(named - self._bytes.keys())
        if lost:
            self._wrong.append(f"nothing dangles: {key} names {lost}, which is not there")

    def _record_after(self, key: str, data: bytes, before: bytes | None) -> str:
        new = _record(key, data)
        if before is None:
            return "" if new.status is SessionStatus.CREATED else f"a record's life: {key} began as {new.status}"
        self.expired += new.status is SessionStatus.EXPIRED
        return _wrong_step(key, _record(key, before), new)

    def _realtime_after(self, key: str, data: bytes, before: bytes | None) -> str:
        log, _, name = key.rpartition("/")
        if name == "state":
            return _not_below(CHECKPOINTS, "sequence", key, data, before)
        if before is not None:
            return f"one order: the realtime record {key} was written twice"
        earlier = f"{log}/{int(name) - 1:0{len(name)}d}"
        if int(name) > 1 and earlier not in self._bytes:
            return f"one order: {key} was written, and {earlier} is not there"
        stored = realtime.decode(data, key=key)
        if key != self._layout.realtime_record(stored.session_id, stored.record.sequence):
            return f"one order: {key} holds record {stored.record.sequence} of {stored.session_id}"
        try:
            self._progress[log] = self._progress.get(log, _before(stored.record)).after(stored.record)
        except SnapshotError as error:
            return f"one order: {key} may not follow: {error}"
        return ""


def _before(first: RealtimeSessionRecord) -> RealtimeProgress:
    """Return what a realtime log has come to before its first record."""
    return RealtimeProgress(first.state.session_id.value, 0, first.state, first.recorded_at)


def _record(key: str, data: bytes) -> StoredRecord:
    kind = satellite.Kind(NAME, record_to_plain, partial(record_from_plain, key=key))
    return satellite.decode(data, _NO_VERSION, kind, key=key).found.value


def _not_below(kind: satellite.Kind[Any], name: str, key: str, data: bytes, before: bytes | None) -> str:
    if before is None:
        return ""
    old, new = (getattr(satellite.decode(one, _NO_VERSION, kind, key=key).found.value, name) for one in (before, data))
    return f"one order: the {name} of {key} fell from {old} to {new}" if new < old else ""


def _wrong_step(key: str, old: StoredRecord, new: StoredRecord) -> str:
    if not any(old.status in allowed and new.status is to for allowed, to in STEPS.values()):
        return f"a record's life: {key} was {old.status} and is {new.status}"
    fell = [
        name for name in ("round_count", "delta_token_count") if getattr(new.record, name) < getattr(old.record, name)
    ]
    return f"a record's life: the {fell[0]} of {key} fell" if fell else ""
