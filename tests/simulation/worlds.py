"""The worlds that are explored, by name; and a command that explores one with larger budgets.

python -m tests.simulation.worlds "fork in flight" --preemptions 3 --crashes 0
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import NamedTuple

import pytest

from snapshots.maintenance.copy import session
from snapshots.state import graph
from snapshots.testing.simulation.watch import COPIES
from storage.clock import SystemClock
from storage.testing.clock import ManualClock
from storage.testing.simulation import Exploration, RunningClock, explore
from tests.simulation.apart import (
    FEW,
    IN_HEAD,
    MERGED_LESS,
    fork_in_head,
    in_head,
    merger,
    pruner,
    reader,
    replacer,
    several_packs,
    two_large_packs,
)
from tests.simulation.copies import (
    PACK_BYTES,
    CopyingProtocol,
    committer,
    copied_beginning,
    copied_parent,
    copier,
    forked,
)
from tests.simulation.former_versions import of_version_1, upgrader
from tests.simulation.protocol import (
    AHEAD,
    MERGED,
    Prepare,
    Protocol,
    Role,
    Start,
    collector,
    creator,
    deleter,
    dropper,
    forker,
    owner,
    real_collector,
    rewinder,
    writer,
)
from tests.simulation.satellites import (
    appender,
    compactor,
    due_record,
    editor,
    first_host,
    keeper,
    merged_log,
    reaper,
    saved_session,
    saver,
    second_host,
)

WORLDS: Mapping[str, tuple[int, Mapping[str, Role]]] = {
    # Name: revisions of session "s" at the start (of "t" too in TWO_FAMILIES, 0 where STARTS has one), and the actors.
    "writers": (1, {"w": writer("w", "s"), "f": forker("s", "c"), "d": deleter("s"), "g": collector()}),
    "two writers": (1, {"w": writer("w", "s", 2), "v": writer("v", "s"), "f": forker("s", "c"), "g": collector()}),
    "creators": (0, {"a": creator("a", "n"), "b": creator("b", "n"), "g": collector()}),
    "dropped revisions": (4, {"w": dropper("w", "s"), "f": forker("s", "c"), "g": collector()}),
    "rewinds": (4, {"w": dropper("w", "s"), "r": rewinder("r", "s", 2), "g": collector()}),
    "owners": (1, {"a": owner("a", "s"), "b": owner("b", "s"), "w": writer("w", "s")}),
    "fork in flight": (
        1,
        {
            "f": forker("s", "c"),
            "j": forker("c", "n"),
            "d": deleter("s"),
            "e": deleter("c"),
            "g": collector(),
        },
    ),
    "two writers and a fork of a fork": (
        1,
        {
            "f": forker("s", "c"),
            "j": forker("c", "n"),
            "d": deleter("s"),
            "e": deleter("c"),
            "g": real_collector(),
            "w": writer("w", "s"),
            "v": writer("v", "s"),
        },
    ),
    "batches": (
        1,
        {
            "f": forker("t", "c"),
            "d": deleter("s"),
            "e": deleter("t"),
            "g": real_collector(batch_packs=1),
        },
    ),
    "a real collection": (1, {"w": writer("w", "s"), "f": forker("s", "c"), "d": deleter("s"), "g": real_collector()}),
    "two collectors": (
        1,
        {"w": writer("w", "s"), "f": forker("s", "c"), "d": deleter("s"), "g": collector(), "k": collector()},
    ),
    "forks and collectors": (
        1,
        {
            "f": forker("s", "c"),
            "j": forker("c", "n"),
            "d": deleter("s"),
            "e": deleter("c"),
            "g": collector(),
            "k": collector(),
        },
    ),
    "everybody": (
        1,
        {
            "w": writer("w", "s"),
            "f": forker("s", "c"),
            "j": forker("c", "n"),
            "d": deleter("s"),
            "g": collector(),
            "k": collector(),
        },
    ),
    "small commits": (
        0,
        {"w": writer("w", "s", 2, IN_HEAD), "v": writer("v", "s", 1, IN_HEAD), "d": deleter("s"), "g": collector()},
    ),
    "small and large commits": (
        0,
        {
            "w": writer("w", "s", 1, IN_HEAD),
            "v": writer("v", "s"),
            "f": forker("s", "c", 2),
            "g": collector(),
        },
    ),
    "a fork of a small commit": (
        0,
        {"w": replacer("w", "c"), "f": forker("c", "n", 1), "d": deleter("c"), "g": collector()},
    ),
    "small commits pruned": (0, {"w": writer("w", "s", 2, IN_HEAD), "p": pruner("s"), "g": real_collector()}),
    "uploads ahead": (
        0,
        {"w": writer("w", "s", 3, AHEAD), "f": forker("s", "c", 2), "g": collector()},
    ),
    "uploads ahead and readers": (
        0,
        {"w": writer("w", "s", 4, AHEAD), "v": writer("v", "s", 1, AHEAD), "o": reader("s", 2), "g": real_collector()},
    ),
    "merges": (
        0,
        {"w": writer("w", "s", 2, MERGED_LESS), "v": writer("v", "s"), "f": forker("s", "c"), "g": collector()},
    ),
    "merges and old forks": (
        0,
        {"w": writer("w", "s", 2, MERGED), "f": forker("s", "c", 2), "d": deleter("s"), "g": real_collector()},
    ),
    "merges and rewinds": (
        0,
        {"w": writer("w", "s", 2, MERGED), "r": rewinder("r", "s", 2, MERGED), "g": collector()},
    ),
    "merges of merges": (
        0,
        {"w": merger("w", "s"), "f": forker("s", "c", 1), "o": reader("s", 2), "g": collector()},
    ),
    "merges and readers": (0, {"w": writer("w", "s", 2, MERGED), "o": reader("s", 2), "g": collector()}),
    "merges pruned": (0, {"w": writer("w", "s", 2, MERGED), "p": pruner("s"), "g": collector()}),
    "everybody in few packs": (
        0,
        {
            "w": writer("w", "s", 3, FEW),
            "v": writer("v", "s"),
            "f": forker("s", "c", 2),
            "j": forker("c", "n"),
            "r": rewinder("r", "s", 2, FEW),
            "p": pruner("s"),
            "o": reader("s", 1),
            "g": collector(),
            "k": real_collector(),
        },
    ),
    "a copy under way": (
        3,
        {"c": copier("c", "s"), "g": real_collector(layout=COPIES), "k": collector(layout=COPIES)},
    ),
    "two copiers": (2, {"c": copier("c", "s"), "r": copier("r", "s"), "g": real_collector(layout=COPIES)}),
    "a copy and its source": (
        2,
        {"c": copier("c", "s"), "w": dropper("w", "s"), "g": real_collector()},
    ),
    "copiers and a writer": (1, {"c": copier("c", "s"), "r": copier("r", "s"), "w": writer("w", "s")}),
    "a copy of a fork": (
        0,
        {"c": copier("c", "c", "s"), "p": pruner("s", COPIES), "g": real_collector(layout=COPIES)},
    ),
    "a copy of a fork beside its parent's": (
        0,
        {
            "a": copier("a", "s"),
            "c": copier("c", "b", "s"),
            "d": deleter("s", COPIES),
            "g": collector(layout=COPIES),
        },
    ),
    "a copy that went on": (
        0,
        {"c": copier("c", "s"), "v": committer("v", "s"), "g": real_collector(layout=COPIES)},
    ),
    "an upgrade": (0, {"u": upgrader(), "w": writer("w", "s"), "f": forker("s", "c"), "g": real_collector()}),
    "two upgrades": (0, {"u": upgrader(), "v": upgrader(), "w": writer("w", "s"), "d": deleter("s")}),
    "a usage log": (0, {"a": appender("a"), "b": appender("b"), "c": compactor(), "g": real_collector()}),
    "a usage log collected": (0, {"a": appender("a"), "c": compactor(), "g": real_collector()}),
    "two compactions": (0, {"a": appender("a"), "c": compactor(), "k": compactor()}),
    "savers": (0, {"a": saver("a"), "b": saver("b"), "e": editor("e")}),
    "reapers": (0, {"r": reaper(), "q": reaper(), "k": keeper(0)}),
    "realtime hosts": (0, {"a": first_host("a"), "b": second_host("b")}),
}
STARTS: Mapping[str, Callable[[], Start]] = {
    "small commits": in_head,
    "small and large commits": in_head,
    "a fork of a small commit": fork_in_head,
    "small commits pruned": in_head,
    "uploads ahead": in_head,
    "uploads ahead and readers": in_head,
    "merges": several_packs,
    "merges and old forks": several_packs,
    "merges and rewinds": several_packs,
    "merges of merges": two_large_packs,
    "merges and readers": several_packs,
    "merges pruned": partial(several_packs, pinned=2),
    "an upgrade": of_version_1,
    "two upgrades": of_version_1,
    "everybody in few packs": partial(several_packs, pinned=1),
    "a copy of a fork": copied_parent,
    "a copy of a fork beside its parent's": forked,
    "a copy that went on": copied_beginning,
}
COPYING = (
    "a copy under way",
    "two copiers",
    "a copy and its source",
    "copiers and a writer",
    "a copy of a fork",
    "a copy of a fork beside its parent's",
    "a copy that went on",
)
PREPARED: Mapping[str, Prepare] = {
    "a usage log": merged_log,
    "a usage log collected": merged_log,
    "two compactions": merged_log,
    "savers": saved_session,
    "reapers": due_record,
}


def running(patch: pytest.MonkeyPatch) -> None:
    """Give the graph, which has one clock for all, the clock of the actor that runs; let copies be of many packs."""
    patch.setattr(graph, "_clock", RunningClock(ManualClock()))
    patch.setattr(session, "PACK_BYTES", PACK_BYTES)


TWO_FAMILIES = ("batches",)
# A fork of a fork whose source is deleted while both are in flight: three pre-emptions are spent on getting there.
IN_FLIGHT = "f*2 j d*2"
# The same of copies: the parent's packs are there and its head is not, the child is reserved.
IN_COPY = "a*5 c*3"
# A copier that named its first pack, and was never seen again.
GIVEN_UP = "c*8 c!"


class Gate(NamedTuple):
    """A search that finds nothing: a world, and with how many pre-emptions and crashes, behind what prefix."""

    world: str
    preemptions: int
    crashes: int = 0
    prefix: str = ""
    limit: int = 1_000_000

    def covers(self, world: str, preemptions: int, prefix: str) -> bool:
        """Say whether a search without crashes is a part of this one."""
        return self.world == world and self.preemptions >= preemptions and self.prefix in ("", prefix)


GATES = (
    Gate("writers", 2, 1),
    Gate("creators", 2, 1),
    Gate("dropped revisions", 2, 1),
    Gate("rewinds", 2),
    Gate("owners", 2, 1),
    Gate("two writers", 2),
    Gate("two collectors", 1),
    Gate("a real collection", 1, 1),
    Gate("a real collection", 2),
    Gate("batches", 1, 1),
    Gate("fork in flight", 2),
    Gate("fork in flight", 2, 1, IN_FLIGHT),
    Gate("two writers and a fork of a fork", 1, 0, IN_FLIGHT),
    Gate("small commits", 2),
    Gate("small and large commits", 1),
    Gate("a fork of a small commit", 2),
    Gate("small commits pruned", 1, 1),
    Gate("small commits pruned", 2),
    Gate("uploads ahead", 1, 1),
    Gate("uploads ahead", 2),
    Gate("uploads ahead and readers", 1),
    Gate("merges", 1),
    Gate("merges and old forks", 1),
    Gate("merges and rewinds", 2),
    Gate("merges of merges", 1),
    Gate("merges and readers", 2),
    Gate("merges pruned", 2),
    Gate("a copy under way", 2),
    Gate("a copy under way", 1, 0, GIVEN_UP),
    Gate("two copiers", 1, 1),
    Gate("a copy and its source", 2),
    Gate("copiers and a writer", 2),
    Gate("a copy of a fork", 2),
    Gate("a copy of a fork beside its parent's", 2, 0, IN_COPY),
    Gate("a copy that went on", 2),
    Gate("an upgrade", 1),
    Gate("two upgrades", 1),
    Gate("a usage log", 1),
    Gate("a usage log collected", 2, 1),
    Gate("two compactions", 2, 1),
    Gate("savers", 2, 1),
    Gate("reapers", 2, 1),
    Gate("realtime hosts", 2),
    Gate("realtime hosts", 1, 1),
)


@cache
def _start(name: str) -> Start:
    revisions, families = WORLDS[name][0], ("s", "t") if name in TWO_FAMILIES else ("s",)
    with pytest.MonkeyPatch.context() as patch:
        running(patch)
        if name in STARTS:
            return STARTS[name]()
        return Start.of(dict.fromkeys(families, revisions) if revisions else {}, PREPARED.get(name))


def maker(name: str) -> Callable[[], Protocol]:
    """Return what makes a fresh world of this name. What it begins with is made now, by the code as it is now."""
    start, roles = _start(name), WORLDS[name][1]
    kind = CopyingProtocol if name in COPYING else Protocol
    return lambda: kind(start, roles)


def explored(gate: Gate) -> Exploration:
    """Search behind a gate. Raises what `explore` raises."""
    with pytest.MonkeyPatch.context() as patch:
        running(patch)
        return explore(
            maker(gate.world),
            preemptions=gate.preemptions,
            crashes=gate.crashes,
            prefix=gate.prefix,
            limit=gate.limit,
        )


def main() -> None:
    """Explore one world and print what was done."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("world", choices=sorted(WORLDS))
    parser.add_argument("--preemptions", type=int, default=2)
    parser.add_argument("--crashes", type=int, default=0)
    parser.add_argument("--prefix", default="")
    parser.add_argument("--limit", type=int, default=5_000_000)
    given = parser.parse_args()
    clock = SystemClock()
    begun = clock.monotonic()
    done = explored(Gate(given.world, given.preemptions, given.crashes, given.prefix, given.limit))
    print(f"{given.world}, {given.preemptions} pre-emptions, {given.crashes} crashes: {done}")
    print(f"{clock.monotonic() - begun:.0f} s")


if __name__ == "__main__":
    main()
