"""A small world of the real code: writers, forkers, deleters and collectors on one store, and what must hold in it.

After every request each live head names only packs that are there (nothing is lost), and no head's epoch, fence or
revision falls. In the end what was acknowledged stands exactly once, what was refused nowhere, a quiet collection
leaves nothing that no head names, and every revision that is kept loads whole and is what was committed. What lies
beside the heads is checked as in seeded runs (`tests.simulation.satellites`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, replace

from snapshots import CommitResult, PersistedSessionState, TurnStamp
from snapshots.base import Tracking, track, tracking_of
from snapshots.commit import commit
from snapshots.compaction import Limits
from snapshots.delete import delete
from snapshots.environment import Environment
from snapshots.errors import CommitUnknownError, CorruptSnapshotError, RevisionConflictError, SnapshotError
from snapshots.fork import ForkRequest, ForkResult, fork
from snapshots.head import LIVE, Head
from snapshots.history import RESTORE
from snapshots.layout import Layout
from snapshots.maintenance.collect import BATCH_PACKS, execute, plan_on
from snapshots.reading import read_history, read_live_head
from snapshots.restore import load
from snapshots.rewind import go_back
from snapshots.rewrite import rewrite_head
from snapshots.testing.collector import collect
from snapshots.testing.simulation.satellite_notes import SatelliteNotes
from snapshots.testing.simulation.watch import HOME, KNOWN_MAX, Watch, packs_named
from snapshots.writer import acquire
from storage.backends.memory import MemoryStore
from storage.clock import Clock
from storage.digest import BlobRef
from storage.errors import StorageError
from storage.executor import InlineExecutor
from storage.store import Create, ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.simulation import Actor, Ending, World
from tests.integration.builders import new_session, take_turn

LAYOUT = Layout("default")
KEPT: dict[tuple[object, ...], Kept] = {}  # an exploration comes back to the same heads and packs
Begin = Callable[[Environment], Mapping[str, PersistedSessionState]]
APART = Limits(tail_pack_bytes=0)  # every commit is a pack and a head
AHEAD = Limits(tail_bytes=1500)  # a tail has room for one or two, and is uploaded ahead then
MERGED = replace(APART, packs=2, large_packs=2, merged=1)  # and merges what is small
Prepare = Callable[[Environment], SatelliteNotes]


def environment_of(store: ObjectStore, clock: Clock, limits: Limits = APART, *, layout: Layout = LAYOUT) -> Environment:
    return Environment(store, layout, clock, InlineExecutor(), home=(HOME[0], layout.tenant), limits=limits)


@dataclass
class Start:
    """What every world begins with: the objects of a store, a state of each session, and notes.

    Attributes:
        objects: By key.
        states: By session.
        refs: Checkpoint of every revision, by session and revision.
        satellites: What was told of satellites.
    """

    objects: dict[str, bytes]
    states: Mapping[str, PersistedSessionState]
    refs: Mapping[tuple[str, int], BlobRef]
    satellites: SatelliteNotes = field(default_factory=SatelliteNotes)

    @classmethod
    def of(cls, sessions: Mapping[str, int], prepare: Prepare | None = None) -> Start:
        """Return a start with sessions of so many revisions, loaded, and what `prepare` leaves."""

        def begin(environment: Environment) -> Mapping[str, PersistedSessionState]:
            for session_id, revisions in sessions.items():
                state = new_session(session_id)
                for number in range(1, revisions + 1):
                    commit(environment, take_turn(state, f"{session_id}{number}"), None, execution_state=None)
            return {session_id: loaded_state(environment, session_id) for session_id in sessions}

        return cls.left_by(begin, prepare)

    @classmethod
    def left_by(cls, begin: Begin, prepare: Prepare | None = None) -> Start:
        """Return a start with what `begin` and `prepare` leave."""
        store, clock = MemoryStore(ManualClock()), ManualClock(seed=99)
        environment = environment_of(store, clock)
        states = begin(environment)
        satellites = SatelliteNotes() if prepare is None else prepare(environment)
        refs = {
            (head.session_id, revision): ref
            for head in heads_in(environment)
            for revision, ref in kept_by(environment, head).refs.items()
        }
        return cls({row.key: store.get(row.key).data for row in store.list("")}, states, refs, satellites)


def heads_in(environment: Environment) -> Iterator[Head]:
    """Yield all heads of a tenant."""
    for row in environment.store.list(environment.layout.heads):
        yield Head.decode(environment.store.get(row.key).data, key=row.key)


def loaded_state(environment: Environment, session_id: str) -> PersistedSessionState:
    """Return the present state of a session, to be committed on."""
    loaded = load(environment, session_id, revision=None, execution_state=False)
    track(loaded.state, Tracking(loaded.base))
    return loaded.state


@dataclass
class Commit:
    """What a writer meant to do, and what it was told."""

    session_id: str
    layout: Layout = LAYOUT
    commit_ids: set[str] = field(default_factory=set)
    acknowledged: dict[int, CommitResult] = field(default_factory=dict)  # by revision
    refused: set[str] = field(default_factory=set)


class Protocol(World):
    """The world. `roles` makes the actors: by name, a function of this world that returns one."""

    def __init__(self, start: Start, roles: Mapping[str, Role]) -> None:
        filled = MemoryStore(ManualClock())
        for key, data in start.objects.items():
            filled.put(key, data, Create())
        self.watch = Watch(filled, LAYOUT)
        self.start = start
        self.satellites = deepcopy(start.satellites)
        self.commits: dict[str, Commit] = {}
        self.batches = 0  # the most that one collection had
        self.forked: dict[str, ForkResult] = {}  # by child, those that were acknowledged
        super().__init__({name: role(self) for name, role in roles.items()}, self.watch)

    def environment(self, store: ObjectStore, clock: Clock) -> Environment:
        """Return what an actor works with."""
        return environment_of(store, clock)

    def check_step(self) -> None:
        self.watch.check()

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        self._check_errors(endings)
        environment = environment_of(self.store, ManualClock(seed=98))
        for one in self.commits.values():
            _check_commit(environment_of(self.store, ManualClock(seed=98), layout=one.layout), one)
        for child, forked in self.forked.items():
            head = Head.decode(self.store.get(LAYOUT.head(child)).data, key=child)
            assert head.commits.commit_id(1) == forked.commit_id, f"the acknowledged fork {child} is another one"
        check_collected(environment, self._refs())
        self._check_satellites(environment)

    def _check_satellites(self, environment: Environment) -> None:
        found = self.satellites.problems(
            environment,
            lambda session_id: self.watch.is_deleted(LAYOUT.head(session_id)),
            self.watch.satellites.expired,
        )
        assert not found, "; ".join(found)
        if self.satellites.rows:
            for _ in range(2):
                execute(plan_on(environment))
            left = plan_on(environment)
            assert left.is_empty, left
            self.watch.check()

    def _check_errors(self, endings: Mapping[str, Ending]) -> None:
        for name, ending in endings.items():
            expected = ending.error is None or isinstance(ending.error, SnapshotError | StorageError)
            assert expected, f"{name}: {ending}"
            assert not isinstance(ending.error, CorruptSnapshotError), f"never corrupt: {name}: {ending}"

    def _refs(self) -> dict[tuple[str, int], BlobRef]:
        """Return the checkpoint of every revision that is known."""
        commits = {
            (one.session_id, revision): result.checkpoint_ref
            for one in self.commits.values()
            if one.layout == LAYOUT
            for revision, result in one.acknowledged.items()
        }
        forks = {(child, 1): forked.checkpoint_ref for child, forked in self.forked.items()}
        return {**self.start.refs, **commits, **forks}


def check_collected(environment: Environment, expected: Mapping[tuple[str, int], BlobRef]) -> None:
    """Collect, in the end: what a tenant keeps loads whole and is what was expected, and nothing else is left."""
    _check_lists_end(environment)
    report = collect(environment)
    assert not report.stopped, report
    named: set[str] = set()
    for head in heads_in(environment):
        kept = kept_by(environment, head)
        named |= kept.packs
        for revision, ref in kept.refs.items():
            another = f"revisions stay: revision {revision} of {head.session_id} is another one"
            assert expected.get((head.session_id, revision)) in (None, ref), another
    left = {row.key for row in environment.store.list(environment.layout.packs)}
    assert left == named, f"left behind: {sorted(left - named)}; lost: {sorted(named - left)}"


def _check_lists_end(environment: Environment) -> None:
    """Collect until a list that nobody refreshes has ended."""
    if any(head.staged is not None for head in heads_in(environment)):
        for _ in range(2):
            execute(plan_on(environment))
        left = plan_on(environment)
        assert left.is_empty, f"left behind: {left}"


@dataclass(frozen=True)
class Kept:
    """What a head keeps: packs, by key, and revisions, with their checkpoints."""

    packs: frozenset[str]
    refs: Mapping[int, BlobRef]


def kept_by(environment: Environment, head: Head) -> Kept:
    """Load every revision that a head keeps.

    What comes of it is decided by the packs and the head, but for its epoch and the id of its last write.
    """
    if head.status != LIVE:
        return Kept(frozenset(), {})
    layout, store = environment.layout, environment.store
    packs = ((row.key, store.stat(row.key).version) for row in store.list(layout.packs))
    decisive = (layout.tenant, replace(head, epoch=0, write_id=head.state_id).encode(), *packs)
    if decisive not in KEPT:
        if len(KEPT) >= KNOWN_MAX:
            KEPT.clear()
        revisions = filter(head.retains, range(1, head.revision + 1))
        refs = {revision: _loaded_ref(environment, head.session_id, revision) for revision in revisions}
        KEPT[decisive] = Kept(packs_named(store, layout, head), refs)
    return KEPT[decisive]


def _loaded_ref(environment: Environment, session_id: str, revision: int) -> BlobRef:
    try:
        state = load(environment, session_id, revision=revision, execution_state=True).state
    except (SnapshotError, StorageError) as error:
        raise AssertionError(
            f"revisions stay: revision {revision} of {session_id} cannot be loaded: {error}"
        ) from error
    assert state.session_graph.active_path_nodes()
    assert state.checkpoint_ref is not None
    return state.checkpoint_ref


def _check_commit(environment: Environment, one: Commit) -> None:
    try:
        read = read_live_head(environment, one.session_id)
    except SnapshotError:
        return  # deleted: nobody can ask for its history any more
    rows = {row.revision: row.commit_id for row in read_history(environment, read.head)}
    for revision, result in one.acknowledged.items():
        assert rows.get(revision) == result.commit_id, f"acknowledged: revision {revision} of {one.session_id} is lost"
    ids = list(rows.values())
    assert len(ids) == len(set(ids)), f"acknowledged: a commit stands twice in {one.session_id}"
    assert not one.refused & set(ids), f"refused: a commit that was refused stands in {one.session_id}"


# Actors.


Role = Callable[[Protocol], Actor]


def writer(name: str, session_id: str, turns: int = 1, limits: Limits = APART) -> Role:
    """Return a role that commits turns on the state as it was at the start."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(session_id)

        def act(store: ObjectStore, clock: Clock) -> None:
            state = world.start.states[session_id].copy()
            for number in range(turns):
                take_turn(state, f"{name}{number}")
                noted_commit(environment_of(store, clock, limits), state, notes)

        return act

    return role


