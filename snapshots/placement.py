"""`Placement`: where the blobs of one revision lie in this store. Local: a copy elsewhere has another. Pure.

Rules:
1. It has the extents of every blob that the revision's checkpoint names, and of its own log of places.
2. The log of places tells, for every earlier revision, where its manifest lies, and which packs it needed that this
   revision does not: head, manifest and that log name every pack that any revision of the session needs.
3. A manifest is checkpoint and placement of one revision, stored together as one run of frames; most are compressed
   against an earlier one that stands in full, so that what did not change takes no room. It is one step, never more.
4. Extents and the frames that they lie in are kept in columns, byte by byte, and frames keep their numbers until a
   manifest stands in full again: what did not change has the same bytes in the next one.
5. A pack may be carried: its bytes lie within a later one, for all revisions. The log of places says so (`Move`); a
   placement that was written before goes through `Homes` when it is read.

    stored = seal_manifest(manifest_bytes(checkpoint, placement))
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import chain
from operator import add
from typing import Any

from snapshots import codec
from snapshots.errors import LimitExceededError
from snapshots.fields import (
    SCHEMA_VERSION,
    Fields,
    columns,
    digest_from_plain,
    digest_to_plain,
    is_whole,
    ref_from_plain,
    ref_to_plain,
)
from snapshots.logs import NO_LOG, LogRef, log_ref_from_plain
from snapshots.overrides import Overrides, overrides_from_plain
from storage.digest import BLOB_BYTES_MAX, BlobRef, Buffer, Digest, parse_digest
from storage.extents import Extent, Frame, frames_of, packs_of
from storage.frame import FRAME_BYTES_MAX, STORED_BYTES_MAX, open_run, prefix_of, seal_run

MANIFEST_BYTES_MAX = 64 << 20  # raw: an execution state of 4 GiB has about 1 MiB of extents
_MANIFEST_STORED_BYTES_MAX = MANIFEST_BYTES_MAX // FRAME_BYTES_MAX * STORED_BYTES_MAX
NAME_BYTES = 24  # 16 of the commit id, 8 random

FrameNumbers = Mapping[Frame, int]
"""The number of each frame: 0, 1 and so on, in order."""


@dataclass(frozen=True, slots=True)
class Move:
    """A pack that another one carries.

    Attributes:
        pack: Its name.
        into: The pack that carries it.
        shift: Where it begins there.
    """

    pack: str
    into: str
    shift: int

    def to_plain(self) -> list[Any]:
        """Return `[pack, into, shift]`."""
        return [name_to_plain(self.pack), name_to_plain(self.into), self.shift]


def move_from_plain(plain: Any) -> Move:
    """Return the move that `to_plain` wrote. Raises ValueError, TypeError."""
    pack, into, shift = columns(plain, 3)
    if not is_whole(shift, 0, BLOB_BYTES_MAX):
        raise ValueError("not a move")
    return Move(name_from_plain(pack), name_from_plain(into), shift)


class Homes:
    """Where packs lie that others carry; the same for all revisions, as names are never used again (rule 5).

    Args:
        moves: All moves, in the order in which they were made.
    """

    def __init__(self, moves: Iterable[Move] = ()) -> None:
        self._homes: dict[str, tuple[str, int]] = {}
        for move in reversed(list(moves)):
            into, shift = self._homes.get(move.into, (move.into, 0))
            self._homes[move.pack] = (into, shift + move.shift)

    def __bool__(self) -> bool:
        return bool(self._homes)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Homes) and self._homes == other._homes

    def __hash__(self) -> int:
        return hash(frozenset(self._homes.items()))

    def __repr__(self) -> str:
        return f"Homes({self.moves()!r})"

    def pack(self, name: str) -> str:
        """Return the pack in which a pack lies now."""
        return self._homes[name][0] if name in self._homes else name

    def extent(self, extent: Extent) -> Extent:
        """Return where an extent lies now."""
        return extent.moved(*self._homes[extent.pack]) if extent.pack in self._homes else extent

    def place(self, place: ManifestPlace) -> ManifestPlace:
        """Return where a manifest lies now."""
        pack, shift = self._homes.get(place.pack, (place.pack, 0))
        against = None if place.against is None else replace(self.place(place.against), moved=NOT_MOVED)
        return ManifestPlace(pack, place.offset + shift, place.stored_bytes, against, self)

    def without(self, packs: Container[str]) -> Homes:
        """Return where all packs lie but these."""
        homes = Homes()
        homes._homes = {pack: home for pack, home in self._homes.items() if pack not in packs}
        return homes

    def row(self, row: PlaceRow) -> PlaceRow:
        """Return a row whose manifest says where it lies now, and where what it names does."""
        return replace(row, manifest=self.place(row.manifest)) if self._homes else row

    def placement(self, placed: Placement) -> Placement:
        """Return where the blobs of a revision lie now."""
        if not any(use.pack in self._homes for use in placed.packs):
            return placed
        extents = {digest: tuple(map(self.extent, many)) for digest, many in placed.extents.items()}
        uses: dict[str, PackUse] = {}
        for use in placed.packs:
            name = self.pack(use.pack)
            first = min(use.first_revision, uses[name].first_revision) if name in uses else use.first_revision
            uses[name] = PackUse(name, first, use.last_revision, 0 if name != use.pack else use.body_bytes)
        return replace(placed, extents=extents, packs=tuple(uses.values()))

    def moves(self) -> tuple[Move, ...]:
        """Return the moves that tell the same, in order of name: equal ones have equal bytes."""
        return tuple(Move(name, into, shift) for name, (into, shift) in sorted(self._homes.items()))


NOT_MOVED = Homes()


@dataclass(frozen=True, slots=True)
class ManifestPlace:
    """Where a manifest lies: a run of frames in a pack.

    Attributes:
        pack: Name of the pack.
        offset: Its first byte there.
        stored_bytes: Length of the run.
        against: The manifest that it was compressed against, None if it stands in full.
        moved: Where the packs lie that the manifest names and that others carry now.
    """

    pack: str
    offset: int
    stored_bytes: int
    against: ManifestPlace | None = None
    moved: Homes = NOT_MOVED

    def to_plain(self) -> list[Any]:
        """Return `[pack, offset, stored bytes]`, the same of the one that it was compressed against, and the moves."""
        plain: list[Any] = [name_to_plain(self.pack), self.offset, self.stored_bytes]
        if self.against is not None or self.moved:
            plain.append(None if self.against is None else self.against.to_plain())
            plain.append([move.to_plain() for move in self.moved.moves()])
        return plain

    def runs(self) -> tuple[ManifestPlace, ...]:
        """Return what has to be read: its run, and that of the other one."""
        return (self,) if self.against is None else (self, self.against)


def place_from_plain(plain: Any) -> ManifestPlace:
    """Return the place that `to_plain` wrote. Raises ValueError, TypeError."""
    if isinstance(plain, list | tuple) and len(plain) == 5:
        *own, against, moved = plain
        if not isinstance(moved, list | tuple) or (against is not None and len(columns(against, 3)) != 3):
            raise ValueError("not a place")
        before = None if against is None else place_from_plain(against)
        return replace(place_from_plain(own), against=before, moved=Homes(map(move_from_plain, moved)))
    name, offset, stored = columns(plain, 3)
    if not is_whole(offset, 0, BLOB_BYTES_MAX) or not is_whole(stored, 1, _MANIFEST_STORED_BYTES_MAX):
        raise ValueError("not a place")
    return ManifestPlace(name_from_plain(name), offset, stored)


@dataclass(frozen=True, slots=True)
class PackUse:
    """A pack, and the revisions that need it.

    Attributes:
        pack: Name of the pack.
        first_revision: First revision that needs it, without a gap up to the last.
        last_revision: Last one; 0 while the present one does.
        body_bytes: Size of its frames before its manifest; 0 if it is not known.
    """

    pack: str
    first_revision: int
    last_revision: int = 0
    body_bytes: int = 0

    def to_plain(self) -> list[Any]:
        """Return `[pack, first, last, body bytes]`."""
        return [name_to_plain(self.pack), self.first_revision, self.last_revision, self.body_bytes]


def use_from_plain(plain: Any) -> PackUse:
    """Return the use that `to_plain` wrote. Raises ValueError, TypeError."""
    name, first, last, body = columns(plain, 4)
    if not is_whole(first, 1) or not is_whole(last) or 0 < last < first or not is_whole(body, 0, BLOB_BYTES_MAX):
        raise ValueError("not the use of a pack")
    return PackUse(name_from_plain(name), first, last, body)


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """What a commit writes down about the revision before it.

    Attributes:
        revision: The revision before.
        checkpoint_ref: Its checkpoint.
        manifest: Where its manifest lies.
        overrides: What stands beside the manifest if the revision was a fork's first, None otherwise.
        ended: Packs that it needed and this one does not, with their last revision.
        moved: Packs that this one's pack carries.
    """

    revision: int
    checkpoint_ref: BlobRef
    manifest: ManifestPlace
    overrides: Overrides | None
    ended: tuple[PackUse, ...]
    moved: tuple[Move, ...] = ()

    def to_plain(self) -> list[Any]:
        """Return the row as a list, fields in order."""
        ended = [use.to_plain() for use in self.ended]
        moved = [move.to_plain() for move in self.moved]
        overrides = None if self.overrides is None else self.overrides.to_plain()
        return [self.revision, ref_to_plain(self.checkpoint_ref), self.manifest.to_plain(), overrides, ended, moved]


def row_from_plain(plain: Any) -> PlaceRow:
    """Return the row that `to_plain` wrote. Raises ValueError, TypeError."""
    revision, ref, place, fork, ended, moved = columns(plain, 6)
    if not is_whole(revision, 1) or not isinstance(ended, list | tuple) or not isinstance(moved, list | tuple):
        raise ValueError("not a row of places")
    overrides = None if fork is None else overrides_from_plain(fork)
    uses, moves = tuple(map(use_from_plain, ended)), tuple(map(move_from_plain, moved))
    return PlaceRow(revision, ref_from_plain(ref), place_from_plain(place), overrides, uses, moves)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one revision's blobs lie.

    Attributes:
        extents: By digest, each in order.
        packs: Every pack that an extent or the manifest lies in, with the first revision that needs it.
        places: The log of places.
    """

    extents: Mapping[Digest, tuple[Extent, ...]] = field(default_factory=dict)
    packs: tuple[PackUse, ...] = ()
    places: LogRef = NO_LOG

    def refs(self) -> tuple[BlobRef, ...]:
        """Return what the placement itself needs: its log, if it has entries."""
        return (self.places.ref,) if self.places.count else ()

    def narrowed(self, refs: Iterable[BlobRef], manifest: ManifestPlace) -> Placement:
        """Return what a fork takes over of its source's placement: where these blobs and the manifest lie, no log."""
        extents = {ref.digest: self.extents[ref.digest] for ref in refs}
        packs = packs_of(extents.values())
        packs |= dict.fromkeys(run.pack for run in manifest.runs())
        bodies = {use.pack: use.body_bytes for use in self.packs}
        return Placement(extents, tuple(PackUse(pack, 1, 0, bodies.get(pack, 0)) for pack in packs))

    def numbered(self, before: FrameNumbers | None = None) -> FrameNumbers:
        """Return the number of every frame that the extents lie in; those of `before` keep theirs, needed or not."""
        numbers = dict(before or {})
        for frame in frames_of(self._every()):
            if frame not in numbers:
                numbers[frame] = len(numbers)
        return numbers

    def encode(self, numbers: FrameNumbers | None = None) -> bytes:
        """Return the record's bytes; `numbers` is what `numbered()` returned (rule 4)."""
        numbers = self.numbered() if numbers is None else numbers
        packs, offsets, stored = zip(*numbers, strict=True) if numbers else ((), (), ())
        names = {name: index for index, name in enumerate(dict.fromkeys(packs))}
        every = list(self._every())
        return codec.encode(
            {
                "schema_version": SCHEMA_VERSION,
                "packs": [use.to_plain() for use in self.packs],
                "names": [name_to_plain(name) for name in names],
                "frames": [
                    _column(_PACK, [names[pack] for pack in packs]),
                    _column(_OFFSET, offsets),
                    _column(_STORED, stored),
                ],
                "blobs": [[digest_to_plain(digest), len(many)] for digest, many in self.extents.items()],
                "extents": [
                    _column(_FRAME, [numbers[frame] for frame in frames_of(every)]),
                    _column(_SKIP, [extent[3] for extent in every]),
                    _column(_LENGTH, [extent[4] for extent in every]),
                ],
                "places": self.places.to_plain(),
            }
        )

    def _every(self) -> Iterator[Extent]:
        return chain.from_iterable(self.extents.values())

    @classmethod
    def decode(cls, data: bytes, *, key: str) -> Placement:
        """Return the record that `encode` wrote. Raises CorruptSnapshotError, UnsupportedSchemaError."""
        return decode_placement(data, key=key)[0]


