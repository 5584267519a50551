"""`LoadConformance`: the part of the store contract that needs size, paging or several threads.

Rules:
1. Bounded: the counts below keep the whole suite under about 20 s on the slowest backend.
2. A race is many rounds, each begun together; a pass shows no more than that these rounds were clean.

    class StoreConformance(LoadConformance): ...
"""

from __future__ import annotations

import io
import itertools
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import pytest

from storage.errors import PreconditionFailedError, UnavailableError
from storage.store import (
    CONDITIONAL_BYTES_MAX,
    ByteRange,
    Create,
    ObjectStore,
    Overwrite,
    Replace,
    StoredObject,
    Version,
)
from storage.testing.draws import Draws

T = TypeVar("T")
RACERS = 16  # threads
ROUNDS = 5  # of Create races
APPENDS = 6  # of each racer, to one object
PAGED_KEYS = 1050  # more than one page of 1,000
PACK_BYTES = 20 << 20  # above every single-request limit: multipart on S3


def patterned(size_bytes: int) -> bytes:
    """Return bytes in which no two aligned 16-byte pieces are equal, so that a misplaced part shows."""
    return b"".join(number.to_bytes(16, "big") for number in range(size_bytes // 16 + 1))[:size_bytes]


def together(count: int, act: Callable[[int], T]) -> list[T]:
    """Run `act(0)`, `act(1)`, … in threads that begin at one moment; return the results in that order."""
    gate = threading.Barrier(count)

    def run(number: int) -> T:
        gate.wait(timeout=30)
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(run, range(count)))


class LoadConformance(ABC):
    """Sizes, streams, pages, races. Part of `StoreConformance`."""

    @abstractmethod
    def raw(self, store: ObjectStore, key: str) -> bytes | None:
        """Return what is stored under `key`, read without `store`'s methods; None if nothing is."""

    def check_same_content(self, former: Version, version: Version) -> None:
        """Check the versions of two puts of the same bytes."""
        assert version == former

    def check_former_version(self, store: ObjectStore, key: str, former: Version) -> None:
        """Check what a version is good for when its content has come back after another."""
        store.put(key, b"C", Replace(former))
        assert self.raw(store, key) == b"C"

    @pytest.mark.parametrize("size", [1, 4095, 4097, (1 << 20) - 1, (1 << 20) + 1, CONDITIONAL_BYTES_MAX])
    def test_every_size_up_to_the_limit_is_kept(self, store: ObjectStore, size: int) -> None:
        """Under each mode."""
        data = patterned(size)
        version = store.put("a", data, Create())
        changed = store.put("a", data[::-1], Replace(version))
        assert self.raw(store, "a") == data[::-1]
        assert version != changed or data == data[::-1]
        self.check_same_content(version, store.put("a", data, Overwrite()))
        assert store.get("a").data == data

    @pytest.mark.parametrize("size", [0, 1, 100_000, 9 << 20])
    def test_a_stream_is_stored_to_its_end(self, store: ObjectStore, size: int) -> None:
        """Read once, from where it stands; the same bytes have the same version however they came."""
        data = patterned(size)
        version = store.put("a", io.BytesIO(data), Create())
        assert self.raw(store, "a") == data
        self.check_same_content(version, store.put("b", data, Create()))

    def test_a_stream_that_hands_out_little_is_stored_whole(self, store: ObjectStore) -> None:
        """A pipe or socket may return less than was asked for."""
        data = patterned(30_000)
        store.put("a", _Trickle(data), Create())
        assert self.raw(store, "a") == data

    def test_a_stream_that_breaks_leaves_nothing(self, store: ObjectStore) -> None:
        """Its own error comes through, also when parts of it were sent already."""
        with pytest.raises(_BrokenStreamError):
            store.put("a", _Broken(bytes(36 << 20)), Create())
        assert self.raw(store, "a") is None
        assert list(store.list("")) == []

    def test_a_stream_goes_with_create_only(self, store: ObjectStore) -> None:
        """The other modes are for small values that may have to be sent again."""
        version = store.put("a", b"one", Create())
        for mode in (Overwrite(), Replace(version)):
            with pytest.raises(ValueError, match="stream"):
                store.put("a", io.BytesIO(b"two"), mode)
        assert self.raw(store, "a") == b"one"

    @pytest.mark.parametrize("streamed", [False, True])
    def test_a_pack_of_any_size_is_created(self, store: ObjectStore, streamed: bool) -> None:
        """As bytes or as a stream, and read back in ranges and whole."""
        data = patterned(PACK_BYTES + 5)
        version = store.put("p", io.BytesIO(data) if streamed else data, Create())
        meta = store.stat("p")
        assert (meta.size_bytes, meta.version) == (len(data), version)
        for start in (0, (8 << 20) - 7, (16 << 20) - 7, len(data) - 7):
            assert store.get("p", ByteRange(start, 14)).data == data[start : start + 14]
        assert store.get("p").data == data

    def test_more_keys_than_a_page_are_listed(self, store: ObjectStore) -> None:
        """In order, each once; from a key behind the first page on as well; and deleted in batches."""
        keys = [f"a/{number % 7}/{number:05}" for number in range(PAGED_KEYS)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda key: store.put(key, b"", Create()), keys))
        keys.sort()
        assert [row.key for row in store.list("a/")] == keys
        assert [row.key for row in store.list("a/", start_after=keys[20])] == keys[21:]
        assert store.delete_many(keys) == ()
        assert list(store.list("")) == []

    def test_one_of_many_creators_wins(self, store: ObjectStore) -> None:
        """And what it wrote is what stays."""
        for round_number in range(ROUNDS):
            key = f"race/{round_number}"

            def create(racer: int, key: str = key) -> bool:
                try:
                    store.put(key, f"{racer}".encode(), Create())
                except PreconditionFailedError:
                    return False
                return True

            won = together(RACERS, create)
            assert won.count(True) == 1
            assert self.raw(store, key) == f"{won.index(True)}".encode()

    def test_no_update_is_lost(self, store: ObjectStore) -> None:
        """Many append names to one object through compare-and-swap; each stands there once.

        Some who lose a race may be told that nobody knows whether they wrote: they read it back.
        Source: Ceph 16.2.15, measured 2026-11-21: 266 of 3,060 losers were told 500; none of them had written.
        """
        store.put("names", b"", Create())

        def append_all(racer: int) -> None:
            for number in range(APPENDS):
                _append(store, racer, number)

        together(RACERS, append_all)
        names = (self.raw(store, "names") or b"").decode().split()
        assert sorted(names) == sorted(f"{racer}-{number}" for racer in range(RACERS) for number in range(APPENDS))

    def test_a_reader_never_sees_half_an_object(self, store: ObjectStore) -> None:
        """While others overwrite and replace it; get, version and size belong together."""
        values = [bytes([number]) * (100_000 + number) for number in range(4)]
        first = StoredObject(values[0], store.put("a", values[0], Create()))

        def act(number: int) -> list[StoredObject]:
            if number < len(values):
                return [StoredObject(values[number], store.put("a", values[number], Overwrite())) for _ in range(12)]
            return [store.get("a") for _ in range(12)]

        results = together(8, act)
        written = {one.version: one.data for one in itertools.chain([first], *results[: len(values)])}
        assert all(written[one.version] == one.data for one in itertools.chain(*results[len(values) :]))


