"""Whether the two models together are worth it: their strategies against the best single model that takes no longer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from cuecard.evals.analysis.differences import Difference

FAMILY = "single"


class Pays(StrEnum):
    """What a comparison with the best single model shows."""

    YES = "pays"
    """A strategy of both models is significantly more accurate."""
    NO = "does not pay"
    """None is more accurate."""
    OPEN = "is not shown to pay"
    """One is more accurate, but not significantly."""


@dataclass(frozen=True)
class Verdict:
    """`shown`: the comparison of the strategy that gains most."""

    pays: Pays
    shown: Difference


def verdict(compared: Sequence[Difference]) -> Verdict | None:
    """Of one task's comparisons; None where seconds are not known, or no single model is as fast."""
    own = [each for each in compared if each.family == FAMILY]
    if not own:
        return None
    significant = [each for each in own if each.significant and each.accuracy.difference.estimate > 0]
    shown = max(significant or own, key=lambda each: each.accuracy.difference.estimate)
    if significant:
        return Verdict(Pays.YES, shown)
    return Verdict(Pays.OPEN if shown.accuracy.difference.estimate > 0 else Pays.NO, shown)
