"""One Ceph node on loopback: a monitor, a storage daemon in memory and an S3 gateway, each a process of its own.

Rules:
1. It listens on loopback only, and everything that it writes lies under the directory given.
2. Processes are ended by their ids, the gateway first, also when a later one did not start.
3. Its one user has the credentials of `infra.servers.process`; unlike the small servers it refuses any other.

    with ceph_running(directory) as endpoint:
        create_bucket(endpoint, "agents")
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from infra.servers.process import (
    CREDENTIALS,
    LOOPBACK,
    READY_SECONDS,
    Processes,
    ServerMissingError,
    answers,
    free_port,
    listens,
    started,
)

PROGRAMS = ("ceph-authtool", "monmaptool", "ceph-mon", "ceph", "ceph-osd", "radosgw", "radosgw-admin")
INSTALL = "apt-get install -y --no-install-recommends radosgw ceph-mon ceph-osd ceph-common"
CLUSTER_ID = "8a0f5f6e-53a5-4b0a-9d1c-6a1f0c8f5a11"  # any; two nodes share nothing but this
MEMORY_BYTES = 8 << 30  # when it believes itself full it stops writing; what is deleted lingers for a while
CONFIGURATION = """\
[global]
fsid = {cluster_id}
mon host = [v2:127.0.0.1:{mon_v2},v1:127.0.0.1:{mon_v1}]
public addr = 127.0.0.1
cluster addr = 127.0.0.1
ms bind ipv6 = false
auth cluster required = none
auth service required = none
auth client required = none
# The default is encrypted, which the gateway cannot do without authentication: it would hang.
ms mon client mode = crc
keyring = {home}/keyring
run dir = {home}/run
admin socket =
crash dir = {home}/crash
log file = {home}/log/$name.log
mon cluster log file = {home}/log/cluster.log
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
# The default waits a second for each of a dozen steps of the start.
paxos propose interval = 0.02
paxos min wait = 0.01

[mon]
mon data = {home}/mon
mon data avail crit = 0

[osd]
osd data = {home}/osd
osd objectstore = memstore
memstore device bytes = {memory_bytes}

[client]
# Without tcp_nodelay each small GET takes 44 ms.
rgw frontends = beast endpoint=127.0.0.1:{gateway} tcp_nodelay=1
rgw run sync thread = false
rgw enable usage log = false
"""


@contextmanager
def ceph_running(directory: Path, port: int | None = None) -> Iterator[str]:
    """Run a node under `directory`; yield the endpoint of its gateway.

    Args:
        directory: As in `started`.
        port: Of the gateway, as in `started`.

    Raises:
        ServerMissingError: A program is not installed.
        PortTakenError: Somebody listens on `port`.
        ServerStartError: It did not start, however often it was tried.
    """
    check_installed()
    with started(_start, directory, port) as endpoint:
        yield endpoint


def check_installed() -> None:
    """Raise ServerMissingError if a program is not found, with the command that installs them all."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise ServerMissingError(f"Ceph: no {', '.join(missing)} here. As root: {INSTALL}")


def _start(node: Processes, gateway: int) -> str:
    monitor = (free_port(), free_port())
    _configure(node, monitor, gateway)
    node.patience_seconds = 0.0  # everything is in memory; the gateway would take 5 s to say good-bye
    node.start("ceph-mon", "ceph-mon", "-i", "a", "-f")
    node.wait_until(lambda: listens(monitor[0]))
    node.run("ceph", "osd", "create", "--connect-timeout", f"{READY_SECONDS:.0f}")
    node.run("ceph", "osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default")
    node.run("ceph-osd", "-i", "0", "--mkfs")
    node.start("ceph-osd", "ceph-osd", "-i", "0", "-f")
    node.start("radosgw", "radosgw", "-n", "client.admin", "-f")
    endpoint = f"http://{LOOPBACK}:{gateway}"
    node.wait_until(lambda: answers(endpoint))
    keys = ("--access-key", CREDENTIALS["AWS_ACCESS_KEY_ID"], "--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    user = ("--uid", "test", "--display-name", "test", *keys, "--max-buckets", "0")
    node.run("radosgw-admin", "-n", "client.admin", "user", "create", *user)
    return endpoint


def _configure(node: Processes, monitor: tuple[int, int], gateway: int) -> None:
    """Write the configuration and what a monitor needs for its first start; it listens in two protocols."""
    home = node.home
    for name in ("run", "log", "crash", "mon", "osd"):
        (home / name).mkdir()
    (home / "ceph.conf").write_text(
        CONFIGURATION.format(
            cluster_id=CLUSTER_ID,
            home=home,
            memory_bytes=MEMORY_BYTES,
            mon_v2=monitor[0],
            mon_v1=monitor[1],
            gateway=gateway,
        )
    )
    node.environment["CEPH_CONF"] = str(home / "ceph.conf")
    keyring, monmap = str(home / "keyring"), str(home / "monmap")
    caps = [word for service in ("mon", "osd", "mgr") for word in ("--cap", service, "allow *")]
    node.run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
    node.run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
    addresses = f"[v2:{LOOPBACK}:{monitor[0]},v1:{LOOPBACK}:{monitor[1]}]"
    node.run("monmaptool", "--create", "--fsid", CLUSTER_ID, "--addv", "a", addresses, monmap)
    node.run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)
