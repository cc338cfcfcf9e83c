"""Plain words out of Markdown and LaTeX, and their sentences."""

from __future__ import annotations

import re
import unicodedata

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
    r",?\s+(?:because|since|given that|due to)\b|,\s+as\b|\s+as (?:it|there|the|this|that|they)\b", re.IGNORECASE
)
_QUOTES = "\"'“”‘’«»„「」『』"
END = re.compile(r"(?<=[.!?])[\"'”’)\]]?\s+|(?<=[。！？])|\n+")
_ABBREVIATED = re.compile(r"(?:^|[\s(])(?:[A-Z]|St|Dr|Mr|Mrs|Ms|Mt|No|Jr|Sr|vs|ca|approx|e\.g|i\.e|[A-Z]\.[A-Z])\.$")


def plain(text: str) -> str:
    """The text as one would read it aloud: no Markdown, no LaTeX wrapping, one form for each character."""
    text = _RAISED.sub(lambda raised: "^" + raised.group().translate(_SUPERSCRIPTS), text)
    text = _VULGAR.sub(lambda part: " " + unicodedata.normalize("NFKC", part[1]).replace("⁄", "/"), text)
    text = unboxed(text)
    for pattern, replacement in (*_LATEX, *_MARKDOWN):
        text = pattern.sub(replacement, text)
    return unicodedata.normalize("NFKC", text).replace("−", "-").replace("’", "'").strip()


def unboxed(text: str) -> str:
    r"""The text with each \boxed{…} replaced by what is in it."""
    pieces, at = [], 0
    for start, end, inner in boxes(text):
        pieces += [text[at:start], inner]
        at = end
    return "".join([*pieces, text[at:]])


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of each outermost \boxed{…} that is closed."""
    closed: list[tuple[int, int, str]] = []
    opened: list[re.Match[str]] = []
    for brace in _BRACE.finditer(text):
        if brace.group() != "}":
            opened.append(brace)
        elif opened and len((mark := opened.pop()).group()) > 1:
            closed.append((mark.start(), brace.end(), text[mark.end() : brace.start()]))
    outermost: list[tuple[int, int, str]] = []
    for box in sorted(closed):
        if not outermost or box[0] >= outermost[-1][1]:
            outermost.append(box)
    return outermost


def unquoted(text: str) -> str:
    """The text without surrounding quotes, spaces and closing punctuation."""
    text = text.strip().strip(_QUOTES).strip()
    text = re.sub(r"[.!,;:。！，]{1,3}$", "", text).strip()
    return text.strip(_QUOTES).strip()


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; "Dr. Smith" and "B. red" are not cut in two."""
    pieces: list[str] = []
    for piece in END.split(text):
        if pieces and _ABBREVIATED.search(pieces[-1][-12:]):
            pieces[-1] += " " + piece.strip()
        elif piece.strip():
            pieces.append(piece.strip())
    return pieces


def before_reasons(text: str) -> str:
    """The text up to "because", "since", "as there are" …: the claim without what speaks for it."""
    return _REASONS.split(text, maxsplit=1)[0].strip()
