"""Compare extracted answers with a person's judgements and with the right answers.

`python tests/real/judging.py` lists replies without a judgement, and writes the table of README.md.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from statistics import mean
from typing import Any

from calls import CALLS, QWEN, SMOLLM, STRICT, UNJUDGED, Row, load_rows
from replaying import QUESTIONS, Replayed, replayed

from cuecard.answers import Answer, agree, extract
from cuecard.answers.kinds import KINDS
from cuecard.domain.question import AnswerKind, Question

README = Path(__file__).parent / "README.md"
BEGIN, END = "<!-- generated: python tests/real/judging.py -->", "<!-- end -->"
Found = Mapping[tuple[str, str, str], Replayed]


def equals(answer: Answer, value: Any, question: Question) -> bool:
    """Whether an answer equals a judgement, or a right answer from `questions.jsonl`."""
    if value is None:
        return not answer.parsed
    match question.kind:
        case AnswerKind.FREE_TEXT:
            return answer.parsed is value
        case AnswerKind.JSON:
            return answer.parsed and json.loads(str(answer.value)) == value
        case AnswerKind.NUMBER:
            return answer.value == Fraction(str(value))
        case AnswerKind.SHORT_TEXT:
            return agree(answer, extract(value, question), question)
        case _:
            return answer.value == value


def right(replay: Replayed) -> bool:
    question, gold = QUESTIONS[replay.row.question]
    return replay.answer.parsed and equals(replay.answer, gold, question)


def final(found: Found, question: str, model: str, call: str) -> Replayed:
    """The call, or the strict call that follows it if it was cut."""
    return found.get((question, model, call + STRICT)) or found[question, model, call]


def table(found: Found) -> str:
    """Right answers, tokens, cut replies and second requests, by model and call."""
    lines = ["| model | call | right | mean tokens, brief kinds | cut | strict calls | second requests |"]
    lines.append("| --- | --- | --- | --- | --- | --- | --- |")
    for model in (QWEN, SMOLLM):
        for call in CALLS:
            names = [name for name in QUESTIONS if (name, model, call) in found]
            scored = [name for name in names if QUESTIONS[name][1] is not None]
            brief = [found[name, model, call].row for name in names if KINDS[QUESTIONS[name][0].kind].brief]
            tokens = [row.completion_tokens for row in brief if row.completion_tokens is not None]
            rights = sum(right(final(found, name, model, call)) for name in scored)
            cut = sum(row.requests[0].finish_reason != "stop" for row in brief)
            strict = sum((name, model, call + STRICT) in found for name in names)
            again = sum(found[row.key].requests > 1 for row in brief)
            cells = (model, call, f"{rights} of {len(scored)}", f"{mean(tokens):.1f}", cut, strict, again)
            lines.append(f"| {' | '.join(map(str, cells))} |")
    return "\n".join(lines)


def written(readme: str, generated: str) -> str:
    """The README with the table between its marks replaced."""
    before, _, rest = readme.partition(BEGIN)
    return f"{before}{BEGIN}\n{generated}\n{END}{rest.partition(END)[2]}"


async def read_all(rows: list[Row]) -> Found:
    async with replayed(rows) as (_, _, found):
        return found


if __name__ == "__main__":
    read = asyncio.run(read_all(load_rows()))
    for each in read.values():
        if each.row.judged == UNJUDGED:
            print(*each.row.key, each.row.requests[-1].finish_reason, json.dumps(each.text), sep="\t")
    README.write_text(written(README.read_text(), table(read)))
