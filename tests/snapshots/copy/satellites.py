"""Two stores, and a session in one of them with everything beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace

import pytest

from snapshots import SnapshotRepository
from snapshots.environment import Environment
from snapshots.errors import SessionNotFoundError
from snapshots.layout import Layout
from snapshots.maintenance.copy.satellites import (
    Difference,
    SatelliteKind,
    SatellitesCopied,
    compare_satellites,
    copy_satellites,
)
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from snapshots.realtime import RealtimeController, RealtimeSessionRecord
from snapshots.realtime.journal import read_records
from snapshots.records import SessionRecords
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.runtime.persistence import metadata_register
from snapshots.usage import UsageLog
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.executor import InlineExecutor
from storage.testing.clock import ManualClock
from storage.testing.faults import Crash, FailBefore, FaultyStore
from tests.snapshots.realtime.bench import NotingAdapter, out, sidecar
from tests.snapshots.usage.bench import line

SESSION = "s1"


@dataclass(frozen=True)
class Host:
    """What everything is opened on."""

    environment: Environment


@dataclass
class Side:
    """One store: faulty in front, what stands in it behind."""

    clock: ManualClock
    tenant: str = "default"
    session_id: str = SESSION
    behind: MemoryStore = field(default_factory=MemoryStore)

    def __post_init__(self) -> None:
        self.faulty = FaultyStore(self.behind)
        self.host = Host(Environment(self.behind, Layout(self.tenant), self.clock, InlineExecutor()))
        self.seen = Environment(self.faulty, Layout(self.tenant), self.clock, InlineExecutor())

    @property
    def environment(self) -> Environment:
        return self.host.environment

    @property
    def layout(self) -> Layout:
        return self.environment.layout

    @property
    def records(self) -> SessionRecords:
        return SessionRecords(self.host)

    @property
    def runtime(self) -> RuntimeSessionStore:
        return RuntimeSessionStore(self.host)

    @property
    def log(self) -> UsageLog:
        return UsageLog(self.host, self.session_id)

    def connected(self) -> RealtimeController:
        controller = RealtimeController(self.host, self.session_id, NotingAdapter(), sidecar())
        controller.connect()
        return controller

    def unconnected(self) -> RealtimeController:
        """Return a controller whose session has a state and no record."""
        controller = RealtimeController(Host(self.seen), self.session_id, NotingAdapter(), sidecar())
        self.faulty.plan.on("put", self.layout.realtime_record(self.session_id, 1), fault=FailBefore("no"), times=8)
        with pytest.raises(UnavailableError):
            controller.connect()
        return controller

    def runtime_metadata(self) -> None:
        """Change the metadata, with authority where the session is there, and beside it where it is not."""
        with suppress(SessionNotFoundError):
            self.runtime.update_metadata(self.session_id, lambda before: before.changed(pinned=not before.pinned))
            return
        metadata_register(self.environment, self.session_id).update(
            lambda before: replace(before, document=before.document.changed(pinned=not before.document.pinned))
        )

    def resumed(self) -> RealtimeController:
        return RealtimeController.resume(self.host, self.session_id, NotingAdapter(), sidecar())

    def realtime(self) -> list[RealtimeSessionRecord]:
        return list(read_records(self.environment, self.session_id))

    def rows(self) -> list[tuple[str, str]]:
        return [(row.row_id, row.text) for row in self.log.read()]

    def stored_rows(self) -> int:
        """Return how many rows the segments hold, those included that stand there twice."""
        return sum(one.rows for one in self.log.segments())

    def found(self) -> list[Finding]:
        with SnapshotRepository(self.behind, tenant=self.tenant, clock=self.clock) as repo:
            return [one for one in verify(repo) if isinstance(one, Finding)]

    def requests(self) -> list[str]:
        """Return the verbs since this was last asked."""
        verbs: list[str] = [request.verb for request in self.faulty.log]
        self.faulty.log.clear()
        return verbs


@dataclass
class Bench:
    """A source with everything in it, and a place to copy it to."""

    tenant: str = "default"
    target: str = SESSION
    counted: int = 0

    def __post_init__(self) -> None:
        self.clock = ManualClock()
        self.source = Side(self.clock)
        self.here = Side(self.clock, self.tenant, self.target)

    def fill(self, *, frames: int = 3, rows: int = 5) -> RealtimeController:
        """Give the source one of everything; return the controller of its realtime session."""
        side = self.source
        side.records.create(SESSION, provider_id="p", model="m", ttl_secs=0, metadata={"a": [1, None]})
        side.records.activate(SESSION)
        session = RuntimeSession(session_id=SESSION, title="Trip", metadata={"theme": "dark"}, own=[1.0])
        session.messages.append({"role": "user", "content": "hello"})
        side.runtime.save_runtime_session(session)
        side.runtime.update_metadata(SESSION, lambda before: before.changed(title="Rome"))
        side.log.append_many([line(n, text="x" * (n % 7)) for n in range(rows)])
        controller = side.connected()
        for n in range(frames):
            controller.send(out(f"f{n}"))
        return controller

    def copy(self, kinds: Sequence[SatelliteKind] = ("record", "metadata", "usage", "realtime")) -> SatellitesCopied:
        return copy_satellites(self.source.seen, self.here.seen, SESSION, self.target, kinds)

    def works_again(self) -> None:
        """Let both stores work again: a crash is over, and what was late has arrived."""
        for side in (self.source, self.here):
            side.faulty.plan.clear()
            side.faulty.restart()
            side.faulty.release()

    def differences(self) -> list[Difference]:
        return list(compare_satellites(self.source.environment, self.here.environment, SESSION, self.target))

    def differences_of(self, what: str) -> list[Difference]:
        return [one for one in self.differences() if one.what == what]

    def outcomes(self, copied: SatellitesCopied) -> list[str]:
        return [one.outcome for one in copied.kinds]

    def check(self) -> None:
        """Check that all was copied, and that nothing is wrong in either store."""
        assert self.differences() == []
        assert self.source.found() == []
        assert self.here.found() == []
        self.source.requests(), self.here.requests()


@contextmanager
def gone_wrong() -> Iterator[None]:
    """Let a copy end as it may where a store fails."""
    with suppress(Crash, UnavailableError):
        yield
