"""Every fault does what its docstring says, and nothing else."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

from storage import ByteRange, Create, Overwrite, Replace
from storage.backends.memory import MemoryStore
from storage.errors import NotFoundError, PermissionDeniedError, PreconditionFailedError, UnavailableError
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    CutList,
    Delay,
    Deny,
    FailBefore,
    Fault,
    FaultPlan,
    FaultyStore,
    FlipBit,
    IgnoreCondition,
    LoseAnswer,
    Meanwhile,
    Missing,
    On,
    OwnRetry,
    Repeat,
    Truncate,
)


@pytest.fixture
def raw() -> MemoryStore:
    return MemoryStore()


def faulty(raw: MemoryStore, verb: Any, fault: Fault, key_part: str = "") -> FaultyStore:
    return FaultyStore.script(raw, [On(verb, key_part, fault)])


def content(raw: MemoryStore, key: str = "a") -> bytes | None:
    try:
        return raw.get(key).data
    except NotFoundError:
        return None


def test_without_a_plan_everything_passes(raw: MemoryStore) -> None:
    store = FaultyStore(raw)
    store.put("a", b"one", Create())
    assert store.get("a", ByteRange(1, 2)).data == b"ne"
    assert [row.key for row in store.list("")] == ["a"]
    assert [(request.number, request.verb, request.fault) for request in store.log] == [
        (1, "put", None),
        (2, "get", None),
        (3, "list", None),
    ]


@pytest.mark.parametrize("applied", ["no", "unknown"])
def test_a_request_that_failed_before_wrote_nothing(raw: MemoryStore, applied: Any) -> None:
    store = faulty(raw, "put", FailBefore(applied, "409"))
    with pytest.raises(UnavailableError, match="409") as caught:
        store.put("a", b"one", Create())
    assert caught.value.applied == applied
    assert content(raw) is None


def test_a_lost_answer_leaves_the_write_behind(raw: MemoryStore) -> None:
    store = faulty(raw, "put", LoseAnswer())
    with pytest.raises(UnavailableError) as caught:
        store.put("a", io.BytesIO(b"one"), Create())
    assert caught.value.applied == "unknown"
    assert content(raw) == b"one"


def test_a_lost_refusal_looks_like_a_lost_answer(raw: MemoryStore) -> None:
    raw.put("a", b"old", Create())
    with pytest.raises(UnavailableError):
        faulty(raw, "put", LoseAnswer()).put("a", b"new", Create())
    assert content(raw) == b"old"


def test_a_delayed_write_lands_at_release_under_its_own_condition(raw: MemoryStore) -> None:
    first = raw.put("a", b"one", Create())
    store = FaultyStore.script(raw, [On("put", fault=Delay(), times=2)])
    for value in (b"two", b"three"):
        with pytest.raises(UnavailableError):
            store.put("a", value, Replace(first))
    assert content(raw) == b"one"
    landed, refused = store.release()
    assert landed == raw.stat("a").version
    assert isinstance(refused, PreconditionFailedError)
    assert content(raw) == b"two"
    assert store.release() == ()


def test_a_delayed_write_lands_after_further_requests(raw: MemoryStore) -> None:
    store = faulty(raw, "put", Delay(after_requests=2))
    with pytest.raises(UnavailableError):
        store.put("a", b"one", Create())
    for expected in (None, b"one"):
        with pytest.raises(NotFoundError):
            store.get("other")
        assert content(raw) == expected


def test_a_delayed_delete_takes_what_was_written_since(raw: MemoryStore) -> None:
    store = faulty(raw, "delete", Delay())
    with pytest.raises(UnavailableError):
        store.delete("a")
    store.put("a", b"new", Create())
    assert store.release() == (None,)
    assert content(raw) is None


def test_a_repeated_write_is_answered_and_lands_twice(raw: MemoryStore) -> None:
    store = faulty(raw, "put", Repeat())
    store.put("a", b"one", Overwrite())
    raw.put("a", b"two", Overwrite())
    store.release()
    assert content(raw) == b"one"


def test_an_own_retry_is_refused_although_it_wrote(raw: MemoryStore) -> None:
    with pytest.raises(PreconditionFailedError):
        faulty(raw, "put", OwnRetry()).put("a", b"one", Create())
    assert content(raw) == b"one"


def test_a_server_that_ignores_conditions_overwrites(raw: MemoryStore) -> None:
    raw.put("a", b"one", Create())
    faulty(raw, "put", IgnoreCondition()).put("a", b"two", Create())
    assert content(raw) == b"two"


@pytest.mark.parametrize(("fault", "error"), [(Missing(), NotFoundError), (Deny(), PermissionDeniedError)])
def test_missing_and_denied_are_typed(raw: MemoryStore, fault: Fault, error: type[Exception]) -> None:
    raw.put("a", b"one", Create())
    store = FaultyStore.script(raw, [On("*", fault=fault, times=3)])
    calls: list[Callable[[], object]] = [
        lambda: store.get("a"),
        lambda: store.stat("a"),
        lambda: store.put("a", b"", Overwrite()),
    ]
    for call in calls:
        with pytest.raises(error):
            call()
    assert content(raw) == b"one"


def test_damaged_reads_differ_from_what_is_stored(raw: MemoryStore) -> None:
    raw.put("a", b"\x00\x00", Create())
    store = FaultyStore.script(raw, [On("get", fault=Truncate(1)), On("get", fault=FlipBit(9), nth=2)])
    assert store.get("a").data == b"\x00"
    assert store.get("a").data == b"\x00\x02"
    assert store.get("a").data == b"\x00\x00"


@pytest.mark.parametrize("rows", [0, 2, 9])
def test_a_cut_listing_fails_after_its_rows(raw: MemoryStore, rows: int) -> None:
    for key in ("a", "b", "c"):
        raw.put(key, b"", Create())
    seen: list[str] = []
    with pytest.raises(UnavailableError):  # noqa: PT012  the rows before the failure are the claim
        for row in faulty(raw, "list", CutList(rows)).list(""):
            seen.append(row.key)  # noqa: PERF401  extend would lose them
    assert seen == ["a", "b", "c"][:rows]


def test_a_batch_delete_may_fail_for_some_keys(raw: MemoryStore) -> None:
    for key in ("a/1", "a/2", "b/1"):
        raw.put(key, b"", Create())
    store = FaultyStore.script(raw, [On("delete_many", "a/2", FailBefore()), On("delete_many", "b/", LoseAnswer())])
    assert [failure.key for failure in store.delete_many(["a/1", "a/2", "b/1"])] == ["a/2"]
    assert [row.key for row in raw.list("")] == ["a/2"]


@pytest.mark.parametrize(("fault", "left"), [(CrashBefore(), None), (CrashAfter(), b"one")])
def test_after_a_crash_nothing_is_answered_until_restart(raw: MemoryStore, fault: Fault, left: bytes | None) -> None:
    store = faulty(raw, "put", fault)
    with pytest.raises(Crash):
        store.put("a", b"one", Create())
    with pytest.raises(Crash):
        store.get("a")
    assert content(raw) == left
    store.restart()
    assert [row.key for row in store.list("")] == ([] if left is None else ["a"])


def test_another_actor_can_step_in_before_a_request(raw: MemoryStore) -> None:
    store = faulty(raw, "put", Meanwhile(lambda: raw.put("a", b"theirs", Create())))
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"ours", Create())


def test_rules_count_only_what_they_match(raw: MemoryStore) -> None:
    plan = FaultPlan().on("put", "heads/", nth=2, times=2, fault=FailBefore())
    store = FaultyStore(raw, plan)
    failed = []
    for number, key in enumerate(["heads/a", "packs/a", "heads/b", "heads/c", "packs/b", "heads/d"]):
        try:
            store.put(key, b"", Create())
        except UnavailableError:
            failed.append(number)
    assert failed == [2, 3]


def failures(seed: int) -> list[int]:
    store = FaultyStore(MemoryStore(), FaultPlan(seed).at_random("put", fault=FailBefore(), probability=0.3))
    failed = []
    for number in range(200):
        try:
            store.put(f"a/{number}", b"", Create())
        except UnavailableError:
            failed.append(number)
    return failed


def test_random_faults_follow_from_a_printed_seed(capsys: pytest.CaptureFixture[str]) -> None:
    first = failures(7)
    assert first == failures(7)
    assert first != failures(8)
    assert 30 < len(first) < 90
    assert "FaultPlan(seed=7)" in capsys.readouterr().out


def test_a_cleared_plan_lets_everything_pass(raw: MemoryStore) -> None:
    store = FaultyStore(raw, FaultPlan().on("*", times=None, fault=FailBefore()))
    with pytest.raises(UnavailableError):
        store.stat("a")
    store.plan.clear()
    with pytest.raises(NotFoundError):
        store.stat("a")


def test_a_listing_that_nobody_reads_on_waits_for_no_request(raw: MemoryStore) -> None:
    for number in range(3):
        raw.put(f"a/{number}", b"x", Create())
    store = FaultyStore(raw)

    def ended_within_a_request() -> bytes:
        rows = store.list("a/")
        next(rows)
        with store._lock:  # as a request holds it, while the garbage collector ends the listing
            del rows
        return store.get("a/1").data

    assert ended_within_a_request() == b"x"


@pytest.mark.parametrize(
    ("verb", "fault"), [("get", Delay()), ("put", Truncate()), ("*", FlipBit()), ("delete", OwnRetry())]
)
def test_a_fault_that_cannot_happen_is_refused(verb: Any, fault: Fault) -> None:
    with pytest.raises(ValueError, match="does not happen"):
        FaultPlan().on(verb, fault=fault)
