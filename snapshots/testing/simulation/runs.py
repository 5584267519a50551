"""Runs: one seed, many seeds. The same seed gives the same run, everywhere.

Rules:
1. The order of requests is drawn: evenly, or by priorities that change now and then (PCT). Some hosts are paused, for a
   while or for ever.
2. A failure says the one command that repeats it.

    totals = simulate(range(1, 101), seconds=60)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from snapshots.testing.simulation import satellite_roles  # noqa: F401  registers its roles
from snapshots.testing.simulation.copy_roles import copied_in_pieces
from snapshots.testing.simulation.stage import Stage, running_clock
from storage.clock import Clock
from storage.digest import short_hash
from storage.testing.draws import Draws
from storage.testing.simulation import Choice, Kind, Simulation, Trace, ViolationError, check

POLICIES = ("uniform", "pct", "pct")
CHANGES_MAX = 12  # of priorities, in a run by priorities
HORIZON = 300  # steps among which changes and pauses fall
PAUSES_MAX = 3
FOR_EVER = 1 << 30


@dataclass(frozen=True, slots=True)
class Run:
    """What one seed did.

    Attributes:
        seed: It.
        steps: Requests.
        policy: How their order was drawn.
        faults: What failed, by kind.
        operations: What was asked for, by what it came to.
        trace: Digest of everything that happened, in order.
    """

    seed: int
    steps: int
    policy: str
    faults: Counter[str]
    operations: Counter[str]
    trace: str


@dataclass(slots=True)
class Totals:
    """What many seeds did.

    Attributes:
        first: The first of them.
        last: The last that was run.
        runs: How many.
        steps: Requests together.
        shortest: Steps of the shortest run, 0 without one.
        faults: By kind.
        operations: By what they came to.
        failed: Seeds that found something wrong, and what.
    """

    first: int = 0
    last: int = 0
    runs: int = 0
    steps: int = 0
    shortest: int = 0
    faults: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    failed: dict[int, str] = field(default_factory=dict)

    def add(self, seed: int) -> None:
        """Run a seed and count it."""
        self.first, self.last = self.first if self.runs else seed, seed
        self.runs += 1
        try:
            run = run_seed(seed)
        except ViolationError as error:
            self.failed[seed] = str(error)
            return
        self.steps += run.steps
        self.shortest = min(self.shortest or run.steps, run.steps)
        self.faults += run.faults
        self.operations += run.operations


def run_seed(seed: int) -> Run:
    """Run one seed with all checks.

    Raises:
        ViolationError: Something is wrong; the message has the trace and the command that repeats it (rule 2).
    """
    with running_clock(), copied_in_pieces():
        return _run(Stage(seed))


def _run(stage: Stage) -> Run:
    with Simulation(stage) as simulation:
        order = _Order(simulation, Draws(f"order {stage.seed}"))
        try:
            _walk(simulation, order)
        except ViolationError as error:
            raise ViolationError(
                error.violation, repeat=f"snapshots simulate --seeds {stage.seed}"
            ) from error.violation.cause
        trace = simulation.trace()
    counts = Counter(f"{one.what} {one.told or 'unknown'}" for one in stage.notes.operations)
    return Run(stage.seed, len(trace.steps), order.policy, stage.notes.weather.counts, counts, _digest(trace))


def simulate(
    seeds: Iterable[int], *, seconds: float, clock: Clock, progress: Callable[[Totals], None] = lambda _: None
) -> Totals:
    """Run seeds until they or the time are used up; a violation is counted, and the next seed goes on.

    Args:
        seeds: Which.
        seconds: How long at most; the last run is finished.
        clock: By which the time passes.
        progress: Told after every run.
    """
    totals, end = Totals(), clock.monotonic() + seconds
    for seed in seeds:
        totals.add(seed)
        progress(totals)
        if clock.monotonic() >= end:
            break
    return totals


def _walk(simulation: Simulation, order: _Order) -> None:
    check(simulation)
    while simulation.waiting:
        simulation.take(order.next())
        check(simulation)


class _Order:
    """Who goes next."""

    def __init__(self, simulation: Simulation, draws: Draws) -> None:
        self.policy = draws.pick(POLICIES)
        self._simulation = simulation
        self._draws = draws
        names = list(simulation.waiting)
        self._order = [names.pop(draws.below(len(names))) for _ in range(len(names))]
        changes = 2 + draws.below(CHANGES_MAX) if self.policy == "pct" else 0
        self._changes = {draws.below(HORIZON) for _ in range(changes)}
        self._pauses = dict(self._pause() for _ in range(draws.below(PAUSES_MAX + 1)))
        self._paused: dict[str, int] = {}  # until which step

    def _pause(self) -> tuple[int, int]:
        """Draw at which step whoever went last is paused, and for how many steps."""
        draws = self._draws
        return draws.below(HORIZON), FOR_EVER if draws.below(4) == 0 else 20 + draws.below(200)

    def next(self) -> Choice:
        """Return the next choice; whoever is left but paused for ever, crashes."""
        simulation, step = self._simulation, len(self._simulation.taken)
        if step in self._pauses and simulation.last_waits:
            self._paused[simulation.last] = step + self._pauses[step]
        awake = [name for name in simulation.waiting if self._paused.get(name, 0) <= step]
        if not awake:
            name = min(simulation.waiting, key=lambda one: (self._paused[one], one))
            if self._paused[name] >= FOR_EVER:
                return Choice(name, Kind.CRASH)
            return Choice(name)
        if self.policy == "uniform":
            return Choice(self._draws.pick(awake))
        if simulation.last and step in self._changes:
            self._order.remove(simulation.last)
            self._order.append(simulation.last)
        return Choice(next(name for name in self._order if name in awake))


def _digest(trace: Trace) -> str:
    rows = [f"{step.actor} {step.kind} {step.verb} {step.key} {step.outcome}" for step in trace.steps]
    rows += [f"{name} {ending}" for name, ending in trace.endings.items()]
    return short_hash("\n".join(rows).encode()).hex()
