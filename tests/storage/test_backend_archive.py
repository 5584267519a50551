"""Archives as files: whole or not there, every byte accounted for, read by many, never changed."""

from __future__ import annotations

import gc
import io
import itertools
import os
import random
import signal
import stat
import subprocess
import sys
import threading
import tracemalloc
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.archives import ANOTHER_COPY, FOOTER_BYTES, MAGIC
from storage.backends.archive import ArchiveStore, ArchiveWriter, damaged
from storage.backends.archive_index import PIECES_HELD
from storage.backends.limits import content_version
from storage.errors import (
    CorruptObjectError,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    UnavailableError,
)
from storage.store import ByteRange, Create, Overwrite, Replace
from storage.testing.clock import ManualClock

NAME = "a.snapshots"
OBJECTS = {"a/1": b"one", "a/2": b"", "b": b"three" * 5, "c/d/e": bytes(range(40))}
STREAM_BYTES = 300 << 20
MEMORY_BYTES_MAX = 16 << 20


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / NAME


def written(path: Path, objects: dict[str, bytes], clock: ManualClock | None = None) -> bytes:
    """Write an archive; return its bytes."""
    with ArchiveWriter(path, clock=clock or ManualClock()) as writer:
        for key, data in objects.items():
            writer.put(key, data, Create())
    return path.read_bytes()


def content(path: Path) -> dict[str, bytes]:
    with ArchiveStore(path) as store:
        found = {row.key: store.get(row.key).data for row in store.list("")}
        assert {row.key: row.size_bytes for row in store.list("")} == {key: len(data) for key, data in found.items()}
        assert list(damaged(store)) == []
        return found


def alone(path: Path) -> bool:
    """Say whether an archive is the only thing in its directory."""
    return [one.name for one in path.parent.iterdir()] == [path.name]


# What was put is there.


def test_what_was_put_is_read_back(path: Path) -> None:
    clock = ManualClock()
    written(path, OBJECTS, clock)
    assert content(path) == OBJECTS
    assert alone(path)
    with ArchiveStore(path) as store:
        found = store.get("b", ByteRange(3, 4))
        assert (found.data, found.version) == (b"eeth", content_version(OBJECTS["b"]))
        meta = store.stat("b")
        assert (meta.key, meta.size_bytes, meta.version) == ("b", 25, found.version)
        assert {row.modified_at for row in store.list("")} == {clock.now()}
        assert [row.key for row in store.list("a/", start_after="a/1")] == ["a/2"]
        for start in (25, 26, 1 << 60):
            with pytest.raises(CorruptObjectError, match="has 25 bytes"):
                store.get("b", ByteRange(start, 1))
        with pytest.raises(NotFoundError):
            store.get("a")
        for key in ("", "../a", "a//b"):
            with pytest.raises(InvalidKeyError):
                store.get(key)
        with pytest.raises(InvalidKeyError):
            store.list("a//")


KEYS = st.sampled_from(["a", "a/b", "a/c", "b", "~x"])
DATA = st.binary(max_size=40)
STEPS = st.lists(
    st.tuples(st.just("create"), KEYS, DATA)
    | st.tuples(st.just("stream"), KEYS, DATA)
    | st.tuples(st.just("overwrite"), KEYS, DATA)
    | st.tuples(st.just("replace"), KEYS, DATA)
    | st.tuples(st.just("delete"), KEYS, DATA),
    max_size=30,
)


def take(writer: ArchiveWriter, model: dict[str, bytes], step: tuple[str, str, bytes]) -> None:
    """Take a step in an archive and in a dict."""
    verb, key, data = step
    there = model.get(key)
    if verb == "delete":
        writer.delete(key)
        model.pop(key, None)
        return
    if verb == "replace" and there is not None:
        writer.put(key, data, Replace(content_version(there)))
    elif verb == "overwrite":
        writer.put(key, data, Overwrite())
    elif there is None and verb != "replace":
        writer.put(key, io.BytesIO(data) if verb == "stream" else data, Create())
    else:
        with pytest.raises(PreconditionFailedError):
            writer.put(key, data, Create() if verb in ("create", "stream") else Replace(content_version(b"other")))
        return
    model[key] = data


