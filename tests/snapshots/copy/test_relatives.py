"""A fork is copied while what it came from comes or goes here: its packs lie in the family that it ends in."""

from __future__ import annotations

import pytest

from snapshots import SnapshotRepository
from snapshots.layout import Layout
from snapshots.maintenance.copy.session import SessionJob, copy_session
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultyStore, Meanwhile
from tests.integration.builders import check_every_revision, new_session, take_turn
from tests.snapshots.copy.walks import collected, findings

HEAD = Layout("default").head("s1.fork")


def forked() -> SnapshotRepository:
    repo = SnapshotRepository(MemoryStore(), clock=ManualClock(seed=1), inline_limit_bytes=0)
    state = new_session("s1")
    for number in range(3):
        repo.commit(take_turn(state, f"m{number}"))
    repo.fork("s1", "s1.fork", 2)
    repo.commit(take_turn(repo.load("s1.fork"), "of the fork"))
    return repo


@pytest.mark.parametrize("is_there", [False, True], ids=["comes", "goes"])
def test_its_family_may_change_between_two_attempts(is_there: bool) -> None:
    source, store = forked(), MemoryStore()
    beside = SnapshotRepository(store, clock=ManualClock(seed=2))
    faulty = FaultyStore(store)
    here = SnapshotRepository(faulty, clock=ManualClock(seed=3))

    def come() -> None:
        copy_session(source.environment, beside.environment, SessionJob("s1"))

    def go() -> None:
        beside.delete("s1")

    if is_there:
        come()
    faulty.plan.on("put", HEAD, nth=2, fault=FailBefore())
    faulty.plan.on("get", HEAD, nth=2, fault=Meanwhile(go if is_there else come))
    job = SessionJob("s1.fork", relatives=("s1",))
    assert copy_session(source.environment, here.environment, job).revision == 2
    for _ in range(3):
        assert not findings(beside)
        check_every_revision(beside, "s1.fork")
        collected(beside)
