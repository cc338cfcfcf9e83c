"""Reasoning about boards, in the style of each model of the embedded pair: the same facts in its own words and order.

The small model follows the order of the question; the large one begins with the last row, cell or option, names a
digit before its colour, and describes an image of easy-VQA row by row before it states its content. A card from the
small model therefore differs from the large model's own reasoning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import ClassVar

from cuecard.demo.boards import CELLS, COLOURS, ORDINALS, SIDE, TIMES, BoardTask, Cell, path, value_of
from cuecard.domain.question import AnswerKind, letter

DIRECTIONS = {"red": "forward", "blue": "back", "green": "down"}


@dataclass(frozen=True)
class Solution:
    """The reasoning, step by step, and the answer that follows from it."""

    reasoning: str
    answer: str


# --- styles: sentences of a reasoning; those that end it come with the answer that they lead to -----------------------


class InOrder:
    """The small model's style: in the order of the question."""

    marks: ClassVar[Mapping[str, str]] = {
        "sum": ":",
        "count": ".",
        "choose": ".",
        "compare": ".",
        "judge": ",",
        "present": ",",
    }
    """By sort of step: the mark after which the text is determined by what precedes it."""

    def shows(self, cells: Sequence[Cell], cell: int) -> str:
        colour, digit = cells[cell]
        return f"cell {cell + 1} shows a {colour} {digit}"

    def look_up(self, cells: Sequence[Cell], cell: int) -> str:
        return f"Let us look at the cell that the question names: {self.shows(cells, cell)}."

    def compare(self, cells: Sequence[Cell], first: int, second: int) -> str:
        return f"Let us look at both cells: {self.shows(cells, first)} and {self.shows(cells, second)}."

    def count(self, cells: Sequence[Cell], colour: str) -> str:
        lines, count = [f"Let us count the {colour} digits row by row."], 0
        for row in range(SIDE):
            colours = [each for each, _ in cells[SIDE * row : SIDE * row + SIDE]]
            here = colours.count(colour)
            count += here
            times = f"{here} time{'s' * (here != 1)}"
            lines.append(f"Row {row + 1} shows {', '.join(colours)}: {colour} {times}, so far {count}.")
        return " ".join(lines)

    def sum(self, cells: Sequence[Cell], row: int) -> str:
        first, total, lines = SIDE * row, 0, list[str]()
        for cell in range(first, first + SIDE):
            total += cells[cell][1]
            lines.append(f"{self.shows(cells, cell)}, which makes {total}")
        return f"Let us add up row {row + 1}, from cell {first + 1} to cell {first + SIDE}: {'; '.join(lines)}."

    def jumps(self, cells: Sequence[Cell], start: int, jumps: int) -> str:
        visited = path(cells, start, jumps)
        lines = [f"Let us start at cell {start + 1} and jump {TIMES[jumps]}, step by step."]
        for ordinal, (here, there) in zip(ORDINALS, pairwise(visited), strict=False):
            colour, digit = cells[here]
            moved = f"so we move {DIRECTIONS[colour]} {digit} to cell {there + 1}"
            lines.append(f"Jump {ordinal}: {self.shows(cells, here)}, {moved}.")
        return " ".join(lines) + f" Now {self.shows(cells, visited[-1])}."

    def plain(self, value: str) -> str:
        return f"So the answer is {value}."

    def compared(self, first: int, second: int) -> tuple[str, str]:
        sentence, answer = _order(first, second)
        return f"{sentence}, so the answer is {answer}.", answer

    def judged(self, asked: str, seen: str) -> tuple[str, str]:
        return "".join(self.judgement(asked, seen)), _same(asked, seen)

    def judgement(self, asked: str, seen: str) -> tuple[str, str]:
        """Of the text of `judged`: the part before the colour that is seen, and the part that it determines."""
        ending = f" {seen}, so the answer is {_same(asked, seen)}."
        return f"The question asks for {asked} and the digit is", ending

    def chosen(self, options: Sequence[str], value: str) -> tuple[str, str]:
        """Go through the options until one fits."""
        at = options.index(value)
        others = [f"{letter(index)}. {option} is not it." for index, option in enumerate(options[:at])]
        last = f"{letter(at)}. {value} is it, so the answer is {letter(at)}."
        return " ".join([f"So it is {value}.", *others, last]), letter(at)

    def photo(self, colour: str, shape: str, cover: Sequence[bool]) -> str:
        return f"Let us look at the image. It shows a {colour} {shape}."

    def present(self, word: str, what: str, seen: str, negated: bool) -> tuple[str, str]:
        there = word == seen
        answer = "yes" if there != negated else "no"
        found = f"The question asks for {word} and the {what} is {seen}, so it is {'' if there else 'not '}there."
        return f"{found} The question is if it is {'not ' * negated}there, so the answer is {answer}.", answer

    def named(self, what: str, value: str) -> str:
        return f"The question asks for the {what}, so the answer is {value}."


