"""`Session`: an application's conversation with a user, as events and a state; moves between stores. Pure.

Rules:
1. Fields of others are kept at every level and written back.
2. `state` is what the session was created with, and the `state_delta`s of its events over it, oldest first, key by key
   (null is a value). What is assigned to `state` itself lasts until a rewind.
3. A rewind replays the `state_delta`s that remain. The state that a session was created with is no field of it, but
   goes where it goes; a document without it began with what no event set.
4. Instants are ISO 8601 in UTC where we write them; texts of others stay as they are. `updated_at` does not go back.

    session = Session.new("support", "user-1", {"tier": "gold"})
    session.append(Event.new("agent", "hello", invocation_id="i1", state_delta={"turns": 1}))
    session.rewind_to_invocation("i1") == 0
    Session.import_(session.export()) == session
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, model_validator

from snapshots.documents import place
from snapshots.errors import InvalidInputError, InvalidStateError
from snapshots.portable.document import OWN_NAMES, check_exportable, opened, sealed
from snapshots.state.values import U64, Json, Value, first_fault, json_value, rfc3339
from storage.clock import Clock, SystemClock

_clock: Clock = SystemClock()


class _Foreign(BaseModel):
    """What others write too: types are theirs to the letter, unknown fields are kept."""

    model_config = ConfigDict(extra="allow", strict=True)
    __pydantic_extra__: dict[str, Json]


class EventActions(_Foreign):
    """What an event does beside being said.

    Attributes:
        escalate: Whether a higher agent is called.
        skip_summarization: Whether the event stays out of summaries.
        transfer_to_agent: Agent that goes on, None for the same.
        state_delta: Keys of the session's state that it sets.
    """

    model_config = ConfigDict(frozen=True)

    escalate: bool = False
    skip_summarization: bool = False
    transfer_to_agent: str | None = None
    state_delta: dict[str, Json] = Field(default_factory=dict)


class Event(_Foreign):
    """Something that was said or done in a session.

    Attributes:
        id: Its own.
        invocation_id: The run of the agent that it belongs to, "" for none.
        author: Who.
        content: What was said, None for nothing.
        actions: What it does.
        timestamp: When, in Unix seconds.
    """

    model_config = ConfigDict(frozen=True)

    id: str
    invocation_id: str
    author: str
    content: str | None = None
    actions: EventActions
    timestamp: U64

    @classmethod
    def new(
        cls,
        author: str,
        content: str | None = None,
        *,
        invocation_id: str = "",
        state_delta: Mapping[str, Any] | None = None,
    ) -> Self:
        """Return an event of now, with a fresh id.

        Raises:
            ValidationError, InvalidStateError: The delta is no JSON; or no object at all.
        """
        return cls(
            id=_clock.new_id(),
            invocation_id=invocation_id,
            author=author,
            content=content,
            actions=EventActions(state_delta={} if state_delta is None else dict(_object(state_delta))),
            timestamp=int(_clock.now().timestamp()),
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the event as plain data, nothing left out.

        Raises:
            InvalidStateError: A value in it could not be stored and read back.
        """
        plain = _dumped(self)
        check_exportable(plain, ("events", 0))
        return plain


class SessionFacts(Value):
    """What of a session is known without reading its history."""

    app_name: str
    user_id: str
    created_at: str
    updated_at: str


