"""Arms: what is compared. `strategy[:role][/schedule][/card][/budget=N][/accept=RULE][/placebo=NAME][/samples=N]
[/keep=SHARE][/select=SELECTOR][/ending=WORD][/early-stop=TIMES:WORDS:CONFIDENCE]`.

`mutual/eager`, `transfer/notes/budget=128`, `transfer/placebo=shuffled`, `vote/equal=reason:large` (as many samples as
generate no more tokens than that arm does on the same question), `policy:FILE` (as `cuecard tune` writes it).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from cuecard.domain.errors import BadInput
from cuecard.domain.suggestions import did_you_mean
from cuecard.evals.placebo import change_of
from cuecard.models.prompt import CardFormat
from cuecard.strategies import policy_file
from cuecard.strategies.card_selection import cut_with
from cuecard.strategies.policy import Acceptance, EarlyStop, Policy, Schedule
from cuecard.strategies.run import known

FILE = "policy:"
"""What an arm begins with that stands in a policy file."""
LIVE = "@live"
"""What a name ends with that was run end to end instead of being composed from stored calls."""
OPTIONS = ("budget", "accept", "placebo", "samples", "equal", "keep", "select", "ending", "early-stop")
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
        told = policy_file.read(Path(file))
        return Arm(text.strip(), told.strategy, told.policy(base))
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
    if word in tuple(Schedule):
        return replace(policy, schedule=Schedule(word))
    if word in tuple(CardFormat):
        return replace(policy, card=CardFormat(word))
    words = (*Schedule, *CardFormat, *(f"{option}=" for option in OPTIONS))
    raise BadInput(f"{text}: unknown word {word!r}", did_you_mean(word, words))


def _with_option(policy: Policy, option: str, value: str, text: str) -> Policy:
    if option not in OPTIONS:
        raise BadInput(f"{text}: unknown option {option!r}", did_you_mean(option, OPTIONS))
    match option:
        case "accept":
            return replace(policy, accept=Acceptance.parse(value))
        case "keep":
            return replace(policy, cut=cut_with(policy.cut, _share(value, text), None, None))
        case "select":
            return replace(policy, cut=cut_with(policy.cut, None, value, None))
        case "early-stop":
            return replace(policy, early_stop=EarlyStop.parse(value))
        case "ending":
            return replace(policy, cut=cut_with(policy.cut, None, None, value))
    try:
        number = int(value)
    except ValueError:
        raise BadInput(f"{text}: {value!r} is not a number", f"write {option}=N") from None
    if option == "samples":
        return replace(policy, samples=number)
    return replace(policy, limits=replace(policy.limits, reasoning_tokens=number))


def _share(value: str, text: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise BadInput(f"{text}: {value!r} is not a share", "write keep=0.3") from None
