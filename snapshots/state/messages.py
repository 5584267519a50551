"""Messages of a conversation and their parts. Pure.

Rules:
1. Attachments are references; their bytes live elsewhere.
2. A message is transient if a plugin said so. Transient messages are part of no read model and are never appended by
   the delta helpers.
3. What a provider wants replayed (`tool_replay`, `reasoning_meta`, `response_meta`) is opaque JSON, kept verbatim.

    Message(id="m1", role="User", parts=[Part(id="m1.p0", kind="Text", content="hello")])
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from snapshots.state.values import U32, U64, Items, Json, Value, omit_false, omit_none

MessageRole = Literal["User", "Assistant", "System"]
PartKind = Literal["Text", "Image", "Code", "Output", "Error", "Prose", "ToolCall", "ToolResult", "Reasoning"]
IMAGE_TEXT = "[Image attached]"


class AttachmentRef(Value):
    """An attachment by its content id. Width and height are pixels."""

    id: str
    media_type: str
    byte_len: U64
    width: U32 | None = omit_none()
    height: U32 | None = omit_none()
    label: str | None = omit_none()


class PartAttachment(Value):
    """The attachment of a part."""

    reference: AttachmentRef


class DeletedContent(Value):
    """Where pruned content went, with a hint of what it was."""

    breadcrumb: str
    archive_hash: str


class SummarizedContent(Value):
    """Where summarised content went, with its summary."""

    summary: str
    archive_hash: str


class Deleted(Value):
    """Prune state of a part whose content was removed."""

    content: DeletedContent = Field(alias="Deleted")


class Summarized(Value):
    """Prune state of a part whose content was replaced by a summary."""

    content: SummarizedContent = Field(alias="Summarized")


PruneState = Literal["Intact", "Cleared"] | Deleted | Summarized


class Part(Value):
    """One piece of a message.

    Attributes:
        id: Unique within the session, e.g. "m3.p0".
        content: Its text, "" for a part that is only an attachment.
    """

    id: str
    kind: PartKind
    content: str
    attachment: PartAttachment | None = omit_none()
    tool_call_id: str | None = omit_none()
    tool_name: str | None = omit_none()
    tool_replay: Json = omit_none()
    prune_state: PruneState = "Intact"
    reasoning_meta: Json = omit_none()
    response_meta: Json = omit_none()

    def search_text(self) -> str:
        """Return what a person would look for: nothing of tool parts, a placeholder for an image."""
        if self.kind in ("ToolCall", "ToolResult"):
            return ""
        return IMAGE_TEXT if self.kind == "Image" else self.content


class MessageOrigin(Value):
    """Who put a message there, when it was neither the user nor the model."""

    kind: Literal["plugin"] = "plugin"
    plugin_id: str
    transient: bool = omit_false()


class Message(Value):
    """One message of the conversation."""

    id: str
    role: MessageRole
    parts: Items[Part] = ()
    origin: MessageOrigin | None = omit_none()

    def is_transient(self) -> bool:
        """Whether it is only for the model's next call."""
        return self.origin is not None and self.origin.transient

    def search_text(self) -> str:
        """Return the text of its parts, joined by blank lines."""
        texts = (part.search_text() for part in self.parts)
        return "\n\n".join(text for text in texts if text.strip())

    def has_tool_call(self, call_id: str) -> bool:
        """Whether a part belongs to this tool call."""
        return any(part.tool_call_id == call_id for part in self.parts)
