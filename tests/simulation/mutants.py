"""The rules of commit, fork, copy, collection and satellites, each taken away: what must be found. For tests alone.

A mutant changes the real code for as long as it is installed; the shipped code has no switch for any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import ANY
from weakref import WeakKeyDictionary

import pytest

from snapshots import commit as committing
from snapshots import fork as forks
from snapshots import laying, reading, rewrite, roots, satellite, staged, stretches, verdict
from snapshots import publish as publishing
from snapshots import rewind as rewinds
from snapshots.ahead import tail_stored
from snapshots.base import Base
from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.errors import CorruptSnapshotError, FencedError, RevisionConflictError
from snapshots.head import LIVE, RESERVED, Head
from snapshots.maintenance import collect as real
from snapshots.maintenance import raising, superseded
from snapshots.maintenance.copy import session as copying
from snapshots.maintenance.copy import survey
from snapshots.maintenance.raising import Homes as Batches
from snapshots.maintenance.raising import key_digest
from snapshots.placement import NOT_MOVED, Homes, Move
from snapshots.reading import HeadRead, head_at, read_live_head
from snapshots.realtime import RealtimeController, journal
from snapshots.records import reaper
from snapshots.records.stored import register_of
from snapshots.runtime import persistence
from snapshots.runtime.merge import Union
from snapshots.runtime.messages import to_node
from snapshots.runtime.stored import StoredMetadata
from snapshots.testing import collector as collecting
from snapshots.testing.simulation.weather import Weather
from snapshots.usage import compaction, writing
from snapshots.usage import log as logs
from snapshots.usage.index import index_register, logs_in
from snapshots.verdict import Intent, Retry
from storage import packs
from storage.errors import PreconditionFailedError, UnavailableError
from storage.frame import FrameCheck
from storage.testing.disk import SimulatedDisk
from storage.testing.plan import IgnoreCondition, On
from tests.simulation.worlds import GIVEN_UP, IN_COPY, IN_FLIGHT

BESIDE_PARENT = "a copy of a fork beside its parent's"
COPIED_FROM, TWO_AND_WRITER = "a copy and its source", "copiers and a writer"
FORK_OF_A_FORK = "two writers and a fork of a fork"
Install = Callable[[pytest.MonkeyPatch], None]
EARLIER: WeakKeyDictionary[Any, Any] = WeakKeyDictionary()  # what a call keeps that should read it again


def source_read_before_the_reservation(patch: pytest.MonkeyPatch) -> None:
    run, next_head = forks._Fork.run, forks._Fork._next_head

    def early(self: Any) -> Any:
        self._early = read_live_head(self._environment, self._request.source)
        return run(self)

    def from_early(self: Any, child: Head) -> Head:
        read, self._early = self._early, None
        return next_head(self, child) if read is None else self._from_source(read, child)

    patch.setattr(forks._Fork, "run", early)
    patch.setattr(forks._Fork, "_next_head", from_early)


def source_read_in_an_earlier_attempt(patch: pytest.MonkeyPatch) -> None:
    source = forks._Fork._source

    def kept(self: Any, read: HeadRead) -> Any:
        self._kept = getattr(self, "_kept", None) or source(self, read)
        return self._kept

    patch.setattr(forks._Fork, "_source", kept)


def lagging_source_not_helped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(forks._Fork, "_helped", lambda self, read, child: read)  # noqa: ARG005  a method


def pack_not_staged_again(patch: pytest.MonkeyPatch) -> None:
    def decide(intent: Intent, head: Head | None, history: Sequence[Any] | None = None) -> verdict.Verdict:
        found = verdict.decide(intent, head, history)
        return replace(found, restage=False) if isinstance(found, Retry) else found

    patch.setattr(publishing, "decide", decide)


def name_of_a_pack_used_again(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(publishing, "pack_name", lambda commit_id, random_id: f"{commit_id}.{'0' * 16}")  # noqa: ARG005  the signature that it stands for


def take_over_forgets_the_epoch(patch: pytest.MonkeyPatch) -> None:
    reservation = publishing.Publication._reservation

    def forgetful(self: Any, found: HeadRead | None) -> Head:
        return replace(reservation(self, found), epoch=0)

    patch.setattr(publishing.Publication, "_reservation", forgetful)


def head_not_built_from_the_one_just_read(patch: pytest.MonkeyPatch) -> None:
    again = publishing.Publication._prepared_again

    def stale(self: Any, base: Base, read: HeadRead, *rest: Any) -> Any:
        newer, staged = again(self, base, read, *rest)
        return replace(newer, head=replace(base.head, fence=newer.head.fence)), staged

    patch.setattr(publishing.Publication, "_prepared_again", stale)


def no_reservation(patch: pytest.MonkeyPatch) -> None:
    """Create the head with the publish; nothing of the session is there while its first pack is uploaded."""

    def not_reserved(self: Any) -> HeadRead:
        unstored: Any = None  # the publish creates it
        found: HeadRead = self._on_reservation(HeadRead(self._reservation(None), unstored))
        return found

    patch.setattr(publishing.Publication, "reserve", not_reserved)


def upload_skipped_because_it_exists(patch: pytest.MonkeyPatch) -> None:
    write = packs.write_pack

    def skipping(store: Any, key: str, *rest: Any) -> Any:
        if not any(row.key == key for row in store.list(key)):
            write(store, key, *rest)

    name_of_a_pack_used_again(patch)
    patch.setattr(publishing, "write_pack", skipping)


def changed_state_ignored(patch: pytest.MonkeyPatch) -> None:
    """Neither the verdict nor a rewind notices that what the head names has changed under the same revision."""

    def decide(intent: Intent, head: Head | None, history: Sequence[Any] | None = None) -> verdict.Verdict:
        found = verdict.decide(intent, head, history)
        return replace(found, rebuild=False) if isinstance(found, Retry) else found

    build = rewinds._GoingBack._build

    def trusting(self: Any, base: Base, name: str) -> Any:
        return build(self, replace(base, head=replace(base.head, state_id=self._present.base.head.state_id)), name)

    patch.setattr(publishing, "decide", decide)
    patch.setattr(rewinds._GoingBack, "_build", trusting)


# Answers. Their loss is a fault, so these are found in seeded runs.


def revision_looked_at_before_the_commit_id(patch: pytest.MonkeyPatch) -> None:
    def decide(intent: Intent, head: Head | None, history: Sequence[Any] | None = None) -> verdict.Verdict:
        moved = None if head is None else verdict._moved_on(intent, head)
        return moved or verdict.decide(intent, head, history)

    patch.setattr(publishing, "decide", decide)


def hidden_retries_and_412_taken_at_its_word(patch: pytest.MonkeyPatch) -> None:
    """As with an SDK that sends a conditional write again by itself, and code that believes the 412 it earns."""
    send = publishing.Publication.send

    def believing(self: Any, version: Any, head: Head, attempt: int) -> Any:
        swap = self._register.swap_once

        def once(expected: Any, value: bytes) -> Any:
            try:
                return swap(expected, value)
            except PreconditionFailedError as error:
                raise RevisionConflictError(head.session_id, expected=None, actual=head.revision) from error

        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self._register, "swap_once", once)
            return send(self, version, head, attempt)

    patch.setattr(publishing.Publication, "send", believing)


def conditions_ignored_by_the_server(patch: pytest.MonkeyPatch) -> None:
    choose = Weather.choose

    def ignoring(self: Any, verb: str, keys: Sequence[str]) -> On | None:
        found = choose(self, verb, keys)
        return On("put", "", IgnoreCondition()) if verb == "put" and found is None else found

    patch.setattr(Weather, "choose", ignoring)


def directories_not_synced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(SimulatedDisk, "sync_directory", lambda self, path: self._step())  # noqa: ARG005  the signature that it stands for


# Collections.


def heads_marked_and_not_raised(patch: pytest.MonkeyPatch) -> None:
    def mark_only(self: Any, key: str, read: HeadRead) -> None:
        self.marked_by(key, read)
        self._raised.add(key_digest(key))

    patch.setattr(real.Raising, "_raise", mark_only)


def reservations_not_raised(patch: pytest.MonkeyPatch) -> None:
    raise_one = collecting._Run._raise

    def live_only(self: Any, key: str, read: HeadRead) -> None:
        if read.head.status == RESERVED:
            self.raised.add(key)
        else:
            raise_one(self, key, read)

    patch.setattr(collecting._Run, "_raise", live_only)


def heads_not_listed_again(patch: pytest.MonkeyPatch) -> None:
    def once(self: Any) -> None:
        reads = [(key, head_at(self._environment, key)) for key in self._not_raised()]
        for key, read in sorted(reads, key=lambda one: one[1].head.status != LIVE):
            self._raise(key, read)

    patch.setattr(collecting._Run, "raise_all", once)


def bytes_marked_are_not_those_put(patch: pytest.MonkeyPatch) -> None:
    mark = collecting._Run._mark

    def first_only(self: Any, head: Head) -> None:
        seen = self.__dict__.setdefault("_seen", set())
        if head.session_id not in seen:
            seen.add(head.session_id)
            mark(self, head)

    patch.setattr(collecting._Run, "_mark", first_only)


def packs_listed_after_the_heads(patch: pytest.MonkeyPatch) -> None:
    def collect(environment: Environment) -> Any:
        run = collecting._Run(environment, take_number(environment))
        try:
            run.raise_all()
        except collecting._StoppedError:
            return None
        listed = [row.key for row in environment.store.list(environment.layout.packs)]
        environment.store.delete_many([key for key in listed if key not in run.marked])
        return None

    patch.setattr("tests.simulation.protocol.collect_once", collect)


def higher_numbers_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(collecting._Run, "_check", lambda self, key, head: head.epoch < self.number)  # noqa: ARG005  the signature that it stands for


# The collection that the command runs.


def real_reservations_not_raised(patch: pytest.MonkeyPatch) -> None:
    concerns = real.Raising.concerns
    patch.setattr(real.Raising, "concerns", lambda self, head: head.status != RESERVED and concerns(self, head))


def real_heads_not_listed_again(patch: pytest.MonkeyPatch) -> None:
    listed = real.Raising.not_raised

    def once(self: Any) -> Any:
        if self.__dict__.setdefault("listed", False):
            return {}
        self.listed = True
        return listed(self)

    patch.setattr(real.Raising, "not_raised", once)


def real_marks_of_the_first_reading_only(patch: pytest.MonkeyPatch) -> None:
    marked = real.Raising.marked_by

    def first(self: Any, key: str, read: HeadRead) -> Any:
        seen = self.__dict__.setdefault("seen", set())
        if key in seen:
            return None
        seen.add(key)
        return marked(self, key, read)

    patch.setattr(real.Raising, "marked_by", first)


def real_higher_numbers_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(real.Raising, "_to_be_raised", lambda self, key, head: head.epoch < self.number)  # noqa: ARG005  the signature that it stands for


def families_of_later_batches_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Batches, "is_elsewhere", lambda self, key, batch: batch > 0)  # noqa: ARG005  the signature that it stands for


def real_packs_of_the_plan_deleted(patch: pytest.MonkeyPatch) -> None:
    """Delete what the plan found, without raising anything."""

    def execute(plan: Any, **_: Any) -> Any:
        for one in plan.families:
            keys = [row.key for row in plan.environment.store.list(one.prefix)]
            again = real.plan_on(plan.environment)
            if one.prefix in {one.prefix for one in again.families}:
                plan.environment.store.delete_many(keys)
        return real.CollectReport()

    patch.setattr("tests.simulation.protocol.execute", execute)


# Lists of staged packs.


def lists_not_refreshed(patch: pytest.MonkeyPatch) -> None:
    extended = staged.staged_with

    def as_old(head: Head, uploads: Any, **facts: Any) -> Head:
        found = extended(head, uploads, **facts)
        if head.staged is None or found.staged is None:
            return found
        return replace(found, staged=replace(found.staged, epoch=head.staged.epoch))

    patch.setattr(copying, "staged_with", as_old)


def named_whatever_the_epoch(patch: pytest.MonkeyPatch) -> None:
    for module in (staged, copying):
        patch.setattr(module, "admits", lambda head, name, epoch: True)  # noqa: ARG005  the signature that it stands for


def stale_lists_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raising, "is_stale", lambda head: False)  # noqa: ARG005  the signature that it stands for


def real_lists_not_marked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(raising, "named_keys", _of_live_heads(roots.named_keys))


def lists_not_marked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(collecting, "named_packs", _of_live_heads(roots.named_packs))


def _of_live_heads(named: Callable[[Environment, Head], frozenset[str]]) -> Callable[..., frozenset[str]]:
    return lambda environment, head: named(environment, head) if head.status == LIVE else frozenset()


# Copies.


def copied_with_the_epoch(patch: pytest.MonkeyPatch) -> None:
    published = copying._SessionCopy._published

    def as_there(self: Any, work: Any, *rest: Any) -> Head:
        return replace(published(self, work, *rest), epoch=work.found.head.epoch)

    patch.setattr(copying._SessionCopy, "_published", as_there)


def copied_under_another_commit_id(patch: pytest.MonkeyPatch) -> None:
    published = copying._SessionCopy._published

    def as_new(self: Any, *rest: Any) -> Head:
        head = published(self, *rest)
        return replace(head, commit_id=head.write_id)

    patch.setattr(copying._SessionCopy, "_published", as_new)


def refused_copies_taken_for_stored(patch: pytest.MonkeyPatch) -> None:
    send = copying._SessionCopy._sent

    def believing(self: Any, read: HeadRead, head: Head) -> HeadRead:
        return send(self, read, head) or HeadRead(head, read.version)

    patch.setattr(copying._SessionCopy, "_sent", believing)


def lost_answers_taken_for_stored(patch: pytest.MonkeyPatch) -> None:
    def believing(self: Any, read: HeadRead, head: Head) -> HeadRead | None:
        try:
            return HeadRead(head, self._register.swap_once(read.version, head.encode()))
        except UnavailableError:
            return HeadRead(head, read.version)
        except PreconditionFailedError:
            return None

    patch.setattr(copying._SessionCopy, "_sent", believing)


def frames_copied_unchecked(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(packs, "check_frames", lambda stored, key: None)  # noqa: ARG005  the signature that it stands for
    patch.setattr(FrameCheck, "update", lambda self, stored: None)  # noqa: ARG005  a method


def relative_read_in_an_earlier_attempt(patch: pytest.MonkeyPatch) -> None:
    of_relatives = copying._SessionCopy._of_relatives

    def kept(self: Any, head: Head, found: Any) -> Any:
        places = EARLIER.get(self) or of_relatives(self, head, found)
        return EARLIER.setdefault(self, places)

    patch.setattr(copying._SessionCopy, "_of_relatives", kept)


def relative_read_before_the_reservation(patch: pytest.MonkeyPatch) -> None:
    target, of_relatives = copying._SessionCopy._target, copying._SessionCopy._of_relatives

    def early(self: Any) -> HeadRead:
        for relative in self._job.relatives:
            EARLIER.setdefault(self, head_at(self._here, self._here.layout.head(relative)))
        return target(self)

    def from_early(self: Any, head: Head, found: Any) -> Any:
        read = EARLIER.pop(self, None)
        if read is None:
            return of_relatives(self, head, found)
        with copying._reading(copying._HereMovedError):
            return read.head.family, survey.places_in(survey.survey(self._here, read))

    patch.setattr(copying._SessionCopy, "_target", early)
    patch.setattr(copying._SessionCopy, "_of_relatives", from_early)


def lagging_relative_not_helped(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(copying._SessionCopy, "_helped", lambda self, other, child: other)  # noqa: ARG005  a method


def missing_source_packs_taken_for_damage(patch: pytest.MonkeyPatch) -> None:
    def damaged(self: Any, there: HeadRead, read: HeadRead, moved: Any, surveys: int) -> Any:  # noqa: ARG001  a method
        raise CorruptSnapshotError(moved.error.key, "missing") from moved.error

    patch.setattr(copying._SessionCopy, "_read_again", damaged)


def copied_onto_whatever_stands_there(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(copying, "conflict_of", lambda there, here, job: "")  # noqa: ARG005  the signature that it stands for
    patch.setattr(survey.Survey, "checkpoint_ref", lambda self, revision: ANY)  # noqa: ARG005  a method


def conflicts_told_of_by_an_older_head(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(copying._SessionCopy, "_source_head", lambda self, there, here: there)  # noqa: ARG005  a method


# Owners.


def older_owners_not_fenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verdict, "_fenced", lambda intent, head: None)  # noqa: ARG005  the signature that it stands for


# Tails and merged packs.


def first_need_of_carried_packs_forgotten(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(laying.Laid, "_first_need", lambda self, packs: self._base.revision + 1)  # noqa: ARG005  a method


def older_revisions_read_where_they_lay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(stretches, "homes_of", lambda rows: NOT_MOVED)  # noqa: ARG005  the signature that it stands for


def fork_not_told_what_was_carried(patch: pytest.MonkeyPatch) -> None:
    source = forks._Fork._source

    def untold(self: Any, read: HeadRead) -> Any:
        found = source(self, read)
        named = replace(found.named, manifest=replace(found.named.manifest, moved=NOT_MOVED))
        return replace(found, named=named)

    patch.setattr(forks._Fork, "_source", untold)


def packs_carried_twice_looked_for_once(patch: pytest.MonkeyPatch) -> None:
    def once(self: Any, moves: Any = ()) -> None:
        self._homes = {move.pack: (move.into, move.shift) for move in moves}

    patch.setattr(Homes, "__init__", once)


def ended_packs_named_where_they_lay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(roots, "homes_of", lambda rows: NOT_MOVED)  # noqa: ARG005  the signature that it stands for


def tail_not_carried(patch: pytest.MonkeyPatch) -> None:
    merge = laying.Laid.merge_into

    def without(self: Any, builder: Any) -> None:
        base = self._base
        self._base = replace(base, head=replace(base.head, tail=()))
        merge(self, builder)
        self._base = base

    patch.setattr(laying.Laid, "merge_into", without)


def rewritten_packs_taken_for_carried(patch: pytest.MonkeyPatch) -> None:
    merge, plan = laying.Laid.merge_into, laying.Laid._planned

    def planned(self: Any, tail: Any) -> Any:
        self.plan = plan(self, tail)
        return self.plan

    def taken(self: Any, builder: Any) -> None:
        merge(self, builder)
        self.moves += tuple(Move(pack, builder.name, 0) for pack in sorted(self.plan.rewritten))

    patch.setattr(laying.Laid, "_planned", planned)
    patch.setattr(laying.Laid, "merge_into", taken)


def fork_without_the_tail(patch: pytest.MonkeyPatch) -> None:
    born = forks._Fork._born
    patch.setattr(forks._Fork, "_born", lambda self, source, child: replace(born(self, source, child), tail=()))


def tail_dropped_by_other_writes(patch: pytest.MonkeyPatch) -> None:
    """Leave the tail out of a head that is raised, pruned, held or deleted."""

    def without(head: Head, **changes: Any) -> Head:
        return replace(head, tail=(), **changes)

    patch.setattr(rewrite, "replace", without)


def published_behind_another_tail(patch: pytest.MonkeyPatch) -> None:
    """Publish a small pack on whatever head stands there, behind the tail that it has by now."""
    settle, next_head = publishing.Publication.settle, publishing.Publication._next_head

    def settled(self: Any, read: HeadRead | None) -> Retry:
        try:
            return settle(self, read)
        except RevisionConflictError:
            if not self.small:
                raise
            return Retry(rebuild=False, restage=False)

    def behind(self: Any, head: Head, staged: Any) -> Head:
        self.small = staged.data is None
        found = next_head(self, head, staged)
        return replace(found, tail=(*head.tail, staged.tail[-1])) if self.small else found

    patch.setattr(publishing.Publication, "settle", settled)
    patch.setattr(publishing.Publication, "_next_head", behind)


def uploaded_ahead_whatever_the_epoch(patch: pytest.MonkeyPatch) -> None:
    def stored(base: Base) -> Base:
        ahead = base.ahead
        return tail_stored(base if ahead is None else replace(base, ahead=replace(ahead, epoch=base.head.epoch)))

    patch.setattr(committing, "tail_stored", stored)


def carried_ahead_and_not_told(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(committing, "tail_stored", lambda base: replace(tail_stored(base), moves=()))


def rows_left_where_they_lay(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(laying.Laid, "_first_again", lambda self: None)  # noqa: ARG005  a method


def missing_objects_taken_for_corruption(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reading, "LOAD_ATTEMPTS_MAX", 1)


# Satellites: usage logs, saves, records, realtime sessions.


def lost_answers_sent_again(patch: pytest.MonkeyPatch) -> None:
    """Ignore the ring of write ids: whatever was not confirmed is applied to what is stored now."""

    def forgotten(self: Any, present: Any) -> bool:  # noqa: ARG001  the signature that it stands for
        self._doubts.clear()
        return False

    patch.setattr(satellite._Change, "_has_landed", forgotten)


def segments_published_at_any_number(patch: pytest.MonkeyPatch) -> None:
    publish = writing.appended
    patch.setattr(logs, "appended", lambda index, segments, number: publish(index, segments, index.number))  # noqa: ARG005  the signature that it stands for


def merges_published_at_any_number(patch: pytest.MonkeyPatch) -> None:
    publish = compaction._merged

    def anyhow(index: Any, run: Any, segment: Any, number: int) -> Any:  # noqa: ARG001  the signature that it stands for
        return publish(index, run, segment, index.number)

    patch.setattr(compaction, "_merged", anyhow)


def segments_listed_after_the_index_was_rewritten(patch: pytest.MonkeyPatch) -> None:
    def settle(environment: Environment, logs: Sequence[superseded.SupersededLog]) -> superseded.SettledLogs:
        number = take_number(environment, above=max(log.number for log in logs))
        indexes = [superseded._rewritten(environment, number, log.session_id) for log in logs]
        return _unnamed(environment, logs, indexes, number)

    patch.setattr(real, "settle_logs", settle)


def superseded_segments_of_the_plan_deleted(patch: pytest.MonkeyPatch) -> None:
    """Delete what the index does not name, without rewriting it."""

    def settle(environment: Environment, logs: Sequence[superseded.SupersededLog]) -> superseded.SettledLogs:
        indexes = [index_register(environment, log.session_id).read().value for log in logs]
        return _unnamed(environment, logs, indexes, 1)

    patch.setattr(real, "settle_logs", settle)


def _unnamed(
    environment: Environment, logs: Sequence[superseded.SupersededLog], indexes: Sequence[Any], number: int
) -> superseded.SettledLogs:
    garbage = [
        row
        for log, index in zip(logs, indexes, strict=True)
        for one in logs_in(environment, environment.layout.usage(log.session_id))
        for row in one.segments
        if row.key not in superseded._keys(environment, log.session_id, index)
    ]
    return superseded.SettledLogs(number, tuple(garbage), ())


def runs_replaced_where_they_stood(patch: pytest.MonkeyPatch) -> None:
    """Put the merged segment where its run was when it was read, whatever stands there by now."""

    def anyhow(index: Any, run: Any, segment: Any, number: int) -> Any:  # noqa: ARG001  the signature that it stands for
        return replace(index, segments=(segment, *index.segments[len(run) :]))

    patch.setattr(compaction, "_merged", anyhow)


def copies_saved_as_they_are(patch: pytest.MonkeyPatch) -> None:
    """Store the saver's messages in the place of those that are stored."""

    def replacing(self: Any, state: Any) -> None:
        self.union, self.state = Union(tuple(self._messages), tuple(self._messages), ()), state
        self.attempts += 1
        state.session_graph.branch_to(None)
        state.append_session_nodes(map(to_node, self._messages))

    patch.setattr(persistence._Appending, "__call__", replacing)


