"""The walkthroughs in CONTRIBUTING.md: their code runs, and all listings show what they add."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from typer.testing import CliRunner

from cuecard import AnswerKind, Question
from cuecard.answers import agree, extract, guess_kind, score
from cuecard.answers.kinds import KINDS
from cuecard.cli import app
from cuecard.domain import question
from cuecard.evals import arm
from cuecard.evals.scorers import EXTRACTORS, SCORERS
from cuecard.evals.tasks import registry
from cuecard.gateway.config import virtual_models
from cuecard.gateway.wire.request import parse
from cuecard.models.base import Limits
from cuecard.models.images import images
from cuecard.models.openai import OpenAIModel, families
from cuecard.models.prompt import TAGS, short
from cuecard.models.simulated import Profile, Script, SimulatedModel
from cuecard.strategies import run
from test_docs import GENERATORS, help_of

ROOT = Path(__file__).parent.parent


@pytest.fixture(autouse=True)
def registries() -> Iterator[None]:
    """Restore all registries after a test."""
    rows = list(families.FAMILIES)
    tables = [(table, dict(table)) for table in (run.STRATEGIES, registry._OPENERS, KINDS, question._KINDS)]
    yield
    families.FAMILIES[:] = rows
    for registered, before in tables:
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

REPLIES = {
    AnswerKind.CHOICE: ("The answer is B.", "A"),
    AnswerKind.YES_NO: ("Yes.", "no"),
    AnswerKind.NUMBER: ("The answer is 15.", "16"),
    AnswerKind.SHORT_TEXT: ("Paris", "London"),
    AnswerKind.MATHS: (r"The answer is \boxed{\frac{1}{2}}.", "2"),
    AnswerKind.FREE_TEXT: ("A cat sits on a mat.", "A dog runs away from it."),
    AnswerKind.JSON: ('{"count": 1}', '{"count": 2}'),
}
"""Answer kind -> (reply, reply with another answer)."""


def test_a_kind_is_found_by_the_command_line_the_gateway_prompts_scores_and_the_docs():
    walk("An answer kind")
    kind = AnswerKind("time")
    asked = Question("What time is it?", kind=kind)
    assert guess_kind("What time does the clock show?") is kind
    assert "Answer with the time as HH:MM only. Do not explain." in short(asked, TAGS).turns[-1].text
    assert Limits().of_answer(kind) == 16
    assert agree(extract("The answer is 9.05.", asked), extract("09:05", asked), asked)
    assert not extract("09:05 or 10:05", asked).parsed
    assert score(extract("It is 9.05.", asked), ["09:05"], asked) == 1
    assert score(extract("It is 9.06.", asked), ["09:05"], asked) == 0
    mistyped = CliRunner().invoke(app, ["ask", "When?", "--kind", "tiem"])
    assert "free_text, json, time; did you mean time?" in str(mistyped.exception)
    request = {"model": "cuecard", "messages": [{"role": "user", "content": "Now?"}], "cuecard": {"kind": "time"}}
    assert parse(request, images.load).question.kind is kind
    assert "| `time` | a time of day | the time as HH:MM only | 16 |" in GENERATORS["kinds"]()


def test_a_kind_is_read_from_files_of_questions_and_scored_there(tmp_path):
    walk("An answer kind")
    file = tmp_path / "clocks.jsonl"
    row = {"id": "1", "question": "What does the clock show?", "answer": "9:05", "kind": "time"}
    file.write_text(json.dumps(row) + "\n", encoding="utf-8")
    [item] = registry.open_task(f"jsonl:{file}").items()
    assert item.question.kind == "time"
    found = EXTRACTORS["ours"]("The clock shows 09:05.", item.question)
    assert SCORERS[item.scorer](found, item) == 1


@pytest.mark.parametrize("kind", AnswerKind)
def test_an_answer_of_every_kind_is_asked_for_found_compared_and_scored(kind):
    asked = Question("Which one?", (), ("red", "green") if kind is AnswerKind.CHOICE else (), kind)
    reply, other = (extract(text, asked) for text in REPLIES[kind])
    assert reply.parsed
    assert other.parsed
    assert agree(reply, reply, asked)
    assert not agree(reply, other, asked)
    assert score(reply, [REPLIES[kind][0]], asked) == 1
    assert score(reply, [REPLIES[kind][1]], asked) < 1
    instruction = short(asked, TAGS).turns[-1].text
    assert KINDS[kind].asks in instruction
