"""The real code under every fault: hosts on one store, in an order and a weather that follow from a seed.

from snapshots.testing.simulation import run_seed

run_seed(7)
"""

from __future__ import annotations

from snapshots.testing.simulation.roles import role
from snapshots.testing.simulation.runs import Run, Totals, run_seed, simulate
from snapshots.testing.simulation.stage import Stage

__all__ = ["Run", "Stage", "Totals", "role", "run_seed", "simulate"]
