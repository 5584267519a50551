"""What the write ids of a register say of a copy of it. Reads and writes nothing.

Rules:
1. A value that is copied brings the id along of the write that made it, and behind it a digest of that id. Both stand
   among the write ids here then, whatever is written later.
2. Where the digest stands last, nobody has written here since.
3. A copy of a copy has the marks that a copy of the first one has.
4. What was left behind and comes back gets the digest of the last digest: another write of the same value.

    mark = mark_of(made_by(found.ring))
    standing(source.ring, here.ring)
"""

from __future__ import annotations

from typing import Literal

from snapshots.fields import id_bytes
from snapshots.satellite import RING_MAX
from storage.digest import short_hash

_TAG = b"copy of a satellite "

Ring = tuple[str, ...]
Standing = Literal["same", "ahead", "behind", "perhaps behind", "apart"]
"""What stands here has the source's value; has it, and was written to since; is one of the source's earlier values; is
the untouched copy of a value that the source does not remember any more; is none of all that."""


def mark_of(write_id: str, upto: int = 0) -> str:
    """Return the digest of a write id.

    Args:
        write_id: Of the write that made what was copied.
        upto: Number of the last record that was copied with it.
    """
    return short_hash(_TAG + id_bytes(write_id) + upto.to_bytes(8, "big")).hex()


def made_by(ring: Ring) -> str:
    """Return the id of the write that made the value with this ring, in whichever store that was (rule 3)."""
    last = len(ring) - 1
    while last > 0 and ring[last] == mark_of(ring[last - 1]):
        last -= 1
    return ring[last]


def is_untouched(ring: Ring) -> bool:
    """Say whether this is a copy that nobody has written to (rule 2)."""
    return made_by(ring) != ring[-1]


def mark_of_last(ring: Ring) -> str:
    """Return the mark of a value that is written again as it was (rule 4)."""
    return mark_of(ring[-1])


def standing(source: Ring, here: Ring) -> Standing:
    """Return how what stands here relates to the source."""
    made = made_by(source)
    if made == made_by(here):
        return "same"
    if made in here:
        return "ahead"
    if made_by(here) in source:
        return "behind"
    forgets = len(source) == RING_MAX
    return "perhaps behind" if forgets and is_untouched(here) else "apart"
