"""Pins: names for revisions, usable wherever a revision is, kept by retention, bounded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from random import Random

import pytest

from snapshots import SnapshotRepository
from snapshots.compaction import LIMITS
from snapshots.errors import (
    InvalidStateError,
    LimitExceededError,
    RevisionNotFoundError,
    SessionDeletedError,
    SessionNotFoundError,
)
from snapshots.layout import Layout
from snapshots.pins import PINS_MAX, Pin, is_pin_name
from snapshots.roots import named_packs
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, FaultyStore, LoseAnswer, Meanwhile
from storage.testing.plan import Fault
from tests.integration.builders import PUT_FAULTS, SESSION, message_ids, new_session, raw_head, rewrite_head, take_turn

LAST = 12
KEY = Layout("default").head(SESSION)


class Place:
    def __init__(self) -> None:
        self.clock = ManualClock(seed=1)
        self.store = MemoryStore(self.clock)
        self.faulty = FaultyStore(self.store)
        self.repo = SnapshotRepository(self.faulty, clock=self.clock, inline_limit_bytes=0)
        self.state = new_session(SESSION)
        for number in range(1, LAST + 1):
            self.repo.commit(take_turn(self.state, f"a{number}"), execution_state=bytes([number]) * 200_000)

    def soon(self, seconds: float = 60) -> datetime:
        return self.clock.now() + timedelta(seconds=seconds)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def test_a_pin_stands_for_its_revision(place: Place) -> None:
    assert place.repo.pin(SESSION, 3, "good") == Pin("good", 3)
    assert place.repo.pins(SESSION) == (Pin("good", 3),)
    assert message_ids(place.repo.load(SESSION, "good")) == ["a1", "a2", "a3"]
    place.repo.commit(take_turn(place.state, "a7"))
    assert place.repo.load(SESSION, "good").head_revision == 3
    assert place.repo.history(SESSION)[2].pins == ("good",)
    place.repo.pin(SESSION, "good", "as-good")
    assert [pin.revision for pin in place.repo.pins(SESSION)] == [3, 3]


def test_a_pin_is_no_revision_and_keeps_what_the_head_names(place: Place) -> None:
    before = raw_head(place.store)
    place.repo.pin(SESSION, 3, "good")
    after = raw_head(place.store)
    assert (after.revision, after.state_id) == (before.revision, before.state_id)
    assert after.write_id != before.write_id
    place.repo.commit(take_turn(place.state, "a7"))  # on the head from before the pin
    assert place.repo.pins(SESSION) == (Pin("good", 3),)


def test_pinning_again_changes_nothing_or_the_expiry(place: Place) -> None:
    place.repo.pin(SESSION, 3, "good")
    written = raw_head(place.store).write_id
    place.repo.pin(SESSION, 3, "good")
    assert raw_head(place.store).write_id == written
    later = place.soon()
    place.repo.pin(SESSION, 3, "good", expires_at=later)
    assert place.repo.pins(SESSION) == (Pin("good", 3, later),)


def test_a_name_in_use_is_not_moved(place: Place) -> None:
    place.repo.pin(SESSION, 3, "good")
    with pytest.raises(InvalidStateError, match="unpin it first"):
        place.repo.pin(SESSION, 4, "good")
    place.repo.unpin(SESSION, "good")
    assert place.repo.pins(SESSION) == ()
    place.repo.pin(SESSION, 4, "good")
    assert place.repo.load(SESSION, "good").head_revision == 4


def test_an_expired_pin_names_nothing_but_still_keeps_its_packs(place: Place) -> None:
    last = LAST + 2 * LIMITS.packs  # by then rows that lay in the packs of the first ones were written again
    for number in range(LAST + 1, last + 1):
        place.repo.commit(take_turn(place.state, f"a{number}"), execution_state=Random(number).randbytes(20_000))
    place.repo.pin(SESSION, 2, "brief", expires_at=place.soon())
    packs = named_packs(place.repo.environment, raw_head(place.store))
    rewrite_head(place.store, lambda head: replace(head, floor=last, write_id="f" * 32))
    kept = named_packs(place.repo.environment, raw_head(place.store))
    assert kept < packs
    assert place.repo.load(SESSION, "brief").head_revision == 2
    place.clock.advance(60)
    with pytest.raises(RevisionNotFoundError, match="brief"):
        place.repo.load(SESSION, "brief")
    assert place.repo.load(SESSION, 2).head_revision == 2  # until a prune removes the pin
    assert named_packs(place.repo.environment, raw_head(place.store)) == kept
    place.repo.pin(SESSION, last, "brief")  # the name is free again
    assert place.repo.load(SESSION, "brief").head_revision == last
    with pytest.raises(RevisionNotFoundError):
        place.repo.load(SESSION, 2)


@pytest.mark.parametrize("name", ["a", "v1.0", "1a", "-x", "a" * 64, "before_the_refactoring", ".hidden", "9_9x"])
def test_names(place: Place, name: str) -> None:
    place.repo.pin(SESSION, 1, name)
    assert place.repo.load(SESSION, name).head_revision == 1


@pytest.mark.parametrize(
    "name", ["", "1", "0042", "1.5", "-1", "._-", "A", "Good", "a b", "ä", "a@b", "a/b", "a" * 65, "a\n", "٣"]
)
def test_what_is_no_name(place: Place, name: str) -> None:
    written = raw_head(place.store).write_id
    with pytest.raises(InvalidStateError):
        place.repo.pin(SESSION, 1, name)
    with pytest.raises(InvalidStateError):
        place.repo.unpin(SESSION, name)
    assert raw_head(place.store).write_id == written
    assert not is_pin_name(name)


def test_the_65th_pin_is_refused(place: Place) -> None:
    for number in range(PINS_MAX):
        place.repo.pin(SESSION, number % LAST + 1, f"p{number}")
    written = raw_head(place.store).write_id
    with pytest.raises(LimitExceededError) as caught:
        place.repo.pin(SESSION, 1, "one-more")
    assert caught.value.value == PINS_MAX + 1
    assert raw_head(place.store).write_id == written
    place.repo.unpin(SESSION, "p7")
    place.repo.pin(SESSION, 1, "one-more")


@pytest.mark.parametrize("revision", [0, -1, LAST + 1, "nope"])
def test_what_is_not_there_is_not_pinned(place: Place, revision: int | str) -> None:
    written = raw_head(place.store).write_id
    with pytest.raises(RevisionNotFoundError):
        place.repo.pin(SESSION, revision, "x")
    assert raw_head(place.store).write_id == written


def test_what_retention_dropped_is_not_pinned(place: Place) -> None:
    rewrite_head(place.store, lambda head: replace(head, floor=4, write_id="f" * 32))
    with pytest.raises(RevisionNotFoundError):
        place.repo.pin(SESSION, 3, "x")
    place.repo.pin(SESSION, 4, "x")


def test_a_past_expiry_and_one_without_a_zone_are_refused(place: Place) -> None:
    with pytest.raises(InvalidStateError, match="past"):
        place.repo.pin(SESSION, 1, "x", expires_at=place.clock.now())
    with pytest.raises(InvalidStateError, match="zone"):
        place.repo.pin(SESSION, 1, "x", expires_at=datetime(2100, 1, 1))
    assert place.repo.pins(SESSION) == ()
    assert place.repo.pin(SESSION, 1, "x", expires_at=datetime(2100, 1, 1, tzinfo=UTC)).expires_at is not None


def test_sessions_that_cannot_be_pinned(place: Place) -> None:
    with pytest.raises(SessionNotFoundError):
        place.repo.pin("nobody", 1, "x")
    with pytest.raises(RevisionNotFoundError):
        place.repo.unpin(SESSION, "x")
    place.repo.pin(SESSION, 1, "x")
    place.repo.delete(SESSION)
    for ask in (
        lambda: place.repo.pin(SESSION, 1, "y"),
        lambda: place.repo.unpin(SESSION, "x"),
        lambda: place.repo.pins(SESSION),
    ):
        with pytest.raises(SessionDeletedError):
            ask()
    assert raw_head(place.store).pins == ()


def test_unpinning_the_last_name_of_a_pruned_revision_changes_what_the_head_names(place: Place) -> None:
    place.repo.pin(SESSION, 2, "one")
    place.repo.pin(SESSION, 2, "two")
    rewrite_head(place.store, lambda head: replace(head, floor=LAST, write_id="f" * 32))
    before = raw_head(place.store).state_id
    place.repo.unpin(SESSION, "one")
    assert raw_head(place.store).state_id == before
    place.repo.unpin(SESSION, "two")
    assert raw_head(place.store).state_id != before


def test_a_name_given_anew_meanwhile_is_not_taken_away(place: Place) -> None:
    other = SnapshotRepository(place.store, clock=ManualClock(seed=2), inline_limit_bytes=0)
    place.repo.pin(SESSION, 1, "good")
    place.faulty.plan.on("put", KEY, fault=LoseAnswer())
    place.faulty.plan.on("get", KEY, nth=2, fault=Meanwhile(lambda: other.pin(SESSION, 5, "good")))
    place.repo.unpin(SESSION, "good")
    assert place.repo.pins(SESSION) == (Pin("good", 5),)
    other.close()


@pytest.mark.parametrize("name", PUT_FAULTS)
def test_a_pin_is_written_once_whatever_happens_to_its_put(place: Place, name: str) -> None:
    place.faulty.plan.on("put", KEY, fault=PUT_FAULTS[name])
    place.repo.pin(SESSION, 3, "good")
    place.faulty.release()
    assert place.repo.pins(SESSION) == (Pin("good", 3),)
    place.faulty.plan.on("put", KEY, fault=PUT_FAULTS[name])
    place.repo.unpin(SESSION, "good")
    place.faulty.release()
    assert place.repo.pins(SESSION) == ()


@pytest.mark.parametrize(("fault", "applied"), [(FailBefore("no"), "no"), (FailBefore("unknown"), "unknown")])
def test_a_pin_that_was_not_confirmed_says_so(place: Place, fault: Fault, applied: str) -> None:
    place.faulty.plan.on("put", KEY, times=99, fault=fault)
    with pytest.raises(UnavailableError) as caught:
        place.repo.pin(SESSION, 3, "good")
    assert caught.value.applied == applied
