"""A fleet is copied while others commit, fork, delete and collect in both stores: every copy is a past of its source.

The time comes from the environment: `SNAPSHOTS_COPY_SECONDS=60 python -m pytest -s -k beside_others tests/integration`.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from snapshots import SnapshotRepository
from snapshots.base import Base
from snapshots.head import LIVE
from snapshots.maintenance.findings import Finding
from snapshots.maintenance.verify import verify
from snapshots.reading import read_base
from storage.digest import BlobRef
from tests.integration.copying import ALONE, check_copy, check_usage, collected_bytes, copied, fill
from tests.integration.journals import Operation, read_journal
from tests.integration.test_soak import Place, acknowledged, all_heads

SECONDS = float(os.environ.get("SNAPSHOTS_COPY_SECONDS", "4"))
RUNS_MIN = 2
AT_THE_SOURCE = (("neighbour", 0), ("neighbour", 1), ("collector", 0))
AT_THE_COPY = (("collector", 1),)


@contextmanager
def others(source: str, copy: str, directory: Path) -> Iterator[Sequence[Place]]:
    """Run processes on both stores; they end with this context at the latest."""
    places = [Place(source, directory, number, role) for number, role in enumerate(AT_THE_SOURCE)]
    places += [Place(copy, directory, len(places), role) for role in AT_THE_COPY]
    started: list[Place] = []
    try:
        for place in places:
            place.start()
            started.append(place)
        for place in places:
            place.await_ready()
        yield places
    finally:
        for place in started:
            place.end()


def copied_meanwhile(source: str, copy: str, endpoint: str, places: Sequence[Place]) -> list[dict[str, Any]]:
    """Copy again and again; return what was said each time."""
    runs: list[dict[str, Any]] = []
    over = time.monotonic() + SECONDS
    while len(runs) < RUNS_MIN or time.monotonic() < over:
        runs.append(copied(source, copy, endpoint))
        for place in places:
            place.check_alive()
    for place in places:
        place.tell_to_end()
    for place in places:
        place.await_end()
    return runs


def test_a_copy_beside_others_is_a_past_of_its_source(
    tmp_path: Path, ministack_endpoint: str, ministack_url: str
) -> None:
    url, directory = f"file:{tmp_path / 'source'}", tmp_path / "journals"
    directory.mkdir()
    with SnapshotRepository.open(url) as source, SnapshotRepository.open(ministack_url) as copy:
        fill(source, sessions=2)
        with others(url, ministack_url, directory) as places:
            runs = copied_meanwhile(url, ministack_url, ministack_endpoint, places)
        operations = [one for path in sorted(directory.glob("*.jsonl")) for one in read_journal(path)]
        check_they_worked(operations, runs)
        revisions = check_pasts(source, copy, operations)
        for repo in (source, copy):
            assert [str(one) for one in verify(repo) if isinstance(one, Finding)] == []
        last = copied(url, ministack_url, ministack_endpoint)
        collected_bytes(copy)
        check_copy(source, copy)
        check_usage(source, copy, ALONE)
        done = Counter(f"{one.what} {one.said}" for one in operations)
        print({"runs": len(runs), **revisions, "copied last": last["copied"], **dict(sorted(done.items()))})


def check_they_worked(operations: Sequence[Operation], runs: Sequence[Mapping[str, Any]]) -> None:
    """Check that there was something to go wrong: others were at work, and later runs found something new."""
    done = Counter(one.what for one in operations if one.said == "done")
    assert all(done[what] for what in ("commit", "fork", "collect")), done
    assert all(run["copied"] for run in runs), runs


def check_pasts(
    source: SnapshotRepository, copy: SnapshotRepository, operations: Sequence[Operation]
) -> dict[str, int]:
    """Check each copied session against its source, and against what was acknowledged of it if that was deleted."""
    there = {read.head.session_id: read for read in all_heads(source.environment) if read.head.status == LIVE}
    told = {
        (one.session_id, one.told["revision"]): (one.told["commit_id"], one.told["checkpoint_ref"])
        for one in acknowledged(operations).values()
    }
    counts: Counter[str] = Counter()
    for read in all_heads(copy.environment):
        if read.head.status != LIVE:
            continue
        name, here = read.head.session_id, read_base(copy.environment, read)
        if name in there:
            check_past(read_base(source.environment, there[name]), here)
        refs = refs_of(here)
        for row in here.rows:
            if (name, row.revision) in told:
                commit_id, ref = told[name, row.revision]
                assert row.commit_id == commit_id, f"{name}, revision {row.revision}"
                assert str(refs.get(row.revision, ref)) == ref, f"{name}, revision {row.revision}"
        for revision in refs:
            assert copy.load(name, revision, execution_state=True).checkpoint_ref == refs[revision]
        counts.update({"sessions": 1, "revisions": len(refs), "deleted at the source": name not in there})
    return dict(counts)


def check_past(source: Base, here: Base) -> None:
    """Check that the copy's history is the beginning of the source's, and its revisions are what they are there."""
    assert list(here.rows) == list(source.rows)[: len(here.rows)], here.head.session_id
    refs = refs_of(source)
    for revision, ref in refs_of(here).items():
        assert refs.get(revision, ref) == ref, f"{here.head.session_id}, revision {revision}"


def refs_of(base: Base) -> dict[int, BlobRef | None]:
    """Return the checkpoints of the revisions that are retained."""
    named = {row.revision: row.checkpoint_ref for row in base.places.entries} | {
        base.head.revision: base.checkpoint_ref
    }
    return {revision: ref for revision, ref in sorted(named.items()) if base.head.retains(revision)}
