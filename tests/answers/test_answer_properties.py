"""Properties of extraction, agreement and scores for any text."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cuecard.answers import UNPARSED, agree, anls, extract, guess_kind, normalise, options_in, score
from cuecard.domain.question import AnswerKind, Question

KINDS = list(AnswerKind)
QUESTIONS = {
    kind: Question("Is the sum of row 2 (A) or 7?", options=("red", "green", "7", "a dog"), kind=kind) for kind in KINDS
}
CHEAP = [kind for kind in KINDS if kind is not AnswerKind.MATHS]
PIECES = st.sampled_from(
    [
        *(
            "A",
            "B",
            "(C)",
            "option",
            "answer",
            "the answer is",
            "Answer:",
            "final",
            "so",
            "not",
            "but",
            "or",
            "and",
            "yes",
            "no",
        ),
        *(
            "7",
            "7.5",
            "1,234",
            "-3",
            "3/4",
            "%",
            "$",
            "twenty",
            "one",
            "hundred",
            "=",
            "red",
            "green",
            "a dog",
            "is",
            "because",
        ),
        *(
            "\\boxed{",
            "}",
            "<think>",
            "</think>",
            "<answer>",
            "</answer>",
            "**",
            "\n",
            ".",
            ",",
            ":",
            "?",
            '"',
            "是",
            "нет",
            "हाँ",
        ),
        *(
            "I cannot determine",
            "wait,",
            "between",
            "row 2",
            "10^",
            "\\frac{1}{2}",
            "(",
            ")",
            "½",
            "٣",
            "\u200b",
            "1e9",
        ),
    ]
)
REPLIES = st.one_of(
    st.text(max_size=200), st.lists(PIECES, max_size=25).map(" ".join), st.lists(PIECES, max_size=12).map("".join)
)
WIDE = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@WIDE
@given(reply=REPLIES, kind=st.sampled_from(KINDS))
def test_extraction_takes_any_text(reply: str, kind: AnswerKind) -> None:
    answer = extract(reply, QUESTIONS[kind])
    assert answer == extract(reply, QUESTIONS[kind])
    assert answer.parsed or answer == UNPARSED
    assert not answer.parsed or answer.text.strip() == answer.text


@WIDE
@given(reply=REPLIES, kind=st.sampled_from(KINDS))
def test_thinking_that_is_not_closed_never_gives_an_answer(reply: str, kind: AnswerKind) -> None:
    if "/think" not in reply.lower():
        assert not extract(f"<think>{reply}", QUESTIONS[kind]).parsed


@WIDE
@given(one=REPLIES, other=REPLIES, kind=st.sampled_from(CHEAP))
def test_agreement_is_symmetric_and_every_parsed_answer_agrees_with_itself(
    one: str, other: str, kind: AnswerKind
) -> None:
    question = QUESTIONS[kind]
    a, b = extract(one, question), extract(other, question)
    assert agree(a, b, question) == agree(b, a, question)
    assert agree(a, a, question) == a.parsed
    assert not agree(UNPARSED, a, question)
    assert not agree(b, UNPARSED, question)


@settings(max_examples=25, deadline=None)
@given(
    one=st.sampled_from(
        ["4", "x=4", "0.5", "2x+1", "1+2x", "x<3", "(1,2)", "(-\\infty,3]", "x \\le 3", "no solution", "\\pm 2"]
    ),
    other=st.sampled_from(
        ["4", "x = 4", "\\frac{1}{2}", "2*x+1", "x+x+1", "3>x", "[1,2]", "x \\le 3", "\\{2, -2\\}", "\\infty"]
    ),
)
def test_agreement_in_mathematics_is_symmetric(one: str, other: str) -> None:
    question = QUESTIONS[AnswerKind.MATHS]
    a, b = extract(one, question), extract(other, question)
    assert a.parsed
    assert b.parsed
    assert agree(a, b, question) == agree(b, a, question)


@WIDE
@given(reply=REPLIES, truths=st.lists(REPLIES, max_size=3), kind=st.sampled_from(CHEAP), tolerance=st.floats(0, 1))
def test_a_score_lies_between_0_and_1_and_is_0_without_an_answer(
    reply: str, truths: list[str], kind: AnswerKind, tolerance: float
) -> None:
    answer = extract(reply, QUESTIONS[kind])
    points = score(answer, truths, QUESTIONS[kind], tolerance=tolerance)
    assert 0.0 <= points <= 1.0
    assert answer.parsed or points == 0.0


@WIDE
@given(one=REPLIES, other=REPLIES)
def test_anls_lies_between_0_and_1_and_is_1_for_the_truth(one: str, other: str) -> None:
    assert 0.0 <= anls(one, [other]) <= 1.0
    assert anls(one, [other, one]) == 1.0


@WIDE
@given(text=REPLIES)
def test_normalising_twice_changes_nothing(text: str) -> None:
    assert normalise(normalise(text)) == normalise(text)


@WIDE
@given(text=REPLIES)
def test_any_question_has_a_kind_and_a_list_of_options_that_a_choice_can_hold(text: str) -> None:
    stem, options = options_in(text)
    assert len(options) in (0, *range(2, 27))
    assert (stem == text) if not options else stem.strip()
    assert guess_kind(stem, options) in AnswerKind
    assert (guess_kind(stem, options) is AnswerKind.CHOICE) == bool(options)
