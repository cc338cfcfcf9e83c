"""Plain text from Markdown and LaTeX, sentences, language, similarity of two texts, and patterns from word lists."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from rapidfuzz.distance import Levenshtein


def data(name: str) -> dict[str, Any]:
    """The tables of a TOML file beside this module."""
    return tomllib.loads(Path(__file__).with_name(name).read_text(encoding="utf-8"))


LANGUAGES = data("languages.toml")


def any_of(words: str) -> str:
    """A pattern for any of the words, which are separated by spaces; `_` is a space within a word."""
    return f"(?:{'|'.join(word.replace('_', ' ') for word in words.split())})"


def pattern(*alternatives: str) -> re.Pattern[str]:
    """A pattern that matches any of the patterns, in either case."""
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
    (re.compile(r"</?(?:b|strong|em|i|u|p|br|span|div|code|h\d|ul|ol|li)\b[^<>]{0,100}>", re.IGNORECASE), ""),
    (re.compile(r"^[ \t]{0,8}(?:#{1,6}|>(?![ \t]+\d)|[-*•→✅➡])[ \t]+", re.MULTILINE), ""),
    (re.compile(r"^[ \t]*\||\|[ \t]*$", re.MULTILINE), ""),
    (re.compile(r"(?<![A-Za-z0-9_])_(?![\s_])([^_\n]{1,80})(?<!\s)_(?![A-Za-z0-9_])"), r"\1"),
    (re.compile(r"(?<!\d)\*{1,3}(?=\S)|(?<=\S)\*{1,3}(?!\d)|`{1,3}|(?<![A-Za-z0-9])__|__(?![A-Za-z0-9])"), ""),
)
_REASONS = re.compile(
    r"(?:,|(?<![\s,]))\s++(?:because|since|given that|due to|as (?:it|there|the|this|that|they)"
    r"|weil|parce qu|puisqu|porque|ya que|puesto que)"
    r"(?:\b|(?<=qu))|,\s++(?:as|da|denn|car|judging)\b|[,。]\s?(?:因为|因為|由于|由於|なぜなら)",
    re.IGNORECASE,
)
_GAP = re.compile(r"\s{41,}")
_MARKS = re.compile(r"[^\w\s!-~]{31,}")  # possibly a long run of combining marks
_QUOTES = "\"'“”‘’«»„「」『』"
_BRACKETS = str.maketrans("【】", "[]")
END = re.compile(r"(?<=[.!?])[\"'”’)\]]?\s+|(?<=[。！？])|(?<=[!?])(?=[\u3040-\u9fff])|\n+")
_ABBREVIATED = re.compile(r"(?:^|[\s(])(?:[A-Z]|St|Dr|Mr|Mrs|Ms|Mt|No|Jr|Sr|vs|ca|approx|e\.g|i\.e|[A-Z]\.[A-Z])\.$")


def plain(text: str) -> str:
    """The text without Markdown and LaTeX wrapping, with one form for each character."""
    text = _RAISED.sub(lambda raised: "^" + raised.group().translate(_SUPERSCRIPTS), text)
    text = _VULGAR.sub(lambda part: " " + unicodedata.normalize("NFKC", part[1]).replace("⁄", "/"), text)
    text = unboxed(text)
    for markup, replacement in (*_LATEX, *_MARKDOWN):
        text = markup.sub(replacement, text)
    return nfkc(text).translate(_BRACKETS).replace("−", "-").replace("’", "'").strip()


def nfkc(text: str) -> str:
    """NFKC normalisation in linear time.

    Sorting n combining marks takes n² steps, so a joiner splits runs of them into pieces of 30, as in the stream-safe
    text format of Unicode Standard Annex 15.
    """
    return text if text.isascii() else unicodedata.normalize("NFKC", _MARKS.sub(_stream_safe, text))


def size(text: str) -> int:
    """Characters of a text after NFKC: one character can become eighteen."""
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
    """The text with each gap of more than 40 white spaces shortened: to a blank line if it contains a line end."""
    return _GAP.sub(lambda gap: "\n\n" if "\n" in gap.group() else " ", text)


_NUMBERED = re.compile(r"^[ \t]*(\d{1,2})[.)][ \t]+(?=\S)", re.MULTILINE)
_STEP = re.compile(
    r"^[ \t]*(?:(?:step|schritt|étape|paso|ステップ|步骤)\s?\d{1,2}|第[一二三四五六七八九\d]{1,2}步)\s?[.:：)、]",
    re.MULTILINE | re.IGNORECASE,
)


def unnumbered(text: str) -> str:
    """The text without "Step 1:" and, if lines are numbered from 1 on, without their numbers: no answers either."""
    first = _NUMBERED.search(text)
    return _STEP.sub("", _NUMBERED.sub("", text) if first and first[1] == "1" else text)


def after_list(text: str) -> str | None:
    """The paragraph after a numbered list; None without a list, or without text after it."""
    items = list(_NUMBERED.finditer(text))
    end = text.find("\n\n", items[-1].end()) if items and items[0][1] == "1" else -1
    return text[end:].strip() or None if end >= 0 else None


def unboxed(text: str) -> str:
    r"""The text with each \boxed{…} replaced by its content."""
    pieces, at = [], 0
    for start, end, inner in boxes(text):
        pieces += [text[at:start], inner]
        at = end
    return "".join([*pieces, text[at:]])


def boxes(text: str) -> list[tuple[int, int, str]]:
    r"""(start, end, content) of each outermost closed \boxed{…}."""
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
    text = text.strip(_QUOTES).strip()
    return text[1:-1].strip() if text[:1] + text[-1:] in ("()", "[]") and not set("()[]") & set(text[1:-1]) else text


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; "Dr. Smith" and "B. red" are not split."""
    pieces: list[list[str]] = []
    for piece in map(str.strip, END.split(text)):
        if pieces and _ABBREVIATED.search(pieces[-1][-1][-12:]):
            pieces[-1].append(piece)
        elif piece:
            pieces.append([piece])
    return [" ".join(parts) for parts in pieces]


