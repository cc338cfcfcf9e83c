"""Plain words out of Markdown and LaTeX; sentences; and the words that take an answer back or refuse one."""

from __future__ import annotations

import re
import unicodedata

_SUPERSCRIPTS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_RAISED = re.compile(r"(?<=[\d)])[⁰¹²³⁴-⁹⁻]+")
_VULGAR = re.compile(r"\s?([¼-¾⅐-⅞])")
_BOX = re.compile(r"\\(?:boxed|fbox)\s*\{")
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
_QUOTES = "\"'“”‘’«»„「」『』"
_END = re.compile(r"(?<=[.!?])[\"'”’)\]]?\s+|(?<=[。！？])|\n+")
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
    r"""(start, end, content) of each outermost \boxed{…} that is closed within 500 characters."""
    found: list[tuple[int, int, str]] = []
    for mark in _BOX.finditer(text):
        if found and mark.start() < found[-1][1]:
            continue
        depth = 1
        for index in range(mark.end(), min(len(text), mark.end() + 500)):
            depth += {"{": 1, "}": -1}.get(text[index], 0)
            if depth == 0:
                found.append((mark.start(), index + 1, text[mark.end() : index]))
                break
    return found


def unquoted(text: str) -> str:
    """The text without surrounding quotes, spaces and closing punctuation."""
    text = text.strip().strip(_QUOTES).strip()
    text = re.sub(r"[.!,;:。！，]{1,3}$", "", text).strip()
    return text.strip(_QUOTES).strip()


def sentences(text: str) -> list[str]:
    """The sentences and lines of a text; "Dr. Smith" and "B. red" are not cut in two."""
    pieces: list[str] = []
    for piece in _END.split(text):
        if pieces and _ABBREVIATED.search(pieces[-1]):
            pieces[-1] += " " + piece.strip()
        elif piece.strip():
            pieces.append(piece.strip())
    return pieces


def before_reasons(text: str) -> str:
    """The text up to "because", "since", "as there are" …: the claim without what speaks for it."""
    return _REASONS.split(text, maxsplit=1)[0].strip()


_REASONS = re.compile(
    r",?\s+(?:because|since|given that|due to)\b|,\s+as\b|\s+as (?:it|there|the|this|that|they)\b", re.IGNORECASE
)

# --- taken back, or refused -------------------------------------------------------------------------------------------

_TAKEN_BACK = re.compile(
    r"(?:(?<=[.!?…,;:\n—–-])|\bbut,?)\s*(?:no,?\s+)?(?:"
    r"wait\b(?=\s*(?:[,.!?…:—–-]|$|no\b|i\b|let\b|maybe\b|actually\b))|hold on\b|hang on\b|on second thoughts?\b"
    r"|scratch that\b|actually,? (?:no|wait)\b|i (?:made|misread|miscounted)\b"
    r"|let me (?:re-?\w+|double[- ]check|check|verify|look|think|see)\b|let's (?:re-?\w+|double[- ]check|check|verify)\b"
    r"|(?<=no, )that(?:'s| is) (?:wrong|not right|incorrect)(?=\s*[.!,;]))",
    re.IGNORECASE,
)
_REFUSED = re.compile(
    r"\b(?:can(?:no|')t|can not|could(?: not|n't)|unable to|impossible to|not possible to|hard to|difficult to|not able to)"
    r" (?:\w+ly )?(?:be )?(?:\w+ly )?(?:determin|tell|say|answer|identif|know|make out|help|assist|provid|infer|conclud|access"
    r"|confirm|comment|(?:see|view|read|find|open) (?:the|this|that|an?|any|your) (?:image|picture|photo|chart|attach|file))\w*"
    r"|\b(?:don't|do not|doesn't|does not) (?:know\b|have (?:enough|access|the ability)|(?:provide|contain|show|give) enough)"
    r"|\b(?:not|isn't|no) (?:enough|sufficient) (?:information|context|detail|data)"
    r"|\binsufficient (?:information|context|detail|data)"
    r"|\bno (?:idea|clue|image (?:was|is|has))\b|\bnot (?:sure|certain)\b|\bi'?m (?:unsure|uncertain)\b|\bas an ai\b|\bi'?m sorry\b"
    r"|无法|無法|不知道|不确定|不確定|不能确定|对不起|抱歉|\bweiß (?:es |ich )?nicht|\bnicht (?:bestimmen|erkennen|beantworten)"
    r"|\bne sais pas|\bne peux pas|\bno (?:lo )?(?:sé|puedo)\b|\bnon (?:lo )?(?:so|posso)\b|\bnão (?:sei|posso|consigo)\b"
    r"|\bweet (?:het |ik )?niet\b|не знаю|не могу|わかりません|分かりません|모르겠|알 수 없|لا أعرف|لا يمكن|नहीं पता",
    re.IGNORECASE,
)
_STILL = re.compile(r"\b(?:but|however|though|still|nevertheless)\b,?\s*", re.IGNORECASE)


def after_taking_back(text: str) -> str | None:
    """What follows the last "wait, …" or "let me check"; None if nothing was taken back."""
    last = None
    for last in _TAKEN_BACK.finditer(text):
        pass
    return None if last is None else text[last.end() :]


def refuses(text: str) -> bool:
    """Whether the text says that it has no answer."""
    return _REFUSED.search(text) is not None


def answerable(text: str) -> str:
    """The part that may hold an answer: what stands before the sentence that refuses, or after its "but"."""
    refused = _REFUSED.search(text)
    if refused is None:
        return text
    still = _STILL.search(text, refused.end())
    if still is not None and not re.search(r"[.!?]\s", text[refused.end() : still.start()]):
        return text[still.end() :]
    ends = [end.end() for end in _END.finditer(text, 0, refused.start())]
    return text[: ends[-1]] if ends else ""
