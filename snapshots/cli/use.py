"""The group "use": replay transcripts, list, look into sessions, remove them.

snapshots demo; snapshots replay runs.json; snapshots show runs-1-0@3
"""

from __future__ import annotations

import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from functools import partial
from importlib import resources
from pathlib import Path
from typing import Annotated, Any

import typer

from snapshots.adapters.transcripts import TranscriptSession
from snapshots.cli import views
from snapshots.cli.invocation import Invocation, invocation, session_at
from snapshots.cli.names import RevisionOption, SessionId, SessionName
from snapshots.cli.output import Columns, human_bytes
from snapshots.cli.replay import ReplayReport, read_files, replay_session
from snapshots.cli.written import WrittenStore
from snapshots.errors import InvalidStateError
from snapshots.head import LIVE
from snapshots.repository import SnapshotRepository
from snapshots.state import PersistedSessionState

commands = typer.Typer()

COMMIT_DIGITS = 8  # of a commit id in a table: enough to tell the revisions of a session apart
DEMO_FILE = "marshmallow-1867.traj"
SESSION_COLUMNS: Columns = {
    "session": "session_id",
    "status": "status",
    "revision": "revision",
    "updated": "updated_at",
    "head": lambda row: human_bytes(row["head_bytes"]),
    "origin": lambda row: views.origin_text(row["origin"]),
    "holder": "holder",
}
SESSION_COLUMNS_OPTIONAL = ("origin", "holder")
LOG_COLUMNS: Columns = {
    "revision": "revision",
    "commit": lambda row: row["commit_id"][:COMMIT_DIGITS],
    "created": "created_at",
    "kind": views.kind_text,
    "nodes": "nodes",
    "tokens": "tokens",
    "pins": lambda row: ", ".join(row["pins"]),
    "retained": lambda row: "" if row["retained"] else "no longer",
}
LOG_COLUMNS_OPTIONAL = ("pins", "retained")
REPLAY_COLUMNS: Columns = {
    "session": "session_id",
    "turns": "turns",
    "revision": "revision",
    "requests": "requests",
    "uploaded": lambda row: human_bytes(row["uploaded_bytes"]),
    "stored": lambda row: human_bytes(row["stored_bytes"]),
    "seconds": "seconds",
}
TOOL_COLUMNS: Columns = {"tool": "name", "source": "source", "calls": "calls"}
MESSAGE_COLUMNS: Columns = {"message": "id", "role": "role", "text": "text"}


class Part(StrEnum):
    """What `cat` prints."""

    MESSAGES = "messages"
    TOOL_STATE = "tool-state"
    PLUGIN_SNAPSHOT = "plugin-snapshot"
    EXECUTION_STATE = "execution-state"
    LEDGER = "ledger"


@commands.command()
def demo(context: typer.Context) -> None:
    """Replay a shipped run of a coding agent, then show what is stored. Creates the store."""
    run = invocation(context)
    with resources.as_file(resources.files("snapshots") / "samples" / DEMO_FILE) as path:
        (session,) = read_files([path], None)
    with _replaying(run) as (repo, written):
        (report,) = _replayed(run, repo, written, [session])
        log = [views.revision_row(info) for info in reversed(repo.history(session.session_id))]
        view = _state_view(repo, repo.load(session.session_id))
    then = _next_commands(run, session.session_id)
    if run.output.as_json:
        run.output.record({"replay": asdict(report), "log": log, "show": view, "next": then})
        return
    if report.turns:
        run.output.note(f"{report.turns} turns of session {session.session_id} replayed into {run.store}")
    else:
        run.output.note(f"session {session.session_id} is in {run.store} already: nothing to replay")
    title = f"snapshots log {session.session_id}"
    run.output.rows(log, LOG_COLUMNS, title=title, optional=LOG_COLUMNS_OPTIONAL)
    _show(run, view)
    run.output.note("Next:")
    for command in then:
        run.output.note(f"  {command}")


def _next_commands(run: Invocation, session_id: str) -> list[str]:
    command = run.command()
    looks = (f"show {session_id}@3", f"cat {session_id} messages", f"diff {session_id}@3 {session_id}")
    changes = (f"fork {session_id}@3 {session_id}-fork", f"rewind {session_id} 3")
    return [f"{command} {rest}" for rest in (*looks, *changes, "tree", "ls", "stats")]


@commands.command()
def replay(
    context: typer.Context,
    files: Annotated[list[Path], typer.Argument(metavar="FILE…", help="tau-bench or SWE-agent transcripts.")],
    limit: Annotated[int | None, typer.Option(min=1, metavar="N", help="Only the first N sessions.")] = None,
) -> None:
    """Commit transcripts turn by turn, going on where an earlier run stopped. Creates the store."""
    run = invocation(context)
    sessions = read_files(files, limit)
    rows: list[dict[str, Any]] = []
    try:
        with _replaying(run) as (repo, written):
            for report in _replayed(run, repo, written, sessions):
                rows.append(asdict(report))
                if run.output.as_json:
                    run.output.record(rows[-1], flush=True)
    finally:  # what is done is shown, whatever stops the rest
        if rows and not run.output.quiet:
            run.output.table([*rows, *_total(rows)], REPLAY_COLUMNS)


