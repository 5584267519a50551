"""`Base`: what a loaded or committed state remembers of the revision it stands on. Private to the process.

Rules:
1. A base belongs to one store and tenant: elsewhere it means nothing.
2. It is replaced, never changed; copies of a state share it.
3. A pending commit id is used again only while content and turn are the same, so that a repeated commit is recognised.

    tracking_of(state).base
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Never

from snapshots.checkpoint import UNBORN, SessionCheckpoint
from snapshots.head import Head, TailPack
from snapshots.history import HistoryRow
from snapshots.logs import HeldLog
from snapshots.parts import Parts
from snapshots.placement import FrameNumbers, ManifestPlace, Move, Placement, PlaceRow
from snapshots.stamps import StampMark
from snapshots.state import PersistedSessionState, TokenLedgerEntry
from storage.digest import BlobRef, Digest
from storage.packs import PackBody
from storage.store import Version


@dataclass(frozen=True, slots=True)
class FullManifest:
    """A manifest that stands in full: where, its bytes, and how it numbers frames."""

    place: ManifestPlace
    raw: bytes = field(repr=False)
    numbers: FrameNumbers = field(repr=False)


@dataclass(frozen=True, slots=True)
class Ahead:
    """The tail of a head on its way into a pack of the store; see `snapshots.ahead`.

    Attributes:
        body: The pack.
        moves: What it carries.
        tail: The same, as it lies in the head.
        epoch: Epoch of the head before the upload.
        upload: Done when the pack is stored, or failed.
    """

    body: PackBody
    moves: tuple[Move, ...]
    tail: tuple[TailPack, ...]
    epoch: int
    upload: Future[None]


@dataclass(frozen=True, slots=True)
class Base:
    """A revision as this process knows it.

    Attributes:
        home: Identity of store and tenant (rule 1).
        head: The head last read or written.
        version: Its version in the store.
        checkpoint: The revision's checkpoint; `UNBORN` for a reserved head.
        checkpoint_ref: Its ref, None for a reserved head.
        placement: Where the revision's blobs lie.
        graph: The graph's log, None where it was not read: nothing can be appended to it then.
        history: The history with its rows.
        unstored: Rows of the history that the log does not hold yet: the first one of a fork.
        places: The log of places with its rows.
        ledger: The revision's token ledger.
        parts: What is known of the bytes of its parts.
        full: The manifest that the next one may be compressed against, None if none is known.
        at_hand: Packs that the next one may carry.
        commits: How many commits this process made in a row up to this revision.
        ahead: Its tail on the way into the store, None while that is not due.
        moves: What was carried since this revision was stored; the next one's row of places tells.
    """

    home: object
    head: Head
    version: Version
    checkpoint: SessionCheckpoint = UNBORN
    checkpoint_ref: BlobRef | None = None
    placement: Placement = field(default_factory=Placement)
    graph: HeldLog[Never] | None = None
    history: HeldLog[HistoryRow] = field(default_factory=HeldLog)
    unstored: tuple[HistoryRow, ...] = ()
    places: HeldLog[PlaceRow] = field(default_factory=HeldLog)
    ledger: Sequence[TokenLedgerEntry] = ()
    parts: Parts = field(default_factory=Parts)
    full: FullManifest | None = None
    at_hand: Mapping[str, PackBody] = field(default_factory=dict)
    commits: int = 0
    ahead: Ahead | None = None
    moves: tuple[Move, ...] = ()

    @property
    def revision(self) -> int:
        """Return the revision this base stands on; older than the head's after a load of an old one."""
        return self.checkpoint.revision

    @property
    def rows(self) -> list[HistoryRow]:
        """Return the whole history up to this revision, oldest first."""
        return [*self.history.entries, *self.unstored]

    @property
    def row(self) -> HistoryRow:
        """Return the last row of the history: that of this revision. Does not walk the others."""
        return (self.unstored or self.history.entries)[-1]


@dataclass(frozen=True, slots=True)
class Pending:
    """A commit that was begun.

    Attributes:
        commit_id: Its id.
        content: Digest of what it was to store.
        stamp: Its turn, None without one.
        sent: Whether a head was ever sent for it.
    """

    commit_id: str
    content: Digest
    stamp: StampMark | None = None
    sent: bool = False


@dataclass(frozen=True, slots=True)
class Tracking:
    """What hangs on a state: the base it stands on (None before the first commit) and the commit begun last."""

    base: Base | None = None
    pending: Pending | None = None


def tracking_of(state: PersistedSessionState) -> Tracking:
    """Return what hangs on `state`; nothing yet for a fresh one."""
    found = state._base
    return found if isinstance(found, Tracking) else Tracking()


def track(state: PersistedSessionState, tracking: Tracking) -> None:
    """Hang `tracking` on `state`."""
    state._base = tracking


def base_for(state: PersistedSessionState, home: object) -> Base | None:
    """Return the base that `state` stands on in this repository, None if it has none here.

    A state whose id or revision was changed by hand stands on nothing.
    """
    base = tracking_of(state).base
    if base is None or base.home != home or base.head.session_id != state.session_id:
        return None
    return base if base.revision == state.head_revision else None
