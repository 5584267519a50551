"""The request model is right, and the document says what the program prints. Counts are exact; nothing is timed."""

from __future__ import annotations

import json
from collections.abc import Iterable

import pytest

from infra import scale
from infra.sizing.contention import DELAY_SECONDS, contended, waited
from infra.sizing.counts import Counts, pages
from infra.sizing.fleet_work import OPERATIONS, Done, counting
from infra.sizing.fleets import Fleet, fill
from infra.sizing.measuring import Measured, fleet_of, measured_apart, measured_here
from infra.sizing.model import Store, Way, collection, executed, marks_cached, predicted, waits
from infra.sizing.request_cpu import request_cpu
from infra.sizing.server_limits import S3_WRITES_PER_SECOND, attempts_at, hottest_share, partitions_for
from infra.tables import MissingMarkersError, replaced
from snapshots.benchmarks.places import MEMORY, Place
from snapshots.maintenance import collect
from snapshots.maintenance.progress import quiet
from snapshots.maintenance.raising import READS_KEPT_MAX
from storage.backends.memory import MemoryStore
from storage.wrappers.metered import MeteredStore

IN_MEMORY = Store(lists_unfinished=False)
BYTES_APART = 0.05  # ids of larger fleets are longer, and random ones compress by chance
HEAD_READERS = ("ls", "verify --level heads", "collect --dry-run", "copy, unchanged")

SHAPES = (
    Fleet(1),
    Fleet(30, forks=10, deleted=6, reserved=3, records=4),
    Fleet(30, revisions=2, forks=10, deleted=6, reserved=2),
    Fleet(20, revisions=5, forks=4, deleted=3, records=2),
)


def _differing(fleet: Fleet, names: Iterable[str] = OPERATIONS) -> list[tuple[str, Done, Done]]:
    return [
        (name, model, found)
        for name, found in measured_here(fleet, names)
        if found.without_bytes() != (model := predicted(name, fleet, IN_MEMORY))
    ]


@pytest.mark.parametrize("fleet", SHAPES)
def test_every_request_of_a_fleet_of_some_shape_is_predicted(fleet: Fleet) -> None:
    assert _differing(fleet) == []


def test_every_request_of_a_hundred_sessions_is_predicted() -> None:
    assert _differing(fleet_of(100)) == []


@pytest.mark.aside
def test_every_request_of_a_thousand_sessions_is_predicted() -> None:
    in_one_store = [name for name in OPERATIONS if not name.startswith(("copy", "prune"))]  # those take as long again
    assert _differing(fleet_of(1000), in_one_store) == []


def test_every_request_that_was_measured_up_to_a_hundred_thousand_sessions_is_predicted() -> None:
    measured = scale.fleets_measured()
    assert list(measured) == [100, 1000, 10_000, 100_000]
    for sessions, rows in measured.items():
        assert [row.name for row in rows] == list(OPERATIONS)
        for row in rows:
            assert row.done.without_bytes() == predicted(row.name, fleet_of(sessions)), (sessions, row.name)


def test_bytes_grow_as_heads_do() -> None:
    smallest, *_, largest = scale.fleets_measured().items()
    for name in HEAD_READERS:
        one, other = (
            next(row for row in rows if row.name == name).done.source.bytes_in / fleet_of(sessions).heads
            for sessions, rows in (smallest, largest)
        )
        assert other == pytest.approx(one, rel=BYTES_APART), name


@pytest.mark.parametrize("batch_packs", [1, 4, 7, 1000])
def test_every_request_of_a_collection_in_batches_is_predicted(batch_packs: int) -> None:
    fleet, store = Fleet(25, revisions=2, deleted=10, reserved=2), MemoryStore()
    with Place(store, MEMORY).repository(inline_limit_bytes=0) as repo:
        fill(repo, fleet)
        plan = collect.plan_collect(repo)
        with counting(repo) as found:
            report = collect.execute(plan, batch_packs=batch_packs)
    assert report.deleted == fleet.garbage
    assert found[0].without_bytes() == executed(fleet, batch_packs)


def test_heads_beyond_those_that_are_kept_are_read_again() -> None:
    few, many = (executed(Fleet(1000, deleted=count)) for count in (READS_KEPT_MAX, READS_KEPT_MAX + 10))
    assert many.get - few.get == 10


