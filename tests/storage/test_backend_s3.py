"""`S3Store` on the wire: what it sends, what it makes of failures. A proxy stands before a real server."""

from __future__ import annotations

import base64
import hashlib
import io
import zlib
from collections.abc import Callable, Iterator
from urllib.parse import urlsplit

import boto3
import pytest

from infra.servers.process import free_port
from storage import ByteRange, Create, Overwrite, Replace, Version
from storage.backends.s3 import ATTEMPTS_MAX, EXPECT_BYTES_MIN, PART_BYTES, S3Store
from storage.errors import (
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    UnavailableError,
    UnsupportedServerError,
)
from storage.server import ServerFacts, Variant
from storage.store import CONDITIONAL_BYTES_MAX
from tests.conformance.s3_behind import raw_get, shared_session
from tests.proxy import Answer, CutBody, DropAnswer, DropBefore, FaultProxy, Hold, Stall
from tests.servers import new_bucket_url

PACK = bytes(2 * PART_BYTES) + b"the end"


@pytest.fixture
def proxy(ministack_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(ministack_endpoint) as running:
        yield running


@pytest.fixture
def bucket(ministack_endpoint: str) -> str:
    return urlsplit(new_bucket_url(ministack_endpoint)).netloc


@pytest.fixture
def raw(ministack_endpoint: str, bucket: str) -> Iterator[Callable[[str], bytes | None]]:
    direct = S3Store(bucket, endpoint_url=ministack_endpoint, session=shared_session())
    yield lambda key: raw_get(direct, key)
    direct.close()


@pytest.fixture
def store(proxy: FaultProxy, bucket: str) -> Iterator[S3Store]:
    opened = S3Store(bucket, endpoint_url=proxy.url, session=shared_session(), read_seconds=2.0)
    yield opened
    opened.close()


def uploads(store: S3Store) -> int:
    return len(store._retrying.list_multipart_uploads(Bucket=store.bucket).get("Uploads", ()))


def test_conditions_go_out_literally(store: S3Store, proxy: FaultProxy) -> None:
    version = store.put("a", b"one", Create())
    store.put("a", b"two", Replace(version))
    store.put("a", b"three", Overwrite())
    create, replace, overwrite = proxy.seen("PUT")
    assert create.headers["if-none-match"] == "*"
    assert replace.headers["if-match"] == version == hashlib.md5(b"one").hexdigest()
    assert not {"if-match", "if-none-match"} & overwrite.headers.keys()


def test_a_server_that_wants_quotes_gets_them(store: S3Store, proxy: FaultProxy) -> None:
    version = store.put("a", b"one", Create())
    store.adapt(ServerFacts(quoted=True))
    store.put("a", b"two", Replace(version))
    assert proxy.seen("PUT")[-1].headers["if-match"] == f'"{version}"'


@pytest.mark.parametrize(
    ("facts", "is_sent"),
    [
        (ServerFacts(), False),
        (ServerFacts(refuses_crc32=True), True),
        (ServerFacts(refuses_crc32=True, refuses_payload=True), False),  # over http the body is signed
    ],
)
def test_a_checksum_goes_out_where_it_is_checked_and_nothing_else_covers_the_body(
    store: S3Store, proxy: FaultProxy, facts: ServerFacts, is_sent: bool
) -> None:
    store.adapt(facts)
    store.put("a", b"one", Create())
    found = proxy.seen("PUT")[-1].headers.get("x-amz-checksum-crc32")
    assert found == (base64.b64encode(zlib.crc32(b"one").to_bytes(4, "big")).decode() if is_sent else None)


def test_a_server_that_tells_absence_apart_is_believed(store: S3Store) -> None:
    store.put("a", b"one", Create())
    with pytest.raises(PreconditionFailedError, match="changed or is gone"):
        store.put("a", b"two", Replace(Version("0" * 32)))
    store.adapt(ServerFacts(absent_status=404))
    with pytest.raises(PreconditionFailedError, match="412 PreconditionFailed: the object changed;"):
        store.put("a", b"two", Replace(Version("0" * 32)))
    with pytest.raises(PreconditionFailedError, match="nothing is stored here"):
        store.put("b", b"two", Replace(Version("0" * 32)))


@pytest.mark.parametrize(
    ("variant", "header", "value"),
    [
        (Variant.BARE, "if-match", "v"),
        (Variant.QUOTED, "if-match", '"v"'),
        (Variant.WRONG_CRC32, "x-amz-checksum-crc32", None),
        (Variant.WRONG_PAYLOAD, "x-amz-content-sha256", hashlib.sha256(b"one").hexdigest()),
    ],
)
def test_a_variant_is_sent_once_as_it_is_meant_and_nothing_else_changes(
    store: S3Store, proxy: FaultProxy, variant: Variant, header: str, value: str | None
) -> None:
    store.attempt("a", b"one", variant, Version("v"))
    (put,) = proxy.seen("PUT")
    assert value in (put.headers[header], None)
    assert (put.body == b"one") == (variant is not Variant.WRONG_PAYLOAD)
    store.put("b", b"one", Create())
    assert proxy.seen("PUT")[-1].body == b"one"


def test_a_variant_that_is_denied_or_unanswered_is_no_answer(store: S3Store, proxy: FaultProxy) -> None:
    proxy.on("PUT", "/a", action=Answer(403, "AccessDenied"))
    with pytest.raises(PermissionDeniedError):
        store.attempt("a", b"one", Variant.BARE, Version("v"))
    proxy.on("PUT", "/b", action=DropAnswer())
    with pytest.raises(UnavailableError):
        store.attempt("b", b"one", Variant.BARE, Version("v"))


@pytest.mark.parametrize(
    ("size", "asked_first"), [(0, False), (1, False), (EXPECT_BYTES_MIN, False), (EXPECT_BYTES_MIN + 1, True)]
)
def test_small_bodies_are_sent_without_asking(store: S3Store, proxy: FaultProxy, size: int, asked_first: bool) -> None:
    store.put("a", bytes(size), Create())
    (put,) = proxy.seen("PUT")
    assert ("expect" in put.headers) == asked_first
    assert len(put.body) == size


def test_requests_carry_no_checksum_of_the_newer_kinds(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", b"one", Create())
    store.get("a")
    names = {name for request in proxy.seen("*") for name in request.headers}
    assert not [name for name in names if "checksum" in name or "trailer" in name]


def test_batch_deletes_carry_an_md5(store: S3Store, proxy: FaultProxy) -> None:
    store.delete_many(["a", "b"])
    (post,) = proxy.seen("POST", "?delete")
    assert post.headers["content-md5"] == base64.b64encode(hashlib.md5(post.body).digest()).decode()


def test_a_lost_answer_is_unknown_and_the_object_is_there(
    store: S3Store, proxy: FaultProxy, raw: Callable[[str], bytes | None]
) -> None:
    proxy.on("PUT", "/a", action=DropAnswer())
    with pytest.raises(UnavailableError) as caught:
        store.put("a", b"one", Create())
    assert caught.value.applied == "unknown"
    assert raw("a") == b"one"
    assert len(proxy.seen("PUT")) == 1


@pytest.mark.parametrize("action", [DropBefore(), Answer(500, "InternalError"), Answer(503, "SlowDown")])
def test_a_put_is_sent_exactly_once(
    store: S3Store, proxy: FaultProxy, raw: Callable[[str], bytes | None], action: DropBefore | Answer
) -> None:
    proxy.on("PUT", action=action, times=None)
    for mode in (Create(), Overwrite(), Replace(Version("0" * 32))):
        with pytest.raises(UnavailableError) as caught:
            store.put("a", b"one", mode)
        assert caught.value.applied == "unknown"
    assert len(proxy.seen("PUT")) == 3
    assert raw("a") is None


def test_a_failed_condition_costs_one_request(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", b"one", Create())
    for mode in (Create(), Replace(Version("0" * 32))):
        with pytest.raises(PreconditionFailedError):
            store.put("a", b"two", mode)
    assert len(proxy.seen("PUT")) == 3


def test_a_put_applied_late_is_unknown_before(
    store: S3Store, proxy: FaultProxy, raw: Callable[[str], bytes | None]
) -> None:
    first = store.put("a", b"one", Create())
    proxy.on("PUT", action=Hold())
    with pytest.raises(UnavailableError) as caught:
        store.put("a", b"late", Replace(first))
    assert caught.value.applied == "unknown"
    assert raw("a") == b"one"
    assert proxy.release() == [200]
    assert raw("a") == b"late"


def test_a_conflict_answer_is_unknown(store: S3Store, proxy: FaultProxy) -> None:
    proxy.on("PUT", action=Answer(409, "ConditionalRequestConflict"))
    with pytest.raises(UnavailableError, match="409") as caught:
        store.put("a", b"one", Create())
    assert caught.value.applied == "unknown"


def test_a_cut_body_is_never_returned(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", b"0123456789", Create())
    proxy.on("GET", action=CutBody(4), times=2)
    for byte_range in (None, ByteRange(2, 6)):
        with pytest.raises(UnavailableError):
            store.get("a", byte_range)
    assert store.get("a").data == b"0123456789"


def test_silence_is_not_waited_for_for_ever(proxy: FaultProxy, bucket: str) -> None:
    store = S3Store(bucket, endpoint_url=proxy.url, session=shared_session(), read_seconds=0.3)
    proxy.on("*", action=Stall(), times=None)
    for call, applied in ((lambda: store.get("a"), "no"), (lambda: store.put("a", b"", Create()), "unknown")):
        with pytest.raises(UnavailableError, match="ReadTimeoutError") as caught:
            call()
        assert caught.value.applied == applied
    assert len(proxy.seen("PUT")) == 1
    store.close()


def test_reads_and_deletes_are_tried_again(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", b"one", Create())
    proxy.on("*", action=Answer(503, "SlowDown"))
    assert store.get("a").data == b"one"
    proxy.on("HEAD", action=DropAnswer())
    assert store.stat("a").size_bytes == 3
    proxy.on("DELETE", action=DropAnswer())
    store.delete("a")
    assert [len(proxy.seen(method)) for method in ("GET", "HEAD", "DELETE")] == [2, 2, 2]


def test_a_read_is_given_up_in_the_end(store: S3Store, proxy: FaultProxy) -> None:
    proxy.on("GET", action=DropBefore(), times=None)
    with pytest.raises(UnavailableError):
        list(store.list(""))
    assert len(proxy.seen("GET")) == ATTEMPTS_MAX


@pytest.mark.parametrize(
    ("status", "code"), [(403, "AccessDenied"), (403, "SignatureDoesNotMatch"), (400, "ExpiredToken"), (401, "x")]
)
def test_refusals_name_no_secret(store: S3Store, proxy: FaultProxy, status: int, code: str) -> None:
    proxy.on("*", action=Answer(status, code), times=None)
    for call in (lambda: store.get("a"), lambda: store.put("a", b"", Create()), lambda: store.delete("a")):
        with pytest.raises(PermissionDeniedError, match=code) as caught:
            call()
        assert "said by the proxy" not in str(caught.value)


def test_a_missing_bucket_is_named(ministack_endpoint: str) -> None:
    store = S3Store("no-such-bucket", endpoint_url=ministack_endpoint, session=shared_session())
    calls = (lambda: store.get("a"), lambda: store.put("a", b"", Create()), lambda: list(store.list("")))
    for call in calls:
        with pytest.raises(NotFoundError, match="no-such-bucket"):
            call()
    store.close()


@pytest.mark.usefixtures("s3_credentials")
def test_an_unreachable_endpoint_got_nothing() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = S3Store("bucket", endpoint_url=endpoint, session=shared_session())
    with pytest.raises(UnavailableError, match=endpoint) as caught:
        store.put("a", b"", Create())
    assert caught.value.applied == "no"
    store.close()


def test_missing_credentials_are_a_matter_of_permission(
    ministack_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    store = S3Store("bucket", endpoint_url=ministack_endpoint, session=boto3.session.Session())
    with pytest.raises(PermissionDeniedError, match=r"NoCredentialsError\); give them whole: AWS_ACCESS_KEY_ID and"):
        store.get("a")
    store.close()


def test_half_of_the_credentials_are_a_matter_of_permission(
    ministack_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PermissionDeniedError, match="PartialCredentialsError"):
        S3Store("bucket", endpoint_url=ministack_endpoint, session=boto3.session.Session())


def test_a_pack_goes_out_in_parts(store: S3Store, proxy: FaultProxy, raw: Callable[[str], bytes | None]) -> None:
    store.put("p", io.BytesIO(PACK), Create())
    assert sorted(len(part.body) for part in proxy.seen("PUT", "partNumber")) == [7, PART_BYTES, PART_BYTES]
    (complete,) = proxy.seen("POST", "?uploadId=")
    assert complete.headers["if-none-match"] == "*"
    assert raw("p") == PACK
    assert uploads(store) == 0


def test_sixteen_mebibytes_are_one_request(store: S3Store, proxy: FaultProxy) -> None:
    store.put("p", io.BytesIO(bytes(2 * PART_BYTES)), Create())
    assert len(proxy.seen("PUT")) == len(proxy.seen("*")) == 1


def test_a_failed_part_aborts_and_nothing_landed(
    store: S3Store, proxy: FaultProxy, raw: Callable[[str], bytes | None]
) -> None:
    proxy.on("PUT", "partNumber=2", action=Answer(500, "InternalError"), times=None)
    with pytest.raises(UnavailableError) as caught:
        store.put("p", PACK, Create())
    assert caught.value.applied == "no"
    assert raw("p") is None
    assert uploads(store) == 0


def test_a_part_is_sent_again(store: S3Store, proxy: FaultProxy, raw: Callable[[str], bytes | None]) -> None:
    proxy.on("PUT", "partNumber=3", action=DropAnswer())
    store.put("p", PACK, Create())
    assert raw("p") == PACK


def test_a_lost_completion_is_unknown_and_sent_once(
    store: S3Store, proxy: FaultProxy, raw: Callable[[str], bytes | None]
) -> None:
    proxy.on("POST", "?uploadId=", action=DropAnswer(), times=None)
    with pytest.raises(UnavailableError) as caught:
        store.put("p", PACK, Create())
    assert caught.value.applied == "unknown"
    assert raw("p") == PACK
    assert len(proxy.seen("POST", "?uploadId=")) == 1


def test_a_stream_that_breaks_leaves_no_upload_behind(store: S3Store, proxy: FaultProxy) -> None:
    class Breaking(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if self.tell() >= 4 * PART_BYTES:
                raise RuntimeError("the source broke")
            return super().read(size)

    with pytest.raises(RuntimeError, match="the source broke"):
        store.put("p", Breaking(bytes(5 * PART_BYTES)), Create())
    assert len(proxy.seen("PUT", "partNumber")) == 4
    assert uploads(store) == 0


def test_delete_failures_are_told_per_key(store: S3Store, proxy: FaultProxy) -> None:
    store.put("a", b"", Create())
    proxy.on("POST", "?delete", action=Answer(403, "AccessDenied"))
    failures = store.delete_many(["a", "b", "not a key"])
    assert sorted(failure.key for failure in failures) == ["a", "b", "not a key"]
    assert [type(failure.error) for failure in sorted(failures, key=lambda one: one.key)] == [
        PermissionDeniedError,
        PermissionDeniedError,
        InvalidKeyError,
    ]
    assert store.delete_many(["a", "b"]) == ()


def test_what_others_put_into_the_bucket_is_not_listed(store: S3Store) -> None:
    store.put("a/b", b"", Create())
    for foreign in ("a/", "Notes/x", "a/Ümlaut"):
        store._once.put_object(Bucket=store.bucket, Key=foreign, Body=b"")
    assert [row.key for row in store.list("")] == ["a/b"]


def test_a_server_without_conditions_is_named_as_such(store: S3Store, proxy: FaultProxy) -> None:
    proxy.on("PUT", action=Answer(501, "NotImplemented"))
    with pytest.raises(UnsupportedServerError, match="501"):
        store.put("a", b"", Create())


@pytest.mark.usefixtures("s3_credentials")
def test_an_unknown_profile_is_a_matter_of_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    with pytest.raises(PermissionDeniedError, match="ProfileNotFound"):
        S3Store("bucket")


@pytest.mark.usefixtures("s3_credentials")
def test_what_is_no_region_is_refused() -> None:
    with pytest.raises(InvalidKeyError, match="region"):
        S3Store("bucket", region="not a region")


@pytest.mark.parametrize("bucket", ["", "ab", "a/b", "bücket", "x" * 256])
def test_what_is_no_bucket_is_refused(bucket: str) -> None:
    with pytest.raises(InvalidKeyError):
        S3Store(bucket)


@pytest.mark.parametrize("endpoint", ["localhost:9000", "ftp://x", "http://", "http://key:secret@host"])
def test_what_is_no_endpoint_is_refused_without_repeating_a_secret(endpoint: str) -> None:
    with pytest.raises(InvalidKeyError) as caught:
        S3Store("bucket", endpoint_url=endpoint)
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("s3_credentials")
@pytest.mark.parametrize("endpoint", ["http://key:secret@127.0.0.1:9", "http://127.0.0.1:9?token=secret"])
def test_nor_is_one_of_the_environment_taken_that_holds_a_secret(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    with pytest.raises(InvalidKeyError, match="endpoint_url") as caught:
        S3Store("bucket")
    assert "secret" not in str(caught.value)


@pytest.mark.usefixtures("s3_credentials")
def test_an_endpoint_of_the_environment_is_named_in_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    store = S3Store("bucket")
    assert store.endpoint == endpoint
    with pytest.raises(UnavailableError, match=endpoint):
        store.put("a", b"", Create())


@pytest.mark.usefixtures("s3_credentials")
def test_a_directory_bucket_is_on_a_server_of_its_own() -> None:
    plain, express = S3Store("bucket"), S3Store("bucket--use1-az4--x-s3")
    assert plain.endpoint == "https://s3.us-east-1.amazonaws.com"
    assert express.endpoint == "https://s3express-use1-az4.us-east-1.amazonaws.com"


@pytest.mark.parametrize("size", [CONDITIONAL_BYTES_MAX + 1, len(PACK)])
def test_a_server_that_keeps_no_conditions_is_sent_none_with_a_large_pack(
    store: S3Store, proxy: FaultProxy, size: int
) -> None:
    store.adapt(ServerFacts(keeps_conditions=False))
    store.put("p", bytes(size), Create())
    assert not [one for one in proxy.requests if "if-none-match" in one.headers]
    store.put("a", b"small", Create())
    assert proxy.requests[-1].headers["if-none-match"] == "*"
