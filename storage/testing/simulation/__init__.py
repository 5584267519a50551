"""Step scheduler and schedule explorer: every order in which actors' requests can reach a store, tried in one thread.

Rules:
1. One request is one atomic step; actors are ordinary functions of a store and a clock (`engine`).
2. The same schedule gives the same trace, and is a short text (`schedule`).
3. `explore` is exhaustive within its budgets, or raises (`explorer`); `random_walks` goes where that is too far.

    class Race(World):
        def __init__(self) -> None:
            super().__init__({"a": increment, "b": increment})
        def check_end(self, endings: Mapping[str, Ending]) -> None:
            assert self.store.get("n").data == b"2"

    explore(Race, preemptions=1)
"""

from __future__ import annotations

from storage.testing.simulation.engine import RunningClock, Simulation, run
from storage.testing.simulation.errors import (
    EndlessError,
    MisuseError,
    NotDeterministicError,
    ScheduleError,
    SimulationError,
)
from storage.testing.simulation.explorer import Exploration, LimitError, check, explore, replay
from storage.testing.simulation.schedule import Choice, Kind, Schedule
from storage.testing.simulation.walks import Walks, random_walks
from storage.testing.simulation.world import Actor, Ending, Step, Trace, Violation, ViolationError, World

__all__ = [
    "Actor",
    "Choice",
    "Ending",
    "EndlessError",
    "Exploration",
    "Kind",
    "LimitError",
    "MisuseError",
    "NotDeterministicError",
    "RunningClock",
    "Schedule",
    "ScheduleError",
    "Simulation",
    "SimulationError",
    "Step",
    "Trace",
    "Violation",
    "ViolationError",
    "Walks",
    "World",
    "check",
    "explore",
    "random_walks",
    "replay",
    "run",
]
