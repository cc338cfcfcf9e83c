"""Replies that give no answer, and those that take one back."""

from __future__ import annotations

import re

from cuecard.answers.text.markup import END, any_of, pattern

_CHECK = any_of("re-?\\w+ double[-_]check check verify look think see")
_TAKEN_BACK = pattern(
    r"(?:(?<=[.!?…,;:—–-])\s*+|(?<!\s)(?=[^\S\n]*+\n)\s++|\bbut,?\s*+)(?:no,?\s++)?(?:"
    r"wait\b(?=\s*+(?:[,.!?…:—–-]|$|(?:no|i|let|maybe|actually)\b))"
    r"|(?:hold on|hang on|on second thoughts?|scratch that|actually,? (?:no|wait)|i (?:made|misread|miscounted))\b"
    rf"|(?:let me|let's) {_CHECK}\b"
    r"|(?<=no, )that(?:'s| is) (?:wrong|not right|incorrect)(?=\s*[.!,;]))"
)

_UNABLE = any_of(
    "cannot can't can_not could_not couldn't unable_to not_able_to impossible_to not_possible_to hard_to difficult_to"
)
_KNOW = any_of("determin tell say answer identif know make_out help assist provid infer conclud access confirm comment")
_LOOK = r"(?:see|view|read|find|open) (?:the|this|that|an?|any|your) (?:image|picture|photo|chart|attach|file)"
_REFUSED = pattern(
    rf"\b{_UNABLE} (?:\w+ly )?(?:be )?(?:\w+ly )?(?:{_KNOW}|{_LOOK})\w*",
    r"\b(?:don't|do not|doesn't|does not) (?:know\b|have (?:enough|access|the ability))",
    r"\b(?:don't|do not|doesn't|does not) (?:provide|contain|show|give) enough\b",
    r"\b(?:not|isn't|no) (?:enough|sufficient) (?:information|context|detail|data)",
    r"\binsufficient (?:information|context|detail|data)|\bno (?:idea|clue|image (?:was|is|has))\b",
    r"\bnot (?:sure|certain)\b|\bi'?m (?:unsure|uncertain|sorry)\b|\bas an ai\b",
    r"无法|無法|不知道|不确定|不確定|不能确定|对不起|抱歉|わかりません|分かりません|모르겠|알 수 없",
    r"\bweiß (?:es |ich )?nicht|\bnicht (?:bestimmen|erkennen|beantworten)|\bweet (?:het |ik )?niet\b",
    r"\bne (?:sais|peux) pas|\bno (?:lo )?(?:sé|puedo)\b|\bnon (?:lo )?(?:so|posso)\b|\bnão (?:sei|posso|consigo)\b",
    r"не знаю|не могу|لا أعرف|لا يمكن|नहीं पता",
)
_STILL = re.compile(r"\b(?:but|however|though|still|nevertheless)\b,?\s*", re.IGNORECASE)


def after_taking_back(text: str) -> str | None:
    """What follows the last "wait, …" or "let me check"; None if nothing was taken back."""
    ends = [found.end() for found in _TAKEN_BACK.finditer(text)]
    return text[ends[-1] :] if ends else None


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
    ends = [end.end() for end in END.finditer(text, 0, refused.start())]
    return text[: ends[-1]] if ends else ""