class VersionsOfPuts(LoadConformance):
    """For stores where every put has a version of its own; before `StoreConformance` among the bases."""

    def check_same_content(self, former: Version, version: Version) -> None:
        """No two puts share one."""
        assert version != former

    def check_former_version(self, store: ObjectStore, key: str, former: Version) -> None:
        """It is good for nothing any more."""
        before = self.raw(store, key)
        with pytest.raises(PreconditionFailedError):
            store.put(key, b"C", Replace(former))
        assert self.raw(store, key) == before


def _append(store: ObjectStore, racer: int, number: int) -> None:
    """Append a name once; what is in doubt is read back."""
    name, draws = f"{racer}-{number} ".encode(), Draws(racer)
    for attempt in range(1, 10_000):
        found = store.get("names")
        if name.strip() in found.data.split():
            return
        try:
            store.put("names", found.data + name, Replace(found.version))
        except (PreconditionFailedError, UnavailableError):
            threading.Event().wait(draws.random() * 0.02 * min(attempt, 8))  # full jitter, else they starve each other
        else:
            return
    raise AssertionError("a compare-and-swap loop did not get through in 10,000 attempts")


class _BrokenStreamError(Exception):
    """What a source of bytes may raise."""


class _Trickle(io.BytesIO):
    """Hands out at most 999 bytes at a time."""

    def read(self, size: int | None = -1, /) -> bytes:
        return super().read(999 if size is None or size < 0 or size > 999 else size)


class _Broken(io.BytesIO):
    """Raises when it has handed out most of its bytes."""

    def read(self, size: int | None = -1, /) -> bytes:
        data = super().read((1 << 20) if size is None or size < 0 else min(size, 1 << 20))
        if self.tell() > len(self.getbuffer()) * 3 // 4:
            raise _BrokenStreamError
        return data
