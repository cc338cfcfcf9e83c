"""Choices: the one option that a reply picks, by its letter or in its words.

Letters in prose are the trap: "A dog is …" is no option A, "Option A shows an apple" picks nothing, "not A but B" is B.
A letter counts where the reply opens or closes with it or says that it decides; two that count are no answer.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from cuecard.answers import number, yes_no
from cuecard.answers.answer import Answer, Blank, Reading, one_of
from cuecard.answers.similarity import normalise
from cuecard.answers.wording import answerable, before_reasons, plain, refuses, sentences, unquoted
from cuecard.answers.words import claimed, mentioned
from cuecard.domain.question import Question, letter

_JOIN = r"\s*(?:,\s*(?:and|or)\b|,|/|&|\+|\band\b|\bor\b)\s*(?:(?:maybe|perhaps|possibly|even|also)\s+)?(?:option\s+)?"
_NAMED = re.compile(r"(?:options?|choices?|answer|letter)\s+$", re.IGNORECASE)
# Behind a bare A these words show that it is the letter, not the article.
_AFTER_A = re.compile(
    r"\s+(?![a-z])(?![A-Z][a-z])|\s+(?:is|was|are|and|or|because|since|as|would|seems|looks|matches|but|not|must|should|can|cannot|does"
    r"|has)\b|\S|$"
)
# "vitamin C", "point A": the letter belongs to the noun.
_OWNED = re.compile(
    r"\b(?:vitamin|hepatitis|plan|point|type|figure|fig\.?|line|angle|group|class|grade|team|player|part|section|row|column|cell|node"
    r"|block|panel|person|car|box|room|gate|platform|label|labell?ed|marked|object|circle|region|area|image|picture)\s+$",
    re.IGNORECASE,
)
_DECIDING = re.compile(
    r"(?:\b(?:is|be|was|it's|that's|choose|chose|pick|picked|select|selected|say|guess|think|believe|go with|going with|go for|favou?r"
    r"|prefer|match|matches|indicates?|means|corresponds? to|points? to|lean(?:ing|s)? towards?|therefore|thus|hence|so|but|rather"
    r"|probably|likely|definitely|clearly|certainly|namely|maybe|perhaps|leaves|leaving)|->|→|=>|选择?|選擇?|是|为|為)"
    r"[\s,:*\"'“(]*(?:(?:the|my)\s+)?(?:(?:letter|option|choice|answer)\s+)?$",
    re.IGNORECASE,
)
_DECIDED = re.compile(
    r"[\s,:)\]*.\"'”]{0,3}\s?(?:is|would be|must be|should be|seems|looks|appears)\s+(?:(?:to be|the|my|clearly|most|more|also|probably"
    r"|likely|indeed)\s+){0,3}(?:correct|right|true|best|better|accurate|answer|it)\b",
    re.IGNORECASE,
)
_DENYING = re.compile(
    r"(?:\bnot|n't|\bneither|\bnor|\brather than|\binstead of|\bexcept|\bexcluding|\beliminat(?:e|es|ed|ing)|\brul(?:e|ed|es|ing) out"
    r"|\bunlike|\breject(?:s|ed|ing)?|\bthan|\bagainst)\s+(?:(?!but\b|only\b|sure\b)[\w']+\s+){0,4}$",
    re.IGNORECASE,
)
_DENIED = re.compile(
    r"[\s:)\]*\"'”]{0,3}\s?(?:(?:(?:is|are|was|were|can|could|would|should|must|does|do|did|seems?|looks?|appears?)\s+(?:\w+\s+){0,2})?"
    r"(?:wrong|incorrect|false|eliminated|ruled out|excluded|impossible|invalid)\b"
    r"|(?:is|are|was|were|can|could|would|should|must|does|do|did)(?:n't|\s+(?:clearly\s+|both\s+|also\s+|definitely\s+)?not)\b"
    r"|cannot\b|can't\b|is out\b)",
    re.IGNORECASE,
)
# "Option B shows a banana" describes, it does not pick.
_DESCRIBED = re.compile(
    r"[\s)\]]{1,2}(?:shows?|depicts?|displays?|contains?|describes?|represents?|refers?|mentions?|states?|says?|has|have|corresponds?)\b",
    re.IGNORECASE,
)
_ON_THE_WAY = re.compile(r"(?:let|let's|first|step|i'll|i will|i need|we need|start|looking)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Mention:
    """One or several joined letters at [start, end), and whether the reply decides on them."""

    start: int
    end: int
    letters: frozenset[str]
    decided: bool
    listed: bool


def read(text: str, question: Question) -> Reading:
    """The option that a text picks; unclear if it picks several, contradicts itself, or refuses."""
    said = plain(text)
    if refuses(said) and not any(refuses(option) for option in question.options):
        said = answerable(said)
        if not said.strip():
            return Blank.UNCLEAR
    by_letter = _by_letter(said, question)
    return by_letter if by_letter is not Blank.NOTHING else _by_words(said, question)


# --- letters ----------------------------------------------------------------------------------------------------------


def _by_letter(said: str, question: Question) -> Reading:
    found = [mention for mention in _mentions(said, question) if not _is_denied(said, mention)]
    decided = [mention for mention in found if mention.decided]
    if not decided and len(before_reasons(said).split()) <= 8:
        told = [mention for mention in found if mention.end <= len(before_reasons(said))]
        decided = [mention for mention in told if not _DESCRIBED.match(said, mention.end)]
    picked = {one for mention in decided for one in mention.letters}
    if not picked and any(_DESCRIBED.match(said, mention.end) for mention in found):
        return Blank.UNCLEAR
    if len(picked) != 1:
        return Blank.UNCLEAR if picked else Blank.NOTHING
    chosen = decided[0]
    listed = {one for mention in found if mention.listed and mention is not chosen for one in mention.letters}
    if chosen.listed and listed - picked and not picked & listed:
        return Blank.UNCLEAR
    if _contradicts(said, chosen, question):
        return Blank.UNCLEAR
    return Answer(_as_written(said, chosen), picked.pop())


def _mentions(said: str, question: Question) -> list[Mention]:
    last = letter(len(question.options) - 1)
    one = rf"(?:[(\[]\s?[A-{last}a-{last.lower()}]\s?[)\]]|[A-{last}])"
    alone = re.fullmatch(rf"\W*(?:(?:option|choice|answer|letter)\b[\s:]*)?[(\[]?([A-{last}a-{last.lower()}])\W*", said, re.IGNORECASE)
    if alone is not None:
        return [Mention(alone.start(1), alone.end(1), frozenset(alone[1].upper()), True, False)]
    named = rf"(?:(?<=option )|(?<=choice )|(?<=Option )|(?<=Choice ))[a-{last.lower()}]"
    group = re.compile(rf"(?<![A-Za-zÀ-ÿ0-9_'\\])(?:{one}(?:{_JOIN}{one}(?![A-Za-zÀ-ÿ0-9_]))*|{named})(?![A-Za-zÀ-ÿ0-9_]|'[a-z])")
    mentions = (_mention(said, found, last) for found in group.finditer(said))
    return [mention for mention in mentions if mention is not None]


def _mention(said: str, found: re.Match[str], last: str) -> Mention | None:
    start, end = found.span()
    letters = frozenset(re.findall(rf"(?<![a-z])[A-{last}a-{last.lower()}](?![a-z])", re.sub(r"\b(?:and|or|option)\b", " ", found.group())))
    before, bare = said[max(0, start - 40) : start], found.group()[0] not in "(["
    named = _NAMED.search(before) is not None
    if bare and found.group() == "A" and not _AFTER_A.match(said, end) and not (named and not said[end : end + 2].strip().islower()):
        return None
    if bare and found.group() == "I" or bare and not named and _OWNED.search(before):
        return None
    line = said[said.rfind("\n", 0, start) + 1 : start]
    opens = re.fullmatch(r"[\W_]*(?:(?:the )?(?:correct |final )?(?:option|choice|answer|letter)\s?)?[\W_]*", line, re.IGNORECASE) is not None
    lead = opens and re.match(r"[\s*\"'”]*(?:$|[.,:;)\]\n–—-]|because\b|since\b|as\b|\(|[^\x00-\x7f])", said[end:]) is not None
    closes = not bare and re.match(r"[\s*.!]*(?:$|\n)|[.!]\s", said[end:]) is not None
    sure = _DECIDING.search(before) or _DECIDED.match(said, end)
    listed = re.match(r"\s?[.:)]\s*[^\s]", said[end:]) is not None or (not bare and not closes)
    return Mention(start, end, frozenset(one.upper() for one in letters), bool(lead or closes or sure), listed and not sure)


def _is_denied(said: str, mention: Mention) -> bool:
    before = _NAMED.sub("", said[max(0, mention.start - 40) : mention.start])
    before = re.sub(r"[(\[\"'“]+$", "", re.sub(r"\b(?:the|both|either)\s+$", "", before))
    return bool(_DENYING.search(before) or _DENIED.match(said, mention.end))


def _contradicts(said: str, mention: Mention, question: Question) -> bool:
    """Whether the words beside the letter are another option's: "B. red" where red is A."""
    starts, ends = said.rfind("\n", 0, mention.start) + 1, said.find("\n", mention.end)
    beside = before_reasons(said[starts : ends if ends >= 0 else len(said)].replace(said[mention.start : mention.end], " ", 1))
    if len(beside.split()) > 8:
        return False
    own = mentioned(beside, question.options)
    return len(own) == 1 and letter(own.copy().pop()) not in mention.letters


