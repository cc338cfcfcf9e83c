"""The walks of CONTRIBUTING.md: its code runs, and what it adds is found wherever such things are listed."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from cuecard import AnswerKind, Question
from cuecard.answers import agree, extract, score
from cuecard.answers.extraction import READERS
from cuecard.cli import app
from cuecard.evals import arm
from cuecard.evals.tasks import registry
from cuecard.gateway.config.config import virtual_models
from cuecard.models.base import ANSWER_TOKENS
from cuecard.models.openai import OpenAIModel, families
from cuecard.models.prompt import _WHAT, BRIEF_KINDS, TAGS, short
from cuecard.models.simulated import Profile, Script, SimulatedModel
from cuecard.strategies import run
from test_docs import GENERATORS, help_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """What a test registers is gone after it."""
    strategies, rows, openers = dict(run.STRATEGIES), list(families.FAMILIES), dict(registry._OPENERS)
    yield
    families.FAMILIES[:] = rows
    for registered, before in ((run.STRATEGIES, strategies), (registry._OPENERS, openers)):
        registered.clear()
        registered.update(before)


def walk(heading: str) -> None:
    """Run the code of a section of CONTRIBUTING.md."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    section = text.split(f"### {heading}\n")[1].split("\n### ")[0]
    blocks = re.findall(r"^```py\n(.*?)^```$", section, re.MULTILINE | re.DOTALL)
    assert blocks
    for block in blocks:
        exec(compile(block, heading, "exec"), {"__name__": "contributed"})


def cuecard(*words: str) -> str:
    return CliRunner().invoke(app, list(words), color=False).output


# --- a strategy -------------------------------------------------------------------------------------------------------


def test_a_strategy_is_found_by_the_command_line_arms_the_gateway_and_the_docs():
    walk("A strategy")
    assert arm.parse("hint/eager").strategy == "hint"
    assert "cuecard/hint" in virtual_models("cuecard")
    assert "| `hint` | The small model answers at once; the large model reads that answer as a card. |" in (
        GENERATORS["strategies"]()
    )
    mistyped = CliRunner().invoke(app, ["ask", "How many?", "--strategy", "hnt"])
    assert "did you mean hint?" in str(mistyped.exception)


def test_every_registered_strategy_stands_in_the_help_of_ask():
    names = [name for name in run.STRATEGIES if ":" not in name]
    assert ", ".join(names) in re.sub(r"[\s│]+", " ", help_of("ask"))


async def test_a_strategy_answers_with_its_calls_recorded():
    walk("A strategy")
    profile = Profile(fixed_s=0.0, prefill_s_per_token=0.0, decode_s_per_token=0.0)
    models = {role: SimulatedModel(role, profile, lambda prompt: Script("7"), Random(0)) for role in ("small", "large")}
    outcome = await run.answer(Question("How many?", kind=AnswerKind.NUMBER), models, "hint")
    assert outcome.answer == "7"
    assert [(call.role, call.mode) for call in outcome.calls] == [("small", "short"), ("large", "read")]


# --- a model family ---------------------------------------------------------------------------------------------------


async def test_a_family_is_found_by_name_by_setting_and_in_the_docs():
    walk("A model family")
    assert families.family_of("acme/Acme-VL-7B", "http://localhost:8000/v1").name == "acme"
    assert families.family_of("gpt-4o", "http://localhost:8000/v1").name == "plain"
    assert "- **acme**" in GENERATORS["families"]()
    with pytest.raises(families.BadInput) as unknown:
        families.named("acne")
    assert "acme" in str(unknown.value)
    model = OpenAIModel("http://localhost:8000/v1", "an-alias", family="acme")
    assert model.abilities.style == TAGS
    await model.aclose()


# --- a benchmark ------------------------------------------------------------------------------------------------------


def test_a_benchmark_is_listed_checked_read_and_in_the_docs(tmp_path):
    walk("A benchmark")
    file = tmp_path / "capitals.jsonl"
    row = {"question": "What is the capital of France?", "options": ["Lyon", "Paris"], "answer": "B"}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    assert "capitals of countries" in cuecard("tasks")
    assert json.loads(cuecard("tasks", f"capitals:{file}", "--check", "--json"))["usable"]
    [item] = registry.open_task(f"capitals:{file}").items()
    assert item.question.options == ("Lyon", "Paris")
    assert "| `capitals` | capitals of countries | choice | exact |" in GENERATORS["tasks"]()


# --- an answer kind ---------------------------------------------------------------------------------------------------

WHOLE = {AnswerKind.FREE_TEXT, AnswerKind.JSON}
"""Kinds that are read as a whole, without a reader of their own."""
REPLIES = {
    AnswerKind.CHOICE: ("The answer is B.", "A"),
    AnswerKind.YES_NO: ("Yes.", "no"),
    AnswerKind.NUMBER: ("The answer is 15.", "16"),
    AnswerKind.SHORT_TEXT: ("Paris", "London"),
    AnswerKind.MATHS: (r"The answer is \boxed{\frac{1}{2}}.", "2"),
    AnswerKind.FREE_TEXT: ("A cat sits on a mat.", "A dog runs away from it."),
    AnswerKind.JSON: ('{"count": 1}', '{"count": 2}'),
}
"""A reply of each kind, and one that says something else."""


@pytest.mark.parametrize("kind", AnswerKind)
def test_every_kind_has_a_row_in_every_table(kind):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").split("### An answer kind")[1]
    places = {
        "READERS": kind in READERS or kind in WHOLE,
        "ANSWER_TOKENS": kind in ANSWER_TOKENS,
        "_WHAT": kind in _WHAT or kind is AnswerKind.FREE_TEXT,
        "BRIEF_KINDS": (kind in BRIEF_KINDS) is (kind not in WHOLE),
        "--kind": kind is AnswerKind.JSON or kind in help_of("ask"),
    }
    assert not [place for place, there in places.items() if not there]
    assert all(f"`{place}`" in text for place in places)


@pytest.mark.parametrize("kind", AnswerKind)
def test_an_answer_of_every_kind_is_asked_for_found_compared_and_scored(kind):
    question = Question("Which one?", (), ("red", "green") if kind is AnswerKind.CHOICE else (), kind)
    reply, other = (extract(text, question) for text in REPLIES[kind])
    assert reply.parsed
    assert other.parsed
    assert agree(reply, reply, question)
    assert not agree(reply, other, question)
    assert score(reply, [REPLIES[kind][0]], question) == 1
    assert score(reply, [REPLIES[kind][1]], question) < 1
    instruction = short(question, TAGS).turns[-1].text
    assert kind is AnswerKind.FREE_TEXT or _WHAT[kind] in instruction
