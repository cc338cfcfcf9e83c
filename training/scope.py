"""The scope of the pair's training, as `scope.json` and `scope.npz`:  python -m training.scope FOLDER …

Words and wordings are those of the training questions. Images are compared with boards drawn as in the exam and as in
training, and with easy-VQA's training images. The normal range is measured on validation boards, and on images of
easy-VQA's training split whose questions do not determine their content, which no phase of the training uses.
"""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random

import numpy as np
import torch

from cuecard.demo import boards, tasks
from cuecard.demo.boards import CELLS, COLOURS, SIDE, TIMES
from cuecard.domain.question import Question
from cuecard.models.images.image_scope import Floats, ImageKind, ImageScope
from cuecard.models.local.embedded_layers import VisionTower, Weights
from cuecard.models.scope import FILE, IMAGES_FILE, WORD, QuestionWording, Scope, Size
from training import data as training_data
from training.shapes import asked_about

Places = Mapping[str, tuple[str, tuple[str, ...]]]
"""By name of a place: the text before its values in a question, and the values."""
OF_BOARDS: Places = {
    "cell": ("cell ", tuple(str(cell + 1) for cell in range(CELLS))),
    "row": ("row ", tuple(str(row + 1) for row in range(SIDE))),
    "jumps": ("jump ", TIMES[1:]),
    "colour": ("", COLOURS),
}
OF_SHAPES: Places = {"color": ("", tasks.SHAPE_COLOURS), "shape": ("", tasks.SHAPES)}
BOARD_SIZE: Size = (SIDE * boards.CELL_PIXELS, SIDE * boards.CELL_PIXELS)
SHAPE_SIZE: Size = (tasks.SHAPE_PIXELS, tasks.SHAPE_PIXELS)
BOARDS, HELD_OUT_BOARDS, IMAGES = 750, 400, 2000
"""Number of boards for each way of drawing, of held-out boards, and of easy-VQA images at most."""


# --- words and wordings -----------------------------------------------------------------------------------------------


def scope() -> Scope:
    """The sizes of images, the words of questions and options, and the wordings."""
    on_boards = list(_board_questions())
    on_shapes = [Question(item.text) for item in tasks.photo_questions("train")]
    texts = [*tasks.SHAPE_COLOURS, *tasks.SHAPES, *COLOURS, *(question.text for question in on_boards + on_shapes)]
    known = {**_wordings(on_boards, OF_BOARDS, BOARD_SIZE), **_wordings(on_shapes, OF_SHAPES, SHAPE_SIZE)}
    return Scope(
        "boards of handwritten digits and coloured shapes",
        (BOARD_SIZE, SHAPE_SIZE),
        frozenset(word for text in texts for word in WORD.findall(text)),
        tuple(wording for _, wording in sorted(known.items())),
        {name: values for name, (_, values) in {**OF_BOARDS, **OF_SHAPES}.items()},
    )


def _board_questions() -> Iterator[Question]:
    rng = Random(0)
    for task in (*boards.TASKS, *boards.LONG_TASKS) * 300:
        cells = [(rng.choice(COLOURS), rng.randrange(10)) for _ in range(CELLS)]
        made = boards.make_task(rng, cells, task, wander=True)
        yield Question(boards.wording(made), options=made.options)


def _wordings(asked: Iterable[Question], places: Places, size: Size) -> dict[str, QuestionWording]:
    """Wordings of questions by text; the options of a wording, if it has any, are values of one place."""
    options: dict[str, str | None] = {}
    for question in asked:
        text = question.text
        for name, (lead, values) in places.items():
            text = re.sub(rf"\b{lead}({'|'.join(values)})\b", f"{lead}{{{name}}}", text)
        of = next((name for name, (_, values) in places.items() if set(question.options) <= set(values)), None)
        options[text] = of if question.options else options.get(text)
    return {text: QuestionWording(text, (size,), name) for text, name in options.items()}


# --- images -----------------------------------------------------------------------------------------------------------


def image_scope(folder: Path) -> ImageScope:
    """The image scope of the checkpoint in a folder; deterministic for the same weights."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    tower = VisionTower(config["vision_config"], Weights(folder / "model.safetensors"))

    def see(pictures: np.ndarray) -> Floats:
        """(n, 128, 128, 3) uint8 -> (n, 16, width)"""
        patches = training_data.patches(torch.from_numpy(pictures)).numpy()
        parts = np.split(patches, len(pictures))
        return np.stack([tower.see(part, training_data.GRID[1:])[0] for part in parts])

    rng, trained = Random("scope"), tasks.scenes("train")
    shapes = np.stack([training_data.vqa_picture(path) for path in sorted(trained)[:IMAGES]])
    open_ended = sorted(set(asked_about("train")) - set(trained))
    others = np.stack([training_data.vqa_picture(path) for path in open_ended[:IMAGES]])
    mirrored = np.ascontiguousarray(others[:, :, ::-1])
    fitted = np.concatenate([see(each) for each in _drawn(rng, "train", BOARDS)])
    held_out = [see(each) for each in _drawn(rng, "validation", HELD_OUT_BOARDS)]
    return ImageScope(
        {
            "boards": ImageKind.fit([BOARD_SIZE], fitted, held_out),
            "shapes": ImageKind.fit([SHAPE_SIZE], see(shapes), [see(others), see(mirrored)]),
        }
    )


def _drawn(rng: Random, split: str, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Boards of this split, drawn as in the exam and as in training."""
    made = [boards.make_board(rng, split) for _ in range(2 * count)]
    return np.stack([boards.draw(board) for board in made[:count]]), training_data.lively(made[count:], rng).numpy()


# --- files ------------------------------------------------------------------------------------------------------------


def write(folder: Path) -> None:
    """Write the scope into a checkpoint's folder."""
    (folder / FILE).write_text(json.dumps(scope().as_object(), indent=2) + "\n", encoding="utf-8")
    image_scope(folder).write(folder / IMAGES_FILE)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="Write scope.json and scope.npz beside a trained checkpoint.")
    parser.add_argument("folders", nargs="+", type=Path, help="of checkpoints")
    for folder in parser.parse_args(arguments).folders:
        write(folder)


if __name__ == "__main__":
    main()
