"""The report of a latency profile: one page, its figures and its tables as files. Nothing is computed here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from typing import Any

from cuecard.latency.analysis.latency_model import COEFFICIENTS, Fit
from cuecard.latency.analysis.measured import Found, Roof, setting_of
from cuecard.latency.analysis.roofline import Device
from cuecard.latency.server.metrics import Served
from cuecard.latency.simulate.breakeven import PairBreakEven
from cuecard.latency.simulate.costs import TRANSFER
from cuecard.report.evaluation.report import Report
from cuecard.report.latency import figures as latency_figures
from cuecard.report.latency import maps, server
from cuecard.report.latency.figures import PARTS, at_answer, crossing_said
from cuecard.report.page import formatting
from cuecard.report.page.html import Drawing, bullets, document, figure, section, table, wide
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
"""What each coefficient is the price of."""


@dataclass(frozen=True)
class Profiled:
    """What a report is made of. `fits`: one a model, in the setting that is shown."""

    name: str
    points: Sequence[Found]
    fits: Sequence[Fit]
    pairs: Sequence[PairBreakEven]
    roofs: Sequence[Roof]
    devices: Mapping[str, Mapping[str, Device]]
    about: Sequence[tuple[str, str]]
    served: Sequence[Served] = ()
    """Of a profile of servers: every point with its metrics."""


def report(shown: Profiled) -> Report:
    """Drawn and put together."""
    fitted = {fit.model for fit in shown.fits}  # the other model of a pair may lie in another directory
    both = [pair for pair in shown.pairs if {pair.small, pair.large} <= fitted]
    curves = [latency_figures.latency_against_tokens(shown.fits, shown.points, pair) for pair in both]
    stacked = latency_figures.components(shown.points, shown.fits)
    surfaces = {each: [maps.surface(pair, each) for pair in shown.pairs] for each in Schedule}
    plain = {dtype: own for dtype in shown.devices if (own := _plain(shown, dtype))}
    limits = [maps.roofline(own, shown.devices, dtype) for dtype, own in plain.items()]
    sections = [
        section("Summary", bullets(summary(shown))),
        section("Latency against output tokens", *map(figure, curves)),
        section("Where the time goes", *map(figure, stacked)),
        server.served_section(shown.served),
        _fits(shown.fits),
        _break_even(shown.pairs, surfaces[Schedule.OVERLAP]),
        _rooflines(shown.roofs, limits),
        section("About this run", "<dl>" + "".join(map(_fact, shown.about)) + "</dl>"),
    ]
    page = document(f"Latency: {shown.name}", _lead(shown), [part for part in sections if part])
    figures = (*curves, *stacked, *(each for some in surfaces.values() for each in some), *limits)
    return Report(page, figures, tables(shown))


def _lead(shown: Profiled) -> str:
    if shown.pairs:
        return crossing_said(shown.pairs[0], at_answer(shown.pairs[0]))
    models = dict.fromkeys(point.model for point in shown.points)
    return f"Where the time of a request goes: {', '.join(models)}."


def summary(shown: Profiled) -> list[str]:
    """What the profile shows, a sentence a line."""
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
        said = ", ".join(f"{roof.component} {roof.times:.1f}" for roof in own)
        lines.append(f"{model}, times the least that the device allows at its largest point: {said}.")
    return lines


def _fits(fits: Sequence[Fit]) -> str:
    heads = ["model", "of", "points", "median error", "90% below"]
    rows = [
        [fit.model, name, str(error.points), f"{100 * error.median:.1f}%", f"{100 * error.p90:.1f}%"]
        for fit in fits
        for name, error in fit.held_out.items()
    ]
    caption = "Relative errors of the fit on points held out, each quarter predicted from the other three. Measured."
    parts = [wide(table(heads, rows, texts=(1,)), caption)] if rows else []
    heads = ["µs for", *(fit.model for fit in fits)]
    rows = [[said, *(_coefficient(fit, name) for fit in fits)] for name, said in COSTS.items()]
    caption = "What the fit found, with the middle 95% of bootstrap draws. Estimated."
    parts.append(wide(table(heads, rows), caption))
    soft = (
        "Vision: fixed, by visual token, by the square of them. Prefill: fixed, by token computed, by pair of tokens"
        " that attend. Decode: by token after the first, by token of context that each of them sees."
    )
    return section("The fit", *parts, soft=soft)


def _coefficient(fit: Fit, name: str) -> str:
    value, sure = getattr(fit.profile, name), fit.interval(name)
    between = "" if sure is None else f" ({_micros(sure[0])} to {_micros(sure[1])})"
    return _micros(value) + between


def _micros(seconds: float) -> str:
    return f"{1e6 * seconds:,.0f}" if seconds >= 1e-4 else f"{1e6 * seconds:.2g}"


def _break_even(pairs: Sequence[PairBreakEven], surfaces: Sequence[Drawing]) -> str:
    parts: list[str] = []
    for pair in pairs:
        heads = [f"{pair.large} writes", f"{pair.small} alone", *(f"transfer, {each}" for each in TRANSFER)]
        rate = pair.agree
        heads += [f"mutual at {formatting.percent(rate)}, {each}" for each in Schedule if rate is not None]
        kinds: list[tuple[str, Schedule, float | None]] = [("transfer", each, None) for each in TRANSFER]
        kinds += [("mutual", each, rate) for each in Schedule if rate is not None]
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
        caption = (
            f"Tokens that {pair.small} may write until {pair.large}, writing by itself as many as the first column"
            f" says, is as fast; with 95% intervals from {pair.draws} draws. 0: it is the faster one at once."
            " Estimated."
        )
        parts.append(wide(table(heads, rows), caption))
        sizes = [each for each in pair.alone if each.output == pair.workload.answer]
        if len(sizes) > 1:
            shown = [[f"{each.visual:,}", formatting.crossing(each.crossing)] for each in sizes]
            caption = f"By image: tokens that {pair.small} writes while {pair.large} answers short. Estimated, 95%."
            parts.append(wide(table(["visual tokens", "break-even"], shown), caption))
        if pair.extrapolated:
            parts.append(bullets([f"Extrapolated: {line}." for line in pair.extrapolated]))
    soft = (
        "The surface is that of the schedule overlap; those of thrifty and eager are among the files." if pairs else ""
    )
    return section("Break-even", *parts, *map(figure, surfaces), soft=soft)


def _rooflines(roofs: Sequence[Roof], drawn: Sequence[Drawing]) -> str:
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
    caption = (
        "Took: measured, median. Least: what FLOP and bytes take at the peaks that were measured on the spot; by the"
        " datasheet where the device is known. Bound by overhead: more than three times the least."
    )
    return section("Roofline", *map(figure, drawn), wide(table(heads, rows, texts=(1, 2, 7)), caption) if rows else "")


def _plain(shown: Profiled, dtype: str) -> list[Roof]:
    """What the figure shows: the largest point of each model in the setting that is fitted."""
    return [roof for roof in largest(shown.roofs) if roof.point.dtype == dtype and _is_shown(roof, shown.fits)]


def _is_shown(roof: Roof, fits: Sequence[Fit]) -> bool:
    return any(fit.model == roof.model and fit.setting == setting_of(roof.point) for fit in fits)


def _setting(roof: Roof) -> str:
    point = roof.point
    said = [point.dtype, point.attention, "compiled" if point.compiled else None, f"batch {point.batch or 1}"]
    return ", ".join(filter(None, said))


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


def _fact(fact: tuple[str, str]) -> str:
    return f"<dt>{escape(fact[0])}</dt><dd>{escape(fact[1])}</dd>"


def tables(shown: Profiled) -> dict[str, list[Mapping[str, Any]]]:
    """What the figures show, as rows; none of what there is nothing to tell of."""
    made: dict[str, list[Mapping[str, Any]]] = {
        "points": [_flat(asdict(point)) for point in shown.points],
        "fits": [
            {
                "model": fit.model,
                "coefficient": name,
                "estimate": getattr(fit.profile, name),
                **_ends(fit.interval(name)),
            }
            for fit in shown.fits
            for name in COEFFICIENTS
        ],
        "held_out": [
            {"model": fit.model, "of": name, **asdict(error)}
            for fit in shown.fits
            for name, error in fit.held_out.items()
        ],
        "break_even": [
            {"small": pair.small, "large": pair.large, "label": "estimated", **_flat(each)}
            for pair in shown.pairs
            for each in [*map(asdict, pair.alone), *map(asdict, pair.together)]
        ],
        "strategies": [
            {"small": pair.small, "large": pair.large, "label": "estimated", **asdict(each)}
            for pair in shown.pairs
            for each in pair.spent
        ],
        "roofline": [_flat({**asdict(roof), "times": roof.times}) for roof in shown.roofs],
        **({"server": server.rows(shown.served)} if shown.served else {}),
    }
    return {name: rows for name, rows in made.items() if rows}


def _ends(sure: tuple[float, float] | None) -> Mapping[str, Any]:
    return {"low": None, "high": None} if sure is None else {"low": sure[0], "high": sure[1]}


def _flat(told: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings one level down, as columns of their own."""
    flat: dict[str, Any] = {}
    for name, value in told.items():
        if isinstance(value, Mapping):
            flat |= {f"{name}_{inner}": each for inner, each in value.items() if each is not None}
        else:
            flat[name] = value
    return flat
