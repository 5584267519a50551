"""Every command of the group "use", on a real store."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

import snapshots
from snapshots import PersistedSessionState, SnapshotRepository, TokenLedgerEntry, TokenUsage
from snapshots.cli.use import COMMIT_DIGITS
from tests.cli.conftest import Command

DEMO = "marshmallow-1867"
SAMPLES = Path(snapshots.__file__).parent / "samples"


def test_demo_fills_a_store_and_shows_it(cli: Command, url: str) -> None:
    first = cli("demo")
    assert f"11 turns of session {DEMO} replayed into {url}" in first.out
    assert first.err == ""
    for expected in (f"snapshots log {DEMO}", f"{DEMO} at revision 11", f"snapshots show {DEMO}@3"):
        assert expected in first.out
    again = cli("demo")
    assert "already: nothing to replay" in again.out
    assert f"{DEMO} at revision 11" in again.out


def test_demo_as_json_is_one_object(cli: Command) -> None:
    found = cli("--json", "demo").record
    assert found.keys() == {"replay", "log", "show", "next"}
    assert found["replay"]["turns"] == 11
    assert [row["revision"] for row in found["log"]] == list(range(11, 0, -1))


def test_demo_names_commands_that_work(cli: Command, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SNAPSHOTS_STORE")
    named = cli("--store", url, "--json", "demo").record["next"]
    assert {"tree", "fork", "diff", "rewind"} <= {word for command in named for word in command.split()}
    for command in named:
        program, *arguments = command.split()
        assert program == "snapshots"
        cli(*arguments)


def test_replay_reports_each_session(cli: Command) -> None:
    file = str(SAMPLES / "airline.json")
    rows = cli("--json", "replay", file).rows
    assert [row["session_id"] for row in rows] == ["airline-48-1", "airline-42-0", "airline-18-1"]
    assert list(rows[0]) == ["session_id", "turns", "revision", "requests", "uploaded_bytes", "stored_bytes", "seconds"]
    for row in rows:
        assert row["turns"] == row["revision"] > 0
        assert 0 < row["stored_bytes"] <= row["uploaded_bytes"]
        assert row["requests"] <= 2 * row["turns"] + 2
    table = cli("replay", file, str(SAMPLES / f"{DEMO}.traj")).out
    assert "total" in table
    assert DEMO in table
    assert cli("--quiet", "replay", file).out == ""


def test_stored_bytes_are_what_lies_in_the_store(cli: Command) -> None:
    rows = cli("--json", "replay", str(SAMPLES / "airline.json")).rows
    stats = cli("--json", "stats").record
    assert sum(row["stored_bytes"] for row in rows) == stats["packs_bytes"] + stats["heads_bytes"]


def test_replay_goes_on_where_a_limit_stopped_it(cli: Command) -> None:
    file = str(SAMPLES / "airline.json")
    assert [row["turns"] for row in cli("--json", "replay", "--limit", "1", file).rows] == [3]
    assert [row["turns"] for row in cli("--json", "replay", file).rows] == [0, 4, 6]
    assert [row["uploaded_bytes"] for row in cli("--json", "replay", file).rows] == [0, 0, 0]


def test_ls_lists_live_sessions_and_with_all_the_others(filled: Command) -> None:
    row = filled("--json", "ls").record
    about = {"session_id", "status", "revision", "created_at", "updated_at", "head_bytes"}
    assert row.keys() == about | {"family", "relation", "origin", "holder", "fence", "pins"}
    assert (row["family"], row["relation"], row["origin"]) == (DEMO, {"kind": "root"}, None)
    assert (row["holder"], row["fence"], row["pins"]) == (None, 0, [])
    assert (row["session_id"], row["status"], row["revision"]) == (DEMO, "live", 11)
    assert DEMO in filled("ls").out
    filled("--yes", "rm", DEMO)
    assert filled("--json", "ls").rows == []
    assert filled("ls", "--all", "--json").record["status"] == "tombstone"


def test_log_is_newest_first(filled: Command) -> None:
    rows = filled("--json", "log", DEMO).rows
    assert [row["revision"] for row in rows] == list(range(11, 0, -1))
    assert [row["parent"] for row in rows] == list(range(10, -1, -1))
    assert all(row["turn"] and row["retained"] and row["kind"] == "commit" for row in rows)
    assert [row["nodes"] for row in rows] == sorted((row["nodes"] for row in rows), reverse=True)
    assert rows[0]["commit_id"][:COMMIT_DIGITS] in filled("log", DEMO).out


def test_show_says_what_a_revision_holds(filled: Command) -> None:
    view = filled("--json", "show", f"{DEMO}@3").record
    assert (view["session_id"], view["revision"], view["turn_index"]) == (DEMO, 3, 3)
    assert view["checkpoint_ref"]["digest"].startswith("b3:")
    assert view["parts"]["execution_state"]["size_bytes"] > 0
    assert view["parts"]["plugin_snapshot"] is None
    assert {"name": "edit", "source": "transcript", "calls": 1} in view["tools"]
    assert view["last_messages"][-1]["id"] == f"m{view['messages'] - 1}"
    assert len(view["last_messages"]) == 6
    text = filled("show", DEMO).out
    assert f"{DEMO} at revision 11" in text
    assert "→ submit {}" in text


def test_cat_prints_each_part(filled: Command) -> None:
    messages = filled("cat", f"{DEMO}@2", "messages").rows
    assert [message["id"] for message in messages] == [f"m{index}" for index in range(len(messages))]
    assert len(filled("cat", DEMO, "messages").rows) == 24
    tools = filled("cat", DEMO, "tool-state").record["tools"]
    assert tools["edit"]["manifest"]["compact_contract"]["calls"] == 3
    state = json.loads(filled("cat", DEMO, "execution-state").out)
    assert state["environment"] == "main"
    assert filled("cat", DEMO, "ledger").out == ""
    assert "no plugin-snapshot" in filled("cat", DEMO, "plugin-snapshot", code=10).err


def test_cat_gives_the_bytes_of_an_execution_state_unchanged(cli: Command, url: str) -> None:
    raw = bytes(range(256)) * 5000
    state = PersistedSessionState(session_id="raw")
    state.token_ledger.append(TokenLedgerEntry(source="turn", model="m", usage=TokenUsage(input_tokens=5)))
    with SnapshotRepository.open(url) as repo:
        repo.commit(state, execution_state=raw)
    script = [sys.executable, "-c", "import sys; from snapshots.cli import main; sys.exit(main())"]
    done = subprocess.run([*script, "cat", "raw", "execution-state"], capture_output=True, check=True)
    assert done.stdout == raw
    assert cli("cat", "raw", "ledger").record["usage"]["input_tokens"] == 5
    assert cli("--json", "log", "raw").record["tokens"] == 5
    assert "turn" in cli("show", "raw").out
    assert cli("show", "raw", "--json").record["usage"][0]["model"] == "m"


def test_stats_count_what_is_there(filled: Command) -> None:
    stats = filled("--json", "stats").record
    assert (stats["sessions"]["live"], stats["packs"]) == (1, 2)  # which carry what was too much for the head
    assert "2, " in filled("stats").out


def test_rm_needs_a_yes(filled: Command) -> None:
    assert "--yes" in filled("rm", DEMO, code=2).err
    assert filled("rm", DEMO, "--yes").out == f"session {DEMO} deleted\n"
    assert filled("--json", "show", DEMO, code=3).error["error"] == "SessionDeletedError"
    assert filled("--json", "--yes", "rm", DEMO, code=3).error["session_id"] == DEMO


def test_tenants_are_apart(filled: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    assert filled("--json", "--tenant", "other", "ls").rows == []
    monkeypatch.setenv("SNAPSHOTS_TENANT", "other")
    assert filled("--json", "ls").rows == []
    assert filled("--json", "ls", "--tenant=default").record["session_id"] == DEMO


def test_an_id_that_ends_like_a_revision_is_reachable(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        for session_id in ("a", "a@2", "x@y"):
            state = PersistedSessionState(session_id=session_id)
            for _ in range(2):
                repo.commit(state)
                state.turn_index += 1

    def shown(*arguments: str) -> tuple[str, int]:
        view = cli("--json", "show", *arguments).record
        return view["session_id"], view["revision"]

    assert shown("a@1") == ("a", 1)
    assert shown("a@2") == ("a", 2)
    assert shown("a@2@1") == ("a@2", 1)
    assert shown("a@2", "--revision", "1") == ("a@2", 1)
    assert shown("a@2", "--revision", "head") == ("a@2", 2)
    assert shown("x@y") == ("x@y", 2)
    assert "snapshots pins a" in cli("show", "a", "--revision", "New", code=2).err


def test_text_from_a_store_cannot_steer_a_terminal(cli: Command, tmp_path: Path) -> None:
    item = {"task_id": "[red]", "trial": 0, "traj": [{"role": "user", "content": "a \x1b[2J b [bold]c[/bold] :smile:"}]}
    (tmp_path / "t.json").write_text(json.dumps([item]))
    cli("replay", str(tmp_path / "t.json"))
    text = cli("show", "t-[red]-0").out
    assert "\x1b" not in text
    assert "\\x1b[2J b [bold]c[/bold] :smile:" in text
    assert "t-[red]-0" in cli("ls").out


@pytest.mark.parametrize(("answer", "code"), [(b"y\n", 0), (b"n\n", 130)])
def test_rm_asks_at_a_terminal(filled: Command, answer: bytes, code: int) -> None:
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).with_name("snapshots")), "rm", DEMO]
    with subprocess.Popen(command, stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        os.write(ours, answer)
        _, err = process.communicate(timeout=60)
    os.close(ours)
    os.close(theirs)
    assert b"Delete session" in err
    assert process.returncode == code
    assert bool(filled("--json", "ls").rows) == (code != 0)


def test_progress_is_shown_at_a_terminal_and_only_there(url: str) -> None:
    ours, theirs = pty.openpty()
    command = [
        str(Path(sys.executable).with_name("snapshots")),
        "--store",
        url,
        "--json",
        "replay",
        str(SAMPLES / f"{DEMO}.traj"),
    ]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}, check=True
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            piece = os.read(ours, 65536)
        except OSError:  # the other end is closed: that is how a terminal ends
            break
        shown += piece
        if not piece:
            break
    os.close(ours)
    assert b"11/11" in shown
    assert len(done.stdout.splitlines()) == 1


def test_all_of_it_works_on_s3(cli: Command, ministack_url: str) -> None:
    assert cli("--store", ministack_url, "--json", "demo").record["replay"]["requests"] == 11 + 2 + 2  # with two packs
    assert cli("--store", ministack_url, "--json", "log", DEMO).rows[0]["revision"] == 11
    assert len(cli("--store", ministack_url, "cat", DEMO, "messages").rows) == 24
    assert cli("--store", ministack_url, "--json", "stats").record["packs"] == 2
    assert cli("--store", ministack_url, "--yes", "--json", "rm", DEMO).record["deleted"]
    assert cli("--store", ministack_url, "--json", "ls").rows == []
