"""Where an update gets its states from: a load for every attempt, or what the process knows of the session already.

Rules:
1. What is known is expected to be the present revision if it was so when the session was looked at last: then nothing
   is read. Otherwise the head is read, and what is new.
2. Who gives a state says whether it was read for this very attempt; only such a one proves anything but a commit.
3. Every state is a fresh copy; what is known has been read or committed, and nobody else holds it, but for the nodes:
   these are never changed.
4. What is known includes the others who write the session (`snapshots.rivalry`): who lets them go first expects nothing
   any more.

    source = FollowingSource(environment, "s1", None)
    state = source.state()
    commit(environment, state, None, execution_state=None)
    source.won(tracking_of(state).base)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Protocol

from snapshots.base import Base, Tracking, track
from snapshots.environment import Environment
from snapshots.following import advance, follow, stands_where
from snapshots.restore import Loaded, load
from snapshots.rivalry import Rivalry
from snapshots.state import PersistedSessionState
from storage.clock import Clock

ROW_BYTES = 1 << 10  # that a revision's rows of history and places take beside their bytes: about 1.7 KiB with them


@dataclass(frozen=True, slots=True)
class KnownSession:
    """What is known of a session: a revision of it that was loaded or committed.

    Attributes:
        loaded: It.
        is_expected: Whether the session probably stands there still (rule 1).
        committed: What was committed on top of it since, None for nothing.
        rivalry: With others who write it.
    """

    loaded: Loaded
    is_expected: bool = True
    committed: Base | None = None
    rivalry: Rivalry = field(default_factory=Rivalry)

    def size_bytes(self) -> int:
        """Return about how much is kept, as it is stored."""
        base = self.committed or self.loaded.base
        packs = sum(pack.size_bytes for pack in base.at_hand.values())
        parts = sum(part.ref.size_bytes for part in base.parts.held.values())
        logs = sum(log.ref.size_bytes for log in (base.checkpoint.graph, base.history.at, base.places.at))
        return logs + ROW_BYTES * base.revision + packs + parts


def let_others_go_first(known: KnownSession | None, clock: Clock) -> KnownSession | None:
    """Wait, if `Rivalry` asks for it; return what is known then."""
    if known is None:
        return None
    now = clock.monotonic()
    rivalry = known.rivalry.at(now)
    if not rivalry.is_won_long_enough(now):
        return replace(known, rivalry=rivalry)
    return replace(known, is_expected=False, rivalry=rivalry.let_others_go_first(now, clock))


class Source(Protocol):
    """Where an update gets its states from."""

    def state(self) -> PersistedSessionState:
        """Return a fresh state for one attempt."""
        ...

    def confirm(self) -> bool:
        """Find out whether the session still stands where the state given last does; True if it was read for this."""
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


class LoadingSource:
    """A source that loads a state for every attempt.

    Args:
        present: Loads it.
    """

    def __init__(self, present: Callable[[], PersistedSessionState]) -> None:
        self.state = present
        self._losses = 0

    def confirm(self) -> bool:
        """Return True: it was read."""
        return True

    def lost(self) -> int:
        """Return how often others were faster."""
        self._losses += 1
        return self._losses

    def won(self, base: Base | None) -> None:
        """Keep nothing."""

    def failed(self) -> None:
        """Keep nothing."""


class FollowingSource:
    """A source that gives, for one update, what is known of a session, and has it followed from there.

    Args:
        environment: Where.
        session_id: Which session.
        known: What is known of it, None for nothing. It is taken over.

    Attributes:
        known: What is known now, None for nothing.
    """

    def __init__(self, environment: Environment, session_id: str, known: KnownSession | None) -> None:
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

    def _with_committed(self) -> KnownSession | None:
        """Take what is known; what was committed since is in it."""
        known, self.known = self.known, None
        if known is None or known.committed is None:
            return known
        loaded = advance(self._environment, known.loaded, known.committed)
        return None if loaded is None else replace(known, loaded=loaded, committed=None)

    def _read(self, known: KnownSession | None) -> KnownSession:
        """Read where the session stands."""
        self._is_read = True
        if known is None:
            return KnownSession(load(self._environment, self._session_id, revision=None, execution_state=False))
        before = known.loaded.base
        loaded = follow(self._environment, self._session_id, known.loaded)
        if stands_where(before, loaded.base):
            return replace(known, loaded=loaded, is_expected=True)
        rivalry = known.rivalry.lost(self._environment.clock.monotonic(), read=False)
        return KnownSession(loaded, is_expected=False, rivalry=rivalry)

    def confirm(self) -> bool:
        """Find out whether the session stands there still; one read of the head if that was only expected."""
        if self._is_read:
            return True
        known, self.known = self.known, None
        self.known = self._read(known)
        return self.known.is_expected

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
