"""The decoders: how each is called, what it may raise, and valid examples of what it reads."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from pydantic import ValidationError

from snapshots import PersistedSessionState, SnapshotRepository, codec, history, placement, store_object
from snapshots.adapters.transcripts.reading import parse_transcripts
from snapshots.checkpoint import SessionCheckpoint
from snapshots.environment import Environment
from snapshots.epochs import take_number
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidInputError,
    InvalidStateError,
    LimitExceededError,
    UnsupportedSchemaError,
)
from snapshots.fields import Fields
from snapshots.head import Head
from snapshots.layout import STORE_KEY, Layout
from snapshots.logs import log_ref_from_plain
from snapshots.maintenance.marks import Marks, pack_mark
from snapshots.overrides import overrides_from_plain
from snapshots.placement import Placement, open_manifest, seal_manifest, unseal_manifest
from snapshots.portable import Session, from_state, to_state
from snapshots.portable.document import document_digest, read_document
from snapshots.realtime.journal import load_progress, stored_record
from snapshots.realtime.journal import register_of as realtime_register
from snapshots.realtime.progress import Checkpoint
from snapshots.records import StoredRecord
from snapshots.records.stored import read_at, register_of
from snapshots.runtime import RuntimeMetadata, RuntimeSession
from snapshots.runtime.merge import amend
from snapshots.runtime.persistence import METADATA
from snapshots.runtime.stored import StoredMetadata
from snapshots.satellite import SatelliteRegister
from snapshots.state import PluginSessionSnapshot, SessionGraph, ToolState, nodes_from_plain, nodes_to_plain
from snapshots.turns import Effect, TurnRecord
from snapshots.usage.index import index_register
from snapshots.usage.rows import line_of, row_of
from snapshots.usage.segments import SEGMENT_BYTES_MAX, Index, LiveSegment, SegmentFacts, open_segment, seal_segment
from storage.archives import seal_pieces
from storage.backends.archive_index import ArchiveIndex
from storage.backends.memory import MemoryStore
from storage.digest import BlobRef, blob_ref, short_hash
from storage.errors import CorruptObjectError
from storage.executor import InlineExecutor
from storage.frame import (
    FRAME_BYTES_MAX,
    NOTE_BYTES_MAX,
    Prefix,
    open_frame,
    open_run,
    open_stream,
    seal_frame,
    seal_run,
    seal_stream,
)
from storage.leases import LeaseRegister
from storage.pack_reader import PackReader
from storage.packs import PackBuilder, read_index
from storage.server import ServerFacts, Verdict
from storage.store import Overwrite, Version
from storage.testing.clock import ManualClock
from tests.fuzz.inputs import Form
from tests.integration.builders import message, raw_head
from tests.integration.turns import stamp, take
from tests.snapshots import test_records as valid
from tests.snapshots.portable.samples import original, talk
from tests.snapshots.realtime.bench import Bench, LostError, incoming, out
from tests.snapshots.records import ID, PACK, StagedSession, reserved_head
from tests.snapshots.state.builders import call, node, plugin_node
from tests.storage import test_archives as archives

KEY = "heads/x"
RUN_BYTES_MAX = 1 << 20  # what the run of frames here is opened with
RECORD = (CorruptSnapshotError, UnsupportedSchemaError)
RECORD_KEY = Layout("default").record("s1")
Read = Callable[[bytes], object]


@dataclass(frozen=True)
class Decoder:
    """One decoder.

    Attributes:
        name: What it reads.
        read: Stored bytes to a value.
        errors: All that it may raise.
        form: Of its innermost bytes.
        examples: Innermost bytes that it accepts.
        wrap: Innermost to stored bytes, checksums right.
        fixed_bytes: Memory that any input may take, whatever its size; the rest is in proportion to the input.
    """

    name: str
    read: Read
    errors: tuple[type[Exception], ...]
    form: Form
    examples: tuple[bytes, ...]
    wrap: Callable[[bytes], bytes] = bytes
    fixed_bytes: int = 1 << 20

    def stored(self, random: Random, inner: bytes, damage: Callable[[Random, bytes], bytes]) -> bytes:
        """Return `inner` as it is stored; now and then damaged on the outside as well."""
        data = self.wrap(inner)
        return damage(random, data) if random.random() < 0.1 else data


# Examples.


def session(turns: int = 4) -> tuple[MemoryStore, PersistedSessionState]:
    """Return a store with a session of some turns, and its state with everything inline."""
    store = MemoryStore(ManualClock())
    with SnapshotRepository(store, clock=ManualClock()) as repo:
        state = PersistedSessionState(session_id="s1")
        for turn in range(1, turns + 1):
            repo.commit(state, stamp(turn), take(state, turn))
        repo.fork("s1", "s2")
        return store, repo.load("s1", execution_state=True)


STORE, STATE = session()
HEAD = raw_head(STORE, "s1")
MANIFEST = unseal_manifest(HEAD.inline_manifest, key=KEY)
CHECKPOINT_BYTES, PLACEMENT_BYTES = open_manifest(MANIFEST, key=KEY)
NODES = [
    node("n0"),
    plugin_node("n1", "n0"),
    node("n2", "n1", payload=call("c1", {"a": [1, None]})),
    node("n3", "n2", payload=call(None, "x")),
    node("n4", "n3", payload=message("m4")),
]
TALK = talk("i1", "i2", "i1", state={"tier": "gold"})
TURN = TurnRecord("s1", "default", ID, 3, ID, "turn-7", b"checkpoint", {"mail": Effect("hash", b"sent")}, 2)
TAU = {
    "task_id": 1,
    "trial": 0,
    "reward": 1.0,
    "traj": [
        {"role": "system", "content": "be good"},
        {"role": "user", "content": "hi"},
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}],
        },
        {"role": "tool", "tool_call_id": "c1", "name": "look", "content": "[]"},
        {"role": "user", "content": [{"type": "text", "text": "and now?"}]},
    ],
}
SWE = {
    "trajectory": [{"action": "ls", "observation": "a", "response": "r", "state": "{}", "thought": "t"}],
    "history": [
        {"role": "system", "content": "s", "agent": "primary"},
        {"role": "user", "content": "u", "agent": "primary"},
        {"role": "assistant", "content": "r", "thought": "t", "action": "ls", "agent": "primary"},
        {"role": "user", "content": "a", "agent": "primary"},
    ],
    "info": {"model_stats": {"tokens_sent": 10, "tokens_received": 2, "api_calls": 1, "instance_cost": 0.5}},
}


def logs() -> StagedSession:
    """Return a session of some commits, for the rows of its logs."""
    staged = StagedSession.new()
    for turn in range(1, 7):
        staged.commit(take(staged.state, turn))
    return staged


LOGS = logs()
PLACES = [row.to_plain() for row in LOGS.base.places.entries]
FORKED = replace(
    placement.row_from_plain(PLACES[0]),
    overrides=valid.OVERRIDES,
    manifest=valid.PLACE,
    ended=valid.PLACEMENT.packs[1:],
    moved=valid.PLACE.moved.moves(),
).to_plain()


def written_by(write: Callable[[Environment], object], key: str) -> bytes:
    """Return what a writer of ours leaves under `key`."""
    environment = environment_with({})
    write(environment)
    return environment.store.get(key).data


def environment_with(objects: dict[str, bytes], store: MemoryStore | None = None) -> Environment:
    """Return an environment on a store that holds these objects."""
    store = store or MemoryStore(ManualClock())
    for key, data in objects.items():
        store.put(key, data, Overwrite())
    return Environment(store, Layout("default"), ManualClock(), InlineExecutor())


# Decoders that are not one function of bytes.


def entries_in(data: bytes) -> list[Any]:
    """Return the entries of a log; the list that they are given as tells how many it should have."""
    kind, size = (data[0] >> 5, data[0] & 31) if data else (0, 0)
    if kind != 4 or size > 27:
        return codec.decode_entries(data, len(data), key=KEY)
    width = 1 << size - 24 if size > 23 else 0  # RFC 8949 section 3
    return codec.decode_entries(
        data[1 + width :], int.from_bytes(data[1 : 1 + width], "big") if width else size, key=KEY
    )


def rows_of(parse: Callable[[Any], object]) -> Read:
    """Return what reads a log."""
    return lambda data: Fields({"rows": entries_in(data)}, key=KEY, record="log").rows("rows", parse)


def read_by(parse: Callable[[Any], object]) -> Read:
    """Return what reads one field of a record."""
    return lambda data: Fields({"field": codec.decode(data, key=KEY)}, key=KEY, record="record").optional(
        "field", parse
    )


def in_a_placement(name: str) -> Callable[[bytes], bytes]:
    """Return what puts a field of any bytes into a placement that is all right otherwise."""
    plain = codec.decode(valid.PLACEMENT.encode(), key=KEY)
    others = b"".join(encoded(key) + encoded(value) for key, value in plain.items() if key != name)
    return lambda data: bytes([0xA0 | len(plain)]) + others + encoded(name) + data


def read_graph(data: bytes) -> object:
    return SessionGraph.from_nodes(nodes_from_plain(entries_in(data)), "n4", committed=True)


def read_snapshot(kind: type[ToolState | PluginSessionSnapshot], data: bytes) -> object:
    return kind.model_validate(codec.decode(data, key=KEY))


def read_session_document(data: bytes) -> object:
    return Session.import_(read_document(data, source="x.json"), source="x.json")


def with_its_digest(data: bytes) -> bytes:
    """Return a session document with a digest that is right, if it is an object."""
    try:
        document = json.loads(data)
        return json.dumps({**document, "digest": document_digest(document)}).encode()
    except (ValueError, TypeError, RecursionError):
        return data


def read_portable_session(data: bytes) -> object:
    """Read a session whose graph is damaged."""
    state = to_state(TALK)
    state.session_graph = SessionGraph.from_nodes(nodes_from_plain(codec.decode(data, key=KEY)), "event:e3")
    return from_state(state)


def read_lease(data: bytes) -> object:
    environment = environment_with({KEY: data})
    return LeaseRegister(environment.store, KEY, environment.clock, label="s1").read()


def read_epoch(data: bytes) -> object:
    environment = environment_with({})
    environment.store.put(environment.layout.epoch, data, Overwrite())
    return take_number(environment)


def read_store_object(data: bytes) -> object:
    return store_object.read(environment_with({STORE_KEY: data}))


def read_pack_index(data: bytes) -> object:
    return read_index(environment_with({KEY: data}).store, KEY, PACK)


def in_an_archive(piece: bytes) -> bytes:
    """Return an archive with an index of this piece, which says itself how many rows there are; none of no bytes."""
    pieces = [seal_frame(piece[:FRAME_BYTES_MAX])] if piece else []
    return archives.archive(*pieces, objects=int.from_bytes(piece[:4], "big")).data


def read_archive(data: bytes) -> object:
    index = ArchiveIndex(archives.Held(data), Path("x.snapshots"))
    return [index.row(key) for key, _ in index.rows("", "")]


def index_at_the_end(index: bytes) -> bytes:
    run = seal_run(index)
    return b"frames" + run + (6).to_bytes(8, "big") + short_hash(run, 8) + b"SNAPPACK"


def loaded(head: Head | bytes) -> object:
    """Load the session whose head is changed, from a store that holds all else."""
    data = head if isinstance(head, bytes) else head.encode()
    STORE.put(Layout("default").head("s1"), data, Overwrite())
    with SnapshotRepository(STORE, clock=ManualClock()) as repo:
        return repo.load("s1", execution_state=True), repo.history("s1")


def loaded_by_placement(data: bytes) -> object:
    return loaded(replace(HEAD, inline_manifest=manifest_of(CHECKPOINT_BYTES, data)))


def loaded_by_checkpoint(data: bytes) -> object:
    return loaded(replace(HEAD, checkpoint_ref=blob_ref(data), inline_manifest=manifest_of(data, PLACEMENT_BYTES)))


def manifest_of(checkpoint: bytes, placed: bytes) -> bytes:
    return seal_manifest(encoded([checkpoint, placed]))


def read_manifest(data: bytes) -> object:
    return open_manifest(unseal_manifest(data, key=KEY), key=KEY)


def read_manifest_against_another(data: bytes) -> object:
    return open_manifest(unseal_manifest(data, key=KEY, against=MANIFEST), key=KEY)


BUILDER = PackBuilder(PACK)
BLOBS = [BUILDER.add("part", bytes(range(256)) * count) for count in (1, 3, 600)]
LOG = [b"the first entries of a log, and " * 9, b"the next entries of a log, and " * 12]
BLOBS.append(blob_ref(b"".join(LOG)))
BUILDER.add_log("graph", BLOBS[-1], LOG, lambda position: b"".join(LOG)[:position])
PACKED = BUILDER.finish({"session": "s1", "tenant": "default"})


def read_pack(data: bytes) -> object:
    store = environment_with({PACK: data}).store
    wanted: dict[BlobRef, Any] = {blob: BUILDER.extents[blob.digest] for blob in BLOBS}
    return PackReader(store, str, InlineExecutor()).blobs(wanted)


def index_json() -> bytes:
    rows = [
        [
            "part",
            blob.digest,
            blob.size_bytes,
            [[one.offset, one.stored_bytes, one.skip, one.length] for one in BUILDER.extents[blob.digest]],
        ]
        for blob in BLOBS
    ]
    return json.dumps({"facts": {"session": "s1"}, "blobs": rows, "runs": [[0, 90], [90, 1]]}).encode()


def example_lease() -> bytes:
    environment = environment_with({})
    LeaseRegister(environment.store, KEY, environment.clock, label="s1").claim("host", 30)
    return environment.store.get(KEY).data


def read_record(data: bytes) -> object:
    environment = environment_with({RECORD_KEY: data})
    return register_of(environment, "s1").read(), read_at(environment, RECORD_KEY)


def example_record(**fields: Any) -> bytes:
    """Return an active record that was counted on."""

    def write(environment: Environment) -> object:
        at = environment.clock.now()
        first = StoredRecord.create("s1", "default", provider_id="p", model="m", created_at=at, ttl_secs=60, **fields)
        register = register_of(environment, "s1")
        register.create(first)
        return register.update(lambda stored: stored.activate(at).record_delta(7, at=at))

    return unguarded(written_by(write, RECORD_KEY))


def metadata_of(environment: Environment) -> SatelliteRegister[StoredMetadata]:
    return SatelliteRegister(environment, "s1", environment.layout.metadata("s1"), METADATA)


def read_metadata(data: bytes) -> object:
    return metadata_of(environment_with({Layout("default").metadata("s1"): data})).read()


def example_metadata(**fields: Any) -> bytes:
    """Return metadata that a runtime saved, and an authoritative writer has changed since."""
    saved = StoredMetadata(RuntimeMetadata(**fields))
    metadata = amend(saved, saved.document.changed(metadata={"theme": "dark"}, color=None))
    return unguarded(written_by(lambda env: metadata_of(env).create(metadata), Layout("default").metadata("s1")))


def realtime() -> dict[str, bytes]:
    """Return all that is stored of a realtime session, by key: a frame each way, one in doubt, and two in its queue."""
    bench = Bench()
    controller = bench.connected()
    controller.send(out("sent"))
    bench.adapter.coming.append(incoming("answer", response_id="r1"))
    controller.receive()
    bench.adapter.failing["send"] = 1
    with suppress(LostError):
        controller.send(out("doubtful"))
    controller.begin_restart()
    for name in ("held", "as well"):
        controller.send(out(name, critical=True))
    checkpoint = Checkpoint.of(load_progress(bench.there.environment, "s1"))
    realtime_register(bench.there.environment, "s1").update(lambda _: checkpoint)
    return {row.key: bench.behind.get(row.key).data for row in bench.behind.list("")}


REALTIME = realtime()
REALTIME_STATE = Layout("default").realtime_state("s1")


REALTIME_RECORDS = tuple(data for key, data in REALTIME.items() if key != REALTIME_STATE)


def read_realtime_record(data: bytes) -> object:
    stored = stored_record(environment_with({Layout("default").realtime_record("s1", 1): data}), "s1", 1)
    return stored and stored.record


def read_realtime_state(data: bytes) -> object:
    return load_progress(environment_with({**REALTIME, REALTIME_STATE: data}), "s1")


RUNTIME: dict[str, Any] = {
    "title": "t",
    "pinned": True,
    "metadata_version": 3,
    "metadata": {"gold_config": {"a": [1, None]}},
    "updated_at": "2026-01-01T00:00:00.5+02:00",
    "spawn_depth": 0,
}


def example_marks() -> bytes:
    marks = Marks()
    for number in range(5):
        marks.add(f"head {number}", Version("v"), [pack_mark(f"pack {index}") for index in range(number)])
    return marks.encode(tenant="default", write_id=ID)


USAGE_FACTS = SegmentFacts("default", "s1", "a" * 32, 1, 2)
USAGE_ROWS = (b'{"row_id":"r1","model":"m","input_tokens":10}', b'{"row_id":"r\\u00e92","ts":"2026-01-01T00:00:00Z"}')


def example_usage_index() -> bytes:
    """Return an index of two segments, one of which was merged."""
    segments = (LiveSegment("a" * 32, 1, 8, 300, 900, 1), LiveSegment("b" * 32, 7, 1, 90, 100))
    key = Layout("default").usage_index("s1")
    return unguarded(written_by(lambda env: index_register(env, "s1").create(Index(3, segments)), key))


def read_usage_index(data: bytes) -> object:
    environment = environment_with({Layout("default").usage_index("s1"): data})
    return index_register(environment, "s1").read()


def read_usage_segment(data: bytes) -> object:
    _, rows = open_segment(data, key=KEY)
    return [row_of(row, key=KEY).record for row in rows]


def as_usage_rows(lines: bytes) -> bytes:
    """Return lines as a segment that declares two of them, whatever they are."""
    note = open_stream(seal_segment(USAGE_FACTS, USAGE_ROWS), key=KEY, bytes_max=SEGMENT_BYTES_MAX)[1]
    return seal_stream(lines or b"\n", note)


def as_usage_note(note: bytes) -> bytes:
    return seal_stream(b"".join(row + b"\n" for row in USAGE_ROWS), note[:NOTE_BYTES_MAX])


def read_usage_line(data: bytes) -> object:
    line = line_of(data.decode("utf-8", "surrogateescape"), source="usage", position="line 1")
    return row_of(line.stored("w-1-0"), key=KEY)


def unguarded(data: bytes) -> bytes:
    return codec.unguarded(data, key=KEY)


def encoded(plain: Any) -> bytes:
    return codec.encode(plain)


HEADS = tuple(unguarded(one.encode()) for one in (valid.HEAD, valid.FORK_HEAD, valid.STAGING_HEAD, reserved_head()))
EPOCH = unguarded(written_by(take_number, Layout("default").epoch))
VERDICT = Verdict(
    "http://127.0.0.1:9000", ManualClock().now(), ("create where something is: stored all the same",), ServerFacts()
)
IDENTITIES = (
    written_by(store_object.make, STORE_KEY),
    written_by(lambda environment: store_object.make(environment, VERDICT), STORE_KEY),
)
FRAMES = tuple(map(seal_frame, (b"x" * 100, bytes(range(256)) * 40, b"\x00" * FRAME_BYTES_MAX)))
PREFIX = Prefix(CHECKPOINT_BYTES)
CONTINUED = tuple(seal_frame(raw, PREFIX) for raw in (CHECKPOINT_BYTES[9:], CHECKPOINT_BYTES * 30, b"x" * 100))
ROWS = encoded([row.to_plain() for row in LOGS.base.rows])

TURN_BYTES = unguarded(TURN.encode())
GRAPH = encoded(nodes_to_plain(NODES))

cbor = partial(Decoder, form=Form.CBOR)
as_json = partial(Decoder, form=Form.JSON)
in_frames = partial(Decoder, form=Form.FRAMES, errors=(CorruptObjectError,))

DECODERS: tuple[Decoder, ...] = (
    cbor("codec", partial(codec.decode, key=KEY), (CorruptSnapshotError,), examples=(ROWS, CHECKPOINT_BYTES)),
    cbor("head", partial(Head.decode, key=KEY), RECORD, examples=HEADS, wrap=codec.guarded),
    cbor(
        "checkpoint",
        partial(SessionCheckpoint.decode, key=KEY),
        RECORD,
        examples=(CHECKPOINT_BYTES, valid.CHECKPOINT.encode()),
    ),
    cbor("placement", partial(Placement.decode, key=KEY), RECORD, examples=(PLACEMENT_BYTES, valid.PLACEMENT.encode())),
    cbor(
        "manifest",
        read_manifest,
        (*RECORD, CorruptObjectError),
        examples=(MANIFEST,),
        wrap=seal_manifest,
        fixed_bytes=64 << 20,  # MANIFEST_BYTES_MAX: equal entries take very little when they are stored
    ),
    cbor(
        "manifest against another",
        read_manifest_against_another,
        (*RECORD, CorruptObjectError),
        examples=(MANIFEST, encoded([valid.CHECKPOINT.encode(), PLACEMENT_BYTES])),
        wrap=partial(seal_manifest, against=MANIFEST),
        fixed_bytes=64 << 20,
    ),
    cbor(
        "frames of a placement",
        partial(Placement.decode, key=KEY),
        RECORD,
        examples=(encoded(codec.decode(valid.PLACEMENT.encode(), key=KEY)["frames"]),),
        wrap=in_a_placement("frames"),
    ),
    cbor(
        "extents of a placement",
        partial(Placement.decode, key=KEY),
        RECORD,
        examples=(encoded(codec.decode(valid.PLACEMENT.encode(), key=KEY)["extents"]),),
        wrap=in_a_placement("extents"),
    ),
    cbor("log ref", read_by(log_ref_from_plain), RECORD, examples=(encoded(valid.PLACEMENT.places.to_plain()),)),
    cbor("place", read_by(placement.place_from_plain), RECORD, examples=(encoded(valid.PLACE.to_plain()),)),
    cbor("log", entries_in, (CorruptSnapshotError,), examples=(ROWS, encoded([]), encoded(list(range(300))))),
    cbor("rows of a history", rows_of(history.row_from_plain), RECORD, examples=(ROWS,)),
    cbor("rows of places", rows_of(placement.row_from_plain), RECORD, examples=(encoded([*PLACES, FORKED]),)),
    cbor("overrides", read_by(overrides_from_plain), RECORD, examples=(encoded(valid.OVERRIDES.to_plain()),)),
    cbor(
        "turn in flight",
        partial(TurnRecord.decode, key=KEY),
        RECORD,
        examples=(unguarded(TURN.encode()),),
        wrap=codec.guarded,
    ),
    cbor(
        "session record",
        read_record,
        RECORD,
        examples=(example_record(), example_record(metadata={"a": [1, None, "x"]})),
        wrap=codec.guarded,
    ),
    cbor(
        "metadata of a runtime",
        read_metadata,
        RECORD,
        examples=(example_metadata(), example_metadata(**RUNTIME)),
        wrap=codec.guarded,
    ),
    cbor(
        "realtime record",
        read_realtime_record,
        RECORD,
        examples=tuple(map(unguarded, REALTIME_RECORDS)),
        wrap=codec.guarded,
    ),
    cbor(
        "realtime state",
        read_realtime_state,
        RECORD,
        examples=(unguarded(REALTIME[REALTIME_STATE]),),
        wrap=codec.guarded,
        fixed_bytes=4 << 20,  # the records that it names
    ),
    cbor("usage index", read_usage_index, RECORD, examples=(example_usage_index(),), wrap=codec.guarded),
    cbor("epoch", read_epoch, RECORD, examples=(EPOCH,), wrap=codec.guarded),
    cbor(
        "mark cache",
        partial(Marks.decode, key=KEY, tenant="default"),
        RECORD,
        examples=(unguarded(example_marks()),),
        wrap=codec.guarded,
    ),
    cbor("store object", read_store_object, RECORD, examples=IDENTITIES),
    cbor("graph", read_graph, (*RECORD, InvalidStateError, ValidationError), examples=(GRAPH,)),
    cbor(
        "tool state",
        partial(read_snapshot, ToolState),
        (CorruptSnapshotError, ValidationError),
        examples=(encoded(STATE.tool_state_snapshot.model_dump()),) if STATE.tool_state_snapshot else (),
    ),
    cbor(
        "plugin snapshot",
        partial(read_snapshot, PluginSessionSnapshot),
        (CorruptSnapshotError, ValidationError),
        examples=(encoded(STATE.plugin_snapshot.model_dump()),) if STATE.plugin_snapshot else (),
    ),
    cbor("load by its placement", loaded_by_placement, RECORD, examples=(PLACEMENT_BYTES,), fixed_bytes=8 << 20),
    cbor("load by its checkpoint", loaded_by_checkpoint, RECORD, examples=(CHECKPOINT_BYTES,), fixed_bytes=8 << 20),
    in_frames("frame", partial(open_frame, key=KEY), examples=FRAMES),
    in_frames("frame that continues a log", partial(open_frame, key=KEY, prefix=PREFIX), examples=CONTINUED),
    in_frames(
        "run of frames",
        partial(open_run, key=KEY, bytes_max=RUN_BYTES_MAX),
        examples=FRAMES,
        fixed_bytes=4 * RUN_BYTES_MAX,
    ),
    Decoder(
        "index of an archive",
        read_archive,
        (CorruptObjectError,),
        Form.BYTES,
        tuple(open_frame(piece, key=KEY) for piece in seal_pieces(archives.ROWS)),
        in_an_archive,
        fixed_bytes=8 << 20,  # rows of 128 KiB, which may be stored in very little
    ),
    Decoder("archive", read_archive, (CorruptObjectError,), Form.BYTES, (in_an_archive(b""),)),
    Decoder("blobs of a pack", read_pack, (CorruptObjectError,), Form.BYTES, (PACKED,)),
    as_json(
        "index of a pack",
        read_pack_index,
        (CorruptObjectError,),
        examples=(index_json(),),
        wrap=index_at_the_end,
        fixed_bytes=4 << 20,  # objects of 64 KiB of JSON, which may be stored in very little
    ),
    as_json("lease", read_lease, (CorruptObjectError,), examples=(example_lease(),)),
    as_json(
        "state document",
        PersistedSessionState.model_validate_json,
        (ValidationError,),
        examples=(STATE.model_dump_json().encode(),),
    ),
    as_json(
        "session of a runtime",
        lambda data: RuntimeSession.model_validate_json(data).checked(),
        (ValidationError,),
        examples=(json.dumps({**RUNTIME, "session_id": "s1", "messages": [{"id": "m1"}, {"role": "user"}]}).encode(),),
    ),
    Decoder(
        "rows of usage",
        read_usage_segment,
        RECORD,
        Form.BYTES,
        (b"".join(row + b"\n" for row in USAGE_ROWS),),
        as_usage_rows,
    ),
    as_json(
        "note of a usage segment",
        read_usage_segment,
        RECORD,
        examples=(open_stream(seal_segment(USAGE_FACTS, USAGE_ROWS), key=KEY, bytes_max=SEGMENT_BYTES_MAX)[1],),
        wrap=as_usage_note,
    ),
    as_json(
        "usage line",
        read_usage_line,
        (InvalidInputError, LimitExceededError),
        examples=USAGE_ROWS,
    ),
    as_json(
        "session document",
        read_session_document,
        (InvalidInputError, UnsupportedSchemaError),
        examples=tuple(json.dumps(one.export()).encode() for one in (TALK, Session.model_validate(original()))),
        wrap=with_its_digest,
    ),
    cbor(
        "portable session",
        read_portable_session,
        (CorruptSnapshotError, InvalidStateError, ValidationError),
        examples=(encoded(nodes_to_plain(to_state(TALK).session_graph.nodes)),),
    ),
    as_json(
        "transcript",
        lambda data: parse_transcripts(data, source="x.json", stem="x"),
        (InvalidInputError,),
        examples=(json.dumps([TAU, {**TAU, "trial": 1}]).encode(), json.dumps(SWE).encode()),
    ),
)
