"""A session changes its owner again and again, each time in the midst of a turn: nothing lost, nothing done twice.

Two processes are two hosts. Between them and a server are proxies, one for each, that hold a request or its answer up.
On `file:` there is no wire: the process itself is stopped (SIGSTOP) before a write, before it tells what it did, or at
any moment, within a write too. Whatever was held up goes on when the other host has taken over.

The number of changes comes from the environment: `SNAPSHOTS_ROUNDS=200 python -m pytest tests/integration -k owner`;
that of the kills likewise, `SNAPSHOTS_KILLS=100`.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from snapshots import SnapshotRepository
from storage.testing.draws import Draws
from tests.integration.builders import SESSION, check_every_revision
from tests.integration.hosts import Host, running_host, spin
from tests.integration.owner import ANSWER, SAVES
from tests.integration.pauses import PausingProxy
from tests.integration.places import (
    HEADS,
    MOMENT_SECONDS_MAX,
    PACKS,
    STOP_PLACES,
    TURNS,
    WIRE_PLACES,
    Change,
    on_the_wire,
    stopped,
)
from tests.integration.story import Story
from tests.servers import new_bucket_url

CHANGES = int(os.environ.get("SNAPSHOTS_ROUNDS", "30"))
SERVER_CHANGES = int(os.environ.get("SNAPSHOTS_ROUNDS", str(len(STOP_PLACES))))  # each place once, on each server
WIRE_CHANGES = int(os.environ.get("SNAPSHOTS_ROUNDS", str(2 * len(WIRE_PLACES))))  # with each server
KILLS = int(os.environ.get("SNAPSHOTS_KILLS", "10"))  # at each place
SEED = 20260102
WIRES = (("ministack", SEED), ("ceph", SEED + 1))  # other draws on each, to see more of them
NAMES = ("host-a", "host-b")
KILL_PARTS = (TURNS, TURNS, PACKS, HEADS, ANSWER, "")


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.mark.parametrize(("server", "seed"), WIRES)
def test_an_owner_held_up_on_the_wire_is_replaced(
    server: str, seed: int, request: pytest.FixtureRequest, tmp_path: Path, stack: ExitStack
) -> None:
    endpoint: str = request.getfixturevalue(f"{server}_endpoint")
    url, effects, draws = new_bucket_url(endpoint), tmp_path / "effects", Draws(seed)
    repo = stack.enter_context(SnapshotRepository.open(url))
    story = Story(repo, effects)
    proxies = {name: stack.enter_context(PausingProxy(endpoint)) for name in NAMES}
    urls = {name: url.replace(endpoint, proxy.url) for name, proxy in proxies.items()}
    hosts = [stack.enter_context(running_host(urls[name], name, effects)) for name in NAMES]
    change_owners(story, hosts, on_the_wire(WIRE_CHANGES, proxies, draws), draws)
    check_every_revision(repo, SESSION)


def test_a_stopped_owner_is_replaced(shared_url: str, tmp_path: Path, stack: ExitStack) -> None:
    changes = CHANGES if shared_url.startswith("file:") else SERVER_CHANGES
    effects, draws = tmp_path / "effects", Draws(SEED)
    repo = stack.enter_context(SnapshotRepository.open(shared_url))
    story = Story(repo, effects)
    hosts = [stack.enter_context(running_host(shared_url, name, effects)) for name in NAMES]
    change_owners(story, hosts, stopped(changes, draws), draws)
    check_every_revision(repo, SESSION)


def change_owners(story: Story, hosts: Sequence[Host], changes: Iterable[Change], draws: Draws) -> None:
    story.acquired(hosts[0], hosts[0].ask("acquire"))
    for number, change in enumerate(changes):
        pair = hosts[number % 2], hosts[1 - number % 2]
        early = draws.below(2) == 1
        try:
            change_owner(story, f"turn-{number}", pair, change, early=early)
        except BaseException as error:
            error.add_note(
                f"seed {draws.seed}, change {number}: {change.name}, finished {'early' if early else 'late'}"
            )
            raise
    for host in hosts:
        host.leave()
    print({"changes": number + 1, "seed": draws.seed, "executed again": story.doubled, **story.counts})


def change_owner(story: Story, turn: str, hosts: tuple[Host, Host], change: Change, *, early: bool) -> None:
    """Let the second host take over in the midst of the first one's turn, and finish it early or late.

    Early is before the first one goes on: then it may find its turn committed by the other, and is told so.
    """
    first, second = hosts
    held = change.held
    held.arm(first)
    first.tell("turn", turn)
    held.wait()
    committed = story.taken_over(turn, second, *held.take_over(second, story.left))
    if early:
        finish(story, turn, second, partial(held.ask, second, "turn", turn), committed=committed)
    held.resume()
    answers = answers_of(first)
    story.heard(turn, first, answers[-1])
    story.strayed(f"stray-{turn}", first, first.ask("stray", f"stray-{turn}"))
    if not early:
        finish(story, turn, second, partial(second.ask, "turn", turn), committed=committed)
    story.check(turn, interruptions=0 if committed else 1)
    story.counts["in doubt"] += len(answers) - 1
    if change.fate != "open":
        assert committed == (change.fate == "landed")
        told = committed or (change.fate == "not landed" and early)
        assert [answer["said"] for answer in answers] == ["unknown"] * change.doubts + [
            "committed" if told else "refused"
        ]


def test_what_a_killed_owner_left_is_finished_by_the_next(shared_url: str, tmp_path: Path, stack: ExitStack) -> None:
    effects, draws = tmp_path / "effects", Draws(SEED)
    repo = stack.enter_context(SnapshotRepository.open(shared_url))
    story = Story(repo, effects)
    heirs = (stack.enter_context(running_host(shared_url, f"host-{n}", effects)) for n in itertools.count())
    owner, kills, turns = next(heirs), 0, 0
    story.acquired(owner, owner.ask("acquire"))
    while kills < KILLS:
        turn, committed, losses = f"turn-{turns}", False, 0
        for part in [draws.pick(KILL_PARTS) for _ in range(1 + draws.below(2))]:  # the heir may be killed as well
            try:
                heard = killed_in(owner, turn, part, draws)
                owner = next(heirs)
                committed = taken_over_from(story, turn, heard, owner)
            except BaseException as error:
                error.add_note(f"seed {SEED}, kill {kills}: {turn}, {part or 'at any moment'}")
                raise
            kills, losses = kills + 1, losses + (not committed)
        finish(story, turn, owner, partial(owner.ask, "turn", turn), committed=committed)
        story.check(turn, interruptions=losses)
        turns += 1
    owner.leave()
    check_every_revision(repo, SESSION)
    print({"kills": kills, "turns": turns, "seed": SEED, "executed again": story.doubled, **story.counts})


def killed_in(owner: Host, turn: str, part: str, draws: Draws) -> list[dict[str, Any]]:
    """Kill the owner in a turn, before a PUT of a key with `part`, or at any moment; return what it said before.

    Before which save is drawn: the first outcome is recorded, or its effect was just performed. An heir has fewer
    saves to make, and may be through with the turn.
    """
    if part:
        owner.ask("stop_at", part, 3 + draws.below(SAVES - 2) if part == TURNS else 1)
    owner.tell("turn", turn)
    if not part:
        spin(draws.random() * MOMENT_SECONDS_MAX)
        return owner.kill()
    answer = owner.answer()
    if answer != {"held": True}:
        return [answer, *owner.kill()]
    owner.await_stopped()
    return owner.kill()


def taken_over_from(story: Story, turn: str, heard: list[dict[str, Any]], heir: Host) -> bool:
    """Let the heir acquire; say whether the turn was committed, which it must be if that was heard."""
    left = story.left()
    committed = story.taken_over(turn, heir, left, heir.ask("acquire"))
    assert committed or not heard, heard
    for answer in heard:
        if answer["said"] != "finished before":
            story.heard(turn, heir, answer)
    return committed


def finish(story: Story, turn: str, host: Host, ask: Callable[[], dict[str, Any]], *, committed: bool) -> None:
    answer = ask()
    story.finished(answer, committed=committed)
    if not committed:
        story.heard(turn, host, answer)


def answers_of(host: Host) -> list[dict[str, Any]]:
    """Return what the host was told of its turn; what it does not know it asks again."""
    answers = [host.answer()]
    while answers[-1]["said"] == "unknown":
        answers.append(host.ask("again"))
    return answers
