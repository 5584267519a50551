"""`simulate`."""

from __future__ import annotations

import sys

import pytest

from snapshots import publish as publishing
from snapshots import verdict
from snapshots.head import Head
from snapshots.verdict import Intent
from tests.cli.conftest import Command


def test_seeds_are_run_and_counted(cli: Command) -> None:
    shown = cli("simulate", "--seeds", "1..3").out
    assert "seeds 1..3: 3 runs, " in shown
    assert "0 violations" in shown
    assert shown.startswith("faults that were injected\n")
    record = cli("simulate", "--seeds", "1..3", "--json").record
    assert (record["first"], record["last"], record["complete"], record["runs"]) == (1, 3, True, 3)
    assert record["violations"] == 0
    assert record["shortest"] >= 200
    assert record["steps"] >= 3 * record["shortest"]
    assert record == cli("simulate", "--seeds", "1..3", "--json").record


def test_fresh_seeds_until_the_time_is_over(cli: Command) -> None:
    record = cli("simulate", "--seconds", "0", "--json").record
    assert (record["runs"], record["complete"]) == (1, True)
    assert record["first"] == record["last"]
    assert "not run" not in cli("simulate", "--seconds", "0").out


def test_stopped_early_it_says_how_much_was_not_run(cli: Command) -> None:
    shown = cli("simulate", "--seeds", "1..100000", "--seconds", "0").out.splitlines()
    assert shown[-1] == "stopped after 0 s: 99,999 seeds were not run"
    assert shown[-2].startswith("seeds 1..1: 1 run, ")
    record = cli("simulate", "--seeds", "5..6", "--seconds", "0", "--json").record
    assert (record["first"], record["last"], record["complete"]) == (5, 5, False)
    assert cli("simulate", "--seeds", "5..6", "--seconds", "0").out.endswith(" 1 seed was not run\n")


@pytest.mark.parametrize("seeds", ["x", "1..", "..3", "1-3", "3..1"])
def test_what_is_no_range_of_seeds_is_refused(cli: Command, seeds: str) -> None:
    assert "snapshots simulate --help" in cli("simulate", "--seeds", seeds, code=2).err


def test_a_violation_is_exit_code_4_and_says_how_to_repeat_it(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def hasty(intent: Intent, head: Head | None, history: None = None) -> verdict.Verdict:
        return (None if head is None else verdict._moved_on(intent, head)) or verdict.decide(intent, head, history)

    monkeypatch.setattr(publishing, "decide", hasty)
    rows = cli("simulate", "--seeds", "1..30", "--json", code=4).rows
    assert rows[-1]["violations"] == len(rows) - 1 > 0
    seed = rows[0]["seed"]
    assert f"snapshots simulate --seeds {seed}\n" in rows[0]["violation"]
    shown = cli("simulate", "--seeds", str(seed), code=4).out
    assert f"seed {seed}: refused: " in shown
    quiet = cli("simulate", "--seeds", str(seed), "--quiet", code=4).out
    assert f"seed {seed}: refused: " in quiet
    assert quiet.splitlines()[-1].endswith(", 1 violation")


def test_without_greenlet_it_says_what_to_install(cli: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if "testing.simulation" in name]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("snapshots.testing.simulation", raising=False)  # what is imported stands there too
    monkeypatch.setitem(sys.modules, "greenlet", None)
    assert "pip install '.[simulate]' where this software was cloned" in cli("simulate", code=2).err
    assert 'extra "simulate"' in " ".join(cli("simulate", "--help").out.split())
