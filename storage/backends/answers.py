"""What an answer of an S3 server (or none) means to the caller. Pure.

Rules:
1. A write is `applied="no"` only when it cannot have landed: nothing was sent, or the server refused the request as
   such (4xx). After 5xx, 409, 429 or silence it is "unknown".
2. Messages hold status and code, never what the server wrote: that may repeat parts of credentials.
3. What no rule names is "unavailable": the caller tries again, a bounded number of times.

    raise storage_error(Call("put", "a/b", "bucket", Create()), Refused(412, "PreconditionFailed"))

Source: S3 API reference, "Error responses", and user guide, "How to prevent object overwrites with conditional
writes" (409, 412; 404 for If-Match on a missing key); other servers as measured by `storage.probe`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from storage.errors import (
    Applied,
    CorruptObjectError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
    UnsupportedServerError,
)
from storage.store import PutMode, Replace

_DENIED = frozenset(
    {
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "InvalidAccessKeyId",
        "InvalidToken",
        "PermanentRedirect",  # the bucket is in another region: a matter of configuration, like the others
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
    }
)
_EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
RENEW = "if it was given by the environment, renew the session token: nobody else can"
_BUSY = frozenset({"RequestTimeout", "SlowDown", "Throttling", "ThrottlingException", "TooManyRequestsException"})
_BUSY_STATUS = frozenset({408, 425, 429})


@dataclass(frozen=True, slots=True)
class Call:
    """What was asked for.

    Attributes:
        verb: Of `ObjectStore`; "part" is a step of a multipart upload, which shows nothing to readers.
        mode: Of a put.
        tells_absent: Whether the server is known to answer If-Match with 404 where nothing is.
    """

    verb: Literal["get", "put", "stat", "list", "delete", "part"]
    key: str
    bucket: str
    mode: PutMode | None = None
    tells_absent: bool = False


@dataclass(frozen=True, slots=True)
class Refused:
    """The server answered with an error."""

    status: int
    code: str

    def __str__(self) -> str:
        return f"{self.status} {self.code}"


@dataclass(frozen=True, slots=True)
class NoAnswer:
    """No usable answer came; `sent` says whether the request may have reached the server."""

    reason: str
    sent: bool


@dataclass(frozen=True, slots=True)
class NotConfigured:
    """The request was not made: credentials, or the way to the server, must be set up first; `remedy` says how."""

    reason: str
    remedy: str


Failure = Refused | NoAnswer | NotConfigured


def storage_error(call: Call, failure: Failure) -> StorageError:
    """Return the error that tells the caller what to do next."""
    if isinstance(failure, NotConfigured):
        return PermissionDeniedError(call.key, failure.reason, remedy=failure.remedy)
    if isinstance(failure, NoAnswer):
        return UnavailableError(call.key, failure.reason, applied=_applied(call, failure.sent))
    return _refused(call, failure)


def _refused(call: Call, answer: Refused) -> StorageError:
    if answer.code in _EXPIRED:
        return PermissionDeniedError(call.key, f"{answer}: the session token has expired", remedy=RENEW)
    if call.verb == "stat" and answer.status == 400:  # an answer to HEAD cannot say why
        return PermissionDeniedError(call.key, f"{answer}", remedy=f"{RENEW}; or name the region of the bucket")
    if answer.code in _DENIED or answer.status in (301, 307, 401, 403):
        return PermissionDeniedError(call.key, str(answer))
    if answer.code in _BUSY or answer.status in _BUSY_STATUS:
        return UnavailableError(call.key, str(answer), applied=_applied(call, True))
    if answer.status == 404:
        return _not_found(call, answer)
    if answer.status == 412 and call.mode is not None:
        return PreconditionFailedError(call.key, f"{answer}: {_what_is_there(call)}")
    if answer.status == 416:
        return CorruptObjectError(call.key, "the range begins at or behind the object's end")
    if answer.status in (405, 501):
        return UnsupportedServerError([f"{call.verb} was answered with {answer}"])
    # 409 ConditionalRequestConflict: another write is under way. Ours is said not to have landed; not all keep to it.
    certainly_not = 400 <= answer.status < 500 and answer.status != 409
    return UnavailableError(call.key, str(answer), applied=_applied(call, not certainly_not))


def _what_is_there(call: Call) -> str:
    if isinstance(call.mode, Replace):
        return "the object changed" if call.tells_absent else "the object changed or is gone"
    return "the object changed or exists already"


def _not_found(call: Call, answer: Refused) -> StorageError:
    if answer.code == "NoSuchBucket":
        return NotFoundError(call.key, f"bucket {call.bucket!r} does not exist; create it or check its name")
    if answer.code == "NoSuchUpload" and call.verb == "list":  # as rclone does
        return UnsupportedServerError(["uploads under way are not listed"])
    if answer.code == "NoSuchUpload":
        return UnavailableError(call.key, str(answer), applied="no")
    if isinstance(call.mode, Replace):
        return PreconditionFailedError(call.key, "nothing is stored here")
    return NotFoundError(call.key)


def _applied(call: Call, possible: bool) -> Applied:
    return "unknown" if possible and call.verb in ("put", "delete") else "no"
