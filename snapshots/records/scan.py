"""`RecordListing`: all records of a tenant, read side by side, a few at a time.

Rules:
1. They come in the order of their keys; memory is bounded by how many are read side by side, not by how many there are.
2. A record that cannot be read hides no other: it is counted, and named in `damaged`. One whose session was moved to
   another store is named in `moved`.
3. Complete for what existed before the listing began and still does. One that failed never looks complete: it raises
   that again, and says after which key to go on.

    listing = SessionRecords(repo).list(status=SessionStatus.ACTIVE)
    for stored in listing: ...
    listing.read, listing.damaged, listing.next_after
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidStateError,
    LimitExceededError,
    SessionMovedError,
    UnsupportedSchemaError,
)
from snapshots.operations import yielding_operation
from snapshots.records.record import StoredRecord
from snapshots.records.stored import read_at
from snapshots.satellite import Found
from snapshots.sessions import Unforgetting
from storage.errors import NotFoundError

SIDE_BY_SIDE = 64  # records read at once; bounds memory, not the result
DAMAGED_NAMED_MAX = 1_000  # of one listing; the others are only counted
MOVED_NAMED_MAX = 1_000  # likewise


@dataclass(frozen=True, slots=True)
class DamagedRecord:
    """A record that cannot be read: altered, misplaced, or of a later format. For a reap also one that has no room.

    Attributes:
        key: Under which it lies.
        reason: Why not.
    """

    key: str
    reason: str


@dataclass(frozen=True, slots=True)
class MovedRecord:
    """A record that was left behind.

    Attributes:
        session_id: Whose.
        destination: Where it is now.
    """

    session_id: str
    destination: str


@dataclass(frozen=True, slots=True)
class ScannedRecord:
    """A record that was read; `found` saves a read to whoever changes it."""

    key: str
    found: Found[StoredRecord]


class Scan:
    """Groups of records, read one group after the other.

    Args:
        environment: Where.
        start_after: Key after which to begin, "" for the first.
        count_max: How many records to ask for at most, None for all.

    Attributes:
        read: How many were read, damaged ones included, and those that were left behind.
        damaged: The first DAMAGED_NAMED_MAX that could not be read.
        damaged_count: How many could not.
        moved: The first MOVED_NAMED_MAX that were left behind.
        moved_count: How many were.
        next_after: Key after which to go on; "" once all were read.

    Raises:
        InvalidStateError: `start_after` is no key among this tenant's records, or `count_max` is not above 0.
    """

    def __init__(self, environment: Environment, *, start_after: str = "", count_max: int | None = None) -> None:
        records = environment.layout.records
        if not isinstance(start_after, str) or not (start_after == "" or start_after.startswith(records)):
            raise InvalidStateError(
                f"{start_after!r:.200} is no key among the records of tenant {environment.layout.tenant!r}; "
                "give what an earlier run named, or begin at the first"
            )
        if count_max is not None and (type(count_max) is not int or count_max < 1):
            raise InvalidStateError(f"a limit of {count_max!r:.80} records lets nothing be done; give 1 or more")
        self.read = self.damaged_count = self.moved_count = 0
        self.damaged: list[DamagedRecord] = []
        self.moved: list[MovedRecord] = []
        self.next_after = start_after
        self._environment = environment
        self._count_max = count_max
        self._asked = 0  # those that were gone by then are not `read`, but they cost a request

    def groups(self) -> Iterator[list[ScannedRecord]]:
        """Yield the records that could be read, in groups; once.

        `next_after` is then behind the group that came last: whoever goes on from there misses nothing.

        Raises:
            UnavailableError, PermissionDeniedError: The store did not answer, or refused us.
        """
        environment = self._environment
        rows = environment.store.list(environment.layout.records, start_after=self.next_after)
        while keys := [row.key for row in islice(rows, self._group_size())]:
            group = [one for one in environment.executor.map(partial(_look, environment), keys) if one is not None]
            self._asked += len(keys)
            self.read += len(group)
            good = [one for one in group if isinstance(one, ScannedRecord)]
            for one in group:
                if isinstance(one, DamagedRecord):
                    self.add_damaged(one)
                elif isinstance(one, MovedRecord):
                    self._add_moved(one)
            self.next_after = keys[-1]
            yield good
        if next(rows, None) is None:
            self.next_after = ""

    def add_damaged(self, one: DamagedRecord) -> None:
        """Count a record that cannot be read, and name it if there is room."""
        self.damaged_count += 1
        if len(self.damaged) < DAMAGED_NAMED_MAX:
            self.damaged.append(one)

    def _add_moved(self, one: MovedRecord) -> None:
        self.moved_count += 1
        if len(self.moved) < MOVED_NAMED_MAX:
            self.moved.append(one)

    def _group_size(self) -> int:
        return SIDE_BY_SIDE if self._count_max is None else min(SIDE_BY_SIDE, self._count_max - self._asked)


def _look(environment: Environment, key: str) -> ScannedRecord | DamagedRecord | MovedRecord | None:
    """Return what lies under a key that was listed, None if it was taken away since."""
    try:
        return ScannedRecord(key, read_at(environment, key))
    except NotFoundError:
        return None
    except SessionMovedError as error:
        return MovedRecord(error.session_id, error.destination)
    except (CorruptSnapshotError, UnsupportedSchemaError) as error:
        return DamagedRecord(key, reason_of(error))


def reason_of(error: CorruptSnapshotError | UnsupportedSchemaError | LimitExceededError) -> str:
    """Return what is wrong, without the key."""
    return error.reason if isinstance(error, CorruptSnapshotError) else str(error)


class RecordListing(Iterator[StoredRecord]):
    """The records that somebody asked for, as they are read. Goes through once; a failure is raised again.

    Attributes:
        next_after: Key after which to go on: that of the last record that came; "" before the first of all, and once
            all were read.

    Args:
        scan: What reads them.
        wanted: Says which are asked for.
    """

    def __init__(self, scan: Scan, wanted: Callable[[StoredRecord], bool]) -> None:
        self._scan = scan
        self._wanted = wanted
        self._records = Unforgetting(self._chosen())
        self.next_after = scan.next_after

    @property
    def read(self) -> int:
        """Return how many records were read so far, wanted or not, damaged ones included, and those left behind."""
        return self._scan.read

    @property
    def damaged(self) -> tuple[DamagedRecord, ...]:
        """Return the records so far that could not be read, the first DAMAGED_NAMED_MAX of them."""
        return tuple(self._scan.damaged)

    @property
    def damaged_count(self) -> int:
        """Return how many records so far could not be read."""
        return self._scan.damaged_count

    @property
    def moved(self) -> tuple[MovedRecord, ...]:
        """Return the records so far whose sessions were moved, the first MOVED_NAMED_MAX of them."""
        return tuple(self._scan.moved)

    @property
    def moved_count(self) -> int:
        """Return how many records so far were left behind."""
        return self._scan.moved_count

    def __next__(self) -> StoredRecord:
        return next(self._records)

    @yielding_operation("records.list", "self._scan._environment")
    def _chosen(self) -> Iterator[StoredRecord]:
        for group in self._scan.groups():
            for one in group:
                self.next_after = one.key
                if self._wanted(one.found.value):
                    yield one.found.value
            self.next_after = self._scan.next_after
        self.next_after = self._scan.next_after
