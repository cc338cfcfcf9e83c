"""The report of a latency profile: one page, its figures and its tables as files. Nothing is computed here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from cuecard.latency.breakeven import PairBreakEven
from cuecard.latency.latency_model import Fit
from cuecard.latency.readings import Found, setting_of
from cuecard.latency.roofline import Device, Roof
from cuecard.latency.server_requests import PointMetrics
from cuecard.report.latency import figures, tables
from cuecard.report.latency.figures import at_answer, crossing_said
from cuecard.report.latency.tables import largest
from cuecard.report.page import formatting, html
from cuecard.report.page.html import KeyResult
from cuecard.report.page.report_files import Report
from cuecard.strategies.policy import Schedule


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
        tables=tables,
        curves=curves,
        stacked=stacked,
        surfaces=surfaces[Schedule.OVERLAP],
        rooflines=rooflines,
    )
    drawn = [*curves, *stacked, *(each for some in surfaces.values() for each in some), *rooflines]
    return Report(page, drawn, tables.tables(shown.points, shown.fits, shown.pairs, shown.roofs, shown.served))


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


__all__ = ["Profiled", "largest", "report", "summary"]
