"""The workload "large state": an agent with a large execution state of which little changes between revisions.

The execution state is a mixture in 20 equal stretches, in an order that the seed gives: 40 % records with field names
and ids, 30 % small floats, 20 % text, 10 % noise. Each revision edits 1 % of it in runs of 256 B to 16 KiB, half of
them in one hot stretch of 5 %: 60 % overwrite, 25 % insert, 15 % delete, so that what follows moves. The transcript
grows by 10.5 KiB of JSON. Equal seeds give equal revisions.

    for revision in LargeState(seed=7).revisions(40):
        revision.apply(state)
        repo.commit(state, execution_state=revision.execution_state)
"""

from __future__ import annotations

import random
import struct
from array import array
from collections.abc import Iterator
from dataclasses import dataclass

from snapshots import Message, Part, PersistedSessionState, TokenUsage
from snapshots.benchmarks.agent_turns import WORDS
from snapshots.state import MessageRole

EXECUTION_STATE_BYTES = 64 << 20
TRANSCRIPT_BYTES = 10_752  # of JSON that a revision adds
EDITED = 0.01
RUN_BYTES_MIN = 256
RUN_DOUBLINGS = 6  # from there to 16 KiB, each length as likely as its double
HOT_SHARE = 0.5
HOT_START, HOT_WIDTH = 0.40, 0.05
OVERWRITTEN, INSERTED = 0.60, 0.25  # the rest is deleted
MESSAGE_CHARACTERS = (80, 3000)
MESSAGE_OVERHEAD_BYTES = 150  # of JSON around the text of a message
ROLES: tuple[MessageRole, ...] = ("User", "Assistant", "Assistant")


@dataclass(frozen=True, slots=True)
class Revision:
    """One revision.

    Attributes:
        index: Its number, from 0.
        messages: What the transcript grew by.
        execution_state: Opaque bytes after the revision.
        usage: What it cost.
    """

    index: int
    messages: tuple[Message, ...]
    execution_state: bytes
    usage: TokenUsage

    def apply(self, state: PersistedSessionState) -> None:
        """Bring `state` to after this revision; the execution state is for the commit."""
        state.append_active_conversation_messages(list(self.messages))
        state.turn_index += 1
        state.token_usage = self.usage

    def transcript_lines(self) -> list[str]:
        """Return the messages as one line of JSON each, for tools that store files."""
        return [message.model_dump_json() for message in self.messages]


class LargeState:
    """The revisions of one agent.

    Args:
        seed: Equal seeds give equal revisions.
        execution_state_bytes: Size of the first execution state; later ones drift by what was inserted and deleted.
    """

    def __init__(self, seed: int = 7, execution_state_bytes: int = EXECUTION_STATE_BYTES) -> None:
        self._random = random.Random(seed)  # noqa: S311  equal seeds, equal work; no secret
        self._words = WORDS.split()
        stretches = [self._records] * 8 + [self._floats] * 6 + [self._text] * 4 + [self._random.randbytes] * 2
        self._random.shuffle(stretches)
        each = execution_state_bytes // len(stretches)
        rest = execution_state_bytes - each * len(stretches)
        self._memory = b"".join([*(stretch(each) for stretch in stretches), self._random.randbytes(rest)])

    def revisions(self, count: int) -> Iterator[Revision]:
        """Yield the next `count` revisions, the first of them unedited."""
        for index in range(count):
            if index:
                self._memory = self._edited(self._memory)
            usage = TokenUsage(input_tokens=4000 + 900 * index, output_tokens=self._random.randrange(200, 1500))
            yield Revision(index, self._messages(index), self._memory, usage)

    def _edited(self, memory: bytes) -> bytes:
        """Return `memory` after the edits of one revision; an edit that starts within another is left out."""
        pieces, end, old = [], 0, memoryview(memory)
        for start, length in self._runs(len(memory)):
            if start < end:
                continue
            pieces.append(old[end:start])
            kind = self._random.random()
            if kind < OVERWRITTEN + INSERTED:
                pieces.append(memoryview(self._new(length)))
            end = start if OVERWRITTEN <= kind < OVERWRITTEN + INSERTED else min(len(memory), start + length)
        return b"".join([*pieces, old[end:]])

    def _runs(self, size: int) -> list[tuple[int, int]]:
        """Return start and length of the edits of one revision, in order."""
        runs, budget = [], int(size * EDITED)
        while budget > 0:
            length = min(budget, int(RUN_BYTES_MIN * 2 ** (self._random.random() * RUN_DOUBLINGS)))
            is_hot = self._random.random() < HOT_SHARE
            at = HOT_START + self._random.random() * HOT_WIDTH if is_hot else self._random.random()
            runs.append((int(size * at), length))
            budget -= length
        return sorted(runs)

    def _new(self, length: int) -> bytes:
        kinds = (self._records, self._records, self._floats, self._text, self._text, self._random.randbytes)
        return self._random.choice(kinds)(length)

    def _records(self, length: int) -> bytes:
        """Return records as a serializer writes them: names, counters, a word, an id of 16 random bytes."""
        records: list[bytes] = []
        got = 0
        while got < length:
            number, word = self._random.getrandbits(16), self._random.choice(self._words).encode()
            record = b"".join(
                (
                    b"\xa6dkind" + bytes([0x60 + len(word)]) + word,
                    b"bseq\x1a" + struct.pack(">I", len(records)) + b"dsize\x19" + struct.pack(">H", number & 0xFFF),
                    b"fstatus" + bytes([number % 12]) + b"bid\x50" + self._random.randbytes(16),
                    b"hattempts\x00dnameftool__" + word,
                )
            )
            records.append(record)
            got += len(record)
        return b"".join(records)[:length]

    def _floats(self, length: int) -> bytes:
        gauss = self._random.gauss
        return array("f", (gauss(0.0, 0.02) for _ in range(length // 4 + 1))).tobytes()[:length]

    def _text(self, length: int) -> bytes:
        text = " ".join(self._random.choices(self._words, k=length // 3 + 1))  # the shortest word has three letters
        return text.encode()[:length]

    def _messages(self, index: int) -> tuple[Message, ...]:
        messages: list[Message] = []
        left = TRANSCRIPT_BYTES
        while left > 0:
            message_id = f"msg_{self._random.randbytes(12).hex()}"
            longest = max(1, left - MESSAGE_OVERHEAD_BYTES)
            text = self._text(min(longest, self._random.randrange(*MESSAGE_CHARACTERS))).decode()
            part = Part(id=f"{message_id}.{index}", kind="Text", content=text)
            messages.append(Message(id=message_id, role=ROLES[len(messages) % len(ROLES)], parts=(part,)))
            left -= len(messages[-1].model_dump_json())
        return tuple(messages)
