"""The commands that make new sessions from old ones, and show who came from whom.

snapshots fork s1@good s2 --relation handoff --reason "context is full"; snapshots tree s1
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Any

import typer

from snapshots.cli import views
from snapshots.cli.exits import UsageError
from snapshots.cli.invocation import invocation, session_at
from snapshots.cli.names import RevisionOption, SessionName
from snapshots.cli.output import human_bytes
from snapshots.cli.trees import levels, member_view
from snapshots.errors import SessionNotFoundError
from snapshots.forest import SessionTree, tree_under
from snapshots.fork import ForkResult
from snapshots.overrides import FRESH, INHERIT
from snapshots.repository import SnapshotRepository
from snapshots.state import ROOT, ChildRelation, HandoffRelation, SessionRelation

commands = typer.Typer()


class Relation(StrEnum):
    """What a fork is to the session it comes from."""

    ROOT = "root"
    CHILD = "child"
    HANDOFF = "handoff"


class Plugins(StrEnum):
    """What becomes of the plugin snapshot."""

    INHERIT = INHERIT
    FRESH = FRESH


@commands.command()
def fork(
    context: typer.Context,
    session: SessionName,
    child: Annotated[str, typer.Argument(metavar="CHILD", help="Id of the new session.")],
    revision: RevisionOption = None,
    relation: Annotated[Relation, typer.Option(help="What CHILD is to S.")] = Relation.CHILD,
    reason: Annotated[str | None, typer.Option(metavar="TEXT", help="Why; a handoff needs it.")] = None,
    plugins: Annotated[Plugins, typer.Option(help="Fresh: without the plugin snapshot.")] = Plugins.INHERIT,
    tool_call: Annotated[str | None, typer.Option(metavar="ID", help="Tool call that asked for the child.")] = None,
) -> None:
    """Start a new session from any revision of another one. Nothing is copied."""
    run = invocation(context)
    with run.repository() as repo:
        source, wanted = session_at(repo, session, revision)
        related = _relation(source, relation, reason, tool_call)
        result = repo.fork(source, child, wanted, relation=related, plugins=plugins.value)
    view = _fork_view(result)
    if run.output.as_json:
        run.output.record(view)
    else:
        run.output.table(_fork_rows(view), views.FACT_COLUMNS)


def _relation(source: str, kind: Relation, reason: str | None, tool_call: str | None) -> SessionRelation:
    if (reason is not None) != (kind is Relation.HANDOFF):
        raise UsageError("--reason and --relation handoff belong together")
    if tool_call is not None and kind is not Relation.CHILD:
        raise UsageError("--tool-call wants --relation child")
    if kind is Relation.ROOT:
        return ROOT
    if reason is not None:
        return HandoffRelation(parent_session_id=source, reason=reason)
    return ChildRelation(parent_session_id=source, originating_tool_call_id=tool_call)


def _fork_view(result: ForkResult) -> dict[str, Any]:
    return {
        "session_id": result.session_id,
        "revision": result.head_revision,
        "origin": views.origin_view(result.origin),
        "checkpoint_ref": views.ref_view(result.checkpoint_ref),
        "commit_id": result.commit_id,
        "requests": result.requests,
        "uploaded_bytes": result.uploaded_bytes,
    }


def _fork_rows(view: dict[str, Any]) -> list[dict[str, str]]:
    return views.facts_listed(
        {
            "child": view["session_id"],
            "origin": views.origin_text(view["origin"]),
            "checkpoint": views.sized(view["checkpoint_ref"]),
            "requests": str(view["requests"]),
            "uploaded": human_bytes(view["uploaded_bytes"]),
        }
    )


@commands.command()
def tree(
    context: typer.Context,
    session: Annotated[str | None, typer.Argument(metavar="S", help="Only this one and what came from it.")] = None,
) -> None:
    """Show all sessions by origin, with what each has stored. Reads every head.

    Sizes are those of packs: all that a session needs, those that no other one needs (own), and those of the family.
    With --json, parent and depth are within the printed tree: its root has parent null and depth 0.
    """
    run = invocation(context)
    with run.repository() as repo:
        found = repo.forest() if session is None else (_tree_under(repo, session),)
        now = repo.environment.clock.now()
    for one in found:
        if run.output.as_json:
            for member in one.sessions:
                run.output.record(member_view(member, now))
        else:
            run.output.tree(levels(one, now))


def _tree_under(repo: SnapshotRepository, session_id: str) -> SessionTree:
    try:
        return tree_under(repo.forest(), session_id)
    except SessionNotFoundError:
        repo.pins(session_id)  # says so if it was deleted or has moved
        raise
