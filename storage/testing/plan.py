"""`FaultPlan`: which requests fail, and how. Pure but for the seed that it prints.

Rules:
1. A plan is rules, asked in order: the first that is due decides; every rule counts the requests that it matches.
2. A random rule follows from the plan's seed, which is printed when the rule is made.

    plan = FaultPlan(seed=7)
    plan.on("put", "heads/", nth=2, fault=LoseAnswer())
    plan.at_random("get", fault=FailBefore(), probability=0.1)
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from storage.errors import Applied
from storage.testing.draws import Draws

Verb = Literal["get", "put", "stat", "list", "delete", "delete_many"]
_VERBS: frozenset[str] = frozenset(get_args(Verb))
_WRITES = frozenset({"put", "delete", "delete_many"})


class Crash(BaseException):
    """The process ended here. Not an `Exception`: code under test must not catch it."""


@dataclass(frozen=True, slots=True)
class FailBefore:
    """The request does not reach the store. With `applied="unknown"`: a 500, 503 or 409 that wrote nothing."""

    applied: Applied = "no"
    reason: str = "injected: the request failed"


@dataclass(frozen=True, slots=True)
class LoseAnswer:
    """The request is carried out, whatever comes of it, and its answer is lost."""


@dataclass(frozen=True, slots=True)
class Delay:
    """The client times out; the write is applied at `release()`, or when `after_requests` more have ended."""

    after_requests: int | None = None


@dataclass(frozen=True, slots=True)
class Repeat:
    """The write is applied and answered, and applied again later, like a packet delivered twice."""

    after_requests: int | None = None


@dataclass(frozen=True, slots=True)
class OwnRetry:
    """The write is applied, then answered with 412: what a client's hidden retry makes of a lost answer."""


@dataclass(frozen=True, slots=True)
class IgnoreCondition:
    """The put is carried out as `Overwrite`: a server that does not know conditions."""


@dataclass(frozen=True, slots=True)
class Missing:
    """`NotFoundError`, whatever is there."""


@dataclass(frozen=True, slots=True)
class Deny:
    """`PermissionDeniedError`: credentials that expired in between."""


@dataclass(frozen=True, slots=True)
class Truncate:
    """A get returns only the first `kept_bytes`, as if the object ended there."""

    kept_bytes: int = 0


@dataclass(frozen=True, slots=True)
class FlipBit:
    """A get returns its bytes with one bit inverted (`bit` modulo the length; nothing happens to empty bytes)."""

    bit: int = 0


@dataclass(frozen=True, slots=True)
class Altered:
    """A get returns what `change` makes of its bytes, as if somebody else had written them."""

    change: Callable[[bytes], bytes]


@dataclass(frozen=True, slots=True)
class CutList:
    """A listing fails after `rows` rows."""

    rows: int = 0


@dataclass(frozen=True, slots=True)
class Meanwhile:
    """Something else happens first (another actor's step), then the request is carried out normally."""

    action: Callable[[], object]


@dataclass(frozen=True, slots=True)
class CrashBefore:
    """`Crash` instead of the request."""


@dataclass(frozen=True, slots=True)
class CrashAfter:
    """`Crash` when the request has been carried out."""


Fault = (
    FailBefore
    | LoseAnswer
    | Delay
    | Repeat
    | OwnRetry
    | IgnoreCondition
    | Missing
    | Deny
    | Truncate
    | FlipBit
    | Altered
    | CutList
    | Meanwhile
    | CrashBefore
    | CrashAfter
)
_ONLY: dict[type, frozenset[str]] = {
    Delay: _WRITES,
    Repeat: _WRITES,
    OwnRetry: frozenset({"put"}),
    IgnoreCondition: frozenset({"put"}),
    Truncate: frozenset({"get"}),
    FlipBit: frozenset({"get"}),
    Altered: frozenset({"get"}),
    CutList: frozenset({"list"}),
}


@dataclass(slots=True)
class On:
    """One rule of a plan.

    Attributes:
        verb: A verb of `ObjectStore`, or "*" for any.
        key_part: Must be contained in the key (in one key of a `delete_many`); empty matches all.
        fault: What happens.
        nth: The first matching request that is hit, from 1.
        times: How many in a row are hit from there; None for all.
        probability: Hit only with this chance, drawn from the plan's seed.
    """

    verb: Verb | Literal["*"]
    key_part: str = ""
    fault: Fault = field(default_factory=FailBefore)
    nth: int = 1
    times: int | None = 1
    probability: float = 1.0
    _seen: int = field(default=0, init=False)

    def __post_init__(self) -> None:
        if not fits(self.fault, self.verb):
            raise ValueError(f"{self.fault} does not happen to {self.verb!r}")
        if self.nth < 1:
            raise ValueError("nth counts from 1")

    def matches(self, verb: str, keys: Sequence[str]) -> bool:
        """Say whether this rule is about such a request."""
        return self.verb in ("*", verb) and any(self.key_part in key for key in keys)

    def due(self) -> bool:
        """Count one matching request; say whether it is to be hit."""
        self._seen += 1
        behind = self._seen - self.nth
        return behind >= 0 and (self.times is None or behind < self.times)


def fits(fault: Fault, verb: str) -> bool:
    """Say whether `fault` can happen to `verb` ("*": to every verb)."""
    return (_VERBS if verb == "*" else {verb}) <= _ONLY.get(type(fault), _VERBS)


class FaultPlan:
    """Which requests fail, and how. One plan serves one `FaultyStore`.

    Args:
        seed: Of the random rules; printed with each, so that a failed run can be repeated.
        rules: The first rules; more with `on` and `at_random`.
    """

    def __init__(self, seed: int = 0, rules: Iterable[On] = ()) -> None:
        self.seed = seed
        self._rules: list[On] = []
        self._draws = Draws(seed)
        self._lock = threading.Lock()
        for rule in rules:
            self._add(rule)

    def on(
        self,
        verb: Verb | Literal["*"],
        key_part: str = "",
        *,
        fault: Fault,
        nth: int = 1,
        times: int | None = 1,
    ) -> FaultPlan:
        """Hit the nth matching request (and the following, `times` in all); return the plan."""
        return self._add(On(verb, key_part, fault, nth, times))

    def at_random(
        self, verb: Verb | Literal["*"], key_part: str = "", *, fault: Fault, probability: float
    ) -> FaultPlan:
        """Hit each matching request with this probability; return the plan."""
        return self._add(On(verb, key_part, fault, times=None, probability=probability))

    def clear(self) -> None:
        """Drop all rules: from now on the store works."""
        with self._lock:
            self._rules.clear()

    def choose(self, verb: str, keys: Sequence[str]) -> On | None:
        """Return the rule that hits this request, if any. Called once per request."""
        with self._lock:
            due = [rule for rule in self._rules if rule.matches(verb, keys) and rule.due()]
            return next((rule for rule in due if self._falls(rule)), None)

    def _falls(self, rule: On) -> bool:
        return rule.probability >= 1.0 or self._draws.random() < rule.probability

    def _add(self, rule: On) -> FaultPlan:
        if rule.probability < 1.0:
            print(f"FaultPlan(seed={self.seed})")  # noqa: T201  shown with a failure: the run can be repeated
        with self._lock:
            self._rules.append(rule)
        return self
