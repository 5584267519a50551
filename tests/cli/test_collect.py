"""`collect`: what nobody names is said, asked about, and deleted."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

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
    assert report["deleted_bytes"] == garbage["bytes"]
    assert (report["batches"], report["heads_read"], report["heads_cached"]) == (1, 2, 0)
    assert (report["packs_kept"], report["kept_bytes"] > 0) == (packs(url), True)
    assert (report["marks"], report["marks_ignored"]) == ("written, 1 heads", None)
    assert (report["unfinished_discarded"], report["unfinished_unknown"]) == (0, None)
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


def test_unfinished_writes_are_listed_and_discarded(filled: Command, url: str) -> None:
    path = Path(url.removeprefix("file:")) / ".tmp" / ("a" * 32)
    path.write_bytes(b"half")
    assert filled("--json", "collect", "--dry-run").rows == []
    os.utime(path, (1_600_000_000, 1_600_000_000))
    (row,) = filled("--json", "collect", "--dry-run").rows
    assert row == {"key": "", "id": path.name, "begun_at": "2020-09-13T12:26:40+00:00", "bytes": 4}
    assert path.name in filled("collect", "--dry-run").out
    filled("collect", code=2)  # nobody to ask
    assert path.exists()
    assert "1 unfinished writes" in filled("--yes", "collect").out
    assert not path.exists()


def test_a_mark_cache_that_cannot_be_read_is_said(filled: Command, url: str) -> None:
    filled("fork", f"{DEMO}@3", "child")
    filled("--yes", "rm", DEMO)
    filled("--yes", "collect")
    (Path(url.removeprefix("file:")) / "default" / "collect" / "marks").write_bytes(b"no cache")
    assert "the mark cache was not used" in filled("collect").out
    filled("--yes", "rm", "child")
    report = filled("--json", "--yes", "collect").record
    assert (report["marks"], bool(report["marks_ignored"])) == ("written anew, 0 heads", True)


def test_progress_is_shown_at_a_terminal_and_only_there(filled: Command, url: str) -> None:
    filled("--yes", "rm", DEMO)
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).with_name("snapshots")), "--store", url, "--json", "--yes", "collect"]
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
    assert b"packs listed: 11" in shown
    assert b"packs deleted: 11 of 11" in shown
    assert len(done.stdout.splitlines()) == 1
    assert filled("--yes", "collect").err == ""


def test_the_alias_is_not_in_the_help(cli: Command) -> None:
    text = cli("--help").out
    assert "collect" in text
    assert " gc " not in text
