"""easy-VQA: real images of one coloured shape and questions about it, as the package `easy-vqa` ships them (MIT)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cuecard.demo.boards import Solution
from cuecard.domain.question import AnswerKind, Image, Question

SHAPES = ("circle", "rectangle", "triangle")
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


@dataclass(frozen=True)
class Item:
    """One question of the data set."""

    text: str
    answer: str
    image_path: Path

    @property
    def kind(self) -> AnswerKind:
        return AnswerKind.YES_NO if self.answer in ("yes", "no") else AnswerKind.SHORT_TEXT

    def question(self) -> Question:
        return Question(self.text, (Image(self.image_path.read_bytes()),), kind=self.kind)


@cache
def items(split: str) -> tuple[Item, ...]:
    """All questions of `train` (38,575) or `test` (9,673)."""
    import easy_vqa

    folder = Path(easy_vqa.__file__).parent / "data" / split
    rows = json.loads((folder / "questions.json").read_text())
    return tuple(Item(text, answer, folder / "images" / f"{image}.png") for text, answer, image in rows)


@cache
def scenes(split: str) -> dict[Path, tuple[str, str]]:
    """What each image shows, (colour, shape), as the split's own answers tell; images that do not tell are left out."""
    found: dict[Path, dict[str, str]] = {}
    for item in items(split):
        told = found.setdefault(item.image_path, {})
        words = item.text.rstrip("?").split()
        negated = "not" in words or "no" in words
        if item.answer not in ("yes", "no"):
            words.append(item.answer)
        elif (item.answer == "yes") == negated:
            continue
        for word in words:
            if word in SHAPES:
                told["shape"] = word
            elif word in COLOURS:
                told["colour"] = word
    return {image: (told["colour"], told["shape"]) for image, told in found.items() if len(told) == 2}


def solve(item: Item, scene: tuple[str, str]) -> Solution:
    """The reasoning from what the image shows to the answer."""
    colour, shape = scene
    seen = f"Let us look at the image. It shows a {colour} {shape}."
    return Solution(f"{seen} The question is: {item.text} So the answer is {item.answer}.", item.answer)
