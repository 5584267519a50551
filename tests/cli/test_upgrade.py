"""`upgrade`: what is of which schema version is said, asked about, and brought to the newest."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshots import SnapshotRepository, codec, head, store_object
from snapshots.layout import STORE_KEY
from snapshots.maintenance.upgrade import plan_upgrade
from storage.backends import open_store
from storage.store import Overwrite
from tests.cli.conftest import Answering, Command
from tests.cli.test_use import DEMO


@pytest.fixture
def of_version_1(cli: Command, url: str) -> Command:
    """Give the command on a store of version 1 with the demo's session and a fork of it."""
    SnapshotRepository.open(url).close()
    store = open_store(url)
    plain = codec.decode(store.get(STORE_KEY).data, key=STORE_KEY)
    store.put(STORE_KEY, codec.encode({**plain, "schema_version": 1}), Overwrite())
    cli("--quiet", "demo")
    cli("fork", f"{DEMO}@3", "child")
    return cli


def test_a_store_is_upgraded_and_says_so(of_version_1: Command, url: str, answering: Answering) -> None:
    before = of_version_1("--json", "log", DEMO).rows
    *rows, summary = of_version_1("--json", "upgrade", "--dry-run").rows
    assert rows == [
        {"record": "store", "schema_version": 1, "number": 1},
        {"record": "head", "schema_version": 1, "number": 2},
    ]
    assert summary == {"store_version": 1, "to": 2, "heads_older": 2}
    shown = of_version_1("upgrade", "--dry-run").out
    assert shown.startswith(f"schema versions of {url}\n")
    assert shown.endswith("the store and 2 of 2 heads can be upgraded to schema version 2\n")
    of_version_1("upgrade", code=2)  # nobody to ask
    answering("n")
    asked = of_version_1("upgrade", code=130).err
    assert asked.startswith(
        f"Upgrade the store and 2 of 2 heads in {url} to schema version 2? Software that reads only"
    )
    report = of_version_1("--json", "--yes", "upgrade").record
    assert report == {"from_version": 1, "to_version": 2, "heads": 2, "heads_upgraded": 2}
    assert of_version_1("--json", "log", DEMO).rows == before
    nothing = "nothing to upgrade: the store and 2 heads are of schema version 2\n"
    assert of_version_1("upgrade").out == nothing  # and nobody was asked
    assert of_version_1("upgrade", "--dry-run").out.endswith(nothing)
    with SnapshotRepository.open(url) as repo:
        assert plan_upgrade(repo).is_empty


def test_only_what_is_older_is_named(of_version_1: Command, url: str) -> None:
    with SnapshotRepository.open(url) as former:
        assert "the store is of schema version 2, 2 of 2 heads upgraded\n" in of_version_1("--yes", "upgrade").out
        former.fork(DEMO, "late")
    shown = of_version_1("upgrade", "--dry-run").out
    assert shown.endswith("1 of 3 heads can be upgraded to schema version 2\n")
    assert "the store and" not in shown


def test_older_software_says_which_version_it_met(of_version_1: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    of_version_1("--yes", "upgrade")
    for module in (store_object, head):
        monkeypatch.setattr(module, "STORE_VERSIONS", (1,))
    told = of_version_1("ls", code=9).err
    assert "schema version 2; this software reads 1: use a newer version of it" in told


def test_without_a_store_nothing_is_made(cli: Command, url: str) -> None:
    cli("upgrade", code=3)
    assert not Path(url.removeprefix("file:")).exists()


def test_a_new_store_has_nothing_to_upgrade(filled: Command) -> None:
    assert filled("upgrade").out == "nothing to upgrade: the store and 1 head are of schema version 2\n"
    assert filled("--json", "upgrade").record["heads_upgraded"] == 0
