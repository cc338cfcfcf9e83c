"""Any text is parsed in time linear in its length, so that no text blocks the event loop."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
import re
import time
from collections.abc import Callable, Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import cuecard.answers
from cuecard.answers import Answer, agree, extract, guess_kind, listed_in, normalise
from cuecard.answers.reasoning_parser import ReasoningParser, Start
from cuecard.answers.text.statements import conclusion
from cuecard.domain.question import AnswerKind, Question
from cuecard.models import prompt as layouts
from cuecard.strategies import acceptance, baselines, card_selection

pytestmark = pytest.mark.slow

LENGTH, MOST_S = 20_000, 0.25
KINDS = list(AnswerKind)
OPTIONS = ("red", "green", "7", "a dog")
QUESTIONS = {
    **{kind.value: Question("Is the sum of row 2 (A) or 7?", options=OPTIONS, kind=kind) for kind in KINDS},
    "numbered": Question("Which one?", options=OPTIONS, labels=("1", "2", "3", "4"), kind=AnswerKind.CHOICE),
    "polar": Question("Is it red?", options=("yes", "no"), kind=AnswerKind.CHOICE),
    "numeric": Question("How many?", options=("1", "2", "15"), kind=AnswerKind.CHOICE),
    "who": Question("Who is the tallest, A or B?", kind=AnswerKind.SHORT_TEXT),
}
REPLY = "There are no dogs in row 2, but 5 cats. It is red, not blue. The cat isn't A because it sits."

FRAGMENTS = [
    *(" ", "\n", "\t", "1", ",", ".", ":", "?", "!", ";", "(", ")", "[", "]", "{", "}", "\\", "$", '"', "'", "-", "*"),
    *(
        "_",
        "#",
        "%",
        "=",
        "<",
        ">",
        "`",
        "^",
        "/",
        "e",
        "a",
        "A",
        "I",
        "答案",
        "是",
        "。",
        "“",
        "½",
        "²",
        "ﷺ",
        "\u200b",
    ),
    *("\u0301\u0323", "1,", "1 ", "1.", "1/", "1 1/", "1e", "1^", "10^", "A,", "A) ", "A. ", "A or ", "1) ", "(a)"),
    *("\\(", "\\[", "$$", "$a", "\\boxed{", "\\frac{1}{", "\\text{", "sqrt(", "√(", "**", "- ", "####\n", "\nA) "),
    *("<answer>", "<think>", "</think>", "<|", "<a", "[INST", "```\n", "```json\n", '{"a": ', "[1,", "x ", "word. "),
    *("Answer:", "the answer is ", "the ", "final ", "option ", "is ", "it's ", "not ", "n't ", "but ", "and ", "or "),
    *("no ", "yes, ", "wait, ", "let me ", "I can't ", "so ", "because ", "as ", "which is ", "what ", "how much do "),
    *("one ", "twenty ", "one hundred and ", "two million, ", "one point ", "a dozen ", "in total ", "area of the "),
]


def timed(read: Callable[[], object]) -> float:
    """CPU seconds, the smaller of two runs, because a run may include garbage collection from other tests."""
    times = []
    for _ in range(2):
        began = time.thread_time()
        read()
        times.append(time.thread_time() - began)
        if times[-1] < MOST_S / 4:
            break
    return min(times)


def repeated(fragment: str, length: int = LENGTH) -> str:
    return (fragment * (length // len(fragment) + 1))[:length]


def parsed(text: str, size: int) -> None:
    parser = ReasoningParser(Start.UNSURE, reasons=True, prose=True)
    for at in range(0, len(text), size):
        parser.feed(text[at : at + size])
    parser.end()


def readings(text: str) -> Iterator[tuple[str, Callable[[], object]]]:
    """(name, call) of every function with which the gateway parses a reply or a question."""
    for name, question in QUESTIONS.items():
        yield f"extract {name}", lambda question=question: extract(text, question)
    yield "guess_kind", lambda: guess_kind(text)
    yield "listed_in", lambda: listed_in(text)
    yield "conclusion", lambda: conclusion(text)
    yield "normalise", lambda: normalise(text)
    yield "neutral", lambda: layouts.neutral(text)
    yield "whole reply", lambda: parsed(text, len(text))
    yield "reply by deltas", lambda: parsed(text, 50)
    if text.strip():
        for kind in KINDS:
            asked = Question(text, options=OPTIONS, kind=kind)
            yield f"question {kind}", lambda asked=asked: extract(REPLY, asked)
        yield "difficulty", lambda: baselines.difficulty(Question(text))


def slow(text: str, most_s: float = MOST_S) -> dict[str, float]:
    return {name: taken for name, read in readings(text) if (taken := timed(read)) >= most_s}


@pytest.mark.parametrize("fragment", FRAGMENTS, ids=repr)
def test_a_repeated_fragment_is_read_in_time(fragment: str) -> None:
    assert slow(repeated(fragment)) == {}


@settings(max_examples=10, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(
    fragment=st.lists(st.sampled_from(FRAGMENTS), min_size=1, max_size=4).map("".join),
    before=st.sampled_from(["", "A", "x", "The answer is ", "<answer>x", "not a", '"', "1", "I think"]),
    after=st.sampled_from(["", "x", "\nx", "!", "\nthe answer is B", "</answer>", "because x", " not x"]),
    length=st.sampled_from([5_900, LENGTH]),
)
def test_repeated_fragments_are_read_in_time(fragment: str, before: str, after: str, length: int) -> None:
    assert slow(before + repeated(fragment, length - 30) + after) == {}


SPACES = " " * 60_000
LONG = {
    "spaces before options": f"What?x{SPACES}\nA) red\nB) blue",
    "spaces before a word and options": f"What?x{SPACES}y\nA) red\nB) blue",
    "spaces behind options": f"What?\nA) red\nB) blue.{SPACES}x",
    "spaces and headings": f"What?{SPACES}x\nOptions:\nA) red\nB) blue",
    "a million option lines": "What?\n" + "A) x\n" * 1_000_000,
    "a million numbered lines": "Which?\n" + "".join(f"{at}) x\n" for at in range(1, 400_000)),
    "four million letters": "What is it? " + "a" * 4_000_000,
    "four million spaces": "a" + " " * 4_000_000 + "How many?",
    "four million words": "how much do " * 350_000,
    "four million control tokens": "<|im_end|>" * 400_000,
}


@pytest.mark.parametrize("name", LONG)
def test_a_long_question_is_understood_in_time(name: str) -> None:
    text = LONG[name]
    found = listed_in(text)
    assert timed(lambda: listed_in(text)) < MOST_S
    assert timed(lambda: guess_kind(found.text, found.options)) < MOST_S
    asked = Question(text, options=OPTIONS, kind=AnswerKind.NUMBER)
    assert timed(lambda: extract(REPLY, asked)) < MOST_S


@pytest.mark.parametrize("option", ["a ", "nine hundred and ", "1", "yes no ", "I cannot tell. "])
@pytest.mark.parametrize("reply", ["The answer is I can't tell what 7 is.\n", "The answer is A, not B.\n", "A "])
def test_many_long_options_are_compared_in_time(reply: str, option: str) -> None:
    options = tuple(f"{repeated(option, 1_990)}{index}" for index in range(26))
    for question in (
        Question("Which?", options=options, kind=AnswerKind.CHOICE),
        Question("Which?", options=options, labels=tuple(map(str, range(1, 27))), kind=AnswerKind.CHOICE),
        Question("Which?", options=options[:2], kind=AnswerKind.CHOICE),
    ):
        assert timed(lambda question=question: extract(reply * 90, question)) < MOST_S


def test_as_much_text_as_the_gateway_takes_is_neutralised_in_time() -> None:
    for fragment in ("<", "[", "<|im_end|>", "<a_", "< "):
        text = repeated(fragment, 400_000)
        assert timed(lambda text=text: layouts.neutral(text)) < 4 * MOST_S


def test_a_question_of_two_answers_is_compared_in_time() -> None:
    for fragment in ("a", "½ ", "1,", "\u0301\u0323"):
        text = repeated(fragment)
        for kind in set(KINDS) - {AnswerKind.MATHS}:
            one, other = Answer(text, text), Answer(text + "x", text + "x")
            question = Question("What?", options=OPTIONS, kind=kind)
            assert timed(lambda one=one, other=other, question=question: agree(one, other, question)) < MOST_S


def test_words_of_a_text_without_spaces_or_with_many_are_found_in_time() -> None:
    for text in ("字" * LENGTH, "a" + " " * LENGTH, " a" * LENGTH):
        assert timed(lambda text=text: list(acceptance._WHOLE_WORD.finditer(text))) < MOST_S
        assert timed(lambda text=text: card_selection.words(text)) < MOST_S


# --- what a bound costs -----------------------------------------------------------------------------------------------

FILLER = "The bar is tall. " * 1_500


def test_in_a_very_long_reply_only_a_final_answer_at_its_end_counts() -> None:
    number, polar = QUESTIONS["number"], QUESTIONS["yes_no"]
    assert extract(f"{FILLER}So the answer is 7.", number).value == 7
    assert not extract(f"{FILLER}The answer is 7.", number).parsed
    assert not extract(f"The final answer is 7. {FILLER}", number).parsed
    assert not extract(f"Yes. {FILLER}", polar).parsed


def test_a_long_reply_without_a_mark_gives_no_answer() -> None:
    assert not extract(f"There are 7. {FILLER[:6_000]}", QUESTIONS["number"]).parsed


def test_more_marks_than_are_compared_give_no_answer() -> None:
    assert extract("The answer is 7.\n" * 90, QUESTIONS["number"]).value == 7
    assert not extract("The answer is 7.\n" * 200, QUESTIONS["number"]).parsed


def test_a_long_free_text_is_kept_whole_and_compared_whole() -> None:
    question = QUESTIONS["free_text"]
    middle = extract(f"{FILLER}It is red. {FILLER}", question)
    assert middle.text == f"{FILLER}It is red. {FILLER}".strip()
    assert not agree(middle, extract(f"{FILLER}It is blue. {FILLER}", question), question)


def test_a_long_json_answer_is_read_whole() -> None:
    reply = '{"a": [' + "1, " * 10_000 + "2]}"
    assert extract(reply, QUESTIONS["json"]).text == reply


def test_an_answer_taken_back_after_a_wide_gap_is_seen() -> None:
    assert extract(f"The answer is 7.{' ' * 500}Wait, that is wrong.", QUESTIONS["number"]).parsed is False


def test_decimals_in_words_are_bounded() -> None:
    assert not extract("one point " + "one " * 5_000, QUESTIONS["number"]).parsed


# --- every pattern ----------------------------------------------------------------------------------------------------

_SEARCHING = re.compile(r"\.(?:search|finditer|findall|sub|split)\(")


def _patterns() -> Iterator[tuple[str, re.Pattern[str], bool]]:
    """(name, pattern, whether it is searched anywhere in a text) of every compiled pattern in `cuecard.answers`."""

    def within(value: object) -> Iterator[re.Pattern[str]]:
        if isinstance(value, re.Pattern):
            yield value
        elif isinstance(value, tuple | dict):
            for each in value.values() if isinstance(value, dict) else value:
                yield from within(each)

    for found in pkgutil.walk_packages(cuecard.answers.__path__, "cuecard.answers."):
        module = importlib.import_module(found.name)
        source = inspect.getsource(module)
        for name, value in vars(module).items():
            used = re.findall(rf"\b{name}(\.\w+\()", source)
            anywhere = not used or any(map(_SEARCHING.match, used))
            for index, pattern in enumerate(within(value)):
                yield f"{found.name.rpartition('.')[2]}.{name}[{index}]", pattern, anywhere


PATTERNS = {name: (pattern, anywhere) for name, pattern, anywhere in _patterns()}


def test_there_are_patterns() -> None:
    assert len(PATTERNS) > 100


@pytest.mark.parametrize("name", PATTERNS)
def test_no_pattern_takes_quadratic_time(name: str) -> None:
    pattern, anywhere = PATTERNS[name]
    slowest = {}
    for fragment in FRAGMENTS[::2]:
        text = repeated(fragment, 3_000)
        if anywhere:
            taken = timed(lambda text=text: sum(1 for _ in pattern.finditer(text)))
        else:
            taken = timed(lambda text=text: (pattern.match(text), pattern.fullmatch(text)))
        if taken > 0.02:
            slowest[fragment] = taken
    assert slowest == {}
