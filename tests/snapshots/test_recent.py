"""What a process keeps at hand is bounded in number and in size."""

from __future__ import annotations

from snapshots.recent import Recent


def test_the_one_used_longest_ago_is_forgotten() -> None:
    recent: Recent[int] = Recent(2)
    recent.keep("a", 1)
    recent.keep("b", 2)
    assert recent.find("a") == 1
    assert recent.keep("c", 3) == 3
    assert (recent.find("a"), recent.find("b"), recent.find("c"), len(recent)) == (1, None, 3, 2)
    recent.keep("a", 4)
    assert recent.find("a") == 4


def test_what_is_made_is_made_once() -> None:
    recent: Recent[list[int]] = Recent(2)
    made = recent.find_or_make("a", list)
    assert recent.find_or_make("a", list) is made
    recent.keep("b", [])
    recent.keep("c", [])
    assert recent.find_or_make("a", list) is not made


def test_what_is_taken_is_kept_no_longer() -> None:
    recent: Recent[int] = Recent(2)
    recent.keep("a", 1)
    assert (recent.take("a"), recent.take("a"), len(recent)) == (1, None, 0)


def test_what_is_too_much_together_goes_oldest_first() -> None:
    recent: Recent[bytes] = Recent(9, bytes_max=10, size_of=len)
    for name, size in (("a", 4), ("b", 4), ("c", 4)):
        recent.keep(name, bytes(size))
    assert [recent.find(name) is not None for name in "abc"] == [False, True, True]
    recent.keep("d", bytes(11))
    assert (recent.find("d"), len(recent)) == (None, 2)  # it alone is too much: the others stay
