"""What every benchmark shares: the pair, the machine's description, and where results go."""

from __future__ import annotations

import json
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from cuecard.models import spec
from cuecard.models.base import Model

RESULTS = Path(__file__).parent / "results"


def pair() -> dict[str, Model]:
    """The embedded pair."""
    return {"small": spec.load("demo-small"), "large": spec.load("demo-large")}


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    found = [line for line in _lines("/proc/cpuinfo") if line.startswith("model name")]
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "processor": found[0].split(":", 1)[1].strip() if found else platform.processor(),
        "cores": len(found) or None,
        "accelerator": accelerator,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torch_threads": torch.get_num_threads(),
    }


def save(name: str, figures: Any) -> Path:
    """Write one benchmark's figures beside the machine they come from."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(), "figures": figures}, indent=2) + "\n")
    return path


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