@given(STEPS)
def test_whatever_was_done_an_archive_is_a_dict(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str, bytes]]
) -> None:
    path, model = tmp_path_factory.mktemp("archive") / NAME, dict[str, bytes]()
    with ArchiveWriter(path) as writer:
        for step in steps:
            take(writer, model, step)
            assert {row.key: writer.get(row.key).data for row in writer.list("")} == model
    assert content(path) == model


def test_equal_puts_are_equal_bytes(path: Path, tmp_path: Path) -> None:
    first = written(path, OBJECTS, ManualClock(seed=1))
    assert written(tmp_path / "other", OBJECTS, ManualClock(seed=2)) == first
    assert written(tmp_path / "other", dict(reversed(OBJECTS.items()))) != first


def test_a_put_that_failed_leaves_no_byte(path: Path) -> None:
    expected = written(path, OBJECTS)
    with ArchiveWriter(path, clock=ManualClock()) as writer:
        for key, data in OBJECTS.items():
            with pytest.raises(OSError, match="the source broke"):
                writer.put(key, Breaking(5 << 20), Create())
            writer.put(key, data, Create())
            with pytest.raises(PreconditionFailedError):
                writer.put(key, b"x" * 1000, Create())
        with pytest.raises(OSError, match="the source broke"):
            writer.put("z", Breaking(5 << 20), Create())
    assert path.read_bytes() == expected


def test_what_was_replaced_stays_in_the_file_and_nothing_names_it(path: Path) -> None:
    with ArchiveWriter(path) as writer:
        writer.put("a", b"former bytes", Create())
        writer.put("a", b"later bytes", Overwrite())
        writer.put("b", b"deleted bytes", Create())
        writer.delete("b")
    data = path.read_bytes()
    assert data.startswith(MAGIC + b"former bytes" + b"later bytes" + b"deleted bytes")
    with path.open("r+b") as file:
        file.seek(len(MAGIC))
        file.write(b"F")
    assert content(path) == {"a": b"later bytes"}


# Whole or not there.


def test_nothing_is_there_before_the_end(path: Path) -> None:
    with ArchiveWriter(path) as writer:
        writer.put("a", b"one", Create())
        (part,) = path.parent.iterdir()
        assert part.name.startswith(".archive.")
        assert part.name.endswith(".part")
        assert not path.exists()
    assert alone(path)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_exception_leaves_the_older_file(path: Path, error: type[BaseException]) -> None:
    def fail() -> None:
        with ArchiveWriter(path) as writer:
            writer.put("a", b"new", Create())
            raise error

    with pytest.raises(error):
        fail()
    assert list(path.parent.iterdir()) == []
    old = written(path, OBJECTS)
    with pytest.raises(error):
        fail()
    assert path.read_bytes() == old
    assert alone(path)


