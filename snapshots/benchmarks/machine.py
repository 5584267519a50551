"""On what was measured: the machine, and the versions of what takes part.

machine()["cores"], versions()["session-snapshots"]
"""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import snapshots
from snapshots.benchmarks.meters import MIB

TAKING_PART = ("blake3", "boto3", "cbor2", "pydantic", "pyfastcdc", "zstandard")
_CPUS = Path("/proc/cpuinfo")


def machine() -> dict[str, Any]:
    """Return processor, cores, memory, system, and how busy it is now."""
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // MIB,
        "system": platform.platform(),
        "load_average": [round(load, 2) for load in os.getloadavg()],
    }


def versions() -> dict[str, str]:
    """Return the version of Python, of this software, and of the libraries that it rests on, as far as installed."""
    found = {"python": platform.python_version(), "session-snapshots": snapshots.__version__}
    for name in TAKING_PART:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # boto3, where nobody needs S3
            found[name] = "not installed"
    return found


def _cpu() -> str:
    names = _CPUS.read_text().splitlines() if _CPUS.exists() else []
    return next((line.partition(":")[2].strip() for line in names if line.startswith("model name")), platform.machine())
