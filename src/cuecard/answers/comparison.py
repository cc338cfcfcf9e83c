"""Whether two answers are the same, and whether one is the true one; days, quantities and expressions included.

math-verify compares two expressions that differ, in a process of its own: it stops long work with SIGALRM, which works
in the main thread only (its issue 55) and not inside one long integer operation (issue 65: 9^9^9^9). Here it runs
without a timeout in a child process that is killed after LIMIT_S; the next comparison starts a new one. The first
comparison takes about a second (SymPy's import), later ones milliseconds. It blocks the caller: coroutines use
`answers.same_answer`, which awaits a thread.
"""

from __future__ import annotations

import atexit
import re
from datetime import date
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec

from cuecard.answers import number
from cuecard.answers.answer import Answer, Value
from cuecard.answers.schemas import SCRIPT
from cuecard.answers.text.markup import anls, normalise, similarity
from cuecard.answers.text.units import PERCENT_SIGN, in_base
from cuecard.domain.errors import MissingExtra
from cuecard.worker import START_S, ChildWorker

# --- two answers ------------------------------------------------------------------------------------------------------


def same_value(one: Answer, other: Answer, tolerance: float, similar: float) -> bool:
    """Whether the values are equal."""
    return one.value == other.value


def same_quantity(one: Answer, other: Answer, tolerance: float, similar: float) -> bool:
    """Whether two numbers are equal, or within `tolerance` of the larger one.

    If both have units, they are converted: 1 m equals 100 cm, but not 1 kg. A number without a unit equals any unit.
    """
    a, b = one.value, other.value
    if not isinstance(a, Fraction) or not isinstance(b, Fraction):
        return False
    together = _in_one_unit((a, number.unit_of(one.text)), (b, number.unit_of(other.text)))
    return together is not None and _close(*together, tolerance, max(map(abs, together)))


def same_words(one: Answer, other: Answer, tolerance: float, similar: float) -> bool:
    """Whether two texts are the same words, number or day, or reach `similar` (1 - normalised Levenshtein distance)."""
    a, b = str(one.value), str(other.value)
    return a == b or same_text(one.text, other.text) or (similar < 1.0 and similarity(a, b) >= similar)


def same_maths(one: Answer, other: Answer, tolerance: float, similar: float) -> bool:
    """Whether two expressions are equal, with either of them as the truth. Raises MissingExtra."""
    return _true_maths(one, other) or _true_maths(other, one)


def needs_maths(one: Answer, other: Answer) -> bool:
    """Whether only math-verify can decide if two expressions are equal: neither values nor spellings suffice."""
    return _by_value(one, other) is None


def same_text(one: str, other: str) -> bool:
    """Whether two texts are one quantity or one day, like "2" and "two", "1 m" and "100 cm", "12 May 2021"."""
    days = date_of(one), date_of(other)
    if days[0] is not None and days[0] == days[1]:
        return True
    (a, unit), (b, other_unit) = number.quantity(one), number.quantity(other)
    together = None if a is None or b is None else _in_one_unit((a, unit), (b, other_unit))
    return together is not None and together[0] == together[1]


# --- an answer and the truth ------------------------------------------------------------------------------------------


def right_value(given: Answer, truth: str, true: Answer, tolerance: float) -> float:
    """1 for the same value, else 0."""
    return float(given.value == true.value)


def right_number(given: Answer, truth: str, true: Answer, tolerance: float) -> float:
    """1 within the tolerance of the truth, else 0. If one of the two has a percent sign, both readings of it count.

    If both have other units, they are converted: 100 m is not the truth "100 cm", and 1 m is.
    ChartQA reads 45% as 0.45; its truths, and those of other benchmarks, also use 45 for a label of 45%.
    """
    number_given, number_true = given.value, true.value
    if not isinstance(number_given, Fraction) or not isinstance(number_true, Fraction):
        return float(normalise(given.text) == normalise(truth))
    signs = [PERCENT_SIGN.search(text) is not None for text in (given.text, truth)]
    if not any(signs):
        together = _in_one_unit((number_given, number.unit_of(given.text)), (number_true, number.unit_of(truth)))
        return float(together is not None and _close(*together, tolerance, together[1]))
    other_reading = number_given / 100 if signs[0] else number_given * 100
    readings = [number_given, other_reading] if signs[0] != signs[1] else [number_given]
    return float(any(_close(reading, number_true, tolerance, number_true) for reading in readings))


