"""The usage log: what was acknowledged is read once, in order, with few requests."""

from __future__ import annotations

import linecache
import os
import sys
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidInputError,
    LimitExceededError,
    SessionDeletedError,
    SessionNotFoundError,
    UnsupportedSchemaError,
)
from snapshots.usage import ROW_BYTES_MAX, TokenUsageRecord, UsageLog, compact, usage_report, writing
from snapshots.usage.callers import Callers
from snapshots.usage.index import for_each_log, index_at, logs_in
from snapshots.usage.runs import FAN_OUT
from snapshots.usage.segments import SEGMENT_BYTES_MAX, SegmentFacts, open_segment, seal_segment
from storage.errors import InvalidKeyError, UnavailableError
from storage.frame import open_stream, seal_stream
from storage.store import Create, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import Deny, FailBefore, Meanwhile
from tests.snapshots.usage.bench import SESSION, Bench, line

WAIT_SECONDS = 20.0


def test_what_was_appended_is_read_in_order(bench: Bench) -> None:
    log = bench.log()
    ids = [log.append(line(n)) for n in range(5)] + list(log.append_many(map(line, range(5, 9))))
    rows = list(bench.other().read())
    assert [row.row_id for row in rows] == ids
    assert [row.value["n"] for row in rows] == list(range(9))
    assert rows[0].text == f'{{"row_id":"{ids[0]}","n": 0}}'
    assert len({row_id.partition("-")[0] for row_id in ids}) == 1


def test_a_log_needs_no_session_and_nothing_is_no_log(bench: Bench) -> None:
    for use in (lambda: list(bench.log().read()), lambda: bench.log().segments(), lambda: compact(bench.here, SESSION)):
        with pytest.raises(SessionNotFoundError, match="usage log"):
            use()
    assert bench.log().append_many([]) == ()
    assert bench.stored() == []
    with pytest.raises(InvalidKeyError):
        bench.log("")


def test_the_index_stands_before_a_segment_is_uploaded(bench: Bench) -> None:
    bench.log().append(line(1))
    index = bench.layout.usage_index(SESSION)
    (segment,) = bench.stored()
    assert bench.puts() == [index, segment, index]


def test_a_line_costs_two_requests_and_segments_stay_few(bench: Bench) -> None:
    log = bench.log()
    log.append(line(0))
    bench.faulty.log.clear()
    log.append(line(1))
    assert [request.verb for request in bench.faulty.log] == ["put", "put"]
    for n in range(2, 513):
        log.append(line(n))
    assert bench.lines() == list(range(513))
    assert len(bench.live()) <= (FAN_OUT - 1) * 4
    assert len(bench.faulty.log) / 512 < 2 + (FAN_OUT + 2) / (FAN_OUT - 1)
    assert log.upkeep_failure is None
    assert max(Counter(bench.puts()).values()) > 512  # the index, and no segment twice
    assert all(count == 1 for key, count in Counter(bench.puts()).items() if key.endswith(".zst"))


def test_usage_with_cached_tokens_alone_survives_a_reload(bench: Bench) -> None:
    bench.log().append(TokenUsageRecord(model="m", cache_read_input_tokens=7).to_line())
    report = usage_report((row.record for row in bench.other().read()), by="model")
    assert (report.total.calls, report.total.cache_read_input_tokens) == (1, 7)


def test_a_row_id_is_read_once_however_often_it_was_appended(bench: Bench) -> None:
    for _ in range(3):
        assert bench.log().append(line(1, row_id="call-1")) == "call-1"
        bench.log().append(line(2))
    assert bench.lines() == [1, 2, 2, 2]
    compact(bench.here, SESSION)
    assert bench.lines() == [1, 2, 2, 2]
    assert bench.live()[0].rows == 4


