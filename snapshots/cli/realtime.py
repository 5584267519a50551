"""The commands of realtime sessions: where one stands, and what happened in it.

Rules:
1. Nothing is written, and no content is read: frames are shown by their summaries, and only up to the class asked for.
   What is above it, or secret, shows that it happened, and nothing else.

snapshots realtime show s1; snapshots realtime log s1 --after 20 --privacy internal
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Annotated, Any

import typer

from snapshots.cli import views
from snapshots.cli.invocation import invocation
from snapshots.cli.names import SessionId
from snapshots.cli.output import Columns, count, numbered
from snapshots.realtime import (
    KeptFrame,
    PrivacyClass,
    RealtimeProgress,
    RealtimeSessionRecord,
    StreamCursor,
    load_realtime,
    subscribe,
)

commands = typer.Typer(name="realtime", help="Realtime sessions: state and records.", no_args_is_help=True)

LOG_COLUMNS: Columns = {
    "record": "sequence",
    "at": "recorded_at",
    "kind": "kind",
    "status": "status",
    "media": "media_kind",
    "privacy": "privacy",
    "summary": "summary",
    "about": lambda row: _about(row),
}
LOG_COLUMNS_OPTIONAL = ("media", "privacy", "summary", "about")


class Shown(StrEnum):
    """Up to which class frames are shown; those that are secret never are."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONTENT_REFS_ONLY = "content_refs_only"
    SENSITIVE = "sensitive"


@commands.command()
def show(context: typer.Context, session: SessionId) -> None:
    """Show where a realtime session stands: status, connection, cursors, queue, and what is in doubt."""
    run = invocation(context)
    with run.repository() as repo:
        progress = load_realtime(repo, session)
    if run.output.as_json:
        run.output.record(progress_view(progress))
    else:
        run.output.table(progress_rows(progress), views.FACT_COLUMNS, title=f"realtime session {session}")


def progress_view(progress: RealtimeProgress) -> dict[str, Any]:
    """Return the object of `realtime show`."""
    return {
        "session_id": progress.session_id,
        "sequence": progress.sequence,
        "recorded_at": progress.recorded_at,
        "run_id": progress.run_id or None,
        "agent_id": progress.agent_id or None,
        "state": progress.state.model_dump(mode="json"),
        "queued": [_kept_view(kept) for kept in progress.queue],
        "in_doubt": [_kept_view(kept) for kept in progress.in_doubt],
        "open_output": progress.open_output or None,
    }


def _kept_view(kept: KeptFrame) -> dict[str, Any]:
    frame = kept.frame
    return {
        "sequence": kept.sequence,
        "media_kind": frame.media_kind.value,
        "privacy": frame.privacy.value,
        "critical": frame.critical,
    }


def progress_rows(progress: RealtimeProgress) -> list[dict[str, str]]:
    """Return `realtime show` as rows of name and value, ids left out."""
    state, queue = progress.state, progress.state.backpressure_state
    facts = {
        "status": progress.status.value,
        "restarts": str(state.restart_count),
        "route": state.provider_route_ref,
        "sent": _cursor_text(state.send_cursor),
        "received": _cursor_text(state.receive_cursor),
        "queue": f"{queue.queued_frames} of {queue.capacity}{_records_text(progress.queue)}",
        "held back": f"{count(queue.gated_frames, 'frame')}, {queue.dropped_frames} dropped",
        "in doubt": f"{len(progress.in_doubt)}{_records_text(progress.in_doubt)}" if progress.in_doubt else "",
        "waits for output": "" if not progress.open_output else f"since record {progress.open_output}",
        "last record": f"{progress.sequence}, {progress.recorded_at}",
        "run": progress.run_id,
        "agent": progress.agent_id,
    }
    return views.facts_said(facts)


def _cursor_text(cursor: StreamCursor) -> str:
    return f"{cursor.chunk_sequence}:{cursor.byte_offset}" if cursor.byte_offset else str(cursor.chunk_sequence)


def _records_text(kept: tuple[KeptFrame, ...]) -> str:
    return f" ({numbered('record', [one.sequence for one in kept])})" if kept else ""


@commands.command()
def log(
    context: typer.Context,
    session: SessionId,
    after: Annotated[int, typer.Option(min=0, metavar="N", help="Only the records behind number N.")] = 0,
    privacy: Annotated[
        Shown, typer.Option(metavar="CLASS", help="Show frames up to this class: public, internal, content_refs_only …")
    ] = Shown.PUBLIC,
) -> None:
    """List what happened in a realtime session, oldest first."""
    run = invocation(context)
    with run.repository() as repo:
        records = subscribe(repo, session, after=after, privacy=PrivacyClass.SECRET).new()
        rows: Iterator[dict[str, Any]] = (record_row(record, PrivacyClass(privacy.value)) for record in records)
        run.output.rows(rows, LOG_COLUMNS, optional=LOG_COLUMNS_OPTIONAL)


def record_row(record: RealtimeSessionRecord, privacy: PrivacyClass) -> dict[str, Any]:
    """Return a row of `realtime log`; what is above `privacy`, or secret, stays out of it (rule 1)."""
    happened = {
        "sequence": record.sequence,
        "recorded_at": record.recorded_at,
        "kind": record.kind.value,
        "status": record.state.lifecycle_status.value,
        "restart_count": record.state.restart_count,
        "close_reason": None if record.close_reason is None else record.close_reason.value,
        "answers": record.answers,
        "repeats": record.repeats,
        "takes": list(record.takes),
        "queued": record.queued,
    }
    is_shown = record.is_covered_by(privacy) and record.is_covered_by(PrivacyClass.SENSITIVE)
    frame = record.frame if is_shown else None
    about = {
        "frame_id": record.frame_id.value if is_shown and record.frame_id is not None else None,
        "media_kind": None if frame is None else frame.media_kind.value,
        "privacy": _class_of(record),
        "summary": None if frame is None else frame.redacted_summary,
        "content_refs": None if frame is None else list(frame.content_refs),
    }
    return {**happened, **about, "redacted": not is_shown}


def _class_of(record: RealtimeSessionRecord) -> str | None:
    found = record.privacy if record.frame is None else record.frame.privacy
    return None if found is None else found.value


def _about(row: Any) -> str:
    """Return what a row says of other records, for people."""
    said = [
        f"answers {row['answers']}" if row["answers"] else "",
        f"repeats {row['repeats']}" if row["repeats"] else "",
        f"takes {', '.join(map(str, row['takes']))}" if row["takes"] else "",
        "queued" if row["queued"] else "",
        row["close_reason"] or "",
        "redacted" if row["redacted"] else "",
    ]
    return "; ".join(filter(None, said))
