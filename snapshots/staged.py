"""Staged packs: how a reserved head names what is uploaded for a first revision of many packs. Pure.

Rules:
1. A pack enters the list only if its upload began after the head was read at the epoch that it has at that write. It
   may be published on the same condition, or because the reserved head that is replaced has it in its list.
2. Every such write refreshes the whole list: it is from now on of the head's present epoch.
3. Who raises the head leaves out, in the same write, a list that was not refreshed since it was raised before, and
   marks what is in any other. So whatever a head's list names is in the store, and what nobody goes on with is not
   named for ever.
4. Publishing and taking over end the list.

    assert admits(read.head, name, epoch)
    head = staged_with(read.head, {name: epoch}, family="s1", write_id=clock.new_id(), at=clock.now())
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from snapshots.head import RESERVED, Head, StagedPacks


def admits(head: Head, name: str, epoch: int) -> bool:
    """Say whether a pack may be named by a head that replaces this one (rule 1).

    Args:
        head: The reserved head, as it was just read.
        name: The pack.
        epoch: That the head had when it was read last before the pack's upload began.
    """
    return epoch == head.epoch or (head.staged is not None and name in head.staged.names)


def staged_with(head: Head, uploads: Mapping[str, int], *, family: str, write_id: str, at: datetime) -> Head:
    """Return a reserved head whose list has these packs too, refreshed to its epoch (rules 1 and 2).

    Args:
        head: The reserved head, as it was just read.
        uploads: Names of packs that it admits, and the epoch that the head had before the upload of each.
        family: In which they lie.
        write_id: Of the write.
        at: Now.

    Raises:
        LimitExceededError, UnsupportedSchemaError: When it is encoded: too many names, or a version without a list.
    """
    assert head.status == RESERVED, "a live head names its packs by its manifest"
    assert head.staged is None or head.staged.family == family, "a list is of one family"
    assert all(admits(head, name, epoch) for name, epoch in uploads.items()), "rule 1"
    before = () if head.staged is None else head.staged.names
    names = tuple(dict.fromkeys((*before, *uploads)))
    return replace(
        head,
        staged=StagedPacks(family, head.epoch, names),
        write_id=write_id,
        state_id=write_id,
        updated_at=at,
    )


def is_stale(head: Head) -> bool:
    """Say whether the next one to raise this head leaves its list out (rule 3)."""
    return head.staged is not None and head.staged.epoch != head.epoch
