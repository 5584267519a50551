"""The commands that move sessions between stores.

Rules:
1. The source is opened as it is, and only read; the destination is created where there is none.
2. What could not be copied is named, with the reason; everything else is copied all the same (exit code 11). Where a
   single session was asked for, its own error is the answer.

snapshots copy file:.snapshots s3://bucket/agents --dry-run
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from snapshots.cli.exits import CORRUPT, PARTLY, UsageError
from snapshots.cli.invocation import Invocation, invocation
from snapshots.cli.names import size_of
from snapshots.cli.output import Columns, Output, Row, count, human_bytes
from snapshots.errors import StoreNotFoundError
from snapshots.maintenance.copy.archives import export_of, open_export
from snapshots.maintenance.copy.compare import Compared, Difference
from snapshots.maintenance.copy.compare import verify_copy as compare
from snapshots.maintenance.copy.fleet import (
    CopyPlan,
    CopyReport,
    PlannedSession,
    SessionOutcome,
    execute,
    plan_copy,
)
from snapshots.maintenance.copy.moving import move
from snapshots.repository import SnapshotRepository
from storage.backends import absolute_url
from storage.backends.memory import MemoryStore
from storage.clock import SystemClock
from storage.wrappers.throttled import ThrottledStore

commands = typer.Typer()
Verb = Literal["copied", "moved"]
"""What a command does with sessions."""


class HistoryName(StrEnum):
    """What of a session is copied, as `snapshots.maintenance.copy` names it."""

    RETAINED = "retained"
    HEAD = "head"


class LevelName(StrEnum):
    """How closely to compare, as `snapshots.maintenance.copy.compare` names it."""

    NAMES = "names"
    FULL = "full"


Source = Annotated[str, typer.Argument(metavar="SRC", help="URL of the store to copy from; it is only read.")]
Destination = Annotated[str, typer.Argument(metavar="DST", help="URL of the store to copy to; created if need be.")]
Sessions = Annotated[list[str] | None, typer.Argument(metavar="S", help="Sessions; all of them without.")]
ToTenant = Annotated[str, typer.Option("--to-tenant", metavar="T", help="Tenant there, if it is another one.")]
HistoryOption = Annotated[
    HistoryName, typer.Option("--history", help="retained: every revision that is. head: the present one alone.")
]
TargetOption = Annotated[str, typer.Option("--as", metavar="NEW_ID", help="Another id for the one session copied.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be copied.")]
RateLimit = Annotated[
    str, typer.Option("--rate-limit", metavar="SIZE", help="Bytes a second at most, such as 10M: of DST, both ways.")
]
_ACTIONS: Mapping[str, str] = {
    "new": "new",
    "further": "went on",
    "same": "there already",
    "conflict": "in conflict",
    "skipped": "skipped",
    "beside": "that are no sessions here, with what lies beside one",
}
PLANNED_COLUMNS: Columns = {
    "session": "session_id",
    "to do": "action",
    "revision": "revision",
    "there": "known",
    "packs": "packs",
    "size": lambda row: human_bytes(row["bytes"]),
    "reason": "reason",
}


@commands.command()
def copy(
    context: typer.Context,
    source: Source,
    destination: Destination,
    sessions: Sessions = None,
    to_tenant: ToTenant = "",
    history: HistoryOption = HistoryName.RETAINED,
    target: TargetOption = "",
    leave: Annotated[bool, typer.Option("--move", help="Leave the source behind, as migrate does.")] = False,
    dry_run: DryRun = False,
    rate_limit: RateLimit = "",
) -> None:
    """Copy sessions to another store, or what is new of them. Run it again if it was interrupted."""
    if leave:
        if target or history != HistoryName.RETAINED:
            raise UsageError("what is moved goes whole, under its own id: leave --as and --history out")
        migrate(context, source, destination, sessions, to_tenant, dry_run, rate_limit)
        return
    run = invocation(context)
    _copy(_Places(run, source, destination, to_tenant, rate_limit), sessions, history, target, is_dry=dry_run)


@commands.command()
def migrate(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="SRC", help="URL of the store to leave.")],
    destination: Destination,
    sessions: Sessions = None,
    to_tenant: ToTenant = "",
    dry_run: DryRun = False,
    rate_limit: RateLimit = "",
) -> None:
    """Move sessions to another store: copied, compared, and then left behind with the address of their new place."""
    run = invocation(context)
    places = _Places(run, source, destination, to_tenant, rate_limit)
    with (
        places.source() as there,
        places.planned_destination() if dry_run else places.destination(create=True) as here,
    ):
        with run.output.counted() as progress:
            plan = plan_copy(there, here, sessions=sessions or None, may_return=True, progress=progress)
        if dry_run:
            _show_plan(run.output, plan)
            return
        moving = [one for one in plan.sessions if one.action != "skipped"]
        if moving:
            run.confirm(f"Move {count(len(moving), 'session')} from {source} to {destination}?")
        with run.output.transferred() as progress:
            report = move(
                there, here, plan, url=places.address, progress=progress, told=lambda one: _told(run.output, one)
            )
        requests = there.metrics.snapshot().total_requests + here.metrics.snapshot().total_requests
    _end(run.output, report, places.there, requests, verb="moved")


@commands.command()
def backup(
    context: typer.Context,
    destination: Destination,
    sessions: Sessions = None,
    to_tenant: ToTenant = "",
    dry_run: DryRun = False,
    rate_limit: RateLimit = "",
) -> None:
    """Copy what is new of the store to another one. Nothing is deleted there, whatever went here."""
    run = invocation(context)
    places = _Places(run, run.store, destination, to_tenant, rate_limit)
    _copy(places, sessions, HistoryName.RETAINED, "", is_dry=dry_run)


@commands.command("verify-copy")
def verify_copy(
    context: typer.Context,
    source: Annotated[str, typer.Argument(metavar="A", help="URL of the store that was copied.")],
    other: Annotated[str, typer.Argument(metavar="B", help="URL of its copy.")],
    sessions: Sessions = None,
    to_tenant: ToTenant = "",
    history: HistoryOption = HistoryName.RETAINED,
    target: Annotated[str, typer.Option("--as", metavar="NEW_ID", help="Id of the one session in the copy.")] = "",
    level: Annotated[
        LevelName,
        typer.Option(help="names: revisions are what they were, and name the same. full: all of the copy is hashed."),
    ] = LevelName.FULL,
) -> None:
    """Say how a copy differs from its source, revision by revision; exit code 4 if it does."""
    run = invocation(context)
    places = _Places(run, source, other, to_tenant, "")
    compared, revisions, differences = 0, 0, 0
    with places.source() as a, places.destination(create=False) as b, run.output.counted() as progress:
        found = compare(a, b, sessions=sessions or None, history=history.value, target=target, level=level.value)
        for one in found:
            if isinstance(one, Compared):
                compared, revisions = compared + 1, revisions + one.revisions
                progress("sessions compared", compared, 0)
            else:
                differences += 1
                _tell(run.output, one)
    summary = {"sessions": compared, "revisions": revisions, "differences": differences}
    if run.output.as_json:
        run.output.record(summary)
    what = f"{count(compared, 'session')}, {count(revisions, 'revision')} compared"
    run.output.note(f"{what}: {count(differences, 'difference') if differences else 'no difference'}")
    if differences:
        raise typer.Exit(CORRUPT)


def export_archive(run: Invocation, sessions: Sequence[str], path: Path) -> None:
    """Write sessions into an archive, all of them where none is named."""
    with run.repository() as repo:
        with export_of(repo, path) as archive:
            report = _copied(run, repo, archive, sessions)
            _check_any(report)
            _check_some(run, report, path)
        requests = repo.metrics.snapshot().total_requests
    _end(run.output, report, str(path), requests)


def import_archive(run: Invocation, path: Path, sessions: Sequence[str] | None) -> None:
    """Copy the sessions of an archive into the store, all of them where none is named."""
    with open_export(path) as archive, run.repository(create=True) as repo:
        report = _copied(run, archive, repo, sessions)
        requests = repo.metrics.snapshot().total_requests
    _end(run.output, report, run.store, requests)


def _copied(
    run: Invocation, source: SnapshotRepository, destination: SnapshotRepository, sessions: Sequence[str] | None
) -> CopyReport:
    with run.output.counted() as progress:
        plan = plan_copy(source, destination, sessions=sessions or None, progress=progress)
    with run.output.transferred() as progress:
        return execute(plan, progress=progress, told=lambda one: _told(run.output, one))


def _check_any(report: CopyReport) -> None:
    """Raise what kept the only session there is from being copied: then no file is written."""
    if len(report.sessions) == 1 and report.sessions[0].error is not None:
        raise report.sessions[0].error


def _check_some(run: Invocation, report: CopyReport, path: Path) -> None:
    """Raise if no session was copied: then no file is written, and one that is there stays."""
    if report.copied:
        return
    if not report.not_copied:
        raise StoreNotFoundError(run.store, "there are no sessions to export", remedy="check the URL and the tenant")
    for line in _failures(report.not_copied, "copied"):
        run.output.line(line)
    run.output.note(f"{path} was not written")
    raise typer.Exit(PARTLY)


class _Places:
    """The two stores of a command."""

    def __init__(self, run: Invocation, source: str, destination: str, to_tenant: str, rate_limit: str) -> None:
        self.run = run
        self._source = replace(run, store=source)
        self._destination = replace(run, store=destination, tenant=to_tenant or run.tenant)
        self._rate = size_of(rate_limit, option="--rate-limit") if rate_limit else 0

    @property
    def there(self) -> str:
        """Return where the destination is."""
        return self._destination.store

    @property
    def address(self) -> str:
        """Return what tells others where the destination is."""
        url = absolute_url(self._destination.store)
        return url if self._destination.tenant == self.run.tenant else f"{url} (tenant {self._destination.tenant})"

    def source(self) -> SnapshotRepository:
        return self._source.repository()

    def planned_destination(self) -> SnapshotRepository:
        """Open the destination for a plan alone: where there is none it is as an empty one, and none is made."""
        try:
            return self.destination(create=False)
        except StoreNotFoundError:
            return self._destination.repository(MemoryStore(), create=True)

    def destination(self, *, create: bool) -> SnapshotRepository:
        if create and self._destination.store.startswith("archive:"):
            raise UsageError("an archive is written at once, and then only read; write one with snapshots export")
        store = self._destination.raw_store()
        if self._rate:
            store = ThrottledStore(store, bytes_per_second=self._rate, clock=SystemClock())
        return self._destination.repository(store, create=create)


def _copy(places: _Places, sessions: Sequence[str] | None, history: HistoryName, target: str, *, is_dry: bool) -> None:
    run = places.run
    with (
        places.source() as source,
        places.planned_destination() if is_dry else places.destination(create=True) as destination,
    ):
        with run.output.counted() as progress:
            plan = plan_copy(
                source,
                destination,
                sessions=sessions or None,
                history=history.value,
                target=target,
                progress=progress,
            )
        if is_dry:
            _show_plan(run.output, plan)
            return
        with run.output.transferred() as progress:
            report = execute(plan, progress=progress, told=lambda one: _told(run.output, one))
        requests = source.metrics.snapshot().total_requests + destination.metrics.snapshot().total_requests
    _end(run.output, report, places.there, requests)


def _show_plan(output: Output, plan: CopyPlan) -> None:
    shown = [one for one in plan.sessions if output.as_json or one.action not in ("same", "skipped")]
    if shown or output.as_json:
        output.rows(map(_planned, shown), PLANNED_COLUMNS, optional=("reason",))
    output.note(_said_of(plan))


def _said_of(plan: CopyPlan) -> str:
    if not plan.sessions:
        return "there are no sessions to copy"
    counts: Counter[str] = Counter(one.action for one in plan.sessions)
    packs = sum(one.packs for one in plan.sessions)
    said = ", ".join(f"{counts[action]:,} {name}" for action, name in _ACTIONS.items() if counts[action])
    return f"{count(len(plan.sessions), 'session')}: {said}; {count(packs, 'pack')} ({human_bytes(plan.bytes)}) to copy"


def _planned(one: PlannedSession) -> Row:
    return {
        "session_id": one.job.session_id,
        "target": one.job.target_id,
        "action": one.action,
        "revision": one.revision,
        "known": one.known,
        "packs": one.packs,
        "bytes": one.bytes,
        "reason": one.reason or None,
    }


def _outcome(one: SessionOutcome) -> Row:
    return {
        "session_id": one.session_id,
        "target": one.target,
        "outcome": one.outcome,
        "before": one.before,
        "revision": one.revision,
        "packs": one.packs,
        "uploaded_bytes": one.uploaded_bytes,
        "error": None if one.error is None else type(one.error).__name__,
        "message": None if one.error is None else str(one.error),
    }


def _told(output: Output, one: SessionOutcome) -> None:
    if output.as_json:
        output.record(_outcome(one))


def _tell(output: Output, one: Difference) -> None:
    row = {"session_id": one.session_id, "revision": one.revision, "what": one.what, "reason": one.reason}
    if output.as_json:
        output.record(row)
    output.line(str(one))


def _end(output: Output, report: CopyReport, there: str, requests: int, *, verb: Verb = "copied") -> None:
    failed = report.not_copied
    _check_any(report)
    for line in _failures(failed, verb):
        output.line(line)
    counts: Counter[str] = Counter(one.outcome for one in report.sessions)
    summary = {
        "sessions": len(report.sessions),
        **{name: counts[name] for name in ("copied", "moved", "same", "skipped")},
        "not_copied": len(failed),
        "packs": sum(one.packs for one in report.sessions),
        "uploaded_bytes": report.uploaded_bytes,
        "requests": requests,
        "seconds": round(report.seconds, 3),
    }
    if output.as_json:
        output.record(summary)
    output.note(
        f"{_done(counts, verb)} to {there} ({human_bytes(report.uploaded_bytes)}), {count(requests, 'request')}"
    )
    if failed:
        raise typer.Exit(PARTLY)


def _done(counts: Mapping[str, int], verb: Verb) -> str:
    """Return what was done with how many: only what there is of it."""
    said = f"{count(counts[verb], 'session')} {verb}"
    return f"{said}, {counts['same']:,} there already," if counts["same"] else said


def _failures(failed: Sequence[SessionOutcome], verb: Verb) -> Iterator[str]:
    for one in failed:
        yield f"{one.session_id} was not {verb}: {one.error}"
