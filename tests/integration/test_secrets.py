"""Nothing that signs us in is ever shown or stored, whatever goes wrong and whoever repeats it to us."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from urllib.parse import parse_qs, urlsplit

import pytest
import trustme

from infra.servers.process import free_port
from snapshots import SnapshotRepository
from snapshots.cli import main
from storage import Create, ObjectStore
from storage.backends.cloud import azure_store
from storage.backends.s3 import S3Store
from storage.errors import StorageError
from tests.azurite import ACCOUNT, KEY
from tests.fronts import ForwardProxy, TlsFront
from tests.integration.builders import new_session, take_turn
from tests.proxy import Answer, FaultProxy

KEY_ID, SECRET, TOKEN = "AKIAEVERYBODYKNOWS01", "the/secret+key/that/everybody/knows", "the-token-that-everybody-knows"
PASSWORD = "the-password-that-everybody-knows"
SECRETS = (KEY_ID, SECRET, TOKEN, PASSWORD)


class _Echo(BaseHTTPRequestHandler):
    """A server that repeats all it was sent, and all it knows, in its answers."""

    protocol_version = "HTTP/1.1"
    status = 400
    repeated: list[str]

    def do_GET(self) -> None:
        sent = "".join(f"{name}: {value}\n" for name, value in self.headers.items())
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        text = f"{sent} {' '.join(SECRETS)}"
        self.repeated.append(text)
        body = f"<Error><Code>InvalidRequest</Code><Message>{text}</Message><Key>{text}</Key></Error>".encode()
        self.send_response(self.status, "because of " + SECRET)
        self.send_header("X-Amz-Request-Id", TOKEN)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    do_PUT = do_HEAD = do_DELETE = do_POST = do_GET  # noqa: N815  so http.server finds them

    def log_message(self, format: str, *_: object) -> None:
        pass


@contextmanager
def echo(status: int) -> Iterator[ThreadingHTTPServer]:
    repeated: list[str] = []
    handler = type("Echo", (_Echo,), {"status": status, "repeated": repeated})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()
    assert any("authorization: " in text.lower() for text in repeated), "nobody signed in"


@dataclass(frozen=True)
class World:
    """What a way to fail may use: servers, what ends with the test, the environment, a directory."""

    server: Callable[[str], str]
    until_the_end: ExitStack
    environment: pytest.MonkeyPatch
    directory: Path


def url_at(endpoint: str) -> str:
    return f"s3://bucket/agents?endpoint_url={endpoint}&region=us-east-1"


def endpoint_of(url: str) -> str:
    return parse_qs(urlsplit(url).query)["endpoint_url"][0]


def echoing(status: int) -> Callable[[World], str]:
    def way(world: World) -> str:
        server = world.until_the_end.enter_context(echo(status))
        return url_at(f"http://127.0.0.1:{server.server_address[1]}")

    return way


def unknown_key(world: World) -> str:
    return url_at(world.server("ceph"))


def expired_token(world: World) -> str:
    proxy = world.until_the_end.enter_context(FaultProxy(world.server("ministack")))
    proxy.on("*", action=Answer(400, "ExpiredToken"), times=None)
    return url_at(proxy.url)


def untrusted(world: World) -> str:
    certificate = trustme.CA().issue_cert("127.0.0.1")
    return url_at(world.until_the_end.enter_context(TlsFront(world.server("ministack"), certificate)).url)


def refusing_proxy(scheme: str) -> Callable[[World], str]:
    def way(world: World) -> str:
        proxy = world.until_the_end.enter_context(ForwardProxy("me:another"))
        world.environment.setenv(f"{scheme.upper()}_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{proxy.port}")
        return url_at(f"{scheme}://127.0.0.1:{free_port()}")

    return way


def missing_proxy(world: World) -> str:
    world.environment.setenv("HTTP_PROXY", f"http://me:{PASSWORD}@127.0.0.1:{free_port()}")
    return url_at("http://127.0.0.1:1")


def odd_proxy(world: World) -> str:
    world.environment.setenv("HTTP_PROXY", f"{PASSWORD}:{PASSWORD}/@x")
    return url_at("http://127.0.0.1:1")


def credentials_in_the_url(world: World) -> str:  # noqa: ARG001  there is nothing to set up
    return url_at(f"http://{KEY_ID}:{PASSWORD}@127.0.0.1:1")


def credentials_before_a_host(world: World) -> str:  # noqa: ARG001  there is nothing to set up
    return url_at(f"{KEY_ID}:{PASSWORD}@host:9000")


def program(script: str) -> Callable[[World], str]:
    def way(world: World) -> str:
        return with_profile(world, f"[mine]\ncredential_process = sh -c '{script}'\n")

    return way


def broken_profile(world: World) -> str:
    return with_profile(world, f"[mine]\n{SECRET}\n")


def with_profile(world: World, lines: str) -> str:
    file = world.directory / "credentials"
    file.write_text(lines)
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
        world.environment.delenv(name)
    world.environment.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    world.environment.setenv("AWS_PROFILE", "mine")
    return url_at("http://127.0.0.1:1")


WAYS = {
    "a server repeats what it was sent, 400": echoing(400),
    "403": echoing(403),
    "500": echoing(500),
    "an unknown key": unknown_key,
    "an expired token": expired_token,
    "a certificate that nobody trusts": untrusted,
    "a proxy that refuses": refusing_proxy("http"),
    "a tunnel that is refused": refusing_proxy("https"),
    "no proxy": missing_proxy,
    "a proxy that is none": odd_proxy,
    "credentials in the URL": credentials_in_the_url,
    "credentials before a host": credentials_before_a_host,
    "a program that fails": program(f"echo {SECRET} {TOKEN} >&2; exit 1"),
    "a program that prints no JSON": program(f"echo {SECRET} {TOKEN}"),
    "a broken profile": broken_profile,
}


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, s3_credentials: None) -> pytest.MonkeyPatch:  # noqa: ARG001  for its effect
    """Set secrets that can be found again, and ask each server once."""
    for name, value in (("ACCESS_KEY_ID", KEY_ID), ("SECRET_ACCESS_KEY", SECRET), ("SESSION_TOKEN", TOKEN)):
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setattr("storage.backends.s3.ATTEMPTS_MAX", 1)
    return monkeypatch


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], str]]:
    """Give what our loggers wrote, whatever the level."""
    with caplog.at_level(logging.DEBUG, "snapshots"), caplog.at_level(logging.DEBUG, "storage"):
        yield lambda: "\n".join(
            caplog.handler.format(record)
            for record in caplog.records
            if record.name.split(".")[0] in ("snapshots", "storage")
        )


@pytest.mark.parametrize("way", WAYS)
def test_no_failure_shows_a_secret(
    way: str,
    request: pytest.FixtureRequest,
    tmp_path: Path,
    known: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    logged: Callable[[], str],
) -> None:
    def server(name: str) -> str:
        return str(request.getfixturevalue(f"{name}_endpoint"))

    with ExitStack() as until_the_end:
        url = WAYS[way](World(server, until_the_end, known, tmp_path))
        told = [told_of(error) for error in failures(url)]
        assert told
        for arguments in (["ls"], ["--json", "ls"]):
            assert main(["--store", url, *arguments]) not in (0, 1)
        shown = capsys.readouterr()
        assert shown.err
    for text in (*told, shown.out, shown.err, logged()):
        assert not [secret for secret in SECRETS if secret in text], text


def test_no_failure_of_azure_shows_a_secret(azurite_endpoint: str) -> None:  # noqa: ARG001  for its credentials
    with echo(403) as server:
        endpoint = f"http://127.0.0.1:{server.server_address[1]}/{ACCOUNT}"
        store = azure_store("bucket", account=ACCOUNT, endpoint_url=endpoint)
        told = [told_of(raised(request)) for request in requests_of(store)]
    for text in told:
        assert "PermissionDeniedError" in text
        assert not [secret for secret in (*SECRETS, KEY, "SharedKey") if secret in text], text


def failures(url: str) -> Iterator[Exception]:
    """Yield what every kind of request raises, and opening a repository."""
    yield raised(lambda: SnapshotRepository.open(url).close())
    try:
        store = S3Store("bucket", endpoint_url=endpoint_of(url), region="us-east-1")
    except StorageError:
        return  # which `open` has raised already
    yield from map(raised, requests_of(store))
    store.close()


def requests_of(store: ObjectStore) -> list[Callable[[], object]]:
    return [
        lambda: store.get("a"),
        lambda: store.put("a", b"", Create()),
        lambda: store.stat("a"),
        lambda: store.delete("a"),
        lambda: list(store.list("a")),
        lambda: fail(store.delete_many(["a"])[0].error),
    ]


def raised(request: Callable[[], object]) -> Exception:
    with pytest.raises(Exception) as caught:  # noqa: PT011  whatever it is, it shows nothing
        request()
    return caught.value


def fail(error: Exception) -> None:
    raise error


def told_of(error: Exception) -> str:
    return "\n".join((str(error), repr(error), repr(vars(error)), *traceback.format_exception(error)))


def test_no_stored_object_holds_a_secret(ministack_url: str, known: pytest.MonkeyPatch) -> None:  # noqa: ARG001  for its effect
    with SnapshotRepository.open(ministack_url) as repo:
        state = new_session()
        for turn in ("one", "two"):
            repo.commit(take_turn(state, turn), execution_state=bytes(20_000))
    with closing(S3Store(urlsplit(ministack_url).netloc, endpoint_url=endpoint_of(ministack_url))) as store:
        stored = {row.key: store.get(row.key).data for row in store.list("")}
    assert any("packs/" in key for key in stored)
    for key, data in stored.items():
        assert not [secret for secret in SECRETS if secret in key or secret.encode() in data], key
