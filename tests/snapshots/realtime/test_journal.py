"""The log of a realtime session as it is stored: what is moved, altered or missing is corruption, never an answer."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from snapshots import codec
from snapshots.errors import CorruptSnapshotError, LimitExceededError, UnsupportedSchemaError
from snapshots.layout import Layout
from snapshots.realtime import RealtimeController, RealtimeSessionRecord, load_realtime, subscribe
from snapshots.realtime.journal import RECORDS_BEHIND_MAX, RECORDS_READ_AT_ONCE, read_records, register_of
from snapshots.realtime.progress import checkpoint_from_plain, checkpoint_to_plain
from snapshots.realtime.stored import RECORD_BYTES_MAX, decode, encode
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.store import ListedObject, Overwrite
from storage.testing.faults import FailBefore, FlipBit, Truncate
from tests.snapshots.realtime.bench import SESSION, Bench, NotingAdapter, out, sidecar

WRITE_ID = "ab" * 16


@pytest.fixture
def bench() -> Bench:
    bench = Bench()
    controller = bench.connected()
    for name in ("one", "two"):
        controller.send(out(name))
    return bench


def move(store: MemoryStore, source: str, target: str) -> None:
    store.put(target, store.get(source).data, Overwrite())


def refused_everywhere(bench: Bench, session_id: str = SESSION, tenant: str = "default") -> None:
    """Check that nobody takes what lies there for the session's own."""
    repo = bench.repo(bench.behind, tenant)
    with pytest.raises(CorruptSnapshotError):
        load_realtime(repo, session_id)
    with pytest.raises(CorruptSnapshotError):
        RealtimeController.resume(repo, session_id, NotingAdapter(), sidecar())


def other_session(bench: Bench, tenant: str = "default") -> tuple[str, Layout]:
    controller = RealtimeController(bench.repo(bench.behind, tenant), "s2", NotingAdapter(), sidecar())
    controller.connect()
    controller.send(out("theirs"))
    return "s2", Layout(tenant)


def test_a_record_that_was_moved_from_another_session_is_refused(bench: Bench) -> None:
    other, layout = other_session(bench)
    move(bench.behind, layout.realtime_record(other, 3), bench.key(3))
    refused_everywhere(bench)
    with pytest.raises(CorruptSnapshotError, match="moved here"):
        list(subscribe(bench.there, SESSION).new())


def test_a_record_that_was_moved_to_another_number_is_refused(bench: Bench) -> None:
    move(bench.behind, bench.key(3), bench.key(5))
    refused_everywhere(bench)


def test_a_state_that_was_moved_from_another_session_is_refused(bench: Bench) -> None:
    other, layout = other_session(bench)
    move(bench.behind, layout.realtime_state(other), layout.realtime_state(SESSION))
    refused_everywhere(bench)


def test_a_session_that_was_moved_to_another_tenant_is_refused(bench: Bench) -> None:
    theirs = Layout("other")
    for source, target in [
        (bench.here.environment.layout.realtime_state(SESSION), theirs.realtime_state(SESSION)),
        *((bench.key(number), theirs.realtime_record(SESSION, number)) for number in range(1, 7)),
    ]:
        move(bench.behind, source, target)
    refused_everywhere(bench, tenant="other")


def test_a_record_of_another_tenant_is_refused(bench: Bench) -> None:
    repo = bench.repo(bench.behind, "other")
    controller = RealtimeController(repo, SESSION, NotingAdapter(), sidecar())
    controller.connect()
    controller.send(out("one"))
    move(bench.behind, Layout("other").realtime_record(SESSION, 3), bench.key(3))
    refused_everywhere(bench)


@pytest.mark.parametrize("number", [1, 2, 5])
def test_a_record_that_is_missing_before_others_is_corruption(bench: Bench, number: int) -> None:
    bench.behind.delete(bench.key(number))
    refused_everywhere(bench)
    with pytest.raises(CorruptSnapshotError):
        list(subscribe(bench.there, SESSION).new())


def test_records_that_the_checkpoint_covers_must_be_there(bench: Bench) -> None:
    controller = bench.resumed()
    controller.complete_restart()
    for number in range(RECORDS_BEHIND_MAX):
        controller.send(out(f"f{number}"))
    covered = register_of(bench.there.environment, SESSION).read().value.sequence
    assert covered > 6
    for number in range(6, len(bench.kinds()) + 1):
        bench.behind.delete(bench.key(number))
    with pytest.raises(CorruptSnapshotError):
        list(subscribe(bench.there, SESSION).new())


class Overlooking(MemoryStore):
    """A store whose listings overlook what came while they were made."""

    overlooked = ""

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        return (row for row in super().list(prefix, start_after=start_after) if row.key != self.overlooked)


