"""Placebo cards and their reader."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from cuecard.answers import extract
from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput
from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.arm import CardSwap, change_of, wrong_answer
from cuecard.evals.item import Item
from cuecard.models import prompt as layouts
from cuecard.models.base import Limits
from cuecard.models.prompt import TAGS, CardFormat
from cuecard.models.replay import Says, ScriptedModel

CARD = "I look at cell one. It is red. So the answer is A."
ITEM = Item("7", Question("Which?", (), ("red", "blue"), AnswerKind.CHOICE), ("A",), "exact", "7")


def card(placebo: str, item: Item = ITEM) -> str:
    return change_of(placebo)(CARD, item, "Another question's card.")


def test_each_placebo_takes_away_what_its_name_states():
    assert card("empty") == ""
    assert card("foreign") == "Another question's card."
    assert card("oracle") == "So the answer is A."
    assert card("wrong") == "I look at cell one. It is red. So the answer is B."
    assert CARD.startswith(card("truncated"))
    assert len(card("truncated")) < 0.6 * len(CARD)
    assert card("shuffled") != CARD
    assert sorted(card("shuffled").split()) == sorted(CARD.split())
    assert card("shuffled") == card("shuffled")


def test_a_corrupted_card_has_that_share_of_other_words_and_those_of_a_smaller_share_are_among_them():
    long = " ".join(f"cell {number} shows a red {number % 7}" for number in range(400))

    def changed(share: float) -> set[int]:
        message = change_of(f"corrupted({share})")(long, ITEM, "")
        pairs = list(zip(long.split(" "), message.split(" "), strict=True))
        assert all(old.isdigit() == new.isdigit() for old, new in pairs)
        return {place for place, (old, new) in enumerate(pairs) if old != new}

    few, many = changed(0.1), changed(0.4)
    assert 0.05 * 2000 < len(few) < 0.1 * 2000 < len(many) < 0.4 * 2000
    assert few < many


STEPS = "Let us start at cell 1, as cell 4 is red and cell 2 is blue. It shows a 7, so we move 3. So the answer is 7."


@pytest.mark.parametrize(
    ("name", "touched"),
    [
        ("numbers", {"7", "3"}),
        ("places", {"1", "4", "2"}),
        ("colours", {"red", "blue"}),
        ("connectives", {"and", "so"}),
        ("words", {"start", "shows", "move"}),
    ],
)
def test_an_altered_card_has_all_words_of_one_class_changed_but_in_its_last_sentence(name, touched):
    message = change_of(f"altered({name})")(STEPS, ITEM, "")
    assert message.endswith(" So the answer is 7.")
    pairs = zip(re.findall(r"\w+", STEPS), re.findall(r"\w+", message), strict=True)
    changed = [(old, new) for old, new in pairs if old != new]
    assert {old for old, _ in changed} == touched
    assert {new for _, new in changed} <= touched
    assert message == change_of(f"altered({name})")(STEPS, ITEM, "")


def test_the_only_word_of_its_class_becomes_the_next_one():
    assert change_of("altered(colours)")("It is red. So it is.", ITEM, "") == "It is green. So it is."
    assert change_of("altered(numbers)")("It is 9. So it is.", ITEM, "") == "It is 10. So it is."
    assert change_of("altered(numbers)")("", ITEM, "") == ""


@pytest.mark.parametrize(
    ("kind", "gold"),
    [
        (AnswerKind.YES_NO, "yes"),
        (AnswerKind.YES_NO, "no"),
        (AnswerKind.NUMBER, "0"),
        (AnswerKind.NUMBER, "12.5%"),
        (AnswerKind.SHORT_TEXT, "Red"),
    ],
)
def test_a_wrong_answer_is_of_the_kind_and_wrong(kind, gold):
    item = Item("1", Question("What?", kind=kind), (gold,), "exact", "1")
    given = extract(wrong_answer(item), item.question)
    assert given.parsed
    assert given.value != extract(gold, item.question).value


def test_a_choice_whose_gold_is_the_option_s_words_gets_another_option():
    assert wrong_answer(replace(ITEM, golds=("red",))) == "B"


def test_without_a_known_answer_there_is_no_wrong_answer():
    with pytest.raises(BadInput, match="no known answer"):
        card("oracle", replace(ITEM, golds=()))


@pytest.mark.parametrize("form", list(CardFormat))
async def test_the_reader_gets_the_placebo_in_its_card_format_and_all_else_as_it_was(form):
    model = ScriptedModel("large", [Says("A"), Says("A")])

    async def foreign() -> str:
        raise AssertionError("this placebo needs no other card")

    swapped = CardSwap(model, ITEM, "oracle", form, foreign)
    for prompt in (layouts.read(ITEM.question, CARD, form, TAGS), layouts.short(ITEM.question, TAGS)):
        async for _ in swapped.stream(prompt, Limits()):
            pass
    read, short = model.prompts
    assert read == layouts.read(ITEM.question, "So the answer is A.", form, TAGS)
    assert (read.mode, short) == (Mode.READ, layouts.short(ITEM.question, TAGS))
