"""`RealtimeController`: a realtime session as its host works with it.

Rules:
1. Every step is recorded before the adapter is called, and once more when it is done. If the first record is not
   confirmed the adapter is not called. A second one that is not confirmed is written before anything else happens.
2. Who raises `UnavailableError` is to be called again with the same argument: it goes on where it stopped, and the
   adapter is not called twice for one frame. `applied` is "no" only if nothing of the step may stand.
3. Whatever the adapter raises ends the connection: that is recorded, and the error passed on. A restart leads on.
   What could be taken for an error of ours (SnapshotError, StorageError) is passed on as a ConnectionError, its cause.
4. While a restart is under way, frames are held back, in their records. They are sent, in order, before any other
   frame is. The overflow policy decides when the queue is full.
5. A frame whose sending was requested and not confirmed is in doubt: nobody sends it again unasked. Sent again under
   its own id, its record says which request it repeats.
6. `receive` with nothing to receive writes nothing: one open request serves until a frame answers it. A frame is handed
   out only when it is recorded.
7. After another host has taken the session over, everything is `FencedError`, and the adapter is left alone: it is
   called right after our own record was created, or after a look that nobody wrote behind us.

    controller = RealtimeController(repo, "s1", adapter, sidecar)
    controller.connect()
    controller.send(RealtimeFrame.outgoing("frame-1", content_refs=["blob:1"]))
    frame = controller.receive()

    controller = RealtimeController.resume(repo, "s1", adapter, sidecar)   # on another host
    controller.complete_restart()
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TypeVar

from snapshots.environment import HasEnvironment
from snapshots.errors import IllegalTransitionError, InvalidStateError, LimitExceededError, SnapshotError
from snapshots.operations import operation
from snapshots.realtime.adapter import RealtimeAdapter
from snapshots.realtime.journal import WHAT, RealtimeJournal, take_over, told_in_doubt
from snapshots.realtime.overflow import QUEUE_BYTES_MAX, Decision, hold_back, room_of
from snapshots.realtime.progress import RealtimeProgress, frame_bytes
from snapshots.realtime.stored import QUEUED_BYTES_MAX
from snapshots.realtime.transitions import ACTIVE, ENDED, RESTARTING, check_transition, moved, restarting
from snapshots.realtime.values import (
    RealtimeBackpressureAction,
    RealtimeBackpressureState,
    RealtimeCloseReason,
    RealtimeConnectionId,
    RealtimeFrame,
    RealtimeFrameId,
    RealtimeRecordKind,
    RealtimeResponseId,
    RealtimeSessionId,
    RealtimeSessionRecord,
    RealtimeSessionSidecar,
    RealtimeSessionState,
    RealtimeSessionStatus,
    StreamCursor,
    StreamDirection,
)
from snapshots.state.values import json_text, rfc3339
from storage.errors import StorageError
from storage.keys import check_id

T = TypeVar("T")
V = TypeVar("V")
_K, _S = RealtimeRecordKind, RealtimeSessionStatus
STATE_BYTES_MAX = 32 << 10  # as JSON: every record repeats the state, and must have room for a frame
UNRETURNED_MAX = 256  # results kept for callers that come again


class SendOutcome(StrEnum):
    """What became of a frame."""

    SENT = "sent"
    GATED = "gated"
    SUMMARIZED = "summarized"
    DROPPED = "dropped"
    BLOCKED = "blocked"


_HELD_BACK = {
    RealtimeBackpressureAction.GATE: SendOutcome.GATED,
    RealtimeBackpressureAction.SUMMARIZE: SendOutcome.SUMMARIZED,
    RealtimeBackpressureAction.BLOCK: SendOutcome.BLOCKED,
}


_REFUSING = (RealtimeBackpressureAction.BLOCK, RealtimeBackpressureAction.FAIL_SEND)


@dataclass(frozen=True, slots=True)
class SendResult:
    """What became of a frame, and the number of the record that keeps it.

    "blocked" alone asks for more: send the frame again when the restart is complete.
    """

    outcome: SendOutcome
    sequence: int


@dataclass(frozen=True, slots=True)
class RestartCompleted:
    """There is a connection again.

    Attributes:
        sent_count: Frames that had been held back and were sent since, by this call, calls that failed, and others.
    """

    sent_count: int


@dataclass(frozen=True, slots=True)
class RestartFailed:
    """There is no connection; begin another restart, or close.

    Attributes:
        error: What the adapter raised.
    """

    error: Exception


class RealtimeController:
    """A realtime session as its host works with it. Safe for threads: one step at a time.

    Every step raises FencedError once another host has taken over, SessionDeletedError at the latest
    RECORDS_BEHIND_MAX records after the session was deleted, and UnavailableError if a record was not confirmed. A host
    that only polls (`receive` with nothing to receive) writes nothing: it learns at once that another host has taken
    over, and not at all that the session was deleted.

    Requests: a step is two PUTs, a frame that is held back one, a poll that finds nothing one GET; every 64 records one
    GET and one PUT more. To connect: three of each. To complete a restart: one of each, and two PUTs for every frame
    that was held back; to begin one after a connection has ended one PUT more than else. To resume: three PUTs, two
    listings, two GETs, and one for each record behind the checkpoint, or kept.

    Args:
        repo: Where.
        session_id: Which session; it need not have been committed.
        adapter: Carries the frames.
        sidecar: Route, policies and queue.
        run_id: The run that it serves, "" for none.
        agent_id: The agent, likewise.
    """

    def __init__(
        self,
        repo: HasEnvironment,
        session_id: str,
        adapter: RealtimeAdapter,
        sidecar: RealtimeSessionSidecar,
        *,
        run_id: str = "",
        agent_id: str = "",
    ) -> None:
        self.session_id = check_id(session_id, what="session id")
        self._environment = repo.environment
        self._adapter = adapter
        self._sidecar = sidecar
        self._run_id = run_id and check_id(run_id, what="run id")
        self._agent_id = agent_id and check_id(agent_id, what="agent id")
        self._connection_id = RealtimeConnectionId(self._environment.clock.new_id())
        self._found: RealtimeJournal | None = None
        self._inbox: RealtimeFrame | None = None  # taken from the adapter, not handed out
        self._unreturned: dict[RealtimeFrameId, RealtimeSessionRecord] = {}  # results of calls that failed, newest last
        self._blocked: dict[RealtimeFrameId, SendResult] = {}  # what this restart has asked to come again, newest last
        self._unsent: RealtimeSessionRecord | None = None  # a request whose frame the adapter was not given
        self._owed: RealtimeFrameId | None = None  # its frame, if it was taken out of the queue
        self._lost: Exception | None = None  # what ended the connection, until it is told
        self._completing = False  # connected again, and the caller does not know it
        self._sent_count = 0  # of what was held back, since then
        self._restart_error: Exception | None = None
        self._lock = threading.Lock()

    @classmethod
    @operation("realtime.resume", "repo.environment", "session_id")
    def resume(
        cls, repo: HasEnvironment, session_id: str, adapter: RealtimeAdapter, sidecar: RealtimeSessionSidecar
    ) -> RealtimeController:
        """Take a session over, from another host or one that has ended: a restart is begun, and to be completed.

        Queue, cursors, capacity and policies are those that are stored; the overflow policy is the sidecar's.

        Raises:
            SessionNotFoundError, SessionDeletedError: There is none.
            IllegalTransitionError: It is closed, or was never connected.
            FencedError: Another host was quicker with the same; resume again to take it over from that one.
            UnavailableError: Not confirmed; resume again. The former host may be fenced unless `applied` is "no".
            CorruptSnapshotError, UnsupportedSchemaError: What is stored cannot be read.
        """
        controller = cls(repo, session_id, adapter, sidecar)
        controller._found = take_over(controller._environment, session_id)
        return controller

    # What is known of it. Asks nobody.

    @property
    def state(self) -> RealtimeSessionState:
        """Return where the session stands. Raises IllegalTransitionError before it is connected."""
        return self._journal().progress.state

    @property
    def queued(self) -> tuple[RealtimeFrame, ...]:
        """Return the frames that are held back, oldest first."""
        return tuple(kept.frame for kept in self._journal().progress.queue)

    @property
    def in_doubt(self) -> tuple[RealtimeFrame, ...]:
        """Return the frames of which nobody knows whether they were sent, oldest first (rule 5)."""
        return tuple(kept.frame for kept in self._journal().progress.in_doubt)

    @property
    def undelivered(self) -> RealtimeFrame | None:
        """Return the frame that was taken from the adapter and is not recorded; `receive` hands it out, if it can."""
        return self._inbox

    # Steps.

    @operation("realtime.connect", "self._environment", "self.session_id")
    def connect(self) -> None:
        """Begin the session: record it, and open the connection.

        Raises:
            SessionExistsError: There is a realtime session of this id; resume it.
            SessionDeletedError, SessionMovedError: The id is spent, or the session lives elsewhere.
            IllegalTransitionError: This one is connected already, or was.
            LimitExceededError: The policies are too long.
            FencedError, UnavailableError: As for every step.
            Whatever the adapter raises; then a restart leads on.
        """
        with self._step(self._started) as journal:
            settled = self._settled(journal)
            self._tell_lost(settled)
            if settled is not None and settled.kind is _K.CONNECTED:
                return
            if journal.progress.sequence == 0:
                journal.append(_K.CONNECT_REQUESTED, state=journal.progress.state)
            check_transition(self.session_id, journal.progress.status, _S.CONNECTED)
            if journal.progress.status is not _S.CONNECTING:
                raise self._illegal(journal.progress.status.value, _S.CONNECTING.value, "restart it, or close it")
            self._call(journal, lambda: self._adapter.open(journal.progress.state))
            journal.append(_K.CONNECTED)

    @operation("realtime.send", "self._environment", "self.session_id")
    def send(self, frame: RealtimeFrame) -> SendResult:
        """Send a frame; during a restart hold it back.

        Raises:
            InvalidStateError: It is no frame, goes the other way, or is held back already.
            IllegalTransitionError: There is no connection, and no restart under way.
            LimitExceededError: The frame is too large; or it is refused for a full queue, which is recorded.
            FencedError, SessionDeletedError, UnavailableError: As for every step.
            Whatever the adapter raises: the frame, or one that was held back before it, is in doubt then.
        """
        if not isinstance(frame, RealtimeFrame):
            raise InvalidStateError(f"a frame is a RealtimeFrame, not a {type(frame).__name__}")
        if frame.direction is not StreamDirection.INPUT_TO_PROVIDER:
            raise InvalidStateError("this frame is from the provider; send one for it")
        with self._step(self._journal) as journal:
            self._tell_lost(self._settled(journal))
            done = self._continued(journal, frame.frame_id)
            if done is not None:
                return done
            held_back = {kept.frame.frame_id for kept in journal.progress.queue} | {self._owed}
            if frame.frame_id in held_back:
                raise InvalidStateError("this frame is held back already; it is sent after the restart")
            if journal.progress.status in RESTARTING:
                return self._hold_back(journal, frame)
            self._send_queue(journal)
            return self._deliver(journal, self._request(journal, frame))

    @operation("realtime.receive", "self._environment", "self.session_id")
    def receive(self) -> RealtimeFrame | None:
        """Return the next frame of the provider, None if there is none now.

        Raises:
            IllegalTransitionError: There is no connection.
            InvalidStateError, LimitExceededError: The adapter gave what is no frame from a provider, or too large a
                one; it is neither recorded nor handed out.
            FencedError, SessionDeletedError, UnavailableError: As for every step.
            Whatever the adapter raises.
        """
        with self._step(self._journal) as journal:
            self._tell_lost(self._settled(journal))
            if self._inbox is not None:
                return self._handed_out()
            if journal.progress.open_output:
                check_transition(self.session_id, journal.progress.status, _S.OUTPUT_RECEIVED)
            else:
                moved(_K.OUTPUT_RECEIVED, journal.progress.state)  # before something is received that cannot be counted
                journal.append(_K.OUTPUT_RECEIVE_REQUESTED)
            frame = self._call(journal, self._adapter.receive)
            return None if frame is None else self._recorded(journal, frame)

    @operation("realtime.interrupt", "self._environment", "self.session_id")
    def interrupt(self, response_id: RealtimeResponseId | None = None) -> None:
        """Make the provider stop: this response, or whatever it is at.

        Raises:
            IllegalTransitionError: There is no connection.
            InvalidStateError: That is no id of a response.
            FencedError, SessionDeletedError, UnavailableError: As for every step.
            Whatever the adapter raises.
        """
        if response_id is not None and not isinstance(response_id, RealtimeResponseId):
            raise InvalidStateError(f"want a RealtimeResponseId, not a {type(response_id).__name__}")
        with self._step(self._journal) as journal:
            settled = self._settled(journal)
            self._tell_lost(settled)
            kind = None if settled is None or settled.response_id != response_id else settled.kind
            if kind is _K.INTERRUPTED:
                return
            if kind is not _K.INTERRUPT_REQUESTED:
                journal.append(_K.INTERRUPT_REQUESTED, response_id=response_id)
            self._call(journal, lambda: self._adapter.interrupt(response_id))
            journal.append(_K.INTERRUPTED, response_id=response_id)

    @operation("realtime.begin_restart", "self._environment", "self.session_id")
    def begin_restart(self) -> None:
        """Begin a restart, under another connection id: from now on frames are held back.

        Raises:
            IllegalTransitionError: One is under way, or the session is closed.
            SessionMovedError: It was moved after its connection had ended.
            LimitExceededError: No further restart can be counted.
            FencedError, SessionDeletedError, UnavailableError: As for every step.
        """
        with self._step(self._journal) as journal:
            settled = self._settled(journal)
            self._completing = False
            if settled is not None and settled.kind is _K.RESTART_STARTED:
                return
            if journal.progress.status is not _S.RESTART_REQUESTED:
                check_transition(self.session_id, journal.progress.status, _S.RESTART_REQUESTED)
                if journal.progress.status in ENDED:
                    journal.claim_restart()  # a session without connection may have been moved: its state says so
                connection_id = RealtimeConnectionId(self._environment.clock.new_id())
                journal.append(_K.RESTART_REQUESTED, state=restarting(journal.progress.state, connection_id))
            journal.append(_K.RESTART_STARTED)

    @operation("realtime.complete_restart", "self._environment", "self.session_id")
    def complete_restart(self) -> RestartCompleted | RestartFailed:
        """Connect again, and send what was held back. Where there is a connection again, go on with what is left.

        Raises:
            IllegalTransitionError: No restart was begun, and nothing is held back.
            FencedError, SessionDeletedError, UnavailableError: As for every step.
            Whatever the adapter raises while the queue is sent; what was not sent stays in it.
        """
        with self._step(self._journal) as journal:
            settled = self._settled(journal)
            if settled is not None and settled.kind is _K.RESTART_FAILED and self._restart_error is not None:
                return RestartFailed(self._restart_error)
            is_left = self._completing or bool(journal.progress.queue) or self._owed is not None
            if journal.progress.status not in ACTIVE or not is_left:
                failed = self._restarted(journal)
                if failed is not None:
                    return failed
            self._send_queue(journal)
            self._completing = False
            return RestartCompleted(self._sent_count)

    @operation("realtime.close", "self._environment", "self.session_id")
    def close(self, reason: RealtimeCloseReason = RealtimeCloseReason.NORMAL) -> None:
        """End the connection: for good, or with "host_owned_detach" or "provider_failure" until a restart.

        Frames that are held back stay in the queue. Nobody sends them after the end, and they are not counted as
        dropped: `queued` names them.

        Raises:
            IllegalTransitionError: It is closed, or cannot end so from where it is.
            InvalidStateError: That is no reason.
            FencedError, SessionDeletedError, UnavailableError: As for every step.
            Whatever the adapter raises; it is recorded as ended all the same.
        """
        if not isinstance(reason, RealtimeCloseReason):
            raise InvalidStateError(f"want one of the reasons {', '.join(RealtimeCloseReason)}")
        with self._step(self._journal) as journal:
            settled = self._settled(journal)
            kind = None if settled is None or settled.close_reason is not reason else settled.kind
            if kind is _K.CLOSED:
                self._tell_lost(settled)
                return
            if kind is not _K.CLOSE_REQUESTED:
                journal.append(_K.CLOSE_REQUESTED, reason=reason)
            self._call(journal, lambda: self._adapter.close(reason), reason)
            journal.append(_K.CLOSED, reason=reason)

    # Parts of steps.

    @contextmanager
    def _step(self, journal_of: Callable[[], RealtimeJournal]) -> Iterator[RealtimeJournal]:
        """Let nobody else in, and no failure say that nothing was done if something may have been."""
        with self._lock:
            journal = journal_of()
            with told_in_doubt(lambda: journal.may_stand):
                yield journal

    def _started(self) -> RealtimeJournal:
        if self._found is None:
            self._found = RealtimeJournal.start(self._environment, self._first_progress())
        return self._found

    def _journal(self) -> RealtimeJournal:
        if self._found is None:
            raise self._illegal("not connected", "used", "connect it, or resume it")
        return self._found

    def _illegal(self, before: str, after: str, remedy: str) -> IllegalTransitionError:
        return IllegalTransitionError(f"{WHAT} {self.session_id!r}", from_status=before, to_status=after, remedy=remedy)

    def _first_progress(self) -> RealtimeProgress:
        sidecar = self._sidecar
        state = RealtimeSessionState(
            session_id=RealtimeSessionId(self.session_id),
            connection_id=self._connection_id,
            provider_route_ref=sidecar.provider_route_ref,
            send_cursor=StreamCursor.chunk(0),
            receive_cursor=StreamCursor.chunk(0),
            restart_count=0,
            backpressure_state=RealtimeBackpressureState.bounded(
                sidecar.queue_capacity, sidecar.backpressure_policy_ref
            ),
            lifecycle_status=_S.CONNECTING,
            policy_refs=sidecar.policy_refs,
        )
        size = len(json_text(state.model_dump(mode="json")).encode())
        if size > STATE_BYTES_MAX:
            raise LimitExceededError(f"realtime state of {STATE_BYTES_MAX} bytes", size)
        now = rfc3339(self._environment.clock.now())
        return RealtimeProgress(self.session_id, 0, state, now, self._run_id, self._agent_id)

    def _call(
        self,
        journal: RealtimeJournal,
        function: Callable[[], T],
        reason: RealtimeCloseReason = RealtimeCloseReason.PROVIDER_FAILURE,
    ) -> T:
        """Let the adapter work; what it raises is recorded as the end of the connection (rule 3)."""
        journal.check_still_ours()
        self._lost = None
        try:
            return function()
        except Exception as error:  # noqa: BLE001  it is recorded, and passed on
            self._lost = _told(error)
            journal.append(_K.CLOSED, reason=reason)
            raise self._lost from self._lost.__cause__
        except BaseException as error:  # noqa: BLE001  it is recorded, and passed on
            try:
                journal.append(_K.CLOSED, reason=reason)
            finally:
                raise error  # who interrupts us is heard first; the record is pending then

    def _tell_lost(self, settled: RealtimeSessionRecord | None) -> None:
        """Raise what ended the connection, if its record was not confirmed before now."""
        if settled is not None and settled.kind is _K.CLOSED and self._lost is not None:
            raise self._lost

    def _forget_refusals(self) -> None:
        """Forget that frames were asked to come again, or refused: there is a connection for them now."""
        self._blocked.clear()
        for frame_id, record in list(self._unreturned.items()):
            if record.kind is _K.BACKPRESSURE_APPLIED and record.state.backpressure_state.last_action in _REFUSING:
                del self._unreturned[frame_id]

    def _settled(self, journal: RealtimeJournal) -> RealtimeSessionRecord | None:
        """Write what a failed call left pending, and return it; what it came to is kept for who comes again."""
        settled = journal.settle()
        if settled is not None and settled.kind is _K.INPUT_SEND_REQUESTED:
            self._unsent = settled
            self._owed = settled.frame_id if settled.takes else self._owed
        if settled is not None and settled.kind in (_K.INPUT_SENT, _K.BACKPRESSURE_APPLIED):
            assert settled.frame_id is not None, "such records are about a frame"
            _keep(self._unreturned, settled.frame_id, settled)
        if self._inbox is not None and journal.progress.open_output:
            self._record(journal, self._inbox)  # we were interrupted before
        return settled

    def _continued(self, journal: RealtimeJournal, frame_id: RealtimeFrameId) -> SendResult | None:
        """Return the result of a send that was not confirmed, its frame sent now if it was not; None for another."""
        record = self._unreturned.pop(frame_id, None)
        if record is not None and record.kind is _K.BACKPRESSURE_APPLIED:
            return self._held_back(record)
        if record is not None:
            assert record.answers is not None, "what was sent was requested"
            return SendResult(SendOutcome.SENT, record.answers)
        unsent = self._unsent
        if unsent is None or unsent.frame_id != frame_id or journal.progress.status not in ACTIVE:
            return None
        is_same = unsent.state.connection_id == journal.progress.state.connection_id
        return self._send_unsent(journal, unsent) if is_same or self._owed is not None else None

    def _request(
        self, journal: RealtimeJournal, frame: RealtimeFrame, takes: tuple[int, ...] = ()
    ) -> RealtimeSessionRecord:
        """Record that a frame is going to be sent."""
        state = journal.progress.state
        moved(_K.INPUT_SENT, state)  # before something is sent that cannot be counted
        queue = state.backpressure_state
        left = queue.model_copy(update={"queued_frames": queue.queued_frames - len(takes)})
        return journal.append(
            _K.INPUT_SEND_REQUESTED,
            state=state.model_copy(update={"backpressure_state": left}),
            frame_id=frame.frame_id,
            frame=frame,
            takes=takes,
            repeats=journal.progress.request_in_doubt(frame.frame_id),
        )

    def _deliver(self, journal: RealtimeJournal, request: RealtimeSessionRecord) -> SendResult:
        """Send the frame of a request, and record that it was sent."""
        frame = request.frame
        assert frame is not None, "a request to send keeps its frame"
        self._unsent = request
        self._owed = frame.frame_id if request.takes else self._owed
        was_held_back = self._owed is not None

        def send() -> None:
            self._unsent = self._owed = None
            self._adapter.send(frame)

        self._call(journal, send)
        self._sent_count += was_held_back
        journal.append(_K.INPUT_SENT, frame_id=frame.frame_id, privacy=frame.privacy, answers=request.sequence)
        return SendResult(SendOutcome.SENT, request.sequence)

    def _send_unsent(self, journal: RealtimeJournal, request: RealtimeSessionRecord) -> SendResult:
        """Send what was requested and is known not to be sent; on another connection by another request."""
        if request.state.connection_id != journal.progress.state.connection_id:
            assert request.frame is not None, "a request to send keeps its frame"
            request = self._request(journal, request.frame)
        return self._deliver(journal, request)

    def _send_queue(self, journal: RealtimeJournal) -> None:
        """Send what was held back, oldest first."""
        if journal.progress.status not in ACTIVE:
            return
        if self._unsent is not None and self._owed is not None:
            self._send_unsent(journal, self._unsent)
        for kept in journal.progress.queue:
            self._deliver(journal, self._request(journal, kept.frame, takes=(kept.sequence,)))

    def _hold_back(self, journal: RealtimeJournal, frame: RealtimeFrame) -> SendResult:
        progress = journal.progress
        queue = progress.state.backpressure_state
        summary_id = RealtimeFrameId(self._environment.clock.new_id())
        decision = hold_back(frame, progress.queue, queue.capacity, self._sidecar.overflow, summary_id)
        if decision.action is RealtimeBackpressureAction.BLOCK and frame.frame_id in self._blocked:
            return self._blocked[frame.frame_id]  # one record for each frame, however often it is tried
        try:
            record = self._record_held_back(journal, frame, decision)
        except LimitExceededError:
            if decision.action is not RealtimeBackpressureAction.SUMMARIZE:
                raise
            refused = Decision(RealtimeBackpressureAction.FAIL_SEND)  # no record has room for such a summary
            record = self._record_held_back(journal, frame, refused)
        return self._held_back(record)

    def _record_held_back(
        self, journal: RealtimeJournal, frame: RealtimeFrame, decision: Decision
    ) -> RealtimeSessionRecord:
        progress = journal.progress
        count = len(progress.queue) - len(decision.takes) + decision.queued
        applied = progress.state.backpressure_state.applied(
            decision.action, queued_frames=count, dropped=decision.dropped_count
        )
        return journal.append(
            _K.BACKPRESSURE_APPLIED,
            state=progress.state.model_copy(update={"backpressure_state": applied}),
            frame_id=frame.frame_id,
            frame=frame,
            summary=decision.summary,
            takes=decision.takes,
            queued=decision.queued,
        )

    def _held_back(self, record: RealtimeSessionRecord) -> SendResult:
        """Return the result of holding a frame back; raise it if it was refused."""
        queue = record.state.backpressure_state
        action = queue.last_action
        if action is RealtimeBackpressureAction.FAIL_SEND:
            raise self._no_room(record)
        if action is RealtimeBackpressureAction.DROP_NONCRITICAL:
            return SendResult(SendOutcome.GATED if record.queued else SendOutcome.DROPPED, record.sequence)
        assert action is not None, "a frame that is held back is so by an action"
        result = SendResult(_HELD_BACK[action], record.sequence)
        if result.outcome is SendOutcome.BLOCKED:
            assert record.frame_id is not None, "such records are about a frame"
            _keep(self._blocked, record.frame_id, result)
        return result

    def _no_room(self, record: RealtimeSessionRecord) -> LimitExceededError:
        """Return the limit that a frame was refused for."""
        assert record.frame is not None, "a record of what is held back keeps the frame"
        queue = record.state.backpressure_state
        size = frame_bytes(record.frame) + sum(kept.size for kept in self._journal().progress.queue)
        if self._sidecar.overflow is RealtimeBackpressureAction.SUMMARIZE:
            size += frame_bytes(record.frame)  # its record keeps the frame as well
            return LimitExceededError(f"realtime summary of {QUEUED_BYTES_MAX} bytes", max(size, QUEUED_BYTES_MAX + 1))
        room = room_of(queue.capacity, self._sidecar.overflow)
        if queue.queued_frames >= room:
            return LimitExceededError(f"realtime queue of {room} frames", queue.queued_frames + 1)
        return LimitExceededError(f"realtime queue of {QUEUE_BYTES_MAX} bytes", size)

    def _recorded(self, journal: RealtimeJournal, frame: RealtimeFrame) -> RealtimeFrame | None:
        """Record a frame that was received, and hand it out."""
        self._inbox = frame
        if not isinstance(frame, RealtimeFrame) or frame.direction is not StreamDirection.OUTPUT_FROM_PROVIDER:
            self._inbox = None
            raise InvalidStateError("the adapter received what is no frame from a provider")
        self._record(journal, frame)
        return self._handed_out()

    def _record(self, journal: RealtimeJournal, frame: RealtimeFrame) -> None:
        """Record a frame that was received; keep it if that is not confirmed (rule 6)."""
        try:
            journal.append(
                _K.OUTPUT_RECEIVED,
                frame_id=frame.frame_id,
                frame=frame,
                response_id=frame.response_id,
                answers=journal.progress.open_output,
            )
        except Exception:
            if journal.pending is None:  # refused, not in doubt: it can never be recorded, so it is not handed out
                self._inbox = None
            raise

    def _handed_out(self) -> RealtimeFrame | None:
        frame, self._inbox = self._inbox, None
        return frame

    def _restarted(self, journal: RealtimeJournal) -> RestartFailed | None:
        """Let the adapter connect again, and record what came of it."""
        check_transition(self.session_id, journal.progress.status, _S.RESTART_COMPLETED)
        if journal.progress.status is not _S.RESTART_STARTED:
            before = journal.progress.status.value
            raise self._illegal(before, _S.RESTART_COMPLETED.value, "begin a restart first")
        journal.check_still_ours()
        self._restart_error = None
        try:
            self._adapter.restart(journal.progress.state)
        except Exception as error:  # noqa: BLE001  whatever it is, there is no connection
            self._restart_error = error
            journal.append(_K.RESTART_FAILED)
            return RestartFailed(error)
        except BaseException as error:  # noqa: BLE001  it is recorded, and passed on
            try:
                journal.append(_K.RESTART_FAILED)
            finally:
                raise error  # who interrupts us is heard first; the record is pending then
        self._completing, self._sent_count = True, 0
        self._forget_refusals()
        journal.append(_K.RESTART_COMPLETED)
        return None


def _keep(kept: dict[RealtimeFrameId, V], frame_id: RealtimeFrameId, value: V) -> None:
    """Keep a value for a frame, and not too many of them."""
    kept[frame_id] = value
    for oldest in list(kept)[:-UNRETURNED_MAX]:
        del kept[oldest]


def _told(error: Exception) -> Exception:
    """Return what is raised for an error of the adapter: one that nobody takes for ours (rule 3)."""
    if not isinstance(error, (SnapshotError, StorageError)):
        return error
    told = ConnectionError(f"the adapter raised {type(error).__name__}: {error}")
    told.__cause__ = error
    return told
