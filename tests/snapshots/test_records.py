"""Checkpoint, placement, head: read back exactly, or refused with an error that says so. Never anything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from random import Random
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import codec
from snapshots.checkpoint import (
    EXECUTION_STATE_BYTES_MAX,
    RECORD_BLOB_BYTES_MAX,
    UNBORN,
    SessionCheckpoint,
    SmallFields,
)
from snapshots.delete import TOMBSTONE_BYTES_MAX, tombstone
from snapshots.errors import (
    CorruptSnapshotError,
    InvalidStateError,
    LimitExceededError,
    UnsupportedSchemaError,
)
from snapshots.fields import SCHEMA_VERSION, STORE_VERSIONS, U64_MAX
from snapshots.head import (
    HEAD_BYTES_MAX,
    HEAD_COMMIT_BYTES_MAX,
    INLINE_MANIFEST_BYTES_MAX,
    KEPT_MAX,
    LIVE,
    READS_MAX,
    RELATION_BYTES_MAX,
    RESERVED,
    RING_MAX,
    STAGED_MAX,
    TAIL_PACK_BYTES_MAX,
    TOMBSTONE,
    Head,
    Holder,
    Origin,
    Ring,
    StagedPacks,
    StampRow,
    TailPack,
    check_relation,
    stamps_appended,
)
from snapshots.layout import pack_name
from snapshots.logs import LogRef
from snapshots.overrides import OVERRIDES_BYTES_MAX, Overrides
from snapshots.pins import PINS_MAX, Pin
from snapshots.placement import (
    MANIFEST_BYTES_MAX,
    Homes,
    ManifestPlace,
    Move,
    PackUse,
    Placement,
    manifest_bytes,
    open_manifest,
    place_from_plain,
    row_from_plain,
    seal_manifest,
    unseal_manifest,
)
from snapshots.placement import decode_placement as decode_placement_and_numbers
from snapshots.roots import kept_packs
from snapshots.stamps import StampMark
from snapshots.state import (
    ChildRelation,
    HandoffRelation,
    ModeTurnOptions,
    PersistedTurnState,
    SessionPolicy,
    TokenUsage,
)
from snapshots.stretches import STRETCH_EXTENTS_MAX, Stretch
from storage.digest import BLOB_BYTES_MAX, BlobRef, blob_ref
from storage.errors import CorruptObjectError
from storage.extents import READ_BYTES_MAX, Extent, Read
from storage.frame import FRAME_BYTES_MAX, STORED_BYTES_MAX
from storage.keys import ID_BYTES_MAX
from storage.store import ByteRange
from tests.snapshots import records
from tests.snapshots.records import AT, ID, PACK, head, ref, reserved_head

KEY = "heads/x"
Decode = Callable[[bytes], object]


def decode_checkpoint(data: bytes) -> SessionCheckpoint:
    return SessionCheckpoint.decode(data, key=KEY)


def decode_placement(data: bytes) -> Placement:
    return Placement.decode(data, key=KEY)


def decode_head(data: bytes) -> Head:
    return Head.decode(data, key=KEY)


CHECKPOINT = SessionCheckpoint(
    revision=7,
    small=SmallFields(
        policy=SessionPolicy(model="m", max_turns=3),
        turn=PersistedTurnState(
            turn_index=2, token_usage=TokenUsage(input_tokens=1), mode_turn_options=ModeTurnOptions.empty()
        ),
        leaf_node_id="n1",
        tool_state_generation=4,
        plugin_snapshot_revision=5,
    ),
    graph=LogRef(ref("graph log"), 8),
    history=LogRef(ref("history"), 7),
    tool_state=ref("t"),
    plugin_snapshot=ref("p"),
    execution_state=ref("e"),
)
OLDER = PACK.replace("f", "e")
PLACEMENT = Placement(
    extents={ref("g").digest: (Extent(PACK, 3, 40, 1, 2), Extent(OLDER, 50, 40, 0, 9)), ref("h").digest: ()},
    packs=(PackUse(PACK, 2, 0, 5000), PackUse(OLDER, 1, 3)),
    places=LogRef(ref("places"), 6),
)
PLACE = ManifestPlace(PACK, 60, 100, ManifestPlace(OLDER, 5, 300), Homes([Move(OLDER, PACK, 7)]))
EXTENT = Extent(OLDER, 90, STORED_BYTES_MAX, 5, FRAME_BYTES_MAX)
HEAD = head(
    manifest=PLACE,
    reads=(Read(PACK, ByteRange(60, 100)), Read(OLDER, ByteRange(0, READ_BYTES_MAX))),
    stretches=(Stretch(1, 3, 0, (Extent(OLDER, 50, 40, 0, 9),)), Stretch(3, 2, 7, (Extent(PACK, 3, 40, 1, 2), EXTENT))),
    holder=Holder("me", ID),
    tail=(TailPack(OLDER, b"the frames of a pack"),),
    stamps=(StampRow(1, StampMark(b"t" * 16, b"c" * 16)),),
    commits=Ring(1, (ID, ID[::-1])),
    pins=(Pin("first", 1), Pin("later", 1, AT)),
    floor=7,
    kept=(2, 5),
)
STAGED = StagedPacks("s1", 3, (PACK, OLDER))
STAGING_HEAD = reserved_head(epoch=5, staged=STAGED)
OVERRIDES = Overrides(ref("base"), 4, ID, AT, "fresh", SessionPolicy(model="m"), "s2")
FORK_HEAD = head(
    session_id="s2",
    checkpoint_ref=OVERRIDES.checkpoint_ref(),
    overrides=OVERRIDES,
    origin=Origin("s1", 4, ref("base")),
    relation=ChildRelation(parent_session_id="s1", originating_tool_call_id="c1"),
)


@dataclass(frozen=True)
class Kind:
    """A kind of record: an example, and how it is read."""

    name: str
    encoded: bytes
    read: Decode
    sealed: bool = False
    versions: tuple[int, ...] = (SCHEMA_VERSION,)

    def plain(self) -> Any:
        return codec.decode(codec.unguarded(self.encoded, key=KEY) if self.sealed else self.encoded, key=KEY)

    def decode(self, data: bytes) -> object:
        """Read a record whose checksum, if it has one, is right."""
        return self.read(codec.guarded(data) if self.sealed else data)


KINDS = [
    Kind("checkpoint", CHECKPOINT.encode(), decode_checkpoint),
    Kind("placement", PLACEMENT.encode(), decode_placement),
    Kind("head", HEAD.encode(), decode_head, sealed=True, versions=STORE_VERSIONS),
    Kind("reserved head", STAGING_HEAD.encode(), decode_head, sealed=True, versions=STORE_VERSIONS),
    Kind("fork's head", FORK_HEAD.encode(), decode_head, sealed=True, versions=STORE_VERSIONS),
]
EACH = pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)


# Round trips.


@given(records.checkpoints)
def test_a_checkpoint_comes_back(checkpoint: SessionCheckpoint) -> None:
    data = checkpoint.encode()
    found = decode_checkpoint(data)
    assert found == checkpoint
    assert found.encode() == data
    assert list(found.refs()) == list(checkpoint.refs())


@given(records.placements())
def test_a_placement_comes_back(placement: Placement) -> None:
    data = placement.encode()
    found = decode_placement(data)
    assert found == placement
    assert found.encode() == data


@given(records.heads)
def test_a_head_comes_back(one: Head) -> None:
    data = one.encode()
    found = decode_head(data)
    assert found == one
    assert found.encode() == data


@given(records.place_rows)
def test_a_row_of_places_comes_back(row: Any) -> None:
    assert row_from_plain(codec.decode(codec.encode(row.to_plain()), key=KEY)) == row


@given(records.manifest_places)
def test_a_place_comes_back(place: ManifestPlace) -> None:
    assert place_from_plain(codec.decode(codec.encode(place.to_plain()), key=KEY)) == place
    assert place.runs() == tuple(filter(None, (place, place.against)))


@given(st.binary(max_size=300), st.binary(max_size=300), st.binary(max_size=300))
def test_a_manifest_comes_back(checkpoint: bytes, placement: bytes, against: bytes) -> None:
    raw = manifest_bytes(checkpoint, placement)
    assert open_manifest(raw, key=KEY) == (checkpoint, placement)
    assert unseal_manifest(seal_manifest(raw), key=KEY) == raw
    assert unseal_manifest(seal_manifest(raw, against), key=KEY, against=against) == raw


def test_a_manifest_like_the_one_it_is_compressed_against_takes_little() -> None:
    packs = tuple(PackUse(f"{number:032x}.{number:016x}", 1) for number in range(50))
    extents = tuple(Extent(use.pack, 7 * at * at, 90 + at, 0, 50 + at) for at, use in enumerate(packs))
    before = Placement({ref("e").digest: extents, ref("h").digest: ()}, packs)
    after = replace(before, extents={ref("e").digest: extents, ref("i").digest: extents[:1]})
    full, raw = (manifest_bytes(CHECKPOINT.encode(), one.encode()) for one in (before, after))
    assert len(seal_manifest(raw, full)) < 200 < len(seal_manifest(raw)) // 5


def test_what_did_not_change_has_the_same_bytes_in_the_next_placement() -> None:
    extents = tuple(Extent(PACK, 1000 * at, 500, at, 50) for at in range(1, 100))
    moved = (*extents[:7], Extent(OLDER, 5, 300, 0, 50), *extents[8:])
    before, after = (replace(PLACEMENT, extents={ref("e").digest: many}) for many in (extents, moved))
    numbers = before.numbered()
    one, other = (
        codec.decode(placement.encode(placement.numbered(numbers)), key=KEY)["extents"] for placement in (before, after)
    )
    places = [column != found for column, found in zip(one, other, strict=True)]
    assert places == [True, True, False]
    for column, found in zip(one, other, strict=True):
        assert sum(a != b for a, b in zip(column, found, strict=True)) <= 1


@given(records.placements(), records.placements())
def test_a_placement_numbered_like_an_earlier_one_comes_back(before: Placement, placement: Placement) -> None:
    numbers = placement.numbered(before.numbered())
    assert before.numbered().items() <= numbers.items()
    assert list(numbers.values()) == list(range(len(numbers)))
    data = placement.encode(numbers)
    found = decode_placement_and_numbers(data, key=KEY)
    assert found == (placement, numbers)
    assert list(found[1]) == list(numbers)
    assert found[0].encode(found[1]) == data


@EACH
def test_equal_records_have_equal_bytes(kind: Kind) -> None:
    found = kind.read(kind.encoded)
    assert found.encode() == kind.encoded  # type: ignore[attr-defined]  # every record has it
    again = codec.encode(dict(reversed(kind.plain().items())))
    assert (codec.guarded(again) if kind.sealed else again) == kind.encoded


# Fields.


def refused(kind: Kind, plain: Any) -> str:
    with pytest.raises(CorruptSnapshotError) as caught:
        kind.decode(cbor2.dumps(plain, canonical=True))
    assert caught.value.key == KEY
    return caught.value.reason


@EACH
def test_every_missing_field_is_named(kind: Kind) -> None:
    for name in kind.plain():
        plain = kind.plain()
        del plain[name]
        if name == "schema_version":
            with pytest.raises(UnsupportedSchemaError):
                kind.decode(codec.encode(plain))
        else:
            assert name in refused(kind, plain)


@EACH
@pytest.mark.parametrize("found", [None, 0, 3, U64_MAX, -1, True, 1.0, "1", b"1", [], {}, [1]])
def test_another_schema_version_is_unsupported(kind: Kind, found: Any) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        kind.decode(codec.encode({**kind.plain(), "schema_version": found}))
    assert caught.value.found == found
    assert caught.value.supported == kind.versions
    assert "use a newer version" in str(caught.value)
    assert kind.name.split()[-1] in caught.value.record


@EACH
@pytest.mark.parametrize("plain", [None, 1, "text", b"bytes", [], [1], True, 1.5])
def test_what_is_no_map_is_refused(kind: Kind, plain: Any) -> None:
    assert "map" in refused(kind, plain)


WRONG: list[Any] = [
    None,
    True,
    False,
    0,
    -1,
    U64_MAX,
    -(1 << 63),
    1.0,
    1.5,
    "",
    "text",
    "\x00",
    b"",
    b"bytes",
    [],
    [None],
    [[]],
    [1, 2, 3],
    [1, 2, 3, 4, 5],
    {},
    {"a": 1},
    "x" * 1000,
    b"\x01\x02\x03\x04\x05",
    cbor2.undefined,
    cbor2.CBORSimpleValue(7),
]


def places_in(plain: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value inside a plain value."""
    items = plain.items() if isinstance(plain, dict) else enumerate(plain) if isinstance(plain, list) else ()
    for name, value in items:
        yield (*path, name)
        yield from places_in(value, (*path, name))