def decode_placement(data: bytes, *, key: str) -> tuple[Placement, FrameNumbers]:
    """Return a placement and how it numbers its frames. Raises CorruptSnapshotError, UnsupportedSchemaError."""
    fields = Fields(codec.decode(data, key=key), key=key, record="placement")
    fields.schema()
    names = fields.rows("names", name_from_plain)
    frames = fields.parsed("frames", lambda plain: _frames_from_plain(plain, names), fields.value("frames"))
    every = fields.parsed("extents", lambda plain: _extents_from_plain(plain, frames), fields.value("extents"))
    extents: dict[Digest, tuple[Extent, ...]] = {}
    start = 0
    for digest, count in fields.rows("blobs", _counted_from_plain):
        if digest in extents:
            raise fields.wrong(f"names {digest} twice")
        extents[digest] = tuple(every[start : start + count])
        start += count
    packs = fields.rows("packs", use_from_plain)
    places = fields.parsed("places", log_ref_from_plain, fields.value("places"))
    fields.nothing_else()
    if start != len(every):
        raise fields.wrong(f"has {len(every)} extents for blobs with {start}")
    if not {extent.pack for extent in every} <= {use.pack for use in packs}:
        raise fields.wrong("has extents in packs that it does not name")
    numbers = dict(zip(frames, range(len(frames)), strict=True))
    if len(numbers) != len(frames):
        raise fields.wrong("numbers a frame twice")
    return Placement(extents, packs, places), numbers


