"""Boards: 4x4 cells, each a real handwritten digit in one of three colours, and questions about them.

Cells are numbered 1 to 16 by rows. A *jump* reads the digit of the cell it stands on and moves that far in the
direction of its colour (red: forward, blue: back, green: rows down), wrapping round the board. Looking a cell up,
counting and adding are done in parallel by a transformer and need no reasoning; jumps are sequential by nature.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import pairwise
from random import Random

import numpy as np
from PIL import Image as PilImage

from cuecard.domain.question import AnswerKind, Image, Question, letter

COLOURS = ("red", "green", "blue")
TINTS = {"red": (255, 60, 50), "green": (50, 225, 70), "blue": (80, 110, 255)}
CELLS, SIDE, CELL_PIXELS, SCAN_PIXELS = 16, 4, 32, 24
SPLITS = ("train", "validation", "test")
JUMPS = (1, 2, 3, 4, 5)
TIMES = {1: "once", 2: "twice", 3: "three times", 4: "four times", 5: "five times"}
ORDINALS = ("one", "two", "three", "four", "five")
TASKS = ("look-up", "compare", "count", "sum", *(f"jump-{n}" for n in JUMPS))

Cell = tuple[str, int]


# --- real digits ------------------------------------------------------------------------------------------------------


@cache
def scans() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) scans with values in [0, 1], and their (1797,) digits: scikit-learn's copy of the UCI set."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images.astype(np.float32) / 16, digits.target


@cache
def scans_of(split: str) -> tuple[tuple[int, ...], ...]:
    """For each digit, the indices of its scans in this split; the three splits share no scan."""
    order = np.random.RandomState(0).permutation(1797)
    part = dict(zip(SPLITS, np.split(order, (1437, 1557)), strict=True))[split]
    _, target = scans()
    return tuple(tuple(int(i) for i in part if target[i] == digit) for digit in range(10))


@cache
def enlarged(scan: int) -> np.ndarray:
    """(24, 24) uint8: one scan, enlarged."""
    pixels = PilImage.fromarray((scans()[0][scan] * 255).astype(np.uint8))
    return np.asarray(pixels.resize((SCAN_PIXELS, SCAN_PIXELS), PilImage.Resampling.BILINEAR))


# --- boards -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Board:
    """Sixteen (colour, digit) cells, the scan drawn in each, and where in its cell each one lies."""

    cells: tuple[Cell, ...]
    scans: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]


def make_board(rng: Random, split: str) -> Board:
    """A random board whose digits are drawn from one split's scans."""
    cells = tuple((rng.choice(COLOURS), rng.randrange(10)) for _ in range(CELLS))
    return Board(
        cells=cells,
        scans=tuple(rng.choice(scans_of(split)[digit]) for _, digit in cells),
        offsets=tuple((rng.randint(2, 6), rng.randint(2, 6)) for _ in cells),
    )


def draw(board: Board) -> np.ndarray:
    """(128, 128, 3) uint8: the picture of a board, black with thin lines between the cells."""
    picture = np.zeros((SIDE * CELL_PIXELS, SIDE * CELL_PIXELS, 3), np.uint8)
    picture[::CELL_PIXELS], picture[:, ::CELL_PIXELS] = 40, 40
    for index, ((colour, _), scan, (down, right)) in enumerate(
        zip(board.cells, board.scans, board.offsets, strict=True)
    ):
        y, x = index // SIDE * CELL_PIXELS + down, index % SIDE * CELL_PIXELS + right
        ink = enlarged(scan)[..., None].astype(np.uint16) * np.array(TINTS[colour], np.uint16) // 255
        picture[y : y + SCAN_PIXELS, x : x + SCAN_PIXELS] = ink
    return picture


def png(picture: np.ndarray) -> Image:
    """The picture as a PNG image."""
    buffer = io.BytesIO()
    PilImage.fromarray(picture).save(buffer, "PNG")
    return Image(buffer.getvalue())


# --- questions --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class BoardTask:
    """What is asked of a board: `task` names the computation, `about` the property wanted, `cells` where to look."""

    task: str
    about: str
    kind: AnswerKind
    cells: tuple[int, ...] = ()
    colour: str = ""
    options: tuple[str, ...] = ()

    @property
    def jumps(self) -> int:
        return int(self.task.removeprefix("jump-")) if self.task.startswith("jump-") else 0


@dataclass(frozen=True)
class Solution:
    """The reasoning, step by step, and the answer it ends in."""

    reasoning: str
    answer: str


def landing(cell: int, colour: str, digit: int) -> int:
    """The cell (0 to 15) that one jump from `cell` leads to."""
    return (cell + {"red": digit, "blue": -digit, "green": SIDE * digit}[colour]) % CELLS


