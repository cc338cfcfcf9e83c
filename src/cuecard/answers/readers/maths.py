"""Mathematical answers: the expression that a reply ends in, as a number if it is one, else in compact LaTeX."""

from __future__ import annotations

import re
from itertools import pairwise

from cuecard.answers.answer import Answer, Blank, Reading
from cuecard.answers.readers import number
from cuecard.answers.text.markup import before_reasons, plain, sentences, unboxed
from cuecard.answers.text.refusals import refuses
from cuecard.domain.question import Question

_FORMULA = re.compile(
    r"\$\$(.{1,400}?)\$\$|\\\[((?:(?!\\\[).){1,400}?)\\\]|\\\(((?:(?!\\\().){1,400}?)\\\)|\$([^$\n]{1,400})\$",
    re.DOTALL,
)
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


def read(text: str, question: Question) -> Reading:
    """The expression of a text: its only formula, or the text itself where it is one; unclear in prose."""
    said = unboxed(text).strip().strip("*").strip()
    if refuses(said):
        return Blank.UNCLEAR
    formulas = list(_FORMULA.finditer(said))
    if formulas:
        between = [said[a.end() : b.start()] for a, b in pairwise(formulas)]
        if all(_JOINS.fullmatch(gap) for gap in between) or len({_inner(one) for one in formulas}) == 1:
            return _expression(", ".join(dict.fromkeys(_inner(one) for one in formulas)), question)
        return Blank.UNCLEAR
    parts = sentences(before_reasons(said))
    return (
        _expression(parts[0], question) if len(parts) == 1 else number.read(said, question) if parts else Blank.NOTHING
    )


def _inner(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _expression(text: str, question: Question) -> Reading:
    said = text.strip().rstrip(".,;").strip()
    value = number.whole(said)
    if value is not None and not re.search(r"[A-Za-z]\s*=|\\(?:circ|pi)|°|%", said):
        return Answer(said, value)
    prose = [
        word
        for word in _PROSE.findall(re.sub(r"\\(?:text|mathrm)\{[^{}]*\}", "", said))
        if word.lower() not in _KNOWN_WORDS
    ]
    if prose:
        return number.read(plain(said), question)
    compact = tidy(said)
    return Answer(said, compact) if re.search(r"[^\W_]|[∞∅]", compact) else Blank.NOTHING


def tidy(expression: str) -> str:
    r"""One spelling for each formula: no spaces, \frac for \dfrac, ^ for **, \sqrt{2} for √2."""
    for pattern, replacement in _TIDY:
        expression = pattern.sub(replacement, expression)
    return expression.strip().rstrip(".")
