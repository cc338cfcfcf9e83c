"""Short answers in a sentence's words: what it claims, what it mentions, what it denies."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import lru_cache

from cuecard.answers.text.markup import any_of, pattern, plain, unquoted
from cuecard.answers.text.similarity import normalise

_SAYS = any_of("""is are was were would_be appears?_to_be seems?_to_be looks? shows? says? said reads? displays?""")
_COPULA = re.compile(
    rf"(?P<subject>.{{0,160}}?)(?:\s{_SAYS}:?\s|(?<=\bit)'s\s|(?<=\bthat)'s\s|(?<=\bthere)'s\s|(?<=\bhe)'s\s"
    r"|(?<=\bthey)'re\s)(?P<rest>.+)",
    re.IGNORECASE | re.DOTALL,
)
_PLAIN_SUBJECT = pattern(
    any_of("the this that these those it its they there he she his her their a an my your our") + r"\b"
)
_RELATIVE = re.compile(r"\b(?:who|which|that|what|where)$", re.IGNORECASE)
_FILLER = re.compile(
    r"(?:(?:called|named|known as|probably|likely|most likely|about|clearly|definitely|simply|just|that|approximately"
    r"|(?:the )?(?:colou?r|digit)(?: of| is|:)?|(?:the )?(?:number|year|letter)(?= \d| .\b)"
    r"|(?:the )?(?:word|answer|name|text|title|shape|number)(?: is|:))\s)+(?=\S)",
    re.IGNORECASE,
)
_ASKS_WHO = pattern(
    r"\b(?:who|(?:which|what)(?: \w+){0,2}?)\s+(?P<verb>is|are|was|were|has|have|had|does|did)\s+(?P<of>[^,?]{1,100})"
)
_IMAGERY = {"image", "picture", "photo", "photograph", "figure", "chart", "diagram", "graph", "shown", "answer"}
_LITTLE = (
    "is are was were what which who where when how of in on at to do does did it this that and or there with for by"
)
_SMALL = set(_LITTLE.split())
_NOT_BUT = re.compile(r"^not\s++.{1,60}?,?(?<!\s)\s++but\s++(?:rather\s++)?(?P<rest>.++)$", re.IGNORECASE)
_BUT_NOT = re.compile(
    r"^(?P<rest>.+?)(?<!\s),?\s++(?:(?:and|but)\s++)?(?:not|rather than|instead of)\s++.{1,60}$", re.IGNORECASE
)
_BE = {"is", "are", "was", "were", "would", "cannot", "does", "do"}
_DENIED = {"isnt", "arent", "wasnt", "wrong", "incorrect", "cannot", "doesnt", "impossible"}
_DENIES = {"not", "isnt", "arent", "wasnt", "doesnt", "neither", "nor", "cannot", "dont", "without", "no"}


def claimed(sentence: str, question: str, strict: bool = False) -> str:
    """What a sentence says of its subject ("The digit is red." -> "red"); the whole sentence if it has no such form.

    Strict wants a subject that the question names, and "" otherwise.
    """
    claim = sentence.strip()
    asked_for = _subject_asked_for(claim, question)
    if asked_for:
        return unquoted(asked_for)
    found = _COPULA.match(claim)
    while found is not None and _RELATIVE.search(found["subject"].strip()):
        at = found.start("rest")
        found = _COPULA.match(claim, at - 1) if claim.find(" ", at) >= 0 else None
    if found is None or not _is_subject(claim[: found.start("rest")], question, strict):
        return "" if strict else unquoted(_positive(_FILLER.sub("", claim, count=1) if _FILLER.match(claim) else claim))
    rest = found["rest"].strip()
    filler = _FILLER.match(rest)
    return unquoted(_positive(rest[filler.end() :] if filler else rest))


def _subject_asked_for(claim: str, question: str) -> str:
    """B, from "B is the tallest." for "Who is the tallest, A or B?"; "" where a sentence goes on otherwise."""
    asked = _ASKS_WHO.search(question)
    if asked is None:
        return ""
    found = re.match(rf"(?P<subject>.{{1,80}}?)\s{asked['verb']}\s(?P<rest>.+)", claim, re.IGNORECASE)
    if found is None or not set(normalise(found["rest"]).split()) <= set(normalise(asked["of"]).split()):
        return ""
    return found["subject"].strip()


def _is_subject(subject: str, question: str, strict: bool) -> bool:
    shared = set(normalise(subject).split()) & set(spoken(question)) - _SMALL - _IMAGERY
    return bool(shared) or (not strict and _PLAIN_SUBJECT.match(subject.strip()) is not None)


def _positive(claim: str) -> str:
    """Blue, from "not red but blue" and from "blue, not red"."""
    found = _NOT_BUT.match(claim) or _BUT_NOT.match(claim)
    return found["rest"] if found else claim


def mentioned(text: str, options: Sequence[str]) -> set[int]:
    """The indices of the options whose words a text holds and does not deny; the longest wins where they overlap."""
    words = normalise(plain(text)).split()
    spans = [(i, *span) for i, option in enumerate(options) for span in _spans(words, list(spoken(option)))]
    ends = [end for _, _, end in spans]
    return {
        index
        for index, start, end in spans
        if not any(a <= start and end <= b and b - a > end - start for _, a, b in spans)
        and not _denied(words, max([start - 3, 0, *(e for e in ends if e <= start)]), start, end)
    }


@lru_cache(maxsize=256)
def spoken(text: str) -> tuple[str, ...]:
    """The words of a question or an option, kept for the next reply."""
    return tuple(normalise(plain(text)).split())


def _spans(words: list[str], sought: list[str]) -> list[tuple[int, int]]:
    size = len(sought)
    return [(i, i + size) for i in range(len(words) - size + 1) if words[i : i + size] == sought] if size else []


def _denied(words: list[str], since: int, start: int, end: int) -> bool:
    before, after = words[since:start], words[end : end + 2]
    if "but" in before:
        before = before[before.index("but") + 1 :]
    if before[-2:] in (["rather", "than"], ["instead", "of"]) or before[-1:] == ["no"]:
        return True
    if _DENIES & set(before) - {"no"} or (after[:1] and after[0] in _DENIED):
        return True
    return len(after) == 2 and after[0] in _BE and after[1] in {"not", *_DENIED}
