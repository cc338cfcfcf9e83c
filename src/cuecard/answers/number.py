"""Numbers and mathematical expressions: the one that a reply gives as its answer.

An expression is a number if possible, else compact LaTeX.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import lru_cache
from itertools import pairwise

from cuecard.answers.text.claims import is_about
from cuecard.answers.text.markup import (
    CJK,
    any_of,
    asserted,
    before_reasons,
    language_of,
    pattern,
    plain,
    sentences,
    unboxed,
    unquoted,
)
from cuecard.answers.text.numerals import IRRATIONAL, MOST_NUMERALS, Numeral, numerals
from cuecard.answers.text.statements import answerable, not_given, one_of, refuses
from cuecard.answers.text.units import unit
from cuecard.domain.question import Answer, Blank, Question, Reading

_TIME_OR_DATE = re.compile(r"\d:\d|\b\d{4}-\d\d?-\d\d?\b|\d\s?/\s?\d{1,4}\s?/\s?\d|\d(?:st|nd|rd|th)\s+of\b")

# More than 5, at least 5, 5+, 5 more than: a bound or a difference, not the number.
_THAN = any_of("more less fewer greater higher lower larger smaller bigger")
_BOUND = any_of(
    """at_(?:least|most) over under above below exceed(?:s|ing)? no_(?:more|less) (?:maximum|minimum)_of mindestens
    höchstens au_moins au_plus al_menos como_máximo mehr_als weniger_als über bis_zu plus_d[e'] moins_d[e'] jusqu'à
    más_de menos_de hasta"""
)
_BOUND_BEFORE = pattern(
    rf"(?:\b{_THAN} than|\b{_BOUND}|(?<!add )(?<!adds )(?<!sums )\bup to|[<>≤≥±]=?|至少|最多|超过|不到"
    r"|少于|多于|大于|小于|不足|少なくとも|最大で?)\s*[$€£]?$",
)
_BOUND_AFTER = pattern(
    rf"\s?\+(?!\s?\d)|\s?[±<>≤≥]|\s+(?:or|oder|ou|o)\s+(?:more|less|fewer|so|above|below|mehr|plus|más)\b"
    rf"|\s+(?:\w+\s+)?{_THAN} than\b|[{CJK}]{{0,2}}?(?:以上|以下|以内|未満|未满)"
)
_DIFFERENCE = pattern(
    r"\s+(?!rather\b|other\b)(?:\w+er|less|more \w+) than\b|\s+\w+er als\b|\s+(?:de )?(?:plus|moins)(?: \w+)? que?\b"
    r"|\s+(?:más|menos)(?: \w+)? que\b"
)
"""After a number with a unit: 3 m longer than."""
_DENIED = pattern(
    r"(?:\bnot|n't|\brather than|\binstead of|\bneither|\bnor|\bnicht|\bpas|\bno (?:son|es|hay))\s+"
    r"(?:(?:just|exactly|be|equal to|show|contain|include|list|give|mention|cover|have)\s+)?$|不是$",
)
_DENIED_AFTER = re.compile(rf"[{CJK}]{{0,2}}?(?:ではな|じゃな|ではあり)")

# 3 + 4 = 7, which makes 7, 7 in total: the result counts, not its parts.
_MAKES = any_of(
    """equals is_equal_to makes making gives yields totals comes_to a_total_of adds?_up_to sums?_(?:up_)?to
    so_(?:the_\\w+(?:_\\w+){0,3}_(?:is|are|was)|(?:there|it|that)_(?:is|are|was|were)|we_have) that's ergibt"""
)
_RESULT = pattern(rf"[=≈]|\b{_MAKES}\b")
_TOTAL = pattern(
    r"\b(?:in total|altogether|in all|a total of|insgesamt|au total|en total)\b|一共|总共|总计|全部で|合計",
    r"^(?:so |thus |therefore )?(?:(?:the|their|its|grand|total) )*(?:total|sum|number)\s?(?:is\b|of\b|:|=)"
    r"|^(?:so |thus |therefore )?(?:that's|th(?:at|is) (?:makes|gives|is))\b",
)
_IN_TOTAL = pattern(r"\s(?:\w+\s){0,3}?(?:in total|altogether|in all)\b")
_SUM_BEFORE = pattern(r",\s(?:so|thus|therefore|hence)\s")
_ASIDE = pattern(r"\s\((?!(?:or|maybe|possibly)\b)[^()]{1,200}\)")
_PARTS_FOLLOW = pattern(r"[:(（：—–]|\s-\s|,\s(?:of (?:which|whom|them)|namely|including|i\.e\.|made up)")
"""Text between a total and its parts."""

