"""What becomes of a frame that cannot be sent during a restart. Pure.

Rules:
1. While the queue has room, the frame is queued ("gate"). What follows is for a full queue: of as many frames as its
   capacity, or of QUEUE_BYTES_MAX bytes with this one.
2. "gate" goes on queueing, up to QUEUE_FRAMES_MAX and QUEUE_BYTES_MAX. "block" asks the caller to come again, and
   queues nothing.
3. "drop_noncritical" drops the frame; for a critical one the oldest frame in the queue that is not makes room, if that
   is enough.
4. "summarize" puts one frame in the place of all that are queued and this one: with all their content references, their
   summaries one after the other, and the most careful of their classes.
5. "fail_send" refuses the frame; so does every policy that cannot do what it says.

    decision = hold_back(frame, progress.queue, 32, RealtimeBackpressureAction.SUMMARIZE, summary_id)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from snapshots.realtime.progress import KeptFrame, frame_bytes
from snapshots.realtime.values import (
    QUEUE_FRAMES_MAX,
    RealtimeBackpressureAction,
    RealtimeFrame,
    RealtimeFrameId,
    RealtimeMediaKind,
)

QUEUE_BYTES_MAX = 16 << 20  # of references and summaries: every host and reader holds the queue in memory
_A = RealtimeBackpressureAction


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a frame.

    Attributes:
        action: What is done.
        queued: Whether it enters the queue, itself or in `summary`.
        takes: Numbers of those that leave the queue for it.
        dropped_count: Frames that are given up.
        summary: What enters the queue in its place.
    """

    action: RealtimeBackpressureAction
    queued: bool = False
    takes: tuple[int, ...] = ()
    dropped_count: int = 0
    summary: RealtimeFrame | None = None


def hold_back(
    frame: RealtimeFrame,
    queue: Sequence[KeptFrame],
    capacity: int,
    policy: RealtimeBackpressureAction,
    summary_id: RealtimeFrameId,
) -> Decision:
    """Return what becomes of `frame`.

    Args:
        frame: Held back.
        queue: What is held back already, oldest first.
        capacity: Frames that the queue takes before `policy` decides.
        policy: What to do with a full queue.
        summary_id: Id for a summary, if one is made.
    """
    if len(queue) < room_of(capacity, policy) and _fits(frame, queue):
        return Decision(_A.GATE, queued=True)
    if policy is _A.BLOCK:
        return Decision(_A.BLOCK)
    if policy is _A.DROP_NONCRITICAL:
        return _dropping(frame, queue)
    if policy is _A.SUMMARIZE:
        summary = summary_of([*(kept.frame for kept in queue), frame], summary_id)
        return Decision(_A.SUMMARIZE, queued=True, takes=tuple(kept.sequence for kept in queue), summary=summary)
    return Decision(_A.FAIL_SEND)


def room_of(capacity: int, policy: RealtimeBackpressureAction) -> int:
    """Return how many frames are queued before `policy` decides."""
    return QUEUE_FRAMES_MAX if policy is _A.GATE else min(capacity, QUEUE_FRAMES_MAX)


def _fits(frame: RealtimeFrame, queue: Sequence[KeptFrame]) -> bool:
    return sum(kept.size for kept in queue) + frame_bytes(frame) <= QUEUE_BYTES_MAX


def _dropping(frame: RealtimeFrame, queue: Sequence[KeptFrame]) -> Decision:
    if not frame.critical:
        return Decision(_A.DROP_NONCRITICAL, dropped_count=1)
    oldest = next((kept for kept in queue if not kept.frame.critical), None)
    if oldest is None or not _fits(frame, [kept for kept in queue if kept is not oldest]):
        return Decision(_A.FAIL_SEND)
    return Decision(_A.DROP_NONCRITICAL, queued=True, takes=(oldest.sequence,), dropped_count=1)


def summary_of(frames: Sequence[RealtimeFrame], frame_id: RealtimeFrameId) -> RealtimeFrame:
    """Return one frame that stands for all of `frames`, of which there is at least one."""
    kinds = {frame.media_kind for frame in frames}
    refs = dict.fromkeys(ref for frame in frames for ref in frame.content_refs)
    return RealtimeFrame(
        frame_id=frame_id,
        media_kind=kinds.pop() if len(kinds) == 1 else RealtimeMediaKind.TRANSCRIPT,
        content_refs=tuple(refs),
        redacted_summary="; ".join(frame.redacted_summary for frame in frames if frame.redacted_summary),
        privacy=max((frame.privacy for frame in frames), key=lambda privacy: privacy.rank),
        retention=max((frame.retention for frame in frames), key=lambda retention: retention.rank),
        critical=any(frame.critical for frame in frames),
    )
