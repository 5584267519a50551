"""What may happen to a write on its way: the faults that every conditional write of ours must survive."""

from __future__ import annotations

from storage.testing.faults import Delay, FailBefore, Fault, LoseAnswer, OwnRetry, Repeat

WRITE_FAULTS: tuple[Fault, ...] = (
    FailBefore(applied="no"),
    FailBefore(applied="unknown"),
    LoseAnswer(),
    Delay(),
    Delay(after_requests=1),
    Delay(after_requests=2),
    OwnRetry(),
    Repeat(after_requests=1),
)
