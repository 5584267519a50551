"""Deleting: a tombstone by compare-and-swap, final, and honest about what it does not know."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from snapshots import SnapshotRepository, TurnStamp
from snapshots.delete import TOMBSTONE_BYTES_MAX
from snapshots.errors import RevisionConflictError, SessionDeletedError, SessionMovedError, SessionNotFoundError
from snapshots.head import MOVED, RING_MAX, TOMBSTONE, Holder
from snapshots.layout import Layout
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import Delay, FailBefore, Fault, FaultyStore, LoseAnswer, OwnRetry, Repeat
from tests.integration.builders import SESSION, WatchedStore, new_session, raw_head, rewrite_head, take_turn

ALWAYS = 60


class Place:
    """A session of two revisions, and a repository that can be watched and fail."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = SnapshotRepository(self.watched, clock=ManualClock(seed=1))
        self.other = SnapshotRepository(self.store, clock=ManualClock(seed=2))
        self.state = new_session(SESSION, "a0")
        self.repo.commit(self.state)
        self.repo.commit(take_turn(self.state, "a1"))
        self.watched.start_over()


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()
    made.other.close()


def test_a_deleted_session_is_gone_in_every_respect(place: Place) -> None:
    place.repo.delete(SESSION)
    assert [verb for verb, _ in place.watched.requests] == ["get", "put"]
    asks: list[Callable[[], Any]] = [
        lambda: place.repo.load(SESSION),
        lambda: place.repo.load(SESSION, 1),
        lambda: place.repo.history(SESSION),
        lambda: place.repo.delete(SESSION),
        lambda: place.repo.update(SESSION, lambda state: None),  # noqa: ARG005  it is never called
        lambda: place.repo.commit(place.state),
        lambda: place.repo.commit(new_session(SESSION, "b0")),
        lambda: place.repo.commit(place.state, TurnStamp("t1")),
    ]
    for ask in asks:
        with pytest.raises(SessionDeletedError):
            ask()
    assert [(info.session_id, info.status) for info in place.repo.sessions()] == [(SESSION, "tombstone")]
    assert place.repo.stats().sessions["tombstone"] == 1


def test_a_state_without_a_base_is_told_so_too(place: Place) -> None:
    place.repo.delete(SESSION)
    state = new_session(SESSION, "b0")
    state.head_revision = 2
    with pytest.raises(SessionDeletedError):
        place.repo.commit(state)


def test_a_tombstone_keeps_what_must_not_fall_and_names_nothing(place: Place) -> None:
    rewrite_head(
        place.store, lambda head: replace(head, write_id="cc" * 16, epoch=5, fence=4, holder=Holder("h", "bb" * 16))
    )
    before = raw_head(place.store)
    place.repo.delete(SESSION)
    head = raw_head(place.store)
    assert head.status == TOMBSTONE
    assert (head.epoch, head.fence, head.revision, head.commits) == (5, 4, 2, before.commits)
    assert (head.holder, head.manifest, head.checkpoint_ref, head.inline_manifest) == (None, None, None, b"")
    assert head.write_id not in (before.write_id, before.state_id)


def test_a_tombstone_stays_small(place: Place) -> None:
    state = new_session("x" * 512)
    for number in range(RING_MAX + 1):
        place.repo.commit(take_turn(state, f"a{number}"), TurnStamp(f"t{number}"))
    place.repo.delete("x" * 512)
    assert len(place.store.get(Layout("default").head("x" * 512)).data) <= TOMBSTONE_BYTES_MAX


def test_what_is_not_there_cannot_be_deleted(place: Place) -> None:
    with pytest.raises(SessionNotFoundError):
        place.repo.delete("s2")
    rewrite_head(place.store, lambda head: replace(head, write_id="cc" * 16, status=MOVED, destination="file:there"))
    with pytest.raises(SessionMovedError):
        place.repo.delete(SESSION)


