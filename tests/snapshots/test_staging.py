"""Staging: one pack, records that name what they need, and books from which a collection can tell what is live."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, ThreadPoolExecutor
from random import Random

import pytest

from snapshots import codec
from snapshots.base import Base
from snapshots.checkpoint import SessionCheckpoint
from snapshots.history import REPLACE, check_history, ledger_along
from snapshots.layout import pack_name
from snapshots.parts import EXECUTION_STATE, TOOL_STATE
from snapshots.placement import ManifestPlace, Placement, open_manifest, unseal_manifest
from snapshots.staging import Identity, Staged, stage
from snapshots.state import (
    SessionGraph,
    TokenLedgerEntry,
    TokenUsage,
    ToolEntry,
    ToolManifest,
    ToolState,
    nodes_to_plain,
)
from storage.backends.memory import MemoryStore
from storage.digest import BlobRef, verify
from storage.packs import read_blobs, read_index
from storage.store import Create
from tests.snapshots.records import AT, ID, StagedSession, packs_used, uses_named
from tests.snapshots.state.builders import message

COMMITS = 200
TOOL = ToolEntry(
    manifest=ToolManifest(id="t", name="t", description="what it is for, said at some length " * 3), source_id="s"
)


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


def editing(session: StagedSession, number: int, draw: Random) -> bytes | None:
    """Edit the execution state here and there; now and then let it have the very bytes of the tool state."""
    chat(session, number, draw)
    tools = {name: TOOL for name in ("read", "write", f"t{draw.randrange(9)}")}
    session.state.tool_state_snapshot = ToolState(generation=draw.randrange(4), tools=tools)
    held = session.base.parts.held
    before = held[EXECUTION_STATE].data if EXECUTION_STATE in held else draw.randbytes(30_000)
    twin = held[TOOL_STATE].data if TOOL_STATE in held else b""
    start = draw.randrange(len(before) + 1)
    match draw.randrange(8):
        case 0:
            return twin
        case 1:
            return twin + b"x" * draw.randrange(2)
        case 2:
            return before[start:] + before[:start]
        case 3:
            return None
    return before[:start] + draw.randbytes(draw.choice([1, 100, 50_000])) + before[start + draw.randrange(3) :]


def run(step: Step | Callable[[StagedSession, int, Random], None], seed: int, commits: int) -> Iterator[StagedSession]:
    """Yield the session after each of its commits."""
    session, draw = StagedSession.new(), Random(seed)
    for number in range(1, commits + 1):
        session.commit(step(session, number, draw))
        yield session


def manifest_at(packs: Mapping[str, bytes], place: ManifestPlace) -> tuple[bytes, bytes]:
    """Return checkpoint and placement of the manifest that lies there."""
    stored = [packs[run.pack][run.offset : run.offset + run.stored_bytes] for run in place.runs()]
    against = unseal_manifest(stored[1], key="k") if place.against is not None else b""
    return open_manifest(unseal_manifest(stored[0], key="k", against=against), key="k")


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


SCENARIOS = pytest.mark.parametrize(
    "step", [chat, idle, tools, execution, replacing, editing], ids=lambda step: step.__name__
)


@SCENARIOS
@pytest.mark.parametrize("seed", range(2))
def test_the_books_name_every_pack_of_every_revision(step: Step, seed: int) -> None:
    for session in run(step, seed, COMMITS):
        check_books(session)


@SCENARIOS
def test_the_books_of_a_fork_name_every_pack_of_its_revisions(step: Step) -> None:
    source, draw = StagedSession.new(), Random(4)
    for number in range(1, 40):
        source.commit(step(source, number, draw))
        fork = source.forked()
        check_books(fork)
        for again in range(4):
            fork.commit(step(fork, 100 * number + again, draw))
            check_books(fork)


def test_a_pack_of_which_only_equal_bytes_were_needed_ends() -> None:
    session = StagedSession.new()
    session.state.tool_state_snapshot = ToolState(generation=1, tools={name: TOOL for name in ("a", "b", "c", "d")})
    tool_state = session.commit().checkpoint.tool_state
    data = session.base.parts.held[TOOL_STATE].data
    session.commit(data + b"the end" * 20)
    fork = session.forked()
    staged = fork.commit(data)
    check_books(fork)
    assert staged.checkpoint.execution_state == staged.checkpoint.tool_state == tool_state
    assert [use.pack for use in fork.base.places.entries[0].ended] == [list(session.packs)[1]]


@SCENARIOS
def test_the_log_of_places_tells_where_every_manifest_lies(step: Step) -> None:
    checkpoints: dict[int, BlobRef] = {}
    for session in run(step, 5, 70):
        assert session.base.checkpoint_ref is not None
        rows = session.base.places.entries
        assert [row.revision for row in rows] == list(range(1, session.base.revision))
        for row in rows:
            assert row.manifest == session.manifests[row.revision]
            assert row.checkpoint_ref == checkpoints[row.revision]
        checkpoints[session.base.revision] = session.base.checkpoint_ref
    for revision, place in session.manifests.items():
        record, places = manifest_at(session.packs, place)
        verify(record, checkpoints[revision], key="k")
        assert SessionCheckpoint.decode(record, key="k").revision == revision
        used = {extent.pack for many in Placement.decode(places, key="k").extents.values() for extent in many}
        assert session.needed[revision] == {*used, *(run.pack for run in place.runs())}


@SCENARIOS
def test_a_placement_names_exactly_the_packs_that_it_uses(step: Step) -> None:
    before: frozenset[str] = frozenset()
    for session in run(step, 6, 100):
        placement, head = session.base.placement, session.base.head
        assert head.manifest is not None
        used = {extent.pack for many in placement.extents.values() for extent in many}
        named = [use.pack for use in placement.packs]
        assert sorted(named) == sorted({*used, *(run.pack for run in head.manifest.runs())})
        assert all(use.last_revision == 0 for use in placement.packs)
        assert {*named} <= {*before, head.manifest.pack}, "only packs that the base names, and its own"
        before = frozenset(named)


@SCENARIOS
def test_a_placement_has_every_blob_and_no_other(step: Step) -> None:
    for session in run(step, 8, 100):
        placement, checkpoint = session.base.placement, session.base.checkpoint
        wanted = {ref.digest for ref in (*checkpoint.refs(), *placement.refs())}
        assert placement.extents.keys() == wanted
        assert placement.places == session.base.places.at
        assert checkpoint.history == session.base.history.at


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
        record, places = manifest_at({run.pack: store.get(f"packs/{run.pack}").data for run in place.runs()}, place)
        checkpoint, placement = SessionCheckpoint.decode(record, key="k"), Placement.decode(places, key="k")
        wanted = {ref: placement.extents[ref.digest] for ref in checkpoint.refs()}
        blobs = read_blobs(store, wanted, lambda name: f"packs/{name}", executor)
        data = blobs[checkpoint.graph.ref] if checkpoint.graph.count else b""
        assert codec.decode_entries(data, checkpoint.graph.count, key="k") == nodes[revision]


# History and ledger.


def test_the_history_has_a_row_per_commit_and_the_ledger_is_its_sum() -> None:
    def spend(session: StagedSession, number: int, _: Random) -> None:
        entry = TokenLedgerEntry(source=f"s{number % 3}", model="m", usage=TokenUsage(input_tokens=number))
        ledger = {one.key: one for one in session.state.token_ledger}
        known = ledger.get(entry.key)
        ledger[entry.key] = entry if known is None else entry.model_copy(update={"usage": known.usage.add(entry.usage)})
        session.state.token_ledger = list(ledger.values())

    for session in run(spend, 0, 60):
        rows = session.base.history.entries
        check_history(rows, session.base.revision)
        assert [row.commit_id for row in rows] == [f"{row.revision:032x}" for row in rows]
        assert ledger_along(rows, session.base.revision) == session.state.token_ledger


def test_a_state_without_a_past_replaces_ledger_and_graph() -> None:
    session = StagedSession.new()
    chat(session, 1, Random(3))
    session.commit()
    staged = session.commit(replaces=True)
    assert staged.history.entries[-1].kind == REPLACE


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
