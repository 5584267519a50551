"""The searches are begun when the tests are known; `test_worlds.py`, this folder's last file, asks what they found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.searches import Searches, another_process
from tests.simulation.table import find
from tests.simulation.worlds import explored

# By the parameter of the tests that ask.
SEARCHES: Mapping[str, Callable[[Any], object]] = {"gate": explored, "mutant": find}
BEGUN = pytest.StashKey[Searches]()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin the searches of all selected tests, unless none are to be run."""
    here = [item for item in session.items if item.path.parent == Path(__file__).parent]
    if not here or session.config.option.collectonly:
        return
    until_the_end = ExitStack()
    session.config.add_cleanup(until_the_end.close)
    begun = session.config.stash[BEGUN] = until_the_end.enter_context(another_process())
    for item in here:
        callspec = getattr(item, "callspec", None)
        if callspec is not None:
            for name in SEARCHES.keys() & callspec.params.keys():
                begun.begin(SEARCHES[name], callspec.params[name])


@pytest.fixture(scope="session")
def searches(request: pytest.FixtureRequest) -> Searches:
    """Give the searches, those of all selected tests under way."""
    return request.config.stash[BEGUN]
