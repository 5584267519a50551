"""`StoreConformance`: the contract of `ObjectStore` as tests; every backend passes the same ones.

Rules:
1. A sub-class gives a fixture `store`, empty at the start of each test, and `raw`, which reads behind it.
2. No test knows a backend; what a backend alone does is tested in a file of its own.
3. What a failed write must not touch is looked at through `raw`, not through the methods under test.
4. A version is of the content, or with `VersionsOfPuts` as first base, of the put: it is checked for what it is.

    class TestMemory(StoreConformance):
        @pytest.fixture
        def store(self): return MemoryStore()
        def raw(self, store, key): ...
"""

from __future__ import annotations

from datetime import timedelta

import pytest

from storage.clock import SystemClock
from storage.errors import (
    CorruptObjectError,
    InvalidKeyError,
    NotFoundError,
    PreconditionFailedError,
)
from storage.keys import encode_id
from storage.store import (
    CONDITIONAL_BYTES_MAX,
    ByteRange,
    Create,
    ObjectStore,
    Overwrite,
    PutMode,
    Replace,
    Version,
)
from storage.testing.conformance_load import LoadConformance

NO_VERSION = Version("0" * 32)
ODD_IDS = [
    "Capital",
    "capital",
    ".",
    "..",
    ".hidden",
    "a/b",
    "per%cent",
    "per%25cent",
    "tilde~",
    "~store",
    "spa ce+plus",
    "x" * 150,
    "X" * 150,
    "日本語" * 55 + "日",
]
ODD_KEYS = [
    "~store",
    "~probe/0/a",
    "a%2Fb/c",
    "a.b/c.d",
    "-/_/~",
    "s" * 150,
    "/".join(["k" * 150] * 5),
    "tenant/packs/fam/" + "0" * 32 + "." + "f" * 32,
]
BAD_KEYS = ["", "/", "a/", "/a", "a//b", ".", "..", "a/../b", ".tmp/x", "Übel", "a b", "a\\b", "a\x00b", "G", "x" * 901]


def keys_of(store: ObjectStore, prefix: str, start_after: str = "") -> list[str]:
    """Return the keys that a listing yields, in its order."""
    return [row.key for row in store.list(prefix, start_after=start_after)]


def fill(store: ObjectStore, *keys: str) -> None:
    """Create small objects, each with its key as content."""
    for key in keys:
        store.put(key, key.encode(), Create())


