"""What lies beside the sessions of a tenant, by listing: which of them have a record, metadata, a usage log, realtime.

Rules:
1. A listing tells of objects, not of what is in them; nothing is read but where an id cannot be told from a key.
2. What is remembered is the session's part of a key and a few letters: some hundred bytes each.

    beside = presence_in(environment)
    beside.kinds("s1")
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby

from snapshots import codec
from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import Fields
from snapshots.maintenance.copy.satellites import SatelliteKind
from storage.errors import NotFoundError


@dataclass(frozen=True, slots=True)
class Headless:
    """What lies beside a session that has no head.

    Attributes:
        session_id: Its id; where that cannot be told, the name that its keys end with.
        kinds: What there is.
        damage: Why the id cannot be told: it stands in a register alone, and that cannot be read. None if it can.
    """

    session_id: str
    kinds: tuple[SatelliteKind, ...]
    damage: CorruptSnapshotError | UnsupportedSchemaError | None = None


class Presence:
    """Which kinds of satellites sessions have.

    Args:
        environment: Whose.
    """

    def __init__(self, environment: Environment) -> None:
        self._environment = environment
        self._layout = environment.layout
        self._kinds: dict[str, tuple[SatelliteKind, ...]] = {}  # by the session's part of a key
        self._seen: set[str] = set()  # parts of sessions that were asked for

    def add(self, kind: SatelliteKind, prefix: str) -> None:
        """List the satellites of a kind, and remember whose they are."""
        rows = self._environment.store.list(prefix)
        for part, _ in groupby(rows, lambda row: self._layout.session_part(row.key)):
            self._kinds[part] = (*self._kinds.get(part, ()), kind)

    def kinds(self, session_id: str) -> tuple[SatelliteKind, ...]:
        """Return what a session has; remembers that it was asked for."""
        part = self._layout.session_part(self._layout.head(session_id))
        self._seen.add(part)
        return self._kinds.get(part, ())

    def others(self) -> Iterator[Headless]:
        """Yield the sessions that were not asked for, with what they have: they have no head."""
        for part in sorted(self._kinds.keys() - self._seen):
            try:
                session_id, damage = self._session_of(part), None
            except (CorruptSnapshotError, UnsupportedSchemaError) as error:
                session_id, damage = self._layout.family_id(part.rpartition("/")[2]), error
            if session_id:
                yield Headless(session_id, self._kinds[part], damage)

    def _session_of(self, part: str) -> str:
        """Return the id of a session from its part of a key, "" if it is gone meanwhile."""
        layout = self._layout
        found = layout.family_id(part.rpartition("/")[2])  # a family is named as its first session is
        if layout.session_part(layout.head(found)) == part:
            return found
        for key in layout.registers_beside(part):
            try:
                data = self._environment.store.get(key).data
            except NotFoundError:
                continue
            return Fields(codec.decode(codec.unguarded(data, key=key), key=key), key=key, record="register").text(
                "session_id"
            )
        return ""


def presence_in(environment: Environment) -> Presence:
    """List what lies beside the sessions of a tenant. Raises UnavailableError."""
    found = Presence(environment)
    for kind, prefix in environment.layout.copied_satellites.items():
        found.add(kind, prefix)
    return found
