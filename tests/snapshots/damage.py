"""Damage as it happens to packs, and what a session says of itself before and after."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from snapshots import SnapshotRepository
from snapshots.compaction import Limits
from snapshots.errors import CorruptSnapshotError
from snapshots.layout import Layout
from snapshots.reading import read_live_head, read_manifest
from snapshots.rewrite import rewrite_head
from snapshots.roots import named_keys
from storage.extents import Extent
from storage.packs import PackedBlob, read_index
from storage.store import ObjectStore, Overwrite

LAYOUT = Layout("default")
Damage = Callable[[ObjectStore, str], None]


def leaving_apart(repo: SnapshotRepository, limits: Limits) -> SnapshotRepository:
    """Return the repository, whose commits leave so much lying apart from now on."""
    repo._environment = replace(repo.environment, limits=limits)
    return repo


def packs(store: ObjectStore) -> list[str]:
    return [row.key for row in store.list(LAYOUT.packs)]


def named(repo: SnapshotRepository, session_id: str) -> set[str]:
    """Return the keys of the packs that a session's head names."""
    head = read_live_head(repo.environment, session_id).head
    return set(named_keys(repo.environment, head))


def pack_of(repo: SnapshotRepository, session_id: str, revision: int) -> str:
    """Return the key of the pack that the commit of a revision wrote, and not of one that it wrote in vain."""
    commit_id = repo.history(session_id)[revision - 1].commit_id
    found = [row.key for row in repo.environment.store.list(LAYOUT.packs) if commit_id in row.key]
    if len(found) > 1:
        found = [key for key in found if key in named(repo, session_id)]
    (key,) = found
    return key


def blobs_of(store: ObjectStore, key: str, kind: str) -> list[PackedBlob]:
    """Return the blobs of a kind that lie whole in a pack."""
    return [one for one in read_index(store, key, key.rpartition("/")[2]).blobs if one.kind == kind]


def log_in(repo: SnapshotRepository, session_id: str, key: str, kind: str) -> list[Extent]:
    """Return the pieces of a log of the present revision that lie in a pack."""
    environment = repo.environment
    manifest = read_manifest(environment, read_live_head(environment, session_id).head)
    at = manifest.placement.places if kind == "places" else getattr(manifest.checkpoint, kind)
    return [one for one in manifest.placement.extents[at.ref.digest] if one.pack == key.rpartition("/")[2]]


def flip(store: ObjectStore, key: str, position: int) -> None:
    data = bytearray(store.get(key).data)
    data[position] ^= 1
    store.put(key, bytes(data), Overwrite())


def missing(store: ObjectStore, key: str) -> None:
    store.delete(key)


def without_footer(store: ObjectStore, key: str) -> None:
    store.put(key, store.get(key).data[:-1], Overwrite())


def altered_footer(store: ObjectStore, key: str) -> None:
    flip(store, key, store.stat(key).size_bytes - 5)


def altered_index(store: ObjectStore, key: str) -> None:
    flip(store, key, store.stat(key).size_bytes - 40)


def altered_begin(store: ObjectStore, key: str) -> None:
    flip(store, key, 25)


def cut_in_half(store: ObjectStore, key: str) -> None:
    data = store.get(key).data
    store.put(key, data[: len(data) // 2], Overwrite())


def altered_manifest(store: ObjectStore, key: str) -> None:
    """Alter the manifest that ends a commit's pack."""
    flip(store, key, read_index(store, key, key.rpartition("/")[2]).runs[-1].start + 30)


INDEX_DAMAGE: dict[str, Damage] = {one.__name__: one for one in (without_footer, altered_footer, altered_index)}
DAMAGE: dict[str, Damage] = {
    **INDEX_DAMAGE,
    **{one.__name__: one for one in (missing, altered_begin, cut_in_half, altered_manifest)},
}


def whole(repo: SnapshotRepository, session_id: str) -> dict[int, str]:
    """Return every retained revision that loads, as text that says all of it."""
    found = {}
    for row in repo.history(session_id):
        if row.retained:
            try:
                state = repo.load(session_id, row.revision, execution_state=True)
            except CorruptSnapshotError:
                continue
            nodes = [node.model_dump_json() for node in state.session_graph.nodes]
            parts = (state.tool_state_snapshot, state.plugin_snapshot, state.execution_state_snapshot)
            rest = (state.checkpoint_ref, state.token_ledger, state.turn_index, state.session_graph.leaf_node_id)
            found[row.revision] = repr((nodes, parts, rest))
    return found


def commits(repo: SnapshotRepository, session_id: str) -> list[tuple[str, bool]]:
    """Return commit ids, and whether each carries a turn, oldest first."""
    return [(row.commit_id, row.turn) for row in repo.history(session_id)]


def touched(repo: SnapshotRepository, session_id: str, state_id: str) -> None:
    """Give a head another state id, as a writer does that changes what it names."""
    environment = repo.environment
    rewrite_head(environment, read_live_head(environment, session_id), lambda head: replace(head, state_id=state_id))
