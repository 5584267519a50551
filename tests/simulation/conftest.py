"""The searches are begun with the first test of this folder; `test_worlds.py`, its last file, asks what they found."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.simulation.searches import Searches, another_process
from tests.simulation.table import find
from tests.simulation.worlds import explored

# By the parameter of the tests that ask.
SEARCHES: Mapping[str, Callable[[Any], object]] = {"gate": explored, "mutant": find}


@pytest.fixture(scope="session", autouse=True)
def searches(request: pytest.FixtureRequest) -> Iterator[Searches]:
    """Give the searches, those of all selected tests under way."""
    with another_process() as found:
        for item in request.session.items:
            callspec = getattr(item, "callspec", None)
            if callspec is not None and item.path.parent == Path(__file__).parent:
                for name in SEARCHES.keys() & callspec.params.keys():
                    found.begin(SEARCHES[name], callspec.params[name])
        yield found
