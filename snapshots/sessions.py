"""What there is: sessions, revisions, sizes. Read-only.

for info in sessions(environment): print(info.session_id, info.revision)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import TypeVar

from snapshots.environment import Environment
from snapshots.head import LIVE, RESERVED, Origin
from snapshots.pins import Pin
from snapshots.reading import head_at, read_history, retried_while_moving
from snapshots.state import SessionRelation, TokenUsage
from storage.store import ListedObject

T = TypeVar("T")
PAGE = 64  # heads read side by side; bounds memory, not the result


@dataclass(frozen=True, slots=True)
class SessionInfo:
    """A session, as its head describes it.

    Attributes:
        session_id: Its id.
        status: "live", "reserved", "tombstone" or "moved".
        revision: Its present revision.
        created_at: When its id was first reserved.
        updated_at: When it last changed.
        head_bytes: Size of its head.
        family: Id of the root session, "" while reserved.
        origin: Where it was forked from, None for others.
        relation: Root, child of another session, or its successor.
        holder: Owner whose Writer alone may commit, "" for anyone.
        fence: Number of the last take-over.
        pins: Names for its revisions.
    """

    session_id: str
    status: str
    revision: int
    created_at: datetime
    updated_at: datetime
    head_bytes: int
    family: str
    origin: Origin | None
    relation: SessionRelation
    holder: str
    fence: int
    pins: tuple[Pin, ...]


@dataclass(frozen=True, slots=True)
class RevisionInfo:
    """A revision, as the history describes it.

    Attributes:
        revision: Its number.
        parent: Revision whose content it builds on, 0 for none.
        commit_id: 32 hex digits.
        created_at: When the commit began.
        kind: "commit", "replace", "fork", "rewind" or "restore".
        turn: Whether it carries a turn stamp.
        node_count: Nodes of its graph.
        usage: What it added to the ledger.
        retained: Whether it can still be loaded.
        pins: Names that it has, expired ones too.
    """

    revision: int
    parent: int
    commit_id: str
    created_at: datetime
    kind: str
    turn: bool
    node_count: int
    usage: TokenUsage
    retained: bool
    pins: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StoreStats:
    """How much a tenant has stored. Sizes are those in the store.

    Attributes:
        sessions: Number of sessions by status.
        heads_bytes: Bytes of all heads.
        packs: Number of packs.
        packs_bytes: Bytes of all packs, garbage included.
    """

    sessions: Mapping[str, int]
    heads_bytes: int
    packs: int
    packs_bytes: int


def history(environment: Environment, session_id: str) -> tuple[RevisionInfo, ...]:
    """Return all revisions of a session, oldest first; see `SnapshotRepository.history`."""
    rows, head = retried_while_moving(
        environment, session_id, lambda read: (read_history(environment, read.head), read.head)
    )
    return tuple(
        RevisionInfo(
            revision=row.revision,
            parent=row.parent,
            commit_id=row.commit_id,
            created_at=row.created_at,
            kind=row.kind,
            turn=row.stamp is not None,
            node_count=row.node_count,
            usage=row.total_usage,
            retained=head.retains(row.revision),
            pins=tuple(pin.name for pin in head.pins if pin.revision == row.revision),
        )
        for row in rows
    )


def sessions(environment: Environment) -> Iterator[SessionInfo]:
    """Yield all sessions of the tenant in the order of their keys; see `SnapshotRepository.sessions`."""
    return for_each_head(environment, lambda row: _info(environment, row))


class Unforgetting(Iterator[T]):
    """Rows as they come; a failure is raised again by whoever goes on, who would take what came for everything else.

    Args:
        rows: What to go through.
    """

    def __init__(self, rows: Iterator[T]) -> None:
        self._rows = rows
        self._failure: BaseException | None = None

    def __next__(self) -> T:
        if self._failure is not None:
            raise self._failure
        try:
            return next(self._rows)
        except StopIteration:
            raise
        except BaseException as error:
            self._failure = error
            raise


def for_each_head(
    environment: Environment, function: Callable[[ListedObject], T], *, start_after: str = ""
) -> Iterator[T]:
    """Yield `function(row)` for every head listed, in the order of their keys; PAGE of them run side by side."""
    listing = environment.store.list(environment.layout.heads, start_after=start_after)
    while page := list(islice(listing, PAGE)):
        yield from environment.executor.map(function, page)


def _info(environment: Environment, row: ListedObject) -> SessionInfo:
    head = head_at(environment, row.key).head
    return SessionInfo(
        session_id=head.session_id,
        status=head.status,
        revision=head.revision,
        created_at=head.created_at,
        updated_at=head.updated_at,
        head_bytes=row.size_bytes,
        family=head.family,
        origin=head.origin,
        relation=head.relation,
        holder=head.held_by,
        fence=head.fence,
        pins=head.pins,
    )


def stats(environment: Environment) -> StoreStats:
    """Return how much the tenant has stored; see `SnapshotRepository.stats`."""
    statuses: Counter[str] = Counter({LIVE: 0, RESERVED: 0})
    heads_bytes = 0
    for info in sessions(environment):
        statuses[info.status] += 1
        heads_bytes += info.head_bytes
    packs = packs_bytes = 0
    for row in environment.store.list(environment.layout.packs):
        packs += 1
        packs_bytes += row.size_bytes
    return StoreStats(dict(statuses), heads_bytes, packs, packs_bytes)
