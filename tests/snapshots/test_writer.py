"""Taking a session over: the older owner becomes harmless, and what it left in flight is found and finished."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.errors import (
    EffectConflictError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LeaseHeldError,
    RevisionConflictError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
)
from snapshots.head import MOVED
from snapshots.layout import Layout
from snapshots.state import (
    AppendedNodes,
    Plugin,
    PluginSession,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    StaleBranch,
    ToolEntry,
    ToolManifest,
    ToolState,
)
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, UnavailableError
from storage.leases import Lease
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashBefore, FailBefore, FaultyStore, LoseAnswer
from storage.testing.plan import Crash
from tests.integration.builders import (
    PUT_FAULTS,
    SESSION,
    WatchedStore,
    message,
    message_ids,
    new_session,
    raw_head,
    rewrite_head,
    take_turn,
)

LAYOUT = Layout("default")
HEAD, TURNS = LAYOUT.head(SESSION), LAYOUT.turns(SESSION)


class Hosts:
    """One store and two hosts; the first one's requests can be watched and fail."""

    def __init__(self) -> None:
        self.clock = ManualClock(seed=1)
        self.store = MemoryStore(self.clock)
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.a = SnapshotRepository(self.watched, clock=self.clock)
        self.b = SnapshotRepository(self.store, clock=ManualClock(seed=2))
        state = new_session(SESSION, "a1")
        self.a.commit(state)
        self.watched.start_over()

    def close(self) -> None:
        self.a.close()
        self.b.close()

    def ids(self) -> list[str]:
        return message_ids(self.b.load(SESSION))


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    made = Hosts()
    yield made
    made.close()


# Who may commit.


