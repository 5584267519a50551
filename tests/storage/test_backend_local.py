"""`LocalStore` on its disk: the order of syncs, full and failing disks, foreign and damaged files."""

from __future__ import annotations

import errno
import os
import shutil
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import zstandard

from storage import Create, Overwrite, Replace, Version
from storage.backends.disk import Entry, OpenFile, RealDisk
from storage.backends.local import TRAILER_BYTES, LocalStore
from storage.errors import (
    CorruptObjectError,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
)


def files_below(root: Path) -> list[str]:
    return sorted(str(path.relative_to(root)) for path in root.rglob("*") if path.is_file())


def test_a_put_costs_nothing_but_its_file(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    version = store.put("a/b", b"one", Create())
    store.put("a/b", b"two", Replace(version))
    with pytest.raises(PreconditionFailedError):
        store.put("a/b", b"three", Replace(version))
    store.delete("a/b")
    store.put("a/c", b"", Create())
    assert [name for name in files_below(tmp_path) if not name.startswith(".locks/")] == ["a/c"]


def test_reading_an_absent_store_creates_nothing(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "absent")
    for read in (store.get, store.stat):
        with pytest.raises(NotFoundError):
            read("a")
    assert list(store.list("a/")) == []
    store.delete("a")
    assert store.delete_many(["a", "b/c"]) == ()
    assert not (tmp_path / "absent").exists()


class RecordingDisk(RealDisk):
    """Notes every call that changes or syncs something, in order."""

    def __init__(self) -> None:
        self.calls: list[tuple[str, Path]] = []

    def write_new_synced(self, path: Path, pieces: Iterable[bytes]) -> None:
        super().write_new_synced(path, pieces)
        self.calls.append(("write", path.parent))

    def rename(self, source: Path, target: Path) -> None:
        super().rename(source, target)
        self.calls.append(("rename", target))

    def unlink(self, path: Path) -> None:
        super().unlink(path)
        self.calls.append(("unlink", path))

    def make_directory(self, path: Path) -> None:
        super().make_directory(path)
        self.calls.append(("make", path))

    def sync_directory(self, path: Path) -> None:
        super().sync_directory(path)
        self.calls.append(("sync", path))

    @contextmanager
    def lock(self, path: Path) -> Iterator[None]:
        with super().lock(path):
            self.calls.append(("lock", path.parent))
            yield
            self.calls.append(("unlock", path.parent))


def test_everything_is_synced_in_order(tmp_path: Path) -> None:
    disk, root = RecordingDisk(), tmp_path / "root"
    store = LocalStore(root, disk=disk)
    store.put("a/b", b"one", Create())
    assert disk.calls == [
        *[("make", root), ("sync", tmp_path), ("make", root / ".tmp"), ("sync", root), ("write", root / ".tmp")],
        *[("make", root / ".locks"), ("sync", root), ("lock", root / ".locks")],
        *[("make", root / "a"), ("sync", root), ("rename", root / "a/b"), ("sync", root / "a")],
        ("unlock", root / ".locks"),
    ]
    disk.calls.clear()
    store.put("a/b", b"two", Overwrite())
    store.delete("a/b")
    assert disk.calls == [
        *[("write", root / ".tmp"), ("lock", root / ".locks"), ("rename", root / "a/b"), ("sync", root / "a")],
        *[("unlock", root / ".locks"), ("lock", root / ".locks"), ("unlink", root / "a/b"), ("sync", root / "a")],
        ("unlock", root / ".locks"),
    ]


def test_a_directory_found_is_synced_like_one_made(tmp_path: Path) -> None:
    LocalStore(tmp_path).put("a/b", b"one", Create())
    disk = RecordingDisk()
    LocalStore(tmp_path, disk=disk).put("a/c", b"one", Create())
    assert disk.calls.count(("sync", tmp_path)) == 3  # for .tmp, .locks and a: another process may not have come to it


class FailingDisk(RealDisk):
    """Fails one kind of call with one errno, when armed; a write leaves half a file."""

    def __init__(self, call: str, number: int) -> None:
        self._call = call
        self._error = OSError(number, os.strerror(number))
        self.armed = False

    def _fail(self, call: str) -> None:
        if self.armed and call == self._call:
            raise self._error

    def write_new_synced(self, path: Path, pieces: Iterable[bytes]) -> None:
        if self.armed and self._call == "write":
            super().write_new_synced(path, [b"half"])
        self._fail("write")
        super().write_new_synced(path, pieces)

    def open(self, path: Path) -> AbstractContextManager[OpenFile]:
        self._fail("open")
        return super().open(path)

    def rename(self, source: Path, target: Path) -> None:
        self._fail("rename")
        super().rename(source, target)

    def unlink(self, path: Path) -> None:
        if path.parent.name != ".tmp":
            self._fail("unlink")
        super().unlink(path)

    def sync_directory(self, path: Path) -> None:
        self._fail("sync")
        super().sync_directory(path)

    def entries(self, path: Path) -> Sequence[Entry]:
        self._fail("entries")
        return super().entries(path)

    def lock(self, path: Path) -> AbstractContextManager[None]:
        self._fail("lock")
        return super().lock(path)


def failing(root: Path, call: str, number: int) -> LocalStore:
    """Return a store with `a/b` = b"old", on a disk that is armed."""
    disk = FailingDisk(call, number)
    store = LocalStore(root, disk=disk)
    store.put("a/b", b"old", Create())
    disk.armed = True
    return store


def now_in(root: Path) -> dict[str, bytes]:
    store = LocalStore(root)
    return {row.key: store.get(row.key).data for row in store.list("")}


@pytest.mark.parametrize(
    ("call", "number", "applied", "after"),
    [
        ("write", errno.ENOSPC, "no", b"old"),
        ("write", errno.EDQUOT, "no", b"old"),
        ("write", errno.EIO, "no", b"old"),
        ("lock", errno.ENOLCK, "no", b"old"),
        ("rename", errno.ENOSPC, "no", b"old"),
        ("rename", errno.EIO, "unknown", b"old"),
        ("sync", errno.EIO, "unknown", b"new"),
        ("sync", errno.EACCES, "unknown", b"new"),
    ],
)
def test_a_failed_put_says_whether_it_landed(
    tmp_path: Path, call: str, number: int, applied: str, after: bytes
) -> None:
    store = failing(tmp_path, call, number)
    with pytest.raises(UnavailableError, match=os.strerror(number)) as caught:
        store.put("a/b", b"new", Overwrite())
    assert caught.value.applied == applied
    assert now_in(tmp_path) == {"a/b": after}
    assert not list((tmp_path / ".tmp").iterdir())


@pytest.mark.parametrize("call", ["write", "lock", "rename"])
@pytest.mark.parametrize("number", [errno.EACCES, errno.EPERM, errno.EROFS])
def test_a_refused_put_is_a_matter_of_permission(tmp_path: Path, call: str, number: int) -> None:
    store = failing(tmp_path, call, number)
    with pytest.raises(PermissionDeniedError, match=f"{os.strerror(number)}; check owner and mode"):
        store.put("a/b", b"new", Overwrite())
    assert now_in(tmp_path) == {"a/b": b"old"}


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [
        ("open", errno.EACCES, PermissionDeniedError),
        ("open", errno.EIO, UnavailableError),
        ("open", errno.EMFILE, UnavailableError),
        ("entries", errno.EACCES, PermissionDeniedError),
        ("entries", errno.EIO, UnavailableError),
    ],
)
def test_a_failed_read_is_typed(tmp_path: Path, call: str, number: int, error: type[StorageError]) -> None:
    store = failing(tmp_path, call, number)
    with pytest.raises(error):
        store.get("a/b") if call == "open" else list(store.list(""))


