"""Requests lost, delayed and repeated, hosts that crash and hosts that meet: what is recorded is what happened."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest

from snapshots import SnapshotRepository
from snapshots.errors import (
    FencedError,
    IllegalTransitionError,
    SessionDeletedError,
    SessionExistsError,
    SessionNotFoundError,
)
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.realtime import (
    RealtimeCloseReason,
    RealtimeController,
    RealtimeFrame,
    RealtimeSessionRecord,
    RealtimeSessionStatus,
    RestartCompleted,
    RestartFailed,
    SendOutcome,
    load_realtime,
)
from snapshots.realtime.journal import ATTEMPTS_MAX, RECORDS_BEHIND_MAX, register_of
from storage.errors import PermissionDeniedError, UnavailableError
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    Delay,
    Deny,
    FailBefore,
    Fault,
    LoseAnswer,
    Meanwhile,
    Repeat,
)
from tests.faults import WRITE_FAULTS
from tests.integration.builders import new_session
from tests.snapshots.realtime.bench import SESSION, Bench, LostError, NotingAdapter, check_log, incoming, out, sidecar

RECORD = "realtime/"
FAULTS: tuple[Fault, ...] = (*WRITE_FAULTS, Repeat())
EVERY_FAULT = pytest.mark.parametrize("fault", FAULTS, ids=str)
EITHER_RECORD = pytest.mark.parametrize("nth", [1, 2], ids=["before", "after"])
Step = Callable[[RealtimeController], object]


def received(controller: RealtimeController) -> RealtimeFrame | None:
    return controller.receive()


# Name → whether a restart is begun before, the step, and the verb of the adapter that it calls.
STEPS: dict[str, tuple[bool, Step, str]] = {
    "send": (False, lambda controller: controller.send(out("f")), "send"),
    "receive": (False, received, "receive"),
    "interrupt": (False, lambda controller: controller.interrupt(), "interrupt"),
    "begin_restart": (False, lambda controller: controller.begin_restart(), ""),
    "complete_restart": (True, lambda controller: controller.complete_restart(), "restart"),
    "gated send": (True, lambda controller: controller.send(out("f")), ""),
    "close": (False, lambda controller: controller.close(), "close"),
}
EACH_STEP = pytest.mark.parametrize("name", STEPS)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def begun(bench: Bench, name: str) -> RealtimeController:
    controller = bench.restarting() if STEPS[name][0] else bench.connected()
    bench.adapter.coming.append(incoming("answer"))
    return controller


def undisturbed(name: str) -> tuple[list[str], list[str]]:
    """Return the kinds of records and the calls of a step that nothing disturbs."""
    bench = Bench()
    STEPS[name][1](begun(bench, name))
    return bench.kinds(), bench.adapter.verbs


@EACH_STEP
@EITHER_RECORD
@EVERY_FAULT
def test_one_lost_answer_changes_nothing(bench: Bench, name: str, nth: int, fault: Fault) -> None:
    controller = begun(bench, name)
    bench.faulty.plan.on("put", RECORD, fault=fault, nth=nth)
    STEPS[name][1](controller)
    bench.faulty.release()
    assert (bench.kinds(), bench.adapter.verbs) == undisturbed(name)
    check_log(bench.records())


@pytest.mark.parametrize(
    ("name", "nth"),
    [(name, nth) for name in STEPS for nth in (1, 2) if nth == 1 or name not in ("gated send", "complete_restart")],
)
@pytest.mark.parametrize("fault", [FailBefore("no"), FailBefore("unknown"), LoseAnswer(), Delay()], ids=str)
def test_a_step_that_was_not_confirmed_goes_on_where_it_stopped(
    bench: Bench, name: str, nth: int, fault: Fault
) -> None:
    """All writes fail from the nth on, and reads as well. The adapter is not called before the first is confirmed."""
    controller = begun(bench, name)
    calls = list(bench.adapter.verbs)
    bench.faulty.plan.on("put", RECORD, fault=fault, nth=nth, times=None)
    bench.faulty.plan.on("get", RECORD, fault=FailBefore(), nth=1 if name != "complete_restart" else 2, times=None)
    for _ in range(3):
        with pytest.raises(UnavailableError) as failed:
            STEPS[name][1](controller)
        done = nth == 2 or name == "complete_restart"
        assert failed.value.applied == ("no" if fault == FailBefore("no") and not done else "unknown")
        assert bench.adapter.verbs == calls + [STEPS[name][2]] * (done and bool(STEPS[name][2]))
    bench.faulty.plan.clear()
    STEPS[name][1](controller)
    bench.faulty.release()
    assert (bench.kinds(), bench.adapter.verbs) == undisturbed(name)
    check_log(bench.records())


@EVERY_FAULT
@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_connecting_through_a_lost_answer(bench: Bench, fault: Fault, nth: int) -> None:
    controller = bench.controller()
    bench.faulty.plan.on("put", RECORD, fault=fault, nth=nth)
    controller.connect()
    bench.faulty.release()
    assert (bench.kinds(), bench.adapter.verbs) == (["connect_requested", "connected"], ["open"])


@pytest.mark.parametrize("nth", [1, 2, 3])
def test_connecting_again_after_it_was_not_confirmed(bench: Bench, nth: int) -> None:
    controller = bench.controller()
    bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), nth=nth, times=None)
    with pytest.raises(UnavailableError):
        controller.connect()
    assert bench.adapter.verbs == ["open"] * (nth == 3)
    bench.faulty.plan.clear()
    controller.connect()
    assert (bench.kinds(), bench.adapter.verbs) == (["connect_requested", "connected"], ["open"])


def test_a_journal_that_fails_keeps_the_adapter_from_being_called(bench: Bench) -> None:
    controller = bench.connected()
    bench.faulty.plan.on("put", RECORD, fault=Deny(), times=None)
    with pytest.raises(PermissionDeniedError):
        controller.send(out("one"))
    assert bench.adapter.sent == []
    bench.faulty.plan.clear()
    controller.send(out("one"))
    assert bench.adapter.sent == ["one"]
    assert bench.kinds().count("input_send_requested") == 1


def failing_after_the_call(bench: Bench) -> None:
    """Let all writes fail once the adapter has been called."""
    bench.adapter.before = lambda _: bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), times=None)


def works_again(bench: Bench) -> None:
    bench.adapter.before = None
    bench.faulty.plan.clear()


def test_a_frame_that_was_sent_is_not_sent_again_after_another_step(bench: Bench) -> None:
    controller = bench.connected()
    failing_after_the_call(bench)
    with pytest.raises(UnavailableError):
        controller.send(out("one"))
    works_again(bench)
    controller.interrupt()
    controller.send(out("two"))
    assert controller.send(out("one")).outcome is SendOutcome.SENT
    assert bench.adapter.sent == ["one", "two"]


def test_a_request_that_was_given_up_is_in_doubt_and_not_sent_behind_the_back(bench: Bench) -> None:
    controller = bench.connected()
    bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), times=ATTEMPTS_MAX)
    with pytest.raises(UnavailableError):
        controller.send(out("one"))
    controller.send(out("two"))
    assert bench.adapter.sent == ["two"]
    assert list(controller.in_doubt) == [out("one")]
    controller.send(out("one"))
    assert bench.adapter.sent == ["two", "one"]
    assert not controller.in_doubt
    check_log(bench.records())


def test_a_frame_that_was_received_is_handed_out_once_it_is_recorded(bench: Bench) -> None:
    controller = bench.connected()
    bench.adapter.coming += [incoming("first"), incoming("second")]
    failing_after_the_call(bench)
    with pytest.raises(UnavailableError):
        controller.receive()
    assert controller.undelivered == incoming("first")
    works_again(bench)
    controller.send(out("between"))
    assert controller.receive() == incoming("first")
    assert controller.receive() == incoming("second")
    assert bench.adapter.verbs.count("receive") == 2
    assert [record.frame for record in bench.records() if record.kind.value == "output_received"] == [
        incoming("first"),
        incoming("second"),
    ]


def test_a_queue_that_was_half_sent_goes_on_in_order(bench: Bench) -> None:
    controller = bench.restarting()
    for name in "abc":
        controller.send(out(name))
    calls = 0

    def fail_at_the_second(verb: str) -> None:
        nonlocal calls
        calls += verb == "send"
        if calls == 2:
            bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), times=None)

    bench.adapter.before = fail_at_the_second
    with pytest.raises(UnavailableError):
        controller.complete_restart()
    works_again(bench)
    controller.send(out("d"))
    assert bench.adapter.sent == ["a", "b", "c", "d"]
    assert bench.adapter.verbs.count("restart") == 1
    check_log(bench.records())


def test_a_queued_frame_whose_request_was_not_confirmed_is_sent_by_the_next_send(bench: Bench) -> None:
    controller = bench.restarting()
    for name in "ab":
        controller.send(out(name))
    bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), nth=4, times=ATTEMPTS_MAX)
    with pytest.raises(UnavailableError):
        controller.complete_restart()
    assert bench.adapter.sent == ["a"]
    controller.send(out("c"))
    assert bench.adapter.sent == ["a", "b", "c"]
    assert not controller.in_doubt


def test_a_restart_is_completed_once_whatever_comes_between(bench: Bench) -> None:
    controller = bench.restarting()
    controller.send(out("a"))
    bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), nth=2, times=2 * ATTEMPTS_MAX)
    for _ in range(2):
        with pytest.raises(UnavailableError):
            controller.complete_restart()
    bench.faulty.plan.clear()
    controller.interrupt()
    bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), nth=2, times=ATTEMPTS_MAX)
    with pytest.raises(UnavailableError):
        controller.interrupt()
    assert controller.complete_restart() == RestartCompleted(sent_count=1)
    with pytest.raises(IllegalTransitionError):
        controller.complete_restart()
    assert bench.adapter.verbs.count("restart") == 1
    assert bench.adapter.sent == ["a"]


def test_a_host_that_was_told_that_it_is_fenced_asks_nobody_any_more(bench: Bench) -> None:
    controller = bench.connected()
    controller.receive()
    bench.resumed()
    with pytest.raises(FencedError):
        controller.receive()
    asked = len(bench.faulty.log)
    for _, step, _ in STEPS.values():
        with pytest.raises(FencedError):
            step(controller)
    assert len(bench.faulty.log) == asked


@pytest.mark.parametrize("nth", range(1, 8))
def test_a_restart_that_was_not_confirmed_is_completed_once(bench: Bench, nth: int) -> None:
    controller = bench.restarting()
    for name in "abc":
        controller.send(out(name))
    bench.faulty.plan.on("put", RECORD, fault=FailBefore("unknown"), nth=nth, times=ATTEMPTS_MAX)
    with pytest.raises(UnavailableError):
        controller.complete_restart()
    assert isinstance(controller.complete_restart(), RestartCompleted)
    assert bench.adapter.verbs == ["open", "restart", "send", "send", "send"]
    assert bench.adapter.sent == ["a", "b", "c"]
    assert not controller.queued
    check_log(bench.records())


def test_a_restart_that_failed_and_was_not_confirmed_is_told_again(bench: Bench) -> None:
    controller = bench.restarting()
    bench.adapter.failing["restart"] = 1
    failing_after_the_call(bench)
    with pytest.raises(UnavailableError):
        controller.complete_restart()
    works_again(bench)
    outcome = controller.complete_restart()
    assert isinstance(outcome, RestartFailed)
    assert isinstance(outcome.error, LostError)
    assert bench.adapter.verbs.count("restart") == 1
    assert bench.kinds()[-1] == "restart_failed"


# Crashes.


def tour(bench: Bench) -> None:
    """Do a little of everything."""
    controller = bench.connected(overflow="gate")
    controller.send(out("one"))
    bench.adapter.coming.append(incoming("answer"))
    controller.receive()
    controller.receive()
    controller.begin_restart()
    controller.send(out("two"))
    controller.send(out("three"))
    controller.complete_restart()
    controller.interrupt()
    controller.send(out("four"))


REQUESTS_OF_A_TOUR = 28


def test_the_tour_has_as_many_requests_as_crashes_are_tried(bench: Bench) -> None:
    tour(bench)
    assert len(bench.faulty.log) <= REQUESTS_OF_A_TOUR


def confirmed(records: list[RealtimeSessionRecord]) -> list[str]:
    return [record.frame_id.value for record in records if record.kind.value == "input_sent" and record.frame_id]


def requested(records: list[RealtimeSessionRecord]) -> list[str]:
    return [
        record.frame_id.value for record in records if record.kind.value == "input_send_requested" and record.frame_id
    ]


@pytest.mark.parametrize("nth", range(1, REQUESTS_OF_A_TOUR + 1))
@pytest.mark.parametrize("fault", [CrashBefore(), CrashAfter()], ids=str)
def test_a_host_that_crashes_anywhere_is_resumed_by_another(bench: Bench, nth: int, fault: Fault) -> None:
    bench.faulty.plan.on("*", fault=fault, nth=nth)
    with suppress(Crash):
        tour(bench)
    first, adapter = list(bench.adapter.sent), NotingAdapter()
    try:
        second = bench.resumed(adapter)
    except (SessionNotFoundError, IllegalTransitionError):
        assert not bench.kinds(), "nothing was recorded yet"
        assert bench.adapter.calls == []
        other = RealtimeController(bench.there, SESSION, adapter, sidecar())
        other.connect()
        return
    # Whatever went out is recorded as requested, and what is not confirmed is in doubt.
    in_doubt = [frame.frame_id.value for frame in second.in_doubt]
    records = bench.records()
    assert set(first) <= set(requested(records))
    assert set(confirmed(records)) <= set(first)
    assert set(requested(records)) - set(confirmed(records)) == set(in_doubt)
    queued = [frame.frame_id.value for frame in second.queued]
    assert second.complete_restart() == RestartCompleted(sent_count=len(queued))
    assert adapter.sent == queued
    assert not set(adapter.sent) & set(first), "nothing is sent twice unasked"
    for frame in second.in_doubt:
        second.send(frame)
    assert not second.in_doubt
    second.send(out("five"))
    check_log(bench.records())


@pytest.mark.parametrize("nth", range(1, 8))
@pytest.mark.parametrize("fault", [CrashBefore(), CrashAfter()], ids=str)
def test_a_host_that_crashes_while_it_resumes_is_resumed_as_well(bench: Bench, nth: int, fault: Fault) -> None:
    bench.restarting().send(out("held"))
    bench.faulty.plan.on("*", fault=fault, nth=nth)
    with suppress(Crash):
        RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())
    adapter = NotingAdapter()
    third = bench.resumed(adapter)
    third.complete_restart()
    assert adapter.sent == ["held"]
    check_log(bench.records())


# Two hosts.


def test_of_two_that_connect_at_once_one_connects(bench: Bench) -> None:
    theirs = NotingAdapter()
    other = RealtimeController(bench.there, SESSION, theirs, sidecar())
    bench.faulty.plan.on("put", RECORD, fault=Meanwhile(other.connect), nth=2)
    with pytest.raises(FencedError):
        bench.controller().connect()
    assert (bench.adapter.calls, theirs.verbs) == ([], ["open"])
    assert bench.kinds() == ["connect_requested", "connected"]


def test_a_connection_that_was_never_recorded_leaves_the_session_free(bench: Bench) -> None:
    bench.faulty.plan.on("put", RECORD, fault=CrashBefore(), nth=2)
    with pytest.raises(Crash):
        bench.controller().connect()
    with pytest.raises(IllegalTransitionError):
        bench.resumed()
    RealtimeController(bench.there, SESSION, NotingAdapter(), sidecar()).connect()
    assert bench.kinds() == ["connect_requested", "connected"]


@pytest.mark.parametrize("nth", [1, 2])
def test_of_two_that_resume_at_once_each_number_has_one(bench: Bench, nth: int) -> None:
    bench.connected().send(out("one"))
    adapters = [NotingAdapter(), NotingAdapter()]
    others: list[RealtimeController] = []
    bench.faulty.plan.on("put", RECORD, fault=Meanwhile(lambda: others.append(bench.resumed(adapters[1]))), nth=nth)
    with pytest.raises(FencedError):
        RealtimeController.resume(bench.here, SESSION, adapters[0], sidecar())
    (winner,) = others
    winner.complete_restart()
    winner.send(out("two"))
    assert (adapters[0].calls, adapters[1].sent) == ([], ["two"])
    check_log(bench.records())


def test_a_former_host_that_writes_meanwhile_is_taken_over_behind_it(bench: Bench) -> None:
    former = RealtimeController(bench.there, SESSION, bench.adapter, sidecar())
    former.connect()
    sends = iter(range(100))
    for nth in range(1, 6):
        bench.faulty.plan.on("put", RECORD, fault=Meanwhile(lambda: former.send(out(f"f{next(sends)}"))), nth=nth)
    resumed = RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())
    assert len(bench.adapter.sent) == 5
    assert confirmed(bench.records()) == bench.adapter.sent
    assert resumed.in_doubt == ()
    with pytest.raises(FencedError):
        former.send(out("late"))
    check_log(bench.records())


def test_a_former_host_that_writes_faster_than_others_read_is_stopped(bench: Bench) -> None:
    former = RealtimeController(bench.there, SESSION, bench.adapter, sidecar())
    former.connect()

    def write_on() -> None:
        with suppress(FencedError):
            for _ in range(10):
                former.interrupt()

    bench.faulty.plan.on("*", RECORD, fault=Meanwhile(write_on), times=None)
    resumed = RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())
    with pytest.raises(FencedError):
        former.interrupt()
    assert resumed.state.restart_count == 1
    check_log(bench.records())
    claimed = register_of(bench.there.environment, SESSION).read().value
    assert claimed.claim == 1
    assert bench.records()[-2].sequence - claimed.sequence <= RECORDS_BEHIND_MAX + 1


def test_others_that_keep_writing_are_told_of(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshots.realtime.journal.TAKE_OVER_ATTEMPTS_MAX", 2)
    former = RealtimeController(bench.there, SESSION, bench.adapter, sidecar())
    former.connect()
    bench.faulty.plan.on("put", RECORD, fault=Meanwhile(former.interrupt), times=None)
    with pytest.raises(UnavailableError):
        RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())


def test_a_host_that_announces_a_restart_and_ends_leaves_the_session_to_the_next(bench: Bench) -> None:
    former = bench.connected()
    bench.faulty.plan.on("put", RECORD, fault=CrashBefore(), nth=2)
    with pytest.raises(Crash):
        RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())
    bench.faulty.restart()
    with pytest.raises(FencedError):
        send_many(former, "f")
    sent = len(bench.adapter.sent)
    with pytest.raises(FencedError):
        former.send(out("late"))
    assert len(bench.adapter.sent) == sent
    adapter = NotingAdapter()
    second = bench.resumed(adapter)
    second.complete_restart()
    send_many(second, "g")
    assert second.state.restart_count == 1
    check_log(bench.records())


def test_a_restart_of_ones_own_is_not_behind_one_that_was_announced(bench: Bench) -> None:
    host = bench.connected()
    bench.faulty.plan.on("put", RECORD, fault=CrashBefore(), nth=2)
    with pytest.raises(Crash):
        RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar())
    bench.faulty.restart()
    host.begin_restart()
    host.complete_restart()
    send_many(host, "f")
    assert len(bench.adapter.sent) == RECORDS_BEHIND_MAX
    check_log(bench.records())


def test_a_frame_whose_host_was_fenced_meanwhile_is_in_doubt(bench: Bench) -> None:
    controller = bench.connected()
    others: list[RealtimeController] = []
    bench.adapter.before = lambda _: others.append(bench.resumed())
    with pytest.raises(FencedError):
        controller.send(out("one"))
    (other,) = others
    bench.adapter.before = None
    assert bench.adapter.sent == ["one"]
    assert other.in_doubt == (out("one"),)
    other.complete_restart()
    other.send(out("one"))
    assert bench.records()[-2].repeats == 3


def test_a_frame_received_by_a_host_that_was_fenced_meanwhile_is_kept_for_it(bench: Bench) -> None:
    controller = bench.connected()
    bench.adapter.coming.append(incoming("answer"))
    bench.adapter.before = lambda _: bench.resumed()
    with pytest.raises(FencedError):
        controller.receive()
    assert controller.undelivered == incoming("answer")
    bench.adapter.before = None
    with pytest.raises(FencedError):
        controller.receive()


@pytest.mark.parametrize("name", ["receive", "complete_restart"])
def test_a_host_looks_before_it_calls_the_adapter_without_a_record(bench: Bench, name: str) -> None:
    controller = begun(bench, name)
    if name == "receive":
        bench.adapter.coming.clear()
        controller.receive()
    bench.resumed()
    calls = list(bench.adapter.calls)
    with pytest.raises(FencedError):
        STEPS[name][1](controller)
    assert bench.adapter.calls == calls


@pytest.mark.parametrize(
    "status",
    ["connecting", "restart_requested", "restart_started", "restart_failed", "failed", "detached", "connected"],
)
def test_every_status_that_a_host_leaves_behind_is_resumed(bench: Bench, status: str) -> None:
    controller = bench.controller()
    crash = {"connecting": 3, "restart_requested": 2}
    if status == "connecting":
        bench.faulty.plan.on("put", RECORD, fault=CrashBefore(), nth=3)
        with pytest.raises(Crash):
            controller.connect()
    else:
        controller.connect()
    if status in ("restart_requested", "restart_started", "restart_failed"):
        bench.adapter.failing["restart"] = status == "restart_failed"
        if status in crash:
            bench.faulty.plan.on("put", RECORD, fault=CrashBefore(), nth=crash[status])
            with pytest.raises(Crash):
                controller.begin_restart()
        else:
            controller.begin_restart()
        if status == "restart_failed":
            controller.complete_restart()
    if status == "failed":
        bench.adapter.failing["interrupt"] = 1
        with pytest.raises(LostError):
            controller.interrupt()
    if status == "detached":
        controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    left = load_realtime(bench.there, SESSION)
    assert left.status.value == status
    resumed = bench.resumed()
    assert resumed.state.lifecycle_status is RealtimeSessionStatus.RESTART_STARTED
    assert resumed.state.restart_count == left.state.restart_count + 1
    assert resumed.state.connection_id != left.state.connection_id
    check_log(bench.records())


def test_resuming_what_is_closed_writes_nothing(bench: Bench) -> None:
    bench.connected().close()
    left = register_of(bench.there.environment, SESSION).read()
    with pytest.raises(IllegalTransitionError):
        bench.resumed()
    assert register_of(bench.there.environment, SESSION).read() == left


# Late writes.


@pytest.mark.parametrize("after_requests", [None, 1, 3, 5, 8])
def test_a_write_that_arrives_late_takes_nobodys_place(bench: Bench, after_requests: int | None) -> None:
    """Its sender is gone when it arrives: between any two requests of the one who resumes, or after them."""
    controller = bench.connected()
    bench.faulty.plan.on("put", RECORD, fault=Delay(after_requests))
    bench.faulty.plan.on("*", fault=CrashBefore(), nth=2)
    with pytest.raises(Crash):
        controller.send(out("late"))
    bench.faulty.plan.clear()
    bench.faulty.restart()
    adapter = NotingAdapter()
    second = RealtimeController.resume(bench.here, SESSION, adapter, sidecar())
    second.complete_restart()
    second.send(out("two"))
    bench.faulty.release()
    second.send(out("three"))
    assert (bench.adapter.sent, adapter.sent) == ([], ["two", "three"])
    landed = "late" in requested(bench.records())
    assert (second.in_doubt == (out("late"),)) == landed
    check_log(bench.records())


# Checkpoints and deletion.


def send_many(controller: RealtimeController, name: str) -> None:
    """Send enough frames for a checkpoint."""
    for number in range(RECORDS_BEHIND_MAX):
        controller.send(out(f"{name}{number}"))


def test_a_reader_finds_a_bounded_number_of_records_behind_the_checkpoint(bench: Bench) -> None:
    controller = bench.connected()
    for number in range(RECORDS_BEHIND_MAX * 2):
        controller.send(out(f"f{number}"))
        covered = register_of(bench.there.environment, SESSION).read().value.sequence
        assert len(bench.kinds()) - covered <= RECORDS_BEHIND_MAX
    assert load_realtime(bench.there, SESSION).state == controller.state


def test_queue_and_doubts_are_read_from_before_the_checkpoint(bench: Bench) -> None:
    controller = bench.connected()
    bench.adapter.failing["send"] = 1
    with pytest.raises(LostError):
        controller.send(out("doubtful"))
    controller.begin_restart()
    for number in range(RECORDS_BEHIND_MAX + 10):
        controller.send(out(f"f{number}"))
    assert register_of(bench.there.environment, SESSION).read().value.sequence > 10
    adapter = NotingAdapter()
    resumed = bench.resumed(adapter)
    assert resumed.in_doubt == (out("doubtful"),)
    resumed.complete_restart()
    assert adapter.sent == [f"f{number}" for number in range(RECORDS_BEHIND_MAX + 10)]


@EVERY_FAULT
def test_a_lost_answer_of_a_checkpoint_changes_nothing(bench: Bench, fault: Fault) -> None:
    controller = bench.connected()
    bench.faulty.plan.on("put", "/state", fault=fault)
    send_many(controller, "f")
    bench.faulty.release()
    controller.send(out("last"))
    assert load_realtime(bench.there, SESSION).state == controller.state
    assert len(bench.adapter.sent) == RECORDS_BEHIND_MAX + 1


def test_a_checkpoint_that_is_not_confirmed_holds_the_step_up(bench: Bench) -> None:
    controller = bench.connected()
    bench.faulty.plan.on("put", "/state", fault=FailBefore("unknown"), times=None)
    with pytest.raises(UnavailableError):
        send_many(controller, "f")
    stopped_at = len(bench.adapter.sent) - (bench.kinds()[-1] == "input_send_requested")
    bench.faulty.plan.clear()
    controller.send(out(f"f{stopped_at}"))
    assert bench.adapter.sent == [f"f{number}" for number in range(stopped_at + 1)]
    check_log(bench.records())


def test_a_former_host_does_not_move_the_checkpoint_back(bench: Bench) -> None:
    former = bench.connected()
    former.send(out("one"))
    second = bench.resumed()
    second.complete_restart()
    send_many(second, "g")
    covered = register_of(bench.there.environment, SESSION).read()
    with pytest.raises(FencedError):
        former.send(out("late"))
    assert register_of(bench.there.environment, SESSION).read() == covered


def test_a_former_host_that_is_due_to_write_a_checkpoint_does_not_move_it_back(bench: Bench) -> None:
    former = bench.connected()
    while len(bench.kinds()) < RECORDS_BEHIND_MAX:
        former.interrupt()
    second = bench.resumed()
    second.complete_restart()
    send_many(second, "g")
    covered = register_of(bench.there.environment, SESSION).read()
    assert covered.value.sequence > RECORDS_BEHIND_MAX
    with pytest.raises(FencedError):
        former.send(out("late"))
    assert register_of(bench.there.environment, SESSION).read().value == covered.value


def deleted(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, create=True, clock=bench.clock) as repo:
        repo.commit(new_session(SESSION))
        repo.delete(SESSION)


def test_a_spent_id_has_no_realtime_session(bench: Bench) -> None:
    deleted(bench)
    with pytest.raises(SessionDeletedError):
        bench.controller().connect()
    with pytest.raises(SessionDeletedError):
        bench.resumed()
    with pytest.raises(SessionDeletedError):
        load_realtime(bench.there, SESSION)
    assert bench.adapter.calls == []


@pytest.mark.parametrize("requests", [1, 2, 40])
def test_an_id_that_was_spent_after_somebody_connected_has_no_realtime_session(bench: Bench, requests: int) -> None:
    """The register is there, with records or without, and not collected yet."""
    bench.faulty.plan.on("put", RECORD, fault=CrashBefore(), nth=requests)
    with suppress(Crash):
        send_many(bench.connected(), "f")
    bench.faulty.plan.clear()
    bench.faulty.restart()
    deleted(bench)
    adapter = NotingAdapter()
    with pytest.raises(SessionDeletedError):
        RealtimeController(bench.here, SESSION, adapter, sidecar()).connect()
    assert adapter.calls == []


@pytest.mark.parametrize("collected", [False, True])
def test_a_host_of_a_deleted_session_hears_of_it(bench: Bench, collected: bool) -> None:
    controller = bench.connected()
    deleted(bench)
    if collected:
        with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
            execute(plan_collect(repo))
            assert not [row for row in bench.behind.list("") if RECORD in row.key]
    with pytest.raises(SessionDeletedError):
        bench.resumed()
    with pytest.raises(SessionDeletedError):
        send_many(controller, "f")
    with pytest.raises(SessionDeletedError):
        controller.send(out("more"))


def test_an_unknown_session_is_not_found(bench: Bench) -> None:
    with pytest.raises(SessionNotFoundError) as refused:
        bench.resumed()
    assert refused.value.what == "realtime session"
    with pytest.raises(SessionNotFoundError):
        load_realtime(bench.there, SESSION)


def test_a_session_that_exists_is_not_connected_again(bench: Bench) -> None:
    bench.connected()
    with pytest.raises(SessionExistsError):
        bench.controller().connect()