def test_a_writer_has_state_report_and_fence(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    assert message_ids(writer.state) == ["a1"]
    assert not writer.report
    assert writer.fence == 1
    assert writer.turn.turn_id == ""
    head = raw_head(hosts.store)
    assert head.holder is not None
    assert (head.fence, head.holder.owner, head.revision) == (1, "host-a", 1)


def test_only_the_holders_writer_commits(hosts: Hosts) -> None:
    bystander = hosts.b.load(SESSION)
    writer = hosts.a.acquire(SESSION, "host-a")
    with pytest.raises(FencedError) as caught:
        hosts.b.commit(take_turn(bystander, "b1"))
    assert (caught.value.fence, caught.value.holder) == (1, "host-a")
    with pytest.raises(FencedError):  # the same owner's name does not help
        hosts.a.commit(take_turn(hosts.a.load(SESSION), "b1"))
    with pytest.raises(FencedError):
        hosts.b.update(SESSION, lambda state: state.set_execution_state_snapshot(b"x"))
    assert writer.commit(take_turn(writer.state, "a2")).head_revision == 2
    assert hosts.ids() == ["a1", "a2"]


def test_an_older_writer_is_fenced(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    first.commit(take_turn(first.state, "a2"))
    second = hosts.b.acquire(SESSION, "host-b")
    assert second.fence == first.fence + 1
    for attempt in range(2):
        with pytest.raises(FencedError) as caught:
            first.commit(take_turn(first.state, f"lost{attempt}"))
        assert caught.value.holder == "host-b"
    for act in (lambda: first.rewind(1), first.release, first.park, lambda: first.begin_turn("t")):
        with pytest.raises(FencedError):
            act()
    second.commit(take_turn(second.state, "b3"))
    assert hosts.ids() == ["a1", "a2", "b3"]


def test_acquiring_again_fences_ones_own_older_writer(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    second = hosts.a.acquire(SESSION, "host-a")
    with pytest.raises(FencedError):
        first.commit(take_turn(first.state, "x"))
    second.commit(take_turn(second.state, "a2"))


def test_a_commit_under_way_is_fenced_too(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    take_turn(first.state, "lost")
    hosts.watched.start_over()
    hosts.watched.act(1, lambda: hosts.b.acquire(SESSION, "host-b"))  # before the head
    with pytest.raises(FencedError):
        first.commit(first.state)
    assert hosts.ids() == ["a1"]


def test_a_commit_under_way_is_fenced_after_its_pack_too(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    take_turn(first.state, "lost")
    hosts.watched.start_over()
    hosts.watched.act(2, lambda: hosts.b.acquire(SESSION, "host-b"))  # between the pack and the head
    with pytest.raises(FencedError):
        first.commit(first.state, execution_state=Random(1).randbytes(20_000))
    assert hosts.ids() == ["a1"]


def test_a_commit_that_landed_before_the_take_over_is_acknowledged(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    take_turn(first.state, "kept")
    hosts.watched.start_over()
    hosts.faulty.plan.on("put", HEAD, fault=LoseAnswer())
    hosts.watched.act(3, lambda: hosts.b.acquire(SESSION, "host-b"))  # between the head and its reading
    assert first.commit(first.state).head_revision == 2
    assert hosts.ids() == ["a1", "kept"]
    with pytest.raises(FencedError):
        first.commit(take_turn(first.state, "lost"))


def test_a_commit_from_before_a_take_over_that_ended_is_fenced(hosts: Hosts) -> None:
    state = hosts.a.load(SESSION)
    hosts.b.acquire(SESSION, "host-b").release()
    with pytest.raises(FencedError):
        hosts.a.commit(take_turn(state, "lost"))
    hosts.a.commit(take_turn(hosts.a.load(SESSION), "a2"))


def test_release_clears_the_holder_and_keeps_the_fence(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    writer.release()
    head = raw_head(hosts.store)
    assert (head.holder, head.fence) == (None, 1)
    writer.release()  # again: nothing to do
    with pytest.raises(InvalidStateError, match="acquire it again"):
        writer.commit(writer.state)
    hosts.b.commit(take_turn(hosts.b.load(SESSION), "b2"))
    assert hosts.a.acquire(SESSION, "host-a").fence == 2


def test_an_operator_releases_by_the_owners_name(hosts: Hosts) -> None:
    hosts.a.acquire(SESSION, "host-a")
    with pytest.raises(FencedError) as caught:
        hosts.b.release(SESSION, "host-b")
    assert caught.value.holder == "host-a"
    hosts.b.release(SESSION, "host-a")
    hosts.b.release(SESSION, "host-a")
    assert raw_head(hosts.store).holder is None
    assert raw_head(hosts.store).fence == 1


def test_a_writer_goes_back(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    writer.commit(take_turn(writer.state, "a2"))
    writer.rewind(1)
    assert message_ids(writer.state) == ["a1"]
    writer.commit(take_turn(writer.state, "b2"))
    writer.restore(2)
    assert message_ids(writer.state) == hosts.ids() == ["a1", "a2"]


def test_a_rewind_that_was_applied_is_not_called_unavailable(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    writer.commit(take_turn(writer.state, "a2"))
    writer.rewind(1)
    hosts.faulty.plan.on("get", HEAD, times=1, fault=FailBefore())
    with pytest.raises(UnavailableError):
        print(writer.state)
    assert message_ids(writer.state) == ["a1"]  # asked for again
    writer.commit(take_turn(writer.state, "b2"))


def test_a_state_loaded_under_another_holder_is_committed_by_the_writer(hosts: Hosts) -> None:
    hosts.a.acquire(SESSION, "host-a")
    early = hosts.b.load(SESSION)
    writer = hosts.b.acquire(SESSION, "host-b")
    writer.commit(take_turn(early, "b2"))
    writer.release()
    hosts.b.commit(take_turn(early, "b3"))  # nobody holds it any more
    assert hosts.ids() == ["a1", "b2", "b3"]


def test_parking_after_the_repetition_of_an_old_turn_tells_the_present_revision(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    for number in (2, 3):
        writer.commit(take_turn(writer.state, f"a{number}"), TurnStamp(f"t{number}", "h"))
    assert writer.commit(take_turn(writer.state, "again"), TurnStamp("t2", "h")).head_revision == 2
    assert writer.park().head_revision == 3


def test_a_release_by_name_leaves_the_owner_that_came_back(hosts: Hosts) -> None:
    hosts.b.acquire(SESSION, "host-b")
    hosts.faulty.plan.on("put", HEAD, fault=LoseAnswer())
    came_back: list[int] = []
    hosts.watched.start_over()
    hosts.watched.act(3, lambda: came_back.append(hosts.b.acquire(SESSION, "host-b").fence))
    hosts.a.release(SESSION, "host-b")
    holder = raw_head(hosts.store).holder
    assert came_back == [2]
    assert holder is not None


def test_a_writer_of_one_session_commits_no_other(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    with pytest.raises(InvalidStateError, match="owns session"):
        writer.commit(new_session("other", "x"))
    with pytest.raises(SessionNotFoundError):
        hosts.a.load("other")


def test_a_held_session_can_be_forked_pinned_and_deleted(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    hosts.b.fork(SESSION, "c1")
    assert raw_head(hosts.store, "c1").holder is None
    hosts.b.commit(take_turn(hosts.b.load("c1"), "c2"))
    hosts.b.pin(SESSION, 1, "good")
    writer.commit(take_turn(writer.state, "a2"))
    assert [pin.name for pin in hosts.b.pins(SESSION)] == ["good"]
    hosts.b.delete(SESSION)
    with pytest.raises(SessionDeletedError):
        writer.commit(take_turn(writer.state, "a3"))


def test_park_commits_what_is_not_stored_and_releases(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    parked = writer.park()
    assert (parked.head_revision, raw_head(hosts.store).revision) == (1, 1)
    writer = hosts.a.acquire(SESSION, "host-a")
    take_turn(writer.state, "a2")
    parked = writer.park()
    assert parked.head_revision == 2
    assert parked.checkpoint_ref == hosts.b.load(SESSION).checkpoint_ref
    assert hosts.ids() == ["a1", "a2"]
    assert raw_head(hosts.store).holder is None


def test_a_session_taken_over_while_it_was_parked_is_parked(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    take_turn(writer.state, "a2")
    hosts.watched.start_over()
    hosts.watched.act(3, lambda: hosts.b.acquire(SESSION, "host-b"))  # pack, head; then the reading for the release
    parked = writer.park()
    assert parked.head_revision == 2
    assert hosts.ids() == ["a1", "a2"]
    holder = raw_head(hosts.store).holder
    assert holder is not None
    assert holder.owner == "host-b"
    with pytest.raises(InvalidStateError):
        writer.commit(writer.state)


def test_what_is_stored_and_not_released_says_so(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    take_turn(writer.state, "a2")
    hosts.faulty.plan.on("get", HEAD, times=1, fault=FailBefore())
    with pytest.raises(UnavailableError, match="stored as revision 2") as caught:
        writer.park()
    assert caught.value.applied == "unknown"
    assert hosts.ids() == ["a1", "a2"]
    assert writer.park().head_revision == 2


def test_after_a_turn_that_was_stored_before_the_state_is_the_present_one(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    for number in (2, 3):
        writer.commit(take_turn(writer.state, f"a{number}"), TurnStamp(f"t{number}", "h"))
    assert writer.commit(take_turn(writer.state, "again"), TurnStamp("t2", "h")).head_revision == 2
    assert message_ids(writer.state) == ["a1", "a2", "a3"]
    writer.commit(take_turn(writer.state, "a4"))


def test_park_returns_error_when_final_commit_fails(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    take_turn(writer.state, "a2")
    hosts.faulty.plan.on("put", HEAD, times=99, fault=FailBefore("no"))
    with pytest.raises(UnavailableError):
        writer.park()
    assert raw_head(hosts.store).holder is not None  # still held, nothing is lost
    hosts.faulty.plan = type(hosts.faulty.plan)()
    assert writer.park().head_revision == 2


# Take-overs that meet, and faults.


def test_two_take_overs_at_once_leave_one_owner() -> None:
    other: list[int] = []
    for number in range(1, 6):
        probe = Hosts()
        probe.watched.act(number, lambda probe=probe: other.append(probe.b.acquire(SESSION, "host-b").fence))  # type: ignore[misc]  # bound now
        mine = probe.a.acquire(SESSION, "host-a")
        probe.watched.act_now()
        head = raw_head(probe.store)
        assert mine.fence != other[-1]
        assert head.fence == max(mine.fence, other[-1])
        assert head.holder is not None
        assert head.holder.owner == ("host-a" if mine.fence > other[-1] else "host-b")
        probe.close()


@pytest.mark.parametrize("name", PUT_FAULTS)
@pytest.mark.parametrize("key", [HEAD, TURNS], ids=["head", "turns"])
def test_a_take_over_is_whole_whatever_happens_to_its_puts(hosts: Hosts, key: str, name: str) -> None:
    hosts.faulty.plan.on("put", key, fault=PUT_FAULTS[name])
    writer = hosts.a.acquire(SESSION, "host-a")
    hosts.faulty.release()
    head = raw_head(hosts.store)
    assert head.holder is not None
    assert (head.fence, head.holder.owner) == (writer.fence, "host-a")
    writer.begin_turn("t1")
    writer.commit(take_turn(writer.state, "a2"))
    hosts.faulty.plan.on("put", HEAD, fault=PUT_FAULTS[name])
    writer.release()
    hosts.faulty.release()
    assert raw_head(hosts.store).holder is None


@pytest.mark.parametrize("number", range(1, 5))
def test_a_take_over_that_died_is_taken_over(hosts: Hosts, number: int) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    first.begin_turn("t1").record("k", "h", b"r")
    dying = FaultyStore(hosts.store)
    dying.plan.on(("get", "put", "put", "get")[number - 1], (HEAD, TURNS, HEAD, HEAD)[number - 1], fault=CrashBefore())
    if number == 4:
        dying.plan = type(dying.plan)()
        dying.plan.on("get", HEAD, nth=2, fault=CrashBefore())
    host = SnapshotRepository(dying, clock=ManualClock(seed=3))
    with pytest.raises(Crash):
        host.acquire(SESSION, "dying")
    host.close()
    last = hosts.b.acquire(SESSION, "host-b")
    assert last.fence > first.fence
    assert last.turn.turn_id == "t1"
    assert last.turn.effects["k"].result == b"r"
    last.commit(take_turn(last.state, "b2"), TurnStamp("t1"))


@pytest.mark.parametrize(
    ("session_id", "owner", "expected"),
    [("nobody", "a", SessionNotFoundError), (SESSION, "", InvalidKeyError), (SESSION, "x" * 513, InvalidKeyError)],
)
def test_what_cannot_be_acquired(hosts: Hosts, session_id: str, owner: str, expected: type[Exception]) -> None:
    before = [row.key for row in hosts.store.list("")]
    with pytest.raises(expected):
        hosts.a.acquire(session_id, owner)
    assert [row.key for row in hosts.store.list("")] == before


def test_sessions_that_ended_are_not_acquired(hosts: Hosts) -> None:
    rewrite_head(hosts.store, lambda head: replace(head, status=MOVED, destination="s3://b", write_id="f" * 32))
    with pytest.raises(SessionMovedError):
        hosts.a.acquire(SESSION, "host-a")
    hosts.a.commit(new_session("s2", "x"))
    hosts.a.delete("s2")
    with pytest.raises(SessionDeletedError):
        hosts.a.acquire("s2", "host-a")


# The turn in flight.


def test_runtime_effect_journal_replays_by_idempotency_key_and_clears_on_final_commit(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    turn = first.begin_turn("t1")
    calls: list[str] = []

    def send() -> bytes:
        calls.append("mail")
        return b"sent"

    assert turn.perform("mail", "h1", send) == b"sent"
    turn.save_checkpoint(b"halfway")
    second = hosts.b.acquire(SESSION, "host-b")  # host a is gone
    assert (second.turn.turn_id, second.turn.checkpoint) == ("t1", b"halfway")
    again = second.begin_turn("t1")
    assert again.perform("mail", "h1", send) == b"sent"
    assert calls == ["mail"]
    with pytest.raises(EffectConflictError):
        again.perform("mail", "h2", lambda: b"other")
    second.commit(take_turn(second.state, "b2"), TurnStamp("t1"))
    third = hosts.a.acquire(SESSION, "host-a")
    assert third.turn.turn_id == ""
    assert not third.turn.effects


def test_stale_completed_turn_commit_rejects_and_preserves_resume_state(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    first.begin_turn("t1").record("k", "h", b"r")
    second = hosts.b.acquire(SESSION, "host-b")
    with pytest.raises(FencedError):
        first.commit(take_turn(first.state, "lost"), TurnStamp("t1"))
    with pytest.raises(FencedError):
        first.turn.record("k2", "h", b"r")
    assert second.turn.turn_id == "t1"
    assert list(second.turn.effects) == ["k"]
    third = hosts.b.acquire(SESSION, "host-c")
    assert list(third.turn.effects) == ["k"]
    assert hosts.ids() == ["a1"]


def test_expired_completed_turn_commit_rejects_and_preserves_resume_state(hosts: Hosts) -> None:
    hosts.a.claim_lease(SESSION, "host-a", 30)
    first = hosts.a.acquire(SESSION, "host-a")
    first.begin_turn("t1").record("k", "h", b"r")
    with pytest.raises(LeaseHeldError):
        hosts.a.claim_lease(SESSION, "host-b", 30)
    held = hosts.a.read_lease(SESSION)
    assert isinstance(held, Lease)
    assert held.owner == "host-a"
    hosts.clock.advance(31)
    hosts.a.claim_lease(SESSION, "host-b", 30)
    second = hosts.a.acquire(SESSION, "host-b")
    with pytest.raises(FencedError):
        first.commit(take_turn(first.state, "lost"), TurnStamp("t1"))
    assert list(second.turn.effects) == ["k"]


def test_durable_turn_resume_uses_leased_finisher_and_clears_resume_state(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    first.begin_turn("t1").save_checkpoint(b"cp")
    first.commit(take_turn(first.state, "a2"), TurnStamp("t1"))
    assert first.begin_turn("t2").checkpoint == b""  # t1 counts as finished, by its stamp
    first.commit(take_turn(first.state, "a3"), TurnStamp("t2"))
    with pytest.raises(IllegalTransitionError):
        first.begin_turn("t1")
    assert hosts.b.acquire(SESSION, "host-b").turn.turn_id == ""


def test_a_commit_of_the_older_owner_that_won_finishes_the_turn(hosts: Hosts) -> None:
    first = hosts.a.acquire(SESSION, "host-a")
    first.begin_turn("t1").record("k", "h", b"r")
    store = WatchedStore(hosts.store)
    late = SnapshotRepository(store, clock=ManualClock(seed=3))
    # Between the register of the turn and the head the older owner's commit lands.
    store.start_over()
    store.act(4, lambda: first.commit(take_turn(first.state, "a2"), TurnStamp("t1")))
    second = late.acquire(SESSION, "host-b")
    assert store.requests[3] == ("put", HEAD)
    assert second.turn.turn_id == ""
    assert message_ids(second.state) == ["a1", "a2"]
    with pytest.raises(FencedError):
        first.begin_turn("t2")
    late.close()


def test_another_turn_is_not_begun_over_one_in_flight(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    writer.begin_turn("t1")
    with pytest.raises(IllegalTransitionError):
        writer.begin_turn("t2")
    writer.turn.abandon()
    writer.begin_turn("t2")


def test_a_rewound_turn_may_be_begun_again(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    writer.begin_turn("t1")
    writer.commit(take_turn(writer.state, "a2"), TurnStamp("t1"))
    writer.rewind(1)
    writer.begin_turn("t1").record("k", "h", b"again")
    writer.commit(take_turn(writer.state, "b2"), TurnStamp("t1"))
    assert hosts.ids() == ["a1", "b2"]


def test_a_committed_turn_is_over_in_the_hands_of_its_writer(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    turn = writer.begin_turn("t1")
    turn.record("k", "h", b"r")
    writer.commit(take_turn(writer.state, "a2"), TurnStamp("t1"))
    assert (turn.turn_id, turn.checkpoint, dict(turn.effects)) == ("", b"", {})
    with pytest.raises(IllegalTransitionError):
        turn.perform("late", "h", lambda: b"lost")
    with pytest.raises(IllegalTransitionError):
        turn.save_checkpoint(b"lost")
    writer.begin_turn("t2")
    assert turn.turn_id == "t2"
    assert not turn.effects


def test_after_a_release_nothing_is_recorded(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    turn = writer.begin_turn("t1")
    turn.record("k", "h", b"r")
    writer.release()
    with pytest.raises(InvalidStateError, match="acquire it again"):
        turn.record("k2", "h", b"r")
    with pytest.raises(InvalidStateError):
        turn.begin("t2")
    assert list(hosts.b.acquire(SESSION, "host-b").turn.effects) == ["k"]


def test_a_rewind_behind_a_committed_turn_leaves_none_in_flight(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    writer.begin_turn("t1").record("k", "h", b"first")
    writer.commit(take_turn(writer.state, "a2"), TurnStamp("t1"))
    writer.rewind(1)
    writer.begin_turn("t2")
    writer.turn.abandon()
    again = writer.begin_turn("t1")
    assert again.perform("k", "h", lambda: b"second") == b"second"  # it knows nothing of the first time
    writer.commit(take_turn(writer.state, "b2"), TurnStamp("t1"))


@pytest.mark.parametrize("parked", [True, False], ids=["released", "died"])
def test_a_rewind_by_others_behind_a_committed_turn_leaves_none_in_flight(hosts: Hosts, parked: bool) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    writer.begin_turn("t1").record("k", "h", b"first")
    writer.commit(take_turn(writer.state, "a2"), TurnStamp("t1"))
    if parked:
        writer.release()
    else:
        hosts.b.release(SESSION, "host-a")
    hosts.b.rewind(SESSION, 1)
    heir = hosts.b.acquire(SESSION, "host-b")
    assert heir.turn.turn_id == ""
    heir.begin_turn("t1").record("k", "h", b"second")
    last = hosts.a.acquire(SESSION, "host-a")  # in flight again: the stamp of the first time does not finish it
    assert last.turn.turn_id == "t1"
    assert last.turn.effects["k"].result == b"second"


# What resuming tells.


class Recorder:
    """A plugin that remembers what it was given back, or refuses it."""

    def __init__(self, plugin_id: str, error: Exception | None = None) -> None:
        self.plugin_id = plugin_id
        self.plugin_version = "1"
        self.given: PluginSnapshotMeta | None = None
        self._error = error

    def snapshot_revision(self) -> int:
        return 1

    def snapshot(self, writer: object) -> PluginSnapshotMeta:  # noqa: ARG002  a plugin
        return PluginSnapshotMeta(plugin_id=self.plugin_id, plugin_version="1")

    def restore(self, meta: PluginSnapshotMeta, reader: object) -> None:  # noqa: ARG002  a plugin
        if self._error is not None:
            raise self._error
        self.given = meta


def with_parts(hosts: Hosts) -> None:
    state = hosts.a.load(SESSION)
    entries = {
        name: PluginSnapshot(meta=PluginSnapshotMeta(plugin_id=name, plugin_version="1", revision=7))
        for name in ("here", "gone", "angry")
    }
    tool = ToolEntry(manifest=ToolManifest(id="t", name="t", description=""), source_id="nowhere")
    state.stamp_runtime_state(ToolState(generation=2, tools={"t": tool}), PluginSessionSnapshot(plugins=entries))
    hosts.a.commit(state)


def test_what_could_not_be_restored_is_reported(hosts: Hosts) -> None:
    with_parts(hosts)
    here, angry = Recorder("here"), Recorder("angry", ValueError("no"))
    plugins: list[Plugin] = [here, angry]
    writer = hosts.b.acquire(SESSION, "host-b", plugins=PluginSession(plugins))
    assert here.given is not None
    assert here.given.revision == 7
    assert [one.name for one in writer.report.missing] == ["gone"]
    assert [(one.kind, one.name) for one in writer.report.refused] == [("tool_state", "nowhere"), ("plugin", "angry")]
    assert not writer.report.healed


def test_without_plugins_nothing_is_restored_and_nothing_is_missing(hosts: Hosts) -> None:
    with_parts(hosts)
    assert not hosts.b.acquire(SESSION, "host-b").report


# Appending to a branch.


def test_nodes_are_appended_where_the_branch_still_stands(hosts: Hosts) -> None:
    answer = hosts.a.append_session_nodes(SESSION, [message("n1")], requires_ancestor_node_id="a1")
    assert isinstance(answer, AppendedNodes)
    assert answer.node_ids == ("n1",)
    assert hosts.ids() == ["a1", "n1"]


def test_a_stale_branch_is_told_and_nothing_is_written(hosts: Hosts) -> None:
    state = hosts.a.load(SESSION)
    state.session_graph.branch_to(None)
    state.append_session_nodes([message("fresh")])
    hosts.a.commit(state)
    before = raw_head(hosts.store)
    answer = hosts.a.append_session_nodes(SESSION, [message("n1")], requires_ancestor_node_id="a1")
    assert answer == StaleBranch(current_leaf_node_id="fresh")
    assert raw_head(hosts.store) == before


def test_the_base_of_a_writer_is_under_its_own_fence(hosts: Hosts) -> None:
    writer = hosts.a.acquire(SESSION, "host-a")
    copy: PersistedSessionState = writer.state.copy()
    writer.commit(take_turn(writer.state, "a2"))
    with pytest.raises(RevisionConflictError):
        writer.commit(take_turn(copy, "other"))
