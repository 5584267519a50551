"""The turn in flight: found again by the next owner, closed to the former one, each effect recorded once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import PersistedSessionState, SnapshotRepository, codec
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    EffectConflictError,
    FencedError,
    IllegalTransitionError,
    InvalidStateError,
    LimitExceededError,
    SessionDeletedError,
    SnapshotError,
    UnsupportedSchemaError,
)
from snapshots.layout import Layout
from snapshots.turns import ATTEMPTS_MAX, TURN_BYTES_MAX, Effect, NotRecorded, TurnJournal, TurnRecord, take_over
from storage.backends.memory import MemoryStore
from storage.clock import SystemClock
from storage.errors import InvalidKeyError, PermissionDeniedError, UnavailableError
from storage.registers import REGISTER_BYTES_MAX
from storage.store import Create, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Delay,
    Deny,
    FailBefore,
    Fault,
    FaultyStore,
    LoseAnswer,
    Meanwhile,
    Missing,
)
from tests.faults import WRITE_FAULTS
from tests.snapshots.records import hex_ids, session_ids, texts

SESSION, TURN = "s1", "turn-7"


@dataclass
class Bench:
    """An environment on a faulty store, another on the store behind it, and the store."""

    behind: MemoryStore
    faulty: FaultyStore
    clock: ManualClock
    here: Environment
    there: Environment

    def mine(self, *, above: int = 0) -> TurnJournal:
        return take_over(self.here, SESSION, above=above, nonce=self.clock.new_id())

    def theirs(self) -> TurnJournal:
        return take_over(self.there, SESSION, above=0, nonce=self.clock.new_id())

    def in_turn(self) -> TurnJournal:
        journal = self.mine()
        journal.begin(TURN)
        return journal

    def key(self) -> str:
        return self.here.layout.turns(SESSION)

    def stored(self) -> bytes:
        return self.behind.get(self.key()).data

    def record(self) -> TurnRecord:
        return TurnRecord.decode(self.stored(), key=self.key())

    def store(self, data: bytes) -> None:
        self.behind.put(self.key(), data, Overwrite())

    def altered(self, **fields: Any) -> None:
        plain = codec.decode(codec.unguarded(self.stored(), key=self.key()), key=self.key())
        self.store(codec.guarded(codec.encode({**plain, **fields})))

    def puts(self) -> int:
        return sum(request.verb == "put" for request in self.faulty.log)


@pytest.fixture
def bench() -> Iterator[Bench]:
    behind, clock = MemoryStore(), ManualClock()
    faulty = FaultyStore(behind)
    with ThreadPoolExecutor(1) as executor:
        here = Environment(faulty, Layout("default"), clock, executor)
        yield Bench(behind, faulty, clock, here, replace(here, store=behind))


def never() -> bytes:
    raise AssertionError("this effect must not run")


Step = Callable[[TurnJournal], object]
STEPS: dict[str, Step] = {
    "begin": lambda journal: journal.begin(TURN),
    "save_checkpoint": lambda journal: journal.save_checkpoint(b"checkpoint"),
    "record": lambda journal: journal.record("mail", "h1", b"sent"),
    "perform": lambda journal: journal.perform("post", "h2", lambda: b"posted"),
    "finish": lambda journal: journal.finish(),
    "abandon": lambda journal: journal.abandon(),
}
EACH_STEP = pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
EVERY = pytest.mark.parametrize("fault", WRITE_FAULTS, ids=str)


# Taking over.


def test_the_first_take_over_creates_the_register(bench: Bench) -> None:
    nonce = bench.clock.new_id()
    journal = take_over(bench.here, SESSION, above=4, nonce=nonce)
    assert (journal.fence, journal.nonce) == (5, nonce)
    assert (journal.turn_id, journal.checkpoint, dict(journal.effects)) == ("", b"", {})
    assert [row.key for row in bench.behind.list("")] == [bench.key()]
    assert (bench.record().fence, bench.record().nonce) == (5, nonce)
    assert len(bench.faulty.log) == 2


@pytest.mark.parametrize(("above", "fence"), [(0, 4), (2, 4), (3, 4), (4, 5), (9, 10)])
def test_a_take_over_goes_above_both_fences(bench: Bench, above: int, fence: int) -> None:
    bench.mine(above=2)
    assert bench.mine(above=above).fence == fence


def test_a_take_over_keeps_the_turn_in_flight(bench: Bench) -> None:
    old = bench.in_turn()
    old.perform("mail", "h1", lambda: b"sent")
    old.save_checkpoint(b"half way")
    new = bench.theirs()
    assert (new.turn_id, new.checkpoint) == (TURN, b"half way")
    assert dict(new.effects) == {"mail": Effect("h1", b"sent")}
    new.begin(TURN)
    assert new.perform("mail", "h1", never) == b"sent"


@EACH_STEP
def test_superseded_runtime_turn_lease_cannot_write_or_clear_newer_owner(bench: Bench, step: Step) -> None:
    old = bench.in_turn()
    new = bench.theirs()
    new.record("mail", "h1", b"sent")
    before = bench.stored()
    for _ in range(2):
        with pytest.raises(FencedError) as caught:
            step(old)
        assert (caught.value.session_id, caught.value.fence, caught.value.holder) == (SESSION, new.fence, "")
    assert bench.stored() == before
    assert dict(old.effects) == {}  # what the newer owner did is not the older one's to report


def test_an_owner_without_a_turn_is_fenced_as_well(bench: Bench) -> None:
    old = bench.mine()
    new = bench.theirs()
    new.begin(TURN)
    for step in (old.finish, old.abandon):
        with pytest.raises(FencedError):
            step()
    assert bench.record().turn_id == TURN


@EVERY
@pytest.mark.parametrize("exists", [False, True])
def test_a_fault_never_hides_a_take_over(bench: Bench, fault: Fault, exists: bool) -> None:
    fence = 1
    if exists:
        bench.in_turn()
        fence = 2
    bench.faulty.plan.on("put", fault=fault)
    journal = bench.mine()
    assert journal.fence == fence
    bench.faulty.release()
    assert (bench.record().fence, bench.record().nonce) == (fence, journal.nonce)
    journal.begin(TURN)


def test_two_take_overs_at_the_same_time_get_different_fences(bench: Bench) -> None:
    others: list[TurnJournal] = []
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: others.append(bench.theirs())))
    mine = bench.mine()
    assert (others[0].fence, mine.fence) == (1, 2)
    with pytest.raises(FencedError):
        others[0].begin(TURN)
    mine.begin(TURN)


def test_threads_that_take_over_together_get_different_fences() -> None:
    clock = SystemClock()
    with ThreadPoolExecutor(4) as pool:
        environment = Environment(MemoryStore(), Layout("default"), clock, pool)
        journals = list(pool.map(lambda _: take_over(environment, SESSION, above=0, nonce=clock.new_id()), range(4)))
    assert len({journal.fence for journal in journals}) == 4
    last = max(journals, key=lambda journal: journal.fence)
    last.begin(TURN)
    for journal in journals:
        if journal is not last:
            with pytest.raises(FencedError):
                journal.begin(TURN)


def test_a_take_over_that_landed_and_was_overtaken_goes_above(bench: Bench) -> None:
    others: list[TurnJournal] = []
    plan = bench.faulty.plan
    plan.on("put", fault=LoseAnswer()).on("get", nth=2, fault=Meanwhile(lambda: others.append(bench.theirs())))
    assert bench.mine().fence == 3
    assert others[0].fence == 2


def test_a_take_over_among_endless_others_is_bounded(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=Meanwhile(bench.theirs), times=None)
    with pytest.raises(UnavailableError, match="no write was confirmed") as caught:
        bench.mine()
    assert caught.value.applied == "unknown"
    assert bench.puts() == ATTEMPTS_MAX


def test_a_take_over_repeated_with_its_nonce_keeps_its_fence(bench: Bench) -> None:
    nonce = bench.clock.new_id()
    assert take_over(bench.here, SESSION, above=0, nonce=nonce).fence == 1
    assert take_over(bench.here, SESSION, above=0, nonce=nonce).fence == 1
    assert take_over(bench.here, SESSION, above=1, nonce=nonce).fence == 2


# The turn.


def test_beginning_the_same_turn_again_continues_it(bench: Bench) -> None:
    journal = bench.in_turn()
    journal.record("mail", "h1", b"sent")
    journal.begin(TURN)
    assert dict(journal.effects) == {"mail": Effect("h1", b"sent")}


def test_another_unfinished_turn_is_in_the_way(bench: Bench) -> None:
    journal = bench.in_turn()
    before = bench.stored()
    with pytest.raises(IllegalTransitionError, match=TURN):
        journal.begin("turn-8")
    assert bench.stored() == before
    assert journal.turn_id == TURN


@pytest.mark.parametrize("turn_id", ["", "a\x00", "\ud800", "x" * 513])
def test_what_is_no_turn_id_begins_nothing(bench: Bench, turn_id: str) -> None:
    journal = bench.mine()
    puts = bench.puts()
    with pytest.raises((InvalidKeyError, LimitExceededError)):
        journal.begin(turn_id)
    assert bench.puts() == puts


@pytest.mark.parametrize("step", [STEPS["save_checkpoint"], STEPS["record"]], ids=["save_checkpoint", "record"])
def test_without_a_turn_nothing_is_saved(bench: Bench, step: Step) -> None:
    journal = bench.mine()
    puts = bench.puts()
    with pytest.raises(IllegalTransitionError):
        step(journal)
    with pytest.raises(IllegalTransitionError):
        journal.perform("mail", "h1", never)
    assert bench.puts() == puts


@pytest.mark.parametrize("end", ["finish", "abandon"])
def test_the_end_of_a_turn_clears_it_and_keeps_the_fence(bench: Bench, end: str) -> None:
    journal = bench.mine(above=6)
    journal.begin(TURN)
    journal.save_checkpoint(b"half way")
    journal.record("mail", "h1", b"sent")
    getattr(journal, end)()
    found = bench.record()
    assert (found.fence, found.nonce) == (7, journal.nonce)
    assert (found.turn_id, found.checkpoint, dict(found.effects)) == ("", b"", {})
    assert (journal.turn_id, journal.checkpoint, dict(journal.effects)) == ("", b"", {})
    getattr(journal, end)()
    journal.begin("turn-8")
    assert journal.outcome("mail", "other") == NotRecorded("mail")


def test_a_checkpoint_replaces_the_one_before(bench: Bench) -> None:
    journal = bench.in_turn()
    journal.save_checkpoint(b"one")
    journal.save_checkpoint(b"two")
    assert journal.checkpoint == b"two"
    assert bench.theirs().checkpoint == b"two"


def test_a_checkpoint_larger_than_the_register_is_refused_and_the_one_before_stays(bench: Bench) -> None:
    journal = bench.in_turn()
    journal.save_checkpoint(b"small")
    before = bench.stored()
    with pytest.raises(LimitExceededError) as caught:
        journal.save_checkpoint(bytes(REGISTER_BYTES_MAX))
    assert caught.value.value > REGISTER_BYTES_MAX
    assert bench.stored() == before
    assert journal.checkpoint == b"small"
    journal.record("mail", "h1", b"sent")


def test_a_full_register_can_still_be_taken_over(bench: Bench) -> None:
    journal = bench.in_turn()
    journal.save_checkpoint(b"")
    journal.save_checkpoint(bytes(TURN_BYTES_MAX - len(bench.stored()) - 4))
    assert len(bench.stored()) == TURN_BYTES_MAX
    with pytest.raises(LimitExceededError):
        journal.record("mail", "h1", b"sent")
    new = bench.mine(above=1 << 62)
    assert new.checkpoint == journal.checkpoint
    new.abandon()
    assert len(bench.stored()) < 1024


# Effects.


def test_runtime_effect_journal_replays_by_idempotency_key_and_clears_on_finish(bench: Bench) -> None:
    journal = bench.in_turn()
    calls: list[int] = []

    def send() -> bytes:
        calls.append(1)
        return b"sent"

    assert journal.perform("mail", "h1", send) == b"sent"
    assert journal.perform("mail", "h1", send) == b"sent"
    assert bench.theirs().perform("mail", "h1", never) == b"sent"
    assert len(calls) == 1
    last = bench.theirs()
    last.finish()
    last.begin("turn-8")
    assert last.outcome("mail", "h1") == NotRecorded("mail")


def test_abandon_runtime_turn_lease_releases_owner_and_preserves_resume_data_of_others(bench: Bench) -> None:
    other = take_over(bench.here, "s2", above=0, nonce=bench.clock.new_id())
    other.begin(TURN)
    other.record("mail", "h1", b"sent")
    bench.in_turn().abandon()
    again = take_over(bench.here, "s2", above=0, nonce=bench.clock.new_id())
    assert (again.turn_id, dict(again.effects)) == (TURN, {"mail": Effect("h1", b"sent")})


def test_the_same_outcome_again_is_silent(bench: Bench) -> None:
    journal = bench.in_turn()
    journal.record("mail", "h1", b"sent")
    journal.record("mail", "h1", b"sent")
    assert dict(bench.record().effects) == {"mail": Effect("h1", b"sent")}


@pytest.mark.parametrize(("content_hash", "result"), [("h2", b"sent"), ("h1", b"bounced"), ("h2", b"bounced")])
def test_another_outcome_of_the_same_key_conflicts(bench: Bench, content_hash: str, result: bytes) -> None:
    journal = bench.in_turn()
    journal.record("mail", "h1", b"sent")
    before = bench.stored()
    with pytest.raises(EffectConflictError) as caught:
        journal.record("mail", content_hash, result)
    assert (caught.value.session_id, caught.value.turn_id, caught.value.key) == (SESSION, TURN, "mail")
    assert bench.stored() == before


def test_another_call_of_the_same_key_conflicts_and_is_not_made(bench: Bench) -> None:
    journal = bench.in_turn()
    journal.record("mail", "h1", b"sent")
    with pytest.raises(EffectConflictError):
        journal.outcome("mail", "h2")
    with pytest.raises(EffectConflictError):
        journal.perform("mail", "h2", never)
    assert journal.outcome("mail", "h1") == Effect("h1", b"sent")


def test_outcomes_keep_their_order(bench: Bench) -> None:
    journal = bench.in_turn()
    for key in ("b", "a", "c"):
        journal.record(key, "h", key.encode())
    assert list(journal.effects) == ["b", "a", "c"]
    assert list(bench.theirs().effects) == ["b", "a", "c"]


@pytest.mark.parametrize("key", ["", "a\n", "\ud800", "x" * 513])
def test_what_is_no_effect_key_is_refused_before_the_effect(bench: Bench, key: str) -> None:
    journal = bench.in_turn()
    with pytest.raises(InvalidKeyError, match="effect key"):
        journal.perform(key, "h1", never)
    with pytest.raises(InvalidKeyError, match="effect key"):
        journal.record(key, "h1", b"sent")


@pytest.mark.parametrize("content_hash", ["\ud800", None, b"h1"])
def test_what_is_no_text_is_no_hash(bench: Bench, content_hash: Any) -> None:
    journal = bench.in_turn()
    with pytest.raises(InvalidStateError):
        journal.perform("mail", content_hash, never)
    with pytest.raises(InvalidStateError):
        journal.record("mail", content_hash, b"sent")


@pytest.mark.parametrize("value", ["sent", None, bytearray(b"sent"), 7])
def test_what_is_no_bytes_is_not_saved(bench: Bench, value: Any) -> None:
    journal = bench.in_turn()
    before = bench.stored()
    for act in (
        lambda: journal.record("mail", "h1", value),
        lambda: journal.perform("mail", "h1", lambda: value),
        lambda: journal.save_checkpoint(value),
    ):
        with pytest.raises(InvalidStateError, match="is bytes"):
            act()
    assert bench.stored() == before


def test_an_effect_that_raises_is_not_recorded(bench: Bench) -> None:
    journal = bench.in_turn()

    def fail() -> bytes:
        raise RuntimeError("no route")

    with pytest.raises(RuntimeError, match="no route"):
        journal.perform("mail", "h1", fail)
    assert journal.perform("mail", "h1", lambda: b"sent") == b"sent"


def test_an_effect_whose_outcome_could_not_be_saved_is_not_run_again(bench: Bench) -> None:
    journal = bench.in_turn()
    bench.faulty.plan.on("*", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError) as caught:
        journal.perform("mail", "h1", lambda: b"sent")
    assert caught.value.applied == "no"
    bench.faulty.plan.clear()
    with pytest.raises(EffectConflictError):
        journal.perform("mail", "h2", never)
    assert journal.perform("mail", "h1", never) == b"sent"
    assert bench.record().effects["mail"] == Effect("h1", b"sent")


def test_an_abandoned_turn_forgets_what_it_could_not_save(bench: Bench) -> None:
    journal = bench.in_turn()
    with pytest.raises(LimitExceededError):
        journal.perform("mail", "h1", lambda: bytes(REGISTER_BYTES_MAX))
    journal.abandon()
    journal.begin(TURN)
    assert journal.perform("mail", "h1", lambda: b"sent") == b"sent"


# Saves under faults.


def saved(journal: TurnJournal) -> tuple[str, bytes, dict[str, Effect]]:
    return journal.turn_id, journal.checkpoint, dict(journal.effects)


@EVERY
@EACH_STEP
@pytest.mark.parametrize("times", [1, 3])
def test_a_fault_never_hides_a_save(bench: Bench, step: Step, fault: Fault, times: int) -> None:
    journal = bench.in_turn()
    bench.faulty.plan.on("put", fault=fault, times=times)
    step(journal)
    bench.faulty.release()
    found = bench.record()
    assert (found.turn_id, found.checkpoint, dict(found.effects)) == saved(journal)
    assert (found.fence, found.nonce) == (journal.fence, journal.nonce)


@EACH_STEP
def test_a_save_without_faults_is_one_request(bench: Bench, step: Step) -> None:
    journal = bench.in_turn()
    count = len(bench.faulty.log)
    step(journal)
    assert len(bench.faulty.log) == count + 1
    assert bench.clock.sleeps == []


@EACH_STEP
def test_a_late_save_never_undoes_the_next_owner(bench: Bench, step: Step) -> None:
    journal = bench.in_turn()
    bench.faulty.plan.on("put", fault=Delay(), times=None).on("get", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError) as caught:
        step(journal)
    assert caught.value.applied == "unknown"
    new = bench.theirs()
    new.record("call", "h3", b"called")
    before = bench.stored()
    bench.faulty.release()
    assert bench.stored() == before


def test_a_late_save_of_our_own_is_kept_by_the_next_one(bench: Bench) -> None:
    journal = bench.in_turn()
    bench.faulty.plan.on("put", fault=Delay(), times=None).on("get", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        journal.record("mail", "h1", b"sent")
    bench.faulty.plan.clear()
    bench.faulty.release()
    journal.record("post", "h2", b"posted")
    assert dict(journal.effects) == {"mail": Effect("h1", b"sent"), "post": Effect("h2", b"posted")}
    assert dict(bench.record().effects) == dict(journal.effects)


def test_a_lost_answer_is_recognised_and_not_sent_again(bench: Bench) -> None:
    journal = bench.in_turn()
    count = bench.puts()
    bench.faulty.plan.on("put", fault=LoseAnswer())
    journal.record("mail", "h1", b"sent")
    assert bench.puts() == count + 1


def test_a_lost_answer_to_the_last_attempt_is_recognised(bench: Bench) -> None:
    journal = bench.in_turn()
    plan = bench.faulty.plan
    plan.on("put", fault=FailBefore(), times=ATTEMPTS_MAX - 1).on("put", nth=ATTEMPTS_MAX, fault=LoseAnswer())
    journal.record("mail", "h1", b"sent")
    assert bench.record().effects == journal.effects


def test_a_beginning_in_doubt_is_seen_by_the_next(bench: Bench) -> None:
    journal = bench.mine()
    bench.faulty.plan.on("put", fault=LoseAnswer(), times=None).on("get", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        journal.begin(TURN)
    bench.faulty.plan.clear()
    with pytest.raises(IllegalTransitionError, match=TURN):
        journal.begin("turn-8")
    assert journal.turn_id == TURN
    journal.record("mail", "h1", b"sent")


def test_a_beginning_in_doubt_can_be_abandoned(bench: Bench) -> None:
    journal = bench.mine()
    bench.faulty.plan.on("put", fault=LoseAnswer(), times=None).on("get", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        journal.begin(TURN)
    bench.faulty.plan.clear()
    assert journal.turn_id == ""
    journal.abandon()
    assert bench.record().turn_id == ""
    journal.begin("turn-8")


def test_two_threads_of_one_owner_merge(bench: Bench) -> None:
    one = bench.in_turn()
    two = take_over(bench.there, SESSION, above=0, nonce=one.nonce)
    two.record("post", "h2", b"posted")
    one.record("mail", "h1", b"sent")
    one.save_checkpoint(b"half way")
    two.record("call", "h3", b"called")
    assert dict(two.effects) == dict(bench.record().effects)
    assert list(two.effects) == ["post", "mail", "call"]
    assert two.checkpoint == b"half way"
    with pytest.raises(EffectConflictError):
        one.record("call", "h3", b"refused")


def test_an_outcome_never_enters_another_turn(bench: Bench) -> None:
    one = bench.in_turn()
    two = take_over(bench.there, SESSION, above=0, nonce=one.nonce)
    two.finish()
    two.begin("turn-8")
    before = bench.stored()
    with pytest.raises(IllegalTransitionError, match="over"):
        one.record("mail", "h1", b"sent")
    assert bench.stored() == before


def test_the_end_of_one_turn_never_clears_the_next(bench: Bench) -> None:
    one = bench.in_turn()
    two = take_over(bench.there, SESSION, above=0, nonce=one.nonce)
    two.finish()
    two.begin("turn-8")
    two.record("mail", "h1", b"sent")
    one.finish()
    assert bench.record().turn_id == "turn-8"
    assert dict(bench.record().effects) == {"mail": Effect("h1", b"sent")}


class InterruptedClock(ManualClock):
    """Starts another thread's work while an id is drawn: between the reading of a record and its writing."""

    def __init__(self) -> None:
        super().__init__(seed=1)
        self.work: list[threading.Thread] = []

    def new_id(self) -> str:
        if self.work and not self.work[0].is_alive():
            thread = self.work.pop()
            thread.start()
            thread.join(timeout=0.2)  # returns early only if nothing keeps the other thread out
        return super().new_id()


