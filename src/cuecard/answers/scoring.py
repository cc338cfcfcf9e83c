"""How right an answer is, from 0 to 1, by the rule that its kind of question is usually scored with."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from cuecard.answers.agreement import close, same_maths, same_text
from cuecard.answers.answer import Answer
from cuecard.answers.extraction import extract
from cuecard.answers.text.similarity import anls, normalise
from cuecard.answers.text.units import PERCENT_SIGN
from cuecard.domain.question import AnswerKind, Question


def score(answer: Answer, truths: Sequence[str], question: Question, *, tolerance: float = 0.05) -> float:
    """How well an answer meets the nearest of the truths, in [0, 1]; 0 if it is unparseable.

    Choices, yes and no: equal or not; a truth may be a letter or an option's words. Numbers: relaxed accuracy, within
    `tolerance` of the truth (5% in Masry et al., "ChartQA", 2022; a truth of 0 must be met). Short and free text: ANLS
    with threshold 0.5 (Biten et al., 2019), 1 for the same words, number or date. Maths: math-verify (raises
    MissingExtra).
    """
    if answer.value is None:
        return 0.0
    return max((_against(answer, truth, question, tolerance) for truth in truths), default=0.0)


def _against(answer: Answer, truth: str, question: Question, tolerance: float) -> float:
    match question.kind:
        case AnswerKind.NUMBER:
            return float(_near(answer, truth, question, tolerance))
        case AnswerKind.SHORT_TEXT | AnswerKind.FREE_TEXT:
            same = answer.value == normalise(truth) or same_text(answer.text, truth)
            return 1.0 if same else anls(answer.text, [truth])
        case AnswerKind.MATHS:
            true = extract(truth, question)
            return float(true.parsed and same_maths(true, answer))
        case _:
            return float(answer.value == extract(truth, question).value)


def _near(answer: Answer, truth: str, question: Question, tolerance: float) -> bool:
    """Within the tolerance of the truth. Where one of the two has a percent sign, both readings of it count.

    ChartQA reads 45% as 0.45; its truths, and those of others, also say 45 for what a chart labels 45%.
    """
    given, true = answer.value, extract(truth, question).value
    if not isinstance(given, Fraction) or not isinstance(true, Fraction):
        return normalise(answer.text) == normalise(truth)
    signs = [PERCENT_SIGN.search(text) is not None for text in (answer.text, truth)]
    readings = [given, given / 100 if signs[0] else given * 100] if signs[0] != signs[1] else [given]
    return any(close(reading, true, tolerance, true) for reading in readings)
