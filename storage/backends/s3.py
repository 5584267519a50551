"""`S3Store`: objects in a bucket of S3 or a server that speaks its language. The only importer of boto3.

Rules:
1. Requests that may be repeated (reads, deletes, parts) go through `_retrying`; what makes an object visible is sent
   exactly once, through `_once`: a hidden retry would turn a lost answer into a false 412.
2. A version is the ETag without quotes, and is sent without until a probe learnt otherwise: some servers compare it
   literally.
3. Nothing rests on the condition of a multipart upload (some servers ignore it): only names that are never used twice
   grow beyond one request.
4. A body is returned only if it has the length that was announced.
5. A multipart upload that nobody completed is an unfinished write (`storage.unfinished`).
6. How the server wants a version written, and whether it checks checksums, is what it was told (`storage.server`);
   a checksum is sent where the server checks it and the body is not signed; what goes in parts has only its digests.
7. What a server, a proxy or a program that gives credentials said is passed on nowhere, not as a cause either: it may
   repeat credentials.

    store = S3Store("bucket", endpoint_url="http://127.0.0.1:9000")
    store.put("a/b", b"one", Create())
"""

from __future__ import annotations

import base64
import hashlib
import io
import itertools
import re
import zlib
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from functools import partial
from json import JSONDecodeError
from typing import TYPE_CHECKING, Any, BinaryIO, Literal
from urllib.parse import urlsplit

import boto3
import botocore.exceptions as bce
from botocore.config import Config
from botocore.parsers import ResponseParserError
from botocore.utils import determine_content_length
from urllib3.exceptions import HTTPError

