"""`repair`: what can be proved is stored again, after a question; what remains is named, and is the exit code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from snapshots import SnapshotRepository
from snapshots.cli import repair as command
from snapshots.maintenance.repair import RepairPlan, RepairReport, execute
from storage.backends import open_store
from storage.store import ObjectStore
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO
from tests.snapshots.damage import altered_index, missing, pack_of, touched, whole

REVISIONS = 11  # of the demo's session


@pytest.fixture
def store(filled: Command, url: str) -> ObjectStore:  # noqa: ARG001  for its effect
    return open_store(url)


def pack(url: str, revision: int) -> str:
    with SnapshotRepository.open(url) as repo:
        return pack_of(repo, DEMO, revision)


def loaded(url: str, session_id: str = DEMO) -> dict[int, str]:
    with SnapshotRepository.open(url) as repo:
        return whole(repo, session_id)


def test_there_is_nothing_to_repair(filled: Command) -> None:
    for arguments in (["repair"], ["repair", DEMO], ["repair", "--dry-run"]):
        assert filled(*arguments).out.splitlines()[-1] == "no damage found: nothing to repair"
    assert filled("--quiet", "repair").out == ""
    assert filled("--json", "repair", "--dry-run").rows == []
    done = filled("--json", "repair").record
    assert (done["repaired"], done["refused"], done["remaining"], done["requests"]) == ([], [], [], 0)


def test_what_can_be_proved_is_stored_again(filled: Command, store: ObjectStore, url: str) -> None:
    before, key = loaded(url), pack(url, 3)
    altered_index(store, key)
    rows = filled("--json", "repair", "--dry-run").rows
    assert {(row["session_id"], row["key"], row["action"]) for row in rows} == {(DEMO, key, "rebuild")}
    table = filled("repair", "--dry-run").out
    assert "rebuild" in table
    assert "because" in table
    assert "remedy" not in table
    filled("repair", code=2)  # nobody to ask
    filled("verify", code=4)
    done = filled("--json", "--yes", "repair").record
    (one,) = done["repaired"]
    assert (one["session_id"], one["revision"], one["dropped"]) == (DEMO, REVISIONS, [])
    (copy,) = one["quarantined"]
    assert copy["key"] == key
    assert store.get(copy["copy_key"]).data == store.get(key).data
    assert done["remaining"] == []
    filled("verify")
    assert loaded(url) == before
    filled("--yes", "collect")
    filled("verify")
    assert store.stat(copy["copy_key"]).size_bytes


def test_a_fall_back_is_said_before_it_is_done(filled: Command, store: ObjectStore, url: str) -> None:
    before, key = loaded(url), pack(url, REVISIONS)
    missing(store, key)
    plan = filled("repair", DEMO, "--dry-run")
    target = int(plan.out.rpartition("content of revision ")[2].split()[0])
    assert f"revision {REVISIONS + 1} would have the content of revision {target} again" in plan.out
    done = filled("--yes", "repair", DEMO)
    assert "fall back" in done.out
    assert f"{DEMO}: repaired, at revision {REVISIONS + 1}" in done.out
    filled("verify")
    after = loaded(url)
    assert {number: after[number] for number in range(1, target + 1)} == {n: before[n] for n in range(1, target + 1)}


def test_what_remains_is_named_and_the_exit_code_4(filled: Command, store: ObjectStore, url: str) -> None:
    key = pack(url, 1)
    missing(store, key)
    rows = filled("--json", "repair", "--dry-run", code=4).rows
    left = [row for row in rows if row["action"] == "none"]
    assert left
    assert {row["key"] for row in left} == {key}
    assert all(key in row["remedy"] for row in left)
    done = filled("--json", "--yes", "repair", code=4).record
    assert done["remaining"] == left
    found = filled("--json", "verify", code=4).rows[:-1]
    assert [(row["revision"], row["ref"]) for row in found] == [(row["revision"], row["ref"]) for row in left]
    text = filled("repair", code=4).out  # nothing is written any more, so nobody is asked
    assert text.splitlines()[-1] == f"{len(left)} findings remain"
    assert "remedy" in text


def test_a_damaged_head_is_named(filled: Command, store: ObjectStore) -> None:
    (key,) = [row.key for row in store.list("default/heads/")]
    altered_index(store, key)
    (row,) = filled("--json", "repair", "--dry-run", code=4).rows
    assert (row["what"], row["key"], row["action"], row["session_id"]) == ("head", key, "none", "")
    assert key in row["remedy"]


def meanwhile(url: str, *session_ids: str) -> Callable[..., RepairReport]:
    """Return an execution before which others change what these sessions name."""

    def late(plan: RepairPlan, **options: object) -> RepairReport:
        with SnapshotRepository.open(url) as repo:
            for session_id in session_ids:
                touched(repo, session_id, repo.environment.clock.new_id())
        assert options
        return execute(plan)

    return late


def test_a_session_that_changed_meanwhile_is_refused(
    filled: Command, store: ObjectStore, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled("fork", DEMO, "child")
    altered_index(store, pack(url, REVISIONS))
    monkeypatch.setattr(command, "execute", meanwhile(url, DEMO, "child"))
    assert "plan again" in filled("--json", "--yes", "repair", code=10).error["message"]
    monkeypatch.setattr(command, "execute", meanwhile(url, DEMO))
    done = filled("--json", "--yes", "repair", code=11).record
    assert [one["session_id"] for one in done["repaired"]] == ["child"]
    assert [one["session_id"] for one in done["refused"]] == [DEMO]
    monkeypatch.undo()
    monkeypatch.setenv("SNAPSHOTS_STORE", url)
    filled("--yes", "repair")
    filled("verify")


def test_a_session_that_is_not_there(filled: Command, cli: Command) -> None:
    filled("repair", "nobody", code=3)
    assert cli("--help").out.count("repair") >= 1


def test_no_store_is_made(cli: Command) -> None:
    cli("repair", code=3)