@pytest.mark.parametrize("number", [1, 3, 4])
def test_a_record_that_came_while_others_were_listed_is_read(number: int) -> None:
    store = Overlooking()
    bench = Bench(behind=store)
    bench.connected().send(out("one"))
    store.overlooked = bench.key(number)
    numbers = [record.sequence for record in bench.records()]
    assert numbers == ([1, 2, 3, 4] if number < 4 else [1, 2, 3])


def test_what_is_no_record_is_corruption(bench: Bench) -> None:
    for key in (f"{bench.key(4)}a", bench.key(10**19)):
        bench.behind.put(key, b"x", Overwrite())
        refused_everywhere(bench)
        bench.behind.delete(key)
    bench.behind.put(f"{bench.key(6)}a", b"x", Overwrite())
    with pytest.raises(CorruptSnapshotError, match="no record of"):
        bench.records()
    bench.behind.delete(f"{bench.key(6)}a")
    assert len(bench.records()) == 6


@pytest.mark.parametrize("count", [0, 1, RECORDS_READ_AT_ONCE - 6, RECORDS_READ_AT_ONCE - 5, 40])
def test_records_are_read_to_the_end(bench: Bench, count: int) -> None:
    controller = bench.resumed()
    before = len(bench.kinds())
    controller.complete_restart()
    for _ in range(count):
        controller.interrupt()
    assert len(bench.records()) == before + 1 + 2 * count
    assert len(list(read_records(bench.here.environment, SESSION, after=7))) == before + 1 + 2 * count - 7


@pytest.mark.parametrize("fault", [FlipBit(100), Truncate(40), Truncate(0)], ids=str)
@pytest.mark.parametrize("key_part", ["/state", "00003"])
def test_damaged_bytes_are_corruption(bench: Bench, fault: Any, key_part: str) -> None:
    bench.faulty.plan.on("get", key_part, fault=fault)
    with pytest.raises(CorruptSnapshotError):
        load_realtime(bench.here, SESSION)
    assert load_realtime(bench.here, SESSION).sequence == 6


def test_a_read_that_fails_is_an_error_and_not_the_end_of_the_log(bench: Bench) -> None:
    bench.faulty.plan.on("get", "00005", fault=FailBefore())
    with pytest.raises(UnavailableError):
        load_realtime(bench.here, SESSION)


# What the bytes may say.


def stored(bench: Bench, number: int = 3) -> dict[str, Any]:
    plain: dict[str, Any] = codec.decode(codec.unguarded(bench.behind.get(bench.key(number)).data, key="k"), key="k")
    return plain


def put(bench: Bench, plain: dict[str, Any], number: int = 3) -> None:
    bench.behind.put(bench.key(number), codec.guarded(codec.encode(plain)), Overwrite())


def test_a_record_of_a_later_format_is_unsupported(bench: Bench) -> None:
    for change in ({"schema_version": 2}, {"unheard": 1}):
        plain = stored(bench)
        put(bench, {**plain, **change})
        with pytest.raises(UnsupportedSchemaError):
            load_realtime(bench.there, SESSION)
        put(bench, plain)


@pytest.mark.parametrize(
    "change",
    [{"record": {}}, {"record": None}, {"session_id": ""}, {"tenant": 7}, {"write_id": b"short"}],
    ids=str,
)
def test_a_record_that_makes_no_sense_is_corruption(bench: Bench, change: dict[str, Any]) -> None:
    put(bench, {**stored(bench), **change})
    refused_everywhere(bench)


def altered(bench: Bench, number: int, **fields: Any) -> None:
    plain = stored(bench, number)
    put(bench, {**plain, "record": {**plain["record"], **fields}}, number)


def test_a_record_of_another_session_id_inside_is_corruption(bench: Bench) -> None:
    state = {**stored(bench)["record"]["state"], "session_id": "s2"}
    altered(bench, 3, state=state)
    refused_everywhere(bench)


@pytest.mark.parametrize(
    ("number", "fields"),
    [
        (3, {"kind": "connected", "frame": None, "frame_id": None}),
        (4, {"answers": 1}),
        (6, {"answers": 3}),
        (2, {"kind": "connect_requested"}),
        (5, {"takes": [1]}),
        (5, {"repeats": 3}),
    ],
    ids=str,
)
def test_a_step_that_may_not_follow_is_corruption(bench: Bench, number: int, fields: dict[str, Any]) -> None:
    plain = stored(bench, number)
    record = {name: value for name, value in {**plain["record"], **fields}.items() if value is not None}
    put(bench, {**plain, "record": record}, number)
    refused_everywhere(bench)


