"""Boards: 4x4 cells, each a real handwritten digit in one of three colours, and questions about them.

Cells are numbered 1 to 16 by rows. A *jump* reads the digit of the current cell and moves that far in the direction of
its colour (red: forward, blue: back, green: rows down), wrapping round the board. A transformer looks a cell up, counts
and adds in parallel, without reasoning; jumps are inherently sequential.
"""

from __future__ import annotations

import colorsys
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from random import Random

import numpy as np
from PIL import Image as PilImage

from cuecard.demo import EXTRA
from cuecard.domain.errors import required
from cuecard.domain.question import AnswerKind, Image, Question, letter

COLOURS = ("red", "green", "blue")
CELLS, SIDE = 16, 4
ORDINALS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve")
TIMES = ("no times", "once", "twice", *(f"{number} times" for number in ORDINALS[2:]))
"""Frequency in words, by number."""

Cell = tuple[str, int]
"""Colour and digit."""

TINTS = {"red": (255, 60, 50), "green": (50, 225, 70), "blue": (80, 110, 255)}
HELD_OUT_TURN = (8, 12)
"""Range of degrees of hue rotation, in either direction, held out for exams; training draws none in it."""
CELL_PIXELS, SCAN_PIXELS = 32, 24
SPLITS = ("train", "validation", "test")
TASKS = ("look-up", "compare", "count", "sum", *(f"jump-{n}" for n in range(1, 6)))
LONG_TASKS = tuple(f"jump-{n}" for n in range(6, len(TIMES)))
"""Too many jumps for a short answer, and for a short reasoning, which has 150 to 300 tokens here."""

WANTED = (
    *(("digit", AnswerKind.NUMBER),) * 3,
    *(("colour", kind) for kind in (AnswerKind.SHORT_TEXT, AnswerKind.YES_NO, AnswerKind.CHOICE)),
)
"""Properties that look-ups and jumps ask for, equally likely."""

# --- real digits ------------------------------------------------------------------------------------------------------


@cache
def scans() -> tuple[np.ndarray, np.ndarray]:
    """(1797, 8, 8) scans with values in [0, 1], and their (1797,) digits: scikit-learn's copy of the UCI set."""
    digits = required("sklearn.datasets", "a board", EXTRA).load_digits()
    return digits.images.astype(np.float32) / 16, digits.target


@cache
def scans_of(split: str) -> tuple[tuple[int, ...], ...]:
    """For each digit, the indices of its scans in this split; the three splits are disjoint."""
    order = np.random.RandomState(0).permutation(1797)
    part = dict(zip(SPLITS, np.split(order, (1437, 1557)), strict=True))[split]
    _, target = scans()
    return tuple(tuple(int(i) for i in part if target[i] == digit) for digit in range(10))


@cache
def enlarged(scan: int) -> PilImage.Image:
    """One scan, enlarged to 24x24 pixels."""
    pixels = PilImage.fromarray((scans()[0][scan] * 255).astype(np.uint8))
    return pixels.resize((SCAN_PIXELS, SCAN_PIXELS), PilImage.Resampling.BILINEAR)


# --- boards -----------------------------------------------------------------------------------------------------------


def landing(cell: int, colour: str, digit: int) -> int:
    """The cell (0 to 15) that one jump from `cell` leads to."""
    return (cell + {"red": digit, "blue": -digit, "green": SIDE * digit}[colour]) % CELLS


def path(cells: Sequence[Cell], start: int, jumps: int) -> list[int]:
    """Every cell visited, with the start: jumps + 1 of them."""
    visited = [start]
    for _ in range(jumps):
        visited.append(landing(visited[-1], *cells[visited[-1]]))
    return visited


@dataclass(frozen=True)
class Board:
    """Sixteen (colour, digit) cells, the scan drawn in each, and its position in the cell."""

    cells: tuple[Cell, ...]
    scans: tuple[int, ...]
    offsets: tuple[tuple[int, int], ...]
    changes: tuple[tuple[float, float], ...] = ((0.0, 0.0),) * CELLS
    """For each cell: rotation of its digit and of its hue, in degrees."""


def make_board(rng: Random, split: str, jumps: int = 0) -> Board:
    """A random board with digits from one split's scans; from some cell, `jumps` jumps visit no cell twice."""
    cells = [(rng.choice(COLOURS), rng.randrange(10)) for _ in range(CELLS)]
    if jumps:
        _straighten(rng, cells, jumps)
    return Board(
        cells=tuple(cells),
        scans=tuple(rng.choice(scans_of(split)[digit]) for _, digit in cells),
        offsets=tuple((rng.randint(2, 6), rng.randint(2, 6)) for _ in cells),
    )


def _straighten(rng: Random, cells: list[Cell], jumps: int) -> None:
    """Redraw cells along a path until it visits no cell twice."""
    here = rng.randrange(CELLS)
    visited = {here}
    for _ in range(jumps):
        while landing(here, *cells[here]) in visited:
            cells[here] = rng.choice(COLOURS), rng.randrange(10)
        here = landing(here, *cells[here])
        visited.add(here)


