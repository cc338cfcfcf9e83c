"""Plain words out of Markdown and LaTeX, their sentences, and regular expressions made of word lists."""

from __future__ import annotations

import re
import unicodedata


def any_of(words: str) -> str:
    """A pattern for any one of the words, separated by spaces; `_` is a space within one."""
    return f"(?:{'|'.join(word.replace('_', ' ') for word in words.split())})"


def pattern(*alternatives: str) -> re.Pattern[str]:
    """Any of the patterns, whatever the case."""
    return re.compile("|".join(alternatives), re.IGNORECASE)


_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED = re.compile(r"(?<=[\d)])[⁰¹²³⁴-⁹⁻]+")
_VULGAR = re.compile(r"\s?([¼-¾⅐-⅞])")
_BRACE = re.compile(r"\\(?:boxed|fbox)\s*\{|[{}]")
_LATEX = (
    (re.compile(r"\\[dt]?frac\s*\{\s*([-−]?\d+)\s*\}\s*\{\s*(\d+)\s*\}"), r"\1/\2"),
    (re.compile(r"\\(?:text|textbf|textit|mathrm|mathbf|operatorname)\s*\{([^{}]{0,200})\}"), r"\1"),
    (re.compile(r"\\[(\[]\s?|\s?\\[)\]]|\\[,;! ]|\\left|\\right"), " "),
    (re.compile(r"\{,\}"), ","),
    (re.compile(r"\\([%$&#_])"), r"\1"),
    (re.compile(r"\\(?:times|cdot)\b"), "×"),
    (re.compile(r"\^\s?\{?\s?\\circ\s?\}?"), "°"),
    (re.compile(r"\$\$"), " "),
    (re.compile(r"\$(?!\s)([^$\n]{1,80})(?<!\s)\$(?!\d)"), r"\1"),
)
_MARKDOWN = (
    (re.compile(r"^[ \t]{0,8}(?:#{1,6}|>|[-*•])[ \t]+", re.MULTILINE), ""),
    (re.compile(r"\*{1,3}(?=\S)|(?<=\S)\*{1,3}|`{1,3}|(?<!\w)__|__(?!\w)"), ""),
)
_REASONS = re.compile(
    r"(?:,|(?<![\s,]))\s++(?:because|since|given that|due to|as (?:it|there|the|this|that|they))\b|,\s++as\b",
    re.IGNORECASE,
)
_GAP = re.compile(r"\s{41,}")
_MARKS = re.compile(r"[^\w\s!-~]{31,}")  # what may be a long run of combining marks
_QUOTES = "\"'“”‘’«»„「」『』"
END = re.compile(r"(?<=[.!?])[\"'”’)\]]?\s+|(?<=[。！？])|\n+")
_ABBREVIATED = re.compile(r"(?:^|[\s(])(?:[A-Z]|St|Dr|Mr|Mrs|Ms|Mt|No|Jr|Sr|vs|ca|approx|e\.g|i\.e|[A-Z]\.[A-Z])\.$")


def plain(text: str) -> str:
    """The text as one would read it aloud: no Markdown, no LaTeX wrapping, one form for each character."""
    text = _RAISED.sub(lambda raised: "^" + raised.group().translate(_SUPERSCRIPTS), text)
    text = _VULGAR.sub(lambda part: " " + unicodedata.normalize("NFKC", part[1]).replace("⁄", "/"), text)
    text = unboxed(text)
    for markup, replacement in (*_LATEX, *_MARKDOWN):
        text = markup.sub(replacement, text)
    return nfkc(text).replace("−", "-").replace("’", "'").strip()


def nfkc(text: str) -> str:
    """The text with one form for each character.

    Putting n combining marks in order takes n² steps, so that a run of them is cut in pieces of 30 by a joiner, as the
    stream-safe format of Unicode Standard Annex 15 has it.
    """
    return text if text.isascii() else unicodedata.normalize("NFKC", _MARKS.sub(_stream_safe, text))


def size(text: str) -> int:
    """Characters of a text once it is plain: one of them can stand for eighteen."""
    return len(nfkc(text))


def _stream_safe(run: re.Match[str]) -> str:
    pieces, marks = [], 0
    for char in run.group():
        marks = marks + 1 if unicodedata.combining(char) else 0
        if marks > 30:
            pieces.append("͏")
            marks = 1
        pieces.append(char)
    return "".join(pieces)


def spaced(text: str) -> str:
    """The text with each gap of more than 40 white spaces shortened: to a blank line where it holds a line's end."""
    return _GAP.sub(lambda gap: "\n\n" if "\n" in gap.group() else " ", text)


def unboxed(text: str) -> str:
    r"""The text with each \boxed{…} replaced by what is in it."""
    pieces, at = [], 0
    for start, end, inner in boxes(text):
        pieces += [text[at:start], inner]
        at = end
    return "".join([*pieces, text[at:]])


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of each outermost \boxed{…} that is closed."""
    closed: list[tuple[re.Match[str], re.Match[str]]] = []
    opened: list[re.Match[str]] = []
    for brace in _BRACE.finditer(text):
        if brace.group() != "}":
            opened.append(brace)
        elif opened and len((mark := opened.pop()).group()) > 1:
            while closed and closed[-1][0].start() > mark.start():  # inside this one
                closed.pop()
            closed.append((mark, brace))
    return [(mark.start(), brace.end(), text[mark.end() : brace.start()]) for mark, brace in closed]


def unquoted(text: str) -> str:
    """The text without surrounding quotes, spaces and closing punctuation."""
    text = text.strip().strip(_QUOTES).strip()
    text = re.sub(r"[.!,;:。！，]{1,3}$", "", text).strip()
    return text.strip(_QUOTES).strip()


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; "Dr. Smith" and "B. red" are not cut in two."""
    pieces: list[list[str]] = []
    for piece in map(str.strip, END.split(text)):
        if pieces and _ABBREVIATED.search(pieces[-1][-1][-12:]):
            pieces[-1].append(piece)
        elif piece:
            pieces.append([piece])
    return [" ".join(parts) for parts in pieces]


def before_reasons(text: str) -> str:
    """The text up to "because", "since", "as there are" …: the claim without what speaks for it."""
    return _REASONS.split(text, maxsplit=1)[0].strip()
