"""Every key that the project writes. The only file that builds keys. Pure.

    ~store                                       the store itself
    ~probe/<id>/…                                scratch of a probe, which removes it
    <tenant>/heads/<hh>/<s>                      head
    <tenant>/packs/<family>/<commit id>.<random> pack
    <tenant>/turns/<hh>/<s>                      the turn in flight
    <tenant>/leases/<hh>/<s>                     lease
    <tenant>/records/<hh>/<s>                    session record
    <tenant>/metadata/<hh>/<s>                   authoritative metadata
    <tenant>/usage/<hh>/<s>/index                usage log: its live segments
    <tenant>/usage/<hh>/<s>/<writer>-<seq>.jsonl.zst  a segment of it
    <tenant>/realtime/<hh>/<s>/state             realtime session
    <tenant>/realtime/<hh>/<s>/<seq>             a record of it, one per frame
    <tenant>/collect/epoch                       the last number given to a collection
    <tenant>/collect/marks                       mark cache: a hint for the next plan of a collection
    <tenant>/quarantine/<family>/<pack>.<hash>   copy of a pack that a repair left behind

`<s>`, `<family>` and `<tenant>` are encoded ids (`storage.keys`); `<hh>` spreads the heads over 256 prefixes.

    layout = Layout("default")
    layout.head("s1"), layout.pack("s1", name)
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from storage.errors import InvalidKeyError
from storage.keys import check_key, encode_id, fan_out

STORE_KEY = "~store"
PROBE_PREFIX = "~probe/"
SatelliteName = Literal["record", "metadata", "usage", "realtime"]

_PACK_NAME = re.compile(r"[0-9a-f]{32}\.[0-9a-f]{16}")
_SEGMENT_NAME = re.compile(r"[0-9a-f]{32}-[0-9]{10}\.jsonl\.zst")
_SEQUENCE_DIGITS = 20  # of 64 bits, so that keys sort as numbers do
_ENCODED_BYTE = re.compile(rb"%([0-9A-F]{2})")


@dataclass(frozen=True, slots=True)
class Layout:
    """The keys of one tenant."""

    tenant: str

    def __post_init__(self) -> None:
        encode_id(self.tenant, what="tenant")

    @property
    def _root(self) -> str:
        return encode_id(self.tenant, what="tenant")

    @property
    def everything(self) -> str:
        """Return the prefix under which everything of the tenant lies."""
        return f"{self._root}/"

    @property
    def heads(self) -> str:
        """Return the prefix under which all heads of the tenant lie."""
        return f"{self._root}/heads/"

    @property
    def packs(self) -> str:
        """Return the prefix under which all packs of the tenant lie."""
        return f"{self._root}/packs/"

    @property
    def epoch(self) -> str:
        """Return the key of the register that numbers the tenant's collections."""
        return f"{self._root}/collect/epoch"

    @property
    def marks(self) -> str:
        """Return the key of the mark cache."""
        return f"{self._root}/collect/marks"

    def head(self, session_id: str) -> str:
        """Return the key of a session's head. Raises InvalidKeyError for what is no id."""
        return self._of_session("heads", session_id)

    def turns(self, session_id: str) -> str:
        """Return the key of the register of a session's turn in flight. Raises InvalidKeyError for what is no id."""
        return self._of_session("turns", session_id)

    def lease(self, session_id: str) -> str:
        """Return the key of a session's lease. Raises InvalidKeyError for what is no id."""
        return self._of_session("leases", session_id)

    def record(self, session_id: str) -> str:
        """Return the key of a session's record. Raises InvalidKeyError for what is no id."""
        return self._of_session("records", session_id)

    def metadata(self, session_id: str) -> str:
        """Return the key of a session's authoritative metadata. Raises InvalidKeyError for what is no id."""
        return self._of_session("metadata", session_id)

    def usage(self, session_id: str) -> str:
        """Return the prefix under which a session's usage log lies. Raises InvalidKeyError for what is no id."""
        return f"{self._of_session('usage', session_id)}/"

    def usage_index(self, session_id: str) -> str:
        """Return the key of the index of a session's usage log. Raises InvalidKeyError for what is no id."""
        return check_key(f"{self.usage(session_id)}index")

    def usage_segment(self, session_id: str, name: str) -> str:
        """Return the key of a segment of a session's usage log."""
        return check_key(f"{self.usage(session_id)}{check_segment_name(name)}")

    def usage_log_of(self, key: str) -> str:
        """Return the prefix of the usage log to which an index or a segment belongs, "" if `key` is neither's."""
        log, _, name = key.rpartition("/")
        whole = key.startswith(self.usage_logs) and log.removeprefix(self.usage_logs).count("/") == 1
        return f"{log}/" if whole and (name == "index" or _SEGMENT_NAME.fullmatch(name)) else ""

    def usage_index_in(self, prefix: str) -> str:
        """Return the key of the index of the usage log under a prefix."""
        return f"{prefix}index"

    def realtime(self, session_id: str) -> str:
        """Return the prefix under which a realtime session lies. Raises InvalidKeyError for what is no id."""
        return f"{self._of_session('realtime', session_id)}/"

    def realtime_state(self, session_id: str) -> str:
        """Return the key of the state of a realtime session. Raises InvalidKeyError for what is no id."""
        return check_key(f"{self.realtime(session_id)}state")

    def realtime_record(self, session_id: str, sequence: int) -> str:
        """Return the key of a record of a realtime session; keys sort as their numbers do."""
        assert 0 <= sequence < 10**_SEQUENCE_DIGITS, "a record's number has 64 bits"
        return check_key(f"{self.realtime(session_id)}{sequence:0{_SEQUENCE_DIGITS}d}")

    def _of_session(self, kind: str, session_id: str) -> str:
        segment = encode_id(session_id, what="session id")
        return check_key(f"{self._root}/{kind}/{fan_out(session_id)}/{segment}")

    @property
    def records(self) -> str:
        """Return the prefix under which all session records of the tenant lie."""
        return f"{self._root}/records/"

    @property
    def usage_logs(self) -> str:
        """Return the prefix under which all usage logs of the tenant lie."""
        return f"{self._root}/usage/"

    @property
    def satellites(self) -> tuple[str, ...]:
        """Return the prefixes of what lies beside the packs and goes with a deleted session."""
        kinds = ("turns", "leases", "records", "metadata", "usage", "realtime")
        return tuple(f"{self._root}/{kind}/" for kind in kinds)

    @property
    def copied_satellites(self) -> dict[SatelliteName, str]:
        """Return the prefixes of those that a copy takes along: all but turns and leases."""
        return {
            "record": f"{self._root}/records/",
            "metadata": f"{self._root}/metadata/",
            "usage": f"{self._root}/usage/",
            "realtime": f"{self._root}/realtime/",
        }

    def registers_beside(self, part: str) -> tuple[str, ...]:
        """Return the keys of the registers beside a head, from the session's part of its key."""
        prefixes = self.copied_satellites
        names = {"usage": "/index", "realtime": "/state"}
        return tuple(f"{prefix}{part}{names.get(kind, '')}" for kind, prefix in prefixes.items())

    def session_part(self, key: str) -> str:
        """Return `<hh>/<s>` of the key of a head or of what belongs to one session; equal for equal sessions."""
        return "/".join(key.removeprefix(self.everything).split("/")[1:3])

    def head_beside(self, key: str) -> str:
        """Return the key of the head of the session to which a key or prefix belongs."""
        return f"{self._root}/heads/{self.session_part(key)}"

    def family(self, family: str) -> str:
        """Return the prefix under which the packs of a family lie."""
        return f"{self._root}/packs/{encode_id(family, what='family')}/"

    def family_of_pack(self, key: str) -> str:
        """Return the prefix of the family whose pack lies under `key`, "" if that is not the key of a pack."""
        family, _, name = key.removeprefix(self.packs).partition("/")
        whole = key.startswith(self.packs) and family and _PACK_NAME.fullmatch(name)
        return f"{self.packs}{family}/" if whole else ""

    def family_id(self, prefix: str) -> str:
        """Return the id of the family under a prefix; its part of the key where that is no encoded id, but a digest."""
        segment = prefix.removeprefix(self.packs).removesuffix("/")
        raw = _ENCODED_BYTE.sub(lambda match: bytes.fromhex(match[1].decode()), segment.encode())
        try:
            identifier = raw.decode()
            return identifier if encode_id(identifier) == segment else segment
        except (UnicodeDecodeError, InvalidKeyError):
            return segment

    def pack(self, family: str, name: str) -> str:
        """Return the key of a pack of a family."""
        return check_key(f"{self._root}/packs/{encode_id(family, what='family')}/{check_pack_name(name)}")

    @property
    def quarantine(self) -> str:
        """Return the prefix under which lie copies of what repairs left behind; no collection looks there."""
        return f"{self._root}/quarantine/"

    def quarantined(self, family: str, name: str, content: bytes) -> str:
        """Return the key of the copy of a pack; `content` is a hash of its bytes, so that each has one key."""
        segment = encode_id(family, what="family")
        return check_key(f"{self._root}/quarantine/{segment}/{check_pack_name(name)}.{content.hex()}")


