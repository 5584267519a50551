"""The export document of a session: its fields, the state it was created with, a format, and a digest. Pure.

Rules:
1. Four names are the document's own: `format`, `format_version`, `initial_state`, `digest`. Everything else is the
   session's, unknown fields included.
2. The digest covers everything but itself: the JSON text with sorted keys and no spaces, in UTF-8.
3. What cannot be given back exactly is refused, out and in: see `snapshots.documents`.

    document = sealed(fields, initial_state)
    opened(read_document(raw, source="s1.json"), source="s1.json") == Opened(fields, initial_state)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from snapshots.documents import BadDocumentError, PathStep, check_document, parse_document
from snapshots.errors import InvalidInputError, InvalidStateError, UnsupportedSchemaError
from snapshots.state.values import json_text
from storage.digest import Digest, digest

FORMAT = "session-snapshots.session"
FORMAT_VERSION = 1
OWN_NAMES = frozenset({"format", "format_version", "initial_state", "digest"})

_TAKE_ANYWAY = "Session.model_validate takes a document as it is, without these checks"


@dataclass(frozen=True, slots=True)
class Opened:
    """A document whose format and digest are right. What the fields hold is not checked yet.

    Attributes:
        fields: Those of the session.
        initial_state: What it was created with.
    """

    fields: dict[str, Any]
    initial_state: dict[str, Any]


def sealed(fields: Mapping[str, Any], initial_state: Mapping[str, Any]) -> dict[str, Any]:
    """Return the document of a session.

    Raises:
        InvalidStateError: Something in it could not be read back; the reason says where.
    """
    document = {**fields, "format": FORMAT, "format_version": FORMAT_VERSION, "initial_state": dict(initial_state)}
    check_exportable(document)
    return {**document, "digest": document_digest(document)}


def check_exportable(value: Any, path: Sequence[PathStep] = ()) -> None:
    """Check that what stands at `path` of a session can be in a document that is read again.

    Raises:
        InvalidStateError: It is no JSON, holds an integer over 64 bits, or lies too deep.
    """
    try:
        check_document(value, path)
    except BadDocumentError as error:
        where = f"{error.position}: " if error.position else ""
        raise InvalidStateError(f"the session cannot be stored: {where}{error.reason}") from error


def document_digest(document: Mapping[str, Any]) -> Digest:
    """Return the digest of a document (rule 2); `digest` itself is left out."""
    return digest(json_text({name: value for name, value in document.items() if name != "digest"}).encode())


def read_document(raw: bytes, *, source: str) -> Any:
    """Return the value of a document's bytes. Raises InvalidInputError: it is no JSON, cut short, or breaks rule 3."""
    try:
        return parse_document(raw)
    except BadDocumentError as error:
        raise InvalidInputError(source, error.position, error.reason) from error


def opened(document: Any, *, source: str) -> Opened:
    """Return what `sealed` was given.

    Raises:
        InvalidInputError: It is no such document, or was altered.
        UnsupportedSchemaError: A later version of this software wrote it.
    """
    fields = _checked(document, source)
    _check_format(fields, source)
    _check_digest(fields, source)
    if type(fields.get("initial_state")) is not dict:
        raise InvalidInputError(source, "initial_state", "missing, or no object")
    return Opened({name: value for name, value in fields.items() if name not in OWN_NAMES}, fields["initial_state"])


def _checked(document: Any, source: str) -> dict[str, Any]:
    try:
        check_document(document)
    except BadDocumentError as error:
        raise InvalidInputError(source, error.position, error.reason) from error
    if type(document) is not dict:
        raise InvalidInputError(source, "", "not the export of a session, which is one JSON object")
    return document


def _check_format(document: Mapping[str, Any], source: str) -> None:
    if "format" not in document:
        reason = f"missing, so this is not the export of a session; {_TAKE_ANYWAY}"
        raise InvalidInputError(source, "format", reason)
    if document["format"] != FORMAT:
        raise InvalidInputError(source, "format", f"want {FORMAT!r}, found {document['format']!r:.80}")
    version = document.get("format_version")
    if type(version) is not int or version < 1:
        raise InvalidInputError(source, "format_version", f"want a number from 1, found {version!r:.80}")
    if version > FORMAT_VERSION:
        raise UnsupportedSchemaError("session document", found=version, supported=(FORMAT_VERSION,))


def _check_digest(document: Mapping[str, Any], source: str) -> None:
    if "digest" not in document:
        raise InvalidInputError(source, "digest", f"missing, the document was altered; {_TAKE_ANYWAY}")
    if document["digest"] != document_digest(document):
        reason = f"does not match the document, which was altered; export it again ({_TAKE_ANYWAY})"
        raise InvalidInputError(source, "digest", reason)
