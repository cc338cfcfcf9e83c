"""The gateway with llama.cpp servers: a text pair with one small model in both roles."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest
from programs import Served, gateway, kill, llamacpp
from real_models import SMOLLM

pytestmark = pytest.mark.servers
MODEL = "smollm2"
ASKED = [{"role": "user", "content": "What is the capital of France? Answer with a single word."}]


@pytest.fixture(scope="module")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Served]]:
    """Role -> its server."""
    folder = tmp_path_factory.mktemp("llamacpp")
    with llamacpp(SMOLLM, folder) as small, llamacpp(SMOLLM, folder) as large:
        yield {"small": small, "large": large}


@pytest.fixture
def client(servers, tmp_path: Path) -> Iterator[openai.OpenAI]:
    settings = {role: f'model = "{served.url}#{MODEL}-{role}"' for role, served in servers.items()}
    with gateway(settings, tmp_path) as client:
        yield client


def test_what_the_gateway_says_of_one_model_is_what_its_server_says(servers, client):
    direct = openai.OpenAI(base_url=servers["large"].url, api_key="none").chat.completions.create(
        model=MODEL, messages=ASKED, temperature=0, max_tokens=8
    )
    alone = client.chat.completions.create(
        model=f"{MODEL}-large", messages=ASKED, max_tokens=8, extra_body={"cuecard": {"kind": "free_text"}}
    )
    assert alone.choices[0].message.content.strip() == direct.choices[0].message.content.strip()
    assert alone.usage.completion_tokens == direct.usage.completion_tokens


@pytest.mark.parametrize("strategy", ["mutual", "transfer", "cascade"])
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_a_pair_of_text_models_answers(strategy, stream, client):
    asked = {"model": f"cuecard/{strategy}", "messages": ASKED, "extra_body": {"cuecard": {"budget": 48}}}
    if not stream:
        answer = client.chat.completions.create(**asked)
        extra = answer.model_extra["cuecard"]
        content, usage = answer.choices[0].message.content, answer.usage
    else:
        chunks = list(client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True}))
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        extra = next(chunk.model_extra["cuecard"] for chunk in chunks if "cuecard" in (chunk.model_extra or {}))
        usage = chunks[-1].usage
    assert content
    assert extra["route"] in ("agreed", "confirmed", "transferred", "direct", "escalated"), extra["reason"]
    calls = extra["calls"]
    assert usage.completion_tokens == sum(call["completion_tokens"] or 0 for call in calls)
    assert usage.prompt_tokens == sum(call["prompt_tokens"] or 0 for call in calls)


async def test_a_server_that_is_killed_while_it_speaks_leaves_an_answer_of_the_other(servers, tmp_path):
    """Last test of this file, because its large server is not restarted."""
    settings = {role: f'model = "{served.url}#{MODEL}-{role}"' for role, served in servers.items()}
    with gateway(settings, tmp_path) as blocking:
        async with openai.AsyncOpenAI(base_url=blocking.base_url, api_key="none", max_retries=0) as client:
            stream = await client.chat.completions.create(
                model="cuecard/transfer", messages=ASKED, stream=True, extra_body={"cuecard": {"budget": 400}}
            )
            content, route, shown = "", None, 0
            async for chunk in stream:
                delta = chunk.choices[0].delta if chunk.choices else None
                shown += bool(delta and getattr(delta, "reasoning_content", None))
                if shown == 3:
                    await asyncio.to_thread(kill, servers["large"].process)
                content += (delta.content or "") if delta else ""
                route = (chunk.model_extra or {}).get("cuecard", {}).get("route", route)
    assert (bool(content), route) == (True, "degraded")
