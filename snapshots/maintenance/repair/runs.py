"""Manifests as they are found in what is left of packs.

Rules:
1. A run of frames is a manifest if it decodes to one; where a run ends, its frames tell: all but the last one are full.
2. A manifest that was compressed against another one is tried against every one that stands in full: a checksum
   refuses the wrong ones.

    frames = frames_in(data, 0)
    alone = [one for start, stored in standing_alone(frames) for one in manifests_in(stored, "s1", None)]
    others = opened_with(alone, [Sealed("s1", "", many) for many in needing_others(frames)])
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

from snapshots.checkpoint import SessionCheckpoint
from snapshots.maintenance.findings import DAMAGE
from snapshots.placement import ManifestPlace, Placement, manifest_bytes, open_manifest, unseal_manifest
from storage.errors import CorruptObjectError
from storage.frame import FRAME_BYTES_MAX, PREFIX_BYTES_MIN, Prefix, is_prefixed, open_frame, split_run

Frames = list[tuple[int, bytes]]  # each with where it begins in its pack


@dataclass(frozen=True, slots=True)
class FoundManifest:
    """A manifest as it was found.

    Attributes:
        session_id: Whose, as its pack says, "" if it does not.
        place: Where it lies, None if that is a head.
        record: The checkpoint's bytes.
        checkpoint: What they say.
        placed: The bytes of its placement.
    """

    session_id: str
    place: ManifestPlace | None
    record: bytes
    checkpoint: SessionCheckpoint
    placed: bytes

    def placement(self) -> Placement:
        """Return where its blobs lay when it was written. Not kept: those of all revisions together are much."""
        return Placement.decode(self.placed, key="")


@dataclass(frozen=True, slots=True)
class Sealed:
    """Frames that need another manifest to be opened, or the bytes of a log: one behind the other.

    Attributes:
        session_id: Whose pack they are in, "" if it does not say.
        pack: Its name, "" for one that lies in a head.
        frames: The frames.
    """

    session_id: str
    pack: str
    frames: Frames


def manifests_in(stored: bytes, session_id: str, place: ManifestPlace | None) -> list[FoundManifest]:
    """Return the manifest that a run of frames is, if it is one that stands in full."""
    try:
        found = _manifest(unseal_manifest(stored, key=""), session_id, place)
    except CorruptObjectError:
        return []
    return [] if found is None else [found]


def _manifest(raw: bytes, session_id: str, place: ManifestPlace | None) -> FoundManifest | None:
    """Return the manifest that these bytes are, None if they are none."""
    try:
        record, placed = open_manifest(raw, key="")
        checkpoint = SessionCheckpoint.decode(record, key="")
        Placement.decode(placed, key="")
    except DAMAGE:
        return None
    return FoundManifest(session_id, place, record, checkpoint, placed)


def standing_alone(frames: Frames) -> Iterator[tuple[int, bytes]]:
    """Yield the runs of frames that can be opened alone: all of a run but its last frame are full."""
    run: Frames = []
    end = -1
    for start, frame in frames:
        if start != end:
            run = []
        end = start + len(frame)
        try:
            full = len(open_frame(frame, key="")) == FRAME_BYTES_MAX
        except CorruptObjectError:
            run = []
            continue
        run.append((start, frame))
        if not full:
            yield run[0][0], b"".join(frame for _, frame in run)
            run = []


def needing_others(frames: Frames) -> Iterator[Frames]:
    """Yield the stretches of frames that cannot be opened alone."""
    stretch: Frames = []
    end = -1
    for start, frame in frames:
        if stretch and (start != end or not is_prefixed(frame)):
            yield stretch
            stretch = []
        if is_prefixed(frame):
            stretch.append((start, frame))
        end = start + len(frame)
    if stretch:
        yield stretch


def frames_in(data: bytes, start: int) -> Frames:
    """Return the frames that stand one behind the other, each with where it begins; up to where none does."""
    frames: Frames = []
    try:
        for frame in split_run(data, key=""):
            frames.append((start, bytes(frame)))
            start += frame.nbytes
    except CorruptObjectError:
        pass  # the footer, or where the pack was cut: no frame begins behind it
    return frames


def opened_with(full: Sequence[FoundManifest], sealed: Iterable[Sealed]) -> Iterator[FoundManifest]:
    """Yield the manifests that can be opened with one of these (rule 2)."""
    keys = [_Key(found) for found in full]
    for one in sealed:
        keys.sort(key=lambda key: key.found.session_id != one.session_id)
        frames = one.frames
        while frames:
            taken = 1
            for key in keys:
                stored, raw = key.opened(frames)
                place = None
                if one.pack and key.found.place is not None and stored:
                    place = ManifestPlace(one.pack, frames[0][0], len(stored), key.found.place)
                found = _manifest(raw, one.session_id, place)
                if found is not None:
                    yield found
                    keys.remove(key)
                    keys.insert(0, key)  # what was compressed next was so against the same one
                    taken = len(list(split_run(stored, key="")))
                    break
            frames = frames[taken:]


class _Key:
    """A manifest that others may have been compressed against."""

    def __init__(self, found: FoundManifest) -> None:
        self.found = found

    @cached_property
    def _prefix(self) -> Prefix:
        raw = manifest_bytes(self.found.record, self.found.placed)
        assert len(raw) >= PREFIX_BYTES_MIN, "a manifest names its blobs by digest"
        return Prefix(raw)

    def opened(self, frames: Frames) -> tuple[bytes, bytes]:
        """Return the run that begins these frames, stored and raw; both empty if it was not sealed against this."""
        stored, raw = [], []
        for _, frame in frames:
            try:
                piece = open_frame(frame, key="", prefix=self._prefix)
            except CorruptObjectError:
                return b"", b""
            stored.append(frame)
            raw.append(piece)
            if len(piece) < FRAME_BYTES_MAX:
                break
        return b"".join(stored), b"".join(raw)
