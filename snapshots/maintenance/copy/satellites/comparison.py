"""Comparing what lies beside a session in two stores: every difference, as a value. Reads only.

Rules:
1. Values are compared, with ids and tenants as they are to be: not where anything lies, nor who wrote it when.
2. A usage log is the set of its rows, each by its id: their order, and how they are cut into segments, is no
   difference. Of each row 32 bytes are kept.
3. What a session that was moved left behind is compared like what is there.

    for difference in compare_satellites(source, here, "s1", "s1"):
        print(difference)
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Literal, TypeVar

from snapshots import codec
from snapshots.environment import Environment
from snapshots.maintenance.copy.satellites.realtime import (
    SourceLog,
    checkpoint_for,
    mapped_records,
    read_source,
)
from snapshots.maintenance.copy.satellites.registers import METADATA_COPY, RECORD_COPY, RegisterCopy
from snapshots.realtime.journal import WHAT
from snapshots.realtime.progress import checkpoint_to_plain
from snapshots.usage.index import KIND, index_register, last_index
from snapshots.usage.reading import row_digest, stored_rows
from snapshots.usage.rows import UsageRow
from storage.digest import short_hash

T = TypeVar("T")
DifferenceKind = Literal["missing", "more", "different"]
"""Only a has it; only b has it; both have it, and it is not the same."""
_TEXT_DIGEST_BYTES = 16
_SEEN = b""


@dataclass(frozen=True, slots=True)
class Difference:
    """Something that is not the same in both stores.

    Attributes:
        session_id: Of which session, its id in a.
        what: What of it: "session record", "metadata", "usage log", "realtime session".
        kind: Which has it.
        position: The key in a, the id of a row, or the number of a realtime record.
        reason: For people.
    """

    session_id: str
    what: str
    kind: DifferenceKind
    position: str
    reason: str


def compare_satellites(a: Environment, b: Environment, session_id: str, other_id: str) -> Iterator[Difference]:
    """Yield what differs beside a session, kind by kind.

    Args:
        a: One store.
        b: The other; its tenant may be another one.
        session_id: The session in a.
        other_id: The same in b.

    Raises:
        SessionDeletedError: It went while it was compared.
        CorruptSnapshotError, UnsupportedSchemaError: Something cannot be read; what was yielded stands.
        UnavailableError: A store did not answer.
    """
    yield from _registers(a, b, session_id, other_id, RECORD_COPY)
    yield from _registers(a, b, session_id, other_id, METADATA_COPY)
    yield from _usage(a, b, session_id, other_id)
    yield from _realtime(a, b, session_id, other_id)


def _presence(one: object | None, other: object | None) -> DifferenceKind | None:
    """Return which has it, if not both or neither have."""
    if (one is None) == (other is None):
        return None
    return "missing" if other is None else "more"


def _reason(kind: DifferenceKind) -> str:
    return {"missing": "only the first store has it", "more": "only the second store has it"}.get(kind, "they differ")


def _registers(
    a: Environment, b: Environment, session_id: str, other_id: str, how: RegisterCopy[T]
) -> Iterator[Difference]:
    register = how.register(a, session_id)
    one, other = register.look(), how.register(b, other_id).look()
    kind = _presence(one, other)
    if one is not None and other is not None:
        mapped = how.mapped(one.value, b.layout, other_id)
        plain = (codec.encode(register.kind.to_plain(value)) for value in (mapped, other.value))
        kind = None if next(plain) == next(plain) else "different"
    if kind is not None:
        yield Difference(session_id, register.kind.name, kind, register.key, _reason(kind))


# Usage.


def _rows(environment: Environment, session_id: str) -> Iterator[UsageRow]:
    register = index_register(environment, session_id)
    if register.look() is None:
        return iter(())
    return chain.from_iterable(stored_rows(environment, session_id, lambda: last_index(register).value))


def _usage(a: Environment, b: Environment, session_id: str, other_id: str) -> Iterator[Difference]:
    def difference(row: UsageRow, kind: DifferenceKind) -> Difference:
        return Difference(session_id, KIND.name, kind, row.row_id, _reason(kind))

    texts: dict[bytes, bytes] = {}  # of the rows of a by their ids; _SEEN for those that b has
    for row in _rows(a, session_id):
        texts.setdefault(row_digest(row.row_id), _digest(row))
    common = 0
    count = len(texts)
    for row in _rows(b, other_id):
        name = row_digest(row.row_id)
        text = texts.get(name)
        if text == _SEEN:
            continue
        texts[name] = _SEEN
        if text is None:
            yield difference(row, "more")
            continue
        common += 1
        if text != _digest(row):
            yield difference(row, "different")
    if common == count:
        return
    for row in _rows(a, session_id):
        if texts.get(row_digest(row.row_id), _SEEN) != _SEEN:
            texts[row_digest(row.row_id)] = _SEEN
            yield difference(row, "missing")


def _digest(row: UsageRow) -> bytes:
    return short_hash(row.text.encode(), _TEXT_DIGEST_BYTES)


# Realtime.


def _realtime(a: Environment, b: Environment, session_id: str, other_id: str) -> Iterator[Difference]:
    key = a.layout.realtime_state(session_id)
    one, other = read_source(a, session_id), read_source(b, other_id)
    kind = _presence(one, other)
    if kind is not None:
        yield Difference(session_id, WHAT, kind, key, _reason(kind))
    if one is None or other is None:
        return
    if _state(one, other_id) != _state(other, other_id):
        yield Difference(session_id, WHAT, "different", key, "the states differ")
    both = range(1, min(one.last, other.last) + 1)
    mine, theirs = mapped_records(a, b, session_id, other_id, both), mapped_records(b, b, other_id, other_id, both)
    for first, second in zip(mine, theirs, strict=True):
        if first.record != second.record:
            yield Difference(session_id, WHAT, "different", str(first.record.sequence), _reason("different"))
    for number in range(both.stop, one.last + 1):
        yield Difference(session_id, WHAT, "missing", str(number), _reason("missing"))
    for number in range(both.stop, other.last + 1):
        yield Difference(session_id, WHAT, "more", str(number), _reason("more"))


def _state(log: SourceLog, session_id: str) -> bytes:
    return codec.encode(checkpoint_to_plain(checkpoint_for(log.found.value, session_id)))
