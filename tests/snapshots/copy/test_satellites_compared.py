"""Every difference beside a session is told, once, and what is the same is not."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapshots.errors import CorruptSnapshotError
from snapshots.maintenance.copy.satellites import Difference, compare_satellites
from snapshots.realtime.journal import register_of
from snapshots.realtime.stored import decode, encode
from snapshots.usage import compact
from storage.store import Overwrite
from tests.snapshots.copy.satellites import SESSION, Bench, Side
from tests.snapshots.usage.bench import line

TARGETS = pytest.mark.parametrize(("tenant", "target"), [("default", SESSION), ("other", "copy")])


def told(differences: list[Difference]) -> list[tuple[str, str, str]]:
    return [(one.what, one.kind, one.position) for one in differences]


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    bench.fill(frames=1, rows=3)
    return bench


@TARGETS
def test_what_only_one_has_is_told_by_kind(tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    bench.fill(frames=1, rows=3)
    layout, ids = bench.source.layout, [row_id for row_id, _ in bench.source.rows()]
    only_there = [
        ("session record", layout.record(SESSION)),
        ("metadata", layout.metadata(SESSION)),
        *(("usage log", row_id) for row_id in ids),
        ("realtime session", layout.realtime_state(SESSION)),
    ]
    assert told(bench.differences()) == [(what, "missing", position) for what, position in only_there]
    back = list(compare_satellites(bench.here.environment, bench.source.environment, target, SESSION))
    assert [(one.what, one.kind) for one in back] == [(what, "more") for what, _ in only_there]
    assert {one.session_id for one in back} == {target}


@TARGETS
def test_nothing_is_told_of_a_copy_however_its_rows_are_cut(tenant: str, target: str) -> None:
    bench = Bench(tenant, target)
    bench.fill()
    bench.copy()
    bench.source.log.append(line("one"))
    bench.source.log.append(line("two"))
    bench.copy()
    compact(bench.source.host, SESSION)
    assert bench.differences() == []


def test_nothing_is_told_of_two_empty_stores() -> None:
    assert Bench().differences() == []


def test_values_that_differ_are_told(bench: Bench) -> None:
    bench.copy()
    bench.source.records.record_delta(SESSION, 1)
    bench.here.runtime_metadata()
    register_of(bench.here.environment, SESSION).update(lambda present: replace(present, claim=9))
    layout = bench.source.layout
    assert told(bench.differences()) == [
        ("session record", "different", layout.record(SESSION)),
        ("metadata", "different", layout.metadata(SESSION)),
        ("realtime session", "different", layout.realtime_state(SESSION)),
    ]


def test_rows_are_told_by_their_ids_each_once(bench: Bench) -> None:
    a, b = bench.source.log, bench.here.log
    a.append_many([line(n, row_id=f"r{n}") for n in range(5)])
    bench.copy(["usage"])
    a.append_many([line("a", row_id="only a"), line("a", row_id="both"), line("again", row_id="r1")])
    b.append_many([line("b", row_id="only b"), line("b", row_id="both"), line("again", row_id="only b ")])
    b.append(line("b", row_id="only b"))
    found = [one for one in told(bench.differences()) if one[0] == "usage log"]
    assert found == [
        ("usage log", "more", "only b"),
        ("usage log", "different", "both"),
        ("usage log", "more", "only b "),
        ("usage log", "missing", "only a"),
    ]


def test_realtime_records_are_told_by_their_numbers(bench: Bench) -> None:
    bench.copy()
    side = bench.here
    key = side.layout.realtime_record(SESSION, 3)
    stored = decode(side.behind.get(key).data, key=key)
    other = stored.record.model_copy(update={"run_id": "another"})
    side.behind.put(key, encode("default", SESSION, stored.write_id, other), Overwrite())
    side.resumed()
    assert [one for one in told(bench.differences()) if one[2].isdecimal()] == [
        ("realtime session", "different", "3"),
        ("realtime session", "more", "5"),
        ("realtime session", "more", "6"),
    ]
    back = list(compare_satellites(side.environment, bench.source.environment, SESSION, SESSION))
    assert [(one.kind, one.position) for one in back][-2:] == [("missing", "5"), ("missing", "6")]


def test_what_cannot_be_read_is_raised(bench: Bench) -> None:
    bench.copy()
    key = bench.here.layout.realtime_record(SESSION, 2)
    bench.here.behind.put(key, b"damaged", Overwrite())
    with pytest.raises(CorruptSnapshotError) as caught:
        bench.differences()
    assert caught.value.key == key


def test_nothing_is_written(bench: Bench) -> None:
    bench.copy()
    sides: list[Side] = [bench.source, bench.here]
    for side in sides:
        side.requests()
    list(compare_satellites(bench.source.seen, bench.here.seen, SESSION, SESSION))
    assert {verb for side in sides for verb in side.requests()} == {"get", "list"}
