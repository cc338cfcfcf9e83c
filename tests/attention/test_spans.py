"""Each token of a prompt belongs to one span, for every card format and every kind of tokenizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from cuecard.attention.api import borrowed, capture, own
from cuecard.domain.errors import BadInput
from cuecard.domain.question import Question
from cuecard.models.local.model import LocalModel
from cuecard.models.local.network import Span, Spans
from cuecard.models.prompt import CardFormat, Prompt, short

CARD = "Cell 4 shows a blue 6. 它有两个红色。 So the answer is 2."
Load = Callable[[str], LocalModel]


async def of(model: LocalModel, prompt: Prompt) -> Spans:
    return (await capture(model, prompt, "7 red", lambda rows, spans: None)).spans


def text(spans: Spans, span: Span) -> str:
    return "".join(spans.pieces[place] for place in spans.of(span))


@pytest.mark.parametrize("form", CardFormat)
@pytest.mark.parametrize("family", ["demo-small", "qwen3", "llava", "gemma3_vision"])
async def test_a_card_is_found_whole_wherever_it_stands(
    load: Load, question: Question, family: str, form: CardFormat
) -> None:
    model = load(family)
    asked = question if model.abilities.images else replace(question, images=())
    spans = await of(model, borrowed(asked, model.abilities.style, CARD, form))
    assert text(spans, Span.REASONING).strip() == CARD
    assert text(spans, Span.ANSWER) == "7 red"
    assert text(spans, Span.QUESTION).startswith(asked.text)
    instructed = family == "demo-small" or form is not CardFormat.NOTES  # else the instruction comes after the card
    assert (text(spans, Span.QUESTION).strip() != asked.text) == instructed
    assert len(spans.of(Span.SINK)) == 1
    assert spans.names[-4] is Span.CUE or form is not CardFormat.THINKING


async def test_own_reasoning_is_distinct_from_no_reasoning(load: Load, question: Question) -> None:
    model = load("demo-small")
    style = model.abilities.style
    assert text(await of(model, own(question, style, CARD)), Span.REASONING) == CARD
    without = await of(model, short(question, style))
    assert without.of(Span.REASONING) == []
    assert text(without, Span.CUE) == "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"
    assert len(without.of(Span.IMAGE)) == 16


async def test_a_system_prompt_and_an_earlier_mention_of_the_card_are_no_reasoning(
    load: Load, question: Question
) -> None:
    model = load("demo-small")
    asked = replace(question, system="Be brief.", text=f"{CARD} Is that so?")
    spans = await of(model, borrowed(asked, model.abilities.style, CARD, CardFormat.THINKING))
    assert text(spans, Span.SYSTEM) == "Be brief."
    assert text(spans, Span.REASONING) == CARD
    assert text(spans, Span.QUESTION).startswith(f"{CARD} Is that so?")


@pytest.mark.parametrize("card", ["A \ufffd\ufffd b \ufffd", "\ufffd", "日本\ufffd日 x", "tab\tand\x1d\nlines  two"])
async def test_odd_characters_are_spelled_back(load: Load, question: Question, card: str) -> None:
    model = load("demo-small")
    spans = await of(model, borrowed(question, model.abilities.style, card, CardFormat.THINKING))
    assert text(spans, Span.REASONING).strip() == card.strip()


async def test_a_card_that_the_tokenizer_does_not_spell_back_is_an_error(load: Load, question: Question) -> None:
    model = load("demo-small")
    prompt = replace(borrowed(question, model.abilities.style, CARD, CardFormat.THINKING), card="Something else.")
    with pytest.raises(BadInput, match="no reasoning to look at: 'Something else"):
        await of(model, prompt)
