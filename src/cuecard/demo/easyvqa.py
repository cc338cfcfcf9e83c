"""easy-VQA: images of one coloured shape and questions about it, from the package `easy-vqa` (MIT)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from cuecard.demo import EXTRA
from cuecard.domain.errors import required
from cuecard.domain.question import AnswerKind, Image, Question

SHAPES = ("circle", "rectangle", "triangle")
PIXELS = 64  # on each side of an image
COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")


@dataclass(frozen=True)
class PhotoQuestion:
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
def items(split: str) -> tuple[PhotoQuestion, ...]:
    """All questions of `train` (38,575) or `test` (9,673)."""
    easy_vqa = required("easy_vqa", "easy-VQA", EXTRA)
    folder = Path(easy_vqa.__file__).parent / "data" / split
    rows = json.loads((folder / "questions.json").read_text())
    return tuple(PhotoQuestion(text, answer, folder / "images" / f"{image}.png") for text, answer, image in rows)


@cache
def scenes(split: str) -> dict[Path, tuple[str, str]]:
    """(colour, shape) of each image, from the split's own answers; images that these do not determine are left out."""
    found: dict[Path, dict[str, str]] = {}
    for item in items(split):
        seen_words = found.setdefault(item.image_path, {})
        words = item.text.rstrip("?").split()
        negated = is_negated(item)
        if item.answer not in ("yes", "no"):
            words.append(item.answer)
        elif (item.answer == "yes") == negated:
            continue
        for word in words:
            if word in SHAPES:
                seen_words["shape"] = word
            elif word in COLOURS:
                seen_words["colour"] = word
    return {
        image: (seen_words["colour"], seen_words["shape"])
        for image, seen_words in found.items()
        if len(seen_words) == 2
    }


def is_negated(item: PhotoQuestion) -> bool:
    """Whether the question asks if something is missing."""
    return bool({"not", "no"} & set(item.text.rstrip("?").split()))
