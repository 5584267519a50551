"""A copy under way: what a copier of a session of two packs does with the head of the destination.

Rules (those of `snapshots.staged`):
1. It reserves, and after every pack that it has put names all of them in the reservation. Then it publishes a head that
   names both.
2. Refused, it reads the head and keeps the packs that this one admits; the others it puts again, under new names.
3. Whoever resumes begins with what the reservation names.
4. "registered": what was named at an epoch is still named when the head was raised once since.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import pytest

from snapshots import CommitResult, staged
from snapshots.commit import commit
from snapshots.environment import Environment
from snapshots.head import RESERVED, Head
from snapshots.publish import Publication, intent_on
from snapshots.reading import HeadRead, head_at
from snapshots.staging import Identity
from snapshots.state import graph
from storage.backends.memory import MemoryStore
from storage.clock import Clock
from storage.digest import short_hash
from storage.errors import NotFoundError, PreconditionFailedError
from storage.store import Create, ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.simulation import Actor
from tests.integration.builders import new_session, take_turn
from tests.simulation.protocol import LAYOUT, Commit, Protocol, Role, environment_of, loaded_state

COPY = "n"
PACKS = 2
REFUSED_MAX = 4  # times that a copier reads the head again before it stops
Uploads = tuple[str, ...]
"""What tells the uploads of a session's packs apart, first one first; another upload is another name."""


@dataclass(frozen=True)
class Revision:
    """A revision as it is copied: its pack, a head that names all packs up to it, and what is told of it."""

    name: str
    data: bytes
    head: Head
    result: CommitResult
    objects: tuple[tuple[str, bytes], ...]


NAMED: dict[str, Uploads] = {}  # by the name of the last one's pack


@cache
def revision(uploads: Uploads) -> Revision:
    """Return the last revision of a session of which every pack was uploaded like this."""
    before = revision(uploads[:-1]).objects if uploads[:-1] else ()
    store = MemoryStore(ManualClock())
    for key, data in before:
        store.put(key, data, Create())
    clock = ManualClock(seed=int.from_bytes(short_hash(" ".join(uploads).encode(), 4), "big"))
    environment = environment_of(store, clock)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(graph, "_clock", clock)
        state = loaded_state(environment, COPY) if before else new_session(COPY)
        result = commit(environment, take_turn(state, f"{COPY}{len(uploads)}"), None, execution_state=None)
    objects = tuple((row.key, store.get(row.key).data) for row in store.list(""))
    (key,) = {row.key for row in store.list(LAYOUT.packs)} - {key for key, _ in before}
    name = key.rpartition("/")[2]
    NAMED[name] = uploads
    head = head_at(environment, LAYOUT.head(COPY)).head
    return Revision(name, store.get(key).data, head, result, objects)


def _named(head: Head) -> frozenset[str]:
    return frozenset() if head.staged is None else frozenset(head.staged.names)


class _Copier:
    def __init__(self, environment: Environment, name: str, notes: Commit) -> None:
        self._environment = environment
        self._register = environment.register(COPY)
        self._name = name
        self._notes = notes
        self._put = 0
        self._uploads: Uploads = ()
        self._epochs: dict[str, int] = {}  # of the head before the upload, by the name of a pack
        self._registered: tuple[int, frozenset[str]] = (0, frozenset())  # what was named last, and at which epoch
        self._refused = 0

    def reserve(self) -> HeadRead:
        environment = self._environment
        identity = Identity(environment.clock.new_id(), environment.clock.now(), None)
        return Publication(environment, intent_on(environment, COPY, None, identity), identity).reserve()

    def found(self) -> HeadRead:
        """Read the head of a copy under way, and what it names (rule 3)."""
        read = head_at(self._environment, LAYOUT.head(COPY))
        named = _named(read.head)
        for uploads in sorted((NAMED[name] for name in named), key=lambda one: (len(one), one)):
            if named.issuperset(self._names(uploads)):
                self._uploads = uploads
        self._epochs = dict.fromkeys(self._names(self._uploads), read.head.epoch)
        return read

    def copy(self, read: HeadRead, packs: int) -> None:
        """Go on until so many packs are named, and publish if that is all."""
        while self._refused < REFUSED_MAX and read.head.status == RESERVED:
            self._check_registered(read.head)
            self._keep_admitted(read.head)
            if not self._is_registered(read.head):
                read = self._written(read, self._registration(read.head))
            elif len(self._uploads) < packs:
                self._upload(read.head)
            elif packs < PACKS:
                return
            else:
                read = self._written(read, self._published(read.head))

    @staticmethod
    def _names(uploads: Uploads) -> list[str]:
        return [revision(uploads[:count]).name for count in range(1, len(uploads) + 1)]

    def _keep_admitted(self, head: Head) -> None:
        for count, name in enumerate(self._names(self._uploads)):
            if not staged.admits(head, name, self._epochs[name]):
                self._uploads = self._uploads[:count]
                return

    def _is_registered(self, head: Head) -> bool:
        return _named(head).issuperset(self._names(self._uploads))

    def _check_registered(self, head: Head) -> None:
        epoch, names = self._registered
        lost = sorted(names - _named(head))
        assert not lost or head.epoch > epoch + 1, f"registered: {lost} is no longer named"

    def _upload(self, head: Head) -> None:
        self._put += 1
        self._uploads = (*self._uploads, f"{self._name}{self._put}")
        made = revision(self._uploads)
        self._environment.store.put(LAYOUT.pack(COPY, made.name), made.data, Create())
        self._epochs[made.name] = head.epoch

    def _registration(self, head: Head) -> Head:
        uploads = {name: self._epochs[name] for name in self._names(self._uploads)}
        clock = self._environment.clock
        return staged.staged_with(head, uploads, family=COPY, write_id=clock.new_id(), at=clock.now())

    def _published(self, head: Head) -> Head:
        write_id = self._environment.clock.new_id()
        copied = revision(self._uploads).head
        return replace(copied, epoch=head.epoch, fence=head.fence, write_id=write_id, state_id=write_id)

    def _written(self, read: HeadRead, head: Head) -> HeadRead:
        """Replace the head that was read; return it, or the one that is there instead (rule 2)."""
        try:
            version = self._register.swap_once(read.version, head.encode())
        except PreconditionFailedError:
            self._refused += 1
            return head_at(self._environment, self._register.key)
        if head.status == RESERVED:
            self._registered = head.epoch, _named(head)
        else:
            results = [revision(self._uploads[:count]).result for count in range(1, PACKS + 1)]
            self._notes.acknowledged |= {result.head_revision: result for result in results}
        return HeadRead(head, version)


def copier(name: str, packs: int = PACKS) -> Role:
    """Return a role that copies `n`; with fewer packs it stops when so many are named."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(COPY)

        def act(store: ObjectStore, clock: Clock) -> None:
            one = _Copier(environment_of(store, clock), name, notes)
            one.copy(one.reserve(), packs)

        return act

    return role


def resumer(name: str) -> Role:
    """Return a role that goes on with what another copier left, or does at the same time."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(COPY)

        def act(store: ObjectStore, clock: Clock) -> None:
            one = _Copier(environment_of(store, clock), name, notes)
            try:
                one.copy(one.found(), PACKS)
            except NotFoundError:
                return  # nobody began

        return act

    return role
