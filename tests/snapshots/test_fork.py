"""Forking: what the child has, what it costs, what is refused, and that neither can affect the other."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from dataclasses import replace
from random import Random

import pytest

from snapshots import PersistedSessionState, SessionPolicy, SnapshotRepository, TurnStamp
from snapshots.compaction import Limits
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    InvalidStateError,
    LimitExceededError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionExistsError,
    SessionMovedError,
    SessionNotFoundError,
    SnapshotError,
)
from snapshots.head import INLINE_MANIFEST_BYTES_MAX, MOVED, RELATION_BYTES_MAX, RESERVED, Origin
from snapshots.layout import Layout
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from snapshots.overrides import OVERRIDES_BYTES_MAX
from snapshots.state import (
    ROOT,
    ChildRelation,
    HandoffRelation,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    PromptLayer,
    SessionRelation,
)
from snapshots.testing.collector import collect
from storage.backends.memory import MemoryStore
from storage.errors import InvalidKeyError, UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import CrashAfter, CrashBefore, Delay, FailBefore, FaultyStore, LoseAnswer
from storage.testing.plan import Crash, Fault
from tests.integration.builders import (
    PUT_FAULTS,
    SESSION,
    WatchedStore,
    check_every_revision,
    check_puts,
    message,
    message_ids,
    new_session,
    raw_head,
    rewrite_head,
    take_turn,
    usage_of,
)
from tests.snapshots.records import NO_TAIL, TAIL, with_limits

LAYOUT = Layout("default")
LAST = 6
STATE = bytes(range(256)) * 1200  # an execution state of several frames


class Place:
    """A store with one session of six revisions, and a repository that can be watched and fail.

    Args:
        limits: What commits leave lying apart.
    """

    def __init__(self, limits: Limits) -> None:
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = with_limits(SnapshotRepository(self.watched, clock=ManualClock(seed=1)), limits)
        self.state = PersistedSessionState(session_id=SESSION, policy=SessionPolicy(model="m1", session_id=SESSION))
        for number in range(1, LAST + 1):
            take_turn(self.state, f"a{number}")
            self.state.plugin_snapshot = plugins(number)
            self.state.plugin_snapshot_revision = number
            self.repo.commit(self.state, execution_state=STATE + bytes([number]))
        self.watched.start_over()
        self.watched.puts.clear()

    def collected(self) -> int:
        """Collect; return the number of packs deleted."""
        return len(collect(self.repo.environment).deleted)

    def keys(self) -> list[str]:
        return [row.key for row in self.store.list("")]


def plugins(revision: int) -> PluginSessionSnapshot:
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", revision=revision, state={"n": revision})
    return PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)})


@pytest.fixture
def packing() -> Iterator[Place]:
    """Give a place where each commit has a pack in the store."""
    made = Place(NO_TAIL)
    yield made
    made.repo.close()


@pytest.fixture(params=[TAIL, NO_TAIL], ids=["tail", "no tail"])
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    made = Place(request.param)
    yield made
    made.repo.close()


def loaded(place: Place, session_id: str, revision: int | str | None = None) -> PersistedSessionState:
    return place.repo.load(session_id, revision, execution_state=True)


def check_like_the_source(child: PersistedSessionState, source: PersistedSessionState) -> None:
    """Check that a fork has the content of the revision it came from, but for what is its own."""
    own = {"session_id", "policy", "token_ledger", "checkpoint_ref", "head_revision"}
    for name in PersistedSessionState.model_fields.keys() - own:
        assert getattr(child, name) == getattr(source, name), name
    assert child.head_revision == 1
    assert child.token_ledger == []
    assert child.policy == source.policy.model_copy(update={"session_id": child.session_id})


# What a fork is.


@pytest.mark.parametrize("revision", [None, *range(1, LAST + 1)])
def test_a_fork_has_the_content_of_the_revision(place: Place, revision: int | None) -> None:
    result = place.repo.fork(SESSION, "c1", revision)
    source = loaded(place, SESSION, revision)
    child = loaded(place, "c1")
    check_like_the_source(child, source)
    assert result.checkpoint_ref == child.checkpoint_ref != source.checkpoint_ref
    assert result.origin == Origin(SESSION, revision or LAST, source.checkpoint_ref)  # type: ignore[arg-type]  # it has one
    (row,) = place.repo.history("c1")
    assert (row.kind, row.parent, row.commit_id, row.retained) == ("fork", 0, result.commit_id, True)
    assert row.node_count == len(child.session_graph.nodes)


def test_a_fork_takes_three_requests_and_of_an_older_revision_one_or_two_more(place: Place) -> None:
    assert place.repo.fork(SESSION, "c1").requests == 3
    assert place.watched.requests == [
        ("put", LAYOUT.head("c1")),
        ("get", LAYOUT.head(SESSION)),
        ("put", LAYOUT.head("c1")),
    ]
    for revision in range(1, LAST):
        assert place.repo.fork(SESSION, f"d{revision}", revision).requests <= 5
    place.repo.pin(SESSION, 2, "two")
    assert place.repo.fork(SESSION, "by-pin", "two").requests <= 5
    check_puts(place.watched.puts)


def test_a_fork_writes_nothing_but_its_head(place: Place) -> None:
    before = place.keys()
    result = place.repo.fork(SESSION, "c1", 3)
    assert set(place.keys()) - set(before) == {LAYOUT.head("c1")}
    assert result.uploaded_bytes < 16 << 10


def test_a_fork_is_told_by_its_listing(place: Place) -> None:
    place.repo.fork(SESSION, "c1", 3, relation=ChildRelation(parent_session_id=SESSION, originating_tool_call_id="t9"))
    info = {one.session_id: one for one in place.repo.sessions()}
    assert info["c1"].family == info[SESSION].family == SESSION
    assert info["c1"].origin is not None
    assert (info["c1"].origin.session_id, info["c1"].origin.revision) == (SESSION, 3)
    assert info["c1"].relation == ChildRelation(parent_session_id=SESSION, originating_tool_call_id="t9")
    assert (info[SESSION].origin, info[SESSION].relation) == (None, ROOT)


@pytest.mark.parametrize(
    "relation",
    [ROOT, HandoffRelation(parent_session_id="elsewhere", reason="shift ends", metadata={"by": ["me", 1]})],
    ids=["root", "handoff"],
)
def test_a_relation_stays_through_commits(place: Place, relation: SessionRelation) -> None:
    place.repo.fork(SESSION, "c1", relation=relation)
    place.repo.commit(take_turn(place.repo.load("c1"), "b1"))
    head = raw_head(place.store, "c1")
    assert head.relation == relation
    assert head.origin is not None
    assert head.overrides is None
    expected = SESSION if relation == ROOT else "c1"  # only a child's policy names it
    assert place.repo.load("c1").policy.session_id == expected


def test_plugins_may_start_afresh(place: Place) -> None:
    place.repo.fork(SESSION, "c1", plugins="fresh")
    child = place.repo.load("c1")
    assert (child.plugin_snapshot, child.plugin_snapshot_ref, child.plugin_snapshot_revision) == (None, None, None)
    inherited = place.repo.fork("c1", "c2")
    assert place.repo.load("c2").plugin_snapshot is None
    assert inherited.requests == 3


def test_a_policy_may_be_its_own(place: Place) -> None:
    place.repo.fork(SESSION, "c1", policy=SessionPolicy(model="m2"))
    assert place.repo.load("c1").policy == SessionPolicy(model="m2", session_id="c1")
    place.repo.fork("c1", "c2")
    assert place.repo.load("c2").policy == SessionPolicy(model="m2", session_id="c2")
    place.repo.fork("c1", "c3", policy=SessionPolicy(model="m3"), relation=ROOT)
    assert place.repo.load("c3").policy == SessionPolicy(model="m3")


def test_a_policy_too_large_for_a_head_is_stored_in_a_pack(place: Place) -> None:
    large = SessionPolicy(model="m2", prompt=PromptLayer(template="x" * OVERRIDES_BYTES_MAX))
    place.repo.fork(SESSION, "c1", 3, policy=large)
    assert raw_head(place.store, "c1").overrides is None
    child = loaded(place, "c1")
    assert child.policy == large.model_copy(update={"session_id": "c1"})
    assert message_ids(child) == ["a1", "a2", "a3"]
    check_every_revision(place.repo, "c1")


def test_initial_nodes_are_stored_with_the_first_revision(place: Place) -> None:
    result = place.repo.fork(SESSION, "c1", 2, initial_nodes=[message("hello")], plugins="fresh")
    child = loaded(place, "c1")
    assert message_ids(child) == ["a1", "a2", "hello"]
    assert (child.head_revision, child.token_ledger, child.plugin_snapshot) == (1, [], None)
    assert child.execution_state_snapshot == STATE + b"\x02"
    assert result.checkpoint_ref == child.checkpoint_ref
    assert raw_head(place.store, "c1").origin == result.origin
    assert result.uploaded_bytes < 64 << 10
    (row,) = place.repo.history("c1")
    assert (row.kind, row.node_count) == ("fork", len(child.session_graph.nodes))
    place.repo.commit(take_turn(child, "b1"))
    check_every_revision(place.repo, "c1")


# What becomes of it.


def test_commits_of_parent_and_child_do_not_meet(place: Place) -> None:
    place.repo.fork(SESSION, "c1", 4)
    child = place.repo.load("c1")
    for number in range(1, 12):
        place.repo.commit(take_turn(child, f"b{number}"))
        place.repo.commit(take_turn(place.state, f"x{number}"))
    assert message_ids(place.repo.load("c1")) == ["a1", "a2", "a3", "a4", *(f"b{n}" for n in range(1, 12))]
    assert usage_of(place.repo.load("c1")) == {"b": 11}
    assert message_ids(place.repo.load(SESSION))[LAST:] == [f"x{n}" for n in range(1, 12)]
    check_every_revision(place.repo, "c1")
    check_every_revision(place.repo, SESSION)
    check_like_the_source(loaded(place, "c1", 1), loaded(place, SESSION, 4))


def test_the_first_revision_of_a_fork_keeps_its_checkpoint(place: Place) -> None:
    first = place.repo.fork(SESSION, "c1", 3, plugins="fresh").checkpoint_ref
    place.repo.commit(take_turn(place.repo.load("c1"), "b1"))
    assert place.repo.load("c1", 1).checkpoint_ref == first
    again = place.repo.fork("c1", "c2", 1)
    assert again.origin == Origin("c1", 1, first)
    assert message_ids(place.repo.load("c2")) == ["a1", "a2", "a3"]
    assert place.repo.load("c2").plugin_snapshot is None
    place.repo.rewind("c1", 1)
    rewound = place.repo.load("c1")
    assert message_ids(rewound) == ["a1", "a2", "a3"]
    assert rewound.plugin_snapshot is None
    assert rewound.policy.session_id == "c1"


def test_forks_of_forks_stand_alone(place: Place) -> None:
    names = [SESSION, "f1", "f2", "f3", "f4"]
    for source, child in itertools.pairwise(names):
        assert place.repo.fork(source, child).requests == 3
    for name in names[1:]:
        check_like_the_source(loaded(place, name), loaded(place, SESSION))
    refs = {loaded(place, name).checkpoint_ref for name in names}
    assert len(refs) == len(names)
    for name in names[:-1]:
        place.repo.delete(name)
    place.collected()
    assert loaded(place, "f4").execution_state_snapshot == STATE + bytes([LAST])
    place.repo.commit(take_turn(place.repo.load("f4"), "b1"))
    check_every_revision(place.repo, "f4")


@pytest.mark.parametrize("gone", [SESSION, "c1"])
def test_deleting_one_leaves_the_other_whole(packing: Place, gone: str) -> None:
    packing.repo.fork(SESSION, "c1", 3)
    packing.repo.commit(take_turn(packing.repo.load("c1"), "b1"))
    expected = {name: loaded(packing, name) for name in (SESSION, "c1") if name != gone}
    packing.repo.delete(gone)
    assert packing.collected() > 0
    for name, state in expected.items():
        assert loaded(packing, name) == state
        check_every_revision(packing.repo, name)
    packing.repo.delete(*expected)
    packing.collected()
    assert not list(packing.store.list(LAYOUT.packs))


def test_a_fork_needs_no_pack_that_only_its_source_needs(packing: Place) -> None:
    large = SessionPolicy(model=Random(7).randbytes(INLINE_MANIFEST_BYTES_MAX).hex(), session_id="s2")
    state = take_turn(PersistedSessionState(session_id="s2", policy=large), "a1")
    for number in range(4):  # but for the first and the last, nothing of them is the child's: rows of the history
        packing.repo.commit(state, execution_state=STATE[number:])
    assert raw_head(packing.store, "s2").reads
    packing.repo.fork("s2", "c1")
    expected = loaded(packing, "c1")
    packing.repo.delete("s2")
    assert packing.collected() == 2
    assert loaded(packing, "c1") == expected
    assert [one for one in verify(packing.repo) if isinstance(one, Finding)] == []


def test_turn_ids_of_the_source_are_free_in_the_fork(place: Place) -> None:
    place.repo.commit(take_turn(place.state, "a7"), TurnStamp("t7"))
    place.repo.fork(SESSION, "c1")
    assert place.repo.commit(take_turn(place.repo.load("c1"), "b1"), TurnStamp("t7")).head_revision == 2


def test_a_fork_while_the_source_commits_is_of_one_revision_or_the_other(place: Place) -> None:
    place.watched.act(2, lambda: place.repo.commit(take_turn(place.state, "meanwhile")))
    place.repo.fork(SESSION, "c1")
    assert message_ids(place.repo.load("c1")) == [f"a{n}" for n in range(1, LAST + 1)] + ["meanwhile"]
    place.watched.start_over()
    place.watched.act(3, lambda: place.repo.commit(take_turn(place.state, "later")))
    place.repo.fork(SESSION, "c2")
    assert message_ids(place.repo.load("c2"))[-1] == "meanwhile"


# Collections meanwhile.


def test_a_fork_that_a_collection_overtook_reads_the_source_again(place: Place) -> None:
    place.watched.act(3, lambda: collect(place.repo.environment))
    result = place.repo.fork(SESSION, "c1")
    assert raw_head(place.store, "c1").epoch == 1
    assert result.requests == 6  # a refused publish, and both heads read again
    assert message_ids(place.repo.load("c1"))[-1] == f"a{LAST}"


def test_a_source_that_lags_behind_is_helped(place: Place) -> None:
    def reserve_at_a_later_epoch() -> None:
        rewrite_head(place.store, lambda head: replace(head, epoch=7, write_id="f" * 32), "c1")

    place.watched.act(3, reserve_at_a_later_epoch)
    place.repo.fork(SESSION, "c1")
    assert raw_head(place.store, SESSION).epoch == 8  # a fresh number, above the child's
    assert raw_head(place.store, "c1").epoch == 7  # a publish never changes the epoch
    check_like_the_source(loaded(place, "c1"), loaded(place, SESSION))
    assert collect(place.repo.environment).number == 9


def test_helping_does_not_disturb_a_commit_of_the_source(place: Place) -> None:
    held = take_turn(place.repo.load(SESSION), "x1")
    rewrite_head(place.store, lambda head: replace(head, epoch=3, write_id="f" * 32), SESSION)
    place.repo.commit(held)
    assert place.repo.load(SESSION).head_revision == LAST + 1
    assert raw_head(place.store, SESSION).epoch == 3


# Faults.


@pytest.mark.parametrize("name", PUT_FAULTS)
@pytest.mark.parametrize("nth", [1, 2], ids=["reservation", "publish"])
def test_a_fork_is_made_once_whatever_happens_to_its_puts(place: Place, name: str, nth: int) -> None:
    place.faulty.plan.on("put", LAYOUT.head("c1"), nth=nth, fault=PUT_FAULTS[name])
    result = place.repo.fork(SESSION, "c1")
    place.faulty.release()
    child = place.repo.load("c1")
    assert child.checkpoint_ref == result.checkpoint_ref
    (row,) = place.repo.history("c1")
    assert row.commit_id == result.commit_id
    check_puts(place.watched.puts)


@pytest.mark.parametrize("fault", [FailBefore("unknown"), LoseAnswer()], ids=["not applied", "applied"])
def test_a_fork_in_doubt_says_so(place: Place, fault: Fault) -> None:
    place.faulty.plan.on("put", LAYOUT.head("c1"), nth=2, times=99, fault=fault)
    place.faulty.plan.on("get", LAYOUT.head("c1"), times=99, fault=FailBefore())
    with pytest.raises(CommitUnknownError, match="history"):
        place.repo.fork(SESSION, "c1")


def test_a_source_that_ends_while_the_fork_is_in_doubt_decides_nothing(place: Place) -> None:
    other = SnapshotRepository(place.store, clock=ManualClock(seed=2))
    place.faulty.plan.on("put", LAYOUT.head("c1"), nth=2, fault=Delay())
    place.watched.act(4, lambda: other.delete(SESSION))
    with pytest.raises(CommitUnknownError):
        place.repo.fork(SESSION, "c1")
    place.faulty.release()
    assert message_ids(place.repo.load("c1"))[-1] == f"a{LAST}"  # it arrived after all
    other.close()


def test_a_fork_that_was_applied_and_cannot_be_read_is_no_no(place: Place) -> None:
    other = SnapshotRepository(place.store, clock=ManualClock(seed=2))

    def use_the_child() -> None:
        other.commit(take_turn(other.load("c1"), "b1"))
        place.faulty.plan.on("get", LAYOUT.head("c1"), nth=2, times=99, fault=FailBefore())

    place.faulty.plan.on("put", LAYOUT.head("c1"), nth=2, fault=LoseAnswer())
    place.watched.act(4, use_the_child)
    with pytest.raises(CommitUnknownError):
        place.repo.fork(SESSION, "c1")
    other.close()


def test_a_child_that_somebody_holds_exists(place: Place) -> None:
    place.repo.commit(new_session("c1", "own1"))
    place.repo.acquire("c1", "host-a")
    with pytest.raises(SessionExistsError):
        place.repo.fork(SESSION, "c1")


def test_a_fork_without_an_answer_made_nothing(place: Place) -> None:
    place.faulty.plan.on("put", LAYOUT.head("c1"), nth=2, times=99, fault=FailBefore("no"))
    with pytest.raises(UnavailableError) as caught:
        place.repo.fork(SESSION, "c1")
    assert caught.value.applied == "no"
    with pytest.raises(SessionNotFoundError):
        place.repo.load("c1")


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
@pytest.mark.parametrize("number", range(1, 4))
def test_a_fork_that_crashed_leaves_a_reservation_or_a_child(place: Place, crash: Fault, number: int) -> None:
    verb, key = [("put", "c1"), ("get", SESSION), ("put", "c1")][number - 1]
    place.faulty.plan.on(verb, LAYOUT.head(key), nth=2 if number == 3 else 1, fault=crash)  # type: ignore[arg-type]  # a verb
    with pytest.raises(Crash):
        place.repo.fork(SESSION, "c1")
    place.faulty.restart()
    place.collected()
    try:
        place.repo.fork(SESSION, "c1")
    except SessionExistsError:
        assert (number, crash) == (3, CrashAfter())
    check_like_the_source(loaded(place, "c1"), loaded(place, SESSION))


def test_a_child_that_was_used_before_the_fork_knew_of_it(place: Place) -> None:
    place.faulty.plan.on("put", LAYOUT.head("c1"), nth=2, fault=LoseAnswer())
    other = SnapshotRepository(place.store, clock=ManualClock(seed=2))
    place.watched.act(4, lambda: other.commit(take_turn(other.load("c1"), "b1")))
    result = place.repo.fork(SESSION, "c1")
    assert place.repo.load("c1", 1).checkpoint_ref == result.checkpoint_ref
    assert place.repo.load("c1").head_revision == 2
    other.close()


# Bad input.


def test_a_live_child_is_not_forked_over(place: Place) -> None:
    place.repo.commit(new_session("c1", "own1"))
    with pytest.raises(SessionExistsError) as caught:
        place.repo.fork(SESSION, "c1")
    assert caught.value.session_id == "c1"
    assert message_ids(place.repo.load("c1")) == ["own1"]
    with pytest.raises(SessionExistsError):
        place.repo.fork(SESSION, SESSION)


def test_two_forks_of_one_id_have_one_winner(place: Place) -> None:
    other = SnapshotRepository(place.store, clock=ManualClock(seed=2))
    place.watched.act(3, lambda: other.fork(SESSION, "c1", 1))
    with pytest.raises(SessionExistsError):
        place.repo.fork(SESSION, "c1")
    assert message_ids(place.repo.load("c1")) == ["a1"]
    other.close()


def test_a_deleted_id_is_spent(place: Place) -> None:
    place.repo.fork(SESSION, "c1")
    place.repo.delete("c1")
    with pytest.raises(SessionDeletedError):
        place.repo.fork(SESSION, "c1")


def moved(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, status=MOVED, destination="s3://b", write_id="f" * 32))


BAD: dict[str, tuple[Callable[[Place], object], Callable[[Place], object], type[Exception]]] = {
    "unknown source": (lambda _: None, lambda p: p.repo.fork("nobody", "c1"), SessionNotFoundError),
    "unknown revision": (lambda _: None, lambda p: p.repo.fork(SESSION, "c1", LAST + 1), RevisionNotFoundError),
    "revision zero": (lambda _: None, lambda p: p.repo.fork(SESSION, "c1", 0), RevisionNotFoundError),
    "unknown pin": (lambda _: None, lambda p: p.repo.fork(SESSION, "c1", "nope"), RevisionNotFoundError),
    "deleted source": (lambda p: p.repo.delete(SESSION), lambda p: p.repo.fork(SESSION, "c1"), SessionDeletedError),
    "moved source": (moved, lambda p: p.repo.fork(SESSION, "c1"), SessionMovedError),
    "pruned revision": (
        lambda p: rewrite_head(p.store, lambda head: replace(head, floor=4, write_id="f" * 32)),
        lambda p: p.repo.fork(SESSION, "c1", 3),
        RevisionNotFoundError,
    ),
    "reserved source": (
        lambda p: reserve(p, "r1"),
        lambda p: p.repo.fork("r1", "c1"),
        SessionNotFoundError,
    ),
}


def reserve(place: Place, session_id: str) -> None:
    """Leave what a creator leaves that died after its reservation."""
    place.faulty.plan.on("put", LAYOUT.packs, fault=CrashBefore())
    with pytest.raises(Crash):
        place.repo.commit(new_session(session_id, "x"))
    place.faulty.restart()
    assert raw_head(place.store, session_id).status == RESERVED


@pytest.mark.parametrize("name", BAD)
def test_what_cannot_be_forked_is_refused(packing: Place, name: str) -> None:
    prepare, fork, expected = BAD[name]
    prepare(packing)
    before = packing.keys()
    with pytest.raises(expected):
        fork(packing)
    assert set(packing.keys()) - set(before) <= {LAYOUT.head("c1")}  # a reservation, which reads as "not found"
    with pytest.raises(SessionNotFoundError):
        packing.repo.load("c1")
    other = new_session("c1", "mine")  # and which the next creator takes over
    packing.repo.commit(other)
    assert message_ids(packing.repo.load("c1")) == ["mine"]


@pytest.mark.parametrize(
    ("fork", "expected"),
    [
        (lambda p: p.repo.fork(SESSION, ""), InvalidKeyError),
        (lambda p: p.repo.fork("\n", "c1"), InvalidKeyError),
        (lambda p: p.repo.fork(SESSION, "c1", plugins="some"), InvalidStateError),
        (lambda p: p.repo.fork(SESSION, "c1", relation=ChildRelation(parent_session_id="c1")), InvalidStateError),
        (lambda p: p.repo.fork(SESSION, "c1", relation=ChildRelation(parent_session_id="")), InvalidKeyError),
        (
            lambda p: p.repo.fork(
                SESSION, "c1", relation=HandoffRelation(parent_session_id="s", reason="r" * RELATION_BYTES_MAX)
            ),
            LimitExceededError,
        ),
    ],
)
def test_bad_arguments_are_refused_before_anything_is_written(
    place: Place, fork: Callable[[Place], object], expected: type[Exception]
) -> None:
    before = place.keys()
    with pytest.raises(expected):
        fork(place)
    assert place.keys() == before


def test_a_damaged_source_is_not_forked(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, inline_manifest=head.inline_manifest[:-1], write_id="f" * 32))
    with pytest.raises(SnapshotError) as caught:
        place.repo.fork(SESSION, "c1")
    assert isinstance(caught.value, CorruptSnapshotError)
    with pytest.raises(SessionNotFoundError):
        place.repo.load("c1")


@pytest.mark.parametrize("limits", [NO_TAIL, TAIL, Limits(packs=4, merged=2, tail_pack_bytes=2000, tail_bytes=4000)])
def test_every_revision_of_a_session_whose_packs_were_carried_is_forked_and_goes_on(limits: Limits) -> None:
    count = 45
    with with_limits(SnapshotRepository(MemoryStore(), clock=ManualClock()), limits) as repo:
        state = PersistedSessionState(session_id="source")
        draw, memory = Random(5), bytearray(Random(4).randbytes(60_000))
        states = []
        for number in range(1, count + 1):
            start = draw.randrange(50_000)
            memory[start : start + 900] = draw.randbytes(900)
            states.append(bytes(memory))
            repo.commit(take_turn(state, f"m{number}"), execution_state=bytes(memory))
        for number in range(1, count + 1):
            repo.fork("source", f"child{number}", number)
        collect(repo.environment)
        for number in range(1, count + 1):
            child = repo.load(f"child{number}", execution_state=True)
            assert child.execution_state_snapshot == states[number - 1]
            repo.commit(take_turn(child, "own"))
        collect(repo.environment)
        for number in range(1, count + 1):
            for revision in (1, 2):
                found = repo.load(f"child{number}", revision, execution_state=True)
                assert found.execution_state_snapshot == states[number - 1]
                own = ["own"] if revision == 2 else []
                assert message_ids(found) == [*(f"m{turn}" for turn in range(1, number + 1)), *own]
