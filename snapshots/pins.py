"""Pins: names for revisions, which retention keeps. Pure.

Rules:
1. A name is 1-64 of `a-z 0-9 . _ -` with at least one letter, so that it is never mistaken for a number.
2. A session has at most PINS_MAX pins; a name stands for one revision until it is removed.
3. An expired pin names nothing any more, but what it named stays until a prune removes the pin: no clock decides what
   is deleted.

    find_pin(head.pins, "before-refactoring", now).revision
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from snapshots.errors import InvalidStateError
from snapshots.fields import columns, instant, is_whole, micros

PINS_MAX = 64  # they stand in the head, which is read by everyone
_NAME = re.compile(r"(?=.*[a-z])[a-z0-9._-]{1,64}")


@dataclass(frozen=True, slots=True)
class Pin:
    """A name for a revision.

    Attributes:
        name: Rule 1.
        revision: What it names.
        expires_at: When it ceases to, None for never.
    """

    name: str
    revision: int
    expires_at: datetime | None = None

    def expired(self, now: datetime) -> bool:
        """Say whether the pin names nothing any more."""
        return self.expires_at is not None and self.expires_at <= now

    def to_plain(self) -> list[Any]:
        """Return `[name, revision, expiry or null]`."""
        return [self.name, self.revision, None if self.expires_at is None else micros(self.expires_at)]


def pin_from_plain(plain: Any) -> Pin:
    """Return the pin that `to_plain` wrote. Raises ValueError, TypeError."""
    name, revision, expires = columns(plain, 3)
    if not is_pin_name(name) or not is_whole(revision, 1):
        raise ValueError("not a pin")
    return Pin(name, revision, None if expires is None else instant(expires))


def is_pin_name(name: Any) -> bool:
    """Say whether `name` can be the name of a pin."""
    return isinstance(name, str) and _NAME.fullmatch(name) is not None


def check_pin_name(name: str) -> str:
    """Return `name` if it can be the name of a pin. Raises InvalidStateError."""
    if not is_pin_name(name):
        raise InvalidStateError(
            f"{name!r:.80} is no name for a pin; use 1-64 of a-z, 0-9, dot, dash, underscore with at least one letter"
        )
    return name


def find_pin(pins: Sequence[Pin], name: str) -> Pin | None:
    """Return the pin of that name, expired or not; None if there is none."""
    return next((pin for pin in pins if pin.name == name), None)
