"""Deterministic CBOR: equal values have equal bytes, and only what was written is read."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime
from decimal import Decimal
from fractions import Fraction
from typing import Any

import cbor2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.codec import DEPTH_MAX, ORDER_CHARACTERS_MAX, decode, encode
from snapshots.errors import CorruptSnapshotError, InvalidStateError
from snapshots.state import (
    EventPayload,
    Message,
    Part,
    PluginPayload,
    PluginSessionSnapshot,
    PluginSnapshot,
    PluginSnapshotMeta,
    SessionNodeRecord,
    SessionPolicy,
    ToolCallOutput,
    ToolCallRecord,
    ToolEntry,
    ToolInvocation,
    ToolManifest,
    ToolState,
    nodes_to_plain,
)
from snapshots.state.values import I64_MIN, JSON_DEPTH_MAX, U64_MAX

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
scalars = (
    st.none()
    | st.booleans()
    | st.integers(I64_MIN, U64_MAX)
    | st.floats(allow_nan=False)
    | texts
    | st.binary(max_size=20)
)
plain_values: st.SearchStrategy[Any] = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=20,
)


def exactly(one: Any, other: Any) -> bool:
    """Compare with types: `1`, `1.0` and `true` are three values, and so are the two zeros."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(exactly(value, other[key]) for key, value in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(exactly, one, other))
    if isinstance(one, float):
        return math.copysign(1, one) == math.copysign(1, other) and one == other
    return bool(one == other)


@given(plain_values)
def test_a_plain_value_comes_back_exactly(value: Any) -> None:
    assert exactly(decode(encode(value), key="k"), value)


@given(st.dictionaries(texts, scalars, max_size=10), st.randoms(use_true_random=False))
def test_the_order_of_a_map_does_not_show(value: dict[str, Any], draw: Any) -> None:
    items = list(value.items())
    draw.shuffle(items)
    assert encode(dict(items)) == encode(value)


@given(plain_values)
def test_reading_and_writing_again_changes_nothing(value: Any) -> None:
    data = encode(value)
    assert encode(decode(data, key="k")) == data


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (0, "00"),
        (23, "17"),
        (24, "1818"),
        (U64_MAX, "1bffffffffffffffff"),
        (-1, "20"),
        (I64_MIN, "3b7fffffffffffffff"),
        (1.0, "f93c00"),
        (0.1, "fb3fb999999999999a"),
        (-0.0, "f98000"),
        ({"b": 1, "aa": 2, "a": 3}, "a361610361620162616102"),
        ((1, 2), "820102"),
        ([U64_MAX, *range(6), I64_MIN], "881bffffffffffffffff0001020304053b7fffffffffffffff"),
        ([True, *range(6)], "87f5000102030405"),
        (bytearray(b"x"), "4178"),
    ],
)
def test_known_bytes(value: Any, data: str) -> None:
    assert encode(value).hex() == data


@pytest.mark.parametrize("value", [1 << 64, I64_MIN - 1, 1 << 200, -(1 << 200)])
def test_integers_over_64_bits_are_refused(value: int) -> None:
    for nested in (value, [value], {"a": value}, [*range(9), value]):
        with pytest.raises(InvalidStateError, match="64 bits"):
            encode(nested)


@pytest.mark.parametrize("value", ["\ud800", "a\udfff", {"\ud800": 1}, ["x", {"a": "\udabc"}]])
def test_lone_surrogates_are_refused(value: Any) -> None:
    with pytest.raises(InvalidStateError, match="surrogate"):
        encode(value)


