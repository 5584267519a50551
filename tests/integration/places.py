"""Where an owner is held up while another host takes its session over: on the wire, or by stopping its process.

hold = PLACES[0].hold(proxies)
hold.arm(first)
first.tell("turn", "turn-1")
hold.wait()
answer = hold.ask(second, "acquire")
hold.resume()
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, Literal, Protocol

from storage.testing.draws import Draws
from tests.integration.hosts import Host, NoAnswerError, spin
from tests.integration.owner import ANSWER, SAVES
from tests.integration.pauses import Pause, PausingProxy
from tests.proxy import Action, Answer, DropAnswer, DropBefore, Hold

HEADS, PACKS, TURNS = "/heads/", "/packs/", "/turns/"
LOCK_SECONDS = 2.0  # after which whoever waits is taken to wait for a lock that the stopped process has
MOMENT_SECONDS_MAX = 0.08  # a turn on a local disk takes some 50 ms

Fate = Literal["landed", "not landed", "save refused", "open"]
"""Of what was held up: whether its commit stands, or that it was refused before it got to a commit."""


class Held(Protocol):
    """One owner held up in one turn."""

    def arm(self, first: Host) -> None:
        """Prepare it, before the owner is told to take its turn."""

    def wait(self) -> None:
        """Wait until the owner is held up."""

    def take_over(self, second: Host, look: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Let another host acquire; return what `look` saw at the last moment before, and what that host found."""

    def ask(self, second: Host, verb: str, *arguments: object) -> dict[str, Any]:
        """Ask the other host for something while the first is held up."""

    def resume(self) -> None:
        """Let the owner go on."""


@dataclass(frozen=True, slots=True)
class Change:
    """One change of owner: how the former one is held up, and what must come of it.

    Attributes:
        name: Of the place, for people.
        held: How.
        fate: Of what was held up.
        doubts: Whether the former owner is at first told that nobody knows.
    """

    name: str
    held: Held
    fate: Fate
    doubts: bool = False


# On the wire.


@dataclass(frozen=True, slots=True)
class WirePlace:
    """A PUT on its way to the server.

    Attributes:
        name: For people.
        part: Which PUT.
        waits: What waits until after the take-over: the PUT, its answer, or the read that follows a lost answer.
        fate: Of the PUT.
        action: What is done to the PUT, None to pass it on.
        delivered: When a PUT that was held back arrives: amid the take-over or after it.
        unread: Whether that read fails, so that the owner can only say that it does not know.
    """

    name: str
    part: str
    waits: Literal["put", "answer", "read"]
    fate: Fate
    action: Action | None = None
    delivered: Literal["never", "amid", "after"] = "never"
    unread: bool = False


WIRE_PLACES = (
    WirePlace("before the pack", PACKS, "put", "not landed"),
    WirePlace("between pack and head", PACKS, "answer", "not landed"),
    WirePlace("before the head", HEADS, "put", "not landed"),
    WirePlace("head held back, delivered too late", HEADS, "read", "not landed", Hold(), "after"),
    WirePlace("head held back, delivered amid the take-over", HEADS, "read", "landed", Hold(), "amid"),
    WirePlace("answer to the head held back", HEADS, "answer", "landed"),
    WirePlace("answer to the head lost", HEADS, "read", "landed", DropAnswer()),
    WirePlace("head lost, in doubt", HEADS, "read", "not landed", DropBefore(), unread=True),
    WirePlace("answer to the head lost, in doubt", HEADS, "read", "landed", DropAnswer(), unread=True),
    WirePlace("head delivered too late, in doubt", HEADS, "read", "not landed", Hold(), "after", unread=True),
    WirePlace("before a save", TURNS, "put", "save refused"),
    WirePlace("answer to a save held back", TURNS, "answer", "save refused"),
    WirePlace("answer to a save lost", TURNS, "read", "save refused", DropAnswer()),
    WirePlace("save held back, delivered too late", TURNS, "read", "save refused", Hold(), "after"),
    WirePlace("save held back, delivered amid the take-over", TURNS, "read", "save refused", Hold(), "amid"),
)