def test_the_usual_way_of_a_collection_is_the_predicted_one() -> None:
    for fleet in (fleet_of(100), fleet_of(10**6), fleet_of(10**7)):
        found = collection(fleet, Way())
        assert found.counts == predicted("collect", fleet).source
        assert found.waits == waits("collect", fleet)


def test_each_change_makes_a_collection_shorter_and_none_makes_it_dearer() -> None:
    found = [collection(fleet_of(10**8), way) for _, way in scale.ways()][:-1]
    assert found == sorted(found, key=lambda one: -one.waits)
    assert [one.counts.requests for one in found] == sorted((one.counts.requests for one in found), reverse=True)


def test_the_mark_cache_has_an_end() -> None:
    assert marks_cached(Fleet(1000)) == 1000
    assert marks_cached(Fleet(10**6)) == marks_cached(Fleet(10**7)) < 10**6


def test_an_operation_takes_no_less_than_its_waits() -> None:
    fleet = Fleet(20, forks=2, deleted=2)
    for name in ("ls", "collect"):
        assert waited(name, fleet) >= waits(name, fleet) * DELAY_SECONDS
    for one in scale.stored()["waits"]:
        assert one["seconds"] >= waits(one["name"], Fleet(**one["fleet"])) * one["delay_seconds"]


def test_strangers_on_one_head_try_no_more_often_than_there_are_of_them() -> None:
    for one in [*scale.stored()["contention"], contended(2, 0.2)]:
        for kind in ("", "bare_"):
            assert 1 <= one[f"{kind}attempts_per_commit"] <= one["writers"]
            assert one[f"{kind}commits_per_second"] <= 1 / DELAY_SECONDS
    assert attempts_at(0, 1) == 1


def test_a_repository_reads_one_object_when_it_is_opened() -> None:
    store = MemoryStore()
    with Place(store, MEMORY).repository():
        metered = MeteredStore(store)
    with Place(metered, MEMORY).repository():
        assert Counts.of(metered.metrics.snapshot()).without_bytes() == Counts(get=1)


def test_rising_ids_meet_in_one_partition_and_random_ones_do_not() -> None:
    shares = scale.hot_shares()
    assert shares["rising"] == 1
    assert 1 / scale.PARTITIONS <= shares["random"] < 3 / scale.PARTITIONS
    assert hottest_share("abcd", "abcd", 2) == 0.5
    assert partitions_for(S3_WRITES_PER_SECOND + 1, S3_WRITES_PER_SECOND) == 2


def test_counts_add_and_pages_begin_with_one() -> None:
    assert Counts(get=2, list=1) + 3 * Counts(put=1) == Counts(get=2, put=3, list=1)
    assert [pages(keys) for keys in (0, 1, 1000, 1001)] == [1, 1, 1, 2]


def test_a_fleet_whose_deleted_and_forked_sessions_overlap_is_refused() -> None:
    with pytest.raises(ValueError, match="those deleted are others than those forked"):
        Fleet(10, forks=6, deleted=5)


def test_an_operation_in_a_process_of_its_own_costs_the_same_and_takes_memory() -> None:
    fleet = fleet_of(5)
    (row,) = measured_apart(fleet, quiet, ["stats"])
    assert row.done.without_bytes() == predicted("stats", fleet)
    assert row.memory_bytes > 0
    assert Measured.from_json(row.as_json()) == row


def test_a_request_takes_cpu_of_the_client() -> None:
    assert min(request_cpu(20).values()) > 0


def test_the_document_has_the_tables_that_the_program_prints(capsys: pytest.CaptureFixture[str]) -> None:
    text = scale.DOCUMENT.read_text(encoding="utf-8")
    scale.main(["--json"])
    for name, table in json.loads(capsys.readouterr().out)["tables"].items():
        assert replaced(text, name, table) == text, f"{name}: python -m infra.scale --write"


def test_a_wrong_prediction_would_be_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    (row, *_) = scale.fleets_measured()[100]
    monkeypatch.setattr(scale, "predicted", lambda *_: Done(Counts(get=1)))
    assert "1 get **≠** 111 get, 1 list" in scale.counts_table(100, [row])


def test_a_document_without_markers_is_refused() -> None:
    with pytest.raises(MissingMarkersError, match="counts"):
        replaced("no markers", "counts", "table")
