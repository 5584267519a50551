"""Reading: head, manifest, the rows of a session's logs, and any blobs of a revision.

Read order (FORMAT.md): head → manifest (in the head, or in its pack) → everything else at once.

Rules:
1. Every record says whose it is or is named by a digest; both are checked. A surprise is `CorruptSnapshotError`.
2. An object that is missing: read the head again. If the head is still the same it is corruption; otherwise someone
   moved on, and what was read from it is read again.
3. A revision that is not the head's is found through the log of places; its row n is revision n. The head says where
   which rows lie.
4. The first revision of a fork is the manifest of its base with the overrides that stand beside it.

    base = retried_while_moving(environment, "s1", lambda live: read_base(environment, live))
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache, partial
from typing import Any, TypeVar

from snapshots import codec, history, placement
from snapshots.base import Base, FullManifest
from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionMovedError,
    SessionNotFoundError,
)
from snapshots.fields import Fields
from snapshots.head import LIVE, MOVED, RESERVED, TOMBSTONE, Head
from snapshots.history import HistoryRow, check_history, ledger_along
from snapshots.logs import HeldLog, LogRef, held_log
from snapshots.overrides import Overrides
from snapshots.pins import find_pin
from snapshots.placement import ManifestPlace, Placement, PlaceRow, decode_placement, open_manifest, unseal_manifest
from snapshots.stretches import Stretch, place_in, stretch_with
from storage.digest import BlobRef, verify
from storage.errors import CorruptObjectError, NotFoundError
from storage.pack_reader import PackReader
from storage.store import Version
from storage.wrappers.overlaid import OverlaidStore

T = TypeVar("T")
LOAD_ATTEMPTS_MAX = 5  # how often a load starts again because the session moved on under it


@dataclass(frozen=True, slots=True)
class HeadRead:
    """A head and the version it was read at."""

    head: Head
    version: Version


def read_head(environment: Environment, session_id: str) -> HeadRead | None:
    """Read a head, whatever its status; None if there is none. Raises CorruptSnapshotError, UnavailableError."""
    try:
        return head_at(environment, environment.layout.head(session_id))
    except NotFoundError:
        return None


def head_at(environment: Environment, key: str) -> HeadRead:
    """Read the head under a key that was listed; heads are never deleted.

    Raises:
        NotFoundError: There is none.
        CorruptSnapshotError: It cannot be read, or is another session's.
        UnavailableError: The store did not answer.
    """
    try:
        stored = environment.store.get(key)
    except CorruptObjectError as error:
        raise CorruptSnapshotError(key, error.reason) from error
    head = Head.decode(stored.data, key=key)
    if head.tenant != environment.layout.tenant or environment.layout.head(head.session_id) != key:
        whose = f"session {head.session_id!r} of tenant {head.tenant!r}"
        raise CorruptSnapshotError(key, f"this is the head of {whose}, moved here from its own key")
    return HeadRead(head, stored.version)


def read_live_head(environment: Environment, session_id: str) -> HeadRead:
    """Read the head of a session that can be used.

    Raises:
        SessionNotFoundError: There is none, or only a reservation.
        SessionDeletedError: A tombstone.
        SessionMovedError: It lives elsewhere.
    """
    read = read_head(environment, session_id)
    if read is None or read.head.status == RESERVED:
        raise SessionNotFoundError(session_id)
    if read.head.status == TOMBSTONE:
        raise SessionDeletedError(session_id)
    if read.head.status == MOVED:
        raise SessionMovedError(session_id, read.head.destination)
    assert read.head.status == LIVE
    return read


def revision_of(head: Head, revision: int | str | None, now: datetime) -> int:
    """Return the number of a revision that retention keeps.

    Args:
        head: A live head.
        revision: A number, the name of a pin, or None for the present one.
        now: Decides whether a pin has expired.

    Raises:
        RevisionNotFoundError: No such revision or pin, or retention dropped it, or the pin has expired.
    """
    if revision is None:
        return head.revision
    if isinstance(revision, str):
        pin = find_pin(head.pins, revision)
        if pin is None:
            reason = "a number is given as an integer" if revision.isdecimal() else ""
            raise RevisionNotFoundError(head.session_id, revision, reason=reason)
        if pin.expires_at is not None and pin.expired(now):
            reason = f"it named revision {pin.revision} and expired at {pin.expires_at.isoformat()}"
            raise RevisionNotFoundError(head.session_id, revision, reason=reason)
        return pin.revision
    if not head.retains(revision):
        reason = "retention or a repair dropped it" if 1 <= revision <= head.revision else ""
        raise RevisionNotFoundError(head.session_id, revision, reason=reason)
    return revision


@dataclass(frozen=True, slots=True)
class Manifest:
    """Checkpoint and placement of one revision; both as the overrides of a fork leave them."""

    checkpoint: SessionCheckpoint
    checkpoint_ref: BlobRef
    placement: Placement
    overrides: Overrides | None
    full: FullManifest | None


def named_by(head: Head) -> PlaceRow:
    """Return where a live head says that its present revision lies."""
    assert head.manifest is not None, "a live head names a manifest"
    assert head.checkpoint_ref is not None, "a live head names a checkpoint"
    return PlaceRow(head.revision, head.checkpoint_ref, head.manifest, head.overrides, ())


def with_tail(environment: Environment, head: Head) -> Environment:
    """Return an environment in which the packs that lie in a head are read like any other."""
    if not head.tail:
        return environment
    packs = {environment.layout.pack(head.family, pack.name): pack.data for pack in head.tail}
    return replace(environment, store=OverlaidStore(environment.store, packs))


def pack_reader(environment: Environment, head: Head) -> PackReader:
    """Return what reads from the packs of a head's family, and from its tail."""
    store = with_tail(environment, head).store
    return PackReader(store, cache(partial(environment.layout.pack, head.family)), environment.executor)


