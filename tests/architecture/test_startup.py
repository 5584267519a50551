"""What starting costs, in modules, and that it can be interrupted. Counts alone are gated, never seconds."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import ModuleType

import pytest
import typer

import snapshots
import storage
from snapshots.cli.commands import HIDDEN, LINES, loaded
from snapshots.cli.interrupts import HeldInterrupts
from tests.architecture.source import ROOT, read_modules

SNAPSHOTS = str(Path(sys.executable).with_name("snapshots"))
COMMAND = "from snapshots.cli import main; main({!r})"

# Modules that a program has beyond those of an empty interpreter, as measured with Python 3.11. To see what was added,
# compare `python -X importtime -c PROGRAM` here and at an earlier commit: children stand above what imported them.
PROGRAMS = {
    "import snapshots": 1,
    "import storage": 1,
    "from snapshots import SnapshotRepository": 313,
    COMMAND.format(["--version"]): 198,
    COMMAND.format(["--help"]): 314,
}
SLACK = 1.05

ALWAYS = (
    "boto3",
    "botocore",
    "greenlet",
    "obstore",
    "moto",
    "hypothesis",
    "snapshots.maintenance",
    "snapshots.testing",
    "snapshots.benchmarks",
)
NOT_FOR_A_LIBRARY = ("typer", "click", "rich", "snapshots.cli")
NOT_FOR_THE_NAME = ("pydantic", "cbor2", "zstandard", "blake3", "logging", "typing")
NOT_FOR_HELP = ("pydantic", "cbor2", "zstandard", "blake3", "snapshots.repository", "snapshots.state", "storage.packs")
FORBIDDEN = {
    "import snapshots": (*ALWAYS, *NOT_FOR_A_LIBRARY, *NOT_FOR_THE_NAME),
    "import storage": (*ALWAYS, *NOT_FOR_A_LIBRARY, *NOT_FOR_THE_NAME),
    "from snapshots import SnapshotRepository": (*ALWAYS, *NOT_FOR_A_LIBRARY),
    COMMAND.format(["--version"]): (*ALWAYS, *NOT_FOR_HELP),
    COMMAND.format(["--help"]): (*ALWAYS, *NOT_FOR_HELP),
    COMMAND.format(["ls", "--help"]): ALWAYS,
}


def modules_after(program: str) -> set[str]:
    """Return the modules that a fresh interpreter has after it ran a program."""
    code = f"{program}\nimport sys; print(*sys.modules, file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return set(run.stderr.split())


@pytest.fixture(scope="module")
def empty() -> set[str]:
    return modules_after("")


@pytest.mark.parametrize("program", PROGRAMS)
def test_no_more_is_imported_than_was_measured(program: str, empty: set[str]) -> None:
    added = modules_after(program) - empty
    assert len(added) <= SLACK * PROGRAMS[program], Counter(name.partition(".")[0] for name in added)


@pytest.mark.parametrize("program", FORBIDDEN)
def test_what_is_not_needed_is_not_imported(program: str) -> None:
    imported = modules_after(program)
    assert not imported & set(FORBIDDEN[program])
    assert imported & {"snapshots", "storage"}


# The public names, which are imported when they are asked for.

PACKAGES = pytest.mark.parametrize("package", [snapshots, storage])


def declared(package: ModuleType) -> dict[str, str]:
    """Return the names that a package imports for checkers of types, each with its module."""
    tree = read_modules()[package.__name__].tree
    imports = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return {alias.name: str(node.module) for node in imports for alias in node.names}


@PACKAGES
def test_checkers_and_interpreters_find_the_same_names(package: ModuleType) -> None:
    homes = declared(package)
    assert sorted(homes) == sorted(package.__all__)
    assert homes == vars(package)["_HOMES"]
    assert set(package.__all__) <= set(dir(package))
    for name, home in homes.items():
        assert getattr(package, name) is getattr(sys.modules[home], name)


@PACKAGES
def test_there_are_no_other_names(package: ModuleType) -> None:
    with pytest.raises(AttributeError, match=f"module '{package.__name__}' has no attribute 'unheard_of'"):
        package.unheard_of  # noqa: B018  asking is the test


@pytest.mark.parametrize("program", ["from snapshots import TurnStamp, SnapshotRepository", COMMAND.format(["ls"])])
def test_what_is_logged_is_not_shown_unless_somebody_asks(program: str, tmp_path: Path) -> None:
    code = f"{program}\nimport logging; logging.getLogger('snapshots').warning('said')"
    python = [sys.executable, "-c", code]
    environment = {**os.environ, "SNAPSHOTS_STORE": f"file:{tmp_path / 'none'}"}
    run = subprocess.run(python, env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "said" not in run.stderr


# The commands, which are imported when they are meant.


def defined_in(home: str) -> set[str]:
    """Return the names of the commands that a module defines, or of its group."""
    group = typer.main.get_group(sys.modules[f"snapshots.cli.{home}"].commands)
    return {group.name} if group.name else set(group.commands)


@pytest.mark.parametrize("name", LINES)
def test_a_command_is_listed_with_the_first_line_of_its_own_help(name: str) -> None:
    command = loaded(name)
    assert " ".join((command.help or "").partition("\n\n")[0].split()) == LINES[name].text
    assert command.hidden == (name in HIDDEN)


def test_every_command_is_listed() -> None:
    homes = {name for name, module in read_modules().items() if "commands = typer.Typer(" in ast.unparse(module.tree)}
    assert homes == {f"snapshots.cli.{line.home}" for line in LINES.values()}
    for home in {line.home for line in LINES.values()}:
        listed = [name for name, line in LINES.items() if line.home == home]
        loaded(listed[0])
        assert defined_in(home) == set(listed)


# Ctrl-C.


@pytest.fixture
def interrupting() -> Iterator[None]:
    """Let SIGINT be answered as Python does meanwhile, in this process and in those that it starts."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interrupting")
