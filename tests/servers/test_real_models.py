"""A pretrained reasoning model in llama.cpp, with default options. Takes 20 minutes on two cores."""

from __future__ import annotations

import json
import re
import sqlite3
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import mean
from typing import Any

import openai
import pytest
from programs import CUECARD, Served, gateway, llamacpp
from real_models import QWEN
from recording import Exchange, recorded

pytestmark = [pytest.mark.servers, pytest.mark.timeout(1800)]
EVERYDAY = Path(__file__).parents[1] / "real" / "questions.jsonl"
WORDED, SAMPLE_EACH = "gym:gsm_symbolic,seed=7,count=12", 3
SUMS = "gym:chain_sum,seed=5,count=4"
STRATEGIES = (
    *("short", "reason", "transfer", "mutual"),
    *("cascade", "ladder", "route", "vote", "verdict", "panel", "steps", "force"),
)
PENCILS = "A box holds 12 pencils. How many pencils are in 3 boxes?"


def run_cuecard(*arguments: str | Path) -> str:
    """Standard output of a command that must exit with 0."""
    done = subprocess.run([CUECARD, *arguments], capture_output=True, text=True, timeout=1500)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module", autouse=True)
def probed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Enable probing of servers, as for users, with one cache for this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("CUECARD_NO_PROBE", raising=False)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def qwen(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """One server for both roles."""
    with llamacpp(QWEN, tmp_path_factory.mktemp("qwen"), context=16384) as served:
        yield served


@dataclass(frozen=True)
class Run:
    """An evaluation, and the requests of its reasoning calls by question."""

    answers: list[Mapping[str, Any]]
    reasoned: Mapping[str, list[Exchange]]

    def right(self, arm: str, task: str) -> float:
        return sum(each["score"] for each in self.answers if (each["arm"], each["task"]) == (arm, task))

    def calls(self, mode: str) -> list[Mapping[str, Any]]:
        """All distinct calls of this mode."""
        found = {call["key"]: call for each in self.answers for call in each["calls"] if call["mode"] == mode}
        return list(found.values())


def answers_of(run: Path) -> list[Mapping[str, Any]]:
    with sqlite3.connect(run / "run.sqlite") as store:
        return [json.loads(record) for (record,) in store.execute("SELECT record FROM answers")]


@pytest.fixture(scope="module")
def run(qwen: Served, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """12 word problems and 12 everyday questions: first reasoning calls, with recorded requests, then all others."""
    folder = tmp_path_factory.mktemp("run")
    known = {"id", "question", "options", "kind", "answer"}
    asked = [json.loads(line) for line in EVERYDAY.read_text().splitlines()]
    brief = [[row for row in asked if row["kind"] == kind] for kind in ("choice", "yes_no", "number", "short_text")]
    sample = [{key: row[key] for key in known & set(row)} for rows in brief for row in rows[:SAMPLE_EACH]]
    (folder / "everyday.jsonl").write_text("\n".join(map(json.dumps, sample)))
    with recorded(qwen.url) as proxy:
        models = [each for role in ("--small", "--large") for each in (role, f"{proxy.url}#{qwen.name}")]
        command = ["eval", WORDED, f"jsonl:{folder / 'everyday.jsonl'}", *models, "--out", folder / "out"]
        run_cuecard(*command, "--strategies", "reason:small")
        texts = [text.strip() for text in texts_of(folder / "out")]
        reasoned = {text: [each for each in proxy.exchanges if text in each.prompt] for text in texts}
        run_cuecard(*command, "--strategies", "short:small,transfer")
    return Run(answers_of(folder / "out"), reasoned)


def texts_of(run: Path) -> list[str]:
    with sqlite3.connect(run / "run.sqlite") as store:
        return [text for (text,) in store.execute("SELECT json_extract(record, '$.text') FROM items")]


def test_transfer_with_no_option_set_keeps_what_the_reasoning_it_reads_has_won(run: Run):
    reasoned = run.right("reason:small", WORDED)
    assert reasoned >= 4, "the model does not reason as it has been measured to"
    assert run.right("transfer", WORDED) >= reasoned - 1


def test_no_answer_is_cut(run: Run):
    assert len(run.answers) == 3 * 24
    assert [each for each in run.answers if each["truncated"]] == []


@pytest.mark.parametrize(("mode", "tokens"), [("short", 10), ("read", 12)])
def test_brief_answers_take_few_tokens(mode: str, tokens: int, run: Run):
    calls = run.calls(mode)
    assert len(calls) >= 24
    assert {call["finish_reason"] for call in calls} == {"stop"}
    assert mean(call["completion_tokens"] for call in calls) <= tokens


def test_a_finished_reasoning_is_asked_for_no_second_time(run: Run):
    """The response holds the answer already: one request per reasoning, counted at the server."""
    finished = [requests for requests in run.reasoned.values() if requests[0].finish_reason == "stop"]
    assert len(finished) >= 20
    assert sum(len(requests) - 1 for requests in finished) <= 0.05 * len(finished)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_ask_prints_a_short_whole_answer(strategy: str, qwen: Served):
    printed = run_cuecard("ask", PENCILS, "--small", qwen.spec, "--large", qwen.spec, "--strategy", strategy)
    assert_pencils(printed)


def assert_pencils(text: str) -> None:
    assert re.findall(r"\d+", text) == ["36"]
    assert len(text.split()) <= 4


def test_every_strategy_evaluates_to_short_whole_answers(qwen: Served, tmp_path: Path):
    models = ("--small", qwen.spec, "--large", qwen.spec)
    run_cuecard("eval", SUMS, *models, "--out", tmp_path / "out", "--strategies", ",".join(STRATEGIES))
    answers = answers_of(tmp_path / "out")
    assert len(answers) == 4 * len(STRATEGIES)
    assert {(each["status"], each["truncated"], each["parsed"]) for each in answers} == {("ok", False, True)}
    assert max(len(each["answer"].split()) for each in answers) <= 4


@pytest.fixture(scope="module")
def client(qwen: Served, tmp_path_factory: pytest.TempPathFactory) -> Iterator[openai.OpenAI]:
    table = f'model = "{qwen.spec}"'
    with gateway({"small": table, "large": table}, tmp_path_factory.mktemp("gateway")) as client:
        yield client


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
def test_serve_gives_a_short_whole_answer(strategy: str, stream: bool, client: openai.OpenAI):
    asked: dict[str, Any] = {"model": f"cuecard/{strategy}", "messages": [{"role": "user", "content": PENCILS}]}
    if stream:
        chunks = [chunk for chunk in client.chat.completions.create(**asked, stream=True) if chunk.choices]
        content = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
        finish = next(reason for chunk in chunks if (reason := chunk.choices[0].finish_reason))
        route = next(chunk.model_extra["cuecard"] for chunk in chunks if "cuecard" in chunk.model_extra)["route"]
    else:
        answer = client.chat.completions.create(**asked)
        [choice] = answer.choices
        content, finish, route = choice.message.content, choice.finish_reason, answer.model_extra["cuecard"]["route"]
    assert_pencils(content)
    assert finish == "stop"
    assert route != "degraded"
