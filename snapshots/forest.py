"""All sessions as a forest: who came from whom, what each has stored, and what would go with it. Read-only.

Rules:
1. A session stands under the one it was forked from, otherwise under the parent that its relation names. Where that one
   is not there or only reserved it is the root of a tree; `origin` and `relation` say what it came from.
2. Every session stands in the forest once. Relations that go round in a circle are cut above the oldest of them.
3. A tombstone stands here only if a session that is none descends from it; a reservation never does.
4. A pack counts once in a family, however many of its heads name it.
5. Heads are read first, then the packs are listed: a pack that a head named and the listing lacks was deleted since,
   so heads are read again; if that head is still the same it is corruption.
6. No recursion: forks of forks may be thousands deep.

    for tree in forest(environment):
        for one in tree.sessions:
            print("  " * one.depth, one.session_id, one.own_bytes)
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from snapshots.environment import Environment
from snapshots.errors import CorruptSnapshotError, SessionNotFoundError
from snapshots.head import LIVE, RESERVED, TOMBSTONE, Head, Origin
from snapshots.pins import Pin
from snapshots.reading import LOAD_ATTEMPTS_MAX, HeadRead, head_at
from snapshots.roots import named_packs
from snapshots.sessions import for_each_head
from snapshots.state import SessionRelation, relation_parent
from storage.errors import CorruptObjectError, NotFoundError


@dataclass(frozen=True, slots=True)
class TreeSession:
    """A session where it stands in the forest.

    Attributes:
        session_id: Its id.
        parent: Session that it stands under, "" for a root (rule 1).
        depth: Sessions above it.
        status: "live", "moved", or "tombstone".
        revision: Its present revision.
        retained: How many of its revisions can be loaded.
        created_at: When its id was first reserved.
        family: Id of the session whose packs it shares.
        origin: Where it was forked from, None for others.
        relation: Root, child of another session, or its successor.
        holder: Owner whose Writer alone may commit, "" for anyone.
        pins: Names for its revisions.
        stored_bytes: Packs that its head names.
        own_bytes: Packs that no other live head names; its deletion alone frees no more.
        family_bytes: Packs that any live head of its family names, each once.
    """

    session_id: str
    parent: str
    depth: int
    status: str
    revision: int
    retained: int
    created_at: datetime
    family: str
    origin: Origin | None
    relation: SessionRelation
    holder: str
    pins: tuple[Pin, ...]
    stored_bytes: int
    own_bytes: int
    family_bytes: int


@dataclass(frozen=True, slots=True)
class SessionTree:
    """A root and all that descends from it.

    Attributes:
        sessions: Parents before their children, each session right before its descendants, children by creation.
    """

    sessions: tuple[TreeSession, ...]

    @property
    def root(self) -> TreeSession:
        """Return the session on top."""
        return self.sessions[0]


def forest(environment: Environment) -> tuple[SessionTree, ...]:
    """Return all sessions of the tenant as trees, oldest root first; see `SnapshotRepository.forest`."""
    seen, pack_bytes = _seen_with_packs(environment)
    sizes = _Sizes(seen, pack_bytes)
    heads = {one.head.session_id: one.head for one in seen if one.head.status != RESERVED}
    parents = _without_circles(heads, _parents(heads))
    placed = (_placed(heads[name], parents[name], depth, sizes) for name, depth in _in_order(heads, parents))
    trees: list[list[TreeSession]] = []
    for one in placed:
        if one.depth == 0:
            trees.append([])
        trees[-1].append(one)
    return tuple(SessionTree(tuple(tree)) for tree in trees)


def tree_under(trees: Iterable[SessionTree], session_id: str) -> SessionTree:
    """Return the part of a forest that begins with a session. Raises SessionNotFoundError if it is not there."""
    for tree in trees:
        for index, top in enumerate(tree.sessions):
            if top.session_id == session_id:
                return SessionTree(tuple(_below(tree.sessions[index:], top)))
    raise SessionNotFoundError(session_id)


def _below(sessions: Sequence[TreeSession], top: TreeSession) -> Iterator[TreeSession]:
    yield replace(top, parent="", depth=0)
    for one in sessions[1:]:
        if one.depth <= top.depth:
            return
        yield replace(one, depth=one.depth - top.depth)


# What is stored.


@dataclass(frozen=True, slots=True)
class _Seen:
    """A head, its key and version, and the keys of the packs that it names."""

    key: str
    read: HeadRead
    packs: frozenset[str]

    @property
    def head(self) -> Head:
        return self.read.head


def _seen_with_packs(environment: Environment) -> tuple[list[_Seen], Mapping[str, int]]:
    """Return all heads, and the size of every pack by key (rule 5)."""
    for _ in range(LOAD_ATTEMPTS_MAX):
        seen = list(_heads(environment))
        pack_bytes = {row.key: row.size_bytes for row in environment.store.list(environment.layout.packs)}
        gone = next(((one, key) for one in seen for key in one.packs if key not in pack_bytes), None)
        if gone is None:
            return seen, pack_bytes
        one, missing = gone
        if head_at(environment, one.key).version == one.read.version:
            raise _missing(missing)
    raise CorruptSnapshotError(missing, f"packs were missing in {LOAD_ATTEMPTS_MAX} readings of moving sessions")


def _heads(environment: Environment) -> Iterator[_Seen]:
    return for_each_head(environment, lambda row: _seen(environment, row.key))


def _seen(environment: Environment, key: str) -> _Seen:
    """Return a head with its packs; again when something was missing because the session moved on."""
    read = head_at(environment, key)
    for _ in range(LOAD_ATTEMPTS_MAX):
        try:
            names = named_packs(environment, read.head)
        except NotFoundError as error:
            again = head_at(environment, key)
            if again.version == read.version:
                raise _missing(error.key) from error
            read = again
        except CorruptObjectError as error:
            raise CorruptSnapshotError(error.key, error.reason) from error
        else:
            return _Seen(key, read, frozenset(environment.layout.pack(read.head.family, name) for name in names))
    raise CorruptSnapshotError(key, f"objects were missing in {LOAD_ATTEMPTS_MAX} readings of a moving session")


def _missing(key: str) -> CorruptSnapshotError:
    return CorruptSnapshotError(key, "this object is missing, though a head names it")


class _Sizes:
    """Bytes of packs by session and by family. A key names the family, so one key is one pack of one family."""

    def __init__(self, seen: Iterable[_Seen], pack_bytes: Mapping[str, int]) -> None:
        self._pack_bytes = pack_bytes
        self._packs = {one.head.session_id: one.packs for one in seen}
        self._users = Counter(key for packs in self._packs.values() for key in packs)
        families: defaultdict[str, set[str]] = defaultdict(set)
        for one in seen:
            families[one.head.family] |= one.packs
        self._families = {family: self._sum(keys) for family, keys in families.items()}

    def _sum(self, keys: Iterable[str]) -> int:
        return sum(self._pack_bytes[key] for key in keys)

    def stored(self, session_id: str) -> int:
        return self._sum(self._packs[session_id])

    def own(self, session_id: str) -> int:
        return self._sum(key for key in self._packs[session_id] if self._users[key] == 1)

    def family(self, family: str) -> int:
        return self._families[family]


def _retained(head: Head) -> int:
    if head.status != LIVE:
        return 0
    return head.revision - head.floor + 1 + len(head.kept_below_floor)


def _placed(head: Head, parent: str, depth: int, sizes: _Sizes) -> TreeSession:
    return TreeSession(
        session_id=head.session_id,
        parent=parent,
        depth=depth,
        status=head.status,
        revision=head.revision,
        retained=_retained(head),
        created_at=head.created_at,
        family=head.family,
        origin=head.origin,
        relation=head.relation,
        holder=head.held_by,
        pins=head.pins,
        stored_bytes=sizes.stored(head.session_id),
        own_bytes=sizes.own(head.session_id),
        family_bytes=sizes.family(head.family),
    )


# Who stands under whom.


def _parents(heads: Mapping[str, Head]) -> dict[str, str]:
    """Return the parent of every session that the forest shows, "" for none (rules 1 and 3)."""
    named = {name: _named_parent(head) for name, head in heads.items()}
    above = {name: parent if parent in heads else "" for name, parent in named.items()}
    shown = {name for name, head in heads.items() if head.status != TOMBSTONE}
    for name in tuple(shown):
        parent = above[name]
        while parent and parent not in shown:
            shown.add(parent)
            parent = above[parent]
    return {name: parent for name, parent in above.items() if name in shown}


def _named_parent(head: Head) -> str:
    return head.origin.session_id if head.origin is not None else relation_parent(head.relation) or ""


def _without_circles(heads: Mapping[str, Head], parents: Mapping[str, str]) -> dict[str, str]:
    """Return the parents with every circle cut above its oldest session (rule 2)."""
    cut = dict(parents)
    done = {""}
    for name in parents:
        path: dict[str, None] = {}
        while name not in done and name not in path:
            path[name] = None
            name = cut[name]
        if name in path:
            walked = list(path)
            circle = walked[walked.index(name) :]
            cut[min(circle, key=lambda one: _age(heads[one]))] = ""
        done.update(path)
    return cut


def _age(head: Head) -> tuple[datetime, str]:
    return head.created_at, head.session_id


def _in_order(heads: Mapping[str, Head], parents: Mapping[str, str]) -> Iterator[tuple[str, int]]:
    """Yield every session with its depth, parents first, siblings by creation."""
    children: defaultdict[str, list[str]] = defaultdict(list)
    for name in sorted(parents, key=lambda one: _age(heads[one]), reverse=True):
        children[parents[name]].append(name)
    waiting = [(name, 0) for name in children[""]]
    while waiting:
        name, depth = waiting.pop()
        yield name, depth
        waiting += [(child, depth + 1) for child in children[name]]