def noted_commit(environment: Environment, state: PersistedSessionState, notes: Commit) -> None:
    """Commit, and note what was told."""
    try:
        result = commit(environment, state, None, execution_state=None)
    except CommitUnknownError:
        raise
    except (SnapshotError, StorageError):
        pending = tracking_of(state).pending
        if pending is not None:
            notes.refused.add(pending.commit_id)
        raise
    notes.acknowledged[result.head_revision] = result


def creator(name: str, session_id: str) -> Role:
    """Return a role that creates a session."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(session_id)

        def act(store: ObjectStore, clock: Clock) -> None:
            noted_commit(environment_of(store, clock), new_session(session_id, f"{name}1"), notes)

        return act

    return role


def forker(source: str, child: str, revision: int | None = None) -> Role:
    """Return a role that forks a revision of the source, the present one by default."""

    def role(world: Protocol) -> Actor:
        def act(store: ObjectStore, clock: Clock) -> None:
            world.forked[child] = fork(environment_of(store, clock), ForkRequest(source, child, revision))

        return act

    return role


def deleter(session_id: str, layout: Layout = LAYOUT) -> Role:
    """Return a role that deletes a session."""

    def role(world: Protocol) -> Actor:  # noqa: ARG001  a role
        def act(store: ObjectStore, clock: Clock) -> None:
            delete(environment_of(store, clock, layout=layout), session_id)

        return act

    return role


def dropper(name: str, session_id: str) -> Role:
    """Return a role that commits the graph afresh in one pack, and then keeps no other revision, as a prune does."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(session_id)

        def act(store: ObjectStore, clock: Clock) -> None:
            environment = environment_of(store, clock, MERGED)
            state = world.start.states[session_id].copy()
            take_turn(state, name)
            state.graph_replace_required = True
            noted_commit(environment, state, notes)
            read = read_live_head(environment, session_id)
            rewrite_head(environment, read, lambda head: replace(head, floor=head.revision, state_id=clock.new_id()))

        return act

    return role