@pytest.mark.parametrize(
    ("call", "number", "error"),
    [
        ("unlink", errno.EACCES, PermissionDeniedError),
        ("unlink", errno.EIO, UnavailableError),
        ("sync", errno.EIO, UnavailableError),
    ],
)
def test_a_failed_delete_is_typed_and_returned(
    tmp_path: Path, call: str, number: int, error: type[StorageError]
) -> None:
    store = failing(tmp_path, call, number)
    with pytest.raises(error):
        store.delete("a/b")
    (failure,) = failing(tmp_path / "many", call, number).delete_many(["a/missing", "a/b"])
    assert failure.key == "a/b"
    assert type(failure.error) is error


def test_the_condition_is_checked_again_under_the_lock(tmp_path: Path) -> None:
    class Overtaken(RealDisk):
        def write_new_synced(self, path: Path, pieces: Iterable[bytes]) -> None:
            super().write_new_synced(path, pieces)
            LocalStore(tmp_path).put("a", b"theirs", Overwrite())

    store = LocalStore(tmp_path, disk=Overtaken())
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"ours", Create())
    with pytest.raises(PreconditionFailedError):
        store.put("a", b"ours", Replace(Version("0" * 32)))
    assert now_in(tmp_path) == {"a": b"theirs"}
    assert not list((tmp_path / ".tmp").iterdir())


