"""`random_walks`: many schedules drawn from a seed, for what is too large to be explored.

Rules:
1. Walk n follows from seed and n, and from the length of the undisturbed run. A failure prints both, and its schedule,
   which `replay` accepts.
2. "uniform" draws every step among the actors that wait. "pct" gives the actors priorities, lets the highest go on, and
   makes it the lowest at `changes` steps: a bug that needs d ordering decisions (changes being d-1) is found in a walk
   of n actors and k steps with a probability of at least 1/(n·k^(d-1)).
   Source: Burckhardt et al., A Randomized Scheduler with Probabilistic Guarantees of Finding Bugs, ASPLOS 2010.
3. Crashes fall on drawn steps, before or after a request.

    random_walks(Race, seed=7, count=1000, policy="pct", changes=2)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from storage.testing.draws import Draws
from storage.testing.simulation.engine import Simulation, run
from storage.testing.simulation.explorer import Make, check
from storage.testing.simulation.schedule import Choice, Kind
from storage.testing.simulation.world import ViolationError

Policy = Literal["uniform", "pct"]
Chooser = Callable[[Simulation], str]


@dataclass(frozen=True, slots=True)
class Walks:
    """What was walked: executions and their steps."""

    count: int
    steps: int


def random_walks(
    make: Make, *, seed: int, count: int, policy: Policy = "uniform", changes: int = 2, crashes: int = 0
) -> Walks:
    """Run `count` drawn schedules with all checks.

    Args:
        make: Returns a fresh world; always the same one.
        seed: Of all draws; printed with a failure.
        count: How many walks.
        policy: How the next actor is drawn (rule 2).
        changes: Of priority per walk, for "pct".
        crashes: How many actors may crash in a walk; each walk draws a number up to it.

    Raises:
        ViolationError: A check failed; the message has schedule and trace.
        EndlessError: An execution found no end.
        MisuseError: An actor left its frame.
    """
    horizon = max(1, 2 * len(run(make()).steps))  # conflicts make it longer
    steps = 0
    for number in range(1, count + 1):
        draws = Draws(f"walk {seed}/{number}")
        with Simulation(make()) as simulation:
            choose = _uniform(draws) if policy == "uniform" else _by_priority(draws, simulation, horizon, changes)
            crash_steps = {draws.below(horizon) for _ in range(draws.below(crashes + 1))}
            try:
                _walk(simulation, choose, crash_steps, draws)
            except ViolationError:
                print(f"random_walks(seed={seed}), walk {number}, {policy}")  # noqa: T201  to be repeated
                raise
            steps += len(simulation.taken)
    return Walks(count, steps)


def _walk(simulation: Simulation, choose: Chooser, crash_steps: set[int], draws: Draws) -> None:
    check(simulation)
    while simulation.waiting:
        name = choose(simulation)
        crashes = len(simulation.taken) in crash_steps
        simulation.take(Choice(name, draws.pick((Kind.CRASH, Kind.CRASH_AFTER)) if crashes else Kind.STEP))
        check(simulation)


def _uniform(draws: Draws) -> Chooser:
    return lambda simulation: draws.pick(simulation.waiting)


def _by_priority(draws: Draws, simulation: Simulation, horizon: int, changes: int) -> Chooser:
    names = list(simulation.waiting)
    order = [names.pop(draws.below(len(names))) for _ in range(len(names))]
    change_steps = {draws.below(horizon) for _ in range(changes)}

    def choose(now: Simulation) -> str:
        if now.last and len(now.taken) in change_steps:
            order.remove(now.last)
            order.append(now.last)
        return next(name for name in order if name in now.waiting)

    return choose
