"""The commands that take a session out of a store as a file, and into one.

Rules:
1. A file is whole or not there: it is written under another name, and takes its own when all of it is on disk.
2. A document is read and checked before a store is opened: a bad one creates nothing.
3. `-` is stdin and stdout. What is imported is recognised by its content, whatever its name.

snapshots export s1 s1.json; snapshots --store file:other import s1.json --policy new-id
"""

from __future__ import annotations

import errno
import json
import os
import stat
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

import typer

from snapshots.cli.copying import export_archive, import_archive
from snapshots.cli.exits import UsageError
from snapshots.cli.invocation import invocation, session_at
from snapshots.cli.names import RevisionOption
from snapshots.cli.output import count, human_bytes
from snapshots.errors import InvalidInputError
from snapshots.portable import ImportPolicy, Session, SessionService, from_state
from snapshots.portable.conversion import other_nodes
from snapshots.portable.document import read_document
from snapshots.portable.service import check_storable
from storage.archives import MAGIC_BYTES, has_magic
from storage.errors import PermissionDeniedError, UnavailableError

commands = typer.Typer()

STANDARD = "-"
SUFFIX, ARCHIVE = ".json", ".snapshots"
_RETRY = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})  # once there is room
_DENIED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS})


@commands.command("export")
def export_(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(
            metavar="[S]... FILE",
            help="FILE.json: one portable session, S or S@REV; - for stdout. FILE.snapshots: an archive of sessions, "
            "of all of them without S. A file is replaced.",
        ),
    ],
    revision: RevisionOption = None,
) -> None:
    """Write sessions into one file: a portable one as JSON, or any number with all their revisions as an archive."""
    run = invocation(context)
    *sessions, file = words
    if Path(file).suffix == ARCHIVE:
        if revision is not None:
            raise UsageError("an archive has whole sessions, with all their revisions; leave --revision out")
        export_archive(run, sessions, Path(file))
        return
    if file != STANDARD and Path(file).suffix != SUFFIX:
        raise UsageError(
            f"{file!r:.80} ends in neither {SUFFIX} (one portable session, or - for stdout) nor {ARCHIVE} (an archive)"
        )
    if len(sessions) != 1:
        raise UsageError(f"a document is one session: snapshots export S FILE{SUFFIX}")
    (session,) = sessions
    with run.repository() as repo:
        state = repo.load(*session_at(repo, session, revision))
    document = from_state(state).export()
    data = document_text(document).encode()
    if file == STANDARD:
        _write_out(data)
        return
    write_whole(Path(file), data)
    if run.output.as_json:
        run.output.record(
            {
                "session_id": state.session_id,
                "revision": state.head_revision,
                "events": len(document["events"]),
                "digest": document["digest"],
                "file": file,
                "size_bytes": len(data),
            }
        )
    what = f"session {state.session_id} at revision {state.head_revision}, {count(len(document['events']), 'event')}"
    run.output.note(f"{what}, written to {file} ({human_bytes(len(data))})")
    if others := other_nodes(state):
        run.output.note(f"not in it: {count(others, 'node')} of other kinds (snapshots show, snapshots cat)")


@commands.command("import")
def import_(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="An export, recognised by its content; - for stdin.")],
    sessions: Annotated[
        list[str] | None, typer.Argument(metavar="S", help="Of an archive: which; all of them without.")
    ] = None,
    policy: Annotated[
        ImportPolicy | None,
        typer.Option(
            help="What to do with the id of a document: keep-id makes it the next revision of a session that has it.",
            show_default=ImportPolicy.FAIL_IF_EXISTS,
        ),
    ] = None,
) -> None:
    """Store the sessions of an export. Creates the store."""
    run = invocation(context)
    if file != STANDARD and is_archive(Path(file)):
        if policy is not None:
            raise UsageError(
                "the sessions of an archive keep their ids, and go on where they stand; leave --policy out"
            )
        import_archive(run, Path(file), sessions)
        return
    if sessions:
        raise UsageError(f"{file} is no archive: it has one session")
    source = "stdin" if file == STANDARD else file
    session = read_session(_read(file, source), source)
    policy = policy or ImportPolicy.FAIL_IF_EXISTS
    check_storable(session, policy, source=source)
    with run.repository(create=True) as repo:
        stored = SessionService(repo).store_session(session, policy=policy, source=source)
    row = {
        "session_id": stored.session.id,
        "revision": stored.revision,
        "events": len(session.events),
        "imported_id": session.id,
        "policy": str(policy),
    }
    if run.output.as_json:
        run.output.record(row)
    run.output.note(
        f"session {stored.session.id} stands at revision {stored.revision}, {count(len(session.events), 'event')}"
    )
    run.output.note(f"look at it with {run.command('log', stored.session.id)}")


def is_archive(path: Path) -> bool:
    """Say whether a file begins as an archive does; what cannot be read is for whoever reads it to say."""
    try:
        with path.open("rb") as stream:
            return has_magic(stream.read(MAGIC_BYTES))
    except (OSError, ValueError):
        return False


def document_text(document: dict[str, Any]) -> str:
    """Return the text of an export document: equal documents have equal texts."""
    return json.dumps(document, sort_keys=True, indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def read_session(raw: bytes, source: str) -> Session:
    """Return the session of a document's bytes, recognised by their content. Raises as `Session.import_`."""
    return Session.import_(read_document(raw, source=source), source=source)


def _write_out(data: bytes) -> None:
    """Write bytes to stdout: whatever the terminal's encoding, a document is UTF-8."""
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _read(file: str, source: str) -> bytes:
    if file == STANDARD and sys.stdin is None:
        raise InvalidInputError(source, "", "cannot be read: it is closed")
    try:
        return sys.stdin.buffer.read() if file == STANDARD else Path(file).read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidInputError(source, "", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error


def write_whole(path: Path, data: bytes) -> None:
    """Write a file, or replace it, at once; if it raises, what stood there stands there still.

    Raises:
        UnavailableError: The disk is full, a quota used up, or it fails.
        PermissionDeniedError: We may not write there.
        UsageError: There is no such directory, or something there that is no file: a directory, a pipe, a device.
    """
    try:
        _replace(Path(os.path.realpath(path)), data)
    except (OSError, ValueError) as error:
        code, reason = getattr(error, "errno", None), getattr(error, "strerror", None) or str(error)
        if code in _RETRY:
            raise UnavailableError(str(path), f"cannot be written: {reason}", applied="no") from error
        if code in _DENIED:
            raise PermissionDeniedError(str(path), f"cannot be written: {reason}") from error
        raise UsageError(f"{path} cannot be written: {reason}") from error


def _replace(path: Path, data: bytes) -> None:
    mode = _mode(path)
    handle, name = tempfile.mkstemp(prefix=".export.", suffix=".part", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _mode(path: Path) -> int:
    """Return the permissions of the file that is there, or of a new one. Raises UsageError for what is no file."""
    try:
        found = path.stat().st_mode
    except FileNotFoundError:
        mask = os.umask(0)
        os.umask(mask)
        return 0o666 & ~mask
    if not stat.S_ISREG(found):
        raise UsageError(f"{path} cannot be written: it is no file; {STANDARD} writes to stdout")
    return stat.S_IMODE(found)
