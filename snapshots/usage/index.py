"""Where the index of a usage log is, and all usage logs of a tenant.

Rules:
1. The index exists before any segment is uploaded; a log without one was damaged, or goes with its deleted session.
2. An index says whose it is; one that lies under another key is corruption.

    found = present_index(index_register(environment, "s1"))
    for log in for_each_log(environment, lambda log: log): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from typing import TypeVar

from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, SessionDeletedError, SessionMovedError, SessionNotFoundError
from snapshots.head import TOMBSTONE
from snapshots.operations import yielding_operation
from snapshots.reading import head_at
from snapshots.satellite import Found, Kind, SatelliteRegister, decode, misplaced
from snapshots.usage.segments import Index, index_from_plain, index_to_plain
from storage.errors import CorruptObjectError, NotFoundError
from storage.store import ListedObject

T = TypeVar("T")
KIND = Kind("usage log", index_to_plain, index_from_plain)
LOGS_AT_ONCE = 64  # read side by side; bounds memory, not the result


def index_register(environment: Environment, session_id: str) -> SatelliteRegister[Index]:
    """Return the register of a session's index. Raises InvalidKeyError for what is no id."""
    return SatelliteRegister(environment, session_id, environment.layout.usage_index(session_id), KIND)


def present_index(register: SatelliteRegister[Index]) -> Found[Index]:
    """Return the index as it is stored.

    Raises:
        SessionNotFoundError: The session has no usage log.
        SessionDeletedError: It was deleted, and its log is gone.
        SessionMovedError: It was moved.
        CorruptSnapshotError, UnsupportedSchemaError: It cannot be read.
        UnavailableError: The store did not answer.
    """
    found = last_index(register)
    register.check_not_moved(found)
    return found


def last_index(register: SatelliteRegister[Index]) -> Found[Index]:
    """Return the index as it is stored, or was left behind. Else raises as `present_index`."""
    found = register.look()
    if found is None:
        if register.is_spent():
            raise SessionDeletedError(register.session_id)
        raise SessionNotFoundError(register.session_id, what=KIND.name)
    return found


@dataclass(frozen=True, slots=True)
class ListedLog:
    """What lies under the prefix of one usage log.

    Attributes:
        prefix: It.
        index_key: Key of its index, "" if there is none.
        segments: Its segments, live or not.
    """

    prefix: str
    index_key: str
    segments: tuple[ListedObject, ...]


@yielding_operation("usage.logs", "environment")
def for_each_log(environment: Environment, function: Callable[[ListedLog], T]) -> Iterator[T]:
    """Yield `function(log)` for every usage log listed, in the order of their keys; LOGS_AT_ONCE run side by side."""
    listing = logs_in(environment, environment.layout.usage_logs)
    while logs := list(islice(listing, LOGS_AT_ONCE)):
        yield from environment.executor.map(function, logs)


def logs_in(environment: Environment, prefix: str) -> Iterator[ListedLog]:
    """Yield the usage logs under a prefix; what is neither index nor segment is passed over."""
    layout = environment.layout
    for log, rows in groupby(environment.store.list(prefix), lambda row: layout.usage_log_of(row.key)):
        if log:
            every = list(rows)
            index = next((row.key for row in every if row.key == layout.usage_index_in(log)), "")
            yield ListedLog(log, index, tuple(row for row in every if row.key != index))


def index_at(environment: Environment, log: ListedLog) -> tuple[str, Found[Index]]:
    """Return the session id of a log that was listed, and its index.

    Raises:
        SessionDeletedError: It is missing: the log goes, or went, with its session.
        SessionMovedError: It was left behind: the session was moved.
        CorruptSnapshotError: It is missing otherwise, cannot be read, or is another log's (rules 1 and 2).
        UnsupportedSchemaError: It is of a later format.
        UnavailableError: The store did not answer.
    """
    key = log.index_key
    if not key:
        missing = environment.layout.usage_index_in(log.prefix)
        raise _gone(environment, missing, "the usage log has segments and no index")
    try:
        data = environment.store.get(key)
    except NotFoundError as error:
        raise _gone(environment, key, "the index was listed and is gone") from error
    except CorruptObjectError as error:
        raise CorruptSnapshotError(key, error.reason) from error
    stored = decode(data.data, data.version, KIND, key=key)
    layout = environment.layout
    if stored.tenant != layout.tenant or layout.usage_index(stored.session_id) != key:
        raise misplaced(key, KIND.name, stored.session_id, stored.tenant)
    if stored.found.destination:
        raise SessionMovedError(stored.session_id, stored.found.destination)
    return stored.session_id, stored.found


def _gone(environment: Environment, key: str, reason: str) -> SessionDeletedError | CorruptSnapshotError:
    """Return why an index is missing, as the head says that is beside it."""
    try:
        head = head_at(environment, environment.layout.head_beside(key)).head
    except NotFoundError:
        return CorruptSnapshotError(key, reason)
    return SessionDeletedError(head.session_id) if head.status == TOMBSTONE else CorruptSnapshotError(key, reason)