def test_a_second_thread_waits_for_the_save_of_the_first(bench: Bench) -> None:
    clock = InterruptedClock()
    journal = take_over(replace(bench.here, clock=clock), SESSION, above=0, nonce=clock.new_id())
    journal.begin(TURN)
    other = threading.Thread(target=journal.record, args=("post", "h2", b"posted"))
    clock.work.append(other)
    journal.record("mail", "h1", b"sent")
    other.join()
    assert list(bench.record().effects) == ["mail", "post"]


def test_many_threads_lose_no_outcome(bench: Bench) -> None:
    journal = bench.in_turn()
    start = threading.Barrier(4)

    def work(number: int) -> None:
        start.wait()
        for index in range(10):
            journal.perform(f"{number}.{index}", "h", lambda: b"done")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(work, range(4)))
    assert len(bench.record().effects) == 40


def test_endless_contention_is_bounded_and_says_what_is_unknown(bench: Bench) -> None:
    journal = bench.in_turn()
    two = take_over(bench.there, SESSION, above=0, nonce=journal.nonce)
    count = bench.puts()
    bench.faulty.plan.on("put", fault=Meanwhile(lambda: two.save_checkpoint(b"x")), times=None)
    with pytest.raises(UnavailableError, match="no write was confirmed") as caught:
        journal.record("mail", "h1", b"sent")
    assert caught.value.applied == "unknown"
    assert bench.puts() == count + ATTEMPTS_MAX
    assert len(bench.clock.sleeps) == ATTEMPTS_MAX - 1


