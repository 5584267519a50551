"""Every answer of a server has its remedy: the table."""

from __future__ import annotations

import pytest

from storage import Create, Overwrite, PutMode, Replace, Version
from storage.backends.answers import Call, Failure, NoAnswer, NotConfigured, Refused, storage_error
from storage.errors import (
    CorruptObjectError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
    UnsupportedServerError,
)

CREATE, OVERWRITE, REPLACE = Create(), Overwrite(), Replace(Version("v"))
MODES: list[PutMode] = [CREATE, OVERWRITE, REPLACE]
VERBS = ["get", "put", "stat", "list", "delete", "part"]


def call(verb: str, mode: PutMode | None = None) -> Call:
    return Call(verb, "a/b", "bucket", mode)  # type: ignore[arg-type]  # one of VERBS


def answer(failure: Failure, verb: str, mode: PutMode | None = None) -> StorageError:
    return storage_error(call(verb, mode), failure)


@pytest.mark.parametrize(
    ("verb", "mode", "failure", "error"),
    [
        ("get", None, Refused(404, "NoSuchKey"), NotFoundError),
        ("stat", None, Refused(404, "404"), NotFoundError),
        ("list", None, Refused(404, "NoSuchBucket"), NotFoundError),
        ("put", CREATE, Refused(404, "NoSuchBucket"), NotFoundError),
        ("put", REPLACE, Refused(404, "NoSuchBucket"), NotFoundError),
        ("put", REPLACE, Refused(404, "NoSuchKey"), PreconditionFailedError),
        ("put", REPLACE, Refused(412, "PreconditionFailed"), PreconditionFailedError),
        ("put", CREATE, Refused(412, "PreconditionFailed"), PreconditionFailedError),
        ("put", CREATE, NotConfigured("the certificate is not trusted", "name it"), PermissionDeniedError),
        ("get", None, Refused(400, "ExpiredToken"), PermissionDeniedError),
        ("put", CREATE, Refused(400, "TokenRefreshRequired"), PermissionDeniedError),
        ("stat", None, Refused(400, "400"), PermissionDeniedError),
        ("get", None, Refused(400, "400"), UnavailableError),
        ("get", None, Refused(416, "InvalidRange"), CorruptObjectError),
        ("put", CREATE, Refused(501, "NotImplemented"), UnsupportedServerError),
        ("list", None, Refused(405, "MethodNotAllowed"), UnsupportedServerError),
    ],
)
def test_what_the_server_said_has_its_class(
    verb: str, mode: PutMode | None, failure: Failure, error: type[StorageError]
) -> None:
    assert type(answer(failure, verb, mode)) is error


@pytest.mark.parametrize("verb", VERBS)
@pytest.mark.parametrize(
    "failure",
    [
        Refused(403, "AccessDenied"),
        Refused(403, "403"),
        Refused(401, "Unauthorized"),
        Refused(403, "InvalidAccessKeyId"),
        Refused(403, "SignatureDoesNotMatch"),
        Refused(403, "RequestTimeTooSkewed"),
        Refused(400, "ExpiredToken"),
        Refused(400, "AuthorizationHeaderMalformed"),
        Refused(301, "PermanentRedirect"),
        NotConfigured("no usable credentials (NoCredentialsError)", "give them"),
    ],
)
def test_credentials_and_policy_are_the_remedy(verb: str, failure: Failure) -> None:
    assert type(answer(failure, verb)) is PermissionDeniedError


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("failure", "applied"),
    [
        (Refused(500, "InternalError"), "unknown"),
        (Refused(502, "BadGateway"), "unknown"),
        (Refused(503, "SlowDown"), "unknown"),
        (Refused(504, "GatewayTimeout"), "unknown"),
        (Refused(429, "TooManyRequests"), "unknown"),
        (Refused(400, "RequestTimeout"), "unknown"),
        (Refused(409, "ConditionalRequestConflict"), "unknown"),
        (Refused(409, "OperationAborted"), "unknown"),
        (Refused(200, "InternalError"), "unknown"),
        (Refused(400, "BadDigest"), "no"),
        (Refused(400, "IncompleteBody"), "no"),
        (Refused(404, "NoSuchUpload"), "no"),
        (NoAnswer("reset", sent=True), "unknown"),
        (NoAnswer("refused", sent=False), "no"),
    ],
)
def test_a_put_says_whether_it_may_have_landed(mode: PutMode, failure: Failure, applied: str) -> None:
    error = answer(failure, "put", mode)
    assert isinstance(error, UnavailableError)
    assert error.applied == applied


@pytest.mark.parametrize("verb", ["get", "stat", "list", "part"])
@pytest.mark.parametrize("failure", [Refused(500, "InternalError"), Refused(409, "x"), NoAnswer("reset", sent=True)])
def test_what_shows_nothing_to_readers_has_not_landed(verb: str, failure: Failure) -> None:
    error = answer(failure, verb)
    assert isinstance(error, UnavailableError)
    assert error.applied == "no"


def test_a_missing_bucket_is_named() -> None:
    assert "'bucket'" in str(answer(Refused(404, "NoSuchBucket"), "get"))


def test_a_412_where_no_condition_was_sent_is_no_verdict() -> None:
    assert type(answer(Refused(412, "PreconditionFailed"), "get")) is UnavailableError
