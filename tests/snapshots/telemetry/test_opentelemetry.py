"""OpenTelemetry, on the SDK's own exporters: spans with the right parents, metrics without ids."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from random import Random
from typing import Any

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode, get_current_span

from snapshots import SnapshotRepository
from snapshots.errors import FencedError, RevisionConflictError
from snapshots.telemetry.logs import log_operations
from snapshots.telemetry.opentelemetry import DURATIONS, instrument
from storage.backends.memory import MemoryStore
from storage.testing.faults import FailBefore, FaultPlan, FaultyStore, LoseAnswer
from tests.integration.builders import SESSION, new_session, take_turn

pytestmark = pytest.mark.usefixtures("nobody_listens")


class Telemetry:
    """Tracer and meter of one test, and what they exported."""

    def __init__(self) -> None:
        self.exporter = InMemorySpanExporter()
        self.tracers = TracerProvider(shutdown_on_exit=False)
        self.tracers.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.reader = InMemoryMetricReader()
        self.meters = MeterProvider([self.reader], shutdown_on_exit=False)
        self.stop = instrument(self.tracers, self.meters)

    def close(self) -> None:
        self.stop()
        self.tracers.shutdown()
        self.meters.shutdown()

    @property
    def spans(self) -> list[ReadableSpan]:
        return list(self.exporter.get_finished_spans())

    @property
    def names(self) -> list[str]:
        return [span.name for span in self.spans]

    def parent_of(self, span: ReadableSpan) -> str:
        by_id = {one.context.span_id: one.name for one in self.spans if one.context}
        return "" if span.parent is None else by_id[span.parent.span_id]

    def points(self, name: str) -> list[Any]:
        data = self.reader.get_metrics_data()
        assert data is not None
        metrics = [one for found in data.resource_metrics for scope in found.scope_metrics for one in scope.metrics]
        return [point for metric in metrics if metric.name == name for point in metric.data.data_points]

    def counted(self, name: str, by: str = "snapshots.operation") -> Counter[str]:
        found: Counter[str] = Counter()
        for point in self.points(name):
            found[point.attributes[by]] += point.value
        return +found


@pytest.fixture
def telemetry() -> Iterator[Telemetry]:
    found = Telemetry()
    yield found
    found.close()


@pytest.fixture
def repo(telemetry: Telemetry) -> Iterator[SnapshotRepository]:  # noqa: ARG001  listens already
    with SnapshotRepository(MemoryStore()) as opened:
        yield opened


def add(name: str) -> Any:
    return lambda state: (take_turn(state, name), None)[1]


def test_operations_on_a_server_are_spans_with_parents(telemetry: Telemetry, ministack_url: str) -> None:
    with SnapshotRepository.open(ministack_url) as repo:
        with telemetry.tracers.get_tracer("caller").start_as_current_span("request"):
            repo.commit(new_session(SESSION, "one"))
            repo.update(SESSION, add("two"))
            assert len(list(repo.sessions())) == 1
        repo.load(SESSION)
    spans = [span for span in telemetry.spans if span.name != "snapshots.probe"]  # of a server not seen before
    parents = [(span.name, telemetry.parent_of(span)) for span in spans]
    assert parents == [
        ("snapshots.create", "snapshots.open"),
        ("snapshots.open", ""),
        ("snapshots.commit", "request"),
        ("snapshots.commit", "snapshots.update"),
        ("snapshots.update", "request"),
        ("snapshots.sessions", "request"),
        ("request", ""),
        ("snapshots.load", ""),
    ]
    commit = spans[2]
    attributes = dict(commit.attributes or {})
    sent = attributes.pop("snapshots.bytes_sent")
    assert isinstance(sent, int)
    assert sent > 1000
    assert attributes == {
        "snapshots.tenant": "default",
        "snapshots.session_id": SESSION,
        "snapshots.revision": 1,
        "snapshots.requests.put": 2,
        "snapshots.bytes_received": 0,
        "snapshots.retries": 0,
        "snapshots.unavailable": 0,
    }
    assert (commit.kind, commit.status.status_code) == (SpanKind.INTERNAL, StatusCode.UNSET)


def test_what_a_caller_does_within_an_operation_is_below_its_span(
    telemetry: Telemetry, repo: SnapshotRepository
) -> None:
    tracer = telemetry.tracers.get_tracer("caller")
    repo.commit(new_session(SESSION, "one"))

    def change(state: Any) -> None:
        with tracer.start_as_current_span("model"):
            take_turn(state, "two")
            repo.load(SESSION)

    repo.update(SESSION, change)
    assert not get_current_span().is_recording()
    parents = {span.name: telemetry.parent_of(span) for span in telemetry.spans[3:]}
    assert parents == {
        "snapshots.load": "model",
        "model": "snapshots.update",
        "snapshots.commit": "snapshots.update",
        "snapshots.update": "",
    }


def test_a_span_of_what_is_done_in_the_background_is_below_the_commits(
    telemetry: Telemetry, repo: SnapshotRepository
) -> None:
    state = new_session(SESSION)
    for number in range(12):
        take_turn(state, f"turn{number}")
        repo.commit(state, execution_state=Random(number).randbytes(3000))
    repo.drain()
    uploads = [span for span in telemetry.spans if span.name == "snapshots.upload_ahead"]
    assert uploads
    assert {telemetry.parent_of(span) for span in uploads} == {"snapshots.commit"}


def test_a_failure_is_a_status_and_a_type_without_its_text(telemetry: Telemetry, repo: SnapshotRepository) -> None:
    stale = new_session(SESSION, "one")
    repo.commit(stale)
    repo.update(SESSION, add("two"))
    with pytest.raises(RevisionConflictError):
        repo.commit(take_turn(stale, "secret"))
    span = telemetry.spans[-1]
    assert (span.status.status_code, span.status.description) == (StatusCode.ERROR, None)
    assert span.attributes is not None
    assert span.attributes["error.type"] == "RevisionConflictError"
    assert not span.events
    assert telemetry.counted("snapshots.conflicts") == {"commit": 1}


def test_a_fence_is_counted_where_it_arose(telemetry: Telemetry, repo: SnapshotRepository) -> None:
    repo.commit(new_session(SESSION, "one"))
    writer = repo.acquire(SESSION, "host-a")
    repo.acquire(SESSION, "host-b")
    take_turn(writer.state, "two")
    with pytest.raises(FencedError):
        writer.park()
    assert telemetry.names[-2:] == ["snapshots.commit", "snapshots.park"]
    assert telemetry.counted("snapshots.fences") == {"commit": 1}
    assert telemetry.counted("snapshots.unknown_outcomes") == {}


def test_requests_bytes_retries_and_answers_that_did_not_come_are_counted(telemetry: Telemetry) -> None:
    plan = FaultPlan().on("put", "heads/", nth=2, fault=FailBefore()).on("put", "heads/", nth=3, fault=LoseAnswer())
    store = FaultyStore(MemoryStore(), plan)
    with SnapshotRepository(store) as repo:
        repo.commit(new_session(SESSION, "one"))
        repo.load(SESSION)
        used = repo.metrics.snapshot()
    requests = telemetry.counted("snapshots.requests", "snapshots.verb")
    assert requests == {verb: used[verb].requests for verb in ("get", "put")}
    directions = telemetry.counted("snapshots.io", "network.io.direction")
    assert directions == {"receive": used.total.bytes_in, "transmit": used.total.bytes_out}
    assert telemetry.counted("snapshots.unavailable") == {"commit": 2}
    assert telemetry.counted("snapshots.retries") == {"commit": 1}


def test_durations_tell_operations_and_failures_apart_and_no_ids(
    telemetry: Telemetry, repo: SnapshotRepository
) -> None:
    repo.commit(new_session(SESSION, "one"))
    with pytest.raises(RevisionConflictError):
        repo.commit(new_session(SESSION, "one"))
    points = telemetry.points("snapshots.operation.duration")
    assert {tuple(sorted(point.attributes.items())): point.count for point in points} == {
        (("snapshots.operation", "create"),): 1,
        (("snapshots.operation", "open"),): 1,
        (("snapshots.operation", "commit"),): 1,
        (("error.type", "RevisionConflictError"), ("snapshots.operation", "commit")): 1,
    }
    assert all(point.explicit_bounds == DURATIONS for point in points)


def test_logs_and_spans_at_the_same_time(
    telemetry: Telemetry, repo: SnapshotRepository, caplog: pytest.LogCaptureFixture
) -> None:
    stop = log_operations()
    with caplog.at_level(logging.INFO, "snapshots.operations"):
        repo.commit(new_session(SESSION, "one"))
    stop()
    assert len(caplog.records) == 1
    assert telemetry.names[-1] == "snapshots.commit"
