"""The commands that move sessions between stores: what they do, what they say, and how they end."""

from __future__ import annotations

import io
import re
import signal
import sys
from pathlib import Path

import pytest

from snapshots import SnapshotRepository
from snapshots.cli import copying
from snapshots.head import TOMBSTONE
from snapshots.layout import Layout
from snapshots.usage import UsageLog
from storage.backends import open_store
from storage.store import ObjectStore
from storage.testing.faults import FailBefore, FaultyStore, Meanwhile
from tests.cli.conftest import Answering, Command, at_terminal
from tests.cli.test_use import DEMO
from tests.integration.builders import new_session, take_turn
from tests.snapshots.copy.fleets import bytes_of, damage

LAYOUT = Layout("default")
NAMES = [DEMO, "other", "kid", "nobody"]
"""In the order in which they are copied: the third is a fork of the first, the last has a usage log alone."""
READ_ONLY = "an archive is read-only; import it, or write a new one"
PLAN_KEYS = ["session_id", "target", "action", "revision", "known", "packs", "bytes", "reason"]
ROW_KEYS = ["session_id", "target", "outcome", "before", "revision", "packs", "uploaded_bytes", "error", "message"]


@pytest.fixture
def there(tmp_path: Path) -> str:
    return f"file:{tmp_path / 'there'}"


@pytest.fixture
def two(cli: Command, url: str) -> Command:
    """Give the command on a store with a session, a fork, another session, and a usage log of none."""
    cli("--quiet", "demo")
    cli("fork", f"{DEMO}@3", "kid")
    with SnapshotRepository.open(url) as repo:
        repo.commit(new_session("other", "a0", "a1"))
        UsageLog(repo, "nobody").append('{"model": "m", "input_tokens": 1}')
    return cli


def store_of(url: str) -> ObjectStore:
    return open_store(url)


