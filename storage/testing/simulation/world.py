"""`World`: what a simulation runs – one store, its actors, what must be true – and what comes of it: a `Trace`.

Rules:
1. An actor is an ordinary function of a store and a clock. What it does follows from its own answers and its own
   clock alone: actors share nothing but the store.
2. The store's clock stands still while actors run, and only they write to the store.
3. A check reads `store` and what actors have noted for themselves (each in a place of its own). Whatever else it
   remembers from check to check – a highest value seen, a model – it must return from `memory`.
4. A world whose `answer` departs from its store (faults, lost answers) is for walks: it cannot be explored.
5. An actor that ends with an `AssertionError` has found a violation. How else it may end, `check_end` decides.

    class Race(World):
        def __init__(self) -> None:
            super().__init__({"a": increment, "b": increment})
        def check_end(self, endings: Mapping[str, Ending]) -> None:
            assert self.store.get("n").data == b"2"
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from storage.backends.memory import MemoryStore
from storage.clock import Clock
from storage.store import ObjectStore
from storage.testing.clock import ManualClock
from storage.testing.plan import Verb
from storage.testing.simulation.errors import ScheduleError
from storage.testing.simulation.requests import Outcome, Request, carry_out
from storage.testing.simulation.schedule import NAME, Kind, Schedule

Actor = Callable[[ObjectStore, Clock], None]
_SHOWN = 60  # characters of a key or an outcome in a printed trace


@dataclass(frozen=True, slots=True)
class Ending:
    """How an actor ended. Two are equal if they read alike.

    Attributes:
        how: "waiting" is an actor that has a request before it.
        text: Type and message of the error it raised, else empty.
        error: The error itself.
    """

    how: Literal["waiting", "returned", "raised", "crashed"]
    text: str = ""
    error: Exception | None = field(default=None, compare=False)

    def __str__(self) -> str:
        return f"{self.how} {self.text}".strip()


class Step(NamedTuple):
    """One request that was scheduled; `outcome` is the token of its answer, or why there was none."""

    actor: str
    kind: Kind
    verb: Verb
    key: str
    outcome: Hashable

    def __str__(self) -> str:
        term = self.actor + self.kind.value
        return f"{term:<12} {self.verb:<11} {_short(self.key)}  → {_short(_told(self.outcome))}"


@dataclass(frozen=True, slots=True)
class Trace:
    """What happened, step by step, and how every actor ended; printable."""

    schedule: Schedule
    steps: tuple[Step, ...]
    endings: Mapping[str, Ending]

    def __str__(self) -> str:
        rows = [f"{number:>4}  {step}" for number, step in enumerate(self.steps, 1)]
        return "\n".join([*rows, *(f"      {name}: {ending}" for name, ending in self.endings.items())])


@dataclass(frozen=True, slots=True)
class Violation:
    """A check that failed, and how to see it again."""

    schedule: Schedule
    trace: Trace
    cause: Exception

    def __str__(self) -> str:
        return self.text(f"replay(make, {str(self.schedule)!r})")

    def text(self, repeat: str) -> str:
        """Return what was found, how it is repeated, and what happened."""
        why = str(self.cause) or type(self.cause).__name__
        return f"{why}\n{repeat}\n{self.trace}"


class ViolationError(AssertionError):
    """A check failed. Remedy: `replay` the schedule in the message, and mend the code that it shows.

    Args:
        violation: What was found.
        repeat: A command that shows it again, instead of the schedule.
    """

    def __init__(self, violation: Violation, repeat: str = "") -> None:
        self.violation = violation
        super().__init__(violation.text(repeat) if repeat else str(violation))


class World:
    """One fresh world. Sub-class it, and give `explore` a function that makes one.

    Args:
        actors: By name (`[a-z][a-z0-9_]*`), in the order in which they go when nothing else decides.
        store: Where all requests go, filled as needed; a new empty one by default.
    """

    def __init__(self, actors: Mapping[str, Actor], store: ObjectStore | None = None) -> None:
        for name in actors:
            if not NAME.fullmatch(name):
                raise ScheduleError(f"{name!r} cannot stand in a schedule (want {NAME.pattern})")
        self.actors = dict(actors)
        self.store: ObjectStore = store or MemoryStore(ManualClock())

    def answer(self, actor: str, request: Request) -> Outcome:  # noqa: ARG002  of those that ask who it is
        """Return what a request of an actor comes to (rule 4)."""
        return carry_out(self.store, request)

    def check_step(self) -> None:
        """Raise if what must always be true is not. Called at the start and after every step."""

    def check_end(self, endings: Mapping[str, Ending]) -> None:
        """Raise if what must be true in the end is not: here, that no actor raised. Called when nobody is left."""
        raised = {name: ending.text for name, ending in endings.items() if ending.how == "raised"}
        assert not raised, f"raised: {raised}"

    def memory(self) -> Hashable:
        """Return what the checks remember (rule 3). Slower when overridden: outcomes are then not foreseen."""
        return None


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 1] + "…"


def _told(outcome: Hashable) -> str:
    match outcome:
        case None:
            return "done"
        case (str(kind), str(message)):
            return f"{kind}: {message}"
        case tuple():
            return f"{len(outcome)} rows"
    return str(outcome)
