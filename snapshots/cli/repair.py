"""The command that stores again what damage has taken.

snapshots repair --dry-run; snapshots --yes repair s1
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated

import typer

from snapshots.cli.exits import CORRUPT, PARTLY, exit_code
from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Output, Row, one_line
from snapshots.maintenance.repair import Proposal, RepairPlan, RepairReport, SessionPlan, execute, plan_repair
from snapshots.maintenance.repair_plan import Progress

commands = typer.Typer()
PROPOSAL_COLUMNS: Columns = {
    "session": "session_id",
    "revision": "revision",
    "finding": "what",
    "object": "key",
    "action": "action",
    "because": "reason",
    "remedy": "remedy",
}


@commands.command()
def repair(
    context: typer.Context,
    session: Annotated[str | None, typer.Argument(metavar="[S]", help="A session, all of them without.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what can be done, and what cannot.")] = False,
) -> None:
    """Store again what is damaged, as far as it can be proved; exit code 4 if damage remains. Deletes nothing."""
    run = invocation(context)
    with run.repository() as repo:
        with _shown(run.output) as progress:
            plan = plan_repair(repo, session, progress=progress)
        if dry_run or not run.output.as_json:
            _show(run.output, plan)
        if dry_run:
            _end(bool(plan.remaining))
            return
        if plan.writes:
            run.confirm(f"Repair {sum(one.writes for one in plan.sessions)} sessions of {run.store}?")
        with _shown(run.output) as progress:
            report = execute(plan, progress=progress)
    if run.output.as_json:
        run.output.record(_report(report))
    _say_done(run.output, report)
    if report.refused:
        raise typer.Exit(PARTLY)
    _end(bool(report.remaining))


@contextmanager
def _shown(output: Output) -> Iterator[Progress]:
    with output.progress(None) as step:
        yield lambda what, done, total: step(f"{what}: {done:,}{f' of {total:,}' if total else ''}")


def _proposals(plan: RepairPlan) -> list[Row]:
    return [_proposal(one) for each in plan.sessions for one in each.proposals]


def _proposal(one: Proposal) -> Row:
    found = one.finding
    return {
        "session_id": found.session_id,
        "revision": found.revision,
        "what": found.what.value,
        "key": found.key,
        "ref": found.ref,
        "action": one.action.value,
        "reason": one_line(one.reason),
        "remedy": one_line(one.remedy),
    }


def _show(output: Output, plan: RepairPlan) -> None:
    if plan.sessions:
        output.rows(_proposals(plan), PROPOSAL_COLUMNS, title="what can be repaired", optional=["remedy"])
    for one in plan.sessions:
        for line in _consequences(one):
            output.note(line)
    if not plan.sessions:
        output.note("no damage found: nothing to repair")


def _consequences(plan: SessionPlan) -> Iterator[str]:
    """Yield what else would come of it."""
    if plan.target is not None:
        yield f"{plan.session_id}: revision {plan.revision + 1} would have the content of revision {plan.target} again"
    if plan.dropped:
        yield f"{plan.session_id}: retained no longer: {', '.join(map(str, plan.dropped))}"
    for key in plan.unreadable:
        yield f"{plan.session_id}: {key} cannot be read: copy it by hand, it would be named no longer"


def _report(report: RepairReport) -> Row:
    return {
        "repaired": [
            {
                "session_id": one.session_id,
                "revision": one.revision,
                "state_id": one.state_id,
                "written": list(one.written),
                "dropped": list(one.dropped),
                "quarantined": [{"key": copy.key, "copy_key": copy.copy_key or None} for copy in one.quarantined],
            }
            for one in report.repaired
        ],
        "refused": [{"session_id": one.session_id, "reason": str(one.error)} for one in report.refused],
        "remaining": [_proposal(one) for one in report.remaining],
        "requests": report.requests,
        "seconds": round(report.seconds, 3),
    }


def _say_done(output: Output, report: RepairReport) -> None:
    for one in report.repaired:
        output.note(f"{one.session_id}: repaired, at revision {one.revision}")
        for copy in one.quarantined:
            kept = f"copied to {copy.copy_key}" if copy.copy_key else "cannot be read, copy it by hand"
            output.note(f"{one.session_id}: {copy.key} is left behind, {kept}")
    for refused in report.refused:
        output.note(f"{refused.session_id}: not repaired (exit code {exit_code(refused.error)}): {refused.error}")
    if report.remaining:
        output.note(f"{len(report.remaining)} findings remain")


def _end(remains: bool) -> None:
    if remains:
        raise typer.Exit(CORRUPT)
