"""Rewriting a head without a new revision: pin, fence, holder, epoch, tombstone. One compare-and-swap, decided anew.

Rules:
1. The change is made to the head just read, again and again until it is in; what others wrote meanwhile stays.
2. A write whose answer was lost is recognised by its write id, or by the change finding nothing left to do.

    read = rewrite_head(environment, read_live_head(environment, "s1"), lambda head: replace(head, pins=…))
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from snapshots.environment import Environment
from snapshots.head import HEAD_BYTES_MAX, Head
from snapshots.reading import HeadRead, read_live_head
from storage.clock import backoff_seconds
from storage.errors import Applied, PreconditionFailedError, UnavailableError

ATTEMPTS_MAX = 8

Change = Callable[[Head], Head | None]
"""Returns the changed head, None if there is nothing left to do. The write id is the rewriter's business."""


def rewrite_head(
    environment: Environment, read: HeadRead, change: Change, *, limit_bytes: int = HEAD_BYTES_MAX
) -> HeadRead:
    """Change a live head; return it as it is now stored.

    Args:
        environment: Where.
        read: The head as last read.
        change: What to change; may raise to refuse, then nothing is written any more.
        limit_bytes: How large the head may be afterwards.

    Raises:
        SessionDeletedError, SessionMovedError: Meanwhile.
        LimitExceededError: The head would be too large; nothing was written.
        UnavailableError: Nothing was confirmed; `applied` says whether it may have landed. Repeating is safe.
    """
    session_id = read.head.session_id
    register = environment.register(session_id)
    in_doubt = False  # whether a write of ours may have landed, or may yet
    for attempt in range(1, ATTEMPTS_MAX + 1):
        write_id = environment.clock.new_id()
        changed = change(read.head)
        if changed is None:
            return read
        head = replace(changed, write_id=write_id)
        late = in_doubt
        try:
            return HeadRead(head, register.swap_once(read.version, head.encode(limit_bytes=limit_bytes)))
        except PreconditionFailedError:
            in_doubt = True  # until the head is read: a repeated delivery of our own PUT looks the same
        except UnavailableError as error:
            in_doubt = late = late or error.applied == "unknown"
        environment.clock.sleep(backoff_seconds(attempt, environment.clock))
        try:
            read = read_live_head(environment, session_id)
        except UnavailableError:
            continue  # the same condition again: it can only be met while nothing landed
        if read.head.write_id == write_id:
            return read
        in_doubt = late
    applied: Applied = "unknown" if in_doubt else "no"
    raise UnavailableError(register.key, "no write of the head was confirmed; repeat it", applied=applied)
