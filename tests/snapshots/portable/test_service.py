"""The service: sessions in a store, whatever happens between two requests and whoever else writes."""

from __future__ import annotations

import json
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from snapshots import SnapshotRepository
from snapshots.environment import Environment
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    FencedError,
    InvalidInputError,
    InvalidStateError,
    LimitExceededError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    UnsupportedSchemaError,
)
from snapshots.head import HEAD_TAIL_BYTES_MAX, INLINE_MANIFEST_BYTES_MAX, MOVED
from snapshots.layout import Layout
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.portable import Event, ImportPolicy, Session, SessionService, warm
from snapshots.portable.document import document_digest
from snapshots.publish import ATTEMPTS_MAX
from snapshots.recent import STATES_MAX
from snapshots.sessions import PAGE
from snapshots.state import PersistedSessionState, PluginPayload
from snapshots.state.values import json_text
from storage.backends import open_store
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, UnavailableError
from storage.executor import InlineExecutor
from storage.store import Create
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashAfter, CrashBefore, Delay, FailBefore, Fault, FaultyStore, LoseAnswer, Meanwhile
from storage.testing.plan import Crash
from tests.integration.builders import PUT_FAULTS, new_session, raw_head, rewrite_head
from tests.snapshots.portable.samples import event, original, session_documents, talk

LONG = random.Random(1).randbytes(8 << 10).hex()  # its revision needs a pack of its own

EACH_PUT = pytest.mark.parametrize("fault", PUT_FAULTS.values(), ids=PUT_FAULTS)


@dataclass
class Host:
    """A process: its own repository and service, on a faulty store of its own around the common one."""

    behind: MemoryStore
    faulty: FaultyStore
    repo: SnapshotRepository
    service: SessionService

    @classmethod
    def start(cls, behind: MemoryStore, clock: ManualClock) -> Host:
        faulty = FaultyStore(behind)
        repo = SnapshotRepository(faulty, clock=clock)
        return cls(behind, faulty, repo, SessionService(repo))

    def cost(self) -> dict[str, int]:
        """Return how many requests were made since this was asked last, by verb."""
        verbs = [request.verb for request in self.faulty.log]
        self.faulty.log.clear()
        return {verb: verbs.count(verb) for verb in dict.fromkeys(verbs)}


@dataclass
class Hosts:
    """Two processes, the clock that both see, and the store behind them."""

    behind: MemoryStore = field(default_factory=MemoryStore)
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.here = self.started()
        self.there = self.started()

    def started(self) -> Host:
        return Host.start(self.behind, self.clock)

    def close(self) -> None:
        self.here.repo.close()
        self.there.repo.close()


@pytest.fixture
def hosts() -> Iterator[Hosts]:
    found = Hosts()
    yield found
    found.close()


@pytest.fixture
def here(hosts: Hosts) -> Host:
    return hosts.here


@pytest.fixture
def service(here: Host) -> SessionService:
    return here.service


def ids(session: Session) -> list[str]:
    return [one.id for one in session.events]


def same(one: Any, other: Any) -> bool:
    return json_text(one) == json_text(other)


def filled(service: SessionService, *invocation_ids: str, session_id: str = "s1") -> str:
    """Create a session with an event for each invocation."""
    service.create_session("app", "user", state={"tier": "gold"}, session_id=session_id)
    for number, invocation_id in enumerate(invocation_ids, 1):
        service.append_event(session_id, event(number, invocation_id))
    return session_id


# Creating and reading.


def test_a_session_is_created_and_read(hosts: Hosts) -> None:
    created = hosts.here.service.create_session("app", "user", state={"n": 0})
    found = hosts.there.service.get_session(created.id)
    assert found == created
    assert (found.app_name, found.user_id, found.state, found.initial_state) == ("app", "user", {"n": 0}, {"n": 0})
    assert found.created_at == found.updated_at == "2026-01-01T00:00:00.000000Z"
    assert hosts.here.service.create_session("app", "user").id != created.id


def test_get_session_fills_the_events_in(hosts: Hosts) -> None:
    """The original leaves them out, so that what it exports is no backup."""
    filled(hosts.here.service, "i1", "i2")
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2"]
    assert [one["id"] for one in hosts.there.service.export_session("s1")["events"]] == ["e1", "e2"]
    assert hosts.there.service.get_events("s1") == [event(1, "i1"), event(2, "i2")]


def test_an_append_applies_the_delta_and_moves_the_time(hosts: Hosts) -> None:
    """The original does neither."""
    filled(hosts.here.service)
    hosts.clock.advance(5)
    hosts.here.service.append_event("s1", event(1, state_delta={"n": 1, "tier": None}))
    found = hosts.there.service.get_session("s1")
    assert found.state == {"n": 1, "tier": None}
    assert found.updated_at == "2026-01-01T00:00:05.000000Z"
    assert found.created_at == "2026-01-01T00:00:00.000000Z"


def test_an_earlier_revision_can_be_looked_at(service: SessionService) -> None:
    filled(service, "i1", "i2")
    assert ids(service.get_session("s1", 2)) == ["e1"]
    assert ids(service.get_session("s1")) == ["e1", "e2"]
    with pytest.raises(RevisionNotFoundError):
        service.get_session("s1", 9)


