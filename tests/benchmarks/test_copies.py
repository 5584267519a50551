"""A second copy costs what is new, and a third next to nothing. Counts and bytes are gated, never seconds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from snapshots import SnapshotRepository
from tests.benchmarks.copies import main, run

SESSIONS, TURNS = 20, 6
UPLOADED_SHARE_MAX = 3  # of what was committed: a pack may be carried once more
BOOKS_BYTES_MAX = 16 << 10  # of each session that went on
LISTINGS_MAX = 5  # of the heads, and of each kind that lies beside sessions; each has one page of 1,000
REQUESTS_MAX = 3  # for each session that did not
REQUESTS_OF_A_CHANGE_MAX = 40  # and for each that did


def test_a_second_copy_uploads_what_is_new(tmp_path: Path, ministack_url: str) -> None:
    with (
        SnapshotRepository.open(f"file:{tmp_path / 'source'}") as source,
        SnapshotRepository.open(ministack_url) as destination,
    ):
        first, second, third = run(source, destination, SESSIONS, TURNS)
    print([one.figures() for one in (first, second, third)])
    assert first.changed == len(first.report.sessions) > SESSIONS
    assert second.changed == 1
    uploaded = second.destination["put"].bytes_out
    assert 0 < uploaded <= UPLOADED_SHARE_MAX * second.committed_bytes + BOOKS_BYTES_MAX * second.changed
    for one in (second, third):
        listings = one.source["list"].requests + one.destination["list"].requests
        assert listings <= LISTINGS_MAX
        requests = one.source.total_requests + one.destination.total_requests - listings
        unchanged = len(one.report.sessions) - one.changed
        assert requests - REQUESTS_OF_A_CHANGE_MAX * one.changed <= REQUESTS_MAX * unchanged
    assert third.changed == 0
    assert third.destination["put"].requests == 0


def test_the_figures_are_printed_as_a_table_or_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--sessions", "4", "--turns", "2"])
    lines = capsys.readouterr().out.splitlines()
    assert [line.split("  ")[0] for line in lines] == ["run", "everything", "what is new", "nothing"]
    main(["--sessions", "4", "--turns", "2", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert (found["sessions"], found["turns"]) == (4, 2)
    assert [one["changed"] for one in found["runs"]] == [5, 1, 0]
