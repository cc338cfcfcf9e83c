"""Delimiters of reasoning: tags by family, tokens that end a turn, and lines that begin with "Answer:"."""

from __future__ import annotations

import re
import string
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache


@dataclass(frozen=True)
class TagFamily:
    """Tags that open and close reasoning. ASCII letters match in either case."""

    opening: tuple[str, ...]
    closing: tuple[str, ...]
    answer: tuple[str, ...] = ()
    """Tags that open the answer, with or without reasoning before it."""

    @property
    def ends(self) -> tuple[str, ...]:
        """Tags that end the reasoning."""
        return self.closing + self.answer


def _named(name: str) -> TagFamily:
    """`<name>` and `</name>`, with optional spaces inside."""
    inside = [f"{before}{name}{after}" for before in ("", " ") for after in ("", " ")]
    return TagFamily(tuple(f"<{each}>" for each in inside), tuple(f"</{each}>" for each in inside))


KNOWN = (
    *map(_named, ("think", "thinking", "thought", "thoughts", "reasoning", "reflection")),  # Qwen, DeepSeek, GLM …
    *map(_named, ("mm:think", "seed:think")),  # MiniMax, Seed-OSS
    TagFamily(("[THINK]",), ("[/THINK]",)),  # Mistral
    TagFamily(("◁think▷",), ("◁/think▷",)),  # Kimi
    TagFamily(  # gpt-oss
        ("<|channel|>analysis<|message|>", "<|start|>assistant<|channel|>analysis<|message|>"),
        ("<|end|><|start|>assistant<|channel|>final<|message|>",),
        ("<|channel|>final<|message|>", "<|start|>assistant<|channel|>final<|message|>"),
    ),
    TagFamily(("<|channel>thought",), ("<channel|>",)),  # Gemma 4
    TagFamily(("<|begin_of_thought|>",), ("<|end_of_thought|>",), ("<|begin_of_solution|>",)),  # Sky-T1, OpenThinker
)

END_OF_TURN = (
    *("<|im_end|>", "<|endoftext|>", "<|end_of_text|>", "<|eot_id|>", "<|eom_id|>", "<|eot|>", "<|end|>", "<|return|>"),
    *("<|end_of_solution|>", "<|end_of_turn|>", "<end_of_turn>", "<turn|>", "<|eos|>", "<eos>", "</s>"),
    "<｜end▁of▁sentence｜>",
)
"""Tokens that end a turn; some servers send them as text."""

_LOWER = str.maketrans(string.ascii_uppercase, string.ascii_lowercase)


def lowered(text: str) -> str:
    """The text with its ASCII letters in lower case; its length does not change."""
    return text.translate(_LOWER)


class Finder:
    """Finds the first of several tags, or a partial tag at the end of an unfinished text."""

    def __init__(self, tags: Iterable[str]) -> None:
        known = sorted({lowered(tag) for tag in tags}, key=len, reverse=True)
        self._longest = len(known[0])
        self._begun = {tag[:size] for tag in known for size in range(1, len(tag))}
        self._starts = re.compile("|".join(re.escape(first) for first in sorted({tag[0] for tag in known})))
        self._tag = re.compile("|".join(map(re.escape, known)))

    def first(self, text: str, *, ended: bool) -> tuple[int, str]:
        """(index, tag) of the first tag; (index, "") of a possible partial tag; (length of the text, "") for none."""
        low = lowered(text)
        for start in self._starts.finditer(low):
            at = start.start()
            if (tag := self._at(low, at, ended=ended)) is not None:
                return at, tag
        return len(text), ""

    def leading(self, text: str, *, ended: bool) -> str | None:
        """The tag at the start of the text; "" for a possible partial tag, None for no tag."""
        return self._at(lowered(text[: self._longest]), 0, ended=ended or len(text) > self._longest)

    def _at(self, low: str, at: int, *, ended: bool) -> str | None:
        if not ended and len(low) - at < self._longest and low[at:] in self._begun:
            return ""
        tag = self._tag.match(low, at)
        return tag.group() if tag else None


_finder = lru_cache(maxsize=256)(Finder)


