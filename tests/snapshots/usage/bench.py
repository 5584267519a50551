"""A usage log on a store that fails as told, beside others on the store behind it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

from snapshots.environment import Environment
from snapshots.layout import Layout
from snapshots.maintenance.collect import CollectReport, execute, plan_on
from snapshots.usage import LiveSegment, UsageLog
from storage.backends.memory import MemoryStore
from storage.executor import InlineExecutor
from storage.testing.clock import ManualClock
from storage.testing.faults import FaultyStore

SESSION = "s1"


@dataclass(frozen=True)
class Host:
    """What a usage log works with."""

    environment: Environment


@dataclass
class Bench:
    """One clock for all, so that no two draw the same ids."""

    clock: ManualClock = field(default_factory=ManualClock)
    tenant: str = "default"

    def __post_init__(self) -> None:
        self.behind = MemoryStore(self.clock)
        self.faulty = FaultyStore(self.behind)
        self.here = Host(Environment(self.faulty, Layout(self.tenant), self.clock, InlineExecutor()))
        self.there = Host(replace(self.here.environment, store=self.behind))

    @property
    def layout(self) -> Layout:
        return self.here.environment.layout

    def log(self, session_id: str = SESSION) -> UsageLog:
        return UsageLog(self.here, session_id)

    def other(self, session_id: str = SESSION) -> UsageLog:
        return UsageLog(self.there, session_id)

    def lines(self, session_id: str = SESSION) -> list[Any]:
        """Return the `n` of all rows, as another host reads them."""
        return [row.value["n"] for row in self.other(session_id).read()]

    def live(self, session_id: str = SESSION) -> tuple[LiveSegment, ...]:
        return self.other(session_id).segments()

    def stored(self) -> list[str]:
        """Return the keys of all segments that are stored, live or not."""
        keys = (row.key for row in self.behind.list(self.layout.usage_logs))
        return [key for key in keys if key.endswith(".zst")]

    def live_keys(self, session_id: str = SESSION) -> set[str]:
        """Return the keys of the live segments."""
        return {self.layout.usage_segment(session_id, one.name) for one in self.live(session_id)}

    def collect(self) -> CollectReport:
        return execute(plan_on(self.there.environment))

    def puts(self) -> list[str]:
        return [request.keys[0] for request in self.faulty.log if request.verb == "put"]


def line(n: object, **more: object) -> str:
    return json.dumps({"n": n, **more})
