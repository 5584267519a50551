"""Deleting a session: its head becomes a tombstone, by compare-and-swap. No head is ever removed.

Rules:
1. A tombstone keeps epoch, fence and the ring of commit ids, and is final: the id is spent.
2. It names nothing, so the next collection takes what it named before.

    delete(environment, "s1")
"""

from __future__ import annotations

from dataclasses import replace

from snapshots.environment import Environment
from snapshots.errors import SessionDeletedError
from snapshots.head import TOMBSTONE, Head
from snapshots.restore import read_live_head
from storage.clock import backoff_seconds
from storage.errors import Applied, PreconditionFailedError, UnavailableError

TOMBSTONE_BYTES_MAX = 8 << 10  # it stays for ever
ATTEMPTS_MAX = 8


def delete(environment: Environment, session_id: str) -> None:
    """Publish a tombstone; see `SnapshotRepository.delete`."""
    register = environment.register(session_id)
    read = read_live_head(environment, session_id)
    in_doubt = False  # whether a tombstone of ours may have landed, or may yet
    for attempt in range(1, ATTEMPTS_MAX + 1):
        tomb = _tombstone(read.head, environment)
        late = in_doubt
        try:
            register.swap_once(read.version, tomb.encode(limit_bytes=TOMBSTONE_BYTES_MAX))
            return
        except PreconditionFailedError:
            in_doubt = True  # until the head is read: a repeated delivery of our own PUT looks the same
        except UnavailableError as error:
            in_doubt = late = late or error.applied == "unknown"
        environment.clock.sleep(backoff_seconds(attempt, environment.clock))
        try:
            read = read_live_head(environment, session_id)
        except SessionDeletedError:
            return  # by us, or by somebody else: what was asked for is so
        except UnavailableError:
            continue  # the same condition again: it can only be met while nothing landed
        in_doubt = late
    applied: Applied = "unknown" if in_doubt else "no"
    raise UnavailableError(register.key, "no deletion was confirmed; delete again", applied=applied)


def _tombstone(head: Head, environment: Environment) -> Head:
    write_id = environment.clock.new_id()
    return replace(
        head,
        status=TOMBSTONE,
        write_id=write_id,
        state_id=write_id,
        holder=None,
        checkpoint_ref=None,
        manifest=None,
        inline_manifest=b"",
        updated_at=environment.clock.now(),
    )
