# /// script
# dependencies = ["inspect-ai==0.3.285", "openai==3.57.0"]
# ///
"""Inspect's evaluations with its provider for servers with OpenAI's API."""

from __future__ import annotations

import json
import os
import tempfile
from typing import Any

from cases import COUNT, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, WITHOUT, case, given, run
from inspect_ai import Task, eval
from inspect_ai.agent import react
from inspect_ai.dataset import Sample
from inspect_ai.log import EvalSample
from inspect_ai.model import ChatMessageUser, ContentImage, ContentText, GenerateConfig, ResponseSchema
from inspect_ai.scorer import choice, includes, match, model_graded_qa
from inspect_ai.solver import basic_agent, chain_of_thought, generate, multiple_choice, system_message, use_tools
from inspect_ai.tool import Tool, tool
from inspect_ai.util import json_schema
from pydantic import BaseModel

os.environ |= {"GATEWAY_BASE_URL": URL, "GATEWAY_API_KEY": KEY}
LOGS = tempfile.TemporaryDirectory()
CHAT = f"openai-api/gateway/{MODEL}"
KNOWS_PLANETS = "json" not in WITHOUT
"""False for the embedded pair, which gives arbitrary answers to questions outside its training."""
NUMBERS = "Write the numbers from 1 to 10, separated by commas."


class Product(BaseModel):
    reason: str
    value: int


@tool
def get_weather() -> Tool:
    async def execute(city: str) -> str:
        """The current weather in a city.

        Args:
            city: The city's name.
        """
        return f"{city}: {FORECAST}"

    return execute


def evaluated(*samples: Sample, model_args: dict[str, Any] | None = None, **task: Any) -> list[EvalSample]:
    """Evaluate samples; returns them from the log. Raises RuntimeError with the log's traceback."""
    [log] = eval(
        Task(dataset=list(samples), **task),
        model=CHAT,
        model_args=model_args or {},
        log_dir=LOGS.name,
        display="none",
        max_retries=0,
        timeout=300,
    )
    if log.error is not None:
        raise RuntimeError(log.error.traceback)
    assert log.status == "success"
    assert log.samples is not None
    assert len(log.samples) == len(samples)
    assert all(usage.output_tokens > 0 for sample in log.samples for usage in sample.model_usage.values())
    return log.samples


def called(sample: EvalSample, name: str) -> list[dict[str, Any]]:
    """Arguments of each call of a tool."""
    calls = [call for message in sample.messages if message.role == "assistant" for call in message.tool_calls or ()]
    return [call.arguments for call in calls if call.function == name]


@case()
def matched() -> None:
    capital = Sample(input="What is the capital of France? Answer with one word.", target="Paris")
    for sample in evaluated(Sample(input=COUNT, target="56"), capital, scorer=match(), solver=generate()):
        assert sample.output.completion
        assert sample.output.stop_reason == "stop"
        assert sample.scores is not None
        assert sample.scores["match"].value in ("C", "I")


@case()
def streamed() -> None:
    [sample] = evaluated(Sample(input=COUNT, target="56"), scorer=includes(), model_args={"stream": True})
    assert sample.output.completion
    assert sample.output.usage is not None


@case()
def responses() -> None:
    [sample] = evaluated(Sample(input=COUNT, target="56"), scorer=includes(), model_args={"responses_api": True})
    assert sample.output.completion


@case()
def choices() -> None:
    planets = Sample(input="Which planet is largest?", choices=["Mars", "Jupiter", "Venus", "Earth"], target="B")
    for how in ({}, {"cot": True}):
        [sample] = evaluated(planets, scorer=choice(), solver=multiple_choice(**how))
        assert sample.scores is not None
        assert sample.output.completion
        assert sample.scores["choice"].answer in ("A", "B", "C", "D") or not KNOWS_PLANETS, sample.output.completion


@case()
def thought_and_graded() -> None:
    """A solver that requests a line `ANSWER: …`, and a grading model."""
    solver = [system_message("Be brief."), chain_of_thought(), generate()]
    [sample] = evaluated(Sample(input=COUNT, target="56"), scorer=model_graded_qa(model=CHAT), solver=solver)
    assert sample.scores is not None
    assert sample.scores["model_graded_qa"].explanation


@case(needs="images")
def image() -> None:
    content = [ContentText(text=DIGITS), ContentImage(image=str(given.picture))]
    [sample] = evaluated(Sample(input=[ChatMessageUser(content=content)], target="3"), scorer=match(numeric=True))
    assert sample.output.completion.strip().isdecimal()


@case()
def stop_seqs() -> None:
    config = GenerateConfig(stop_seqs=[", 7"], temperature=0.0, seed=1, max_tokens=60)
    [sample] = evaluated(Sample(input=NUMBERS), config=config)
    assert sample.output.completion
    assert ", 7" not in sample.output.completion


@case(needs="json")
def response_schema() -> None:
    config = GenerateConfig(response_schema=ResponseSchema(name="product", json_schema=json_schema(Product)))
    [sample] = evaluated(Sample(input=COUNT, target="56"), config=config)
    assert isinstance(Product.model_validate(json.loads(sample.output.completion)), Product)


@case(needs="json")
def tools() -> None:
    solver = [use_tools(get_weather()), generate()]
    [sample] = evaluated(Sample(input=WEATHER, target="snow"), scorer=includes(), solver=solver, message_limit=10)
    assert "Paris" in called(sample, "get_weather")[0]["city"]
    assert "snow" in sample.output.completion or "7" in sample.output.completion


def reported(sample: EvalSample) -> bool:
    """Whether an agent reports the forecast with its tool `submit` or, like small models, in text."""
    texts = [message.text for message in sample.messages if message.role == "assistant"]
    texts += [str(arguments) for arguments in called(sample, "submit")]
    return any("snow" in text or "-7" in text for text in texts)


@case(needs="json")
def agents() -> None:
    """Agents that end with a call of the tool `submit` and are prompted to continue until then.

    A small model may repeat its call once before it reports the result.
    """
    for agent in (basic_agent(tools=[get_weather()]), react(tools=[get_weather()])):
        [sample] = evaluated(Sample(input=WEATHER, target="snow"), scorer=includes(), solver=agent, message_limit=10)
        assert "Paris" in called(sample, "get_weather")[0]["city"]
        assert reported(sample)


@case()
def errors() -> None:
    problem = ""
    try:
        evaluated(Sample(input=COUNT), config=GenerateConfig(temperature=-1.0))
    except RuntimeError as error:
        problem = str(error)
    assert "temperature" in problem, problem


run()
