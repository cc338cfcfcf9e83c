"""What training asks about images of easy-VQA, and reasoning about them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
from PIL import Image as PilImage

from cuecard.demo.boards import SIDE
from cuecard.demo.tasks import SHAPE_COLOURS, SHAPE_PIXELS, SHAPES, PhotoQuestion, is_negated, photo_questions
from cuecard.domain.question import AnswerKind
from training.reasoning import ReasoningStyle, Solution


@cache
def asked_about(split: str) -> dict[Path, tuple[PhotoQuestion, ...]]:
    """The questions of a split by image."""
    found: dict[Path, list[PhotoQuestion]] = {}
    for item in photo_questions(split):
        found.setdefault(item.image_path, []).append(item)
    return {image: tuple(asked) for image, asked in found.items()}


def asked_for(item: PhotoQuestion) -> str | None:
    """The colour or shape that a yes/no question names; None for other questions."""
    if item.kind is not AnswerKind.YES_NO:
        return None
    return next(word for word in item.text.rstrip("?").split() if word in (*SHAPE_COLOURS, *SHAPES))


def is_there(item: PhotoQuestion, scene: tuple[str, str]) -> bool | None:
    """Whether the image shows what a yes/no question names, regardless of negation; None for other questions."""
    word = asked_for(item)
    return None if word is None else word in scene


def varied(item: PhotoQuestion, scene: tuple[str, str], rng: Random) -> PhotoQuestion:
    """A yes/no question that names what is present half the time (in the data set a fifth); others unchanged."""
    word = asked_for(item)
    if word is None:
        return item
    words = SHAPE_COLOURS if word in SHAPE_COLOURS else SHAPES
    there = scene[0] if word in SHAPE_COLOURS else scene[1]
    wanted = there if rng.random() < 0.5 else rng.choice([other for other in words if other != there])
    flips = (word == there) != (wanted == there)
    answer = {"yes": "no", "no": "yes"}[item.answer] if flips else item.answer
    return replace(item, text=item.text.replace(word, wanted), answer=answer)


def wanted(item: PhotoQuestion) -> str:
    """The property asked for: color or shape, as the data set spells them."""
    word = asked_for(item) or item.answer
    return "color" if word in SHAPE_COLOURS else "shape"


@cache
def cover(image: Path) -> tuple[bool, ...]:
    """For each of 4x4 parts of an image, whether the shape covers at least a fifth of it."""
    pixels = np.asarray(PilImage.open(image).convert("RGB")).astype(int)
    shape = np.abs(pixels - pixels[0, 0]).sum(-1) > 40
    parts = shape.reshape(SIDE, SHAPE_PIXELS // SIDE, SIDE, SHAPE_PIXELS // SIDE).mean((1, 3))
    return tuple(bool(part >= 0.2) for part in parts.flatten())


def solve(item: PhotoQuestion, scene: tuple[str, str], style: ReasoningStyle) -> Solution:
    """The reasoning from the content of the image to the answer; the colour or shape named is compared with it."""
    colour, shape = scene
    seen, what = style.photo(colour, shape, cover(item.image_path)), wanted(item)
    value = colour if what == "color" else shape
    if (word := asked_for(item)) is None:
        return Solution(f"{seen} {style.named(what, value)}", value)
    ending, answer = style.present(word, what, value, is_negated(item))
    return Solution(f"{seen} {ending}", answer)
