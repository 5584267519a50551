"""A host that owns a session: takes it over, takes journalled turns, and says what it was told.

Lines on stdin are JSON lists: a verb of `Owner` and its arguments. Each is answered by one line of JSON.

Every effect appends a line to a file that all hosts share, so that real executions can be counted. A message is
named after its turn and its author, so that it can be seen whose commit stands in the history.

    python -m tests.integration.owner file:store host-a effects.txt
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from snapshots import PersistedSessionState, SnapshotRepository, TurnStamp
from snapshots.errors import CommitUnknownError, FencedError, IllegalTransitionError
from snapshots.writer import Writer
from storage.backends import open_store
from storage.clock import SystemClock
from storage.testing.faults import FaultyStore, Meanwhile
from tests.integration.builders import SESSION, message

KEYS = ("look-up", "send-mail", "pay")
SAVES = 1 + 2 * len(KEYS)  # PUTs of the turn in flight in a turn: its beginning, outcome and checkpoint of each effect
ANSWER = "answer"
"""A place to stop at: everything is done, nobody has heard of it."""

Answer = dict[str, Any]


def stamp(turn_id: str) -> TurnStamp:
    return TurnStamp(turn_id, content_hash=f"input of {turn_id}")


def stop_oneself() -> None:
    """Say so, and be stopped until somebody sends SIGCONT: all threads at once, as a frozen host."""
    print(json.dumps({"held": True}), flush=True)
    os.kill(os.getpid(), signal.SIGSTOP)


class Owner:
    """The verbs. What is not foreseen ends the process, with its traceback."""

    def __init__(self, repo: SnapshotRepository, store: FaultyStore, name: str, effects: Path) -> None:
        self.name = name
        self.stops_before_answer = False
        self._repo = repo
        self._store = store
        self._effects = effects
        self._ran: list[str] = []

    def acquire(self) -> Answer:
        """Take the session over; say what was left in flight."""
        self._writer: Writer = self._repo.acquire(SESSION, self.name)
        turn = self._writer.turn
        effects = {key: effect.result.decode() for key, effect in turn.effects.items()}
        left = {"turn": turn.turn_id, "effects": effects, "checkpoint": turn.checkpoint.decode()}
        return {"fence": self._writer.fence, **left}

    def turn(self, turn_id: str) -> Answer:
        """Take a turn, or finish it: begin it, perform its effects, commit it."""
        self._ran = []
        try:
            self._writer.begin_turn(turn_id)
            self._pend(turn_id, self._performed(turn_id))
        except FencedError:
            return {"said": "refused", "ran": self._ran}
        except IllegalTransitionError as error:
            if error.from_status != "committed":
                raise
            return {"said": "finished before", "ran": self._ran}
        return self.again()

    def again(self) -> Answer:
        """Commit what is pending; in doubt the same state object again."""
        state, turn_id = self._pending
        try:
            result = self._writer.commit(state, stamp(turn_id))
        except FencedError:
            return {"said": "refused", "ran": self._ran}
        except CommitUnknownError:
            return {"said": "unknown", "ran": self._ran}
        told = {"revision": result.head_revision, "commit_id": result.commit_id}
        return {"said": "committed", **told, "ran": self._ran}

    def stray(self, turn_id: str) -> Answer:
        """Try everything that an owner may do; say what came of it."""
        turn = self._writer.turn
        state = self._writer.state
        state.append_active_conversation_messages([message(f"{turn_id}@{self.name}")])
        tried = {
            "commit": _tried(lambda: self._writer.commit(state, stamp(turn_id))),
            "commit without stamp": _tried(lambda: self._writer.commit(state)),
            "release": _tried(self._writer.release),
        }
        if turn.turn_id:
            tried["effect"] = _tried(lambda: turn.record("stray", "", b""))
            tried["checkpoint"] = _tried(lambda: turn.save_checkpoint(b"stray"))
            tried["finish"] = _tried(turn.finish)
        return {**tried, "begin": _tried(lambda: self._writer.begin_turn(turn_id))}

    def stop_at(self, part: str, nth: int) -> Answer:
        """Stop before the nth PUT from now on of a key with `part`, or before the next answer."""
        self._store.plan.clear()
        if part == ANSWER:
            self.stops_before_answer = True
        else:
            self._store.plan.on("put", part, nth=nth, fault=Meanwhile(stop_oneself))
        return {}

    def _performed(self, turn_id: str) -> dict[str, str]:
        turn, outcomes = self._writer.turn, {}
        for key in KEYS:
            outcomes[key] = turn.perform(key, f"{turn_id} {key}", partial(self._execute, turn_id, key)).decode()
            turn.save_checkpoint(json.dumps(sorted(outcomes)).encode())
        return outcomes

    def _execute(self, turn_id: str, key: str) -> bytes:
        """Do what must not be done twice: append a line that no other execution has; return it."""
        line = f"{turn_id} {key} {self.name} {SystemClock().new_id()}"
        with self._effects.open("a") as shared:
            shared.write(line + "\n")
        self._ran.append(key)
        return line.encode()

    def _pend(self, turn_id: str, outcomes: dict[str, str]) -> None:
        state = self._writer.state
        state.append_active_conversation_messages([message(f"{turn_id}@{self.name}", json.dumps(outcomes))])
        state.turn_index += 1
        self._pending: tuple[PersistedSessionState, str] = state, turn_id


def _tried(act: Callable[[], object]) -> str:
    """Return the name of the error that `act` raised, "" for none."""
    try:
        act()
    except Exception as error:  # noqa: BLE001  whoever asked says which it must be
        return type(error).__name__
    return ""


def main(url: str, name: str, effects: str) -> None:
    store = FaultyStore(open_store(url))
    with SnapshotRepository(store, create=False, url=url, inline_limit_bytes=0) as repo:
        owner = Owner(repo, store, name, Path(effects))
        for line in sys.stdin:
            verb, *arguments = json.loads(line)
            answer = getattr(owner, verb)(*arguments)
            if owner.stops_before_answer and verb == "turn":
                owner.stops_before_answer = False
                stop_oneself()
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
