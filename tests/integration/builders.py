"""Turns that can be told apart afterwards, and stores that are watched while commits run."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import BinaryIO

from snapshots import Message, Part, PersistedSessionState, SnapshotRepository, TokenLedgerEntry, TokenUsage
from snapshots.head import Head
from snapshots.layout import Layout
from snapshots.state import merge_ledger_entry
from storage.errors import PreconditionFailedError
from storage.store import (
    ByteRange,
    Create,
    DeleteFailure,
    ListedObject,
    ObjectMeta,
    ObjectStore,
    Overwrite,
    PutMode,
    Replace,
    StoredObject,
    Version,
)
from storage.testing.faults import Delay, FailBefore, Fault, LoseAnswer, OwnRetry, Repeat

SESSION = "s1"
# What can happen to one PUT, and leave the operation that sent it whole.
PUT_FAULTS: dict[str, Fault] = {
    "not applied": FailBefore("no"),
    "unknown, not applied": FailBefore("unknown"),
    "answer lost": LoseAnswer(),
    "delayed": Delay(),
    "own retry": OwnRetry(),
    "delivered twice": Repeat(),
}


def message(message_id: str, text: str = "") -> Message:
    part = Part(id=f"{message_id}.p0", kind="Text", content=text or f"text of {message_id}")
    return Message(id=message_id, role="User", parts=(part,))


def add_usage(state: PersistedSessionState, model: str, usage: TokenUsage) -> None:
    ledger = list(state.token_ledger)
    merge_ledger_entry(ledger, TokenLedgerEntry(source="turn", model=model, usage=usage))
    state.token_ledger = ledger


def take_turn(state: PersistedSessionState, name: str, *, tokens: int = 1) -> PersistedSessionState:
    """Add a message called `name` (unless it is there) and usage of `tokens` to `state`; return it."""
    state.append_active_read_delta([*state.read_view().messages, message(name)], [])
    state.turn_index += 1
    add_usage(state, name.rstrip("0123456789"), TokenUsage(input_tokens=tokens, cached_input_tokens=tokens))
    return state


def new_session(session_id: str = SESSION, *turns: str) -> PersistedSessionState:
    state = PersistedSessionState(session_id=session_id)
    for name in turns:
        take_turn(state, name)
    return state


def message_ids(state: PersistedSessionState) -> list[str]:
    return [one.id for one in state.read_view().messages]


def usage_of(state: PersistedSessionState) -> dict[str, int]:
    """Return the input tokens by model, each model named once in the ledger."""
    models = [entry.model for entry in state.token_ledger]
    assert len(models) == len(set(models))
    return {entry.model: entry.usage.input_tokens for entry in state.token_ledger}


def raw_head(store: ObjectStore, session_id: str = SESSION, tenant: str = "default") -> Head:
    key = Layout(tenant).head(session_id)
    return Head.decode(store.get(key).data, key=key)


def rewrite_head(
    store: ObjectStore, change: Callable[[Head], Head], session_id: str = SESSION, tenant: str = "default"
) -> None:
    """Replace a head by hand, as another actor would: by compare-and-swap, again if somebody was faster."""
    key = Layout(tenant).head(session_id)
    while True:
        found = store.get(key)
        with suppress(PreconditionFailedError):
            store.put(key, change(Head.decode(found.data, key=key)).encode(), Replace(found.version))
            return


def check_every_revision(repo: SnapshotRepository, session_id: str = SESSION) -> None:
    """Check that the history is unbroken, its commit ids are unique, and every revision of it loads."""
    history = repo.history(session_id)
    assert [row.revision for row in history] == list(range(1, len(history) + 1))
    assert [row.parent for row in history] == list(range(len(history)))
    assert len({row.commit_id for row in history}) == len(history)
    for row in history:
        state = repo.load(session_id, row.revision)
        assert state.head_revision == row.revision
        assert len(state.session_graph.nodes) == row.node_count


@dataclass(frozen=True)
class Put:
    """A put as it was asked for; `epoch` counts the reads of heads before it."""

    key: str
    mode: PutMode
    data: bytes = field(repr=False)
    epoch: int = 0


class WatchedStore:
    """A store that records its puts, and lets others act before chosen requests.

    Attributes:
        requests: Verb and key, oldest first.
        puts: Every put that was asked for.
        before: What to do before the request of a number, from 1.
    """

    def __init__(self, store: ObjectStore) -> None:
        self.requests: list[tuple[str, str]] = []
        self.puts: list[Put] = []
        self.before: dict[int, list[Callable[[], object]]] = {}
        self._awaited: list[tuple[str, str, Callable[[], object]]] = []
        self._store = store
        self._head_reads = 0

    def start_over(self) -> None:
        """Forget the requests so far: numbers count from 1 again."""
        self.requests.clear()

    def act(self, number: int, action: Callable[[], object]) -> None:
        self.before.setdefault(number, []).append(action)

    def act_before(self, verb: str, key: str, action: Callable[[], object]) -> None:
        """Let others act before the next request of this verb for this key, once."""
        self._awaited.append((verb, key, action))

    def act_now(self) -> None:
        """Do what waits for requests that never came."""
        for number in sorted(self.before):
            self._do(number)

    def get(self, key: str, byte_range: ByteRange | None = None) -> StoredObject:
        self._note("get", key)
        self._head_reads += "/heads/" in key
        return self._store.get(key, byte_range)

    def put(self, key: str, data: bytes | BinaryIO, mode: PutMode) -> Version:
        self._note("put", key)
        kept = data if isinstance(data, bytes) else data.read()
        self.puts.append(Put(key, mode, kept, self._head_reads))
        return self._store.put(key, kept if isinstance(data, bytes) else io.BytesIO(kept), mode)

    def stat(self, key: str) -> ObjectMeta:
        self._note("stat", key)
        return self._store.stat(key)

    def list(self, prefix: str, *, start_after: str = "") -> Iterator[ListedObject]:
        self._note("list", prefix)
        return self._store.list(prefix, start_after=start_after)

    def delete(self, key: str) -> None:
        self._note("delete", key)
        self._store.delete(key)

    def delete_many(self, keys: Iterable[str]) -> tuple[DeleteFailure, ...]:
        self._note("delete_many", "")
        return self._store.delete_many(keys)

    def _note(self, verb: str, key: str) -> None:
        self.requests.append((verb, key))
        self._do(len(self.requests))
        due = [one for one in self._awaited if one[:2] == (verb, key)]
        self._awaited = [one for one in self._awaited if one not in due]
        for _, _, action in due:
            action()

    def _do(self, number: int) -> None:
        for action in self.before.pop(number, ()):
            action()


def check_puts(puts: Sequence[Put]) -> None:
    """Check the rules of writing: no unconditional PUT, and no name of a pack for two contents or after a read."""
    packs: dict[str, tuple[int, bytes]] = {}
    written: set[bytes] = set()
    for put in puts:
        assert not isinstance(put.mode, Overwrite), put
        if "/heads/" in put.key:
            assert put.data not in written, f"two heads of equal bytes: {put}"
            written.add(put.data)
            continue
        assert isinstance(put.mode, Create), put
        if "/packs/" in put.key:
            first = packs.setdefault(put.key, (put.epoch, put.data))
            assert first == (put.epoch, put.data), f"the name of a pack was used again: {put}"
