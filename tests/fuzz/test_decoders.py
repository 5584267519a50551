"""Whatever bytes a decoder is given, it returns a value or raises what it says, within bounds of memory and work.

SNAPSHOTS_FUZZ_SECONDS=600 python -m pytest tests/fuzz -s
"""

from __future__ import annotations

import gc
import importlib
import itertools
import json
import os
import pkgutil
import re
import sys
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from secrets import token_hex
from types import CodeType, FunctionType
from typing import Any

import cbor2
import pytest

import snapshots
import storage
from snapshots import codec
from snapshots.adapters.transcripts.reading import parse_transcripts
from snapshots.errors import InvalidInputError
from snapshots.fields import U64_MAX
from storage.digest import digest
from storage.frame import seal_frame
from tests.fuzz.decoders import DECODERS, PLACES, STATE, TURN, Decoder, encoded
from tests.fuzz.inputs import BOMBS, Inputs, damaged, frame, zstd
from tests.snapshots import test_records as valid
from tests.snapshots.state.builders import lines_run

SECONDS = float(os.environ.get("SNAPSHOTS_FUZZ_SECONDS", "30"))
SEED = os.environ.setdefault("SNAPSHOTS_FUZZ_SEED", token_hex(4))  # the process that does it aside has the same
ROOT = Path(__file__).parents[2]
NAMED = {decoder.name: decoder for decoder in DECODERS}
EACH = pytest.mark.parametrize("decoder", DECODERS, ids=lambda decoder: decoder.name)

BYTES_PER_BYTE = 500  # of input: a byte of JSON or CBOR becomes an object, and is quoted in an error
BOTH_AFTER = 200  # inputs: by then some were read and some were not
FAILURES_MAX = 10  # shown of one run
CPU_SECONDS_MAX = 20.0  # for a MiB: hundreds of times what it takes; work in the square takes longer still


@dataclass(frozen=True)
class Failure:
    """An input that came to something else."""

    decoder: str
    number: int
    data: bytes
    what: str

    def __str__(self) -> str:
        shown = self.data.hex() if len(self.data) <= 2000 else f"{len(self.data)} bytes"
        return f"{self.decoder}, seed {SEED}, number {self.number}: {self.what}\n    {shown}"


def outcome(decoder: Decoder, data: bytes) -> str:
    """Return "read", or the name of the typed error; raise AssertionError for anything else."""
    assert tracemalloc.is_tracing(), "or memory would not be looked at"
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    try:
        decoder.read(data)
        found = "read"
    except decoder.errors as error:
        found = type(error).__name__
    except Exception as error:
        raise AssertionError(f"{type(error).__name__}: {error!s:.300}") from error
    taken = tracemalloc.get_traced_memory()[1] - before
    allowed = decoder.fixed_bytes + BYTES_PER_BYTE * len(data)
    assert taken <= allowed, f"{taken} bytes of memory for {len(data)} of input, over {allowed}"
    return found


@contextmanager
def traced() -> Iterator[None]:
    gc.freeze()  # what the whole suite made is not gone through now, and not collected meanwhile
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()
        gc.unfreeze()


@pytest.fixture(autouse=True)
def _traced() -> Iterator[None]:
    with traced():
        yield


@EACH
def test_valid_examples_are_read(decoder: Decoder) -> None:
    for example in decoder.examples:
        assert outcome(decoder, decoder.wrap(example)) == "read"


DECODES = re.compile(r"decode|open_frame|open_manifest|unguarded|read_index|_?[a-z_]*from_plain")
# What is called so and reads nothing that is stored as bytes.
OTHERS = frozenset({"_ModeTagged.decode"})


def decoding_functions() -> dict[CodeType, str]:
    """Return the functions of the packages that read what is stored, by their code."""
    found: dict[CodeType, str] = {}
    for package in (snapshots, storage):
        for info in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if ".testing" in info.name or ".cli" in info.name:
                continue
            module = importlib.import_module(info.name)
            holders = [module, *(one for one in vars(module).values() if isinstance(one, type))]
            for holder in holders:
                for value in vars(holder).values():
                    function = getattr(value, "__func__", value)
                    if isinstance(function, FunctionType) and DECODES.fullmatch(function.__name__):
                        found[function.__code__] = function.__qualname__
    return found


