"""`S3Store` keeps the contract on Ceph, where many requests are carried out at once."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from storage import ObjectStore
from storage.backends.s3 import S3Store
from storage.errors import PreconditionFailedError, UnavailableError
from storage.store import Create, Replace
from storage.testing.conformance import StoreConformance
from storage.testing.conformance_load import INCREMENTS, RACERS, together
from storage.testing.draws import Draws
from tests.conformance.s3_behind import raw_get, store_at

ATTEMPTS_MAX = 10_000


class TestS3StoreOnCeph(StoreConformance):
    @pytest.fixture
    def store(self, ceph_url: str) -> Iterator[S3Store]:
        with store_at(ceph_url) as opened:
            yield opened

    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        return raw_get(store, key)

    def test_no_update_is_lost(self, store: ObjectStore) -> None:
        """Some who lose a race are told 500, which leaves open whether they wrote: everybody appends a name to find.

        Source: Ceph 16.2.15, measured 2026-11-21: 266 of 3,700 losers; none of them had written.
        """
        store.put("names", b"", Create())
        together(RACERS, lambda racer: sum(_append(store, racer, number) for number in range(INCREMENTS)))
        names = (self.raw(store, "names") or b"").decode().split()
        assert sorted(names) == sorted(f"{racer}-{number}" for racer in range(RACERS) for number in range(INCREMENTS))


def _append(store: ObjectStore, racer: int, number: int) -> int:
    """Append a name once; what is in doubt is read back. Return the attempts that it took."""
    name, draws = f"{racer}-{number} ".encode(), Draws(racer)
    for attempt in range(1, ATTEMPTS_MAX + 1):
        found = store.get("names")
        if name.strip() in found.data.split():
            return attempt - 1
        try:
            store.put("names", found.data + name, Replace(found.version))
        except (PreconditionFailedError, UnavailableError):
            threading.Event().wait(draws.random() * 0.02 * min(attempt, 8))  # full jitter, else they starve each other
        else:
            return attempt
    raise AssertionError(f"an append did not get through in {ATTEMPTS_MAX} attempts")
