"""Staged packs: what a reservation names stays, and what nobody goes on with goes; one write each."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest

from snapshots import SnapshotRepository
from snapshots.environment import Environment
from snapshots.errors import LimitExceededError, UnsupportedSchemaError
from snapshots.head import HEAD_BYTES_MAX, RESERVED, STAGED_MAX, Head, StagedPacks
from snapshots.layout import pack_name
from snapshots.maintenance.collect import execute, plan_collect, plan_on
from snapshots.maintenance.findings import Finding, What
from snapshots.maintenance.repair import plan_repair
from snapshots.maintenance.verify import Level, verify
from snapshots.publish import Publication, intent_on
from snapshots.roots import named_keys
from snapshots.staged import admits, is_stale, staged_with
from snapshots.staging import Identity
from snapshots.testing.collector import collect as plain_collect
from storage.errors import PreconditionFailedError
from storage.keys import ID_BYTES_MAX
from storage.store import Create, Replace
from storage.testing.faults import LoseAnswer, Meanwhile
from tests.integration.builders import new_session, raw_head
from tests.snapshots.leftovers import LAYOUT, Place
from tests.snapshots.records import AT, reserved_head

COPY = "copy"
NAMES = tuple(pack_name(f"{number:032x}", "ab" * 8) for number in range(3))
Collect = Callable[[Environment], object]


def real_collect(environment: Environment) -> object:
    return execute(plan_on(environment))


EACH_COLLECTOR = pytest.mark.parametrize("collect", [real_collect, plain_collect], ids=["real", "plain"])


def listed(head: Head, *names: str) -> Head:
    return staged_with(head, dict.fromkeys(names, head.epoch), family=COPY, write_id="e" * 32, at=AT)


# The list.


def test_a_pack_enters_at_the_epoch_of_its_upload_and_stays_at_any() -> None:
    head = listed(reserved_head(epoch=3), NAMES[0])
    assert head.staged == StagedPacks(COPY, 3, NAMES[:1])
    assert head.state_id == head.write_id == "e" * 32
    raised = replace(head, epoch=4)
    assert admits(raised, NAMES[0], 3)
    assert not admits(raised, NAMES[1], 3)
    assert admits(raised, NAMES[1], 4)
    both = staged_with(raised, {NAMES[0]: 3, NAMES[1]: 4}, family=COPY, write_id="f" * 32, at=AT)
    assert both.staged == StagedPacks(COPY, 4, NAMES[:2])  # refreshed, all of it
    with pytest.raises(AssertionError):
        staged_with(raised, {NAMES[1]: 3}, family=COPY, write_id="f" * 32, at=AT)


def test_a_list_is_stale_once_the_head_was_raised_behind_it() -> None:
    head = listed(reserved_head(epoch=3), *NAMES)
    assert not is_stale(head)
    assert is_stale(replace(head, epoch=4))
    assert not is_stale(listed(replace(head, epoch=4), NAMES[0]))
    assert not is_stale(reserved_head(epoch=3))


def test_the_longest_list_fits_into_any_head() -> None:
    longest = "x" * ID_BYTES_MAX
    head = reserved_head(epoch=(1 << 64) - 1, fence=(1 << 64) - 1, session_id=longest, tenant=longest)
    names = [pack_name(f"{number:032x}", "ab" * 8) for number in range(STAGED_MAX + 1)]
    full = staged_with(head, dict.fromkeys(names[:-1], head.epoch), family=longest, write_id="e" * 32, at=AT)
    assert len(full.encode()) < HEAD_BYTES_MAX - 8192
    assert Head.decode(full.encode(), key="k") == full
    with pytest.raises(LimitExceededError, match="staged"):
        staged_with(full, {names[-1]: head.epoch}, family=longest, write_id="f" * 32, at=AT).encode()


def test_a_head_of_version_1_has_no_list_and_says_what_to_do() -> None:
    head = reserved_head(schema_version=1)
    assert Head.decode(head.encode(), key="k") == head
    with pytest.raises(UnsupportedSchemaError, match="run snapshots upgrade") as caught:
        listed(head, NAMES[0]).encode()
    assert (caught.value.found, caught.value.supported) == (1, (2,))


# In a store.


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    real_collect(made.repo.environment)
    yield made
    made.repo.close()


def reserve(place: Place, session_id: str = COPY) -> Head:
    environment = place.repo.environment
    identity = Identity(environment.clock.new_id(), environment.clock.now(), None)
    return Publication(environment, intent_on(environment, session_id, None, identity), identity).reserve().head


def write(place: Place, change: Callable[[Head], Head]) -> Head:
    """Replace the reservation, by compare-and-swap."""
    key = LAYOUT.head(COPY)
    found = place.store.get(key)
    head = change(Head.decode(found.data, key=key))
    place.store.put(key, head.encode(), Replace(found.version))
    return head


def register(place: Place, *names: str) -> Head:
    """Upload packs, and name them in the reservation."""
    for name in names:
        place.store.put(LAYOUT.pack(COPY, name), b"a pack", Create())
    write_id = place.repo.environment.clock.new_id()
    return write(place, lambda head: replace(listed(head, *names), write_id=write_id))


def copied(place: Place) -> list[str]:
    return [key for key in place.packs() if LAYOUT.family_of_pack(key) == LAYOUT.family(COPY)]


def test_a_reservation_names_what_is_staged_for_it(place: Place) -> None:
    assert named_keys(place.repo.environment, reserve(place)) == frozenset()
    head = register(place, *NAMES)
    assert named_keys(place.repo.environment, head) == {LAYOUT.pack(COPY, name) for name in NAMES}


@EACH_COLLECTOR
def test_what_is_staged_stays_unless_nobody_refreshed_it_between_two_collections(
    place: Place, collect: Collect
) -> None:
    reserve(place)
    first = register(place, NAMES[0])
    collect(place.repo.environment)
    raised = raw_head(place.store, COPY)
    assert raised.epoch > first.epoch
    assert (raised.staged, raised.state_id) == (first.staged, first.state_id)
    register(place, NAMES[1])
    collect(place.repo.environment)
    assert len(copied(place)) == 2
    left = raw_head(place.store, COPY)
    assert left.staged is not None
    collect(place.repo.environment)
    ended = raw_head(place.store, COPY)
    assert ended.status == RESERVED
    assert ended.staged is None
    assert ended.state_id == ended.write_id != left.state_id
    assert copied(place) == []


@EACH_COLLECTOR
def test_a_list_refreshed_while_it_is_being_ended_stays(place: Place, collect: Collect) -> None:
    reserve(place)
    register(place, NAMES[0])
    collect(place.repo.environment)
    assert is_stale(raw_head(place.store, COPY))
    place.faulty.plan.on("put", LAYOUT.head(COPY), fault=Meanwhile(lambda: register(place, NAMES[1])))
    collect(place.repo.environment)
    head = raw_head(place.store, COPY)
    assert head.staged is not None
    assert head.staged.names == NAMES[:2]
    assert len(copied(place)) == 2


@EACH_COLLECTOR
def test_a_list_whose_end_was_not_answered_is_ended_once(place: Place, collect: Collect) -> None:
    reserve(place)
    register(place, NAMES[0])
    collect(place.repo.environment)
    place.faulty.plan.on("put", LAYOUT.head(COPY), fault=LoseAnswer())
    collect(place.repo.environment)
    assert raw_head(place.store, COPY).staged is None
    assert copied(place) == []


def test_a_plan_counts_what_is_staged_apart_and_what_ends_next_as_garbage(place: Place) -> None:
    reserve(place)
    register(place, *NAMES)
    plan = plan_collect(place.repo)
    (one,) = plan.families
    assert (one.family, one.packs, one.staged, one.staged_bytes, one.listed) == (COPY, 0, 3, 18, 3)
    assert "3 staged packs" in str(plan)
    assert (execute(plan).deleted, len(copied(place))) == (0, 3)
    plan = plan_collect(place.repo)
    (one,) = plan.families
    assert (one.packs, one.bytes, one.staged) == (3, 18, 0)
    report = execute(plan)
    assert report.deleted == 3
    assert plan_collect(place.repo).is_empty


def test_whoever_takes_a_reservation_over_begins_with_an_empty_list(place: Place) -> None:
    reserve(place)
    register(place, *NAMES)
    collect_number = raw_head(place.store, COPY).epoch
    taken = reserve(place)
    assert (taken.staged, taken.epoch) == (None, collect_number)
    assert raw_head(place.store, COPY) == taken


@pytest.mark.parametrize("how", ["commit", "fork"])
def test_a_session_that_is_published_in_its_place_does_not_keep_the_list(place: Place, how: str) -> None:
    def taken_over() -> None:
        register(place, *NAMES)

    repo: SnapshotRepository = place.repo
    place.faulty.plan.on(
        "put", LAYOUT.head(COPY), nth=2, fault=Meanwhile(taken_over)
    )  # between reserving and publishing
    if how == "commit":
        repo.commit(new_session(COPY))
    else:
        repo.fork("s1", COPY)
    assert raw_head(place.store, COPY).staged is None
    place.check_sessions()
    real_collect(repo.environment)
    assert not {LAYOUT.pack(COPY, name) for name in NAMES} & set(place.packs())
    assert repo.load(COPY).head_revision == 1


def test_a_copier_that_was_too_late_is_refused(place: Place) -> None:
    reserve(place)
    before = place.store.get(LAYOUT.head(COPY)).version
    real_collect(place.repo.environment)
    register(place, NAMES[0])
    real_collect(place.repo.environment)
    with pytest.raises(PreconditionFailedError):
        place.store.put(LAYOUT.head(COPY), listed(raw_head(place.store, COPY), NAMES[0]).encode(), Replace(before))


@pytest.mark.parametrize("level", ["presence", "full"])
def test_a_staged_pack_that_is_missing_is_damage_for_no_collection_deletes_it(place: Place, level: Level) -> None:
    def found() -> list[tuple[str, What]]:
        return [(one.key, one.what) for one in verify(place.repo, level=level) if isinstance(one, Finding)]

    reserve(place)
    register(place, *NAMES)
    assert found() == []
    missing = LAYOUT.pack(COPY, NAMES[1])
    place.store.delete(missing)
    assert found() == [(missing, What.MISSING)]
    place.faulty.plan.on("stat", missing, fault=Meanwhile(lambda: real_collect(place.repo.environment)))
    assert found() == [(missing, What.MISSING)]  # the list is still there
    place.faulty.plan.on("stat", missing, fault=Meanwhile(lambda: real_collect(place.repo.environment)))
    assert found() == []  # it ended meanwhile
    assert plan_repair(place.repo).remaining == ()


def test_a_staged_pack_that_is_missing_cannot_be_repaired(place: Place) -> None:
    reserve(place)
    register(place, *NAMES)
    place.store.delete(LAYOUT.pack(COPY, NAMES[1]))
    plan = plan_repair(place.repo)
    assert not plan.writes
    assert [one.finding.key for one in plan.remaining] == [LAYOUT.pack(COPY, NAMES[1])]
