"""`Fleet`: a store full of small sessions, made up to be counted: what there is of each kind, and how to make it.

Rules:
1. Equal fleets are equal in everything that a request count depends on: heads, families, packs, manifests in the heads.
2. Each session has packs of its own, one per revision. Forks share all packs with what they were forked from.

    fleet = Fleet(sessions=1000, forks=100, deleted=10)
    with SnapshotRepository(MemoryStore(), inline_limit_bytes=0) as repo:
        fill(repo, fleet)
"""

from __future__ import annotations

from dataclasses import dataclass

from snapshots import Message, Part, PersistedSessionState, SnapshotRepository
from snapshots.errors import RevisionNotFoundError
from snapshots.maintenance.progress import Progress, quiet
from snapshots.records import SessionRecords

TOLD_EVERY = 1000
GOES_ON_EVERY = 100  # one session in so many


@dataclass(frozen=True, slots=True)
class Fleet:
    """What a store has.

    Attributes:
        sessions: That began by themselves; each is the root of a family.
        revisions: Of each, every one with a pack of its own.
        forks: Sessions forked from the last of them, one from each, with nothing of their own yet.
        deleted: The first of them, of which a tombstone and the packs remain: that is the garbage.
        reserved: Heads that name nothing yet: a fork that failed leaves one.
        records: Session records, of sessions beside these.
    """

    sessions: int
    revisions: int = 1
    forks: int = 0
    deleted: int = 0
    reserved: int = 0
    records: int = 0

    def __post_init__(self) -> None:
        if self.deleted + self.forks > self.sessions or min(self.sessions, self.revisions) < 1:
            raise ValueError("a fleet has sessions with revisions, and those deleted are others than those forked")

    @property
    def heads(self) -> int:
        """Return the heads, those of deleted sessions and reservations among them."""
        return self.sessions + self.forks + self.reserved

    @property
    def packs(self) -> int:
        """Return the packs, garbage among them."""
        return self.sessions * self.revisions

    @property
    def live(self) -> int:
        """Return the sessions that can be loaded and were not forked from another one."""
        return self.sessions - self.deleted

    @property
    def first_kept(self) -> int:
        """Return the number of the first session that was not deleted."""
        return self.deleted

    @property
    def going_on(self) -> int:
        """Return how many sessions go on when some do: one in a hundred."""
        return -(-(self.live - self.forks) // GOES_ON_EVERY)

    @property
    def garbage(self) -> int:
        """Return the packs that nobody names."""
        return self.deleted * self.revisions


def fill(repo: SnapshotRepository, fleet: Fleet, progress: Progress = quiet) -> None:
    """Make a fleet in an empty store. The repository must keep nothing in heads: `inline_limit_bytes` is 0."""
    for number in range(fleet.sessions):
        _session(repo, session_id(number), fleet.revisions)
        if number < fleet.deleted:
            repo.delete(session_id(number))
        if number >= fleet.sessions - fleet.forks:
            repo.fork(session_id(number), f"fork-{number}")
        if number % TOLD_EVERY == 0:
            progress("sessions made", number, fleet.sessions)
    for number in range(fleet.reserved):
        _reservation(repo, session_id(fleet.sessions - 1), f"reserved-{number}")
    records = SessionRecords(repo)
    for number in range(fleet.records):
        records.create(f"record-{number}", provider_id="p", model="m", ttl_secs=3600, initial_token_count=1)


def go_on(repo: SnapshotRepository, fleet: Fleet) -> None:
    """Commit one more revision of one in a hundred of the sessions that nobody forked."""
    for number in range(fleet.first_kept, fleet.sessions - fleet.forks, GOES_ON_EVERY):
        _say(repo, repo.load(session_id(number)), fleet.revisions)


def session_id(number: int) -> str:
    """Return the id of a session of a fleet."""
    return f"session-{number}"


def _session(repo: SnapshotRepository, name: str, revisions: int) -> None:
    state = PersistedSessionState(session_id=name)
    for revision in range(revisions):
        _say(repo, state, revision)


def _say(repo: SnapshotRepository, state: PersistedSessionState, revision: int) -> None:
    part = Part(id=f"m{revision}.p0", kind="Text", content=f"What is {state.session_id}, the {revision + 1}. time?")
    state.append_active_conversation_messages([Message(id=f"m{revision}", role="User", parts=(part,))])
    repo.commit(state)


def _reservation(repo: SnapshotRepository, source: str, child: str) -> None:
    try:
        repo.fork(source, child, 1 << 20)
    except RevisionNotFoundError:
        return
    raise AssertionError("no session of a fleet has so many revisions")
