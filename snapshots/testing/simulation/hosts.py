"""`Host`: an actor of a seeded run – a process that does what its role says, is told the outcome, and may crash.

Rules:
1. A crash ends the process, not the host: its memory is lost, its `journal` is on its disk, and it is started again.
2. Every operation is noted with its instants and what was told. Errors must be typed; "corrupt" may only be said by
   whoever was given damaged bytes.
3. A commit in doubt is repeated with the same state object, or after a crash with the same turn, until it is settled or
   the host gives up on it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import BinaryIO, TypeVar

from snapshots.base import Tracking, track, tracking_of
from snapshots.commit import commit
from snapshots.compaction import Limits
from snapshots.environment import Environment
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionNotFoundError,
    SnapshotError,
    UnsupportedSchemaError,
)
from snapshots.head import LIVE, TOMBSTONE, Head
from snapshots.layout import Layout
from snapshots.restore import load
from snapshots.stamps import TurnStamp
from snapshots.state import CommitResult, Message, Part, PersistedSessionState, TokenLedgerEntry, TokenUsage
from snapshots.testing.simulation.operations import Operation, Told, What
from snapshots.testing.simulation.satellite_notes import SatelliteNotes
from snapshots.testing.simulation.watch import HOME
from snapshots.testing.simulation.weather import Weather
from storage.clock import Clock
from storage.digest import BlobRef, blob_ref
from storage.errors import CorruptObjectError, StorageError, UnavailableError
from storage.executor import InlineExecutor
from storage.store import (
    ByteRange,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    PutMode,
    StoredObject,
    Version,
)
from storage.testing.draws import Draws
from storage.testing.plan import Crash

T = TypeVar("T")
ATTEMPTS = 4  # of an operation in doubt
SAVED = ("x1", "x2")  # ids of sessions that savers alone use
SPENT = TokenUsage(input_tokens=10, output_tokens=2)


def environment_in(environment: Environment, layout: Layout) -> Environment:
    """Return an environment of another tenant in the same store."""
    return replace(environment, layout=layout, home=(HOME[0], layout.tenant))


class ProcessCrash(Crash):
    """The process ended; its host goes on."""


@dataclass(frozen=True, slots=True)
class Content:
    """What a revision holds: ids of its messages, and its execution state."""

    messages: tuple[str, ...]
    execution: BlobRef | None


@dataclass(frozen=True, slots=True)
class Role:
    """What a host does, again and again.

    Attributes:
        act: Does one thing; every failure that it is told of is noted by the host.
        least: How many hosts have this role at least.
        most: And at most.
        operations: How many things one does, about.
        lasts: Until which instant it goes on in any case, 0 for a role that is not to.
    """

    act: Callable[[Host], None]
    least: int
    most: int
    operations: int
    lasts: int


@dataclass(slots=True)
class CopyTold:
    """What a copier was told.

    Attributes:
        operation: When, and what.
        session_id: Of which session.
        revision: Of which revision, 0 without one.
        is_conflict: Whether it was told of a conflict.
    """

    operation: Operation
    session_id: str
    revision: int = 0
    is_conflict: bool = False

    def __str__(self) -> str:
        return f"{self.operation.actor}'s copy of {self.session_id} at {self.operation.called}"


@dataclass(slots=True)
class CopyNotes:
    """What a run notes of copies.

    Attributes:
        told: What copiers were told.
        live: Sessions that were copied and not deleted there, oldest first.
        changed: Sessions to which somebody meant to commit there, or which somebody meant to delete.
        partial: Sessions of which not everything was to be copied, or kept.
    """

    told: list[CopyTold] = field(default_factory=list)
    live: list[str] = field(default_factory=list)
    changed: set[str] = field(default_factory=set)
    partial: set[str] = field(default_factory=set)


@dataclass(slots=True)
class Notes:
    """What a run notes of itself, for its checks.

    Attributes:
        weather: What fails.
        instant: Requests so far.
        operations: What was asked for, in the order in which it began.
        contents: What a commit was to store, by its id.
        reads: What was read: session, revision, content.
        wrong: What hosts complained of.
        dead: Hosts whose process has ended, and was not started again.
        live: Sessions that can be used now, oldest first.
        spent: Sessions that were deleted.
        satellites: What hosts were told of usage logs, saves, records and realtime sessions.
        copies: What hosts were told of copies.
    """

    weather: Weather
    instant: int = 0
    operations: list[Operation] = field(default_factory=list)
    contents: dict[str, Content] = field(default_factory=dict)
    reads: list[tuple[str, int, Content]] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    dead: set[str] = field(default_factory=set)
    live: list[str] = field(default_factory=list)
    spent: list[str] = field(default_factory=list)
    satellites: SatelliteNotes = field(default_factory=SatelliteNotes)
    copies: CopyNotes = field(default_factory=CopyNotes)

    def head_written(self, head: Head) -> None:
        """Note which sessions there are."""
        session_id = head.session_id
        if session_id in SAVED:
            return
        if head.status == LIVE and session_id not in self.live:
            self.live.append(session_id)
        elif head.status == TOMBSTONE and session_id in self.live:
            self.live.remove(session_id)
            self.spent.append(session_id)

    def stores(self, commit_id: str, content: Content) -> None:
        """Note what a commit stores; complain if it was said to store something else."""
        first = self.contents.setdefault(commit_id, content)
        if first != content:
            self.wrong.append(f"commit {commit_id} stores {first} and {content}")


@dataclass(slots=True)
class Journalled:
    """A stamped turn that was begun, as it stands on the host's own disk."""

    session_id: str
    name: str
    operation: Operation


