"""Repairing: storing again what damage has taken, as far as it can be proved. `verify` finds, this writes.

plan = plan_repair(repo, "s1")
print(plan)
report = execute(plan)
"""

from __future__ import annotations

from snapshots.maintenance.repair.execution import Quarantined, Refused, Repaired, RepairReport, execute
from snapshots.maintenance.repair.plan import Action, Proposal, RepairPlan, SessionPlan, plan_repair

__all__ = [
    "Action",
    "Proposal",
    "Quarantined",
    "Refused",
    "RepairPlan",
    "RepairReport",
    "Repaired",
    "SessionPlan",
    "execute",
    "plan_repair",
]
