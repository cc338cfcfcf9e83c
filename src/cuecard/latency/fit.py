"""From readings to a latency model: vision(visual tokens) + prefill(tokens, cached) + decode(tokens, context).

    vision   fixed + a·v + b·v²                     v visual tokens; the square is attention's
    prefill  fixed + a·t + b·(t·c + t·(t + 1)/2)    t tokens computed behind c cached ones
    decode   Σ over tokens after the first: a + b·context; and once, at the first of these: fixed + c·context
    rest     fixed + a·tokens                       detokenising, orchestration

All coefficients are non-negative. Residuals are relative with a soft-L1 loss (scipy's `least_squares`), which limits
the weight of outliers. Intervals are from bootstrap draws of whole points, errors from held-out points.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Any

import numpy as np
from scipy.optimize import least_squares, nnls

from cuecard.domain.errors import BadInput
from cuecard.latency import readings
from cuecard.latency.latency_model import COEFFICIENTS, Fit, HeldOut
from cuecard.latency.readings import Point, Reading, setting_of, usable
from cuecard.models.simulated import pairs_of

DRAWS = 200
FOLDS = 4
WIDE = 8
"""Minimum number of distinct points for more than three coefficients in a component."""
USUAL_ERROR = 0.05
"""Relative residuals beyond this count less than their square."""
VISION = ("vision_fixed_s", "vision_s_per_token", "vision_s_per_pair")
PREFILL = ("fixed_s", "prefill_s_per_token", "prefill_s_per_pair")
DECODE = (
    "decode_s_per_token",
    "decode_start_s",
    "decode_s_per_context_token",
    "decode_start_s_per_context_token",
)
SHAPES: Mapping[str, Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]]] = {
    "in-process": {
        "vision": (("preprocess", "vision", "projector"), VISION),
        "prefill": (("prefill",), PREFILL),
        "decode": (("decode",), DECODE),
        "rest": (("detokenise", "gap"), ("fixed_s", "decode_s_per_token")),
    },
    "server": {
        "first token": (("ttft",), (*PREFILL, *VISION)),
        "decode": (("decode",), DECODE),
        "rest": (("tail",), ("fixed_s",)),
    },
}
"""By source and component: the parts of a reading that it covers, and its coefficients."""


def fits(path: Path, draws: int = DRAWS, seed: int = 0) -> list[Fit]:
    """A fit for every model and setting of a profile, in the order of its models. Raises BadInput."""
    data = readings.about(path)
    groups: dict[tuple[str, str, tuple[Any, ...]], list[Reading]] = {}
    for reading in usable(path):
        setting = tuple(setting_of(reading.seen).items())
        groups.setdefault((reading.model, reading.source, setting), []).append(reading)
    where = {name: value for name, value in data.items() if name not in ("version", "config")}
    where["models"] = list(data["config"].get("models") or dict.fromkeys(model for model, _, _ in groups))
    made = [fit(group, where, draws, seed) for group in groups.values()]
    return sorted(made, key=lambda each: where["models"].index(each.model) if each.model in where["models"] else -1)


def fit(group: Sequence[Reading], measured: Mapping[str, Any], draws: int = DRAWS, seed: int = 0) -> Fit:
    """Fit the readings of one model in one setting. Raises BadInput if they cannot separate prefill from decoding."""
    first = group[0]
    rows = [(reading, amounts) for reading in group if (amounts := _amounts(reading.seen)) is not None]
    if len({amounts["decode_s_per_token"] for _, amounts in rows}) < 2:
        raise BadInput(
            f"the readings of {first.model} have one output length: decoding cannot be separated",
            "profile at least two, for instance --output-tokens 1,8,32",
        )
    seen = [reading.seen for reading in group]
    sizes = [p.image_px**2 / p.visual_tokens for p in seen if p.image_px and p.visual_tokens]
    spans = ((name, [v for p in seen if (v := getattr(p, name)) is not None]) for name in _RANGES)
    designs = {name: Design.of(rows, *shape) for name, shape in SHAPES[first.source].items()}
    places: dict[Point, list[int]] = {}
    for place, (reading, _) in enumerate(rows):
        places.setdefault(reading.point, []).append(place)
    groups = list(places.values())
    return Fit(
        model=first.model,
        source=first.source,
        setting=setting_of(first.seen),
        parts={name: design.solved(_joined(groups)) for name, design in designs.items()},
        draws=list(_drawn(designs, groups, draws, seed)),
        held_out=_held_out(designs, groups, seed),
        ranges={name: (min(values), max(values)) for name, values in spans if values},
        images=_images(seen),
        readings=len(rows),
        points=len(groups),
        pixels_per_visual_token=median(sizes) if sizes else None,
        measured=measured,
    )


_RANGES = ("visual_tokens", "prompt_tokens", "output_tokens")


def _images(seen: Sequence[Point]) -> list[tuple[int, int]]:
    least: dict[int, int] = {}
    for point in seen:
        if point.prompt_tokens is not None:
            visual = point.visual_tokens or 0
            least[visual] = min(point.prompt_tokens, least.get(visual, point.prompt_tokens))
    return sorted(least.items())


def _amounts(seen: Point) -> dict[str, float] | None:
    """How often each coefficient counts in a reading of this point; None if tokens were not observed."""
    if seen.prompt_tokens is None or not seen.output_tokens:
        return None
    cached, steps = seen.cached_tokens or 0, seen.output_tokens - 1
    context, computed = seen.context_tokens or seen.prompt_tokens, seen.prompt_tokens - cached
    visual = 0 if 0 < (seen.visual_tokens or 0) <= cached else seen.visual_tokens or 0  # cached images are not encoded
    return {
        "fixed_s": 1.0,
        "prefill_s_per_token": computed,
        "prefill_s_per_pair": pairs_of(computed, cached),
        "decode_s_per_token": steps,
        "decode_s_per_context_token": steps * (context + (steps + 1) / 2),
        "decode_start_s": float(steps > 0),
        "decode_start_s_per_context_token": float(steps > 0) * (context + 1),
        "vision_fixed_s": float(visual > 0),
        "vision_s_per_token": visual,
        "vision_s_per_pair": visual**2,
    }


@dataclass(frozen=True)
class Design:
    """One component as a regression: (rows, coefficients) amounts, (rows,) seconds, (rows,) scales of errors."""

    coefficients: tuple[str, ...]
    amounts: Any
    seconds: Any
    scale: Any
    most: int
    """Maximum number of coefficients: three if points are few, to avoid fitting their noise."""

    @classmethod
    def of(
        cls, rows: Sequence[tuple[Reading, Mapping[str, float]]], parts: Sequence[str], coefficients: tuple[str, ...]
    ) -> Design:
        amounts = np.array([[row[name] for name in coefficients] for _, row in rows], float)
        seconds = np.array([sum(reading.parts_s.get(part, 0.0) for part in parts) for reading, _ in rows])
        totals = np.array([sum(reading.parts_s.values()) for reading, _ in rows])
        # a negligible part of a request needs no exact fit
        scale = np.maximum(np.maximum(seconds, 0.01 * totals), 1e-9)
        most = len(coefficients) if len(np.unique(amounts, axis=0)) >= WIDE else 3
        return cls(coefficients, amounts, seconds, scale, most)

    def solved(self, rows: Any) -> dict[str, float]:
        """The coefficients that these rows (indices) identify."""
        scale = self.scale[rows]
        amounts = self.amounts[rows] / scale[:, None]
        used = _identifiable(amounts, self.most)
        if not used:
            return {}
        values = _robust(amounts[:, used], self.seconds[rows] / scale)
        return {self.coefficients[place]: float(value) for place, value in zip(used, values, strict=True)}

    def predicted(self, values: Mapping[str, float], row: int) -> float:
        amounts = dict(zip(self.coefficients, self.amounts[row], strict=True))
        return float(sum(value * amounts[name] for name, value in values.items()))


def _identifiable(amounts: Any, most: int) -> list[int]:
    """At most `most` columns whose coefficients these rows identify: in order, each one that raises the rank."""
    used: list[int] = []
    norms = np.linalg.norm(amounts, axis=0)
    for place in np.flatnonzero(norms):
        tried = [*used, int(place)]
        if len(tried) <= most and np.linalg.matrix_rank(amounts[:, tried] / norms[tried], tol=1e-3) == len(tried):
            used = tried
    return used


def _robust(amounts: Any, target: Any) -> Any:
    """(columns,) non-negative coefficients with soft-L1 loss on residuals, starting from non-negative least squares."""
    norms = np.linalg.norm(amounts, axis=0)
    scaled = amounts / norms
    start, _ = nnls(scaled, target)
    found = least_squares(
        lambda values: scaled @ values - target,
        np.maximum(start, 1e-6),
        jac=lambda values: scaled,
        bounds=(0, np.inf),
        loss="soft_l1",
        f_scale=USUAL_ERROR,
    )
    return np.where(found.x < 1e-5, 0.0, found.x) / norms


def _drawn(
    designs: Mapping[str, Design], groups: Sequence[Sequence[int]], draws: int, seed: int
) -> Iterable[dict[str, float]]:
    """Profiles of bootstrap draws of points; a draw that identifies fewer coefficients is repeated."""
    chance = Random(seed)
    wanted = {name: set(design.solved(_joined(groups))) for name, design in designs.items()}
    for _ in range(draws if len(groups) > 2 else 0):
        for _ in range(20):
            rows = _joined(chance.choices(groups, k=len(groups)))
            parts = {name: design.solved(rows) for name, design in designs.items()}
            if all(set(part) == wanted[name] for name, part in parts.items()):
                yield {name: sum(part.get(name, 0.0) for part in parts.values()) for name in COEFFICIENTS}
                break


def _held_out(designs: Mapping[str, Design], groups: Sequence[Sequence[int]], seed: int) -> dict[str, HeldOut]:
    """Errors on each fold, predicted from the other folds, against the median of each point's readings."""
    order = Random(seed).sample(groups, len(groups))
    folds = [order[start::FOLDS] for start in range(min(FOLDS, len(order)))]
    errors: dict[str, list[float]] = {name: [] for name in (*designs, "total")}
    for fold in folds if len(folds) > 1 else ():
        training = _joined([group for other in folds if other is not fold for group in other])
        parts = {name: design.solved(training) for name, design in designs.items()}
        for group in fold:
            expected = {name: design.predicted(parts[name], group[0]) for name, design in designs.items()}
            for name, design in designs.items():
                if expected[name] or design.seconds[group].any():
                    errors[name].append(_error(expected[name], design.seconds[group], design.scale[group]))
            spent = sum(each.seconds[group] for each in designs.values())
            errors["total"].append(_error(sum(expected.values()), spent, spent))
    return {
        name: HeldOut(float(np.median(each)), float(np.quantile(each, 0.9)), len(each))
        for name, each in errors.items()
        if each
    }


def _error(expected: float, observed: Any, scale: Any) -> float:
    """Error against the median of a point's readings, relative to it (or to 1% of the request, if a part is below)."""
    return abs(expected - float(np.median(observed))) / float(np.median(scale))


def _joined(groups: Sequence[Sequence[int]]) -> Any:
    return np.array([row for group in groups for row in group])
