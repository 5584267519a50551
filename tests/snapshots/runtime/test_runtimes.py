"""Several runtimes with stale copies and a user who edits, against a model: nothing is lost or undone."""

from __future__ import annotations

from contextlib import ExitStack
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from snapshots import SnapshotRepository
from snapshots.errors import CommitUnknownError
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    Delay,
    FailBefore,
    Fault,
    FaultyStore,
    LoseAnswer,
    OwnRetry,
    Repeat,
)
from tests.snapshots.runtime.bench import SESSION, said, texts_of

RUNTIMES = 3
WHO = st.integers(0, RUNTIMES - 1)
FAULT: st.SearchStrategy[Fault | None] = st.sampled_from(
    [
        None,
        FailBefore(applied="unknown"),
        LoseAnswer(),
        Delay(),
        Delay(after_requests=2),
        OwnRetry(),
        Repeat(after_requests=2),
        CrashBefore(),
        CrashAfter(),
    ]
)
NTH = st.integers(1, 5)


class Runtimes(RuleBasedStateMachine):
    """A runtime has a copy of the session and a store of its own, behind faults."""

    def __init__(self) -> None:
        super().__init__()
        self.stack = ExitStack()
        self.behind = MemoryStore()
        self.faulty = [FaultyStore(self.behind) for _ in range(RUNTIMES)]
        opened = [SnapshotRepository(store, clock=ManualClock(seed=at)) for at, store in enumerate(self.faulty)]
        self.repos = [self.stack.enter_context(repo) for repo in opened]
        self.watcher = self.stack.enter_context(SnapshotRepository(self.behind, clock=ManualClock(seed=99)))
        self.count = 0
        self.saved: set[str] = set()  # ids of messages that a save confirmed
        self.sent: set[str] = set()  # and of those that any save was given
        self.edits: list[str] = []  # titles as the user gave them, oldest first
        self.gold: Any = None

    @initialize()
    def first_save(self) -> None:
        self.stores = [RuntimeSessionStore(repo) for repo in self.repos]
        self.copies = [RuntimeSession(session_id=SESSION) for _ in range(RUNTIMES)]
        self.stores[0].save_runtime_session(self.copies[0])
        self.order: list[str] = []

    def teardown(self) -> None:
        self.stack.close()

    @rule(who=WHO)
    def speak(self, who: int) -> None:
        self.count += 1
        self.copies[who].messages.append(said(f"m{self.count}"))

    @rule(who=WHO, title=st.sampled_from(["runtime", "", "other"]), pinned=st.booleans())
    def meddle(self, who: int, title: str, pinned: bool) -> None:
        """Change what only the user changes, without a new version."""
        self.copies[who].title, self.copies[who].pinned = title, pinned
        self.copies[who].metadata = {"gold_config": "runtime", "agent_runtime_state": {"bypass_permissions": True}}

    @rule(who=WHO, fault=FAULT, nth=NTH, verb=st.sampled_from(["put", "*"]))
    def save(self, who: int, fault: Fault | None, nth: int, verb: Any) -> None:
        faulty, copy = self.faulty[who], self.copies[who]
        given = set(texts_of(copy))
        self.sent |= given
        faulty.plan.clear()
        if fault is not None and not (verb == "*" and isinstance(fault, Delay | OwnRetry | Repeat)):
            faulty.plan.on(verb, nth=nth, fault=fault)
        try:
            result = self.stores[who].save_runtime_session(copy)
        except Crash:
            faulty.restart()
            self.stores[who] = RuntimeSessionStore(self.repos[who])
        except (UnavailableError, CommitUnknownError):
            assert fault is not None
        else:
            assert not result.kept_messages
            self.saved |= given
            assert self.saved <= set(texts_of(copy))
        finally:
            faulty.plan.clear()

    @rule(who=WHO)
    def late_answers(self, who: int) -> None:
        self.faulty[who].release()

    @rule(who=WHO)
    def load_again(self, who: int) -> None:
        self.copies[who] = self.stores[who].load_runtime_session(SESSION)

    @rule(title=st.sampled_from(["Rome", "Paris", "Oslo"]))
    def edit(self, title: str) -> None:
        RuntimeSessionStore(self.watcher).update_metadata(SESSION, lambda one: one.changed(title=title, pinned=True))
        self.edits.append(title)

    @rule(value=st.integers(0, 3))
    def configure(self, value: int) -> None:
        RuntimeSessionStore(self.watcher).update_metadata(
            SESSION, lambda one: one.changed(metadata={**one.metadata, "gold_config": value})
        )
        self.gold = value

    @invariant()
    def nothing_is_lost_or_undone(self) -> None:
        stored = RuntimeSessionStore(self.watcher).load_runtime_session(SESSION)
        ids = texts_of(stored)
        assert ids[: len(self.order)] == self.order  # only ever appended to
        self.order = ids
        assert len(set(ids)) == len(ids)
        assert self.saved <= set(ids) <= self.sent
        assert stored.messages == [said(one) for one in ids]
        assert stored.title == (self.edits[-1] if self.edits else "")
        assert stored.pinned == bool(self.edits)
        assert stored.metadata.get("gold_config") == self.gold
        assert "bypass_permissions" not in stored.metadata.get("agent_runtime_state", {})
        assert all(not store.waiting_sessions for store in self.stores)


TestRuntimes = Runtimes.TestCase
TestRuntimes.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
