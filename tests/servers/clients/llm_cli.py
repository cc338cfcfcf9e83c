# /// script
# dependencies = ["llm==0.36"]
# ///
"""Simon Willison's llm on the command line: one process per prompt."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from cases import COUNT, DESCRIBE, DIGITS, FORECAST, KEY, MODEL, URL, WEATHER, case, given, run

LLM = Path(sys.executable).with_name("llm")
HOME = tempfile.TemporaryDirectory()
"""Folder in which llm stores its models and conversations."""
ABLE = f"model_name: {MODEL}, api_base: {URL}, vision: true, supports_schema: true, supports_tools: true"
MODELS = f"""
- {{model_id: chat, {ABLE}}}
- {{model_id: responses, {ABLE}, responses: true}}
- {{model_id: completions, model_name: {MODEL}, api_base: {URL}, completion: true}}
"""
(Path(HOME.name) / "extra-openai-models.yaml").write_text(MODELS)
FUNCTION = f"""
def get_weather(city: str) -> str:
    "The current weather in a city."
    return city + ": {FORECAST}"
"""
NUMBERS = "Write the numbers from 1 to 10, separated by commas."
USAGE = re.compile(r"Token usage: ([\d,]+) input, ([\d,]+) output")


def llm(*arguments: str | Path, model: str = "chat") -> subprocess.CompletedProcess[str]:
    """Completed `llm` command. Raises RuntimeError with its error output."""
    done = subprocess.run(
        [LLM, "prompt", "--model", model, "--key", KEY, *arguments],
        capture_output=True,
        text=True,
        timeout=300,
        stdin=subprocess.DEVNULL,
        env=os.environ | {"LLM_USER_PATH": HOME.name},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done


@case()
def text() -> None:
    assert llm(COUNT, "--no-stream", "--system", "Be brief.").stdout.strip()


@case()
def stream() -> None:
    assert llm(DESCRIBE, "-o", "max_tokens", "60").stdout.strip()


@case()
def asynchronous() -> None:
    assert llm(COUNT, "--async").stdout.strip()


@case()
def usage() -> None:
    for how in ([], ["--no-stream"]):
        done = llm(COUNT, "--usage", *how)
        counted = USAGE.search(done.stderr)
        assert counted is not None, done.stderr
        assert all(int(tokens.replace(",", "")) > 0 for tokens in counted.groups())


@case()
def options() -> None:
    given = {"temperature": "0", "top_p": "0.9", "max_tokens": "60", "seed": "1", "frequency_penalty": "0.1"}
    given |= {"presence_penalty": "0.1", "logit_bias": '{"100": -100}'}
    assert llm(COUNT, *(word for option in given.items() for word in ("-o", *option))).stdout.strip()


@case()
def stop() -> None:
    for how in ([], ["--no-stream"]):
        cut = llm(NUMBERS, "-o", "stop", ", 7", *how).stdout.strip()
        assert cut
        assert ", 7" not in cut


@case(needs="images")
def image() -> None:
    for how in ([], ["--no-stream"]):
        assert llm(DIGITS, "--attachment", given.picture, *how).stdout.strip().isdecimal()


@case()
def conversation() -> None:
    llm("My name is Ada. Say hello.")
    assert llm("What is my name? Answer with one word.", "-c").stdout.strip()


@case(needs="json")
def schema() -> None:
    for how in ([], ["--no-stream"]):
        dog = json.loads(llm("--schema", "name, age int", "Invent a dog.", *how).stdout)
        assert isinstance(dog["name"], str)
        assert isinstance(dog["age"], int)


@case(needs="json")
def schema_of_many() -> None:
    dogs = json.loads(llm("--schema-multi", "name, age int", "Invent two dogs.").stdout)["items"]
    assert all(isinstance(dog["age"], int) for dog in dogs)


@case(needs="json")
def json_object() -> None:
    asked = 'What is 7 times 8? Answer as JSON: {"value": …}'
    assert isinstance(json.loads(llm(asked, "-o", "json_object", "1").stdout), dict)


@case(needs="json")
def functions() -> None:
    for how in ([], ["--no-stream"]):
        done = llm(WEATHER, "--functions", FUNCTION, "--tools-debug", *how)
        assert "get_weather({'city': 'Paris" in done.stderr, done.stderr
        assert "snow" in done.stdout or "7" in done.stdout


@case(needs="json")
def named_tool() -> None:
    """A built-in tool of llm."""
    done = llm("Which version of llm is this? Use the tool.", "-T", "llm_version", "--tools-debug")
    assert "llm_version" in done.stderr
    assert "0.36" in done.stdout


@case(needs="json")
def tools_and_conversation() -> None:
    llm(WEATHER, "--functions", FUNCTION)
    assert llm("What shall I wear there?", "-c", "--functions", FUNCTION).stdout.strip()


@case()
def responses() -> None:
    for how in ([], ["--no-stream"]):
        done = llm(COUNT, "--usage", *how, model="responses")
        assert done.stdout.strip()
        assert USAGE.search(done.stderr) is not None, done.stderr


@case(needs="images")
def responses_image() -> None:
    assert llm(DIGITS, "--attachment", given.picture, model="responses").stdout.strip().isdecimal()


@case()
def responses_conversation() -> None:
    llm("My name is Ada. Say hello.", model="responses")
    assert llm("What is my name? Answer with one word.", "-c", model="responses").stdout.strip()


@case(needs="json")
def responses_schema() -> None:
    dog = json.loads(llm("--schema", "name, age int", "Invent a dog.", model="responses").stdout)
    assert isinstance(dog["age"], int)


@case(needs="json")
def responses_functions() -> None:
    done = llm(WEATHER, "--functions", FUNCTION, "--tools-debug", model="responses")
    assert "get_weather({'city': 'Paris" in done.stderr, done.stderr
    assert "snow" in done.stdout or "7" in done.stdout


@case()
def completions() -> None:
    for how in ([], ["--no-stream"]):
        assert llm(COUNT, "-o", "max_tokens", "60", *how, model="completions").stdout.strip()


@case()
def errors() -> None:
    problem = ""
    try:
        llm(COUNT, "-o", "stop", "x" * 600)
    except RuntimeError as error:
        problem = str(error)
    assert "stop" in problem, problem


run()
