"""A realtime session on a faulty store, an adapter that notes what it is told, and short ways to frames."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from snapshots.environment import Environment
from snapshots.layout import Layout
from snapshots.realtime import (
    PolicyRef,
    RealtimeCloseReason,
    RealtimeController,
    RealtimeFrame,
    RealtimeResponseId,
    RealtimeSessionRecord,
    RealtimeSessionSidecar,
    RealtimeSessionState,
)
from snapshots.realtime.journal import read_records
from storage.backends.memory import MemoryStore
from storage.executor import InlineExecutor
from storage.store import ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.faults import FaultyStore

SESSION = "s1"


def sidecar(overflow: str = "gate_during_restart", *, capacity: int = 32) -> RealtimeSessionSidecar:
    return RealtimeSessionSidecar.voice_defaults(
        "voice",
        "route.main",
        "capability.voice",
        PolicyRef.new("media"),
        queue_capacity=capacity,
        overflow_policy=overflow,
    )


def out(name: str, **fields: Any) -> RealtimeFrame:
    return RealtimeFrame.outgoing(name, content_refs=[f"blob:{name}"], redacted_summary=f"about {name}", **fields)


def incoming(name: str, **fields: Any) -> RealtimeFrame:
    return RealtimeFrame.incoming(name, content_refs=[f"blob:{name}"], redacted_summary=f"about {name}", **fields)


class LostError(Exception):
    """The connection is gone."""


@dataclass
class NotingAdapter:
    """An adapter that notes every call.

    Attributes:
        calls: Verbs, and what they were about.
        coming: What it has to receive.
        failing: Verb → how often it is still to fail, after it has noted the call.
        before: Called before each verb.
    """

    calls: list[tuple[str, str]] = field(default_factory=list)
    coming: list[RealtimeFrame] = field(default_factory=list)
    failing: dict[str, int] = field(default_factory=dict)
    before: Callable[[str], object] | None = None

    @property
    def sent(self) -> list[str]:
        return [about for verb, about in self.calls if verb == "send"]

    @property
    def verbs(self) -> list[str]:
        return [verb for verb, _ in self.calls]

    def _note(self, verb: str, about: str = "") -> None:
        if self.before is not None:
            self.before(verb)
        self.calls.append((verb, about))
        if self.failing.get(verb, 0):
            self.failing[verb] -= 1
            raise LostError(verb)

    def open(self, state: RealtimeSessionState) -> None:
        self._note("open", state.connection_id.value)

    def send(self, frame: RealtimeFrame) -> None:
        self._note("send", frame.frame_id.value)

    def receive(self) -> RealtimeFrame | None:
        self._note("receive")
        return self.coming.pop(0) if self.coming else None

    def interrupt(self, response_id: RealtimeResponseId | None) -> None:
        self._note("interrupt", "" if response_id is None else response_id.value)

    def restart(self, state: RealtimeSessionState) -> None:
        self._note("restart", state.connection_id.value)

    def close(self, reason: RealtimeCloseReason) -> None:
        self._note("close", reason.value)


@dataclass(frozen=True)
class Repo:
    """What controllers take."""

    environment: Environment


@dataclass
class Bench:
    """A store with faults, the store behind it, and a clock."""

    behind: MemoryStore = field(default_factory=MemoryStore)
    clock: ManualClock = field(default_factory=ManualClock)
    adapter: NotingAdapter = field(default_factory=NotingAdapter)

    def __post_init__(self) -> None:
        self.faulty = FaultyStore(self.behind)
        self.here = self.repo(self.faulty)
        self.there = self.repo(self.behind)

    def repo(self, store: ObjectStore, tenant: str = "default") -> Repo:
        return Repo(Environment(store, Layout(tenant), self.clock, InlineExecutor()))

    def controller(self, **options: Any) -> RealtimeController:
        return RealtimeController(self.here, SESSION, self.adapter, sidecar(**options))

    def connected(self, **options: Any) -> RealtimeController:
        controller = self.controller(**options)
        controller.connect()
        return controller

    def restarting(self, **options: Any) -> RealtimeController:
        controller = self.connected(**options)
        controller.begin_restart()
        return controller

    def resumed(self, adapter: NotingAdapter | None = None, **options: Any) -> RealtimeController:
        """Return the controller of another host, whose store has no faults."""
        return RealtimeController.resume(self.there, SESSION, adapter or NotingAdapter(), sidecar(**options))

    def records(self) -> list[RealtimeSessionRecord]:
        return list(read_records(self.there.environment, SESSION))

    def kinds(self) -> list[str]:
        return [record.kind.value for record in self.records()]

    def key(self, sequence: int) -> str:
        return self.here.environment.layout.realtime_record(SESSION, sequence)

    def puts(self) -> int:
        return sum(request.verb == "put" for request in self.faulty.log)


def check_log(records: list[RealtimeSessionRecord]) -> None:
    """Check what is true of every log, however it came about."""
    assert [record.sequence for record in records] == list(range(1, len(records) + 1))
    assert len({record.record_id for record in records}) == len(records)
    restarts = [record.state.restart_count for record in records]
    assert restarts == sorted(restarts)
    for name in ("send_cursor", "receive_cursor"):
        cursors = [getattr(record.state, name) for record in records]
        assert cursors == sorted(cursors)
    connections = dict.fromkeys(record.state.connection_id for record in records)
    assert len(connections) == restarts[-1] + 1
    requests = {record.sequence for record in records if record.kind.value == "input_send_requested"}
    answers = [record.answers for record in records if record.kind.value == "input_sent"]
    assert set(answers) <= requests
    assert len(set(answers)) == len(answers)