def test_every_function_that_decodes_is_reached_by_a_decoder_here() -> None:
    reached: set[CodeType] = set()
    sys.setprofile(lambda frame, _event, _argument: reached.add(frame.f_code))
    try:
        for decoder in DECODERS:
            for example in decoder.examples:
                decoder.read(decoder.wrap(example))
    finally:
        sys.setprofile(None)
    ours = {code: name for code, name in decoding_functions().items() if code.co_filename.startswith(str(ROOT))}
    missing = {name for code, name in ours.items() if code not in reached} - OTHERS
    assert not missing, f"give {sorted(missing)} a row in tests/fuzz/decoders.py, or name it in OTHERS"


# A fresh seed each time.


@pytest.mark.aside
@pytest.mark.timeout(SECONDS * 2 + 600)
def test_only_typed_errors_come_out() -> None:
    print(f"SNAPSHOTS_FUZZ_SEED={SEED}")
    failures: list[Failure] = []
    counts: dict[str, Counter[str]] = {decoder.name: Counter() for decoder in DECODERS}
    every = [(decoder, inputs_of(decoder)) for decoder in DECODERS]
    end = time.monotonic() + SECONDS
    with traced():
        for number in itertools.count():
            for decoder, inputs in every:
                data = made(decoder, inputs, number)
                try:
                    counts[decoder.name][outcome(decoder, data)] += 1
                except AssertionError as error:
                    failures.append(Failure(decoder.name, number, data, str(error)))
            if time.monotonic() > end or len(failures) >= FAILURES_MAX:
                break
    print(table(counts))
    assert not failures, "\n".join(map(str, failures))
    for name, outcomes in counts.items():
        assert outcomes.total() < BOTH_AFTER or len(outcomes) > 1, f"{name} met only one kind of input"


def inputs_of(decoder: Decoder, seed: str = SEED) -> Inputs:
    return Inputs(decoder.name, decoder.form, decoder.examples, seed=seed)


def made(decoder: Decoder, inputs: Inputs, number: int) -> bytes:
    random = inputs.random(number)
    return decoder.stored(random, inputs.inner(random), damaged)


def table(counts: dict[str, Counter[str]]) -> str:
    """Return the counts by decoder and outcome."""
    kinds = sorted({kind for outcomes in counts.values() for kind in outcomes}, key=lambda kind: (kind != "read", kind))
    rows = [["decoder", "inputs", *kinds]]
    rows += [[name, str(found.total()), *(str(found[kind]) for kind in kinds)] for name, found in counts.items()]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows)
    return "\n".join(lines)


def test_inputs_follow_from_their_seed() -> None:
    for decoder in DECODERS:
        ways = [made(decoder, inputs_of(decoder, seed), number) for seed in "aab" for number in range(10)]
        assert ways[:10] == ways[10:20] != ways[20:]


# What failed once.

DEEP = 100_000


def last_epoch() -> bytes:
    return encoded({**codec.decode(NAMED["epoch"].examples[0], key="x"), "number": U64_MAX})