# Columns: array code and width in bytes of each.
_PACK, _OFFSET, _STORED = ("I", 4), ("Q", 8), ("I", 4)
_FRAME, _SKIP, _LENGTH = ("I", 4), ("I", 4), ("I", 4)


def _column(kind: tuple[str, int], numbers: Sequence[int]) -> bytes:
    """Return the lowest bytes of all numbers, then the next ones, and so on: the highest are nearly all zero."""
    code, width = kind
    column = array(code, numbers)
    if sys.byteorder == "big":
        column.byteswap()
    raw = column.tobytes()
    return b"".join(raw[start::width] for start in range(width))


def _numbers(kind: tuple[str, int], raw: Any) -> array[int]:
    code, width = kind
    if not isinstance(raw, bytes) or len(raw) % width:
        raise ValueError("not a column")
    count = len(raw) // width
    laid = bytearray(len(raw))
    for start in range(width):
        laid[start::width] = raw[start * count : (start + 1) * count]
    column = array(code)
    column.frombytes(laid)
    if sys.byteorder == "big":
        column.byteswap()
    return column


def _frames_from_plain(plain: Any, names: Sequence[str]) -> tuple[Frame, ...]:
    """Return all frames. Raises ValueError, TypeError, IndexError."""
    packs, offsets, stored = map(_numbers, (_PACK, _OFFSET, _STORED), columns(plain, 3))
    if not len(packs) == len(offsets) == len(stored):
        raise ValueError("columns of several lengths")
    if packs and (max(offsets) > BLOB_BYTES_MAX or not 1 <= min(stored) <= max(stored) <= STORED_BYTES_MAX):
        raise ValueError("not frames")
    return tuple(zip([names[number] for number in packs], offsets, stored, strict=True))


