"""The house: import directions, no cycles, one home each. Every rule is seen to fail on a bad source first."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.architecture import rules
from tests.architecture.source import Module, imports_of, literals, read_modules

MODULES = read_modules()
PURE = {name for name, module in MODULES.items() if rules.is_pure(module)}
EACH = pytest.mark.parametrize("module", MODULES.values(), ids=MODULES)


def test_every_module_is_read() -> None:
    assert {
        "storage",
        "storage.packs",
        "storage.backends.s3",
        "snapshots",
        "snapshots.state.graph",
        "infra.servers.process",
    } <= MODULES.keys()


def test_no_module_stands_on_two_rows() -> None:
    patterns = [pattern for row in rules.ROWS for pattern in row]
    assert len(patterns) == len(set(patterns))


@EACH
def test_imports_point_down(module: Module) -> None:
    assert not rules.without_a_row(module)
    assert not rules.upward_imports(module, MODULES)


@EACH
def test_storage_has_never_heard_of_a_session(module: Module) -> None:
    assert not rules.sessions_in_storage(module, MODULES)


@EACH
def test_nothing_in_earnest_rests_on_testing(module: Module) -> None:
    assert not rules.testing_in_earnest(module, MODULES)


@EACH
def test_nothing_rests_on_the_tests(module: Module) -> None:
    assert not rules.of_tests(module, MODULES)


@EACH
def test_everything_has_one_home(module: Module) -> None:
    assert not rules.homeless(module, MODULES)
    assert not rules.own_time_or_chance(module)


@EACH
def test_only_the_layout_builds_keys(module: Module) -> None:
    assert not rules.keys_outside_the_layout(module)


@EACH
def test_only_a_register_conditions_on_a_version(module: Module) -> None:
    assert not rules.unguarded_writes(module)


@EACH
def test_nobody_deletes(module: Module) -> None:
    assert not rules.deletes(module)


def test_there_are_no_cycles() -> None:
    assert not rules.cycles(MODULES)


@pytest.mark.parametrize("name", sorted(PURE))
def test_what_says_it_is_pure_imports_only_what_is(name: str) -> None:
    assert not rules.impure(MODULES[name], PURE, MODULES)


def test_the_core_says_it_is_pure() -> None:
    assert rules.PURE <= PURE


def test_what_is_impure_is_of_others() -> None:
    assert not [name for name in rules.IMPURE if "." in name]  # compared with packages: a module of ours never matches


def test_exceptions_are_still_needed() -> None:
    for (name, target), reason in rules.PURE_EXCEPTIONS.items():
        assert target in imports_of(MODULES[name], MODULES), reason


# The checker itself.

Rule = Callable[[Module], list[str]]


def _known(rule: Callable[[Module, dict[str, Module]], list[str]]) -> Rule:
    return lambda module: rule(module, MODULES)


def _pure(module: Module) -> list[str]:
    return rules.impure(module, PURE, MODULES)


LAZY = "def f():\n    {}\n"
TYPING = "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    {}\n"
BAD: list[tuple[Rule, str, str]] = [
    (rules.without_a_row, "snapshots.unheard_of", ""),
    (_known(rules.upward_imports), "storage.errors", "from storage.digest import blob_ref"),
    (_known(rules.upward_imports), "storage.errors", "import storage.digest"),
    (_known(rules.upward_imports), "snapshots.codec", "from snapshots import head"),
    (_known(rules.upward_imports), "snapshots.codec", LAZY.format("from snapshots import head")),
    (
        _known(rules.upward_imports),
        "snapshots.codec",
        LAZY.format("import importlib\n    importlib.import_module('snapshots.head')"),
    ),
    (_known(rules.upward_imports), "snapshots.codec", TYPING.format("from snapshots.head import Head")),
    (_known(rules.upward_imports), "snapshots.codec", "from snapshots.fields import Fields"),
    (_known(rules.upward_imports), "snapshots.head", "from .commit import commit"),
    (_known(rules.upward_imports), "snapshots.state.graph", "from ..head import Head"),
    (_known(rules.upward_imports), "snapshots.commit", "from snapshots import SnapshotRepository"),
    (_known(rules.upward_imports), "snapshots.commit", "import snapshots.cli"),
    (_known(rules.upward_imports), "storage.packs", "from storage.backends.memory import MemoryStore"),
    (_known(rules.sessions_in_storage), "storage.packs", "from snapshots.errors import SnapshotError"),
    (_known(rules.sessions_in_storage), "storage.backends.s3", LAZY.format("import snapshots")),
    (_known(rules.upward_imports), "snapshots.cli.use", "from infra.servers.process import free_port"),
    (_known(rules.upward_imports), "storage.probe", LAZY.format("import infra.local_s3")),
    (_known(rules.upward_imports), "infra.servers.process", "from infra.local_s3 import main"),
    (_known(rules.upward_imports), "infra.policies.roles", "from infra.permissions import main"),
    (_known(rules.of_tests), "infra.servers.process", "from tests.proxy import FaultProxy"),
    (_known(rules.of_tests), "snapshots.commit", LAZY.format("import tests")),
    (_known(rules.homeless), "infra.local_s3", "import boto3"),
    (_known(rules.testing_in_earnest), "snapshots.commit", "from storage.testing.faults import FaultyStore"),
    (_known(rules.homeless), "storage.backends.local", "import boto3"),
    (_known(rules.homeless), "storage.backends.answers", "from botocore.exceptions import ClientError"),
    (_known(rules.homeless), "storage.backends.s3", "from obstore.store import GCSStore"),
    (_known(rules.homeless), "storage.packs", LAZY.format("import zstandard as z")),
    (_known(rules.homeless), "snapshots.head", "from cbor2 import loads"),
    (_known(rules.homeless), "storage.frame", "import blake3"),
    (_known(rules.homeless), "snapshots.parts", "from pyfastcdc import FastCDC"),
    (_known(rules.homeless), "snapshots.repository", "import typer"),
    (_known(rules.homeless), "snapshots.sessions", "from rich.console import Console"),
    (_known(rules.homeless), "snapshots.head", "from pydantic import BaseModel"),
    (_known(rules.homeless), "snapshots.commit", "from time import sleep"),
    (_known(rules.homeless), "snapshots.cli.use", "import uuid"),
    (_known(rules.homeless), "storage.packs", "import secrets"),
    (_known(rules.homeless), "storage.testing.draws", "import random"),
    (rules.own_time_or_chance, "snapshots.commit", "from datetime import datetime\ndatetime.now()"),
    (rules.own_time_or_chance, "snapshots.commit", "import datetime\ndatetime.datetime.utcnow()"),
    (rules.own_time_or_chance, "snapshots.commit", "from datetime import datetime as d\nnow = d.today"),
    (rules.own_time_or_chance, "snapshots.commit", "import datetime as dt\ndt.date.today()"),
    (rules.own_time_or_chance, "snapshots.commit", "import os\nos.urandom(8)"),
    (rules.keys_outside_the_layout, "snapshots.commit", "key = f'{tenant}/heads/{s}'"),
    (rules.keys_outside_the_layout, "snapshots.commit", "key = tenant + '/packs/'"),
    (rules.keys_outside_the_layout, "snapshots.commit", "key = 'heads/aa/s1'"),
    (rules.keys_outside_the_layout, "snapshots.commit", "key = '~store'"),
    (rules.keys_outside_the_layout, "snapshots.commit", "from storage.keys import encode_id\nencode_id('s')"),
    (rules.keys_outside_the_layout, "snapshots.commit", "from storage import keys\nkeys.fan_out('s')"),
    (rules.unguarded_writes, "snapshots.commit", "from storage.store import Replace\nReplace(v)"),
    (rules.unguarded_writes, "snapshots.commit", "from storage.store import Replace as R\nR(v)"),
    (rules.unguarded_writes, "storage.packs", "import storage.store as s\ns.Overwrite()"),
    (rules.deletes, "snapshots.delete", "environment.store.delete(key)"),
    (rules.deletes, "snapshots.delete", "self._store.delete(key)"),
    (rules.deletes, "snapshots.cli.use", "x.delete_many(keys)"),
    (_pure, "snapshots.head", "import os.path"),
    (_pure, "snapshots.head", "import sys"),
    (_pure, "snapshots.parts", "from storage.packs import write_pack"),
    (_pure, "snapshots.head", "from storage.clock import Clock"),
    (_pure, "snapshots.verdict", LAZY.format("from storage.registers import Register")),
]


@pytest.mark.parametrize(("rule", "name", "source"), BAD)
def test_a_bad_source_is_caught(rule: Rule, name: str, source: str) -> None:
    assert len(rule(Module.of(name, source))) == 1


GOOD: list[tuple[Rule, str, str]] = [
    (_known(rules.upward_imports), "snapshots.state.graph", "from snapshots.state.nodes import nodes_to_plain"),
    (_known(rules.upward_imports), "snapshots.commit", "from snapshots import restore\nimport storage.packs"),
    (_known(rules.homeless), "storage.clock", "import time, random, uuid, secrets"),
    (
        rules.own_time_or_chance,
        "snapshots.commit",
        "from datetime import datetime\nself.clock.now()\ndatetime(2026, 1, 1)",
    ),
    (rules.keys_outside_the_layout, "snapshots.commit", '"""Docs of <tenant>/heads/<s>."""\nx = "a / heads / b"'),
    (rules.unguarded_writes, "snapshots.commit", "from dataclasses import replace\nreplace(head, revision=2)"),
    (rules.deletes, "snapshots.repository", "delete.delete(environment, 's1')\nrepo.delete('s1')"),
]


@pytest.mark.parametrize(("rule", "name", "source"), GOOD)
def test_a_good_source_passes(rule: Rule, name: str, source: str) -> None:
    assert not rule(Module.of(name, source))


@pytest.mark.parametrize(
    "sources",
    [
        {"snapshots.a": "import snapshots.b", "snapshots.b": "import snapshots.a"},
        {"snapshots.a": LAZY.format("from snapshots import b"), "snapshots.b": "from snapshots.a import x"},
        {
            "snapshots.a": "from . import b",
            "snapshots.b": "from .c import x",
            "snapshots.c": "from snapshots.a import y",
        },
    ],
)
def test_a_cycle_is_caught(sources: dict[str, str]) -> None:
    found = rules.cycles({name: Module.of(name, source) for name, source in sources.items()})
    assert len(found) == 1
    assert set(found[0]) == set(sources)


def test_docstrings_are_no_literals_and_parts_of_f_strings_are() -> None:
    module = Module.of("m", '"""doc"""\nclass C:\n    """doc"""\nx = f"a{y}b"')
    assert [text for text, _ in literals(module)] == ["a", "b"]
