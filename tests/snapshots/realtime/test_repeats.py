"""Steps that were not confirmed and are taken up again: by the same host, beside other steps, after another host."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from snapshots.errors import FencedError, IllegalTransitionError, InvalidStateError
from snapshots.realtime import (
    RealtimeCloseReason,
    RealtimeController,
    RealtimeSessionStatus,
    RestartCompleted,
    SendOutcome,
)
from snapshots.realtime.journal import RECORDS_BEHIND_MAX, register_of
from storage.errors import UnavailableError
from storage.testing.faults import FailBefore, LoseAnswer, Meanwhile
from tests.snapshots.realtime.bench import SESSION, Bench, LostError, NotingAdapter, check_log, incoming, out, sidecar

Step = Callable[[RealtimeController], object]
STEPS: dict[str, Step] = {
    "connect": lambda controller: controller.connect(),
    "send": lambda controller: controller.send(out("f")),
    "interrupt": lambda controller: controller.interrupt(),
    "receive": lambda controller: controller.receive(),
    "close": lambda controller: controller.close(),
    "queued send": lambda controller: controller.complete_restart(),
}
EACH_STEP = pytest.mark.parametrize("name", [name for name in STEPS if name != "receive"])


@pytest.fixture
def bench() -> Bench:
    return Bench()


def before(bench: Bench, name: str) -> tuple[RealtimeController, str]:
    """Return a controller before a step, and the key of the record that requests it."""
    if name == "connect":
        return bench.controller(), bench.key(1)
    controller = bench.connected()
    if name != "queued send":
        return controller, bench.key(3)
    controller.begin_restart()
    controller.send(out("q"))
    return controller, bench.key(7)


# Another host takes over meanwhile.


@EACH_STEP
def test_a_step_that_is_repeated_after_another_host_took_over_leaves_the_adapter_alone(bench: Bench, name: str) -> None:
    """The request is stored and its answer lost, another host resumes, the step is repeated."""
    controller, key = before(bench, name)
    bench.faulty.plan.on("put", key, fault=LoseAnswer(), times=None)
    bench.faulty.plan.on("get", key, fault=FailBefore(), nth=2 if name == "connect" else 1, times=None)
    with pytest.raises(UnavailableError):
        STEPS[name](controller)
    bench.faulty.plan.clear()
    theirs = NotingAdapter()
    bench.resumed(theirs).complete_restart()
    calls = list(bench.adapter.calls)
    with pytest.raises(FencedError):
        STEPS[name](controller)
    assert bench.adapter.calls == calls
    assert theirs.verbs == ["restart"]


@EACH_STEP
def test_a_host_that_is_taken_over_while_it_waits_to_look_leaves_the_adapter_alone(bench: Bench, name: str) -> None:
    """The request is stored, its answer lost, and another host is there before it is found."""
    controller, key = before(bench, name)
    bench.faulty.plan.on("put", key, fault=LoseAnswer())
    nth = 2 if name == "connect" else 1
    bench.faulty.plan.on("get", key, fault=Meanwhile(lambda: bench.resumed().complete_restart()), nth=nth)
    calls = list(bench.adapter.calls)
    with pytest.raises(FencedError):
        STEPS[name](controller)
    told = bench.adapter.calls[len(calls) :]
    assert [verb for verb, _ in told] == (["restart"] if name == "queued send" else [])


def test_a_look_that_fails_keeps_the_request_for_the_repeat(bench: Bench) -> None:
    controller = bench.connected()
    bench.faulty.plan.on("put", bench.key(3), fault=LoseAnswer())
    bench.faulty.plan.on("get", bench.key(4), fault=FailBefore())
    with pytest.raises(UnavailableError) as failed:
        controller.send(out("f"))
    assert failed.value.applied == "unknown"
    assert bench.adapter.sent == []
    assert controller.send(out("f")).sequence == 3
    assert bench.adapter.sent == ["f"]
    assert bench.kinds()[2:] == ["input_send_requested", "input_sent"]


# Frames that were held back, and other steps in between.

BETWEEN: dict[str, Step] = {
    "receive": lambda controller: controller.receive(),
    "interrupt": lambda controller: controller.interrupt(),
    "begin_restart": lambda controller: controller.begin_restart(),
    "detach": lambda controller: controller.close(RealtimeCloseReason.HOST_OWNED_DETACH),
}


def stuck_at_b(bench: Bench) -> RealtimeController:
    """Return a controller that has sent one frame of three that were held back, and could not request the second."""
    controller = bench.restarting()
    for name in "abc":
        controller.send(out(name))
    bench.faulty.plan.on("put", bench.key(11), fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        controller.complete_restart()
    bench.faulty.plan.clear()
    return controller


@pytest.mark.parametrize("between", BETWEEN)
def test_a_frame_that_was_held_back_is_sent_whatever_settles_its_request(bench: Bench, between: str) -> None:
    controller = stuck_at_b(bench)
    BETWEEN[between](controller)
    if between == "detach":
        controller.begin_restart()
    again = between in ("begin_restart", "detach")
    assert controller.complete_restart() == RestartCompleted(sent_count=2 if again else 3)
    controller.send(out("d"))
    assert bench.adapter.sent == ["a", "b", "c", "d"]
    assert bench.adapter.verbs.count("restart") == (2 if again else 1)
    assert not controller.in_doubt
    check_log(bench.records())
    repeats = [record.repeats for record in bench.records() if record.repeats]
    assert repeats == ([11] if again else []), "a connection sends what it has requested itself"


def test_a_frame_that_was_held_back_is_sent_before_the_next(bench: Bench) -> None:
    controller = stuck_at_b(bench)
    controller.interrupt()
    assert controller.send(out("d")).outcome is SendOutcome.SENT
    assert bench.adapter.sent == ["a", "b", "c", "d"]


def test_a_frame_that_is_still_to_be_sent_is_not_held_back_again(bench: Bench) -> None:
    controller = stuck_at_b(bench)
    controller.begin_restart()
    with pytest.raises(InvalidStateError):
        controller.send(out("b"))
    controller.complete_restart()
    assert bench.adapter.sent == ["a", "b", "c"]


def test_a_frame_that_is_still_to_be_sent_survives_more_lost_answers(bench: Bench) -> None:
    """Requested on one connection, and again on the next, which is not confirmed either."""
    controller = stuck_at_b(bench)
    controller.begin_restart()
    bench.faulty.plan.on("put", bench.key(15), fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        controller.complete_restart()
    bench.faulty.plan.clear()
    controller.interrupt()
    controller.send(out("d"))
    assert bench.adapter.sent == ["a", "b", "c", "d"]
    assert not controller.in_doubt


def test_another_host_finds_it_in_doubt(bench: Bench) -> None:
    controller = stuck_at_b(bench)
    controller.interrupt()
    second = bench.resumed()
    assert (second.in_doubt, second.queued) == ((out("b"),), (out("c"),))


def test_how_many_were_sent_is_told_across_calls(bench: Bench) -> None:
    controller = stuck_at_b(bench)
    assert controller.complete_restart() == RestartCompleted(sent_count=3)


def test_a_session_is_not_restarted_for_nothing(bench: Bench) -> None:
    controller = stuck_at_b(bench)
    controller.complete_restart()
    with pytest.raises(IllegalTransitionError):
        controller.complete_restart()


# A restart that was announced, and never came.


def announced(bench: Bench) -> None:
    """Let another host announce a restart, and get no further."""
    bench.faulty.plan.on("put", bench.key(len(bench.kinds()) + 1), fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())
    bench.faulty.plan.clear()


def send_many(host: RealtimeController) -> None:
    for number in range(RECORDS_BEHIND_MAX):
        host.send(out(f"f{number}"))


@pytest.mark.parametrize("first", [0, 1])
def test_a_host_behind_an_announced_restart_records_what_it_has_done(bench: Bench, first: int) -> None:
    """It is stopped at a request, not between one and its answer: nothing it did is in doubt."""
    host = bench.connected()
    for _ in range(first):
        host.receive()
    announced(bench)
    with pytest.raises(FencedError, match="announced a restart"):
        send_many(host)
    sent = [record.frame_id for record in bench.records() if record.kind.value == "input_sent"]
    assert [frame_id.value for frame_id in sent if frame_id] == bench.adapter.sent
    assert host.in_doubt == ()
    adapter = NotingAdapter()
    second = bench.resumed(adapter)
    second.complete_restart()
    assert second.in_doubt == ()
    check_log(bench.records())


def test_a_connection_lost_behind_an_announced_restart_is_recorded_as_lost(bench: Bench) -> None:
    host = bench.connected()
    host.receive()
    while len(bench.kinds()) < RECORDS_BEHIND_MAX - 1:
        host.interrupt()
    announced(bench)
    bench.adapter.failing["send"] = 1
    with pytest.raises(LostError):
        host.send(out("f"))
    assert len(bench.kinds()) == RECORDS_BEHIND_MAX + 1
    assert host.state.lifecycle_status is RealtimeSessionStatus.FAILED
    host.begin_restart()
    host.complete_restart()
    host.send(out("f"))
    assert register_of(bench.there.environment, SESSION).read().value.sequence > RECORDS_BEHIND_MAX


# What is said of a step that was taken.


@pytest.mark.parametrize("name", ["send", "receive", "interrupt", "close"])
def test_nobody_is_told_that_nothing_was_done_after_the_adapter_was_called(bench: Bench, name: str) -> None:
    controller = bench.connected()
    bench.adapter.coming.append(incoming("answer"))
    bench.faulty.plan.on("put", bench.key(4), fault=FailBefore("no"), times=None)
    for _ in range(2):
        with pytest.raises(UnavailableError) as failed:
            STEPS[name](controller)
        assert failed.value.applied == "unknown"
    assert bench.adapter.verbs == ["open", name]


def test_a_poll_that_took_a_frame_does_not_say_that_it_did_nothing(bench: Bench) -> None:
    controller = bench.connected()
    controller.receive()
    bench.adapter.coming.append(incoming("answer"))
    bench.faulty.plan.on("put", bench.key(4), fault=FailBefore("no"), times=None)
    with pytest.raises(UnavailableError) as failed:
        controller.receive()
    assert failed.value.applied == "unknown"


@pytest.mark.parametrize(("failing", "applied"), [("/state", "no"), (3, "unknown"), (4, "unknown")])
def test_a_host_that_could_not_take_over_is_told_whether_the_former_is_fenced(
    bench: Bench, failing: str | int, applied: str
) -> None:
    bench.connected()
    key = failing if isinstance(failing, str) else bench.key(failing)
    bench.faulty.plan.on("put", key, fault=FailBefore("no"), times=None)
    with pytest.raises(UnavailableError) as failed:
        RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())
    assert failed.value.applied == applied


# Interruptions, and errors of the adapter.


def stop() -> None:
    raise KeyboardInterrupt


@pytest.mark.parametrize("nth", [4, 5])
def test_a_frame_that_was_received_is_not_lost_by_an_interruption(bench: Bench, nth: int) -> None:
    """While its record is written, or while it is looked for after a lost answer."""
    controller = bench.connected()
    bench.adapter.coming += [incoming("first"), incoming("second")]
    if nth == 5:
        bench.faulty.plan.on("put", bench.key(4), fault=LoseAnswer())
        bench.faulty.plan.on("get", bench.key(4), fault=Meanwhile(stop))
    else:
        bench.faulty.plan.on("put", bench.key(4), fault=Meanwhile(stop))
    with pytest.raises(KeyboardInterrupt):
        controller.receive()
    assert controller.undelivered == incoming("first")
    assert [controller.receive(), controller.receive()] == [incoming("first"), incoming("second")]
    check_log(bench.records())


def test_a_frame_is_recorded_first_if_the_interruption_came_before_its_record(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = bench.connected()
    bench.adapter.coming.append(incoming("first"))
    with monkeypatch.context() as patch:
        bench.adapter.before = lambda _: patch.setattr("snapshots.realtime.journal.encode", lambda *_: stop())
        with pytest.raises(KeyboardInterrupt):
            controller.receive()
    bench.adapter.before = None
    assert controller.receive() == incoming("first")
    assert bench.kinds()[-1] == "output_received"


@pytest.mark.parametrize("verb", ["send", "receive", "interrupt", "close", "restart", "open"])
def test_an_adapter_that_is_cancelled_has_lost_its_connection(bench: Bench, verb: str) -> None:
    controller = bench.controller()
    if verb != "open":
        controller.connect()
    if verb == "restart":
        controller.begin_restart()

    def cancel(_: str) -> None:
        raise asyncio.CancelledError

    bench.adapter.before = cancel
    name = {"open": "connect", "restart": "queued send"}.get(verb, verb)
    with pytest.raises(asyncio.CancelledError):
        STEPS[name](controller)
    ended = {"close": RealtimeSessionStatus.CLOSED, "restart": RealtimeSessionStatus.RESTART_FAILED}
    assert controller.state.lifecycle_status is ended.get(verb, RealtimeSessionStatus.FAILED)


def test_an_interruption_is_heard_though_the_end_cannot_be_recorded(bench: Bench) -> None:
    controller = bench.connected()
    bench.faulty.plan.on("put", bench.key(4), fault=FailBefore(), times=None)
    bench.adapter.before = lambda _: stop()
    with pytest.raises(KeyboardInterrupt):
        controller.send(out("f"))
    bench.faulty.plan.clear()
    with pytest.raises(IllegalTransitionError):
        controller.send(out("f"))
    assert controller.in_doubt == (out("f"),)


def test_an_error_of_the_adapter_is_not_taken_for_one_of_ours(bench: Bench) -> None:
    controller = bench.connected()

    def store_is_down(_: str) -> None:
        raise UnavailableError("blob", "the store of contents is down", applied="no")

    bench.adapter.before = store_is_down
    with pytest.raises(ConnectionError) as lost:
        controller.send(out("f"))
    assert isinstance(lost.value.__cause__, UnavailableError)
    assert controller.state.lifecycle_status is RealtimeSessionStatus.FAILED


@pytest.mark.parametrize("name", ["send", "receive", "interrupt", "close"])
def test_what_the_adapter_raised_is_told_though_its_record_was_not_confirmed(bench: Bench, name: str) -> None:
    controller = bench.connected()
    bench.adapter.failing[name] = 1
    bench.faulty.plan.on("put", bench.key(4), fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        STEPS[name](controller)
    bench.faulty.plan.clear()
    with pytest.raises(LostError):
        STEPS[name](controller)
    with pytest.raises(IllegalTransitionError):
        STEPS[name](controller)
    assert bench.adapter.verbs == ["open", name]


def test_a_session_is_closed_after_a_connection_that_was_lost(bench: Bench) -> None:
    controller = bench.connected()
    bench.adapter.failing["send"] = 1
    bench.faulty.plan.on("put", bench.key(4), fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        controller.send(out("f"))
    bench.faulty.plan.clear()
    controller.close()
    assert controller.state.lifecycle_status is RealtimeSessionStatus.CLOSED
