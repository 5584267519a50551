"""The mark cache: what it says of a head goes for one version, it is bounded, and nothing rests on it."""

from __future__ import annotations

from typing import Any

import pytest

from snapshots import codec
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.maintenance.marks import MARK_BYTES, ROWS_BYTES_MAX, Marks, pack_mark
from storage.registers import REGISTER_BYTES_MAX
from storage.store import Version

KEY = "default/collect/marks"
ONE, TWO = Version("one"), Version("two")
ID = "0123456789abcdef" * 2


def decoded(data: bytes, tenant: str = "default") -> Marks:
    return Marks.decode(data, key=KEY, tenant=tenant)


def encoded(marks: Marks) -> bytes:
    return marks.encode(tenant="default", write_id=ID)


def record(**changes: Any) -> bytes:
    plain = {"schema_version": 1, "tenant": "default", "write_id": bytes(16), "heads": {bytes(8): bytes(16)}}
    return codec.guarded(codec.encode(plain | changes))


def test_what_was_noted_is_read_back() -> None:
    marks = Marks()
    packs = {pack_mark(name) for name in ("p", "q", "r")}
    marks.add("a", ONE, packs)
    marks.add("b", ONE, ())
    found = decoded(encoded(marks))
    assert found == marks
    assert len(found) == 2
    assert found.packs_of("a", ONE) == frozenset(packs)
    assert found.packs_of("b", ONE) == frozenset()


def test_another_version_and_another_head_are_not_known() -> None:
    marks = Marks()
    marks.add("a", ONE, [pack_mark("p")])
    assert marks.packs_of("a", TWO) is None
    assert marks.packs_of("b", ONE) is None
    marks.add("a", TWO, [pack_mark("q")])
    assert marks.packs_of("a", ONE) is None
    assert marks.packs_of("a", TWO) == frozenset([pack_mark("q")])
    assert len(marks) == 1


def test_a_copy_grows_by_itself() -> None:
    marks = Marks()
    marks.add("a", ONE, ())
    other = marks.copy()
    assert other == marks
    other.add("b", ONE, ())
    assert (len(marks), len(other)) == (1, 2)
    assert other != marks


@pytest.mark.parametrize("packs", [0, 3, 40, 10_000])
def test_what_does_not_fit_is_not_cached(packs: int) -> None:
    marks = Marks()
    for number in range(100_000 if packs < 10 else 5_000):
        marks.add(
            f"head {number}", ONE, [number.to_bytes(4, "big") + index.to_bytes(4, "big") for index in range(packs)]
        )
        if marks.packs_of(f"head {number}", ONE) is None:
            break
    else:
        pytest.fail("everything fitted")
    assert number > 10
    data = encoded(marks)
    assert ROWS_BYTES_MAX // 2 < len(data) <= REGISTER_BYTES_MAX
    assert decoded(data) == marks
    marks.add("head 0", TWO, range_of(2 * packs + 8))  # in place of what was known, and too large: it is forgotten
    assert marks.packs_of("head 0", ONE) is None


def range_of(count: int) -> list[bytes]:
    return [number.to_bytes(MARK_BYTES, "big") for number in range(count)]


def test_a_cache_that_was_read_keeps_within_the_bound() -> None:
    marks = Marks()
    for number in range(100_000):
        marks.add(f"head {number}", ONE, ())
    again = decoded(encoded(marks))
    again.add("one more", ONE, ())
    assert again == marks


@pytest.mark.parametrize(
    "changes",
    [
        {"tenant": "other"},
        {"tenant": None},
        {"write_id": b""},
        {"heads": []},
        {"heads": {b"short": bytes(16)}},
        {"heads": {bytes(8): bytes(15)}},
        {"heads": {bytes(8): b""}},
        {"heads": {bytes(8): "text"}},
        {"heads": {"a": bytes(8)}},
    ],
)
def test_what_is_no_cache_is_refused(changes: dict[str, Any]) -> None:
    assert len(decoded(record())) == 1
    with pytest.raises(CorruptSnapshotError):
        decoded(record(**changes))


def test_one_of_a_later_version_is_refused() -> None:
    for changes in ({"schema_version": 2}, {"more": 1}):
        with pytest.raises(UnsupportedSchemaError):
            decoded(record(**changes))


def test_damage_is_noticed() -> None:
    data = record()
    for damaged in (b"", data[:-1], data[:10] + b"x" + data[11:]):
        with pytest.raises(CorruptSnapshotError):
            decoded(damaged)
