"""Forking: a new session whose first revision is another session's, without copying or storing anything of it.

Requests: reserve the child, read the source, publish the child. An older revision takes a stretch of the log of places
as well, and its manifest where it is small enough for the child's head.

Rules:
1. The child's head exists, reserved, before the source is read on its behalf.
2. What the child names is taken from the source's head read in this very attempt, and published only while the
   source's epoch is at least the child's: then every collection that could delete it has marked it.
3. A source that lags behind is helped: it is raised to a fresh number, by compare-and-swap, and read again.
4. A fork that brings nodes of its own, or more overrides than a head takes, stores one pack of its own, uploaded after
   the child's head was read at the epoch it has at the publish.
5. Nothing of the source changes, but for its epoch under rule 3. A failed fork may leave a reservation, which reads as
   "not found" and which the next creator takes over.
6. The child's head does not say what a load reads of the source's packs: those of the source's history are not kept for
   the child, and only the manifest, which is not read here, tells which these are.

    result = fork(environment, ForkRequest("s1", "s2"))
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from snapshots import codec
from snapshots.base import Base
from snapshots.content import content_of
from snapshots.environment import Environment
from snapshots.epochs import raised, take_number
from snapshots.errors import (
    LOOK_FIRST,
    FencedError,
    InvalidStateError,
    RevisionConflictError,
    SessionExistsError,
)
from snapshots.head import (
    INLINE_MANIFEST_BYTES_MAX,
    LIVE,
    Head,
    Origin,
    Ring,
    check_relation,
)
from snapshots.history import FORK
from snapshots.layout import pack_name
from snapshots.operations import operation
from snapshots.overrides import FRESH, INHERIT, OVERRIDES_BYTES_MAX, Overrides
from snapshots.placement import PlaceRow, unseal_manifest
from snapshots.publish import ATTEMPTS_MAX, Found, Publication, intent_on
from snapshots.reading import (
    HeadRead,
    manifest_from,
    named_by,
    read_manifest_bytes,
    read_place,
    retried_while_moving,
    revision_of,
)
from snapshots.restore import load_from
from snapshots.rewrite import rewrite_head
from snapshots.staging import Identity, Staged, inline_manifest, stage
from snapshots.state import (
    ChildRelation,
    HandoffRelation,
    Message,
    ModeEvent,
    PluginPayload,
    RootRelation,
    SessionPolicy,
    SessionRelation,
    relation_parent,
)
from storage.digest import BlobRef
from storage.keys import check_id
from storage.packs import write_pack
from storage.wrappers.metered import MeteredStore

InitialNodes = Sequence[Message | ModeEvent | PluginPayload]


@dataclass(frozen=True, slots=True)
class ForkRequest:
    """What to fork, and how the child differs.

    Attributes:
        source: Session to fork from.
        child: Id of the new session.
        revision: Number or pin of the source's revision, None for the present one.
        relation: What the child is to its parent; None for a child of the source.
        plugins: "inherit", or "fresh": without the plugin snapshot.
        policy: Policy of its own, None for the source's. Either way a child's policy names the child.
        initial_nodes: Appended to the graph of the child's first revision.
    """

    source: str
    child: str
    revision: int | str | None = None
    relation: SessionRelation | None = None
    plugins: str = INHERIT
    policy: SessionPolicy | None = None
    initial_nodes: InitialNodes = ()

    def related(self) -> SessionRelation:
        """Return the child's relation."""
        return self.relation or ChildRelation(parent_session_id=self.source)

    def overrides(self, named: PlaceRow, identity: Identity) -> Overrides:
        """Return how the child's first revision differs from the source's, named by `named`."""
        return Overrides(
            base_ref=named.checkpoint_ref,
            base_revision=named.revision,
            commit_id=identity.commit_id,
            created_at=identity.created_at,
            plugins=self.plugins,
            policy=self.policy,
            policy_session_id="" if relation_parent(self.related()) is None else self.child,
        )


@dataclass(frozen=True, slots=True)
class ForkResult:
    """A new session.

    Attributes:
        session_id: The child.
        head_revision: Always 1.
        checkpoint_ref: Of its first revision.
        commit_id: Commit that made it.
        origin: Where it came from, None when nothing of another session is referenced.
        uploaded_bytes: Bytes sent for it.
        requests: Requests made for it.
    """

    session_id: str
    head_revision: int
    checkpoint_ref: BlobRef
    commit_id: str
    origin: Origin | None
    uploaded_bytes: int
    requests: int


