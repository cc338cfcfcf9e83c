"""Records of requests that have ended: the journal, the traces, and the accounting, which writes all of them."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import logging
import os
import secrets
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from io import TextIOWrapper
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cuecard
from cuecard.domain.call import Call
from cuecard.domain.errors import BadInput, required
from cuecard.domain.outcome import Outcome, call_as_object
from cuecard.domain.question import Image, Question
from cuecard.gateway.admission.limits import Amount, Lease
from cuecard.gateway.metrics import Audit, GatewayMetrics
from cuecard.gateway.pairs import Service
from cuecard.gateway.spending import charge
from cuecard.gateway.tables import costs
from cuecard.gateway.wire.chat import usage
from cuecard.gateway.wire.request import ParsedRequest, RequestEnd, RequestInfo, Unanswered

if TYPE_CHECKING:  # OpenTelemetry is optional
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

log = logging.getLogger("cuecard.gateway")
WRITTEN_AT_ONCE = 2**20
"""Bytes: a longer line is written in pieces."""
MOST_WAIT_S = 1.0
"""The longest that an answer waits until its line is written."""


def pictures(path: Path) -> Path:
    """The folder of images beside a journal that keeps content."""
    return path.with_name(f"{path.name}.images")


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read."""
    return os.open(path, flags, 0o600)


class LineFile(RotatingFileHandler):
    """A rotating file of lines. A line that cannot be written is dropped, with a warning that shows none of it."""

    def __init__(self, path: Path, most_bytes: int, keep: int) -> None:
        self._is_failing = False
        super().__init__(path, maxBytes=most_bytes, backupCount=keep, encoding="utf-8")

    def append(self, line: str) -> None:
        """Write a line."""
        self.handle(logging.LogRecord("cuecard.journal", logging.INFO, "", 0, line, None, None))
        if self._is_failing and self.stream is not None:
            log.warning("the journal is written again")
            self._is_failing = False

    def _open(self) -> TextIOWrapper:
        """Open the file, and end a last line that an earlier process left incomplete."""
        with open(self.baseFilename, "ab+", opener=private) as file:
            if os.path.isfile(self.baseFilename):
                os.chmod(self.baseFilename, 0o600)  # it may exist already
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if file.read(1) != b"\n":
                    file.write(b"\n")
        # a lone surrogate is written as JSON's own escape; a line is written at once, so that a kill does not cut it
        odd = "backslashreplace"
        return open(self.baseFilename, "a", WRITTEN_AT_ONCE, "utf-8", odd, "\n", opener=private)

    def handleError(self, record: logging.LogRecord) -> None:
        """Drop the rest of the line, so that the next one begins on a line of its own."""
        error, stream = sys.exception(), self.stream
        self.stream = None
        with suppress(OSError):
            if stream is not None:
                stream.close()
        if not self._is_failing:
            log.warning("the journal cannot be written, and requests leave no line: %s", error)
        self._is_failing = True


async def written(line: Future[None] | None) -> None:
    """Wait until a line is written, but at most MOST_WAIT_S seconds."""
    if line is not None:
        with suppress(TimeoutError):
            async with asyncio.timeout(MOST_WAIT_S):
                await asyncio.shield(asyncio.wrap_future(line))


