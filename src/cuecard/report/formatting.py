"""Numbers and texts formatted for display; colours of modes; the machine, and facts about a run for its page."""

from __future__ import annotations

import math
import os
import platform
import sys
import unicodedata
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import cuecard
from cuecard.domain.call import Mode
from cuecard.domain.outcome import LatencyKind
from cuecard.latency.breakeven import TRANSFER, Crossing, PairBreakEven
from cuecard.strategies.policy import Schedule

# After Okabe and Ito: distinct with any colour vision, and 3:1 or better against white and near-black pages.
MODES = {
    Mode.SHORT: "#0072b2",
    Mode.REASON: "#c14e00",
    Mode.READ: "#008060",
    Mode.PROBE: "#009e73",
    Mode.REPAIR: "#a8323e",
    Mode.WARM: "#767d88",
    Mode.GRADE: "#8a6d00",
    Mode.SCORE: "#b0568a",
    Mode.WEIGH: "#3f8f8b",
}
HOW = {
    LatencyKind.MEASURED: "timed live in this run",
    LatencyKind.COMPOSED: "put together from calls timed in this run",
    LatencyKind.ESTIMATED: "from simulated models in virtual time",
}


def duration(seconds: float) -> str:
    """Milliseconds below one second: 0.0312 -> `31 ms`, 0.0042 -> `4.2 ms`, 2.417 -> `2.42 s`."""
    thousandths = seconds * 1000
    if thousandths >= 999.5:  # would round to 1000 ms
        return f"{seconds:.2f} s"
    return f"{thousandths:.1f} ms" if 0 < thousandths < 9.95 else f"{thousandths:.0f} ms"


def crossing(point: Crossing) -> str:
    """`83 (81 to 86)`; `any` for an infinite number of tokens."""
    if point.low is None or point.high is None or amount(point.low) == amount(point.high):
        return amount(point.tokens)
    return f"{amount(point.tokens)} ({amount(point.low)} to {amount(point.high)})"


def amount(tokens: float) -> str:
    """4.74 -> `4.7`, 1305.6 -> `1,306`, infinite -> `any`."""
    if math.isinf(tokens):
        return "any"
    return f"{tokens:.1f}" if 0 < tokens < 20 else f"{tokens:,.0f}"


def break_even(pair: PairBreakEven) -> list[dict[str, str]]:
    """A row per number of tokens that the large model writes by itself, a column per strategy."""
    kinds: dict[str, tuple[str, Schedule, float | None]] = {
        f"transfer, {each}": ("transfer", each, None) for each in TRANSFER
    }
    if pair.agree is not None:
        rate = percent(pair.agree)
        kinds |= {f"mutual at {rate}, {each}": ("mutual", each, pair.agree) for each in Schedule}
    alone = {each.output: each.crossing for each in pair.alone if each.visual == pair.workload.visual}
    by = {(each.strategy, each.schedule, each.agree, each.output): each.crossing for each in pair.together}
    return [
        {
            f"{pair.large} writes": f"{output:,}",
            f"{pair.small} alone": crossing(alone[output]),
            **{head: crossing(by[(*kind, output)]) for head, kind in kinds.items()},
        }
        for output in dict.fromkeys(each.output for each in pair.together)
    ]


def percent(share: float) -> str:
    return f"{100 * share:.0f}%"


def plain(text: str) -> str:
    """One line without control characters, so that a model's text cannot steer a terminal."""
    spaced = " ".join(text.split())
    return "".join(c for c in spaced if unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn"))


# --- the machine and date of a measurement, and the footer of a run's page --------------------------------------------


def machine() -> dict[str, Any]:
    """Date, processor, cores, threads, accelerator and versions; None: unknown."""
    torch = sys.modules.get("torch")  # only if it has been used
    cuda = torch is not None and torch.cuda.is_available()
    models = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "system": f"{platform.system()} {platform.machine()}",
        "processor": models[0].split(":", 1)[1].strip() if models else platform.processor() or None,
        "cores": os.cpu_count(),
        "accelerator": torch.cuda.get_device_name() if torch is not None and cuda else None,
        "torch_threads": torch.get_num_threads() if torch is not None else None,
        "cuecard": cuecard.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__) if torch is not None else None,
    }


def run_facts(about: Mapping[str, Any], own: Iterable[tuple[str, str]]) -> list[tuple[str, str]]:
    """The footer of a run's page, from its `run.json`: the command, its own facts, the machine as far as known."""
    command = [("command", " ".join(["cuecard", *about["argv"]]))] if about.get("argv") else []
    known = {name: value for name, value in (about.get("machine") or {}).items() if value is not None}
    return [*command, *own, *((name.replace("_", " "), str(value)) for name, value in known.items())]


def evaluation_facts(about: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The footer of an evaluation's page, with its models, tasks and questions."""
    config = about["config"]
    lines = [
        (role, f"{model['name']}, revision {model['revision']}") for role, model in (config.get("models") or {}).items()
    ]
    lines += [("task", f"{task['name']}, revision {task['revision']}") for task in config["tasks"]]
    chosen = [f"{name} {config[name]}" for name in ("limit", "sample") if config.get(name) is not None]
    lines += [("questions", ", ".join(chosen))] if chosen else []
    return run_facts(about, lines)


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
