"""Whatever fails, and whoever writes meanwhile: an acknowledged line is there once, one that was refused is not."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from types import FrameType
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots.errors import CorruptSnapshotError, SessionNotFoundError
from snapshots.satellite import RING_MAX
from snapshots.usage import compact
from snapshots.usage.index import index_register
from snapshots.usage.runs import FAN_OUT
from snapshots.usage.writing import LogWriter
from storage.errors import Applied, UnavailableError
from storage.store import Create
from storage.testing.draws import Draws
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    Delay,
    FailBefore,
    Fault,
    FaultPlan,
    LoseAnswer,
    Meanwhile,
    OwnRetry,
    Repeat,
)
from tests.snapshots.usage.bench import SESSION, Bench, line

Tracer = Callable[[FrameType, str, Any], Any]
PUT_FAULTS: list[Fault] = [
    FailBefore(applied="no"),
    FailBefore(applied="unknown"),
    LoseAnswer(),
    Delay(),
    Delay(after_requests=1),
    Delay(after_requests=2),
    OwnRetry(),
    Repeat(after_requests=1),
    Repeat(after_requests=3),
]
EVERY = pytest.mark.parametrize("fault", PUT_FAULTS, ids=str)
LINES = FAN_OUT + 2  # so that segments are merged on the way
PUTS = 2 * LINES + 4
REQUESTS = PUTS + FAN_OUT + 8


@EVERY
@pytest.mark.parametrize("nth", range(1, PUTS))
def test_a_write_that_goes_wrong_once_loses_and_doubles_nothing(bench: Bench, fault: Fault, nth: int) -> None:
    bench.faulty.plan.on("put", "", nth=nth, fault=fault)
    log = bench.log()
    for n in range(LINES):
        log.append(line(n))
    bench.faulty.release()
    assert bench.lines() == list(range(LINES))
    assert log.upkeep_failure is None


@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_a_read_that_fails_once_stops_nothing(bench: Bench, nth: int) -> None:
    bench.faulty.plan.on("*", "", nth=nth, fault=FailBefore(applied="no"))
    log = bench.log()
    done, told = [], []
    for n in range(LINES):
        try:
            log.append(line(n))
            done.append(n)
        except UnavailableError as error:
            told.append(error.applied)
    assert bench.lines() == done
    assert (len(done), told) in ((LINES, []), (LINES - 1, ["no"]))


@pytest.mark.parametrize("part", [".zst", "index"])
@pytest.mark.parametrize("applied", ["no", "unknown"])
def test_a_store_that_stops_answering_is_said_to(bench: Bench, part: str, applied: Applied) -> None:
    log = bench.log()
    log.append(line(0))
    bench.faulty.plan.on("put", part, fault=FailBefore(applied=applied), times=None)
    bench.faulty.plan.on("get", "index", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        log.append(line(1, row_id="mine"))
    assert caught.value.applied == ("unknown" if (part, applied) == ("index", "unknown") else "no")
    bench.faulty.plan.clear()
    log.append(line(1, row_id="mine"))
    assert bench.lines() == [0, 1]


def test_a_line_in_doubt_is_appended_again_with_its_id(bench: Bench) -> None:
    log = bench.log()
    log.append(line(0))
    bench.faulty.plan.on("put", "index", fault=LoseAnswer(), times=None)
    bench.faulty.plan.on("get", "index", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        log.append(line(1, row_id="mine"))
    assert caught.value.applied == "unknown"
    assert bench.lines() == [0, 1]
    bench.faulty.plan.clear()
    log.append(line(1, row_id="mine"))
    assert bench.lines() == [0, 1]


def test_a_segment_that_was_put_twice_is_one(bench: Bench) -> None:
    for fault in (OwnRetry(), LoseAnswer(), Repeat()):
        bench.faulty.plan.on("put", ".zst", fault=fault)
        bench.log().append(line(1))
        bench.faulty.release()
        bench.faulty.plan.clear()
    assert len(bench.stored()) == len(bench.live()) == 3


@pytest.mark.parametrize("merges", [False, True])
def test_a_swap_whose_answer_is_lost_under_very_many_others_is_applied_once(bench: Bench, merges: bool) -> None:
    """The write ids of the index do not reach back so far."""
    log, other = bench.log(), bench.other()
    log.append(line(0))

    def many() -> None:
        for n in range(RING_MAX + 5):
            other.append(line(f"other {n}"))
        if merges:
            compact(bench.there, SESSION)

    bench.faulty.plan.on("put", "index", fault=LoseAnswer())
    bench.faulty.plan.on("get", "index", fault=Meanwhile(many))
    log.append(line(1))
    log.append(line(2))
    assert [n for n in bench.lines() if isinstance(n, int)] == [0, 1, 2]
    assert len(bench.lines()) == 3 + RING_MAX + 5


def rewritten(bench: Bench, times: int) -> None:
    """Write the index so often, without changing it."""
    register = index_register(bench.there.environment, SESSION)
    for _ in range(times):
        register.update(replace)


def test_a_swap_that_is_in_doubt_is_not_made_twice(bench: Bench) -> None:
    log = bench.log()
    log.append(line(0))
    bench.faulty.plan.on("put", "index", fault=LoseAnswer())
    bench.faulty.plan.on("get", "index", fault=Meanwhile(lambda: rewritten(bench, RING_MAX + 5)))
    log.append(line(1))
    assert bench.lines() == [0, 1]
    assert len(bench.live()) == len(bench.stored()) == 2


def test_something_else_under_the_name_of_a_segment_is_corruption(bench: Bench) -> None:
    log = bench.log()
    log.append(line(0))

    def other() -> None:
        (first,) = bench.live_keys()
        bench.behind.put(first.replace("0001.jsonl", "0002.jsonl"), b"something else", Create())

    bench.faulty.plan.on("put", ".zst", fault=Meanwhile(other))
    with pytest.raises(CorruptSnapshotError, match="something else lies under the name"):
        log.append(line(1))
    log.append(line(2))
    assert bench.lines() == [0, 2]


# Beside others.


@pytest.mark.parametrize("method", ["opened", "swap"])
@pytest.mark.parametrize("nth", range(12))
def test_a_thread_that_forgets_the_index_disturbs_no_other(bench: Bench, method: str, nth: int) -> None:
    """Merging forgets it, between any two lines of one that appends."""
    log = bench.log()
    log.append(line(0))
    writer, code = log._appender.writer, getattr(LogWriter, method).__code__
    left = iter(range(nth))

    def tracer(frame: FrameType, event: str, _argument: object) -> Tracer | None:
        if frame.f_code is not code:
            return None
        if event == "line" and next(left, None) is None:
            writer.forget()
        return tracer

    traced = sys.gettrace()
    sys.settrace(tracer)
    try:
        log.append(line(1))
    finally:
        sys.settrace(traced)
    assert bench.lines() == [0, 1]


@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_a_collection_between_any_two_requests_takes_nothing_away(bench: Bench, nth: int) -> None:
    bench.faulty.plan.on("*", "", nth=nth, fault=Meanwhile(bench.collect))
    log = bench.log()
    for n in range(LINES):
        log.append(line(n))
    assert bench.lines() == list(range(LINES))
    assert log.upkeep_failure is None
    bench.collect()
    assert set(bench.stored()) == bench.live_keys()


def test_a_segment_collected_between_upload_and_publish_is_uploaded_again_under_a_new_name(bench: Bench) -> None:
    log = bench.log()
    log.append(line(0))
    bench.faulty.log.clear()
    bench.faulty.plan.on("put", "index", fault=Meanwhile(bench.collect))
    log.append(line(1))
    first, second = (key for key in bench.puts() if key.endswith(".zst"))
    assert first != second
    assert first not in bench.stored()
    assert second in bench.live_keys()
    assert bench.lines() == [0, 1]


@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_others_append_and_merge_between_any_two_requests(bench: Bench, nth: int) -> None:
    other = bench.other()
    counts = iter(range(10_000))

    def beside() -> None:
        for _ in range(3):
            other.append(line(f"other {next(counts)}"))
        compact(bench.there, SESSION)

    bench.faulty.plan.on("*", "", nth=nth, fault=Meanwhile(beside), times=3)
    log = bench.log()
    for n in range(LINES):
        log.append(line(n))
    found = bench.lines()
    assert [n for n in found if isinstance(n, int)] == list(range(LINES))
    assert [n for n in found if isinstance(n, str)] == [f"other {n}" for n in range(next(counts))]
    assert log.upkeep_failure is None


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=str)
@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_a_crash_between_any_two_requests_leaves_what_was_acknowledged(bench: Bench, crash: Fault, nth: int) -> None:
    bench.faulty.plan.on("*", "", nth=nth, fault=crash)
    done = []
    log = bench.log()
    try:
        for n in range(LINES):
            log.append(line(n))
            done.append(n)
    except Crash:
        bench.faulty.restart()
    bench.faulty.plan.clear()
    if done:
        assert bench.lines() in (done, [*done, len(done)])
    for n in range(100, 100 + FAN_OUT):
        bench.log().append(line(n))
    found = bench.lines()
    assert found[: len(done)] == done
    assert found[-FAN_OUT:] == list(range(100, 100 + FAN_OUT))
    bench.collect()
    assert set(bench.stored()) == bench.live_keys()
    assert bench.lines() == found


@pytest.mark.parametrize("nth", range(1, 12))
def test_reading_goes_on_while_segments_are_merged_and_collected(bench: Bench, nth: int) -> None:
    other = bench.other()
    for n in range(20):
        other.append(line(n))

    def moved_on() -> None:
        compact(bench.there, SESSION)
        bench.collect()

    bench.faulty.plan.on("get", "", nth=nth, fault=Meanwhile(moved_on))
    assert [row.value["n"] for row in bench.log().read()] == list(range(20))


def test_a_log_that_never_stands_still_is_given_up(bench: Bench) -> None:
    other = bench.other()
    for n in range(3):
        other.append(line(n))

    def moved_on() -> None:
        other.append(line("more"))
        compact(bench.there, SESSION)
        bench.collect()

    bench.faulty.plan.on("get", ".zst", fault=Meanwhile(moved_on), times=None)
    with pytest.raises(UnavailableError, match="kept moving"):
        list(bench.log().read())


# At random.

FAULTS: list[Fault] = [
    FailBefore(applied="unknown"),
    LoseAnswer(),
    Delay(after_requests=3),
    OwnRetry(),
    Repeat(after_requests=2),
]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 1 << 32))
def test_nothing_is_lost_or_doubled_in_any_story(seed: int) -> None:
    bench, draws = Bench(), Draws(seed)
    bench.faulty.plan = FaultPlan(seed)
    for fault in FAULTS:
        bench.faulty.plan.at_random("put", "", fault=fault, probability=0.04)
    bench.faulty.plan.at_random("get", "", fault=FailBefore(applied="no"), probability=0.04)
    bench.faulty.plan.at_random("*", "", fault=CrashBefore(), probability=0.01)
    logs = {name: bench.log() for name in "abc"}
    told: dict[str, list[int]] = {name: [] for name in logs}  # of each writer, what was acknowledged
    doubts: set[tuple[str, int]] = set()
    for n in range(80):
        name = draws.pick("abc")
        try:
            match draws.below(12):
                case 0:
                    compact(bench.here, SESSION)
                case 1:
                    bench.collect()
                case _:
                    doubts.add((name, n))
                    logs[name].append(line(n, writer=name))
                    told[name].append(n)
                    doubts.discard((name, n))
        except UnavailableError as error:
            if error.applied == "no":
                doubts.discard((name, n))
        except Crash:
            bench.faulty.restart()
            logs[name] = bench.log()
        except SessionNotFoundError:
            continue  # nothing was appended yet that could be merged
    bench.faulty.release()
    if not any(told.values()):
        return
    found = [(row.value["writer"], row.value["n"]) for row in bench.other().read()]
    assert len(set(found)) == len(found)
    assert {*found} - doubts == {(name, n) for name, numbers in told.items() for n in numbers}
    for name, numbers in told.items():
        assert [n for writer, n in found if writer == name and (name, n) not in doubts] == numbers
    bench.collect()
    assert set(bench.stored()) == bench.live_keys()
    compact(bench.there, SESSION)
    assert [(row.value["writer"], row.value["n"]) for row in bench.other().read()] == found
