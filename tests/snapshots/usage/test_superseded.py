"""Collecting superseded segments: what the index does not name goes, nothing else, whoever writes meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.epochs import take_number
from snapshots.errors import CorruptSnapshotError
from snapshots.maintenance.collect import CollectReport, execute, plan_on
from snapshots.maintenance.superseded import LOGS_SETTLED_AT_ONCE, NUMBER_REACHED_MAX, plan_logs, settle_logs
from snapshots.usage import compact, segments
from snapshots.usage.index import index_register, present_index
from snapshots.usage.segments import NUMBER_MAX
from storage.errors import Applied
from storage.store import Create, Overwrite
from storage.testing.faults import Crash, CrashBefore, FailBefore, Fault, LoseAnswer, Meanwhile, OwnRetry, Verb
from tests.snapshots.usage.bench import SESSION, Bench, line

COUNT = 5


def merged(bench: Bench, session_id: str = SESSION) -> None:
    other = bench.other(session_id)
    for n in range(COUNT):
        other.append(line(n))
    compact(bench.there, session_id)


def collect(bench: Bench) -> CollectReport:
    return execute(plan_on(bench.here.environment))


def number(bench: Bench, session_id: str = SESSION) -> int:
    return present_index(index_register(bench.there.environment, session_id)).value.number


def test_a_plan_writes_nothing_and_says_what_is_superseded(bench: Bench) -> None:
    merged(bench)
    bench.other("s2").append(line(1))
    plan = plan_on(bench.here.environment)
    assert {request.verb for request in bench.faulty.log} <= {"get", "list"}
    (log,) = plan.logs.superseded
    assert (log.session_id, log.segments, log.listed, log.number) == (SESSION, COUNT, COUNT + 1, 0)
    assert (plan.logs.logs, plan.logs.spared, plan.is_empty) == (2, (), False)
    assert f"{COUNT} superseded segments of usage logs" in str(plan)


def test_superseded_segments_go_and_live_ones_stay(bench: Bench) -> None:
    merged(bench)
    bench.other("s2").append(line(1))
    size = sum(bench.behind.stat(key).size_bytes for key in bench.stored())
    report = collect(bench)
    assert (report.segments, report.logs_spared, report.number, report.deleted) == (COUNT, (), 1, 0)
    assert report.segments_bytes == size - sum(bench.behind.stat(key).size_bytes for key in bench.stored())
    assert set(bench.stored()) == bench.live_keys() | bench.live_keys("s2")
    assert bench.lines() == list(range(COUNT))
    assert (number(bench), number(bench, "s2")) == (1, 0)
    bench.faulty.log.clear()
    assert plan_on(bench.here.environment).is_empty
    assert collect(bench).requests == 0


def test_logs_are_settled_some_at_a_time(bench: Bench) -> None:
    sessions = [f"s{n}" for n in range(LOGS_SETTLED_AT_ONCE + 3)]
    for session in sessions:
        merged(bench, session)
    report = collect(bench)
    assert report.segments == COUNT * len(sessions)
    assert [number(bench, session) for session in (sessions[0], sessions[-1])] != [0, 0]
    assert report.number == 2
    assert len(bench.stored()) == len(sessions)


def test_a_log_without_an_index_or_with_a_bad_one_is_spared(bench: Bench) -> None:
    for session in ("a", "b", "c"):
        merged(bench, session)
    before = [key for key in bench.stored() if "/c/" not in key]
    bench.behind.delete(bench.layout.usage_index("a"))
    bench.behind.put(bench.layout.usage_index("b"), b"no index", Overwrite())
    plan = plan_on(bench.here.environment)
    assert [one.log for one in plan.logs.spared] == sorted([bench.layout.usage("a"), bench.layout.usage("b")])
    report = collect(bench)
    assert sorted(one.reason for one in report.logs_spared) == sorted(
        [
            f"{bench.layout.usage_index('a')}: the usage log has segments and no index",
            f"{bench.layout.usage_index('b')}: the record does not match its own checksum",
        ]
    )
    assert report.segments == COUNT
    assert [key for key in bench.stored() if "/c/" not in key] == before


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_an_index_that_is_damaged_after_the_plan_spares_its_log(bench: Bench, damage: str) -> None:
    merged(bench)
    plan = plan_on(bench.here.environment)
    key = bench.layout.usage_index(SESSION)
    if damage == "missing":
        bench.behind.delete(key)
    else:
        bench.behind.put(key, b"no index", Overwrite())
    before = bench.stored()
    report = execute(plan)
    assert [one.log for one in report.logs_spared] == [SESSION]
    assert (report.segments, bench.stored()) == (0, before)


def test_another_collection_at_work_leaves_the_log_to_the_next_run(bench: Bench) -> None:
    merged(bench)
    plan = plan_logs(bench.here.environment, lambda _: False)

    def newer() -> None:
        above = take_number(bench.there.environment)
        register = index_register(bench.there.environment, SESSION)
        register.update(lambda index: replace(index, number=above))

    bench.faulty.plan.on("get", "index", fault=Meanwhile(newer))
    settled = settle_logs(bench.here.environment, plan.superseded)
    assert settled.garbage == ()
    assert "another collection is at work" in settled.spared[0].reason
    assert len(bench.stored()) == COUNT + 1
    assert bench.collect().segments == COUNT


def test_a_number_above_all_those_of_the_indexes_is_taken(bench: Bench) -> None:
    """Even if the register of numbers was lost."""
    merged(bench)
    index_register(bench.there.environment, SESSION).update(lambda index: replace(index, number=41))
    report = collect(bench)
    assert (report.number, report.segments, number(bench)) == (42, COUNT, 42)


def test_what_was_uploaded_after_the_listing_stays(bench: Bench) -> None:
    merged(bench)
    other = bench.other()
    for verb, part in (("get", "index"), ("put", "index"), ("get", "epoch"), ("put", "epoch"), ("list", "usage")):
        bench.faulty.plan.on(verb, part, fault=Meanwhile(lambda: other.append(line("late"))))  # type: ignore[arg-type]  # the verbs are those of a store
    collect(bench)
    assert bench.lines() == [*range(COUNT), *["late"] * 5]


def test_the_log_of_a_deleted_session_goes_as_a_whole(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        merged(bench)
        repo.delete(SESSION)
        plan = plan_on(bench.here.environment)
        assert (plan.logs.superseded, plan.logs.spared) == ((), ())
        assert len(plan.satellites) == COUNT + 2
        report = execute(plan)
        assert (report.satellites, report.segments) == (COUNT + 2, 0)
    assert list(bench.behind.list(bench.layout.usage_logs)) == []


def test_a_session_that_is_deleted_and_collected_after_the_plan_needs_nothing(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        merged(bench)
        plan = plan_on(bench.here.environment)
        repo.delete(SESSION)
        bench.collect()
        report = execute(plan)
    assert (report.segments, report.logs_spared) == (0, ())


def test_what_is_no_segment_is_left_alone(bench: Bench) -> None:
    merged(bench)
    strange = f"{bench.layout.usage(SESSION)}strange.jsonl.zst"
    bench.behind.put(strange, b"not ours", Create())
    collect(bench)
    assert bench.behind.get(strange).data == b"not ours"


@pytest.mark.parametrize("nth", range(1, 12))
def test_a_crash_between_any_two_requests(bench: Bench, nth: int) -> None:
    merged(bench)
    bench.faulty.plan.on("*", "", nth=nth, fault=CrashBefore())
    try:
        collect(bench)
    except Crash:
        bench.faulty.restart()
    bench.other().append(line(COUNT))
    assert bench.lines() == list(range(COUNT + 1))
    bench.collect()
    assert set(bench.stored()) == bench.live_keys()
    assert bench.lines() == list(range(COUNT + 1))


FAULTS: list[Fault] = [LoseAnswer(), OwnRetry(), FailBefore(applied="unknown")]


@pytest.mark.parametrize("fault", FAULTS, ids=str)
@pytest.mark.parametrize("part", ["index", "epoch"])
def test_a_lost_answer(bench: Bench, fault: Fault, part: str) -> None:
    merged(bench)
    bench.faulty.plan.on("put", part, fault=fault)
    assert collect(bench).segments == COUNT
    assert set(bench.stored()) == bench.live_keys()


@pytest.mark.parametrize("applied", ["no", "unknown"])
@pytest.mark.parametrize("verb", ["get", "put"])
def test_an_index_that_cannot_be_reached_spares_its_log_alone(bench: Bench, verb: Verb, applied: Applied) -> None:
    sessions = ("s1", "s2", "s3")
    for session in sessions:
        merged(bench, session)
    plan = plan_on(bench.here.environment)
    key = bench.layout.usage_index("s2")
    bench.faulty.plan.on(verb, key, fault=FailBefore(applied=applied), times=None)
    report = execute(plan)
    assert [one.log for one in report.logs_spared] == ["s2"]
    assert report.segments == 2 * COUNT
    assert len(bench.stored()) == 3 + COUNT
    if verb == "get":
        again = plan_on(bench.here.environment)
        assert [one.log for one in again.logs.spared] == [bench.layout.usage("s2")]
    bench.faulty.plan.clear()
    assert collect(bench).segments == COUNT


def test_a_log_that_goes_with_its_session_while_it_is_looked_at_is_not_spared(bench: Bench) -> None:
    merged(bench, "s2")
    with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        merged(bench)

        def gone() -> None:
            repo.delete(SESSION)
            bench.collect()

        bench.faulty.plan.on("get", bench.layout.usage_index(SESSION), fault=Meanwhile(gone))
        plan = plan_on(bench.here.environment)
    assert (plan.logs.spared, [one.session_id for one in plan.logs.superseded]) == ((), ["s2"])


def test_a_log_whose_index_went_first_is_not_spared(bench: Bench) -> None:
    with SnapshotRepository(bench.behind, clock=bench.clock) as repo:
        repo.commit(PersistedSessionState(session_id=SESSION))
        merged(bench)
        repo.delete(SESSION)
    bench.behind.delete(bench.layout.usage_index(SESSION))
    assert plan_logs(bench.here.environment, lambda _: False).spared == ()


# Numbers that nobody has taken.


def forged(bench: Bench, session_id: str, number: int) -> None:
    index_register(bench.there.environment, session_id).update(lambda index: replace(index, number=number))


@pytest.mark.parametrize("number_", [NUMBER_REACHED_MAX + 1, NUMBER_MAX])
def test_a_forged_number_spoils_its_own_log_alone(bench: Bench, number_: int) -> None:
    for session in ("s1", "s2"):
        merged(bench, session)
    forged(bench, "s2", number_)
    report = collect(bench)
    assert (report.number, report.segments) == (1, COUNT)
    assert [(one.log, "no collection can have reached" in one.reason) for one in report.logs_spared] == [("s2", True)]
    bench.other("s2").append(line(COUNT))
    assert bench.lines("s2") == list(range(COUNT + 1))
    merged(bench)
    assert collect(bench).number == 2


def test_a_number_that_could_not_be_followed_is_no_index(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    for session in ("s1", "s2"):
        merged(bench, session)
    with monkeypatch.context() as patch:
        patch.setattr(segments, "NUMBER_MAX", 1 << 64)
        forged(bench, "s2", (1 << 64) - 1)
    report = collect(bench)
    assert (report.number, report.segments) == (1, COUNT)
    assert [one.log for one in report.logs_spared] == [bench.layout.usage("s2")]
    with pytest.raises(CorruptSnapshotError, match="not a number of a collection"):
        bench.lines("s2")


def test_the_greatest_number_that_counts_is_followed(bench: Bench) -> None:
    merged(bench)
    forged(bench, SESSION, NUMBER_REACHED_MAX)
    assert collect(bench).segments == COUNT
    merged(bench)
    assert (collect(bench).segments, number(bench)) == (COUNT + 1, NUMBER_REACHED_MAX + 2)


def test_no_index_is_given_a_number_that_it_could_not_be_read_with(bench: Bench) -> None:
    merged(bench)
    take_number(bench.there.environment, above=NUMBER_MAX)
    with pytest.raises(CorruptSnapshotError, match="no collection can have reached") as caught:
        collect(bench)
    assert caught.value.key == bench.layout.epoch
    assert bench.lines() == list(range(COUNT))
