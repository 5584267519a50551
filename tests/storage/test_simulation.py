"""The step scheduler: one request at a time, the same schedule the same trace, crashes that nobody survives."""

from __future__ import annotations

import io
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from storage import Create, ObjectStore, Overwrite, Replace
from storage.backends.memory import MemoryStore
from storage.clock import Clock
from storage.errors import NotFoundError, PreconditionFailedError
from storage.executor import InlineExecutor
from storage.testing.clock import ManualClock
from storage.testing.simulation import (
    Actor,
    Choice,
    EndlessError,
    Kind,
    MisuseError,
    RunningClock,
    Schedule,
    ScheduleError,
    Simulation,
    World,
    replay,
    run,
)


def increment(store: ObjectStore, _clock: Clock) -> None:
    count = int(store.get("n").data)
    store.put("n", b"%d" % (count + 1), Overwrite())


def counter() -> World:
    store = MemoryStore(ManualClock())
    store.put("n", b"0", Create())
    return World({"a": increment, "b": increment}, store)


def count_in(world: World) -> int:
    return int(world.store.get("n").data)


# Schedules.


@pytest.mark.parametrize("text", ["", "a", "a b*2 a", "a! b+! writer_2*12", "a*2 a!"])
def test_a_schedule_is_a_text(text: str) -> None:
    assert str(Schedule.parse(text)) == text


def test_terms_of_a_schedule() -> None:
    assert Schedule.parse("a*2 b! c+!").choices == (
        Choice("a"),
        Choice("a"),
        Choice("b", Kind.CRASH),
        Choice("c", Kind.CRASH_AFTER),
    )


@pytest.mark.parametrize("text", ["A", "a*0", "a*", "a?", "a*2!", "*2", "a-b", "a+"])
def test_what_is_no_schedule_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="no term"):
        Schedule.parse(text)


def test_a_name_that_no_schedule_can_hold_is_refused() -> None:
    with pytest.raises(ScheduleError, match="'a b'"):
        World({"a b": increment})


@pytest.mark.parametrize("text", ["c", "a*3", "a! a"])
def test_a_schedule_of_another_world_is_refused(text: str) -> None:
    with pytest.raises(ScheduleError, match="waiting: "):
        run(counter(), text)


# Steps.


def test_actors_stop_before_each_request() -> None:
    world = counter()
    with Simulation(world) as simulation:
        assert simulation.waiting == ["a", "b"]
        assert simulation.pending("a").verb == "get"
        simulation.follow(Schedule.parse("a b").choices)
        assert simulation.pending("a").verb == "put"
        assert count_in(world) == 0
        simulation.take(Choice("a"))
        assert simulation.waiting == ["b"]
        assert count_in(world) == 1


@pytest.mark.parametrize(
    ("schedule", "count"), [("", 2), ("b", 2), ("a b", 1), ("a b*2", 1), ("a! b", 1), ("a a+!", 2)]
)
def test_the_schedule_decides(schedule: str, count: int) -> None:
    world = counter()
    run(world, schedule)
    assert count_in(world) == count


def test_the_trace_says_what_happened() -> None:
    trace = run(counter(), "a b*2 a")
    assert [(step.actor, step.verb, step.key) for step in trace.steps] == [
        ("a", "get", "n"),
        ("b", "get", "n"),
        ("b", "put", "n"),
        ("a", "put", "n"),
    ]
    assert {name: ending.how for name, ending in trace.endings.items()} == {"a": "returned", "b": "returned"}
    assert "   2  b            get" in str(trace)
    assert "a: returned" in str(trace)


def test_a_trace_leaves_out_what_follows_by_default() -> None:
    assert str(run(counter(), "a b*2 a").schedule) == "a b"
    assert str(run(counter(), "a*2 b*2").schedule) == ""


def draw(store: ObjectStore, clock: Clock) -> None:
    for _ in range(3):
        clock.sleep(clock.random())
        store.put(f"ids/{clock.new_id()}", f"{clock.now()} {clock.monotonic()}".encode(), Create())