class Journal:
    """Appends requests that have ended, one JSON line each, in a thread apart from the event loop.

    Without `content`, texts are kept as keyed hashes, and the key is lost with the process: equal texts have equal
    hashes within one run, and no text can be guessed.
    """

    def __init__(self, path: Path, *, content: bool = False, most_mib: float = 64, keep: int = 3) -> None:
        """Raises BadInput when the file cannot be written."""
        self._content, self._key = content, secrets.token_bytes(32)
        try:
            self._lines = LineFile(path, int(most_mib * 2**20), keep)
        except OSError as error:
            raise BadInput(f"cannot write the journal {path}: {error.strerror}", "give another path") from error
        self._pictures, self._kept = pictures(path), set[str]()
        self._writers = ThreadPoolExecutor(1, "journal")

    def write(self, info: RequestInfo, ended: Outcome | Unanswered, pair: str | None = None) -> Future[None] | None:
        """Write a request that has ended. No text is kept of a request that was passed on.

        The result is done when the line is written; None: the journal is closed.
        """
        question = info.question if isinstance(info, ParsedRequest) else None
        if self._content and question is not None:
            self._keep(question)
        calls = [call_as_object(call) for call in ended.calls]
        for call in calls:
            call["reasoning"], call["answer"] = self._text(call["reasoning"]), self._text(call["answer"])
        line = {
            "at": time.time(),
            "content": self._content,
            "id": info.id,
            "model": info.model,
            "pair": pair,
            "strategy": ended.strategy,
            "question": None if question is None else self._question(question),
            **self._end(ended),
            "usage": usage(ended),
            "charged_tokens": charge(ended.calls, info.prompt_tokens),
            "calls": calls,
        }
        with suppress(RuntimeError):  # closed: the gateway stops, and has cancelled this request
            return self._writers.submit(self._lines.append, json.dumps(line, ensure_ascii=False))
        return None

    def close(self) -> None:
        """Write all pending lines and close the file."""
        self._writers.shutdown()
        self._lines.close()

    def _end(self, ended: Outcome | Unanswered) -> dict[str, Any]:
        if isinstance(ended, Unanswered):
            error = None if ended.error is None else type(ended.error).__name__
            return {"end": ended.end, "route": None, "error": error, "latency": {"total_s": ended.total_s}}
        return {
            "end": RequestEnd.ANSWERED,
            "schedule": ended.schedule,
            "route": ended.route,
            "reason": ended.reason,
            "confidence": ended.confidence,
            "answer": self._text(ended.answer),
            "latency": {"total_s": ended.total_s, "handoff_s": ended.handoff_s, "kind": ended.latency_kind},
        }

    def _question(self, question: Question) -> dict[str, Any]:
        return {
            "kind": question.kind,
            "text": self._text(question.text),
            "options": [self._text(option) for option in question.options],
            "system": self._text(question.system),
            "schema": self._text(question.schema),
            "calling": question.calling,
            "history": [[turn.role, self._text(turn.text), self._images(turn.images)] for turn in question.history],
            "images": self._images(question.images),
        }

    def _images(self, images: Sequence[Image]) -> list[str | None]:
        return [self._text(image.digest) for image in images]

    def _keep(self, question: Question) -> None:
        """Write images that are not kept yet into the folder, in the writer's thread."""
        shown = [question.images, *(turn.images for turn in question.history)]
        for image in {image.digest: image for images in shown for image in images}.values():
            if image.digest not in self._kept:
                self._kept.add(image.digest)
                with suppress(RuntimeError):  # as for lines
                    self._writers.submit(self._write_image, image)

    def _write_image(self, image: Image) -> None:
        file = self._pictures / image.digest
        try:
            self._pictures.mkdir(mode=0o700, exist_ok=True)
            with open(part := file.with_suffix(".part"), "wb", opener=private) as opened:
                opened.write(image.data)
            part.replace(file)
        except OSError as error:  # as for lines: the request is answered all the same
            self._kept.discard(image.digest)
            log.warning("cannot keep an image beside the journal: %s", error.strerror)

    def _text(self, text: str | None) -> str | None:
        if text is None or self._content:
            return text
        return hmac.new(self._key, text.encode(), hashlib.sha256).hexdigest()[:32]


# --- traces -----------------------------------------------------------------------------------------------------------

ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
NS = 1_000_000_000


