"""Virtual models: what `model` in a request means. `cuecard`, `cuecard/mutual-eager`, or one model of the pair."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from difflib import get_close_matches

from cuecard.domain.errors import UnknownModel
from cuecard.strategies.policy import Schedule
from cuecard.strategies.run import STRATEGIES

PAIR = "cuecard"
PLAIN = tuple(name for name in STRATEGIES if ":" not in name)
SCHEDULED = ("mutual", "transfer")
"""Strategies whose name can be followed by a schedule: in the others it changes little."""


def virtual() -> dict[str, tuple[str | None, Schedule | None]]:
    """Every virtual model: name -> strategy and schedule, None where the configuration's own holds."""
    names: dict[str, tuple[str | None, Schedule | None]] = {PAIR: (None, None)}
    for strategy in PLAIN:
        names[f"{PAIR}/{strategy}"] = strategy, None
        if strategy in SCHEDULED:
            names |= {f"{PAIR}/{strategy}-{schedule}": (strategy, schedule) for schedule in Schedule}
    return names


VIRTUAL: Mapping[str, tuple[str | None, Schedule | None]] = virtual()


def unknown(model: str, concrete: Iterable[str]) -> UnknownModel:
    """What to say of a model that is not served."""
    served = [*VIRTUAL, *concrete]
    near = get_close_matches(model[:100], served, 1)
    hint = f"did you mean {near[0]}?" if near else f"GET /v1/models lists what is served, {PAIR} above all"
    return UnknownModel(f"the model {model[:200]!r} is not served here", hint)
