"""`prune`: what would go is said, asked about, dropped; and the store shrinks with the next collection."""

from __future__ import annotations

import pytest

from snapshots import SnapshotRepository
from storage.backends import open_store
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO


def stored(url: str) -> int:
    return sum(row.size_bytes for row in open_store(url).list("default/packs/"))


def test_revisions_are_dropped_and_the_store_shrinks(filled: Command, url: str) -> None:
    filled("pin", DEMO, "3", "good")
    plan = filled("--json", "prune", DEMO, "--last", "2", "--dry-run").rows
    fates = {row["revision"]: row["fate"] for row in plan}
    assert {number for number, fate in fates.items() if fate == "kept"} == {3, 10, 11}
    assert plan[2]["reasons"] == "pin good"
    filled("prune", DEMO, "--last", "2", code=2)  # nobody to ask
    done = filled("--json", "--yes", "prune", DEMO, "--last", "2").record
    assert (done["kept"], len(done["dropped"]), done["pins_removed"]) == ([3, 10, 11], 8, [])
    assert filled("--json", "--yes", "prune", DEMO, "--last", "2").record["dropped"] == []
    filled("show", f"{DEMO}@4", code=3)
    filled("show", f"{DEMO}@good")
    before = stored(url)
    filled("--yes", "collect")
    assert stored(url) <= before
    with SnapshotRepository.open(url) as repo:
        for revision in (3, 10, 11):
            assert repo.load(DEMO, revision, execution_state=True).head_revision == revision
        assert len(repo.history(DEMO)) == 11
    assert "dropped, 3 kept" in filled("--yes", "prune", DEMO, "--last", "2").out


@pytest.mark.parametrize(
    "options", [(), ("--last", "0"), ("--within", "soon"), ("--within", "999999999w"), ("--daily", "-1")]
)
def test_rules_that_keep_nothing_are_errors_of_usage(filled: Command, options: tuple[str, ...]) -> None:
    filled("prune", DEMO, *options, code=2)


def test_a_missing_session_is_not_pruned(filled: Command) -> None:
    filled("prune", "nobody", "--last", "1", code=3)
