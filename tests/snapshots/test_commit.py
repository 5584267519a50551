"""The protocol of a commit: what is sent in which order, and what happens when the head changes in between."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise
from random import Random

import pytest

from snapshots import (
    PersistedSessionState,
    SessionGraph,
    SnapshotRepository,
    TokenUsage,
    TurnStamp,
)
from snapshots.base import Tracking, track, tracking_of
from snapshots.compaction import Limits
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    FencedError,
    InvalidStateError,
    RevisionConflictError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionMovedError,
    TurnConflictError,
)
from snapshots.head import LIVE, MOVED, RESERVED, RING_MAX, TAIL_BYTES_MAX, TOMBSTONE, Head, Holder
from storage.backends.memory import MemoryStore
from storage.digest import blob_ref
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    FailBefore,
    FaultyStore,
    LoseAnswer,
    Missing,
    OwnRetry,
)
from tests.integration.builders import (
    SESSION,
    WatchedStore,
    add_usage,
    check_every_revision,
    check_puts,
    message,
    message_ids,
    new_session,
    raw_head,
    rewrite_head,
    take_turn,
    usage_of,
)
from tests.snapshots.records import NO_TAIL, TAIL, scattered_states, with_limits, without_tail
from tests.snapshots.state.builders import node, raw_graph

NONCE = "bb" * 16


class Place:
    """A store, a repository that is watched and can fail, and one beside it. Each commit has a pack in the store.

    Args:
        limits: What commits leave lying apart.
    """

    def __init__(self, limits: Limits = NO_TAIL) -> None:
        self.store = MemoryStore()
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.clock = ManualClock(seed=1)
        self.repo = SnapshotRepository(self.watched, clock=self.clock)
        self.other = SnapshotRepository(self.store, clock=ManualClock(seed=2))
        for repo in (self.repo, self.other):
            with_limits(repo, limits)
        self.watched.start_over()

    def sent(self) -> list[tuple[str, str]]:
        """Return verb and kind of object of the requests since the last call."""
        kinds = [
            (verb, next(kind for kind in ("heads", "packs", "~store") if kind in key)) for verb, key in self.requests()
        ]
        self.watched.start_over()
        return kinds

    def requests(self) -> list[tuple[str, str]]:
        return list(self.watched.requests)

    def packs(self) -> list[str]:
        return [row.key for row in self.store.list("default/packs/")]

    def begun(self) -> PersistedSessionState:
        """Return a state at revision 1, with the next turn taken."""
        state = new_session(SESSION, "a0")
        self.repo.commit(state)
        self.watched.start_over()
        return take_turn(state, "a1")


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    check_puts(made.watched.puts)
    made.repo.close()
    made.other.close()


@pytest.fixture
def tailed() -> Iterator[Place]:
    """Give a place where small packs lie in the head."""
    made = Place(TAIL)
    yield made
    check_puts(made.watched.puts)
    made.repo.close()
    made.other.close()


def before_publish(place: Place, change: Callable[[Head], Head], *, number: int = 2) -> None:
    """Rewrite the head by hand when the pack is staged and the head is about to be sent."""

    def rewrite(head: Head) -> Head:
        return change(replace(head, write_id="cc" * 16))

    place.watched.act(number, lambda: rewrite_head(place.store, rewrite))


# What is sent.


def test_a_first_commit_reserves_stages_and_publishes(place: Place) -> None:
    result = place.repo.commit(new_session(SESSION, "a0"))
    assert place.sent() == [("put", "heads"), ("put", "packs"), ("put", "heads")]
    assert (result.head_revision, result.requests) == (1, 3)


def test_a_steady_commit_stages_and_publishes(place: Place) -> None:
    result = place.repo.commit(place.begun())
    assert place.sent() == [("put", "packs"), ("put", "heads")]
    assert (result.head_revision, result.requests) == (2, 2)
    assert result.uploaded_bytes == sum(len(put.data) for put in place.watched.puts[-2:])


def test_a_small_commit_is_one_request(tailed: Place) -> None:
    state = new_session(SESSION, "a0")
    assert tailed.repo.commit(state).requests == 2
    assert tailed.sent() == [("put", "heads")] * 2
    for number in range(1, 4):
        result = tailed.repo.commit(take_turn(state, f"a{number}"))
        assert tailed.sent() == [("put", "heads")]
        assert (result.head_revision, result.requests) == (number + 1, 1)
    assert tailed.packs() == []
    assert [len(raw_head(tailed.store).tail)] == [4]
    check_every_revision(tailed.other)


def test_a_large_commit_carries_what_lies_in_the_head(tailed: Place) -> None:
    state = tailed.begun()
    tailed.repo.commit(state)
    tail = raw_head(tailed.store).tail
    tailed.sent()
    memory = Random(1).randbytes(TAIL_BYTES_MAX)
    tailed.repo.commit(take_turn(state, "a2"), execution_state=memory)
    assert tailed.sent() == [("put", "packs"), ("put", "heads")]
    assert raw_head(tailed.store).tail == ()
    (pack,) = tailed.packs()
    carried = tailed.store.get(pack).data
    assert all(one.data in carried for one in tail)
    check_every_revision(tailed.other)
    assert tailed.other.load(SESSION, execution_state=True).execution_state_snapshot == memory


def test_a_tail_without_room_goes_into_a_pack(tailed: Place) -> None:
    state, sizes = tailed.begun(), []
    for number in range(1, 60):
        tailed.repo.commit(take_turn(state, f"a{number}"))
        sizes.append(sum(len(pack.data) for pack in raw_head(tailed.store).tail))
        assert sizes[-1] <= TAIL_BYTES_MAX
    shorter = sum(size < before for before, size in pairwise(sizes))
    assert shorter > 1
    assert shorter <= len(tailed.packs()) <= shorter + 1, "one may be there that the next commit names"
    check_every_revision(tailed.other)


def test_in_the_head_a_raised_epoch_and_a_changed_state_id_are_one_more_write(tailed: Place) -> None:
    state = tailed.begun()
    before_publish(tailed, lambda head: replace(head, epoch=9), number=1)
    assert tailed.repo.commit(state).head_revision == 2
    assert tailed.sent() == [("put", "heads"), ("get", "heads"), ("put", "heads")]
    before_publish(tailed, lambda head: replace(head, state_id="dd" * 16), number=1)
    assert tailed.repo.commit(take_turn(state, "a2")).head_revision == 3
    assert raw_head(tailed.store).epoch == 9
    check_every_revision(tailed.other)


def test_a_state_that_was_loaded_uploads_as_little_as_the_one_that_was_committed() -> None:
    """The second one knows no packs and, of the manifests, only those that it read."""
    draw, memory = Random(2), Random(3).randbytes(1 << 20)
    steady, opened = Place(TAIL), Place(TAIL)
    states = [new_session(SESSION) for _ in (steady, opened)]
    for number in range(12):
        start = draw.randrange(1 << 20)
        memory = memory[:start] + draw.randbytes(4000) + memory[start + 4000 :]
        for place, state in zip((steady, opened), states, strict=True):
            place.repo.commit(take_turn(state, f"a{number}"), execution_state=memory)
    memory = memory[: 1 << 19] + draw.randbytes(4000) + memory[(1 << 19) + 4000 :]
    loaded = opened.other.load(SESSION, execution_state=True)
    uploads = [
        steady.repo.commit(take_turn(states[0], "last"), execution_state=memory).uploaded_bytes,
        opened.other.commit(take_turn(loaded, "last"), execution_state=memory).uploaded_bytes,
    ]
    assert max(uploads) < TAIL_BYTES_MAX + 16_000, "the tail of the head is carried"
    assert uploads[0] - uploads[1] < 3000, "a manifest that stands in full at most"
    assert uploads[1] - uploads[0] < TAIL_BYTES_MAX + 3000, "the steady one may have uploaded its tail ahead"
    without = steady.other.load(SESSION)
    result = steady.other.commit(take_turn(without, "x"), execution_state=memory + b"x")
    assert result.uploaded_bytes < 16_000, "the parent's is read first"


def test_what_the_next_manifest_is_compressed_against_is_known_from_commit_to_commit_and_after_a_load(
    place: Place,
) -> None:
    state = new_session(SESSION)
    against = []
    for number, memory in enumerate(scattered_states(8, 1)):
        if number == 6:
            state = place.other.load(SESSION, execution_state=True)
        repo = place.other if number == 6 else place.repo
        repo.commit(take_turn(state, f"a{number}"), execution_state=memory)
        manifest = raw_head(place.store).manifest
        assert manifest is not None
        against.append(manifest.against)
    assert against[5] is not None
    assert against[5] == against[6] == against[7], "the one that stands in full"


def test_a_loaded_state_commits_as_cheaply(place: Place) -> None:
    place.begun()
    state = place.repo.load(SESSION)
    place.watched.start_over()
    place.repo.commit(take_turn(state, "a1"))
    assert place.sent() == [("put", "packs"), ("put", "heads")]


def test_a_commit_without_anything_new_is_a_revision_too(place: Place) -> None:
    state = place.begun()
    place.repo.commit(state)
    assert place.repo.commit(state).head_revision == 3
    check_every_revision(place.other)


def test_what_a_result_says_is_what_is_stored(place: Place) -> None:
    state = place.begun()
    result = place.repo.commit(state)
    loaded = place.other.load(SESSION)
    assert loaded.checkpoint_ref == result.checkpoint_ref == state.checkpoint_ref
    assert loaded.head_revision == result.head_revision == state.head_revision == 2
    assert place.other.history(SESSION)[-1].commit_id == result.commit_id
    assert result.manifest.turn_state == loaded.turn_state()


def test_a_state_that_does_not_know_the_session_exists_is_refused(place: Place) -> None:
    place.begun()
    with pytest.raises(RevisionConflictError) as caught:
        place.repo.commit(new_session(SESSION, "b0"))
    assert (caught.value.expected, caught.value.actual) == (None, 1)
    assert place.sent() == [("put", "heads"), ("get", "heads")]


# The head changes between stage and publish.


def test_a_raised_epoch_means_a_new_pack_under_a_new_name(place: Place) -> None:
    state = place.begun()
    before_publish(place, lambda head: replace(head, epoch=9))
    assert place.repo.commit(state).head_revision == 2
    assert place.sent() == [
        *(("put", "packs"), ("put", "heads"), ("get", "heads")),
        *(("put", "packs"), ("put", "heads")),
    ]
    head = raw_head(place.store)
    assert head.manifest is not None
    staged = [put.key for put in place.watched.puts if "/packs/" in put.key][-2:]
    assert staged[0] != staged[1]
    assert staged[1].endswith(head.manifest.pack)
    assert staged[0].partition(".")[0] == staged[1].partition(".")[0], "it is the same commit"
    assert head.epoch == 9
    place.store.delete(staged[0])  # nothing may need it
    check_every_revision(place.other)


def test_a_changed_state_id_means_that_the_records_are_built_again(place: Place) -> None:
    state = place.begun()
    before_publish(place, lambda head: replace(head, state_id="dd" * 16))
    assert place.repo.commit(state).head_revision == 2
    assert [pair for pair in place.sent() if pair[0] == "put"] == [("put", "packs"), ("put", "heads")] * 2
    check_every_revision(place.other)
    assert message_ids(place.other.load(SESSION)) == ["a0", "a1"]


def test_what_is_built_again_is_still_compared_with_the_parts_of_the_parent(place: Place) -> None:
    state, memory = place.begun(), Random(4).randbytes(100_000)
    place.repo.commit(state, execution_state=memory)
    place.watched.start_over()
    before_publish(place, lambda head: replace(head, state_id="dd" * 16))
    place.repo.commit(take_turn(state, "a2"), execution_state=memory + b"x")
    sizes = [len(put.data) for put in place.watched.puts[-4:] if "/packs/" in put.key]
    assert len(sizes) == 2
    assert max(sizes) < 5000


def test_a_commit_that_was_found_to_be_applied_is_a_parent_like_any_other(place: Place) -> None:
    state, memory = place.begun(), Random(5).randbytes(100_000)
    place.faulty.plan.on("put", "/heads/", fault=LoseAnswer())
    place.repo.commit(state, execution_state=memory)
    place.faulty.plan.clear()
    result = place.repo.commit(take_turn(state, "a2"), execution_state=memory + b"x")
    assert result.uploaded_bytes < 10_000
    assert place.other.load(SESSION, execution_state=True).execution_state_snapshot == memory + b"x"


def test_another_write_of_the_head_keeps_pack_and_bookkeeping(place: Place) -> None:
    state = place.begun()
    before_publish(place, lambda head: replace(head, floor=1, created_at=head.created_at + timedelta(days=1)))
    created = raw_head(place.store).created_at
    place.repo.commit(state)
    assert place.sent() == [("put", "packs"), ("put", "heads"), ("get", "heads"), ("put", "heads")]
    assert raw_head(place.store).created_at == created + timedelta(days=1), "built from the head just read"


@pytest.mark.parametrize(
    "change",
    [
        lambda head: replace(head, fence=head.fence + 1),
        lambda head: replace(head, holder=Holder("host-2", NONCE)),
        lambda head: replace(head, fence=head.fence + 1, epoch=4, state_id="dd" * 16),
    ],
    ids=["fence", "holder", "fence, epoch and state id"],
)
def test_a_writer_that_was_shut_out_commits_nothing(place: Place, change: Callable[[Head], Head]) -> None:
    state = place.begun()
    before_publish(place, change)
    with pytest.raises(FencedError):
        place.repo.commit(state)
    assert raw_head(place.store).revision == 1
    assert state.head_revision == 1
    place.sent()
    with pytest.raises(FencedError):  # and says so again
        place.repo.commit(state)
    assert raw_head(place.store).revision == 1


def test_the_same_content_as_another_turn_is_another_commit(place: Place) -> None:
    state = place.begun()
    place.faulty.plan.on("put", "/heads/", fault=LoseAnswer())
    place.faulty.plan.on("get", "/heads/", fault=FailBefore(), times=None)
    with pytest.raises(CommitUnknownError):
        place.repo.commit(state, TurnStamp("turn-1"))
    place.faulty.plan.clear()
    with pytest.raises(RevisionConflictError):  # turn-1 stands there, and turn-2 would not be told from it
        place.repo.commit(state, TurnStamp("turn-2"))
    again = take_turn(place.repo.load(SESSION), "b2")
    assert place.repo.commit(again, TurnStamp("turn-2")).head_revision == 3


def test_a_stamp_that_never_was_sent_does_not_come_back(place: Place) -> None:
    state = place.begun()
    place.faulty.plan.on("put", "/packs/", fault=FailBefore("no"), times=None)
    with pytest.raises(UnavailableError):
        place.repo.commit(state, TurnStamp("turn-1"))
    place.faulty.plan.clear()
    place.repo.commit(state)
    assert raw_head(place.store).stamps == ()


def test_a_session_that_was_held_when_it_was_loaded_may_be_free_now(place: Place) -> None:
    place.begun()
    rewrite_head(place.store, lambda head: replace(head, write_id="cc" * 16, holder=Holder("host-2", NONCE)))
    state = take_turn(place.repo.load(SESSION), "b0")
    rewrite_head(place.store, lambda head: replace(head, write_id="dd" * 16, holder=None))
    assert place.repo.commit(state).head_revision == 2


def test_a_held_session_is_refused_before_anything_is_sent(place: Place) -> None:
    place.begun()
    rewrite_head(place.store, lambda head: replace(head, write_id="cc" * 16, holder=Holder("host-2", NONCE)))
    state = take_turn(place.repo.load(SESSION), "b0")
    place.sent()
    with pytest.raises(FencedError) as caught:
        place.repo.commit(state)
    assert caught.value.holder == "host-2"
    assert [verb for verb, _ in place.sent()] == ["get"]  # whether it still is


def test_the_fence_first_read_counts_over_all_attempts(place: Place) -> None:
    state = place.begun()
    before_publish(place, lambda head: replace(head, epoch=1), number=2)
    before_publish(place, lambda head: replace(head, write_id="ee" * 16, fence=7), number=5)
    with pytest.raises(FencedError):
        place.repo.commit(state)


def test_a_moved_session_says_where_it_went(place: Place) -> None:
    state = place.begun()
    before_publish(place, lambda head: replace(head, status=MOVED, destination="file:there"))
    with pytest.raises(SessionMovedError) as caught:
        place.repo.commit(state)
    assert caught.value.destination == "file:there"


def test_a_head_that_keeps_changing_is_given_up(place: Place) -> None:
    state = place.begun()
    for number in range(2, 60):
        write_id = f"{number:032x}"
        place.watched.act(
            number,
            lambda write_id=write_id: rewrite_head(place.store, lambda head: replace(head, write_id=write_id)),  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        )
    with pytest.raises(UnavailableError) as caught:
        place.repo.commit(state)
    assert caught.value.applied == "no"
    place.watched.before.clear()
    assert raw_head(place.store).revision == 1
    assert place.repo.commit(state).head_revision == 2


def touch(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, write_id="ee" * 16))


@pytest.mark.parametrize("moves", [True, False], ids=["the head moved on", "the head stayed"])
def test_records_that_go_away_while_they_are_read_are_read_again(place: Place, moves: bool) -> None:
    state = place.begun()
    before_publish(place, lambda head: replace(head, state_id="dd" * 16))
    place.faulty.plan.on("get", "/packs/", fault=Missing())
    if moves:
        place.watched.act(5, lambda: touch(place))
        assert place.repo.commit(state).head_revision == 2
    else:
        with pytest.raises(CorruptSnapshotError, match="missing"):
            place.repo.commit(state)
        assert raw_head(place.store).revision == 1
    assert place.requests()[4][0] == "get"
    assert "/packs/" in place.requests()[4][1]


@pytest.mark.parametrize("moves", [True, False], ids=["the head moved on", "the head stayed"])
def test_a_history_that_goes_away_while_it_is_read_is_read_again(place: Place, moves: bool) -> None:
    state = place.begun()

    def others_commit() -> None:
        theirs = place.other.load(SESSION)
        for number in range(RING_MAX + 1):
            place.other.commit(take_turn(theirs, f"b{number}"))

    place.faulty.plan.on("put", "/heads/", fault=LoseAnswer())
    place.faulty.plan.on("get", "/packs/", fault=Missing())
    place.watched.act(3, others_commit)
    if moves:
        place.watched.act(5, lambda: touch(place))
        assert place.repo.commit(state).head_revision == 2
    else:
        with pytest.raises(CommitUnknownError):  # it was sent: what cannot be read leaves a doubt
            place.repo.commit(state)
        place.faulty.plan.clear()
        assert place.repo.commit(state).head_revision == 2
    assert message_ids(state) == ["a0", "a1"]
    assert raw_head(place.store).revision == RING_MAX + 3


@pytest.mark.parametrize("fault", [LoseAnswer(), OwnRetry()], ids=["answer lost", "412 from its own retry"])
def test_a_commit_whose_session_was_deleted_since_says_so(place: Place, fault: LoseAnswer | OwnRetry) -> None:
    state = place.begun()
    place.faulty.plan.on("put", "/heads/", fault=fault)
    place.watched.act(3, lambda: place.other.delete(SESSION))
    with pytest.raises(SessionDeletedError):
        place.repo.commit(state)


def test_a_412_that_cannot_be_read_back_is_a_doubt(place: Place) -> None:
    state = place.begun()
    place.faulty.plan.on("put", "/heads/", fault=OwnRetry())
    place.faulty.plan.on("get", "/heads/", fault=FailBefore(), times=None)
    with pytest.raises(CommitUnknownError):
        place.repo.commit(state)
    place.faulty.plan.clear()
    assert place.repo.commit(state).head_revision == 2
    assert len(place.other.history(SESSION)) == 2


def test_a_pack_without_an_answer_means_that_nothing_was_committed(place: Place) -> None:
    state = place.begun()
    place.faulty.plan.on("put", "/packs/", fault=LoseAnswer(), times=None)
    place.faulty.plan.on("stat", "/packs/", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError) as caught:
        place.repo.commit(state)
    assert caught.value.applied == "no"
    assert raw_head(place.store).revision == 1


# Reservations.


def reserve(place: Place, **changes: int) -> None:
    """Leave the reservation of a creator that died."""
    place.faulty.plan.on("put", "/packs/", fault=CrashBefore())
    with pytest.raises(Crash):
        place.repo.commit(new_session(SESSION, "dead0"))
    place.faulty.restart()
    place.faulty.plan.clear()
    rewrite_head(place.store, lambda head: replace(head, write_id="cc" * 16, **changes))  # type: ignore[arg-type]  # of any field


def test_a_reservation_is_taken_over_with_its_epoch_and_fence(place: Place) -> None:
    reserve(place, epoch=4, fence=3)
    assert raw_head(place.store).status == RESERVED
    place.other.commit(new_session(SESSION, "b0"))
    head = raw_head(place.store)
    assert (head.status, head.revision, head.epoch, head.fence) == (LIVE, 1, 4, 3)
    assert message_ids(place.other.load(SESSION)) == ["b0"]


@pytest.mark.parametrize("number", [2, 3], ids=["before the first stages", "before the first publishes"])
def test_of_two_creators_that_take_over_from_each_other_one_wins(place: Place, number: int) -> None:
    place.watched.act(number, lambda: place.other.commit(new_session(SESSION, "other0")))
    with pytest.raises(RevisionConflictError) as caught:
        place.repo.commit(new_session(SESSION, "mine0"))
    assert (caught.value.expected, caught.value.actual) == (None, 1)
    assert message_ids(place.other.load(SESSION)) == ["other0"]


def test_a_creator_whose_reservation_was_taken_over_may_still_win(place: Place) -> None:
    def take_over_and_die() -> None:
        dying = FaultyStore(place.store)
        with without_tail(SnapshotRepository(dying, clock=ManualClock(seed=3))) as repo:
            dying.plan.on("put", "/packs/", fault=CrashBefore())
            with pytest.raises(Crash):
                repo.commit(new_session(SESSION, "dead0"))

    place.watched.act(3, take_over_and_die)
    assert place.repo.commit(new_session(SESSION, "mine0")).head_revision == 1
    assert message_ids(place.other.load(SESSION)) == ["mine0"]
    check_every_revision(place.other)


def test_a_reservation_counts_as_no_session(place: Place) -> None:
    reserve(place)
    state = new_session(SESSION, "b0")
    state.head_revision = 3
    with pytest.raises(RevisionConflictError) as caught:
        place.repo.commit(state)
    assert (caught.value.expected, caught.value.actual) == (3, 0)


# The end of a session.


def test_a_tombstone_is_final(place: Place) -> None:
    state = place.begun()
    place.other.delete(SESSION)
    packs = place.packs()
    for dead in (state, new_session(SESSION, "b0")):
        with pytest.raises(SessionDeletedError):
            place.repo.commit(dead)
        assert raw_head(place.store).status == TOMBSTONE
    assert len(place.packs()) == len(packs) + 1, "the first knew of a live head and staged, the second did not"


# Which commit is which.


def test_a_commit_id_is_used_again_only_for_the_same_content(place: Place) -> None:
    state = place.begun()
    tried = []
    for _ in range(2):
        place.faulty.plan.on("put", "/heads/", fault=FailBefore("unknown"), times=None)
        with pytest.raises(CommitUnknownError) as caught:
            place.repo.commit(state)
        place.faulty.plan.clear()
        tried.append(caught.value.commit_id)
    assert tried[0] == tried[1]
    result = place.repo.commit(take_turn(state, "a2"))
    assert result.commit_id != tried[0]
    assert [row.commit_id for row in place.other.history(SESSION)].count(tried[0]) == 0


def test_the_id_is_new_after_success(place: Place) -> None:
    state = place.begun()
    assert place.repo.commit(state).commit_id != place.repo.commit(state).commit_id


def test_a_copy_in_doubt_is_the_same_commit(place: Place) -> None:
    state = place.begun()
    place.faulty.plan.on("put", "/heads/", fault=LoseAnswer())
    place.faulty.plan.on("get", "/heads/", fault=FailBefore(), times=None)
    with pytest.raises(CommitUnknownError) as caught:
        place.repo.commit(state, TurnStamp("turn-1"))
    assert caught.value.stamp == "turn-1"
    place.faulty.plan.clear()
    copy = state.copy()
    assert place.repo.commit(copy).commit_id == caught.value.commit_id
    assert place.repo.commit(state).commit_id == caught.value.commit_id
    assert len(place.other.history(SESSION)) == 2


# Stamps.


def test_a_turn_whose_revision_was_dropped_says_so(place: Place) -> None:
    state = place.begun()
    place.repo.commit(state, TurnStamp("t1", "h"))
    place.repo.commit(take_turn(state, "b2"))
    rewrite_head(place.store, lambda head: replace(head, write_id="cc" * 16, floor=3))
    again = take_turn(place.repo.load(SESSION), "b3")
    with pytest.raises(RevisionNotFoundError) as caught:
        place.repo.commit(again, TurnStamp("t1", "h"))
    assert caught.value.revision == 2


def test_the_same_turn_returns_what_is_stored(place: Place) -> None:
    state = place.begun()
    again = state.copy()
    first = place.repo.commit(state, TurnStamp("t1"))
    place.sent()
    second = place.repo.commit(again, TurnStamp("t1"))
    assert ("put", "heads") not in place.sent()[2:], "the pack was sent, the head refused, nothing else"
    assert (second.head_revision, second.checkpoint_ref, second.commit_id) == (2, first.checkpoint_ref, first.commit_id)
    assert again.head_revision == 2
    assert usage_of(place.other.load(SESSION)) == {"a": 2}


def test_a_turn_that_the_base_has_costs_no_write(place: Place) -> None:
    place.repo.commit(place.begun(), TurnStamp("t1", "one"))
    state = take_turn(place.repo.load(SESSION), "a1")
    place.sent()
    assert place.repo.commit(state, TurnStamp("t1", "one")).head_revision == 2
    assert {verb for verb, _ in place.sent()} == {"get"}
    assert usage_of(state) == {"a": 2}
    assert message_ids(state) == ["a0", "a1"]


def test_the_same_turn_with_other_content_is_refused_without_a_write(place: Place) -> None:
    place.repo.commit(place.begun(), TurnStamp("t1", "one"))
    state = take_turn(place.repo.load(SESSION), "a2")
    place.sent()
    with pytest.raises(TurnConflictError) as caught:
        place.repo.commit(state, TurnStamp("t1", "two"))
    assert (caught.value.turn_id, caught.value.revision) == ("t1", 2)
    assert place.sent() == []


def test_an_old_turn_is_known_beyond_the_ring(place: Place) -> None:
    state = new_session(SESSION)
    for number in range(RING_MAX + 6):
        place.repo.commit(take_turn(state, f"a{number}"), TurnStamp(f"t{number}", "content"))
    assert {row.revision for row in raw_head(place.store).stamps} == set(range(7, RING_MAX + 7))
    before = len(place.packs())
    for number, revision in ((0, 1), (5, 6), (6, 7), (RING_MAX + 5, RING_MAX + 6)):
        late = take_turn(place.repo.load(SESSION), f"a{number}")
        assert place.repo.commit(late, TurnStamp(f"t{number}", "content")).head_revision == revision
        with pytest.raises(TurnConflictError):
            place.repo.commit(place.repo.load(SESSION), TurnStamp(f"t{number}", "other"))
    assert len(place.packs()) == before


def test_a_turn_off_the_lineage_does_not_count(place: Place) -> None:
    state = new_session(SESSION)
    for number in range(RING_MAX + 2):
        place.repo.commit(take_turn(state, f"a{number}"), TurnStamp(f"t{number}", "content"))
    base = tracking_of(state).base
    assert base is not None
    # As after a rewind from revision 2 to 1: revision 3 builds on 1.
    rows = tuple(replace(row, parent=1) if row.revision == 3 else row for row in base.history.entries)
    track(state, Tracking(replace(base, history=replace(base.history, entries=rows))))
    with pytest.raises(TurnConflictError):
        place.repo.commit(state.copy(), TurnStamp("t0", "other"))
    result = place.repo.commit(state, TurnStamp("t1", "other"))
    assert result.head_revision == RING_MAX + 3


def test_without_a_hash_ids_and_times_do_not_count(place: Place) -> None:
    place.begun()
    first, second = place.repo.load(SESSION), place.other.load(SESSION)
    for state, name in ((first, "left"), (second, "right")):
        state.append_active_conversation_messages([message(name, "the same words")])
    assert place.repo.commit(first, TurnStamp("t1")).head_revision == 2
    assert place.other.commit(second, TurnStamp("t1")).head_revision == 2
    assert message_ids(second) == ["a0", "left"], "the stored one"


def test_without_a_hash_everything_else_counts(place: Place) -> None:
    base = place.begun()
    place.repo.commit(base.copy(), TurnStamp("t1"))
    other_usage, other_text, other_turn = base.copy(), base.copy(), base.copy()
    add_usage(other_usage, "a", TokenUsage(reasoning_tokens=1))
    other_text.append_active_conversation_messages([message("b0")])
    other_turn.turn_index += 1
    for state in (other_usage, other_text, other_turn):
        with pytest.raises(TurnConflictError):
            place.repo.commit(state, TurnStamp("t1"))
    with pytest.raises(TurnConflictError):
        place.repo.commit(base.copy(), TurnStamp("t1"), execution_state=b"another")


# States of older revisions, and without a base.


def test_an_old_revision_cannot_be_committed_on(place: Place) -> None:
    place.repo.commit(place.begun())
    old = take_turn(place.repo.load(SESSION, 1), "b0")
    place.sent()
    with pytest.raises(RevisionConflictError) as caught:
        place.repo.commit(old)
    assert (caught.value.expected, caught.value.actual) == (1, 2)
    assert place.sent() == []


def test_an_old_revision_finds_its_own_turn(place: Place) -> None:
    place.repo.commit(place.begun(), TurnStamp("t1"))
    old = take_turn(place.repo.load(SESSION, 1), "a1")
    old.discard_runtime_snapshots()
    assert place.repo.commit(old, TurnStamp("t1")).head_revision == 2
    assert message_ids(old) == ["a0", "a1"]
    assert len(place.other.history(SESSION)) == 2


def test_a_state_without_a_base_replaces(place: Place) -> None:
    begun = place.begun()
    state = new_session(SESSION, "b0")
    state.head_revision, state.checkpoint_ref = 1, begun.checkpoint_ref
    assert place.repo.commit(state).head_revision == 2
    assert [row.kind for row in place.other.history(SESSION)] == ["commit", "replace"]
    loaded = place.other.load(SESSION)
    assert message_ids(loaded) == ["b0"]
    assert usage_of(loaded) == {"b": 1}, "the ledger starts afresh"
    assert usage_of(place.other.load(SESSION, 1)) == {"a": 1}
    check_every_revision(place.other)


def test_a_state_without_a_base_must_name_the_present_revision(place: Place) -> None:
    place.repo.commit(place.begun())
    for revision in (1, 3):
        state = new_session(SESSION, "b0")
        state.head_revision = revision
        with pytest.raises(RevisionConflictError) as caught:
            place.repo.commit(state)
        assert (caught.value.expected, caught.value.actual) == (revision, 2)


# Bad input: nothing is sent.


def broken(graph: SessionGraph) -> PersistedSessionState:
    return PersistedSessionState(session_id=SESSION, session_graph=graph)


BROKEN_GRAPHS: dict[str, Callable[[], SessionGraph]] = {
    "cycle": lambda: raw_graph(node("n0", "n1"), node("n1", "n0"), leaf="n1"),
    "unknown parent": lambda: raw_graph(node("n0"), node("n1", "gone"), leaf="n1"),
    "duplicate id": lambda: raw_graph(node("n0"), node("n0"), leaf="n0"),
    "unknown leaf": lambda: raw_graph(node("n0"), leaf="gone"),
    "self": lambda: raw_graph(node("n0", "n0"), leaf="n0"),
}


@pytest.mark.parametrize("graph", BROKEN_GRAPHS.values(), ids=BROKEN_GRAPHS.keys())
def test_a_broken_graph_is_refused_before_anything_is_sent(place: Place, graph: Callable[[], SessionGraph]) -> None:
    with pytest.raises(InvalidStateError):
        place.repo.commit(broken(graph()))
    assert place.requests() == []
    state = place.begun()
    place.repo.commit(state)
    place.sent()
    kept = state.session_graph
    state.session_graph = graph()
    with pytest.raises(InvalidStateError):
        place.repo.commit(state)
    assert place.requests() == []
    state.session_graph = kept
    assert place.repo.commit(take_turn(state, "a2")).head_revision == 3, "mended, it goes on"


def test_nodes_appended_raw_are_checked(place: Place) -> None:
    state = place.begun()
    known = state.session_graph.nodes[0].node_id
    for bad in (node("x", "gone"), node(known), node("x", "x")):
        broken_state = state.copy()
        broken_state.session_graph.push_node_record(bad)
        with pytest.raises(InvalidStateError):
            place.repo.commit(broken_state)
    assert place.requests() == []


@pytest.mark.parametrize("field", ["tool_state_ref", "plugin_snapshot_ref", "execution_state_ref"])
def test_a_ref_that_the_session_does_not_hold_is_refused(place: Place, field: str) -> None:
    state = place.begun()
    setattr(state, field, blob_ref(b"of another session"))
    with pytest.raises(InvalidStateError, match=field):
        place.repo.commit(state)
    assert place.requests() == []


def test_a_ledger_that_decreased_is_refused(place: Place) -> None:
    state = place.begun()
    state.token_ledger = []
    with pytest.raises(InvalidStateError, match="ledger"):
        place.repo.commit(state)
    assert place.requests() == []


# Crashes.


@pytest.mark.parametrize("when", [CrashBefore(), CrashAfter()], ids=["before", "after"])
@pytest.mark.parametrize("number", [1, 2])
def test_a_crash_leaves_the_revision_before_and_only_garbage(
    place: Place, number: int, when: CrashBefore | CrashAfter
) -> None:
    state = place.begun()
    place.faulty.plan.on("*", fault=when, nth=number)
    with pytest.raises(Crash):
        place.repo.commit(state)
    loaded = place.other.load(SESSION)
    applied = number == 2 and isinstance(when, CrashAfter)
    assert loaded.head_revision == (2 if applied else 1)
    place.faulty.restart()
    place.faulty.plan.clear()
    assert place.repo.commit(state).head_revision == 2
    check_every_revision(place.other)