@operation("fork", "environment", "request.child", revision="head_revision")
def fork(environment: Environment, request: ForkRequest) -> ForkResult:
    """Fork a session; see `SnapshotRepository.fork`."""
    _check(request)
    metered = MeteredStore(environment.store)
    first, origin, commit_id = _Fork(replace(environment, store=metered), request).run()
    counts = metered.metrics.snapshot()
    return ForkResult(
        session_id=request.child,
        head_revision=1,
        checkpoint_ref=first,
        commit_id=commit_id,
        origin=origin,
        uploaded_bytes=counts["put"].bytes_out,
        requests=counts.total_requests,
    )


def _check(request: ForkRequest) -> None:
    """Refuse what can be refused before anything is written."""
    check_id(request.source, what="session id")
    if request.source == request.child:
        raise SessionExistsError(request.child)
    check_child(request.child, request.related(), request.plugins, request.initial_nodes)


def check_child(child: str, relation: SessionRelation, plugins: str, initial_nodes: InitialNodes) -> None:
    """Check what a new child session is asked to be.

    Raises:
        InvalidKeyError: Not an id.
        InvalidStateError: Its own parent; not a relation, not nodes; neither "inherit" nor "fresh".
        LimitExceededError: The relation is too large for a head.
    """
    check_id(child, what="session id")
    if plugins not in (INHERIT, FRESH):
        raise InvalidStateError(f"plugins={plugins!r} is neither {INHERIT!r} nor {FRESH!r}")
    if not isinstance(relation, RootRelation | ChildRelation | HandoffRelation):
        raise InvalidStateError(
            f"relation={relation!r:.80} is none; give a RootRelation, ChildRelation, HandoffRelation"
        )
    wrong = [node for node in initial_nodes if not isinstance(node, Message | ModeEvent | PluginPayload)]
    if wrong:
        raise InvalidStateError(f"initial_nodes has {wrong[0]!r:.80}; give messages, mode events or plugin records")
    parent = relation_parent(check_relation(relation))
    if parent is not None:
        check_id(parent, what="parent session id")
    if parent == child:
        raise InvalidStateError(f"session {child!r} cannot be its own parent")


@dataclass(frozen=True, slots=True)
class _Source:
    """A revision of the source as its head, read in this attempt, names it.

    Attributes:
        read: The source's head.
        named: Where the revision lies.
        inline: Stored form of its manifest if it is small enough to stand in a head, b"" otherwise.
    """

    read: HeadRead
    named: PlaceRow
    inline: bytes


