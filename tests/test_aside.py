"""What is done in another process fails here as it would have failed here."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator

import pytest

from tests.aside import Aside, another_process, run_test


def passes() -> None:
    print("all is well")


def fails() -> None:
    print("the seed is 42")
    raise ValueError("wrong")


def does_not_raise() -> None:
    print("the seed is 42")
    with pytest.raises(ValueError, match="never"):
        pass


def fails_in_a_thread() -> None:
    thread = threading.Thread(target=fails)
    thread.start()
    thread.join()


class Careless:
    def __del__(self) -> None:
        raise ValueError("wrong")


def fails_in_a_finaliser() -> None:
    Careless()


def leaves_a_file_open() -> None:
    open(__file__)  # noqa: SIM115  to leave it open is the point


@pytest.fixture(scope="module")
def others() -> Iterator[Aside]:
    with another_process() as aside:
        yield aside


def test_what_was_printed_comes_back(others: Aside) -> None:
    assert others.result(run_test, passes) == "all is well\n"


@pytest.mark.parametrize(
    ("test", "text"),
    [
        (fails, "the seed is 42"),
        (fails, "ValueError: wrong"),
        (does_not_raise, "DID NOT RAISE"),
        (does_not_raise, "the seed is 42"),
        (fails_in_a_thread, "ValueError: wrong"),
        (fails_in_a_finaliser, "ValueError: wrong"),
        (leaves_a_file_open, "ResourceWarning"),
    ],
)
def test_what_fails_there_fails_here_and_says_why(others: Aside, test: Callable[[], None], text: str) -> None:
    with pytest.raises(AssertionError, match=text):
        others.result(run_test, test)
