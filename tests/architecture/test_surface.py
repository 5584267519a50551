"""What the packages show: public names, error trees, words, and what importing them costs."""

from __future__ import annotations

import ast
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from types import ModuleType

import pytest

import snapshots
import snapshots.errors
import snapshots.state
import storage
import storage.errors
from tests.architecture.source import ROOT, read_modules

MODULES = read_modules()


def test_the_public_names_of_storage() -> None:
    assert sorted(storage.__all__) == [
        "BlobRef",
        "ByteRange",
        "Create",
        "Digest",
        "ListedObject",
        "ObjectMeta",
        "ObjectStore",
        "Overwrite",
        "PutMode",
        "Replace",
        "StoredObject",
        "Version",
    ]


def test_the_public_names_of_snapshots() -> None:
    assert sorted(snapshots.__all__) == [
        "CommitResult",
        "Message",
        "Part",
        "PersistedSessionState",
        "PluginSessionSnapshot",
        "ResumeReport",
        "RevisionInfo",
        "SessionGraph",
        "SessionInfo",
        "SessionPolicy",
        "SnapshotRepository",
        "StoreStats",
        "TokenLedgerEntry",
        "TokenUsage",
        "ToolState",
        "TurnStamp",
    ]


@pytest.mark.parametrize("module", [storage, snapshots, snapshots.state])
def test_every_public_name_is_there_once_in_order(module: ModuleType) -> None:
    assert all(hasattr(module, name) for name in module.__all__)
    assert len(set(module.__all__)) == len(module.__all__)


# The error trees.

BASES = {storage.errors: storage.errors.StorageError, snapshots.errors: snapshots.errors.SnapshotError}
TREES = pytest.mark.parametrize("module", BASES, ids=lambda module: module.__name__)


def error_classes(module: ModuleType) -> dict[str, type[BaseException]]:
    """Return the public exceptions that a module defines, its base included."""
    return {
        name: kind
        for name, kind in vars(module).items()
        if inspect.isclass(kind)
        and issubclass(kind, BaseException)
        and kind.__module__ == module.__name__
        and not name.startswith("_")
    }


def drawn_tree(module: ModuleType) -> str:
    """Return the drawing in the module's docstring: its base's line and the branches below."""
    lines = (module.__doc__ or "").splitlines()
    return "\n".join(line for line in lines if re.match(r"\s*(\w+Error$|[├└])", line))


def branches(module: ModuleType) -> Iterator[tuple[list[str], str]]:
    """Yield the class names of each branch, and the rest of its line."""
    for line in drawn_tree(module).splitlines()[1:]:
        yield re.findall(r"\b[A-Z]\w+Error\b", line), line


@TREES
def test_the_drawing_has_every_class_once(module: ModuleType) -> None:
    drawn = re.findall(r"\b[A-Z]\w+Error\b", drawn_tree(module))
    kinds = re.findall(r"also (KeyError|ValueError)", drawn_tree(module))
    named = [name for name in drawn if name not in kinds]
    assert sorted(named) == sorted(error_classes(module))
    assert len(named) == len(set(named))


@TREES
def test_the_tree_is_flat_below_its_base(module: ModuleType) -> None:
    base = BASES[module]
    for kind in error_classes(module).values():
        public = [parent for parent in kind.__mro__[1:] if not parent.__name__.startswith("_")]
        if kind is base:
            assert public[0] is Exception
        else:
            assert public[0] is base, f"{kind.__name__} is caught with {public[0].__name__}"


@TREES
def test_what_is_also_a_builtin_error_is_drawn_so(module: ModuleType) -> None:
    classes = error_classes(module)
    for names, line in branches(module):
        also = re.search(r"also (KeyError|ValueError)", line)
        ours = [classes[name] for name in names if name in classes]
        assert ours
        for kind in ours:
            for builtin in (KeyError, ValueError):
                assert issubclass(kind, builtin) == (also is not None and also[1] == builtin.__name__), kind


@TREES
def test_every_error_says_its_remedy(module: ModuleType) -> None:
    for kind in error_classes(module).values():
        text = inspect.getdoc(kind) or ""
        if kind is BASES[module]:
            assert "names its remedy" in text
        else:
            assert re.search(r"Remedy: [a-z][^.]+", text), f"{kind.__name__} names no remedy"


@TREES
def test_facts_in_the_drawing_are_attributes(module: ModuleType) -> None:
    classes = error_classes(module)
    renamed = {"from": "from_status", "to": "to_status"}  # `from` is no name in Python
    for name, facts in re.findall(r"(\w+Error)\(([a-z_, ]+)\)", drawn_tree(module)):
        parameters = inspect.signature(classes[name].__init__).parameters
        for fact in facts.split(", "):
            assert renamed.get(fact, fact) in parameters, f"{name}.{fact}"


@TREES
def test_arguments_become_attributes(module: ModuleType) -> None:
    for name, kind in error_classes(module).items():
        source = MODULES[module.__name__].tree
        defined = next(node for node in source.body if getattr(node, "name", "") == name)
        assigned = set(re.findall(r"attr='(\w+)'", ast.dump(defined)))
        own = [one for one in inspect.signature(kind.__init__).parameters if one not in ("self", "args", "kwargs")]
        assert set(own) <= assigned | {"message"}, name


# What an import costs.

HEAVY = ("boto3", "botocore", "obstore", "typer", "click", "rich", "moto", "hypothesis")


