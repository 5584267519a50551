"""Measuring a fleet: what each operation costs, in this process or each in one of its own.

Rules:
1. Counts do not depend on the store: in memory or on a disk they are equal.
2. Memory is what the process of an operation took at most, beyond what it had when its repositories were open.
3. Seconds belong to the machine and its disk in memory; no request there waits for a network.

    for row in measured_apart(Fleet(1000), quiet):
        print(row.name, row.done.source, row.memory_bytes)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from infra.sizing.counts import Counts
from infra.sizing.fleet_work import GOES_ON_BEFORE, OPERATIONS, Done, done, prepare
from infra.sizing.fleets import Fleet, fill
from snapshots.benchmarks.alone import alone
from snapshots.benchmarks.meters import metering_process, peak_bytes
from snapshots.benchmarks.places import MEMORY, Place, new_place, new_shared_place, place_at
from snapshots.maintenance.progress import Progress

SOURCE, DESTINATION = "source", "destination"
HEAD_BYTES = 16 << 10  # what a session takes on a disk in either store: a head, a pack, their directories


@dataclass(frozen=True, slots=True)
class Measured:
    """What one operation cost.

    Attributes:
        name: Of the operation.
        done: Its requests and bytes.
        memory_bytes: At most, beyond what an open repository takes.
        seconds: By the clock on the wall.
        cpu_seconds: Of all threads.
    """

    name: str
    done: Done
    memory_bytes: int
    seconds: float
    cpu_seconds: float

    def as_json(self) -> dict[str, Any]:
        """Return it as it is stored."""
        return {
            "name": self.name,
            "source": self.done.source.as_json(),
            "destination": self.done.destination.as_json(),
            "memory_bytes": self.memory_bytes,
            "seconds": self.seconds,
            "cpu_seconds": self.cpu_seconds,
        }

    @classmethod
    def from_json(cls, plain: dict[str, Any]) -> Measured:
        """Return what `as_json` gave."""
        both = Done(Counts.from_json(plain["source"]), Counts.from_json(plain["destination"]))
        return cls(plain["name"], both, plain["memory_bytes"], plain["seconds"], plain["cpu_seconds"])


def fleet_of(sessions: int) -> Fleet:
    """Return the fleet that is measured: a tenth forked, a hundredth deleted, records beside as many, a reservation."""
    hundredth = sessions // 100
    return Fleet(sessions, forks=sessions // 10, deleted=hundredth, reserved=1, records=hundredth)


def measured_here(fleet: Fleet, names: Iterable[str] = OPERATIONS) -> Iterator[tuple[str, Done]]:
    """Yield what each operation costs, done in this process with stores in memory."""
    with new_place(MEMORY) as source, new_place(MEMORY) as destination:
        with source.repository(inline_limit_bytes=0) as repo:
            fill(repo, fleet)
        for name in names:
            prepare(name, source, fleet)
            yield name, done(name, source, destination, fleet)


def measured_apart(fleet: Fleet, progress: Progress, names: Iterable[str] = OPERATIONS) -> Iterator[Measured]:
    """Yield what each operation costs, done in a process of its own, with stores in a directory."""
    with new_shared_place(MEMORY, size_bytes=2 * HEAD_BYTES * fleet.heads) as place:
        alone(_fill, place.url, place.prefix, fleet, progress=progress)
        for name in names:
            if name == GOES_ON_BEFORE:
                alone(_prepare, place.url, place.prefix, fleet, name, progress=progress)
            yield alone(_measured, place.url, place.prefix, fleet, name, progress=progress)


def _places(url: str, prefix: str) -> tuple[Place, Place]:
    place = place_at(url, prefix)
    return place.within(SOURCE), place.within(DESTINATION)


def _fill(url: str, prefix: str, fleet: Fleet, *, progress: Progress) -> None:
    with _places(url, prefix)[0].repository(inline_limit_bytes=0) as repo:
        fill(repo, fleet, progress)


def _prepare(url: str, prefix: str, fleet: Fleet, name: str, *, progress: Progress) -> None:
    progress(name, 0, 0)
    prepare(name, _places(url, prefix)[0], fleet)


def _measured(url: str, prefix: str, fleet: Fleet, name: str, *, progress: Progress) -> Measured:
    progress(name, 0, 0)
    source, destination = _places(url, prefix)
    with source.repository(), destination.repository():
        before = peak_bytes()
    with metering_process() as used:
        cost = done(name, source, destination, fleet)
    return Measured(name, cost, peak_bytes() - before, used["wall_seconds"], used["cpu_seconds"])