def objects(store: ObjectStore) -> dict[str, bytes]:
    return {row.key: store.get(row.key).data for row in store.list("")}


def test_the_same_schedule_gives_the_same_trace_and_bytes() -> None:
    first, second = World({"a": draw, "b": draw}), World({"a": draw, "b": draw})
    assert run(first, "a b*2 a b") == run(second, "a b*2 a b")
    assert objects(first.store) == objects(second.store)
    assert len(objects(first.store)) == 6


def test_an_actors_draws_do_not_depend_on_the_others() -> None:
    first, second = World({"a": draw, "b": draw}), World({"a": draw, "b": draw})
    assert run(first, "b*3 a").steps != run(second, "a b a b").steps
    assert objects(first.store) == objects(second.store)


def test_a_clock_for_all_is_the_running_actors() -> None:
    otherwise = ManualClock(seed=1)
    shared = RunningClock(otherwise)
    drawn: dict[str, list[str]] = {"a": [], "b": []}

    def note(name: str) -> Actor:
        def actor(store: ObjectStore, clock: Clock) -> None:
            for _ in range(2):
                shared.sleep(5)
                drawn[name].append(f"{shared.new_id()} {shared.random()} {shared.now()}")
                list(store.list(name))
            assert clock.monotonic() == shared.monotonic() == 10

        return actor

    def drawn_by(schedule: str) -> dict[str, list[str]]:
        drawn.update(a=[], b=[])
        assert run(World({"a": note("a"), "b": note("b")}), schedule).endings["a"].how == "returned"
        return dict(drawn)

    assert drawn_by("a b") == drawn_by("b*2 a")
    assert shared.now() == otherwise.now()
    assert shared.new_id() == ManualClock(seed=1).new_id()


def test_every_verb_is_one_step_and_reaches_the_store() -> None:
    def every_verb(store: ObjectStore, _clock: Clock) -> None:
        version = store.put("d/a", io.BytesIO(b"one"), Create())
        store.put("d/a", b"two", Replace(version))
        assert store.stat("d/a").size_bytes == 3
        assert [row.key for row in store.list("d/")] == ["d/a"]
        assert [row.key for row in store.list("d/", start_after="d/a")] == []
        store.delete("d/a")
        assert store.delete_many(key for key in ("d/b", "d/c")) == ()
        with pytest.raises(NotFoundError):
            store.get("d/a")
        with pytest.raises(PreconditionFailedError):
            store.put("d/a", b"three", Replace(version))

    trace = run(World({"a": every_verb}))
    assert [step.verb for step in trace.steps] == [
        *("put", "put", "stat", "list", "list", "delete", "delete_many", "get", "put"),
    ]
    assert trace.endings["a"].how == "returned", trace.endings["a"]


def test_a_listing_is_taken_at_one_moment() -> None:
    seen: list[str] = []

    def reader(store: ObjectStore, _clock: Clock) -> None:
        for row in store.list(""):
            seen.append(row.key)
            store.stat(row.key)

    def writer(store: ObjectStore, _clock: Clock) -> None:
        store.put("c", b"", Create())

    world = World({"r": reader, "w": writer})
    for key in ("a", "b"):
        world.store.put(key, b"", Create())
    run(world, "r*2 w")
    assert seen == ["a", "b"]


def test_what_an_actor_raises_is_its_ending() -> None:
    def reader(store: ObjectStore, _clock: Clock) -> None:
        store.get("missing")

    ending = run(World({"a": reader})).endings["a"]
    assert ending.how == "raised"
    assert isinstance(ending.error, NotFoundError)
    assert "NotFoundError" in str(ending)


def test_by_default_nobody_may_raise() -> None:
    def reader(store: ObjectStore, _clock: Clock) -> None:
        store.get("missing")

    with pytest.raises(AssertionError, match="NotFoundError"):
        replay(lambda: World({"a": reader}), "")