def rewinder(name: str, session_id: str, revision: int, limits: Limits = APART) -> Role:
    """Return a role that restores an earlier revision."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(session_id)

        def act(store: ObjectStore, clock: Clock) -> None:
            result = go_back(environment_of(store, clock, limits), session_id, revision, kind=RESTORE)
            notes.acknowledged[result.head_revision] = result

        return act

    return role


def owner(name: str, session_id: str) -> Role:
    """Return a role that takes a session over, and commits a turn on what it found."""

    def role(world: Protocol) -> Actor:
        notes = world.commits[name] = Commit(session_id)

        def act(store: ObjectStore, clock: Clock) -> None:
            taken = acquire(environment_of(store, clock), session_id, name)
            take_turn(taken.state, name)
            try:
                result = taken.commit(taken.state, TurnStamp(f"turn of {name}"))
            except RevisionConflictError as error:
                raise AssertionError(f"owner: somebody committed after {name} took over: {error}") from error
            notes.acknowledged[result.head_revision] = result

        return act

    return role


def collector(runs: int = 1, layout: Layout = LAYOUT) -> Role:
    """Return a role that collects."""

    def role(world: Protocol) -> Actor:  # noqa: ARG001  a role
        def act(store: ObjectStore, clock: Clock) -> None:
            for _ in range(runs):
                collect_once(environment_of(store, clock, layout=layout))

        return act

    return role


def real_collector(runs: int = 1, *, batch_packs: int = BATCH_PACKS, layout: Layout = LAYOUT) -> Role:
    """Return a role that collects as the command does: plan, then execute."""

    def role(world: Protocol) -> Actor:
        def act(store: ObjectStore, clock: Clock) -> None:
            for _ in range(runs):
                plan = plan_on(environment_of(store, clock, layout=layout))
                report = execute(plan, batch_packs=batch_packs)
                world.batches = max(world.batches, report.batches)

        return act

    return role


def collect_once(environment: Environment) -> None:
    """Collect as an actor does; mutants replace it."""
    collect(environment)
