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

from snapshots import codec
from snapshots.base import Base
from snapshots.content import content_again
from snapshots.head import INLINE_MANIFEST_BYTES_MAX, KEPT_MAX, Head
from snapshots.history import RESTORE, HistoryRow, ledger_along, row_from_plain
from snapshots.logs import LoadedSegment, Log, Segment, entries_of
from snapshots.maintenance.repair.past import UnknownCommitError, rows_after
from snapshots.maintenance.repair.remains import LostError
from snapshots.maintenance.repair.segments import places
from snapshots.maintenance.repair.survey import Revision, Survey
from snapshots.placement import ManifestPlace, PackUse, Placement, PlaceRow, seal_manifest
from snapshots.roots import kept_packs
from snapshots.staging import Identity, Staged, stage
from storage.digest import BlobRef, Digest, blob_ref
from storage.extents import Extent
from storage.packs import PackBuilder
from storage.store import Version


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

    def staged(self) -> Restaged:
        """Return packs and head; without packs and with the head as it is when there is nothing to be done."""
        for ref, data in self._survey.rescued.items():
            self._builder.add(self._kind_of(ref), data)
        self._builder.flush()
        moved = [one for number, one in sorted(self._survey.whole.items()) if self._survey.moved(one)]
        self._changed = [one.number for one in moved]
        self._first = min([self._survey.head.revision, *self._changed])
        rows = self._rows({one.number: self._written(one) for one in moved if one is not self._survey.present})
        log, where = self._places(rows)
        if self._target is None:
            return self._rebuilt(rows, log, where)
        return self._fallen_back(self._target, log, where)

    def _kind_of(self, ref: BlobRef) -> str:
        for revision in self._survey.whole.values():
            checkpoint = revision.checkpoint
            if ref in [segment.ref for segment in checkpoint.graph]:
                return "graph"
            parts = {
                checkpoint.tool_state: "tool-state",
                checkpoint.plugin_snapshot: "plugin-snapshot",
                checkpoint.execution_state: "execution-state",
                checkpoint.tombstones: "tombstones",
            }
            if ref in parts:
                return parts[ref]
        return "history"

    # Where everything lies now.

    def _extents(self, revision: Revision) -> dict[Digest, tuple[Extent, ...]]:
        """Return where the blobs of a whole revision lie."""
        found = {}
        for ref in revision.recorded():
            whole = [one for one in places(ref, revision.placement) if self._survey.stays(one, revision.number)]
            if ref in self._survey.rescued and not whole:
                whole = [self._builder.extents[ref.digest]]
            (found[ref.digest],) = whole or places(ref, revision.placement)
        return found

    def _keeps(self, use: PackUse) -> bool:
        """Say whether the head goes on naming a pack for these revisions (rule 3)."""
        last = use.last_revision or self._survey.head.revision
        needing = (number for number in self._survey.lost if self._retaining.retains(number))
        return use.pack not in self._survey.damaged or any(use.first_revision <= one <= last for one in needing)

    def _written(self, revision: Revision) -> ManifestPlace:
        """Put the manifest of an earlier revision into the pack (rule 2)."""
        extents = self._extents(revision)
        first = {use.pack: use.first_revision for use in revision.placement.packs}
        packs = dict.fromkeys(one.pack for many in extents.values() for one in many)
        uses = tuple(PackUse(pack, first.get(pack, revision.number)) for pack in packs)
        return self._append(seal_manifest(revision.record, Placement(extents, uses).encode()))

    def _append(self, run: bytes) -> ManifestPlace:
        place = self._builder.append_run(run)
        return ManifestPlace(self._builder.name, place.start, place.length)

    def _rows(self, written: dict[int, ManifestPlace]) -> list[PlaceRow]:
        return [
            replace(
                row,
                manifest=written.get(row.revision, row.manifest),
                ended=tuple(use for use in row.ended if self._keeps(use)),
            )
            for row in self._survey.rows
        ]

    def _places(self, rows: Sequence[PlaceRow]) -> tuple[Log[PlaceRow], dict[Digest, tuple[Extent, ...]]]:
        """Return the log of places with these rows, cut as it was, and where its segments lie."""
        old = self._survey.present.placement if rows else Placement()
        log: list[LoadedSegment[PlaceRow]] = []
        first = 0
        for segment in old.places:
            entries = tuple(rows[first : first + segment.count])
            data = codec.encode([row.to_plain() for row in entries])
            where = places(segment.ref, old)
            if (
                blob_ref(data) != segment.ref
                or not where
                or not self._survey.stays(where[0], self._survey.head.revision)
            ):
                segment = Segment(self._builder.add("places", data), segment.count, segment.level)
            log.append(LoadedSegment(segment, entries))
            first += segment.count
        self._builder.flush()
        held = {**old.extents, **self._builder.extents}
        return tuple(log), {one.segment.ref.digest: held[one.segment.ref.digest] for one in log}

    def _uses(self, old: Iterable[PackUse]) -> tuple[PackUse, ...]:
        kept = tuple(use for use in old if self._keeps(use))
        return (*kept, PackUse(self._builder.name, self._first)) if self._fills() else kept

    def _fills(self) -> bool:
        return bool(self._builder.extents or self._changed)

    # The two ways to go on.

    def _rebuilt(
        self, rows: Sequence[PlaceRow], log: Log[PlaceRow], where: dict[Digest, tuple[Extent, ...]]
    ) -> Restaged:
        survey, head = self._survey, self._survey.head
        uses = survey.uses
        if not self._fills() and all(map(self._keeps, uses)):
            return Restaged((), head, (), (), ())
        own = PackUse(self._builder.name, self._first)  # the manifest at least lies there
        packs = (*(use for use in uses if self._keeps(use)), own)
        extents = {**self._extents(survey.present), **where}
        unnamed = {one.pack for many in extents.values() for one in many} - {use.pack for use in packs}
        assert not unnamed or survey.present.row.overrides is not None, "what is not named was moved"
        packs = (*packs, *(PackUse(pack, head.revision) for pack in sorted(unnamed)))  # that a fork never reads
        placement = Placement(extents, packs, tuple(one.segment for one in log))
        run = seal_manifest(survey.present.record, placement.encode())
        place = self._append(run)
        after = replace(
            head,
            state_id=self._identity.commit_id,
            updated_at=self._identity.created_at,
            manifest=place,
            inline_manifest=run if len(run) <= INLINE_MANIFEST_BYTES_MAX else b"",
        )
        written = tuple(sorted({*self._changed, head.revision}))
        if survey.present.row.overrides is not None:
            packs = placement.narrowed(survey.present.checkpoint.refs(), place.pack).packs
        named = {*kept_packs(after, [*packs, *(use for row in rows for use in row.ended)])}
        return Restaged((self._pack(),), after, written, (), self._left(named))

    def _fallen_back(self, target: int, log: Log[PlaceRow], where: dict[Digest, tuple[Extent, ...]]) -> Restaged:
        survey, head = self._survey, self._survey.head
        revision = survey.whole[target]
        past, unstored = self._past(revision)
        base = Base(
            home=None,
            head=head,
            version=Version(""),
            checkpoint=replace(revision.checkpoint, revision=head.revision),
            checkpoint_ref=head.checkpoint_ref,
            placement=Placement({**self._extents(revision), **where}, self._uses(survey.uses)),
            history=past,
            unstored=unstored,
            places=log,
        )
        ledger = ledger_along([*entries_of(past), *unstored], target)
        content = content_again(revision.checkpoint, ledger, kind=RESTORE)
        staged = stage(content, base, self._identity, self._names[1])
        after = self._next_head(staged)
        ended = [use for row in entries_of(staged.places) for use in row.ended]
        named = {*kept_packs(after, [*staged.placement.packs, *ended])}
        packs = ((self._pack(),) if self._fills() else ()) + ((staged.name, staged.data),)
        return Restaged(packs, after, tuple(self._changed), self._dropped, self._left(named))

    def _past(self, revision: Revision) -> tuple[Log[HistoryRow], tuple[HistoryRow, ...]]:
        """Return the log of a whole revision, and the rows from there up to the present one. Raises LostError."""
        survey, checkpoint, overrides = self._survey, revision.checkpoint, revision.row.overrides
        log = tuple(
            LoadedSegment(one, survey.segments.rows(one, revision.placement, row_from_plain))
            for one in checkpoint.history
        )
        own = () if overrides is None else (overrides.row(checkpoint.node_count),)
        last = (*entries_of(log), *own)[-1]
        try:
            return log, (*own, *rows_after(survey.head, self._rows_known(), last, survey.present.checkpoint.node_count))
        except UnknownCommitError as error:
            raise LostError(str(error)) from error

    def _rows_known(self) -> dict[int, HistoryRow]:
        """Return the rows that can be read."""
        rows: dict[int, HistoryRow] = {}
        for revision in self._survey.known.values():
            for segment in revision.checkpoint.history:
                try:
                    found = self._survey.segments.rows(segment, revision.placement, row_from_plain)
                except LostError:
                    continue  # its rows may stand in another one
                rows |= {row.revision: row for row in found}
        return rows

    def _next_head(self, staged: Staged) -> Head:
        return replace(
            self._retaining,
            revision=staged.checkpoint.revision,
            commit_id=self._identity.commit_id,
            state_id=self._identity.commit_id,
            checkpoint_ref=staged.checkpoint_ref,
            manifest=staged.manifest,
            inline_manifest=staged.inline_manifest,
            overrides=None,
            commits=self._survey.head.commits.appended(self._identity.commit_id),
            stamps=staged.stamps,
            updated_at=self._identity.created_at,
        )

    def _pack(self) -> tuple[str, bytes]:
        head = self._survey.head
        facts = {"tenant": head.tenant, "family": head.family, "session": head.session_id}
        return self._builder.name, self._builder.finish({**facts, "commit": self._identity.commit_id})

    def _left(self, named: set[str]) -> tuple[str, ...]:
        """Return the packs that were named before and are not among those `named` now."""
        return tuple(sorted(self._survey.named() - named))


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
