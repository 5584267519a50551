"""The command that measures: requests, bytes, CPU and memory of this software, on this machine or on a store of yours.

snapshots bench; snapshots bench agent-turns fork --turns 50; snapshots bench resume --store s3://bucket/prefix
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer

from snapshots.benchmarks.machine import machine, versions
from snapshots.benchmarks.measures import MEASURES, measured
from snapshots.benchmarks.places import MEMORY
from snapshots.benchmarks.settings import Settings
from snapshots.cli.exits import UsageError
from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Row

ALL = "all"
LONG = [name for name, measure in MEASURES.items() if measure.is_long]
USUAL = Settings()
COLUMNS: Columns = {"measure": "measure", "figure": "figure", "value": lambda row: f"{row['value']:,}", "unit": "unit"}
commands = typer.Typer()


@commands.command()
def bench(
    context: typer.Context,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME", help=f"{', '.join(MEASURES)}, or all; if none is named all but {', '.join(LONG)}."
        ),
    ] = None,
    turns: Annotated[
        int, typer.Option(metavar="N", min=1, help="Turns of the longest session; of a chat and a fork 200 at most.")
    ] = USUAL.turns,
    revisions: Annotated[int, typer.Option(metavar="N", min=1, help="Revisions of large-state.")] = USUAL.revisions,
    sessions: Annotated[int, typer.Option(metavar="N", min=1, help="Sessions of collection.")] = USUAL.sessions,
    seconds: Annotated[
        float, typer.Option(metavar="S", min=0.1, help="Seconds that each side of contention writes.")
    ] = USUAL.seconds,
    seed: Annotated[int, typer.Option(metavar="N", help="Of the workloads: equal seeds, equal work.")] = USUAL.seed,
) -> None:
    """Measure requests, bytes, CPU and memory of this software, here or on a store of yours.

    In memory, or in temporary directories; SNAPSHOTS_STORE is not used. `snapshots --store URL bench` measures that
    store, below a prefix of its own that is removed in the end: every request is really made there, and paid for.
    """
    asked = invocation(context)
    chosen = _chosen(names or ())
    settings = Settings(
        store=asked.store if _is_said(context, "store") else MEMORY,
        turns=turns,
        revisions=revisions,
        sessions=sessions,
        seconds=seconds,
        seed=seed,
    )
    found: dict[str, dict[str, Any]] = {}
    for name in chosen:
        with asked.output.counted() as progress:
            found[name] = measured(name, settings, progress=progress)
    if asked.output.as_json:
        about = {"machine": machine(), "versions": versions(), "settings": asdict(settings)}
        asked.output.record({**about, "measures": found})
        return
    asked.output.rows(_rows(found), COLUMNS)


def _chosen(names: Sequence[str]) -> list[str]:
    """Return the measures that are meant, each once, in the order in which they are listed. Raises UsageError."""
    for name in names:
        if name != ALL and name not in MEASURES:
            raise UsageError(f"there is no measure {name!r:.80}; there are {', '.join(MEASURES)}, and all")
    if ALL in names:
        return list(MEASURES)
    return [name for name, measure in MEASURES.items() if name in names or not (names or measure.is_long)]


def _is_said(context: typer.Context, option: str) -> bool:
    """Say whether a global option stands on the command line."""
    source = context.find_root().get_parameter_source(option)
    return source is not None and source.name == "COMMANDLINE"


def _rows(found: dict[str, dict[str, Any]]) -> Iterator[Row]:
    for name, one in found.items():
        for key, figure in one["figures"].items():
            yield {"measure": name, "figure": key.replace("_", " "), **figure}
        yield {"measure": name, "figure": "memory at most", "value": one["memory_peak_mib"], "unit": "MiB"}
