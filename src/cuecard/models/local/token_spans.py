"""What each token of a prompt is: system, image, question, reasoning, cue, answer, or the sink at its beginning."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from cuecard.domain.errors import BadInput
from cuecard.models.prompt import Prompt, Turn, neutral


class Span(StrEnum):
    """What a key belongs to; each to exactly one."""

    SINK = "sink"
    """The first token, which heads that look for nothing rest on; a learned sink's share is added to it."""
    SYSTEM = "system"
    IMAGE = "image"
    QUESTION = "question"
    REASONING = "reasoning"
    """The model's own reasoning, or the card."""
    CUE = "cue"
    """Between question or card and the answer: marks of turns and of closed thinking."""
    ANSWER = "answer"
    OTHER = "other"
    """Marks of turns, and an earlier conversation."""


@dataclass(frozen=True)
class Spans:
    """One span for each key, and the key's text."""

    names: tuple[Span, ...]
    pieces: tuple[str, ...]

    def of(self, span: Span) -> list[int]:
        """Places of the keys of a span, in order."""
        return [place for place, name in enumerate(self.names) if name is span]


def spans(prompt: Prompt, ids: Sequence[int], answered: int, tokenizer: Any, image: int | None) -> Spans:
    """Of a prompt and its answer, whose tokens are the last `answered` ids. Raises BadInput without reasoning in it."""
    pieces, length = spelled(tokenizer, ids), len(ids) - answered
    ends, text = [], ""
    for piece in pieces[:length]:
        text += piece
        ends.append(len(text))
    names = [Span.OTHER] * length + [Span.ANSWER] * answered
    for span, (start, end) in _regions(prompt, text):
        for place, stop in enumerate(ends):
            if max(start, stop - len(pieces[place])) < min(end, stop):
                names[place] = span
    names = [Span.IMAGE if token == image else name for name, token in zip(names, ids, strict=True)]
    names[0] = Span.SINK
    return Spans(tuple(names), tuple(pieces))


def _regions(prompt: Prompt, text: str) -> list[tuple[Span, tuple[int, int]]]:
    """Where in the prompt's text each span stands; later ones take what earlier ones had."""
    turns, found = prompt.turns, []
    if turns[0].role == "system":
        found.append((Span.SYSTEM, _place(text, turns[0].text)))
    found.append((Span.CUE, (_place(text, turns[-1].text)[1], len(text))))
    given_as_turn = turns[-2:-1] == (Turn("assistant", neutral(prompt.card or "").strip()),)
    asked = turns[-3 if given_as_turn else -1].text
    lead = prompt.style.words.notes.partition("{card}")[0].rpartition("\n\n")[2]
    found.append((Span.QUESTION, _place(text, asked.partition(f"\n\n{lead}")[0])))
    if prompt.card is not None:
        found.append((Span.REASONING, _place(text, neutral(prompt.card))))
    return found


def _place(text: str, part: str) -> tuple[int, int]:
    """Where a part stands last. Raises BadInput."""
    part = part.strip()
    at = text.rfind(part) if part else -1
    if at < 0:
        raise BadInput(f"no reasoning to look at: {part[:40]!r} is not in the prompt", "does the model reason at all?")
    return at, at + len(part)


def spelled(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; of a character in several tokens, all of it with the last."""
    pieces: list[str] = []
    window: list[int] = []
    text, shown = "", 0
    for token in ids:
        window.append(token)
        text = tokenizer.decode(window, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):  # a character's first bytes; or this very character, spelled with what follows
            pieces.append("")
            continue
        pieces.append(text[shown:])
        # the token before tells how the next one is spelled: with a space or without
        alone = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        window, shown = ([token], len(alone)) if "\ufffd" not in alone else ([], 0)
        text = alone if window else ""
    if pieces and len(text) > shown:
        pieces[-1] += text[shown:]
    return pieces
