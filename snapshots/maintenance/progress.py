"""`Progress`: what long work tells while it goes on.

collect.execute(plan, progress=lambda what, done, total: print(what, done, total))
"""

from __future__ import annotations

from collections.abc import Callable

Progress = Callable[[str, int, int], None]
"""Told what is done, how much of it, and of how much; the last is 0 where that is not known."""


def quiet(_what: str, _done: int, _total: int) -> None:
    """Tell nobody."""
