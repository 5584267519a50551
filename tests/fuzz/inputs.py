"""Inputs that no writer of ours leaves: values changed inside, encodings that lie about themselves, bytes at random.

Rules:
1. An input follows from the decoder's name, a seed and a number: what failed can be made again.
2. A value is changed first and written afterwards, by writers that can lie: about lengths, counts, widths, tags.
3. What surrounds a record (checksum, frame) is made right again for most inputs, so that what lies behind is reached.

    inputs = Inputs("head", Form.CBOR, (encoded,), seed=7)
    inputs.inner(3)
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from random import Random
from typing import Any

import cbor2
import zstandard

from storage.digest import short_hash
from storage.frame import FRAME_BYTES_MAX, seal_frame

_SIZES = (0, 1, 23, 24, 255, 256, 65535, 65536, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 63) - 1, 1 << 63)
_HUGE = (*_SIZES, (1 << 64) - 1)
_DEEP = (1, 2, 20, 79, 81, 1000, 5000)
_PLAIN: tuple[Any, ...] = (
    None, True, False, 0.0, -0.0, 1.5, float("inf"), float("nan"), 1e308, "", "x", "\x00", "é\U0001f600", "x" * 600,
    "b3:", "b3:" + "0" * 64, "1970-01-01T00:00:00Z", b"", b"\x00" * 16, b"\xff" * 24, b"\x00" * 32, [], [[]],
    [None] * 5,
    {}, {"": None}, {"a": {"b": []}}, "root", "$lash_tool_value", {"$lash_tool_value": "object", "entries": {}},
)  # fmt: skip
_INTEGERS = tuple(sign * size + step for size in _HUGE for sign in (1, -1) for step in (-1, 0, 1))


class Form(Enum):
    """How the innermost bytes of a record are written."""

    CBOR = auto()
    JSON = auto()
    FRAMES = auto()
    BYTES = auto()


@dataclass(frozen=True)
class Raw:
    """Bytes that stand in a value as they are, whatever they mean."""

    data: bytes


@dataclass(frozen=True)
class Pairs:
    """A map as pairs: keys may stand twice, and need not be text."""

    pairs: tuple[tuple[Any, Any], ...]


# Values.


def paths(value: Any, path: tuple[int, ...] = ()) -> list[tuple[int, ...]]:
    """Return the path of every value inside a value, itself included, by position."""
    found = [path]
    for index, item in enumerate(_items(value)):
        found += paths(item, (*path, index))
    return found


def _items(value: Any) -> list[Any]:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list) else []


def _replaced(value: Any, path: tuple[int, ...], change: Callable[[Any], Any]) -> Any:
    """Return `value` with `change` applied at `path`; the rest is shared."""
    if not path:
        return change(value)
    first, rest = path[0], path[1:]
    if isinstance(value, dict):
        return {
            name: _replaced(item, rest, change) if index == first else item
            for index, (name, item) in enumerate(value.items())
        }
    return [_replaced(item, rest, change) if index == first else item for index, item in enumerate(value)]


def _at(value: Any, path: tuple[int, ...]) -> Any:
    for step in path:
        value = _items(value)[step]
    return value


class Changes:
    """Changes of a value, drawn from a generator. Each returns what stands there instead."""

    def __init__(self, random: Random, whole: Any) -> None:
        self._random = random
        self._whole = whole

    def any(self, value: Any) -> Any:
        """Return something else for `value`."""
        ways = [self._wild, self._nested, self._elsewhere]
        if isinstance(value, dict | list):
            ways += [self._dropped, self._doubled, self._added, self._emptied, self._shuffled] * 2
        if isinstance(value, int | float):
            ways += [self._number] * 4
        if isinstance(value, str | bytes):
            ways += [self._longer, self._cut, self._shifted] * 2
        return self._random.choice(ways)(value)

    def _wild(self, _: Any) -> Any:
        return self._random.choice((*_PLAIN, self._random.choice(_INTEGERS)))

    def _number(self, value: Any) -> Any:
        return self._random.choice((value + 1, value - 1, -value, str(value), float(value), *_INTEGERS))

    def _nested(self, value: Any) -> Any:
        for _ in range(self._random.choice(_DEEP[:5])):
            value = [value] if self._random.random() < 0.7 else {"a": value}
        return value

    def _elsewhere(self, _: Any) -> Any:
        return _at(self._whole, self._random.choice(paths(self._whole)))

    def _dropped(self, value: Any) -> Any:
        gone = self._random.randrange(len(value)) if value else 0
        if isinstance(value, dict):
            return {name: item for index, (name, item) in enumerate(value.items()) if index != gone}
        return [item for index, item in enumerate(value) if index != gone]

    def _doubled(self, value: Any) -> Any:
        if isinstance(value, list):
            return value + value[-1:] * self._random.choice((1, 1, 2, 100))
        pairs = [*value.items()]
        return Pairs((*pairs, self._random.choice(pairs))) if pairs else value

    def _added(self, value: Any) -> Any:
        if isinstance(value, list):
            return [*value, self._wild(None)]
        name = self._random.choice(("more", "", "schema_version", 1, b"k", None, True, 1.5, "é"))
        return Pairs((*value.items(), (name, self._wild(None))))

    def _emptied(self, value: Any) -> Any:
        return type(value)()

    def _shuffled(self, value: Any) -> Any:
        values = _items(value)
        self._random.shuffle(values)
        return dict(zip(value, values, strict=True)) if isinstance(value, dict) else values

    def _longer(self, value: Any) -> Any:
        return value * self._random.choice((2, 3, 50))

    def _cut(self, value: Any) -> Any:
        return value[: self._random.randrange(len(value) + 1)]

    def _shifted(self, value: Any) -> Any:
        if not value:
            return value
        place = self._random.randrange(len(value))
        other = "\ud800" if isinstance(value, str) and self._random.random() < 0.1 else chr(self._random.randrange(256))
        return value[:place] + (other if isinstance(value, str) else other.encode("latin-1")) + value[place + 1 :]


def changed(random: Random, value: Any) -> Any:
    """Return `value` with one to three changes in it."""
    for _ in range(random.choice((1, 1, 2, 3))):
        value = _replaced(value, random.choice(paths(value)), Changes(random, value).any)
    return value


# Writers that can lie.


class CborWriter:
    """Writes CBOR; one item in `1 / odd` not as it should be."""

    def __init__(self, random: Random, odd: float) -> None:
        self._random = random
        self._odd = odd

    def write(self, value: Any) -> bytes:
        """Return the bytes of a value."""
        if isinstance(value, Raw):
            return value.data
        if self._random.random() < self._odd:
            return self._oddly(value)
        return self._plainly(value)

    def _plainly(self, value: Any) -> bytes:
        if isinstance(value, dict | Pairs):
            pairs = list(value.items() if isinstance(value, dict) else value.pairs)
            return _head(5, len(pairs)) + b"".join(self.write(key) + self.write(item) for key, item in pairs)
        if isinstance(value, list | tuple):
            return _head(4, len(value)) + b"".join(map(self.write, value))
        if isinstance(value, str):
            raw = value.encode("utf-8", "surrogatepass")
            return _head(3, len(raw)) + raw
        return cbor2.dumps(value)

    def _oddly(self, value: Any) -> bytes:
        ways = [self._tagged, self._raw, self._lying, self._endless]
        return self._random.choice(ways)(value)

    def _tagged(self, value: Any) -> bytes:
        tag = self._random.choice(
            (0, 1, 2, 3, 4, 5, 24, 25, 28, 29, 30, 35, 37, 100, 256, 258, 260, 43000, 55799, *_HUGE)
        )
        return _head(6, tag) + self._plainly(value)

    def _raw(self, _: Any) -> bytes:
        head = self._random.randrange(256)
        return bytes([head]) + self._random.randbytes(self._random.choice((0, 1, 2, 4, 8)))

    def _lying(self, value: Any) -> bytes:
        """A head that declares another size, or is wider than it need be."""
        kind = self._random.choice((2, 3, 4, 5))
        size = self._random.choice(_HUGE)
        rest = self._plainly(value) * self._random.choice((0, 1, 5))
        return _wide_head(kind, size) + rest

    def _endless(self, value: Any) -> bytes:
        end = self._random.choice((b"\xff", b""))
        return bytes([self._random.choice((0x5F, 0x7F, 0x9F, 0xBF))]) + self._plainly(value) + end


def _head(kind: int, size: int) -> bytes:
    return bytes([kind << 5 | size]) if size < 24 else _wide_head(kind, size)


def _wide_head(kind: int, size: int) -> bytes:
    width = next((width for width in range(3) if size < 1 << (8 << width)), 3)
    return bytes([kind << 5 | 24 + width]) + size.to_bytes(1 << width, "big")


class JsonWriter:
    """Writes JSON; one item in `1 / odd` as something that JSON, or 64 bits, do not have."""

    def __init__(self, random: Random, odd: float) -> None:
        self._random = random
        self._odd = odd

    def write(self, value: Any) -> bytes:
        """Return the text of a value."""
        if isinstance(value, Raw):
            return value.data
        if self._random.random() < self._odd:
            return self._random.choice(_ODD_JSON)
        if isinstance(value, dict | Pairs):
            pairs = value.items() if isinstance(value, dict) else value.pairs
            rows = (self._key(key) + b":" + self.write(item) for key, item in pairs)
            return b"{" + b",".join(rows) + b"}"
        if isinstance(value, list | tuple):
            return b"[" + b",".join(map(self.write, value)) + b"]"
        if isinstance(value, bytes):
            return json.dumps(value.hex()).encode()
        return json.dumps(value, ensure_ascii=self._random.random() < 0.5).encode("utf-8", "surrogatepass")

    def _key(self, key: Any) -> bytes:
        return self.write(key if isinstance(key, str) else str(key))


_ODD_JSON = (
    b"NaN", b"-Infinity", b"1e999", b"-0", b"9" * 5000, b"1" * 40, b"0.1e-400", b'"\\ud800"', b'"\\udc00\\ud800"',
    b"'x'", b'"\x00"', b"[" * 3000, b"[" * 200 + b"]" * 200, b'{"a":' * 5000 + b"1" + b"}" * 5000, b"{}{}",
    b'{"a":1,"a":2}',
    b"", b"\xff", b"\xef\xbb\xbf1", b"tru", b"// x", b"18446744073709551616", b"-9223372036854775809",
)  # fmt: skip


# Bytes and frames.


def damaged(random: Random, data: bytes) -> bytes:
    """Return bytes with one to four places flipped, cut, inserted, repeated or overwritten."""
    for _ in range(random.choice((1, 1, 2, 4))):
        place = random.randrange(len(data) + 1)
        end = min(len(data), place + random.choice((1, 1, 2, 8, 64)))
        new = random.choice(
            (
                b"",
                random.randbytes(random.choice((1, 2, 8))),
                data[place:end] * random.choice((2, 3, 100)),
                bytes(byte ^ (1 << random.randrange(8)) for byte in data[place:end]),
                random.choice(_HUGE).to_bytes(8, random.choice(("big", "little"))),
            )
        )
        data = data[:place] + new + data[end:]
    return data


def frame(
    payload: bytes, *, codec: int = 1, seal: int = 0, raw_bytes: int = 1, payload_bytes: int | None = None
) -> bytes:
    """Return a frame with any header, its checksum right."""
    size = len(payload) if payload_bytes is None else payload_bytes
    head = struct.pack(">BBII", codec, seal, raw_bytes, size)
    return head + short_hash(head + payload, 8) + payload


def zstd(raw: bytes, **options: Any) -> bytes:
    """Return a zstd frame of `raw`."""
    return zstandard.ZstdCompressor(level=3, **options).compress(raw)


def _bombs() -> tuple[bytes, ...]:
    """Return frames that declare little and hold much, hold little and declare much, or declare nothing."""
    zeros = bytes(16 << 20)
    large, small = zstd(zeros), zstd(b"x" * 100)
    streamed = zstandard.ZstdCompressor(level=3, write_content_size=False).compress(zeros)
    # Source: RFC 8878 section 3.1.1.1: magic, descriptor with an 8-byte size, window of 1 MiB and more.
    endless = b"\x28\xb5\x2f\xfd\xc0\xff" + b"\xff" * 7 + b"\x7f" + b"\x03\x00\x00"
    wide = b"\x28\xb5\x2f\xfd\x80\xff" + FRAME_BYTES_MAX.to_bytes(4, "little") + b"\x03\x00\x00"
    # A run of one byte repeated, in a frame that declares 100 bytes: block header with type 1 and a size of 128 KiB.
    runs = b"\x28\xb5\x2f\xfd\x20\x64" + ((FRAME_BYTES_MAX << 3) | 2).to_bytes(3, "little") + b"x"
    many = runs[:6] + (((FRAME_BYTES_MAX << 3) | 2).to_bytes(3, "little") + b"x") * 200
    sizes = (1, 100, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, 16 << 20, (1 << 32) - 1)
    payloads = (large, small, streamed, endless, wide, runs, many, small + large, small + small, b"", b"x" * 100)
    return tuple(
        frame(payload, codec=codec, raw_bytes=size) for payload in payloads for size in sizes for codec in (0, 1, 2)
    )


BOMBS = _bombs()


def _lying_frame(random: Random, raw: bytes) -> bytes:
    if random.random() < 0.3:
        return seal_frame(raw)
    packed = random.choice((raw, zstd(raw), zstd(raw * 50), damaged(random, zstd(raw)), raw[:10]))
    sizes = (len(raw), len(raw), len(raw) + 1, 0, 1, FRAME_BYTES_MAX, FRAME_BYTES_MAX + 1, (1 << 32) - 1)
    return frame(
        packed,
        codec=random.choice((0, 1, 1, 1, 2, 255)),
        seal=random.choice((0, 0, 0, 0, 1, 255)),
        raw_bytes=random.choice(sizes),
        payload_bytes=random.choice((None, None, None, len(packed) + 1, 0, (1 << 32) - 1)),
    )


def changed_frames(random: Random, data: bytes) -> bytes:
    """Return frames made of `data`: lying ones, bombs, and several of them one behind the other."""
    raw = damaged(random, data)[: random.choice((10, 1000, FRAME_BYTES_MAX))] or b"x"
    frames = [
        random.choice((_lying_frame(random, raw), random.choice(BOMBS))) for _ in range(random.choice((1, 1, 1, 3)))
    ]
    return b"".join(frames)


# One decoder's inputs.


def parsed(form: Form, data: bytes) -> Any:
    """Return the plain value of an example."""
    return cbor2.loads(data) if form is Form.CBOR else json.loads(data)


class Inputs:
    """The inputs of one decoder.

    Args:
        name: Of the decoder.
        form: Of its innermost bytes.
        examples: Valid ones.
        seed: Rule 1.
    """

    def __init__(self, name: str, form: Form, examples: Sequence[bytes], *, seed: str) -> None:
        self._name = name
        self._form = form
        self._examples = examples
        self._seed = seed
        structured = form in (Form.CBOR, Form.JSON)
        self._plain = [parsed(form, example) for example in examples] if structured else []

    def random(self, number: int) -> Random:
        """Return the generator that input `number` is drawn from."""
        return Random(f"{self._seed}/{self._name}/{number}")

    def inner(self, random: Random) -> bytes:
        """Return one input, as it stands innermost."""
        if random.random() < 0.05:
            return random.randbytes(random.choice((0, 1, 5, 17, 33, 100, 1024)))
        example = random.choice(self._examples)
        if self._form is Form.FRAMES:
            return changed_frames(random, example) if random.random() < 0.7 else damaged(random, example)
        if self._form is Form.BYTES or random.random() < 0.2:
            return damaged(random, example)
        return self._written(random, random.choice(self._plain))

    def _written(self, random: Random, plain: Any) -> bytes:
        odd = random.choice((0.0, 0.0, 0.01, 0.1))
        value = plain if odd and random.random() < 0.5 else changed(random, plain)
        if random.random() < 0.02:
            value = _replaced(value, random.choice(paths(value)), lambda _: Raw(self._deep(random)))
        writer = CborWriter(random, odd) if self._form is Form.CBOR else JsonWriter(random, odd)
        return writer.write(value)

    def _deep(self, random: Random) -> bytes:
        depth = random.choice(_DEEP)
        if self._form is Form.CBOR:
            return random.choice((b"\x81" * depth + b"\x00", b"\xa1\x61a" * depth + b"\x00", b"\xa1" * depth))
        return b"[" * depth + b"]" * depth
