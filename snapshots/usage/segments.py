"""Segments of a usage log, and the index of those that are live. Pure.

A segment is an object: a standard zstd stream of rows, each on a line of its own, and behind it a note that says whose
it is, which every zstd reader passes over. So DuckDB, pandas and zstdcat read it as it is.

Rules:
1. Tenant, session id, writer, number and count of rows stand in the segment and are compared on every read.
2. The index names the live segments in the order in which they are read: a new one comes last, a merged one takes the
   place of those that it replaces.
3. Sizes are checked before anything is decompressed.

    data = seal_segment(SegmentFacts("default", "s1", writer, 1, 2), rows)
    facts, rows = open_segment(data, key="…")
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from snapshots.errors import CorruptSnapshotError
from snapshots.fields import SCHEMA_VERSION, Fields, columns, id_bytes, id_text, is_whole
from snapshots.layout import segment_name
from snapshots.state.values import json_text
from snapshots.usage.rows import STORED_BYTES_MAX
from storage.errors import CorruptObjectError
from storage.frame import open_stream, seal_stream
from storage.keys import check_id

SEGMENT_BYTES_MAX = 8 << 20  # of rows: one request to store or read, and as much memory at a time
SEGMENT_ROWS_MAX = 1 << 16
# Named by an index. Once they are merged as far as they can be, at least every other one is full: holds 4 MiB of rows
# or 32,768 rows. So a log takes at least 16 GiB or 134 million rows; only what fills its segments takes 64 GiB.
SEGMENTS_MAX = 8192
NUMBER_MAX = (1 << 63) - 1  # of a collection; far beyond what they count to, far below where counting ends
SEQUENCE_MAX = 10**10 - 1
LEVEL_MAX = 63  # more than the logarithm of any count


@dataclass(frozen=True, slots=True)
class SegmentFacts:
    """What a segment says of itself.

    Attributes:
        tenant: Whose.
        session_id: Of which session.
        writer: 32 hex digits of whoever wrote it.
        sequence: Its number among that writer's.
        rows: How many it holds.
    """

    tenant: str
    session_id: str
    writer: str
    sequence: int
    rows: int

    @property
    def name(self) -> str:
        """Return the name of the segment."""
        return segment_name(self.writer, self.sequence)


def seal_segment(facts: SegmentFacts, rows: Sequence[bytes]) -> bytes:
    """Return the bytes of a segment; the same for the same arguments."""
    raw = b"".join(row + b"\n" for row in rows)
    assert len(rows) == facts.rows <= SEGMENT_ROWS_MAX, "Rule 3"
    assert 0 < len(raw) <= SEGMENT_BYTES_MAX, "Rule 3"
    return seal_stream(raw, json_text({"schema_version": SCHEMA_VERSION, **asdict(facts)}).encode())


def open_segment(data: bytes, *, key: str) -> tuple[SegmentFacts, list[bytes]]:
    """Return what `seal_segment` was given. Raises CorruptSnapshotError, UnsupportedSchemaError."""
    try:
        raw, note = open_stream(data, key=key, bytes_max=SEGMENT_BYTES_MAX)
    except CorruptObjectError as error:
        raise CorruptSnapshotError(key, error.reason) from error
    facts = _facts(note, key)
    rows = raw.split(b"\n")
    if rows.pop() != b"" or len(rows) != facts.rows:
        raise CorruptSnapshotError(key, f"the segment holds {len(rows)} whole rows, declares {facts.rows}")
    if any(len(row) > STORED_BYTES_MAX for row in rows):
        raise CorruptSnapshotError(key, f"a row has over {STORED_BYTES_MAX} bytes")
    return facts, rows


def _facts(note: bytes, key: str) -> SegmentFacts:
    try:
        plain = json.loads(note)
    except (ValueError, RecursionError) as error:
        raise CorruptSnapshotError(key, f"the note of a segment is no JSON ({error})") from error
    fields = Fields(plain, key=key, record="segment of a usage log")
    fields.schema()
    facts = SegmentFacts(
        tenant=fields.parsed("tenant", check_id, fields.value("tenant")),
        session_id=fields.parsed("session_id", check_id, fields.value("session_id")),
        writer=fields.text("writer"),
        sequence=fields.integer("sequence", 1, SEQUENCE_MAX),
        rows=fields.integer("rows", 1, SEGMENT_ROWS_MAX),
    )
    fields.nothing_else()
    fields.parsed("writer", lambda writer: segment_name(writer, 1), facts.writer)
    return facts


@dataclass(frozen=True, slots=True)
class LiveSegment:
    """A segment that the index names.

    Attributes:
        writer: 32 hex digits.
        sequence: Its number among that writer's.
        rows: How many it holds.
        size_bytes: Its size in the store.
        raw_bytes: The size of its rows.
        level: How often its rows were merged.
    """

    writer: str
    sequence: int
    rows: int
    size_bytes: int
    raw_bytes: int
    level: int = 0

    @property
    def name(self) -> str:
        """Return its name."""
        return segment_name(self.writer, self.sequence)


@dataclass(frozen=True, slots=True)
class Index:
    """The live segments of a log, in the order in which they are read.

    Attributes:
        number: Of the collection for which it was last rewritten, 0 before the first.
        segments: They.
    """

    number: int = 0
    segments: tuple[LiveSegment, ...] = ()

    @property
    def names(self) -> frozenset[str]:
        """Return the names of the live segments."""
        return frozenset(one.name for one in self.segments)


def index_to_plain(index: Index) -> dict[str, Any]:
    """Return an index as plain data."""
    assert 0 <= index.number <= NUMBER_MAX, "as it is read"
    return {"number": index.number, "segments": list(map(_segment_to_plain, index.segments))}


def _segment_to_plain(one: LiveSegment) -> list[Any]:
    return [id_bytes(one.writer), one.sequence, one.rows, one.size_bytes, one.raw_bytes, one.level]


def index_from_plain(plain: Any) -> Index:
    """Return the index that `index_to_plain` wrote. Raises ValueError, TypeError."""
    if not isinstance(plain, dict) or plain.keys() != {"number", "segments"}:
        raise ValueError("not an index")
    if not is_whole(plain["number"], 0, NUMBER_MAX):
        raise ValueError(f"not a number of a collection, of 0..{NUMBER_MAX}")
    if not isinstance(plain["segments"], list) or len(plain["segments"]) > SEGMENTS_MAX:
        raise ValueError(f"not a list of at most {SEGMENTS_MAX} segments")
    index = Index(plain["number"], tuple(map(_segment_from_plain, plain["segments"])))
    if len(index.names) != len(index.segments):
        raise ValueError("a segment is named twice")
    return index


def _segment_from_plain(plain: Any) -> LiveSegment:
    writer, sequence, rows, size_bytes, raw_bytes, level = columns(plain, 6)
    bounds = (
        (sequence, 1, SEQUENCE_MAX),
        (rows, 1, SEGMENT_ROWS_MAX),
        (size_bytes, 1, 2 * SEGMENT_BYTES_MAX),
        (raw_bytes, 1, SEGMENT_BYTES_MAX),
        (level, 0, LEVEL_MAX),
    )
    if not all(is_whole(*bound) for bound in bounds):
        raise ValueError("not a segment of a usage log")
    return LiveSegment(id_text(writer), sequence, rows, size_bytes, raw_bytes, level)
