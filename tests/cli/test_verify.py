"""`verify`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.cli import verify as command
from snapshots.maintenance.findings import Finding, Verified, VerifiedSatellite
from snapshots.maintenance.verify import verify
from storage.backends import open_store
from storage.errors import PermissionDeniedError
from storage.store import ObjectStore, Overwrite
from tests.cli.conftest import Command, at_terminal
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
def test_a_healthy_store(filled: Command, url: str, level: str) -> None:
    filled("fork", DEMO, "f1")
    looked = "2 sessions, 12 revisions" if level == "full" else "2 sessions"
    assert (
        filled("verify", "--level", level).out
        == f"{looked} of tenant 'default' in {url} verified ({level}): no findings\n"
    )
    assert filled("--quiet", "verify", "--level", level).out == ""
    summary = filled("--json", "verify", "--level", level).record
    assert summary["last_key"].startswith("default/heads/")
    del summary["last_key"]
    revisions = REVISIONS + 1 if level == "full" else 0
    looked_at = {"store": url, "tenant": "default", "level": level, "sessions": 2, "revisions": revisions}
    assert summary == {**looked_at, "satellites": 0, "findings": 0, "complete": True}


def test_where_there_are_no_sessions_nothing_was_verified(filled: Command, url: str) -> None:
    said = filled("--tenant", "other", "verify").out
    assert said == f"no sessions of tenant 'other' in {url}: nothing was verified\n"
    summary = filled("--json", "--tenant", "other", "verify").record
    assert (summary["store"], summary["tenant"], summary["sessions"]) == (url, "other", 0)


def test_findings_are_one_per_line_and_exit_code_4(filled: Command, store: ObjectStore, url: str) -> None:
    key = packs(store)[0]
    damage(store, key)
    *text, see = filled("verify", code=4).out.splitlines()
    assert see == "see what can be mended: snapshots repair --dry-run"
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
    looked = f"1 session, {rows[-1]['revisions']} revisions of tenant 'default' in {url} verified (full)"
    assert text[-1].startswith(f"{looked}: {len(rows) - 1} finding")
    assert filled("verify", DEMO, code=4).out.endswith(f" snapshots repair {DEMO} --dry-run\n")
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


def test_what_lies_beside_the_sessions(filled: Command, store: ObjectStore, url: str) -> None:
    for name in (DEMO, "alone"):
        filled("records", "create", name, "--provider", "p", "--model", "m")
    said = f"1 session, {REVISIONS} revisions, 2 satellites of tenant 'default' in {url} verified (full): "
    assert filled("verify").out == f"{said}no findings\n"
    assert filled("--json", "verify").record["satellites"] == 2
    assert filled("--json", "verify", "--level", "presence").record["satellites"] == 0
    said_of_one = f"no sessions, 1 satellite of tenant 'default' in {url} verified (full): "
    assert filled("verify", "alone").out == f"{said_of_one}no findings\n"
    filled("verify", "alone", "--level", "heads", code=3)
    (key,) = [row.key for row in store.list("default/records/") if "/alone" in row.key]
    damage(store, key)
    line = f"altered: alone: {key}: the record does not match its own checksum\n"
    see = "see what can be mended: snapshots repair"
    assert filled("verify", code=4).out == f"{line}{said}1 finding\n{see} --dry-run\n"
    assert filled("verify", "alone", code=4).out == f"{line}{said_of_one}1 finding\n{see} alone --dry-run\n"
    finding, summary = filled("--json", "verify", code=4).rows
    assert finding == {**finding, "what": "altered", "session_id": "alone", "revision": None, "key": key}
    assert (summary["sessions"], summary["satellites"], summary["findings"]) == (1, 2, 1)


def test_a_repair_names_what_is_damaged_beside_the_sessions(filled: Command, store: ObjectStore) -> None:
    filled("records", "create", "alone", "--provider", "p", "--model", "m")
    (record,) = store.list("default/records/")
    damage(store, record.key)
    (plan,) = filled("--json", "repair", "--dry-run", code=4).rows
    (proposal,) = plan["proposals"]
    assert (plan["session_id"], proposal["action"], proposal["key"]) == ("alone", "none", record.key)
    assert proposal["remedy"].startswith(f"restore {record.key} from a copy")
    assert filled("--json", "--yes", "repair", code=4).record["remaining"] == [proposal]


def test_what_lies_beside_them_is_looked_at_wherever_the_sessions_begin(
    filled: Command, store: ObjectStore, url: str
) -> None:
    filled("records", "create", "alone", "--provider", "p", "--model", "m")
    (head,) = store.list("default/heads/")
    said = filled("verify", "--start-after", head.key).out
    assert said.startswith(f"no sessions after {head.key}, 1 satellite of tenant 'default' in ")
    assert "satellites verified: 1" in at_terminal("--store", url, "verify")


def test_it_goes_on_after_a_key(filled: Command, store: ObjectStore) -> None:
    filled("fork", DEMO, "f1")
    keys = [row.key for row in store.list("default/heads/")]
    summary = filled("--json", "verify", "--start-after", keys[0]).record
    assert (summary["sessions"], summary["last_key"]) == (1, keys[1])
    summary = filled("--json", "verify", "--start-after", keys[1]).record
    assert (summary["sessions"], summary["last_key"]) == (0, keys[1])
    said = filled("verify", "--start-after", keys[1]).out
    assert said.endswith(f" after {keys[1]}: nothing was verified\n")


def test_a_store_that_stops_answering_says_where_to_go_on(cli: Command, url: str) -> None:
    with SnapshotRepository.open(url, inline_limit_bytes=0) as repo:
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


@pytest.mark.parametrize(("error", "code"), [(PermissionDeniedError("k", "no"), 8), (KeyboardInterrupt(), 130)])
def test_what_was_verified_is_said_whatever_stops_it(
    cli: Command, url: str, error: BaseException, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    with SnapshotRepository.open(url, inline_limit_bytes=0) as repo:
        for name in ("a", "b"):
            repo.commit(PersistedSessionState(session_id=name))
        keys = sorted(repo.environment.layout.head(name) for name in ("a", "b"))

    def stopped(*given: Any, **options: Any) -> Iterator[Finding | Verified | VerifiedSatellite]:
        for one in verify(*given, **options):
            yield one
            raise error

    monkeypatch.setattr(command, "verify_sessions", stopped)
    summary = cli("--json", "verify", code=code).record
    assert (summary["sessions"], summary["last_key"], summary["complete"]) == (1, keys[0], False)
    assert cli("verify", code=code).out.endswith(f"not all was verified: go on with --start-after {keys[0]}\n")


def test_findings_at_a_terminal_stand_on_lines_of_their_own(filled: Command, store: ObjectStore, url: str) -> None:
    damage(store, packs(store)[0])
    plain = filled("verify", code=4).out.splitlines()
    shown = at_terminal("--store", url, "verify", code=4)
    assert "sessions verified: 1" in shown
    lines = [line.rpartition("\x1b[2K")[2].strip("\r") for line in shown.split("\n")]
    assert [line for line in plain if line not in lines] == []


def test_an_unknown_level_is_a_matter_of_usage(filled: Command) -> None:
    assert "presence" in filled("verify", "--level", "deep", code=2).err


def test_no_store_is_made(cli: Command) -> None:
    cli("verify", code=3)
