"""The decision after an answer that is not 200: every row of its table, and the order of the rows."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import pytest

from snapshots.errors import (
    CommitUnknownError,
    CorruptSnapshotError,
    FencedError,
    RevisionConflictError,
    SessionDeletedError,
    SessionMovedError,
    SnapshotError,
    TurnConflictError,
)
from snapshots.head import LIVE, MOVED, RESERVED, RING_MAX, TOMBSTONE, Head, Holder, Ring, StampRow
from snapshots.history import COMMIT, HistoryRow
from snapshots.placement import ManifestPlace
from snapshots.stamps import mark
from snapshots.verdict import Committed, Intent, NeedsHistory, Refused, Retry, Verdict, decide
from storage.digest import blob_ref

AT = datetime(2026, 1, 1, tzinfo=UTC)
BASE = 5
OWN = "0f" * 16
STATE, NEXT_STATE = "a0" * 16, "a1" * 16
TURN, SAME_TURN_OTHER_CONTENT, OTHER_TURN = mark("t", "one"), mark("t", "two"), mark("u", "one")
INTENT = Intent(
    session_id="s1",
    key="default/heads/00/s1",
    commit_id=OWN,
    turn_id="t",
    stamp=TURN,
    base_revision=BASE,
    state_id=STATE,
    staged_epoch=3,
    fence=2,
    nonce="",
)


def foreign(revision: int) -> str:
    return f"{revision:032x}"


def head_at(revision: int, *, own_at: int | None = None, ring: int = RING_MAX, **changes: Any) -> Head:
    """Return a live head; `own_at` is the revision of our commit, `ring` how many commit ids it keeps."""
    commits = Ring()
    for number in range(1, revision + 1):
        commits = commits.appended(OWN if number == own_at else foreign(number))
    kept = commits.commit_ids[-ring:]
    head = Head(
        session_id="s1",
        tenant="default",
        family="s1",
        status=LIVE,
        revision=revision,
        write_id=foreign(revision),
        commit_id=kept[-1] if kept else "",
        state_id=STATE if revision == BASE else NEXT_STATE,
        epoch=3,
        fence=2,
        holder=None,
        checkpoint_ref=blob_ref(b"checkpoint"),
        manifest=ManifestPlace(f"{foreign(1)}.{'0' * 16}", 0, 1),
        inline_manifest=b"",
        commits=Ring(revision - len(kept) + 1, kept),
        stamps=(),
        floor=1,
        destination="",
        created_at=AT,
        updated_at=AT,
    )
    return replace(head, **changes)


def rows(
    revision: int, *, own_at: int | None = None, stamped: Sequence[tuple[int, Any]] = (), parents: Any = ()
) -> list[HistoryRow]:
    """Return a history; `stamped` tells the turns of some revisions, `parents` those that are not the one before."""
    marks, other_parents = dict(stamped), dict(parents)
    return [
        HistoryRow(
            revision=number,
            parent=other_parents.get(number, number - 1),
            kind=COMMIT,
            commit_id=OWN if number == own_at else foreign(number),
            created_at=AT,
            stamp=marks.get(number),
            node_count=0,
            usage=(),
        )
        for number in range(1, revision + 1)
    ]


def stamps(*pairs: tuple[int, Any]) -> tuple[StampRow, ...]:
    return tuple(StampRow(revision, one) for revision, one in pairs)


def error_of(verdict: Verdict) -> SnapshotError:
    assert isinstance(verdict, Refused)
    return verdict.error


# Row 0: no head.


def test_no_head_otherwise_is_corruption() -> None:
    error = error_of(decide(INTENT, None))
    assert isinstance(error, CorruptSnapshotError)
    assert error.key == INTENT.key


# Row 1: it landed.


@pytest.mark.parametrize("revision", [BASE + 1, BASE + 2, BASE + RING_MAX])
def test_our_commit_id_in_the_ring_means_committed(revision: int) -> None:
    assert decide(INTENT, head_at(revision, own_at=BASE + 1)) == Committed(BASE + 1, own=True)


def test_our_commit_id_elsewhere_than_after_the_base_is_not_ours() -> None:
    error = error_of(decide(INTENT, head_at(BASE + 3, own_at=BASE + 2)))
    assert isinstance(error, RevisionConflictError)


def test_a_creation_is_found_at_revision_one() -> None:
    creating = replace(INTENT, base_revision=0)
    assert decide(creating, head_at(7, own_at=1)) == Committed(1, own=True)


def test_beyond_the_ring_the_history_is_asked_for() -> None:
    head = head_at(BASE + RING_MAX + 1, own_at=BASE + 1)
    assert head.commits.first_revision == BASE + 2
    assert isinstance(decide(INTENT, head), NeedsHistory)
    assert decide(INTENT, head, rows(head.revision, own_at=BASE + 1)) == Committed(BASE + 1, own=True)


def test_a_ring_cut_short_is_no_proof_either() -> None:
    head = head_at(BASE + 2, own_at=BASE + 1, ring=1)
    assert isinstance(decide(INTENT, head), NeedsHistory)
    assert decide(INTENT, head, rows(BASE + 2, own_at=BASE + 1)) == Committed(BASE + 1, own=True)


def test_beyond_the_ring_and_not_in_the_history_is_a_conflict() -> None:
    head = head_at(BASE + RING_MAX + 1)
    error = error_of(decide(INTENT, head, rows(head.revision)))
    assert isinstance(error, RevisionConflictError)
    assert (error.expected, error.actual) == (BASE, head.revision)


@pytest.mark.parametrize("revision", [BASE, BASE + 1])
def test_our_turn_in_the_ring_means_committed(revision: int) -> None:
    head = head_at(revision, stamps=stamps((BASE - 2, OTHER_TURN), (BASE, TURN)))
    assert decide(INTENT, head) == Committed(BASE, own=False)


def test_our_turn_with_other_content_is_a_turn_conflict() -> None:
    error = error_of(decide(INTENT, head_at(BASE, stamps=stamps((3, SAME_TURN_OTHER_CONTENT)))))
    assert isinstance(error, TurnConflictError)
    assert (error.turn_id, error.revision) == ("t", 3)


def test_without_a_stamp_turns_do_not_matter() -> None:
    unstamped = replace(INTENT, turn_id="", stamp=None)
    assert isinstance(decide(unstamped, head_at(BASE, stamps=stamps((3, TURN)))), Retry)


FAR = BASE + RING_MAX + 1


@pytest.mark.parametrize(
    ("stamped", "parents", "expected"),
    [
        ([(FAR - 2, TURN)], [], Committed(FAR - 2, own=False)),
        ([(2, TURN)], [], Committed(2, own=False)),
        ([(2, SAME_TURN_OTHER_CONTENT)], [], TurnConflictError),
        ([(2, SAME_TURN_OTHER_CONTENT), (9, TURN)], [], Committed(9, own=False)),  # the newest counts
        ([(9, TURN)], [(FAR, 4)], RevisionConflictError),  # rewound to 4: what came after is off the lineage
        ([(3, TURN)], [(FAR, 4)], Committed(3, own=False)),
        ([(9, SAME_TURN_OTHER_CONTENT)], [(FAR, 4)], RevisionConflictError),
        ([], [], RevisionConflictError),
    ],
)
def test_turns_beyond_the_ring_count_along_the_lineage(
    stamped: list[tuple[int, Any]], parents: list[tuple[int, int]], expected: Any
) -> None:
    verdict = decide(INTENT, head_at(FAR), rows(FAR, stamped=stamped, parents=parents))
    assert (type(verdict.error) if isinstance(verdict, Refused) else verdict) == expected


# Rows 2 to 4.


def test_a_tombstone_means_deleted() -> None:
    assert isinstance(error_of(decide(INTENT, head_at(BASE, status=TOMBSTONE))), SessionDeletedError)
    assert isinstance(error_of(decide(INTENT, head_at(BASE + 3, status=TOMBSTONE))), SessionDeletedError)


def test_a_tombstone_whose_ring_does_not_reach_back_leaves_it_open() -> None:
    error = error_of(decide(INTENT, head_at(FAR, status=TOMBSTONE)))
    assert isinstance(error, CommitUnknownError)
    assert (error.commit_id, error.stamp) == (OWN, "t")


def test_what_was_never_sent_cannot_be_in_doubt() -> None:
    unsent = replace(INTENT, sent=False)
    assert isinstance(error_of(decide(unsent, head_at(FAR, status=TOMBSTONE))), SessionDeletedError)


def test_a_moved_session_names_its_destination() -> None:
    error = error_of(decide(INTENT, head_at(BASE, status=MOVED, destination="file:there")))
    assert isinstance(error, SessionMovedError)
    assert error.destination == "file:there"


def test_a_fence_above_ours_shuts_us_out() -> None:
    error = error_of(decide(INTENT, head_at(BASE, fence=3)))
    assert isinstance(error, FencedError)
    assert (error.fence, error.holder) == (3, "")


def test_a_fence_below_ours_is_no_fence() -> None:
    assert isinstance(decide(INTENT, head_at(BASE, fence=1)), Retry)


def test_another_holder_shuts_us_out_and_our_own_does_not() -> None:
    held = head_at(BASE, holder=Holder("host-2", "bb" * 16))
    error = error_of(decide(INTENT, held))
    assert isinstance(error, FencedError)
    assert (error.fence, error.holder) == (2, "host-2")
    assert isinstance(decide(replace(INTENT, nonce="bb" * 16), held), Retry)


@pytest.mark.parametrize(("base", "expected"), [(BASE, BASE), (0, None)])
def test_a_newer_revision_is_a_conflict(base: int, expected: int | None) -> None:
    error = error_of(decide(replace(INTENT, base_revision=base), head_at(BASE + 1)))
    assert isinstance(error, RevisionConflictError)
    assert (error.expected, error.actual) == (expected, BASE + 1)


def test_a_revision_that_fell_is_corruption() -> None:
    assert isinstance(error_of(decide(INTENT, head_at(BASE - 1))), CorruptSnapshotError)


# Row 5: the same revision.


@pytest.mark.parametrize(("epoch", "restage"), [(3, False), (4, True), (2, True)])
@pytest.mark.parametrize(("state_id", "rebuild"), [(STATE, False), (NEXT_STATE, True)])
def test_the_same_revision_is_tried_again(epoch: int, restage: bool, state_id: str, rebuild: bool) -> None:
    head = head_at(BASE, epoch=epoch, state_id=state_id)
    assert decide(INTENT, head) == Retry(rebuild=rebuild, restage=restage)


def test_a_reserved_head_is_the_same_revision_to_its_creator() -> None:
    creating = replace(INTENT, base_revision=0, state_id=NEXT_STATE, staged_epoch=0, fence=0)
    reserved = head_at(
        0, status=RESERVED, family="", checkpoint_ref=None, manifest=None, epoch=0, fence=0, state_id=NEXT_STATE
    )
    assert decide(creating, reserved) == Retry(rebuild=False, restage=False)
    assert decide(creating, replace(reserved, state_id=STATE)) == Retry(rebuild=True, restage=False)


# The order: whatever holds at once, the first row decides.


@dataclass(frozen=True)
class Fact:
    """Something that can be true of a head, what it adds to one, and what decides when it is the first."""

    name: str
    changes: dict[str, Any]
    outcome: Any
    own: bool = False
    moved_on: bool = False


IN_ORDER = (
    Fact("own commit id", {}, Committed(BASE + 1, own=True), own=True, moved_on=True),
    Fact("turn, same content", {"stamps": stamps((4, TURN))}, Committed(4, own=False)),
    Fact("turn, other content", {"stamps": stamps((4, SAME_TURN_OTHER_CONTENT))}, TurnConflictError),
    Fact("tombstone", {"status": TOMBSTONE}, SessionDeletedError),
    Fact("moved", {"status": MOVED, "destination": "file:there"}, SessionMovedError),
    Fact("fence", {"fence": 9}, FencedError),
    Fact("holder", {"holder": Holder("host-2", "bb" * 16)}, FencedError),
    Fact("newer revision", {}, RevisionConflictError, moved_on=True),
    Fact("epoch and state id", {"epoch": 4, "state_id": NEXT_STATE}, Retry(rebuild=True, restage=True)),
)
NEVER_TOGETHER = ({"turn, same content", "turn, other content"}, {"tombstone", "moved"})
PAIRS = [
    (first, second)
    for first, second in itertools.combinations(IN_ORDER, 2)
    if {first.name, second.name} not in NEVER_TOGETHER
]


@pytest.mark.parametrize(("first", "second"), PAIRS, ids=lambda fact: fact.name)
def test_of_two_facts_the_earlier_row_decides(first: Fact, second: Fact) -> None:
    moved_on = first.moved_on or second.moved_on
    head = head_at(
        BASE + 1 if moved_on else BASE,
        own_at=BASE + 1 if first.own or second.own else None,
        **{**first.changes, **second.changes},
    )
    verdict = decide(INTENT, head)
    assert (type(verdict.error) if isinstance(verdict, Refused) else verdict) == first.outcome


@pytest.mark.parametrize("status", [TOMBSTONE, MOVED])
def test_an_ended_session_has_no_history_to_ask_for(status: str) -> None:
    assert isinstance(decide(INTENT, head_at(FAR, status=status, destination="x")), Refused)
