"""Upgrades: what a record of an earlier schema version is in a later one. One file for each step. Pure.

Rules:
1. A step takes a decoded record of one version and returns that of the next; it changes nothing but the format.
2. Only records that a store's version governs have steps: the store object and heads.
3. Steps are never changed after their release: stores of every version lie somewhere.

    plain = upgraded("head", plain)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from snapshots.errors import UnsupportedSchemaError
from snapshots.fields import NEWEST_VERSION, STORE_VERSIONS
from snapshots.upgrades import v1_to_v2

Step = Callable[[Mapping[str, Any]], dict[str, Any]]

STEPS: Mapping[int, Mapping[str, Step]] = {1: v1_to_v2.STEPS}
"""By the version that a step begins with, and the record."""


def upgraded(record: str, plain: Mapping[str, Any], *, to: int = NEWEST_VERSION) -> dict[str, Any]:
    """Return a decoded record in a later schema version, step by step.

    Args:
        record: "store" or "head".
        plain: As it was decoded; not changed.
        to: The version wanted; one that it has already changes nothing.

    Raises:
        UnsupportedSchemaError: It is of a version that this software does not know, or of one above `to`.
    """
    found = plain.get("schema_version")
    known = [version for version in STORE_VERSIONS if version <= to]
    if type(found) is not int or found not in known:
        raise UnsupportedSchemaError(record, found=found, supported=known)
    result = dict(plain)
    while result["schema_version"] != to:
        result = STEPS[result["schema_version"]][record](result)
    return result
