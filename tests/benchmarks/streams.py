"""What an execution state costs that is too large to be held: memory, requests and time. Prints one JSON object.

Each step is a process of its own, so that peaks do not mix: an empty one, the first commit, a second one with 1 % edits
by a process that has to read the parent first, a third one by a process that has just committed, and the three ways
back: `open_execution_state`, `read_execution_state`, and a verification. The state is made block by block from a seed,
and never held by whoever makes it. With a divisor every bound on what is held is that much smaller, so that a small
state shows what a large one does.

    python -m tests.benchmarks.streams --mib 4096
    python -m tests.benchmarks.streams --mib 160 --divisor 16
"""

from __future__ import annotations

import argparse
import io
import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, cast

from snapshots import PersistedSessionState, SnapshotRepository, execution, parts, spooling
from snapshots.benchmarks.large_state import LargeState
from snapshots.benchmarks.meters import metering, peak_bytes
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from storage import extents
from storage.digest import Hasher

BLOCK_BYTES = 1 << 20
EDITED = 0.01
RUN_BYTES_MIN, RUN_DOUBLINGS = 256, 6  # as in `large_state`
SESSION = "streams"
READ_BYTES = 1 << 20


class Blocks:
    """A state of many blocks, each a piece of the same mixture under an alphabet of its own.

    Args:
        mib: Its size before the first edit.
        edits: How many revisions have edited it.
        seed: Equal seeds give equal states.
    """

    def __init__(self, mib: int, edits: int, seed: int = 7) -> None:
        self._mib, self._edits, self._seed = mib, edits, seed
        self._mixture = LargeState(seed, 8 * BLOCK_BYTES)._memory

    def __iter__(self) -> Iterator[bytes]:
        return (self._block(number) for number in range(self._mib))

    def _block(self, number: int) -> bytes:
        draw = random.Random(f"{self._seed} {number}")
        alphabet = bytes(draw.sample(range(256), 256))
        start = draw.randrange(len(self._mixture) - BLOCK_BYTES)
        block = self._mixture[start : start + BLOCK_BYTES].translate(alphabet)
        for edit in range(self._edits):
            block = _edited(block, random.Random(f"{self._seed} {number} {edit}"))
        return block


def _edited(block: bytes, draw: random.Random) -> bytes:
    budget = int(len(block) * EDITED)
    while budget > 0:
        length = min(budget, int(RUN_BYTES_MIN * 2 ** (draw.random() * RUN_DOUBLINGS)))
        start, kind = draw.randrange(len(block)), draw.random()
        new = b"" if kind > 0.85 else draw.randbytes(length)  # deleted; else overwritten, or inserted
        block = block[:start] + new + block[start if 0.6 <= kind <= 0.85 else start + length :]
        budget -= length
    return block


class BlockStream(io.RawIOBase):
    """Blocks as a stream that can be read once."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks = iter(blocks)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        if not self._rest:
            self._rest = next(self._blocks, b"")
        found, self._rest = self._rest[:size], self._rest[size:]
        return found


def _stream(mib: int, edits: int) -> BinaryIO:
    return cast(BinaryIO, BlockStream(Blocks(mib, edits)))


def _ref(blocks: Iterator[bytes]) -> str:
    hasher = Hasher()
    for block in blocks:
        hasher.update(block)
    return str(hasher.ref())


# The steps. Each returns what it measured beyond time, memory and requests.


def empty(_repo: SnapshotRepository, mib: int) -> dict[str, Any]:
    """Do nothing: what a process takes that has read its program."""
    return {"made": _ref(iter(Blocks(min(mib, 64), 1)))[:10]}


def first(repo: SnapshotRepository, mib: int) -> dict[str, Any]:
    """Commit the state as it is."""
    result = repo.commit(PersistedSessionState(session_id=SESSION), execution_state=_stream(mib, 0))
    return {"uploaded_bytes": result.uploaded_bytes}


def second(repo: SnapshotRepository, mib: int) -> dict[str, Any]:
    """Load, and commit it with 1 % edits: the parent is read for its cuts."""
    state = repo.load(SESSION)
    result = repo.commit(state, execution_state=_stream(mib, 1))
    return {"uploaded_bytes": result.uploaded_bytes}


def third(repo: SnapshotRepository, mib: int) -> dict[str, Any]:
    """Commit twice: the second time the cuts are at hand."""
    state = repo.load(SESSION)
    repo.commit(state, execution_state=_stream(mib, 2))
    with metering(repo.metrics) as costs:
        result = repo.commit(state, execution_state=_stream(mib, 3))
    own = costs[0]
    return {
        "uploaded_bytes": result.uploaded_bytes,
        "own_requests": own.requests,
        "own_cpu_seconds": own.cpu_seconds,
    }


def by_open(repo: SnapshotRepository, _mib: int) -> dict[str, Any]:
    """Read it as a stream, from its start to its end."""
    state = repo.load(SESSION)
    with repo.open_execution_state(state) as stream:
        found = _ref(iter(lambda: stream.read(READ_BYTES), b""))
    assert found == str(state.execution_state_ref), "what is read is what was committed"
    return {}


def by_read(repo: SnapshotRepository, _mib: int) -> dict[str, Any]:
    """Read it whole; the bytes are the caller's own."""
    data = repo.read_execution_state(repo.load(SESSION))
    return {"own_bytes": len(data)}


