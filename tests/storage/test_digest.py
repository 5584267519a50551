"""Digests name bytes: known values, built up or at once, and verified."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.digest import BLOB_BYTES_MAX, BlobRef, Digest, Hasher, blob_ref, digest, parse_digest, short_hash, verify
from storage.errors import CorruptObjectError

# Source: test_vectors.json of the BLAKE3 reference implementation (input_len 0 and 1: the byte 0x00).
EMPTY = "b3:af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262"
ZERO = "b3:2d3adedff11b61f14c886e35afa036736dcd87a74d27b5c1510225d0f592e213"


def test_digests_are_blake3() -> None:
    assert digest(b"") == EMPTY
    assert digest(b"\x00") == ZERO


def test_a_short_hash_is_the_beginning_of_the_digest() -> None:
    assert short_hash(b"").hex() == EMPTY[3:35]
    assert short_hash(b"\x00", 1).hex() == ZERO[3:5]


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_pieces_hash_like_the_whole(pieces: list[bytes]) -> None:
    hasher = Hasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.ref() == blob_ref(b"".join(pieces))


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_may_be_hashed(kind: Any) -> None:
    data = kind(b"hello")
    assert blob_ref(data) == blob_ref(b"hello")
    verify(data, blob_ref(b"hello"), key="k")


def test_bytes_that_are_those_named_pass() -> None:
    verify(b"hello", blob_ref(b"hello"), key="k")
    verify(b"hello", BlobRef(Digest("sha256:" + hashlib.sha256(b"hello").hexdigest()), 5), key="k")


@pytest.mark.parametrize("data", [b"", b"hell", b"hello!", b"hallo"])
def test_other_bytes_are_corrupt_and_the_key_is_named(data: bytes) -> None:
    refs = [blob_ref(b"hello"), BlobRef(Digest("sha256:" + hashlib.sha256(b"hello").hexdigest()), 5)]
    for ref in refs:
        with pytest.raises(CorruptObjectError) as caught:
            verify(data, ref, key="packs/x")
        assert caught.value.key == "packs/x"


@pytest.mark.parametrize("text", [EMPTY, "sha256:" + "0" * 64])
def test_a_digest_is_parsed(text: str) -> None:
    assert parse_digest(text) == text


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b3:",
        EMPTY[:-1],
        EMPTY + "0",
        EMPTY.upper(),
        EMPTY + "\n",
        " " + EMPTY,
        "md5:" + "0" * 64,
        "b3" + "0" * 64,
        None,
    ],
)
def test_what_is_no_digest_is_refused(text: Any) -> None:
    with pytest.raises(ValueError, match="not a digest"):
        parse_digest(text)


@pytest.mark.parametrize("size", [-1, BLOB_BYTES_MAX + 1, True, 1.0, "1"])
def test_a_size_is_a_bounded_whole_number(size: Any) -> None:
    with pytest.raises(ValueError, match="size_bytes"):
        BlobRef(Digest(EMPTY), size)


def test_a_ref_is_a_value() -> None:
    ref = blob_ref(b"")
    assert ref == BlobRef(Digest(EMPTY), 0)
    assert len({ref, blob_ref(b""), BlobRef(Digest(EMPTY), 1)}) == 2
    assert str(ref) == f"{EMPTY} (0 bytes)"
    with pytest.raises(AttributeError):
        ref.size_bytes = 3  # type: ignore[misc]  # frozen: that is the claim
