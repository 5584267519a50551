"""Copies to real servers that lose the answer to every nth PUT: they end, they are equal, and nothing lies twice."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import pytest

from snapshots import SnapshotRepository
from snapshots.maintenance.copy.fleet import execute, plan_copy
from storage.errors import UnavailableError
from tests.integration.copying import LOGGED, check_copy, check_usage, collected_bytes, fill, fill_large
from tests.proxy import DropAnswer, FaultProxy
from tests.servers import new_bucket_url

PUTS_MAX = 1000
RUNS_MAX = 6  # answers to one pack may be lost until its upload is given up: the copy is run again
SIZE_RATIO_MAX = 1.1  # of what is left after a collection, over a copy that nobody disturbed


@pytest.mark.parametrize(("server", "every"), [("ministack", 2), ("ministack", 7), ("ceph", 3)])
def test_answers_that_are_lost_change_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, server: str, every: int
) -> None:
    endpoint: str = request.getfixturevalue(f"{server}_endpoint")
    with ExitStack() as stack:
        source, undisturbed = (
            stack.enter_context(SnapshotRepository.open(f"file:{tmp_path / name}")) for name in ("source", "copy")
        )
        fill(source)
        fill_large(source)
        execute(plan_copy(source, undisturbed))
        url = new_bucket_url(endpoint)
        copy = stack.enter_context(SnapshotRepository.open(url))
        runs, puts = copied_through(source, url, endpoint, every)
        size_bytes = undisturbed.stats().packs_bytes
        stored = copy.stats().packs_bytes
        assert runs > 1 or stored <= SIZE_RATIO_MAX * size_bytes, "something was uploaded twice"
        assert collected_bytes(copy) <= SIZE_RATIO_MAX * size_bytes, "something lies twice"
        check_copy(source, copy)
        for name in LOGGED:
            check_usage(source, copy, name)
        print({"server": server, "lost": f"{puts // every} of {puts}", "runs": runs, "bytes": (stored, size_bytes)})


def copied_through(source: SnapshotRepository, url: str, endpoint: str, every: int) -> tuple[int, int]:
    """Copy through a proxy that loses the answer to every nth PUT, until all is copied; return runs and PUTs."""
    with FaultProxy(endpoint) as proxy, SnapshotRepository.open(url.replace(endpoint, proxy.url)) as through:
        for nth in range(every, PUTS_MAX, every):
            proxy.on("PUT", action=DropAnswer(), nth=nth)
        for run in range(1, RUNS_MAX + 1):
            failed = execute(plan_copy(source, through)).not_copied
            puts = len(proxy.seen("PUT"))
            assert every <= puts < PUTS_MAX
            if not failed:
                return run, puts
            assert {type(one.error) for one in failed} == {UnavailableError}, failed
    raise AssertionError(f"not copied in {RUNS_MAX} runs: {failed}")
