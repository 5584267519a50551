"""A copy is killed at random requests, again and again, until it is left to end: nothing is lost, nothing lies twice.

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
from snapshots.reading import read_head
from storage.testing.draws import Draws
from tests.integration.copying import (
    LARGE,
    LOGGED,
    When,
    check_copy,
    check_usage,
    collected_bytes,
    copied,
    fill,
    fill_large,
)
from tests.servers import new_bucket_url

KILLS = int(os.environ.get("SNAPSHOTS_COPY_KILLS", "10"))
SEED = int(os.environ.get("SNAPSHOTS_COPY_SEED", "20260104"))
SIZE_RATIO_MAX = 1.1  # of what is left after a collection, over a copy that nobody disturbed
KILLS_OF_ONE_MAX = 5  # of a copy to one place
AGAIN = 3  # a copy that was begun takes so many times fewer requests, at most
WHEN: tuple[When, ...] = ("before", "after")


@dataclass
class Leg:
    """From one store to another, undisturbed once to know what there is to kill.

    Attributes:
        name: For people.
        source: What is copied.
        endpoint: The server of the destinations.
        url: Of the copy that nobody disturbed.
        requests: That it took there, by what their path contains.
        bytes: Of its packs, after a collection.
        kills: At which requests, and whether the server heard of them.
        staged: How many of them left a reserved head that names packs.
    """

    name: str
    source: str
    endpoint: str
    url: str
    requests: dict[str, int]
    bytes: int
    kills: list[str] = field(default_factory=list)
    staged: int = 0


def undisturbed(name: str, source: str, endpoint: str) -> Leg:
    url = new_bucket_url(endpoint)
    done = copied(source, url, endpoint)
    with SnapshotRepository.open(url) as repo:
        return Leg(name, source, endpoint, url, {"": done["passed"], LARGE: done["large"]}, collected_bytes(repo))


def disturbed(leg: Leg, first: SnapshotRepository, kills: int, draws: Draws) -> tuple[int, int]:
    """Copy to a new place, killed so many times, and check it. Return how many collections came between, and runs."""
    url, collections, runs, left = new_bucket_url(leg.endpoint), 0, 0, kills
    while True:
        part, when = LARGE if draws.below(2) and not runs else "", draws.pick(WHEN)
        number = 1 + draws.below(leg.requests[part] // (1 if not runs else AGAIN)) if left else 0
        runs += 1
        if copied(leg.source, url, leg.endpoint, number, when, part):
            break  # before that request, if one was chosen: most of it was there
        left -= 1
        leg.kills.append(f"{when} {number} {part}".strip())
        is_staged, collects = look(url, draws.below(2))
        leg.staged += is_staged
        collections += collects
    with SnapshotRepository.open(url) as repo:
        assert collected_bytes(repo) <= SIZE_RATIO_MAX * leg.bytes, "something lies twice"
        check_copy(first, repo)
        for name in LOGGED:
            check_usage(first, repo, name)
    return collections, runs


def look(url: str, collections: int) -> tuple[bool, int]:
    """Say whether packs of the large session are named by its reservation; collect as often as is said."""
    with SnapshotRepository.open(url) as repo:
        found = read_head(repo.environment, LARGE)
        for _ in range(collections):
            collected_bytes(repo)
    return found is not None and found.head.staged is not None, collections


def killed(legs: Sequence[Leg]) -> int:
    return sum(len(leg.kills) for leg in legs)


@pytest.mark.usefixtures("s3_credentials")
def test_a_killed_copy_goes_on_where_it_was(tmp_path: Path, ministack_endpoint: str, ceph_endpoint: str) -> None:
    begun, draws = time.monotonic(), Draws(SEED)
    url, collections, runs, rounds = f"file:{tmp_path / 'source'}", 0, 0, 0
    with ExitStack() as stack:
        first = stack.enter_context(SnapshotRepository.open(url))
        fill(first)
        fill_large(first)
        legs = [undisturbed("directory to ministack", url, ministack_endpoint)]
        legs.append(undisturbed("ministack to Ceph", legs[0].url, ceph_endpoint))
        stack.callback(lambda: print(f"\nseed {SEED}, kills: " + "; ".join(f"{leg.name} {leg.kills}" for leg in legs)))
        while killed(legs) < KILLS:
            kills = min(2 + draws.below(KILLS_OF_ONE_MAX - 1), KILLS - killed(legs))
            more, again = disturbed(legs[rounds % len(legs)], first, kills, draws)
            collections, runs, rounds = collections + more, runs + again, rounds + 1
    print(
        {
            "kills": killed(legs),
            "copies": rounds,
            "runs": runs,
            "collections between": collections,
            "kills that left packs staged": sum(leg.staged for leg in legs),
            "requests undisturbed": {leg.name: leg.requests[""] for leg in legs},
            "packs, bytes": {leg.name: leg.bytes for leg in legs},
            "seconds": round(time.monotonic() - begun),
        }
    )
