"""Ctrl-C while modules are imported: it waits for them.

An interrupt within an import is printed and dropped where it meets a callback of the importer, or comes out as another
error where it meets the making of a class.

Rules:
1. The first Ctrl-C is answered when the block is left, by KeyboardInterrupt; a second one at once.
2. Only Python's own answer to Ctrl-C is put off: who ignores it or handles it otherwise goes on doing so.

with HeldInterrupts():
    import boto3
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType


class HeldInterrupts:
    """Holds Ctrl-C back while the block runs (rules 1 and 2); in other threads than the main one, does nothing."""

    def __init__(self) -> None:
        self._holds = False
        self._pressed = False

    def __enter__(self) -> None:
        if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
            return
        try:
            signal.signal(signal.SIGINT, self._press)
        except ValueError:  # not the main thread, which alone is interrupted
            return
        self._holds = True

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._holds:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        if self._pressed:
            raise KeyboardInterrupt

    def _press(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002  what a handler is given
        self._pressed = True
        signal.signal(signal.SIGINT, signal.default_int_handler)
