"""Seeded runs of hosts under weather: nothing is lost, nothing is wrong, and the same seed is the same run.

SNAPSHOTS_SIMULATE_SECONDS=600 python -m pytest -s tests/simulation/test_seeds.py
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from secrets import randbelow

import pytest

from snapshots.testing.simulation import Stage, run_seed, runs, simulate
from snapshots.testing.simulation.hosts import Host
from snapshots.testing.simulation.roles import COPY_ROLES, ROLES, role
from snapshots.testing.simulation.weather import CRASH_AFTER, CRASH_BEFORE, EXPIRED, FULL, KINDS, POWER_CUT, STORM
from storage.clock import SystemClock
from storage.testing.clock import ManualClock
from tests.simulation.former import FORMER

SECONDS = float(os.environ.get("SNAPSHOTS_SIMULATE_SECONDS", "120"))
FIRST = int(os.environ.setdefault("SNAPSHOTS_SIMULATE_SEED", str(randbelow(1 << 32))))  # the same in every process
STEPS_MIN = 200
OFTEN = 5  # in a hundred runs
BESIDE_HEADS = {
    *(f"{what} {told}" for what in ("rows", "saves", "titles", "deltas") for told in ("done", "refused", "unknown")),
    *("frames sent", "frames gated", "frames failed", "sent", "received", "cuts"),
    *("reaped", "expired", "superseded"),
}
OF_COPIES = {"done", "refused", "unknown", "conflict"}
EVERY_KIND = (*KINDS, STORM, EXPIRED, FULL, CRASH_BEFORE, CRASH_AFTER, POWER_CUT)


@pytest.mark.aside
@pytest.mark.timeout(SECONDS + 900)
def test_nothing_is_lost_under_fresh_seeds() -> None:
    print(f"\nseeds from {FIRST}")
    totals = simulate(range(FIRST, FIRST + (1 << 32)), seconds=SECONDS, clock=SystemClock())
    print(
        f"{totals.runs} runs, {totals.steps} steps, the shortest run {totals.shortest}; faults: {dict(totals.faults)}"
    )
    assert not totals.failed, "\n".join(totals.failed.values())
    assert totals.shortest >= STEPS_MIN


@pytest.mark.parametrize("seed", FORMER)
def test_nothing_is_lost_where_something_once_was_wrong(seed: int) -> None:
    run_seed(seed)


@pytest.mark.aside
def test_every_kind_of_fault_happens_and_every_outcome_is_told() -> None:
    stages: list[Stage] = []
    satellites: Counter[str] = Counter()
    copies: Counter[str] = Counter()

    def staged(seed: int) -> Stage:
        stages[:] = [Stage(seed)]
        return stages[0]

    def counted(_: object) -> None:
        watched = stages[0].watch.satellites
        satellites.update(stages[0].notes.satellites.counts())
        satellites.update({"superseded": watched.superseded, "expired": watched.expired})
        told = stages[0].notes.copies.told
        copies.update("conflict" if one.is_conflict else one.operation.told or "unknown" for one in told)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(runs, "Stage", staged)
        totals = simulate(range(1, 101), seconds=600, clock=SystemClock(), progress=counted)
    assert not totals.failed, "\n".join(totals.failed.values())
    assert totals.runs == 100
    assert set(totals.faults) == set(EVERY_KIND)
    for what in (
        "commit done",
        "commit refused",
        "commit unknown",
        "commit gone",
        "commit dropped",
        "read done",
        "delete done",
    ):
        assert totals.operations[what], what
    assert {what for what, count in satellites.items() if count >= OFTEN} == BESIDE_HEADS, satellites
    assert set(copies) == OF_COPIES, copies


def test_every_role_is_cast() -> None:
    cast = Counter(name.rstrip("0123456789") for seed in range(1, 40) for name in Stage(seed).actors)
    assert set(cast) == {*ROLES, *COPY_ROLES}


def test_a_role_registers_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    acted: list[str] = []

    def act(host: Host) -> None:
        acted.append(host.name)
        host.load("s1")

    monkeypatch.setitem(ROLES, "watcher", ROLES["reader"])  # so that it is taken away again
    role("watcher", least=1, most=1)(act)
    run_seed(1)
    assert set(acted) == {"watcher1"}


def test_the_time_ends_a_simulation_after_the_run_that_is_under_way() -> None:
    told: list[int] = []
    totals = simulate(range(5, 100), seconds=0, clock=ManualClock(), progress=lambda now: told.append(now.last))
    assert (totals.runs, totals.first, totals.last, told) == (1, 5, 5, [5])


SAME = """
from snapshots.testing.simulation import run_seed
for seed in (3, 7, 11, 19): print(run_seed(seed))
"""


def test_the_same_seed_is_the_same_run_in_every_process() -> None:
    runs = {
        subprocess.run(
            [sys.executable, "-c", SAME],
            env={**os.environ, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }
    assert len(runs) == 1
    assert "trace=" in runs.pop()
