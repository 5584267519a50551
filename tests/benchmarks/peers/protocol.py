"""What a peer does, and what it is given.

class Dictionary:  # a peer
    PACKAGES, MESSAGES_PER_TURN = (), 5

    @classmethod
    def open(cls, place: Place) -> Self: ...
    def commit(self, turn: PlainTurn) -> None: ...
    def resume(self) -> Callable[[], Contents]: ...
    def stored_bytes(self) -> int: ...
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, Self, TypeVar

from snapshots.benchmarks.agent_turns import Turn
from snapshots.benchmarks.large_state import Revision

SESSION = "session-1"


@dataclass(frozen=True, slots=True)
class Place:
    """Where a peer stores: an empty directory, and an empty bucket of a server with S3 and DynamoDB."""

    directory: Path
    endpoint: str
    bucket: str


@dataclass(frozen=True, slots=True)
class ToolUse:
    """A tool call and its result."""

    call_id: str
    name: str
    arguments: str
    result: str


@dataclass(frozen=True, slots=True)
class PlainTurn:
    """An agent turn in plain data.

    Attributes:
        index: Its number, from 0.
        asked, called, answered: The texts of the user's message, of the one with the tool calls, of the last.
        tools: The calls of the second message.
        tool_state: JSON after the turn.
        execution_state: Opaque bytes after the turn.
        native: The same turn, for ours.
    """

    index: int
    asked: str
    called: str
    tools: tuple[ToolUse, ...]
    answered: str
    tool_state: dict[str, Any]
    execution_state: bytes
    native: Turn


@dataclass(frozen=True, slots=True)
class PlainRevision:
    """A revision of the large state in plain data.

    Attributes:
        index: Its number, from 0.
        lines: The messages so far, a line of JSON each.
        answered: The text of the last of them.
        execution_state: Opaque bytes after the revision.
        native: The same revision, for ours.
    """

    index: int
    lines: tuple[str, ...]
    answered: str
    execution_state: bytes
    native: Revision


@dataclass(frozen=True, slots=True)
class Contents:
    """What came back, as far as a peer's interface has a place for it: None where it has none."""

    messages: int
    answered: str
    tool_state: dict[str, Any] | None
    execution_state: bytes | None


StepT = TypeVar("StepT", PlainTurn, PlainRevision, contravariant=True)


class Peer(Protocol[StepT]):
    """One way to store a session."""

    PACKAGES: ClassVar[tuple[str, ...]]
    """Distributions whose versions are printed."""
    MESSAGES_PER_TURN: ClassVar[int]
    """What it calls messages, of an agent turn."""

    @classmethod
    def open(cls, place: Place) -> Self:
        """Open the session at `place`, or create it."""

    def commit(self, turn: StepT) -> None:
        """Store what the session is after `turn`; afterwards another process can resume from it."""

    def resume(self) -> Callable[[], Contents]:
        """Read everything that is needed to go on; return what tells the contents, for a check after the clock."""

    def stored_bytes(self) -> int:
        """Return what is stored so far."""
