"""Copying packs: their frames as they are stored, checked on the way, never opened and never compressed again.

Rules:
1. Every frame is checked by its own checksum before the copy can be finished: damage stays where it is.
2. A small pack is held in memory; of a large one a window at a time, and it is read again whenever a put is repeated.

    copy = body_of(store, key, name)
    finished(carrying("<commit id>.<random>", [copy.body]), facts)
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from storage.errors import CorruptObjectError
from storage.frame import FrameCheck
from storage.packs import PackBody, opened, read_index
from storage.spools import SpooledBytes
from storage.store import ByteRange, ObjectStore

WHOLE_BYTES_MAX = 4 << 20  # held in memory; of larger ones a window of this size


@dataclass(frozen=True, slots=True)
class StoredFrames:
    """The frames of a pack that lies in a store.

    Attributes:
        store: Which.
        key: Of the pack.
        size_bytes: Of all frames.
    """

    store: ObjectStore
    key: str
    size_bytes: int

    def chunks(self) -> Iterator[bytes]:
        """Yield the frames in windows, checked (rule 1).

        Raises:
            NotFoundError: The pack is not there any more.
            CorruptObjectError: A frame is not what was written, or the pack is shorter than it was.
            UnavailableError: The store did not answer.
        """
        check = FrameCheck(key=self.key)
        for start in range(0, self.size_bytes, WHOLE_BYTES_MAX):
            length = min(WHOLE_BYTES_MAX, self.size_bytes - start)
            data = self.store.get(self.key, ByteRange(start, length)).data
            if len(data) != length:
                raise CorruptObjectError(self.key, f"{len(data)} bytes where {length} should lie")
            check.update(data)
            yield data
        check.finish()


@dataclass(frozen=True, slots=True)
class PackCopy:
    """A pack to be carried elsewhere.

    Attributes:
        body: Its frames.
        facts: Whose it is, as its index says.
    """

    body: PackBody
    facts: Mapping[str, str]


def body_of(store: ObjectStore, key: str, name: str, *, size_bytes: int = 0) -> PackCopy:
    """Read a pack to copy it; a large one is read later, when the copy is put.

    Args:
        store: Where it lies.
        key: Under which key.
        name: Its name.
        size_bytes: About how large it is, 0 if that is not known: saves to read the beginning of a large one twice.

    Raises:
        NotFoundError: It is not there.
        CorruptObjectError: It is not what was written.
        UnavailableError: The store did not answer.
    """
    if size_bytes < WHOLE_BYTES_MAX:
        data = store.get(key, ByteRange(0, WHOLE_BYTES_MAX)).data
        if len(data) < WHOLE_BYTES_MAX:
            return PackCopy(*opened(data, key=key, name=name))
    index = read_index(store, key, name)
    frames = StoredFrames(store, key, index.body_bytes)
    return PackCopy(PackBody(name, SpooledBytes((frames,)), index.blobs, index.runs), index.facts)
