"""Session metadata, its older form, and the reports of a resume."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from snapshots.state import (
    ChildRelation,
    HandoffRelation,
    ResumeFinding,
    ResumeReport,
    RootRelation,
    SessionMeta,
)
from tests.snapshots.state.builders import AT

OLD = {"session_id": "s", "session_name": "n", "created_at": AT, "model": "m"}


@pytest.mark.parametrize(
    ("fields", "parent", "relation"),
    [
        ({}, None, RootRelation()),
        ({"parent_session_id": None, "relation": None}, None, RootRelation()),
        ({"parent_session_id": "p"}, "p", ChildRelation(parent_session_id="p")),
        (
            {"relation": {"kind": "child", "parent_session_id": "p", "originating_tool_call_id": "c"}},
            "p",
            ChildRelation(parent_session_id="p", originating_tool_call_id="c"),
        ),
        (
            {"relation": {"kind": "handoff", "parent_session_id": "p", "reason": "r"}},
            "p",
            HandoffRelation(parent_session_id="p", reason="r"),
        ),
        ({"relation": ChildRelation(parent_session_id="p")}, "p", ChildRelation(parent_session_id="p")),
        ({"relation": {"kind": "root"}}, None, RootRelation()),
    ],
)
def test_older_metadata_is_completed(fields: dict[str, Any], parent: str | None, relation: object) -> None:
    meta = SessionMeta.model_validate({**OLD, **fields})
    assert meta.parent_session_id == parent
    assert meta.relation == relation
    assert SessionMeta.model_validate(meta.model_dump()) == meta


@pytest.mark.parametrize(
    "fields",
    [
        {"parent_session_id": "p", "relation": {"kind": "root"}},
        {"parent_session_id": "p", "relation": {"kind": "child", "parent_session_id": "q"}},
        {"relation": {"kind": "child"}},
        {"relation": {"kind": "sibling", "parent_session_id": "p"}},
        {"created_at": "soon"},
    ],
)
def test_contradictions_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        SessionMeta.model_validate({**OLD, **fields})


def test_a_report_is_true_if_it_has_findings_and_reports_add_up() -> None:
    finding = ResumeFinding(kind="part", name="tool_state", reason="missing")
    missing, refused = ResumeReport(missing=(finding,)), ResumeReport(refused=(finding,))
    assert not ResumeReport()
    assert missing
    assert missing + refused + ResumeReport() == ResumeReport(missing=(finding,), refused=(finding,))
