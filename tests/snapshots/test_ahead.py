"""The tail of a head, uploaded ahead of the commit that names it: when, and what becomes of it if that may not be."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from random import Random

import pytest

from snapshots import PersistedSessionState
from snapshots.base import tracking_of
from snapshots.compaction import Limits
from snapshots.errors import RevisionConflictError
from snapshots.maintenance.verify import session_findings
from storage.errors import UnavailableError
from storage.executor import InlineExecutor
from storage.testing.faults import Crash, CrashAfter, CrashBefore, FailBefore, LoseAnswer
from tests.integration.builders import (
    SESSION,
    check_every_revision,
    message,
    message_ids,
    new_session,
    raw_head,
    rewrite_head,
)
from tests.snapshots.records import TAIL, with_limits
from tests.snapshots.test_commit import Place

FEW = Limits(packs=5, merged=2)
PUT_OF_A_PACK, PUT_OF_A_HEAD = ("put", "packs"), ("put", "heads")


@pytest.fixture
def place() -> Iterator[Place]:
    """Give a place whose repository does in its commits what another one would leave to its threads."""
    made = Place(TAIL)
    made.repo._environment = replace(made.repo.environment, executor=InlineExecutor())
    yield made
    made.repo.close()
    made.other.close()


def long_turn(state: PersistedSessionState, number: int) -> PersistedSessionState:
    """Take a turn of about 2 KiB as it is stored."""
    state.append_active_conversation_messages([message(f"a{number}", text=Random(number).randbytes(1500).hex())])
    return state


def until_ahead(place: Place) -> PersistedSessionState:
    """Return a state whose tail was uploaded ahead, the next turn taken."""
    state = new_session(SESSION, "a0")
    for number in range(1, 60):
        place.repo.commit(long_turn(state, number))
        if ahead_of(state):
            place.watched.start_over()
            return long_turn(state, 100)
    raise AssertionError("sixty turns fill a tail")


def ahead_of(state: PersistedSessionState) -> str:
    """Return the name of the pack that was uploaded ahead, "" for none."""
    base = tracking_of(state).base
    assert base is not None
    return "" if base.ahead is None else base.ahead.body.name


@pytest.mark.parametrize("limits", [TAIL, FEW], ids=["as ever", "few packs"])
def test_a_small_commit_is_one_request_before_it_is_acknowledged(place: Place, limits: Limits) -> None:
    for repo in (place.repo, place.other):
        with_limits(repo, limits)
    place.repo._environment = replace(place.repo.environment, executor=InlineExecutor())
    state = new_session(SESSION, "a0")
    place.repo.commit(state)
    alone, merging, ahead = 0, 0, 0
    for number in range(1, 80):
        result = place.repo.commit(long_turn(state, number))
        alone, merging = alone + (result.requests == 1), merging + (result.requests == 2)
        ahead += bool(ahead_of(state))
        assert message_ids(place.other.load(SESSION)) == message_ids(state)
    assert alone + merging == 79
    assert ahead > 1
    if limits is FEW:
        assert 0 < merging < 20, "to merge packs a commit uploads them itself"
        assert len(place.packs()) <= ahead + merging
    else:
        assert merging == 0
        assert len(place.packs()) == ahead
    check_every_revision(place.other)
    assert not session_findings(place.other.environment, SESSION)


def test_the_next_commit_names_what_was_uploaded_ahead(place: Place) -> None:
    state = until_ahead(place)
    name = ahead_of(state)
    tail = raw_head(place.store).tail
    assert place.packs() == [f"default/packs/{SESSION}/{name}"]
    assert place.repo.commit(state).requests == 1
    assert place.sent() == [PUT_OF_A_HEAD]
    assert not {one.name for one in raw_head(place.store).tail} & {one.name for one in tail}
    check_every_revision(place.other)
    for revision in range(1, 5):
        forked = place.other.fork(SESSION, f"c{revision}", revision=revision)
        assert forked.requests <= 5
        assert message_ids(place.other.load(f"c{revision}")) == message_ids(
            place.other.load(SESSION, revision=revision)
        )


def test_a_process_that_commits_once_uploads_nothing_ahead(place: Place) -> None:
    place.repo.commit(new_session(SESSION, "a0"))
    for number in range(1, 40):
        state = place.repo.load(SESSION)
        place.repo.commit(long_turn(state, number))
        assert not ahead_of(state)
    check_every_revision(place.other)


def test_a_raised_epoch_makes_what_was_uploaded_before_it_useless(place: Place) -> None:
    state = until_ahead(place)
    name = ahead_of(state)
    rewrite_head(place.store, lambda head: replace(head, epoch=9, write_id="cc" * 16))
    place.store.delete(f"default/packs/{SESSION}/{name}")  # as a collection may, from now on
    place.repo.commit(state)
    assert raw_head(place.store).epoch == 9
    assert place.sent() == [PUT_OF_A_HEAD, ("get", "heads"), PUT_OF_A_PACK, PUT_OF_A_HEAD]
    check_every_revision(place.other)


def test_what_fails_in_the_background_is_done_by_the_next_commit(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    state = new_session(SESSION, "a0")
    for number in range(1, 60):
        place.faulty.plan.on("put", "packs/", fault=FailBefore(), times=50)
        place.repo.commit(long_turn(state, number))
        if ahead_of(state):
            break
    place.watched.start_over()
    with pytest.raises(UnavailableError) as refused:
        place.repo.commit(long_turn(state, 100))
    assert refused.value.applied == "no"
    assert "could not be uploaded ahead" in caplog.text
    assert raw_head(place.store).revision == number
    place.faulty.plan.clear()
    place.sent()
    place.repo.commit(state)
    assert place.sent() == [PUT_OF_A_PACK, PUT_OF_A_HEAD]
    check_every_revision(place.other)


@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=["before", "after"])
def test_a_process_that_ends_in_the_background_loses_nothing(place: Place, crash: CrashBefore | CrashAfter) -> None:
    state = new_session(SESSION, "a0")
    acknowledged: list[int] = []
    place.faulty.plan.on("put", "packs/", fault=crash)
    with pytest.raises(Crash):
        acknowledged.extend(place.repo.commit(long_turn(state, number)).head_revision for number in range(1, 60))
    assert raw_head(place.store).revision == len(acknowledged) + 1
    again = place.other.load(SESSION)
    assert message_ids(again) == message_ids(state), "the last commit was acknowledged before"
    place.other.commit(long_turn(again, 100))
    check_every_revision(place.other)


def test_an_upload_whose_answer_is_lost_is_settled_in_the_background(place: Place) -> None:
    place.faulty.plan.on("put", "packs/", fault=LoseAnswer())
    state = until_ahead(place)
    assert place.repo.commit(state).requests == 1
    check_every_revision(place.other)


def test_of_two_that_stand_on_the_same_upload_one_wins(place: Place) -> None:
    state = until_ahead(place)
    copy = state.copy()
    place.repo.commit(state)
    with pytest.raises(RevisionConflictError):
        place.repo.commit(long_turn(copy, 101))
    check_every_revision(place.other)


def test_another_process_that_was_faster_is_not_overwritten(place: Place) -> None:
    state = until_ahead(place)
    place.other.commit(long_turn(place.other.load(SESSION), 102))
    with pytest.raises(RevisionConflictError):
        place.repo.commit(state)
    loaded = place.repo.load(SESSION)
    place.repo.commit(long_turn(loaded, 103))
    check_every_revision(place.other)


def test_with_threads_a_close_waits_for_what_is_on_its_way() -> None:
    made = Place(TAIL)
    state = until_ahead(made)
    made.repo.close()
    assert made.packs() == [f"default/packs/{SESSION}/{ahead_of(state)}"]
    check_every_revision(made.other)
    made.other.close()


def test_a_fork_of_an_old_revision_takes_along_no_more_moves_than_it_has_packs(place: Place) -> None:
    with_limits(place.repo, Limits(packs=4, merged=2, tail_bytes=4000))
    state = new_session(SESSION, "a0")
    place.repo.commit(state)
    for number in range(1, 120):
        place.repo.commit(long_turn(state, number))
    for revision in (1, 2, 30, 60):
        assert place.repo.fork(SESSION, f"c{revision}", revision).requests <= 5
        manifest = raw_head(place.store, f"c{revision}").manifest
        assert manifest is not None
        assert len(manifest.moved.moves()) <= 12, "of packs that it names, and of the tail"
        assert message_ids(place.other.load(f"c{revision}")) == message_ids(place.other.load(SESSION, revision))
