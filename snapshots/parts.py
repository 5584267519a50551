"""The parts of a revision as byte-exact extents: what the parent revision has already is named, not stored again. Pure.

Rules:
1. A part is compared with the parent revision's alone, byte by byte; never with what else may lie in the store.
2. What is new of it is stored; everything else is an extent of the parent's. There is no chain to decode.
3. Without the parent's bytes, or when little is equal, all of it is new.
4. Of a part that is too large to be held no byte is compared: its cuts are, by their digests (`storage.cuts`). What
   is new of it lies in a spool.

    pieces, held = spliced(ref, data, parts.get("tool-state"), placement.extents)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from storage.cuts import CutTable, table_of
from storage.digest import BlobRef, Digest
from storage.extents import Extent, Run, Spliceable, joined
from storage.matching import Anchors, Copy, Operation, anchors_of, match
from storage.spools import Spool

TOOL_STATE, PLUGIN_SNAPSHOT, EXECUTION_STATE, TOMBSTONES = (
    "tool-state",
    "plugin-snapshot",
    "execution-state",
    "tombstones",
)
HELD_BYTES_MAX = 256 << 20  # of a part that is kept in memory to compare the next one with; of others the cuts are
WINDOW_BYTES = 4 << 20  # of a larger one that are looked at together

Piece = Run | memoryview


@dataclass(frozen=True, slots=True)
class HeldPart:
    """What a process keeps of a part, to compare the next one with.

    Attributes:
        ref: Its blob.
        data: Its bytes; the table of its cuts if they are too many.
        anchors: Where to look for what is equal, None before they were needed.
    """

    ref: BlobRef
    data: bytes | CutTable = field(repr=False)
    anchors: Anchors | None = field(default=None, repr=False, compare=False)


@dataclass(frozen=True, slots=True)
class SpooledPart:
    """A part that was too large to be held, or follows one: what of it is the parent's, and what is new.

    Attributes:
        ref: Its blob.
        parent: The part that its copies are of, None if it has none.
        operations: Its bytes in order: copies of the parent's, and insertions of what the spool holds.
        table: Its cuts.
        spool: What is new, in frames.
    """

    ref: BlobRef
    parent: BlobRef | None
    operations: tuple[Operation, ...] = field(repr=False)
    table: CutTable = field(repr=False, compare=False)
    spool: Spool = field(repr=False, compare=False)

    def held(self) -> HeldPart | None:
        """Return what is kept of it; None if it is no longer large: its bytes are read when they are needed."""
        return HeldPart(self.ref, self.table) if is_large(self.ref.size_bytes) else None

    def run(self, placed: Mapping[Digest, Sequence[Extent]]) -> Run:
        """Return where its bytes lie, in order; `placed` says where the parent revision's blobs do."""
        old = Spliceable(placed[self.parent.digest] if self.parent is not None else ())
        new = Spliceable(self.spool.frames)
        return Run(
            joined((old if isinstance(one, Copy) else new).between(one.start, one.length) for one in self.operations)
        )


def is_large(size_bytes: int) -> bool:
    """Say whether a part is too large to be held."""
    return size_bytes > HELD_BYTES_MAX


def held_part(ref: BlobRef, data: bytes) -> HeldPart:
    """Return what is kept of a part: its bytes, or the table of its cuts."""
    return HeldPart(ref, cuts_of(data) if is_large(ref.size_bytes) else data)


def cuts_of(data: bytes) -> CutTable:
    """Return the cuts of a part whose bytes are there."""
    view = memoryview(data)
    return table_of(view[start : start + WINDOW_BYTES] for start in range(0, view.nbytes, WINDOW_BYTES))


@dataclass(frozen=True, slots=True)
class Parts:
    """What a process keeps of a revision's parts, by kind."""

    held: Mapping[str, HeldPart] = field(default_factory=dict)

    def holding(self, kind: str, part: HeldPart) -> Parts:
        """Return these with one more."""
        return Parts({**self.held, kind: part})

    def of(self, kind: str, ref: BlobRef | None) -> HeldPart | None:
        """Return what is kept of a part if it is that of `ref`, None otherwise."""
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
    if parent is None or not isinstance(parent.data, bytes) or not parent.data:
        return [memoryview(data)], held_part(ref, data)
    operations, anchors = match(parent.data, data, parent.anchors or anchors_of(parent.data))
    held, view = Spliceable(extents[parent.ref.digest]), memoryview(data)
    pieces: list[Piece] = []
    for operation in operations:
        if isinstance(operation, Copy):
            pieces.append(Run(held.between(operation.start, operation.length)))
        else:
            pieces.append(view[operation.start : operation.start + operation.length])
    return pieces, held_part(ref, data) if is_large(ref.size_bytes) else HeldPart(ref, data, anchors)
