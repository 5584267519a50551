"""The commands of session records: provider, model, time to live, and what was sent.

snapshots records create s1 --provider openai --model gpt-5 --ttl 12h; snapshots records reap --dry-run
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer

from snapshots.cli import views
from snapshots.cli.exits import CORRUPT, UsageError
from snapshots.cli.invocation import Invocation, invocation
from snapshots.cli.names import SessionId, span_of
from snapshots.cli.output import Columns, Output, Row, count, human_time
from snapshots.documents import BadDocumentError, parse_document
from snapshots.errors import InvalidInputError
from snapshots.layout import Layout
from snapshots.records import DamagedRecord, RecordListing, SessionRecords, SessionStatus, StoredRecord, plan_reap
from snapshots.records import reap as reap_records
from snapshots.records.record import instant_text
from snapshots.records.stored import first_record
from snapshots.state.values import json_text
from storage.errors import StorageError

commands = typer.Typer(
    name="records",
    help="Records of sessions: provider, model, time to live, and what was sent.",
    no_args_is_help=True,
)
COLUMNS: Columns = {
    "session": "session_id",
    "status": "status",
    "due": "due",
    "provider": "provider_id",
    "model": "model",
    "created": lambda row: _instant(row["created_at"]),
    "expires": lambda row: _instant(row["expires_at"]),
    "rounds": "round_count",
    "saved": "tokens_saved",
}
OPTIONAL = ("due", "expires")
_ANY_INSTANT = datetime(1970, 1, 1, tzinfo=UTC)
DUE_COLUMNS: Columns = {"session": "session_id", "status": "status", "expires": "expires_at"}
Limit = Annotated[
    int | None, typer.Option("--limit", min=1, metavar="N", help="Look at N records at most; all without.")
]
After = Annotated[str, typer.Option("--after", metavar="KEY", help="Go on after the next_after of an earlier run.")]


@commands.command()
def create(
    context: typer.Context,
    session: SessionId,
    provider: Annotated[str, typer.Option(metavar="P", help="Provider that the session belongs to.")],
    model: Annotated[str, typer.Option(metavar="M", help="Model that it is bound to.")],
    ttl: Annotated[
        str, typer.Option(metavar="SECONDS|SPAN", help="How long it lives: 3600, 12h, 30d; 0 for ever.")
    ] = "0",
    initial_tokens: Annotated[int, typer.Option(min=0, metavar="N", help="Tokens of the initial context.")] = 0,
    metadata: Annotated[str, typer.Option(metavar="JSON", help="Any JSON value.")] = "null",
) -> None:
    """Make the record of a session. Creates the store."""
    run = invocation(context)
    fields: dict[str, Any] = {
        "provider_id": provider,
        "model": model,
        "ttl_secs": _seconds(ttl),
        "initial_token_count": initial_tokens,
        "metadata": _json(metadata),
    }
    first_record(Layout(run.tenant), session, created_at=_ANY_INSTANT, **fields)  # what is none creates no store
    with run.repository(create=True) as repo:
        stored = SessionRecords(repo).create(session, **fields)
    _changed(run, stored)


def _seconds(text: str) -> int:
    if text.isascii() and text.isdigit() and len(text) <= 20:  # 64 bits; the record checks the rest
        return int(text)
    try:
        return span_of(text, option="--ttl") // timedelta(seconds=1)
    except OverflowError as error:
        raise UsageError(f"--ttl {text} is longer than time will last; 0 is for ever") from error


def _json(text: str) -> Any:
    try:
        return parse_document(text.encode(errors="surrogateescape"))
    except BadDocumentError as error:
        raise InvalidInputError("--metadata", error.position, error.reason) from error


@commands.command()
def activate(context: typer.Context, session: SessionId) -> None:
    """Make a created record active; its time to live begins again."""
    _step(context, lambda records: records.activate(session))


@commands.command()
def delta(
    context: typer.Context,
    session: SessionId,
    tokens: Annotated[int, typer.Argument(metavar="N", min=0, help="Tokens that were sent.")],
    rounds: Annotated[int, typer.Option(min=0, metavar="R", help="Rounds that this completed.")] = 1,
) -> None:
    """Count what was sent to the model, in a round or in several."""
    _step(context, lambda records: records.record_delta(session, tokens, rounds=rounds))


@commands.command()
def close(context: typer.Context, session: SessionId) -> None:
    """Close an active record; that is final."""
    _step(context, lambda records: records.close(session))


def _step(context: typer.Context, step: Callable[[SessionRecords], StoredRecord]) -> None:
    run = invocation(context)
    with run.repository() as repo:
        stored = step(SessionRecords(repo))
    _changed(run, stored)


def _changed(run: Invocation, stored: StoredRecord) -> None:
    """Say what a record is now: no command leaves one whose time is up."""
    if run.output.as_json:
        run.output.record(record_view(stored, due=False))
    run.output.note(f"the record of session {stored.session_id} is {stored.status}")


@commands.command()
def show(context: typer.Context, session: SessionId) -> None:
    """Show the record of a session."""
    run = invocation(context)
    with run.repository() as repo:
        stored = SessionRecords(repo).read(session)
        view = record_view(stored, due=stored.is_due(repo.environment.clock.now()))
    if run.output.as_json:
        run.output.record(view)
    else:
        run.output.table(record_rows(view), views.FACT_COLUMNS, title=f"record of session {session}")


@commands.command()
def ls(
    context: typer.Context,
    status: Annotated[
        str | None, typer.Option(metavar="STATUS", help=f"Only those stored as {', '.join(SessionStatus)}.")
    ] = None,
    expired: Annotated[
        bool, typer.Option("--expired", help="Only those whose time is up, and which a reap would expire.")
    ] = False,
    after: After = "",
) -> None:
    """List the records; exit code 4 if there are some that cannot be read. Those that were moved are only named.

    With --json a listing that fails ends with the next_after from which to go on.
    """
    run = invocation(context)
    wanted = None if status is None else SessionStatus.parse(status)
    with run.repository() as repo:
        now = repo.environment.clock.now()
        listing = SessionRecords(repo).list(status=wanted, expired_by=now if expired else None, start_after=after)
        rows = (record_view(stored, due=stored.is_due(now)) for stored in listing)
        try:
            run.output.rows(rows, COLUMNS, optional=OPTIONAL)
        except StorageError:
            if run.output.as_json:
                run.output.record({"read": listing.read, "next_after": listing.next_after})
            raise
    _tell_moved(run.output, listing)
    run.output.note(f"{count(listing.read, 'record')} read")
    _end(run.output, listing.damaged, listing.damaged_count)


def _tell_moved(output: Output, listing: RecordListing) -> None:
    """Name the records that were left behind, and where their sessions are."""
    for one in listing.moved:
        if output.as_json:
            output.record({"session_id": one.session_id, "moved": one.destination})
        output.line(f"moved: {one.session_id} to {one.destination}")
    if listing.moved_count > len(listing.moved):
        output.line(f"and {count(listing.moved_count - len(listing.moved), 'moved record')} more")


@commands.command()
def reap(
    context: typer.Context,
    limit: Limit = None,
    after: After = "",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be expired.")] = False,
) -> None:
    """Expire the records whose time is up. Safe beside others, and when it is interrupted: run it again.

    Exit code 4 if there are records that cannot be read; they are left alone.
    """
    run = invocation(context)
    with run.repository() as repo:
        if dry_run:
            plan = plan_reap(repo, limit=limit, start_after=after)
            run.output.rows(map(asdict, plan.due), DUE_COLUMNS)
            if run.output.as_json:
                run.output.record({"read": plan.read, "due": len(plan.due), "next_after": plan.next_after})
            run.output.note(f"{len(plan.due):,} of {count(plan.read, 'record')} would be expired")
            _end(run.output, plan.damaged, plan.damaged_count, plan.next_after)
            return
        with run.output.counted() as progress:
            report = reap_records(
                repo, limit=limit, start_after=after, progress=lambda done: progress("records read", done.read, 0)
            )
    if run.output.as_json:
        run.output.record(asdict(report))
    skipped = f", {report.skipped:,} changed meanwhile and left alone" if report.skipped else ""
    run.output.note(f"{report.expired:,} of {count(report.read, 'record')} expired{skipped}")
    _end(run.output, () if run.output.as_json else report.damaged, report.damaged_count, report.next_after)


def _end(output: Output, damaged: Sequence[DamagedRecord], damaged_count: int, next_after: str = "") -> None:
    """Name what cannot be read, say where to go on, and end with the exit code that this has."""
    for one in damaged:
        if output.as_json:
            output.record({"key": one.key, "damaged": one.reason})
        output.line(f"damaged: {one.key}: {one.reason}")
    if damaged_count > len(damaged):
        output.line(f"and {count(damaged_count - len(damaged), 'damaged record')} more")
    if next_after:
        output.note(f"not all were looked at: go on with --after {next_after}")
    if damaged_count:
        raise typer.Exit(CORRUPT)


def record_view(stored: StoredRecord, *, due: bool) -> dict[str, Any]:
    """Return a record as `--json` shows it: its status, its twelve fields, and what follows from them."""
    record = stored.record
    return {
        "status": stored.status.value,
        **record.model_dump(),
        "expires_at": None if record.expires_at is None else instant_text(record.expires_at),
        "due": due,
        "tokens_saved": record.tokens_saved,
    }


def _instant(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


def record_rows(view: Row) -> list[dict[str, str]]:
    """Return a record as rows of name and value, without what there is nothing to say of."""
    times = {name: _instant(view[f"{name}_at"]) for name in ("created", "activated", "closed", "expires")}
    facts = {
        "status": f"{view['status']}{', its time is up' if view['due'] else ''}",
        "provider": view["provider_id"],
        "model": view["model"],
        **{name: "" if at is None else human_time(at) for name, at in times.items()},
        "rounds": f"{view['round_count']:,}",
        "initial tokens": f"{view['initial_token_count']:,}",
        "delta tokens": f"{view['delta_token_count']:,}",
        "tokens saved": f"{view['tokens_saved']:,}",
        "metadata": "" if view["metadata"] is None else json_text(view["metadata"]),
    }
    return views.facts_said(facts)
