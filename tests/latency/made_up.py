"""Readings of two made-up models whose coefficients are known."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any

from cuecard.latency.latency_model import profile_of
from cuecard.latency.readings import Point, ProfileConfig, Reading, Readings

SMALL = {
    "fixed_s": 0.012,
    "prefill_s_per_token": 4e-5,
    "prefill_s_per_pair": 2e-8,
    "decode_s_per_token": 0.008,
    "decode_s_per_context_token": 1e-6,
    "decode_start_s": 0.004,
    "decode_start_s_per_context_token": 2e-5,
    "vision_fixed_s": 0.01,
    "vision_s_per_token": 3e-5,
    "vision_s_per_pair": 1e-8,
}
LARGE = {name: 2.5 * value for name, value in SMALL.items()}
MODELS = {"tiny-2b": SMALL, "tiny-8b": LARGE}
MACHINE = {"date": "2026-11-25", "processor": "made up"}
SIZES, OUTPUTS = (128, 448, 1024), (1, 8, 32, 128)


def profiled(path: Path, noise: float = 0.0, outliers: float = 0.0, **settings: Any) -> Path:
    """A profile's directory: three rounds over three image sizes and four output lengths."""
    models: Mapping[str, Mapping[str, float]] = settings.get("models", MODELS)
    asked = ProfileConfig(
        {"source": "in-process", "models": {name: {} for name in models}, "grid": {}}, {"machine": MACHINE}
    )
    with Readings(path, asked) as held:
        for reading in made(models, Random(7), noise, outliers, settings.get("outputs", OUTPUTS)):
            held.append(reading)
    return path


def made(
    models: Mapping[str, Mapping[str, float]], rng: Random, noise: float, outliers: float, outputs: Sequence[int]
) -> Iterator[Reading]:
    points = [
        (turn, name, size, output) for turn in range(3) for name in models for size in SIZES for output in outputs
    ]
    for position, (turn, name, size, output) in enumerate(points):
        visual, profile = size**2 // 1024, profile_of(models[name])
        slow = rng.lognormvariate(0, noise) * (3 if rng.random() < outliers else 1)
        parts = {
            "preprocess": 0.1 * slow * profile.vision_s(visual),
            "vision": 0.8 * slow * profile.vision_s(visual),
            "projector": 0.1 * slow * profile.vision_s(visual),
            "prefill": slow * profile.prefill_s(visual + 40),
            "decode": slow * profile.decode_s(output, visual + 40),
        }
        point = Point(batch=1, image_px=size, output_tokens=output, dtype="bfloat16")
        observed = {"visual_tokens": visual, "prompt_tokens": visual + 40}
        yield Reading(name, "in-process", turn, position, False, point, parts, sum(parts.values()), observed)
