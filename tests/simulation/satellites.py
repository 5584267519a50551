"""Actors on what sessions have beside their heads – usage logs, saves, records, realtime sessions – and their starts.

What they are told is noted in the world's `satellites`, whose checks are those of the seeded runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from snapshots.environment import Environment
from snapshots.errors import CommitUnknownError, SnapshotError
from snapshots.realtime import (
    PolicyRef,
    RealtimeCloseReason,
    RealtimeController,
    RealtimeFrame,
    RealtimeResponseId,
    RealtimeSessionSidecar,
    RealtimeSessionState,
)
from snapshots.records import SessionRecords, reap
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.testing.simulation.satellite_notes import (
    DeltaTold,
    FrameSent,
    FrameTold,
    RowsTold,
    SatelliteNotes,
    SaveTold,
)
from snapshots.usage import UsageLog, compact
from storage.clock import Clock
from storage.errors import StorageError, UnavailableError
from storage.store import ObjectStore
from storage.testing.simulation import Actor

if TYPE_CHECKING:
    from tests.simulation.protocol import Protocol

SIDECAR = RealtimeSessionSidecar.voice_defaults("voice", "route", "capability", PolicyRef.new("media"))
Role = Callable[["Protocol"], Actor]


@dataclass(frozen=True, slots=True)
class Repo:
    """What the public classes are opened with."""

    environment: Environment


# Starts.


def merged_log(environment: Environment) -> SatelliteNotes:
    """Leave a usage log of two live segments, and two that were superseded."""
    repo = Repo(environment)
    log = UsageLog(repo, "s")
    names = ("before1", "before2", "before3")
    for name in names[:2]:
        log.append(_line(name))
    compact(repo, "s")
    UsageLog(repo, "s").append(_line(names[2]))
    return SatelliteNotes(rows=[RowsTold("s", "before", names, "done")])


def due_record(environment: Environment) -> SatelliteNotes:
    """Leave an active record whose time is up in a second."""
    records = SessionRecords(Repo(environment))
    records.create("s", provider_id="p", model="m", ttl_secs=1)
    records.activate("s")
    return SatelliteNotes()


def saved_session(environment: Environment) -> SatelliteNotes:
    """Leave a session with one message, and a title."""
    store = RuntimeSessionStore(Repo(environment))
    store.save_runtime_session(RuntimeSession(session_id="s", messages=[_message("before")]))
    edited = store.update_metadata("s", lambda old: old.changed(title="before"))
    title = SaveTold("s", "before", "done", edited.metadata_version)
    return SatelliteNotes(saves=[SaveTold("s", "before", "done")], titles=[title])


def _line(name: str) -> str:
    return json.dumps({"name": name})


def _message(name: str) -> dict[str, str]:
    return {"id": name, "role": "user", "content": f"text of {name}"}


# Actors.


def role_of(act: Callable[[SatelliteNotes, Environment], None]) -> Role:
    """Return a role that does this, and notes what it has to note as it goes."""

    def role(world: Protocol) -> Actor:
        def run(store: ObjectStore, clock: Clock) -> None:
            act(world.satellites, world.environment(store, clock))

        return run

    return role


@contextmanager
def _noting(note: RowsTold | SaveTold | DeltaTold) -> Iterator[None]:
    """Note what is told of the block; what it raises passes."""
    try:
        yield
    except CommitUnknownError:
        raise
    except UnavailableError as error:
        note.told = "" if error.applied == "unknown" else "refused"
        raise
    except (SnapshotError, StorageError):
        note.told = "refused"
        raise
    note.told = "done"


def appender(name: str) -> Role:
    """Return a role that appends a line to the log of `s`."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:
        note = RowsTold("s", name, (name,))
        notes.rows.append(note)
        with _noting(note):
            UsageLog(Repo(environment), "s").append(_line(name))

    return role_of(act)


def compactor() -> Role:
    """Return a role that merges the segments of the log of `s`."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:  # noqa: ARG001  an act
        compact(Repo(environment), "s")

    return role_of(act)


def saver(name: str) -> Role:
    """Return a role that saves `s` from a copy that knows nothing of what is stored."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:
        note = SaveTold("s", name)
        notes.saves.append(note)
        copy = RuntimeSession(session_id="s", title="stale", messages=[_message(name)])
        with _noting(note):
            RuntimeSessionStore(Repo(environment)).save_runtime_session(copy)

    return role_of(act)


def editor(name: str) -> Role:
    """Return a role that gives `s` a title."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:
        note = SaveTold("s", name)
        notes.titles.append(note)
        store = RuntimeSessionStore(Repo(environment))
        with _noting(note):
            note.version = store.update_metadata("s", lambda old: old.changed(title=name)).metadata_version

    return role_of(act)


def keeper(exponent: int) -> Role:
    """Return a role that counts on the record of `s`, and closes it."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:
        records, note = SessionRecords(Repo(environment)), DeltaTold("s", exponent)
        notes.deltas.append(note)
        with _noting(note):
            records.record_delta("s", 1 << exponent)
        records.close("s")

    return role_of(act)


def reaper() -> Role:
    """Return a role that expires what is due two seconds later."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:
        environment.clock.sleep(2)
        notes.reaped += reap(Repo(environment)).expired

    return role_of(act)


class Wire:
    """An adapter that notes what it sends, and by which connection; it has one frame to hand out."""

    def __init__(self, notes: SatelliteNotes, name: str) -> None:
        self._notes = notes
        self._connection_id = ""
        self._inbox = [RealtimeFrame.incoming(f"to {name}")]

    def open(self, state: RealtimeSessionState) -> None:
        self._connection_id = state.connection_id.value

    def restart(self, state: RealtimeSessionState) -> None:
        self._connection_id = state.connection_id.value

    def send(self, frame: RealtimeFrame) -> None:
        self._notes.sent.append(FrameSent("s", self._connection_id, frame.frame_id.value))

    def receive(self) -> RealtimeFrame | None:
        return self._inbox.pop() if self._inbox else None

    def interrupt(self, response_id: RealtimeResponseId | None) -> None: ...

    def close(self, reason: RealtimeCloseReason) -> None: ...


def first_host(name: str) -> Role:
    """Return a role that connects `s`, sends, receives, and sends another frame over a restart."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:
        controller = RealtimeController(Repo(environment), "s", Wire(notes, name), SIDECAR)
        controller.connect()
        _send(notes, controller, f"{name}1")
        _receive(notes, controller)
        controller.begin_restart()
        _send(notes, controller, f"{name}2")
        controller.complete_restart()

    return role_of(act)


def second_host(name: str) -> Role:
    """Return a role that takes `s` over, and sends."""

    def act(notes: SatelliteNotes, environment: Environment) -> None:
        controller = RealtimeController.resume(Repo(environment), "s", Wire(notes, name), SIDECAR)
        controller.complete_restart()
        _send(notes, controller, name)

    return role_of(act)


def _send(notes: SatelliteNotes, controller: RealtimeController, name: str) -> None:
    told = FrameTold("s", name)
    notes.frames.append(told)
    told.outcome = controller.send(RealtimeFrame.outgoing(name, critical=True)).outcome.value


def _receive(notes: SatelliteNotes, controller: RealtimeController) -> None:
    frame = controller.receive()
    if frame is not None:
        notes.received.append(("s", frame.frame_id.value))
