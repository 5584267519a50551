"""Forking a session with a large execution state: what it costs, and that both sides are whole without the other.

The gate is 64 MiB; `SNAPSHOTS_FORK_MIB=1024 python -m pytest tests/integration/test_large_forks.py` takes the figure.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.testing.collector import collect
from tests.integration.builders import message_ids, take_turn

MIB = int(os.environ.get("SNAPSHOTS_FORK_MIB", "64"))
UPLOADED_BYTES_MAX = 64 << 10


class Large:
    """`MIB` MiB of bytes that do not compress, and their digest."""

    def __init__(self) -> None:
        draw = Random(5)
        blocks = [draw.randbytes(1 << 20) for _ in range(7)]
        self.data = b"".join(blocks[number % 7] + number.to_bytes(4, "big") for number in range(MIB))
        self.digest = hashlib.sha256(self.data).hexdigest()


@pytest.fixture(scope="module")
def large() -> Large:
    return Large()


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "file":
        return f"file:{tmp_path / 'store'}"
    return str(request.getfixturevalue("ministack_url"))


@pytest.fixture
def repo(url: str) -> Iterator[SnapshotRepository]:
    with SnapshotRepository.open(url, inline_limit_bytes=0) as opened:
        yield opened


def check_whole(repo: SnapshotRepository, session_id: str, large: Large, *, revision: int | None = None) -> None:
    state = repo.load(session_id, revision)
    with repo.open_execution_state(state) as stream:
        found = hashlib.sha256()
        while block := stream.read(8 << 20):
            found.update(block)
    assert found.hexdigest() == large.digest
    for row in repo.history(session_id):
        repo.load(session_id, row.revision)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("url", ["file", "ministack"], indirect=True)
@pytest.mark.parametrize("gone", ["parent", "child"])
def test_a_large_session_is_forked_in_three_small_requests(
    repo: SnapshotRepository, large: Large, gone: str, capsys: pytest.CaptureFixture[str]
) -> None:
    state = take_turn(PersistedSessionState(session_id="parent"), "a1")
    repo.commit(state, execution_state=large.data)
    repo.commit(take_turn(state, "a2"))
    forked = repo.fork("parent", "child")
    with capsys.disabled():
        print(f"\nfork of {MIB} MiB: {forked.requests} requests, {forked.uploaded_bytes} bytes uploaded")
    assert forked.requests == 3
    assert forked.uploaded_bytes < UPLOADED_BYTES_MAX
    older = repo.fork("parent", "older", 1)
    assert older.requests <= 5
    assert older.uploaded_bytes < UPLOADED_BYTES_MAX
    repo.delete("older")
    check_whole(repo, "child", large)
    repo.commit(take_turn(repo.load("child"), "b1"))
    repo.commit(take_turn(repo.load("parent"), "a3"))
    repo.delete(gone)
    assert len(collect(repo.environment).deleted) >= 1
    assert collect(repo.environment).deleted == ()
    other = "child" if gone == "parent" else "parent"
    check_whole(repo, other, large)
    assert message_ids(repo.load(other)) == ["a1", "a2", "b1" if other == "child" else "a3"]
