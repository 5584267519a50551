"""Ids for new nodes: named after what the node holds. Pure but for the ids it is given.

Rules:
1. A message's node has the message's id; if that is taken, `message:<id>`, then `message:<id>:2`, `:3`, …
2. A tool call's node is `tool:<stable key>`; if that is taken, `tool:<stable key>:<fresh id>`.
3. Nodes of modes and plugins are `mode:<fresh id>` and `plugin:<fresh id>`.

    message_node_id("m1", taken={"m1"}) == "message:m1"
"""

from __future__ import annotations

from collections.abc import Callable, Container
from itertools import count


def message_node_id(message_id: str, taken: Container[str]) -> str:
    """Return the id for the node of this message."""
    if message_id not in taken:
        return message_id
    base = f"message:{message_id}"
    if base not in taken:
        return base
    return next(node_id for number in count(2) if (node_id := f"{base}:{number}") not in taken)


def tool_node_id(stable_key: str, taken: Container[str], new_id: Callable[[], str]) -> str:
    """Return the id for the node of this tool call."""
    base = f"tool:{stable_key}"
    return base if base not in taken else f"{base}:{new_id()}"
