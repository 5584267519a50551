"""The checks of the simulation can fail: each guarantee, broken by hand, is named."""

from __future__ import annotations

from dataclasses import replace

import pytest

from snapshots.commit import commit
from snapshots.head import TOMBSTONE, Head, Ring
from snapshots.layout import Layout
from snapshots.testing.simulation.copies import differences, is_as_it_was
from snapshots.testing.simulation.copies import problems as problems_of_copies
from snapshots.testing.simulation.hosts import CopyNotes, CopyTold, environment_in
from snapshots.testing.simulation.operations import Chain, HeadWritten, Operation, Written, chain_of, problems
from snapshots.testing.simulation.watch import COPIES, Watch, succession, succession_of_copies
from storage.backends.memory import MemoryStore
from storage.store import Create, Overwrite
from storage.testing.clock import ManualClock
from tests.integration.builders import take_turn
from tests.simulation.protocol import Start, environment_of, loaded_state

LAYOUT = Layout("default")
KEY = LAYOUT.head("s")
# Revision 1 was written at 10, 2 at 20, and the session was deleted at 30.
CHAIN = Chain(
    (
        Written(1, "one", begun=10, ended=20, fence=0, held=False),
        Written(2, "two", begun=20, ended=30, fence=7, held=True),
    ),
    deleted=30,
)


def done(what: str, called: int, answered: int, revision: int = 0, commit_id: str = "", fence: int = 0) -> Operation:
    assert what in ("commit", "read", "delete")
    return Operation("a", what, "s", called, answered, "done", revision, commit_id, fence)  # type: ignore[arg-type]  # checked above


@pytest.mark.parametrize(
    ("operation", "named"),
    [
        (done("commit", 5, 12, 1, "one"), ""),
        (done("commit", 5, 12, 1, "other"), "acknowledged"),
        (done("commit", 5, 12, 3, "three"), "acknowledged"),
        (done("commit", 12, 15, 1, "one"), "acknowledged"),
        (done("commit", 5, 9, 1, "one"), "acknowledged"),
        (done("commit", 15, 25, 2, "two", fence=7), ""),
        (done("commit", 15, 25, 2, "two", fence=6), "owner"),
        (done("commit", 15, 25, 2, "two"), "owner"),
        (done("read", 12, 15, 1), ""),
        (done("read", 5, 25, 1), ""),
        (done("read", 21, 25, 1), "read"),
        (done("read", 5, 15, 2), "read"),
        (done("read", 31, 35, 2), "read"),
        (done("delete", 25, 31), ""),
        (done("delete", 25, 29), "gone"),
        (Operation("a", "commit", "s", 5, 12, "refused", refused={"three"}), ""),
        (Operation("a", "commit", "s", 5, 12, "refused", refused={"two"}), "refused"),
        (Operation("a", "read", "s", 5, 31, "gone"), ""),
        (Operation("a", "read", "s", 5, 29, "gone"), "gone"),
        (Operation("a", "read", "s", 5, 40, "absent"), ""),
        (Operation("a", "read", "s", 11, 40, "absent"), "gone"),
        (Operation("a", "read", "other", 11, 40, "absent"), ""),
        (Operation("a", "commit", "s", 5, 40), ""),
    ],
)
def test_what_no_order_explains_is_named(operation: Operation, named: str) -> None:
    found = problems([operation], {"s": CHAIN})
    assert [problem.partition(":")[0] for problem in found] == ([named] if named else [])


def test_a_commit_that_stands_twice_is_named() -> None:
    twice = replace(CHAIN, revisions=tuple(replace(row, commit_id="one") for row in CHAIN.revisions))
    (problem,) = problems([], {"s": twice})
    assert problem == "acknowledged: commits ['one'] stand twice in s"


@pytest.fixture
def store() -> MemoryStore:
    found = MemoryStore(ManualClock())
    for key, data in Start.of({"s": 2}).objects.items():
        found.put(key, data, Create())
    return found


@pytest.fixture
def head(store: MemoryStore) -> Head:
    return Head.decode(store.get(KEY).data, key=KEY)


def test_a_chain_is_what_heads_tell(head: Head) -> None:
    first = replace(head, revision=1, commit_id="c1")
    heads = [first, replace(first, epoch=3), head, replace(head, status=TOMBSTONE)]
    chain = chain_of([HeadWritten(10 * number, one) for number, one in enumerate(heads, 1)])
    assert [(row.revision, row.begun, row.ended) for row in chain.revisions] == [(1, 10, 30), (2, 30, 40)]
    assert chain.deleted == 40


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"epoch": 4}, "heads only rise"),
        ({"fence": 4}, "heads only rise"),
        ({"revision": 1}, "heads only rise"),
        ({"revision": 4}, "heads only rise"),
        ({"status": "reserved"}, "heads only rise"),
        ({"family": "other"}, "a family stays"),
        ({"write_id": "f" * 32}, "heads are told apart"),
        ({"epoch": 6}, ""),
    ],
)
def test_a_head_that_may_not_follow_is_named(head: Head, change: dict[str, object], named: str) -> None:
    old = replace(head, epoch=5, fence=5, write_id="f" * 32)
    new = replace(old, **{"write_id": "e" * 32, **change})  # type: ignore[arg-type]  # of these fields
    found = succession(KEY, old, new)
    assert [problem.partition(":")[0] for problem in found] == ([named] if named else [])


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"revision": 4}, ""),
        ({"revision": 1}, "heads only rise"),
        ({"revision": 4, "commits": Ring(1, ("f" * 32,) * 4)}, "a copy goes on from itself"),
        ({"commits": Ring(1, ("f" * 32,) * 2)}, "a copy goes on from itself"),
    ],
)
def test_a_head_that_may_not_follow_in_a_copy_is_named(head: Head, change: dict[str, object], named: str) -> None:
    new = replace(head, **{"write_id": "e" * 32, **change})  # type: ignore[arg-type]  # of these fields
    found = succession_of_copies(KEY, head, new)
    assert [problem.partition(":")[0] for problem in found] == ([named] if named else [])


