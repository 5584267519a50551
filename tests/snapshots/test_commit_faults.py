"""Every PUT of the protocol under every fault, with another writer at every moment: once, not at all, or in doubt.

A commit that says it was applied stands in the history once; one that says it was not never appears; one that cannot
know is repeated, with the same state object or by another process with the same stamp, and then it is one of the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import pytest

from snapshots import CommitResult, PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    RevisionConflictError,
    SessionDeletedError,
    SessionNotFoundError,
)
from snapshots.head import LIVE, TOMBSTONE
from storage.backends.memory import MemoryStore
from storage.errors import NotFoundError, PermissionDeniedError, UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Crash,
    CrashAfter,
    CrashBefore,
    Delay,
    Deny,
    FailBefore,
    Fault,
    FaultyStore,
    FlipBit,
    LoseAnswer,
    Missing,
    On,
    OwnRetry,
    Repeat,
    Truncate,
)
from tests.integration.builders import (
    SESSION,
    WatchedStore,
    check_every_revision,
    check_puts,
    message_ids,
    new_session,
    raw_head,
    take_turn,
    usage_of,
)

MINE = 1000  # tokens of the turn in question; everybody else's turns take one
STAMP = TurnStamp("turn-mine", content_hash="mine")
ALWAYS = 60  # more than all attempts together
Phase = Literal["create", "steady"]
Outcome = Literal["applied", "refused", "ended", "unknown"]

# Number of each PUT among the requests of an undisturbed commit, and what of its key tells it from the others.
PUTS: dict[tuple[Phase, str], tuple[int, str, int]] = {
    ("create", "reservation"): (1, "/heads/", 1),
    ("create", "pack"): (2, "/packs/", 1),
    ("create", "head"): (3, "/heads/", 2),
    ("steady", "pack"): (1, "/packs/", 1),
    ("steady", "head"): (2, "/heads/", 1),
}
FAULTS: dict[str, tuple[Fault, int]] = {
    "fails, not applied": (FailBefore("no"), 1),
    "always fails, not applied": (FailBefore("no"), ALWAYS),
    "fails, unknown": (FailBefore("unknown"), 1),
    "always fails, unknown": (FailBefore("unknown"), ALWAYS),
    "answer lost": (LoseAnswer(), 1),
    "answer always lost": (LoseAnswer(), ALWAYS),
    "delayed": (Delay(), 1),
    "always delayed": (Delay(), ALWAYS),
    "412 from its own retry": (OwnRetry(), 1),
    "delivered twice": (Repeat(), 1),
    "credentials expired": (Deny(), 1),
    "crash before": (CrashBefore(), 1),
    "crash after": (CrashAfter(), 1),
}
READ_BACKS: dict[str, tuple[On, ...]] = {
    "read": (),
    "not read at first": (On("get", "/heads/", FailBefore()), On("stat", "/packs/", FailBefore())),
    "never read": (On("get", "/heads/", FailBefore(), times=ALWAYS), On("stat", "/packs/", FailBefore(), times=ALWAYS)),
    "missing": (On("get", "/heads/", Missing()), On("stat", "/packs/", Missing())),
    "denied": (On("get", "/heads/", Deny()), On("stat", "/packs/", Deny())),
    "damaged": (On("get", "/heads/", Truncate(100)),),
    "packs unreadable": (On("get", "/packs/", FailBefore(), times=ALWAYS),),
    "packs damaged": (On("get", "/packs/", FlipBit(77), times=ALWAYS),),
}
UNREADABLE = ("missing", "damaged", "packs damaged")  # what may be taken for corruption


class World:
    """A store, our repository behind faults, and another writer beside it."""

    def __init__(self, phase: Phase) -> None:
        self.store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(self.store)
        self.watched = WatchedStore(self.faulty)
        self.other = SnapshotRepository(self.store, clock=ManualClock(seed=2))
        self.repo = SnapshotRepository(self.watched, clock=ManualClock(seed=1))
        self._others: list[SnapshotRepository] = [self.other, self.repo]
        self.others_turns = 0
        self.phase: Phase = phase
        if phase == "steady":
            self.repo.commit(new_session(SESSION, "start0"))
        self.state = self.opened(self.repo)
        self.watched.start_over()

    def opened(self, repo: SnapshotRepository) -> PersistedSessionState:
        """Return what a process has before it commits the turn: the session as it is, and the turn taken."""
        try:
            state = repo.load(SESSION)
        except SessionNotFoundError:
            state = new_session(SESSION, "start0")
        return take_turn(state, "mine", tokens=MINE)

    def same_state(self) -> CommitResult:
        return self.repo.commit(self.state)

    def same_state_stamped(self) -> CommitResult:
        return self.repo.commit(self.state, STAMP)

    def fresh_process(self) -> CommitResult:
        repo = SnapshotRepository(self.watched, clock=ManualClock(seed=100 + len(self._others)))
        self._others.append(repo)
        self.state = self.opened(repo)
        return repo.commit(self.state, STAMP)

    def other_commits(self, count: int = 1) -> None:
        """Let the other writer commit; it creates the session where there is none."""
        for _ in range(count):
            name = f"other{self.others_turns}"
            try:
                state = take_turn(self.other.load(SESSION), name)
            except SessionNotFoundError:
                state = new_session(SESSION, name)
            except SessionDeletedError:
                return
            self.other.commit(state)
            self.others_turns += 1

    def other_deletes(self) -> None:
        try:
            self.other.delete(SESSION)
        except SessionNotFoundError:
            self.other_commits()
            self.other.delete(SESSION)
        except SessionDeletedError:
            pass

    def times_applied(self) -> int:
        """Return how often our turn stands in the history, and check that nothing else was lost or doubled."""
        history = self.other.history(SESSION)
        applied = sum(row.usage.input_tokens >= MINE for row in history)
        state = self.other.load(SESSION)
        ids = message_ids(state)
        assert sum(one == "mine" for one in ids) == applied
        assert [one for one in ids if one.startswith("other")] == [f"other{n}" for n in range(self.others_turns)]
        usage = usage_of(state)
        assert usage.get("mine", 0) == applied * MINE, "usage counted twice"
        assert usage.get("other", 0) == self.others_turns
        assert state.turn_index == len(ids)
        return applied

    def staged_ids(self) -> set[str]:
        """Return the ids of the commits whose packs were sent."""
        packs = [key for verb, key in self.watched.requests if verb == "put" and "/packs/" in key]
        return {key.rpartition("/")[2].partition(".")[0] for key in packs}

    def close(self) -> None:
        for repo in self._others:
            repo.close()


@pytest.fixture
def worlds() -> Iterator[Callable[[Phase], World]]:
    made: list[World] = []

    def new(phase: Phase) -> World:
        for old in made:
            old.close()
        made[:] = [World(phase)]
        return made[0]

    yield new
    for old in made:
        old.close()


def outcome_of(commit: Callable[[], CommitResult], *, may_look_corrupt: bool = False) -> Outcome:
    """Return what a commit said of itself. What it must not say fails here."""
    try:
        commit()
    except (Crash, CommitUnknownError):
        return "unknown"
    except (RevisionConflictError, PermissionDeniedError, NotFoundError):
        return "refused"
    except SessionDeletedError:
        return "ended"
    except UnavailableError as error:
        if error.applied == "no":
            return "refused"
        raise AssertionError("in doubt, it must be a CommitUnknownError") from error
    except CorruptSnapshotError:
        if may_look_corrupt:
            return "unknown"
        raise
    return "applied"


def finish(world: World, said: Outcome, again: Callable[[], CommitResult]) -> Outcome:
    """Repeat what is in doubt until it is known, without faults; then let everything late arrive."""
    world.faulty.plan.clear()
    world.faulty.restart()
    if said == "unknown":
        said = outcome_of(again)
        assert said != "unknown", "without faults nothing stays in doubt"
    world.faulty.release()
    return said


def check(world: World, said: Outcome, *, thoroughly: bool = True) -> None:
    check_puts(world.watched.puts)
    try:
        head = raw_head(world.store)
    except NotFoundError:
        assert said == "refused"
        return
    if head.status == TOMBSTONE:
        assert said != "unknown"
        if said == "refused":
            assert not world.staged_ids() & set(head.commits.commit_ids)
        return
    assert said in ("applied", "refused")
    if head.status != LIVE:
        assert (said, head.revision) == ("refused", 0)
        return
    assert world.times_applied() == (said == "applied")
    if thoroughly:
        check_every_revision(world.other)
    if said == "applied" and world.state.head_revision == head.revision:  # the state goes on from where it stands
        world.repo = SnapshotRepository(world.watched, clock=ManualClock(seed=77))
        result = world.repo.commit(take_turn(world.repo.load(SESSION), "after0"))
        assert result.head_revision == head.revision + 1
        world.repo.close()


def actions_of(world: World, other: str) -> list[Callable[[], object]]:
    actions: dict[str, list[Callable[[], object]]] = {
        "nobody": [],
        "commits": [world.other_commits],
        "commits 70 times": [lambda: world.other_commits(70)],
        "deletes": [world.other_deletes],
        "commits 70 times and deletes": [lambda: world.other_commits(70), world.other_deletes],
    }
    return actions[other]


def ways_of(world: World) -> dict[str, tuple[Callable[[], CommitResult], Callable[[], CommitResult]]]:
    """Return first and repeated commit: by the same object, stamped or not, or by another process."""
    return {
        "same state": (world.same_state, world.same_state),
        "same state and stamp": (world.same_state_stamped, world.same_state_stamped),
        "other process, same stamp": (world.same_state_stamped, world.fresh_process),
    }


WAYS = ("same state", "same state and stamp", "other process, same stamp")


@dataclass(frozen=True)
class Scene:
    """One run: which PUT fails how, what becomes of the read-back, who acts in between, how it is repeated."""

    phase: Phase
    put: str
    fault: str
    read_back: str
    other: str
    before: bool
    way: str


def play(world: World, scene: Scene) -> None:
    number, key_part, nth = PUTS[scene.phase, scene.put]
    fault, times = FAULTS[scene.fault]
    world.faulty.plan.on("put", key_part, fault=fault, nth=nth, times=times)
    for rule in READ_BACKS[scene.read_back]:
        world.faulty.plan.on(rule.verb, rule.key_part, fault=rule.fault, times=rule.times)
    for action in actions_of(world, scene.other):
        world.watched.act(max(1, number - 1) if scene.before else number + 1, action)
    first, again = ways_of(world)[scene.way]
    said = outcome_of(first, may_look_corrupt=scene.read_back in UNREADABLE)
    world.watched.act_now()
    check(world, finish(world, said, again), thoroughly=scene.read_back == "read")


SETTLED_AT_ONCE = ("delivered twice", "credentials expired", "crash before", "crash after")


def read_backs_of(put: str, fault: str) -> Sequence[str]:
    """Return the ways to disturb the read-back that this fault leads to."""
    if fault in SETTLED_AT_ONCE:
        return ("read",)
    return [name for name in READ_BACKS if put == "head" or not name.startswith("packs")]


def scenes_of(phase: Phase, put: str, fault: str) -> Iterator[Scene]:
    for number, read_back in enumerate(read_backs_of(put, fault)):
        for other, before in (("nobody", False), *itertools.product(("commits", "deletes"), (False, True))):
            for way in (WAYS[0], WAYS[1 + number % 2]) if fault not in SETTLED_AT_ONCE else WAYS:
                yield Scene(phase, put, fault, read_back, other, before, way)


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("phase", "put"), PUTS)
def test_a_commit_is_applied_once_or_not_at_all(
    worlds: Callable[[Phase], World], phase: Phase, put: str, fault: str
) -> None:
    for scene in scenes_of(phase, put, fault):
        try:
            play(worlds(phase), scene)
        except BaseException as error:
            error.add_note(str(scene))
            raise


@pytest.mark.parametrize("other", ["commits 70 times", "commits 70 times and deletes"])
@pytest.mark.parametrize("fault", ["answer lost", "delayed", "412 from its own retry", "crash after", "fails, unknown"])
@pytest.mark.parametrize(("phase", "put"), PUTS)
def test_a_commit_is_found_beyond_the_ring(
    worlds: Callable[[Phase], World], phase: Phase, put: str, fault: str, other: str
) -> None:
    for way in WAYS if put == "head" else WAYS[-1:]:
        scene = Scene(phase, put, fault, "read", other, False, way)
        world = worlds(phase)
        try:
            if other.endswith("deletes"):
                play_until_deleted(world, scene)
            else:
                play(world, scene)
        except BaseException as error:
            error.add_note(str(scene))
            raise


def play_until_deleted(world: World, scene: Scene) -> None:
    """As `play`; but when the ring of a tombstone does not reach back, nobody can ever tell."""
    number, key_part, nth = PUTS[scene.phase, scene.put]
    fault, times = FAULTS[scene.fault]
    world.faulty.plan.on("put", key_part, fault=fault, nth=nth, times=times)
    for action in actions_of(world, scene.other):
        world.watched.act(number + 1, action)
    first, again = ways_of(world)[scene.way]
    said = outcome_of(first)
    world.watched.act_now()
    world.faulty.plan.clear()
    world.faulty.restart()
    assert said in ("unknown", "ended")
    assert outcome_of(again) in ("unknown", "ended")
    world.faulty.release()
    assert raw_head(world.store).status == TOMBSTONE
    check_puts(world.watched.puts)


POINTS: Sequence[str] = (
    *(f"before request {n} after it" for n in range(1, 7)),
    "after the call",
    "1 later",
    "70 later",
)


@pytest.mark.parametrize("fault", [Delay(), Repeat()], ids=["delayed", "delivered twice"])
@pytest.mark.parametrize(("phase", "put"), PUTS)
def test_a_late_write_changes_nothing_whenever_it_lands(
    worlds: Callable[[Phase], World], phase: Phase, put: str, fault: Fault
) -> None:
    number, key_part, nth = PUTS[phase, put]
    for index, point in enumerate(POINTS):
        for others in (0, 1) if point != "70 later" else (0,):
            for way in WAYS[::2] if point != "70 later" else WAYS[-1:]:
                world = worlds(phase)
                world.faulty.plan.on("put", key_part, fault=fault, nth=nth)
                for _ in range(others):
                    world.watched.act(number + 1, world.other_commits)
                if point.startswith("before"):
                    world.watched.act(number + 1 + index, world.faulty.release)
                first, again = ways_of(world)[way]
                try:
                    said = outcome_of(first)
                    world.watched.act_now()
                    if point.endswith("later"):
                        world.other_commits(int(point.split()[0]))
                    check(world, finish(world, said, again))
                except BaseException as error:
                    error.add_note(f"{phase} {put} {fault} {point} others={others} {way}")
                    raise
