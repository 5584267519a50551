"""Updates from what a process knows already: never on what others have left behind, and at the cost of what is new."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, cast

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.errors import (
    CorruptSnapshotError,
    FencedError,
    InvalidStateError,
    SessionDeletedError,
    TurnConflictError,
)
from snapshots.recent import STATES_MAX
from snapshots.rivalry import OTHERS_SECONDS, WINS_ALONE_MAX, WINS_MAX
from snapshots.state import AppendedNodes, PluginSessionSnapshot, StaleBranch
from snapshots.state.plugins import PluginSnapshot, PluginSnapshotMeta
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, Fault, FaultPlan, FaultyStore
from tests.integration.builders import PUT_FAULTS, SESSION, message, message_ids, new_session, take_turn, usage_of
from tests.snapshots.damage import flip

Change = Callable[[PersistedSessionState], None]


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repo(store: MemoryStore) -> Iterator[SnapshotRepository]:
    with SnapshotRepository(store, clock=ManualClock(seed=1)) as opened:
        opened.commit(new_session(SESSION, "start0"))
        opened.update(SESSION, turn_called("known0"))  # from here on it knows the session
        yield opened


@pytest.fixture
def other(store: MemoryStore, repo: SnapshotRepository) -> Iterator[SnapshotRepository]:
    assert repo.tenant == "default", "the session is there"
    with SnapshotRepository(store, clock=ManualClock(seed=2)) as opened:
        yield opened


def turn_called(name: str, seen: list[int | None] | None = None) -> Change:
    def change(state: PersistedSessionState) -> None:
        if seen is not None:
            seen.append(state.head_revision)
        take_turn(state, name)

    return change


def says_much(state: PersistedSessionState) -> None:
    text = "".join(f"{number * 7919 % 1000003:x}" for number in range(20_000))
    state.append_session_nodes([message(f"much{state.head_revision}", text)])


def requests_of(repo: SnapshotRepository, work: Callable[[], object]) -> dict[str, int]:
    before = repo.metrics.snapshot()
    work()
    used = repo.metrics.snapshot() - before
    return {verb: count.requests for verb, count in used.verbs.items() if count.requests}


# What it takes.


def test_an_update_on_what_is_known_is_one_request(repo: SnapshotRepository) -> None:
    assert requests_of(repo, lambda: repo.update(SESSION, turn_called("a1"))) == {"put": 1}


def test_who_was_passed_by_others_reads_the_head_and_nothing_else(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    other.update(SESSION, turn_called("b1"))
    refused = requests_of(repo, lambda: repo.update(SESSION, turn_called("a1")))
    assert refused == {"put": 2, "get": 2}  # refused, read why, read what is new, sent
    other.update(SESSION, turn_called("b2"))
    expecting = requests_of(repo, lambda: repo.update(SESSION, turn_called("a2")))
    assert expecting == {"put": 1, "get": 1}  # others were met: it looks before it works
    assert requests_of(repo, lambda: repo.update(SESSION, turn_called("a3"))) == {"put": 1, "get": 1}
    assert requests_of(repo, lambda: repo.update(SESSION, turn_called("a4"))) == {"put": 1}
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "b1", "a1", "b2", "a2", "a3", "a4"]


def test_packs_of_others_are_read_once(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    for _ in range(3):
        other.update(SESSION, says_much)
    reads = requests_of(repo, lambda: repo.update(SESSION, turn_called("a1")))
    assert reads["get"] <= 2 + 3  # why it was refused, the head, and each pack
    other.update(SESSION, says_much)
    reads = requests_of(repo, lambda: repo.update(SESSION, turn_called("a2")))
    assert reads["get"] == 2


# Nothing is lost.


def test_interleaved_updates_lose_nothing(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    names = [f"{who}{number}" for number in range(30) for who in ("aab" if number % 3 else "abb")]
    unique = [f"{name}-{index}0" for index, name in enumerate(names)]
    for name in unique:
        (repo if name[0] == "a" else other).update(SESSION, turn_called(name))
    ids = message_ids(repo.load(SESSION))
    assert ids == ["start0", "known0", *unique]
    assert len({row.commit_id for row in repo.history(SESSION)}) == len(ids)


def test_a_race_lost_on_what_is_known_is_run_again_on_what_is_new(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    other.update(SESSION, turn_called("b1"))
    seen: list[int | None] = []
    assert repo.update(SESSION, turn_called("a1", seen)).head_revision == 4
    assert seen == [2, 3]
    assert usage_of(repo.load(SESSION)) == {"start": 1, "known": 1, "b": 1, "a": 1}


@pytest.mark.parametrize("fault", PUT_FAULTS.values(), ids=PUT_FAULTS)
def test_whatever_becomes_of_a_put_it_is_one_commit(store: MemoryStore, fault: Fault) -> None:
    plan = FaultPlan()
    with SnapshotRepository(FaultyStore(store, plan), clock=ManualClock()) as repo:
        repo.commit(new_session(SESSION, "start0"))
        repo.update(SESSION, turn_called("a1"))
        plan.on("put", "/heads/", fault=fault)
        repo.update(SESSION, turn_called("a2"))
        repo.update(SESSION, turn_called("a3"))
        assert message_ids(repo.load(SESSION)) == ["start0", "a1", "a2", "a3"]
        assert len(repo.history(SESSION)) == 4


def test_what_is_known_belongs_to_nobody_else(repo: SnapshotRepository) -> None:
    kept: list[PersistedSessionState] = []

    def change(state: PersistedSessionState) -> None:
        kept.append(state)
        take_turn(state, "a1")

    repo.update(SESSION, change)
    kept[0].session_graph.append_message(message("never committed"))
    kept[0].turn_index = 99
    repo.update(SESSION, turn_called("a2"))
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "a1", "a2"]
    assert repo.load(SESSION).turn_index == 4


# What does not end in a commit is decided by what is stored.


class RefusedError(Exception):
    """A function did not want to."""


def test_a_refusal_on_what_is_stale_is_asked_again(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    other.update(SESSION, turn_called("b1"))

    def after_b1(state: PersistedSessionState) -> None:
        if "b1" not in message_ids(state):
            raise RefusedError
        take_turn(state, "a1")

    repo.update(SESSION, after_b1)
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "b1", "a1"]


def test_a_refusal_on_what_stands_there_stands(repo: SnapshotRepository) -> None:
    calls: list[int | None] = []

    def refuse(state: PersistedSessionState) -> None:
        calls.append(state.head_revision)
        raise RefusedError

    def refused() -> None:
        with pytest.raises(RefusedError):
            repo.update(SESSION, refuse)

    assert requests_of(repo, refused) == {"get": 1}
    assert calls == [2]
    assert requests_of(repo, lambda: repo.update(SESSION, turn_called("a1"))) == {"put": 1}


def test_a_refusal_of_what_was_read_is_the_last_word(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    other.update(SESSION, turn_called("b1"))
    calls: list[int | None] = []

    def refuse(state: PersistedSessionState) -> None:
        calls.append(state.head_revision)
        raise RefusedError

    with pytest.raises(RefusedError):
        repo.update(SESSION, refuse)
    assert calls == [2, 3]
    assert len(repo.history(SESSION)) == 3


def test_a_state_that_cannot_be_stored_because_it_is_stale_is_made_again(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    other.update(SESSION, turn_called("b1"))

    def break_the_stale_one(state: PersistedSessionState) -> None:
        take_turn(state, "a1")
        if state.session_graph.find_node("b1") is None:
            state.session_graph.set_leaf_node_id("nowhere")

    repo.update(SESSION, break_the_stale_one)
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "b1", "a1"]
    with pytest.raises(InvalidStateError):
        repo.update(SESSION, lambda state: state.session_graph.set_leaf_node_id("nowhere"))


def test_a_function_that_commits_by_itself_is_not_run_again(repo: SnapshotRepository) -> None:
    calls: list[int | None] = []

    def commit_and_fail(state: PersistedSessionState) -> None:
        calls.append(state.head_revision)
        take_turn(state, "a1")
        repo.commit(state)
        raise RefusedError

    with pytest.raises(RefusedError):
        repo.update(SESSION, commit_and_fail)
    assert calls == [2]
    repo.update(SESSION, turn_called("a2"))
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "a1", "a2"]


def test_a_branch_is_stale_only_if_it_is_so_in_the_store(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    other.append_session_nodes(SESSION, [message("b1")])
    appended = repo.append_session_nodes(SESSION, [message("a1")], requires_ancestor_node_id="b1")
    assert isinstance(appended, AppendedNodes)
    other.update(SESSION, lambda state: state.session_graph.branch_to("start0"))
    stale = repo.append_session_nodes(SESSION, [message("a2")], requires_ancestor_node_id="a1")
    assert stale == StaleBranch("start0")
    assert message_ids(repo.load(SESSION)) == ["start0"]


# Turns.


def test_a_turn_that_others_committed_meanwhile_is_not_applied_again(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    stamp = TurnStamp("t1", "content")
    done = other.update(SESSION, turn_called("t1"), stamp)
    assert repo.update(SESSION, turn_called("t1"), stamp).commit_id == done.commit_id
    assert repo.update(SESSION, turn_called("t1"), stamp).commit_id == done.commit_id
    assert usage_of(repo.load(SESSION))["t"] == 1
    with pytest.raises(TurnConflictError):
        repo.update(SESSION, turn_called("t1"), TurnStamp("t1", "other"))


def test_a_turn_that_was_left_behind_meanwhile_is_applied_again(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    stamp = TurnStamp("t1", "content")
    repo.update(SESSION, turn_called("t1"), stamp)
    other.rewind(SESSION, 2)
    again = repo.update(SESSION, turn_called("t1"), stamp)
    assert again.head_revision == 5
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "t1"]
    other.rewind(SESSION, 2)
    other.update(SESSION, turn_called("b1"))
    repo.update(SESSION, turn_called("t1"), TurnStamp("t1", "other"))  # no conflict: it was left behind
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "b1", "t1"]


# Ends of a session.


def test_a_session_that_was_deleted_meanwhile_says_so(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    other.delete(SESSION)
    for change in (turn_called("a1"), _refuse, turn_called("a2")):
        with pytest.raises(SessionDeletedError):
            repo.update(SESSION, change)


def _refuse(_: PersistedSessionState) -> None:
    raise RefusedError


def test_a_session_that_was_acquired_meanwhile_says_so(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    writer = other.acquire(SESSION, "owner")
    for name in ("a1", "a2"):
        with pytest.raises(FencedError):
            repo.update(SESSION, turn_called(name))
    writer.release()
    repo.update(SESSION, turn_called("a3"))
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "a3"]


def test_a_store_that_does_not_answer_leaves_what_is_there(store: MemoryStore) -> None:
    plan = FaultPlan()
    with SnapshotRepository(FaultyStore(store, plan), clock=ManualClock()) as repo:
        repo.commit(new_session(SESSION, "start0"))
        repo.update(SESSION, turn_called("a1"))
        plan.on("put", "/heads/", fault=FailBefore("no"), times=None)
        with pytest.raises(UnavailableError):
            repo.update(SESSION, turn_called("a2"))
        plan.clear()
        repo.update(SESSION, turn_called("a3"))
        assert message_ids(repo.load(SESSION)) == ["start0", "a1", "a3"]


def test_what_others_wrote_and_was_damaged_is_corruption(
    store: MemoryStore, repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    other.update(SESSION, says_much)
    (pack,) = (row.key for row in store.list("default/packs/"))
    flip(store, pack, store.stat(pack).size_bytes // 3)
    for _ in range(2):
        with pytest.raises(CorruptSnapshotError):
            repo.update(SESSION, turn_called("a1"))


# Within one process.


def test_a_function_may_update_its_own_session_and_others(repo: SnapshotRepository) -> None:
    repo.commit(new_session("s2", "x0"))
    nested: list[int] = []

    def change(state: PersistedSessionState) -> None:
        if not nested:
            nested.append(repo.update(SESSION, turn_called("inner1")).head_revision)
            nested.append(repo.update("s2", turn_called("x1")).head_revision)
        take_turn(state, "outer1")

    assert repo.update(SESSION, change).head_revision == 4
    assert nested == [3, 2]
    assert message_ids(repo.load(SESSION)) == ["start0", "known0", "inner1", "outer1"]


def test_functions_that_update_each_others_sessions_end(repo: SnapshotRepository) -> None:
    repo.commit(new_session("s2", "x0"))
    both_within = threading.Barrier(2)

    def crossing(mine: str, theirs: str) -> None:
        entered: list[bool] = []

        def change(state: PersistedSessionState) -> None:
            if not entered:
                entered.append(True)
                both_within.wait(30)
                repo.update(theirs, turn_called(f"from_{mine}_0"))
            take_turn(state, f"own_{mine}_0")

        repo.update(mine, change)

    with ThreadPoolExecutor(2) as pool:
        ends = [pool.submit(crossing, SESSION, "s2"), pool.submit(crossing, "s2", SESSION)]
        for end in ends:
            end.result(60)
    assert sorted(message_ids(repo.load("s2"))) == ["from_s1_0", "own_s2_0", "x0"]


def test_threads_of_one_process_take_one_request_each(repo: SnapshotRepository) -> None:
    def work(number: int) -> None:
        for turn in range(8):
            repo.update(SESSION, turn_called(f"{'abcdefgh'[number]}{turn}"))

    with ThreadPoolExecutor(8) as pool:
        used = requests_of(repo, lambda: list(pool.map(work, range(8))))
    assert used["put"] <= 64 + 8  # and the packs
    assert used.get("get", 0) <= 64 // WINS_ALONE_MAX + 1
    ids = message_ids(repo.load(SESSION))
    assert len(ids) == len(set(ids)) == 66


def test_what_is_kept_is_bounded_in_number(repo: SnapshotRepository) -> None:
    for number in range(STATES_MAX + 8):
        repo.commit(new_session(f"many{number}", "x0"))
        repo.update(f"many{number}", turn_called("x1"))
    assert repo._updates.known_sessions == STATES_MAX


def test_what_is_kept_is_bounded_in_size(repo: SnapshotRepository, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repo._updates._known, "_bytes_max", 1 << 20)
    for number in range(4):
        repo.commit(new_session(f"large{number}", "x0"))
        repo.update(f"large{number}", lambda state: state.set_execution_state_snapshot(bytes(300_000)))
    assert repo._updates.known_sessions == 3
    repo.update("large0", lambda state: state.set_execution_state_snapshot(b"x" * 2_000_000))
    assert repo._updates._known.find("large0") is None  # alone it is too large
    assert repo._updates.known_sessions == 3
    repo.update("large0", turn_called("x1"))
    assert message_ids(repo.load("large0")) == ["x0", "x1"]


# Others get their turn.


def slow_turn(clock: ManualClock, name: str, *, seconds: float) -> Change:
    def change(state: PersistedSessionState) -> None:
        clock.advance(seconds)
        take_turn(state, name)

    return change


def test_who_wins_for_ever_lets_others_go_first(store: MemoryStore) -> None:
    clock = ManualClock()
    with SnapshotRepository(store, clock=clock) as repo:
        repo.commit(new_session(SESSION, "start0"))
        for number in range(2 * WINS_ALONE_MAX):
            repo.update(SESSION, slow_turn(clock, f"a{number}", seconds=0.1))
    assert len(clock.sleeps) == 1
    assert 0.1 <= clock.sleeps[0] <= 0.3  # a win takes 0.1


def test_who_is_away_longer_than_that_does_not_wait(store: MemoryStore) -> None:
    clock = ManualClock()
    with SnapshotRepository(store, clock=clock) as repo:
        repo.commit(new_session(SESSION, "start0"))
        for number in range(2 * WINS_ALONE_MAX):
            clock.advance(0.3)
            repo.update(SESSION, slow_turn(clock, f"a{number}", seconds=0.1))
    assert clock.sleeps == []


def test_who_has_met_others_lets_them_go_first_more_often(store: MemoryStore) -> None:
    clock = ManualClock()
    with SnapshotRepository(store, clock=clock) as repo, SnapshotRepository(store, clock=ManualClock(seed=9)) as other:
        repo.commit(new_session(SESSION, "start0"))
        repo.update(SESSION, turn_called("a0"))
        other.update(SESSION, turn_called("b0"))
        for number in range(WINS_MAX):
            repo.update(SESSION, slow_turn(clock, f"c{number}", seconds=0.01))
        assert clock.sleeps == []
        repo.update(SESSION, turn_called("d0"))
        assert len(clock.sleeps) == 1
        clock.advance(OTHERS_SECONDS)
        for number in range(WINS_MAX + 1):
            repo.update(SESSION, slow_turn(clock, f"e{number}", seconds=0.01))
        assert len(clock.sleeps) == 1  # nobody was there any more


def test_patience_outlives_an_update(store: MemoryStore) -> None:
    class Longest(ManualClock):
        def random(self) -> float:
            return 0.9999

    clock = Longest()
    with SnapshotRepository(store, clock=clock) as repo, SnapshotRepository(store, clock=ManualClock(seed=9)) as other:
        repo.commit(new_session(SESSION, "start0"))

        def beaten(times: int, name: str) -> list[float]:
            left, before = [times], len(clock.sleeps)

            def change(state: PersistedSessionState) -> None:
                if left[0]:
                    left[0] -= 1
                    other.update(SESSION, turn_called(f"b_{name}_{left[0]}"))
                take_turn(state, name)

            repo.update(SESSION, change)
            return clock.sleeps[before:]

        assert beaten(3, "a1") == pytest.approx([0.01, 0.02, 0.04], rel=0.01)
        assert beaten(1, "a2") == pytest.approx([0.04], rel=0.01)  # who got through is a little less patient
        repo.update(SESSION, turn_called("a3"))
        repo.update(SESSION, turn_called("a4"))
        assert beaten(1, "a5") == []  # the state was not read, it had no chance
        clock.advance(OTHERS_SECONDS)
        assert beaten(2, "a6") == pytest.approx([0.01, 0.02], rel=0.01)


# What a function is given is its own.


def with_plugin(number: int) -> PluginSessionSnapshot:
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", state={"n": number})
    return PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)})


def plugin_state(state: PersistedSessionState) -> dict[str, Any]:
    assert state.plugin_snapshot is not None
    return cast(dict[str, Any], state.plugin_snapshot.plugins["p"].meta.state)


def test_what_was_changed_in_place_and_refused_is_never_stored(repo: SnapshotRepository) -> None:
    repo.update(SESSION, lambda state: setattr(state, "plugin_snapshot", with_plugin(0)))

    def refuses(state: PersistedSessionState) -> None:
        plugin_state(state)["n"] += 100
        raise RefusedError

    with pytest.raises(RefusedError):
        repo.update(SESSION, refuses)
    repo.update(SESSION, turn_called("later"))
    assert plugin_state(repo.load(SESSION)) == {"n": 0}


def test_what_was_changed_in_place_and_lost_is_changed_once(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    repo.update(SESSION, lambda state: setattr(state, "plugin_snapshot", with_plugin(0)))
    calls: list[int | None] = []

    def counts(state: PersistedSessionState) -> None:
        if not calls:
            other.update(SESSION, turn_called("rival"))
        calls.append(state.head_revision)
        plugin_state(state)["n"] += 1

    repo.update(SESSION, counts)
    assert len(calls) == 2
    assert plugin_state(repo.load(SESSION)) == {"n": 1}


def test_what_was_read_of_a_stale_state_makes_a_refusal_no_surer(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    state = repo.load(SESSION)
    repo.commit(take_turn(state, "with memory"), execution_state=b"x" * 1000)
    for name in ("read", "known"):
        repo.update(SESSION, turn_called(name))
    other.update(SESSION, turn_called("go"))
    seen: list[int | None] = []

    def waits(state: PersistedSessionState) -> None:
        seen.append(state.head_revision)
        assert repo.read_execution_state(state) == b"x" * 1000
        if "go" not in message_ids(state):
            raise RefusedError
        take_turn(state, "went")

    repo.update(SESSION, waits)
    assert len(seen) == 2
    assert message_ids(repo.load(SESSION))[-2:] == ["go", "went"]
