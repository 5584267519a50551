"""Listings: sessions, revisions, sizes."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from random import Random

import pytest

from snapshots import SnapshotRepository, TokenUsage, TurnStamp
from snapshots.errors import SessionNotFoundError
from snapshots.layout import Layout
from snapshots.sessions import PAGE
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.testing.clock import START, ManualClock
from storage.testing.faults import Crash, CrashBefore, CutList, FaultyStore
from tests.integration.builders import add_usage, new_session, take_turn
from tests.snapshots.records import TAIL, with_limits


class Place:
    """A store, and a repository that can fail."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        self.faulty = FaultyStore(self.store)
        self.clock = ManualClock()
        self.repo = with_limits(SnapshotRepository(self.faulty, clock=self.clock), TAIL)


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.repo.close()


def test_an_empty_tenant_has_nothing(place: Place) -> None:
    assert list(place.repo.sessions()) == []
    stats = place.repo.stats()
    assert (dict(stats.sessions), stats.heads_bytes, stats.packs, stats.packs_bytes) == (
        {"live": 0, "reserved": 0},
        0,
        0,
        0,
    )


def test_every_session_is_listed_once_whatever_its_status(place: Place) -> None:
    place.repo.commit(new_session("live", "a0"))
    place.repo.commit(new_session("dead", "a0"))
    place.repo.delete("dead")
    place.faulty.plan.on("put", "/packs/", fault=CrashBefore())
    with pytest.raises(Crash):
        place.repo.commit(new_session("begun", "a0"), execution_state=Random(0).randbytes(20_000))
    place.faulty.restart()
    infos = {info.session_id: info for info in place.repo.sessions()}
    assert {name: (info.status, info.revision) for name, info in infos.items()} == {
        "live": ("live", 1),
        "dead": ("tombstone", 1),
        "begun": ("reserved", 0),
    }
    for name, info in infos.items():
        assert info.head_bytes == place.store.stat(Layout("default").head(name)).size_bytes
        assert info.created_at >= START
    with pytest.raises(SessionNotFoundError):
        place.repo.history("begun")


def test_more_sessions_than_a_page_are_listed_in_the_order_of_their_keys(place: Place) -> None:
    names = {f"s{number}" for number in range(PAGE + 9)}
    for name in names:
        place.repo.commit(new_session(name))
    listed = [info.session_id for info in place.repo.sessions()]
    assert set(listed) == names
    keys = [Layout("default").head(name) for name in listed]
    assert keys == sorted(keys)
    assert place.repo.stats().sessions["live"] == len(names)


def test_a_listing_can_be_left_in_the_middle(place: Place) -> None:
    for number in range(3):
        place.repo.commit(new_session(f"s{number}"))
    assert next(place.repo.sessions()).revision == 1
    assert len(list(place.repo.sessions())) == 3


def test_a_cut_listing_is_no_short_listing(place: Place) -> None:
    for number in range(3):
        place.repo.commit(new_session(f"s{number}"))
    place.faulty.plan.on("list", "/heads/", fault=CutList(2))
    with pytest.raises(UnavailableError):
        list(place.repo.sessions())
    place.faulty.plan.clear()
    place.faulty.plan.on("list", "/packs/", fault=CutList(1))
    with pytest.raises(UnavailableError):
        place.repo.stats()


def test_sizes_are_those_in_the_store(place: Place) -> None:
    state = new_session("s1")
    for number in range(3):
        place.repo.commit(take_turn(state, f"a{number}"), execution_state=Random(number).randbytes(20_000))
    place.repo.commit(take_turn(state, "small"))
    stats = place.repo.stats()
    packs = list(place.store.list("default/packs/"))
    assert (stats.packs, stats.packs_bytes) == (3, sum(row.size_bytes for row in packs))
    assert stats.heads_bytes == sum(row.size_bytes for row in place.store.list("default/heads/"))


def test_the_history_says_what_each_commit_did(place: Place) -> None:
    state = new_session("s1", "a0")
    results = [place.repo.commit(state)]
    place.clock.advance(60)
    take_turn(state, "a1", tokens=7)
    add_usage(state, "b", TokenUsage(output_tokens=3, cached_input_tokens=2))
    results.append(place.repo.commit(state, TurnStamp("t1")))
    results.append(place.repo.commit(state))
    rows = place.repo.history("s1")
    assert [row.commit_id for row in rows] == [result.commit_id for result in results]
    assert [(row.revision, row.parent, row.kind, row.turn, row.retained) for row in rows] == [
        (1, 0, "commit", False, True),
        (2, 1, "commit", True, True),
        (3, 2, "commit", False, True),
    ]
    assert [row.node_count for row in rows] == [1, 2, 2]
    assert rows[1].usage == TokenUsage(input_tokens=7, output_tokens=3, cached_input_tokens=9)
    assert rows[2].usage == TokenUsage()
    assert rows[1].created_at - rows[0].created_at >= timedelta(seconds=60)
