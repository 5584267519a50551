"""The values of a realtime session: ids, cursors, frames, state, records, and what a host configures. Pure.

Rules:
1. An id is 1–512 bytes of text without control characters, checked wherever one is made or read. It prints as
   `Name(redacted)`; its JSON is the plain text.
2. A frame carries references to content, never content, and a summary that its maker has redacted.
3. Cursors have a total order: by chunk, byte, precision, label.
4. A record holds the state after its step. What it does to the queue stands in it: `queued`, `takes`.
5. An error about a value never quotes it.

    state.model_dump(mode="json"); RealtimeSessionState.model_validate(plain)
    RealtimeFrame.outgoing("frame-7", content_refs=["blob:7"])
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Annotated, Any, Self

from pydantic import AfterValidator, ConfigDict, Field, RootModel, TypeAdapter, field_validator, model_validator

from snapshots.errors import LimitExceededError
from snapshots.state.values import (
    U32,
    U64,
    U64_MAX,
    Items,
    Timestamp,
    Value,
    json_text,
    omit_empty,
    omit_false,
    omit_none,
)
from storage.errors import InvalidKeyError
from storage.keys import ID_BYTES_MAX, check_id

POLICY_REFS_MAX = 64  # of one state: every record repeats them
QUEUE_FRAMES_MAX = 4096  # held back at a time, whatever the policy: their numbers stand in one register
SEND_LABEL = "send"
RECEIVE_LABEL = "receive"
GATE_DURING_RESTART = "gate_during_restart"


def _text_id(value: str) -> str:
    try:
        return check_id(value)
    except InvalidKeyError:
        raise ValueError(f"want 1-{ID_BYTES_MAX} bytes of text without control characters") from None


def checked_timestamp(text: str) -> str:
    """Return `text` if it is an instant as records have it. Raises ValueError."""
    return _TIMESTAMP.validate_python(text)


_TIMESTAMP: TypeAdapter[str] = TypeAdapter(Timestamp)
TextId = Annotated[str, Field(strict=True), AfterValidator(_text_id)]


class RealtimeValue(Value):
    """A frozen value that no error quotes."""

    model_config = ConfigDict(hide_input_in_errors=True)


class _RealtimeId(RootModel[TextId]):
    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    @property
    def value(self) -> str:
        """Return the text itself."""
        return self.root

    def __repr__(self) -> str:
        return f"{type(self).__name__}(redacted)"

    __str__ = __repr__

    def __rich_repr__(self) -> Any:
        yield "redacted"


class RealtimeSessionId(_RealtimeId):
    """A realtime session: the id of the session that it belongs to."""


class RealtimeConnectionId(_RealtimeId):
    """One connection of a realtime session; a restart makes another."""


class RealtimeResponseId(_RealtimeId):
    """A response of the provider."""


class RealtimeFrameId(_RealtimeId):
    """A frame, in either direction."""


class StreamCursorPrecision(StrEnum):
    """What a cursor's position is good for, in the order of cursors."""

    BYTE_OFFSET = "byte_offset"
    CHUNK_SEQUENCE_ONLY = "chunk_sequence_only"
    MARKER = "marker"