def commit(url: str, name: str, turn: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.commit(take_turn(repo.load(name), turn))


# copy.


def test_a_copy_says_what_it_did_and_again_that_there_is_nothing_to_do(two: Command, url: str, there: str) -> None:
    before = bytes_of(store_of(url))
    said = two("copy", url, there).out
    assert re.fullmatch(rf"4 sessions copied to {there} \([0-9.]+ KiB\), [0-9]+ requests\n", said)
    assert bytes_of(store_of(url)) == before
    kept = bytes_of(store_of(there))
    assert two("copy", url, there).out.startswith(f"0 sessions copied, 4 there already, to {there} (0 B), ")
    assert bytes_of(store_of(there)) == kept
    assert two("--store", there, "log", DEMO).out == two("log", DEMO).out
    assert two("--store", there, "verify").out.endswith("no findings\n")
    assert two("--quiet", "copy", url, there).out == ""


def test_rows_are_of_each_session_and_of_all(two: Command, url: str, there: str) -> None:
    *rows, summary = two("--json", "copy", url, there).rows
    assert [row["session_id"] for row in rows] == NAMES
    assert all(list(row) == ROW_KEYS for row in rows)
    assert rows[0]["outcome"] == "copied"
    assert (rows[0]["before"], rows[0]["revision"], rows[0]["error"], rows[0]["message"]) == (0, 11, None, None)
    assert (summary["sessions"], summary["copied"], summary["not_copied"]) == (4, 4, 0)
    assert summary["uploaded_bytes"] == sum(row["uploaded_bytes"] for row in rows) > 0
    assert summary["requests"] > 10
    *rows, summary = two("--json", "copy", url, there, "kid").rows
    assert [(row["session_id"], row["outcome"]) for row in rows] == [("kid", "same")]
    assert (summary["sessions"], summary["same"], summary["uploaded_bytes"]) == (1, 1, 0)


@pytest.mark.parametrize("command", ["copy", "migrate", "backup"])
def test_a_dry_run_writes_nothing_and_makes_no_store(two: Command, url: str, there: str, command: str) -> None:
    words = [command, *([] if command == "backup" else [url]), there, "--dry-run"]
    before = bytes_of(store_of(url))
    rows = two("--json", *words).rows
    assert all(list(row) == PLAN_KEYS for row in rows)
    planned = [(row["session_id"], row["action"], row["revision"]) for row in rows]
    assert planned == [(DEMO, "new", 11), ("other", "new", 1), ("kid", "new", 1), ("nobody", "beside", 0)]
    assert [row["bytes"] > 0 for row in rows] == [True, True, False, False], "a fork shares the packs"
    shown = two(*words).out
    lies = "1 that are no sessions here, with what lies beside one"
    assert re.search(rf"\n4 sessions: 3 new, {lies}; [0-9]+ packs \([0-9.]+ KiB\) to copy\n$", shown)
    assert not Path(there.removeprefix("file:")).exists()
    assert bytes_of(store_of(url)) == before
    two("copy", url, there)
    commit(url, "other", "more")
    kept = bytes_of(store_of(there))
    again = {row["session_id"]: row["action"] for row in two("--json", *words).rows}
    assert again == {DEMO: "same", "kid": "same", "other": "further", "nobody": "beside"}
    assert "4 sessions: 1 went on, 2 there already" in two(*words).out
    assert bytes_of(store_of(there)) == kept


def test_a_dry_run_of_nothing_says_so(cli: Command, url: str, there: str) -> None:
    with SnapshotRepository.open(url):
        assert cli("copy", url, there, "--dry-run").out == "there are no sessions to copy\n"


def test_another_id_another_tenant_another_history_and_another_pace(two: Command, url: str, there: str) -> None:
    two("copy", url, there, DEMO, "--as", "twin", "--to-tenant", "t2", "--history", "head", "--rate-limit", "2G")
    (row,) = two("--json", "--store", there, "--tenant", "t2", "ls").rows
    assert (row["session_id"], row["revision"]) == ("twin", 11)
    assert two("--json", "--store", there, "ls").rows == []
    options = ("--as", "twin", "--to-tenant", "t2", "--history", "head")
    assert two("verify-copy", url, there, DEMO, *options).out == "1 session, 1 revision compared: no difference\n"
    (*found, _) = two("--json", "verify-copy", url, there, DEMO, "--as", "twin", "--to-tenant", "t2", code=4).rows
    assert {row["what"] for row in found} == {"retention"}
    two("copy", url, url, DEMO, "--as", "twin")
    assert two("--store", url, "verify").out.endswith("no findings\n")


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("never",), 3, "check the id"),
        (("gone",), 3, "was deleted"),
        (("kid", "other", "--as", "x"), 10, "name it"),
        (("--as", "x"), 10, "name it"),
        (("kid", "--as", "a\nb"), 10, "session id"),
        (("--rate-limit", "0"), 2, "see snapshots copy --help"),
        (("--rate-limit", "fast"), 2, "see snapshots copy --help"),
        (("--history", "all"), 2, "see snapshots copy --help"),
        (("--to-tenant", "x" * 600), 10, "tenant"),
    ],
)
def test_what_cannot_be_copied_is_said_with_what_to_do(
    two: Command, url: str, there: str, words: tuple[str, ...], code: int, said: str
) -> None:
    two("fork", "kid", "gone")
    two("--yes", "rm", "gone")
    for shown in ((), ("--dry-run",)):
        outcome = two("copy", url, there, *words, *shown, code=code)
        assert said in outcome.err
        assert (outcome.err.count("\n"), outcome.out) == (1, "")


def test_stores_that_are_not_there_or_are_one(two: Command, url: str, there: str, tmp_path: Path) -> None:
    same = f"file:{tmp_path}/./store"
    assert "the same store" in two("copy", url, same, code=10).err
    assert "there is no store here" in two("copy", there, url, code=3).err
    assert "there is no store here" in two("--store", there, "backup", url, code=3).err
    assert "there is no store here" in two("verify-copy", url, there, code=3).err
    assert not Path(there.removeprefix("file:")).exists()
    assert "ftp://x" in two("copy", url, "ftp://x", code=10).err


# What is not copied.


def test_what_is_damaged_is_named_and_the_rest_is_copied(two: Command, url: str, there: str) -> None:
    damage(store_of(url), LAYOUT.head("other"))
    line, note = two("copy", url, there, code=11).out.splitlines()
    assert line.startswith(f"other was not copied: {LAYOUT.head('other')}: ")
    assert line.endswith("run snapshots verify, then snapshots repair")
    assert note.startswith("3 sessions copied to ")
    (quiet,) = two("--quiet", "copy", url, there, code=11).out.splitlines()
    assert quiet == line
    *rows, summary = two("--json", "copy", url, there, code=11).rows
    (row,) = [row for row in rows if row["error"]]
    assert (row["session_id"], row["outcome"], row["error"]) == ("other", "damaged", "CorruptSnapshotError")
    assert (summary["not_copied"], summary["same"]) == (1, 3)
    alone = two("copy", url, there, "other", code=4)
    assert alone.err.startswith(f"error: {LAYOUT.head('other')}: ")
    assert alone.out == ""


