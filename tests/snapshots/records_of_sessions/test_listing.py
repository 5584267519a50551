"""The listing: all records in the order of their keys, counted, none hidden by a damaged one, memory bounded."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from snapshots.errors import InvalidStateError
from snapshots.records import SessionRecords, SessionStatus
from snapshots.records.scan import DAMAGED_NAMED_MAX, SIDE_BY_SIDE
from storage.errors import PermissionDeniedError, UnavailableError
from storage.store import Create
from storage.testing.clock import START
from storage.testing.faults import CutList, Deny, FailBefore, Meanwhile, Truncate
from tests.snapshots.records_of_sessions.benches import MODEL, TTL, Bench, after, host

CREATED, ACTIVE, CLOSED, EXPIRED = SessionStatus
EVERY = {"s-created": CREATED, "s-active": ACTIVE, "s-closed": CLOSED, "s-expired": EXPIRED}


@pytest.fixture
def bench() -> Bench:
    return Bench()


def one_of_each(bench: Bench) -> None:
    """Make a record of every status; by the end the time of those that run is up."""
    for session_id, status in EVERY.items():
        bench.at(status, session_id)
    assert bench.clock.now() == after(TTL + 1)


def test_all_are_listed_in_the_order_of_their_keys(bench: Bench) -> None:
    names = [f"session {number}" for number in range(30)] + ["x" * 512, "Ünïcode/…"]
    for name in names:
        bench.create(name)
    listing = bench.mine.list()
    found = [stored.session_id for stored in listing]
    assert found == sorted(names, key=bench.key)
    assert (listing.read, listing.damaged, listing.damaged_count) == (len(names), (), 0)


def test_nothing_is_listed_where_nothing_is(bench: Bench) -> None:
    listing = bench.mine.list()
    assert list(listing) == []
    assert listing.read == 0
    assert bench.requests() == ["list"]


def test_a_listing_is_one_request_and_one_for_each_record(bench: Bench) -> None:
    for number in range(10):
        bench.create(f"s{number}")
    assert len(list(bench.mine.list(status=CLOSED))) == 0
    assert Counter(bench.requests()) == {"list": 1, "get": 10}


@pytest.mark.parametrize("status", SessionStatus)
def test_a_status_is_the_stored_one(bench: Bench, status: SessionStatus) -> None:
    one_of_each(bench)
    listing = bench.mine.list(status=status)
    assert [stored.session_id for stored in listing] == [f"s-{status}"]
    assert listing.read == 4


def test_expired_by_is_what_is_due_and_was_not_expired(bench: Bench) -> None:
    one_of_each(bench)
    for seconds, due in ((TTL - 1, set()), (TTL, {"s-created", "s-active"}), (9 * TTL, {"s-created", "s-active"})):
        assert {one.session_id for one in bench.mine.list(expired_by=after(seconds))} == due
    assert [one.session_id for one in bench.mine.list(expired_by=after(TTL), status=ACTIVE)] == ["s-active"]
    assert not list(bench.mine.list(expired_by=after(TTL), status=EXPIRED))


def test_no_more_is_read_than_stands_side_by_side(bench: Bench) -> None:
    for number in range(3 * SIDE_BY_SIDE):
        bench.create(f"s{number}")
    listing = bench.mine.list()
    next(listing)
    assert listing.read == SIDE_BY_SIDE
    assert Counter(bench.requests()) == {"list": 1, "get": SIDE_BY_SIDE}
    assert len(list(listing)) == 3 * SIDE_BY_SIDE - 1
    assert list(listing) == []


def test_a_listing_goes_on_after_a_key(bench: Bench) -> None:
    names = sorted((f"s{number}" for number in range(9)), key=bench.key)
    for name in names:
        bench.create(name)
    assert [one.session_id for one in bench.mine.list(start_after=bench.key(names[3]))] == names[4:]
    assert not list(bench.mine.list(start_after=bench.key(names[-1])))


def test_a_key_of_elsewhere_is_refused_and_not_taken_for_an_empty_listing(bench: Bench) -> None:
    bench.create("s1")
    other = host(bench.behind, bench.clock, "other").environment.layout
    for key in (other.record("s1"), bench.here.environment.layout.head("s1"), "zzz", "s1"):
        with pytest.raises(InvalidStateError, match="is no key among the records of tenant 'default'"):
            bench.mine.list(start_after=key)
    assert not bench.faulty.log


@pytest.mark.parametrize(
    "wrong",
    [
        {"start_after": None},
        {"start_after": 5},
        {"expired_by": START.replace(tzinfo=None)},
        {"expired_by": "now"},
        {"status": "none"},
        {"status": 5},
    ],
    ids=str,
)
def test_what_is_of_a_wrong_type_is_refused_before_anything_is_read(bench: Bench, wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidStateError):
        bench.mine.list(**wrong)
    assert not bench.faulty.log


def test_a_status_may_be_a_text(bench: Bench) -> None:
    bench.create("s1")
    status: Any = "created"
    assert len(list(bench.mine.list(status=status))) == 1


def test_a_listing_says_where_to_go_on(bench: Bench) -> None:
    names = sorted((f"s{number}" for number in range(2 * SIDE_BY_SIDE)), key=bench.key)
    for name in names:
        bench.create(name)
    listing = bench.mine.list()
    assert listing.next_after == ""
    seen = [next(listing).session_id for _ in range(SIDE_BY_SIDE + 3)]
    assert listing.next_after == bench.key(seen[-1])
    rest = bench.mine.list(start_after=listing.next_after)
    assert rest.next_after == listing.next_after
    assert seen + [one.session_id for one in rest] == names
    assert rest.next_after == ""


def test_a_listing_that_failed_never_looks_complete(bench: Bench) -> None:
    names = sorted((f"s{number}" for number in range(2 * SIDE_BY_SIDE)), key=bench.key)
    for name in names:
        bench.create(name)
    bench.faulty.plan.on("get", nth=SIDE_BY_SIDE + 1, fault=FailBefore(), times=None)
    listing = bench.mine.list()
    seen: list[str] = []
    with pytest.raises(UnavailableError) as first:
        seen.extend(one.session_id for one in listing)
    bench.faulty.plan.clear()
    for _ in range(2):
        with pytest.raises(UnavailableError) as again:
            next(listing)
        assert again.value is first.value
    seen = names[:SIDE_BY_SIDE]
    assert listing.next_after == bench.key(seen[-1])
    assert seen + [one.session_id for one in bench.mine.list(start_after=listing.next_after)] == names


def test_a_tenant_whose_name_begins_alike_is_another(bench: Bench) -> None:
    for tenant in ("default", "default2", "defaul"):
        SessionRecords(host(bench.behind, bench.clock, tenant)).create("s1", **MODEL)
    assert [one.record.tenant_id for one in bench.mine.list()] == ["default"]


# What cannot be read.


def test_a_damaged_record_hides_no_other(bench: Bench) -> None:
    for number in range(5):
        bench.create(f"s{number}")
    bench.damage("s2")
    bench.behind.put(bench.key("s9"), bench.data("s1"), Create())
    listing = bench.mine.list()
    assert {one.session_id for one in listing} == {"s0", "s1", "s3", "s4"}
    assert (listing.read, listing.damaged_count) == (6, 2)
    found = {one.key: one.reason for one in listing.damaged}
    assert found.keys() == {bench.key("s2"), bench.key("s9")}
    assert "checksum" in found[bench.key("s2")]
    assert "session 's1' of tenant 'default', moved here" in found[bench.key("s9")]


def test_what_lies_among_the_records_and_is_none_is_named(bench: Bench) -> None:
    bench.create("s1")
    stray = f"{bench.here.environment.layout.records}stray"
    bench.behind.put(stray, b"nothing of ours", Create())
    listing = bench.mine.list()
    assert [one.session_id for one in listing] == ["s1"]
    assert [one.key for one in listing.damaged] == [stray]


def test_a_record_of_a_later_format_is_named(bench: Bench) -> None:
    bench.create("s1")
    bench.put({**bench.plain(), "schema_version": 2})
    listing = bench.mine.list()
    assert not list(listing)
    (one,) = listing.damaged
    assert "schema version 2" in one.reason


def test_very_many_damaged_records_are_counted_and_not_all_named(bench: Bench) -> None:
    records = bench.here.environment.layout.records
    for number in range(DAMAGED_NAMED_MAX + 5):
        bench.behind.put(f"{records}aa/x{number}", b"", Create())
    listing = bench.mine.list()
    assert not list(listing)
    assert (listing.damaged_count, len(listing.damaged)) == (DAMAGED_NAMED_MAX + 5, DAMAGED_NAMED_MAX)


def test_a_record_cut_on_its_way_is_damaged_now_and_whole_again_later(bench: Bench) -> None:
    bench.create("s1")
    bench.faulty.plan.on("get", fault=Truncate(20))
    listing = bench.mine.list()
    assert not list(listing)
    assert listing.damaged_count == 1
    assert [one.session_id for one in bench.mine.list()] == ["s1"]


# Others, and a store that fails.


def test_a_record_that_is_taken_away_meanwhile_is_not_there(bench: Bench) -> None:
    names = sorted(("s0", "s1", "s2"), key=bench.key)
    for name in names:
        bench.create(name)
    bench.faulty.plan.on("get", fault=Meanwhile(lambda: bench.behind.delete(bench.key(names[1]))))
    listing = bench.mine.list()
    assert [one.session_id for one in listing] == [names[0], names[2]]
    assert (listing.read, listing.damaged) == (2, ())


def test_a_store_that_does_not_answer_is_no_short_listing(bench: Bench) -> None:
    for number in range(3):
        bench.create(f"s{number}")
    for fault, verb, error in (
        (FailBefore(), "get", UnavailableError),
        (CutList(rows=2), "list", UnavailableError),
        (Deny(), "get", PermissionDeniedError),
    ):
        bench.faulty.plan.clear()
        bench.faulty.plan.on(verb, fault=fault, times=None)  # type: ignore[arg-type]  # verbs, though inferred as str
        with pytest.raises(error):
            list(bench.mine.list())
