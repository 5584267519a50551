"""The import rules, written down: the rows of the house, and what has one home. Each rule returns its findings.

A module may import from rows below its own, and from its own row only inside one package that is listed as a whole.
Nothing points up; there are no cycles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from tests.architecture.source import Module, calls, imports_of, literals, names_used

# From the ground up. "x.*" is a package as a whole: its modules may import each other.
ROWS: tuple[tuple[str, ...], ...] = (
    ("storage.errors",),
    ("storage.digest", "storage.observed"),
    ("storage.clock", "storage.executor", "storage.frame", "storage.heap", "storage.keys", "storage.store"),
    ("storage", "storage.extents", "storage.matching"),
    ("storage.cuts", "storage.spools"),
    ("storage.archives", "storage.packs", "storage.registers", "storage.server", "storage.unfinished"),
    ("storage.leases", "storage.pack_copies", "storage.pack_reader", "storage.wrappers.*"),
    ("storage.backends.*",),
    ("storage.probe", "storage.testing.*"),
    ("snapshots.errors", "snapshots.operations"),
    ("snapshots.changes", "snapshots.codec", "snapshots.fields", "snapshots.layout", "snapshots.state.*"),
    ("snapshots.documents", "snapshots.logs", "snapshots.parts", "snapshots.stamps", "snapshots.upgrades.*"),
    ("snapshots.checkpoint", "snapshots.history", "snapshots.pins"),
    ("snapshots.overrides",),
    ("snapshots.placement",),
    ("snapshots.stretches",),
    ("snapshots.content", "snapshots.head"),
    ("snapshots.base", "snapshots.compaction", "snapshots.verdict"),
    ("snapshots.environment", "snapshots.laying", "snapshots.queues", "snapshots.rivalry"),
    ("snapshots.reading",),
    (
        "snapshots.ahead",
        "snapshots.epochs",
        "snapshots.recent",
        "snapshots.restore",
        "snapshots.staging",
        "snapshots.store_object",
        "snapshots.turns",
    ),
    (
        "snapshots.execution",
        "snapshots.following",
        "snapshots.opening",
        "snapshots.publish",
        "snapshots.rewrite",
        "snapshots.roots",
        "snapshots.satellite",
        "snapshots.staged",
    ),
    ("snapshots.spooling",),
    (
        "snapshots.commit",
        "snapshots.delete",
        "snapshots.diff",
        "snapshots.fork",
        "snapshots.leases",
        "snapshots.pinning",
        "snapshots.sessions",
        "snapshots.sources",
    ),
    ("snapshots.children", "snapshots.forest", "snapshots.rewind", "snapshots.update"),
    ("snapshots.writer",),
    ("snapshots.repository",),
    ("snapshots",),
    ("snapshots.telemetry.*", "snapshots.usage.*"),
    ("snapshots.portable.*", "snapshots.realtime.*", "snapshots.records.*", "snapshots.runtime.*"),
    ("snapshots.maintenance.*",),
    ("snapshots.adapters.*", "snapshots.benchmarks.*", "snapshots.testing.*"),
    ("snapshots.cli.*",),
    ("infra.policies.*", "infra.servers.*", "infra.sizing.*", "infra.tables"),
    ("infra.*",),
)

# Third parties with one home each.
HOMES: Mapping[str, tuple[str, ...]] = {
    "boto3": ("storage.backends.s3", "infra.servers.buckets"),
    "botocore": ("storage.backends.s3", "infra.servers.buckets"),
    "obstore": ("storage.backends.cloud",),
    "zstandard": ("storage.frame",),
    "cbor2": ("snapshots.codec",),
    "blake3": ("storage.digest",),
    "pyfastcdc": ("storage.matching",),
    "greenlet": ("storage.testing.simulation.engine",),
    "opentelemetry": ("snapshots.telemetry.opentelemetry",),
    "typer": ("snapshots.cli.*",),
    "click": ("snapshots.cli.*",),
    "rich": ("snapshots.cli.*",),
    "pydantic": (
        "snapshots.state.*",
        "snapshots.portable.session",
        "snapshots.realtime.values",
        "snapshots.records.record",
        "snapshots.runtime.session",
        "snapshots.cli.*",
    ),
    "pydantic_core": ("snapshots.state.*",),
    "yaml": ("infra.policies.template",),
    "time": ("storage.clock", "snapshots.benchmarks.meters", "infra.servers.process"),
    "random": (
        "storage.clock",
        "snapshots.benchmarks.agent_turns",
        "snapshots.benchmarks.chat_turns",
        "snapshots.benchmarks.large_state",
    ),
    "uuid": ("storage.clock",),
    "secrets": ("storage.clock",),
}
NOW = re.compile(r"datetime\.(datetime\.now|datetime\.utcnow|datetime\.today|date\.today)|os\.urandom|os\.getrandom")

# A pure module says so in its docstring. It may import these, and other pure modules.
PLAIN_TYPES = frozenset({"storage.errors", "storage.store", "snapshots.base", "snapshots.errors"})
PURE_EXCEPTIONS: Mapping[tuple[str, str], str] = {
    ("snapshots.state.graph", "storage.clock"): "ids and times that its methods must invent; tests replace the clock",
    ("snapshots.portable.session", "storage.clock"): "ids and times of what is made by hand; a service passes its own",
    ("snapshots.laying", "storage.packs"): "PackBuilder, which touches no store; the functions beside it do",
    ("snapshots.laying", "storage.spools"): "the name of the pack that spooled extents have",
    ("snapshots.parts", "storage.spools"): "where new bytes lie already; nothing is written to it, or read",
    (
        "snapshots.placement",
        "sys",
    ): "the order of bytes in an array of this machine, so that the stored one is the same",
    ("snapshots.staging", "storage.packs"): "PackBuilder, which touches no store; the functions beside it do",
}
PURE = frozenset(
    (
        "infra.policies.evaluator",
        "infra.policies.requests",
        "infra.policies.roles",
        "infra.sizing.server_limits",
        "infra.tables",
        "storage.archives",
        "storage.cuts",
        "storage.digest",
        "storage.extents",
        "storage.frame",
        "storage.keys",
        "storage.matching",
        "snapshots.changes",
        "snapshots.checkpoint",
        "snapshots.codec",
        "snapshots.compaction",
        "snapshots.content",
        "snapshots.documents",
        "snapshots.fields",
        "snapshots.head",
        "snapshots.history",
        "snapshots.laying",
        "snapshots.layout",
        "snapshots.logs",
        "snapshots.maintenance.retention",
        "snapshots.overrides",
        "snapshots.parts",
        "snapshots.pins",
        "snapshots.placement",
        "snapshots.portable.conversion",
        "snapshots.portable.document",
        "snapshots.portable.session",
        "snapshots.realtime.overflow",
        "snapshots.realtime.progress",
        "snapshots.realtime.stored",
        "snapshots.realtime.transitions",
        "snapshots.realtime.values",
        "snapshots.records.record",
        "snapshots.runtime.merge",
        "snapshots.runtime.messages",
        "snapshots.runtime.session",
        "snapshots.runtime.stored",
        "snapshots.staged",
        "snapshots.staging",
        "snapshots.stamps",
        "snapshots.stretches",
        "snapshots.upgrades",
        "snapshots.upgrades.v1_to_v2",
        "snapshots.usage.report",
        "snapshots.usage.rows",
        "snapshots.usage.runs",
        "snapshots.usage.segments",
        "snapshots.verdict",
    )
)
IMPURE = frozenset(
    (
        "asyncio",
        "concurrent",
        "ctypes",
        "fcntl",
        "http",
        "logging",
        "multiprocessing",
        "os",
        "pathlib",
        "queue",
        "select",
        "shutil",
        "signal",
        "socket",
        "ssl",
        "sqlite3",
        "subprocess",
        "sys",
        "tempfile",
        "threading",
        "time",
        "urllib",
    )
)

_KEY_WORD = r"(?:heads|packs|turns|leases|records|metadata|usage|realtime|collect|quarantine)"
KEY_LITERAL = re.compile(rf"(?:^|/){_KEY_WORD}/|/{_KEY_WORD}$|^~(?:store|probe)")
KEY_BUILDERS = frozenset({"storage.keys.encode_id", "storage.keys.fan_out", "storage.keys.check_key"})


def matches(pattern: str, name: str) -> bool:
    """Say whether a module is what a pattern names: itself, or with ".*" a package and all in it."""
    if pattern.endswith(".*"):
        return name == pattern[:-2] or name.startswith(pattern[:-1])
    return name == pattern


def row_of(name: str) -> tuple[int, str] | None:
    """Return the row of a module of ours and the pattern that put it there."""
    found = [(index, pattern) for index, row in enumerate(ROWS) for pattern in row if matches(pattern, name)]
    return max(found, key=lambda one: len(one[1]), default=None)


def _ours(names: Iterable[str]) -> list[str]:
    return sorted(name for name in names if name.split(".")[0] in ("storage", "snapshots", "infra"))


def without_a_row(module: Module) -> list[str]:
    return [] if row_of(module.name) else [f"{module.name} has no row: give it one in ROWS"]


def upward_imports(module: Module, known: Iterable[str]) -> list[str]:
    mine = row_of(module.name)
    found = []
    for target in _ours(imports_of(module, known)):
        theirs = row_of(target)
        if mine is None or theirs is None or target == module.name:
            continue
        together = theirs == mine and mine[1].endswith(".*")
        if theirs[0] >= mine[0] and not together:
            found.append(f"{module.name} imports {target}, which is not below it")
    return found


def sessions_in_storage(module: Module, known: Iterable[str]) -> list[str]:
    if not matches("storage.*", module.name):
        return []
    up = [name for name in _ours(imports_of(module, known)) if matches("snapshots.*", name)]
    return [f"{module.name} imports {name}: storage has never heard of a session" for name in up]


def of_tests(module: Module, known: Iterable[str]) -> list[str]:
    """Return what a module imports from the tests, which may import everything."""
    found = [name for name in sorted(imports_of(module, known)) if matches("tests.*", name)]
    return [f"{module.name} imports {name}" for name in found]


TESTS_FOR_USERS = frozenset({"snapshots.cli.simulate"})  # what it runs is the simulation


def testing_in_earnest(module: Module, known: Iterable[str]) -> list[str]:
    if ".testing" in module.name or module.name in TESTS_FOR_USERS:
        return []
    return [f"{module.name} imports {name}" for name in _ours(imports_of(module, known)) if ".testing" in name]


def homeless(module: Module, known: Iterable[str]) -> list[str]:
    found = []
    for target in sorted(imports_of(module, known)):
        homes = HOMES.get(target.split(".")[0])
        if homes is not None and not any(matches(home, module.name) for home in homes):
            found.append(f"{module.name} imports {target}, which lives in {', '.join(homes)}")
    return found


def own_time_or_chance(module: Module) -> list[str]:
    if module.name == "storage.clock":
        return []
    return [f"{module.name}:{line} uses {name}" for name, line in names_used(module) if NOW.fullmatch(name)]


def impure(module: Module, pure: Iterable[str], known: Iterable[str]) -> list[str]:
    """Return what a pure module imports that is not pure."""
    allowed = {*pure, *PLAIN_TYPES, "snapshots", "storage"}
    found = []
    for target in sorted(imports_of(module, known)):
        wrong = target not in allowed if target in _ours([target]) else target.split(".")[0] in IMPURE
        if wrong and (module.name, target) not in PURE_EXCEPTIONS:
            found.append(f"{module.name} says it is pure and imports {target}")
    return found


def is_pure(module: Module) -> bool:
    """Say whether a module's docstring claims purity; the models of a session are pure as a whole."""
    if matches("snapshots.state.*", module.name):
        return True
    if matches("snapshots.cli.*", module.name) or ".testing" in module.name:
        return False
    return re.search(r"\b[Pp]ure([.;]| decision)", module.docstring) is not None


