"""OpenTelemetry: a span for every operation, and metrics. Needs the extra `otel`; the only module that imports it.

Rules:
1. A span is named `snapshots.` and the operation: `snapshots.commit`. Its parent is the span that was current when the
   operation began: of the operation that it is part of, or the caller's. While the operation works its span is current,
   also in the threads that work for it, so that spans of an HTTP client are its children.
2. Attributes of our own begin with `snapshots.`: tenant, session_id, revision, requests.VERB, bytes_received,
   bytes_sent, retries, unavailable. A failure has `error.type` and the status ERROR, without a description, which might
   quote content.
3. Metrics tell operations apart, and failures, and no ids: those are without number.
4. A conflict, a fence or an unknown outcome is counted where it arose, not once more in every operation around it.

Metrics, each with `snapshots.operation`:

    snapshots.operation.duration   histogram, s             error.type of a failure
    snapshots.requests             counter, {request}       snapshots.verb
    snapshots.io                   counter, By              snapshots.verb, network.io.direction
    snapshots.retries              counter, {retry}
    snapshots.unavailable          counter, {request}       no usable answer, or asked to slow down
    snapshots.conflicts            counter, {operation}     RevisionConflictError
    snapshots.fences               counter, {operation}     FencedError
    snapshots.unknown_outcomes     counter, {operation}     CommitUnknownError

Source: OpenTelemetry, "Recording errors" (https://opentelemetry.io/docs/specs/semconv/general/recording-errors/):
`error.type` and the status; "Attribute naming" (https://opentelemetry.io/docs/specs/semconv/general/naming/); "Network
attributes" (https://opentelemetry.io/docs/specs/semconv/registry/attributes/network/): `network.io.direction`.

    from snapshots.telemetry.opentelemetry import instrument
    stop = instrument()
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import Token

from opentelemetry import context, metrics, trace
from opentelemetry.context import Context
from opentelemetry.metrics import Counter, MeterProvider
from opentelemetry.trace import Span, Status, StatusCode, TracerProvider

import snapshots
from snapshots.errors import CommitUnknownError, FencedError, RevisionConflictError
from storage.observed import OK, Listener, Operation, listen, stop_listening

NAME = "snapshots"

# In seconds. Up to 10 those of `db.client.operation.duration`, whose operations are as long as ours; collections and
# copies take longer. Source: https://opentelemetry.io/docs/specs/semconv/database/database-metrics/
DURATIONS = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 600.0, 3600.0)


def instrument(
    tracer_provider: TracerProvider | None = None, meter_provider: MeterProvider | None = None
) -> Callable[[], None]:
    """Make spans and metrics of every operation that begins from now on, in all repositories of the process.

    Args:
        tracer_provider: Of the spans; None for the global one.
        meter_provider: Of the metrics; None for the global one.

    Returns:
        What ends it, once.
    """
    listener = Instrumentation(
        trace.get_tracer(NAME, snapshots.__version__, tracer_provider),
        metrics.get_meter(NAME, snapshots.__version__, meter_provider),
    )
    listen(listener)
    return lambda: stop_listening(listener)


class Instrumentation(Listener):
    """Makes spans and metrics.

    Args:
        tracer: Makes the spans.
        meter: Makes the instruments.
    """

    def __init__(self, tracer: trace.Tracer, meter: metrics.Meter) -> None:
        self._tracer = tracer
        self._spans: dict[Operation, Span] = {}
        self._tokens: dict[Operation, Token[Context]] = {}
        self._seconds = meter.create_histogram(
            "snapshots.operation.duration",
            unit="s",
            description="How long operations took",
            explicit_bucket_boundaries_advisory=DURATIONS,
        )
        self._requests = meter.create_counter("snapshots.requests", "{request}", "Requests to the store")
        self._bytes = meter.create_counter("snapshots.io", "By", "Bytes from and to the store")
        self._retries = meter.create_counter("snapshots.retries", "{retry}", "Attempts that were made again")
        self._unavailable = meter.create_counter(
            "snapshots.unavailable", "{request}", "Requests without a usable answer, or told to slow down"
        )
        self._outcomes: Mapping[str, Counter] = {
            RevisionConflictError.__name__: meter.create_counter(
                "snapshots.conflicts", "{operation}", "Operations that somebody else was faster than"
            ),
            FencedError.__name__: meter.create_counter(
                "snapshots.fences", "{operation}", "Operations of owners whose session was taken over"
            ),
            CommitUnknownError.__name__: meter.create_counter(
                "snapshots.unknown_outcomes", "{operation}", "Commits that may or may not have been applied"
            ),
        }

    def begun(self, operation: Operation) -> None:
        """Start the span, below the current one."""
        attributes = {f"snapshots.{name}": value for name, value in operation.attributes.items()}
        self._spans[operation] = self._tracer.start_span(f"snapshots.{operation.name}", attributes=attributes)

    def entered(self, operation: Operation) -> None:
        """Make the span the current one."""
        self._tokens[operation] = context.attach(trace.set_span_in_context(self._spans[operation]))

    def left(self, operation: Operation) -> None:
        """Make the one current that was so before."""
        context.detach(self._tokens.pop(operation))

    def ended(self, operation: Operation) -> None:
        """End the span, and count."""
        span = self._spans.pop(operation)
        for name, value in _facts(operation).items():
            span.set_attribute(f"snapshots.{name}", value)
        if operation.outcome != OK:
            span.set_attribute("error.type", operation.outcome)
            span.set_status(Status(StatusCode.ERROR))
        span.end()
        self._count(operation)

    def _count(self, operation: Operation) -> None:
        common = {"snapshots.operation": operation.name}
        failure = {} if operation.outcome == OK else {"error.type": operation.outcome}
        self._seconds.record(operation.seconds, common | failure)
        self._retries.add(operation.retries, common)
        self._unavailable.add(operation.unavailable, common)
        for verb, traffic in operation.traffic.items():
            of_verb = common | {"snapshots.verb": verb}
            self._requests.add(traffic.requests, of_verb)
            self._bytes.add(traffic.bytes_in, of_verb | {"network.io.direction": "receive"})
            self._bytes.add(traffic.bytes_out, of_verb | {"network.io.direction": "transmit"})
        counter = self._outcomes.get(operation.outcome)
        if counter is not None and operation.is_own_outcome:  # Rule 4.
            counter.add(1, common)


def _facts(operation: Operation) -> dict[str, str | int]:
    """Return what is known at the end."""
    traffic = operation.traffic
    return {
        **operation.attributes,
        **{f"requests.{verb}": one.requests for verb, one in traffic.items()},
        "bytes_received": sum(one.bytes_in for one in traffic.values()),
        "bytes_sent": sum(one.bytes_out for one in traffic.values()),
        "retries": operation.retries,
        "unavailable": operation.unavailable,
    }
