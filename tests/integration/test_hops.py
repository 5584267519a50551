"""A fleet on its way: directory → ministack → Ceph → archive → directory. Nothing is lost at any hop.

The gate is 10 sessions; the figure is `SNAPSHOTS_HOP_SESSIONS=100 python -m pytest -s tests/integration/test_hops.py`.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from random import Random

import pytest

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.adapters.transcripts import TranscriptSession, apply_turn, read_transcripts, rebuild
from snapshots.maintenance.collect import execute as execute_collect
from snapshots.maintenance.collect import plan_collect
from snapshots.maintenance.copy.archives import export_of, open_export
from snapshots.maintenance.copy.compare import Compared, Difference, verify_copy
from snapshots.maintenance.copy.fleet import CopyReport, execute, plan_copy
from tests.data import PACKED, unpack
from tests.integration.builders import take_turn

SESSIONS = int(os.environ.get("SNAPSHOTS_HOP_SESSIONS", "10"))
GROWTH_MAX = 1.1  # of what is stored, over the source after a collection
MEMORY_BYTES = 60_000  # of an execution state; some of it changes with every turn


@pytest.fixture(scope="module")
def transcripts(tmp_path_factory: pytest.TempPathFactory) -> list[TranscriptSession]:
    (airline,) = (path for path in PACKED if path.name.startswith("airline"))
    return list(read_transcripts(unpack(airline, tmp_path_factory.mktemp("transcripts"))))[:SESSIONS]


def fleet(repo: SnapshotRepository, transcripts: list[TranscriptSession]) -> None:
    """Commit real sessions turn by turn, fork some of them, forks of forks too, and let these go on."""
    draw = Random(7)
    for number, transcript in enumerate(transcripts):
        state = PersistedSessionState(session_id=transcript.session_id)
        memory = bytearray(draw.randbytes(MEMORY_BYTES)) if number % 3 == 0 else None
        for index in range(len(transcript.turns)):
            apply_turn(state, transcript, index)
            if memory is not None:
                memory[(at := draw.randrange(MEMORY_BYTES - 400)) : at + 400] = draw.randbytes(400)
            repo.commit(state, execution_state=None if memory is None else bytes(memory))
        if number % 2 == 0:
            forks(repo, transcript.session_id, draw)
    execute_collect(plan_collect(repo))


def forks(repo: SnapshotRepository, source: str, draw: Random) -> None:
    for depth in range(draw.choice((1, 2, 4))):
        last = len(repo.history(source))
        child = f"{source}/fork {depth}"
        repo.fork(source, child, draw.randrange(1, last + 1))
        for turn in range(draw.randrange(4)):
            repo.commit(take_turn(repo.load(child), f"{child} {turn}"))
        if draw.random() < 0.5:
            repo.pin(child, 1, "first")
        source = child


def hop(source: SnapshotRepository, destination: SnapshotRepository) -> CopyReport:
    """Copy everything; check that nothing is missing, and that a second run has nothing to do."""
    report = execute(plan_copy(source, destination))
    assert not report.not_copied
    compared = list(verify_copy(source, destination))
    assert [str(one) for one in compared if isinstance(one, Difference)] == []
    assert sum(one.revisions for one in compared if isinstance(one, Compared)) > len(report.sessions)
    return report


def stored(repo: SnapshotRepository) -> int:
    found = repo.stats()
    return found.packs_bytes + found.heads_bytes


def check_equal(first: SnapshotRepository, last: SnapshotRepository, transcripts: list[TranscriptSession]) -> int:
    """Check that every revision loads as it did first; return how many there are."""
    count = 0
    for info in first.sessions():
        for row in first.history(info.session_id):
            a, b = (one.load(info.session_id, row.revision, execution_state=True) for one in (first, last))
            assert a.checkpoint_ref == b.checkpoint_ref
            assert a.export_state() == b.export_state()
            assert a.execution_state_snapshot == b.execution_state_snapshot
            assert a.session_graph.to_plain() == b.session_graph.to_plain()
            count += 1
    for transcript in transcripts:
        assert rebuild(last.load(transcript.session_id)) == transcript.document
    return count


def test_a_fleet_goes_round_and_comes_back_equal(
    transcripts: list[TranscriptSession], tmp_path: Path, ministack_url: str, ceph_url: str
) -> None:
    archive = tmp_path / "fleet.snapshots"
    with ExitStack() as stack:
        first = stack.enter_context(SnapshotRepository.open(f"file:{tmp_path / 'first'}"))
        fleet(first, transcripts)
        sizes = {"directory": stored(first)}
        before = first
        for name, url in (("ministack", ministack_url), ("Ceph", ceph_url)):
            there = stack.enter_context(SnapshotRepository.open(url))
            hop(before, there)
            sizes[name] = stored(there)
            before = there
        with export_of(before, archive) as written:
            hop(before, written)
        sizes["archive"] = archive.stat().st_size
        last = stack.enter_context(SnapshotRepository.open(f"file:{tmp_path / 'last'}"))
        with open_export(archive) as read:
            hop(read, last)
        sizes["directory again"] = stored(last)
        revisions = check_equal(first, last, transcripts)
        print(f"\n{len(list(first.sessions()))} sessions, {revisions} revisions; bytes stored: {sizes}")
        assert max(sizes.values()) <= GROWTH_MAX * sizes["directory"]
        assert [str(one) for one in verify_copy(first, last) if isinstance(one, Difference)] == []
