"""Leaving behind what lies beside a session that is moved to another store: nobody writes it here any more.

Rules:
1. Each register says from then on where the session went, and keeps what it held: a copy can be made of it, and
   repeated. Segments and realtime records stay as they are.
2. A realtime session must have ended: whoever still has its connection would go on recording here. Its own host and any
   other one announce a restart in the state first, and so learn that it was moved.
3. What is not there is not made. The head says that the session was moved, to whoever would make it: it comes first.
4. What was left behind can be taken back, as it was then: by whoever moves the session back, or did not move it after
   all. It comes back only from where all of it is: not in the place of another one, nor from where it was left as well.

    retire_satellites(source, "s1", "s3://bucket/new")
    check_returns(destination, source, "s1", "s1")
    take_back_satellites(source, "s1")
"""

from __future__ import annotations

from functools import partial

from snapshots.environment import Environment
from snapshots.errors import InvalidStateError
from snapshots.maintenance.copy.satellites.marks import mark_of_last
from snapshots.maintenance.copy.satellites.realtime import check_realtime_returns
from snapshots.maintenance.copy.satellites.registers import METADATA_COPY, RECORD_COPY, check_register_returns
from snapshots.maintenance.copy.satellites.usage import check_usage_returns
from snapshots.realtime.journal import load_progress, register_of
from snapshots.realtime.progress import Checkpoint
from snapshots.realtime.transitions import ENDED
from snapshots.usage.index import index_register


def check_retirable(source: Environment, session_id: str) -> None:
    """Check that what lies beside a session can be left behind, as things stand (rule 2); nothing is written.

    Raises:
        InvalidStateError: Its realtime session has not ended.
        CorruptSnapshotError, UnsupportedSchemaError: That cannot be read.
        UnavailableError: The store did not answer.
    """
    found = register_of(source, session_id).look()
    if found is not None and not found.destination:
        _check_ended(source, session_id, found.value)


def retire_satellites(source: Environment, session_id: str, destination: str) -> None:
    """Leave behind what lies beside a session; again, for the same destination, does what is not done yet.

    Args:
        source: Where it is.
        session_id: Which session.
        destination: Where it goes: the URL of the other store.

    Raises:
        InvalidStateError: Its realtime session has not ended; nothing was left behind. Or that is no destination.
        SessionMovedError: It was moved to another destination.
        LimitExceededError: A register has no room for the destination.
        CorruptSnapshotError, UnsupportedSchemaError: A register cannot be read.
        UnavailableError: The store did not answer; repeat it.
    """

    def any_value(_value: object) -> None:
        """Refuse nothing."""

    check = partial(_check_ended, source, session_id)
    register_of(source, session_id).retire(destination, check)  # first: it alone may refuse
    RECORD_COPY.register(source, session_id).retire(destination, any_value)
    METADATA_COPY.register(source, session_id).retire(destination, any_value)
    index_register(source, session_id).retire(destination, any_value)


def check_returns(source: Environment, here: Environment, session_id: str, target_id: str) -> None:
    """Check that what was left behind of a session here can come back from a source (rule 4). Reads only.

    Raises:
        CopyConflictError: The source does not go on from it, or left it behind itself.
        CorruptSnapshotError, UnsupportedSchemaError: Something cannot be read.
        UnavailableError: A store did not answer.
    """
    check_register_returns(RECORD_COPY, source, here, session_id, target_id)
    check_register_returns(METADATA_COPY, source, here, session_id, target_id)
    check_usage_returns(source, here, session_id, target_id)
    check_realtime_returns(source, here, session_id, target_id)


def take_back_satellites(here: Environment, session_id: str) -> None:
    """Let what was left behind of a session be written here again; again, it does what is not done yet.

    Raises:
        CorruptSnapshotError, UnsupportedSchemaError: A register cannot be read.
        UnavailableError: The store did not answer; repeat it.
    """
    RECORD_COPY.register(here, session_id).take_back(mark_of_last)
    METADATA_COPY.register(here, session_id).take_back(mark_of_last)
    index_register(here, session_id).take_back(mark_of_last)
    register_of(here, session_id).take_back(mark_of_last)


def _check_ended(source: Environment, session_id: str, checkpoint: Checkpoint) -> None:
    progress = load_progress(source, session_id)
    if progress.status not in ENDED or checkpoint.claim > progress.state.restart_count:
        status = progress.status.value if progress.status not in ENDED else "about to be restarted"
        raise InvalidStateError(
            f"the realtime session {session_id!r} is {status}: close or detach it first, then move the session"
        )