@functools.total_ordering
class StreamCursor(RealtimeValue):
    """A position in a stream.

    Attributes:
        chunk_sequence: Number of the chunk, from 0.
        byte_offset: Within it.
        precision: Which of the two counts.
        label: What the position is called, if anything.
    """

    chunk_sequence: U64
    byte_offset: U64 = 0
    precision: StreamCursorPrecision = StreamCursorPrecision.CHUNK_SEQUENCE_ONLY
    label: str | None = omit_none()

    @classmethod
    def chunk(cls, chunk_sequence: int) -> Self:
        """Return the cursor of a whole chunk."""
        return cls(chunk_sequence=chunk_sequence)

    @classmethod
    def byte(cls, chunk_sequence: int, byte_offset: int) -> Self:
        """Return the cursor of a byte within a chunk."""
        precision = StreamCursorPrecision.BYTE_OFFSET
        return cls(chunk_sequence=chunk_sequence, byte_offset=byte_offset, precision=precision)

    @classmethod
    def marker(cls, chunk_sequence: int, label: str) -> Self:
        """Return the cursor of a named mark at a chunk."""
        return cls(chunk_sequence=chunk_sequence, precision=StreamCursorPrecision.MARKER, label=label)

    def advanced(self, label: str) -> StreamCursor:
        """Return the cursor of the next chunk. Raises LimitExceededError behind the last that 64 bits can say."""
        if self.chunk_sequence == U64_MAX:
            raise LimitExceededError(f"{label} cursor of {U64_MAX} chunks", U64_MAX + 1)
        return StreamCursor(chunk_sequence=self.chunk_sequence + 1, label=label)

    def __lt__(self, other: object) -> bool:
        if not isinstance(other, StreamCursor):
            return NotImplemented
        return self._order() < other._order()

    def _order(self) -> tuple[int, int, int, bool, str]:
        rank = list(StreamCursorPrecision).index(self.precision)
        return self.chunk_sequence, self.byte_offset, rank, self.label is not None, self.label or ""


class PolicyKind(StrEnum):
    """What a policy governs."""

    APPROVAL = "approval"
    PERMISSION = "permission"
    SANDBOX = "sandbox"
    CONTEXT = "context"
    PRIVACY = "privacy"
    RETENTION = "retention"
    REDACTION = "redaction"
    RUNTIME_PACKAGE = "runtime_package"
    HOST = "host"


class PolicyRef(RealtimeValue):
    """A policy by its id; what it says is its owner's business."""

    kind: PolicyKind
    id: TextId
    version: str | None = omit_none()

    @classmethod
    def new(cls, policy_id: str) -> Self:
        """Return the reference to a policy of the host."""
        return cls(kind=PolicyKind.HOST, id=policy_id)


class RealtimeSessionStatus(StrEnum):
    """Where a realtime session is in its life; `snapshots.realtime.transitions` says what leads where."""

    CONNECTING = "connecting"
    CONNECTED = "connected"
    INPUT_SENT = "input_sent"
    OUTPUT_RECEIVED = "output_received"
    INTERRUPTED = "interrupted"
    RESTART_REQUESTED = "restart_requested"
    RESTART_STARTED = "restart_started"
    RESTART_COMPLETED = "restart_completed"
    RESTART_FAILED = "restart_failed"
    CLOSED = "closed"
    FAILED = "failed"
    DETACHED = "detached"
    BACKPRESSURE_APPLIED = "backpressure_applied"


class RealtimeCloseReason(StrEnum):
    """Why a connection ended."""

    NORMAL = "normal"
    CANCEL = "cancel"
    PROVIDER_FAILURE = "provider_failure"
    POLICY_DENIAL = "policy_denial"
    HOST_OWNED_DETACH = "host_owned_detach"


class RealtimeMediaKind(StrEnum):
    """What a frame is made of."""

    AUDIO = "audio"
    TEXT = "text"
    IMAGE = "image"
    VIDEO = "video"
    TRANSCRIPT = "transcript"


class StreamDirection(StrEnum):
    """Which way a frame goes."""

    INPUT_TO_PROVIDER = "input_to_provider"
    OUTPUT_FROM_PROVIDER = "output_from_provider"


class PrivacyClass(StrEnum):
    """How much a frame may be shown; `covers` gives the order."""

    PUBLIC = "public"
    INTERNAL = "internal"
    CONTENT_REFS_ONLY = "content_refs_only"
    SENSITIVE = "sensitive"
    SECRET = "secret"  # noqa: S105  a class of frames, no password

    @property
    def rank(self) -> int:
        """Return 0 for what anybody may see, and more the fewer may."""
        return list(PrivacyClass).index(self)

    def covers(self, other: PrivacyClass) -> bool:
        """Say whether who may see this class may see `other`."""
        return other.rank <= self.rank


