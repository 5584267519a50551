"""The mark cache: which packs a head named when it was last read. A hint for plans; nothing is deleted because of it.

Rules:
1. What it says of a head goes for one version of it. No two writes of a head have equal bytes, so a version says all.
2. It may be lost, old or damaged: then it is ignored, and written anew by the next collection that deletes something.
3. It holds digests of 8 bytes. Where two are equal by chance, a pack is not seen to be garbage, and nothing else.
4. It is bounded: what does not fit is not cached.

    found = read_marks(environment)
    found.marks.packs_of(key, version)
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import SCHEMA_VERSION, Fields, id_bytes
from storage.digest import short_hash
from storage.errors import CorruptObjectError, NotFoundError, PreconditionFailedError, StorageError
from storage.registers import REGISTER_BYTES_MAX, Register
from storage.store import Version

MARK_BYTES = 8  # of a digest; a wrong hint in a tenant of a million packs has a chance of 1 in 10^13 per pack
ROW_BYTES = 16  # what a row takes beside its digests of version and packs, in bytes, and never more
ROWS_BYTES_MAX = REGISTER_BYTES_MAX - 4096  # all rows together; the rest of a register is for what stands around them


def pack_mark(key: str) -> bytes:
    """Return the digest that stands for a pack, from its key."""
    return short_hash(key.encode(), MARK_BYTES)


class Marks:
    """Heads, at one version each, and the packs that they named. Grows up to ROWS_BYTES_MAX."""

    def __init__(self) -> None:
        self._rows: dict[bytes, bytes] = {}  # digest of the head's key → those of its version and of its packs
        self._size = 0

    def __len__(self) -> int:
        return len(self._rows)

    def __eq__(self, other: object) -> bool:
        return self._rows == other._rows if isinstance(other, Marks) else NotImplemented

    __hash__ = None  # type: ignore[assignment]  # it grows

    def copy(self) -> Marks:
        """Return what grows by itself from here on."""
        other = Marks()
        other._rows, other._size = dict(self._rows), self._size
        return other

    def packs_of(self, key: str, version: Version) -> frozenset[bytes] | None:
        """Return the marks of the packs that a head named at this version, None if that is not known."""
        row = self._rows.get(_digest(key))
        if row is None or row[:MARK_BYTES] != _digest(version):
            return None
        return frozenset(_cut(row[MARK_BYTES:]))

    def add(self, key: str, version: Version, packs: Iterable[bytes]) -> None:
        """Note what a head names at this version, in place of what was known of it; nothing if that does not fit."""
        name = _digest(key)
        self._size -= _cost(self._rows.pop(name, b""))
        row = b"".join([_digest(version), *sorted(packs)])
        if self._size + _cost(row) <= ROWS_BYTES_MAX:
            self._rows[name] = row
            self._size += _cost(row)

    def encode(self, *, tenant: str, write_id: str) -> bytes:
        """Return the stored bytes."""
        record = codec.encode(
            {"schema_version": SCHEMA_VERSION, "tenant": tenant, "write_id": id_bytes(write_id), "heads": self._rows}
        )
        return codec.guarded(record)

    @classmethod
    def decode(cls, data: bytes, *, key: str, tenant: str) -> Marks:
        """Return what `encode` wrote.

        Raises:
            CorruptSnapshotError: It is something else, or another tenant's.
            UnsupportedSchemaError: It is of a later version.
        """
        fields = Fields(codec.decode(codec.unguarded(data, key=key), key=key), key=key, record="mark cache")
        fields.schema()
        if fields.text("tenant") != tenant:
            raise fields.wrong("is another tenant's, moved here from its own key")
        fields.raw("write_id", 16)
        rows = fields.value("heads")
        fields.nothing_else()
        if not isinstance(rows, dict) or not all(_is_row(name, row) for name, row in rows.items()):
            raise fields.wrong("has no rows of digests in 'heads'")
        marks = cls()
        marks._rows = rows
        marks._size = sum(map(_cost, rows.values()))
        return marks


def _digest(text: str) -> bytes:
    return short_hash(text.encode(), MARK_BYTES)


def _cut(digests: bytes) -> Iterator[bytes]:
    return (digests[start : start + MARK_BYTES] for start in range(0, len(digests), MARK_BYTES))


def _cost(row: bytes) -> int:
    return ROW_BYTES + len(row) if row else 0


def _is_row(name: object, row: object) -> bool:
    if not isinstance(name, bytes) or len(name) != MARK_BYTES:
        return False
    return isinstance(row, bytes) and len(row) >= MARK_BYTES and len(row) % MARK_BYTES == 0


@dataclass(frozen=True, slots=True)
class MarksRead:
    """The cache as it was found.

    Attributes:
        marks: What it says; nothing if it is not there or was ignored.
        version: At which it was read, None if nothing that could be replaced is there.
        ignored: Why it was ignored, "" if it was not.
    """

    marks: Marks = field(default_factory=Marks)
    version: Version | None = None
    ignored: str = ""

    @property
    def in_the_way(self) -> bool:
        """Say whether an object without a version stands there: it has to go before another can be written."""
        return bool(self.ignored) and self.version is None


def read_marks(environment: Environment) -> MarksRead:
    """Read the cache; ignore what cannot be read (rule 2). Raises UnavailableError."""
    register = Register(environment.store, environment.layout.marks, environment.clock)
    try:
        stored = register.read()
    except NotFoundError:
        return MarksRead()
    except CorruptObjectError as error:
        return MarksRead(ignored=str(error))
    try:
        return MarksRead(Marks.decode(stored.data, key=register.key, tenant=environment.layout.tenant), stored.version)
    except (CorruptSnapshotError, UnsupportedSchemaError) as error:
        return MarksRead(version=stored.version, ignored=str(error))


def write_marks(environment: Environment, marks: Marks, before: MarksRead) -> str:
    """Write the cache in place of the one that was read; return what became of it, for a report.

    Nobody needs the cache: a failure is said, and ends nothing.
    """
    if marks == before.marks and not before.ignored:
        return "as it was"
    register = Register(environment.store, environment.layout.marks, environment.clock)
    data = marks.encode(tenant=environment.layout.tenant, write_id=environment.clock.new_id())
    try:
        register.compare_and_swap(before.version, data)
    except PreconditionFailedError:
        return "left to another collection, which wrote it meanwhile"
    except StorageError as error:
        return f"not written: {error}"
    return f"{'written anew' if before.ignored else 'written'}, {len(marks)} heads"
