"""`Simulation`: the step scheduler. Runs a world's actors in one thread, one request at a time, as it is told.

Rules:
1. Every request is one atomic step. An actor stops before it; taking the step carries the request out and lets the
   actor go on to its next request, or to its end. A listing is one request, when its first row is asked for; a
   stream is read to its end before its put is sent.
2. Each actor has a clock of its own, whose ids and numbers follow from the actor's name. `sleep` moves that clock and
   is no step: no actor learns anything from how far another has come, except through the store. Code with a clock for
   all gets a `RunningClock`.
3. A crash is a `Crash` (no `Exception`) raised where the actor waits. Whatever it still sends while it unwinds raises
   `Crash` again and reaches nothing; one that goes on regardless is misuse.
4. An actor's state follows from its code and from what it was answered, so its `history` – equal numbers, equal
   answers – stands for it. `state` is: what was written, every history, and what the checks remember.

    with Simulation(Race()) as simulation:
        simulation.take(Choice("a"))
        simulation.finish()
        print(simulation.trace())
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from datetime import datetime
from functools import lru_cache
from types import TracebackType
from typing import Any, BinaryIO, NamedTuple, Self

import greenlet  # type: ignore[import-untyped]  # it ships no types

from storage.backends.limits import pieces
from storage.clock import Clock
from storage.digest import short_hash
from storage.store import ByteRange, Create, DeleteFailure, ListedObject, ObjectMeta, PutMode, StoredObject, Version
from storage.testing.clock import ManualClock
from storage.testing.plan import Crash
from storage.testing.simulation import world as worlds
from storage.testing.simulation.errors import EndlessError, MisuseError, ScheduleError
from storage.testing.simulation.requests import Outcome, Request, changes, foresee
from storage.testing.simulation.schedule import Choice, Kind, Schedule, schedule_of
from storage.testing.simulation.world import Ending, Step, Trace, World

STEPS_MAX = 10_000  # of one execution; an actor that polls without a bound is found out quickly
_WAITING = Ending("waiting")
_CRASHED = ("crashed",)  # the token of an answer that was never seen


class State(NamedTuple):
    """All that decides how a world goes on: two equal states have equal futures."""

    written: int
    histories: tuple[int, ...]
    memory: Hashable


class Histories:
    """Numbers sequences of answers: equal sequences, equal numbers. Shared by all executions of a search."""

    def __init__(self) -> None:
        self._numbers: dict[tuple[int, Hashable], int] = {}

    def after(self, history: int, token: Hashable) -> int:
        """Return the number of `history` with one more answer; 0 is the empty one."""
        return self._numbers.setdefault((history, token), len(self._numbers) + 1)


class Simulation:
    """One execution of a world, step by step. Close it, or use it in a `with`.

    Args:
        world: A fresh one; it is used up.
        histories: Those of the search that this belongs to.

    Attributes:
        world: The world.
        taken: Every choice so far.
        last: Whose request happened last; "" at the start.
        waiting: The actors that have a request before them, in the world's order.
    """

    def __init__(self, world: World, histories: Histories | None = None) -> None:
        self.world = world
        self.taken: list[Choice] = []
        self.last = ""
        self._histories = histories or Histories()
        self._steps: list[Step] = []
        self._written: dict[str, Version | None] = {}
        self._written_mark = 0
        self._decided = 0
        self._actors = {name: _Running(name, function) for name, function in world.actors.items()}
        for actor in self._actors.values():
            actor.go_on(None)
        self.waiting = self._who_waits()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    @property
    def last_waits(self) -> bool:
        """Say whether who went last could go on: then a step of anybody else is a pre-emption."""
        return self.last in self.waiting

    @property
    def state(self) -> State:
        """Return what decides how this goes on."""
        histories = tuple([actor.history for actor in self._actors.values()])
        return State(self._written_mark, histories, self.world.memory())

    def pending(self, name: str) -> Request:
        """Return the request that a waiting actor has before it."""
        return self._waiting_actor(name).request

    def default(self) -> Choice:
        """Return the step that no schedule needs to mention; somebody must be waiting."""
        return Choice(self.last if self.last_waits else self.waiting[0])

    def foreseen(self, choice: Choice) -> State:
        """Return the state after `choice`, as far as the world's checks remember nothing. Nothing happens."""
        actor = self._waiting_actor(choice.actor)
        if choice.kind is Kind.CRASH:
            return self._state_with(actor, _CRASHED, self._written_mark)
        outcome = foresee(self.world.store, actor.request)
        mark = self._written_mark
        for key, version in changes(actor.request, outcome).items():
            mark ^= self._mark(key) ^ _mark(key, version)
        return self._state_with(actor, _CRASHED if choice.kind is Kind.CRASH_AFTER else outcome.token, mark)

    def take(self, choice: Choice) -> Step:
        """Let `choice` happen; afterwards its actor waits before its next request, or has ended.

        Raises:
            ScheduleError: There is no such actor, or it does not wait.
            EndlessError: STEPS_MAX steps were taken already.
            MisuseError: An actor left its frame.
        """
        actor = self._waiting_actor(choice.actor)
        if len(self.taken) == STEPS_MAX:
            raise EndlessError(f"{STEPS_MAX} steps and no end; the last: {self._steps[-1]}")
        if choice != self.default():
            self._decided = len(self.taken) + 1
        self.taken.append(choice)
        if choice.kind is not Kind.CRASH:
            self.last = choice.actor
        step = self._happen(actor, choice.kind)
        if actor.ending is not _WAITING:
            self.waiting = self._who_waits()
        self._steps.append(step)
        return step

    def follow(self, choices: Iterable[Choice]) -> None:
        """Take these, one after the other. Raises what `take` raises."""
        for choice in choices:
            self.take(choice)

    def finish(self) -> None:
        """Go on by default until nobody waits."""
        while self.waiting:
            self.take(self.default())

    def endings(self) -> dict[str, Ending]:
        """Return how each actor ended, or that it waits."""
        return {name: actor.ending for name, actor in self._actors.items()}

    def trace(self) -> Trace:
        """Return what happened so far. Its schedule leaves out what follows by default."""
        return Trace(Schedule(tuple(self.taken[: self._decided])), tuple(self._steps), self.endings())

    def close(self) -> None:
        """End the actors that still wait, as by a crash."""
        for actor in self._actors.values():
            if actor.ending is _WAITING:
                actor.crash()
        self.waiting = []

    def _who_waits(self) -> list[str]:
        return [name for name, actor in self._actors.items() if actor.ending is _WAITING]

    def _happen(self, actor: _Running, kind: Kind) -> Step:
        request = actor.request
        if kind is Kind.CRASH:
            actor.history = self._histories.after(actor.history, _CRASHED)
            actor.crash()
            return Step(actor.name, kind, request.verb, request.key, "not sent")
        outcome = self.world.answer(actor.name, request)
        for key, version in changes(request, outcome).items():
            self._written_mark ^= self._mark(key) ^ _mark(key, version)
            self._written[key] = version
        seen = _CRASHED if kind is Kind.CRASH_AFTER else outcome.token
        actor.history = self._histories.after(actor.history, seen)
        if kind is Kind.CRASH_AFTER:
            actor.crash()
        else:
            actor.go_on(outcome)
        return Step(actor.name, kind, request.verb, request.key, outcome.token)

    def _mark(self, key: str) -> int:
        return _mark(key, self._written[key]) if key in self._written else 0

    def _state_with(self, changed: _Running, token: Hashable, mark: int) -> State:
        histories = tuple(
            [
                self._histories.after(actor.history, token) if actor is changed else actor.history
                for actor in self._actors.values()
            ]
        )
        return State(mark, histories, None)

    def _waiting_actor(self, name: str) -> _Running:
        actor = self._actors.get(name)
        if actor is None or actor.ending is not _WAITING:
            state = "does not exist" if actor is None else f"has {actor.ending}"
            raise ScheduleError(f"step {len(self.taken) + 1}: actor {name!r} {state}; waiting: {self.waiting}")
        return actor


