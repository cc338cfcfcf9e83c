"""Options listed in a question's text: "… A. red B. green C. blue", or numbered, on one line or several."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from cuecard.answers.text.markup import any_of, pattern, sentences
from cuecard.answers.wording import guess_kind
from cuecard.domain.question import MOST_OPTIONS, AnswerKind

_LAST_CHARS = 8_000  # options are at the end of a question, even after a long document
_STEM_CHARS, _HEADING_CHARS = 4_000, 100
_LETTERS = tuple(tuple(chr(ord(first) + index) for index in range(MOST_OPTIONS)) for first in "Aa")
_NUMBERS = tuple(str(index + 1) for index in range(MOST_OPTIONS))
_STYLES = (r"\({0}\)", r"\[{0}\]", r"{0}\)", r"{0}\.", r"{0}:", r"{0}、")
# The options begin on a line of their own, or after the end of the question.
_OPENS = r"(?:^|\n)[ \t]*+(?:[-*•]\s++)?\**+|(?<=[?:.!？：。])\s*+\**+"
_OPENS_INLINE = rf"{_OPENS}|(?<=\w )"
"""Numbers with a bracket may also follow a question without its mark: "Which is the largest 1) Mars 2) Venus"."""
_NEXT = r"(?<=[\s,;、。])(?:[-*•]\s++)?\**+"
_HEADING = re.compile(
    r"(?:(?:answer )?(?:options|choices)|select one|choose one|pick one|选项)\**+\s*+[:：]?\**+\s*$", re.IGNORECASE
)
_TOLD = any_of(
    """answer please choose select pick respond reply explain give think which what write output only note do_not
    your_answer the_answer"""
)
_AFTERWARDS = pattern(rf"(?:(?<!\s)(?=[^\S\n]*+\n)|(?<=[.?!;]))\s++(?={_TOLD}\b)")


# A numbered list usually has steps, facts or files: it has to follow a question that it can answer.
_NUMBERED_STYLES = (r"\({0}\)", r"\[{0}\]", r"{0}\)", r"{0}\.(?=\s)", r"{0}:(?=\s)", r"{0}、")
_MOST_NUMBERED_CHARS = 200
_CHOOSES = pattern(r"\b(?:which|choose|select|pick)\b")
_QUIZ = pattern(r"^(?:who|whose|what|where|when|why)\b")
_OF_A_TEXT = pattern(
    r"\b(?:this|these|those|it|they|them|my|i|you|think|differences?|differ|mean|wrong|order|steps?|facts?|following)\b"
)


@dataclass(frozen=True)
class Listed:
    """A question without the options listed in it, the options, and their numbers if they are numbered."""

    text: str
    options: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()


def options_in(text: str) -> tuple[str, tuple[str, ...]]:
    """Same as `listed_in`, without the labels."""
    found = listed_in(text)
    return found.text, found.options


def listed_in(text: str) -> Listed:
    """The question without the options listed in it, and the options; the unchanged text and () without options.

    They must be lettered from A on, or numbered from 1 on, without a gap, in one style: "A. red B. green", "(a) red (b)
    green", "1) red 2) green". Text after them ("Answer with the letter only.") stays with the question. Numbered ones
    must be at the end of the text, and answer the question directly before them.
    """
    for style in _STYLES:
        for letters in _LETTERS:
            marks = _marks(text, style, letters)
            split = _split(text, marks) if marks else None
            if split is not None:
                stem, after, options = split
                return Listed(f"{stem}\n{after}" if after else stem, options)
    for style in _NUMBERED_STYLES:
        marks = _marks(text, style, _NUMBERS)
        listed = text[marks[0][0] :].rstrip() if marks else ""
        asks_on = "?" in (listed if "?" in text[: -len(listed) or None] else listed[:-1])  # a list of questions
        split = _split(text, marks) if marks and not asks_on else None
        if split is not None and _answers(*split):
            stem, after, options = split
            return Listed(f"{stem}\n{after}" if after else stem, options, _NUMBERS[: len(options)])
    return Listed(text)


def _answers(stem: str, after: str, options: tuple[str, ...]) -> bool:
    """Whether numbered options are answers to the question before them, not steps or facts in its context."""
    asked = (sentences(stem[-_STEM_CHARS:]) or [""])[-1]
    if not asked.endswith(("?", "？")) and not _CHOOSES.search(asked):
        return False
    if after and not _AFTERWARDS.match(f"\n{after}"):
        return False
    if any(len(option) > _MOST_NUMBERED_CHARS for option in options):
        return False
    if _CHOOSES.search(asked):
        return True
    match guess_kind(asked):
        case AnswerKind.NUMBER | AnswerKind.SHORT_TEXT:
            return not _OF_A_TEXT.search(asked)
        case AnswerKind.YES_NO:
            return {option.lower() for option in options} == {"yes", "no"}
    return bool(_QUIZ.search(asked)) and not _OF_A_TEXT.search(asked)


def _marks(text: str, style: str, signs: tuple[str, ...]) -> list[tuple[int, int]]:
    """(start, end) of the marks A, B, C … of the last list in one style; [] without a list of at least two."""
    since = max(0, len(text) - _LAST_CHARS)
    seconds = [found.start() for found in _mark(style, signs[1], _NEXT).finditer(text, since)]
    if not seconds:
        return []
    opening = None
    opens = _OPENS_INLINE if style == r"{0}\)" and signs[0] == "1" else _OPENS
    for found in _mark(style, signs[0], opens).finditer(text, since, seconds[-1]):
        opening = found
    if opening is None:
        return []
    marks = [(opening.start("mark"), opening.end())]
    for sign in signs[1:]:
        following = _mark(style, sign, _NEXT).search(text, marks[-1][1])
        if following is None:
            break
        marks.append((following.start("mark"), following.end()))
    return marks


@cache
def _mark(style: str, sign: str, place: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{place})(?P<mark>{style.format(sign)})\**(?=\s|\S)")


def _split(text: str, marks: list[tuple[int, int]]) -> tuple[str, str, tuple[str, ...]] | None:
    """The text before the options, the text after them, and the options; None if they are not options."""
    ends = [start for start, _ in marks[1:]]
    pieces = [text[end:stop] for (_, end), stop in zip(marks, ends, strict=False)]
    last = text[marks[-1][1] :]
    cut = _AFTERWARDS.search(last)
    if cut is None:
        cut = re.search(r"\n", last.rstrip()) if "\n" in last.strip() else None
    pieces.append(last if cut is None else last[: cut.start()])
    after = "" if cut is None else last[cut.start() :].strip()
    options = tuple(_trimmed(piece) for piece in pieces)
    stem = _without_heading(text[: marks[0][0]].rstrip(" \t\n-*•"))
    if not stem or not all(options) or any(len(option) > 400 for option in options):
        return None
    return stem, after, options


def _without_heading(stem: str) -> str:
    """The text before the options, without a heading "Options:"."""
    at = max(0, len(stem) - _HEADING_CHARS)
    heading = _HEADING.search(stem, at)
    return (stem if heading is None else stem[: heading.start()].rstrip("*")).strip()


def _trimmed(option: str) -> str:
    """An option's words, without punctuation or words that join it to the next one or close the list."""
    option = re.sub(r"(?: ?[,;、] ?(?:and|or)?| (?:and|or)) ?$", "", " ".join(option.split()))
    option = option.rstrip("*-• ")
    return re.sub(r"(?<=\w)[.?;]$", "", option) if not re.search(r"\.\w+\.$", option) else option
