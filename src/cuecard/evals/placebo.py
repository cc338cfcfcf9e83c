"""Placebo cards: read instead of the small model's card, to show which part of a card helps.

A wrapper around the reader rewrites its READ prompts; strategies are not changed. The small model's own answer after
its reasoning stays the same: in `mutual`, a question that this answer confirms needs no card.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, replace
from functools import partial
from random import Random

from cuecard.domain.call import Mode, Usage
from cuecard.domain.errors import BadInput, Unsupported, did_you_mean
from cuecard.domain.question import AnswerKind, letter
from cuecard.evals.item import Item
from cuecard.models import prompt as layouts
from cuecard.models.base import Abilities, Event, ForwardingModel, Limits, Model
from cuecard.models.prompt import CardFormat, Prompt

Foreign = Callable[[], Awaitable[str]]
"""Returns another question's card. May raise BadInput."""


def empty(card: str, item: Item, foreign: str) -> str:
    """No reasoning at all."""
    return ""


def shuffled(card: str, item: Item, foreign: str) -> str:
    """The same words in random order, seeded by the item: all the observations, no argument."""
    words = card.split()
    Random(item.id).shuffle(words)
    return " ".join(words)


def truncated(card: str, item: Item, foreign: str) -> str:
    """The first half of the words: the argument without its end."""
    words = card.split(" ")
    return " ".join(words[: len(words) // 2])


def foreign(card: str, item: Item, foreign: str) -> str:
    """What the small model wrote about another question."""
    return foreign


def wrong(card: str, item: Item, foreign: str) -> str:
    """The card with a wrong answer instead of its last sentence."""
    sentences = re.split(r"(?<=[.!?])\s+", card.strip())
    return " ".join([*sentences[:-1], _ending(wrong_answer(item))])


def oracle(card: str, item: Item, foreign: str) -> str:
    """The true answer alone."""
    return _ending(_known(item))


Change = Callable[[str, Item, str], str]
"""(card, its item, another question's card) -> the card to read."""
PLACEBOS: Mapping[str, Change] = {
    change.__name__: change for change in (empty, shuffled, truncated, foreign, wrong, oracle)
}
CORRUPTED, ALTERED = "corrupted(SHARE)", "altered(CLASS)"


def change_of(placebo: str) -> Change:
    """The change that a placebo makes to a card, by its name. Raises BadInput with the nearest name."""
    if match := re.fullmatch(r"corrupted\((.*)\)", placebo):
        try:
            share = float(match[1])
        except ValueError:
            share = -1.0
        if not 0 < share <= 1:
            raise BadInput(f"{placebo}: {match[1]!r} is not above 0 and at most 1", f"write {CORRUPTED}")
        return partial(corrupted, share)
    if match := re.fullmatch(r"altered\((.*)\)", placebo):
        if match[1] not in CLASSES:
            raise BadInput(f"{placebo}: there is no class {match[1]!r}", f"there are: {', '.join(CLASSES)}")
        return partial(altered, match[1])
    if placebo not in PLACEBOS:
        raise BadInput(f"there is no placebo {placebo!r}", did_you_mean(placebo, (*PLACEBOS, CORRUPTED, ALTERED)))
    return PLACEBOS[placebo]


def wrong_answer(item: Item) -> str:
    """A wrong answer of the question's kind. Raises BadInput if none is known."""
    gold, asked = _known(item), item.question
    golds = {each.strip().casefold() for each in item.golds}
    match asked.kind:
        case AnswerKind.CHOICE:
            others = [
                letter(index)
                for index, option in enumerate(asked.options)
                if letter(index).casefold() not in golds and option.strip().casefold() not in golds
            ]
            if others:
                return Random(item.id).choice(others)
        case AnswerKind.YES_NO:
            return "no" if "yes" in golds else "yes"
        case AnswerKind.NUMBER:
            if match := re.fullmatch(r"\s*(-?\d+)(\.\d+)?(.*)", gold, re.DOTALL):
                # twice the integer part plus 1: outside the tolerance of every benchmark
                return f"{2 * int(match[1]) + 1}{match[2] or ''}{match[3]}"
    for other in ("red", "blue", "nothing"):
        if asked.kind is AnswerKind.SHORT_TEXT and not any(other in each for each in golds):
            return other
    raise BadInput(f"item {item.id}: no wrong answer of kind {asked.kind} is known", "leave placebo=wrong out")


def _known(item: Item) -> str:
    if not item.golds:
        raise BadInput(f"item {item.id} has no known answer", "leave placebo=wrong and placebo=oracle out")
    return item.golds[0]


def corrupted(share: float, card: str, item: Item, foreign: str) -> str:
    """The card with about this share of its words replaced: numbers by numbers of the card, words by its words.

    The draw is seeded by the item, so that the words of a smaller share are among those of a larger one.
    """
    chance, words = Random(item.id), card.split(" ")
    numbers = [word for word in words if _is_number(word)]
    others = [word for word in words if not _is_number(word)]
    drawn = [(chance.random(), chance.choice(numbers if _is_number(word) else others)) for word in words]
    return " ".join(new if at < share else word for word, (at, new) in zip(words, drawn, strict=True))


def _is_number(word: str) -> bool:
    return any(character.isdigit() for character in word)


_COLOURS = "red green blue yellow orange purple pink black white grey gray brown teal cyan magenta"
_PLACED = r"(?<=\bcell )|(?<=\brow )|(?<=\bcolumn )"
CLASSES: Mapping[str, str] = {
    "numbers": rf"(?<![\w.])(?!{_PLACED})\d+(?!\w)",
    "places": rf"(?:{_PLACED})\d+",
    "colours": rf"\b(?:{_COLOURS.replace(' ', '|')})\b",
    "connectives": r"\b(?:so|now|then|and|or|which|therefore|because|since|but|if)\b",
    "words": rf"\b(?!(?:{_COLOURS.replace(' ', '|')}|cell|row|column)\b)[^\W\d_]{{4,}}\b",
}
"""Patterns of the words that are altered: numbers that are not places, numbers that are, and so on."""


def altered(name: str, card: str, item: Item, foreign: str) -> str:
    """The card with every word of a class, except in the last sentence, replaced by another word of the class.

    The replacement is another word of this class in the card, seeded by the item. If the card has only one, it is the
    next number, or the next colour in the list; another word stays.
    """
    *sentences, ending = re.split(r"(?<=[.!?])(\s+)", card.strip())
    chance, pattern, body = Random(item.id), re.compile(CLASSES[name]), "".join(sentences)
    every = sorted({match.group() for match in pattern.finditer(body)})

    def another(match: re.Match[str]) -> str:
        return chance.choice([each for each in every if each != match.group()] or [_next(match.group())])

    return pattern.sub(another, body) + ending


def _next(word: str) -> str:
    colours = _COLOURS.split()
    if word in colours:
        return colours[(colours.index(word) + 1) % len(colours)]
    return str(int(word) + 1) if word.isdigit() else word


def _ending(answer: str) -> str:
    return f"So the answer is {answer}."


@dataclass(frozen=True)
class CardSwap(ForwardingModel):
    """A reader that reads a placebo card instead of the written card."""

    model: Model
    item: Item
    placebo: str
    form: CardFormat | None
    foreign: Foreign

    @property
    def abilities(self) -> Abilities:
        # the written card is not read, so it is not prefilled ahead
        return replace(self.model.abilities, prefix_sessions=False)

    async def stream(self, prompt: Prompt, limits: Limits) -> AsyncGenerator[Event]:
        if prompt.mode is Mode.READ and prompt.card is not None:
            other = await self.foreign() if self.placebo == foreign.__name__ else ""
            card = change_of(self.placebo)(prompt.card, self.item, other)
            form = self.form or self.abilities.card_formats[0]
            prompt = layouts.read(self.item.question, card, form, self.abilities.style)
        async with aclosing(self.model.stream(prompt, limits)) as events:
            async for event in events:
                yield event

    async def warm(self, prompt: Prompt) -> Usage:
        raise Unsupported(f"{self.name} reads another card than the one that is written")
