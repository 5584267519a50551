"""Every order of the real code's requests, within bounds: nothing is lost, and without any one rule something is."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.testing.simulation import explore, random_walks, replay, run
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.protocol import Protocol
from tests.simulation.table import find, table
from tests.simulation.worlds import GATES, WORLDS, Gate, maker, running


@pytest.fixture(autouse=True)
def _running(monkeypatch: pytest.MonkeyPatch) -> None:
    running(monkeypatch)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("gate", GATES, ids=lambda gate: f"{gate.world}, {gate.preemptions}, {gate.crashes}")
def test_nothing_is_lost_in_any_order(gate: Gate) -> None:
    done = explore(
        maker(gate.world), preemptions=gate.preemptions, crashes=gate.crashes, prefix=gate.prefix, limit=1_000_000
    )
    assert done.complete
    assert done.violations == 0
    print(gate, done)


@pytest.mark.parametrize("mutant", [one for one in MUTANTS if one.world], ids=lambda mutant: mutant.rule)
def test_with_every_rule_the_search_that_finds_a_loss_finds_nothing(mutant: Mutant) -> None:
    assert any(gate.covers(mutant.world, mutant.preemptions, mutant.prefix) for gate in GATES)


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
