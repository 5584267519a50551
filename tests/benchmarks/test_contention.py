"""What many writers of one head were told is stored is stored, once. Counts are gated; the rates are figures."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from snapshots.benchmarks.contention import Outcome, Written, bare, ours
from storage.backends import open_store
from tests.benchmarks.contention import VARIANTS, main
from tests.servers import new_bucket_url

WRITERS, SECONDS = 4, 1.0


@pytest.fixture(params=["file", "ministack"])
def urls(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        return (f"file:{tmp_path / str(number)}" for number in itertools.count())
    endpoint: str = request.getfixturevalue("ministack_endpoint")
    return (new_bucket_url(endpoint) for _ in itertools.count())


@pytest.mark.parametrize("variant", VARIANTS)
def test_every_acknowledged_commit_is_in_the_history_once(urls: Iterator[str], variant: str) -> None:
    outcome, kept = ours(partial(open_store, next(urls)), VARIANTS[variant], WRITERS, SECONDS)
    assert len(outcome.written) == WRITERS
    assert len(set(outcome.acknowledged)) == len(outcome.acknowledged) >= WRITERS
    assert (kept.in_history, kept.unacknowledged) == (len(outcome.acknowledged), 0)
    assert outcome.requests["put"] - outcome.requests["put refused"] >= len(outcome.acknowledged)


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_bare_loop_loses_no_count(urls: Iterator[str], variant: str) -> None:
    outcome = bare(partial(open_store, next(urls)), VARIANTS[variant], WRITERS, SECONDS, size_bytes=2048)
    assert outcome.requests["put"] - outcome.requests["put refused"] == len(outcome.acknowledged) >= WRITERS
    assert outcome.requests["get"] == sum(one.attempts for one in outcome.written)


def test_rounds_add_up() -> None:
    one = Outcome((Written(("a",), 2, 0, 1.0),), Counter[str]({"put": 3}))
    both = one + Outcome((Written(("b", "c"), 2, 1, 2.0),), Counter[str]({"put": 2, "get": 1}))
    assert both.acknowledged == ["a", "b", "c"]
    assert (both.seconds, both.requests) == (2.0, Counter({"put": 5, "get": 1}))


def test_the_figures_are_printed_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    main(["--writers", "2", "--seconds", "0.4", "--servers", "file", "--variants", "threads"])
    (figures,) = json.loads(capsys.readouterr().out)
    assert (figures["server"], figures["variant"], figures["writers"]) == ("file", "threads", 2)
    assert figures["acknowledged"] == figures["in_history"] > 0
    assert figures["ratio"] == round(figures["ours_per_second"] / figures["bare_per_second"], 3)
    assert 1 <= figures["requests_per_success"] <= 1.5, "one after the other, threads of a process know the head"
