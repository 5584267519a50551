"""Compare-and-swap under every fault: never two writes, never a wrong yes, never a wrong no."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from storage.backends.memory import MemoryStore
from storage.errors import NotFoundError, PermissionDeniedError, PreconditionFailedError, UnavailableError
from storage.registers import ATTEMPTS_MAX, REGISTER_BYTES_MAX, Register
from storage.store import Create, ObjectStore, Replace, Version
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Delay,
    Deny,
    FailBefore,
    Fault,
    FaultPlan,
    FaultyStore,
    LoseAnswer,
    Meanwhile,
    OwnRetry,
    Repeat,
)

KEY = "register"
MINE, THEIRS, OLD = b"mine, write 1", b"theirs, write 2", b"old, write 0"


@dataclass
class Bench:
    """A register on a faulty store, and the store behind it."""

    behind: MemoryStore
    faulty: FaultyStore
    clock: ManualClock
    expected: Version | None

    @classmethod
    def new(cls, *, exists: bool) -> Bench:
        behind = MemoryStore()
        expected = behind.put(KEY, OLD, Create()) if exists else None
        return cls(behind, FaultyStore(behind, FaultPlan()), ManualClock(), expected)

    def swap(self, value: bytes = MINE) -> Version:
        return Register(self.faulty, KEY, self.clock).compare_and_swap(self.expected, value)

    def stored(self) -> bytes | None:
        try:
            return self.behind.get(KEY).data
        except NotFoundError:
            return None

    def before(self) -> bytes | None:
        return None if self.expected is None else OLD

    def overwritten_by_them(self) -> None:
        _replace(self.behind, THEIRS)

    def puts(self) -> int:
        return sum(request.verb == "put" for request in self.faulty.log)


def _replace(store: ObjectStore, value: bytes) -> None:
    try:
        store.put(KEY, value, Replace(store.get(KEY).version))
    except NotFoundError:
        store.put(KEY, value, Create())


@pytest.fixture(params=[False, True], ids=["create", "replace"])
def bench(request: pytest.FixtureRequest) -> Bench:
    return Bench.new(exists=request.param)


FAULTS: list[Fault] = [
    FailBefore(applied="no"),
    FailBefore(applied="unknown"),
    LoseAnswer(),
    Delay(),
    Delay(after_requests=1),
    Delay(after_requests=2),
    Delay(after_requests=5),
    OwnRetry(),
    Repeat(),
    Repeat(after_requests=1),
]
EVERY = pytest.mark.parametrize("fault", FAULTS, ids=str)


def test_without_faults_it_is_one_request(bench: Bench) -> None:
    version = bench.swap()
    assert bench.behind.get(KEY).version == version
    assert bench.stored() == MINE
    assert len(bench.faulty.log) == 1
    assert bench.clock.sleeps == []


@EVERY
@pytest.mark.parametrize("times", [1, 2, 3, ATTEMPTS_MAX - 1])
def test_a_fault_alone_never_hides_a_write(bench: Bench, fault: Fault, times: int) -> None:
    bench.faulty.plan.on("put", fault=fault, times=times)
    version = bench.swap()
    assert bench.stored() == MINE
    assert bench.behind.get(KEY).version == version
    bench.faulty.release()
    assert bench.behind.get(KEY).version == version


@EVERY
def test_a_late_copy_of_our_write_never_undoes_the_next(bench: Bench, fault: Fault) -> None:
    bench.faulty.plan.on("put", fault=fault)
    version = bench.swap()
    Register(bench.behind, KEY, bench.clock).compare_and_swap(version, THEIRS)
    bench.faulty.release()
    assert bench.stored() == THEIRS


@EVERY
def test_another_writer_before_us_is_a_conflict_and_stays(bench: Bench, fault: Fault) -> None:
    bench.overwritten_by_them()
    if not isinstance(fault, OwnRetry):  # it needs a write of ours to answer
        bench.faulty.plan.on("put", fault=fault)
    with pytest.raises(PreconditionFailedError):
        bench.swap()
    bench.faulty.release()
    assert bench.stored() == THEIRS


def test_another_writer_while_we_ask_is_a_conflict_and_stays(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=Meanwhile(bench.overwritten_by_them))
    with pytest.raises(PreconditionFailedError):
        bench.swap()
    assert bench.stored() == THEIRS


@EVERY
def test_another_writer_between_a_fault_and_the_reading(bench: Bench, fault: Fault) -> None:
    bench.faulty.plan.on("put", fault=fault)
    bench.faulty.plan.on("get", fault=Meanwhile(bench.overwritten_by_them))
    if isinstance(fault, Repeat):
        version = bench.swap()  # was answered: nothing is read
        assert bench.behind.get(KEY).version == version
        return
    with pytest.raises(PreconditionFailedError):
        bench.swap()
    bench.faulty.release()
    assert bench.stored() == THEIRS


def test_an_answered_write_is_never_sent_again(bench: Bench) -> None:
    bench.swap()
    assert bench.puts() == 1


@pytest.mark.parametrize("fault", [LoseAnswer(), OwnRetry()], ids=str)
def test_a_landed_write_is_recognised_and_not_sent_again(bench: Bench, fault: Fault) -> None:
    bench.faulty.plan.on("put", fault=fault)
    bench.swap()
    assert bench.puts() == 1


@pytest.mark.parametrize(("applied", "said"), [("no", "no"), ("unknown", "unknown")])
def test_giving_up_says_whether_a_write_may_have_landed(bench: Bench, applied: str, said: str) -> None:
    fault = FailBefore(applied="no") if applied == "no" else FailBefore(applied="unknown")
    bench.faulty.plan.on("put", fault=fault, times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.swap()
    assert caught.value.applied == said
    assert bench.puts() == ATTEMPTS_MAX
    assert len(bench.faulty.log) <= 2 * ATTEMPTS_MAX
    assert len(bench.clock.sleeps) == ATTEMPTS_MAX - 1
    assert bench.stored() == bench.before()


@pytest.mark.parametrize("fault", [LoseAnswer(), Delay(), FailBefore(applied="unknown")], ids=str)
def test_reads_that_fail_never_turn_a_lost_answer_into_a_no(bench: Bench, fault: Fault) -> None:
    bench.faulty.plan.on("put", fault=fault)
    bench.faulty.plan.on("put", nth=2, fault=FailBefore(applied="no"), times=None)
    bench.faulty.plan.on("get", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.swap()
    assert caught.value.applied == "unknown"
    assert len(bench.faulty.log) <= 2 * ATTEMPTS_MAX


def test_reads_that_fail_after_refused_writes_are_a_no(bench: Bench) -> None:
    bench.faulty.plan.on("*", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.swap()
    assert caught.value.applied == "no"
    assert bench.stored() == bench.before()


def test_a_lost_answer_with_lost_reads_is_found_when_reads_come_back(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=LoseAnswer())
    bench.faulty.plan.on("get", fault=FailBefore(), times=3)
    version = bench.swap()
    assert bench.behind.get(KEY).version == version
    assert bench.stored() == MINE


def test_a_refusal_passes_through(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=Deny())
    with pytest.raises(PermissionDeniedError):
        bench.swap()
    assert bench.stored() == bench.before()


def test_equal_contents_in_between_are_not_mistaken_for_the_expected_version() -> None:
    bench = Bench.new(exists=True)
    bench.overwritten_by_them()
    with pytest.raises(PreconditionFailedError):
        bench.swap()


@pytest.mark.parametrize("seed", range(150))
def test_what_is_answered_is_what_happened(seed: int) -> None:
    bench = Bench.new(exists=bool(seed % 2))
    plan = FaultPlan(seed)
    for fault in FAULTS:
        plan.at_random("put", fault=fault, probability=0.1)
    plan.at_random("get", fault=FailBefore(), probability=0.2)
    if seed % 3 == 0:
        plan.at_random("get", fault=Meanwhile(bench.overwritten_by_them), probability=0.1)
    bench.faulty.plan = plan
    history = _recorded(bench.behind)
    outcome = _outcome(bench)
    plan.clear()
    bench.faulty.release()
    mine = history().count(MINE)
    assert mine <= 1, "never two writes"
    assert outcome != "yes" or mine == 1, "never a wrong yes"
    assert outcome != "no" or mine == 0, "never a wrong no"


def _outcome(bench: Bench) -> str:
    try:
        bench.swap()
    except PreconditionFailedError:
        return "conflict"  # ours may have been applied before theirs
    except UnavailableError as error:
        return error.applied
    return "yes"


def _recorded(store: MemoryStore) -> Callable[[], list[bytes]]:
    """Record every value that is stored from now on."""
    values: list[bytes] = []
    put = store.put

    def recording(*arguments: object) -> Version:
        version = put(*arguments)  # type: ignore[arg-type]  # passed on as they are
        data = arguments[1]
        assert isinstance(data, bytes)
        values.append(data)
        return version

    store.put = recording  # type: ignore[method-assign, assignment]  # this instance only
    return lambda: values


def test_one_attempt_leaves_the_meaning_to_its_caller(bench: Bench) -> None:
    bench.faulty.plan.on("put", fault=LoseAnswer())
    with pytest.raises(UnavailableError):
        Register(bench.faulty, KEY, bench.clock).swap_once(bench.expected, MINE)
    assert len(bench.faulty.log) == 1


def test_a_register_has_a_greatest_size(bench: Bench) -> None:
    with pytest.raises(AssertionError, match="limit"):
        bench.swap(bytes(REGISTER_BYTES_MAX + 1))
    bench.swap(bytes(REGISTER_BYTES_MAX))


def test_reading_nothing_is_not_found() -> None:
    with pytest.raises(NotFoundError):
        Register(MemoryStore(), KEY, ManualClock()).read()
