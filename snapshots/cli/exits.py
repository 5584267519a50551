"""Exit codes: one table from error classes to what a script should do next. Pure.

MEANINGS[3] == "not found, deleted or moved"
exit_code(SessionNotFoundError("s1")) == 3
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snapshots import errors as sessions
from storage import errors as storage

DONE, BUG, USAGE, INTERRUPTED = 0, 1, 2, 130
NOT_FOUND, CORRUPT, CONFLICT, RETRY, FENCED, DENIED, UNSUPPORTED, INVALID, PARTLY = range(3, 12)

MEANINGS: Mapping[int, str] = {
    DONE: "done",
    BUG: "our bug",
    USAGE: "usage",
    NOT_FOUND: "not found, deleted or moved",
    CORRUPT: "corrupt, or findings",
    CONFLICT: "conflict or exists",
    RETRY: "unavailable or unknown: retry",
    FENCED: "fenced or held",
    DENIED: "denied",
    UNSUPPORTED: "unsupported format or server",
    INVALID: "invalid input, state or limit",
    PARTLY: "partly done (the rest is named)",
    INTERRUPTED: "interrupted",
}


class UsageError(Exception):
    """The command cannot be carried out as it was given. Remedy: look at what `see` names, and give it otherwise.

    Attributes:
        see: Commands that show what there is to give, "" for the command's own `--help`.
    """

    def __init__(self, message: str, *, see: str = "") -> None:
        self.see = see
        super().__init__(message)


class NotConfirmedError(Exception):
    """The user was asked, and does not want it. Remedy: nothing was changed; ask again, or say `--yes`."""

    def __init__(self) -> None:
        super().__init__("not confirmed; nothing was changed")


EXIT_CODES: Mapping[type[Exception], int] = {
    UsageError: USAGE,
    NotConfirmedError: INTERRUPTED,
    sessions.SessionNotFoundError: NOT_FOUND,
    sessions.RevisionNotFoundError: NOT_FOUND,
    sessions.StoreNotFoundError: NOT_FOUND,
    sessions.SessionDeletedError: NOT_FOUND,
    sessions.SessionMovedError: NOT_FOUND,
    sessions.CorruptSnapshotError: CORRUPT,
    sessions.SessionExistsError: CONFLICT,
    sessions.RevisionConflictError: CONFLICT,
    sessions.TurnConflictError: CONFLICT,
    sessions.EffectConflictError: CONFLICT,
    sessions.CopyConflictError: CONFLICT,
    sessions.CommitUnknownError: RETRY,
    sessions.FencedError: FENCED,
    sessions.LeaseHeldError: FENCED,
    sessions.UnsupportedSchemaError: UNSUPPORTED,
    sessions.InvalidStateError: INVALID,
    sessions.IllegalTransitionError: INVALID,
    sessions.InvalidInputError: INVALID,
    sessions.LimitExceededError: INVALID,
    storage.NotFoundError: NOT_FOUND,
    storage.CorruptObjectError: CORRUPT,
    storage.PreconditionFailedError: CONFLICT,
    storage.UnavailableError: RETRY,
    storage.PermissionDeniedError: DENIED,
    storage.UnsupportedServerError: UNSUPPORTED,
    storage.InvalidKeyError: INVALID,
}


def exit_code(error: BaseException) -> int:
    """Return the code for an error, by the nearest of its classes; what is not in the table is our bug."""
    return next((EXIT_CODES[kind] for kind in type(error).__mro__ if kind in EXIT_CODES), BUG)


def error_fields(error: BaseException, message: str, code: int) -> dict[str, Any]:
    """Return what `--json` shows of an error: its class, message and exit code, and its attributes."""
    facts = {name: _plain(value) for name, value in vars(error).items() if not name.startswith("_")}
    head = {"error": type(error).__name__, "message": message, "exit_code": code}
    return head | {name: value for name, value in facts.items() if name not in head}


def _plain(value: Any) -> Any:
    if value is None or isinstance(value, bool | int | float | str):
        return value
    if isinstance(value, tuple | list):
        return [_plain(item) for item in value]
    return value.isoformat() if hasattr(value, "isoformat") else str(value)
