"""Compaction: many segments become few, whoever writes meanwhile; nothing is lost, doubled or moved."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapshots.errors import CorruptSnapshotError
from snapshots.satellite import RING_MAX
from snapshots.usage import UsageLog, compact
from snapshots.usage.compaction import merge
from snapshots.usage.index import index_register
from snapshots.usage.runs import FAN_OUT
from snapshots.usage.writing import LogWriter
from storage.errors import UnavailableError
from storage.testing.faults import (
    Crash,
    CrashBefore,
    FailBefore,
    Fault,
    LoseAnswer,
    Meanwhile,
)
from tests.faults import WRITE_FAULTS
from tests.snapshots.usage.bench import SESSION, Bench, line

COUNT = 6
REQUESTS = COUNT + 4


def filled(bench: Bench, count: int = COUNT) -> None:
    other = bench.other()
    for n in range(count):
        other.append(line(n))


def failure(log: UsageLog) -> type[Exception] | None:
    """Return of which class the reason is that segments were not merged."""
    return None if log.upkeep_failure is None else type(log.upkeep_failure)


def test_segments_become_one(bench: Bench) -> None:
    filled(bench)
    before = list(bench.other().read())
    report = compact(bench.here, SESSION)
    assert (report.merged, report.segments, report.rows) == (COUNT, 1, COUNT)
    assert [(row.row_id, row.text) for row in bench.other().read()] == [(row.row_id, row.text) for row in before]
    assert len(bench.faulty.log) == REQUESTS - 1  # the index, the segments, one put each
    assert len(bench.stored()) == COUNT + 1
    bench.faulty.log.clear()
    assert compact(bench.here, SESSION).merged == 0
    assert bench.puts() == []


def test_large_segments_stay_as_they_are(bench: Bench) -> None:
    large = "x" * (1 << 19)
    bench.log().append_many(line(n, text=large) for n in range(10))
    filled(bench, 3)
    bench.log().append_many(line(n, text=large) for n in range(10))
    report = compact(bench.here, SESSION)
    assert (report.merged, report.segments, report.rows) == (3, 3, 23)
    assert [one.rows for one in bench.live()] == [10, 3, 10]


def test_what_does_not_fit_into_one_segment_becomes_several(bench: Bench) -> None:
    large = "x" * (1 << 19)
    for start in range(0, 30, 5):
        bench.log().append_many(line(n, text=large) for n in range(start, start + 5))
    report = compact(bench.here, SESSION)
    assert (report.segments, report.rows) == (2, 30)
    assert bench.lines() == list(range(30))


@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_two_at_once_lose_and_double_nothing(bench: Bench, nth: int) -> None:
    filled(bench)
    bench.faulty.plan.on("*", "", nth=nth, fault=Meanwhile(lambda: compact(bench.there, SESSION)))
    compact(bench.here, SESSION)
    assert bench.lines() == list(range(COUNT))
    assert len(bench.live()) == 1
    bench.collect()
    assert set(bench.stored()) == bench.live_keys()


@pytest.mark.parametrize(("start", "end"), [(0, 3), (2, 4), (3, COUNT), (0, COUNT)])
def test_somebody_else_merges_a_part_of_the_run(bench: Bench, start: int, end: int) -> None:
    filled(bench)
    writer, other = LogWriter(bench.there.environment, SESSION), bench.other()

    def partly() -> None:
        merge(writer, lambda segments: segments[start:end])
        other.append_many(map(line, range(COUNT, COUNT + 3)))

    bench.faulty.plan.on("put", "index", fault=Meanwhile(partly))
    compact(bench.here, SESSION)
    assert bench.lines() == list(range(COUNT + 3))
    assert len(bench.live()) == 1


def test_a_swap_that_is_in_doubt_is_recognised(bench: Bench) -> None:
    filled(bench)
    register = index_register(bench.there.environment, SESSION)

    def rewritten() -> None:
        for _ in range(RING_MAX + 5):
            register.update(replace)  # an equal index, under another write id

    bench.faulty.plan.on("put", "index", fault=LoseAnswer())
    bench.faulty.plan.on("get", "index", nth=2, fault=Meanwhile(rewritten))
    assert compact(bench.here, SESSION).merged == COUNT
    assert bench.lines() == list(range(COUNT))


@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_lines_that_come_meanwhile_stay_behind(bench: Bench, nth: int) -> None:
    filled(bench)
    other = bench.other()
    bench.faulty.plan.on("*", "", nth=nth, fault=Meanwhile(lambda: other.append(line(COUNT))))
    assert compact(bench.here, SESSION).merged >= COUNT
    assert bench.lines() == list(range(COUNT + 1))


@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_a_collection_between_any_two_requests(bench: Bench, nth: int) -> None:
    filled(bench)
    compact(bench.there, SESSION)
    filled(bench)
    bench.faulty.plan.on("*", "", nth=nth, fault=Meanwhile(bench.collect))
    compact(bench.here, SESSION)
    assert bench.lines() == [*range(COUNT), *range(COUNT)]
    bench.collect()
    assert set(bench.stored()) == bench.live_keys()
    assert len(bench.live()) == 1


@pytest.mark.parametrize("nth", range(1, REQUESTS))
def test_a_crash_between_any_two_requests(bench: Bench, nth: int) -> None:
    filled(bench)
    bench.faulty.plan.on("*", "", nth=nth, fault=CrashBefore())
    try:
        compact(bench.here, SESSION)
        assert nth >= REQUESTS - 1
    except Crash:
        bench.faulty.restart()
    assert bench.lines() == list(range(COUNT))
    compact(bench.here, SESSION)
    bench.collect()
    assert bench.lines() == list(range(COUNT))
    assert len(bench.stored()) == 1


@pytest.mark.parametrize("fault", WRITE_FAULTS, ids=str)
@pytest.mark.parametrize("nth", [1, 2])
def test_a_write_that_goes_wrong_once(bench: Bench, fault: Fault, nth: int) -> None:
    filled(bench)
    bench.faulty.plan.on("put", "", nth=nth, fault=fault)
    compact(bench.here, SESSION)
    bench.faulty.release()
    assert bench.lines() == list(range(COUNT))
    assert len(bench.live()) == 1


def test_a_store_that_stops_answering_is_said_to(bench: Bench) -> None:
    filled(bench)
    bench.faulty.plan.on("put", "", fault=FailBefore(applied="unknown"), times=None)
    with pytest.raises(UnavailableError):
        compact(bench.here, SESSION)
    assert bench.lines() == list(range(COUNT))


def test_what_cannot_be_read_is_not_merged_away(bench: Bench) -> None:
    filled(bench)
    key = sorted(bench.live_keys())[2]
    bench.behind.delete(key)
    with pytest.raises(CorruptSnapshotError):
        compact(bench.here, SESSION)
    assert key in bench.live_keys()
    assert len(bench.live()) == COUNT


def test_an_appender_whose_merge_fails_has_its_line_all_the_same(bench: Bench) -> None:
    log = bench.log()
    for n in range(FAN_OUT - 1):
        log.append(line(n))
    bench.faulty.plan.on("get", ".zst", fault=FailBefore(applied="no"), times=None)
    log.append(line(FAN_OUT - 1))
    assert failure(log) is UnavailableError
    assert bench.lines() == list(range(FAN_OUT))
    bench.faulty.plan.clear()
    for n in range(FAN_OUT, 2 * FAN_OUT):
        log.append(line(n))
    assert failure(log) is None
    assert len(bench.live()) == 1
    assert bench.lines() == list(range(2 * FAN_OUT))
