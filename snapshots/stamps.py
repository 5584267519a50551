"""Turn stamps: what makes a commit idempotent across processes. Pure.

Rules:
1. The same turn id with the same content, along the present lineage, is the same commit: its stored result is returned.
2. The same turn id with other content is refused.

    repo.commit(state, stamp=TurnStamp("turn-7"))
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from snapshots.errors import LimitExceededError
from snapshots.fields import columns
from storage.digest import short_hash
from storage.keys import ID_BYTES_MAX, check_id

MARK_BYTES = 16  # of a turn id and of a content hash in a head's ring


@dataclass(frozen=True, slots=True)
class TurnStamp:
    """A turn's id, and the hash of what it did.

    Attributes:
        turn_id: 1-512 bytes of text, unique among the turns of the session.
        content_hash: Any text that is equal for equal content; None lets the commit work it out from the new parts.
    """

    turn_id: str
    content_hash: str | None = None

    def __post_init__(self) -> None:
        size = len(self.turn_id.encode(errors="surrogatepass"))
        if size > ID_BYTES_MAX:
            raise LimitExceededError(f"turn id of {ID_BYTES_MAX} bytes", size)
        check_id(self.turn_id, what="turn id")


@dataclass(frozen=True, slots=True)
class StampMark:
    """A stamp as a head and a history keep it: 16-byte digests of both.

    Attributes:
        turn: Digest of the turn id.
        content: Digest of the content hash.
    """

    turn: bytes
    content: bytes

    def to_plain(self) -> list[Any]:
        """Return `[turn, content]`."""
        return [self.turn, self.content]


def mark(turn_id: str, content_hash: str) -> StampMark:
    """Return the mark of a turn."""
    content = content_hash.encode(errors="surrogatepass")  # any text: it is only ever hashed
    return StampMark(short_hash(turn_id.encode(), MARK_BYTES), short_hash(content, MARK_BYTES))


def mark_from_plain(plain: Any) -> StampMark:
    """Return the mark that `to_plain` wrote. Raises ValueError, TypeError."""
    turn, content = columns(plain, 2)
    if not (isinstance(turn, bytes) and isinstance(content, bytes) and len(turn) == len(content) == MARK_BYTES):
        raise ValueError("not a stamp")
    return StampMark(turn, content)
