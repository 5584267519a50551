"""Places that are no store: a missing bucket, wrong credentials, an endpoint that does not answer."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator

import pytest

from infra.servers.process import free_port
from snapshots import SnapshotRepository
from snapshots.errors import CommitUnknownError, StoreNotFoundError
from storage.backends.s3 import S3Store
from storage.errors import PermissionDeniedError, UnavailableError
from storage.wrappers.prefixed import PrefixedStore
from tests.integration.builders import SESSION, new_session, take_turn
from tests.proxy import Answer, FaultProxy, Stall
from tests.servers import new_bucket_url

PATIENCE_SECONDS = 30.0  # four attempts, refused at once, with the SDK's pauses between them


@pytest.mark.parametrize("create", [True, False])
@pytest.mark.parametrize("server", ["ministack", "moto"])
def test_a_missing_bucket_is_a_missing_store(request: pytest.FixtureRequest, server: str, create: bool) -> None:
    endpoint = request.getfixturevalue(f"{server}_endpoint")
    url = f"s3://no-such-bucket/agents?endpoint_url={endpoint}&region=us-east-1"
    with pytest.raises(StoreNotFoundError) as caught:
        SnapshotRepository.open(url, create=create)
    assert caught.value.url == url


def test_a_bucket_without_a_store_is_left_alone(ministack_url: str) -> None:
    with pytest.raises(StoreNotFoundError):
        SnapshotRepository.open(ministack_url, create=False)
    with SnapshotRepository.open(ministack_url) as repo:
        assert list(repo.sessions()) == []


@pytest.mark.usefixtures("s3_credentials")
def test_an_unreachable_endpoint_is_said_soon() -> None:
    started = time.monotonic()
    with pytest.raises(UnavailableError) as caught:
        SnapshotRepository.open(f"s3://bucket/agents?endpoint_url=http://127.0.0.1:{free_port()}&region=us-east-1")
    assert caught.value.applied == "no"
    assert time.monotonic() - started < PATIENCE_SECONDS


@pytest.mark.usefixtures("s3_credentials")
def test_an_endpoint_that_speaks_something_else_is_said_soon() -> None:
    started = time.monotonic()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = S3Store("bucket", endpoint_url=endpoint, region="us-east-1", read_seconds=0.2)
        with pytest.raises(UnavailableError):
            SnapshotRepository(store)
        store.close()
    assert time.monotonic() - started < PATIENCE_SECONDS


@pytest.mark.usefixtures("s3_credentials")
def test_missing_credentials_are_said_before_anything_is_sent(
    ministack_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    with pytest.raises(PermissionDeniedError):
        SnapshotRepository.open(ministack_url)


@pytest.fixture
def proxy(ministack_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(ministack_endpoint) as running:
        yield running


@pytest.fixture
def behind(proxy: FaultProxy, ministack_endpoint: str) -> Iterator[PrefixedStore]:
    bucket = new_bucket_url(ministack_endpoint).split("/")[2]
    store = S3Store(bucket, endpoint_url=proxy.url, region="us-east-1", read_seconds=1.0)
    yield PrefixedStore(store, "agents")
    store.close()


REFUSALS = [(403, "InvalidAccessKeyId"), (403, "SignatureDoesNotMatch"), (403, "AccessDenied"), (400, "ExpiredToken")]


@pytest.mark.parametrize(("status", "code"), REFUSALS)
def test_credentials_that_are_refused_name_the_reason(
    proxy: FaultProxy, behind: PrefixedStore, status: int, code: str
) -> None:
    with SnapshotRepository(behind) as repo:
        state = new_session(SESSION, "a0")
        repo.commit(state)
        proxy.on("*", "agents", action=Answer(status, code), times=None)
        asks: list[Callable[[], object]] = [
            lambda: repo.load(SESSION),
            lambda: repo.commit(take_turn(state, "a1")),
            lambda: repo.delete(SESSION),
            lambda: list(repo.sessions()),
        ]
        for ask in asks:
            with pytest.raises(PermissionDeniedError):
                ask()


def test_credentials_that_expire_in_mid_commit_leave_a_doubt_only_where_there_is_one(
    proxy: FaultProxy, behind: PrefixedStore
) -> None:
    with SnapshotRepository(behind) as repo:
        state = new_session(SESSION, "a0")
        repo.commit(state)
        proxy.on("PUT", "/heads/", action=Answer(503, "SlowDown", forward=True))
        proxy.on("GET", "/heads/", action=Answer(403, "ExpiredToken"))
        with pytest.raises(CommitUnknownError):
            repo.commit(take_turn(state, "a1"))
        assert repo.commit(state).head_revision == 2
        assert len(repo.history(SESSION)) == 2


def test_a_server_that_never_answers_a_put_is_read_back(proxy: FaultProxy, behind: PrefixedStore) -> None:
    with SnapshotRepository(behind) as repo:
        state = new_session(SESSION, "a0")
        repo.commit(state)
        proxy.on("PUT", "/heads/", action=Stall(forward=True))
        assert repo.commit(take_turn(state, "a1")).head_revision == 2
        assert len(repo.history(SESSION)) == 2