def value_at(plain: Any, path: tuple[Any, ...]) -> Any:
    for name in path:
        plain = plain[name]
    return plain


def copied(plain: Any) -> Any:
    """Return a deep copy; values that are not plain (undefined, simple values) are shared."""
    if isinstance(plain, dict):
        return {name: copied(value) for name, value in plain.items()}
    return [copied(value) for value in plain] if isinstance(plain, list) else plain


def changed(plain: Any, path: tuple[Any, ...], value: Any) -> Any:
    plain = copied(plain)
    value_at(plain, path[:-1])[path[-1]] = value
    return plain


# Where a value of another type is another valid value: opaque JSON, and what may be null.
OPAQUE = ("policy", "turn", "relation", "overrides")


@EACH
def test_a_value_of_another_type_is_refused_wherever_it_stands(kind: Kind) -> None:
    plain = kind.plain()
    for path in places_in(plain):
        if path[0] in (*OPAQUE, "schema_version"):
            continue
        old = value_at(plain, path)
        for wrong in WRONG:
            nullable = len(path) == 1 or path[0] == "pins" or path == ("manifest", 3)
            if type(wrong) is type(old) or ((old is None or wrong is None) and nullable):
                continue
            refused(kind, changed(plain, path, wrong))


@EACH
def test_any_value_anywhere_is_read_or_corrupt(kind: Kind) -> None:
    plain = kind.plain()
    for path in places_in(plain):
        for wrong in WRONG:
            with suppress(CorruptSnapshotError, UnsupportedSchemaError):
                found = kind.decode(cbor2.dumps(changed(plain, path, wrong), canonical=True))
                assert found.encode()  # type: ignore[attr-defined]  # what is read can be written


