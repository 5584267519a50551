"""Every order of the real code's requests, within bounds: nothing is lost, and without any one rule something is."""

from __future__ import annotations

from pathlib import Path

import pytest

from storage.testing.simulation import random_walks, replay, run
from tests.aside import Aside
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.protocol import Protocol
from tests.simulation.table import find, table
from tests.simulation.worlds import GATES, WORLDS, Gate, explored, maker, running


@pytest.fixture(autouse=True)
def _running(monkeypatch: pytest.MonkeyPatch) -> None:
    running(monkeypatch)


@pytest.mark.parametrize("one", [one for one in MUTANTS if one.world], ids=lambda one: one.rule)
def test_with_every_rule_the_search_that_finds_a_loss_finds_nothing(one: Mutant) -> None:
    assert any(gate.covers(one.world, one.preemptions, one.prefix) for gate in GATES)


def test_a_collection_has_several_batches_in_the_world_for_it() -> None:
    worlds = []

    def made() -> Protocol:
        worlds.append(maker("batches")())
        return worlds[-1]

    random_walks(made, seed=3, count=40)
    assert max(world.batches for world in worlds) == 2


@pytest.mark.parametrize("world", WORLDS)
def test_an_undisturbed_run_ends_well_and_is_repeatable(world: str) -> None:
    assert run(maker(world)()) == run(maker(world)())
    replay(maker(world), "")


@pytest.mark.timeout(900)
@pytest.mark.parametrize("world", ["everybody", "everybody in few packs"])
def test_nothing_is_lost_in_random_orders_with_everybody(world: str) -> None:
    for policy in ("uniform", "pct"):
        walks = random_walks(maker(world), seed=11, count=200, policy=policy, changes=4, crashes=1)
        assert walks.count == 200


# What another process searches meanwhile.


@pytest.mark.timeout(900)
@pytest.mark.parametrize("gate", GATES, ids=lambda gate: f"{gate.world}, {gate.preemptions}, {gate.crashes}")
def test_nothing_is_lost_in_any_order(aside: Aside, gate: Gate) -> None:
    done = aside.result(explored, gate)
    assert done.complete
    assert done.violations == 0
    print(gate, done)


@pytest.mark.timeout(900)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.rule)
def test_without_a_rule_something_is_lost(aside: Aside, mutant: Mutant) -> None:
    print(aside.result(find, mutant))


@pytest.mark.timeout(900)
def test_the_readme_has_the_table_of_what_each_rule_prevents(aside: Aside) -> None:
    readme = (Path(__file__).parents[1] / "README.md").read_text()
    found = [aside.result(find, mutant) for mutant in MUTANTS]
    assert table(found) in readme, "python -m tests.simulation.table prints the table"
