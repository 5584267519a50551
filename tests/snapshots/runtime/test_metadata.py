"""Changing metadata with authority: counted, compared and swapped, applied once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from snapshots.errors import InvalidStateError, LimitExceededError, RevisionConflictError, SessionNotFoundError
from snapshots.fields import U64_MAX
from snapshots.layout import Layout
from snapshots.runtime import RuntimeMetadata
from snapshots.runtime.merge import VERSION_SAVED_MAX
from snapshots.runtime.persistence import METADATA
from snapshots.runtime.stored import StoredMetadata, stored_from_plain
from snapshots.satellite import SatelliteRegister
from storage.errors import UnavailableError
from storage.testing.faults import Crash, CrashAfter, FailBefore, Fault, Meanwhile
from tests.faults import WRITE_FAULTS
from tests.integration.builders import new_session
from tests.snapshots.runtime.bench import SESSION, Bench, opened, said, session, texts_of


@pytest.fixture
def bench() -> Iterator[Bench]:
    with opened() as bench:
        bench.theirs.save_runtime_session(session("m1", title="old", metadata={"x": 1}, color="red"))
        yield bench


def titled(title: str) -> Callable[[RuntimeMetadata], RuntimeMetadata]:
    return lambda metadata: metadata.changed(title=title)


def test_a_change_is_counted(bench: Bench) -> None:
    changed = bench.mine.update_metadata(SESSION, titled("new"))
    assert (changed.title, changed.title_version, changed.metadata_version) == ("new", 1, 1)
    pinned = bench.mine.update_metadata(SESSION, lambda metadata: metadata.changed(pinned=True))
    assert (pinned.pinned, pinned.title_version, pinned.metadata_version) == (True, 1, 2)
    assert bench.stored().authoritative() == pinned
    assert (pinned.metadata, pinned.further) == ({"x": 1}, {"color": "red"})


def test_what_the_function_says_of_the_versions_is_not_asked(bench: Bench) -> None:
    changed = bench.mine.update_metadata(
        SESSION, lambda metadata: metadata.changed(title="new", title_version=9, metadata_version=0)
    )
    assert (changed.title_version, changed.metadata_version) == (1, 1)
    assert bench.mine.update_metadata(SESSION, lambda metadata: metadata.changed(metadata_version=9)) == changed


def test_what_changes_nothing_writes_nothing(bench: Bench) -> None:
    before = bench.objects()
    assert bench.mine.update_metadata(SESSION, lambda metadata: metadata).metadata_version == 0
    assert bench.mine.update_metadata(SESSION, titled("old")).metadata_version == 0
    assert bench.objects() == before
    assert bench.requests() == ["get heads", "get metadata"] * 2


def test_a_change_is_three_requests(bench: Bench) -> None:
    bench.mine.update_metadata(SESSION, titled("new"))
    assert bench.requests() == ["get heads", "get metadata", "put metadata"]


def test_an_object_that_is_changed_in_place_is_a_change(bench: Bench) -> None:
    def in_place(metadata: RuntimeMetadata) -> RuntimeMetadata:
        metadata.metadata["x"] = 2
        return metadata

    assert bench.mine.update_metadata(SESSION, in_place).metadata_version == 1
    assert bench.stored().metadata == {"x": 2}


def test_a_session_that_no_runtime_saved_has_metadata(bench: Bench) -> None:
    bench.their_repo.commit(new_session("plain", "a0"))
    assert bench.mine.read_metadata("plain") == RuntimeMetadata()
    before = bench.objects()
    assert bench.mine.update_metadata("plain", titled("")) == RuntimeMetadata()
    assert bench.objects() == before
    assert bench.mine.update_metadata("plain", titled("named"), expected_version=0).metadata_version == 1
    assert bench.mine.read_metadata("plain").title == "named"
    assert len(bench.stored("plain").messages) == 1


def test_a_session_that_is_not_there_gets_none(bench: Bench) -> None:
    before = bench.objects()
    with pytest.raises(SessionNotFoundError):
        bench.mine.update_metadata("none", titled("x"))
    assert bench.objects() == before


def test_another_version_than_expected_is_a_conflict(bench: Bench) -> None:
    bench.theirs.update_metadata(SESSION, titled("theirs"))
    before = bench.objects()
    with pytest.raises(RevisionConflictError, match="metadata of session 's1': version 1, not 0") as caught:
        bench.mine.update_metadata(SESSION, titled("mine"), expected_version=0)
    assert (caught.value.expected, caught.value.actual, caught.value.what) == (0, 1, "metadata")
    assert bench.objects() == before
    assert bench.mine.update_metadata(SESSION, titled("mine"), expected_version=1).title == "mine"


def test_a_conflict_found_by_the_write_is_one(bench: Bench) -> None:
    edit = Meanwhile(lambda: bench.theirs.update_metadata(SESSION, titled("theirs")))
    bench.faulty.plan.on("put", "metadata", fault=edit)
    with pytest.raises(RevisionConflictError):
        bench.mine.update_metadata(SESSION, titled("mine"), expected_version=0)
    assert bench.stored().title == "theirs"


def test_two_editors_without_an_expectation_both_count(bench: Bench) -> None:
    edit = Meanwhile(lambda: bench.theirs.update_metadata(SESSION, lambda one: one.changed(pinned=True)))
    bench.faulty.plan.on("put", "metadata", fault=edit)
    changed = bench.mine.update_metadata(SESSION, titled("mine"))
    assert (changed.title, changed.pinned, changed.metadata_version) == ("mine", True, 2)


@pytest.mark.parametrize("expected", [None, 0])
@pytest.mark.parametrize("fault", WRITE_FAULTS, ids=str)
def test_a_lost_answer_counts_once(bench: Bench, fault: Fault, expected: int | None) -> None:
    bench.faulty.plan.on("put", "metadata", fault=fault)
    changed = bench.mine.update_metadata(SESSION, titled("new"), expected_version=expected)
    bench.faulty.release()
    assert (changed.title_version, changed.metadata_version) == (1, 1)
    assert bench.stored().authoritative() == changed


def test_a_change_that_crashed_stands_or_not(bench: Bench) -> None:
    bench.faulty.plan.on("put", "metadata", fault=CrashAfter())
    with pytest.raises(Crash):
        bench.mine.update_metadata(SESSION, titled("new"), expected_version=0)
    bench.faulty.restart()
    assert bench.mine.read_metadata(SESSION).metadata_version == 1
    with pytest.raises(RevisionConflictError):
        bench.mine.update_metadata(SESSION, titled("new"), expected_version=0)


def test_a_refusal_and_a_read_error_write_nothing(bench: Bench) -> None:
    before = bench.objects()

    def refuses(_: RuntimeMetadata) -> RuntimeMetadata:
        raise InvalidStateError("no")

    with pytest.raises(InvalidStateError, match="no"):
        bench.mine.update_metadata(SESSION, refuses)
    with pytest.raises(LimitExceededError):
        bench.mine.update_metadata(SESSION, titled("x" * (1 << 20)))
    bench.faulty.plan.on("get", "metadata", fault=FailBefore(), times=None)
    with pytest.raises(UnavailableError):
        bench.mine.update_metadata(SESSION, titled("x"))
    assert bench.objects() == before


def test_a_version_that_cannot_be_counted_up_is_refused(bench: Bench) -> None:
    greatest = StoredMetadata(RuntimeMetadata(metadata_version=U64_MAX, title="last"))
    key = Layout("default").metadata(SESSION)
    SatelliteRegister(bench.their_repo.environment, SESSION, key, METADATA).update(lambda _: greatest)
    with pytest.raises(InvalidStateError, match="metadata_version is at its greatest value; save the session under an"):
        bench.mine.update_metadata(SESSION, titled("new"))
    assert bench.stored().title == "last"


def test_a_version_at_the_limit_of_saves_can_still_be_counted_up(bench: Bench) -> None:
    mine = session("m1", metadata_version=VERSION_SAVED_MAX, title="last")
    bench.theirs.save_runtime_session(mine)
    assert bench.mine.update_metadata(SESSION, titled("new")).metadata_version == VERSION_SAVED_MAX + 1
    loaded = bench.stored()
    loaded.messages.append(said("m2"))
    bench.mine.save_runtime_session(loaded)
    bench.mine.save_runtime_session(mine)
    assert (bench.stored().title, texts_of(bench.stored())) == ("new", ["m1", "m2"])


def test_no_stale_save_undoes_a_key_or_a_field(bench: Bench) -> None:
    mine = bench.mine.load_runtime_session(SESSION)
    changed = bench.theirs.update_metadata(
        SESSION, lambda one: one.changed(metadata={"theme": "dark"}, shape="round").without("color")
    )
    mine.metadata |= {"step": 1, "theme": "light"}
    for _ in range(2):
        bench.mine.save_runtime_session(mine)
        assert mine == bench.stored()
        assert mine.metadata == {"theme": "dark", "step": 1}
        assert mine.further == changed.further == {"shape": "round"}
        mine.metadata["x"] = 2  # was removed with authority
    again = bench.theirs.update_metadata(SESSION, lambda one: one.changed(metadata={"x": 3}))
    bench.mine.save_runtime_session(mine)
    assert again.metadata == bench.stored().metadata == {"x": 3}


def test_a_saver_who_counts_up_decides_over_what_was_changed_with_authority(bench: Bench) -> None:
    stale = bench.mine.load_runtime_session(SESSION)
    bench.theirs.update_metadata(SESSION, lambda one: one.changed(metadata={"x": 2}, shape="round"))
    mine = session("m1", metadata={"x": 3}, metadata_version=2)
    bench.mine.save_runtime_session(mine)
    assert bench.stored().authoritative() == mine.authoritative() == mine.authoritative().changed(metadata={"x": 3})
    bench.mine.save_runtime_session(stale)
    assert (bench.stored().metadata, bench.stored().further) == ({"x": 3}, {"color": "red"})


def test_the_names_of_what_was_changed_count_for_the_limit(bench: Bench) -> None:
    names = {f"{number:0100}": 0 for number in range(6000)}  # 600 KB, and again as names
    before = bench.objects()
    with pytest.raises(LimitExceededError):
        bench.mine.update_metadata(SESSION, lambda one: one.changed(metadata=names))
    assert bench.objects() == before


# What the register may hold.


@pytest.mark.parametrize(
    "wrong",
    [
        {"more": 1},
        {"document": None},
        {"document": {"title": 1}},
        {"document": {"session_id": "s1"}},
        {"authoritative_keys": None},
        {"authoritative_keys": ["b", "a"]},
        {"authoritative_keys": ["a", "a"]},
        {"authoritative_fields": [1]},
        {"authoritative_fields": ["title"]},
        {"authoritative_fields": ["messages"]},
    ],
    ids=str,
)
def test_what_is_no_stored_metadata_is_refused(wrong: dict[str, Any]) -> None:
    stored = StoredMetadata(RuntimeMetadata(title="t", x=1), frozenset("ba"), frozenset({"x"}))
    assert stored_from_plain(stored.to_plain()) == stored
    with pytest.raises(InvalidStateError):
        stored_from_plain({**stored.to_plain(), **wrong})
