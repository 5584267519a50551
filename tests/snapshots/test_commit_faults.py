"""Every PUT of the protocol under every fault, with another writer at every moment: once, not at all, or in doubt.

A commit that says it was applied stands in the history once; one that says it was not never appears; one that cannot
know is repeated, with the same state object or by another process with the same stamp, and then it is one of the two.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import pytest

from snapshots import CommitResult, PersistedSessionState, SnapshotRepository
from snapshots.head import TOMBSTONE
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from storage.testing.faults import (
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
from tests.integration.builders import check_puts, raw_head
from tests.integration.world import WAYS, Outcome, Phase, World, check, outcome_of
from tests.snapshots.records import NO_TAIL, TAIL, with_limits

ALWAYS = 60  # more than all attempts together
IN_HEAD = "head with its pack"
# Number of each PUT among the requests of an undisturbed commit, and what of its key tells it from the others.
PUTS: dict[tuple[Phase, str], tuple[int, str, int]] = {
    ("create", "reservation"): (1, "/heads/", 1),
    ("create", "pack"): (2, "/packs/", 1),
    ("create", "head"): (3, "/heads/", 2),
    ("create", IN_HEAD): (2, "/heads/", 2),
    ("steady", "pack"): (1, "/packs/", 1),
    ("steady", "head"): (2, "/heads/", 1),
    ("steady", IN_HEAD): (1, "/heads/", 1),
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


class FaultyWorld(World):
    """A world in memory, our side of it behind a `FaultyStore`; packs lie in the store, or small ones in the head."""

    def __init__(self, phase: Phase, put: str) -> None:
        store = MemoryStore(ManualClock())
        self.faulty = FaultyStore(store)
        self._limits = TAIL if put == IN_HEAD else NO_TAIL
        super().__init__(phase, store, self.faulty)
        with_limits(self.other, self._limits)

    def opened(self, repo: SnapshotRepository) -> PersistedSessionState:
        return super().opened(with_limits(repo, self._limits))


Worlds = Callable[[Phase, str], FaultyWorld]


@contextmanager
def fresh_worlds() -> Iterator[Worlds]:
    """Give what makes worlds, each closed when the next one is made."""
    made: list[FaultyWorld] = []

    def new(phase: Phase, put: str) -> FaultyWorld:
        for old in made:
            old.close()
        made[:] = [FaultyWorld(phase, put)]
        return made[0]

    try:
        yield new
    finally:
        for old in made:
            old.close()


def finish(world: FaultyWorld, said: Outcome, again: Callable[[], CommitResult]) -> Outcome:
    """Repeat what is in doubt until it is known, without faults; then let everything late arrive."""
    world.faulty.plan.clear()
    world.faulty.restart()
    if said == "unknown":
        said = outcome_of(again)
        assert said != "unknown", "without faults nothing stays in doubt"
    world.faulty.release()
    return said


def actions_of(world: World, other: str) -> list[Callable[[], object]]:
    actions: dict[str, list[Callable[[], object]]] = {
        "nobody": [],
        "commits": [world.other_commits],
        "commits 70 times": [lambda: world.other_commits(70)],
        "deletes": [world.other_deletes],
        "commits 70 times and deletes": [lambda: world.other_commits(70), world.other_deletes],
    }
    return actions[other]


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


def play(world: FaultyWorld, scene: Scene) -> None:
    number, key_part, nth = PUTS[scene.phase, scene.put]
    fault, times = FAULTS[scene.fault]
    world.faulty.plan.on("put", key_part, fault=fault, nth=nth, times=times)
    for rule in READ_BACKS[scene.read_back]:
        world.faulty.plan.on(rule.verb, rule.key_part, fault=rule.fault, times=rule.times)
    for action in actions_of(world, scene.other):
        world.watched.act(max(1, number - 1) if scene.before else number + 1, action)
    first, again = world.ways(scene.way)
    said = outcome_of(first, may_look_corrupt=scene.read_back in UNREADABLE)
    world.watched.act_now()
    check(world, finish(world, said, again), thoroughly=scene.read_back == "read" and "70" not in scene.other)


SETTLED_AT_ONCE = ("delivered twice", "credentials expired", "crash before", "crash after")


def read_backs_of(put: str, fault: str) -> Sequence[str]:
    """Return the ways to disturb the read-back that this fault leads to."""
    if fault in SETTLED_AT_ONCE:
        return ("read",)
    return [name for name in READ_BACKS if put in ("head", IN_HEAD) or not name.startswith("packs")]


def scenes_of(phase: Phase, put: str, fault: str) -> Iterator[Scene]:
    for number, read_back in enumerate(read_backs_of(put, fault)):
        for other, before in (("nobody", False), *itertools.product(("commits", "deletes"), (False, True))):
            for way in (WAYS[0], WAYS[1 + number % 2]) if fault not in SETTLED_AT_ONCE else WAYS:
                yield Scene(phase, put, fault, read_back, other, before, way)


@pytest.mark.aside
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize(("phase", "put"), PUTS)
def test_a_commit_is_applied_once_or_not_at_all(phase: Phase, put: str, fault: str) -> None:
    with fresh_worlds() as worlds:
        for scene in scenes_of(phase, put, fault):
            try:
                play(worlds(phase, put), scene)
            except BaseException as error:
                error.add_note(str(scene))
                raise


@pytest.mark.aside
@pytest.mark.parametrize("other", ["commits 70 times", "commits 70 times and deletes"])
@pytest.mark.parametrize("fault", ["answer lost", "delayed", "412 from its own retry", "crash after", "fails, unknown"])
@pytest.mark.parametrize(("phase", "put"), PUTS)
def test_a_commit_is_found_beyond_the_ring(phase: Phase, put: str, fault: str, other: str) -> None:
    with fresh_worlds() as worlds:
        for way in WAYS if put in ("head", IN_HEAD) else WAYS[-1:]:
            scene = Scene(phase, put, fault, "read", other, False, way)
            world = worlds(phase, put)
            try:
                if other.endswith("deletes"):
                    play_until_deleted(world, scene)
                else:
                    play(world, scene)
            except BaseException as error:
                error.add_note(str(scene))
                raise


def play_until_deleted(world: FaultyWorld, scene: Scene) -> None:
    """As `play`; but when the ring of a tombstone does not reach back, nobody can ever tell."""
    number, key_part, nth = PUTS[scene.phase, scene.put]
    fault, times = FAULTS[scene.fault]
    world.faulty.plan.on("put", key_part, fault=fault, nth=nth, times=times)
    for action in actions_of(world, scene.other):
        world.watched.act(number + 1, action)
    first, again = world.ways(scene.way)
    said = outcome_of(first)
    world.watched.act_now()
    world.faulty.plan.clear()
    world.faulty.restart()
    assert said in ("unknown", "ended")
    assert outcome_of(again) in ("unknown", "ended")
    world.faulty.release()
    assert raw_head(world.store).status == TOMBSTONE
    check_puts(world.watched.puts)


FIRST = ("always delayed", "answer lost", "crash before", "crash after")


@pytest.mark.aside
@pytest.mark.parametrize("second", FAULTS)
@pytest.mark.parametrize("phase", ["create", "steady"])
def test_a_repetition_that_fails_too_forgets_no_doubt(phase: Phase, second: str) -> None:
    with fresh_worlds() as worlds:
        puts = [name for one, name in PUTS if one == phase]
        for first, put, read_back, way in itertools.product(FIRST, puts, ("read", "never read"), WAYS[:2]):
            world = worlds(phase, put)
            try:
                disturb(world, phase, "head", first, "never read")
                commit, again = world.ways(way)
                assert outcome_of(commit) == "unknown"
                world.faulty.plan.clear()
                world.faulty.restart()
                # The reservation, or the head itself, stands already: its PUT is the first one of a head again.
                disturb(world, phase, put, second, read_back)
                check(world, finish(world, outcome_of(again), again), thoroughly=False)
            except BaseException as error:
                error.add_note(f"{phase}: {first}, then {second} of the {put}, {read_back}, {way}")
                raise


def disturb(world: FaultyWorld, phase: Phase, put: str, fault: str, read_back: str) -> None:
    _, key_part, nth = PUTS[phase, put]
    what, times = FAULTS[fault]
    world.faulty.plan.on("put", key_part, fault=what, nth=nth, times=times)
    for rule in READ_BACKS[read_back]:
        world.faulty.plan.on(rule.verb, rule.key_part, fault=rule.fault, times=rule.times)


POINTS: Sequence[str] = (
    *(f"before request {n} after it" for n in range(1, 7)),
    "after the call",
    "1 later",
    "70 later",
)


@pytest.mark.aside
@pytest.mark.parametrize("fault", [Delay(), Repeat()], ids=["delayed", "delivered twice"])
@pytest.mark.parametrize(("phase", "put"), PUTS)
def test_a_late_write_changes_nothing_whenever_it_lands(phase: Phase, put: str, fault: Fault) -> None:
    with fresh_worlds() as worlds:
        number, key_part, nth = PUTS[phase, put]
        for index, point in enumerate(POINTS):
            for others in (0, 1) if point != "70 later" else (0,):
                for way in WAYS[::2] if point != "70 later" else WAYS[-1:]:
                    world = worlds(phase, put)
                    world.faulty.plan.on("put", key_part, fault=fault, nth=nth)
                    for _ in range(others):
                        world.watched.act(number + 1, world.other_commits)
                    if point.startswith("before"):
                        world.watched.act(number + 1 + index, world.faulty.release)
                    first, again = world.ways(way)
                    try:
                        said = outcome_of(first)
                        world.watched.act_now()
                        if point.endswith("later"):
                            world.other_commits(int(point.split()[0]))
                        check(world, finish(world, said, again))
                    except BaseException as error:
                        error.add_note(f"{phase} {put} {fault} {point} others={others} {way}")
                        raise
