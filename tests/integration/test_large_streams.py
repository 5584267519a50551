"""A state that is too large to be held, on real stores: its pack is uploaded in parts, from a temporary file."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from snapshots import SnapshotRepository, parts
from storage.backends.s3 import SINGLE_BYTES_MAX
from storage.digest import Hasher, blob_ref
from tests.integration.builders import SESSION, new_session, take_turn

MIB = 40
DATA = b"".join(Random(number).randbytes(1 << 20) for number in range(MIB))


@pytest.fixture(params=["file", "ministack"])
def repo(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SnapshotRepository]:
    is_file = request.param == "file"
    url = f"file:{tmp_path / 'store'}" if is_file else str(request.getfixturevalue("ministack_url"))
    with SnapshotRepository.open(url) as opened:
        yield opened


def test_a_pack_of_many_parts_comes_from_a_stream_and_goes_back_as_one(
    repo: SnapshotRepository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "HELD_BYTES_MAX", 1 << 20)
    state = new_session(SESSION, "a0")
    result = repo.commit(state, execution_state=io.BytesIO(DATA))
    assert result.uploaded_bytes > 2 * SINGLE_BYTES_MAX, "it takes several parts"
    edited = DATA[: 7 << 20] + b"inserted" + DATA[7 << 20 :]
    result = repo.commit(take_turn(state, "a1"), execution_state=io.BytesIO(edited))
    assert result.uploaded_bytes < 1 << 20
    for revision, data in ((1, DATA), (2, edited)):
        loaded = repo.load(SESSION, revision)
        assert repo.read_execution_state(loaded) == data
        hasher = Hasher()
        with repo.open_execution_state(loaded) as stream:
            while block := stream.read(3 << 20):
                hasher.update(block)
        assert hasher.ref() == blob_ref(data)
