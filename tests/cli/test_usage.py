"""`usage`: what calls came to, where the rows lie, appending and merging, and every way in which it can fail."""

from __future__ import annotations

import io
import json
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
import zstandard
from rich.cells import cell_len

from snapshots import PersistedSessionState, SnapshotRepository
from snapshots.cli.invocation import Invocation
from snapshots.cli.output import Output
from snapshots.cli.usage import LINES_AT_ONCE, By, _all, _append_all, _tell, _Told, bars
from snapshots.maintenance.collect import execute, plan_collect
from snapshots.maintenance.copy.satellites import retire_satellites
from snapshots.usage import ROW_BYTES_MAX, UsageLog
from snapshots.usage.writing import LogWriter, appended
from storage.backends import open_store
from storage.backends.memory import MemoryStore
from storage.errors import UnavailableError
from storage.store import Overwrite
from storage.testing.clock import ManualClock
from storage.testing.faults import FailBefore, Fault, FaultyStore, LoseAnswer, Meanwhile
from tests.cli.conftest import Command, at_terminal
from tests.snapshots.usage.bench import Bench

CALLS = [
    {
        "ts": f"2026-01-0{1 + n % 3}T23:30:00-02:00",
        "model": "gpt-5" if n % 4 else "世界\x1b[31m",
        "provider": "openai",
        "input_tokens": 10,
        "cache_read_input_tokens": 30,
        "output_tokens": n,
    }
    for n in range(12)
]


@pytest.fixture
def counted(filled: Command, tmp_path: Path) -> Command:
    """Give the command on a store in which session s1 has used some tokens."""
    filled("usage", "s1", "--append", written(tmp_path, *map(json.dumps, CALLS)))
    return filled


def written(directory: Path, *lines: str) -> str:
    path = directory / "calls.jsonl"
    path.write_text("".join(f"{line}\n" for line in lines))
    return str(path)


def index_of(session: str, url: str) -> str:
    with SnapshotRepository.open(url) as repo:
        return repo.environment.layout.usage_index(session)


def test_usage_is_shown_by_model_source_and_day(counted: Command) -> None:
    shown = counted("usage", "s1").out
    assert shown.startswith("usage of session s1 by model\n")
    for part in ("gpt-5", "cache hits", "75.0%", "total", "#####", "世界\\x1b[31m"):
        assert part in shown
    assert "\x1b" not in shown
    assert "openai" in counted("usage", "s1", "--by", "source").out
    days = [row["day"] for row in counted("--json", "usage", "s1", "--by", "day").rows[:-1]]
    assert days == ["2026-01-02", "2026-01-03", "2026-01-04"]
    *groups, total = counted("--json", "usage", "s1").rows
    assert groups[0] == {
        "model": "gpt-5",
        "calls": 9,
        "input_tokens": 90,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 270,
        "output_tokens": sum(n for n in range(12) if n % 4),
        "thinking_tokens": 0,
        "prompt_cached_tool_tokens_saved": 0,
        "truncations": 0,
        "segments_removed": 0,
        "tokens": 360 + sum(n for n in range(12) if n % 4),
        "cache_hit_ratio": 0.75,
    }
    assert (total["total"], total["calls"], total["tokens"], total["damaged"]) == (True, 12, 480 + 66, [])


def test_what_a_row_does_not_say_is_counted_all_the_same(filled: Command, tmp_path: Path) -> None:
    filled("usage", "s1", "--append", written(tmp_path, "{}", '{"cache_read_input_tokens": 7}'))
    shown = filled("usage", "s1").out
    assert "(not said)" in shown
    assert "100.0%" in shown
    group, total = filled("--json", "usage", "s1").rows
    assert (group["model"], total["calls"], total["tokens"]) == ("", 2, 7)


def test_usage_of_all_sessions_together(counted: Command, tmp_path: Path) -> None:
    counted("usage", "s2", "--append", written(tmp_path, '{"model": "gpt-5", "output_tokens": 1000}'))
    *groups, total = counted("--json", "usage", "--all").rows
    assert (groups[0]["model"], groups[0]["calls"], total["calls"]) == ("gpt-5", 10, 13)
    assert counted("usage", "--all").out.startswith("usage of 2 sessions by model\n")


