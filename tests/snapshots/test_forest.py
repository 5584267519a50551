"""The forest: who stands under whom, what each has stored, and that neither depth nor circles matter."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.children import EmptyStart
from snapshots.errors import CorruptSnapshotError, SessionNotFoundError
from snapshots.forest import SessionTree, TreeSession, forest, tree_under
from snapshots.head import MOVED, Head, Origin
from snapshots.layout import Layout
from snapshots.roots import named_packs
from snapshots.state import ROOT, ChildRelation, HandoffRelation
from snapshots.testing.collector import collect
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.executor import NestingExecutor
from storage.store import Create, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import Crash, CrashBefore, FailBefore, FaultyStore
from tests.integration.builders import WatchedStore, new_session, raw_head, rewrite_head, take_turn
from tests.snapshots.records import without_tail

LAYOUT = Layout("default")
CHAIN = 5000


class Place:
    """A store, and a repository that can be watched and fail. The clock goes on by itself between sessions."""

    def __init__(self) -> None:
        self.clock = ManualClock(seed=1)
        self.store = MemoryStore(self.clock)
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = SnapshotRepository(self.watched, clock=self.clock, inline_limit_bytes=0)

    def session(self, session_id: str, *turns: str) -> PersistedSessionState:
        """Commit each turn as a revision of its own, with an execution state of its own."""
        self.clock.sleep(1)
        state = new_session(session_id)
        for number, name in enumerate(turns or ("a0",)):
            self.repo.commit(take_turn(state, name), execution_state=bytes([number]) * 50_000)
        return state

    def fork(self, source: str, child: str, revision: int | str | None = None) -> None:
        self.clock.sleep(1)
        self.repo.fork(source, child, revision)

    def trees(self) -> tuple[SessionTree, ...]:
        return forest(self.repo.environment)

    def all(self) -> dict[str, TreeSession]:
        sessions = [one for tree in self.trees() for one in tree.sessions]
        found = {one.session_id: one for one in sessions}
        assert len(found) == len(sessions)
        return found

    def shape(self) -> list[str]:
        return ["  " * one.depth + one.session_id for tree in self.trees() for one in tree.sessions]

    def related(self, session_id: str, parent: str) -> None:
        rewrite_head(
            self.store, lambda head: replace(head, relation=ChildRelation(parent_session_id=parent)), session_id
        )

    def packs(self, *session_ids: str) -> dict[str, int]:
        """Return the packs that these sessions name by the one definition of it, with their sizes."""
        heads = [raw_head(self.store, session_id) for session_id in session_ids]
        keys = {LAYOUT.pack(head.family, name) for head in heads for name in named_packs(self.repo.environment, head)}
        return {key: self.store.stat(key).size_bytes for key in keys}


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def test_an_empty_tenant_has_no_trees(place: Place) -> None:
    assert place.trees() == ()


def test_a_session_alone_is_a_tree(place: Place) -> None:
    place.session("s1", "a0", "a1")
    ((one,),) = (tree.sessions for tree in place.trees())
    head = raw_head(place.store, "s1")
    assert one == TreeSession(
        session_id="s1",
        parent="",
        depth=0,
        status="live",
        revision=2,
        retained=2,
        created_at=head.created_at,
        family="s1",
        origin=None,
        relation=ROOT,
        holder="",
        pins=(),
        stored_bytes=sum(place.packs("s1").values()),
        own_bytes=sum(place.packs("s1").values()),
        family_bytes=sum(place.packs("s1").values()),
    )
    assert one.stored_bytes > 0


def test_children_stand_under_their_origin_by_creation(place: Place) -> None:
    place.session("root", "a0", "a1")
    place.session("other")
    for source, child in (("root", "z"), ("root", "b"), ("z", "zz"), ("b", "bb"), ("z", "za"), ("other", "o")):
        place.fork(source, child)
    assert place.shape() == ["root", "  z", "    zz", "    za", "  b", "    bb", "other", "  o"]
    found = place.all()
    assert {one.session_id: one.parent for one in found.values() if one.parent} == {
        "z": "root",
        "b": "root",
        "zz": "z",
        "za": "z",
        "bb": "b",
        "o": "other",
    }
    assert [tree.root.session_id for tree in place.trees()] == ["root", "other"]


def test_the_origin_says_which_revision_a_child_left_from(place: Place) -> None:
    place.session("s1", "a0", "a1", "a2")
    place.fork("s1", "child", 2)
    origin = place.all()["child"].origin
    assert origin is not None
    assert (origin.session_id, origin.revision) == ("s1", 2)
    assert origin.checkpoint_ref == place.repo.load("s1", 2).checkpoint_ref


def test_a_child_that_was_not_forked_stands_under_its_relation(place: Place) -> None:
    place.session("s1")
    place.repo.start_child("s1", EmptyStart(), "empty")
    handoff = HandoffRelation(parent_session_id="s1", reason="done")
    place.repo.start_child("s1", EmptyStart(), "next", relation=handoff)
    assert place.shape() == ["s1", "  empty", "  next"]
    found = place.all()
    assert found["empty"].origin is None
    assert found["empty"].family == "empty"
    assert found["next"].relation == handoff


def test_a_fork_that_is_a_root_by_relation_still_stands_under_its_origin(place: Place) -> None:
    place.session("s1")
    place.repo.fork("s1", "free", relation=ROOT)
    assert place.all()["free"].parent == "s1"


def test_a_child_of_a_missing_parent_is_a_root_that_names_it(place: Place) -> None:
    place.session("s1")
    place.fork("s1", "s2")
    place.fork("s2", "s3")
    place.store.delete(LAYOUT.head("s1"))
    assert place.shape() == ["s2", "  s3"]
    one = place.all()["s2"]
    assert (one.parent, one.origin and one.origin.session_id) == ("", "s1")
    assert one.own_bytes == 0  # s3 names the same pack
    assert one.family_bytes == one.stored_bytes > 0


def test_a_child_of_a_reservation_is_a_root_and_a_reservation_is_none(place: Place) -> None:
    without_tail(place.repo)
    place.faulty.plan.on("put", "/packs/", fault=CrashBefore())
    with pytest.raises(Crash):
        place.repo.commit(new_session("begun", "a0"))
    place.faulty.restart()
    assert place.trees() == ()
    place.session("s1")
    place.related("s1", "begun")
    assert place.shape() == ["s1"]
    assert place.all()["s1"].relation == ChildRelation(parent_session_id="begun")


def test_tombstones_stand_only_over_what_lives(place: Place) -> None:
    place.session("s1")
    for source, child in (("s1", "s2"), ("s2", "s3"), ("s1", "x1"), ("x1", "x2")):
        place.fork(source, child)
    place.session("alone")
    for name in ("s1", "s2", "x1", "x2", "alone"):
        place.repo.delete(name)
    assert place.shape() == ["s1", "  s2", "    s3"]
    found = place.all()
    assert [found[name].status for name in ("s1", "s2", "s3")] == ["tombstone", "tombstone", "live"]
    assert (found["s1"].stored_bytes, found["s1"].own_bytes, found["s1"].retained) == (0, 0, 0)
    assert found["s1"].family_bytes == found["s3"].stored_bytes == found["s3"].own_bytes > 0
    place.repo.delete("s3")
    assert place.trees() == ()


def test_a_moved_session_is_shown_and_has_nothing_here(place: Place) -> None:
    place.session("s1")
    place.fork("s1", "s2")
    rewrite_head(
        place.store,
        lambda head: replace(
            head, status=MOVED, destination="s3://b", checkpoint_ref=None, manifest=None, inline_manifest=b""
        ),
        "s1",
    )
    found = place.all()
    assert place.shape() == ["s1", "  s2"]
    assert (found["s1"].status, found["s1"].stored_bytes, found["s2"].own_bytes > 0) == ("moved", 0, True)


# Sizes.


def test_sizes_are_those_of_the_packs_that_heads_name(place: Place) -> None:
    state = place.session("s1", "a0", "a1", "a2")
    place.fork("s1", "s2", 2)
    place.fork("s2", "s3")
    child = place.repo.load("s2")
    place.repo.commit(take_turn(child, "b0"), execution_state=b"b" * 70_000)
    place.repo.commit(take_turn(state, "a3"))
    place.session("other")
    found = place.all()
    names = ["s1", "s2", "s3"]
    named = {name: place.packs(name) for name in names}
    for name in names:
        others = {key for other in names if other != name for key in named[other]}
        assert found[name].stored_bytes == sum(named[name].values())
        assert found[name].own_bytes == sum(size for key, size in named[name].items() if key not in others)
        assert found[name].family_bytes == sum(place.packs(*names).values())
    assert found["s3"].own_bytes == 0
    assert found["s2"].own_bytes > 0
    assert found["other"].family_bytes == found["other"].stored_bytes


def test_what_is_its_own_is_what_a_deletion_frees(place: Place) -> None:
    without_tail(place.repo)
    place.session("s1", "a0", "a1")
    place.fork("s1", "s2", 1)
    place.repo.commit(take_turn(place.repo.load("s2"), "b0"))
    own = place.all()["s2"].own_bytes
    before = place.repo.stats().packs_bytes
    place.repo.delete("s2")
    collect(place.repo.environment)
    assert before - place.repo.stats().packs_bytes == own > 0


def test_retained_counts_what_retention_keeps(place: Place) -> None:
    place.session("s1", *(f"a{number}" for number in range(6)))
    for revision, name in ((1, "first"), (1, "again"), (5, "late")):
        place.repo.pin("s1", revision, name)
    assert place.all()["s1"].retained == 6
    rewrite_head(place.store, lambda head: replace(head, floor=4, kept=(1, 2)), "s1")
    found = place.all()["s1"]
    assert found.retained == 5
    assert found.retained == sum(row.retained for row in place.repo.history("s1"))
    assert [pin.name for pin in found.pins] == ["again", "first", "late"]


def test_heads_are_read_once_and_packs_listed_once(place: Place) -> None:
    place.session("s1")
    for number in range(70):
        place.repo.fork("s1", f"f{number}")
    place.watched.start_over()
    assert len(place.all()) == 71
    verbs = [verb for verb, _ in place.watched.requests]
    assert verbs.count("list") == 2
    assert verbs.count("get") == 71


# Depth and circles.


def plant(place: Place, source: str, parents: dict[str, str]) -> None:
    """Write heads by hand: copies of `source`, each of which says that it was forked from its parent."""
    head = raw_head(place.store, source)
    assert head.checkpoint_ref is not None
    for number, (name, parent) in enumerate(parents.items()):
        origin = Origin(parent, 1, head.checkpoint_ref) if parent else None
        planted = replace(head, session_id=name, origin=origin, write_id=f"{number + 1:032x}")
        place.store.put(LAYOUT.head(name), planted.encode(), Create())


def test_thousands_of_forks_of_forks_are_a_tree(place: Place) -> None:
    place.session("c0")
    plant(place, "c0", {f"c{number}": f"c{number - 1}" for number in range(1, CHAIN + 1)})
    (tree,) = place.trees()
    assert [one.session_id for one in tree.sessions] == [f"c{number}" for number in range(CHAIN + 1)]
    assert tree.sessions[-1].depth == CHAIN
    assert tree == tree_under([tree], "c0")
    assert len(tree_under([tree], f"c{CHAIN - 9}").sessions) == 10


@pytest.mark.parametrize("circle", [["a"], ["a", "b"], ["b", "c", "a"], ["c", "a", "b"]])
def test_a_circle_is_cut_above_its_oldest(place: Place, circle: list[str]) -> None:
    for name in sorted(circle):
        place.session(name)
    place.session("hanger")
    place.session("leaf")
    for name, parent in zip(circle, [*circle[1:], circle[0]], strict=True):
        place.related(name, parent)
    place.related("hanger", circle[-1])
    place.related("leaf", "hanger")
    found = place.all()
    assert set(found) == {*circle, "hanger", "leaf"}
    assert [name for name, one in found.items() if not one.parent] == ["a"]
    assert found["a"].relation == ChildRelation(parent_session_id=[*circle, circle[0]][circle.index("a") + 1])
    assert found["leaf"].depth == found["hanger"].depth + 1 == found[circle[-1]].depth + 2


@pytest.mark.parametrize("parents", list(itertools.product(["", "a", "b", "c"], repeat=3)))
def test_whatever_relations_say_each_session_stands_there_once(place: Place, parents: tuple[str, ...]) -> None:
    place.session("source")
    names = "abc"
    plant(place, "source", dict(zip(names, parents, strict=True)))
    found = place.all()
    assert set(found) == {*names, "source"}
    order = list(found)
    for one in found.values():
        if one.parent:
            assert one.parent == parents[names.index(one.session_id)]
            assert order.index(one.parent) < order.index(one.session_id)
            assert one.depth == found[one.parent].depth + 1
        else:
            assert one.depth == 0


def test_a_dead_circle_is_not_shown(place: Place) -> None:
    place.session("s1")
    plant(place, "s1", {"a": "b", "b": "a"})
    for name in ("a", "b"):
        place.repo.delete(name)
    assert place.shape() == ["s1"]


# A part of the forest.


def test_the_part_under_a_session_begins_with_it(place: Place) -> None:
    place.session("s1")
    for source, child in (("s1", "s2"), ("s2", "s3"), ("s3", "s4"), ("s1", "x")):
        place.fork(source, child)
    part = tree_under(place.trees(), "s2")
    assert [(one.session_id, one.depth, one.parent) for one in part.sessions] == [
        ("s2", 0, ""),
        ("s3", 1, "s2"),
        ("s4", 2, "s3"),
    ]
    assert [one.session_id for one in tree_under(place.trees(), "x").sessions] == ["x"]
    with pytest.raises(SessionNotFoundError):
        tree_under(place.trees(), "none")


# Failures, and sessions that move on meanwhile.


def test_a_missing_pack_is_named(place: Place) -> None:
    place.session("s1")
    (pack,) = place.packs("s1")
    place.store.delete(pack)
    with pytest.raises(CorruptSnapshotError) as caught:
        place.trees()
    assert caught.value.key == pack


def test_a_missing_log_and_an_altered_one_are_named(place: Place) -> None:
    place.session("s1", "a0", "a1")
    packs = place.packs("s1")
    for key, size in packs.items():
        place.store.put(key, b"\0" * size, Overwrite())
    with pytest.raises(CorruptSnapshotError):
        place.trees()
    for key in packs:
        place.store.delete(key)
    with pytest.raises(CorruptSnapshotError, match="though a head names it"):
        place.trees()


def test_a_corrupt_head_is_named(place: Place) -> None:
    place.session("s1")
    place.store.put(LAYOUT.head("s1"), b"?", Overwrite())
    with pytest.raises(CorruptSnapshotError) as caught:
        place.trees()
    assert caught.value.key == LAYOUT.head("s1")


def test_a_store_that_does_not_answer_is_said_so(place: Place) -> None:
    place.session("s1")
    place.faulty.plan.on("list", "/packs/", fault=FailBefore())
    with pytest.raises(UnavailableError):
        place.trees()


def before_the_packs_are_listed(place: Place, act: Callable[[], object]) -> None:
    """Let `act` happen between the reading of heads and the listing of packs."""
    heads = len(list(place.store.list(LAYOUT.heads)))
    place.watched.start_over()
    place.trees()
    (number,) = [
        at for at, (verb, key) in enumerate(place.watched.requests, 1) if (verb, key) == ("list", LAYOUT.packs)
    ]
    assert number > heads
    place.watched.start_over()
    place.watched.before[number] = [act]


def test_a_session_deleted_and_collected_meanwhile_is_read_again(place: Place) -> None:
    place.session("s1")
    place.session("s2")

    def gone() -> None:
        with SnapshotRepository(place.store, clock=place.clock, inline_limit_bytes=0) as other:
            other.delete("s1")
            assert collect(other.environment).deleted

    before_the_packs_are_listed(place, gone)
    assert place.shape() == ["s2"]
    assert [verb for verb, _ in place.watched.requests].count("list") == 4


def test_a_session_collected_between_its_head_and_its_log_is_read_again(place: Place) -> None:
    place.session("s1", "a0", "a1")

    def gone() -> None:
        with SnapshotRepository(place.store, clock=place.clock, inline_limit_bytes=0) as other:
            other.delete("s1")
            assert collect(other.environment).deleted

    place.watched.start_over()
    place.trees()
    assert [key.split("/")[1] for _, key in place.watched.requests] == ["heads", "heads", "packs", "packs"]
    place.watched.start_over()
    place.watched.before[3] = [gone]
    assert place.trees() == ()


@pytest.mark.timeout(30)
def test_one_thread_is_enough(place: Place) -> None:
    for number in range(3):
        place.session(f"s{number}", "a0", "a1")
    with NestingExecutor(1) as executor:
        trees = forest(replace(place.repo.environment, executor=executor))
    assert [tree.root.revision for tree in trees] == [2, 2, 2]


def test_a_session_that_moves_on_meanwhile_is_shown_as_it_was_or_is(place: Place) -> None:
    place.session("s1")

    def committed() -> None:
        with SnapshotRepository(place.store, clock=place.clock, inline_limit_bytes=0) as other:
            other.commit(take_turn(other.load("s1"), "late"))

    before_the_packs_are_listed(place, committed)
    assert place.all()["s1"].revision == 1
    assert place.all()["s1"].revision == 2


def test_what_only_a_pinned_revision_needs_is_counted(place: Place) -> None:
    place.session("s1", "a0", "a1", "a2")
    place.repo.pin("s1", 1, "kept")
    rewrite_head(place.store, _with_floor(3), "s1")
    assert place.all()["s1"].stored_bytes == sum(place.packs("s1").values())


def _with_floor(floor: int) -> Callable[[Head], Head]:
    return lambda head: replace(head, floor=floor)
