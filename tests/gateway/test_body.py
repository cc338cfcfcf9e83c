"""Request bodies: invalid numbers, other encodings, deep nesting."""

from __future__ import annotations

import gzip
import json
import tracemalloc

import httpx2
import openai
import pytest
from gateways import COUNT, agreeing, gateway

from cuecard.models.openai import OpenAIModel
from cuecard.models.pool import Breaker, Pool, Replica
from cuecard.testing.mock_server import MockServer
from cuecard.testing.replies import Completion

ASKED = {"model": "cuecard", "messages": [{"role": "user", "content": COUNT}]}
BODY = json.dumps(ASKED).encode()
HUGE = "1" + "0" * 400


def plain_client(client: openai.AsyncOpenAI) -> httpx2.AsyncClient:
    return httpx2.AsyncClient(base_url=str(client.base_url))


def having(sent: str) -> bytes:
    return (json.dumps(ASKED)[:-1] + f", {sent}}}").encode()


PLACES = (
    *('"temperature": {}', '"top_p": {}', '"seed": {}', '"max_tokens": {}', '"max_completion_tokens": {}'),
    *('"cuecard": {{"budget": {}}}', '"cuecard": {{"max_latency_ms": {}}}', '"cuecard": {{"card_keep": {}}}'),
    *('"reasoning": {{"max_tokens": {}}}', '"n": {}', '"frequency_penalty": {}', '"user": [[{}]]'),
)
ODD = (
    *('"temperature": true', '"top_p": false', '"seed": true', '"max_tokens": true', '"n": true', '"logprobs": 0'),
    *('"presence_penalty": false', '"cuecard": {"budget": true}', '"cuecard": {"max_latency_ms": true}'),
    *('"reasoning": {"max_tokens": true}', '"temperature": "1"', '"temperature": 1e300', '"max_tokens": 1e300'),
    *('"cuecard": {"max_latency_ms": -1}', '"cuecard": {"max_latency_ms": 0}', '"seed": 1.5'),
)


@pytest.mark.parametrize("number", [HUGE, f"-{HUGE}", HUGE * 20, "1e400", "-1e400", "NaN", "Infinity", "-Infinity"])
async def test_numbers_without_an_end_are_refused_wherever_they_stand(number):
    async with gateway() as client, plain_client(client) as plain:
        for place in PLACES:
            answer = await plain.post("chat/completions", content=having(place.format(number)))
            message = answer.json()["error"]["message"]
            assert answer.status_code == 400
            assert "finite number" in message or "too large" in message


async def test_numbers_are_numbers_and_within_bounds():
    async with gateway() as client, plain_client(client) as plain:
        answers = [await plain.post("chat/completions", content=having(odd)) for odd in ODD]
    assert [answer.status_code for answer in answers] == [400] * len(ODD)


async def test_no_such_number_is_passed_on_either():
    async with MockServer([Completion("x")]) as url:
        pool = Pool([Replica(OpenAIModel(url, "mock"), Breaker(lambda: 0.0))])
        models = {"small": agreeing()["small"], "large": pool}
        async with gateway(models, pass_to="large") as client, plain_client(client) as plain:
            tools = '"tools": [{"type": "function", "function": {"name": "f"}}]'
            for number in (HUGE, "NaN"):
                answer = await plain.post("chat/completions", content=having(f'{tools}, "min_p": {number}'))
                assert answer.status_code == 400


@pytest.mark.parametrize(
    "path", ["chat/completions", "completions", "responses", "messages", "messages/count_tokens", "decision"]
)
@pytest.mark.parametrize(
    ("content", "headers", "status", "words"),
    [
        (gzip.compress(BODY, mtime=0), {"content-encoding": "gzip"}, 415, "compressed"),
        (gzip.compress(BODY, mtime=0), {}, 415, "compressed (gzip)"),
        (b"\x28\xb5\x2f\xfd rest", {}, 415, "compressed (zstd)"),
        (BODY, {"content-encoding": "br"}, 415, "compressed"),
        (BODY.decode().encode("utf-16"), {}, 415, "UTF-16"),
        (b'{"model": "caf\xe9"}', {}, 400, "no text in UTF-8"),
        (b"", {}, 400, "the body is empty"),
        (b" \n", {}, 400, "the body is empty"),
        (b"model=cuecard", {}, 400, "not JSON"),
        (b'{"a":' * 500 + b"1" + b"}" * 500, {}, 400, "nested more than 100 deep"),
        (b"[" * 100_000, {}, 400, "not JSON"),
    ],
)
async def test_a_body_in_another_form_is_refused_in_plain_words(path, content, headers, status, words):
    async with gateway() as client, plain_client(client) as plain:
        answer = await plain.post(path, content=content, headers=headers)
    message = answer.json()["error"]["message"]
    assert (answer.status_code, words in message) == (status, True)
    assert not any(jargon in message for jargon in ("codec", "0x8b", "0xe9"))
    assert ("accept-encoding" in answer.headers) is (status == 415)


@pytest.mark.parametrize(
    ("content", "headers"), [(b"\xef\xbb\xbf" + BODY, {}), (BODY, {"content-encoding": "identity"})]
)
async def test_a_byte_order_mark_and_no_coding_at_all_are_read(content, headers):
    async with gateway() as client, plain_client(client) as plain:
        answer = await plain.post("chat/completions", content=content, headers=headers)
    assert answer.json()["choices"][0]["message"]["content"] == "3"


@pytest.mark.parametrize(
    "more",
    [{"model": "x" * 900_000}, {"x" * 900_000: 1}, {"cuecard": {"strategy": "x" * 900_000}},
     {"cuecard": {"x" * 900_000: 1}}, {"cuecard": {"kind": "x" * 900_000}}, {"cuecard": {"accept": "x" * 900_000}},
     {"reasoning_effort": "x" * 900_000}, {"messages": [{"role": "x" * 900_000}]}],
    ids=lambda more: next(iter(more))[:20],
)  # fmt: skip
async def test_a_name_without_an_end_is_refused_in_few_words_and_little_memory(more):
    async with gateway() as client, plain_client(client) as plain:
        await plain.post("chat/completions", json=ASKED)
        tracemalloc.start()
        answer = await plain.post("chat/completions", json=ASKED | more)
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert answer.status_code in (400, 404)
    assert len(answer.content) < 2000
    assert most < 16 * 2**20


@pytest.mark.parametrize("value", [b"{},", b"[],", b"0,"], ids=["objects", "lists", "numbers"])
async def test_a_body_of_very_many_small_values_is_refused(value):
    body = b'{"metadata": [' + value * 1_000_001 + b"0], " + BODY[1:]
    async with gateway(most_mib=128) as client, plain_client(client) as plain:
        answer = await plain.post("chat/completions", content=body)
    assert (answer.status_code, "more than 1000000 values" in answer.json()["error"]["message"]) == (400, True)


async def test_what_is_null_is_as_if_it_were_not_there():
    nothing = dict.fromkeys(("temperature", "seed", "reasoning_effort", "tools", "cuecard", "stop", "a_vendors_own"))
    async with gateway() as client, plain_client(client) as plain:
        answer = await plain.post("chat/completions", json=ASKED | nothing | {"reasoning": {"effort": "low"}})
    assert answer.json()["cuecard"]["limits"]["reasoning_tokens"] == 512
