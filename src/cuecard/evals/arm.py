"""Arms: what is compared. `strategy[:role][/schedule][/card][/budget=N][/accept=RULE][/placebo=NAME][/samples=N]
[/keep=SHARE][/select=SELECTOR][/ending=WORD][/early-stop=TIMES:WORDS:CONFIDENCE]`.

`mutual/eager`, `transfer/notes/budget=128`, `transfer/placebo=shuffled`, `vote/equal=reason:large` (as many samples as
generate no more tokens than that arm does on the same question), `policy:FILE` (as `cuecard tune` writes it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import cast

from cuecard.domain.errors import BadInput
from cuecard.domain.suggestions import did_you_mean
from cuecard.evals.placebo import change_of
from cuecard.settings import KINDS
from cuecard.strategies import policy_file
from cuecard.strategies.policy import Option, Policy, Surface, options_at, policy_with
from cuecard.strategies.run import known

FILE = "policy:"
"""What an arm begins with that stands in a policy file."""
LIVE = "@live"
"""What a name ends with that was run end to end instead of being composed from stored calls."""
OWN = ("placebo", "equal")
"""Options of an arm that are none of its policy."""
ALIASES = {"short": "short:large", "reason": "reason:large"}


@dataclass(frozen=True)
class Arm:
    """One way to answer: a strategy under a policy, perhaps with cards that are not what the small model wrote."""

    name: str
    """As it was asked for, so that what a name means depends on the run's own settings only."""
    strategy: str
    policy: Policy
    placebo: str | None = None
    equal: str | None = None
    """The arm whose generated tokens bound this one's, question by question; its samples are as many as fit."""

    @property
    def live(self) -> str:
        return self.name + LIVE


def parse(text: str, base: Policy | None = None) -> Arm:
    """An arm as it is written, its other settings as in `base`. Raises BadInput with the nearest known word."""
    if (file := text.strip().removeprefix(FILE)) != text.strip():
        read = policy_file.read(Path(file))
        return Arm(text.strip(), read.strategy, read.policy(base))
    strategy, *parts = text.strip().split("/")
    strategy = ALIASES.get(strategy, strategy)
    known(strategy)
    policy, placebo, equal = base or Policy(), None, None
    for part in parts:
        option, given, value = part.partition("=")
        if not given:
            policy = _with_word(policy, option, text)
        elif option == "placebo":
            change_of(value)
            placebo = value
        elif option == "equal":
            equal = value
        else:
            policy = _with_option(policy, option, value, text)
    if equal is not None and strategy != "vote":
        raise BadInput(f"{text}: only vote takes as many samples as fit", "write vote/equal=ARM")
    return Arm(text.strip(), strategy, policy, placebo, equal)


def parse_all(texts: Iterable[str], base: Policy | None = None) -> tuple[Arm, ...]:
    """Arms in their order, those that others are measured by first. Raises BadInput."""
    arms = {arm.name: arm for arm in (parse(text, base) for text in texts if text.strip())}
    if not arms:
        raise BadInput("there is no arm to run", "name at least one strategy")
    for arm in arms.values():
        if arm.equal is not None and (arm.equal not in arms or arms[arm.equal].equal):
            raise BadInput(f"{arm.name} is measured by {arm.equal!r}, which is not run", f"add {arm.equal} to the arms")
    return tuple(sorted(arms.values(), key=lambda arm: arm.equal is not None))


def budgets(arms: Sequence[Arm]) -> tuple[int, ...]:
    """Every budget of reasoning among the arms, the largest first."""
    return tuple(sorted({arm.policy.limits.reasoning_tokens for arm in arms}, reverse=True))


def _with_word(policy: Policy, word: str, text: str) -> Policy:
    """The policy with the option set that has such a value."""
    words = {str(value): name for name, option in _bare().items() for value in cast(type[StrEnum], option.parse)}
    if word not in words:
        known = (*words, *(f"{option}=" for option in (*OWN, *_named())))
        raise BadInput(f"{text}: unknown word {word!r}", did_you_mean(word, known))
    return policy_with(policy, **{words[word]: word})


def _with_option(policy: Policy, name: str, value: str, text: str) -> Policy:
    named = _named()
    if name not in named:
        raise BadInput(f"{text}: unknown option {name!r}", did_you_mean(name, (*OWN, *named)))
    option = named[name]
    try:
        given = {"true": True, "false": False}[value] if option.kind is bool else option.kind(value)
    except (ValueError, KeyError):
        raise BadInput(f"{text}: {value!r} is not {KINDS[option.kind][0]}", f"write {name}=N") from None
    return policy_with(policy, **{option.name: given})


def _bare() -> dict[str, Option]:
    """Options whose values stand alone."""
    return {name: option for name, option in options_at(Surface.ARM).items() if not option.arm_name}


def _named() -> dict[str, Option]:
    """Options that stand as NAME=VALUE, by that name."""
    return {option.arm_name: option for option in options_at(Surface.ARM).values() if option.arm_name}