_NONE = pattern(
    r"(?:es gibt |il n'y en a |hay )?(?:keine[rs]?|keins|aucune?|ningun[ao]|ninguno|nadie|personne|niemand)\W*",
    r"(?:一[个個辆輛只人台]?[也都])?没有\W*|(?:(?:一[つ人台匹本枚個]も)?(?:あり|い)ません|ゼロ|なし)(?:です)?\W*",
    r"(?:(?:the answer is|there (?:are|is))\s+)?(?:none|nil|nobody|no[ -]one)"
    r"(?:\s+(?:of\s+(?:them|these|those|the \w+)|is there|in the \w+|is (?:visible|shown|present)))?\W*",
)
_NO_SUCH = pattern(
    r"(?:^|\bthere(?:'s| is| are| was| were) |\bi (?:see|count|can see) )(?:no|not any)\s+(?P<thing>\w+)",
    r"\b(?:aren't|isn't|are not|is not) any\s+(?P<any>\w+)",
    r"\bkeine?[nrms]?\s(?:einzige\w*\s)?(?P<de>\w+)|\b(?:pas|aucune?)\s(?:de\s|d')?(?P<fr>\w+)",
    r"\bno hay (?:ning\w+ )?(?P<es>\w+)",
    rf"没有(?P<zh>[{CJK}]{{1,4}}?)(?=\W|$)",
)
_COUNTS = pattern(
    r"\b(?:how many|how much|number of|count|wie viele?|combien|cuánt[oa]s?)\b|多少|几|幾|何[人個匹台本枚]|いくつ"
)
# "row 2": the word before a number that names a thing; after these words a number is not a name
_LABEL = re.compile(r"(?<![^\W\d_])([^\W\d_]+)[\s:#-]{0,2}$")
_MOST_CHARS, _MOST_SENTENCES = 400, 200  # of a number with its unit; of a reply that gives one
_SMALL = "is are was were has have had of the than and or to be equals by with a an plus minus times"
_NO_LABEL = set(_SMALL.split())


def read(text: str, question: Question) -> Reading:
    """The number that a text concludes with; UNCLEAR if it gives several, a range, a bound, a date or a time."""
    reply = answerable(plain(text))
    if not reply.strip():
        return Blank.UNCLEAR
    parts = asserted(sentences(before_reasons(reply)))
    if len(parts) > _MOST_SENTENCES:
        return Blank.UNCLEAR
    language = language_of(f"{question.text[-_MOST_CHARS:]} {reply[-_MOST_CHARS:]}")
    claims = [_claim(part, question, language) for part in parts]
    if Blank.UNCLEAR in claims:
        claims = [_claim(_ASIDE.sub("", part), question, language) for part in parts]
    together = one_of(claims)
    if together is not Blank.UNCLEAR or len(parts) <= 1:
        return together
    if _TOTAL.search(parts[-1]) or _adds_up(claims):
        return claims[-1]
    if len(parts[0].split()) <= 3 and isinstance(claims[0], Answer):
        return claims[0]
    stated: list[tuple[str, Reading]] = [
        (part, claim) for part, claim in zip(parts, claims, strict=True) if claim is not Blank.NOTHING
    ]
    about: list[Reading] = [claim for part, claim in stated if is_about(part, question.text)]
    return one_of(about) if about and stated[-1][1] is about[-1] else Blank.UNCLEAR


def _adds_up(claims: list[Reading]) -> bool:
    """Whether the last number is the sum of at least two earlier ones."""
    values = [claim.value for claim in claims if isinstance(claim, Answer) and isinstance(claim.value, Fraction)]
    return len(values) == len(claims) > 2 and sum(values[:-1]) == values[-1]


def whole(text: str) -> Fraction | None:
    """The value of a text that consists of a number and its unit; None for other texts."""
    return quantity(text)[0]


def quantity(text: str) -> tuple[Fraction | None, str | None]:
    """(value, unit) of a text that consists of a number and its unit, if it has one; (None, None) for other texts."""
    if len(text) > _MOST_CHARS:
        return None, None
    reply = unquoted(plain(text))
    found = numerals(reply)
    if len(found) != 1:
        return None, None
    start, end, name = unit(reply, found[0].start, found[0].end)
    return (found[0].value, name) if (start, end) == (0, len(reply)) else (None, None)


