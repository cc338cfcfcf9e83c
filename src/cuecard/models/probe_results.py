"""Results of probes of served models, and the file in the user's cache directory that keeps them."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.models.prompt import CardFormat

FRESH_S = 30 * 24 * 3600.0
"""Seconds for which stored results are valid."""
STEPS = ("short", "constraint", *map(str, CardFormat), "reasoning", "cache", "images", "aborts")
"""The steps of a probe, in order: those that affect answers come first."""


@dataclass
class CardTrial:
    """One trial of a card format. `right`: the answer was the card's; `short`: it ended by itself."""

    right: bool
    short: bool
    tokens: int | None
    seconds: float


@dataclass
class ProbeResults:
    """Probe results of one served model. None: undecided, or not probed yet."""

    steps: list[str] = field(default_factory=list)
    """Steps that are done."""
    at: float = 0.0
    """Time of the last step, in seconds since 1970."""
    problem: str | None = None
    """Why the server does not answer."""
    listed: bool | None = None
    """The model's name is in the server's list."""
    served: list[str] = field(default_factory=list)
    """The names in the server's list; empty if the model's name is among them."""
    owner: str | None = None
    """`owned_by` in the server's list, which identifies the kind of server (vllm, sglang, llamacpp)."""
    short_answers: bool | None = None
    """A short call returns a short answer, without reasoning before it."""
    short_tokens: int | None = None
    logprobs: bool | None = None
    constraint: str | None = None
    """How a request asks the server to decode under a grammar, one of `request_body.Dialect`."""
    reads: dict[str, CardTrial] = field(default_factory=dict)
    """By card format."""
    prefill: bool | None = None
    """The server continues a given reasoning: the answer has a result that only the reasoning contains."""
    reasoning: bool | None = None
    """A reasoning call returns reasoning that can be separated from the answer."""
    images: bool | None = None
    prefix_cache: bool | None = None
    """The server reports cached tokens for a repeated prompt."""
    first_s: float | None = None
    again_s: float | None = None
    """TTFT in seconds of a prompt, and of the same prompt again."""
    aborts: bool | None = None
    """The server aborts a request when its client disconnects, by its own count."""
    notes: list[str] = field(default_factory=list)

    @property
    def reachable(self) -> bool:
        return bool(self.steps) and self.problem is None

    @property
    def complete(self) -> bool:
        return set(STEPS) <= set(self.steps)

    @property
    def pays(self) -> bool:
        """Whether warming pays: the TTFT of a repeated prompt is below 70% of that of the first."""
        return bool(self.prefix_cache and self.first_s and self.again_s and self.again_s < 0.7 * self.first_s)

    @property
    def cards(self) -> list[str]:
        """The formats with the right, short answer, best first; empty if there are none."""
        return [form for form in CardFormat if (tried := self.reads.get(form)) and tried.right and tried.short]

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that follow from the results, under the keys of a model's table."""
        found = {
            "images": self.images,
            "logprobs": self.logprobs,
            "prefill": self.prefill,
            "prefix_cache": self.pays if "cache" in self.steps else None,
            "constraint": self.constraint,
            "cards": self.cards or None,
        }
        return {name: value for name, value in found.items() if value is not None}


def path() -> Path:
    """The file of all results: in XDG_CACHE_HOME, or in the system's cache directory of the user."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "cuecard" / "probes.json"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "cuecard" / "probes.json"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "cuecard" / "probes.json"


def load() -> dict[str, ProbeResults]:
    """Stored results that are not too old, by server, model and version; empty if the file cannot be read."""
    try:
        data = json.loads(path().read_text(encoding="utf-8"))
        return {key: found for key, each in data.items() if time.time() - (found := _probe_results(each)).at < FRESH_S}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def store(key: str, found: ProbeResults) -> None:
    """Add results to the file. Raises OSError."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {name: asdict(each) for name, each in load().items()}
    disk.save(file, known | {key: asdict(found)})


def _probe_results(data: Mapping[str, Any]) -> ProbeResults:
    known = {each.name for each in fields(ProbeResults)}
    found = ProbeResults(**{name: value for name, value in data.items() if name in known})
    found.reads = {str(form): CardTrial(**each) for form, each in data.get("reads", {}).items()}
    return found