def content_of(state: PersistedSessionState) -> Content:
    """Return what a state holds, or will hold once it is committed."""
    execution = state.execution_state_ref
    if state.execution_state_snapshot is not None:
        execution = blob_ref(state.execution_state_snapshot)
    return Content(_message_ids(state), execution)


def _message_ids(state: PersistedSessionState) -> tuple[str, ...]:
    return tuple(one.id for one in state.read_view().messages)


def take_turn(state: PersistedSessionState, name: str) -> None:
    """Add a message called `name`, a turn and its cost to `state`, unless it has them."""
    if name in _message_ids(state):
        return
    part = Part(id=f"{name}.p", kind="Text", content=f"text of {name} " * 5)
    state.append_active_read_delta([Message(id=name, role="User", parts=(part,))], [])
    state.turn_index += 1
    state.book_usage([TokenLedgerEntry(source="turn", model="m", usage=SPENT)], source="turn")


def drawn_limits(draws: Draws) -> Limits:
    """Return what a host leaves lying apart: little, so that a run of few commits merges, and moves its tail, often."""
    tail = draws.below(3) * 1024
    return Limits(packs=3 + draws.below(4), large_packs=3, merged=2, tail_pack_bytes=tail, tail_bytes=2 * tail)


class Host:
    """One host of a run.

    Args:
        name: Of the actor.
        role: What it does.
        notes: Those of the run.
        seed: Of the run.
        layout: The keys.

    Attributes:
        name: Of the actor.
        draws: What it decides by.
        states: The states in its process's memory, by session.
        satellites: What the run notes of satellites.
        copies: What it notes of copies.
        journal: The turn begun, None without one; survives a crash.
        environment: Of the process that runs.
    """

    def __init__(self, name: str, role: Role, notes: Notes, seed: int, layout: Layout) -> None:
        self.name = name
        self.draws = Draws(f"{seed} {name}")
        self.states: dict[str, PersistedSessionState] = {}
        self.satellites = notes.satellites
        self.copies = notes.copies
        self.journal: Journalled | None = None
        self.environment: Environment
        self._notes = notes
        self._role = role
        self._layout = layout
        self._left = role.operations // 2 + self.draws.below(role.operations)
        self._named = 0
        self._memory: dict[str, object] = {}  # what else a process has, by name

    def live(self, store: ObjectStore, clock: Clock) -> None:
        """Run processes until everything that was to be done is done: the actor."""
        paged = PagedStore(store, 1 + self.draws.below(6))
        limits = drawn_limits(self.draws)
        self.environment = Environment(paged, self._layout, clock, InlineExecutor(), home=HOME, limits=limits)
        while self._left > 0 or self._notes.instant < self._role.lasts:
            self._left -= 1
            try:
                self._role.act(self)
            except ProcessCrash:
                self.states.clear()
                self._memory.clear()
                self._notes.dead.discard(self.name)

    def new_name(self) -> str:
        """Return a name that was never given."""
        self._named += 1
        return f"{self.name}.{self._named}"

    def recalled(self, name: str, kind: type[T]) -> T | None:
        """Return what the process has under a name, None for nothing."""
        found = self._memory.get(name)
        return found if isinstance(found, kind) else None

    def remembered(self, name: str, kind: type[T], make: Callable[[], T]) -> T:
        """Return what the process has under a name; what `make` returns, from now on, if it has nothing."""
        found = self.recalled(name, kind)
        if found is None:
            found = make()
            self._memory[name] = found
        return found

    def forget(self, name: str) -> None:
        """Drop what the process has under a name."""
        self._memory.pop(name, None)

    def a_session(self) -> str:
        """Draw a session, rather a young one; seldom one that was deleted."""
        notes, draws = self._notes, self.draws
        sessions = notes.spent if notes.spent and draws.below(12) == 0 else notes.live
        count = len(sessions)
        return sessions[max(draws.below(count), draws.below(count))] if count else self.a_new_session()

    def a_new_session(self) -> str:
        """Draw the id of a session to be made: a new one, or one that others make or have made too."""
        made = len(self._notes.live) + len(self._notes.spent)
        return f"n{self.draws.below(2 * made + 4)}"

    # Operations.

    def begin(self, what: What, session_id: str, layout: Layout | None = None) -> Operation:
        """Note that something is wanted, of a session of its own tenant or of another one."""
        self._notes.weather.damaged.discard(self.name)
        tenant = (layout or self._layout).tenant
        operation = Operation(self.name, what, session_id, called=self._notes.instant, tenant=tenant)
        self._notes.operations.append(operation)
        return operation

    def attempt(self, operation: Operation, act: Callable[[], T]) -> T | None:
        """Do it once and note what was told; None for every failure (rule 2)."""
        operation.told = ""
        try:
            result = act()
        except (SnapshotError, StorageError) as error:
            operation.told = self._told(operation, error)
            return None
        else:
            operation.told = "done"
            return result
        finally:
            operation.answered = self._notes.instant

    def _told(self, operation: Operation, error: SnapshotError | StorageError) -> Told:
        """Return what an error says of the operation; complain of damage where nothing was damaged."""
        match error:
            case CommitUnknownError():
                return ""
            case UnavailableError():
                return "" if error.applied == "unknown" else "refused"
            case SessionDeletedError() if error.session_id == operation.session_id:
                return "gone"
            case RevisionNotFoundError():
                return "dropped"
            case SessionNotFoundError() if error.session_id == operation.session_id:
                return "absent"
            case CorruptSnapshotError() | CorruptObjectError() | UnsupportedSchemaError() if (
                self.name not in self._notes.weather.damaged
            ):
                self._notes.wrong.append(f"{operation} was told: {error}")
        return "refused"

    def load(self, session_id: str) -> PersistedSessionState | None:
        """Load a session's present revision, as a read that must be explained."""
        operation = self.begin("read", session_id)
        loaded = self.attempt(
            operation, lambda: load(self.environment, session_id, revision=None, execution_state=True)
        )
        if loaded is None:
            return None
        track(loaded.state, Tracking(loaded.base))
        operation.revision = loaded.base.revision
        self._notes.reads.append((session_id, loaded.base.revision, content_of(loaded.state)))
        return loaded.state

    def load_older(self, session_id: str, revision: int) -> None:
        """Load a revision of a session, if it keeps it; what it holds must be the same to everyone."""
        loaded = self.attempt(
            self.begin("other", session_id),
            lambda: load(self.environment, session_id, revision=revision, execution_state=True),
        )
        if loaded is not None:
            self._notes.reads.append((session_id, revision, content_of(loaded.state)))

    def commit_turn(
        self,
        operation: Operation,
        state: PersistedSessionState,
        name: str,
        stamp: TurnStamp | None,
        environment: Environment | None = None,
    ) -> None:
        """Take a turn called `name`, unless the state has it, and commit it for nobody in particular."""
        take_turn(state, name)
        if self.draws.below(3) == 0:
            state.execution_state_snapshot = name.encode() * (1 + self.draws.below(200))
        used = environment or self.environment
        self.commit(operation, state, lambda: commit(used, state, stamp, execution_state=None))

    def commit(self, operation: Operation, state: PersistedSessionState, send: Callable[[], CommitResult]) -> None:
        """Commit `state` by `send`, again while it is in doubt (rule 3)."""
        content, revision = content_of(state), state.head_revision
        for _ in range(1 + self.draws.below(ATTEMPTS)):
            try:
                result = self.attempt(operation, send)
            finally:
                self._note_pending(operation, state, content)
                if state.head_revision != revision:  # also when the host ends while it uploads ahead
                    self._note_present(state)
            if result is not None:
                self.done(operation, result)
                self._notes.stores(result.commit_id, content_of(state))
            if operation.told:
                return

    def done(self, operation: Operation, result: CommitResult) -> None:
        """Note the revision that an operation was told."""
        operation.revision, operation.commit_id = result.head_revision, result.commit_id

    def _note_present(self, state: PersistedSessionState) -> None:
        base = tracking_of(state).base
        assert base is not None, "a committed state stands on its revision"
        self._notes.stores(base.row.commit_id, content_of(state))

    def _note_pending(self, operation: Operation, state: PersistedSessionState, content: Content) -> None:
        pending = tracking_of(state).pending
        if pending is None:
            return
        self._notes.stores(pending.commit_id, content)
        if operation.told in ("refused", "absent"):  # "gone" says nothing of what was stored before
            operation.refused.add(pending.commit_id)


class PagedStore:
    """A store whose listings come in small pages, while others write."""

    def __init__(self, store: ObjectStore, rows: int) -> None:
        self._store = store
        self._rows = rows

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return an object. See `ObjectStore.get`."""
        return self._store.get(key, byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store an object. See `ObjectStore.put`."""
        return self._store.put(key, data, mode)

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order, page by page. See `ObjectStore.list`."""
        while True:
            page = list(self._store.list(prefix, start_after=start_after))
            yield from page[: self._rows]
            if len(page) <= self._rows:
                return
            start_after = page[self._rows - 1].key

    def delete(self, key: str) -> None:
        """Remove an object. See `ObjectStore.delete`."""
        self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove objects. See `ObjectStore.delete_many`."""
        return self._store.delete_many(keys)
