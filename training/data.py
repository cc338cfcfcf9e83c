"""Training data of the embedded pair: pictures as patches, and rows of tokens of which a part carries loss."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image as PilImage
from transformers import PreTrainedTokenizerBase

from cuecard.demo import boards, tasks
from cuecard.demo.boards import CELLS, COLOURS, SIDE, Cell, path
from cuecard.domain.call import Mode
from cuecard.domain.question import Image, Question
from cuecard.models import prompt as layouts
from cuecard.models.local.network import render
from cuecard.models.prompt import CardFormat, Prompt
from training import shapes
from training import tokenizer as tk
from training.reasoning import STYLES, ReasoningStyle, Solution, misread, solve

VISUAL_TOKENS, GRID = 16, (1, 8, 8)
LONGEST = 12
"""Jumps that one board in eight of the album allows without visiting a cell twice."""
NO_PICTURE = Image(b"")  # a row refers to its picture by an index into the album


# --- pictures ---------------------------------------------------------------------------------------------------------


def lively(made: Sequence[boards.Board], rng: Random) -> torch.Tensor:
    """(n, 128, 128, 3) uint8: boards with digits rotated, sheared, stretched, bent, thinned and tinted at random.

    1,437 scans are all examples of digits; one board in four is drawn without augmentation, as in the exam.
    """
    noise = torch.Generator().manual_seed(rng.getrandbits(60))
    count, size = CELLS * len(made), boards.CELL_PIXELS

    def between(low: float, high: float, *shape: int) -> torch.Tensor:
        return low + (high - low) * torch.rand(count, *shape, generator=noise)

    scans = torch.tensor(boards.scans()[0][[scan for board in made for scan in board.scans]])
    turn, shear = between(-0.22, 0.22), between(-0.18, 0.18)
    wide, high = (boards.SCAN_PIXELS / 2 * between(0.85, 1.12) for _ in range(2))
    down, right = (between(1.0, 7.0) + boards.SCAN_PIXELS / 2 for _ in range(2))
    row, column = torch.meshgrid(torch.arange(size) + 0.5, torch.arange(size) + 0.5, indexing="ij")
    y = (row - down[:, None, None]) / high[:, None, None]
    x = (column - right[:, None, None]) / wide[:, None, None]
    bend = 0.05 * torch.randn(count, 2, 4, 4, generator=noise)
    bend = F.interpolate(bend, (size, size), mode="bicubic", align_corners=True)
    where = torch.stack(
        (x + (shear - turn)[:, None, None] * y + bend[:, 0], turn[:, None, None] * x + y + bend[:, 1]), -1
    )
    ink = F.grid_sample(scans[:, None], where, align_corners=False)[:, 0]
    ink = (ink * between(0.85, 1.15, 1, 1)).clamp(0, 1) ** between(0.7, 1.4, 1, 1)
    tints = torch.tensor([boards.tint(colour, trained_turn(rng)) for board in made for colour, _ in board.cells])
    cells = ink[..., None] * (tints * between(0.9, 1.1, 3))[:, None, None]
    cells[:, 0], cells[:, :, 0] = 40, 40
    cells += between(0, 8, 1, 1, 1) * torch.randn(cells.shape, generator=noise)
    width = SIDE * size
    pictures = cells.reshape(-1, SIDE, SIDE, size, size, 3).transpose(2, 3).reshape(-1, width, width, 3)
    pictures = pictures.clamp(0, 255).to(torch.uint8)
    for index, board in enumerate(made):
        if rng.random() < 0.25:
            pictures[index] = torch.from_numpy(boards.draw(board))
    return pictures


def trained_turn(rng: Random) -> float:
    """A random hue rotation of a digit in training: up to 20 degrees in either direction, without the held-out band.

    The brightness of each channel varies, too, which brings 11% of the digits back into that band (20% without it).
    """
    low, high = boards.HELD_OUT_TURN
    while low <= abs(turn := rng.uniform(-20, 20)) <= high:
        pass
    return turn


@cache
def vqa_picture(path: Path) -> np.ndarray:
    """(128, 128, 3) uint8: an easy-VQA image, enlarged as by the image processor."""
    return np.asarray(PilImage.open(path).convert("RGB").resize((128, 128), PilImage.Resampling.BICUBIC))


def patches(pictures: torch.Tensor) -> torch.Tensor:
    """n pictures (n, 128, 128, 3) uint8 -> (64 n, 1536): 16-pixel patches in merge order, twice, in [-1, 1]."""
    x = pictures.float().div_(127.5).sub_(1)
    x = x.permute(0, 3, 1, 2).reshape(-1, 3, 4, 2, 16, 4, 2, 16).permute(0, 2, 5, 3, 6, 1, 4, 7)
    return x.reshape(-1, 3, 1, 16, 16).expand(-1, 3, 2, 16, 16).reshape(-1, 1536)


class Album:
    """A stock of boards and easy-VQA images with their features from a frozen vision tower."""

    def __init__(self, see: Callable[[torch.Tensor], torch.Tensor], seed: int, count: int, own: ReasoningStyle) -> None:
        """`see` maps n pictures (n, 128, 128, 3) to features (n, f); `own` is the style to learn."""
        self.own = own
        self.boards: list[boards.Board] = []
        features: list[torch.Tensor] = []
        rng = Random(f"{seed} album")
        for _ in range(0, count, 32):
            made = [boards.make_board(rng, "train", LONGEST if index % 8 == 0 else 0) for index in range(32)]
            self.boards += made
            features.append(see(lively(made, rng)))
        self.long = [index for index in range(len(self.boards)) if index % 8 == 0]
        scenes = sorted(tasks.scenes("train"))
        self.photos = {path: len(self.boards) + index for index, path in enumerate(scenes)}
        parts = (scenes[start : start + 32] for start in range(0, len(scenes), 32))
        features += [see(torch.from_numpy(np.stack([vqa_picture(path) for path in part]))) for part in parts]
        self.features = torch.cat(features)

    def board_lessons(self, rng: Random, tasks: Sequence[str]) -> list[Lesson]:
        """Questions about one random board, one per task; half of those for a digit are drawn again.

        Duplicates are dropped, as they could be answered by copying instead of seeing.
        """
        is_long = any(task in boards.LONG_TASKS for task in tasks)
        picture = rng.choice(self.long) if is_long else rng.randrange(len(self.boards))
        board = self.boards[picture]
        lessons: list[Lesson] = []
        for task in tasks:
            made = boards.make_task(rng, board.cells, task, wander=rng.random() < 0.15)
            if made.about == "digit" and rng.random() < 0.5:  # stated as it is seen: the easiest kind
                made = boards.make_task(rng, board.cells, task, wander=rng.random() < 0.15)
            if any(boards.wording(made) == lesson.question.text for lesson in lessons):
                continue
            style = self.of_card(rng)
            card = solve(made, board.cells, style).reasoning
            slipped = solve(made, misread(rng, made, board.cells), style).reasoning
            asked, solution = boards.question(made, board, NO_PICTURE), solve(made, board.cells, self.own)
            visited = path(board.cells, made.cells[0], made.jumps) if made.about in ("digit", "colour") else []
            lessons.append(Lesson(asked, picture, solution, card, slipped, tuple(visited)))
        return lessons

    def photo_lessons(self, rng: Random, count: int, as_asked: float = 0.0) -> list[Lesson]:
        """Up to `count` questions about a random image of easy-VQA's training split, a share `as_asked` unchanged.

        The others are varied so that the shape or colour that they name is present half the time.
        """
        path = rng.choice(list(self.photos))
        asked, scene = shapes.asked_about("train")[path], tasks.scenes("train")[path]
        chosen = rng.sample(asked, min(count, len(asked)))
        items = {item if as_asked and rng.random() < as_asked else shapes.varied(item, scene, rng) for item in chosen}
        return [self._photo_lesson(rng, item) for item in sorted(items, key=lambda item: item.text)]

    def _photo_lesson(self, rng: Random, item: tasks.PhotoQuestion) -> Lesson:
        scene = tasks.scenes("train")[item.image_path]
        wrong = rng.choice(tasks.SHAPE_COLOURS), rng.choice(tasks.SHAPES)
        style, solution = self.of_card(rng), shapes.solve(item, scene, self.own)
        card, slipped = (shapes.solve(item, seen, style).reasoning for seen in (scene, wrong))
        asked, shown = Question(item.text, (NO_PICTURE,), kind=item.kind), Scene(*scene, shapes.is_there(item, scene))
        return Lesson(asked, self.photos[item.image_path], solution, card, slipped, scene=shown, item=item)

    def of_card(self, rng: Random) -> ReasoningStyle:
        """The style of a card: with probability 3/4 that of the other model."""
        others = [style for style in STYLES.values() if style is not self.own]
        return rng.choice(others) if rng.random() < 0.75 else self.own


# --- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scene:
    """An easy-VQA image: colour, shape, and whether it shows what a yes/no question names (None: another question)."""

    colour: str
    shape: str
    is_there: bool | None


@dataclass(frozen=True)
class Row:
    """Tokens about one picture of the album; those in the `learned` spans [from, to) carry loss."""

    ids: list[int]
    learned: tuple[tuple[int, int], ...]
    picture: int
    stations: tuple[tuple[int, tuple[int, ...]], ...] = ()
    """Position that predicts a short answer, and the cells that lead to it: start, after one jump, and so on."""
    scenes: tuple[tuple[int, Scene], ...] = ()
    """Position that predicts a short answer about an easy-VQA image, and the content of the image."""


@dataclass(frozen=True)
class Lesson:
    """A question, its picture and reasoning, the reasoning of a card without and with a slip, and the cells visited."""

    question: Question
    picture: int
    solution: Solution
    card: str
    slipped: str
    visited: tuple[int, ...] = ()
    """Cells of a board that the jumps visit."""
    scene: Scene | None = None
    item: tasks.PhotoQuestion | None = None
    """The question of easy-VQA; None for boards."""


class Writer:
    """Turns prompts and replies into rows."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text.replace(tk.IMAGE, tk.IMAGE * VISUAL_TOKENS), add_special_tokens=False).input_ids

    def row(self, prompt: Prompt, reply: str, picture: int) -> Row:
        lead = self.ids(render(self.tokenizer, prompt))
        # a model in reasoning mode also learns to open its think block
        own = 2 if prompt.mode is Mode.REASON else 0
        ids = lead + self.ids(reply + tk.END)
        return Row(ids, ((len(lead) - own, len(ids)),), picture)

    def drill(self, prompt: Prompt, statements: Sequence[tuple[str, str]], picture: int) -> Row:
        """Several (given, follows) texts in sequence, with loss on the second parts only; not a whole reply."""
        lead, text, spans = self.ids(render(self.tokenizer, prompt)), "", []
        for given, follows in statements:
            spans.append((len(text) + len(given), len(text) + len(given) + len(follows)))
            text += f"{given}{follows} "
        encoded = self.tokenizer(text.rstrip(), add_special_tokens=False, return_offsets_mapping=True)
        starts = [len(lead) + bisect_left(encoded.offset_mapping, (at, at)) for span in spans for at in span]
        return Row(lead + encoded.input_ids, tuple(zip(starts[::2], starts[1::2], strict=True)), picture)

    def chain(self, lessons: Sequence[Lesson]) -> Row:
        """Short answers to several questions about one picture, turn after turn: six for the price of three."""
        ids: list[int] = []
        learned, stations, scenes = [], [], []
        for lesson in lessons:
            asked = lesson.question if not ids else replace(lesson.question, images=())
            ids += self.ids(("\n" if ids else "") + render(self.tokenizer, layouts.short(asked, layouts.EMBEDDED)))
            reply = self.ids(lesson.solution.answer + tk.END)
            if lesson.visited:
                stations.append((len(ids) - 1, lesson.visited))
            if lesson.scene:
                scenes.append((len(ids) - 1, lesson.scene))
            learned.append((len(ids), len(ids) + len(reply)))
            ids += reply
        return Row(ids, tuple(learned), lessons[0].picture, tuple(stations), tuple(scenes))


