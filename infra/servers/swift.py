"""OpenStack Swift with its S3 interface, an adversary: it answers 501 to If-Match, and races on If-None-Match.

Rules:
1. Four processes on loopback: an account, a container and an object server with one replica each, and the proxy.
2. Its one user has the credentials of `infra.servers.process`; it refuses any other.

    with swift_running(directory) as endpoint:
        create_bucket(endpoint, "agents")

Source: Swift, "SAIO - Swift All In One", and the sample configurations of the proxy (s3api, tempauth), release 2.38.
"""

from __future__ import annotations

import getpass
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from infra.servers.process import (
    CREDENTIALS,
    LOOPBACK,
    Processes,
    ServerMissingError,
    answers,
    free_port,
    listens,
    started,
)

INSTALL = "pip install swift"
STORAGE = ("account", "container", "object")
PROGRAMS = {
    "account": "swift.account.server",
    "container": "swift.container.server",
    "object": "swift.obj.server",
    "proxy": "swift.proxy.server",
}
RINGS = """\
import sys
from swift.common.ring import RingBuilder
for path, port in zip(sys.argv[1::2], sys.argv[2::2]):
    ring = RingBuilder(part_power=2, replicas=1, min_part_hours=0)
    ring.add_dev({"region": 1, "zone": 1, "ip": "127.0.0.1", "port": int(port), "device": "disk", "weight": 1.0})
    ring.rebalance()
    ring.get_ring().save(path)
"""
COMMON = """\
[DEFAULT]
bind_ip = 127.0.0.1
bind_port = {port}
swift_dir = {home}
user = {user}
# In the process that was started, which can then be ended by its id.
workers = 0
log_level = ERROR
# None: what is worth knowing is said while it starts, on standard error.
log_address = {home}/no-syslog
"""
STORAGE_SERVER = """\
devices = {home}/devices
mount_check = false
# A commit of a test does not outlive the machine.
fallocate_reserve = 0
recon_cache_path = {home}/recon

[pipeline:main]
pipeline = {name}-server

[app:{name}-server]
use = egg:swift#{name}
"""
PROXY_SERVER = """\
[pipeline:main]
pipeline = catch_errors listing_formats s3api tempauth bulk slo proxy-server

[app:proxy-server]
use = egg:swift#proxy
account_autocreate = true

[filter:catch_errors]
use = egg:swift#catch_errors

[filter:listing_formats]
use = egg:swift#listing_formats

[filter:s3api]
use = egg:swift#s3api

# The access key is account:user.
[filter:tempauth]
use = egg:swift#tempauth
user_{account}_{person} = {secret} .admin

[filter:bulk]
use = egg:swift#bulk

[filter:slo]
use = egg:swift#slo
"""


@contextmanager
def swift_running(directory: Path) -> Iterator[str]:
    """Run Swift under `directory`, whose file system must keep extended attributes; yield its endpoint.

    Raises:
        ServerMissingError: It is not installed.
        ServerStartError: It did not start, however often it was tried.
    """
    if importlib.util.find_spec("swift") is None:
        raise ServerMissingError(f"Swift is not installed: {INSTALL}")
    with started(_start, directory) as endpoint:
        yield endpoint


def _start(node: Processes, port: int) -> str:
    ports = {name: free_port() for name in STORAGE}
    _configure(node, ports, port)
    rings = [word for name in STORAGE for word in (str(node.home / f"{name}.ring.gz"), str(ports[name]))]
    node.run(sys.executable, "-c", RINGS, *rings)
    for name, module in PROGRAMS.items():
        node.start(name, sys.executable, "-c", f"from {module} import main; main()", str(node.home / f"{name}.conf"))
    endpoint = f"http://{LOOPBACK}:{port}"
    node.wait_until(lambda: all(map(listens, ports.values())) and answers(endpoint))
    return endpoint


def _configure(node: Processes, ports: Mapping[str, int], port: int) -> None:
    home = node.home
    (home / "devices" / "disk").mkdir(parents=True)
    (home / "swift.conf").write_text("[swift-hash]\nswift_hash_path_suffix = any\n")
    for name, chosen in ports.items():
        text = COMMON.format(port=chosen, home=home, user=getpass.getuser()) + STORAGE_SERVER
        (home / f"{name}.conf").write_text(text.format(name=name, home=home))
    account, _, person = CREDENTIALS["AWS_ACCESS_KEY_ID"].partition(":")
    keys = PROXY_SERVER.format(account=account, person=person, secret=CREDENTIALS["AWS_SECRET_ACCESS_KEY"])
    (home / "proxy.conf").write_text(COMMON.format(port=port, home=home, user=getpass.getuser()) + keys)