class StoreConformance(LoadConformance):
    """Sub-class once per backend."""

    @pytest.mark.parametrize("mode", [Create(), Overwrite()])
    @pytest.mark.parametrize("data", [b"", b"\x00", bytes(range(256)), b"\r\n" * 100])
    def test_a_put_is_read_back(self, store: ObjectStore, data: bytes, mode: PutMode) -> None:
        """Bytes of every value, also none, under both modes that need no version."""
        version = store.put("a/b", data, mode)
        found = store.get("a/b")
        assert found.data == data
        assert found.version == version
        assert self.raw(store, "a/b") == data

    def test_nothing_is_made_up_for_a_missing_object(self, store: ObjectStore) -> None:
        """No default, no empty bytes: the error names the key."""
        for read in (store.get, store.stat):
            with pytest.raises(NotFoundError) as caught:
                read("a/missing")
            assert caught.value.key.endswith("a/missing")
        with pytest.raises(NotFoundError):
            store.get("a/missing", ByteRange(0, 1))
        assert keys_of(store, "") == []

    def test_stat_tells_size_and_version(self, store: ObjectStore) -> None:
        """Those of get."""
        version = store.put("a/b", b"12345", Create())
        meta = store.stat("a/b")
        assert (meta.key, meta.size_bytes, meta.version) == ("a/b", 5, version)

    def test_create_keeps_what_is_there(self, store: ObjectStore) -> None:
        """Also when the bytes are the same."""
        version = store.put("a", b"one", Create())
        for data in (b"two", b"one"):
            with pytest.raises(PreconditionFailedError):
                store.put("a", data, Create())
        assert self.raw(store, "a") == b"one"
        assert store.stat("a").version == version

    def test_overwrite_writes_whatever_is_there(self, store: ObjectStore) -> None:
        """Nothing, or another object."""
        first = store.put("a", b"one", Overwrite())
        second = store.put("a", b"three", Overwrite())
        assert first != second
        assert self.raw(store, "a") == b"three"

    def test_replace_with_the_present_version_writes(self, store: ObjectStore) -> None:
        """And returns the next one."""
        first = store.put("a", b"one", Create())
        second = store.put("a", b"two", Replace(first))
        assert store.get("a").version == second != first
        assert self.raw(store, "a") == b"two"

    @pytest.mark.parametrize("mode", [Overwrite(), None])
    def test_replace_with_a_former_version_writes_nothing(self, store: ObjectStore, mode: PutMode | None) -> None:
        """However the object was changed since (None: by a replace)."""
        first = store.put("a", b"one", Create())
        store.put("a", b"two", mode or Replace(first))
        with pytest.raises(PreconditionFailedError):
            store.put("a", b"three", Replace(first))
        assert self.raw(store, "a") == b"two"

    def test_replace_does_not_create(self, store: ObjectStore) -> None:
        """Neither where nothing ever was nor where something was deleted."""
        version = store.put("a", b"one", Create())
        store.delete("a")
        for key, wanted in (("a", version), ("b", NO_VERSION)):
            with pytest.raises(PreconditionFailedError):
                store.put(key, b"two", Replace(wanted))
            assert self.raw(store, key) is None

    def test_a_content_that_comes_back_has_the_version_it_should(self, store: ObjectStore) -> None:
        """A→B→A: where versions are of contents it matches A, so writers must make each content their own."""
        first = store.put("a", b"A", Create())
        second = store.put("a", b"B", Replace(first))
        third = store.put("a", b"A", Replace(second))
        self.check_same_content(first, third)
        self.check_former_version(store, "a", first)

    @pytest.mark.parametrize("mode", [Overwrite(), Replace(NO_VERSION)])
    def test_too_much_for_one_request_is_refused(self, store: ObjectStore, mode: PutMode) -> None:
        """Before anything is sent."""
        store.put("a", b"one", Create())
        with pytest.raises(ValueError, match=str(CONDITIONAL_BYTES_MAX)):
            store.put("a", b"x" * (CONDITIONAL_BYTES_MAX + 1), mode)
        assert self.raw(store, "a") == b"one"

    @pytest.mark.parametrize(
        ("start", "length", "expected"),
        [(0, 1, b"0"), (3, 4, b"3456"), (9, 1, b"9"), (0, 10, b"0123456789"), (6, 4, b"6789"), (8, 100, b"89")],
    )
    def test_a_range_is_cut_at_the_end(self, store: ObjectStore, start: int, length: int, expected: bytes) -> None:
        """First, middle, last, all, to the end, past the end; the version is the whole object's."""
        version = store.put("a", b"0123456789", Create())
        found = store.get("a", ByteRange(start, length))
        assert (found.data, found.version) == (expected, version)

    @pytest.mark.parametrize(("size", "start"), [(10, 10), (10, 11), (10, 10_000), (0, 0)])
    def test_a_range_behind_the_end_is_corruption(self, store: ObjectStore, size: int, start: int) -> None:
        """Whoever asks for it read somewhere that the object is longer."""
        store.put("a", b"x" * size, Create())
        with pytest.raises(CorruptObjectError):
            store.get("a", ByteRange(start, 1))

    def test_a_deleted_object_is_gone(self, store: ObjectStore) -> None:
        """And may be created again."""
        fill(store, "a/b", "a/c")
        store.delete("a/b")
        assert self.raw(store, "a/b") is None
        assert keys_of(store, "a/") == ["a/c"]
        store.put("a/b", b"again", Create())
        assert self.raw(store, "a/b") == b"again"

    def test_deleting_nothing_is_silent(self, store: ObjectStore) -> None:
        """Also next to, above and below what exists."""
        fill(store, "a/b")
        for key in ("a", "a/c", "z/y/x"):
            store.delete(key)
        assert keys_of(store, "") == ["a/b"]

    def test_many_are_deleted_and_failures_returned(self, store: ObjectStore) -> None:
        """Missing keys are no failures; a key that is none is one, and does not stop the others."""
        fill(store, "a/1", "a/2", "a/3", "b/1")
        assert store.delete_many(key for key in ("a/1", "a/3", "a/missing")) == ()
        assert store.delete_many([]) == ()
        failures = store.delete_many(["b/1", "../b"])
        assert [failure.key for failure in failures] == ["../b"]
        assert isinstance(failures[0].error, InvalidKeyError)
        assert keys_of(store, "") == ["a/2"]

    def test_a_listing_is_in_key_order(self, store: ObjectStore) -> None:
        """Of the whole key, byte by byte: "-", "." and "%" sort before "/"."""
        keys = [
            "a",
            "a%20/b",
            "a-/b",
            "a-b",
            "a.b/c",
            "a0/b",
            "a_/b",
            "b/c",
            "b/c-d",
            "b/c0",
            "b/d/e",
            "c~/x",
            "~store",
        ]
        fill(store, *reversed(keys))
        assert keys_of(store, "") == sorted(keys)

    def test_a_listing_tells_sizes_and_times(self, store: ObjectStore) -> None:
        """Times are aware and about now; servers cut them to seconds."""
        fill(store, "a/b")
        (row,) = store.list("a/")
        assert (row.key, row.size_bytes) == ("a/b", 3)
        assert abs(row.modified_at - SystemClock().now()) < timedelta(minutes=5)

    @pytest.mark.parametrize(
        ("prefix", "expected"),
        [
            ("", ["a/b/c", "a/b/d", "a/bc", "a/c", "ab/c"]),
            ("a", ["a/b/c", "a/b/d", "a/bc", "a/c", "ab/c"]),
            ("a/", ["a/b/c", "a/b/d", "a/bc", "a/c"]),
            ("a/b", ["a/b/c", "a/b/d", "a/bc"]),
            ("a/b/", ["a/b/c", "a/b/d"]),
            ("a/b/c", ["a/b/c"]),
            ("a/b/c/", []),
            ("a/b/cc", []),
            ("b", []),
            ("missing/deep/er", []),
        ],
    )
    def test_a_prefix_knows_no_directories(self, store: ObjectStore, prefix: str, expected: list[str]) -> None:
        """It is the beginning of the key, nothing else."""
        fill(store, "a/b/c", "a/b/d", "a/bc", "a/c", "ab/c")
        assert keys_of(store, prefix) == expected

    @pytest.mark.parametrize(
        ("start_after", "expected"),
        [
            ("a/b", ["a/b/c", "a/b/d", "a/bc", "a/c"]),
            ("a/b/c", ["a/b/d", "a/bc", "a/c"]),
            ("a/b/cc", ["a/b/d", "a/bc", "a/c"]),
            ("a/b/d", ["a/bc", "a/c"]),
            ("a/b0", ["a/bc", "a/c"]),
            ("a/c", []),
            ("b", []),
            ("A", ["a/b/c", "a/b/d", "a/bc", "a/c"]),
        ],
    )
    def test_a_listing_starts_after_a_key(self, store: ObjectStore, start_after: str, expected: list[str]) -> None:
        """Which need not exist, and is itself left out."""
        fill(store, "a/b/c", "a/b/d", "a/bc", "a/c", "ab/c")
        assert keys_of(store, "a/", start_after) == expected

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_every_key_of_the_grammar_works(self, store: ObjectStore, key: str) -> None:
        """Written, read, stated, listed, replaced and deleted."""
        store.put(key, b"two", Replace(store.put(key, b"one", Create())))
        assert store.get(key).data == self.raw(store, key) == b"two"
        assert store.stat(key).key == key
        assert keys_of(store, "") == keys_of(store, key) == [key]
        store.delete(key)
        assert keys_of(store, "") == []

    def test_no_two_ids_share_an_object(self, store: ObjectStore) -> None:
        """Capitals, dots, percent signs, 500 bytes of Japanese."""
        assert len(ODD_IDS[-1].encode()) >= 498
        for identifier in ODD_IDS:
            store.put(f"t/{encode_id(identifier)}", identifier.encode(), Create())
        for identifier in ODD_IDS:
            assert store.get(f"t/{encode_id(identifier)}").data == identifier.encode()
        assert len(keys_of(store, "t/")) == len(ODD_IDS)

    @pytest.mark.parametrize("key", BAD_KEYS)
    def test_what_is_no_key_is_refused(self, store: ObjectStore, key: str) -> None:
        """By every verb."""
        calls = (
            lambda: store.get(key),
            lambda: store.stat(key),
            lambda: store.delete(key),
            lambda: store.put(key, b"", Create()),
            lambda: store.put(key, b"", Overwrite()),
            lambda: store.put(key, b"", Replace(NO_VERSION)),
        )
        for call in calls:
            with pytest.raises(InvalidKeyError):
                call()
        assert keys_of(store, "") == []

    @pytest.mark.parametrize("prefix", ["a//", "../", "a b", "x/../y", "\x00"])
    def test_what_begins_no_key_is_not_listed(self, store: ObjectStore, prefix: str) -> None:
        """Refused, not answered with nothing."""
        with pytest.raises(InvalidKeyError):
            keys_of(store, prefix)
