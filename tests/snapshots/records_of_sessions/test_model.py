"""Any sequence of steps, with requests lost and delayed among them: the records are what a dictionary says.

Rules:
1. What succeeded is in the model, what was refused is not; what nobody could know is read, and is then one of the two.
2. After every rule the store is read without faults, and agrees with the model.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hypothesis import HealthCheck, event, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from snapshots.errors import IllegalTransitionError, SessionExistsError, SessionNotFoundError
from snapshots.records import SessionRecords, SessionStatus, StoredRecord, plan_reap, reap
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import Delay, FailBefore, Fault, LoseAnswer, OwnRetry, Repeat
from tests.snapshots.records_of_sessions.benches import MODEL, Bench, after

FAULTS: dict[str, Fault] = {
    "fails": FailBefore("no"),
    "fails, unknown": FailBefore("unknown"),
    "answer lost": LoseAnswer(),
    "delayed": Delay(3),
    "delivered twice": Repeat(3),
    "412 from its own retry": OwnRetry(),
}
SESSIONS = ("a", "b", "c")
INITIAL = 100


@dataclass(frozen=True)
class Row:
    """A record as it must be; instants in seconds since the beginning."""

    status: str
    created: float
    ttl: int
    activated: float | None = None
    closed: float | None = None
    rounds: int = 0
    tokens: int = 0

    def due(self, now: float) -> bool:
        began = self.created if self.activated is None else self.activated
        return self.status in ("created", "active") and self.ttl > 0 and now >= began + self.ttl


class Records(RuleBasedStateMachine):
    """Records behind faults, the same without, and the model."""

    def __init__(self) -> None:
        super().__init__()
        self.bench = Bench(clock=ManualClock(seed=1))
        self.clock = self.bench.clock
        self.model: dict[str, Row] = {}

    def now(self) -> float:
        return (self.clock.now() - after(0)).total_seconds()

    # What may happen to requests, and time.

    @rule(fault=st.sampled_from(sorted(FAULTS)), nth=st.integers(1, 2))
    def fail(self, fault: str, nth: int) -> None:
        self.bench.faulty.plan.on("put", nth=nth, fault=FAULTS[fault])

    @rule(times=st.integers(1, 3))
    def do_not_answer(self, times: int) -> None:
        self.bench.faulty.plan.on("get", fault=FailBefore("no"), times=times)

    @rule(applied=st.sampled_from(["no", "unknown"]))
    def take_no_writes(self, applied: str) -> None:
        self.bench.faulty.plan.on("put", fault=FailBefore("no" if applied == "no" else "unknown"), times=None)

    @rule()
    def calm(self) -> None:
        self.bench.faulty.plan.clear()
        self.bench.faulty.release()

    @rule(seconds=st.sampled_from([1, 5, 10]))
    def wait(self, seconds: int) -> None:
        self.clock.advance(seconds)

    # Steps.

    @rule(session_id=st.sampled_from(SESSIONS), ttl=st.sampled_from([0, 5, 20]))
    def create(self, session_id: str, ttl: int) -> None:
        present = self.model.get(session_id)

        def act() -> StoredRecord:
            return self.bench.mine.create(session_id, **MODEL, ttl_secs=ttl, initial_token_count=INITIAL)

        wanted = Row("created", self.now(), ttl)
        self.taken(session_id, act, None if present else wanted, SessionExistsError)

    def step(self, session_id: str, act: Callable[[SessionRecords], StoredRecord], wanted: Row | None) -> None:
        missing = session_id not in self.model
        refused = SessionNotFoundError if missing else IllegalTransitionError
        self.taken(session_id, lambda: act(self.bench.mine), wanted, refused)

    def taken(
        self, session_id: str, act: Callable[[], StoredRecord], wanted: Row | None, refused: type[Exception]
    ) -> None:
        """Take a step; `wanted` is what it makes of the record, None if it must be refused."""
        before = self.model.get(session_id)
        try:
            stored = act()
        except UnavailableError as error:
            event(f"no answer, applied {error.applied}")
            self.calm()
            if wanted is not None and error.applied == "unknown" and self.found().get(session_id) == wanted:
                self.model[session_id] = wanted
        except refused:
            assert wanted is None
            event(f"refused: {refused.__name__}")
        else:
            assert wanted is not None, f"{before} became {stored}"
            self.model[session_id] = wanted
            assert row_of(stored) == wanted
            event(f"became {wanted.status}")

    def running(self, session_id: str, *statuses: str) -> Row | None:
        """Return the record if it is in one of these statuses and its time is not up."""
        row = self.model.get(session_id)
        return row if row and row.status in statuses and not row.due(self.now()) else None

    @rule(session_id=st.sampled_from(SESSIONS))
    def activate(self, session_id: str) -> None:
        row, now = self.running(session_id, "created"), self.now()
        self.step(
            session_id, lambda one: one.activate(session_id), row and replace(row, status="active", activated=now)
        )

    @rule(session_id=st.sampled_from(SESSIONS), tokens=st.integers(0, 50), rounds=st.integers(0, 2))
    def record_delta(self, session_id: str, tokens: int, rounds: int) -> None:
        row = self.running(session_id, "active")
        wanted = row and replace(row, tokens=row.tokens + tokens, rounds=row.rounds + rounds)
        self.step(session_id, lambda one: one.record_delta(session_id, tokens, rounds=rounds), wanted)

    @rule(session_id=st.sampled_from(SESSIONS))
    def close(self, session_id: str) -> None:
        row, now = self.running(session_id, "active"), self.now()
        self.step(session_id, lambda one: one.close(session_id), row and replace(row, status="closed", closed=now))

    @rule(session_id=st.sampled_from(SESSIONS))
    def expire(self, session_id: str) -> None:
        row, now = self.model.get(session_id), self.now()
        wanted = replace(row, status="expired", closed=now) if row and row.due(now) else None
        self.step(session_id, lambda one: one.expire(session_id), wanted)

    # The reaper.

    @rule()
    def reap_everything(self) -> None:
        now = self.now()
        due = {name for name, row in self.model.items() if row.due(now)}
        try:
            report = reap(self.bench.here)
        except UnavailableError:
            event("a reap without an answer")
            self.calm()
            found = self.found()
            due = {name for name in due if found[name].status == "expired"}
        else:
            assert (report.read, report.expired, report.skipped) == (len(self.model), len(due), 0)
        for name in due:
            self.model[name] = replace(self.model[name], status="expired", closed=now)

    @rule()
    def list_through_faults(self) -> None:
        try:
            listing = self.bench.mine.list()
            found = {one.session_id for one in listing}
        except UnavailableError:
            return
        assert found == self.model.keys()
        assert listing.read == len(found)

    # The comparison.

    def found(self) -> dict[str, Row]:
        return {stored.session_id: row_of(stored) for stored in self.bench.theirs.list()}

    @invariant()
    def store_and_model_agree(self) -> None:
        assert self.found() == self.model
        now = self.now()
        due = {name for name, row in self.model.items() if row.due(now)}
        assert {one.session_id for one in plan_reap(self.bench.there).due} == due


def row_of(stored: StoredRecord) -> Row:
    record = stored.record
    assert (record.provider_id, record.model, record.tenant_id) == (*MODEL.values(), "default")
    assert record.tokens_saved == max(0, record.round_count * INITIAL - record.delta_token_count)
    assert isinstance(stored.status, SessionStatus)

    def seconds(name: str) -> float | None:
        at = getattr(record, name)
        return None if at is None else (at - after(0)).total_seconds()

    created = seconds("created_at")
    assert created is not None
    return Row(
        stored.status.value,
        created,
        record.ttl_secs,
        seconds("activated_at"),
        seconds("closed_at"),
        record.round_count,
        record.delta_token_count,
    )


TestRecords = Records.TestCase
TestRecords.settings = settings(
    max_examples=150,
    stateful_step_count=40,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
