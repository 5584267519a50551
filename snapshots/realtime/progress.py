"""`RealtimeProgress`: what the log of a realtime session has come to, record by record. Pure.

Rules:
1. The next record has the next number and is allowed by `snapshots.realtime.transitions`; any other is refused.
2. A frame that is held back stays in the queue until a record takes it out: it is sent, dropped or summarised.
3. A frame whose sending was requested is in doubt until that request is answered, or repeated.
4. At most one request for output is open; a frame answers it, or it ends with its connection.

    progress = progress.after(record)
    record = progress.next(RealtimeRecordKind.INTERRUPTED, now)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any

from snapshots.errors import CorruptSnapshotError, InvalidStateError, LimitExceededError
from snapshots.fields import Fields, is_whole
from snapshots.realtime.transitions import RESTARTS_MAX, check_record, moved
from snapshots.realtime.values import (
    QUEUE_FRAMES_MAX,
    RealtimeCloseReason,
    RealtimeFrame,
    RealtimeFrameId,
    RealtimeRecordKind,
    RealtimeSessionRecord,
    RealtimeSessionState,
    RealtimeSessionStatus,
    checked_timestamp,
)
from snapshots.state.values import U64_MAX, rfc3339
from storage.keys import check_id

_K = RealtimeRecordKind
FRAME_BYTES = 512  # of a frame that says nothing
IN_DOUBT_MAX = 256  # requests; of those before them the log alone tells


@dataclass(frozen=True, slots=True)
class KeptFrame:
    """A frame, and the number of the record that keeps it.

    Attributes:
        sequence: That number.
        frame: The frame.
        size: About as many bytes as it has, stored.
    """

    sequence: int
    frame: RealtimeFrame
    size: int = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", frame_bytes(self.frame))


def frame_bytes(frame: RealtimeFrame) -> int:
    """Return about how many bytes a frame has, stored: its references, its summary, and little else."""
    return FRAME_BYTES + sum(len(text.encode()) for text in (*frame.content_refs, frame.redacted_summary))


@dataclass(frozen=True, slots=True)
class RealtimeProgress:
    """What a log has come to.

    Attributes:
        session_id: Whose log.
        sequence: Number of its last record, 0 before the first.
        state: After that.
        recorded_at: When that was; not before any earlier record, whatever the clocks of the hosts say.
        run_id: The run that the session serves, "" for none.
        agent_id: The agent, likewise.
        queue: Frames that are held back, oldest first.
        in_doubt: Frames that may have been sent, or not, oldest first.
        open_output: Number of the request for output that nothing has answered yet, 0 for none.
    """

    session_id: str
    sequence: int
    state: RealtimeSessionState
    recorded_at: str
    run_id: str = ""
    agent_id: str = ""
    queue: tuple[KeptFrame, ...] = ()
    in_doubt: tuple[KeptFrame, ...] = ()
    open_output: int = 0

    @property
    def status(self) -> RealtimeSessionStatus:
        """Return where the session is in its life."""
        return self.state.lifecycle_status

    def next(
        self,
        kind: RealtimeRecordKind,
        now: datetime,
        *,
        state: RealtimeSessionState | None = None,
        reason: RealtimeCloseReason | None = None,
        **facts: Any,
    ) -> RealtimeSessionRecord:
        """Return the next record.

        Args:
            kind: What happens.
            now: When. A clock that goes back is not followed: the record has the instant of the one before it.
            state: After it, where that is not what `kind` alone makes of the present one.
            reason: Why the connection ends.
            facts: Further fields of the record.

        Raises:
            IllegalTransitionError, InvalidStateError: It may not come now.
            LimitExceededError: Something cannot be counted any further.
        """
        if self.sequence == U64_MAX:
            raise LimitExceededError(f"realtime log of {U64_MAX} records", U64_MAX + 1)
        record = RealtimeSessionRecord(
            sequence=self.sequence + 1,
            kind=kind,
            state=moved(kind, self.state, reason) if state is None else state,
            recorded_at=max(self.recorded_at, rfc3339(now)),
            run_id=self.run_id or None,
            agent_id=self.agent_id or None,
            close_reason=reason,
            **facts,
        )
        self.after(record)
        return record

    def after(self, record: RealtimeSessionRecord) -> RealtimeProgress:
        """Return what it comes to with one record more.

        Raises:
            IllegalTransitionError, InvalidStateError: The record may not come now.
        """
        if record.sequence != self.sequence + 1:
            raise InvalidStateError(f"record {record.sequence} does not follow on record {self.sequence}")
        if record.state.session_id != self.state.session_id:
            raise InvalidStateError("the record is of another realtime session")
        if self.sequence == 0:
            self._check_first(record)
        else:
            check_record(self.session_id, record.kind, self.state, record.state, record.close_reason)
        queue = self._queue_after(record)
        if record.state.backpressure_state.queued_frames != len(queue):
            raise InvalidStateError(f"{len(queue)} frames are queued, the state counts others")
        return replace(
            self,
            sequence=record.sequence,
            state=record.state,
            recorded_at=record.recorded_at,
            run_id=record.run_id or "",
            agent_id=record.agent_id or "",
            queue=queue,
            in_doubt=self._in_doubt_after(record),
            open_output=self._open_output_after(record),
        )

    def _check_first(self, record: RealtimeSessionRecord) -> None:
        if record.kind is not _K.CONNECT_REQUESTED or record.state.lifecycle_status != RealtimeSessionStatus.CONNECTING:
            raise InvalidStateError(f"a realtime session begins by connecting, not with {record.kind.value}")

    def _queue_after(self, record: RealtimeSessionRecord) -> tuple[KeptFrame, ...]:
        taken = set(record.takes)
        if not taken <= {kept.sequence for kept in self.queue} or len(taken) != len(record.takes):
            raise InvalidStateError("the record takes something out of the queue that is not in it")
        rest = tuple(kept for kept in self.queue if kept.sequence not in taken)
        frame = record.queued_frame
        queue = rest if frame is None else (*rest, KeptFrame(record.sequence, frame))
        if len(queue) > QUEUE_FRAMES_MAX:
            raise InvalidStateError(f"over {QUEUE_FRAMES_MAX} frames are queued")
        return queue

    def _in_doubt_after(self, record: RealtimeSessionRecord) -> tuple[KeptFrame, ...]:
        settled = record.repeats if record.kind is _K.INPUT_SEND_REQUESTED else record.answers
        if record.kind is _K.OUTPUT_RECEIVED or settled is None:
            rest = self.in_doubt
        else:
            ids = {kept.sequence: kept.frame.frame_id for kept in self.in_doubt}
            if ids.get(settled) != record.frame_id:
                raise InvalidStateError(f"no sending of this frame was requested by record {settled}")
            rest = tuple(kept for kept in self.in_doubt if kept.sequence != settled)
        if record.kind is not _K.INPUT_SEND_REQUESTED:
            return rest
        assert record.frame is not None, "such a record keeps its frame"
        return (*rest, KeptFrame(record.sequence, record.frame))[-IN_DOUBT_MAX:]

    def _open_output_after(self, record: RealtimeSessionRecord) -> int:
        if record.kind is _K.OUTPUT_RECEIVE_REQUESTED:
            if self.open_output:
                raise InvalidStateError(f"record {self.open_output} asks for output already")
            return record.sequence
        if record.kind is _K.OUTPUT_RECEIVED and record.answers != self.open_output:
            raise InvalidStateError(f"record {record.answers} asks for no output")
        ends = record.kind in (_K.OUTPUT_RECEIVED, _K.RESTART_REQUESTED, _K.CLOSED)
        return 0 if ends else self.open_output

    def request_in_doubt(self, frame_id: RealtimeFrameId) -> int | None:
        """Return the number of the last request to send this frame that is in doubt, None if none is."""
        numbers = [kept.sequence for kept in self.in_doubt if kept.frame.frame_id == frame_id]
        return numbers[-1] if numbers else None


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A `RealtimeProgress` without its frames, which are in the records that it names.

    Attributes:
        progress: Queue and doubts left out.
        queue: Numbers of the records whose frames are held back.
        in_doubt: Numbers of the requests that are in doubt.
        claim: The restart that a host has announced; who is behind it writes no checkpoint any more. 0 for none.
    """

    progress: RealtimeProgress
    queue: tuple[int, ...]
    in_doubt: tuple[int, ...]
    claim: int = 0

    @classmethod
    def of(cls, progress: RealtimeProgress) -> Checkpoint:
        """Return what is stored of a progress."""
        return cls(
            replace(progress, queue=(), in_doubt=()),
            tuple(kept.sequence for kept in progress.queue),
            tuple(kept.sequence for kept in progress.in_doubt),
        )

    @property
    def sequence(self) -> int:
        """Return the number of the last record that it covers."""
        return self.progress.sequence

    @property
    def kept(self) -> tuple[int, ...]:
        """Return the numbers of the records that `filled` needs."""
        return tuple(sorted({*self.queue, *self.in_doubt}))

    def filled(self, records: Mapping[int, RealtimeSessionRecord]) -> RealtimeProgress:
        """Return the progress, its frames taken from `records`. Raises InvalidStateError if they are not there."""
        queue = tuple(_kept(number, records[number].queued_frame) for number in self.queue)
        in_doubt = tuple(_kept(number, records[number].frame) for number in self.in_doubt)
        return replace(self.progress, queue=queue, in_doubt=in_doubt)


