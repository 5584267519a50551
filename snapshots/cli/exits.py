"""Exit codes: one table from error classes to what a script should do next. Pure.

 0 done                          6 unavailable or unknown: retry
 1 our bug                       7 fenced or held
 2 usage                         8 denied
 3 not found, deleted or moved   9 unsupported format or server
 4 corrupt, or findings         10 invalid input, state or limit
 5 conflict or exists           11 partly done (the rest is named)
                               130 interrupted

exit_code(SessionNotFoundError("s1")) == 3
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from snapshots import errors as sessions
from storage import errors as storage

DONE, BUG, USAGE, INTERRUPTED = 0, 1, 2, 130
NOT_FOUND, CORRUPT, CONFLICT, RETRY, FENCED, DENIED, UNSUPPORTED, INVALID, PARTLY = range(3, 12)


class UsageError(Exception):
    """The command cannot be carried out as it was given. Remedy: see `--help`."""


EXIT_CODES: Mapping[type[Exception], int] = {
    UsageError: USAGE,
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