@pytest.mark.parametrize("package", ["storage", "snapshots", "snapshots.state", "storage.backends"])
def test_an_import_loads_no_backend_and_no_command(package: str) -> None:
    code = f"import sys, {package}; print(*sorted({{name.split('.')[0] for name in sys.modules}}))"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert package.split(".")[0] in loaded
    assert not set(HEAVY) & set(loaded)


def test_importing_storage_loads_no_session() -> None:
    code = "import sys, storage, storage.packs, storage.registers; print('snapshots' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


# Words.

AVOIDED = {
    "chunk": "a blob, frame or extent",
    "checksum": "a digest is identity; a checksum only guards a frame",
    "etag": "version",
    "bundle": "pack",
    "archive": "pack, unless it is the export",
    "envelope": "frame",
    "container": "frame",
    "pointer": "BlobRef",
    "latest": "head",
    "branch": "head; a branch is a path in a session's graph",
    "clone": "fork",
    "lock": "lease or fence",
    "mutex": "lease",
    "uuid": "id",
    "nonce": "write id or commit id; a holder has a nonce",
    "vacuum": "collect",
    "purge": "collect",
    "gc": "collect",
    "clean": "prune",
    "fsck": "verify",
    "hydrate": "load",
    "revert": "rewind",
    "page": "segment",
    "batch": "segment",
    "location": "extent or place",
    "slice": "extent or part",
    "section": "part",
    "placeholder": "reserved head",
    "stub": "reserved head",
    "generation": "revision; the caller's own counters are carried",
    "sync": "copy",
    "flush": "commit",
}
# Public names that use such a word in another sense, with the sense.
ALLOWED = {
    "storage.packs.PackBuilder.flush": "closes a shared frame in memory; nothing is committed by it",
    "storage.store.LIST_PAGE_KEYS": "a page of a listing, as S3 calls it",
    "snapshots.benchmarks.agent_turns.PAGE_BYTES": "a page of an interpreter's memory; the workload overwrites some",
    "snapshots.sessions.PAGE": "heads read side by side in a listing",
    "snapshots.maintenance.collect.BATCH_PACKS": "families that a collection goes through together; holds no bytes",
    "snapshots.head.Holder.nonce": "of a take-over: the glossary's own word for it",
    "snapshots.verdict.Intent.nonce": "of a take-over",
    "snapshots.publish.Ownership.nonce": "that of the head's holder",
    "snapshots.turns.TurnRecord.nonce": "of the take-over that owns the register",
    "snapshots.diff.ToolsDiff.generation_after": "the caller's counter, named so by the reference",
    "snapshots.diff.ToolsDiff.generation_before": "the caller's counter, named so by the reference",
    "snapshots.checkpoint.SmallFields.tool_state_generation": "the caller's counter, named so by the reference",
}
# The models of a session, realtime ones too, carry the references' names, and so does their conformance; backends the
# words of what they speak to.
FOREIGN = re.compile(
    r"snapshots\.(state|adapters|cli|realtime\.values|testing\.conformance)\b|storage\.(backends|testing)\b"
)


def _imported(name: str) -> Iterator[ast.alias]:
    for node in ast.walk(MODULES[name].tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from node.names


def public_names() -> Iterator[str]:
    """Yield every public module, class, function, constant, method and field of our own vocabulary."""
    for name in MODULES:
        if FOREIGN.match(name) or any(part.startswith("_") for part in name.split(".")):
            continue
        yield name
        module = importlib.import_module(name)
        imported = {alias.asname or alias.name for alias in _imported(name)}
        for attribute, value in vars(module).items():
            if attribute.startswith("_") or attribute in imported or inspect.ismodule(value):
                continue
            yield f"{name}.{attribute}"
            if inspect.isclass(value):
                members = {*vars(value), *getattr(value, "__annotations__", {})}
                yield from (f"{name}.{attribute}.{member}" for member in sorted(members) if not member.startswith("_"))


def words(name: str) -> set[str]:
    """Return the words of a name's last part, in lower case, plurals included as they are."""
    last = name.rpartition(".")[2]
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", last)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a.ChunkReader", {"chunk", "reader"}), ("a.read_etag", {"read", "etag"}), ("a.GC_RUNS", {"gc", "runs"})],
)
def test_names_are_read_word_by_word(name: str, expected: set[str]) -> None:
    assert words(name) == expected


def test_the_vocabulary_is_read() -> None:
    names = set(public_names())
    assert {"storage.digest.BlobRef", "snapshots.head.Head.write_id", "snapshots.fields.U64_MAX"} <= names
    assert len(names) > 300


def test_public_names_use_the_words_of_the_glossary() -> None:
    wrong = [
        f"{name}: {word} (say: {AVOIDED[word]})"
        for name in public_names()
        for word in sorted(words(name) & AVOIDED.keys())
        if name not in ALLOWED
    ]
    assert not wrong


def test_every_exception_is_needed() -> None:
    assert set(ALLOWED) <= set(public_names())
    assert all(words(name) & AVOIDED.keys() for name in ALLOWED)


def test_stat_is_never_called_head() -> None:
    assert "head" not in vars(storage.ObjectStore)
    assert {"get", "put", "stat", "list", "delete", "delete_many"} == {
        name for name in vars(storage.ObjectStore) if not name.startswith("_")
    }