def tint(colour: str, turn: float) -> tuple[int, int, int]:
    """RGB values, 0 to 255, of a colour with its hue rotated by `turn` degrees."""
    if not turn:
        return TINTS[colour]
    hue, light, saturation = colorsys.rgb_to_hls(*(value / 255 for value in TINTS[colour]))
    red, green, blue = colorsys.hls_to_rgb((hue + turn / 360) % 1, light, saturation)
    return round(255 * red), round(255 * green), round(255 * blue)


def draw(board: Board) -> np.ndarray:
    """(128, 128, 3) uint8: the picture of a board, black with thin lines between the cells."""
    picture = np.zeros((SIDE * CELL_PIXELS, SIDE * CELL_PIXELS, 3), np.uint8)
    picture[::CELL_PIXELS], picture[:, ::CELL_PIXELS] = 40, 40
    for index, ((colour, _), scan, (down, right), (rotation, turn)) in enumerate(
        zip(board.cells, board.scans, board.offsets, board.changes, strict=True)
    ):
        y, x = index // SIDE * CELL_PIXELS + down, index % SIDE * CELL_PIXELS + right
        pixels = enlarged(scan)
        if rotation:
            pixels = pixels.rotate(rotation, PilImage.Resampling.BILINEAR)
        ink = np.asarray(pixels)[..., None].astype(np.uint16) * np.array(tint(colour, turn), np.uint16) // 255
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
    """A question about a board: `task` names the computation, `about` the property wanted, `cells` where to look."""

    task: str
    about: str
    kind: AnswerKind
    cells: tuple[int, ...] = ()
    colour: str = ""
    options: tuple[str, ...] = ()

    @property
    def jumps(self) -> int:
        return jumps_of(self.task)


def jumps_of(task: str) -> int:
    """The number of jumps of a task; 0 for tasks without jumps."""
    return int(task.removeprefix("jump-")) if task.startswith("jump-") else 0


def make_task(rng: Random, cells: Sequence[Cell], task: str, wander: bool = False) -> BoardTask:
    """A random question of this task. Unless `wander`, jumps reach a new cell each time, so that guesses differ."""
    if task == "compare":
        first, second = rng.sample(range(CELLS), 2)
        while cells[first][1] == cells[second][1]:
            first, second = rng.sample(range(CELLS), 2)
        return BoardTask(task, "larger", AnswerKind.YES_NO, (first, second))
    if task == "count":
        return BoardTask(task, task, AnswerKind.NUMBER, (), rng.choice(COLOURS))
    if task == "sum":
        return BoardTask(task, task, AnswerKind.NUMBER, (rng.randrange(SIDE),))
    start, jumps = rng.randrange(CELLS), jumps_of(task)
    for _ in range(1000):
        if wander or len(set(path(cells, start, jumps))) > jumps:
            break
        start = rng.randrange(CELLS)
    about, kind = rng.choice(WANTED)
    made = BoardTask(task, about, kind, (start,))
    if kind is AnswerKind.CHOICE:
        return replace(made, options=tuple(rng.sample(COLOURS, 3)))
    if kind is AnswerKind.YES_NO:
        truth = cells[path(cells, start, jumps)[-1]][0]
        others = [colour for colour in COLOURS if colour != truth]
        return replace(made, colour=truth if rng.random() < 0.5 else rng.choice(others))
    return made


def value_of(task: BoardTask, cells: Sequence[Cell]) -> str:
    """The answer before it becomes yes or no, or a letter."""
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


def answer(task: BoardTask, cells: Sequence[Cell]) -> str:
    """The right answer: a value, yes or no, or the letter of an option."""
    value = value_of(task, cells)
    if task.kind is AnswerKind.CHOICE:
        return letter(task.options.index(value))
    if task.kind is AnswerKind.YES_NO and task.task != "compare":
        return "yes" if value == task.colour else "no"
    return value


def wording(task: BoardTask) -> str:
    """The question in natural language."""
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


# --- exams ------------------------------------------------------------------------------------------------------------

# Per cent, chosen on the validation boards: about 40% need no reasoning, as many questions about pictures; one jump is
# possible in a short answer of the deeper model only; the rest takes both models many steps.
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

LONG_MIX = dict.fromkeys(LONG_TASKS, 1)


@dataclass(frozen=True)
class Exercise:
    """A question about a board, and its right answer."""

    task: str
    question: Question
    truth: str


def changed(board: Board, rng: Random) -> Board:
    """The board with each digit rotated by up to 10 degrees, and its hue by an angle in the held-out range."""
    changes = ((rng.uniform(-10, 10), rng.choice((-1, 1)) * rng.uniform(*HELD_OUT_TURN)) for _ in range(CELLS))
    return replace(board, changes=tuple(changes))


def exercises(
    count: int, seed: int, split: str = "test", mix: dict[str, int] | None = None, *, look: str = "plain"
) -> list[Exercise]:
    """`count` exercises of the mix, deterministic for a seed; the boards `plain`, or `changed`."""
    made = []
    for index in range(count):
        rng = Random(f"{seed} {split} {index}")
        task = rng.choices(list(mix or MIX), list((mix or MIX).values()))[0]
        board = make_board(rng, split, jumps_of(task) if task in LONG_TASKS else 0)
        asked = make_task(rng, board.cells, task)
        truth = answer(asked, board.cells)
        if look == "changed":
            board = changed(board, rng)
        made.append(Exercise(task, question(asked, board), truth))
    return made
