"""A session that was moved is there and nowhere else; one that was not is as usable as before."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from typing import Literal

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.errors import (
    FencedError,
    InvalidStateError,
    LeaseHeldError,
    SessionMovedError,
)
from snapshots.head import LIVE, MOVED
from snapshots.maintenance.copy.compare import Differs
from snapshots.maintenance.copy.fleet import CopyReport, SessionOutcome, execute, plan_copy
from snapshots.maintenance.copy.moving import MOVED_BYTES_MAX, move
from snapshots.realtime import RealtimeCloseReason, RealtimeController, load_realtime, subscribe
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.usage import UsageLog, compact
from snapshots.writer import turn_in_flight
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashAfter, CrashBefore, Delay, FailBefore, Fault, LoseAnswer, Meanwhile, Repeat
from storage.testing.plan import Crash, Verb
from tests.integration.builders import check_every_revision, message, message_ids, raw_head, take_turn
from tests.snapshots.copy.fleets import (
    LAYOUT,
    Shop,
    bytes_of,
    differences,
    findings,
    outcomes,
    pack_bytes,
)
from tests.snapshots.copy.walks import collected
from tests.snapshots.realtime.bench import NotingAdapter, out, sidecar

URL = "s3://bucket/agents"
SESSIONS = ("s1", "s2", "kid")
SEQUENCE = 6  # of the realtime session that is detached


@pytest.fixture
def source() -> Shop:
    return filled()


@pytest.fixture
def here() -> Shop:
    return Shop(seed=9)


def filled() -> Shop:
    """Return two sessions and a fork, with one of everything beside the first."""
    shop = with_one()
    shop.commit("s2", *(f"s2-{number}" for number in range(3)))
    shop.repo.fork("s1", "kid", 2)
    shop.faulty.log.clear()
    return shop


def with_one() -> Shop:
    """Return a session with one of everything beside it."""
    shop = Shop()
    shop.commit("s1", *(f"s1-{number}" for number in range(3)))
    shop.repo.pin("s1", 1, "first")
    shop.record("s1")
    shop.log("s1").append('{"model": "m", "input_tokens": 1}')
    runtime = RuntimeSessionStore(shop.repo)
    runtime.update_metadata("s1", lambda before: before.changed(title="Rome"))
    controller = connected(shop)
    controller.send(out("f0"))
    controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    shop.faulty.log.clear()
    return shop


def connected(shop: Shop, name: str = "s1") -> RealtimeController:
    controller = RealtimeController(shop.repo, name, NotingAdapter(), sidecar())
    controller.connect()
    return controller


def moved(source: Shop, here: Shop, *sessions: str, url: str = URL) -> CopyReport:
    plan = plan_copy(source.repo, here.repo, sessions=sessions or None)
    return move(source.repo, here.repo, plan, url=url)


def contents(shop: Shop, name: str) -> list[list[str]]:
    """Return the messages of every retained revision."""
    rows = shop.repo.history(name)
    return [message_ids(shop.repo.load(name, row.revision)) for row in rows if row.retained]


# After a move.


def noted(state: PersistedSessionState) -> None:
    """Change a state."""
    take_turn(state, "late")


CALLS: dict[str, Callable[[Shop, PersistedSessionState], object]] = {
    "load": lambda shop, _: shop.repo.load("s1"),
    "load a revision": lambda shop, _: shop.repo.load("s1", 1),
    "load a pin": lambda shop, _: shop.repo.load("s1", "first"),
    "history": lambda shop, _: shop.repo.history("s1"),
    "commit by a state loaded before": lambda shop, state: shop.repo.commit(take_turn(state, "late")),
    "commit with a stamp": lambda shop, state: shop.repo.commit(take_turn(state, "late"), TurnStamp("late")),
    "update": lambda shop, _: shop.repo.update("s1", noted),
    "acquire": lambda shop, _: shop.repo.acquire("s1", "host"),
    "release": lambda shop, _: shop.repo.release("s1", "host"),
    "fork": lambda shop, _: shop.repo.fork("s1", "late kid"),
    "fork a revision": lambda shop, _: shop.repo.fork("s1", "late kid", 1),
    "pin": lambda shop, _: shop.repo.pin("s1", 2, "late"),
    "unpin": lambda shop, _: shop.repo.unpin("s1", "first"),
    "rewind": lambda shop, _: shop.repo.rewind("s1", 1),
    "restore": lambda shop, _: shop.repo.restore("s1", 1),
    "append nodes": lambda shop, _: shop.repo.append_session_nodes("s1", [message("late")]),
    "delete": lambda shop, _: shop.repo.delete("s1"),
    "record": lambda shop, _: shop.records.read("s1"),
    "record a delta": lambda shop, _: shop.records.record_delta("s1", 1),
    "usage": lambda shop, _: list(shop.log("s1").read()),
    "append usage": lambda shop, _: shop.log("s1").append('{"model": "m"}'),
    "compact usage": lambda shop, _: compact(shop.repo, "s1"),
    "runtime": lambda shop, _: RuntimeSessionStore(shop.repo).load_runtime_session("s1"),
    "save a runtime": lambda shop, _: RuntimeSessionStore(shop.repo).save_runtime_session(
        RuntimeSession(session_id="s1")
    ),
    "metadata": lambda shop, _: RuntimeSessionStore(shop.repo).update_metadata("s1", lambda one: one),
    "realtime": lambda shop, _: load_realtime(shop.repo, "s1"),
    "subscribe": lambda shop, _: list(subscribe(shop.repo, "s1").new()),
    "connect": lambda shop, _: connected(shop),
}


def check_it_is_there(source: Shop, here: Shop, before: Mapping[str, list[list[str]]]) -> None:
    for name, every in before.items():
        assert contents(here, name) == every
        check_every_revision(here.repo, name)
        head = raw_head(source.store, name)
        assert (head.status, head.destination, head.holder) == (MOVED, URL, None)
        assert len(source.store.get(LAYOUT.head(name)).data) <= MOVED_BYTES_MAX
        for call in (lambda name=name: source.repo.load(name), lambda name=name: source.repo.fork(name, "k")):
            with pytest.raises(SessionMovedError):
                call()
    assert here.records.read("s1").record.provider_id == "p"
    assert [row.record.model for row in here.log("s1").read()] == ["m"]
    assert load_realtime(here.repo, "s1").sequence == SEQUENCE
    assert findings(source.repo) == []
    assert findings(here.repo) == []


@pytest.mark.parametrize("name", CALLS)
def test_whoever_asks_is_told_where_it_went(source: Shop, here: Shop, name: str) -> None:
    state = source.repo.load("s1", execution_state=True)
    moved(source, here)
    before = bytes_of(source.store)
    with pytest.raises(SessionMovedError) as caught:
        CALLS[name](source, state)
    assert caught.value.destination == URL
    after = bytes_of(source.store)
    assert before.items() <= after.items()
    collected(source.repo)
    left = bytes_of(source.store).keys() - before.keys()
    assert not [key for key in left if "/packs/" in key]


def test_a_writer_that_had_it_is_told_too(source: Shop, here: Shop) -> None:
    writer = source.repo.acquire("s1", "host")
    moved(source, here)
    for call in (
        lambda: writer.commit(take_turn(writer.state, "late")),
        lambda: writer.rewind(1),
        lambda: writer.park(),
        lambda: writer.release(),
    ):
        with pytest.raises((SessionMovedError, FencedError)):
            call()
    with pytest.raises(FencedError):
        writer.begin_turn("late").save_checkpoint(b"late")
    assert message_ids(here.repo.load("s1"))[-1] == "s1-2"


def test_everything_moves_and_the_packs_there_are_collected(source: Shop, here: Shop) -> None:
    before = {name: contents(source, name) for name in SESSIONS}
    told: list[SessionOutcome] = []
    plan = plan_copy(source.repo, here.repo)
    report = move(source.repo, here.repo, plan, url=URL, told=told.append)
    assert outcomes(report) == dict.fromkeys(SESSIONS, "moved")
    assert tuple(told) == report.sessions
    check_it_is_there(source, here, before)
    for _ in range(2):
        collected(source.repo)
        collected(here.repo)
    assert pack_bytes(source.store) == 0
    check_it_is_there(source, here, before)
    here.commit("s1", "on top")


def test_a_fork_that_stays_keeps_the_packs_it_shares(source: Shop, here: Shop) -> None:
    before = contents(source, "kid")
    assert outcomes(moved(source, here, "s1")) == {"s1": "moved"}
    for _ in range(2):
        collected(source.repo)
    assert contents(source, "kid") == before
    source.commit("kid", "on top")
    assert findings(source.repo) == []


def test_again_changes_nothing(source: Shop, here: Shop) -> None:
    moved(source, here)
    before = bytes_of(source.store), bytes_of(here.store)
    report = moved(source, here)
    assert not report.not_copied
    assert {one.outcome for one in report.sessions} <= {"same", "skipped"}
    assert (bytes_of(source.store), bytes_of(here.store)) == before


def test_back_again_is_a_conflict_as_its_id_is_spent_here(source: Shop, here: Shop) -> None:
    moved(source, here)
    before = bytes_of(source.store), bytes_of(here.store)
    report = moved(here, source, url="s3://bucket/first")
    assert set(outcomes(report).values()) == {"conflict"}
    assert (bytes_of(source.store), bytes_of(here.store)) == before
    here.commit("s1", "still here")


def test_what_is_not_whole_or_has_another_id_is_not_moved(source: Shop, here: Shop) -> None:
    before = bytes_of(source.store)
    for plan in (
        plan_copy(source.repo, here.repo, sessions=["s1"], history="head"),
        plan_copy(source.repo, here.repo, sessions=["s1"], target="other"),
    ):
        with pytest.raises(InvalidStateError):
            move(source.repo, here.repo, plan, url=URL)
    assert bytes_of(source.store) == before
    assert bytes_of(here.store).keys() <= {"~store"}


# What does not move.


def check_stays(source: Shop, here: Shop, error: type[Exception]) -> None:
    report = moved(source, here)
    (failed,) = report.not_copied
    assert (failed.session_id, type(failed.error)) == ("s1", error)
    assert {outcomes(report)[name] for name in ("s2", "kid")} == {"moved"}
    assert raw_head(source.store, "s1").destination == ""
    assert source.records.read("s1").record.provider_id == "p"
    source.log("s1").append('{"model": "m"}')
    RuntimeSessionStore(source.repo).update_metadata("s1", lambda before: before.changed(title="Paris"))
    assert findings(source.repo) == []


def check_moves_now(source: Shop, here: Shop) -> None:
    last = message_ids(source.repo.load("s1"))
    assert outcomes(moved(source, here))["s1"] == "moved"
    assert message_ids(here.repo.load("s1")) == last
    assert len(list(here.log("s1").read())) == 2
    assert differences_left(source, here) == []


def differences_left(source: Shop, here: Shop) -> list[str]:
    return [str(one) for one in differences(source.repo, here.repo) if one.what != Differs.SESSION]


def test_a_turn_in_flight_stays_with_its_owner_who_finishes_it(source: Shop, here: Shop) -> None:
    writer = source.repo.acquire("s1", "host")
    turn = writer.begin_turn("turn-1")
    turn.save_checkpoint(b"half")
    check_stays(source, here, InvalidStateError)
    turn.save_checkpoint(b"more")
    writer.commit(take_turn(writer.state, "finished"), TurnStamp("turn-1"))
    assert turn_in_flight(source.repo.environment, "s1") == ""
    check_moves_now(source, here)


def test_a_turn_whose_owner_is_gone_waits_for_the_next_one(source: Shop, here: Shop) -> None:
    source.repo.acquire("s1", "host").begin_turn("turn-1")
    check_stays(source, here, InvalidStateError)
    assert turn_in_flight(source.repo.environment, "s1") == "turn-1"
    writer = source.repo.acquire("s1", "another host")
    assert writer.turn.turn_id == "turn-1"
    writer.turn.abandon()
    check_moves_now(source, here)


def test_a_turn_that_was_committed_and_not_yet_ended_in_its_register_moves(source: Shop, here: Shop) -> None:
    writer = source.repo.acquire("s1", "host")
    writer.begin_turn("turn-1")
    source.faulty.plan.on("put", LAYOUT.turns("s1"), fault=CrashBefore())
    with suppress(Crash):
        writer.commit(take_turn(writer.state, "finished"), TurnStamp("turn-1"))
        writer.begin_turn("turn-2")
    source.works_again()
    assert turn_in_flight(source.repo.environment, "s1") == ""
    source.log("s1").append('{"model": "m"}')
    check_moves_now(source, here)


def test_a_turn_that_begins_when_it_was_already_asked_for_stays(source: Shop, here: Shop) -> None:
    def begin() -> None:
        source.works_again()
        source.repo.acquire("s1", "host").begin_turn("turn-1")

    source.faulty.plan.on("get", LAYOUT.realtime_state("s1"), nth=3, fault=Meanwhile(begin))
    check_stays(source, here, InvalidStateError)
    writer = source.repo.acquire("s1", "host")
    assert writer.turn.turn_id == "turn-1"


def test_a_leased_session_stays(source: Shop, here: Shop) -> None:
    lease = source.repo.claim_lease("s1", "host", 600)
    writer = source.repo.acquire("s1", "host")
    check_stays(source, here, LeaseHeldError)
    writer.commit(take_turn(writer.state, "on"))
    source.repo.release_lease("s1", lease)
    check_moves_now(source, here)


def test_an_open_realtime_session_stays_and_so_does_its_host(source: Shop, here: Shop) -> None:
    controller = RealtimeController.resume(source.repo, "s1", NotingAdapter(), sidecar())
    controller.complete_restart()
    writer = source.repo.acquire("s1", "host")
    check_stays(source, here, InvalidStateError)
    controller.send(out("still"))
    writer.commit(take_turn(writer.state, "still"))
    controller.close(RealtimeCloseReason.HOST_OWNED_DETACH)
    check_moves_now(source, here)


@pytest.mark.parametrize("how", ["missing pack", "another revision", "deleted"])
def test_what_cannot_be_copied_stays_with_everything_beside_it(source: Shop, here: Shop, how: str) -> None:
    execute(plan_copy(source.repo, here.repo))
    if how == "missing pack":
        for row in list(here.store.list(LAYOUT.family("s1"))):
            here.store.delete(row.key)
    elif how == "another revision":
        here.commit("s1", "here")
        source.commit("s1", "there")
    else:
        here.repo.delete("s1")
    report = moved(source, here)
    (failed,) = [one for one in report.not_copied if one.session_id == "s1"]
    assert failed.outcome in ("damaged", "conflict")
    assert source.records.read("s1").record.provider_id == "p"
    source.log("s1").append('{"model": "m"}')
    controller = RealtimeController.resume(source.repo, "s1", NotingAdapter(), sidecar())
    controller.complete_restart()
    source.commit("s1", "on")
    assert findings(source.repo) == []


# In the midst.


class Midst:
    """A session that is moved, again and again, and what happens to one request of the move.

    Attributes:
        before: What the session holds.
        verbs: The requests of a move that nothing happens to, to the source and to the destination.
    """

    def __init__(self) -> None:
        self._filled = with_one()
        self.before = {"s1": contents(self._filled, "s1")}
        stores = self.stores()
        moved(*stores)
        self.verbs = [[one.verb for one in shop.faulty.log] for shop in stores]

    def stores(self) -> tuple[Shop, Shop]:
        """Return a source as it was filled, and an empty destination."""
        return self._filled.cloned(seed=2), Shop(seed=9)

    def each(
        self, verb: Verb | Literal["*"], fault: Fault | Callable[[Shop], Fault], *, step: int
    ) -> Iterator[tuple[Shop, Shop]]:
        """Yield both stores for every so many requests, after a move in which the fault happened to that request."""
        for which, verbs in enumerate(self.verbs):
            count = len(verbs) if verb == "*" else verbs.count(verb)
            for number in range(1, count + 1, step):
                stores = self.stores()
                happens = fault(stores[0]) if callable(fault) else fault
                stores[which].faulty.plan.on(verb, "", nth=number, fault=happens)
                with suppress(Crash, UnavailableError):
                    moved(*stores)
                for one in stores:
                    one.works_again()
                yield stores


@pytest.fixture(scope="module")
def midst() -> Midst:
    return Midst()


def check_is_run_again(source: Shop, here: Shop, midst: Midst) -> None:
    assert not moved(source, here).not_copied
    check_it_is_there(source, here, midst.before)


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
def test_a_move_that_died_anywhere_is_run_again(midst: Midst, crash: Fault) -> None:
    stayed = 0
    for number, (source, here) in enumerate(midst.each("*", crash, step=7)):
        stayed += raw_head(source.store).status != MOVED
        if number % 4 == 0:
            collected(source.repo)
            collected(here.repo)
        check_is_run_again(source, here, midst)
    assert stayed > 10


@pytest.mark.parametrize(
    ("verb", "fault"),
    [("put", LoseAnswer()), ("get", FailBefore("unknown")), ("put", Delay(1)), ("put", Repeat())],
    ids=["lost", "unknown", "delayed", "twice"],
)
def test_an_answer_that_was_lost_is_found_out(midst: Midst, verb: Verb, fault: Fault) -> None:
    for source, here in midst.each(verb, fault, step=9 if verb == "get" else 2):
        check_is_run_again(source, here, midst)


class Writes:
    """Somebody who writes to the source in the midst of a move.

    Attributes:
        applied: What was not refused.
    """

    def __init__(self, source: Shop) -> None:
        self._store = source.store
        self.applied: set[str] = set()

    def __call__(self) -> None:
        repo = SnapshotRepository(self._store, clock=ManualClock(seed=77), inline_limit_bytes=0)
        runtime = RuntimeSessionStore(repo)
        calls: dict[str, Callable[[], object]] = {
            "commit": lambda: repo.commit(take_turn(repo.load("s1"), "late")),
            "pin": lambda: repo.pin("s1", 2, "late"),
            "usage": lambda: UsageLog(repo, "s1").append('{"model": "late"}'),
            "metadata": lambda: runtime.update_metadata("s1", lambda before: before.changed(title="late")),
        }
        for name, call in calls.items():
            with suppress(SessionMovedError, FencedError):
                call()
                self.applied.add(name)


def test_what_is_written_in_the_midst_is_refused_or_moves_along(midst: Midst) -> None:
    writers: list[Writes] = []
    applied: Counter[str] = Counter()

    def writes(source: Shop) -> Fault:
        writers.append(Writes(source))
        return Meanwhile(writers[-1])

    for source, here in midst.each("*", writes, step=7):
        assert not moved(source, here).not_copied
        found = {
            "commit": "late" in message_ids(here.repo.load("s1")),
            "pin": "late" in [pin.name for pin in here.repo.pins("s1")],
            "usage": "late" in [row.record.model for row in here.log("s1").read()],
            "metadata": RuntimeSessionStore(here.repo).read_metadata("s1").title == "late",
        }
        assert {name for name, is_there in found.items() if is_there} == writers[-1].applied
        assert raw_head(source.store).status == MOVED
        assert findings(here.repo) == []
        applied.update(writers[-1].applied)
    assert all(0 < applied[name] < len(writers) for name in ("commit", "pin", "usage", "metadata")), applied


def test_who_takes_a_session_over_in_the_midst_of_its_move_has_it(midst: Midst) -> None:
    ended: Counter[str] = Counter()

    def takes_over(source: Shop) -> Fault:
        repo = SnapshotRepository(source.store, clock=ManualClock(seed=77), inline_limit_bytes=0)

        def take_over() -> None:
            with suppress(SessionMovedError):
                writer = repo.acquire("s1", "host")
                writer.commit(take_turn(writer.state, "mine"))

        return Meanwhile(take_over)

    for source, here in midst.each("*", takes_over, step=9):
        status = raw_head(source.store).status
        ended[status] += 1
        if status == MOVED:
            check_it_is_there(source, here, {"s1": contents(here, "s1")})
            continue
        source.commit("s1", "on") if raw_head(source.store).holder is None else None
        assert "mine" in message_ids(source.repo.load("s1"))
        assert findings(source.repo) == []
    assert ended[MOVED]
    assert ended[LIVE]
