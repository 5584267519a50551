"""`CloudStore` on the wire: what it sends, what it makes of failures. A proxy stands before a real server."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from infra.servers.process import NOT_INHERITED, free_port
from storage import ByteRange, Create, Overwrite, Replace, Version
from storage.backends.cloud import PART_BYTES, RETRIES_MAX, CloudStore, azure_store, google_store
from storage.errors import (
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    UnavailableError,
    UnsupportedServerError,
)
from storage.store import PutMode
from tests.azurite import ACCOUNT, new_container_url, signed
from tests.conformance.cloud_behind import raw_get
from tests.proxy import Action, Answer, CutBody, DropAnswer, DropBefore, FaultProxy, Hold, Stall
from tests.servers import new_bucket_url

PACK = bytes(2 * PART_BYTES) + b"the end"
SOME_ETAG = Version('"0x8DC0FFEE"')
MODES: list[PutMode] = [Create(), Overwrite(), Replace(SOME_ETAG)]


@pytest.fixture
def proxy(azurite_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(azurite_endpoint) as running:
        yield running


@pytest.fixture
def container(azurite_endpoint: str) -> str:
    return urlsplit(new_container_url(azurite_endpoint)).netloc


@pytest.fixture
def raw(azurite_endpoint: str, container: str) -> Callable[[str], bytes | None]:
    direct = azure_store(container, account=ACCOUNT, endpoint_url=azurite_endpoint)
    return lambda key: raw_get(direct, key)


@pytest.fixture
def store(proxy: FaultProxy, container: str) -> CloudStore:
    return azure_store(container, account=ACCOUNT, endpoint_url=f"{proxy.url}/{ACCOUNT}", read_seconds=1.0)


def test_conditions_go_out_literally(store: CloudStore, proxy: FaultProxy) -> None:
    version = store.put("a", b"one", Create())
    store.put("a", b"two", Replace(version))
    store.put("a", b"three", Overwrite())
    create, replace, overwrite = proxy.seen("PUT")
    assert create.headers["if-none-match"] == "*"
    assert replace.headers["if-match"] == version
    assert version.startswith('"0x')
    assert not {"if-match", "if-none-match"} & overwrite.headers.keys()


@pytest.mark.parametrize("version", ["*", '"*"', "", "0" * 32, '"a", "b"'])
def test_what_would_match_anything_is_not_sent(store: CloudStore, proxy: FaultProxy, version: str) -> None:
    store.put("a", b"one", Create())
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"two", Replace(Version(version)))
    assert len(proxy.seen("PUT")) == 1


def test_a_lost_answer_is_unknown_and_the_object_is_there(
    store: CloudStore, proxy: FaultProxy, raw: Callable[[str], bytes | None]
) -> None:
    proxy.on("PUT", "/a", action=DropAnswer())
    with pytest.raises(UnavailableError) as caught:
        store.put("a", b"one", Create())
    assert caught.value.applied == "unknown"
    assert raw("a") == b"one"
    assert len(proxy.seen("PUT")) == 1


@pytest.mark.parametrize(
    "action",
    [DropBefore(), DropAnswer(), Stall(), Answer(500, "InternalError"), Answer(503, "ServerBusy"), Answer(429, "x")],
)
def test_a_put_is_sent_exactly_once(
    store: CloudStore, proxy: FaultProxy, raw: Callable[[str], bytes | None], action: Action
) -> None:
    proxy.on("PUT", action=action, times=None)
    for mode in MODES:
        with pytest.raises(UnavailableError) as caught:
            store.put("a", b"one", mode)
        assert caught.value.applied == "unknown"
    assert len(proxy.seen("PUT")) == len(MODES)
    assert raw("a") == (b"one" if action == DropAnswer() else None)


def test_a_failed_condition_costs_one_request(store: CloudStore, proxy: FaultProxy) -> None:
    store.put("a", b"one", Create())
    for mode in (Create(), Replace(SOME_ETAG)):
        with pytest.raises(PreconditionFailedError):
            store.put("a", b"two", mode)
    assert len(proxy.seen("*")) == 3


def test_a_put_applied_late_is_unknown_before(
    store: CloudStore, proxy: FaultProxy, raw: Callable[[str], bytes | None]
) -> None:
    first = store.put("a", b"one", Create())
    proxy.on("PUT", action=Hold())
    with pytest.raises(UnavailableError) as caught:
        store.put("a", b"late", Replace(first))
    assert caught.value.applied == "unknown"
    assert raw("a") == b"one"
    assert proxy.release() == [201]
    assert raw("a") == b"late"


def test_a_conflict_that_is_no_existing_blob_is_unknown(store: CloudStore, proxy: FaultProxy) -> None:
    proxy.on("PUT", action=Answer(409, "ContainerBeingDeleted"))
    with pytest.raises(UnavailableError, match="409") as caught:
        store.put("a", b"one", Create())
    assert caught.value.applied == "unknown"


def test_a_blob_under_a_lease_of_others_is_a_matter_of_permission(store: CloudStore, proxy: FaultProxy) -> None:
    proxy.on("PUT", action=Answer(412, "LeaseIdMissing"))
    with pytest.raises(PermissionDeniedError, match="LeaseIdMissing"):
        store.put("a", b"one", Replace(SOME_ETAG))


def test_a_cut_body_is_never_returned(store: CloudStore, proxy: FaultProxy) -> None:
    store.put("a", b"0123456789", Create())
    for byte_range, expected in ((None, b"0123456789"), (ByteRange(2, 6), b"234567")):
        proxy.on("GET", action=CutBody(4))
        assert store.get("a", byte_range).data == expected
    proxy.on("GET", action=CutBody(0), times=None)
    with pytest.raises(UnavailableError):
        store.get("a")


def test_a_body_that_is_resumed_is_of_one_content(
    store: CloudStore, proxy: FaultProxy, azurite_endpoint: str, container: str
) -> None:
    other = azure_store(container, account=ACCOUNT, endpoint_url=azurite_endpoint)
    for _ in range(5):
        other.put("a", b"0123456789", Overwrite())
        proxy.on("GET", action=CutBody(4))
        with ThreadPoolExecutor(1) as pool:
            found = pool.submit(store.get, "a")
            threading.Event().wait(0.03)  # of the 100 ms before it is resumed
            other.put("a", b"ABCDEFGHIJ", Overwrite())
            try:
                assert found.result().data in (b"0123456789", b"ABCDEFGHIJ")
            except UnavailableError:
                continue


def test_silence_is_not_waited_for_for_ever(proxy: FaultProxy, container: str) -> None:
    store = azure_store(container, account=ACCOUNT, endpoint_url=f"{proxy.url}/{ACCOUNT}", read_seconds=0.3)
    proxy.on("*", action=Stall(), times=None)
    for call, applied in (
        (lambda: store.get("a"), "no"),
        (lambda: store.get("a", ByteRange(0, 1)), "no"),
        (lambda: store.put("a", b"", Create()), "unknown"),
    ):
        with pytest.raises(UnavailableError, match="Timeout") as caught:
            call()
        assert caught.value.applied == applied
    assert len(proxy.seen("PUT")) == 1


def test_reads_and_deletes_are_tried_again(store: CloudStore, proxy: FaultProxy) -> None:
    store.put("a", b"one", Create())
    proxy.on("*", action=Answer(503, "ServerBusy"))
    assert store.get("a").data == b"one"
    proxy.on("HEAD", action=DropAnswer())
    assert store.stat("a").size_bytes == 3
    proxy.on("POST", "comp=batch", action=Answer(503, "ServerBusy"))
    store.delete("a")
    assert [len(proxy.seen(method)) for method in ("GET", "HEAD", "POST")] == [2, 2, 2]


def test_a_read_is_given_up_in_the_end(store: CloudStore, proxy: FaultProxy) -> None:
    proxy.on("GET", action=DropBefore(), times=None)
    with pytest.raises(UnavailableError):
        list(store.list(""))
    assert len(proxy.seen("GET")) == RETRIES_MAX + 1


@pytest.mark.parametrize(("status", "code"), [(403, "AuthorizationFailure"), (401, "InvalidAuthenticationInfo")])
def test_refusals_repeat_nothing_of_the_server(store: CloudStore, proxy: FaultProxy, status: int, code: str) -> None:
    proxy.on("*", action=Answer(status, code), times=None)
    for call in (lambda: store.get("a"), lambda: store.put("a", b"", Create()), lambda: store.delete("a")):
        with pytest.raises(PermissionDeniedError, match=code) as caught:
            call()
        assert "said by the proxy" not in str(caught.value)


def test_a_missing_container_is_named(azurite_endpoint: str) -> None:
    store = azure_store("no-such-container", account=ACCOUNT, endpoint_url=azurite_endpoint)
    calls = (
        lambda: store.get("a"),
        lambda: store.put("a", b"", Create()),
        lambda: store.put("a", b"", Replace(SOME_ETAG)),
        lambda: list(store.list("")),
    )
    for call in calls:
        with pytest.raises(NotFoundError, match="no-such-container"):
            call()


@pytest.mark.usefixtures("azurite_endpoint")
def test_an_unreachable_endpoint_got_nothing() -> None:
    endpoint = f"http://127.0.0.1:{free_port()}"
    store = azure_store("container", account=ACCOUNT, endpoint_url=endpoint)
    with pytest.raises(UnavailableError, match=endpoint) as caught:
        store.put("a", b"", Create())
    assert caught.value.applied == "no"


@pytest.mark.usefixtures("azurite_endpoint")
def test_a_missing_account_is_a_matter_of_permission(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AZURE_STORAGE_ACCOUNT_NAME")
    with pytest.raises(PermissionDeniedError, match="MissingAccount"):
        azure_store("container")


def test_a_key_that_is_none_is_a_matter_of_permission_and_not_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "secret!")
    with pytest.raises(PermissionDeniedError, match="InvalidAccessKey") as caught:
        azure_store("container", account=ACCOUNT)
    assert "secret" not in str(caught.value)


def test_a_pack_goes_out_in_parts(store: CloudStore, proxy: FaultProxy, raw: Callable[[str], bytes | None]) -> None:
    store.put("p", io.BytesIO(PACK), Create())
    parts = {part.target: len(part.body) for part in proxy.seen("PUT", "comp=block&")}  # one may be sent again
    assert sorted(parts.values()) == [7, PART_BYTES, PART_BYTES]
    assert len(proxy.seen("PUT", "comp=blocklist")) == 1
    assert raw("p") == PACK


def test_sixteen_mebibytes_are_one_request(store: CloudStore, proxy: FaultProxy) -> None:
    store.put("p", io.BytesIO(bytes(2 * PART_BYTES)), Create())
    assert len(proxy.seen("PUT")) == len(proxy.seen("*")) == 1


def test_a_failed_part_shows_nothing(store: CloudStore, proxy: FaultProxy, raw: Callable[[str], bytes | None]) -> None:
    proxy.on("PUT", "comp=block&", action=Answer(500, "InternalError"), nth=2, times=None)
    with pytest.raises(UnavailableError):
        store.put("p", PACK, Create())
    assert raw("p") is None


def test_a_part_is_sent_again(store: CloudStore, proxy: FaultProxy, raw: Callable[[str], bytes | None]) -> None:
    proxy.on("PUT", "comp=block&", action=DropAnswer(), nth=2)
    store.put("p", PACK, Create())
    assert raw("p") == PACK


def test_a_lost_completion_is_unknown(store: CloudStore, proxy: FaultProxy, raw: Callable[[str], bytes | None]) -> None:
    proxy.on("PUT", "comp=blocklist", action=DropAnswer(), times=None)
    with pytest.raises(UnavailableError) as caught:
        store.put("p", PACK, Create())
    assert caught.value.applied == "unknown"
    assert raw("p") == PACK


def test_a_pack_is_handed_on_while_it_is_read(store: CloudStore, proxy: FaultProxy) -> None:
    class Watched(io.BytesIO):
        ahead: int = 0

        def read(self, size: int | None = -1, /) -> bytes:
            sent = sum(len(part.body) for part in proxy.seen("PUT", "comp=block&"))
            self.ahead = max(self.ahead, self.tell() - sent)
            return super().read(size)

    stream = Watched(bytes(14 * PART_BYTES))
    store.put("p", stream, Create())
    assert stream.ahead <= 9 * PART_BYTES


def test_delete_failures_are_told_per_key(store: CloudStore, proxy: FaultProxy) -> None:
    store.put("a", b"", Create())
    proxy.on("POST", "comp=batch", action=Answer(403, "AuthorizationFailure"), times=2)
    failures = store.delete_many(["a", "b", "not a key"])
    assert {failure.key: type(failure.error) for failure in failures} == {
        "a": PermissionDeniedError,
        "b": PermissionDeniedError,
        "not a key": InvalidKeyError,
    }
    assert store.delete_many(["a", "b"]) == ()


def test_what_others_put_into_the_container_is_not_listed(store: CloudStore, azurite_endpoint: str) -> None:
    store.put("a/b", b"", Create())
    for foreign in ("Notes/x", "a/Ümlaut"):
        status, _ = signed(azurite_endpoint, "PUT", f"/{store.bucket}/{foreign}", body=b"x", x_ms_blob_type="BlockBlob")
        assert status == 201
    assert [row.key for row in store.list("")] == ["a/b"]


def test_a_listing_that_is_not_in_order_is_refused() -> None:
    """As of accounts with a hierarchical namespace, where "a-" comes behind "a/b"."""

    class Hierarchical:
        def list(self, *_: object, **__: object) -> Iterator[list[dict[str, Any]]]:
            rows = ("a/b", "a-/b", "b/c")
            return iter([[{"path": path, "size": 1, "last_modified": datetime.now(UTC)} for path in rows]])

    client = cast(Any, Hierarchical())
    store = CloudStore("container", once=client, retrying=client, token="e_tag", place="here")
    with pytest.raises(UnsupportedServerError, match="order"):
        list(store.list(""))


@pytest.mark.parametrize("bucket", ["", "ab", "a/b", "bücket", "x" * 256])
def test_what_is_no_name_is_refused(bucket: str) -> None:
    for opened in (google_store, azure_store):
        with pytest.raises(InvalidKeyError):
            opened(bucket)


@pytest.mark.parametrize("account", ["", "Capital", "a.b", "host/../"])
def test_what_is_no_account_is_refused(account: str) -> None:
    with pytest.raises(InvalidKeyError):
        azure_store("container", account=account)


@pytest.mark.parametrize(
    "endpoint", ["localhost:9000", "ftp://x", "http://", "http://key:secret@host", "https://host?sig=secret"]
)
def test_what_is_no_endpoint_is_refused_without_repeating_a_secret(endpoint: str) -> None:
    for opened in (google_store, azure_store):
        with pytest.raises(InvalidKeyError) as caught:
            opened("bucket", endpoint_url=endpoint)
        assert "secret" not in str(caught.value)


def test_behind_a_fork_nothing_hangs(azurite_url: str) -> None:
    program = (
        "import os, signal, sys\n"
        "from storage import Create, Overwrite\n"
        "from storage.backends import open_store\n"
        "store = open_store(sys.argv[1])\n"
        "store.put('a', b'one', Create())\n"
        "if os.fork() == 0:\n"
        "    signal.alarm(20)\n"  # what hangs ends by itself
        "    for child in (store, open_store(sys.argv[1])):\n"
        "        try:\n"
        "            child.put('a', b'two', Overwrite())\n"
        "        except RuntimeError as error:\n"
        "            print(error, flush=True)\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(store.get('a').data.decode())\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, azurite_url],
        env=os.environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert run.stdout.count("spawn") == 2
    assert run.stdout.endswith("one\n")


# Google: no server that can be had here keeps its conditions. What is sent, and what is made of answers, is seen.


@pytest.fixture
def google_proxy(ministack_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultProxy]:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "test")
    with FaultProxy(ministack_endpoint) as running:
        yield running


@pytest.fixture
def google(google_proxy: FaultProxy, ministack_endpoint: str) -> CloudStore:
    return google_store(urlsplit(new_bucket_url(ministack_endpoint)).netloc, endpoint_url=google_proxy.url)


def test_google_is_sent_generations(google: CloudStore, google_proxy: FaultProxy) -> None:
    google_proxy.on("PUT", action=Answer(412, "PreconditionFailed"), times=2)
    for mode in (Create(), Replace(Version("1763770000000001"))):
        with pytest.raises(PreconditionFailedError):
            google.put("a/b", b"one", mode)
    create, replace = google_proxy.seen("PUT")
    assert create.headers["x-goog-if-generation-match"] == "0"
    assert replace.headers["x-goog-if-generation-match"] == "1763770000000001"
    assert not {"if-match", "if-none-match"} & (create.headers.keys() | replace.headers.keys())


@pytest.mark.parametrize("version", ["0", "00", "", "-1", '"0x8DC0FFEE"', "0" * 32])
def test_google_is_never_told_to_create_by_a_replace(
    google: CloudStore, google_proxy: FaultProxy, version: str
) -> None:
    with pytest.raises(PreconditionFailedError):
        google.put("a/b", b"one", Replace(Version(version)))
    assert google_proxy.seen("PUT") == []


@pytest.mark.parametrize(
    "action",
    [DropBefore(), DropAnswer(), Answer(500, "x"), Answer(503, "x"), Answer(429, "SlowDown"), Answer(409, "x")],
)
def test_google_is_sent_a_put_once(google: CloudStore, google_proxy: FaultProxy, action: Action) -> None:
    google_proxy.on("PUT", action=action, times=None)
    for mode in (Create(), Replace(Version("17"))):
        with pytest.raises(UnavailableError) as caught:
            google.put("a/b", b"one", mode)
        assert caught.value.applied == "unknown"
    assert len(google_proxy.seen("PUT")) == 2


class _Answering(BaseHTTPRequestHandler):
    """Answers every request as Google does for one object; keeps nothing, and no condition."""

    protocol_version = "HTTP/1.1"

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self._answer(b"", {"x-goog-generation": "1763770000000001"})

    def do_GET(self) -> None:
        self._answer(b"one", {"x-goog-generation": "1763770000000002"})

    def do_HEAD(self) -> None:
        self.do_GET()

    def _answer(self, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(200)
        about = {
            "ETag": '"f97c5d29941bfb1b"',
            "Last-Modified": formatdate(usegmt=True),
            "Content-Length": str(len(body)),
        }
        for name, value in {**about, **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


def test_the_version_on_google_is_the_generation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GOOGLE_BEARER_TOKEN", "test")
    for name in NOT_INHERITED:
        monkeypatch.delenv(name, raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), _Answering) as server, ThreadPoolExecutor(1) as pool:
        pool.submit(server.serve_forever, 0.01)
        try:
            with FaultProxy(f"http://127.0.0.1:{server.server_port}") as proxy:
                google = google_store("bucket", endpoint_url=proxy.url)
                created = google.put("a", b"one", Create())
                found = google.get("a")
                google.put("a", b"two", Replace(found.version))
                assert created == "1763770000000001"
                assert (found.data, found.version) == (b"one", "1763770000000002")
                assert google.stat("a").version == found.version
                assert proxy.seen("PUT")[-1].headers["x-goog-if-generation-match"] == found.version
        finally:
            server.shutdown()


def test_a_server_that_names_no_generation_is_found_out(google: CloudStore) -> None:
    with pytest.raises(UnavailableError, match="without a version") as caught:
        google.put("a/b", b"one", Create())
    assert caught.value.applied == "unknown"
    for read in (google.get, google.stat):
        with pytest.raises(UnsupportedServerError, match="no version"):
            read("a/b")


def test_google_lists_and_deletes(google: CloudStore, google_proxy: FaultProxy) -> None:
    for key in ("a/b/c", "a/bc", "a/c", "b"):
        with pytest.raises(UnavailableError):
            google.put(key, b"one", Create())
    assert [row.key for row in google.list("a/b")] == ["a/b/c", "a/bc"]
    assert [row.key for row in google.list("a/", start_after="a/b/c")] == ["a/bc", "a/c"]
    assert google.delete_many(["a/b/c", "a/bc", "a/c", "a/missing"]) == ()
    assert [row.key for row in google.list("")] == ["b"]
    google_proxy.on("DELETE", action=Answer(404, "NoSuchKey"))
    google.delete("a/b")
    google_proxy.on("DELETE", action=Answer(404, "NoSuchBucket"))
    with pytest.raises(NotFoundError, match=google.bucket):
        google.delete("a/b")


@pytest.mark.parametrize(
    ("name", "value", "endpoint"),
    [
        ("AZURE_STORAGE_ENDPOINT", "http://127.0.0.1:9/mine", "http://127.0.0.1:9/mine"),
        ("AZURE_ENDPOINT", "http://127.0.0.1:9/mine", "http://127.0.0.1:9/mine"),
        ("AZURE_STORAGE_USE_EMULATOR", "true", "http://127.0.0.1:10000"),
        ("AZURE_STORAGE_ACCOUNT_NAME", "mine", "https://mine.blob.core.windows.net"),
    ],
)
def test_a_container_is_on_the_server_that_the_environment_names(
    name: str, value: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "other")
    monkeypatch.setenv(name, value)
    assert azure_store("container").endpoint == endpoint


def test_each_account_of_azure_is_a_server_of_its_own() -> None:
    assert azure_store("container", account="first").endpoint != azure_store("container", account="second").endpoint


@pytest.mark.parametrize("endpoint", ["https://mine:secret@host", "https://host?sig=secret"])
def test_an_endpoint_of_the_environment_with_a_secret_is_refused(
    endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_STORAGE_ENDPOINT", endpoint)
    monkeypatch.setenv("GOOGLE_BASE_URL", endpoint)
    with pytest.raises(InvalidKeyError) as azure:
        azure_store("container", account="mine")
    with pytest.raises(InvalidKeyError) as google:
        google_store("bucket")
    assert "secret" not in f"{azure.value} {google.value}"
