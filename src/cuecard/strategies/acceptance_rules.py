"""Acceptance rules: when two short answers make reasoning unnecessary. `str` writes one as text, `parse` reads it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from cuecard.domain.errors import BadInput
from cuecard.models.acceptance_table import AcceptanceTable
from cuecard.models.base import Abilities

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

    @property
    def rules(self) -> tuple[SingleRule, ...]:
        """The single rules, of which one is enough."""
        return (self,)

    @property
    def compares(self) -> bool:
        """Whether the rule depends on the agreement of the answers."""
        return self.agreement

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

    @property
    def rules(self) -> tuple[SingleRule, ...]:
        """The single rules, of which one is enough."""
        return (self,)

    @property
    def compares(self) -> bool:
        """Whether the rule depends on the agreement of the answers."""
        return True


@dataclass(frozen=True)
class AnyRule:
    """Several rules, of which one is enough."""

    rules: tuple[SingleRule, ...]

    def __str__(self) -> str:
        return "|".join(map(str, self.rules))

    @property
    def compares(self) -> bool:
        """Whether the rule depends on the agreement of the answers."""
        return any(rule.compares for rule in self.rules)


SingleRule = Acceptance | Calibrated
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


class Placed(Protocol):
    """A model's name and its abilities, among them where it computes: a Model, or a stand-in for one."""

    @property
    def name(self) -> str: ...

    @property
    def abilities(self) -> Abilities: ...


def one_model(models: Mapping[str, Placed]) -> str | None:
    """A remark if the small and the large model have the same name; None if they differ."""
    if not {"small", "large"} <= models.keys() or models["small"].name != models["large"].name:
        return None
    return (
        f"the small and the large model are both {models['large'].name}: if they are one model, it agrees with itself,"
        " right or wrong, and a token of the one costs what a token of the other does"
    )


def table_for(models: Mapping[str, Placed], given: AcceptanceTable | None) -> AcceptanceTable | None:
    """The table for these models: the given one, else the one in the large model's checkpoint; None if none fits."""
    if not {"small", "large"} <= models.keys():
        return None
    small, large = models["small"], models["large"]
    there = (given, large.abilities.acceptance)
    return next((table for table in there if table is not None and table.is_for(small.name, large.name)), None)


def rule_for(
    models: Mapping[str, Placed], rule: AcceptanceRule | None, given: AcceptanceTable | None
) -> AcceptanceRule:
    """The rule for these models; None becomes a default. Raises BadInput for `calibrated(p)` without their table."""
    table = table_for(models, given)
    if rule is None:
        return UNCALIBRATED if table is None else CALIBRATED
    if table is None and {"small", "large"} <= models.keys() and any(isinstance(one, Calibrated) for one in rule.rules):
        small, large = models["small"], models["large"]
        wrong = given or large.abilities.acceptance
        there = "there is none" if wrong is None else f"the one at hand is for {wrong.small} and {wrong.large}"
        raise BadInput(
            f"{rule} needs an acceptance table for {small.name} and {large.name}, and {there}",
            "`cuecard tune` makes one from a run of theirs; agree+confidence(0.9) needs none",
        )
    return rule


def _single(part: str, rule: str) -> SingleRule:
    if found := re.fullmatch(r"calibrated\(([0-9.]+)\)", part):
        return Calibrated(_share(found[1], "probability", rule))
    found = re.fullmatch(r"(agree)?(\+)?(?:confidence\(([0-9.]+)\))?", part)
    if not found or not (found[1] or found[3]) or bool(found[2]) != bool(found[1] and found[3]):
        raise BadInput(f"unknown acceptance rule {rule!r}", _KNOWN)
    return Acceptance(bool(found[1]), _share(found[3], "confidence", rule) if found[3] else None)


def _share(text: str, what: str, rule: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise BadInput(f"the {what} in {rule!r} is not between 0 and 1", _KNOWN)
    return value
