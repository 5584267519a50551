"""The checks of what sessions have beside their heads can fail: each guarantee, broken by hand, is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import pytest

from snapshots import satellite
from snapshots.delete import delete
from snapshots.environment import Environment
from snapshots.layout import Layout
from snapshots.maintenance.collect import execute, plan_on
from snapshots.realtime import RealtimeController, RealtimeFrame
from snapshots.realtime import stored as realtime
from snapshots.realtime.journal import CHECKPOINTS, load_progress
from snapshots.realtime.progress import Checkpoint
from snapshots.records import SessionRecords
from snapshots.records.record import StoredRecord
from snapshots.records.stored import NAME, record_from_plain, record_to_plain
from snapshots.runtime import RuntimeMetadata, RuntimeSession, RuntimeSessionStore
from snapshots.runtime.persistence import METADATA
from snapshots.runtime.stored import StoredMetadata
from snapshots.satellite import Kind
from snapshots.testing.simulation.satellite_notes import (
    DeltaTold,
    FrameSent,
    FrameTold,
    RowsTold,
    SatelliteNotes,
    SaveTold,
)
from snapshots.testing.simulation.watch import Watch
from snapshots.usage import UsageLog, compact
from snapshots.usage.index import KIND as USAGE
from snapshots.usage.segments import Index
from storage.backends.memory import MemoryStore
from storage.store import Create, Overwrite, Version
from storage.testing.clock import ManualClock
from tests.simulation.protocol import environment_of
from tests.simulation.satellites import SIDECAR, Repo, Wire

LAYOUT = Layout("default")
LINE, LOST, ONCE, SENT = "every line once", "no message lost", "every count once", "recorded before it is sent"
LIFE, ORDER, DANGLES, STAY = "a record's life", "one order", "nothing dangles", "satellites stay"
_NO_VERSION = Version("")


def named_in(problems: list[str]) -> set[str]:
    return {problem.partition(":")[0] for problem in problems}


# What hosts were told.


@dataclass(frozen=True)
class Done:
    """A store in which all was done, and notes that say so."""

    environment: Environment
    watch: Watch
    notes: SatelliteNotes
    controller: RealtimeController

    def problems(self, *, deleted: str = "") -> list[str]:
        return self.notes.problems(self.environment, lambda session_id: session_id == deleted, expired=1)


def lines(*names: str) -> list[str]:
    return [json.dumps({"name": name}) for name in names]


def message(name: str) -> dict[str, str]:
    return {"id": name, "role": "user", "content": name}


def titled(title: str, old: RuntimeMetadata) -> RuntimeMetadata:
    return old.changed(title=title)


@pytest.fixture
def done() -> Done:
    watch, notes = Watch(MemoryStore(ManualClock()), LAYOUT), SatelliteNotes(reaped=1)
    environment = environment_of(watch, ManualClock())
    repo = Repo(environment)
    log = UsageLog(repo, "s")
    for host, *names in (("h", "a1", "a2"), ("h", "a3"), ("other", "b1")):
        log.append_many(lines(*names))
        notes.rows.append(RowsTold("s", host, tuple(names), "done"))
    store = RuntimeSessionStore(repo)
    for name in ("m1", "m2"):
        store.save_runtime_session(RuntimeSession(session_id="s", messages=[message(name)]))
        notes.saves.append(SaveTold("s", name, "done"))
        version = store.update_metadata("s", partial(titled, f"title {name}")).metadata_version
        notes.titles.append(SaveTold("s", f"title {name}", "done", version))
    records = SessionRecords(repo)
    records.create("s", provider_id="p", model="m")
    records.activate("s")
    for exponent in (0, 1):
        records.record_delta("s", 1 << exponent)
        notes.deltas.append(DeltaTold("s", exponent, "done"))
    controller = talked(repo, notes)
    watch.check()
    return Done(environment, watch, notes, controller)


def talked(repo: Repo, notes: SatelliteNotes) -> RealtimeController:
    """Send two frames, receive one, and leave one held back."""
    controller = RealtimeController(repo, "s", Wire(notes, "s"), SIDECAR)
    controller.connect()
    for name in ("f1", "f2", "f3"):
        if name == "f3":
            controller.begin_restart()
        result = controller.send(RealtimeFrame.outgoing(name))
        notes.frames.append(FrameTold("s", name, result.outcome.value))
        if name == "f2":
            frame = controller.receive()
            assert frame is not None
            notes.received.append(("s", frame.frame_id.value))
    return controller


def test_what_was_told_rightly_is_no_problem(done: Done) -> None:
    assert [one.outcome for one in done.notes.frames] == ["sent", "sent", "gated"]
    assert (len(done.notes.sent), len(done.notes.received)) == (2, 1)
    assert done.problems() == []


def test_a_frame_that_was_held_back_may_be_sent_later(done: Done) -> None:
    done.controller.complete_restart()
    assert len(done.notes.sent) == 3
    assert done.problems() == []


Break = Callable[[Done], object]


def append_unknown(done: Done) -> None:
    UsageLog(Repo(done.environment), "s").append_many(lines("a3"))
    done.notes.rows[1].told = ""


def count_unknown(done: Done) -> None:
    SessionRecords(Repo(done.environment)).record_delta("s", 2)
    done.notes.deltas[1].told = ""


BREAKS: dict[str, tuple[str, Break]] = {
    "a line lost": (LINE, lambda one: one.notes.rows.append(RowsTold("s", "h", ("a9",), "done"))),
    "one of several lines lost": (LINE, lambda one: setattr(one.notes.rows[0], "names", ("a1", "a2", "a9"))),
    "a line twice": (LINE, lambda one: UsageLog(Repo(one.environment), "s").append_many(lines("a2"))),
    "a line refused, and there": (LINE, lambda one: setattr(one.notes.rows[1], "told", "refused")),
    "a line unknown, and there twice": (LINE, append_unknown),
    "lines of one host in another order": (LINE, lambda one: one.notes.rows.reverse()),
    "a log lost": (LINE, lambda one: one.environment.store.delete(LAYOUT.usage_index("s"))),
    "a log without a segment": (LINE, lambda one: delete_segments(one.environment)),
    "a message lost": (LOST, lambda one: one.notes.saves.append(SaveTold("s", "m9", "done"))),
    "a session lost": (LOST, lambda one: one.notes.saves.append(SaveTold("t", "m1", "done"))),
    "a session whose title was told lost": (LOST, lambda one: one.notes.titles.append(SaveTold("t", "a", "done", 1))),
    "a title undone": (LOST, lambda one: one.notes.titles.append(SaveTold("s", "title m9", "done", 9))),
    "two titles at one version": (LOST, lambda one: setattr(one.notes.titles[0], "version", 2)),
    "a pack lost": (LOST, lambda one: delete_under(one.environment, LAYOUT.packs)),
    "a count lost": (ONCE, lambda one: one.notes.deltas.append(DeltaTold("s", 2, "done"))),
    "a count refused, and there": (ONCE, lambda one: setattr(one.notes.deltas[0], "told", "refused")),
    "a count of nobody": (ONCE, lambda one: SessionRecords(Repo(one.environment)).record_delta("s", 4)),
    "a round of nobody": (ONCE, lambda one: SessionRecords(Repo(one.environment)).record_delta("s", 0)),
    "a count twice": (ONCE, lambda one: SessionRecords(Repo(one.environment)).record_delta("s", 2)),
    "a count unknown, and there twice": (ONCE, count_unknown),
    "a record lost": (ONCE, lambda one: one.environment.store.delete(LAYOUT.record("s"))),
    "an expiry told to two": (ONCE, lambda one: setattr(one.notes, "reaped", 2)),
    "a frame told as sent": (SENT, lambda one: setattr(one.notes.frames[2], "outcome", "sent")),
    "a frame told as held back": (SENT, lambda one: one.notes.frames.append(FrameTold("s", "f9", "gated"))),
    "a frame sent unasked": (SENT, lambda one: one.notes.sent.append(replace(one.notes.sent[0], name="f3"))),
    "a frame sent twice": (SENT, lambda one: one.notes.sent.append(one.notes.sent[0])),
    "a frame sent by another connection": (
        SENT,
        lambda one: one.notes.sent.append(replace(one.notes.sent[0], connection_id="c")),
    ),
    "a frame handed out": (SENT, lambda one: one.notes.received.append(("s", "g9"))),
    "a frame sent without a log": (SENT, lambda one: one.notes.sent.append(FrameSent("t", "c", "f1"))),
    "a frame handed out without a log": (SENT, lambda one: one.notes.received.append(("t", "g1"))),
    "a realtime log lost": (SENT, lambda one: delete_under(one.environment, LAYOUT.realtime("s"))),
    "a realtime record lost": (SENT, lambda one: one.environment.store.delete(LAYOUT.realtime_record("s", 3))),
}


def delete_under(environment: Environment, prefix: str) -> None:
    environment.store.delete_many([row.key for row in environment.store.list(prefix)])


def delete_segments(environment: Environment) -> None:
    keys = [row.key for row in environment.store.list(LAYOUT.usage("s"))]
    environment.store.delete_many([key for key in keys if key != LAYOUT.usage_index("s")])


@pytest.mark.parametrize(("named", "break_it"), BREAKS.values(), ids=list(BREAKS))
def test_what_was_told_and_is_not_so_is_named(done: Done, named: str, break_it: Break) -> None:
    break_it(done)
    assert named_in(done.problems()) == {named}


def test_a_frame_that_was_held_back_and_left_the_queue_unsent_is_named(done: Done) -> None:
    done.notes.frames.append(FrameTold("s", "f1", "gated"))
    (problem,) = done.problems()
    assert problem == f"{SENT}: f1 of s was held back, and is lost"


@pytest.mark.parametrize("outcome", ["", "refused"])
def test_what_was_told_otherwise_may_be_missing(done: Done, outcome: str) -> None:
    told = {"told": outcome}
    done.notes.rows.append(RowsTold("s", "h", ("a9",), **told))  # type: ignore[arg-type]  # one of `Told`
    done.notes.saves.append(SaveTold("s", "m9", **told))  # type: ignore[arg-type]  # likewise
    done.notes.titles.append(SaveTold("s", "title m9", **told))  # type: ignore[arg-type]  # likewise
    done.notes.deltas.append(DeltaTold("s", 2, **told))  # type: ignore[arg-type]  # likewise
    done.notes.frames.append(FrameTold("s", "f9"))
    assert done.problems() == []


def test_a_title_that_is_unknown_may_stand(done: Done) -> None:
    done.notes.titles[-1].told = ""
    assert done.problems() == []


def test_nobody_asks_for_what_a_deleted_session_had(done: Done) -> None:
    for _, break_it in BREAKS.values():
        break_it(done)
    done.notes.reaped = 1
    assert all("of t" in one or "t is gone" in one for one in done.problems(deleted="s"))


def test_what_was_told_is_counted(done: Done) -> None:
    assert done.notes.counts() == {
        "rows done": 3,
        "saves done": 2,
        "titles done": 2,
        "deltas done": 2,
        "frames sent": 2,
        "frames gated": 1,
        "sent": 2,
        "received": 1,
        "reaped": 1,
    }


# What is written and deleted.

RECORD_KEY, INDEX_KEY = LAYOUT.record("s"), LAYOUT.usage_index("s")
RECORDS = Kind(NAME, record_to_plain, lambda plain: record_from_plain(plain, key=RECORD_KEY))
LAST = 8  # number of the last realtime record


def rewrite(done: Done, key: str, kind: Kind[Any], change: Callable[[Any], Any]) -> None:
    """Store another value in a register."""
    stored = satellite.decode(done.watch.get(key).data, _NO_VERSION, kind, key=key)
    data = satellite.encode("default", "s", kind, change(stored.found.value), stored.found.ring)
    done.watch.put(key, data, Overwrite())


def name_a_segment(done: Done) -> None:
    def named(index: Index) -> Index:
        return replace(index, segments=(*index.segments, replace(index.segments[-1], sequence=99)))

    rewrite(done, INDEX_KEY, USAGE, named)


def with_counts(stored: StoredRecord, **counts: int) -> StoredRecord:
    return stored.model_copy(update={"record": stored.record.model_copy(update=counts)})


def begin_record(done: Done, key: str) -> None:
    done.watch.put(key, done.watch.get(RECORD_KEY).data, Create())


def reopen(done: Done) -> None:
    active = done.watch.get(RECORD_KEY).data
    SessionRecords(Repo(done.environment)).close("s")
    done.watch.check()
    done.watch.put(RECORD_KEY, active, Overwrite())


def set_back_checkpoint(done: Done) -> None:
    key = LAYOUT.realtime_state("s")
    first = done.watch.get(key).data
    rewrite(done, key, CHECKPOINTS, lambda _: Checkpoint.of(load_progress(done.environment, "s")))
    done.watch.check()
    done.watch.put(key, first, Overwrite())


def record_again(done: Done, number: int, under: int, **changes: Any) -> None:
    """Store a copy of a realtime record under another number."""
    stored = realtime.decode(done.watch.get(LAYOUT.realtime_record("s", number)).data, key="a record")
    record = stored.record.model_copy(update=changes)
    key = LAYOUT.realtime_record("s", under)
    done.watch.put(key, realtime.encode("default", "s", "e" * 32, record), Overwrite())


def record_of_another(done: Done) -> None:
    data = done.watch.get(LAYOUT.realtime_record("s", 1)).data
    done.watch.put(LAYOUT.realtime_record("t", 1), data, Create())


def first_segment(done: Done) -> str:
    keys = (row.key for row in done.watch.list(LAYOUT.usage("s")))
    return next(key for key in keys if key != INDEX_KEY)


WRITES: dict[str, tuple[str, Break]] = {
    "an index that names what is not there": (DANGLES, name_a_segment),
    "a segment deleted that is named": (DANGLES, lambda one: one.watch.delete(first_segment(one))),
    "segments deleted that are named": (DANGLES, lambda one: delete_segments(one.environment)),
    "an index deleted": (STAY, lambda one: one.watch.delete(INDEX_KEY)),
    "a record deleted": (STAY, lambda one: one.watch.delete(RECORD_KEY)),
    "metadata deleted": (STAY, lambda one: one.watch.delete_many([LAYOUT.metadata("s")])),
    "a realtime record deleted": (STAY, lambda one: one.watch.delete(LAYOUT.realtime_record("s", 1))),
    "a realtime state deleted": (STAY, lambda one: one.watch.delete(LAYOUT.realtime_state("s"))),
    "a record that begins as active": (LIFE, lambda one: begin_record(one, LAYOUT.record("t"))),
    "a record that was closed": (LIFE, reopen),
    "rounds that fell": (
        LIFE,
        lambda one: rewrite(one, RECORD_KEY, RECORDS, lambda old: with_counts(old, round_count=1)),
    ),
    "tokens that fell": (
        LIFE,
        lambda one: rewrite(one, RECORD_KEY, RECORDS, lambda old: with_counts(old, delta_token_count=1)),
    ),
    "metadata of an earlier version": (
        ORDER,
        lambda one: rewrite(
            one, LAYOUT.metadata("s"), METADATA, lambda _: StoredMetadata(RuntimeMetadata(metadata_version=1))
        ),
    ),
    "a checkpoint of an earlier record": (ORDER, set_back_checkpoint),
    "a segment written twice": (ORDER, lambda one: one.watch.put(first_segment(one), b"other", Overwrite())),
    "a realtime record written twice": (ORDER, lambda one: record_again(one, LAST, LAST)),
    "a realtime record after a gap": (ORDER, lambda one: record_again(one, 1, LAST + 2, sequence=LAST + 2)),
    "a realtime record that may not follow": (ORDER, lambda one: record_again(one, 1, LAST + 1, sequence=LAST + 1)),
    "a realtime record of another number": (ORDER, lambda one: record_again(one, 1, LAST + 1)),
    "a realtime record of another session": (ORDER, record_of_another),
}


@pytest.mark.parametrize(("named", "write"), WRITES.values(), ids=list(WRITES))
def test_what_may_not_be_written_or_deleted_is_named(done: Done, named: str, write: Break) -> None:
    write(done)
    assert named_in(done.watch.wrong) == {named}


def test_a_segment_that_is_named_no_more_may_be_deleted(done: Done) -> None:
    compact(Repo(done.environment), "s")
    assert execute(plan_on(done.environment)).segments == done.watch.satellites.superseded == 3
    done.watch.check()


def test_what_a_deleted_session_had_may_be_deleted(done: Done) -> None:
    delete(done.environment, "s")
    keys = [row.key for prefix in LAYOUT.satellites for row in done.watch.list(prefix)]
    assert execute(plan_on(done.environment)).satellites == len(keys)
    done.watch.check()


def test_expiries_are_counted(done: Done) -> None:
    records = SessionRecords(Repo(done.environment))
    records.create("t", provider_id="p", model="m", ttl_secs=1)
    done.environment.clock.sleep(1)
    records.expire("t")
    done.watch.check()
    assert done.watch.satellites.expired == 1


# Power cuts.


def copied(done: Done, *without: str) -> MemoryStore:
    """Return what a power cut left: all but some objects."""
    left = MemoryStore(ManualClock())
    for row in done.watch.list(""):
        if not row.key.endswith(without):
            left.put(row.key, done.watch.get(row.key).data, Create())
    return left


def test_what_a_power_cut_left_whole_is_no_problem(done: Done) -> None:
    done.watch.moved_to(copied(done))
    done.controller.complete_restart()
    done.watch.check()


@pytest.mark.parametrize(
    "key", [INDEX_KEY, RECORD_KEY, LAYOUT.metadata("s"), LAYOUT.realtime_state("s"), LAYOUT.realtime_record("s", 2)]
)
def test_what_is_lost_in_a_power_cut_is_named(done: Done, key: str) -> None:
    done.watch.moved_to(copied(done, key))
    assert f"{STAY}: {key} is gone" in done.watch.wrong


def test_a_segment_lost_in_a_power_cut_is_named_unless_nobody_names_it(done: Done) -> None:
    superseded = first_segment(done)
    compact(Repo(done.environment), "s")
    done.watch.moved_to(copied(done, superseded))
    done.watch.check()
    (live,) = UsageLog(Repo(done.environment), "s").segments()
    done.watch.moved_to(copied(done, live.name))
    assert named_in(done.watch.wrong) == {DANGLES, STAY}


def test_metadata_that_a_power_cut_set_back_are_named(done: Done) -> None:
    before = copied(done)
    RuntimeSessionStore(Repo(done.environment)).update_metadata("s", lambda old: old.changed(title="newer"))
    done.watch.moved_to(before)
    assert ORDER in named_in(done.watch.wrong)


# A watch over what is there already.


def test_a_watch_goes_on_with_what_is_there(done: Done) -> None:
    watch = Watch(copied(done), LAYOUT)
    environment = environment_of(watch, ManualClock(seed=1))
    UsageLog(Repo(environment), "s").append_many(lines("c1"))
    SessionRecords(Repo(environment)).record_delta("s", 4)
    RealtimeController.resume(Repo(environment), "s", Wire(SatelliteNotes(), "s"), SIDECAR).complete_restart()
    watch.check()


@pytest.mark.parametrize(
    ("without", "named"), [(".jsonl.zst", DANGLES), (LAYOUT.realtime_record("s", 3), ORDER)], ids=["segments", "record"]
)
def test_a_watch_names_what_is_missing_at_once(done: Done, without: str, named: str) -> None:
    assert named_in(Watch(copied(done, without), LAYOUT).wrong) == {named}
