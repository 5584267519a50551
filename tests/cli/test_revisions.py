"""`S@REV`, `rewind`, `restore` and `diff`; and what `log`, `show` and `ls` say of them."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest

from snapshots import SnapshotRepository
from snapshots.cli import output
from snapshots.cli.exits import UsageError
from snapshots.cli.invocation import revision_named, session_at
from snapshots.errors import RevisionNotFoundError, SessionDeletedError
from storage.backends.memory import MemoryStore
from storage.testing.clock import ManualClock
from tests.cli.conftest import Command
from tests.cli.test_use import DEMO
from tests.integration.builders import new_session, take_turn

WENT_BACK = ["session_id", "revision", "content_of", "checkpoint_ref", "commit_id", "requests", "uploaded_bytes"]


# S@REV.


@pytest.fixture
def repo() -> Iterator[SnapshotRepository]:
    """Give a repository with sessions whose ids could be those of others with a revision."""
    clock = ManualClock()
    with SnapshotRepository(MemoryStore(), clock=clock) as opened:
        for session_id in ("s", "s@good", "s@2", "s@id", "s@dead", "@", "a@b@c", "dead"):
            state = new_session(session_id)
            for number in range(3):
                opened.commit(take_turn(state, f"a{number}"))
        opened.pin("s", 2, "good")
        opened.pin("s", 2, "old", clock.now() + timedelta(seconds=1))
        opened.pin("s@good", 1, "good")
        opened.pin("a@b@c", 1, "x")
        opened.delete("dead")
        opened.delete("s@dead")
        clock.sleep(5)
        yield opened


@pytest.mark.parametrize(
    ("name", "revision", "expected"),
    [
        ("s", None, ("s", None)),
        ("s@2", None, ("s", 2)),
        ("s@007", None, ("s", 7)),
        ("s@good", None, ("s", "good")),  # though a session has this very id
        ("s@good@good", None, ("s@good", "good")),
        ("s@good@1", None, ("s@good", 1)),
        ("s@old", None, ("s", "old")),  # expired pins are pins
        ("s@head", None, ("s", None)),
        ("s@good@head", None, ("s@good", None)),
        ("@head", None, ("@head", None)),
        ("s@id", None, ("s@id", None)),
        ("@", None, ("@", None)),
        ("@2", None, ("@2", None)),
        ("@@2", None, ("@", 2)),
        ("a@b@c", None, ("a@b@c", None)),
        ("a@b@c@x", None, ("a@b@c", "x")),
        ("none@good", None, ("none@good", None)),
        ("dead@good", None, ("dead@good", None)),
        ("s@" + "1" * 18, None, ("s", int("1" * 18))),
        ("s@good", "head", ("s@good", None)),
        ("s@good", "good", ("s@good", "good")),
        ("s@good", "none", ("s@good", "none")),
        ("s@2", "3", ("s@2", 3)),
    ],
)
def test_an_argument_is_split_at_a_number_or_a_pin_that_is_there(
    repo: SnapshotRepository, name: str, revision: str | None, expected: tuple[str, int | str | None]
) -> None:
    assert session_at(repo, name, revision) == expected


@pytest.mark.parametrize(
    ("name", "session_id", "revision"),
    [
        *(("s@none", "s", "none"), ("s@Good", "s", "Good"), ("s@-1", "s", "-1"), ("s@", "s", "")),
        *(("s@good@none", "s@good", "none"), ("@@x", "@", "x"), ("s@" + "1" * 19, "s", "1" * 19)),
    ],
)
def test_what_is_no_pin_of_a_session_and_no_session_is_a_missing_revision(
    repo: SnapshotRepository, name: str, session_id: str, revision: str
) -> None:
    with pytest.raises(RevisionNotFoundError) as caught:
        session_at(repo, name, None)
    assert (caught.value.session_id, caught.value.revision) == (session_id, revision)


def test_a_deleted_session_is_no_missing_revision_of_another(repo: SnapshotRepository) -> None:
    with pytest.raises(SessionDeletedError) as caught:
        session_at(repo, "s@dead", None)
    assert caught.value.session_id == "s@dead"


@pytest.mark.parametrize("text", ["", "?", "Good", "1" * 19, "a" * 65, "-1", "s@1", "²"])
def test_what_is_neither_number_nor_pin_is_no_revision(repo: SnapshotRepository, text: str) -> None:
    with pytest.raises(UsageError, match="number or the name of a pin"):
        revision_named(text, "s")
    with pytest.raises(UsageError):
        session_at(repo, "s", text)


def test_show_and_cat_take_pins(filled: Command) -> None:
    filled("pin", DEMO, "3", "good")
    assert filled("--json", "show", f"{DEMO}@good").record["revision"] == 3
    assert filled("--json", "show", DEMO, "--revision", "good").record["revision"] == 3
    at_three = filled("cat", f"{DEMO}@3", "messages").out
    assert filled("cat", f"{DEMO}@good", "messages").out == at_three
    assert filled("cat", DEMO, "messages", "--revision", "good").out == at_three
    filled("unpin", DEMO, "good")
    assert filled("--json", "show", DEMO, "--revision", "good", code=3).error["error"] == "RevisionNotFoundError"
    error = filled("--json", "show", f"{DEMO}@good", code=3).error
    assert (error["error"], error["session_id"], error["revision"]) == ("RevisionNotFoundError", DEMO, "good")
    filled("fork", f"{DEMO}@3", "b")
    assert filled("--json", "show", "b@head").record["revision"] == 1


def test_a_pin_like_the_suffix_of_a_session_wins_and_the_session_stays_reachable(filled: Command) -> None:
    filled("fork", f"{DEMO}@5", f"{DEMO}@good")
    assert filled("--json", "show", f"{DEMO}@good").record["revision"] == 1
    filled("pin", DEMO, "3", "good")
    assert filled("--json", "show", f"{DEMO}@good").record["revision"] == 3
    assert filled("--json", "show", f"{DEMO}@good", "--revision", "head").record["session_id"] == f"{DEMO}@good"
    assert filled("--json", "fork", f"{DEMO}@good", "a").record["origin"]["revision"] == 3
    origin = filled("--json", "fork", f"{DEMO}@good", "b", "--revision", "1").record["origin"]
    assert (origin["session_id"], origin["revision"]) == (f"{DEMO}@good", 1)
    filled("--json", "pins", f"{DEMO}@good")  # arguments without a revision are ids as they stand


# Going back.


@pytest.mark.parametrize("command", ["rewind", "restore"])
def test_going_back_is_a_new_revision_of_old_content(filled: Command, command: str) -> None:
    view = filled("--json", command, DEMO, "3").record
    assert list(view) == WENT_BACK
    assert (view["session_id"], view["revision"], view["content_of"]) == (DEMO, 12, 3)
    new, old = (filled("--json", "show", f"{DEMO}@{number}").record for number in (12, 3))
    assert view["checkpoint_ref"] == new["checkpoint_ref"] != old["checkpoint_ref"]
    assert (new["last_messages"], new["parts"]) == (old["last_messages"], old["parts"])
    row = filled("--json", "log", DEMO).rows[0]
    assert (row["kind"], row["parent"], row["commit_id"]) == (command, 3, view["commit_id"])
    assert f"{command} ← 3" in filled("log", DEMO).out


def test_a_pin_says_where_to_go_back_to(filled: Command) -> None:
    filled("pin", DEMO, "3", "good")
    said = filled("rewind", DEMO, "good").out
    assert said == f"session {DEMO} is at revision 12, with the content of 3 (good)\n"
    view = filled("--json", "restore", DEMO, "good").record
    assert (view["revision"], view["content_of"]) == (13, 3)
    assert filled("--quiet", "restore", DEMO, "11").out == ""
    rows = filled("--json", "log", DEMO).rows
    went = [("restore", 11), ("restore", 3), ("rewind", 3), ("commit", 10)]
    assert [(row["kind"], row["parent"]) for row in rows[:4]] == went


@pytest.mark.parametrize("command", ["rewind", "restore"])
def test_head_stands_for_the_present_revision(filled: Command, command: str) -> None:
    assert filled("--json", command, DEMO, "head").record["content_of"] == 11
    said = filled(command, DEMO, "head").out
    assert said == f"session {DEMO} is at revision 13, with the content of 12 (head)\n"
    text = filled("log", DEMO).out
    assert f"{command} ← 11" in text  # though it is the revision before
    assert f"{command} ← 12" in text


def test_only_restore_reaches_what_a_rewind_left_behind(filled: Command) -> None:
    filled("rewind", DEMO, "3")
    error = filled("--json", "rewind", DEMO, "7", code=10).error
    assert error["error"] == "InvalidStateError"
    assert "restore" in error["message"]
    assert filled("--json", "restore", DEMO, "7").record["revision"] == 13


@pytest.mark.parametrize("command", ["rewind", "restore"])
@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        ((DEMO,), 2, "UsageError"),
        ((DEMO, "New"), 2, "UsageError"),
        ((DEMO, "0"), 3, "RevisionNotFoundError"),
        ((DEMO, "12"), 3, "RevisionNotFoundError"),
        ((DEMO, "unknown"), 3, "RevisionNotFoundError"),
        (("none", "1"), 3, "SessionNotFoundError"),
        (("dead", "1"), 3, "SessionDeletedError"),
        (("held", "1"), 7, "FencedError"),
    ],
)
def test_what_cannot_be_gone_back_to_is_one_line(
    filled: Command, command: str, arguments: tuple[str, ...], code: int, name: str
) -> None:
    for child in ("dead", "held"):
        filled("fork", DEMO, child)
    filled("--yes", "rm", "dead")
    filled("acquire", "held", "--owner", "host-a")
    outcome = filled("--json", command, *arguments, code=code)
    assert (outcome.error["error"], outcome.out) == (name, "")
    assert len(filled("--json", "log", DEMO).rows) == 11


# Differences.


def test_a_difference_of_two_revisions(filled: Command) -> None:
    found = filled("--json", "diff", f"{DEMO}@2", f"{DEMO}@3").record
    assert (found["a"]["revision"], found["b"]["revision"], found["identical"]) == (2, 3, False)
    assert found["nodes"]["added"]
    assert f"{DEMO}@2 → {DEMO}@3" in filled("diff", f"{DEMO}@2", f"{DEMO}@3").out


def test_a_difference_of_two_sessions_by_pin_and_by_head(filled: Command) -> None:
    filled("pin", DEMO, "4", "good")
    filled("fork", f"{DEMO}@good", "child")
    found = filled("--json", "diff", f"{DEMO}@good", "child").record
    assert [found[side]["session_id"] for side in "ab"] == [DEMO, "child"]
    assert [found[side]["revision"] for side in "ab"] == [4, 1]
    assert found["nodes"]["added"] == found["nodes"]["removed"] == []
    assert f"{DEMO}@11 → {DEMO}@11: identical" in filled("diff", DEMO, f"{DEMO}@11").out


@pytest.mark.parametrize(
    ("arguments", "code", "name"),
    [
        ((DEMO,), 2, "UsageError"),
        ((DEMO, "none"), 3, "SessionNotFoundError"),
        (("none", DEMO), 3, "SessionNotFoundError"),
        ((f"{DEMO}@99", DEMO), 3, "RevisionNotFoundError"),
        ((f"{DEMO}@nope", f"{DEMO}@3"), 3, "RevisionNotFoundError"),
    ],
)
def test_what_cannot_be_compared_is_one_line(filled: Command, arguments: tuple[str, ...], code: int, name: str) -> None:
    outcome = filled("--json", "diff", *arguments, code=code)
    assert (outcome.error["error"], outcome.out) == (name, "")


# What the lists say.


def test_log_shows_kinds_parents_and_pins(filled: Command) -> None:
    plain = filled("log", DEMO).out
    assert "pins" not in plain
    assert "turn" in plain
    filled("rewind", DEMO, "2")
    for name in ("good", "better"):
        filled("pin", DEMO, "2", name)
    text = filled("log", DEMO).out
    assert "pins" in text
    assert "better, good" in text
    assert text.count("←") == 1
    assert {row["revision"]: row["pins"] for row in filled("--json", "log", DEMO).rows if row["pins"]} == {
        2: ["better", "good"]
    }
    filled("fork", DEMO, "child")
    assert "fork" in filled("log", "child").out
    (row,) = filled("--json", "log", "child").rows
    assert (row["kind"], row["parent"]) == ("fork", 0)


def test_ls_shows_origin_and_holder_where_there_are_any(filled: Command) -> None:
    alone = filled("ls").out
    assert "origin" not in alone
    assert "holder" not in alone
    filled("fork", f"{DEMO}@3", "child")
    forked = filled("ls").out
    assert f"{DEMO}@3" in forked
    assert "holder" not in forked
    filled("acquire", "child", "--owner", "host-a")
    assert "host-a" in filled("ls").out
    rows = {row["session_id"]: row for row in filled("--json", "ls").rows}
    assert (rows["child"]["holder"], rows["child"]["fence"], rows["child"]["family"]) == ("host-a", 1, DEMO)
    assert rows["child"]["origin"]["revision"] == 3
    assert (rows[DEMO]["holder"], rows[DEMO]["origin"]) == (None, None)


def test_show_says_who_a_session_is(filled: Command) -> None:
    view = filled("--json", "show", DEMO).record
    about = ("relation", "origin", "holder", "fence", "pins")
    assert [view[name] for name in about] == [{"kind": "root"}, None, None, 0, []]
    filled("fork", f"{DEMO}@3", "child")
    filled("pin", "child", "1", "good")
    filled("acquire", "child", "--owner", "host-a")
    view = filled("--json", "show", "child").record
    assert (view["holder"], view["fence"], view["origin"]["session_id"]) == ("host-a", 1, DEMO)
    assert view["pins"] == [{"name": "good", "revision": 1, "expires_at": None, "expired": False}]
    text = filled("show", "child").out
    for word in (f"child of {DEMO}", f"{DEMO}@3", "host-a", "fence", "good@1"):
        assert word in text


def test_lists_fit_eighty_columns(filled: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(output, "PLAIN_WIDTH", 80)
    filled("fork", f"{DEMO}@3", "child", "--relation", "handoff", "--reason", "why " * 40)
    filled("rewind", DEMO, "10")
    filled("pin", DEMO, "10", "a-name-of-some-length", "--for", "7d")
    filled("pin", DEMO, "10", "n" * 64)
    filled("acquire", "child", "--owner", "a-host-with-quite-a-long-name.example.org")
    commands = ("ls", f"log {DEMO}", "show child", f"pins {DEMO}", "tree", f"diff {DEMO}@2 child", f"fork {DEMO} other")
    for command in (*commands, "acquire other --owner o --lease-seconds 60"):
        text = filled(*command.split()).out
        assert text
        assert max(map(len, text.splitlines())) <= 80, command
    assert "rewind ← 10" in filled("log", DEMO).out
