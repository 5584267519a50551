"""Roots: which packs a head names. The one definition of "live".

Rules:
1. A head names the packs of every revision that retention keeps: from the floor on, those that a prune kept below it,
   pinned ones, expired pins too.
2. A reservation names the packs that are staged for it. A tombstone and a session that moved away name nothing; what
   lies in the head itself is no pack of the store.
3. Head, manifest and the log of places tell; nothing else is read.

    named_packs(environment, head)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from snapshots.environment import Environment
from snapshots.head import LIVE, Head
from snapshots.placement import PackUse, homes_of
from snapshots.reading import read_manifest, read_places


def named_packs(environment: Environment, head: Head) -> frozenset[str]:
    """Return the names of all packs that a head names; for callers that read the head again when something is missing.

    Raises:
        CorruptSnapshotError: Manifest or log cannot be read: then nothing may be deleted.
        NotFoundError: One of them is missing: read the head again.
    """
    if head.staged is not None:
        return frozenset(head.staged.names)
    if head.status != LIVE:
        return frozenset()
    placement = read_manifest(environment, head).placement
    rows = read_places(environment, head, placement)
    homes = homes_of(rows)
    ended = (replace(use, pack=homes.pack(use.pack)) for row in rows for use in row.ended)
    return frozenset(kept_packs(head, [*placement.packs, *ended])).difference(pack.name for pack in head.tail)


def named_keys(environment: Environment, head: Head) -> frozenset[str]:
    """Return the keys of all packs that a head names. Raises as `named_packs`."""
    family = head.family if head.staged is None else head.staged.family
    return frozenset(environment.layout.pack(family, name) for name in named_packs(environment, head))


def kept_packs(head: Head, uses: Iterable[PackUse]) -> Iterator[str]:
    """Yield the packs that a retained revision needs."""
    below = head.kept_below_floor
    for use in uses:
        last = use.last_revision or head.revision
        if last >= head.floor or any(use.first_revision <= revision <= last for revision in below):
            yield use.pack