class RetentionClass(StrEnum):
    """How long a frame's content is meant to be kept, by whoever keeps it; shortest first."""

    EPHEMERAL = "ephemeral"
    RUN_SCOPED = "run_scoped"
    SESSION_SCOPED = "session_scoped"
    DURABLE = "durable"
    PERSISTENT = "persistent"
    HOST_POLICY = "host_policy"

    @property
    def rank(self) -> int:
        """Return 0 for the shortest, and more the longer."""
        return list(RetentionClass).index(self)


class RealtimeBackpressureAction(StrEnum):
    """What is done with a frame that cannot be sent now."""

    BLOCK = "block"
    GATE = "gate"
    DROP_NONCRITICAL = "drop_noncritical"
    SUMMARIZE = "summarize"
    FAIL_SEND = "fail_send"


class RealtimeBackpressureState(RealtimeValue):
    """The queue of a realtime session in numbers.

    Attributes:
        capacity: Frames that it takes before the overflow policy decides.
        queued_frames: In it now.
        dropped_frames: Given up so far.
        gated_frames: Held back so far, whatever became of them.
        last_action: What was done last.
        policy_ref: By which policy.
    """

    capacity: U64
    queued_frames: U64 = 0
    dropped_frames: U64 = 0
    gated_frames: U64 = 0
    last_action: RealtimeBackpressureAction | None = omit_none()
    policy_ref: PolicyRef

    @classmethod
    def bounded(cls, capacity: int, policy_ref: PolicyRef) -> Self:
        """Return an empty queue of this capacity."""
        return cls(capacity=capacity, policy_ref=policy_ref)

    def gate(self) -> RealtimeBackpressureState:
        """Return it with one gated frame more. Raises LimitExceededError where 64 bits end."""
        return self.applied(RealtimeBackpressureAction.GATE, queued_frames=self.queued_frames)

    def applied(
        self, action: RealtimeBackpressureAction, *, queued_frames: int, dropped: int = 0
    ) -> RealtimeBackpressureState:
        """Return it after `action` held one frame back. Raises LimitExceededError where 64 bits end."""
        counts = {
            "gated_frames": self.gated_frames + 1,
            "dropped_frames": self.dropped_frames + dropped,
            "queued_frames": queued_frames,
        }
        for name, count in counts.items():
            if count > U64_MAX:
                raise LimitExceededError(f"{name} of {U64_MAX}", count)
        return self.model_copy(update={**counts, "last_action": action})


class RealtimeFrame(RealtimeValue):
    """One frame: what it is, and where its content is to be found.

    Attributes:
        frame_id: Unique in its session; the maker's to choose.
        direction: Which way it goes.
        media_kind: What it is made of.
        content_refs: Where the content is; opaque.
        redacted_summary: What may be said of it where its privacy class allows.
        cursor: Its maker's own position, for instance in the recording it is from.
        privacy: Who may see it.
        retention: How long its content is meant to be kept.
        response_id: Response of the provider that it belongs to.
        critical: Whether it must not be dropped.
    """

    frame_id: RealtimeFrameId
    direction: StreamDirection = StreamDirection.INPUT_TO_PROVIDER
    media_kind: RealtimeMediaKind
    content_refs: Items[TextId] = omit_empty(tuple)
    redacted_summary: str = ""
    cursor: StreamCursor = StreamCursor(chunk_sequence=0)
    privacy: PrivacyClass = PrivacyClass.CONTENT_REFS_ONLY
    retention: RetentionClass = RetentionClass.RUN_SCOPED
    response_id: RealtimeResponseId | None = omit_none()
    critical: bool = omit_false()

    @classmethod
    def outgoing(
        cls,
        frame_id: str,
        *,
        media_kind: RealtimeMediaKind = RealtimeMediaKind.AUDIO,
        content_refs: Sequence[str] = (),
        redacted_summary: str = "",
        privacy: PrivacyClass = PrivacyClass.CONTENT_REFS_ONLY,
        critical: bool = False,
    ) -> Self:
        """Return a frame for the provider."""
        return cls(
            frame_id=RealtimeFrameId(frame_id),
            media_kind=media_kind,
            content_refs=tuple(content_refs),
            redacted_summary=redacted_summary,
            privacy=privacy,
            critical=critical,
        )

    @classmethod
    def incoming(
        cls,
        frame_id: str,
        *,
        media_kind: RealtimeMediaKind = RealtimeMediaKind.TRANSCRIPT,
        content_refs: Sequence[str] = (),
        redacted_summary: str = "",
        privacy: PrivacyClass = PrivacyClass.CONTENT_REFS_ONLY,
        response_id: str | None = None,
    ) -> Self:
        """Return a frame from the provider."""
        return cls(
            frame_id=RealtimeFrameId(frame_id),
            direction=StreamDirection.OUTPUT_FROM_PROVIDER,
            media_kind=media_kind,
            content_refs=tuple(content_refs),
            redacted_summary=redacted_summary,
            privacy=privacy,
            response_id=None if response_id is None else RealtimeResponseId(response_id),
        )


