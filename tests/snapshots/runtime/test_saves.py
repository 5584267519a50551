"""Saving from stale copies: nothing lost, nothing undone, whatever fails and whoever else saves meanwhile."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial

import pytest

from snapshots import SnapshotRepository
from snapshots.environment import Environment
from snapshots.errors import (
    CorruptSnapshotError,
    FencedError,
    InvalidInputError,
    InvalidStateError,
    LimitExceededError,
    SessionDeletedError,
    SessionNotFoundError,
)
from snapshots.layout import Layout
from snapshots.maintenance import collect, prune
from snapshots.maintenance.retention import Retention
from snapshots.runtime import (
    RuntimeMetadata,
    RuntimeSession,
    RuntimeSessionPersistence,
    RuntimeSessionStore,
    SaveResult,
)
from snapshots.runtime.merge import VERSION_SAVED_MAX
from snapshots.satellite import RING_MAX
from snapshots.testing.simulation.weather import of_newer_version
from snapshots.usage import UsageLog
from storage.errors import Applied, UnavailableError
from storage.executor import InlineExecutor
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import (
    Altered,
    Crash,
    CrashAfter,
    CrashBefore,
    Delay,
    FailBefore,
    Fault,
    FlipBit,
    Meanwhile,
)
from tests.faults import WRITE_FAULTS
from tests.integration.builders import message, message_ids, new_session, take_turn
from tests.snapshots.runtime.bench import SESSION, Bench, opened, said, session, texts_of
from tests.snapshots.state.builders import call

FAULTS: tuple[Fault, ...] = (*WRITE_FAULTS, Delay(after_requests=3))
EVERY = pytest.mark.parametrize("fault", FAULTS, ids=str)
PUTS = {True: 3, False: 4}  # of a save that appends and changes metadata: pack, head, register; before, the reservation
REQUESTS = {True: 5, False: 8}  # of that save, reads included


@pytest.fixture
def bench() -> Iterator[Bench]:
    with opened() as bench:
        yield bench


def saved_before(bench: Bench, exists: bool) -> RuntimeSession:
    """Return a copy that has something to save, on a session that exists or not."""
    mine = session("m1", title="first")
    if exists:
        bench.mine.save_runtime_session(mine)
        bench.faulty.log.clear()
    mine.messages += [said("m2"), said("m3")]
    mine.metadata["step"] = 2
    return mine


def titled(title: str) -> Callable[[RuntimeMetadata], RuntimeMetadata]:
    return lambda metadata: metadata.changed(title=title)


# What is stored and what the argument becomes.


def test_a_session_is_read_back_exactly(bench: Bench) -> None:
    mine = RuntimeSession.model_validate(
        {
            "session_id": SESSION,
            "title": "Trip",
            "title_version": 1,
            "pinned": True,
            "metadata_version": 3,
            "metadata": {"gold_config": {"a": 1.0}, "agent_runtime_state": {"bypass_permissions": False}},
            "messages": [said("m1", at=1.5), message("m2").model_dump(mode="json")],
            "updated_at": "2026-01-01T00:00:00.123456789+02:00",
            "spawn_depth": 0,
            "copy": None,
        }
    )
    given = mine.checked()
    result = bench.mine.save_runtime_session(mine)
    assert mine == given
    assert bench.stored() == given
    assert (result.revision, result.metadata_version) == (1, 3)
    assert (result.appended, result.kept_messages) == (("m1", "m2"), ())


@pytest.mark.parametrize("name", ["further", "__dict__", "__class__", "__pydantic_extra__", "_id", "__x", "self", ""])
def test_fields_of_any_name_survive_saves_and_loads(bench: Bench, name: str) -> None:
    mine = RuntimeSession.model_validate({"session_id": SESSION, "messages": [said("m1")], name: 5, "_rev": "7"})
    for number in range(2, 4):
        bench.mine.save_runtime_session(mine)
        assert mine.further == bench.stored().further == {name: 5, "_rev": "7"}
        mine.messages.append(said(f"m{number}"))
    loaded = bench.theirs.load_runtime_session(SESSION)
    loaded.messages.append(said("theirs"))
    bench.theirs.save_runtime_session(loaded)
    bench.theirs.save_runtime_session(loaded)
    assert bench.stored() == loaded
    assert bench.stored().further == {name: 5, "_rev": "7"}


def test_a_session_without_messages_exists_as_well(bench: Bench) -> None:
    bench.mine.save_runtime_session(session(title="empty"))
    assert bench.stored() == session(title="empty")
    assert [info.session_id for info in bench.their_repo.sessions()] == [SESSION]


def test_messages_without_ids_get_one_and_are_saved_once(bench: Bench) -> None:
    mine, kept = session(), session()
    for copy in (mine, kept):
        copy.messages += [{"role": "user", "content": "ok"}, {"role": "assistant", "content": "ok"}]
    bench.mine.save_runtime_session(mine)
    assert all(len(one["id"]) == 33 for one in mine.messages)
    kept.messages.append({"role": "user", "content": "more"})  # by a runtime that keeps its own list
    assert len(bench.mine.save_runtime_session(kept).appended) == 1
    assert kept.messages[:2] == mine.messages
    assert len(bench.stored().messages) == 3


def test_a_stale_save_loses_no_message(bench: Bench) -> None:
    mine, theirs = session("m1"), session("m1")
    theirs.messages += [said("t1"), said("t2")]
    bench.theirs.save_runtime_session(theirs)
    mine.messages.append(said("x1"))
    result = bench.mine.save_runtime_session(mine)
    assert texts_of(mine) == ["m1", "t1", "t2", "x1"]
    assert bench.stored() == mine
    assert result.appended == ("x1",)


def test_a_shorter_copy_shrinks_nothing(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1", "m2", "m3"))
    mine = session("m1")
    bench.mine.save_runtime_session(mine)
    assert texts_of(mine) == ["m1", "m2", "m3"]
    assert bench.their_repo.history(SESSION)[-1].revision == 1


def test_an_edited_message_stays_as_stored_and_is_handed_back(bench: Bench) -> None:
    bench.mine.save_runtime_session(session("m1", "m2"))
    mine = session("m1", "m2", "m3")
    mine.messages[0]["content"] = "edited"
    result = bench.mine.save_runtime_session(mine)
    assert result.kept_messages == ({**said("m1"), "content": "edited"},)
    assert result.appended == ("m3",)
    assert mine == bench.stored() == session("m1", "m2", "m3")


def test_a_failed_save_leaves_the_argument_as_it_was(bench: Bench) -> None:
    mine = session("m1")
    mine.messages.append({"role": "user"})
    given = mine.checked()
    bench.faulty.plan.on("put", "metadata", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        bench.mine.save_runtime_session(mine)
    assert mine == given


# Authoritative values.


def test_equal_versions_keep_the_stored_title(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1", title="stored", pinned=True))
    mine = session("m1", title="mine")
    bench.mine.save_runtime_session(mine)
    assert (mine.title, mine.pinned) == ("stored", True)
    assert bench.stored() == mine


def test_a_greater_version_in_memory_wins_and_is_stored(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1", title="stored"))
    mine = session("m1", title="mine", title_version=1, metadata_version=1)
    bench.mine.save_runtime_session(mine)
    assert bench.stored().title == "mine"


def test_a_title_edit_is_never_undone_by_a_stale_save(bench: Bench) -> None:
    mine = session("m1", title="old")
    bench.mine.save_runtime_session(mine)
    bench.theirs.update_metadata(SESSION, titled("new"))
    mine.metadata["step"] = 1
    bench.mine.save_runtime_session(mine)
    assert (mine.title, mine.title_version, mine.metadata_version, mine.metadata) == ("new", 1, 1, {"step": 1})
    assert bench.stored() == mine


@pytest.mark.parametrize("exists", [True, False])
def test_a_title_edit_during_saves_survives(exists: bool) -> None:
    for number in range(1, REQUESTS[exists] + 1):
        with opened() as bench:
            mine = saved_before(bench, exists)
            edited: list[int] = []

            def edit(bench: Bench = bench, edited: list[int] = edited) -> None:
                try:
                    bench.theirs.update_metadata(SESSION, titled("edited"))
                except SessionNotFoundError:  # not created yet
                    return
                edited.append(1)

            bench.faulty.plan.on("*", nth=number, fault=Meanwhile(edit))
            bench.mine.save_runtime_session(mine)
            assert bench.stored().title == ("edited" if edited else "first")
            assert texts_of(bench.stored()) == ["m1", "m2", "m3"]
            assert bench.stored().metadata == {"step": 2}
            assert edited or not exists


@pytest.mark.parametrize("exists", [True, False])
def test_another_save_during_a_save_loses_nothing(exists: bool) -> None:
    for number in range(1, REQUESTS[exists] + 1):
        with opened() as bench:
            mine = saved_before(bench, exists)
            theirs = session("m1", "t1", title="first", metadata={"step": 1})
            save = partial(bench.theirs.save_runtime_session, theirs)
            bench.faulty.plan.on("*", nth=number, fault=Meanwhile(save))
            bench.mine.save_runtime_session(mine)
            stored = bench.stored()
            assert sorted(texts_of(stored)) == ["m1", "m2", "m3", "t1"]
            assert mine.messages == stored.messages[: len(mine.messages)]  # theirs may have come after mine
            assert mine.authoritative() == stored.authoritative()
            assert stored.metadata == {"step": 2}


def test_a_race_for_the_head_leaves_no_doubt_about_the_metadata(bench: Bench) -> None:
    mine = saved_before(bench, True)

    def race() -> None:
        bench.theirs.save_runtime_session(session("m1", "t1"))
        for at in range(RING_MAX + 1):  # more than the register remembers
            bench.theirs.update_metadata(SESSION, titled(f"title {at}"))

    bench.faulty.plan.on("put", "heads", fault=Meanwhile(race))
    bench.mine.save_runtime_session(mine)
    assert texts_of(bench.stored()) == ["m1", "t1", "m2", "m3"]
    assert (bench.stored().title, bench.stored().metadata) == (f"title {RING_MAX}", {"step": 2})


# Permissions.


def bypass(session_id: str = SESSION, *texts: str) -> RuntimeSession:
    state = {"agent_runtime_state": {"bypass_permissions": True}}
    return session(*texts, session_id=session_id, metadata=state)


def test_no_save_gives_itself_a_permission_where_nothing_is_stored_either(bench: Bench) -> None:
    bench.their_repo.commit(new_session(SESSION, "a0"))
    mine = bypass(SESSION, "m1")
    for _ in range(2):
        bench.mine.save_runtime_session(mine)
        assert mine.metadata == bench.stored().metadata == {"agent_runtime_state": {}}
        mine.metadata["agent_runtime_state"]["bypass_permissions"] = True
    bench.theirs.update_metadata(SESSION, lambda one: one.changed(metadata=bypass().metadata))
    bench.mine.save_runtime_session(session("m1"))
    assert bench.stored().metadata == bypass().metadata


def test_the_save_that_creates_a_session_brings_its_first_permission(bench: Bench) -> None:
    bench.mine.save_runtime_session(bypass(SESSION, "m1"))
    bench.mine.save_runtime_session(session("m1", "m2"))
    assert bench.stored().metadata == bypass().metadata


@pytest.mark.parametrize("theirs", [session("t1"), bypass(SESSION, "t1")], ids=["without", "with"])
def test_of_two_who_create_a_session_one_brings_the_first_permission(bench: Bench, theirs: RuntimeSession) -> None:
    given = theirs.metadata
    bench.faulty.plan.on("put", "heads", fault=Meanwhile(lambda: bench.theirs.save_runtime_session(theirs.checked())))
    bench.mine.save_runtime_session(bypass(SESSION, "m1"))
    assert sorted(texts_of(bench.stored())) == ["m1", "t1"]
    assert bench.stored().metadata.get("agent_runtime_state", {}) == given.get("agent_runtime_state", {})


def test_a_first_permission_that_a_crash_lost_is_not_given_by_saving_again(bench: Bench) -> None:
    mine = bypass(SESSION, "m1")
    mine.title = "first"
    bench.faulty.plan.on("put", "metadata", fault=CrashBefore())
    with pytest.raises(Crash):
        bench.mine.save_runtime_session(mine)
    bench.faulty.restart()
    bench.mine.save_runtime_session(mine)
    assert (bench.stored().title, bench.stored().metadata) == ("first", {"agent_runtime_state": {}})


# Failures between the two writes.


@pytest.mark.parametrize("applied", ["no", "unknown"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_failure_after_messages_were_written_does_not_say_that_nothing_was(exists: bool, applied: Applied) -> None:
    with opened() as bench:
        mine = saved_before(bench, exists)
        given = mine.checked()
        bench.faulty.plan.on("put", "metadata", fault=FailBefore(applied=applied), times=None)
        with pytest.raises(UnavailableError) as caught:
            bench.mine.save_runtime_session(mine)
        assert caught.value.applied == "unknown"
        assert texts_of(bench.stored()) == ["m1", "m2", "m3"]
        assert mine == given
        bench.faulty.plan.clear()
        assert bench.mine.save_runtime_session(mine).appended == ()
        assert bench.stored() == mine


def test_a_failure_after_a_session_was_created_empty_does_not_say_that_nothing_was(bench: Bench) -> None:
    bench.faulty.plan.on("put", "metadata", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.mine.save_runtime_session(session(title="empty"))
    assert caught.value.applied == "unknown"
    assert bench.stored() == session()


def test_a_failure_without_messages_says_what_is_known(bench: Bench) -> None:
    mine = session("m1")
    bench.mine.save_runtime_session(mine)
    mine.metadata["step"] = 2
    bench.faulty.plan.on("put", "metadata", fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError) as caught:
        bench.mine.save_runtime_session(mine)
    assert caught.value.applied == "no"


def test_metadata_that_grew_meanwhile_are_a_save_in_doubt(bench: Bench) -> None:
    bench.mine.save_runtime_session(session("m1"))
    mine = session("m1", "m2", metadata={"mine": "m" * 600_000})

    def grow() -> None:
        bench.theirs.update_metadata(SESSION, lambda one: one.changed(metadata={"theirs": "t" * 600_000}))

    bench.faulty.plan.on("put", "heads", fault=Meanwhile(grow))
    with pytest.raises(UnavailableError, match="over the limit: metadata of 1048576 bytes") as caught:
        bench.mine.save_runtime_session(mine)
    assert caught.value.applied == "unknown"
    assert texts_of(bench.stored()) == ["m1", "m2"]
    before = bench.objects()
    with pytest.raises(LimitExceededError):  # and this one wrote nothing
        bench.mine.save_runtime_session(mine)
    assert bench.objects() == before


def test_a_session_deleted_between_the_two_writes_is_spent(bench: Bench) -> None:
    mine = saved_before(bench, False)
    delete = Meanwhile(lambda: bench.their_repo.delete(SESSION))
    bench.faulty.plan.on("get", "metadata", nth=2, fault=delete)
    with pytest.raises(SessionDeletedError):
        bench.mine.save_runtime_session(mine)
    assert Layout("default").metadata(SESSION) not in bench.objects()


@pytest.mark.parametrize("name", ["metadata_version", "title_version"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_version_that_leaves_none_to_authoritative_writers_is_refused(name: str, exists: bool) -> None:
    with opened() as bench:
        mine = saved_before(bench, exists)
        before = bench.objects()
        mine.metadata_version = 1
        setattr(mine, name, VERSION_SAVED_MAX + 1)
        with pytest.raises(LimitExceededError, match=f"{name} of 9223372036854775808 by a save"):
            bench.mine.save_runtime_session(mine)
        assert bench.objects() == before
        setattr(mine, name, VERSION_SAVED_MAX)
        bench.mine.save_runtime_session(mine)
        bench.theirs.update_metadata(SESSION, titled("theirs"))
        assert bench.stored().title == "theirs"


def test_a_concurrent_append_is_preserved_by_a_config_patch(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1"))
    mine = session("m1", "m2")
    bench.faulty.plan.on("put", "metadata", fault=Meanwhile(lambda: bench.theirs.save_runtime_session(mine)))
    bench.mine.update_metadata(SESSION, lambda metadata: metadata.changed(metadata={"gold_config": {"x": 1}}))
    assert texts_of(bench.stored()) == ["m1", "m2"]
    assert bench.stored().metadata == {"gold_config": {"x": 1}}
    bench.theirs.save_runtime_session(mine)
    assert bench.stored().metadata == {"gold_config": {"x": 1}}


# Failures.


@EVERY
@pytest.mark.parametrize(("exists", "nth"), [(exists, nth) for exists in PUTS for nth in range(1, PUTS[exists] + 1)])
def test_no_fault_of_a_write_loses_or_doubles_anything(fault: Fault, exists: bool, nth: int) -> None:
    with opened() as bench:
        mine = saved_before(bench, exists)
        bench.faulty.plan.on("put", nth=nth, fault=fault)
        bench.mine.save_runtime_session(mine)
        bench.faulty.release()
        assert sum(request.fault is not None for request in bench.faulty.log) == 1
        assert texts_of(mine) == ["m1", "m2", "m3"]
        assert mine == bench.stored()
        assert bench.stored().metadata == {"step": 2}


@pytest.mark.parametrize("exists", [True, False])
@pytest.mark.parametrize("crash", [CrashBefore(), CrashAfter()], ids=str)
def test_a_crash_between_any_two_requests_is_healed_by_the_next_save(crash: Fault, exists: bool) -> None:
    for number in range(1, REQUESTS[exists] + 1):
        with opened() as bench:
            mine = saved_before(bench, exists)
            bench.faulty.plan.on("*", nth=number, fault=crash)
            with pytest.raises(Crash):
                bench.mine.save_runtime_session(mine)
            bench.faulty.restart()
            assert bench.mine.waiting_sessions == 0
            result = RuntimeSessionStore(bench.my_repo).save_runtime_session(mine)
            assert texts_of(bench.stored()) == ["m1", "m2", "m3"]
            assert bench.stored() == mine
            assert set(result.appended) <= {"m1", "m2", "m3"}


def test_messages_without_their_metadata_are_a_session_that_loads(bench: Bench) -> None:
    mine = saved_before(bench, True)
    bench.faulty.plan.on("put", "metadata", fault=CrashBefore())
    with pytest.raises(Crash):
        bench.mine.save_runtime_session(mine)
    assert texts_of(bench.stored()) == ["m1", "m2", "m3"]
    assert (bench.stored().title, bench.stored().metadata) == ("first", {})
    bench.faulty.restart()
    assert bench.mine.save_runtime_session(mine).appended == ()
    assert bench.stored().metadata == {"step": 2}


def test_the_first_save_that_died_before_its_metadata_is_a_session_that_loads(bench: Bench) -> None:
    mine = saved_before(bench, False)
    bench.faulty.plan.on("put", "metadata", fault=CrashBefore())
    with pytest.raises(Crash):
        bench.mine.save_runtime_session(mine)
    assert bench.stored() == session("m1", "m2", "m3")
    bench.faulty.restart()
    bench.mine.save_runtime_session(mine)
    assert bench.stored().title == "first"


@pytest.mark.parametrize("part", ["metadata", "heads"])
def test_a_read_error_is_not_an_empty_store(bench: Bench, part: str) -> None:
    mine = saved_before(bench, True)
    before = bench.objects()
    bench.faulty.plan.on("get", part, fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        bench.mine.save_runtime_session(mine)
    with pytest.raises(UnavailableError):
        RuntimeSessionStore(bench.my_repo).load_runtime_session(SESSION)
    assert bench.objects() == before


@pytest.mark.parametrize("part", ["metadata", "heads", "packs"])
def test_a_damaged_copy_is_not_overwritten(bench: Bench, part: str) -> None:
    for at in range(20):  # large enough that not everything stands in the head
        bench.theirs.save_runtime_session(session("m1", f"m{at}", "x" * 3000, title="first"))
    mine, before = session("m1", "mine", title="mine"), bench.objects()
    bench.faulty.plan.on("get", part, fault=FlipBit(77), times=None)
    with pytest.raises(CorruptSnapshotError):
        bench.mine.save_runtime_session(mine)
    with pytest.raises(CorruptSnapshotError):
        bench.mine.load_runtime_session(SESSION)
    assert bench.objects() == before


def test_metadata_of_a_later_format_is_not_overwritten(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1", title="first"))
    before = bench.objects()
    bench.faulty.plan.on("get", "metadata", fault=Altered(of_newer_version), times=None)
    with pytest.raises(Exception, match="use a newer version"):
        bench.mine.save_runtime_session(session("m1", title="mine"))
    assert bench.objects() == before


def test_metadata_under_the_key_of_another_session_or_tenant_is_corruption(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1", session_id="s2", title="of s2"))
    bench.theirs.save_runtime_session(session("m1"))
    with SnapshotRepository(bench.behind, tenant="other", clock=ManualClock(seed=3)) as other:
        RuntimeSessionStore(other).save_runtime_session(session("m1", title="of another tenant"))
    moved = [Layout("default").metadata("s2"), Layout("other").metadata(SESSION)]
    for data in [bench.behind.get(key).data for key in moved]:
        bench.behind.put(Layout("default").metadata(SESSION), data, Overwrite())
        before = bench.objects()
        acts: list[Callable[[], object]] = [
            partial(bench.mine.load_runtime_session, SESSION),
            partial(bench.mine.read_metadata, SESSION),
            partial(bench.mine.save_runtime_session, session("m1", "m2")),
            partial(bench.mine.update_metadata, SESSION, titled("x")),
        ]
        for act in acts:
            with pytest.raises(CorruptSnapshotError, match="moved here from its own key"):
                act()
        assert bench.objects() == before


def test_there_is_no_index_that_could_be_corrupt(bench: Bench) -> None:
    for name in ("s1", "s2"):
        for at in range(3):
            bench.mine.save_runtime_session(session(f"m{at}", session_id=name, title=f"{at}"))
    sessions = {Layout("default").session_part(Layout("default").head(name)): name for name in ("s1", "s2")}
    for key in bench.objects().keys() - {"~store"}:
        kind = key.split("/")[1]
        assert kind in ("heads", "packs", "metadata")
        owner = key.split("/")[2] if kind == "packs" else sessions[Layout("default").session_part(key)]
        assert owner in ("s1", "s2")
    bench.faulty.log.clear()
    bench.mine.save_runtime_session(session("m9", session_id="s1"))
    assert all("s1" in key for request in bench.faulty.log for key in request.keys)


def test_what_cannot_be_stored_is_refused_before_anything_is_written(bench: Bench) -> None:
    large = session("m1", metadata={"x": "x" * (1 << 20)})
    with pytest.raises(LimitExceededError, match="metadata of 1048576 bytes"):
        bench.mine.save_runtime_session(large)
    surrogate = session("m1", title="\ud800")
    with pytest.raises(InvalidStateError, match="surrogate"):
        bench.mine.save_runtime_session(surrogate)
    spoken = session("\ud800")
    with pytest.raises(InvalidStateError, match="surrogate"):
        bench.mine.save_runtime_session(spoken)
    untyped = session("m1")
    untyped.metadata["x"] = object()
    with pytest.raises(InvalidStateError):
        bench.mine.save_runtime_session(untyped)
    assert set(bench.objects()) == {"~store"}


# What it costs.


def test_a_save_is_a_pack_a_head_and_two_reads(bench: Bench) -> None:
    mine = session("m0", title="first")
    bench.mine.save_runtime_session(mine)
    assert len(bench.requests()) == REQUESTS[False]
    for at in range(1, 30):
        mine.messages.append(said(f"m{at}"))
        bench.mine.save_runtime_session(mine)
        assert bench.requests() == ["get metadata", "get heads", "put packs", "put heads"]
    mine.metadata["step"] = 1
    bench.mine.save_runtime_session(mine)
    assert bench.requests() == ["get metadata", "get heads", "put metadata"]


def test_a_save_without_changes_writes_nothing(bench: Bench) -> None:
    mine = session("m1", title="first", updated_at="2026-01-01T00:00:00Z")
    bench.theirs.save_runtime_session(mine)
    before = bench.objects()
    for _ in range(2):
        assert bench.mine.save_runtime_session(mine).appended == ()
    assert bench.requests()[-2:] == ["get metadata", "get heads"]
    assert bench.objects() == before


def test_a_load_again_is_two_reads(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1", title="first"))
    first = bench.mine.load_runtime_session(SESSION)
    bench.requests()
    assert bench.mine.load_runtime_session(SESSION) == first
    assert bench.requests() == ["get metadata", "get heads"]


def test_nothing_in_memory_is_ahead_of_the_store(bench: Bench) -> None:
    mine = saved_before(bench, True)
    bench.faulty.plan.on("put", "heads", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        bench.mine.save_runtime_session(mine)
    bench.faulty.plan.clear()
    assert texts_of(bench.mine.load_runtime_session(SESSION)) == ["m1"]


def test_nothing_in_memory_hides_what_others_did(bench: Bench) -> None:
    mine = saved_before(bench, True)
    bench.mine.save_runtime_session(mine)
    bench.their_repo.commit(take_turn(bench.their_repo.load(SESSION), "new"))
    assert texts_of(bench.mine.load_runtime_session(SESSION))[-1] == "new"
    bench.their_repo.rewind(SESSION, 1)
    assert texts_of(bench.mine.load_runtime_session(SESSION)) == ["m1"]
    bench.mine.save_runtime_session(mine)
    assert texts_of(bench.stored()) == texts_of(mine)


def test_a_collection_and_a_prune_between_saves_change_nothing_for_a_runtime(bench: Bench) -> None:
    mine = session("m0", title="first")
    for at in range(1, 12):
        bench.mine.save_runtime_session(mine)
        collect.execute(collect.plan_collect(bench.their_repo))
        prune.execute(prune.plan_prune(bench.their_repo, SESSION, Retention(last=1)))
        collect.execute(collect.plan_collect(bench.their_repo))
        mine.messages.append(said(f"m{at}"))
    bench.mine.save_runtime_session(mine)
    assert texts_of(bench.stored()) == [f"m{at}" for at in range(12)]
    assert bench.stored() == mine
    bench.their_repo.delete(SESSION)
    collect.execute(collect.plan_collect(bench.their_repo))
    with pytest.raises(SessionDeletedError):
        bench.mine.save_runtime_session(mine)
    assert Layout("default").metadata(SESSION) not in bench.objects()


# Threads, other systems, and the end of a session.


def test_two_serial_writers_of_one_process_both_reach_the_store(bench: Bench) -> None:
    for name in ("a", "b"):
        bench.mine.save_runtime_session(session("m1", name))
    assert texts_of(bench.stored()) == ["m1", "a", "b"]
    assert bench.their_repo.load(SESSION).head_revision == 2


def test_concurrent_saves_in_one_process_conflict_with_nobody(bench: Bench) -> None:
    def save(number: int) -> None:
        mine = session("m1")
        mine.messages += [said(f"w{number}-{at}") for at in range(3)]
        bench.mine.save_runtime_session(mine)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(save, range(24)))
    stored = texts_of(bench.stored())
    assert sorted(stored) == sorted(["m1", *(f"w{number}-{at}" for number in range(24) for at in range(3))])
    puts = [request for request in bench.requests() if request == "put heads"]
    assert len(puts) == 24 + 1  # and the reservation: no save was ever refused
    assert bench.mine.waiting_sessions == 0


def test_a_session_of_another_system_is_saved_into_and_left_alone(bench: Bench) -> None:
    state = new_session(SESSION, "a0", "a1")
    state.session_graph.append_tool_call(call("c1", {"x": 1}))
    state.session_graph.append_plugin("session.event", {"id": "e1"})
    bench.their_repo.commit(state)
    mine = bench.mine.load_runtime_session(SESSION)
    assert mine == RuntimeSession(session_id=SESSION, messages=[message("a0"), message("a1")])
    mine.messages += [said("m1"), message("m2")]
    bench.mine.save_runtime_session(mine)
    assert bench.stored() == mine.checked()
    after = bench.their_repo.load(SESSION)
    assert message_ids(after) == ["a0", "a1", "m2"]
    assert after.session_graph.nodes[: len(state.session_graph.nodes)] == state.session_graph.nodes
    assert len(after.session_graph.tool_calls()) == 1
    assert after.token_ledger == state.token_ledger


def test_an_acquired_session_is_its_owners_alone(bench: Bench) -> None:
    bench.theirs.save_runtime_session(session("m1"))
    bench.their_repo.acquire(SESSION, "host-a")
    with pytest.raises(FencedError):
        bench.mine.save_runtime_session(session("m1", "m2"))
    assert texts_of(bench.stored()) == ["m1"]


def test_a_deleted_session_is_spent(bench: Bench) -> None:
    mine = saved_before(bench, True)
    bench.their_repo.delete(SESSION)
    before = bench.objects()
    for store in (bench.mine, bench.theirs):  # one of which has the session in memory
        with pytest.raises(SessionDeletedError):
            store.save_runtime_session(mine)
        with pytest.raises(SessionDeletedError):
            store.load_runtime_session(SESSION)
        with pytest.raises(SessionDeletedError):
            store.read_metadata(SESSION)
        with pytest.raises(SessionDeletedError):
            store.update_metadata(SESSION, titled("x"))
    assert bench.objects() == before


def test_a_session_that_is_not_there_is_not_made_by_reading(bench: Bench) -> None:
    for act in (bench.mine.load_runtime_session, bench.mine.read_metadata):
        with pytest.raises(SessionNotFoundError):
            act("none")
    assert set(bench.objects()) == {"~store"}


def test_one_thread_and_an_inline_executor_do(bench: Bench) -> None:
    class Host:
        def __init__(self, environment: Environment) -> None:
            self.environment = environment

    environment = replace(bench.my_repo.environment, executor=InlineExecutor(), clock=ManualClock(seed=9))
    store = RuntimeSessionStore(Host(environment))
    store.save_runtime_session(session("m1", title="t"))
    assert bench.stored() == session("m1", title="t")


# The port.


def test_neither_method_of_the_port_has_a_default() -> None:
    class OnlySaves(RuntimeSessionPersistence):
        def save_runtime_session(self, session: RuntimeSession) -> SaveResult:
            raise NotImplementedError(session)

    class OnlyAppends(RuntimeSessionPersistence):
        def append_token_usage_record(self, session_id: str, json_line: str) -> str:
            raise NotImplementedError(session_id, json_line)

    careless_ports: tuple[Callable[[], object], ...] = (OnlySaves, OnlyAppends)
    for careless in careless_ports:
        with pytest.raises(TypeError, match="abstract"):
            careless()


def test_the_store_is_such_a_port(bench: Bench) -> None:
    port: RuntimeSessionPersistence = bench.mine
    port.save_runtime_session(session("m1"))
    assert texts_of(bench.stored()) == ["m1"]


def test_a_usage_record_is_appended_durably(bench: Bench) -> None:
    mine = session("m1")
    bench.mine.save_runtime_session(mine)
    lines = [json.dumps({"model": "m", "cache_read_input_tokens": at}) for at in range(3)]
    row_ids = [bench.mine.append_token_usage_record(SESSION, line) for line in lines]
    rows = list(UsageLog(bench.their_repo, SESSION).read())
    assert [row.row_id for row in rows] == row_ids
    assert [row.record.cache_read_input_tokens for row in rows] == [0, 1, 2]
    with pytest.raises(InvalidInputError):
        bench.mine.append_token_usage_record(SESSION, "no JSON")


def test_callers_share_one_usage_log_and_its_writer(bench: Bench) -> None:
    bench.mine.save_runtime_session(session("m1"))
    with ThreadPoolExecutor(8) as pool:
        ids = list(pool.map(lambda _: bench.mine.append_token_usage_record(SESSION, "{}"), range(40)))
    assert len(set(ids)) == 40
    assert len({row_id.split("-")[0] for row_id in ids}) == 1


def test_a_usage_record_of_a_deleted_session_is_refused(bench: Bench) -> None:
    bench.mine.save_runtime_session(session("m1"))
    bench.their_repo.delete(SESSION)
    with pytest.raises(SessionDeletedError):
        bench.mine.append_token_usage_record(SESSION, "{}")