@pytest.mark.parametrize("further", [0, 1, 20, 80, 140, 195, 240, 300, 360])
def test_ctrl_c_while_modules_are_imported_ends_it_quietly(tmp_path: Path, further: int) -> None:
    never = tmp_path / "never.json"
    os.mkfifo(never)  # opening it waits for ever: this cannot end before the signal comes
    arguments = ["-X", "importtime", SNAPSHOTS, "--store", f"file:{tmp_path / 'store'}", "replay", str(never)]
    with subprocess.Popen([sys.executable, *arguments], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr is not None
        seen = iter(process.stderr.readline, "")
        assert any(line.rpartition("|")[2].strip() == "snapshots.cli.interrupts" for line in seen)
        for _ in range(further):
            assert next(seen).startswith("import time:")
        process.send_signal(signal.SIGINT)
        rest = [line for line in seen if not line.startswith("import time:")]
        assert process.wait(timeout=60) == 130
    assert rest == ["error: interrupted\n"]


def hold(*steps: Callable[[], object]) -> None:
    with HeldInterrupts():
        for step in steps:
            step()


def press() -> None:
    signal.raise_signal(signal.SIGINT)


@pytest.mark.usefixtures("interrupting")
def test_the_first_ctrl_c_waits_for_the_block() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        hold(press, lambda: done.append(1))
    assert done == [1]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupting")
def test_the_second_ctrl_c_does_not_wait() -> None:
    done: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        hold(press, lambda: done.append(1), press, lambda: done.append(2))
    assert done == [1]


@pytest.mark.usefixtures("interrupting")
def test_ctrl_c_stands_above_the_error_that_the_block_ends_with() -> None:
    with pytest.raises(KeyboardInterrupt):
        hold(press, lambda: int("none"))


@pytest.mark.usefixtures("interrupting")
def test_without_ctrl_c_nothing_is_left_behind() -> None:
    with HeldInterrupts():
        assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interrupting")
def test_who_handles_ctrl_c_otherwise_goes_on_doing_so() -> None:
    heard: list[int] = []
    signal.signal(signal.SIGINT, lambda number, _: heard.append(number))
    hold(press, lambda: heard.append(0))
    assert heard == [signal.SIGINT, 0]


@pytest.mark.usefixtures("interrupting")
def test_another_thread_does_not_hold_it() -> None:
    found: list[object] = []
    look = partial(hold, lambda: found.append(signal.getsignal(signal.SIGINT)))
    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert found == [signal.default_int_handler]