def test_a_tombstone_is_final(head: Head) -> None:
    (problem,) = succession(KEY, replace(head, status=TOMBSTONE), replace(head, write_id="e" * 32))
    assert problem == f"heads only rise: the tombstone {KEY} came back to life"


def test_a_pack_deleted_under_a_head_is_named(store: MemoryStore) -> None:
    watch = Watch(store, LAYOUT)
    watch.check()
    pack = next(iter(store.list(LAYOUT.packs))).key
    watch.delete_many([pack])
    with pytest.raises(AssertionError, match=f"nothing dangles: {pack} was deleted, and {KEY} names it"):
        watch.check()


def test_a_head_published_without_its_pack_is_named(store: MemoryStore, head: Head) -> None:
    watch = Watch(store, LAYOUT)
    other = replace(head, session_id="t", family="t")
    watch.put(LAYOUT.head("t"), other.encode(), Create())
    with pytest.raises(AssertionError, match="nothing dangles"):
        watch.check()


def test_a_head_lost_in_a_power_cut_is_named(store: MemoryStore) -> None:
    watch = Watch(store, LAYOUT)
    watch.moved_to(MemoryStore(ManualClock()))
    with pytest.raises(AssertionError, match=f"heads only rise: {KEY} is gone"):
        watch.check()


def test_a_head_that_a_power_cut_set_back_is_named(store: MemoryStore, head: Head) -> None:
    watch = Watch(store, LAYOUT)
    watch.put(KEY, replace(head, epoch=5, write_id="e" * 32).encode(), Overwrite())
    watch.check()
    before = MemoryStore(ManualClock())
    for row in store.list(""):
        before.put(row.key, store.get(row.key).data, Create())
    before.put(KEY, head.encode(), Overwrite())
    watch.moved_to(before)
    with pytest.raises(AssertionError, match="heads only rise: the epoch"):
        watch.check()


# Copies.

ASKED = Operation("a", "other", "", 5, 12, "done")
REFUSED = Operation("a", "other", "", 5, 12, "refused")


def named_in(notes: CopyNotes, source: list[HeadWritten], copies: list[HeadWritten]) -> list[str]:
    return [problem.partition(":")[0] for problem in problems_of_copies(notes, {"s": source}, {"s": copies})]


def test_a_copy_that_was_told_as_done_has_to_be_there(head: Head) -> None:
    first = replace(head, revision=1)
    source = [HeadWritten(1, first), HeadWritten(4, head), HeadWritten(8, replace(head, revision=3))]
    done = CopyNotes(told=[CopyTold(ASKED, "s", revision=2)])
    assert named_in(done, source, [HeadWritten(10, head)]) == []
    assert named_in(done, source, [HeadWritten(3, head)]) == []
    assert named_in(done, source, [HeadWritten(13, head)]) == ["acknowledged"]
    assert named_in(done, source, [HeadWritten(10, replace(head, status=TOMBSTONE))]) == ["acknowledged"]
    assert named_in(done, source, []) == ["acknowledged"]
    older = CopyNotes(told=[CopyTold(ASKED, "s", revision=1)])
    assert named_in(older, source, [HeadWritten(10, first)]) == ["acknowledged"]


def test_a_conflict_where_nobody_changed_the_copy_is_named(head: Head) -> None:
    told = [CopyTold(REFUSED, "s", is_conflict=True)]
    assert named_in(CopyNotes(told=told), [], [HeadWritten(1, head)]) == ["refused"]
    assert named_in(CopyNotes(told=told, changed={"s"}), [], [HeadWritten(1, head)]) == []


def test_a_revision_that_the_source_never_had_is_no_copy(head: Head) -> None:
    source = {"s": [HeadWritten(1, head), HeadWritten(2, replace(head, revision=3, commit_id="f" * 32))]}
    assert is_as_it_was(replace(head, epoch=9, floor=2), source)
    assert not is_as_it_was(replace(head, commit_id="f" * 32), source)
    assert not is_as_it_was(replace(head, revision=3), source)
    assert not is_as_it_was(replace(head, session_id="t"), source)


def test_a_copy_that_is_another_session_is_named(store: MemoryStore) -> None:
    source = environment_of(store, ManualClock(seed=1))
    here = environment_in(source, COPIES)
    assert list(differences(CopyNotes(), source, here, ["s"])) == []
    commit(here, take_turn(loaded_state(here, "s"), "another"), None, execution_state=None)
    (found,) = differences(CopyNotes(), source, here, ["s"])
    assert found.startswith("whole: s cannot be copied")
    assert list(differences(CopyNotes(changed={"s"}), source, here, ["s"])) == []
