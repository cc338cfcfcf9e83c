"""OpenTelemetry: one trace a request, one span a call, in the words of the conventions for generative AI.

Spans are written when a request is over, from the times that its calls have kept, so that no request waits for them.
They have no texts. Names of attributes: semantic conventions for GenAI spans,
opentelemetry.io/docs/specs/semconv/gen-ai.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

import cuecard
from cuecard.domain.call import Call
from cuecard.domain.outcome import Outcome
from cuecard.gateway.wire.chat import RequestInfo
from cuecard.gateway.wire.usage import usage

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
NS = 1_000_000_000


class Traces:
    """Writes spans of requests that are over."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("cuecard.gateway", cuecard.__version__)
        self._headers = TraceContextTextMapPropagator()

    def answered(self, info: RequestInfo, outcome: Outcome, pair: str | None = None) -> None:
        """A request has ended in an outcome just now."""
        began = time.time_ns() - round(outcome.total_s * NS)
        tokens = usage(outcome)
        span = self._request(info, began)
        _set(
            span,
            {
                "cuecard.pair": pair,
                "cuecard.strategy": outcome.strategy,
                "cuecard.schedule": outcome.schedule,
                "cuecard.route": outcome.route,
                "cuecard.reason": outcome.reason,
                "cuecard.handoff_s": outcome.handoff_s,
                "gen_ai.usage.input_tokens": tokens["prompt_tokens"],
                "gen_ai.usage.output_tokens": tokens["completion_tokens"],
            },
        )
        within = trace.set_span_in_context(span)
        for call in outcome.calls:
            self._call(call, within, began)
        span.end(began + round(outcome.total_s * NS))

    def failed(self, info: RequestInfo, error: Exception, after_s: float, pair: str | None = None) -> None:
        """A request has ended in an error just now."""
        span = self._request(info, time.time_ns() - round(after_s * NS))
        _set(span, {"cuecard.pair": pair})
        _fail(span, type(error).__name__, str(error))
        span.end()

    def close(self) -> None:
        """Everything is sent, or given up, when this returns."""
        self._provider.shutdown()

    def _request(self, info: RequestInfo, began: int) -> Span:
        parent = self._headers.extract(info.trace)
        span = self._tracer.start_span(f"invoke_workflow {info.model}", parent, SpanKind.SERVER, start_time=began)
        _set(
            span,
            {
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": info.model,
                "gen_ai.request.model": info.model,
                "gen_ai.request.stream": info.stream,
                "gen_ai.response.id": info.id,
            },
        )
        return span

    def _call(self, call: Call, within: Any, began: int) -> None:
        start, first = began + round(call.start_s * NS), call.first_token_s
        span = self._tracer.start_span(f"chat {call.model}", within, SpanKind.CLIENT, start_time=start)
        _set(
            span,
            {
                "gen_ai.operation.name": "chat",
                "gen_ai.request.model": call.model,
                "gen_ai.usage.input_tokens": call.usage.prompt_tokens,
                "gen_ai.usage.cache_read.input_tokens": call.usage.cached_tokens,
                "gen_ai.usage.output_tokens": call.usage.completion_tokens,
                "gen_ai.usage.reasoning.output_tokens": call.usage.reasoning_tokens,
                "gen_ai.response.finish_reasons": [call.finish_reason],
                "gen_ai.response.time_to_first_chunk": None if first is None else first - call.start_s,
                "cuecard.role": call.role,
                "cuecard.mode": call.mode,
            },
        )
        if call.error is not None:
            _fail(span, call.finish_reason, call.error)
        span.end(began + round(call.end_s * NS))


def _set(span: Span, found: Mapping[str, Any]) -> None:
    span.set_attributes({name: value for name, value in found.items() if value is not None})


def _fail(span: Span, kind: str, message: str) -> None:
    span.set_attribute("error.type", kind)
    span.set_status(Status(StatusCode.ERROR, message))


def wanted() -> bool:
    """Whether the environment names a collector, as OpenTelemetry's specification has it."""
    off = os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    return not off and any(os.environ.get(name) for name in ENDPOINTS)


def to_collector() -> Traces:
    """Traces sent by OTLP over HTTP to the collector that the environment names."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    provider = TracerProvider(
        resource=Resource.create({"service.name": os.environ.get("OTEL_SERVICE_NAME", "cuecard")})
    )
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