class RealtimeSessionState(RealtimeValue):
    """Where a realtime session stands.

    Attributes:
        session_id: Which session.
        connection_id: Its present connection; everyone with another one is fenced.
        provider_route_ref: How the provider is reached; opaque.
        send_cursor: Behind the last frame that was sent.
        receive_cursor: Behind the last frame that was received.
        restart_count: Restarts begun so far.
        backpressure_state: Its queue in numbers.
        lifecycle_status: Where it is in its life.
        policy_refs: What governs it.
    """

    session_id: RealtimeSessionId
    connection_id: RealtimeConnectionId
    provider_route_ref: str
    send_cursor: StreamCursor
    receive_cursor: StreamCursor
    restart_count: U32
    backpressure_state: RealtimeBackpressureState
    lifecycle_status: RealtimeSessionStatus
    policy_refs: Annotated[Items[PolicyRef], Field(max_length=POLICY_REFS_MAX)] = omit_empty(tuple)


class RealtimeRecordKind(StrEnum):
    """What a record says. A requested step is recorded before the adapter is called, the step itself after."""

    CONNECT_REQUESTED = "connect_requested"
    CONNECTED = "connected"
    INPUT_SEND_REQUESTED = "input_send_requested"
    INPUT_SENT = "input_sent"
    OUTPUT_RECEIVE_REQUESTED = "output_receive_requested"
    OUTPUT_RECEIVED = "output_received"
    INTERRUPT_REQUESTED = "interrupt_requested"
    INTERRUPTED = "interrupted"
    RESTART_REQUESTED = "restart_requested"
    RESTART_STARTED = "restart_started"
    RESTART_COMPLETED = "restart_completed"
    RESTART_FAILED = "restart_failed"
    CLOSE_REQUESTED = "close_requested"
    CLOSED = "closed"
    BACKPRESSURE_APPLIED = "backpressure_applied"


_INPUT_KINDS = frozenset(
    {
        RealtimeRecordKind.INPUT_SEND_REQUESTED,
        RealtimeRecordKind.INPUT_SENT,
        RealtimeRecordKind.BACKPRESSURE_APPLIED,
    }
)
_OUTPUT_KINDS = frozenset({RealtimeRecordKind.OUTPUT_RECEIVE_REQUESTED, RealtimeRecordKind.OUTPUT_RECEIVED})
_FRAME_KINDS = frozenset(
    {
        RealtimeRecordKind.INPUT_SEND_REQUESTED,
        RealtimeRecordKind.BACKPRESSURE_APPLIED,
        RealtimeRecordKind.OUTPUT_RECEIVED,
    }
)
_ANSWERING_KINDS = frozenset({RealtimeRecordKind.INPUT_SENT, RealtimeRecordKind.OUTPUT_RECEIVED})