def test_a_log_that_was_left_behind_is_named_and_not_counted(counted: Command, url: str, tmp_path: Path) -> None:
    counted("usage", "s2", "--append", written(tmp_path, '{"output_tokens": 1000}'))
    with SnapshotRepository(open_store(url)) as repo:
        retire_satellites(repo.environment, "s2", "file:elsewhere")
    *_, total = counted("--json", "usage", "--all").rows
    assert (total["calls"], total["moved"]) == (12, [{"session_id": "s2", "destination": "file:elsewhere"}])
    assert "the usage log of s2 was moved to file:elsewhere, and is not counted\n" in counted("usage", "--all").out
    assert counted("--json", "usage", "s2", code=3).error["error"] == "SessionMovedError"


def test_a_log_that_cannot_be_read_hides_no_other_and_is_named(counted: Command, url: str, tmp_path: Path) -> None:
    counted("usage", "s2", "--append", written(tmp_path, '{"output_tokens": 1000}'))
    counted("usage", "s3", "--append", written(tmp_path, '{"output_tokens": 2000}'))
    open_store(url).put(index_of("s2", url), b"damaged", Overwrite())
    (segment,) = counted("usage", "s3", "--files").out.splitlines()
    Path(segment).unlink()
    *_, total = counted("--json", "usage", "--all", code=4).rows
    assert (total["calls"], len(total["damaged"])) == (12, 2)
    shown = counted("usage", "--all", code=4).out
    assert "the usage log of default/usage/" in shown
    assert "the usage log of s3 cannot be read, and is not counted: " in shown
    for session in ("s2", "s3"):
        assert counted("--json", "usage", session, code=4).error["error"] == "CorruptSnapshotError"


@pytest.mark.parametrize("nth", [1, 2, 3, 4])
def test_a_log_that_goes_with_its_session_meanwhile_is_passed_over(
    capsys: pytest.CaptureFixture[str], nth: int
) -> None:
    store, clock = MemoryStore(), ManualClock()
    faulty = FaultyStore(store)
    with SnapshotRepository(store, clock=clock) as repo, SnapshotRepository(faulty, clock=clock) as ours:
        for session in ("a", "b"):
            repo.commit(PersistedSessionState(session_id=session))
            for _ in range(2):
                UsageLog(repo, session).append('{"model": "m", "input_tokens": 1}')

        def gone() -> None:
            repo.delete("a")
            execute(plan_collect(repo))

        faulty.plan.on("get", repo.environment.layout.usage("a"), nth=nth, fault=Meanwhile(gone))
        _all(Invocation("memory:", "default", output=Output(as_json=True, quiet=False)), ours, By.MODEL)
    *_, total = map(json.loads, capsys.readouterr().out.splitlines())
    assert (total["calls"], total["damaged"]) == (2, [])


@pytest.mark.parametrize("row", [b'{"row_id":"x",garbage', b'{"row_id":"x","input_tokens":-1}', b'{"row_id":"x"}{}'])
def test_a_damaged_row_is_corruption_of_its_own_log(counted: Command, url: str, tmp_path: Path, row: bytes) -> None:
    counted("usage", "s2", "--append", written(tmp_path, '{"output_tokens": 1000}'))
    with SnapshotRepository.open(url) as repo:
        writer = LogWriter(repo.environment, "s2")
        known = writer.opened()
        segment = writer.upload([row], writer.new_sequence())
        writer.swap(partial(appended, segments=[segment], number=0), known)
    *_, total = counted("--json", "usage", "--all", code=4).rows
    assert (total["calls"], len(total["damaged"])) == (12, 1)
    assert counted("--json", "usage", "s2", code=4).error["error"] == "CorruptSnapshotError"
    if b"-1" not in row:
        outcome = counted("usage", "s2", "--rows", code=4)
        assert (outcome.rows[0]["output_tokens"], "row x" in outcome.err) == (1000, True)


