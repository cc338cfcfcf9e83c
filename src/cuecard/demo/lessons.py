"""What the embedded pair learns from: pictures as patches, and rows of tokens of which only a part is learned."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image as PilImage
from transformers import PreTrainedTokenizerBase

from cuecard.demo import boards, easyvqa
from cuecard.demo import tokenizer as tk
from cuecard.domain.call import Mode
from cuecard.domain.question import Image, Question
from cuecard.models import prompt as layouts
from cuecard.models.local.render import render
from cuecard.models.prompt import CardFormat, Prompt

VISUAL_TOKENS, GRID = 16, (1, 8, 8)
VARIANTS = 40
NO_PICTURE = Image(b"")  # a row carries its pixels beside it


# --- pictures ---------------------------------------------------------------------------------------------------------


@cache
def bent(scan: int) -> tuple[np.ndarray, ...]:
    """A scan turned, sheared, stretched and thinned a little in 40 ways, so that 1,437 scans teach what a digit is."""
    rng = Random(scan)
    pixels = PilImage.fromarray(np.pad((boards.scans()[0][scan] * 255).astype(np.uint8), 1))
    size = boards.SCAN_PIXELS
    variants = []
    for _ in range(VARIANTS):
        turn, shear = rng.uniform(-0.22, 0.22), rng.uniform(-0.15, 0.15)
        wide, high = 10 / 30 * rng.uniform(0.88, 1.12), 10 / 30 * rng.uniform(0.88, 1.12)
        a, b, d, e = wide, (shear - turn) * wide, turn * high, high
        centre, middle = 5 + rng.uniform(-0.4, 0.4), (size - 1) / 2
        c, f = centre - a * middle - b * middle, 5 + rng.uniform(-0.4, 0.4) - d * middle - e * middle
        warped = pixels.transform(
            (size, size), PilImage.Transform.AFFINE, (a, b, c, d, e, f), PilImage.Resampling.BILINEAR
        )
        strength = np.clip(np.asarray(warped, np.float32) / 255 * rng.uniform(0.85, 1.15), 0, 1) ** rng.uniform(
            0.75, 1.35
        )
        variants.append((strength * 255).astype(np.uint8))
    return tuple(variants)


def lively(rng: Random) -> Callable[[int], np.ndarray]:
    """A glyph function for `boards.draw` that bends each scan anew; one in five stays as it is."""
    return lambda scan: boards.enlarged(scan) if rng.random() < 0.2 else bent(scan)[rng.randrange(VARIANTS)]


@cache
def vqa_picture(path: Path) -> np.ndarray:
    """(128, 128, 3) uint8: an easy-VQA image as the image processor enlarges it."""
    return np.asarray(PilImage.open(path).convert("RGB").resize((128, 128), PilImage.Resampling.BICUBIC))


def patches(pictures: Sequence[np.ndarray]) -> torch.Tensor:
    """n pictures (128, 128, 3) uint8 -> (64 n, 1536): 16-pixel patches in merge order, two equal frames, in [-1, 1]."""
    x = torch.from_numpy(np.stack(pictures)).float().div_(127.5).sub_(1)
    x = x.permute(0, 3, 1, 2).reshape(-1, 3, 4, 2, 16, 4, 2, 16).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.reshape(-1, 3, 1, 16, 16).expand(-1, 3, 2, 16, 16).reshape(-1, 1536)


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Row:
    """Tokens about one picture; those in the `learned` spans (from, to) carry loss."""

    ids: list[int]
    learned: tuple[tuple[int, int], ...]
    picture: np.ndarray


class Writer:
    """Turns prompts and what should follow them into rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text.replace(tk.IMAGE, tk.IMAGE * VISUAL_TOKENS), add_special_tokens=False).input_ids

    def row(self, prompt: Prompt, reply: str, picture: np.ndarray) -> Row:
        lead = self.ids(render(self.tokenizer, prompt))
        # a model that is asked to reason also learns to open its think block itself
        own = 2 if prompt.mode is Mode.REASON else 0
        ids = lead + self.ids(reply + tk.END)
        return Row(ids, ((len(lead) - own, len(ids)),), picture)

    def chain(self, lessons: Sequence[Lesson]) -> Row:
        """Short answers to several questions about one picture, turn after turn: six for the price of three."""
        ids: list[int] = []
        learned = []
        for lesson in lessons:
            asked = lesson.question if not ids else replace(lesson.question, images=())
            ids += self.ids(("\n" if ids else "") + render(self.tokenizer, layouts.short(asked, layouts.TAGS)))
            reply = self.ids(lesson.solution.answer + tk.END)
            learned.append((len(ids), len(ids) + len(reply)))
            ids += reply
        return Row(ids, tuple(learned), lessons[0].picture)