class RealtimeSessionRecord(RealtimeValue):
    """One step of a realtime session, as its log keeps it.

    Attributes:
        sequence: Its number in the log: 1, 2, 3 …
        kind: What happened.
        state: After it.
        recorded_at: When, by the clock of its host; not before the record in front of it.
        run_id: The run that the session serves, if any.
        agent_id: The agent, likewise.
        response_id: Response that was interrupted, or that the frame belongs to.
        close_reason: Why the connection ended.
        frame_id: The frame that it is about.
        privacy: Who may know of the frame, where the record does not keep it.
        frame: That frame itself, where the record is the one that keeps it.
        summary: The frame that now stands for all that was queued, this one included.
        answers: Number of the request that this step completes.
        repeats: Number of the request in doubt that this one repeats.
        takes: Numbers of the records whose frames leave the queue by it.
        queued: Whether its frame (or the summary) enters the queue.
    """

    sequence: Annotated[int, Field(strict=True, ge=1, le=U64_MAX)]
    kind: RealtimeRecordKind
    state: RealtimeSessionState
    recorded_at: Timestamp
    run_id: TextId | None = omit_none()
    agent_id: TextId | None = omit_none()
    response_id: RealtimeResponseId | None = omit_none()
    close_reason: RealtimeCloseReason | None = omit_none()
    frame_id: RealtimeFrameId | None = omit_none()
    privacy: PrivacyClass | None = omit_none()
    frame: RealtimeFrame | None = omit_none()
    summary: RealtimeFrame | None = omit_none()
    answers: U64 | None = omit_none()
    repeats: U64 | None = omit_none()
    takes: Items[U64] = omit_empty(tuple)
    queued: bool = omit_false()

    @property
    def record_id(self) -> str:
        """Return its id, which no other record of the session has."""
        frame = "" if self.frame_id is None else f".{self.frame_id.value}"
        return f"realtime.{self.kind.value}.{self.sequence}{frame}"

    @property
    def direction(self) -> StreamDirection | None:
        """Return which way its frame goes, None if it is about no frame."""
        if self.kind in _INPUT_KINDS:
            return StreamDirection.INPUT_TO_PROVIDER
        return StreamDirection.OUTPUT_FROM_PROVIDER if self.kind in _OUTPUT_KINDS else None

    @property
    def media_kind(self) -> RealtimeMediaKind | None:
        """Return what its frame is made of, None if it keeps none."""
        return None if self.frame is None else self.frame.media_kind

    @property
    def content_refs(self) -> tuple[str, ...]:
        """Return where its frame's content is."""
        return () if self.frame is None else self.frame.content_refs

    def is_covered_by(self, privacy: PrivacyClass) -> bool:
        """Say whether who may see this class may see all that the record says of frames, and of responses.

        A response has the class of its frames. A record that names one without saying its class is for those who may
        see all of them.
        """
        frames = (frame for frame in (self.frame, self.summary) if frame is not None)
        classes = [frame.privacy for frame in frames] + ([] if self.privacy is None else [self.privacy])
        if self.response_id is not None and not classes:
            classes = [PrivacyClass.SECRET]
        return all(privacy.covers(one) for one in classes)

    @property
    def queued_frame(self) -> RealtimeFrame | None:
        """Return the frame that enters the queue by it, if one does."""
        if not self.queued:
            return None
        return self.frame if self.summary is None else self.summary

    @model_validator(mode="after")
    def _goes_with_its_kind(self) -> Self:
        if (self.frame is not None) != (self.kind in _FRAME_KINDS):
            raise ValueError("a record keeps a frame if it is of a kind that does, and else none")
        if self.frame is not None and (self.frame.frame_id != self.frame_id or self.frame.direction != self.direction):
            raise ValueError("the frame has another id or direction than its record")
        if (self.answers is not None) != (self.kind in _ANSWERING_KINDS):
            raise ValueError("a record answers a request if it is of a kind that does, and else none")
        if (self.close_reason is not None) != (
            self.kind in (RealtimeRecordKind.CLOSED, RealtimeRecordKind.CLOSE_REQUESTED)
        ):
            raise ValueError("a connection has a reason to end, nothing else has")
        if self.kind is RealtimeRecordKind.INPUT_SENT and (self.frame_id is None or self.privacy is None):
            raise ValueError("what was sent has an id and a privacy class")
        return self._uses_the_queue()

    def _uses_the_queue(self) -> Self:
        held_back = self.kind is RealtimeRecordKind.BACKPRESSURE_APPLIED
        requested = self.kind is RealtimeRecordKind.INPUT_SEND_REQUESTED
        if self.queued and not held_back:
            raise ValueError("only what is held back enters the queue")
        if self.takes and not (held_back or requested):
            raise ValueError("only sending and holding back take from the queue")
        if (self.summary is not None and not self.queued) or (self.repeats is not None and not requested):
            raise ValueError("a summary is queued, and only what is sent repeats")
        return self