@contextmanager
def _replaying(run: Invocation) -> Iterator[tuple[SnapshotRepository, WrittenStore]]:
    written = WrittenStore(run.raw_store())
    with run.repository(written, create=True) as repo:
        yield repo, written


def _replayed(
    run: Invocation, repo: SnapshotRepository, written: WrittenStore, sessions: Sequence[TranscriptSession]
) -> Iterator[ReplayReport]:
    with run.output.progress(sum(len(session.turns) for session in sessions)) as step:
        for session in sessions:
            yield replay_session(repo, written, session, on_turn=partial(step, session.session_id))


def _total(rows: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    if len(rows) > 1:
        summed = ("turns", "requests", "uploaded_bytes", "stored_bytes", "seconds")
        yield {"session_id": "total", **{name: sum(row[name] for row in rows) for name in summed}}


@commands.command()
def ls(
    context: typer.Context,
    every: Annotated[bool, typer.Option("--all", help="Deleted, moved and reserved ones too.")] = False,
) -> None:
    """List the sessions."""
    run = invocation(context)
    with run.repository() as repo:
        found = (info for info in repo.sessions() if every or info.status == LIVE)
        run.output.rows(map(views.session_row, found), SESSION_COLUMNS, optional=SESSION_COLUMNS_OPTIONAL)


@commands.command()
def log(context: typer.Context, session: SessionId) -> None:
    """List the revisions of a session, newest first."""
    run = invocation(context)
    with run.repository() as repo:
        rows = map(views.revision_row, reversed(repo.history(session)))
        run.output.rows(rows, LOG_COLUMNS, optional=LOG_COLUMNS_OPTIONAL)


@commands.command()
def show(context: typer.Context, session: SessionName, revision: RevisionOption = None) -> None:
    """Show one revision on one screen."""
    run = invocation(context)
    with run.repository() as repo:
        view = _state_view(repo, repo.load(*session_at(repo, session, revision)))
    if run.output.as_json:
        run.output.record(view)
    else:
        _show(run, view)


def _state_view(repo: SnapshotRepository, state: PersistedSessionState) -> dict[str, Any]:
    return views.state_view(state, repo.read_lease(state.session_id), repo.environment.clock.now())


def _show(run: Invocation, view: dict[str, Any]) -> None:
    output = run.output
    title = f"{view['session_id']} at revision {view['revision']}"
    output.table(views.fact_rows(view), views.FACT_COLUMNS, title=title)
    for rows, columns in (
        (views.ledger_rows(view["usage"]), views.LEDGER_COLUMNS),
        (view["tools"], TOOL_COLUMNS),
        (views.message_rows(view), MESSAGE_COLUMNS),
    ):
        if rows:
            output.table(rows, columns)


@commands.command()
def cat(
    context: typer.Context,
    session: SessionName,
    part: Annotated[Part, typer.Argument(help="What to print.")],
    revision: RevisionOption = None,
) -> None:
    """Print a part of a revision: JSON, one object per line for messages and ledger; execution states as bytes."""
    run = invocation(context)
    with run.repository() as repo:
        state = repo.load(*session_at(repo, session, revision))
        if part is Part.EXECUTION_STATE:
            with repo.open_execution_state(state) as stream:
                sys.stdout.flush()
                shutil.copyfileobj(stream, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            return
    for value in _values(state, part):
        run.output.record(value)


def _values(state: PersistedSessionState, part: Part) -> Sequence[dict[str, Any]]:
    if part is Part.MESSAGES:
        return [message.model_dump(mode="json") for message in state.session_graph.messages()]
    if part is Part.LEDGER:
        return [row.model_dump() for row in state.token_ledger]
    found = state.tool_state_snapshot if part is Part.TOOL_STATE else state.plugin_snapshot
    if found is None:
        raise InvalidStateError(f"revision {state.head_revision} of session {state.session_id!r} has no {part}")
    return [found.model_dump(mode="json")]


@commands.command()
def stats(context: typer.Context) -> None:
    """Count sessions, packs and bytes. Reads every head."""
    run = invocation(context)
    with run.repository() as repo:
        view = views.stats_view(repo.stats())
    if run.output.as_json:
        run.output.record(view)
    else:
        run.output.rows(views.stats_rows(view), views.FACT_COLUMNS, title=run.store)


@commands.command()
def rm(context: typer.Context, session: SessionId) -> None:
    """Delete a session. Its id is spent; its bytes go with the next collection."""
    run = invocation(context)
    with run.repository() as repo:
        run.confirm(f"Delete session {session!r} of {run.store}?")
        repo.delete(session)
    if run.output.as_json:
        run.output.record({"session_id": session, "deleted": True})
    run.output.note(f"session {session} deleted")
