"""`RuntimeSession`: a session as a runtime saves it, and what of it lies beside the messages. Pure.

Rules:
1. It is a document of others: fields that are not known here are kept and written back, whatever their names – that of
   a method or `__dict__` as well. `further` has them all; only what Python can say is an attribute too.
2. Numbers, texts and booleans are not converted: what would read back as another value is refused.
3. A message is a JSON object with an id; a `Message` is taken as the object it is on the wire. Where the id is missing,
   null or empty, the message is new, and a save gives it one.
4. `RuntimeMetadata` is all but id and messages: what the register of the session's metadata holds.

    session = RuntimeSession(session_id="s1", title="Trip", messages=[{"id": "m1", "role": "user", "content": "hi"}])
    session.messages.append({"role": "assistant", "content": "hello"})
"""

from __future__ import annotations

import re
from datetime import date
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PlainValidator, ValidationError

from snapshots.documents import place
from snapshots.errors import InvalidStateError
from snapshots.state import Message
from snapshots.state.values import U64, Json, JsonObject, Timestamp, first_fault, json_text, json_value, omit_none

JsonMessage = dict[str, Any]
Moment = tuple[int, str]
"""Whole seconds since the year 1, and the digits of the fraction: exact, however many there are."""

_INSTANT = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)T(\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:Z|([+-])(\d\d):(\d\d))",
    re.ASCII | re.IGNORECASE,
)
_MESSAGES_APART = frozenset({"session_id", "messages"})


def moment(text: str) -> Moment:
    """Return an RFC 3339 instant as a value that compares as instants do. Raises ValueError for no day there is."""
    found = _INSTANT.fullmatch(text)
    if found is None:
        raise ValueError("not an RFC 3339 instant")
    year, month, day, hours, minutes, seconds = (int(found[number]) for number in range(1, 7))
    offset_minutes = int(found[9] or 0) * 60 + int(found[10] or 0)
    minutes += hours * 60 + (offset_minutes if found[8] == "-" else -offset_minutes)
    return date(year, month, day).toordinal() * 86400 + minutes * 60 + seconds, (found[7] or "").rstrip("0")


def _instant(text: str) -> str:
    moment(text)
    return text


def _message(value: Any) -> JsonMessage:
    plain = json_value(value.model_dump(mode="json") if isinstance(value, Message) else value)
    if type(plain) is not dict:
        raise ValueError("a message is a JSON object")
    if not isinstance(plain.get("id"), str | None):
        raise ValueError("the id of a message is text")
    return plain


def _metadata(value: Any) -> Any:
    if type(value) is not dict:
        raise ValueError("not a JSON object")
    return value


class _Fields(BaseModel):
    """The fields that both have, beside those of others."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Json]

    title: str = ""
    title_version: U64 = 0
    pinned: bool = False
    metadata_version: U64 = 0
    metadata: Annotated[JsonObject, BeforeValidator(_metadata)] = Field(default_factory=dict)
    updated_at: Annotated[Timestamp, AfterValidator(_instant)] | None = omit_none()

    @property
    def further(self) -> dict[str, Any]:
        """Return the fields that are not known here."""
        return dict(self.__pydantic_extra__)


class RuntimeMetadata(_Fields):
    """What of a runtime session lies beside its messages. Frozen; equal if `to_json` is.

    Attributes:
        title: What the user sees.
        title_version: Counts the changes of the title.
        pinned: The user's flag; has nothing to do with pins of revisions.
        metadata_version: Counts the changes by authoritative writers; decides between a stored copy and a saver's.
        metadata: A JSON object of the runtime's own.
        updated_at: RFC 3339, None if nobody said. Decides nothing.
    """

    model_config = ConfigDict(frozen=True)

    def changed(self, /, **changes: Any) -> RuntimeMetadata:
        """Return a copy with other values, further fields included. Raises InvalidStateError for what is none."""
        return metadata_from_plain({**self.to_plain(), **changes})

    def without(self, *names: str) -> RuntimeMetadata:
        """Return a copy without these further fields."""
        return metadata_from_plain({name: value for name, value in self.to_plain().items() if name not in names})

    def to_plain(self) -> dict[str, Any]:
        """Return it as plain data, independent of this value."""
        plain: dict[str, Any] = json_value(self.model_dump())
        return plain

    def to_json(self) -> str:
        """Return its one JSON text."""
        return json_text(self.model_dump())


class RuntimeSession(_Fields):
    """A session as a runtime holds it. Mutable; belongs to one thread. The fields are those of `RuntimeMetadata`, and:

    Attributes:
        session_id: Identity of the session.
        messages: Oldest first.
    """

    model_config = ConfigDict(validate_assignment=True)

    session_id: str
    messages: list[Annotated[Any, PlainValidator(_message)]] = Field(default_factory=list)

    @classmethod
    def of(cls, session_id: str, metadata: RuntimeMetadata, messages: list[JsonMessage]) -> Self:
        """Return the session of these parts, which it does not share."""
        return cls.model_validate({**metadata.to_plain(), "session_id": session_id, "messages": messages})

    def checked(self) -> Self:
        """Return an independent copy, having checked it whole: lists and objects can be changed to anything.

        Raises:
            InvalidStateError: Something in it is no JSON value, no message, or not of its type.
        """
        try:
            return type(self).model_validate(dict(self))
        except ValidationError as error:
            raise _refused("this is no session that can be saved", error) from error

    def authoritative(self) -> RuntimeMetadata:
        """Return all but id and messages."""
        return metadata_from_plain({name: value for name, value in self if name not in _MESSAGES_APART})

    def adopt(self, metadata: RuntimeMetadata, messages: list[JsonMessage]) -> None:
        """Become the session of these parts; further fields that they do not have go."""
        merged = type(self).of(self.session_id, metadata, messages)
        for name in type(self).model_fields:
            setattr(self, name, getattr(merged, name))
        self.__pydantic_extra__.clear()  # never by attributes: the names are those of others
        self.__pydantic_extra__.update(merged.further)


def metadata_from_plain(plain: Any) -> RuntimeMetadata:
    """Return the metadata that `to_plain` gave.

    Raises:
        InvalidStateError: It is something else; the reason says what is wrong.
    """
    if type(plain) is not dict or not _MESSAGES_APART.isdisjoint(plain):
        raise InvalidStateError("the metadata of a session is an object without session_id and messages")
    try:
        return RuntimeMetadata.model_validate(plain)
    except ValidationError as error:
        raise _refused("this is no metadata of a session", error) from error


def _refused(what: str, error: ValidationError) -> InvalidStateError:
    """Return the error for the first fault: where and why, and nothing of what stands there."""
    path, reason = first_fault(error)
    return InvalidStateError(f"{what}: {place(path)}: {reason}")