@pytest.mark.parametrize(
    ("path", "wrong"),
    [
        (("policy", "model"), b"m"),
        (("policy", "autonomous"), 1),
        (("policy", "max_turns"), "3"),
        (("policy", "max_turns"), 3.0),
        (("policy", "provider"), "user:secret@host/with spaces"),
        (("policy", "more"), 1),
        (("turn", "turn_index"), -1),
        (("turn", "turn_index"), True),
        (("turn", "token_usage", "input_tokens"), 1 << 63),
        (("turn", "mode_turn_options", "payload"), float("nan")),
        (("turn", "mode_turn_options", "payload"), b"bytes"),
        (("turn", "mode_turn_options", "payload"), {"a": cbor2.undefined}),
        (("revision",), 0),
        (("leaf",), 1),
        (("tool_state_generation",), -1),
        (("tool_state", 1), RECORD_BLOB_BYTES_MAX + 1),
        (("plugin_snapshot", 1), RECORD_BLOB_BYTES_MAX + 1),
        (("graph", 1), RECORD_BLOB_BYTES_MAX + 1),
        (("history", 1), RECORD_BLOB_BYTES_MAX + 1),
        (("execution_state", 1), EXECUTION_STATE_BYTES_MAX + 1),
        (("graph", 1), 0),
        (("graph", 2), 0),
        (("history", 2), -1),
        (("history", 2), U64_MAX),
        (("tool_state", 0), b"short"),
        (("tool_state", 0), "md5:" + "0" * 64),
    ],
)
def test_a_checkpoint_out_of_bounds_is_refused(path: tuple[Any, ...], wrong: Any) -> None:
    refused(KINDS[0], changed(KINDS[0].plain(), path, wrong))


def test_a_large_blob_is_an_execution_state_and_nothing_else() -> None:
    large = BlobRef(ref("e").digest, RECORD_BLOB_BYTES_MAX + 1)
    assert decode_checkpoint(replace(CHECKPOINT, execution_state=large).encode()).execution_state == large
    for name in ("tool_state", "plugin_snapshot"):
        fields: dict[str, Any] = {"execution_state": large, name: large}
        with pytest.raises(CorruptSnapshotError) as caught:
            decode_checkpoint(replace(CHECKPOINT, **fields).encode())
        assert caught.value.ref == large.digest


