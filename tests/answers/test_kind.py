"""The kind of answer that a question requests, and the options that its text lists."""

from __future__ import annotations

import pytest

from cuecard.answers import extract, guess_kind, listed_in, options_in
from cuecard.domain.question import AnswerKind, Question

KINDS = [
    ("How many red digits are there?", "number"),
    ("how many dogs are in the picture", "number"),
    ("How many apples or pears are there?", "number"),
    ("How much does the coffee cost?", "number"),
    ("How old is the tree?", "number"),
    ("What is the sum of the digits in row 2?", "number"),
    ("What is the total number of people?", "number"),
    ("What is the difference between the highest and the lowest value?", "number"),
    ("What is the average of the blue bars?", "number"),
    ("What percentage of people like tea?", "number"),
    ("In what year was the bridge built?", "number"),
    ("Start at cell 2. Which digit is in cell 2?", "number"),
    ("Start at cell 5 and jump 3 times. Which digit do you reach?", "number"),
    ("Which number is larger?", "number"),
    ("What is 12 * 7?", "number"),
    ("What's the value of the red bar in 2010?", "number"),
    ("Calculate the area of the rectangle.", "number"),
    ("Count the circles.", "number"),
    ("Can you tell me how many cats there are?", "number"),
    ("How many dogs are there? Answer the question using a single word or phrase.", "number"),
    ("What is shown on the dial? Answer with a number only.", "number"),
    ("Wie viele Hunde sind auf dem Bild?", "number"),
    ("¿Cuántos perros hay?", "number"),
    ("图中有多少只狗？", "number"),
    ("Is the digit in cell 3 larger than the digit in cell 4?", "yes_no"),
    ("Start at cell 5 and jump 3 times. Is the digit you reach red?", "yes_no"),
    ("Are there any dogs?", "yes_no"),
    ("Does the man wear a hat?", "yes_no"),
    ("Do the lines cross", "yes_no"),
    ("Can you see a dog?", "yes_no"),
    ("Has the train left?", "yes_no"),
    ("Was the photo taken at night?", "yes_no"),
    ("Isn't this a cat?", "yes_no"),
    ("Is there a blue shape in the image?", "yes_no"),
    ("In the picture, is the cat black?", "yes_no"),
    ("According to the chart, does the blue line rise?", "yes_no"),
    ("Is the cat black? Answer the question using a single word or phrase.", "yes_no"),
    ("The sky is green. Answer yes or no.", "yes_no"),
    ("Look at the chart. Does it rise? Please answer yes or no.", "yes_no"),
    ("The cat is black, true or false?", "yes_no"),
    ("Is it red or not?", "yes_no"),
    ("Are there five or more dogs?", "yes_no"),
    ("这是一只猫吗？", "yes_no"),
    ("Is the car red or blue?", "short_text"),
    ("Is there a circle or a square?", "short_text"),
    ("What colour is the digit in cell 5?", "short_text"),
    ("Start at cell 5 and jump 3 times. What colour is the digit you reach?", "short_text"),
    ("what color is the car", "short_text"),
    ("What is the colour of the car?", "short_text"),
    ("Which shape is at the top?", "short_text"),
    ("What shape is present?", "short_text"),
    ("Which country has the highest value?", "short_text"),
    ("Who wrote this book?", "short_text"),
    ("Where is the cat?", "short_text"),
    ("When does the shop open?", "short_text"),
    ("What is the name of the street?", "short_text"),
    ("What does the sign say?", "short_text"),
    ("What is written on the door?", "short_text"),
    ("What is the phone number of the shop?", "short_text"),
    ("What is the license plate number?", "short_text"),
    ("What is the man holding? Answer in a single word.", "short_text"),
    ("Name the animal.", "short_text"),
    ("Describe the scene in one word.", "short_text"),
    ("What is the man holding?", "free_text"),
    ("Describe the image.", "free_text"),
    ("Please describe this picture in detail.", "free_text"),
    ("Can you describe the image?", "free_text"),
    ("Could you explain how the machine works?", "free_text"),
    ("Explain the joke.", "free_text"),
    ("Why is the man laughing?", "free_text"),
    ("Is the sky blue? Why?", "free_text"),
    ("Is there a dog? Explain your answer.", "free_text"),
    ("Write a poem about this picture.", "free_text"),
    ("How do I fix this?", "free_text"),
    ("How does the chart change over time?", "free_text"),
    ("What is the difference between a cat and a dog?", "free_text"),
    ("What do you see?", "free_text"),
    ("What is happening here?", "free_text"),
    ("Summarise the table.", "free_text"),
    ("Do not guess.", "free_text"),
    ("Hello", "free_text"),
    ("", "free_text"),
]

