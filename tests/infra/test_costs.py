"""What was measured for the costs is what sessions cost now, and the document says what the program prints."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from infra import costs
from infra.costs import Use, month, sessions_measured
from infra.sizing.counts import Counts
from infra.sizing.prices import GIB, PRICES, bill, month_of
from infra.sizing.workloads import WORKLOADS, Session, measured

RESULTS = Path(__file__).parents[1] / "benchmarks" / "results.json"
BYTES_APART = 0.05  # ids are random, and compress by chance
FREE = replace(PRICES["s3"], write=0.0, read=0.0, month=0.0, out=0.0)


def _requests(session: Session) -> dict[str, object]:
    return {
        name: {verb: count for verb, count in one.items() if "bytes" not in verb} if isinstance(one, dict) else one
        for name, one in session.as_json().items()
        if not name.endswith("_bytes")
    }


@pytest.mark.parametrize("name", WORKLOADS)
def test_a_small_session_costs_what_was_measured(name: str) -> None:
    was, now = sessions_measured("small")[name], measured(name, *WORKLOADS[name].small)
    assert _requests(now) == _requests(was), "python -m infra.costs --measure"
    for before, after in ((was.stored_bytes, now.stored_bytes), (was.commits.bytes_out, now.commits.bytes_out)):
        assert after == pytest.approx(before, rel=BYTES_APART)


def test_the_usual_sessions_cost_what_the_figures_of_the_readme_say() -> None:
    figures = json.loads(RESULTS.read_text(encoding="utf-8"))["measures"]["measures"]
    agent, chat = figures["agent-turns"]["figures"], figures["chat-only"]["figures"]
    found = sessions_measured("usual")
    for session, per_commit, stored, sent in (
        (found["agent"], "requests_per_commit_200", "stored_per_turn_200", "uploaded_per_turn_200"),
        (found["chat"], "requests_per_commit", "stored_per_turn", "uploaded_per_turn"),
    ):
        known = agent if session is found["agent"] else chat
        assert session.commits.put / session.turns == pytest.approx(known[per_commit]["value"], rel=BYTES_APART)
        assert session.stored_bytes / session.turns / 1024 == pytest.approx(known[stored]["value"], rel=BYTES_APART)
        assert session.commits.bytes_out / session.turns / 1024 == pytest.approx(known[sent]["value"], rel=BYTES_APART)


@pytest.mark.parametrize("name", WORKLOADS)
def test_commits_resumes_and_forks_list_and_delete_nothing(name: str) -> None:
    one = sessions_measured("usual")[name]
    for counts in (one.commits, one.resume, one.load, one.fork, one.fork_older):
        assert counts.requests == counts.get + counts.put


def test_a_bill_is_the_sum_of_its_requests_and_bytes() -> None:
    price = replace(FREE, write=5.0, read=1.0, upload=2.0, retrieval=3.0, out=4.0)
    assert bill(Counts(put=1000, list=1000, delete_many=1000), price) == 15.0
    assert bill(Counts(get=1000, stat=1000), price) == 2.0
    assert bill(Counts(bytes_out=GIB, bytes_in=GIB), price) == 5.0
    assert bill(Counts(bytes_in=GIB), price, out_share=0.5) == 5.0
    assert month_of(2 * GIB, replace(FREE, month=0.5)) == 1.0


def test_a_month_is_the_sum_of_its_items_and_grows_with_what_it_is_asked() -> None:
    one = month(Use(sessions=1000), PRICES["s3"])
    assert one["all"] == pytest.approx(sum(value for item, value in one.items() if item != "all"))
    assert month(Use(sessions=2000), PRICES["s3"])["all"] == pytest.approx(2 * one["all"])
    assert set(month(Use(), FREE).values()) == {0.0}
    usual = Use(sessions=1000)
    for item, more in (
        ("commits", replace(usual, turns_per_day=40)),
        ("resumes", replace(usual, resumes_per_day=2)),
        ("resumes", replace(usual, out_share=1)),
        ("forks", replace(usual, forks=1)),
        ("collections", replace(usual, collections=30)),
        ("copies", replace(usual, copies=1)),
        ("storage", replace(usual, retention_days=365)),
    ):
        assert month(more, PRICES["s3"])[item] > one[item], item


def test_a_collection_costs_more_the_more_there_is_to_collect() -> None:
    shares = (0.0, 0.01, 0.1, 1.0)
    costs_of = [month(Use(deleted_share=share), PRICES["s3"])["collections"] for share in shares]
    assert costs_of == sorted(set(costs_of))


def test_every_price_says_where_it_was_read() -> None:
    for price in PRICES.values():
        assert all("/" in source for source in price.sources), price.name
        assert price.sources


def test_the_document_has_the_tables_that_the_program_prints() -> None:
    text = costs.DOCUMENT.read_text(encoding="utf-8")
    assert costs.document(text) == text, "python -m infra.costs --write"


def test_the_program_prints_tables_a_month_or_json(capsys: pytest.CaptureFixture[str]) -> None:
    costs.main([])
    assert "a million commits, agent turns" in capsys.readouterr().out
    costs.main(["--sessions", "1000", "--kind", "chat", "--price", "r2"])
    assert "Cloudflare R2" in capsys.readouterr().out
    costs.main(["--json", "--sessions", "1000"])
    found = json.loads(capsys.readouterr().out)
    assert found["use"] == asdict(Use(sessions=1000))
    assert found["month"]["all"] == pytest.approx(month(Use(sessions=1000), PRICES["s3"])["all"], abs=0.01)
