"""What a simulation can say, one class per remedy.

SimulationError
├─ ScheduleError           write the schedule anew: it names what cannot be done there
├─ NotDeterministicError   take the outside (time, chance, shared objects) out of the actors
├─ LimitError(exploration) narrow the search, or raise the limit (beside `Exploration`)
├─ EndlessError            give every loop of the actors a bound
└─ MisuseError             keep the actor to its own store, thread and life
ViolationError(violation)  an AssertionError, beside `Violation`: replay the schedule that it prints
"""

from __future__ import annotations


class SimulationError(Exception):
    """The simulation itself failed; nothing was shown either way. Catch a subclass: each names its remedy."""


class ScheduleError(SimulationError, ValueError):
    """Not a schedule, or not of this world. Remedy: write it anew; names and order are those of the trace."""


class NotDeterministicError(SimulationError):
    """The same schedule gave something else. Remedy: let actors depend on their requests and their clock only."""


class EndlessError(SimulationError):
    """One execution made too many requests. Remedy: give every loop of the actors a bound."""


class MisuseError(SimulationError):
    """An actor left its frame. Remedy: one thread (`InlineExecutor`), its own store, no catching of `Crash`."""
