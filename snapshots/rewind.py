"""Going back: a new revision with the content of an earlier one. What came after stays in the history.

Rules:
1. `rewind` goes to an ancestor of the present revision; `restore` to any retained revision, also one that a rewind
   left behind.
2. No byte is copied: the new revision names the blobs of the old one. One pack with its own records is uploaded.
3. It is published only on the very head whose history names the target.
4. Ledger and turns are those of the target's lineage: a turn that was left behind may be done again.

    result = go_back(environment, "s1", 3, kind="rewind")
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from snapshots.base import Base
from snapshots.commit import result_of
from snapshots.content import content_again
from snapshots.environment import Environment
from snapshots.errors import LOOK_FIRST, InvalidStateError
from snapshots.history import REWIND, ledger_along, lineage
from snapshots.publish import Found, Ownership, Publication, intent_on
from snapshots.reading import (
    HeadRead,
    Manifest,
    read_base,
    read_manifest_at,
    read_place,
    retried_while_moving,
    revision_of,
)
from snapshots.restore import load
from snapshots.staging import Identity, Staged, stage
from snapshots.state import CommitResult
from storage.wrappers.metered import MeteredStore


def go_back(
    environment: Environment,
    session_id: str,
    revision: int | str,
    *,
    kind: str,
    ownership: Ownership | None = None,
) -> CommitResult:
    """Make a new revision with the content of an earlier one; see `SnapshotRepository.rewind` and `restore`.

    Args:
        environment: Where.
        session_id: Which session.
        revision: Number or pin of the target.
        kind: "rewind" or "restore" (rule 1).
        ownership: The Writer on whose behalf, None for anyone.
    """
    metered = MeteredStore(environment.store)
    own = replace(environment, store=metered)
    base = _GoingBack(own, session_id, revision, kind, ownership).run()
    counts = metered.metrics.snapshot()
    return result_of(base, uploaded_bytes=counts["put"].bytes_out, requests=counts.total_requests)


@dataclass(frozen=True, slots=True)
class _Present:
    """The session as it is, and where the target lies in it."""

    base: Base
    target: Manifest


class _GoingBack:
    """One call of `go_back`."""

    def __init__(
        self, environment: Environment, session_id: str, revision: int | str, kind: str, ownership: Ownership | None
    ) -> None:
        self._environment = environment
        self._session_id = session_id
        self._kind = kind
        self._identity = Identity(environment.clock.new_id(), environment.clock.now(), None)
        self._wanted = revision
        self._present = retried_while_moving(environment, session_id, self._read)
        self._wanted = self._present.target.checkpoint.revision  # a pin may be moved, what was meant stays
        head = self._present.base.head
        intent = intent_on(
            environment,
            session_id,
            head,
            self._identity,
            revision=head.revision,
            ownership=ownership,
            remedy=LOOK_FIRST,
        )
        self._publication = Publication(environment, intent, self._identity)

    def run(self) -> Base:
        base = self._present.base
        try:
            self._publication.settle(HeadRead(base.head, base.version))
            return self._publication.publish(base, self._build)
        except Found as found:
            revision = found.committed.revision
            with self._publication.applied():
                return load(self._environment, self._session_id, revision=revision, execution_state=False).base

    def _read(self, read: HeadRead) -> _Present:
        environment = self._environment
        base = read_base(environment, read)
        target = revision_of(read.head, self._wanted, environment.clock.now())
        if self._kind == REWIND:
            self._check_ancestor(base, target)
        row = read_place(environment, read.head, target)
        return _Present(base, read_manifest_at(environment, read.head, row))

    def _check_ancestor(self, base: Base, target: int) -> None:
        if all(row.revision != target for row in lineage(base.rows, base.revision)):
            raise InvalidStateError(
                f"revision {target} of session {self._session_id!r} is no ancestor of revision {base.revision}: "
                "a rewind left it behind; use restore"
            )

    def _build(self, base: Base, name: str) -> Staged:
        present = self._present
        if base.head.state_id != present.base.head.state_id:  # rule 3: it may no longer name the target
            present = retried_while_moving(self._environment, self._session_id, self._read)
        target = present.target
        number = target.checkpoint.revision
        content = content_again(target.checkpoint, ledger_along(base.rows, number), kind=self._kind)
        joined = replace(
            base,
            checkpoint=replace(target.checkpoint, revision=base.revision),
            placement=replace(base.placement, extents={**target.placement.extents, **base.placement.extents}),
        )
        return stage(content, joined, self._identity, name, self._environment.limits)