def test_a_writer_waits_for_the_lock_of_its_key(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"old", Create())
    done = threading.Event()

    def write() -> None:
        store.put("a", b"new", Overwrite())
        done.set()

    (lock_file,) = (tmp_path / ".locks").iterdir()
    writer = threading.Thread(target=write)
    with RealDisk().lock(lock_file):
        writer.start()
        assert not done.wait(0.2)
        assert store.get("a").data == b"old"  # readers do not wait
    writer.join(10)
    assert store.get("a").data == b"new"


def test_a_key_is_not_also_a_directory_of_keys(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"", Create())
    for key in ("a", "a/b/c"):
        for mode in (Create(), Overwrite()):
            with pytest.raises(InvalidKeyError):
                store.put(key, b"", mode)
        with pytest.raises(NotFoundError):
            store.get(key)
        store.delete(key)
    assert now_in(tmp_path) == {"a/b": b""}


def test_a_directory_that_vanished_is_made_again(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "root")
    for gone in ("a", ".tmp", ".locks", ""):
        store.put("a/b", b"one", Overwrite())
        shutil.rmtree(tmp_path / "root" / gone)
        with pytest.raises(UnavailableError) as caught:
            store.put("a/b", b"two", Overwrite())
        assert caught.value.applied == "no"
        store.put("a/b", b"two", Overwrite())
        assert store.get("a/b").data == b"two"


def test_what_is_no_object_is_not_listed(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a/b", b"", Create())
    for foreign in (".tmp/left-over", ".DS_Store", "a/.hidden", "a/Notes.txt", "Readme", "a/x y"):
        (tmp_path / foreign).write_bytes(b"x" * 100)
    assert [row.key for row in store.list("")] == ["a/b"]


@pytest.mark.parametrize("position", [0, 500, 999, 1000, 1015])
def test_a_changed_file_is_noticed(tmp_path: Path, position: int) -> None:
    store = LocalStore(tmp_path)
    store.put("a", bytes(1000), Create())
    content = bytearray((tmp_path / "a").read_bytes())
    content[position] ^= 1
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(CorruptObjectError):
        store.get("a")


@pytest.mark.parametrize("kept", [0, 1, TRAILER_BYTES - 1, TRAILER_BYTES, 500])
def test_a_cut_file_is_noticed(tmp_path: Path, kept: int) -> None:
    store = LocalStore(tmp_path)
    store.put("a", bytes(1000), Create())
    os.truncate(tmp_path / "a", kept)
    with pytest.raises(CorruptObjectError):
        store.get("a")
    store.put("a", b"healed", Overwrite())
    assert store.get("a").data == b"healed"


def test_one_reader_sees_one_object_while_it_is_replaced(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"old" * 1000, Create())
    with RealDisk().open(tmp_path / "a") as file:
        before = file.read(0, 10_000)
        store.put("a", b"new", Overwrite())
        assert file.read(0, 10_000) == before


def test_a_compressed_object_is_readable_by_any_zstd_reader(tmp_path: Path) -> None:
    content = b'{"rows": 1}\n' * 1000
    LocalStore(tmp_path).put("usage/a.jsonl.zst", zstandard.ZstdCompressor().compress(content), Create())
    with (tmp_path / "usage" / "a.jsonl.zst").open("rb") as file:
        reader = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
        assert reader.read() == content
