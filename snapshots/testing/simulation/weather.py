"""`Weather`: what goes wrong in one run, drawn from its seed: resets, lost and late answers, damage, storms, crashes.

Rules:
1. Everything follows from the seed and the order of requests; what happened is counted by kind.
2. Each run has a climate of its own: calm, changeable or stormy; a storm refuses half of what is sent for a while.
3. Damaged answers are noted for the actor that got them: it may then say that something is corrupt, and only then.

    weather = Weather(Draws("weather 7"), layout.heads)
    store = FaultyStore(MemoryStore(), weather)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from snapshots import codec
from snapshots.fields import NEWEST_VERSION
from storage.testing.draws import Draws
from storage.testing.plan import (
    Altered,
    CutList,
    Delay,
    Deny,
    FailBefore,
    Fault,
    FaultPlan,
    FlipBit,
    LoseAnswer,
    On,
    OwnRetry,
    Repeat,
    Truncate,
    Verb,
)

LATE_MAX = 60  # requests of everybody that pass before a late or repeated write arrives
RATES = (0.0, 0.01, 0.03, 0.08)  # of the climates: faults per request
CRASHES = (0.0, 0.002, 0.008)  # of the climates: crashes per request
ALL_OVER = 40  # single faults to one storm, and to one expiry of credentials
WRITES_MORE = 3  # so much more often is a write hit than a read
STORM_REQUESTS = 25
EXPIRED_REQUESTS = 6
STORM, EXPIRED, FULL = "SlowDown storm", "credentials expired", "disk full"
CRASH_BEFORE, CRASH_AFTER, POWER_CUT = "crash before a request", "crash after a request", "power cut"
NEWER = "record of a newer version"
SLOW_DOWN = FailBefore("no", "SlowDown")

Make = Callable[[Draws], Fault]
_WRITES: tuple[Verb, ...] = ("put", "delete", "delete_many")
_ALL: tuple[Verb, ...] = ("get", "put", "stat", "list", "delete", "delete_many")


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of fault.

    Attributes:
        verbs: To what it happens.
        make: Draws one.
        of_head: Whether it happens to heads alone.
    """

    verbs: tuple[Verb, ...]
    make: Make
    of_head: bool = False

    def fits(self, verb: str, *, to_head: bool) -> bool:
        """Say whether it can happen to a request."""
        return verb in self.verbs and (to_head or not self.of_head)


def of_newer_version(data: bytes) -> bytes:
    """Return a guarded record as a newer version of this software would have written it."""
    plain = codec.decode(codec.unguarded(data, key=NEWER), key=NEWER)
    return codec.guarded(codec.encode({**plain, "schema_version": NEWEST_VERSION + 1}))


KINDS: Mapping[str, Kind] = {
    "reset before it was applied": Kind(_ALL, lambda _: FailBefore("no", "connection reset")),
    "503 before it was applied": Kind(_WRITES, lambda _: FailBefore("unknown", "503")),
    "409, nothing written": Kind(("put",), lambda _: FailBefore("unknown", "409 ConditionalRequestConflict")),
    "reset after it was applied": Kind(_WRITES, lambda _: LoseAnswer()),
    "timed out, applied later": Kind(_WRITES, lambda draws: Delay(1 + draws.below(LATE_MAX))),
    "412 from its own retry": Kind(("put",), lambda _: OwnRetry()),
    "delivered twice": Kind(_WRITES, lambda draws: Repeat(1 + draws.below(LATE_MAX))),
    "body truncated": Kind(("get",), lambda draws: Truncate(draws.below(200))),
    "bit flipped": Kind(("get",), lambda draws: FlipBit(draws.below(1 << 16))),
    NEWER: Kind(("get",), lambda _: Altered(of_newer_version), of_head=True),
    "listing cut": Kind(("list",), lambda draws: CutList(draws.below(4))),
}
DAMAGES = (Truncate, FlipBit, Altered)


class Weather(FaultPlan):
    """A plan of faults for one run.

    Args:
        draws: Where all of it comes from.
        heads: What the keys of heads begin with.

    Attributes:
        actor: Whose request comes next; whoever sends requests sets it.
        counts: What happened, by kind.
        damaged: Actors that were given damaged bytes since they were last forgiven.
    """

    def __init__(self, draws: Draws, heads: str) -> None:
        super().__init__()
        self.actor = ""
        self.counts: Counter[str] = Counter()
        self.damaged: set[str] = set()
        self._draws = draws
        self._heads = heads
        self._rate = draws.pick(RATES)
        self._crashes = draws.pick(CRASHES)
        self._storm_left = 0
        self._expired: dict[str, int] = {}
        self._ended = False

    def end(self) -> None:
        """Let everything pass from now on."""
        self._ended = True

    def crash(self) -> str:
        """Return the kind of crash that the actor's next request meets, "" for none."""
        if self._ended or not self._hits(self._crashes):
            return ""
        kind = self._draws.pick((CRASH_BEFORE, CRASH_AFTER))
        self.counts[kind] += 1
        return kind

    def choose(self, verb: str, keys: Sequence[str]) -> On | None:
        """Return the fault that hits this request, if any. Called once per request."""
        if self._ended:
            return None
        fault = self._all_over() or self._single(verb, keys)
        if fault is None:
            return None
        if isinstance(fault, DAMAGES):
            self.damaged.add(self.actor)
        known: Verb = next(one for one in _ALL if one == verb)
        key = self._draws.pick(keys) if verb == "delete_many" and keys and self._draws.below(2) else ""
        return On(known, key, fault)

    def _all_over(self) -> Fault | None:
        """Return what is wrong with everything for a while: a storm, or this actor's credentials."""
        if self._hits(self._rate / ALL_OVER):
            self._storm_left = STORM_REQUESTS
        if self._hits(self._rate / ALL_OVER):
            self._expired[self.actor] = EXPIRED_REQUESTS
        if self._storm_left:
            self._storm_left -= 1
            if self._draws.below(2):
                self.counts[STORM] += 1
                return SLOW_DOWN
        if self._expired.get(self.actor, 0):
            self._expired[self.actor] -= 1
            self.counts[EXPIRED] += 1
            return Deny()
        return None

    def _single(self, verb: str, keys: Sequence[str]) -> Fault | None:
        if not self._hits(self._rate * (WRITES_MORE if verb in _WRITES else 1)):
            return None
        to_head = any(key.startswith(self._heads) for key in keys)
        name = self._draws.pick([name for name, kind in KINDS.items() if kind.fits(verb, to_head=to_head)])
        self.counts[name] += 1
        return KINDS[name].make(self._draws)

    def _hits(self, probability: float) -> bool:
        return probability > 0 and self._draws.random() < probability