def test_a_file_is_on_disk_before_it_has_its_name(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []
    sync, rename = os.fsync, os.replace

    def recorded_sync(descriptor: int) -> None:
        status = os.fstat(descriptor)
        calls.append("directory" if stat.S_ISDIR(status.st_mode) else f"file of {status.st_size} bytes")
        sync(descriptor)

    def recorded_rename(source: Path, target: Path) -> None:
        calls.append(f"rename to {target.name}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", recorded_sync)
    monkeypatch.setattr(os, "replace", recorded_rename)
    data = written(path, OBJECTS)
    assert calls == [f"file of {len(data)} bytes", f"rename to {NAME}", "directory"]


def test_a_failed_sync_of_the_directory_is_told(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sync = os.fsync

    def failing(descriptor: int) -> None:
        if stat.S_ISDIR(os.fstat(descriptor).st_mode):
            raise OSError(5, "Input/output error")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", failing)
    with pytest.raises(UnavailableError) as caught:
        written(path, OBJECTS)
    assert caught.value.applied == "unknown"
    assert alone(path)


def test_permissions_stay_and_links_are_followed(path: Path, tmp_path: Path) -> None:
    written(path, {})
    path.chmod(0o640)
    link = tmp_path / "link"
    link.symlink_to(NAME)
    written(link, OBJECTS)
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert content(path) == OBJECTS


def test_where_no_file_can_be_nothing_is_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, error in {
        "none/a": NotFoundError,
        "file/a": InvalidKeyError,
        "x" * 300: InvalidKeyError,
        ".": InvalidKeyError,
        "pipe": InvalidKeyError,
    }.items():
        with pytest.raises(error), ArchiveWriter(tmp_path / name):
            pytest.fail("it was begun")
    assert sorted(one.name for one in tmp_path.iterdir()) == ["file", "pipe"]


def test_a_name_that_a_directory_takes_meanwhile_is_refused(path: Path) -> None:
    def write() -> None:
        with ArchiveWriter(path) as writer:
            writer.put("a", b"one", Create())
            path.mkdir()

    with pytest.raises(InvalidKeyError):
        write()
    assert alone(path)


def test_a_writer_writes_once(path: Path) -> None:
    writer = ArchiveWriter(path)
    for _ in range(2):
        for act in (
            lambda: writer.put("a", b"", Create()),
            lambda: writer.get("a"),
            lambda: writer.stat("a"),
            lambda: writer.delete("a"),
            lambda: list(writer.list("")),
        ):
            with pytest.raises(ValueError, match="is not being written"):
                act()
        if not path.exists():
            with writer:
                writer.put("a", b"", Create())
    with pytest.raises(ValueError, match="make another one"), writer:
        pytest.fail("it was begun again")


def test_what_was_acknowledged_before_the_end_is_in_it(path: Path) -> None:
    """Others put and delete on and on while the block ends; from then on they are refused."""
    begun = threading.Barrier(5)

    def work(worker: int) -> dict[str, bytes]:
        kept: dict[str, bytes] = {}
        for number in itertools.count():
            key, data = f"{worker}/{number}", bytes([worker]) * (number % 7)
            if number == 50:
                begun.wait(timeout=30)
            try:
                writer.put(key, io.BytesIO(data) if number % 2 else data, Create())
                kept[key] = data
                if number % 3 == 0:
                    writer.delete(key)
                    del kept[key]
            except ValueError as error:
                assert "is not being written" in str(error)  # noqa: PT017  how each thread is told to end
                break
        return kept

    with ThreadPoolExecutor(4) as pool:
        with ArchiveWriter(path) as writer:
            works = [pool.submit(work, worker) for worker in range(4)]
            begun.wait(timeout=30)
        expected = {key: data for one in works for key, data in one.result().items()}
    assert content(path) == expected
    assert alone(path)


KILLED = """
import sys
from pathlib import Path
from storage.backends.archive import ArchiveWriter
from storage.store import Create
with ArchiveWriter(Path(sys.argv[1])) as writer:
    for number in range(1 << 40):
        writer.put(f"a/{number}", b"x" * 5000, Create())
        if number == 200:
            print("under way", flush=True)
"""
FULL = """
import resource, sys
from pathlib import Path
from storage.backends.archive import ArchiveWriter
from storage.errors import UnavailableError
from storage.store import Create
resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))
puts, size = int(sys.argv[2]), int(sys.argv[3])
try:
    with ArchiveWriter(Path(sys.argv[1])) as writer:
        for number in range(puts):
            writer.put(f"a/{number}", bytes(size), Create())
        print("all was put")
except UnavailableError as error:
    print(error.applied)
"""


def test_a_killed_writer_leaves_the_older_file(path: Path) -> None:
    old = written(path, OBJECTS)
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "under way\n"
        process.send_signal(signal.SIGKILL)
        assert process.wait(timeout=60) == -signal.SIGKILL
    assert path.read_bytes() == old
    (left,) = [one for one in path.parent.iterdir() if one != path]
    with pytest.raises(CorruptObjectError):
        ArchiveStore(left)
    written(path, {"a": b"new"})
    assert content(path) == {"a": b"new"}


@pytest.mark.parametrize(("puts", "size", "said"), [(2, 900_000, "no\n"), (1, (1 << 20) - 50, "all was put\nno\n")])
def test_a_full_disk_leaves_the_older_file(path: Path, puts: int, size: int, said: str) -> None:
    """While objects are written, and when only the index does not fit."""
    old = written(path, OBJECTS)
    command = [sys.executable, "-c", FULL, str(path), str(puts), str(size)]
    assert subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout == said
    assert path.read_bytes() == old
    assert alone(path)


# Every byte is accounted for.


def test_every_cut_is_refused(path: Path) -> None:
    data = written(path, OBJECTS)
    for size in range(len(data)):
        path.write_bytes(data[:size])
        refused(path)


@pytest.mark.parametrize("more", [b"\x00", MAGIC, bytes(FOOTER_BYTES), b"all", b"footer"])
def test_what_stands_behind_the_end_is_refused(path: Path, more: bytes) -> None:
    data = written(path, OBJECTS)
    path.write_bytes(data + {b"all": data, b"footer": data[-FOOTER_BYTES:]}.get(more, more))
    refused(path)


def test_two_archives_in_one_file_are_told_by_their_sizes(path: Path) -> None:
    data = written(path, OBJECTS)
    path.write_bytes(data * 2)
    with pytest.raises(CorruptObjectError, match=f"of a file of {len(data)} bytes, this one has {len(data) * 2}"):
        ArchiveStore(path)


@pytest.mark.parametrize("data", [b"", b"S", b"PK\x03\x04" * 50, bytes(1000), MAGIC, MAGIC * 20])
def test_a_foreign_file_is_refused(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    refused(path)


def refused(path: Path) -> None:
    with pytest.raises(CorruptObjectError) as caught:
        ArchiveStore(path)
    place, _, number = caught.value.key.rpartition(" at byte ")
    assert place == str(path)
    assert 0 <= int(number) <= path.stat().st_size
    assert str(caught.value).endswith(ANOTHER_COPY) or "frame" in str(caught.value)


def test_every_altered_byte_is_noticed(path: Path) -> None:
    data = written(path, OBJECTS)
    assert len(data) < 500
    objects_end = len(MAGIC) + sum(map(len, OBJECTS.values()))
    owners = [key for key, value in OBJECTS.items() for _ in value]
    for place in range(len(data)):
        for bit in range(8):
            altered = bytearray(data)
            altered[place] ^= 1 << bit
            path.write_bytes(altered)
            if not len(MAGIC) <= place < objects_end:
                with pytest.raises(CorruptObjectError, match=" at byte "):
                    ArchiveStore(path)
            else:
                named(path, owners[place - len(MAGIC)])


def named(path: Path, key: str) -> None:
    """Check that an altered object is named, by a read and by `damaged`, and that the others are read."""
    with ArchiveStore(path) as store:
        start = len(MAGIC) + sum(len(OBJECTS[one]) for one in OBJECTS if one < key)
        with pytest.raises(CorruptObjectError, match=f"{path} at byte {start}") as caught:
            store.get(key)
        assert caught.value.key == key
        assert [str(error) for error in damaged(store)] == [str(caught.value)]
        assert all(store.get(one).data == OBJECTS[one] for one in OBJECTS if one != key)


def test_what_changes_while_it_is_open_is_noticed(path: Path) -> None:
    data = written(path, OBJECTS)
    with ArchiveStore(path) as store:
        path.write_bytes(data[: len(MAGIC) + 1])
        for read in (lambda: store.get("a/1"), lambda: store.get("a/1", ByteRange(0, 3)), lambda: store.stat("a/1")):
            with pytest.raises(CorruptObjectError):
                read()


def test_reading_tells_how_far_it_is(path: Path) -> None:
    objects = {"a": bytes((5 << 20) + 1), "b": b"", "c": b"x"}
    written(path, objects)
    windows: list[int] = []
    with ArchiveStore(path) as store:
        assert list(damaged(store, windows.append)) == []
    assert sum(windows) == (5 << 20) + 2
    assert max(windows) == 1 << 20


# Read-only.


def test_an_archive_is_never_changed(path: Path) -> None:
    data = written(path, OBJECTS)
    with ArchiveStore(path) as store:
        for act in (
            lambda: store.put("x", b"", Create()),
            lambda: store.put("b", b"", Overwrite()),
            lambda: store.put("b", b"", Replace(store.stat("b").version)),
            lambda: store.delete("b"),
            lambda: store.delete("x"),
            lambda: store.delete_many(["b"]),
        ):
            with pytest.raises(PermissionDeniedError, match=r"an archive is read-only; import it, or write a new one$"):
                act()
    assert path.read_bytes() == data


def test_what_is_no_file_is_no_archive(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    os.mkfifo(tmp_path / "pipe")
    for name, error in {"none": NotFoundError, "file/x": InvalidKeyError, "pipe": InvalidKeyError}.items():
        with pytest.raises(error) as caught:
            ArchiveStore(tmp_path / name)
        assert str(tmp_path / name) in str(caught.value)
    with pytest.raises(InvalidKeyError, match="a store in a directory is file:PATH"):
        ArchiveStore(tmp_path)


def descriptors() -> int:
    gc.collect()
    return len(os.listdir("/proc/self/fd"))


def test_a_store_that_is_never_closed_leaves_no_open_file(path: Path) -> None:
    written(path, OBJECTS)
    before = descriptors()
    for _ in range(3):
        store = ArchiveStore(path)
        assert store.get("b").data
        assert descriptors() == before + 1
        del store
    assert descriptors() == before
    path.write_bytes(b"no archive")
    with pytest.raises(CorruptObjectError):
        ArchiveStore(path)
    assert descriptors() == before


def test_a_closed_store_answers_nothing(path: Path) -> None:
    written(path, OBJECTS)
    before = descriptors()
    store = ArchiveStore(path)
    store.close()
    store.close()
    assert descriptors() == before
    for act in (
        lambda: store.get("b"),
        lambda: store.stat("b"),
        lambda: list(store.list("")),
        lambda: list(damaged(store)),
    ):
        with pytest.raises(ValueError, match="was closed"):
            act()


# Large ones, and many readers.


class Breaking(io.BytesIO):
    """A stream of zeros that breaks after so many."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__()
        self._left = size_bytes

    def read(self, size: int | None = -1, /) -> bytes:
        assert size is not None
        if self._left <= 0:
            raise OSError("the source broke")
        self._left -= size
        return bytes(size)


class Numbered(io.BytesIO):
    """A long stream of which every MiB is another."""

    def __init__(self) -> None:
        super().__init__()
        self._given = 0

    def read(self, size: int | None = -1, /) -> bytes:
        if self._given == STREAM_BYTES:
            return b""
        assert size is not None
        assert 0 < size <= 1 << 20
        self._given += size
        return self._given.to_bytes(8, "big") * (size // 8)


@pytest.fixture
def memory() -> Iterator[None]:
    tracemalloc.start()
    yield
    tracemalloc.stop()


@pytest.mark.usefixtures("memory")
def test_a_long_stream_is_never_held(path: Path) -> None:
    with ArchiveWriter(path) as writer:
        writer.put("long", Numbered(), Create())
    with ArchiveStore(path) as store:
        assert store.stat("long").size_bytes == STREAM_BYTES
        assert list(damaged(store)) == []
        assert store.get("long", ByteRange(STREAM_BYTES - 8, 9)).data == STREAM_BYTES.to_bytes(8, "big")
    _, peak = tracemalloc.get_traced_memory()
    assert peak < MEMORY_BYTES_MAX
    path.unlink()


def test_many_threads_read_what_was_put(path: Path) -> None:
    deep = "/".join(["d" * 180] * 4)
    objects = {f"{number:05}/{deep}": number.to_bytes(4, "big") * (number % 50) for number in range(8000)}
    written(path, objects)
    with ArchiveStore(path) as store, ThreadPoolExecutor(16) as pool:
        assert len(store._index._places) > PIECES_HELD

        def read(seed: int) -> bool:
            keys = random.Random(seed).sample(sorted(objects), 300)
            whole = all(store.get(key).data == objects[key] for key in keys)
            ranges = all(
                store.get(key, ByteRange(1, 5)).data == objects[key][1:6] for key in keys if len(objects[key]) > 1
            )
            listed = [row.key for row in store.list("", start_after=keys[0])][:10]
            return whole and ranges and listed == [key for key in sorted(objects) if key > keys[0]][:10]

        assert all(pool.map(read, range(16)))
