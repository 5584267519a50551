"""`Rivalry`: several processes write one session; who waits for whom, and for how long.

Rules:
1. Who lost waits in proportion to what the lost attempt took and to how many won meanwhile: as long as all of them need
   one after the other is what spreads them out, on a store that is fast and on one that is slow.
2. Who knows where the session stands is faster than who has to read it, and would win for ever, without ever hearing of
   those who lose. So who has won some times in a row lets others go first: often where others were met of late, seldom
   where nobody was.
3. It saves requests, nothing more: what protects the data is the compare-and-swap of the store.

    rivalry = rivalry.lost(clock.monotonic(), read=True)
    clock.sleep(lost_wait_seconds(rivalry.losses, conflict, clock.monotonic() - began, clock))
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from snapshots.errors import RevisionConflictError
from storage.clock import Clock, backoff_seconds

LOST_SECONDS_MIN = 0.005  # what an attempt counts for at least: a memory is too quick to be measured
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

    def at(self, now: float) -> Rivalry:
        """Return it as it counts now: losses to others who were not met of late are forgotten."""
        return self if self._is_on(now) else replace(self, losses=0)

    def is_won_long_enough(self, now: float) -> bool:
        """Say whether it is time to let others go first (rule 2)."""
        return self.wins >= (WINS_MAX if self._is_on(now) else WINS_ALONE_MAX)

    def _is_on(self, now: float) -> bool:
        """Say whether others were met of late."""
        return self.others_at is not None and now - self.others_at < OTHERS_SECONDS

    def let_others_go_first(self, now: float, clock: Clock) -> Rivalry:
        """Wait for what is left of a pause that began with the last win; return it after that."""
        until = self.won_at + PAUSE_WINS * self.win_seconds * (0.5 + clock.random())
        if now < until:
            clock.sleep(until - now)
        return replace(self, wins=0)


def lost_wait_seconds(losses: int, conflict: RevisionConflictError, seconds: float, clock: Clock) -> float:
    """Return how long to wait after a lost attempt (rule 1).

    Args:
        losses: How often others were faster, this time included.
        conflict: What this attempt ended with.
        seconds: What it took.
        clock: For the jitter.
    """
    return backoff_seconds(losses, clock, base_seconds=max(LOST_SECONDS_MIN, seconds) * _winners(conflict))


def _winners(conflict: RevisionConflictError) -> int:
    """Return how many others committed during a lost attempt; one where it meant to create the session."""
    return 1 if conflict.expected is None else max(1, conflict.actual - conflict.expected)