def test_being_fenced_in_the_last_attempt_is_no_doubt(bench: Bench) -> None:
    journal = bench.in_turn()
    plan = bench.faulty.plan
    plan.on("put", fault=FailBefore(applied="unknown"), times=ATTEMPTS_MAX - 1)
    plan.on("put", nth=ATTEMPTS_MAX, fault=Meanwhile(bench.theirs))
    with pytest.raises(FencedError):
        journal.record("mail", "h1", b"sent")


def test_a_store_that_does_not_answer_applied_nothing(bench: Bench) -> None:
    journal = bench.in_turn()
    bench.faulty.plan.on("*", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        journal.record("mail", "h1", b"sent")
    assert caught.value.applied == "no"
    assert dict(journal.effects) == {}


def test_a_refusal_of_the_store_passes_through(bench: Bench) -> None:
    journal = bench.in_turn()
    bench.faulty.plan.on("put", fault=Deny())
    with pytest.raises(PermissionDeniedError):
        journal.record("mail", "h1", b"sent")
    journal.record("mail", "h1", b"sent")


# What is stored.


@given(
    st.builds(
        TurnRecord,
        session_id=session_ids,
        tenant=session_ids,
        write_id=hex_ids,
        fence=st.integers(1, (1 << 64) - 1),
        nonce=hex_ids,
        turn_id=session_ids,
        checkpoint=st.binary(max_size=40),
        effects=st.dictionaries(session_ids, st.builds(Effect, texts, st.binary(max_size=20)), max_size=4),
    )
)
def test_a_record_reads_back(record: TurnRecord) -> None:
    assert TurnRecord.decode(record.encode(), key="k") == record


def test_a_moved_record_is_corruption(bench: Bench) -> None:
    bench.in_turn()
    elsewhere = replace(bench.here, layout=Layout("other"))
    bench.behind.put(bench.here.layout.turns("s2"), bench.stored(), Create())
    bench.behind.put(elsewhere.layout.turns(SESSION), bench.stored(), Create())
    for environment, session_id in ((bench.here, "s2"), (elsewhere, SESSION)):
        with pytest.raises(CorruptSnapshotError, match="moved here") as caught:
            take_over(environment, session_id, above=0, nonce=bench.clock.new_id())
        assert caught.value.key == environment.layout.turns(session_id)


def test_a_record_moved_under_a_journal_is_corruption(bench: Bench) -> None:
    journal = bench.in_turn()
    bench.altered(session_id="s2")
    with pytest.raises(CorruptSnapshotError, match="'s2'"):
        journal.record("mail", "h1", b"sent")


CHANGES: list[tuple[dict[str, Any], type[SnapshotError], str]] = [
    ({"checkpoint": b"altered"}, CorruptSnapshotError, "not what its hash says"),
    ({"checkpoint_hash": b"h" * 32}, CorruptSnapshotError, "not what its hash says"),
    ({"checkpoint_hash": b"h"}, CorruptSnapshotError, "checkpoint_hash"),
    ({"fence": 0}, CorruptSnapshotError, "fence"),
    ({"nonce": b"n"}, CorruptSnapshotError, "nonce"),
    ({"write_id": "w"}, CorruptSnapshotError, "write_id"),
    ({"turn_id": 7}, CorruptSnapshotError, "turn_id"),
    ({"turn_id": ""}, CorruptSnapshotError, "of no turn"),
    ({"effects": [["mail", "h1"]]}, CorruptSnapshotError, "effects"),
    ({"effects": [["mail", "h1", "sent"]]}, CorruptSnapshotError, "effects"),
    ({"effects": [["mail", b"h1", b"sent"]]}, CorruptSnapshotError, "effects"),
    ({"effects": [["", "h1", b"sent"]]}, CorruptSnapshotError, "effects"),
    ({"effects": [["a", "h", b""], ["a", "h", b""]]}, CorruptSnapshotError, "two effects of one key"),
    ({"schema_version": 2}, UnsupportedSchemaError, "schema version 2"),
    ({"unheard_of": 1}, UnsupportedSchemaError, "unheard_of"),
]


@pytest.mark.parametrize(("change", "kind", "match"), CHANGES, ids=str)
def test_what_is_no_record_of_ours_is_refused(
    bench: Bench, change: dict[str, Any], kind: type[SnapshotError], match: str
) -> None:
    bench.in_turn().save_checkpoint(b"half way")
    bench.altered(**change)
    before = bench.stored()
    with pytest.raises(kind, match=match):
        bench.mine()
    assert bench.stored() == before


def test_a_record_over_its_limit_is_refused(bench: Bench) -> None:
    bench.in_turn()
    bench.store(replace(bench.record(), checkpoint=bytes(REGISTER_BYTES_MAX)).encode(limit_bytes=1 << 30))
    with pytest.raises(CorruptSnapshotError, match="over"):
        bench.mine()


@pytest.mark.parametrize("kept_bytes", [0, 1, 20])
def test_a_truncated_record_is_corruption(bench: Bench, kept_bytes: int) -> None:
    bench.in_turn()
    bench.store(bench.stored()[:kept_bytes])
    with pytest.raises(CorruptSnapshotError):
        bench.mine()


def test_a_fence_that_fell_is_corruption(bench: Bench) -> None:
    bench.mine()
    early = bench.stored()
    journal = bench.in_turn()
    bench.store(early)
    with pytest.raises(CorruptSnapshotError, match="fence fell from 2 to 1"):
        journal.record("mail", "h1", b"sent")


# The session's end.


def test_a_register_that_went_with_its_session_says_so(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, create=True, clock=bench.clock, url="memory:") as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        journal = bench.in_turn()
        bench.behind.delete(bench.key())
        with pytest.raises(CorruptSnapshotError, match="while the session is live"):
            journal.record("mail", "h1", b"sent")
        repo.delete(SESSION)
    for step in STEPS.values():
        with pytest.raises(SessionDeletedError):
            step(journal)
    assert bench.key() not in [row.key for row in bench.behind.list("")]


def test_a_register_that_is_gone_without_a_head_is_corruption(bench: Bench) -> None:
    journal = bench.in_turn()
    bench.behind.delete(bench.key())
    with pytest.raises(CorruptSnapshotError, match="gone"):
        journal.record("mail", "h1", b"sent")


def test_a_read_that_misses_the_register_creates_none_beside_it(bench: Bench) -> None:
    bench.in_turn()
    bench.faulty.plan.on("get", fault=Missing())
    journal = bench.mine()
    assert (journal.fence, journal.turn_id) == (2, TURN)


def test_every_flipped_bit_is_found(bench: Bench) -> None:
    bench.in_turn().record("mail", "h1", b"sent")
    whole = bench.stored()
    for position in range(len(whole)):
        bench.store(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        with pytest.raises(CorruptSnapshotError):
            bench.mine()
