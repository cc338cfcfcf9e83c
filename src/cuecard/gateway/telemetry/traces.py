"""OpenTelemetry: one trace per request, one span per call, named by the conventions for generative AI.

Spans are written when a request has ended, from the recorded times of its calls, so that no request waits for them.
They contain no texts. Names of attributes: semantic conventions for GenAI spans,
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
from cuecard.gateway.wire.request import RequestInfo
from cuecard.gateway.wire.values import Unanswered, usage

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
NS = 1_000_000_000


class Traces:
    """Writes the spans of requests that have ended."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer("cuecard.gateway", cuecard.__version__)
        self._headers = TraceContextTextMapPropagator()

    def ended(self, info: RequestInfo, ended: Outcome | Unanswered, pair: str) -> None:
        """Write the spans of a request that has just ended; without an outcome, only failed requests have a span."""
        if isinstance(ended, Unanswered) and ended.error is None:
            return
        began, parent = time.time_ns() - round(ended.total_s * NS), self._headers.extract(info.trace)
        span = self._tracer.start_span(f"invoke_workflow {info.model}", parent, SpanKind.SERVER, start_time=began)
        _set(
            span,
            {
                "gen_ai.operation.name": "invoke_workflow",
                "gen_ai.workflow.name": info.model,
                "gen_ai.request.model": info.model,
                "gen_ai.request.stream": info.stream,
                "gen_ai.response.id": info.id,
                "cuecard.pair": pair,
            },
        )
        if isinstance(ended, Unanswered):
            _fail(span, type(ended.error).__name__, str(ended.error))
            span.end()
            return
        tokens = usage(ended)
        _set(
            span,
            {
                "cuecard.strategy": ended.strategy,
                "cuecard.schedule": ended.schedule,
                "cuecard.route": ended.route,
                "cuecard.reason": ended.reason,
                "cuecard.handoff_s": ended.handoff_s,
                "gen_ai.usage.input_tokens": tokens["prompt_tokens"],
                "gen_ai.usage.output_tokens": tokens["completion_tokens"],
            },
        )
        within = trace.set_span_in_context(span)
        for call in ended.calls:
            self._call(call, within, began)
        span.end(began + round(ended.total_s * NS))

    def close(self) -> None:
        """Send the remaining spans, or give up; nothing is pending when this returns."""
        self._provider.shutdown()

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


def from_environment() -> Traces | None:
    """Traces sent by OTLP over HTTP to the collector in OpenTelemetry's environment variables; None without one."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, ENDPOINTS)):
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "cuecard")}
    provider = TracerProvider(resource=Resource.create(name))
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider)
