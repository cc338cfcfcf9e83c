"""Unusual or invalid responses of servers are read as intended, in bounded memory, or give a typed error."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import time
from contextlib import nullcontext
from email.utils import formatdate
from typing import Any

import pytest
from hearing import LIMITS, hear
from hypothesis import given, settings
from hypothesis import strategies as st
from serving import QUESTION, REASON, SHORT, served

from cuecard.answers.reasoning_parser import ReasoningParser
from cuecard.domain.call import FinishReason, Usage
from cuecard.domain.errors import (
    BrokenStream,
    ContentFiltered,
    ModelBusy,
    ModelError,
    ModelRefused,
    ModelTimeout,
    QuotaExhausted,
    RequestRefused,
)
from cuecard.domain.question import Question
from cuecard.models.base import CallLimits, Limits
from cuecard.models.openai import OpenAIModel
from cuecard.models.openai.call import StreamedReply, scored
from cuecard.models.openai.errors import ErrorMapper, refused_parameter
from cuecard.models.openai.http import StatusError
from cuecard.models.openai.response_body import (
    JsonSanitiser,
    StreamError,
    SurrogateJoiner,
    chunk,
    decoded,
    joined_surrogates,
    objects,
)
from cuecard.models.prompt import PROSE, reason, short
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion, HttpError, RawResponse, Received

Json = dict[str, Any]
WIDE = Limits(answer_tokens=1000, reasoning_tokens=1000, timeout_s=5)
KEY = "sk-proj-0123456789abcdefghijklmnop"
DONE = b"data: [DONE]\n\n"
STOP: Json = {"choices": [{"delta": {}, "finish_reason": "stop"}]}


def sse(data: Json | str, *, after: bytes = b"\n\n") -> bytes:
    return b"data: " + (data if isinstance(data, str) else json.dumps(data)).encode() + after


def says(delta: Json | str, **more: Any) -> bytes:
    return sse({"choices": [{"delta": {"content": delta} if isinstance(delta, str) else delta, **more}]})


def whole(message: Json | str, **more: Any) -> Json:
    message = {"role": "assistant", "content": message} if isinstance(message, str) else message
    return {"object": "chat.completion", "choices": [{"message": message, "finish_reason": "stop"}], **more}


def stream(*parts: bytes, **how: Any) -> RawResponse:
    return RawResponse((*parts, sse(STOP), DONE), **how)


async def answer(reply: RawResponse | HttpError | Completion, **settings: Any) -> str:
    async with served(reply, **settings) as (model, _):
        return (await hear(model, SHORT, WIDE)).answer


async def failure(reply: RawResponse | HttpError | Completion, **settings: Any) -> ModelError:
    async with served(reply, **settings) as (model, _):
        with pytest.raises(ModelError) as caught:
            await hear(model, SHORT, WIDE)
    return caught.value


# Split surrogate pairs


@pytest.mark.parametrize(
    ("pieces", "text"),
    [
        (["hi \ud83d", "\ude00 there"], "hi 😀 there"),
        (["\ud83d", "\ude00"], "😀"),
        (["a\udcaf", "b"], "a\ufffdb"),
        (["a\ud83d"], "a\ufffd"),
        (["\ud83d", "\ud83d", "\ude00"], "\ufffd😀"),
        (["\ude00", "\ud83d"], "\ufffd\ufffd"),
    ],
)
@pytest.mark.parametrize("field", ["content", "reasoning"])
async def test_halves_of_a_character_are_joined_and_a_lone_one_is_replaced(
    pieces: list[str], text: str, field: str
) -> None:
    deltas = [says({field: piece}) for piece in pieces]
    async with served(stream(*deltas, says("."))) as (model, _):
        heard = await hear(model, REASON if field == "reasoning" else SHORT, WIDE)
    assert (heard.reasoning if field == "reasoning" else heard.answer.removesuffix(".")) == text
    assert "".join(map(SurrogateJoiner().feed, [*pieces, "."])) == text + "."


def test_what_is_passed_on_can_be_written_anew() -> None:
    event = {"choices": [{"index": 1, "delta": {"content": "a\ud83d"}, "x": float("inf")}], "id\udc00": "\ud800"}
    mending = JsonSanitiser()
    first, other, second = (
        mending.of(each)
        for each in (
            event,
            {"choices": [{"index": 0, "delta": {"content": "b"}}]},
            {"choices": [{"index": 1, "delta": {"content": "\ude00"}}]},
        )
    )
    assert first == {"choices": [{"index": 1, "delta": {"content": "a"}, "x": None}], "id\ufffd": "\ufffd"}
    assert [each["choices"][0]["delta"]["content"] for each in (other, second)] == ["b", "😀"]
    assert joined_surrogates("\ud83d\ude00\ud83d") == "😀\ufffd"


# Invalid numbers


@pytest.mark.parametrize(
    "value", ["-Infinity", "NaN", "Infinity", "900.0", "1e999", "-1e999", '"-0.1"', "true", "9" * 400]
)
async def test_a_log_probability_that_is_none_is_not_observed(value: str) -> None:
    event = '{"choices": [{"delta": {"content": "A"}, "logprobs": {"content": [{"token": "A", "logprob": LOG}]}}]}'
    event = event.replace("LOG", value)
    async with served(stream(sse(event))) as (model, _):
        heard = await hear(model, SHORT)
    assert (heard.answer, heard.end.answer_logprob) == ("A", None)


async def test_one_token_that_is_not_observed_leaves_the_answer_unobserved() -> None:
    tokens = [{"token": "May ", "logprob": -0.1}, {"token": "June", "logprob": -1e999}]
    async with served(stream(says("May June", logprobs={"content": tokens}))) as (model, _):
        assert (await hear(model, SHORT)).end.answer_logprob is None


@pytest.mark.parametrize(
    "value", ["1" + "0" * 400, "1" + "0" * 5000, "-3", '"3"', "true", "1e999", "NaN", "[3]", "3.5"]
)
async def test_counts_that_are_none_are_not_observed(value: str) -> None:
    fields = ", ".join(f'"{name}": {value}' for name in ("prompt_tokens", "completion_tokens", "reasoning_tokens"))
    counts = f'{{"choices": [], "usage": {{{fields}, "prompt_tokens_details": {{"cached_tokens": {value}}}}}}}'
    async with served(RawResponse((says("A"), sse(STOP), sse(counts), DONE))) as (model, _):
        heard = await hear(model, SHORT)
    assert (heard.answer, heard.end.usage) == ("A", Usage())


@pytest.mark.parametrize(
    "odd",
    [
        '{"choices": {}}',
        '{"choices": [5]}',
        '{"choices": [{"delta": []}]}',
        '{"choices": [{"delta": {"content": 5}}]}',
        '{"choices": [{"logprobs": {"content": [5]}, "delta": null}]}',
        '{"usage": "none"}',
        "[1]",
        "NaN",
        "5",
        "null",
        '{"choices": [{"finish_reason": {}}]}',
        '{"error": null, "choices": []}',
        '{"error": {}, "choices": []}',
    ],
)
async def test_an_odd_event_takes_nothing_from_the_others(odd: str) -> None:
    assert await answer(stream(says("A "), sse(odd), says("B"))) == "A B"


DEEP = "[" * 900 + "]" * 900
DEEPER = '{"a":' * 200_000


@pytest.mark.parametrize("body", [DEEP, DEEPER, f'{{"error": {DEEP}}}', f'{{"choices": [{{"delta": {DEEP}}}]}}'])
@pytest.mark.parametrize("status", [200, 400, 500])
async def test_json_of_any_depth_is_an_error_of_the_server(body: str, status: int) -> None:
    assert isinstance(await failure(RawResponse((body.encode(),), status, "application/json")), ModelError)
    if status == 200:
        assert isinstance(await failure(stream(sse(body))), BrokenStream)


@pytest.mark.parametrize(
    "error",
    [
        {"code": "²"},
        {"loc": 5},
        {"loc": [5, {"a": 1}], "msg": "no"},
        {"message": {"message": ["no", 5]}},
        {"code": 10**400},
        {"code": True, "message": None},
        [1],
        "no",
        5,
        True,
        {"message": "\ud83d"},
        {"code": float("nan")},
        {"type": 5, "code": []},
    ],
)
@pytest.mark.parametrize("status", [200, 400, 404, 429, 500])
async def test_an_error_of_any_form_is_a_typed_error(error: object, status: int) -> None:
    body = json.dumps({"error": error}).encode()
    for reply in (RawResponse((body,), status, "application/json"), stream(b"data: " + body + b"\n\n")):
        raised = await failure(reply)
        str(raised).encode()
        assert raised.http_status in (400, 429, 502)


def test_json_is_decoded_within_bounds() -> None:
    assert decoded(f"[NaN, -Infinity, {'7' * 5000}]") == [None, None, None]
    assert decoded("[" * 100 + "]" * 100)
    with pytest.raises(ValueError, match="deeply"):
        decoded(DEEP)


NAMES = re.findall(
    r"\w+",
    """choices delta message content reasoning reasoning_content reasoning_details thinking text summary
    refusal logprobs token logprob finish_reason usage prompt_tokens completion_tokens prompt_tokens_details
    cached_tokens index error code type object detail msg loc status tool_calls prompt_logprobs decoded_token""",
)
SCALARS = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.just("error") | st.just("\ud83d")
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


@given(VALUES, st.sampled_from(["message", "error"]), st.integers(200, 599))
@settings(max_examples=400, deadline=None)
def test_json_of_any_form_is_read_or_is_a_typed_error(event: object, kind: str, status: int) -> None:
    text, faults, limits = json.dumps(event), ErrorMapper("http://h", secrets=(KEY,)), CallLimits()
    parser = ReasoningParser(reasons=True)
    try:
        for found in objects(text, kind):
            json.dumps(JsonSanitiser().of(found), allow_nan=False, ensure_ascii=False).encode()
            reply = StreamedReply(parser, limits, reasons=True)
            events = [*reply.take(chunk(found)), *reply.end()]
            str(events).encode()
            scored(found.get("prompt_logprobs"), "A")
    except (StreamError, ValueError, ModelError) as error:
        str(faults.translated(error, begun=True)).encode()
    refused = StatusError(status, text)
    refused_parameter(refused, ["logprobs"])
    str(faults.translated(refused, begun=False)).encode()


# Classification of errors


@pytest.mark.parametrize(
    ("status", "error", "kind", "code"),
    [
        (400, {"message": "too long", "code": "context_length_exceeded"}, RequestRefused, "context_length_exceeded"),
        (
            400,
            {"message": "This model's maximum context length is 9 tokens."},
            RequestRefused,
            "context_length_exceeded",
        ),
        (
            400,
            {"message": "x", "type": "exceed_context_size_error", "code": 400},
            RequestRefused,
            "context_length_exceeded",
        ),
        (413, {"message": "prompt is too long"}, RequestRefused, "context_length_exceeded"),
        (400, {"message": "bad image", "code": "invalid_image_format"}, RequestRefused, "invalid_image_format"),
        (400, {"message": "cannot identify image file", "code": 400, "type": "BadRequestError"}, RequestRefused, None),
        (422, {"message": "no"}, RequestRefused, None),
        (400, {"message": "filtered", "code": "content_filter"}, ContentFiltered, "content_filter"),
        (400, {"message": "x", "code": "content_policy_violation"}, ContentFiltered, "content_filter"),
        (400, {"message": "filtered due to Azure's content management policy"}, ContentFiltered, "content_filter"),
        (
            403,
            {"message": "x requires moderation. Your input was flagged", "code": 403},
            ContentFiltered,
            "content_filter",
        ),
        (401, {"message": "Incorrect API key", "code": "invalid_api_key"}, ModelRefused, None),
        (403, {"message": "no access"}, ModelRefused, None),
        (
            400,
            {"message": "API key not valid", "status": "INVALID_ARGUMENT", "type": "invalid_api_key"},
            ModelRefused,
            None,
        ),
        (404, {"message": "no such model", "code": "model_not_found"}, ModelRefused, None),
        (400, {"message": "no such model", "code": "model_not_found"}, ModelRefused, None),
        (
            429,
            {"message": "You exceeded your quota", "code": "insufficient_quota"},
            QuotaExhausted,
            "insufficient_quota",
        ),
        (402, {"message": "Insufficient Balance"}, QuotaExhausted, "insufficient_quota"),
        (429, {"message": "slow down", "code": "rate_limit_exceeded"}, ModelBusy, None),
        (529, {"message": "overloaded", "type": "overloaded_error"}, ModelBusy, None),
        (500, {"message": "invalid state", "type": "server_error"}, ModelError, None),
    ],
)
async def test_an_error_keeps_its_meaning_and_its_words(
    status: int, error: Json, kind: type[ModelError], code: str | None
) -> None:
    raised = await failure(HttpError(status, {"error": error}))
    assert (type(raised), raised.code) == (kind, code)
    assert error["message"] in raised.message
    assert raised.retryable is (kind in (ModelBusy, ModelError))
    if status not in (404, 529, 403, 402):
        in_stream = await failure(stream(sse({"error": {"code": status, **error}})))
        assert type(in_stream) is kind


@pytest.mark.parametrize(
    ("event", "kind"),
    [
        (sse({"error": {"message": "no words", "code": "rate_limit_exceeded"}}), ModelBusy),
        (sse({"error": "no words", "code": 429}), ModelBusy),
        (sse({"object": "error", "message": "no words", "type": "BadRequestError", "code": 400}), RequestRefused),
        (sse({"type": "error", "error": {"type": "overloaded_error", "message": "no words"}}), ModelBusy),
        (sse({"type": "error", "message": "no words"}), ModelError),
        (sse({"detail": "no words"}), ModelError),
        (sse({"detail": [{"loc": ["body", "x"], "msg": "no words"}]}), ModelError),
        (sse({"message": "no words", "code": "timeout"}), ModelTimeout),
        (b'event: error\ndata: {"message": "no words", "status": 503}\n\n', ModelBusy),
        (b"event: error\ndata: no words\n\n", ModelError),
        (b"event: error\ndata:no words\ndata:at all\n\n", ModelError),
        (
            sse({"choices": [{"delta": {}, "error": {"message": "no words", "code": 429}, "finish_reason": "error"}]}),
            ModelBusy,
        ),
    ],
)
@pytest.mark.parametrize("at", [0, 1])
async def test_an_error_in_an_answer_has_its_words_and_its_meaning(
    event: bytes, kind: type[ModelError], at: int
) -> None:
    raised = await failure(RawResponse([says("A")] * at + [event]))
    assert type(raised) is kind
    assert "no words" in raised.message


@pytest.mark.parametrize(
    "body", [{"error": {"message": "no words", "code": 400}}, {"object": "error", "message": "no words", "code": 400}]
)
async def test_an_error_with_status_200_in_place_of_an_answer_is_an_error(body: Json) -> None:
    raised = await failure(HttpError(200, body))
    assert type(raised) is RequestRefused
    assert "no words" in raised.message


async def test_a_content_filter_that_stops_an_answer_says_so() -> None:
    raised = await failure(Completion("A", finish_reason="content_filter"))
    assert (type(raised), raised.http_status, raised.code) == (ContentFiltered, 400, "content_filter")


# Retry-After


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        ({"Retry-After": "7"}, 7.0),
        ({"Retry-After": "0.5"}, 0.5),
        ({"retry-after-ms": "250", "Retry-After": "7"}, 0.25),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:09 GMT", "Date": "Wed, 21 Oct 2015 07:28:00 GMT"}, 9.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT", "Date": "Wed, 21 Oct 2015 07:28:09 GMT"}, 0.0),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0.0),
        ({"Retry-After": "soon"}, None),
        ({"Retry-After": "-1"}, None),
        ({"Retry-After": "²"}, None),
        ({"Retry-After": "Wed, 99 Oct 9999999 07:28:00 GMT"}, None),
        ({"Retry-After": "1" * 400}, None),
        ({}, None),
    ],
)
async def test_retry_after_is_read_in_every_form(headers: dict[str, str], expected: float | None) -> None:
    raised = await failure(HttpError(429, {}, headers))
    assert raised.retry_after_s == (None if expected is None else pytest.approx(expected))


async def test_a_date_without_the_servers_clock_is_by_ours() -> None:
    soon = formatdate(time.time() + 60, usegmt=True)
    waits = (await failure(HttpError(503, {}, {"Retry-After": soon}))).retry_after_s
    assert waits is not None
    assert 50 < waits <= 60


# Bounds


async def test_an_error_body_without_an_end_is_read_to_its_limit() -> None:
    raised = await failure(
        RawResponse((b'{"error": {"message": "no', b"x" * 2**16), 500, "application/json", endless=True)
    )
    assert len(str(raised)) < 500


async def test_an_error_body_that_stays_open_is_not_waited_for() -> None:
    began = time.monotonic()
    raised = await failure(RawResponse((b"no words", b" "), 400, "text/plain", endless=True))
    assert "no words" in raised.message
    assert time.monotonic() - began < 8


@pytest.mark.parametrize("path", ["/models", "/metrics"])
async def test_a_page_without_an_end_is_read_to_its_limit(path: str) -> None:
    server = MockServer(pages={path: RawResponse((b"x" * 2**20,), endless=True)})
    async with served(server=server) as (model, _):
        if path == "/models":
            with pytest.raises(BrokenStream, match="more than 8 MiB"):
                await model.listing()
        else:
            assert await model.aborted() is None


@pytest.mark.parametrize(
    "part",
    [
        says("a "),
        says({"reasoning": "a "}),
        says("a" * 1000),
        says({"content": "a", "reasoning": "b"}),
        says("a ", finish_reason="stop"),
        says("", logprobs={"content": [{"token": "a", "logprob": -1}]}),
    ],
)
@pytest.mark.parametrize("prompt", [SHORT, REASON])
async def test_an_answer_without_an_end_is_hung_up_on(part: bytes, prompt: Any) -> None:
    async with served(RawResponse((part,), endless=True), Completion("A"), prefill=True) as (model, server):
        heard = await hear(model, prompt, LIMITS)
        assert len(heard.answer) + len(heard.reasoning) <= 2 * 64 * (16 + 64)
        await server.received[0].gone.wait()


@pytest.mark.parametrize("prompt", [SHORT, REASON])
async def test_a_piece_of_many_tokens_counts_as_many(prompt: Any) -> None:
    piece = " ".join(f"word{place}" for place in range(800))
    async with served(stream(says(piece)), Completion("A"), prefill=True) as (model, _):
        heard = await hear(model, prompt, LIMITS)
    assert heard.end.finish_reason in (FinishReason.LENGTH, FinishReason.BUDGET)


@pytest.mark.parametrize(
    "reply",
    [
        RawResponse((b"data: ", b"x" * 2**20), endless=True),
        RawResponse((b"data: a\n" * 2**17,), endless=True),
        RawResponse((b"{", b" " * 2**22), endless=True),
        RawResponse((says("a" * 10 * 2**20),)),
    ],
)
async def test_an_event_without_an_end_breaks_the_stream(reply: RawResponse) -> None:
    began = time.process_time()
    assert "MiB" in (await failure(reply)).message
    assert time.process_time() - began < 8


async def test_a_large_chunk_is_cut_to_what_was_asked_for() -> None:
    began = time.process_time()
    async with served(stream(says("word " * 10**6))) as (model, _):
        heard = await hear(model, SHORT, LIMITS)
    assert len(heard.answer) <= 64 * (2 * 16 + 64)
    assert heard.end.finish_reason is FinishReason.LENGTH
    assert time.process_time() - began < 8


# API keys


@pytest.mark.parametrize(
    "words",
    [f"wrong key {KEY}", "x" * 280 + KEY, f"wrong key {KEY[:20]}", f"wrong key …{KEY[-12:]}", f"{KEY}{KEY} \n{KEY}"],
)
@pytest.mark.parametrize("form", ["error", "text", "html", "event", "junk", "moved", "detail"])
async def test_no_part_of_a_key_is_in_an_error(words: str, form: str) -> None:
    replies = {
        "error": HttpError(401, {"error": {"message": words}}),
        "text": RawResponse((words.encode(),), 500, "text/plain"),
        "html": HttpError(500, f"<html><title>{words}</title></html>"),
        "event": stream(sse({"error": {"message": words, "code": words}})),
        "junk": RawResponse((sse(words),), kind=f"text/{KEY}"),
        "moved": HttpError(302, {}, {"Location": f"http://x/?key={words.split()[-1]}"}),
        "detail": HttpError(400, {"detail": [{"loc": [words], "msg": "m"}]}),
    }
    raised = await failure(replies[form], api_key=KEY)
    shown = f"{raised} {raised.hint} {raised.code}"
    assert not any(KEY[at : at + 8] in shown for at in range(len(KEY) - 7)), shown


async def test_no_key_is_in_the_list_of_what_a_server_serves() -> None:
    server = MockServer(models=["one", KEY, "x" * 250 + KEY[:16]])
    async with served(server=server, model="other", api_key=KEY) as (model, _):
        with pytest.raises(ModelRefused, match="does not serve") as caught:
            await hear(model, SHORT)
        listed = str(await model.listing())
    assert caught.value.hint.startswith("it serves: one")
    assert KEY[:8] not in str(caught.value) + listed


def test_only_parts_of_the_key_are_blanked_out() -> None:
    faults = ErrorMapper("http://h", secrets=(KEY, "abc"))
    assert faults.line(f"a {KEY[3:12]} b sk-proj c {KEY} abc") == "a … b sk-proj c … abc"


# Streams


CONTENT = json.dumps({"choices": [{"delta": {"content": "A"}}]})
END = json.dumps(STOP)


@pytest.mark.parametrize(
    "sent",
    [
        f"data: {CONTENT}\r\rdata: {END}\r\rdata: [DONE]\r\r".encode(),
        f"data: {CONTENT}\r\n\r\ndata: {END}\r\n\r\ndata: [DONE]\r\n\r\n".encode(),
        f"\ufeffdata: {CONTENT}\n\ndata: {END}\n\n".encode(),
        b"data: " + json.dumps(json.loads(CONTENT), indent=1).replace("\n", "\ndata:").encode() + b"\n\n" + sse(STOP),
        f": ping\n\nevent: message\nid: 7\nretry: 5\ndata:{CONTENT}\n\n:\n\ndata:{END}\n\n".encode(),
        f"data: {CONTENT}\ndata: {END}\ndata: [DONE]\n".encode(),
        f"data: {CONTENT}\n\ndata: [DONE]\n\n".encode(),
        f"data: {CONTENT}\n\ndata: {END}".encode(),
        f'data: {CONTENT}\n\ndata: {END}\n\ndata: {{"choi'.encode(),
        f'data: {CONTENT}\n\ndata: {END}\n\ndata: {{"error": "late"}}\n\n'.encode(),
    ],
)
@pytest.mark.parametrize("cut", [False, True])
async def test_a_stream_is_read_in_whatever_way_it_is_framed(sent: bytes, cut: bool) -> None:
    assert await answer(RawResponse((sent,), cut=cut)) == "A"


@pytest.mark.parametrize(
    "sent",
    [
        json.dumps(whole("A")).encode(),
        json.dumps(whole("A"), indent=2).encode(),
        b"\xef\xbb\xbf \n" + json.dumps(whole("A")).encode(),
        json.dumps({"choices": [{"message": {"content": "A"}}]}).encode(),
    ],
)
async def test_a_whole_answer_to_a_stream_is_read(sent: bytes) -> None:
    assert await answer(RawResponse((sent,), kind="application/json")) == "A"
    assert type(await failure(RawResponse((sent[:-2],), cut=True))) is BrokenStream


@pytest.mark.parametrize(
    "deltas",
    [
        [{"choices": [{"text": "A"}]}],
        [
            {"choices": [{"delta": {"content": "A"}, "message": {"content": "A"}}]},
            {"choices": [{"delta": {}, "message": {"content": "A"}}]},
        ],
        [{"choices": [{"delta": None, "message": {"content": "A"}}]}],
        [{"choices": []}, {"choices": [{"delta": {"content": [{"type": "text", "text": "A"}]}}]}],
    ],
)
async def test_an_answer_is_read_once_wherever_it_stands(deltas: list[Json]) -> None:
    assert await answer(stream(*map(sse, deltas))) == "A"


async def test_an_error_event_without_words_is_an_error() -> None:
    assert type(await failure(stream(says("A"), b"event: error\ndata:\n\n"))) is ModelError


async def test_names_of_served_models_can_be_shown() -> None:
    server = MockServer(models=["a\ud83d"])
    async with served(server=server, model="m") as (model, _):
        assert [entry["id"] for entry in await model.listing()] == ["a\ufffd"]


async def test_an_invalid_byte_spoils_one_character() -> None:
    sent = says("one two").replace(b"one", b"o\xffe")
    assert await answer(stream(sent)) == "o\ufffde two"


async def test_a_connection_that_stalls_behind_the_finish_reason_gives_its_answer() -> None:
    assert await answer(RawResponse((says("A"), sse(STOP), b": ping\n\n"), endless=True)) == "A"


async def test_a_whole_answer_brings_reasoning_usage_and_probabilities() -> None:
    message = {"content": "A", "reasoning_content": "So May."}
    choice = {"message": message, "finish_reason": "stop", "logprobs": {"content": [{"token": "A", "logprob": -0.5}]}}
    body = {"choices": [choice], "usage": {"prompt_tokens": 9, "completion_tokens": 4}}
    async with served(HttpError(200, body)) as (model, _):
        heard = await hear(model, REASON)
    assert (heard.reasoning, heard.answer, heard.end.answer_logprob) == ("So May.", "A", -0.5)
    assert (heard.end.usage.prompt_tokens, heard.end.usage.completion_tokens) == (9, 4)


@pytest.mark.parametrize("sent", [b"", DONE, sse(STOP)[:20], b"{}", b"[]", b"{", b"<html></html>", b"data: {}\n\n"])
async def test_nothing_is_no_answer(sent: bytes) -> None:
    assert type(await failure(RawResponse((sent or b"\n",)))) is BrokenStream


EVENTS = says("A") + sse(STOP) + DONE
PACKED = gzip.compress(EVENTS, mtime=0)


@pytest.mark.parametrize(
    ("sent", "expected"),
    [
        (b"hello\r\n\r\n", None),
        (b"HTTP/9.9 hi\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\nx: " + b"a" * 100_000 + b"\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\n" + b"x: a\r\n" * 20_000 + b"\r\n", None),
        (b"HTTP/1.1 100 Continue\r\n\r\n" * 100, None),
        (b"HTTP/1.1 200 OK\r\ncontent-length: abc\r\n\r\n" + EVENTS, None),
        (b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", None),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + EVENTS, None),
        (b"HTTP/1.1 204 No Content\r\n\r\n", None),
        (b"HTTP/1.1 999 What\r\n\r\n", None),
        (b"HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\n\r\n" + PACKED, "A"),
        (b"HTTP/1.1 200 OK\r\ncontent-type: text/x; charset=utf-99\r\n\r\n" + EVENTS, "A"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + EVENTS, "A"),
    ],
)
async def test_broken_http_is_a_typed_error_too(sent: bytes, expected: str | None) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(sent)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        model = OpenAIModel(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1", "m")
        with nullcontext() if expected else pytest.raises(ModelError):
            assert (await hear(model, SHORT)).answer == expected
        await model.aclose()


# Reasoning and answers


@pytest.mark.parametrize(
    "deltas",
    [
        ["<mm:think>So May.</mm:think>A"],
        ["<seed:think>So May.</seed:think>A"],
        ["<|channel>thought\nSo May.<channel|>A"],
        ["[THINK]So May.[/THINK]A"],
        [{"content": [{"type": "thinking", "thinking": [{"type": "text", "text": "So May."}]}]}, {"content": "A"}],
        [{"content": [{"type": "thinking", "thinking": "So May."}, {"type": "text", "text": "A"}]}],
        [{"reasoning_details": [{"type": "reasoning.text", "text": "So May."}]}, "A"],
        [{"reasoning_details": [{"type": "reasoning.summary", "summary": "So May."}]}, "A"],
        [{"reasoning_content": "So May."}, "A"],
    ],
)
@pytest.mark.parametrize("model", ["qwen3-vl-8b", "large"])
async def test_reasoning_is_found_in_every_dialect(deltas: list[Any], model: str) -> None:
    async with served(stream(*map(says, deltas)), model=model) as (client, _):
        for prompt in (reason(QUESTION, client.abilities.style), short(QUESTION, client.abilities.style)):
            heard = await hear(client, prompt, WIDE)
            assert (heard.reasoning, heard.answer) == ("So May.", "A")


@pytest.mark.parametrize(
    "refusal", [{"refusal": "I cannot help."}, {"content": [{"type": "refusal", "refusal": "I cannot help."}]}]
)
async def test_a_refusal_is_an_answer(refusal: Json) -> None:
    assert await answer(stream(says(refusal))) == "I cannot help."
    assert await answer(HttpError(200, whole(refusal))) == "I cannot help."


@pytest.mark.parametrize("call", [{"tool_calls": [{"function": {"name": "f"}}]}, {"function_call": {"name": "f"}}])
async def test_nothing_but_a_tool_call_is_an_error_that_says_so(call: Json) -> None:
    raised = await failure(stream(says({"content": None, **call}), says({}, finish_reason="tool_calls")))
    assert (type(raised), raised.retryable) == (BrokenStream, False)
    assert "a tool" in raised.message
    assert await answer(stream(says({"content": "A", **call}))) == "A"


@pytest.mark.parametrize(
    ("deltas", "reasoning"),
    [
        ([{"reasoning": "7*8 is 56"}, "56"], "7*8 is 56"),
        ([{"reasoning": "7*8 is"}, {"reasoning": " 56"}, "5", "6 \n\nAnswer: 56"], "7*8 is 56\n\n56"),
        ([{"reasoning": "7*8 is 56"}, "56 it is.\nThe answer is B."], "7*8 is 56\n\n56 it is.\nThe answer is B."),
    ],
)
async def test_a_line_break_parts_the_reasoning_field_from_the_content(deltas: list[Any], reasoning: str) -> None:
    async with served(stream(*map(says, deltas)), Completion("56"), model="large") as (model, _):
        heard = await hear(model, reason(QUESTION, PROSE), WIDE)
    assert heard.reasoning == reasoning
    assert heard.answer in ("56", "B")


MENTIONS = ["The `<think>` tag opens reasoning.", "Write <thinking>draft</thinking> first.", "It is [THINK]x[/THINK]."]


@pytest.mark.parametrize("text", MENTIONS)
@pytest.mark.parametrize("end", ["", "<|im_end|>", "<|im_end|>\n", "</s>"])
@pytest.mark.parametrize("settings", [{}, {"model": "large"}, {"model": "llava"}, {"prefill": True}])
async def test_an_answer_that_mentions_tags_is_text_each_time(text: str, end: str, settings: Json) -> None:
    pieces = [says(piece) for piece in (text[:6], text[6:9], text[9:], end) if piece]
    async with served(stream(*pieces), **settings) as (model, _):
        prompt = short(QUESTION, model.abilities.style)
        heard = [(one.answer, one.end.finish_reason) for one in [await hear(model, prompt, WIDE) for _ in range(2)]]
    assert heard == [(text, FinishReason.STOP)] * 2


# Sessions


async def test_the_calls_about_one_question_carry_one_session_and_others_another() -> None:
    async with served(Completion("A"), prefill=True, prefix_cache=True, scoring=True) as (model, server):
        await hear(model, SHORT)
        await hear(model, REASON)
        await model.warm(SHORT)
        await model.score(SHORT, "A")
        sessions = [request.headers["x-session-id"] for request in server.received]
        assert len(sessions) >= 4
        assert len(set(sessions)) == 1
        assert "Which" not in sessions[0]
        others = [
            short(Question("Another?"), model.abilities.style),
            short(Question(QUESTION.text), model.abilities.style),  # without the images
            *(short(Question(f"Another?\nIn line {number}."), model.abilities.style) for number in (1, 2)),
        ]
        for other in others:
            await hear(model, other)
        async with model.passed({"messages": [{"role": "user", "content": "a"}]}) as events:
            [event async for event in events]
        assert len({request.headers["x-session-id"] for request in server.received}) == 6
        for request in server.received:
            assert request.headers["x-smg-routing-key"] == request.headers["x-session-id"]


async def test_one_question_has_another_session_at_another_model() -> None:
    seen: list[str] = []

    def note(request: Received) -> Completion:
        seen.append(request.headers["x-session-id"])
        return Completion("A")

    async with MockServer(note, models=["one", "two"]) as url:
        for name in ("one", "two", "one"):
            model = OpenAIModel(url, name)
            await hear(model, SHORT)
            await model.aclose()
    assert seen[0] == seen[2] != seen[1]