FRAME_WIDTHS = {"pack": 4, "offset": 8, "stored": 4}
EXTENT_WIDTHS = {"frame": 4, "skip": 4, "length": 4}
FIRST = {"pack": 0, "offset": 0, "stored": 100, "frame": 0, "skip": 0, "length": 1}
SECOND = {**FIRST, "frame": 1, "offset": 100}
U32_MAX = (1 << 32) - 1


def column(width: int, *numbers: int) -> bytes:
    """Return the lowest bytes of all numbers, then the next ones, and so on."""
    raw = [number.to_bytes(width, "little") for number in numbers]
    return b"".join(bytes(one[at] for one in raw) for at in range(width))


def columns_with(**fields: int) -> dict[str, list[bytes]]:
    """Return the columns of two extents in two frames, the second ones as `fields` say."""
    second = {**SECOND, **fields}
    frames = [column(width, FIRST[name], second[name]) for name, width in FRAME_WIDTHS.items()]
    return {
        "frames": frames,
        "extents": [column(width, FIRST[name], second[name]) for name, width in EXTENT_WIDTHS.items()],
    }


GOOD = columns_with()


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"pack": 1},
        {"offset": BLOB_BYTES_MAX},
        {"offset": 0x0102030405},
        {"stored": STORED_BYTES_MAX},
        {"length": FRAME_BYTES_MAX},
        {"stored": 1, "skip": FRAME_BYTES_MAX - 1},
        {"frame": 0, "skip": 258},
    ],
)
def test_extents_at_the_edges_are_read(fields: dict[str, int]) -> None:
    found = KINDS[1].decode(codec.encode({**KINDS[1].plain(), **columns_with(**fields)}))
    assert isinstance(found, Placement)
    second = {**SECOND, **fields}
    frame = second if second["frame"] == 1 else FIRST
    pack = (PACK, OLDER)[frame["pack"]]
    expected = Extent(pack, frame["offset"], frame["stored"], second["skip"], second["length"])
    assert found.extents[ref("g").digest] == (Extent(PACK, 0, 100, 0, 1), expected)


@pytest.mark.parametrize(
    "columns",
    [
        columns_with(pack=2),
        columns_with(pack=U32_MAX),
        columns_with(offset=BLOB_BYTES_MAX + 1),
        columns_with(offset=U64_MAX),
        columns_with(offset=FIRST["offset"]),
        columns_with(stored=0),
        columns_with(stored=STORED_BYTES_MAX + 1),
        columns_with(stored=U32_MAX),
        columns_with(frame=2),
        columns_with(frame=U32_MAX),
        columns_with(length=0),
        columns_with(length=FRAME_BYTES_MAX + 1),
        columns_with(length=U32_MAX),
        columns_with(skip=FRAME_BYTES_MAX),
        columns_with(skip=U32_MAX),
        columns_with(skip=U32_MAX, length=U32_MAX),
    ],
)
def test_an_extent_that_fits_no_frame_and_a_frame_that_fits_no_pack_are_refused(columns: dict[str, Any]) -> None:
    refused(KINDS[1], {**KINDS[1].plain(), **columns})


@pytest.mark.parametrize("name", ["frames", "extents"])
@pytest.mark.parametrize("short", [0, 1, 2])
@pytest.mark.parametrize("size", [0, 1, 0.5, 1.5, 3])
def test_columns_of_several_lengths_are_refused(name: str, short: int, size: float) -> None:
    width = len(GOOD[name][short]) // 2
    cut = [(one * 2)[: int(size * width)] if at == short else one for at, one in enumerate(GOOD[name])]
    refused(KINDS[1], {**KINDS[1].plain(), **GOOD, name: cut})


@pytest.mark.parametrize("name", ["frames", "extents"])
@pytest.mark.parametrize("count", [0, 2, 4])
def test_another_number_of_columns_is_refused(name: str, count: int) -> None:
    refused(KINDS[1], {**KINDS[1].plain(), **GOOD, name: (GOOD[name] * 2)[:count]})


@pytest.mark.parametrize("columns", [[b""] * 3, [column(4, 0, 0, 0), column(4, 0, 0, 0), column(4, 1, 1, 1)]])
def test_other_extents_than_the_blobs_have_are_refused(columns: list[bytes]) -> None:
    refused(KINDS[1], {**KINDS[1].plain(), "extents": columns})


def test_an_extent_in_a_pack_that_is_not_named_among_the_needed_ones_is_refused() -> None:
    plain = KINDS[1].plain()
    assert "does not name" in refused(KINDS[1], {**plain, "packs": plain["packs"][:1]})


@pytest.mark.parametrize("counts", [(0, 1), (1, 0), (2, 1), (0, 3), (U64_MAX, 0), (-1, 3), (2, 1.0), (2, True)])
def test_other_counts_than_there_are_extents_are_refused(counts: tuple[int, int]) -> None:
    plain = KINDS[1].plain()
    blobs = [[row[0], count] for row, count in zip(plain["blobs"], counts, strict=True)]
    refused(KINDS[1], {**plain, "blobs": blobs})


def test_a_blob_that_stands_twice_is_refused() -> None:
    plain = KINDS[1].plain()
    assert "twice" in refused(KINDS[1], {**plain, "blobs": [*plain["blobs"], plain["blobs"][1]]})


