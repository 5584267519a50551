"""Operations: what callers ask for is told once, to those who listen; while nobody does, it costs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, operations
from snapshots.errors import RevisionConflictError, SessionNotFoundError
from snapshots.maintenance.collect import execute
from snapshots.maintenance.garbage import plan_collect
from snapshots.maintenance.verify import verify
from snapshots.usage import UsageLog
from storage import observed
from storage.backends.memory import MemoryStore
from storage.observed import Listener, Operation, current, listen, stop_listening
from storage.store import ByteRange, StoredObject
from tests.integration.builders import SESSION, new_session, take_turn

pytestmark = pytest.mark.usefixtures("nobody_listens")


class Ended(Listener):
    """Keeps the operations that ended."""

    def __init__(self) -> None:
        self.operations: list[Operation] = []

    def ended(self, operation: Operation) -> None:
        self.operations.append(operation)

    @property
    def names(self) -> list[str]:
        return [operation.name for operation in self.operations]


@pytest.fixture
def repo(nobody_listens: None) -> Iterator[SnapshotRepository]:  # noqa: ARG001  before anything is opened
    with SnapshotRepository(MemoryStore()) as opened:
        yield opened


@pytest.fixture
def ended(repo: SnapshotRepository) -> Iterator[Ended]:  # noqa: ARG001  what opened it is not listened to
    found = Ended()
    listen(found)
    yield found
    stop_listening(found)


def test_an_operation_knows_what_it_was_and_what_it_took(repo: SnapshotRepository, ended: Ended) -> None:
    repo.commit(new_session(SESSION, "one"))
    (commit,) = ended.operations
    assert (commit.name, commit.outcome, commit.parent) == ("commit", "ok", None)
    assert commit.attributes == {"tenant": "default", "session_id": SESSION, "revision": 1}
    assert {verb: one.requests for verb, one in commit.traffic.items()} == {"put": 2}
    assert commit.traffic["put"].bytes_out > 1000
    assert commit.seconds > 0


def test_opening_a_store_is_an_operation_and_creating_one_another(nobody_listens: None) -> None:  # noqa: ARG001
    found, store = Ended(), MemoryStore()
    listen(found)
    for _ in range(2):
        SnapshotRepository(store).close()
    stop_listening(found)
    assert found.names == ["create", "open", "open"]
    assert [sorted(one.traffic) for one in found.operations] == [["put"], ["get"], ["get"]]


def test_what_an_operation_begins_is_part_of_it(repo: SnapshotRepository, ended: Ended) -> None:
    repo.commit(new_session(SESSION, "one"))
    repo.update(SESSION, lambda state: (take_turn(state, "two"), None)[1])
    _, commit, update = ended.operations
    assert (commit.name, update.name) == ("commit", "update")
    assert commit.parent is update
    assert (sorted(commit.traffic), sorted(update.traffic)) == (["put"], ["get"])


def test_what_is_uploaded_in_the_background_is_part_of_the_commit_that_began_it(
    repo: SnapshotRepository, ended: Ended
) -> None:
    state = new_session(SESSION)
    for number in range(12):
        take_turn(state, f"turn{number}")
        repo.commit(state, execution_state=Random(number).randbytes(3000))
    repo.drain()
    uploads = [one for one in ended.operations if one.name == "upload_ahead"]
    assert uploads
    assert all(one.parent is not None and one.parent.name == "commit" for one in uploads)
    assert all(one.traffic["put"].requests == 1 for one in uploads)


def test_an_error_is_an_outcome(repo: SnapshotRepository, ended: Ended) -> None:
    with pytest.raises(SessionNotFoundError):
        repo.load("nobody")
    stale = new_session(SESSION, "one")
    repo.commit(stale)
    repo.update(SESSION, lambda state: (take_turn(state, "two"), None)[1])
    with pytest.raises(RevisionConflictError):
        repo.commit(take_turn(stale, "other"))
    assert [one.outcome for one in ended.operations] == [
        *("SessionNotFoundError", "ok", "ok", "ok"),
        "RevisionConflictError",
    ]


def test_an_operation_that_yields_ends_with_its_last_item(repo: SnapshotRepository, ended: Ended) -> None:
    for name in "abc":
        repo.commit(new_session(name, "one"))
    ended.operations.clear()
    for info in repo.sessions():
        assert current() is None
        repo.load(info.session_id)
    assert ended.names == ["load", "load", "load", "sessions"]
    assert [one.parent for one in ended.operations] == [None] * 4
    assert ended.operations[-1].traffic["get"].requests == 3


def test_who_asks_for_no_more_items_has_not_failed(repo: SnapshotRepository, ended: Ended) -> None:
    repo.commit(new_session("a", "one"))
    repo.commit(new_session("b", "one"))
    sessions: Any = repo.sessions()  # a generator, as long as somebody listens
    next(sessions)
    assert "sessions" not in ended.names
    sessions.close()
    assert (ended.names[-1], ended.operations[-1].outcome) == ("sessions", "ok")


def test_who_is_interrupted_between_two_items_is_told(repo: SnapshotRepository, ended: Ended) -> None:
    sessions: Any = repo.sessions()
    repo.commit(new_session("a", "one"))
    next(sessions)
    with pytest.raises(KeyboardInterrupt):
        sessions.throw(KeyboardInterrupt)
    assert ended.operations[-1].outcome == "KeyboardInterrupt"


def test_maintenance_and_what_lies_beside_are_operations(repo: SnapshotRepository, ended: Ended) -> None:
    repo.commit(new_session(SESSION, "one"))
    UsageLog(repo, SESSION).append('{"model": "m"}')
    assert [row.row_id for row in UsageLog(repo, SESSION).read()]
    execute(plan_collect(repo))
    list(verify(repo))
    own = [operation.name for operation in ended.operations if operation.parent is None]
    assert own == ["commit", "usage.append", "usage.read", "collect.plan", "collect", "verify"]


def test_an_execution_state_that_is_read_on_demand_is_read_by_operations(
    repo: SnapshotRepository, ended: Ended
) -> None:
    repo.commit(new_session(SESSION, "one"), execution_state=bytes(range(256)) * 2000)
    ended.operations.clear()
    with repo.open_execution_state(repo.load(SESSION)) as stream:
        assert len(stream.read()) == 512_000
    assert ended.names[0] == "load"
    assert set(ended.names[1:]) == {"read_execution_state"}


class Asking(MemoryStore):
    """Keeps which operation was under way at every get."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Operation | None] = []

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        self.found.append(current())
        return super().get(key, byte_range)


@pytest.mark.usefixtures("nobody_listens")
def test_while_nobody_listens_nothing_is_made_and_no_clock_is_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    monkeypatch.setattr(observed, "Operation", lambda *_: made.append("operation"))
    monkeypatch.setattr(observed, "copy_context", lambda: made.append("context"))
    monkeypatch.setattr(observed, "requested", lambda *_, **__: made.append("request"))
    monkeypatch.setattr(operations._CLOCK, "monotonic", lambda: made.append("clock"), raising=False)
    monkeypatch.setattr(operations, "begin", lambda *_: made.append("begun"))
    store = Asking()
    with SnapshotRepository(store, inline_limit_bytes=0) as repo:
        state = PersistedSessionState(session_id=SESSION)
        for name in ("one", "two", "three"):
            repo.commit(take_turn(state, name))
        repo.load(SESSION)
        repo.update(SESSION, lambda state: (take_turn(state, "four"), None)[1])
        assert len(list(repo.sessions())) == 1
        execute(plan_collect(repo))
    assert made == []
    assert store.found
    assert set(store.found) == {None}
