"""Golden stores: what an earlier version wrote is read by this one, whole, and can be worked on."""

from __future__ import annotations

import tempfile
from collections import Counter
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

import snapshots
from snapshots import SnapshotRepository, TurnStamp, head, store_object
from snapshots.errors import UnsupportedSchemaError
from snapshots.fields import NEWEST_VERSION, STORE_VERSIONS
from snapshots.head import LIVE, RESERVED
from snapshots.maintenance.collect import execute
from snapshots.maintenance.findings import Finding, Verified, VerifiedSatellite
from snapshots.maintenance.garbage import plan_collect
from snapshots.maintenance.upgrade import execute as execute_upgrade
from snapshots.maintenance.upgrade import plan_upgrade
from snapshots.maintenance.verify import verify
from snapshots.reading import read_base, read_live_head
from snapshots.records import SessionRecords
from snapshots.runtime import RuntimeSessionStore
from snapshots.usage import UsageLog
from storage import frame
from tests.compat.archives import TARBALL, bytes_in, load_golden, names, pack, tarball, unpack
from tests.compat.contents import NAMES, READ_AT, TENANTS, memory_of, write
from tests.compat.make import PRESENT
from tests.compat.reading import Plain, names_in, opened, read
from tests.integration.builders import new_session, take_turn

EACH = pytest.mark.parametrize("name", names())
FORMAT = Path(snapshots.__file__).with_name("FORMAT.md")
STORE_BYTES_MAX = 200_000
SAVED = "trip"  # a runtime saves it once more


class Golden:
    """A golden store, extracted."""

    def __init__(self, name: str, root: Path) -> None:
        self.wanted = load_golden(name)
        self.root = root
        self.at = datetime.fromisoformat(self.wanted["read_at"])
        unpack(tarball(name), root)

    @property
    def tenants(self) -> list[str]:
        return sorted(self.wanted["tenants"])

    @property
    def sessions(self) -> Plain:
        found: Plain = self.wanted["tenants"]["default"]["sessions"]
        return found

    def live(self) -> list[str]:
        return [name for name, one in self.sessions.items() if one["status"] == LIVE]

    def read(self) -> Plain:
        return read(self.root, at=self.at, names=names_in(self.wanted), tenants=self.tenants)

    def opened(self, tenant: str = "default") -> SnapshotRepository:
        return opened(self.root, self.at, tenant)


@pytest.fixture
def golden(name: str, tmp_path: Path) -> Golden:
    return Golden(name, tmp_path / "store")


def check_nothing_is_wrong(golden: Golden) -> None:
    for tenant in golden.tenants:
        with golden.opened(tenant) as repo:
            reported = list(verify(repo))
        assert [one for one in reported if isinstance(one, Finding)] == []
        verified = {one.session_id for one in reported if isinstance(one, Verified)}
        assert verified >= golden.wanted["tenants"][tenant]["sessions"].keys()
        assert tenant != "default" or any(isinstance(one, VerifiedSatellite) for one in reported)


def test_there_is_one_for_the_present_format() -> None:
    assert PRESENT in names()


@EACH
def test_everything_reads_as_it_was_written(golden: Golden) -> None:
    assert golden.read() == golden.wanted


@EACH
def test_nothing_is_found_damaged(golden: Golden) -> None:
    check_nothing_is_wrong(golden)


@EACH
def test_reading_changes_nothing(golden: Golden) -> None:
    before = bytes_in(golden.root)
    golden.read()
    check_nothing_is_wrong(golden)
    assert bytes_in(golden.root) == before


