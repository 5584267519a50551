"""The commands that give a session to one owner, and take it away again.

snapshots acquire s1 --owner host-a --lease-seconds 60; snapshots release s1 --owner host-a
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import typer

from snapshots.cli import views
from snapshots.cli.invocation import invocation
from snapshots.cli.names import SessionId
from snapshots.cli.output import human_time
from snapshots.operations import operation
from snapshots.reading import read_live_head
from snapshots.repository import SnapshotRepository
from snapshots.writer import Writer
from storage.keys import check_id
from storage.leases import Lease

commands = typer.Typer()

OwnerOption = Annotated[str, typer.Option(metavar="O", help="Name of the owner, 1-512 bytes.")]


@commands.command()
def acquire(
    context: typer.Context,
    session: SessionId,
    owner: OwnerOption,
    lease_seconds: Annotated[
        float | None,
        typer.Option(metavar="N", help="Ask first: claim the lease for N seconds; fails while another has it."),
    ] = None,
) -> None:
    """Take a session over: only its owner commits from now on, whoever held it before."""
    run = invocation(context)
    with run.repository() as repo, _leased(repo, session, owner, lease_seconds) as lease:
        view = acquired_view(repo.acquire(session, owner), lease)
    if run.output.as_json:
        run.output.record(view)
    else:
        title = f"session {session} held by {owner}"
        run.output.table(acquired_rows(view), views.FACT_COLUMNS, title=title)


@contextmanager
def _leased(repo: SnapshotRepository, session_id: str, owner: str, seconds: float | None) -> Iterator[Lease | None]:
    """Claim the lease if it was asked for; give it up again if the block fails."""
    if seconds is None:
        yield None
        return
    repo.pins(session_id)  # a lease for a session that is not there would stay for ever
    lease = repo.claim_lease(session_id, owner, seconds)
    try:
        yield lease
    except BaseException:
        repo.release_lease(session_id, lease)
        raise


def acquired_view(writer: Writer, lease: Lease | None) -> dict[str, Any]:
    """Return the object of `acquire`."""
    report, turn = writer.report, writer.turn
    return {
        "session_id": writer.session_id,
        "owner": writer.owner,
        "fence": writer.fence,
        "revision": writer.state.head_revision,
        "healed": [finding.model_dump() for finding in report.healed],
        "missing": [finding.model_dump() for finding in report.missing],
        "refused": [finding.model_dump() for finding in report.refused],
        "turn": {"turn_id": turn.turn_id, "effects": list(turn.effects)} if turn.turn_id else None,
        "lease": None if lease is None else {"fence": lease.fence, "expires_at": lease.expires_at},
    }


def acquired_rows(view: dict[str, Any]) -> list[dict[str, str]]:
    """Return `acquire` as rows of name and value, without what there is nothing to say of."""
    turn, lease = view["turn"], view["lease"]
    effects = [] if turn is None else turn["effects"]
    facts = {
        "fence": str(view["fence"]),
        "revision": str(view["revision"]),
        "lease until": "" if lease is None else human_time(lease["expires_at"]),
        **{kind: "\n".join(map(_finding_text, view[kind])) for kind in ("healed", "missing", "refused")},
        "turn in flight": "none" if turn is None else turn["turn_id"],
        "its effects": ", ".join(effects),
    }
    return views.facts_said(facts)


def _finding_text(finding: dict[str, Any]) -> str:
    return f"{finding['kind']} {finding['name']}: {finding['reason']}"


@commands.command()
def release(context: typer.Context, session: SessionId, owner: OwnerOption) -> None:
    """Let a session go, and the lease that its owner has: anyone may commit again."""
    run = invocation(context)
    check_id(owner, what="owner")
    with run.repository() as repo:
        released = [_release_session(repo, session, owner), _release_lease(repo, session, owner)]
    if run.output.as_json:
        run.output.record({"session_id": session, "owner": owner, "released": any(released)})
    if any(released):
        run.output.note(f"session {session} released by {owner}")
    else:
        run.output.note(f"session {session} is held by nobody; nothing to release")


@operation("look", "repo.environment", "session_id")
def _release_session(repo: SnapshotRepository, session_id: str, owner: str) -> bool:
    """Say whether there was a holder; that is the owner then, and it is none any more. Raises FencedError."""
    if read_live_head(repo.environment, session_id).head.holder is None:
        return False
    repo.release(session_id, owner)
    return True


def _release_lease(repo: SnapshotRepository, session_id: str, owner: str) -> bool:
    """Say whether the owner had the lease, which is free then; the lease of another one stays."""
    lease = repo.read_lease(session_id)
    if not isinstance(lease, Lease) or lease.owner != owner:
        return False
    repo.release_lease(session_id, lease)
    return True
