"""The commands that go back to revisions, and compare them.

snapshots rewind s1 3; snapshots restore s1 good; snapshots diff s1@3 s2
"""

from __future__ import annotations

from typing import Annotated, Any

import typer

from snapshots.cli import views
from snapshots.cli.differences import show_difference
from snapshots.cli.invocation import Invocation, invocation, revision_named, revision_number, session_at
from snapshots.cli.names import RevisionName, SessionId
from snapshots.state import CommitResult

commands = typer.Typer()

_SIDE = "A session S at its present revision, or S@REV: at a number, or a pin."


@commands.command()
def rewind(context: typer.Context, session: SessionId, revision: RevisionName) -> None:
    """Go back to an earlier revision, as a new one. What came after stays in the history."""
    run, wanted = invocation(context), revision_named(revision, session)
    with run.repository() as repo:
        number = revision_number(repo, session, wanted)
        result = repo.rewind(session, number)
    _show_result(run, session, result, content_of=number, wanted=wanted)


@commands.command()
def restore(context: typer.Context, session: SessionId, revision: RevisionName) -> None:
    """Bring back any retained revision, as a new one; also one that a rewind left behind."""
    run, wanted = invocation(context), revision_named(revision, session)
    with run.repository() as repo:
        number = revision_number(repo, session, wanted)
        result = repo.restore(session, number)
    _show_result(run, session, result, content_of=number, wanted=wanted)


def _show_result(run: Invocation, session_id: str, result: CommitResult, *, content_of: int, wanted: int | str) -> None:
    view: dict[str, Any] = {
        "session_id": session_id,
        "revision": result.head_revision,
        "content_of": content_of,
        "checkpoint_ref": views.ref_view(result.checkpoint_ref),
        "commit_id": result.commit_id,
        "requests": result.requests,
        "uploaded_bytes": result.uploaded_bytes,
    }
    if run.output.as_json:
        run.output.record(view)
    content = str(content_of) if wanted == content_of else f"{content_of} ({wanted})"
    run.output.note(f"session {session_id} is at revision {result.head_revision}, with the content of {content}")


@commands.command()
def diff(
    context: typer.Context,
    a: Annotated[str, typer.Argument(metavar="A", help=_SIDE)],
    b: Annotated[str, typer.Argument(metavar="B", help=_SIDE)],
) -> None:
    """Compare two revisions, of one session or of two."""
    run = invocation(context)
    with run.repository() as repo:
        show_difference(run.output, repo.diff(session_at(repo, a, None), session_at(repo, b, None)))
