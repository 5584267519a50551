"""Subscriptions: whatever is recorded, and from wherever it is replayed, nothing outside the scope is shown."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.errors import InvalidStateError, SessionDeletedError, SessionNotFoundError
from snapshots.realtime import PrivacyClass, RealtimeController, RealtimeResponseId, subscribe
from snapshots.state.values import U64_MAX
from storage.errors import InvalidKeyError, UnavailableError
from storage.testing.faults import FailBefore
from tests.snapshots.realtime.bench import SESSION, Bench, NotingAdapter, incoming, out, sidecar
from tests.snapshots.realtime.test_faults import deleted

CLASSES = st.sampled_from(PrivacyClass)
ACTIONS = st.lists(st.tuples(st.sampled_from(["send", "receive", "restart", "interrupt"]), CLASSES), max_size=12)


def recorded(actions: list[tuple[str, PrivacyClass]]) -> Bench:
    """Return a bench on which this was done in two sessions, with a queue that overflows."""
    bench = Bench()
    adapter = NotingAdapter()
    other = RealtimeController(bench.there, "s2", adapter, sidecar())
    other.connect()
    controller = bench.connected(overflow="summarize", capacity=1)
    restarting = False
    for number, (action, privacy) in enumerate(actions):
        other.interrupt()
        if action == "restart":
            controller.complete_restart() if restarting else controller.begin_restart()
            restarting = not restarting
        elif action == "send":
            controller.send(out(f"f{number}", privacy=privacy))
        elif not restarting and action == "receive":
            bench.adapter.coming.append(incoming(f"f{number}", privacy=privacy))
            controller.receive()
        elif not restarting:
            controller.interrupt()
    return bench


@settings(max_examples=60, deadline=None)
@given(ACTIONS, CLASSES, st.integers(0, 40), st.integers(0, 60))
def test_a_replay_never_shows_more_than_its_scope(
    actions: list[tuple[str, PrivacyClass]], privacy: PrivacyClass, first: int, cursor: int
) -> None:
    bench = recorded(actions)
    every = bench.records()
    subscription = subscribe(bench.there, SESSION, after=first, privacy=privacy)
    shown = list(subscription.new())
    if cursor >= first:
        replayed = list(subscription.replay(after=cursor))
        assert replayed == [record for record in shown if record.sequence > cursor]
    else:
        with pytest.raises(InvalidStateError):
            list(subscription.replay(after=cursor))
    frames = {record.sequence: [record.frame, record.summary] for record in every}
    for record in shown:
        assert record.sequence > first
        assert record.state.session_id.value == SESSION
        about = frames[record.sequence] + frames.get(record.answers or 0, [])
        assert all(privacy.covers(frame.privacy) for frame in about if frame is not None)
    hidden = [record for record in every if record.sequence > first and record not in shown]
    for record in hidden:
        about = frames[record.sequence] + frames.get(record.answers or 0, [])
        assert any(frame is not None and not privacy.covers(frame.privacy) for frame in about), (
            "nothing else is left out"
        )


def test_the_highest_class_sees_everything() -> None:
    bench = recorded([("send", PrivacyClass.SECRET), ("restart", PrivacyClass.PUBLIC), ("send", PrivacyClass.PUBLIC)])
    assert list(subscribe(bench.there, SESSION, privacy=PrivacyClass.SECRET).new()) == bench.records()
    numbers = [record.sequence for record in subscribe(bench.there, SESSION).new()]
    assert numbers == [1, 2, 5, 6, 7]


def test_a_summary_of_what_is_secret_is_not_shown_with_a_frame_that_is_not() -> None:
    held = [("restart", PrivacyClass.PUBLIC), ("send", PrivacyClass.SECRET), ("send", PrivacyClass.PUBLIC)]
    bench = recorded(held)
    assert bench.records()[-1].summary is not None
    assert [record.sequence for record in subscribe(bench.there, SESSION).new()] == [1, 2, 3, 4]


def test_the_response_of_a_secret_frame_is_not_named_where_it_is_interrupted() -> None:
    bench = Bench()
    controller = bench.connected()
    bench.adapter.coming.append(incoming("answer", privacy=PrivacyClass.SECRET, response_id="r1"))
    controller.receive()
    controller.interrupt(RealtimeResponseId("r1"))
    controller.interrupt()
    for privacy in PrivacyClass:
        shown = list(subscribe(bench.there, SESSION, privacy=privacy).new())
        named = [record.sequence for record in shown if record.response_id is not None]
        assert named == ([4, 5, 6] if privacy is PrivacyClass.SECRET else [])
        assert [record.sequence for record in shown][-2:] == [7, 8], "that it was interrupted at all is no secret"


def test_new_records_come_once_and_replays_leave_the_position() -> None:
    bench = Bench()
    controller = bench.connected()
    subscription = subscribe(bench.there, SESSION, privacy=PrivacyClass.SECRET)
    assert [record.sequence for record in subscription.new()] == [1, 2]
    assert list(subscription.new()) == []
    controller.send(out("one"))
    assert [record.sequence for record in subscription.replay(after=1)] == [2, 3, 4]
    assert [record.sequence for record in subscription.new()] == [3, 4]
    assert subscription.position == 4


def test_a_reading_that_fails_goes_on_behind_the_last_record() -> None:
    bench = Bench()
    controller = bench.connected()
    for number in range(20):
        controller.send(out(f"f{number}"))
    subscription = subscribe(bench.here, SESSION, privacy=PrivacyClass.SECRET)
    bench.faulty.plan.on("get", bench.key(20), fault=FailBefore())
    seen: list[int] = []

    def read() -> None:
        for record in subscription.new():
            seen.append(record.sequence)  # noqa: PERF401  what was read before the failure counts

    with pytest.raises(UnavailableError):
        read()
    assert 0 < len(seen) < 20
    read()
    assert seen == list(range(1, 43))


def test_the_scope_is_fixed() -> None:
    scope = subscribe(Bench().there, SESSION, after=3).scope
    with pytest.raises(AttributeError):
        scope.privacy = PrivacyClass.SECRET  # type: ignore[misc]  # that it is refused is the claim


@pytest.mark.parametrize("after", [-1, 1.5, True, "3"])
def test_what_is_no_number_of_a_record_is_refused(after: object) -> None:
    with pytest.raises(InvalidStateError):
        subscribe(Bench().there, SESSION, after=after)  # type: ignore[arg-type]  # that it is refused is the claim


def test_what_is_no_class_is_refused() -> None:
    with pytest.raises(InvalidStateError):
        subscribe(Bench().there, SESSION, privacy="nope")  # type: ignore[arg-type]  # that it is refused is the claim


def test_behind_the_last_number_there_is_nothing() -> None:
    bench = Bench()
    bench.connected()
    assert list(subscribe(bench.there, SESSION, after=U64_MAX).new()) == []


def test_what_is_not_there_is_not_empty() -> None:
    bench = Bench()
    with pytest.raises(SessionNotFoundError):
        list(subscribe(bench.there, SESSION).new())
    with pytest.raises(InvalidKeyError):
        subscribe(bench.there, "")
    deleted(bench)
    with pytest.raises(SessionDeletedError):
        list(subscribe(bench.there, SESSION).new())
