"""What every backend checks before it writes: the key, the kind of data, the size. Pure.

Rules:
1. A stream goes with `Create` only: a condition that failed could not be tried again with it.
2. Overwrite and Replace take at most CONDITIONAL_BYTES_MAX bytes: one request on every server.

    check_put("a/b", b"one", Create())
"""

from __future__ import annotations

from typing import BinaryIO

from storage.digest import Buffer, short_hash
from storage.keys import check_key
from storage.store import CONDITIONAL_BYTES_MAX, Create, PutMode, Version

VERSION_BYTES = 16  # 128 bits: two contents under one key never share a version by chance


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


def content_version(data: Buffer) -> Version:
    """Return the version of these bytes: from content alone, so that A→B→A has A's version again, as on S3."""
    return Version(short_hash(data, VERSION_BYTES).hex())
