"""Servers in memory that keep every promise, and ones that break a single one: what a probe is to find."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from email.utils import format_datetime
from typing import BinaryIO

from storage.backends.memory import MemoryStore
from storage.clock import SystemClock
from storage.errors import CorruptObjectError, NotFoundError, UnavailableError, UnsupportedServerError
from storage.server import Attempt, ServerFacts, Variant
from storage.store import (
    ByteRange,
    Create,
    ListedObject,
    ObjectStore,
    Overwrite,
    PutMode,
    Replace,
    StoredObject,
    Version,
)
from storage.wrappers.passing import PassingStore

_names = itertools.count(1)


class GoodServer(PassingStore):
    """A server that keeps every promise; each has an endpoint of its own.

    Args:
        takes: The ways to write If-Match that it understands.
        absent: What it answers to If-Match where nothing is.
        refuses: Bodies that it refuses.
        seconds: How far its clock is ahead.
    """

    def __init__(
        self,
        takes: frozenset[Variant] = frozenset({Variant.BARE, Variant.QUOTED}),
        *,
        absent: int = 404,
        refuses: frozenset[Variant] = frozenset(),
        seconds: int = 0,
        store: ObjectStore | None = None,
    ) -> None:
        super().__init__(MemoryStore() if store is None else store)
        self.told: ServerFacts | None = None
        self._endpoint = f"https://server-{next(_names)}"
        self._takes = takes
        self._absent = absent
        self._refuses = refuses
        self._seconds = seconds

    @property
    def endpoint(self) -> str:
        return self._endpoint

    @property
    def allows_one_writer(self) -> bool:
        return False

    @property
    def variants(self) -> frozenset[Variant]:
        return frozenset(Variant)

    def adapt(self, facts: ServerFacts) -> None:
        self.told = facts

    def attempt(self, key: str, data: bytes, variant: Variant, version: Version) -> Attempt:
        status = self._status(key, variant, version)
        if status < 300:
            self._store.put(key, data, Overwrite())
        now = SystemClock().now().timestamp() + self._seconds
        date = format_datetime(SystemClock().now().fromtimestamp(now).astimezone())
        return Attempt(status, "" if status < 300 else "Refused", date)

    def _status(self, key: str, variant: Variant, version: Version) -> int:
        if variant in (Variant.WRONG_CRC32, Variant.WRONG_PAYLOAD):
            return 400 if variant in self._refuses else 200
        if variant not in self._takes:
            return 412
        try:
            return 200 if self._store.stat(key).version == version else 412
        except NotFoundError:
            return self._absent

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if isinstance(mode, Replace) and self._own() not in self._takes:
            mode = Replace(Version("as nobody has it"))
        return super().put(key, data, mode)

    def _own(self) -> Variant:
        return Variant.QUOTED if self.told is not None and self.told.quoted else Variant.BARE


class IgnoresCreate(GoodServer):
    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        return super().put(key, data, Overwrite() if isinstance(mode, Create) and isinstance(data, bytes) else mode)


class IgnoresReplace(GoodServer):
    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        return super().put(key, data, Overwrite() if isinstance(mode, Replace) else mode)


class MakesUpWhatIsReplaced(GoodServer):
    """As a MinIO of 2025 did."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if isinstance(mode, Replace):
            try:
                self._store.stat(key)
            except NotFoundError:
                mode = Create()
        return super().put(key, data, mode)


class LooksThenWrites(GoodServer):
    """Keeps conditions while nobody else asks."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        try:
            present: Version | None = self._store.stat(key).version
        except NotFoundError:
            present = None
        time.sleep(0.002)  # for others to look as well
        wanted = mode.version if isinstance(mode, Replace) else None
        return super().put(key, data, Overwrite() if present == wanted else mode)


class StoresNoneOfTheWinners(GoodServer):
    """Tells one writer that it won, and keeps the bytes of another."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        version = super().put(key, data, mode)
        if b"actor" in data if isinstance(data, bytes) else False:
            self._store.put(key, b"of a loser", Overwrite())
        return version


class KnowsNoCreate(GoodServer):
    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if isinstance(mode, Create):
            raise UnsupportedServerError(["put was answered with 501 NotImplemented"])
        return super().put(key, data, mode)


class KnowsNoReplace(GoodServer):
    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if isinstance(mode, Replace):
            raise UnsupportedServerError(["put was answered with 501 NotImplemented"])
        return super().put(key, data, mode)


class ReadsLate(GoodServer):
    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        if "/list/3" in key:
            raise NotFoundError(key)
        return super().get(key, byte_range)


class ListsLate(GoodServer):
    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        rows = list(super().list(prefix, start_after=start_after))
        return iter(rows[:-1] if prefix.endswith("list/") else rows)


class ListsInNoOrder(GoodServer):
    """As directory buckets of S3 Express do."""

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        return iter(list(super().list(prefix, start_after=start_after))[::-1])


class ListsFromTheStart(GoodServer):
    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:  # noqa: ARG002  that is the fault
        return super().list(prefix)


class ReadsWhatWasDeleted(GoodServer):
    def delete(self, key: str) -> None:
        """Do nothing yet."""


class SendsTheWholeForARange(GoodServer):
    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:  # noqa: ARG002  that is the fault
        return super().get(key)


class MakesUpWhatLiesBehindTheEnd(GoodServer):
    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        try:
            return super().get(key, byte_range)
        except CorruptObjectError:
            return StoredObject(b"", Version("1"))


class IsBusy(GoodServer):
    """Refuses crowds."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if "creators" in key:
            raise UnavailableError(key, "503 SlowDown", applied="no")
        return super().put(key, data, mode)


class AnswersLosersLate(GoodServer):
    """As Ceph 16.2.15 does to some who lose an If-Match: 500, and nothing of theirs is stored."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if isinstance(mode, Replace) and "updaters" in key and self._store.stat(key).version != mode.version:
            raise UnavailableError(key, "500", applied="unknown")
        return super().put(key, data, mode)


class SlowsDownCrowds(GoodServer):
    """Answers all of a crowd with 503, which leaves open whether something was stored; nothing was."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if isinstance(data, bytes) and b"actor" in data:
            raise UnavailableError(key, "503 SlowDown", applied="unknown")
        return super().put(key, data, mode)


class SlowsDownVariants(GoodServer):
    """Is too busy, or in trouble, for any put of its own kind."""

    status = 503

    def _status(self, key: str, variant: Variant, version: Version) -> int:  # noqa: ARG002  for any
        return self.status


class KnowsNoCrc32(GoodServer):
    """As B2 did: refuses the header of a checksum, right or wrong."""

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        if self.told is not None and self.told.refuses_crc32:
            raise UnavailableError(key, "400 InvalidArgument", applied="no")
        return super().put(key, data, mode)


class KnowsNoCreateAndListsInNoOrder(ListsInNoOrder, KnowsNoCreate):
    """Keeps too little even for one writer."""


class BreaksOffWhatManyWrote(IgnoresCreate, IgnoresReplace):
    """As rclone does: lets all win, and answers no read of what they left."""

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        if "creators" in key or "updaters" in key:
            raise UnavailableError(key, "ProtocolError", applied="no")
        return super().get(key, byte_range)