def test_a_commit_meanwhile_is_deleted_with_the_rest(place: Place) -> None:
    place.watched.act(2, lambda: place.other.commit(take_turn(place.other.load(SESSION), "b0")))
    place.repo.delete(SESSION)
    assert (raw_head(place.store).status, raw_head(place.store).revision) == (TOMBSTONE, 3)


def test_a_move_meanwhile_is_not_undone(place: Place) -> None:
    place.watched.act(
        2,
        lambda: rewrite_head(
            place.store, lambda head: replace(head, write_id="cc" * 16, status=MOVED, destination="file:there")
        ),
    )
    with pytest.raises(SessionMovedError):
        place.repo.delete(SESSION)
    assert raw_head(place.store).status == MOVED


@pytest.mark.parametrize(
    "fault", [LoseAnswer(), OwnRetry(), FailBefore("unknown"), FailBefore("no"), Repeat(), Delay()]
)
def test_an_answer_that_is_lost_is_settled(place: Place, fault: Fault) -> None:
    place.faulty.plan.on("put", "/heads/", fault=fault)
    place.repo.delete(SESSION)
    place.faulty.release()
    assert raw_head(place.store).status == TOMBSTONE


@pytest.mark.parametrize(
    ("fault", "applied", "status"),
    [
        (LoseAnswer(), "unknown", TOMBSTONE),
        (OwnRetry(), "unknown", TOMBSTONE),
        (Delay(), "unknown", "live"),
        (FailBefore("unknown"), "unknown", "live"),
        (FailBefore("no"), "no", "live"),
    ],
)
def test_what_cannot_be_read_back_is_not_denied(place: Place, fault: Fault, applied: str, status: str) -> None:
    place.faulty.plan.on("put", "/heads/", fault=fault, times=ALWAYS)
    place.faulty.plan.on("get", "/heads/", fault=FailBefore(), nth=2, times=ALWAYS)
    with pytest.raises(UnavailableError) as caught:
        place.repo.delete(SESSION)
    assert caught.value.applied == applied
    assert raw_head(place.store).status == status


def test_a_tombstone_that_never_left_is_sent_again(place: Place) -> None:
    place.faulty.plan.on("put", "/heads/", fault=FailBefore("unknown"))
    place.faulty.plan.on("get", "/heads/", fault=FailBefore(), nth=2, times=ALWAYS)
    place.repo.delete(SESSION)
    assert raw_head(place.store).status == TOMBSTONE


def test_a_head_that_keeps_failing_is_given_up(place: Place) -> None:
    for fault, applied in ((FailBefore("no"), "no"), (FailBefore("unknown"), "unknown")):
        place.faulty.plan.on("put", "/heads/", fault=fault, times=ALWAYS)
        with pytest.raises(UnavailableError) as caught:
            place.repo.delete(SESSION)
        assert caught.value.applied == applied
        place.faulty.plan.clear()
    assert place.repo.load(SESSION).head_revision == 2


def test_two_who_delete_agree(place: Place) -> None:
    place.watched.act(2, lambda: place.other.delete(SESSION))
    place.repo.delete(SESSION)
    assert raw_head(place.store).status == TOMBSTONE


def test_a_commit_under_way_does_not_bring_it_back(place: Place) -> None:
    place.faulty.plan.on("put", "/heads/", fault=Delay())
    place.watched.act(3, lambda: place.other.delete(SESSION))
    with pytest.raises(SessionDeletedError):
        place.repo.commit(take_turn(place.state, "a2"))
    place.faulty.release()
    assert raw_head(place.store).status == TOMBSTONE


def test_a_conflict_is_not_hidden_by_deletion_of_another_session(place: Place) -> None:
    place.repo.commit(new_session("s2", "x0"))
    place.repo.delete("s2")
    with pytest.raises(RevisionConflictError):
        place.repo.commit(new_session(SESSION, "b0"))
