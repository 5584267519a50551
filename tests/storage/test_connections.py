"""How the way to a server is made safe: TLS, credentials that are renewed, proxies; and what is said when it fails."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import trustme

from infra.servers.process import CREDENTIALS, free_port
from storage import Create, Overwrite
from storage.backends import open_store
from storage.backends.s3 import S3Store
from storage.errors import PermissionDeniedError, UnavailableError
from tests.fronts import ForwardProxy, TlsFront
from tests.proxy import Action, Answer, FaultProxy, Seen
from tests.servers import new_bucket_url

LONG_AGO = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
AUTHORITY = trustme.CA()


@pytest.fixture
def bucket(ministack_endpoint: str) -> str:
    return urlsplit(new_bucket_url(ministack_endpoint)).netloc


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    file = tmp_path / "authority.pem"
    AUTHORITY.cert_pem.write_to_path(str(file))
    return file


@contextmanager
def opened(bucket: str, endpoint: str) -> Iterator[S3Store]:
    store = S3Store(bucket, endpoint_url=endpoint, region="us-east-1")
    try:
        yield store
    finally:
        store.close()


def denied(bucket: str, endpoint: str) -> PermissionDeniedError:
    with pytest.raises(PermissionDeniedError) as caught, opened(bucket, endpoint) as store:
        store.put("a", b"one", Create())
    return caught.value


# TLS


@pytest.mark.parametrize("where", ["environment", "profile"])
def test_the_authority_that_is_named_is_trusted(
    ministack_endpoint: str, bucket: str, authority: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    if where == "environment":
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    else:
        config = authority.with_name("config")
        config.write_text(f"[profile mine]\nca_bundle = {authority}\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_PROFILE", "mine")
    with (
        TlsFront(ministack_endpoint, AUTHORITY.issue_cert("127.0.0.1")) as front,
        opened(bucket, front.url) as store,
    ):
        store.put("a", b"one", Create())
        assert store.get("a").data == b"one"


@pytest.mark.parametrize(
    ("host", "until", "is_named", "reason", "remedy"),
    [
        ("127.0.0.1", None, False, "not trusted", "AWS_CA_BUNDLE"),
        ("127.0.0.1", LONG_AGO, True, "expired", "renew the server's certificate"),
        ("other.example", None, True, "another host's", "name that the certificate is for"),
    ],
)
def test_a_certificate_that_cannot_be_trusted_is_a_matter_of_configuration(
    ministack_endpoint: str,
    bucket: str,
    authority: Path,
    monkeypatch: pytest.MonkeyPatch,
    host: str,
    until: datetime.datetime | None,
    is_named: bool,
    reason: str,
    remedy: str,
) -> None:
    if is_named:
        monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with TlsFront(ministack_endpoint, AUTHORITY.issue_cert(host, not_after=until)) as front:
        error = denied(bucket, front.url)
        assert front.url in error.reason
    assert "certificate" in error.reason
    assert reason in error.reason
    assert remedy in error.remedy


@pytest.mark.parametrize(("content", "reason"), [(None, "No such file"), (b"nonsense", "NO_CERTIFICATE")])
def test_an_authority_that_cannot_be_read_is_said(
    ministack_endpoint: str,
    bucket: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    content: bytes | None,
    reason: str,
) -> None:
    file = tmp_path / "bundle.pem"
    if content is not None:
        file.write_bytes(content)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(file))
    with TlsFront(ministack_endpoint, AUTHORITY.issue_cert("127.0.0.1")) as front:
        error = denied(bucket, front.url)
    assert reason in error.reason
    assert "AWS_CA_BUNDLE" in error.remedy


def test_a_server_without_tls_is_not_said_to_be_untrusted(ministack_endpoint: str, bucket: str) -> None:
    with (
        opened(bucket, ministack_endpoint.replace("http:", "https:")) as store,
        pytest.raises(
            UnavailableError, match=r"SSLError: WRONG_VERSION_NUMBER: is it a server of http://, without TLS\?"
        ),
    ):
        store.put("a", b"one", Create())


# Credentials


class TokenCheck(FaultProxy):
    """A proxy that lets only requests with one of the `valid` session tokens through."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self.valid: set[str] = set()

    def _choose(self, request: Seen) -> Action | None:
        is_valid = request.headers.get("x-amz-security-token") in self.valid
        return super()._choose(request) if is_valid else Answer(400, "ExpiredToken")


