"""What can be copied is found, what is copied is equal, and no input makes it dear."""

from __future__ import annotations

import random
from array import array
from collections.abc import Callable, Iterator
from itertools import pairwise

import pyfastcdc
import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.benchmarks.agent_turns import PAGE_BYTES, PAGES_CHANGED, AgentTurns
from storage import matching
from storage.matching import (
    COPY_BYTES_MIN,
    OPERATION_BYTES,
    OPERATIONS_SPARE,
    Anchors,
    Copy,
    Insert,
    Operation,
    anchors_of,
    match,
)

KIB, MIB = 1 << 10, 1 << 20


def rebuilt(old: bytes, new: bytes, operations: list[Operation]) -> bytes:
    parts = [(old if isinstance(one, Copy) else new)[one.start : one.start + one.length] for one in operations]
    return b"".join(parts)


def inserted(operations: list[Operation]) -> int:
    return sum(one.length for one in operations if isinstance(one, Insert))


def continues(first: Operation, second: Operation) -> bool:
    return type(first) is type(second) and second.start == first.start + first.length


def check(old: bytes, new: bytes, operations: list[Operation]) -> None:
    """Rules 1 and 4."""
    at = 0
    for one in operations:
        assert one.length > 0
        assert one.start + one.length <= len(old if isinstance(one, Copy) else new)
        assert isinstance(one, Copy) or one.start == at
        at += one.length
    assert rebuilt(old, new, operations) == new
    for first, second in pairwise(operations):
        assert not continues(first, second)
        if isinstance(first, Insert) or isinstance(second, Insert):
            assert all(one.length >= COPY_BYTES_MIN for one in (first, second) if isinstance(one, Copy))
    assert len(operations) <= OPERATIONS_SPARE + len(new) // OPERATION_BYTES


def matched(old: bytes, new: bytes) -> list[Operation]:
    operations, anchors = match(old, new, anchors_of(old))
    check(old, new, operations)
    check_anchors(anchors, new)
    return operations


def check_anchors(anchors: Anchors, data: bytes) -> None:
    assert all(first < second for first, second in pairwise(anchors.positions))
    assert not anchors.positions or 0 < anchors.positions[0] <= anchors.positions[-1] <= len(data)
    assert len(anchors.positions) == len(anchors.hashes)


NOISE = random.Random(1).randbytes(2 * MIB)
WORDS = [random.Random(2).randbytes(length).hex() for length in (1, 2, 3, 4, 5) for _ in range(12)]


