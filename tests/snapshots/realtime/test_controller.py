"""A realtime session as one host works with it: what it records, and when it calls the adapter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from snapshots.errors import (
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LimitExceededError,
    SessionExistsError,
)
from snapshots.realtime import (
    PolicyKind,
    PolicyRef,
    RealtimeCloseReason,
    RealtimeConnectionId,
    RealtimeController,
    RealtimeFrame,
    RealtimeRecordKind,
    RealtimeResponseId,
    RealtimeSessionStatus,
    RestartCompleted,
    RestartFailed,
    SendOutcome,
    StreamCursor,
    load_realtime,
)
from snapshots.realtime.stored import QUEUED_BYTES_MAX, RECORD_BYTES_MAX
from snapshots.state.values import U64_MAX
from storage.errors import InvalidKeyError, UnavailableError
from storage.testing.faults import FailBefore
from tests.snapshots.realtime.bench import SESSION, Bench, LostError, NotingAdapter, check_log, incoming, out, sidecar

S = RealtimeSessionStatus
Step = Callable[[RealtimeController], object]
STEPS: dict[str, Step] = {
    "send": lambda controller: controller.send(out("f")),
    "receive": lambda controller: controller.receive(),
    "interrupt": lambda controller: controller.interrupt(),
    "begin_restart": lambda controller: controller.begin_restart(),
    "complete_restart": lambda controller: controller.complete_restart(),
    "close": lambda controller: controller.close(),
}
EACH_STEP = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)


@pytest.fixture
def bench() -> Bench:
    return Bench()


# The faults of the original.


def test_three_sends_leave_three_records(bench: Bench) -> None:
    controller = bench.connected()
    for name in ("one", "two", "three"):
        assert controller.send(out(name)).outcome is SendOutcome.SENT
    requests = [record for record in bench.records() if record.kind.value == "input_send_requested"]
    done = [record for record in bench.records() if record.kind.value == "input_sent"]
    assert [record.content_refs for record in requests] == [("blob:one",), ("blob:two",), ("blob:three",)]
    assert [record.answers for record in done] == [record.sequence for record in requests]
    assert len({record.record_id for record in requests + done}) == 6
    assert bench.adapter.sent == ["one", "two", "three"]
    assert controller.state.send_cursor == StreamCursor(chunk_sequence=3, label="send")


def test_the_second_send_during_a_restart_is_gated_as_well(bench: Bench) -> None:
    controller = bench.restarting()
    assert [controller.send(out(name)).outcome for name in "abc"] == [SendOutcome.GATED] * 3
    assert bench.adapter.sent == []
    assert controller.state.lifecycle_status is S.RESTART_STARTED
    assert bench.kinds()[-3:] == ["backpressure_applied"] * 3


def test_a_send_after_close_is_refused(bench: Bench) -> None:
    controller = bench.connected()
    controller.close()
    before = bench.kinds()
    with pytest.raises(IllegalTransitionError) as refused:
        controller.send(out("late"))
    assert (refused.value.from_status, refused.value.to_status) == ("closed", "input_sent")
    assert bench.kinds() == before
    assert bench.adapter.sent == []


def test_a_second_controller_of_the_same_session_does_not_connect_and_loses_no_record(bench: Bench) -> None:
    first = bench.connected()
    first.send(out("one"))
    before = bench.records()
    adapter = NotingAdapter()
    second = RealtimeController(bench.there, SESSION, adapter, sidecar())
    with pytest.raises(SessionExistsError):
        second.connect()
    assert adapter.calls == []
    assert bench.records() == before


def test_a_second_controller_that_resumes_fences_the_first_and_loses_no_record(bench: Bench) -> None:
    first = bench.connected()
    first.send(out("one"))
    before = bench.records()
    second = bench.resumed()
    calls = list(bench.adapter.calls)
    for step in STEPS.values():
        with pytest.raises(FencedError):
            step(first)
    assert bench.adapter.calls == calls
    assert bench.records()[: len(before)] == before
    second.complete_restart()
    second.send(out("two"))
    check_log(bench.records())
    assert second.state.restart_count == 1


def test_the_state_is_loaded_after_a_restart_of_the_process(bench: Bench) -> None:
    controller = bench.connected()
    controller.send(out("one"))
    controller.interrupt()
    bench.adapter.coming.append(incoming("answer"))
    controller.receive()
    loaded = load_realtime(bench.there, SESSION)
    assert loaded.state == controller.state
    assert (loaded.state.send_cursor.chunk_sequence, loaded.state.receive_cursor.chunk_sequence) == (1, 1)
    resumed = bench.resumed()
    assert resumed.state.send_cursor == controller.state.send_cursor
    assert resumed.state.receive_cursor == controller.state.receive_cursor


def test_gated_frames_are_queued_and_not_only_counted(bench: Bench) -> None:
    controller = bench.restarting()
    for name in "abc":
        controller.send(out(name))
    queue = controller.state.backpressure_state
    assert (queue.queued_frames, queue.gated_frames, queue.dropped_frames) == (3, 3, 0)
    assert [frame.frame_id.value for frame in controller.queued] == ["a", "b", "c"]
    assert controller.complete_restart() == RestartCompleted(sent_count=3)
    assert bench.adapter.sent == ["a", "b", "c"]
    assert not controller.queued
    assert controller.state.backpressure_state.queued_frames == 0
    controller.send(out("d"))
    assert bench.adapter.sent == ["a", "b", "c", "d"]


def test_gated_frames_survive_their_host(bench: Bench) -> None:
    first = bench.restarting()
    for name in "abc":
        first.send(out(name))
    adapter = NotingAdapter()
    second = bench.resumed(adapter)
    assert second.queued == (out("a"), out("b"), out("c"))
    second.send(out("d"))
    assert second.complete_restart() == RestartCompleted(sent_count=4)
    assert adapter.sent == ["a", "b", "c", "d"]
    assert bench.adapter.sent == []
    check_log(bench.records())


# The order of things.


def test_the_records_of_a_session_in_order(bench: Bench) -> None:
    controller = bench.connected()
    controller.send(out("one"))
    bench.adapter.coming.append(incoming("answer", response_id="r1"))
    controller.receive()
    controller.interrupt(RealtimeResponseId("r1"))
    controller.begin_restart()
    controller.send(out("two"))
    controller.complete_restart()
    controller.close()
    assert bench.kinds() == [
        "connect_requested",
        "connected",
        "input_send_requested",
        "input_sent",
        "output_receive_requested",
        "output_received",
        "interrupt_requested",
        "interrupted",
        "restart_requested",
        "restart_started",
        "backpressure_applied",
        "restart_completed",
        "input_send_requested",
        "input_sent",
        "close_requested",
        "closed",
    ]
    records = bench.records()
    assert [record.state.restart_count for record in records] == [0] * 8 + [1] * 8
    assert len({record.state.connection_id for record in records}) == 2
    assert records[5].response_id == RealtimeResponseId("r1") == records[7].response_id
    check_log(records)


@EACH_STEP
def test_every_step_is_recorded_before_the_adapter_is_called(bench: Bench, step: Step) -> None:
    controller = bench.restarting() if step is STEPS["complete_restart"] else bench.connected()
    seen: list[str] = []
    bench.adapter.before = lambda verb: seen.append(f"{verb} after {bench.kinds()[-1]}")
    step(controller)
    assert seen in (
        ["send after input_send_requested"],
        ["receive after output_receive_requested"],
        ["interrupt after interrupt_requested"],
        [],
        ["restart after restart_started"],
        ["close after close_requested"],
    )


@EACH_STEP
def test_nothing_works_before_connecting(bench: Bench, step: Step) -> None:
    with pytest.raises(IllegalTransitionError) as refused:
        step(bench.controller())
    assert refused.value.from_status == "not connected"
    assert bench.adapter.calls == []
    assert list(bench.behind.list("")) == []


def test_the_adapter_is_told_which_connection_it_is(bench: Bench) -> None:
    controller = bench.connected()
    first = controller.state.connection_id
    controller.begin_restart()
    second = controller.state.connection_id
    controller.complete_restart()
    assert bench.adapter.calls == [("open", first.value), ("restart", second.value)]
    assert first != second


def test_a_session_connects_once(bench: Bench) -> None:
    controller = bench.connected()
    with pytest.raises(IllegalTransitionError):
        controller.connect()
    with pytest.raises(IllegalTransitionError):
        bench.resumed().connect()
    assert bench.adapter.verbs == ["open"]


def test_run_and_agent_stand_in_every_record(bench: Bench) -> None:
    controller = RealtimeController(bench.here, SESSION, bench.adapter, sidecar(), run_id="run", agent_id="agent")
    controller.connect()
    resumed = bench.resumed()
    resumed.complete_restart()
    assert {(record.run_id, record.agent_id) for record in bench.records()} == {("run", "agent")}


@pytest.mark.parametrize("options", [{"run_id": "a\n"}, {"agent_id": "x" * 513}])
def test_ids_are_checked(bench: Bench, options: dict[str, Any]) -> None:
    with pytest.raises(InvalidKeyError):
        RealtimeController(bench.here, SESSION, bench.adapter, sidecar(), **options)
    with pytest.raises(InvalidKeyError):
        RealtimeController(bench.here, "", bench.adapter, sidecar())


def test_a_clock_that_goes_back_is_not_followed(bench: Bench) -> None:
    first = bench.connected()
    bench.clock.advance(60)
    first.interrupt()
    bench.clock._elapsed_seconds = 0.0  # another host, whose clock is behind
    bench.resumed().complete_restart()
    times = [record.recorded_at for record in bench.records()]
    assert times == sorted(times)


def test_threads_take_their_steps_one_after_the_other(bench: Bench) -> None:
    controller = bench.connected()
    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda number: controller.send(out(f"f{number}")), range(40)))
    assert sorted(bench.adapter.sent) == sorted(f"f{number}" for number in range(40))
    assert len({result.sequence for result in results}) == 40
    check_log(bench.records())


# Receiving.


def test_receiving_nothing_writes_nothing_more(bench: Bench) -> None:
    controller = bench.connected()
    assert controller.receive() is None
    kinds = bench.kinds()
    assert kinds[-1] == "output_receive_requested"
    for _ in range(5):
        assert controller.receive() is None
    controller.send(out("between"))
    assert bench.kinds() == [*kinds, "input_send_requested", "input_sent"]
    frame = incoming("answer")
    bench.adapter.coming.append(frame)
    assert controller.receive() == frame
    answer = bench.records()[-1]
    assert (answer.kind.value, answer.answers, answer.frame) == ("output_received", len(kinds), frame)


def test_a_request_for_output_ends_with_its_connection(bench: Bench) -> None:
    controller = bench.connected()
    controller.receive()
    controller.begin_restart()
    controller.complete_restart()
    bench.adapter.coming.append(incoming("answer"))
    controller.receive()
    requests = [record.sequence for record in bench.records() if record.kind.value == "output_receive_requested"]
    assert len(requests) == 2
    assert bench.records()[-1].answers == requests[-1]


@pytest.mark.parametrize("wrong", [out("f"), "text", b"bytes"], ids=["outgoing", "text", "bytes"])
def test_what_is_no_frame_from_a_provider_is_not_handed_out(bench: Bench, wrong: Any) -> None:
    controller = bench.connected()
    bench.adapter.coming.append(wrong)
    with pytest.raises(InvalidStateError):
        controller.receive()
    assert bench.kinds()[-1] == "output_receive_requested"
    bench.adapter.coming.append(incoming("good"))
    assert controller.receive() == incoming("good")


def test_a_frame_from_a_provider_is_not_sent_back(bench: Bench) -> None:
    controller = bench.connected()
    with pytest.raises(InvalidStateError):
        controller.send(incoming("f"))
    assert bench.adapter.sent == []


# Limits.


def too_large(name: str = "large") -> RealtimeFrame:
    return out(name).model_copy(update={"redacted_summary": "x" * RECORD_BYTES_MAX})


def test_a_frame_that_is_too_large_is_refused_and_nothing_is_written(bench: Bench) -> None:
    controller = bench.connected()
    before = bench.kinds()
    with pytest.raises(LimitExceededError):
        controller.send(too_large())
    assert (bench.kinds(), bench.adapter.sent) == (before, [])
    controller.send(out("small"))


def test_a_frame_that_just_fits_is_sent_and_answered(bench: Bench) -> None:
    """The record of what is done must fit wherever the request did: else it could never be written."""
    controller = bench.connected()
    low, high = 0, RECORD_BYTES_MAX
    while low < high:  # the largest that the queue takes, to the byte
        middle = (low + high + 1) // 2
        probe = Bench()
        try:
            probe.restarting().send(out("f").model_copy(update={"redacted_summary": "x" * middle}))
            low = middle
        except LimitExceededError:
            high = middle - 1
    frame = out("f").model_copy(update={"redacted_summary": "x" * low})
    controller.begin_restart()
    controller.send(frame)
    assert controller.complete_restart() == RestartCompleted(sent_count=1)
    assert bench.adapter.sent == ["f"]


def test_a_frame_that_is_too_large_to_record_is_not_handed_out(bench: Bench) -> None:
    controller = bench.connected()
    huge = incoming("huge").model_copy(update={"redacted_summary": "x" * RECORD_BYTES_MAX})
    bench.adapter.coming += [huge, incoming("next")]
    with pytest.raises(LimitExceededError):
        controller.receive()
    assert controller.undelivered is None
    assert controller.receive() == incoming("next")


def test_policies_that_leave_no_room_for_a_frame_are_refused(bench: Bench) -> None:
    policy = PolicyRef(kind=PolicyKind.HOST, id="p", version="x" * (40 << 10))
    route = sidecar().model_copy(update={"send_policy_ref": policy})
    with pytest.raises(LimitExceededError):
        RealtimeController(bench.here, SESSION, bench.adapter, route).connect()
    assert list(bench.behind.list("")) == []


def at_the_end(controller: RealtimeController, **fields: Any) -> None:
    """Let the session have counted as far as its numbers go."""
    journal = controller._journal()
    journal.progress = replace(journal.progress, state=journal.progress.state.model_copy(update=fields))


def test_what_cannot_be_counted_any_further_is_not_done(bench: Bench) -> None:
    controller = bench.connected()
    last = StreamCursor(chunk_sequence=U64_MAX)
    at_the_end(controller, send_cursor=last, receive_cursor=last, restart_count=(1 << 32) - 1)
    before = bench.kinds()
    for name in ("send", "receive", "begin_restart"):
        with pytest.raises(LimitExceededError):
            STEPS[name](controller)
    assert (bench.kinds(), bench.adapter.verbs) == (before, ["open"])


def test_what_was_held_back_is_counted_as_far_as_a_number_goes(bench: Bench) -> None:
    controller = bench.restarting()
    queue = controller.state.backpressure_state
    at_the_end(controller, backpressure_state=queue.model_copy(update={"gated_frames": U64_MAX}))
    before = bench.kinds()
    with pytest.raises(LimitExceededError):
        controller.send(out("f"))
    assert bench.kinds() == before


def test_of_many_frames_in_doubt_the_last_are_remembered(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshots.realtime.progress.IN_DOUBT_MAX", 3)
    controller = bench.connected()
    for number in range(5):
        bench.adapter.failing["send"] = 1
        with pytest.raises(LostError):
            controller.send(out(f"f{number}"))
        controller.begin_restart()
        controller.complete_restart()
    assert [frame.frame_id.value for frame in controller.in_doubt] == ["f2", "f3", "f4"]
    assert bench.resumed().in_doubt == controller.in_doubt


def test_the_last_record_that_can_be_numbered_is_the_last(bench: Bench) -> None:
    controller = bench.connected()
    journal = controller._journal()
    journal.progress = replace(journal.progress, sequence=U64_MAX)
    with pytest.raises(LimitExceededError):
        journal.progress.next(RealtimeRecordKind.INTERRUPT_REQUESTED, bench.clock.now())


WRONG: dict[str, Callable[[Any], object]] = {
    "a frame that is none": lambda controller: controller.send("f"),
    "a response id that is text": lambda controller: controller.interrupt("r"),
    "a reason that is text": lambda controller: controller.close("normal"),
    "a reason that is none": lambda controller: controller.close("nonsense"),
}


@pytest.mark.parametrize("step", WRONG.values(), ids=WRONG)
def test_what_is_of_another_type_is_refused(bench: Bench, step: Callable[[Any], object]) -> None:
    controller = bench.connected()
    before = bench.kinds()
    with pytest.raises(InvalidStateError):
        step(controller)
    assert (bench.kinds(), bench.adapter.verbs) == (before, ["open"])


# What the adapter raises.


def test_a_connection_that_cannot_be_opened_has_failed_and_is_restarted(bench: Bench) -> None:
    bench.adapter.failing["open"] = 1
    controller = bench.controller()
    with pytest.raises(LostError):
        controller.connect()
    assert controller.state.lifecycle_status is S.FAILED
    with pytest.raises(IllegalTransitionError):
        controller.connect()
    controller.begin_restart()
    controller.complete_restart()
    controller.send(out("one"))
    assert bench.adapter.sent == ["one"]
    check_log(bench.records())


def test_a_send_that_fails_is_in_doubt_and_sent_again_only_when_asked(bench: Bench) -> None:
    controller = bench.connected()
    bench.adapter.failing["send"] = 1
    with pytest.raises(LostError):
        controller.send(out("one"))
    assert controller.state.lifecycle_status is S.FAILED
    assert controller.in_doubt == (out("one"),)
    with pytest.raises(IllegalTransitionError):
        controller.send(out("one"))
    controller.begin_restart()
    controller.complete_restart()
    assert bench.adapter.sent == ["one"]
    controller.send(out("one"))
    assert bench.adapter.sent == ["one", "one"]
    first, again = [record for record in bench.records() if record.kind.value == "input_send_requested"]
    assert (first.repeats, again.repeats) == (None, first.sequence)
    assert not controller.in_doubt


@pytest.mark.parametrize("verb", ["receive", "interrupt"])
def test_a_connection_that_is_lost_has_failed(bench: Bench, verb: str) -> None:
    controller = bench.connected()
    bench.adapter.failing[verb] = 1
    with pytest.raises(LostError):
        STEPS[verb](controller)
    assert controller.state.lifecycle_status is S.FAILED
    assert bench.records()[-1].close_reason is RealtimeCloseReason.PROVIDER_FAILURE


def test_a_restart_that_fails_is_recorded_and_told(bench: Bench) -> None:
    controller = bench.restarting()
    controller.send(out("held"))
    bench.adapter.failing["restart"] = 1
    outcome = controller.complete_restart()
    assert isinstance(outcome, RestartFailed)
    assert isinstance(outcome.error, LostError)
    assert controller.state.lifecycle_status is S.RESTART_FAILED
    with pytest.raises(IllegalTransitionError):
        controller.send(out("more"))
    with pytest.raises(IllegalTransitionError):
        controller.complete_restart()
    controller.begin_restart()
    assert controller.complete_restart() == RestartCompleted(sent_count=1)
    assert bench.adapter.sent == ["held"]
    assert controller.state.restart_count == 2
    check_log(bench.records())


def test_a_connection_lost_while_the_queue_is_sent_keeps_the_rest_in_order(bench: Bench) -> None:
    controller = bench.restarting()
    for name in "abcd":
        controller.send(out(name))

    def lose_b(verb: str) -> None:
        if verb == "send" and bench.adapter.sent == ["a"]:
            bench.adapter.failing["send"] = 1

    bench.adapter.before = lose_b
    with pytest.raises(LostError):
        controller.complete_restart()
    bench.adapter.before = None
    assert [frame.frame_id.value for frame in controller.queued] == ["c", "d"]
    assert [frame.frame_id.value for frame in controller.in_doubt] == ["b"]
    controller.begin_restart()
    assert controller.complete_restart() == RestartCompleted(sent_count=2)
    assert bench.adapter.sent == ["a", "b", "c", "d"]


def test_no_restart_is_completed_that_was_not_begun(bench: Bench) -> None:
    controller = bench.connected()
    with pytest.raises(IllegalTransitionError):
        controller.complete_restart()
    controller.begin_restart()
    with pytest.raises(IllegalTransitionError):
        controller.begin_restart()
    assert bench.adapter.verbs == ["open"]


# The end.


def test_closed_is_final(bench: Bench) -> None:
    controller = bench.connected()
    controller.close(RealtimeCloseReason.CANCEL)
    for step in STEPS.values():
        with pytest.raises(IllegalTransitionError):
            step(controller)
    with pytest.raises(IllegalTransitionError):
        bench.resumed()
    with pytest.raises(SessionExistsError):
        bench.controller().connect()
    assert bench.adapter.calls[-1] == ("close", "cancel")
    assert bench.kinds()[-2:] == ["close_requested", "closed"]


def test_a_connection_that_is_left_to_the_host_is_detached_and_resumed(bench: Bench) -> None:
    controller = bench.connected()
    controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    assert controller.state.lifecycle_status is S.DETACHED
    resumed = bench.resumed()
    assert resumed.complete_restart() == RestartCompleted(sent_count=0)


def test_a_restart_that_is_under_way_is_not_detached(bench: Bench) -> None:
    controller = bench.restarting()
    before = bench.kinds()
    with pytest.raises(IllegalTransitionError):
        controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    assert (bench.kinds(), bench.adapter.verbs) == (before, ["open"])


def test_a_close_that_fails_is_closed_all_the_same(bench: Bench) -> None:
    controller = bench.connected()
    bench.adapter.failing["close"] = 1
    with pytest.raises(LostError):
        controller.close()
    assert load_realtime(bench.there, SESSION).status is S.CLOSED


# The queue.


def names(controller: RealtimeController) -> list[str]:
    return [frame.frame_id.value for frame in controller.queued]


def counts(controller: RealtimeController) -> tuple[int, int, int, str]:
    queue = controller.state.backpressure_state
    return queue.queued_frames, queue.gated_frames, queue.dropped_frames, str(queue.last_action)


def full(bench: Bench, overflow: str, **fields: Any) -> RealtimeController:
    """Return a controller whose queue of two is full."""
    controller = bench.restarting(overflow=overflow, capacity=2)
    for name in "ab":
        controller.send(out(name, **fields))
    return controller


@pytest.mark.parametrize("overflow", ["gate", "gate_during_restart"])
def test_gate_goes_on_queueing(bench: Bench, overflow: str) -> None:
    controller = full(bench, overflow)
    assert controller.send(out("c")).outcome is SendOutcome.GATED
    assert counts(controller) == (3, 3, 0, "gate")
    controller.complete_restart()
    assert bench.adapter.sent == ["a", "b", "c"]


def test_gate_ends_where_a_register_does(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshots.realtime.overflow.QUEUE_FRAMES_MAX", 3)
    controller = full(bench, "gate")
    controller.send(out("c"))
    with pytest.raises(LimitExceededError):
        controller.send(out("d"))
    assert names(controller) == ["a", "b", "c"]


def test_a_full_queue_names_the_limit_that_applied(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("snapshots.realtime.overflow.QUEUE_FRAMES_MAX", 3)
    controller = full(bench, "gate")
    controller.send(out("c"))
    with pytest.raises(LimitExceededError) as refused:
        controller.send(out("d"))
    assert (refused.value.limit, refused.value.value) == ("realtime queue of 3 frames", 4)
    other = full(Bench(), "fail_send")
    with pytest.raises(LimitExceededError) as refused:
        other.send(out("d"))
    assert (refused.value.limit, refused.value.value) == ("realtime queue of 2 frames", 3)


def heavy(name: str, *, critical: bool = False, size: int = 60_000) -> RealtimeFrame:
    return RealtimeFrame.outgoing(name, redacted_summary="x" * size, critical=critical)


@pytest.mark.parametrize("overflow", ["gate", "block", "drop_noncritical", "summarize", "fail_send"])
def test_a_queue_is_full_of_bytes_as_well(bench: Bench, overflow: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("overflow", "controller"):
        monkeypatch.setattr(f"snapshots.realtime.{module}.QUEUE_BYTES_MAX", 91_000, raising=False)
    controller = bench.restarting(overflow=overflow)
    for name in "ab":
        controller.send(heavy(name, size=30_000))
    if overflow in ("gate", "fail_send"):
        with pytest.raises(LimitExceededError) as refused:
            controller.send(heavy("c", size=30_000))
        assert refused.value.limit == "realtime queue of 91000 bytes"
        assert refused.value.value > 91_000
        assert counts(controller) == (2, 3, 0, "fail_send")
    else:
        wanted = {
            "block": SendOutcome.BLOCKED,
            "drop_noncritical": SendOutcome.DROPPED,
            "summarize": SendOutcome.SUMMARIZED,
        }
        assert controller.send(heavy("c", size=30_000)).outcome is wanted[overflow]
    assert len(controller.queued) == (1 if overflow == "summarize" else 2)


def test_a_critical_frame_does_not_take_the_place_of_a_lighter_one_if_that_is_not_enough(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("snapshots.realtime.overflow.QUEUE_BYTES_MAX", 100_000)
    controller = bench.restarting(overflow="drop_noncritical")
    controller.send(out("light"))
    controller.send(heavy("a", critical=True))
    with pytest.raises(LimitExceededError):
        controller.send(heavy("b", critical=True))
    assert names(controller) == ["light", "a"]


def test_a_summary_that_no_record_has_room_for_is_refused_and_recorded(bench: Bench) -> None:
    controller = bench.restarting(overflow="summarize", capacity=1)
    for name in "ab":
        controller.send(heavy(name, size=40_000))
    queued = controller.queued
    with pytest.raises(LimitExceededError) as refused:
        controller.send(heavy("c"))
    assert refused.value.limit == f"realtime summary of {QUEUED_BYTES_MAX} bytes"
    assert refused.value.value > QUEUED_BYTES_MAX
    assert counts(controller) == (1, 3, 0, "fail_send")
    assert (bench.records()[-1].frame, controller.queued) == (heavy("c"), queued)


def test_block_asks_the_caller_to_come_again(bench: Bench) -> None:
    controller = full(bench, "block")
    first = controller.send(out("c"))
    assert first.outcome is SendOutcome.BLOCKED
    kinds = bench.kinds()
    assert controller.send(out("c")) == first
    assert bench.kinds() == kinds, "one record for each frame, however often it is tried"
    assert counts(controller) == (2, 3, 0, "block")
    controller.complete_restart()
    assert controller.send(out("c")).outcome is SendOutcome.SENT
    assert bench.adapter.sent == ["a", "b", "c"]


def test_frames_that_are_blocked_by_turns_leave_one_record_each(bench: Bench) -> None:
    controller = full(bench, "block")
    first = [controller.send(out(name)) for name in "cd"]
    kinds = bench.kinds()
    for _ in range(3):
        assert [controller.send(out(name)) for name in "cd"] == first
    assert bench.kinds() == kinds


@pytest.mark.parametrize("overflow", ["block", "fail_send"])
def test_a_frame_that_was_refused_is_sent_once_there_is_a_connection(bench: Bench, overflow: str) -> None:
    """Its refusal was not confirmed, and is settled by the step that connects again."""
    controller = full(bench, overflow)
    bench.faulty.plan.on("put", bench.key(7), fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        controller.send(out("c"))
    bench.faulty.plan.clear()
    controller.complete_restart()
    assert controller.send(out("c")).outcome is SendOutcome.SENT
    assert bench.adapter.sent == ["a", "b", "c"]


def test_frames_that_are_held_back_stay_in_the_queue_of_a_closed_session(bench: Bench) -> None:
    controller = full(bench, "gate")
    controller.close()
    assert names(controller) == ["a", "b"]
    assert counts(controller) == (2, 2, 0, "gate")
    assert load_realtime(bench.there, SESSION).state == controller.state


def test_a_frame_that_is_blocked_in_another_restart_is_recorded_again(bench: Bench) -> None:
    controller = full(bench, "block")
    first = controller.send(out("c"))
    controller.complete_restart()
    controller.begin_restart()
    for name in "de":
        controller.send(out(name))
    assert controller.send(out("c")).sequence > first.sequence


def test_drop_noncritical_drops_and_counts(bench: Bench) -> None:
    controller = full(bench, "drop_noncritical")
    assert controller.send(out("c")).outcome is SendOutcome.DROPPED
    assert counts(controller) == (2, 3, 1, "drop_noncritical")
    assert bench.records()[-1].frame == out("c")
    controller.complete_restart()
    assert bench.adapter.sent == ["a", "b"]


def test_a_critical_frame_takes_the_place_of_one_that_is_not(bench: Bench) -> None:
    controller = full(bench, "drop_noncritical")
    assert controller.send(out("c", critical=True)).outcome is SendOutcome.GATED
    assert names(controller) == ["b", "c"]
    assert controller.send(out("d", critical=True)).outcome is SendOutcome.GATED
    assert names(controller) == ["c", "d"]
    assert counts(controller) == (2, 4, 2, "drop_noncritical")
    with pytest.raises(LimitExceededError):
        controller.send(out("e", critical=True))
    assert counts(controller) == (2, 5, 2, "fail_send")
    controller.complete_restart()
    assert bench.adapter.sent == ["c", "d"]


def test_summarize_puts_one_frame_in_the_place_of_all(bench: Bench) -> None:
    controller = full(bench, "summarize")
    result = controller.send(out("c", privacy="secret", critical=True))
    assert result.outcome is SendOutcome.SUMMARIZED
    (summary,) = controller.queued
    assert summary.content_refs == ("blob:a", "blob:b", "blob:c")
    assert summary.redacted_summary == "about a; about b; about c"
    assert (summary.privacy.value, summary.critical, summary.media_kind.value) == ("secret", True, "audio")
    assert counts(controller) == (1, 3, 0, "summarize")
    record = bench.records()[-1]
    assert (record.frame, record.summary) == (out("c", privacy="secret", critical=True), summary)
    controller.send(out("d"))
    assert controller.complete_restart() == RestartCompleted(sent_count=2)
    assert bench.adapter.sent == [summary.frame_id.value, "d"]


def test_fail_send_refuses_and_records(bench: Bench) -> None:
    controller = full(bench, "fail_send")
    with pytest.raises(LimitExceededError):
        controller.send(out("c"))
    assert counts(controller) == (2, 3, 0, "fail_send")
    assert bench.records()[-1].frame == out("c")
    controller.complete_restart()
    assert bench.adapter.sent == ["a", "b"]


def test_a_frame_is_not_queued_twice(bench: Bench) -> None:
    controller = bench.restarting()
    controller.send(out("a"))
    with pytest.raises(InvalidStateError):
        controller.send(out("a"))
    assert names(controller) == ["a"]


@pytest.mark.parametrize("overflow", ["gate", "block", "drop_noncritical", "summarize", "fail_send"])
def test_the_queue_of_every_policy_survives_the_host(bench: Bench, overflow: str) -> None:
    first = full(bench, overflow)
    try:
        first.send(out("c", critical=True))
    except LimitExceededError:
        assert overflow == "fail_send"
    second = bench.resumed(overflow=overflow)
    assert second.queued == first.queued
    assert second.state.backpressure_state == first.state.backpressure_state


# What it costs.


def test_the_requests_of_each_step(bench: Bench) -> None:
    def of(step: Callable[[], object]) -> Counter[str]:
        before = len(bench.faulty.log)
        step()
        return Counter(request.verb for request in bench.faulty.log[before:])

    controller = bench.controller()
    assert of(controller.connect) == Counter(get=3, put=3)
    assert of(lambda: controller.send(out("one"))) == Counter(put=2)
    assert of(controller.interrupt) == Counter(put=2)
    assert of(controller.receive) == Counter(put=1)
    assert of(controller.receive) == Counter(get=1)
    bench.adapter.coming.append(incoming("answer"))
    assert of(controller.receive) == Counter(get=1, put=1)
    assert of(controller.begin_restart) == Counter(put=2)
    assert of(lambda: controller.send(out("two"))) == Counter(put=1)
    assert of(controller.complete_restart) == Counter(get=1, put=1 + 2)
    behind = len(bench.records())
    resumed = of(lambda: RealtimeController.resume(bench.here, SESSION, NotingAdapter(), sidecar()))
    assert resumed == Counter(put=3, list=2, get=2 + behind)


def test_a_checkpoint_costs_a_read_and_a_write(bench: Bench) -> None:
    controller = bench.connected()
    before = len(bench.faulty.log)
    for _ in range(64):
        controller.interrupt()
    requests = Counter(request.verb for request in bench.faulty.log[before:])
    assert requests == Counter(put=128 + 2, get=2)


# Ids that a host never sees twice.


def test_every_restart_takes_another_connection(bench: Bench) -> None:
    controller = bench.connected()
    seen: set[RealtimeConnectionId] = {controller.state.connection_id}
    for count in range(1, 5):
        controller.begin_restart()
        controller.complete_restart()
        assert controller.state.connection_id not in seen
        assert controller.state.restart_count == count
        seen.add(controller.state.connection_id)
