"""Golden stores as files: a store as a tarball, and beside it what is read from it.

Rules:
1. Equal stores make equal tarballs: entries in order of name, without times, owners or rights of the machine.
2. What a local store keeps for itself (names that begin with a dot) is no part of it.

    pack(root, STORES / "v1.tar.xz"); unpack(STORES / "v1.tar.xz", tmp_path)
"""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path
from typing import Any

STORES = Path(__file__).with_name("stores")
TARBALL, READ = ".tar.xz", ".json"

_FLAT_LIST = re.compile(r"\[\n[^\[\]{}]*\]")
_LINE_BREAK = re.compile(r"\n *")


def names() -> list[str]:
    """Return the names of all golden stores."""
    return sorted(path.name.removesuffix(TARBALL) for path in STORES.glob(f"*{TARBALL}"))


def tarball(name: str) -> Path:
    """Return where a golden store lies."""
    return STORES / f"{name}{TARBALL}"


def load_golden(name: str) -> dict[str, Any]:
    """Return what must be read from a golden store."""
    found: dict[str, Any] = json.loads((STORES / f"{name}{READ}").read_text())
    return found


def save_golden(name: str, found: dict[str, Any]) -> None:
    """Write down what must be read from a golden store; a list of plain values on one line."""
    text = json.dumps(found, indent=1, ensure_ascii=False, sort_keys=True)
    lines = _FLAT_LIST.sub(lambda match: _LINE_BREAK.sub(" ", match[0]).replace("[ ", "[").replace(" ]", "]"), text)
    assert json.loads(lines) == found, "only blanks between tokens change"
    (STORES / f"{name}{READ}").write_text(f"{lines}\n")


def pack(root: Path, target: Path) -> None:
    """Write a store into a tarball (rules 1 and 2)."""
    with tarfile.open(target, "w:xz", format=tarfile.PAX_FORMAT, preset=9) as archive:
        for path in sorted(root.rglob("*")):
            name = path.relative_to(root).as_posix()
            if path.is_file() and not name.startswith("."):
                archive.add(path, name, filter=_plain)


def _plain(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.mtime, entry.mode, entry.uid, entry.gid, entry.uname, entry.gname = 0, 0o644, 0, 0, "", ""
    return entry


def unpack(source: Path, root: Path) -> None:
    """Write what is in a tarball into a directory."""
    with tarfile.open(source, "r:xz") as archive:
        for entry in archive:
            file = archive.extractfile(entry)
            path = root / entry.name
            assert file is not None, "only files"
            assert path.resolve().is_relative_to(root.resolve()), "all below the directory"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(file.read())


def bytes_in(root: Path) -> dict[str, bytes]:
    """Return every file below a directory."""
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
