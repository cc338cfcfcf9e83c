"""The probability that a large model's short answer is right, from both short answers: a table of coefficients.

    logit P(right) = intercept + agree * [the answers agree] + log_large * ln p - log_not_large * ln(1 - p)
                     + logit_small * ln(q / (1 - q))                              (without a q: + no_small)

p is the large model's probability of its answer, q the small model's of its own; intercept and agree depend on the kind
of answer. The two terms of p are beta calibration (Kull et al. 2017), of which the logit of p is a special case.
A second formula without the small model, with its own coefficients, decides whether its short answer is needed:

    logit P(right) = alone + alone_log_large * ln p - alone_log_not_large * ln(1 - p)
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.domain.errors import BadInput

FILE = "acceptance.json"
"""In the large model's checkpoint folder."""
VERSION = 1
SHARED = "shared"
"""The kind with the weights for all kinds that have none of their own."""
LEAST = 1e-4
"""Probabilities are clipped to LEAST..1-LEAST."""
_HINT = "`cuecard tune RUN --table FILE` writes one"


@dataclass(frozen=True)
class KindWeights:
    """Weights for one kind of answer, and the table's quality on questions of this kind."""

    intercept: float
    agree: float
    questions: int = 0
    accuracy: float | None = None
    """Of the large model's short answers."""
    brier: float | None = None
    """Mean squared error of the probability, cross-fitted: each question by a table fitted without its cluster."""
    ece: float | None = None
    """Expected calibration error, cross-fitted: 10 bins of equal width."""
    alone: float | None = None
    """The intercept of the formula without the small model; None: not fitted."""


@dataclass(frozen=True)
class Evidence:
    """Results on the data of the fit: answers that `rule` accepts, each by a table fitted without its cluster."""

    rule: str
    accepted: int
    wrong: int
    """Wrong answers among the accepted ones."""
    level: float
    """Confidence level of the interval of `risk`, two-sided: 0.95."""
    beta: float
    """The share of questions that both models get wrong, accepted or not."""
    data: str
    """The digest of the short answers, 16 hex digits."""
    risk: float | None = None
    """The share of wrong answers among the accepted ones; None if none was accepted."""
    risk_high: float | None = None
    """The upper end of the interval of `risk`; None if one cluster gives no interval."""
    alike_given_wrong: float | None = None
    """Among the questions that both models get wrong, the share with the same answer."""