LISTS = [
    ("Which colour? A. red B. green C. blue", "Which colour?", ("red", "green", "blue")),
    ("Which colour?\nA. red\nB. green\nC. blue", "Which colour?", ("red", "green", "blue")),
    ("Which colour?\nA) red\nB) green", "Which colour?", ("red", "green")),
    ("Which colour?\n(A) red\n(B) green", "Which colour?", ("red", "green")),
    ("Which colour? (a) red (b) green", "Which colour?", ("red", "green")),
    ("Which colour? (A) red, (B) green, or (C) blue?", "Which colour?", ("red", "green", "blue")),
    ("Which colour? A: red; B: green; C: blue.", "Which colour?", ("red", "green", "blue")),
    ("Which colour?\nOptions:\nA. red\nB. green", "Which colour?", ("red", "green")),
    ("Which colour?\n\n**Options:**\n- A. red\n- B. green", "Which colour?", ("red", "green")),
    ("Which colour?\na) red\nb) green", "Which colour?", ("red", "green")),
    (
        "Which colour?\nA. red\nB. green\nAnswer with the option's letter from the given choices directly.",
        "Which colour?\nAnswer with the option's letter from the given choices directly.",
        ("red", "green"),
    ),
    (
        "Which one? A. the red car B. the blue car. Answer with the letter only.",
        "Which one?\nAnswer with the letter only.",
        ("the red car", "the blue car"),
    ),
    (
        "Hint: look closely.\nQuestion: Which colour?\nOptions:\nA. red\nB. green\nPlease select the correct answer.",
        "Hint: look closely.\nQuestion: Which colour?\nPlease select the correct answer.",
        ("red", "green"),
    ),
    ("How much? A. 3.5 B. 4.5 C. 5.0", "How much?", ("3.5", "4.5", "5.0")),
    ("What is in the picture? A. A dog B. A cat", "What is in the picture?", ("A dog", "A cat")),
    ("哪种颜色？\nA. 红色\nB. 绿色", "哪种颜色？", ("红色", "绿色")),
]

NO_LISTS = [
    "Which colour is the digit in cell 5?",
    "Who is taller, A. Smith or B. Jones?",
    "Is A larger than B?",
    "What is the distance between car (A) and car (B)?",
    "A. Smith is here. Who is he?",
    "Which colour? A. red",
    "Compare plan A: cheap, with plan C: dear.",
    "",
]


@pytest.mark.parametrize(("text", "kind"), KINDS)
def test_the_kind_follows_from_the_wording(text: str, kind: str) -> None:
    assert guess_kind(text, ()) is AnswerKind(kind)


def test_a_question_with_options_is_a_choice_whatever_its_words() -> None:
    assert guess_kind("How many dogs are there?", ("1", "2")) is AnswerKind.CHOICE


@pytest.mark.parametrize(("text", "stem", "options"), LISTS)
def test_options_in_the_text_are_taken_out_of_it(text: str, stem: str, options: tuple[str, ...]) -> None:
    assert options_in(text) == (stem, options)


@pytest.mark.parametrize("text", NO_LISTS)
def test_a_text_without_a_list_of_options_stays_as_it_is(text: str) -> None:
    assert options_in(text) == (text, ())


