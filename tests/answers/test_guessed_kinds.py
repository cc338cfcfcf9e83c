"""The kind of answer, guessed for questions that people type; free text unless another kind is certain."""

from __future__ import annotations

import pytest

from cuecard.answers import guess_kind
from cuecard.domain.question import AnswerKind

NUMBER = """
What is the difference between 12 and 7?
what's the difference between the highest and the lowest bar?
What is the average lifespan of a house cat?
What is the mean of 3, 5 and 10?
what is 15% of 80
What is 3 + 4 * 2?
whats 17 times 23
What is the square root of 144?
What is the value of x if 2x + 3 = 11?
What is the area of the shaded triangle?
What is the perimeter of a square with a side of 5 cm?
What is the population of France?
What is the boiling point of water in Celsius?
What is the speed of light in km/s?
What is the price of the burger?
How many people are in the photo?
how many r's in strawberry
I have 3 apples and buy 5 more, how many do I have?
How much does the cheapest pizza cost?
How much is 5 kg in pounds?
How old is Joe Biden?
How tall is the Eiffel Tower?
How far is it from Berlin to Munich?
How long is the Nile?
What year did the Berlin Wall fall?
What percentage of the pie is blue?
Calculate 12 * (3 + 4).
A train travels 60 km in 1.5 hours. What is its average speed?
Multiply 12 by 7.
Wie viele Äpfel liegen auf dem Tisch?
How many JSON files are in the folder?
Combien de chats y a-t-il ?
这张图里有几只猫？
"""
YES_NO = """
Is there a dog in the picture?
is 91 a prime number?
Does the sign say stop?
Are the two triangles congruent?
Was Einstein born in Germany?
Can penguins fly?
True or false: the earth is flat.
Ist das ein Hund?
这是红色的吗？
"""
SHORT_TEXT = """
What colour is the car?
What is the capital of Australia?
Who painted the Mona Lisa?
Where is the Eiffel Tower?
When did World War II end?
Which planet is the largest?
What does the sign say?
Is the light red or green?
What kind of animal is this?
"""
FREE_TEXT = """
What is the difference between TCP and UDP?
How many planets are there, and name them.
How many planets are there, and list them?
What is 17 times 23, and explain your steps.
What number comes after ten, in German?
What is the difference between a list and a tuple in Python?
whats the difference between affect and effect
What is the area of expertise of the author?
What is the area of the brain that controls speech?
What is the value of friendship?
What is the price of freedom?
What is the cost of living in Berlin?
What is the mode of transport in the picture?
What is the average person like?
What is the number one cause of death and why?
What is 5G?
What is 3D printing?
What's 9/11?
How much do you know about Kant?
How much does sleep matter for learning?
How long does it take to learn Japanese?
How long is it safe to keep cooked rice?
How deep is your love?
How far is too far?
How do I undo the last commit?
How many planets are there and what are they called?
What is a closure? How many kinds are there?
What happens if I change how many workers I use?
Why does it matter how many layers a network has?
Add a docstring to this function.
Evaluate my essay.
Sum up this article.
Estimate the impact of inflation on savings.
Refactor this:\\ncount = 0\\nfor x in xs: count += x
Write a function that returns true or false.
Write a Python function that reverses a string.
Can you recommend a good book?
Could you fix this code?
Do you have any tips for a job interview?
Is there a way to undo a commit in git?
Should I learn Rust or Go?
Is it better to rent or to buy?
Is this correct? If not, fix it.
Is 17 prime? Show your work.
When I run this code I get an error
When should I use a tuple?
Where do I find the settings?
Who was Napoleon?
What causes rain?
What caused the First World War?
In what ways do cats differ from dogs?
Which programming language should I learn first?
What is the time complexity of quicksort?
What is 7 times 8? Answer as JSON: {"value": …}
How many red digits are there? Return a JSON object with the key count.
What is 7 times 8?\\n\\nHere's a JSON schema to follow:\\n{"type": "object"}\\n\\nOutput a valid JSON object.
How many cats are there?\\nReturn the correct JSON response within a ```json codeblock.
Is the light red? Respond in valid JSON.
What is the language server protocol?
What does the research say about coffee?
Read the following text and summarise it.
Identify the bugs in this code.
Briefly explain recursion.
What a beautiful day!
Tell me a joke
fix this pls
Es gibt einen Fehler in meinem Code.
Es gibt ein Problem mit meinem Code, was soll ich tun?
Was siehst du auf dem Bild?
What is the weight of history?
What is the depth of field?
Was ist der Unterschied zwischen TCP und UDP?
Welche Vorteile hat Rust gegenüber C?
Quelle est la différence entre TCP et UDP ?
Est-ce que tu peux m'expliquer la récursivité ?
TCP和UDP有什么区别？
为什么天空是蓝色的？
"""


def lines(text: str, kind: AnswerKind) -> list[tuple[str, AnswerKind]]:
    return [(line.replace("\\n", "\n"), kind) for line in text.strip().splitlines()]


QUESTIONS = [
    *lines(NUMBER, AnswerKind.NUMBER),
    *lines(YES_NO, AnswerKind.YES_NO),
    *lines(SHORT_TEXT, AnswerKind.SHORT_TEXT),
    *lines(FREE_TEXT, AnswerKind.FREE_TEXT),
]


@pytest.mark.parametrize(("text", "kind"), QUESTIONS)
def test_a_kind_is_guessed_only_where_it_is_sure(text: str, kind: AnswerKind) -> None:
    assert guess_kind(text) is kind
