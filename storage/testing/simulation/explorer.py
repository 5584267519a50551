"""`explore`: all schedules up to a number of pre-emptions and crashes, each in a fresh world; or an error that says so.

Rules:
1. A pre-emption is a step of another actor while the last one could go on. Other switches are free. Schedules with
   fewer pre-emptions come first, then those with fewer crashes: what is found first is found with as few as possible
   (Musuvathi, Qadeer: Iterative Context Bounding for Systematic Testing of Multithreaded Programs, PLDI 2007).
2. Stateless: a world cannot be copied, so each alternative runs anew in a world of its own, by its schedule. The state
   it comes to must be the one foreseen; what is not deterministic is an error.
3. A state that was explored with at least as much budget left is not explored again. Sound, because a `State` (what
   was written, what each actor was answered, what the checks remember), who went last and the pre-emptions left decide
   every continuation (the crashes left follow from the state: a crash is part of an actor's history), and every check
   depends on the state alone (`World`, rule 3). Nothing is left out for being equivalent to another order, as with
   sleep sets: the order that is kept might need more pre-emptions than the bound allows. In detail, one visit of a
   state covers another if
   (a) the same actor went last, and as many pre-emptions were left; or, when no crashes are left,
   (b) nobody who went last could go on, so that every switch was free, and as many pre-emptions were left; or
   (c) one more pre-emption was left: whoever went last, a first switch costs one at most.
   Outcomes are foreseen without being run, so most known states cost no execution.
4. Crashes are taken where they differ: instead of a request just after the actor's previous one (or at the start), and
   after a write was applied. A crash writes nothing, so one that comes later can be moved forward over the steps of
   others to that point; no pre-emption is added, and the switch behind it becomes free. A crash after a read is a
   crash instead of it.
5. It returns when everything was explored, and raises otherwise: `LimitError`, never a silent stop.

    done = explore(Race, preemptions=2, crashes=1)
    assert done.complete
    replay(Race, "a b*2 a")
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, NamedTuple, NoReturn

from storage.testing.simulation.engine import Histories, Simulation, State
from storage.testing.simulation.errors import MisuseError, NotDeterministicError, SimulationError
from storage.testing.simulation.schedule import Choice, Kind, Schedule, schedule_of
from storage.testing.simulation.world import Trace, Violation, ViolationError, World

LIMIT = 100_000  # schedules; minutes with real actors
Pruning = Literal["states", "none"]
Make = Callable[[], World]


@dataclass(frozen=True, slots=True)
class Exploration:
    """What a search did.

    Attributes:
        schedules: Executions, each in a fresh world.
        steps: Requests scheduled, those repeated on the way to an alternative included.
        states: Different states that were explored.
        pruned: Alternatives that were not explored because their state was known.
        violations: Checks that failed, if `on_violation` let the search go on.
        complete: Whether every schedule within the budgets was run, or is covered by one that was.
    """

    schedules: int
    steps: int
    states: int
    pruned: int
    violations: int
    complete: bool

    def __str__(self) -> str:
        return (
            f"{self.schedules} schedules, {self.steps} steps, {self.states} states, {self.pruned} pruned, "
            f"{self.violations} violations, {'complete' if self.complete else 'not complete'}"
        )


class LimitError(SimulationError):
    """The search is larger than its limit, so nothing is proved. Remedy: fewer actors or budgets, or a higher limit.

    Attributes:
        exploration: What was counted until then; not complete.
    """

    def __init__(self, exploration: Exploration) -> None:
        self.exploration = exploration
        super().__init__(f"stopped unfinished: {exploration}; narrow the search, or raise the limit")


def raise_violation(violation: Violation) -> NoReturn:
    """Raise it: the search ends at the first one."""
    raise ViolationError(violation) from violation.cause


def explore(
    make: Make,
    *,
    preemptions: int,
    crashes: int = 0,
    prefix: Schedule | str = "",
    limit: int = LIMIT,
    pruning: Pruning = "states",
    on_violation: Callable[[Violation], None] = raise_violation,
) -> Exploration:
    """Run all schedules within the budgets; afterwards every check held in each of them.

    Args:
        make: Returns a fresh world; always the same one.
        preemptions: How many pre-emptions a schedule may have.
        crashes: How many actors may crash in it.
        prefix: Where all schedules begin; its own pre-emptions and crashes are not counted.
        limit: How many executions are made at most.
        pruning: "none" runs every schedule, for comparison.
        on_violation: Told of each failed check; that schedule goes no further. By default it raises.

    Raises:
        ViolationError: A check failed; the message has schedule and trace.
        LimitError: There are more schedules than `limit`.
        NotDeterministicError: The same schedule gave different states.
        ScheduleError: `prefix` does not fit the world.
        EndlessError: An execution found no end.
        MisuseError: An actor left its frame; or the world has answers of its own (`World`, rule 4).
    """
    known = _States() if pruning == "states" else None
    return _Explorer(make, schedule_of(prefix), known, limit, on_violation).explore(_Left(preemptions, crashes))


def replay(make: Make, schedule: Schedule | str) -> Trace:
    """Run one schedule to its end with all checks, and return its trace.

    Raises:
        ViolationError: A check failed.
        ScheduleError: The schedule does not fit the world.
    """
    with Simulation(make()) as simulation:
        check(simulation)
        for choice in schedule_of(schedule).choices:
            simulation.take(choice)
            check(simulation)
        while simulation.waiting:
            simulation.take(simulation.default())
            check(simulation)
        return simulation.trace()


def check(simulation: Simulation) -> None:
    """Check the world as it is after a step. Raises ViolationError."""
    if violation := violation_in(simulation):
        raise_violation(violation)


def violation_in(simulation: Simulation) -> Violation | None:
    """Check the world as it is after a step; return what is wrong with it, if anything."""
    cause = _failed_check(simulation)
    return None if cause is None else Violation(simulation.trace().schedule, simulation.trace(), cause)


def _failed_check(simulation: Simulation) -> Exception | None:
    endings = simulation.endings()
    for ending in endings.values():
        if isinstance(ending.error, AssertionError):
            return ending.error
    try:
        simulation.world.check_step()
        if not simulation.waiting:
            simulation.world.check_end(endings)
    except Exception as error:  # noqa: BLE001  a check that raises anything has failed; it is reported with its schedule
        return error
    return None


class _Left(NamedTuple):
    """Budgets that are left."""

    preemptions: int
    crashes: int


class _Path(NamedTuple):
    """Choices behind the prefix, last first. `steps` counts those that are no crash instead of a request."""

    before: _Path | None
    choice: Choice
    steps: int

    def choices(self) -> list[Choice]:
        found = []
        path: _Path | None = self
        while path is not None:
            found.append(path.choice)
            path = path.before
        return found[::-1]


class _Work(NamedTuple):
    """An alternative to be run: the way, the state foreseen there (if it was), who then went last, and what is left."""

    path: _Path | None
    state: State | None
    last: str
    left: _Left


class _States:
    """States visited, with who went last (and whether switches were free) and the pre-emptions left."""

    def __init__(self) -> None:
        self._visits: dict[State, list[tuple[str, bool, int]]] = {}

    def covers(self, state: State, last: str, left: _Left) -> bool:
        """Say whether an earlier visit covers this one (rule 3)."""
        return any(_covers(visit, last, left) for visit in self._visits.get(state, ()))

    def add(self, state: State, last: str, left: _Left, *, free: bool) -> None:
        """Note a visit."""
        visits = self._visits.setdefault(state, [])
        visits.append((last, free, left.preemptions))

    def __len__(self) -> int:
        return len(self._visits)


def _covers(visit: tuple[str, bool, int], last: str, left: _Left) -> bool:
    who, free, preemptions = visit
    if who == last:
        return preemptions >= left.preemptions
    return left.crashes == 0 and preemptions >= left.preemptions + (0 if free else 1)


class _Explorer:
    """One call of `explore`."""

    def __init__(
        self, make: Make, prefix: Schedule, known: _States | None, limit: int, on_violation: Callable[[Violation], None]
    ) -> None:
        self._make = make
        self._prefix = prefix.choices
        self._known = known
        self._limit = limit
        self._on_violation = on_violation
        self._histories = Histories()
        self._work: defaultdict[tuple[int, int], deque[_Work]] = defaultdict(deque)  # by what is spent, as _Left
        self._schedules = self._steps = self._pruned = self._violations = 0

    def explore(self, budget: _Left) -> Exploration:
        self._budget = budget
        self._push(_Work(None, None, "", budget))
        while self._work:
            spent = min(self._work)
            work = self._work[spent].popleft()
            if not self._work[spent]:
                del self._work[spent]
            self._pursue(work)
        return self._counted(complete=True)

    def _push(self, work: _Work) -> None:
        spent = (self._budget.preemptions - work.left.preemptions, self._budget.crashes - work.left.crashes)
        self._work[spent].append(work)

    def _pursue(self, work: _Work) -> None:
        if (
            work.state is not None
            and work.path is not None
            and self._cut(work.state, work.path.choice.actor, work.left)
        ):
            return
        if self._schedules == self._limit:
            raise LimitError(self._counted(complete=False))
        self._schedules += 1
        world = self._make()
        if type(world).answer is not World.answer:
            raise MisuseError(f"{type(world).__name__} has answers of its own: it can be walked, not explored")
        with Simulation(world, self._histories) as simulation:
            try:
                self._execute(simulation, work)
            finally:
                self._steps += len(simulation.taken)

    def _execute(self, simulation: Simulation, work: _Work) -> None:
        path, left = work.path, work.left
        if path is not None:
            self._arrive(simulation, path, work.state)
        elif not self._begin(simulation):
            return
        while self._holds(simulation):
            state = simulation.state
            if self._cut(state, simulation.last, left):
                return
            if self._known is not None:
                self._known.add(state, simulation.last, left, free=not simulation.last_waits)
            if not simulation.waiting:
                return
            default = simulation.default()
            for choice, then_left in _options(simulation, path, left):
                if choice != default:
                    self._defer(simulation, path, choice, then_left)
            path = _extended(path, default)
            simulation.take(default)

    def _begin(self, simulation: Simulation) -> bool:
        """Follow the prefix with all checks, but for the last; say whether they held."""
        for choice in self._prefix:
            if not self._holds(simulation):
                return False
            simulation.take(choice)
        return True

    def _arrive(self, simulation: Simulation, path: _Path, foreseen: State | None) -> None:
        """Take the way to an alternative; all but its last step was checked, so only checks that remember look on."""
        for choice in (*self._prefix, *path.choices()):
            if _remembers(simulation.world):
                simulation.world.check_step()
            simulation.take(choice)
        if foreseen is not None and simulation.state != foreseen:
            raise NotDeterministicError(
                f"{simulation.trace().schedule}: this schedule led elsewhere than foreseen; take time, chance and "
                f"shared objects out of the actors\n{simulation.trace()}"
            )

    def _defer(self, simulation: Simulation, path: _Path | None, choice: Choice, left: _Left) -> None:
        state = self._foreseen(simulation, choice)
        last = simulation.last if choice.kind is Kind.CRASH else choice.actor
        if state is None or not self._cut(state, last, left):
            self._push(_Work(_extended(path, choice), state, last, left))

    def _cut(self, state: State, last: str, left: _Left) -> bool:
        known = self._known is not None and self._known.covers(state, last, left)
        self._pruned += known
        return known

    def _foreseen(self, simulation: Simulation, choice: Choice) -> State | None:
        cannot = self._known is None or _remembers(simulation.world)
        return None if cannot else simulation.foreseen(choice)

    def _holds(self, simulation: Simulation) -> bool:
        violation = violation_in(simulation)
        if violation is None:
            return True
        self._violations += 1
        self._on_violation(violation)
        return False

    def _counted(self, *, complete: bool) -> Exploration:
        states = 0 if self._known is None else len(self._known)
        return Exploration(self._schedules, self._steps, states, self._pruned, self._violations, complete)


def _remembers(world: World) -> bool:
    return type(world).memory is not World.memory


def _extended(path: _Path | None, choice: Choice) -> _Path:
    steps = 0 if path is None else path.steps
    return _Path(path, choice, steps + (choice.kind is not Kind.CRASH))


def _options(simulation: Simulation, path: _Path | None, left: _Left) -> Iterator[tuple[Choice, _Left]]:
    """Yield every choice within the budgets, with what is left then (rules 1 and 4)."""
    stays = simulation.last if simulation.last_waits else ""
    at_start = path is None or path.steps == 0
    for name in simulation.waiting:
        cost = 0 if not stays or name == stays else 1
        if cost <= left.preemptions:
            then_left = _Left(left.preemptions - cost, left.crashes)
            yield Choice(name), then_left
            if left.crashes and simulation.pending(name).writes:
                yield Choice(name, Kind.CRASH_AFTER), then_left._replace(crashes=left.crashes - 1)
        if left.crashes and (at_start or name == stays):
            yield Choice(name, Kind.CRASH), left._replace(crashes=left.crashes - 1)
