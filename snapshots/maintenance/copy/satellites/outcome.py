"""What became of the satellites of a session that was copied. Values; and the error for one that moved on here.

copied.kinds, copied.rows, copied.is_changed
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

from snapshots.errors import CopyConflictError, SessionDeletedError, SessionMovedError

SatelliteKind = Literal["record", "metadata", "usage", "realtime"]
KINDS: tuple[SatelliteKind, ...] = ("record", "metadata", "usage", "realtime")

Outcome = Literal["absent", "copied", "same", "ahead"]
"""There is none in the source; something was written here; there was nothing to do; nothing either, since the one here
has all of the source's, and was written to since."""


@dataclass(frozen=True, slots=True)
class KindCopied:
    """What became of one satellite.

    Attributes:
        kind: Which.
        outcome: What.
        count: Rows or realtime records that were written, 1 for a record or metadata.
        bytes: Their size, rows uncompressed.
    """

    kind: SatelliteKind
    outcome: Outcome
    count: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class SatellitesCopied:
    """What became of all of a session.

    Attributes:
        session_id: Its id in the source.
        target_id: Its id here.
        kinds: One for each kind that was asked for.
    """

    session_id: str
    target_id: str
    kinds: tuple[KindCopied, ...]

    def of(self, kind: SatelliteKind) -> KindCopied:
        """Return what became of one kind."""
        return next((one for one in self.kinds if one.kind == kind), KindCopied(kind, "absent"))

    @property
    def rows(self) -> int:
        """Return how many rows were appended to the usage log."""
        return self.of("usage").count

    @property
    def records(self) -> int:
        """Return how many realtime records were written."""
        return self.of("realtime").count

    @property
    def bytes(self) -> int:
        """Return the size of all that was written."""
        return sum(one.bytes for one in self.kinds)

    @property
    def is_changed(self) -> bool:
        """Say whether anything was written."""
        return any(one.outcome == "copied" for one in self.kinds)


def not_from_there(target_id: str, what: str, destination: str) -> CopyConflictError:
    """Return why something that was left behind here does not come back from a source that does not go on from it."""
    reason = f"it was moved on from here, to {destination}, and what is to be copied does not go on from it"
    return CopyConflictError(target_id, 0, reason, what=what)


@contextmanager
def writing_here(target_id: str, what: str) -> Iterator[None]:
    """Let a session that is no longer here be a conflict: nothing can be copied onto it.

    Raises:
        CopyConflictError: It was deleted here, or moved on.
    """
    try:
        yield
    except SessionDeletedError as error:
        raise CopyConflictError(target_id, 0, "it was deleted here, and its id is spent", what=what) from error
    except SessionMovedError as error:
        reason = f"it was moved on from here, to {error.destination}"
        raise CopyConflictError(target_id, 0, reason, what=what) from error
