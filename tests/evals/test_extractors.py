"""Three extractors on the same replies: the strictest, ours, and VLMEvalKit's as documented."""

from __future__ import annotations

import pytest

from cuecard.domain.question import AnswerKind, Question
from cuecard.evals.scorers import EXTRACTORS, ours, strict, vlmevalkit

FRUIT = Question(
    "What is in the picture?", options=("a red apple", "a banana", "clouds", "a dog"), kind=AnswerKind.CHOICE
)
THERE = Question("Is there a dog?", kind=AnswerKind.YES_NO)
COUNT = Question("How many dogs are there?", kind=AnswerKind.NUMBER)
COLOUR = Question("Which colour is the dog?", kind=AnswerKind.SHORT_TEXT)

# Replies that parsers disagree about: (reply, a careful reader's answer, VLMEvalKit's observed answer).
TRAPS = [
    ("The answer is B. Note that option A is a common distractor.", "B", "B"),
    ("First I thought the answer is A, but after checking, the answer is D.", "D", "A"),
    ("The answer is clearly D because A, B and C are wrong.", "D", "C"),
    ("I considered (A), but it is incorrect. Final answer: D.", "D", None),
    ("Option A shows an apple. Option B shows a banana. Wait, maybe I should look at the", None, None),
    ("<think>Looks like A. Let me check B and C and then D", None, None),
]


@pytest.mark.parametrize(("reply", "meant", "seen"), TRAPS, ids=[reply[:30] for reply, _, _ in TRAPS])
def test_vlmevalkits_reading_has_its_known_slips_and_ours_has_not(reply, meant, seen):
    assert vlmevalkit(reply, FRUIT) == seen
    assert ours(reply, FRUIT) in (meant, None)  # never a different answer


@pytest.mark.parametrize("name", EXTRACTORS)
@pytest.mark.parametrize(
    ("reply", "question", "found"),
    [
        ("B", FRUIT, "B"),
        ("a banana", FRUIT, "B"),
        ("Yes.", THERE, "yes"),
        ("3", COUNT, "3"),
        ("brown", COLOUR, "brown"),
        ("", FRUIT, None),
        ("", COLOUR, None),
    ],
)
def test_all_extractors_find_an_answer_that_stands_alone_and_none_in_nothing(name, reply, question, found):
    assert EXTRACTORS[name](reply, question) == found


@pytest.mark.parametrize("reply", ["(B)", "B.", "B)", "[B]", "A banana."])
def test_strict_takes_a_letter_in_its_brackets_and_an_options_words(reply):
    assert strict(reply, FRUIT) == "B"


@pytest.mark.parametrize(
    ("reply", "question"),
    [
        ("The answer is B", FRUIT),
        ("E", FRUIT),
        ("AB", FRUIT),
        ("Yes, there is", THERE),
        ("There are 3", COUNT),
        ("brown\nbecause it is", COLOUR),
    ],
)
def test_strict_takes_only_the_bare_answer(reply, question):
    assert strict(reply, question) is None


def test_vlmevalkit_takes_the_only_letter_only_near_the_end():
    assert vlmevalkit("I would say it is B", FRUIT) == "B"
    assert vlmevalkit("B is what I would say about that picture here", FRUIT) is None


def test_vlmevalkit_takes_the_one_option_that_a_short_reply_contains():
    assert vlmevalkit("I see a banana there", FRUIT) == "B"
    assert vlmevalkit("I see a banana and clouds", FRUIT) is None
    assert vlmevalkit("I see a banana" + " and more of it" * 10, FRUIT) is None


def test_vlmevalkit_wants_one_of_yes_and_no():
    assert vlmevalkit("No, there is none.", THERE) == "no"
    assert vlmevalkit("Yes and no", THERE) is None


def test_unfinished_thinking_is_no_answer_to_us():
    assert ours("<think>It is 3, no, 4", COUNT) is None
