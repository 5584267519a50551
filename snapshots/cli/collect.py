"""The command that deletes what no head names.

snapshots collect --dry-run; snapshots --yes collect
"""

from __future__ import annotations

from typing import Annotated

import typer

from snapshots.cli.exits import PARTLY
from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Row, human_bytes
from snapshots.maintenance.collect import CollectPlan, CollectReport, execute, plan_collect

commands = typer.Typer()
GARBAGE_COLUMNS: Columns = {"family": "family", "packs": "packs", "size": "bytes"}


@commands.command()
def collect(
    context: typer.Context,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what nobody names.")] = False,
) -> None:
    """Delete the packs that no session names. Safe while others work, and when it is interrupted: run it again."""
    run = invocation(context)
    with run.repository() as repo:
        plan = plan_collect(repo)
        if dry_run:
            run.output.rows(_garbage(plan), GARBAGE_COLUMNS, title="what nobody names")
            run.output.note(str(plan))
            _end(bool(plan.spared))
            return
        if plan.families or plan.satellites:
            run.confirm(f"Delete {plan} of {run.store}?")
        report = execute(plan)
    if run.output.as_json:
        run.output.record(_report(report))
    run.output.note(_said(report))
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


def _garbage(plan: CollectPlan) -> list[Row]:
    return [{"family": one.family, "packs": one.packs, "bytes": human_bytes(one.bytes)} for one in plan.families]


def _report(report: CollectReport) -> Row:
    return {
        "number": report.number,
        "heads_raised": report.raised,
        "packs_kept": report.kept,
        "packs_deleted": report.deleted,
        "deleted_bytes": report.deleted_bytes,
        "satellites_deleted": report.satellites,
        "spared": [{"family": one.family, "reason": one.reason} for one in report.spared],
        "stopped": report.stopped or None,
        "requests": report.requests,
        "seconds": round(report.seconds, 3),
    }


def _said(report: CollectReport) -> str:
    if report.stopped:
        return f"nothing was deleted, another collection is at work ({report.stopped}); run it again"
    return (
        f"{report.deleted} packs deleted ({human_bytes(report.deleted_bytes)}), {report.satellites} registers; "
        f"{report.raised} heads raised, {report.requests} requests"
    )


def _end(partly: bool) -> None:
    if partly:
        raise typer.Exit(PARTLY)