NUMBERED = [
    ("Which planet is the largest? 1) Mars 2) Jupiter", "Which planet is the largest?", ("Mars", "Jupiter")),
    ("Which planet is the largest?\n(1) Mars\n(2) Jupiter\n(3) Venus", None, ("Mars", "Jupiter", "Venus")),
    ("Which planet is the largest?\n1. Mars\n2. Jupiter\nAnswer with the number.", None, ("Mars", "Jupiter")),
    ("How many legs has a spider? 1. 6 2. 8 3. 10", "How many legs has a spider?", ("6", "8", "10")),
    ("Choose the correct answer: 1) red 2) blue", None, ("red", "blue")),
    ("Is the sky blue? 1) yes 2) no", "Is the sky blue?", ("yes", "no")),
    ("Which is the largest planet 1) Mars 2) Jupiter", "Which is the largest planet", ("Mars", "Jupiter")),
    ("Which planet is largest: 1) Mars, 2) Jupiter?", "Which planet is largest:", ("Mars", "Jupiter")),
    ("What causes rain? 1) clouds 2) the moon", "What causes rain?", ("clouds", "the moon")),
]
STEPS = [
    "How do I make tea?\n1. Boil water\n2. Add a bag",
    "Is this recipe right?\n1. Boil water\n2. Add a bag",
    "What do you think of my plan? 1) get up 2) go out",
    "What is wrong with these steps?\n1. open the file\n2. delete the file\n3. read it",
    "What is the difference between these? 1) TCP 2) UDP",
    "Can you explain these terms? 1. TCP 2. UDP",
    "Summarise:\n1. The cat sat.\n2. The dog ran.",
    "My list:\n1. milk\n2. eggs\nWhat is missing?",
    "What should we buy? My list:\n1. milk\n2. eggs",
    "Answer both. What is X? 1. How does it work? 2. Why does it work?",
    "Why does 1) fail and 2) pass?",
    "Which of these is wrong? 1) Is it? 2) Was it?",
    "Explain these steps 1) mix 2) bake 3) eat",
    "Which is larger? 1) nine",
    "Which is larger? 1) nine 3) ten",
    "What is 1.5 plus 2.5?",
    "Which version is newer, 1.2 or 2.1?",
    "Which colour? 1) red 2) green\n\nHere is my code:\nx = 1",
]


@pytest.mark.parametrize(("text", "stem", "options"), NUMBERED)
def test_numbered_options_are_options_too(text: str, stem: str | None, options: tuple[str, ...]) -> None:
    found = listed_in(text)
    assert found.options == options
    assert found.labels == tuple(str(index + 1) for index in range(len(options)))
    assert stem is None or found.text == stem


@pytest.mark.parametrize("text", STEPS)
def test_a_numbered_list_that_answers_no_question_is_part_of_the_text(text: str) -> None:
    assert options_in(text) == (text, ())


@pytest.mark.parametrize(
    ("reply", "options", "picked"),
    [
        ("2", ("Mars", "Jupiter"), "B"),
        ("2)", ("Mars", "Jupiter"), "B"),
        ("(2) Jupiter", ("Mars", "Jupiter"), "B"),
        ("2. Jupiter", ("Mars", "Jupiter"), "B"),
        ("The answer is 2.", ("Mars", "Jupiter"), "B"),
        ("Option 2 is correct.", ("Mars", "Jupiter"), "B"),
        ("B", ("Mars", "Jupiter"), "B"),
        ("Jupiter", ("Mars", "Jupiter"), "B"),
        ("3", ("Mars", "Jupiter"), None),
        ("2. Mars", ("Mars", "Jupiter"), "A"),
        ("2", ("2", "4"), "A"),
        ("2", ("6", "8"), "B"),
        ("8", ("6", "8"), "B"),
    ],
)
def test_a_reply_can_be_the_number_of_an_option(reply: str, options: tuple[str, ...], picked: str | None) -> None:
    question = Question("Which?", options=options, kind=AnswerKind.CHOICE, labels=("1", "2"))
    assert extract(reply, question).value == picked


def test_without_numbered_options_a_number_picks_nothing() -> None:
    assert not extract("2", Question("Which?", options=("Mars", "Jupiter"), kind=AnswerKind.CHOICE)).parsed
