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
"""How long findings hold."""
STEPS = ("short", "constraint", *map(str, CardFormat), "reasoning", "cache", "images", "aborts")
"""What is probed, in this order: what decides answers first."""


@dataclass
class CardTrial:
    """One card read: whether the answer was the card's, and whether it was short."""

    right: bool
    short: bool
    tokens: int | None
    seconds: float


@dataclass
class ProbeResults:
    """What one served model showed. None: it could not be decided, or was not probed yet."""

    steps: list[str] = field(default_factory=list)
    """Those that are done."""
    at: float = 0.0
    """When, in seconds since 1970."""
    problem: str | None = None
    """Why the server does not answer."""
    listed: bool | None = None
    """The model's name is in the server's list."""
    served: list[str] = field(default_factory=list)
    """The names in the server's list, where the model's is not among them."""
    owner: str | None = None
    """What the list calls the owner of the model, which tells servers apart."""
    short_answers: bool | None = None
    """A short call brings a short answer, and no reasoning before it."""
    short_tokens: int | None = None
    logprobs: bool | None = None
    constraint: str | None = None
    """How the server is asked to decode under a grammar, one of `request_body.Dialect`."""
    reads: dict[str, CardTrial] = field(default_factory=dict)
    """By card format."""
    prefill: bool | None = None
    """It continues a given reasoning: what stands only there is in the answer."""
    reasoning: bool | None = None
    """A reasoning call brings reasoning that can be separated from the answer."""
    images: bool | None = None
    prefix_cache: bool | None = None
    """It reports tokens that it did not compute again."""
    first_s: float | None = None
    again_s: float | None = None
    """Seconds to the first token of a prompt, and of the same prompt again."""
    aborts: bool | None = None
    """It stops when its client has gone, by its own count."""
    notes: list[str] = field(default_factory=list)

    @property
    def reachable(self) -> bool:
        return bool(self.steps) and self.problem is None

    @property
    def complete(self) -> bool:
        return set(STEPS) <= set(self.steps)

    @property
    def pays(self) -> bool:
        """Computing a prompt ahead pays: the second time is clearly faster."""
        return bool(self.prefix_cache and self.first_s and self.again_s and self.again_s < 0.7 * self.first_s)

    @property
    def cards(self) -> list[str]:
        """The formats that gave the short, right answer, the best first; empty where none did."""
        return [form for form in CardFormat if (tried := self.reads.get(form)) and tried.right and tried.short]

    @property
    def settings(self) -> dict[str, Any]:
        """What follows for the model, under the names of its table."""
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
    """The file of all findings: in XDG_CACHE_HOME, or where the system keeps a user's caches."""
    if base := os.environ.get("XDG_CACHE_HOME"):
        return Path(base) / "cuecard" / "probes.json"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA", Path.home())) / "cuecard" / "probes.json"
    return Path.home() / ("Library/Caches" if sys.platform == "darwin" else ".cache") / "cuecard" / "probes.json"


def load() -> dict[str, ProbeResults]:
    """What is stored and not too old, by server, model and version. A file that cannot be read is an empty one."""
    try:
        data = json.loads(path().read_text(encoding="utf-8"))
        return {key: found for key, each in data.items() if time.time() - (found := _probe_results(each)).at < FRESH_S}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def store(key: str, found: ProbeResults) -> None:
    """Add findings to the file. Raises OSError."""
    file = path()
    file.parent.mkdir(parents=True, exist_ok=True)
    known = {name: asdict(each) for name, each in load().items()}
    disk.save(file, known | {key: asdict(found)})


def _probe_results(data: Mapping[str, Any]) -> ProbeResults:
    known = {each.name for each in fields(ProbeResults)}
    found = ProbeResults(**{name: value for name, value in data.items() if name in known})
    found.reads = {str(form): CardTrial(**each) for form, each in data.get("reads", {}).items()}
    return found
