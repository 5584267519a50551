"""The command that runs the store's own code against every fault, in memory.

snapshots simulate --seconds 60; snapshots simulate --seeds 7
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from types import ModuleType
from typing import TYPE_CHECKING, Annotated

import typer

from snapshots.cli.exits import CORRUPT, UsageError
from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Output, count
from storage.clock import SystemClock

if TYPE_CHECKING:
    from snapshots.testing.simulation import Totals

SEEDS_MAX = 1 << 32  # a fresh seed has at most ten digits, to be typed again
COLUMNS: Columns = {"fault": "fault", "times": "times"}
commands = typer.Typer()


@commands.command()
def simulate(
    context: typer.Context,
    seeds: Annotated[
        str, typer.Option(metavar="A..B", help="Which runs, both ends included; fresh ones without.")
    ] = "",
    seconds: Annotated[
        float | None,
        typer.Option(metavar="S", min=0, help="For how long at most; 60 without seeds, else until all are run."),
    ] = None,
) -> None:
    """Run this software against lost answers, crashes and collections, in memory. No store is touched.

    Each run has hosts that commit, fork, rewind, prune, delete, copy and collect, in an order and under faults that
    follow from its seed. Exit code 4 if anything was lost or wrong; the seed repeats it. It needs greenlet, which comes
    with the extra "simulate".
    """
    output = invocation(context).output
    chosen = _seeds(seeds)
    limit = seconds if seconds is not None else float("inf") if seeds else 60.0
    simulation, total = _simulation(), len(chosen) if isinstance(chosen, range) else None
    with output.progress(total) as step:
        totals = simulation.simulate(chosen, seconds=limit, clock=SystemClock(), progress=_Watcher(output, step))
    unrun = total - totals.runs if total is not None else 0
    _show(totals, output, complete=not unrun)
    if unrun:
        were = "was" if unrun == 1 else "were"
        output.note(f"stopped after {limit:g} s: {count(unrun, 'seed')} {were} not run")
    if totals.failed:
        raise typer.Exit(CORRUPT)


def _simulation() -> ModuleType:
    try:
        from snapshots.testing import simulation
    except ModuleNotFoundError as error:
        if error.name != "greenlet":
            raise
        raise UsageError("simulate needs greenlet; pip install '.[simulate]' where this software was cloned") from error
    return simulation


def _seeds(text: str) -> Iterable[int]:
    """Return the seeds that `A..B` names, or fresh ones without end. Raises UsageError."""
    if not text:
        return itertools.count(int(SystemClock().random() * SEEDS_MAX))
    first, dots, last = text.partition("..")
    if not first.isdecimal() or (dots and not last.isdecimal()):
        raise UsageError(f"seeds are a number or a range such as 1..100, not {text!r:.80}")
    found = range(int(first), int(last if dots else first) + 1)
    if not found:
        raise UsageError(f"{text!r:.80} is no range; the smaller seed goes first")
    return found


class _Watcher:
    """Tells of violations as they are found, and of progress."""

    def __init__(self, output: Output, step: Callable[[str], None]) -> None:
        self._output = output
        self._step = step

    def __call__(self, totals: Totals) -> None:
        text = totals.failed.get(totals.last)
        self._step(f"seed {totals.last}, {count(len(totals.failed), 'violation')}")
        if text is not None:
            if self._output.as_json:
                self._output.record({"seed": totals.last, "violation": text}, flush=True)
            self._output.line(f"seed {totals.last}: {text}")


def _show(totals: Totals, output: Output, *, complete: bool) -> None:
    faults = [{"fault": name, "times": times} for name, times in totals.faults.most_common()]
    if output.as_json:
        output.record(
            {
                "first": totals.first,
                "last": totals.last,
                "complete": complete,
                "runs": totals.runs,
                "steps": totals.steps,
                "shortest": totals.shortest,
                "violations": len(totals.failed),
                "faults": dict(totals.faults.most_common()),
                "operations": dict(totals.operations.most_common()),
            }
        )
        return
    output.table(faults, COLUMNS, title="faults that were injected")
    verdict = (
        f"seeds {totals.first}..{totals.last}: {count(totals.runs, 'run')}, {count(totals.steps, 'request')} "
        f"(shortest run {totals.shortest}), {count(len(totals.failed), 'violation')}"
    )
    if totals.failed:
        output.line(verdict)
    else:
        output.note(verdict)