def path(cells: Sequence[Cell], start: int, jumps: int) -> list[int]:
    """Every cell visited, the start included: jumps + 1 of them."""
    visited = [start]
    for _ in range(jumps):
        visited.append(landing(visited[-1], *cells[visited[-1]]))
    return visited


def make_task(rng: Random, cells: Sequence[Cell], task: str, wander: bool = False) -> BoardTask:
    """A random question of this task. Unless they `wander`, jumps reach a new cell each time: guesses differ."""
    if task == "compare":
        first, second = rng.sample(range(CELLS), 2)
        while cells[first][1] == cells[second][1]:
            first, second = rng.sample(range(CELLS), 2)
        return BoardTask(task, "larger", AnswerKind.YES_NO, (first, second))
    if task == "count":
        return BoardTask(task, task, AnswerKind.NUMBER, (), rng.choice(COLOURS))
    if task == "sum":
        return BoardTask(task, task, AnswerKind.NUMBER, (rng.randrange(SIDE),))
    start, jumps = rng.randrange(CELLS), int(task.removeprefix("jump-")) if task.startswith("jump-") else 0
    for _ in range(1000):
        if wander or len(set(path(cells, start, jumps))) == jumps + 1:
            break
        start = rng.randrange(CELLS)
    about, kind = rng.choice(
        (
            ("digit", AnswerKind.NUMBER),
            ("digit", AnswerKind.NUMBER),
            ("digit", AnswerKind.NUMBER),
            ("colour", AnswerKind.SHORT_TEXT),
            ("colour", AnswerKind.YES_NO),
            ("colour", AnswerKind.CHOICE),
        )
    )
    made = BoardTask(task, about, kind, (start,))
    if kind is AnswerKind.CHOICE:
        return replace(made, options=tuple(rng.sample(COLOURS, 3)))
    if kind is AnswerKind.YES_NO:
        truth = cells[path(cells, start, jumps)[-1]][0]
        others = [colour for colour in COLOURS if colour != truth]
        return replace(made, colour=truth if rng.random() < 0.5 else rng.choice(others))
    return made


def _value(task: BoardTask, cells: Sequence[Cell]) -> str:
    """The answer before it is put as yes or no, or as a letter."""
    match task.task:
        case "compare":
            first, second = (cells[cell][1] for cell in task.cells)
            return "yes" if first > second else "no"
        case "count":
            return str(sum(colour == task.colour for colour, _ in cells))
        case "sum":
            return str(sum(digit for _, digit in cells[SIDE * task.cells[0] : SIDE * task.cells[0] + SIDE]))
        case _:
            colour, digit = cells[path(cells, task.cells[0], task.jumps)[-1]]
            return str(digit) if task.about == "digit" else colour


def wording(task: BoardTask) -> str:
    """The question as a person would ask it."""
    match task.task, task.kind:
        case "compare", _:
            return f"Is the digit in cell {task.cells[0] + 1} larger than the digit in cell {task.cells[1] + 1}?"
        case "count", _:
            return f"How many {task.colour} digits are there?"
        case "sum", _:
            return f"What is the sum of the digits in row {task.cells[0] + 1}?"
    place = f"in cell {task.cells[0] + 1}" if not task.jumps else "you reach"
    lead = f"Start at cell {task.cells[0] + 1} and jump {TIMES[task.jumps]}. " if task.jumps else ""
    if task.about == "digit":
        return f"{lead}Which digit {'is' if not task.jumps else 'do'} {place}?"
    if task.kind is AnswerKind.YES_NO:
        return f"{lead}Is the digit {place} {task.colour}?"
    return f"{lead}What colour is the digit {place}?"


def question(task: BoardTask, board: Board, image: Image | None = None) -> Question:
    """The task as a question with its picture."""
    return Question(wording(task), (image or png(draw(board)),), task.options, task.kind)


def solve(task: BoardTask, cells: Sequence[Cell]) -> Solution:
    """The reasoning over these cells as they were seen, every step a local look-up, and its answer.

    Cells read wrongly give reasoning with a slip: consistent from there on, and often wrong in the end.
    """
    value = _value(task, cells)
    steps = _steps(task, cells)
    if task.task == "compare":
        ending, answer = compared(*(cells[c][1] for c in task.cells))
    elif task.kind is AnswerKind.YES_NO:
        ending, answer = judged(task.colour, value)
    elif task.kind is AnswerKind.CHOICE:
        ending, answer = chosen(task.options, value)
    else:
        ending, answer = f"So the answer is {value}.", value
    return Solution(f"{steps} {ending}", answer)


def compared(first: int, second: int) -> tuple[str, str]:
    """The sentence that ends reasoning about whether one digit is larger than another, and its answer."""
    how = "larger than" if first > second else "smaller than" if first < second else "equal to"
    answer = "yes" if first > second else "no"
    return f"{first} is {how} {second}, so the answer is {answer}.", answer


