"""What is left of a family: blobs and manifests, wherever in its packs they lie.

Rules:
1. Everything is believed for its digest alone: where a pack or a manifest says that something lies, it is read and
   hashed.
2. The family's packs are looked through only when something is not where it should be, and then once.
3. A pack without an index is walked from its beginning, frame by frame, as far as its frames are whole.
4. A manifest that was compressed against another one is tried against every one that stands in full: a checksum
   refuses the wrong ones.

    remains = Remains(environment, head)
    data = remains.read(ref, extents)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any, TypeVar

from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import Fields
from snapshots.head import Head
from snapshots.laying import GRAPH, PLACES
from snapshots.logs import LogRef
from snapshots.maintenance.entries import entries_in
from snapshots.maintenance.findings import DAMAGE
from snapshots.maintenance.memory import FRAMES_BYTES_MAX, Remembered
from snapshots.maintenance.needs import books_of
from snapshots.maintenance.pieces import Pieces, readable_runs
from snapshots.maintenance.repair.together import (
    Beyond,
    LostError,
    Positions,
    longest,
    nothing_beyond,
    put_together,
)
from snapshots.placement import (
    NOT_MOVED,
    Homes,
    ManifestPlace,
    Placement,
    PlaceRow,
    manifest_bytes,
    open_manifest,
    row_from_plain,
    unseal_manifest,
)
from snapshots.restore import head_at, with_tail
from snapshots.roots import named_packs
from snapshots.sessions import for_each_head
from storage.digest import BlobRef, Digest, blob_ref
from storage.errors import CorruptObjectError, NotFoundError
from storage.extents import Extent, plan_reads
from storage.frame import FRAME_BYTES_MAX, PREFIX_BYTES_MIN, Prefix, is_prefixed, open_frame, split_run
from storage.packs import PackedBlob, read_index
from storage.store import ByteRange, ListedObject

T = TypeVar("T")
_Frames = list[tuple[int, bytes]]  # each with where it begins in its pack


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
class _Sealed:
    """Frames that need another manifest to be opened, one behind the other, or the bytes of a log."""

    session_id: str
    pack: str
    frames: _Frames


@dataclass(frozen=True, slots=True)
class _Pack:
    """What one pack holds."""

    blobs: tuple[PackedBlob, ...]
    manifests: tuple[FoundManifest, ...]
    sealed: tuple[_Sealed, ...]


def nowhere(_: Found) -> Positions:
    """Say that nothing else has the bytes of a blob."""
    return Positions()


class Remains:
    """The packs of one family, and those that lie in one of its heads.

    Args:
        environment: Where they lie.
        head: The head.
        family: What was found in the packs so far, None for nothing.

    Attributes:
        family: What is found in the packs.
        pieces: What lies in them, and in the head.
    """

    def __init__(self, environment: Environment, head: Head, family: Family | None = None) -> None:
        self.family = family or Family(environment, head.family)
        self.pieces = Pieces(with_tail(environment, head), head.family, Remembered(FRAMES_BYTES_MAX))

    def key_of(self, pack: str) -> str:
        """Return the key of a pack of the family."""
        return self.pieces.key_of(pack)

    def read(
        self,
        ref: BlobRef,
        extents: Sequence[Extent],
        others: Callable[[Found], Positions] = nowhere,
        beyond: Beyond = nothing_beyond,
    ) -> bytes:
        """Return the bytes of a blob, from where it should lie or from wherever its pieces are.

        Args:
            ref: The blob.
            extents: Where it should lie, () if nothing says so.
            others: Gives, of what was found, the pieces of logs that it may be the beginning of.
            beyond: As `put_together` takes it.

        Raises:
            LostError: It lies nowhere; its gap is one for all longer logs too.
            UnavailableError: The store did not answer.
        """
        lost = LostError(f"blob {ref.digest} lies whole in no pack of the family")
        for way in self._ways(ref, extents, others, beyond):
            try:
                return way()
            except LostError as error:
                lost = error  # the next way; when there is none, that is said
        raise lost

    def _ways(
        self, ref: BlobRef, extents: Sequence[Extent], others: Callable[[Found], Positions], beyond: Beyond
    ) -> Iterator[Callable[[], bytes]]:
        """Yield how the bytes of a blob may be had; what each needs is looked for only then (rule 2)."""
        yield partial(put_together, self.pieces, ref, extents)
        for found in self.family.found():
            placed = found.places(ref)
            for one in placed:
                yield partial(put_together, self.pieces, ref, one)
            yield partial(put_together, self.pieces, ref, extents, Positions(placed))
            if any(found.homes(self.pieces)):
                yield partial(put_together, self.pieces, ref, extents, Positions(self.wherever(placed, found)))
            yield partial(put_together, self.pieces, ref, extents, others(found), beyond)

    def wherever(self, placed: Iterable[Sequence[Extent]], found: Found) -> list[tuple[Extent, ...]]:
        """Return where these lay, and where they lie now for each session of the family, which may carry packs."""
        homes = found.homes(self.pieces)
        everywhere = [tuple(map(home.extent, extents)) for extents in placed for home in (NOT_MOVED, *homes)]
        return list(dict.fromkeys(everywhere))

    def lies(self, ref: BlobRef, extents: Sequence[Extent]) -> bool:
        """Say whether a blob can be read from that place. Raises UnavailableError."""
        try:
            put_together(self.pieces, ref, extents)
        except LostError:
            return False
        return True


class Found:
    """What was found, and what it says of where everything lies.

    Args:
        manifests: Manifests.
        blobs: What packs say of blobs that lie whole in them.

    Attributes:
        manifests: As given.
    """

    def __init__(self, manifests: Sequence[FoundManifest], blobs: Sequence[PackedBlob]) -> None:
        self.manifests = manifests
        self._blobs = blobs
        self._logs: dict[tuple[str, str], tuple[tuple[Extent, ...], ...]] = {}
        self._homes: tuple[Homes, ...] | None = None

    def places(self, ref: BlobRef) -> list[tuple[Extent, ...]]:
        """Return where packs and manifests say that a whole blob lies; of logs what packs say."""
        return list(self._places.get(ref.digest, ()))

    def logs(self, kind: str, session_id: str) -> tuple[tuple[Extent, ...], ...]:
        """Return where the manifests say that a log lies; forks have the graph alone in common.

        Args:
            kind: "graph", "history" or "places".
            session_id: Whose log.
        """
        whose = "" if kind == GRAPH else session_id
        if (kind, whose) not in self._logs:
            mine = (one for one in self.manifests if not whose or one.session_id in ("", whose))
            placed = (_log(one, kind) for one in mine)
            self._logs[kind, whose] = tuple(dict.fromkeys(extents for extents in placed if extents))
        return self._logs[kind, whose]

    def homes(self, pieces: Pieces) -> tuple[Homes, ...]:
        """Return where packs lie that others carry, for each session, as far as its log of places can be read."""
        if self._homes is None:
            logs = {session_id: self.logs(PLACES, session_id) for session_id in self._sessions()}
            homes = (books_of(rows_at(many, pieces)).homes for many in logs.values())
            self._homes = tuple(dict.fromkeys(one for one in homes if one))
        return self._homes

    def _sessions(self) -> Iterable[str]:
        return dict.fromkeys(found.session_id for found in self.manifests if found.session_id)

    @cached_property
    def _places(self) -> dict[Digest, dict[tuple[Extent, ...], None]]:
        places: dict[Digest, dict[tuple[Extent, ...], None]] = {}
        for blob in self._blobs:
            places.setdefault(blob.ref.digest, {})[blob.extents] = None
        for found in self.manifests:
            placed = found.placement()
            for part in found.checkpoint.parts().values():
                if part is not None and part.digest in placed.extents:
                    places.setdefault(part.digest, {})[placed.extents[part.digest]] = None
        return places


class Family:
    """What lies in the packs of a family, and in its heads. Looked through once, for all of its sessions.

    Args:
        environment: Where they lie.
        family: Whose.
    """

    def __init__(self, environment: Environment, family: str) -> None:
        self._environment = environment
        self._family = family

    def found(self) -> Iterator[Found]:
        """Yield what is found in packs, then all that is found in heads as well: these are many."""
        yield self.in_packs
        yield self._in_heads_too

    def record(self, ref: BlobRef) -> FoundManifest:
        """Return the manifest whose checkpoint is `ref`, in a pack or in the head of a fork. Raises LostError."""
        for found in self.found():
            for manifest in found.manifests:
                if blob_ref(manifest.record) == ref:
                    return manifest
        raise LostError(f"checkpoint {ref.digest} lies in no pack and no head of the family")

    @cached_property
    def in_packs(self) -> Found:
        """Everything in packs, the manifests that can be opened with what lies in packs."""
        return Found((*self._alone, *_opened(self._alone, self._sealed)), self._blobs)

    @cached_property
    def _in_heads_too(self) -> Found:
        """The same, and manifests in the heads of the family, and in packs what can be opened with them."""
        looked = list(for_each_head(self._environment, self._in_head))
        alone = [*self._alone, *(one for found, _ in looked for one in found)]
        sealed = [*self._sealed, *(one for _, many in looked for one in many)]
        return Found((*alone, *_opened(alone, sealed)), self._blobs)

    @cached_property
    def _alone(self) -> list[FoundManifest]:
        return [found for pack in self._packs for found in pack.manifests]

    @cached_property
    def _sealed(self) -> list[_Sealed]:
        return [sealed for pack in self._packs for sealed in pack.sealed]

    @cached_property
    def _blobs(self) -> list[PackedBlob]:
        return [blob for pack in self._packs for blob in pack.blobs]

    def named_by_no_other(self, session_id: str) -> frozenset[str]:
        """Return the packs that lie there and that no head but this session's is known to name."""
        key = self._environment.layout.head(session_id)
        others = (names for whose, names in self._named if whose != key)
        return frozenset(row.key.rpartition("/")[2] for row in self._listing).difference(*others)

    @cached_property
    def _packs(self) -> tuple[_Pack, ...]:
        return tuple(self._environment.executor.map(self._look, self._listing))

    @cached_property
    def _listing(self) -> tuple[ListedObject, ...]:
        return tuple(self._environment.store.list(self._environment.layout.family(self._family)))

    @cached_property
    def _named(self) -> tuple[tuple[str, frozenset[str]], ...]:
        """What each head of the family names, by its key; nothing where that cannot be read."""
        return tuple(for_each_head(self._environment, self._named_by))

    def _named_by(self, row: ListedObject) -> tuple[str, frozenset[str]]:
        try:
            head = head_at(self._environment, row.key).head
            return row.key, named_packs(self._environment, head) if head.family == self._family else frozenset()
        except DAMAGE:
            return row.key, frozenset()

    # Looking through packs.

    def _look(self, row: ListedObject) -> _Pack:
        name = row.key.rpartition("/")[2]
        try:
            index = read_index(self._environment.store, row.key, name)
            blobs, session_id, runs = index.blobs, index.facts.get("session", ""), index.runs
        except CorruptObjectError:
            blobs, session_id, runs = (), "", (ByteRange(0, max(1, row.size_bytes)),)  # Rule 3.
        except NotFoundError:
            return _Pack((), (), ())
        reads = plan_reads((name, run.start, run.length) for run in runs)
        frames = [one for read in reads for one in self._frames(row.key, read.place)]
        frames = [one for one in frames if any(run.start <= one[0] < run.end for run in runs)]
        manifests = [
            found
            for start, stored in _standing_alone(frames)
            for found in _manifests(stored, session_id, ManifestPlace(name, start, len(stored)))
        ]
        sealed = (_Sealed(session_id, name, many) for many in _needing_others(frames))
        return _Pack(blobs, tuple(manifests), tuple(sealed))

    def _frames(self, key: str, stretch: ByteRange) -> _Frames:
        """Return the frames of a stretch of a pack, up to where none begins."""
        try:
            return _frames_in(self._environment.store.get(key, stretch).data, stretch.start)
        except (NotFoundError, CorruptObjectError):
            return []

    def _in_head(self, row: ListedObject) -> tuple[list[FoundManifest], list[_Sealed]]:
        try:
            head = head_at(self._environment, row.key).head
        except DAMAGE:
            return [], []
        if head.family != self._family:
            return [], []
        frames = [one for pack in head.tail for one in _frames_in(pack.data, 0)]
        found = _manifests(head.inline_manifest, head.session_id, None) if head.inline_manifest else []
        found += [one for _, stored in _standing_alone(frames) for one in _manifests(stored, head.session_id, None)]
        return found, [_Sealed(head.session_id, "", many) for many in _needing_others(frames)]


