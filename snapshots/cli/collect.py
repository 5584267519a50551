"""The command that deletes what no head names.

snapshots collect --dry-run; snapshots --yes collect
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress as Display
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn

from snapshots.cli.exits import PARTLY
from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Output, Row, human_bytes
from snapshots.maintenance.collect import CollectPlan, CollectReport, FamilyGarbage, Progress, execute, plan_collect
from storage.unfinished import UnfinishedWrite

commands = typer.Typer()
GARBAGE_COLUMNS: Columns = {
    "family": "family",
    "packs": "packs",
    "of": "listed",
    "size": lambda row: human_bytes(row["bytes"]),
}
UNFINISHED_COLUMNS: Columns = {
    "unfinished write": lambda row: row["key"] or row["id"],
    "begun": "begun_at",
    "size": lambda row: None if row["bytes"] is None else human_bytes(row["bytes"]),
}


@commands.command()
def collect(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what nobody names.")] = False,
) -> None:
    """Delete the packs that no session names. Safe while others work, and when it is interrupted: run it again."""
    run = invocation(context)
    with run.repository() as repo:
        with _shown(run.output) as progress:
            plan = plan_collect(repo, progress=progress)
        if dry_run:
            _show(run.output, plan)
            _end(bool(plan.spared))
            return
        if not plan.is_empty:
            run.confirm(f"Delete {plan} of {run.store}?")
        with _shown(run.output) as progress:
            report = execute(plan, progress=progress)
    if run.output.as_json:
        run.output.record(_report(plan, report))
    run.output.note(_said(report))
    _note_unknown(run.output, plan)
    for one in report.spared:
        run.output.note(f"family {one.family} was left alone: {one.reason}")
    _end(bool(report.spared or report.stopped))


@commands.command(name="gc", hidden=True)
def gc(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what nobody names.")] = False,
) -> None:
    """Do what `collect` does."""
    collect(context, dry_run)


@contextmanager
def _shown(output: Output) -> Iterator[Progress]:
    """Give what tells, on stderr if that is a terminal, what is being done and how much of it."""
    if output.quiet or not sys.stderr.isatty():
        yield lambda what, done, total: None  # noqa: ARG005  the same signature
        return
    console = Console(stderr=True, markup=False, highlight=False, emoji=False)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    with Display(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as display:
        task = display.add_task("", total=None)
        yield lambda what, done, total: display.update(task, description=_step(what, done, total))


def _step(what: str, done: int, total: int) -> str:
    return f"{what}: {done:,} of {total:,}" if total else f"{what}: {done:,}"


def _show(output: Output, plan: CollectPlan) -> None:
    output.rows(map(_garbage, plan.families), GARBAGE_COLUMNS, title="what nobody names")
    if plan.unfinished:
        output.rows(map(_unfinished, plan.unfinished), UNFINISHED_COLUMNS, title="what nobody will finish")
    for key in plan.satellites:
        output.line(f"of a deleted session: {key}")
    output.note(str(plan))
    _note_unknown(output, plan)


def _garbage(one: FamilyGarbage) -> Row:
    return {"family": one.family, "packs": one.packs, "listed": one.listed, "bytes": one.bytes}


def _unfinished(write: UnfinishedWrite) -> Row:
    return {"key": write.key, "id": write.id, "begun_at": write.begun_at, "bytes": write.size_bytes}


def _note_unknown(output: Output, plan: CollectPlan) -> None:
    if plan.unfinished_unknown:
        output.note(f"unfinished writes were not looked for: {plan.unfinished_unknown}")
    if plan.marks_read.ignored:
        output.note(f"the mark cache was not used: {plan.marks_read.ignored}")


def _report(plan: CollectPlan, report: CollectReport) -> Row:
    return {
        "number": report.number,
        "batches": report.batches,
        "heads_read": plan.heads,
        "heads_cached": plan.heads_cached,
        "heads_raised": report.raised,
        "packs_kept": report.kept,
        "kept_bytes": report.kept_bytes,
        "packs_deleted": report.deleted,
        "deleted_bytes": report.deleted_bytes,
        "satellites_deleted": report.satellites,
        "unfinished_discarded": report.unfinished,
        "unfinished_unknown": plan.unfinished_unknown or None,
        "spared": [{"family": one.family, "reason": one.reason} for one in report.spared],
        "stopped": report.stopped or None,
        "marks": report.marks or None,
        "marks_ignored": plan.marks_read.ignored or None,
        "requests": report.requests,
        "seconds": round(report.seconds, 3),
    }


def _said(report: CollectReport) -> str:
    done = (
        f"{report.deleted} packs deleted ({human_bytes(report.deleted_bytes)}), {report.satellites} registers, "
        f"{report.unfinished} unfinished writes; {report.kept} packs kept ({human_bytes(report.kept_bytes)}), "
        f"{report.raised} heads raised in {report.batches} batches, {report.requests} requests"
    )
    if report.stopped:
        return f"another collection is at work ({report.stopped}); run it again. Before that: {done}"
    return done


def _end(partly: bool) -> None:
    if partly:
        raise typer.Exit(PARTLY)