def test_a_store_without_usage_says_so(filled: Command) -> None:
    assert filled("usage", "--all").out == "usage of 0 sessions by model: no rows\n"
    assert filled("--json", "usage", "--all").record["calls"] == 0
    assert filled("--json", "usage", "s1", code=3).error["what"] == "usage log"
    assert filled("--json", "usage", "", code=10).error["error"] == "InvalidKeyError"


def test_without_a_store_there_is_nothing_to_show_or_to_append_to(cli: Command, tmp_path: Path) -> None:
    for arguments in (["s1"], ["--all"], ["s1", "--append", written(tmp_path, "{}")]):
        assert cli("--json", "usage", *arguments, code=3).error["error"] == "StoreNotFoundError"


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["s1", "--all"],
        ["--all", "--files"],
        ["--all", "--append", "-"],
        ["s1", "--files", "--rows"],
        ["s1", "--compact", "--append", "-"],
        ["s1", "--by", "hour"],
    ],
)
def test_what_cannot_be_meant_is_a_usage_error(counted: Command, arguments: list[str]) -> None:
    assert counted("usage", *arguments, code=2).err.endswith("; see snapshots usage --help\n")


def test_files_are_what_other_programs_read(counted: Command, url: str) -> None:
    (path,) = counted("usage", "s1", "--files").out.splitlines()
    record = counted("--json", "usage", "s1", "--files").record
    assert (record["url"], record["rows"]) == (path, 12)
    assert path.startswith(url.removeprefix("file:"))
    with Path(path).open("rb") as file:
        text = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True).read().decode()
    rows = [json.loads(row) for row in text.splitlines()]
    assert [{**row, "row_id": None} for row in rows] == [{"row_id": None, **call} for call in CALLS]
    assert counted("usage", "s1", "--rows").rows == rows


def test_small_segments_are_merged_and_collected(counted: Command, tmp_path: Path) -> None:
    for n in range(3):
        counted("usage", "s1", "--append", written(tmp_path, f'{{"n": {n}}}'))
    report = counted("--json", "usage", "s1", "--compact").record
    assert (report["session_id"], report["merged"], report["segments"], report["rows"]) == ("s1", 4, 1, 15)
    assert counted("usage", "s1", "--compact").out.startswith("0 segments of the usage log of session s1 merged: now 1")
    log, summary = counted("--json", "collect", "--dry-run").rows
    assert log == {"usage_log": "s1", "segments": 4, "listed": 5, "bytes": summary["usage_segments_bytes"]}
    assert (summary["usage_logs"], summary["usage_segments"]) == (1, 4)
    shown = counted("collect", "--dry-run").out
    assert "4 superseded segments of 1 usage log can be deleted" in shown
    assert "4 superseded segments" in counted("--yes", "collect").out
    assert counted("--json", "--yes", "collect").record["usage_segments_deleted"] == 0
    assert len(counted("usage", "s1", "--rows").rows) == 15


def test_a_log_that_is_left_alone_by_a_collection_is_named(counted: Command, url: str) -> None:
    open_store(url).delete(index_of("s1", url))
    said = counted("collect", "--dry-run", code=11).out.splitlines()[-1]
    assert said.startswith("usage log default/usage/")
    assert said.endswith("would be left alone: " + index_of("s1", url) + ": the usage log has segments and no index")
    (spared,) = counted("--json", "--yes", "collect", code=11).record["usage_logs_spared"]
    assert spared["usage_log"].startswith("default/usage/")
    assert "was left alone" in counted("--yes", "collect", code=11).out


# Appending.


