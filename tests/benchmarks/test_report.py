"""The report: one command from measures to the README, and charts that follow from the results alone."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from snapshots.benchmarks.measures import MEASURES
from tests.benchmarks import charts, report, transcripts
from tests.benchmarks.peers.registry import OURS, PEERS
from tests.benchmarks.readme import BEGIN, END, ROWS, section
from tests.data import PACKED, unpack

ROOT = Path(__file__).parents[2]
TINY = ("--turns", "5", "--revisions", "2", "--sessions", "100", "--seconds", "0.4")
SOME = ("fork", "contention")
PEER_FIGURES = {"stored_kib_per_turn": 1500.0, "requests_per_turn": 6.0, "cpu_ms_per_turn": 30.0}


def _side(scale: float) -> dict[str, Any]:
    series = {
        "commits": [1, 2, 5, 10],
        "stored_kib_per_commit": [scale * value for value in (900, 500, 200, 120)],
        "cpu_ms_per_commit": [scale * value for value in (20, 8, 7, 7)],
    }
    return {key: scale * value for key, value in PEER_FIGURES.items()} | {"series": series, "versions": {}}


@pytest.fixture
def peers() -> dict[str, Any]:
    """Give made-up results of all peers."""
    return {
        name: {
            "workload": entry.workload,
            "note": entry.note,
            "ours_is": entry.ours,
            "peer": _side(2.0 + number),
            "ours": _side(1.0),
        }
        for number, (name, entry) in enumerate(PEERS.items())
    }


@pytest.fixture
def readme(tmp_path: Path) -> Path:
    path = tmp_path / "README.md"
    path.write_text(f"# Before\n\n{BEGIN}\nformer\n{END}\n\nafter\n")
    return path


def _run(tmp_path: Path, readme: Path, *arguments: str) -> dict[str, Any]:
    places = ("--summary", tmp_path / "results.json", "--charts", tmp_path / "charts", "--readme", readme)
    report.main([*map(str, places), *arguments])
    found: dict[str, Any] = json.loads((tmp_path / "results.json").read_text())
    return found


def test_one_command_measures_and_writes_the_section(tmp_path: Path, readme: Path, peers: dict[str, Any]) -> None:
    (tmp_path / "runs").mkdir()
    unpack(PACKED[0], tmp_path / "runs")
    found = _run(tmp_path, readme, *TINY, "--transcripts", str(tmp_path / "runs"), "--measures", *SOME)
    assert found.keys() == {"measures", "transcripts"}
    assert found["measures"]["settings"]["turns"] == 5
    assert set(found["measures"]["measures"]) == set(SOME)
    text = readme.read_text()
    assert text.startswith(f"# Before\n\n{BEGIN}\n")
    assert text.endswith(f"{END}\n\nafter\n")
    assert "former" not in text
    assert "| fork of 5 turns: requests; of an older revision, at most | 3, " in text
    assert f"| {PACKED[0].stem} | 1, " in text
    assert "svg" not in text

    (tmp_path / "results.json").write_text(json.dumps(found | {"peers": _piece(peers)}))
    again = _run(tmp_path, readme, "--pieces")
    assert again["measures"] == found["measures"]
    assert "charts/agent-turns-light.svg" in readme.read_text()
    assert (tmp_path / "charts" / "large-state-dark.svg").exists()


def _piece(peers: dict[str, Any]) -> dict[str, Any]:
    about = {"commit": "abc", "machine": {"cores": 2, "cpu": "x"}, "versions": {"python": "3.11"}}
    return about | {"turns": 10, "revisions": 10, "peers": peers}


def test_peers_stand_beside_ours_with_the_ratio_of_their_own_run(peers: dict[str, Any]) -> None:
    peers["strands_s3"]["ours"] = _side(0.5)
    text = section({"peers": _piece(peers)}, (), Path("charts"))
    assert (
        "| Strands S3 | latest state only | 3,000 / 750 KiB (**4**) | 12 / 3 (**4**) | 60 / 15 ms (**4**) | – |" in text
    )
    assert text.count("\n| ") == 2 + len(PEERS)


def test_every_figure_of_the_table_is_one_of_a_measure() -> None:
    assert {row.measure for row in ROWS} == set(MEASURES)


def test_a_readme_without_markers_is_left_alone() -> None:
    with pytest.raises(ValueError, match="no section between"):
        report.replaced("# Nothing here\n", "new")


def test_the_readme_has_the_section_and_its_charts_exist() -> None:
    text = (ROOT / "README.md").read_text()
    summary = json.loads((ROOT / "tests" / "benchmarks" / "results.json").read_text())
    directory = ROOT / "tests" / "benchmarks" / "charts"
    drawn = {path.stem for path in directory.glob("*.svg")}
    assert report.replaced(text, section(summary, drawn, directory.relative_to(ROOT))) == text


def test_a_summary_is_json_with_a_line_for_each_figure() -> None:
    value = {"a": {"b": {"c": {"d": {"value": 1, "unit": "×"}}, "e": [1, 2]}}, "f": {}}
    text = report.dumped(value)
    assert json.loads(text) == value
    assert '    "d": {"value": 1, "unit": "×"}' in text.splitlines()


# Charts.


def test_equal_results_give_equal_charts_that_name_every_line(peers: dict[str, Any], tmp_path: Path) -> None:
    first = charts.save_all(peers, tmp_path / "a")
    again = charts.save_all(peers, tmp_path / "b")
    assert [path.name for path in first] == [
        *("agent-turns-light.svg", "agent-turns-dark.svg"),
        *("large-state-light.svg", "large-state-dark.svg"),
    ]
    for one, other in zip(first, again, strict=True):
        data = one.read_bytes()
        assert data == other.read_bytes()
        assert len(data) < 64_000
    shown = "".join(ET.parse(first[0]).getroot().itertext())
    assert all(charts.NAMES[name] in shown for name, entry in (PEERS | OURS).items() if entry.workload == "turns")
    assert "Stored per turn" in shown


def test_ours_is_the_median_over_the_pairs(peers: dict[str, Any]) -> None:
    on_s3 = [name for name, entry in PEERS.items() if entry.ours == "ours_s3"]
    peers[on_s3[0]]["ours"] = _side(100.0)
    (panel, _) = charts.WORKLOADS["turns"].panels
    (ours,) = [line for line in charts.lines_of(peers, "turns", panel) if line.name == "ours_s3"]
    assert ours.values == (900, 500, 200, 120)


@pytest.mark.parametrize(
    ("positions", "expected"),
    [
        ([0.0, 5.0, 9.0], [0.0, 5.0, 9.0]),
        ([5.0, 5.0], [4.5, 5.5]),
        ([3.0, 1.0, 3.2], [2.6, 1.0, 3.6]),
        ([1.0, 1.0, 1.0, 2.2], [-0.2, 0.8, 1.8, 2.8]),
    ],
)
def test_labels_are_moved_apart_and_keep_their_order(positions: list[float], expected: list[float]) -> None:
    assert charts.spread(positions, 1.0) == pytest.approx(expected)


# Transcripts.


def test_transcripts_take_what_a_store_of_each_session_holds(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = unpack(PACKED[0], tmp_path)
    transcripts.main([str(tmp_path)])
    found = json.loads(capsys.readouterr().out)
    assert (found["file"], found["sessions"], found["file_bytes"]) == (file.name, 1, file.stat().st_size)
    assert found["turns"] > 1
    assert 0 < found["stored_bytes"] < found["file_bytes"]
    assert found["over_gzip"] == round(found["stored_bytes"] / found["gzip_each_bytes"], 3)
