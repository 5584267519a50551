"""The commands that give revisions names.

snapshots pin s1 3 good --for 7d; snapshots show s1@good; snapshots pins s1; snapshots unpin s1 good
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from snapshots.cli import views
from snapshots.cli.exits import UsageError
from snapshots.cli.invocation import HEAD, invocation, revision_named, revision_number
from snapshots.cli.names import PinName, RevisionName, SessionId, span_of
from snapshots.cli.output import Columns, human_time
from snapshots.errors import InvalidStateError

commands = typer.Typer()

PIN_COLUMNS: Columns = {"pin": "name", "revision": "revision", "expires": "expires_at", "expired": "expired"}
PIN_COLUMNS_OPTIONAL = ("expires", "expired")


@commands.command()
def pin(
    context: typer.Context,
    session: SessionId,
    revision: RevisionName,
    name: PinName,
    expires: Annotated[
        str | None, typer.Option(metavar="INSTANT", help="Until when, such as 2026-12-01T00:00:00Z.")
    ] = None,
    span: Annotated[
        str | None, typer.Option("--for", metavar="SPAN", help="For how long: 90s, 30m, 12h, 7d, 2w.")
    ] = None,
) -> None:
    """Name a revision: retention keeps it, and the name stands for it wherever a revision is asked for."""
    run, wanted = invocation(context), revision_named(revision, session)
    if name == HEAD:
        raise InvalidStateError(f"{HEAD!r} stands for the present revision on the command line; choose another name")
    with run.repository() as repo:
        now = repo.environment.clock.now()
        until = _expiry(expires, span, now)
        made = repo.pin(session, revision_number(repo, session, wanted), name, until)
    if run.output.as_json:
        run.output.record({"session_id": session, **views.pin_row(made, now)})
    lasts = "" if made.expires_at is None else f" until {human_time(made.expires_at)}"
    run.output.note(f"pin {made.name} stands for revision {made.revision} of session {session}{lasts}")


def _expiry(expires: str | None, span: str | None, now: datetime) -> datetime | None:
    """Return the instant that the options name, None without any. Raises UsageError."""
    if expires is not None and span is not None:
        raise UsageError("--expires and --for exclude each other")
    if span is not None:
        return _after(now, span)
    return None if expires is None else _instant(expires)


def _instant(text: str) -> datetime:
    try:
        instant = datetime.fromisoformat(text)
        if instant.tzinfo is not None:
            return instant.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise UsageError(f"--expires wants an instant such as 2026-12-01T00:00:00Z, not {text!r:.80}") from error
    raise UsageError(f"--expires wants a time zone: {instant.isoformat()}Z")


def _after(now: datetime, span: str) -> datetime:
    try:
        return now + span_of(span, option="--for")
    except OverflowError as error:
        raise UsageError(f"--for {span} ends after the last instant there is; leave it out for ever") from error


@commands.command()
def unpin(context: typer.Context, session: SessionId, name: PinName) -> None:
    """Take a pin away."""
    run = invocation(context)
    with run.repository() as repo:
        repo.unpin(session, name)
    if run.output.as_json:
        run.output.record({"session_id": session, "name": name, "unpinned": True})
    run.output.note(f"pin {name} of session {session} removed")


@commands.command()
def pins(context: typer.Context, session: SessionId) -> None:
    """List the pins of a session, expired ones too."""
    run = invocation(context)
    with run.repository() as repo:
        now = repo.environment.clock.now()
        rows = [views.pin_row(one, now) for one in repo.pins(session)]
    run.output.rows(rows, PIN_COLUMNS, optional=PIN_COLUMNS_OPTIONAL)
