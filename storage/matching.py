"""`match`: what of a blob's new bytes can be copied from its old bytes. Pure; the only importer of pyfastcdc.

Rules:
1. The operations, in order, are the new bytes exactly. Every copied byte was compared; a hash only says where to look.
2. `Anchors` are such hints. Those of another blob cost time and copies, never a wrong byte.
3. One old byte may be copied any number of times, in any order: what moved is found as well as what stayed.
4. A copy below COPY_BYTES_MIN beside an insertion joins it; neighbours that continue each other are one operation;
   there are at most OPERATIONS_SPARE + len(new) / OPERATION_BYTES operations: if need be, the shortest copies go.
5. What is equal costs a comparison in memory; only what differs is cut and searched for.

How: the walk keeps a shift, old position minus new. It runs on while bytes are equal. Behind a difference they may
resume at the same shift, which a few probes tell; a little further, where the bytes at the difference themselves are
sought; or anywhere, which the cut points of the new bytes tell.

    anchors = anchors_of(old)
    operations, anchors = match(old, new, anchors)  # the anchors are now those of `new`
    match(b"a" * 99, b"a" * 99, anchors_of(b"a" * 99))[0] == [Copy(start=0, length=99)]

A `Cutter` cuts bytes that are too many to be compared, as they pass (`storage.cuts`).

Source: Xia et al., The Design of Fast Content-Defined Chunking, IEEE TPDS 31 (2020).
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from pyfastcdc import FastCDC

from storage.digest import Buffer, octets

CUT_BYTES = 16 << 10  # average, of what a Cutter cuts; four times as much at most
COPY_BYTES_MIN = 64  # a shorter copy costs about as much in the list of extents as its bytes in a frame
OPERATION_BYTES = 256
OPERATIONS_SPARE = 16

_AVERAGE_MIN, _AVERAGE_MAX = 256, 64 << 10  # between anchors; the least that FastCDC can do
_AVERAGE_STALE = 4  # cut all anew when the right average is so many times off
_CONTEXT_BYTES = 64  # what a cut depends on: its hash has 64 bits and moves by one each byte
_FIRST_BYTES, _BLOCK_BYTES, _GROWTH = 256, 128 << 10, 8  # compared at once; a block stays in the cache
_PROBE_BYTES = 64
_REACH_BYTES = 64 << 10  # how far behind a difference the same shift is looked for by probes
_SURE_BYTES = 1024  # equal behind a difference: more than records of one template share
_DENSE_BYTES = 1024  # differences so close are looked at in windows, not one by one
_WINDOW_BYTES = 16 << 10
_NEEDLE_BYTES, _NEEDLE_AHEAD_BYTES, _NEAR_BYTES = 32, 128, 4 << 10  # sought as they are, before anchors
_NEAR_BYTES_MIN = 256
_PATIENCE_CUTS = 8  # looked at for something better than a short run at the same shift
_RUN = re.compile(b"\0" * COPY_BYTES_MIN + b"\0*")  # said so, and not {64,}, which searches ten times slower


class Copy(NamedTuple):
    """The bytes `old[start : start + length]`."""

    start: int
    length: int


class Insert(NamedTuple):
    """The bytes `new[start : start + length]`."""

    start: int
    length: int


Operation = Copy | Insert


@dataclass(frozen=True, slots=True)
class Anchors:
    """Content-defined cut points of one blob: where to look for what moved.

    Attributes:
        average: Average distance of two, in bytes, as given to FastCDC.
        positions: Byte offsets, ascending.
        hashes: Of the bytes before each position.
    """

    average: int
    positions: array[int]
    hashes: array[int]


class Cutter:
    """Cuts bytes that come window by window: equal stretches get equal cuts, wherever they lie."""

    def __init__(self) -> None:
        self._cutter = FastCDC(CUT_BYTES)
        self._rest: Buffer = b""

    def cut(self, window: Buffer) -> Iterator[memoryview]:
        """Yield the cuts that are complete; the end of the window waits for the next one."""
        view = memoryview(b"".join((self._rest, window)))
        cuts = list(self._cutter.cut_buf(view))
        end = cuts[-1].offset if cuts else 0
        self._rest = bytes(view[end:])
        return (view[one.offset : one.offset + one.length] for one in cuts[:-1])

    def end(self) -> Iterator[memoryview]:
        """Yield the last cut, none of no bytes."""
        rest, self._rest = memoryview(self._rest), b""
        return iter([rest] if rest.nbytes else [])


class _Piece(NamedTuple):
    """Equal bytes: `new[at : at + length] == old[start : start + length]`."""

    at: int
    start: int
    length: int


def anchors_of(data: Buffer) -> Anchors:
    """Return the anchors of a blob, needed once, after a load; each `match` returns the next."""
    view = octets(data)
    average = _average(view.nbytes)
    cuts = list(_cuts(view, 0, view.nbytes, average))
    return Anchors(average, array("Q", [cut[0] for cut in cuts]), array("Q", [cut[1] for cut in cuts]))


def match(old: bytes, new: bytes, anchors: Anchors) -> tuple[list[Operation], Anchors]:
    """Find what of `new` can be copied from `old`.

    Args:
        old: The parent's bytes.
        new: The bytes to be rebuilt.
        anchors: Of `old`, from `anchors_of` or from the match that had it as `new`.

    Returns:
        The operations that rebuild `new`, in order, and the anchors of `new`.
    """
    walk = _Walk(_Pair(old, new), anchors)
    walk.run()
    operations = _operations(walk.pieces, len(new))
    wanted = _average(len(new))
    if not anchors.average // _AVERAGE_STALE < wanted < anchors.average * _AVERAGE_STALE:
        return operations, anchors_of(new)
    return operations, _carried(anchors, operations, memoryview(new))


def _average(size_bytes: int) -> int:
    """Return the distance of anchors: 512 at 1 MiB, doubled for each eightfold size, so that looking up stays cheap."""
    return min(max(1 << (size_bytes.bit_length() + 7) // 3, _AVERAGE_MIN), _AVERAGE_MAX)


def _cuts(view: memoryview, start: int, end: int, average: int) -> Iterator[tuple[int, int]]:
    """Yield cut points between `start` and `end`, both excluded, with their hashes."""
    for chunk in FastCDC(average).cut_buf(view[start:end]):
        position = start + chunk.offset + chunk.length
        if position < end:
            yield position, chunk.gear_hash


def _carried(anchors: Anchors, operations: Iterable[Operation], view: memoryview) -> Anchors:
    """Return the anchors of the new bytes: those inside copies, and between them new cuts."""
    positions, hashes = array("Q"), array("Q")

    def cut(end: int) -> None:
        for position, code in _cuts(view, positions[-1] if positions else 0, end, anchors.average):
            positions.append(position)
            hashes.append(code)

    at = 0
    for one in operations:
        if isinstance(one, Copy):
            first = bisect_left(anchors.positions, one.start + _CONTEXT_BYTES)
            last = bisect_right(anchors.positions, one.start + one.length)
            if first < last:
                shift = at - one.start
                cut(anchors.positions[first] + shift)
                positions.extend(_moved(anchors.positions[first:last], shift))
                hashes.extend(anchors.hashes[first:last])
        at += one.length
    cut(view.nbytes)
    return Anchors(anchors.average, positions, hashes)


def _moved(positions: array[int], shift: int) -> array[int]:
    return array("Q", [position + shift for position in positions]) if shift else positions


@dataclass(slots=True)
class _Index:
    """Where each hash of the old anchors lies; made on the first question."""

    anchors: Anchors
    _last: dict[int, int] = field(default_factory=dict)
    _earlier: dict[int, list[int]] = field(default_factory=dict)

    def nearest(self, code: int, wanted: int) -> int | None:
        """Return the anchor with this hash that is nearest to `wanted`."""
        if not self._last:
            self._fill()
        last = self._last.get(code)
        earlier = self._earlier.get(code)
        if last is None or earlier is None or wanted >= last:
            return last
        place = bisect_left(earlier, wanted)
        around = [*earlier[max(place - 1, 0) : place + 1], last]
        return min(around, key=lambda position: abs(position - wanted))

    def _fill(self) -> None:
        hashes, positions = self.anchors.hashes, self.anchors.positions
        self._last = dict(zip(hashes, positions, strict=True))
        if len(self._last) < len(hashes):
            for code, position in zip(hashes, positions, strict=True):
                if self._last[code] != position:
                    self._earlier.setdefault(code, []).append(position)


class _Pair:
    """Two blobs, compared without copying: of all comparisons, `startswith` takes a view and a place."""

    def __init__(self, old: bytes, new: bytes) -> None:
        self.old, self.new = old, new
        self.old_view, self.new_view = memoryview(old), memoryview(new)

    def room(self, at: int, start: int) -> int:
        """Return how many bytes both have behind these places."""
        return min(len(self.new) - at, len(self.old) - start)

    def equal(self, at: int, start: int, length: int) -> bool:
        """Say whether `length` bytes are equal; both must have as many."""
        return self.new.startswith(self.old_view[start : start + length], at)

    def ahead(self, at: int, start: int, most: int) -> int:
        """Return how many bytes are equal from these places on, up to `most`."""
        return _longest(most, lambda done, size: self.equal(at + done, start + done, size))

    def behind(self, at: int, start: int, most: int) -> int:
        """Return how many bytes are equal before these places, up to `most`."""
        return _longest(most, lambda done, size: self.equal(at - done - size, start - done - size, size))

    def runs(self, at: int, start: int, length: int) -> list[_Piece]:
        """Return all runs of COPY_BYTES_MIN and more equal bytes at one shift."""
        ours = int.from_bytes(self.new_view[at : at + length], "little")
        theirs = int.from_bytes(self.old_view[start : start + length], "little")
        found = _RUN.finditer((ours ^ theirs).to_bytes(length, "little"))
        return [_Piece(at + run.start(), start + run.start(), run.end() - run.start()) for run in found]


def _longest(most: int, extends: Callable[[int, int], bool]) -> int:
    """Return the largest equal length up to `most`; `extends(done, size)` says whether `size` more bytes are equal."""
    done, size = 0, _FIRST_BYTES
    while done < most:
        size = min(size, most - done)
        if not extends(done, size):
            break
        done, size = done + size, min(size * _GROWTH, _BLOCK_BYTES)
    else:
        return done
    while size > 1:
        half = size // 2
        if extends(done, half):
            done, size = done + half, size - half
        else:
            size = half
    return done


class _Walk:
    """The walk over the new bytes; `pieces` are what it found, in order."""

    def __init__(self, pair: _Pair, anchors: Anchors) -> None:
        self.pieces: list[_Piece] = []
        self._pair, self._average = pair, anchors.average
        self._index = _Index(anchors)
        self._window, self._window_end = 0, -_DENSE_BYTES

    def run(self) -> None:
        """Find all pieces."""
        at, start, size = 0, 0, len(self._pair.new)
        while at < size:
            length = self._pair.ahead(at, start, self._pair.room(at, start))
            self.pieces.append(_Piece(at, start, length))
            at, start = at + length, start + length
            if at < size:
                at, start = self._resume(at, start)

    def _resume(self, at: int, start: int) -> tuple[int, int]:
        """Return where equal bytes begin again behind a difference; the end, if nowhere."""
        runs = self._in_place(at, start)
        found = self._better(at, start, runs[0]) if runs else self._elsewhere(at, start)
        if found is None:
            return self._take_runs(at, runs)
        self._take_around(at, start, found)
        return found.at, found.start

    def _in_place(self, at: int, start: int) -> list[_Piece]:
        """Return equal runs at the same shift; none if the probes say that there are none near."""
        is_dense = at - self._window_end < _DENSE_BYTES
        self._window = min(max(2 * self._window, _FIRST_BYTES), _WINDOW_BYTES) if is_dense else 0
        self._window_end = at
        room, distance = self._pair.room(at, start), _PROBE_BYTES
        reach = min(room - _PROBE_BYTES, _REACH_BYTES)
        while distance <= reach and not self._pair.equal(at + distance, start + distance, _PROBE_BYTES):
            distance *= 2
        if distance > reach:
            return []
        length = min(max(distance + _PROBE_BYTES, self._window), room)
        self._window_end = at + length
        return self._pair.runs(at, start, length)

    def _better(self, at: int, start: int, rival: _Piece) -> _Piece | None:
        """Look for a much longer run at another shift, lest records of one template be taken for each other."""
        length = self._pair.ahead(rival.at, rival.start, min(_SURE_BYTES, self._pair.room(rival.at, rival.start)))
        if length == _SURE_BYTES or rival.at + length == len(self._pair.new):
            return None
        end = min(rival.at + _PATIENCE_CUTS * self._average, len(self._pair.new))
        found = self._near(at, start, end, 2 * length) or self._find(at, end, start - at, 2 * length)
        return None if found is None or found.start - found.at == start - at else found

    def _elsewhere(self, at: int, start: int) -> _Piece:
        """Return the next equal run at another shift; an empty one at the end, if there is none."""
        old_bytes, new_bytes = len(self._pair.old), len(self._pair.new)
        found = self._near(at, start, new_bytes, _NEAR_BYTES_MIN)
        found = found or self._find(at, new_bytes, start - at, COPY_BYTES_MIN)
        return found or _Piece(new_bytes, old_bytes, 0)

    def _near(self, at: int, start: int, end: int, shortest: int) -> _Piece | None:
        """Return an equal run behind a small insertion, deletion or replacement, closer than anchors are."""
        pair = self._pair
        for ahead in (0, _NEEDLE_AHEAD_BYTES):
            reach = ahead + _NEAR_BYTES
            if pair.room(at, start) < ahead + _NEEDLE_BYTES:
                return None
            candidates = (
                (at + ahead, pair.old.find(pair.new_view[at + ahead :][:_NEEDLE_BYTES], start, start + reach)),
                (pair.new.find(pair.old_view[start + ahead :][:_NEEDLE_BYTES], at, at + reach), start + ahead),
            )
            for here, there in candidates:
                if 0 <= here <= end and there >= 0:
                    found = self._around(at, end, here, there)
                    if found.length >= shortest:
                        return found
        return None

    def _find(self, at: int, end: int, shift: int, shortest: int) -> _Piece | None:
        """Return the first equal run between `at` and `end` that an anchor leads to."""
        pair = self._pair
        for position, code in _cuts(pair.new_view, at, end, self._average):
            start = self._index.nearest(code, position + shift)
            if start is None or start > len(pair.old):  # Rule 2
                continue
            found = self._around(at, end, position, start)
            if found.length >= shortest:
                return found
        return None

    def _around(self, at: int, end: int, position: int, start: int) -> _Piece:
        """Return the equal run around two places, inside `at` to `end` of the new bytes."""
        back = self._pair.behind(position, start, min(position - at, start))
        length = self._pair.ahead(position, start, min(end - position, len(self._pair.old) - start))
        return _Piece(position - back, start - back, back + length)

    def _take_runs(self, at: int, runs: list[_Piece]) -> tuple[int, int]:
        """Take runs of one shift and what moved between them; return where the last begins, which may go on."""
        for one in runs:
            self._take_moved(at, one.at, one.start - one.at)
            at = one.at + one.length
            if one is not runs[-1]:
                self.pieces.append(one)
        return runs[-1].at, runs[-1].start

    def _take_moved(self, at: int, end: int, shift: int) -> None:
        """Take what of a stretch is elsewhere in the old bytes."""
        while end - at > _AVERAGE_MIN:
            found = self._find(at, end, shift, COPY_BYTES_MIN)
            if found is None:
                return
            self.pieces.append(found)
            at = found.at + found.length

    def _take_around(self, at: int, start: int, found: _Piece) -> None:
        """Take what is equal at the shift before a stretch, from its start, and at the one behind, up to its end."""
        length = min(found.at - at, self._pair.room(at, start), _REACH_BYTES)
        for one in self._pair.runs(at, start, length):
            self.pieces.append(one)
            at = one.at + one.length
        length = min(found.at - at, found.start, _REACH_BYTES)
        self.pieces.extend(self._pair.runs(found.at - length, found.start - length, length))


def _operations(pieces: Iterable[_Piece], new_bytes: int) -> list[Operation]:
    """Return what rebuilds the new bytes: the pieces, and insertions between them (rule 4)."""
    joined = _joined(pieces)
    operations = _with_insertions(_worthwhile(joined, new_bytes), new_bytes)
    most = OPERATIONS_SPARE + new_bytes // OPERATION_BYTES
    if len(operations) <= most:
        return operations
    longest = sorted(joined, key=lambda one: one.length, reverse=True)[: (most - 1) // 2]
    return _with_insertions(_worthwhile(sorted(longest), new_bytes), new_bytes)


def _joined(pieces: Iterable[_Piece]) -> list[_Piece]:
    """Return the pieces, none empty, those that continue each other as one."""
    joined: list[_Piece] = []
    for at, start, length in pieces:
        last = joined[-1] if joined else None
        if last is not None and (at, start) == (last.at + last.length, last.start + last.length):
            joined[-1] = _Piece(last.at, last.start, last.length + length)
        elif length:
            joined.append(_Piece(at, start, length))
    return joined


def _worthwhile(pieces: list[_Piece], new_bytes: int) -> list[_Piece]:
    """Return the pieces without short ones beside a gap."""
    ends = [0, *(one.at + one.length for one in pieces)]
    starts = [*(one.at for one in pieces), new_bytes]
    return [
        one
        for one, end_before, start_behind in zip(pieces, ends, starts[1:], strict=False)
        if one.length >= COPY_BYTES_MIN or (end_before == one.at and start_behind == one.at + one.length)
    ]


def _with_insertions(pieces: Iterable[_Piece], new_bytes: int) -> list[Operation]:
    operations: list[Operation] = []
    at = 0
    for one in pieces:
        if at < one.at:
            operations.append(Insert(at, one.at - at))
        operations.append(Copy(one.start, one.length))
        at = one.at + one.length
    if at < new_bytes:
        operations.append(Insert(at, new_bytes - at))
    return operations
