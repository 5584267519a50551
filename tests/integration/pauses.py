"""`PausingProxy`: a `FaultProxy` that can keep a request, or its answer, waiting until told to go on.

Rules:
1. A pause is met once: by the nth request of its kind that is passed on. 2. Everything else goes on meanwhile.
3. What a `Hold` keeps back is not on its way; it meets no pause before `release()`.

    with PausingProxy(endpoint) as proxy:
        pause = proxy.pause("PUT", "/heads/", when="before")
        ...
        pause.wait()
        pause.go()
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal, Self

from tests.proxy import STALL_SECONDS_MAX, FaultProxy, Seen, _Reply

When = Literal["before", "after"]
"""Before the request is passed on, or after: then it is its answer that waits."""


@dataclass(slots=True)
class Pause:
    """A place where one request is held up."""

    method: str
    part: str
    nth: int
    when: When
    _seen: int = 0
    _met: threading.Event = field(default_factory=threading.Event)
    _gone_on: threading.Event = field(default_factory=threading.Event)

    def wait(self) -> None:
        """Wait until a request is held up here."""
        assert self._met.wait(STALL_SECONDS_MAX), f"nothing came to be held up: {self}"

    def go(self) -> None:
        """Let it go on, or pass unhindered if nothing came yet."""
        self._gone_on.set()

    def due(self, request: Seen, when: When) -> bool:
        """Count one request; say whether it is to be held up."""
        if when != self.when or not request.matches(self.method, self.part):
            return False
        self._seen += 1
        return self._seen == self.nth

    def hold_up(self) -> None:
        """Wait until told to go on."""
        self._met.set()
        self._gone_on.wait(STALL_SECONDS_MAX)


class PausingProxy(FaultProxy):
    """A proxy with pauses."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(endpoint)
        self._pauses: list[Pause] = []

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pause in self._pauses:
            pause.go()
        super().__exit__(kind, error, trace)

    def pause(self, method: str, part: str, *, nth: int = 1, when: When) -> Pause:
        """Hold up the nth request from now on of this method whose path and query contain `part`."""
        made = Pause(method, part, nth, when)
        with self._lock:
            self._pauses.append(made)
        return made

    def _forward(self, request: Seen) -> _Reply:
        self._hold_up(request, "before")
        reply = super()._forward(request)
        self._hold_up(request, "after")
        return reply

    def _hold_up(self, request: Seen, when: When) -> None:
        with self._lock:
            due = [pause for pause in self._pauses if pause.due(request, when)]
        for pause in due:
            pause.hold_up()
