"""The parts of a revision as byte-exact extents: what the parent revision has already is named, not stored again. Pure.

Rules:
1. A part is compared with the parent revision's alone, byte by byte; never with what else may lie in the store.
2. What is new of it is stored; everything else is an extent of the parent's. There is no chain to decode.
3. Without the parent's bytes, or when little is equal, all of it is new.

    pieces, held = spliced(ref, data, parts.get("tool-state"), placement.extents)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from storage.digest import BlobRef, Digest
from storage.extents import Extent, Spliceable
from storage.matching import Anchors, Copy, anchors_of, match

TOOL_STATE, PLUGIN_SNAPSHOT, EXECUTION_STATE, TOMBSTONES = (
    "tool-state",
    "plugin-snapshot",
    "execution-state",
    "tombstones",
)
HELD_BYTES_MAX = 256 << 20  # of a part that is kept in memory to compare the next one with

Piece = Extent | memoryview


@dataclass(frozen=True, slots=True)
class HeldPart:
    """The bytes of a part, to compare the next one with.

    Attributes:
        ref: Its blob.
        data: Its bytes.
        anchors: Where to look for what is equal, None before they were needed.
    """

    ref: BlobRef
    data: bytes = field(repr=False)
    anchors: Anchors | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process knows of the bytes of a revision's parts, by kind."""

    held: Mapping[str, HeldPart] = field(default_factory=dict)

    def holding(self, kind: str, part: HeldPart) -> Parts:
        """Return these with one more; without it if it is too large to be kept."""
        if part.ref.size_bytes > HELD_BYTES_MAX:
            return Parts({name: one for name, one in self.held.items() if name != kind})
        return Parts({**self.held, kind: part})

    def of(self, kind: str, ref: BlobRef | None) -> HeldPart | None:
        """Return the bytes of a part if they are those of `ref`, None if they are not known."""
        found = self.held.get(kind)
        return found if found is not None and found.ref == ref else None


def spliced(
    ref: BlobRef, data: bytes, parent: HeldPart | None, extents: Mapping[Digest, Sequence[Extent]]
) -> tuple[list[Piece], HeldPart]:
    """Return a part as pieces, and what to compare the next one with.

    Args:
        ref: The part.
        data: Its bytes.
        parent: The same part of the parent revision, None if its bytes are not known.
        extents: Where the parent revision's blobs lie.
    """
    if parent is None or not parent.data:
        return [memoryview(data)], HeldPart(ref, data)
    operations, anchors = match(parent.data, data, parent.anchors or anchors_of(parent.data))
    held, view = Spliceable(extents[parent.ref.digest]), memoryview(data)
    pieces: list[Piece] = []
    for operation in operations:
        if isinstance(operation, Copy):
            pieces += held.between(operation.start, operation.length)
        else:
            pieces.append(view[operation.start : operation.start + operation.length])
    return pieces, HeldPart(ref, data, anchors)
