"""The tail of a head, uploaded ahead: in the background, so that the commit which empties it is one request.

Rules:
1. It begins after a commit was acknowledged whose tail has no room for another pack like its largest, and only in a
   process that commits this session again and again. Nothing names what it uploads until the next commit does.
2. The pack carries the tail and nothing else. The next commit names it, and tells in the log of places what it
   carries, if the head still has the epoch of the acknowledged commit: the upload began after that was read.
3. Otherwise, or if the upload failed (a warning tells), the next commit carries the tail itself, and says what is wrong
   if it cannot. The pack is then garbage like that of any commit that was never published.

    base = upload_ahead(environment, base)
    staged = stage(content, tail_stored(base), identity, name)
"""

from __future__ import annotations

import logging
from dataclasses import replace

from snapshots.base import Ahead, Base
from snapshots.environment import Environment
from snapshots.laying import tail_body
from snapshots.layout import pack_name
from snapshots.operations import operation
from snapshots.placement import Homes, Move
from storage.packs import PackBuilder, PackData, finished, write_pack

COMMITS_MIN = 2  # in a row, in one process: who commits once and ends would upload for nothing

logger = logging.getLogger("snapshots")


def upload_ahead(environment: Environment, base: Base) -> Base:
    """Return the base that a commit made, its tail on the way into a pack if that is due (rule 1)."""
    if not _is_due(environment, base):
        return base
    head = base.head
    builder = PackBuilder(pack_name(head.commit_id, environment.clock.new_id()))
    moves = tuple(Move(pack.name, builder.name, builder.carry(tail_body(base, pack))) for pack in head.tail)
    body = builder.body()
    facts = {"tenant": head.tenant, "family": head.family, "session": head.session_id, "commit": head.commit_id}
    key = environment.layout.pack(head.family, builder.name)
    try:
        upload = environment.executor.submit(_upload, environment, head.session_id, key, finished(body, facts))
    except RuntimeError:  # the repository was closed meanwhile: nothing follows that could name the pack
        return base
    return replace(base, ahead=Ahead(body, moves, head.tail, head.epoch, upload))


@operation("upload_ahead", "environment", "session_id")
def _upload(environment: Environment, session_id: str, key: str, data: PackData) -> None:  # noqa: ARG001  is told
    """Upload the tail: an operation of its own, which the commit began and does not wait for."""
    write_pack(environment.store, key, data, environment.clock)


def _is_due(environment: Environment, base: Base) -> bool:
    tail, limits = base.head.tail, environment.limits
    if base.commits < COMMITS_MIN or not tail:
        return False
    in_store = {use.pack for use in base.placement.packs} - {pack.name for pack in tail}
    if len(in_store) + 1 >= limits.packs:  # the next commit merges packs, and carries the tail along
        return False
    sizes = [len(pack.data) for pack in tail]
    return sum(sizes) + max(sizes) > limits.tail_bytes


def tail_stored(base: Base) -> Base:
    """Return the base as the next commit stands on it: its tail in the store, if rule 2 allows it; waits for it."""
    ahead = base.ahead
    if ahead is None:
        return base
    base = replace(base, ahead=None)
    failed = ahead.upload.exception()
    if failed is not None:
        logger.warning("the tail of session %r could not be uploaded ahead: %s", base.head.session_id, failed)
    if failed is not None or ahead.epoch != base.head.epoch or ahead.tail != base.head.tail:
        return base  # Rule 3.
    placement = Homes(ahead.moves).placement(base.placement)
    sizes = {ahead.body.name: ahead.body.size_bytes}
    uses = tuple(replace(use, body_bytes=sizes.get(use.pack, use.body_bytes)) for use in placement.packs)
    return replace(
        base,
        head=replace(base.head, tail=()),
        placement=replace(placement, packs=uses),
        moves=ahead.moves,
        at_hand={**base.at_hand, ahead.body.name: ahead.body},
    )
