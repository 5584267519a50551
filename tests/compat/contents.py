"""What a golden store holds: sessions of every shape that the stored format has, small, and what lies beside them.

Rules:
1. Nothing comes from outside: time, ids and bytes follow from fixed seeds. Each chapter has a clock of its own, so that
   one that changes leaves the others as they were.
2. Ids follow from the instant, not from how many were drawn before: where another compressor leads to other packs, the
   sessions are the same.

    write(Path("store"))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path
from random import Random

import pytest

from snapshots import (
    PersistedSessionState,
    PluginSessionSnapshot,
    SnapshotRepository,
    ToolState,
    TurnStamp,
    parts,
    spooling,
)
from snapshots.base import Tracking, track
from snapshots.children import EmptyStart
from snapshots.compaction import Limits
from snapshots.layout import pack_name
from snapshots.maintenance.collect import execute as execute_collect
from snapshots.maintenance.garbage import plan_collect
from snapshots.maintenance.prune import Retention, plan_prune
from snapshots.maintenance.prune import execute as execute_prune
from snapshots.portable import Event, SessionService
from snapshots.portable import session as portable_session
from snapshots.publish import Publication, intent_on
from snapshots.reading import head_at
from snapshots.realtime import RealtimeController
from snapshots.records import SessionRecords, reap
from snapshots.runtime import RuntimeSession, RuntimeSessionStore
from snapshots.staged import staged_with
from snapshots.staging import Identity
from snapshots.state import (
    HandoffRelation,
    ModeEvent,
    SessionPolicy,
    ToolCallOutput,
    ToolCallRecord,
    graph,
)
from snapshots.usage import UsageLog, compact
from storage.backends.local import LocalStore
from storage.executor import InlineExecutor
from storage.store import Create
from storage.testing.clock import START, ManualClock
from storage.testing.draws import Draws
from tests.integration.builders import message, new_session, take_turn
from tests.snapshots.realtime.bench import LostError, NotingAdapter, incoming, out, sidecar
from tests.snapshots.records import NO_TAIL, with_limits

TENANTS = ("default", "other")
READ_AT = START + timedelta(days=30)  # one pin has expired by then, another pin and a lease have not

SMALL = Limits(packs=4, merged=2, tail_pack_bytes=2 << 10, tail_bytes=3 << 10)  # with a tail, merged after few commits
APART = replace(NO_TAIL, packs=4, merged=2)  # each commit has a pack, merged after few
HELD_BYTES = 30 << 10  # from here on a state is large: it goes through a spool
WINDOW_BYTES = 30_000

NAMES: Mapping[str, tuple[str, ...]] = {
    "turns": ("held", "journey"),
    "leases": ("held", "journey"),
    "portable": ("support", "support-copy"),
    "usage": ("calls", "trip"),
    "runtime": ("trip",),
    "realtime": ("voice", "voice-closed"),
}
"""What lies beside the heads, by kind; records are listed."""


class Steps(ManualClock):
    """A clock whose ids begin anew with every advance (rule 2)."""

    def __init__(self, start: datetime, seed: int) -> None:
        super().__init__(start, seed)
        self._seed = seed

    def advance(self, seconds: float) -> None:
        super().advance(seconds)
        self._ids = Draws(f"id {self._seed} {self.monotonic()}")


def write(root: Path) -> None:
    """Write the store into a directory that is not there yet."""
    store = LocalStore(root, clock=ManualClock(seed=0))
    for number, chapter in enumerate(CHAPTERS, start=1):
        tenant = TENANTS[chapter is other_tenant]
        clock = Steps(START + timedelta(days=number), seed=number)
        with _only_source_of_time(clock), SnapshotRepository(store, tenant=tenant, clock=clock) as repo:
            repo._environment = replace(repo.environment, executor=InlineExecutor())  # equal runs, equal order
            chapter(with_limits(repo, SMALL), clock)


@contextmanager
def _only_source_of_time(clock: ManualClock) -> Iterator[None]:
    """Let the modules that have a clock of their own ask this one."""
    with pytest.MonkeyPatch.context() as patch:
        for module in (graph, portable_session):
            patch.setattr(module, "_clock", clock)
        yield


# Bytes.


def text_of(seed: int, size: int) -> str:
    """Return text that is compressed to about half, and is like no other."""
    return Random(seed).randbytes(size // 2).hex()


def memory_of(seed: int, size: int) -> bytes:
    """Return an execution state that is compressed to about a tenth; hardly two lines are equal."""
    draw = Random(seed)
    lines = (f"{draw.getrandbits(32):08x} a process sleeps and waits for its turn\n" for _ in range(size // 50 + 1))
    return "".join(lines)[:size].encode()


def in_pieces(memory: bytes, length: int) -> bytes:
    """Return it with a byte less in many places, so that it lies in many extents of what was stored before."""
    return b"".join(memory[start + 1 : start + length] for start in range(0, len(memory), length))


def overwritten(memory: bytes, seed: int, start: int, length: int) -> bytes:
    """Return it with other bytes in one place."""
    return memory[:start] + memory_of(seed, length) + memory[start + length :]


# Chapters. What each says of its session is what the format calls it.


def many_small_commits(repo: SnapshotRepository, clock: ManualClock) -> None:
    """Tails that are uploaded ahead, and what merges them; forks of two revisions while they were the present ones."""
    state = new_session("talk")
    for number in range(18):
        clock.advance(60)
        state.append_active_conversation_messages([message(f"a{number}", text=text_of(number, 140))])
        repo.commit(take_turn(state, f"t{number}", tokens=number), TurnStamp(f"turn {number}"))
        if number in (7, 15):
            clock.advance(60)
            repo.fork("talk", f"fork at {number + 1}")
    repo.pin("talk", 12, "twelve")


def commits_in_packs(repo: SnapshotRepository, clock: ManualClock) -> None:
    """Packs that are carried by later ones, and on with these."""
    with_limits(repo, replace(APART, packs=3))
    state = new_session("packed")
    for number in range(10):
        clock.advance(60)
        state.append_active_conversation_messages([message(f"a{number}", text=text_of(500 + number, 3000))])
        repo.commit(take_turn(state, f"t{number}"))
    repo.fork("packed", "fork of packed", 3)


def forks_of_it(repo: SnapshotRepository, clock: ManualClock) -> None:
    """Forks of present, older and pinned revisions, with nodes, policy or relation of their own, and forks of them."""
    repo.fork("talk", "fork", relation=HandoffRelation(parent_session_id="talk", reason="night", metadata={"at": 7}))
    repo.fork("talk", "fork of old", 7, plugins="fresh", policy=SessionPolicy(model="m2", provider="openai"))
    repo.fork("talk", "fork of pinned", "twelve", initial_nodes=[message("own1"), message("own2")])
    repo.fork("fork of pinned", "fork of fork")
    for name in ("fork of old", "fork of fork", "fork at 8"):
        for number in range(2):
            clock.advance(60)
            repo.commit(take_turn(repo.load(name), f"{name} {number}"))
    repo.fork("fork of fork", "fork of fork of fork", 2)
    state = repo.load("fork at 16")
    for number in range(5):
        clock.advance(60)
        repo.commit(take_turn(state, f"after {number} {text_of(number, 140)}"))
    clock.advance(60)
    repo.start_child("talk", EmptyStart(), "child")
    clock.advance(60)
    repo.append_session_nodes("talk", [message("last")])


def changing_execution_state(repo: SnapshotRepository, clock: ManualClock) -> None:
    """Packs of which little is still needed, so that merging writes it again; then extents by the hundred."""
    with_limits(repo, APART)
    state, memory = new_session("machine"), memory_of(1, 6000)
    for number in range(8):
        clock.advance(60)
        memory = overwritten(memory, 100 + number, 500 * (number % 8), 1500)
        repo.commit(take_turn(state, f"a{number}"), execution_state=memory)
    state = new_session("scattered")
    memory = memory_of(2, 95_000)
    for length in (300, 900, 1100, 1300):
        clock.advance(60)
        repo.commit(take_turn(state, f"before {length}"), execution_state=memory)
        memory = in_pieces(memory, length)
    with_limits(repo, SMALL)
    for number in range(5):
        clock.advance(60)
        repo.commit(take_turn(state, f"a{number}"))


def spooled_execution_state(repo: SnapshotRepository, clock: ManualClock) -> None:
    """States that were too large to be held: first, edited, merged, smaller, and large again."""
    with_limits(repo, replace(APART, packs=6))
    memory = memory_of(3, 80_000)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(parts, "HELD_BYTES_MAX", HELD_BYTES)
        patch.setattr(spooling, "COMPARED_BYTES_MIN", HELD_BYTES)
        for module in (parts, spooling):
            patch.setattr(module, "WINDOW_BYTES", WINDOW_BYTES)
        state = new_session("large")
        for number in range(4):
            clock.advance(60)
            repo.commit(take_turn(state, f"a{number}"), execution_state=memory)
            memory = overwritten(memory, 200 + number, 20_000 * number, 300)
        clock.advance(60)
        repo.commit(take_turn(state, "small"), execution_state=memory[:1000])
        clock.advance(60)
        repo.commit(take_turn(state, "large again"), execution_state=memory[:32_000])
    repo.fork("large", "fork of large", 3)


def journey(repo: SnapshotRepository, clock: ManualClock) -> None:
    """Everything that a state can hold, and every kind of revision; pins, a prune, hidden nodes."""
    state = PersistedSessionState(session_id="journey", policy=SessionPolicy(model="m", provider="openai"))
    for number in range(8):
        clock.advance(24 * 3600 / 4)
        tool = {"id": "grep", "name": "grep", "description": f"search files, {number} of them"}
        tools = {"generation": number + 1, "tools": {"grep": {"manifest": tool, "source_id": "builtin"}}}
        memory = {"meta": {"plugin_id": "memory", "plugin_version": "1", "state": {"seen": number}}}
        artifact = {"name": "index", "data": b"artifact"}
        state.tool_state_snapshot = ToolState.model_validate(tools)
        state.plugin_snapshot = PluginSessionSnapshot.model_validate(
            {"plugins": {"memory": {**memory, "artifacts": [artifact]}}}
        )
        call = ToolCallRecord(
            call_id=f"c{number}",
            tool="grep",
            args={"for": number},
            output=ToolCallOutput.success({"found": [1, 2.5, None, "ü"]}),
            duration_ms=3,
        )
        state.session_graph.append_tool_call(call)
        state.session_graph.append_mode_event(ModeEvent(mode_id="repl", payload={"number": number}))
        state.session_graph.append_plugin("memory.note", {"number": number})
        repo.commit(take_turn(state, f"a{number}", tokens=100 + number), TurnStamp(f"turn {number}", "hash"))
    repo.pin("journey", 2, "second")
    repo.pin("journey", 4, "expired", expires_at=clock.now() + timedelta(days=1))
    repo.pin("journey", 5, "expires", expires_at=READ_AT + timedelta(days=1))
    clock.advance(60)
    repo.rewind("journey", 5)
    clock.advance(60)
    repo.commit(take_turn(repo.load("journey"), "another way"), execution_state=memory_of(4, 800))
    clock.advance(60)
    repo.restore("journey", 8)
    clock.advance(60)
    state = repo.load("journey")
    hidden = state.session_graph.append_plugin("memory.note", "to be hidden")
    parent = state.session_graph.active_path_nodes()[-2].node_id
    state.session_graph.branch_to(parent)
    state.session_graph.tombstone_nodes([hidden])
    repo.commit(state)
    clock.advance(60)
    state = repo.load("journey")
    state.graph_replace_required = True
    repo.commit(take_turn(state, "graph afresh"))
    clock.advance(60)
    track(state, Tracking())  # as a process that knows the state alone: kind "replace"
    repo.commit(take_turn(state, "ledger afresh"))
    clock.advance(60)
    repo.commit(take_turn(state, "the last"))
    clock.advance(3600)
    execute_prune(plan_prune(repo, "journey", Retention(last=6, daily=2)))
    writer = repo.acquire("journey", "host-a")
    writer.begin_turn("abandoned").abandon()
    writer.release()
    repo.release_lease("journey", repo.claim_lease("journey", "host-a", 60))


def ends_and_beginnings(repo: SnapshotRepository, clock: ManualClock) -> None:
    """A deleted session, one that is held with its turn in flight, a reservation, and ids that keys encode."""
    for name in ("gone", "gone and collected", "held", "Ünusual/ID 7~", "long " * 60):
        with_limits(repo, APART if name.startswith("gone") else SMALL)
        state = new_session(name)
        for number in range(3):
            clock.advance(60)
            repo.commit(take_turn(state, f"a{number}"), execution_state=memory_of(number, 300))
    repo.pin("gone", 1, "one")
    repo.delete("gone and collected")
    clock.advance(60)
    writer = repo.acquire("held", "host-a")
    writer.commit(take_turn(writer.state, "a3"), TurnStamp("turn-3"))
    clock.advance(60)
    writer = repo.acquire("held", "host-b")
    turn = writer.begin_turn("turn-4")
    turn.perform("charge-card", "hash of the call", lambda: b"receipt")
    turn.save_checkpoint(b"half of the turn")
    repo.claim_lease("held", "host-b", 30 * 24 * 3600)
    identity = Identity(clock.new_id(), clock.now(), None)
    Publication(repo.environment, intent_on(repo.environment, "reserved", None, identity), identity).reserve()


def copies_begun(repo: SnapshotRepository, clock: ManualClock) -> None:
    """Two copies of "talk" that are not published: reservations that name what was uploaded for them."""
    for name, packs in (("copy", 2), ("copy given up", 1)):
        clock.advance(60)
        identity = Identity(clock.new_id(), clock.now(), None)
        Publication(repo.environment, intent_on(repo.environment, name, None, identity), identity).reserve()
        stage_packs(repo, clock, name, packs)


def copy_gone_on_with(repo: SnapshotRepository, clock: ManualClock) -> None:
    """One of them, after a collection, goes on: what it uploaded before is refreshed."""
    stage_packs(repo, clock, "copy", 1)


def stage_packs(repo: SnapshotRepository, clock: ManualClock, name: str, count: int) -> None:
    """Store packs of "talk" under new names, and name them in a reservation."""
    environment = repo.environment
    read = head_at(environment, environment.layout.head(name))
    uploads = {}
    for row in islice(environment.store.list(environment.layout.family("talk")), count):
        pack = pack_name(clock.new_id(), clock.new_id())
        data = environment.store.get(row.key).data
        environment.store.put(environment.layout.pack(name, pack), data, Create())
        uploads[pack] = read.head.epoch
    head = staged_with(read.head, uploads, family=name, write_id=clock.new_id(), at=clock.now())
    environment.register(name).compare_and_swap(read.version, head.encode())


def portable(repo: SnapshotRepository, clock: ManualClock) -> None:
    """A portable session with a rewind, and its import under another id."""
    service = SessionService(repo)
    session = service.create_session("app", "user-1", state={"tier": "gold", "n": None}, session_id="support")
    for number in range(5):
        clock.advance(60)
        delta = {"turns": number, "x": 1.5}
        event = Event.new("agent", f"says {number}", invocation_id=f"i{number}", state_delta=delta)
        service.append_event(session.id, event)
    clock.advance(60)
    service.rewind_to_invocation(session.id, "i3")
    clock.advance(60)
    service.append_event(session.id, Event.new("user", None, invocation_id="i9"))
    copy = replace_id(service.export_session(session.id, 4), "support-copy")
    service.store_session(copy, policy="keep-id")


def replace_id(document: dict[str, object], session_id: str) -> portable_session.Session:
    """Return the session of a document under another id."""
    session = portable_session.Session.import_(document)
    return portable_session.Session.from_fields({**session.to_plain(), "id": session_id}, session.initial_state)


def records(repo: SnapshotRepository, clock: ManualClock) -> None:
    """Records of every status."""
    found = SessionRecords(repo)
    year = 365 * 24 * 3600
    found.create("created", provider_id="openai", model="m", ttl_secs=year, metadata={"by": "a person"})
    for name, seconds in {"active": year, "closed": 3600, "expired": 3600, "talk": 0}.items():
        found.create(name, provider_id="openai", model="m", ttl_secs=seconds, initial_token_count=1000)
        clock.advance(10)
        found.activate(name)
    found.record_delta("active", 120)
    found.record_delta("closed", 7, rounds=2)
    found.close("closed")
    found.close("talk")
    found.record_delta("expired", 1)
    clock.advance(3590)
    reap(repo, limit=1)


def usage(repo: SnapshotRepository, clock: ManualClock) -> None:
    """A log whose segments were merged by appends and by hand, with a row that is there twice."""
    log = UsageLog(repo, "calls")
    for number in range(11):
        clock.advance(60)
        log.append(f'{{"ts": "{clock.now().isoformat()}", "model": "m{number % 3}", "input_tokens": {number}}}')
    log.append_many(['{"row_id": "mine", "model": "m1", "output_tokens": 5}', '{"model": "ü", "text": "not a count"}'])
    compact(repo, "calls")
    another = UsageLog(repo, "calls")
    another.append('{"row_id": "mine", "model": "m1", "output_tokens": 5}')
    another.append('{"model": "m1", "cache_read_input_tokens": 90}')


def runtime(repo: SnapshotRepository, clock: ManualClock) -> None:
    """A session that was saved from copies, and edited with authority."""
    store = RuntimeSessionStore(repo)
    session = RuntimeSession(session_id="trip", title="New chat", messages=[{"role": "user", "content": "Rome?"}])
    store.save_runtime_session(session)
    clock.advance(60)
    edited = {"title": "Rome", "pinned": True, "metadata": {"gold_config": {"a": 1}}}
    store.update_metadata("trip", lambda old: old.changed(**edited))
    clock.advance(60)
    session.messages.append({"role": "assistant", "content": "In May.", "further": [1, None]})
    store.save_runtime_session(session)
    store.append_token_usage_record("trip", '{"model": "m", "input_tokens": 10}')


def realtime(repo: SnapshotRepository, clock: ManualClock) -> None:
    """A session in the midst of a restart, with frames in doubt and held back; and one that was closed."""
    wire = NotingAdapter(coming=[incoming("in1")])
    controller = RealtimeController(repo, "voice", wire, sidecar(), run_id="run-1", agent_id="agent-1")
    controller.connect()
    for number in range(3):
        clock.advance(1)
        controller.send(out(f"f{number}"))
    controller.receive()
    controller.interrupt()
    wire.failing["send"] = 1
    with suppress(LostError):
        controller.send(out("in doubt", critical=True))
    second = RealtimeController.resume(repo, "voice", NotingAdapter(), sidecar())
    for number in range(2):
        second.send(out(f"held back {number}", critical=True))
    closed = RealtimeController(repo, "voice-closed", NotingAdapter(), sidecar())
    closed.connect()
    closed.send(out("f0"))
    closed.close()


def collected(repo: SnapshotRepository, clock: ManualClock) -> None:
    """A collection, which takes away what was carried, and more on top: heads with an epoch, and a later deletion."""
    clock.advance(60)
    execute_collect(plan_collect(repo))
    clock.advance(60)
    repo.delete("gone")
    state = repo.load("journey")
    for number in range(4):
        clock.advance(60)
        repo.commit(take_turn(state, f"after the collection {number}"))
    state = repo.load("talk")
    for number in range(5):
        clock.advance(60)
        state.append_active_conversation_messages([message(f"b{number}", text=text_of(1000 + number, 140))])
        repo.commit(state)
    with_limits(repo, APART)
    state = repo.load("machine")
    memory = repo.read_execution_state(state)
    for number in range(2):
        clock.advance(60)
        memory = overwritten(memory, 300 + number, 900 * number, 200)
        repo.commit(take_turn(state, f"b{number}"), execution_state=memory)
    clock.advance(60)
    compact(repo, "calls")  # the segments that it merged still lie there
    UsageLog(repo, "calls").append('{"model": "m2", "output_tokens": 1}')


def other_tenant(repo: SnapshotRepository, clock: ManualClock) -> None:
    """A session of another tenant with an id that is taken here too."""
    clock.advance(60)
    repo.commit(new_session("talk", "mine alone"))


CHAPTERS: tuple[Callable[[SnapshotRepository, ManualClock], None], ...] = (
    many_small_commits,
    commits_in_packs,
    forks_of_it,
    changing_execution_state,
    spooled_execution_state,
    journey,
    ends_and_beginnings,
    portable,
    records,
    usage,
    runtime,
    realtime,
    copies_begun,
    collected,
    copy_gone_on_with,
    other_tenant,
)
