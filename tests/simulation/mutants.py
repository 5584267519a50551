"""The rules of commit, fork and collection, each taken away: what the exploration must find. For tests alone.

A mutant changes the real code for as long as it is installed; the shipped code has no switch for any of this.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from snapshots import fork as forks
from snapshots import publish as publishing
from snapshots import verdict
from snapshots.base import Base
from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.head import LIVE, RESERVED, Head
from snapshots.maintenance import collect as real
from snapshots.restore import HeadRead, head_at, read_live_head
from snapshots.testing import collector as collecting
from snapshots.verdict import Intent, Retry

# A fork of a fork whose source is deleted while both are in flight: three pre-emptions are spent on getting there.
IN_FLIGHT = "f*2 j d*2"
Install = Callable[[pytest.MonkeyPatch], None]


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


# Collections.


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


def real_packs_of_the_plan_deleted(patch: pytest.MonkeyPatch) -> None:
    """Delete what the plan found, without fencing anything."""

    def execute(plan: Any) -> Any:
        for one in plan.families:
            keys = [row.key for row in plan.environment.store.list(one.prefix)]
            named = real.plan_on(plan.environment)
            if one.prefix in {again.prefix for again in named.families}:
                plan.environment.store.delete_many(keys)
        return None

    patch.setattr("tests.simulation.protocol.execute", execute)


# Owners.


def older_owners_not_fenced(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(verdict, "_fenced", lambda intent, head: None)  # noqa: ARG005  the signature that it stands for


@dataclass(frozen=True)
class Mutant:
    """A rule taken away.

    Attributes:
        rule: What it takes away.
        install: Takes it away.
        world: Where the loss is to be found.
        preemptions: With how many.
        prefix: Where the search begins, "" for anywhere.
    """

    rule: str
    install: Install
    world: str
    preemptions: int
    prefix: str = ""


MUTANTS = (
    Mutant("reserve the child before the source is read", source_read_before_the_reservation, "writers", 1),
    Mutant("read the source in every attempt", source_read_in_an_earlier_attempt, "dropped revisions", 1),
    Mutant("help a lagging source", lagging_source_not_helped, "fork in flight", 1, IN_FLIGHT),
    Mutant("stop at a higher number", higher_numbers_ignored, "fork in flight", 1, IN_FLIGHT),
    Mutant("stage again at a new epoch", pack_not_staged_again, "writers", 1),
    Mutant("never use the name of a pack again", name_of_a_pack_used_again, "writers", 2),
    Mutant("keep the epoch of a reservation", take_over_forgets_the_epoch, "creators", 1),
    Mutant("build the head from the one just read", head_not_built_from_the_one_just_read, "writers", 1),
    Mutant("raise reservations too", reservations_not_raised, "writers", 1),
    Mutant("list the heads again", heads_not_listed_again, "writers", 1),
    Mutant("mark the bytes that were put", bytes_marked_are_not_those_put, "writers", 2),
    Mutant("list the packs first", packs_listed_after_the_heads, "writers", 1),
    Mutant("raise reservations too (real)", real_reservations_not_raised, "a real collection", 1),
    Mutant("list the heads again (real)", real_heads_not_listed_again, "a real collection", 2, "w g"),
    Mutant("mark the bytes that were put (real)", real_marks_of_the_first_reading_only, "a real collection", 2),
    Mutant("a plan is a hint (real)", real_packs_of_the_plan_deleted, "a real collection", 1),
    Mutant("fence older owners", older_owners_not_fenced, "owners", 1),
)
