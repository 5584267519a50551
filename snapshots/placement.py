"""`Placement`: where the blobs of one revision lie in this store. Local: a copy elsewhere has another. Pure.

Rules:
1. It has the extents of every blob that the revision's checkpoint names, and of its own log of places.
2. The log of places tells, for every earlier revision, where its manifest lies, and which packs it needed that this
   revision does not: head, manifest and that log name every pack that any revision of the session needs.
3. A manifest is checkpoint and placement of one revision, stored together as one run of frames.

    stored = seal_manifest(checkpoint_bytes, placement.encode())
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
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
from snapshots.layout import check_pack_name
from snapshots.logs import Segment, segment_from_plain
from snapshots.overrides import Overrides, overrides_from_plain
from storage.digest import BLOB_BYTES_MAX, BlobRef, Digest, parse_digest
from storage.extents import Extent
from storage.frame import FRAME_BYTES_MAX, STORED_BYTES_MAX, open_run, seal_run

MANIFEST_BYTES_MAX = 64 << 20  # raw: an execution state of 4 GiB has about 1 MiB of extents
_MANIFEST_STORED_BYTES_MAX = MANIFEST_BYTES_MAX // FRAME_BYTES_MAX * STORED_BYTES_MAX
_NAME_BYTES = 24  # 16 of the commit id, 8 random


@dataclass(frozen=True, slots=True)
class ManifestPlace:
    """Where a manifest lies: a run of frames in a pack.

    Attributes:
        pack: Name of the pack.
        offset: Its first byte there.
        stored_bytes: Length of the run.
    """

    pack: str
    offset: int
    stored_bytes: int

    def to_plain(self) -> list[Any]:
        """Return `[pack, offset, stored bytes]`."""
        return [name_to_plain(self.pack), self.offset, self.stored_bytes]


def place_from_plain(plain: Any) -> ManifestPlace:
    """Return the place that `to_plain` wrote. Raises ValueError, TypeError."""
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
    """

    pack: str
    first_revision: int
    last_revision: int = 0

    def to_plain(self) -> list[Any]:
        """Return `[pack, first, last]`."""
        return [name_to_plain(self.pack), self.first_revision, self.last_revision]


def use_from_plain(plain: Any) -> PackUse:
    """Return the use that `to_plain` wrote. Raises ValueError, TypeError."""
    name, first, last = columns(plain, 3)
    if not is_whole(first, 1) or not is_whole(last) or 0 < last < first:
        raise ValueError("not the use of a pack")
    return PackUse(name_from_plain(name), first, last)


@dataclass(frozen=True, slots=True)
class PlaceRow:
    """What a commit writes down about the revision before it.

    Attributes:
        revision: The revision before.
        checkpoint_ref: Its checkpoint.
        manifest: Where its manifest lies.
        overrides: What stands beside the manifest if the revision was a fork's first, None otherwise.
        ended: Packs that it needed and this one does not, with their last revision.
    """

    revision: int
    checkpoint_ref: BlobRef
    manifest: ManifestPlace
    overrides: Overrides | None
    ended: tuple[PackUse, ...]

    def to_plain(self) -> list[Any]:
        """Return the row as a list, fields in order."""
        ended = [use.to_plain() for use in self.ended]
        overrides = None if self.overrides is None else self.overrides.to_plain()
        return [self.revision, ref_to_plain(self.checkpoint_ref), self.manifest.to_plain(), overrides, ended]


def row_from_plain(plain: Any) -> PlaceRow:
    """Return the row that `to_plain` wrote. Raises ValueError, TypeError."""
    revision, ref, place, fork, ended = columns(plain, 5)
    if not is_whole(revision, 1) or not isinstance(ended, list | tuple):
        raise ValueError("not a row of places")
    overrides = None if fork is None else overrides_from_plain(fork)
    uses = tuple(map(use_from_plain, ended))
    return PlaceRow(revision, ref_from_plain(ref), place_from_plain(place), overrides, uses)


