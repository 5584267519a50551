"""The heads of the pages in `errors/`, and their index: made from the error classes, so that they cannot differ.

Rules:
1. One page per error class that a caller can meet; what it is called, its exit code, its remedy and the message stand
   in the page's head, and the head is what `head` returns. What stands below is written by hand.
2. The message is that of an error constructed here, as the command prints it.
3. The remedy is the words behind "Remedy:" in the docstring of the class.

    python -m infra.error_pages     # writes heads and index anew, and names the files that changed
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

from infra.tables import replaced, table
from snapshots import errors as sessions
from snapshots.cli.exits import EXIT_CODES, MEANINGS
from snapshots.opening import refusal
from storage import errors as storage
from storage.server import ServerFacts, Verdict

FOLDER = Path(__file__).parent / "errors"
BELOW = "## What was applied"  # the first heading that is written by hand
_HEAD_KEY = "default/heads/9e/support-42"
_PACK_KEY = "default/packs/support-42/c77bee1a7390c473d5ef552a3807fa04.712d65d6f65b838c"
_AN_INSTANT = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)

EXAMPLES: tuple[Exception, ...] = (
    sessions.SessionNotFoundError("support-42"),
    sessions.RevisionNotFoundError("support-42", 7, reason="retention or a repair dropped it"),
    sessions.StoreNotFoundError("s3://agents/prod"),
    sessions.SessionExistsError("support-42"),
    sessions.SessionDeletedError("support-42"),
    sessions.SessionMovedError("support-42", "s3://agents/prod-2"),
    sessions.CopyConflictError("support-42", 9, "it went on by itself here"),
    sessions.RevisionConflictError("support-42", expected=7, actual=8),
    sessions.TurnConflictError("support-42", "turn-8", 8),
    sessions.EffectConflictError("support-42", "turn-8", "charge-card"),
    sessions.FencedError("support-42", fence=3, holder="host-b"),
    sessions.LeaseHeldError("support-42", holder="host-b", expires_at=_AN_INSTANT),
    sessions.CommitUnknownError("support-42", commit_id="98322753783094dfc68530b9c8281277", stamp="turn-8"),
    sessions.CorruptSnapshotError(_PACK_KEY, "a frame's checksum does not match"),
    sessions.UnsupportedSchemaError(f"head at {_HEAD_KEY}", found=3, supported=(1, 2)),
    sessions.InvalidStateError("a value cannot be stored (NaN); use JSON values and bytes"),
    sessions.IllegalTransitionError(
        "session 'support-42'",
        from_status="in turn 'turn-8'",
        to_status="in turn 'turn-9'",
        remedy="commit it with its stamp, or abandon it first",
    ),
    sessions.InvalidInputError("transcript.json", "item 4: traj[2].role", "missing"),
    sessions.LimitExceededError("64 pins of session 'support-42'; unpin one first", 65),
    storage.NotFoundError(_PACK_KEY),
    storage.PreconditionFailedError(_HEAD_KEY),
    storage.UnavailableError(_HEAD_KEY, "503 SlowDown", applied="unknown"),
    storage.PermissionDeniedError(_HEAD_KEY, "403 AccessDenied"),
    storage.InvalidKeyError("support\\n42", "session id has control characters; remove them"),
    storage.CorruptObjectError(_PACK_KEY, "the range begins at or behind the object's end"),
    refusal(Verdict("", _AN_INSTANT, ("16 create at once, 4 times: 3 win",), ServerFacts(keeps_conditions=False))),
)


def name_of(error: Exception) -> str:
    """Return the name of an error's class, which is that of its page."""
    return type(error).__name__


def said_of(error: Exception) -> tuple[str, str]:
    """Return what the class says it means, and its remedy. Raises ValueError for a docstring without one."""
    text = " ".join((type(error).__doc__ or "").split("\n\n")[0].split())
    meaning, found, remedy = text.partition(" Remedy: ")
    if not found:
        raise ValueError(f"the docstring of {name_of(error)} names no remedy")
    return meaning, remedy.rstrip(".")


def printed(error: Exception) -> str:
    """Return what the command prints of an error, one line."""
    return f"error: {error}"


def head(error: Exception) -> str:
    """Return the head of an error's page, up to the first heading that is written by hand."""
    meaning, remedy = said_of(error)
    code = EXIT_CODES[type(error)]
    return (
        f"# {name_of(error)}\n\n{meaning}\n\n"
        f"| | |\n|---|---|\n| class | `{type(error).__module__}.{name_of(error)}` |\n"
        f"| exit code | {code}: {MEANINGS[code]} |\n| remedy | {remedy} |\n\n"
        f"```text\n{printed(error)}\n```\n\n"
    )


def index() -> str:
    """Return the table of all errors, by exit code."""
    rows = []
    for error in sorted(EXAMPLES, key=lambda one: EXIT_CODES[type(one)]):
        meaning, remedy = said_of(error)
        name = name_of(error)
        rows.append((str(EXIT_CODES[type(error)]), f"[{name}]({name}.md)", meaning, remedy))
    return table(("exit code", "error", "it means", "remedy"), rows)


def pages(folder: Path = FOLDER) -> Mapping[Path, str]:
    """Return what each page and the index ought to be: heads and table made, the rest as it stands.

    Raises:
        FileNotFoundError: An error class has no page yet: write one, with the headings of the others.
    """
    made = {folder / f"{name_of(error)}.md": head(error) for error in EXAMPLES}
    found = {path: text + BELOW + path.read_text().partition(BELOW)[2] for path, text in made.items()}
    readme = folder / "README.md"
    return {**found, readme: replaced(readme.read_text(), "errors", index())}


def main() -> int:
    """Write what differs, and name it."""
    for path, text in pages().items():
        if path.read_text() != text:
            path.write_text(text)
            print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