from storage.backends.answers import Call, Failure, NoAnswer, NotConfigured, Refused, storage_error
from storage.backends.connections import (
    GIVE,
    MEND,
    PROXY_REFUSES,
    proxy_failure,
    proxy_of,
    proxy_refusal,
    tls_failure,
    told,
)
from storage.backends.limits import check_order, check_put, is_key, read_up_to
from storage.errors import InvalidKeyError, PermissionDeniedError, UnavailableError, UnsupportedServerError
from storage.keys import check_key, check_prefix
from storage.server import Attempt, ServerFacts, Variant
from storage.store import (
    CONDITIONAL_BYTES_MAX,
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
from storage.unfinished import UnfinishedWrite

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest
    from mypy_boto3_s3.client import S3Client
    from mypy_boto3_s3.type_defs import CompletedPartTypeDef

THREADS_MAX = 8  # more threads make boto3 slower: it is bound by the interpreter, not by the network
POOL_CONNECTIONS = 2 * THREADS_MAX  # each thread may hold one for a body while it sends the next request
ATTEMPTS_MAX = 4  # of a request that may be repeated
CONNECT_SECONDS = 5.0
READ_SECONDS = 30.0
REGION_DEFAULT = "us-east-1"  # third parties accept it; AWS redirects from it
PART_BYTES = 8 << 20
SINGLE_BYTES_MAX = 2 * PART_BYTES  # beyond, parts in parallel are faster and a failure costs one part
PARTS_IN_FLIGHT = 4  # bounds memory: 32 MiB per upload
PARTS_MAX = 10_000  # S3's own limit
EXPECT_BYTES_MIN = 1 << 20  # up to here a body costs less than the round trip that "Expect" adds

_AWS = (".amazonaws.com", ".amazonaws.com.cn")
_BUCKET = re.compile(r"[A-Za-z0-9._-]{3,255}")
# Kept by servers of their own; user guide, "Regional and Zonal endpoint API operations".
_DIRECTORY_BUCKET = re.compile(r"--([a-z0-9-]+)--x-s3$")
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")
_NOT_SENT = (bce.EndpointConnectionError, bce.ConnectTimeoutError, bce.ProxyConnectionError)
_CREDENTIALS = (
    bce.NoCredentialsError,
    bce.PartialCredentialsError,
    bce.CredentialRetrievalError,
    bce.MetadataRetrievalError,
    bce.TokenRetrievalError,
    bce.NoAuthTokenError,
    bce.SSOError,
    bce.LoginError,
    JSONDecodeError,  # what a program that gives credentials printed
)
_SETTINGS = (
    bce.ProfileNotFound,
    bce.ConfigNotFound,
    bce.ConfigParseError,
    bce.InvalidConfigError,
    bce.InvalidProxiesConfigError,
)
_STALE = "refreshed credentials are still expired"  # what botocore says in a RuntimeError
_ANY_FAILURE = (bce.ClientError, bce.BotoCoreError, JSONDecodeError, ResponseParserError, HTTPError, OSError)


class S3Store:
    """An `ObjectStore` in a bucket, which must exist.

    Args:
        bucket: Its name.
        endpoint_url: Of a server other than AWS; addressed in path style.
        region: Default: the session's, else `REGION_DEFAULT`.
        session: Where credentials come from; default: boto3's own search.
        read_seconds: How long to wait for the next bytes of an answer.

    Raises:
        InvalidKeyError: Not a bucket name, endpoint or region.
        PermissionDeniedError: The credentials or the profile of the environment are incomplete.
    """

    def __init__(
        self,
        bucket: str,
        *,
        endpoint_url: str | None = None,
        region: str | None = None,
        session: boto3.session.Session | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        if not _BUCKET.fullmatch(bucket):
            raise InvalidKeyError(bucket, "not a bucket name")
        _check_endpoint(endpoint_url)
        self.bucket = bucket
        self._facts = ServerFacts()
        with _configured(bucket, region):
            origin = session or boto3.session.Session()
            common = Config(
                region_name=region or origin.region_name or REGION_DEFAULT,
                connect_timeout=CONNECT_SECONDS,
                read_timeout=read_seconds,
                max_pool_connections=POOL_CONNECTIONS,
                tcp_keepalive=True,
                # Checksums of the newer kinds confuse other servers; every byte is verified by its digest anyway.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                s3={"addressing_style": _style(endpoint_url)},
            )
            self._retrying = _client(origin, endpoint_url, common, ATTEMPTS_MAX)
            self._once = _client(origin, endpoint_url, common, 1)
            _check_endpoint(self._once.meta.endpoint_url)  # which the environment or the profile may have named
            self._place = _place(self._once.meta.endpoint_url)
            self._odd = partial(_client, origin, endpoint_url, common.merge(_signing(endpoint_url)), 1)

    @property
    def endpoint(self) -> str:
        """Return the server's URL, as requests are sent to it. See `Server.endpoint`."""
        url = self._once.meta.endpoint_url
        zone = _DIRECTORY_BUCKET.search(self.bucket) if self._place == "AWS" else None
        return url.replace("//s3.", f"//s3express-{zone[1]}.") if zone else url

    @property
    def allows_one_writer(self) -> bool:
        """Say no: that is a wrapper's to allow. See `Server.allows_one_writer`."""
        return False

    @property
    def variants(self) -> frozenset[Variant]:
        """Return all of them. See `Server.variants`."""
        return frozenset(Variant)

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        """Send one put of its own kind, once. See `Server.attempt`."""
        call = Call("put", check_key(key), self.bucket)
        with self._typed(call), closing(self._odd()) as client:
            if variant is Variant.WRONG_PAYLOAD:
                client.meta.events.register_last("before-send.s3.PutObject", _alter)
            try:
                answer = client.put_object(Bucket=self.bucket, Key=key, Body=data, **_oddity(variant, data, version))
            except bce.ClientError as error:
                if isinstance(storage_error(call, _failure(error, self._place)), PermissionDeniedError):
                    raise
                return _attempt(error.response)
            return _attempt(answer)

    def adapt(self, facts: ServerFacts) -> None:
        """Send what follows as this server understands it. See `Server.adapt`."""
        self._facts = facts

    def close(self) -> None:
        """Close the connections. The store is not used afterwards."""
        self._retrying.close()
        self._once.close()

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        """Return the object's bytes, or those of `byte_range`. See `ObjectStore.get`."""
        wanted: Any = {"Range": f"bytes={byte_range.start}-{byte_range.end - 1}"} if byte_range else {}
        with self._typed(Call("get", check_key(key), self.bucket)):
            answer = self._retrying.get_object(Bucket=self.bucket, Key=key, **wanted)
            with closing(answer["Body"]) as body:
                data = body.read()
        _check_length(key, len(data), answer.get("ContentLength"))
        if byte_range:
            _check_range(key, byte_range, len(data), answer.get("ContentRange", ""))
        return StoredObject(data, _version(answer.get("ETag")))

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
        return self._put_parts(key, itertools.chain(first, rest))

    def stat(self, key: str) -> ObjectMeta:
        """Return size and version. See `ObjectStore.stat`."""
        with self._typed(Call("stat", check_key(key), self.bucket)):
            answer = self._retrying.head_object(Bucket=self.bucket, Key=key)
        return ObjectMeta(key, answer["ContentLength"], _version(answer.get("ETag")))

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        """Yield objects in key order. See `ObjectStore.list`."""
        return self._rows(check_prefix(prefix), start_after)

    def delete(self, key: str) -> None:
        """Remove the object; silent if nothing is there."""
        with self._typed(Call("delete", check_key(key), self.bucket)):
            self._retrying.delete_object(Bucket=self.bucket, Key=key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        """Remove many objects, 1,000 per request; return those that could not be removed."""
        failures: list[DeleteFailure] = []
        remaining = iter(keys)
        while batch := list(itertools.islice(remaining, LIST_PAGE_KEYS)):
            failures += [DeleteFailure(key, InvalidKeyError(key, "not a key")) for key in batch if not is_key(key)]
            failures += self._delete_batch([key for key in batch if is_key(key)])
        return tuple(failures)

    def unfinished(self, prefix: str) -> Iterator[UnfinishedWrite]:
        """Yield the multipart uploads under way. See `KeepsUnfinished.unfinished`."""
        return self._uploads(check_prefix(prefix))

    def discard(self, write: UnfinishedWrite) -> None:
        """Abort a multipart upload. See `KeepsUnfinished.discard`."""
        finished = suppress(self._retrying.exceptions.NoSuchUpload)  # or aborted, meanwhile
        with self._typed(Call("part", check_key(write.key), self.bucket)), finished:
            self._retrying.abort_multipart_upload(Bucket=self.bucket, Key=write.key, UploadId=write.id)

    def _delete_batch(self, keys: Sequence[str]) -> Iterator[DeleteFailure]:
        if not keys:
            return
        try:
            answer = self._retrying.delete_objects(
                Bucket=self.bucket, Delete={"Objects": [{"Key": key} for key in keys], "Quiet": True}
            )
        except (*_ANY_FAILURE, RuntimeError) as error:
            failure = _failure(error, self._place)
            yield from (self._delete_failure(key, failure) for key in keys)
            return
        for refused in answer.get("Errors", ()):
            if refused.get("Code") != "NoSuchKey":
                # A part of a 200 has no status of its own: what its code does not tell is the server's trouble.
                yield self._delete_failure(refused.get("Key", ""), Refused(500, refused.get("Code", "")))

    def _delete_failure(self, key: str, failure: Failure) -> DeleteFailure:
        return DeleteFailure(key, storage_error(Call("delete", key, self.bucket), failure))

    def _put_once(self, key: str, data: bytes, mode: PutMode) -> Version:
        condition: Any = {}
        if isinstance(mode, Create):
            condition = self._new(len(data))
        elif isinstance(mode, Replace):
            condition = {"IfMatch": f'"{mode.version}"' if self._facts.quoted else mode.version}
        call = Call("put", key, self.bucket, mode, tells_absent=self._facts.absent_status == 404)
        with self._typed(call):
            answer = self._once.put_object(Bucket=self.bucket, Key=key, Body=data, **condition, **self._checksum(data))
        if not answer.get("ETag"):  # stored, but under no version that could be named: the caller must read it back
            raise UnavailableError(key, "the write was acknowledged without an ETag", applied="unknown")
        return _version(answer.get("ETag"))

    def _put_parts(self, key: str, parts: Iterable[bytes]) -> Version:
        with self._typed(Call("part", key, self.bucket)):
            upload = self._retrying.create_multipart_upload(Bucket=self.bucket, Key=key)["UploadId"]
        try:
            sent = self._send_parts(key, upload, parts)
            return self._complete(key, upload, sent)
        except BaseException:
            # Also after a lost answer: an upload that was completed cannot be aborted, any other is garbage.
            with suppress(*_ANY_FAILURE):
                self._retrying.abort_multipart_upload(Bucket=self.bucket, Key=key, UploadId=upload)
            raise

    def _send_parts(self, key: str, upload: str, parts: Iterable[bytes]) -> Sequence[CompletedPartTypeDef]:
        sent: list[CompletedPartTypeDef] = []
        running: deque[Future[CompletedPartTypeDef]] = deque()
        with ThreadPoolExecutor(PARTS_IN_FLIGHT) as pool:
            for number, part in enumerate(parts, 1):
                if number > PARTS_MAX:
                    raise ValueError(f"{key}: an object takes at most {PARTS_MAX} parts of {PART_BYTES} bytes")
                if len(running) == PARTS_IN_FLIGHT:
                    sent.append(running.popleft().result())
                running.append(pool.submit(self._send_part, key, upload, number, part))
            sent.extend(future.result() for future in running)
        return sent

    def _send_part(self, key: str, upload: str, number: int, part: bytes) -> CompletedPartTypeDef:
        with self._typed(Call("part", key, self.bucket)):
            answer = self._retrying.upload_part(
                Bucket=self.bucket, Key=key, UploadId=upload, PartNumber=number, Body=part
            )
        return {"PartNumber": number, "ETag": answer["ETag"]}

    def _new(self, size_bytes: int = SINGLE_BYTES_MAX) -> Any:
        """Return the condition of a create; none to a server that knows none, where nothing rests on it (rule 3)."""
        is_needless = size_bytes > CONDITIONAL_BYTES_MAX and not self._facts.keeps_conditions
        return {} if is_needless else {"IfNoneMatch": "*"}

    def _checksum(self, data: bytes) -> Any:
        """Return what covers a body on its way (rule 6): botocore signs bodies only where nothing encrypts them."""
        is_covered = self._facts.refuses_payload and self.endpoint.startswith("http:")
        return {"ChecksumCRC32": _crc32(data)} if self._facts.refuses_crc32 and not is_covered else {}

    def _complete(self, key: str, upload: str, sent: Sequence[CompletedPartTypeDef]) -> Version:
        with self._typed(Call("put", key, self.bucket, Create())):
            answer = self._once.complete_multipart_upload(
                Bucket=self.bucket, Key=key, UploadId=upload, MultipartUpload={"Parts": sent}, **self._new()
            )
        # Some servers answer this request without an ETag.
        return _version(answer["ETag"]) if answer.get("ETag") else self.stat(key).version

    def _rows(self, prefix: str, start_after: str) -> Iterator[ListedObject]:
        place: Any = {"StartAfter": start_after} if start_after else {}
        former = start_after
        while True:
            with self._typed(Call("list", prefix, self.bucket)):
                page = self._retrying.list_objects_v2(
                    Bucket=self.bucket, Prefix=prefix, MaxKeys=LIST_PAGE_KEYS, **place
                )
            for row in page.get("Contents", ()):
                check_order(row["Key"], former)
                former = row["Key"]
                if is_key(row["Key"]):
                    yield ListedObject(row["Key"], row["Size"], row["LastModified"])
            if not page.get("IsTruncated"):
                return
            if not page.get("NextContinuationToken"):
                raise UnsupportedServerError(["a listing was cut without a token to go on from"])
            place = {"ContinuationToken": page["NextContinuationToken"]}

    def _uploads(self, prefix: str) -> Iterator[UnfinishedWrite]:
        place: Any = {}
        while True:
            with self._typed(Call("list", prefix, self.bucket)):
                page = self._retrying.list_multipart_uploads(
                    Bucket=self.bucket, Prefix=prefix, MaxUploads=LIST_PAGE_KEYS, **place
                )
            for row in page.get("Uploads", ()):
                # Some servers leave the prefix to the client.
                if row["Key"].startswith(prefix) and is_key(row["Key"]):
                    yield UnfinishedWrite(row["Key"], row["UploadId"], row["Initiated"], None)
            if not page.get("IsTruncated"):
                return
            following = {"KeyMarker": page.get("NextKeyMarker"), "UploadIdMarker": page.get("NextUploadIdMarker")}
            if not all(following.values()) or following == place:
                raise UnsupportedServerError(["a listing of uploads was cut without a place to go on from"])
            place = following

    @contextmanager
    def _typed(self, call: Call) -> Iterator[None]:
        try:
            yield
        except bce.ParamValidationError:
            raise  # our own mistake, not the store's
        except (*_ANY_FAILURE, RuntimeError) as error:
            raise storage_error(call, _failure(error, self._place)) from None  # rule 7


def _signing(endpoint_url: str | None) -> Config:
    """Return what makes bodies signed also where TLS makes it needless."""
    return Config(s3={"addressing_style": _style(endpoint_url), "payload_signing_enabled": True})


def _style(endpoint_url: str | None) -> Literal["auto", "path"]:
    return "path" if endpoint_url else "auto"


def _oddity(variant: Variant, data: bytes, version: Version) -> Any:
    """Return what makes a put a variant."""
    match variant:
        case Variant.BARE:
            return {"IfMatch": version}
        case Variant.QUOTED:
            return {"IfMatch": f'"{version}"'}
        case Variant.WRONG_CRC32:
            return {"ChecksumCRC32": _crc32(data + b"other")}
        case Variant.WRONG_PAYLOAD:
            return {}


def _alter(request: AWSPreparedRequest, **_: object) -> None:
    """Send as many other bytes than those that were signed."""
    assert isinstance(request.body, io.BytesIO), "botocore makes a stream of bytes"
    request.body = bytes(byte ^ 1 for byte in request.body.getvalue())


def _attempt(answer: Any) -> Attempt:
    told = answer.get("ResponseMetadata", {})
    code = answer.get("Error", {}).get("Code", "")
    return Attempt(told.get("HTTPStatusCode", 0), code, told.get("HTTPHeaders", {}).get("date", ""))


def _crc32(data: bytes) -> str:
    """Return a checksum as S3 writes it: big-endian, in base64."""
    return base64.b64encode(zlib.crc32(data).to_bytes(4, "big")).decode()


def _client(session: boto3.session.Session, endpoint_url: str | None, common: Config, attempts: int) -> S3Client:
    own = Config(retries={"mode": "standard", "total_max_attempts": attempts})
    client = session.client("s3", endpoint_url=endpoint_url, config=common.merge(own))
    client.meta.events.register_last("before-call.s3", _drop_expect)
    client.meta.events.register_last("before-call.s3.DeleteObjects", _add_md5)
    return client


@contextmanager
def _configured(bucket: str, region: str | None) -> Iterator[None]:
    try:
        yield
    except bce.InvalidRegionError as error:
        raise InvalidKeyError(region or "", "not a region") from error
    except _CREDENTIALS as error:
        reason = f"no usable credentials ({type(error).__name__})"
        raise PermissionDeniedError(bucket, reason, remedy=GIVE) from None  # rule 7
    except (*_SETTINGS, OSError) as error:  # OSError: a program that gives credentials is missing
        raise PermissionDeniedError(bucket, f"no usable configuration ({type(error).__name__})", remedy=MEND) from None


def _drop_expect(params: dict[str, Any], **_: object) -> None:
    """Send small bodies at once: botocore would ask first and wait for the server's "100 Continue"."""
    length = determine_content_length(params.get("body"))
    if length is not None and length <= EXPECT_BYTES_MIN:
        params["headers"].pop("Expect", None)


def _add_md5(params: dict[str, Any], **_: object) -> None:
    """Give batch deletes the checksum that servers older than botocore's CRC32 insist on."""
    checksum = hashlib.md5(params["body"], usedforsecurity=False).digest()
    params["headers"]["Content-MD5"] = base64.b64encode(checksum).decode()


def _check_endpoint(endpoint_url: str | None) -> None:
    if endpoint_url is None:
        return
    parts = urlsplit(endpoint_url)
    if "@" in endpoint_url or parts.query or parts.fragment:
        raise InvalidKeyError("endpoint_url", "holds credentials; give them by the environment or a profile")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidKeyError(endpoint_url, "not an endpoint: want http://host:port or https://host")


def _failure(error: Exception, place: str) -> Failure:
    if isinstance(error, bce.ClientError):
        status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if status == PROXY_REFUSES:
            return proxy_refusal(status, proxy_of(_url_of(place)))
        return Refused(status, error.response.get("Error", {}).get("Code", ""))
    if isinstance(error, RuntimeError):
        if _STALE not in str(error):
            raise error
        return NotConfigured("the credentials were renewed and have expired all the same", MEND)
    if isinstance(error, _CREDENTIALS):
        return NotConfigured(f"no usable credentials ({type(error).__name__})", GIVE)
    if isinstance(error, bce.SSLError):
        return tls_failure(error, place)
    if isinstance(error, bce.ProxyConnectionError):
        return proxy_failure(error, place, proxy_of(_url_of(place)))
    return NoAnswer(f"no usable answer from {place} ({told(error)})", sent=not isinstance(error, _NOT_SENT))


def _place(endpoint: str) -> str:
    return "AWS" if (urlsplit(endpoint).hostname or "").endswith(_AWS) else endpoint


def _url_of(place: str) -> str:
    return place if "://" in place else "https://s3.amazonaws.com"


def _version(etag: str | None) -> Version:
    if not etag or not etag.strip('"'):
        raise UnsupportedServerError(["answers carry no ETag"])
    return Version(etag.strip('"'))


def _check_length(key: str, size: int, announced: int | None) -> None:
    # None: a chunked answer, whose framing urllib3 has checked.
    if announced is not None and size != announced:
        raise UnavailableError(key, f"{size} of {announced} bytes came", applied="no")


def _check_range(key: str, wanted: ByteRange, size: int, content_range: str) -> None:
    match = _CONTENT_RANGE.fullmatch(content_range)
    if not match:
        raise UnsupportedServerError(["a range was answered with something else"])
    first, last, total = (int(number) for number in match.groups())
    if first != wanted.start or last + 1 != min(wanted.end, total) or size != last + 1 - first:
        raise UnavailableError(key, f"asked for {wanted.start}-{wanted.end - 1}, got {content_range}", applied="no")
