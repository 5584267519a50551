"""What the tests of session records share: hosts on one store, and the bytes behind them."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from snapshots import codec
from snapshots.environment import Environment
from snapshots.layout import Layout
from snapshots.records import SessionRecords, SessionStatus, StoredRecord
from storage.backends.memory import MemoryStore
from storage.executor import InlineExecutor
from storage.store import ObjectStore, Overwrite
from storage.testing.clock import START, ManualClock
from storage.testing.faults import FaultyStore

SESSION, TTL = "s1", 3600
MODEL: dict[str, Any] = {"provider_id": "openai", "model": "gpt-5"}
RUNNING = (SessionStatus.CREATED, SessionStatus.ACTIVE)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


@dataclass(frozen=True)
class Host:
    """Whatever has an environment."""

    environment: Environment


def host(store: ObjectStore, clock: ManualClock, tenant: str = "default") -> Host:
    return Host(Environment(store, Layout(tenant), clock, InlineExecutor()))


@dataclass
class Bench:
    """Records behind faults, the same without, and the store itself."""

    behind: MemoryStore = field(default_factory=MemoryStore)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.faulty = FaultyStore(self.behind)
        self.here, self.there = host(self.faulty, self.clock), host(self.behind, self.clock)
        self.mine, self.theirs = SessionRecords(self.here), SessionRecords(self.there)

    def key(self, session_id: str = SESSION) -> str:
        return self.here.environment.layout.record(session_id)

    def create(self, session_id: str = SESSION, ttl_secs: int = TTL, **fields: Any) -> StoredRecord:
        return self.theirs.create(session_id, **MODEL, ttl_secs=ttl_secs, **fields)

    def at(self, status: SessionStatus, session_id: str = SESSION) -> StoredRecord:
        """Bring a new record to a status; a second goes by before it is closed."""
        stored = self.create(session_id, ttl_secs=0 if status is SessionStatus.CLOSED else TTL)
        if status is SessionStatus.CREATED:
            return stored
        stored = self.theirs.activate(session_id)
        if status is SessionStatus.ACTIVE:
            return stored
        if status is SessionStatus.CLOSED:
            self.clock.advance(1)
            return self.theirs.close(session_id)
        self.clock.advance(TTL)
        return self.theirs.expire(session_id)

    def data(self, session_id: str = SESSION) -> bytes:
        return self.behind.get(self.key(session_id)).data

    def plain(self, session_id: str = SESSION) -> dict[str, Any]:
        key = self.key(session_id)
        found: dict[str, Any] = codec.decode(codec.unguarded(self.data(session_id), key=key), key=key)
        return found

    def writes(self, session_id: str = SESSION) -> int:
        """Return how often the register was written: each write leaves its id."""
        return len(self.plain(session_id)["write_ids"])

    def put(self, plain: dict[str, Any], session_id: str = SESSION) -> None:
        self.behind.put(self.key(session_id), codec.guarded(codec.encode(plain)), Overwrite())

    def alter(self, fields: dict[str, Any]) -> None:
        """Change fields of the record inside the register."""
        plain = self.plain()
        self.put({**plain, "value": {**plain["value"], **fields}})

    def damage(self, session_id: str) -> None:
        self.behind.put(self.key(session_id), self.data(session_id)[:-1] + b"!", Overwrite())

    def requests(self) -> list[str]:
        return [request.verb for request in self.faulty.log]
