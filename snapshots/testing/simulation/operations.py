"""Operations: what actors asked for, when, and what they were told; and whether one order explains it all. Pure.

Rules (each a named check). The order is known: a revision counts from the instant at which its head was written.
1. "acknowledged": what was told as committed stands in the history, once, as the revision told, and was written
   between call and answer.
2. "refused": what was told as not committed never stands anywhere.
3. "read": a revision that was read was the present one at some instant between call and answer.
4. "gone": a session said to be deleted, or not to exist, was so at some instant between call and answer.
5. "owner": what an owner was told as committed was written under its own fence; anybody else's while nobody held it.

    problems(operations, chain_of(written))
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Literal

from snapshots.head import LIVE, TOMBSTONE, Head

What = Literal["commit", "read", "delete", "other"]
Told = Literal["done", "refused", "dropped", "gone", "absent", ""]
NEVER = -1


@dataclass(slots=True)
class Operation:
    """One thing that an actor wanted, over all attempts.

    Attributes:
        actor: Who.
        what: What for: a commit is everything that makes a revision.
        session_id: Of which session.
        called: Instant of the first attempt.
        answered: Instant of the last answer, NEVER while there is none.
        told: What it was: "done", "refused", "dropped" (retention has no such revision: of a commit, no longer), "gone"
            (the session was deleted), "absent" (there is no such session), or "" when nobody knows.
        revision: The revision told, 0 without one.
        commit_id: The commit told, "" without one.
        fence: Of the owner that it was done for, 0 for nobody.
        refused: Commit ids that were told as not committed.
        tenant: Whose the session is.
    """

    actor: str
    what: What
    session_id: str
    called: int
    answered: int = NEVER
    told: Told = ""
    revision: int = 0
    commit_id: str = ""
    fence: int = 0
    refused: set[str] = field(default_factory=set)
    tenant: str = "default"

    def __str__(self) -> str:
        told = self.told or "unknown"
        return f"{self.actor}'s {self.what} of {self.session_id} at {self.called}..{self.answered} ({told})"


@dataclass(frozen=True, slots=True)
class HeadWritten:
    """A head that was written.

    Attributes:
        instant: When, in the watch's own time.
        head: What it says.
    """

    instant: int
    head: Head


@dataclass(frozen=True, slots=True)
class Written:
    """A revision, from the instant of its writing to that of the next one's or the session's end."""

    revision: int
    commit_id: str
    begun: int
    ended: int | None
    fence: int
    held: bool


@dataclass(frozen=True, slots=True)
class Chain:
    """What became of one session.

    Attributes:
        revisions: Those written, oldest first.
        deleted: When its tombstone was written, None for never.
    """

    revisions: tuple[Written, ...]
    deleted: int | None


def chain_of(written: Sequence[HeadWritten]) -> Chain:
    """Return the revisions that a session's heads tell."""
    rows = [one for one in written if one.head.status == LIVE]
    firsts = [one for at, one in enumerate(rows) if at == 0 or rows[at - 1].head.revision != one.head.revision]
    deleted = next((one.instant for one in written if one.head.status == TOMBSTONE), None)
    ends = [*(one.instant for one in firsts[1:]), deleted]
    return Chain(
        tuple(
            Written(
                revision=one.head.revision,
                commit_id=one.head.commit_id,
                begun=one.instant,
                ended=ended,
                fence=one.head.fence,
                held=one.head.holder is not None,
            )
            for one, ended in zip(firsts, ends, strict=False)
        ),
        deleted,
    )


def problems(operations: Iterable[Operation], chains: Mapping[str, Chain]) -> list[str]:
    """Return what no order explains, as sentences; empty if one does."""
    none, stand = Chain((), None), {row.commit_id for chain in chains.values() for row in chain.revisions}
    found = [problem for one in operations for problem in _problems_of(one, chains.get(one.session_id, none), stand)]
    for session_id, chain in chains.items():
        twice = [commit_id for commit_id, count in _counted(chain).items() if count > 1]
        if twice:
            found.append(f"acknowledged: commits {twice} stand twice in {session_id}")
    return found


def _counted(chain: Chain) -> Counter[str]:
    return Counter(one.commit_id for one in chain.revisions)


def _problems_of(one: Operation, chain: Chain, stand: AbstractSet[str]) -> Iterator[str]:
    for commit_id in sorted(one.refused & stand):
        yield f"refused: {one} stands, as {commit_id}"
    if one.what == "commit" and one.told == "done":
        yield from _acknowledged(one, chain)
    elif one.what == "read" and one.told == "done":
        row = _row(chain, one.revision)
        if row is None or row.begun > one.answered or (row.ended is not None and row.ended <= one.called):
            yield f"read: {one} saw revision {one.revision}, which was not the present one then"
    elif one.told == "gone" and (chain.deleted is None or chain.deleted > one.answered):
        yield f"gone: {one} was told of a deletion that was not"
    elif one.told == "absent" and chain.revisions and chain.revisions[0].begun <= one.called:
        yield f"gone: {one} found nothing, though it was there"
    elif one.what == "delete" and one.told == "done" and (chain.deleted is None or chain.deleted > one.answered):
        yield f"gone: {one} was told as done and was not"


def _acknowledged(one: Operation, chain: Chain) -> Iterator[str]:
    row = _row(chain, one.revision)
    if row is None or row.commit_id != one.commit_id:
        yield f"acknowledged: {one}, revision {one.revision}, is lost"
        return
    if not one.called < row.begun <= one.answered:
        yield f"acknowledged: {one}, revision {one.revision}, was written at {row.begun}"
    if one.fence and row.fence != one.fence:
        yield f"owner: {one} under fence {one.fence} was written under {row.fence}"
    if not one.fence and row.held:
        yield f"owner: {one} was written while somebody else held the session"


def _row(chain: Chain, revision: int) -> Written | None:
    return next((row for row in chain.revisions if row.revision == revision), None)
