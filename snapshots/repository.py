"""`SnapshotRepository`: the sessions of one tenant in one store. The facade; the work is done in the modules below.

Rules:
1. Safe for threads; one state object belongs to one thread.
2. A commit is applied once or not at all, and says which; when it cannot know, `CommitUnknownError` says how to go on.
3. Nothing is read from or written to a store that was not created as one (`~store`).

    with SnapshotRepository.open("file:sessions") as repo:
        state = PersistedSessionState(session_id="s1")
        repo.commit(state)
        state = repo.load("s1")
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import BinaryIO, Self

from snapshots import (
    commit,
    delete,
    diff,
    execution,
    forest,
    fork,
    leases,
    pinning,
    reading,
    restore,
    rewind,
    sessions,
    writer,
)
from snapshots.children import ChildRequest, CurrentStart, Start, start_child
from snapshots.compaction import Limits
from snapshots.diff import SessionDiff
from snapshots.environment import Environment
from snapshots.errors import LimitExceededError, StoreNotFoundError
from snapshots.forest import SessionTree
from snapshots.fork import ForkRequest, ForkResult, InitialNodes
from snapshots.head import TAIL_PACK_BYTES_MAX
from snapshots.history import RESTORE, REWIND
from snapshots.layout import Layout
from snapshots.opening import open_store_object
from snapshots.operations import operation, operation_in, yielding_operation
from snapshots.overrides import INHERIT
from snapshots.pins import Pin
from snapshots.restore import Loaded
from snapshots.sessions import RevisionInfo, SessionInfo, StoreStats
from snapshots.stamps import TurnStamp
from snapshots.state import (
    AppendedNodes,
    CommitResult,
    PersistedSessionState,
    PluginSession,
    SessionPolicy,
    SessionRelation,
    StaleBranch,
)
from snapshots.update import Updates, load_to_commit
from snapshots.writer import Writer
from storage.backends import open_store
from storage.clock import Clock, SystemClock
from storage.errors import NotFoundError
from storage.executor import NestingExecutor
from storage.leases import Free, Lease
from storage.store import ObjectStore
from storage.wrappers.metered import MeteredStore, Metrics
from storage.wrappers.observed import observed

RevisionOf = str | tuple[str, int | str | None]
"""A session id for its present revision, or a pair of session id and number or pin of a revision."""

THREADS_MAX = 8  # more make a Python client slower, not faster


class SnapshotRepository:
    """Commits, loads and lists the sessions of one tenant.

    Args:
        store: Where everything lies; `SnapshotRepository.open` makes one from a URL.
        tenant: Whose sessions; 1-512 bytes of text, part of every key and checked on every read.
        create: Whether to make a store where there is none.
        clock: Time, ids and jitter; tests pass their own.
        url: How to name the store in errors.
        inline_limit_bytes: A commit that stores no more is one request, its bytes lie in the head for a while; 0 for
            none, at most 8 KiB.

    Raises:
        StoreNotFoundError: There is no store and `create` is False.
        UnsupportedSchemaError: The store is of a later format.
        UnsupportedServerError: A probe found that the server would lose work.
        PermissionDeniedError: There is no store, and these credentials may not make one.
    """

    def __init__(
        self,
        store: ObjectStore,
        *,
        tenant: str = "default",
        create: bool = True,
        clock: Clock | None = None,
        url: str = "this store",
        inline_limit_bytes: int = TAIL_PACK_BYTES_MAX,
    ) -> None:
        if not 0 <= inline_limit_bytes <= TAIL_PACK_BYTES_MAX:
            raise LimitExceededError(f"inline_limit_bytes of 0..{TAIL_PACK_BYTES_MAX}", inline_limit_bytes)
        metered = MeteredStore(observed(store))
        self._metrics = metered.metrics
        self._executor = NestingExecutor(THREADS_MAX, thread_name_prefix="snapshots")
        limits = Limits(tail_pack_bytes=inline_limit_bytes)
        self._environment = Environment(metered, Layout(tenant), clock or SystemClock(), self._executor, limits=limits)
        try:
            with operation_in(tenant, "open"):
                opened = open_store_object(self._environment, create=create, url=url)
        except BaseException:
            self._executor.shutdown()
            raise
        facts = opened.facts
        self._environment = replace(
            self._environment,
            store=opened.store,
            home=(facts.store_id, tenant),
            schema_version=facts.schema_version,
        )
        self._server_findings = opened.findings
        self._updates = Updates(self._environment)

    @classmethod
    def open(
        cls, url: str, tenant: str = "default", *, create: bool = True, inline_limit_bytes: int = TAIL_PACK_BYTES_MAX
    ) -> SnapshotRepository:
        """Open the store at `url`: `memory:`, `file:PATH`, `archive:PATH` or `s3://bucket/prefix?endpoint_url=…&region=…`.

        Args:
            url: Where the store is.
            tenant: Whose sessions.
            create: Whether to make a store where there is none.
            inline_limit_bytes: As for the class.

        Raises:
            StoreNotFoundError: There is none, and `create` is False.
            InvalidKeyError: Not such a URL, or no tenant's name.
            PermissionDeniedError: The store refused us.
            UnsupportedServerError: A probe found that the server would lose work. `one_writer=yes` in the URL allows it
                for a single writer at a time.
            CorruptObjectError: An archive that was cut or altered.
            UnavailableError: The store did not answer.
        """
        try:
            store = open_store(url)
        except NotFoundError as error:  # an archive, which is opened here
            raise StoreNotFoundError(
                url, f"there is no store here ({error.message})", remedy="check the URL"
            ) from error
        return cls(store, tenant=tenant, create=create, url=url, inline_limit_bytes=inline_limit_bytes)

    @property
    def tenant(self) -> str:
        """Return whose sessions these are."""
        return self._environment.layout.tenant

    @property
    def environment(self) -> Environment:
        """Return what the operations work with; for maintenance, which takes a repository."""
        return self._environment

    @property
    def server_findings(self) -> tuple[str, ...]:
        """Return what the server does not keep, if it was admitted for one writer at a time all the same; else none."""
        return self._server_findings

    @property
    def metrics(self) -> Metrics:
        """Return the counts of requests and bytes so far, by verb."""
        return self._metrics

    def commit(
        self,
        state: PersistedSessionState,
        stamp: TurnStamp | None = None,
        execution_state: bytes | BinaryIO | None = None,
    ) -> CommitResult:
        """Commit `state` as the next revision; afterwards the state stands on it and only refs remain inline.

        The first commit of a state without `head_revision` creates the session. If it raises, the state is as before,
        and committing it again is safe: a commit that was applied after all is recognised.

        Args:
            state: What to commit. Work is in proportion to what is new in it.
            stamp: Makes the commit idempotent across processes: the same turn with the same content is applied once.
                Give it a hash of the turn's input if a turn may be redone after a crash; without one, the content is
                what the commit adds to its base. A turn that was committed before returns its stored result, and the
                state becomes what was stored then.
            execution_state: New execution state, as bytes or a binary stream, which is read once, from where it stands,
                and brought back there if the commit fails (one that cannot seek: open it again); None for what the
                state has. Of a large one (above 256 MiB) only a few windows are held in memory, and what is new of it
                lies compressed in a temporary file (`TMPDIR`) until the commit ends.

        Returns:
            Revision, checkpoint ref, refs of the parts, commit id, bytes uploaded and requests made.

        Raises:
            RevisionConflictError: Someone else committed first. Load, apply the turn again, commit.
            TurnConflictError: This turn was committed with other content.
            RevisionNotFoundError: This turn was committed, and retention has dropped its revision since.
            FencedError: Another owner has taken the session over.
            SessionDeletedError: The id is spent.
            CommitUnknownError: It may or may not have been applied. Commit again with the same arguments.
            InvalidStateError: The state breaks a rule; nothing was written.
            LimitExceededError: The head would grow over its bound.
            UnavailableError: The store did not answer; nothing was committed.
        """
        return commit.commit(self._environment, state, stamp, execution_state=execution_state)

    @operation("load", "self._environment", "session_id", revision="head_revision")
    def load(
        self, session_id: str, revision: int | str | None = None, *, execution_state: bool = False
    ) -> PersistedSessionState:
        """Load a revision; tool state and plugin snapshot are filled in.

        Args:
            session_id: Which session.
            revision: Number or pin of a revision; None for the present one. A state of an older one can be read, not
                committed: rewind first, or fork it.
            execution_state: Whether to fill in the execution state as well.

        Raises:
            SessionNotFoundError: No such session.
            SessionDeletedError: It was deleted.
            RevisionNotFoundError: No such revision, or retention dropped it.
            CorruptSnapshotError: Something stored is missing or altered; nothing is ever made up.
            UnavailableError: The store did not answer.
        """
        return load_to_commit(self._environment, session_id, revision=revision, execution_state=execution_state)

    @operation("read_execution_state", "self._environment", "state.session_id")
    def read_execution_state(self, state: PersistedSessionState) -> bytes:
        """Return the execution state of a loaded or committed state.

        Raises:
            InvalidStateError: It has none, or was not loaded from here.
            CorruptSnapshotError: The stored bytes are missing or altered.
        """
        return execution.read_execution_state(self._environment, state)

    def open_execution_state(self, state: PersistedSessionState) -> BinaryIO:
        """Return the execution state as a seekable stream that reads on demand. Raises as `read_execution_state`."""
        return execution.open_execution_state(self._environment, state)

    @operation("update", "self._environment", "session_id", revision="head_revision")
    def update(
        self,
        session_id: str,
        function: Callable[[PersistedSessionState], None],
        stamp: TurnStamp | None = None,
    ) -> CommitResult:
        """Load, apply `function`, commit; again on the newer state whenever somebody was faster.

        What the repository knows of the session from an earlier update is not read again: while nobody else writes it,
        an update is one request. The state may then be older than what others have committed; what `function` raises,
        or finds done already, counts only if the session is seen to stand there still, else it is called again.

        Updates of one session in one repository go one after the other. An update within `function` does not wait;
        `function` must not wait for updates in other threads, which wait for it, 10 seconds at most.

        With a stamp it may itself be called again, after a crash or by another process: a turn that stands in the
        session already is not applied again, its stored result is returned.

        Args:
            session_id: Which session.
            function: Changes the state in place; it is called once per attempt, on a fresh state, and what it does
                beside that it may do several times.
            stamp: As for `commit`.

        Raises:
            RevisionConflictError: Somebody was faster `update.ATTEMPTS_MAX` times.
            CommitUnknownError: In doubt to the end. With a stamp call it again; without, load and look first.
            And as `load` and `commit`.
        """
        return self._updates.update(session_id, function, stamp)

    def fork(
        self,
        source: str,
        child: str,
        revision: int | str | None = None,
        *,
        relation: SessionRelation | None = None,
        plugins: str = INHERIT,
        policy: SessionPolicy | None = None,
        initial_nodes: InitialNodes = (),
    ) -> ForkResult:
        """Start a new session from a revision of another one, without copying a byte of it.

        Three requests, whatever its size; up to five for an older revision. The child has revision 1, an empty ledger,
        and a history of its own; neither can affect the other afterwards.

        Args:
            source: Session to fork from; it may be committing meanwhile.
            child: Id of the new session.
            revision: Number or pin of the source's revision, None for the present one.
            relation: What the child is to its parent; None for a child of the source.
            plugins: "inherit", or "fresh": without the plugin snapshot.
            policy: Policy of its own, None for the source's. A child's policy names the child either way.
            initial_nodes: Appended to the child's graph; they are stored in one pack, one more request.

        Raises:
            SessionExistsError: The child's id is taken.
            SessionDeletedError: The source was deleted, or the child's id is spent.
            SessionNotFoundError: No such source (a reservation counts as none).
            RevisionNotFoundError: No such revision or pin, or it expired, or retention dropped it.
            CommitUnknownError: It may or may not have been made. Load the child to see, or fork under another id.
            UnavailableError: The store did not answer; there is no child.
        """
        request = ForkRequest(source, child, revision, relation, plugins, policy, tuple(initial_nodes))
        return fork.fork(self._environment, request)

    @operation("start_child", "self._environment", "parent")
    def start_child(
        self,
        parent: str,
        start: Start | None = None,
        child: str | None = None,
        *,
        relation: SessionRelation | None = None,
        plugins: str = INHERIT,
        policy: SessionPolicy | None = None,
        initial_nodes: InitialNodes = (),
    ) -> ForkResult:
        """Start a child session: empty, from the parent, from another session, or from a given state.

        Args:
            parent: The session it belongs to.
            start: `EmptyStart`, `CurrentStart`, `ExistingStart` or `SnapshotStart`; None for the parent's present
                revision. A given state is referenced while it is a revision stored here, uploaded otherwise.
            child: Its id, None for a new one.
            relation: None for a child of the parent.
            plugins: "inherit", or "fresh": without the plugin snapshot.
            policy: None for that of the starting point; of the parent for an empty one.
            initial_nodes: Appended to its graph.

        Raises:
            As `fork`; and InvalidStateError for a state whose parts lie in another store.
        """
        request = ChildRequest(start or CurrentStart(), child, relation, plugins, policy, tuple(initial_nodes))
        return start_child(self._environment, parent, request)

    @operation("rewind", "self._environment", "session_id", revision="head_revision")
    def rewind(self, session_id: str, revision: int | str) -> CommitResult:
        """Make a new revision with the content of an ancestor; what came after stays in the history.

        No byte of content is copied. Ledger and turns are the ancestor's: a turn that was left behind may be redone.

        Raises:
            RevisionNotFoundError: No such revision or pin, or retention dropped it.
            InvalidStateError: It is no ancestor of the present revision; use `restore`.
            RevisionConflictError: Someone committed meanwhile. Look, and rewind again.
            FencedError: The session is held; use its `Writer`.
            CommitUnknownError: It may or may not have been applied. Look for its commit id in the history first.
            And as `load`.
        """
        return rewind.go_back(self._environment, session_id, revision, kind=REWIND)

    @operation("restore", "self._environment", "session_id", revision="head_revision")
    def restore(self, session_id: str, revision: int | str) -> CommitResult:
        """Make a new revision with the content of any retained one, such as one left behind by a rewind.

        Raises:
            As `rewind`, without the ancestor's condition.
        """
        return rewind.go_back(self._environment, session_id, revision, kind=RESTORE)

    @operation("diff", "self._environment")
    def diff(self, a: RevisionOf, b: RevisionOf) -> SessionDiff:
        """Compare two revisions, of one session or of two.

        Args:
            a: Session id for its present revision, or a pair of session id and revision (number or pin).
            b: Likewise.

        Raises:
            As `load`.
        """
        return diff.diff(self._loaded(a), self._loaded(b))

    def _loaded(self, which: RevisionOf) -> Loaded:
        session_id, revision = (which, None) if isinstance(which, str) else which
        return restore.load(self._environment, session_id, revision=revision, execution_state=False)

    @operation("pin", "self._environment", "session_id")
    def pin(self, session_id: str, revision: int | str, name: str, expires_at: datetime | None = None) -> Pin:
        """Name a revision: retention keeps it, and the name stands for it wherever a revision is asked for.

        Args:
            session_id: Which session.
            revision: Number of the revision, or another pin's name.
            name: 1-64 of `a-z 0-9 . _ -` with at least one letter.
            expires_at: When the name ceases to stand for it; an aware instant, None for never.

        Raises:
            RevisionNotFoundError: No such revision, or retention dropped it.
            InvalidStateError: Not a name, a past expiry, or the name stands for another revision; unpin that first.
            LimitExceededError: There are 64 pins already.
            And as `load`.
        """
        return pinning.pin(self._environment, session_id, revision, name, expires_at=expires_at)

    @operation("unpin", "self._environment", "session_id")
    def unpin(self, session_id: str, name: str) -> None:
        """Take a name away. Raises RevisionNotFoundError for one that is not there, and as `load`."""
        pinning.unpin(self._environment, session_id, name)

    @operation("pins", "self._environment", "session_id")
    def pins(self, session_id: str) -> tuple[Pin, ...]:
        """Return a session's pins in order of name, expired ones too. Raises as `load`."""
        return reading.read_live_head(self._environment, session_id).head.pins

    @operation("acquire", "self._environment", "session_id")
    def acquire(self, session_id: str, owner: str, *, plugins: PluginSession | None = None) -> Writer:
        """Take a session over, from whoever holds it: from now on only the returned `Writer` commits.

        Args:
            session_id: Which session.
            owner: Who takes it over, 1-512 bytes of text; for people and for `release`.
            plugins: Live plugins and tools to give their state back to.

        Returns:
            The `Writer`, with state, report, and the turn that an earlier owner left in flight.

        Raises:
            UnavailableError: Others kept taking it over, or the store did not answer. Acquire again.
            And as `load`.
        """
        return writer.acquire(self._environment, session_id, owner, plugins=plugins)

    @operation("release", "self._environment", "session_id")
    def release(self, session_id: str, owner: str) -> None:
        """Clear the holder of a session by its name; for an owner that is gone. Nothing to clear is no error.

        Raises:
            FencedError: Somebody else holds it.
            And as `load`.
        """
        writer.release(self._environment, session_id, owner)

    @operation("claim_lease", "self._environment", "session_id")
    def claim_lease(self, session_id: str, owner: str, ttl_seconds: float) -> Lease:
        """Take the lease of a session for a while: who may ask to work on it. Nothing rests on it; `acquire` does that.

        Raises:
            LeaseHeldError: Another owner holds it; says who, and until when.
            InvalidStateError: `ttl_seconds` is not above 0 and at most 30 days.
            UnavailableError: Nothing was confirmed; claim it again.
        """
        return leases.claim_lease(self._environment, session_id, owner, ttl_seconds)

    @operation("read_lease", "self._environment", "session_id")
    def read_lease(self, session_id: str) -> Lease | Free:
        """Return the lease that is held now, or `Free` with the fence of the last one. Asks, and changes nothing."""
        return leases.read_lease(self._environment, session_id)

    @operation("renew_lease", "self._environment", "session_id")
    def renew_lease(self, session_id: str, lease: Lease, ttl_seconds: float) -> Lease:
        """Let a lease last `ttl_seconds` from now.

        Raises:
            FencedError: It was claimed by somebody since; stop.
            IllegalTransitionError: It has expired, or was released; claim it again.
        """
        return leases.renew_lease(self._environment, session_id, lease, ttl_seconds)

    @operation("release_lease", "self._environment", "session_id")
    def release_lease(self, session_id: str, lease: Lease) -> None:
        """Give a lease up. Raises FencedError if it was claimed since; that claim stays."""
        leases.release_lease(self._environment, session_id, lease)

    @operation("append_session_nodes", "self._environment", "session_id")
    def append_session_nodes(
        self, session_id: str, items: InitialNodes, *, requires_ancestor_node_id: str | None = None
    ) -> AppendedNodes | StaleBranch:
        """Append nodes to the present revision and commit, unless the branch has moved away meanwhile.

        Args:
            session_id: Which session.
            items: Messages, mode events, plugin records.
            requires_ancestor_node_id: A node that must be on the active path; if it is not, nothing is written.

        Raises:
            As `update`.
        """
        ancestor = requires_ancestor_node_id
        return self._updates.append_session_nodes(session_id, items, requires_ancestor_node_id=ancestor)

    @operation("history", "self._environment", "session_id")
    def history(self, session_id: str) -> tuple[RevisionInfo, ...]:
        """Return all revisions that ever were, oldest first; those that retention dropped are marked."""
        return sessions.history(self._environment, session_id)

    @yielding_operation("sessions", "self._environment")
    def sessions(self) -> Iterator[SessionInfo]:
        """Yield all sessions of the tenant, deleted and reserved ones too, in the order of their keys."""
        return sessions.sessions(self._environment)

    @operation("forest", "self._environment")
    def forest(self) -> tuple[SessionTree, ...]:
        """Return all sessions as trees of forks and children, with what each has stored; oldest root first.

        Reads every head, and lists every pack once.

        Raises:
            CorruptSnapshotError: A head, or something that it names, is missing or altered.
            UnavailableError: The store did not answer.
        """
        return forest.forest(self._environment)

    @operation("stats", "self._environment")
    def stats(self) -> StoreStats:
        """Return how much the tenant has stored; lists every object and reads every head."""
        return sessions.stats(self._environment)

    @operation("delete", "self._environment", "session_id")
    def delete(self, session_id: str) -> None:
        """Delete a session: its head becomes a tombstone, its id is spent. Its bytes go with the next collection.

        Raises:
            SessionNotFoundError: No such session.
            SessionDeletedError: It was deleted before.
            UnavailableError: The store did not answer; `applied` says whether it may have happened. Delete again.
        """
        delete.delete(self._environment, session_id)

    def drain(self) -> None:
        """Wait for what goes on in the background: the upload that makes the next commit cheaper (`snapshots.ahead`).

        Nothing is lost without it. Call it before a host freezes the process between two calls, as serverless ones do,
        or before counting what a turn has cost.
        """
        self._executor.drain()

    def close(self) -> None:
        """Wait for what goes on in the background and let the threads go. The repository cannot be used afterwards."""
        self._executor.shutdown()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
