"""`Stage`: one world of a seeded run – a store under watch, the weather over it, and hosts that work on it.

Rules:
1. All of it follows from the seed: who plays, what each does, what fails, who goes when.
2. A request of a process that crashed raises `ProcessCrash` until the process is started again; a power cut ends all.
3. After every request the watch is asked; in the end every operation must be explained by one order
   (`operations.problems`), every live session loads (its present revision and two more) with what was committed, and
   two quiet collections leave nothing that no head names.
4. One run in three has a second tenant, into which sessions are copied (`copies`): all this holds there too.

    stage = Stage(7)
    with Simulation(stage) as simulation: …
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from snapshots.commit import commit
from snapshots.environment import Environment
from snapshots.head import LIVE, TOMBSTONE, Head, Origin
from snapshots.history import HistoryRow
from snapshots.layout import Layout
from snapshots.maintenance.collect import execute, plan_on
from snapshots.reading import read_history
from snapshots.restore import load
from snapshots.state import PersistedSessionState, graph
from snapshots.testing.collector import collect
from snapshots.testing.simulation import copies
from snapshots.testing.simulation.copies import Written, by_session, is_as_it_was
from snapshots.testing.simulation.hosts import (
    SAVED,
    Content,
    Host,
    Notes,
    ProcessCrash,
    Role,
    content_of,
    environment_in,
    take_turn,
)
from snapshots.testing.simulation.operations import chain_of, problems
from snapshots.testing.simulation.roles import COPY_ROLES, ROLES
from snapshots.testing.simulation.watch import COPIES, HOME, Watch, packs_named, succession_of_copies
from snapshots.testing.simulation.weather import CRASH_AFTER, CRASH_BEFORE, FULL, POWER_CUT, Weather
from storage.backends.local import LocalStore
from storage.backends.memory import MemoryStore
from storage.executor import InlineExecutor
from storage.store import Create, ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.disk import SimulatedDisk
from storage.testing.draws import Draws
from storage.testing.faults import FaultyStore
from storage.testing.plan import Crash
from storage.testing.simulation import Ending, RunningClock, World
from storage.testing.simulation.requests import Outcome, Request, carry_out

LAYOUT = Layout("default")
CUT_WITHIN = 300  # requests: a power cut falls on one of them
FULL_FOR = 15  # requests: so long a disk is full
ON_DISK = 5  # one run in so many is on a simulated disk
COPYING = 3  # one run in so many has copies
_CRASHED = ("crashed",)


def environment_on(store: ObjectStore, clock: ManualClock) -> Environment:
    """Return what an operation works with, in one thread."""
    return Environment(store, LAYOUT, clock, InlineExecutor(), home=HOME)


class Stage(World):
    """The world of one seed.

    Args:
        seed: Of everything.

    Attributes:
        seed: It.
        notes: What happened.
        watch: The store without faults.
        copies: The same, of the tenant that is copied to.
    """

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.notes = Notes(Weather(Draws(f"weather {seed}"), LAYOUT.heads))
        self._draws = draws = Draws(f"stage {seed}")
        self._disk = SimulatedDisk(ManualClock()) if draws.below(ON_DISK) == 0 else None
        self._disk_clock = ManualClock(seed=97)
        self._full_from = 1 + draws.below(CUT_WITHIN)
        self._cut_at = 1 + draws.below(CUT_WITHIN)
        self.watch = Watch(self._filled(), LAYOUT, lambda: self.notes.instant, self.notes.head_written)
        self.copies = Watch(self.watch, COPIES, lambda: self.notes.instant, self._copy_written, succession_of_copies)
        self._faulty = FaultyStore(self.copies, self.notes.weather)
        cast, copying = _cast(ROLES, draws), Draws(f"copies {seed}")
        if copying.below(COPYING) == 0:
            cast += _cast(COPY_ROLES, copying)
        hosts = [Host(name, role, self.notes, seed, LAYOUT) for name, role in cast]
        super().__init__({host.name: host.live for host in hosts}, self.copies)

    # Requests.

    def answer(self, actor: str, request: Request) -> Outcome:
        """Send a request through the weather (rule 2)."""
        self.notes.instant += 1
        if actor in self.notes.dead:
            return Outcome(None, ProcessCrash(actor), _CRASHED)
        if self._disk is not None and self.notes.instant == self._cut_at:
            self._disk.crash_at = self._disk.calls + 1 + self._draws.below(8)
        if self._disk is not None and request.verb == "put":
            self._disk.full = self._full_from <= self.notes.instant < self._full_from + FULL_FOR
            self.notes.weather.counts[FULL] += self._disk.full
        self.notes.weather.actor = actor
        crash = self.notes.weather.crash()
        if crash == CRASH_BEFORE:
            return self._crashed(actor)
        try:
            outcome = carry_out(self._faulty, request)
        except Crash:
            self._power_cut()
            return self._crashed(actor)
        return self._crashed(actor) if crash == CRASH_AFTER else outcome

    def _crashed(self, actor: str) -> Outcome:
        self.notes.dead.add(actor)
        return Outcome(None, ProcessCrash(actor), _CRASHED)

    def _power_cut(self) -> None:
        assert self._disk is not None, "only a disk crashes by itself"
        self.notes.weather.counts[POWER_CUT] += 1
        self._disk.power_cut(self._draws)
        self.notes.dead |= set(self.actors)
        self.watch.moved_to(self._on_disk(self._disk))
        self.copies.moved_to(self.watch)
        self._faulty = FaultyStore(self.copies, self.notes.weather)  # what was still under way is gone

    def _on_disk(self, disk: SimulatedDisk) -> LocalStore:
        """Return a process's store on the disk; its temporary files have names that were never given."""
        return LocalStore(Path("/store"), disk=disk, clock=self._disk_clock)

    def _filled(self) -> ObjectStore:
        store: ObjectStore = MemoryStore(ManualClock()) if self._disk is None else self._on_disk(self._disk)
        objects, contents = _start()
        for key, data in objects.items():
            store.put(key, data, Create())
        self.notes.contents.update(contents)
        return store

    # Checks.

    def check_step(self) -> None:
        """Check what must hold after every request."""
        self.watch.check()
        self.copies.check()
        assert not self.notes.wrong, "; ".join(self.notes.wrong)

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        """Check what must hold when nobody is left, and everything late has arrived (rule 3)."""
        raised = {name: ending.text for name, ending in endings.items() if ending.how == "raised"}
        assert not raised, f"raised: {raised}"
        self.notes.weather.end()
        if self._disk is not None:
            self._disk.crash_at, self._disk.full = None, False
        self._faulty.release()
        self.check_step()
        self._check_operations(LAYOUT, self._by_session())
        environment = environment_on(self.copies, ManualClock(seed=98))
        self._check_contents(environment)
        self._check_satellites(environment)
        if self.copies.written:
            self._check_copies(environment)
        self._check_collected(environment)

    def _by_session(self) -> Written:
        return by_session(self.watch)

    def _check_operations(self, layout: Layout, written: Written) -> None:
        chains = {session_id: chain_of(rows) for session_id, rows in written.items()}
        found = problems((one for one in self.notes.operations if one.tenant == layout.tenant), chains)
        assert not found, "; ".join(found)

    def _check_collected(self, environment: Environment) -> None:
        for _ in range(2):
            execute(plan_on(environment))
        collect(environment)
        self.check_step()
        _check_nothing_left(environment)

    def _copy_written(self, head: Head) -> None:
        """Note a head of a copy, and look at it."""
        notes, session_id = self.notes.copies, head.session_id
        if head.status == LIVE and session_id not in notes.live:
            notes.live.append(session_id)
        elif head.status == TOMBSTONE and session_id in notes.live:
            notes.live.remove(session_id)
        if head.status == LIVE and session_id not in notes.changed and not is_as_it_was(head, self._by_session()):
            self.notes.wrong.append(f"as it was: revision {head.revision} of {session_id} is copied as another")

    def _check_copies(self, environment: Environment) -> None:
        here, written, notes = environment_in(environment, COPIES), by_session(self.copies), self.notes.copies
        self._check_operations(COPIES, written)
        found = list(copies.problems(notes, self._by_session(), written))
        live = [name for name, rows in self._by_session().items() if rows[-1].head.status == LIVE]
        found += copies.differences(notes, environment, here, [name for name in live if name not in SAVED])
        assert not found, "; ".join(found)
        for rows in by_session(self.copies).values():
            if rows[-1].head.status == LIVE:
                self._check_session(here, rows[-1].head, {})
        self._check_collected(here)

    def _check_satellites(self, environment: Environment) -> None:
        found = self.notes.satellites.problems(
            environment,
            lambda session_id: self.watch.is_deleted(LAYOUT.head(session_id)),
            self.watch.satellites.expired,
        )
        assert not found, "; ".join(found)

    def _check_contents(self, environment: Environment) -> None:
        read: dict[tuple[str, int], Content] = {}
        for session_id, revision, content in self.notes.reads:
            first = read.setdefault((session_id, revision), content)
            assert first == content, f"revision {revision} of {session_id} was read as {first} and as {content}"
        for rows in self._by_session().values():
            head = rows[-1].head
            if head.status == LIVE and head.session_id not in SAVED:
                self._check_session(environment, head, read)

    def _check_session(self, environment: Environment, head: Head, read: Mapping[tuple[str, int], Content]) -> None:
        session_id = head.session_id
        history = {row.revision: row for row in read_history(environment, head)}
        turns = [row.stamp.turn for row in _line(history, head.revision) if row.stamp is not None]
        assert len(turns) == len(set(turns)), f"a turn stands twice in {session_id}"
        retained = [number for number in history if head.retains(number)]
        for revision in {head.revision, self._draws.pick(retained), self._draws.pick(retained)}:
            state = load(environment, session_id, revision=revision, execution_state=True).state
            content = content_of(state)
            expected = self._expected(head, history, revision)
            assert expected in (None, content), f"revision {revision} of {session_id} is {content}, not {expected}"
            seen = read.get((session_id, revision), content)
            assert seen == content, f"revision {revision} of {session_id} was read as {seen}, and is {content}"

    def _expected(self, head: Head, history: Mapping[int, HistoryRow], revision: int) -> Content | None:
        """Return what was committed as a revision; None if that can no longer be found out."""
        row = history[revision]
        if row.commit_id in self.notes.contents:
            return self.notes.contents[row.commit_id]
        if row.parent:
            return self._expected(head, history, row.parent)
        assert head.origin is not None, f"nobody committed revision {revision} of {head.session_id}"
        return self._of_origin(head.origin)

    def _of_origin(self, origin: Origin) -> Content | None:
        """Return what was committed as the revision that a fork came from."""
        heads = [one.head for one in self._by_session().get(origin.session_id, [])]
        commit_ids = (one.commits.commit_id(origin.revision) for one in reversed(heads) if one.revision)
        known = next((commit_id for commit_id in commit_ids if commit_id in self.notes.contents), None)
        if known is not None:
            return self.notes.contents[known]
        first = next((one for one in heads if one.status == LIVE), None)
        if first is None or first.origin is None or origin.revision != 1:
            return None
        return self._of_origin(first.origin)