def text(seed: int, size_bytes: int) -> bytes:
    return " ".join(random.Random(seed).choices(WORDS, k=size_bytes // 3)).encode()[:size_bytes]


# Exactness, for whatever comes.

contents = st.builds(
    lambda kind, seed, size: (text(seed, size), bytes(size), random.Random(seed).randbytes(size))[kind],
    st.integers(0, 2),
    st.integers(0, 5),
    st.integers(0, 30_000) | st.integers(0, 300),
)
edits = st.tuples(
    st.sampled_from(["insert", "delete", "overwrite", "move", "repeat"]),
    st.floats(0, 1),
    st.floats(0, 1),
    st.integers(0, 300) | st.integers(0, 8000),
    contents,
)


def edited(data: bytes, edit: tuple[str, float, float, int, bytes]) -> bytes:
    kind, first, second, length, fresh = edit
    start, target = int(first * len(data)), int(second * len(data))
    piece, rest = data[start : start + length], data[:start] + data[start + length :]
    if kind == "insert":
        return data[:start] + fresh + data[start:]
    if kind == "delete":
        return rest
    if kind == "overwrite":
        return data[:start] + fresh + data[start + len(fresh) :]
    if kind == "move":
        return rest[:target] + piece + rest[target:]
    return data[:target] + piece + data[target:]


revisions = st.lists(st.lists(edits, max_size=6), min_size=1, max_size=5)


@given(contents, contents, revisions)
def test_every_revision_is_rebuilt_exactly(first: bytes, second: bytes, steps: list[list[object]]) -> None:
    old = first + second
    anchors = anchors_of(old)
    for step in steps:
        new = old
        for edit in step:
            new = edited(new, edit)  # type: ignore[arg-type]  # hypothesis types lists of tuples loosely
        operations, anchors = match(old, new, anchors)
        check(old, new, operations)
        check_anchors(anchors, new)
        old = new


@given(st.lists(st.sampled_from([b"a", b"b" * 70, b"c" * 600, NOISE[:90], NOISE[:400]])), st.randoms())
def test_repetitive_bytes_are_rebuilt_exactly(parts: list[bytes], chance: random.Random) -> None:
    shuffled = chance.sample(parts, len(parts))
    matched(b"".join(parts), b"".join(shuffled))
    matched(b"".join(parts * 9), b"".join(shuffled * 9))


@given(contents, contents, contents)
def test_anchors_of_another_blob_never_make_a_wrong_byte(old: bytes, new: bytes, other: bytes) -> None:
    for pair in ((old, new), (old, new + old), (other[:99], other)):
        operations, anchors = match(*pair, anchors_of(other * 2))
        check(*pair, operations)
        check_anchors(anchors, pair[1])


def test_equal_hashes_of_unequal_bytes_are_not_believed() -> None:
    old, new = NOISE[: 64 * KIB], NOISE[MIB : MIB + 64 * KIB]
    lying = anchors_of(new)
    operations, _ = match(old, new, lying)
    assert operations == [Insert(0, len(new))]


# The ends.


@pytest.mark.parametrize("size", [1, COPY_BYTES_MIN - 1, COPY_BYTES_MIN, 1000, 200_000])
def test_equal_bytes_are_one_copy(size: int) -> None:
    assert matched(NOISE[:size], NOISE[:size]) == [Copy(0, size)]
    assert matched(bytes(size), bytes(size)) == [Copy(0, size)]


@pytest.mark.parametrize("size", [1, 200_000])
def test_nothing_is_matched_with_nothing(size: int) -> None:
    assert matched(b"", b"") == []
    assert matched(NOISE[:size], b"") == []
    assert matched(b"", NOISE[:size]) == [Insert(0, size)]


def test_short_copies_are_not_worth_an_extent() -> None:
    alone = NOISE[:50]
    assert matched(alone, alone + b"!") == [Insert(0, 51)]
    assert matched(alone, b"!" + alone) == [Insert(0, 51)]
    assert matched(NOISE[:300], NOISE[:200] + b"!" + NOISE[201:240] + b"!" + NOISE[241:300]) == [
        Copy(0, 200),
        Insert(200, 100),
    ]


# What is found. Each row: the new bytes made of old ones, and how many bytes of them are really new.

STATES = {
    "small": NOISE[: 30 * KIB],
    "text": text(7, 200 * KIB),
    "large": NOISE,
}
FRESH = random.Random(3).randbytes(100_000)
CHANGES: dict[str, Callable[[bytes, int], tuple[bytes, int]]] = {
    "insert a byte": lambda old, at: (old[:at] + b"!" + old[at:], 1),
    "insert 100": lambda old, at: (old[:at] + FRESH[:100] + old[at:], 100),
    "insert 100,000": lambda old, at: (old[:at] + FRESH + old[at:], 100_000),
    "delete a byte": lambda old, at: (old[:at] + old[at + 1 :], 0),
    "delete 5,000": lambda old, at: (old[:at] + old[at + 5000 :], 0),
    "overwrite a byte": lambda old, at: (old[:at] + bytes([old[at] ^ 1]) + old[at + 1 :], 1),
    "overwrite 7,000": lambda old, at: (old[:at] + FRESH[:7000] + old[at + 7000 :], 7000),
    "overwrite 100,000": lambda old, at: (old[:at] + FRESH + old[at + 100_000 :], 100_000),
    "replace 97 by 103": lambda old, at: (old[:at] + FRESH[:103] + old[at + 97 :], 103),
    "replace 9,000 by 70,000": lambda old, at: (old[:at] + FRESH[:70_000] + old[at + 9000 :], 70_000),
    "insert before and behind": lambda old, _: (FRESH[:99] + old + FRESH[:99], 198),
    "cut before and behind": lambda old, _: (old[99:-99], 0),
    "turn around": lambda old, at: (old[at:] + old[:at], 0),
    "double": lambda old, _: (old + old, 0),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("place", [0.0, 0.3, 0.7])
def test_one_change_costs_what_is_new(state: str, change: str, place: float) -> None:
    old = STATES[state]
    new, really_new = CHANGES[change](old, int(place * len(old)))
    operations = matched(old, new)
    assert inserted(operations) <= really_new + COPY_BYTES_MIN
    assert len(operations) <= 5


@pytest.mark.parametrize("block", [16 * KIB, 64 * KIB])
def test_moved_blocks_are_found(block: int) -> None:
    blocks = [NOISE[start : start + block] for start in range(0, len(NOISE), block)]
    random.Random(4).shuffle(blocks)
    operations = matched(NOISE, b"".join(blocks))
    assert inserted(operations) <= COPY_BYTES_MIN
    assert len(operations) <= len(blocks) + 1


def test_a_moved_page_is_found_inside_an_overwrite() -> None:
    new = NOISE[:40_000] + NOISE[MIB : MIB + 8000] + NOISE[48_000:]
    assert matched(NOISE, new) == [Copy(0, 40_000), Copy(MIB, 8000), Copy(48_000, len(NOISE) - 48_000)]


def test_equal_bytes_between_an_overwrite_and_an_insertion_are_found() -> None:
    new = NOISE[:MIB] + FRESH[:600] + NOISE[MIB + 600 : MIB + 900] + FRESH[600:7000] + NOISE[MIB + 900 :]
    assert inserted(matched(NOISE, new)) <= 7000 + COPY_BYTES_MIN
    new = NOISE[:MIB] + FRESH[:6000] + NOISE[MIB : MIB + 300] + FRESH[6000:7000] + NOISE[MIB + 1300 :]
    assert inserted(matched(NOISE, new)) <= 7000 + COPY_BYTES_MIN


def test_what_follows_the_last_anchor_is_found() -> None:
    new = NOISE[:-800] + FRESH[:510] + NOISE[-300:]
    assert inserted(matched(NOISE, new)) <= 510 + COPY_BYTES_MIN


@pytest.mark.parametrize("step", [1000, 5000])
def test_small_insertions_closer_than_anchors_cost_little(step: int) -> None:
    new = b"!".join(NOISE[at : at + step] for at in range(0, len(NOISE), step))
    assert inserted(matched(NOISE, new)) <= 1.1 * len(NOISE) // step


@pytest.mark.parametrize("size", [10, 6000])
def test_of_two_equal_places_the_nearer_is_copied(size: int) -> None:
    twin = bytearray(NOISE)
    for at in range(5000, len(twin), 20_000):
        twin[at : at + 100] = FRESH[at % 90_000 :][:100]
    old = NOISE + bytes(twin)
    for new in (NOISE + twin[:1000] + FRESH[-size:] + twin[1000:], NOISE[:1000] + FRESH[-size:] + NOISE[1000:] + twin):
        assert inserted(matched(old, bytes(new))) <= size + COPY_BYTES_MIN


def records(count: int) -> list[bytes]:
    """Return records of one length that share two thirds of their bytes, in one piece."""
    chance = random.Random(5)
    template = b'", "level": "INFO", "logger": "agent.runtime.session", "message": "request handled"}\n{"id": "'
    return [chance.randbytes(20).hex().encode() + template for _ in range(count)]


def test_records_of_one_template_are_not_taken_for_each_other() -> None:
    lines = records(10_000)
    for step in (100, 1000):
        more = [line if n % step else lines[-n] + line for n, line in enumerate(lines)]
        assert inserted(matched(b"".join(lines), b"".join(more))) <= 150 * (len(lines) // step)
        fewer = [line for n, line in enumerate(lines) if n % step]
        assert inserted(matched(b"".join(lines), b"".join(fewer))) <= 150 * (len(lines) // step)


def test_changed_values_in_a_small_state_cost_little() -> None:
    lines, chance = records(300), random.Random(6)
    old = b"".join(lines)
    anchors = anchors_of(old)
    for _ in range(50):
        lines[chance.randrange(300)] = b'{"value": "%s"}\n' % chance.randbytes(50).hex().encode()
        new = b"".join(lines)
        operations, anchors = match(old, new, anchors)
        check(old, new, operations)
        assert inserted(operations) <= 116 + 2 * COPY_BYTES_MIN
        old = new


# Workloads.


def test_agent_turns_insert_no_more_than_the_pages_they_overwrite() -> None:
    states = [turn.execution_state for turn in AgentTurns(seed=7).turns(15)]
    anchors = anchors_of(states[0])
    for old, new in pairwise(states):
        operations, anchors = match(old, new, anchors)
        check(old, new, operations)
        assert inserted(operations) <= PAGES_CHANGED * PAGE_BYTES * 1.01
        assert len(operations) <= 4 * PAGES_CHANGED + 1


def mixture(chance: random.Random, size_bytes: int) -> bytes:
    """Return what a state is made of: records, numbers of a small range, text or noise."""
    kind = chance.choice(["records"] * 4 + ["numbers"] * 3 + ["text"] * 2 + ["noise"])
    noise = chance.randbytes(size_bytes)
    if kind == "records":
        rows = [b"\xa3dkindetool_bid\x50%s" % noise[at : at + 16] for at in range(0, size_bytes // 2, 16)]
        return b"".join(rows)[:size_bytes]
    if kind == "numbers":
        return array("I", [int.from_bytes(noise[at : at + 4], "big") >> 9 for at in range(0, size_bytes, 4)]).tobytes()
    return text(chance.randrange(1 << 30), size_bytes) if kind == "text" else noise


def scattered(old: bytes, chance: random.Random) -> tuple[bytes, int]:
    """Return `old` with 1 % of its bytes edited, half of that in a hot 5 %, and how many bytes are really new."""
    budget, places = len(old) // 100, []
    while budget > 0:
        size = min(budget, int(256 * 2 ** (chance.random() * 6)))
        hot = int(len(old) * (0.4 + 0.05 * chance.random()))
        places.append((chance.choice([hot, chance.randrange(len(old))]), size))
        budget -= size
    parts, last, really_new = [], 0, 0
    for at, size in sorted(places):
        if at < last:
            continue
        kind = chance.choices(["overwrite", "insert", "delete"], [60, 25, 15])[0]
        fresh = b"" if kind == "delete" else mixture(chance, size)
        parts += [old[last:at], fresh]
        last, really_new = at if kind == "insert" else at + size, really_new + len(fresh)
    return b"".join([*parts, old[last:]]), really_new


def test_scattered_edits_of_a_large_state_insert_hardly_more_than_is_new() -> None:
    chance = random.Random(8)
    old = b"".join(mixture(chance, 256 * KIB) for _ in range(32))
    anchors, total, total_new = anchors_of(old), 0, 0
    for _ in range(25):
        new, really_new = scattered(old, chance)
        operations, anchors = match(old, new, anchors)
        check(old, new, operations)
        total, total_new, old = total + inserted(operations), total_new + really_new, new
    assert total <= 1.1 * total_new
    assert len(anchors.positions) == pytest.approx(len(anchors_of(old).positions), rel=0.15)


def test_anchors_of_what_was_appended_are_those_of_the_whole() -> None:
    operations, anchors = match(NOISE[:MIB], NOISE, anchors_of(NOISE[:MIB]))
    assert operations == [Copy(0, MIB), Insert(MIB, MIB)]
    assert anchors == anchors_of(NOISE)


def test_an_anchor_stays_only_with_the_bytes_that_made_it() -> None:
    old_anchors = anchors_of(NOISE)
    before = {code: NOISE[at - 64 : at] for at, code in zip(old_anchors.positions, old_anchors.hashes, strict=True)}
    new = bytearray(NOISE)
    for at in range(1000, len(new), 5000):
        new[at : at + 2000] = FRESH[at % 90_000 :][:2000]
    _, anchors = match(NOISE, bytes(new), old_anchors)
    kept = [(at, code) for at, code in zip(anchors.positions, anchors.hashes, strict=True) if code in before]
    assert len(kept) > len(before) // 3
    strays = sum(new[at - 64 : at] != before[code] for at, code in kept)
    assert strays <= len(kept) // 200  # FastCDC hashes fewer bytes for a cut soon after its least distance


def test_anchors_follow_the_size() -> None:
    old = NOISE[: 100 * KIB]
    new = random.Random(9).randbytes(12 * MIB)
    assert match(old, new, anchors_of(old))[1] == anchors_of(new)
    assert match(new, old, anchors_of(new))[1] == anchors_of(old)


# Effort, counted in bytes that were cut.


class CountingFastCDC:
    """Cuts as FastCDC does; `cut_bytes` counts, over all instances."""

    cut_bytes = 0

    def __init__(self, average: int) -> None:
        self._cutter = pyfastcdc.FastCDC(average)

    def cut_buf(self, view: memoryview) -> Iterator[pyfastcdc.Chunk]:
        for chunk in self._cutter.cut_buf(view):
            CountingFastCDC.cut_bytes += chunk.length
            yield chunk


@pytest.fixture
def cutter(monkeypatch: pytest.MonkeyPatch) -> type[CountingFastCDC]:
    monkeypatch.setattr(matching, "FastCDC", CountingFastCDC)
    return CountingFastCDC


def cut_bytes(cutter: type[CountingFastCDC], old: bytes, new: bytes) -> int:
    anchors = anchors_of(old)
    cutter.cut_bytes = 0
    operations, _ = match(old, new, anchors)
    check(old, new, operations)
    return cutter.cut_bytes


def test_only_what_differs_is_cut(cutter: type[CountingFastCDC]) -> None:
    assert cut_bytes(cutter, NOISE, NOISE) <= 10 * KIB
    new = bytearray(NOISE)
    for at in range(50_000, MIB, 100_000):
        new[at : at + 3000] = FRESH[at % 90_000 :][:3000]
    assert cut_bytes(cutter, NOISE, bytes(new)) <= 10 * 8 * KIB
    assert cut_bytes(cutter, NOISE, NOISE[:500_000] + b"!" + NOISE[500_000:]) <= 8 * KIB


def every(step: int) -> bytes:
    new = bytearray(NOISE)
    new[::step] = bytes(byte ^ 1 for byte in new[::step])
    return bytes(new)


def shuffled(block: int) -> bytes:
    blocks = [NOISE[start : start + block] for start in range(0, len(NOISE), block)]
    return b"".join(random.Random(10).sample(blocks, len(blocks)))


ZEROS = bytes(2 * MIB)
PERIODIC = NOISE[:37] * (2 * MIB // 37)
PATHOLOGICAL = {
    "zeros that grow": (ZEROS, ZEROS + ZEROS),
    "zeros that shrink": (ZEROS, ZEROS[:MIB]),
    "zeros to noise": (ZEROS, NOISE),
    "noise to zeros": (NOISE, ZEROS),
    "noise to noise": (NOISE, random.Random(11).randbytes(2 * MIB)),
    "periodic, prepended": (PERIODIC, b"!" + PERIODIC),
    "periodic, one byte in 1,000 more": (PERIODIC, b"!".join(PERIODIC[at : at + 1000] for at in range(0, MIB, 1000))),
    "another period": (PERIODIC, NOISE[MIB : MIB + 53] * (2 * MIB // 53)),
    "one byte in 65 changed": (NOISE, every(65)),
    "one byte in 100 changed": (NOISE, every(100)),
    "one byte in 300 changed": (NOISE, every(300)),
    "one byte in 100 more": (NOISE, b"!".join(NOISE[at : at + 100] for at in range(0, len(NOISE), 100))),
    "one byte in 300 more": (NOISE, b"!".join(NOISE[at : at + 300] for at in range(0, len(NOISE), 300))),
    "64-byte blocks shuffled": (NOISE, shuffled(64)),
    "300-byte blocks shuffled": (NOISE, shuffled(300)),
    "all records new but for the template": (b"".join(records(9000)), b"".join(records(18_000)[9000:])),
}


@pytest.mark.parametrize("name", PATHOLOGICAL)
def test_no_input_is_searched_over_and_over(name: str, cutter: type[CountingFastCDC]) -> None:
    old, new = PATHOLOGICAL[name]
    assert cut_bytes(cutter, old, new) <= 2.5 * len(new)


def test_where_differences_are_too_dense_the_longest_copies_stay() -> None:
    new = every(300)
    operations = matched(NOISE, new)
    assert inserted(operations) < len(new) // 2