def test_a_cursor_that_goes_back_is_corruption(bench: Bench) -> None:
    state = {**stored(bench, 6)["record"]["state"], "send_cursor": stored(bench, 2)["record"]["state"]["send_cursor"]}
    altered(bench, 6, state=state)
    refused_everywhere(bench)


def test_a_record_is_at_most_so_large(bench: Bench) -> None:
    record = bench.records()[2]
    assert record.frame is not None

    def with_summary(size: int) -> RealtimeSessionRecord:
        frame = record.frame and record.frame.model_copy(update={"redacted_summary": "x" * size})
        return record.model_copy(update={"frame": frame})

    room = RECORD_BYTES_MAX - len(encode("default", SESSION, WRITE_ID, with_summary(70_000))) + 70_000
    assert len(encode("default", SESSION, WRITE_ID, with_summary(room))) == RECORD_BYTES_MAX
    with pytest.raises(LimitExceededError):
        encode("default", SESSION, WRITE_ID, with_summary(room + 1))
    plain = stored(bench)
    plain["record"]["frame"]["redacted_summary"] = "x" * (room + 1)
    with pytest.raises(CorruptSnapshotError):
        decode(codec.guarded(codec.encode(plain)), key="k")


def test_a_record_comes_back_as_it_was(bench: Bench) -> None:
    for record in bench.records():
        found = decode(encode("t", SESSION, WRITE_ID, record), key="k")
        assert found.checked("t", SESSION, record.sequence) == record
        assert found.write_id == WRITE_ID


# The checkpoint.


def checkpoint(bench: Bench) -> dict[str, Any]:
    controller = bench.resumed()
    controller.send(out("held"))
    found = register_of(bench.there.environment, SESSION).read().value
    progress = replace(load_realtime(bench.there, SESSION), queue=(), in_doubt=())
    return checkpoint_to_plain(replace(found, progress=progress, queue=(9,), in_doubt=(3, 5)))


def test_a_checkpoint_comes_back_as_it_was(bench: Bench) -> None:
    plain = checkpoint(bench)
    assert checkpoint_to_plain(checkpoint_from_plain(plain)) == plain


@pytest.mark.parametrize(
    "change",
    [
        {"queue": [10]},
        {"queue": [9, 9]},
        {"queue": []},
        {"in_doubt": [5, 3]},
        {"in_doubt": [0]},
        {"in_doubt": list(range(1, 300))},
        {"sequence": -1},
        {"open_output": 10},
        {"run_id": "\n"},
        {"state": {}},
        {"recorded_at": 7},
        {"recorded_at": "zzz"},
        {"recorded_at": "2026-13-01T00:00:00.000000Z"},
    ],
    ids=str,
)
def test_a_checkpoint_that_makes_no_sense_is_refused(bench: Bench, change: dict[str, Any]) -> None:
    plain = checkpoint(bench)
    with pytest.raises(ValueError, match=r"."):
        checkpoint_from_plain({**plain, **change})


def test_a_checkpoint_that_makes_no_sense_is_named_by_its_key(bench: Bench) -> None:
    key = bench.here.environment.layout.realtime_state(SESSION)
    plain = codec.decode(codec.unguarded(bench.behind.get(key).data, key=key), key=key)
    plain["value"]["queue"] = [1]
    bench.behind.put(key, codec.guarded(codec.encode(plain)), Overwrite())
    with pytest.raises(CorruptSnapshotError) as refused:
        load_realtime(bench.there, SESSION)
    assert refused.value.key == key


def test_a_checkpoint_of_another_session_inside_is_corruption(bench: Bench) -> None:
    other_session(bench)
    theirs = register_of(bench.there.environment, "s2").read().value
    register_of(bench.there.environment, SESSION).update(lambda _: theirs)
    refused_everywhere(bench)


def test_a_record_of_a_connection_that_was_fenced_before_is_corruption(bench: Bench) -> None:
    controller = bench.resumed()
    former = bench.records()[-3].model_copy(update={"sequence": len(bench.kinds()) + 1})
    bench.behind.put(bench.key(former.sequence), encode("default", SESSION, WRITE_ID, former), Overwrite())
    with pytest.raises(CorruptSnapshotError):
        controller.send(out("f"))


def test_a_checkpoint_that_names_a_record_without_a_frame_is_corruption(bench: Bench) -> None:
    register = register_of(bench.there.environment, SESSION)
    progress = load_realtime(bench.there, SESSION)
    wrong = replace(register.read().value, progress=replace(progress, queue=(), in_doubt=()), in_doubt=(2,))
    register.update(lambda _: wrong)
    refused_everywhere(bench)