def judged(asked: str, seen: str) -> tuple[str, str]:
    """The sentence that ends reasoning about a yes/no question, and its answer."""
    answer = "yes" if seen == asked else "no"
    return f"The question asks for {asked} and the digit is {seen}, so the answer is {answer}.", answer


def chosen(options: Sequence[str], value: str) -> tuple[str, str]:
    """The sentences that end reasoning about a choice, and its answer: the options are gone through until one fits."""
    lines = [f"So it is {value}."]
    lines += [f"{letter(index)}. {option} is not it." for index, option in enumerate(options[: options.index(value)])]
    answer = letter(options.index(value))
    return " ".join([*lines, f"{answer}. {value} is it, so the answer is {answer}."]), answer


def shows(cells: Sequence[Cell], cell: int) -> str:
    """What is in a cell, in words."""
    colour, digit = cells[cell]
    return f"cell {cell + 1} shows a {colour} {digit}"


def _steps(task: BoardTask, cells: Sequence[Cell]) -> str:
    match task.task:
        case "compare":
            return f"Let us look at both cells: {' and '.join(shows(cells, c) for c in task.cells)}."
        case "count":
            lines, count = [f"Let us count the {task.colour} digits row by row."], 0
            for row in range(SIDE):
                colours = [colour for colour, _ in cells[SIDE * row : SIDE * row + SIDE]]
                here = colours.count(task.colour)
                count += here
                times = f"{here} time{'s' * (here != 1)}"
                lines.append(f"Row {row + 1} shows {', '.join(colours)}: {task.colour} {times}, so far {count}.")
            return " ".join(lines)
        case "sum":
            first, total = SIDE * task.cells[0], 0
            lead, lines = f"Let us add up row {task.cells[0] + 1}, from cell {first + 1} to cell {first + SIDE}", []
            for cell in range(first, first + SIDE):
                total += cells[cell][1]
                lines.append(f"{shows(cells, cell)}, which makes {total}")
            return f"{lead}: {'; '.join(lines)}."
    visited = path(cells, task.cells[0], task.jumps)
    if not task.jumps:
        return f"Let us look at the cell that the question names: {shows(cells, visited[0])}."
    lines = [f"Let us start at cell {visited[0] + 1} and jump {TIMES[task.jumps]}, step by step."]
    for ordinal, (here, there) in zip(ORDINALS, pairwise(visited), strict=False):
        colour, digit = cells[here]
        direction = {"red": "forward", "blue": "back", "green": "down"}[colour]
        moved = f"so we move {direction} {digit} to cell {there + 1}"
        lines.append(f"Jump {ordinal}: {shows(cells, here)}, {moved}.")
    return " ".join(lines) + f" Now {shows(cells, visited[-1])}."


def misread(rng: Random, task: BoardTask, cells: Sequence[Cell]) -> list[Cell]:
    """The cells as a careless reader sees them: one of those that the reasoning looks at is taken for another."""
    match task.task:
        case "compare":
            looked_at = list(task.cells)
        case "count":
            looked_at = list(range(CELLS))
        case "sum":
            looked_at = list(range(SIDE * task.cells[0], SIDE * task.cells[0] + SIDE))
        case _:
            looked_at = path(cells, task.cells[0], task.jumps)
    slip, seen = rng.choice(looked_at), list(cells)
    while seen[slip] == cells[slip]:
        colour, digit = cells[slip]
        seen[slip] = (rng.choice(COLOURS), digit) if rng.random() < 0.3 else (colour, rng.randrange(10))
    return seen


# --- what the pair is examined on -------------------------------------------------------------------------------------

# Chances in 100, chosen on the validation boards: four in ten need no reasoning, as many questions about pictures
# are; one jump is what the deeper model can do at once and the other cannot; the rest takes both of them many steps.
MIX = {
    "look-up": 44,
    "compare": 2,
    "count": 9,
    "sum": 2,
    "jump-1": 15,
    "jump-2": 4,
    "jump-3": 4,
    "jump-4": 7,
    "jump-5": 13,
}


@dataclass(frozen=True)
class Exercise:
    """A question about a board, and what is right."""

    task: str
    question: Question
    truth: str
    reasoning: str


def exercises(count: int, seed: int, split: str = "test", mix: dict[str, int] | None = None) -> list[Exercise]:
    """`count` exercises of the mix, the same for the same seed."""
    made = []
    for index in range(count):
        rng = Random(f"{seed} {split} {index}")
        task = rng.choices(list(mix or MIX), list((mix or MIX).values()))[0]
        board = make_board(rng, split)
        asked = make_task(rng, board.cells, task)
        solution = solve(asked, board.cells)
        made.append(Exercise(task, question(asked, board), solution.answer, solution.reasoning))
    return made