FORMER: dict[str, tuple[str, bytes]] = {
    "an array in an array, without end": ("codec", b"\x81" * DEEP),
    "a map in a map, without end": ("codec", b"\xa1\x61a" * DEEP),
    "an array of 2^64 entries": ("codec", b"\x9b" + b"\xff" * 8),
    "a map of 2^64 entries": ("codec", b"\xbb" + b"\xff" * 8),
    "a text of 2^63 bytes": ("codec", b"\x7b\x7f" + b"\xff" * 7),
    "bytes of 2^64": ("codec", b"\x5b" + b"\xff" * 8 + b"x"),
    "a map whose key is a list": ("codec", b"\xa1\x80\x00"),
    "a bignum of 1 MiB": ("codec", cbor2.dumps(1 << (8 << 20))),
    "a state nested without end": ("state document", b'{"a":' * DEEP),
    "a lease nested without end": ("lease", b"[" * DEEP),
    "a lease with a number of many digits": ("lease", b"9" * DEEP),
    "an index nested without end": ("index of a pack", b"[" * DEEP),
    "a transcript nested without end": ("transcript", b"[" * DEEP),
    "a transcript with a number of many digits": ("transcript", b"[" + b"9" * DEEP + b"]"),
    "the last number of a collection": ("epoch", last_epoch()),
    "a log of 2^64 entries": ("log", b"\x9b" + b"\xff" * 8),
    "a log of more entries than bytes": ("log ref", encoded([bytes(32), 10, 11])),
    "a log of no entries that has bytes": ("log ref", encoded([bytes(32), 10, 0])),
    "columns of several lengths": ("extents of a placement", encoded([bytes(8), bytes(8), bytes(4)])),
    "a frame number without a frame": (
        "extents of a placement",
        encoded([bytes([2, 2] * 4), bytes(8), b"\x01\x01" + bytes(6)]),
    ),
    "a pack number without a pack": (
        "frames of a placement",
        encoded([bytes([2, 2] * 4), bytes(16), b"\x01\x01" + bytes(6)]),
    ),
    "an offset beyond all objects": (
        "frames of a placement",
        encoded([bytes(8), b"\xff" * 16, b"\x01\x01" + bytes(6)]),
    ),
}


@pytest.mark.parametrize("name", FORMER)
def test_what_failed_once_is_refused(name: str) -> None:
    decoder, inner = FORMER[name]
    assert outcome(NAMED[decoder], NAMED[decoder].wrap(inner)) != "read"


# Bombs.


@pytest.mark.parametrize("name", ["frame", "frame that continues a log", "run of frames"])
def test_a_bomb_takes_no_more_memory_than_a_frame(name: str) -> None:
    outcomes = Counter(outcome(NAMED[name], bomb) for bomb in BOMBS)
    assert outcomes["CorruptObjectError"] > len(BOMBS) // 2


def test_a_run_of_many_small_frames_stops_at_its_limit() -> None:
    packed = zstd(bytes(128 << 10))
    data = frame(packed, raw_bytes=128 << 10) * 1000
    assert len(data) < 64 << 10
    assert outcome(NAMED["run of frames"], data) == "CorruptObjectError"


def test_a_manifest_that_is_a_bomb_is_refused() -> None:
    data = seal_frame(encoded([bytes(100_000), bytes(10)])) * 2
    assert outcome(NAMED["manifest"], data) == "CorruptSnapshotError"


def test_an_index_that_is_a_bomb_is_refused() -> None:
    rows = json.dumps({"facts": {}, "blobs": [["part", digest(b""), 1, []]] * 100_000}).encode()
    data = NAMED["index of a pack"].wrap(rows)
    assert len(rows) > 200 * len(data)
    assert outcome(NAMED["index of a pack"], data) == "CorruptObjectError"


# Work in proportion to the input.


def _repeated(plain: list[Any], count: int) -> list[Any]:
    return list(itertools.islice(itertools.cycle(plain), count))


def _placement(count: int) -> bytes:
    (one,) = (many for many in valid.PLACEMENT.extents.values() if many)
    extents = {
        digest(number.to_bytes(8, "big")): tuple(extent._replace(offset=extent.offset + number) for extent in one)
        for number in range(count)
    }
    packs = _repeated(list(valid.PLACEMENT.packs), count)
    return replace(valid.PLACEMENT, extents=extents, packs=tuple(packs)).encode()


def _checkpoint(count: int) -> bytes:
    plain = codec.decode(valid.CHECKPOINT.encode(), key="x")
    options = {**plain["turn"]["mode_turn_options"], "payload": [{"a": [number]} for number in range(count)]}
    return encoded({**plain, "turn": {**plain["turn"], "mode_turn_options": options}})


