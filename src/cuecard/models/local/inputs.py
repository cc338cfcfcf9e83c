"""Model inputs of a prompt: token ids, pixels of the images, and the span of each token."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any, Protocol

from cuecard.domain.errors import BadInput
from cuecard.models.prompt import Prompt, Turn, neutral

IMAGES_KEPT = 16


@dataclass(frozen=True)
class Inputs:
    """Model inputs of a prompt: token ids, the end of the last image, and the images."""

    ids: list[int]
    images: tuple[str, ...]
    images_end: int
    tensors: dict[str, Any]
    """PyTorch tensors of the images."""
    pictures: tuple[tuple[Any, tuple[int, int]], ...] = ()
    """Or NumPy arrays (patches, values), each with its grid (rows, columns) of patches."""

    def first(self, count: int) -> Inputs:
        """The first `count` tokens; the others have to be text."""
        tokens = (1, len(self.ids))
        cut = {name: part[:, :count] if part.shape[:2] == tokens else part for name, part in self.tensors.items()}
        return replace(self, ids=self.ids[:count], tensors=cut)


class PromptReader(Protocol):
    """Converts prompts to inputs."""

    tokenizer: Any

    def inputs(self, prompt: Prompt) -> Inputs: ...

    def forget(self) -> None: ...


def with_places(text: str, placeholder: str, counts: Sequence[int]) -> str:
    """The rendered prompt with each image's placeholder repeated once per visual token. Raises BadInput."""
    head, *rest = text.split(placeholder)
    if len(rest) != len(counts):
        raise BadInput(f"the prompt has {len(counts)} images and {len(rest)} places for them")
    return head + "".join(placeholder * count + after for count, after in zip(counts, rest, strict=True))


def tokenized(tokenizer: Any, text: str) -> list[int]:
    """Ids of a rendered prompt, which already contains the special tokens of its template."""
    return tokenizer(text, add_special_tokens=False).input_ids


_THINK_CUE = re.compile(r"<think>\s*(?:</think>\s*)?$")
_CUT = "\ue000cut\ue000"


def messages(turns: tuple[Turn, ...], parts: bool) -> list[dict[str, Any]]:
    """Turns as messages for chat templates: images first, then the text; without `parts` only text (text models)."""
    if not parts:
        return [{"role": turn.role, "content": turn.text} for turn in turns]
    return [
        {"role": turn.role, "content": [*({"type": "image"} for _ in turn.images), {"type": "text", "text": turn.text}]}
        for turn in turns
    ]


def render(tokenizer: Any, prompt: Prompt, parts: bool = True) -> str:
    """The prompt's text up to the point where the model continues, with one placeholder per image.

    A think block (open or empty) that the template itself adds after the assistant's cue is replaced by the prompt's
    own opening. If the prompt's card is unfinished, the text ends with the card.
    """
    ends_in_turns = prompt.unfinished and prompt.opening == prompt.style.none
    *before, last = prompt.turns
    turns = (*before, replace(last, text=last.text + _CUT)) if ends_in_turns else prompt.turns
    text = tokenizer.apply_chat_template(messages(turns, parts), tokenize=False, add_generation_prompt=True)
    return text.partition(_CUT)[0] if ends_in_turns else _THINK_CUE.sub("", text) + prompt.opening


class Span(StrEnum):
    """The part that a key belongs to, exactly one per key."""

    SINK = "sink"
    """The first token, where heads put attention that they do not need; a learned sink's share is added to it."""
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
        """Positions of the keys of a span, in order."""
        return [place for place, name in enumerate(self.names) if name is span]


def spans(prompt: Prompt, ids: Sequence[int], answered: int, tokenizer: Any, image: int | None) -> Spans:
    """The spans of a prompt and its answer (the last `answered` ids). Raises BadInput if there is no reasoning."""
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
    """(start, end) of each span in the prompt's text; later ones override earlier ones."""
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
    """(start, end) of the last occurrence of a part. Raises BadInput."""
    part = part.strip()
    at = text.rfind(part) if part else -1
    if at < 0:
        raise BadInput(f"no reasoning to look at: {part[:40]!r} is not in the prompt", "does the model reason at all?")
    return at, at + len(part)


def spelled(tokenizer: Any, ids: Sequence[int]) -> list[str]:
    """The text of each token; a character of several tokens belongs to the last one."""
    pieces: list[str] = []
    window: list[int] = []
    text, shown = "", 0
    for token in ids:
        window.append(token)
        text = tokenizer.decode(window, clean_up_tokenization_spaces=False)
        if text.endswith("\ufffd"):  # the first bytes of a character; or U+FFFD itself, which goes with the next token
            pieces.append("")
            continue
        pieces.append(text[shown:])
        # the token before decides whether the next one decodes with a space
        alone = tokenizer.decode([token], clean_up_tokenization_spaces=False)
        window, shown = ([token], len(alone)) if "\ufffd" not in alone else ([], 0)
        text = alone if window else ""
    if pieces and len(text) > shown:
        pieces[-1] += text[shown:]
    return pieces
