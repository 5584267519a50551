"""Portable sessions: events and a state, exported, imported and rewound; and a service that keeps them in a store.

Rules:
1. An export is whole: events, unknown fields, the state that the session was created with, and a digest over it all.
2. Export, import into any store, export again: the same document.
3. A stored session is a `PersistedSessionState` of the same id: it has revisions, forks, pins and retention as any.

    service = SessionService(repo)
    session = service.create_session("support", "user-1")
    service.append_event(session.id, Event.new("user", "hello", invocation_id="i1"))
    SessionService(other_repo).import_session(service.export_session(session.id))
"""

from snapshots.portable.conversion import from_state, to_state
from snapshots.portable.service import (
    ImportPolicy,
    SessionEntry,
    SessionListing,
    SessionService,
    StoredSession,
)
from snapshots.portable.session import Event, EventActions, Session

__all__ = [
    "Event",
    "EventActions",
    "ImportPolicy",
    "Session",
    "SessionEntry",
    "SessionListing",
    "SessionService",
    "StoredSession",
    "from_state",
    "to_state",
]
