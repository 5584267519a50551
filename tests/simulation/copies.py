"""Worlds with a second tenant in the same store, to which sessions of the first are copied; and what must hold there.

Rules (each a named check):
1. "nothing dangles", "heads only rise", "left behind", "revisions stay": as in the tenant that is copied from.
2. "as it was": what a copier publishes as a revision is what that revision was in the source.
3. "a copy goes on from itself": whoever commits in the copy is never overwritten (`watch.succession_of_copies`).
4. "acknowledged": a copy that was told as done is there. "refused": a conflict is told of only if there is one.
5. "registered": what a copier has named in a reservation is still named when that was raised once since. (A creation
   that began before there was one takes it over without the list, at the same epoch: then it is named again.)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import BinaryIO

from snapshots import PersistedSessionState
from snapshots.commit import commit
from snapshots.environment import Environment
from snapshots.errors import CopyConflictError, SnapshotError
from snapshots.fork import ForkRequest, fork
from snapshots.head import LIVE, RESERVED, Head
from snapshots.maintenance.copy.session import SessionCopied, SessionJob, copy_session
from snapshots.reading import named_by, read_history, read_live_head
from snapshots.testing.simulation.watch import COPIES, Watch, succession_of_copies
from storage.clock import Clock
from storage.digest import BlobRef
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
from storage.testing.clock import ManualClock
from storage.testing.simulation import Actor, Ending
from tests.integration.builders import new_session, take_turn
from tests.simulation.protocol import (
    LAYOUT,
    MERGED,
    Commit,
    Protocol,
    Role,
    Start,
    check_collected,
    environment_of,
    heads_in,
    loaded_state,
    noted_commit,
)

PACK_BYTES = 1  # every pack is copied by itself


class CopyingProtocol(Protocol):
    """A world with a second tenant.

    Attributes:
        copies: The watch of that tenant.
        copied: What was told as copied, by actor.
        changed: Sessions in which somebody else works there too: those have conflicts.
    """

    def __init__(self, start: Start, roles: Mapping[str, Role]) -> None:
        self.copied: dict[str, SessionCopied] = {}
        self.changed: set[str] = set()
        super().__init__(start, roles)
        self.copies = Watch(self.watch, COPIES, seen=self._published, succeeds=succession_of_copies)
        self.store = self.copies

    def check_step(self) -> None:
        super().check_step()
        self.copies.check()

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        super().check_end(endings)
        self._check_conflicts(endings)
        environment = environment_of(self.store, ManualClock(seed=98), layout=COPIES)
        for head in heads_in(environment):
            if head.status == LIVE and head.session_id not in self.changed:
                self._check_history(environment, head)
        for one in self.copied.values():
            self._check_copied(environment, one)
        check_collected(environment, self._refs_of_copies())
        self.copies.check()

    def _published(self, head: Head) -> None:
        """Look at a head of the copy (rule 2)."""
        if head.status != LIVE or head.session_id in self.changed:
            return
        ref = self._past_refs().get((head.session_id, head.revision))
        if ref != head.checkpoint_ref or head.commit_id not in self._commit_ids(head.session_id, head.revision):
            self.copies.wrong.append(f"as it was: revision {head.revision} of {head.session_id} is copied as another")

    def _past_refs(self) -> dict[tuple[str, int], BlobRef]:
        """Return the checkpoint of every revision that ever was in the source."""
        written = (one.head for heads in self.watch.written.values() for one in heads)
        live = {(one.session_id, one.revision): named_by(one).checkpoint_ref for one in written if one.status == LIVE}
        return {**self.start.refs, **live}

    def _refs_of_copies(self) -> dict[tuple[str, int], BlobRef]:
        return {key: ref for key, ref in self._past_refs().items() if key[0] not in self.changed}

    def _commit_ids(self, session_id: str, revision: int) -> set[str | None]:
        return {one.head.commits.commit_id(revision) for one in self.watch.written[LAYOUT.head(session_id)]}

    def _check_conflicts(self, endings: Mapping[str, Ending]) -> None:
        for name, ending in endings.items():
            error = ending.error
            told = isinstance(error, CopyConflictError) and error.session_id not in self.changed
            assert not told, f"refused: {name} was told of a conflict that was none: {ending}"

    def _check_history(self, environment: Environment, head: Head) -> None:
        for row in read_history(environment, head):
            known = row.commit_id in self._commit_ids(head.session_id, row.revision)
            assert known, f"as it was: the history of {head.session_id} has another revision {row.revision}"

    def _check_copied(self, environment: Environment, one: SessionCopied) -> None:
        try:
            read = read_live_head(environment, one.target)
        except SnapshotError:
            return  # deleted since
        rows = {row.revision: row.commit_id for row in read_history(environment, read.head)}
        is_there = rows.get(one.revision) in self._commit_ids(one.target, one.revision)
        assert is_there, f"acknowledged: revision {one.revision} of {one.target} was copied, and is not there"


# Starts.


def copies_of(environment: Environment) -> Environment:
    """Return the environment of the second tenant."""
    return environment_of(environment.store, environment.clock, environment.limits, layout=COPIES)


def copied_parent() -> Start:
    """Return a start with a session, a fork of its second revision, and a copy of the session alone.

    Its last revision has nothing in common with those before it.
    """

    def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
        state = new_session("s")
        for number in (1, 2):
            commit(environment, take_turn(state, f"s{number}"), None, execution_state=None)
        fork(environment, ForkRequest("s", "c"))
        state.graph_replace_required = True
        merging = replace(environment, limits=MERGED)
        commit(merging, take_turn(state, "s3"), None, execution_state=None)
        copy_session(environment, copies_of(environment), SessionJob("s"))
        return {"s": loaded_state(environment, "s")}

    return Start.left_by(begin)


def forked() -> Start:
    """Return a start with a session of one revision, and a fork of it."""

    def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
        commit(environment, take_turn(new_session("s"), "s1"), None, execution_state=None)
        fork(environment, ForkRequest("s", "b"))
        return {}

    return Start.left_by(begin)


def copied_beginning() -> Start:
    """Return a start with a session of two revisions, and a copy of the first one."""

    def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
        state = take_turn(new_session("s"), "s1")
        commit(environment, state, None, execution_state=None)
        copy_session(environment, copies_of(environment), SessionJob("s"))
        commit(environment, take_turn(state, "s2"), None, execution_state=None)
        return {"s": loaded_state(environment, "s")}

    return Start.left_by(begin)


# Actors.


def copier(name: str, session_id: str, *relatives: str) -> Role:
    """Return a role that copies a session, or goes on with what another copier left."""

    def role(world: Protocol) -> Actor:
        assert isinstance(world, CopyingProtocol), "a world of copies"

        def act(store: ObjectStore, clock: Clock) -> None:
            source = environment_of(store, clock)
            here = environment_of(Registered(store, COPIES.head(session_id)), clock, layout=COPIES)
            world.copied[name] = copy_session(source, here, SessionJob(session_id, relatives=relatives))

        return act

    return role


def committer(name: str, session_id: str) -> Role:
    """Return a role that commits a turn on the copy of a session."""

    def role(world: Protocol) -> Actor:
        assert isinstance(world, CopyingProtocol), "a world of copies"
        world.changed.add(session_id)
        notes = world.commits[name] = Commit(session_id, COPIES)

        def act(store: ObjectStore, clock: Clock) -> None:
            environment = environment_of(store, clock, layout=COPIES)
            noted_commit(environment, take_turn(loaded_state(environment, session_id), name), notes)

        return act

    return role


class Registered:
    """The store of one copier, which looks at the reservation that it writes and reads (rule 5).

    Args:
        store: Where everything lies.
        key: Of the head.
    """

    def __init__(self, store: ObjectStore, key: str) -> None:
        self._store = store
        self._key = key
        self._epoch = 0  # of what was named last
        self._names: frozenset[str] = frozenset()

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return an object. See `ObjectStore.get`."""
        found = self._store.get(key, byte_range)
        if key == self._key:
            head = Head.decode(found.data, key=key)
            lost = sorted(self._names.difference(_named(head))) if head.status == RESERVED else []
            assert not lost or head.epoch != self._epoch + 1, f"registered: {lost} is no longer named"
        return found

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store an object. See `ObjectStore.put`."""
        version = self._store.put(key, data, mode)
        if key == self._key:
            assert isinstance(data, bytes), "a head is no stream"
            head = Head.decode(data, key=key)
            self._epoch, self._names = head.epoch, _named(head)
        return version

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        return self._store.list(prefix, start_after=start_after)

    def delete(self, key: str) -> None:
        """Remove an object. See `ObjectStore.delete`."""
        self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove objects. See `ObjectStore.delete_many`."""
        return self._store.delete_many(keys)


def _named(head: Head) -> frozenset[str]:
    return frozenset() if head.staged is None else frozenset(head.staged.names)