_KINDS = {
    "heads": "heads",
    "packs": "packs",
    "turns": "turns",
    "leases": "leases",
    "records": "records",
    "metadata": "metadata",
    "usage": "usage-segments",
    "realtime": "realtime-records",
    "quarantine": "quarantine",
}
_KINDS_WITH_TENANT = frozenset({"heads", "records", "metadata", "usage-index", "realtime-state"})
_KINDS_OF_LAST = {("usage", "index"): "usage-index", ("realtime", "state"): "realtime-state"}


def kind_of(key: str) -> str:
    """Return what lies under a key, of whatever tenant, or under a prefix that listings are asked for.

    Returns:
        "store", "probe", "heads", "packs", "turns", "leases", "records", "metadata", "usage-index", "usage-segments",
        "realtime-state", "realtime-records", "epoch", "marks" or "quarantine"; of a prefix also "tenant", for all that
        one has, and "root", for all that there is. The prefixes of usage logs and of realtime sessions are of segments
        and records.

    Raises:
        InvalidKeyError: Nothing of ours lies there.
    """
    if key.startswith(PROBE_PREFIX):
        return "probe"
    if key in ("", STORE_KEY):
        return "store" if key else "root"
    parts = key.split("/")
    if len(parts) == 2 and not parts[1]:
        return "tenant"
    if len(parts) == 3 and parts[1:] in (["collect", "epoch"], ["collect", "marks"]):
        return parts[2]
    if len(parts) < 3 or parts[1] not in _KINDS:
        raise InvalidKeyError(key, "nothing of ours lies there")
    last = (parts[1], parts[4]) if len(parts) == 5 else ("", "")
    return _KINDS_OF_LAST.get(last, _KINDS[parts[1]])


def says_tenant(key: str) -> bool:
    """Say whether the record under a key, of whatever tenant, is a guarded one that says whose it is in `tenant`."""
    try:
        return kind_of(key) in _KINDS_WITH_TENANT
    except InvalidKeyError:
        return False


def pack_name(commit_id: str, random_id: str) -> str:
    """Return the name of a pack: the commit id, and 64 random bits that make every upload's name its own."""
    return check_pack_name(f"{commit_id}.{random_id[:16]}")


def check_pack_name(name: str) -> str:
    """Return `name` if it has the form of a pack's name. Raises ValueError."""
    if not _PACK_NAME.fullmatch(name):
        raise ValueError(f"not the name of a pack: {name[:80]!r}")
    return name


def segment_name(writer: str, sequence: int) -> str:
    """Return the name of a segment of a usage log: its writer, 32 hex digits, and its number among that writer's."""
    return check_segment_name(f"{writer}-{sequence:010d}.jsonl.zst")


def check_segment_name(name: str) -> str:
    """Return `name` if it has the form of a segment's name. Raises ValueError."""
    if not _SEGMENT_NAME.fullmatch(name):
        raise ValueError(f"not the name of a segment of a usage log: {name[:80]!r}")
    return name
