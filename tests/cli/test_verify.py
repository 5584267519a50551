"""`verify`."""

from __future__ import annotations

from pathlib import Path

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from storage.backends import open_store
from storage.store import ObjectStore, Overwrite
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO

LEVELS = pytest.mark.parametrize("level", ["heads", "presence", "full"])
REVISIONS = 11  # of the demo's session


@pytest.fixture
def store(filled: Command, url: str) -> ObjectStore:  # noqa: ARG001  for its effect
    return open_store(url)


def packs(store: ObjectStore) -> list[str]:
    """Return the packs in the order of their revisions; their names are random."""
    return [row.key for row in sorted(store.list("default/packs/"), key=lambda row: row.modified_at)]


def damage(store: ObjectStore, key: str, position: int = 30) -> None:
    data = bytearray(store.get(key).data)
    data[position] ^= 1
    store.put(key, bytes(data), Overwrite())


@LEVELS
def test_a_healthy_store(filled: Command, level: str) -> None:
    filled("fork", DEMO, "f1")
    looked = "2 sessions, 12 revisions" if level == "full" else "2 sessions"
    assert filled("verify", "--level", level).out == f"{looked} verified ({level}): no findings\n"
    assert filled("--quiet", "verify", "--level", level).out == ""
    summary = filled("--json", "verify", "--level", level).record
    assert summary["last_key"].startswith("default/heads/")
    del summary["last_key"]
    revisions = REVISIONS + 1 if level == "full" else 0
    assert summary == {"level": level, "sessions": 2, "revisions": revisions, "findings": 0, "complete": True}


def test_findings_are_one_per_line_and_exit_code_4(filled: Command, store: ObjectStore) -> None:
    key = packs(store)[0]
    damage(store, key)
    text = filled("verify", code=4).out.splitlines()
    rows = filled("verify", "--json", code=4).rows
    assert len(text) == len(rows) > 1
    for line, row in zip(text[:-1], rows[:-1], strict=True):
        assert row["key"] == key
        assert row["what"] == "altered"
        assert row["session_id"] == DEMO
        assert line == f"altered: {DEMO}@{row['revision']}: {key}: {row['reason']} [{row['ref']}]"
    assert rows[-1]["findings"] == len(rows) - 1
    # A revision whose own manifest is altered cannot be looked into.
    assert rows[-1]["revisions"] in (REVISIONS, REVISIONS - 1)
    assert text[-1].startswith(f"1 session, {rows[-1]['revisions']} revisions verified (full): {len(rows) - 1} finding")
    assert filled("--quiet", "verify", code=4).out.splitlines() == text[:-1], "findings are the result"


def test_a_missing_pack(filled: Command, store: ObjectStore) -> None:
    key = packs(store)[0]
    store.delete(key)
    filled("verify", "--level", "heads")
    for level in ("presence", "full"):
        rows = filled("--json", "verify", "--level", level, code=4).rows
        assert {(row["what"], row["key"]) for row in rows[:-1]} == {("missing", key)}


def test_a_damaged_head(filled: Command, store: ObjectStore) -> None:
    (key,) = [row.key for row in store.list("default/heads/")]
    damage(store, key)
    for arguments in (["verify"], ["verify", DEMO], ["verify", "--level", "heads"]):
        finding, summary = filled("--json", *arguments, code=4).rows
        assert (finding["what"], finding["key"], finding["revision"]) == ("head", key, None)
        assert summary["findings"] == 1
        assert filled(*arguments, code=4).out.startswith(f"head: {key}: ")


def test_one_session_alone(filled: Command, store: ObjectStore, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.fork(DEMO, "f1")
    damage(store, packs(store)[-1])
    filled("verify", "--level", "full", code=4)
    assert filled("--json", "verify", DEMO, code=4).rows[-1]["sessions"] == 1
    assert filled("--json", "verify", "none", code=3).out == ""


def test_it_goes_on_after_a_key(filled: Command, store: ObjectStore) -> None:
    filled("fork", DEMO, "f1")
    keys = [row.key for row in store.list("default/heads/")]
    summary = filled("--json", "verify", "--start-after", keys[0]).record
    assert (summary["sessions"], summary["last_key"]) == (1, keys[1])
    summary = filled("--json", "verify", "--start-after", keys[1]).record
    assert (summary["sessions"], summary["last_key"]) == (0, keys[1])


def test_a_store_that_stops_answering_says_where_to_go_on(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        for name in ("a", "b"):
            repo.commit(PersistedSessionState(session_id=name))
        keys = {info.session_id: repo.environment.layout.head(info.session_id) for info in repo.sessions()}
    first, second = sorted(keys, key=lambda name: keys[name])
    (pack,) = open_store(url).list(f"default/packs/{second}/")
    path = Path(url.removeprefix("file:"), pack.key)
    path.unlink()
    path.symlink_to(path)  # which the system refuses to follow
    outcome = cli("--json", "verify", code=6)
    assert outcome.record["last_key"] == keys[first]
    assert outcome.record["complete"] is False
    assert outcome.error["key"] == pack.key
    assert f"--start-after {keys[first]}\n" in cli("verify", code=6).out


def test_an_unknown_level_is_a_matter_of_usage(filled: Command) -> None:
    assert "presence" in filled("verify", "--level", "deep", code=2).err


def test_no_store_is_made(cli: Command) -> None:
    cli("verify", code=3)
