"""What a state believes to be stored is checked against what is: graphs, bases and stamps from elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshots import Message, Part, PersistedSessionState, SnapshotRepository, TokenLedgerEntry, TokenUsage, TurnStamp
from snapshots.errors import (
    CommitUnknownError,
    InvalidStateError,
    LimitExceededError,
    RevisionConflictError,
    TurnConflictError,
)
from snapshots.restore import load as load_revision
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultPlan, FaultyStore, LoseAnswer
from tests.snapshots.records import without_tail

MODEL = "m"


def said(number: int) -> Message:
    return Message(id=f"m{number}", role="User", parts=[Part(id=f"m{number}.p0", kind="Text", content=f"{number}")])


def take_turn(state: PersistedSessionState, number: int) -> None:
    state.append_active_read_delta([said(number)], [])
    state.turn_index += 1


def stored(repo: SnapshotRepository, session_id: str, turns: int = 3) -> PersistedSessionState:
    state = PersistedSessionState(session_id=session_id)
    for number in range(turns):
        take_turn(state, number)
        repo.commit(state)
    return state


@pytest.fixture
def repo() -> SnapshotRepository:
    return SnapshotRepository(MemoryStore(), clock=ManualClock())


def test_a_graph_stored_in_another_session_is_stored_in_this_one_too(repo: SnapshotRepository) -> None:
    parent = stored(repo, "parent")
    child = PersistedSessionState(session_id="child")
    repo.commit(child)
    child.session_graph = parent.session_graph.copy()
    repo.commit(child)
    assert repo.load("child").session_graph == parent.session_graph


def test_two_states_that_share_a_graph_both_store_it(repo: SnapshotRepository) -> None:
    first, second = stored(repo, "first"), stored(repo, "second")
    first.__dict__["session_graph"] = second.session_graph  # as model_copy(update=…) does, past any check
    take_turn(first, 7)
    repo.commit(second)
    repo.commit(first)
    assert [node.node_id for node in repo.load("first").session_graph.nodes][-1] == "m7"
    assert [node.node_id for node in repo.load("second").session_graph.nodes][-1] == "m7"


def test_a_state_with_the_id_of_another_session_does_not_replace_it(repo: SnapshotRepository) -> None:
    stored(repo, "x", 2)
    stored(repo, "y", 1)
    state = repo.load("x", 1)
    state.session_id = "y"
    with pytest.raises(InvalidStateError, match="from_state"):
        repo.commit(state)
    child = repo.load("y")
    child.apply_exported_state(stored(repo, "z", 1).export_state())
    with pytest.raises(InvalidStateError, match="checkpoint_ref"):
        repo.commit(child)
    assert [repo.load(name).head_revision for name in "xyz"] == [2, 1, 1]


def test_a_state_goes_on_after_its_repository_was_opened_again(tmp_path: Path) -> None:
    url = f"file:{tmp_path / 'store'}"
    with SnapshotRepository.open(url) as first:
        state = stored(first, "s", 2)
    take_turn(state, 2)
    with SnapshotRepository.open(url) as again:
        assert without_tail(again).commit(state).requests == 2
        assert [row.kind for row in again.history("s")] == ["commit"] * 3


def test_a_commit_in_doubt_is_recognised_by_a_repository_opened_later() -> None:
    store = MemoryStore()
    state = stored(SnapshotRepository(store, clock=ManualClock()), "s", 1)
    take_turn(state, 1)
    plan = FaultPlan()
    faulty = SnapshotRepository(FaultyStore(store, plan), clock=ManualClock())
    plan.on("put", "heads/", fault=LoseAnswer())
    plan.on("get", "heads/", times=None, fault=FailBefore(applied="no"))
    with pytest.raises(CommitUnknownError):
        faulty.commit(state, TurnStamp("t"))
    later = SnapshotRepository(store, clock=ManualClock(seed=9))
    assert later.commit(state, TurnStamp("t")).head_revision == 2
    assert len(later.history("s")) == 2


def test_every_pack_of_every_revision_stays_named_when_nodes_are_stored_again(repo: SnapshotRepository) -> None:
    state = stored(repo, "s", 3)
    state.graph_replace_required = True
    for number in range(3, 12):
        take_turn(state, number)
        repo.commit(state)
        state.graph_replace_required = number % 3 == 0
    environment = repo._environment
    latest = load_revision(environment, "s", revision=None, execution_state=False).base
    uses = list(latest.placement.packs)
    uses += [use for row in latest.places.entries for use in row.ended]
    for revision in range(1, latest.revision + 1):
        base = load_revision(environment, "s", revision=revision, execution_state=False).base
        for needed in base.placement.packs:
            spans = [
                (use.first_revision, use.last_revision or latest.revision) for use in uses if use.pack == needed.pack
            ]
            assert any(first <= revision <= last for first, last in spans), (revision, needed)


def test_an_update_may_be_called_again_with_its_stamp(repo: SnapshotRepository) -> None:
    stored(repo, "s", 1)
    calls = []

    def function(state: PersistedSessionState) -> None:
        calls.append(state.turn_index)
        take_turn(state, len(state.session_graph.nodes))

    stamp = TurnStamp("t1")
    first = repo.update("s", function, stamp)
    repo.update("s", function, TurnStamp("t2"))
    again = repo.update("s", function, stamp)
    assert (again.head_revision, again.commit_id) == (first.head_revision, first.commit_id)
    assert (len(calls), repo.load("s").head_revision) == (2, 3)
    with pytest.raises(TurnConflictError):
        repo.update("s", function, TurnStamp("t1", content_hash="another"))


def test_an_update_in_doubt_is_applied_once() -> None:
    store = MemoryStore()
    stored(SnapshotRepository(store, clock=ManualClock()), "s", 1)
    plan = FaultPlan()
    repo = SnapshotRepository(FaultyStore(store, plan), clock=ManualClock())
    plan.on("put", "heads/", fault=LoseAnswer())
    plan.on("get", "heads/", nth=2, times=8, fault=FailBefore(applied="no"))  # every read-back of the first commit
    result = repo.update("s", lambda state: take_turn(state, 5))
    assert (result.head_revision, len(repo.history("s"))) == (2, 2)
    assert len(repo.load("s").session_graph.nodes) == 2


def test_a_ledger_whose_sums_leave_64_bits_is_refused_before_anything_is_written(repo: SnapshotRepository) -> None:
    state = stored(repo, "s", 1)
    huge = TokenUsage(input_tokens=(1 << 63) - 1)
    state.token_ledger = [TokenLedgerEntry(source=source, model=MODEL, usage=huge) for source in ("a", "b")]
    before = repo.metrics.snapshot().total_requests
    with pytest.raises(LimitExceededError, match="input_tokens"):
        repo.commit(state)
    assert repo.metrics.snapshot().total_requests == before


@pytest.mark.parametrize("execution_state", [bytearray(b"xy"), memoryview(b"xy")])
def test_an_execution_state_may_be_any_buffer(repo: SnapshotRepository, execution_state: bytes) -> None:
    state = PersistedSessionState(session_id="s")
    repo.commit(state, execution_state=execution_state)
    assert repo.read_execution_state(state) == b"xy"


def test_an_execution_state_of_text_is_refused(repo: SnapshotRepository) -> None:
    with pytest.raises(InvalidStateError, match="str"):
        repo.commit(PersistedSessionState(session_id="s"), execution_state="text")  # type: ignore[arg-type]  # the point


@pytest.mark.parametrize(
    "url",
    [
        "s3://b/p?secret_key=SECRET",
        "s3://b/p?endpoint_url=http://u:SECRET@h&x=1",
        "s3://b?SECRET",
        "s3://b/?region=&a=SECRET",
    ],
)
def test_no_secret_of_a_url_stands_in_its_error(url: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        SnapshotRepository.open(url)
    assert "SECRET" not in str(caught.value)
    assert "SECRET" not in repr(vars(caught.value))


def test_the_last_answer_stands_in_the_error() -> None:
    plan = FaultPlan()
    repo = SnapshotRepository(FaultyStore(MemoryStore(), plan), clock=ManualClock())
    plan.on("put", "heads/", times=None, fault=FailBefore(applied="no", reason="No space left on device"))
    with pytest.raises(UnavailableError, match="No space left on device"):
        repo.commit(PersistedSessionState(session_id="s"))


def test_a_conflict_is_still_a_conflict_for_a_state_without_base(repo: SnapshotRepository) -> None:
    stored(repo, "s", 3)
    state = PersistedSessionState(session_id="s", head_revision=2)
    with pytest.raises(RevisionConflictError):
        repo.commit(state)
