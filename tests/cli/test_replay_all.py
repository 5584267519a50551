"""The gate: every transcript is replayed by one process and rebuilt, revision by revision, by another.

The number of kills comes from the environment: `SNAPSHOTS_KILLS=100 python -m pytest tests/cli -k killed`.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository
from tests.data import PACKED, SESSION_COUNT, unpack

REPOSITORY = Path(__file__).parents[2]
SNAPSHOTS = str(Path(sys.executable).with_name("snapshots"))
TURN_COUNT = 807  # 757 user messages of tau-bench, 50 steps of SWE-agent
KILLS = int(os.environ.get("SNAPSHOTS_KILLS", "10"))
KILLS_PER_STORE = 10  # a replay of all files is over after some more


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    return [unpack(packed, tmp_path) for packed in PACKED]


def replay(url: str, files: Sequence[Path]) -> list[dict[str, Any]]:
    command = [SNAPSHOTS, "--store", url, "--json", "replay", *map(str, files)]
    done = subprocess.run(command, capture_output=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def rebuilt(url: str, files: Sequence[Path]) -> dict[str, int]:
    """Compare in two processes at once, each with a share of the files."""
    shares = [files[0::2], files[1::2]]
    command = [sys.executable, "-m", "tests.cli.rebuild", url]
    children = [
        subprocess.Popen([*command, *map(str, share)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for share in shares
        if share
    ]
    total = {"sessions": 0, "revisions": 0}
    for child in children:
        with child:
            out, err = child.communicate()
        assert child.returncode == 0, err.decode()
        for name, count in json.loads(out).items():
            total[name] += count
    return total


def test_every_transcript_comes_back_from_the_store_in_another_process(tmp_path: Path, files: list[Path]) -> None:
    url = f"file:{tmp_path / 'store'}"
    start = time.monotonic()
    rows = replay(url, files)
    replayed = time.monotonic()
    assert rebuilt(url, files) == {"sessions": SESSION_COUNT, "revisions": TURN_COUNT}
    print(f"{len(rows)} sessions, {TURN_COUNT} turns: replayed {replayed - start:.1f} s, ", end="")
    print(f"every revision loaded and compared {time.monotonic() - replayed:.1f} s")
    assert len(rows) == SESSION_COUNT
    assert sum(row["turns"] for row in rows) == TURN_COUNT
    # Reserving the id costs one request, every turn two; nothing is asked of a session that is new but its head.
    assert all(row["requests"] <= 2 * row["turns"] + 2 for row in rows)
    assert sum(row["turns"] for row in replay(url, files)) == 0


def test_a_killed_replay_goes_on_to_the_same_end(tmp_path: Path, files: list[Path]) -> None:
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    for first in range(0, KILLS, KILLS_PER_STORE):
        url = f"file:{tmp_path / f'store-{first}'}"
        acknowledged: dict[str, int] = {}
        for _ in range(min(KILLS_PER_STORE, KILLS - first)):
            kill_a_replay(url, files, chance, acknowledged)
            check_what_was_acknowledged(url, acknowledged)
        replay(url, files)
        assert rebuilt(url, files) == {"sessions": SESSION_COUNT, "revisions": TURN_COUNT}


def kill_a_replay(url: str, files: list[Path], chance: random.Random, acknowledged: dict[str, int]) -> None:
    command = [SNAPSHOTS, "--store", url, "--json", "replay", *map(str, files)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randrange(12))]
        time.sleep(chance.random() * 0.05)  # so that the kill falls anywhere in a turn
        process.send_signal(signal.SIGKILL)
        lines += process.stdout.readlines()
    for line in lines:
        if line.endswith(b"\n"):
            row = json.loads(line)
            acknowledged[row["session_id"]] = row["revision"]


def check_what_was_acknowledged(url: str, acknowledged: dict[str, int]) -> None:
    if not Path(url.removeprefix("file:"), "~store").exists():
        assert not acknowledged
        return
    with SnapshotRepository.open(url, create=False) as repo:
        for session_id, revision in acknowledged.items():
            assert repo.load(session_id).head_revision == revision
        for info in repo.sessions():
            for revision in range(1, info.revision + 1):
                assert repo.load(info.session_id, revision).turn_index == revision


def test_two_replays_at_once_commit_every_turn_once(tmp_path: Path) -> None:
    url = f"file:{tmp_path / 'store'}"
    files = [unpack(packed, tmp_path) for packed in PACKED if packed.suffixes[0] == ".traj"]
    command = [SNAPSHOTS, "--store", url, "--json", "replay", *map(str, files)]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE) for _ in range(2)]
    for child in children:
        with child:
            child.communicate()
        assert child.returncode == 0
    assert rebuilt(url, files) == {"sessions": 3, "revisions": 50}