def _kept(sequence: int, frame: RealtimeFrame | None) -> KeptFrame:
    if frame is None:
        raise InvalidStateError(f"record {sequence} keeps no such frame")
    return KeptFrame(sequence, frame)


def checkpoint_to_plain(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return a checkpoint as plain data."""
    progress = checkpoint.progress
    return {
        "sequence": progress.sequence,
        "state": progress.state.model_dump(mode="json"),
        "recorded_at": progress.recorded_at,
        "run_id": progress.run_id,
        "agent_id": progress.agent_id,
        "queue": list(checkpoint.queue),
        "in_doubt": list(checkpoint.in_doubt),
        "open_output": progress.open_output,
        "claim": checkpoint.claim,
    }


def checkpoint_from_plain(plain: Any) -> Checkpoint:
    """Return what `checkpoint_to_plain` was given.

    Raises:
        ValueError: It is none.
        UnsupportedSchemaError: It has a field of a later format.
    """
    try:
        return _checkpoint_of(Fields(plain, key="", record="checkpoint"))
    except CorruptSnapshotError as error:
        raise ValueError(error.reason) from error


def _checkpoint_of(fields: Fields) -> Checkpoint:
    sequence = fields.integer("sequence")

    def number(value: Any) -> int:
        if not is_whole(value, 1, sequence):
            raise ValueError("not the number of a record before it")
        return int(value)

    state = RealtimeSessionState.model_validate(fields.value("state"))
    progress = RealtimeProgress(
        session_id=state.session_id.value,
        sequence=sequence,
        state=state,
        recorded_at=checked_timestamp(fields.text("recorded_at")),
        run_id=_id_or_none(fields.text("run_id")),
        agent_id=_id_or_none(fields.text("agent_id")),
        open_output=fields.integer("open_output", 0, sequence),
    )
    queue = fields.rows("queue", number, QUEUE_FRAMES_MAX)
    in_doubt = fields.rows("in_doubt", number, IN_DOUBT_MAX)
    claim = fields.integer("claim", 0, RESTARTS_MAX)
    fields.nothing_else()
    if any(list(numbers) != sorted(set(numbers)) for numbers in (queue, in_doubt)):
        raise ValueError("numbers of records rise")
    if len(queue) != state.backpressure_state.queued_frames:
        raise ValueError("the state counts other frames than are queued")
    return Checkpoint(progress, queue, in_doubt, claim)


def _id_or_none(text: str) -> str:
    return text and check_id(text)
