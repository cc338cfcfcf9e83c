"""The conclusion at the end of a reasoning."""

import pytest

from cuecard.answers.text.statements import conclusion


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Two bars.\nAnswer: 6", "6"),
        ("**Answer:** 6", "6"),
        ("Two bars.\nFinal answer: 6.", "6"),
        ("Two bars.\n\n**Final Answer**\n\n6 km", "6 km"),
        ("Two bars.\n\n### Answer\n6", "6"),
        ("So\n\\[\n\\boxed{6}\n\\]", "6"),
        ("Therefore the total is \\( \\boxed{6} \\).", "6"),
        ("It is \\boxed{\\text{B}}", "B"),
        ("The final answer is 6.", "6"),
        ("So the answer is **6**.", "6"),
        ("The answer is $6$.", "6"),
        ("Two rows of 3.\nTherefore, there are 6 apples.", "Therefore, there are 6 apples."),
        ("Two rows of 3. In conclusion, it is a rectangle.", "In conclusion, it is a rectangle."),
        ("Thus, the total is 6.\n\nI hope this helps!", "Thus, the total is 6."),
        ("The answer is 5. Wait, no. So the answer is 6.", "6"),
    ],
)
def test_the_end_of_a_text_gives_its_conclusion(text: str, expected: str) -> None:
    assert conclusion(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Two bars.",
        "Two bars.\nSo it is 12.\nAnd",
        "The answer is 5. Wait, no. Let me count again.",
        "The answer is not clear.",
        "Therefore, I cannot determine the total.",
        "The answer is 5.\nOne.\nTwo.\nThree.\nFour.",
        "Therefore, " + "it goes on and on " * 40,
        "**Final Answer**",
    ],
)
def test_a_text_without_a_conclusion_gives_none(text: str) -> None:
    assert conclusion(text) is None
