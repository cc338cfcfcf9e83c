"""The embedded pair on a local Ray cluster: answers, streams, scaling, replicas that are killed, and updates."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import click
import pytest
import yaml
from serve_cluster import ServeCluster

from cuecard import Pair
from cuecard.demo import boards
from cuecard.domain.errors import ModelError
from cuecard.domain.question import Question
from cuecard.models.replay import ScriptedModel
from processes import free_port

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),  # a cluster starts, and processes are replaced
    pytest.mark.xdist_group("a cluster"),
    pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc"),
    pytest.mark.filterwarnings("ignore::pydantic.warnings.PydanticDeprecatedSince20"),  # Ray's, when it is imported
]

FILE = Path(__file__).parents[2] / "deploy" / "ray.yaml"
QUESTIONS = [exercise.question for exercise in boards.exercises(24, 0)]
SOON = {"upscale_delay_s": 0.5, "downscale_delay_s": 600, "metrics_interval_s": 0.2, "look_back_period_s": 1.0}
LOST = (aiohttp.ClientError, ConnectionError)


@dataclass
class Deployed:
    """The application of deploy/ray.yaml on a cluster, with a free port, and scaling that reacts soon."""

    cluster: ServeCluster
    folder: Path
    port: int = field(default_factory=free_port)

    def serve(self, replicas: int = 1, **config: Any) -> None:
        """Serve with at least so many replicas of each role, and with other tables in the configuration."""
        file = yaml.safe_load(FILE.read_text())
        file["http_options"]["port"] = self.port
        [application] = file["applications"]
        arguments = {key: config.pop(key) for key in ("models_per_replica",) if key in config}
        application["args"] |= arguments
        application["args"]["config"] |= config
        for deployment in application["deployments"]:
            deployment["autoscaling_config"] |= SOON
            if deployment["name"] != "gateway":
                deployment["autoscaling_config"]["min_replicas"] = replicas
        path = self.folder / "ray.yaml"
        path.write_text(yaml.safe_dump(file))
        self.cluster.run(path)

    async def ask(self, session: aiohttp.ClientSession, question: Question, **more: Any) -> dict[str, Any]:
        """The response to a question, an error if it is one."""
        async with session.post(self.url, json=body(question) | more) as response:
            assert response.status == 200, await response.text()
            answer: dict[str, Any] = await response.json()
            return answer

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/v1/chat/completions"


def body(question: Question) -> dict[str, Any]:
    picture = "data:image/png;base64," + base64.b64encode(question.images[0].data).decode()
    content = [{"type": "image_url", "image_url": {"url": picture}}, {"type": "text", "text": question.text}]
    return {"model": "cuecard", "messages": [{"role": "user", "content": content}]}


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployed]:
    with ServeCluster() as cluster:
        yield Deployed(cluster, tmp_path_factory.mktemp("ray"))


@dataclass
class Load:
    """Clients that send one request after the other."""

    answered: int = 0
    problems: list[tuple[float, float, str]] = field(default_factory=list)
    """Beginning and end of each request that failed, by the monotonic clock, and why."""

    async def until(self, condition: Callable[[], object]) -> None:
        await asyncio.to_thread(ServeCluster.until, condition)

    async def more(self, requests: int) -> None:
        """Wait until so many more requests have been answered."""
        wanted = self.answered + requests
        await self.until(lambda: self.answered >= wanted)


@asynccontextmanager
async def load(deployed: Deployed, clients: int, **more: Any) -> Any:
    found = Load()

    async def client(number: int) -> None:
        while True:
            began, question = time.monotonic(), QUESTIONS[(number + found.answered) % len(QUESTIONS)]
            try:
                await deployed.ask(session, question, **more)
                found.answered += 1
            except (AssertionError, *LOST) as error:
                found.problems.append((began, time.monotonic(), f"{type(error).__name__}: {error}"[:500]))
                await asyncio.sleep(0.1)

    async with aiohttp.ClientSession() as session:
        tasks = [asyncio.create_task(client(number)) for number in range(clients)]
        try:
            yield found
        finally:
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    await task


async def test_answers_of_replicas_equal_those_of_the_pair_in_one_process(deployed):
    deployed.serve()
    async with aiohttp.ClientSession() as session:
        with Pair("demo-small", "demo-large") as pair:
            for question in QUESTIONS[:6]:
                outcome = await pair.aask(question.text, image=question.images[0].data, strategy="mutual")
                answer = await deployed.ask(session, question)
                found = answer["cuecard"]
                assert answer["choices"][0]["message"]["content"] == outcome.answer
                assert (found["route"], found["reason"]) == (outcome.route, outcome.reason)
                own = {(call.role, call.mode): call for call in outcome.calls if not call.cancelled}
                shared = [
                    call for call in found["calls"] if not call["cancelled"] and (call["role"], call["mode"]) in own
                ]
                for call in shared:  # which calls overlap, and are cancelled, differs
                    usage = own[call["role"], call["mode"]].usage
                    assert call["completion_tokens"] == usage.completion_tokens
                assert shared


async def test_a_stream_passes_through_as_it_is_written(deployed):
    deployed.serve()
    question, deltas = QUESTIONS[0], []
    with Pair("demo-small", "demo-large") as pair:
        outcome = await pair.aask(question.text, image=question.images[0].data, strategy="transfer")
    async with aiohttp.ClientSession() as session:
        request = body(question) | {"model": "cuecard/transfer", "stream": True}
        async with session.post(deployed.url, json=request) as response:
            async for line in response.content:
                if line.startswith(b"data: {"):
                    deltas += [choice["delta"] for choice in json.loads(line[6:])["choices"]]
    assert len([delta for delta in deltas if delta.get("reasoning_content")]) > 1
    assert "".join(delta.get("content") or "" for delta in deltas) == outcome.answer


async def test_a_client_that_leaves_ends_its_calls(deployed):
    deployed.serve()
    whole, computed = deployed.cluster.do("left", question=1, reasoning=await reasoned(QUESTIONS[1]))
    assert computed < whole, "the rest of the reasoning was not written after the client had left"


def test_calls_of_one_request_at_once_all_reach_a_replica(deployed):
    deployed.serve()
    assert deployed.cluster.do("together", count=20) == 20


async def reasoned(question: Question) -> str:
    """The reasoning of the large model."""
    with Pair("demo-small", "demo-large") as pair:
        outcome = await pair.aask(question.text, image=question.images[0].data, strategy="reason:large")
    return outcome.calls[0].reasoning or ""


async def test_calls_about_one_question_stay_on_one_replica(deployed):
    deployed.serve(replicas=2)
    assert len(deployed.cluster.replicas("large")) == 2
    async with aiohttp.ClientSession() as session:
        for question in QUESTIONS:
            await deployed.ask(session, question, model="demo-large")
            again = await deployed.ask(session, question, model="demo-large")
            assert again["usage"]["prompt_tokens_details"]["cached_tokens"], "its replica has the prompt"


async def test_a_queue_doubles_the_replicas_of_a_role(deployed):
    deployed.serve()
    await asyncio.to_thread(deployed.cluster.until, lambda: len(deployed.cluster.replicas("large")) >= 1)
    before = len(deployed.cluster.replicas("large"))
    async with load(deployed, 12 * before, model="demo-large", cuecard={"strategy": "reason:large"}) as running:
        await running.until(lambda: len(deployed.cluster.replicas("large")) >= min(4, 2 * before))
        await running.more(20)
    assert running.problems == []


async def test_a_killed_replica_of_a_model_loses_no_request(deployed):
    deployed.serve(replicas=2)
    async with load(deployed, 6) as running:
        for role in ("small", "large"):
            await running.more(20)
            before = deployed.cluster.replicas(role)
            os.kill(before[0], signal.SIGKILL)
            await running.until(lambda role=role, before=before: replaced(deployed, role, before))
            await running.more(20)
    assert running.problems == []


def replaced(deployed: Deployed, deployment: str, before: list[int]) -> bool:
    """Whether there are as many replicas as before, and not the same ones."""
    now = deployed.cluster.replicas(deployment)
    return len(now) >= len(before) and now != before


async def test_a_killed_gateway_loses_only_the_requests_that_it_was_answering(deployed):
    deployed.serve(replicas=2)
    async with load(deployed, 6) as running:
        await running.more(20)
        before = deployed.cluster.replicas("gateway")
        os.kill(before[0], signal.SIGKILL)
        killed = time.monotonic()
        await running.until(lambda: replaced(deployed, "gateway", before))
        await running.more(40)
    assert len(running.problems) <= 6
    assert all(began <= killed for began, _, _ in running.problems), running.problems


async def test_a_rolling_update_to_two_pairs_that_share_replicas_loses_no_request(deployed):
    deployed.serve(replicas=2)
    async with load(deployed, 4) as running:
        await running.more(10)
        before = {role: deployed.cluster.replicas(role) for role in ("gateway", "small", "large")}
        await asyncio.to_thread(deployed.serve, 2, pairs={"other": smaller()}, pair={"aliases": ["new"]})
        await running.more(10)
        after = {role: deployed.cluster.replicas(role) for role in before}
        async with aiohttp.ClientSession() as session:
            for model in ("new", "other"):
                assert (await deployed.ask(session, QUESTIONS[0], model=model))["choices"]
    assert running.problems == []
    assert all(set(before[role]).isdisjoint(after[role]) for role in before), "every replica is of the new version"


def smaller() -> dict[str, Any]:
    """A pair whose models are loaded apart from those of the first pair."""
    return {role: {"model": f"demo-{role}", "prefix_cache_mib": 8} for role in ("small", "large")}


async def test_models_that_do_not_fit_in_a_replica_are_loaded_in_turn(deployed):
    deployed.serve(pairs={"other": smaller()}, models_per_replica=1)
    async with aiohttp.ClientSession() as session:
        asked = [(question, model) for question in QUESTIONS[:4] for model in ("cuecard", "other")]
        answers = await asyncio.gather(*(deployed.ask(session, question, model=model) for question, model in asked))
    texts = [answer["choices"][0]["message"]["content"] for answer in answers]
    assert texts[::2] == texts[1::2]
    assert "degraded" not in {answer["cuecard"]["route"] for answer in answers}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        ({"small": "demo-smal"}, "did you mean demo-small"),
        ({"config": "nowhere.toml"}, "cannot read nowhere.toml"),
        ({"config": {"version": 1, "smal": {"model": "demo-small"}}}, "unknown key smal"),
        ({"models_per_replica": 0}, "models_per_replica: Input should be greater than or equal to 1"),
        ({"lagre": "demo-large"}, "lagre: Extra inputs are not permitted"),
    ],
)
def test_arguments_that_cannot_be_used_are_reported_in_one_line(arguments, problem):
    from cuecard.deploy.ray import build

    with pytest.raises(click.ClickException, match=problem) as refused:
        build(arguments)
    assert "\n" not in refused.value.format_message()


def test_an_error_in_a_replica_is_reported_without_its_traceback():
    from ray.exceptions import RayTaskError

    from cuecard.deploy.ray import RemoteModel

    model = RemoteModel(None, "cuecard", "huge", ScriptedModel("huge", {}).abilities)
    with pytest.raises(ModelError, match=r"^huge on Ray: no such layer \(look at the replica's log\)$"):
        model._failed(RayTaskError("run", "Traceback: /somewhere", ValueError("no such layer")))
