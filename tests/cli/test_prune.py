"""`prune`: what would go is said, asked about, dropped; and the store shrinks with the next collection."""

from __future__ import annotations

import time

import pytest

from snapshots import SnapshotRepository
from storage.backends import open_store
from tests.cli.conftest import Answering, Command
from tests.cli.test_use import DEMO


def stored(url: str) -> int:
    return sum(row.size_bytes for row in open_store(url).list("default/packs/"))


def test_revisions_are_dropped_and_the_store_shrinks(filled: Command, url: str, answering: Answering) -> None:
    filled("pin", DEMO, "3", "good")
    *plan, record = filled("--json", "prune", DEMO, "--last", "2", "--dry-run").rows
    dropped = [1, 2, *range(4, 10)]
    assert record == {"session_id": DEMO, "kept": [3, 10, 11], "dropped": dropped, "pins_removed": []}
    shown = filled("prune", DEMO, "--last", "2", "--dry-run").out.splitlines()
    assert shown[-2:] == [
        f"8 of 11 revisions of session {DEMO} would be dropped, 3 kept",
        "their bytes come back with snapshots collect",
    ]
    fates = {row["revision"]: row["fate"] for row in plan}
    assert {number for number, fate in fates.items() if fate == "kept"} == {3, 10, 11}
    assert plan[2]["reasons"] == "pin good"
    filled("prune", DEMO, "--last", "2", code=2)  # nobody to ask
    answering("n")
    asked = filled("prune", DEMO, "--last", "2", code=130).err
    assert asked.startswith(f"Drop 8 of 11 revisions of session '{DEMO}' of {url}? ")
    assert filled("--json", "--yes", "prune", DEMO, "--last", "2").record == record
    assert filled("--json", "--yes", "prune", DEMO, "--last", "2").record["dropped"] == []
    gone = filled("show", f"{DEMO}@4", code=3).err
    assert "retention or a repair dropped it" in gone
    assert gone.endswith("; choose one that is retained (snapshots log shows them)\n")
    log = filled("log", DEMO).out
    assert log.count("no longer") == 8
    assert "retained" in log
    filled("show", f"{DEMO}@good")
    before = stored(url)
    filled("--yes", "collect")
    assert stored(url) <= before
    with SnapshotRepository.open(url) as repo:
        for revision in (3, 10, 11):
            assert repo.load(DEMO, revision, execution_state=True).head_revision == revision
        assert len(repo.history(DEMO)) == 11
    again = filled("--yes", "prune", DEMO, "--last", "2").out
    assert again == f"0 of 3 revisions of session {DEMO} dropped, 3 kept\n"


def test_pins_that_have_expired_are_named(filled: Command) -> None:
    filled("pin", DEMO, "3", "old", "--for", "1s")
    time.sleep(1.1)  # the command goes by the real clock, and the pin lasts a second
    said = f"8 of 11 revisions and 1 expired pin (old) of session {DEMO}"
    for arguments in (["--dry-run"], []):
        record = filled("--json", "--yes", "prune", DEMO, "--last", "3", "--dry-run").rows[-1]
        assert record["pins_removed"] == ["old"]
        verb = "would be dropped" if arguments else "dropped"
        assert f"{said} {verb}, 3 kept\n" in filled("--yes", "prune", DEMO, "--last", "3", *arguments).out


def test_help_says_what_is_counted(cli: Command) -> None:
    text = " ".join(cli("prune", "--help").out.split())
    for unit in ("days", "weeks", "months"):
        assert f"each of the last N {unit}." in text


@pytest.mark.parametrize(
    "options", [(), ("--last", "0"), ("--within", "soon"), ("--within", "999999999w"), ("--daily", "-1")]
)
def test_rules_that_keep_nothing_are_errors_of_usage(filled: Command, options: tuple[str, ...]) -> None:
    said = filled("prune", DEMO, *options, code=2).err
    assert "None" not in said
    assert "=" not in said


def test_a_missing_session_is_not_pruned(filled: Command) -> None:
    filled("prune", "nobody", "--last", "1", code=3)
