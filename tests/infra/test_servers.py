"""Servers are started and ended by the same rules; two of them break the contract of a store, each in its way."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.exceptions import ClientError

from infra.servers.ministack import ministack_running
from infra.servers.process import (
    LOOPBACK,
    STARTS_MAX,
    Command,
    PortTakenError,
    ServerMissingError,
    ServerStartError,
    answers,
    free_port,
    one_process,
)
from infra.servers.rclone import INSTALL, rclone_running
from tests.conformance.s3_behind import shared_session
from tests.servers import processes_of

STALE = "0" * 32
Put = Callable[..., tuple[int, bytes]]
"""From a body and a condition to the status of the answer and what is stored afterwards."""


@pytest.fixture
def put(request: pytest.FixtureRequest) -> Iterator[Put]:
    url = urlsplit(request.getfixturevalue(f"{request.param}_url"))
    place = {"Bucket": url.netloc, "Key": "a"}
    endpoint = parse_qs(url.query)["endpoint_url"][0]
    with closing(shared_session().client("s3", endpoint_url=endpoint)) as client:

        def send(body: bytes, **condition: Any) -> tuple[int, bytes]:
            try:
                answer: Any = client.put_object(**place, Body=body, **condition)
            except ClientError as error:
                answer = error.response
            stored = client.get_object(**place)["Body"].read()
            return answer["ResponseMetadata"]["HTTPStatusCode"], stored

        yield send


@pytest.mark.parametrize("put", ["rclone"], indirect=True)
def test_rclone_overwrites_in_spite_of_every_condition(put: Put) -> None:
    assert put(b"one", IfNoneMatch="*") == (200, b"one")
    assert put(b"two", IfNoneMatch="*") == (200, b"two")
    assert put(b"three", IfMatch=STALE) == (200, b"three")


@pytest.mark.parametrize("put", ["swift"], indirect=True)
def test_swift_refuses_to_replace_on_a_condition(put: Put) -> None:
    assert put(b"one", IfNoneMatch="*") == (200, b"one")
    assert put(b"two", IfNoneMatch="*") == (412, b"one")
    assert put(b"three", IfMatch=STALE) == (501, b"one")


def test_a_server_that_ends_at_once_is_tried_again_and_its_words_are_passed_on(tmp_path: Path) -> None:
    def command(port: int) -> Command:
        return Command([sys.executable, "-c", f"raise SystemExit('not on {port}')"])

    with pytest.raises(ServerStartError, match="broken ended: not on"), one_process("broken", command, tmp_path):
        pass
    logs = [log.read_text() for log in tmp_path.glob("start-*/broken.log")]
    assert len(set(logs)) == STARTS_MAX


def test_a_port_that_is_taken_is_said(tmp_path: Path) -> None:
    with socket.create_server((LOOPBACK, 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortTakenError, match=str(port)), ministack_running(tmp_path, port):
            pass
    assert processes_of(tmp_path) == []


def test_a_server_takes_the_port_that_it_is_given(tmp_path: Path) -> None:
    port = free_port()
    with ministack_running(tmp_path, port) as endpoint:
        assert endpoint == f"http://{LOOPBACK}:{port}"
        assert answers(endpoint)
    assert not answers(endpoint)


def test_a_program_that_is_missing_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("sysconfig.get_path", lambda _: str(tmp_path))
    with pytest.raises(ServerMissingError, match=INSTALL), rclone_running(tmp_path):
        pass