def test_what_moved_on_there_is_a_conflict(two: Command, url: str, there: str) -> None:
    two("copy", url, there)
    commit(there, "other", "there")
    commit(url, "other", "here")
    kept = bytes_of(store_of(there))
    assert "1 in conflict" in two("copy", url, there, "--dry-run").out
    assert "other was not copied: " in two("copy", url, there, code=11).out
    alone = two("copy", url, there, "other", code=5).err
    assert "another one than in the source" in alone
    assert "; " in alone, "with a remedy"
    assert bytes_of(store_of(there)) == kept


def test_a_copy_that_moves_is_a_migration(two: Command, url: str, there: str) -> None:
    for option in ("--as=new", "--history=head"):
        assert "whole" in two("--yes", "copy", url, there, "kid", "--move", option, code=2).err
    assert "1 session moved" in two("--yes", "copy", url, there, "kid", "--move").out
    assert there.partition(":")[2] in two("--store", url, "log", "kid", code=3).err
    two("--store", there, "log", "kid")


def test_an_archive_is_no_destination(two: Command, url: str, tmp_path: Path) -> None:
    path = tmp_path / "my.snapshots"
    two("export", "kid", str(path))
    before = path.read_bytes()
    for name in (path, tmp_path / "my2.snapshots"):
        assert "snapshots export" in two("copy", url, f"archive:{name}", code=2).err
        assert "snapshots export" in two("--yes", "migrate", url, f"archive:{name}", code=2).err
    two("copy", url, f"archive:{path}", "--dry-run")
    assert path.read_bytes() == before


def test_an_archive_is_a_source_like_any_other_and_cannot_be_left(
    two: Command, url: str, there: str, tmp_path: Path
) -> None:
    archive = f"archive:{tmp_path}/my.snapshots"
    two("export", archive.removeprefix("archive:"))
    two("copy", archive, there)
    assert "no difference" in two("verify-copy", url, there).out
    assert two("--yes", "migrate", archive, there, code=11).out.count(READ_ONLY) == 4


