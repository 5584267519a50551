"""The gate: every transcript is replayed by one process and rebuilt, revision by revision, by another."""

from __future__ import annotations

import json
import random
import shutil
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
SNAPSHOTS = shutil.which("snapshots") or "snapshots"
TURN_COUNT = 807  # 757 user messages of tau-bench, 50 steps of SWE-agent
KILLS = 5


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
    url = f"file:{tmp_path / 'store'}"
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    acknowledged: dict[str, int] = {}
    command = [SNAPSHOTS, "--store", url, "--json", "replay", *map(str, files)]
    for _ in range(KILLS):
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            wanted = chance.randrange(15)
            lines = [process.stdout.readline() for _ in range(wanted)]
            time.sleep(chance.random() * 0.05)
            process.send_signal(signal.SIGKILL)
            lines += process.stdout.readlines()
        for line in lines:
            if line.endswith(b"\n"):
                row = json.loads(line)
                acknowledged[row["session_id"]] = row["revision"]
        if not Path(url.removeprefix("file:"), "~store").exists():
            continue
        with SnapshotRepository.open(url, create=False) as repo:
            for session_id, revision in acknowledged.items():
                assert repo.load(session_id).head_revision == revision
            for info in repo.sessions():
                if info.status == "live":
                    assert repo.load(info.session_id).turn_index == info.revision
    replay(url, files)
    assert rebuilt(url, files) == {"sessions": SESSION_COUNT, "revisions": TURN_COUNT}


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
