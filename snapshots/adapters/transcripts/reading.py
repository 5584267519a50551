"""From a transcript file to its sessions. The only module here that touches a file.

Rules:
1. Whatever is wrong with a file is an `InvalidInputError` that names the file and the position in it.
2. All of a file is read and converted before the first session is returned.

    sessions = read_transcripts(Path("marshmallow-1867.traj"))
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from snapshots.adapters.transcripts.session import TranscriptSession
from snapshots.adapters.transcripts.swe_agent import is_swe_agent, swe_agent_session
from snapshots.adapters.transcripts.tau_bench import is_tau_bench, tau_bench_sessions
from snapshots.documents import BadDocumentError, parse_document
from snapshots.errors import InvalidInputError
from storage.errors import InvalidKeyError
from storage.keys import check_id

FOREIGN = "not a transcript: want a list of tau-bench runs (task_id, trial, traj) or an object with trajectory, history"


def read_transcripts(path: Path) -> Sequence[TranscriptSession]:
    """Return the sessions of a transcript file, in the order of the file.

    Args:
        path: A tau-bench or SWE-agent file; its stem becomes part of the session ids.

    Raises:
        InvalidInputError: The file cannot be read, is not JSON or truncated, is no transcript, holds a value that
            cannot be stored, or two sessions of one id. Mend it at the position.
    """
    source = printable(str(path))
    try:
        raw = path.read_bytes()
    except (OSError, ValueError) as error:  # ValueError: a NUL in the name
        raise InvalidInputError(source, "", f"cannot be read: {getattr(error, 'strerror', None) or error}") from error
    return parse_transcripts(raw, source=source, stem=path.stem)


def parse_transcripts(raw: bytes, *, source: str, stem: str) -> Sequence[TranscriptSession]:
    """Return the sessions of a transcript's bytes; `source` is for errors, `stem` for ids. See `read_transcripts`."""
    try:
        sessions = _sessions(parse_document(raw), source, stem)
    except BadDocumentError as error:
        raise InvalidInputError(source, error.position, error.reason) from error
    _check_ids(sessions, source)
    return sessions


def printable(text: str) -> str:
    """Return a file name as text that can be shown and stored, also when its bytes are no UTF-8."""
    return text.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def _sessions(document: Any, source: str, stem: str) -> Sequence[TranscriptSession]:
    if is_tau_bench(document):
        return tau_bench_sessions(document, source=source, stem=stem)
    if is_swe_agent(document):
        return (swe_agent_session(document, source=source, session_id=stem),)
    raise BadDocumentError("", FOREIGN)


def _check_ids(sessions: Sequence[TranscriptSession], source: str) -> None:
    seen: dict[str, int] = {}
    for index, session in enumerate(sessions):
        position = f"item {index}" if len(sessions) > 1 else ""
        try:
            check_id(session.session_id, what="session id")
        except InvalidKeyError as error:
            raise InvalidInputError(source, position, f"gives no session id: {error.reason}") from error
        first = seen.setdefault(session.session_id, index)
        if first != index:
            reason = f"a second session {session.session_id!r}, after item {first}; give each its own trial"
            raise InvalidInputError(source, position, reason)
