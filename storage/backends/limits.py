"""What every backend checks before it writes, and how it reads a stream.

Rules:
1. A stream goes with `Create` only: a condition that failed could not be tried again with it.
2. Overwrite and Replace take at most CONDITIONAL_BYTES_MAX bytes: one request on every server.
3. A stream ends where it returns nothing; a short read (a pipe, a socket) is not its end.

    check_put("a/b", b"one", Create())
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import BinaryIO

from storage.digest import Buffer, short_hash
from storage.errors import InvalidKeyError, PreconditionFailedError, UnsupportedServerError
from storage.keys import check_key
from storage.store import CONDITIONAL_BYTES_MAX, Create, PutMode, Replace, Version

VERSION_BYTES = 16  # 128 bits: two contents under one key never share a version by chance
PIECE_BYTES = 1 << 20  # how much of a stream is asked for at once


def check_put(key: str, data: bytes | BinaryIO, mode: PutMode) -> None:
    """Check the arguments of a put.

    Raises:
        InvalidKeyError: Not a key.
        ValueError: A stream, or too many bytes, with another mode than Create.
    """
    check_key(key)
    if isinstance(mode, Create):
        return
    if not isinstance(data, bytes):
        raise ValueError(f"{type(mode).__name__} takes bytes, not {type(data).__name__}; streams go with Create")
    if len(data) > CONDITIONAL_BYTES_MAX:
        raise ValueError(f"{type(mode).__name__} takes at most {CONDITIONAL_BYTES_MAX} bytes, not {len(data)}")


def is_key(name: str) -> bool:
    """Say whether the grammar admits `name`; listings leave out what others put among our objects."""
    try:
        check_key(name)
    except InvalidKeyError:
        return False
    return True


def check_condition(key: str, mode: PutMode, present: Version | None) -> None:
    """Check what a mode demands of the object that is there (None: nothing is).

    Raises:
        PreconditionFailedError: The mode does not allow this put.
    """
    if isinstance(mode, Create) and present is not None:
        raise PreconditionFailedError(key, "the object exists already")
    if isinstance(mode, Replace) and present != mode.version:
        raise PreconditionFailedError(key, "nothing is stored here" if present is None else "the object changed")


def content_version(data: Buffer) -> Version:
    """Return the version of these bytes: from content alone, so that A→B→A has A's version again, as on S3."""
    return Version(short_hash(data, VERSION_BYTES).hex())


def pieces(data: bytes | BinaryIO) -> Iterator[bytes]:
    """Yield everything there is, in pieces: bytes as they are, a stream as it hands them out."""
    if isinstance(data, bytes):
        yield data
        return
    while piece := data.read(PIECE_BYTES):
        yield piece


def read_up_to(stream: BinaryIO, size_bytes: int) -> bytes:
    """Return the next `size_bytes` of the stream; fewer only at its end."""
    got = bytearray()
    while len(got) < size_bytes and (piece := stream.read(size_bytes - len(got))):
        got += piece
    return bytes(got)


def check_order(key: str, former: str) -> None:
    """Check that a listing goes on in key order; `former` is the key before, "" for none.

    Raises:
        UnsupportedServerError: It does not.
    """
    if key <= former:
        raise UnsupportedServerError([f"a listing is not in key order: {key} came after {former}"])
