"""Arms: the strategies to compare. `strategy[:role][/schedule][/card][/budget=N][/accept=RULE][/placebo=NAME]
[/samples=N][/keep=SHARE][/select=SELECTOR][/ending=WORD][/early-stop=TIMES:WORDS:CONFIDENCE]`.

Examples: `mutual/eager`, `transfer/notes/budget=128`, `transfer/placebo=shuffled`, `vote/equal=reason:large` (as many
samples as generate no more tokens than that arm on the same question), `policy:FILE` (as `cuecard tune` writes it). The
name of a policy file's arm has the digest of the file's content, `policy:FILE@DIGEST`, and a run stores the content:
two files with the same name are two arms.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, cast

from cuecard.disk import KINDS
from cuecard.domain.call import Mode, Usage
from cuecard.domain.errors import BadInput, Unsupported, did_you_mean
from cuecard.domain.question import AnswerKind, letter
from cuecard.evals.item import Item
from cuecard.models import prompt as layouts
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import Abilities, Event, ForwardingModel, Limits, Model
from cuecard.models.prompt import CardFormat, Prompt
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Acceptance, Policy
from cuecard.strategies.policy_file import PolicyFile, Surface, options_at, policy_with
from cuecard.strategies.run import known

FILE = "policy:"
"""Prefix of an arm that is defined by a policy file."""
LIVE = "@live"
"""Suffix of the name of an arm that was run end to end instead of composed from stored calls."""
OWN = ("placebo", "equal")
"""Options of an arm that are not part of its policy."""
ALIASES = {"short": "short:large", "reason": "reason:large"}
_WITH_DIGEST = re.compile(r"(?P<path>.+)@(?P<digest>[0-9a-f]{12})")


@dataclass(frozen=True)
class Arm:
    """A strategy with a policy, optionally with placebo cards instead of those that the small model wrote."""

    name: str
    """As given, so that its meaning depends only on the run's settings; for a policy file, with its digest."""
    strategy: str
    policy: Policy
    placebo: str | None = None
    equal: str | None = None
    """The arm that bounds this arm's generated tokens, per question; this arm takes as many samples as fit."""
    file: PolicyFile | None = None
    """The content of its policy file, if it has one."""

    @property
    def live(self) -> str:
        return self.name + LIVE


def parse(text: str, base: Policy | None = None, policies: Mapping[str, PolicyFile] | None = None) -> Arm:
    """Parse an arm; settings that it does not name are those of `base`. Raises BadInput with the nearest known word.

    `policies`: contents of policy files, by arm name; other policy files are read from disk.
    """
    if (name := text.strip()).startswith(FILE):
        file = name.removeprefix(FILE)
        found = _WITH_DIGEST.fullmatch(file)
        path, digest = (found["path"], found["digest"]) if found else (file, None)
        said = (policies or {}).get(name) or _read(path, digest)
        return Arm(f"{FILE}{path}@{said.digest}", said.strategy, said.policy(base), file=said)
    strategy, *parts = text.strip().split("/")
    strategy = ALIASES.get(strategy, strategy)
    known(strategy)
    policy, placebo, equal = base or Policy(), None, None
    for part in parts:
        option, given, value = part.partition("=")
        if given and option == "placebo":
            change_of(value)
            placebo = value
        elif given and option == "equal":
            equal = value
        else:
            policy = _with_option(policy, part, text)
    if equal is not None and strategy != "vote":
        raise BadInput(f"{text}: only vote takes as many samples as fit", "write vote/equal=ARM")
    return Arm(text.strip(), strategy, policy, placebo, equal)


def _read(path: str, digest: str | None) -> PolicyFile:
    """Read a policy file. Raises BadInput if its digest is not the given one."""
    read = policy_file.read(Path(path))
    if digest not in (None, read.digest):
        hint = f"name it {FILE}{path}: as it is now it is another arm"
        raise BadInput(f"{path} has changed: its digest is {read.digest}, not {digest}", hint)
    return read


def base_of(config: Mapping[str, Any]) -> Policy:
    """The base policy of a run's arms, from the configuration in `run.json`."""
    policy = config.get("policy", {})
    accept = Acceptance.parse(policy["accept"]) if "accept" in policy else None
    table = AcceptanceTable.of_object(policy["table"]) if "table" in policy else None
    return Policy(accept=accept, table=table, limits=Limits(**policy.get("limits", {})))


def policies_of(config: Mapping[str, Any]) -> dict[str, PolicyFile]:
    """The contents of a run's policy files, by arm name, from the configuration in `run.json`."""
    return {name: PolicyFile.of_object(said) for name, said in config.get("policies", {}).items()}


def parse_all(
    texts: Iterable[str], base: Policy | None = None, policies: Mapping[str, PolicyFile] | None = None
) -> tuple[Arm, ...]:
    """Parse arms; those with `equal` come last, otherwise the order stays. `policies`: as `parse`. Raises BadInput."""
    arms = {arm.name: arm for arm in (parse(text, base, policies) for text in texts if text.strip())}
    if not arms:
        raise BadInput("there is no arm to run", "name at least one strategy")
    for arm in arms.values():
        if arm.equal is not None and (arm.equal not in arms or arms[arm.equal].equal):
            raise BadInput(f"{arm.name} is measured by {arm.equal!r}, which is not run", f"add {arm.equal} to the arms")
    return tuple(sorted(arms.values(), key=lambda arm: arm.equal is not None))


def budgets(arms: Sequence[Arm]) -> tuple[int, ...]:
    """All reasoning budgets of the arms, in tokens, the largest first."""
    return tuple(sorted({arm.policy.limits.reasoning_tokens for arm in arms}, reverse=True))


def _with_option(policy: Policy, part: str, text: str) -> Policy:
    """The policy with an option set: NAME=VALUE, or a word, which is a value of one option only. Raises BadInput."""
    options, (name, given, value) = options_at(Surface.ARM).values(), part.partition("=")
    named = {option.arm_name: option for option in options if option.arm_name}
    if not given:
        bare = [option for option in options if not option.arm_name]
        words = {str(each): option.name for option in bare for each in cast(type[StrEnum], option.parse)}
        if name not in words:
            known = (*words, *(f"{option}=" for option in (*OWN, *named)))
            raise BadInput(f"{text}: unknown word {name!r}", did_you_mean(name, known))
        return policy_with(policy, **{words[name]: name})
    if name not in named:
        raise BadInput(f"{text}: unknown option {name!r}", did_you_mean(name, (*OWN, *named)))
    option = named[name]
    try:
        setting = {"true": True, "false": False}[value] if option.kind is bool else option.kind(value)
    except (ValueError, KeyError):
        raise BadInput(f"{text}: {value!r} is not {KINDS[option.kind][0]}", f"write {name}=N") from None
    return policy_with(policy, **{option.name: setting})


# --- placebo cards ----------------------------------------------------------------------------------------------------

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
    following = dict(zip(colours := _COLOURS.split(), [*colours[1:], colours[0]], strict=True))
    return following.get(word) or (str(int(word) + 1) if word.isdigit() else word)


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
