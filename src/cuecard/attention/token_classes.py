"""Class of word of each reasoning token, and the tokens of the conclusion. English word lists."""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Sequence
from enum import StrEnum
from itertools import accumulate


class TokenClass(StrEnum):
    """Classes of reasoning tokens. A token is in exactly one: that of the word it begins in or is a part of."""

    ANSWER = "answer"
    """A word of the answer, at any position."""
    NUMBER = "number"
    POSITION = "position"
    """Names a place: `cell`, `row`, `left`, and a number after such a word."""
    NAME = "name"
    """Colours, capitalised words inside a sentence, and names from the question."""
    CONNECTIVE = "connective"
    FUNCTION = "function word"
    WORD = "other word"
    MARK = "punctuation"


def _set(words: str) -> frozenset[str]:
    return frozenset(words.split())


NUMBERED = _set("cell cells row rows column columns col place position positions")
PLACES = NUMBERED | _set(
    """top bottom left right above below under over middle center centre corner edge side up down forward back north
    south east west inside outside"""
)
COLOURS = _set("red green blue yellow orange purple pink black white grey gray brown teal cyan magenta")
CONNECTIVES = _set(
    """so now then therefore thus hence because since but however although though while if when first second third next
    finally also let and or not wait again instead otherwise step"""
)
FUNCTIONS = _set(
    """a an the of to at in on by for from with as is are was were be been it its this that these those there here we us
    i you he she they them our my your which who what where how do does did has have had can will would should"""
)
# a number with its separators and per cent sign, a word, or any other mark
_WORD = re.compile(r"\d+(?:[.,:/]\d+)*%?|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]|_")


def classes(pieces: Sequence[str], answer: str, question: str) -> list[TokenClass]:
    """The class of each reasoning token."""
    text = "".join(pieces)
    words = list(_WORD.finditer(text))
    word_classes, starts = _classes(words, answer, question), [word.start() for word in words]
    token_classes, end = [], 0
    for piece in pieces:
        at = end + len(piece) - len(piece.lstrip())
        end += len(piece)
        place = bisect_right(starts, at) - 1
        token_classes.append(word_classes[place] if place >= 0 and piece.strip() else TokenClass.MARK)
    return token_classes


def _classes(words: Sequence[re.Match[str]], answer: str, question: str) -> list[TokenClass]:
    answer_words = {each.casefold() for each in _WORD.findall(answer)}
    named = {each for each in _WORD.findall(question)[1:] if each[0].isupper()}
    previous = [".", *(word.group() for word in words)]
    return [_class(word.group(), before, answer_words, named) for word, before in zip(words, previous, strict=False)]


def _class(word: str, before: str, answer_words: set[str], named: set[str]) -> TokenClass:
    small = word.casefold()
    if word[0].isdigit() and before.casefold() in NUMBERED:
        return TokenClass.POSITION
    if small in answer_words and small not in FUNCTIONS:
        return TokenClass.ANSWER if word[0].isalnum() else TokenClass.MARK
    if word[0].isdigit():
        return TokenClass.NUMBER
    if not word[0].isalpha():
        return TokenClass.MARK
    for members, kind in (
        (PLACES, TokenClass.POSITION),
        (CONNECTIVES, TokenClass.CONNECTIVE),
        (FUNCTIONS, TokenClass.FUNCTION),
    ):
        if small in members:
            return kind
    inner = word[0].isupper() and before not in (".", "!", "?", ":", "\n")
    return TokenClass.NAME if small in COLOURS or inner or word in named else TokenClass.WORD


def conclusion(pieces: Sequence[str]) -> list[bool]:
    """(tokens): whether each token is in the reasoning's last sentence."""
    text = "".join(pieces).rstrip()
    ends = [match.end() for match in re.finditer(r"[.!?。！？](?=\s|$)|\n+", text) if match.end() < len(text)]
    start = ends[-1] if ends else 0
    return [end > start for end in accumulate(map(len, pieces))]
