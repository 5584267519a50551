"""A probe finds each broken promise, for its own reason, learns what merely differs, and leaves nothing behind."""

from __future__ import annotations

import pytest

from storage.backends.memory import MemoryStore
from storage.clock import SystemClock
from storage.errors import PermissionDeniedError, UnavailableError
from storage.probe import ACTORS, ROUNDS, ProbeReport, probe
from storage.server import ServerFacts, Variant
from storage.store import Create, ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultyStore, On
from storage.wrappers.metered import MeteredStore
from storage.wrappers.prefixed import PrefixedStore
from storage.wrappers.read_only import ReadOnlyStore
from tests.storage import servers_that
from tests.storage.servers_that import GoodServer

CREATORS = f"{ACTORS} create at once, {ROUNDS} times"
UPDATERS = f"{ACTORS} replace at once, {ROUNDS} times"


def probed(store: ObjectStore) -> ProbeReport:
    return probe(store, "~probe/", SystemClock())


def wrong(report: ProbeReport) -> dict[str, str]:
    return {check.name: check.seen for check in report.checks if check.meaning == "wrong"}


def seen(report: ProbeReport) -> dict[str, str]:
    return {check.name: check.seen for check in report.checks}


def test_a_store_without_a_server_keeps_all_promises() -> None:
    store = MemoryStore()
    store.put("mine", b"mine", Create())
    report = probed(store)
    assert report.verdict.is_safe
    assert report.verdict.endpoint == ""
    assert len({check.name for check in report.checks}) == len(report.checks) == 17
    assert [row.key for row in store.list("")] == ["mine"]


def test_a_good_server_is_safe_and_its_facts_are_told_to_the_store() -> None:
    server = GoodServer(refuses=frozenset({Variant.WRONG_CRC32}))
    report = probed(server)
    assert report.verdict.is_safe
    assert report.verdict.endpoint == server.endpoint
    assert server.told == report.verdict.facts == ServerFacts(absent_status=404, refuses_crc32=True)
    assert list(server.list("")) == []


BREACHES = {
    "IgnoresCreate": ["create where something is", "what is there after that create", CREATORS],
    "IgnoresReplace": [
        "replace an earlier version",
        "what is there after that replace",
        "replace where nothing is",
        "what is there after it",
        UPDATERS,
    ],
    "MakesUpWhatIsReplaced": ["replace where nothing is", "what is there after it"],
    "LooksThenWrites": [CREATORS, UPDATERS],
    "StoresNoneOfTheWinners": [CREATORS, UPDATERS],
    "KnowsNoCreate": ["create"],
    "KnowsNoReplace": ["replace the present version"],
    "ReadsLate": ["read after write"],
    "ListsLate": ["list after write, in order", "list from a key on", "list after delete"],
    "ListsInNoOrder": ["list after write, in order", "list from a key on", "list after delete"],
    "ListsFromTheStart": ["list from a key on"],
    "ReadsWhatWasDeleted": ["read after delete", "list after delete"],
    "SendsTheWholeForARange": ["read a range"],
    "MakesUpWhatLiesBehindTheEnd": ["read a range"],
}


@pytest.mark.parametrize("name", BREACHES)
def test_each_broken_promise_is_a_finding_and_nothing_else_is(name: str) -> None:
    server: GoodServer = getattr(servers_that, name)()
    report = probed(server)
    assert list(wrong(report)) == BREACHES[name]
    assert not report.verdict.is_safe
    assert len(report.verdict.findings) == len(BREACHES[name])


def test_who_looks_and_then_writes_is_told_by_how_many_win() -> None:
    found = wrong(probed(servers_that.LooksThenWrites()))
    assert found[CREATORS].partition(" win")[0].rpartition("-")[2] not in ("0", "1")


def test_losers_without_an_answer_are_no_finding() -> None:
    assert wrong(probed(servers_that.AnswersLosersLate())) == {}


