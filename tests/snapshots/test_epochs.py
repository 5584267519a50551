"""Numbers of collections: each given once, whatever happens to its PUT; a damaged register is named."""

from __future__ import annotations

import pytest

from snapshots import codec
from snapshots.environment import Environment
from snapshots.epochs import raised, take_number
from snapshots.errors import CorruptSnapshotError
from snapshots.fields import U64_MAX
from snapshots.layout import Layout
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.executor import InlineExecutor
from storage.store import ObjectStore, Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import Delay, FailBefore, FaultyStore, LoseAnswer, OwnRetry, Repeat
from storage.testing.plan import Fault
from tests.snapshots.records import head

KEY = Layout("default").epoch


def environment_on(store: ObjectStore, seed: int = 1) -> Environment:
    return Environment(store, Layout("default"), ManualClock(seed=seed), InlineExecutor())


def test_numbers_rise() -> None:
    store = MemoryStore()
    assert [take_number(environment_on(store, seed)) for seed in range(5)] == [1, 2, 3, 4, 5]
    assert take_number(environment_on(store), above=40) == 41
    assert take_number(environment_on(store), above=3) == 42


@pytest.mark.parametrize(
    "fault", [FailBefore("no"), FailBefore("unknown"), LoseAnswer(), Delay(), OwnRetry(), Repeat()], ids=type
)
def test_a_number_is_given_once_whatever_happens_to_its_put(fault: Fault) -> None:
    store = MemoryStore()
    faulty = FaultyStore(store)
    given = [take_number(environment_on(store))]
    faulty.plan.on("put", KEY, fault=fault)
    given.append(take_number(environment_on(faulty, 2)))
    faulty.release()
    given += [take_number(environment_on(store, seed)) for seed in (3, 4)]
    assert len(set(given)) == 4
    assert given == sorted(given)


def test_without_an_answer_there_is_no_number() -> None:
    faulty = FaultyStore(MemoryStore())
    faulty.plan.on("put", KEY, times=None, fault=FailBefore("no"))
    with pytest.raises(UnavailableError):
        take_number(environment_on(faulty))


def test_a_damaged_register_is_named() -> None:
    store = MemoryStore()
    take_number(environment_on(store))
    whole = store.get(KEY).data
    for position in range(len(whole)):
        store.put(KEY, whole[:position] + bytes([whole[position] ^ 4]) + whole[position + 1 :], Overwrite())
        with pytest.raises(CorruptSnapshotError) as caught:
            take_number(environment_on(store))
        assert caught.value.key == KEY


def test_a_register_of_another_tenant_is_corruption() -> None:
    store = MemoryStore()
    other = Environment(store, Layout("other"), ManualClock(), InlineExecutor())
    take_number(other)
    store.put(KEY, store.get(other.layout.epoch).data, Overwrite())
    with pytest.raises(CorruptSnapshotError, match="another tenant"):
        take_number(environment_on(store))


def test_a_register_that_leaves_no_number_is_corruption() -> None:
    store = MemoryStore()
    take_number(environment_on(store))
    plain = codec.decode(codec.unguarded(store.get(KEY).data, key=KEY), key=KEY)
    store.put(KEY, codec.guarded(codec.encode({**plain, "number": U64_MAX})), Overwrite())
    with pytest.raises(CorruptSnapshotError, match="number"):
        take_number(environment_on(store))


def test_a_head_is_raised_and_never_lowered() -> None:
    assert raised(head(epoch=3), 5) == head(epoch=5)
    assert raised(head(epoch=5), 5) is None
    assert raised(head(epoch=6), 5) is None
