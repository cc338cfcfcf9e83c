"""Virtual models: what `model` in a request means. `cuecard`, `cuecard/mutual-eager`, or one model of a pair."""

from __future__ import annotations

from collections.abc import Sequence

from cuecard.domain.errors import UnknownModel
from cuecard.domain.suggestions import did_you_mean
from cuecard.strategies.policy import Schedule
from cuecard.strategies.run import STRATEGIES

PAIR = "cuecard"
SCHEDULED = ("mutual", "transfer")
"""Strategies whose name can be followed by a schedule: in the others it changes little."""


def virtual(pair: str) -> dict[str, tuple[str | None, Schedule | None]]:
    """Every virtual model of a pair: name -> strategy and schedule, None where the configuration's own holds."""
    names: dict[str, tuple[str | None, Schedule | None]] = {pair: (None, None)}
    for strategy in (name for name in STRATEGIES if ":" not in name):
        names[f"{pair}/{strategy}"] = strategy, None
        if strategy in SCHEDULED:
            names |= {f"{pair}/{strategy}-{schedule}": (strategy, schedule) for schedule in Schedule}
    return names


def unknown(model: str, served: Sequence[str]) -> UnknownModel:
    """What to say of a model that is not served; the first of those that are is named."""
    listed = f"GET /v1/models lists what is served, as {served[0]}; aliases in the configuration add names to a pair"
    return UnknownModel(f"the model {model[:200]!r} is not served here", did_you_mean(model, served, listed))
