"""Where an update gets its states from: a load for every attempt, or what the process knows of the session already.

Rules:
1. What is known is expected to be the present revision if it was so when the session was looked at last: then nothing
   is read. Otherwise the head is read, and what is new.
2. Who gives a state says whether it was read for this very attempt; only such a one proves anything but a commit.
3. Every state is a fresh copy; what is known has been read or committed, and nobody else holds it, but for the nodes:
   these are never changed.
4. Who knows where the session stands is faster than who has to read it, and would win for ever, without ever hearing of
   those who lose. So who has won some times in a row lets others go first: often where others were met of late, seldom
   where nobody was.

    source = Following(environment, "s1", None)
    state = source.state()
    commit(environment, state, None, execution_state=None)
    source.won(tracking_of(state).base)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from snapshots.base import Base, Tracking, track
from snapshots.environment import Environment
from snapshots.following import advance, follow, stands_where
from snapshots.restore import Loaded, load
from snapshots.state import PersistedSessionState
from storage.clock import Clock

ROW_BYTES = 1 << 10  # that a revision's rows of history and places take beside their bytes: about 1.7 KiB with them
WINS_MAX = 16  # in a row, where others were met
WINS_ALONE_MAX = 32  # in a row, where nobody was: what is waited for nothing is a sixteenth of the time
OTHERS_SECONDS = 2.0  # how long others count as writing once they were met: longer than any of them waits
PAUSE_WINS = 2.0  # how long a pause is, in wins: somebody who just came has to get through


@dataclass(frozen=True, slots=True)
class Rivalry:
    """What a process remembers of others that write the same session.

    Attributes:
        wins: How often it has won in a row, since others were met or let go first.
        won_at: When, last.
        win_seconds: What the fastest of these wins took.
        losses: How often it has lost to others more than it got through: what to be patient by.
        others_at: When others were met last, None if they never were.
    """

    wins: int = 0
    won_at: float = 0.0
    win_seconds: float = 0.0
    losses: int = 0
    others_at: float | None = None

    def won(self, began: float, now: float, *, read: bool) -> Rivalry:
        """Return it after a win; one that was read for says that there was a chance to get through."""
        seconds = min(self.win_seconds, now - began) if self.wins else now - began
        losses = max(0, self.losses - 1) if read else self.losses
        return Rivalry(self.wins + 1, now, seconds, losses, self.others_at)

    def lost(self, now: float, *, read: bool) -> Rivalry:
        """Return it after others were faster; what was not read for had no chance."""
        return Rivalry(losses=self.losses + 1 if read else self.losses, others_at=now)

    def is_on(self, now: float) -> bool:
        """Say whether others were met of late."""
        return self.others_at is not None and now - self.others_at < OTHERS_SECONDS

    def is_won_long_enough(self, now: float) -> bool:
        """Say whether it is time to let others go first."""
        return self.wins >= (WINS_MAX if self.is_on(now) else WINS_ALONE_MAX)


@dataclass(frozen=True, slots=True)
class Known:
    """A revision of a session that was loaded or committed.

    Attributes:
        loaded: It.
        is_expected: Whether the session probably stands there still (rule 1).
        committed: What was committed on top of it since, None for nothing.
        rivalry: With others who write it.
    """

    loaded: Loaded
    is_expected: bool = True
    committed: Base | None = None
    rivalry: Rivalry = Rivalry()

    def size_bytes(self) -> int:
        """Return about how much is kept, as it is stored."""
        base = self.committed or self.loaded.base
        packs = sum(pack.size_bytes for pack in base.at_hand.values())
        parts = sum(part.ref.size_bytes for part in base.parts.held.values())
        logs = sum(log.ref.size_bytes for log in (base.checkpoint.graph, base.history.at, base.places.at))
        return logs + ROW_BYTES * base.revision + packs + parts


def let_others_go_first(known: Known | None, clock: Clock) -> Known | None:
    """Wait, if rule 4 asks for it; return what is known then."""
    if known is None:
        return None
    now, rivalry = clock.monotonic(), known.rivalry
    if not rivalry.is_on(now):
        rivalry = replace(rivalry, losses=0)
    if not rivalry.is_won_long_enough(now):
        return replace(known, rivalry=rivalry)
    until = rivalry.won_at + PAUSE_WINS * rivalry.win_seconds * (0.5 + clock.random())
    if now < until:
        clock.sleep(until - now)
    return replace(known, is_expected=False, rivalry=replace(rivalry, wins=0))


class Source(Protocol):
    """Where an update gets its states from."""

    def state(self) -> PersistedSessionState:
        """Return a fresh state for one attempt."""
        ...

    def is_stale(self) -> bool:
        """Say whether the session has moved on from the state given last; False if it was read for this attempt."""
        ...

    def lost(self) -> int:
        """Take note that others were faster; return how often they were, 0 if the state given last had no chance."""
        ...

    def won(self, base: Base | None) -> None:
        """Take note that the state given last was committed, and what it stands on now."""
        ...

    def failed(self) -> None:
        """Take note that the commit failed for another reason."""
        ...


class Loading:
    """Loads a state for every attempt.

    Args:
        present: Loads it.
    """

    def __init__(self, present: Callable[[], PersistedSessionState]) -> None:
        self.state = present
        self._losses = 0

    def is_stale(self) -> bool:
        """Return False: it was read."""
        return False

    def lost(self) -> int:
        """Return how often others were faster."""
        self._losses += 1
        return self._losses

    def won(self, base: Base | None) -> None:
        """Keep nothing."""

    def failed(self) -> None:
        """Keep nothing."""


class Following:
    """Follows one session from what is known of it, for one update.

    Args:
        environment: Where.
        session_id: Which session.
        known: What is known of it, None for nothing. It is taken over.

    Attributes:
        known: What is known now, None for nothing.
    """

    def __init__(self, environment: Environment, session_id: str, known: Known | None) -> None:
        self.known = known
        self._environment = environment
        self._session_id = session_id
        self._is_read = False  # in this attempt
        self._began = 0.0

    def state(self) -> PersistedSessionState:
        """Return a state; nothing is read while the session is expected to stand where it is known to."""
        self._began = self._environment.clock.monotonic()
        known = self._with_committed()
        if not self._is_read and (known is None or not known.is_expected):
            known = self._read(known)
        assert known is not None, "what was read is known"
        self.known = known
        state = known.loaded.state.copy()
        track(state, Tracking(known.loaded.base))
        return state

    def _with_committed(self) -> Known | None:
        """Take what is known; what was committed since is in it."""
        known, self.known = self.known, None
        if known is None or known.committed is None:
            return known
        loaded = advance(self._environment, known.loaded, known.committed)
        return None if loaded is None else replace(known, loaded=loaded, committed=None)

    def _read(self, known: Known | None) -> Known:
        """Read where the session stands."""
        self._is_read = True
        if known is None:
            return Known(load(self._environment, self._session_id, revision=None, execution_state=False))
        before = known.loaded.base
        loaded = follow(self._environment, self._session_id, known.loaded)
        if stands_where(before, loaded.base):
            return replace(known, loaded=loaded, is_expected=True)
        rivalry = known.rivalry.lost(self._environment.clock.monotonic(), read=False)
        return Known(loaded, is_expected=False, rivalry=rivalry)

    def is_stale(self) -> bool:
        """Say whether the session has moved on; one read of the head if the state given last was only expected."""
        if self._is_read:
            return False
        known, self.known = self.known, None
        self.known = self._read(known)
        return not self.known.is_expected

    def lost(self) -> int:
        """Expect nothing any more; return how often others were faster, 0 if the state given last was not read."""
        read, self._is_read = self._is_read, False
        assert self.known is not None, "a state was given"
        rivalry = self.known.rivalry.lost(self._environment.clock.monotonic(), read=read)
        self.known = replace(self.known, is_expected=False, rivalry=rivalry)
        return rivalry.losses if read else 0

    def won(self, base: Base | None) -> None:
        """Know what was committed; nothing if the state was made one of another session."""
        if base is None or base.head.session_id != self._session_id:
            self.known = None
            return
        assert self.known is not None, "a state was given"
        now = self._environment.clock.monotonic()
        rivalry = self.known.rivalry.won(self._began, now, read=self._is_read)
        self.known = replace(self.known, committed=base, rivalry=rivalry)

    def failed(self) -> None:
        """Know nothing any more."""
        self.known = None
