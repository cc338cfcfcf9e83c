"""How many replies of a part of the corpus are read right, and how many wrong.

    python tests/answers/corpus/measure.py [develop|held_out] [--misread]

`--misread` lists them, of the part that readers are developed on only.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

from cuecard.answers import Answer, agree, extract, normalise
from cuecard.domain.question import AnswerKind, Question

HERE = Path(__file__).parent


@dataclass(frozen=True)
class Case:
    """A question, a reply to it, and the value of the answer that a careful reader takes; None: there is none."""

    question: Question
    reply: str
    value: str | None


def cases(part: str) -> Iterator[Case]:
    """The replies of a part: those made by `generate.py`, and those written by hand."""
    for name in (part, f"written_{part}"):
        for line in (HERE / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            asked = Question(row["question"], options=tuple(row.get("options", ())), kind=AnswerKind(row["kind"]))
            for reply, value in row["replies"] if "replies" in row else [(row["reply"], row["value"])]:
                yield Case(asked, reply, value)


def is_right(found: Answer, case: Case) -> bool:
    """Whether the answer found has the true value, or there is none and none was found."""
    if case.value is None or found.value is None:
        return case.value is None and found.value is None
    match case.question.kind:
        case AnswerKind.NUMBER:
            return found.value == Fraction(case.value)
        case AnswerKind.SHORT_TEXT:
            return found.value == normalise(case.value)
        case AnswerKind.MATHS:
            return agree(found, extract(f"${case.value}$", case.question), case.question)
        case _:
            return found.value == case.value


def measure(part: str) -> tuple[Counter[str], list[tuple[Case, Answer]]]:
    """How many replies are read right, as none though they have an answer, and wrong; and those misread."""
    counts, misread = Counter[str](), list[tuple[Case, Answer]]()
    for case in cases(part):
        found = extract(case.reply, case.question)
        outcome = "right" if is_right(found, case) else "wrong" if found.parsed else "none"
        counts[outcome] += 1
        if outcome != "right":
            misread.append((case, found))
    return counts, misread


if __name__ == "__main__":
    for name in [each for each in sys.argv[1:] if not each.startswith("-")] or ["develop", "held_out"]:
        found, missed = measure(name)
        total = found.total()
        print(f"{name}: {total} replies, right {found['right'] / total:.2%}, wrong {found['wrong'] / total:.2%}")
        if "--misread" in sys.argv and name == "develop":
            for case, answer in missed:
                print(case.question.kind, json.dumps([case.question.text, case.reply], ensure_ascii=False), end="\t")
                print("true", case.value, "found", answer.value)
