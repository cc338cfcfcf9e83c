"""The tables of a latency profile: as the page shows them (heads, and rows of texts), and as rows for files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from cuecard.latency.analysis.latency_model import COEFFICIENTS, Fit
from cuecard.latency.analysis.measured import Found, Roof
from cuecard.latency.server.metrics import DEFINITIONS, PERCENTILES, PointMetrics, Spread
from cuecard.latency.simulate.breakeven import PairBreakEven
from cuecard.latency.simulate.costs import TRANSFER
from cuecard.report.latency.figures import PARTS
from cuecard.report.page import formatting
from cuecard.strategies.policy import Schedule

Texts = tuple[list[str], list[list[str]]]
COSTS = {
    "fixed_s": "a request",
    "prefill_s_per_token": "a prompt token",
    "prefill_s_per_pair": "a pair of prompt tokens",
    "decode_s_per_token": "a token written after the first",
    "decode_s_per_context_token": "a token of its context",
    "decode_start_s": "the first of these, beyond that",
    "decode_start_s_per_context_token": "and a token of its context",
    "vision_fixed_s": "an image",
    "vision_s_per_token": "a visual token",
    "vision_s_per_pair": "a pair of visual tokens",
}
"""What each coefficient is the cost of."""


# --- on the page ------------------------------------------------------------------------------------------------------


def percentiles(points: Sequence[PointMetrics]) -> Texts:
    """Percentiles of every metric of a server at every point, in milliseconds."""
    heads = ["model", "load", "image", "read", "cached", "wrote", "requests", "metric", "mean"]
    rows = [
        [*_point(each), name, *(_metric(name, value) for value in (spread.mean, *spread.percentiles.values()))]
        for each in points
        for name, spread in each.metrics.items()
    ]
    return [*heads, *(f"p{p}" for p in PERCENTILES)], rows


def definitions(points: Sequence[PointMetrics]) -> Texts:
    """What each metric is that a profile has."""
    used = {name for each in points for name in each.metrics}
    return ["metric", "is"], [[name, text] for name, text in DEFINITIONS.items() if name in used]


def held_out(fits: Sequence[Fit]) -> Texts:
    """Errors on points that a fit has not seen."""
    rows = [
        [fit.model, name, str(error.points), f"{100 * error.median:.1f}%", f"{100 * error.p90:.1f}%"]
        for fit in fits
        for name, error in fit.held_out.items()
    ]
    return ["model", "of", "points", "median error", "90% below"], rows


def coefficients(fits: Sequence[Fit]) -> Texts:
    """A column a model, microseconds."""
    rows = [[meaning, *(_coefficient(fit, name) for fit in fits)] for name, meaning in COSTS.items()]
    return ["µs for", *(fit.model for fit in fits)], rows if fits else []


def break_even(pair: PairBreakEven) -> Texts:
    """A row a length that the large model writes by itself, a column a strategy."""
    kinds: list[tuple[str, Schedule, float | None]] = [("transfer", each, None) for each in TRANSFER]
    heads = [f"{pair.large} writes", f"{pair.small} alone", *(f"transfer, {each}" for each in TRANSFER)]
    if pair.agree is not None:
        kinds += [("mutual", each, pair.agree) for each in Schedule]
        heads += [f"mutual at {formatting.percent(pair.agree)}, {each}" for each in Schedule]
    alone = {each.output: each.crossing for each in pair.alone if each.visual == pair.workload.visual}
    by = {(each.strategy, each.schedule, each.agree, each.output): each.crossing for each in pair.together}
    rows = [
        [
            f"{output:,}",
            formatting.crossing(alone[output]),
            *(formatting.crossing(by[(*kind, output)]) for kind in kinds),
        ]
        for output in dict.fromkeys(each.output for each in pair.together)
    ]
    return heads, rows


def by_image(pair: PairBreakEven) -> Texts:
    """The small model alone against a short answer, by image size; nothing where there is one size only."""
    sizes = [each for each in pair.alone if each.output == pair.workload.answer]
    rows = [[f"{each.visual:,}", formatting.crossing(each.crossing)] for each in sizes]
    return ["visual tokens", "break-even"], rows if len(rows) > 1 else []


def roofline(roofs: Sequence[Roof]) -> Texts:
    """The largest point of every component against the least time that the device allows."""
    heads = ["model", "setting", "component", "took", "least", "times", "by the datasheet", "bound by"]
    rows = [
        [
            roof.model,
            _setting(roof),
            roof.component,
            formatting.duration(roof.measured_s),
            formatting.duration(roof.least_s),
            f"{roof.times:.1f}",
            "not known" if roof.datasheet_s is None else formatting.duration(roof.datasheet_s),
            roof.bound,
        ]
        for roof in largest(roofs)
    ]
    return heads, rows


def _coefficient(fit: Fit, name: str) -> str:
    value, sure = getattr(fit.profile, name), fit.interval(name)
    between = "" if sure is None else f" ({_micros(sure[0])} to {_micros(sure[1])})"
    return _micros(value) + between


def _micros(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-4 else f"{1e6 * seconds:.2g}"


def _point(each: PointMetrics) -> list[str]:
    point, failed = each.point, f" + {each.failed} failed" if each.failed else ""
    image = "" if point.image_px is None else f"{point.image_px} px"
    cached = "not known" if each.cached is None else f"{each.cached:,.0f}"
    read, wrote = f"{each.prompt:,.0f}", f"{each.output:,.0f}"
    return [each.model, each.load, image, read, cached, wrote, f"{each.requests}{failed}"]


def _metric(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "tokens an event" else f"{1000 * value:,.2f}"


def _setting(roof: Roof) -> str:
    point = roof.point
    facts = [point.dtype, point.attention, "compiled" if point.compiled else None, f"batch {point.batch or 1}"]
    return ", ".join(filter(None, facts))


def largest(roofs: Sequence[Roof]) -> list[Roof]:
    """Of each model, setting and component the point with the most tokens."""
    best: dict[tuple[str, str, str], Roof] = {}
    for roof in roofs:
        key = (roof.model, _setting(roof), roof.component)
        if _size(roof) > _size(best.setdefault(key, roof)):
            best[key] = roof
    models = list(dict.fromkeys(roof.model for roof in roofs))
    place = {part: number for number, part in enumerate(PARTS)}
    return sorted(best.values(), key=lambda roof: (models.index(roof.model), _setting(roof), place[roof.component]))


def _size(roof: Roof) -> tuple[int, ...]:
    point = roof.point
    return point.output_tokens or 0, point.prompt_tokens or 0, point.visual_tokens or 0


# --- as files ---------------------------------------------------------------------------------------------------------


def tables(
    points: Sequence[Found],
    fits: Sequence[Fit],
    pairs: Sequence[PairBreakEven],
    roofs: Sequence[Roof],
    served: Sequence[PointMetrics],
) -> dict[str, list[Mapping[str, Any]]]:
    """What the figures show, as rows, by the file's name; empty tables are left out."""
    named: dict[str, list[Mapping[str, Any]]] = {
        "points": [_flat(asdict(point)) for point in points],
        "fits": [
            {
                "model": fit.model,
                "coefficient": name,
                "estimate": getattr(fit.profile, name),
                **_ends(fit.interval(name)),
            }
            for fit in fits
            for name in COEFFICIENTS
        ],
        "held_out": [
            {"model": fit.model, "of": name, **asdict(error)} for fit in fits for name, error in fit.held_out.items()
        ],
        "break_even": [
            {"small": pair.small, "large": pair.large, "label": "estimated", **_flat(each)}
            for pair in pairs
            for each in [*map(asdict, pair.alone), *map(asdict, pair.together)]
        ],
        "strategies": [
            {"small": pair.small, "large": pair.large, "label": "estimated", **asdict(each)}
            for pair in pairs
            for each in pair.spent
        ],
        "roofline": [_flat({**asdict(roof), "times": roof.times}) for roof in roofs],
        **({"server": _server_rows(served)} if served else {}),
    }
    return {name: rows for name, rows in named.items() if rows}


def _ends(sure: tuple[float, float] | None) -> Mapping[str, Any]:
    return {"low": None, "high": None} if sure is None else {"low": sure[0], "high": sure[1]}


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings one level down, as columns of their own."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{inner}": each for inner, each in value.items() if each is not None}
        else:
            flat[name] = value
    return flat


def _server_rows(points: Sequence[PointMetrics]) -> list[Mapping[str, Any]]:
    """A row a point and metric, seconds."""
    return [
        {
            "model": each.model,
            **{name: getattr(each.point, name) for name in ("concurrency", "rate", "image_px", "ignore_eos")},
            "prompt_tokens": each.prompt,
            "cached_tokens": each.cached,
            "output_tokens": each.output,
            "requests": each.requests,
            "failed": each.failed,
            "metric": name,
            **_values(spread),
        }
        for each in points
        for name, spread in each.metrics.items()
    ]


def _values(spread: Spread) -> dict[str, Any]:
    return {"mean": spread.mean, **{f"p{p}": value for p, value in spread.percentiles.items()}, "values": spread.values}
