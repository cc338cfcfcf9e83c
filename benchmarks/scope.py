"""How often the embedded pair flags a question as outside its scope: pictures by class, and questions.

    python benchmarks/scope.py [FOLDER]

FOLDER: a checkpoint with scope.json and scope.npz (default: demo-small). Each picture takes a user's path: the model
computes a prompt with it, then `outside` checks the question. Foreign pictures have the image sizes of the training.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from PIL import Image as PilImage

import foreign
from common import save
from cuecard.demo import boards, tasks
from cuecard.domain.question import Image, Question
from cuecard.models.base import outside
from cuecard.models.images.image_scope import ImageScope
from cuecard.models.local.model import LocalModel
from cuecard.models.prompt import short
from cuecard.models.scope import IMAGES_FILE
from cuecard.models.spec import Embedded

sys.path.append(str(Path(__file__).parents[1]))
from training.data import lively

BOARDS, FOREIGN, QUESTIONS, ROTATION = 500, 120, 1000, 10
ON_BOARD, ON_SHAPE = "Which digit is in cell 2?", "what shape is present?"
UNLIKE = "an image unlike"

OUT_OF_RANGE = (
    *(f"Which digit is in cell {cell}?" for cell in (0, 17, 20, 99, -1, 1.5)),
    *(f"What is the sum of the digits in row {row}?" for row in (0, 5, 12)),
    "Is the digit in cell 3 larger than the digit in cell 30?",
    "Start at cell 2 and jump 40 times. Which digit do you reach?",
    "Start at cell 2 and jump no times. Which digit do you reach?",
    "Start at cell 21 and jump twice. What colour is the digit you reach?",
    "How many yellow digits are there?",
    "Is the digit in cell 4 teal?",
)
OTHER_SENTENCES = (
    "is the shape red digit of cell",
    "Which cell is in digit 2?",
    "Is the digit larger?",
    "Which digit is in cell 2",
    "Which digit is in cell 2? Which digit is in cell 3?",
    "What is the sum of the digits in cell 2?",
    "How many digits are there?",
    "Is cell 3 red?",
    "what is the shape?",
    "is the shape red?",
    "is there a shape?",
    "what color is the image?",
    "red",
)


def png(picture: Any) -> Image:
    """An array or a Pillow image as PNG."""
    return boards.png(np.asarray(picture))


def changed(rng: Random, rotation: float, hues: bool) -> np.ndarray:
    """A test board: each digit rotated by `rotation` degrees in either direction, tinted in held-out hues if `hues`."""
    low, high = boards.HELD_OUT_TURN if hues else (0.0, 0.0)
    board = boards.make_board(rng, "test")
    changes = [(rng.choice((-1, 1)) * rotation, rng.choice((-1, 1)) * rng.uniform(low, high)) for _ in board.cells]
    return boards.draw(replace(board, changes=tuple(changes)))


def usual_pictures() -> Iterator[tuple[str, list[Image], str]]:
    """For each source: its name, held-out pictures, and a question about them."""
    rng = Random("scope usual")
    made = [boards.make_board(rng, "test") for _ in range(BOARDS)]
    yield "test boards", [png(boards.draw(board)) for board in made], ON_BOARD
    yield "test boards, drawn as in training", list(map(png, lively(made, rng).numpy())), ON_BOARD
    yield f"digits rotated by {ROTATION} degrees", [png(changed(rng, ROTATION, False)) for _ in range(BOARDS)], ON_BOARD
    yield "digits in rare hues", [png(changed(rng, 0, True)) for _ in range(BOARDS)], ON_BOARD
    paths = sorted({item.image_path for item in tasks.photo_questions("test")})
    yield "easy-VQA test images", [Image(path.read_bytes()) for path in paths], ON_SHAPE


async def flagged(model: LocalModel, images: Sequence[Image], text: str) -> dict[str, Any]:
    """How many of the images are flagged as unlike the training's, after the model has computed a prompt with each."""
    count = 0
    for image in images:
        question = Question(text, (image,))
        await model.warm(short(question, model.abilities.style))
        count += UNLIKE in (outside(question, [model]) or "")
    return {"pictures": len(images), "flagged": count, "share": round(count / len(images), 4)}


async def pictures(model: LocalModel) -> dict[str, Any]:
    usual = {name: await flagged(model, images, text) for name, images, text in usual_pictures()}
    strange: dict[str, Any] = {}
    for name, draw in foreign.CLASSES.items():
        drawn = draw(Random(f"scope {name}"), FOREIGN)
        strange[name] = {}
        for side, text in ((128, ON_BOARD), (64, ON_SHAPE)):
            sized = [png(each.resize((side, side), PilImage.Resampling.BICUBIC)) for each in drawn]
            strange[name][f"{side}x{side}"] = await flagged(model, sized, text)
        print(name, {size: each["share"] for size, each in strange[name].items()}, flush=True)
    return {"usual": usual, "foreign": strange}


def questions(model: LocalModel) -> dict[str, Any]:
    """Flagged questions by set. Only their wording can be out of scope: the images have the right sizes."""
    exam = [each.question for each in boards.exercises(QUESTIONS, 7)]
    exam += [each.question for each in boards.exercises(QUESTIONS // 4, 7, mix=boards.LONG_MIX)]
    asked = [item.question() for item in Random(7).sample(tasks.photo_questions("test"), QUESTIONS)]
    board, shape = exam[0].images, asked[0].images
    sets = {
        "exam": exam,
        "easy-VQA test": asked,
        "values out of range": [Question(text, board) for text in OUT_OF_RANGE],
        "known words in other sentences": [Question(text, board) for text in OTHER_SENTENCES],
        "easy-VQA questions about boards": [Question(each.text, board) for each in asked],
        "questions of boards about easy-VQA images": [Question(each.text, shape, each.options) for each in exam],
        "options that are no colours": [
            Question("What colour is the digit in cell 2?", board, options)
            for options in (("red", "teal"), ("1", "2"), ("red", "green", "circle"))
        ],
    }
    counts = {name: sum(outside(each, [model]) is not None for each in some) for name, some in sets.items()}
    return {
        name: {"questions": len(some), "flagged": counts[name], "share": round(counts[name] / len(some), 4)}
        for name, some in sets.items()
    }


async def costs(model: LocalModel, folder: Path) -> dict[str, float]:
    """Median milliseconds of a prompt with a new image, of comparing visual tokens, and of the scope check."""
    rng, scope = Random("scope costs"), ImageScope.read(folder / IMAGES_FILE)
    tokens = next(iter(scope.kinds.values())).mean + 1
    taken: dict[str, list[float]] = {"prompt": [], "compare": [], "ask": []}
    for _ in range(200):
        question = Question(ON_BOARD, (png(boards.draw(boards.make_board(rng, "test"))),))
        prompt = short(question, model.abilities.style)
        began = time.perf_counter()
        await model.warm(prompt)
        computed = time.perf_counter()
        scope.distances(tokens)
        compared = time.perf_counter()
        outside(question, [model])
        for name, seconds in zip(
            taken, (computed - began, compared - computed, time.perf_counter() - compared), strict=True
        ):
            taken[name].append(1000 * seconds)
    return {f"{name}_ms": round(float(np.median(each)), 4) for name, each in taken.items()}


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Embedded("demo-small").folder)
    folder = parser.parse_args().folder
    model = LocalModel.load(folder, name=folder.name)
    figures = {"model": folder.name, "questions": questions(model)}
    figures |= await pictures(model)
    figures["costs"] = await costs(model, folder)
    await model.aclose()
    print(save("scope", figures))


if __name__ == "__main__":
    asyncio.run(main())
