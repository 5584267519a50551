"""`CloudStore`: objects in a bucket of Google Cloud Storage or a container of Azure. The only importer of obstore.

Rules:
1. Requests that may be repeated (reads, deletes, parts) go through `_retrying`; a put with a condition is sent exactly
   once, through `_once`: a hidden retry would turn a lost answer into a false 412.
2. A version is what the service conditions on, literally: on Google the generation, on Azure the ETag. Each put has its
   own: a content that comes back has another one. What no put can have returned is not sent: Google takes the
   generation 0 for "nothing is there", Azure the ETag "*" for "anything".
3. Nothing is conditioned beyond one request: only names that are never used twice grow in parts.
4. obstore tells what went wrong in words: status, code and kind are read from them, and nothing else is repeated, not
   as a cause either: the words of the server, which are among them, may repeat credentials.
5. A prefix of obstore ends at a "/": what it lists beside ours is left out, and its order is checked.
6. obstore's threads do not survive `os.fork`: in a child nothing is asked, for it would wait for ever.

    store = google_store("bucket")
    store.put("a/b", b"one", Create())

Source: Google, "XML API, reference headers", x-goog-if-generation-match; Azure, "Specifying conditional headers for
Blob service operations"; object_store 0.14 (obstore 0.12), as measured 2026-11-22.
"""

from __future__ import annotations

import io
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import urlsplit

from obstore.exceptions import AlreadyExistsError, BaseError, GenericError, PreconditionError
from obstore.store import AzureStore, GCSStore

from storage.backends.answers import Call, Failure, NoAnswer, NotConfigured, Refused, storage_error
from storage.backends.connections import PROXY_REFUSES, proxy_of, proxy_refusal
from storage.backends.limits import check_order, check_put, is_key, read_up_to
from storage.errors import (
    CorruptObjectError,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
    UnsupportedServerError,
)
from storage.keys import check_key, check_prefix
from storage.server import Attempt, ServerFacts, Variant
from storage.store import (
    LIST_PAGE_KEYS,
    ByteRange,
    Create,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    PutMode,
    Replace,
    StoredObject,
    Version,
)

if TYPE_CHECKING:
    from obstore import ObjectMeta as Meta
    from obstore.store import ClientConfig, RetryConfig
    from obstore.store import ObjectStore as Client

Token = Literal["version", "e_tag"]
"""Which of the two that obstore knows of an object the service conditions on."""

RETRIES_MAX = 3  # of a request that may be repeated
RETRY_SECONDS = 60.0
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0  # from the start of a request, its body included, and again from each piece of the answer
REQUEST_SECONDS = 3600.0  # of a whole request; a large pack may take its time as long as bytes come
PART_BYTES = 8 << 20
SINGLE_BYTES_MAX = 2 * PART_BYTES  # beyond, parts in parallel are faster and a failure costs one part
PARTS_IN_FLIGHT = 4  # bounds memory: 32 MiB per upload
DELETES_IN_FLIGHT = 16

