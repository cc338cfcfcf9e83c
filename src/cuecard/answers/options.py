"""Options written into a question's text: "… A. red B. green C. blue", on one line or several."""

from __future__ import annotations

import re

from cuecard.answers.patterns import any_of, pattern

MOST_OPTIONS = 26
_LAST_CHARS = 8_000  # options close a question, however long the document before them
_STYLES = (r"\({0}\)", r"\[{0}\]", r"{0}\)", r"{0}\.", r"{0}:", r"{0}、")
# The options begin on a line of their own, or behind the end of the question.
_OPENS = r"(?:^|\n)[ \t]*(?:[-*•]\s+)?\**|(?<=[?:.!？：。])\s*\**"
_NEXT = r"(?:(?<=\n)|(?<=[\s,;、。]))(?:[-*•]\s+)?\**"
_HEADING = re.compile(
    r"\s*\**(?:(?:answer )?(?:options|choices)|select one|choose one|pick one|选项)\**\s*[:：]?\**\s*$", re.IGNORECASE
)
_TOLD = any_of(
    """answer please choose select pick respond reply explain give think which what write output only note do_not
    your_answer the_answer"""
)
_AFTERWARDS = pattern(rf"(?:\n|(?<=[.?!;])\s+)\s*(?={_TOLD}\b)")


def options_in(text: str) -> tuple[str, tuple[str, ...]]:
    """The question without the options listed in it, and the options; the text as it is and () if it lists none.

    They must be lettered from A on without a gap, all in one style: "A. red B. green", "(a) red (b) green", "A) …".
    What is said behind them ("Answer with the letter only.") stays with the question.
    """
    for style in _STYLES:
        for first in ("A", "a"):
            marks = _marks(text, style, first)
            split = _split(text, marks) if marks else None
            if split is not None:
                return split
    return text, ()


def _marks(text: str, style: str, first: str) -> list[tuple[int, int]]:
    """Where the marks A, B, C … of the last list in one style begin and end; [] if there is none with two."""
    since = max(0, len(text) - _LAST_CHARS)
    seconds = [found.start() for found in _mark(style, chr(ord(first) + 1), _NEXT).finditer(text, since)]
    opening = None
    for found in _mark(style, first, _OPENS).finditer(text, since, seconds[-1] if seconds else since):
        opening = found
    if opening is None:
        return []
    marks = [(opening.start("mark"), opening.end())]
    while len(marks) < MOST_OPTIONS:
        following = _mark(style, chr(ord(first) + len(marks)), _NEXT).search(text, marks[-1][1])
        if following is None:
            break
        marks.append((following.start("mark"), following.end()))
    return marks


def _mark(style: str, sign: str, place: str) -> re.Pattern[str]:
    return re.compile(rf"(?:{place})(?P<mark>{style.format(sign)})\**(?=\s|\S)")


def _split(text: str, marks: list[tuple[int, int]]) -> tuple[str, tuple[str, ...]] | None:
    ends = [start for start, _ in marks[1:]]
    pieces = [text[end:stop] for (_, end), stop in zip(marks, ends, strict=False)]
    last = text[marks[-1][1] :]
    cut = _AFTERWARDS.search(last)
    if cut is None:
        cut = re.search(r"\n", last.rstrip()) if "\n" in last.strip() else None
    pieces.append(last if cut is None else last[: cut.start()])
    after = "" if cut is None else last[cut.start() :].strip()
    options = tuple(_trimmed(piece) for piece in pieces)
    stem = _HEADING.sub("", text[: marks[0][0]].rstrip(" \t\n-*•")).strip()
    if not stem or not all(options) or any(len(option) > 400 for option in options):
        return None
    return f"{stem}\n{after}" if after else stem, options


def _trimmed(option: str) -> str:
    """An option's words, without what joins it to the next one or closes the list."""
    option = re.sub(r"(?:\s*[,;、]\s*(?:and|or)?|\s+(?:and|or))\s*$", "", " ".join(option.split()))
    option = option.rstrip("*-• ")
    return re.sub(r"(?<=\w)[.?;]$", "", option) if not re.search(r"\.\w+\.$", option) else option
