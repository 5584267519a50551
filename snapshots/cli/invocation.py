"""One run of the command: its global options, the store it works on, and how sessions are named on it.

Rules:
1. Only commands that say so create a store; everything else fails where there is none.
2. `S@REV` is split at the last `@` if a number or "head" follows, or a pin that session S has. What follows and is
   none of these belongs to the id; if there is no such session, but S, it is the revision that is missing. With
   `--revision` the name is taken as it stands.
3. A revision is a number or the name of a pin, wherever one is asked for. "head" is the present one, never a pin.

    with invocation(context).repository() as repo: ...
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from dataclasses import dataclass, field

import typer

from snapshots import SnapshotRepository
from snapshots.cli.exits import NotConfirmedError, UsageError
from snapshots.cli.interrupts import HeldInterrupts
from snapshots.cli.names import DEFAULT_STORE, DEFAULT_TENANT
from snapshots.cli.output import Output, one_line
from snapshots.errors import RevisionNotFoundError, SessionDeletedError, SessionMovedError, SessionNotFoundError
from snapshots.operations import operation
from snapshots.pins import find_pin, is_pin_name
from snapshots.reading import read_live_head, revision_of
from storage.backends import open_store
from storage.store import ObjectStore

HEAD = "head"
_NUMBER = re.compile(r"[0-9]{1,18}")


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
            with HeldInterrupts():  # it may import a library, and asks nobody
                return open_store(self.store)
        except ImportError as error:
            raise UsageError(str(error)) from error

    def repository(self, store: ObjectStore | None = None, *, create: bool = False) -> SnapshotRepository:
        """Open the repository; `store` is what `raw_store` gave, wrapped as the command likes."""
        target = self.raw_store() if store is None else store
        repo = SnapshotRepository(target, tenant=self.tenant, create=create, url=self.store)
        if repo.server_findings:
            self.output.caution("one writer at a time, or work is lost", repo.server_findings)
        return repo

    def confirm(self, question: str) -> None:
        """Return if the user agrees, by `--yes` or at a terminal.

        Raises:
            NotConfirmedError: They do not.
            typer.Abort: They interrupt it.
            UsageError: There is nobody to ask.
        """
        if self.yes:
            return
        if not sys.stdin.isatty():
            raise UsageError("there is no terminal to ask at; say --yes")
        if not typer.confirm(one_line(question), err=True):
            raise NotConfirmedError

    def command(self, *words: str) -> str:
        """Return a command on this store and tenant, to be typed as it stands."""
        options = []
        if self.store != (os.environ.get("SNAPSHOTS_STORE") or DEFAULT_STORE):
            options += ["--store", self.store]
        if self.tenant != (os.environ.get("SNAPSHOTS_TENANT") or DEFAULT_TENANT):
            options += ["--tenant", self.tenant]
        return shlex.join(["snapshots", *options, *words])


def invocation(context: typer.Context) -> Invocation:
    """Return the invocation that the global options made."""
    found = context.find_object(Invocation)
    assert found is not None, "the callback of the global options runs before every command"
    return found


def session_at(repo: SnapshotRepository, name: str, revision: str | None) -> tuple[str, int | str | None]:
    """Return session id and revision of `S@REV`, None for the present one.

    Args:
        repo: Where S may have a pin of the name that follows the `@`; not asked if that is a number or "head".
        name: As given on the command line.
        revision: The option `--revision`: a number, a pin, or "head" for the present one; `name` is then the id,
            whatever it looks like.

    Raises:
        UsageError: The option is none of these.
        RevisionNotFoundError: There is a session S, but neither a pin REV of it nor a session `S@REV`.
        SessionDeletedError, SessionMovedError: There was a session `S@REV`.
        UnavailableError: The store did not say whether there is such a pin.
    """
    if revision is not None:
        return name, None if revision == HEAD else revision_named(revision, name)
    session_id, _, suffix = name.rpartition("@")
    if not session_id:
        return name, None
    if suffix == HEAD:
        return session_id, None
    if _NUMBER.fullmatch(suffix):
        return session_id, int(suffix)
    return _at_pin(repo, session_id, suffix)


def _at_pin(repo: SnapshotRepository, session_id: str, name: str) -> tuple[str, str | None]:
    """Return the session and its pin if it has one of that name, else the session whose id all of it is (rule 2)."""
    whole = f"{session_id}@{name}"
    try:
        found = find_pin(repo.pins(session_id), name)
    except (SessionNotFoundError, SessionDeletedError, SessionMovedError):
        return whole, None  # no session, no pin: the `@` belongs to the id
    if found is not None:
        return session_id, name
    try:
        repo.pins(whole)
    except SessionNotFoundError as error:
        raise RevisionNotFoundError(session_id, name) from error
    return whole, None


def revision_named(text: str, session_id: str) -> int | str:
    """Return the number or the pin's name that an argument is. Raises UsageError for what can be neither."""
    if _NUMBER.fullmatch(text):
        return int(text)
    if is_pin_name(text):
        return text
    session = shlex.quote(session_id)
    raise UsageError(
        f"a revision is a number or the name of a pin, not {text!r:.80}",
        see=f"snapshots log {session} and snapshots pins {session}",
    )


@operation("look", "repo.environment", "session_id")
def revision_number(repo: SnapshotRepository, session_id: str, wanted: int | str) -> int:
    """Return the number of what `revision_named` gave: of a pin, or of "head", the revision that is present now.

    Raises:
        RevisionNotFoundError: No such pin, or it has expired. A number is not looked at.
        And as `SnapshotRepository.load`, for the session.
    """
    if isinstance(wanted, int):
        return wanted
    head = read_live_head(repo.environment, session_id).head
    return revision_of(head, None if wanted == HEAD else wanted, repo.environment.clock.now())
