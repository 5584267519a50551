"""`bench`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from snapshots.benchmarks.measures import MEASURES
from storage.backends import open_store
from tests.cli.conftest import Command, at_terminal

SMALL = ("--turns", "6")


def test_a_measure_is_a_table_and_one_json_object(cli: Command) -> None:
    shown = cli("bench", "fork", "chat-only", *SMALL).out
    assert [line.split("│")[1].strip() for line in shown.splitlines() if "│" in line] == ["chat-only"] * 8 + [
        "fork"
    ] * 4
    record = cli("bench", "fork", *SMALL, "--json").record
    assert record.keys() == {"machine", "versions", "settings", "measures"}
    assert record["settings"]["turns"] == 6
    assert record["settings"]["store"] == "memory:"
    (found,) = record["measures"].values()
    assert found["figures"]["requests"] == {"value": 3, "unit": "requests"}
    assert found["memory_peak_mib"] >= found["memory_before_mib"] > 0


def test_equal_runs_count_equal_requests(cli: Command) -> None:
    counted = [
        {name: one for name, one in run["measures"]["chat-only"]["figures"].items() if one["unit"] == "requests"}
        for run in (cli("bench", "chat-only", *SMALL, "--json").record for _ in range(2))
    ]
    assert counted[0] == counted[1] != {}


def test_an_unknown_measure_is_named_with_those_there_are(cli: Command) -> None:
    error = cli("bench", "speed", code=2).err
    assert "'speed'" in error
    assert all(name in error for name in MEASURES)


def test_the_store_of_the_environment_is_not_measured(cli: Command, url: str) -> None:
    cli("bench", "fork", *SMALL)
    assert not Path(url.removeprefix("file:")).exists()


def test_in_a_store_of_somebodys_nothing_is_touched_and_nothing_left(cli: Command, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    cli("--quiet", "--store", f"file:{theirs}", "demo")
    before = {row.key: row.size_bytes for row in open_store(f"file:{theirs}").list("")}
    record = cli(
        "--store", f"file:{theirs}", "bench", "fork", "contention", *SMALL, "--seconds", "0.4", "--json"
    ).record
    assert record["settings"]["store"] == f"file:{theirs}"
    assert {row.key: row.size_bytes for row in open_store(f"file:{theirs}").list("")} == before
    assert not list(theirs.glob("bench-*"))


def test_a_bucket_is_measured_and_left_empty(cli: Command, ministack_url: str) -> None:
    record = cli("--store", ministack_url, "bench", "chat-only", *SMALL, "--json").record
    assert record["measures"]["chat-only"]["figures"]["requests_per_commit"]["value"] >= 1
    assert not list(open_store(ministack_url).list(""))


def test_what_a_store_refuses_is_an_error_of_the_command(cli: Command, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")
    error = cli("--store", f"file:{tmp_path / 'file'}", "bench", "fork", "--json", code=10).error
    assert error["error"] == "InvalidKeyError"
    assert error["key"].endswith("/~store")
    assert error["reason"] in error["message"]
    assert "credentials" in cli("--store", "s3://user@host/x", "bench", "fork", code=10).err


def test_progress_is_shown_at_a_terminal() -> None:
    shown = at_terminal("bench", "fork", "--turns", "60")
    assert "turns of a session of 60" in shown
    assert "requests older max" in shown


def test_interrupted_it_removes_what_it_made(tmp_path: Path) -> None:
    snapshots = str(Path(sys.executable).with_name("snapshots"))
    store = tmp_path / "store"
    arguments = [snapshots, "--store", f"file:{store}", "bench", "agent-turns"]
    with subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while not list(store.glob("bench-*/default/heads")):
            assert process.poll() is None
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does
        assert process.wait(timeout=60) == 130
        assert process.stderr is not None
        assert process.stderr.read() == "error: interrupted\n"
    assert not list(store.glob("bench-*"))


@pytest.mark.parametrize("option", ["--turns", "--revisions", "--sessions", "--seconds"])
def test_sizes_of_nothing_are_refused(cli: Command, option: str) -> None:
    assert option in cli("bench", "fork", option, "0", code=2).err
