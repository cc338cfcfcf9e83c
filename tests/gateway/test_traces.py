"""OpenTelemetry: one trace per request, one span per call."""

from __future__ import annotations

import sys

import pytest
from gateways import COUNT, disagreeing, gateway
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import StatusCode

from cuecard.domain.errors import MissingExtra, ModelRefused, NoAnswer
from cuecard.gateway.records import Traces, traces_from_environment
from cuecard.models.base import Model
from cuecard.models.replay import Says, ScriptedModel

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}


@pytest.fixture
def written() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def traces(written: InMemorySpanExporter) -> Traces:
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(written))
    return Traces(provider)


def request_and_calls(written: InMemorySpanExporter) -> tuple[ReadableSpan, list[ReadableSpan]]:
    *calls, request = sorted(written.get_finished_spans(), key=lambda span: span.name.startswith("invoke"))
    return request, calls


async def test_a_request_is_a_span_and_each_of_its_calls_one_under_it(traces, written):
    async with gateway(disagreeing(), traces=traces) as client:
        answer = await client.chat.completions.create(**ASKED, extra_headers={"traceparent": PARENT})
    request, calls = request_and_calls(written)
    assert f"{request.context.trace_id:032x}" in PARENT
    assert (request.attributes["cuecard.route"], request.attributes["gen_ai.response.id"]) == ("transferred", answer.id)
    assert len(calls) == len(answer.model_extra["cuecard"]["calls"])
    assert {call.parent.span_id for call in calls} == {request.context.span_id}
    for kind in "input", "output":
        total = request.attributes[f"gen_ai.usage.{kind}_tokens"]
        assert total == sum(call.attributes[f"gen_ai.usage.{kind}_tokens"] for call in calls)
    assert all(request.start_time <= call.start_time <= call.end_time <= request.end_time for call in calls)
    assert not any(COUNT in str(span.attributes) for span in (request, *calls))


async def test_a_failed_request_is_a_span_with_its_error(traces, written):
    def broken(name: str) -> Model:
        return ScriptedModel(name, lambda _: Says(error=ModelRefused("out of order")))

    async with gateway({"small": broken("tiny"), "large": broken("huge")}, traces=traces) as client:
        with pytest.raises(Exception, match="no model is left"):
            await client.chat.completions.create(**ASKED)
    request, calls = request_and_calls(written)
    assert (request.status.status_code, request.attributes["error.type"]) == (StatusCode.ERROR, NoAnswer.__name__)
    assert not calls


def test_traces_are_sent_only_to_a_configured_collector(monkeypatch):
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    assert traces_from_environment() is None
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://127.0.0.1:9/v1/traces")
    (sending := traces_from_environment()).close()
    assert isinstance(sending, Traces)
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert traces_from_environment() is None


def test_a_configured_collector_needs_the_packages_of_opentelemetry(monkeypatch):
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(MissingExtra, match="otel"):
        traces_from_environment()