def test_a_fork_is_a_session_of_its_own(here: Host) -> None:
    filled(here.service, "i1", "i2")
    here.repo.fork("s1", "s2", 2)
    here.service.append_event("s2", event(3))
    assert ids(here.service.get_session("s2")) == ["e1", "e3"]
    assert ids(here.service.get_session("s1")) == ["e1", "e2"]
    assert [one.session_id for one in here.service.list_sessions("app")].count("s2") == 1


def test_an_id_that_is_taken_spent_or_none_makes_no_session(here: Host) -> None:
    filled(here.service)
    here.repo.commit(new_session("other", "a0"))
    for taken in ("s1", "other"):
        with pytest.raises(SessionExistsError):
            here.service.create_session("app", "user", session_id=taken)
    here.service.delete_session("s1")
    with pytest.raises(SessionDeletedError):
        here.service.create_session("app", "user", session_id="s1")
    for wrong in ("", "a\nb", "x" * 513):
        with pytest.raises(InvalidKeyError):
            here.service.create_session("app", "user", session_id=wrong)


def test_what_cannot_be_stored_writes_nothing(here: Host) -> None:
    here.cost()
    with pytest.raises(InvalidStateError):
        here.service.create_session("app", "user", state={"x": object()})
    with pytest.raises(LimitExceededError):
        here.service.store_session(Session.new("a" * 9000, "user"))
    assert here.cost() == {}


OPERATIONS = {
    "get_session": lambda service, name: service.get_session(name),
    "get_events": lambda service, name: service.get_events(name),
    "append_event": lambda service, name: service.append_event(name, event(9)),
    "rewind_to_invocation": lambda service, name: service.rewind_to_invocation(name, "i1"),
    "export_session": lambda service, name: service.export_session(name),
}
EACH_OPERATION = pytest.mark.parametrize("operation", OPERATIONS.values(), ids=OPERATIONS)


@EACH_OPERATION
def test_an_unknown_session_is_an_error(service: SessionService, operation: Any) -> None:
    with pytest.raises(SessionNotFoundError):
        operation(service, "unknown")


@EACH_OPERATION
def test_a_deleted_session_is_an_error_also_for_who_had_it(hosts: Hosts, operation: Any) -> None:
    filled(hosts.here.service, "i1")
    hosts.there.service.delete_session("s1")
    with pytest.raises(SessionDeletedError):
        operation(hosts.here.service, "s1")


@EACH_OPERATION
def test_a_session_that_something_else_made_is_left_alone(here: Host, operation: Any) -> None:
    here.repo.commit(new_session("other", "a0"))
    before = here.behind.get(Layout("default").head("other")).data
    with pytest.raises(InvalidStateError, match=r"SnapshotRepository\.load"):
        operation(here.service, "other")
    with pytest.raises(InvalidStateError):
        here.service.delete_session("other")
    with pytest.raises(InvalidStateError):
        here.service.store_session(talk(session_id="other"), policy="keep-id")
    assert here.behind.get(Layout("default").head("other")).data == before


def test_a_head_under_another_sessions_key_is_corruption(here: Host) -> None:
    filled(here.service, "i1")
    layout = Layout("default")
    here.behind.put(layout.head("s2"), here.behind.get(layout.head("s1")).data, Create())
    with pytest.raises(CorruptSnapshotError):
        here.service.get_session("s2")
    with pytest.raises(CorruptSnapshotError):
        list(here.service.list_sessions("app"))


# Deleting.


