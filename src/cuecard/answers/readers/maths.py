"""Mathematical answers: the expression that a reply ends in, and whether two expressions are the same.

An expression is a number if possible, else compact LaTeX. math-verify compares two that differ, in a process of its
own: it stops long work with SIGALRM, which works in the main thread only (its issue 55) and not inside one long integer
operation (issue 65: 9^9^9^9). Here it runs without a timeout in a child process that is killed after LIMIT_S; the next
comparison starts a new one. The first comparison takes about a second (SymPy's import), later ones milliseconds. It
blocks the caller: coroutines use `answers.same_answer`, which awaits a thread.
"""

from __future__ import annotations

import atexit
import re
from functools import lru_cache
from importlib.util import find_spec
from itertools import pairwise

from cuecard.answers.answer import Answer, Blank, Reading
from cuecard.answers.readers import number
from cuecard.answers.schemas import SCRIPT
from cuecard.answers.text.markup import asserted, before_reasons, plain, sentences, unboxed
from cuecard.answers.text.refusals import refuses
from cuecard.domain.errors import MissingExtra
from cuecard.domain.question import Question
from cuecard.worker import START_S, ChildWorker

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


def read(text: str, question: Question) -> Reading:
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
    return _expression(formal[0], question) if len(formal) == 1 else number.read(trimmed, question)


def _inner(formula: re.Match[str]) -> str:
    return next(group for group in formula.groups() if group is not None).strip()


def _expression(text: str, question: Question) -> Reading:
    trimmed = text.strip().rstrip(".,;").strip()
    value = None if _is_tuple(trimmed) or _FACTORIAL.search(trimmed) else number.whole(trimmed)
    if value is not None and not re.search(r"[A-Za-z]\s*=|\\(?:circ|pi)|°|%", trimmed):
        return Answer(trimmed, value)
    if _prose(trimmed):
        return number.read(plain(trimmed), question)
    compact = tidy(trimmed)
    return Answer(trimmed, compact) if re.search(r"[^\W_]|[∞∅]", compact) else Blank.NOTHING


def _is_tuple(text: str) -> bool:
    """Whether a text is a point or an interval: (1,2) is not 1.2."""
    return text[:1] in ("(", "[") and text[-1:] in (")", "]") and "," in text


def _prose(text: str) -> bool:
    """Whether a text contains words other than mathematical ones."""
    words = _PROSE.findall(re.sub(r"\\(?:text|mathrm)\{[^{}]*\}", "", text))
    return any(word.lower() not in _KNOWN_WORDS for word in words)


def tidy(expression: str) -> str:
    r"""A canonical spelling of a formula: no spaces, \frac for \dfrac, ^ for **, \sqrt{2} for √2."""
    for pattern, replacement in _TIDY:
        expression = pattern.sub(replacement, expression)
    return expression.strip().rstrip(".").strip()


LIMIT_S = 2.0
MOST_CHARS = 2_000
"""Maximum length of an expression; a longer one equals no other."""


class Verifier:
    """A child process that compares expressions, one pair at a time, started at its first use."""

    def __init__(self, limit_s: float = LIMIT_S, start_s: float = START_S) -> None:
        self.limit_s = limit_s
        self._worker = ChildWorker(SCRIPT, "maths", start_s=start_s)

    def same(self, truth: str, given: str) -> bool:
        """Whether `given` equals `truth`; False also after a timeout. Raises MissingExtra."""
        if find_spec("math_verify") is None:
            raise MissingExtra("comparing expressions needs math-verify", "pip install '.[maths]' in a checkout")
        try:
            reply, _ = self._worker.do({"truth": truth, "given": given}, self.limit_s)
        except (TimeoutError, EOFError):
            return False
        return bool(reply["same"])

    def close(self) -> None:
        """Stop the child; a later comparison starts another."""
        self._worker.close()


_VERIFIER = Verifier()
atexit.register(_VERIFIER.close)


@lru_cache(maxsize=4096)
def same_expression(truth: str, given: str) -> bool:
    """Whether an expression equals the true one, by math-verify; not symmetric for intervals. Raises MissingExtra."""
    return max(len(truth), len(given)) <= MOST_CHARS and _VERIFIER.same(truth, given)