def unit_of(text: str) -> str | None:
    """The unit of the first number in a text, by its canonical name (12 centimetres -> cm); None without one."""
    reply = plain(text[:_MOST_CHARS])
    return next((unit(reply, found.start, found.end)[2] for found in numerals(reply)), None)


def _claim(sentence: str, question: Question, language: str) -> Reading:
    """The number of one sentence: its only one, or its computed result."""
    if _NONE.fullmatch(sentence) and _COUNTS.search(question.text):
        return Answer(sentence.rstrip(". "), Fraction(0))
    counted = numerals(sentence, language)
    if len(counted) > MOST_NUMERALS or _TIME_OR_DATE.search(sentence):
        return Blank.UNCLEAR
    found = [
        one
        for one in counted
        if not _DENIED.search(sentence[max(0, one.start - 30) : one.start])
        and not _DENIED_AFTER.match(sentence, one.end)
    ]
    totals = [numeral for numeral in found if _IN_TOTAL.match(sentence, numeral.end)]
    found = totals or found
    results = [end.end() for end in _RESULT.finditer(sentence) if found and end.end() <= found[-1].start]
    if not results:
        found = _total_of_parts(sentence, found) or found
    else:
        found = [numeral for numeral in found if numeral.start >= results[-1]]
    if len({numeral.value for numeral in found}) > 1:
        found = [numeral for numeral in found if _label(sentence, numeral) not in _labels(question.text)] or found
    missing = _none_of(sentence, question) if _COUNTS.search(question.text) else None
    values = {numeral.value for numeral in found} | ({Fraction(0)} if missing else set())
    if not values:
        return Blank.UNCLEAR if not_given(sentence) else Blank.NOTHING
    value = values.pop()
    if values or value is None or any(_is_bound(sentence, numeral) for numeral in found):
        return Blank.UNCLEAR
    if not found:
        return Answer(missing or "", value)
    if IRRATIONAL.search(sentence[results[-1] if results else 0 :]):
        return Blank.UNCLEAR
    start, end, _ = unit(sentence, found[0].start, found[0].end)
    return Answer(sentence[start:end].strip(), value)


def _total_of_parts(sentence: str, found: list[Numeral]) -> list[Numeral]:
    """The 4 of "4 people: 3 men and 1 woman" and of "3 men and 1 woman, so 4 people"."""
    if len(found) < 2 or any(numeral.value is None for numeral in found):
        return []
    first, *rest = found
    opened = _PARTS_FOLLOW.search(sentence, first.end, rest[0].start)
    if opened and first.value == sum(numeral.value or 0 for numeral in rest):
        return [first]
    *parts, last = found
    closed = _SUM_BEFORE.search(sentence, parts[-1].end, last.start)
    return [last] if closed and last.value == sum(numeral.value or 0 for numeral in parts) else []


def _is_bound(sentence: str, numeral: Numeral) -> bool:
    """Whether the number is only a bound: more than 5, 5+, at least 5."""
    before = sentence[max(0, numeral.start - 20) : numeral.start]
    _, end, name = unit(sentence, numeral.start, numeral.end)
    differs = name is not None and _DIFFERENCE.match(sentence, end)
    return bool(_BOUND_BEFORE.search(before) or _BOUND_AFTER.match(sentence, numeral.end) or differs)


@lru_cache(maxsize=64)
def _labels(text: str) -> frozenset[tuple[str, Fraction | None]]:
    """All numbered things of a question, like "row 2", cached for its next numeral."""
    return frozenset(label for one in numerals(text) if (label := _label(text, one)) is not None)


def _label(text: str, numeral: Numeral) -> tuple[str, Fraction | None] | None:
    before = _LABEL.search(text[max(0, numeral.start - 30) : numeral.start])
    if before is None or before[1].lower() in _NO_LABEL:
        return None
    return before[1].lower(), numeral.value


def _none_of(sentence: str, question: Question) -> str | None:
    """Words that deny the presence of what the question counts: "no red" for "How many red digits …"."""
    for found in _NO_SUCH.finditer(sentence):
        thing = next(group for group in found.groups() if group is not None).lower()
        if re.search(rf"\b{thing}", question.text, re.IGNORECASE) or (found["zh"] and thing in question.text):
            return found.group().strip()
    return None


# --- mathematical expressions -----------------------------------------------------------------------------------------


