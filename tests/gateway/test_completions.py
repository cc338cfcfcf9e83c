"""The legacy completions API, called with OpenAI's own client."""

from __future__ import annotations

from typing import Any

import httpx2
import openai
import pytest
from gateways import COUNT, DESCRIBE, THOUGHT, disagreeing, gateway, model
from hypothesis import given, settings
from hypothesis import strategies as st

from cuecard.domain.errors import BadInput, ModelUnreachable
from cuecard.domain.question import Image
from cuecard.gateway.wire import chat
from cuecard.models.replay import Says, ScriptedModel

ASKED: dict[str, Any] = {"model": "cuecard", "prompt": COUNT}


@pytest.mark.parametrize("prompt", [COUNT, [COUNT]])
async def test_a_prompt_is_answered_with_a_text_without_the_reasoning(prompt):
    models = disagreeing()
    async with gateway(models) as client:
        raw = await client.completions.with_raw_response.create(model="cuecard", prompt=prompt)
    answer = raw.parse()
    assert (answer.object, answer.model, answer.choices[0].text) == ("text_completion", "cuecard", "3")
    assert (answer.choices[0].finish_reason, answer.choices[0].logprobs) == ("stop", None)
    assert answer.id.startswith("cmpl")
    assert answer.id == raw.headers["x-request-id"]
    assert THOUGHT not in raw.text
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    assert answer.model_extra["cuecard"]["route"] == "transferred"
    assert models["large"].prompts[-1].turns[-1].role == "user"


async def test_a_stream_has_the_text_then_the_finish_reason_and_the_usage():
    asked = {"prompt": DESCRIBE, "stream": True, "stream_options": {"include_usage": True}}
    async with gateway(disagreeing()) as client:
        chunks = [chunk async for chunk in await client.completions.create(model="cuecard", **asked)]
    assert {chunk.object for chunk in chunks} == {"text_completion"}
    assert "".join(chunk.choices[0].text for chunk in chunks[:-1]) == "3"
    assert [chunk.choices[0].finish_reason for chunk in chunks[:-1]] == [*[None] * (len(chunks) - 2), "stop"]
    assert chunks[-2].model_extra["cuecard"]["route"] == "transferred"
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens > len(THOUGHT.split())
    assert all(chunk.usage is None for chunk in chunks[:-1])


async def test_a_stream_ends_with_done_and_has_no_reasoning():
    async with gateway(disagreeing()) as client, httpx2.AsyncClient(base_url=str(client.base_url)) as plain:
        result = (await plain.post("completions", json=ASKED | {"stream": True, "reasoning": {"effort": "low"}})).text
    assert result.endswith("data: [DONE]\n\n")
    assert THOUGHT.split()[0] not in result


async def test_an_answer_that_is_cut_ends_with_length():
    models = {"small": model("tiny", "x"), "large": model("huge", "y", "word " * 300)}
    async with gateway(models) as client:
        answer = await client.completions.create(model="cuecard", prompt=DESCRIBE, max_tokens=5)
    assert answer.choices[0].finish_reason == "length"


async def test_a_failure_in_the_midst_is_an_event_of_the_stream():
    broken = {name: ScriptedModel(name, [Says(error=ModelUnreachable("gone"))] * 9) for name in ("small", "large")}
    async with gateway(broken) as client:
        with pytest.raises(openai.APIError, match="gone"):
            async for _ in await client.completions.create(model="cuecard", prompt=COUNT, stream=True):
                pass


async def test_what_changes_nothing_may_be_sent():
    harmless = {"n": 1, "best_of": 1, "echo": False, "suffix": "", "logprobs": None, "user": "u", "temperature": 0.0}
    async with gateway() as client:
        answer = await client.completions.create(model="cuecard", prompt=COUNT, seed=1, **harmless)
    assert answer.choices[0].text == "3"


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"prompt": ""}, "the prompt is empty"),
        ({"prompt": []}, "the prompt is empty"),
        ({"prompt": [" "]}, "the prompt is empty"),
        ({"prompt": [COUNT, DESCRIBE]}, "there are 2 prompts"),
        ({"prompt": [1, 2, 3]}, "list of token ids .*tokenized_requests=False"),
        ({"prompt": [[1, 2], [3]]}, "list of token ids"),
        ({"suffix": "the end"}, "suffix is not supported"),
        ({"echo": True}, "echo is not supported"),
        ({"best_of": 2}, "best_of is not supported"),
        ({"n": 2}, "n is not supported"),
        ({"logprobs": 1}, "logprobs is not supported"),
        ({"logprobs": 0}, "logprobs is not supported"),
        ({"extra_body": {"messages": []}}, "messages is no parameter of completions"),
        ({"extra_body": {"tools": [{"type": "function"}]}}, "tools is no parameter of completions"),
    ],
)
async def test_what_a_pair_cannot_do_is_refused(more, words):
    async with gateway() as client:
        with pytest.raises(openai.BadRequestError, match=words):
            await client.completions.create(**ASKED | more)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=4), inner, max_size=4),
    max_leaves=15,
)
NAMES = (*chat.OWN, *chat.OF_CHAT, "max_tokens", "stream", "stream_options", "temperature", "cuecard")


@settings(max_examples=200, deadline=None)
@given(JSON | st.fixed_dictionaries({"model": st.just("cuecard")}, optional=dict.fromkeys(NAMES, JSON)))
def test_a_malformed_request_is_refused_with_an_expected_error(body):
    def no_image(url: str) -> Image:
        raise AssertionError(url)

    try:
        parsed = chat.parse_completion(body, no_image)
    except BadInput:
        return
    assert parsed.question.text
    assert parsed.reasoning_field is None
