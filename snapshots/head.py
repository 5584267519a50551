"""`Head`: a session's one mutable object. Everything that must change in one step stands in it. Pure.

Rules:
1. Every PUT of a head has a new write id, so that no two have equal bytes.
2. The state id is new with every write that changes what the head names: a reservation, also one that is taken over,
   a revision, a tombstone, a prune, a pin that goes with its revision, a list of staged packs; not with another pin, a
   holder, a fence or an epoch.
3. Epoch, fence and revision never fall. A tombstone is final. A reserved head names staged packs at most.
4. A commit leaves at most HEAD_COMMIT_BYTES_MAX bytes, so that the writes which cannot move anything away always fit.
5. The manifest stands in the head while it is small; otherwise the ranges to be read stand there, the manifest's among
   them. Either way a load needs one round of requests after the head. An older revision is one request away too,
   while the head has room for where it lies.
6. Packs of small revisions lie in the head itself, its tail: such a commit is one request. The next pack that is
   uploaded carries them. Until then they are read like any other.
7. A head is written in the schema version that it has; staged packs stand in those of version 2 alone.
8. A checksum ends it: much of what stands here (pins, rings, epoch) is covered by no other digest.

    head = Head.decode(data, key="…")
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any

from snapshots import codec
from snapshots.errors import UPGRADE, LimitExceededError, UnsupportedSchemaError
from snapshots.fields import (
    NEWEST_VERSION,
    STORE_VERSIONS,
    Fields,
    columns,
    id_bytes,
    id_or_empty,
    id_text,
    instant,
    is_whole,
    micros,
    ref_from_plain,
    ref_to_plain,
)
from snapshots.overrides import Overrides, overrides_from_plain
from snapshots.pins import PINS_MAX, Pin, pin_from_plain
from snapshots.placement import NAME_BYTES, ManifestPlace, name_from_plain, name_to_plain, place_from_plain
from snapshots.stamps import StampMark, mark_from_plain
from snapshots.state import ROOT, SessionRelation, relation_from_plain
from snapshots.stretches import STRETCH_EXTENTS_MAX, Stretch, stretch_from_plain
from storage.digest import BLOB_BYTES_MAX, BlobRef
from storage.extents import READ_BYTES_MAX, Read
from storage.keys import check_id
from storage.store import ByteRange

HEAD_BYTES_MAX = 64 << 10  # all writes
HEAD_COMMIT_BYTES_MAX = 48 << 10  # commits; what is above is for fence, epoch, pin and tombstone
INLINE_MANIFEST_BYTES_MAX = 2 << 10  # larger ones are read from their pack: every commit would send them again
TAIL_PACK_BYTES_MAX = 8 << 10  # of one commit
TAIL_BYTES_MAX = 16 << 10  # of all; each commit sends them again
HEAD_TAIL_BYTES_MAX = 40 << 10  # a head with a tail, as it is committed: what follows fits in any case
READS_MAX = 64  # ranges that a load reads at once
NAMED_MAX = READS_MAX + STRETCH_EXTENTS_MAX  # packs of `reads` and `stretches`
RELATION_BYTES_MAX = 4 << 10  # a hand-over's reason and metadata stand in every head of the session
RING_MAX = 64  # commit ids and stamps kept in the head
KEPT_MAX = 256  # revisions kept below the floor; they stand in every head of the session
STAGED_MAX = 2048  # packs that a reservation names, 48 KiB; what else it has is below 16 KiB
STAGED_SINCE = 2  # the schema version

RESERVED, LIVE, TOMBSTONE, MOVED = "reserved", "live", "tombstone", "moved"
STATUSES = frozenset({RESERVED, LIVE, TOMBSTONE, MOVED})


@dataclass(frozen=True, slots=True)
class Holder:
    """Who may commit: an owner, and the nonce of this take-over."""

    owner: str
    nonce: str

    def to_plain(self) -> list[Any]:
        """Return `[owner, nonce]`."""
        return [self.owner, id_bytes(self.nonce)]


@dataclass(frozen=True, slots=True)
class Ring:
    """The newest commit ids, of consecutive revisions.

    Attributes:
        first_revision: Revision of the first id.
        commit_ids: At most RING_MAX, oldest first.
    """

    first_revision: int = 1
    commit_ids: tuple[str, ...] = ()

    def commit_id(self, revision: int) -> str | None:
        """Return the commit id of a revision, None if the ring does not reach it."""
        index = revision - self.first_revision
        return self.commit_ids[index] if 0 <= index < len(self.commit_ids) else None

    def appended(self, commit_id: str) -> Ring:
        """Return the ring with the next revision's commit id."""
        ids = (*self.commit_ids, commit_id)
        dropped = max(0, len(ids) - RING_MAX)
        return Ring(self.first_revision + dropped, ids[dropped:])