def asserted(parts: list[str]) -> list[str]:
    """The sentences without questions: "Is it 5? No. It is 6."; all of them if nothing else is left."""
    return [part for part in parts if not part.endswith("?")] or parts


def without_s(word: str) -> str:
    """A word without the s of a plural, or of a verb in the third person."""
    return word.removesuffix("s") if len(word) > 3 else word


def before_reasons(text: str) -> str:
    """The text up to "because", "since", "as there are" …: the claim without its reasons."""
    return _REASONS.split(text, maxsplit=1)[0].strip()


# --- the same words ---------------------------------------------------------------------------------------------------


MOST_COMPARED = 20_000
"""Maximum length of texts for which a distance is computed, which takes the product of both lengths."""
_ARTICLES = {"a", "an", "the"}
_NO_WORD = re.compile(r"[^\w\s]|_")
"""Every punctuation mark, and some other characters."""
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_KEPT = set("%#&@+")


def folded(text: str) -> str:
    """NFKC, case-folded, single spaces, no zero-width characters."""
    text = nfkc(nfkc(text).casefold())
    return " ".join("".join(c for c in text if unicodedata.category(c) != "Cf").split())


def normalise(text: str) -> str:
    """The words that count: no case, no punctuation, no English articles, single spaces (as in VQA evaluation).

    Punctuation inside numbers stays (3.5, 3/4, 12:30, -7), and so do % # & @ +, which distinguish C# from C. A text of
    only articles or punctuation is unchanged, so that the option "A" does not vanish.
    """
    plain = _THOUSANDS.sub("", folded(text))
    kept = _NO_WORD.sub(lambda found: _kept(plain, found.start()), plain)
    words = [word for word in kept.split() if word not in _ARTICLES]
    return " ".join(words) or " ".join(kept.split()) or plain


def _kept(text: str, index: int) -> str:
    char = text[index]
    if not unicodedata.category(char).startswith("P") or char in _KEPT:
        return char
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if after.isdigit() and ((char in "./:" and before.isdigit()) or (char == "-" and not before.isalnum())):
        return char
    return "" if char in "'’" else " "


def similarity(one: str, other: str) -> float:
    """1 - Levenshtein distance / length of the longer; 1 for two empty texts.

    For texts of more than MOST_COMPARED characters 1 if equal, else 0.
    """
    if max(len(one), len(other)) > MOST_COMPARED:
        return float(one == other)
    return 1.0 - Levenshtein.normalized_distance(one, other)


def anls(prediction: str, truths: Sequence[str], threshold: float = 0.5) -> float:
    """Normalised Levenshtein similarity to the nearest truth, 0 once the distance reaches the threshold.

    ANLS of Biten et al., "Scene Text Visual Question Answering", ICCV 2019: 1 - NL if NL < threshold, else 0; case and
    surrounding or repeated spaces do not count, everything else does.
    """
    nearest = max((similarity(folded(prediction), folded(truth)) for truth in truths), default=0.0)
    return nearest if 1.0 - nearest < threshold else 0.0


# --- the language of a text, as far as answers depend on it: number words, separators, verbs  -------------------------


CJK = "\u3040-\u30ff\u3400-\u9fff"
"""Chinese and Japanese characters, for a character class of a pattern."""
_MOST_CHARS = 2_000
_LANGUAGES = {code: frozenset(LANGUAGES[code]["common"].split()) for code in ("en", "de", "fr", "es")}
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


_TOKEN = re.compile(rf"[{CJK}]|[^\W{CJK}]+(?:['-]\w+)*")


def word_count(text: str) -> int:
    """Number of words; of characters for Chinese and Japanese."""
    return len(_TOKEN.findall(text))


@lru_cache(maxsize=256)
def language_of(text: str) -> str:
    """`zh` or `ja` by script, else `de`, `fr`, `es` or `en` by the most frequent words; `en` if undecided."""
    text = nfkc(text[:_MOST_CHARS]).replace("’", "'").lower()
    if re.search(r"[\u3040-\u30ff]", text):
        return "ja"
    if re.search(r"[\u3400-\u9fff]", text):
        return "zh"
    words = _WORD.findall(text)
    return max(_LANGUAGES, key=lambda code: (sum(word in _LANGUAGES[code] for word in words), code == "en"))
