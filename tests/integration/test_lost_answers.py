"""A real server behind a proxy that loses, delays or replaces the answer to a head's PUT, in all combinations."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from storage.backends import open_store
from storage.backends.s3 import S3Store
from storage.store import ObjectStore
from storage.testing.faults import Delay, FailBefore, FaultyStore, LoseAnswer, OwnRetry
from storage.wrappers.prefixed import PrefixedStore
from tests.integration.builders import SESSION
from tests.integration.world import WAYS, Phase, World, check, outcome_of
from tests.proxy import Action, Answer, DropAnswer, DropBefore, FaultProxy, Hold
from tests.servers import new_bucket_url

ALWAYS = 60
HEADS: dict[str, tuple[Phase, int, int]] = {  # phase, which PUT of a head, and which request it is
    "reservation": ("create", 1, 1),
    "first head": ("create", 2, 3),
    "steady head": ("steady", 1, 2),
}
REPLACED = tuple(
    Answer(status, code, forward=forward)
    for status, code in ((500, "InternalError"), (503, "SlowDown"), (409, "ConditionalRequestConflict"))
    for forward in (False, True)
)
ACTIONS: tuple[Action, ...] = (DropBefore(), DropAnswer(), *REPLACED)


@dataclass(frozen=True)
class Scene:
    """One run: which PUT, what is done to it and how often, who acts meanwhile, how it is repeated."""

    head: str
    action: Action
    times: int
    others: int
    way: str


def scenes(head: str) -> Iterator[Scene]:
    for action, others, way in itertools.product(ACTIONS, (0, 1), WAYS[1:]):
        yield Scene(head, action, 1, others, way)
    for action, way in itertools.product(ACTIONS, WAYS[1:]):
        yield Scene(head, action, ALWAYS, 0, way)


# moto adds its own answers only: one PUT that replaces is enough.
PLACES = [
    *(("ministack", head) for head in HEADS),
    *(("ceph", head) for head in HEADS),
    ("moto", "steady head"),
]


@pytest.fixture
def endpoint(request: pytest.FixtureRequest) -> str:
    found: str = request.getfixturevalue(f"{request.param}_endpoint")
    return found


class CalmableProxy(FaultProxy):
    """A proxy that can be told to stop."""

    def calm(self) -> None:
        """Drop all rules: from now on everything is passed on unchanged."""
        with self._lock:
            self._rules.clear()


@pytest.fixture
def proxy(endpoint: str) -> Iterator[CalmableProxy]:
    with CalmableProxy(endpoint) as running:
        yield running


class Stores:
    """One bucket, reached directly and through the proxy; each scene has a prefix of its own."""

    def __init__(self, endpoint: str, proxy: FaultProxy) -> None:
        bucket = urlsplit(new_bucket_url(endpoint)).netloc
        self._both = [S3Store(bucket, endpoint_url=url, region="us-east-1") for url in (endpoint, proxy.url)]
        self._count = itertools.count(1)

    def pair(self) -> tuple[ObjectStore, ObjectStore]:
        prefix = f"scene-{next(self._count)}"
        direct, through = (PrefixedStore(store, prefix) for store in self._both)
        return direct, through

    def close(self) -> None:
        for store in self._both:
            store.close()


@pytest.fixture
def stores(endpoint: str, proxy: CalmableProxy) -> Iterator[Stores]:
    both = Stores(endpoint, proxy)
    yield both
    both.close()


@pytest.mark.parametrize(("endpoint", "head"), PLACES, indirect=["endpoint"])
def test_a_disturbed_answer_is_settled(head: str, proxy: CalmableProxy, stores: Stores) -> None:
    for scene in scenes(head):
        try:
            play(scene, proxy, stores)
        except BaseException as error:
            error.add_note(str(scene))
            raise


def play(scene: Scene, proxy: CalmableProxy, stores: Stores) -> None:
    phase, nth, number = HEADS[scene.head]
    world = World(phase, *stores.pair())
    for _ in range(scene.others):
        world.watched.act(number + 1, world.other_commits)
    proxy.calm()
    proxy.on("PUT", "/heads/", action=scene.action, nth=nth, times=scene.times)
    first, again = world.ways(scene.way)
    said = outcome_of(first)
    world.watched.act_now()
    proxy.calm()
    check(world, outcome_of(again) if said == "unknown" else said, thoroughly=scene.others > 0)
    world.close()


POINTS = ("before the read-back", "after the call", "1 commit later", "70 commits later")


@pytest.mark.parametrize(("endpoint", "head"), PLACES, indirect=["endpoint"])
def test_a_delayed_put_changes_nothing(head: str, proxy: CalmableProxy, stores: Stores) -> None:
    for point in POINTS:
        for way in WAYS[1:] if not point.startswith("70") else WAYS[-1:]:
            try:
                play_delayed(head, point, way, proxy, stores)
            except BaseException as error:
                error.add_note(f"{head}, {point}, {way}")
                raise


def play_delayed(head: str, point: str, way: str, proxy: CalmableProxy, stores: Stores) -> None:
    phase, nth, number = HEADS[head]
    world = World(phase, *stores.pair())
    proxy.calm()
    proxy.on("PUT", "/heads/", action=Hold(), nth=nth)
    released: list[int] = []
    if point == "before the read-back":
        world.watched.act(number + 1, lambda: released.extend(proxy.release()))
    elif point.endswith("later"):  # committed before we can send again
        world.watched.act(number + 1, lambda: world.other_commits(int(point.split()[0])))
    first, again = world.ways(way)
    said = outcome_of(first)
    released += proxy.release()
    assert released[0] in ((200,) if point == "before the read-back" else (404, 409, 412))
    check(world, outcome_of(again) if said == "unknown" else said, thoroughly=not point.startswith("70"))
    world.close()


@pytest.mark.parametrize("endpoint", ["ministack"], indirect=True)
def test_small_writes_do_not_wait_for_leave_to_continue(proxy: CalmableProxy, stores: Stores) -> None:
    world = World("steady", *stores.pair())
    world.same_state()
    sent = proxy.seen("PUT", SESSION)
    assert len(sent) >= 2
    assert not [request for request in sent if "expect" in request.headers]
    heads = [request for request in sent if "/heads/" in request.target]
    assert heads
    assert all("if-match" in request.headers or "if-none-match" in request.headers for request in heads)
    world.close()


FILE_FAULTS = (LoseAnswer(), FailBefore("unknown"), FailBefore("no"), OwnRetry(), Delay())


@pytest.mark.parametrize("times", [1, ALWAYS])
@pytest.mark.parametrize("head", HEADS)
def test_a_disturbed_answer_is_settled_on_a_disk(head: str, times: int, tmp_path: Path) -> None:
    phase, nth, number = HEADS[head]
    for index, (fault, others, way) in enumerate(itertools.product(FILE_FAULTS, (0, 1), WAYS[1:])):
        store = open_store(f"file:{tmp_path}/{index}")
        faulty = FaultyStore(store)
        world = World(phase, store, faulty)
        faulty.plan.on("put", "/heads/", fault=fault, nth=nth, times=times)
        for _ in range(others):
            world.watched.act(number + 1, world.other_commits)
        first, again = world.ways(way)
        said = outcome_of(first)
        world.watched.act_now()
        faulty.plan.clear()
        said = outcome_of(again) if said == "unknown" else said
        faulty.release()
        check(world, said)
        world.close()
