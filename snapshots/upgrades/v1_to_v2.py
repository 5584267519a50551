"""From schema version 1 to 2: a reserved head may name staged packs. What was written in 1 names none. Pure.

head = STEPS["head"](head)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any


def store(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return the store object: nothing but its version changes."""
    return {**plain, "schema_version": 2}


def head(plain: Mapping[str, Any]) -> dict[str, Any]:
    """Return a head: its list of staged packs is there already, and empty."""
    return {**plain, "schema_version": 2}


STEPS: Mapping[str, Callable[[Mapping[str, Any]], dict[str, Any]]] = {"store": store, "head": head}
