"""Unfinished writes: seen where a store keeps them, discarded without harm to any object, and told to their writer."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO, cast

import pytest

from storage import Create, ObjectStore
from storage.backends import open_store
from storage.backends.local import LocalStore
from storage.backends.memory import MemoryStore
from storage.backends.s3 import PART_BYTES, SINGLE_BYTES_MAX, S3Store
from storage.errors import InvalidKeyError, NotFoundError, PermissionDeniedError, UnavailableError
from storage.testing.faults import Deny, FaultyStore, On
from storage.unfinished import KeepsUnfinished, UnfinishedWrite, discard_in, unfinished_in
from storage.wrappers.metered import MeteredStore
from storage.wrappers.prefixed import PrefixedStore
from tests.conformance.s3_behind import store_at

LARGE = SINGLE_BYTES_MAX + 1
BEGUN = datetime(2024, 3, 1, tzinfo=UTC)


class Stream(io.RawIOBase):
    """A stream of zeros that does something before its n-th piece."""

    def __init__(self, size: int, number: int, act: object) -> None:
        self._left, self._number, self._act = size, number, act

    def read(self, size: int = -1) -> bytes:
        self._number -= 1
        if self._number == 0 and callable(self._act):
            self._act()
        taken = min(size if size >= 0 else self._left, self._left)
        self._left -= taken
        return bytes(taken)


def stream(size: int, number: int, act: object) -> BinaryIO:
    return cast(BinaryIO, Stream(size, number, act))


def leave_temporary(store: LocalStore, name: str = "ab" * 16, data: bytes = b"half") -> Path:
    """Leave what a process that was killed leaves, as of BEGUN."""
    store.put("a/there", b"one", Create())
    path = store.root / ".tmp" / name
    path.write_bytes(data)
    os.utime(path, (BEGUN.timestamp(), BEGUN.timestamp()))
    return path


# Files.


def test_a_temporary_file_is_seen_and_discarded(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    assert list(store.unfinished("")) == []
    path = leave_temporary(store)
    (write,) = unfinished_in(store, "a/")
    assert write == UnfinishedWrite("", path.name, BEGUN, 4)
    discard_in(store, write)
    assert not path.exists()
    store.discard(write)  # silent
    assert list(store.unfinished("a/")) == []
    assert store.get("a/there").data == b"one"


def test_nothing_but_temporary_files_is_taken_for_one(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    leave_temporary(store, "notes.txt")
    (store.root / ".tmp" / ("cd" * 16)).mkdir()
    assert list(store.unfinished("")) == []
    for name in ("../a/there", "notes.txt", ""):
        with pytest.raises(InvalidKeyError):
            store.discard(UnfinishedWrite("", name, BEGUN, None))
    assert store.get("a/there").data == b"one"


def test_a_file_that_is_discarded_while_it_is_written_fails_typed_and_can_be_written_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")

    def discard() -> None:
        for write in store.unfinished(""):
            store.discard(write)

    with pytest.raises(UnavailableError) as caught:
        store.put("a/b", stream(3 << 20, 2, discard), Create())
    assert caught.value.applied == "no"
    with pytest.raises(NotFoundError):
        store.get("a/b")
    store.put("a/b", b"again", Create())
    assert store.get("a/b").data == b"again"


# Multipart uploads.


@pytest.fixture(params=["ministack_url", "moto_url", "ceph_url"])
def s3(request: pytest.FixtureRequest) -> Iterator[S3Store]:
    with store_at(request.getfixturevalue(request.param)) as store:
        yield store


def begin(store: S3Store, key: str) -> str:
    """Begin a multipart upload as a writer does that is killed after its first part."""
    client = store._retrying
    upload = client.create_multipart_upload(Bucket=store.bucket, Key=key)["UploadId"]
    client.upload_part(Bucket=store.bucket, Key=key, UploadId=upload, PartNumber=1, Body=bytes(PART_BYTES))
    return upload


def test_an_upload_is_seen_and_discarded(s3: S3Store) -> None:
    uploads = {key: begin(s3, key) for key in ("a/one", "a/two", "b/one")}
    writes = list(s3.unfinished("a/"))
    assert {(write.key, write.id) for write in writes} == {(key, uploads[key]) for key in ("a/one", "a/two")}
    assert all(write.begun_at.tzinfo is not None for write in writes)
    for write in writes:
        s3.discard(write)
        s3.discard(write)  # silent
    assert list(s3.unfinished("a/")) == []
    assert [write.key for write in s3.unfinished("")] == ["b/one"]


def test_an_upload_that_was_completed_meanwhile_is_not_touched(s3: S3Store) -> None:
    seen: list[UnfinishedWrite] = []
    s3.put("a/b", stream(LARGE, 5, lambda: seen.extend(s3.unfinished("a/"))), Create())
    (write,) = seen
    s3.discard(write)
    assert s3.stat("a/b").size_bytes == LARGE


def test_an_upload_that_is_discarded_while_it_is_written_fails_typed_and_can_be_written_again(s3: S3Store) -> None:
    def discard() -> None:
        (write,) = s3.unfinished("a/")
        s3.discard(write)

    with pytest.raises(UnavailableError) as caught:
        s3.put("a/b", stream(6 * PART_BYTES, 5, discard), Create())
    assert caught.value.applied == "no"
    with pytest.raises(NotFoundError):
        s3.stat("a/b")
    assert list(s3.unfinished("a/")) == []
    s3.put("a/b", bytes(LARGE), Create())
    assert s3.stat("a/b").size_bytes == LARGE


def test_uploads_are_listed_page_by_page(ministack_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.backends.s3.LIST_PAGE_KEYS", 2)
    with store_at(ministack_url) as store:
        keys = [f"a/{number}" for number in range(5)]
        for key in keys:
            begin(store, key)
        assert [write.key for write in store.unfinished("a/")] == keys


# Wrappers.


def test_wrappers_pass_it_through(tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "store")
    path = leave_temporary(local)
    metered = MeteredStore(FaultyStore(PrefixedStore(local, "x/y")))
    (write,) = unfinished_in(metered, "a/")
    assert (write.key, write.id) == ("", path.name)
    discard_in(metered, write)
    assert not path.exists()
    counts = metered.metrics.snapshot()
    assert (counts["list"].requests, counts["delete"].requests) == (1, 1)


def test_a_prefix_is_taken_off_and_put_on(ministack_url: str) -> None:
    with closing(cast(S3Store, open_store(ministack_url.replace("/agents?", "?")))) as whole:
        for key in ("agents/a/one", "agents/b/one", "a/one"):
            begin(whole, key)
        inside = PrefixedStore(whole, "agents")
        (write,) = inside.unfinished("a/")
        assert write.key == "a/one"
        inside.discard(write)
        assert [one.key for one in whole.unfinished("")] == ["a/one", "agents/b/one"]


@pytest.mark.parametrize("wrap", [MeteredStore, FaultyStore, lambda store: PrefixedStore(store, "x")])
def test_a_store_without_the_ability_has_none_and_is_not_asked(wrap: Callable[[ObjectStore], ObjectStore]) -> None:
    store: ObjectStore = MemoryStore()
    assert not isinstance(store, KeepsUnfinished)
    wrapped = wrap(store)
    assert list(unfinished_in(store, "")) == list(unfinished_in(wrapped, "")) == []
    with pytest.raises(TypeError):
        discard_in(wrapped, UnfinishedWrite("", "x", BEGUN, None))
    if isinstance(wrapped, MeteredStore):
        assert wrapped.metrics.snapshot()["list"].requests == 0
    if isinstance(wrapped, FaultyStore):
        assert [request.verb for request in wrapped.log] == ["delete"]


def test_a_refusal_is_passed_on_and_counted(tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "store")
    path = leave_temporary(local)
    metered = MeteredStore(FaultyStore.script(local, [On("list", "a/", Deny()), On("delete", "", Deny())]))
    with pytest.raises(PermissionDeniedError):
        list(metered.unfinished("a/"))
    with pytest.raises(PermissionDeniedError):
        metered.discard(UnfinishedWrite("", path.name, BEGUN, None))
    assert path.exists()
    counts = metered.metrics.snapshot()
    assert (counts["list"].failures, counts["delete"].failures) == (1, 1)
