"""Verifying what lies beside the sessions: every damage is found and named, a healthy store has none."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from snapshots import PersistedSessionState, SnapshotRepository, codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, SessionNotFoundError
from snapshots.layout import Layout
from snapshots.maintenance import beside
from snapshots.maintenance.beside import RECORDS_NAMED_MAX, Reported, verify_satellites
from snapshots.maintenance.collect import execute as collect
from snapshots.maintenance.collect import plan_collect, plan_on
from snapshots.maintenance.findings import Finding, Verified, VerifiedSatellite, What
from snapshots.maintenance.repair import execute, plan_repair
from snapshots.maintenance.repair.plan import Action
from snapshots.maintenance.verify import verify
from snapshots.realtime import RealtimeController
from snapshots.realtime.journal import RECORDS_BEHIND_MAX, read_records
from snapshots.records import SessionRecords
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.usage import UsageLog, compact
from snapshots.usage.index import index_register
from snapshots.usage.segments import Index, LiveSegment, SegmentFacts, seal_segment
from storage.backends import open_store
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.executor import InlineExecutor
from storage.frame import open_stream, seal_stream
from storage.store import Create, ListedObject, ObjectStore, Overwrite
from storage.testing.clock import START, ManualClock
from storage.testing.faults import FailBefore, FaultyStore, Meanwhile
from tests.integration.builders import SESSION, WatchedStore
from tests.snapshots.realtime.bench import NotingAdapter, incoming, out, sidecar

LAYOUT = Layout("default")
LONG = "s" * 200  # of which the key has a digest only
RECORDS_MIN = RECORDS_BEHIND_MAX + 8  # of a realtime session: then the checkpoint is not that of the beginning
KINDS = ("record", "metadata", "index", "segment", "state", "realtime record")


def record(host: Any, session_id: str = SESSION) -> None:
    records = SessionRecords(host)
    records.create(session_id, provider_id="p", model="m", ttl_secs=3600, metadata={"a": 1})
    records.activate(session_id)
    records.record_delta(session_id, 12)


def metadata(host: Any, session_id: str = SESSION) -> None:
    """Save a session as a runtime does: there is a head afterwards."""
    store = RuntimeSessionStore(host)
    messages: list[Any] = [{"role": "user", "content": "hello"}]
    store.save_runtime_session(RuntimeSession(session_id=session_id, title="t", messages=messages))
    store.update_metadata(session_id, lambda found: found.changed(title="other", pinned=True))


def usage(host: Any, session_id: str = SESSION, lines: int = 5) -> None:
    log = UsageLog(host, session_id)
    for n in range(lines):
        log.append(json.dumps({"model": "m", "input_tokens": n, "n": n}))


def realtime(host: Any, session_id: str = SESSION) -> None:
    """Leave a session in the middle of a restart: frames held back, one in doubt, its checkpoint in the midst."""
    adapter = NotingAdapter()
    controller = RealtimeController(host, session_id, adapter, sidecar(), run_id="run")
    controller.connect()
    adapter.failing = {"send": 1}
    with pytest.raises(Exception, match="send"):
        controller.send(out("lost"))
    controller = RealtimeController.resume(host, session_id, adapter, sidecar())
    controller.send(out("first"))
    controller.complete_restart()
    adapter.coming = [incoming(f"in-{n}") for n in range(3)]
    for n in range(RECORDS_MIN // 2):
        controller.send(out(f"out-{n}"))
        controller.receive()
    controller.begin_restart()
    for n in range(3):
        controller.send(out(f"held-{n}"))


def fill(host: Any, session_id: str = SESSION) -> None:
    for one in (record, metadata, usage, realtime):
        one(host, session_id)


@cache
def filled() -> Mapping[str, bytes]:
    """Return the objects of a store with one session that has everything beside it."""
    clock = ManualClock(seed=1)
    store = MemoryStore(clock)
    with SnapshotRepository(store, clock=clock) as repo:
        fill(repo)
    return {row.key: store.get(row.key).data for row in store.list("")}


def copied(store: ObjectStore) -> None:
    for key, data in filled().items():
        store.put(key, data, Create())


class Faulty(FaultyStore):
    """A faulty store whose listings are read at once: none is left in its midst, to be ended within another request."""

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        return iter([*super().list(prefix, start_after=start_after)])


class Place:
    """A store that can be watched and fails as told, with one session that has everything beside it."""

    def __init__(self, store: ObjectStore | None = None) -> None:
        self.clock = ManualClock(START + timedelta(hours=1), seed=2)
        self.store = MemoryStore(self.clock) if store is None else store
        copied(self.store)
        self.faulty = Faulty(self.store)
        self.watched = WatchedStore(self.faulty)
        self.repo = SnapshotRepository(self.watched, clock=self.clock, inline_limit_bytes=0)
        self.other = SnapshotRepository(self.store, clock=self.clock, inline_limit_bytes=0)

    def close(self) -> None:
        self.repo.close()
        self.other.close()

    def key(self, kind: str, session_id: str = SESSION, layout: Layout = LAYOUT) -> str:
        """Return the key of an object of each kind: of the segments and records, one in the midst."""
        keys: dict[str, Callable[[str], str]] = {
            "record": layout.record,
            "metadata": layout.metadata,
            "index": layout.usage_index,
            "state": layout.realtime_state,
            "segment": lambda session_id: self.segments(session_id)[0],
            "realtime record": lambda session_id: layout.realtime_record(session_id, 5),
        }
        return keys[kind](session_id)

    def every_key(self, session_id: str = SESSION) -> list[str]:
        """Return the keys of an object of each kind."""
        return [self.key(kind, session_id) for kind in KINDS]

    def segments(self, session_id: str = SESSION) -> list[str]:
        """Return the keys of the live segments."""
        return [LAYOUT.usage_segment(session_id, one.name) for one in UsageLog(self.other, session_id).segments()]

    def realtime_keys(self, session_id: str = SESSION) -> list[str]:
        return [row.key for row in self.store.list(LAYOUT.realtime(session_id))]

    def get(self, key: str) -> bytes:
        return self.store.get(key).data

    def put(self, key: str, data: bytes) -> None:
        self.store.put(key, data, Overwrite())

    def flip(self, key: str, position: int = 30) -> None:
        damaged = bytearray(self.get(key))
        damaged[position] ^= 1 << (position % 8)
        self.put(key, bytes(damaged))

    def findings(self, **options: Any) -> list[Finding]:
        return [one for one in verify(self.repo, **options) if isinstance(one, Finding)]

    def found(self, **options: Any) -> set[tuple[What, str]]:
        """Return kinds and keys of the findings; each must name the session and be told once."""
        findings = self.findings(**options)
        assert {one.session_id for one in findings} <= {SESSION}
        assert len({(one.what, one.key) for one in findings}) == len(findings)
        return {(one.what, one.key) for one in findings}

    def plain(self, key: str) -> dict[str, Any]:
        """Return what a guarded object holds."""
        plain: dict[str, Any] = codec.decode(codec.unguarded(self.get(key), key=key), key=key)
        return plain

    def put_plain(self, key: str, plain: dict[str, Any]) -> None:
        self.put(key, codec.guarded(codec.encode(plain)))


@pytest.fixture
def place() -> Iterator[Place]:
    made = Place()
    yield made
    made.close()


@pytest.fixture(params=["memory", "file"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    made = Place(open_store(f"file:{tmp_path / 'store'}") if request.param == "file" else None)
    yield made
    made.close()


# Healthy stores.


def grown(place: Place) -> None:
    """Fill a store with what sessions have: with heads and without, merged, deleted, under every kind of id."""
    fill(place.other, "Ünit.7")
    fill(place.other, LONG)
    for session_id in ("alone", "l" * 200):
        record(place.other, session_id)
        usage(place.other, session_id)
        realtime(place.other, session_id)
    usage(place.other, "merged", 30)
    compact(place.other, "merged")
    fill(place.other, "gone")
    place.other.delete("gone")


SATELLITES = {
    "records": {SESSION, "Ünit.7", LONG, "alone", "l" * 200, "gone"},
    "metadata": {SESSION, "Ünit.7", LONG, "gone"},
    "usage": {SESSION, "Ünit.7", LONG, "alone", "l" * 200, "merged", "gone"},
    "realtime": {SESSION, "Ünit.7", LONG, "alone", "l" * 200, "gone"},
}


def test_a_healthy_store_has_no_findings(anywhere: Place) -> None:
    grown(anywhere)
    reported = list(verify(anywhere.repo))
    assert [one for one in reported if isinstance(one, Finding)] == []
    verified = [one for one in reported if isinstance(one, Verified)]
    assert {one.session_id for one in verified} == {SESSION, "Ünit.7", LONG, "gone"}
    assert reported[: len(verified)] == verified, "sessions come first"
    beside = reported[len(verified) :]
    assert {(one.key.split("/")[1], one.session_id) for one in beside if isinstance(one, VerifiedSatellite)} == {
        (kind, session_id) for kind, every in SATELLITES.items() for session_id in every
    }
    assert len(beside) == sum(map(len, SATELLITES.values()))
    rest = list(verify(anywhere.repo, start_after=verified[1].key))
    assert rest == [*verified[2:], *beside], "start_after is about sessions"


def test_nothing_is_written(place: Place) -> None:
    grown(place)
    assert place.findings() == place.findings(session_id=SESSION) == []
    assert {verb for verb, _ in place.watched.requests} == {"get", "list", "stat"}


@pytest.mark.parametrize("level", ["heads", "presence"])
def test_only_the_level_full_looks_beside(place: Place, level: Any) -> None:
    for key in place.every_key():
        place.flip(key)
    assert place.findings(level=level) == []
    assert not [key for _, key in place.watched.requests if key.startswith(LAYOUT.satellites)]
    usage(place.other, "alone")
    with pytest.raises(SessionNotFoundError):
        place.findings(level=level, session_id="alone")


def test_superseded_segments_are_not_looked_at(place: Place) -> None:
    usage(place.other, lines=30)
    compact(place.other, SESSION)
    live = set(place.segments())
    superseded = [row.key for row in place.store.list(LAYOUT.usage(SESSION)) if row.key not in live]
    assert len(superseded) > 5
    for key in superseded[:-1]:
        place.flip(key)
    assert place.findings() == []


def test_what_is_no_satellite_is_passed_over(place: Place) -> None:
    for key in ("x", "x/index", "x/state", "x/00000000000000000001", "~", "1"):
        place.put(f"default/usage/{key}", b"")
        place.put(LAYOUT.usage(SESSION) + key, b"")
        place.put(f"default/realtime/{key}", b"")
        if key != "1":
            place.put(LAYOUT.realtime(SESSION) + key, b"")
    place.put(LAYOUT.realtime(SESSION).removesuffix("/"), b"")
    place.put(LAYOUT.realtime("none") + "1", b"")
    assert place.findings() == []


@pytest.mark.parametrize("name", ["1", "000000000000000000100", "00000000000000000001/1", "9" * 200, "a"])
def test_what_stands_among_the_records_and_is_none_is_found(place: Place, name: str) -> None:
    key = LAYOUT.realtime(SESSION) + name
    place.put(key, b"")
    assert place.found() == place.found(session_id=SESSION) == {(What.SATELLITE, key)}
    with pytest.raises(CorruptSnapshotError):
        list(read_records(place.other.environment, SESSION))
    place.flip(LAYOUT.realtime_record(SESSION, 2))
    assert place.found() == {(What.SATELLITE, key), (What.ALTERED, LAYOUT.realtime_record(SESSION, 2))}


# Damage to one object.


@pytest.mark.parametrize("kind", KINDS)
def test_every_flipped_bit_is_found(place: Place, kind: str) -> None:
    key = place.key(kind)
    size = len(place.get(key))
    for position in {*range(0, size, max(1, size // 40)), *range(size - 20, size, 3)}:
        place.flip(key, position)
        assert place.found(session_id=SESSION) == {(What.ALTERED, key)}, f"at {position}"
        place.flip(key, position)
    place.flip(key)
    assert place.found() == {(What.ALTERED, key)}
    place.flip(key)
    assert place.findings() == []


@pytest.mark.parametrize("kept", [0, 1, 15, 16, 17, 100, -1, -16, -17])
@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_object_is_found(place: Place, kind: str, kept: int) -> None:
    key = place.key(kind)
    place.put(key, place.get(key)[:kept])
    assert place.found(session_id=SESSION) == {(What.ALTERED, key)}


@pytest.mark.parametrize("kind", ["index", "segment", "state", "realtime record"])
def test_an_object_that_is_named_and_missing_is_found(place: Place, kind: str) -> None:
    key = place.key(kind)
    place.store.delete(key)
    assert place.found() == place.found(session_id=SESSION) == {(What.MISSING, key)}


@pytest.mark.parametrize("kind", ["record", "metadata"])
def test_what_nothing_names_is_not_missed(place: Place, kind: str) -> None:
    place.store.delete(place.key(kind))
    assert place.findings() == place.findings(session_id=SESSION) == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_object_of_another_session_is_found(place: Place, kind: str) -> None:
    fill(place.other, "s2")
    key = place.key(kind)
    place.put(key, place.get(place.key(kind, "s2")))
    assert place.found() == place.found(session_id=SESSION) == {(What.SATELLITE, key)}
    assert "'s2'" in place.findings()[0].reason


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "segment"])
def test_an_object_of_another_tenant_is_found(place: Place, kind: str) -> None:
    with SnapshotRepository(place.store, tenant="t2", clock=place.clock) as repo:
        fill(repo)
    key = place.key(kind)
    place.put(key, place.get(place.key(kind, layout=Layout("t2"))))
    assert place.found() == {(What.SATELLITE, key)}
    assert "'t2'" in place.findings()[0].reason


def resealed(place: Place, key: str, **changed: Any) -> None:
    """Store a segment again, with another note."""
    rows, note = open_stream(place.get(key), key=key, bytes_max=1 << 20)
    place.put(key, seal_stream(rows, json.dumps({**json.loads(note), **changed}).encode()))


@pytest.mark.parametrize("changed", [{"tenant": "t2"}, {"session_id": "s2"}, {"sequence": 7}, {"writer": "ab" * 16}])
def test_a_segment_that_says_it_is_another_is_found(place: Place, changed: dict[str, Any]) -> None:
    key = place.key("segment")
    resealed(place, key, **changed)
    assert place.found() == {(What.SATELLITE, key)}


def test_a_segment_or_record_in_the_place_of_another_is_found(place: Place) -> None:
    first, second = place.segments()[:2]
    place.put(first, place.get(second))
    fifth, sixth = (LAYOUT.realtime_record(SESSION, number) for number in (5, 6))
    place.put(fifth, place.get(sixth))
    assert place.found() == {(What.SATELLITE, first), (What.SATELLITE, fifth)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_later_schema_is_found(place: Place, kind: str) -> None:
    key = place.key(kind)
    if kind == "segment":
        resealed(place, key, schema_version=2)
    else:
        place.put_plain(key, {**place.plain(key), "schema_version": 2})
    assert place.found() == {(What.SCHEMA, key)}


@pytest.mark.parametrize("kind", ["record", "metadata", "index", "state"])
def test_a_sound_register_of_another_kind_is_found(place: Place, kind: str) -> None:
    key = place.key(kind)
    other = place.key("record" if kind != "record" else "state")
    place.put(key, place.get(other))
    assert place.found() == {(What.SATELLITE, key)}


@pytest.mark.parametrize("kind", ["record", "metadata", "index", "state"])
def test_a_register_whose_value_cannot_be_read_is_found(place: Place, kind: str) -> None:
    key = place.key(kind)
    place.put_plain(key, {**place.plain(key), "value": 7})
    assert place.found() == {(What.SATELLITE, key)}


def test_what_a_session_with_a_long_id_has_is_told_by_its_head(place: Place) -> None:
    fill(place.other, LONG)
    damaged = place.every_key(LONG)
    for key in damaged:
        place.flip(key)
    found = [*place.findings(), *place.findings(session_id=LONG)]
    assert {(one.session_id, one.key) for one in found} == {(LONG, key) for key in damaged}
    assert len(found) == 2 * len(damaged)


def test_where_nothing_tells_the_session_the_object_is_named_all_the_same(place: Place) -> None:
    record(place.other, LONG)
    usage(place.other, LONG)
    realtime(place.other, LONG)
    damaged = [place.key(kind, LONG) for kind in ("record", "index", "segment", "state")]
    for key in damaged:
        place.flip(key)
    assert {(one.session_id, one.key) for one in place.findings()} == {("", key) for key in damaged}
    place.store.delete(place.key("state", LONG))
    assert (What.MISSING, LAYOUT.realtime(LONG)) in {(one.what, one.key) for one in place.findings()}


# Damage to many.


def test_one_damaged_object_hides_no_other(place: Place) -> None:
    fill(place.other, "s2")
    lost, *others = place.segments()
    place.store.delete(lost)
    missing, *damaged = [LAYOUT.realtime_record(SESSION, number) for number in (7, 8, 30, 31, 60)]
    place.store.delete(missing)
    damaged += [*others[1:], place.key("record"), place.key("metadata")]
    for key in damaged:
        place.flip(key)
    expected = {(What.MISSING, lost), (What.MISSING, missing), *((What.ALTERED, key) for key in damaged)}
    assert place.found() == place.found(session_id=SESSION) == expected


@pytest.mark.parametrize("gone", [False, True])
def test_without_the_index_the_segments_are_looked_at(place: Place, gone: bool) -> None:
    index, (first, second, third, *_) = place.key("index"), place.segments()
    place.store.delete(index) if gone else place.flip(index)
    place.flip(first)
    place.put(second, place.get(third))
    what = What.MISSING if gone else What.ALTERED
    assert place.found() == {(what, index), (What.ALTERED, first), (What.SATELLITE, second)}


@pytest.mark.parametrize("gone", [False, True])
def test_without_the_state_the_records_are_looked_at(place: Place, gone: bool) -> None:
    state = place.key("state")
    fifth, seventh = (LAYOUT.realtime_record(SESSION, number) for number in (5, 7))
    place.store.delete(state) if gone else place.flip(state)
    place.flip(fifth)
    place.store.delete(seventh)
    what = What.MISSING if gone else What.ALTERED
    assert place.found() == {(what, state), (What.ALTERED, fifth), (What.MISSING, seventh)}


def test_every_record_that_the_state_covers_is_missed(place: Place) -> None:
    covered = place.plain(place.key("state"))["value"]["sequence"]
    assert covered > 1
    records = place.realtime_keys()[:-1]
    for key in records:
        place.store.delete(key)
    assert place.found() == {(What.MISSING, key) for key in records[:covered]}


def test_a_record_far_off_does_not_make_us_count_to_it(place: Place) -> None:
    count = len(place.realtime_keys()) - 1
    far = LAYOUT.realtime_record(SESSION, 10**20 - 1)
    place.put(far, place.get(LAYOUT.realtime_record(SESSION, 1)))
    missing = {LAYOUT.realtime_record(SESSION, count + 1 + n) for n in range(RECORDS_NAMED_MAX)}
    assert place.found() == {(What.SATELLITE, far), *((What.MISSING, key) for key in missing)}


# What a faulty writer would store: sound bytes that do not fit together.


def named_segment(place: Place, stored: list[bytes], **said: Any) -> str:
    """Put a segment of rows under a name of its own, and name it in the index; return its key."""
    facts = SegmentFacts("default", SESSION, "ab" * 16, 1, len(stored))
    data = seal_segment(facts, stored)
    key = LAYOUT.usage_segment(SESSION, facts.name)
    place.put(key, data)
    live = LiveSegment(facts.writer, 1, len(stored), len(data), sum(len(row) + 1 for row in stored))

    def changed(index: Index) -> Index:
        return replace(index, segments=(*index.segments, replace(live, **said)))

    index_register(place.other.environment, SESSION).update(changed)
    return key


GOOD_ROW = b'{"row_id":"r","model":"m"}'


@pytest.mark.parametrize(
    "row",
    [
        GOOD_ROW,
        b'{"model":"m"}',
        b'{"row_id":"r","model":7}',
        b'{"row_id":"r","input_tokens":-1}',
        b'{"row_id":"r","a":',
        b'{"row_id":"r"} x',
        b'["row_id"]',
        b"\xff",
    ],
)
def test_every_row_is_read(place: Place, row: bytes) -> None:
    key = named_segment(place, [b'{"row_id":"q"}', row])
    assert place.found() == (set() if row == GOOD_ROW else {(What.SATELLITE, key)})
    place.flip(place.key("index"))
    assert ((What.SATELLITE, key) in place.found()) == (row != GOOD_ROW)


@pytest.mark.parametrize("said", [{"rows": 2}, {"size_bytes": 1}])
def test_a_segment_must_be_what_the_index_says(place: Place, said: dict[str, Any]) -> None:
    key = named_segment(place, [GOOD_ROW], **said)
    assert place.found() == {(What.SATELLITE, key)}


def altered_record(place: Place, number: int, change: Callable[[dict[str, Any]], None]) -> str:
    key = LAYOUT.realtime_record(SESSION, number)
    plain = place.plain(key)
    change(plain["record"])
    place.put_plain(key, plain)
    return key


def restarted(record: dict[str, Any]) -> None:
    record["state"]["restart_count"] += 1


def queued(record: dict[str, Any]) -> None:
    record["state"]["backpressure_state"]["queued_frames"] += 1


@pytest.mark.parametrize("change", [restarted, queued])
@pytest.mark.parametrize("number", [1, 2, 20])
def test_records_must_follow_each_other(place: Place, number: int, change: Callable[[dict[str, Any]], None]) -> None:
    key = altered_record(place, number, change)
    found = place.found()
    # What the first record says of a state is only told by the next one.
    told = LAYOUT.realtime_record(SESSION, 2) if (number, change) == (1, restarted) else key
    assert found == {(What.SATELLITE, told)}


def test_behind_a_damaged_record_they_are_followed_from_the_checkpoint_on(place: Place) -> None:
    place.flip(LAYOUT.realtime_record(SESSION, 2))
    covered = place.plain(place.key("state"))["value"]["sequence"]
    key = altered_record(place, covered + 2, restarted)
    assert place.found() == {(What.ALTERED, LAYOUT.realtime_record(SESSION, 2)), (What.SATELLITE, key)}


def test_damage_before_and_behind_the_checkpoint_is_told_once(place: Place) -> None:
    covered = place.plain(place.key("state"))["value"]["sequence"]
    first, last = (LAYOUT.realtime_record(SESSION, number) for number in (2, covered + 2))
    place.flip(first)
    for damage, what in ((place.flip, What.ALTERED), (place.store.delete, What.MISSING)):
        before = place.get(last)
        damage(last)
        assert place.found() == {(What.ALTERED, first), (what, last)}
        place.put(last, before)
    place.put_plain(last, {**place.plain(last), "schema_version": 2})
    assert place.found() == {(What.ALTERED, first), (What.SCHEMA, last)}


@pytest.mark.parametrize("name", ["run_id", "recorded_at", "open_output", "in_doubt"])
def test_the_state_must_be_what_the_records_come_to(place: Place, name: str) -> None:
    key = place.key("state")
    plain = place.plain(key)
    present = plain["value"][name]
    other = {"run_id": "other", "recorded_at": "2020-01-01T00:00:00Z", "open_output": 1, "in_doubt": []}
    assert present != other[name]
    plain["value"][name] = other[name]
    place.put_plain(key, plain)
    assert place.found() == {(What.SATELLITE, key)}


def test_the_restart_that_a_host_announced_is_no_contradiction(place: Place) -> None:
    key = place.key("state")
    plain = place.plain(key)
    plain["value"]["claim"] += 3
    place.put_plain(key, plain)
    assert place.findings() == []


def test_a_state_that_holds_another_session_is_found(place: Place) -> None:
    fill(place.other, "s2")
    key = place.key("state")
    place.put_plain(key, {**place.plain(key), "value": place.plain(place.key("state", "s2"))["value"]})
    (found,) = place.findings()
    assert (found.what, found.key, found.reason) == (What.SATELLITE, key, "the realtime state is of another session")


# One session alone, and sessions that are gone.


def test_what_has_no_head_is_looked_at_alone(place: Place) -> None:
    usage(place.other, "alone")
    (one,) = verify(place.repo, session_id="alone")
    assert one == VerifiedSatellite(LAYOUT.usage("alone"), "alone", 0)
    key = place.key("segment", "alone")
    place.flip(key)
    finding, verified = verify(place.repo, session_id="alone")
    assert isinstance(finding, Finding)
    assert (finding.session_id, finding.key, finding.what) == ("alone", key, What.ALTERED)
    assert verified == VerifiedSatellite(LAYOUT.usage("alone"), "alone", 1)
    with pytest.raises(SessionNotFoundError):
        place.findings(session_id="none")


def test_one_session_alone_is_all_that_is_looked_at(place: Place) -> None:
    for session_id in ("s2", "s", "s11"):
        fill(place.other, session_id)
        for key in place.every_key(session_id):
            place.flip(key)
    reported = list(verify(place.repo, session_id=SESSION))
    assert [one.key for one in reported if isinstance(one, VerifiedSatellite)] == [
        LAYOUT.record(SESSION),
        LAYOUT.metadata(SESSION),
        LAYOUT.usage(SESSION),
        LAYOUT.realtime(SESSION),
    ]
    assert len(reported) == 5


def test_what_a_deleted_session_left_is_no_finding(place: Place) -> None:
    fill(place.other, LONG)
    for session_id in (SESSION, LONG):
        *_, index, _, state, _ = keys = place.every_key(session_id)
        for key in keys:
            place.flip(key)
        assert len(place.findings(session_id=session_id)) == len(keys)
        place.other.delete(session_id)
        assert place.findings(session_id=session_id) == []
        for key in (index, state):
            place.store.delete(key)
    assert place.findings() == place.findings(session_id=SESSION) == []


def test_damage_to_the_head_hides_nothing_beside_it(place: Place) -> None:
    place.flip(LAYOUT.head(SESSION))
    place.flip(place.key("record"))
    found = {(one.what, one.key, one.session_id) for one in place.findings()}
    assert found == {(What.HEAD, LAYOUT.head(SESSION), ""), (What.ALTERED, place.key("record"), SESSION)}


# Others at work.


class Beside:
    """Satellites on a store that fails as told, looked at without threads: requests have an order."""

    def __init__(self) -> None:
        self.clock = ManualClock(START + timedelta(minutes=1), seed=2)
        self.store = MemoryStore(self.clock)
        copied(self.store)
        self.faulty = Faulty(self.store)
        self.other = SnapshotRepository(self.store, clock=self.clock)
        self.environment = Environment(self.faulty, LAYOUT, self.clock, InlineExecutor())
        usage(self.other, lines=10)

    def findings(self) -> list[Reported]:
        return [one for one in verify_satellites(self.environment) if isinstance(one, Finding)]


def merging(beside: Beside) -> None:
    """Merge the segments of the log, and delete those that were merged."""
    compact(beside.other, SESSION)
    collect(plan_collect(beside.other))


def deleting(beside: Beside) -> None:
    beside.other.delete(SESSION)
    collect(plan_collect(beside.other))


def leaving(beside: Beside) -> None:
    """Delete the session, and go away in the middle of collecting what lay beside it."""
    beside.other.delete(SESSION)
    for number, key in enumerate(plan_on(beside.other.environment).satellites):
        if number % 2 == 0:
            beside.store.delete(key)


def going_on(beside: Beside) -> None:
    records = SessionRecords(beside.other)
    records.record_delta(SESSION, 1)
    usage(beside.other, lines=2)
    RuntimeSessionStore(beside.other).update_metadata(SESSION, lambda found: found.changed(pinned=False))
    controller = RealtimeController.resume(beside.other, SESSION, NotingAdapter(), sidecar())
    controller.complete_restart()
    for n in range(RECORDS_BEHIND_MAX // 2):
        controller.send(out(f"more-{n}"))


@pytest.mark.parametrize("meanwhile", [merging, deleting, leaving, going_on])
def test_what_others_do_meanwhile_is_no_finding(meanwhile: Callable[[Beside], None]) -> None:
    measured = Beside()
    assert measured.findings() == []
    requests = dict.fromkeys((request.verb, request.keys[0]) for request in measured.faulty.log)
    measured.other.close()
    assert len(requests) > 100
    numbered = [LAYOUT.realtime_record(SESSION, number) for number in range(1, 1000)]
    records = [(verb, key) for verb, key in requests if key in numbered]
    assert len(records) > RECORDS_MIN
    for verb, key in [one for one in requests if one not in records] + records[::20]:
        again = Beside()
        act = Meanwhile(lambda again=again: meanwhile(again))  # type: ignore[misc]  # mypy cannot infer a lambda with a default
        again.faulty.plan.on(verb, key, fault=act)
        assert again.findings() == [], f"before {verb} {key}"
        again.other.close()


def test_segments_that_took_the_place_of_others_meanwhile_are_looked_at() -> None:
    beside = Beside()
    first = UsageLog(beside.other, SESSION).segments()[0]

    def merged_and_damaged() -> None:
        merging(beside)
        (one,) = [row.key for row in beside.store.list(LAYOUT.usage(SESSION)) if row.key.endswith(".zst")]
        beside.store.put(one, beside.store.get(one).data[:-1], Overwrite())

    beside.faulty.plan.on("get", LAYOUT.usage_segment(SESSION, first.name), fault=Meanwhile(merged_and_damaged))
    (found,) = beside.findings()
    assert isinstance(found, Finding)
    assert found.what is What.ALTERED
    assert found.key in {row.key for row in beside.store.list(LAYOUT.usage(SESSION))}
    beside.other.close()


def test_a_log_that_never_stands_still_ends_the_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(beside, "RESTARTS_MAX", 1)
    made = Beside()
    first = UsageLog(made.other, SESSION).segments()[0]
    key = LAYOUT.usage_segment(SESSION, first.name)
    made.faulty.plan.on("get", key, fault=Meanwhile(lambda: merging(made)))
    with pytest.raises(UnavailableError, match="kept moving"):
        made.findings()
    made.other.close()


@pytest.mark.parametrize("kind", ["record", "metadata", "index", "state"])
def test_what_was_listed_and_is_gone_without_anything_that_needs_it_is_no_finding(place: Place, kind: str) -> None:
    index_register(place.other.environment, "s2").put(lambda _: Index())
    record(place.other, "s2")
    metadata(place.other, "s2")
    realtime(place.other, "s2")
    for row in place.store.list(LAYOUT.realtime("s2")):
        if row.key != place.key("state", "s2"):
            place.store.delete(row.key)
    state = place.plain(place.key("state", "s2"))
    state["value"].update(sequence=0, queue=[], in_doubt=[], open_output=0)
    state["value"]["state"]["backpressure_state"]["queued_frames"] = 0
    place.put_plain(place.key("state", "s2"), state)
    assert place.findings() == []
    key = place.key(kind, "s2")
    place.faulty.plan.on("get", key, fault=Meanwhile(lambda: place.store.delete(key)))
    assert place.findings() == []
    assert [row.key for row in place.store.list(key)] == []


def test_a_segment_that_goes_while_nothing_names_it_is_no_finding(place: Place) -> None:
    place.flip(place.key("index"))
    key = next(row.key for row in place.store.list(LAYOUT.usage(SESSION)))
    place.faulty.plan.on("get", key, fault=Meanwhile(lambda: place.store.delete(key)))
    assert place.found() == {(What.ALTERED, place.key("index"))}


@pytest.mark.parametrize("kind", KINDS)
def test_a_store_that_does_not_answer_is_no_finding(place: Place, kind: str) -> None:
    place.faulty.plan.on("get", place.key(kind), fault=FailBefore(), times=None)
    for options in ({}, {"session_id": SESSION}):
        with pytest.raises(UnavailableError):
            place.findings(**options)


# Repair.


def test_a_repair_names_what_it_cannot_mend_and_mends_the_rest(place: Place) -> None:
    state = PersistedSessionState(session_id="s2")
    for number in range(3):
        state.turn_index = number
        place.other.commit(state, execution_state=f"state {number}".encode() * 50)
    record(place.other, "s2")
    usage(place.other, "alone")
    (last,) = [row.key for row in place.store.list("default/packs/s2/")][-1:]
    place.flip(last, 40)
    damaged = [place.key("record", "s2"), place.key("segment", "alone"), *place.every_key()]
    for key in damaged:
        place.flip(key)
    assert len({one.key for one in place.findings()} - {*damaged}) == 1
    plan = plan_repair(place.repo)
    assert [one.key for one in plan.sessions] == sorted(map(LAYOUT.head, (SESSION, "s2", "alone")))
    beside = [one for one in plan.remaining if one.finding.key in damaged]
    assert {one.finding.key for one in beside} == {*damaged}
    assert all(one.action is Action.NONE and one.finding.key in one.remedy for one in beside)
    report = execute(plan)
    assert [one.session_id for one in report.repaired] == ["s2"]
    assert report.refused == ()
    assert {one.key for one in place.findings()} == {*damaged}
    assert {one.finding.key for one in report.remaining} == {*damaged}
    assert not plan_repair(place.repo).writes


def test_a_repair_of_what_has_no_head_names_it(place: Place) -> None:
    usage(place.other, "alone")
    usage(place.other, LONG)
    damaged = [place.key("index", session_id) for session_id in ("alone", LONG)]
    for key in damaged:
        place.flip(key)
    plan = plan_repair(place.repo)
    assert not plan.writes
    assert [one.finding.key for one in plan_repair(place.repo, "alone").remaining] == damaged[:1]
    assert "session 'alone'" in str(plan)
    assert LAYOUT.usage(LONG) in str(plan)
    assert {one.finding.key for one in plan.remaining} == {*damaged}


def test_a_later_schema_beside_a_session_does_not_keep_it_from_being_repaired(place: Place) -> None:
    key = place.key("record")
    place.put_plain(key, {**place.plain(key), "schema_version": 2})
    (proposal,) = plan_repair(place.repo).remaining
    assert (proposal.finding.what, proposal.remedy) == (What.SCHEMA, "use a newer version of this software")
