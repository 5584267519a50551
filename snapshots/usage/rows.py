"""Rows of a usage log: what may be a line, its row id, and what is read from it. Pure.

Rules:
1. A line is one JSON object of at most ROW_BYTES_MAX bytes of UTF-8. Refused is what could not be given back exactly
   (`snapshots.documents`), and a known field of another type than its own: a count is a whole number of 64 bits, not
   negative; `null` says nothing.
2. A row has an id, by which it is read once however often it was appended: the line's own `row_id`, else one that is
   put in front. Nothing else of the line changes, except that a line break between its tokens becomes a space, and
   that blanks and byte order marks around it go.

    line = line_of('{"model": "m", "input_tokens": 10}', source="usage", position="line 1")
    line.stored("w-1-0") == b'{"row_id":"w-1-0","model": "m", "input_tokens": 10}'
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from snapshots.documents import BadDocumentError, parse_document
from snapshots.errors import CorruptSnapshotError, InvalidInputError, LimitExceededError
from snapshots.fields import is_whole
from snapshots.state.values import json_text
from storage.errors import InvalidKeyError
from storage.keys import check_id

ROW_BYTES_MAX = 1 << 20  # a line describes one call; what it was about does not belong into it
ROW_ID = "row_id"
STORED_BYTES_MAX = ROW_BYTES_MAX + 128  # with an id of ours in front
_TEXTS = ("ts", "session_id", "model", "provider")
_FLAGS = ("truncation_occurred",)
_SPACE = " \t\r\n"
BLANKS = "\ufeff" + _SPACE  # in front of a line they say nothing, in whatever order and number
_BREAKS = str.maketrans("\r\n", "  ")
_ID_IN_FRONT = re.compile(rb'\{"row_id":"([^"\\]+)"')


@dataclass(frozen=True, slots=True)
class TokenUsageRecord:
    """One call of a model, as a row tells it. What a row does not say is "" or 0.

    Attributes:
        ts: When, RFC 3339.
        session_id: For which session.
        model: Which one.
        provider: Whose.
        message_count: Messages that were sent.
        cache_creation_input_tokens: Input written to the provider's cache.
        cache_read_input_tokens: Input read from it.
        input_tokens: Fresh input; disjoint from both.
        output_tokens: Output.
        thinking_tokens: Output that was reasoning.
        system_tokens: Of the window: the system prompt.
        summary_tokens: Of the window: summaries.
        window_tokens: Of the window: messages.
        total_tokens: Of the window: all of it.
        max_context_tokens: How large the window may be.
        budget_limit: How much of it may be used.
        prompt_cached_tool_outputs: Outputs of tools that were left out.
        prompt_cached_tool_tokens_saved: Tokens that this saved.
        truncation_occurred: Whether messages were left out.
        segments_removed: How many runs of them.
        extra: Further fields of the row, its id included.
    """

    ts: str = ""
    session_id: str = ""
    model: str = ""
    provider: str = ""
    message_count: int = 0
    cache_creation_input_tokens: int = 0
    cache_read_input_tokens: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    thinking_tokens: int = 0
    system_tokens: int = 0
    summary_tokens: int = 0
    window_tokens: int = 0
    total_tokens: int = 0
    max_context_tokens: int = 0
    budget_limit: int = 0
    prompt_cached_tool_outputs: int = 0
    prompt_cached_tool_tokens_saved: int = 0
    truncation_occurred: bool = False
    segments_removed: int = 0
    extra: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, value: Mapping[str, Any], *, source: str, position: str = "") -> TokenUsageRecord:
        """Return what a row's object says.

        Raises:
            InvalidInputError: A known field is of another type than its own (rule 1).
        """
        check_known_fields(value, source=source, position=position)
        known = {name: found for name in KNOWN if (found := value.get(name)) is not None}
        return cls(**known, extra={name: found for name, found in value.items() if name not in KNOWN})

    def to_line(self) -> str:
        """Return the record as a line for `UsageLog.append`: the twenty fields and the further ones."""
        return json_text({**{name: getattr(self, name) for name in sorted(KNOWN)}, **self.extra})


KNOWN = frozenset(one.name for one in fields(TokenUsageRecord)) - {"extra"}


def check_known_fields(value: Mapping[str, Any], *, source: str, position: str) -> None:
    """Check the types of the known fields. Raises InvalidInputError."""
    for name in KNOWN & value.keys():
        found = value[name]
        if found is None:
            continue
        if name in _TEXTS:
            right, wanted = isinstance(found, str), "a text"
        elif name in _FLAGS:
            right, wanted = isinstance(found, bool), "true or false"
        else:
            right, wanted = is_whole(found), "a whole number of 64 bits, not negative"
        if not right:
            where = f"{position}: {name}" if position else name
            raise InvalidInputError(source, where, f"want {wanted}, not {json.dumps(found):.40}")


@dataclass(frozen=True, slots=True)
class Line:
    """A line that was checked.

    Attributes:
        text: Its object, on one line.
        row_id: Its own id, "" for none.
        position: Which line it is.
    """

    text: bytes
    row_id: str
    position: str

    def stored(self, row_id: str) -> bytes:
        """Return the row, with this id in front if it has none of its own (rule 2)."""
        assert self.text[:1] + self.text[-1:] == b"{}", "Rule 1"
        if self.row_id:
            return self.text
        rest = self.text[1:]
        comma = b"" if rest.lstrip(_SPACE.encode()) == b"}" else b","
        return b'{"row_id":"' + row_id.encode() + b'"' + comma + rest


def line_of(json_line: str, *, source: str, position: str) -> Line:
    """Return a line that may be appended.

    Args:
        json_line: The text of one JSON object.
        source: How to name the log in errors.
        position: Which line it is.

    Raises:
        InvalidInputError: Rule 1.
        LimitExceededError: It has over ROW_BYTES_MAX bytes.
    """
    text = json_line.lstrip(BLANKS).rstrip(_SPACE)
    try:
        raw = text.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(source, position, "holds a lone surrogate, which is no text") from error
    if len(raw) > ROW_BYTES_MAX:
        raise line_too_long(len(raw), source=source, position=position)
    try:
        value = parse_document(raw)
    except BadDocumentError as error:
        where = f"{position}: {error.position}" if error.position else position
        raise InvalidInputError(source, where, error.reason) from error
    if not isinstance(value, dict):
        raise InvalidInputError(source, position, "want a JSON object")
    check_known_fields(value, source=source, position=position)
    # After the parse: within a string a line break is no JSON, and has been refused.
    return Line(text.translate(_BREAKS).encode(), _own_id(value, source, position), position)


def line_too_long(size_bytes: int, *, source: str, position: str) -> LimitExceededError:
    """Return the error for a line of so many bytes, or more."""
    return LimitExceededError(f"usage line of {ROW_BYTES_MAX} bytes ({source}, {position})", size_bytes)


def distinct_lines(lines: Iterable[Line], *, source: str) -> tuple[list[Line], list[int]]:
    """Return lines without those that repeat another one, and of every given line its place among them.

    Raises:
        InvalidInputError: Two lines have one `row_id` and different text: only one of them would ever be read.
    """
    kept: list[Line] = []
    places: list[int] = []
    place_of: dict[str, int] = {}
    for line in lines:
        place = place_of.setdefault(line.row_id, len(kept)) if line.row_id else len(kept)
        if place == len(kept):
            kept.append(line)
        elif kept[place].text != line.text:
            reason = f"{line.row_id!r:.80} is that of {kept[place].position} as well, which has another text"
            raise InvalidInputError(source, f"{line.position}: {ROW_ID}", reason)
        places.append(place)
    return kept, places


def _own_id(value: Mapping[str, Any], source: str, position: str) -> str:
    if ROW_ID not in value:
        return ""
    try:
        return check_id(value[ROW_ID], what=ROW_ID)
    except InvalidKeyError as error:
        raise InvalidInputError(source, f"{position}: {ROW_ID}", error.reason) from error


@dataclass(frozen=True, slots=True)
class UsageRow:
    """A row as it is stored.

    Attributes:
        row_id: Its id.
        text: Its JSON object, on one line.
        key: Of the segment that holds it.
    """

    row_id: str
    text: str
    key: str

    @property
    def value(self) -> dict[str, Any]:
        """Return its object. Raises CorruptSnapshotError where somebody else stored what no append admits."""
        try:
            found = parse_document(self.text.encode())
        except BadDocumentError as error:
            raise CorruptSnapshotError(self.key, f"row {self.row_id}: {error}") from error
        if not isinstance(found, dict):
            raise CorruptSnapshotError(self.key, f"row {self.row_id} is no object")
        return found

    @property
    def record(self) -> TokenUsageRecord:
        """Return what it says. Raises as `value`."""
        try:
            return TokenUsageRecord.of(self.value, source=self.key, position=f"row {self.row_id}")
        except InvalidInputError as error:
            raise CorruptSnapshotError(self.key, f"{error.position}: {error.reason}") from error


def row_of(stored: bytes, *, key: str) -> UsageRow:
    """Return a row of the segment under `key`. Raises CorruptSnapshotError."""
    try:
        text = stored.decode()
        found = _ID_IN_FRONT.match(stored)
        row_id = found[1].decode() if found else check_id(json.loads(text)[ROW_ID])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise CorruptSnapshotError(key, f"a row is no JSON object with an id ({error})") from error
    return UsageRow(row_id, text, key)