class Session(_Foreign):
    """A session of an application's user. Mutable; belongs to one thread.

    A document of the original system is taken by `model_validate`, without the checks of `import_`.

    Attributes:
        id: Its id.
        app_name: The application.
        user_id: The user.
        state: See rule 2.
        created_at: When it was created.
        updated_at: When it last changed.
        events: Oldest first.
    """

    model_config = ConfigDict(validate_assignment=True)

    id: str
    app_name: str
    user_id: str
    state: dict[str, Json]
    created_at: str
    updated_at: str
    events: list[Event] = Field(default_factory=list)

    _initial_state: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _refuse_names_of_the_document(self) -> Self:
        if found := OWN_NAMES & (self.model_extra or {}).keys():
            names = ", ".join(sorted(found))
            raise ValueError(f"{names}: names of the export document; import it with Session.import_")
        return self

    def model_post_init(self, _context: Any, /) -> None:
        """Work out what the session was created with (rule 3)."""
        set_by_events = {key for event in self.events for key in event.actions.state_delta}
        self._initial_state = json_value({k: v for k, v in self.state.items() if k not in set_by_events})

    @classmethod
    def new(
        cls,
        app_name: str,
        user_id: str,
        state: Mapping[str, Any] | None = None,
        *,
        session_id: str | None = None,
        at: datetime | None = None,
    ) -> Self:
        """Return a session without events.

        Args:
            app_name: The application.
            user_id: The user.
            state: What it begins with, None for nothing.
            session_id: Its id, None for a fresh one.
            at: When it was created, None for now.

        Raises:
            InvalidStateError: The state is no JSON object, or `at` naive.
        """
        text = rfc3339(_aware(at))
        fields: dict[str, Any] = {
            "id": _clock.new_id() if session_id is None else session_id,
            "app_name": app_name,
            "user_id": user_id,
            "state": {} if state is None else dict(_object(state)),
            "created_at": text,
            "updated_at": text,
        }
        return cls.from_fields(fields, fields["state"])

    @classmethod
    def from_fields(cls, fields: Mapping[str, Any], initial_state: Mapping[str, Any]) -> Self:
        """Return the session of these fields that was created with this state.

        Raises:
            InvalidStateError: They are not those of a session; the reason says where.
        """
        try:
            return cls._of(fields, initial_state)
        except ValidationError as error:
            position, reason = _first_fault(error)
            raise InvalidStateError(f"not a session: {position}: {reason}") from error

    @classmethod
    def _of(cls, fields: Mapping[str, Any], initial_state: Mapping[str, Any]) -> Self:
        session = cls.model_validate(dict(fields))
        session._initial_state = _copied(initial_state)
        return session

    @property
    def initial_state(self) -> dict[str, Any]:
        """The state that the session was created with: a copy."""
        return _copied(self._initial_state)

    @property
    def facts(self) -> SessionFacts:
        """What a listing shows of it."""
        return SessionFacts(
            app_name=self.app_name, user_id=self.user_id, created_at=self.created_at, updated_at=self.updated_at
        )

    def to_plain(self) -> dict[str, Any]:
        """Return the fields as plain data, unknown ones included, nothing left out.

        Raises:
            InvalidStateError: A value in it could not be stored and read back; the reason says where.
        """
        plain = self._plain()
        check_exportable(plain)
        return plain

    def _plain(self) -> dict[str, Any]:
        if found := (OWN_NAMES | self.__class__.model_fields.keys()) & (self.model_extra or {}).keys():
            raise InvalidStateError(f"{', '.join(sorted(found))}: no unknown field has that name; take it out")
        return _dumped(self)

    def __setattr__(self, name: str, value: Any) -> None:
        if name in OWN_NAMES:  # pydantic would refuse it too, and keep the value all the same
            raise InvalidStateError(f"{name} is a name of the export document; no field of a session has it")
        super().__setattr__(name, value)

    def export(self) -> dict[str, Any]:
        """Return the session as one JSON object: fields, events, initial state, format and digest.

        Raises:
            InvalidStateError: As `to_plain`.
        """
        return sealed(self._plain(), self._initial_state)

    @classmethod
    def import_(cls, document: Any, *, source: str = "document") -> Self:
        """Return the session of an export, with its id.

        Args:
            document: What `export` returned.
            source: How to name it in errors.

        Raises:
            InvalidInputError: It is no such document, was altered, or misses something; the position says where.
            UnsupportedSchemaError: A later version of this software wrote it.
        """
        found = opened(document, source=source)
        try:
            return cls._of(found.fields, found.initial_state)
        except ValidationError as error:
            raise InvalidInputError(source, *_first_fault(error)) from error

    def append(self, event: Event, *, at: datetime | None = None) -> None:
        """Add an event; its `state_delta` goes into `state`.

        Args:
            event: It; whether there is one of its id already is not asked.
            at: When, None for now.

        Raises:
            InvalidStateError: Its delta is no JSON any more, or `at` is naive; nothing was added.
        """
        now, delta = _aware(at), _copied(event.actions.state_delta)
        self.events.append(event)
        self.state.update(delta)
        self.updated_at = later(self.updated_at, now)

    def rewind_to_invocation(self, invocation_id: str, *, at: datetime | None = None) -> int:
        """Drop all events after the last one of an invocation, and replay the state (rule 3).

        Events of other invocations before that one stay. An unknown invocation, and one that nothing follows, change
        nothing.

        Args:
            invocation_id: Of which invocation; "" is that of the events without one.
            at: When, None for now.

        Returns:
            Number of events dropped.

        Raises:
            InvalidStateError: A delta that stays is no JSON any more, or `at` is naive; nothing was dropped.
        """
        now = _aware(at)
        ours = [index for index, event in enumerate(self.events) if event.invocation_id == invocation_id]
        kept = ours[-1] + 1 if ours else len(self.events)
        dropped = len(self.events) - kept
        if dropped:
            state = replayed(self._initial_state, (event.actions.state_delta for event in self.events[:kept]))
            del self.events[kept:]
            self.state = state
            self.updated_at = later(self.updated_at, now)
        return dropped


def replayed(initial_state: Mapping[str, Any], deltas: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the state that a session has after these deltas (rule 2), with no value shared.

    Raises:
        InvalidStateError: A delta is no JSON.
    """
    state = _copied(initial_state)
    for delta in deltas:
        state.update(_copied(delta))
    return state


def _aware(at: datetime | None) -> datetime:
    """Return an instant that was given, or now. Raises InvalidStateError for a naive one."""
    if at is not None and at.utcoffset() is None:
        raise InvalidStateError(f"{at!r:.80} is no aware instant; give one with its offset, as datetime.now(UTC)")
    return _clock.now() if at is None else at


def later(text: str, at: datetime) -> str:
    """Return the later of an instant that somebody wrote and `at`; `at` for what is no instant."""
    found = instant_of(text)
    return text if found is not None and found > at else rfc3339(at)


def instant_of(text: str) -> datetime | None:
    """Return the instant that an ISO 8601 text with an offset names; None for any other text."""
    try:
        found = datetime.fromisoformat(text)
        return None if found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _object(value: Mapping[str, Any]) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise InvalidStateError(f"a state is a JSON object, not {type(value).__name__}")
    return value


def _copied(value: Mapping[str, Any]) -> dict[str, Any]:
    try:
        copy: dict[str, Any] = json_value(value)
    except ValueError as error:
        raise InvalidStateError(f"a state is no JSON object: {error}") from error
    return copy


def _dumped(model: BaseModel) -> dict[str, Any]:
    try:
        return model.model_dump(warnings="error")
    except ValueError as error:  # pydantic's own, for what was put in past its checks
        raise InvalidStateError(f"the session cannot be stored: {error}") from error


def _first_fault(error: ValidationError) -> tuple[str, str]:
    path, reason = first_fault(error)
    return place(path), reason
