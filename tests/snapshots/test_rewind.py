"""Going back: rewind and restore make new revisions of old content, and lose nothing of what came after."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.compaction import Limits
from snapshots.errors import (
    CommitUnknownError,
    FencedError,
    InvalidStateError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionNotFoundError,
    TurnConflictError,
)
from snapshots.head import RING_MAX, Holder
from snapshots.layout import Layout
from snapshots.testing.collector import collect
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultyStore, LoseAnswer, Meanwhile
from tests.integration.builders import (
    PUT_FAULTS,
    SESSION,
    WatchedStore,
    check_puts,
    message_ids,
    new_session,
    raw_head,
    rewrite_head,
    take_turn,
    usage_of,
)
from tests.snapshots.records import NO_TAIL, TAIL, with_limits

LAYOUT = Layout("default")
LAST = 6
OWN_FIELDS = frozenset({"head_revision", "checkpoint_ref"})  # what a revision does not share with its like


class Place:
    """A store with one session of six stamped revisions, each with an execution state of its own.

    Args:
        limits: What commits leave lying apart.
    """

    def __init__(self, limits: Limits) -> None:
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = with_limits(SnapshotRepository(self.watched, clock=ManualClock(seed=1)), limits)
        self.state = PersistedSessionState(session_id=SESSION)
        for number in range(1, LAST + 1):
            take_turn(self.state, f"a{number}")
            self.repo.commit(self.state, TurnStamp(f"t{number}", "h"), execution_state=bytes([number]) * 300_000)
        self.watched.start_over()

    def loaded(self, revision: int | str | None = None) -> PersistedSessionState:
        return self.repo.load(SESSION, revision, execution_state=True)

    def commit(self, *names: str) -> None:
        state = self.repo.load(SESSION)
        for name in names:
            self.repo.commit(take_turn(state, name), TurnStamp(name, "h"))


@pytest.fixture
def packing() -> Iterator[Place]:
    """Give a place where each commit has a pack in the store."""
    made = Place(NO_TAIL)
    yield made
    made.repo.close()


@pytest.fixture(params=[TAIL, NO_TAIL], ids=["tail", "no tail"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(request.param)
    yield made
    made.repo.close()


def check_equal(found: PersistedSessionState, expected: PersistedSessionState) -> None:
    for name in PersistedSessionState.model_fields.keys() - OWN_FIELDS:
        assert getattr(found, name) == getattr(expected, name), name


@pytest.mark.parametrize("target", range(1, LAST + 1))
@pytest.mark.parametrize("kind", ["rewind", "restore"])
def test_the_new_revision_has_the_old_content(place: Place, kind: str, target: int) -> None:
    expected = place.loaded(target)
    result = getattr(place.repo, kind)(SESSION, target)
    assert result.head_revision == LAST + 1
    found = place.loaded()
    check_equal(found, expected)
    assert found.checkpoint_ref == result.checkpoint_ref
    row = place.repo.history(SESSION)[-1]
    assert (row.kind, row.parent, row.commit_id, row.turn) == (kind, target, result.commit_id, False)
    assert row.node_count == len(found.session_graph.nodes)


def test_no_byte_of_content_is_copied(packing: Place) -> None:
    before = {row.key: row.size_bytes for row in packing.store.list(LAYOUT.packs)}
    result = packing.repo.rewind(SESSION, 2)
    new = [row.size_bytes for row in packing.store.list(LAYOUT.packs) if row.key not in before]
    assert len(new) == 1
    assert new[0] < 4 << 10
    assert result.uploaded_bytes < 8 << 10
    check_puts(packing.watched.puts)


def test_what_came_after_stays_in_the_history(place: Place) -> None:
    after = [place.loaded(revision) for revision in range(1, LAST + 1)]
    place.repo.rewind(SESSION, 2)
    place.commit("b1", "b2")
    assert message_ids(place.repo.load(SESSION)) == ["a1", "a2", "b1", "b2"]
    for revision, expected in enumerate(after, 1):
        assert place.loaded(revision) == expected
    history = place.repo.history(SESSION)
    assert [row.parent for row in history] == [0, 1, 2, 3, 4, 5, 2, 7, 8]
    assert all(row.retained for row in history)


def test_a_rewind_goes_to_ancestors_and_restore_anywhere(place: Place) -> None:
    place.repo.rewind(SESSION, 2)
    with pytest.raises(InvalidStateError, match="use restore"):
        place.repo.rewind(SESSION, 5)
    assert place.repo.load(SESSION).head_revision == LAST + 1
    place.repo.restore(SESSION, 5)
    check_equal(place.loaded(), place.loaded(5))
    place.repo.rewind(SESSION, 3)  # an ancestor again
    check_equal(place.loaded(), place.loaded(3))


def test_the_ledger_goes_back_with_the_content(place: Place) -> None:
    place.repo.rewind(SESSION, 2)
    assert usage_of(place.repo.load(SESSION)) == {"a": 2}
    place.commit("b1")
    assert usage_of(place.repo.load(SESSION)) == {"a": 2, "b": 1}
    place.repo.restore(SESSION, LAST)
    assert usage_of(place.repo.load(SESSION)) == {"a": LAST}


def test_a_turn_left_behind_may_be_done_again(place: Place) -> None:
    place.repo.rewind(SESSION, 2)
    state = place.repo.load(SESSION)
    again = place.repo.commit(take_turn(state, "c3"), TurnStamp("t3", "other content"))
    assert again.head_revision == LAST + 2
    with pytest.raises(TurnConflictError):  # while one that was kept may not
        place.repo.commit(take_turn(place.repo.load(SESSION), "c2"), TurnStamp("t2", "other content"))
    state = place.repo.load(SESSION)
    stored = place.repo.commit(take_turn(state, "x"), TurnStamp("t1", "h"))
    assert stored.head_revision == 1


def test_the_ring_of_stamps_is_that_of_the_lineage(place: Place) -> None:
    place.commit(*(f"n{number}" for number in range(RING_MAX)))
    assert len(raw_head(place.store).stamps) == RING_MAX
    place.repo.rewind(SESSION, LAST)
    assert [row.revision for row in raw_head(place.store).stamps] == list(range(1, LAST + 1))
    place.repo.restore(SESSION, LAST + RING_MAX)
    assert [row.revision for row in raw_head(place.store).stamps] == list(range(LAST + 1, LAST + RING_MAX + 1))
    stored = place.repo.commit(take_turn(place.repo.load(SESSION), "x"), TurnStamp("t1", "h"))
    assert stored.head_revision == 1  # found in the history, beyond the ring


def test_going_back_survives_a_collection(place: Place) -> None:
    expected = place.loaded(3)
    place.repo.rewind(SESSION, 3)
    assert collect(place.repo.environment).deleted == ()
    check_equal(place.loaded(), expected)
    for revision in range(1, LAST + 2):
        place.loaded(revision)


def test_many_times_back_and_forth(place: Place) -> None:
    contents = {revision: place.loaded(revision) for revision in range(1, LAST + 1)}
    for number in range(40):
        target = number * 5 % LAST + 1
        place.repo.restore(SESSION, target)
        check_equal(place.loaded(), contents[target])
    collect(place.repo.environment)
    for revision, expected in contents.items():
        assert place.loaded(revision) == expected


def test_a_pin_names_the_target(place: Place) -> None:
    place.repo.pin(SESSION, 4, "good")
    place.repo.rewind(SESSION, "good")
    check_equal(place.loaded(), place.loaded(4))
    assert raw_head(place.store).pins[0].revision == 4


# Refusals and faults.


@pytest.mark.parametrize("kind", ["rewind", "restore"])
@pytest.mark.parametrize(
    ("session_id", "target", "expected"),
    [
        (SESSION, 0, RevisionNotFoundError),
        (SESSION, -1, RevisionNotFoundError),
        (SESSION, LAST + 1, RevisionNotFoundError),
        (SESSION, "nope", RevisionNotFoundError),
        ("nobody", 1, SessionNotFoundError),
    ],
)
def test_what_is_not_there_is_refused(
    place: Place, kind: str, session_id: str, target: int | str, expected: type[Exception]
) -> None:
    before = [row.key for row in place.store.list("")]
    with pytest.raises(expected):
        getattr(place.repo, kind)(session_id, target)
    assert [row.key for row in place.store.list("")] == before


def test_a_pruned_revision_and_a_deleted_session_are_refused(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, floor=3, write_id="f" * 32))
    with pytest.raises(RevisionNotFoundError):
        place.repo.rewind(SESSION, 2)
    place.repo.delete(SESSION)
    with pytest.raises(SessionDeletedError):
        place.repo.rewind(SESSION, 3)


def test_somebody_elses_commit_is_not_rewound_unseen(place: Place) -> None:
    other = SnapshotRepository(place.store, clock=ManualClock(seed=2))
    place.watched.act(3, lambda: other.commit(take_turn(other.load(SESSION), "b1")))
    with pytest.raises(RevisionConflictError):
        place.repo.rewind(SESSION, 2)
    assert message_ids(place.repo.load(SESSION))[-1] == "b1"
    other.close()


def test_a_held_session_is_not_rewound_by_others(place: Place) -> None:
    holder = Holder("host-a", "a" * 32)
    rewrite_head(place.store, lambda head: replace(head, fence=1, holder=holder, write_id="f" * 32))
    with pytest.raises(FencedError):
        place.repo.rewind(SESSION, 2)


def test_a_commit_on_the_state_from_before_conflicts(place: Place) -> None:
    place.repo.rewind(SESSION, 2)
    with pytest.raises(RevisionConflictError):
        place.repo.commit(take_turn(place.state, "b1"))


@pytest.mark.parametrize("name", PUT_FAULTS)
@pytest.mark.parametrize("key", [LAYOUT.head(SESSION), LAYOUT.packs], ids=["head", "pack"])
def test_it_is_done_once_whatever_happens_to_its_puts(place: Place, key: str, name: str) -> None:
    place.faulty.plan.on("put", key, fault=PUT_FAULTS[name])
    result = place.repo.rewind(SESSION, 2)
    place.faulty.release()
    assert result.head_revision == LAST + 1
    assert [row.commit_id for row in place.repo.history(SESSION)].count(result.commit_id) == 1
    check_equal(place.loaded(), place.loaded(2))
    check_puts(place.watched.puts)


def test_a_rewind_that_landed_and_was_built_upon(place: Place) -> None:
    other = SnapshotRepository(place.store, clock=ManualClock(seed=2))
    place.faulty.plan.on("put", LAYOUT.head(SESSION), fault=LoseAnswer())
    when = _number_of_the_request_after_the_head(place)
    place.watched.act(when, lambda: other.commit(take_turn(other.load(SESSION), "b1")))
    result = place.repo.rewind(SESSION, 2)
    assert result.head_revision == LAST + 1
    assert message_ids(place.repo.load(SESSION)) == ["a1", "a2", "b1"]
    other.close()


def _number_of_the_request_after_the_head(place: Place) -> int:
    probe = Place(place.repo.environment.limits)
    probe.repo.rewind(SESSION, 2)
    count = len(probe.watched.requests)
    probe.repo.close()
    assert probe.watched.requests[-1] == ("put", LAYOUT.head(SESSION))
    assert not place.watched.requests
    return count + 1


def test_in_doubt_it_says_so(place: Place) -> None:
    def unreadable() -> None:
        place.faulty.plan.on("get", LAYOUT.head(SESSION), times=99, fault=FailBefore())

    place.faulty.plan.on("put", LAYOUT.head(SESSION), times=99, fault=LoseAnswer())
    place.watched.act(_number_of_the_request_after_the_head(place), unreadable)
    with pytest.raises(CommitUnknownError, match="history"):
        place.repo.rewind(SESSION, 2)


def test_without_an_answer_nothing_was_done(place: Place) -> None:
    place.faulty.plan.on("put", LAYOUT.head(SESSION), times=99, fault=FailBefore("no"))
    with pytest.raises(UnavailableError) as caught:
        place.repo.rewind(SESSION, 2)
    assert caught.value.applied == "no"
    place.faulty.plan = type(place.faulty.plan)()
    assert place.repo.load(SESSION).head_revision == LAST


@pytest.mark.parametrize("read", range(1, 9))
def test_a_target_that_is_collected_while_it_is_read_again_is_not_found(packing: Place, read: int) -> None:
    packing.commit(*(f"n{number}" for number in range(6)))
    packing.repo.pin(SESSION, 2, "good")
    packing.repo.pin(SESSION, 4, "other")
    rewrite_head(packing.store, lambda head: replace(head, floor=head.revision, write_id="f" * 32, state_id="e" * 32))
    other = SnapshotRepository(packing.store, clock=ManualClock(seed=2))

    def unpin_and_collect() -> None:
        other.unpin(SESSION, "good")
        assert collect(other.environment).deleted

    def unpin_another() -> None:
        other.unpin(SESSION, "other")  # another state id: the rewind looks again
        packing.faulty.plan.on("get", LAYOUT.packs, nth=read, fault=Meanwhile(unpin_and_collect))

    packing.watched.start_over()
    packing.watched.act_before("put", LAYOUT.head(SESSION), unpin_another)
    with pytest.raises(RevisionNotFoundError):
        packing.repo.rewind(SESSION, "good")
    assert packing.loaded().head_revision == LAST + 6
    other.close()


def test_a_target_that_lost_its_pin_meanwhile_is_not_named_again(packing: Place) -> None:
    packing.commit(*(f"n{number}" for number in range(6)))  # so that nodes are merged, and old packs needed no more
    packing.repo.pin(SESSION, 2, "good")
    rewrite_head(packing.store, lambda head: replace(head, floor=head.revision, write_id="f" * 32, state_id="e" * 32))
    other = SnapshotRepository(packing.store, clock=ManualClock(seed=2))

    def unpin_and_collect() -> None:
        other.unpin(SESSION, "good")
        assert collect(other.environment).deleted

    packing.watched.start_over()
    packing.watched.act_before("put", LAYOUT.head(SESSION), unpin_and_collect)
    with pytest.raises(RevisionNotFoundError):
        packing.repo.rewind(SESSION, "good")
    packing.loaded()
    assert packing.repo.load(SESSION).head_revision == LAST + 6
    other.close()


def test_a_collection_meanwhile_makes_it_stage_again(packing: Place) -> None:
    when = _number_of_the_request_after_the_head(packing) - 1
    packing.watched.act(when, lambda: collect(packing.repo.environment))
    packing.repo.rewind(SESSION, 2)
    check_equal(packing.loaded(), packing.loaded(2))
    assert len(list(packing.store.list(LAYOUT.packs))) == LAST + 1  # the one that was staged too early is gone


def test_a_new_session_has_nothing_to_go_back_to(place: Place) -> None:
    place.repo.commit(new_session("s2", "x1"))
    result = place.repo.rewind("s2", 1)
    assert result.head_revision == 2
    assert message_ids(place.repo.load("s2")) == ["x1"]
