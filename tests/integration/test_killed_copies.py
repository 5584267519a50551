"""A copy is killed at random requests, again and again, and repeated until it ends: nothing is lost, nothing lies twice.

The number of kills comes from the environment:
`SNAPSHOTS_COPY_KILLS=50 python -m pytest -s tests/integration/test_killed_copies.py`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from snapshots import SnapshotRepository
from storage.testing.draws import Draws
from tests.integration.copying import When, check_copy, collected_bytes, copied, fill
from tests.servers import new_bucket_url

KILLS = int(os.environ.get("SNAPSHOTS_COPY_KILLS", "10"))
SEED = int(os.environ.get("SNAPSHOTS_COPY_SEED", "20260104"))
SIZE_RATIO_MAX = 1.1  # of what is left after a collection, over a copy that nobody disturbed
WHEN: tuple[When, ...] = ("before", "after")


@dataclass
class Leg:
    """From one store to another, undisturbed once to know what there is to kill.

    Attributes:
        name: For people.
        source: What is copied.
        endpoint: The server of the destinations.
        url: Of the copy that nobody disturbed.
        requests: That it took there.
        bytes: Of its packs, after a collection.
        kills: At which requests, and how far from the server.
    """

    name: str
    source: str
    endpoint: str
    url: str
    requests: int
    bytes: int
    kills: list[str] = field(default_factory=list)


def undisturbed(name: str, source: str, endpoint: str) -> Leg:
    url = new_bucket_url(endpoint)
    done = copied(source, url, endpoint)
    with SnapshotRepository.open(source) as a, SnapshotRepository.open(url) as b:
        check_copy(a, b)
        return Leg(name, source, endpoint, url, done["passed"], collected_bytes(b))


def disturbed(leg: Leg, draws: Draws, kills_max: int) -> tuple[int, int]:
    """Copy to a new place, killed until it is left alone; check it. Return how many collections came between, and runs."""
    url, collections, runs, kills = new_bucket_url(leg.endpoint), 0, 0, 0
    is_threatened = True
    while True:
        number = 1 + draws.below(leg.requests) if is_threatened and kills < kills_max else 0
        when = draws.pick(WHEN)
        runs += 1
        if copied(leg.source, url, leg.endpoint, number, when):
            break
        kills += 1
        leg.kills.append(f"{when} {number}")
        is_threatened = draws.below(2) == 0
        if draws.below(3) == 0:
            collections += collects(url)
    with SnapshotRepository.open(leg.source) as a, SnapshotRepository.open(url) as b:
        check_copy(a, b)
        assert collected_bytes(b) <= SIZE_RATIO_MAX * leg.bytes, "something lies twice"
        check_copy(a, b)
    return collections, runs


def collects(url: str) -> int:
    with SnapshotRepository.open(url) as repo:
        collected_bytes(repo)
    return 1


def killed(legs: Sequence[Leg]) -> int:
    return sum(len(leg.kills) for leg in legs)


@pytest.mark.usefixtures("s3_credentials")
def test_a_killed_copy_goes_on_where_it_was(tmp_path: Path, ministack_endpoint: str, ceph_endpoint: str) -> None:
    begun, draws = time.monotonic(), Draws(SEED)
    first = f"file:{tmp_path / 'source'}"
    with SnapshotRepository.open(first) as repo:
        fill(repo)
    legs = [undisturbed("directory to ministack", first, ministack_endpoint)]
    legs.append(undisturbed("ministack to Ceph", legs[0].url, ceph_endpoint))
    collections = runs = rounds = 0
    with ExitStack() as stack:
        stack.callback(lambda: print(f"\nseed {SEED}, kills: " + "; ".join(f"{leg.name} {leg.kills}" for leg in legs)))
        while killed(legs) < KILLS:
            more, again = disturbed(legs[rounds % len(legs)], draws, KILLS - killed(legs))
            collections, runs, rounds = collections + more, runs + again, rounds + 1
    print({
        "kills": killed(legs),
        "copies": rounds,
        "runs": runs,
        "collections between": collections,
        "requests undisturbed": {leg.name: leg.requests for leg in legs},
        "packs, bytes": {leg.name: leg.bytes for leg in legs},
        "seconds": round(time.monotonic() - begun),
    })
