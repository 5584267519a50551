"""Writing a usage log: segments are uploaded, then the index that names them is swapped.

Rules:
1. A segment is published only if its upload began after the index was read at the very number that it has at the
   publish; otherwise it is uploaded again, under a new name.
2. No name is used twice: 128 random bits of the writer, and a number that only grows. A repeated upload is recognised
   by its bytes.
3. Publishing is repeatable: a name that stands in the index is not put there again, and rows that are there twice are
   read once. So it goes on until it is confirmed.

    writer = LogWriter(environment, "s1")
    known = writer.opened()
    segment = writer.upload(rows, writer.new_sequence())
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import replace

from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, LimitExceededError, SessionDeletedError
from snapshots.satellite import Found, failures_in_doubt
from snapshots.usage.index import KIND, index_register, present_index
from snapshots.usage.segments import SEGMENTS_MAX, Index, LiveSegment, SegmentFacts, seal_segment
from storage.clock import backoff_seconds
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, UnavailableError
from storage.store import Create

UPLOADS_MAX = 8  # attempts to get one segment up
ROUNDS_MAX = 8  # of attempts to swap the index, each many; ended early where the store does not answer
STAGES_MAX = 8  # how often segments are uploaded again because a collection rewrote the index


class StaleNumberError(Exception):
    """A collection rewrote the index (rule 1); caught where segments are uploaded. Remedy: upload them again."""


class LogWriter:
    """Writes one usage log. Safe for threads.

    Args:
        environment: Where.
        session_id: Of which session.
    """

    def __init__(self, environment: Environment, session_id: str) -> None:
        self.environment = environment
        self.register = index_register(environment, session_id)
        self.writer = environment.clock.new_id()
        self._sequence = 0
        self._known: Found[Index] | None = None
        self._mutex = threading.Lock()

    @property
    def session_id(self) -> str:
        """Return whose log it is."""
        return self.register.session_id

    def new_sequence(self) -> int:
        """Return a number for one segment (rule 2)."""
        with self._mutex:
            self._sequence += 1
            return self._sequence

    def opened(self) -> Found[Index]:
        """Return the index as it is known; at first read it, and make it where there is none.

        Raises:
            SessionDeletedError: The session was deleted.
            And as `SatelliteRegister.put`.
        """
        known = self._known  # read once: another thread may forget it
        if known is not None:
            return known
        fresh = Index()
        found = self.register.put(lambda present: fresh if present is None else present)
        if found.value is not fresh and self.register.is_spent():
            raise SessionDeletedError(self.session_id)
        self._known = found
        return found

    def room_for(self, segments: int) -> Found[Index]:
        """Return the index as `opened`, if it takes so many segments more.

        Raises:
            LimitExceededError: It does not.
            And as `opened`.
        """
        known = self._known
        if known is not None and not _has_room(known.value, segments):
            self.forget()  # somebody may have merged meanwhile
        known = self.opened()
        _check_room(known.value, segments)
        return known

    def present(self) -> Found[Index]:
        """Return the index as it is known; read it where it is not. Raises as `present_index`."""
        known = self._known
        if known is None:
            self._known = known = present_index(self.register)
        return known

    def forget(self) -> None:
        """Read the index anew before it is used again."""
        self._known = None

    def upload(self, rows: Sequence[bytes], sequence: int, *, level: int = 0) -> LiveSegment:
        """Upload a segment that nothing names yet.

        Raises:
            UnavailableError: It was not confirmed; nothing names it, so nothing is applied.
            CorruptSnapshotError: Something else lies under its name.
        """
        layout = self.environment.layout
        facts = SegmentFacts(layout.tenant, self.session_id, self.writer, sequence, len(rows))
        data = seal_segment(facts, rows)
        self._create(layout.usage_segment(self.session_id, facts.name), data)
        raw_bytes = sum(map(len, rows)) + len(rows)
        return LiveSegment(self.writer, sequence, len(rows), len(data), raw_bytes, level)

    def _create(self, key: str, data: bytes) -> None:
        environment, reason = self.environment, ""
        for attempt in range(1, UPLOADS_MAX + 1):
            try:
                environment.store.put(key, data, Create())
                return
            except (PreconditionFailedError, UnavailableError) as error:
                reason = error.reason
            try:
                if self._is_there(key, data):
                    return
            except UnavailableError as error:
                reason = error.reason
            environment.clock.sleep(backoff_seconds(attempt, environment.clock))
        raise UnavailableError(key, f"the segment was not stored ({reason})", applied="no")

    def _is_there(self, key: str, data: bytes) -> bool:
        try:
            found = self.environment.store.get(key).data
        except NotFoundError:
            return False
        except CorruptObjectError as error:
            raise CorruptSnapshotError(key, error.reason) from error
        if found != data:
            raise CorruptSnapshotError(key, "something else lies under the name of a new segment")
        return True

    def swap(self, change: Callable[[Index], Index], known: Found[Index]) -> Found[Index]:
        """Change the index (rule 3); afterwards it is known as it is now stored, or forgotten if it was not changed.

        Args:
            change: As for `SatelliteRegister.update`; it must be repeatable.
            known: As it was read or written last.

        Raises:
            UnavailableError: Not confirmed; `applied` says whether it may stand.
            SessionDeletedError: The session was deleted and its log collected.
            And as `SatelliteRegister.update`, and whatever `change` raises.
        """
        self.forget()
        found = self._known = self._swapped(change, known)
        return found

    def _swapped(self, change: Callable[[Index], Index], known: Found[Index]) -> Found[Index]:
        doubts: list[str] = []
        with failures_in_doubt(self.register.key, lambda: bool(doubts)):
            for _ in range(ROUNDS_MAX):
                try:
                    return self.register.update(change, known=known)
                except UnavailableError as error:
                    reason = error.reason
                    doubts += [reason] if error.applied == "unknown" else []
                present = self.register.find()
                if present is None:
                    doubts.clear()  # whatever was written is gone
                    raise self.register.gone()
                known = present
            raise UnavailableError(self.register.key, reason, applied="no")


def _has_room(index: Index, segments: int) -> bool:
    return len(index.segments) + segments <= SEGMENTS_MAX


def _check_room(index: Index, segments: int) -> None:
    if not _has_room(index, segments):
        remedy = "merge them (snapshots usage S --compact), or append to another log"
        raise LimitExceededError(f"{KIND.name} of {SEGMENTS_MAX} segments: {remedy}", len(index.segments) + segments)


def appended(index: Index, segments: Sequence[LiveSegment], number: int) -> Index:
    """Return the index with segments at its end.

    Args:
        index: As it is stored.
        segments: Uploaded together, published together.
        number: That of the index when their upload began.

    Raises:
        StaleNumberError: Rule 1.
        LimitExceededError: The log is full.
    """
    if segments[0].name in index.names:
        return index
    if index.number != number:
        raise StaleNumberError
    _check_room(index, len(segments))
    return replace(index, segments=(*index.segments, *segments))
