"""A pair of models as a library: ask, aask, stream, options and errors."""

from __future__ import annotations

import asyncio
import inspect
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

import cuecard
from cuecard import Pair
from cuecard.domain.call import Heard
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import Outcome, Route
from cuecard.domain.question import AnswerKind, Question
from cuecard.models.base import Limits
from cuecard.models.replay import Says, ScriptedModel
from cuecard.pair import question
from cuecard.strategies.policy import Acceptance, Policy, Schedule
from cuecard.strategies.policy_file import OPTIONS

HOW_MANY = "How many cats are there?"


def model(name: str, says: str, **how: float) -> ScriptedModel:
    return ScriptedModel(name, lambda prompt: Says(says, "One cat, two cats, three.", confidence_logprob=-0.01, **how))


@pytest.fixture
def slow() -> ScriptedModel:
    """A model that takes an hour per token."""
    return model("slow", "3", token_s=3600)


def test_a_pair_answers_a_text():
    with Pair(model("small", "3"), model("large", "3")) as pair:
        assert (outcome := pair.ask(HOW_MANY)).answer == "3"
        assert outcome.route is Route.AGREED


def test_a_pair_answers_a_question_object():
    with Pair(model("small", "yes"), model("large", "yes")) as pair:
        assert pair.ask(Question("Is it a cat?", kind=AnswerKind.YES_NO)).answer == "yes"
        with pytest.raises(BadInput, match="holds its images"):
            pair.ask(Question(HOW_MANY), kind="number")


def test_one_pair_serves_several_threads_at_once():
    with Pair(model("small", "3"), model("large", "3")) as pair, ThreadPoolExecutor(8) as threads:
        assert {outcome.answer for outcome in threads.map(pair.ask, [HOW_MANY] * 32)} == {"3"}


async def test_a_stream_yields_the_reasoning_before_the_outcome():
    pair = Pair(model("small", "3"), model("large", "4"), strategy="transfer")
    heard = [item async for item in pair.stream(HOW_MANY)]
    assert "".join(item.text for item in heard if isinstance(item, Heard) and item.is_reasoning).startswith("One cat")
    assert isinstance(heard[-1], Outcome)
    pair.close()


async def test_cancelling_a_question_ends_its_calls(slow: ScriptedModel):
    pair = Pair(slow, model("large", "3"), policy=Policy(accept=Acceptance.parse("agree")))
    asking = asyncio.create_task(pair.aask(HOW_MANY))
    while not slow.running:  # noqa: ASYNC110 - it runs on the loop of the pair
        await asyncio.sleep(0.001)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    assert slow.running == 0
    pair.close()


async def test_closing_a_stream_ends_its_calls(slow: ScriptedModel):
    pair = Pair(slow, model("large", "3"), policy=Policy(accept=Acceptance.parse("agree")))
    stream = pair.stream(HOW_MANY)
    await anext(stream)  # the large model's answer; the small one still runs
    assert slow.running == 1
    await stream.aclose()
    assert slow.running == 0
    pair.close()


def test_a_pair_can_be_closed_twice_and_used_again():
    pair = Pair(model("small", "3"), model("large", "3"))
    for _ in range(2):
        assert pair.ask(HOW_MANY).answer == "3"
        pair.close()
        pair.close()


@pytest.mark.parametrize(
    ("option", "hint"),
    [
        ({"shedule": "eager"}, "did you mean schedule"),
        ({"schedule": "egaer"}, "thrifty, overlap, eager"),
        ({"card": "postcard"}, "thinking, notes, turn"),
        ({"strategy": "mutal"}, "did you mean mutual"),
        ({"kind": "poem"}, "kinds are"),
    ],
)
def test_an_invalid_option_is_refused_with_a_valid_example(option, hint):
    with Pair(model("small", "3"), model("large", "3")) as pair, pytest.raises(BadInput) as refused:
        pair.ask(HOW_MANY, **option)
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("asked", "message", "hint"),
    [
        ({"choices": "red"}, "choices are not a list but str", 'choices=["red", "green"]'),
        ({"choices": 3}, "choices are not a list but int", 'choices=["red", "green"]'),
        ({"choices": ["red", 3]}, "a choice is not a text but int: 3", 'choices=["red", "green"]'),
        ({"choices": ["red", "green", "red "]}, "the choice 'red ' is there twice", "each choice once"),
        ({"text": 3}, "the question is not a text but int", "write it like"),
        ({"text": None}, "the question is not a text but NoneType", "write it like"),
        ({"system": 3}, "system is not a text but int", "write it like"),
    ],
)
def test_a_question_of_the_wrong_type_is_refused_with_a_valid_example(asked, message, hint):
    with Pair(model("small", "3"), model("large", "3")) as pair, pytest.raises(BadInput) as refused:
        pair.ask(**{"text": HOW_MANY, **asked})
    assert message in refused.value.message
    assert hint in refused.value.hint


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"stratgy": "transfer"}, "unknown option 'stratgy' of Pair", "did you mean strategy?"),
        ({"budget": 300}, "'budget' is no option of Pair", "pair.ask(…, budget=…)"),
        ({"shedule": "eager"}, "unknown option 'shedule' of Pair", "did you mean schedule? give it to ask"),
        ({"buget": 300}, "unknown option 'buget' of Pair", "did you mean budget? give it to ask"),
        ({"drafter": 3}, "'drafter' is not a model but int", 'drafter="demo-small"'),
        ({"policy": "eager"}, "policy is not a Policy: 'eager'", "policy=Policy(…)"),
        ({"strategy": 3}, "unknown strategy 3", "mutual"),
    ],
)
def test_an_invalid_option_of_the_pair_is_refused_with_a_valid_example(given, message, hint):
    with pytest.raises(BadInput) as refused:
        Pair(model("small", "3"), model("large", "3"), **given)
    assert message in refused.value.message
    assert hint in refused.value.hint