class _Key:
    """A manifest that others may have been compressed against."""

    def __init__(self, found: FoundManifest) -> None:
        self.found = found

    @cached_property
    def _prefix(self) -> Prefix:
        raw = manifest_bytes(self.found.record, self.found.placed)
        assert len(raw) >= PREFIX_BYTES_MIN, "a manifest names its blobs by digest"
        return Prefix(raw)

    def opened(self, frames: _Frames) -> tuple[bytes, bytes]:
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


def _opened(full: Sequence[FoundManifest], sealed: Iterable[_Sealed]) -> Iterator[FoundManifest]:
    """Yield the manifests that can be opened with one of these (rule 4)."""
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


def _frames_in(data: bytes, start: int) -> _Frames:
    """Return the frames that stand one behind the other, each with where it begins; up to where none does."""
    frames: _Frames = []
    try:
        for frame in split_run(data, key=""):
            frames.append((start, bytes(frame)))
            start += frame.nbytes
    except CorruptObjectError:
        pass  # the footer, or where the pack was cut: no frame begins behind it
    return frames


def rows_at(placed: Iterable[Sequence[Extent]], pieces: Pieces) -> list[PlaceRow]:
    """Return the rows in what can be read of some logs of places; what several have in common is read once."""
    rows: list[PlaceRow] = []
    for extents in longest(placed):
        for run in readable_runs(pieces, extents):
            rows += rows_in(run, row_from_plain)
    return rows


def rows_in(run: bytes, parse: Callable[[Any], T]) -> Iterator[T]:
    """Yield the rows of a stretch of a log, up to what is none: what stands behind a gap need not begin with one."""
    for plain in entries_in(run, key=""):
        try:
            yield from Fields({"rows": [plain]}, key="", record="row").rows("rows", parse)
        except (CorruptSnapshotError, UnsupportedSchemaError):
            return


def _log(found: FoundManifest, kind: str) -> tuple[Extent, ...]:
    placed = found.placement()
    at: LogRef = placed.places if kind == PLACES else getattr(found.checkpoint, kind)
    return placed.extents.get(at.ref.digest, ()) if at.count else ()


def _manifests(stored: bytes, session_id: str, place: ManifestPlace | None) -> list[FoundManifest]:
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


def _standing_alone(frames: _Frames) -> Iterator[tuple[int, bytes]]:
    """Yield the runs of frames that can be opened alone: all of a run but its last frame are full."""
    run: _Frames = []
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


def _needing_others(frames: _Frames) -> Iterator[_Frames]:
    """Yield the stretches of frames that cannot be opened alone."""
    stretch: _Frames = []
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