@dataclass(frozen=True)
class AcceptanceTable:
    """The coefficients, the two models that they apply to, and the data of the fit."""

    small: str
    """The small model's name; `large` is the large model's."""
    large: str
    log_large: float
    log_not_large: float
    logit_small: float
    no_small: float
    kinds: tuple[tuple[str, KindWeights], ...]
    """By kind of answer; SHARED is one of them."""
    alone_log_large: float = 0.0
    alone_log_not_large: float = 0.0
    tasks: tuple[str, ...] = ()
    run: str | None = None
    small_revision: str | None = None
    """The identity of the weights, as in a run's `run.json`."""
    large_revision: str | None = None
    evidence: Evidence | None = None

    @property
    def questions(self) -> int:
        """The number of questions that the table was fitted on."""
        return dict(self.kinds)[SHARED].questions

    def is_for(self, small: str, large: str) -> bool:
        """Whether it was fitted on these two models."""
        return (self.small, self.large) == (small, large)

    def probability(self, kind: str, same: bool, large: float, small: float | None) -> float:
        """That the large model's short answer is right. `large`, `small`: each model's probability of its own answer.

        At most (n + 1) / (n + 2) for a table fitted on n questions, as n right answers show no more (Laplace's rule).
        """
        own, p = self._of(kind), clipped(large)
        score = own.intercept + own.agree * same + self.log_large * math.log(p) - self.log_not_large * math.log(1 - p)
        score += self.no_small if small is None else self.logit_small * logit(small)
        return self._capped(score)

    def alone(self, kind: str, large: float) -> float:
        """The probability without the small model's answer; 0 if the table was not fitted for that."""
        own, p = self._of(kind), clipped(large)
        if own.alone is None:
            return 0.0
        return self._capped(own.alone + self.alone_log_large * math.log(p) - self.alone_log_not_large * math.log(1 - p))

    def most(self, kind: str, large: float) -> float:
        """The highest `probability` over all possible answers of the small model."""
        return max(self.probability(kind, same, large, small) for same in (True, False) for small in (None, 0.0, 1.0))

    def allows(self, least: float, kind: str, same: bool, large: float, small: float | None) -> bool:
        """Whether the answer is right with at least this probability, by the large model alone or by both."""
        return max(self.alone(kind, large), self.probability(kind, same, large, small)) >= least

    def _of(self, kind: str) -> KindWeights:
        weights = dict(self.kinds)
        return weights.get(kind, weights[SHARED])

    def _capped(self, score: float) -> float:
        return min(sigmoid(score), (self.questions + 1) / (self.questions + 2))

    # --- as data ---

    def as_object(self) -> dict[str, Any]:
        """As plain data, in the form that `of_object` takes, without fields that are None."""
        own = {each.name: getattr(self, each.name) for each in fields(self) if each.name != "kinds"}
        own["tasks"] = list(self.tasks)
        own["evidence"] = None if self.evidence is None else _known(asdict(self.evidence))
        kinds = {kind: _known(asdict(weights)) for kind, weights in self.kinds}
        return {"version": VERSION, **_known(own), "kinds": kinds}

    @classmethod
    def of_object(cls, given: Mapping[str, Any]) -> AcceptanceTable:
        """From plain data. Raises BadInput."""
        table = dict(given)
        if (version := table.pop("version", None)) != VERSION or isinstance(version, bool):
            raise BadInput(f"an acceptance table of version {version!r}; this cuecard reads {VERSION}", _HINT)
        kinds, evidence = table.pop("kinds", None), table.pop("evidence", None)
        if not isinstance(kinds, dict) or not isinstance(kinds.get(SHARED), dict):
            raise BadInput(f"an acceptance table without kinds.{SHARED}", _HINT)
        disk.check_table(table, disk.kinds_of(cls))
        if missing := [each.name for each in fields(cls) if each.default is MISSING and each.name not in given]:
            raise BadInput(f"{missing[0]} is missing", _HINT)
        if evidence is not None:
            disk.check_kind("evidence", evidence, dict)
            evidence = disk.build(Evidence, evidence, "evidence.")
        disk.check_table(kinds, dict.fromkeys(kinds, dict), "kinds.")
        made = [(kind, disk.build(KindWeights, weights, f"kinds.{kind}.")) for kind, weights in kinds.items()]
        numbers = [value for value in table.values() if isinstance(value, float)]
        numbers += [number for _, each in made for number in (each.intercept, each.agree, each.alone or 0.0)]
        if not all(map(math.isfinite, numbers)) or any(weights.questions < 0 for _, weights in made):
            raise BadInput("an acceptance table with a number that is none", _HINT)
        return cls(**{**table, "tasks": tuple(table.get("tasks", ())), "kinds": tuple(made), "evidence": evidence})

    @classmethod
    def read(cls, path: Path) -> AcceptanceTable:
        """The table in a JSON file. Raises BadInput."""
        try:
            given = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise BadInput(f"cannot read {path}: {error}", _HINT) from error
        with disk.in_file(path):
            if not isinstance(given, dict):
                raise BadInput("not an acceptance table", _HINT)
            return cls.of_object(given)


def clipped(probability: float) -> float:
    """The probability clipped to LEAST..1-LEAST."""
    return min(max(probability, LEAST), 1 - LEAST)


def logit(probability: float) -> float:
    """ln(p / (1 - p)) of the clipped probability."""
    p = clipped(probability)
    return math.log(p / (1 - p))


def sigmoid(score: float) -> float:
    """1 / (1 + exp(-score)), for any finite score."""
    return 1 / (1 + math.exp(-score)) if score >= 0 else math.exp(score) / (1 + math.exp(score))


def _known(given: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in given.items() if value is not None}