def test_lines_are_appended_from_stdin(filled: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    text = "\ufeff" + "\n".join(json.dumps({"n": n}) for n in range(LINES_AT_ONCE + 5)) + "\n\n"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    assert filled("--json", "usage", "s1", "--append", "-").record == {
        "session_id": "s1",
        "appended": 1005,
        "in_doubt": 0,
        "next_line": 0,
    }
    assert [row["n"] for row in filled("usage", "s1", "--rows").rows] == list(range(1005))


def test_a_bad_line_is_named_and_what_came_before_it_is_told(filled: Command, tmp_path: Path) -> None:
    lines = [json.dumps({"n": n}) for n in range(LINES_AT_ONCE + 5)]
    path = written(tmp_path, *lines, "", '{"input_tokens": -1}')
    outcome = filled("--json", "usage", "s1", "--append", path, code=10)
    assert outcome.record == {"session_id": "s1", "appended": 1000, "in_doubt": 0, "next_line": 1001}
    assert (outcome.error["source"], outcome.error["position"]) == (path, "line 1007: input_tokens")
    assert len(filled("usage", "s1", "--rows").rows) == 1000


def test_a_row_id_that_says_two_things_is_named_by_the_line_of_the_file(filled: Command, tmp_path: Path) -> None:
    lines = [json.dumps({"n": n}) for n in range(LINES_AT_ONCE)]
    path = written(tmp_path, *lines, "", '{"row_id": "x", "n": 1}', "{}", '{"row_id": "x", "n": 2}')
    outcome = filled("--json", "usage", "s1", "--append", path, code=10)
    assert (outcome.record["appended"], outcome.record["next_line"]) == (1000, 1001)
    assert outcome.error["position"] == "line 1004: row_id"
    assert "'x' is that of line 1002 as well" in outcome.error["message"]
    path = written(tmp_path, '{"row_id": "x", "n": 1}', '\ufeff {"row_id": "x", "n": 1}')
    assert filled("--json", "usage", "s2", "--append", path).record["appended"] == 2
    assert len(filled("usage", "s2", "--rows").rows) == 1


@pytest.mark.parametrize(
    "long",
    [
        '{"a":"' + "é" * 600_000 + '"}',
        '{"a":"x' + "é" * 600_000 + '"}',
        '{"a":1}' + " " * (2 << 20) + '{"b":2}',
        " " * (3 << 20),
    ],
    ids=["cut inside a character", "or not", "two with blanks between", "blanks"],
)
def test_a_line_that_is_too_long_is_one_line_and_named(filled: Command, tmp_path: Path, long: str) -> None:
    outcome = filled("--json", "usage", "s1", "--append", written(tmp_path, '{"n": 1}', long, '{"n": 3}'), code=10)
    assert outcome.error["error"] == "LimitExceededError"
    assert outcome.error["limit"].endswith("calls.jsonl, line 2)")
    assert (outcome.record["appended"], outcome.record["next_line"]) == (0, 1)
    filled("usage", "s1", code=3)


def test_a_line_of_the_greatest_size_may_have_blanks_around_it(filled: Command, tmp_path: Path) -> None:
    greatest = '{"a":"' + "x" * (ROW_BYTES_MAX - len('{"a":""}')) + '"}'
    path = written(tmp_path, "\ufeff" + greatest + "\r", "\ufeff", f"  {greatest}  ")
    assert filled("--json", "usage", "s1", "--append", path).record["appended"] == 2


def appended_while(bench: Bench, path: str, *, as_json: bool) -> None:
    told = _Told()
    try:
        _append_all(bench.log(), path, path, told)
    finally:
        _tell(Invocation("memory:", "default", output=Output(as_json=as_json, quiet=False)), "s1", path, told)


@pytest.mark.parametrize("fault", [LoseAnswer(), Meanwhile(lambda: signal.raise_signal(signal.SIGINT))], ids=str)
def test_of_lines_in_doubt_it_is_said_how_many_and_which(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, fault: Fault
) -> None:
    path = written(tmp_path, "", *(json.dumps({"n": n}) for n in range(2 * LINES_AT_ONCE + 5)))
    for as_json in (True, False):
        bench = Bench()
        bench.faulty.plan.on("put", "index", nth=3, fault=fault, times=None)
        bench.faulty.plan.on("get", "index", nth=2, fault=FailBefore(applied="no"), times=None)
        with pytest.raises((UnavailableError, KeyboardInterrupt)):
            appended_while(bench, path, as_json=as_json)
        said = capsys.readouterr()
        if as_json:
            assert json.loads(said.out) == {"session_id": "s1", "appended": 1000, "in_doubt": 1000, "next_line": 1002}
        else:
            assert said.out.startswith(
                "1,000 lines appended to the usage log of session s1\n1,000 lines from line 1002 of "
            )
            assert said.out.endswith("usage s1 --rows\n")


def test_of_lines_that_were_not_appended_it_is_said_which(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = written(tmp_path, *(json.dumps({"n": n}) for n in range(LINES_AT_ONCE + 5)))
    bench = Bench()
    bench.faulty.plan.on("put", ".zst", nth=2, fault=FailBefore(applied="no"), times=None)
    with pytest.raises(UnavailableError):
        appended_while(bench, path, as_json=False)
    assert capsys.readouterr().out.splitlines()[1].startswith("nothing from line 1001 of ")


def test_nothing_makes_no_log_and_a_line_makes_one_without_a_session(filled: Command, url: str, tmp_path: Path) -> None:
    for lines in ([], ["", "\ufeff"]):
        assert filled("--json", "usage", "typo", "--append", written(tmp_path, *lines)).record["appended"] == 0
    assert list(open_store(url).list("default/usage/")) == []
    filled("usage", "typo", code=3)
    shown = filled("usage", "typo", "--append", written(tmp_path, "{}")).out
    assert shown.endswith("there is no session typo: its usage log stands alone\n")
    session = filled("--json", "ls").rows[0]["session_id"]
    assert "stands alone" not in filled("usage", session, "--append", written(tmp_path, "{}")).out


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"\xff\n", "InvalidInputError"),
        (b"[1]\n", "InvalidInputError"),
        (b'{"a":"' + b"x" * ROW_BYTES_MAX + b'"}\n', "LimitExceededError"),
    ],
)
def test_what_is_no_line_is_refused(filled: Command, tmp_path: Path, content: bytes, error: str) -> None:
    path = tmp_path / "bad"
    path.write_bytes(content)
    outcome = filled("--json", "usage", "s1", "--append", str(path), code=10)
    assert outcome.error["error"] == error
    filled("usage", "s1", code=3)