@dataclass(frozen=True, slots=True)
class StampRow:
    """A turn in the ring of stamps: its revision and its mark."""

    revision: int
    mark: StampMark

    def to_plain(self) -> list[Any]:
        """Return `[revision, turn, content]`."""
        return [self.revision, *self.mark.to_plain()]


@dataclass(frozen=True, slots=True)
class TailPack:
    """A pack that lies in a head: its frames, without index and footer."""

    name: str
    data: bytes


@dataclass(frozen=True, slots=True)
class StagedPacks:
    """Packs that a reserved head names: uploaded for a first revision that is not published yet.

    Attributes:
        family: In which they lie.
        epoch: The head's when the list was last refreshed.
        names: 1 to STAGED_MAX, oldest first.
    """

    family: str
    epoch: int
    names: tuple[str, ...]

    def to_plain(self) -> list[Any]:
        """Return `[family, epoch, names]`."""
        return [self.family, self.epoch, b"".join(map(name_to_plain, self.names))]


def _staged_from_plain(plain: Any) -> StagedPacks:
    family, epoch, raw = columns(plain, 3)
    names = _names_from_plain(raw, STAGED_MAX)
    if not is_whole(epoch) or not names or len(set(names)) < len(names):
        raise ValueError("not a list of staged packs")
    return StagedPacks(check_id(family), epoch, names)


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a fork came from.

    Attributes:
        session_id: The source.
        revision: Its revision.
        checkpoint_ref: The checkpoint of that revision.
    """

    session_id: str
    revision: int
    checkpoint_ref: BlobRef

    def to_plain(self) -> list[Any]:
        """Return `[session id, revision, checkpoint ref]`."""
        return [self.session_id, self.revision, ref_to_plain(self.checkpoint_ref)]


def _origin_from_plain(plain: Any) -> Origin:
    session_id, revision, ref = columns(plain, 3)
    if not is_whole(revision, 1):
        raise ValueError("not an origin")
    return Origin(check_id(session_id), revision, ref_from_plain(ref))


@dataclass(frozen=True, slots=True)
class Head:
    """A session's head.

    Attributes:
        session_id: Full id; compared with the key on every read.
        tenant: Full tenant; compared likewise.
        family: Id of the root session, "" while reserved.
        status: "reserved", "live", "tombstone" or "moved".
        revision: The present revision, 0 while reserved.
        write_id: New with every PUT.
        commit_id: Commit that made the present revision, "" for none.
        state_id: Rule 2.
        epoch: Number of the collection this head was last written under.
        fence: Number that makes former writers harmless.
        holder: Whose Writer alone may commit, None for anyone.
        checkpoint_ref: The present revision's checkpoint, None while there is none.
        manifest: Where the present manifest lies, None while there is none.
        inline_manifest: Its stored form, b"" when it is read from its place (rule 5).
        reads: What a load reads of packs, all at once; empty where it has to find out first.
        stretches: Where the log of places lies, so that an older revision is found with one request.
        tail: Packs that lie here and not in the store, oldest first (rule 6).
        staged: What a reserved head names (`snapshots.staged`), None for nothing.
        schema_version: Rule 7.
        commits: The newest commit ids.
        stamps: The newest turns of the present lineage, oldest first.
        floor: Retention keeps every revision from here on; below, those in `kept` and those with a pin.
        kept: Revisions below the floor that a prune kept, rising, at most KEPT_MAX.
        pins: Names for revisions, in order of name.
        overrides: What stands beside the manifest while the present revision is a fork's first, None otherwise.
        origin: Where a fork came from, None for others.
        relation: Root, child of another session, or its successor.
        destination: Where a moved session went, "" otherwise.
        created_at: First reservation of the id.
        updated_at: Last write that changed what the head names.
    """

    session_id: str
    tenant: str
    family: str
    status: str
    revision: int
    write_id: str
    commit_id: str
    state_id: str
    epoch: int
    fence: int
    holder: Holder | None
    checkpoint_ref: BlobRef | None
    manifest: ManifestPlace | None
    inline_manifest: bytes
    commits: Ring
    stamps: tuple[StampRow, ...]
    floor: int
    destination: str
    created_at: datetime
    updated_at: datetime
    kept: tuple[int, ...] = ()
    pins: tuple[Pin, ...] = ()
    overrides: Overrides | None = None
    origin: Origin | None = None
    relation: SessionRelation = ROOT
    reads: tuple[Read, ...] = ()
    stretches: tuple[Stretch, ...] = ()
    tail: tuple[TailPack, ...] = ()
    staged: StagedPacks | None = None
    schema_version: int = NEWEST_VERSION

    @property
    def held_by(self) -> str:
        """Return the owner whose Writer alone may commit, "" for anyone."""
        return "" if self.holder is None else self.holder.owner

    def retains(self, revision: int) -> bool:
        """Say whether retention keeps a revision; a pin does so until it is removed, expired or not."""
        if not 1 <= revision <= self.revision:
            return False
        return revision >= self.floor or revision in self.kept or any(pin.revision == revision for pin in self.pins)

    @property
    def kept_below_floor(self) -> frozenset[int]:
        """Return the revisions below the floor that retention keeps: those that a prune kept, and those with a pin."""
        return frozenset({*self.kept, *(pin.revision for pin in self.pins if pin.revision < self.floor)})

    def encode(self, *, limit_bytes: int = HEAD_BYTES_MAX) -> bytes:
        """Return the head's bytes.

        Raises:
            LimitExceededError: Above `limit_bytes`, KEPT_MAX or STAGED_MAX.
            UnsupportedSchemaError: It names staged packs, and its version has none.
        """
        if len(self.kept) > KEPT_MAX:
            raise LimitExceededError(f"{KEPT_MAX} revisions kept below the floor", len(self.kept))
        self._check_staged()
        assert self._kept_in_order(), "only `kept` revisions below the floor, rising"
        named = (*(one.pack for one in self.reads), *(one.pack for many in self.stretches for one in many.extents))
        numbers = {name: number for number, name in enumerate(dict.fromkeys(named))}
        data = codec.guarded(
            codec.encode(
                {
                    "schema_version": self.schema_version,
                    "session_id": self.session_id,
                    "tenant": self.tenant,
                    "family": self.family,
                    "status": self.status,
                    "revision": self.revision,
                    "write_id": id_bytes(self.write_id),
                    "commit_id": id_bytes(self.commit_id),
                    "state_id": id_bytes(self.state_id),
                    "epoch": self.epoch,
                    "fence": self.fence,
                    "holder": None if self.holder is None else self.holder.to_plain(),
                    "checkpoint_ref": None if self.checkpoint_ref is None else ref_to_plain(self.checkpoint_ref),
                    "manifest": None if self.manifest is None else self.manifest.to_plain(),
                    "inline_manifest": self.inline_manifest,
                    "packs": b"".join(map(name_to_plain, numbers)),
                    "reads": [[numbers[one.pack], one.place.start, one.place.length] for one in self.reads],
                    "stretches": [stretch.to_plain(numbers) for stretch in self.stretches],
                    "commits": [self.commits.first_revision, b"".join(map(id_bytes, self.commits.commit_ids))],
                    "stamps": [row.to_plain() for row in self.stamps],
                    "floor": self.floor,
                    "kept": self.kept,
                    "destination": self.destination,
                    "created_at": micros(self.created_at),
                    "updated_at": micros(self.updated_at),
                    "pins": [pin.to_plain() for pin in self.pins],
                    "overrides": None if self.overrides is None else self.overrides.to_plain(),
                    "origin": None if self.origin is None else self.origin.to_plain(),
                    "relation": self.relation.model_dump(),
                    "tail": [[name_to_plain(pack.name), pack.data] for pack in self.tail],
                    "staged": () if self.staged is None else self.staged.to_plain(),
                }
            )
        )
        if len(data) > limit_bytes:
            raise LimitExceededError(f"head of {limit_bytes} bytes", len(data))
        return data

    @classmethod
    def decode(cls, data: bytes, *, key: str) -> Head:
        """Return the head that `encode` wrote. Raises CorruptSnapshotError, UnsupportedSchemaError."""
        fields = Fields(codec.decode(codec.unguarded(data, key=key), key=key), key=key, record="head")
        version = fields.schema(STORE_VERSIONS)
        if len(data) > HEAD_BYTES_MAX:
            raise fields.wrong(f"has {len(data)} bytes, over {HEAD_BYTES_MAX}")
        if version < STAGED_SINCE:
            fields.nothing_yet("staged")
        status = fields.text("status")
        if status not in STATUSES:
            raise fields.wrong(f"has the unknown status {status!r}")
        names = fields.parsed("packs", lambda raw: _names_from_plain(raw, NAMED_MAX), fields.value("packs"))
        head = cls(
            session_id=fields.parsed("session_id", check_id, fields.value("session_id")),
            tenant=fields.parsed("tenant", check_id, fields.value("tenant")),
            family=fields.parsed("family", id_or_empty, fields.value("family")),
            status=status,
            revision=fields.integer("revision"),
            write_id=fields.raw("write_id", 16).hex(),
            commit_id=fields.parsed("commit_id", _commit_id, fields.raw("commit_id")),
            state_id=fields.raw("state_id", 16).hex(),
            epoch=fields.integer("epoch"),
            fence=fields.integer("fence"),
            holder=fields.optional("holder", _holder_from_plain),
            checkpoint_ref=fields.optional("checkpoint_ref", ref_from_plain),
            manifest=fields.optional("manifest", place_from_plain),
            inline_manifest=fields.raw("inline_manifest"),
            commits=fields.parsed("commits", _ring_from_plain, fields.value("commits")),
            stamps=fields.rows("stamps", _stamp_from_plain, RING_MAX),
            floor=fields.integer("floor", 1),
            kept=fields.rows("kept", _revision, KEPT_MAX),
            destination=fields.text("destination"),
            created_at=fields.parsed("created_at", instant, fields.value("created_at")),
            updated_at=fields.parsed("updated_at", instant, fields.value("updated_at")),
            pins=fields.rows("pins", pin_from_plain, PINS_MAX),
            overrides=fields.optional("overrides", overrides_from_plain),
            origin=fields.optional("origin", _origin_from_plain),
            relation=fields.parsed("relation", relation_from_plain, fields.value("relation")),
            reads=fields.rows("reads", lambda plain: _read_from_plain(plain, names), READS_MAX),
            stretches=fields.rows("stretches", lambda plain: stretch_from_plain(plain, names), STRETCH_EXTENTS_MAX),
            tail=fields.rows("tail", _tail_pack_from_plain),
            staged=fields.parsed("staged", _staged_or_none, fields.value("staged")),
            schema_version=version,
        )
        fields.nothing_else()
        if len(head.inline_manifest) > INLINE_MANIFEST_BYTES_MAX:
            raise fields.wrong(f"has an inline manifest of {len(head.inline_manifest)} bytes")
        if sum(len(pack.data) for pack in head.tail) > TAIL_BYTES_MAX:
            raise fields.wrong(f"has a tail of over {TAIL_BYTES_MAX} bytes")
        if not head._kept_in_order():
            raise fields.wrong("does not keep rising revisions below its floor in 'kept'")
        if any(pin.revision > head.revision for pin in head.pins):
            raise fields.wrong(f"has a pin above its revision {head.revision}")
        if not head._names_what_its_status_says():
            raise fields.wrong(f"is {status} at revision {head.revision}, which does not fit what it names")
        return head

    def _check_staged(self) -> None:
        if self.staged is None:
            return
        assert self.status == RESERVED, "only a reservation has a list"
        assert self.staged.names, "a list is never empty"
        if len(self.staged.names) > STAGED_MAX:
            raise LimitExceededError(f"{STAGED_MAX} packs staged at a time", len(self.staged.names))
        if self.schema_version < STAGED_SINCE:
            what = f"head of session {self.session_id!r}"
            supported = [version for version in STORE_VERSIONS if version >= STAGED_SINCE]
            raise UnsupportedSchemaError(what, found=self.schema_version, supported=supported, remedy=UPGRADE)

    def _kept_in_order(self) -> bool:
        return all(low < high for low, high in pairwise((0, *self.kept, self.floor)))

    def _names_what_its_status_says(self) -> bool:
        named = [self.checkpoint_ref is not None, self.manifest is not None]
        kept = bool(self.pins or self.kept)
        stored = (*named, self.inline_manifest, self.reads, self.stretches, self.tail, self.overrides)
        nothing = not any(stored) and not kept
        if self.staged is not None and self.status != RESERVED:
            return False
        if self.status == LIVE:
            first = self.overrides is None or self.revision == 1
            return all(named) and self.revision > 0 and self.family != "" and first
        if self.status == RESERVED:
            of_now = self.staged is None or self.staged.epoch <= self.epoch
            return nothing and self.revision == 0 and self.family == "" and of_now
        return nothing or self.status != TOMBSTONE


def check_relation(relation: SessionRelation) -> SessionRelation:
    """Return `relation` if a head can hold it. Raises LimitExceededError."""
    size = len(codec.encode(relation.model_dump()))
    if size > RELATION_BYTES_MAX:
        raise LimitExceededError(f"relation of {RELATION_BYTES_MAX} bytes", size)
    return relation


def _commit_id(raw: bytes) -> str:
    return id_text(raw) if raw else ""


def _holder_from_plain(plain: Any) -> Holder:
    owner, nonce = columns(plain, 2)
    if not isinstance(owner, str):
        raise TypeError("not a holder")
    return Holder(owner, id_text(nonce))


def _ring_from_plain(plain: Any) -> Ring:
    first, raw = columns(plain, 2)
    if not is_whole(first, 1) or not isinstance(raw, bytes) or len(raw) % 16 or len(raw) > 16 * RING_MAX:
        raise ValueError("not a ring")
    return Ring(first, tuple(raw[start : start + 16].hex() for start in range(0, len(raw), 16)))


def _staged_or_none(plain: Any) -> StagedPacks | None:
    return None if plain == [] else _staged_from_plain(plain)


def _revision(plain: Any) -> int:
    if not is_whole(plain, 1):
        raise ValueError("not a revision")
    return int(plain)


def _tail_pack_from_plain(plain: Any) -> TailPack:
    name, data = columns(plain, 2)
    if not isinstance(data, bytes) or not 0 < len(data) <= TAIL_PACK_BYTES_MAX:
        raise ValueError("not a pack of a tail")
    return TailPack(name_from_plain(name), data)


def _names_from_plain(raw: Any, count_max: int) -> tuple[str, ...]:
    if not isinstance(raw, bytes) or len(raw) % NAME_BYTES or len(raw) > NAME_BYTES * count_max:
        raise ValueError("not names of packs")
    return tuple(name_from_plain(raw[start : start + NAME_BYTES]) for start in range(0, len(raw), NAME_BYTES))


def _read_from_plain(plain: Any, names: Sequence[str]) -> Read:
    number, start, length = columns(plain, 3)
    if not is_whole(number, 0, len(names) - 1):
        raise ValueError("not a range of a pack that is named")
    if not is_whole(start, 0, BLOB_BYTES_MAX) or not is_whole(length, 1, READ_BYTES_MAX):
        raise ValueError("not a range of a pack")
    return Read(names[number], ByteRange(start, length))


def _stamp_from_plain(plain: Any) -> StampRow:
    revision, turn, content = columns(plain, 3)
    if not is_whole(revision, 1):
        raise ValueError("not a stamp")
    return StampRow(revision, mark_from_plain((turn, content)))


def stamps_appended(stamps: tuple[StampRow, ...], revision: int, mark: StampMark | None) -> tuple[StampRow, ...]:
    """Return the ring of stamps with this revision's turn, if it has one."""
    return stamps if mark is None else (*stamps, StampRow(revision, mark))[-RING_MAX:]
