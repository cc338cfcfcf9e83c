"""Requests hold no control tokens but those of the layout, for every field through which text enters a prompt."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from test_prompts import CONTROL

from cuecard.domain.question import AnswerKind, Calling, Image, Message, Question
from cuecard.gateway.wire.tools import Tool, Tools
from cuecard.models.base import Limits
from cuecard.models.openai import OpenAIModel
from cuecard.models.openai.call import messages
from cuecard.models.prompt import PROSE, TAGS, CardFormat, Prompt, Style, growing, neutral, probe, read, reason, short
from cuecard.strategies.card_selection import CardCut

LOWER = [token.lower() for token in CONTROL]
LEADS = ["Think step by step.", "Answer:", "Do not explain.", "End of the draft.", "JSON Schema:", "The answer is"]
FIELDS = ["{request}", "{card}", "{question}", "{instruction}", "{0}", "{{", "}"]
PARTS = [
    "<",
    "<|",
    "im_end",
    "|>",
    "</",
    "think",
    ">",
    "[",
    "/INST",
    "]",
    "｜",
    "s",
    " ",
    "\n",
    "\t",
    "<<",
    "SYS",
    ">>",
    "◁",
    "▷",
]
texts = st.lists(st.sampled_from([*PARTS, *CONTROL, *LEADS, *FIELDS]) | st.text(max_size=3), max_size=8).map("".join)
BRIEF = [kind for kind in AnswerKind if kind is not AnswerKind.CHOICE]


@st.composite
def questions(draw: st.DrawFn) -> Question:
    options = tuple(draw(st.lists(texts, min_size=2, max_size=3))) if draw(st.booleans()) else ()
    kind = AnswerKind.CHOICE if options else draw(st.sampled_from(BRIEF))
    history = tuple(Message(role, draw(texts)) for role in draw(st.sampled_from([(), ("user", "assistant")])))
    schema = json.dumps({"title": draw(texts)}, ensure_ascii=draw(st.booleans())) if kind is AnswerKind.JSON else None
    text = draw(texts.filter(str.strip))
    calling = draw(st.none() | st.sampled_from(Calling)) if kind is AnswerKind.JSON else None
    if calling is not None:  # tool descriptions and earlier tool calls, in the gateway's format
        tool = draw(texts)
        schema = Tools((Tool("look", tool, {"title": tool, "default": tool}),), calling).schema
        history = (Message("assistant", json.dumps({"tool_calls": [tool]}, ensure_ascii=False)), *history)
    return Question(text, (Image(b"one"),), options, kind, draw(st.none() | texts), history, schema, calling=calling)


def prompts(question: Question, card: str, style: Style) -> Iterator[Prompt]:
    for strict in (False, True) if question.kind in (AnswerKind.CHOICE, AnswerKind.NUMBER) else (False,):
        yield short(question, style, strict=strict)
        for form in CardFormat:
            yield read(question, card, form, style, strict=strict)
    first = reason(question, style)
    yield first
    yield first.closed_after(card)
    for form in CardFormat:
        yield growing(question, card, form, style)
        yield probe(question, card, form, style)


def own(opening: str, style: Style) -> str:
    """The opening without the tags that the layout adds at its ends."""
    return opening.removeprefix(style.none).removeprefix(style.opening).removesuffix(style.closing)


def smuggled(text: str) -> list[str]:
    low = text.lower()
    return [token for token in LOWER if token in low] + ([] if neutral(text) == text else ["a token"])


def sent(model: OpenAIModel, prompt: Prompt) -> Iterator[str]:
    """The texts in a model's request for a prompt."""
    body = model._request(prompt, Limits().of(prompt), 1)(frozenset())
    for message in body["messages"]:
        content = message["content"]
        opens = message is body["messages"][-1] and message["role"] == "assistant"
        for text in [content] if isinstance(content, str) else [part.get("text", "") for part in content]:
            yield own(text, prompt.style) if opens else text


@given(questions(), texts, st.sampled_from([TAGS, PROSE]))
@example(
    Question("think", kind=AnswerKind.JSON, schema='{"title": "<{request}>"}'), "<think", TAGS
)  # the replacement of a field completes a token
@example(Question("a <|im_Think step by step.end|>"), "x <|im_Answer:end|>", PROSE)
@settings(max_examples=150, deadline=None)
def test_what_is_sent_holds_no_control_token_of_a_text(question: Question, card: str, style: Style) -> None:
    model = OpenAIModel("http://localhost:1/v1", "m", prefill=True, family="unknown")
    for prompt in prompts(question, card, style):
        for text in sent(model, prompt):
            assert not smuggled(text), (prompt.mode, text)


@given(questions(), texts, st.sampled_from(["qwen3", "llava", "large"]), st.booleans())
@settings(max_examples=80, deadline=None)
def test_the_second_stage_of_a_reasoning_holds_none_either(
    question: Question, reasoning: str, name: str, prefill: bool
) -> None:
    model = OpenAIModel("http://localhost:1/v1", name, prefill=prefill)
    first = reason(question, model.abilities.style)
    for text in sent(model, model._closed(first, reasoning)):
        assert not smuggled(text), text


@given(questions(), texts, st.floats(0.1, 0.9), st.sampled_from(["first", "random", "content-passage"]))
@settings(max_examples=80, deadline=None)
def test_cut_cards_and_scored_answers_hold_none_either(question: Question, card: str, keep: float, select: str) -> None:
    cut = CardCut(keep, select)(card)
    for form in CardFormat:
        prompt = read(question, cut, form, TAGS)
        for message in messages(prompt.turns, ""):
            content = message["content"]
            assert not smuggled(content if isinstance(content, str) else content[-1]["text"])
        assert not smuggled(own(prompt.opening, TAGS))
    assert not smuggled("The answer is" + neutral(card))


@pytest.mark.parametrize("token", CONTROL)
def test_a_token_that_a_cut_of_the_text_would_complete_is_broken(token: str) -> None:
    half = len(token) // 2
    for lead in (*LEADS, *FIELDS):
        bait = f"x {token[:half]}{lead}{token[half:]} y"
        question = Question(bait, system=bait, kind=AnswerKind.JSON, schema=json.dumps({"title": bait}))
        for prompt in prompts(question, bait, TAGS):
            assert not any(smuggled(turn.text) for turn in prompt.turns)
