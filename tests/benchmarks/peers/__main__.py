"""Run the peers, each alternating turn by turn with ours on the same ground; print one JSON object.

python -m tests.benchmarks.peers --turns 200 --revisions 20 --peers all --out peers.json
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

import boto3

from infra.servers.moto import moto_running
from infra.servers.process import CREDENTIALS
from tests.benchmarks.peers.meters import Cost
from tests.benchmarks.peers.protocol import Place
from tests.benchmarks.peers.registry import OURS, PEERS, Workload, entry
from tests.benchmarks.peers.worker import End, Resumption, Worker, resume

RESUMES = 3
LOOKS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)  # after so many commits, and after the last one
KIB, MIB, MB = 1 << 10, 1 << 20, 1_000_000
ROOT = Path(__file__).parents[3]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and print."""
    given = _parser().parse_args(arguments)
    names = list(PEERS) if "all" in given.peers else given.peers
    report: dict[str, Any] = {"machine": _machine(), "turns": given.turns, "revisions": given.revisions, "peers": {}}
    for name in names:
        workload = entry(name).workload
        report["peers"][name] = beside_ours(name, given.turns if workload == "turns" else given.revisions)
        print(name, "done", file=sys.stderr, flush=True)
        report["machine"]["load_after"] = os.getloadavg()
        if given.out:
            given.out.write_text(json.dumps(report, indent=2) + "\n")
    print(json.dumps(report, indent=2))


def beside_ours(name: str, count: int) -> dict[str, Any]:
    """Run a peer and ours, alternating; return the figures of both.

    Raises:
        WorkerError: One of them failed.
        ValueError: One of them resumed with something else than was committed.
    """
    peer = entry(name)
    with _places() as places, ExitStack() as stack:
        sides = {side: next(places) for side in (peer.ours, name)}
        workers = {
            side: stack.enter_context(Worker.started(side, peer.workload, count, place))
            for side, place in sides.items()
        }
        costs: dict[str, list[Cost]] = {side: [] for side in sides}
        stored: dict[str, dict[int, int]] = {side: {} for side in sides}
        for index in range(count):
            for side in _alternating(list(sides), index):
                costs[side].append(workers[side].commit())
                if index + 1 in (*LOOKS, count):
                    stored[side][index + 1] = workers[side].stored_bytes()
        ends = {side: worker.finish() for side, worker in workers.items()}
        stack.close()
        resumptions: dict[str, list[Resumption]] = {side: [] for side in sides}
        for index in range(RESUMES):
            for side in _alternating(list(sides), index):
                resumptions[side].append(resume(side, sides[side]))
    return {
        "workload": peer.workload,
        "note": peer.note,
        "ours_is": peer.ours,
        **{
            label: _figures(side, peer.workload, costs[side], ends[side], resumptions[side])
            | {"series": _series(costs[side], stored[side])}
            for label, side in (("peer", name), ("ours", peer.ours))
        },
    }


def _alternating(sides: list[str], index: int) -> list[str]:
    return sides if index % 2 == 0 else sides[::-1]


@contextmanager
def _places() -> Iterator[Iterator[Place]]:
    """Run a server; yield places, each a directory and a bucket of its own."""
    with tempfile.TemporaryDirectory(prefix="peers-") as root, moto_running(Path(root) / "server") as endpoint:
        yield (_place(Path(root), endpoint, number) for number in itertools.count())


def _place(root: Path, endpoint: str, number: int) -> Place:
    place = Place(root / f"place-{number}", endpoint, f"place-{number}")
    place.directory.mkdir()
    session = boto3.session.Session(
        CREDENTIALS["AWS_ACCESS_KEY_ID"], CREDENTIALS["AWS_SECRET_ACCESS_KEY"], region_name="us-east-1"
    )
    session.client("s3", endpoint_url=endpoint).create_bucket(Bucket=place.bucket)
    return place


