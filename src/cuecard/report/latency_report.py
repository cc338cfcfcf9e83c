"""The report of a latency profile: one page, its figures and its tables as files. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from cuecard.latency.breakeven import PairBreakEven
from cuecard.latency.latency_model import COEFFICIENTS, Fit
from cuecard.latency.readings import Found, setting_of
from cuecard.latency.roofline import Device, Roof
from cuecard.latency.server_requests import DEFINITIONS, PointMetrics, Spread
from cuecard.report import formatting, html
from cuecard.report import latency_figures as figures
from cuecard.report.html import KeyResult, Report, Rows
from cuecard.report.latency_figures import PARTS, at_answer, crossing_said
from cuecard.strategies.policy import Schedule

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
"""Description of each coefficient."""


@dataclass(frozen=True)
class Profiled:
    """The content of a report. `fits`: one per model, in the setting that is shown."""

    name: str
    points: Sequence[Found]
    fits: Sequence[Fit]
    pairs: Sequence[PairBreakEven]
    roofs: Sequence[Roof]
    devices: Mapping[str, Mapping[str, Device]]
    about: Sequence[tuple[str, str]]
    served: Sequence[PointMetrics] = ()
    """For a profile of servers: every point with its metrics."""


def report(shown: Profiled) -> Report:
    """The page, its figures, and its tables as rows."""
    fitted = {fit.model for fit in shown.fits}  # the other model of a pair may be in another directory
    both = [pair for pair in shown.pairs if {pair.small, pair.large} <= fitted]
    curves = [figures.latency_against_tokens(shown.fits, shown.points, pair) for pair in both]
    stacked = figures.components(shown.points, shown.fits)
    surfaces = {each: [figures.surface(pair, each) for pair in shown.pairs] for each in Schedule}
    plain = {dtype: own for dtype in shown.devices if (own := _plain(shown, dtype))}
    rooflines = [figures.roofline(own, shown.devices, dtype) for dtype, own in plain.items()]
    page = html.page(
        "latency.html",
        html.Heading(
            f"Latency: {shown.name}", _lead(shown), [_verdict(pair, shown.fits) for pair in shown.pairs], shown.about
        ),
        shown=shown,
        summary=summary(shown),
        tables=globals(),
        break_even=formatting.break_even,
        curves=curves,
        stacked=stacked,
        surfaces=surfaces[Schedule.OVERLAP],
        rooflines=rooflines,
    )
    drawn = [*curves, *stacked, *(each for some in surfaces.values() for each in some), *rooflines]
    return Report(page, drawn, tables(shown.points, shown.fits, shown.pairs, shown.roofs, shown.served))


def _lead(shown: Profiled) -> str:
    if shown.pairs:
        return crossing_said(shown.pairs[0], at_answer(shown.pairs[0]))
    models = dict.fromkeys(point.model for point in shown.points)
    return f"Where the time of a request goes: {', '.join(models)}."


def _verdict(pair: PairBreakEven, fits: Sequence[Fit]) -> KeyResult:
    """Up to how many tokens of reasoning the small model pays, and how certain that is."""
    question = f"How much may {pair.small} write before {pair.large} is as fast, answering short?"
    crossing = at_answer(pair)
    errors = {fit.model: fit.held_out["total"].median for fit in fits if "total" in fit.held_out}
    off = "; ".join(f"{model} off by {100 * error:.1f}%" for model, error in errors.items())
    certainty = (
        f"Estimated by the fits{f' (median on points not seen: {off})' if off else ''}, from {pair.draws} draws."
    )
    if crossing.low is not None and crossing.high is not None:
        certainty = f"95% interval {formatting.amount(crossing.low)} to {formatting.amount(crossing.high)}. {certainty}"
    work = pair.workload
    amount = (
        f"At {work.visual} visual of {work.prompt} prompt tokens, an answer of {work.answer} tokens.{_transfer(pair)}"
    )
    if crossing.tokens < 1:
        return KeyResult(question, "It does not pay", amount, certainty, "bad")
    if math.isinf(crossing.tokens):
        return KeyResult(question, "It pays at any length", amount, certainty, "good")
    return KeyResult(question, f"{formatting.amount(crossing.tokens)} tokens", amount, certainty)


def _transfer(pair: PairBreakEven) -> str:
    """The break-even point of `transfer` against the large model's longest output."""
    own = [each for each in pair.together if each.strategy == "transfer" and each.schedule is Schedule.OVERLAP]
    if not own:
        return ""
    most = max(own, key=lambda each: each.output)
    return (
        f" Where {pair.large} would reason for {most.output:,} tokens, transfer pays up to"
        f" {formatting.crossing(most.crossing)} tokens of {pair.small}."
    )