def read_manifest(
    environment: Environment, head: Head, reader: PackReader | None = None, known: FullManifest | None = None
) -> Manifest:
    """Return the manifest of a live head; a request only when it is too large to stand in the head.

    Args:
        environment: Where to read.
        head: A live head.
        reader: What to read with, None for one of its own.
        known: A manifest that this one may be compressed against, None if none is known.
    """
    named = named_by(head)
    if head.inline_manifest:
        key = environment.layout.head(head.session_id)
        return manifest_from(unseal_manifest(head.inline_manifest, key=key), named, key=key)
    return read_manifest_at(environment, head, named, reader, known)


def read_manifest_at(
    environment: Environment,
    head: Head,
    row: PlaceRow,
    reader: PackReader | None = None,
    known: FullManifest | None = None,
) -> Manifest:
    """Return the manifest that lies where `row` says, in a pack of the head's family: one round of requests."""
    raw, against = _manifest_runs(reader or pack_reader(environment, head), row.manifest, known)
    manifest = manifest_from(raw, row, key=environment.layout.pack(head.family, row.manifest.pack))
    if row.manifest.against is None or row.overrides is not None or row.manifest.moved:
        return manifest
    if known is not None and known.place == row.manifest.against:
        return replace(manifest, full=known)
    key = environment.layout.pack(head.family, row.manifest.against.pack)
    numbers = decode_placement(open_manifest(against, key=key)[1], key=key)[1]
    return replace(manifest, full=FullManifest(row.manifest.against, against, numbers))


def read_manifest_bytes(environment: Environment, head: Head, row: PlaceRow) -> bytes:
    """Return the bytes of the manifest that lies where `row` says: one round of requests."""
    return _manifest_runs(pack_reader(environment, head), row.manifest)[0]


def _manifest_runs(reader: PackReader, place: ManifestPlace, known: FullManifest | None = None) -> tuple[bytes, bytes]:
    """Return the bytes of a manifest, and of the one that it was compressed against. Raises CorruptObjectError."""
    if known is not None and known.place == place.against:
        (own,) = reader.runs([(place.pack, place.offset, place.stored_bytes)])
        return unseal_manifest(own, key=reader.key_of(place.pack), against=known.raw), known.raw
    own, *against = reader.runs([(run.pack, run.offset, run.stored_bytes) for run in place.runs()])
    before = b""
    if place.against is not None:
        before = unseal_manifest(against[0], key=reader.key_of(place.against.pack))
    return unseal_manifest(own, key=reader.key_of(place.pack), against=before), before


