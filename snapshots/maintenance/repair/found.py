"""What was found in a family, and what it says of where everything lies.

Rules:
1. Nothing of it is believed: what lies there is read and hashed.

    found = Found(manifests, blobs)
    found.places(ref), found.logs("graph", "s1"), found.homes(pieces)
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar

from snapshots.errors import CorruptSnapshotError, UnsupportedSchemaError
from snapshots.fields import Fields
from snapshots.laying import GRAPH, PLACES
from snapshots.logs import LogRef
from snapshots.maintenance.entries import entries_in
from snapshots.maintenance.needs import books_of
from snapshots.maintenance.pieces import Pieces, readable_runs
from snapshots.maintenance.repair.runs import FoundManifest
from snapshots.maintenance.repair.together import longest
from snapshots.placement import Homes, PlaceRow, row_from_plain
from storage.digest import BlobRef, Digest
from storage.extents import Extent
from storage.packs import PackedBlob

T = TypeVar("T")


class Found:
    """What was found, and what it says of where everything lies.

    Args:
        manifests: Manifests.
        blobs: What packs say of blobs that lie whole in them.

    Attributes:
        manifests: As given.
    """

    def __init__(self, manifests: Sequence[FoundManifest], blobs: Sequence[PackedBlob]) -> None:
        self.manifests = manifests
        self._blobs = blobs
        self._logs: dict[tuple[str, str], tuple[tuple[Extent, ...], ...]] = {}
        self._homes: tuple[Homes, ...] | None = None

    def places(self, ref: BlobRef) -> list[tuple[Extent, ...]]:
        """Return where packs and manifests say that a whole blob lies; of logs what packs say."""
        return list(self._places.get(ref.digest, ()))

    def logs(self, kind: str, session_id: str) -> tuple[tuple[Extent, ...], ...]:
        """Return where the manifests say that a log lies; forks have the graph alone in common.

        Args:
            kind: "graph", "history" or "places".
            session_id: Whose log.
        """
        whose = "" if kind == GRAPH else session_id
        if (kind, whose) not in self._logs:
            mine = (one for one in self.manifests if not whose or one.session_id in ("", whose))
            placed = (_log(one, kind) for one in mine)
            self._logs[kind, whose] = tuple(dict.fromkeys(extents for extents in placed if extents))
        return self._logs[kind, whose]

    def homes(self, pieces: Pieces) -> tuple[Homes, ...]:
        """Return where packs lie that others carry, for each session, as far as its log of places can be read."""
        if self._homes is None:
            logs = {session_id: self.logs(PLACES, session_id) for session_id in self._sessions()}
            homes = (books_of(rows_at(many, pieces)).homes for many in logs.values())
            self._homes = tuple(dict.fromkeys(one for one in homes if one))
        return self._homes

    def _sessions(self) -> Iterable[str]:
        return dict.fromkeys(found.session_id for found in self.manifests if found.session_id)

    @cached_property
    def _places(self) -> dict[Digest, dict[tuple[Extent, ...], None]]:
        places: dict[Digest, dict[tuple[Extent, ...], None]] = {}
        for blob in self._blobs:
            places.setdefault(blob.ref.digest, {})[blob.extents] = None
        for found in self.manifests:
            placed = found.placement()
            for part in found.checkpoint.parts().values():
                if part is not None and part.digest in placed.extents:
                    places.setdefault(part.digest, {})[placed.extents[part.digest]] = None
        return places


def rows_at(placed: Iterable[Sequence[Extent]], pieces: Pieces) -> list[PlaceRow]:
    """Return the rows in what can be read of some logs of places; what several have in common is read once."""
    rows: list[PlaceRow] = []
    for extents in longest(placed):
        for run in readable_runs(pieces, extents):
            rows += rows_in(run, row_from_plain)
    return rows


def rows_in(run: bytes, parse: Callable[[Any], T]) -> Iterator[T]:
    """Yield the rows of a stretch of a log, up to what is none: what stands behind a gap need not begin with one."""
    for plain in entries_in(run, key=""):
        try:
            yield from Fields({"rows": [plain]}, key="", record="row").rows("rows", parse)
        except (CorruptSnapshotError, UnsupportedSchemaError):
            return


def _log(found: FoundManifest, kind: str) -> tuple[Extent, ...]:
    placed = found.placement()
    at: LogRef = placed.places if kind == PLACES else getattr(found.checkpoint, kind)
    return placed.extents.get(at.ref.digest, ()) if at.count else ()