def test_delete_is_idempotent(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1")
    hosts.here.service.delete_session("s1")
    for host in (hosts.here, hosts.there):
        host.service.delete_session("s1")
        host.service.delete_session("unknown")
    assert list(hosts.here.service.list_sessions("app")) == []


def test_a_moved_session_is_not_deleted_here(here: Host) -> None:
    filled(here.service)
    rewrite_head(here.behind, lambda head: replace(head, status=MOVED, destination="s3://there/x"), "s1")
    with pytest.raises(SessionMovedError):
        here.service.delete_session("s1")
    assert list(here.service.list_sessions("app")) == []


def test_two_who_delete_at_once_both_succeed(hosts: Hosts) -> None:
    filled(hosts.here.service)
    other = Meanwhile(lambda: hosts.there.service.delete_session("s1"))
    hosts.here.faulty.plan.on("put", "heads/", fault=other)
    hosts.here.service.delete_session("s1")
    with pytest.raises(SessionDeletedError):
        hosts.here.service.get_session("s1")


# Appending.


def test_an_append_costs_a_request_or_two_and_bytes_in_proportion_to_the_event(here: Host) -> None:
    filled(here.service)
    sizes = []
    flushes = 0
    for number in range(1, 65):
        here.cost()
        before = here.repo.metrics.snapshot()
        here.service.append_event("s1", event(number, content="x" * 100, state_delta={"n": number}))
        puts = here.cost()
        assert puts in ({"put": 1}, {"put": 2})
        flushes += puts["put"] - 1
        sizes.append((here.repo.metrics.snapshot() - before)["put"].bytes_out)
    assert flushes <= 16
    # Segments are merged now and then, as those of any session; the head grows to its ring of 64 ids.
    assert sum(sizes[32:]) < 3 * sum(sizes[:32])
    assert len(here.service.get_session("s1").events) == 64
    assert max(sizes) < HEAD_TAIL_BYTES_MAX


def test_the_first_append_of_a_process_loads_the_session_once(hosts: Hosts) -> None:
    filled(hosts.here.service, *["i1"] * 5)
    hosts.there.cost()
    hosts.there.service.append_event("s1", event(6))
    first = hosts.there.cost()
    assert first["put"] == 1
    assert first["get"] <= 8
    hosts.there.service.append_event("s1", event(7))
    assert hosts.there.cost() == {"put": 1}


def test_a_stale_append_loses_no_event(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1")
    for number in range(2, 10):
        host = hosts.here if number % 2 else hosts.there
        host.service.append_event("s1", event(number, state_delta={f"k{number}": number}))
    found = hosts.here.service.get_session("s1")
    assert ids(found) == [f"e{number}" for number in range(1, 10)]
    assert found.state == {"tier": "gold", "n": 1, **{f"k{number}": number for number in range(2, 10)}}


def test_an_append_between_load_and_commit_is_not_lost(hosts: Hosts) -> None:
    filled(hosts.there.service)
    others = iter(range(10, 13))

    def meanwhile() -> None:
        hosts.there.service.append_event("s1", event(next(others)))

    for nth in (1, 2, 3):
        hosts.here.faulty.plan.on("put", "heads/", nth=nth, fault=Meanwhile(meanwhile))
    hosts.here.service.append_event("s1", event(1))
    assert ids(hosts.here.service.get_session("s1")) == ["e10", "e11", "e12", "e1"]


def test_threads_of_two_processes_append_side_by_side(hosts: Hosts) -> None:
    filled(hosts.here.service)
    start = threading.Barrier(6)

    def work(worker: int) -> None:
        service = (hosts.here if worker % 2 else hosts.there).service
        start.wait()
        for number in range(5):
            name = worker * 100 + number
            service.append_event("s1", event(name, state_delta={f"k{name}": 1}))

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, range(6)))
    found = hosts.here.service.get_session("s1")
    for worker in range(6):  # everything once, each writer's in order
        wanted = [f"e{worker * 100 + number}" for number in range(5)]
        assert [one for one in ids(found) if one in wanted] == wanted
    assert len(found.events) == 30
    assert len(found.state) == 31


