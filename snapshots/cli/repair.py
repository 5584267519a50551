"""The command that stores again what damage has taken.

snapshots repair --dry-run; snapshots --yes repair s1
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import typer

from snapshots.cli.exits import CORRUPT, DONE, PARTLY, exit_code
from snapshots.cli.invocation import invocation
from snapshots.cli.output import Columns, Output, Row, count, numbered, one_line
from snapshots.maintenance.repair import (
    Proposal,
    RepairPlan,
    RepairReport,
    SessionPlan,
    execute,
    plan_repair,
)

commands = typer.Typer()
FALL_BACKS_ASKED = 3  # sessions whose fall-back the question describes; beyond that it counts them
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
    session: Annotated[str | None, typer.Argument(metavar="S", help="A session, all of them without.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what can be done, and what cannot.")] = False,
) -> None:
    """Store again what is damaged, as far as it can be proved. Deletes nothing.

    Where the present revision is not whole, the newest retained one that is becomes a new revision, and those after it
    are given up. Exit code 4 if damage remains, 11 if revisions were given up or sessions were refused.
    """
    run = invocation(context)
    with run.repository() as repo:
        with run.output.counted() as progress:
            plan = plan_repair(repo, session, progress=progress)
        if dry_run or not run.output.as_json:
            _show(run.output, plan)
        if dry_run:
            _end(CORRUPT if plan.sessions else DONE)
            return
        if plan.writes:
            run.confirm(_question([one for one in plan.sessions if one.writes]))
        with run.output.counted() as progress:
            report = execute(plan, progress=progress)
    if run.output.as_json:
        run.output.record(_report(report))
    _say_done(run.output, report)
    _end(exit_code_of(report))


def exit_code_of(report: RepairReport) -> int:
    """Return the exit code: damage that remains weighs more than what was given up or refused."""
    if report.remaining or any(exit_code(one.error) == CORRUPT for one in report.refused):
        return CORRUPT
    given_up = any(one.dropped for one in report.repaired)
    return PARTLY if given_up or report.refused else DONE


def _question(plans: Sequence[SessionPlan]) -> str:
    fallen = [one for one in plans if one.target is not None]
    if len(fallen) > FALL_BACKS_ASKED:
        said = [f"{len(fallen):,} of them go back to earlier revisions: later ones are given up."]
    else:
        said = [f"{one.session_id} goes back to revision {one.target}{_given_up(': ', one.dropped)}." for one in fallen]
    return " ".join([f"Repair {count(len(plans), 'session')}?", *said])


def _given_up(before: str, revisions: Sequence[int]) -> str:
    """Return what becomes of revisions that are retained no longer, "" if there are none."""
    if not revisions:
        return ""
    return f"{before}{numbered('revision', revisions)} {'is' if len(revisions) == 1 else 'are'} given up"


def _session(plan: SessionPlan) -> Row:
    return {
        "session_id": plan.session_id,
        "revision": plan.revision or None,
        "content_of": plan.target,
        "dropped": list(plan.dropped),
        "left": list(plan.left),
        "unreadable": list(plan.unreadable),
        "held_by": plan.held_by or None,
        "proposals": [_proposal(one) for one in plan.proposals],
    }


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
    if output.as_json:
        for one in plan.sessions:
            output.record(_session(one))
    elif plan.sessions:
        proposals = (_proposal(one) for each in plan.sessions for one in each.proposals)
        output.rows(proposals, PROPOSAL_COLUMNS, title="what was found, and what can be done", optional=["remedy"])
        for one in plan.sessions:
            for line in _consequences(one):
                output.line(line)
    else:
        output.note("no damage found: nothing to repair")


def _consequences(plan: SessionPlan) -> Iterator[str]:
    """Yield what else would come of it."""
    if plan.target is not None:
        content = f"revision {plan.revision + 1} would have the content of {plan.target}"
        yield f"{plan.session_id}: {content}{_given_up('; ', plan.dropped)}"
    for key in plan.unreadable:
        yield f"{plan.session_id}: {key} cannot be read: copy it by hand, it would be named no longer"


def _report(report: RepairReport) -> Row:
    return {
        "repaired": [
            {
                "session_id": one.session_id,
                "revision": one.revision,
                "content_of": one.content_of,
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
        if one.content_of is None:
            output.note(f"{one.session_id}: repaired, at revision {one.revision}")
        else:
            given_up = _given_up("; ", one.dropped)
            output.line(f"{one.session_id}: revision {one.revision} has the content of {one.content_of}{given_up}")
        for copy in one.quarantined:
            if copy.copy_key:
                output.note(f"{one.session_id}: {copy.key} is left behind, copied to {copy.copy_key}")
            else:
                output.line(f"{one.session_id}: {copy.key} is left behind and cannot be read: copy it by hand")
    for refused in report.refused:
        output.line(f"{refused.session_id}: not repaired (exit code {exit_code(refused.error)}): {refused.error}")
    if report.remaining:
        verb = "remains" if len(report.remaining) == 1 else "remain"
        output.note(f"{count(len(report.remaining), 'finding')} {verb}")


def _end(code: int) -> None:
    if code != DONE:
        raise typer.Exit(code)
