"""A process per peer: commits turn by turn when it is told to, or resumes once in a fresh process.

with Worker.started("strands_s3", "turns", count, place) as worker:
    cost = worker.commit()
    end = worker.finish()
resumption = resume("strands_s3", "turns", place)
"""

from __future__ import annotations

import multiprocessing
import subprocess
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from importlib.metadata import version
from multiprocessing.connection import Connection
from typing import Any

from tests.benchmarks.peers import steps
from tests.benchmarks.peers.meters import METER, Cost, count_requests, resident_bytes
from tests.benchmarks.peers.places import use_server
from tests.benchmarks.peers.protocol import Contents, Place, PlainTurn
from tests.benchmarks.peers.registry import Workload, entry

_PROCESSES = multiprocessing.get_context("spawn")  # nothing of the parent's memory or imports
ENDED_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Digested:
    """Contents, small enough to hand to another process."""

    messages: int
    answered: str
    tool_state: dict[str, Any] | None
    execution_state: str | None

    @classmethod
    def of(cls, contents: Contents) -> Digested:
        """Digest the execution state."""
        data = contents.execution_state
        digest = None if data is None else sha256(data).hexdigest()
        return cls(contents.messages, contents.answered, contents.tool_state, digest)

    def as_far_as(self, found: Digested) -> Digested:
        """Return what is expected of a peer that has a place for no more than `found`."""
        tools = None if found.tool_state is None else self.tool_state
        state = None if found.execution_state is None else self.execution_state
        return Digested(self.messages, self.answered, tools, state)


@dataclass(frozen=True, slots=True)
class End:
    """What a peer has stored when all is committed, and what a reader must find."""

    stored_bytes: int
    before_bytes: int
    expected: Digested
    state_bytes: int
    versions: dict[str, str]


@dataclass(frozen=True, slots=True)
class Resumption:
    """What a cold resume cost and found."""

    cost: Cost
    found: Digested


class WorkerError(Exception):
    """The peer's process failed; the text is its traceback."""


class Worker:
    """The process of a peer that commits.

    Args:
        connection: To that process.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    @classmethod
    @contextmanager
    def started(cls, name: str, workload: Workload, count: int, place: Place) -> Iterator[Worker]:
        """Start the process; end it when the block ends."""
        with _process(_commit, name, workload, count, place) as connection:
            yield cls(connection)

    def commit(self) -> Cost:
        """Let it commit the next turn; return what that cost."""
        self._connection.send("commit")
        cost = _received(self._connection)
        assert isinstance(cost, Cost)
        return cost

    def stored_bytes(self) -> int:
        """Let it say what it has stored so far."""
        self._connection.send("look")
        stored = _received(self._connection)
        assert isinstance(stored, int)
        return stored

    def finish(self) -> End:
        """Let it sum up."""
        self._connection.send("finish")
        end = _received(self._connection)
        assert isinstance(end, End)
        return end


def resume(name: str, place: Place) -> Resumption:
    """Open and resume in a process that has done nothing yet but import."""
    with _process(_resume, name, place) as connection:
        resumption = _received(connection)
        assert isinstance(resumption, Resumption)
        return resumption


@contextmanager
def _process(target: Any, *arguments: object) -> Iterator[Connection]:
    ours, theirs = _PROCESSES.Pipe()
    process = _PROCESSES.Process(target=_guarded, args=(target, theirs, *arguments))
    process.start()
    theirs.close()
    try:
        yield ours
    finally:
        ours.close()  # which ends its loop
        process.join(ENDED_SECONDS)
        if process.is_alive():
            process.kill()
            process.join()


def _received(connection: Connection) -> object:
    try:
        answer = connection.recv()
    except EOFError:
        raise WorkerError("the process ended without an answer") from None
    if isinstance(answer, str):
        raise WorkerError(answer)
    return answer


def _guarded(target: Any, connection: Connection, *arguments: object) -> None:
    try:
        target(connection, *arguments)
    except EOFError:
        return  # the parent wants no more
    except BaseException:  # noqa: BLE001  handed to the parent, which raises it
        connection.send(traceback.format_exc())


def _commit(connection: Connection, name: str, workload: Workload, count: int, place: Place) -> None:
    use_server(place)
    count_requests()
    peer_class = entry(name).load()
    if hasattr(peer_class, "prepare"):
        peer_class.prepare(place)
    peer = peer_class.open(place)
    source: Iterator[Any] = steps.turns(count) if workload == "turns" else steps.revisions(count)
    step, before = None, 0
    while (told := connection.recv()) != "finish":
        if told == "look":
            connection.send(peer.stored_bytes())
            continue
        step = next(source)
        before = before or resident_bytes()
        with METER.measuring() as costs:
            peer.commit(step)
        connection.send(costs[0])
    connection.send(_end(peer, step, before))


def _end(peer: Any, last: Any, before_bytes: int) -> End:
    is_turn = isinstance(last, PlainTurn)
    messages = peer.MESSAGES_PER_TURN * (last.index + 1) if is_turn else len(last.lines)
    tools = last.tool_state if is_turn else None
    expected = Contents(messages, last.answered, tools, last.execution_state)
    state_bytes = len(last.execution_state) + (0 if is_turn else sum(map(len, last.lines)))
    return End(peer.stored_bytes(), before_bytes, Digested.of(expected), state_bytes, _versions(peer))


def _versions(peer: Any) -> dict[str, str]:
    versions = {name: version(name) for name in peer.PACKAGES}
    program = getattr(peer, "PROGRAM", None)
    if program:
        option = "version" if program == "restic" else "--version"
        versions[program] = subprocess.run([program, option], capture_output=True, text=True, check=True).stdout.strip()
    return versions


def _resume(connection: Connection, name: str, place: Place) -> None:
    use_server(place)
    count_requests()
    peer_class = entry(name).load()
    with METER.measuring() as costs:
        contents = peer_class.open(place).resume()
    connection.send(Resumption(costs[0], Digested.of(contents())))
