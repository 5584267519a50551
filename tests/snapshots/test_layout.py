"""Keys: every id has one, no two share one, whatever the disk makes of letters."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from snapshots.layout import STORE_KEY, Layout, check_pack_name, kind_of, pack_name, segment_name
from storage.errors import InvalidKeyError
from storage.keys import ID_BYTES_MAX, KEY_BYTES_MAX, check_key, check_prefix

ID, RANDOM = "0123456789abcdef" * 2, "fedcba9876543210" * 2
NAME = f"{ID}.{RANDOM[:16]}"
IDS = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=170).filter(
    lambda text: len(text.encode()) <= ID_BYTES_MAX
)
ODD = [
    ".",
    "..",
    "~",
    "~store",
    "A",
    "a",
    "%41",
    "a/b",
    "a\\b",
    "a b",
    "CON",
    "日" * 166,
    "x" * 512,
    "🦀" * 128,
    "-",
    "a.",
    "é",
    "e\u0301",
]


def keys_of(tenant: str, session: str) -> list[str]:
    layout = Layout(tenant)
    return [layout.head(session), layout.pack(session, NAME), layout.turns(session), layout.lease(session)]


@given(IDS, IDS)
def test_every_id_makes_keys_that_every_store_takes(tenant: str, session: str) -> None:
    for key in keys_of(tenant, session):
        assert check_key(key) == key
        assert len(key) <= KEY_BYTES_MAX
        assert all(len(segment) <= 200 for segment in key.split("/"))


@pytest.mark.parametrize("session", ODD)
@pytest.mark.parametrize("tenant", ODD)
def test_odd_ids_make_keys_too(tenant: str, session: str) -> None:
    layout = Layout(tenant)
    assert all(check_key(key) == key for key in keys_of(tenant, session))
    for key, prefix in zip(keys_of(tenant, session)[:2], (layout.heads, layout.packs), strict=True):
        assert check_key(key) == key
        assert key.startswith(prefix)
        assert not any(segment.startswith(".") for segment in key.split("/"))


@given(st.lists(st.tuples(IDS, IDS) | st.tuples(st.sampled_from(ODD), st.sampled_from(ODD)), max_size=12, unique=True))
def test_no_two_sessions_share_a_key_also_on_a_disk_blind_to_case(pairs: list[tuple[str, str]]) -> None:
    keys = [key.lower() for tenant, session in pairs for key in keys_of(tenant, session)]
    assert len(set(keys)) == len(keys)


def test_no_key_begins_another_one_with_a_slash() -> None:
    keys = {key for tenant in ODD for session in ODD for key in keys_of(tenant, session)} | {STORE_KEY}
    for key in keys:
        assert not any(other.startswith(key + "/") for other in keys)


def test_no_tenant_collides_with_the_store() -> None:
    assert not any(key.split("/")[0] == STORE_KEY for key in keys_of("~store", "s"))
    assert check_key(STORE_KEY) == STORE_KEY


@pytest.mark.parametrize("bad", ["", "\x00", "a\n", "\ud800", "x" * 513, "日" * 171])
def test_what_is_no_id_has_no_key(bad: str) -> None:
    with pytest.raises(InvalidKeyError):
        Layout(bad)
    with pytest.raises(InvalidKeyError):
        Layout("t").head(bad)
    with pytest.raises(InvalidKeyError):
        Layout("t").pack(bad, NAME)
    with pytest.raises(InvalidKeyError):
        Layout("t").turns(bad)
    with pytest.raises(InvalidKeyError):
        Layout("t").lease(bad)


def test_known_keys() -> None:
    layout = Layout("Default")
    assert re.fullmatch(r"%44efault/heads/[0-9a-f]{2}/s%2E1", layout.head("s.1"))
    spread = layout.head("s.1").split("/")[2]
    assert layout.turns("s.1") == f"%44efault/turns/{spread}/s%2E1"
    assert layout.lease("s.1") == f"%44efault/leases/{spread}/s%2E1"
    assert layout.pack("s.1", NAME) == f"%44efault/packs/s%2E1/{NAME}"


def test_a_pack_is_named_by_its_commit_and_sixty_four_random_bits() -> None:
    assert pack_name(ID, RANDOM) == NAME


@pytest.mark.parametrize(
    "name", ["", ID, NAME + "0", NAME[:-1], NAME.upper(), NAME + "\n", " " + NAME, NAME.replace(".", "/"), "../" + NAME]
)
def test_what_is_no_pack_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not the name of a pack"):
        check_pack_name(name)
    with pytest.raises(ValueError, match="not the name of a pack"):
        Layout("t").pack("s", name)


@pytest.mark.parametrize("text", ["\ud800", "a/\udfff", "日本", "a/é", "Ａ"])
def test_text_beyond_ascii_is_no_key_and_no_prefix(text: str) -> None:
    with pytest.raises(InvalidKeyError):
        check_key(text)
    with pytest.raises(InvalidKeyError):
        check_prefix(text)


@pytest.mark.parametrize("family", ODD)
def test_the_family_of_a_pack_is_told_by_its_key(family: str) -> None:
    layout = Layout("Tenant.1")
    prefix = layout.family_of_pack(layout.pack(family, NAME))
    assert prefix == layout.family(family)
    hashed = prefix.removeprefix(layout.packs).startswith("~")
    assert layout.family_id(prefix) == (prefix.removeprefix(layout.packs).removesuffix("/") if hashed else family)


@pytest.mark.parametrize("tail", ["notes", NAME, "s1/notes", f"s1/{NAME}.part", f"s1/a/{NAME}", f"/{NAME}", "s1/", ""])
def test_what_is_no_key_of_a_pack_is_of_no_family(tail: str) -> None:
    layout = Layout("default")
    assert layout.family_of_pack(layout.packs + tail) == ""
    assert layout.family_of_pack(Layout("other").pack("s1", NAME)) == ""


@pytest.mark.parametrize("segment", ["%FF", "%61", "Upper", "~" + "0" * 64, "%E6%97"])
def test_a_segment_that_no_id_has_is_its_own_name(segment: str) -> None:
    layout = Layout("default")
    assert layout.family_id(f"{layout.packs}{segment}/") == segment


@pytest.mark.parametrize("session_id", ODD)
def test_the_head_beside_what_belongs_to_a_session(session_id: str) -> None:
    layout = Layout("a Tenant")
    beside = (layout.usage(session_id), layout.usage_index(session_id), layout.record(session_id))
    assert {layout.head_beside(key) for key in beside} == {layout.head(session_id)}


LAYOUT = Layout("a tenant")
SEGMENT = segment_name(ID, 7)


@pytest.mark.parametrize(
    ("key", "kind"),
    [
        ("", "root"),
        (STORE_KEY, "store"),
        ("~probe/0123/one", "probe"),
        (LAYOUT.everything, "tenant"),
        (LAYOUT.heads, "heads"),
        (LAYOUT.head("s"), "heads"),
        (LAYOUT.packs, "packs"),
        (LAYOUT.family("s"), "packs"),
        (LAYOUT.pack("s", NAME), "packs"),
        (LAYOUT.turns("s"), "turns"),
        (LAYOUT.lease("s"), "leases"),
        (LAYOUT.records, "records"),
        (LAYOUT.record("s"), "records"),
        (LAYOUT.metadata("s"), "metadata"),
        (LAYOUT.usage_logs, "usage-segments"),
        (LAYOUT.usage("s"), "usage-segments"),
        (LAYOUT.usage_index("s"), "usage-index"),
        (LAYOUT.usage_segment("s", SEGMENT), "usage-segments"),
        (LAYOUT.realtime("s"), "realtime-records"),
        (LAYOUT.realtime_state("s"), "realtime-state"),
        (LAYOUT.realtime_record("s", 1), "realtime-records"),
        (LAYOUT.epoch, "epoch"),
        (LAYOUT.marks, "marks"),
        (LAYOUT.quarantine, "quarantine"),
        (LAYOUT.quarantined("s", NAME, b"1234"), "quarantine"),
        (Layout("heads").head("packs"), "heads"),
        (Layout("~store").lease("~probe"), "leases"),
    ],
)
def test_every_key_and_prefix_says_what_lies_there(key: str, kind: str) -> None:
    assert kind_of(key) == kind


@pytest.mark.parametrize("key", ["~other", "t/unheard/aa/s", "t/collect/other", "t/heads", "heads"])
def test_what_is_not_ours_has_no_kind(key: str) -> None:
    with pytest.raises(InvalidKeyError, match="nothing of ours lies there"):
        kind_of(key)
