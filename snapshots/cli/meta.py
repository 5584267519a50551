"""The commands of a session's metadata, as a user changes it: no runtime that saves a stale copy undoes it.

snapshots meta set s1 --title "Trip to Rome" --pinned 'gold_config={"id": 7}'; snapshots meta get s1
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from snapshots.cli import views
from snapshots.cli.exits import UsageError
from snapshots.cli.invocation import Invocation, invocation
from snapshots.cli.names import SessionId
from snapshots.documents import BadDocumentError, parse_document
from snapshots.errors import InvalidInputError
from snapshots.runtime import RuntimeMetadata, RuntimeSessionStore
from snapshots.state.values import json_text

commands = typer.Typer(
    name="meta", help="Metadata of sessions: title, pinned, and the keys of a runtime.", no_args_is_help=True
)
VALUE_CHARACTERS = 160  # of a value on one screen; --json has all of it


@commands.command("get")
def get_metadata(context: typer.Context, session: SessionId) -> None:
    """Show the metadata of a session."""
    run = invocation(context)
    with run.repository() as repo:
        metadata = RuntimeSessionStore(repo).read_metadata(session)
    _show(run, session, metadata)


@commands.command("set")
def set_metadata(
    context: typer.Context,
    session: SessionId,
    values: Annotated[
        list[str] | None, typer.Argument(metavar="[KEY=JSON…]", help="Keys of the metadata, and what they become.")
    ] = None,
    title: Annotated[str | None, typer.Option(metavar="T", help="New title.")] = None,
    pinned: Annotated[bool | None, typer.Option("--pinned/--unpinned", help="The user's flag.")] = None,
    unset: Annotated[list[str] | None, typer.Option(metavar="KEY", help="Take a key away; may be repeated.")] = None,
    expected_version: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Only if metadata_version is N; else fail.")
    ] = None,
) -> None:
    """Change the metadata of a session, with authority: its version goes up, and stale saves do not undo it."""
    run, wanted, gone = invocation(context), _parsed(values or ()), frozenset(unset or ())
    if title is None and pinned is None and not wanted and not gone:
        raise UsageError("nothing to set: say --title, --pinned, --unpinned, --unset KEY or KEY=JSON")
    if both := sorted(gone & wanted.keys()):
        raise UsageError(f"{both[0]!r} cannot be set and unset at once")
    fields = {name: value for name, value in (("title", title), ("pinned", pinned)) if value is not None}

    def change(present: RuntimeMetadata) -> RuntimeMetadata:
        kept = {key: value for key, value in present.metadata.items() if key not in gone}
        return present.changed(**fields, metadata=kept | wanted)

    with run.repository() as repo:
        metadata = RuntimeSessionStore(repo).update_metadata(session, change, expected_version=expected_version)
    if run.output.as_json:
        run.output.record(metadata_view(session, metadata))
    run.output.note(f"metadata of session {session} is at version {metadata.metadata_version}")


def _parsed(values: Sequence[str]) -> dict[str, Any]:
    """Return key and value of each argument. Raises UsageError, InvalidInputError."""
    found: dict[str, Any] = {}
    for text in values:
        key, equals, value = text.partition("=")
        if not key or not equals:
            raise UsageError(f"want KEY=JSON, not {text!r:.80}")
        if key in found:
            raise UsageError(f"{key!r} is set twice")
        try:
            found[key] = parse_document(value.encode(errors="surrogateescape"))
        except BadDocumentError as error:
            raise InvalidInputError(f"{key}=", error.position, error.reason) from error
    return found


def metadata_view(session_id: str, metadata: RuntimeMetadata) -> dict[str, Any]:
    """Return the object of `get` and `set`: the document without its messages."""
    return {"session_id": session_id, "updated_at": None, **metadata.to_plain()}


def _show(run: Invocation, session_id: str, metadata: RuntimeMetadata) -> None:
    if run.output.as_json:
        run.output.record(metadata_view(session_id, metadata))
    else:
        run.output.table(metadata_rows(metadata), views.FACT_COLUMNS, title=f"metadata of session {session_id}")


def metadata_rows(metadata: RuntimeMetadata) -> list[dict[str, str]]:
    """Return metadata as rows of name and value: the fields, then the keys, then further fields."""
    facts = {
        "version": str(metadata.metadata_version),
        "title": metadata.title,
        "title version": str(metadata.title_version),
        "pinned": "yes" if metadata.pinned else "no",
        "updated": metadata.updated_at or "–",
        **{f"metadata {key}": _shortened(value) for key, value in metadata.metadata.items()},
        **{f"field {name}": _shortened(value) for name, value in metadata.further.items()},
    }
    return views.facts_listed(facts)


def _shortened(value: Any) -> str:
    text = json_text(value)
    return text if len(text) <= VALUE_CHARACTERS else text[: VALUE_CHARACTERS - 1] + "…"