@dataclass(frozen=True)
class Issuer:
    """A program for `credential_process`: what it prints is in a file."""

    file: Path

    def issues(self, token: str, seconds: float) -> None:
        until = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
        issued = {
            "Version": 1,
            "AccessKeyId": CREDENTIALS["AWS_ACCESS_KEY_ID"],
            "SecretAccessKey": CREDENTIALS["AWS_SECRET_ACCESS_KEY"],
            "SessionToken": token,
            "Expiration": until.isoformat(),
        }
        self.file.write_text(json.dumps(issued))


@pytest.fixture
def profile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give the file of credentials of the profile that is used; there are none in the environment."""
    file = tmp_path / "credentials"
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
    monkeypatch.setenv("AWS_PROFILE", "mine")
    return file


@pytest.fixture
def issuer(profile: Path) -> Issuer:
    file = profile.with_name("issued.json")
    profile.write_text(f"[mine]\ncredential_process = cat {file}\n")
    return Issuer(file)


def test_a_token_is_renewed_while_the_store_is_open(ministack_endpoint: str, bucket: str, issuer: Issuer) -> None:
    issuer.issues("first", 60)  # so near its end that it is renewed at each request
    with TokenCheck(ministack_endpoint) as check, opened(bucket, check.url) as store:
        check.valid = {"first"}
        store.put("a", b"one", Create())
        issuer.issues("second", 3600)
        check.valid = {"second"}
        store.put("a", b"two", Overwrite())
        assert store.get("a").data == b"two"
        tokens = [request.headers["x-amz-security-token"] for request in check.requests]
    assert tokens == ["first", "second", "second"]


def test_credentials_that_come_expired_are_said(ministack_endpoint: str, bucket: str, issuer: Issuer) -> None:
    issuer.issues("late", -60)
    assert "expired all the same" in denied(bucket, ministack_endpoint).reason
    with opened(bucket, ministack_endpoint) as store:
        (failed,) = store.delete_many(["a"])
    assert isinstance(failed.error, PermissionDeniedError)


@pytest.mark.parametrize("verb", ["get", "put", "stat"])
def test_a_token_that_nobody_can_renew_is_said(
    ministack_endpoint: str, bucket: str, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    monkeypatch.setenv("AWS_SESSION_TOKEN", "of yesterday")
    with TokenCheck(ministack_endpoint) as check, opened(bucket, check.url) as store:
        calls: dict[str, Callable[[str], object]] = {
            "get": store.get,
            "put": lambda key: store.put(key, b"", Create()),
            "stat": store.stat,
        }
        with pytest.raises(PermissionDeniedError, match="renew the session token") as caught:
            calls[verb]("a")
    if verb != "stat":  # no answer to HEAD says why
        assert "session token has expired" in caught.value.reason
        assert len(check.requests) == 1


def test_a_profile_gives_credentials_and_a_wrong_secret_is_denied(ceph_url: str, profile: Path) -> None:
    url = urlsplit(ceph_url)
    endpoint = url.query.partition("endpoint_url=")[2].partition("&")[0]
    lines = "[mine]\naws_access_key_id = {}\naws_secret_access_key = {}\n"
    profile.write_text(lines.format(CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"]))
    with opened(url.netloc, endpoint) as store:
        store.put("a", b"one", Create())
    profile.write_text(lines.format(CREDENTIALS["AWS_ACCESS_KEY_ID"], "wrong"))
    assert "SignatureDoesNotMatch" in denied(url.netloc, endpoint).reason


@pytest.mark.parametrize(
    ("lines", "reason"),
    [
        ("[mine]\ncredential_process = /no/such/program\n", "FileNotFoundError"),
        ("[mine]\ncredential_process = echo no json\n", "JSONDecodeError"),
        ("[mine]\ncredential_process = sh -c 'echo secret-words >&2; exit 1'\n", "CredentialRetrievalError"),
        ("[other]\n", "ProfileNotFound"),
        ("no file of credentials: secret-words\n", "ConfigParseError"),
    ],
)
def test_a_profile_that_cannot_be_used_is_said(bucket: str, profile: Path, lines: str, reason: str) -> None:
    profile.write_text(lines)
    error = denied(bucket, "http://127.0.0.1:1")
    assert reason in error.reason


# Proxies


@pytest.fixture
def forward(monkeypatch: pytest.MonkeyPatch) -> Iterator[ForwardProxy]:
    with ForwardProxy("me:right") as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        monkeypatch.setenv("HTTPS_PROXY", proxy.url)
        yield proxy


def test_requests_go_by_the_proxy(ministack_endpoint: str, bucket: str, forward: ForwardProxy) -> None:
    with opened(bucket, ministack_endpoint) as store:
        store.put("a", b"one", Create())
        assert store.get("a").data == b"one"
    assert forward.asked == [f"PUT {ministack_endpoint}/{bucket}/a", f"GET {ministack_endpoint}/{bucket}/a"]


def test_tls_goes_through_a_tunnel(
    ministack_endpoint: str, bucket: str, authority: Path, forward: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority))
    with (
        TlsFront(ministack_endpoint, AUTHORITY.issue_cert("127.0.0.1")) as front,
        opened(bucket, front.url) as store,
    ):
        store.put("a", b"one", Create())
    assert forward.asked == [f"CONNECT {front.url.removeprefix('https://')}"]


def test_a_host_without_a_proxy_is_asked_itself(
    ministack_endpoint: str, bucket: str, forward: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with opened(bucket, ministack_endpoint) as store:
        store.put("a", b"one", Create())
    assert forward.asked == []


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_refuses_is_named_without_its_password(
    bucket: str, forward: ForwardProxy, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    for name in ("HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, f"http://me:wr0ng@127.0.0.1:{forward.port}")
    error = denied(bucket, f"{scheme}://127.0.0.1:{free_port()}")
    assert f"the proxy 127.0.0.1:{forward.port} refused us (407)" in error.reason
    assert "HTTPS_PROXY" in error.remedy
    assert "wr0ng" not in str(error)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_proxy_that_is_not_there_is_named_without_its_password(
    bucket: str, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    nobody = free_port()
    monkeypatch.setenv(f"{scheme.upper()}_PROXY", f"http://me:wr0ng@127.0.0.1:{nobody}")
    with opened(bucket, f"{scheme}://127.0.0.1:1") as store, pytest.raises(UnavailableError) as caught:
        store.put("a", b"one", Create())
    assert caught.value.applied == "no"
    assert f"the proxy 127.0.0.1:{nobody} before" in caught.value.reason
    assert "Connection refused" in caught.value.reason
    assert "wr0ng" not in str(caught.value)


# Azure, whose client is another one


def put_on_azure(url: str) -> None:
    open_store(url).put("a", b"one", Create())


def test_azure_trusts_the_authority_that_is_named_and_no_other(
    azurite_endpoint: str, azurite_url: str, authority: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = azurite_endpoint.rpartition("/")[0]
    with TlsFront(server, AUTHORITY.issue_cert("127.0.0.1")) as front:
        url = azurite_url.replace(server, front.url)
        with pytest.raises(PermissionDeniedError, match=r"not trusted \(UnknownIssuer\)") as caught:
            put_on_azure(url)
        assert "SSL_CERT_FILE" in caught.value.remedy
        monkeypatch.setenv("SSL_CERT_FILE", str(authority))
        put_on_azure(url)


def test_azure_is_reached_by_the_proxy(
    azurite_url: str, forward: ForwardProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_on_azure(azurite_url)
    assert len(forward.asked) == 1
    monkeypatch.setenv("HTTP_PROXY", f"http://me:wr0ng@127.0.0.1:{forward.port}")
    with pytest.raises(PermissionDeniedError, match=r"refused us \(407\)") as caught:
        put_on_azure(azurite_url)
    assert f"the proxy 127.0.0.1:{forward.port}" in caught.value.reason
    nobody = free_port()
    monkeypatch.setenv("HTTP_PROXY", f"http://me:wr0ng@127.0.0.1:{nobody}")
    with pytest.raises(UnavailableError, match=rf"by the proxy 127\.0\.0\.1:{nobody} \(Connect\)"):
        put_on_azure(azurite_url)
