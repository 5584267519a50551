"""`collect`: what nobody names is said, asked about, and deleted."""

from __future__ import annotations

from snapshots import SnapshotRepository
from storage.backends import open_store
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO


def packs(url: str) -> int:
    return sum(1 for _ in open_store(url).list("default/packs/"))


def test_what_nobody_names_is_deleted(filled: Command, url: str) -> None:
    filled("fork", f"{DEMO}@3", "child")
    before = packs(url)
    assert filled("--json", "collect", "--dry-run").rows == []
    nothing = filled("--json", "collect").record
    assert (nothing["packs_deleted"], nothing["requests"], nothing["stopped"]) == (0, 0, None)
    filled("--yes", "rm", DEMO)
    (garbage,) = filled("--json", "collect", "--dry-run").rows
    assert garbage["family"] == DEMO
    assert packs(url) == before
    filled("collect", code=2)  # nobody to ask
    assert packs(url) == before
    report = filled("--json", "--yes", "collect").record
    assert report["packs_deleted"] == garbage["packs"] == before - packs(url)
    assert report["heads_raised"] == 2
    with SnapshotRepository.open(url) as repo:
        assert repo.load("child", execution_state=True).head_revision == 1
    filled("--yes", "rm", "child")
    assert "packs deleted" in filled("--yes", "gc").out
    assert packs(url) == 0


def test_a_family_that_cannot_be_read_is_named_and_left_alone(filled: Command, url: str) -> None:
    filled("fork", DEMO, "child")
    store = open_store(url)
    for row in store.list("default/packs/"):
        store.delete(row.key)
    outcome = filled("collect", "--dry-run", code=11)
    assert "1 spared" in outcome.out


def test_the_alias_is_not_in_the_help(cli: Command) -> None:
    text = cli("--help").out
    assert "collect" in text
    assert " gc " not in text
