"""What every part of the suite may use: real S3 servers, started when first asked for; and another process.

The other process (`tests.aside`) does all searches of the simulation and the tests that are marked `aside`. It begins
when the tests are known; those that it does, and those that ask what the searches found, come last.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from functools import partial
from inspect import signature
from typing import Any

import pytest

from infra.servers.ceph import ceph_running, check_installed
from infra.servers.ministack import ministack_running
from infra.servers.moto import moto_running
from infra.servers.process import CREDENTIALS, NOT_INHERITED, ServerMissingError, program
from infra.servers.rclone import rclone_running
from infra.servers.swift import swift_running
from storage.observed import LISTENERS, listen, stop_listening
from tests import azurite
from tests.aside import Aside, another_process, run_test
from tests.azurite import AZURITE_CREDENTIALS, azurite_running, new_container_url
from tests.permissions.requests import RECORDER
from tests.servers import new_bucket_url
from tests.simulation.table import find
from tests.simulation.worlds import explored

# Searches, by the parameter of the tests that ask for what they found.
SEARCHES: Mapping[str, Callable[[Any], object]] = {"gate": explored, "mutant": find}
ASIDE = pytest.StashKey[Aside]()
CALL = pytest.StashKey[Callable[[], object]]()  # of a test that is marked
ALL_SERVERS = os.environ.get("SNAPSHOTS_ALL_SERVERS") == "1"  # a server that is missing is then a failure


def pytest_configure(config: pytest.Config) -> None:
    """Record what every operation sends, from now to the end."""
    listen(RECORDER)
    config.add_cleanup(lambda: stop_listening(RECORDER))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put what the other process does behind all others, then those who ask for what searches found, then the record.

    The record of requests (`tests.permissions`) is complete when all others have run.
    """
    items.sort(key=lambda item: 3 if _is_record(item) else 2 if _asks(item) else int(_is_aside(item)))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Begin, in the other process, what the selected tests need from there."""
    if session.config.option.collectonly or not any(_asks(item) or _is_aside(item) for item in session.items):
        return
    until_the_end = ExitStack()
    session.config.add_cleanup(until_the_end.close)
    aside = session.config.stash[ASIDE] = until_the_end.enter_context(another_process())
    for item in session.items:
        for work, argument in _works_of(item):
            aside.begin(work, argument)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Let a test that is marked `aside` be what the other process makes of it."""
    if not _is_aside(pyfuncitem):
        return None
    print(pyfuncitem.config.stash[ASIDE].result(run_test, pyfuncitem.stash[CALL]))
    return True


def _is_record(item: pytest.Item) -> bool:
    return item.path.parent.name == "permissions"


def _is_aside(item: pytest.Item) -> bool:
    return item.get_closest_marker("aside") is not None


def _asks(item: pytest.Item) -> bool:
    return "aside" in getattr(item, "fixturenames", ())


def _works_of(item: pytest.Item) -> Iterator[tuple[Callable[[Any], object], Any]]:
    if _is_aside(item):
        assert isinstance(item, pytest.Function), "only functions are marked"
        params = item.callspec.params if hasattr(item, "callspec") else {}
        asked = signature(item.function).parameters.keys()
        assert asked <= params.keys(), f"{item.name} asks for fixtures, which are of this process"
        call: Callable[[], object] = partial(item.function, **params)
        item.stash[CALL] = call
        yield run_test, call
    elif _asks(item) and hasattr(item, "callspec"):
        params = item.callspec.params
        yield from ((SEARCHES[name], params[name]) for name in SEARCHES.keys() & params.keys())


@pytest.fixture
def nobody_listens() -> Iterator[None]:
    """Let nobody listen to operations meanwhile, the record of the suite neither."""
    before = LISTENERS[:]
    LISTENERS.clear()
    yield
    assert not LISTENERS, "a test leaves nobody behind who listens"
    LISTENERS.extend(before)


@pytest.fixture(scope="session")
def aside(request: pytest.FixtureRequest) -> Aside:
    """Give the other process, the searches of all selected tests under way there."""
    return request.config.stash[ASIDE]


@pytest.fixture(scope="session")
def s3_credentials() -> Iterator[None]:
    """Test credentials, and nothing of the machine's own configuration."""
    with pytest.MonkeyPatch.context() as patch:
        for name in NOT_INHERITED:
            patch.delenv(name, raising=False)
        for name, value in CREDENTIALS.items():
            patch.setenv(name, value)
        yield


@pytest.fixture(scope="session")
def moto_endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001  for its effect
    """Give the endpoint of a moto server, one for the whole session."""
    with moto_running(tmp_path_factory.mktemp("moto")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ministack_endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001  for its effect
    """Give the endpoint of a ministack server, one for the whole session."""
    with ministack_running(tmp_path_factory.mktemp("ministack")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001  for its effect
    """Give the endpoint of an rclone, which keeps no condition; one for the whole session."""
    with rclone_running(tmp_path_factory.mktemp("rclone")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def swift_endpoint(s3_credentials: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:  # noqa: ARG001  for its effect
    """Give the endpoint of a Swift, which knows no If-Match; one for the whole session."""
    with swift_running(tmp_path_factory.mktemp("swift")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def ceph_installed() -> None:
    """Skip what needs Ceph where it is not installed."""
    try:
        check_installed()
    except ServerMissingError as error:
        if ALL_SERVERS:
            raise
        pytest.skip(str(error))  # on a machine without Ceph; CI sets ALL_SERVERS


@pytest.fixture(scope="session")
def ceph_endpoint(
    ceph_installed: None,  # noqa: ARG001  for its effect
    s3_credentials: None,  # noqa: ARG001  for its effect
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[str]:
    """Give the endpoint of a Ceph node, one for the whole session."""
    with ceph_running(tmp_path_factory.mktemp("ceph")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def azurite_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Give the endpoint of an Azurite, one for the whole session; skip what needs it where it is not installed."""
    try:
        program(azurite.PROGRAM, azurite.INSTALL)
    except ServerMissingError as error:
        if ALL_SERVERS:
            raise
        pytest.skip(str(error))  # on a machine without Azurite; CI sets ALL_SERVERS
    with pytest.MonkeyPatch.context() as patch, azurite_running(tmp_path_factory.mktemp("azurite")) as endpoint:
        for name in (*NOT_INHERITED, *(name for name in os.environ if name.startswith("AZURE_"))):
            patch.delenv(name, raising=False)
        for name, value in AZURITE_CREDENTIALS.items():
            patch.setenv(name, value)
        yield endpoint


@pytest.fixture
def moto_url(moto_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on moto, which carries out one request at a time."""
    return new_bucket_url(moto_endpoint)


@pytest.fixture
def ministack_url(ministack_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on ministack, which carries out one request at a time."""
    return new_bucket_url(ministack_endpoint)


@pytest.fixture
def ceph_url(ceph_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on Ceph, which carries out many requests at once."""
    return new_bucket_url(ceph_endpoint)


@pytest.fixture
def rclone_url(rclone_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on rclone, which overwrites in spite of any condition."""
    return new_bucket_url(rclone_endpoint)


@pytest.fixture
def swift_url(swift_endpoint: str) -> str:
    """Give the URL of a store in a fresh bucket on Swift, which refuses If-Match."""
    return new_bucket_url(swift_endpoint)


@pytest.fixture
def azurite_url(azurite_endpoint: str) -> str:
    """Give the URL of a store in a fresh container on Azurite."""
    return new_container_url(azurite_endpoint)