def summary(shown: Profiled) -> list[str]:
    """Summary of the profile, one sentence per line."""
    lines = []
    for pair in shown.pairs:
        work = pair.workload
        asked = f"{work.visual} visual of {work.prompt} prompt tokens, a short answer of {work.answer} tokens"
        lines.append(f"{pair.small} and {pair.large}, {asked}: {crossing_said(pair, at_answer(pair))}")
    for fit in shown.fits:
        error = fit.held_out.get("total")
        if error is not None:
            lines.append(
                f"{fit.described}: the fit is off by {100 * error.median:.1f}% (median) on {error.points} points that"
                f" it had not seen, by less than {100 * error.p90:.1f}% on nine in ten of them."
            )
    for model in dict.fromkeys(roof.model for roof in shown.roofs):
        own = [roof for roof in largest(shown.roofs) if roof.model == model and _is_shown(roof, shown.fits)]
        times = ", ".join(f"{roof.component} {roof.times:.1f}" for roof in own)
        lines.append(f"{model}, times the least that the device allows at its largest point: {times}.")
    return lines


def _plain(shown: Profiled, dtype: str) -> list[Roof]:
    """The content of the figure: the largest points of each model in the fitted setting."""
    return [roof for roof in largest(shown.roofs) if roof.point.dtype == dtype and _is_shown(roof, shown.fits)]


def _is_shown(roof: Roof, fits: Sequence[Fit]) -> bool:
    return any(fit.model == roof.model and fit.setting == setting_of(roof.point) for fit in fits)


# --- on the page ------------------------------------------------------------------------------------------------------


def percentiles(points: Sequence[PointMetrics]) -> Rows:
    """Percentiles of every server metric at every point, in milliseconds."""
    return [
        {
            **_point(each),
            "metric": name,
            "mean": _metric(name, spread.mean),
            **{f"p{p}": _metric(name, value) for p, value in spread.percentiles.items()},
        }
        for each in points
        for name, spread in each.metrics.items()
    ]


def definitions(points: Sequence[PointMetrics]) -> Rows:
    """Definitions of the metrics that a profile has."""
    used = {name for each in points for name in each.metrics}
    return [{"metric": name, "is": text} for name, text in DEFINITIONS.items() if name in used]


def held_out(fits: Sequence[Fit]) -> Rows:
    """Errors of fits on held-out points."""
    return [
        {
            "model": fit.model,
            "of": name,
            "points": str(error.points),
            "median error": f"{100 * error.median:.1f}%",
            "90% below": f"{100 * error.p90:.1f}%",
        }
        for fit in fits
        for name, error in fit.held_out.items()
    ]


def coefficients(fits: Sequence[Fit]) -> Rows:
    """A column per model, in microseconds."""
    return [
        {"µs for": meaning, **{fit.model: _coefficient(fit, name) for fit in fits}}
        for name, meaning in COSTS.items()
        if fits
    ]


def by_image(pair: PairBreakEven) -> Rows:
    """The small model alone against a short answer, by image size; empty with only one size."""
    sizes = [each for each in pair.alone if each.output == pair.workload.answer]
    rows = [{"visual tokens": f"{e.visual:,}", "break-even": formatting.crossing(e.crossing)} for e in sizes]
    return rows if len(rows) > 1 else []


def roofline(roofs: Sequence[Roof]) -> Rows:
    """The largest point of every component against the lower bound of the device."""
    return [
        {
            "model": roof.model,
            "setting": _setting(roof),
            "component": roof.component,
            "took": formatting.duration(roof.measured_s),
            "least": formatting.duration(roof.least_s),
            "times": f"{roof.times:.1f}",
            "by the datasheet": "not known" if roof.datasheet_s is None else formatting.duration(roof.datasheet_s),
            "bound by": roof.bound,
        }
        for roof in largest(roofs)
    ]


def _coefficient(fit: Fit, name: str) -> str:
    value, sure = getattr(fit.profile, name), fit.interval(name)
    between = "" if sure is None else f" ({_micros(sure[0])} to {_micros(sure[1])})"
    return _micros(value) + between


def _micros(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-4 else f"{1e6 * seconds:.2g}"


def _point(each: PointMetrics) -> dict[str, str]:
    point = each.point
    return {
        "model": each.model,
        "load": each.load,
        "image": "" if point.image_px is None else f"{point.image_px} px",
        "read": f"{each.prompt:,.0f}",
        "cached": "not known" if each.cached is None else f"{each.cached:,.0f}",
        "wrote": f"{each.output:,.0f}",
        "requests": f"{each.requests}{f' + {each.failed} failed' if each.failed else ''}",
    }


def _metric(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "tokens an event" else f"{1000 * value:,.2f}"


def _setting(roof: Roof) -> str:
    point = roof.point
    facts = [point.dtype, point.attention, "compiled" if point.compiled else None, f"batch {point.batch or 1}"]
    return ", ".join(filter(None, facts))


def largest(roofs: Sequence[Roof]) -> list[Roof]:
    """The point with the most tokens for each model, setting and component."""
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
    """Values of the figures as rows, by file name; empty tables are left out."""
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
    """Flatten nested mappings by one level, into columns of their own."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{inner}": each for inner, each in value.items() if each is not None}
        else:
            flat[name] = value
    return flat


def _server_rows(points: Sequence[PointMetrics]) -> list[Mapping[str, Any]]:
    """A row per point and metric, in seconds."""
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
