"""Records of tool calls: what was asked, what came back, what it means for the turn. Pure.

Rules:
1. A call is known by its stable key: its call id, or a digest of tool, arguments and output when it has none.
2. The same call with another output is another record: a read model keeps both.

    record = ToolCallRecord(tool="read", args={"path": "x"}, output=ToolCallOutput.success("ok"), duration_ms=3)
    record.stable_key()   # "anon-…": no call id
"""

from __future__ import annotations

import hashlib
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field

from snapshots.state.messages import AttachmentRef
from snapshots.state.tool_values import ToolValue
from snapshots.state.values import U32, U64, Items, Json, Value, json_text, omit_empty, omit_none

ToolCallStatus = Literal["success", "failure", "cancelled"]
ToolFailureClass = Literal[
    "invalid_request",
    "unavailable",
    "permission_denied",
    "timeout",
    "execution",
    "external",
    "resource_limit",
    "internal",
]
ToolFailureSource = Literal["runtime", "tool", "plugin", "policy", "cancellation"]


def _null_is_none(value: ToolValue | None) -> ToolValue | None:
    return None if value is None or value.root is None else value


# A raw value of null and no raw value are the same on the wire, so they are the same here.
RawToolValue = Annotated[ToolValue | None, AfterValidator(_null_is_none)]


class NeverRetry(Value):
    """Repeating the call is pointless or unsafe."""

    type: Literal["never"] = "never"


class SafeRetry(Value):
    """Repeating the call is safe, after `after_ms` if given."""

    type: Literal["safe"] = "safe"
    after_ms: U64 | None = omit_none()


class ExhaustedRetry(Value):
    """The call was repeated `attempts` times already."""

    type: Literal["exhausted"] = "exhausted"
    attempts: U32


ToolRetryDisposition = Annotated[NeverRetry | SafeRetry | ExhaustedRetry, Field(discriminator="type")]


class ToolFailure(Value):
    """Why a call failed."""

    failure_class: ToolFailureClass = Field(alias="class")
    code: str
    message: str
    source: ToolFailureSource = "runtime"
    retry: ToolRetryDisposition = Field(default_factory=NeverRetry)
    raw: RawToolValue = omit_none()


class ToolCancellation(Value):
    """Why a call was stopped."""

    message: str
    source: ToolFailureSource = "cancellation"
    raw: RawToolValue = omit_none()


class SwitchAgentFrame(Value):
    """The call asks the runtime to go on in another frame."""

    type: Literal["switch_agent_frame"] = "switch_agent_frame"
    frame_id: str
    initial_nodes: Items[Json] = omit_empty(tuple)
    task: str | None = omit_none()


class Finish(Value):
    """The call ends the turn with this value."""

    type: Literal["finish"] = "finish"
    value: ToolValue


class Fail(Value):
    """The call ends the turn with this failure."""

    type: Literal["fail"] = "fail"
    failure: ToolFailure


ToolControl = Annotated[SwitchAgentFrame | Finish | Fail, Field(discriminator="type")]


class Success(Value):
    """The call returned a value."""

    status: Literal["success"] = "success"
    payload: ToolValue


class Failure(Value):
    """The call failed."""

    status: Literal["failure"] = "failure"
    payload: ToolFailure


class Cancelled(Value):
    """The call was cancelled."""

    status: Literal["cancelled"] = "cancelled"
    payload: ToolCancellation


ToolCallOutcome = Annotated[Success | Failure | Cancelled, Field(discriminator="status")]


class ToolCallOutput(Value):
    """The outcome of a call, and what the runtime should do next."""

    outcome: ToolCallOutcome
    control: ToolControl | None = omit_none()

    @classmethod
    def success(cls, value: Any) -> ToolCallOutput:
        """Return the output of a call that returned `value` (JSON, attachments as leaves, or a `ToolValue`)."""
        return cls(outcome=Success(payload=value if isinstance(value, ToolValue) else ToolValue.of(value)))

    @classmethod
    def failure(cls, failure: ToolFailure) -> ToolCallOutput:
        """Return the output of a failed call."""
        return cls(outcome=Failure(payload=failure))

    @classmethod
    def cancelled(cls, cancellation: ToolCancellation) -> ToolCallOutput:
        """Return the output of a cancelled call."""
        return cls(outcome=Cancelled(payload=cancellation))

    @property
    def status(self) -> ToolCallStatus:
        """Which of the three outcomes it is."""
        return self.outcome.status

    def attachments(self) -> list[AttachmentRef]:
        """Return the attachments of the value, or of the raw value behind a failure."""
        value = self.outcome.payload if isinstance(self.outcome, Success) else self.outcome.payload.raw
        return [] if value is None else value.attachments()


class ToolCallRecord(Value):
    """One call of a tool. `call_id` is the model's id of it, None when it gave none."""

    call_id: str | None = omit_none()
    tool: str
    args: Json
    output: ToolCallOutput
    duration_ms: U64

    def stable_key(self) -> str:
        """Return the call id, or `anon-` and 12 hex digits of SHA-256 over tool, arguments and output."""
        if self.call_id:
            return self.call_id
        text = json_text([self.tool, self.args, self.output.model_dump()])
        return "anon-" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:12]

    def same_as(self, other: ToolCallRecord) -> bool:
        """Whether both have the same JSON form; unlike `==` this tells `1` from `true` and `1.0`."""
        return self == other and json_text(self.model_dump()) == json_text(other.model_dump())