@pytest.mark.parametrize(
    "use",
    [
        [b"n" * 24, 0, 0, 0],
        [b"n" * 24, 5, 4, 0],
        [b"n" * 23, 1, 0, 0],
        [b"n" * 24, 1, 0],
        [b"n" * 24, 1, -1, 0],
        [b"n" * 24, 1, 0, -1],
        [b"n" * 24, 1, 0, BLOB_BYTES_MAX + 1],
        ["n" * 24, 1, 0, 0],
    ],
)
def test_a_use_that_ends_before_it_begins_is_refused(use: Any) -> None:
    refused(KINDS[1], changed(KINDS[1].plain(), ("packs", 0), use))


@pytest.mark.parametrize(
    "plain",
    [
        [b"n" * 24, 0, 0],
        [b"n" * 24, -1, 1],
        [b"n" * 24, 1 << 60, 1],
        [b"n" * 24, 0, 1 << 60],
        b"abc",
        b"abcdef",
        [b"n" * 24, 0],
        [b"n" * 24, 0, 1, None],
        [b"n" * 24, 0, 1, None, None],
        [b"n" * 24, 0, 1, [b"n" * 24, 0, 0], []],
        [b"n" * 24, 0, 1, [b"n" * 24, -1, 1], []],
        [b"n" * 24, 0, 1, [b"n" * 23, 0, 1], []],
        [b"n" * 24, 0, 0, [b"n" * 24, 0, 1], []],
        [b"n" * 24, 0, 1, [b"n" * 24, 0], []],
        [b"n" * 24, 0, 1, [b"n" * 24, 0, 1, None, []], []],
        [b"n" * 24, 0, 1, [], []],
        [b"n" * 24, 0, 1, None, [[b"n" * 24, b"m" * 24]]],
        [b"n" * 24, 0, 1, None, [[b"n" * 24, b"m" * 24, -1]]],
        [b"n" * 24, 0, 1, None, [[b"n" * 24, b"m" * 24, BLOB_BYTES_MAX + 1]]],
        [b"n" * 24, 0, 1, None, [[b"n" * 24, b"m" * 23, 0]]],
        [b"n" * 24, 0, 1, None, [], 0],
        [b"n" * 24, 0, 1, b"n" * 24, 0, 1],
    ],
)
def test_a_manifest_that_lies_nowhere_is_refused(plain: Any) -> None:
    with pytest.raises((ValueError, TypeError)):
        place_from_plain(plain)
    refused(KINDS[2], changed(KINDS[2].plain(), ("manifest",), plain))


@pytest.mark.parametrize(
    "fields",
    [
        {"status": "unknown"},
        {"status": RESERVED},
        {"status": RESERVED, "revision": 0},
        {"status": RESERVED, "revision": 0, "checkpoint_ref": None, "manifest": None},
        {"status": TOMBSTONE},
        {"status": TOMBSTONE, "checkpoint_ref": None, "manifest": None},
        {"revision": 0},
        {"revision": -1},
        {"family": ""},
        {"checkpoint_ref": None},
        {"manifest": None},
        {"checkpoint_ref": None, "manifest": None},
        {"session_id": ""},
        {"session_id": "a\x00"},
        {"session_id": "x" * (ID_BYTES_MAX + 1)},
        {"tenant": ""},
        {"family": "\n"},
        {"commit_id": b"x"},
        {"commit_id": b"x" * 17},
        {"write_id": b""},
        {"state_id": b"x" * 15},
        {"floor": 0},
        {"floor": 5},
        {"kept": [0]},
        {"kept": [5, 2]},
        {"kept": [2, 2]},
        {"kept": [2, 7]},
        {"kept": [2, 8]},
        {"kept": [True]},
        {"kept": [2.0]},
        {"kept": list(range(1, KEPT_MAX + 2)), "floor": U64_MAX},
        {"commits": [0, b""]},
        {"commits": [-1, b"x" * 16]},
        {"commits": [1, b"x" * 17]},
        {"commits": [1, b"x" * 16 * (RING_MAX + 1)]},
        {"stamps": [[0, b"t" * 16, b"c" * 16]]},
        {"stamps": [[1, b"t" * 15, b"c" * 16]]},
        {"stamps": [[1, b"t" * 16, b"c" * 16]] * (RING_MAX + 1)},
        {"inline_manifest": b"x" * (INLINE_MANIFEST_BYTES_MAX + 1)},
        {"tail": [[b"n" * 24, b""]]},
        {"tail": [[b"n" * 24, b"x" * (TAIL_PACK_BYTES_MAX + 1)]]},
        {"tail": [[b"n" * 24, b"x" * TAIL_PACK_BYTES_MAX]] * 3},
        {"tail": [[b"n" * 23, b"x"]]},
        {"tail": [[b"n" * 24, "x"]]},
        {"packs": b"n" * 23},
        {"packs": b"n" * 24 * (READS_MAX + STRETCH_EXTENTS_MAX + 1)},
        {"packs": b"", "stretches": []},
        {"packs": b"", "reads": []},
        {"reads": [[0, 0, 0]]},
        {"reads": [[0, -1, 1]]},
        {"reads": [[0, 0, READ_BYTES_MAX + 1]]},
        {"reads": [[0, BLOB_BYTES_MAX + 1, 1]]},
        {"reads": [[2, 0, 1]]},
        {"reads": [[-1, 0, 1]]},
        {"reads": [[b"n" * 24, 0, 1]]},
        {"reads": [[0, 0, 1]] * (READS_MAX + 1)},
        {"stretches": [[1, 1]]},
        {"stretches": [[1, 1, 0], 5]},
        {"stretches": [[1, 1, 0, 0, 0, 1, 0, 1, 0]]},
        {"stretches": [[1, 1, 0, 0, 0, 1, 0, 1, 0, 0, 1, 0]]},
        {"stretches": [[0, 1, 0, 0, 0, 1, 0, 1]]},
        {"stretches": [[1, 0, 0, 0, 0, 1, 0, 1]]},
        {"stretches": [[1, 1, -1, 0, 0, 1, 0, 1]]},
        {"stretches": [[1, 1, 0, 2, 0, 1, 0, 1]]},
        {"stretches": [[1, 1, 0, 0, BLOB_BYTES_MAX + 1, 1, 0, 1]]},
        {"stretches": [[1, 1, 0, 0, 0, 0, 0, 1]]},
        {"stretches": [[1, 1, 0, 0, 0, STORED_BYTES_MAX + 1, 0, 1]]},
        {"stretches": [[1, 1, 0, 0, 0, 1, -1, 1]]},
        {"stretches": [[1, 1, 0, 0, 0, 1, 0, 0]]},
        {"stretches": [[1, 1, 0, 0, 0, 1, 0, FRAME_BYTES_MAX + 1]]},
        {"stretches": [[1, 1, 0, 0, 0, 1, 0]]},
        {"stretches": [[1, 1, 0, 0, 0, 1, 0, 1]] * (STRETCH_EXTENTS_MAX + 1)},
        {"created_at": U64_MAX},
        {"pins": [["ahead", 2, None]]},
        {"created_at": -(1 << 63)},
        {"updated_at": True},
        {"holder": ["me"]},
        {"holder": [b"me", b"n" * 16]},
        {"holder": ["me", b"n"]},
        {"epoch": -1},
        {"fence": True},
    ],
    ids=lambda fields: "-".join(fields),
)
def test_a_head_that_no_writer_leaves_is_refused(fields: dict[str, Any]) -> None:
    refused(KINDS[2], {**KINDS[2].plain(), **fields})


