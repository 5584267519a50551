"""The README's example runs as it stands, and its commands are the ones CI calls."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def test_the_example_runs_and_prints_what_it_says(tmp_path: Path) -> None:
    example = re.search(r"```python\n(.*?)```", README, re.DOTALL)
    assert example is not None
    run = subprocess.run([sys.executable, "-c", example[1]], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.returncode, run.stdout, run.stderr) == (0, "1 hello 2\n", "")
    assert len(example[1].strip().splitlines()) <= 12


def test_the_longer_example_creates_and_resumes(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1]
    outputs = [
        subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=60)
        for _ in range(2)
    ]
    assert [run.stdout for run in outputs] == ["1 1020\n", "2 2040\n"], [run.stderr for run in outputs]


def test_the_example_of_forks_and_owners_prints_what_it_says(tmp_path: Path) -> None:
    example = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[2]
    run = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == ("3 4 ('another way',)\nb'receipt'\n", "")


BESIDE = {
    "snapshots.portable": "{'tier': 'gold', 'turns': 1} ['hello']\n",
    "snapshots.records": "880 0\n",
    "snapshots.runtime": "Rome 2 0.9\n",
    "snapshots.realtime": "gated\n2 1\n",
}


@pytest.mark.parametrize("package", BESIDE)
def test_the_examples_beside_the_session_print_what_they_say(tmp_path: Path, package: str) -> None:
    (example,) = [one for one in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if f"from {package} " in one]
    run = subprocess.run([sys.executable, "-c", example], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert (run.stdout, run.stderr) == (BESIDE[package], "")


def test_ci_finds_the_test_command() -> None:
    script = (ROOT / ".ci" / "run").read_text()
    assert "<!-- test command -->" in script
    block = re.search(r"<!-- test command -->\n```bash\n(.*?)```", README, re.DOTALL)
    assert block is not None
    assert block[1].splitlines()[-1].endswith("-m pytest -q")


def test_every_error_the_readme_names_exists() -> None:
    from snapshots import errors as ours
    from storage import errors as theirs

    names = set(re.findall(r"`(\w+Error)`", README))
    assert len(names) >= 6
    assert not [name for name in names if not hasattr(ours, name) and not hasattr(theirs, name)]