def test_an_actor_without_an_end_is_found_out() -> None:
    def poll(store: ObjectStore, clock: Clock) -> None:
        while True:
            list(store.list("x"))
            clock.sleep(1)

    with pytest.raises(EndlessError, match="no end"):
        run(World({"a": poll}))


# Crashes.


@contextmanager
def marked(store: ObjectStore) -> Iterator[None]:
    store.put("mark", b"", Create())
    try:
        yield
    finally:
        store.delete("mark")


def careful(store: ObjectStore, _clock: Clock) -> None:
    try:
        with marked(store):
            store.put("work", b"", Create())
    except Exception:  # noqa: BLE001  a crash must come through it
        store.put("swallowed", b"", Create())


@pytest.mark.parametrize(
    ("schedule", "left"),
    [
        ("", ["work"]),
        ("a!", []),
        ("a+!", ["mark"]),
        ("a a!", ["mark"]),
        ("a a+!", ["mark", "work"]),
        ("a*2 a!", ["mark", "work"]),
        ("a*2 a+!", ["work"]),
    ],
)
def test_nothing_is_tidied_up_after_a_crash(schedule: str, left: list[str]) -> None:
    world = World({"a": careful})
    ending = run(world, schedule).endings["a"]
    assert [row.key for row in world.store.list("")] == left
    assert ending.how == ("crashed" if "!" in schedule else "returned")


def test_an_actor_that_survives_its_crash_is_misuse() -> None:
    def immortal(store: ObjectStore, _clock: Clock) -> None:
        try:
            store.put("a", b"", Create())
        except BaseException:  # noqa: BLE001  what this test is about
            return

    with pytest.raises(MisuseError, match="caught its crash"):
        run(World({"a": immortal}), "a!")


def test_closing_ends_who_waits() -> None:
    world = World({"a": careful, "b": careful})
    with Simulation(world) as simulation:
        simulation.take(Choice("a"))
    assert [row.key for row in world.store.list("")] == ["mark"]
    assert {ending.how for ending in simulation.endings().values()} == {"crashed"}


# Executors.


def read_beside(store: ObjectStore, _clock: Clock) -> None:
    with InlineExecutor() as executor:
        assert [found.data for found in executor.map(store.get, ["n", "n"])] == [b"0", b"0"]


def interrupted(store: ObjectStore, clock: Clock) -> None:  # noqa: ARG001  an actor
    store.get("a")
    raise KeyboardInterrupt


def test_an_interrupt_of_the_program_ends_everybody_and_passes() -> None:
    world = World({"a": interrupted, "b": draw})
    world.store.put("a", b"", Create())
    simulation = Simulation(world)
    with pytest.raises(KeyboardInterrupt):
        simulation.take(Choice("a"))
    simulation.close()
    assert {ending.how for ending in simulation.endings().values()} == {"crashed"}


def test_an_inline_executor_keeps_the_actor_in_its_thread() -> None:
    world = counter()
    world.actors["r"] = read_beside
    assert run(world, "r*2").endings["r"].how == "returned"


def test_a_crash_goes_through_an_inline_executor() -> None:
    world = counter()
    world.actors["r"] = read_beside
    assert run(world, "r r!").endings["r"].how == "crashed"


def test_a_request_from_another_thread_is_misuse() -> None:
    def threaded(store: ObjectStore, _clock: Clock) -> None:
        with ThreadPoolExecutor(1) as executor:
            executor.submit(store.stat, "n").exception()

    with pytest.raises(MisuseError, match="InlineExecutor"):
        run(World({"a": threaded}))


def test_a_stream_goes_with_create_only() -> None:
    def overwrite(store: ObjectStore, _clock: Clock) -> None:
        store.put("a", io.BytesIO(b"one"), Overwrite())

    assert "streams go with Create" in run(World({"a": overwrite})).endings["a"].text