@dataclass(frozen=True)
class Lesson:
    """A question with its picture, its reasoning, and reasoning with a slip."""

    question: Question
    picture: np.ndarray
    solution: boards.Solution
    slipped: str


def board_lessons(rng: Random, tasks: Sequence[str]) -> list[Lesson]:
    """One board, and a question of each task about it."""
    board = boards.make_board(rng, "train")
    picture = boards.draw(board, lively(rng))
    lessons = []
    for task in tasks:
        made = boards.make_task(rng, board.cells, task, wander=rng.random() < 0.15)
        slipped = boards.solve(made, boards.misread(rng, made, board.cells)).reasoning
        lessons.append(
            Lesson(boards.question(made, board, NO_PICTURE), picture, boards.solve(made, board.cells), slipped)
        )
    return lessons


def vqa_lesson(rng: Random) -> Lesson:
    scenes, items = easyvqa.scenes("train"), easyvqa.items("train")
    while (item := rng.choice(items)).image_path not in scenes:
        pass
    kind = item.kind
    wrong = (rng.choice(easyvqa.COLOURS), rng.choice(easyvqa.SHAPES))
    solution = easyvqa.solve(item, scenes[item.image_path])
    slipped = easyvqa.solve(item, wrong).reasoning
    return Lesson(Question(item.text, (NO_PICTURE,), kind=kind), vqa_picture(item.image_path), solution, slipped)


def reason_row(writer: Writer, lesson: Lesson) -> Row:
    solution = lesson.solution
    reply = solution.reasoning + layouts.TAGS.closing + solution.answer
    return writer.row(layouts.reason(lesson.question, layouts.TAGS), reply, lesson.picture)


def read_row(rng: Random, writer: Writer, lesson: Lesson, slips: float) -> Row:
    """Reading a card: sound, with a slip, or broken off; only the answer is learned, and it is the true one."""
    card, form = lesson.solution.reasoning, rng.choice([CardFormat.THINKING, *CardFormat])
    luck = rng.random()
    if luck < slips:
        card = lesson.slipped
    elif luck < slips + 0.1:
        words = card.split(" ")
        card = " ".join(words[: rng.randint(1, len(words))])
    return writer.row(layouts.read(lesson.question, card, form, layouts.TAGS), lesson.solution.answer, lesson.picture)


def look_up_row(rng: Random, writer: Writer, disorder: float) -> Row:
    """All cells of a board in the words of the reasoning, in order or not, behind any question."""
    board = boards.make_board(rng, "train")
    made = boards.make_task(rng, board.cells, rng.choice(boards.TASKS))
    order = list(range(boards.CELLS))
    if rng.random() < disorder:
        rng.shuffle(order)
    told = " ".join(f"Cell {c + 1} shows a {board.cells[c][0]} {board.cells[c][1]}." for c in order)
    prompt = layouts.reason(boards.question(made, board, NO_PICTURE), layouts.TAGS)
    return writer.row(prompt, told, boards.draw(board, lively(rng)))


def mrope_positions(image_at: int, length: int) -> torch.Tensor:
    """(3, length): time, row and column of each token; the 4x4 image takes four positions, not sixteen."""
    positions = torch.arange(length).repeat(3, 1)
    cell, after = torch.arange(VISUAL_TOKENS), image_at + VISUAL_TOKENS
    positions[:, image_at:after] = image_at + torch.stack([0 * cell, cell // 4, cell % 4])
    positions[:, after:] -= VISUAL_TOKENS - 4
    return positions


def bundles(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Rows of similar length together, so that little is padded."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    count = -(-len(ordered) // most)
    size = -(-len(ordered) // count)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
