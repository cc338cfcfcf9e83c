"""The machine and date of a measurement, and the facts about a run in the footer of its page."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

import cuecard


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
