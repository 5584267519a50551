"""What is followed is what is loaded: whatever was committed since, by whom, and whatever the logs went through."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

import pytest

from snapshots import PersistedSessionState, PluginSessionSnapshot, SnapshotRepository, TokenUsage, ToolState
from snapshots.base import Base, tracking_of
from snapshots.following import advance, follow
from snapshots.restore import Loaded, load
from snapshots.state import PluginSnapshot, PluginSnapshotMeta
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from tests.integration.builders import SESSION, add_usage, message, new_session, take_turn

Step = Callable[[SnapshotRepository, random.Random, int], None]


def committed(change: Callable[[PersistedSessionState, random.Random, int], None]) -> Step:
    def step(repo: SnapshotRepository, draws: random.Random, number: int) -> None:
        state = repo.load(SESSION)
        change(state, draws, number)
        repo.commit(state)

    return step


@committed
def chats(state: PersistedSessionState, _: random.Random, number: int) -> None:
    take_turn(state, f"m{number}")


@committed
def writes_much(state: PersistedSessionState, draws: random.Random, number: int) -> None:
    state.append_session_nodes([message(f"much{number}", draws.randbytes(20_000).hex())])


@committed
def keeps_tools(state: PersistedSessionState, draws: random.Random, number: int) -> None:
    state.tool_state_snapshot = ToolState(generation=number + draws.randrange(2))


@committed
def keeps_plugins(state: PersistedSessionState, draws: random.Random, number: int) -> None:
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", state={"n": draws.random()})
    state.plugin_snapshot = PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)})
    state.plugin_snapshot_revision = number


@committed
def keeps_execution(state: PersistedSessionState, draws: random.Random, number: int) -> None:
    state.set_execution_state_snapshot(draws.randbytes(30_000) if number % 3 else None)


@committed
def pays(state: PersistedSessionState, draws: random.Random, number: int) -> None:
    add_usage(state, f"model{draws.randrange(3)}", TokenUsage(input_tokens=number))


@committed
def branches(state: PersistedSessionState, draws: random.Random, number: int) -> None:
    state.session_graph.branch_to(draws.choice(state.session_graph.visible_nodes).node_id)
    state.append_session_nodes([message(f"branch{number}")])


@committed
def hides(state: PersistedSessionState, _: random.Random, number: int) -> None:
    take_turn(state, f"h{number}")
    state.session_graph.tombstone_nodes(state.session_graph.orphaned_node_ids())


@committed
def writes_the_graph_afresh(state: PersistedSessionState, _: random.Random, number: int) -> None:
    state.session_graph.vacuum()
    state.graph_replace_required = True
    take_turn(state, f"fresh{number}")


def rewinds(repo: SnapshotRepository, draws: random.Random, _: int) -> None:
    repo.restore(SESSION, draws.randrange(1, len(repo.history(SESSION)) + 1))


def pins(repo: SnapshotRepository, draws: random.Random, number: int) -> None:
    repo.pin(SESSION, draws.randrange(1, len(repo.history(SESSION)) + 1), f"p{number}")


OFTEN: tuple[Step, ...] = (chats, chats, chats, writes_much, keeps_tools, keeps_plugins, pays)
SELDOM: tuple[Step, ...] = (keeps_execution, branches, hides, writes_the_graph_afresh, rewinds, pins)


def same_base(one: Base, other: Base) -> None:
    """Check that two bases say the same, but for what the first one has at hand beyond that."""
    for name in ("home", "head", "version", "checkpoint", "checkpoint_ref", "placement", "unstored"):
        assert getattr(one, name) == getattr(other, name), name
    assert other.full is None or one.full == other.full
    assert tuple(one.ledger) == tuple(other.ledger)
    for log in ("graph", "history", "places"):
        mine, theirs = getattr(one, log), getattr(other, log)
        assert (mine.at, mine.entries, b"".join(mine.chunks)) == (theirs.at, theirs.entries, b"".join(theirs.chunks))
        assert mine.hasher.ref() == theirs.hasher.ref()
    for kind, held in other.parts.held.items():
        assert one.parts.held[kind].data == held.data


def same(followed: Loaded, loaded: Loaded) -> None:
    assert followed.state == loaded.state
    mine, theirs = followed.state.session_graph, loaded.state.session_graph
    assert (mine.committed_count, mine.only_appended) == (theirs.committed_count, theirs.only_appended)
    assert mine.active_path_nodes() == theirs.active_path_nodes()
    assert [mine.node_index(node.node_id) for node in mine.nodes] == [
        theirs.node_index(node.node_id) for node in theirs.nodes
    ]
    same_base(followed.base, loaded.base)


def loaded_in(repo: SnapshotRepository) -> Loaded:
    return load(repo.environment, SESSION, revision=None, execution_state=False)


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repo(store: MemoryStore) -> Iterator[SnapshotRepository]:
    with SnapshotRepository(store, clock=ManualClock(seed=1)) as opened:
        opened.commit(new_session(SESSION, "start0"))
        yield opened


@pytest.mark.parametrize("seed", range(8))
def test_what_is_followed_is_what_is_loaded(store: MemoryStore, repo: SnapshotRepository, seed: int) -> None:
    draws = random.Random(seed)
    with SnapshotRepository(store, clock=ManualClock(seed=2)) as watcher:
        known = loaded_in(watcher)
        for number in range(1, 60):
            step = draws.choice(OFTEN if draws.random() < 0.85 else SELDOM)
            step(repo, draws, number)
            if draws.random() < 0.4:
                known = follow(watcher.environment, SESSION, known)
                same(known, loaded_in(watcher))


@pytest.mark.parametrize("seed", range(8))
def test_what_one_committed_itself_is_what_is_loaded(repo: SnapshotRepository, seed: int) -> None:
    draws = random.Random(seed)
    known: Loaded | None = loaded_in(repo)
    continued = 0
    for number in range(1, 60):
        known = known or loaded_in(repo)
        state = known.state.copy()
        state._base = type(tracking_of(state))(known.base)
        step = draws.choice(OFTEN if draws.random() < 0.9 else (branches, hides, writes_the_graph_afresh))
        step(_Given(state, repo), draws, number)  # type: ignore[arg-type]  # loads and commits is all that a step does
        base = tracking_of(state).base
        assert base is not None
        known = advance(repo.environment, known, base)
        if known is not None:
            continued += 1
            same(known, loaded_in(repo))
    assert continued > 30


class _Given:
    """Stands in for a repository where a step loads: it is given this state."""

    def __init__(self, state: PersistedSessionState, repo: SnapshotRepository) -> None:
        self._state = state
        self.commit = repo.commit

    def load(self, _: str) -> PersistedSessionState:
        return self._state


def test_a_fork_is_followed_from_its_first_revision(repo: SnapshotRepository) -> None:
    take = repo.load(SESSION)
    repo.commit(take_turn(take, "a1"))
    repo.fork(SESSION, "child")
    known = load(repo.environment, "child", revision=None, execution_state=False)
    for number in range(3):
        repo.commit(take_turn(repo.load("child"), f"c{number}"))
        known = follow(repo.environment, "child", known)
        same(known, load(repo.environment, "child", revision=None, execution_state=False))


def test_following_costs_what_is_new(repo: SnapshotRepository) -> None:
    draws = random.Random(7)
    for number in range(30):
        writes_much(repo, draws, number)
    known = loaded_in(repo)
    chats(repo, draws, 31)
    before = repo.metrics.snapshot()
    known = follow(repo.environment, SESSION, known)
    assert (repo.metrics.snapshot() - before).total_requests == 1  # what is new lies in the head
    writes_much(repo, draws, 32)
    before = repo.metrics.snapshot()
    follow(repo.environment, SESSION, known)
    used = repo.metrics.snapshot() - before
    assert used.total_requests == 2
    assert used["get"].bytes_in < 120_000  # of 1.2 MB