@pytest.mark.parametrize("value", [STAGED.to_plain(), [1], {"a": 1}, 1, "x", True, False, 0, {}, b""])
def test_staged_packs_in_a_head_of_version_1_are_of_a_later_version(value: Any) -> None:
    with pytest.raises(UnsupportedSchemaError) as caught:
        KINDS[3].decode(codec.encode({**KINDS[3].plain(), "schema_version": 1, "staged": value}))
    assert "staged" in caught.value.record


@pytest.mark.parametrize(
    "wrong",
    [
        ["s1", 0],
        ["s1", 0, b"n" * 24, 0],
        ["s1", 0, b""],
        ["s1", 0, b"n" * 23],
        ["s1", 0, b"n" * 48],
        ["s1", 0, b"".join(number.to_bytes(24, "big") for number in range(STAGED_MAX + 1))],
        ["s1", -1, b"n" * 24],
        ["s1", 6, b"n" * 24],
        ["", 0, b"n" * 24],
        ["\n", 0, b"n" * 24],
    ],
)
def test_a_list_that_is_none_is_refused(wrong: Any) -> None:
    plain = KINDS[3].plain()
    assert plain["epoch"] == 5
    assert KINDS[3].decode(codec.encode({**plain, "staged": ["s1", 5, b"n" * 24]}))
    refused(KINDS[3], {**plain, "staged": wrong})


@pytest.mark.parametrize("kind", [KINDS[2], KINDS[4]], ids=lambda kind: kind.name)
def test_only_a_reservation_names_staged_packs(kind: Kind) -> None:
    refused(kind, {**kind.plain(), "staged": ["s1", 0, b"n" * 24]})


def test_an_oversized_head_is_refused() -> None:
    with pytest.raises(CorruptSnapshotError, match="bytes"):
        KINDS[2].decode(codec.encode({**KINDS[2].plain(), "later": b"x" * HEAD_BYTES_MAX}))


@EACH
def test_a_field_that_nobody_knows_is_unsupported(kind: Kind) -> None:
    with pytest.raises(UnsupportedSchemaError, match="later"):
        kind.decode(codec.encode({**kind.plain(), "later": None}))


# Damage.


@EACH
def test_random_bytes_are_corrupt(kind: Kind) -> None:
    draw = Random(1)
    for _ in range(1500):
        with suppress(CorruptSnapshotError, UnsupportedSchemaError):
            kind.decode(draw.randbytes(draw.randrange(80)))


@EACH
def test_every_flipped_bit_and_every_truncation_is_read_or_corrupt(kind: Kind) -> None:
    for position in range(len(kind.encoded)):
        for bit in range(8):
            altered = bytearray(kind.encoded)
            altered[position] ^= 1 << bit
            with suppress(CorruptSnapshotError, UnsupportedSchemaError):
                kind.read(bytes(altered))
                assert not kind.sealed, "a checksum finds every flipped bit"
        with pytest.raises(CorruptSnapshotError):
            kind.read(kind.encoded[:position])
    with pytest.raises(CorruptSnapshotError):
        kind.read(kind.encoded + b"\x00")


def mutated(plain: Any, draw: Random) -> Any:
    """Return a plain value with one to three changes that respect its structure."""
    for _ in range(draw.randint(1, 3)):
        path = draw.choice(list(places_in(plain)))
        parent, name = value_at(plain := copied(plain), path[:-1]), path[-1]
        old = parent[name]
        match draw.randrange(7):
            case 0:
                del parent[name]
            case 1:
                parent[name] = draw.choice(WRONG)
            case 2 if isinstance(parent, list):
                parent.insert(name, copied(draw.choice(parent)))
            case 3 if isinstance(old, int):
                parent[name] = draw.choice([-old, old + 1, old - 1, old * 3, 1 << 63, U64_MAX, 1 << 70])
            case 4 if isinstance(old, bytes):
                parent[name] = draw.choice([old[1:], old + b"x", old[::-1], old * 2, old.hex()])
            case 5 if isinstance(old, list):
                parent[name] = draw.choice([old * 2, old[::-1], dict.fromkeys(map(str, old)), bytes(len(old))])
            case _:
                parent[name] = copied(value_at(plain, draw.choice(list(places_in(plain)))))
        if not list(places_in(plain)):
            break
    return plain


