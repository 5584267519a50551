"""The proxy changes nothing unless it is told to, and then what it was told."""

from __future__ import annotations

import http.client
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from urllib.parse import urlsplit

import pytest

from tests.proxy import Answer, CutBody, DropAnswer, DropBefore, FaultProxy, Hold, Stall
from tests.servers import new_bucket_url


@pytest.fixture
def proxy(ministack_endpoint: str) -> Iterator[FaultProxy]:
    with FaultProxy(ministack_endpoint) as running:
        yield running


@pytest.fixture
def place(ministack_endpoint: str) -> str:
    return f"/{urlsplit(new_bucket_url(ministack_endpoint)).netloc}/a%20b"


def ask(
    base: str, method: str, path: str, body: bytes = b"", headers: Mapping[str, str] = MappingProxyType({})
) -> tuple[int, dict[str, str], bytes]:
    connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=10)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
    finally:
        connection.close()


def test_what_is_passed_on_comes_back_unchanged(proxy: FaultProxy, ministack_endpoint: str, place: str) -> None:
    assert ask(proxy.url, "PUT", place, b"0123456789")[0] == 200
    for method, extra in (("GET", {}), ("HEAD", {}), ("GET", {"Range": "bytes=2-4"}), ("GET", {"Range": "bytes=99-"})):
        status, headers, body = ask(proxy.url, method, place, headers=extra)
        direct_status, direct_headers, direct_body = ask(ministack_endpoint, method, place, headers=extra)
        assert (status, headers["content-length"]) == (direct_status, direct_headers["content-length"])
        if status < 400:  # an error's body names its request
            assert (headers["etag"], body) == (direct_headers["etag"], direct_body)
    assert ask(proxy.url, "DELETE", place)[0] == 204


def test_requests_are_recorded_as_they_came(proxy: FaultProxy, place: str) -> None:
    ask(proxy.url, "PUT", place, b"body", {"X-Odd": "1"})
    (seen,) = proxy.seen("PUT", "a b")
    assert (seen.target, seen.body, seen.headers["x-odd"]) == (place, b"body", "1")
    assert proxy.seen("GET") == []
    assert proxy.requests == [seen]


@pytest.mark.parametrize(
    ("action", "stored", "after_release"),
    [(DropBefore(), 404, 404), (DropAnswer(), 200, 200), (Hold(), 404, 200)],
)
def test_a_dropped_request_closes_the_connection(
    proxy: FaultProxy,
    ministack_endpoint: str,
    place: str,
    action: DropBefore | DropAnswer | Hold,
    stored: int,
    after_release: int,
) -> None:
    proxy.on("PUT", "a b", action=action)
    with pytest.raises(ConnectionError):
        ask(proxy.url, "PUT", place, b"new")
    assert ask(ministack_endpoint, "GET", place)[0] == stored
    proxy.release()
    assert ask(ministack_endpoint, "GET", place)[0] == after_release
    assert proxy.release() == []


def test_a_cut_body_is_shorter_than_announced(proxy: FaultProxy, place: str) -> None:
    ask(proxy.url, "PUT", place, b"0123456789")
    proxy.on("GET", action=CutBody(4))
    with pytest.raises(http.client.IncompleteRead) as caught:
        ask(proxy.url, "GET", place)
    assert (caught.value.partial, caught.value.expected) == (b"0123", 6)


@pytest.mark.parametrize("forward", [False, True])
def test_an_answer_is_replaced_before_or_after(
    proxy: FaultProxy, ministack_endpoint: str, place: str, forward: bool
) -> None:
    proxy.on("PUT", action=Answer(503, "SlowDown", forward=forward))
    status, _, body = ask(proxy.url, "PUT", place, b"new")
    assert status == 503
    assert b"<Code>SlowDown</Code>" in body
    assert (ask(ministack_endpoint, "GET", place)[0] == 200) == forward
    assert ask(proxy.url, "PUT", place, b"new")[0] == 200


def test_a_stalled_request_may_be_passed_on(proxy: FaultProxy, ministack_endpoint: str, place: str) -> None:
    proxy.on("PUT", action=Stall(forward=True))
    connection = http.client.HTTPConnection(urlsplit(proxy.url).netloc, timeout=0.5)
    connection.request("PUT", place, b"new")
    with pytest.raises(TimeoutError):
        connection.getresponse()
    connection.close()
    assert ask(ministack_endpoint, "GET", place)[2] == b"new"


def test_rules_count_what_they_match(proxy: FaultProxy, place: str) -> None:
    proxy.on("GET", "a b", action=Answer(500, "x"), nth=2, times=2)
    statuses = [ask(proxy.url, method, place)[0] for method in ("GET", "HEAD", "GET", "GET", "GET")]
    assert statuses == [404, 404, 500, 500, 404]
