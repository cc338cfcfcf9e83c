"""The schemes that are compared: each is one way of cooperation, with settings that trade cost for accuracy."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from cuecard.domain.errors import BadInput, did_you_mean

CUTS = (16, 32, 64, 128)
"""Reasoning budgets in tokens; a budget that cuts nothing needs no additional call."""
ROUTES = ("short:small", "short:large", "reason:small", "reason:large", "transfer")
"""The oracle's arms, from which a router could choose. None of them samples, so that luck does not help the oracle."""
AGAINST = "mutual"
_CONFIDENCES = (0.5, 0.8, 0.9, 0.95, 0.99)
_RULES = ("agree", *(f"agree+confidence({each:g})" for each in (0.5, 0.9, 0.99)))
_SURE = tuple(f"confidence({each:g})" for each in (0.9, 0.99, 0.999))


@dataclass(frozen=True)
class Scheme:
    """One way of cooperation, and its settings as arms."""

    name: str
    arms: tuple[str, ...]


def schemes(cuts: Sequence[int] = CUTS) -> tuple[Scheme, ...]:
    """All schemes, the single models first. `cuts`: reasoning budgets in tokens, for the schemes that use them."""

    def forced(role: str) -> tuple[str, ...]:
        plain = f"reason:{role}"
        return (*(f"{plain}/budget={cut}" for cut in cuts), plain, *(f"force:{role}/waits={n}" for n in (1, 2)))

    return (
        *(Scheme(name, (name,)) for name in ("short:small", "short:large", "reason:small", "reason:large")),
        Scheme("force:small", forced("small")),
        Scheme("force:large", forced("large")),
        Scheme("transfer", (*(f"transfer/budget={cut}" for cut in cuts), "transfer", "transfer/early-stop=2:16")),
        Scheme("mutual", ("mutual", *(f"mutual/accept={rule}" for rule in (*_RULES, *_SURE)))),
        Scheme("cascade", tuple(f"cascade/confidence={each:g}" for each in _CONFIDENCES)),
        Scheme("ladder", tuple(f"ladder/confidence={each:g}" for each in _CONFIDENCES)),
        Scheme("route", tuple(f"route/difficulty={each:g}" for each in (0.1, 0.25, 0.5, 0.75))),
        Scheme("vote", tuple(f"vote/samples={count}" for count in (1, 2, 3, 5))),
        Scheme("early-vote", ("vote/samples=3/window=2", "vote/samples=5/window=2", "vote/samples=5/window=3")),
        Scheme("verdict", tuple(f"verdict/samples={count}" for count in (1, 2, 3, 5))),
        Scheme("panel", tuple(f"panel/samples={count}" for count in (1, 2, 3))),
        Scheme("steps", tuple(f"steps/score={each:g}" for each in (0.3, 0.5, 0.7, 0.9))),
    )


def chosen(names: Iterable[str], cuts: Sequence[int] = CUTS) -> tuple[Scheme, ...]:
    """The schemes with these names in the order of `schemes`; all if no name is given. Raises BadInput."""
    every, wanted = schemes(cuts), [name.strip() for name in names if name.strip()]
    known = [scheme.name for scheme in every]
    if unknown := [name for name in wanted if name not in known]:
        raise BadInput(f"unknown scheme {unknown[0]!r}", did_you_mean(unknown[0], known))
    return tuple(scheme for scheme in every if not wanted or scheme.name in wanted)


def arms_of(some: Iterable[Scheme]) -> list[str]:
    """All distinct arms: those of the schemes, and those for the budgets and the oracle."""
    return list(dict.fromkeys((*ROUTES, *(arm for scheme in some for arm in scheme.arms))))
