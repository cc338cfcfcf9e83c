"""Error of a server's profile against the server's own record:  python benchmarks/server_truth.py

The mock server of `paced.py` runs in its own process and reports what it sent and when, by the same clock. For each
metric: the errors of single requests, and of the percentiles in a profile. Each should be at most 1% or 1 ms.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

from common import RESULTS, save
from cuecard.latency import readings
from cuecard.latency.readings import Reading
from cuecard.latency.server_profile import ServerProfile, profile
from cuecard.latency.server_requests import DEFINITIONS, PERCENTILES, Spread, figures
from cuecard.models.spec import Served

SHARE, SECONDS = 0.01, 0.001
OPEN = {"model": "plain", "output_tokens": (32,), "rate": (20.0,), "repeats": 1}
LOADS: Mapping[str, Mapping[str, Any]] = {
    "plain": {"model": "plain", "output_tokens": (1, 8, 32)},
    "stalls": {"model": "stalls", "output_tokens": (60,)},
    "bundles": {"model": "bundles", "output_tokens": (60,)},
    "images, fresh": {"model": "prefill", "output_tokens": (8,), "image_px": (None, 128, 448)},
    "images, cached": {"model": "prefill", "output_tokens": (8,), "image_px": (None, 128, 448), "fresh": False},
    "stops by itself": {"model": "stalls", "output_tokens": (200,), "ignore_eos": False, "requests": 4},
    "8 at once": {"model": "plain", "output_tokens": (32,), "concurrency": (8,), "requests": 64, "repeats": 1},
    "20/s": {**OPEN, "concurrency": (None,), "requests": 100},
    "20/s, 4 at once": {**OPEN, "concurrency": (4,), "requests": 60},
}  # fmt: skip
USUAL = {"image_px": (None,), "requests": 8, "repeats": 2, "precision": 1e-9}


@contextmanager
def paced() -> Iterator[str]:
    """The URL of the mock server, which runs in its own process."""
    command = [sys.executable, str(Path(__file__).parent / "paced.py")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def reported(url: str, model: str) -> list[dict[str, Any]]:
    """The server's record of a model's requests, in the order of arrival."""
    with urllib.request.urlopen(f"{url}/received", timeout=30) as answer:
        found = json.load(answer)["requests"]
    return sorted((each for each in found if each["model"] == model), key=lambda each: each["at_s"])


def truth(request: Mapping[str, Any]) -> dict[str, list[float]]:
    """Metric -> values in seconds, from the server's record of a request."""
    sent = [(at - request["at_s"], kind, tokens) for at, kind, tokens in request["sent"]]
    choices = [at for at, kind, _ in sent if kind not in ("usage", "done")]
    some = [at for at, _, tokens in sent if tokens]
    n = sum(tokens for *_, tokens in sent)
    found = {
        "TTFT": some[:1],
        "TTFT, vLLM": choices[:1],
        "TTFO": [at for at, kind, _ in sent if kind == "content"][:1],
        "TPOT, guidellm": [some[-1] / n],
        "ITL": [b - a for a, b in pairwise(some)],
        "ITL, vLLM": [b - a for a, b in pairwise(choices)],
        "E2EL": [sent[-1][0]],
        "E2EL, vLLM": choices[-1:],
    }
    if n > 1:
        found["TPOT, vLLM"] = [(choices[-1] - choices[0]) / (n - 1)]
        found["ITL, guidellm"] = [(some[-1] - some[0]) / (n - 1)]
    return found


def as_sent(made: Sequence[Reading]) -> list[Reading]:
    """Readings in the order of sending: loads one after the other, the requests of a load by time."""
    loads: dict[tuple[Any, ...], list[Reading]] = {}
    for reading in made:
        loads.setdefault((reading.point, reading.round, reading.warmup), []).append(reading)
    return [reading for load in loads.values() for reading in sorted(load, key=lambda each: each.sent_s or 0.0)]


def errors(made: Sequence[Reading], did: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Metric -> errors: `within` and `worst_…` of single values, `shown` and `holds` of the figures in a profile."""
    pairs = [
        (figures(reading), truth(request), reading.point)
        for reading, request in zip(made, did, strict=True)
        if not reading.warmup
    ]
    found: dict[str, Any] = {}
    for name in DEFINITIONS:
        singles, shown = [], {}
        for point in dict.fromkeys(point for *_, point in pairs):
            ours = [value for seen, _, at in pairs if at == point for value in seen.get(name, [])]
            right = [value for _, real, at in pairs if at == point for value in real.get(name, [])]
            if not right:
                continue
            singles += [_error(a, b) for a, b in zip(ours, right, strict=True)]
            one, other = Spread.of(ours), Spread.of(right)
            for what, a, b in [
                ("mean", one.mean, other.mean),
                *((f"p{p}", one.percentiles[p], other.percentiles[p]) for p in PERCENTILES),
            ]:
                shown[what] = max(shown.get(what, (0.0, 0.0, 0.0)), _error(a, b), key=lambda each: each[0])
        if not singles:
            continue
        within = sum(score <= 1 for score, *_ in singles) / len(singles)
        worst = max(singles)
        found[name] = {
            "values": len(singles),
            "within": within,
            "worst_s": worst[1],
            "worst_share": worst[2],
            "shown": {what: {"error_s": seconds, "share": share} for what, (_, seconds, share) in shown.items()},
            "holds": all(score <= 1 for score, *_ in shown.values()),
        }
    return found


def _error(ours: float, right: float) -> tuple[float, float, float]:
    """(error / allowed error, error in seconds, relative error); at most `SECONDS` or `SHARE` of `right` is allowed."""
    off = abs(ours - right)
    return off / max(SECONDS, SHARE * right), off, off / right if right else 0.0


async def one(name: str) -> dict[str, Any]:
    asked = {**USUAL, **LOADS[name]}
    model = asked.pop("model")
    with paced() as url, tempfile.TemporaryDirectory() as folder:
        wish = ServerProfile([Served(url, model)], **asked, chance=Random(1))
        await profile(wish, Path(folder), {"date": ""}, lambda progress: None)
        made = as_sent(list(readings.read(Path(folder))))
        did = await asyncio.to_thread(reported, url, model)
    return errors(made, did[len(did) - len(made) :])


def undisturbed(*, real_time: bool) -> str:
    """Raise the priority of this process and its children if permitted; returns it as text. `real_time`: SCHED_FIFO."""
    try:
        if real_time:
            os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(10))
            return "real time"
        return f"nice {os.nice(-15)}"
    except (AttributeError, OSError):
        return "as any other"


def main() -> None:
    priority = undisturbed(real_time=True)
    figures = {name: asyncio.run(one(name)) for name in LOADS}
    for name, metrics in figures.items():
        for metric, found in metrics.items():
            p50, p99 = (1000 * found["shown"][each]["error_s"] for each in ("p50", "p99"))
            print(f"{name:16} {metric:16} p50 {p50:6.3f} ms  p99 {p99:6.3f} ms  worst {1000 * found['worst_s']:6.3f} ms"
                  f"  within {100 * found['within']:5.1f}%  {'' if found['holds'] else 'NO'}")  # fmt: skip
    path = save("server_truth", {"priority": priority, "loads": figures})
    print(path.relative_to(RESULTS.parent.parent))


if __name__ == "__main__":
    main()