def manifest_from(raw: bytes, row: PlaceRow, *, key: str) -> Manifest:
    """Return the manifest of a revision from its bytes, checked against what names it."""
    record, places = open_manifest(raw, key=key)
    overrides = row.overrides
    verify(record, row.checkpoint_ref if overrides is None else overrides.base_ref, key=key)
    checkpoint = SessionCheckpoint.decode(record, key=key)
    expected = row.revision if overrides is None else overrides.base_revision
    if checkpoint.revision != expected:
        raise CorruptSnapshotError(key, f"a checkpoint of revision {checkpoint.revision} where {expected} was expected")
    written, numbers = decode_placement(places, key=key)
    placed = row.manifest.moved.placement(written)
    _check_placed(checkpoint, placed, key)
    if overrides is not None:
        if overrides.checkpoint_ref() != row.checkpoint_ref:
            raise CorruptSnapshotError(key, "a fork's overrides do not match its checkpoint")
        checkpoint = overrides.applied(checkpoint)
        placed = placed.narrowed(checkpoint.refs(), row.manifest)
    moved = placed is not written  # then its numbers are of frames that lie elsewhere now
    full = None if moved or row.manifest.against is not None else FullManifest(row.manifest, raw, numbers)
    return Manifest(checkpoint, row.checkpoint_ref, placed, overrides, full)


def _check_placed(checkpoint: SessionCheckpoint, placed: Placement, key: str) -> None:
    for ref in (*checkpoint.refs(), *placed.refs()):
        extents = placed.extents.get(ref.digest)
        if extents is None or sum(extent.length for extent in extents) != ref.size_bytes:
            raise CorruptSnapshotError(key, "the placement does not say where a whole blob lies", ref=ref.digest)


class Blobs:
    """Blobs of one revision, read together.

    Args:
        environment: Where to read.
        head: A live head of the session.
        placement: Where the revision's blobs lie.
        refs: Which of them to read.
        reader: What to read with, None for one of its own.

    Attributes:
        key: The head's, which errors name.
    """

    def __init__(
        self,
        environment: Environment,
        head: Head,
        placement: Placement,
        refs: Iterable[BlobRef],
        reader: PackReader | None = None,
    ) -> None:
        self.key = environment.layout.head(head.session_id)
        reader = reader or pack_reader(environment, head)
        self._data = reader.blobs({ref: placement.extents[ref.digest] for ref in refs})

    def bytes(self, ref: BlobRef) -> bytes:
        """Return a blob that was asked for."""
        return self._data[ref]

    def has(self, ref: BlobRef) -> bool:
        """Say whether a blob was asked for."""
        return ref in self._data

    def log(self, at: LogRef, parse: Callable[[Any], T]) -> HeldLog[T]:
        """Return a log of rows."""
        data = self._data[at.ref] if at.count else b""
        plain = {"rows": codec.decode_entries(data, at.count, key=self.key)}
        return held_log(at, data, Fields(plain, key=self.key, record="log").rows("rows", parse))


def _rows_of(manifest: Manifest, log: HeldLog[HistoryRow], key: str) -> tuple[HistoryRow, ...]:
    """Return the rows that stand beside the log; check that both together are the whole history."""
    overrides = manifest.overrides
    unstored = () if overrides is None else (overrides.row(manifest.checkpoint.node_count),)
    try:
        check_history([*log.entries, *unstored], manifest.checkpoint.revision)
    except ValueError as error:
        raise CorruptSnapshotError(key, str(error)) from error
    return unstored