def right_words(given: Answer, truth: str, true: Answer, tolerance: float) -> float:
    """1 for the same words, number or day; else ANLS with threshold 0.5."""
    same = given.value == normalise(truth) or same_text(given.text, truth)
    return 1.0 if same else anls(given.text, [truth])


def right_maths(given: Answer, truth: str, true: Answer, tolerance: float) -> float:
    """1 for the true expression, else 0. Raises MissingExtra."""
    return float(true.parsed and _true_maths(true, given))


# --- numbers, expressions, days ---------------------------------------------------------------------------------------


def _in_one_unit(
    one: tuple[Fraction, str | None], other: tuple[Fraction, str | None]
) -> tuple[Fraction, Fraction] | None:
    """Two quantities in one unit if both have one, else their values; None for units that cannot be compared."""
    (a, unit), (b, other_unit) = one, other
    if unit is None or other_unit is None:
        return a, b
    (base, a), (other_base, b) = in_base(a, unit), in_base(b, other_unit)
    return (a, b) if base == other_base else None


def _close(one: Fraction, other: Fraction, tolerance: float, scale: Fraction) -> bool:
    """Whether two numbers differ by at most `tolerance` times |scale|."""
    return one == other or abs(one - other) <= Fraction(str(tolerance)) * abs(scale)


def _true_maths(truth: Answer, given: Answer) -> bool:
    """Whether an expression equals the true one: by value or spelling, else by math-verify. Raises MissingExtra."""
    known = _by_value(truth, given)
    return same_expression(_spelled(truth), _spelled(given)) if known is None else known


def _by_value(one: Answer, other: Answer) -> bool | None:
    """Whether two expressions are equal by their values or spellings; None if only math-verify can decide."""
    a, b = one.value, other.value
    if len(_variables(a) | _variables(b)) == 1:
        a, b = _solved(a), _solved(b)
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        together = _in_one_unit((a, number.unit_of(one.text)), (b, number.unit_of(other.text)))
        return together is not None and together[0] == together[1]
    return True if a == b else None


_SOLVED = re.compile(r"(?:^|(?<=,))([a-z])=(?=[^=]+$|[^=,]+,)")


def _variables(value: Value | None) -> set[str]:
    """The variables of a solution: x of x=2,x=3."""
    return set(_SOLVED.findall(value)) if isinstance(value, str) else set()


def _solved(value: Value | None) -> Value | None:
    """The values of a solution in one variable: 4 of x=4; other values unchanged."""
    if not isinstance(value, str) or len(_variables(value)) != 1:
        return value
    bare = _SOLVED.sub("", value)
    whole = None if "," in bare else number.whole(bare)
    return bare if whole is None else whole


def _spelled(answer: Answer) -> str:
    value = answer.value
    if isinstance(value, Fraction):
        return str(value.numerator) if value.denominator == 1 else rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return value or ""


_NAMES = """january jan
february feb
march mar
april apr
may
june jun
july jul
august aug
september sep sept
october oct
november nov
december dec"""
_MONTHS = {name: month for month, names in enumerate(_NAMES.split("\n"), start=1) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_FORMS = (
    re.compile(r"(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?)"),
    re.compile(rf"(?:the )?(?P<day>\d\d?)(?:st|nd|rd|th|\.)?(?: of)? (?P<month>{_MONTH})\.?,? (?P<year>\d{{4}})"),
    re.compile(rf"(?P<month>{_MONTH})\.? (?:the )?(?P<day>\d\d?)(?:st|nd|rd|th)?,? (?P<year>\d{{4}})"),
)


def date_of(text: str) -> date | None:
    """The day of a text that consists of a date only; None for other texts."""
    compact = " ".join(text.lower().split()).strip(" .")
    for form in _FORMS:
        found = form.fullmatch(compact)
        if found is not None:
            month = int(found["month"]) if found["month"].isdigit() else _MONTHS[found["month"]]
            try:
                return date(int(found["year"]), month, int(found["day"]))
            except ValueError:
                return None
    return None


# --- math-verify ------------------------------------------------------------------------------------------------------


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
