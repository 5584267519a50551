"""Errors carry their facts as attributes, and say what to do next."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest

from snapshots import errors
from storage.errors import (
    CorruptObjectError,
    InvalidKeyError,
    NotFoundError,
    PermissionDeniedError,
    PreconditionFailedError,
    StorageError,
    UnavailableError,
)

AT = datetime(2026, 1, 1, tzinfo=UTC)
EXAMPLES: list[tuple[errors.SnapshotError, dict[str, object]]] = [
    (errors.SessionNotFoundError("s"), {"session_id": "s"}),
    (errors.RevisionNotFoundError("s", 3), {"session_id": "s", "revision": 3}),
    (errors.StoreNotFoundError("file:x"), {"url": "file:x"}),
    (errors.SessionExistsError("s"), {"session_id": "s"}),
    (errors.SessionDeletedError("s"), {"session_id": "s"}),
    (errors.SessionMovedError("s", "s3://b"), {"session_id": "s", "destination": "s3://b"}),
    (errors.RevisionConflictError("s", expected=None, actual=2), {"expected": None, "actual": 2}),
    (errors.RevisionConflictError("s", expected=1, actual=2), {"expected": 1, "actual": 2}),
    (errors.CopyConflictError("s", 3, "another"), {"session_id": "s", "revision": 3, "what": "session"}),
    (errors.CopyConflictError("s", 0, "another", what="metadata"), {"reason": "another", "what": "metadata"}),
    (errors.TurnConflictError("s", "t", 3), {"turn_id": "t", "revision": 3}),
    (errors.EffectConflictError("s", "t", "mail"), {"session_id": "s", "turn_id": "t", "key": "mail"}),
    (errors.FencedError("s", fence=2, holder="h"), {"fence": 2, "holder": "h"}),
    (errors.LeaseHeldError("s", holder="h", expires_at=AT), {"holder": "h", "expires_at": AT}),
    (errors.CommitUnknownError("s", commit_id="c", stamp="t"), {"commit_id": "c", "stamp": "t"}),
    (errors.CorruptSnapshotError("k", "why", ref="b3:x"), {"key": "k", "reason": "why", "ref": "b3:x"}),
    (errors.UnsupportedSchemaError("head", found=2, supported=[1]), {"record": "head", "found": 2, "supported": (1,)}),
    (errors.InvalidStateError("why"), {"reason": "why"}),
    (errors.IllegalTransitionError("r", from_status="a", to_status="b"), {"from_status": "a", "to_status": "b"}),
    (errors.InvalidInputError("f", "line 1", "why"), {"source": "f", "position": "line 1", "reason": "why"}),
    (errors.LimitExceededError("head of 3 bytes", 4), {"limit": "head of 3 bytes", "value": 4}),
]
EACH = pytest.mark.parametrize(("error", "facts"), EXAMPLES, ids=lambda value: type(value).__name__)


@EACH
def test_facts_are_attributes(error: errors.SnapshotError, facts: dict[str, object]) -> None:
    assert {name: getattr(error, name) for name in facts} == facts


@EACH
def test_a_message_is_one_line_of_text_and_names_its_subject(
    error: errors.SnapshotError, facts: dict[str, object]
) -> None:
    text = str(error)
    assert text
    assert "\n" not in text
    assert not text.startswith(("'", '"'))  # no repr, as KeyError has it
    assert any(str(fact) in text for fact in facts.values())


@EACH
def test_an_error_comes_back_whole_from_another_process(error: errors.SnapshotError, facts: dict[str, object]) -> None:
    error.add_note("while testing")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.args) == (type(error), str(error), error.args)
    assert {name: getattr(again, name) for name in facts} == facts
    assert again.__notes__ == error.__notes__


@pytest.mark.parametrize(
    "error",
    [
        NotFoundError("k"),
        PreconditionFailedError("k"),
        UnavailableError("k", "why", applied="no"),
        PermissionDeniedError("k", "why"),
        InvalidKeyError("k", "why"),
        CorruptObjectError("k", "why"),
    ],
    ids=lambda error: type(error).__name__,
)
def test_so_does_an_error_of_a_store(error: StorageError) -> None:
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), vars(again)) == (type(error), str(error), vars(error))


def test_every_class_has_an_example() -> None:
    public = {kind for kind in _subclasses(errors.SnapshotError) if not kind.__name__.startswith("_")}
    assert {type(error) for error, _ in EXAMPLES} == public


def _subclasses(kind: type[errors.SnapshotError]) -> set[type[errors.SnapshotError]]:
    direct = {one for one in kind.__subclasses__() if one.__module__ == errors.__name__}
    return direct.union(*(_subclasses(one) for one in direct)) if direct else set()
