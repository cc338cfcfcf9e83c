"""`cuecard profile` of servers: options, and the final table. This module imports HTTP."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from cuecard.cli.options import parts
from cuecard.domain.errors import BadInput
from cuecard.latency.server_profile import LEAST_REQUESTS, ServerProfile, profile
from cuecard.latency.server_requests import PERCENTILES, Spread, served
from cuecard.models import probe as probes
from cuecard.models.openai import OpenAIModel
from cuecard.models.spec import Served, parse, secret

__all__ = ["metrics_of", "probe", "profile", "show", "wish"]
EACH = 4
"""Requests per point and round, for each concurrent request."""
SHOWN = {
    "queue": "queue",
    "TTFT": "TTFT",
    "TTFO": "TTFO",
    "TPOT, vLLM": "TPOT",
    "ITL": "ITL",
    "E2EL": "E2EL",
}
"""Metrics in the table, with their heads; the report has all of them."""


def wish(
    models: Sequence[str],
    rate: str | None,
    at_once: Sequence[int],
    requests: int | None,
    api_key: str | None,
    **more: Any,
) -> ServerProfile:
    """The settings of a profile. Raises BadInput."""
    return ServerProfile(
        models=[spec for model in models if isinstance(spec := parse(model), Served)],
        rate=(None,) if rate is None else _rates(rate),
        concurrency=tuple(at_once) or ((1,) if rate is None else (None,)),
        requests=requests or max(LEAST_REQUESTS, EACH * max(at_once, default=1)),
        api_key=None if api_key is None else secret(api_key),
        **more,
    )


async def probe(wanted: ServerProfile, tell: Callable[[str], None]) -> None:
    """Probe the servers' models that have no cached results, before anything is timed."""
    models = [OpenAIModel(each.base_url, each.name, api_key=wanted.api_key) for each in wanted.models]
    try:
        await probes.settle(models, wait_s=None, tell=tell)
    finally:
        for model in models:
            await model.aclose()


def _rates(text: str) -> tuple[float, ...]:
    try:
        rates = tuple(dict.fromkeys(map(float, parts(text))))
    except ValueError:
        rates = ()
    if not rates or not 0 < min(rates) <= max(rates) < float("inf"):
        raise BadInput(f"--rate {text!r} are not requests a second", "for instance --rate 0.5,2")
    return rates


def metrics_of(out: Path) -> list[dict[str, Any]]:
    """Every point with its metrics, for JSON, in seconds."""
    return [
        {
            "model": each.model,
            **{name: value for name, value in vars(each.point).items() if value is not None},
            "requests": each.requests,
            "failed": each.failed,
            "prompt_tokens": each.prompt,
            "output_tokens": each.output,
            "cached_tokens": each.cached,
            "metrics": {name: spread.as_dict() for name, spread in each.metrics.items()},
        }
        for each in served(out)
    ]


def show(console: Console, out: Path) -> None:
    """For each point a line per percentile, in milliseconds."""
    if not (points := served(out)):
        return
    names = [name for name in SHOWN if any(name in each.metrics for each in points)]
    heads = [Column(SHOWN[name], justify="right", no_wrap=True) for name in names]  # the other columns fold first
    first = [Column(name, overflow="fold") for name in ("model", "load", "image", "read", "wrote", "n", "ms")]
    shown = Table(*first, *heads, box=None)
    for each in points:
        shown.add_row(
            Text(each.model),
            each.load,
            "" if each.point.image_px is None else f"{each.point.image_px}",
            f"{each.prompt:.0f}" + (f" ({each.cached:.0f} cached)" if (each.cached or 0) >= 0.5 else ""),
            f"{each.output:.0f}",
            f"{each.requests}" + (f" + {each.failed} failed" if each.failed else ""),
            "\n".join(f"p{p}" for p in PERCENTILES),
            *(_cell(each.metrics.get(name)) for name in names),
        )
    console.print(shown)
    tokens = ((each.model, each.metrics.get("tokens an event")) for each in points)
    for model in sorted({model for model, each in tokens if each is not None and each.mean > 1.05}):
        console.print(Text(f"{model}: some events bring several tokens: ITL is between events, TPOT between tokens"))


def _cell(spread: Spread | None) -> str:
    return "" if spread is None else "\n".join(f"{1000 * spread.percentiles[p]:.4g}" for p in PERCENTILES)
