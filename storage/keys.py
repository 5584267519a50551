"""The grammar of keys: which characters, how long, how an id becomes a segment. Pure.

Rules:
1. A key is segments joined by "/"; a segment is 1–200 of `a-z 0-9 A-F - _ % ~ .`, not beginning with a dot.
2. An id is 1–512 bytes of UTF-8 without control characters; it is never used raw.
3. Two ids never share a segment, also on a disk that ignores case.

    encode_id("Ünit.7") == "%C3%9Cnit%2E7"
"""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from storage.digest import digest, short_hash
from storage.errors import InvalidKeyError

ID_BYTES_MAX = 512  # room for URNs and composite ids; longer names belong in metadata
KEY_BYTES_MAX = 900  # S3 allows 1,024; the rest is for the prefix that a user chooses
SEGMENT_CHARACTERS_MAX = 150  # a file name may have 255 bytes; packs and temporary files add to it

ENCODED_MAX = 1024  # segments kept at hand: the keys of a few sessions are asked for again and again

_SEGMENT = re.compile(r"[a-z0-9A-F%_~-][a-z0-9A-F%_~.-]{0,199}")
_LINES = re.compile(rf"{_SEGMENT.pattern}(?:[/\n]{_SEGMENT.pattern})*")  # keys, one per line
_NOT_A_KEY = "not a key: want segments of a-z 0-9 A-F - _ % ~ . joined by '/', no dot first"
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-_")


def check_id(identifier: str, *, what: str = "id") -> str:
    """Return `identifier` if it is 1–512 bytes of UTF-8 without control characters.

    Raises:
        InvalidKeyError: It is not; the reason says which rule.
    """
    if not isinstance(identifier, str) or not identifier:
        raise InvalidKeyError(str(identifier), f"{what} is empty; give 1–{ID_BYTES_MAX} bytes of text")
    try:
        raw = identifier.encode()
    except UnicodeEncodeError as error:
        raise InvalidKeyError(ascii(identifier), f"{what} is not valid Unicode; give UTF-8 text") from error
    if len(raw) > ID_BYTES_MAX:
        raise InvalidKeyError(identifier, f"{what} has {len(raw)} bytes; at most {ID_BYTES_MAX} are allowed")
    if not identifier.isprintable() and any(unicodedata.category(character) == "Cc" for character in identifier):
        raise InvalidKeyError(ascii(identifier), f"{what} has control characters; remove them")
    return identifier


def encode_id(identifier: str, *, what: str = "id") -> str:
    """Return the key segment of an id: `%XX` for all but `a-z 0-9 - _`; hashed when over 150 characters.

    Raises:
        InvalidKeyError: Not an id.
    """
    return _encoded(check_id(identifier, what=what))


@lru_cache(maxsize=ENCODED_MAX)
def _encoded(identifier: str) -> str:
    raw = identifier.encode()
    text = "".join(chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in raw)
    if len(text) <= SEGMENT_CHARACTERS_MAX:
        return text
    return "~" + digest(raw).removeprefix("b3:")


def fan_out(identifier: str) -> str:
    """Return two hex digits of BLAKE3 of the id: 256 directories, so that none grows too wide."""
    return short_hash(identifier.encode(), 1).hex()


def check_key(key: str) -> str:
    """Return `key` if the grammar admits it.

    Raises:
        InvalidKeyError: An empty, over-long, dotted or foreign segment.
    """
    if not key.isascii():  # also a lone surrogate, which could not be encoded at all
        raise InvalidKeyError(ascii(key), _NOT_A_KEY)
    if len(key) > KEY_BYTES_MAX:
        raise InvalidKeyError(key, f"key has over {KEY_BYTES_MAX} bytes; use a shorter prefix or tenant")
    if not all(_SEGMENT.fullmatch(segment) for segment in key.split("/")):
        raise InvalidKeyError(key, _NOT_A_KEY)
    return key


def check_keys(lines: str) -> tuple[str, ...]:
    """Return the keys that stand in a text, one per line; takes a fifth of the time of looking at each.

    Raises:
        InvalidKeyError: As `check_key`, for the first line that is none.
    """
    keys = tuple(lines.split("\n"))
    if not _LINES.fullmatch(lines) or max(map(len, keys)) > KEY_BYTES_MAX:
        for key in keys:
            check_key(key)
    return keys


def check_prefix(prefix: str) -> str:
    """Return `prefix` (for listing) if it can begin a key: empty, or segments with an open last one."""
    whole, _, last = prefix.rpartition("/")
    if whole:
        check_key(whole)
    if last:
        check_key(last)
    return prefix