class _Fork:
    """One call of `fork`."""

    def __init__(self, environment: Environment, request: ForkRequest) -> None:
        self._environment = environment
        self._request = request
        self._identity = Identity(environment.clock.new_id(), environment.clock.now(), None)
        intent = intent_on(environment, request.child, None, self._identity, remedy=LOOK_FIRST)
        self._publication = Publication(environment, intent, self._identity)

    def run(self) -> tuple[BlobRef, Origin, str]:
        """Return the checkpoint of the child's first revision, its origin, and the commit's id."""
        try:
            head = self._published(self._publication.reserve())
        except Found as found:
            head = found.read.head
        except (RevisionConflictError, FencedError) as error:
            raise SessionExistsError(self._request.child) from error
        assert head.origin is not None, "a fork's head names its origin"
        with self._publication.applied():
            return self._first_checkpoint(head), head.origin, self._identity.commit_id

    def _first_checkpoint(self, head: Head) -> BlobRef:
        if head.status == LIVE and head.revision == 1:
            return named_by(head).checkpoint_ref
        return retried_while_moving(  # somebody was quick to use the child, before we learnt that it exists
            self._environment,
            self._request.child,
            lambda read: self._named(read.head, 1).checkpoint_ref,
        )

    def _published(self, child: HeadRead) -> Head:
        for attempt in range(1, ATTEMPTS_MAX + 1):
            sent = self._publication.send(child.version, self._next_head(child.head), attempt)
            if isinstance(sent, HeadRead):
                return sent.head
            child = sent.read
        raise AssertionError("the last attempt returns or raises")

    def _next_head(self, child: Head) -> Head:
        """Return the child's head, from the source read now (rule 2)."""
        with self._publication.doubting():
            return retried_while_moving(
                self._environment, self._request.source, lambda read: self._from_source(read, child)
            )

    def _from_source(self, read: HeadRead, child: Head) -> Head:
        read = self._helped(read, child)
        source = self._source(read)
        overrides = self._request.overrides(source.named, self._identity).on(source.named.overrides)
        if self._request.initial_nodes or len(codec.encode(overrides.to_plain())) > OVERRIDES_BYTES_MAX:
            return self._with_pack(source, child)
        return replace(
            self._born(source, child),
            checkpoint_ref=overrides.checkpoint_ref(),
            manifest=source.named.manifest,
            inline_manifest=source.inline,
            overrides=overrides,
        )

    def _helped(self, read: HeadRead, child: Head) -> HeadRead:
        """Return the source's head at an epoch that is at least the child's (rule 3)."""
        if read.head.epoch >= child.epoch:
            return read
        number = take_number(self._environment, above=child.epoch)
        return rewrite_head(self._environment, read, lambda head: raised(head, number))

    def _source(self, read: HeadRead) -> _Source:
        environment, head = self._environment, read.head
        revision = revision_of(head, self._request.revision, environment.clock.now())
        if revision == head.revision:
            named = named_by(head)
            if head.inline_manifest:
                key = environment.layout.head(head.session_id)
                manifest_from(unseal_manifest(head.inline_manifest, key=key), named, key=key)
            return _Source(read, named, head.inline_manifest)
        named = self._named(head, revision)
        place = named.manifest
        if not head.inline_manifest or place.against is not None or place.stored_bytes > INLINE_MANIFEST_BYTES_MAX:
            return _Source(read, named, b"")
        raw = read_manifest_bytes(environment, head, named)
        manifest_from(raw, named, key=environment.layout.pack(head.family, place.pack))
        return _Source(read, named, inline_manifest(raw))

    def _named(self, head: Head, revision: int) -> PlaceRow:
        return read_place(self._environment, head, revision)

    def _born(self, source: _Source, child: Head) -> Head:
        write_id = self._environment.clock.new_id()
        return replace(
            child,
            family=source.read.head.family,
            status=LIVE,
            revision=1,
            write_id=write_id,
            commit_id=self._identity.commit_id,
            state_id=write_id,
            commits=Ring(1, (self._identity.commit_id,)),
            origin=Origin(source.read.head.session_id, source.named.revision, source.named.checkpoint_ref),
            relation=self._request.related(),
            tail=source.read.head.tail,
            staged=None,
            updated_at=self._identity.created_at,
        )

    # A child with a pack of its own (rule 4).

    def _with_pack(self, source: _Source, child: Head) -> Head:
        environment = self._environment
        staged = self._staged(source, child)
        if staged.data is not None:
            key = environment.layout.pack(source.read.head.family, staged.name)
            write_pack(environment.store, key, staged.data, environment.clock)
        return replace(
            self._born(source, child),
            checkpoint_ref=staged.checkpoint_ref,
            manifest=staged.manifest,
            inline_manifest=staged.inline_manifest,
            reads=staged.reads,
            stretches=staged.stretches,
            tail=staged.tail,
        )

    def _staged(self, source: _Source, child: Head) -> Staged:
        environment = self._environment
        loaded = load_from(environment, source.read, source.named.revision, execution_state=False)
        state = loaded.state
        state.append_session_nodes(self._request.initial_nodes)
        state.tool_state_snapshot = state.plugin_snapshot = None  # the refs carry over
        state.token_ledger = []
        checkpoint = self._request.overrides(source.named, self._identity).applied(loaded.base.checkpoint)
        state.policy = checkpoint.small.policy
        if checkpoint.plugin_snapshot is None:
            state.plugin_snapshot_ref = None
        content = replace(content_of(state, checkpoint, (), execution_state=None), kind=FORK, parent=0)
        base = Base(
            home=environment.home,
            head=replace(child, family=source.read.head.family, tail=source.read.head.tail),
            version=source.read.version,
            checkpoint=replace(checkpoint, revision=0),
            placement=loaded.base.placement.narrowed(checkpoint.refs(), source.named.manifest),
            graph=loaded.base.graph,
            parts=loaded.base.parts,
        )
        name = pack_name(self._identity.commit_id, environment.clock.new_id())
        return stage(content, base, self._identity, name, environment.limits)
