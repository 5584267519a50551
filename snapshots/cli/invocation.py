"""One run of the command: its global options, the store it works on, and how sessions are named on it.

Rules:
1. Only commands that say so create a store; everything else fails where there is none.
2. `S@REV` is split at the last `@` if a number follows. With `--revision` the name is taken as it stands.

    with invocation(context).repository() as repo: ...
"""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass, field

import typer

from snapshots.cli.exits import UsageError
from snapshots.cli.output import Output
from snapshots.repository import SnapshotRepository
from storage.backends import open_store
from storage.store import ObjectStore

DEFAULT_STORE = "file:.snapshots"
DEFAULT_TENANT = "default"
HEAD = "head"
_AT_REVISION = re.compile(r"(?P<session>.+)@(?P<revision>[0-9]{1,18})", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Invocation:
    """The global options.

    Attributes:
        store: URL of the store.
        tenant: Whose sessions.
        yes: Whether to do destructive things without asking.
        output: Where results go.
    """

    store: str
    tenant: str
    yes: bool = False
    output: Output = field(default_factory=lambda: Output(as_json=False, quiet=False))

    def raw_store(self) -> ObjectStore:
        """Return the store itself. Nothing is created or asked yet.

        Raises:
            InvalidKeyError: Not the URL of a store.
            UsageError: The library that this kind of store needs is not installed.
        """
        try:
            return open_store(self.store)
        except ImportError as error:
            raise UsageError(str(error)) from error

    def repository(self, store: ObjectStore | None = None, *, create: bool = False) -> SnapshotRepository:
        """Open the repository; `store` is what `raw_store` gave, wrapped as the command likes."""
        target = self.raw_store() if store is None else store
        return SnapshotRepository(target, tenant=self.tenant, create=create, url=self.store)

    def confirm(self, question: str) -> None:
        """Return if the user agrees, by `--yes` or at a terminal.

        Raises:
            typer.Abort: They do not.
            UsageError: There is nobody to ask.
        """
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask at; say --yes")
        if not typer.confirm(question, err=True):
            raise typer.Abort


def invocation(context: typer.Context) -> Invocation:
    """Return the invocation that the global options made."""
    found = context.find_object(Invocation)
    assert found is not None, "the callback of the global options runs before every command"
    return found


def session_at(name: str, revision: str | None) -> tuple[str, int | None]:
    """Return session id and revision of `S@REV`, None for the present one.

    Args:
        name: As given on the command line.
        revision: The option `--revision`: a number or "head"; `name` is then the id, whatever it looks like.

    Raises:
        UsageError: The option is neither.
    """
    if revision is not None:
        if revision == HEAD:
            return name, None
        if not re.fullmatch(r"[0-9]{1,18}", revision):
            raise UsageError(f"--revision wants a number or {HEAD!r}, not {revision!r}")
        return name, int(revision)
    found = _AT_REVISION.fullmatch(name)
    return (found["session"], int(found["revision"])) if found else (name, None)
