"""The settings of a request: acceptance rule, schedule, card format, budgets. Validated at construction."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Protocol

from cuecard.domain.call import Mode
from cuecard.domain.errors import BadInput, suggests_keywords
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import Abilities, Limits
from cuecard.models.prompt import CardFormat
from cuecard.strategies.card_selection import CardCut

# --- acceptance rules -------------------------------------------------------------------------------------------------

MOST_RULES = 4
_KNOWN = (
    "use agree, confidence(t), agree+confidence(t) or calibrated(p), with t and p between 0 and 1;"
    " | between rules: one of them is enough"
)


@dataclass(frozen=True)
class Acceptance:
    """Two short answers are accepted by their agreement, by the large model's confidence in its own, or by both."""

    agreement: bool
    confidence: float | None

    def __str__(self) -> str:
        keys = ["agree"] if self.agreement else []
        return "+".join(keys + ([f"confidence({self.confidence:g})"] if self.confidence is not None else []))

    @staticmethod
    def parse(rule: str) -> AcceptanceRule:
        """`agree` (the paper's), `confidence(0.8)`, `agree+confidence(0.6)`, `calibrated(0.98)`, or several with `|`.

        Raises BadInput.
        """
        parts = rule.replace(" ", "").split("|")
        if len(parts) > MOST_RULES:
            raise BadInput(f"an acceptance rule of {len(parts):,} rules", f"join at most {MOST_RULES} with |")
        rules = tuple(dict.fromkeys(_single(part, rule) for part in parts))
        return rules[0] if len(rules) == 1 else AnyRule(rules)


@dataclass(frozen=True)
class Calibrated:
    """The large model's short answer is right with at least this probability, by a table fitted on the two models."""

    least: float

    def __str__(self) -> str:
        return f"calibrated({self.least:g})"


SingleRule = Acceptance | Calibrated


@dataclass(frozen=True)
class AnyRule:
    """Several rules, of which one is enough."""

    rules: tuple[SingleRule, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.rules))


AcceptanceRule = SingleRule | AnyRule

CALIBRATED = Calibrated(0.98)
"""The default if there is a table for the two models."""
# Without a table, the calibration of the large model's confidence is unknown, and models tend to be overconfident. So
# confidence alone has to exceed every threshold that accepted mistakes on the validation boards of the embedded pair
# (docs/adr/0007-acceptance-rules.md).
BOTH_KEYS = Acceptance(True, 0.9)
"""The default for answers in JSON: most of their tokens follow from the form, so probability alone means little."""
UNCALIBRATED = AnyRule((BOTH_KEYS, Acceptance(False, 0.99)))
"""The default if there is no table."""


def single_rules(rule: AcceptanceRule) -> tuple[SingleRule, ...]:
    """The single rules of a rule, of which one is enough."""
    return rule.rules if isinstance(rule, AnyRule) else (rule,)


def _single(part: str, rule: str) -> SingleRule:
    share = r"\(([0-9.]+)\)"
    found = re.fullmatch(rf"(agree)(?:\+confidence{share})?|confidence{share}|calibrated{share}", part)
    if found is None:
        raise BadInput(f"unknown acceptance rule {rule!r}", _KNOWN)
    agree, also, alone, probability = found.groups()
    if probability:
        return Calibrated(_share(probability, "probability", rule))
    sure = also or alone
    return Acceptance(bool(agree), _share(sure, "confidence", rule) if sure else None)