class OnTheWire:
    """Held up at a place of the wire; each host has a proxy of its own, by name."""

    def __init__(self, place: WirePlace, proxies: Mapping[str, PausingProxy], draws: Draws) -> None:
        self._place = place
        self._proxies = proxies
        # Not the last save: after one that is confirmed another one must follow, to be refused.
        self._nth = 1 + draws.below(SAVES - 1) if place.part == TURNS else 1

    def arm(self, first: Host) -> None:
        place = self._place
        self._proxy = self._proxies[first.name]
        if place.action is not None:
            self._proxy.on("PUT", place.part, action=place.action, nth=self._nth)
        if place.unread:
            self._proxy.on("GET", place.part, action=Answer(403, "AccessDenied", forward=True))
        self._pause = self._made(place)

    def _made(self, place: WirePlace) -> Pause:
        if place.waits == "read":
            return self._proxy.pause("GET", place.part, when="before")
        return self._proxy.pause("PUT", place.part, nth=self._nth, when="before" if place.waits == "put" else "after")

    def wait(self) -> None:
        self._pause.wait()

    def take_over(self, second: Host, look: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        if self._place.delivered == "amid":
            return self._amid(second, look)
        left, found = look(), second.ask("acquire")
        if self._place.delivered == "after":
            assert self._proxy.release() == [412]
        return left, found

    def _amid(self, second: Host, look: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        """Deliver what was held back when the other host has read what it replaces, before it writes."""
        theirs = self._proxies[second.name].pause("PUT", self._place.part, when="before")
        second.tell("acquire")
        theirs.wait()
        assert self._proxy.release() == [200]
        left = look()
        theirs.go()
        return left, second.answer()

    def ask(self, second: Host, verb: str, *arguments: object) -> dict[str, Any]:
        return second.ask(verb, *arguments)

    def resume(self) -> None:
        self._pause.go()


def on_the_wire(count: int, proxies: Mapping[str, PausingProxy], draws: Draws) -> Iterator[Change]:
    """Yield so many changes, at one place after the other."""
    for place in islice(cycle(WIRE_PLACES), count):
        yield Change(place.name, OnTheWire(place, proxies, draws), place.fate, place.unread)


# By stopping the process.


@dataclass(frozen=True, slots=True)
class StopPlace:
    """A moment of a process: before a PUT of a key with `part`, before it tells its answer, or "" for any."""

    name: str
    part: str
    fate: Fate


STOP_PLACES = (
    StopPlace("before the pack", PACKS, "not landed"),
    StopPlace("between pack and head", HEADS, "not landed"),
    StopPlace("before the answer", ANSWER, "landed"),
    StopPlace("before a save", TURNS, "save refused"),
    StopPlace("at any moment", "", "open"),
)


class Stopped:
    """Held up by SIGSTOP until SIGCONT."""

    def __init__(self, place: StopPlace, draws: Draws) -> None:
        self._place = place
        self._nth = 1 + draws.below(SAVES - 1) if place.part == TURNS else 1
        self._seconds = draws.random() * MOMENT_SECONDS_MAX
        self._stands = False

    def arm(self, first: Host) -> None:
        self._first = first
        if self._place.part:
            first.ask("stop_at", self._place.part, self._nth)

    def wait(self) -> None:
        if self._place.part:
            assert self._first.answer() == {"held": True}
            self._first.await_stopped()
        else:
            spin(self._seconds)
            self._first.stop()
        self._stands = True

    def take_over(self, second: Host, look: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], dict[str, Any]]:
        left, found = look(), self.ask(second, "acquire")
        if self._stands:
            return left, found
        return {name: found[name] for name in left}, found  # it went on meanwhile, and so did its turn

    def ask(self, second: Host, verb: str, *arguments: object) -> dict[str, Any]:
        """Ask; a process that was stopped while it had the lock of a key goes on when somebody waits for it."""
        second.tell(verb, *arguments)
        if not self._place.part and self._stands:
            try:
                return second.answer(seconds=LOCK_SECONDS)
            except NoAnswerError:
                self.resume()
        return second.answer()

    def resume(self) -> None:
        self._stands = False
        self._first.go_on()


def stopped(count: int, draws: Draws) -> Iterator[Change]:
    """Yield so many changes, at one place after the other."""
    for place in islice(cycle(STOP_PLACES), count):
        yield Change(place.name, Stopped(place, draws), place.fate)
