"""What something cost: requests and bytes by the repository's own counts, CPU and wall time of this process, memory.

Rules:
1. CPU is that of all threads of this process. 2. The peak of memory is that of the process since it began: for a peak
   of its own a measure has a process of its own (`snapshots.benchmarks.alone`).

    with metering(repo.metrics) as costs:
        repo.commit(state)
    print(costs[0].requests, costs[0].cpu_seconds)
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import NamedTuple

from storage.wrappers.metered import Metrics

KIB, MIB, MB = 1 << 10, 1 << 20, 1_000_000
_STATUS = Path("/proc/self/status")


class Figure(NamedTuple):
    """A measured value and its unit; the unit is "" for a number of things."""

    value: float
    unit: str = ""


Figures = dict[str, Figure]


@dataclass(frozen=True, slots=True)
class Cost:
    """What one step cost."""

    requests: int
    gets: int
    puts: int
    uploaded_bytes: int
    downloaded_bytes: int
    cpu_seconds: float
    wall_seconds: float


@contextmanager
def metering(metrics: Metrics) -> Iterator[list[Cost]]:
    """Give a list that holds the cost of the block when it has ended."""
    costs: list[Cost] = []
    before = metrics.snapshot()
    wall, cpu = time.perf_counter(), time.process_time()
    yield costs
    cpu_seconds, wall_seconds = time.process_time() - cpu, time.perf_counter() - wall
    used = metrics.snapshot() - before
    costs.append(
        Cost(
            requests=used.total_requests,
            gets=used["get"].requests,
            puts=used["put"].requests,
            uploaded_bytes=used["put"].bytes_out,
            downloaded_bytes=used.total.bytes_in,
            cpu_seconds=cpu_seconds,
            wall_seconds=wall_seconds,
        )
    )


@contextmanager
def metering_process() -> Iterator[dict[str, float]]:
    """Give what holds, when the block has ended, its CPU and wall time, and the memory of the process."""
    used: dict[str, float] = {"memory_before_mib": mib(peak_bytes()).value}
    wall, cpu = time.perf_counter(), time.process_time()
    yield used
    used["cpu_seconds"] = round(time.process_time() - cpu, 2)
    used["wall_seconds"] = round(time.perf_counter() - wall, 2)
    used["memory_peak_mib"] = mib(peak_bytes()).value


def peak_bytes() -> int:
    """Return the most memory that was resident in this process.

    Source: proc(5), VmHWM. Not ru_maxrss where there is /proc: it starts at the size of the parent at the fork.
    """
    if _STATUS.exists():
        (line,) = (line for line in _STATUS.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * KIB
    import resource  # not everywhere, and only needed here

    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * KIB


def requests(count: float) -> Figure:
    """Return a number of requests, two digits behind the point."""
    return Figure(round(count, 2), "requests")


def kib(size_bytes: float) -> Figure:
    """Return a size in KiB."""
    return Figure(round(size_bytes / KIB, 2), "KiB")


def mib(size_bytes: float) -> Figure:
    """Return a size in MiB."""
    return Figure(round(size_bytes / MIB, 1), "MiB")


def ms(seconds: float) -> Figure:
    """Return a time in milliseconds."""
    return Figure(round(seconds * 1000, 2), "ms")


def ratio(over: float, under: float) -> Figure:
    """Return how many times `under` goes into `over`."""
    return Figure(round(over / under, 3), "×")


def cpu_mean(costs: Sequence[Cost]) -> float:
    """Return the mean CPU in seconds."""
    return mean(cost.cpu_seconds for cost in costs)
