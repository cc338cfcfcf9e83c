"""Shared by all benchmarks: the embedded pair, the machine's description, and the folder for results."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cuecard.domain.call import Mode
from cuecard.domain.outcome import Outcome
from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.report.formatting import machine

RESULTS = Path(__file__).parent / "results"


def pair() -> dict[str, Model]:
    """The embedded pair, by role."""
    return {"small": spec.load("demo-small"), "large": spec.load("demo-large")}


def save(name: str, figures: Any) -> Path:
    """Write a benchmark's figures and the machine's description to results/`name`.json; returns its path."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")
    return path


def handoff_figures(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Figures of `transfer` outcomes, mostly medians: hand-off, seconds and tokens of the card, cached tokens."""
    written = [next(call for call in each.calls if call.mode is Mode.REASON) for each in outcomes]
    read = [next(call for call in each.calls if call.mode is Mode.READ) for each in outcomes]
    cached = [call.usage.cached_tokens for call in read if call.usage.cached_tokens is not None]
    handoffs = sorted(each.handoff_s for each in outcomes if each.handoff_s is not None)
    card_s = [call.reasoning_end_s - call.start_s for call in written if call.reasoning_end_s is not None]
    return {
        "n": len(handoffs),
        "handoff_s": statistics.median(handoffs),
        "handoff_quartiles_s": [handoffs[len(handoffs) // 4], handoffs[3 * len(handoffs) // 4]],
        "handoffs_s": [round(each, 4) for each in handoffs],
        "first_reasoning_token_s": statistics.median(c.first_token_s - c.start_s for c in written if c.first_token_s),
        "card_s": statistics.median(card_s),
        "card_tokens": statistics.mean(call.usage.completion_tokens or 0 for call in written),
        "total_s": statistics.median(each.total_s for each in outcomes),
        "prompt_tokens_of_reader": statistics.mean(call.usage.prompt_tokens or 0 for call in read),
        "cached_tokens_of_reader": statistics.mean(cached) if cached else None,
        "warming_calls": statistics.mean(sum(call.mode is Mode.WARM for call in each.calls) for each in outcomes),
    }
