"""Write develop.jsonl and held_out.jsonl: replies made of the wordings in the TOML file of the same name.

    python tests/answers/corpus/generate.py

An answer has a form (a letter, an option's words, a number with its unit), a wrapper (bold, a box, quotes), and a place
(alone, after the reasoning, before reasons, after an answer taken back), in six languages. Replies without an answer
are refusals, and replies that leave two answers open. The combinations are sampled with a seed.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

HERE = Path(__file__).parent
PARTS = {"develop": 20261, "held_out": 20262}
"""The seed of each part."""
EACH = 30
"""The most replies with an answer per question; a language has about 60 questions."""
OPEN = 4
"""The most refusals per question, and twice the most replies that leave the answer open."""

BREAK, ENDS = "\n", ".!?。！？"

Words = dict[str, Any]
Stated = tuple[str, str | None]
"""A reply and its true value; None: no answer."""


def letter(index: int) -> str:
    return "ABCDEFGH"[index]


def forms(question: Words, language: Words, part: Words) -> list[tuple[str, str]]:
    """(value, written form) of every answer to a question."""
    match question["kind"]:
        case "choice":
            return [
                (letter(at), form.format(L=letter(at), T=option))
                for at, option in enumerate(question["options"])
                for form in part["choice_forms"]
            ]
        case "yes_no":
            return [("yes", language["yes"]), ("no", language["no"])]
        case "short_text":
            return [(value, value) for value in question["values"]]
        case _:
            return [(value, written) for value, written in question["values"]]


def natural(question: Words, language: Words, rng: Random) -> Iterator[tuple[str, str]]:
    """(value, sentence) pairs that answer in the question's own words."""
    match question["kind"]:
        case "choice":
            for sentence in (*question["natural"], *language["choices"]):
                one, other = rng.sample(range(len(question["options"])), 2)
                named = question["options"][one], question["options"][other]
                filled = {"T": named[0], "t": named[0][:1].lower() + named[0][1:], "U": named[1]}
                yield letter(one), sentence.format(L=letter(one), K=letter(other), **filled)
        case "yes_no":
            yield from ((value, sentence) for value in ("yes", "no") for sentence in question[value])
        case _:
            for sentence in question["natural"]:
                value, written = rng.choice(forms(question, language, {}))
                yield value, sentence.replace("{N}", written).replace("{T}", written).replace("{E}", written)


def answered(question: Words, language: Words, part: Words, rng: Random) -> Iterator[Stated]:
    """Replies with an answer in every place, with random wrappers and wordings."""
    stated = forms(question, language, part)
    openers = [*language["openers"], *question["before"]]
    gap = "" if language["code"] in ("zh", "ja") else " "

    def drawn() -> tuple[str, str, str]:
        value, written = rng.choice(stated)
        others = [text for each, text in stated if each != value]
        maths = "$" in written or "\\" in written
        wrapper = "{x}" if maths else rng.choice(part["wrappers"])
        return value, wrapper.format(x=written), rng.choice(others)

    def opened(gap: str) -> str:
        opener = rng.choice(openers)
        return opener + (gap if opener[-1] in ENDS else BREAK)

    for frame in part["frames"]:
        value, written = rng.choice(stated)
        other = rng.choice([text for each, text in stated if each != value])
        if not ("\\" in written and '"' in frame):
            yield frame.format(x=written, y=other), value
    for statement in language["statements"]:
        value, x, _ = drawn()
        yield statement.format(x=x), value
        value, x, _ = drawn()
        yield f"{opened(rng.choice([gap, BREAK, 2 * BREAK]) or BREAK)}{statement.format(x=x)}", value
        value, x, _ = drawn()
        said = statement.format(x=x)
        yield f"{said}{(gap if said[-1] in ENDS else '') or BREAK}{rng.choice(language['tails'])}", value
    for statement in language["corrections"]:
        value, x, y = drawn()
        yield statement.format(x=x, y=y), value
    value, x, _ = drawn()
    yield f"{x}\n\n{rng.choice(language['tails'])}", value
    for value, sentence in natural(question, language, rng):
        yield sentence, value
        yield f"{sentence}{gap}{rng.choice(language['tails'])}", value
        yield f"{opened(gap)}{sentence}", value


def unanswered(question: Words, language: Words, part: Words, rng: Random) -> Iterator[Stated]:
    """Refusals, and replies that leave two answers open."""
    stated = forms(question, language, part)
    for refusal in rng.sample(language["refusals"], min(OPEN, len(language["refusals"]))):
        yield refusal, None
    for pattern in rng.sample(language["several"], min(OPEN // 2, len(language["several"]))):
        value, written = rng.choice(stated)
        other = rng.choice([text for each, text in stated if each != value])
        yield pattern.format(x=written, y=other), None


def replies(name: str) -> list[Words]:
    """The rows of a part: the question with its kind, options and language, the reply, the true value."""
    part = tomllib.loads((HERE / f"{name}.toml").read_text(encoding="utf-8"))
    rng, rows, number = Random(PARTS[name]), list[Words](), 0
    for language in part["languages"]:
        for question in language["questions"]:
            made = sorted(set(answered(question, language, part, rng)))
            chosen = rng.sample(made, min(EACH, len(made)))
            asked = {"kind": question["kind"], "question": question["text"]}
            if "options" in question:
                asked["options"] = question["options"]
            for reply, value in [*chosen, *unanswered(question, language, part, rng)]:
                rows.append({**asked, "language": language["code"], "reply": reply, "value": value})
            number += 1
    return rows


if __name__ == "__main__":
    for name in PARTS:
        lines = [json.dumps(row, ensure_ascii=False, separators=(",", ":")) for row in replies(name)]
        (HERE / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
        print(name, len(lines))