@dataclass(frozen=True)
class TagTable:
    """Families of tags, and their finders."""

    families: tuple[TagFamily, ...]

    @cached_property
    def family(self) -> dict[str, TagFamily]:
        """The family of each tag in lower case; for a tag of several families the first one."""
        return {lowered(tag): each for each in reversed(self.families) for tag in (*each.opening, *each.ends)}

    @cached_property
    def any(self) -> Finder:
        """A finder of all opening and closing tags."""
        return Finder(self.family)

    def opens(self, tag: str) -> bool:
        """Whether the tag, in lower case, opens reasoning."""
        return any(tag == lowered(opening) for opening in self.family[tag].opening)

    def opens_answer(self, tag: str) -> bool:
        return any(tag == lowered(opening) for opening in self.family[tag].answer)

    def closing(self, *tags: str) -> Finder:
        """A finder of the tags that close the families of `tags`; of all families if none is given."""
        wanted = [self.family[lowered(tag)] for tag in tags] or self.families
        return _finder(tuple(end for each in wanted for end in each.ends))


@lru_cache(maxsize=64)
def tag_table(*more: tuple[str, str]) -> TagTable:
    """A table of additional (opening, closing) tags, followed by the known families."""
    return TagTable((*(TagFamily((opening,), (closing,)) for opening, closing in more), *KNOWN))


class TurnEndFilter:
    """Holds back tokens that end a turn, and drops them if only white space follows."""

    _FINDER = Finder(END_OF_TURN)

    def __init__(self) -> None:
        self._held: list[str] = []
        self._begun = ""

    def feed(self, text: str, *, ended: bool = False) -> str:
        """The text that is certain to precede the end of the turn."""
        text, sure = self._begun + text, []
        while True:
            at, tag = self._FINDER.first(text, ended=ended)
            before = text[:at]
            if before.strip() or not self._held:
                sure += [*self._held, before]
                self._held.clear()
            else:
                self._held.append(before)
            if not tag:
                self._begun = text[at:]
                return "".join(sure)
            self._held.append(text[at : at + len(tag)])
            text = text[at + len(tag) :]

    def end(self) -> str:
        return self.feed("", ended=True)


class AnswerMarker:
    """Finds the first line that begins with "Answer:" or "Final answer:", also in bold face, headings and lists.

    Lines in fenced code do not count.
    """

    MARKERS = ("answer:", "answer :", "final answer:", "final answer :")
    _LONGEST = 40
    _FENCE = "```"
    _UNDECIDED = (*MARKERS, _FENCE)

    def __init__(self) -> None:
        self.is_complete = self.bold = False
        """`bold`: bold face that begins before the marker continues after it."""
        self._line = ""
        """Part of the current line that is held back, because it may become a marker."""
        self._decided = False
        """The current line is not a marker."""
        self._fenced = False
        """Inside a code block, where nothing is a marker."""

    def feed(self, text: str) -> tuple[str, int]:
        """Text that is certain to precede a marker, and the number of characters consumed: up to the marker's colon."""
        before: list[str] = []
        at = 0
        while at < len(text) and not self.is_complete:
            if self._decided:
                end = text.find("\n", at) + 1
                before.append(text[at : end or len(text)])
                at, self._decided = end or len(text), not end
                continue
            self._line += text[at]
            at += 1
            plain = self._line.lower().replace("：", ":").replace("*", "").replace("_", "").lstrip(" \t#>-")
            if plain in self.MARKERS and not self._fenced:
                opens_before = self._line.lstrip(" \t#>-")[0] in "*_"
                self.is_complete, self.bold = True, opens_before and self._line.rstrip(" :：")[-1] not in "*_"
            elif len(self._line) > self._LONGEST or not any(mark.startswith(plain) for mark in self._UNDECIDED):
                self._fenced ^= plain.startswith(self._FENCE)
                before.append(self._line)
                self._decided, self._line = self._line[-1] != "\n", ""
        return "".join(before), at

    def end(self) -> str:
        """The text that was held back."""
        line, self._line = self._line, ""
        return line