def base_from(environment: Environment, read: HeadRead, manifest: Manifest, blobs: Blobs) -> Base:
    """Return the base of a revision whose logs of rows are among `blobs`; without nodes and parts."""
    log = blobs.log(manifest.checkpoint.history, history.row_from_plain)
    unstored = _rows_of(manifest, log, blobs.key)
    return Base(
        home=environment.home,
        head=read.head,
        version=read.version,
        checkpoint=manifest.checkpoint,
        checkpoint_ref=manifest.checkpoint_ref,
        placement=manifest.placement,
        history=log,
        unstored=unstored,
        places=blobs.log(manifest.placement.places, placement.row_from_plain),
        ledger=tuple(ledger_along([*log.entries, *unstored], manifest.checkpoint.revision)),
        full=manifest.full,
    )


def read_base(environment: Environment, read: HeadRead) -> Base:
    """Return the base of a live head: manifest and logs of rows, without nodes and parts."""
    manifest = read_manifest(environment, read.head)
    refs = [log.ref for log in (manifest.checkpoint.history, manifest.placement.places) if log.count]
    return base_from(environment, read, manifest, Blobs(environment, read.head, manifest.placement, refs))


def read_history(environment: Environment, head: Head) -> list[HistoryRow]:
    """Return all rows of a live head's history, oldest first."""
    manifest = read_manifest(environment, head)
    at = manifest.checkpoint.history
    blobs = Blobs(environment, head, manifest.placement, [at.ref] if at.count else [])
    log = blobs.log(at, history.row_from_plain)
    return [*log.entries, *_rows_of(manifest, log, blobs.key)]


def read_place(environment: Environment, head: Head, revision: int, reader: PackReader | None = None) -> PlaceRow:
    """Return where a retained revision lies: rule 3, one request for an older one.

    Args:
        environment: Where to read.
        head: A live head.
        revision: What `revision_of` returned for this head.
        reader: What reads, None for one of its own.
    """
    if revision == head.revision:
        return named_by(head)
    stretch = stretch_with(head.stretches, revision)
    if stretch is None:
        rows = read_places(environment, head, read_manifest(environment, head, reader).placement)
    else:
        rows = _rows_in(environment, head, stretch, reader)
    try:
        return place_in(rows, revision)
    except ValueError as error:
        raise CorruptSnapshotError(environment.layout.head(head.session_id), str(error)) from error


def _rows_in(environment: Environment, head: Head, stretch: Stretch, reader: PackReader | None) -> Sequence[PlaceRow]:
    """Return the rows of a stretch of the log of places: one round of requests, mostly a single one."""
    data = (reader or pack_reader(environment, head)).pieces(stretch.extents)
    key = environment.layout.head(head.session_id)
    plain = {"rows": codec.decode_entries(data, stretch.count, key=key)}
    return Fields(plain, key=key, record="log of places").rows("rows", placement.row_from_plain)


def read_places(environment: Environment, head: Head, present: Placement) -> Sequence[PlaceRow]:
    """Return the rows of all earlier revisions, oldest first."""
    blobs = Blobs(environment, head, present, present.refs())
    return blobs.log(present.places, placement.row_from_plain).entries


def manifest_of(environment: Environment, head: Head, revision: int, reader: PackReader) -> Manifest:
    """Return the manifest of a retained revision, as its blobs lie now."""
    if revision == head.revision:
        if head.reads and not head.inline_manifest:
            reader.fetch(head.reads)
        return read_manifest(environment, head, reader)
    return read_manifest_at(environment, head, read_place(environment, head, revision, reader), reader)


def retried_while_moving(environment: Environment, session_id: str, read_from: Callable[[HeadRead], T]) -> T:
    """Return `read_from(head)`; by rule 2 again when something is missing because the session moved on."""
    read = read_live_head(environment, session_id)
    for _ in range(LOAD_ATTEMPTS_MAX):
        try:
            return read_from(read)
        except NotFoundError as error:
            again = read_live_head(environment, session_id)
            if again.version == read.version:
                raise CorruptSnapshotError(error.key, "this object is missing, though the head names it") from error
            read = again
        except CorruptObjectError as error:
            raise CorruptSnapshotError(error.key, error.reason) from error
    raise CorruptSnapshotError(
        environment.layout.head(session_id), f"objects were missing in {LOAD_ATTEMPTS_MAX} loads of a moving session"
    )