def reason_row(writer: Writer, lesson: Lesson) -> Row:
    solution = lesson.solution
    reply = solution.reasoning + layouts.EMBEDDED.closing + solution.answer
    return writer.row(layouts.reason(lesson.question, layouts.EMBEDDED), reply, lesson.picture)


def read_row(rng: Random, writer: Writer, lesson: Lesson, slips: float) -> Row:
    """Reading a card: intact, with a slip, or truncated; only the answer, always the true one, carries loss."""
    card, form = lesson.card, rng.choice([CardFormat.THINKING, *CardFormat])
    luck = rng.random()
    if luck < slips:
        card = lesson.slipped
    elif luck < slips + 0.1:
        words = card.split(" ")
        card = " ".join(words[: rng.randint(1, len(words))])
    return writer.row(
        layouts.read(lesson.question, card, form, layouts.EMBEDDED), lesson.solution.answer, lesson.picture
    )


def look_up_row(rng: Random, writer: Writer, album: Album, disorder: float) -> Row:
    """All cells of a board in the words of the reasoning, in order or shuffled, behind any question."""
    lesson = album.board_lessons(rng, [rng.choice(boards.TASKS)])[0]
    cells, order = album.boards[lesson.picture].cells, list(range(CELLS))
    if rng.random() < disorder:
        rng.shuffle(order)
    statements = "; ".join(album.own.shows(cells, cell) for cell in order)
    return writer.row(layouts.reason(lesson.question, layouts.EMBEDDED), statements, lesson.picture)


