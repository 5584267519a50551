"""`Schedule`: who goes when, as a compact text. Pure.

Rules:
1. `a` lets actor a's pending request happen; `a*3` three in a row; `a!` crashes a instead of its request;
   `a+!` lets the request happen and crashes a before it gets the answer.
2. Where a schedule ends, whoever went last goes on, then the others in their order, until nobody is left. So a
   schedule needs to say no more than where the order departs from that.
3. `Schedule.parse(str(schedule)) == schedule`.

    schedule = Schedule.parse("a b*2 a!")
    assert len(schedule.choices) == 4
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from storage.testing.simulation.errors import ScheduleError

NAME = re.compile(r"[a-z][a-z0-9_]*")
_TERM = re.compile(rf"(?P<actor>{NAME.pattern})(?:\*(?P<count>[1-9][0-9]*)|(?P<kind>\+?!))?")


class Kind(Enum):
    """What happens to an actor's pending request, and to the actor."""

    STEP = ""
    CRASH = "!"
    CRASH_AFTER = "+!"


class Choice(NamedTuple):
    """One decision of a schedule."""

    actor: str
    kind: Kind = Kind.STEP

    def __str__(self) -> str:
        return self.actor + self.kind.value


@dataclass(frozen=True, slots=True)
class Schedule:
    """Decisions, first to last."""

    choices: tuple[Choice, ...] = ()

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read what `str` of a schedule wrote.

        Raises:
            ScheduleError: Not a schedule.
        """
        return cls(tuple(choice for term in text.split() for choice in _choices(term)))

    def __str__(self) -> str:
        return " ".join(_term(choice, sum(1 for _ in run)) for choice, run in itertools.groupby(self.choices))


def schedule_of(schedule: Schedule | str) -> Schedule:
    """Return a schedule given as such or as text."""
    return schedule if isinstance(schedule, Schedule) else Schedule.parse(schedule)


def _term(choice: Choice, count: int) -> str:
    return str(choice) if count == 1 else f"{choice.actor}*{count}"


def _choices(term: str) -> Iterator[Choice]:
    found = _TERM.fullmatch(term)
    if found is None:
        raise ScheduleError(f"{term!r} is no term of a schedule (want a, a*3, a! or a+!, a being an actor)")
    choice = Choice(found["actor"], Kind(found["kind"] or ""))
    yield from itertools.repeat(choice, int(found["count"] or 1))