class Traces:
    """OpenTelemetry's spans of requests that have ended: one trace per request, one span per call, without texts.

    They are written from the recorded times of the calls, so that no request waits for them. Names of attributes:
    semantic conventions for GenAI spans, opentelemetry.io/docs/specs/semconv/gen-ai.
    """

    def __init__(self, provider: TracerProvider) -> None:
        self._api, self._provider = _optional("trace"), provider
        self._tracer = provider.get_tracer("cuecard.gateway", cuecard.__version__)
        self._headers = _optional("trace.propagation.tracecontext").TraceContextTextMapPropagator()

    def ended(self, info: RequestInfo, ended: Outcome | Unanswered, pair: str) -> None:
        """Write the spans of a request that has just ended; without an outcome, only failed requests have a span."""
        if isinstance(ended, Unanswered) and ended.error is None:
            return
        began, parent = time.time_ns() - round(ended.total_s * NS), self._headers.extract(info.trace)
        server = self._api.SpanKind.SERVER
        span = self._tracer.start_span(f"invoke_workflow {info.model}", parent, server, start_time=began)
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
            self._fail(span, type(ended.error).__name__, str(ended.error))
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
        within = self._api.set_span_in_context(span)
        for call in ended.calls:
            self._call(call, within, began)
        span.end(began + round(ended.total_s * NS))

    def close(self) -> None:
        """Send the remaining spans, or give up; nothing is pending when this returns."""
        self._provider.shutdown()

    def _call(self, call: Call, within: Any, began: int) -> None:
        start, first = began + round(call.start_s * NS), call.first_token_s
        span = self._tracer.start_span(f"chat {call.model}", within, self._api.SpanKind.CLIENT, start_time=start)
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
            self._fail(span, call.finish_reason, call.error)
        span.end(began + round(call.end_s * NS))

    def _fail(self, span: Span, kind: str, message: str) -> None:
        span.set_attribute("error.type", kind)
        span.set_status(self._api.Status(self._api.StatusCode.ERROR, message))


def _optional(module: str) -> Any:
    """A module of OpenTelemetry. Raises MissingExtra."""
    return required(f"opentelemetry.{module}", "a trace", "pip install '.[otel]' in a checkout")


def _set(span: Span, found: Mapping[str, Any]) -> None:
    span.set_attributes({name: value for name, value in found.items() if value is not None})


def traces_from_environment() -> Traces | None:
    """Traces sent by OTLP over HTTP to the collector in OpenTelemetry's environment variables; None without one.

    Raises MissingExtra.
    """
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(map(os.environ.get, ENDPOINTS)):
        return None
    exporter = _optional("exporter.otlp.proto.http.trace_exporter").OTLPSpanExporter()
    name = {"service.name": os.environ.get("OTEL_SERVICE_NAME", "cuecard")}
    resource = _optional("sdk.resources").Resource.create(name)
    sdk, export = _optional("sdk.trace"), _optional("sdk.trace.export")
    provider = sdk.TracerProvider(resource=resource)
    provider.add_span_processor(export.BatchSpanProcessor(exporter))
    return Traces(provider)


# --- accounting -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Accounting:
    """Charges and records requests however they end: answered, decided, left by the client, or failed."""

    metrics: GatewayMetrics
    audit: Audit
    journal: Journal | None
    traces: Traces | None

    def ended(
        self,
        pair: Service,
        info: RequestInfo,
        lease: Lease,
        ended: Outcome | Unanswered,
        first_shown_s: float | None = None,
    ) -> Future[None] | None:
        """Record a pair's request that has ended, and charge its calls.

        `first_shown_s`: seconds until the first piece of text was sent to the client. The result is done when the
        journal has its line; None: there is no journal.
        """
        if isinstance(ended, Outcome):
            self.metrics.answered(info.id, info.model, ended, first_shown_s, pair.name)
        self.metrics.spent(ended.calls, pair.name, pair.prices)
        cost = sum(costs(ended.calls, pair.prices).values())
        lease.settle(Amount(charge(ended.calls, info.prompt_tokens), cost))
        if isinstance(info, ParsedRequest) and isinstance(ended, Outcome) and ended.stopped_by is None:
            self.audit.consider(info.question, ended, pair)  # a cut answer cannot be compared
        if self.traces is not None:
            self.traces.ended(info, ended, pair.name)
        return None if self.journal is None else self.journal.write(info, ended, pair.name)

    def refused(self, error: Exception) -> None:
        """Record a request that was refused before it began, without its content."""
        if self.journal is not None:
            self.journal.write(RequestInfo(model=""), Unanswered(RequestEnd.REFUSED, "", (), 0.0, error))