def test_a_process_that_was_forked_is_a_writer_of_its_own(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    log, parent = bench.log(), os.getpid()
    ids = [log.append(line("same"))]
    came, go = held(bench, ".zst")
    with ThreadPoolExecutor(1) as threads:
        first = threads.submit(log.append, line("same"))
        assert came.wait(WAIT_SECONDS)
        monkeypatch.setattr(os, "getpid", lambda: parent + 1)
        ids += [log.append(line("same")) for _ in range(2)]  # whoever has the turn in the parent is no thread here
        go.set()
        ids.append(first.result(WAIT_SECONDS))
    assert len(set(ids)) == len(bench.lines()) == 4
    assert len({row_id.partition("-")[0] for row_id in ids}) == 2


# What is no line.


def test_of_lines_with_a_bad_one_nothing_is_written(bench: Bench) -> None:
    with pytest.raises(InvalidInputError) as caught:
        bench.log().append_many([line(1), "{", line(3)])
    assert caught.value.position.startswith("line 2")
    with pytest.raises(LimitExceededError):
        bench.log().append(line("x" * ROW_BYTES_MAX))
    assert bench.puts() == []


@pytest.mark.parametrize("front", ["\ufeff\ufeff", " \ufeff"])
def test_a_byte_order_mark_makes_no_segment_unreadable(bench: Bench, front: str) -> None:
    bench.log().append_many([line(1), front + line(2), line(3)])
    assert bench.lines() == [1, 2, 3]


def test_lines_of_one_call_are_applied_together(bench: Bench) -> None:
    log = bench.log()
    log.append(line(-1))
    large = "x" * (ROW_BYTES_MAX - 100)
    bench.faulty.plan.on("put", ".zst", nth=3, fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError) as caught:
        log.append_many(line(n, text=large) for n in range(20))
    assert caught.value.applied == "no"
    assert bench.lines() == [-1]
    bench.faulty.plan.clear()
    bench.faulty.log.clear()
    log.append_many(line(n, text=large) for n in range(20))
    assert len(bench.puts()) == 4  # three segments and one index
    assert bench.lines() == list(range(-1, 20))
    assert all(one.raw_bytes <= SEGMENT_BYTES_MAX for one in bench.live())


def test_a_full_log_takes_no_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    log = bench.log()
    log.append(line(1))
    monkeypatch.setattr(writing, "SEGMENTS_MAX", 1)
    with pytest.raises(LimitExceededError, match="usage log of 1 segments"):
        log.append(line(2))
    assert bench.lines() == [1]
    assert len(bench.stored()) == 1
    monkeypatch.setattr(writing, "SEGMENTS_MAX", 2)
    log.append(line(2))
    with pytest.raises(LimitExceededError, match="--compact"):
        log.append(line(3))
    compact(bench.there, SESSION)
    log.append(line(3))
    assert bench.lines() == [1, 2, 3]


def test_a_log_that_others_fill_meanwhile(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    log = bench.log()
    log.append(line(1))
    monkeypatch.setattr(writing, "SEGMENTS_MAX", 2)
    bench.faulty.plan.on("put", ".zst", fault=Meanwhile(lambda: bench.other().append(line(2))))
    for _ in range(3):
        with pytest.raises(LimitExceededError, match="usage log of 2 segments"):
            log.append(line(3))
    assert len(bench.stored()) == 3  # of the first attempt alone
    compact(bench.there, SESSION)
    log.append(line(3))
    assert bench.lines() == [1, 2, 3]


def test_rows_of_one_call_with_one_id_say_the_same(bench: Bench) -> None:
    log = bench.log()
    assert log.append_many([line(1, row_id="a"), line(2), line(1, row_id="a")])[::2] == ("a", "a")
    assert [one.rows for one in bench.live()] == [2]
    with pytest.raises(InvalidInputError, match="line 3: row_id: 'b' is that of line 1 as well"):
        log.append_many([line(1, row_id="b"), line(2), line(3, row_id="b")])
    assert bench.lines() == [1, 2]
    log.append(line(4, row_id="a"))
    assert bench.lines() == [1, 2]  # the first one counts


# Callers of one process.


def held(bench: Bench, part: str) -> tuple[threading.Event, threading.Event]:
    """Let the next PUT of a key with `part` wait; return an event that says it came, and one that lets it go."""
    came, go = threading.Event(), threading.Event()

    def wait() -> None:
        came.set()
        assert go.wait(WAIT_SECONDS)

    bench.faulty.plan.on("put", part, fault=Meanwhile(wait))
    return came, go


def waiting(log: UsageLog, count: int) -> None:
    """Wait until so many callers stand in line behind those whose lines are being written."""
    deadline, callers = threading.Event(), log._appender.callers
    for _ in range(int(WAIT_SECONDS * 1000)):
        if len(callers._waiting) - len(callers._begun) == count:
            return
        deadline.wait(0.001)
    raise AssertionError("nobody waits")


def test_threads_share_a_put(bench: Bench) -> None:
    log = bench.log()
    log.append(line("opened"))
    came, go = held(bench, ".zst")
    bench.faulty.log.clear()
    with ThreadPoolExecutor(21) as threads:
        first = threads.submit(log.append, line("first"))
        assert came.wait(WAIT_SECONDS)
        others = [threads.submit(log.append, line(n)) for n in range(20)]
        waiting(log, 20)
        go.set()
        ids = {one.result(WAIT_SECONDS) for one in [first, *others]}
    assert len(ids) == 21
    assert len(bench.puts()) == 4  # two segments, each with its index
    assert [one.rows for one in bench.live()] == [1, 1, 20]
    assert sorted(map(str, bench.lines())) == sorted(map(str, ["opened", "first", *range(20)]))


def test_a_bad_line_concerns_its_own_caller_alone(bench: Bench) -> None:
    log = bench.log()
    log.append(line("opened"))
    came, go = held(bench, ".zst")
    with ThreadPoolExecutor(3) as threads:
        first = threads.submit(log.append, line("first"))
        assert came.wait(WAIT_SECONDS)
        good, bad = threads.submit(log.append, line("good")), threads.submit(log.append, "bad")
        waiting(log, 1)
        go.set()
        first.result(WAIT_SECONDS)
        good.result(WAIT_SECONDS)
        with pytest.raises(InvalidInputError):
            bad.result(WAIT_SECONDS)
    assert bench.lines() == ["opened", "first", "good"]


def test_each_caller_is_told_of_a_failure_and_the_next_one_succeeds(bench: Bench) -> None:
    log = bench.log()
    log.append(line("opened"))
    came, go = held(bench, ".zst")
    bench.faulty.plan.on("put", ".zst", nth=2, fault=Deny())
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(log.append, line("first"))
        assert came.wait(WAIT_SECONDS)
        others = [threads.submit(log.append, line(n)) for n in range(3)]
        waiting(log, 3)
        go.set()
        first.result(WAIT_SECONDS)
        assert [type(one.exception(WAIT_SECONDS)).__name__ for one in others] == ["PermissionDeniedError"] * 3
    log.append(line("later"))
    assert bench.lines() == ["opened", "first", "later"]


def test_who_writes_for_others_and_is_interrupted_leaves_them_an_answer(bench: Bench) -> None:
    log = bench.log()
    log.append(line("opened"))
    came, go = held(bench, ".zst")

    def interrupt() -> None:
        raise KeyboardInterrupt

    bench.faulty.plan.on("put", ".zst", nth=2, fault=Meanwhile(interrupt))
    with ThreadPoolExecutor(4) as threads:
        first = threads.submit(log.append, line("first"))
        assert came.wait(WAIT_SECONDS)
        others = [threads.submit(log.append, line(n)) for n in range(3)]
        waiting(log, 3)
        go.set()
        first.result(WAIT_SECONDS)
        told = Counter(type(one.exception(WAIT_SECONDS)).__name__ for one in others)
    assert told == {"KeyboardInterrupt": 1, "UnavailableError": 2}
    log.append(line("later"))
    assert bench.lines() == ["opened", "first", "later"]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("nth", range(16))
@pytest.mark.parametrize("method", ["_take_turn", "_front", "_serve", "_give_back"])
def test_whoever_is_interrupted_anywhere_keeps_nobody_waiting(bench: Bench, method: str, nth: int) -> None:
    log = bench.log()
    log.append(line("opened"))
    code, left = getattr(Callers, method).__code__, iter(range(nth))

    def tracer(frame: FrameType, event: str, _argument: object) -> Callable[..., Any] | None:
        if frame.f_code is not code:
            return None
        within = linecache.getline(code.co_filename, frame.f_lineno).strip()
        if event == "line" and not within.startswith("with ") and next(left, None) is None:  # a lock is left at once
            sys.settrace(traced)
            raise KeyboardInterrupt
        return tracer

    traced = sys.gettrace()
    sys.settrace(tracer)
    try:
        log.append(line("interrupted"))
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(traced)
    assert [log.append(line("later")) for _ in range(2)]
    assert ThreadPoolExecutor(1).submit(log.append, line("later")).result(WAIT_SECONDS)
    assert bench.lines() in (["opened", *["later"] * 3], ["opened", "interrupted", *["later"] * 3])
    assert not log._appender.callers._waiting


def test_a_group_holds_what_one_segment_may_hold(bench: Bench) -> None:
    log = bench.log()
    log.append(line("opened"))
    came, go = held(bench, ".zst")
    large = "x" * (ROW_BYTES_MAX // 2)
    with ThreadPoolExecutor(31) as threads:
        first = threads.submit(log.append, line("first"))
        assert came.wait(WAIT_SECONDS)
        others = [threads.submit(log.append, line(n, text=large)) for n in range(30)]
        waiting(log, 30)
        go.set()
        for one in [first, *others]:
            one.result(WAIT_SECONDS)
    assert [one.rows for one in bench.live()] == [1, 1, 15, 15]


# Whose it is.


def deleted(bench: Bench) -> SnapshotRepository:
    """Return a repository on the store behind, in which the session was deleted."""
    repo = SnapshotRepository(bench.behind, clock=bench.clock)
    repo.commit(PersistedSessionState(session_id=SESSION))
    repo.delete(SESSION)
    return repo


def test_a_deleted_session_takes_no_lines(bench: Bench) -> None:
    with deleted(bench):
        with pytest.raises(SessionDeletedError):
            bench.log().append(line(1))
        assert [key for key in bench.puts() if "/usage/" in key] == []
        with pytest.raises(SessionDeletedError):
            list(bench.log().read())


def test_a_log_goes_with_its_session_and_a_late_line_does_not_bring_it_back(bench: Bench) -> None:
    log = bench.log()
    log.append(line(1))
    with deleted(bench):
        with pytest.raises(SessionDeletedError):
            bench.log().append(line(2))
        assert bench.collect().satellites == 2
        assert bench.stored() == []
        with pytest.raises(SessionDeletedError):
            log.append(line(3))  # it was open when the session was deleted
        with pytest.raises(SessionDeletedError):
            list(bench.other().read())
        bench.collect()
        assert list(bench.behind.list(bench.layout.usage_logs)) == []


def test_a_log_that_was_open_when_its_session_was_deleted_uploads_one_segment_more_at_most(bench: Bench) -> None:
    log = bench.log()
    log.append(line(1))
    with deleted(bench):
        log.append(line(2))  # acknowledged, and goes with the session
        assert bench.lines() == [1, 2]
        bench.collect()
        for n in range(3, 6):
            with pytest.raises(SessionDeletedError):
                log.append(line(n))
        assert len(bench.stored()) == 1
        bench.collect()
        assert bench.stored() == []


@pytest.mark.parametrize("nth", range(1, 6))
def test_what_is_read_or_merged_while_it_goes_with_its_session_is_no_corruption(bench: Bench, nth: int) -> None:
    other = bench.other()
    for n in range(5):
        other.append(line(n))

    def going() -> None:
        for key in bench.stored():  # a collection deletes in the order of keys
            bench.behind.delete(key)

    with deleted(bench):
        bench.faulty.plan.on("get", "/usage/", nth=nth, fault=Meanwhile(going))
        with pytest.raises(SessionDeletedError):
            list(bench.log().read())
        with pytest.raises(SessionDeletedError):
            compact(bench.here, SESSION)


def moved(bench: Bench, source: str, target: str) -> None:
    bench.behind.put(target, bench.behind.get(source).data, Overwrite())


def test_a_segment_of_another_session_is_corruption(bench: Bench) -> None:
    bench.log().append(line(1))
    bench.log("s2").append(line(2))
    (ours,), (theirs,) = bench.live_keys(), bench.live_keys("s2")
    moved(bench, theirs, ours)
    with pytest.raises(CorruptSnapshotError, match="moved here") as caught:
        bench.lines()
    assert caught.value.key == ours
    with pytest.raises(CorruptSnapshotError):
        _ = compact(bench.here, SESSION) if bench.log().append(line(3)) else None


def test_a_segment_of_the_same_session_under_another_name_is_corruption(bench: Bench) -> None:
    log = bench.log()
    log.append_many(map(line, range(3)))
    log.append_many(map(line, range(3)))
    first, second = sorted(bench.live_keys())
    moved(bench, first, second)
    with pytest.raises(CorruptSnapshotError, match="moved here"):
        bench.lines()


def test_an_index_of_another_session_or_tenant_is_corruption(bench: Bench) -> None:
    bench.log().append(line(1))
    bench.log("s2").append(line(2))
    moved(bench, bench.layout.usage_index("s2"), bench.layout.usage_index(SESSION))
    for use in (bench.lines, lambda: bench.log().append(line(3)), lambda: compact(bench.here, SESSION)):
        with pytest.raises(CorruptSnapshotError, match="moved here"):
            use()
    other = Bench(bench.clock, "other")
    other.log().append(line(1))
    data = other.behind.get(other.layout.usage_index(SESSION)).data
    bench.behind.put(bench.layout.usage_index(SESSION), data, Overwrite())
    with pytest.raises(CorruptSnapshotError, match="tenant 'other'"):
        bench.lines()


def test_a_segment_of_another_tenant_is_corruption(bench: Bench) -> None:
    bench.log().append(line(1))
    (key,) = bench.live_keys()
    facts, rows = open_segment(bench.behind.get(key).data, key=key)
    other = SegmentFacts("other", facts.session_id, facts.writer, facts.sequence, facts.rows)
    bench.behind.put(key, seal_segment(other, rows), Overwrite())
    with pytest.raises(CorruptSnapshotError, match="tenant 'other'"):
        bench.lines()


def test_a_segment_that_is_not_what_the_index_says_is_corruption(bench: Bench) -> None:
    bench.log().append(line(1))
    (key,) = bench.live_keys()
    data = bench.behind.get(key).data
    facts, rows = open_segment(data, key=key)
    two = SegmentFacts(facts.tenant, facts.session_id, facts.writer, facts.sequence, 2)
    damages: list[Callable[[], bytes]] = [
        lambda: seal_segment(two, [*rows, *rows]),
        lambda: data[:-1],
        lambda: b"",
        lambda: data[:40] + b"x" + data[41:],
    ]
    for damaged in damages:
        bench.behind.put(key, damaged(), Overwrite())
        with pytest.raises(CorruptSnapshotError) as caught:
            bench.lines()
        assert caught.value.key == key


def test_a_segment_of_a_later_format_is_said_to_be_one(bench: Bench) -> None:
    bench.log().append(line(1))
    (key,) = bench.live_keys()
    raw, note = open_stream(bench.behind.get(key).data, key=key, bytes_max=SEGMENT_BYTES_MAX)
    later = note.replace(b'"schema_version":1', b'"schema_version":2')
    bench.behind.put(key, seal_stream(raw, later), Overwrite())
    with pytest.raises(UnsupportedSchemaError):
        bench.lines()
    bench.behind.put(key, seal_stream(raw, b"[]"), Overwrite())
    with pytest.raises(CorruptSnapshotError, match="no map"):
        bench.lines()


def test_a_segment_that_is_missing_while_the_index_names_it_is_corruption(bench: Bench) -> None:
    log = bench.log()
    log.append(line(1))
    (key,) = bench.live_keys()
    log.append(line(2))
    bench.behind.delete(key)
    with pytest.raises(CorruptSnapshotError, match="missing") as caught:
        bench.lines()
    assert caught.value.key == key
    with pytest.raises(CorruptSnapshotError, match="missing"):
        compact(bench.here, SESSION)


@pytest.mark.parametrize("damage", ["altered", "of a later format", "missing"])
def test_a_segment_that_cannot_be_read_does_not_keep_others_from_being_merged(bench: Bench, damage: str) -> None:
    log = bench.log()
    log.append(line(0))
    (key,) = bench.live_keys()
    raw, note = open_stream(bench.behind.get(key).data, key=key, bytes_max=SEGMENT_BYTES_MAX)
    if damage == "missing":
        bench.behind.delete(key)
    else:
        later = seal_stream(raw, note.replace(b'"schema_version":1', b'"schema_version":2'))
        bench.behind.put(key, later if damage == "of a later format" else later[1:], Overwrite())
    for n in range(1, 60):
        log.append(line(n))
    assert log.upkeep_failure is None
    assert key in bench.live_keys()
    assert len(bench.live()) < 20


def test_a_damaged_segment_stops_no_appends_and_is_gone_around(bench: Bench) -> None:
    log = bench.log()
    log.append(line(0))
    (key,) = bench.live_keys()
    bench.behind.put(key, b"damaged", Overwrite())
    for n in range(1, 30):
        log.append(line(n))
        assert isinstance(log.upkeep_failure, CorruptSnapshotError) == (FAN_OUT - 1 <= n < 2 * FAN_OUT - 1)
    assert key in bench.live_keys()
    assert len(bench.live()) < 20
    with pytest.raises(CorruptSnapshotError):
        bench.lines()
    assert sum(one.rows for one in bench.live()) == 30


# All logs of a tenant.


def test_every_log_is_listed_and_a_damaged_one_hides_no_other(bench: Bench) -> None:
    long = "x" * 300  # its part of the key is a digest
    for session in ("a", "Ä b", long):
        bench.log(session).append(line(session))
    bench.behind.delete(bench.layout.usage_index("a"))
    bench.behind.put(f"{bench.layout.usage('a')}strange", b"", Create())
    bench.behind.put(f"{bench.layout.usage_logs}strange", b"", Create())
    environment = bench.here.environment
    found: list[str] = []
    damaged: list[str] = []
    for log in for_each_log(environment, lambda log: log):
        try:
            found.append(index_at(environment, log)[0])
        except CorruptSnapshotError as error:
            damaged.append(error.key)
    assert sorted(found) == sorted(["Ä b", long])
    assert damaged == [bench.layout.usage_index("a")]


def test_an_index_that_was_moved_is_no_log_of_its_place(bench: Bench) -> None:
    for session in ("a", "b"):
        bench.log(session).append(line(session))
    moved(bench, bench.layout.usage_index("a"), bench.layout.usage_index("b"))
    (log,) = logs_in(bench.here.environment, bench.layout.usage("b"))
    with pytest.raises(CorruptSnapshotError, match="session 'a'"):
        index_at(bench.here.environment, log)


def test_two_log_objects_never_share_names(bench: Bench) -> None:
    first, second = bench.log(), bench.log()
    ids = [log.append(line(n)) for n in range(4) for log in (first, second)]
    assert len(set(ids)) == 8
    assert bench.lines() == [0, 0, 1, 1, 2, 2, 3, 3]


def test_a_repository_is_what_a_log_works_with() -> None:
    with SnapshotRepository.open("memory:") as repo:
        log = UsageLog(repo, SESSION)
        log.append_many(map(line, range(100)))
        assert [row.value["n"] for row in log.read()] == list(range(100))
    with SnapshotRepository(Bench().behind, clock=ManualClock()) as repo:
        assert [UsageLog(repo, SESSION).append(line(n)) for n in range(40)]
