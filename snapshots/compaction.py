"""Compaction: a revision lies in few packs, so that it is read with few requests. Done by commits, now and then. Pure.

When the packs that a revision needs would be more than `Limits.packs`, the newest of them are merged into the pack
that this commit writes anyway.

Rules:
1. A pack of which most is still needed is carried: its bytes go into the new pack as they are, and lie there for every
   earlier revision too. Nothing is stored twice, once the old pack is collected.
2. Of others what this revision needs is written again; earlier revisions go on needing the old pack.
3. Nothing is read for it: bytes come from the packs at hand and from the content at hand. A pack for which neither is
   there is left alone.
4. When half of what a read fetches is no longer needed, all of it is written again.
5. Of the packs that are carried the newest come first: what is older stays where it is, so that the log of places
   changes at its end alone.
6. A blob that is too large to be held is not at hand when packs are merged. What of it is written again is chosen
   before, so that it lies in half as many packs as a revision may.

    plan = planned(live, bodies, at_hand, fixed)
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from snapshots.head import TAIL_BYTES_MAX, TAIL_PACK_BYTES_MAX
from storage.extents import Extent

ALIKE = 3.0  # an older pack that costs up to so many times what the dearest of the merged ones does is taken along
CARRIED_SHARE = 0.7  # of a pack that has to be needed still for it to be carried
DEAD_SHARE = 0.5  # of what a read fetches


@dataclass(frozen=True, slots=True)
class Limits:
    """How much a commit leaves lying apart. Smaller ones are for tests, which then merge after a few commits.

    Attributes:
        packs: Packs that a revision needs, at most; a resume is one request for each, and one for the head.
        large_packs: The same of a large revision, whose first pack takes several.
        large_bytes: Stored size from which on a revision is large.
        merged: Packs merged at once, at least, or half of those there may be if that is less; older ones of like cost
            go along.
        tail_pack_bytes: Size of a pack that lies in the head.
        tail_bytes: Of all of them; each commit sends them again.
    """

    packs: int = 22
    large_packs: int = 14
    large_bytes: int = 8 << 20
    merged: int = 8
    tail_pack_bytes: int = TAIL_PACK_BYTES_MAX
    tail_bytes: int = TAIL_BYTES_MAX


LIMITS = Limits()


@dataclass(frozen=True, slots=True)
class Plan:
    """Which packs are merged into the next one.

    Attributes:
        carried: Names of those whose bytes are taken over, oldest first.
        rewritten: Names of those of which what is needed is written again.
    """

    carried: tuple[str, ...] = ()
    rewritten: frozenset[str] = frozenset()

    @property
    def merges(self) -> bool:
        """Say whether there are any."""
        return bool(self.carried or self.rewritten)


class Live(NamedTuple):
    """What a revision needs of one pack.

    Attributes:
        read_bytes: Stored size of the frames with something needed in them.
        live_bytes: The share of that which is needed.
    """

    read_bytes: int
    live_bytes: int


_NOTHING = Live(0, 0)


def may_be_due(bodies: Mapping[str, int], limits: Limits) -> bool:
    """Say whether it is worth looking for what to merge."""
    return len(bodies) >= limits.packs or sum(bodies.values()) >= limits.large_bytes


def live_in(extents: Iterable[Extent]) -> dict[str, Live]:
    """Return what is needed of each pack, in order of first appearance."""
    lengths: dict[tuple[str, int, int], int] = {}
    raws: dict[tuple[str, int, int], int] = {}
    for extent in extents:
        frame = extent[:3]
        end = extent[3] + extent[4]
        if frame not in lengths:
            lengths[frame], raws[frame] = extent[4], end
            continue
        lengths[frame] += extent[4]
        if raws[frame] < end:
            raws[frame] = end
    found: dict[str, Live] = {}
    for frame, length in lengths.items():
        pack, _, stored = frame
        live = min(stored, stored * length // max(raws[frame], stored))  # no frame is larger than its raw bytes
        before = found.get(pack, _NOTHING)
        found[pack] = Live(before.read_bytes + stored, before.live_bytes + live)
    return found


def planned(
    live: Mapping[str, Live],
    bodies: Mapping[str, int],
    at_hand: Container[str],
    fixed: Container[str],
    limits: Limits = LIMITS,
) -> Plan:
    """Return what to merge into the next pack.

    Args:
        live: What the revision needs of each pack but the next.
        bodies: Size of each pack without its index, oldest first.
        at_hand: Packs whose bytes are there (rule 3).
        fixed: Packs of which something cannot be written again, because its bytes are not there.
        limits: What may lie apart.
    """
    if _is_mostly_dead(live, limits) and not any(pack in fixed for pack in live):
        return Plan(rewritten=frozenset(live))  # Rule 4.
    packs_max = _packs_max(live, limits)
    if len(live) < packs_max:
        return Plan()

    def is_carried(pack: str) -> bool:
        return pack in at_hand and (live[pack].live_bytes >= CARRIED_SHARE * bodies[pack] or pack in fixed)

    def cost(pack: str) -> int:
        return bodies[pack] if is_carried(pack) else live[pack].live_bytes

    costs = {pack: cost(pack) for pack in bodies if pack in live and (is_carried(pack) or pack not in fixed)}
    chosen = _newest(costs, min(limits.merged, packs_max // 2))
    most = ALIKE * max((costs[pack] for pack in chosen), default=0)
    chosen |= {pack for pack in costs if costs[pack] <= most and not is_carried(pack)}
    carried = tuple(pack for pack in costs if pack in chosen and is_carried(pack))
    return Plan(carried, frozenset(chosen.difference(carried)))


def _newest(costs: Mapping[str, int], count: int) -> set[str]:
    """Return the newest, and older ones as long as they are like the dearest of them: to merge few small ones into a
    large one again and again would write that each time."""
    chosen: set[str] = set()
    dearest = 0
    for pack in reversed(list(costs)):
        if len(chosen) >= max(count, 1) and costs[pack] > ALIKE * dearest:
            break
        chosen.add(pack)
        dearest = max(dearest, costs[pack])
    return chosen


def given_up(extents: Iterable[Extent], limits: Limits = LIMITS) -> frozenset[str]:
    """Return the packs of which a blob that is too large to be held copies nothing when it is stored again (rule 6).

    Args:
        extents: Where the blob of the parent revision lies.
        limits: What may lie apart.
    """
    live = live_in(extents)
    if _is_mostly_dead(live, limits):
        return frozenset(live)
    packs_max = _packs_max(live, limits) // 2
    if len(live) < packs_max:
        return frozenset()
    costs = {pack: one.live_bytes for pack, one in live.items()}
    order = sorted(costs, key=lambda pack: (costs[pack], pack))
    most = ALIKE * costs[order[: max(min(limits.merged, packs_max // 2), 1)][-1]]
    return frozenset(pack for pack in order if costs[pack] <= most)


def _is_mostly_dead(live: Mapping[str, Live], limits: Limits) -> bool:
    """Say whether little of what a read of a large revision fetches is still needed (rule 4)."""
    read = sum(one.read_bytes for one in live.values())
    return read > limits.large_bytes and _needed_bytes(live) < read * DEAD_SHARE


def _packs_max(live: Mapping[str, Live], limits: Limits) -> int:
    return limits.packs if _needed_bytes(live) < limits.large_bytes else limits.large_packs


def _needed_bytes(live: Mapping[str, Live]) -> int:
    return sum(one.live_bytes for one in live.values())
