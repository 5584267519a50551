"""`repair`: what can be proved is stored again, after a question; what remains or is given up is the exit code."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.cli import repair as command
from snapshots.cli.repair import exit_code_of
from snapshots.errors import InvalidStateError, SnapshotError
from snapshots.maintenance.repair import Refused, RepairPlan, RepairReport, execute
from storage.backends import open_store
from storage.errors import CorruptObjectError
from storage.store import ObjectStore
from tests.cli.conftest import Answering, Command
from tests.cli.test_use import DEMO
from tests.snapshots.damage import altered_index, missing, pack_of, touched, whole

REVISIONS = 11  # of the demo's session


pytestmark = pytest.mark.usefixtures("with_packs")


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
    plan = filled("--json", "repair", "--dry-run", code=4).record
    rows = plan.pop("proposals")
    assert {(row["session_id"], row["key"], row["action"], row["remedy"]) for row in rows} == {
        (DEMO, key, "rebuild", "")
    }
    assert plan == {
        "session_id": DEMO,
        "revision": REVISIONS,
        "content_of": None,
        "dropped": [],
        "left": [key],
        "unreadable": [],
        "held_by": None,
    }
    table = filled("repair", "--dry-run", code=4).out
    assert table.startswith("what was found, and what can be done\n")
    assert "rebuild" in table
    assert "because" in table
    assert "remedy" not in table
    filled("repair", code=2)  # nobody to ask
    filled("verify", code=4)
    done = filled("--json", "--yes", "repair").record
    (one,) = done["repaired"]
    assert (one["session_id"], one["revision"], one["content_of"], one["dropped"]) == (DEMO, REVISIONS, None, [])
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
    plan = filled("--json", "repair", DEMO, "--dry-run", code=4).record
    target = plan["content_of"]
    assert plan["dropped"] == list(range(target + 1, REVISIONS + 1))
    (fall_back,) = {row["remedy"] for row in plan["proposals"] if row["action"] == "fall back"}
    assert fall_back == (
        f"if there is a copy of {key}, restore that object instead and nothing of it is lost; "
        "a repair gives the later revisions up (pin one to keep it named)"
    )
    given_up = given_up_after(target)
    for quiet in ([], ["--quiet"]):
        said = filled(*quiet, "repair", DEMO, "--dry-run", code=4).out.splitlines()
        would = f"{DEMO}: revision {REVISIONS + 1} would have the content of {target}; {given_up} given up"
        assert would in said
    done = filled("--yes", "--quiet", "repair", DEMO, code=11)
    has = f"{DEMO}: revision {REVISIONS + 1} has the content of {target}; {given_up} given up"
    assert done.out.splitlines()[-1] == has
    filled("verify")
    filled("repair")
    after = loaded(url)
    assert {number: after[number] for number in range(1, target + 1)} == {n: before[n] for n in range(1, target + 1)}
    assert REVISIONS not in after


def given_up_after(target: int) -> str:
    return f"revision {REVISIONS} is" if target == REVISIONS - 1 else f"revisions {target + 1}–{REVISIONS} are"


def test_the_question_says_what_is_given_up(
    filled: Command, store: ObjectStore, url: str, answering: Answering
) -> None:
    missing(store, pack(url, REVISIONS))
    target = filled("--json", "repair", "--dry-run", code=4).record["content_of"]
    answering("n")
    asked = filled("repair", code=130).err
    goes_back = f"{DEMO} goes back to revision {target}: {given_up_after(target)} given up."
    assert asked.startswith(f"Repair 1 session? {goes_back} [y/N]:")
    assert asked.splitlines()[-1].endswith("error: not confirmed; nothing was changed")
    answering("y")
    (one,) = filled("--json", "repair", code=11).record["repaired"]
    assert (one["revision"], one["content_of"]) == (REVISIONS + 1, target)
    assert one["dropped"] == list(range(target + 1, REVISIONS + 1))


def test_a_question_about_many_counts_those_that_go_back(cli: Command, url: str, answering: Answering) -> None:
    with SnapshotRepository.open(url, inline_limit_bytes=0) as repo:
        for name in "abcd":
            state = PersistedSessionState(session_id=name)
            for turn in (1, 2):
                state.turn_index = turn
                repo.commit(state, execution_state=bytes([turn]))
        for name in "abcd":
            missing(open_store(url), pack_of(repo, name, 2))
    answering("n")
    asked = cli("repair", code=130).err
    assert asked.startswith("Repair 4 sessions? 4 of them go back to earlier revisions: later ones are given up. [y/N]")
    assert {row["revision"] for row in cli("--json", "ls").rows} == {2}
    done = cli("--yes", "repair", code=11).out
    for name in "abcd":
        assert f"{name}: revision 3 has the content of 1; revision 2 is given up\n" in done


def test_who_holds_a_session_is_told_to_release_it(filled: Command, store: ObjectStore, url: str) -> None:
    filled("acquire", DEMO, "--owner", "host a")
    missing(store, pack(url, REVISIONS))
    plan = filled("--json", "repair", "--dry-run", code=4).record
    assert plan["held_by"] == "host a"
    release = f"release it (snapshots release {DEMO} --owner 'host a'), then repair again"
    remedies = [row["remedy"] for row in plan["proposals"] if row["action"] == "fall back"]
    assert remedies
    assert all(one.startswith(f"held by 'host a': {release}; if there is a copy of ") for one in remedies)
    assert filled("--json", "--yes", "repair", code=7).error["message"].endswith(f"; {release}")
    filled("release", DEMO, "--owner", "host a")
    filled("--yes", "repair", code=11)


def test_what_remains_is_named_and_the_exit_code_4(filled: Command, store: ObjectStore, url: str) -> None:
    key = pack(url, 1)
    missing(store, key)
    rows = filled("--json", "repair", "--dry-run", code=4).record["proposals"]
    left = [row for row in rows if row["action"] == "none"]
    assert left
    assert {row["key"] for row in left} == {key}
    assert all(key in row["remedy"] for row in left)
    done = filled("--json", "--yes", "repair", code=4).record
    assert done["remaining"] == left
    found = filled("--json", "verify", code=4).rows[:-1]
    assert [(row["revision"], row["ref"]) for row in found] == [(row["revision"], row["ref"]) for row in left]
    text = filled("repair", code=4).out  # nothing is written any more, so nobody is asked
    assert text.splitlines()[-1] == ("1 finding remains" if len(left) == 1 else f"{len(left)} findings remain")
    assert "remedy" in text


def test_a_damaged_head_is_named(filled: Command, store: ObjectStore) -> None:
    (key,) = [row.key for row in store.list("default/heads/")]
    altered_index(store, key)
    plan = filled("--json", "repair", "--dry-run", code=4).record
    assert (plan["session_id"], plan["revision"], plan["held_by"]) == ("", None, None)
    (row,) = plan["proposals"]
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
    assert "plan again" in filled("--json", "--yes", "repair", DEMO, code=10).error["message"]
    said = filled("--yes", "--quiet", "repair", code=11).out.splitlines()[-2:]
    assert {line.partition(": ")[0] for line in said} == {"child", DEMO}
    assert all("not repaired (exit code 10)" in line for line in said)
    monkeypatch.setattr(command, "execute", meanwhile(url, DEMO))
    done = filled("--json", "--yes", "repair", code=11).record
    assert [one["session_id"] for one in done["repaired"]] == ["child"]
    assert [one["session_id"] for one in done["refused"]] == [DEMO]
    monkeypatch.undo()
    monkeypatch.setenv("SNAPSHOTS_STORE", url)
    filled("--yes", "repair")
    filled("verify")


def test_a_refusal_for_damage_is_damage_that_remains() -> None:
    def report(error: SnapshotError | CorruptObjectError) -> RepairReport:
        return RepairReport((), (Refused(DEMO, error),), ())

    assert exit_code_of(report(InvalidStateError("plan again"))) == 11
    assert exit_code_of(report(CorruptObjectError("default/heads/x", "altered"))) == 4


def test_a_session_that_is_not_there(filled: Command, cli: Command) -> None:
    filled("repair", "nobody", code=3)
    assert cli("--help").out.count("repair") >= 1


def test_no_store_is_made(cli: Command) -> None:
    cli("repair", code=3)
