"""What `tree` shows: each session as an object of `--json`, or as a line of a tree for people.

Rules:
1. A line names the revision that a session left from; its parent too where that is not the line it stands under. The
   relation of a fork is named unless it is a child of the session that it left; a tombstone has none any more.
2. Trees are LEVELS_MAX levels deep on a screen; deeper sessions stand on the last level and name their parent.

    run.output.tree(levels(tree, now))
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from typing import Any

from snapshots.cli import views
from snapshots.cli.output import human_bytes
from snapshots.forest import SessionTree, TreeSession
from snapshots.head import LIVE, TOMBSTONE
from snapshots.state import ChildRelation, relation_parent

LEVELS_MAX = 8  # of 4 columns each: half a screen of 80 is left for the line itself


def member_view(member: TreeSession, now: datetime) -> dict[str, Any]:
    """Return a session of a tree as `--json` shows it."""
    return {
        "session_id": member.session_id,
        "parent": member.parent or None,
        "depth": member.depth,
        "status": member.status,
        "revision": member.revision,
        "retained": member.retained,
        "created_at": member.created_at,
        "family": member.family,
        "relation": member.relation.model_dump(mode="json"),
        "origin": views.origin_view(member.origin),
        "holder": member.holder or None,
        "pins": [views.pin_row(pin, now) for pin in member.pins],
        "stored_bytes": member.stored_bytes,
        "own_bytes": member.own_bytes,
        "family_bytes": member.family_bytes,
    }


def levels(tree: SessionTree, now: datetime) -> Iterator[tuple[int, str]]:
    """Yield level and line of each session of a tree, as `Output.tree` takes them."""
    families: set[str] = set()
    for member in tree.sessions:
        words = [*_where_from(member), *_what(member)]
        if member.family not in families:
            words.append(f"family {human_bytes(member.family_bytes)}")
            families.add(member.family)
        if member.holder:
            words.append(f"held by {member.holder}")
        if member.pins:
            words.append(f"pins {views.pins_text(views.pin_row(pin, now) for pin in member.pins)}")
        yield min(member.depth, LEVELS_MAX), " · ".join([member.session_id, *words])


def _where_from(member: TreeSession) -> Iterator[str]:
    above = "" if member.depth > LEVELS_MAX else member.parent
    kind, parent = member.relation.kind, relation_parent(member.relation)
    if member.origin is None:
        if parent is not None:
            yield kind if parent == above else f"{kind} of {parent}"
        return
    source = member.origin.session_id
    yield f"from {'' if source == above else source}@{member.origin.revision}"
    if parent not in (None, source):
        yield f"{kind} of {parent}"
    elif member.status != TOMBSTONE and not isinstance(member.relation, ChildRelation):
        yield kind


def _what(member: TreeSession) -> Iterator[str]:
    if member.status == TOMBSTONE:
        yield "deleted"
    elif member.status != LIVE:
        yield member.status
    else:
        dropped = member.revision - member.retained
        yield f"revision {member.revision:,}{f' ({member.retained:,} retained)' if dropped else ''}"
        yield f"packs {human_bytes(member.stored_bytes)}, {human_bytes(member.own_bytes)} own"