@EACH
def test_structured_damage_is_read_or_corrupt(kind: Kind) -> None:
    draw = Random(7)
    plain = kind.plain()
    for _ in range(2500):
        data = cbor2.dumps(mutated(plain, draw), canonical=True)
        with suppress(CorruptSnapshotError, UnsupportedSchemaError):
            kind.decode(data)


def test_a_damaged_manifest_is_corrupt() -> None:
    raw = manifest_bytes(CHECKPOINT.encode(), PLACEMENT.encode())
    for against in (b"", manifest_bytes(CHECKPOINT.encode(), replace(PLACEMENT, packs=PLACEMENT.packs * 2).encode())):
        run = seal_manifest(raw, against)
        for position in range(len(run)):
            altered = run[:position] + bytes([run[position] ^ 1]) + run[position + 1 :]
            with pytest.raises(CorruptObjectError):
                unseal_manifest(altered, key=KEY, against=against)
            with pytest.raises((CorruptObjectError, CorruptSnapshotError)):
                open_manifest(unseal_manifest(run[:position], key=KEY, against=against), key=KEY)


@pytest.mark.parametrize("found", [b"", b"short", b"another manifest that is not the one" * 20])
def test_a_manifest_without_the_one_it_was_compressed_against_is_corrupt(found: bytes) -> None:
    raw = manifest_bytes(CHECKPOINT.encode(), PLACEMENT.encode())
    stored = seal_manifest(raw, raw)
    assert unseal_manifest(stored, key=KEY, against=raw) == raw
    with pytest.raises(CorruptObjectError):
        unseal_manifest(stored, key=KEY, against=found)


@pytest.mark.parametrize("plain", [None, [], [b"a"], [b"a", b"b", b"c"], [b"a", "b"], {"a": b"b"}, b"ab", [1, 2], "ab"])
def test_a_manifest_of_another_shape_is_corrupt(plain: Any) -> None:
    with pytest.raises(CorruptSnapshotError):
        open_manifest(codec.encode(plain), key=KEY)


def test_a_manifest_over_its_limit_is_refused_by_its_writer() -> None:
    with pytest.raises(LimitExceededError):
        manifest_bytes(bytes(MANIFEST_BYTES_MAX), b"")


def test_a_manifest_over_its_limit_is_not_read() -> None:
    with pytest.raises(CorruptObjectError, match="over"):
        unseal_manifest(seal_manifest(bytes(MANIFEST_BYTES_MAX + 1)), key=KEY)


# Bounds.

LONGEST = "日" * 170 + "xx"  # 512 bytes


LARGEST_RELATION = HandoffRelation(parent_session_id=LONGEST, reason="r" * (RELATION_BYTES_MAX - 560))


MOVES = 128  # of a fork: a revision has hardly more packs than that, the smallest in the head included


def extreme_head(**fields: Any) -> Head:
    """Return the largest head that a commit can leave."""
    stamps: tuple[StampRow, ...] = ()
    commits = Ring(U64_MAX - 200)
    packs = [pack_name(f"{number:032x}", "f" * 16) for number in range(READS_MAX + STRETCH_EXTENTS_MAX)]
    extent = Extent(PACK, BLOB_BYTES_MAX, STORED_BYTES_MAX, FRAME_BYTES_MAX, FRAME_BYTES_MAX)
    stretch = Stretch(U64_MAX - 64, U64_MAX, BLOB_BYTES_MAX, ())
    moved = Homes(Move(name, PACK, BLOB_BYTES_MAX) for name in packs[:MOVES])
    for number in range(RING_MAX + 5):
        stamps = stamps_appended(stamps, U64_MAX - 5, StampMark(bytes([number]) * 16, b"c" * 16))
        commits = commits.appended(f"{number:032x}")
    return head(
        **{
            "session_id": LONGEST,
            "tenant": LONGEST,
            "family": LONGEST,
            "revision": U64_MAX,
            "epoch": U64_MAX,
            "fence": U64_MAX,
            "holder": Holder(LONGEST, ID),
            "checkpoint_ref": BlobRef(blob_ref(b"").digest, RECORD_BLOB_BYTES_MAX),
            "manifest": ManifestPlace(PACK, 1 << 46, 1 << 26, ManifestPlace(OLDER, 1 << 46, 1 << 26), moved),
            "inline_manifest": b"x" * INLINE_MANIFEST_BYTES_MAX,
            "reads": tuple(Read(one, ByteRange(BLOB_BYTES_MAX, READ_BYTES_MAX)) for one in packs[:READS_MAX]),
            "stretches": tuple(replace(stretch, extents=(extent._replace(pack=one),)) for one in packs[READS_MAX:]),
            "commits": commits,
            "stamps": stamps,
            "floor": U64_MAX,
            "kept": tuple(range(U64_MAX - KEPT_MAX, U64_MAX)),
            "pins": tuple(Pin(f"pin{number:061}", U64_MAX, AT.replace(year=9999)) for number in range(PINS_MAX)),
            "origin": Origin(LONGEST, U64_MAX, BlobRef(blob_ref(b"").digest, RECORD_BLOB_BYTES_MAX)),
            "relation": check_relation(LARGEST_RELATION),
            "created_at": AT.replace(year=9999),
            "updated_at": AT.replace(year=9999),
            **fields,
        }
    )


