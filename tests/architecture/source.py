"""Reading the project's source as syntax trees: what a module imports, calls and spells out. Nothing is executed."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("storage", "snapshots", "infra")


@dataclass(frozen=True)
class Module:
    """One module: its dotted name, its tree, and whether it is a package's `__init__`."""

    name: str
    tree: ast.Module
    package: bool = False

    @classmethod
    def of(cls, name: str, source: str, *, package: bool = False) -> Module:
        return cls(name, ast.parse(source), package)

    @property
    def docstring(self) -> str:
        return ast.get_docstring(self.tree) or ""


def read_modules() -> dict[str, Module]:
    """Return all modules of the packages by name."""
    found = {}
    for package in PACKAGES:
        for path in sorted((ROOT / package).rglob("*.py")):
            parts = path.relative_to(ROOT).with_suffix("").parts
            whole = parts[-1] == "__init__"
            name = ".".join(parts[:-1] if whole else parts)
            found[name] = Module.of(name, path.read_text(encoding="utf-8"), package=whole)
    return found


def imports_of(module: Module, known: Iterable[str]) -> set[str]:
    """Return the modules that `module` imports, lazily or not, by full name.

    `from a import b` is `a.b` when that is a known module, else `a`. Imports for type checking alone count as well.
    """
    names = set(known)
    found: set[str] = set()
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            found.update(full if (full := f"{base}.{alias.name}") in names else base for alias in node.names)
        elif isinstance(node, ast.Call) and _dotted(node.func) in ("importlib.import_module", "__import__"):
            found.update(_texts(node.args[:1]))
    return found


def _absolute(module: Module, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    kept = parts[: len(parts) - node.level + (1 if module.package else 0)]
    return ".".join([*kept, *([node.module] if node.module else [])])


def _texts(nodes: Iterable[ast.expr]) -> Iterator[str]:
    for node in nodes:
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def _dotted(node: ast.expr) -> str:
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def _aliases(module: Module) -> Mapping[str, str]:
    """Return what each imported name stands for."""
    found = {}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            found.update({alias.asname or alias.name: f"{base}.{alias.name}" for alias in node.names})
        elif isinstance(node, ast.Import):
            found.update({alias.asname: alias.name for alias in node.names if alias.asname})
    return found


def names_used(module: Module) -> Iterator[tuple[str, int]]:
    """Yield every dotted name that the module mentions, aliases resolved, with its line."""
    aliases = _aliases(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Attribute | ast.Name) and (dotted := _dotted(node)):
            first, dot, rest = dotted.partition(".")
            yield f"{aliases.get(first, first)}{dot}{rest}", node.lineno


def calls(module: Module) -> Iterator[tuple[str, int]]:
    """Yield the dotted name of everything that is called, aliases resolved, with its line."""
    aliases = _aliases(module)
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Call):
            first, dot, rest = _dotted(node.func).partition(".")
            yield f"{aliases.get(first, first)}{dot}{rest}", node.lineno


def literals(module: Module) -> Iterator[tuple[str, int]]:
    """Yield every text that stands in the code, parts of f-strings included, docstrings and bare strings not."""
    bare = {id(node.value) for node in ast.walk(module.tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in bare:
            yield node.value, node.lineno