class _Running:
    """One actor, stopped before its `request` or ended."""

    def __init__(self, name: str, function: worlds.Actor) -> None:
        self.name = name
        self.history = 0
        self.request: Request
        self.ending = _WAITING
        self._crashing = False
        self._misuse: MisuseError | None = None  # raised to the caller too: the actor might swallow it
        self._function = function
        self._greenlet = greenlet.greenlet(self._live)

    def go_on(self, outcome: Outcome | None) -> None:
        """Hand the outcome of the pending request over (None starts the actor); return at its next request or end.

        Raises MisuseError if it sent anything from elsewhere.
        """
        self._greenlet.switch(outcome)
        if self._misuse is not None:
            raise self._misuse

    def crash(self) -> None:
        """End it. Raises MisuseError if it goes on."""
        self._crashing = True
        if not self._greenlet:  # never begun, or ended by an interrupt of the whole program
            self.ending = Ending("crashed")
            return
        self._greenlet.throw(Crash(self.name))
        if self.ending.how != "crashed":
            raise MisuseError(f"actor {self.name!r} caught its crash and has {self.ending}; catch Exception at most")

    def send(self, request: Request) -> Any:
        """Called in the actor: stop before `request`; return or raise what it came to."""
        if greenlet.getcurrent() is not self._greenlet:
            self._misuse = MisuseError(
                f"{request.verb} {request.key}: not sent by actor {self.name!r} itself; "
                "a check reads world.store, code with threads gets an InlineExecutor"
            )
            raise self._misuse
        if self._crashing:
            raise Crash(self.name)
        self.request = request
        outcome: Outcome = self._greenlet.parent.switch()
        if outcome.error is not None:
            raise outcome.error
        return outcome.value

    def _live(self, _: None) -> None:
        self._greenlet.clock = ManualClock(seed=_seed(self.name))
        try:
            self._function(_ActorStore(self.name, self.send), self._greenlet.clock)
        except Crash:
            self.ending = Ending("crashed")
        except Exception as error:  # noqa: BLE001  part of the trace; the checks decide what it means
            self.ending = Ending("raised", f"{type(error).__name__}: {error}", error)
        else:
            self.ending = Ending("returned")


