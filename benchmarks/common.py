"""What every benchmark shares: the pair, the machine's description, and where results go."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from cuecard.models import spec
from cuecard.models.base import Model
from cuecard.report.machine import machine

RESULTS = Path(__file__).parent / "results"


def pair() -> dict[str, Model]:
    """The embedded pair."""
    return {"small": spec.load("demo-small"), "large": spec.load("demo-large")}


def save(name: str, figures: Any) -> Path:
    """Write one benchmark's figures beside the machine they come from."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")
    return path
