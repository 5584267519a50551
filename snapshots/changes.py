"""What changed between two plain JSON values, key by key. Pure.

Rules:
1. A key that is missing and a key that is null are different things; so are 1, 1.0 and true, and 0.0 and -0.0.
2. Objects are compared key by key, lists position by position; anything else changes as a whole.
3. The order of keys means nothing.

    (change,) = changes({"tools": {"a": 1}}, {"tools": {"a": None}})
    change.name, change.before, change.after      # "tools.a", 1, None
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from itertools import zip_longest
from typing import Any, Final

Path = tuple[str | int, ...]
_PLAIN_KEY = re.compile(r'[^\s."\\\[\]]+')  # a key that needs no quotes in a name


class Missing(Enum):
    """What stands in a change where there is no value."""

    MISSING = "missing"


MISSING: Final = Missing.MISSING


@dataclass(frozen=True, slots=True)
class Change:
    """One value that changed.

    Attributes:
        path: Keys of objects and positions in lists, from the root.
        before: The value, `MISSING` for none.
        after: Likewise.
    """

    path: Path
    before: Any
    after: Any

    @property
    def name(self) -> str:
        """Return the path as text: `tools.search.aliases[0]`; a key that could be misread is quoted as in JSON."""
        return "".join(map(_step, self.path)).removeprefix(".")


def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    plain = _PLAIN_KEY.fullmatch(key) and key.isprintable()
    return f".{key}" if plain else f".{json.dumps(key)}"


def changes(before: Any, after: Any) -> tuple[Change, ...]:
    """Return what has to be changed in `before` to make it `after`, sorted by path; nothing if they are equal.

    Args:
        before: A JSON value; nothing in it is copied.
        after: Likewise.
    """
    return tuple(_changes((), before, after))


def _changes(path: Path, before: Any, after: Any) -> Iterator[Change]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _changes((*path, key), before.get(key, MISSING), after.get(key, MISSING))
    elif isinstance(before, list) and isinstance(after, list):
        for index, (old, new) in enumerate(zip_longest(before, after, fillvalue=MISSING)):
            yield from _changes((*path, index), old, new)
    elif not _same(before, after):
        yield Change(path, before, after)


def _same(before: Any, after: Any) -> bool:
    return type(before) is type(after) and before == after and str(before) == str(after)  # by rule 1