def _figures(
    name: str, workload: Workload, costs: list[Cost], end: End, resumptions: list[Resumption]
) -> dict[str, Any]:
    for resumption in resumptions:
        expected = end.expected.as_far_as(resumption.found)
        if resumption.found != expected:
            raise ValueError(f"{name} resumed with {_brief(resumption.found)}, not with {_brief(expected)}")
    cpu = median(one.cost.cpu_seconds for one in resumptions)
    figures = {
        "name": name,
        "versions": end.versions,
        **(_of_turns(costs, end) if workload == "turns" else _of_states(costs, end)),
        "resume_requests": median(one.cost.requests for one in resumptions),
        "resume_ms": round(median(one.cost.wall_seconds for one in resumptions) * 1000, 1),
        "resume_cpu_ms": round(cpu * 1000, 1),
        "resume_peak_mib": round(max(one.cost.peak_bytes for one in resumptions) / MIB, 1),
        "peak_mib": round(max(cost.peak_bytes for cost in costs) / MIB, 1),
        "before_mib": round(end.before_bytes / MIB, 1),
    }
    if workload == "states":
        figures["restore_mb_per_cpu_second"] = round(end.state_bytes / cpu / MB)
    return figures


def _series(costs: list[Cost], stored: dict[int, int]) -> dict[str, Sequence[float]]:
    """Return, at each look, the commits so far, what is stored for each, and the mean CPU since the look before."""
    looks = list(stored)
    since = [costs[before:look] for before, look in itertools.pairwise([0, *looks])]
    return {
        "commits": looks,
        "stored_kib_per_commit": [round(size_bytes / look / KIB, 2) for look, size_bytes in stored.items()],
        "cpu_ms_per_commit": [round(mean(cost.cpu_seconds for cost in some) * 1000, 2) for some in since],
    }


def _of_turns(costs: list[Cost], end: End) -> dict[str, float]:
    last = costs[-max(1, len(costs) // 10) :]
    return {
        "requests_per_turn": round(mean(cost.requests for cost in costs), 2),
        "uploaded_kib_per_turn": round(mean(cost.uploaded_bytes for cost in costs) / KIB, 1),
        "uploaded_kib_last_tenth": round(mean(cost.uploaded_bytes for cost in last) / KIB, 1),
        "stored_kib_per_turn": round(end.stored_bytes / len(costs) / KIB, 1),
        "cpu_ms_per_turn": round(mean(cost.cpu_seconds for cost in costs) * 1000, 2),
        "cpu_ms_last_tenth": round(mean(cost.cpu_seconds for cost in last) * 1000, 2),
        "wall_ms_per_turn": round(mean(cost.wall_seconds for cost in costs) * 1000, 2),
    }


def _of_states(costs: list[Cost], end: End) -> dict[str, float]:
    later = costs[1:] or costs  # the first is a full copy for everybody
    return {
        "stored_mb_per_revision": round(end.stored_bytes / len(costs) / MB, 3),
        "stored_mb": round(end.stored_bytes / MB, 1),
        "cpu_s_first": round(costs[0].cpu_seconds, 3),
        "cpu_s_per_revision": round(mean(cost.cpu_seconds for cost in later), 3),
        "wall_s_per_revision": round(mean(cost.wall_seconds for cost in later), 3),
    }


def _brief(contents: object) -> str:
    return f"{contents!r:.500}"


def _machine() -> dict[str, Any]:
    described = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    cpus = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return {
        "cpu": cpus[0].partition(":")[2].strip() if cpus else platform.machine(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "system": platform.platform(),
        "python": platform.python_version(),
        "load_before": os.getloadavg(),
        "ours_at": described.stdout.strip(),
    }


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description="What peers cost on the same workloads, beside ours; one JSON object.")
    parser.add_argument("--turns", type=int, default=50)
    parser.add_argument("--revisions", type=int, default=40, help="of the large state")
    parser.add_argument("--peers", nargs="+", default=["all"], choices=["all", *PEERS], metavar="NAME")
    parser.add_argument("--out", type=Path, help="write there too, after each peer")
    return parser


if __name__ == "__main__":
    assert set(OURS).isdisjoint(PEERS)
    main()
