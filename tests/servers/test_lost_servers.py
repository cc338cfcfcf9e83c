"""Connections closed by llama.cpp, and a server that is killed and restarted."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import openai
import pytest
from programs import Served, free_port, gateway, kill, llamacpp
from real_models import QWEN, SMOLLM

from cuecard import Pair
from cuecard.models.base import Limits
from cuecard.strategies.policy import Acceptance, Policy

pytestmark = [pytest.mark.servers, pytest.mark.timeout(600)]
KEEP_ALIVE_S = 5.0
"""Idle timeout of connections in llama.cpp's server, seconds."""
ROUNDS, REQUESTS, AT_ONCE = 20, 10, 3
ALWAYS_READS = Policy(accept=Acceptance.parse("agree+confidence(1)"), limits=Limits(reasoning_tokens=8))


def test_pauses_longer_than_the_servers_keep_alive_degrade_nothing(tmp_path: Path):
    """200 requests of `mutual`; some pauses end just before the server's idle timeout, some just after."""
    pauses = [KEEP_ALIVE_S + (number % 5 - 1) / 5 for number in range(ROUNDS)]
    assert sum(pause > KEEP_ALIVE_S for pause in pauses) == 12
    with (
        llamacpp(SMOLLM, tmp_path) as served,
        Pair(served.spec, served.spec, policy=ALWAYS_READS) as pair,
        ThreadPoolExecutor(AT_ONCE) as pool,
    ):
        outcomes = []
        for number, pause in enumerate(pauses):
            texts = [f"Is {number} more than {each}?" for each in range(REQUESTS)]
            outcomes += pool.map(pair.ask, texts)
            time.sleep(pause)
    assert len(outcomes) == 200
    assert [each.reason for each in outcomes if each.route == "degraded"] == []
    assert [call.error for each in outcomes for call in each.calls if call.error] == []


def test_a_large_server_that_is_killed_and_comes_back_answers_again(tmp_path: Path):
    port = free_port()
    with (
        llamacpp(SMOLLM, tmp_path) as small,
        llamacpp(QWEN, tmp_path, port=port) as large,
        gateway({"small": table(small), "large": table(large)}, tmp_path) as client,
    ):
        before = [routed(client, number) for number in range(3)]
        kill(large.process)
        while_gone = [routed(client, number) for number in range(3, 6)]
        with llamacpp(QWEN, tmp_path, port=port):
            until, back = time.monotonic() + 120, routed(client, 6)
            while back["route"] == "degraded" and time.monotonic() < until:
                time.sleep(1)
                back = routed(client, 7)
            after = [routed(client, number) for number in range(8, 11)]
    assert "degraded" not in {each["route"] for each in before}
    assert {each["route"] for each in while_gone} == {"degraded"}
    assert all("the small model answered alone" in each["reason"] for each in while_gone)
    assert back["route"] != "degraded", back["reason"]
    assert "degraded" not in {each["route"] for each in after}


def table(served: Served) -> str:
    return f'model = "{served.spec}"'


def routed(client: openai.OpenAI, number: int) -> dict[str, Any]:
    """The `cuecard` object of one answer. Fails if the answer is empty."""
    asked = [{"role": "user", "content": f"What is {number} plus 4?"}]
    answer = client.chat.completions.create(
        model="cuecard/mutual", messages=asked, extra_body={"cuecard": {"budget": 48}}
    )
    assert answer.choices[0].message.content
    return answer.model_extra["cuecard"]