_BUCKET = re.compile(r"[A-Za-z0-9$._-]{3,255}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_GIVEN: dict[Token, re.Pattern[str]] = {"version": re.compile(r"[1-9][0-9]*"), "e_tag": re.compile(r'"[^"*]+"')}
_STATUS = re.compile(r"non-2xx status code: (\d{3})|\(code: (\d{3})\)")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_KIND = re.compile(r"HttpError \{\s+kind: (\w+)")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(\w+)")
_TRUST = "name the certificate of its authority in SSL_CERT_FILE; or mend the server's, or its name here"
_GIVE = (
    "give them by the environment (AZURE_STORAGE_ACCOUNT_KEY, GOOGLE_SERVICE_ACCOUNT), or an identity of the machine"
)
_FIRST_ATTEMPT = re.compile(r"\bretries: 0,")
_ANY_FAILURE = (BaseError, FileNotFoundError)
# What Azure says where S3 says something else.
_AS_ON_S3 = {
    (404, "ContainerNotFound"): Refused(404, "NoSuchBucket"),
    (409, "BlobAlreadyExists"): Refused(412, "BlobAlreadyExists"),
    (412, "LeaseIdMissing"): Refused(403, "LeaseIdMissing"),
}
_PROCESS = os.getpid()


def google_store(bucket: str, *, endpoint_url: str | None = None, read_seconds: float = READ_SECONDS) -> CloudStore:
    """Return a store in a bucket of Google Cloud Storage, which must exist.

    Args:
        bucket: Its name.
        endpoint_url: Of another server that speaks the XML API.
        read_seconds: How long to send a request, and to wait for the next bytes of its answer.

    Raises:
        InvalidKeyError: Not a bucket name or endpoint.
        PermissionDeniedError: The credentials of the environment cannot be used.
    """
    place = endpoint_url or os.environ.get("GOOGLE_BASE_URL") or "Google"
    _check_place(bucket, place if place != "Google" else None)
    given: Any = {"base_url": endpoint_url} if endpoint_url else {}
    options = _options(endpoint_url, read_seconds)
    with _configured(bucket):
        once = GCSStore(bucket, client_options=options, retry_config=_retries(0), **given)
        retrying = GCSStore(bucket, client_options=options, retry_config=_retries(RETRIES_MAX), **given)
    return CloudStore(bucket, once=once, retrying=retrying, token="version", place=place)  # noqa: S106  no secret


def azure_store(
    container: str,
    *,
    account: str | None = None,
    endpoint_url: str | None = None,
    read_seconds: float = READ_SECONDS,
) -> CloudStore:
    """Return a store in a container of Azure, which must exist.

    Args:
        container: Its name.
        account: The storage account; default: AZURE_STORAGE_ACCOUNT_NAME of the environment.
        endpoint_url: Of a server other than the account's; an emulator's ends with the account.
        read_seconds: How long to send a request, and to wait for the next bytes of its answer.

    Raises:
        InvalidKeyError: Not a container name, account or endpoint.
        PermissionDeniedError: The environment names no account, or its credentials cannot be used.
    """
    place = endpoint_url or _azure_place(account)
    _check_place(container, place)
    if account is not None and not _ACCOUNT.fullmatch(account):
        raise InvalidKeyError(account, "not a storage account")
    given: Any = {"account_name": account} if account else {}
    if endpoint_url:
        given["endpoint"] = endpoint_url
    options = _options(endpoint_url, read_seconds)
    with _configured(container):
        once = AzureStore(container, client_options=options, retry_config=_retries(0), **given)
        retrying = AzureStore(container, client_options=options, retry_config=_retries(RETRIES_MAX), **given)
    return CloudStore(container, once=once, retrying=retrying, token="e_tag", place=place)  # noqa: S106  no secret


class CloudStore:
    """An `ObjectStore` over two clients of obstore for one place; made by `google_store` and `azure_store`.

    Args:
        bucket: The name of bucket or container, for messages.
        once: Sends each request exactly once.
        retrying: Sends a request again that was not answered.
        token: What the service conditions on.
        place: Where the service is, for messages.
    """

    def __init__(self, bucket: str, *, once: Client, retrying: Client, token: Token, place: str) -> None:
        self.bucket = bucket
        self._once = once
        self._retrying = retrying
        self._token: Token = token
        self._place = place

    @property
    def endpoint(self) -> str:
        """Return the service's URL, or its name. See `Server.endpoint`."""
        return self._place

    @property
    def allows_one_writer(self) -> bool:
        """Say no: that is a wrapper's to allow. See `Server.allows_one_writer`."""
        return False

    @property
    def variants(self) -> frozenset[Variant]:
        """Return none: the library writes conditions as the service has them. See `Server.variants`."""
        return frozenset()

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:  # noqa: ARG002  there are none
        """Refuse. Raises TypeError."""
        raise TypeError(f"{self._place} cannot be asked for {variant}")

    def adapt(self, facts: ServerFacts) -> None:
        """Change nothing. See `Server.adapt`."""

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        wanted: Any = {"range": (byte_range.start, byte_range.end)} if byte_range else None
        with self._typed(Call("get", check_key(key), self.bucket)):
            try:
                answer = self._retrying.get(key, options=wanted)
                data = bytes(answer.bytes())
            except GenericError as error:
                if byte_range and _is_unreadable(error):
                    self._check_start(key, byte_range)
                raise
        size, first = answer.meta["size"], byte_range.start if byte_range else 0
        last = min(byte_range.end, size) if byte_range else size
        if answer.range != (first, last) or len(data) != last - first:
            raise UnavailableError(key, f"asked for {first}-{last}, {len(data)} bytes came", applied="no")
        return StoredObject(data, _version(answer.meta[self._token]))

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        """Store `data` as `mode` allows; above 16 MiB in parts. See `ObjectStore.put`."""
        check_put(key, data, mode)
        if isinstance(data, bytes) and len(data) <= SINGLE_BYTES_MAX:
            return self._put_once(key, data, mode)
        stream = io.BytesIO(data) if isinstance(data, bytes) else data
        first = [read_up_to(stream, PART_BYTES) for _ in range(SINGLE_BYTES_MAX // PART_BYTES + 1)]
        if not first[-1]:
            return self._put_once(key, b"".join(first), mode)
        rest = iter(lambda: read_up_to(stream, PART_BYTES), b"")
        return self._put_parts(key, _Source(itertools.chain(first, rest)))

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        with self._typed(Call("stat", check_key(key), self.bucket)):
            meta = self._retrying.head(key)
        return ObjectMeta(key, meta["size"], _version(meta[self._token]))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        return self._rows(check_prefix(prefix), start_after)

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        check_key(key)
        try:
            with self._typed(Call("delete", key, self.bucket)):
                self._retrying.delete(key)
        except NotFoundError as error:
            if error.message != NotFoundError(key).message:  # the bucket is missing
                raise

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects, a request for each, side by side; return those that could not be removed."""
        with ThreadPoolExecutor(DELETES_IN_FLIGHT) as pool:
            return tuple(failure for failure in pool.map(self._delete_failure, keys) if failure is not None)

    def _delete_failure(self, key: str) -> DeleteFailure | None:
        try:
            self.delete(key)
        except StorageError as error:
            return DeleteFailure(key, error)
        return None

    def _check_start(self, key: str, byte_range: ByteRange) -> None:
        """Tell a range behind the end, for which servers and obstore have several words, from other answers."""
        if self.stat(key).size_bytes <= byte_range.start:
            raise CorruptObjectError(key, "the range begins at or behind the object's end") from None

    def _put_once(self, key: str, data: bytes, mode: PutMode) -> Version:
        condition: Any = "create" if isinstance(mode, Create) else "overwrite"
        if isinstance(mode, Replace):
            if not _GIVEN[self._token].fullmatch(mode.version):
                raise PreconditionFailedError(key, "no object here ever had this version")
            condition = {self._token: mode.version}
        with self._typed(Call("put", key, self.bucket, mode)):
            answer = self._once.put(key, data, mode=condition, use_multipart=False)
        if not answer[self._token]:  # stored, but under no version that could be named: the caller must read it back
            raise UnavailableError(key, "the write was acknowledged without a version", applied="unknown")
        return _version(answer[self._token])

    def _put_parts(self, key: str, source: _Source) -> Version:
        try:
            with self._typed(Call("put", key, self.bucket, Create())):
                answer = self._retrying.put(
                    key, source, use_multipart=True, chunk_size=PART_BYTES, max_concurrency=PARTS_IN_FLIGHT
                )
        except UnavailableError as error:
            if source.error is not None:
                raise source.error from None
            # Rule 1: the last of its requests may have been sent more than once, whatever came of the latest.
            raise UnavailableError(key, error.reason, applied="unknown") from error
        return _version(answer[self._token]) if answer[self._token] else self.stat(key).version

    def _rows(self, prefix: str, start_after: str) -> Iterator[ListedObject]:
        directory = prefix.rpartition("/")[0]
        before = prefix if prefix.endswith("/") else prefix[:-1]  # sorts before all that begins with the prefix
        former = ""
        for key, row in self._listed(prefix, directory, max(start_after, before)):
            check_order(key, former)
            former = key
            if key > start_after and key.startswith(prefix):  # not every server knows where to begin
                yield ListedObject(key, row["size"], row["last_modified"])
            elif key > prefix and key > start_after:
                return

    def _listed(self, prefix: str, directory: str, start_after: str) -> Iterator[tuple[str, Meta]]:
        """Yield the rows whose names are keys."""
        with self._typed(Call("list", prefix, self.bucket)):
            pages = iter(self._retrying.list(directory or None, offset=start_after or None, chunk_size=LIST_PAGE_KEYS))
        while True:
            with self._typed(Call("list", prefix, self.bucket)):
                page = next(pages, None)
            if page is None:
                return
            yield from ((row["path"], row) for row in page if is_key(row["path"]))

    @contextmanager
    def _typed(self, call: Call) -> Iterator[None]:
        if os.getpid() != _PROCESS:
            raise RuntimeError("obstore does not work behind os.fork: start the process anew (spawn)")
        try:
            yield
        except _ANY_FAILURE as error:
            raise _storage_error(call, error, self._place) from None  # rule 4


def _version(token: str | None) -> Version:
    if not token:
        raise UnsupportedServerError(["answers carry no version"])
    return Version(token)


class _Source:
    """Hands out the parts of a stream, and keeps what it raised: obstore would tell that as a failure of its own."""

    def __init__(self, parts: Iterator[bytes]) -> None:
        self.error: BaseException | None = None
        self._parts = parts

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        try:
            return next(self._parts)
        except StopIteration:
            raise
        except BaseException as error:
            self.error = error
            raise


def _storage_error(call: Call, error: Exception, place: str) -> StorageError:
    failure = _failure(error, place)
    if isinstance(failure, NoAnswer) and isinstance(error, AlreadyExistsError | PreconditionError):
        return PreconditionFailedError(call.key)  # a store without a server
    return storage_error(call, failure)


def _failure(error: Exception, place: str) -> Failure:
    """Read from obstore's words what happened."""
    words = str(error)
    if "token request" in words:
        return NotConfigured("no usable credentials", _GIVE)
    if status := _STATUS.search(words):
        if int(status[1] or status[2]) == PROXY_REFUSES:
            return proxy_refusal(PROXY_REFUSES, proxy_of(place))
        code = _CODE.search(words)
        refused = Refused(int(status[1] or status[2]), code[1] if code else "")
        return _AS_ON_S3.get((refused.status, refused.code), refused)
    if isinstance(error, FileNotFoundError):
        return Refused(404, "")
    if untrusted := _CERTIFICATE.search(words):
        return NotConfigured(f"the certificate of {place} is not trusted ({untrusted[1]})", _TRUST)
    kind = _KIND.search(words)
    sent = not (kind and kind[1] == "Connect" and _FIRST_ATTEMPT.search(words))
    by = f" by the proxy {proxy}" if (proxy := proxy_of(place)) else ""
    return NoAnswer(f"no usable answer from {place}{by} ({kind[1] if kind else type(error).__name__})", sent=sent)


def _is_unreadable(error: GenericError) -> bool:
    """Say whether a server answered well enough, but obstore could make nothing of it."""
    return not _STATUS.search(str(error)) and not _KIND.search(str(error))


@contextmanager
def _configured(bucket: str) -> Iterator[None]:
    try:
        yield
    except BaseError as error:
        raise PermissionDeniedError(bucket, f"no usable account or credentials ({_variant(error)})") from None


def _variant(error: BaseError) -> str:
    """Return obstore's name of what is wrong: "MissingAccount"."""
    found = re.search(r"source: (\w+)", str(error))
    return found[1] if found else type(error).__name__


def _options(endpoint_url: str | None, read_seconds: float) -> ClientConfig:
    return {
        "allow_http": urlsplit(endpoint_url or "").scheme == "http",
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=read_seconds),
        "timeout": timedelta(seconds=REQUEST_SECONDS),
    }


def _retries(most: int) -> RetryConfig:
    return {"max_retries": most, "retry_timeout": timedelta(seconds=RETRY_SECONDS if most else 0)}


def _azure_place(account: str | None) -> str:
    """Return where obstore finds Azure by its own search: what the environment names, else the account's own server."""
    for name in ("AZURE_STORAGE_ENDPOINT", "AZURE_ENDPOINT"):
        if endpoint := os.environ.get(name):
            return endpoint
    if os.environ.get("AZURE_STORAGE_USE_EMULATOR", "").lower() in ("1", "true", "on", "yes", "y"):
        return os.environ.get("AZURITE_BLOB_STORAGE_URL", "http://127.0.0.1:10000")
    return f"https://{account or os.environ.get('AZURE_STORAGE_ACCOUNT_NAME', 'account')}.blob.core.windows.net"


def _check_place(bucket: str, endpoint_url: str | None) -> None:
    if not _BUCKET.fullmatch(bucket):
        raise InvalidKeyError(bucket, "not the name of a bucket or container")
    if endpoint_url is None:
        return
    parts = urlsplit(endpoint_url)
    if "@" in endpoint_url or parts.query:
        raise InvalidKeyError("endpoint_url", "holds credentials; give them by the environment or a profile")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidKeyError(endpoint_url, "not an endpoint: want http://host:port or https://host")
