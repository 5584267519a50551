"""Write the golden store of the present schema version, and what is read from it: `python -m tests.compat.make`.

When that may be done stands in the README beside this.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from snapshots.fields import NEWEST_VERSION
from tests.compat.archives import pack, save_golden, tarball
from tests.compat.contents import NAMES, READ_AT, TENANTS, write
from tests.compat.reading import read

PRESENT = f"v{NEWEST_VERSION}"


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="snapshots-") as directory:
        root = Path(directory) / "store"
        write(root)
        save_golden(PRESENT, read(root, at=READ_AT, names=NAMES, tenants=TENANTS))
        pack(root, tarball(PRESENT))
    print(f"{tarball(PRESENT).name}: {tarball(PRESENT).stat().st_size} bytes")


if __name__ == "__main__":
    main()
