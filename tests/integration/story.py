"""`Story`: what the owners of a session were told, held against what a third process finds in the store.

story.taken_over(turn, second, left, found)
story.heard(turn, first, answer)
story.check()
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

from snapshots import SnapshotRepository
from snapshots.turns import TurnRecord
from tests.integration.builders import SESSION, message_ids, new_session, raw_head
from tests.integration.hosts import Host
from tests.integration.owner import KEYS

NOTHING_LEFT: dict[str, Any] = {"turn": "", "effects": {}, "checkpoint": ""}


class Story:
    """One session from its beginning; `effects` is the file of all executions.

    Attributes:
        counts: How often what was said.
        doubled: Executions whose outcome was not recorded.
    """

    def __init__(self, repo: SnapshotRepository, effects: Path) -> None:
        self.counts: Counter[str] = Counter()
        self.doubled = 0
        self._repo = repo
        self._effects = effects
        self._fence = 0
        self._turns: list[str] = []
        self._acknowledged: dict[str, tuple[int, str]] = {}
        self._refused: set[str] = set()
        self._recorded: dict[str, str] = {}
        repo.commit(new_session(SESSION))
        self._commit_ids = [row.commit_id for row in repo.history(SESSION)]

    def left(self) -> dict[str, Any]:
        """Return the turn in flight as it is stored."""
        environment = self._repo.environment
        key = environment.layout.turns(SESSION)
        record = TurnRecord.decode(environment.store.get(key).data, key=key)
        effects = {key: effect.result.decode() for key, effect in record.effects.items()}
        return {"turn": record.turn_id, "effects": effects, "checkpoint": record.checkpoint.decode()}

    def acquired(self, host: Host, found: dict[str, Any]) -> None:
        """Check the fence of an owner."""
        head = raw_head(self._repo.environment.store)
        assert head.holder is not None
        assert head.holder.owner == host.name
        assert head.fence == found["fence"] > self._fence
        self._fence = head.fence

    def taken_over(self, turn: str, host: Host, left: dict[str, Any], found: dict[str, Any]) -> bool:
        """Check what the new owner found of a turn in flight; say whether that turn was committed before."""
        self.acquired(host, found)
        committed = any(name.startswith(f"{turn}@") for name in message_ids(self._repo.load(SESSION)))
        in_flight = left["turn"] == turn and not committed
        assert {name: found[name] for name in left} == (left if in_flight else NOTHING_LEFT)
        if left["turn"] == turn:
            assert self._recorded.items() <= left["effects"].items(), "an outcome was lost between two owners"
            self._recorded = left["effects"]
        self.counts["found committed" if committed else "found in flight" if in_flight else "found nothing"] += 1
        return committed

    def heard(self, turn: str, host: Host, answer: dict[str, Any]) -> None:
        """Remember what an owner was told about its commit of a turn."""
        if answer["said"] == "committed":
            told = (answer["revision"], answer["commit_id"])
            assert self._acknowledged.setdefault(turn, told) == told, "one turn, two results"
        else:
            assert answer["said"] == "refused", answer
            self._refused.add(f"{turn}@{host.name}")
        self.counts[f"told {answer['said']}"] += 1

    def strayed(self, turn: str, host: Host, tried: dict[str, str]) -> None:
        """Check that a former owner could do nothing."""
        assert set(tried.values()) == {"FencedError"}, tried
        self._refused.add(f"{turn}@{host.name}")

    def finished(self, answer: dict[str, Any], *, committed: bool) -> None:
        """Check how the new owner finished a turn: no more than was missing."""
        if committed:
            assert answer == {"said": "finished before", "ran": []}
        else:
            assert answer["said"] == "committed"
            assert answer["ran"] == [key for key in KEYS if key not in self._recorded]

    def check(self, turn: str, *, interruptions: int) -> None:
        """Check the whole session after a turn that was finished; so often an owner was lost in it uncommitted."""
        self._turns.append(turn)
        rows = self._repo.history(SESSION)
        commit_ids = [row.commit_id for row in rows]
        assert [row.revision for row in rows] == list(range(1, len(self._turns) + 2))
        assert [row.parent for row in rows] == list(range(len(rows)))
        assert len(set(commit_ids)) == len(rows)
        assert commit_ids[:-1] == self._commit_ids, "the history that was there is another one"
        self._commit_ids = commit_ids
        for revision, commit_id in self._acknowledged.values():
            assert commit_ids[revision - 1] == commit_id
        state = self._repo.load(SESSION)
        ids = message_ids(state)
        assert [name.partition("@")[0] for name in ids] == self._turns, "each turn once, nothing else"
        assert not self._refused & set(ids)
        self._check_outcomes(turn, json.loads(state.read_view().messages[-1].parts[0].content), interruptions)

    def _check_outcomes(self, turn: str, outcomes: dict[str, str], interruptions: int) -> None:
        """Check that the turn is made of what was recorded, and that nothing recorded was executed again."""
        lines = [line for line in self._effects.read_text().splitlines() if line.startswith(f"{turn} ")]
        runs = Counter(line.split()[1] for line in lines)
        assert set(outcomes) == set(KEYS) == set(runs)
        assert set(outcomes.values()) <= set(lines)
        assert len(lines) <= len(KEYS) + interruptions, lines
        for key, outcome in self._recorded.items():
            assert outcomes[key] == outcome
        self._recorded = {}
        self.doubled += len(lines) - len(KEYS)