def verified(repo: SnapshotRepository, _mib: int) -> dict[str, Any]:
    """Verify the session: every revision of it, every byte."""
    assert not [one for one in verify(repo) if isinstance(one, Finding)]
    return {}


STEPS: tuple[Callable[[SnapshotRepository, int], dict[str, Any]], ...] = (
    empty,
    first,
    second,
    third,
    by_open,
    by_read,
    verified,
)


def divide_bounds(divisor: int) -> None:
    """Make every bound on what is held that much smaller."""
    parts.HELD_BYTES_MAX //= divisor
    spooling.COMPARED_BYTES_MIN //= divisor
    execution.WINDOW_BYTES_MAX //= divisor
    execution.TABLE_WINDOW_BYTES //= divisor
    extents.READ_BYTES_MAX //= divisor


def run_step(name: str, store: str, mib: int, divisor: int) -> dict[str, Any]:
    """Return what a step cost this process."""
    divide_bounds(divisor)
    step = next(one for one in STEPS if one.__name__ == name)
    with SnapshotRepository.open(store) as repo, metering(repo.metrics) as costs:
        found = step(repo, mib)
        peak = peak_bytes()
    cost = costs[0]
    return {
        "step": name,
        "peak_bytes": peak,
        "requests": cost.requests,
        "bytes_in": cost.downloaded_bytes,
        "seconds": round(cost.wall_seconds, 2),
        "cpu_seconds": round(cost.cpu_seconds, 2),
        **found,
    }


def run(store: str, mib: int, divisor: int = 1) -> list[dict[str, Any]]:
    """Return what each step cost, each in a process of its own.

    Args:
        store: URL of an empty store that several processes can use.
        mib: Size of the state.
        divisor: Of the bounds on what is held.
    """
    found = []
    for step in STEPS:
        call = [sys.executable, "-m", "tests.benchmarks.streams"]
        size = ["--mib", str(mib), "--divisor", str(divisor)]
        done = subprocess.run(
            [*call, "--store", store, "--step", step.__name__, *size],
            check=True,
            stdout=subprocess.PIPE,
        )
        found.append(json.loads(done.stdout))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", help="an empty store; a temporary directory if it is not given")
    parser.add_argument("--mib", type=int, default=4096)
    parser.add_argument("--divisor", type=int, default=1)
    parser.add_argument("--step", help="one alone, in this process")
    given = parser.parse_args()
    if given.step is not None:
        print(json.dumps(run_step(given.step, given.store, given.mib, given.divisor)))
        return
    with tempfile.TemporaryDirectory() as directory:
        steps = run(given.store or f"file:{Path(directory) / 'store'}", given.mib, given.divisor)
    print(json.dumps({"mib": given.mib, "steps": steps}, indent=1))


if __name__ == "__main__":
    main()