@pytest.mark.parametrize(
    "value",
    [
        datetime(2026, 1, 1, tzinfo=UTC),
        date(2026, 1, 1),
        Decimal("1.5"),
        Fraction(1, 3),
        {1, 2},
        frozenset({1}),
        memoryview(b"ab"),
        cbor2.CBORTag(1, 1),
        cbor2.CBORSimpleValue(3),
        object(),
        print,
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_is_not_plain_is_refused_by_the_writer(value: Any) -> None:
    for nested in (value, [value], {"a": [value]}):
        with pytest.raises(InvalidStateError):
            encode(nested)


REFUSED = {
    "nothing": "",
    "time": "c11a00000000",
    "text time": "c074323032362d30312d30315430303a30303a30305a",
    "bignum": "c249010000000000000000",
    "negative bignum": "c349010000000000000000",
    "decimal": "c48221196ab3",
    "rational": "d81e820103",
    "regular expression": "d8236161",
    "uuid": "d8255000000000000000000000000000000000",
    "set": "d9010281 01".replace(" ", ""),
    "self-described": "d9d9f701",
    "shared": "d81c8101",
    "shared reference": "82d81c8101d81d00",
    "self reference": "d81c81d81d00",
    "string references": "d90100826161d81900",
    "ip address": "d9010444c0000201",
    "unknown tag": "d9ffff01",
    "largest tag": "dbffffffffffffffff01",
    "tag in long form": "db000000000000000101",
    "nested tag": "81a1616181c101",
    "indefinite list": "9f01ff",
    "indefinite map": "bf616101ff",
    "indefinite bytes": "5f4161ff",
    "indefinite text": "7f6161ff",
    "nested indefinite": "819f01ff",
    "duplicate keys": "a2616101616102",
    "duplicate keys in two lengths": "a261610178016102",
    "integer key": "a10102",
    "boolean key": "a1f501",
    "null key": "a1f601",
    "list key": "a1800 1".replace(" ", ""),
    "float key": "a1f93c0001",
    "break": "ff",
    "list with a break": "81ff",
    "two values": "0000",
    "value and rubbish": "a0ff",
    "reserved length": "1c",
    "reserved simple": "fc",
    "short simple": "f818",
    "cut integer": "1b0000",
    "cut text": "6261",
    "cut list": "8201",
    "cut map": "a16161",
    "endless list": "9bffffffffffffffff",
    "long list": "9a7fffffff",
    "long map": "ba7fffffff",
    "long bytes": "5bffffffffffffffff",
    "long text": "7b00ffffffffffffff",
    "no UTF-8": "61ff",
    "surrogate in UTF-8": "63eda080",
    "overlong UTF-8": "62c080",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED)
def test_what_is_never_written_is_not_read(data: str) -> None:
    with pytest.raises(CorruptSnapshotError) as caught:
        decode(bytes.fromhex(data), key="heads/x")
    assert caught.value.key == "heads/x"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


def test_nesting_is_bounded() -> None:
    assert decode(encode(nested(DEPTH_MAX)), key="k") == nested(DEPTH_MAX)
    for levels in (DEPTH_MAX + 1, 500):
        with pytest.raises(CorruptSnapshotError, match="depth"):
            decode(encode(nested(levels)), key="k")
    with pytest.raises(CorruptSnapshotError):
        decode(b"\x81" * 1_000_000 + b"\x01", key="k")
    with pytest.raises(CorruptSnapshotError):
        decode(b"\xa1\x61a" * 100_000 + b"\x01", key="k")
    with pytest.raises(CorruptSnapshotError):
        decode(b"\xc1" * 100_000 + b"\x01", key="k")


@pytest.mark.parametrize("kind", [list, dict])
def test_the_deepest_document_that_a_state_admits_can_be_stored(kind: type) -> None:
    """A value that the models accept is never one that a load refuses."""
    document: Any = "leaf"
    for _ in range(JSON_DEPTH_MAX):
        document = [document] if kind is list else {"a": document}
    at = "2026-01-01T00:00:00Z"
    call = ToolCallRecord(
        call_id="c", tool="t", args=document, output=ToolCallOutput.success(_deepest_output(kind)), duration_ms=1
    )
    part = Part(id="p", kind="Text", content="", tool_replay=document, response_meta=document, reasoning_meta=document)
    payloads = [
        EventPayload(event=Message(id="m", role="User", parts=(part,))),
        EventPayload(event=ToolInvocation(stable_key="c", record=call)),
        PluginPayload(plugin_type="p", body=document),
    ]
    nodes = [SessionNodeRecord(node_id="n", parent_node_id=None, timestamp=at, payload=payload) for payload in payloads]
    entry = ToolEntry(manifest=ToolManifest(id="i", name="t", compact_contract=document), source_id="s")
    meta = PluginSnapshotMeta(plugin_id="p", plugin_version="1", state=document)
    for plain in (
        nodes_to_plain(nodes),
        ToolState(tools={"t": entry}).model_dump(),
        PluginSessionSnapshot(plugins={"p": PluginSnapshot(meta=meta)}).model_dump(),
        {
            "policy": SessionPolicy.model_validate(
                {"prompt": {"template": document, "slots": {"s": document}}}
            ).model_dump()
        },
    ):
        assert decode(encode(plain), key="k") == plain


def _deepest_output(kind: type) -> Any:
    """Return the deepest value that a tool's output admits."""
    value: Any = "leaf"
    for _ in range(JSON_DEPTH_MAX * 2):
        deeper: Any = [value] if kind is list else {"a": value}
        try:
            ToolCallOutput.success(deeper)
        except ValueError:
            return value
        value = deeper
    raise AssertionError("no bound")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_corrupt(data: bytes) -> None:
    try:
        decode(data, key="k")
    except CorruptSnapshotError as error:
        assert error.key == "k"  # noqa: PT017  either outcome is right, another exception is not


@given(plain_values, st.data())
def test_altered_bytes_are_read_or_corrupt(value: Any, data: st.DataObject) -> None:
    raw = bytearray(encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        raw[data.draw(st.integers(0, len(raw) - 1))] = data.draw(st.integers(0, 255))
    try:
        decode(bytes(raw), key="k")
    except CorruptSnapshotError as error:
        assert error.key == "k"  # noqa: PT017  either outcome is right, another exception is not


@given(st.dictionaries(texts | st.binary(max_size=4), plain_values, max_size=6))
def test_keys_are_in_the_order_that_the_library_gives_them(value: dict[Any, Any]) -> None:
    assert encode(value) == cbor2.dumps(value, canonical=True)
    record = {"records": [{"b": value, "aa": 1, "": None, "a": (True, b"x")}] * 2, **dict.fromkeys("zyx", value)}
    assert encode(record) == cbor2.dumps(record, canonical=True)
    many = {f"key{number}": value for number in range(ORDER_CHARACTERS_MAX // 4, -1, -1)}
    assert encode(many) == cbor2.dumps(many, canonical=True)