class RealtimeSessionSidecar(RealtimeValue):
    """What a host configures for a realtime session.

    Attributes:
        sidecar_id: Its id.
        provider_route_ref: How the provider is reached; opaque.
        realtime_capability_ref: Which ability of it is used; opaque.
        queue_capacity: Frames that are held back before the overflow policy decides, 1–4096.
        overflow_policy: A `RealtimeBackpressureAction`, or "gate_during_restart", which is "gate".
    """

    sidecar_id: TextId
    provider_route_ref: TextId
    realtime_capability_ref: TextId
    media_policy_ref: PolicyRef
    send_policy_ref: PolicyRef
    receive_policy_ref: PolicyRef
    restart_policy_ref: PolicyRef
    backpressure_policy_ref: PolicyRef
    interruption_policy_ref: PolicyRef
    close_policy_ref: PolicyRef
    queue_capacity: Annotated[int, Field(strict=True, ge=1, le=QUEUE_FRAMES_MAX)]
    overflow_policy: str

    @classmethod
    def voice_defaults(
        cls,
        sidecar_id: str,
        provider_route_ref: str,
        realtime_capability_ref: str,
        media_policy_ref: PolicyRef,
        *,
        queue_capacity: int = 32,
        overflow_policy: str = GATE_DURING_RESTART,
    ) -> Self:
        """Return what suits a voice: policies named after the sidecar, and a small queue. Raises ValueError."""

        def policy(name: str) -> PolicyRef:
            return PolicyRef.new(f"policy.{sidecar_id}.{name}")

        return cls(
            sidecar_id=sidecar_id,
            provider_route_ref=provider_route_ref,
            realtime_capability_ref=realtime_capability_ref,
            media_policy_ref=media_policy_ref,
            send_policy_ref=policy("send"),
            receive_policy_ref=policy("receive"),
            restart_policy_ref=policy("restart"),
            backpressure_policy_ref=policy("backpressure"),
            interruption_policy_ref=policy("interrupt"),
            close_policy_ref=policy("close"),
            queue_capacity=queue_capacity,
            overflow_policy=overflow_policy,
        )

    @field_validator("overflow_policy")
    @classmethod
    def _known_policy(cls, value: str) -> str:
        if value != GATE_DURING_RESTART and value not in list(RealtimeBackpressureAction):
            raise ValueError(f"want {', '.join(RealtimeBackpressureAction)} or {GATE_DURING_RESTART}")
        return value

    @property
    def overflow(self) -> RealtimeBackpressureAction:
        """Return what is done with a frame for which the queue has no room."""
        if self.overflow_policy == GATE_DURING_RESTART:
            return RealtimeBackpressureAction.GATE
        return RealtimeBackpressureAction(self.overflow_policy)

    @property
    def policy_refs(self) -> tuple[PolicyRef, ...]:
        """Return the seven policies: media, send, receive, restart, backpressure, interruption, close."""
        return (
            self.media_policy_ref,
            self.send_policy_ref,
            self.receive_policy_ref,
            self.restart_policy_ref,
            self.backpressure_policy_ref,
            self.interruption_policy_ref,
            self.close_policy_ref,
        )

    def content_hash(self) -> str:
        """Return `sha256:<hex>` of its JSON: sorted keys, no spaces."""
        return "sha256:" + hashlib.sha256(json_text(self.model_dump(mode="json")).encode()).hexdigest()