class Backwards:
    """The large model's style: the last row or cell first, a digit before its colour, and what is seen before what the
    question names."""

    marks: ClassVar[Mapping[str, str]] = {
        "sum": ":",
        "count": ".",
        "choose": ":",
        "compare": ".",
        "judge": ",",
        "present": ",",
    }

    def shows(self, cells: Sequence[Cell], cell: int) -> str:
        colour, digit = cells[cell]
        return f"cell {cell + 1} has a {digit} in {colour}"

    def look_up(self, cells: Sequence[Cell], cell: int) -> str:
        return f"One cell decides this: {self.shows(cells, cell)}."

    def compare(self, cells: Sequence[Cell], first: int, second: int) -> str:
        return f"Two cells decide this: {self.shows(cells, second)} and {self.shows(cells, first)}."

    def count(self, cells: Sequence[Cell], colour: str) -> str:
        lines, count = [f"We go up from the last row and look for {colour}."], 0
        for row in reversed(range(SIDE)):
            colours = [each for each, _ in cells[SIDE * row : SIDE * row + SIDE]]
            here = colours.count(colour)
            count += here
            lines.append(f"Row {row + 1} shows {', '.join(colours)}: {colour} {here} more, {count} now.")
        return " ".join(lines)

    def sum(self, cells: Sequence[Cell], row: int) -> str:
        last, total, lines = SIDE * row + SIDE - 1, 0, list[str]()
        for cell in range(last, last - SIDE, -1):
            total += cells[cell][1]
            lines.append(f"{self.shows(cells, cell)}, total {total}")
        lead = f"We add row {row + 1} from its end, from cell {last + 1} back to cell {last - SIDE + 2}"
        return f"{lead}: {'; '.join(lines)}."

    def jumps(self, cells: Sequence[Cell], start: int, jumps: int) -> str:
        visited = path(cells, start, jumps)
        lines = [f"From cell {start + 1} we jump {TIMES[jumps]}."]
        for ordinal, (here, there) in zip(ORDINALS, pairwise(visited), strict=False):
            colour, digit = cells[here]
            seen = f"Now {self.shows(cells, here)}, and {colour} means {DIRECTIONS[colour]}"
            lines.append(f"{seen}, so jump {ordinal} goes {DIRECTIONS[colour]} {digit} to cell {there + 1}.")
        return " ".join(lines) + f" There {self.shows(cells, visited[-1])}."

    def plain(self, value: str) -> str:
        return f"Hence the answer is {value}."

    def compared(self, first: int, second: int) -> tuple[str, str]:
        sentence, answer = _order(first, second)
        return f"Of these {sentence}, hence the answer is {answer}.", answer

    def judged(self, asked: str, seen: str) -> tuple[str, str]:
        given, follows = self.judgement(asked, seen)
        return f"{given}{follows} {asked}, hence the answer is {_same(asked, seen)}.", _same(asked, seen)

    def judgement(self, asked: str, seen: str) -> tuple[str, str]:
        return "It is", f" {seen} and the question wants"

    def chosen(self, options: Sequence[str], value: str) -> tuple[str, str]:
        """The letter follows the option's text."""
        name = letter(options.index(value))
        return f"We want {value}: {value} is {name}, hence the answer is {name}.", name

    def photo(self, colour: str, shape: str, cover: Sequence[bool]) -> str:
        lines = ["We go up from the last row of the image."]
        for row in reversed(range(SIDE)):
            parts = [colour if covered else "empty" for covered in cover[SIDE * row : SIDE * row + SIDE]]
            lines.append(f"Row {row + 1} is {', '.join(parts)}.")
        return " ".join([*lines, f"Together they make a {shape}, and its color is {colour}."])

    def present(self, word: str, what: str, seen: str, negated: bool) -> tuple[str, str]:
        there = word == seen
        answer = "yes" if there != negated else "no"
        found = f"We see {seen} and the question wants {word}, which is {'in' if there else 'not in'} the image."
        return f"{found} It is asked if it is {'not ' * negated}there, hence the answer is {answer}.", answer

    def named(self, what: str, value: str) -> str:
        return f"What is wanted is the {what}, hence the answer is {value}."


def _order(first: int, second: int) -> tuple[str, str]:
    """How two digits compare, and whether the first one is larger."""
    how = "larger than" if first > second else "smaller than" if first < second else "equal to"
    return f"{first} is {how} {second}", "yes" if first > second else "no"


def _same(asked: str, seen: str) -> str:
    return "yes" if seen == asked else "no"


ReasoningStyle = InOrder | Backwards
STYLES: dict[str, ReasoningStyle] = {"demo-small": InOrder(), "demo-large": Backwards()}
"""By model."""


# --- solutions --------------------------------------------------------------------------------------------------------


def solve(task: BoardTask, cells: Sequence[Cell], style: ReasoningStyle) -> Solution:
    """The reasoning over these cells as they were read, every step a local look-up, and its answer.

    Misread cells give reasoning with a slip: consistent from there on, and often with a wrong answer.
    """
    value = value_of(task, cells)
    if task.task == "compare":
        ending, answer = style.compared(*(cells[c][1] for c in task.cells))
    elif task.kind is AnswerKind.YES_NO:
        ending, answer = style.judged(task.colour, value)
    elif task.kind is AnswerKind.CHOICE:
        ending, answer = style.chosen(task.options, value)
    else:
        ending, answer = style.plain(value), value
    return Solution(f"{_steps(task, cells, style)} {ending}", answer)


def _steps(task: BoardTask, cells: Sequence[Cell], style: ReasoningStyle) -> str:
    match task.task:
        case "compare":
            return style.compare(cells, task.cells[0], task.cells[1])
        case "count":
            return style.count(cells, task.colour)
        case "sum":
            return style.sum(cells, task.cells[0])
        case "look-up":
            return style.look_up(cells, task.cells[0])
    return style.jumps(cells, task.cells[0], task.jumps)


def misread(rng: Random, task: BoardTask, cells: Sequence[Cell]) -> list[Cell]:
    """The cells with one misread: one of those that the reasoning looks at is replaced."""
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