def drill_row(rng: Random, writer: Writer, album: Album, sorts: Sequence[str]) -> Row:
    """One sort of step several times in the words of the reasoning: adding, counting, choosing, comparing, judging,
    jumping or recalling what was seen.

    The beginning of a step carries no loss: it is drawn at random, and does not follow from the question.
    """
    sort = rng.choice(sorts)
    if sort in ("present", "found"):
        lesson = album.photo_lessons(rng, 1)[0]
        return writer.drill(
            layouts.reason(lesson.question, layouts.EMBEDDED),
            _present(rng, album, lesson, sort == "found"),
            lesson.picture,
        )
    lesson = album.board_lessons(rng, [rng.choice(boards.TASKS)])[0]
    while sort in ("choose", "choose far") and not lesson.question.options:
        lesson = album.board_lessons(rng, [rng.choice(boards.TASKS)])[0]
    statements = _steps(rng, sort, album.own, album.boards[lesson.picture].cells, lesson.question.options)
    return writer.drill(layouts.reason(lesson.question, layouts.EMBEDDED), statements, lesson.picture)


def _steps(
    rng: Random, sort: str, style: ReasoningStyle, cells: Sequence[Cell], options: Sequence[str]
) -> list[tuple[str, str]]:
    """Several steps of this sort about a board, as (given, follows)."""
    match sort:
        case "sum":
            texts = [style.sum(cells, row) for row in rng.sample(range(SIDE), SIDE)]
        case "count":
            texts = [style.count(cells, colour) for colour in rng.sample(COLOURS, 3)]
        case "choose":
            texts = [style.chosen(options, rng.choice(options))[0] for _ in range(6)]
        case "choose far":  # behind a reasoning, so that the options are as far away as possible
            way = style.jumps(cells, rng.randrange(CELLS), rng.randint(1, 8))
            texts = [style.chosen(options, rng.choice(options))[0] for _ in range(4)]
            (given, follows), *more = [_halves(text, style.marks["choose"]) for text in texts]
            return [(f"{way} {given}", follows), *more]
        case "jump":
            ways = (style.jumps(cells, cell, 1) for cell in rng.sample(range(CELLS), 5))
            return [_halves(way.partition(". ")[2], " a") for way in ways]
        case "compare":
            pairs = [rng.sample(range(CELLS), 2) for _ in range(5)]
            texts = [
                f"{style.compare(cells, *pair)} {style.compared(*(cells[cell][1] for cell in pair))[0]}"
                for pair in pairs
            ]
        case "judge":
            texts = [style.judged(*rng.choices(COLOURS, k=2))[0] for _ in range(8)]
        case _:
            return [_recalled(rng, style, cells, cell) for cell in rng.sample(range(CELLS), 5)]
    return [_halves(text, style.marks[sort]) for text in texts]


