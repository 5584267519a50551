"""Who a session is: its metadata, and its relation to the session it came from. Pure.

Rules:
1. A relation is one of root, child, handoff; child and handoff name their parent.
2. Metadata and relation never disagree about the parent. Metadata of the older form is completed when it is decoded:
   a parent without a relation is a child's, a relation without a parent id lends its own.

    SessionMeta.model_validate({"session_id": "s2", …, "parent_session_id": "s1"}).relation.kind == "child"
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter, model_validator

from snapshots.state.values import U64, Json, Timestamp, Value, omit_empty, omit_none


class RootRelation(Value):
    """A session that came from no other."""

    kind: Literal["root"] = "root"


class ChildRelation(Value):
    """A session that another one started and still oversees."""

    kind: Literal["child"] = "child"
    parent_session_id: str
    originating_tool_call_id: str | None = omit_none()


class HandoffRelation(Value):
    """A session that takes over from another one."""

    kind: Literal["handoff"] = "handoff"
    parent_session_id: str
    reason: str
    metadata: dict[str, Json] = omit_empty(dict)


SessionRelation = Annotated[RootRelation | ChildRelation | HandoffRelation, Field(discriminator="kind")]


ROOT = RootRelation()
_RELATION: TypeAdapter[SessionRelation] = TypeAdapter(SessionRelation)


def relation_from_plain(plain: Any) -> SessionRelation:
    """Return the relation that `model_dump` wrote. Raises ValueError."""
    return _RELATION.validate_python(plain, strict=True)


def relation_parent(relation: RootRelation | ChildRelation | HandoffRelation) -> str | None:
    """Return the parent's session id, None for a root."""
    return None if isinstance(relation, RootRelation) else relation.parent_session_id


class SessionMeta(Value):
    """Name, origin and model of a session."""

    session_id: str
    session_name: str
    created_at: Timestamp
    model: str
    cwd: str | None = omit_none()
    parent_session_id: str | None = omit_none()
    relation: SessionRelation = Field(default_factory=RootRelation)

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        parent, relation = data.get("parent_session_id"), data.get("relation")
        if relation is None and "relation" in data:
            data = {name: value for name, value in data.items() if name != "relation"}
        if relation is None and parent is not None:
            return {**data, "relation": {"kind": "child", "parent_session_id": parent}}
        if relation is not None and parent is None:
            lent = relation.get("parent_session_id") if isinstance(relation, dict) else relation_parent(relation)
            return data if lent is None else {**data, "parent_session_id": lent}
        return data

    @model_validator(mode="after")
    def _check_parent(self) -> SessionMeta:
        if self.parent_session_id != relation_parent(self.relation):
            raise ValueError(f"parent_session_id {self.parent_session_id!r} disagrees with the relation")
        return self


class SessionPickerInfo(Value):
    """What a list of sessions shows of each."""

    session_id: str
    cwd: str | None = omit_none()
    parent_session_id: str | None = omit_none()
    first_user_message: str = ""
    user_message_count: U64 = 0
