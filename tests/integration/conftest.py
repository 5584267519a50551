"""Places for stores that several processes can use at once."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture(params=["file", "ministack", "ceph"])
def shared_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give the URL of an empty store that every process on this host can open."""
    if request.param == "file":
        return f"file:{tmp_path / 'store'}"
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url
