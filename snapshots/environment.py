"""`Environment`: what every operation of a repository works with. One per repository; safe for threads."""

from __future__ import annotations

from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

from snapshots.compaction import LIMITS, Limits
from snapshots.fields import NEWEST_VERSION
from snapshots.layout import Layout
from storage.clock import Clock
from storage.registers import Register
from storage.store import ObjectStore


@dataclass(frozen=True, slots=True)
class Environment:
    """Store, keys, clock and threads of one repository.

    Attributes:
        store: Where everything lies.
        layout: The tenant's keys.
        clock: Time, ids and jitter.
        executor: Runs requests side by side.
        home: Identity of store and tenant, for `Base.home`.
        limits: What commits leave lying apart.
        schema_version: Of the store: heads that are made have it.
    """

    store: ObjectStore
    layout: Layout
    clock: Clock
    executor: Executor
    home: tuple[str, str] = ("", "")
    limits: Limits = LIMITS
    schema_version: int = NEWEST_VERSION

    def register(self, session_id: str) -> Register:
        """Return the register of a session's head. Raises InvalidKeyError for what is no id."""
        return Register(self.store, self.layout.head(session_id), self.clock)


class HasEnvironment(Protocol):
    """Whatever can be worked on: a `SnapshotRepository`, for instance."""

    @property
    def environment(self) -> Environment:
        """Return what operations work with."""
        ...
