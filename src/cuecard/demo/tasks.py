"""Boards and easy-VQA as evaluation tasks.

easy-VQA, of the package `easy-vqa` (MIT), has images of one coloured shape and questions about it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from random import Random

from cuecard.demo import EXTRA
from cuecard.domain.errors import required
from cuecard.domain.question import AnswerKind, Image, Question
from cuecard.evals.item import Aggregate, Item
from cuecard.evals.tasks.registry import Opener, one_of, register, whole_number

SHAPES = ("circle", "rectangle", "triangle")
SHAPE_COLOURS = ("black", "blue", "brown", "gray", "green", "red", "teal", "yellow")
SHAPE_PIXELS = 64
"""On each side of an image of easy-VQA."""
BOARDS = 1000
LOOKS, HELD_OUT = ("plain", "changed"), ("test", "validation")
_TASKS = ("look-up", "compare", "count", "sum", *(f"jump-{n}" for n in (1, 2, 3, 4, 5)))
MIXES: dict[str, dict[str, int] | None] = {
    "examined": None,
    "easy": {"look-up": 1, "compare": 1, "count": 1, "sum": 1},
    "jumps": {f"jump-{n}": 1 for n in (1, 2, 3, 4, 5)},
    "hard": {f"jump-{n}": 1 for n in (3, 4, 5)},
    "long": {f"jump-{n}": 1 for n in range(6, 13)},
    "even": dict.fromkeys(_TASKS, 1),
    **{name: {name: 1} for name in _TASKS},
}
"""Percentages of each kind of exercise; `examined` is the mix of the embedded pair's exams."""


class BoardsTask:
    """`count` questions about boards of held-out digits, deterministic for a seed."""

    aggregate: Aggregate = "mean"

    def __init__(self, name: str, seed: int, count: int, split: str, mix: str, look: str = "plain") -> None:
        self.name, self.seed, self.split, self.mix, self.look = name, seed, split, mix, look
        self._count = count

    @property
    def count(self) -> int | None:
        return self._count

    @property
    def revision(self) -> str:
        """The settings, and a hash of the first items, so that a change of the generator changes the revision."""
        first = [(item.question.text, item.golds, item.cluster) for item in self._made(min(8, self._count))]
        made = hashlib.sha256(json.dumps(first).encode()).hexdigest()[:16]
        look = "" if self.look == "plain" else f" look={self.look}"
        return f"boards {made} seed={self.seed} count={self._count} split={self.split} mix={self.mix}{look}"

    def items(self) -> Iterator[Item]:
        """All items, one board each. Raises MissingExtra."""
        return self._made(self._count)

    def _made(self, count: int) -> Iterator[Item]:
        boards = required("cuecard.demo.boards", "a board", EXTRA)
        exercises = boards.exercises(count, self.seed, self.split, MIXES[self.mix], look=self.look)
        for index, exercise in enumerate(exercises):
            yield Item(
                id=str(index),
                question=exercise.question,
                golds=(exercise.truth,),
                scorer="exact",
                cluster=exercise.question.images[0].digest,
                category=exercise.task,
                split=self.split,
            )


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
def photo_questions(split: str) -> tuple[PhotoQuestion, ...]:
    """All questions of `train` (38,575) or `test` (9,673)."""
    easy_vqa = required("easy_vqa", "easy-VQA", EXTRA)
    folder = Path(easy_vqa.__file__).parent / "data" / split
    rows = json.loads((folder / "questions.json").read_text())
    return tuple(PhotoQuestion(text, answer, folder / "images" / f"{image}.png") for text, answer, image in rows)


@cache
def scenes(split: str) -> dict[Path, tuple[str, str]]:
    """(colour, shape) of each image, from the split's own answers; images that these do not determine are left out."""
    found: dict[Path, dict[str, str]] = {}
    for item in photo_questions(split):
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
            elif word in SHAPE_COLOURS:
                seen_words["colour"] = word
    return {
        image: (seen_words["colour"], seen_words["shape"])
        for image, seen_words in found.items()
        if len(seen_words) == 2
    }


def is_negated(item: PhotoQuestion) -> bool:
    """Whether the question asks if something is missing."""
    return bool({"not", "no"} & set(item.text.rstrip("?").split()))


class EasyVqaTask:
    """Questions of easy-VQA in its own order, or `count` of them, sampled with a seed.

    The split `validation` has the questions about those training images that the embedded pair is not trained on.
    """

    aggregate: Aggregate = "mean"

    def __init__(self, name: str, split: str, count: int, seed: int) -> None:
        self.name, self.split, self._wanted, self.seed = name, split, count, seed

    @property
    def count(self) -> int | None:
        return len(self._chosen())

    @property
    def revision(self) -> str:
        drawn = f"seed={self.seed} count={self._wanted}" if self._wanted else "all"
        return f"easy-vqa {version('easy-vqa')} split={self.split} {drawn}"

    def items(self) -> Iterator[Item]:
        """The questions. Raises MissingExtra."""
        places = self._chosen()
        every = photo_questions(self._source) if places else ()
        for place in places:
            asked = every[place]
            question = asked.question()
            yield Item(
                id=str(place),
                question=question,
                golds=(asked.answer,),
                scorer="exact",
                cluster=question.images[0].digest,
                category=question.kind,
                split=self.split,
            )

    @property
    def _source(self) -> str:
        """The split of the data set that the questions come from."""
        return "train" if self.split == "validation" else self.split

    def _chosen(self) -> list[int]:
        """Indices of the questions in the data set."""
        learned = scenes("train") if self.split == "validation" else {}
        asked = enumerate(photo_questions(self._source))
        places = [place for place, item in asked if item.image_path not in learned]
        if not self._wanted or self._wanted >= len(places):
            return places
        return sorted(Random(self.seed).sample(places, self._wanted))


def offer() -> None:
    """Register both tasks by name; idempotent."""
    register(
        "boards",
        Opener(
            lambda spec, options: BoardsTask(
                spec,
                whole_number(options, "seed", 0),
                whole_number(options, "count", BOARDS, least=1),
                one_of(options, "split", HELD_OUT) or "test",
                one_of(options, "mix", MIXES) or "examined",
                one_of(options, "look", LOOKS) or "plain",
            ),
            "boards of handwritten digits, made from a seed",
            "number, short_text, yes_no, choice",
            "exact",
            {
                "seed": "a whole number",
                "count": f"how many ({BOARDS})",
                "split": "test or validation",
                "mix": f"one of {', '.join(MIXES)}",
                "look": "plain, or changed: digits rotated by up to 10 degrees, in hues that are rare in training",
            },
        ),
    )
    register(
        "easy-vqa",
        Opener(
            lambda spec, options: EasyVqaTask(
                spec,
                one_of(options, "split", HELD_OUT) or "test",
                whole_number(options, "count", 0),
                whole_number(options, "seed", 0),
            ),
            "one coloured shape an image",
            "yes_no, short_text",
            "exact",
            {
                "split": "test or validation",
                "count": "how many are drawn (all)",
                "seed": "a whole number, for the draw",
            },
        ),
    )
