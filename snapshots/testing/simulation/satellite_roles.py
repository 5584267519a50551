"""Roles of hosts that work on what sessions have beside their heads: usage logs, saves, records, realtime sessions.

Rules:
1. What a host is told is noted (`satellite_notes`); whatever a crash cuts off counts as unknown.
2. Many hosts work on few logs, records and realtime sessions: what they do to each other is what is looked for.
3. Sessions that are saved are used by savers alone: a rewind by somebody else would take messages back.

import snapshots.testing.simulation.satellite_roles   # registers them
"""

from __future__ import annotations

import json
from collections.abc import Callable

from snapshots.realtime import (
    PolicyRef,
    RealtimeCloseReason,
    RealtimeController,
    RealtimeFrame,
    RealtimeResponseId,
    RealtimeSessionSidecar,
    RealtimeSessionState,
    SendResult,
)
from snapshots.records import SessionRecords, reap
from snapshots.runtime import RuntimeMetadata, RuntimeSession, RuntimeSessionStore
from snapshots.testing.simulation.hosts import SAVED, Host
from snapshots.testing.simulation.operations import Operation
from snapshots.testing.simulation.roles import role
from snapshots.testing.simulation.satellite_notes import DeltaTold, FrameSent, FrameTold, RowsTold, SaveTold
from snapshots.usage import UsageLog, compact
from storage.testing.draws import Draws

ATTEMPTS = 3  # of what may be repeated
LOGGED, COUNTED, SPOKEN = ("u1", "u2"), ("k1", "k2", "k3"), ("z1", "z2")  # ids of sessions that have nothing else
STEPS = ("count", "count", "count", "activate", "close", "list")  # of a session record
TALK = ("send", "send", "send", "receive", "receive", "receive", "begin", "complete", "complete", "interrupt", "close")
SIDECAR = RealtimeSessionSidecar.voice_defaults(
    "voice", "route", "capability", PolicyRef.new("media"), queue_capacity=3
)


@role("usage_appender", least=0, most=2, operations=6)
def append_usage(host: Host) -> None:
    """Append lines to the log of a session; now and then read it, or merge its segments."""
    if host.draws.below(4) == 0:
        logs = sorted({one.session_id for one in host.satellites.rows}) or LOGGED
        session_id = host.draws.pick(logs)
        host.attempt(host.begin("other", ""), lambda: compact(host, session_id))
        return
    session_id = host.draws.pick((*LOGGED, host.a_session()))
    log = host.remembered(f"log of {session_id}", UsageLog, lambda: UsageLog(host, session_id))
    names = tuple(host.new_name() for _ in range(1 + host.draws.below(3)))
    with_id = bool(host.draws.below(2))
    lines = [json.dumps({"row_id": name, "name": name} if with_id else {"name": name}) for name in names]
    told = RowsTold(session_id, host.name, names)
    host.satellites.rows.append(told)
    for attempt in range(ATTEMPTS if with_id else 1):
        operation = host.begin("other", "")
        host.attempt(operation, lambda: log.append_many(lines))
        told.at_once = attempt == 0
        if operation.told == "done" or attempt == 0:
            told.told = operation.told
        if operation.told:
            break
    if host.draws.below(4) == 0:
        host.attempt(host.begin("other", ""), lambda: list(log.read()))


@role("saver", least=0, most=2)
def save(host: Host) -> None:
    """Save a session from a copy that may be stale, or give it another title."""
    session_id = host.draws.pick(SAVED)
    store = host.remembered("runtime sessions", RuntimeSessionStore, lambda: RuntimeSessionStore(host))
    name, operation = host.new_name(), host.begin("other", "")
    if host.draws.below(4) == 0:
        edit = SaveTold(session_id, name)
        host.satellites.titles.append(edit)

        def retitled(old: RuntimeMetadata) -> RuntimeMetadata:
            edit.version = old.metadata_version + 1  # what is returned in the end may be a later edit's
            return old.changed(title=name)

        host.attempt(operation, lambda: store.update_metadata(session_id, retitled))
        edit.told = operation.told
        return
    copy = host.remembered(f"copy of {session_id}", RuntimeSession, lambda: RuntimeSession(session_id=session_id))
    copy.messages.append({"id": name, "role": "user", "content": f"text of {name}"})
    told = SaveTold(session_id, name)
    host.satellites.saves.append(told)
    host.attempt(operation, lambda: store.save_runtime_session(copy))
    told.told = operation.told
    if host.draws.below(3) == 0:
        host.forget(f"copy of {session_id}")


@role("record_keeper", least=0, most=2, operations=6)
def keep_record(host: Host) -> None:
    """Take a session record through its life, by its steps in any order."""
    session_id = host.draws.pick((*COUNTED, host.a_session()))
    records, step, operation = SessionRecords(host), host.draws.pick(STEPS), host.begin("other", "")
    if step == "activate":
        host.attempt(operation, lambda: records.activate(session_id))
    elif step == "close" and host.draws.below(4) == 0:
        host.attempt(operation, lambda: records.close(session_id))
    elif step == "list":
        host.attempt(operation, lambda: list(records.list()))
    elif not _count(host, operation, session_id) and host.draws.below(2):
        _begin_record(host, session_id)


