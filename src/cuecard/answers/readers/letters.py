"""Letters of options in a reply: which of them it picks, and which are only words, names or talk.

Letters in prose are the trap: "A dog is …" is no option A, "Option A shows an apple" picks nothing, "not A but B" is B.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import islice

from cuecard.answers.text.markup import any_of, pattern

_AND = any_of("and or und oder et ou y o e en of и или أو و")
_MAYBE = r"(?:(?:maybe|perhaps|even|also)\s+)?(?:option\s+)?"
_JOIN = rf"\s*(?:,\s*(?:and|or)\b|[,/&+]|\b{_AND}\b|或者?|[和与與と]|还是|または|와|과)\s*{_MAYBE}"
_NAMED = pattern(r"(?:options?|choices?|answer|letter)\s+$")

# Behind a bare A these words show that it is the letter, not the article.
_VERBS = any_of("is was are and or because since as would seems looks matches but not must should can cannot does has")
_AFTER_A = re.compile(rf"\s+(?![a-z])(?![A-Z][a-z])|\s+{_VERBS}\b|\S|$")

# "vitamin C", "point A": the letter belongs to the noun.
_NOUNS = any_of(
    """vitamin hepatitis plan point type figure fig\\.? line angle group class grade team player part section row column
    cell node block panel person car box room gate platform labell?ed label marked object circle region area
    image picture"""
)
_OWNED = pattern(rf"\b{_NOUNS}\s+$")

# What a reply says before or behind the letter that it decides on.
_CHOOSING = any_of(
    """is be was it's that's choose chose pick picked select selected say guess think believe go_with going_with go_for
    favou?r prefer match matches indicates? means corresponds?_to points?_to leans?_towards? leaning_towards? therefore
    thus hence so but rather probably likely definitely clearly certainly namely maybe perhaps leaves leaving"""
)
_NOUN_OF_IT = r"(?:(?:the|my)\s+)?(?:(?:letter|option|choice|answer)\s+)?"
_DECIDING = pattern(rf"(?:\b{_CHOOSING}|->|→|=>|选择?|選擇?|是|为|為)[\s,:*\"'“(]*{_NOUN_OF_IT}$")
_SEEMS = any_of("is would_be must_be should_be seems looks appears")
_VERY = any_of("to_be the my clearly most more also probably likely indeed")
_FITS = any_of("correct right true best better accurate answer it")
_DECIDED = pattern(rf"[\s,:)\]*.\"'”]{{0,3}}\s?{_SEEMS}\s+(?:{_VERY}\s+){{0,3}}{_FITS}\b")

# What it says before or behind the letters that it rules out.
_NOT = r"not|n't|\bcannot|\bnever|\bneither|\bnor"
_AGAINST = any_of(
    """rather_than instead_of except excluding eliminat(?:e|es|ed|ing) rul(?:e|ed|es|ing)_out unlike reject(?:s|ed|ing)?
    than against"""
)
_DENYING = pattern(
    r"(?:不是|並非|并非)$",
    r"(?:\bnicht|\bkein|\bpas|\bniet|\bне)\s$",
    rf"(?:{_NOT}|\b{_AGAINST})\s+(?:(?!(?:but|only|sure)\b)[\w']+\s+){{0,4}}$",
)
_IS = any_of("is are was were can could would should must does do did seems? looks? appears?")
_WRONG = any_of("wrong incorrect false eliminated ruled_out excluded impossible invalid")
_DENIED = pattern(
    rf"[\s:)\]*\"'”]{{0,3}}\s?(?:(?:{_IS}\s+(?:\w+\s+){{0,2}})?{_WRONG}\b"
    rf"|{_IS}(?:n't|\s+(?:(?:clearly|both|also|definitely)\s+)?not)\b|cannot\b|can't\b|is out\b)"
)
_SHOWS = any_of(
    """shows? depicts? displays? contains? describes? represents? refers? mentions? states? says? has have
    corresponds?"""
)
_DESCRIBED = pattern(rf"[\s)\]]{{1,2}}{_SHOWS}\b")

_ONE = re.compile(r"[A-Z](?![A-Za-z])|(?<=[(\[])\s?[a-z](?=\s?[)\]])")
_OPENS = pattern(r"[\W_]*+(?:(?:the )?(?:correct |final )?(?:option|choice|answer|letter)\s?)?[\W_]*+")
_OPENING_CHARS = 80
MOST_MENTIONS = 200
_STOPS = pattern(r"[\s*\"'”]*(?:$|[.,:;)\]\n–—-]|because\b|since\b|as\b|\(|[^\x00-\x7f])")
_CLOSES = re.compile(r"[\s*.!]*(?:$|\n)|[.!]\s")
_LISTS = re.compile(r"\s?[.:)]\s*\S")


@dataclass(frozen=True)
class Mention:
    """One or several joined letters at [start, end), and what the reply does with them.

    `decided`: it picks them. `listed`: they look like the head of an enumeration ("A. red"). `described`: it only tells
    what they show.
    """

    start: int
    end: int
    letters: frozenset[str]
    decided: bool = False
    listed: bool = False
    described: bool = False


def mentions(reply: str, last: str) -> list[Mention] | None:
    """The letters from A to `last` that a text mentions and does not rule out; None if it is full of letters."""
    either = f"A-{last}a-{last.lower()}"
    alone = re.fullmatch(rf"\W*(?:(?:option|choice|answer|letter)\b[\s:]*)?[(\[]?([{either}])\W*", reply, re.IGNORECASE)
    if alone is not None:
        return [Mention(*alone.span(1), frozenset(alone[1].upper()), decided=True)]
    one, named = rf"(?:[(\[]\s?[{either}]\s?[)\]]|[A-{last}])", r"(?:(?<=[Oo]ption )|(?<=[Cc]hoice ))"
    free = r"(?![A-Za-zÀ-ÿ0-9_])"
    group = re.compile(rf"(?<![A-Za-zÀ-ÿ0-9_'\\])(?:{one}(?:{_JOIN}{one}{free})*|{named}[{either}]){free}(?!'[a-z])")
    found = list(islice(group.finditer(reply), MOST_MENTIONS + 1))
    if len(found) > MOST_MENTIONS:
        return None
    return [_mention(reply, one) for one in found if _is_letter(reply, one) and not _is_denied(reply, one)]


def _is_letter(reply: str, found: re.Match[str]) -> bool:
    """Whether a bare letter is one, and no article, no pronoun and no name."""
    if found.group()[0] in "([":
        return True
    before = reply[max(0, found.start() - 40) : found.start()]
    named = _NAMED.search(before) is not None
    if found.group() == "A" and not _AFTER_A.match(reply, found.end()):
        return named and not reply[found.end() : found.end() + 2].strip().islower()
    return found.group() != "I" and (named or not _OWNED.search(before))


def _is_denied(reply: str, found: re.Match[str]) -> bool:
    before = _NAMED.sub("", reply[max(0, found.start() - 40) : found.start()])
    before = re.sub(r"[(\[\"'“]+$", "", re.sub(r"\b(?:the|both|either)\s+$", "", before))
    return bool(_DENYING.search(before) or _DENIED.match(reply, found.end()))


def _mention(reply: str, found: re.Match[str]) -> Mention:
    (start, end), bare = found.span(), found.group()[0] not in "(["
    sure = bool(_DECIDING.search(reply[max(0, start - 40) : start]) or _DECIDED.match(reply, end))
    line = reply.rfind("\n", max(0, start - _OPENING_CHARS - 1), start) + 1
    near = line > 0 or start <= _OPENING_CHARS
    opens = near and _OPENS.fullmatch(reply, line, start) and _STOPS.match(reply, end)
    closes = not bare and _CLOSES.match(reply, end)
    heads = _LISTS.match(reply, end) or not (bare or closes)
    return Mention(
        *found.span(),
        letters=frozenset(one.strip().upper() for one in _ONE.findall(found.group()))
        or frozenset(found.group().upper()),
        decided=sure or bool(opens or closes),
        listed=bool(heads) and not sure,
        described=_DESCRIBED.match(reply, end) is not None,
    )