class RunningClock:
    """The clock of the actor that runs, for code that keeps one clock for all: put it there while worlds are run.

    Args:
        otherwise: Used while no actor runs: when a world is made, and by checks.
    """

    def __init__(self, otherwise: Clock) -> None:
        self._otherwise = otherwise

    def now(self) -> datetime:
        """Return the present instant, aware UTC."""
        return self._clock().now()

    def monotonic(self) -> float:
        """Return seconds on a scale that never goes back."""
        return self._clock().monotonic()

    def sleep(self, seconds: float) -> None:
        """Move the clock."""
        self._clock().sleep(seconds)

    def new_id(self) -> str:
        """Return the next id of the actor."""
        return self._clock().new_id()

    def random(self) -> float:
        """Return the next number of the actor."""
        return self._clock().random()

    def _clock(self) -> Clock:
        clock: Clock = getattr(greenlet.getcurrent(), "clock", self._otherwise)
        return clock


class _ActorStore:
    """An `ObjectStore` whose every request waits to be scheduled."""

    def __init__(self, name: str, send: Callable[[Request], Any]) -> None:
        self._name = name
        self._send = send

    def __repr__(self) -> str:
        return f"<store of {self._name}>"  # the same in every run: it may stand in the text of an ending

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        found: StoredObject = self._send(Request("get", (key,), byte_range))
        return found

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows. See `ObjectStore.put`."""
        # With any other mode the store refuses a stream, unread.
        content = data if isinstance(data, bytes) or not isinstance(mode, Create) else b"".join(pieces(data))
        version: Version = self._send(Request("put", (key,), (content, mode)))
        return version

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        found: ObjectMeta = self._send(Request("stat", (key,)))
        return found

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        yield from self._send(Request("list", (prefix,), start_after))

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        self._send(Request("delete", (key,)))

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects; return those that could not be removed."""
        failures: tuple[DeleteFailure, ...] = self._send(Request("delete_many", tuple(keys)))
        return failures


def run(world: World, schedule: Schedule | str = "") -> Trace:
    """Run a fresh world by `schedule` to its end and return the trace; nothing is checked.

    Raises:
        ScheduleError: The schedule does not fit the world.
        EndlessError: No end in STEPS_MAX steps.
        MisuseError: An actor left its frame.
    """
    with Simulation(world) as simulation:
        simulation.follow(schedule_of(schedule).choices)
        simulation.finish()
        return simulation.trace()


@lru_cache(maxsize=1 << 16)
def _mark(key: str, version: Version | None) -> int:
    """Return 128 bits for one written object; the marks of all of them, xor-ed, stand for what was written."""
    return int.from_bytes(short_hash(f"{key}\0{version}".encode()), "big")


@lru_cache(maxsize=1 << 10)
def _seed(name: str) -> int:
    return int.from_bytes(short_hash(name.encode()), "big")
