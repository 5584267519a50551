"""The explorer on toys whose answers are known: what is found with which budget, and that pruning loses nothing."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Hashable, Iterator, Mapping
from math import comb
from typing import NamedTuple

import pytest

from storage import Create, ObjectStore, Overwrite, Replace
from storage.backends.memory import MemoryStore
from storage.clock import Clock
from storage.errors import NotFoundError, PreconditionFailedError, StorageError
from storage.testing.clock import ManualClock
from storage.testing.draws import Draws
from storage.testing.simulation import (
    Actor,
    Choice,
    Ending,
    Exploration,
    Kind,
    LimitError,
    NotDeterministicError,
    Schedule,
    ScheduleError,
    Simulation,
    Violation,
    ViolationError,
    World,
    explore,
    random_walks,
    replay,
)

Make = Callable[[], World]


def increment(store: ObjectStore, _clock: Clock) -> None:
    count = int(store.get("n").data)
    store.put("n", b"%d" % (count + 1), Overwrite())


def increment_safely(store: ObjectStore, _clock: Clock) -> None:
    while True:
        found = store.get("n")
        try:
            store.put("n", b"%d" % (int(found.data) + 1), Replace(found.version))
        except PreconditionFailedError:
            continue
        return


class Counter(World):
    """Actors that count up; none may be lost, but for the crashed."""

    def __init__(self, actor: Actor, count: int = 2) -> None:
        super().__init__(dict.fromkeys("abcdef"[:count], actor))
        self.store.put("n", b"0", Create())

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        super().check_end(endings)
        counted = sum(ending.how == "returned" for ending in endings.values())
        crashed = sum(ending.how == "crashed" for ending in endings.values())
        found = int(self.store.get("n").data)
        if not counted <= found <= counted + crashed:
            raise AssertionError(f"{found} of {counted}")


def lossy() -> World:
    return Counter(increment)


def safe() -> World:
    return Counter(increment_safely)


def index_first(store: ObjectStore, _clock: Clock) -> None:
    store.put("index", b"blob", Create())
    store.put("blob", b"content", Create())


class Index(World):
    """A writer of an index and of what it names, in the wrong order."""

    def __init__(self) -> None:
        super().__init__({"w": index_first})

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        super().check_end(endings)
        names = [row.key for row in self.store.list("")]
        assert "index" not in names or "blob" in names, "the index names nothing"


def has(store: ObjectStore, key: str) -> bool:
    try:
        store.stat(key)
    except NotFoundError:
        return False
    return True


def caller(store: ObjectStore, _clock: Clock) -> None:
    store.put("call", b"", Create())
    if has(store, "answer"):
        store.put("call_again", b"", Create())
        store.delete("call_again")


def answerer(store: ObjectStore, _clock: Clock) -> None:
    if has(store, "call"):
        store.put("answer", b"", Create())
        assert not has(store, "call_again"), "three switches happened"


def deep() -> World:
    return World({"c": caller, "d": answerer})


# What is found, and with which budget.


@pytest.mark.parametrize("pruning", ["states", "none"])
@pytest.mark.parametrize(
    ("make", "needed", "schedule"),
    [(lossy, (1, 0), "a b"), (Index, (0, 1), "w+!"), (deep, (3, 0), "c d*2 c*2 d")],
    ids=["lost update", "crash between writes", "three pre-emptions"],
)
def test_a_bug_is_found_with_what_it_needs_and_no_less(
    make: Make, needed: tuple[int, int], schedule: str, pruning: str
) -> None:
    preemptions, crashes = needed
    less = {"preemptions": preemptions - 1, "crashes": 0} if preemptions else {"preemptions": 3, "crashes": 0}
    assert search(make, pruning, **less).complete
    with pytest.raises(ViolationError) as caught:
        search(make, pruning, preemptions=preemptions, crashes=crashes)
    assert str(caught.value.violation.schedule) == schedule


def search(make: Make, pruning: str, *, preemptions: int, crashes: int) -> Exploration:
    if pruning == "none":
        return explore(make, preemptions=preemptions, crashes=crashes, pruning="none")
    return explore(make, preemptions=preemptions, crashes=crashes)


class LastWord(World):
    """Of two writers b must come last: wrong in one order of the whole, and in many with pre-emptions."""

    def __init__(self) -> None:
        super().__init__({"a": puts("a", 2), "b": puts("b", 2)})
        self.order: list[str] = []

    def check_step(self) -> None:
        self.order += [row.key for row in self.store.list("") if row.key not in self.order]

    def memory(self) -> Hashable:
        return tuple(self.order)

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        super().check_end(endings)
        assert self.order[-1] == "b/1"


def test_what_is_found_first_needs_the_least() -> None:
    with pytest.raises(ViolationError) as caught:
        explore(LastWord, preemptions=9)
    assert str(caught.value.violation.schedule) == "b"


def test_a_violation_prints_what_replays_it() -> None:
    with pytest.raises(ViolationError) as caught:
        explore(lossy, preemptions=1)
    assert "1 of 2\nreplay(make, 'a b')\n" in str(caught.value)
    assert "   4  a            put         n" in str(caught.value)
    with pytest.raises(ViolationError) as again:
        replay(lossy, "a b")
    assert again.value.violation.trace == caught.value.violation.trace
    assert replay(lossy, "a*2 b").endings["b"].how == "returned"


def test_compare_and_swap_loses_nothing() -> None:
    done = explore(safe, preemptions=10, crashes=2)
    assert done == Exploration(schedules=43, steps=192, states=71, pruned=13, violations=0, complete=True)
    every = explore(safe, preemptions=10, crashes=2, pruning="none")
    assert (every.schedules, every.states, every.complete) == (70, 0, True)


@pytest.mark.parametrize(("bound", "schedules"), [(0, 2), (1, 4), (2, 6), (9, 6)])
def test_every_schedule_within_the_bound_is_run_once(bound: int, schedules: int) -> None:
    assert (
        explore(lambda: World({"a": index_first, "b": increment_twice}), preemptions=bound, pruning="none").schedules
        == schedules
    )


def increment_twice(store: ObjectStore, _clock: Clock) -> None:
    store.put("a", b"", Create())
    store.put("b", b"", Create())


@pytest.mark.parametrize("length", [3, 5])
def test_without_bound_all_interleavings_are_run(length: int) -> None:
    world = {name: puts(name, length) for name in "ab"}
    every = explore(lambda: World(world), preemptions=99, pruning="none")
    assert every.schedules == comb(2 * length, length)
    pruned = explore(lambda: World(world), preemptions=99)
    assert pruned.states == (length + 1) ** 2
    assert pruned.schedules <= (length + 1) ** 2


def puts(name: str, count: int) -> Actor:
    def actor(store: ObjectStore, _clock: Clock) -> None:
        for number in range(count):
            store.put(f"{name}/{number}", b"", Create())

    return actor


def test_pruning_saves_most_executions() -> None:
    pruned = explore(lambda: Counter(increment_safely, 3), preemptions=99)
    every = explore(lambda: Counter(increment_safely, 3), preemptions=99, pruning="none")
    assert (pruned.schedules, every.schedules) == (60, 498)


# Pruning loses nothing: compared with all schedules of small random programs.


class Outcome(NamedTuple):
    contents: tuple[tuple[str, bytes], ...]
    noted: tuple[tuple[object, ...], ...]


class Program(World):
    """Three actors that send drawn requests to two keys and note what they see."""

    def __init__(self, seed: int, found: set[Outcome], passed: set[Outcome]) -> None:
        self.noted: dict[str, list[object]] = {name: [] for name in "abc"}
        super().__init__({name: self._actor(name, Draws(f"{seed}/{name}")) for name in "abc"})
        self._found, self._passed = found, passed

    def _actor(self, name: str, draws: Draws) -> Actor:
        verbs = [draws.pick(("get", "put", "create", "delete", "list", "swap")) for _ in range(1 + draws.below(3))]
        keys = [draws.pick("xy") for _ in verbs]

        def actor(store: ObjectStore, clock: Clock) -> None:
            for verb, key in zip(verbs, keys, strict=True):
                try:
                    self.noted[name].append(_sent(store, verb, key, clock.new_id().encode()))
                except StorageError as error:
                    self.noted[name].append(str(error))

        return actor

    def outcome(self) -> Outcome:
        contents = tuple((row.key, self.store.get(row.key).data) for row in self.store.list(""))
        return Outcome(contents, tuple(tuple(notes) for notes in self.noted.values()))

    def check_step(self) -> None:
        self._passed.add(self.outcome())

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        super().check_end(endings)
        self._found.add(self.outcome())


class Remembering(Program):
    """The same, with checks that remember how many steps there were."""

    steps = 0

    def check_step(self) -> None:
        self.steps += 1
        super().check_step()

    def memory(self) -> Hashable:
        return self.steps


def _sent(store: ObjectStore, verb: str, key: str, data: bytes) -> object:
    match verb:
        case "get":
            return store.get(key).data
        case "put":
            return store.put(key, data, Overwrite())
        case "create":
            return store.put(key, data, Create())
        case "delete":
            store.delete(key)
            return None
        case "list":
            return tuple(row.key for row in store.list(""))
    return store.put(key, data, Replace(store.get(key).version))


SEEDS = range(8)
BUDGETS = [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (1, 2)]


def reached(kind: type[Program], seed: int, budget: tuple[int, int], pruning: str) -> tuple[set[Outcome], set[Outcome]]:
    found: set[Outcome] = set()
    passed: set[Outcome] = set()
    search(lambda: kind(seed, found, passed), pruning, preemptions=budget[0], crashes=budget[1])
    return found, passed


@pytest.mark.parametrize("kind", [Program, Remembering])
@pytest.mark.parametrize("budget", BUDGETS, ids=str)
def test_pruning_reaches_the_same_worlds(budget: tuple[int, int], kind: type[Program]) -> None:
    for seed in SEEDS:
        assert reached(kind, seed, budget, "states") == reached(kind, seed, budget, "none"), f"seed {seed}"


@pytest.mark.parametrize("budget", [(0, 1), (1, 1), (2, 1), (1, 2)], ids=str)
def test_crashes_elsewhere_reach_nothing_new(budget: tuple[int, int]) -> None:
    for seed in SEEDS[:4]:
        found, passed = reached(Program, seed, budget, "states")
        everywhere: tuple[set[Outcome], set[Outcome]] = (set(), set())
        for choices in anyhow(lambda: Program(seed, *everywhere), (), *budget):  # noqa: B023  used up at once
            replay(lambda: Program(seed, *everywhere), Schedule(choices))  # noqa: B023
        assert (found, passed) == everywhere, f"seed {seed}"


def anyhow(make: Make, before: tuple[Choice, ...], preemptions: int, crashes: int) -> Iterator[tuple[Choice, ...]]:
    """Yield every schedule within the budgets, crashes wherever they can be: the definition, without any thrift."""
    with Simulation(make()) as simulation:
        simulation.follow(before)
        waiting, last = simulation.waiting, simulation.last if simulation.last_waits else ""
    if not waiting:
        yield before
    for name, kind in itertools.product(waiting, Kind):
        spent = last not in ("", name) and kind is not Kind.CRASH
        left = preemptions - spent, crashes - (kind is not Kind.STEP)
        if min(left) >= 0:
            yield from anyhow(make, (*before, Choice(name, kind)), *left)


def test_pruning_finds_the_same_violations() -> None:
    def violations(make: Make, pruning: str) -> set[str]:
        found: list[Violation] = []
        if pruning == "none":
            done = explore(make, preemptions=3, crashes=1, pruning="none", on_violation=found.append)
        else:
            done = explore(make, preemptions=3, crashes=1, on_violation=found.append)
        assert done.complete
        assert done.violations == len(found)
        return {str(violation.cause) for violation in found}

    for make in (lambda: Counter(increment, 3), Index, deep):
        assert violations(make, "states") == violations(make, "none") != set()


def test_a_check_that_remembers_says_so() -> None:
    class Highest(World):
        """A value that may not fall; both orders of the writes end in the same state but for what was seen."""

        highest = 0

        def __init__(self) -> None:
            super().__init__({"a": self._put(2), "b": self._put(1), "c": self._put(3)})

        def _put(self, value: int) -> Actor:
            def actor(store: ObjectStore, _clock: Clock) -> None:
                store.put("n", b"%d" % value, Overwrite())

            return actor

        def check_step(self) -> None:
            if has(self.store, "n"):
                value = int(self.store.get("n").data)
                assert value >= self.highest, "it fell"
                self.highest = value

        def memory(self) -> Hashable:
            return self.highest

    found: list[Violation] = []
    done = explore(Highest, preemptions=0, on_violation=found.append)
    assert {str(violation.trace.schedule) for violation in found} == {"", "a c", "b c", "c", "c b"}
    assert done.complete


# Where a search begins, and how it ends.


def test_a_search_can_begin_in_the_middle() -> None:
    with pytest.raises(ViolationError, match=r"replay\(make, 'c d\*2 c\*2 d'\)"):
        explore(deep, preemptions=1, prefix="c d*2 c")
    assert explore(deep, preemptions=0, prefix="c d*2 c").complete


def test_a_prefix_is_checked_too() -> None:
    with pytest.raises(ViolationError):
        explore(lossy, preemptions=0, prefix="a b*2 a")


def test_after_a_prefix_anybody_may_crash() -> None:
    found: list[str] = []

    class Ends(Counter):
        def check_end(self, endings: Mapping[str, Ending]) -> None:
            found.append(" ".join(ending.how for ending in endings.values()))

    explore(lambda: Ends(increment), preemptions=0, crashes=1, prefix="a b")
    assert {"crashed returned", "returned crashed", "returned returned"} == set(found)


def test_a_prefix_of_another_world_is_refused() -> None:
    with pytest.raises(ScheduleError):
        explore(lossy, preemptions=0, prefix="z")


def test_a_search_that_is_too_large_says_so() -> None:
    with pytest.raises(LimitError, match="not complete") as caught:
        explore(safe, preemptions=5, limit=3)
    assert caught.value.exploration.schedules == 3
    assert not caught.value.exploration.complete


def test_chance_in_an_actor_is_found_out() -> None:
    draws = itertools.count()

    def chancy(store: ObjectStore, _clock: Clock) -> None:
        store.put("n", b"%d" % next(draws), Overwrite())
        store.stat("n")

    with pytest.raises(NotDeterministicError, match="elsewhere"):
        explore(lambda: World({"a": chancy, "b": chancy}), preemptions=2)


def test_actors_without_requests_are_checked_too() -> None:
    def wrong(_store: ObjectStore, _clock: Clock) -> None:
        raise AssertionError("at once")

    with pytest.raises(ViolationError, match="at once"):
        explore(lambda: World({"a": wrong}), preemptions=0)
    assert explore(lambda: World({}), preemptions=0).schedules == 1


# Random walks.


@pytest.mark.parametrize("policy", ["uniform", "pct"])
def test_walks_find_what_is_likely_and_print_their_seed(policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    def walk() -> None:
        if policy == "pct":
            random_walks(deep, seed=7, count=2000, policy="pct", changes=3)
        else:
            random_walks(deep, seed=7, count=2000)

    with pytest.raises(ViolationError) as first:
        walk()
    assert "random_walks(seed=7), walk " in capsys.readouterr().out
    with pytest.raises(ViolationError) as second:
        walk()
    assert first.value.violation.trace == second.value.violation.trace
    with pytest.raises(ViolationError):
        replay(deep, first.value.violation.schedule)


def test_walks_crash_actors() -> None:
    assert random_walks(Index, seed=1, count=50).steps == 100
    with pytest.raises(ViolationError):
        random_walks(Index, seed=1, count=50, crashes=1)


def test_walks_of_what_is_right_find_nothing() -> None:
    make = lambda: Counter(increment_safely, 4)  # noqa: E731
    assert random_walks(make, seed=3, count=200, policy="pct", changes=4, crashes=2).count == 200
    store = MemoryStore(ManualClock())
    assert list(store.list("")) == []
