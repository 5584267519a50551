"""`LocalStore` with other processes beside it, killed in mid-write, and after a power cut at any point."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from storage import Create, Overwrite, Replace
from storage.backends.local import LocalStore
from storage.errors import NotFoundError
from storage.testing.disk import SimulatedDisk
from storage.testing.draws import Draws
from storage.testing.faults import Crash

INCREMENTS = 100  # per process
KILLS = 8
RACED_KEYS = 40

PRELUDE = """
import sys
from pathlib import Path
from storage import Create, Overwrite, Replace
from storage.backends.local import LocalStore
from storage.errors import PreconditionFailedError
store = LocalStore(Path(sys.argv[1]))
def wait_for_start():
    print("ready", flush=True)
    sys.stdin.readline()
"""
COUNT = f"""
wait_for_start()
for _ in range({INCREMENTS}):
    while True:
        found = store.get("n")
        try:
            store.put("n", b"%d" % (int(found.data) + 1), Replace(found.version))
            break
        except PreconditionFailedError:
            pass
"""
RACE = f"""
wait_for_start()
won = []
for number in range({RACED_KEYS}):
    try:
        store.put(f"race/{{number}}", sys.argv[2].encode(), Create())
        won.append(str(number))
    except PreconditionFailedError:
        pass
print(" ".join(won))
"""
OVERWRITE = """
print("ready", flush=True)
number = 0
while True:
    number += 1
    store.put("a/b", bytes([number % 251]) * (1 << 20), Overwrite())
    store.put(f"new/{number}", bytes([number % 251]) * 1000, Create())
"""


def start(program: str, root: Path, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PRELUDE + program, str(root), *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def run_together(program: str, root: Path, count: int) -> list[str]:
    """Start `count` processes, let them begin at one moment, return what each printed."""
    processes = [start(program, root, str(number)) for number in range(count)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120)[0] for process in processes]
    assert [process.returncode for process in processes] == [0] * count
    return outputs


def test_no_update_is_lost_between_processes(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("n", b"0", Create())
    run_together(COUNT, tmp_path, 2)
    assert store.get("n").data == b"%d" % (2 * INCREMENTS)


def test_one_creator_wins_between_processes(tmp_path: Path) -> None:
    won = [output.split() for output in run_together(RACE, tmp_path, 3)]
    assert sorted(int(number) for numbers in won for number in numbers) == list(range(RACED_KEYS))
    store = LocalStore(tmp_path)
    for racer, numbers in enumerate(won):
        assert all(store.get(f"race/{number}").data == f"{racer}".encode() for number in numbers)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < deadline
        time.sleep(0.005)  # between two looks at the file


def test_a_killed_writer_leaves_whole_objects_only(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    for kill in range(KILLS):
        process = start(OVERWRITE, tmp_path / f"{kill}")
        wait_for(tmp_path / f"{kill}" / "a" / "b")
        time.sleep(0.013 * kill)  # so that each kill falls on another step
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = LocalStore(tmp_path / f"{kill}")
        rows = [row.key for row in store.list("")]
        assert "a/b" in rows
        for key in rows:
            data = store.get(key).data
            assert len(data) == (1 << 20 if key == "a/b" else 1000)
            assert data == data[:1] * len(data)
        store.put("a/b", b"the lock was left to us", Overwrite())


def scenario(store: LocalStore, acknowledged: dict[str, list[bytes | None]]) -> None:
    """Write, replace, delete; note for each key the values it may have, the last acknowledged first."""

    def step(key: str, value: bytes | None, act: Callable[[], object]) -> None:
        before = acknowledged.get(key, [None])[:1]
        acknowledged[key] = [*before, value]
        act()
        acknowledged[key] = [value]

    for round_number in range(2):
        for key in ("x/a", "x/b", "y"):
            value = f"{key} {round_number}".encode()
            step(key, value, lambda key=key, value=value: store.put(key, value, Overwrite()))  # type: ignore[misc]  # bound now
    step("x/a", b"replaced", lambda: store.put("x/a", b"replaced", Replace(store.stat("x/a").version)))
    step("x/b", None, lambda: store.delete("x/b"))
    step("z/z/z", b"last", lambda: store.put("z/z/z", b"last", Create()))


def value_of(store: LocalStore, key: str) -> bytes | None:
    try:
        return store.get(key).data
    except NotFoundError:
        return None


@pytest.mark.parametrize("seed", [None, *range(4)])
def test_what_was_acknowledged_survives_a_power_cut_at_any_call(seed: int | None) -> None:
    disk = SimulatedDisk()
    scenario(LocalStore(Path("/s"), disk=disk), {})
    calls = disk.calls
    assert calls > 40
    for crash_at in range(1, calls + 2):
        disk, allowed = SimulatedDisk(), dict[str, list[bytes | None]]()
        disk.crash_at = crash_at
        try:
            scenario(LocalStore(Path("/s"), disk=disk), allowed)
        except Crash:
            assert crash_at <= calls
        disk.power_cut(None if seed is None else Draws(f"{seed} {crash_at}"))
        store = LocalStore(Path("/s"), disk=disk)
        assert all(value_of(store, key) in values for key, values in allowed.items()), (crash_at, allowed)
        assert {row.key for row in store.list("")} <= {"x/a", "x/b", "y", "z/z/z"}
        store.put("after", b"", Create())
