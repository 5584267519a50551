"""Each of the five servers is probed for real: what PROVIDERS.md says of them is what they do."""

from __future__ import annotations

import pytest

from infra.probes import SERVERS, probed, table_of
from infra.tables import between_markers
from storage.probe import ProbeReport
from storage.server import ServerFacts
from tests.infra.documents import INFRA

ENDPOINTS = dict(zip(SERVERS, ("ceph", "ministack", "moto", "swift", "rclone"), strict=True))


TRIES_MAX = 4  # of a server that looks and then writes: now and then all its crowds are lucky


@pytest.fixture(scope="module")
def reports(request: pytest.FixtureRequest) -> dict[str, ProbeReport]:
    found = {name: probed(request.getfixturevalue(f"{server}_endpoint")) for name, server in ENDPOINTS.items()}
    swift = next(name for name, server in ENDPOINTS.items() if server == "swift")
    for _ in range(TRIES_MAX - 1):
        if any("create at once" in one for one in found[swift].verdict.findings):
            break
        found[swift] = probed(request.getfixturevalue("swift_endpoint"))
    return found


def test_the_table_is_what_the_servers_do(reports: dict[str, ProbeReport]) -> None:
    assert between_markers((INFRA / "PROVIDERS.md").read_text(), "probes") == table_of(reports)


def test_those_that_keep_conditions_are_safe_and_differ_in_facts_that_are_used(
    reports: dict[str, ProbeReport],
) -> None:
    ceph, ministack, moto = (reports[name].verdict for name in list(SERVERS)[:3])
    assert ceph.facts == ServerFacts(quoted=False, absent_status=412, refuses_payload=True)
    assert ministack.facts == ServerFacts(quoted=False, absent_status=404, refuses_crc32=True)
    assert moto.facts == ServerFacts(quoted=False, absent_status=404)
    assert (ceph.findings, ministack.findings, moto.findings) == ((), (), ())


def test_the_adversaries_are_refused_each_for_its_own_reason(reports: dict[str, ProbeReport]) -> None:
    swift, rclone = (reports[name].verdict for name in list(SERVERS)[3:])
    assert swift.findings[0] == (
        "replace the present version: not understood (put was answered with 501 NotImplemented)"
    )
    assert not [one for one in swift.findings if "stored all the same" in one]
    assert rclone.findings[0] == "create where something is: stored all the same"
    assert [one for one in rclone.findings if "16 replace at once" in one]
    assert swift.facts.reads_right
    assert rclone.facts.reads_right
