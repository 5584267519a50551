"""Every order of the real code's requests, within bounds: nothing is lost, and without any one rule something is."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.testing.simulation import explore, random_walks, replay, run
from tests.simulation.mutants import IN_FLIGHT, MUTANTS, Mutant
from tests.simulation.protocol import Protocol
from tests.simulation.table import find, table
from tests.simulation.worlds import WORLDS, maker, running


@pytest.fixture(autouse=True)
def _running(monkeypatch: pytest.MonkeyPatch) -> None:
    running(monkeypatch)


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("world", "preemptions", "crashes"),
    [
        ("writers", 2, 1),
        ("creators", 2, 1),
        ("dropped revisions", 2, 1),
        ("rewinds", 2, 0),
        ("owners", 2, 1),
        ("two writers", 2, 0),
        ("two collectors", 1, 0),
        ("a real collection", 1, 1),
        ("batches", 1, 1),
        ("fork in flight", 2, 0),
    ],
)
def test_nothing_is_lost_in_any_order(world: str, preemptions: int, crashes: int) -> None:
    done = explore(maker(world), preemptions=preemptions, crashes=crashes, limit=1_000_000)
    assert done.complete
    assert done.violations == 0
    print(world, done)


@pytest.mark.timeout(900)
def test_nothing_is_lost_by_a_fork_of_a_fork_in_flight() -> None:
    done = explore(maker("fork in flight"), preemptions=2, crashes=1, prefix=IN_FLIGHT, limit=1_000_000)
    assert done.complete


def test_a_collection_has_several_batches_in_the_world_for_it() -> None:
    worlds = []

    def made() -> Protocol:
        worlds.append(maker("batches")())
        return worlds[-1]

    random_walks(made, seed=3, count=40)
    assert max(world.batches for world in worlds) == 2


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_without_a_rule_something_is_lost(mutant: Mutant) -> None:
    print(find(mutant))


@pytest.mark.timeout(900)
def test_the_readme_has_the_table_of_what_each_rule_prevents() -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    assert table(map(find, MUTANTS)) in readme, "python -m tests.simulation.table prints the table"


@pytest.mark.parametrize("world", WORLDS)
def test_an_undisturbed_run_ends_well_and_is_repeatable(world: str) -> None:
    assert run(maker(world)()) == run(maker(world)())
    replay(maker(world), "")


@pytest.mark.timeout(900)
def test_nothing_is_lost_in_random_orders_with_everybody() -> None:
    for policy in ("uniform", "pct"):
        walks = random_walks(maker("everybody"), seed=11, count=400, policy=policy, changes=4, crashes=1)
        assert walks.count == 400