def test_a_model_whose_role_looks_like_an_option_is_a_role():
    with Pair(model("small", "3"), model("large", "3"), second=model("second", "3")) as pair:
        assert set(pair.models) == {"small", "large", "second"}


@pytest.mark.parametrize(
    ("given", "near"), [("acept", "accept"), ("chioces", "choices"), ("imge", "image"), ("xyz", "help(pair.ask)")]
)
def test_a_misspelt_keyword_of_ask_is_refused_with_the_nearest(given, near):
    with Pair(model("small", "3"), model("large", "3")) as pair, pytest.raises(BadInput) as refused:
        pair.ask(HOW_MANY, **{given: "agree"})
    assert refused.value.message == f"unknown option {given!r}"
    assert near in refused.value.hint


@pytest.mark.parametrize(
    ("kind", "given", "near"),
    [(Policy, "acept", "accept"), (Question, "optoins", "options"), (Limits, "answer_tokns", "answer_tokens")],
)
def test_a_misspelt_keyword_of_a_class_is_refused_with_the_nearest(kind, given, near):
    with pytest.raises(BadInput, match=f"{kind.__name__} has no '{given}' .did you mean {near}"):
        kind(**{given: 3})


def test_the_strategy_is_checked_before_a_model_is_loaded():
    with pytest.raises(BadInput, match="unknown strategy"):
        Pair("no such model", "nor this", strategy="mutal")


def test_options_of_a_question_override_the_pairs_policy():
    with Pair(model("small", "3"), model("large", "3"), policy=Policy(Schedule.THRIFTY)) as pair:
        assert pair.ask(HOW_MANY).schedule == "thrifty"
        assert pair.ask(HOW_MANY, schedule="eager").schedule == "eager"


ASKED = """
from cuecard import Pair

pair = Pair("demo-small", "demo-large")
print(pair.ask("How many?", budget=3, choices=["a", "b"]).answer)
"""


@pytest.mark.slow
@pytest.mark.parametrize(("option", "refused"), [("budget=3", False), ("bugdet=3", True), ('budget="3"', True)])
def test_a_type_checker_knows_the_options(tmp_path: Path, option: str, refused: bool) -> None:
    (tmp_path / "asks.py").write_text(ASKED.replace("budget=3", option))
    arguments = ("--strict", "--follow-imports=silent", "--no-error-summary", f"--cache-dir={tmp_path}", "asks.py")
    done = subprocess.run(
        [sys.executable, "-m", "mypy", *arguments],
        cwd=tmp_path,
        env=os.environ | {"MYPYPATH": str(Path(cuecard.__file__).parent.parent)},
        capture_output=True,
        text=True,
        timeout=110,
    )
    complaints = [line for line in done.stdout.splitlines() if line.startswith("asks.py")]
    assert bool(complaints) is refused, done.stdout + done.stderr
    assert not refused or "budget" in option or "bugdet" in complaints[0]


def test_help_and_completion_show_the_options_of_a_question() -> None:
    takes = {*inspect.signature(question).parameters, *OPTIONS, "strategy"}
    for function in (Pair.ask, Pair.aask, Pair.stream):
        assert set(inspect.signature(function).parameters) - {"self"} == takes


def test_an_option_of_none_equals_no_option() -> None:
    with Pair(model("small", "3"), model("large", "3")) as pair:
        assert pair.ask(HOW_MANY, kind=None, strategy=None, choices=None, allow_urls=None).kind is AnswerKind.NUMBER


def test_numbered_options_keep_their_labels() -> None:
    with Pair(model("small", "2"), model("large", "2")) as pair:
        outcome = pair.ask("Which planet is the largest? 1) Mars 2) Jupiter")
    assert (outcome.answer, outcome.answer_text, outcome.kind) == ("2", "2. Jupiter", AnswerKind.CHOICE)


@pytest.mark.parametrize("reply", ["12", "The answer is 12.", "There are 12 cats.", "**12**"])
def test_a_number_is_given_without_prose(reply: str) -> None:
    with Pair(model("small", reply), model("large", reply)) as pair:
        assert pair.ask(HOW_MANY).answer == "12"


def test_an_error_has_a_hint() -> None:
    error = BadInput("it is wrong", "do it right")
    assert (str(error), error.message, error.hint) == ("it is wrong (do it right)", "it is wrong", "do it right")
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
