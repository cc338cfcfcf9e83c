"""The machine and the date of a measurement."""

from __future__ import annotations

import os
import platform
import sys
from datetime import UTC, datetime
from typing import Any

import cuecard


def machine() -> dict[str, Any]:
    """Date, processor, cores, threads, accelerator and versions; None: not known."""
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


def _lines(path: str) -> list[str]:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read().splitlines()
    except OSError:
        return []