def _extents_from_plain(plain: Any, frames: Sequence[Frame]) -> list[Extent]:
    """Return all extents. Raises ValueError, TypeError, IndexError."""
    numbers, skips, lengths = map(_numbers, (_FRAME, _SKIP, _LENGTH), columns(plain, 3))
    if not len(numbers) == len(skips) == len(lengths):
        raise ValueError("columns of several lengths")
    if numbers and (min(lengths) < 1 or max(map(add, skips, lengths)) > FRAME_BYTES_MAX):
        raise ValueError("not extents of one frame each")
    return [Extent(*frames[number], skip, length) for number, skip, length in zip(numbers, skips, lengths, strict=True)]


def _counted_from_plain(plain: Any) -> tuple[Digest, int]:
    name, count = columns(plain, 2)
    if not is_whole(count):
        raise ValueError("not a number of extents")
    return parse_digest(digest_from_plain(name)), count


def homes_of(rows: Iterable[PlaceRow]) -> Homes:
    """Return where the packs lie now that the pack of some revision carries.

    Args:
        rows: Of the log of places, from the row asked for on, to its end or to that of its stretch.
    """
    return Homes(move for row in rows for move in (*row.manifest.moved.moves(), *row.moved))


def name_to_plain(name: str) -> bytes:
    """Return the 24 bytes of a pack's name."""
    return bytes.fromhex(name.replace(".", ""))


