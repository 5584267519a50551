"""Copying what lies beside a session: record, metadata, usage log, realtime session. Never turns and leases.

copied = copy_satellites(source, here, "s1", "s1")
differences = list(compare_satellites(source, here, "s1", "s1"))
retire_satellites(source, "s1", "s3://bucket/new")
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

from snapshots.environment import Environment
from snapshots.maintenance.copy.satellites.comparison import Difference, DifferenceKind, compare_satellites
from snapshots.maintenance.copy.satellites.outcome import KINDS, KindCopied, SatelliteKind, SatellitesCopied
from snapshots.maintenance.copy.satellites.realtime import copy_realtime
from snapshots.maintenance.copy.satellites.registers import METADATA_COPY, RECORD_COPY, copy_register
from snapshots.maintenance.copy.satellites.retirement import (
    check_retirable,
    check_returns,
    retire_satellites,
    take_back_satellites,
)
from snapshots.maintenance.copy.satellites.usage import copy_usage

__all__ = [
    "KINDS",
    "Difference",
    "DifferenceKind",
    "KindCopied",
    "SatelliteKind",
    "SatellitesCopied",
    "check_retirable",
    "check_returns",
    "compare_satellites",
    "copy_satellites",
    "retire_satellites",
    "take_back_satellites",
]

_COPIES: Mapping[SatelliteKind, Callable[[Environment, Environment, str, str], KindCopied]] = {
    "record": partial(copy_register, RECORD_COPY),
    "metadata": partial(copy_register, METADATA_COPY),
    "usage": copy_usage,
    "realtime": copy_realtime,
}


def copy_satellites(
    source: Environment,
    here: Environment,
    session_id: str,
    target_id: str,
    kinds: Sequence[SatelliteKind] = KINDS,
) -> SatellitesCopied:
    """Copy what lies beside a session, or what is new of it, one kind after the other. The source is only read.

    Interrupted at any request it leaves correct satellites here; whoever repeats it goes on. What was left behind by a
    session that was moved is copied like any other.

    Args:
        source: From where.
        here: To where; its tenant may be another one.
        session_id: Of which session there.
        target_id: Of which session here.
        kinds: What of it.

    Raises:
        CopyConflictError: What stands here moved on by itself; `what` names it. It was not changed. Kinds before it
            were copied.
        SessionDeletedError: The source went while it was copied.
        CorruptSnapshotError, UnsupportedSchemaError: Something cannot be read, there or here.
        LimitExceededError: With the new ids it would be too large.
        UnavailableError: A store did not answer; repeat it.
    """
    copied = tuple(_COPIES[kind](source, here, session_id, target_id) for kind in kinds)
    return SatellitesCopied(session_id, target_id, copied)