def _as_written(said: str, mention: Mention) -> str:
    """The letter, with its option's words where they follow it on the same line."""
    line = said[mention.start :].split("\n", 1)[0]
    if mention.start > 0 and said[mention.start - 1] in "([" or len(line.split()) > 12 or not re.match(r".{1,3}?[.):]\s*\S", line):
        return said[mention.start : mention.end]
    return line.strip().rstrip(".")


# --- words ------------------------------------------------------------------------------------------------------------


def _by_words(said: str, question: Question) -> Reading:
    """The option whose words the text consists of, claims, or mentions; the last only in a short text."""
    parts = sentences(before_reasons(said)) or [said]
    for candidate in (said, before_reasons(said), parts[0], claimed(parts[0], question.text) if len(parts) == 1 else ""):
        same = [i for i, option in enumerate(question.options) if candidate and normalise(unquoted(candidate)) == normalise(plain(option))]
        if len(same) == 1:
            return Answer(unquoted(candidate), letter(same[0]))
    polar = _by_polarity(said, question)
    if polar is not Blank.NOTHING:
        return polar
    if all(number.whole(option) is not None for option in question.options):
        return _by_number(said, question)
    short = len(said.split()) <= 30 and not _ON_THE_WAY.match(said)
    named = mentioned(before_reasons(said), question.options) if short else set()
    if named:
        return Answer(unquoted(said), letter(named.pop())) if len(named) == 1 else Blank.UNCLEAR
    return Blank.NOTHING


def _by_polarity(said: str, question: Question) -> Reading:
    """For options that are yes and no (and no more): the one that the text says."""
    values = [yes_no.read(option, question) for option in question.options]
    if len(values) != 2 or {value.value for value in values if isinstance(value, Answer)} != {"yes", "no"}:
        return Blank.NOTHING
    reading = yes_no.read(said, question)
    return Answer(reading.text, letter(_index(values, reading))) if isinstance(reading, Answer) else reading


def _by_number(said: str, question: Question) -> Reading:
    """For options that are numbers: the one of the same value."""
    reading = number.read(said, question)
    if not isinstance(reading, Answer):
        return reading
    values = [number.whole(option) for option in question.options]
    return one_of([Answer(reading.text, letter(i)) for i, value in enumerate(values) if value == reading.value])


def _index(values: list[Reading], reading: Answer) -> int:
    return next(i for i, value in enumerate(values) if isinstance(value, Answer) and value.value == reading.value)