def name_from_plain(raw: bytes) -> str:
    """Return a pack's name from its 24 bytes. Raises ValueError, TypeError."""
    if not isinstance(raw, bytes) or len(raw) != NAME_BYTES:
        raise ValueError("not the name of a pack")
    digits = raw.hex()
    return f"{digits[:32]}.{digits[32:]}"


def manifest_bytes(checkpoint: bytes, placement: bytes) -> bytes:
    """Return a manifest, not yet stored. Raises LimitExceededError above MANIFEST_BYTES_MAX."""
    raw = codec.encode([checkpoint, placement])
    if len(raw) > MANIFEST_BYTES_MAX:
        raise LimitExceededError(f"manifest of {MANIFEST_BYTES_MAX} bytes", len(raw))
    return raw


def seal_manifest(raw: bytes, against: bytes = b"") -> bytes:
    """Return the stored form of a manifest, compressed against another one if that is given (rule 3)."""
    return seal_run(raw, prefix_of(against))


def unseal_manifest(stored: Buffer, *, key: str, against: bytes = b"") -> bytes:
    """Return what `seal_manifest` was given. Raises CorruptObjectError."""
    return open_run(stored, key=key, bytes_max=MANIFEST_BYTES_MAX, prefix=prefix_of(against))


def open_manifest(raw: bytes, *, key: str) -> tuple[bytes, bytes]:
    """Return the bytes of checkpoint and placement. Raises CorruptSnapshotError."""
    fields = Fields({"manifest": codec.decode(raw, key=key)}, key=key, record="manifest")
    pair = fields.rows("manifest", _bytes, 2)
    if len(pair) != 2:
        raise fields.wrong("is no pair of checkpoint and placement")
    return pair[0], pair[1]


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value
