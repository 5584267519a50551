"""Where objects are kept, and `open_store`: from a URL to a store. A backend is imported when it is asked for.

Rules:
1. A URL says where, never who: credentials come from the environment or a profile.
2. What a URL says and nobody understands is an error, not ignored.

    open_store("memory:")
    open_store("file:agents.snapshots")
    open_store("archive:monday.snapshots")
    open_store("s3://bucket/agents?endpoint_url=http://127.0.0.1:9000&region=us-east-1")
    open_store("gs://bucket/agents")
    open_store("az://container/agents?account=name")
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from storage.errors import InvalidKeyError
from storage.keys import check_key
from storage.store import ObjectStore

ONE_WRITER = "one_writer"
_FORMS = (
    "memory:, file:PATH, archive:PATH, s3://BUCKET/PREFIX?endpoint_url=URL&region=NAME, "
    "gs://BUCKET/PREFIX?endpoint_url=URL, az://CONTAINER/PREFIX?account=NAME&endpoint_url=URL"
)
# Of each kind of bucket, by scheme.
_PARAMETERS = {
    "s3": frozenset({"endpoint_url", "region", ONE_WRITER}),
    "gs": frozenset({"endpoint_url", ONE_WRITER}),
    "az": frozenset({"account", "endpoint_url", ONE_WRITER}),
}


def open_store(url: str) -> ObjectStore:
    """Return the store that `url` names. Nothing is created, and nothing asked yet but of an archive, which is opened.

    Args:
        url: `memory:` (a new one each time); `file:PATH` or `file:///PATH`, taken literally; so `archive:PATH`, which
            is read-only; `s3://bucket/prefix` with the parameters `endpoint_url` and `region`; `gs://bucket/prefix`
            with `endpoint_url`; `az://container/prefix` with `account` and `endpoint_url`. Each bucket takes
            `one_writer=yes`: a server that keeps no conditions will do, for one writer at a time (`OneWriterStore`).

    Raises:
        InvalidKeyError: Not such a URL; the reason says what is wrong.
        NotFoundError, CorruptObjectError, PermissionDeniedError, UnavailableError: As `ArchiveStore`, of an archive.
        ImportError: The backend's library is not installed; the message says how to.
    """
    scheme, colon, rest = url.partition(":")
    if scheme == "memory" and not rest and colon:
        return _memory()
    if scheme == "file" and rest:
        return _local(url, rest)
    if scheme == "archive" and rest:
        return _archive(url, rest)
    if scheme in _PARAMETERS:
        return _bucket(scheme, url)
    raise InvalidKeyError(_without_credentials(url), f"not the URL of a store; known are {_FORMS}")


def absolute_url(url: str) -> str:
    """Return the URL of a store as it reads from anywhere: a path that is relative is made absolute.

    Raises:
        InvalidKeyError: Not the URL of a store.
    """
    scheme, _, rest = url.partition(":")
    return f"{scheme}:{_root_of(url, rest)}" if scheme in ("file", "archive") and rest else url


def object_url(store_url: str, key: str) -> str:
    """Return what other programs open to read one object: `s3://bucket/key` (`gs:`, `az:`), or the path of a file.

    Args:
        store_url: Of the store, as for `open_store`.
        key: Of the object; nobody looks whether it is there.

    Raises:
        InvalidKeyError: Not such a URL, not a key, or a store in memory or in an archive, which nobody else can read.
    """
    scheme, _, rest = store_url.partition(":")
    if scheme == "file" and rest:
        return os.path.join(_root_of(store_url, rest), check_key(key))
    if scheme in _PARAMETERS:
        bucket, prefix, _ = _bucket_parts(scheme, store_url)
        return f"{scheme}://{bucket}/{prefix + '/' if prefix else ''}{check_key(key)}"
    raise InvalidKeyError(_without_credentials(store_url), "not the URL of a store that other programs can read")


def _memory() -> ObjectStore:
    from storage.backends.memory import MemoryStore

    return MemoryStore()


def _local(url: str, rest: str) -> ObjectStore:
    from storage.backends.local import LocalStore

    return LocalStore(Path(_root_of(url, rest)))


def _archive(url: str, rest: str) -> ObjectStore:
    from storage.backends.archive import ArchiveStore

    return ArchiveStore(Path(_root_of(url, rest)))


def _root_of(url: str, rest: str) -> str:
    if rest.startswith("//") and not rest.startswith("///"):
        scheme = url.partition(":")[0]
        raise InvalidKeyError(url, f"names a host; want {scheme}:PATH or {scheme}:///PATH")
    if "\x00" in rest:
        raise InvalidKeyError(ascii(url), "a path has no NUL")
    return os.path.abspath(rest.removeprefix("//"))


def _bucket(scheme: str, url: str) -> ObjectStore:
    bucket, prefix, given = _bucket_parts(scheme, url)
    if given.get(ONE_WRITER, "yes") != "yes":
        raise InvalidKeyError(_without_credentials(url), f"{ONE_WRITER} is yes, or left out")
    store = _s3(bucket, given) if scheme == "s3" else _cloud(scheme, bucket, given)
    if prefix:
        from storage.wrappers.prefixed import PrefixedStore

        store = PrefixedStore(store, prefix)
    if ONE_WRITER not in given:
        return store
    from storage.wrappers.one_writer import OneWriterStore

    return OneWriterStore(store)


def _s3(bucket: str, given: Mapping[str, str]) -> ObjectStore:
    try:
        from storage.backends.s3 import S3Store
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] not in ("boto3", "botocore", "urllib3"):
            raise
        raise ImportError("s3: needs boto3; pip install 'session-snapshots[s3]'", name=error.name) from error
    return S3Store(bucket, endpoint_url=given.get("endpoint_url"), region=given.get("region"))


def _cloud(scheme: str, bucket: str, given: Mapping[str, str]) -> ObjectStore:
    try:
        from storage.backends.cloud import azure_store, google_store
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != "obstore":
            raise
        raise ImportError(
            f"{scheme}: needs obstore; pip install 'session-snapshots[cloud]'", name=error.name
        ) from error
    if scheme == "gs":
        return google_store(bucket, endpoint_url=given.get("endpoint_url"))
    return azure_store(bucket, account=given.get("account"), endpoint_url=given.get("endpoint_url"))


def _bucket_parts(scheme: str, url: str) -> tuple[str, str, dict[str, str]]:
    """Return bucket, prefix and parameters."""
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise InvalidKeyError(_without_credentials(url), "holds credentials; give them by the environment or a profile")
    if not url.startswith(f"{scheme}://") or parts.fragment:
        raise InvalidKeyError(_without_credentials(url), f"not the URL of a bucket; want {_FORMS}")
    given = _parameters(url, parts.query, _PARAMETERS[scheme])
    endpoint = urlsplit(given.get("endpoint_url", ""))
    if "@" in endpoint.netloc or endpoint.query or endpoint.fragment:
        reason = "endpoint_url is scheme, host and port, and holds no credentials; give them by the environment"
        raise InvalidKeyError(_without_credentials(url), reason)
    return parts.netloc, parts.path.removeprefix("/").removesuffix("/"), given


def _parameters(url: str, query: str, known: frozenset[str]) -> dict[str, str]:
    try:
        pairs = parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query))
    except ValueError as error:
        raise InvalidKeyError(_without_credentials(url), "parameters are written name=value&name=value") from error
    given = dict(pairs)
    if unknown := sorted(given.keys() - known):
        raise InvalidKeyError(_without_credentials(url), f"unknown parameter {unknown[0]!r}; known are {sorted(known)}")
    if len(given) != len(pairs) or not all(given.values()):
        raise InvalidKeyError(_without_credentials(url), "a parameter is empty or given twice")
    return given


def _without_credentials(url: str) -> str:
    before, at, after = url.partition("?")[0].rpartition("@")
    return f"{before.partition(':')[0]}://…@{after}" if at else after