def metadata_saved_as_they_are(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(persistence, "merge", lambda stored, mine, *, authoritative: StoredMetadata(mine))  # noqa: ARG005  the signature that it stands for


def records_expired_as_they_were_listed(patch: pytest.MonkeyPatch) -> None:
    """Judge what was listed, and write that."""

    def expire(environment: Environment, at: Any, one: Any) -> bool:
        expired = one.found.value.expire(at)
        register_of(environment, one.found.value.session_id).update(lambda _: expired)
        return True

    patch.setattr(reaper, "_expire", expire)


def records_of_others_taken_for_ours(patch: pytest.MonkeyPatch) -> None:
    """Go on as if a record in our slot were ours, whoever wrote it."""
    create = journal.RealtimeJournal._create

    def unfenced(self: Any, record: Any) -> None:
        try:
            create(self, record)
        except FencedError:
            self._fenced, self._is_last = None, True

    patch.setattr(journal.RealtimeJournal, "_create", unfenced)


def sent_before_it_is_recorded(patch: pytest.MonkeyPatch) -> None:
    request, deliver = RealtimeController._request, RealtimeController._deliver

    def sending(self: Any, log: Any, frame: Any, takes: Any = ()) -> Any:
        self._adapter.send(frame)
        return request(self, log, frame, takes)

    def sent(self: Any, log: Any, requested: Any) -> Any:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(self, "_call", lambda *_: None)
            return deliver(self, log, requested)

    patch.setattr(RealtimeController, "_request", sending)
    patch.setattr(RealtimeController, "_deliver", sent)


def handed_out_before_it_is_recorded(patch: pytest.MonkeyPatch) -> None:
    """Hand a frame out that no record keeps."""
    patch.setattr(RealtimeController, "_recorded", lambda self, log, frame: frame)  # noqa: ARG005  the signature that it stands for


@dataclass(frozen=True)
class Mutant:
    """A rule taken away.

    Attributes:
        rule: What it takes away.
        install: Takes it away.
        world: Where the loss is to be found; "" for seeded runs.
        preemptions: With how many.
        prefix: Where the search begins, "" for anywhere.
        first_seed: Of the seeded runs.
    """

    rule: str
    install: Install
    world: str = ""
    preemptions: int = 0
    prefix: str = ""
    first_seed: int = 1


MUTANTS = (
    Mutant("reserve before anything is uploaded", no_reservation, "creators", 1),
    Mutant("reserve the child before the source is read", source_read_before_the_reservation, "writers", 1),
    Mutant("keep the epoch of a reservation", take_over_forgets_the_epoch, "creators", 1),
    Mutant("stage again at a new epoch", pack_not_staged_again, "writers", 1),
    Mutant("never use the name of a pack again", name_of_a_pack_used_again, "writers", 2),
    Mutant("never skip an upload because it exists", upload_skipped_because_it_exists, "writers", 2),
    Mutant("build the head from the one just read", head_not_built_from_the_one_just_read, "writers", 1),
    Mutant("build anew at a new state id", changed_state_ignored, "rewinds", 2),
    Mutant("look for the commit id before the revision", revision_looked_at_before_the_commit_id),
    Mutant("no hidden retries, and no 412 at its word", hidden_retries_and_412_taken_at_its_word),
    Mutant("fence older owners", older_owners_not_fenced, "owners", 1),
    Mutant("read the source in every attempt", source_read_in_an_earlier_attempt, "dropped revisions", 1),
    Mutant("help a lagging source", lagging_source_not_helped, FORK_OF_A_FORK, 1, IN_FLIGHT),
    Mutant("help a lagging source (reference)", lagging_source_not_helped, "fork in flight", 1, IN_FLIGHT),
    Mutant("carry the tail into the next pack", tail_not_carried, "small commits", 1),
    Mutant("keep the tail in every write", tail_dropped_by_other_writes, "small commits pruned", 1),
    Mutant("publish behind the tail that was read", published_behind_another_tail, "small and large commits", 1),
    Mutant("take the tail along to a fork", fork_without_the_tail, "small and large commits", 1),
    Mutant("look for ended packs where they lie now", ended_packs_named_where_they_lay, "a fork of a small commit", 1),
    Mutant("look for older revisions where they lie now", older_revisions_read_where_they_lay, "merges", 1),
    Mutant("follow a pack that was carried twice", packs_carried_twice_looked_for_once, "merges of merges", 1),
    Mutant("tell a fork what was carried", fork_not_told_what_was_carried, "merges and old forks", 1),
    Mutant("keep who needs a carried pack first", first_need_of_carried_packs_forgotten, "merges pruned", 1),
    Mutant("name what was uploaded ahead at its epoch", uploaded_ahead_whatever_the_epoch, "uploads ahead", 1),
    Mutant("tell what was carried ahead", carried_ahead_and_not_told, "uploads ahead and readers", 1),
    Mutant("write rows again behind what was carried", rows_left_where_they_lay, "merges and old forks", 1),
    Mutant("tell carried packs from rewritten ones", rewritten_packs_taken_for_carried, "merges and readers", 1),
    Mutant("load again when something is missing", missing_objects_taken_for_corruption, "merges and readers", 1),
    Mutant("list the packs first", packs_listed_after_the_heads, "writers", 1),
    Mutant("a plan is a hint", real_packs_of_the_plan_deleted, "a real collection", 1),
    Mutant("raise every head", heads_marked_and_not_raised, "a real collection", 1),
    Mutant("raise reservations too", real_reservations_not_raised, "a real collection", 1),
    Mutant("raise reservations too (reference)", reservations_not_raised, "writers", 1),
    Mutant("list the heads again", real_heads_not_listed_again, "a real collection", 2, "w g"),
    Mutant("list the heads again (reference)", heads_not_listed_again, "writers", 1),
    Mutant("read in every batch the heads of its families", families_of_later_batches_forgotten, "batches", 1),
    Mutant("mark the bytes that were put", real_marks_of_the_first_reading_only, "a real collection", 2),
    Mutant("mark the bytes that were put (reference)", bytes_marked_are_not_those_put, "writers", 2),
    Mutant("stop at a higher number", real_higher_numbers_ignored, FORK_OF_A_FORK, 1, IN_FLIGHT),
    Mutant("stop at a higher number (reference)", higher_numbers_ignored, "fork in flight", 1, IN_FLIGHT),
    Mutant("reserve before a copy is uploaded", no_reservation, "a copy under way", 1),
    Mutant("keep the epoch of the head that is copied to", copied_with_the_epoch, "a copy under way", 1),
    Mutant("name a copied pack at the epoch of its upload", named_whatever_the_epoch, "a copy under way", 1),
    Mutant("refresh the list in each registration", lists_not_refreshed, "a copy under way", 2),
    Mutant("mark the staged list", real_lists_not_marked, "a copy under way", 1),
    Mutant("mark the staged list (reference)", lists_not_marked, "a copy under way", 1),
    Mutant("drop a stale list", stale_lists_kept, "a copy under way", 0, GIVEN_UP),
    Mutant("read the relative behind the reservation", relative_read_before_the_reservation, "a copy of a fork", 1),
    Mutant("read the relative in every attempt", relative_read_in_an_earlier_attempt, "a copy of a fork", 2),
    Mutant("help a lagging relative", lagging_relative_not_helped, BESIDE_PARENT, 2, IN_COPY),
    Mutant("read the source again before it is damage", missing_source_packs_taken_for_damage, COPIED_FROM, 1),
    Mutant("copy what identifies a revision as it is", copied_under_another_commit_id, "a copy under way", 1),
    Mutant("read the head that was not replaced", refused_copies_taken_for_stored, "a copy that went on", 1),
    Mutant("read the head when an answer was lost", lost_answers_taken_for_stored, first_seed=26),
    Mutant("check the frames before a head names them", frames_copied_unchecked, first_seed=464),
    Mutant("copy onto a part of its own past alone", copied_onto_whatever_stands_there, "a copy that went on", 1),
    Mutant("read the source again before it is a conflict", conflicts_told_of_by_an_older_head, TWO_AND_WRITER, 1),
    Mutant("know a change by its write id", lost_answers_sent_again, first_seed=145),
    Mutant("publish a segment at its number", segments_published_at_any_number, "a usage log collected", 1),
    Mutant("publish a merged segment at its number", merges_published_at_any_number, "a usage log collected", 1),
    Mutant(
        "list segments before the index is rewritten",
        segments_listed_after_the_index_was_rewritten,
        "a usage log collected",
        2,
    ),
    Mutant(
        "rewrite the index before segments are deleted",
        superseded_segments_of_the_plan_deleted,
        "a usage log collected",
        1,
    ),
    Mutant("compare a run before it is replaced", runs_replaced_where_they_stood, "two compactions", 1),
    Mutant("unite the messages of copies", copies_saved_as_they_are, "savers", 1),
    Mutant("keep what was edited with authority", metadata_saved_as_they_are, "savers", 1),
    Mutant("judge a record by what is stored", records_expired_as_they_were_listed, "reapers", 1),
    Mutant("be fenced by a record of another host", records_of_others_taken_for_ours, "realtime hosts", 1),
    Mutant("record a frame before it is sent", sent_before_it_is_recorded, "realtime hosts", 1),
    Mutant("record a frame before it is handed out", handed_out_before_it_is_recorded, "realtime hosts", 1),
    Mutant("a server keeps conditions", conditions_ignored_by_the_server),
    Mutant("sync the directories", directories_not_synced),
)
