"""The commands that go back to revisions, and compare them.

snapshots rewind s1 3; snapshots restore s1 good; snapshots diff s1@3 s2
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from snapshots.cli import views
from snapshots.cli.differences import show_difference
from snapshots.cli.invocation import Invocation, invocation, revision_named, session_at
from snapshots.cli.names import RevisionName, SessionId
from snapshots.state import CommitResult

commands = typer.Typer()

SideName = Annotated[str, typer.Argument(metavar="S[@REV]", help="A session, at its present revision or another.")]


@commands.command()
def rewind(context: typer.Context, session: SessionId, revision: RevisionName) -> None:
    """Go back to an earlier revision, as a new one. What came after stays in the history."""
    run, wanted = invocation(context), revision_named(revision)
    with run.repository() as repo:
        _show_result(run, session, wanted, repo.rewind(session, wanted))


@commands.command()
def restore(context: typer.Context, session: SessionId, revision: RevisionName) -> None:
    """Bring back any retained revision, as a new one; also one that a rewind left behind."""
    run, wanted = invocation(context), revision_named(revision)
    with run.repository() as repo:
        _show_result(run, session, wanted, repo.restore(session, wanted))


def _show_result(run: Invocation, session_id: str, wanted: int | str, result: CommitResult) -> None:
    view: dict[str, Any] = {
        "session_id": session_id,
        "revision": result.head_revision,
        "content_of": wanted,
        "checkpoint_ref": views.ref_view(result.checkpoint_ref),
        "commit_id": result.commit_id,
        "requests": result.requests,
        "uploaded_bytes": result.uploaded_bytes,
    }
    if run.output.as_json:
        run.output.record(view)
    run.output.note(f"session {session_id} is at revision {result.head_revision}, with the content of {wanted}")


@commands.command()
def diff(context: typer.Context, a: SideName, b: SideName) -> None:
    """Compare two revisions, of one session or of two."""
    run = invocation(context)
    with run.repository() as repo:
        show_difference(run.output, repo.diff(session_at(repo, a, None), session_at(repo, b, None)))
