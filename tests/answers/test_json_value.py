"""JSON in replies."""

from __future__ import annotations

import json

import pytest

from cuecard.answers import extract
from cuecard.domain.question import AnswerKind, Question

ASKED = Question("Which numbers?", kind=AnswerKind.JSON)


@pytest.mark.parametrize(
    ("reply", "value"),
    [
        ("[4, 6]", [4, 6]),
        ("```json\n[4, 6]\n```", [4, 6]),
        ("These are [4, 6].", [4, 6]),
        ("The answer:\n```json\n[4, 6]\n```\nAs JSON:\n```json\n[4,6]\n```", [4, 6]),
        ("In {braces}: [4, 6]", [4, 6]),
        ("Either [4] or [6].", None),
        ("```json\n[4]\n```\nor\n```json\n[6]\n```", None),
        ('{"total": 3 * 2.50, "items": [4, 6]}', None),
        ('```json\n{"total": 3 * 2.50, "items": [4, 6]}\n```', None),
        ('{"total": 3 * 2.50, "items": [4, 6]}, so: {"total": 7.5}', {"total": 7.5}),
    ],
)
def test_the_only_json_value_of_a_reply_is_found_and_no_part_of_a_broken_one(reply: str, value: object) -> None:
    found = extract(reply, ASKED)
    assert (json.loads(str(found.value)) if found.parsed else None) == value
