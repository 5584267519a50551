"""Any sequence of steps of two hosts, requests lost and delayed among them: the log tells what the adapters did.

Rules:
1. What an adapter is told to send is requested in the log by its own connection when it is told.
2. A frame is sent once for each of its requests, and every request after the first names the one in doubt it repeats.
3. What is reported as sent is confirmed in the log; what is reported as held back is queued, or a record took it out.
4. A frame of the provider is handed out once, in order, and is recorded by then.
5. After a host was told that it is fenced, its adapter hears nothing more.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from snapshots.errors import (
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LimitExceededError,
    SessionExistsError,
    SessionNotFoundError,
)
from snapshots.realtime import (
    RealtimeBackpressureAction,
    RealtimeCloseReason,
    RealtimeController,
    RealtimeFrame,
    RealtimeSessionRecord,
    SendOutcome,
    load_realtime,
)
from storage.errors import UnavailableError
from storage.testing.faults import Delay, FailBefore, Fault, LoseAnswer, OwnRetry, Repeat
from tests.snapshots.realtime.bench import SESSION, Bench, LostError, NotingAdapter, check_log, incoming, out, sidecar

REFUSALS = (
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LimitExceededError,
    LostError,
    SessionExistsError,
    SessionNotFoundError,
    UnavailableError,
)
FAULTS: dict[str, Fault] = {
    "fails": FailBefore("no"),
    "fails, unknown": FailBefore("unknown"),
    "answer lost": LoseAnswer(),
    "delayed": Delay(3),
    "delayed long": Delay(30),
    "delivered twice": Repeat(3),
    "412 from its own retry": OwnRetry(),
}
HOSTS = st.sampled_from([0, 1])


@dataclass
class Host:
    """One host: its adapter, its controller, and what it still has to repeat."""

    adapter: NotingAdapter = field(default_factory=NotingAdapter)
    controller: RealtimeController | None = None
    again: Callable[[], object] | None = None
    fenced_at: int | None = None


class Hosts(RuleBasedStateMachine):
    """Two hosts on one store."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench()
        self.hosts = [Host(), Host()]
        self.overflow = "gate"
        self.frames = 0
        self.answers = 0
        self.reported: dict[str, SendOutcome] = {}
        self.received: list[str] = []
        self.delivered: list[str] = []

    @initialize(overflow=st.sampled_from(RealtimeBackpressureAction))
    def begin(self, overflow: RealtimeBackpressureAction) -> None:
        self.overflow = overflow.value
        for host in self.hosts:
            self._watch(host)

    def _watch(self, host: Host) -> None:
        def check(verb: str) -> None:
            if verb == "send":
                request = self.requests()[-1]
                assert host.controller is not None
                assert request.state.connection_id == host.controller.state.connection_id, "rule 1"
                assert request.frame_id is not None
                self.delivered.append(request.frame_id.value)

        host.adapter.before = check

    def records(self) -> list[RealtimeSessionRecord]:
        return self.bench.records()

    def requests(self) -> list[RealtimeSessionRecord]:
        return [record for record in self.records() if record.kind.value == "input_send_requested"]

    def _try(self, host: Host, step: Callable[[], object]) -> None:
        host.again = None
        try:
            step()
        except REFUSALS as error:
            event(type(error).__name__)
            if isinstance(error, UnavailableError):
                host.again = step
            if isinstance(error, FencedError) and host.fenced_at is None:
                host.fenced_at = len(host.adapter.calls)

    def _with(self, index: int, step: Callable[[Host, RealtimeController], object]) -> None:
        host = self.hosts[index]
        if host.controller is not None:
            controller = host.controller
            self._try(host, lambda: step(host, controller))

    # What hosts do.

    @rule(index=HOSTS)
    def connect(self, index: int) -> None:
        host = self.hosts[index]
        if host.controller is None:
            host.controller = RealtimeController(
                self.bench.here, SESSION, host.adapter, sidecar(self.overflow, capacity=2)
            )
            host.fenced_at = None
        self._with(index, lambda _, controller: controller.connect())

    @rule(index=HOSTS)
    def resume(self, index: int) -> None:
        host = self.hosts[index]

        def resumed() -> None:
            options = sidecar(self.overflow, capacity=2)
            host.controller = RealtimeController.resume(self.bench.here, SESSION, host.adapter, options)
            host.fenced_at = None

        self._try(host, resumed)

    @rule(index=HOSTS, critical=st.booleans())
    def send(self, index: int, critical: bool) -> None:
        self.frames += 1
        frame = out(f"f{self.frames}", critical=critical)
        self._with(index, lambda _, controller: self._report(controller, frame))

    @rule(index=HOSTS)
    def send_what_is_in_doubt(self, index: int) -> None:
        def step(_: Host, controller: RealtimeController) -> None:
            for frame in controller.in_doubt[:1]:
                self._report(controller, frame)

        self._with(index, step)

    def _report(self, controller: RealtimeController, frame: RealtimeFrame) -> None:
        self.reported[frame.frame_id.value] = controller.send(frame).outcome

    @rule(index=HOSTS)
    def receive(self, index: int) -> None:
        def step(_: Host, controller: RealtimeController) -> None:
            frame = controller.receive()
            if frame is not None:
                self.received.append(frame.frame_id.value)

        self._with(index, step)

    @rule(index=HOSTS)
    def answer(self, index: int) -> None:
        self.answers += 1
        self.hosts[index].adapter.coming.append(incoming(f"a{self.answers}"))

    @rule(index=HOSTS)
    def interrupt(self, index: int) -> None:
        self._with(index, lambda _, controller: controller.interrupt())

    @rule(index=HOSTS)
    def restart(self, index: int) -> None:
        self._with(index, lambda _, controller: controller.begin_restart())

    @rule(index=HOSTS)
    def complete(self, index: int) -> None:
        self._with(index, lambda _, controller: controller.complete_restart())

    @rule(index=HOSTS)
    def detach(self, index: int) -> None:
        self._with(index, lambda _, controller: controller.close(RealtimeCloseReason.HOST_OWNED_DETACH))

    @precondition(lambda self: self.frames > 4)
    @rule(index=HOSTS)
    def close(self, index: int) -> None:
        self._with(index, lambda _, controller: controller.close())

    @rule(index=HOSTS)
    def do_it_again(self, index: int) -> None:
        host = self.hosts[index]
        if host.again is not None:
            self._try(host, host.again)

    # What happens to them.

    @rule(index=HOSTS)
    def end(self, index: int) -> None:
        """The process ends; what it had sent may still arrive."""
        host = self.hosts[index] = Host()
        self._watch(host)

    @rule(index=HOSTS, verb=st.sampled_from(["send", "receive", "restart", "open", "close", "interrupt"]))
    def lose_connection(self, index: int, verb: str) -> None:
        self.hosts[index].adapter.failing[verb] = 1

    @rule(
        fault=st.sampled_from(sorted(FAULTS)),
        verb=st.sampled_from(["put", "put", "get"]),
        nth=st.integers(1, 4),
        times=st.sampled_from([1, 1, 8]),
    )
    def disturb(self, fault: str, verb: str, nth: int, times: int) -> None:
        wanted = FAULTS[fault] if verb == "put" else FailBefore()
        self.bench.faulty.plan.on("put" if verb == "put" else "get", "realtime/", fault=wanted, nth=nth, times=times)

    @rule()
    def calm(self) -> None:
        self.bench.faulty.plan.clear()
        self.bench.faulty.release()

    # What is always true.

    @invariant()
    def the_log_tells_what_was_done(self) -> None:
        records = self.records()
        if not records:
            assert not self.delivered
            return
        check_log(records)
        load_realtime(self.bench.there, SESSION)
        requests = [record.frame_id.value for record in self.requests() if record.frame_id]
        repeats = [record.frame_id.value for record in self.requests() if record.frame_id and record.repeats]
        for frame_id in set(self.delivered):
            assert self.delivered.count(frame_id) <= requests.count(frame_id), "rule 2"
        for frame_id in set(requests):
            assert requests.count(frame_id) == repeats.count(frame_id) + 1, "rule 2"

    @invariant()
    def what_was_reported_is_so(self) -> None:
        if not self.reported:
            return
        records = self.records()
        sent = {record.frame_id.value for record in records if record.kind.value == "input_sent" and record.frame_id}
        held = {
            record.frame_id.value: record
            for record in records
            if record.kind.value == "backpressure_applied" and record.frame_id
        }
        taken = {number for record in records for number in record.takes}
        queued = {kept.sequence for kept in load_realtime(self.bench.there, SESSION).queue}
        for frame_id, outcome in self.reported.items():
            if outcome is SendOutcome.SENT:
                assert frame_id in sent, "rule 3"
                assert frame_id in self.delivered, "rule 3"
            elif outcome in (SendOutcome.GATED, SendOutcome.SUMMARIZED):
                assert held[frame_id].queued, "rule 3"
                assert held[frame_id].sequence in queued | taken, "rule 3"
            else:
                assert not held[frame_id].queued, "rule 3"

    @invariant()
    def what_was_handed_out_is_recorded(self) -> None:
        assert len(set(self.received)) == len(self.received), "rule 4"
        recorded = [r.frame_id.value for r in self.records() if r.kind.value == "output_received" and r.frame_id]
        places = [recorded.index(frame_id) for frame_id in self.received]
        assert places == sorted(places), "rule 4"

    @invariant()
    def who_is_fenced_is_silent(self) -> None:
        for host in self.hosts:
            assert host.fenced_at is None or len(host.adapter.calls) == host.fenced_at, "rule 5"


Hosts.TestCase.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
TestHosts = Hosts.TestCase
