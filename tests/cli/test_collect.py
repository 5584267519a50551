"""`collect`: what nobody names is said, asked about, and deleted."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from snapshots import SnapshotRepository
from snapshots.cli.collect import not_done
from snapshots.cli.output import human_bytes
from snapshots.layout import pack_name
from snapshots.maintenance.collect import CollectReport
from snapshots.maintenance.garbage import Spared
from snapshots.publish import Publication, intent_on
from snapshots.staged import staged_with
from snapshots.staging import Identity
from storage.backends import open_store
from storage.store import Create
from tests.cli.conftest import Answering, Command, read_to_the_end
from tests.cli.test_use import DEMO


def packs(url: str) -> int:
    return sum(1 for _ in open_store(url).list("default/packs/"))


@pytest.mark.usefixtures("with_packs")
def test_what_nobody_names_is_deleted(
    filled: Command, url: str, answering: Answering, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled("fork", f"{DEMO}@3", "child")
    before = packs(url)
    idle = filled("--json", "collect", "--dry-run").record
    assert (idle["packs"], idle["packs_listed"], idle["spared"], idle["registers"]) == (0, before, [], [])
    in_use = f"nothing to delete: {before} packs ({human_bytes(idle['packs_bytes'])}) are all in use\n"
    assert filled("collect", "--dry-run").out == filled("collect").out == in_use
    nothing = filled("--json", "collect").record
    assert (nothing["packs_deleted"], nothing["requests"], nothing["stopped"]) == (0, 0, None)
    filled("--yes", "rm", DEMO)
    garbage, summary = filled("--json", "collect", "--dry-run").rows
    assert garbage["family"] == DEMO
    assert summary == {
        "packs": garbage["packs"],
        "bytes": garbage["bytes"],
        "packs_staged": 0,
        "staged_bytes": 0,
        "packs_listed": before,
        "packs_bytes": idle["packs_bytes"],
        "heads_read": 2,
        "heads_cached": 0,
        "registers": [],
        "usage_logs": 0,
        "usage_segments": 0,
        "usage_segments_bytes": 0,
        "usage_logs_spared": [],
        "unfinished": 0,
        "unfinished_unknown": None,
        "marks_ignored": None,
        "spared": [],
    }
    sizes = f"{human_bytes(garbage['bytes'])} of {human_bytes(idle['packs_bytes'])}"
    deletable = f"{garbage['packs']} of {before} packs ({sizes}) of 1 session family"
    shown = filled("collect", "--dry-run").out
    assert shown.startswith("what can be deleted\n")
    assert "staged" not in shown
    assert shown.endswith(f"{deletable} can be deleted\n")
    answering("n")
    assert filled("collect", code=130).err.startswith(f"Delete {deletable} in {url}? [y/N]:")
    assert packs(url) == before
    monkeypatch.setattr(sys, "stdin", io.StringIO())
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
    assert filled("collect").out == "nothing to delete: there are no packs\n"


@pytest.mark.usefixtures("with_packs")
def test_a_family_that_cannot_be_read_is_named_and_left_alone(filled: Command, url: str) -> None:
    filled("fork", DEMO, "child")
    store = open_store(url)
    _, *others = [row.key for row in store.list("default/packs/")]
    for key in others:
        store.delete(key)
    mend = "; run snapshots verify, then repair, and collect again\n"
    for quiet in ([], ["--quiet"]):
        (*_, said) = filled(*quiet, "collect", "--dry-run", code=11).out.splitlines(keepends=True)
        assert said.startswith(f"family {DEMO} would be left alone: ")
        assert said.endswith(mend)
        (*_, said) = filled(*quiet, "--yes", "collect", code=11).out.splitlines(keepends=True)
        assert said.startswith(f"family {DEMO} was left alone: ")
        assert said.endswith(mend)
    (spared,) = filled("--json", "collect", "--dry-run", code=11).record["spared"]
    assert spared["family"] == DEMO


def test_whatever_is_left_undone_is_named() -> None:
    spared = (Spared("a", "a pack is missing"),)
    report = CollectReport(spared=spared, stopped="number 3 was taken", unfinished_left="not allowed")
    assert list(not_done(report)) == [
        "family a was left alone: a pack is missing; run snapshots verify, then repair, and collect again",
        "another collection is at work (number 3 was taken); run it again",
        "unfinished writes were left: not allowed",
    ]
    assert list(not_done(CollectReport())) == []


def test_unfinished_writes_are_listed_and_discarded(filled: Command, url: str, answering: Answering) -> None:
    path = Path(url.removeprefix("file:")) / ".tmp" / ("a" * 32)
    path.write_bytes(b"half")
    assert filled("--json", "collect", "--dry-run").record["unfinished"] == 0
    os.utime(path, (1_600_000_000, 1_600_000_000))
    row, summary = filled("--json", "collect", "--dry-run").rows
    assert summary["unfinished"] == 1
    assert row == {"key": "", "id": path.name, "begun_at": "2020-09-13T12:26:40+00:00", "bytes": 4}
    assert path.name in filled("collect", "--dry-run").out
    filled("collect", code=2)  # nobody to ask
    assert path.exists()
    answering("n")
    assert filled("collect", code=130).err.startswith(f"Delete 1 unfinished write in {url}? ")
    assert "1 unfinished write;" in filled("--yes", "collect").out
    assert not path.exists()


def test_what_is_staged_for_a_copy_is_counted_apart_and_goes_when_nobody_goes_on(filled: Command, url: str) -> None:
    stage(url)
    row, summary = filled("--json", "collect", "--dry-run").rows
    assert (row["family"], row["packs"], row["staged"], row["staged_bytes"]) == ("copy", 0, 1, 6)
    assert (summary["packs"], summary["packs_staged"], summary["staged_bytes"]) == (0, 1, 6)
    shown = filled("collect", "--dry-run").out
    assert " staged " in shown.splitlines()[2]
    assert shown.endswith("1 staged pack (6 B) that somebody may go on with can be deleted\n")
    assert filled("--json", "--yes", "collect").record["packs_deleted"] == 0
    assert filled("collect", "--dry-run").out.endswith(" of 1 session family can be deleted\n")
    assert filled("--json", "--yes", "collect").record["packs_deleted"] == 1


def stage(url: str) -> None:
    """Reserve a session, and let it name a pack."""
    with SnapshotRepository.open(url) as repo:
        environment = repo.environment
        clock, layout = environment.clock, environment.layout
        identity = Identity(clock.new_id(), clock.now(), None)
        read = Publication(environment, intent_on(environment, "copy", None, identity), identity).reserve()
        name = pack_name(clock.new_id(), clock.new_id())
        environment.store.put(layout.pack("copy", name), b"a pack", Create())
        head = staged_with(read.head, {name: read.head.epoch}, family="copy", write_id=clock.new_id(), at=clock.now())
        environment.register("copy").compare_and_swap(read.version, head.encode())


@pytest.mark.usefixtures("with_packs")
def test_a_mark_cache_that_cannot_be_read_is_said(filled: Command, url: str) -> None:
    filled("fork", f"{DEMO}@3", "child")
    filled("--yes", "rm", DEMO)
    filled("--yes", "collect")
    (Path(url.removeprefix("file:")) / "default" / "collect" / "marks").write_bytes(b"no cache")
    assert "the mark cache was not used" in filled("collect").out
    filled("--yes", "rm", "child")
    report = filled("--json", "--yes", "collect").record
    assert (report["marks"], bool(report["marks_ignored"])) == ("written anew, 0 heads", True)


@pytest.mark.usefixtures("with_packs")
def test_progress_is_shown_at_a_terminal_and_only_there(filled: Command, url: str) -> None:
    filled("--yes", "rm", DEMO)
    ours, theirs = pty.openpty()
    command = [str(Path(sys.executable).with_name("snapshots")), "--store", url, "--json", "--yes", "collect"]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=theirs, env={**os.environ, "TERM": "xterm"}, check=True
    )
    os.close(theirs)
    shown = read_to_the_end(ours)
    assert "packs listed: 11" in shown
    assert "packs deleted: 11 of 11" in shown
    assert len(done.stdout.splitlines()) == 1
    assert filled("--yes", "collect").err == ""


def test_the_alias_is_not_in_the_help(cli: Command) -> None:
    text = cli("--help").out
    assert "collect" in text
    assert " gc " not in text
