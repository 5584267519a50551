"""Sessions as a runtime saves them: from stale copies, without undoing what a user changed or losing a message.

from snapshots.runtime import RuntimeSession, RuntimeSessionStore

store = RuntimeSessionStore(repo)
store.save_runtime_session(RuntimeSession(session_id="s1", messages=[{"role": "user", "content": "hello"}]))
"""

from snapshots.runtime.persistence import RuntimeSessionPersistence, RuntimeSessionStore, SaveResult
from snapshots.runtime.session import RuntimeMetadata, RuntimeSession

__all__ = ["RuntimeMetadata", "RuntimeSession", "RuntimeSessionPersistence", "RuntimeSessionStore", "SaveResult"]
