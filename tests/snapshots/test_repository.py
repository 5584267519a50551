"""The repository as its users see it: what goes in comes out, at every revision, from any thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from snapshots import (
    PersistedSessionState,
    PluginSessionSnapshot,
    SessionPolicy,
    SnapshotRepository,
    TokenLedgerEntry,
    TokenUsage,
    ToolState,
    TurnStamp,
)
from snapshots.benchmarks.agent_turns import AgentTurns
from snapshots.errors import (
    InvalidStateError,
    RevisionConflictError,
    SessionNotFoundError,
    TurnConflictError,
)
from snapshots.state import ModeTurnOptions, PluginSnapshot, PluginSnapshotMeta, PromptUsage
from snapshots.update import ATTEMPTS_MAX
from storage.backends.memory import MemoryStore
from storage.digest import blob_ref
from storage.testing.clock import ManualClock
from tests.integration.builders import (
    SESSION,
    add_usage,
    check_every_revision,
    message,
    message_ids,
    new_session,
    take_turn,
    usage_of,
)
from tests.snapshots.records import TAIL, with_limits
from tests.snapshots.state.builders import call

THREADS = 8
TURNS_EACH = 10


@pytest.fixture
def store() -> MemoryStore:
    return MemoryStore()


@pytest.fixture
def repo(store: MemoryStore) -> Iterator[SnapshotRepository]:
    with SnapshotRepository(store, clock=ManualClock(seed=1)) as opened:
        yield opened


@pytest.fixture
def other(store: MemoryStore) -> Iterator[SnapshotRepository]:
    with SnapshotRepository(store, clock=ManualClock(seed=2)) as opened:
        yield opened


@pytest.fixture(params=["memory", "file"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotRepository]:
    url = "memory:" if request.param == "memory" else f"file:{tmp_path / 'store'}"
    with SnapshotRepository.open(url) as opened:
        yield opened


def described(state: PersistedSessionState) -> dict[str, Any]:
    """Return everything of a state that a load must give back."""
    plain = state.model_dump()
    return {name: plain[name] for name in plain if not name.endswith("_ref")}


# What goes in comes out.


def test_every_revision_loads_as_it_was(place: SnapshotRepository) -> None:
    state = PersistedSessionState(session_id=SESSION)
    expected = []
    for turn in AgentTurns(execution_state_bytes=16 << 10).turns(24):
        turn.apply(state)
        before = state.copy()
        result = place.commit(state, execution_state=turn.execution_state)
        expected.append((result, before, turn))
    for result, before, turn in expected:
        loaded = place.load(SESSION, result.head_revision, execution_state=True)
        assert loaded.checkpoint_ref == result.checkpoint_ref
        assert loaded.head_revision == result.head_revision
        assert loaded.execution_state_snapshot == turn.execution_state
        before.execution_state_snapshot = turn.execution_state
        assert described(loaded) == described(before)
        assert loaded.session_graph.committed_count == len(loaded.session_graph.nodes)
    check_every_revision(place)


def test_a_state_with_everything_comes_back_equal(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    state = new_session(SESSION, "a0")
    state.policy = SessionPolicy.model_validate({**state.policy.model_dump()})
    state.last_prompt_usage = PromptUsage(prompt_context_tokens=9, input_tokens=4, cached_input_tokens=5)
    state.token_usage = TokenUsage(input_tokens=-3, reasoning_tokens=2)
    state.mode_turn_options = ModeTurnOptions.model_validate(state.mode_turn_options.model_dump())
    state.replace_active_read_state(
        [message("m0", "héllo 語 \x00"), message("m1")], [call("c1", {"deep": [1.5, None]})]
    )
    state.session_graph.append_plugin("note", {"n": 1, "b": [True, -(1 << 63)]})
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=3, state={"x": [1]})
    plugins = PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)})
    state.stamp_runtime_state(ToolState(generation=4), plugins)
    state.plugin_snapshot_revision = 77
    before = state.copy()
    repo.commit(state)
    loaded = other.load(SESSION)
    assert described(loaded) == described(before)
    assert (loaded.tool_state_snapshot, loaded.plugin_snapshot) == (ToolState(generation=4), plugins)
    assert (loaded.tool_state_generation, loaded.plugin_snapshot_revision) == (4, 77)


def test_tools_and_plugins_stay_until_they_are_replaced_or_removed(repo: SnapshotRepository) -> None:
    state = new_session(SESSION)
    state.stamp_runtime_state(ToolState(generation=1), PluginSessionSnapshot())
    repo.commit(state)
    assert (state.tool_state_snapshot, state.plugin_snapshot) == (None, None)
    assert state.tool_state_ref is not None
    kept = repo.commit(take_turn(state, "a0"))
    assert kept.manifest.tool_state_ref == state.tool_state_ref
    loaded = repo.load(SESSION)
    assert loaded.tool_state_snapshot == ToolState(generation=1)
    loaded.stamp_runtime_state(ToolState(generation=2), None)
    loaded.plugin_snapshot_ref = None
    result = repo.commit(loaded)
    assert result.manifest.plugin_snapshot_ref is None
    again = repo.load(SESSION)
    assert (again.tool_state_snapshot, again.plugin_snapshot) == (ToolState(generation=2), None)
    assert repo.load(SESSION, 2).plugin_snapshot == PluginSessionSnapshot()


def test_a_loaded_snapshot_that_did_not_change_is_not_stored_again(repo: SnapshotRepository) -> None:
    state = new_session(SESSION)
    turn = next(AgentTurns(execution_state_bytes=4096).turns(1))
    turn.apply(state)
    first = repo.commit(state)
    again = repo.commit(repo.load(SESSION))
    assert again.manifest.tool_state_ref == first.manifest.tool_state_ref
    assert again.uploaded_bytes < first.uploaded_bytes / 2


def test_a_graph_that_is_replaced_starts_afresh(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "a0", "a1", "a2")
    repo.commit(state)
    state.replace_active_read_state([message("b0")], [])
    repo.commit(state)
    assert message_ids(repo.load(SESSION)) == ["b0"]
    assert message_ids(repo.load(SESSION, 1)) == ["a0", "a1", "a2"]
    state.session_graph.remove_nodes({state.session_graph.nodes[2].node_id})
    repo.commit(state)
    assert [len(repo.load(SESSION, revision).session_graph.nodes) for revision in (1, 2, 3)] == [3, 4, 3]
    check_every_revision(repo)


def test_a_branch_is_kept_with_the_rest(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "a0", "a1")
    repo.commit(state)
    state.session_graph.branch_to(state.session_graph.nodes[0].node_id)
    state.append_active_conversation_messages([message("b1")])
    repo.commit(state)
    loaded = repo.load(SESSION)
    assert message_ids(loaded) == ["a0", "b1"]
    assert loaded.session_graph == state.session_graph


# The ledger.


def test_the_ledger_is_equal_at_every_revision_rows_in_order(repo: SnapshotRepository) -> None:
    state = new_session(SESSION)
    ledgers = []
    steps = [
        [("z", TokenUsage(input_tokens=1))],
        [("a", TokenUsage(cached_input_tokens=9))],
        [("m", TokenUsage(output_tokens=2)), ("b", TokenUsage(reasoning_tokens=1))],
        [("a", TokenUsage(cached_input_tokens=1)), ("z", TokenUsage(input_tokens=5, cached_input_tokens=5))],
        [],
        [
            ("c", TokenUsage(cached_input_tokens=1)),
            ("0", TokenUsage(input_tokens=1)),
            ("a", TokenUsage(input_tokens=1)),
        ],
    ]
    for step in steps:
        for model, usage in step:
            add_usage(state, model, usage)
        repo.commit(state)
        ledgers.append(list(state.token_ledger))
    for number, ledger in enumerate(ledgers, 1):
        assert repo.load(SESSION, number).token_ledger == ledger
    assert repo.load(SESSION).usage_report() == state.usage_report()


def test_rows_of_one_key_are_one_row(repo: SnapshotRepository) -> None:
    state = new_session(SESSION)
    row = TokenLedgerEntry(source="turn", model="m", usage=TokenUsage(input_tokens=2))
    state.token_ledger = [row, row]
    repo.commit(state)
    repo.commit(state)
    (loaded,) = repo.load(SESSION).token_ledger
    assert loaded.usage.input_tokens == 4


# Who may commit on what.


def test_every_old_revision_can_be_read_and_none_committed_on(repo: SnapshotRepository, store: MemoryStore) -> None:
    state = new_session(SESSION)
    for number in range(6):
        repo.commit(take_turn(state, f"a{number}"))
    objects = {row.key for row in store.list("")}
    for revision in range(1, 6):
        old = repo.load(SESSION, revision)
        assert message_ids(old) == [f"a{number}" for number in range(revision)]
        with pytest.raises(RevisionConflictError) as caught:
            repo.commit(take_turn(old, "b0"))
        assert (caught.value.expected, caught.value.actual) == (revision, 6)
    assert {row.key for row in store.list("")} == objects, "nothing was written"


def test_a_copy_and_its_original_are_two_writers(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "a0")
    repo.commit(state)
    copy = state.copy()
    repo.commit(take_turn(copy, "copy0"))
    with pytest.raises(RevisionConflictError):
        repo.commit(take_turn(state, "original0"))
    assert message_ids(repo.load(SESSION)) == ["a0", "copy0"]
    assert state.head_revision == 1, "a state that was refused is as before"


def test_a_conflict_leaves_the_state_as_it_was(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    repo.commit(new_session(SESSION, "a0"))
    state = take_turn(repo.load(SESSION), "a1")
    other.commit(take_turn(other.load(SESSION), "b1"))
    before = state.copy()
    with pytest.raises(RevisionConflictError):
        repo.commit(state)
    assert state == before


def test_a_state_of_another_store_is_not_taken_for_ours(repo: SnapshotRepository) -> None:
    with SnapshotRepository(MemoryStore(), clock=ManualClock(seed=3)) as elsewhere:
        foreign = new_session(SESSION, "f0")
        foreign.stamp_runtime_state(ToolState(generation=1), None)
        elsewhere.commit(foreign, execution_state=b"there")
    with pytest.raises(RevisionConflictError) as caught:  # there is no such session here
        repo.commit(foreign.copy())
    assert (caught.value.expected, caught.value.actual) == (1, 0)
    repo.commit(new_session(SESSION, "a0"))
    with pytest.raises(InvalidStateError, match="_ref"):  # revision 1 exists, but its blobs lie elsewhere
        repo.commit(foreign.copy())
    assert message_ids(repo.load(SESSION)) == ["a0"]


def test_a_state_of_another_repository_on_the_same_store_goes_on(
    repo: SnapshotRepository, other: SnapshotRepository
) -> None:
    state = new_session(SESSION, "a0")
    repo.commit(state, execution_state=b"kept")
    result = other.commit(take_turn(state, "a1"))
    assert result.manifest.execution_state_ref == blob_ref(b"kept"), "the session holds it, wherever it was loaded"
    loaded = repo.load(SESSION)
    assert message_ids(loaded) == ["a0", "a1"]
    assert usage_of(loaded) == {"a": 2}
    assert repo.read_execution_state(loaded) == b"kept"
    check_every_revision(repo)


def test_a_state_whose_id_was_changed_creates_nothing_by_accident(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "a0")
    repo.commit(state)
    state.session_id = "s2"
    with pytest.raises(RevisionConflictError):
        repo.commit(state)
    with pytest.raises(SessionNotFoundError):
        repo.load("s2")


def test_an_exported_state_creates_another_session(repo: SnapshotRepository) -> None:
    state = new_session(SESSION, "a0")
    repo.commit(state)
    envelope = state.export_state()
    with pytest.raises(RevisionConflictError):
        repo.commit(PersistedSessionState.from_state(envelope))
    renamed = PersistedSessionState.from_state(envelope)
    renamed.session_id = "s2"
    repo.commit(renamed)
    assert message_ids(repo.load("s2")) == ["a0"]


# Update.


def test_update_applies_on_what_is_there(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    repo.commit(new_session(SESSION, "a0"))
    tries: list[int] = []

    def change(state: PersistedSessionState) -> None:
        tries.append(len(tries))
        if len(tries) <= 3:
            other.commit(take_turn(other.load(SESSION), f"b{len(tries)}"))
        take_turn(state, "a1")

    assert repo.update(SESSION, change).head_revision == 5
    assert message_ids(repo.load(SESSION)) == ["a0", "b1", "b2", "b3", "a1"]


def test_update_gives_up_after_its_bound(repo: SnapshotRepository, other: SnapshotRepository) -> None:
    repo.commit(new_session(SESSION, "a0"))
    tries: list[int] = []

    def change(state: PersistedSessionState) -> None:
        tries.append(len(tries))
        other.commit(take_turn(other.load(SESSION), f"b{len(tries)}"))
        take_turn(state, "a1")

    with pytest.raises(RevisionConflictError):
        repo.update(SESSION, change)
    assert len(tries) == ATTEMPTS_MAX


class Longest(ManualClock):
    """Draws the longest wait, as good as."""

    def random(self) -> float:
        return 0.9999


@pytest.mark.parametrize(
    ("took_seconds", "winners", "waits_seconds"),
    [(0.1, 1, (0.2, 0.4)), (0.1, 3, (0.6, 1.0)), (0.0, 1, (0.01, 0.02)), (60.0, 1, (1.0, 1.0))],
)
def test_who_lost_waits_by_what_it_took_and_by_how_many_won(
    store: MemoryStore, other: SnapshotRepository, took_seconds: float, winners: int, waits_seconds: tuple[float, ...]
) -> None:
    clock, tries = Longest(), list[int]()

    def change(state: PersistedSessionState) -> None:
        tries.append(len(tries))
        for number in range(winners if len(tries) <= 2 else 0):
            other.commit(take_turn(other.load(SESSION), f"b{len(tries)}{number}"))
        clock.advance(took_seconds)
        take_turn(state, "a1")

    with SnapshotRepository(store, clock=clock) as repo:
        repo.commit(new_session(SESSION, "a0"))
        repo.update(SESSION, change)
    assert clock.sleeps == pytest.approx(waits_seconds, rel=0.01)  # who won is read at once


def test_update_of_nothing_and_an_error_inside(repo: SnapshotRepository) -> None:
    with pytest.raises(SessionNotFoundError):
        repo.update(SESSION, lambda state: None)  # noqa: ARG005  it is never called
    repo.commit(new_session(SESSION, "a0"))

    def fails(_: PersistedSessionState) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        repo.update(SESSION, fails)
    assert len(repo.history(SESSION)) == 1


def test_a_stamped_update_is_applied_once(repo: SnapshotRepository) -> None:
    repo.commit(new_session(SESSION, "a0"))
    stamp = TurnStamp("t1", "content")

    def change(state: PersistedSessionState) -> None:
        take_turn(state, "a1")

    first = repo.update(SESSION, change, stamp)
    assert repo.update(SESSION, change, stamp).commit_id == first.commit_id
    assert usage_of(repo.load(SESSION)) == {"a": 2}
    with pytest.raises(TurnConflictError):
        repo.update(SESSION, change, TurnStamp("t1", "other"))


# Threads.


def in_threads(work: Callable[[int], None]) -> None:
    barrier = threading.Barrier(THREADS)

    def run(number: int) -> None:
        barrier.wait(60)
        work(number)

    with ThreadPoolExecutor(THREADS) as pool:
        for future in [pool.submit(run, number) for number in range(THREADS)]:
            future.result(120)


def turn_called(name: str) -> Callable[[PersistedSessionState], None]:
    def change(state: PersistedSessionState) -> None:
        take_turn(state, name)

    return change


def test_eight_threads_on_one_head_lose_nothing(place: SnapshotRepository) -> None:
    place.commit(new_session(SESSION, "start0"))
    revisions: list[int] = []

    def work(number: int) -> None:
        turns = [turn_called(f"{'abcdefgh'[number]}{turn}") for turn in range(TURNS_EACH)]
        revisions.extend(place.update(SESSION, turn).head_revision for turn in turns)

    in_threads(work)
    assert sorted(revisions) == list(range(2, THREADS * TURNS_EACH + 2))
    ids = message_ids(place.load(SESSION))
    assert len(ids) == len(set(ids)) == THREADS * TURNS_EACH + 1
    for letter in "abcdefgh":
        assert [one for one in ids if one.startswith(letter)] == [f"{letter}{turn}" for turn in range(TURNS_EACH)]
    assert usage_of(place.load(SESSION)) == {**dict.fromkeys("abcdefgh", TURNS_EACH), "start": 1}
    check_every_revision(place)


def test_eight_threads_on_eight_sessions_do_not_meet(place: SnapshotRepository) -> None:
    with_limits(place, TAIL)

    def work(number: int) -> None:
        session_id = f"s{number}"
        state = PersistedSessionState(session_id=session_id)
        for turn in range(TURNS_EACH):
            result = place.commit(take_turn(state, f"a{turn}"), execution_state=session_id.encode() * turn)
            assert result.requests == (1 if turn else 2)
            loaded = place.load(session_id)
            assert message_ids(loaded) == [f"a{one}" for one in range(turn + 1)]
            assert place.read_execution_state(loaded) == session_id.encode() * turn
            assert len(place.history(session_id)) == turn + 1

    in_threads(work)
    assert {info.session_id: info.revision for info in place.sessions()} == {
        f"s{number}": TURNS_EACH for number in range(THREADS)
    }


def test_eight_threads_create_one_session(place: SnapshotRepository) -> None:
    won: list[int] = []
    lost: list[RevisionConflictError] = []

    def work(number: int) -> None:
        try:
            place.commit(new_session(SESSION, f"w{number}"))
            won.append(number)
        except RevisionConflictError as error:
            lost.append(error)

    in_threads(work)
    assert (len(won), len(lost)) == (1, THREADS - 1)
    assert {(error.expected, error.actual) for error in lost} == {(None, 1)}
    assert message_ids(place.load(SESSION)) == [f"w{won[0]}"]


# Opening and closing.


def test_metrics_count_what_was_asked(repo: SnapshotRepository) -> None:
    before = repo.metrics.snapshot()
    results = [repo.commit(new_session(SESSION, "a0")), repo.commit(new_session("s2", "a0"))]
    used = repo.metrics.snapshot() - before
    assert used.total_requests == sum(result.requests for result in results)
    assert used["put"].bytes_out == sum(result.uploaded_bytes for result in results)


def test_a_closed_repository_is_not_used_again(place: SnapshotRepository) -> None:
    state = new_session(SESSION, "a0")
    place.commit(state)
    place.close()
    place.close()
    with pytest.raises(RuntimeError):
        place.load(SESSION)


def test_threads_end_with_the_repository() -> None:
    before = threading.active_count()
    with SnapshotRepository(MemoryStore()) as repo:
        repo.commit(new_session(SESSION, "a0"))
        repo.load(SESSION)
    assert threading.active_count() == before


def test_a_store_outlives_its_repository(tmp_path: Path) -> None:
    url = f"file:{tmp_path / 'store'}"
    with SnapshotRepository.open(url, "tenant-a") as repo:
        assert repo.tenant == "tenant-a"
        state = new_session(SESSION, "a0")
        repo.commit(state)
    with SnapshotRepository.open(url, "tenant-a", create=False) as repo:
        loaded = repo.load(SESSION)
        assert loaded == repo.load(SESSION)
        repo.commit(take_turn(loaded, "a1"))
        assert message_ids(repo.load(SESSION)) == ["a0", "a1"]
