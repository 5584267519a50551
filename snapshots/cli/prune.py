"""The command that drops revisions which no rule of retention keeps.

snapshots prune s1 --last 10 --daily 7 --dry-run; snapshots --yes prune s1 --last 10 --daily 7
"""

from __future__ import annotations

from typing import Annotated

import typer

from snapshots.cli.exits import UsageError
from snapshots.cli.invocation import invocation
from snapshots.cli.names import SessionId, span_of
from snapshots.cli.output import Columns, Row, count
from snapshots.errors import InvalidStateError
from snapshots.maintenance.prune import PrunePlan, Retention, execute, plan_prune

commands = typer.Typer()
REVISION_COLUMNS: Columns = {"revision": "revision", "fate": "fate", "because of": "reasons"}
Days = Annotated[int, typer.Option(metavar="N", help="Keep the newest revision of each of the last N days.")]
Weeks = Annotated[int, typer.Option(metavar="N", help="Keep the newest revision of each of the last N weeks.")]
Months = Annotated[int, typer.Option(metavar="N", help="Keep the newest revision of each of the last N months.")]


@commands.command()
def prune(
    context: typer.Context,
    session: SessionId,
    last: Annotated[int | None, typer.Option(metavar="N", help="Keep the newest N revisions.")] = None,
    within: Annotated[str | None, typer.Option(metavar="SPAN", help="Keep what is younger: 12h, 30d, 8w.")] = None,
    daily: Days = 0,
    weekly: Weeks = 0,
    monthly: Months = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would go.")] = False,
) -> None:
    """Drop the revisions that no rule keeps. Pinned ones stay, and the history; the bytes go with a collection.

    Days, weeks and months without a revision are not counted; they are those of UTC.
    """
    run, retention = invocation(context), _retention(last, within, daily, weekly, monthly)
    with run.repository() as repo:
        plan = plan_prune(repo, session, retention)
        if dry_run:
            run.output.rows(_fates(plan), REVISION_COLUMNS, title=f"session {session} at revision {plan.revision}")
        elif plan.writes:
            run.confirm(f"Drop {_goes(plan)} of session {session!r} of {run.store}?")
            execute(plan)
    if run.output.as_json:
        run.output.record(_record(plan))
    verb = "would be dropped" if dry_run else "dropped"
    run.output.note(f"{_goes(plan)} of session {session} {verb}, {len(plan.kept):,} kept")
    if plan.dropped:
        run.output.note(f"their bytes come back with {run.command('collect')}")


def _goes(plan: PrunePlan) -> str:
    """Return what goes, of how much: revisions, and pins if there are any."""
    revisions = f"{len(plan.dropped):,} of {count(len(plan.dropped) + len(plan.kept), 'revision')}"
    pins = f" and {count(len(plan.pins_removed), 'expired pin')} ({', '.join(one.name for one in plan.pins_removed)})"
    return f"{revisions}{pins if plan.pins_removed else ''}"


def _record(plan: PrunePlan) -> Row:
    return {
        "session_id": plan.session_id,
        "kept": [one.revision for one in plan.kept],
        "dropped": list(plan.dropped),
        "pins_removed": [pin.name for pin in plan.pins_removed],
    }


def _retention(last: int | None, within: str | None, daily: int, weekly: int, monthly: int) -> Retention:
    try:
        age = None if within is None else span_of(within, option="--within")
        return Retention(last=last, within=age, daily=daily, weekly=weekly, monthly=monthly)
    except InvalidStateError as error:
        raise UsageError(str(error)) from error
    except OverflowError as error:
        raise UsageError(f"--within {within} is longer than time has lasted") from error


def _fates(plan: PrunePlan) -> list[Row]:
    kept: list[Row] = [
        {"revision": one.revision, "fate": "kept", "reasons": ", ".join(one.reasons)} for one in plan.kept
    ]
    dropped: list[Row] = [{"revision": number, "fate": "dropped", "reasons": ""} for number in plan.dropped]
    return sorted([*kept, *dropped], key=lambda row: str(row["revision"]).zfill(20))