def _present(rng: Random, album: Album, lesson: Lesson, only_found: bool) -> list[tuple[str, str]]:
    """Steps on whether the image shows what the question names, with both drawn at random; `only_found`: without the
    answer that follows."""
    assert lesson.item is not None
    words = tasks.SHAPE_COLOURS if (what := shapes.wanted(lesson.item)) == "color" else tasks.SHAPES
    if shapes.asked_for(lesson.item) is None:
        return [_halves(album.own.named(what, rng.choice(words)), ",")]
    texts = []
    for _ in range(6):
        seen = rng.choice(words)
        asked = seen if rng.random() < 0.5 else rng.choice(words)
        texts.append(album.own.present(asked, what, seen, tasks.is_negated(lesson.item))[0])
    halves = [_halves(text, album.own.marks["present"]) for text in texts]
    return [(given, follows[: follows.index(".") + 1] if only_found else follows) for given, follows in halves]


def _recalled(rng: Random, style: ReasoningStyle, cells: Sequence[Cell], cell: int) -> tuple[str, str]:
    """What a cell shows, given, and one of the endings that repeat it."""
    colour = cells[cell][0]
    shown = f"{style.shows(cells, cell)}."
    match rng.randrange(5):
        case 0:
            return shown, f" {style.plain(colour)}"
        case 1 | 2:
            return shown, f" {style.chosen(rng.sample(COLOURS, 3), colour)[0]}"
        case _:
            given, follows = style.judgement(rng.choice(COLOURS), colour)
            return f"{shown} {given}", follows


def _halves(text: str, mark: str) -> tuple[str, str]:
    """Split a step behind the first mark: (given, follows)."""
    given, found, follows = text.partition(mark)
    return given + found, follows


def mrope_positions(image_at: int, length: int) -> torch.Tensor:
    """(3, length): time, row and column of each token; the 4x4 image advances positions by four, not sixteen."""
    positions = torch.arange(length).repeat(3, 1)
    cell, after = torch.arange(VISUAL_TOKENS), image_at + VISUAL_TOKENS
    positions[:, image_at:after] = image_at + torch.stack([0 * cell, cell // 4, cell % 4])
    positions[:, after:] -= VISUAL_TOKENS - 4
    return positions


def bundles(rows: Sequence[Row], most: int) -> Iterator[list[Row]]:
    """Group rows of similar length, at most `most` a batch, to reduce padding."""
    ordered = sorted(rows, key=lambda row: len(row.ids))
    count = -(-len(ordered) // most)
    size = -(-len(ordered) // count)
    for start in range(0, len(ordered), size):
        yield ordered[start : start + size]