def keys_outside_the_layout(module: Module) -> list[str]:
    if not matches("snapshots.*", module.name) or module.name == "snapshots.layout":
        return []
    found = [f"{module.name}:{line} spells a key: {text!r}" for text, line in literals(module) if spells_key(text)]
    for name, line in names_used(module):
        if name in KEY_BUILDERS:
            found.append(f"{module.name}:{line} uses {name}")
    return found


def spells_key(text: str) -> bool:
    return KEY_LITERAL.search(text) is not None and " " not in text and "://" not in text


def unguarded_writes(module: Module) -> list[str]:
    """Return constructions of `Replace` and `Overwrite` outside the register and the stores themselves."""
    exempt = (
        "storage.registers",
        "storage.backends.*",
        "storage.wrappers.*",
        "storage.testing.*",
        "storage.probe",  # which tries conditions on keys of its own
        "snapshots.benchmarks.contention",  # the bare loop that a register is compared with
    )
    if any(matches(pattern, module.name) for pattern in exempt):
        return []
    found = []
    for name, line in calls(module):
        if name.rpartition(".")[2] in ("Replace", "Overwrite"):
            found.append(f"{module.name}:{line} constructs {name}; only a register conditions on a version")
    return found


COLLECTORS = (
    "snapshots.maintenance.collect",
    "snapshots.testing.collector",
    "snapshots.benchmarks.places",  # which hold what a measure made up, and nobody's sessions
    "snapshots.benchmarks.rounds",  # a store around a store
    "snapshots.testing.simulation.*",  # stores around stores, which pass a collection's requests on
)


def deletes(module: Module) -> list[str]:
    """Return what deletes objects among the sessions: nobody but a collection does."""
    if not matches("snapshots.*", module.name) or any(matches(pattern, module.name) for pattern in COLLECTORS):
        return []
    found = []
    for name, line in calls(module):
        receiver, _, verb = name.rpartition(".")
        on_store = receiver.rpartition(".")[2].lstrip("_").endswith("store")
        if verb == "delete_many" or (verb == "delete" and on_store):
            found.append(f"{module.name}:{line} calls {name}")
    return found


def cycles(modules: Mapping[str, Module]) -> list[list[str]]:
    """Return import cycles, each once, as lists of names; an `__init__` counts like any module."""
    graph = {name: [t for t in _ours(imports_of(m, modules)) if t in modules] for name, m in modules.items()}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(name: str, path: list[str]) -> None:
        if name in path:
            found.append([*path[path.index(name) :], name])
            return
        if name in done:
            return
        for target in graph[name]:
            visit(target, [*path, name])
        done.add(name)

    for name in sorted(graph):
        visit(name, [])
    return found