def _begin_record(host: Host, session_id: str) -> None:
    records, ttl_secs = SessionRecords(host), host.draws.pick((0, 1, 3))
    operation = host.begin("other", "")
    host.attempt(operation, lambda: records.create(session_id, provider_id="p", model="m", ttl_secs=ttl_secs))
    if host.draws.below(4):
        host.attempt(host.begin("other", ""), lambda: records.activate(session_id))


def _count(host: Host, operation: Operation, session_id: str) -> bool:
    """Count, and say whether it was done."""
    told = DeltaTold(session_id, host.satellites.exponent_for(session_id))
    host.satellites.deltas.append(told)
    host.attempt(operation, lambda: SessionRecords(host).record_delta(session_id, 1 << told.exponent))
    told.told = operation.told
    return told.told == "done"


@role("reaper", least=0, most=1)
def reap_records(host: Host) -> None:
    """Expire records whose time is up."""
    host.environment.clock.sleep(1)
    report = host.attempt(host.begin("other", ""), lambda: reap(host, limit=1 + host.draws.below(4)))
    host.satellites.reaped += 0 if report is None else report.expired


class CutError(Exception):
    """The connection of an adapter was cut. Remedy: restart."""


class Wire:
    """An adapter whose connection is cut now and then.

    Args:
        host: Whose.
        session_id: Of which session.
    """

    def __init__(self, host: Host, session_id: str) -> None:
        self._host = host
        self._session_id = session_id
        self._draws: Draws = host.draws
        self._connection_id = ""

    def open(self, state: RealtimeSessionState) -> None:
        """Connect."""
        self._connect(state)

    def restart(self, state: RealtimeSessionState) -> None:
        """Connect again."""
        self._connect(state)

    def _connect(self, state: RealtimeSessionState) -> None:
        self._may_be_cut()
        self._connection_id = state.connection_id.value

    def send(self, frame: RealtimeFrame) -> None:
        """Note what was sent, and by which connection."""
        self._host.satellites.sent.append(FrameSent(self._session_id, self._connection_id, frame.frame_id.value))
        self._may_be_cut()

    def receive(self) -> RealtimeFrame | None:
        """Return a new frame, or none."""
        self._may_be_cut()
        return RealtimeFrame.incoming(self._host.new_name()) if self._draws.below(3) else None

    def interrupt(self, response_id: RealtimeResponseId | None) -> None:
        """Stop."""

    def close(self, reason: RealtimeCloseReason) -> None:
        """End."""

    def _may_be_cut(self) -> None:
        if self._draws.below(12) == 0:
            self._host.satellites.cuts += 1
            raise CutError


@role("realtime_host", least=0, most=2, operations=8)
def speak(host: Host) -> None:
    """Send and receive frames, restart, and take a session over from another host."""
    session_id = host.draws.pick(SPOKEN)
    place = f"controller of {session_id}"
    controller = host.recalled(place, RealtimeController)
    if controller is None:
        controller = _connected(host, session_id)
        if controller is not None:
            host.remembered(place, RealtimeController, lambda: controller)
    elif not _step(host, session_id, controller) and host.draws.below(2):
        host.forget(place)


def _connected(host: Host, session_id: str) -> RealtimeController | None:
    fresh = RealtimeController(host, session_id, Wire(host, session_id), SIDECAR)
    if _done(host, fresh.connect):
        return fresh
    wire = Wire(host, session_id)
    return host.attempt(host.begin("other", ""), lambda: RealtimeController.resume(host, session_id, wire, SIDECAR))


def _step(host: Host, session_id: str, controller: RealtimeController) -> bool:
    """Take a step; say whether it was done."""
    step = host.draws.pick(TALK)
    if step == "send":
        return _send(host, session_id, controller)
    if step == "receive":
        return _receive(host, session_id, controller)
    if step == "close" and host.draws.below(6):
        step = "interrupt"
    steps: dict[str, Callable[[], object]] = {
        "begin": controller.begin_restart,
        "complete": controller.complete_restart,
        "interrupt": controller.interrupt,
        "close": controller.close,
    }
    return _done(host, steps[step])


def _done(host: Host, act: Callable[[], object]) -> bool:
    operation = host.begin("other", "")
    try:
        host.attempt(operation, act)
    except CutError:
        return False  # as an adapter's errors are: passed on
    return operation.told == "done"


def _receive(host: Host, session_id: str, controller: RealtimeController) -> bool:
    frames: list[RealtimeFrame | None] = []
    done = _done(host, lambda: frames.append(controller.receive()))
    host.satellites.received += [(session_id, frame.frame_id.value) for frame in frames if frame is not None]
    return done


def _send(host: Host, session_id: str, controller: RealtimeController) -> bool:
    frame = RealtimeFrame.outgoing(host.new_name(), critical=bool(host.draws.below(2)))
    told = FrameTold(session_id, frame.frame_id.value)
    host.satellites.frames.append(told)
    results: list[SendResult] = []
    for _ in range(1 + host.draws.below(ATTEMPTS)):
        operation = host.begin("other", "")
        try:
            host.attempt(operation, lambda: results.append(controller.send(frame)))
        except CutError:
            return False  # the frame is in doubt
        if operation.told:
            break
    told.outcome = results[0].outcome.value if results else ""
    return bool(results)
