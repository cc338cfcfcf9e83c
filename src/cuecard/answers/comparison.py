"""Whether two answers are the same, and whether one is the true one; days, quantities and expressions included.

math-verify compares two expressions that differ, in a process of its own: it stops long work with SIGALRM, which works
in the main thread only (its issue 55) and not inside one long integer operation (issue 65: 9^9^9^9). Here it runs
without one in a child process that ends after LIMIT_S of CPU time; the next comparison starts a new one. The first
comparison takes about a second (SymPy's import), later ones milliseconds. It blocks the caller: coroutines use
`answers.same_answer`, which awaits a thread.
"""

from __future__ import annotations

import re
from datetime import date
from fractions import Fraction
from functools import lru_cache
from importlib.util import find_spec

from cuecard.answers import number
from cuecard.answers.schemas import SCRIPT
from cuecard.answers.text.markup import LANGUAGES, anls, normalise, similarity
from cuecard.answers.text.units import PERCENT_SIGN, in_base
from cuecard.domain.errors import MissingExtra
from cuecard.domain.question import Answer
from cuecard.worker import ChildWorker

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


def same_text(one: str, other: str) -> bool:
    """Whether two texts are one quantity or one day, like "2" and "two", "1 m" and "100 cm", "12 May 2021"."""
    days = date_of(one), date_of(other)
    if days[0] is not None and days[0] == days[1]:
        return True
    (a, unit), (b, other_unit) = number.quantity(one), number.quantity(other)
    return a is not None and b is not None and _equal((a, unit), (b, other_unit))


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


def _equal(one: tuple[Fraction, str | None], other: tuple[Fraction, str | None]) -> bool:
    together = _in_one_unit(one, other)
    return together is not None and together[0] == together[1]


def _close(one: Fraction, other: Fraction, tolerance: float, scale: Fraction) -> bool:
    """Whether two numbers differ by at most `tolerance` times |scale|."""
    return one == other or abs(one - other) <= Fraction(str(tolerance)) * abs(scale)


_SOLVED = re.compile(r"(?:^|(?<=,))([a-z])=(?=[^=]+$|[^=,]+,)")


def _true_maths(truth: Answer, given: Answer) -> bool:
    """Whether an expression equals the true one: by value or spelling, else by math-verify. Raises MissingExtra."""
    a, b = truth.value, given.value
    if len({variable for value in (a, b) if isinstance(value, str) for variable in _SOLVED.findall(value)}) == 1:
        a, b = _solved(a), _solved(b)
    if isinstance(a, Fraction) and isinstance(b, Fraction):
        return _equal((a, number.unit_of(truth.text)), (b, number.unit_of(given.text)))
    return a == b or same_expression(_spelled(truth.value), _spelled(given.value))


def _solved(value: str | Fraction | None) -> str | Fraction | None:
    """The values of a solution in one variable: 4 of x=4; other values unchanged."""
    bare = _SOLVED.sub("", value) if isinstance(value, str) else value
    if bare == value or not isinstance(bare, str) or "," in bare:
        return bare
    whole = number.whole(bare)
    return bare if whole is None else whole


def _spelled(value: str | Fraction | None) -> str:
    if isinstance(value, Fraction) and value.denominator != 1:
        return rf"\frac{{{value.numerator}}}{{{value.denominator}}}"
    return "" if value is None else str(value)


_NAMES = LANGUAGES["en"]["months"].split(",")
_MONTHS = {name: month for month, names in enumerate(_NAMES, start=1) for name in names.split()}
_MONTH = "|".join(sorted(_MONTHS, key=len, reverse=True))
_FORMS = (
    re.compile(r"(?P<year>\d{4})-(?P<month>\d\d?)-(?P<day>\d\d?)"),
    re.compile(rf"(?:the )?(?P<day>\d\d?)(?:st|nd|rd|th|\.)?(?: of)? (?P<month>{_MONTH})\.?,? (?P<year>\d{{4}})"),
    re.compile(rf"(?P<month>{_MONTH})\.? (?:the )?(?P<day>\d\d?)(?:st|nd|rd|th)?,? (?P<year>\d{{4}})"),
)


def date_of(text: str) -> date | None:
    """The day of a text that consists of a date only; None for other texts."""
    compact = " ".join(text.lower().split()).strip(" .")
    found = next(filter(None, (form.fullmatch(compact) for form in _FORMS)), None)
    if found is None:
        return None
    month = _MONTHS.get(found["month"]) or int(found["month"])
    try:
        return date(int(found["year"]), month, int(found["day"]))
    except ValueError:
        return None


# --- math-verify ------------------------------------------------------------------------------------------------------


LIMIT_S, LATE_S = 2.0, 20.0
"""Maximum CPU time of a comparison, and elapsed time, so that results do not depend on how busy the machine is."""
MOST_CHARS = 2_000
"""Maximum length of an expression; a longer one equals no other."""
WORKER = ChildWorker(SCRIPT, "maths")


@lru_cache(maxsize=4096)
def same_expression(truth: str, given: str) -> bool:
    """Whether an expression equals the true one, by math-verify; not symmetric for intervals. Raises MissingExtra."""
    return max(len(truth), len(given)) <= MOST_CHARS and verify(truth, given)


def verify(truth: str, given: str, limit_s: float = LIMIT_S) -> bool:
    """As `same_expression`, without a cache or a maximum length; False also after `limit_s` of CPU time."""
    if find_spec("math_verify") is None:
        raise MissingExtra("comparing expressions needs math-verify", "pip install '.[maths]' in a checkout")
    try:
        return bool(WORKER.do({"truth": truth, "given": given, "limit_s": limit_s}, LATE_S)[0]["same"])
    except (TimeoutError, EOFError):
        return False
