"""Staging: one pack, records that name what they need, and books from which a collection can tell what is live."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Set
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots import codec
from snapshots.base import Base, FullManifest
from snapshots.checkpoint import SessionCheckpoint
from snapshots.compaction import LIMITS, Limits
from snapshots.head import INLINE_MANIFEST_BYTES_MAX
from snapshots.history import REPLACE, check_history, ledger_along
from snapshots.layout import pack_name
from snapshots.logs import HeldLog, LogRef, encode_rows
from snapshots.parts import EXECUTION_STATE, TOOL_STATE, Parts
from snapshots.placement import (
    ManifestPlace,
    Placement,
    manifest_bytes,
    open_manifest,
    seal_manifest,
    unseal_manifest,
)
from snapshots.staging import Identity, Staged, inline_manifest, stage
from snapshots.state import (
    SessionGraph,
    TokenLedgerEntry,
    TokenUsage,
    ToolEntry,
    ToolManifest,
    ToolState,
    nodes_to_plain,
)
from snapshots.stretches import place_in, stretch_with
from storage.backends.memory import MemoryStore
from storage.digest import BlobRef, verify
from storage.pack_reader import PackReader
from storage.packs import read_index
from storage.store import ByteRange, Create
from tests.snapshots.records import (
    AT,
    ID,
    NO_TAIL,
    TAIL,
    StagedSession,
    bytes_of,
    pack_bytes,
    packs_used,
    scattered_states,
    uses_named,
)
from tests.snapshots.state.builders import message, node

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
    tools = dict.fromkeys(("read", "write", f"t{draw.randrange(9)}"), TOOL)
    session.state.tool_state_snapshot = ToolState(generation=draw.randrange(4), tools=tools)
    held = session.base.parts.held
    before = bytes_of(held[EXECUTION_STATE]) if EXECUTION_STATE in held else draw.randbytes(30_000)
    twin = bytes_of(held[TOOL_STATE]) if TOOL_STATE in held else b""
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


def reopened(session: StagedSession, number: int, draw: Random) -> bytes | None:
    """Edit as well, and now and then know no more of the revision than its records: no packs, no parts."""
    found = editing(session, number, draw) if draw.randrange(2) else replacing(session, number, draw)
    if draw.randrange(3) == 0:
        session.base = replace(session.base, at_hand={}, parts=Parts(), full=None)
    return found


def run(
    step: Step | Callable[[StagedSession, int, Random], None], seed: int, commits: int, limits: Limits = LIMITS
) -> Iterator[StagedSession]:
    """Yield the session after each of its commits."""
    session, draw = StagedSession.new(limits=limits), Random(seed)
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
    uses, now = uses_named(session), session.homes()
    carriers = {move.into for move in now.moves()}
    needed: dict[str, set[int]] = {}
    for revision, packs in session.needed.items():
        for pack in packs:
            needed.setdefault(now.pack(pack), set()).add(revision)
    assert needed.keys() == uses.keys(), "a pack that nobody names would be deleted under an old revision"
    for pack, named in uses.items():
        spans = [range(use.first_revision, (use.last_revision or last) + 1) for use in named]
        assert len(spans) == 1 or pack in carriers, "one interval per pack"
        assert needed[pack] == {revision for span in spans for revision in span}


SCENARIOS = pytest.mark.parametrize(
    "step", [chat, idle, tools, execution, replacing, editing, reopened], ids=lambda step: step.__name__
)


EACH_LIMIT = pytest.mark.parametrize(
    "limits",
    [
        TAIL,
        NO_TAIL,
        Limits(packs=4, merged=2, tail_pack_bytes=0),
        Limits(packs=3, large_packs=2, large_bytes=50_000, merged=1, tail_pack_bytes=3000, tail_bytes=5000),
    ],
    ids=["tail", "no tail", "few packs", "few of a large one"],
)


@pytest.mark.aside
@EACH_LIMIT
@SCENARIOS
def test_the_books_name_every_pack_of_every_revision(step: Step, limits: Limits) -> None:
    for session in run(step, 1, COMMITS, limits):
        check_books(session)


@pytest.mark.aside
@EACH_LIMIT
@SCENARIOS
def test_the_books_of_a_fork_name_every_pack_of_its_revisions(step: Step, limits: Limits) -> None:
    source, draw = StagedSession.new(limits=limits), Random(4)
    for number in range(1, 40):
        source.commit(step(source, number, draw))
        fork = source.forked()
        check_books(fork)
        for again in range(4):
            fork.commit(step(fork, 100 * number + again, draw))
            check_books(fork)


def test_a_pack_of_which_only_equal_bytes_were_needed_ends() -> None:
    session = StagedSession.new()
    session.state.tool_state_snapshot = ToolState(generation=1, tools=dict.fromkeys(("a", "b", "c", "d"), TOOL))
    tool_state = session.commit().checkpoint.tool_state
    data = bytes_of(session.base.parts.held[TOOL_STATE])
    session.commit(data + b"the end" * 20)
    fork = session.forked()
    staged = fork.commit(data)
    check_books(fork)
    assert staged.checkpoint.execution_state == staged.checkpoint.tool_state == tool_state
    assert [use.pack for use in fork.base.places.entries[0].ended] == [list(session.packs)[1]]


@pytest.mark.aside
@EACH_LIMIT
@SCENARIOS
def test_the_log_of_places_tells_where_every_manifest_lies(step: Step, limits: Limits) -> None:
    checkpoints: dict[int, BlobRef] = {}
    for session in run(step, 5, 70, limits):
        assert session.base.checkpoint_ref is not None
        rows = session.base.places.entries
        assert [row.revision for row in rows] == list(range(1, session.base.revision))
        for row in rows:
            assert row.manifest == session.manifests[row.revision]
            assert not {use.pack for use in row.ended} & {move.pack for move in row.moved}, "what is carried goes on"
            assert row.checkpoint_ref == checkpoints[row.revision]
        checkpoints[session.base.revision] = session.base.checkpoint_ref
    for revision, place in session.manifests.items():
        record, places = manifest_at(session.packs, place)
        assert manifest_at(session.packs, session.homes().place(place)) == (record, places), "where it lies now"
        verify(record, checkpoints[revision], key="k")
        assert SessionCheckpoint.decode(record, key="k").revision == revision
        used = {extent.pack for many in Placement.decode(places, key="k").extents.values() for extent in many}
        assert session.needed[revision] == {*used, *(run.pack for run in place.runs())}


def check_stretches(session: StagedSession, executor: Executor, spare: Set[str] = frozenset()) -> None:
    """Check that by its stretch alone every earlier revision is found as by the whole log of places."""
    stretches, entries = session.base.head.stretches, session.base.places.entries
    store = MemoryStore()
    for name, data in session.packs.items():
        store.put(name, data, Create())
    for stretch in stretches:
        data = PackReader(store, str, executor).pieces(stretch.extents)
        assert data == encode_rows(entries[stretch.first_revision - 1 :][: stretch.count])
    for row in entries:
        found_in = stretch_with(stretches, row.revision)
        assert found_in is not None
        rows = entries[found_in.first_revision - 1 :][: found_in.count]
        whole, found = session.homes().row(row).manifest, place_in(rows, row.revision).manifest
        _, places = manifest_at(session.packs, row.manifest)
        placement = Placement.decode(places, key="k")
        assert [run.to_plain()[:3] for run in found.runs()] == [run.to_plain()[:3] for run in whole.runs()]
        assert found.moved.placement(placement) == whole.moved.placement(placement)
        named = {*(run.pack for run in row.manifest.runs()), *(use.pack for use in placement.packs)}
        assert {move.pack for move in found.moved.moves()} <= named | spare, "for a head there is no room for more"


@EACH_LIMIT
@SCENARIOS
def test_every_earlier_revision_is_found_by_its_stretch_of_the_log(
    step: Step, limits: Limits, executor: Executor
) -> None:
    for session in run(step, 12, 60, limits):
        check_stretches(session, executor)


@EACH_LIMIT
@SCENARIOS
def test_every_earlier_revision_of_a_fork_is_found_by_its_stretch_of_the_log(
    step: Step, limits: Limits, executor: Executor
) -> None:
    source, draw = StagedSession.new(limits=limits), Random(4)
    for number in range(1, 30):
        source.commit(step(source, number, draw))
    fork = source.forked()
    tail = {pack.name for pack in source.base.head.tail}  # the fork has it whole
    for number in range(30, 60):
        fork.commit(step(fork, number, draw))
        check_stretches(fork, executor, tail)


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


@EACH_LIMIT
@SCENARIOS
def test_every_revision_can_be_read_from_the_packs_that_the_books_give_it(
    step: Step, limits: Limits, executor: Executor
) -> None:
    nodes: dict[int, list[object]] = {}
    for session in run(step, 9, 60, limits):
        nodes[session.base.revision] = list(nodes_to_plain(session.state.session_graph.nodes))
    uses, now = uses_named(session), session.homes()
    last = session.base.revision
    for revision, written in session.manifests.items():
        store, place = MemoryStore(), now.place(written)
        for pack, named in uses.items():
            if any(use.first_revision <= revision <= (use.last_revision or last) for use in named):
                store.put(f"packs/{pack}", session.packs[pack], Create())
        record, places = manifest_at({run.pack: store.get(f"packs/{run.pack}").data for run in place.runs()}, place)
        checkpoint = SessionCheckpoint.decode(record, key="k")
        placement = now.placement(Placement.decode(places, key="k"))
        wanted = {ref: placement.extents[ref.digest] for ref in checkpoint.refs()}
        blobs = PackReader(store, lambda name: f"packs/{name}", executor).blobs(wanted)
        data = blobs[checkpoint.graph.ref] if checkpoint.graph.count else b""
        assert codec.decode_entries(data, checkpoint.graph.count, key="k") == nodes[revision]


# Logs.


def grow(session: StagedSession, count: int) -> None:
    """Append nodes whose ids and times are always the same."""
    graph = session.state.session_graph
    for _ in range(count):
        number = len(graph)
        graph.extend_node_records([node(f"n{number}", f"n{number - 1}" if number else None)])
        graph.set_leaf_node_id(f"n{number}")


def test_equal_histories_give_equal_logs() -> None:
    pair = [StagedSession.new(), StagedSession.new()]
    for session in pair:
        for number in range(30):
            grow(session, number % 3)
            session.commit(bytes(number))
    one, other = (session.base for session in pair)
    assert (one.graph, one.history, one.places) == (other.graph, other.history, other.places)
    assert (one.checkpoint_ref, one.placement) == (other.checkpoint_ref, other.placement)


@given(st.lists(st.integers(0, 5), min_size=1, max_size=8))
def test_the_log_of_the_graph_does_not_tell_by_which_commits_its_nodes_came(counts: list[int]) -> None:
    session, at_once = StagedSession.new(), StagedSession.new()
    for count in counts:
        grow(session, count)
        session.commit()
    grow(at_once, sum(counts))
    at_once.commit()
    assert session.base.checkpoint.graph == at_once.base.checkpoint.graph


@pytest.mark.parametrize("step", [chat, idle, tools, editing], ids=lambda step: step.__name__)
def test_a_commit_adds_only_what_is_new_to_each_log(step: Step) -> None:
    session, draw = StagedSession.new(limits=Limits(packs=100, tail_pack_bytes=0)), Random(11)
    for number in range(1, 60):  # before packs are merged
        before = session.base
        staged = session.commit(step(session, number, draw))
        for old, new in [
            (before.checkpoint.graph, staged.checkpoint.graph),
            (before.checkpoint.history, staged.checkpoint.history),
            (before.placement.places, staged.placement.places),
        ]:
            if not new.count:
                continue
            earlier = before.placement.extents.get(old.ref.digest, ())
            extents = staged.placement.extents[new.ref.digest]
            assert extents[: len(earlier)] == earlier
            added = extents[len(earlier) :]
            assert {extent.pack for extent in added} <= {staged.name}
            assert sum(extent.length for extent in added) == new.ref.size_bytes - old.ref.size_bytes


def test_the_bytes_that_a_session_knows_are_those_that_its_logs_name() -> None:
    for session in run(replacing, 3, 40):
        base = session.base
        assert base.graph is not None
        logs: list[tuple[HeldLog[Any], LogRef]] = [
            (base.graph, base.checkpoint.graph),
            (base.history, base.checkpoint.history),
            (base.places, base.placement.places),
        ]
        for log, at in logs:
            assert log.at == at
            verify(b"".join(log.chunks), at.ref, key="k")


# The manifest.


def test_most_manifests_stand_against_one_in_full_and_it_is_one_step() -> None:
    session = StagedSession.new(limits=NO_TAIL)
    full: FullManifest | None = None
    for memory in scattered_states(LIMITS.packs - 1, 1):
        place = session.commit(memory).manifest
        assert session.base.full is not None
        if place.against is None:
            full = session.base.full
            record, places = manifest_at(session.packs, place)
            assert (full.place, full.raw) == (place, manifest_bytes(record, places))
        assert session.base.full == full
        assert place.against in (None, session.base.full.place), "the last one that stands in full"
    stood = [revision for revision, place in session.manifests.items() if place.against is None]
    assert 2 < len(stood) < LIMITS.packs // 2, stood


def test_a_manifest_stands_in_full_again_once_what_changed_takes_a_third_of_it() -> None:
    session = StagedSession.new(limits=NO_TAIL)
    for memory in scattered_states(LIMITS.packs - 1, 2):
        before = session.base.full
        staged = session.commit(memory)
        if before is None:
            continue
        record, placement = staged.checkpoint.encode(), staged.placement
        run = seal_manifest(manifest_bytes(record, placement.encode(placement.numbered(before.numbers))), before.raw)
        alone = manifest_bytes(record, placement.encode())
        if 3 * len(run) <= before.place.stored_bytes:
            assert (staged.manifest.against, staged.manifest.stored_bytes) == (before.place, len(run))
            assert staged.full == before
        else:
            assert (staged.manifest.against, staged.manifest.stored_bytes) == (None, len(seal_manifest(alone)))
            assert staged.full == FullManifest(staged.manifest, alone, placement.numbered())


def against_an_earlier_one(seed: int) -> StagedSession:
    """Return a session whose present manifest does not stand in full."""
    session = StagedSession.new()
    for memory in scattered_states(4, seed):
        session.commit(memory)
    assert session.base.head.manifest is not None
    assert session.base.head.manifest.against is not None, "or there is nothing to be tested"
    return session


def test_a_manifest_stands_in_full_again_when_nothing_else_needs_the_pack_of_the_full_one() -> None:
    session = against_an_earlier_one(3)
    full = session.base.full
    assert full is not None
    fork = session.forked()
    fork.base = replace(fork.base, full=full)
    assert fork.commit().manifest.against == full.place, "blobs lie beside it"
    fork = session.forked()
    fork.base = replace(fork.base, full=full)
    staged = fork.commit(b"nothing of what was there")
    assert staged.manifest.against is None
    assert full.place.pack not in {use.pack for use in staged.placement.packs}
    assert staged.full.place == staged.manifest
    check_books(fork)


def test_a_pack_that_only_a_manifest_is_read_against_is_needed() -> None:
    session = against_an_earlier_one(4)
    manifest = session.base.head.manifest
    assert manifest is not None
    assert manifest.against is not None
    fork = session.forked()
    without = replace(fork.base.checkpoint, execution_state=None)
    placement = fork.base.placement.narrowed(without.refs(), manifest)
    assert not placement.extents
    assert [use.pack for use in placement.packs] == [manifest.pack, manifest.against.pack]
    fork.base = replace(fork.base, checkpoint=without, placement=placement)
    fork.state.execution_state_ref = None
    fork.commit()
    assert [use.pack for use in fork.base.places.entries[0].ended] == [manifest.pack, manifest.against.pack]


@SCENARIOS
def test_a_manifest_that_fits_stands_in_the_head_too(step: Step) -> None:
    for session in run(step, 12, 60):
        head = session.base.head
        assert head.manifest is not None
        record, places = manifest_at(session.packs, head.manifest)
        raw = manifest_bytes(record, places)
        fits = len(seal_manifest(raw)) <= INLINE_MANIFEST_BYTES_MAX
        assert head.inline_manifest == (seal_manifest(raw) if fits else b"")
        assert inline_manifest(raw) == head.inline_manifest


def test_a_manifest_that_does_not_fit_is_read_from_its_pack() -> None:
    session = StagedSession.new()
    for memory in scattered_states(2, 5):
        staged = session.commit(memory)
    assert staged.inline_manifest == b"" == session.base.head.inline_manifest
    record, places = manifest_at(session.packs, staged.manifest)
    assert SessionCheckpoint.decode(record, key="k") == staged.checkpoint
    assert Placement.decode(places, key="k") == staged.placement
    extents = [extent for many in staged.placement.extents.values() for extent in many]
    wanted = [*((extent.pack, extent.frame) for extent in extents)]
    wanted += [(run.pack, ByteRange(run.offset, run.stored_bytes)) for run in staged.manifest.runs()]
    for pack, place in wanted:
        ranges = [read.place for read in session.base.head.reads if read.pack == pack]
        assert any(one.start <= place.start and place.end <= one.end for one in ranges), "a load reads it at once"


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
    store.put("packs/p", pack_bytes(staged), Create())
    index = read_index(store, "packs/p", staged.name)
    assert index.facts == {"tenant": "default", "family": "s1", "session": "s1", "commit": f"{1:032x}"}
    assert {row.kind for row in index.blobs} == {"graph", "history", "tool-state", "execution-state"}
    assert {row.ref for row in index.blobs} == set(staged.checkpoint.refs())
    assert all(row.extents == staged.placement.extents[row.ref.digest] for row in index.blobs)


def test_a_commit_without_news_uploads_rows_and_manifest_alone() -> None:
    session = StagedSession.new()
    session.commit(bytes(range(256)) * 400)
    staged = session.commit()
    logs = {staged.checkpoint.history.ref.digest, staged.placement.places.ref.digest}
    extents = staged.placement.extents.items()
    assert {digest for digest, many in extents if staged.name in {extent.pack for extent in many}} == logs
    assert packs_used(staged) == {staged.name, f"{1:032x}.{'f' * 16}"}


def test_a_pack_is_staged_under_the_epoch_of_its_base() -> None:
    session = StagedSession.new()
    assert session.commit().epoch == session.base.head.epoch == 0
