"""One Ceph node on loopback: a monitor, a storage daemon in memory and an S3 gateway, each a process of its own.

Rules:
1. It listens on loopback only, and everything that it writes lies under the directory given.
2. Processes are ended by their ids, the gateway first, also when a later one did not start.
3. Its one user has the test credentials; unlike the small servers it refuses any other.

    with ceph_running(directory) as endpoint:
        store = open_store(new_bucket_url(endpoint))
"""

from __future__ import annotations

import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.servers import CREDENTIALS, READY_SECONDS, STARTS_MAX, answers, clean_environment, end, free_port

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


class CephMissingError(Exception):
    """Ceph is not installed here. Install it as the message says."""


class CephStartError(Exception):
    """A process of the node ended, or did not answer in time. The end of its log is in the message."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the monitor (in both versions of its protocol) and the gateway listen."""

    mon_v2: int
    mon_v1: int
    gateway: int


@contextmanager
def ceph_running(directory: Path) -> Iterator[str]:
    """Run a node under `directory`; yield the endpoint of its gateway.

    Raises:
        CephMissingError: A program is not installed.
        CephStartError: It did not start, however often it was tried.
    """
    check_installed()
    for attempt in range(1, STARTS_MAX + 1):
        node = Node(directory / f"start-{attempt}", Ports(free_port(), free_port(), free_port()))
        with ExitStack() as processes:
            try:
                endpoint = node.start(processes)
            except CephStartError:
                if attempt == STARTS_MAX:
                    raise
                continue  # a free port may have been taken between the look and the start
            yield endpoint
            return


def check_installed() -> None:
    """Raise CephMissingError if a program is not found, with the command that installs them all."""
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise CephMissingError(f"Ceph: no {', '.join(missing)} here. As root: {INSTALL}")


class Node:
    """One node. Its directories are made when it starts.

    Args:
        home: Under which everything lies that it writes.
        ports: Free ones.
    """

    def __init__(self, home: Path, ports: Ports) -> None:
        self._home = home
        self._ports = ports
        self._conf = home / "ceph.conf"
        self._running: dict[Path, subprocess.Popen[bytes]] = {}  # by log, in the order of the start

    def start(self, processes: ExitStack) -> str:
        """Start the three processes, to be ended by `processes`; return the endpoint. Raises CephStartError."""
        self._configure()
        self._start("ceph-mon", "-i", "a", processes=processes)
        self._await(lambda: _listens(self._ports.mon_v2))
        self._run("ceph", "osd", "create", "--connect-timeout", f"{READY_SECONDS:.0f}")
        self._run("ceph", "osd", "crush", "add", "osd.0", "1.0", "host=localhost", "root=default")
        self._run("ceph-osd", "-i", "0", "--mkfs")
        self._start("ceph-osd", "-i", "0", processes=processes)
        self._start("radosgw", "-n", "client.admin", processes=processes)
        endpoint = f"http://127.0.0.1:{self._ports.gateway}"
        self._await(lambda: answers(endpoint))
        keys = ("--access-key", CREDENTIALS["AWS_ACCESS_KEY_ID"], "--secret", CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
        name = ("--uid", "test", "--display-name", "test")
        self._run("radosgw-admin", "-n", "client.admin", "user", "create", *name, *keys, "--max-buckets", "0")
        return endpoint

    def _configure(self) -> None:
        for name in ("run", "log", "crash", "mon", "osd", "tmp"):
            (self._home / name).mkdir(parents=True)
        ports = self._ports
        self._conf.write_text(
            CONFIGURATION.format(
                cluster_id=CLUSTER_ID,
                home=self._home,
                memory_bytes=MEMORY_BYTES,
                mon_v2=ports.mon_v2,
                mon_v1=ports.mon_v1,
                gateway=ports.gateway,
            )
        )
        keyring, monmap = str(self._home / "keyring"), str(self._home / "monmap")
        caps = [word for service in ("mon", "osd", "mgr") for word in ("--cap", service, "allow *")]
        self._run("ceph-authtool", "--create-keyring", keyring, "--gen-key", "-n", "mon.", "--cap", "mon", "allow *")
        self._run("ceph-authtool", keyring, "--gen-key", "-n", "client.admin", *caps)
        addresses = f"[v2:127.0.0.1:{ports.mon_v2},v1:127.0.0.1:{ports.mon_v1}]"
        self._run("monmaptool", "--create", "--fsid", CLUSTER_ID, "--addv", "a", addresses, monmap)
        self._run("ceph-mon", "-i", "a", "--mkfs", "--monmap", monmap, "--keyring", keyring)

    def _run(self, *command: str) -> None:
        """Run a command to its end."""
        output = self._home / "commands.log"
        with output.open("ab") as log:
            try:
                done = subprocess.run(
                    command,
                    env=self._environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    timeout=READY_SECONDS,
                )
            except subprocess.TimeoutExpired:
                raise CephStartError(f"{' '.join(command)} took {READY_SECONDS} s: {_tail(output)}") from None
        if done.returncode:
            raise CephStartError(f"{' '.join(command)} ended with {done.returncode}: {_tail(output)}")

    def _start(self, *command: str, processes: ExitStack) -> None:
        """Start a process that stays."""
        log = self._home / f"{command[0]}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [*command, "-f"], env=self._environment(), stdin=subprocess.DEVNULL, stdout=output, stderr=output
            )
        processes.callback(end, process)
        self._running[log] = process

    def _await(self, ready: Callable[[], bool]) -> None:
        """Wait until it is ready, or one of the processes has ended."""
        deadline = time.monotonic() + READY_SECONDS
        while not ready():
            ended = [log for log, process in self._running.items() if process.poll() is not None]
            if ended or time.monotonic() > deadline:
                log = (ended or list(self._running))[-1]
                raise CephStartError(f"{log.stem} {'ended' if ended else 'is not ready'}: {_tail(log)}")
            time.sleep(0.02)  # between two looks at it

    def _environment(self) -> dict[str, str]:
        own = {"CEPH_CONF": self._conf, "HOME": self._home, "TMPDIR": self._home / "tmp"}
        return clean_environment() | {name: str(value) for name, value in own.items()}


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-4000:]
