"""`Counts`: requests by verb and bytes either way, as measured or as predicted; equal counts are equal.

Rules:
1. A listing is one request per page of 1,000 keys, a deletion of many one per 1,000 keys, as stores charge for them.
2. The requests with which a repository is opened are not part of an operation: one GET of the store object.

    Counts(get=2, list=1) + 3 * Counts(put=1)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

from storage.store import LIST_PAGE_KEYS
from storage.wrappers.metered import MetricsSnapshot


@dataclass(frozen=True, slots=True)
class Counts:
    """Requests, and bytes.

    Attributes:
        get: Requests that read an object or a part of it.
        put: Requests that write one.
        stat: Requests for size and version alone.
        list: Pages of listings.
        delete_many: Batches of deletions.
        bytes_in: Bytes read.
        bytes_out: Bytes written.
    """

    get: int = 0
    put: int = 0
    stat: int = 0
    list: int = 0
    delete_many: int = 0
    bytes_in: int = 0
    bytes_out: int = 0

    @classmethod
    def of(cls, used: MetricsSnapshot) -> Counts:
        """Return what was measured. Raises ValueError if a single object was deleted: no operation here does that."""
        if used["delete"].requests:
            raise ValueError("an object was deleted by itself; count it before you call these counts complete")
        return cls(
            get=used["get"].requests,
            put=used["put"].requests,
            stat=used["stat"].requests,
            list=used["list"].requests,
            delete_many=used["delete_many"].requests,
            bytes_in=used.total.bytes_in,
            bytes_out=used.total.bytes_out,
        )

    @classmethod
    def from_json(cls, plain: Mapping[str, int]) -> Counts:
        """Return what `as_json` gave."""
        return cls(**plain)

    def as_json(self) -> dict[str, int]:
        """Return what is not 0, by name."""
        return {name: value for name, value in asdict(self).items() if value}

    @property
    def requests(self) -> int:
        """Return the requests of all verbs."""
        return self.get + self.put + self.stat + self.list + self.delete_many

    def without_bytes(self) -> Counts:
        """Return the requests alone."""
        return replace(self, bytes_in=0, bytes_out=0)

    def __add__(self, other: Counts) -> Counts:
        mine, theirs = asdict(self), asdict(other)
        return Counts(**{name: mine[name] + theirs[name] for name in mine})

    def __rmul__(self, times: int) -> Counts:
        return Counts(**{name: times * value for name, value in asdict(self).items()})

    def __str__(self) -> str:
        verbs = ("get", "put", "stat", "list", "delete_many")
        return ", ".join(f"{getattr(self, verb):,} {verb}" for verb in verbs if getattr(self, verb)) or "–"


def pages(keys: int) -> int:
    """Return the requests of a listing of so many keys: one at least, that finds nothing."""
    return max(1, -(-keys // LIST_PAGE_KEYS))
