"""What readings of a server say: each metric as the tool that it is named after defines it, and its percentiles.

vLLM: `vllm bench serve`; it counts events with a choice, be there text in them or not. guidellm counts events with
text. n are the tokens of the server's usage.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from statistics import fmean, quantiles

from cuecard.latency import readings
from cuecard.latency.readings import Point, Reading
from cuecard.latency.server.events import DONE, TOKENS, USAGE

PERCENTILES = (50, 90, 99)
DEFINITIONS: Mapping[str, str] = {
    "queue": "waiting at this client, from the hour of its arrival (open loop) to its sending",
    "TTFT": "from sending to the first event with a token (guidellm)",
    "TTFT, vLLM": "from sending to the first event with a choice, even an empty one",
    "TTFO": "from sending to the first token of the answer, behind the reasoning (guidellm's TTFOT)",
    "TPOT, vLLM": "(E2EL, vLLM - TTFT, vLLM) / (n - 1): without the first token",
    "TPOT, guidellm": "from sending to the last event with a token, / n: with the first token",
    "ITL": "gaps between events with tokens, of all requests together",
    "ITL, vLLM": "gaps between events with a choice, of all requests together",
    "ITL, guidellm": "from the first event with a token to the last one, / (n - 1): one value a request",
    "E2EL": "from sending to the end of the stream (guidellm's request latency)",
    "E2EL, vLLM": "from sending to the last event with a choice",
    "tokens an event": "n / events with tokens, one value a request: above 1, tokens come in bundles",
}
"""All but the last in seconds."""


def figures(reading: Reading) -> dict[str, list[float]]:
    """What one request says of each metric: nothing, a value, or a value a gap."""
    events = reading.events or ()
    choices = [since for since, kind, _ in events if kind not in (USAGE, DONE)]
    arrivals = [since for since, kind, _ in events if kind in TOKENS]
    n, spent = reading.observed.get("output_tokens"), reading.total_s - reading.parts_s.get("queue", 0.0)
    found: dict[str, list[float]] = {"queue": [reading.parts_s.get("queue", 0.0)], "E2EL": [spent]}
    if not arrivals:
        return found
    found |= {
        "TTFT": arrivals[:1],
        "TTFT, vLLM": choices[:1],
        "TTFO": [] if reading.first_answer_s is None else [reading.first_answer_s],
        "ITL": _gaps(arrivals),
        "ITL, vLLM": _gaps(choices),
        "E2EL, vLLM": choices[-1:],
    }
    if n:
        found |= {"TPOT, guidellm": [arrivals[-1] / n], "tokens an event": [n / len(arrivals)]}
    if n and n > 1:
        found["TPOT, vLLM"] = [(choices[-1] - choices[0]) / (n - 1)]
        found["ITL, guidellm"] = [(arrivals[-1] - arrivals[0]) / (n - 1)]
    return found


def _gaps(times: Sequence[float]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@dataclass(frozen=True)
class Spread:
    """One metric over the readings of a point."""

    mean: float
    percentiles: Mapping[int, float]
    values: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Percentiles between values are on the straight line through both, as numpy's."""
        cuts = quantiles(values, n=100, method="inclusive") if len(values) > 1 else [*values] * 99
        return cls(fmean(values), {p: cuts[p - 1] for p in PERCENTILES}, len(values))


@dataclass(frozen=True)
class PointMetrics:
    """One point of a model. `output` and `prompt` are the mean numbers of tokens that were observed."""

    model: str
    point: Point
    requests: int
    failed: int
    prompt: float
    output: float
    cached: float | None
    """None where the server does not tell."""
    metrics: Mapping[str, Spread]

    @property
    def load(self) -> str:
        """`4 at once`, `2/s`, `2/s, 8 at once`."""
        rate, at_once = self.point.rate, self.point.concurrency
        parts = [f"{rate:g}/s"] if rate is not None else []
        return ", ".join(parts + ([f"{at_once} at once"] if at_once is not None else []))


def served(path: Path) -> list[PointMetrics]:
    """Every point of a profile of servers, in the order in which they were measured first."""
    groups: dict[tuple[str, Point], list[Reading]] = {}
    for reading in readings.read(path):
        if reading.source == "server" and not reading.warmup:
            groups.setdefault((reading.model, reading.point), []).append(reading)
    return [each for group in groups.values() if (each := spread(group)) is not None]


def spread(group: Sequence[Reading]) -> PointMetrics | None:
    """The readings of one point; None where all of them failed."""
    good = [reading for reading in group if reading.error is None]
    if not good:
        return None
    values: dict[str, list[float]] = {name: [] for name in DEFINITIONS}
    for reading in good:
        for name, own in figures(reading).items():
            values[name] += own
    if not any(values["queue"]):
        del values["queue"]
    cached = [each for reading in good if (each := reading.observed.get("cached_tokens")) is not None]
    return PointMetrics(
        good[0].model,
        good[0].point,
        len(good),
        len(group) - len(good),
        _mean(good, "prompt_tokens"),
        _mean(good, "output_tokens"),
        fmean(cached) if cached else None,
        {name: Spread.of(own) for name, own in values.items() if own},
    )


def _mean(group: Iterable[Reading], what: str) -> float:
    return fmean(reading.observed.get(what, 0) for reading in group)