@pytest.mark.parametrize(("takes", "quoted"), [("bare", False), ("quoted", True)])
def test_how_a_version_is_written_is_learnt_before_it_matters(takes: str, quoted: bool) -> None:
    server = GoodServer(frozenset({Variant(takes)}), absent=412)
    report = probed(server)
    assert wrong(report) == {}
    assert report.verdict.facts.quoted is quoted
    assert report.verdict.facts.absent_status == 412
    assert seen(report)[f"If-Match, {takes}"] == "taken"


def test_a_clock_that_differs_is_told() -> None:
    assert seen(probed(GoodServer(seconds=0)))["clock"] == "as ours"
    assert seen(probed(GoodServer(seconds=90)))["clock"] in ("90 s ahead", "91 s ahead", "89 s ahead")
    assert seen(probed(GoodServer(seconds=-3600)))["clock"] in ("3600 s behind", "3601 s behind", "3599 s behind")


def test_a_server_that_is_too_busy_is_not_judged() -> None:
    server = servers_that.IsBusy()
    with pytest.raises(UnavailableError, match="too busy"):
        probed(server)
    assert list(server.list("")) == []


def test_a_crowd_of_which_several_won_is_a_finding_whatever_can_be_read() -> None:
    found = wrong(probe(servers_that.BreaksOffWhatManyWrote(), "~probe/", ManualClock()))
    assert (found[CREATORS], found[UPDATERS]) == ("16 win", "16 win")


def test_a_crowd_that_is_answered_with_slow_down_is_no_finding() -> None:
    server = servers_that.SlowsDownCrowds()
    with pytest.raises(UnavailableError, match="too busy"):
        probed(server)
    assert list(server.list("")) == []


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_server_too_busy_for_a_variant_teaches_nothing(status: int) -> None:
    server = servers_that.SlowsDownVariants(frozenset({Variant.QUOTED}))
    server.status = status
    with pytest.raises(UnavailableError, match=str(status)):
        probed(server)


def test_a_server_that_refuses_right_checksums_as_well_is_sent_none() -> None:
    server = servers_that.KnowsNoCrc32(refuses=frozenset({Variant.WRONG_CRC32}))
    report = probed(server)
    assert report.verdict.is_safe
    assert not report.verdict.facts.refuses_crc32
    assert server.told == report.verdict.facts
    assert seen(report)["wrong-crc32"] == "refused (400 Refused), as is a right one"


def test_where_nothing_can_be_created_reads_are_tried_all_the_same() -> None:
    report = probed(servers_that.KnowsNoCreateAndListsInNoOrder())
    assert list(wrong(report)) == ["create", *BREACHES["ListsInNoOrder"]]
    assert not report.verdict.facts.keeps_conditions
    assert not report.verdict.facts.reads_right


@pytest.mark.parametrize("verb", ["get", "put", "list", "delete_many"])
def test_no_answer_is_no_finding(verb: str) -> None:
    rule = On(verb, fault=FailBefore(), nth=1 if verb == "delete_many" else 2)  # type: ignore[arg-type]  # one of the verbs
    store = FaultyStore.script(MemoryStore(), [rule])
    with pytest.raises(UnavailableError):
        probed(store)


def test_who_may_not_write_is_told_so() -> None:
    with pytest.raises(PermissionDeniedError):
        probed(ReadOnlyStore(MemoryStore(), "for readers", remedy="ask"))


def test_wrappers_are_asked_like_the_server_within() -> None:
    server = GoodServer(frozenset({Variant.QUOTED}))
    metered = MeteredStore(PrefixedStore(server, "a/b"))
    report = probed(metered)
    assert report.verdict.endpoint == server.endpoint
    assert server.told == report.verdict.facts
    assert report.verdict.facts.quoted
    puts = metered.metrics.snapshot()["put"].requests
    assert 150 < puts < 200, "a variant is a put as well"