def _turn(count: int) -> bytes:
    plain = codec.decode(codec.unguarded(TURN.encode(), key="x"), key="x")
    return encoded({**plain, "effects": [[f"effect {number}", "hash", b"result"] for number in range(count)]})


def _index(count: int) -> bytes:
    plain = json.loads(NAMED["index of a pack"].examples[0])
    rows = [
        [kind, digest(number.to_bytes(8, "big")), *rest]
        for number, (kind, _, *rest) in enumerate(_repeated(plain["blobs"], count))
    ]
    return json.dumps({**plain, "blobs": rows}).encode()


def _nodes(count: int) -> list[dict[str, Any]]:
    first, *_ = codec.decode(NAMED["graph"].examples[0], key="x")
    chain = [{**first, "node_id": f"n{number}", "parent_node_id": f"n{number - 1}"} for number in range(1, count)]
    return [first, *chain]


def _document(count: int) -> bytes:
    plain = json.loads(STATE.model_dump_json())
    plain["session_graph"] = {**plain["session_graph"], "nodes": _nodes(count), "leaf_node_id": f"n{count - 1}"}
    return json.dumps(plain).encode()


def _chat(count: int) -> bytes:
    item = json.loads(NAMED["transcript"].examples[0])[0]
    return json.dumps([{**item, "traj": _repeated(item["traj"], count)}]).encode()


def _history(count: int) -> bytes:
    return encoded(_repeated(codec.decode(NAMED["rows of a history"].examples[0], key="x"), count))


def _map(count: int) -> bytes:
    return encoded({f"k{number}": number for number in range(count)})


GROWING: dict[str, tuple[str, Callable[[int], bytes]]] = {
    "a map": ("codec", _map),
    "a history": ("rows of a history", _history),
    "places": ("rows of places", lambda count: encoded(_repeated(PLACES, count))),
    "a placement": ("placement", _placement),
    "a checkpoint": ("checkpoint", _checkpoint),
    "a turn in flight": ("turn in flight", _turn),
    "an index": ("index of a pack", _index),
    "a log": ("log", lambda count: encoded([{"n": [number]} for number in range(count)])),
    "a graph": ("graph", lambda count: encoded(_nodes(count))),
    "a state document": ("state document", _document),
    "a transcript": ("transcript", _chat),
}


@pytest.mark.parametrize("name", GROWING)
def test_twice_the_input_is_at_most_thrice_the_work(name: str) -> None:
    decoder, grow = NAMED[GROWING[name][0]], GROWING[name][1]
    small, large = (decoder.wrap(grow(count)) for count in (100, 200))
    assert len(large) <= 3 * len(small)
    assert lines_run(lambda: decoder.read(large)) <= 3 * lines_run(lambda: decoder.read(small))


@pytest.mark.parametrize("name", GROWING)
def test_a_large_input_is_read_in_seconds(name: str) -> None:
    """Work inside built-in functions is in no count of lines: only a clock shows it, so far off that it cannot err."""
    decoder, grow = NAMED[GROWING[name][0]], GROWING[name][1]
    tracemalloc.stop()
    count = 300
    while len(grow(count)) < (500 << 10):
        count *= 2
    assert cpu_seconds(lambda: decoder.read(decoder.wrap(grow(count)))) < CPU_SECONDS_MAX


def test_a_key_that_stands_twice_is_found_in_seconds() -> None:
    tracemalloc.stop()
    keys = ",".join(f'"k{number}":0' for number in range(100_000))
    raw = f'{{{keys},"k99999":0}}'.encode()

    def refuse() -> None:
        with pytest.raises(InvalidInputError, match="'k99999' stands twice"):
            parse_transcripts(raw, source="x.json", stem="x")

    assert cpu_seconds(refuse) < CPU_SECONDS_MAX


def cpu_seconds(work: Callable[[], object]) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start