@dataclass(frozen=True, slots=True)
class Placement:
    """Where one revision's blobs lie.

    Attributes:
        extents: By digest, each in order.
        packs: Every pack that an extent or the manifest lies in, with the first revision that needs it.
        places: Segments of the log of places.
    """

    extents: Mapping[Digest, tuple[Extent, ...]] = field(default_factory=dict)
    packs: tuple[PackUse, ...] = ()
    places: tuple[Segment, ...] = ()

    def narrowed(self, refs: Iterable[BlobRef], manifest_pack: str) -> Placement:
        """Return what a fork takes over of its source's placement: where these blobs and the manifest lie, no log."""
        extents = {ref.digest: self.extents[ref.digest] for ref in refs}
        packs = dict.fromkeys(extent.pack for many in extents.values() for extent in many)
        return Placement(extents, tuple(PackUse(pack, 1) for pack in {**packs, manifest_pack: None}))

    def encode(self) -> bytes:
        """Return the record's bytes."""
        number = {use.pack: index for index, use in enumerate(self.packs)}
        extents = [
            [digest_to_plain(digest), [_extent_to_plain(one, number) for one in many]]
            for digest, many in self.extents.items()
        ]
        return codec.encode(
            {
                "schema_version": SCHEMA_VERSION,
                "packs": [use.to_plain() for use in self.packs],
                "extents": extents,
                "places": [segment.to_plain() for segment in self.places],
            }
        )

    @classmethod
    def decode(cls, data: bytes, *, key: str) -> Placement:
        """Return the record that `encode` wrote. Raises CorruptSnapshotError, UnsupportedSchemaError."""
        fields = Fields(codec.decode(data, key=key), key=key, record="placement")
        fields.schema()
        packs = fields.rows("packs", use_from_plain)

        def extents(plain: Any) -> tuple[Digest, tuple[Extent, ...]]:
            name, many = columns(plain, 2)
            if not isinstance(many, list | tuple):
                raise TypeError("not a list of extents")
            return parse_digest(digest_from_plain(name)), tuple(_extent_from_plain(one, packs) for one in many)

        found = cls(dict(fields.rows("extents", extents)), packs, fields.rows("places", segment_from_plain))
        fields.nothing_else()
        return found


def _extent_to_plain(extent: Extent, number: Mapping[str, int]) -> list[int]:
    return [number[extent.pack], extent.offset, extent.stored_bytes, extent.skip, extent.length]


def _extent_from_plain(plain: Any, packs: Sequence[PackUse]) -> Extent:
    number, offset, stored, skip, length = columns(plain, 5)
    if not (is_whole(number) and is_whole(offset, 0, BLOB_BYTES_MAX) and is_whole(stored, 1, STORED_BYTES_MAX)):
        raise ValueError("not an extent")
    if not (is_whole(skip) and is_whole(length, 1) and skip + length <= FRAME_BYTES_MAX):
        raise ValueError("not an extent of one frame")
    return Extent(packs[number].pack, offset, stored, skip, length)


def name_to_plain(name: str) -> bytes:
    """Return the 24 bytes of a pack's name."""
    return bytes.fromhex(name.replace(".", ""))


def name_from_plain(raw: bytes) -> str:
    """Return a pack's name from its 24 bytes. Raises ValueError, TypeError."""
    if not isinstance(raw, bytes) or len(raw) != _NAME_BYTES:
        raise ValueError("not the name of a pack")
    digits = raw.hex()
    return check_pack_name(f"{digits[:32]}.{digits[32:]}")


def seal_manifest(checkpoint: bytes, placement: bytes) -> bytes:
    """Return the stored form of a manifest. Raises LimitExceededError above MANIFEST_BYTES_MAX."""
    raw = codec.encode([checkpoint, placement])
    if len(raw) > MANIFEST_BYTES_MAX:
        raise LimitExceededError(f"manifest of {MANIFEST_BYTES_MAX} bytes", len(raw))
    return seal_run(raw)


def open_manifest(stored: bytes, *, key: str) -> tuple[bytes, bytes]:
    """Return the bytes of checkpoint and placement. Raises CorruptObjectError, CorruptSnapshotError."""
    plain = codec.decode(open_run(stored, key=key, bytes_max=MANIFEST_BYTES_MAX), key=key)
    fields = Fields({"manifest": plain}, key=key, record="manifest")
    pair = fields.rows("manifest", _bytes, 2)
    if len(pair) != 2:
        raise fields.wrong("is no pair of checkpoint and placement")
    return pair[0], pair[1]


def _bytes(value: Any) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value