def test_an_event_that_is_there_is_not_appended_again(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1")
    hosts.there.service.append_event("s1", event(2))
    for host in (hosts.here, hosts.there, hosts.started()):
        host.cost()
        assert host.service.append_event("s1", event(2)) == 3
        assert host.service.append_event("s1", event(1)) == 3
    assert hosts.there.cost().get("put", 0) == 0
    assert ids(hosts.here.service.get_session("s1")) == ["e1", "e2"]


@pytest.mark.parametrize("delta", [{"n": 2}, {"n": True}, {"n": 1.0}, {}])
def test_an_event_of_a_known_id_with_other_content_is_refused(hosts: Hosts, delta: dict[str, Any]) -> None:
    filled(hosts.here.service, "i1")
    before = hosts.behind.get(Layout("default").head("s1")).data
    for host in (hosts.here, hosts.there):
        with pytest.raises(InvalidStateError, match="other content"):
            host.service.append_event("s1", event(1, state_delta=delta))
    assert hosts.behind.get(Layout("default").head("s1")).data == before


def test_an_event_that_a_rewind_dropped_can_be_appended_again(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1", "i2")
    hosts.there.service.rewind_to_invocation("s1", "i1")
    hosts.here.service.append_event("s1", event(2, "i2"))
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2"]


def test_what_is_no_event_is_refused_and_the_next_append_is_whole(service: SessionService) -> None:
    filled(service, "i1")
    spoilt = event(2)
    spoilt.actions.state_delta["x"] = object()
    with pytest.raises(InvalidStateError):
        service.append_event("s1", spoilt)
    service.append_event("s1", event(3))
    assert ids(service.get_session("s1")) == ["e1", "e3"]


def test_a_session_that_is_held_is_not_appended_to(here: Host) -> None:
    filled(here.service, "i1")
    here.repo.acquire("s1", "host-a")
    with pytest.raises(FencedError):
        here.service.append_event("s1", event(2))


def until_known(act: Any, attempts: int = 3) -> Any:
    """Do what the errors say: repeat."""
    for _ in range(attempts - 1):
        try:
            return act()
        except (CommitUnknownError, UnavailableError):
            continue
    return act()


@EACH_PUT
@pytest.mark.parametrize("nth", [1, 2])
@pytest.mark.parametrize("is_warm", [False, True])
def test_a_fault_never_loses_or_doubles_an_event(hosts: Hosts, fault: Fault, nth: int, is_warm: bool) -> None:
    filled(hosts.there.service)
    (hosts.here if is_warm else hosts.there).service.append_event("s1", event(1))
    hosts.here.faulty.plan.on("put", nth=nth, fault=fault)
    until_known(lambda: hosts.here.service.append_event("s1", event(2)))
    hosts.here.faulty.release()
    hosts.here.service.append_event("s1", event(3))
    hosts.here.faulty.release()
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2", "e3"]


@pytest.mark.parametrize("fault", [LoseAnswer(), Delay(), FailBefore("unknown")], ids=str)
def test_a_commit_in_doubt_and_an_unreadable_head_is_settled_by_a_repetition(hosts: Hosts, fault: Fault) -> None:
    filled(hosts.here.service, "i1")
    plan = hosts.here.faulty.plan
    plan.on("put", "heads/", fault=fault)
    plan.on("get", "heads/", fault=FailBefore(), times=60)
    with pytest.raises((CommitUnknownError, UnavailableError)):
        hosts.here.service.append_event("s1", event(2))
    plan.clear()
    hosts.here.service.append_event("s1", event(2))
    hosts.here.faulty.release()
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2"]


def test_a_commit_in_doubt_on_what_was_kept_warm_is_looked_at_anew(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1")
    hosts.here.faulty.plan.on("put", "heads/", fault=LoseAnswer())
    hosts.here.faulty.plan.on("get", "heads/", fault=FailBefore(), times=ATTEMPTS_MAX)
    assert hosts.here.service.append_event("s1", event(2)) == 3
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2"]


@pytest.mark.parametrize("fault", [CrashBefore(), CrashAfter()], ids=str)
@pytest.mark.parametrize("nth", range(1, 10))
def test_a_crash_between_any_two_requests_leaves_a_whole_session(hosts: Hosts, fault: Fault, nth: int) -> None:
    filled(hosts.there.service, "i1")
    hosts.here.faulty.plan.on("*", nth=nth, fault=fault)
    steps: tuple[Callable[[], int], ...] = (
        lambda: hosts.here.service.append_event("s1", event(2, "i2")),
        lambda: hosts.here.service.rewind_to_invocation("s1", "i1"),
    )
    for step in steps:
        try:
            step()
        except Crash:
            break
    found = ids(hosts.there.service.get_session("s1"))
    assert found in (["e1"], ["e1", "e2"])
    again = hosts.started()
    again.service.append_event("s1", event(2, "i2"))
    assert ids(again.service.get_session("s1")) == ["e1", "e2"]
    again.repo.close()


def test_a_doubt_lasts_whatever_fails_after_it(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1")
    hosts.here.faulty.plan.on("put", "heads/", fault=Delay(), times=None)
    hosts.here.faulty.plan.on("get", "heads/", fault=FailBefore("no"), times=None)
    with pytest.raises(CommitUnknownError, match="repeat it: an event that stands in the session") as found:
        hosts.here.service.append_event("s1", event(2))
    assert found.value.session_id == "s1"
    hosts.here.faulty.plan.clear()
    hosts.here.faulty.release()
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2"]
    hosts.here.service.append_event("s1", event(2))
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2"]


def test_a_session_that_was_deleted_ends_a_doubt(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1")
    hosts.here.faulty.plan.on("put", "heads/", fault=FailBefore("unknown"))
    hosts.here.faulty.plan.on("get", "heads/", fault=FailBefore(), times=ATTEMPTS_MAX)
    hosts.there.service.delete_session("s1")
    with pytest.raises(SessionDeletedError):
        hosts.here.service.append_event("s1", event(2))


@pytest.mark.parametrize(
    ("act", "remedy"),
    [
        (lambda service: service.create_session("app", "user"), "look for session '{}': if it is there"),
        (lambda service: service.import_session(talk("i1").export(), policy="new-id"), "look for session '{}': if it"),
        (lambda service: service.store_session(talk("i1", session_id="s2")), "look for session '{}': if it is there"),
        (lambda service: service.store_session(talk("i1"), policy="keep-id"), "repeat it: "),
        (lambda service: service.rewind_to_invocation("s1", "i1"), "look at session '{}': repeated"),
    ],
    ids=["create", "import", "store", "keep-id", "rewind"],
)
def test_a_doubt_says_what_a_caller_can_do(hosts: Hosts, act: Any, remedy: str) -> None:
    filled(hosts.there.service, "i1", "i2")
    fresh = 2 if remedy.startswith("look for") else 1  # the first PUT of a new head reserves its id
    hosts.here.faulty.plan.on("put", "heads/", nth=fresh, fault=Delay(), times=None)
    head = hosts.here.faulty

    def unreadable() -> None:
        head.plan.on("get", "heads/", fault=FailBefore(), times=None)

    head.plan.on("put", "packs/", fault=Meanwhile(unreadable))
    with pytest.raises(CommitUnknownError) as found:
        act(hosts.here.service)
    assert remedy.format(found.value.session_id) in str(found.value)
    head.plan.clear()
    head.release()
    hosts.there.service.get_session(found.value.session_id)


@pytest.mark.parametrize("body", [{}, 5, {"id": ["x"]}, {"id": 5}, {"id": "e3"}], ids=str)
def test_nothing_is_written_over_a_damaged_event(here: Host, body: Any) -> None:
    filled(here.service, "i1")

    def spoil(state: PersistedSessionState) -> None:
        state.session_graph.append_plugin("session.event", body)

    here.repo.update("s1", spoil)
    before = here.behind.get(Layout("default").head("s1")).data
    for service in (here.service, SessionService(here.repo)):
        for number in (3, 4):
            with pytest.raises(InvalidStateError, match="restore an earlier revision"):
                service.append_event("s1", event(number))
    assert here.behind.get(Layout("default").head("s1")).data == before
    here.repo.restore("s1", 2)
    here.service.append_event("s1", event(3))
    assert ids(here.service.get_session("s1")) == ["e1", "e3"]


def test_a_session_with_a_name_of_the_document_is_not_stored(here: Host) -> None:
    session = talk("i1")
    assert session.model_extra is not None
    session.model_extra["format"] = "mine"
    here.cost()
    for policy in ImportPolicy:
        with pytest.raises(InvalidStateError, match="format"):
            here.service.store_session(session, policy=policy)
    assert here.cost() == {}


def test_what_is_no_state_makes_no_session(here: Host) -> None:
    wrong: Any
    here.cost()
    for wrong in (5, [("a", 1)], "x"):
        with pytest.raises(InvalidStateError):
            here.service.create_session("app", "user", state=wrong)
    assert here.cost() == {}


def test_what_is_kept_warm_is_bounded(here: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(STATES_MAX + 1):
        filled(here.service, session_id=f"s{number}")
    here.cost()
    here.service.append_event(f"s{STATES_MAX}", event(1))
    assert here.cost() == {"put": 1}
    here.service.append_event("s0", event(1))
    assert "get" in here.cost()
    monkeypatch.setattr(warm, "STATES_BYTES_MAX", 2000)
    here.service = SessionService(here.repo)
    here.service.append_event("s0", event(2, content="x" * 3000))
    here.cost()
    here.service.append_event("s0", event(3))
    assert "get" in here.cost()


def test_it_works_with_one_thread_and_a_clock_of_its_own(hosts: Hosts) -> None:
    @dataclass
    class Simulated:
        environment: Environment

    environment = Environment(MemoryStore(), Layout("default"), hosts.clock, InlineExecutor())
    service = SessionService(Simulated(environment))
    filled(service, "i1", "i2")
    assert service.rewind_to_invocation("s1", "i1") == 1
    assert service.create_session("app", "user").created_at == "2026-01-01T00:00:00.000000Z"
    assert len(list(service.list_sessions("app"))) == 2


# Rewinding.


def test_a_rewind_restores_state_and_is_not_destructive(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1", "i2", "i1", "i3")
    before = hosts.here.service.export_session("s1")
    hosts.clock.advance(1)
    assert hosts.here.service.rewind_to_invocation("s1", "i1") == 1
    found = hosts.there.service.get_session("s1")
    assert ids(found) == ["e1", "e2", "e3"]
    assert found.state == {"tier": "gold", "n": 3}
    assert found.updated_at == "2026-01-01T00:00:01.000000Z"
    assert [row.revision for row in hosts.here.repo.history("s1")] == [1, 2, 3, 4, 5, 6]
    hosts.here.repo.restore("s1", 5)
    assert same(hosts.there.service.export_session("s1"), before)
    hosts.here.service.append_event("s1", event(5))
    assert ids(hosts.there.service.get_session("s1")) == ["e1", "e2", "e3", "e4", "e5"]


def test_a_rewind_survives_a_collection(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1", "i2")
    hosts.here.service.rewind_to_invocation("s1", "i1")
    hosts.clock.advance(10_000_000)
    execute(plan_collect(hosts.here.repo))
    assert ids(hosts.there.service.get_session("s1")) == ["e1"]
    assert ids(hosts.there.service.get_session("s1", 3)) == ["e1", "e2"]


@pytest.mark.parametrize("invocation_id", ["unknown", "i3", ""])
def test_a_rewind_that_drops_nothing_is_no_revision(here: Host, invocation_id: str) -> None:
    filled(here.service, "i1", "i2", "i3")
    here.cost()
    assert here.service.rewind_to_invocation("s1", invocation_id) == 0
    assert "put" not in here.cost()


def test_a_rewind_takes_what_came_meanwhile_with_it(hosts: Hosts) -> None:
    filled(hosts.here.service, "i1", "i2")
    other = Meanwhile(lambda: hosts.there.service.append_event("s1", event(3, "i3")))
    hosts.here.faulty.plan.on("put", "heads/", fault=other)
    assert hosts.here.service.rewind_to_invocation("s1", "i1") == 2
    assert ids(hosts.here.service.get_session("s1")) == ["e1"]
    assert ids(hosts.here.service.get_session("s1", 4)) == ["e1", "e2", "e3"]


@EACH_PUT
@pytest.mark.parametrize("nth", [1, 2])
def test_a_fault_never_rewinds_twice(hosts: Hosts, fault: Fault, nth: int) -> None:
    filled(hosts.here.service, "i1", "i2", "i1", "i3")
    hosts.here.faulty.plan.on("put", nth=nth, fault=fault)
    until_known(lambda: hosts.here.service.rewind_to_invocation("s1", "i1"))
    hosts.here.faulty.release()
    found = hosts.there.service.get_session("s1")
    assert (ids(found), found.state) == (["e1", "e2", "e3"], {"tier": "gold", "n": 3})
    assert len(hosts.there.repo.history("s1")) == 6


def test_a_rewind_gives_up_what_was_set_by_hand(service: SessionService) -> None:
    session = talk("i1", "i2")
    session.state["by hand"] = 1
    service.store_session(session)
    assert service.get_session("s1").state == {"n": 2, "by hand": 1}
    service.rewind_to_invocation("s1", "i1")
    assert service.get_session("s1").state == {"n": 1}


# Listing.


def test_a_listing_is_filtered_by_application_and_user(service: SessionService) -> None:
    for number, (app, user) in enumerate([("a", "u"), ("a", "v"), ("b", "u"), ("a", "u")]):
        service.create_session(app, user, session_id=f"s{number}")
    assert {one.session_id for one in service.list_sessions("a")} == {"s0", "s1", "s3"}
    assert {one.session_id for one in service.list_sessions("a", "u")} == {"s0", "s3"}
    assert [one.session_id for one in service.list_sessions("b")] == ["s2"]
    assert list(service.list_sessions("c")) == list(service.list_sessions("a", "")) == []


def test_a_listing_reads_each_head_and_no_graph(hosts: Hosts) -> None:
    service = hosts.here.service
    for number in range(70):
        service.create_session("a" if number % 2 else "b", "u", session_id=f"s{number}")
    hosts.clock.advance(1)
    service.append_event("s1", event(1))
    service.delete_session("s3")
    hosts.here.repo.commit(new_session("other", "a0"))
    hosts.there.faulty.plan.on("put", "packs/", fault=CrashBefore())
    with pytest.raises(Crash):
        hosts.there.service.create_session("a", "u", session_id="reserved", state={"long": LONG})
    hosts.here.cost()
    listing = service.list_sessions("a")
    found = {one.session_id: one for one in listing}
    assert len(found) == 34
    assert listing.read == 72
    assert hosts.here.cost() == {"list": 1, "get": 72}
    assert (found["s1"].revision, found["s5"].revision) == (2, 1)
    assert found["s1"].updated_at == "2026-01-01T00:00:01.000000Z"
    assert (found["s1"].app_name, found["s1"].user_id) == ("a", "u")
    assert len(list(listing)) == 34  # may be gone through again
    assert listing.read == 72


def test_a_listing_is_read_as_far_as_it_is_gone_through(here: Host) -> None:
    for number in range(3):
        filled(here.service, session_id=f"s{number}")
    listing = here.service.list_sessions("app")
    next(iter(listing))
    assert listing.read == 1


def test_a_manifest_that_is_too_large_for_the_head_is_read_from_its_pack(here: Host) -> None:
    filled(here.service)
    state = here.repo.load("s1")
    state.policy = state.policy.model_copy(update={"model": "".join(f"{n:x}" for n in range(9000))})
    here.repo.commit(state)
    assert len(raw_head(here.behind, "s1").inline_manifest) == 0 < INLINE_MANIFEST_BYTES_MAX
    here.cost()
    assert [one.session_id for one in here.service.list_sessions("app")] == ["s1"]
    assert here.cost() == {"list": 1, "get": 2}

    def remove() -> None:
        here.service.delete_session("s1")
        execute(plan_collect(here.repo))

    here.repo.environment.clock.advance(10_000_000)  # type: ignore[attr-defined]  # a clock by hand
    here.faulty.plan.on("get", "packs/", fault=Meanwhile(remove))
    assert list(here.service.list_sessions("app")) == []


def test_a_listing_passes_a_failure_on(hosts: Hosts) -> None:
    filled(hosts.here.service)
    hosts.here.faulty.plan.on("get", "heads/", fault=FailBefore())
    with pytest.raises(UnavailableError):
        list(hosts.here.service.list_sessions("app"))


def test_a_listing_that_failed_never_looks_complete_and_says_where_to_go_on(hosts: Hosts) -> None:
    for number in range(PAGE + 4):
        filled(hosts.there.service, session_id=f"s{number}")
    names = [one.session_id for one in hosts.there.service.list_sessions("app")]
    hosts.here.faulty.plan.on("get", "heads/", nth=PAGE + 2, fault=FailBefore(), times=None)
    listing = hosts.here.service.list_sessions("app")
    rows = iter(listing)
    with pytest.raises(UnavailableError) as first:
        list(rows)
    hosts.here.faulty.plan.clear()
    with pytest.raises(UnavailableError) as again:
        next(rows)
    assert again.value is first.value
    rest = hosts.here.service.list_sessions("app", start_after=listing.next_after)
    assert names[listing.read :] == [one.session_id for one in rest]
    assert PAGE <= listing.read < len(names)
    assert rest.next_after == ""
    assert [one.session_id for one in listing] == names


def test_a_listing_can_be_left_and_gone_on_with(here: Host) -> None:
    for number in range(4):
        filled(here.service, session_id=f"s{number}")
    listing = here.service.list_sessions("app")
    assert listing.next_after == ""
    seen = [one.session_id for _, one in zip(range(2), listing, strict=False)]
    rest = here.service.list_sessions("app", start_after=listing.next_after)
    assert rest.next_after == listing.next_after
    assert listing.read == 2
    assert seen + [one.session_id for one in rest] == [one.session_id for one in listing]


@pytest.mark.parametrize("wrong", [None, 5, "zzz", "default/records/00/s1"])
def test_a_key_of_elsewhere_is_no_place_to_go_on_from(here: Host, wrong: Any) -> None:
    with pytest.raises(InvalidStateError, match="no key among the heads"):
        here.service.list_sessions("app", start_after=wrong)


# Export and import.


@pytest.fixture(params=["memory", "file", "moto"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of a store in each backend."""
    if request.param == "moto":
        url: str = request.getfixturevalue("moto_url")
        return url
    return "memory:" if request.param == "memory" else f"file:{tmp_path / 'store'}"


def test_an_export_imported_elsewhere_is_exported_again_byte_for_byte(service: SessionService, backend: str) -> None:
    service.store_session(Session.model_validate(original()))
    service.append_event(
        "s1", event(9, "i9", content="é\u2028\x00", state_delta={"x": [1, 1.0, True, None, 2**64 - 1]})
    )
    text = json_text(service.export_session("s1"))
    with SnapshotRepository(open_store(backend)) as repo:
        there = SessionService(repo)
        assert there.import_session(json.loads(text)).revision == 1
        assert json_text(SessionService(repo).export_session("s1")) == text
        there.append_event("s1", event(10))
        assert there.rewind_to_invocation("s1", "i9") == 1
        again = there.export_session("s1")
    assert same({**again, "updated_at": None, "digest": None}, {**json.loads(text), "updated_at": None, "digest": None})


@settings(max_examples=40, deadline=None)
@given(session_documents)
def test_unknown_fields_survive_import_store_and_export(document: dict[str, Any]) -> None:
    found = Session.model_validate({**document, "id": "s1"})
    behind = MemoryStore()
    with SnapshotRepository(behind) as repo:
        SessionService(repo).import_session(found.export())
    with SnapshotRepository(behind) as repo:
        assert same(SessionService(repo).export_session("s1"), found.export())


def tampered(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "state": {"n": 5}}


def newer(document: dict[str, Any]) -> dict[str, Any]:
    return {**document, "format_version": 2}


def incomplete(document: dict[str, Any]) -> dict[str, Any]:
    del document["user_id"]
    return {**document, "digest": document_digest(document)}


def without_format(_: dict[str, Any]) -> dict[str, Any]:
    return original()


def of_no_id(_: dict[str, Any]) -> dict[str, Any]:
    return talk(session_id="a\nb").export()


@pytest.mark.parametrize("policy", ImportPolicy)
@pytest.mark.parametrize("spoil", [tampered, newer, incomplete, without_format, of_no_id])
def test_a_bad_document_writes_nothing(here: Host, spoil: Any, policy: ImportPolicy) -> None:
    document = spoil(talk("i1").export())
    here.cost()
    if spoil is of_no_id and policy is ImportPolicy.NEW_ID:
        assert here.service.import_session(document, policy=policy).revision == 1
        return
    with pytest.raises((InvalidInputError, UnsupportedSchemaError)):
        here.service.import_session(document, policy=policy)
    assert here.cost() == {}


def test_there_are_three_policies(here: Host) -> None:
    here.cost()
    with pytest.raises(InvalidStateError, match="keep-id, new-id, fail-if-exists"):
        here.service.import_session(talk().export(), policy="replace")
    assert here.cost() == {}


def test_an_import_fails_if_the_session_exists(service: SessionService) -> None:
    filled(service, "i1")
    before = service.export_session("s1")
    with pytest.raises(SessionExistsError):
        service.import_session(talk("i2").export())
    assert same(service.export_session("s1"), before)


def test_an_import_may_take_a_new_id(service: SessionService) -> None:
    filled(service, "i1", "i2")
    document = service.export_session("s1")
    first, second = (service.import_session(document, policy="new-id").session for _ in range(2))
    assert len({"s1", first.id, second.id}) == 3
    for found in (first, second):
        assert same(service.get_session(found.id).to_plain(), {**service.get_session("s1").to_plain(), "id": found.id})
    given = service.get_session("s1")
    stored = service.store_session(given, policy="new-id").session
    stored.state["x"] = 1
    assert "x" not in given.state


def test_an_import_that_keeps_the_id_is_the_next_revision(service: SessionService, here: Host) -> None:
    filled(service, "i1", "i2")
    before = service.export_session("s1")
    document = Session.model_validate({**original(), "later": {"x": 1}}).export()
    assert service.import_session(document, policy=ImportPolicy.KEEP_ID).revision == 4
    assert same(service.export_session("s1"), document)
    assert same(service.get_session("s1", 3).export(), before)
    here.repo.restore("s1", 3)
    assert same(service.export_session("s1"), before)
    service.append_event("s1", event(3))
    assert ids(service.get_session("s1")) == ["e1", "e2", "e3"]


def test_an_import_of_what_is_there_is_no_revision(here: Host) -> None:
    filled(here.service, "i1", "i2")
    document = here.service.export_session("s1")
    here.cost()
    assert here.service.import_session(document, policy="keep-id").revision == 3
    assert "put" not in here.cost()


def test_an_import_that_keeps_the_id_creates_a_session_too(service: SessionService) -> None:
    document = talk("i1").export()
    assert service.import_session(document, policy="keep-id").revision == 1
    assert same(service.export_session("s1"), document)


@pytest.mark.parametrize("policy", ["keep-id", "fail-if-exists"])
def test_a_spent_id_is_not_imported(service: SessionService, policy: str) -> None:
    filled(service, "i1")
    document = service.export_session("s1")
    service.delete_session("s1")
    with pytest.raises(SessionDeletedError):
        service.import_session(document, policy=policy)
    assert service.import_session(document, policy="new-id").revision == 1


@EACH_PUT
@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("policy", ["keep-id", "fail-if-exists"])
def test_a_fault_never_spoils_an_import(hosts: Hosts, fault: Fault, nth: int, policy: str) -> None:
    document = talk("i1", "i2").export()
    hosts.here.faulty.plan.on("put", nth=nth, fault=fault)
    assert until_known(lambda: hosts.here.service.import_session(document, policy=policy)).revision == 1
    hosts.here.faulty.release()
    assert same(hosts.there.service.export_session("s1"), document)
    assert len(hosts.there.repo.history("s1")) == 1


def test_two_who_import_at_once_make_one_session(hosts: Hosts) -> None:
    document = talk("i1").export()
    other = Meanwhile(lambda: hosts.there.service.import_session(talk("i2").export()))
    hosts.here.faulty.plan.on("put", "heads/", nth=2, fault=other)
    with pytest.raises(SessionExistsError):
        hosts.here.service.import_session(document)
    assert hosts.here.service.get_events("s1") == [event(1, "i2")]


def test_other_content_of_the_session_stays_under_an_import(here: Host) -> None:
    filled(here.service, "i1")
    state = here.repo.load("s1")
    state.append_session_nodes([PluginPayload(plugin_type="other", body={"x": 1})])
    state.turn_index = 7
    here.repo.commit(state, execution_state=b"running")
    session = here.service.get_session("s1")
    session.append(event(2))
    here.service.store_session(session, policy="keep-id")
    found = here.repo.load("s1", execution_state=True)
    assert (found.turn_index, found.execution_state_snapshot) == (7, b"running")
    assert [node.node_id for node in found.session_graph.active_path_nodes()][-1] == "event:e2"
    assert len(found.session_graph.active_path_nodes()) == 4


# All of it, against the model.

steps = st.one_of(
    st.tuples(st.just("append"), st.integers(1, 8), st.sampled_from(["", "i1", "i2"])),
    st.tuples(st.just("rewind"), st.just(0), st.sampled_from(["", "i1", "i2", "i3"])),
    st.tuples(st.just("import"), st.integers(0, 3), st.just("")),
    st.tuples(st.just("restore"), st.integers(1, 9), st.just("")),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.booleans(), steps, st.sampled_from([None, *PUT_FAULTS])), max_size=12))
def test_the_service_does_what_the_model_does(plan: list[Any]) -> None:
    hosts = Hosts()
    model = talk()
    hosts.here.service.store_session(model)
    revisions = [model.model_copy(deep=True)]
    for is_here, (what, number, invocation_id), fault in plan:
        host = hosts.here if is_here else hosts.there
        hosts.clock.advance(1)
        if fault is not None:
            host.faulty.plan.on("put", "heads/", fault=PUT_FAULTS[fault])
        _step(host, model, revisions, what, number, invocation_id)
        host.faulty.plan.clear()
        host.faulty.release()
        found = hosts.started()
        assert [one.id for one in found.service.get_events("s1")] == ids(model)
        assert same(found.service.get_session("s1").state, model.state)
        found.repo.close()
    for number, expected in enumerate(revisions, 1):
        assert same(hosts.here.service.get_session("s1", number).state, expected.state)
    hosts.close()


def _step(host: Host, model: Session, revisions: list[Session], what: str, number: int, invocation_id: str) -> None:
    before = len(revisions)
    if what == "append":
        one = event(number, invocation_id, id=f"a{number}{invocation_id}", state_delta={f"k{number}": number})
        until_known(lambda: host.service.append_event("s1", one))
        if one.id not in ids(model):
            model.append(one)
            revisions.append(model)
    elif what == "rewind":
        until_known(lambda: host.service.rewind_to_invocation("s1", invocation_id))
        if model.rewind_to_invocation(invocation_id):
            revisions.append(model)
    elif what == "import":
        _become(model, talk(*["i1"] * number))
        model.state["by hand"] = number
        stored = until_known(lambda: host.service.store_session(model, policy="keep-id"))
        if stored.revision > before:
            revisions.append(model)
    elif number <= before:
        until_known(lambda: host.repo.restore("s1", number), attempts=1)
        _become(model, revisions[number - 1].model_copy(deep=True))
        revisions.append(model)
    if len(revisions) > before:
        revisions[-1] = model.model_copy(deep=True)


def _become(model: Session, other: Session) -> None:
    model.events, model.state = other.events, other.state
    model._initial_state = other.initial_state


def test_events_made_here_are_appended(service: SessionService) -> None:
    session = service.create_session("app", "user")
    for number in range(3):
        service.append_event(session.id, Event.new("agent", str(number), state_delta={"n": number}))
    assert [one.content for one in service.get_events(session.id)] == ["0", "1", "2"]