def test_a_store_that_does_not_answer_is_worth_a_retry(
    two: Command, url: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    two("copy", url, there)
    commit(url, "other", "more")
    faulty = FaultyStore(store_of(there))
    faulty.plan.on("put", "", fault=FailBefore("no"), times=10**6)
    monkeypatch.setattr("snapshots.cli.invocation.open_store", lambda one: faulty if one == there else open_store(one))
    assert "; retry" in two("copy", url, there, "other", code=6).err
    assert "other was not copied: " in two("copy", url, there, code=11).out
    faulty.plan.clear()
    faulty.plan.on("*", "", fault=FailBefore("no"), times=10**6)
    two("copy", url, there, code=6)


@pytest.mark.parametrize("command", ["copy", "migrate", "export", "import"])
def test_who_interrupts_it_runs_it_again(
    two: Command, url: str, there: str, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "my.snapshots"
    two("export", str(path))
    archived = path.read_bytes()
    words = {
        "copy": ("copy", url, there),
        "migrate": ("--yes", "migrate", url, there),
        "export": ("export", str(path)),
        "import": ("--store", there, "import", str(path)),
    }[command]
    faulty = FaultyStore(store_of(url if command in ("migrate", "export") else there))
    opened = {url: faulty} if command in ("migrate", "export") else {there: faulty}
    fault = Meanwhile(lambda: signal.raise_signal(signal.SIGINT))
    if command == "migrate":
        faulty.plan.on("put", LAYOUT.head("kid"), nth=2, fault=fault)
    else:
        faulty.plan.on("*", LAYOUT.head("other"), nth=2, fault=fault)
    with monkeypatch.context() as patch:
        patch.setattr("snapshots.cli.invocation.open_store", lambda one: opened.get(one) or open_store(one))
        assert two(*words, code=130).err == "error: interrupted\n"
    assert path.read_bytes() == archived
    assert [one.name for one in tmp_path.iterdir() if one.name.startswith(".")] == []
    two(*words)
    if command != "export":
        assert "no findings" in two("--store", there, "verify").out
    assert "no findings" in two("verify").out
    if command in ("copy", "import"):
        assert "no difference" in two("verify-copy", url, there).out


def test_progress_is_shown_at_a_terminal(two: Command, url: str, there: str) -> None:  # noqa: ARG001  for its effect
    shown = at_terminal("copy", url, there)
    assert "4 sessions copied" in shown
    assert "sessions compared: 3 of 3" in shown


# migrate.


def test_what_was_moved_is_there_and_told_here(two: Command, url: str, there: str, answering: Answering) -> None:
    before = bytes_of(store_of(url))
    answering("n")
    asked = two("migrate", url, there, code=130)
    assert f"Move 4 sessions from {url} to {there}? [y/N]:" in asked.err
    assert bytes_of(store_of(url)) == before
    answering("y")
    assert two("migrate", url, there).out.strip().startswith(f"4 sessions moved to {there} (")
    for name in (DEMO, "kid", "other"):
        assert f"was moved to {there}" in two("show", name, code=3).err
        two("--store", there, "show", name)
    assert f"was moved to {there}" in two("usage", "nobody", code=3).err
    assert {row["outcome"] for row in two("--json", "--yes", "migrate", url, there).rows[:-1]} <= {"same", "moved"}
    two("--yes", "collect")
    two("--yes", "collect")
    assert not bytes_of(store_of(url), LAYOUT.packs)
    assert "no findings" in two("--store", there, "verify").out


def test_without_anybody_to_ask_nothing_moves(
    two: Command, url: str, there: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = bytes_of(store_of(url))
    monkeypatch.setattr(sys, "stdin", io.StringIO())
    assert "say --yes" in two("migrate", url, there, code=2).err
    assert bytes_of(store_of(url)) == before


def test_a_turn_in_flight_or_a_lease_keeps_a_session(two: Command, url: str, there: str) -> None:
    with SnapshotRepository.open(url) as repo:
        repo.acquire("kid", "host").begin_turn("turn-1")
        repo.claim_lease("other", "host", 600)
        first, second, note = two("--yes", "migrate", url, there, code=11).out.splitlines()
        assert first.startswith("other was not moved: session 'other' is leased by 'host' until ")
        assert second.startswith("kid was not moved: ")
        assert "its owner finishes or abandons it" in second
        assert note.startswith("2 sessions moved to ")
        assert "is in flight" in two("--yes", "migrate", url, there, "kid", code=10).err
        assert "'host'" in two("--yes", "migrate", url, there, "other", code=7).err
        two("show", "kid")
        repo.load("other")


def test_the_address_that_is_left_behind_is_absolute_and_has_the_tenant(
    two: Command, url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    two("--yes", "migrate", url, "file:there", "kid", "--to-tenant", "t2")
    assert f"was moved to file:{tmp_path}/there (tenant t2)" in two("show", "kid", code=3).err
    two("--store", "file:there", "--tenant", "t2", "show", "kid")


# backup and verify-copy.


def test_a_backup_keeps_what_went_here(two: Command, url: str, there: str) -> None:
    assert two("backup", there).out.startswith(f"4 sessions copied to {there} (")
    two("--yes", "rm", "other")
    commit(url, "kid", "more")
    kept = {row["session_id"] for row in two("--json", "--store", there, "ls").rows}
    assert two("backup", there).out.startswith("1 session copied, 2 there already, to ")
    assert {row["session_id"] for row in two("--json", "--store", there, "ls").rows} == kept
    two("--store", there, "show", "other")
    assert two("--json", "backup", there, "kid").rows[-1]["same"] == 1
    with SnapshotRepository.open(url) as repo:
        assert {one.status for one in repo.sessions() if one.session_id == "other"} == {TOMBSTONE}


def test_differences_are_one_per_line(two: Command, url: str, there: str) -> None:
    two("copy", url, there)
    agreed = "4 sessions, 13 revisions compared: no difference\n"
    assert two("verify-copy", url, there).out == agreed
    assert two("--json", "verify-copy", url, there).record == {"sessions": 4, "revisions": 13, "differences": 0}
    assert two("--quiet", "verify-copy", url, there).out == ""
    commit(url, "other", "more")
    with SnapshotRepository.open(url) as repo:
        UsageLog(repo, "nobody").append('{"model": "m"}')
    *lines, note = two("verify-copy", url, there, code=4).out.splitlines()
    assert note == "4 sessions, 14 revisions compared: 2 differences"
    assert {line.split(": ")[0] for line in lines} == {"other", "nobody"}
    *rows, summary = two("--json", "verify-copy", url, there, code=4).rows
    assert [(row["session_id"], row["what"]) for row in rows] == [("other", "revision"), ("nobody", "beside")]
    assert summary["differences"] == len(rows)
    assert two("--quiet", "verify-copy", url, there, code=4).out.splitlines() == lines
    assert "check the id" in two("verify-copy", url, there, "never", code=3).err


def test_only_the_full_level_reads_every_byte_of_the_copy(two: Command, url: str, there: str) -> None:
    two("copy", url, there)
    largest = max(store_of(there).list(LAYOUT.family(DEMO)), key=lambda row: row.size_bytes)
    damage(store_of(there), largest.key, 30)
    for level, least in (("full", 1), ("names", 0)):
        rows = two("--json", "verify-copy", url, there, DEMO, "--level", level, code=4 if least else 0).rows
        assert len(rows) > least
    damage(store_of(url), LAYOUT.head("other"))
    assert LAYOUT.head("other") in two("verify-copy", url, there, code=4).err


# Archives.


def test_archives_are_written_and_imported(two: Command, url: str, there: str, tmp_path: Path) -> None:
    path = tmp_path / "my.snapshots"
    assert two("export", str(path)).out.startswith(f"4 sessions copied to {path} (")
    assert two("--store", there, "import", str(path)).out.startswith(f"4 sessions copied to {there} (")
    assert "no difference" in two("verify-copy", url, there).out
    *rows, summary = two("--json", "--store", there, "import", str(path)).rows
    assert ([row["session_id"] for row in rows], summary["same"]) == (NAMES, 4)
    *rows, _ = two("--json", "export", "kid", "other", str(path)).rows
    assert [row["session_id"] for row in rows] == ["kid", "other"]
    other = f"{there}2"
    two("--store", other, "--tenant", "t2", "import", str(path), "other")
    assert [row["session_id"] for row in two("--json", "--store", other, "--tenant", "t2", "ls").rows] == ["other"]


def test_what_cannot_be_imported(two: Command, there: str, tmp_path: Path) -> None:
    path = tmp_path / "my.snapshots"
    two("export", "kid", "other", str(path))
    assert "check the id" in two("--store", there, "import", str(path), "never", code=3).err
    assert "leave --policy out" in two("import", str(path), "--policy", "new-id", code=2).err
    commit_there = f"{there}2"
    two("--store", commit_there, "import", str(path))
    two("--store", commit_there, "rewind", "other", "1", code=0)
    assert "in the source" in two("--store", commit_there, "import", str(path), "other", code=5).err
    assert two("--store", commit_there, "import", str(path), code=11).out.startswith("other was not copied: ")
    path.write_bytes(path.read_bytes()[:-3])
    assert str(path) in two("--store", there, "import", str(path), code=4).err


def test_an_archive_that_would_have_nothing_in_it_replaces_none(two: Command, url: str, tmp_path: Path) -> None:
    path = tmp_path / "my.snapshots"
    two("export", str(path))
    before = path.read_bytes()
    empty = f"file:{tmp_path / 'empty'}"
    with SnapshotRepository.open(empty):
        assert "no sessions to export" in two("--store", empty, "export", str(path), code=3).err
    for name in ("kid", "other"):
        damage(store_of(url), LAYOUT.head(name))
    two("export", "other", str(path), code=4)
    *lines, note = two("export", "kid", "other", str(path), code=11).out.splitlines()
    assert [line.split(" was not copied: ")[0] for line in lines] == ["kid", "other"]
    assert note == f"{path} was not written"
    assert path.read_bytes() == before
    *rows, _ = two("--json", "export", str(path), code=11).rows
    assert {row["session_id"]: row["outcome"] for row in rows} == {
        DEMO: "copied",
        "kid": "damaged",
        "other": "damaged",
        "nobody": "copied",
    }
    two("--store", f"archive:{path}", "verify")


def test_optional_arguments_have_one_pair_of_brackets(cli: Command) -> None:
    for command in ("copy", "migrate", "backup", "verify-copy", "import"):
        text = cli(command, "--help").out
        assert "[S]..." in text
        assert "[[" not in text


def test_every_action_of_a_plan_has_words() -> None:
    assert set(copying._ACTIONS) == {"new", "further", "same", "conflict", "skipped", "beside"}