_FORMULA = re.compile(
    r"\$\$(.{1,400}?)\$\$|\\\[((?:(?!\\\[).){1,400}?)\\\]|\\\(((?:(?!\\\().){1,400}?)\\\)|\$([^$\n]{1,400})\$",
    re.DOTALL,
)
_MARKUP = re.compile(r"</?(?:p|b|strong|span|div)>|^>\s|^\s*```\w*|```\s*$")
_FACTORIAL = re.compile(r"\d!")
_JOINS = re.compile(r"\s*(?:,|;|or|and|,\s?(?:or|and))\s*", re.IGNORECASE)
_PROSE = re.compile(r"(?<![\\A-Za-z])[A-Za-z]{3,}")
_MATHS_WORDS = """sin cos tan cot sec csc arcsin arccos arctan log exp sqrt lim max min mod gcd lcm deg pi and infinity
infinite infty inf undefined nan none solution solutions true false all real numbers empty set does not exist dne"""
_KNOWN_WORDS = set(_MATHS_WORDS.split())
_TIDY = (
    (re.compile(r"\s(?:or|and)\s|\\text\{\s?(?:or|and)\s?\}"), ","),
    (re.compile(r"\\(?:left|right|displaystyle|big|Big|,|;|!|:|quad|qquad)(?![A-Za-z])|\\ |[$\s]"), ""),
    (re.compile(r"\\[dt]frac"), r"\\frac"),
    (re.compile(r"\\(?:text|mathrm|mathbf|textbf)\{([^{}]*)\}"), r"\1"),
    (re.compile(r"\\cdot|\\times|×|·"), "*"),
    (re.compile(r"\*\*"), "^"),
    (re.compile(r"(?<=\d)\{?,\}?(?=\d{3}(?!\d))"), ""),
    (re.compile(r"−|–"), "-"),
    (re.compile(r"√\(([^()]*)\)|√(\w)"), r"\\sqrt{\1\2}"),
    (re.compile(r"(?<![\\A-Za-z])sqrt\(([^()]*)\)"), r"\\sqrt{\1}"),
    (re.compile(r"(?<![\\A-Za-z])(pi|infty)(?![A-Za-z])"), r"\\\1"),
    (re.compile("π"), r"\\pi"),
    (re.compile("∞|(?i:infinity)"), r"\\infty"),
    (re.compile("≤"), r"\\le "),
    (re.compile("≥"), r"\\ge "),
    (re.compile("²"), "^2"),
    (re.compile("³"), "^3"),
)


def read_maths(text: str, question: Question) -> Reading:
    """The expression of a text: its only formula, or the whole text if it is one; UNCLEAR in prose."""
    trimmed = _MARKUP.sub("", unboxed(text).strip()).strip("*`").strip()
    if refuses(trimmed):
        return Blank.UNCLEAR
    formulas = list(_FORMULA.finditer(trimmed))
    if formulas:
        between = [trimmed[a.end() : b.start()] for a, b in pairwise(formulas)]
        if all(_JOINS.fullmatch(gap) for gap in between) or len({_inner(one) for one in formulas}) == 1:
            return _expression(", ".join(dict.fromkeys(_inner(one) for one in formulas)), question)
        return Blank.UNCLEAR
    parts = asserted(sentences(before_reasons(trimmed)))
    if not parts:
        return Blank.NOTHING
    formal = parts if len(parts) == 1 else [part for part in parts if not _prose(part)]
    return _expression(formal[0], question) if len(formal) == 1 else read(trimmed, question)


def _inner(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _expression(text: str, question: Question) -> Reading:
    trimmed = text.strip().rstrip(".,;").strip()
    is_tuple = trimmed[:1] in ("(", "[") and trimmed[-1:] in (")", "]") and "," in trimmed  # (1,2) is not 1.2
    value = None if is_tuple or _FACTORIAL.search(trimmed) else whole(trimmed)
    if value is not None and not re.search(r"[A-Za-z]\s*=|\\(?:circ|pi)|°|%", trimmed):
        return Answer(trimmed, value)
    if _prose(trimmed):
        return read(plain(trimmed), question)
    compact = tidy(trimmed)
    return Answer(trimmed, compact) if re.search(r"[^\W_]|[∞∅]", compact) else Blank.NOTHING


def _prose(text: str) -> bool:
    """Whether a text contains words other than mathematical ones."""
    words = _PROSE.findall(re.sub(r"\\(?:text|mathrm)\{[^{}]*\}", "", text))
    return any(word.lower() not in _KNOWN_WORDS for word in words)


def tidy(expression: str) -> str:
    r"""A canonical spelling of a formula: no spaces, \frac for \dfrac, ^ for **, \sqrt{2} for √2."""
    for spelling, replacement in _TIDY:
        expression = spelling.sub(replacement, expression)
    return expression.strip().rstrip(".").strip()