def _share(text: str, what: str, rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadInput(f"the {what} in {rule!r} is not between 0 and 1", _KNOWN)
    return value


# --- policies ---------------------------------------------------------------------------------------------------------

_HOW_TO_STOP = "write TIMES, TIMES:WORDS or TIMES:WORDS:CONFIDENCE, such as 2:16:0.9; at least 2 times"


class Schedule(StrEnum):
    """Which calls run concurrently; with greedy decoding, the answer does not depend on it."""

    THRIFTY = "thrifty"
    """One call at a time, none of them speculative."""
    OVERLAP = "overlap"
    """Independent calls run concurrently; the reader prefills the card while it is written."""
    EAGER = "eager"
    """As overlap; the small model also reasons from the start, and is cancelled if the short answers are accepted."""


@dataclass(frozen=True)
class EarlyStop:
    """Stops a reasoning when the reader's answer, probed every `every` words, is the same `times` times in a row."""

    times: int = 2
    every: int = 16
    confidence: float | None = None
    """Minimum probability of each of these answers; ignored if the engine gives no probabilities."""

    def __post_init__(self) -> None:
        if self.times < 2 or self.every < 1 or not 0 <= (self.confidence or 0) <= 1:
            raise BadInput(f"early stop {self} makes no sense", _HOW_TO_STOP)

    def __str__(self) -> str:
        return f"{self.times}:{self.every}" + ("" if self.confidence is None else f":{self.confidence:g}")

    @classmethod
    def parse(cls, text: str) -> EarlyStop:
        """`2` (times), `2:16` (times, words between probes) or `2:16:0.9` (and confidence). Raises BadInput."""
        found = re.fullmatch(r"(\d{1,6})(?::(\d{1,6})(?::(\d(?:\.\d{1,9})?))?)?", text.strip())
        if not found:
            raise BadInput(f"early stop {text!r} makes no sense", _HOW_TO_STOP)
        times, every, confidence = found.groups()
        return cls(int(times), int(every) if every else cls.every, float(confidence) if confidence else None)


class Placed(Protocol):
    """A model's name and its abilities, among them where it computes: a Model, or a stand-in for one."""

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Abilities: ...


@suggests_keywords
@dataclass(frozen=True)
class Policy:
    """The settings of one request."""

    schedule: Schedule | None = None
    """None: thrifty if the models share a device or a process's cores, else overlap."""
    accept: AcceptanceRule | None = None
    """None: `calibrated` if there is a table for the models, else a rule that needs none."""
    table: AcceptanceTable | None = None
    """For `calibrated(p)`; None: the one in the large model's checkpoint, if there is one."""
    card: CardFormat | None = None
    """None: the best format that the reader supports."""
    cut: CardCut | None = None
    """How cards are cut before they are read; None: they are read whole."""
    early_stop: EarlyStop | None = None
    """When a reasoning is stopped because the reader's answer is stable; None: it runs to its end."""
    limits: Limits = field(default_factory=Limits)
    strict: bool = False
    """If a model fails, the request fails, instead of giving the other model's answer."""
    rescue: Mode = Mode.SHORT
    """How the large model answers alone if the small one has failed: directly, or after reasoning."""
    deadline_s: float | None = None
    """After this many seconds the best answer so far is given, as `degraded`."""
    follow_chars: int = 96
    """The reader prefills the growing card each time this many characters are new."""
    cascade_confidence: float = 0.8
    route_difficulty: float = 0.5
    samples: int = 5
    sample_temperature: float = 0.7
    vote_window: int | None = None
    """`vote` ends early if a window of this many samples is unanimous; None: it draws all samples."""
    step_score: float = 0.7
    """`steps` accepts a step if the large model's grade is at least this, 0 to 1."""
    waits: int = 1
    """How many times `force` resumes a reasoning that ends before its budget."""

    def __post_init__(self) -> None:
        limits = self.limits
        if limits.reasoning_tokens < 1 or (limits.answer_tokens is not None and limits.answer_tokens < 1):
            raise BadInput("a budget must be at least 1 token", "leave the budget out for the default")
        if not 0 <= limits.temperature <= 2:
            raise BadInput(f"temperature {limits.temperature:g} is not between 0 and 2")
        if not 0 < limits.top_p <= 1:
            raise BadInput(f"top_p {limits.top_p:g} is not above 0 and at most 1")
        for what, seconds in (("time-out", limits.timeout_s), ("deadline", self.deadline_s)):
            if seconds is not None and not seconds > 0:  # true for nan, too
                raise BadInput(f"a {what} must be more than 0 seconds", "leave it out for the default")
        if limits.seed is not None and abs(limits.seed) >= 2**63:
            raise BadInput("a seed is a whole number of 64 bits", "take a smaller one")
        if self.rescue not in (Mode.SHORT, Mode.REASON):
            raise BadInput(f"a model that answers alone cannot {self.rescue}", "there are: short, reason")
        if self.cut is not None and self.early_stop is not None:
            raise BadInput("a card that is cut when it is whole cannot be read while it is written", "leave one out")
        if self.samples < 1 or (self.vote_window is not None and self.vote_window < 2):
            raise BadInput("vote, verdict and panel need at least 1 sample, and a window at least 2")
        if self.waits < 0:
            raise BadInput("a reasoning cannot be prolonged fewer than 0 times")
        for name in ("cascade_confidence", "route_difficulty", "step_score"):
            if not 0 <= getattr(self, name) <= 1:
                raise BadInput(f"{name} {getattr(self, name):g} is not between 0 and 1")

    def schedule_of(self, models: Mapping[str, Placed]) -> Schedule:
        """The schedule for these models."""
        if self.schedule is not None:
            return self.schedule
        places = [model.abilities.place for role, model in models.items() if role in ("small", "large")]
        shared = len(places) == 2 and places[0] is not None and places[0] == places[1]
        return Schedule.THRIFTY if shared else Schedule.OVERLAP

    def accept_of(self, models: Mapping[str, Placed]) -> AcceptanceRule:
        """The rule for these models; by default one of two. Raises BadInput for `calibrated(p)` without their table."""
        rule, table = self.accept, self.table_of(models)
        if rule is None:
            return UNCALIBRATED if table is None else CALIBRATED
        calibrated = any(isinstance(one, Calibrated) for one in single_rules(rule))
        if calibrated and table is None and {"small", "large"} <= models.keys():
            small, large = models["small"], models["large"]
            wrong = self.table or large.abilities.acceptance
            there = "there is none" if wrong is None else f"the one at hand is for {wrong.small} and {wrong.large}"
            raise BadInput(
                f"{rule} needs an acceptance table for {small.name} and {large.name}, and {there}",
                "`cuecard tune` makes one from a run of theirs; agree+confidence(0.9) needs none",
            )
        return rule

    def table_of(self, models: Mapping[str, Placed]) -> AcceptanceTable | None:
        """The table for these models: the policy's, else the one in the large model's checkpoint; None if none fits."""
        if not {"small", "large"} <= models.keys():
            return None
        names = models["small"].name, models["large"].name
        there = (self.table, models["large"].abilities.acceptance)
        return next((table for table in there if table is not None and table.is_for(*names)), None)

    def sampled(self, index: int) -> Limits:
        """The limits of the index-th sample: each has its own seed, so that samples differ and are reproducible."""
        temperature = self.limits.temperature or self.sample_temperature
        return replace(self.limits, temperature=temperature, seed=(self.limits.seed or 0) + index)
