"""Staging: one pack, records that name what they need, and books from which a collection can tell what is live."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from random import Random

import pytest

from snapshots import codec
from snapshots.base import Base
from snapshots.checkpoint import SessionCheckpoint
from snapshots.history import REPLACE, check_history, ledger_along
from snapshots.layout import pack_name
from snapshots.logs import ROWS_FAN_OUT, entries_of, segments_of
from snapshots.placement import Placement, PlaceRow, open_manifest
from snapshots.staging import Identity, Staged, stage
from snapshots.state import SessionGraph, TokenLedgerEntry, TokenUsage, ToolState, nodes_to_plain
from storage.backends.memory import MemoryStore
from storage.digest import BlobRef, verify
from storage.packs import read_blobs, read_index
from storage.store import Create
from tests.snapshots.records import AT, ID, StagedSession, packs_used, uses_named
from tests.snapshots.state.builders import message

COMMITS = 200


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    with ThreadPoolExecutor(2) as threads:
        yield threads


# What a session does between two commits.

Step = Callable[[StagedSession, int, Random], bytes | None]


def chat(session: StagedSession, number: int, draw: Random) -> None:
    for extra in range(draw.randrange(3)):
        session.state.append_active_read_delta([message(f"m{number}.{extra}", "x" * draw.randrange(300))], [])


def idle(session: StagedSession, number: int, draw: Random) -> None:
    pass


def tools(session: StagedSession, number: int, draw: Random) -> None:
    """Change, drop or bring back the tool state."""
    chat(session, number, draw)
    match draw.randrange(6):
        case 0 | 1:
            session.state.tool_state_snapshot = ToolState(generation=draw.randrange(4))
        case 2:
            session.state.tool_state_snapshot = None
            session.state.tool_state_ref = None


def execution(session: StagedSession, number: int, draw: Random) -> bytes | None:
    """Change, drop or bring back an execution state, small and large."""
    tools(session, number, draw)
    match draw.randrange(5):
        case 0:
            return bytes([draw.randrange(3)]) * draw.choice([0, 1, 100, 40_000, 200_000])
        case 1:
            session.state.execution_state_ref = None
    return None


def replacing(session: StagedSession, number: int, draw: Random) -> bytes | None:
    """Start the graph afresh now and then, with a node more, less or another one."""
    found = execution(session, number, draw)
    state = session.state
    match draw.randrange(12):
        case 0:
            state.append_active_read_delta([message(f"r{number}")], [])
            state.graph_replace_required = True
        case 1 if len(state.session_graph):
            state.session_graph.remove_nodes([state.session_graph.nodes[-1].node_id])
            state.session_graph.heal_orphaned_leaf()
        case 2:
            graph = SessionGraph()
            graph.append_message(message(f"new{number}"))
            state.session_graph = graph
    return found


def run(step: Step | Callable[[StagedSession, int, Random], None], seed: int, commits: int) -> Iterator[StagedSession]:
    """Yield the session after each of its commits."""
    session, draw = StagedSession.new(), Random(seed)
    for number in range(1, commits + 1):
        session.commit(step(session, number, draw))
        yield session


# The books.


def check_books(session: StagedSession) -> None:
    """Check that head, manifest and the log of places name every pack that any revision needs, and just then."""
    last = session.base.revision
    uses = uses_named(session)
    needed: dict[str, set[int]] = {}
    for revision, packs in session.needed.items():
        for pack in packs:
            needed.setdefault(pack, set()).add(revision)
    assert needed.keys() == uses.keys(), "a pack that nobody names would be deleted under an old revision"
    for pack, (use, *again) in uses.items():
        assert not again, "one interval per pack"
        assert needed[pack] == set(range(use.first_revision, (use.last_revision or last) + 1))


SCENARIOS = pytest.mark.parametrize("step", [chat, idle, tools, execution, replacing], ids=lambda step: step.__name__)


@SCENARIOS
@pytest.mark.parametrize("seed", range(2))
def test_the_books_name_every_pack_of_every_revision(step: Step, seed: int) -> None:
    for session in run(step, seed, COMMITS):
        check_books(session)


@SCENARIOS
def test_the_log_of_places_tells_where_every_manifest_lies(step: Step) -> None:
    checkpoints: dict[int, BlobRef] = {}
    for session in run(step, 5, 70):
        assert session.base.checkpoint_ref is not None
        rows: list[PlaceRow] = entries_of(session.base.places)
        assert [row.revision for row in rows] == list(range(1, session.base.revision))
        for row in rows:
            assert row.manifest == session.manifests[row.revision]
            assert row.checkpoint_ref == checkpoints[row.revision]
        checkpoints[session.base.revision] = session.base.checkpoint_ref
    for revision, place in session.manifests.items():
        run_of_frames = session.packs[place.pack][place.offset : place.offset + place.stored_bytes]
        record, places = open_manifest(run_of_frames, key="k")
        verify(record, checkpoints[revision], key="k")
        assert SessionCheckpoint.decode(record, key="k").revision == revision
        used = {extent.pack for many in Placement.decode(places, key="k").extents.values() for extent in many}
        assert session.needed[revision] == {*used, place.pack}


@SCENARIOS
def test_a_placement_names_exactly_the_packs_that_it_uses(step: Step) -> None:
    before: frozenset[str] = frozenset()
    for session in run(step, 6, 100):
        placement, head = session.base.placement, session.base.head
        assert head.manifest is not None
        used = {extent.pack for many in placement.extents.values() for extent in many}
        named = [use.pack for use in placement.packs]
        assert sorted(named) == sorted({*used, head.manifest.pack})
        assert all(use.last_revision == 0 for use in placement.packs)
        assert {*named} <= {*before, head.manifest.pack}, "only packs that the base names, and its own"
        before = frozenset(named)


@SCENARIOS
def test_a_placement_has_every_blob_and_no_other(step: Step) -> None:
    for session in run(step, 8, 100):
        placement, checkpoint = session.base.placement, session.base.checkpoint
        wanted = {ref.digest for ref in (*checkpoint.refs(), *(segment.ref for segment in placement.places))}
        assert placement.extents.keys() == wanted
        assert placement.places == segments_of(session.base.places)
        assert checkpoint.history == segments_of(session.base.history)


@SCENARIOS
def test_every_revision_can_be_read_from_the_packs_that_the_books_give_it(step: Step, executor: Executor) -> None:
    nodes: dict[int, list[object]] = {}
    for session in run(step, 9, 60):
        nodes[session.base.revision] = list(nodes_to_plain(session.state.session_graph.nodes))
    uses = uses_named(session)
    last = session.base.revision
    for revision, place in session.manifests.items():
        store = MemoryStore()
        for pack, (use,) in uses.items():
            if use.first_revision <= revision <= (use.last_revision or last):
                store.put(f"packs/{pack}", session.packs[pack], Create())
        data = session.packs[place.pack][place.offset : place.offset + place.stored_bytes]
        record, places = open_manifest(data, key="k")
        checkpoint, placement = SessionCheckpoint.decode(record, key="k"), Placement.decode(places, key="k")
        wanted = {ref: placement.extents[ref.digest] for ref in checkpoint.refs()}
        blobs = read_blobs(store, wanted, lambda name: f"packs/{name}", executor)
        plain = [row for segment in checkpoint.graph for row in codec.decode(blobs[segment.ref], key="k")]
        assert plain == nodes[revision]


def test_logs_of_rows_stay_short() -> None:
    for session in run(idle, 0, COMMITS):
        height = 1
        while ROWS_FAN_OUT**height <= session.base.revision:
            height += 1
        assert len(session.base.history) <= (ROWS_FAN_OUT - 1) * height
        assert len(session.base.placement.packs) <= 2 * (ROWS_FAN_OUT - 1) * height + 1


# History and ledger.


def test_the_history_has_a_row_per_commit_and_the_ledger_is_its_sum() -> None:
    def spend(session: StagedSession, number: int, _: Random) -> None:
        entry = TokenLedgerEntry(source=f"s{number % 3}", model="m", usage=TokenUsage(input_tokens=number))
        ledger = {one.key: one for one in session.state.token_ledger}
        known = ledger.get(entry.key)
        ledger[entry.key] = entry if known is None else entry.model_copy(update={"usage": known.usage.add(entry.usage)})
        session.state.token_ledger = list(ledger.values())

    for session in run(spend, 0, 60):
        rows = entries_of(session.base.history)
        check_history(rows, session.base.revision)
        assert [row.commit_id for row in rows] == [f"{row.revision:032x}" for row in rows]
        assert ledger_along(rows, session.base.revision) == session.state.token_ledger


def test_a_state_without_a_past_replaces_ledger_and_graph() -> None:
    session = StagedSession.new()
    chat(session, 1, Random(3))
    session.commit()
    staged = session.commit(replaces=True)
    assert entries_of(staged.history)[-1].kind == REPLACE


# The pack.


def staged_again(session: StagedSession, base: Base) -> Staged:
    identity = Identity(ID, AT, None)
    return stage(session.content(), base, identity, pack_name(ID, "e" * 16))


def test_staging_is_deterministic() -> None:
    *_, session = run(execution, 1, 20)
    session.state.append_active_read_delta([message("last")], [])
    session.state.tool_state_snapshot = ToolState(generation=9)
    one, other = staged_again(session, session.base), staged_again(session, session.base)
    assert one == other


def test_a_pack_says_whose_it_is_and_what_it_holds() -> None:
    session = StagedSession.new()
    session.state.append_active_read_delta([message("m")], [])
    session.state.tool_state_snapshot = ToolState(generation=1)
    staged = session.commit(b"e" * 100_000)
    store = MemoryStore()
    store.put("packs/p", staged.data, Create())
    index = read_index(store, "packs/p", staged.name)
    assert index.facts == {"tenant": "default", "family": "s1", "session": "s1", "commit": f"{1:032x}"}
    assert {row.kind for row in index.blobs} == {"graph", "history", "tool-state", "execution-state"}
    assert {row.ref for row in index.blobs} == set(staged.checkpoint.refs())
    assert all(row.extents == staged.placement.extents[row.ref.digest] for row in index.blobs)


def test_a_commit_without_news_uploads_rows_and_manifest_alone() -> None:
    session = StagedSession.new()
    session.commit(bytes(range(256)) * 400)
    staged = session.commit()
    store = MemoryStore()
    store.put("packs/p", staged.data, Create())
    assert [row.kind for row in read_index(store, "packs/p", staged.name).blobs] == ["history", "places"]
    assert packs_used(staged) == {staged.name, f"{1:032x}.{'f' * 16}"}


def test_a_pack_is_staged_under_the_epoch_of_its_base() -> None:
    session = StagedSession.new()
    assert session.commit().epoch == session.base.head.epoch == 0