def _check_nothing_left(environment: Environment) -> None:
    store, layout, named = environment.store, environment.layout, set[str]()
    for row in store.list(layout.heads):
        named |= packs_named(store, layout, Head.decode(store.get(row.key).data, key=row.key))
    left = {row.key for row in store.list(layout.packs)}
    assert left == named, f"left behind: {sorted(left - named)}; lost: {sorted(named - left)}"


def _line(history: Mapping[int, HistoryRow], revision: int) -> Iterable[HistoryRow]:
    while revision:
        yield history[revision]
        revision = history[revision].parent


@contextmanager
def running_clock() -> Iterator[None]:
    """Give the graph, which has one clock for all, the clock of the host that runs."""
    kept = graph._clock
    graph._clock = RunningClock(ManualClock())
    try:
        yield
    finally:
        graph._clock = kept


def _cast(roles: Mapping[str, Role], draws: Draws) -> list[tuple[str, Role]]:
    """Draw who plays: of every role so many as it says."""
    return [
        (f"{name}{number + 1}", role)
        for name, role in roles.items()
        for number in range(role.least + draws.below(role.most - role.least + 1))
    ]


@cache
def _start() -> tuple[Mapping[str, bytes], Mapping[str, Content]]:
    """Return the objects with which every run begins: two sessions of some revisions, and what these hold."""
    store, clock = MemoryStore(ManualClock()), ManualClock(seed=99)
    with running_clock():
        contents = _sessions(environment_on(store, clock))
    return {row.key: store.get(row.key).data for row in store.list("")}, contents


def _sessions(environment: Environment) -> Mapping[str, Content]:
    contents = {}
    for session_id, revisions in (("s1", 4), ("s2", 1)):
        state = PersistedSessionState(session_id=session_id)
        for number in range(1, revisions + 1):
            take_turn(state, f"{session_id}.{number}")
            execution = f"execution {number} ".encode() * 40 if number % 2 else None
            result = commit(environment, state, None, execution_state=execution)
            contents[result.commit_id] = content_of(state)
    return contents
