"""The mutation table of tests/README.md: each rule, where its absence is found, and as what.

python -m tests.simulation.table
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache

import pytest

from snapshots.testing.simulation import run_seed, watch
from storage.testing.simulation import ViolationError, explore, replay
from tests.simulation import protocol
from tests.simulation.mutants import MUTANTS, Mutant
from tests.simulation.worlds import maker, running

CHECKS = (
    "a copy goes on from itself",
    "a record's life",
    "acknowledged",
    "as it was",
    "every count once",
    "every line once",
    "heads only rise",
    "left behind",
    "never corrupt",
    "no message lost",
    "nothing dangles",
    "one order",
    "owner",
    "recorded before it is sent",
    "refused",
    "registered",
    "revisions stay",
    "whole",
)
SEEDS = 400  # runs that look for what only faults show


@dataclass(frozen=True)
class Finding:
    """How the absence of a rule was found.

    Attributes:
        rule: The rule.
        search: What was searched.
        shown_by: A schedule of that world, or a seed.
        violated: The check that failed.
    """

    rule: str
    search: str
    shown_by: str
    violated: str


@cache
def find(mutant: Mutant) -> Finding:
    """Take a rule away and look for the loss. Raises AssertionError if there is none."""
    if not mutant.world:
        return _found_in_seeds(mutant)
    make = maker(mutant.world)
    with pytest.MonkeyPatch.context() as patch:
        running(patch)
        patch.setattr(watch, "_KNOWN", {})  # what a head names, and how it loads, may be told wrongly
        patch.setattr(protocol, "KEPT", {})
        mutant.install(patch)
        with pytest.raises(ViolationError) as caught:
            explore(make, preemptions=mutant.preemptions, prefix=mutant.prefix)
        schedule, cause = caught.value.violation.schedule, str(caught.value.violation.cause)
        with pytest.raises(ViolationError) as again:
            replay(make, schedule)
    assert str(again.value.violation.cause) == cause
    preemptions = f"{mutant.preemptions} pre-emption{'s' if mutant.preemptions != 1 else ''}"
    return Finding(mutant.rule, f"{mutant.world}, {preemptions}", str(schedule), _check_in(cause))


def _found_in_seeds(mutant: Mutant) -> Finding:
    with pytest.MonkeyPatch.context() as patch:
        mutant.install(patch)
        seed, cause = _first_violation(range(mutant.first_seed, mutant.first_seed + SEEDS))
        with pytest.raises(ViolationError):
            run_seed(seed)
    run_seed(seed)  # with the rule nothing is wrong
    return Finding(mutant.rule, "seeded runs", f"seed {seed}", _check_in(cause))


def _first_violation(seeds: Iterable[int]) -> tuple[int, str]:
    for seed in seeds:
        try:
            run_seed(seed)
        except ViolationError as error:
            return seed, str(error.violation.cause)
    raise AssertionError(f"nothing is found in {seeds}")


def _check_in(cause: str) -> str:
    """Return the check that failed; anything else that went wrong is no finding."""
    name = cause.partition(":")[0]
    assert name in CHECKS, cause
    return name


def table(findings: Iterable[Finding]) -> str:
    """Return the table as Markdown."""
    rows = [
        f"| {one.rule} | {one.search} | {f'`{one.shown_by}`' if one.shown_by else 'undisturbed'} | {one.violated} |"
        for one in findings
    ]
    return "\n".join(["| rule taken away | found in | shown by | what fails |", "|---|---|---|---|", *rows])


if __name__ == "__main__":
    print(table(map(find, MUTANTS)))
