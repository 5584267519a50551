"""Staging again: what a survey saved goes into a fresh pack, named by the head in place of what is damaged.

Rules:
1. Nothing is referenced that the head did not name before, but for the packs staged here.
2. Checkpoints stay as they are, to the byte; only manifests whose blobs lie elsewhere now are written again. Those of
   earlier revisions have no log of places then: nobody reads it.
3. A damaged pack is named no longer, unless a retained revision that is not whole needs it.
4. A fall-back is one more revision, with the content of the newest whole one. Revisions after that are retained no
   longer, as far as the head has room to say so; those with a pin stay, and those that can still be forked, or loaded
   without their execution state.

    staged = Restaging(survey, None, identity, names).staged()
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from snapshots.base import Base, FullManifest
from snapshots.content import content_again
from snapshots.head import KEPT_MAX, Head
from snapshots.history import RESTORE, HistoryRow, ledger_along
from snapshots.laying import PLACES
from snapshots.logs import HeldLog, LogRef, encode_rows, held_log
from snapshots.maintenance.needs import books_of
from snapshots.maintenance.repair.past import UnknownCommitError, rows_after
from snapshots.maintenance.repair.rescued import Stored
from snapshots.maintenance.repair.survey import Revision, Survey, lies_at
from snapshots.maintenance.repair.together import LostError
from snapshots.placement import ManifestPlace, PackUse, Placement, PlaceRow, manifest_bytes, seal_manifest
from snapshots.roots import kept_packs
from snapshots.staging import FULL_SHARE, Identity, Staged, inline_manifest, reads_of, stage
from storage.digest import Digest, blob_ref
from storage.extents import Extent, Run, coalesced
from storage.packs import PackBuilder
from storage.store import Version

Extents = dict[Digest, tuple[Extent, ...]]


@dataclass(frozen=True, slots=True)
class Restaged:
    """Packs ready to be put, and what the head must name for them.

    Attributes:
        packs: Name and bytes of each.
        head: The head that names them, built from the one surveyed.
        written: Revisions whose manifest is written again, rising.
        dropped: Revisions that are retained no longer, rising.
        left: Packs that the head named before and does not name any more, in order.
    """

    packs: tuple[tuple[str, bytes], ...]
    head: Head
    written: tuple[int, ...]
    dropped: tuple[int, ...]
    left: tuple[str, ...]

    def on(self, head: Head) -> Head:
        """Return the head to send in place of `head`, which names what the one surveyed named."""
        return replace(self.head, epoch=head.epoch, fence=head.fence, holder=head.holder, pins=head.pins)


class Restaging:
    """One session staged again.

    Args:
        survey: What is left of it.
        target: Whole revision to fall back to, None if the present one is whole.
        identity: Id of the repair, and of the commit that a fall-back is.
        names: Names of two packs, never used before.
    """

    def __init__(self, survey: Survey, target: int | None, identity: Identity, names: tuple[str, str]) -> None:
        self._survey = survey
        self._target = target
        self._identity = identity
        self._names = names
        self._retaining, self._dropped = _retention(survey, target)
        self._builder = PackBuilder(names[0])
        self._changed: list[int] = []
        self._first = survey.head.revision  # that needs the new pack
        self._stored = Stored({}, {})
        self._full: FullManifest | None = None  # in the new pack, to compress others against

    def staged(self) -> Restaged:
        """Return packs and head; without packs and with the head as it is when there is nothing to be done.

        Raises:
            LostError: The revision to go on with is not whole, or nothing tells what came after it.
        """
        going_on = self._survey.head.revision if self._target is None else self._target
        if going_on not in self._survey.whole:
            raise LostError(f"revision {going_on} is not whole")
        self._stored = self._survey.rescued.stored_in(self._builder)
        moved = [one for number, one in sorted(self._survey.whole.items()) if self._survey.moved(one)]
        self._changed = [one.number for one in moved]
        self._first = min([self._survey.head.revision, *self._changed])
        rows = self._rows({one.number: self._written(one) for one in moved if one is not self._survey.present})
        log, where = self._places(rows)
        if self._target is None:
            return self._rebuilt(log, where)
        return self._fallen_back(self._target, log, where)

    # Where everything lies now.

    def _extents(self, revision: Revision, placed: Placement) -> Extents:
        """Return where the blobs of a whole revision lie; `placed` is where they lay."""
        needed = set(revision.checkpoint.refs())
        found: Extents = {}
        for ref in revision.recorded():
            extents = lies_at(ref, placed)
            if extents is None:
                found[ref.digest] = self._stored.blob(ref)
            elif ref in needed:
                pieces = (one for extent in extents for one in self._now(extent, revision.number))
                found[ref.digest] = coalesced(pieces)
            else:
                found[ref.digest] = extents  # that a fork never reads
        return found

    def _now(self, extent: Extent, number: int) -> Sequence[Extent]:
        return [extent] if self._survey.stays([extent], number) else self._stored.extents(extent)

    def _keeps(self, use: PackUse) -> bool:
        """Say whether the head goes on naming a pack for these revisions (rule 3)."""
        last = use.last_revision or self._survey.head.revision
        needing = (number for number in self._survey.lost if self._retaining.retains(number))
        pack = self._survey.homes.pack(use.pack)
        return pack not in self._survey.damaged or any(use.first_revision <= one <= last for one in needing)

    def _written(self, revision: Revision) -> ManifestPlace:
        """Put the manifest of an earlier revision into the pack (rule 2)."""
        placed = revision.placement()
        extents = self._extents(revision, placed)
        first = {use.pack: use.first_revision for use in placed.packs}
        packs = dict.fromkeys((*(one.pack for many in extents.values() for one in many), self._builder.name))
        uses = tuple(PackUse(pack, first.get(pack, revision.number)) for pack in packs)
        return self._appended(revision.record, Placement(extents, uses))[0]

    def _appended(self, record: bytes, placement: Placement) -> tuple[ManifestPlace, bytes]:
        """Put a manifest into the pack, against one that stands there in full where that pays; return its bytes too."""
        full = self._full
        if full is not None:
            raw = manifest_bytes(record, placement.encode(placement.numbered(full.numbers)))
            run = seal_manifest(raw, full.raw)
            if len(run) * FULL_SHARE <= full.place.stored_bytes:
                return self._placed(run, full.place), raw
        numbers = placement.numbered()
        raw = manifest_bytes(record, placement.encode(numbers))
        place = self._placed(seal_manifest(raw), None)
        self._full = FullManifest(place, raw, numbers)
        return place, raw

    def _placed(self, run: bytes, against: ManifestPlace | None) -> ManifestPlace:
        place = self._builder.append_run(run)
        return ManifestPlace(self._builder.name, place.start, place.length, against)

    def _rows(self, written: dict[int, ManifestPlace]) -> list[PlaceRow]:
        return [
            replace(
                row,
                manifest=written.get(row.revision, row.manifest),
                ended=tuple(use for use in row.ended if self._keeps(use)),
            )
            for row in self._survey.rows
        ]

    def _places(self, rows: Sequence[PlaceRow]) -> tuple[HeldLog[PlaceRow], Extents]:
        """Return the log of places with these rows, and where it lies: what of it is as it was stays if it can."""
        if not rows:
            return HeldLog(), {}
        data = encode_rows(rows)
        at = LogRef(blob_ref(data), len(rows))
        kept, position = self._kept_places(data)
        self._builder.add_spliced(PLACES, at.ref, [Run(kept), memoryview(data)[position:]])
        return held_log(at, data, rows), {at.ref.digest: self._builder.extents_of(at.ref)}

    def _kept_places(self, data: bytes) -> tuple[list[Extent], int]:
        """Return the pieces that the log of places goes on to begin with, and how many bytes these are."""
        survey = self._survey
        placed = survey.present.placement()
        old = placed.extents.get(placed.places.ref.digest, ()) if placed.places.count else ()
        kept: list[Extent] = []
        position = 0
        for extent in old:
            end = position + extent.length
            if not survey.stays([extent], survey.head.revision) or data[position:end] != survey.places[position:end]:
                break
            kept.append(extent)
            position = end
        return kept, position

    def _uses(self, old: Iterable[PackUse]) -> tuple[PackUse, ...]:
        kept = tuple(use for use in old if self._keeps(use))
        return (*kept, PackUse(self._builder.name, self._first)) if self._fills() else kept

    def _fills(self) -> bool:
        return self._builder.body().data != b""

    # The two ways to go on.

    def _rebuilt(self, log: HeldLog[PlaceRow], where: Extents) -> Restaged:
        survey, head = self._survey, self._survey.head
        uses, overrides = survey.uses, survey.present.row.overrides
        reads_left = any(read.pack in survey.damaged for read in head.reads)
        if not self._fills() and not self._changed and all(map(self._keeps, uses)) and not reads_left:
            return Restaged((), head, (), (), ())
        own = PackUse(self._builder.name, self._first)  # the manifest at least lies there
        packs = (*(use for use in uses if self._keeps(use)), own)
        extents = {**self._extents(survey.present, survey.present.placement()), **where}
        unnamed = {one.pack for many in extents.values() for one in many} - {use.pack for use in packs}
        assert not unnamed or overrides is not None, "what is not named was moved"
        packs = (*packs, *(PackUse(pack, head.revision) for pack in sorted(unnamed)))  # that a fork never reads
        placement = Placement(extents, packs, log.at)
        place, raw = self._appended(survey.present.record, placement)
        if overrides is not None:
            placement = placement.narrowed(survey.present.checkpoint.refs(), place)
        inline = inline_manifest(raw)
        after = replace(
            head,
            state_id=self._identity.commit_id,
            updated_at=self._identity.created_at,
            manifest=place,
            inline_manifest=inline,
            stretches=(),  # known anew with the next commit, from its row on
            reads=() if inline else reads_of(survey.present.checkpoint, placement, place, head.tail),
        )
        written = tuple(sorted({*self._changed, head.revision}))
        return Restaged((self._pack(),), after, written, (), self._left(after, placement, log))

    def _fallen_back(self, target: int, log: HeldLog[PlaceRow], where: Extents) -> Restaged:
        survey, head = self._survey, self._survey.head
        revision = survey.whole[target]
        past, unstored = self._past(revision)
        placed, needed = (
            self._extents(revision, revision.placement()),
            {ref.digest for ref in revision.checkpoint.refs()},
        )
        extents = {**{digest: many for digest, many in placed.items() if digest in needed}, **where}
        uses = self._uses(survey.uses)
        more = {one.pack for many in extents.values() for one in many} - {use.pack for use in uses}
        base = Base(
            home=None,
            head=replace(head, stretches=()),  # it may be another log now
            version=Version(""),
            checkpoint=replace(revision.checkpoint, revision=head.revision),
            checkpoint_ref=head.checkpoint_ref,
            placement=Placement(extents, (*uses, *(PackUse(pack, target) for pack in sorted(more)))),
            history=past,
            unstored=unstored,
            places=log,
        )
        ledger = ledger_along([*past.entries, *unstored], target)
        content = content_again(revision.checkpoint, ledger, kind=RESTORE)
        staged = stage(content, base, self._identity, self._names[1], survey.limits)
        after = self._next_head(staged)
        packs = [self._pack()] if self._fills() else []
        if staged.data is not None:
            assert isinstance(staged.data, bytes), "nothing new is stored that could be spooled"
            packs.append((staged.name, staged.data))
        left = self._left(after, staged.placement, staged.places)
        return Restaged(tuple(packs), after, tuple(self._changed), self._dropped, left)

    def _past(self, revision: Revision) -> tuple[HeldLog[HistoryRow], tuple[HistoryRow, ...]]:
        """Return the log of a whole revision, and the rows from there up to the present one. Raises LostError."""
        survey, checkpoint, overrides = self._survey, revision.checkpoint, revision.row.overrides
        data, rows = survey.history(revision) if checkpoint.history.count else (b"", ())
        own = () if overrides is None else (overrides.row(checkpoint.node_count),)
        last = (*rows, *own)[-1]
        try:
            after = rows_after(survey.head, survey.history_rows(), last, survey.present.checkpoint.node_count)
        except UnknownCommitError as error:
            raise LostError(str(error)) from error
        return held_log(checkpoint.history, data, rows), (*own, *after)

    def _next_head(self, staged: Staged) -> Head:
        return replace(
            self._retaining,
            revision=staged.checkpoint.revision,
            commit_id=self._identity.commit_id,
            state_id=self._identity.commit_id,
            checkpoint_ref=staged.checkpoint_ref,
            manifest=staged.manifest,
            inline_manifest=staged.inline_manifest,
            reads=staged.reads,
            stretches=staged.stretches,
            tail=staged.tail,
            overrides=None,
            commits=self._survey.head.commits.appended(self._identity.commit_id),
            stamps=staged.stamps,
            updated_at=self._identity.created_at,
        )

    def _pack(self) -> tuple[str, bytes]:
        head = self._survey.head
        facts = {"tenant": head.tenant, "family": head.family, "session": head.session_id}
        return self._builder.name, self._builder.finish({**facts, "commit": self._identity.commit_id})

    def _left(self, after: Head, placement: Placement, log: HeldLog[PlaceRow]) -> tuple[str, ...]:
        """Return the packs that were named before and are not named by the head that is to come."""
        uses = (*placement.packs, *books_of(log.entries).ended)
        return tuple(sorted(self._survey.named() - {*kept_packs(after, uses), *(pack.name for pack in after.tail)}))


def _retention(survey: Survey, target: int | None) -> tuple[Head, tuple[int, ...]]:
    """Return the head with what it retains after a fall-back, and what that drops (rule 4)."""
    head = survey.head
    if target is None:
        return head, ()
    ruled = [number for number in (*survey.whole, *survey.lost) if number >= head.floor or number in head.kept]
    of_use = survey.forkable | survey.loadable
    kept = tuple(sorted(number for number in ruled if number <= target or number in of_use))
    if len(kept) > KEPT_MAX:
        return head, ()
    after = replace(head, floor=head.revision + 1, kept=kept)
    known = (*survey.whole, *survey.lost)
    dropped = (number for number in known if head.retains(number) and not after.retains(number))
    return after, tuple(sorted(dropped))
