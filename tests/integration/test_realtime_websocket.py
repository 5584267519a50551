"""A realtime session over a real connection: cut in the middle, taken over from a host that was killed, and told."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from websockets.exceptions import ConnectionClosed

from snapshots import SnapshotRepository
from snapshots.errors import FencedError
from snapshots.realtime import (
    PrivacyClass,
    RealtimeController,
    RealtimeSessionRecord,
    RealtimeSessionStatus,
    RestartCompleted,
    RestartFailed,
    SendOutcome,
    subscribe,
)
from tests.integration.realtime_provider import Provider, WebsocketAdapter, provider_running
from tests.snapshots.realtime.bench import check_log, out, sidecar

ROOT = Path(__file__).parents[2]
SESSION = "s1"


@pytest.fixture
def provider() -> Iterator[Provider]:
    with provider_running() as running:
        yield running


@pytest.fixture(params=["file", "ministack"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file:{tmp_path / 'store'}"
    found: str = request.getfixturevalue("ministack_url")
    return found


@pytest.fixture
def repo(url: str) -> Iterator[SnapshotRepository]:
    with SnapshotRepository.open(url) as opened:
        yield opened


@pytest.fixture
def adapter(provider: Provider) -> Iterator[WebsocketAdapter]:
    made = WebsocketAdapter(provider.url)
    yield made
    made.end()


def records_of(repo: SnapshotRepository) -> list[RealtimeSessionRecord]:
    return list(subscribe(repo, SESSION, privacy=PrivacyClass.SECRET).new())


def check_told(repo: SnapshotRepository, provider: Provider) -> None:
    """Check that the log tells all that the provider got, and that nothing was sent twice without saying so."""
    records = records_of(repo)
    check_log(records)
    requests = [record for record in records if record.kind.value == "input_send_requested"]
    by_connection = [
        (record.state.connection_id.value, record.frame_id and record.frame_id.value) for record in requests
    ]
    assert set(provider.frames) <= set(by_connection)
    sent = {record.answers for record in records if record.kind.value == "input_sent"}
    confirmed = [record.frame_id.value for record in requests if record.sequence in sent and record.frame_id]
    assert set(confirmed) <= set(provider.got)
    repeated = {record.frame_id.value for record in requests if record.repeats and record.frame_id}
    for frame_id in set(provider.got):
        assert provider.got.count(frame_id) == 1 or frame_id in repeated


def test_a_session_over_a_websocket(repo: SnapshotRepository, provider: Provider, adapter: WebsocketAdapter) -> None:
    controller = RealtimeController(repo, SESSION, adapter, sidecar())
    controller.connect()
    for number in range(3):
        assert controller.send(out(f"f{number}")).outcome is SendOutcome.SENT
    answers = [controller.receive() for _ in range(3)]
    assert [answer and answer.frame_id.value for answer in answers] == ["answer-f0", "answer-f1", "answer-f2"]
    assert controller.receive() is None
    controller.interrupt()
    controller.send(out("last"))
    controller.close()
    assert (provider.got, provider.interrupts) == (["f0", "f1", "f2", "last"], 1)
    check_told(repo, provider)


def test_a_connection_that_is_cut_is_noticed_and_restarted(
    repo: SnapshotRepository, provider: Provider, adapter: WebsocketAdapter
) -> None:
    controller = RealtimeController(repo, SESSION, adapter, sidecar())
    controller.connect()
    controller.send(out("f0"))
    provider.cut_at.add("f1")
    with pytest.raises((ConnectionClosed, OSError)):
        controller.send(out("f1"))
    assert controller.state.lifecycle_status is RealtimeSessionStatus.FAILED
    assert [frame.frame_id.value for frame in controller.in_doubt] == ["f1"]
    controller.begin_restart()
    assert controller.send(out("f2")).outcome is SendOutcome.GATED
    assert controller.complete_restart() == RestartCompleted(sent_count=1)
    controller.send(out("f1"))
    controller.send(out("f3"))
    assert provider.got == ["f0", "f1", "f2", "f1", "f3"]
    check_told(repo, provider)


def receive_all(controller: RealtimeController) -> None:
    while True:
        controller.receive()


def test_a_connection_that_is_cut_while_nothing_is_sent_is_noticed(
    repo: SnapshotRepository, provider: Provider, adapter: WebsocketAdapter
) -> None:
    controller = RealtimeController(repo, SESSION, adapter, sidecar())
    controller.connect()
    controller.send(out("f0"))
    provider.cut_all()
    with pytest.raises((ConnectionClosed, OSError)):
        receive_all(controller)
    assert controller.state.lifecycle_status is RealtimeSessionStatus.FAILED
    controller.begin_restart()
    controller.complete_restart()
    controller.send(out("f1"))
    assert provider.got == ["f0", "f1"]
    check_told(repo, provider)


def test_a_provider_that_is_gone_is_a_restart_that_failed(
    repo: SnapshotRepository, provider: Provider, adapter: WebsocketAdapter
) -> None:
    controller = RealtimeController(repo, SESSION, adapter, sidecar())
    controller.connect()
    controller.begin_restart()
    controller.send(out("held"))
    adapter.url, there = "ws://127.0.0.1:9", adapter.url
    outcome = controller.complete_restart()
    assert isinstance(outcome, RestartFailed)
    assert isinstance(outcome.error, OSError)
    adapter.url = there
    controller.begin_restart()
    controller.complete_restart()
    assert provider.got == ["held"]
    check_told(repo, provider)


def started(url: str, provider: Provider, verb: str, first: int, count: int) -> subprocess.Popen[str]:
    arguments = [url, SESSION, provider.url, verb, str(first), str(count)]
    return subprocess.Popen(
        [sys.executable, "-m", "tests.integration.realtime_host", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )


def read_lines(process: subprocess.Popen[str], count: int) -> list[object]:
    assert process.stdout is not None
    return [json.loads(process.stdout.readline()) for _ in range(count)]


def test_a_host_that_was_killed_is_resumed_by_another_process(
    url: str, repo: SnapshotRepository, provider: Provider, adapter: WebsocketAdapter
) -> None:
    reported: list[object] = []
    for life, verb in enumerate(["connect", "resume", "resume"]):
        process = started(url, provider, verb, first=1000 * life, count=1000)
        try:
            restarts, *sent = read_lines(process, 4 + life)
            assert restarts == life
            reported += sent
        finally:
            process.kill()
            process.wait(timeout=30)
            assert process.stdout is not None
            process.stdout.close()
    controller = RealtimeController.resume(repo, SESSION, adapter, sidecar())
    controller.complete_restart()
    for frame in controller.in_doubt:
        controller.send(frame)
    controller.send(out("last"))
    assert controller.state.restart_count == 3
    assert set(map(str, reported)) <= set(provider.got)
    assert provider.got[-1] == "last"
    check_told(repo, provider)


def test_a_host_that_still_runs_is_fenced_by_the_one_that_resumes(
    url: str, repo: SnapshotRepository, provider: Provider, adapter: WebsocketAdapter
) -> None:
    process = started(url, provider, "connect", first=0, count=10_000)
    try:
        assert read_lines(process, 3)[0] == 0
        while True:
            with suppress(FencedError):
                controller = RealtimeController.resume(repo, SESSION, adapter, sidecar())
                break
        assert process.wait(timeout=60) == 1, "it was told that it is fenced, and ended"
    finally:
        process.kill()
        process.wait(timeout=30)
        assert process.stdout is not None
        process.stdout.close()
    controller.complete_restart()
    controller.send(out("last"))
    assert provider.got[-1] == "last"
    check_told(repo, provider)
