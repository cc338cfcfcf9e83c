"""Of a report on servers: percentiles of every metric at every point, and what each metric is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cuecard.latency.server.metrics import DEFINITIONS, PERCENTILES, Served, Spread
from cuecard.report.page.html import section, table, wide


def served_section(points: Sequence[Served]) -> str:
    """Nothing where no server was profiled."""
    if not points:
        return ""
    heads = ["model", "load", "image", "read", "cached", "wrote", "requests", "metric", "mean"]
    heads += [f"p{p}" for p in PERCENTILES]
    rows = [
        [*_point(each), name, *(_said(name, value) for value in (spread.mean, *spread.percentiles.values()))]
        for each in points
        for name, spread in each.metrics.items()
    ]
    caption = (
        "Milliseconds, but for tokens; measured at the client, failed requests left out. Percentiles of ITL are those"
        " of all gaps together, all others those of requests."
    )
    used = {name for each in points for name in each.metrics}
    meant = [[name, text] for name, text in DEFINITIONS.items() if name in used]
    soft = (
        "n is the number of tokens in the server's usage. Each metric is as the tool that it is named after defines"
        " it; without a tool's name both agree, or it is ours."
    )
    return section(
        "Servers",
        wide(table(heads, rows, texts=(1, 7)), caption),
        wide(table(["metric", "is"], meant, texts=(1,)), ""),
        soft=soft,
    )


def rows(points: Sequence[Served]) -> list[Mapping[str, Any]]:
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


def _point(each: Served) -> list[str]:
    point, failed = each.point, f" + {each.failed} failed" if each.failed else ""
    image = "" if point.image_px is None else f"{point.image_px} px"
    cached = "not told" if each.cached is None else f"{each.cached:,.0f}"
    read, wrote = f"{each.prompt:,.0f}", f"{each.output:,.0f}"
    return [each.model, each.load, image, read, cached, wrote, f"{each.requests}{failed}"]


def _said(name: str, value: float) -> str:
    return f"{value:.2f}" if name == "tokens an event" else f"{1000 * value:,.2f}"
