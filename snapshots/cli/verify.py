"""The group "care": looking after what is stored.

snapshots verify; snapshots verify s1 --level presence
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from enum import StrEnum
from typing import Annotated

import typer

from snapshots.cli.exits import CORRUPT
from snapshots.cli.invocation import Invocation, invocation
from snapshots.cli.output import count
from snapshots.maintenance.findings import Finding, Verified, VerifiedSatellite
from snapshots.maintenance.verify import verify as verify_sessions
from storage.errors import PermissionDeniedError, UnavailableError

commands = typer.Typer()
_STOPPED = (UnavailableError, PermissionDeniedError, KeyboardInterrupt)


class LevelName(StrEnum):
    """How closely to look, as `snapshots.maintenance.verify` names it."""

    HEADS = "heads"
    PRESENCE = "presence"
    FULL = "full"


@commands.command()
def verify(
    context: typer.Context,
    session: Annotated[str | None, typer.Argument(metavar="S", help="A session, all of them without.")] = None,
    level: Annotated[
        LevelName,
        typer.Option(
            help="heads: they can be read. presence: also every pack is there. full: all is read and hashed, "
            "also what lies beside the sessions."
        ),
    ] = LevelName.FULL,
    start_after: Annotated[
        str, typer.Option("--start-after", metavar="KEY", help="Go on after the last_key of an earlier run.")
    ] = "",
) -> None:
    """Look for damage, and change nothing; exit code 4 if there is any."""
    run = invocation(context)
    tally = _Tally(run, level, start_after)
    with run.repository() as repo:
        try:
            with run.output.counted() as progress:
                for one in verify_sessions(repo, level=level.value, session_id=session, start_after=start_after):
                    tally.add(one)
                    progress(*tally.progress, 0)
        except _STOPPED:
            tally.show(complete=False)
            raise
    tally.show(complete=True)
    if tally.findings:
        run.output.note(f"see what can be mended: {run.command('repair', *filter(None, [session]), '--dry-run')}")
        raise typer.Exit(CORRUPT)


class _Tally:
    """Prints findings as they come, and what there was in all."""

    def __init__(self, run: Invocation, level: LevelName, last_key: str) -> None:
        self.findings = self.sessions = self.satellites = 0
        self._run = run
        self._output = run.output
        self._level = level
        self._last_key = last_key
        self._revisions = 0

    @property
    def progress(self) -> tuple[str, int]:
        """Return what is being looked through, and how much of it was; satellites come after the sessions."""
        if self.satellites:
            return "satellites verified", self.satellites
        return "sessions verified", self.sessions

    def add(self, one: Finding | Verified | VerifiedSatellite) -> None:
        if isinstance(one, VerifiedSatellite):
            self.satellites += 1
            return
        if isinstance(one, Verified):
            self.sessions += 1
            self._revisions += one.revisions
            self._last_key = one.key
            return
        self.findings += 1
        if self._output.as_json:
            self._output.record(asdict(one), flush=True)
        self._output.line(_line(one))

    def show(self, *, complete: bool) -> None:
        if self._output.as_json:
            self._output.record(
                {
                    "store": self._run.store,
                    "tenant": self._run.tenant,
                    "level": self._level.value,
                    "sessions": self.sessions,
                    "revisions": self._revisions,
                    "satellites": self.satellites,
                    "findings": self.findings,
                    "last_key": self._last_key,
                    "complete": complete,
                }
            )
        self._output.note(self._said())
        if not complete:
            where = f" with --start-after {self._last_key}" if self._last_key else ""
            self._output.note(f"not all was verified: go on{where}")

    def _said(self) -> str:
        where = f"of tenant {self._run.tenant!r} in {self._run.store}"
        if not self.sessions and not self.satellites:
            return f"no sessions {where}{self._after()}: nothing was verified"
        looked = [count(self.sessions, "session") if self.sessions else f"no sessions{self._after()}"]
        if self.sessions and self._level is LevelName.FULL:
            looked.append(count(self._revisions, "revision"))
        if self.satellites:
            looked.append(count(self.satellites, "satellite"))
        findings = count(self.findings, "finding") if self.findings else "no findings"
        return f"{', '.join(looked)} {where} verified ({self._level.value}): {findings}"

    def _after(self) -> str:
        return f" after {self._last_key}" if self._last_key else ""


def _line(finding: Finding) -> str:
    return ": ".join([finding.what, *_whose(finding), finding.key, " ".join(_reason(finding))])


def _whose(finding: Finding) -> Iterator[str]:
    if finding.session_id:
        revision = "" if finding.revision is None else f"@{finding.revision}"
        yield f"{finding.session_id}{revision}"


def _reason(finding: Finding) -> Iterator[str]:
    yield " ".join(finding.reason.split())
    if finding.ref:
        yield f"[{finding.ref}]"