def test_a_file_that_cannot_be_read_is_named(filled: Command, tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none", "a\0b"):
        assert filled("--json", "usage", "s1", "--append", str(path), code=10).error["source"] == str(path)


def test_a_deleted_session_takes_no_lines(filled: Command, tmp_path: Path) -> None:
    filled("--yes", "rm", "marshmallow-1867")
    path = written(tmp_path, "{}")
    assert filled("--json", "usage", "marshmallow-1867", "--append", path, code=3).error["error"] == (
        "SessionDeletedError"
    )


# What is seen.


def test_bars_fit_where_they_are_shown() -> None:
    tokens = [("世界" * 30, 1000), ("short", 1), ("none", 0)]
    for cells in range(1, 200):
        for bar in bars(tokens, cells=cells):
            assert cell_len(bar) <= cells
    wide = list(bars(tokens, cells=100))
    assert [bar.count("#") for bar in wide] == [59, 1, 0]
    assert list(bars(tokens, cells=20)) == []
    assert list(bars([("a", 0)])) == list(bars([])) == []


def test_bars_are_drawn_at_a_terminal(counted: Command, url: str) -> None:
    shown = at_terminal("--store", url, "usage", "s1")
    assert "█" in shown
    assert "#####" not in shown
    assert counted("--quiet", "usage", "s1").out


def test_the_log_of_a_whole_process_is_one_command(filled: Command, url: str) -> None:
    with SnapshotRepository.open(url) as repo:
        UsageLog(repo, "s1").append_many('{"model": "m", "output_tokens": 5}' for _ in range(3))
    command = [str(Path(sys.executable).with_name("snapshots")), "--store", url, "--json", "usage", "s1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1])["tokens"] == 15
    assert filled("usage", "s1").out