def test_the_largest_head_of_a_commit_is_within_its_bound() -> None:
    largest = extreme_head()
    assert len(LONGEST.encode()) == ID_BYTES_MAX
    data = largest.encode(limit_bytes=HEAD_COMMIT_BYTES_MAX)
    assert decode_head(data) == largest
    assert len(data) + OVERRIDES_BYTES_MAX < HEAD_COMMIT_BYTES_MAX


def test_more_kept_revisions_than_the_limit_are_refused_by_the_writer() -> None:
    kept = tuple(range(1, KEPT_MAX + 2))
    assert decode_head(head(floor=U64_MAX, kept=kept[1:]).encode()).kept == kept[1:]
    with pytest.raises(LimitExceededError) as caught:
        head(floor=U64_MAX, kept=kept).encode()
    assert caught.value.value == KEPT_MAX + 1


@pytest.mark.parametrize("kept", [(0,), (5, 2), (2, 2), (2, 7), (8,)])
def test_kept_revisions_out_of_order_are_not_written(kept: tuple[int, ...]) -> None:
    with pytest.raises(AssertionError):
        head(floor=7, kept=kept).encode()


def test_what_retention_keeps() -> None:
    one = head(revision=9, floor=7, kept=(2, 5), pins=(Pin("x", 2), Pin("y", 4), Pin("z", 8)))
    assert [revision for revision in range(12) if one.retains(revision)] == [2, 4, 5, 7, 8, 9]
    assert one.kept_below_floor == {2, 4, 5}


def test_the_packs_of_what_retention_keeps_are_named() -> None:
    one = head(revision=9, floor=7, kept=(2, 5), pins=(Pin("y", 4),))
    uses = [PackUse(f"{first}-{last}", first, last) for first in range(1, 10) for last in (*range(first, 9), 0)]
    named = set(kept_packs(one, uses))
    for use in uses:
        needed = range(use.first_revision, (use.last_revision or 9) + 1)
        assert (use.pack in named) == any(one.retains(revision) for revision in needed), use


def test_only_a_live_head_keeps_revisions() -> None:
    for plain in (reserved_head(floor=7), tombstone(head(floor=7, kept=(2,)), state_id=ID, at=AT)):
        assert decode_head(plain.encode()) == plain
        with pytest.raises(CorruptSnapshotError, match="names"):
            decode_head(replace(plain, kept=(2,)).encode())


def test_a_relation_over_its_limit_is_refused() -> None:
    with pytest.raises(LimitExceededError) as caught:
        check_relation(HandoffRelation(parent_session_id="s1", reason="r" * RELATION_BYTES_MAX))
    assert caught.value.value > RELATION_BYTES_MAX


def test_the_largest_tombstone_is_within_its_bound() -> None:
    tomb = tombstone(extreme_head(), state_id=ID[::-1], at=AT)
    data = tomb.encode(limit_bytes=TOMBSTONE_BYTES_MAX)
    assert decode_head(data) == tomb
    assert (tomb.epoch, tomb.fence, tomb.commits) == (U64_MAX, U64_MAX, extreme_head().commits)
    assert tomb.state_id == ID[::-1]


def test_a_head_over_its_limit_is_refused_by_its_writer() -> None:
    with pytest.raises(LimitExceededError) as caught:
        extreme_head(inline_manifest=b"x" * HEAD_COMMIT_BYTES_MAX).encode(limit_bytes=HEAD_COMMIT_BYTES_MAX)
    assert caught.value.value > HEAD_COMMIT_BYTES_MAX
    with pytest.raises(LimitExceededError):
        extreme_head(inline_manifest=b"x" * HEAD_BYTES_MAX).encode()


@pytest.mark.parametrize(
    "fields",
    [{"revision": U64_MAX + 1}, {"epoch": 1 << 64}, {"session_id": "\ud800"}, {"holder": Holder("\udfff", ID)}],
    ids=lambda fields: next(iter(fields)),
)
def test_what_cannot_be_read_back_is_not_written(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidStateError):
        head(**fields).encode()


def test_integers_at_the_edges_of_64_bits_come_back() -> None:
    one = head(revision=U64_MAX, epoch=U64_MAX, fence=U64_MAX, floor=U64_MAX)
    assert decode_head(one.encode()) == one
    small = replace(CHECKPOINT.small, tool_state_generation=U64_MAX, plugin_snapshot_revision=U64_MAX)
    checkpoint = replace(CHECKPOINT, revision=U64_MAX, small=small)
    assert decode_checkpoint(checkpoint.encode()) == checkpoint


# Rings.


def test_a_ring_holds_the_newest_of_consecutive_revisions() -> None:
    ring = Ring()
    for revision in range(1, 200):
        ring = ring.appended(f"{revision:032x}")
        assert len(ring.commit_ids) == min(revision, RING_MAX)
        assert ring.commit_id(revision) == f"{revision:032x}"
        assert ring.commit_id(revision + 1) is None
        oldest = max(1, revision - RING_MAX + 1)
        assert ring.commit_id(oldest) == f"{oldest:032x}"
        assert ring.commit_id(oldest - 1) is None
    assert ring.commit_id(0) is None
    assert ring.commit_id(-1) is None


def test_a_commit_without_a_turn_leaves_the_stamps() -> None:
    rows = (StampRow(1, StampMark(b"t" * 16, b"c" * 16)),)
    assert stamps_appended(rows, 2, None) is rows


def test_what_was_never_committed_names_nothing() -> None:
    assert UNBORN.revision == 0
    assert not list(UNBORN.refs())
    assert UNBORN.node_count == 0
    assert head().status == LIVE
