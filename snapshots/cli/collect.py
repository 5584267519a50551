"""The command that deletes what no head names.

snapshots collect --dry-run; snapshots --yes collect
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from snapshots.cli.exits import PARTLY
from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Output, Row, count, human_bytes
from snapshots.maintenance.collect import CollectPlan, CollectReport, FamilyGarbage, execute, plan_collect
from snapshots.maintenance.garbage import Spared
from snapshots.maintenance.superseded import SparedLog, SupersededLog
from storage.unfinished import UnfinishedWrite

commands = typer.Typer()
MEND = "run snapshots verify, then repair, and collect again"
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what can be deleted.")]
GARBAGE_COLUMNS: Columns = {
    "family": "family",
    "packs": "packs",
    "of": "listed",
    "size": lambda row: human_bytes(row["bytes"]),
    "staged": lambda row: row["staged"] or None,
}
LOG_COLUMNS: Columns = {
    "usage log": "usage_log",
    "superseded segments": "segments",
    "of": "listed",
    "size": lambda row: human_bytes(row["bytes"]),
}
UNFINISHED_COLUMNS: Columns = {
    "unfinished write": lambda row: row["key"] or row["id"],
    "begun": "begun_at",
    "size": lambda row: None if row["bytes"] is None else human_bytes(row["bytes"]),
}


@commands.command()
def collect(context: typer.Context, dry_run: DryRun = False) -> None:
    """Delete the packs that no session names. Safe while others work, and when it is interrupted: run it again."""
    run = invocation(context)
    with run.repository() as repo:
        with run.output.counted() as progress:
            plan = plan_collect(repo, progress=progress)
        if dry_run:
            _show(run.output, plan)
            _end(bool(plan.spared or plan.logs.spared))
            return
        if not plan.is_empty:
            run.confirm(f"Delete {_deletable(plan)} in {run.store}?")
        with run.output.counted() as progress:
            report = execute(plan, progress=progress)
    if run.output.as_json:
        run.output.record(_report(plan, report))
    run.output.note(_nothing(plan) if plan.is_empty else _said(report))
    _note_unknown(run.output, plan)
    undone = list(not_done(report))
    for line in undone:
        run.output.line(line)
    _end(bool(undone))


@commands.command(name="gc", hidden=True)
def gc(context: typer.Context, dry_run: DryRun = False) -> None:
    """Do what `collect` does."""
    collect(context, dry_run)


def _show(output: Output, plan: CollectPlan) -> None:
    if plan.families or output.as_json:
        output.rows(map(_garbage, plan.families), GARBAGE_COLUMNS, title="what can be deleted", optional=["staged"])
    if plan.logs.superseded:
        output.rows(map(_superseded, plan.logs.superseded), LOG_COLUMNS, title="what was merged")
    if plan.unfinished:
        output.rows(map(_unfinished, plan.unfinished), UNFINISHED_COLUMNS, title="what nobody will finish")
    if output.as_json:
        output.record(_summary(plan))
    for key in plan.satellites:
        output.line(f"of a deleted session: {key}")
    output.note(_nothing(plan) if plan.is_empty else f"{_deletable(plan)} can be deleted")
    _note_unknown(output, plan)
    for one in plan.spared:
        output.line(f"family {one.family} would be left alone: {one.reason}; {MEND}")
    for log in plan.logs.spared:
        output.line(f"usage log {log.log} would be left alone: {log.reason}")


def _deletable(plan: CollectPlan) -> str:
    """Return what can be deleted: only what there is of it."""
    packs, size = sum(one.packs for one in plan.families), sum(one.bytes for one in plan.families)
    sizes = f"{human_bytes(size)} of {human_bytes(plan.packs_bytes)}"
    families = count(sum(one.packs > 0 for one in plan.families), "session family")
    said = [f"{packs:,} of {count(plan.packs, 'pack')} ({sizes}) of {families}"] if packs else []
    if staged := sum(one.staged for one in plan.families):
        size_of_staged = human_bytes(sum(one.staged_bytes for one in plan.families))
        said.append(f"{count(staged, 'staged pack')} ({size_of_staged}) that somebody may go on with")
    if plan.satellites:
        said.append(f"{count(len(plan.satellites), 'register')} of deleted sessions")
    if plan.logs.superseded:
        segments = count(sum(one.segments for one in plan.logs.superseded), "superseded segment")
        said.append(f"{segments} of {count(len(plan.logs.superseded), 'usage log')}")
    if plan.unfinished:
        said.append(count(len(plan.unfinished), "unfinished write"))
    return f"{', '.join(said[:-1])} and {said[-1]}" if said[1:] else said[0]


def _nothing(plan: CollectPlan) -> str:
    """Return what there is where nothing can be deleted."""
    if not plan.packs:
        return "nothing to delete: there are no packs"
    packs = f"{count(plan.packs, 'pack')} ({human_bytes(plan.packs_bytes)})"
    if plan.spared:
        return f"nothing to delete: {packs} in use, or of families left alone"
    return f"nothing to delete: {packs} {'is' if plan.packs == 1 else 'are all'} in use"


def _summary(plan: CollectPlan) -> Row:
    return {
        "packs": sum(one.packs for one in plan.families),
        "bytes": sum(one.bytes for one in plan.families),
        "packs_staged": sum(one.staged for one in plan.families),
        "staged_bytes": sum(one.staged_bytes for one in plan.families),
        "packs_listed": plan.packs,
        "packs_bytes": plan.packs_bytes,
        "heads_read": plan.heads,
        "heads_cached": plan.heads_cached,
        "registers": list(plan.satellites),
        "usage_logs": plan.logs.logs,
        "usage_segments": sum(one.segments for one in plan.logs.superseded),
        "usage_segments_bytes": sum(one.bytes for one in plan.logs.superseded),
        "usage_logs_spared": _spared_logs(plan.logs.spared),
        "unfinished": len(plan.unfinished),
        "unfinished_unknown": plan.unfinished_unknown or None,
        "marks_ignored": plan.marks_read.ignored or None,
        "spared": _spared(plan.spared),
    }


def _spared(spared: Sequence[Spared]) -> list[Row]:
    return [{"family": one.family, "reason": one.reason} for one in spared]


def _spared_logs(spared: Sequence[SparedLog]) -> list[Row]:
    return [{"usage_log": one.log, "reason": one.reason} for one in spared]


def _superseded(one: SupersededLog) -> Row:
    return {"usage_log": one.session_id, "segments": one.segments, "listed": one.listed, "bytes": one.bytes}


def _garbage(one: FamilyGarbage) -> Row:
    return {
        "family": one.family,
        "packs": one.packs,
        "listed": one.listed,
        "bytes": one.bytes,
        "staged": one.staged,
        "staged_bytes": one.staged_bytes,
    }


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
        "usage_segments_deleted": report.segments,
        "usage_segments_bytes": report.segments_bytes,
        "usage_logs_spared": _spared_logs(report.logs_spared),
        "unfinished_discarded": report.unfinished,
        "unfinished_left": report.unfinished_left or None,
        "unfinished_unknown": plan.unfinished_unknown or None,
        "spared": _spared(report.spared),
        "stopped": report.stopped or None,
        "marks": report.marks or None,
        "marks_ignored": plan.marks_read.ignored or None,
        "requests": report.requests,
        "seconds": round(report.seconds, 3),
    }


def _said(report: CollectReport) -> str:
    return (
        f"{count(report.deleted, 'pack')} deleted ({human_bytes(report.deleted_bytes)}), "
        f"{count(report.satellites, 'register')}, {count(report.segments, 'superseded segment')}, "
        f"{count(report.unfinished, 'unfinished write')}; "
        f"{count(report.kept, 'pack')} kept ({human_bytes(report.kept_bytes)}), "
        f"{count(report.raised, 'head')} raised in {count(report.batches, 'batch')}, "
        f"{count(report.requests, 'request')}"
    )


def not_done(report: CollectReport) -> Iterator[str]:
    """Yield what was left undone, and what to do about it."""
    for one in report.spared:
        yield f"family {one.family} was left alone: {one.reason}; {MEND}"
    for log in report.logs_spared:
        yield f"usage log {log.log} was left alone: {log.reason}"
    if report.stopped:
        yield f"another collection is at work ({report.stopped}); run it again"
    if report.unfinished_left:
        yield f"unfinished writes were left: {report.unfinished_left}"


def _end(partly: bool) -> None:
    if partly:
        raise typer.Exit(PARTLY)
