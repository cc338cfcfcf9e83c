"""Replies of the corpus: how many are read right, and how many wrong, in both parts."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import pytest

from cuecard.answers import Answer, agree, extract
from cuecard.answers.kinds import KINDS
from cuecard.domain.question import AnswerKind, Question

CORPUS = Path(__file__).parent / "corpus"
sys.path.insert(0, str(CORPUS))

from generate import replies  # noqa: E402
from measure import Case, cases, measure  # noqa: E402

RIGHT, WRONG = 0.98, 0.003
"""The least share of replies read right, and the largest share read wrong."""


@pytest.mark.parametrize("part", ["develop", "held_out"])
def test_at_least_98_percent_are_read_right_and_at_most_3_in_1000_wrong(part: str) -> None:
    counts, _ = measure(part)
    assert counts.total() >= 1_300
    assert counts["right"] >= RIGHT * counts.total(), dict(counts)
    assert counts["wrong"] <= WRONG * counts.total(), dict(counts)


@pytest.mark.parametrize("part", ["develop", "held_out"])
def test_the_stored_replies_are_those_that_the_generator_writes(part: str) -> None:
    stored = [(case.reply, case.value) for case in cases(part)]
    made = [(row["reply"], row["value"]) for row in replies(part)]
    assert stored[: len(made)] == made


def test_no_wording_of_the_held_out_part_is_one_of_the_other() -> None:
    developed = {case.reply for case in cases("develop") if len(case.reply.split()) > 3}
    shared = [case.reply for case in cases("held_out") if case.reply in developed]
    assert len(shared) <= 5, shared


def test_answers_of_different_values_never_agree() -> None:
    by_question: dict[Question, dict[str, list[Answer]]] = {}
    for case in [*cases("develop"), *cases("held_out")]:
        found = extract(case.reply, case.question)
        if found.parsed and case.question.kind is not AnswerKind.MATHS:
            by_question.setdefault(case.question, {}).setdefault(str(found.value), []).append(found)
    for question, values in by_question.items():
        one_each = [answers[0] for answers in values.values()]
        same = [(a, b) for a in one_each for b in one_each if a is not b and agree(a, b, question)]
        assert [pair for pair in same if not _same_quantity(*pair, question)] == []


def _same_quantity(one: Answer, other: Answer, question: Question) -> bool:
    """Whether the two differ only in units: 1.5 m and 150 cm."""
    return question.kind is AnswerKind.NUMBER and one.text[-1:].isalpha() and other.text[-1:].isalpha()


def test_a_reply_ten_times_as_long_takes_at_most_about_ten_times_as_long_to_read() -> None:
    by_kind = {case.question.kind: case for case in cases("develop") if case.question.kind is not AnswerKind.MATHS}
    assert set(by_kind) <= set(KINDS)
    for case in by_kind.values():
        short, long = (_taken_s(case, f"{case.reply} " * count) for count in (40, 400))
        assert long < 20 * short + 0.05, case


def _taken_s(case: Case, reply: str) -> float:
    times = []
    for _ in range(3):
        began = time.thread_time()
        extract(reply, case.question)
        times.append(time.thread_time() - began)
    return min(times)
