"""A fitted latency model of one model on one machine, and the estimated latency of a call.

Stored as JSON, one file per model and setting, in `fits/` beside the readings.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from cuecard import disk
from cuecard.disk import CannotStore
from cuecard.domain.errors import BadInput
from cuecard.domain.outcome import LatencyKind
from cuecard.models.simulated import Profile
from cuecard.stats import quantile

VERSION = 1
FOLDER = "fits"
CONFIDENCE = 0.95
COEFFICIENTS = tuple(each.name for each in fields(Profile) if each.name.endswith(("_s", "_token", "_pair")))
"""The fitted fields of a profile, all in seconds and non-negative."""


@dataclass(frozen=True)
class HeldOut:
    """Relative errors on held-out points: each quarter of the points is predicted from the other three."""

    median: float
    p90: float
    points: int


@dataclass(frozen=True)
class Fit:
    """`parts`: coefficients by component, which add up to the profile; `draws`: profiles of bootstrap draws."""

    model: str
    source: str
    setting: Mapping[str, Any]
    """Shared by all its readings: batch, dtype, attention, …"""
    parts: Mapping[str, Mapping[str, float]]
    draws: Sequence[Mapping[str, float]]
    held_out: Mapping[str, HeldOut]
    """By component, and `total`."""
    ranges: Mapping[str, tuple[int, int]]
    """Minimum and maximum of the measured visual, prompt and output tokens; beyond them the fit extrapolates."""
    images: Sequence[tuple[int, int]]
    """Measured numbers of visual tokens, each with the smallest prompt measured with it."""
    readings: int
    points: int
    pixels_per_visual_token: float | None
    measured: Mapping[str, Any]
    """Machine and date: the facts in `profile.json`."""

    @property
    def profile(self) -> Profile:
        """The latencies of a simulated model."""
        return profile_of({name: sum(part.get(name, 0.0) for part in self.parts.values()) for name in COEFFICIENTS})

    @property
    def drawn(self) -> list[Profile]:
        return [profile_of(draw) for draw in self.draws]

    def parts_s(self, visual: int, prompt: int, output: float) -> dict[str, float]:
        """Seconds of each component of one call without a cached prefix."""
        return {name: profile_of(part).call_s(visual, prompt, output) for name, part in self.parts.items()}

    def beyond(self, wanted: Mapping[str, Sequence[int]]) -> list[str]:
        """Values outside the measured ranges, in words. `wanted`: values by name of a range in `ranges`."""
        notes = []
        for name, values in wanted.items():
            low, high = self.ranges.get(name, (min(values), max(values)))
            far = max(values) if max(values) > high else min(values)
            if not low <= far <= high:
                notes.append(f"{self.model}: {far:,} {name.replace('_', ' ')}, measured {low:,} to {high:,}")
        return notes

    def interval(self, coefficient: str) -> tuple[float, float] | None:
        """Interval of a coefficient from percentiles of its draws; None without draws."""
        return bounds([draw.get(coefficient, 0.0) for draw in self.draws])

    @property
    def described(self) -> str:
        """`demo-small, batch 1, dtype float32`."""
        settings = (f"{name.replace('_', ' ')} {value}" for name, value in self.setting.items() if value is not False)
        return ", ".join([self.model, *settings])


def profile_of(coefficients: Mapping[str, float]) -> Profile:
    """A profile of fitted coefficients; missing ones are 0."""
    values: dict[str, Any] = {name: coefficients.get(name, 0.0) for name in COEFFICIENTS}
    return Profile(**values, first_with_prefill=True)


def bounds(values: Sequence[float]) -> tuple[float, float] | None:
    """The middle 95% of bootstrap draws; None for fewer than 20."""
    if len(values) < 20:
        return None
    ordered, tail = sorted(values), (1 - CONFIDENCE) / 2
    return quantile(ordered, tail), quantile(ordered, 1 - tail)


# --- files ------------------------------------------------------------------------------------------------------------


def write(fits: Sequence[Fit], folder: Path) -> list[Path]:
    """Write one file per fit, named by its model and the settings that differ between fits of the model.

    Deletes the files of earlier fits in the folder. Raises CannotStore.
    """
    written = []
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in folder.glob("*.json"):
            old.unlink()
    except OSError as error:
        raise CannotStore(f"cannot write into {folder}: {error.strerror}") from error
    for fit in fits:
        alike = [other.setting for other in fits if other.model == fit.model]
        apart = [f"{name}={value}" for name, value in fit.setting.items() if any(s.get(name) != value for s in alike)]
        name = re.sub(r"[^\w.=-]+", "_", "-".join([fit.model, *apart]))
        path = folder / f"{name}.json"
        profile = fit.profile
        sums = {name: {"estimate": getattr(profile, name), "interval": fit.interval(name)} for name in COEFFICIENTS}
        disk.save(path, {"version": VERSION, "label": LatencyKind.ESTIMATED, **asdict(fit), "profile": sums})
        written.append(path)
    return written


def read(path: Path) -> Fit:
    """Read one fit from its file. Raises BadInput."""

    def fit(data: Mapping[str, Any]) -> Fit:
        made: Fit = disk.built(Fit, {each.name: data[each.name] for each in fields(Fit)})
        return made

    return disk.load(path, VERSION, "a fit", "`cuecard fit` writes them", fit)


def read_all(path: Path) -> list[Fit]:
    """The fits of a profile's directory, or of one file, in the profile's order of models. Raises BadInput."""
    if path.is_file():
        return [read(path)]
    if not (found := sorted((path / FOLDER).glob("*.json"))):
        raise BadInput(f"{path} holds no fits", f"cuecard fit {path}")
    fits = [read(each) for each in found]
    return sorted(fits, key=lambda fit: list(fit.measured.get("models") or [fit.model]).index(fit.model))


def plainest(fits: Sequence[Fit], model: str) -> Fit:
    """The fit of a model with the smallest batch and concurrency; of several, the one with the fastest decoding.

    Raises BadInput.
    """
    own = [fit for fit in fits if fit.model == model]
    if not own:
        there = ", ".join(dict.fromkeys(fit.model for fit in fits))
        raise BadInput(f"there is no fit of {model}", f"there are fits of {there}")

    def plainness(fit: Fit) -> tuple[float, ...]:
        setting = fit.setting
        load = setting.get("batch") or 1, setting.get("concurrency") or 1, setting.get("rate") or 0
        return *load, fit.profile.decode_s(64, 256)

    return min(own, key=plainness)