@EACH
def test_one_altered_byte_is_noticed(golden: Golden) -> None:
    (key, *_) = sorted(key for key in bytes_in(golden.root) if "/packs/talk/" in key)
    path = golden.root / key
    data = bytearray(path.read_bytes())
    data[len(data) // 3] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(AssertionError):
        check_nothing_is_wrong(golden)


# Upgrades.


@EACH
def test_what_was_upgraded_reads_as_it_was_written(golden: Golden) -> None:
    upgrade(golden)
    assert golden.read() == golden.wanted
    check_nothing_is_wrong(golden)
    for tenant in golden.tenants:
        with golden.opened(tenant) as repo:
            plan = plan_upgrade(repo)
            assert plan.is_empty
            assert sum(plan.heads.values()) == len(golden.wanted["tenants"][tenant]["sessions"])
    before = bytes_in(golden.root)
    upgrade(golden)
    assert bytes_in(golden.root) == before


@EACH
def test_what_was_upgraded_can_be_worked_on(golden: Golden) -> None:
    upgrade(golden)
    check_work_on_top(golden)


def upgrade(golden: Golden) -> None:
    for tenant in golden.tenants:
        with golden.opened(tenant) as repo:
            execute_upgrade(plan_upgrade(repo))


@pytest.mark.parametrize("name", [PRESENT])
def test_software_that_knows_the_version_before_refuses_the_present_one_and_names_it(
    golden: Golden, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (store_object, head):
        monkeypatch.setattr(module, "STORE_VERSIONS", STORE_VERSIONS[:-1])
    with pytest.raises(
        UnsupportedSchemaError, match=f"schema version {NEWEST_VERSION}; .*use a newer version"
    ) as caught:
        golden.opened()
    assert (caught.value.found, caught.value.supported) == (NEWEST_VERSION, STORE_VERSIONS[:-1])
    assert f"| {NEWEST_VERSION} | 0." in FORMAT.read_text()  # where the release that reads it is named


# Work on top.


@EACH
def test_what_comes_on_top_leaves_everything_older_as_it_was(golden: Golden) -> None:
    check_work_on_top(golden)


def check_work_on_top(golden: Golden) -> None:
    """Work on a store in every way, and check that what was there before is as it was."""
    with golden.opened() as repo:
        forks = {name: forked(repo, golden, name) for name in golden.live()}
        grown = {name: continued(repo, name) for name in golden.live()}
        for name in golden.live():
            went_back(repo, golden, name)
        repo.commit(new_session("reserved", "it was a reservation"))
        assert execute(plan_collect(repo)).deleted > 0
        work_beside(repo)
    after = golden.read()
    check_nothing_is_wrong(golden)
    sessions = after["tenants"]["default"]["sessions"]
    for name, wanted in golden.sessions.items():
        found = sessions[name]
        if wanted["status"] != LIVE:
            assert found == wanted or wanted["status"] == RESERVED
            continue
        numbers = wanted["revisions"]
        assert {number: found["revisions"][number] for number in numbers} == numbers, name
        assert found["history"][: len(wanted["history"])] == wanted["history"]
        for same in ("dropped", "by_pin", "pins", "origin", "relation", "family", "created_at"):
            assert found[same] == wanted[same], (name, same)
        assert found["revision"] == grown[name] + 1 + (name == SAVED)
        assert found["revisions"][str(grown[name])]["ledger"] != wanted["revisions"][str(wanted["revision"])]["ledger"]
        fork, revision = forks[name]
        check_same_content(sessions[fork]["revisions"]["1"], numbers[str(revision)])
    assert sessions["reserved"]["status"] == LIVE
    check_beside(golden.wanted, after)


def forked(repo: SnapshotRepository, golden: Golden, name: str) -> tuple[str, int]:
    """Fork the oldest revision that is retained; return the fork's id and that revision."""
    revision = min(map(int, golden.sessions[name]["revisions"]))
    child = f"later {name[:20]}"
    repo.fork(name, child, revision)
    return child, revision


def continued(repo: SnapshotRepository, name: str) -> int:
    """Commit on top, with a new execution state where there was one; return the revision."""
    writer = repo.acquire(name, "a later host")
    state = writer.state
    memory = None
    if state.execution_state_ref is not None:
        memory = repo.read_execution_state(state)[100:] + memory_of(7, 100)
    for number in range(3):
        writer.commit(take_turn(state, f"later {number}"), TurnStamp(f"later {number}"), execution_state=memory)
    assert memory is None or repo.read_execution_state(repo.load(name)) == memory
    writer.release()
    assert state.head_revision is not None
    return state.head_revision


def went_back(repo: SnapshotRepository, golden: Golden, name: str) -> None:
    """Rewind to the revision that the golden store had at last."""
    before = golden.sessions[name]["revision"]
    result = repo.rewind(name, before)
    state = repo.load(name)
    assert state.head_revision == result.head_revision
    wanted = golden.sessions[name]["revisions"][str(before)]
    assert len(state.session_graph.nodes) == wanted["nodes"]
    assert len(state.token_ledger) == len(wanted["ledger"])


def check_same_content(found: Plain, wanted: Plain) -> None:
    """Check that a fork's first revision has the content of its source's."""
    own = {"checkpoint_ref", "ledger", "policy"}
    assert {**found, **dict.fromkeys(own)} == {**wanted, **dict.fromkeys(own)}
    assert found["ledger"] == []


def work_beside(repo: SnapshotRepository) -> None:
    """Go on with what lies beside the sessions."""
    UsageLog(repo, "calls").append('{"row_id": "later", "model": "m1", "input_tokens": 1}')
    SessionRecords(repo).record_delta("active", 1)
    store = RuntimeSessionStore(repo)
    session = store.load_runtime_session(SAVED)
    session.messages.append({"id": "later", "role": "user", "content": "And then?"})
    store.save_runtime_session(session)


def check_beside(wanted: Plain, after: Plain) -> None:
    """Check that what lies beside the sessions is there, and what came later behind it."""
    old, new = wanted["beside"], after["beside"]
    rows = old["usage"]["calls"]["rows"]
    assert new["usage"]["calls"]["rows"][: len(rows)] == rows
    assert len(new["usage"]["calls"]["rows"]) == len(rows) + 1
    messages = old["runtime"]["trip"]["messages"]
    assert new["runtime"]["trip"]["messages"][: len(messages)] == messages
    assert len(new["runtime"]["trip"]["messages"]) == len(messages) + 1
    for kind in ("realtime", "leases"):
        assert new[kind] == old[kind]
    assert {name: one for name, one in after["records"].items() if name != "active"} == {
        name: one for name, one in wanted["records"].items() if name != "active"
    }


@EACH
def test_a_turn_in_flight_goes_on(golden: Golden) -> None:
    with golden.opened() as repo:
        writer = repo.acquire("held", "another host")
        turn = writer.begin_turn("turn-4")
        assert turn.checkpoint == b"half of the turn"
        assert turn.perform("charge-card", "hash of the call", pytest.fail) == b"receipt"
        writer.commit(take_turn(writer.state, "a4"), TurnStamp("turn-4"))
    check_nothing_is_wrong(golden)


# The maker.


@pytest.mark.parametrize("level", [3, 9])
def test_what_is_made_now_reads_as_the_golden_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, level: int
) -> None:
    monkeypatch.setattr(frame, "_LEVEL", level)  # as another compressor would: other packs, the same contents
    write(tmp_path / "store")
    assert read(tmp_path / "store", at=READ_AT, names=NAMES, tenants=TENANTS) == load_golden(PRESENT)
    pack(tmp_path / "store", tmp_path / f"made{TARBALL}")
    unpack(tmp_path / f"made{TARBALL}", tmp_path / "again")
    made = {key for key in bytes_in(tmp_path / "store") if not key.startswith(".")}
    assert bytes_in(tmp_path / "again").keys() == made


def test_a_store_is_small_and_says_nothing_of_the_machine(tmp_path: Path) -> None:
    assert tarball(PRESENT).stat().st_size < STORE_BYTES_MAX
    unpack(tarball(PRESENT), tmp_path / "store")
    places = [f"{place}/".encode() for place in (Path.home(), Path(__file__).parents[2], tempfile.gettempdir())]
    for key, data in bytes_in(tmp_path / "store").items():
        assert not any(place in data for place in places), key


def test_it_has_every_shape(tmp_path: Path) -> None:
    golden = Golden(PRESENT, tmp_path / "store")
    found: Counter[str] = Counter()
    with golden.opened() as repo:
        for name in golden.live():
            found.update(shapes(repo, name))
    kinds = Counter(row[2] for one in golden.sessions.values() for row in one.get("history", ()))
    statuses = Counter(one["status"] for one in golden.sessions.values())
    assert {"commit", "replace", "fork", "rewind", "restore"} == kinds.keys()
    assert {"live", "tombstone", "reserved"} == statuses.keys()
    assert not SHAPES - +found, found


SHAPES = Counter(
    {
        "packs in the head": 5,
        "packs carried": 20,
        "uploaded ahead": 3,
        "carried on and on": 3,
        "written again": 3,
        "against a full manifest": 3,
        "manifest in the head": 5,
        "read at once": 1,
        "overrides": 3,
        "an epoch": 3,
        "extents by the hundred": 1,
        "kept below the floor": 1,
        "held": 1,
        "a fork in the family of its root": 5,
    }
)


def shapes(repo: SnapshotRepository, name: str) -> Counter[str]:
    """Return what of the format a session shows."""
    environment = repo.environment
    live = read_live_head(environment, name)
    head, base = live.head, read_base(environment, live)
    rows: list[Any] = list(base.places.entries)
    moves = [move for row in rows for move in row.moved]
    into = {move.into for move in moves}
    ids = {row.revision: row.commit_id for row in base.rows}
    state = base.checkpoint.execution_state
    extents = [] if state is None else base.placement.extents[state.digest]
    return Counter(
        {
            "packs in the head": len(head.tail),
            "packs carried": len(moves),
            "uploaded ahead": sum(move.into.startswith(ids[row.revision]) for row in rows for move in row.moved),
            "carried on and on": sum(move.pack in into for move in moves),
            "written again": sum(len(row.ended) for row in rows),
            "against a full manifest": sum(row.manifest.against is not None for row in rows),
            "manifest in the head": bool(head.inline_manifest),
            "read at once": bool(head.reads),
            "overrides": head.overrides is not None,
            "an epoch": head.epoch > 0,
            "extents by the hundred": len(extents) > 100,
            "kept below the floor": len(head.kept),
            "held": head.holder is not None,
            "a fork in the family of its root": head.family != head.session_id,
        }
    )
